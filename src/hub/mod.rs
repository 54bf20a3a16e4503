//! Topics in memory and who follows them.
//!
//! A connection is a [`Subscriber`]: a cursor that reads the log to its head, waits, and reads on. Replay and live are one
//! path. There is no queue for a connection, so nothing can overflow and a slow reader costs nothing.
//!
//! ```text
//!  store ── feed ──► lane ──► tail of a topic ──► subscribers, woken
//!    ▲                 │                              │
//!    └── read, join ◄──┴── repair      shelf ◄────────┘ older than the tail
//! ```
//!
//! # Promises
//! 1. The *frontier* F: every entry with an id ≤ F of every followed topic is in its tail, or has been told as a gap.
//! 2. A subscriber says an id, of an event or as a cursor, only if it is ≤ F and all its topics are joined.
//! 3. Topics without subscribers give their memory back after [`HubConfig::linger`].
//!
//! Not here: bytes on the wire and timers of a connection ([`crate::http`]), durable history ([`crate::store`]).

#[cfg(test)]
mod faults;
mod housekeeping;
mod inquiry;
mod lane;
mod opening;
mod registry;
mod shelf;
mod subscriber;
mod topic_log;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use inquiry::Lag;
pub use opening::{Opening, SubscribeError};
pub use subscriber::{Read, Subscriber};

use crate::{
    event::{EventId, Topic},
    log::{RetentionRules, TailLimits},
    store::{Keep, Store, StoreError},
};
use registry::Registry;

/// Settings of the hub.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// How much of each topic stays in memory.
    pub tail: TailLimits,
    /// Bytes of all tails together.
    pub tail_total_bytes: usize,
    /// How long a topic without subscribers stays.
    pub linger: Duration,
    /// Topics that are followed at once. [`Hub::limit_topics`] changes it.
    pub topics: usize,
    /// A tail never proves more than the store would keep. [`Hub::retain`] changes it.
    pub retention: RetentionRules,
    /// How long a new stream waits for the store before it is refused.
    pub join_timeout: Duration,
}

/// The handle of the hub; cheap to clone.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    config: HubConfig,
    /// What the store keeps now.
    retention: ArcSwap<RetentionRules>,
    /// How many topics may be followed now.
    topics: AtomicUsize,
    store: Arc<dyn Store>,
    registry: Registry,
    frontier: Mutex<Frontier>,
    /// The frontier moved, or the log was born again.
    moved: Notify,
    /// Bytes of all tails.
    tail_bytes: AtomicU64,
    /// Bytes of all pages on shelves, and in the hands of streams.
    shelf_bytes: Arc<AtomicU64>,
    counters: HubCounters,
    started: Instant,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// How far this replica has followed the log.
#[derive(Clone, Copy, Debug)]
struct Frontier {
    id: EventId,
    born: EventId,
    /// Counts how often the log was born again under open streams.
    epoch: u32,
    /// Something is missing and being repaired: the frontier stands still.
    frozen: bool,
    moved_at: Instant,
}

/// What the hub counts, for the metrics.
#[derive(Debug, Default)]
pub struct HubCounters {
    /// Holes found in the feed.
    pub holes: AtomicU64,
    /// Times that the feed was cut.
    pub cuts: AtomicU64,
    /// Times that the store had lost acknowledged entries.
    pub forks: AtomicU64,
    /// Times that the log was born again.
    pub resets: AtomicU64,
    /// Pages read from the store.
    pub pages: AtomicU64,
}

/// What the hub holds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct HubStats {
    /// Topics in memory.
    pub topics: usize,
    /// Bytes of all tails.
    pub tail_bytes: u64,
    /// Everything up to here has been followed.
    pub frontier: EventId,
    /// The id below every entry of the log.
    pub born: EventId,
    /// Whether the frontier stands still because something is being repaired.
    pub frozen: bool,
}

/// What is known of one followed topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicStats {
    /// Frames in the tail.
    pub frames: usize,
    /// Open subscriptions.
    pub subscribers: usize,
}

impl Hub {
    /// A hub on `store`, with its tasks running.
    pub fn start(config: HubConfig, store: Arc<dyn Store>) -> Self {
        let feed = store.feed();
        let frontier = Frontier {
            id: EventId::ZERO,
            born: EventId::ZERO,
            epoch: 0,
            frozen: false,
            moved_at: Instant::now(),
        };
        let shared = Arc::new(Shared {
            retention: ArcSwap::from_pointee(config.retention.clone()),
            topics: AtomicUsize::new(config.topics),
            config,
            store,
            registry: Registry::default(),
            frontier: Mutex::new(frontier),
            moved: Notify::new(),
            tail_bytes: AtomicU64::new(0),
            shelf_bytes: Arc::default(),
            counters: HubCounters::default(),
            started: Instant::now(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        shared.tasks.spawn(lane::run(shared.clone(), feed));
        shared.tasks.spawn(housekeeping::run(shared.clone()));
        Self { shared }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Whether the store has been seen at least once.
    pub fn ready(&self) -> bool {
        self.shared.frontier.lock().born != EventId::ZERO
    }

    /// Waits until the store has been seen.
    pub async fn begun(&self) {
        loop {
            let moved = self.shared.moved.notified();
            if self.ready() {
                return;
            }
            moved.await;
        }
    }

    /// What it counts.
    pub fn counters(&self) -> &HubCounters {
        &self.shared.counters
    }

    /// What it holds.
    pub fn stats(&self) -> HubStats {
        let frontier = *self.shared.frontier.lock();
        HubStats {
            topics: self.shared.registry.len(),
            tail_bytes: self.shared.tail_bytes.load(Ordering::Relaxed),
            frontier: frontier.id,
            born: frontier.born,
            frozen: frontier.frozen,
        }
    }

    /// Time since the frontier moved while it was frozen; zero while all is well.
    pub fn frontier_age(&self) -> Duration {
        let frontier = self.shared.frontier.lock();
        if frontier.frozen {
            frontier.moved_at.elapsed()
        } else {
            Duration::ZERO
        }
    }

    /// What is known of a topic, if it is followed.
    pub fn topic(&self, topic: &Topic) -> Option<TopicStats> {
        let log = self.shared.registry.find(topic)?;
        let frames = log.read().tail.as_ref().map_or(0, crate::log::Tail::len);
        Some(TopicStats {
            frames,
            subscribers: log.followers(),
        })
    }

    /// The microseconds on the clock that stamps frames.
    pub fn now_us(&self) -> u64 {
        self.shared.stamp(Instant::now())
    }

    /// The store keeps something else from now on, and so do the tails.
    pub fn retain(&self, keep: Keep) {
        // A tail that is shorter than what the store keeps is never wrong, so it goes first where less is kept, and where more
        // is kept it does no harm that it may be longer a moment before the store has heard of it: nothing is trimmed by then.
        self.shared
            .retention
            .store(Arc::new(keep.retention.clone()));
        self.shared.store.retain(keep);
    }

    /// So many topics may be followed at once from now on. Those that are, stay.
    pub fn limit_topics(&self, topics: usize) {
        self.shared.topics.store(topics, Ordering::Relaxed);
    }

    /// Ends the hub's tasks and waits for them.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    fn frontier(&self) -> Frontier {
        *self.frontier.lock()
    }

    fn stamp(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }

    /// The limits of one topic's tail: never more than the store would keep, so that both say the same of a cursor.
    fn tail_limits(&self, topic: &Topic) -> TailLimits {
        let (tail, keep) = (self.config.tail, self.retention.load().of(topic));
        TailLimits {
            events: tail.events.min(keep.events),
            bytes: tail.bytes.min(keep.bytes),
            age_ms: tail.age_ms.min(keep.age_ms),
        }
    }

    /// Waits until the frontier has reached `id`.
    async fn reach(&self, id: EventId) -> Result<(), StoreError> {
        let frontier = self.frontier().id;
        if frontier >= id {
            return Ok(());
        }
        // The feed may have nothing to say for a while: asked for its position, it says at once how far it is.
        self.store.join(Vec::new(), frontier);
        let reached = async {
            loop {
                let moved = self.moved.notified();
                if self.frontier().id >= id {
                    return;
                }
                moved.await;
            }
        };
        let waited = tokio::time::timeout(self.config.join_timeout, reached).await;
        waited.map_err(|_| StoreError::Unavailable("the feed lags behind it".into()))
    }
}
