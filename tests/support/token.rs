//! Signed tokens as an issuer makes them, and the URL behind which it shows its public keys.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a token says.
#[derive(Clone, Debug)]
pub(crate) struct Claims(Value);

impl Claims {
    /// Of somebody who may do nothing, for an hour.
    pub(crate) fn of(subject: &str) -> Self {
        Self(json!({ "sub": subject, "exp": seconds() + 3_600 }))
    }

    /// May follow these.
    pub(crate) fn subscribe(self, patterns: &[&str]) -> Self {
        self.may("subscribe", patterns)
    }

    /// May publish to these.
    pub(crate) fn publish(self, patterns: &[&str]) -> Self {
        self.may("publish", patterns)
    }

    /// May know who is there of these.
    pub(crate) fn presence(self, patterns: &[&str]) -> Self {
        self.may("presence", patterns)
    }

    fn may(mut self, right: &str, patterns: &[&str]) -> Self {
        self.0["tidegate"][right] = json!(patterns);
        self
    }

    /// Ends when so many seconds are over; may be negative. Counted from the beginning of this second.
    pub(crate) fn expires_in(self, from_now: i64) -> Self {
        self.with("exp", seconds() + from_now)
    }

    /// Says something else.
    pub(crate) fn with(mut self, claim: &str, value: impl Into<Value>) -> Self {
        self.0[claim] = value.into();
        self
    }

    /// Does not say something.
    pub(crate) fn without(mut self, claim: &str) -> Self {
        self.0.as_object_mut().unwrap().remove(claim);
        self
    }

    /// When it ends.
    pub(crate) fn end(&self) -> SystemTime {
        let end = self.0["exp"].as_u64().unwrap();
        UNIX_EPOCH + std::time::Duration::from_secs(end)
    }
}

/// Whole seconds since 1970.
pub(crate) fn seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// A key that signs tokens.
#[derive(Clone)]
pub(crate) struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    id: Option<String>,
    public_pem: String,
    public_jwk: Value,
}

impl Signer {
    /// A secret that both sides have.
    pub(crate) fn hs256(secret: &str) -> Self {
        Self {
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(secret.as_bytes()),
            id: None,
            public_pem: String::new(),
            public_jwk: json!({ "kty": "oct", "alg": "HS256", "k": base64(secret.as_bytes()) }),
        }
    }

    /// A new key pair of RSA.
    pub(crate) fn rs256() -> Self {
        let (private, der, public_pem) = pair(&["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        // Ends with INTEGER n (2048 bits and a zero before them) and INTEGER e (65537).
        let modulus = &der[der.len() - 5 - 256..der.len() - 5];
        Self {
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_pem(&private).unwrap(),
            id: None,
            public_pem,
            public_jwk: json!({ "kty": "RSA", "alg": "RS256", "use": "sig", "n": base64(modulus), "e": "AQAB" }),
        }
    }

    /// A new key pair on P-256.
    pub(crate) fn es256() -> Self {
        let (private, der, public_pem) = pair(&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let (x, y) = der[der.len() - 64..].split_at(32);
        Self {
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_pem(&private).unwrap(),
            id: None,
            public_pem,
            public_jwk: json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "x": base64(x), "y": base64(y) }),
        }
    }

    /// A new key pair of Ed25519.
    pub(crate) fn eddsa() -> Self {
        let (private, der, public_pem) = pair(&["ED25519"]);
        Self {
            algorithm: Algorithm::EdDSA,
            key: EncodingKey::from_ed_pem(&private).unwrap(),
            id: None,
            public_pem,
            public_jwk: json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "x": base64(&der[der.len() - 32..]) }),
        }
    }

    /// Under this name in a set of keys.
    pub(crate) fn named(mut self, id: &str) -> Self {
        self.public_jwk["kid"] = id.into();
        self.id = Some(id.to_owned());
        self
    }

    /// The public key as PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.public_pem
    }

    /// The public key as one of a set (RFC 7517).
    pub(crate) fn jwk(&self) -> Value {
        self.public_jwk.clone()
    }

    /// A token.
    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid.clone_from(&self.id);
        self.sign_as(&header, claims)
    }

    /// A token with another header.
    pub(crate) fn sign_as(&self, header: &Header, claims: &Claims) -> String {
        jsonwebtoken::encode(header, &claims.0, &self.key).unwrap()
    }
}

/// A token whose header and claims are as they are, and whose signature is whatever.
pub(crate) fn unsigned(header: &Value, claims: &Claims, signature: &str) -> String {
    let part = |value: &Value| base64(value.to_string().as_bytes());
    format!("{}.{}.{signature}", part(header), part(&claims.0))
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A private key as PEM, and its public key as DER and as PEM.
fn pair(algorithm: &[&str]) -> (Vec<u8>, Vec<u8>, String) {
    let home = TempDir::new().unwrap();
    let key = home.path().join("key.pem");
    let generate = ["genpkey", "-algorithm"].iter().chain(algorithm);
    openssl(home.path(), generate.chain(&["-out", "key.pem"]));
    let public = ["pkey", "-in", "key.pem", "-pubout"];
    let pem = openssl(home.path(), &public);
    let der = openssl(home.path(), public.iter().chain(&["-outform", "DER"]));
    let private = std::fs::read(key).unwrap();
    (private, der, String::from_utf8(pem).unwrap())
}

fn openssl<'a>(home: &Path, arguments: impl IntoIterator<Item = &'a &'a str>) -> Vec<u8> {
    let run = Command::new("openssl")
        .args(arguments)
        .current_dir(home)
        .output();
    let output = run.expect("there is no openssl: scripts/install-test-tools installs it");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A URL with a set of keys.
pub(crate) struct JwksServer {
    url: String,
    shared: Arc<Shared>,
    _over: DropGuard,
}

struct Shared {
    keys: Mutex<Vec<Value>>,
    away: AtomicBool,
    asked: AtomicU32,
}

impl JwksServer {
    /// Shows the public keys of these.
    pub(crate) async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            keys: Mutex::default(),
            away: AtomicBool::new(false),
            asked: AtomicU32::new(0),
        });
        let over = CancellationToken::new();
        let serving = serve(shared.clone(), listener);
        tokio::spawn(over.clone().run_until_cancelled_owned(serving));
        let server = Self {
            url,
            shared,
            _over: over.drop_guard(),
        };
        server.show(signers);
        server
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Shows these from now on, and no others.
    pub(crate) fn show(&self, signers: &[&Signer]) {
        self.show_as(signers.iter().map(|signer| signer.jwk()).collect());
    }

    /// Shows these members of `keys` from now on.
    pub(crate) fn show_as(&self, keys: Vec<Value>) {
        *self.shared.keys.lock() = keys;
    }

    /// Answers with 503 from now on, or no more.
    pub(crate) fn away(&self, away: bool) {
        self.shared.away.store(away, Ordering::Relaxed);
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> u32 {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        if let Ok((connection, _)) = listener.accept().await {
            shared.asked.fetch_add(1, Ordering::Relaxed);
            // Whoever left without an answer is no concern of ours.
            let _ = answer(&shared, connection).await;
        }
    }
}

async fn answer(shared: &Shared, mut connection: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        if connection.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let keys = json!({ "keys": *shared.keys.lock() }).to_string();
    let (status, body) = if shared.away.load(Ordering::Relaxed) {
        ("503 Service Unavailable", "")
    } else {
        ("200 OK", keys.as_str())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(body.as_bytes()).await?;
    connection.shutdown().await
}
