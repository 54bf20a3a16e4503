//! What all requests share.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    alarm::Alarms,
    orders,
    problem::Code,
    reload::{Reloader, unusable},
    streams::{StreamHandle, Streams},
    tls::Tls,
};
use crate::{
    auth::{Auth, AuthError, Tickets},
    config::{Config, Right, Wrong},
    hub::Hub,
    layers::rate::Rates,
    presence::Presence,
    store::{Letters, ReplicaReport, StoreError},
    telemetry::{self, CloseReason, Metrics, ProcessStats, metrics::Snapshot},
};

/// What all requests share.
pub struct App {
    /// The settings; a reload puts others in their place.
    config: ArcSwap<Config>,
    /// Where they come from.
    pub reloader: Reloader,
    /// Topics and subscribers.
    pub hub: Hub,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Open streams.
    pub streams: Arc<Streams>,
    /// Who they belong to; none: nobody is told.
    pub presence: Option<Arc<Presence>>,
    /// Their deadlines.
    pub alarms: Arc<Alarms>,
    /// New streams are refused from here on.
    pub draining: CancellationToken,
    /// Connections that wait for another request are asked to end.
    pub closing: CancellationToken,
    /// An operator wants the replica to leave, as by a signal.
    pub leave: CancellationToken,
    /// What credentials are checked with; a reload puts another one in its place.
    auth: ArcSwap<Auth>,
    /// Makes and reads tickets, as soon as the store has told the secret of the deployment.
    tickets: OnceLock<Tickets>,
    /// What replicas ask each other.
    pub(crate) letters: Letters,
    /// How often callers come.
    pub(crate) rates: Rates,
    /// When this process began to serve.
    pub started: Instant,
    /// The same, for others.
    started_at: SystemTime,
    /// The name of this replica: connection ids begin with it.
    replica: String,
    /// Where the public listener is, once it is known.
    address: OnceLock<SocketAddr>,
    /// What the public listener speaks with, where the settings name a certificate.
    tls: OnceLock<Arc<Tls>>,
    mode: AtomicU8,
    resident_bytes: AtomicUsize,
}

/// How often memory is looked at: a flood of streams fills a gigabyte in some seconds.
const LOOK: Duration = Duration::from_millis(250);
/// After so many looks the rates forget who has been quiet.
const TIDY_EACH: u32 = 240;

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mode {
    /// All is well.
    Serving,
    /// Unready, but everything still works: the balancer is looking away.
    Unready,
    /// New streams are refused, open ones leave.
    Draining,
}

impl App {
    /// The state of a replica that begins to serve.
    ///
    /// # Errors
    /// When the settings name keys that cannot be read.
    pub fn new(reloader: Reloader, hub: Hub) -> Result<Arc<Self>, AuthError> {
        let config = reloader.config();
        let auth = Auth::new(&config, None)?;
        let metrics = Arc::new(Metrics::new(hub.store().kind(), hub.store().latency()));
        metrics.configured();
        for code in Code::ALL {
            metrics.may_refuse(code.as_str(), false);
            if code.is_temporary() {
                metrics.may_refuse(code.as_str(), true);
            }
        }
        let replica = format!("{:08x}", rand::random::<u32>());
        let letters = Letters::new(hub.store().clone(), &replica);
        let presence = config.presence.enabled.then(|| {
            let presence = Presence::new(hub.store().clone(), &replica, config.presence.debounce);
            Arc::new(presence)
        });
        Ok(Arc::new(Self {
            streams: Arc::new(Streams::new(
                replica.clone(),
                metrics.clone(),
                presence.clone(),
            )),
            presence,
            config: ArcSwap::new(config),
            reloader,
            hub,
            metrics,
            alarms: Arc::new(Alarms::default()),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            leave: CancellationToken::new(),
            auth: ArcSwap::from_pointee(auth),
            tickets: OnceLock::new(),
            letters,
            rates: Rates::default(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            replica,
            address: OnceLock::new(),
            tls: OnceLock::new(),
            mode: AtomicU8::new(Mode::Serving as u8),
            resident_bytes: AtomicUsize::new(0),
        }))
    }

    /// What credentials are checked with.
    pub(crate) fn auth(&self) -> Arc<Auth> {
        self.auth.load_full()
    }

    /// Makes and reads tickets.
    ///
    /// # Errors
    /// When the store has not told its secret yet and cannot be asked.
    pub(crate) async fn tickets(&self) -> Result<&Tickets, StoreError> {
        if self.tickets.get().is_none() {
            let secret = self.hub.store().secret().await?;
            let _ = self.tickets.set(Tickets::new(secret));
        }
        Ok(self.tickets.get().expect("it was set a line ago"))
    }

    /// The settings as they are now.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Puts other settings into force: all of them, or none.
    ///
    /// # Errors
    /// When something that they name cannot be used.
    pub(super) fn apply(&self, config: Arc<Config>) -> Result<(), Wrong> {
        let old = self.config();
        // First what can fail, and of this last what is in force as soon as it has not.
        let auth = Auth::new(&config, Some(&self.auth())).map_err(|error| unusable(&error))?;
        if let Some(tls) = self.tls()
            && config.server.tls != old.server.tls
        {
            tls.reload(&config.server.tls)
                .map_err(|error| unusable(&error))?;
        }
        self.auth.store(Arc::new(auth));
        self.hub.retain(config.keep());
        self.hub.limit_topics(config.limits.topics);
        if let Some(presence) = &self.presence {
            presence.set_debounce(config.presence.debounce);
        }
        if let Some(log) = telemetry::logs::handle() {
            // What was set by hand stays until the setting is another. It has been parsed before.
            if config.log.level.as_str() != old.log.level.as_str() {
                let _ = log.set_level(config.log.level.as_str());
            }
            log.set_access(config.log.access);
            log.set_audit(config.log.audit);
            log.set_secrets(&config);
        }
        self.config.store(config);
        self.judge_streams();
        Ok(())
    }

    /// Ends the streams that would not be opened any more: their token was taken back, or allows less.
    fn judge_streams(&self) {
        let handles = self.streams.handles();
        let ended = handles.iter().filter(|handle| !self.judge(handle)).count();
        if ended > 0 {
            tracing::info!(
                streams = ended,
                "streams were ended, because the new settings do not allow them"
            );
        }
    }

    /// Ends a stream that would not be opened by the settings of now. A stream that opens during a reload has to ask once more,
    /// when others can see it.
    pub(crate) fn judge(&self, handle: &StreamHandle) -> bool {
        let (auth, identity) = (self.auth(), handle.identity());
        let may = auth.current(&identity).is_some_and(|identity| {
            let may = |topic| auth.may(&identity, Right::Subscribe, topic);
            handle.topics().iter().all(may)
        });
        if !may {
            self.streams.close(handle, CloseReason::AuthExpired);
        }
        may
    }

    /// Resident memory at the last look.
    pub fn resident_bytes(&self) -> usize {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// Looks after what changes by itself: how much memory is in use, and whom the rates may forget. Never returns.
    pub async fn look_after(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0_u32;
        loop {
            looks.tick().await;
            self.resident_bytes
                .store(ProcessStats::resident(), Ordering::Relaxed);
            count = count.wrapping_add(1);
            if count.is_multiple_of(TIDY_EACH) {
                self.rates.tidy();
            }
        }
    }

    /// Answers what other replicas ask. Never returns while the store is there.
    pub async fn answer_letters(self: Arc<Self>) {
        let app = self.clone();
        let answer = move |question: String| orders::answer(&app, &question);
        self.letters.serve(answer).await;
    }

    /// How far the shutdown has come.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            0 => Mode::Serving,
            1 => Mode::Unready,
            _ => Mode::Draining,
        }
    }

    /// The shutdown has come further.
    pub fn enter(&self, mode: Mode) {
        self.mode.fetch_max(mode as u8, Ordering::AcqRel);
    }

    /// Whether a balancer may send traffic here.
    pub fn ready(&self) -> bool {
        self.mode() == Mode::Serving && self.hub.ready()
    }

    /// What a browser is told about coming back: around `stream.retry`, so that not all come at once.
    pub fn retry_ms(&self) -> u64 {
        jittered(self.config().stream.retry)
    }

    /// The name of this replica.
    pub fn replica(&self) -> &str {
        &self.replica
    }

    /// The public listener is there.
    pub fn listens(&self, address: SocketAddr) {
        let _ = self.address.set(address);
    }

    /// The public listener will speak TLS.
    pub fn speaks_tls(&self, tls: Arc<Tls>) {
        let _ = self.tls.set(tls);
    }

    /// What the public listener speaks with; none: cleartext.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.get()
    }

    /// What the others may know of this replica.
    pub fn report(&self) -> ReplicaReport {
        let (metrics, hub, store) = (&self.metrics, self.hub.stats(), self.hub.store().stats());
        let address = self.address.get();
        ReplicaReport {
            id: self.replica.clone(),
            address: address.map_or_else(String::new, SocketAddr::to_string),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: rfc3339(self.started_at),
            connections: self.streams.len() as u64,
            published: metrics.published.get(),
            published_bytes: metrics.published_bytes.get(),
            delivered: metrics.delivered.get(),
            delivered_bytes: metrics.delivered_bytes.get(),
            lagging: u64::try_from(metrics.lagging.get()).unwrap_or(0),
            topics: hub.topics as u64,
            feed_backlog: store.feed_backlog as u64,
            feed_backlog_bytes: store.feed_backlog_bytes as u64,
            resident_bytes: self.resident_bytes() as u64,
            tail_bytes: hub.tail_bytes,
        }
    }

    /// What is looked up for a scrape.
    pub fn snapshot(&self) -> Snapshot {
        let (hub, store, counters) = (
            self.hub.stats(),
            self.hub.store().stats(),
            self.hub.counters(),
        );
        let counts = [
            &counters.holes,
            &counters.cuts,
            &counters.forks,
            &counters.resets,
            &counters.pages,
        ];
        Snapshot {
            topics: hub.topics,
            tail_bytes: hub.tail_bytes,
            frontier_age_seconds: self.hub.frontier_age().as_secs_f64(),
            ready: self.ready(),
            hub: counts.map(|count| count.load(Ordering::Relaxed)),
            backlog: [store.feed_backlog, store.feed_backlog_bytes],
            skipped: store.entries_skipped,
            holds: store.redis.is_none().then_some([
                store.topics,
                store.events,
                store.bytes,
                store.idempotency_keys,
            ]),
            places: [
                self.streams.len(),
                self.config().limits.connections,
                self.streams.limited_callers(),
                self.rates.len(),
            ],
            presence: self.presence.as_ref().map(|presence| {
                let stats = presence.stats();
                [stats.users as u64, stats.joined, stats.left, stats.failures]
            }),
            redis: store.redis.map(|redis| {
                [
                    u64::from(redis.up),
                    redis.connects,
                    redis.commands,
                    redis.master_changes,
                ]
            }),
            ingest: store.ingest.map(|ingest| {
                [
                    ingest.moved,
                    ingest.duplicates,
                    ingest.dead,
                    ingest.pending,
                    ingest.dead_letters,
                    ingest.lag_ms,
                    u64::from(ingest.moves),
                ]
            }),
        }
    }
}

/// 67 to 133 % of a duration, in milliseconds.
pub fn jittered(around: Duration) -> u64 {
    let ms = u64::try_from(around.as_millis()).unwrap_or(u64::MAX / 200);
    rand::random_range(ms * 67 / 100..=ms * 133 / 100).max(1)
}

/// A moment in Unix milliseconds.
pub fn unix_ms(moment: SystemTime) -> u64 {
    let age = moment.duration_since(SystemTime::UNIX_EPOCH);
    age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// A moment as RFC 3339, in UTC with milliseconds.
pub fn rfc3339(moment: SystemTime) -> String {
    humantime_serde::re::humantime::format_rfc3339_millis(moment).to_string()
}
