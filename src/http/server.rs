//! Listeners and connections: who is there, and which HTTP it speaks.
//!
//! What a connection goes through: accept, the handshake where the listener speaks TLS, HTTP/1.1 ([`super::h1`]) or HTTP/2
//! ([`super::h2`]). Each step has a deadline, so that nobody holds a socket by saying little.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{self, Instant},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Listener, Stack,
    activity::Activity,
    app::App,
    h1::{self, Goes, Taken},
    h2,
    handshake::{self, ALPN_H2},
    sockets::{CountedConnection, Sockets},
    tls::Tls,
    wire::TlsWire,
    writer::{self, StreamWriter},
    ws,
};

pub use super::h2::watch;

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
    /// Whether there is TLS between it and us.
    pub(crate) secure: bool,
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
    options.set_tcp_user_timeout(Some(user_timeout(write_timeout)))?;
    socket.bind(address)?;
    // The kernel cuts this to net.core.somaxconn; a storm of reconnects needs room.
    socket.listen(4096)
}

/// The kernel is the more patient one: a reader that does not read is closed by its stream, with a reason.
fn user_timeout(write_timeout: Duration) -> Duration {
    write_timeout + Duration::from_secs(15)
}

/// Accepts connections until `stop`; they live on in `connections`. The public listener speaks TLS where the app has it.
pub async fn accept(
    app: Arc<App>,
    listener: TcpListener,
    kind: Listener,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let public = kind == Listener::Public;
    let stack = super::stack(&app, kind);
    let sockets = Sockets::new(app.clone(), public);
    let tls = app.tls().filter(|_| public).cloned();
    loop {
        let accepted = tokio::select! {
            accepted = async {
                sockets.room().await;
                listener.accept().await
            } => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                let kill = CancellationToken::new();
                let activity = Activity::new(app.clone());
                let counted = sockets.add(activity.clone(), kill.clone());
                let session = Session {
                    app: app.clone(),
                    stack: stack.clone(),
                    address,
                    secure: tls.is_some(),
                    activity,
                    kill,
                };
                // Boxed, so that the task is as small as a pointer once it has become a stream.
                connections.spawn(Box::pin(connection(
                    session,
                    socket,
                    tls.clone(),
                    counted,
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

/// What the steps of a connection share.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) app: Arc<App>,
    pub(super) stack: Stack,
    pub(super) address: SocketAddr,
    pub(super) secure: bool,
    pub(super) activity: Arc<Activity>,
    /// Ends this connection at once.
    pub(super) kill: CancellationToken,
}

async fn connection(
    session: Session,
    socket: TcpStream,
    tls: Option<Arc<Tls>>,
    mut counted: CountedConnection,
    connections: TaskTracker,
) {
    let config = session.app.config();
    // That of the listener is from the start, and the setting may be another by now.
    let _ = SockRef::from(&socket)
        .set_tcp_user_timeout(Some(user_timeout(config.stream.write_timeout)));
    let deadline = Instant::now() + config.server.header_timeout;
    drop(config);
    let begun = tokio::select! {
        begun = begin(&session, socket, tls.as_deref(), deadline) => begun,
        // Whoever has not said anything until the end of a drain has nothing to wait for.
        () = session.app.closing.cancelled() => return,
        () = session.kill.cancelled() => return,
    };
    match begun {
        Some(Begun::H1(socket)) => {
            let Some(taken) = h1::serve(session, socket).await else {
                return;
            };
            counted.becomes_stream();
            let Taken { socket, head, .. } = taken;
            match taken.goes {
                Goes::Sse(stream) => {
                    connections.spawn(StreamWriter::new(socket, *stream, head, counted));
                }
                Goes::WebSocket(accepted) => {
                    writer::limit_send_buffer(&socket);
                    connections.spawn(ws::run(socket, taken.early, head, *accepted, counted));
                }
            }
        }
        Some(Begun::H1Secure(socket)) => {
            let Some(taken) = h1::serve(session, socket).await else {
                return;
            };
            counted.becomes_stream();
            let Taken { socket, head, .. } = taken;
            match taken.goes {
                Goes::Sse(stream) => {
                    let (socket, tls) = socket.into_inner();
                    let wire = TlsWire::new(socket, tls);
                    connections.spawn(StreamWriter::new(wire, *stream, head, counted));
                }
                Goes::WebSocket(accepted) => {
                    writer::limit_send_buffer(socket.get_ref().0);
                    connections.spawn(ws::run(socket, taken.early, head, *accepted, counted));
                }
            }
        }
        Some(Begun::H2(socket)) => h2::serve(session, socket).await,
        Some(Begun::H2Secure(socket)) => h2::serve(session, socket).await,
        None => {}
    }
}

/// A connection of which it is known what it speaks. TLS stays in a box: the task of every connection would be larger by it.
enum Begun {
    H1(TcpStream),
    H2(TcpStream),
    H1Secure(Box<TlsStream<TcpStream>>),
    H2Secure(Box<TlsStream<TcpStream>>),
}

/// Finds out what a connection speaks; none where there is nobody to answer any more.
async fn begin(
    session: &Session,
    socket: TcpStream,
    tls: Option<&Tls>,
    deadline: Instant,
) -> Option<Begun> {
    if let Some(tls) = tls {
        let stream = handshake::accept(session, tls, socket, deadline).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        let stream = Box::new(stream);
        return Some(if h2 {
            Begun::H2Secure(stream)
        } else {
            Begun::H1Secure(stream)
        });
    }
    // Nothing was sent, or not in time: there is nobody to answer.
    let h2 = time::timeout_at(deadline, speaks_h2(&socket))
        .await
        .ok()?
        .ok()?;
    Some(if h2 {
        Begun::H2(socket)
    } else {
        Begun::H1(socket)
    })
}

/// Whether the first bytes are those of HTTP/2. They stay in the socket.
async fn speaks_h2(socket: &TcpStream) -> io::Result<bool> {
    let mut start = [0; H2_PREFACE.len()];
    let mut pause = Duration::from_millis(5);
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
        // A few bytes that may become either. Peeking would find the same ones at once, and a thousand sockets that stop
        // here must not keep a core busy.
        time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}
