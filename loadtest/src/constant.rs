//! What a single publish could cost at the least with the same HTTP server: hyper, one thread, a constant answer.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// As long as the gateway's answer to a publish.
const ANSWER: &[u8] = br#"{"id":"1732096800123-0","topic":"t0"}"#;

/// Answers every request until the process is ended.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("no runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        loop {
            let (socket, _) = listener.accept().await.context("cannot accept")?;
            let _without_delay = socket.set_nodelay(true);
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer));
            tokio::spawn(connection);
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // A publish has a body, and no honest server answers before it has read it.
    let _body = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
