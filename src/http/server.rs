//! Listeners and connections: cleartext HTTP/1.1 and HTTP/2 (h2c), and the moment in which a stream leaves them.
//!
//! # Takeover
//! The service runs the whole stack. When the response is a stream and the request an ordinary HTTP/1.1 `GET`, it goes to
//! the connection's task instead of back to the HTTP library; the task takes the socket out of the library, writes the head
//! itself and gives both to a [`StreamWriter`]. The library holds 16 KiB of buffers for a connection, the writer none.
//! HTTP/2 and HTTP/1.0 streams stay where they are: the same stream as an ordinary body.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either, select};
use http::{
    HeaderName, Method, Request, Response, Version,
    header::{CONNECTION, DATE, EXPECT, TRANSFER_ENCODING, UPGRADE},
};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Listener, Stack,
    alarm::Alarms,
    app::App,
    body::Body,
    malformed::{Answering, Worded},
    stream::EventStream,
    streams::StreamHandle,
    writer::StreamWriter,
};
use crate::telemetry::CloseReason;

/// What the header fields of a request may take together.
pub(crate) const HEADER_BYTES: usize = 16 * 1024;
/// What its path and query may take: a hundred topics of the greatest length.
pub(crate) const URL_BYTES: usize = 32 * 1024;
/// The first bytes of HTTP/2 with prior knowledge (RFC 9113, 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// What a connection brings to each of its requests.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Ends the connection; none where a stream will own its socket.
    pub(crate) kill: Option<CancellationToken>,
}

/// Opens a listener. Its connections inherit the options that find half-open peers: the kernel asks after a minute of
/// silence, and gives unacknowledged bytes up some time after `write_timeout`.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr, write_timeout: Duration) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true)?;
    options.set_tcp_keepalive(&keepalive)?;
    options.set_tcp_user_timeout(Some(write_timeout + Duration::from_secs(15)))?;
    socket.bind(address)?;
    // The kernel cuts this to net.core.somaxconn; a storm of reconnects needs room.
    socket.listen(4096)
}

/// Accepts connections until `stop`; they live on in `connections`.
pub async fn accept(
    app: Arc<App>,
    listener: TcpListener,
    kind: Listener,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let stack = super::stack(&app, kind);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                // Boxed, so that the task is as small as a pointer once it has become a stream.
                connections.spawn(Box::pin(connection(
                    app.clone(),
                    stack.clone(),
                    socket,
                    address,
                    connections.clone(),
                )) as BoxFuture<'static, ()>);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                // Mostly: no file descriptor is free. Trying again at once would only burn the core.
                tracing::warn!(%error, listener = kind.as_str(), "cannot accept connections for a moment");
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    app: Arc<App>,
    stack: Stack,
    socket: TcpStream,
    address: SocketAddr,
    connections: TaskTracker,
) {
    let counted = CountedConnection::new(app.clone());
    let timeout = app.config().server.header_timeout;
    let first = tokio::select! {
        first = time::timeout(timeout, speaks_h2(&socket)) => first,
        // Whoever has not said anything until the end of a drain has nothing to wait for.
        () = app.closing.cancelled() => return,
    };
    match first {
        Ok(Ok(true)) => h2(&app, stack, socket, address).await,
        Ok(Ok(false)) => {
            if let Some((socket, stream, head)) = h1(&app, stack, socket, address).await {
                connections.spawn(StreamWriter::new(socket, *stream, head, counted));
            }
        }
        // Nothing was sent, or not in time: there is nobody to answer.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// An open TCP connection, for the gauge.
pub struct CountedConnection(Arc<App>);

impl CountedConnection {
    fn new(app: Arc<App>) -> Self {
        app.metrics.tcp_connections.inc();
        Self(app)
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.metrics.tcp_connections.dec();
    }
}

/// Whether the first bytes are those of HTTP/2. They stay in the socket.
async fn speaks_h2(socket: &TcpStream) -> io::Result<bool> {
    let mut start = [0; H2_PREFACE.len()];
    loop {
        let count = socket.peek(&mut start).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !H2_PREFACE.starts_with(&start[..count]) {
            return Ok(false);
        }
        if count == H2_PREFACE.len() {
            return Ok(true);
        }
        // A few bytes that may become either; peeking would find the same ones at once.
        time::sleep(Duration::from_millis(5)).await;
    }
}

/// What leaves the HTTP library.
type Takeover = (Response<()>, Box<EventStream>);

/// Serves HTTP/1 until the connection ends, or until it has become a stream.
async fn h1(
    app: &Arc<App>,
    stack: Stack,
    socket: TcpStream,
    address: SocketAddr,
) -> Option<(TcpStream, Box<EventStream>, Vec<u8>)> {
    let (takeover, taken) = oneshot::channel::<Takeover>();
    let takeover = Arc::new(parking_lot::Mutex::new(Some(takeover)));
    // One token to wait for: cancelled with all others when connections shall end, or alone for this one.
    let ending = app.closing.child_token();
    let token = ending.clone();
    let answering = Answering::default();
    let socket = Worded::new(
        TokioIo::new(socket),
        app.clone(),
        address,
        answering.clone(),
    );
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let (stack, takeover) = (stack.clone(), takeover.clone());
        let answering = answering.clone();
        let ordinary = is_ordinary(&request);
        let kill = (!ordinary).then(|| token.clone());
        request.extensions_mut().insert(Peer { address, kill });
        // Boxed, because the connection has to be `Unpin` to give its socket up.
        let response: BoxFuture<'static, Result<Response<Body>, std::convert::Infallible>> =
            Box::pin(async move {
                let response = super::serve(stack, request).await;
                answering.store(true, Ordering::Relaxed);
                if !ordinary || !matches!(response.body(), Body::Stream(_)) {
                    return Ok(response);
                }
                let (parts, Body::Stream(stream)) = response.into_parts() else {
                    unreachable!("it was a stream a line ago")
                };
                if let Some(takeover) = takeover.lock().take() {
                    let _ = takeover.send((Response::from_parts(parts, ()), stream));
                }
                // The connection's task drops this future together with the connection.
                std::future::pending().await
            });
        response
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config().server.header_timeout)
        .max_buf_size(2 * (HEADER_BYTES + URL_BYTES))
        .serve_connection(socket, service)
        .with_upgrades();
    let mut ended_from_outside = pin!(ending.cancelled());
    let mut taken = taken;
    let mut asked_to_end = false;
    loop {
        tokio::select! {
            biased;
            Ok((response, stream)) = &mut taken => {
                let parts = connection.into_parts()?;
                return Some((parts.io.into_inner().into_inner(), stream, head(&response)));
            }
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return None;
            }
            () = &mut ended_from_outside, if !asked_to_end => {
                if !app.closing.is_cancelled() {
                    return None;
                }
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
        && !request.headers().contains_key(UPGRADE)
}

/// The head of a response as bytes, with chunks to follow.
fn head(response: &Response<()>) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    let line = |head: &mut Vec<u8>, name: &HeaderName, value: &[u8]| {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    for (name, value) in response.headers() {
        line(&mut head, name, value.as_bytes());
    }
    line(&mut head, &TRANSFER_ENCODING, b"chunked");
    line(&mut head, &DATE, http_date().as_bytes());
    head.extend_from_slice(b"\r\n");
    head
}

/// The date of a response (RFC 9110, 5.6.7).
fn http_date() -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now())
}

/// Serves HTTP/2 until the connection ends.
async fn h2(app: &Arc<App>, stack: Stack, socket: TcpStream, address: SocketAddr) {
    let kill = CancellationToken::new();
    let token = kill.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let stack = stack.clone();
        let kill = Some(token.clone());
        request.extensions_mut().insert(Peer { address, kill });
        async move {
            let mut response = super::serve(stack, request).await;
            // HTTP/2 has no such header (RFC 9113, 8.2.2).
            response.headers_mut().remove(CONNECTION);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .max_concurrent_streams(200)
            .max_send_buf_size(64 * 1024)
            .max_header_list_size(u32::try_from(HEADER_BYTES + URL_BYTES).unwrap_or(u32::MAX))
            .serve_connection(TokioIo::new(socket), service)
    );
    // A client is told early that this connection takes no new streams, so that it looks for another replica; one that comes
    // during the drain is still served, because it may publish.
    let leave = if app.draining.is_cancelled() {
        &app.closing
    } else {
        &app.draining
    };
    let closing = pin!(leave.cancelled());
    let mut killed = pin!(kill.cancelled());
    if let Either::Right(_) = select(closing, select(connection.as_mut(), killed.as_mut())).await {
        return;
    }
    connection.as_mut().graceful_shutdown();
    select(connection, killed).await;
}

/// Ends streams whose body an HTTP library does not ask for more: their reader does not read. Never returns.
///
/// The library lets nobody reset one stream of an HTTP/2 connection, so the connection is closed when all its streams are
/// stuck; one that has neighbours is asked to end, and costs its send buffer until then.
pub async fn watch(app: Arc<App>) {
    let mut look = time::interval(Duration::from_millis(500));
    look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    // A body that is not blocked is asked at least at each keepalive.
    let patience = app
        .config()
        .stream
        .write_timeout
        .max(app.config().stream.keepalive * 2);
    let patience = u64::from(Alarms::ticks(patience));
    loop {
        look.tick().await;
        let now = app.alarms.now();
        let mut connections: HashMap<SocketAddr, (Vec<Arc<StreamHandle>>, bool)> = HashMap::new();
        let handles = app.streams.handles();
        for handle in handles
            .into_iter()
            .filter(|handle| !handle.owned.load(Ordering::Relaxed))
        {
            let asked = handle.polled_at.load(Ordering::Relaxed);
            let stuck = asked != u64::MAX && now >= asked + patience;
            let (streams, all_stuck) = connections
                .entry(handle.request.peer)
                .or_insert((Vec::new(), true));
            *all_stuck &= stuck;
            if stuck {
                streams.push(handle);
            }
        }
        for (stuck, all_stuck) in connections.into_values() {
            for handle in stuck {
                app.streams.close(&handle, CloseReason::Stuck);
                if let Some(kill) = handle.kill.as_ref().filter(|_| all_stuck) {
                    kill.cancel();
                }
            }
        }
    }
}
