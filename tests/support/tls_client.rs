//! An authority that signs certificates, and a client that trusts it alone.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    Connect, TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        version::{TLS12, TLS13},
    },
};

use super::{Connection, Request, Response, Subscriber, http::narrow, within};

/// Files of a certificate for 127.0.0.1 and its key.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    /// The certificate itself.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).unwrap()
    }
}

/// Signs certificates.
pub(crate) struct Authority {
    home: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let home = TempDir::new().unwrap();
        openssl(
            home.path(),
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE",
        );
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\n";
        std::fs::write(home.path().join("names"), names).unwrap();
        Self { home }
    }

    /// A new certificate, in files of this name.
    pub(crate) fn issue(&self, name: &str) -> Pair {
        let home = self.home.path();
        openssl(
            home,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ),
        );
        openssl(
            home,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
            ),
        );
        Pair {
            certificate: home.join(format!("{name}.pem")),
            key: home.join(format!("{name}.key")),
        }
    }

    /// The certificate that everything rests on.
    pub(crate) fn file(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// A client that trusts this authority, and offers `protocols`.
    pub(crate) fn client(&self, address: SocketAddr, protocols: &[&str]) -> TlsClient {
        self.client_of(address, protocols, &[&TLS13, &TLS12])
    }

    /// The same with these versions of TLS.
    pub(crate) fn client_of(
        &self,
        address: SocketAddr,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsClient {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.file());
        roots.add(authority.unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        TlsClient {
            config: Arc::new(config),
            address,
        }
    }
}

/// Connects with TLS.
#[derive(Clone)]
pub(crate) struct TlsClient {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl TlsClient {
    /// Shakes hands.
    pub(crate) async fn shake(&self) -> TlsStream<TcpStream> {
        let connecting = TcpStream::connect(self.address);
        let socket = within(format!("{} to accept", self.address), connecting).await;
        self.shake_on(socket.unwrap()).await
    }

    /// The same, however long it takes.
    pub(crate) async fn shake_patiently(&self) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        self.shaking(socket).await.unwrap()
    }

    async fn shake_on(&self, socket: TcpStream) -> TlsStream<TcpStream> {
        within("a TLS handshake", self.shaking(socket))
            .await
            .unwrap()
    }

    fn shaking(&self, socket: TcpStream) -> Connect<TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.config.clone()).connect(name, socket)
    }

    /// A connection of which nobody need know that it is encrypted.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::over(self.shake().await, self.address)
    }

    /// The same with little room for what is not read.
    pub(crate) async fn connect_narrow(&self) -> Connection {
        let stream = self.shake_on(narrow(self.address).await).await;
        Connection::over(stream, self.address)
    }

    /// Sends a request on a connection of its own.
    pub(crate) async fn ask(&self, request: &Request) -> Response {
        self.connect().await.ask(request).await
    }

    /// Follows topics.
    pub(crate) async fn events(&self, query: &str, cursor: Option<&str>) -> Subscriber {
        let mut request = Request::get(&format!("/events?{query}"));
        if let Some(cursor) = cursor {
            request = request.header("Last-Event-ID", cursor);
        }
        let mut connection = self.connect().await;
        connection.send(request.bytes(self.address)).await;
        Subscriber::begin(connection).await
    }

    /// The certificate that the gateway shows.
    pub(crate) async fn certificate(&self) -> CertificateDer<'static> {
        let stream = self.shake().await;
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        chain[0].clone().into_owned()
    }

    /// The first message of a handshake, for somebody who will not go on.
    pub(crate) fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(self.config.clone(), name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        hello
    }
}

fn openssl(home: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command
        .args(arguments.split(' '))
        .current_dir(home)
        .output();
    let output = output.unwrap_or_else(|error| panic!("openssl, which the test needs: {error}"));
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
