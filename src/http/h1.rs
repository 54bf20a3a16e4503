//! HTTP/1.1, and the moment in which a stream leaves it.
//!
//! # Takeover
//! The service runs the whole stack. When the response is a stream and the request an ordinary HTTP/1.1 `GET`, it goes to
//! the connection's task instead of back to the HTTP library; the task takes the socket out of the library, writes the head
//! itself and gives both to a [`super::writer::StreamWriter`]. The library holds 16 KiB of buffers for a connection, the
//! writer none. HTTP/2 and HTTP/1.0 streams stay where they are: the same stream as an ordinary body.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    HeaderName, Method, Request, Response, StatusCode, Version,
    header::{DATE, EXPECT, TRANSFER_ENCODING, UPGRADE},
};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{
    activity::Tracked,
    body::Body,
    h2::patience,
    malformed::{Answering, Worded, last_words, refusal},
    patience::Patient,
    problem::{Code, Problem},
    server::{HEADER_BYTES, Peer, Session, URL_BYTES},
    sse::SseStream,
    ws::{Accepted, handshake},
};

/// What a connection goes on with when it has left the HTTP library.
pub(super) enum Goes {
    /// Server-sent events.
    Sse(Box<SseStream>),
    /// A WebSocket.
    WebSocket(Box<Accepted>),
}

/// A socket that has left the HTTP library.
pub(super) struct Taken<S> {
    pub(super) socket: S,
    /// What the library has read of what comes after the request.
    pub(super) early: Bytes,
    /// The head of the response, which is yet to be written.
    pub(super) head: Vec<u8>,
    pub(super) goes: Goes,
}

/// Serves HTTP/1 until the connection ends, or until it has become a stream.
pub(super) async fn serve<S>(session: Session, socket: S) -> Option<Taken<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Session { app, address, .. } = session.clone();
    let (takeover, mut taken) = oneshot::channel::<(Response<()>, Goes)>();
    let takeover = Arc::new(parking_lot::Mutex::new(Some(takeover)));
    let answering = Answering::default();
    let socket = Worded::new(
        Patient::new(TokioIo::new(socket), patience(&app.config())),
        app.clone(),
        address,
        answering.clone(),
    );
    let kill = session.kill.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let (stack, takeover) = (session.stack.clone(), takeover.clone());
        let answering = answering.clone();
        let exchange = session.activity.begin();
        let ordinary = is_ordinary(&request);
        request.extensions_mut().insert(Peer {
            address,
            secure: session.secure,
            kill: (!ordinary).then(|| session.kill.clone()),
        });
        // Boxed, because the connection has to be `Unpin` to give its socket up.
        let response: BoxFuture<'static, Result<Response<Tracked>, Infallible>> =
            Box::pin(async move {
                let response = super::serve(stack, request).await;
                answering.store(true, Ordering::Relaxed);
                let (parts, body) = response.into_parts();
                let goes = match body {
                    Body::Stream(stream) if ordinary => Goes::Sse(stream),
                    Body::WebSocket(accepted) if ordinary => Goes::WebSocket(accepted),
                    body => {
                        let body = Tracked::new(body, exchange);
                        return Ok(Response::from_parts(parts, body));
                    }
                };
                if let Some(takeover) = takeover.lock().take() {
                    let _ = takeover.send((Response::from_parts(parts, ()), goes));
                }
                // The connection's task drops this future together with the connection.
                std::future::pending().await
            });
        response
    });
    let timeout = app.config().server.header_timeout;
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(2 * (HEADER_BYTES + URL_BYTES))
        .serve_connection(socket, service)
        .with_upgrades();
    let mut closing = pin!(app.closing.cancelled());
    let mut killed = pin!(kill.cancelled());
    let mut asked_to_end = false;
    loop {
        tokio::select! {
            biased;
            Ok((response, goes)) = &mut taken => {
                let parts = connection.into_parts()?;
                return Some(Taken {
                    socket: parts.io.into_inner().into_inner().into_inner(),
                    early: parts.read_buf,
                    head: head(&response),
                    goes,
                });
            }
            ended = &mut connection => {
                let Err(error) = ended else { return None };
                tracing::debug!(%error, "connection ended");
                let parts = connection.into_parts()?;
                let socket = parts.io.into_inner();
                // Who has begun to ask is told; an idle connection just ends, and so does one on which an answer is stuck:
                // what is said now would be taken for the rest of it.
                if error.is_timeout() && !parts.read_buf.is_empty() && !socket.is_waiting() {
                    let detail = format!("the head of the request was not complete within {timeout:?}");
                    let refusal = refusal(&app, address, &Problem::new(Code::RequestTimeout, detail));
                    last_words(socket.into_inner().into_inner(), &refusal).await;
                }
                return None;
            }
            () = &mut killed => return None,
            () = &mut closing, if !asked_to_end => {
                asked_to_end = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

/// Whether the socket is free once this request has been answered.
fn is_ordinary(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
        && !request.headers().contains_key(EXPECT)
        && (!request.headers().contains_key(UPGRADE)
            || handshake::is_wanted(request.version(), request.headers()))
}

/// The head of a response as bytes: with chunks to follow, or another protocol.
fn head(response: &Response<()>) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    head.extend_from_slice(if switches {
        b"HTTP/1.1 101 Switching Protocols\r\n"
    } else {
        b"HTTP/1.1 200 OK\r\n"
    });
    let line = |head: &mut Vec<u8>, name: &HeaderName, value: &[u8]| {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    for (name, value) in response.headers() {
        line(&mut head, name, value.as_bytes());
    }
    if !switches {
        line(&mut head, &TRANSFER_ENCODING, b"chunked");
    }
    line(&mut head, &DATE, http_date().as_bytes());
    head.extend_from_slice(b"\r\n");
    head
}

/// The date of a response (RFC 9110, 5.6.7).
fn http_date() -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now())
}
