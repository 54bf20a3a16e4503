//! The connections of a listener, and who has to go when file descriptors are short.
//!
//! A flood of sockets that say nothing must not take the descriptors that operators and the store need. Where the public
//! listener has as many connections as it may, those that have waited longest for a request to come are closed first: who
//! has something to say has mostly said it within a round trip. Open streams have a limit of their own and are never closed
//! for this.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use slab::Slab;
use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;

use super::{activity::Activity, app::App};

/// Descriptors that connections to the public listener leave for the admin listener, the store, log files and the process.
const RESERVED: u64 = 96;
/// How long to wait when nobody can be closed.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that is not a stream yet.
struct Candidate {
    /// Connections of one moment are told apart by when they were accepted.
    number: u64,
    activity: Arc<Activity>,
    kill: CancellationToken,
}

/// See the module.
pub(super) struct Sockets {
    app: Arc<App>,
    room: usize,
    count: AtomicUsize,
    accepted: AtomicU64,
    candidates: Mutex<Slab<Candidate>>,
    freed: Notify,
}

impl Sockets {
    /// The connections of a listener; `bounded`: it has to leave descriptors for others.
    pub(super) fn new(app: Arc<App>, bounded: bool) -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let room = if bounded {
            usize::try_from(files.saturating_sub(RESERVED)).unwrap_or(usize::MAX)
        } else {
            usize::MAX
        };
        Arc::new(Self {
            app,
            room: room.max(1),
            count: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            candidates: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Counts a connection that was accepted.
    pub(super) fn add(
        self: &Arc<Self>,
        activity: Arc<Activity>,
        kill: CancellationToken,
    ) -> CountedConnection {
        self.app.metrics.tcp_connections.inc();
        self.count.fetch_add(1, Ordering::AcqRel);
        let key = self.candidates.lock().insert(Candidate {
            number: self.accepted.fetch_add(1, Ordering::Relaxed),
            activity,
            kill,
        });
        CountedConnection {
            sockets: self.clone(),
            key: Some(key),
        }
    }

    /// Waits until there is room for one connection more, and makes some.
    ///
    /// # Cancel safety
    /// Dropping the future leaves at most a few idle connections closed.
    pub(super) async fn room(&self) {
        while self.count.load(Ordering::Acquire) >= self.room {
            let freed = self.freed.notified();
            self.close_oldest();
            let _ = time::timeout(PAUSE, freed).await;
        }
    }

    /// Closes the connections that have waited longest: a few at once, because finding them means looking at all. Those that
    /// are on their way out count: where that takes a while, nobody else has to go for it.
    fn close_oldest(&self) {
        let mut leaving = 0;
        let mut waiting: Vec<((u64, u64), CancellationToken)> = self
            .candidates
            .lock()
            .iter()
            .filter_map(|(_, candidate)| {
                if candidate.kill.is_cancelled() {
                    leaving += 1;
                    return None;
                }
                let since = candidate.activity.waits_since()?;
                Some(((since, candidate.number), candidate.kill.clone()))
            })
            .collect();
        let wanted = (self.room / 64).max(1).saturating_sub(leaving);
        let some = wanted.min(waiting.len());
        if some == 0 {
            return;
        }
        waiting.select_nth_unstable_by_key(some - 1, |(since, _)| *since);
        for (_, kill) in &waiting[..some] {
            kill.cancel();
        }
        self.app.metrics.evicted(some as u64);
        tracing::debug!(
            closed = some,
            "file descriptors are short: connections that waited for a request are closed"
        );
    }
}

/// An open TCP connection, for the gauge and for the room that it takes.
pub struct CountedConnection {
    sockets: Arc<Sockets>,
    key: Option<usize>,
}

impl CountedConnection {
    /// It is a stream from now on, and has the limit of streams.
    pub(super) fn becomes_stream(&mut self) {
        if let Some(key) = self.key.take() {
            self.sockets.candidates.lock().remove(key);
        }
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.becomes_stream();
        let sockets = &self.sockets;
        sockets.app.metrics.tcp_connections.dec();
        if sockets.count.fetch_sub(1, Ordering::AcqRel) >= sockets.room {
            sockets.freed.notify_one();
        }
    }
}
