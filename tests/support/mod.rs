//! The gateway as a child process, and clients that see every byte.
//!
//! Every wait is bounded and says what was awaited. Nothing is tried twice: what cannot be awaited as bytes on a socket
//! (the gateway has noticed that a client left) is awaited as a state by [`eventually`].

mod chaos_proxy;
mod cluster;
mod edge;
mod fallback;
mod gateway;
mod h2_client;
mod http;
mod poll_client;
mod redis_server;
mod sentinel;
mod sse_client;
mod tls_client;
mod token;
pub(crate) mod traffic;
mod ws_client;

use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate::event::EventId;
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep, timeout},
};

pub(crate) use chaos_proxy::{Aim, ChaosProxy, Way};
pub(crate) use cluster::RedisCluster;
pub(crate) use fallback::{Encoding, Entry, Follower, Place};
pub(crate) use gateway::{Exit, Gateway, Settings};
pub(crate) use h2_client::H2Client;
pub(crate) use http::{Chunks, Connection, Request, Response};
pub(crate) use poll_client::{Poll, Polled, Poller, WaitingPoll};
pub(crate) use redis_server::{Fsync, RedisConnection, RedisServer, Value};
pub(crate) use sentinel::{RedisSentinel, patiently};
pub(crate) use sse_client::{Published, Subscriber, Subscription};
pub(crate) use tls_client::{Authority, Pair, TlsClient};
pub(crate) use token::{Claims, JwksServer, Signer, seconds, unsigned};
pub(crate) use ws_client::{
    Frame, Handshake, Received, WebSocket, accept_of, event, opcode, sorted,
};

/// How long anything may take that should come at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a process may take to begin or to end: others do so at the same time.
pub(crate) const STARTING: Duration = PATIENCE.saturating_mul(4);
/// How long a silence is watched.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// Waits for `future`, at most [`PATIENCE`].
pub(crate) async fn within<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    within_time(PATIENCE, what, future).await
}

/// Waits for `future`, at most `patience`.
pub(crate) async fn within_time<T>(
    patience: Duration,
    what: impl Display,
    future: impl Future<Output = T>,
) -> T {
    let value = timeout(patience, future).await;
    value.unwrap_or_else(|_| panic!("waited {patience:?} for {what}"))
}

/// Looks until `look` finds what it wants, at most [`PATIENCE`]; `look` says what it saw instead.
pub(crate) async fn eventually<T>(
    what: impl Display,
    look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// The same, for as long as this.
pub(crate) async fn eventually_within<T>(
    patience: Duration,
    what: impl Display,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(saw) => assert!(
                begun.elapsed() < patience,
                "waited {patience:?} for {what}, saw {saw}"
            ),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Stops a process, and waits until each of its threads stands still: the signal alone is taken some time later.
pub(crate) fn freeze(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    let begun = Instant::now();
    let stands = |thread: &Path| {
        let stat = std::fs::read_to_string(thread.join("stat"));
        // "<pid> (<name>) <state> ...", and the name may be anything.
        stat.is_ok_and(|stat| stat.rsplit(") ").next().unwrap().starts_with('T'))
    };
    let threads = format!("/proc/{}/task", pid.as_raw_nonzero());
    let all_stand = || {
        let mut threads = std::fs::read_dir(&threads).unwrap();
        threads.all(|thread| stands(&thread.unwrap().path()))
    };
    while !all_stand() {
        assert!(begun.elapsed() < PATIENCE, "{pid:?} does not stand still");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An address at which nobody listens. As long as its socket is held nobody else is given the port, but for a process that is
/// told to listen there.
pub(crate) fn nowhere() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Writes a file anew in one step: whoever looks at it meanwhile must not find half of it.
pub(crate) fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// What so many quarters of them took at the most: whoever stands still for a moment is late once.
pub(crate) fn quarters(count: usize, mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * count / 4 - 1]
}

/// An event id from its text.
pub(crate) fn id(text: &str) -> EventId {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no event id"))
}

/// The texts `0`, `1`, ... as data of events.
pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}
