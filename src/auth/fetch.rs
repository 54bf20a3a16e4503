//! How a set of keys is fetched: one GET, nothing followed, nothing kept open, an end to time and size.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header::ACCEPT};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// From the first byte of the request to the last one of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A set of keys is a few thousand bytes long.
const MAX_BYTES: usize = 256 * 1024;

/// Why a set of keys was not had.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the request failed")]
    Request(#[source] hyper_util::client::legacy::Error),
    #[error("there was no whole answer within 5s")]
    Timeout,
    #[error("the answer was {0}, 200 was expected (redirects are not followed)")]
    Status(StatusCode),
    #[error("the answer is longer than 262144 bytes")]
    TooLong,
    #[error("the answer broke off")]
    Body(#[source] Box<dyn Error + Send + Sync>),
    #[error("the answer is no set of keys: {{\"keys\": [...]}} was expected")]
    NoSet(#[source] serde_json::Error),
}

/// Why a URL cannot be one of a set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum UrlError {
    #[error("is no URL: https://host/path was expected")]
    Malformed,
    #[error("names a user or password, which would be shown in logs and errors")]
    Credentials,
}

/// One URL and what it takes to fetch it.
pub(super) struct Fetch {
    url: Uri,
    host: String,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// Whether a text is a URL that can be fetched.
pub(super) fn url(text: &str) -> Result<Uri, UrlError> {
    let url: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
    let authority = url.authority().ok_or(UrlError::Malformed)?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || authority.host().is_empty() {
        return Err(UrlError::Malformed);
    }
    if authority.as_str().contains('@') {
        return Err(UrlError::Credentials);
    }
    Ok(url)
}

impl Fetch {
    pub(super) fn new(url: Uri) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(TIMEOUT));
        let connector = HttpsConnector::from((http, client_config(&url)));
        let client = Client::builder(TokioExecutor::new())
            // Fetches are minutes apart: each looks up the name anew.
            .pool_max_idle_per_host(0)
            .build(connector);
        let host = url.authority().map_or("", |authority| authority.as_str());
        Self {
            host: host.to_owned(),
            url,
            client,
        }
    }

    /// For the log: the rest of a URL may be secret.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) async fn get(&self) -> Result<Bytes, FetchError> {
        timeout(TIMEOUT, self.ask())
            .await
            .map_err(|_| FetchError::Timeout)?
    }

    async fn ask(&self) -> Result<Bytes, FetchError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.url.clone();
        let accept = http::HeaderValue::from_static("application/jwk-set+json, application/json");
        request.headers_mut().insert(ACCEPT, accept);
        let response = self
            .client
            .request(request)
            .await
            .map_err(FetchError::Request)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLong
            } else {
                FetchError::Body(error)
            }
        })?;
        Ok(body.to_bytes())
    }
}

/// Trusts the authorities of the system, or those that `SSL_CERT_FILE` names in their place.
fn client_config(url: &Uri) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if url.scheme_str() == Some("https") {
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            tracing::warn!(
                errors = ?native.errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "this system trusts no certificate authority, so no certificate of an https URL will be believed"
            );
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)
        .expect("the provider knows the versions of TLS that rustls does");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}
