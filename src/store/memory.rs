//! The store that needs nothing installed: the log of one process, gone when it ends.
//!
//! A restart is told: the new log is born after every cursor of the old one, so a returning client hears `reset`.
//!
//! # Invariants
//! 1. Everything happens under one lock that is held for microseconds and never over an `.await`: append, retention and
//!    the hand-over to the feed are one step, so the order of the feed is the order of the log.
//! 2. `oldest` has one entry for each topic that has events, `idle` one for each that has none and that nobody follows: a
//!    followed topic is never forgotten, so the beginning of its chain is what `Joined` stated.
//! 3. The feed's queue holds at most [`FEED_LIMIT`] entries when an append begins: publishers wait for the hub.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    Append, AppendError, Appended, Feed, FeedItem, IdempotencyKey, Page, Position, Store,
    StoreError, StoreStats, TopicPosition,
};
use crate::{
    event::{Event, EventId, EventType, Topic},
    log::{LostRange, Retention, RetentionRules},
};

/// Entries of the feed that may wait for the hub before publishers wait too.
const FEED_LIMIT: usize = 16_384;
/// What an event costs in memory beside its bytes, for the budget of the whole store.
const EVENT_OVERHEAD: usize = 192;
/// What a remembered topic costs.
const TOPIC_OVERHEAD: usize = 384;
/// Idempotency keys that are remembered at most; beyond it the oldest is forgotten before its time.
const KEY_LIMIT: usize = 1_000_000;
/// Steps of one housekeeping call, so that it never holds the lock for long.
const TIDY_STEPS: usize = 4_096;

/// Tells the time in Unix milliseconds; tests bring their own.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Unix milliseconds for ids and ages, and the moment for latencies.
type Now = (u64, Instant);

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
}

struct Log {
    config: MemoryConfig,
    born: EventId,
    last: EventId,
    horizon: EventId,
    topics: HashMap<Topic, TopicLog>,
    oldest: BTreeMap<EventId, Topic>,
    /// Where the next look for expired events begins in `oldest`.
    tidied: EventId,
    idle: BTreeSet<(EventId, Topic)>,
    events: usize,
    bytes: usize,
    cost: usize,
    keys: HashMap<(IdempotencyKey, Topic), Remembered>,
    key_order: VecDeque<(u64, (IdempotencyKey, Topic))>,
    hasher: RandomState,
    followed: HashSet<Topic>,
    queue: VecDeque<FeedItem>,
    feed_taken: bool,
}

#[derive(Default)]
struct TopicLog {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    last: EventId,
    end: Option<EventId>,
    lost: Vec<LostRange>,
}

impl TopicLog {
    /// The id of the newest entry.
    fn newest(&self) -> EventId {
        self.end.unwrap_or(self.last)
    }
}

struct Remembered {
    id: EventId,
    payload: u64,
}

impl MemoryStore {
    /// An empty log, born now.
    pub fn new(config: MemoryConfig) -> Self {
        Self::with_clock(config, Arc::new(unix_ms))
    }

    /// An empty log with a clock of its own.
    pub fn with_clock(config: MemoryConfig, clock: Clock) -> Self {
        let born = EventId::new(clock(), 0);
        let log = Log {
            config,
            born,
            last: born,
            horizon: EventId::ZERO,
            topics: HashMap::new(),
            oldest: BTreeMap::new(),
            tidied: EventId::ZERO,
            idle: BTreeSet::new(),
            events: 0,
            bytes: 0,
            cost: 0,
            keys: HashMap::new(),
            key_order: VecDeque::new(),
            hasher: RandomState::new(),
            followed: HashSet::new(),
            queue: VecDeque::new(),
            feed_taken: false,
        };
        Self {
            shared: Arc::new(Shared {
                log: Mutex::new(log),
                clock,
                filled: Notify::new(),
                drained: Notify::new(),
            }),
        }
    }

    /// Changes what is kept, from the next append on.
    pub fn set_retention(&self, retention: RetentionRules, total_bytes: usize) {
        let mut log = self.shared.log.lock();
        log.config.retention = retention;
        log.config.total_bytes = total_bytes;
    }

    /// Fault injection: the log is lost and born again. Returns its new birth.
    pub(super) fn flush(&self) -> EventId {
        let log = &mut *self.shared.log.lock();
        log.born = log.last.next().max(EventId::new((self.shared.clock)(), 0));
        log.last = log.born;
        log.horizon = EventId::ZERO;
        log.topics.clear();
        log.oldest.clear();
        log.idle.clear();
        (log.events, log.bytes, log.cost) = (0, 0, 0);
        log.keys.clear();
        log.key_order.clear();
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

impl Log {
    fn next_id(&mut self, now_ms: u64) -> EventId {
        self.last = self.last.next().max(EventId::new(now_ms, 0));
        self.last
    }

    fn append(&mut self, append: Append, now: Now) -> Result<Appended, AppendError> {
        let Append {
            topic,
            kind,
            data,
            end,
            key,
        } = append;
        let payload = key
            .is_some()
            .then(|| self.hasher.hash_one((kind.as_str(), data.as_deref(), end)));
        let key = key.map(|key| (key, topic.clone()));
        self.forget_keys(now.0);
        if let Some(remembered) = key.as_ref().and_then(|key| self.keys.get(key)) {
            return if Some(remembered.payload) == payload {
                Ok(Appended {
                    id: remembered.id,
                    duplicate: true,
                })
            } else {
                Err(AppendError::Mismatch)
            };
        }
        if self
            .topics
            .get(&topic)
            .is_some_and(|entry| entry.end.is_some())
        {
            return Err(AppendError::Finished(topic));
        }
        let mut id = EventId::ZERO;
        if let Some(data) = data {
            id = self.push(&topic, kind, data, now);
        }
        if end {
            let end_id = self.push_end(&topic, now);
            id = if id == EventId::ZERO { end_id } else { id };
        }
        if let (Some(key), Some(payload)) = (key, payload) {
            let until = now.0.saturating_add(
                u64::try_from(self.config.idempotency_window.as_millis()).unwrap_or(u64::MAX),
            );
            self.key_order.push_back((until, key.clone()));
            self.keys.insert(key, Remembered { id, payload });
        }
        Ok(Appended {
            id,
            duplicate: false,
        })
    }

    /// Remembers a topic. What was forgotten about it lies at or below the horizon, so that is where its chain begins.
    fn remember(&mut self, topic: &Topic) -> &mut TopicLog {
        let last = self.horizon;
        self.topics.entry(topic.clone()).or_insert_with(|| {
            self.cost += TOPIC_OVERHEAD;
            TopicLog {
                last,
                ..TopicLog::default()
            }
        })
    }

    /// The topic's log, no longer idle.
    fn touch(&mut self, topic: &Topic) -> &mut TopicLog {
        if let Some(entry) = self.topics.get(topic)
            && entry.events.is_empty()
        {
            self.idle.remove(&(entry.newest(), topic.clone()));
        }
        self.remember(topic)
    }

    /// Puts a topic that has no events where it can be forgotten, unless somebody follows it.
    fn rest(&mut self, topic: &Topic) {
        if let Some(entry) = self.topics.get(topic)
            && entry.events.is_empty()
            && !self.followed.contains(topic)
        {
            self.idle.insert((entry.newest(), topic.clone()));
        }
    }

    /// A topic of which nothing is remembered but what holds for every forgotten one costs nothing.
    fn leave(&mut self, topic: &Topic) {
        if !self.followed.remove(topic) {
            return;
        }
        let bare = self.topics.get(topic).is_some_and(|entry| {
            entry.events.is_empty() && entry.newest() <= self.horizon && entry.lost.is_empty()
        });
        if bare {
            self.topics.remove(topic);
            self.cost -= TOPIC_OVERHEAD;
        } else {
            self.rest(topic);
        }
    }

    fn push(
        &mut self,
        topic: &Topic,
        kind: EventType,
        data: Box<str>,
        (now_ms, at): Now,
    ) -> EventId {
        let id = self.next_id(now_ms);
        let entry = self.touch(topic);
        let event = Arc::new(Event {
            id,
            previous: entry.last,
            topic: topic.clone(),
            kind,
            data,
            end: false,
        });
        let bytes = event.wire_bytes();
        entry.last = id;
        entry.bytes += bytes;
        entry.events.push_back(event.clone());
        if entry.events.len() == 1 {
            self.oldest.insert(id, topic.clone());
        }
        self.events += 1;
        self.bytes += bytes;
        self.cost += bytes + EVENT_OVERHEAD;
        let trimmed = self.trim(topic, self.config.retention.of(topic), now_ms);
        self.tell_trimmed(topic.clone(), trimmed);
        self.trim_total();
        self.hand_over(event, at);
        id
    }

    fn push_end(&mut self, topic: &Topic, (now_ms, at): Now) -> EventId {
        let id = self.next_id(now_ms);
        let entry = self.touch(topic);
        let event = Event {
            id,
            previous: entry.last,
            topic: topic.clone(),
            kind: EventType::default(),
            data: Box::default(),
            end: true,
        };
        entry.end = Some(id);
        self.rest(topic);
        self.hand_over(Arc::new(event), at);
        id
    }

    fn hand_over(&mut self, event: Arc<Event>, at: Instant) {
        let id = event.id;
        if self.followed.contains(&event.topic) {
            self.queue.push_back(FeedItem::Event(event, at));
        } else if self.feed_taken {
            match self.queue.back_mut() {
                Some(FeedItem::Frontier(frontier)) => *frontier = id,
                _ => self.queue.push_back(FeedItem::Frontier(id)),
            }
        }
    }

    /// Trims by the topic's own limits and returns the id of the last event that went.
    fn trim(&mut self, topic: &Topic, keep: Retention, now_ms: u64) -> Option<EventId> {
        let mut trimmed = None;
        while let Some(entry) = self.topics.get(topic)
            && let Some(oldest) = entry.events.front()
            && keep.exceeded(entry.events.len(), entry.bytes, oldest.id, now_ms)
        {
            trimmed = self.pop(topic);
        }
        trimmed
    }

    /// Lets the hub know, so that its tail does not go on proving what the log no longer holds.
    fn tell_trimmed(&mut self, topic: Topic, through: Option<EventId>) {
        if let Some(through) = through
            && self.followed.contains(&topic)
        {
            self.queue.push_back(FeedItem::Trimmed(topic, through));
        }
    }

    /// Forgets the oldest of the whole store until it fits its budget: an event, or a topic that has none.
    fn trim_total(&mut self) {
        while self.cost > self.config.total_bytes {
            let event = self.oldest.first_key_value().map(|(id, _)| *id);
            let idle = self.idle.first().map(|(id, _)| *id);
            if idle.is_some_and(|idle| event.is_none_or(|event| idle < event)) {
                self.forget_idle(u64::MAX);
            } else if self.events > 1
                && let Some((_, topic)) = self.oldest.first_key_value()
            {
                let topic = topic.clone();
                let popped = self.pop(&topic);
                self.tell_trimmed(topic, popped);
            } else {
                break;
            }
        }
    }

    /// Takes the oldest event of a topic that has one.
    fn pop(&mut self, topic: &Topic) -> Option<EventId> {
        let entry = self.topics.get_mut(topic)?;
        let event = entry.events.pop_front()?;
        let bytes = event.wire_bytes();
        entry.bytes -= bytes;
        self.events -= 1;
        self.bytes -= bytes;
        self.cost -= bytes + EVENT_OVERHEAD;
        self.oldest.remove(&event.id);
        match entry.events.front() {
            Some(next) => {
                self.oldest.insert(next.id, topic.clone());
            }
            None => self.rest(topic),
        }
        Some(event.id)
    }

    /// Forgets the topic that has been idle for the longest time, if its last entry was published before `ms`.
    fn forget_idle(&mut self, ms: u64) -> bool {
        if self.idle.first().is_none_or(|(last, _)| last.ms() >= ms) {
            return false;
        }
        let Some((last, topic)) = self.idle.pop_first() else {
            return false;
        };
        self.topics.remove(&topic);
        self.cost -= TOPIC_OVERHEAD;
        self.horizon = self.horizon.max(last);
        true
    }

    fn forget_keys(&mut self, now_ms: u64) {
        while let Some((until, _)) = self.key_order.front()
            && (*until < now_ms || self.keys.len() >= KEY_LIMIT)
        {
            if let Some((_, key)) = self.key_order.pop_front() {
                self.keys.remove(&key);
            }
        }
    }

    /// Expires by age. Topics with a longer retention than others are looked at again each time: bounded by the steps.
    fn tidy(&mut self, now_ms: u64) {
        self.forget_keys(now_ms);
        let due = EventId::new(
            now_ms.saturating_sub(self.config.retention.shortest_age_ms()),
            0,
        );
        // From where the last call stopped, so that topics which keep their events for longer hide no others.
        let from = std::mem::take(&mut self.tidied).min(due);
        let old = self.oldest.range(from..due).take(TIDY_STEPS);
        let (ids, topics): (Vec<EventId>, Vec<Topic>) =
            old.map(|(id, topic)| (*id, topic.clone())).unzip();
        if ids.len() == TIDY_STEPS {
            self.tidied = ids.last().map_or(EventId::ZERO, |last| last.next());
        }
        for topic in topics {
            let trimmed = self.trim(&topic, self.config.retention.of(&topic), now_ms);
            self.tell_trimmed(topic, trimmed);
        }
        let remembered = self.config.retention.longest_age_ms().saturating_mul(2);
        for _ in 0..TIDY_STEPS {
            if !self.forget_idle(now_ms.saturating_sub(remembered)) {
                break;
            }
        }
    }

    fn topic_position(&self, topic: &Topic) -> TopicPosition {
        self.topics
            .get(topic)
            .map_or_else(TopicPosition::default, |entry| TopicPosition {
                last: (entry.last != EventId::ZERO).then_some(entry.last),
                end: entry.end,
                lost: entry.lost.clone(),
            })
    }

    fn position(&self, topics: &[Topic], now_ms: u64) -> Position {
        Position {
            born: self.born,
            last: self.last,
            horizon: self.horizon,
            now_ms,
            topics: topics
                .iter()
                .map(|topic| self.topic_position(topic))
                .collect(),
        }
    }

    fn page(&self, topic: &Topic, after: EventId, limit: usize) -> Page {
        let entry = self.topics.get(topic);
        let from = entry.map_or(0, |entry| {
            entry.events.partition_point(|event| event.id <= after)
        });
        let all = entry.map_or(0, |entry| entry.events.len());
        let to = all.min(from.saturating_add(limit));
        Page {
            events: entry.map_or_else(Vec::new, |entry| {
                entry.events.range(from..to).cloned().collect()
            }),
            more: to < all,
            topic: self.topic_position(topic),
            horizon: self.horizon,
        }
    }
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
        }
        std::future::ready(Ok(())).boxed()
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
        self.shared.log.lock().tidy((self.shared.clock)());
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
