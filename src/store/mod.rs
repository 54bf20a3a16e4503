//! The whole log, as far as retention keeps it.
//!
//! A [`Store`] appends, reads, says where the log stands, and feeds the hub with what is new. Every store keeps the same
//! promises; `store::contract` holds each of them against the same tests.
//!
//! # Promises
//! 1. Ids increase over all topics, also when the clock goes back, and after [`Store::join`] lie above what it was told.
//! 2. What `append` has answered with an id is in the log, as durably as the store is configured.
//! 3. An entry names its predecessor in the topic, also when that one has expired.
//! 4. The feed hands over the entries of a joined topic in order, from the position that `Joined` states, without a hole,
//!    until it says [`FeedItem::Cut`]. Where it breaks this promise, the entry's predecessor gives it away.
//! 5. A topic's last id is remembered until [`Position::horizon`] has passed it.
//! 6. All replicas of a deployment get the same [`Store::secret`], and a [`Store::claim`] has one winner, as long as the
//!    store loses nothing.
//! 7. Who follows what is kept as [`presence`] says.
//!
//! Not here: tails, cursors, subscribers ([`crate::hub`]).

#[doc(hidden)]
pub mod contract;
#[doc(hidden)]
pub mod faulty;
mod letters;
mod listing;
mod mailbox;
pub mod memory;
pub mod presence;
pub mod redis;
mod replica;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

pub use letters::{AskError, Letters, PATIENCE};
pub use listing::{Listing, TopicPage, TopicSummary};
pub use mailbox::{LETTER_BYTES, Mailbox};
pub use replica::ReplicaReport;

use self::presence::{Heard, Presence, Whereabouts, Word};

use crate::{
    event::{Event, EventId, EventType, Topic},
    log::{LostRange, Proof, RetentionRules},
    telemetry::Latencies,
};

/// A home of the log.
pub trait Store: Send + Sync + 'static {
    /// Stores events in the given order; each has its own answer, at the same place.
    fn append(&self, batch: Vec<Append>) -> BoxFuture<'_, Vec<Result<Appended, AppendError>>>;

    /// Where the log stands now.
    fn position<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<Position, StoreError>>;

    /// The events of `topic` after `after`, oldest first, at most `limit`, with what proves their completeness.
    fn read<'a>(
        &'a self,
        topic: &'a Topic,
        after: EventId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>>;

    /// The ids of the newest `count` events of `topic`, newest first.
    fn newest<'a>(
        &'a self,
        topic: &'a Topic,
        count: usize,
    ) -> BoxFuture<'a, Result<Vec<EventId>, StoreError>>;

    /// Asks for the entries of `topics` in the feed; [`FeedItem::Joined`] answers there. Asking again is no mistake: it is
    /// how a hole is closed. Ids given from then on lie above `seen`. No topics: only the position is asked for.
    fn join(&self, topics: Vec<Topic>, seen: EventId);

    /// Wants no more entries of `topics`. Some may still come.
    fn leave(&self, topics: Vec<Topic>);

    /// Records that entries of `topic` were acknowledged and then lost. What is new of it reaches every replica that has
    /// joined the topic by [`FeedItem::Lost`].
    fn record_lost<'a>(
        &'a self,
        topic: &'a Topic,
        range: LostRange,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Takes every event of `topic`, and says how many there were. Its last id and its end stay, so that cursors are judged
    /// truthfully; the feed tells every replica by [`FeedItem::Trimmed`].
    fn delete<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<usize, StoreError>>;

    /// What is known of one topic; none where that is nothing.
    fn summary<'a>(
        &'a self,
        topic: &'a Topic,
    ) -> BoxFuture<'a, Result<Option<TopicSummary>, StoreError>>;

    /// Topics of which something is known, in the order of their names. However many there are, nobody waits for the answer
    /// but who asked.
    fn topics<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<TopicPage, StoreError>>;

    /// The entry with this id, of `topic` or of any; also the end of a topic. It may have to be looked for everywhere, but
    /// nobody else waits for that.
    fn find<'a>(
        &'a self,
        id: EventId,
        topic: Option<&'a Topic>,
    ) -> BoxFuture<'a, Result<Option<Arc<Event>>, StoreError>>;

    /// The feed, for the one hub of this replica.
    ///
    /// # Panics
    /// When it is taken a second time.
    fn feed(&self) -> Box<dyn Feed>;

    /// Housekeeping that needs no request: called about once a second.
    fn tidy(&self);

    /// Whether the store answers, and how fast.
    fn ping(&self) -> BoxFuture<'_, Result<Duration, StoreError>>;

    /// Whether it is known that the store cannot be reached at the moment.
    fn away(&self) -> bool {
        false
    }

    /// Whether replicas may still be about to tell the store what they have seen, because it has just moved to another
    /// server: an id above its last one may be one that was given out and lost.
    fn settling(&self) -> bool {
        false
    }

    /// What an operator should mend though the store works.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Says to the other replicas what this one is. It counts for a few seconds: whoever dies is forgotten.
    fn announce<'a>(&'a self, report: &'a ReplicaReport) -> BoxFuture<'a, Result<(), StoreError>>;

    /// This replica ends.
    fn retire<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What every live replica last said of itself.
    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaReport>, StoreError>>;

    /// A random secret that all replicas of this deployment share, and nobody else. It is made once, and known without asking
    /// after the first success. A store that loses everything may lose it, too: what was signed with it is then worth nothing.
    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>>;

    /// True for exactly one caller, over all replicas, within the given time from then on: what may be used once is used by
    /// whoever wins. An error is no win; after [`StoreError::Timeout`] the name may be taken, and nobody has won it. A store that loses what it acknowledged (a failover) may forget a claim with it.
    fn claim<'a>(
        &'a self,
        name: &'a str,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Where letters to the replica of this name are taken from.
    ///
    /// # Panics
    /// When it is taken a second time.
    fn mailbox(&self, replica: &str) -> Mailbox;

    /// Sends a letter, at most [`LETTER_BYTES`] long, to the mailbox of a replica; it arrives once at most. False: nobody
    /// listens there at this moment, because the replica is gone, or is connecting to the store again.
    fn send<'a>(
        &'a self,
        replica: &'a str,
        letter: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Takes the word of a replica on who came to it and left. It may be said again when no answer came.
    fn hear<'a>(&'a self, word: &'a Word) -> BoxFuture<'a, Result<Heard, StoreError>>;

    /// Takes some of what a replica has said, whose lease is over: its users leave, but for those who are elsewhere, too.
    /// Returns whether there is more, and how many came and left as far as events tell it. Of one that lives nothing is taken.
    fn sweep<'a>(
        &'a self,
        replica: &'a Arc<str>,
    ) -> BoxFuture<'a, Result<(bool, [u64; 2]), StoreError>>;

    /// Everything that the word of this replica says.
    fn said<'a>(&'a self, replica: &'a str) -> BoxFuture<'a, Result<Vec<Whereabouts>, StoreError>>;

    /// Who is at these topics; of no topic: anywhere.
    fn present<'a>(
        &'a self,
        places: &'a [Option<Topic>],
    ) -> BoxFuture<'a, Result<Presence, StoreError>>;

    /// Other settings from now on. They take effect by and by: with what is published, and by [`Store::tidy`]. Where replicas
    /// share the store, the last that says so wins.
    fn retain(&self, keep: Keep);

    /// What it holds, where that is known without asking.
    fn stats(&self) -> StoreStats;

    /// The greatest id ever given, where that is known without asking: new streams then wait until the hub has seen it, and
    /// are told exactly what the store would say.
    fn last(&self) -> Option<EventId> {
        None
    }

    /// How long its commands take, where there are commands.
    fn latency(&self) -> Option<Latencies> {
        None
    }

    /// How it reaches Redis, where it is in Redis.
    fn about(&self) -> Option<RedisAbout> {
        None
    }

    /// The name of this kind of store, for health and metrics.
    fn kind(&self) -> &'static str;
}

/// What a store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// What is kept of each topic.
    pub retention: RetentionRules,
    /// Memory of the whole store, where it is in memory; beyond it the oldest event goes, whichever topic it belongs to.
    pub total_bytes: usize,
    /// How long an idempotency key is remembered. One that was used keeps the time that it was given.
    pub idempotency_window: Duration,
    /// The longest data of an event, for producers that do not go through the gateway.
    pub event_bytes: usize,
}

/// What is new, in order.
pub trait Feed: Send {
    /// Waits until there is something and moves all of it to `items`.
    fn next<'a>(&'a mut self, items: &'a mut Vec<FeedItem>) -> BoxFuture<'a, ()>;
}

/// One step of the feed.
#[derive(Clone, Debug)]
pub enum FeedItem {
    /// An entry of a joined topic, and when it was stored or came in.
    Event(Arc<Event>, Instant),
    /// Every entry of the joined topics up to this id has been handed over.
    Frontier(EventId),
    /// From this position on the entries of these topics are handed over. No topics: this is where the log stands.
    Joined(Vec<Topic>, Box<Position>),
    /// The store no longer has the entries of this topic up to this id: nothing in memory may go on proving them.
    Trimmed(Topic, EventId),
    /// Some replica has recorded that entries of this topic were lost.
    Lost(Topic, LostRange),
    /// The feed was cut: anything may be missing, and every topic has to be joined again.
    Cut,
}

/// An event to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Where it goes.
    pub topic: Topic,
    /// What it is.
    pub kind: EventType,
    /// What it says; none: only the end is stored.
    pub data: Option<Box<str>>,
    /// Whether the topic ends after it.
    pub end: bool,
    /// Makes a repetition safe.
    pub key: Option<IdempotencyKey>,
}

/// Who repeats what: a key is remembered for one caller and topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Who publishes.
    pub caller: Arc<str>,
    /// 1 to 255 printable ASCII characters.
    pub key: Box<str>,
}

/// A stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its id; of an end without an event, that of the end.
    pub id: EventId,
    /// Whether it had been stored before, under the same key.
    pub duplicate: bool,
}

/// Why an event was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The topic has ended.
    #[error("topic {0} is finished")]
    Finished(Topic),
    /// The key was used for another payload.
    #[error("this idempotency key was used for another payload on the same topic")]
    Mismatch,
    /// The store could not be asked, or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the store gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It was not asked: nothing has happened.
    #[error("the event store is unavailable: {0}")]
    Unavailable(String),
    /// It was asked and did not answer in time: what happened is unknown.
    #[error("the event store did not answer in time, whether it did what was asked is unknown")]
    Timeout,
}

/// Where the log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The id that lies below every entry of this log: an older cursor belongs to a log that is gone.
    pub born: EventId,
    /// The greatest id that was ever given.
    pub last: EventId,
    /// Last ids of topics up to this one may have been forgotten.
    pub horizon: EventId,
    /// The store's clock, in Unix milliseconds.
    pub now_ms: u64,
    /// One for each topic that was asked for, in that order.
    pub topics: Vec<TopicPosition>,
}

/// Where one topic stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPosition {
    /// The id of its newest event, as long as it is remembered.
    pub last: Option<EventId>,
    /// The id of its end, once it is finished.
    pub end: Option<EventId>,
    /// What failovers lost of it.
    pub lost: Vec<LostRange>,
    /// The id of its oldest entry that is still there. Only a position states it, a page does not.
    pub first: Option<EventId>,
}

/// A stretch of one topic's log.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<Arc<Event>>,
    /// Whether there are more after them.
    pub more: bool,
    /// Where the topic stands.
    pub topic: TopicPosition,
    /// As [`Position::horizon`].
    pub horizon: EventId,
    /// As [`Position::born`]: of which log it is a page.
    pub born: EventId,
}

impl Page {
    /// Whether this page and a position of the same log could be stated one after the other: `at` was the last id of all, and
    /// the topic stood at `stand`. They are of two logs if what came next follows another entry, because a failover was between.
    pub fn continues(&self, stand: &TopicPosition, at: EventId) -> bool {
        let next = self.events.iter().find(|event| event.id > at);
        let last = match next {
            Some(next) => Some(next.previous),
            None if self.more => None,
            None => self.topic.last,
        };
        // What came after the position may have been taken since.
        last.zip(stand.last)
            .is_none_or(|(last, stood)| last == stood || last > at)
    }

    /// What this page proves about a cursor at the place from which it was read.
    pub fn proof(&self) -> Proof {
        Proof {
            first_previous: self.events.first().map(|event| event.previous),
            last: self.topic.last,
            horizon: self.horizon,
            lost: self.topic.lost.clone(),
        }
    }
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Topics that are remembered.
    pub topics: usize,
    /// Events that are retained.
    pub events: usize,
    /// Their bytes on the wire.
    pub bytes: usize,
    /// Idempotency keys that are remembered.
    pub idempotency_keys: usize,
    /// Entries of the feed that wait for the hub.
    pub feed_backlog: usize,
    /// Their bytes.
    pub feed_backlog_bytes: usize,
    /// Times that something was passed over because it was not written by the gateway's rules.
    pub entries_skipped: u64,
    /// Letters that were dropped because the mailbox was full, or because they were none.
    pub letters_dropped: u64,
    /// What only a Redis store has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisStats>,
    /// What producers put into Redis themselves; where this replica has a part in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest: Option<IngestStats>,
}

/// How events of producers fare that can only `XADD`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct IngestStats {
    /// Whether it is this replica that moves them.
    pub moves: bool,
    /// Entries that this replica has made events of.
    pub moved: u64,
    /// Entries whose idempotency key had stored their event before.
    pub duplicates: u64,
    /// Entries that became dead letters.
    pub dead: u64,
    /// Entries that wait.
    pub pending: u64,
    /// Milliseconds that the oldest of these has waited.
    pub lag_ms: u64,
    /// Dead letters that are kept.
    pub dead_letters: u64,
}

/// How the Redis store fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RedisStats {
    /// Whether the feed is open.
    pub up: bool,
    /// Times that another server was found to have the log.
    pub master_changes: u64,
    /// Connections opened.
    pub connects: u64,
    /// Commands answered, without those of the feed.
    pub commands: u64,
}

/// How a Redis store reaches the log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RedisAbout {
    /// How the server is found: `url`, `sentinel` or `cluster`.
    pub via: &'static str,
    /// The server that has the log, `host:port`, as it was found last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Whether it runs `functions`, or the same source as `scripts`; none before the first contact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<&'static str>,
}
