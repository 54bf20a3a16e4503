//! The little HTTP client of the commands.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Response, Uri, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore},
};

/// The address of a gateway when none is given.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Sends one request on a connection of its own. `path` is appended to `base`.
pub(super) async fn send(
    base: &str,
    path: &str,
    request: http::request::Builder,
    body: Bytes,
) -> anyhow::Result<Response<Incoming>> {
    let url: Uri = format!("{}{path}", base.trim_end_matches('/'))
        .parse()
        .with_context(|| format!("{base} is no URL"))?;
    let secure = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!("{base}: only http:// and https:// are supported"),
    };
    let authority = url
        .authority()
        .with_context(|| format!("{base} names no host"))?
        .clone();
    let address = (
        authority.host().trim_matches(['[', ']']).to_owned(),
        authority
            .port_u16()
            .unwrap_or(if secure { 443 } else { 80 }),
    );
    let socket = TcpStream::connect(&address)
        .await
        .with_context(|| format!("cannot reach {authority}"))?;
    let mut sender = if secure {
        let name = ServerName::try_from(address.0)?;
        let shaking = connector()?.connect(name, socket);
        let stream = shaking
            .await
            .with_context(|| format!("{authority} could not be trusted"))?;
        speak(stream).await?
    } else {
        speak(socket).await?
    };
    let target = url
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let request: Request<Full<Bytes>> = request
        .uri(target)
        .header(HOST, authority.as_str())
        .body(Full::new(body))?;
    sender
        .send_request(request)
        .await
        .with_context(|| format!("{authority} did not answer"))
}

async fn speak<S>(socket: S) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Trusts whom this machine trusts; `SSL_CERT_FILE` names others.
fn connector() -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        bail!("no root certificates were found on this machine: name a file in SSL_CERT_FILE");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The whole body of a response as text.
pub(super) async fn text(response: Response<Incoming>) -> anyhow::Result<String> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A value of a query, percent-encoded.
pub(super) fn encode(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    value
        .bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Runs a command's future.
pub(super) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}
