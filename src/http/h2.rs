//! HTTP/2, over TLS or with prior knowledge: many requests on one connection, and the bounds of each.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{
    Request,
    header::{CONNECTION, UPGRADE},
};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};

use super::{
    activity::{Activity, Tracked},
    alarm::Alarms,
    app::App,
    body::Body,
    patience::Patient,
    server::{HEADER_BYTES, Peer, Session, URL_BYTES},
    streams::StreamHandle,
};
use crate::{config::Config, telemetry::CloseReason};

/// Streams of one connection at the same time.
const STREAMS: u32 = 200;
/// Streams that the peer has reset before we had looked at them; beyond it the connection ends (CVE-2023-44487).
const RESET_STREAMS: usize = 20;
/// Streams that we have reset because the peer broke a rule on them, in the life of a connection; beyond it that ends.
const BROKEN_STREAMS: usize = 128;
/// What the peer may send ahead on one stream, and on all together.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What of one response may wait for the peer to read.
const SEND_BUFFER: usize = 64 * 1024;

/// How long a peer may take nothing before its connection is given up: later than a stream is found to be stuck.
pub(super) fn patience(config: &Config) -> Duration {
    stuck_after(config) * 3 / 2
}

/// After which time without being asked for more the body of a stream is stuck: one that is not is asked at least at each
/// keepalive.
fn stuck_after(config: &Config) -> Duration {
    config.stream.write_timeout.max(config.stream.keepalive * 2)
}

/// Serves HTTP/2 until the connection ends.
pub(super) async fn serve<S>(session: Session, socket: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Session {
        app,
        kill,
        activity,
        ..
    } = session.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let stack = session.stack.clone();
        let mut exchange = session.activity.begin();
        request.extensions_mut().insert(Peer {
            address: session.address,
            secure: session.secure,
            kill: Some(session.kill.clone()),
        });
        async move {
            let mut response = super::serve(stack, request).await;
            // HTTP/2 has no such headers (RFC 9113, 8.2.2).
            response.headers_mut().remove(CONNECTION);
            response.headers_mut().remove(UPGRADE);
            if matches!(response.body(), Body::Full(_)) {
                exchange.answered();
            }
            Ok::<_, Infallible>(response.map(|body| Tracked::new(body, exchange)))
        }
    });
    let socket = Patient::new(TokioIo::new(socket), patience(&app.config()));
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(BROKEN_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(HEADER_BYTES + URL_BYTES).unwrap_or(u32::MAX))
            .serve_connection(socket, service)
    );
    // A client is told early that this connection takes no new streams, so that it looks for another replica; one that comes
    // during the drain is still served, because it may publish.
    let leave = if app.draining.is_cancelled() {
        &app.closing
    } else {
        &app.draining
    };
    let mut leaving = pin!(leave.cancelled());
    let mut killed = pin!(kill.cancelled());
    let mut idle = pin!(idle(&app, &activity));
    let mut asked_to_end = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = &mut killed => return,
            end = &mut idle => {
                // Told already, or nobody who could be told: it has never asked for anything, or does not read.
                if asked_to_end || end == Idle::Stuck || activity.is_unused() {
                    return;
                }
                asked_to_end = true;
                connection.as_mut().graceful_shutdown();
                idle.set(self::idle(&app, &activity));
            }
            () = &mut leaving, if !asked_to_end => {
                asked_to_end = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Why a connection shall end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    /// Nothing is under way, for as long as an idle connection may last.
    Waiting,
    /// It does not take what it has asked for.
    Stuck,
}

/// Waits until a connection has been idle for too long from now on.
async fn idle(app: &App, activity: &Activity) -> Idle {
    let begun = app.alarms.now();
    loop {
        let config = app.config();
        let timeout = config.server.header_timeout;
        let now = app.alarms.now();
        let over = |since: u64, limit: Duration| now >= since + u64::from(Alarms::ticks(limit));
        let unsent = activity.oldest_unsent();
        if unsent.is_some_and(|since| over(since, patience(&config))) {
            return Idle::Stuck;
        }
        let waits = activity.waits_since();
        if waits.is_some_and(|since| over(since.max(begun), timeout)) {
            return Idle::Waiting;
        }
        time::sleep((timeout / 4).max(Duration::from_millis(50))).await;
    }
}

/// Ends streams whose body an HTTP library does not ask for more: their reader does not read. Never returns.
///
/// The library lets nobody reset one stream of an HTTP/2 connection, so the connection is closed when all its streams are
/// stuck; one that has neighbours is asked to end, and costs its send buffer until then.
pub async fn watch(app: Arc<App>) {
    let mut look = time::interval(Duration::from_millis(500));
    look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let patience = u64::from(Alarms::ticks(stuck_after(&app.config())));
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
