//! The promises of [`super`] as tests that run against every store.
//!
//! A kind of store brings a [`Home`], which opens fresh logs, and one line:
//!
//! ```text
//! tidegate::store_contract!(memory, crate::store::contract::MemoryHome);
//! ```
//!
//! Not here: what only one kind of store promises; that is tested where it stands.

mod presence;
mod replicas;

use std::{
    any::Any,
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture, future::join_all};
use tokio::time;

pub use self::{presence::*, replicas::*};
use super::{
    Append, AppendError, Appended, Feed, FeedItem, IdempotencyKey, Listing, Position, Store,
    TopicPosition, TopicSummary,
    faulty::{Faults, FaultyStore},
    memory::{MemoryConfig, MemoryStore},
};
use crate::{
    event::{Event, EventId, EventType, Topic},
    log::{GapReason, LostRange, Retention, RetentionRule, RetentionRules},
};

/// Ages and windows of these tests, long enough for a busy machine where the clock cannot be set.
const AGE: Duration = Duration::from_secs(2);
/// Surely longer than twice [`AGE`].
const LONG: Duration = Duration::from_secs(5);
/// Where a clock that can be set begins.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// A clock that a test sets.
#[derive(Clone, Debug)]
pub struct SettableClock(Arc<AtomicU64>);

impl SettableClock {
    /// Moves it forward.
    pub fn pass(&self, time: Duration) {
        self.0.fetch_add(ms(time), Ordering::SeqCst);
    }

    /// Moves it back.
    pub fn go_back(&self, time: Duration) {
        self.0.fetch_sub(ms(time), Ordering::SeqCst);
    }

    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An open store.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Its clock, if that can be set.
    pub clock: Option<SettableClock>,
    /// Where it lives, if that has to live as long.
    pub place: Option<Arc<dyn Any + Send + Sync>>,
}

/// Where logs of one kind of store are opened.
pub trait Home: Sync {
    /// A fresh log that keeps what `config` says. Where `before` is given, it takes the place of that one, which is lost.
    fn open<'a>(
        &'a self,
        config: MemoryConfig,
        before: Option<&'a Opened>,
    ) -> BoxFuture<'a, Opened>;

    /// The same log as another replica has it.
    fn replica<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Arc<dyn Store>>;

    /// Cuts the feeds of all replicas. Returns whether there is something that can be cut.
    fn cut<'a>(&'a self, _opened: &'a Opened) -> BoxFuture<'a, bool> {
        std::future::ready(false).boxed()
    }

    /// How many events more than its limit says a topic may keep.
    fn slack(&self) -> usize {
        0
    }

    /// Whether [`MemoryConfig::total_bytes`] is kept.
    fn has_total_budget(&self) -> bool {
        true
    }

    /// Whether the feed tells what expired.
    fn tells_expiry(&self) -> bool {
        true
    }
}

/// Memory stores.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryHome;

impl Home for MemoryHome {
    fn open<'a>(
        &'a self,
        config: MemoryConfig,
        before: Option<&'a Opened>,
    ) -> BoxFuture<'a, Opened> {
        let (store, clock) = memory(config, before);
        std::future::ready(Opened {
            store: Arc::new(store.clone()),
            clock: Some(clock),
            place: Some(Arc::new(store)),
        })
        .boxed()
    }

    fn replica<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Arc<dyn Store>> {
        let store: Arc<dyn Store> = opened.place::<MemoryStore>();
        std::future::ready(store).boxed()
    }
}

/// Memory stores with faults that break no promise.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultyHome {
    /// Which.
    pub faults: Faults,
    /// When they happen.
    pub seed: u64,
}

impl Home for FaultyHome {
    fn open<'a>(
        &'a self,
        config: MemoryConfig,
        before: Option<&'a Opened>,
    ) -> BoxFuture<'a, Opened> {
        let (store, clock) = memory(config, before);
        let store = FaultyStore::new(store, self.faults, self.seed);
        std::future::ready(Opened {
            store: Arc::new(store.clone()),
            clock: Some(clock),
            place: Some(Arc::new(store)),
        })
        .boxed()
    }

    fn replica<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Arc<dyn Store>> {
        let store: Arc<dyn Store> = opened.place::<FaultyStore>();
        std::future::ready(store).boxed()
    }

    fn cut<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, bool> {
        opened.place::<FaultyStore>().cut();
        std::future::ready(true).boxed()
    }
}

fn memory(config: MemoryConfig, before: Option<&Opened>) -> (MemoryStore, SettableClock) {
    let clock = before.and_then(|before| before.clock.clone());
    let clock = clock.unwrap_or_else(|| SettableClock(Arc::new(AtomicU64::new(BEGIN_MS))));
    let told = clock.clone();
    let store = MemoryStore::with_clock(config, Arc::new(move || told.now_ms()));
    (store, clock)
}

/// What keeps everything.
pub fn everything() -> MemoryConfig {
    MemoryConfig {
        retention: RetentionRules::new(keep_all(), Vec::new()),
        total_bytes: usize::MAX,
        idempotency_window: Duration::from_mins(5),
    }
}

fn keep_all() -> Retention {
    Retention {
        events: usize::MAX,
        bytes: usize::MAX,
        age_ms: 1 << 40,
    }
}

fn keeping(retention: Retention) -> MemoryConfig {
    MemoryConfig {
        retention: RetentionRules::new(retention, Vec::new()),
        ..everything()
    }
}

fn keeping_for(age: Duration) -> MemoryConfig {
    keeping(Retention {
        age_ms: ms(age),
        ..keep_all()
    })
}

/// The topic of that name.
fn topic(name: &str) -> Topic {
    name.parse().expect("a topic")
}

/// An event without anything special.
fn event(topic: &Topic, data: &str) -> Append {
    Append {
        topic: topic.clone(),
        kind: EventType::default(),
        data: Some(data.into()),
        end: false,
        key: None,
    }
}

fn end(topic: &Topic) -> Append {
    Append {
        data: None,
        end: true,
        ..event(topic, "")
    }
}

fn keyed(append: Append, caller: &str, key: &str) -> Append {
    Append {
        key: Some(IdempotencyKey {
            caller: caller.into(),
            key: key.into(),
        }),
        ..append
    }
}

impl Opened {
    /// Where it lives.
    ///
    /// # Panics
    /// When that is something else.
    pub fn place<T: Any + Send + Sync>(&self) -> Arc<T> {
        let place = self.place.clone().expect("it lives somewhere");
        place.downcast().expect("it lives there")
    }

    /// Lets time pass, on the clock if it can be set.
    async fn pass(&self, time: Duration) {
        match &self.clock {
            Some(clock) => clock.pass(time),
            None => time::sleep(time).await,
        }
    }

    async fn try_publish(&self, append: Append) -> Result<Appended, AppendError> {
        let mut answers = self.store.append(vec![append]).await;
        assert_eq!(answers.len(), 1, "an event has one answer");
        answers.pop().expect("it is there")
    }

    async fn publish(&self, topic: &Topic, data: &str) -> EventId {
        let answer = self.try_publish(event(topic, data)).await;
        answer.expect("the store is well").id
    }

    /// The same data so many times, one after another.
    async fn publish_times(&self, count: usize, topic: &Topic, data: &str) -> Vec<EventId> {
        let mut given = Vec::with_capacity(count);
        for _ in 0..count {
            given.push(self.publish(topic, data).await);
        }
        given
    }

    async fn publish_all(&self, topic: &Topic, data: &[&str]) -> Vec<EventId> {
        let batch = data.iter().map(|data| event(topic, data)).collect();
        let answers = self.store.append(batch).await;
        answers
            .into_iter()
            .map(|answer| answer.expect("the store is well").id)
            .collect()
    }

    async fn publish_end(&self, topic: &Topic) -> EventId {
        self.try_publish(end(topic))
            .await
            .expect("the store is well")
            .id
    }

    async fn position(&self, topics: &[&Topic]) -> Position {
        let topics: Vec<Topic> = topics.iter().copied().cloned().collect();
        let position = self.store.position(&topics).await;
        let position = position.expect("the store is well");
        assert_eq!(position.topics.len(), topics.len());
        position
    }

    async fn stand(&self, topic: &Topic) -> TopicPosition {
        self.position(&[topic]).await.topics.remove(0)
    }

    async fn page(&self, topic: &Topic, after: EventId, limit: usize) -> super::Page {
        let page = self.store.read(topic, after, limit).await;
        page.expect("the store is well")
    }

    async fn all(&self, topic: &Topic) -> Vec<Arc<Event>> {
        self.page(topic, EventId::ZERO, 100_000).await.events
    }

    async fn data(&self, topic: &Topic) -> Vec<String> {
        let events = self.all(topic).await;
        events.iter().map(|event| event.data.to_string()).collect()
    }

    async fn newest(&self, topic: &Topic, count: usize) -> Vec<EventId> {
        let newest = self.store.newest(topic, count).await;
        newest.expect("the store is well")
    }

    fn follow(&self) -> Follower {
        Follower {
            feed: self.store.feed(),
            items: VecDeque::new(),
        }
    }
}

/// Whoever reads the feed.
struct Follower {
    feed: Box<dyn Feed>,
    items: VecDeque<FeedItem>,
}

impl Follower {
    async fn next(&mut self) -> FeedItem {
        loop {
            if let Some(item) = self.items.pop_front() {
                return item;
            }
            let mut items = Vec::new();
            time::timeout(Duration::from_secs(10), self.feed.next(&mut items))
                .await
                .expect("the feed goes on");
            self.items.extend(items);
        }
    }

    /// The next position that answers a join, and the entries before it.
    async fn joined(&mut self) -> (Vec<Topic>, Position, Vec<Arc<Event>>) {
        let mut before = Vec::new();
        loop {
            match self.next().await {
                // Where the log stands may be said at any time.
                FeedItem::Joined(topics, _) if topics.is_empty() => {}
                FeedItem::Joined(topics, position) => return (topics, *position, before),
                FeedItem::Event(event, _) => before.push(event),
                FeedItem::Cut => panic!("nothing cuts this feed"),
                FeedItem::Frontier(_) | FeedItem::Trimmed(..) | FeedItem::Lost(..) => {}
            }
        }
    }

    /// The next `count` entries.
    async fn events(&mut self, count: usize) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        while events.len() < count {
            match self.next().await {
                FeedItem::Event(event, _) => events.push(event),
                FeedItem::Cut => panic!("nothing cuts this feed"),
                _ => {}
            }
        }
        events
    }

    /// Waits until it is said that the feed was cut.
    async fn is_cut(&mut self) {
        while !matches!(self.next().await, FeedItem::Cut) {}
    }

    /// Waits until it is said that everything of `topic` up to `through` is gone.
    async fn trimmed(&mut self, topic: &Topic, through: EventId) {
        loop {
            if let FeedItem::Trimmed(of, id) = self.next().await
                && of == *topic
                && id >= through
            {
                assert_eq!(id, through);
                return;
            }
        }
    }

    /// Everything up to the item that shows that `id` has been passed.
    async fn until(&mut self, id: EventId) -> Vec<FeedItem> {
        let mut items = Vec::new();
        loop {
            let item = self.next().await;
            let at = match &item {
                FeedItem::Event(event, _) => event.id,
                FeedItem::Frontier(id) => *id,
                FeedItem::Joined(_, position) => position.last,
                FeedItem::Trimmed(..) | FeedItem::Lost(..) => EventId::ZERO,
                FeedItem::Cut => panic!("nothing cuts this feed"),
            };
            items.push(item);
            if at >= id {
                return items;
            }
        }
    }
}

fn ids(events: &[Arc<Event>]) -> Vec<EventId> {
    events.iter().map(|event| event.id).collect()
}

fn assert_chained(events: &[Arc<Event>]) {
    for pair in events.windows(2) {
        assert_eq!(
            pair[1].previous, pair[0].id,
            "an entry names its predecessor"
        );
    }
}

fn assert_increasing(ids: &[EventId]) {
    for pair in ids.windows(2) {
        assert!(pair[0] < pair[1], "{} comes before {}", pair[0], pair[1]);
    }
}

/// Ids increase over all topics, within a call and from call to call.
pub async fn ids_increase_over_all_topics(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let topics = [topic("a"), topic("b"), topic("c")];
    let mut ids = vec![opened.position(&[]).await.born];
    for round in 0..20 {
        let batch = (0..5)
            .map(|n| event(&topics[(round + n) % 3], "x"))
            .collect();
        for answer in opened.store.append(batch).await {
            ids.push(answer.expect("the store is well").id);
        }
        opened.pass(Duration::from_millis(1)).await;
    }
    assert_increasing(&ids);
    assert_eq!(opened.position(&[]).await.last, *ids.last().expect("some"));
}

/// A clock that goes back does not take the ids with it.
pub async fn ids_increase_when_the_clock_goes_back(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let Some(clock) = &opened.clock else { return };
    let a = topic("a");
    let mut ids = vec![opened.publish(&a, "before").await];
    clock.go_back(Duration::from_hours(1));
    ids.extend(opened.publish_all(&a, &["1", "2", "3"]).await);
    clock.pass(Duration::from_hours(2));
    ids.push(opened.publish(&a, "after").await);
    assert_increasing(&ids);
    assert_eq!(
        ids[3].ms(),
        ids[0].ms(),
        "the clock stands still for them meanwhile"
    );
    assert!(ids[4].ms() > ids[0].ms());
    assert_chained(&opened.all(&a).await);
}

/// Publishers that race get ids of their own, and the log has all of their events.
pub async fn racing_publishers_make_one_log(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let (a, b) = (topic("a"), topic("b"));
    opened.store.join(vec![a.clone(), b.clone()], EventId::ZERO);
    follower.joined().await;
    let publish = |n: usize| {
        let (opened, a, b) = (&opened, &a, &b);
        async move {
            let data = n.to_string();
            let batch = vec![event(a, &data), event(b, &data)];
            let answers = opened.store.append(batch).await;
            answers
                .into_iter()
                .map(|answer| answer.expect("the store is well").id)
                .collect::<Vec<_>>()
        }
    };
    let given = join_all((0..50).map(publish)).await.concat();
    assert_eq!(given.iter().collect::<HashSet<_>>().len(), 100);
    let fed = follower.events(100).await;
    assert_increasing(&ids(&fed));
    for topic in [&a, &b] {
        let stored = opened.all(topic).await;
        assert_eq!(stored.len(), 50);
        assert_chained(&stored);
        let fed: Vec<_> = fed
            .iter()
            .filter(|event| event.topic == *topic)
            .cloned()
            .collect();
        assert_eq!(fed, stored);
    }
}

/// Each event of a batch has its own answer, at the same place, and a refusal does not stop the others.
pub async fn answers_stand_where_their_events_stood(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let (a, done) = (topic("a"), topic("done"));
    opened.publish_end(&done).await;
    let taken = keyed(event(&a, "first"), "me", "k");
    let first = opened.try_publish(taken).await.expect("stored").id;
    let answers = opened
        .store
        .append(vec![
            event(&a, "1"),
            event(&done, "no"),
            keyed(event(&a, "other"), "me", "k"),
            keyed(event(&a, "first"), "me", "k"),
            event(&a, "2"),
        ])
        .await;
    assert_eq!(answers.len(), 5);
    assert_eq!(answers[1], Err(AppendError::Finished(done)));
    assert_eq!(answers[2], Err(AppendError::Mismatch));
    assert_eq!(
        answers[3],
        Ok(Appended {
            id: first,
            duplicate: true
        })
    );
    let stored = opened.all(&a).await;
    assert_eq!(opened.data(&a).await, ["first", "1", "2"]);
    for (answer, event) in [&answers[0], &answers[4]].into_iter().zip(&stored[1..]) {
        let expected = Appended {
            id: event.id,
            duplicate: false,
        };
        assert_eq!(*answer, Ok(expected));
    }
    assert!(opened.store.append(Vec::new()).await.is_empty());
}

/// What was acknowledged is read back as it was, whatever it says.
pub async fn what_was_acknowledged_is_read_back(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let a = topic("orders/é:1.x-y");
    let texts = [
        "",
        " ",
        "one\ntwo\r\n\rthree\n",
        "id: 9-9\n\nevent: $open",
        "\u{2028}\u{0}é🌊",
    ];
    for text in texts {
        let mut append = event(&a, text);
        append.kind = "created now".parse().expect("a type");
        opened.try_publish(append).await.expect("stored");
    }
    opened.publish(&a, &"x".repeat(65_536)).await;
    let stored = opened.all(&a).await;
    assert_eq!(opened.data(&a).await[..5], texts);
    assert!(
        stored[..5]
            .iter()
            .all(|event| event.topic == a && event.kind.as_str() == "created now" && !event.end)
    );
    assert_eq!(stored[5].data.len(), 65_536);
    assert!(stored[5].kind.is_message());
}

/// An entry names its predecessor in its topic, whatever was published to others in between.
pub async fn each_entry_names_its_predecessor(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let (a, b) = (topic("a"), topic("b"));
    for n in 0..5 {
        opened.publish(&a, &n.to_string()).await;
        opened.publish_all(&b, &["x", "y"]).await;
    }
    for (topic, count) in [(&a, 5), (&b, 10)] {
        let stored = opened.all(topic).await;
        assert_eq!(stored.len(), count);
        assert_chained(&stored);
        let born = opened.position(&[]).await.born;
        assert_eq!(
            stored[0].previous, born,
            "the first one has none, and names the birth of the log"
        );
    }
}

/// Also when the predecessor has expired, and when nothing is left of the topic.
pub async fn the_chain_survives_expiry(home: &dyn Home) {
    let opened = home.open(keeping_for(AGE), None).await;
    let a = topic("a");
    opened.publish_all(&a, &["1", "2"]).await;
    let last = opened.publish(&a, "3").await;
    opened.pass(LONG).await;
    opened.store.tidy();
    let after = opened.publish(&a, "4").await;
    let stored = opened.all(&a).await;
    assert_eq!(ids(&stored), [after]);
    assert_eq!(stored[0].previous, last);
}

/// A repetition is answered with the first id, and stores nothing.
pub async fn a_repetition_under_the_same_key_is_answered_with_the_first_id(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let a = topic("a");
    let append = keyed(event(&a, "once"), "me", "key");
    let batch = vec![append.clone(), append.clone()];
    let answers = opened.store.append(batch).await;
    let first = answers[0].clone().expect("stored");
    assert!(!first.duplicate);
    opened.publish(&a, "between").await;
    let again = opened.try_publish(append).await;
    for answer in [answers[1].clone(), again] {
        let repeated = answer.expect("known");
        assert_eq!((repeated.id, repeated.duplicate), (first.id, true));
    }
    assert_eq!(opened.data(&a).await, ["once", "between"]);
}

/// Another type, other data, another end under the same key are no repetition.
pub async fn another_payload_under_the_same_key_is_refused(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let a = topic("a");
    let append = keyed(event(&a, "x"), "me", "key");
    let first = opened.try_publish(append.clone()).await.expect("stored").id;
    let kind = Append {
        kind: "other".parse().expect("a type"),
        ..append.clone()
    };
    let data = Append {
        data: Some("y".into()),
        ..append.clone()
    };
    let ended = Append {
        end: true,
        ..append.clone()
    };
    let nothing = Append {
        data: None,
        end: true,
        ..append.clone()
    };
    for other in [kind, data, ended, nothing] {
        assert_eq!(opened.try_publish(other).await, Err(AppendError::Mismatch));
    }
    let again = opened.try_publish(append).await.expect("known");
    assert_eq!((again.id, again.duplicate), (first, true));
    assert_eq!(ids(&opened.all(&a).await), [first]);
}

/// Two callers, and two topics, may use the same key.
pub async fn a_key_belongs_to_one_caller_and_topic(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let (a, b) = (topic("a"), topic("b"));
    let mut given = HashSet::new();
    for (topic, caller) in [(&a, "me"), (&b, "me"), (&a, "you"), (&b, "you")] {
        let data = format!("{topic} {caller}");
        let answer = opened
            .try_publish(keyed(event(topic, &data), caller, "key"))
            .await;
        let answer = answer.expect("stored");
        assert!(!answer.duplicate);
        given.insert(answer.id);
    }
    assert_eq!(given.len(), 4);
}

/// After its window a key is free again.
pub async fn a_key_is_forgotten_after_its_window(home: &dyn Home) {
    let config = MemoryConfig {
        idempotency_window: AGE,
        ..everything()
    };
    let opened = home.open(config, None).await;
    let a = topic("a");
    let first = opened
        .try_publish(keyed(event(&a, "x"), "me", "key"))
        .await
        .expect("stored");
    opened.pass(LONG).await;
    let other = opened.try_publish(keyed(event(&a, "y"), "me", "key")).await;
    let other = other.expect("the key is free");
    assert!(!other.duplicate && other.id > first.id);
    let again = opened.try_publish(keyed(event(&a, "y"), "me", "key")).await;
    let again = again.expect("known");
    assert_eq!((again.id, again.duplicate), (other.id, true));
    opened.pass(LONG).await;
    opened.store.tidy();
    assert_eq!(opened.store.stats().idempotency_keys, 0);
}

/// An end has an id of its own, after its event, and is no event.
pub async fn an_end_takes_an_id_of_its_own(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let (a, b) = (topic("a"), topic("b"));
    let before = opened.publish(&a, "1").await;
    let last = Append {
        end: true,
        ..event(&a, "2")
    };
    let last = opened
        .try_publish(keyed(last, "me", "key"))
        .await
        .expect("stored")
        .id;
    let alone = opened.publish_end(&b).await;
    let stand = opened.stand(&a).await;
    assert_eq!(stand.last, Some(last));
    let end = stand.end.expect("it is finished");
    assert_increasing(&[before, last, end, alone]);
    assert_eq!(ids(&opened.all(&a).await), [before, last]);
    assert_eq!(opened.stand(&b).await.end, Some(alone));
    assert!(opened.all(&b).await.is_empty());
}

/// A finished topic takes nothing more, not even another end; a repetition of what finished it is answered.
pub async fn nothing_is_published_after_the_end(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let a = topic("a");
    let last = keyed(
        Append {
            end: true,
            ..event(&a, "last")
        },
        "me",
        "key",
    );
    let first = opened.try_publish(last.clone()).await.expect("stored");
    let stand = opened.stand(&a).await;
    for append in [event(&a, "more"), end(&a)] {
        assert_eq!(
            opened.try_publish(append).await,
            Err(AppendError::Finished(a.clone()))
        );
    }
    let again = opened.try_publish(last).await.expect("known");
    assert_eq!((again.id, again.duplicate), (first.id, true));
    assert_eq!(opened.stand(&a).await, stand);
}

/// An end counts neither among the newest events nor for retention.
pub async fn an_end_is_no_event(home: &dyn Home) {
    let opened = home
        .open(
            keeping(Retention {
                events: 2,
                ..keep_all()
            }),
            None,
        )
        .await;
    let a = topic("a");
    let mut given = opened.publish_all(&a, &["1", "2"]).await;
    opened.publish_end(&a).await;
    assert_eq!(ids(&opened.all(&a).await), given);
    given.reverse();
    assert_eq!(opened.newest(&a, 10).await, given);
    assert_eq!(opened.newest(&a, 1).await, given[..1]);
}

/// When the events have expired, the end is still known.
pub async fn an_end_outlives_the_events(home: &dyn Home) {
    let opened = home.open(keeping_for(LONG), None).await;
    let a = topic("a");
    opened.publish(&a, "1").await;
    let end = opened.publish_end(&a).await;
    opened.pass(LONG + AGE).await;
    opened.store.tidy();
    assert!(opened.all(&a).await.is_empty());
    assert_eq!(opened.stand(&a).await.end, Some(end));
    assert_eq!(
        opened.try_publish(event(&a, "no")).await,
        Err(AppendError::Finished(a))
    );
}

/// Only so many events of a topic are kept.
pub async fn retention_keeps_a_count(home: &dyn Home) {
    let keep = Retention {
        events: 3,
        ..keep_all()
    };
    let opened = home.open(keeping(keep), None).await;
    let (a, b) = (topic("a"), topic("b"));
    opened.publish(&b, "untouched").await;
    let given = opened.publish_times(home.slack() + 10, &a, "x").await;
    let stored = opened.all(&a).await;
    assert!((3..=3 + home.slack()).contains(&stored.len()));
    assert_eq!(ids(&stored), given[given.len() - stored.len()..]);
    assert_eq!(opened.all(&b).await.len(), 1);
}

/// Only so many bytes on the wire of a topic are kept, but one event at the least.
pub async fn retention_keeps_bytes(home: &dyn Home) {
    let keep = Retention {
        bytes: 1_000,
        ..keep_all()
    };
    let opened = home.open(keeping(keep), None).await;
    let (a, b) = (topic("a"), topic("b"));
    let large = "x".repeat(370);
    opened.publish_times(home.slack() + 10, &a, &large).await;
    let stored = opened.all(&a).await;
    assert!((2..=2 + home.slack()).contains(&stored.len()));
    opened.publish(&b, &"x".repeat(10_000)).await;
    assert_eq!(opened.all(&b).await.len(), 1);
}

/// Events are kept until their age is over.
pub async fn retention_keeps_an_age(home: &dyn Home) {
    let opened = home.open(keeping_for(LONG), None).await;
    let a = topic("a");
    opened.publish(&a, "old").await;
    opened.pass(LONG).await;
    opened.pass(AGE).await;
    let young = opened.publish(&a, "young").await;
    opened.store.tidy();
    let stored = ids(&opened.all(&a).await);
    assert_eq!(stored.last(), Some(&young));
    assert!(stored.len() <= 1 + home.slack());
    opened.pass(LONG + AGE).await;
    opened.store.tidy();
    assert!(opened.all(&a).await.is_empty());
}

/// A topic follows the rule with the longest prefix of its name.
pub async fn retention_follows_the_rule_of_a_prefix(home: &dyn Home) {
    let keep = |events| Retention {
        events,
        ..keep_all()
    };
    let rule = |prefix: &str, events| RetentionRule {
        prefix: prefix.into(),
        retention: keep(events),
    };
    let rules = vec![rule("a/", 2), rule("a/b/", 1)];
    let config = MemoryConfig {
        retention: RetentionRules::new(keep(4), rules),
        ..everything()
    };
    let opened = home.open(config, None).await;
    for (name, kept) in [("a/x", 2), ("a/b/x", 1), ("ab", 4)] {
        let topic = topic(name);
        opened.publish_times(home.slack() + 10, &topic, "x").await;
        let stored = opened.all(&topic).await.len();
        assert!((kept..=kept + home.slack()).contains(&stored), "{name}");
    }
}

/// Where the whole store has a budget, the oldest event goes, whichever topic it belongs to, and the newest one stays.
pub async fn the_total_budget_takes_the_oldest_of_all_topics(home: &dyn Home) {
    if !home.has_total_budget() {
        return;
    }
    let config = MemoryConfig {
        total_bytes: 20_000,
        ..everything()
    };
    let opened = home.open(config, None).await;
    let topics: Vec<Topic> = (0..4).map(|n| topic(&format!("t{n}"))).collect();
    let mut given = Vec::new();
    for n in 0..100 {
        given.push(opened.publish(&topics[n % 4], &"x".repeat(800)).await);
    }
    let mut stored = Vec::new();
    for topic in &topics {
        let events = opened.all(topic).await;
        assert_chained(&events);
        stored.extend(ids(&events));
    }
    stored.sort_unstable();
    assert!((10..25).contains(&stored.len()), "{}", stored.len());
    assert_eq!(stored, given[100 - stored.len()..]);
    assert!(opened.store.stats().bytes <= 20_000);
    let huge = opened.publish(&topics[0], &"x".repeat(50_000)).await;
    assert_eq!(ids(&opened.all(&topics[0]).await), [huge]);
}

/// Topics that nobody publishes to take no event's place: what is older goes first, event or name.
pub async fn names_without_events_do_not_push_events_out(home: &dyn Home) {
    if !home.has_total_budget() {
        return;
    }
    let config = MemoryConfig {
        total_bytes: 100_000,
        ..everything()
    };
    let opened = home.open(config, None).await;
    let mut follower = opened.follow();
    let a = topic("a");
    let given = opened.publish_all(&a, &["1", "2", "3"]).await;
    for n in 0..2_000 {
        let name = topic(&format!("name/{n}"));
        opened.store.join(vec![name.clone()], EventId::ZERO);
        opened.store.leave(vec![name]);
    }
    follower.joined().await;
    let last = opened.publish(&a, "4").await;
    assert_eq!(ids(&opened.all(&a).await), [&given[..], &[last]].concat());
    assert!(opened.store.stats().topics < 10);
}

/// A position tells birth, last id and clock of the log, and of each topic the last id and the end, in the order asked.
pub async fn a_position_says_where_the_log_stands(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let (a, b, none) = (topic("a"), topic("b"), topic("none"));
    let fresh = opened.position(&[&a]).await;
    assert!(fresh.born <= fresh.last && fresh.horizon <= fresh.last);
    assert_eq!(fresh.topics, [TopicPosition::default()]);
    let first = opened.publish(&a, "1").await;
    assert!(first > fresh.last);
    let last = opened.publish(&a, "2").await;
    let end = opened.publish_end(&b).await;
    let position = opened.position(&[&b, &none, &a]).await;
    assert_eq!((position.born, position.last), (fresh.born, end));
    assert_eq!(position.topics[0].end, Some(end));
    assert_eq!(position.topics[0].last, None);
    assert_eq!(position.topics[1], TopicPosition::default());
    assert_eq!(position.topics[2].last, Some(last));
    assert_eq!(position.topics[2].end, None);
    opened.pass(AGE).await;
    assert!(opened.position(&[]).await.now_ms >= position.now_ms + ms(AGE));
    assert!(opened.store.ping().await.is_ok());
}

/// A page has the oldest events after its place, and says whether there are more.
pub async fn a_page_ends_at_its_limit_and_says_whether_there_is_more(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let a = topic("a");
    let mut given = opened.publish_all(&a, &["1", "2"]).await;
    opened.publish(&topic("b"), "x").await;
    given.extend(opened.publish_all(&a, &["3", "4", "5"]).await);
    let mut after = EventId::ZERO;
    let mut read = Vec::new();
    for (count, more) in [(2, true), (2, true), (1, false), (0, false)] {
        let page = opened.page(&a, after, 2).await;
        assert_eq!((page.events.len(), page.more), (count, more));
        assert_eq!(page.topic.last, Some(given[4]));
        after = page.events.last().map_or(after, |event| event.id);
        read.extend(ids(&page.events));
    }
    assert_eq!(read, given);
    assert!(!opened.page(&a, EventId::ZERO, 5).await.more);
    let between = opened.page(&a, given[1].next(), 2).await;
    assert_eq!(ids(&between.events), given[2..4]);
    let unknown = opened.page(&topic("unknown"), EventId::ZERO, 2).await;
    assert!(unknown.events.is_empty() && !unknown.more);
}

/// What a page proves of a cursor is true: whether anything after it was taken by retention.
pub async fn a_page_proves_what_is_missing(home: &dyn Home) {
    // By count, and by age: what goes by its age may do so while it is looked at.
    for age_ms in [keep_all().age_ms, ms(LONG)] {
        let keep = Retention {
            events: 2,
            age_ms,
            ..keep_all()
        };
        let opened = home.open(keeping(keep), None).await;
        let (a, b) = (topic("a"), topic("b"));
        opened.publish(&b, "quiet").await;
        let given = opened.publish_times(home.slack() + 6, &a, "x").await;
        let expires = age_ms == ms(LONG);
        if expires {
            opened.pass(LONG + AGE).await;
            opened.store.tidy();
        }
        let kept = ids(&opened.all(&a).await);
        assert_eq!(kept.is_empty(), expires);
        let before = [given[0].previous()];
        for &cursor in before.iter().chain(&given) {
            let gone = given.iter().any(|id| *id > cursor && !kept.contains(id));
            let expected = gone.then_some(GapReason::Retention);
            let page = opened.page(&a, cursor, 1).await;
            assert_eq!(page.proof().missing(cursor), expected, "{cursor}");
        }
    }
}

/// The ids of the newest events, newest first.
pub async fn the_newest_come_newest_first(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let a = topic("a");
    assert!(opened.newest(&a, 3).await.is_empty());
    let mut given = opened.publish_all(&a, &["1", "2", "3", "4"]).await;
    given.reverse();
    assert_eq!(opened.newest(&a, 3).await, given[..3]);
    assert_eq!(opened.newest(&a, 9).await, given);
    assert!(opened.newest(&a, 0).await.is_empty());
}

/// `Joined` states a position, and from there on every entry comes, in order; the end too.
pub async fn the_feed_goes_on_from_the_stated_position(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let (a, b, fresh) = (topic("a"), topic("b"), topic("fresh"));
    let before = opened.publish_all(&a, &["1", "2"]).await;
    let topics = vec![b.clone(), a.clone(), fresh.clone()];
    opened.store.join(topics.clone(), EventId::ZERO);
    let early = opened.publish(&a, "3").await;
    let (joined, position, handed) = follower.joined().await;
    assert_eq!(joined, topics);
    assert!(handed.is_empty(), "nothing comes before the position");
    assert_eq!(position.topics.len(), 3);
    let from = position.topics[1].last;
    assert!(from == Some(before[1]) || from == Some(early));
    assert!(position.last >= before[1]);
    let beginning = position.topics[2].last.unwrap_or(position.horizon);
    let mut given: Vec<EventId> = [early].into_iter().filter(|id| Some(*id) > from).collect();
    for n in 0..30 {
        given.push(
            opened
                .publish([&a, &b, &fresh][n % 3], &n.to_string())
                .await,
        );
    }
    given.push(opened.publish_end(&b).await);
    let events = follower.events(given.len()).await;
    assert_eq!(ids(&events), given);
    assert!(events.last().is_some_and(|end| end.end));
    let of = |topic: &Topic| {
        let of = events.iter().filter(|event| event.topic == *topic);
        of.cloned().collect::<Vec<_>>()
    };
    for (topic, beginning) in [(&a, from), (&fresh, Some(beginning))] {
        let events = of(topic);
        assert_chained(&events);
        assert_eq!(
            Some(events[0].previous),
            beginning,
            "the chain begins at the position"
        );
    }
    assert_chained(&of(&b));
}

/// Nothing of other topics comes, but the frontier tells that they moved on.
pub async fn the_feed_tells_of_other_topics_only_the_frontier(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let (a, other) = (topic("a"), topic("other"));
    let first = opened.publish(&other, "before").await;
    let items = follower.until(first).await;
    assert!(!items.iter().any(|item| matches!(item, FeedItem::Event(..))));
    opened.store.join(vec![a.clone()], EventId::ZERO);
    follower.joined().await;
    let mut last = EventId::ZERO;
    for _ in 0..10 {
        last = opened.publish(&other, "x").await;
    }
    let items = follower.until(last).await;
    assert!(!items.iter().any(|item| matches!(item, FeedItem::Event(..))));
    let id = opened.publish(&a, "y").await;
    assert_eq!(ids(&follower.events(1).await), [id]);
}

/// What lies at or below the frontier has been handed over.
pub async fn the_frontier_passes_no_entry(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let topics = [topic("a"), topic("b"), topic("other")];
    opened.store.join(topics[..2].to_vec(), EventId::ZERO);
    let (_, position, _) = follower.joined().await;
    let mut given = Vec::new();
    for n in 0..60 {
        given.push((n % 3, opened.publish(&topics[n % 3], &n.to_string()).await));
    }
    let last = given.last().expect("some").1;
    let mut seen = HashSet::new();
    let mut frontier = position.last;
    for item in follower.until(last).await {
        match item {
            FeedItem::Event(event, _) => {
                assert!(event.id > frontier);
                seen.insert(event.id);
                frontier = event.id;
            }
            FeedItem::Frontier(id) => frontier = frontier.max(id),
            _ => {}
        }
        let missed = given
            .iter()
            .find(|(n, id)| *n < 2 && *id <= frontier && *id > position.last && !seen.contains(id));
        assert_eq!(missed, None, "below the frontier {frontier}");
    }
}

/// After it was left, a topic is one of the others.
pub async fn a_topic_that_was_left_is_silent(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let (a, b) = (topic("a"), topic("b"));
    opened.store.join(vec![a.clone(), b.clone()], EventId::ZERO);
    follower.joined().await;
    opened.store.leave(vec![a.clone()]);
    // Some may still come.
    let settled = opened.publish(&b, "1").await;
    follower.until(settled).await;
    opened.publish(&a, "2").await;
    let id = opened.publish(&b, "3").await;
    assert_eq!(ids(&follower.events(1).await), [id]);
    let missed = opened.publish(&a, "4").await;
    opened.store.join(vec![a.clone()], EventId::ZERO);
    let (_, position, _) = follower.joined().await;
    assert_eq!(position.topics[0].last, Some(missed));
    let id = opened.publish(&a, "5").await;
    let events = follower.events(1).await;
    assert_eq!((events[0].id, events[0].previous), (id, missed));
}

/// A second join states a position that lies after everything that was handed over before it.
pub async fn joining_again_states_a_position_in_its_place(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let a = topic("a");
    opened.store.join(vec![a.clone()], EventId::ZERO);
    let (_, first, _) = follower.joined().await;
    let mut before = opened.publish_all(&a, &["1", "2"]).await;
    opened.store.join(vec![a.clone()], before[1]);
    before.push(opened.publish(&a, "3").await);
    let (_, position, handed) = follower.joined().await;
    let last = position.topics[0].last.expect("it has events");
    assert_eq!(ids(&handed), before[..handed.len()]);
    assert_eq!(handed.last().map(|event| event.id), Some(last));
    assert_eq!(position.born, first.born);
    let id = opened.publish(&a, "4").await;
    let rest = before.len() - handed.len() + 1;
    assert_eq!(ids(&follower.events(rest).await).last(), Some(&id));
}

/// After a join, ids lie above what the replica has seen.
pub async fn ids_lie_above_what_was_seen(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let a = topic("a");
    let id = opened.publish(&a, "1").await;
    let seen = EventId::new(id.ms() + 10_000, 7);
    opened.store.join(vec![a.clone()], seen);
    let (_, position, _) = follower.joined().await;
    assert!(position.last >= seen);
    assert_eq!(
        position.topics[0].last,
        Some(id),
        "it is no event of the topic"
    );
    let next = opened.publish(&a, "2").await;
    assert!(next > seen);
    assert_eq!(follower.events(1).await[0].previous, id);
    opened.store.join(vec![a.clone()], EventId::ZERO);
    assert!(follower.joined().await.1.last >= next, "it only rises");
}

/// A lost range is remembered with its topic, once, and a page says so.
pub async fn a_lost_range_is_remembered_and_told(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let (a, b) = (topic("a"), topic("b"));
    opened.store.join(vec![a.clone()], EventId::ZERO);
    follower.joined().await;
    let id = opened.publish(&a, "1").await;
    opened.publish(&b, "1").await;
    let range = LostRange {
        after: id,
        through: EventId::new(id.ms() + 5, 0),
    };
    for _ in 0..2 {
        let recorded = opened.store.record_lost(&a, range).await;
        recorded.expect("the store is well");
    }
    assert_eq!(opened.stand(&a).await.lost, [range]);
    assert!(opened.stand(&b).await.lost.is_empty());
    let page = opened.page(&a, id, 10).await;
    assert_eq!(page.proof().missing(id), Some(GapReason::Lost));
    assert_eq!(page.proof().missing(range.through), None);
    let heard = loop {
        if let FeedItem::Lost(topic, range) = follower.next().await {
            break (topic, range);
        }
    };
    assert_eq!(heard, (a.clone(), range));
    opened.store.join(vec![a.clone()], range.through);
    assert_eq!(follower.joined().await.1.topics[0].lost, [range]);
    for n in 0..40 {
        let after = EventId::new(id.ms() + 10 + n, 0);
        let range = LostRange {
            after,
            through: after.next(),
        };
        let recorded = opened.store.record_lost(&a, range).await;
        recorded.expect("the store is well");
    }
    assert_eq!(opened.stand(&a).await.lost.len(), 16, "the newest stay");
}

/// A topic's last id is remembered until the horizon has passed it.
pub async fn last_ids_are_remembered_until_the_horizon_passes_them(home: &dyn Home) {
    let opened = home.open(keeping_for(AGE), None).await;
    let topics: Vec<Topic> = (0..5).map(|n| topic(&format!("t{n}"))).collect();
    let mut given = Vec::new();
    for round in 0..8 {
        let topic = &topics[round % 5];
        given.push((topic.clone(), opened.publish(topic, "x").await));
        opened.pass(AGE / 2).await;
        opened.store.tidy();
        let last: std::collections::HashMap<_, _> = given.iter().cloned().collect();
        for (topic, last) in last {
            let position = opened.position(&[&topic]).await;
            match position.topics[0].last {
                Some(known) => assert_eq!(known, last),
                None => assert!(position.horizon >= last, "{topic} was forgotten silently"),
            }
        }
    }
    opened.pass(LONG).await;
    opened.store.tidy();
    let position = opened.position(&[]).await;
    assert!(position.horizon <= position.last);
}

/// As long as a topic is followed it is never forgotten, so that its chain goes on from where `Joined` stated.
pub async fn a_followed_topic_is_not_forgotten(home: &dyn Home) {
    let opened = home.open(keeping_for(AGE), None).await;
    let mut follower = opened.follow();
    let (a, other) = (topic("a"), topic("other"));
    let id = opened.publish(&a, "1").await;
    opened.publish(&other, "1").await;
    opened.store.join(vec![a.clone()], EventId::ZERO);
    follower.joined().await;
    for _ in 0..3 {
        opened.pass(LONG).await;
        opened.store.tidy();
    }
    let position = opened.position(&[&a]).await;
    assert_eq!(position.topics[0].last, Some(id));
    let next = opened.publish(&a, "2").await;
    let event = follower.events(1).await.remove(0);
    assert_eq!((event.id, event.previous), (next, id));
}

/// The reader of the feed is told what was taken for its age.
pub async fn the_feed_tells_what_expired(home: &dyn Home) {
    if !home.tells_expiry() {
        return;
    }
    let opened = home.open(keeping_for(AGE), None).await;
    let mut follower = opened.follow();
    let a = topic("a");
    opened.store.join(vec![a.clone()], EventId::ZERO);
    follower.joined().await;
    let given = opened.publish_all(&a, &["1", "2"]).await;
    follower.events(2).await;
    opened.pass(LONG).await;
    opened.store.tidy();
    let through = loop {
        if let FeedItem::Trimmed(topic, through) = follower.next().await {
            assert_eq!(topic, a);
            break through;
        }
    };
    assert_eq!(through, given[1]);
}

/// What is deleted is gone, the reader of the feed is told, and cursors are still judged truthfully.
pub async fn a_deleted_topic_is_told_and_its_last_id_stays(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut follower = opened.follow();
    let (a, b) = (topic("a"), topic("b"));
    opened.store.join(vec![a.clone(), b.clone()], EventId::ZERO);
    follower.joined().await;
    let given = opened.publish_all(&a, &["1", "2", "3"]).await;
    let kept = opened.publish(&b, "kept").await;
    let deleted = opened.store.delete(&a).await;
    assert_eq!(deleted, Ok(3));
    let through = loop {
        if let FeedItem::Trimmed(topic, through) = follower.next().await {
            assert_eq!(topic, a);
            break through;
        }
    };
    assert_eq!(through, given[2]);
    assert!(opened.all(&a).await.is_empty());
    assert_eq!(ids(&opened.all(&b).await), [kept]);
    assert_eq!(opened.stand(&a).await.last, Some(given[2]));
    let page = opened.page(&a, given[1], 10).await;
    assert_eq!(page.proof().missing(given[1]), Some(GapReason::Retention));
    assert_eq!(page.proof().missing(given[2]), None);
    let next = opened.publish(&a, "4").await;
    assert_eq!(opened.all(&a).await[0].previous, given[2]);
    assert_eq!(ids(&opened.all(&a).await), [next]);
    assert_eq!(opened.store.delete(&topic("unknown")).await, Ok(0));
}

/// A log that takes the place of a lost one is born after every id of it.
pub async fn a_fresh_log_is_born_after_every_id_of_the_old_one(home: &dyn Home) {
    let old = home.open(everything(), None).await;
    let a = topic("a");
    let mut last = EventId::ZERO;
    for _ in 0..300 {
        last = last.max(old.publish(&a, "x").await);
    }
    old.pass(Duration::from_millis(5)).await;
    let fresh = home.open(everything(), Some(&old)).await;
    let position = fresh.position(&[&a]).await;
    assert!(position.born > last);
    assert_eq!(position.topics, [TopicPosition::default()]);
    assert!(fresh.publish(&a, "y").await > position.born);
}

/// Operators see how much is kept of a topic, also of one that has nothing left, and nothing of one that nobody published to.
pub async fn a_summary_says_how_much_is_kept_of_a_topic(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let a = topic("a");
    let summary = async || {
        let summary = opened.store.summary(&a).await;
        summary.expect("the store is well")
    };
    assert_eq!(summary().await, None);
    opened.store.join(vec![a.clone()], EventId::ZERO);
    assert_eq!(summary().await, None, "to be followed is no event");
    let given = opened.publish_all(&a, &["", "two\nlines", "3"]).await;
    let bytes: usize = opened.all(&a).await.iter().map(|it| it.wire_bytes()).sum();
    let before = TopicSummary {
        topic: a.clone(),
        events: 3,
        bytes: bytes as u64,
        first: Some(given[0]),
        last: Some(given[2]),
        end: None,
    };
    assert_eq!(summary().await, Some(before.clone()));
    let end = opened.publish_end(&a).await;
    let ended = TopicSummary {
        end: Some(end),
        ..before
    };
    assert_eq!(summary().await, Some(ended.clone()));
    opened.store.delete(&a).await.expect("the store is well");
    let empty = TopicSummary {
        events: 0,
        bytes: 0,
        first: None,
        ..ended
    };
    assert_eq!(summary().await, Some(empty));
}

/// However many topics there are, each is listed once, in the order of the names, in pages of the size that was asked for.
pub async fn topics_are_listed_in_order_and_page_by_page(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let name = |number: usize| topic(&format!("t/{number:04}"));
    let mut given: Vec<Topic> = (0..1_200).rev().map(name).collect();
    given.extend(["s?", "t/", "t", "t/00", "u[1]", "Z", "é"].map(topic));
    for some in given.chunks(100) {
        let batch = some.iter().map(|topic| event(topic, "x")).collect();
        for answer in opened.store.append(batch).await {
            answer.expect("the store is well");
        }
    }
    given.sort();
    let list = async |prefix: &str, after: &str, limit: usize| {
        let listing = Listing {
            prefix: prefix.into(),
            after: after.into(),
            limit,
        };
        let page = opened.store.topics(&listing).await;
        let page = page.expect("the store is well");
        assert!(page.topics.len() <= limit);
        assert!(page.topics.iter().all(|summary| summary.events == 1));
        let names: Vec<Topic> = page.topics.into_iter().map(|it| it.topic).collect();
        (names, page.more)
    };
    assert_eq!(list("", "", 10_000).await, (given.clone(), false));
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let (names, more) = list("", &after, 250).await;
        all.extend(names);
        if !more {
            break;
        }
        after = all.last().map(Topic::to_string).expect("there are more");
    }
    assert_eq!(all, given);
    let (names, more) = list("t/", "t/0", 3).await;
    assert_eq!(names, ["t/00", "t/0000", "t/0001"].map(topic));
    assert!(more);
    assert_eq!(list("u[", "", 3).await, (vec![topic("u[1]")], false));
    assert_eq!(list("s?", "", 1).await, (vec![topic("s?")], false));
    assert_eq!(list("nothing", "", 3).await, (Vec::new(), false));
    assert_eq!(list("t/", "u", 3).await, (Vec::new(), false));
}

/// An entry is found by its id alone, wherever it is, and also where it is known of which topic it is.
pub async fn an_entry_is_found_by_its_id(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let name = |number: usize| topic(&format!("t{number}"));
    let (a, gone) = (topic("a"), topic("gone"));
    let wanted = opened.publish_all(&a, &["1", "2", "3"]).await[1];
    let deleted = opened.publish(&gone, "x").await;
    let end = opened.publish_end(&a).await;
    let batch = (0..1_200).map(|number| event(&name(number), "x")).collect();
    let others = opened.store.append(batch).await;
    opened.store.delete(&gone).await.expect("the store is well");
    let find = async |id, topic| {
        let found = opened.store.find(id, topic).await;
        found.expect("the store is well")
    };
    for topic in [None, Some(&a)] {
        let found = find(wanted, topic).await.expect("it is stored");
        assert_eq!((found.id, &found.topic, &*found.data), (wanted, &a, "2"));
        let found = find(end, topic).await.expect("it is stored");
        assert_eq!((found.id, &found.topic, found.end), (end, &a, true));
    }
    let other = others[700].as_ref().expect("it is stored").id;
    let found = find(other, None).await.expect("it is stored");
    assert_eq!(found.topic, name(700));
    assert_eq!(find(wanted, Some(&gone)).await, None);
    assert_eq!(find(deleted, None).await, None);
    assert_eq!(find(deleted, Some(&gone)).await, None);
    assert_eq!(find(EventId::ZERO, None).await, None);
    assert_eq!(find(EventId::MAX, None).await, None);
    assert_eq!(find(EventId::MAX, Some(&topic("unknown"))).await, None);
}

/// Runs every promise against a [`Home`], each as a test of its own, in a module of the given name.
#[doc(hidden)]
#[macro_export]
macro_rules! store_contract {
    ($store:ident, $home:expr) => {
        $crate::store_contract!(@each $store, $home,
            ids_increase_over_all_topics
            ids_increase_when_the_clock_goes_back
            racing_publishers_make_one_log
            answers_stand_where_their_events_stood
            what_was_acknowledged_is_read_back
            each_entry_names_its_predecessor
            the_chain_survives_expiry
            a_repetition_under_the_same_key_is_answered_with_the_first_id
            another_payload_under_the_same_key_is_refused
            a_key_belongs_to_one_caller_and_topic
            a_key_is_forgotten_after_its_window
            an_end_takes_an_id_of_its_own
            nothing_is_published_after_the_end
            an_end_is_no_event
            an_end_outlives_the_events
            retention_keeps_a_count
            retention_keeps_bytes
            retention_keeps_an_age
            retention_follows_the_rule_of_a_prefix
            the_total_budget_takes_the_oldest_of_all_topics
            names_without_events_do_not_push_events_out
            a_position_says_where_the_log_stands
            a_page_ends_at_its_limit_and_says_whether_there_is_more
            a_page_proves_what_is_missing
            the_newest_come_newest_first
            the_feed_goes_on_from_the_stated_position
            the_feed_tells_of_other_topics_only_the_frontier
            the_frontier_passes_no_entry
            a_topic_that_was_left_is_silent
            joining_again_states_a_position_in_its_place
            ids_lie_above_what_was_seen
            a_lost_range_is_remembered_and_told
            last_ids_are_remembered_until_the_horizon_passes_them
            a_followed_topic_is_not_forgotten
            the_feed_tells_what_expired
            a_deleted_topic_is_told_and_its_last_id_stays
            a_fresh_log_is_born_after_every_id_of_the_old_one
            a_claim_has_one_winner
            a_claim_is_free_again_after_its_time
            replicas_share_a_secret_with_nobody_else
            a_letter_reaches_its_replica_and_no_other
            letters_come_again_after_the_feed_was_cut
            a_replica_that_is_gone_takes_no_letters
            letters_that_nobody_reads_are_dropped_and_counted
            a_letter_that_is_too_long_is_not_sent
            a_user_is_told_once_however_many_replicas_it_is_on
            a_user_may_be_called_anything
            whoever_is_silent_is_swept_and_nobody_else
            a_replica_is_told_what_became_of_its_words
            the_first_users_are_listed_and_all_are_counted
            the_table_agrees_with_a_model
            changed_retention_takes_effect
            changed_retention_reaches_quiet_topics
            a_smaller_total_budget_takes_the_oldest
            a_summary_says_how_much_is_kept_of_a_topic
            topics_are_listed_in_order_and_page_by_page
            an_entry_is_found_by_its_id
        );
    };
    (@each $store:ident, $home:expr, $($promise:ident)*) => {
        mod $store {
            $(
                #[tokio::test]
                async fn $promise() {
                    $crate::store::contract::$promise(&$home).await;
                }
            )*
        }
    };
}

#[cfg(test)]
mod tests {
    store_contract!(memory, crate::store::contract::MemoryHome);
    store_contract!(
        faulty_without_faults,
        crate::store::contract::FaultyHome::default()
    );
    store_contract!(
        faulty_and_slow,
        crate::store::contract::FaultyHome {
            faults: crate::store::faulty::Faults {
                delay: std::time::Duration::from_millis(3),
                slow: std::time::Duration::from_millis(2),
                ..crate::store::faulty::Faults::default()
            },
            seed: 7,
        }
    );
}
