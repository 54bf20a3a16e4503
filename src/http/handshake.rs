//! The beginning of a TLS connection: bounded in time, in number, and polite to who speaks without TLS.

use std::{io, time::Duration};

use tokio::{
    net::TcpStream,
    time::{self, Instant},
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};

use super::{
    malformed::{last_words, refusal},
    problem::{Code, Problem},
    server::Session,
    tls::Tls,
    wire::RECORD,
};

/// HTTP/2 by its name in ALPN.
pub(super) const ALPN_H2: &[u8] = b"h2";
/// The first byte of a TLS record that begins a handshake.
const HANDSHAKE: u8 = 0x16;
/// How long a place among the handshakes waits for the client. The work of a handshake is ours and comes first; a client that
/// then says nothing must not keep others from theirs.
const COURTESY: Duration = Duration::from_secs(1);

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    /// The two found no common ground, or what came was no TLS.
    Failed,
    /// It took longer than `server.header_timeout` in all.
    Timeout,
    /// The client went away in the middle.
    Gone,
    /// The client spoke HTTP without TLS.
    Cleartext,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Gone => "gone",
            Self::Cleartext => "cleartext",
        }
    }
}

/// As they stand in metrics.
pub(super) const OUTCOMES: [&str; 5] = [
    Outcome::Ok.as_str(),
    Outcome::Failed.as_str(),
    Outcome::Timeout.as_str(),
    Outcome::Gone.as_str(),
    Outcome::Cleartext.as_str(),
];

/// Makes TLS of a socket; none where there will be none.
pub(super) async fn accept(
    session: &Session,
    tls: &Tls,
    socket: TcpStream,
    deadline: Instant,
) -> Option<TlsStream<TcpStream>> {
    let mut first = [0];
    // Who says nothing has not begun a handshake: balancers look in like this all the time.
    let peeked = time::timeout_at(deadline, socket.peek(&mut first)).await;
    if !matches!(peeked, Ok(Ok(1))) {
        return None;
    }
    if first[0].is_ascii_uppercase() {
        tls.metrics().handshake(Outcome::Cleartext.as_str());
        let detail = "this port speaks TLS: use https://";
        let problem = Problem::new(Code::RequestMalformed, detail);
        let refusal = refusal(&session.app, session.address, &problem);
        last_words(socket, &refusal).await;
        return None;
    }
    if first[0] != HANDSHAKE {
        tls.metrics().handshake(Outcome::Failed.as_str());
        return None;
    }
    let in_flight = tls.metrics().begins_handshake();
    let done = time::timeout_at(deadline, shake(tls, socket)).await;
    drop(in_flight);
    let (outcome, stream) = match done {
        Ok(Ok(stream)) => (Outcome::Ok, Some(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe => (Outcome::Gone, None),
                _ => (Outcome::Failed, None),
            }
        }
        Err(_) => (Outcome::Timeout, None),
    };
    tls.metrics().handshake(outcome.as_str());
    stream
}

async fn shake(tls: &Tls, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    // A client that sends its hello slowly has no place yet, so it takes none from others.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let place = tls.place().await;
    let mut shaking = Box::pin(hello.into_stream_with(tls.current(), |session| {
        session.set_buffer_limit(Some(RECORD));
    }));
    let soon = time::timeout(COURTESY, &mut shaking).await;
    drop(place);
    match soon {
        Ok(done) => done,
        Err(_) => shaking.await,
    }
}
