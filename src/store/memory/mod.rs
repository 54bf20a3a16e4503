//! The store that needs nothing installed: the log of one process, gone when it ends.
//!
//! A restart is told: the new log is born after every cursor of the old one, so a returning client hears `reset`.
//!
//! # Invariants
//! 1. Everything happens under one lock that is held for microseconds and never over an `.await`: append, retention and
//!    the hand-over to the feed are one step, so the order of the feed is the order of the log.
//! 2. The feed's queue holds at most [`FEED_LIMIT`] entries when an append begins: publishers wait for the hub.

mod claims;
mod listing;
mod log;
mod presence;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::{
    claims::Claims,
    log::{EVENT_OVERHEAD, Log, Now, TopicLog},
    presence::Table,
};
use super::{
    Append, AppendError, Appended, Feed, FeedItem, Keep, Listing, Mailbox, Page, Position,
    ReplicaReport, Store, StoreError, StoreStats, TopicPage, TopicSummary,
    mailbox::{self, Slot},
    presence::{Heard, Presence, Whereabouts, Word},
};
use crate::{
    event::{Event, EventId, Topic},
    log::{LostRange, RetentionRules},
};

/// Entries of the feed that may wait for the hub before publishers wait too.
const FEED_LIMIT: usize = 16_384;

/// Tells the time in Unix milliseconds; tests bring their own.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Settings of the memory store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// What is kept of each topic.
    pub retention: RetentionRules,
    /// Memory of the whole store; beyond it the oldest event goes, whichever topic it belongs to.
    pub total_bytes: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
}

/// A log in memory.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    log: Mutex<Log>,
    clock: Clock,
    /// Something waits in the queue.
    filled: Notify,
    /// The queue was taken.
    drained: Notify,
    /// What the only replica of this store says of itself.
    report: Mutex<Option<ReplicaReport>>,
    secret: [u8; 32],
    claims: Mutex<Claims>,
    /// The one replica of this process, or several in a test.
    slots: Mutex<HashMap<String, Slot>>,
    letters_dropped: AtomicU64,
}

impl MemoryStore {
    /// An empty log, born now.
    pub fn new(config: MemoryConfig) -> Self {
        Self::with_clock(config, Arc::new(unix_ms))
    }

    /// An empty log with a clock of its own.
    pub fn with_clock(config: MemoryConfig, clock: Clock) -> Self {
        let born = EventId::new(clock(), 0);
        let log = Log::new(config, born);
        Self {
            shared: Arc::new(Shared {
                log: Mutex::new(log),
                clock,
                filled: Notify::new(),
                drained: Notify::new(),
                report: Mutex::new(None),
                secret: rand::random(),
                claims: Mutex::default(),
                slots: Mutex::default(),
                letters_dropped: AtomicU64::new(0),
            }),
        }
    }

    /// Fault injection: the log is lost and born again. Returns its new birth.
    pub(super) fn flush(&self) -> EventId {
        let log = &mut *self.shared.log.lock();
        log.born = log.last.next().max(EventId::new((self.shared.clock)(), 0));
        log.last = log.born;
        log.horizon = log.born;
        log.topics.clear();
        log.names.clear();
        log.oldest.clear();
        log.idle.clear();
        (log.events, log.bytes, log.cost) = (0, 0, 0);
        log.keys.clear();
        log.key_order.clear();
        log.presence = Table::new();
        log.born
    }

    /// Fault injection: the newest entries of `topic`, at most `count`, are lost though they were acknowledged. The oldest
    /// one stays. Returns the events that are gone, none if nothing is; an end goes alone and is no event.
    pub(super) fn lose(&self, topic: &Topic, count: usize) -> Option<Vec<Arc<Event>>> {
        let log = &mut *self.shared.log.lock();
        let entry = log.topics.get_mut(topic)?;
        let newest = entry.newest();
        if entry.end.take().is_some() {
            if log.idle.remove(&(newest, topic.clone())) {
                log.idle.insert((entry.newest(), topic.clone()));
            }
            return Some(Vec::new());
        }
        let keep = entry
            .events
            .len()
            .saturating_sub(count)
            .max(1)
            .min(entry.events.len());
        let lost: Vec<Arc<Event>> = entry.events.drain(keep..).collect();
        for event in &lost {
            let bytes = event.wire_bytes();
            entry.bytes -= bytes;
            log.events -= 1;
            log.bytes -= bytes;
            log.cost -= bytes + EVENT_OVERHEAD;
        }
        if let Some(newest) = entry.events.back() {
            entry.last = newest.id;
        }
        log.last = log
            .topics
            .values()
            .map(TopicLog::newest)
            .max()
            .unwrap_or(log.born)
            .max(log.born);
        (!lost.is_empty()).then_some(lost)
    }

    fn now(&self) -> Now {
        ((self.shared.clock)(), Instant::now())
    }

    /// Whether appends have to wait for the hub.
    fn full(&self) -> bool {
        self.shared.log.lock().queue.len() >= FEED_LIMIT
    }
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

impl Store for MemoryStore {
    fn append(&self, batch: Vec<Append>) -> BoxFuture<'_, Vec<Result<Appended, AppendError>>> {
        async move {
            while self.full() {
                let drained = self.shared.drained.notified();
                if self.full() {
                    drained.await;
                }
            }
            let now = ((self.shared.clock)(), Instant::now());
            let answers = {
                let mut log = self.shared.log.lock();
                batch
                    .into_iter()
                    .map(|append| log.append(append, now))
                    .collect()
            };
            self.shared.filled.notify_one();
            answers
        }
        .boxed()
    }

    fn position<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<Position, StoreError>> {
        let position = self
            .shared
            .log
            .lock()
            .position(topics, (self.shared.clock)());
        std::future::ready(Ok(position)).boxed()
    }

    fn read<'a>(
        &'a self,
        topic: &'a Topic,
        after: EventId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        let page = self.shared.log.lock().page(topic, after, limit);
        std::future::ready(Ok(page)).boxed()
    }

    fn newest<'a>(
        &'a self,
        topic: &'a Topic,
        count: usize,
    ) -> BoxFuture<'a, Result<Vec<EventId>, StoreError>> {
        let ids = self
            .shared
            .log
            .lock()
            .topics
            .get(topic)
            .map_or_else(Vec::new, |entry| {
                entry
                    .events
                    .iter()
                    .rev()
                    .take(count)
                    .map(|event| event.id)
                    .collect()
            });
        std::future::ready(Ok(ids)).boxed()
    }

    fn join(&self, topics: Vec<Topic>, seen: EventId) {
        let mut log = self.shared.log.lock();
        log.last = log.last.max(seen);
        for topic in &topics {
            log.touch(topic);
            log.followed.insert(topic.clone());
        }
        let position = log.position(&topics, (self.shared.clock)());
        log.queue
            .push_back(FeedItem::Joined(topics, Box::new(position)));
        drop(log);
        self.shared.filled.notify_one();
    }

    fn leave(&self, topics: Vec<Topic>) {
        let mut log = self.shared.log.lock();
        for topic in &topics {
            log.leave(topic);
        }
    }

    fn record_lost<'a>(
        &'a self,
        topic: &'a Topic,
        range: LostRange,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut log = self.shared.log.lock();
        if let Some(entry) = log.topics.get_mut(topic)
            && !entry.lost.contains(&range)
        {
            entry.lost.push(range);
            let surplus = entry.lost.len().saturating_sub(16);
            entry.lost.drain(..surplus);
            log.tell_lost(topic, range);
        }
        drop(log);
        self.shared.filled.notify_one();
        std::future::ready(Ok(())).boxed()
    }

    fn delete<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<usize, StoreError>> {
        let count = self.shared.log.lock().delete(topic);
        self.shared.filled.notify_one();
        std::future::ready(Ok(count)).boxed()
    }

    fn summary<'a>(
        &'a self,
        topic: &'a Topic,
    ) -> BoxFuture<'a, Result<Option<TopicSummary>, StoreError>> {
        let summary = self.shared.log.lock().summary(topic);
        std::future::ready(Ok(summary)).boxed()
    }

    fn topics<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<TopicPage, StoreError>> {
        async move {
            let mut page = TopicPage::default();
            let mut next = Some(listing.after.clone());
            while let Some(after) = next {
                next = self.shared.log.lock().list(listing, &after, &mut page);
                tokio::task::yield_now().await;
            }
            Ok(page)
        }
        .boxed()
    }

    fn find<'a>(
        &'a self,
        id: EventId,
        topic: Option<&'a Topic>,
    ) -> BoxFuture<'a, Result<Option<Arc<Event>>, StoreError>> {
        async move {
            if let Some(topic) = topic {
                return Ok(self.shared.log.lock().find_in(topic, id));
            }
            let mut next = Some(String::new());
            while let Some(after) = next {
                let found;
                (found, next) = self.shared.log.lock().find_after(&after, id);
                if found.is_some() {
                    return Ok(found);
                }
                tokio::task::yield_now().await;
            }
            Ok(None)
        }
        .boxed()
    }

    fn announce<'a>(&'a self, report: &'a ReplicaReport) -> BoxFuture<'a, Result<(), StoreError>> {
        *self.shared.report.lock() = Some(report.clone());
        std::future::ready(Ok(())).boxed()
    }

    fn retire<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        *self.shared.report.lock() = None;
        std::future::ready(Ok(())).boxed()
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaReport>, StoreError>> {
        let report = self.shared.report.lock().clone();
        std::future::ready(Ok(report.into_iter().collect())).boxed()
    }

    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        std::future::ready(Ok(self.shared.secret)).boxed()
    }

    fn claim<'a>(
        &'a self,
        name: &'a str,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let now_ms = (self.shared.clock)();
        let won = self.shared.claims.lock().claim(name, lasts, now_ms);
        std::future::ready(won).boxed()
    }

    fn mailbox(&self, replica: &str) -> Mailbox {
        let (mailbox, slot) = Mailbox::new();
        let before = self.shared.slots.lock().insert(replica.to_owned(), slot);
        let taken = before.is_some_and(|slot| slot.is_open());
        assert!(!taken, "a replica has one mailbox");
        mailbox
    }

    fn send<'a>(
        &'a self,
        replica: &'a str,
        letter: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let slot = self.shared.slots.lock().get(replica).cloned();
        let sent = mailbox::check(letter).map(|()| {
            let Some(slot) = slot.filter(Slot::is_open) else {
                return false;
            };
            if !slot.put(letter.as_bytes()) {
                self.shared.letters_dropped.fetch_add(1, Ordering::Relaxed);
            }
            true
        });
        std::future::ready(sent).boxed()
    }

    fn hear<'a>(&'a self, word: &'a Word) -> BoxFuture<'a, Result<Heard, StoreError>> {
        let heard = self.shared.log.lock().hear(word, self.now());
        self.shared.filled.notify_one();
        std::future::ready(Ok(heard)).boxed()
    }

    fn sweep<'a>(
        &'a self,
        replica: &'a Arc<str>,
    ) -> BoxFuture<'a, Result<(bool, [u64; 2]), StoreError>> {
        let mut events = [0; 2];
        let mut log = self.shared.log.lock();
        let more = log.sweep(replica, self.now(), &mut events);
        drop(log);
        self.shared.filled.notify_one();
        std::future::ready(Ok((more, events))).boxed()
    }

    fn said<'a>(&'a self, replica: &'a str) -> BoxFuture<'a, Result<Vec<Whereabouts>, StoreError>> {
        let said = self.shared.log.lock().said(replica);
        std::future::ready(Ok(said)).boxed()
    }

    fn present<'a>(
        &'a self,
        places: &'a [Option<Topic>],
    ) -> BoxFuture<'a, Result<Presence, StoreError>> {
        let present = self.shared.log.lock().present(places);
        std::future::ready(Ok(present)).boxed()
    }

    fn retain(&self, keep: Keep) {
        self.shared.log.lock().retain(keep);
    }

    fn feed(&self) -> Box<dyn Feed> {
        let mut log = self.shared.log.lock();
        assert!(
            !std::mem::replace(&mut log.feed_taken, true),
            "one hub takes the feed"
        );
        let last = log.last;
        log.queue.push_back(FeedItem::Frontier(last));
        Box::new(MemoryFeed {
            shared: self.shared.clone(),
        })
    }

    fn tidy(&self) {
        let now_ms = (self.shared.clock)();
        self.shared.log.lock().tidy(now_ms);
        self.shared.claims.lock().tidy(now_ms);
        self.shared.filled.notify_one();
    }

    fn ping(&self) -> BoxFuture<'_, Result<Duration, StoreError>> {
        std::future::ready(Ok(Duration::ZERO)).boxed()
    }

    fn stats(&self) -> StoreStats {
        let log = self.shared.log.lock();
        StoreStats {
            topics: log.topics.len(),
            events: log.events,
            bytes: log.bytes,
            idempotency_keys: log.keys.len(),
            feed_backlog: log.queue.len(),
            letters_dropped: self.shared.letters_dropped.load(Ordering::Relaxed),
            ..StoreStats::default()
        }
    }

    fn last(&self) -> Option<EventId> {
        Some(self.shared.log.lock().last)
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

struct MemoryFeed {
    shared: Arc<Shared>,
}

impl Feed for MemoryFeed {
    fn next<'a>(&'a mut self, items: &'a mut Vec<FeedItem>) -> BoxFuture<'a, ()> {
        async move {
            loop {
                {
                    let mut log = self.shared.log.lock();
                    items.extend(log.queue.drain(..));
                }
                if !items.is_empty() {
                    self.shared.drained.notify_waiters();
                    return;
                }
                self.shared.filled.notified().await;
            }
        }
        .boxed()
    }
}
