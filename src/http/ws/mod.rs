//! `GET /ws`: the stream over WebSocket (RFC 6455), where the client may also subscribe, unsubscribe and publish.
//!
//! ```text
//! handshake ─► subscription (as for /events) ─► socket taken over ─► session: requests in, stream out
//! ```
//!
//! A temporary refusal, and one for want of credentials or rights, comes over the WebSocket as well, with a close code: a
//! page cannot see the status of a handshake that failed.

mod encode;
pub mod handshake;
mod joining;
pub mod message;
mod session;
pub mod socket;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Response, StatusCode, request::Parts};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    Caller,
    app::App,
    body::Body,
    problem::{Code, Problem},
    query::Query,
    sockets::CountedConnection,
    stream::EventStream,
    streams::Transport,
    subscription::Asked,
    writer::LINGER,
};
use handshake::Accept;
use session::Session;
use socket::Limits;

/// Options of `/events` that say how frames are written.
const MEANINGLESS: [&str; 4] = ["heartbeat", "envelope", "control", "retry"];

/// What an accepted WebSocket goes on with.
pub enum Accepted {
    /// A stream, and who asked for it.
    Stream(Box<EventStream>, Box<Caller>),
    /// A refusal.
    Refused(Arc<App>, Box<Problem>),
}

/// Answers the handshake; the stream goes on over the WebSocket.
pub(super) async fn get(
    app: &Arc<App>,
    parts: &Parts,
    caller: &Caller,
) -> Result<Response<Body>, Problem> {
    let accept = handshake::accept(parts.version, &parts.headers)?;
    if caller.kill.is_some() {
        let detail =
            "a WebSocket handshake has no body and does not expect anything (RFC 6455, 4.1)";
        return Err(Problem::new(Code::RequestMalformed, detail));
    }
    let query = Query::parse(parts.uri.query())?;
    if let Some(name) = MEANINGLESS.iter().find(|name| query.first(name).is_some()) {
        let detail = format!("{name}= means nothing over WebSocket, whose messages have one form");
        return Err(Problem::new(Code::QueryInvalid, detail));
    }
    let asked = Asked::read(app, &parts.headers, &query)?;
    let opened = asked.open(app, caller, Some(Transport::WebSocket)).await?;
    let stream = opened
        .stream(app, caller)
        .expect("a WebSocket has a transport, so it has a place");
    let accepted = Accepted::Stream(Box::new(stream), Box::new(caller.clone()));
    Ok(switching(&accept, accepted))
}

/// Refuses over the WebSocket, if a problem is of that kind.
pub(super) fn refuse(app: &Arc<App>, accept: &Accept, problem: &Problem) -> Option<Response<Body>> {
    close_code(problem)?;
    let refused = Accepted::Refused(app.clone(), Box::new(problem.clone()));
    Some(switching(accept, refused))
}

/// The close code of a refusal; none for one that is a status.
fn close_code(problem: &Problem) -> Option<CloseCode> {
    match problem.code {
        Code::Unauthorized => Some(encode::UNAUTHORIZED),
        Code::Forbidden => Some(CloseCode::Policy),
        _ => problem.is_temporary().then_some(CloseCode::Again),
    }
}

fn switching(accept: &Accept, accepted: Accepted) -> Response<Body> {
    let mut response = Response::new(Body::WebSocket(Box::new(accepted)));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    accept.write(response.headers_mut());
    response
}

/// Speaks over a socket that has been taken from the HTTP library, beginning with `head`; `early` is what the client sent
/// before it.
pub(super) async fn run<S>(
    mut io: S,
    early: Bytes,
    head: Vec<u8>,
    accepted: Accepted,
    connection: CountedConnection,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Counts as open until the last byte is out.
    let _connection = connection;
    let app = match &accepted {
        Accepted::Stream(stream, _) => stream.app().clone(),
        Accepted::Refused(app, _) => app.clone(),
    };
    let config = app.config();
    let limits = Limits::of(&config.limits);
    let begun = timeout(config.server.header_timeout, io.write_all(&head)).await;
    drop((config, head));
    if !matches!(begun, Ok(Ok(()))) {
        return;
    }
    let mut socket = socket::server(io, early, limits).await;
    match accepted {
        Accepted::Stream(stream, caller) => Session::new(socket, *stream, *caller).await,
        Accepted::Refused(_, problem) => {
            let said = async {
                let error = encode::error(None, &problem);
                socket.feed(Message::text(error)).await.ok()?;
                let close = CloseFrame {
                    code: close_code(&problem)?,
                    reason: problem.code.as_str().into(),
                };
                socket.send(Message::Close(Some(close))).await.ok()?;
                while let Some(Ok(_)) = socket.next().await {}
                socket.get_mut().shutdown().await.ok()
            };
            // It has a moment to hear why.
            let _ = timeout(LINGER, said).await;
        }
    }
}
