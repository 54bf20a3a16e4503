//! The store that replicas share: the log in Redis 7 or later, or Valkey.
//!
//! ```text
//!  append ──► publisher ──► pipe ──────► FCALL tidegate_publish_batch ─┐
//!  read, newest, position ► pipe ──────► XRANGE, tidegate_position     │ one step: id, entry, last id, message
//!  join, leave ──► exchange ──► feed ──► SSUBSCRIBE, tidegate_position │
//!  hub ◄─── items ◄──┘          └─────── messages ◄────────────────────┘
//! ```
//!
//! What is atomic is a function (`functions.lua`); what is durable is a key (`keys.rs`); where the log stands is said on the
//! feed (`feed.rs`). Four connections: publishes, reads, the feed, and ingest (`ingest.rs`), which waits for entries; none waits
//! for another.
//!
//! # Promises
//! 1. Those of [`crate::store`].
//! 2. [`StoreError::Unavailable`] means that not one byte of the request was sent, or that Redis said it did nothing.
//! 3. Connections come back by themselves, for ever.
//!
//! Which server takes the writes is asked of sentinels or of the nodes of a cluster, where there are any (`place.rs`).

mod backoff;
mod calls;
mod cluster;
mod council;
#[doc(hidden)]
pub mod entry;
mod exchange;
mod feed;
mod guide;
#[doc(hidden)]
pub mod ingest;
mod keys;
mod letters;
mod library;
mod link;
mod listing;
mod pages;
mod pipe;
mod place;
mod positions;
mod presence;
mod publisher;
#[doc(hidden)]
pub mod resp;
mod secret;
mod sentinel;
mod settings;
mod stats;
mod tls;
mod url;

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use calls::SOURCE as FUNCTIONS;
pub use place::{Sentinels, Via};
pub use tls::RedisTlsError;
pub use url::{Address, Credentials, RedisUrl, RedisUrlError};

use self::{
    calls::{Calls, Function, is_missing},
    exchange::{Exchange, RedisFeed},
    ingest::Ingest,
    keys::Keys,
    letters::Addressee,
    link::{Endpoint, LinkError},
    pages::Pages,
    pipe::{CallError, Pipe, PipeConfig},
    positions::Positions,
    publisher::{Publisher, PublisherConfig},
    resp::{Request, Value},
    secret::Secret,
    settings::Settings,
    stats::{Counters, Health},
};
use super::{
    Append, AppendError, Appended, Feed, FeedItem, Keep, Listing, Mailbox, Page, Position,
    RedisAbout, RedisStats, ReplicaReport, Store, StoreError, StoreStats, TopicPage, TopicSummary,
    mailbox,
    presence::{Heard, Presence, Whereabouts, Word},
};
use crate::{
    event::{Event, EventId, Topic},
    log::{LostRange, RetentionRules},
};

/// How long the word of a replica that has fallen silent counts.
pub const LEASE: Duration = Duration::from_secs(5);

/// Settings of the Redis store.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is, unless others say so; how to speak to it.
    pub url: RedisUrl,
    /// Who says where the server is that takes writes.
    pub via: Via,
    /// How the names of all keys begin.
    pub prefix: String,
    /// Certificates for `rediss://`.
    pub tls: RedisTls,
    /// How many replicas of Redis must have an event before it is acknowledged.
    pub wait_replicas: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Bytes of the feed that may wait for the hub.
    pub backlog_bytes: usize,
    /// What is kept of each topic.
    pub retention: RetentionRules,
    /// The longest data of an event, for other producers.
    pub event_bytes: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// Whether this replica moves what others put into the ingest stream.
    pub ingest: bool,
}

/// Certificates for `rediss://`, in PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Roots that take the place of the system's.
    pub ca: Option<PathBuf>,
    /// What this side shows.
    pub certificate: Option<PathBuf>,
    /// The key that belongs to it.
    pub key: Option<PathBuf>,
}

/// What this replica knows of the log's ids.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The birth of the log that the hub knows; none before the first position.
    born: Option<EventId>,
    /// The highest id that anybody here has seen. What came after the last position may be of a newer log.
    highest: EventId,
    /// The highest id that a position of that log has stated: certainly of that one.
    confirmed: EventId,
}

/// What all parts share.
struct Shared {
    endpoint: Arc<Endpoint>,
    keys: Keys,
    settings: Settings,
    backlog_bytes: usize,
    exchange: Exchange,
    seen: Mutex<Seen>,
    secret: Secret,
    /// Where the letters to this replica go, once it takes them.
    letters: OnceLock<Addressee>,
    health: Arc<Health>,
    counters: Arc<Counters>,
    /// None: this replica has no part in it.
    ingest: Option<Arc<Ingest>>,
    stop: CancellationToken,
}

impl Shared {
    fn push(&self, item: FeedItem) {
        self.exchange.push(item, self.backlog_bytes);
    }
}

/// A log in Redis.
pub struct RedisStore {
    shared: Arc<Shared>,
    publisher: Publisher,
    /// Where the publisher sends, too: a connection that has seen to it that new ids lie above everything seen.
    publishes: Pipe,
    reads: Pipe,
    feed_taken: AtomicBool,
    positions: Positions,
    pages: Pages,
    _stop: DropGuard,
}

impl RedisStore {
    /// A store, with its tasks running; it connects by itself, now or when Redis is there.
    ///
    /// # Errors
    /// When the certificates of the settings cannot be used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: RedisConfig) -> Result<Self, RedisTlsError> {
        let stop = CancellationToken::new();
        let keys = Keys::new(&config.prefix);
        let endpoint = Endpoint::new(
            &config.url,
            config.via,
            &config.tls,
            keys.meta.as_str().into(),
            stop.clone(),
        )?;
        let shared = Arc::new(Shared {
            endpoint: Arc::new(endpoint),
            keys,
            settings: Settings::new(&Keep {
                retention: config.retention,
                total_bytes: usize::MAX,
                idempotency_window: config.idempotency_window,
                event_bytes: config.event_bytes,
            }),
            backlog_bytes: config.backlog_bytes,
            exchange: Exchange::default(),
            seen: Mutex::default(),
            secret: Secret::default(),
            letters: OnceLock::new(),
            health: Arc::default(),
            counters: Arc::default(),
            ingest: config.ingest.then(|| Arc::new(Ingest::new())),
            stop: stop.clone(),
        });
        shared.health.away("it was not reached yet");
        let pipe = |purpose, prepare| {
            let (pipe, task) = Pipe::new(PipeConfig {
                endpoint: shared.endpoint.clone(),
                purpose,
                timeout: config.timeout,
                counters: shared.counters.clone(),
                health: shared.health.clone(),
                prepare,
                stop: stop.clone(),
            });
            tokio::spawn(task);
            pipe
        };
        let preparing = shared.clone();
        let publishes = pipe(
            "publish",
            Arc::new(move |link| {
                let shared = preparing.clone();
                async move {
                    library::load(link).await?;
                    library::begin(link, &shared).await.map(|_| ())
                }
                .boxed()
            }),
        );
        let reads = pipe("read", Arc::new(|link| library::load(link).boxed()));
        let (publisher, task) = Publisher::new(PublisherConfig {
            pipe: publishes.clone(),
            shared: shared.clone(),
            wait_replicas: config.wait_replicas,
            timeout: config.timeout,
            stop: stop.clone(),
        });
        tokio::spawn(task);
        tokio::spawn(feed::run(shared.clone()));
        if let Via::Cluster(_) = shared.endpoint.place.via() {
            tokio::spawn(cluster::teach(shared.clone()));
        }
        if let Some(ingest) = &shared.ingest {
            tokio::spawn(ingest::run(shared.clone(), ingest.clone()));
        }
        Ok(Self {
            shared,
            publisher,
            publishes,
            reads,
            feed_taken: AtomicBool::new(false),
            positions: Positions::default(),
            pages: Pages::default(),
            _stop: stop.drop_guard(),
        })
    }

    /// The way for what gives out ids, unless none may be given out now.
    fn events(&self) -> Result<&Pipe, StoreError> {
        match self.shared.health.why_closed() {
            Some(why) => Err(StoreError::Unavailable(why.to_string())),
            None => Ok(&self.publishes),
        }
    }

    /// One reading request: an error of Redis means that nothing was done.
    async fn ask(&self, request: Request) -> Result<Value, StoreError> {
        ask(&self.reads, request).await
    }
}

fn unexpected() -> StoreError {
    StoreError::Unavailable(LinkError::Unexpected.to_string())
}

/// Of a request that writes nothing.
fn unavailable(error: CallError) -> StoreError {
    match error {
        CallError::NotSent(why) => StoreError::Unavailable(why.to_string()),
        CallError::Unknown => StoreError::Unavailable("it did not answer in time".into()),
    }
}

/// Asks what may be asked twice. Where somebody took the functions away, they are loaded again.
async fn ask(pipe: &Pipe, request: Request) -> Result<Value, StoreError> {
    let answer = pipe.call(request.clone()).await.map_err(unavailable)?;
    let answer = match answer {
        Value::Error(text) if is_missing(&text) => {
            pipe.call(request.loading()).await.map_err(unavailable)?;
            pipe.call(request).await.map_err(unavailable)?
        }
        // The pipe follows to where the keys are.
        Value::Error(text) if text.starts_with("MOVED ") => {
            pipe.call(request).await.map_err(unavailable)?
        }
        answer => answer,
    };
    match answer {
        Value::Error(text) => Err(StoreError::Unavailable(text.into())),
        value => Ok(value),
    }
}

impl Store for RedisStore {
    fn append(&self, batch: Vec<Append>) -> BoxFuture<'_, Vec<Result<Appended, AppendError>>> {
        if batch.is_empty() {
            return std::future::ready(Vec::new()).boxed();
        }
        self.publisher.append(batch).boxed()
    }

    fn position<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<Position, StoreError>> {
        if topics.is_empty() {
            return self.positions.ask(&self.reads, &self.shared).boxed();
        }
        positions::read(&self.reads, &self.shared, topics).boxed()
    }

    fn read<'a>(
        &'a self,
        topic: &'a Topic,
        after: EventId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        self.pages
            .read(&self.reads, &self.shared, topic, after, limit)
            .boxed()
    }

    fn newest<'a>(
        &'a self,
        topic: &'a Topic,
        count: usize,
    ) -> BoxFuture<'a, Result<Vec<EventId>, StoreError>> {
        async move {
            let keys = &self.shared.keys;
            let stream = keys.topic(topic);
            let request = Request::call(Function::NEWEST, [&keys.meta, &stream]);
            let ids = self.ask(request.arg(count.to_string())).await?;
            let ids = ids.array().ok_or_else(unexpected)?;
            let id = |value: &Value| value.text()?.parse().ok();
            ids.iter()
                .map(|value| id(value).ok_or_else(unexpected))
                .collect()
        }
        .boxed()
    }

    fn join(&self, topics: Vec<Topic>, seen: EventId) {
        let raise = {
            let mut known = self.shared.seen.lock();
            let raise = seen > known.highest;
            known.highest = known.highest.max(seen);
            raise
        };
        self.shared.exchange.join(topics, raise);
    }

    fn leave(&self, topics: Vec<Topic>) {
        self.shared.exchange.leave(topics);
    }

    fn record_lost<'a>(
        &'a self,
        topic: &'a Topic,
        range: LostRange,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let keys = &self.shared.keys;
            let names = [&*keys.meta, &*keys.lost, &keys.channel(topic)];
            let request = Request::call(Function::LOST, names)
                .arg(topic.as_str())
                .arg(range.after.to_string())
                .arg(range.through.to_string());
            self.ask(request).await.map(|_| ())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<usize, StoreError>> {
        async move {
            let keys = &self.shared.keys;
            let (stream, channel) = (keys.topic(topic), keys.channel(topic));
            let names = [&*keys.meta, &*keys.last, &*keys.heads, &*stream, &*channel];
            let request = Request::call(Function::DELETE, names).arg(topic.as_str());
            let answer = match self.reads.call(request.clone()).await {
                // Nothing was done, except where the functions had to be loaded again first.
                Ok(Value::Error(_)) => self.ask(request).await?,
                Ok(answer) => answer,
                Err(CallError::NotSent(why)) => {
                    return Err(StoreError::Unavailable(why.to_string()));
                }
                // It may have been done.
                Err(CallError::Unknown) => return Err(StoreError::Timeout),
            };
            let count = answer
                .array()
                .and_then(<[_]>::first)
                .and_then(Value::number);
            Ok(count
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(0))
        }
        .boxed()
    }

    fn summary<'a>(
        &'a self,
        topic: &'a Topic,
    ) -> BoxFuture<'a, Result<Option<TopicSummary>, StoreError>> {
        listing::summary(&self.reads, &self.shared, topic).boxed()
    }

    fn topics<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<TopicPage, StoreError>> {
        listing::topics(&self.reads, &self.shared, listing).boxed()
    }

    fn find<'a>(
        &'a self,
        id: EventId,
        topic: Option<&'a Topic>,
    ) -> BoxFuture<'a, Result<Option<Arc<Event>>, StoreError>> {
        listing::find(&self.reads, &self.shared, id, topic).boxed()
    }

    fn feed(&self) -> Box<dyn Feed> {
        let taken = self.feed_taken.swap(true, Ordering::AcqRel);
        assert!(!taken, "one hub takes the feed");
        Box::new(RedisFeed {
            shared: self.shared.clone(),
        })
    }

    fn tidy(&self) {
        // Expiry is done by Redis, and by each publish.
    }

    fn ping(&self) -> BoxFuture<'_, Result<Duration, StoreError>> {
        async move {
            if let Some(why) = self.shared.health.why_away() {
                return Err(StoreError::Unavailable(why.to_string()));
            }
            let since = Instant::now();
            // A cluster that is down answers a PING, and refuses a key.
            let look = Request::new("EXISTS").arg(&self.shared.keys.meta);
            self.ask(look).await?;
            Ok(since.elapsed())
        }
        .boxed()
    }

    fn away(&self) -> bool {
        self.shared.health.why_away().is_some()
    }

    fn settling(&self) -> bool {
        self.shared.endpoint.place.is_settling()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.shared.health.warnings();
        warnings.extend(self.shared.endpoint.place.warnings());
        let ingest = self.shared.ingest.as_deref();
        warnings.extend(ingest.map_or_else(Vec::new, Ingest::warnings));
        warnings
    }

    fn announce<'a>(&'a self, report: &'a ReplicaReport) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let json = serde_json::to_string(report).expect("a report is JSON");
            self.lease(&report.id, LEASE, &json).await
        }
        .boxed()
    }

    fn retire<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            if let Some(ingest) = &self.shared.ingest
                && let Some(request) = ingest::retire(&self.shared, ingest)
            {
                // Others take over as soon as it has ended; this only spares them the wait.
                let _ = self.ask(request).await;
            }
            self.lease(id, Duration::ZERO, "").await
        }
        .boxed()
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaReport>, StoreError>> {
        async move {
            let keys = &self.shared.keys;
            let names = [&*keys.meta, &*keys.replicas];
            let request = Request::call(Function::REPLICAS, names);
            let reports = self.ask(request).await?;
            let reports = reports.array().ok_or_else(unexpected)?;
            // What another version wrote in another form is none of ours.
            let report = |value: &Value| serde_json::from_slice(value.bytes()?).ok();
            Ok(reports.iter().filter_map(report).collect())
        }
        .boxed()
    }

    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        self.shared
            .secret
            .ask(&self.reads, &self.shared.keys)
            .boxed()
    }

    fn claim<'a>(
        &'a self,
        name: &'a str,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        async move {
            let claim = Request::new("SET")
                .arg(self.shared.keys.claim(name))
                .args(["1", "NX", "PX"])
                .arg(lasts.as_millis().max(1).to_string());
            match self.reads.call(claim).await {
                Ok(Value::Null) => Ok(false),
                Ok(Value::Error(text)) => Err(StoreError::Unavailable(text.into())),
                Ok(_) => Ok(true),
                Err(CallError::NotSent(why)) => Err(StoreError::Unavailable(why.to_string())),
                Err(CallError::Unknown) => Err(StoreError::Timeout),
            }
        }
        .boxed()
    }

    fn mailbox(&self, replica: &str) -> Mailbox {
        let (mailbox, slot) = Mailbox::new();
        let addressee = Addressee {
            channel: self.shared.keys.letters(replica),
            slot,
        };
        let taken = self.shared.letters.set(addressee).is_err();
        assert!(!taken, "a replica has one mailbox");
        self.shared.exchange.wake();
        mailbox
    }

    fn send<'a>(
        &'a self,
        replica: &'a str,
        letter: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        async move {
            mailbox::check(letter)?;
            let send = Request::new("SPUBLISH")
                .arg(self.shared.keys.letters(replica))
                .arg(letter);
            match self.reads.call(send).await {
                Ok(Value::Error(text)) => Err(StoreError::Unavailable(text.into())),
                Ok(receivers) => Ok(receivers.number().ok_or_else(unexpected)? > 0),
                Err(CallError::NotSent(why)) => Err(StoreError::Unavailable(why.to_string())),
                Err(CallError::Unknown) => Err(StoreError::Timeout),
            }
        }
        .boxed()
    }

    fn hear<'a>(&'a self, word: &'a Word) -> BoxFuture<'a, Result<Heard, StoreError>> {
        async move { presence::hear(self.events()?, &self.shared.keys, word).await }.boxed()
    }

    fn sweep<'a>(
        &'a self,
        replica: &'a Arc<str>,
    ) -> BoxFuture<'a, Result<(bool, [u64; 2]), StoreError>> {
        async move { presence::sweep(self.events()?, &self.shared.keys, replica).await }.boxed()
    }

    fn said<'a>(&'a self, replica: &'a str) -> BoxFuture<'a, Result<Vec<Whereabouts>, StoreError>> {
        presence::said(&self.reads, &self.shared.keys, replica).boxed()
    }

    fn present<'a>(
        &'a self,
        places: &'a [Option<Topic>],
    ) -> BoxFuture<'a, Result<Presence, StoreError>> {
        presence::present(&self.reads, &self.shared.keys, places).boxed()
    }

    fn retain(&self, keep: Keep) {
        self.shared.settings.set(&keep);
        self.shared.exchange.wake();
    }

    fn stats(&self) -> StoreStats {
        let (feed_backlog, feed_backlog_bytes) = self.shared.exchange.backlog();
        let counters = &self.shared.counters;
        StoreStats {
            feed_backlog,
            feed_backlog_bytes,
            entries_skipped: counters.skipped.load(Ordering::Relaxed),
            letters_dropped: counters.letters_dropped.load(Ordering::Relaxed),
            redis: Some(RedisStats {
                up: self.shared.health.why_away().is_none(),
                master_changes: self.shared.endpoint.place.changes(),
                connects: counters.connects.load(Ordering::Relaxed),
                commands: counters.commands.load(Ordering::Relaxed),
            }),
            ingest: self.shared.ingest.as_deref().map(Ingest::stats),
            ..StoreStats::default()
        }
    }

    fn latency(&self) -> Option<crate::telemetry::Latencies> {
        Some(self.shared.counters.latency.clone())
    }

    fn about(&self) -> Option<RedisAbout> {
        let place = &self.shared.endpoint.place;
        Some(RedisAbout {
            via: place.via().name(),
            master: place.address().map(|address| address.to_string()),
            functions: self.shared.health.calls().map(Calls::name),
        })
    }

    fn kind(&self) -> &'static str {
        "redis"
    }
}

impl RedisStore {
    async fn lease(&self, id: &str, lease: Duration, json: &str) -> Result<(), StoreError> {
        let keys = &self.shared.keys;
        let request = Request::call(Function::REPLICA, [&keys.meta, &keys.replicas])
            .arg(id)
            .arg(lease.as_millis().to_string())
            .arg(json);
        self.ask(request).await.map(|_| ())
    }
}
