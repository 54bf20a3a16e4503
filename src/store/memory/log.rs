//! The log itself: topics, their events, what is remembered of them. Everything here happens under the store's lock.
//!
//! # Invariants
//! 1. `oldest` has one entry for each topic that has events, `idle` one for each that has none and that nobody follows: a
//!    followed topic is never forgotten, so the beginning of its chain is what `Joined` stated.
//! 2. `cost` is the sum of what events and topics cost, and stays within the budget while there is anything to forget. A
//!    budget that was lowered comes down step by step.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use tokio::time::Instant;

use super::{MemoryConfig, presence::Table};
use crate::{
    event::{Event, EventId, EventType, Topic},
    log::{LostRange, Retention},
    store::{
        Append, AppendError, Appended, FeedItem, IdempotencyKey, Keep, Page, Position,
        TopicPosition,
    },
};

/// What an event costs in memory beside its bytes, for the budget of the whole store.
pub(super) const EVENT_OVERHEAD: usize = 192;
/// What a remembered topic costs.
const TOPIC_OVERHEAD: usize = 384;
/// Idempotency keys that are remembered at most; beyond it the oldest is forgotten before its time.
const KEY_LIMIT: usize = 1_000_000;
/// Steps of one housekeeping call, so that it never holds the lock for long.
const TIDY_STEPS: usize = 4_096;
/// Events that one such call takes after the settings were changed.
const RETAIN_STEPS: usize = 16_384;

/// Unix milliseconds for ids and ages, and the moment for latencies.
pub(super) type Now = (u64, Instant);

pub(super) struct Log {
    pub(super) config: MemoryConfig,
    pub(super) born: EventId,
    pub(super) last: EventId,
    pub(super) horizon: EventId,
    pub(super) topics: HashMap<Topic, TopicLog>,
    /// The names of all of them, in order.
    pub(super) names: BTreeSet<Topic>,
    pub(super) oldest: BTreeMap<EventId, Topic>,
    /// Where the next look for expired events begins in `oldest`.
    pub(super) tidied: EventId,
    /// Where the next look for events that changed settings take begins in `oldest`; none: all was looked at.
    retained: Option<EventId>,
    /// The budget that was asked for: `config.total_bytes` comes down to it step by step.
    wanted_bytes: usize,
    pub(super) idle: BTreeSet<(EventId, Topic)>,
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) cost: usize,
    pub(super) keys: HashMap<(IdempotencyKey, Topic), Remembered>,
    pub(super) key_order: VecDeque<(u64, (IdempotencyKey, Topic))>,
    pub(super) hasher: RandomState,
    pub(super) followed: HashSet<Topic>,
    pub(super) queue: VecDeque<FeedItem>,
    pub(super) feed_taken: bool,
    pub(super) presence: Table,
}

pub(super) struct TopicLog {
    /// Shared by all its events.
    pub(super) name: Topic,
    pub(super) events: VecDeque<Arc<Event>>,
    pub(super) bytes: usize,
    pub(super) last: EventId,
    pub(super) end: Option<EventId>,
    pub(super) lost: Vec<LostRange>,
}

impl TopicLog {
    /// A topic of which nothing is known but that its entries up to `last`, if it had any, are forgotten.
    fn new(name: Topic, last: EventId) -> Self {
        Self {
            name,
            events: VecDeque::new(),
            bytes: 0,
            last,
            end: None,
            lost: Vec::new(),
        }
    }

    /// The id of the newest entry.
    pub(super) fn newest(&self) -> EventId {
        self.end.unwrap_or(self.last)
    }
}

pub(super) struct Remembered {
    pub(super) id: EventId,
    pub(super) payload: u64,
}

impl Log {
    /// An empty log.
    pub(super) fn new(config: MemoryConfig, born: EventId) -> Self {
        Self {
            retained: None,
            wanted_bytes: config.total_bytes,
            config,
            born,
            last: born,
            horizon: born,
            topics: HashMap::new(),
            names: BTreeSet::new(),
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
            presence: Table::new(),
        }
    }

    pub(super) fn next_id(&mut self, now_ms: u64) -> EventId {
        self.last = self.last.next().max(EventId::new(now_ms, 0));
        self.last
    }

    pub(super) fn append(&mut self, append: Append, now: Now) -> Result<Appended, AppendError> {
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

    /// The topic's log, no longer idle. What was forgotten about it lies at or below the horizon, so that is where the chain
    /// of a new one begins.
    pub(super) fn touch(&mut self, topic: &Topic) -> &mut TopicLog {
        let Self {
            topics,
            names,
            idle,
            cost,
            horizon,
            ..
        } = self;
        // One look-up: this is the way of every event.
        match topics.entry(topic.clone()) {
            Entry::Occupied(entry) => {
                let entry = entry.into_mut();
                if entry.events.is_empty() {
                    idle.remove(&(entry.newest(), topic.clone()));
                }
                entry
            }
            Entry::Vacant(entry) => {
                *cost += TOPIC_OVERHEAD;
                names.insert(topic.clone());
                entry.insert(TopicLog::new(topic.clone(), *horizon))
            }
        }
    }

    /// Puts a topic that has no events where it can be forgotten, unless somebody follows it.
    pub(super) fn rest(&mut self, topic: &Topic) {
        if let Some(entry) = self.topics.get(topic)
            && entry.events.is_empty()
            && !self.followed.contains(topic)
        {
            self.idle.insert((entry.newest(), topic.clone()));
        }
    }

    /// A topic of which nothing is remembered but what holds for every forgotten one costs nothing.
    pub(super) fn leave(&mut self, topic: &Topic) {
        if !self.followed.remove(topic) {
            return;
        }
        let bare = self.topics.get(topic).is_some_and(|entry| {
            entry.events.is_empty() && entry.newest() <= self.horizon && entry.lost.is_empty()
        });
        if bare {
            self.topics.remove(topic);
            self.names.remove(topic);
            self.cost -= TOPIC_OVERHEAD;
        } else {
            self.rest(topic);
        }
    }

    pub(super) fn push(
        &mut self,
        topic: &Topic,
        kind: EventType,
        data: Box<str>,
        (now_ms, at): Now,
    ) -> EventId {
        let id = self.next_id(now_ms);
        let keep = self.config.retention.of(topic);
        let entry = self.touch(topic);
        let event = Arc::new(Event {
            id,
            previous: entry.last,
            topic: entry.name.clone(),
            kind,
            data,
            end: false,
        });
        let bytes = event.wire_bytes();
        entry.last = id;
        entry.bytes += bytes;
        entry.events.push_back(event.clone());
        let oldest = entry.events.front().map_or(id, |oldest| oldest.id);
        let full = keep.exceeded(entry.events.len(), entry.bytes, oldest, now_ms);
        if oldest == id {
            self.oldest.insert(id, event.topic.clone());
        }
        self.events += 1;
        self.bytes += bytes;
        self.cost += bytes + EVENT_OVERHEAD;
        if full {
            let trimmed = self.trim(topic, keep, now_ms);
            self.tell_trimmed(topic.clone(), trimmed);
        }
        self.trim_total();
        self.hand_over(event, at);
        id
    }

    pub(super) fn push_end(&mut self, topic: &Topic, (now_ms, at): Now) -> EventId {
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

    pub(super) fn hand_over(&mut self, event: Arc<Event>, at: Instant) {
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
    pub(super) fn trim(&mut self, topic: &Topic, keep: Retention, now_ms: u64) -> Option<EventId> {
        self.trim_some(topic, keep, now_ms, &mut { usize::MAX })
    }

    /// The same, as far as `steps` allow.
    fn trim_some(
        &mut self,
        topic: &Topic,
        keep: Retention,
        now_ms: u64,
        steps: &mut usize,
    ) -> Option<EventId> {
        let mut trimmed = None;
        while *steps > 0
            && let Some(entry) = self.topics.get(topic)
            && let Some(oldest) = entry.events.front()
            && keep.exceeded(entry.events.len(), entry.bytes, oldest.id, now_ms)
        {
            *steps -= 1;
            trimmed = self.pop(topic);
        }
        trimmed
    }

    /// Takes every event of a topic and returns how many there were.
    pub(super) fn delete(&mut self, topic: &Topic) -> usize {
        let mut count = 0;
        let mut through = None;
        while let Some(id) = self.pop(topic) {
            (count, through) = (count + 1, Some(id));
        }
        self.tell_trimmed(topic.clone(), through);
        count
    }

    /// Lets the hub know, so that its tail does not go on proving what the log no longer holds.
    pub(super) fn tell_trimmed(&mut self, topic: Topic, through: Option<EventId>) {
        if let Some(through) = through
            && self.followed.contains(&topic)
        {
            self.queue.push_back(FeedItem::Trimmed(topic, through));
        }
    }

    pub(super) fn tell_lost(&mut self, topic: &Topic, range: LostRange) {
        if self.followed.contains(topic) {
            self.queue.push_back(FeedItem::Lost(topic.clone(), range));
        }
    }

    /// Forgets the oldest of the whole store until it fits its budget.
    pub(super) fn trim_total(&mut self) {
        while self.cost > self.config.total_bytes && self.forget_oldest() {}
    }

    /// Forgets the oldest of the whole store: an event, or a topic that has none. Returns whether there was anything to forget.
    fn forget_oldest(&mut self) -> bool {
        let event = self.oldest.first_key_value().map(|(id, _)| *id);
        let idle = self.idle.first().map(|(id, _)| *id);
        if idle.is_some_and(|idle| event.is_none_or(|event| idle < event)) {
            return self.forget_idle(u64::MAX);
        }
        let Some((_, topic)) = self.oldest.first_key_value().filter(|_| self.events > 1) else {
            return false;
        };
        let topic = topic.clone();
        let popped = self.pop(&topic);
        self.tell_trimmed(topic, popped);
        true
    }

    /// Other settings. What is over the limits of a topic that is published to goes at once, all else with the next calls of
    /// [`Log::tidy`]: it may be most of what there is.
    pub(super) fn retain(&mut self, keep: Keep) {
        self.config.retention = keep.retention;
        self.config.idempotency_window = keep.idempotency_window;
        self.wanted_bytes = keep.total_bytes;
        self.config.total_bytes = keep.total_bytes.max(self.cost);
        self.retained = Some(EventId::ZERO);
    }

    /// Takes some of what changed settings leave no room for.
    fn come_down(&mut self, now_ms: u64) {
        let mut steps = RETAIN_STEPS;
        while let Some(from) = self.retained
            && steps > 1
        {
            let Some((&id, topic)) = self.oldest.range(from..).next() else {
                self.retained = None;
                break;
            };
            steps -= 1;
            let topic = topic.clone();
            let keep = self.config.retention.of(&topic);
            let trimmed = self.trim_some(&topic, keep, now_ms, &mut steps);
            // Its oldest event is a later one now, so it is met again, and then there is nothing to take.
            self.retained = Some(if trimmed.is_some() { id } else { id.next() });
            self.tell_trimmed(topic, trimmed);
        }
        while steps > 0 && self.cost > self.wanted_bytes && self.forget_oldest() {
            steps -= 1;
        }
        self.config.total_bytes = self.wanted_bytes.max(self.cost);
    }

    /// Takes the oldest event of a topic that has one.
    pub(super) fn pop(&mut self, topic: &Topic) -> Option<EventId> {
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
    pub(super) fn forget_idle(&mut self, ms: u64) -> bool {
        if self.idle.first().is_none_or(|(last, _)| last.ms() >= ms) {
            return false;
        }
        let Some((last, topic)) = self.idle.pop_first() else {
            return false;
        };
        self.topics.remove(&topic);
        self.names.remove(&topic);
        self.cost -= TOPIC_OVERHEAD;
        self.horizon = self.horizon.max(last);
        true
    }

    pub(super) fn forget_keys(&mut self, now_ms: u64) {
        while let Some((until, _)) = self.key_order.front()
            && (*until < now_ms || self.keys.len() >= KEY_LIMIT)
        {
            if let Some((_, key)) = self.key_order.pop_front() {
                self.keys.remove(&key);
            }
        }
    }

    /// Expires by age. Topics with a longer retention than others are looked at again each time: bounded by the steps.
    pub(super) fn tidy(&mut self, now_ms: u64) {
        self.forget_keys(now_ms);
        self.come_down(now_ms);
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

    pub(super) fn topic_position(&self, topic: &Topic) -> TopicPosition {
        self.topics
            .get(topic)
            .map_or_else(TopicPosition::default, |entry| TopicPosition {
                // A topic without events begins at the birth.
                last: (entry.last > self.born).then_some(entry.last),
                end: entry.end,
                lost: entry.lost.clone(),
                first: entry.events.front().map(|event| event.id),
            })
    }

    pub(super) fn position(&self, topics: &[Topic], now_ms: u64) -> Position {
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

    pub(super) fn page(&self, topic: &Topic, after: EventId, limit: usize) -> Page {
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
            born: self.born,
        }
    }
}
