//! The little HTTP client of the commands.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Response, Uri, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

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
    if url.scheme_str() != Some("http") {
        bail!("{base}: only http:// is supported");
    }
    let authority = url
        .authority()
        .with_context(|| format!("{base} names no host"))?
        .clone();
    let address = (
        authority.host().trim_matches(['[', ']']).to_owned(),
        authority.port_u16().unwrap_or(80),
    );
    let socket = TcpStream::connect(&address)
        .await
        .with_context(|| format!("cannot reach {authority}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
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
