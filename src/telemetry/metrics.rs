//! Every metric family. Label values come from closed lists, never from what a client sends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use super::{CloseReason, Latencies, ProcessStats, TlsMetrics, logs::Dropped};

/// Seconds: from a refusal in microseconds to a publish that waited for its store.
const REQUEST_BOUNDS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// As [`crate::log::GapReason::as_str`] says them.
const GAP_REASONS: [&str; 4] = ["retention", "lost", "reset", "unknown"];

/// Labels of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// `GET`, `POST` …, or `other`.
    pub method: &'static str,
    /// The route's path, or `other`.
    pub route: &'static str,
    /// The status as a number.
    pub status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerdictLabels {
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusalLabels {
    code: &'static str,
    shape: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VersionLabels {
    version: &'static str,
    store: &'static str,
}

/// All families, registered once.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Time to the head of the response; of a publish, to its answer.
    requests: Family<RequestLabels, Histogram, fn() -> Histogram>,
    /// Open SSE streams.
    pub sse_active_connections: Gauge,
    /// Open WebSocket streams.
    pub ws_active_connections: Gauge,
    /// Polls that wait for an event.
    pub waiting_polls: Gauge,
    /// Open TCP connections, on both listeners.
    pub tcp_connections: Gauge,
    /// Connections closed before a request came, to make room for others.
    evicted: Counter,
    /// Handshakes and certificates.
    pub tls: TlsMetrics,
    /// Streams that wait for their reader's socket.
    pub lagging: Gauge,
    /// Events stored through this replica.
    pub published: Counter,
    /// Bytes of data of these.
    pub published_bytes: Counter,
    /// Events written to streams.
    pub delivered: Counter,
    /// Bytes written to streams.
    pub delivered_bytes: Counter,
    /// From storing an event to its write into a socket.
    pub latency: Latencies,
    resumes: Family<VerdictLabels, Counter>,
    gaps: Family<ReasonLabels, Counter>,
    closes: Family<ReasonLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    reloads: Family<OutcomeLabels, Counter>,
    reload_succeeded: Gauge,
    reload_success_at: Gauge,
}

/// How a reload of the settings went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// Something took effect.
    Applied,
    /// There was nothing that could take effect.
    Unchanged,
    /// The settings are not valid, and nothing has changed.
    Failed,
}

impl ReloadOutcome {
    const ALL: [Self; 3] = [Self::Applied, Self::Unchanged, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
        }
    }
}

/// What is looked up at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Topics in memory.
    pub topics: usize,
    /// Bytes of all tails.
    pub tail_bytes: u64,
    /// Seconds since the frontier moved while something is being repaired.
    pub frontier_age_seconds: f64,
    /// Whether new traffic is welcome.
    pub ready: bool,
    /// Holes, cuts, forks, resets, pages: since the start.
    pub hub: [u64; 5],
    /// What waits of the store's feed: entries, bytes.
    pub backlog: [usize; 2],
    /// Times that something in the store was passed over.
    pub skipped: u64,
    /// Topics, events, bytes, idempotency keys; of a store that knows.
    pub holds: Option<[usize; 4]>,
    /// Places of streams that are taken, of how many, callers that are counted, callers whose rate is remembered.
    pub places: [usize; 4],
    /// Users of streams, joins and leaves that were told, times that they could not be; where that is told at all.
    pub presence: Option<[u64; 4]>,
    /// Whether it can be reached, connections opened, commands answered; where the store is Redis.
    pub redis: Option<[u64; 4]>,
    /// Entries moved, duplicates, dead; entries that wait, dead letters, milliseconds of lag, whether this replica moves; of a
    /// store that has an ingest.
    pub ingest: Option<[u64; 7]>,
}

impl Metrics {
    /// All families at zero.
    pub fn new(store: &'static str, commands: Option<Latencies>) -> Self {
        let mut registry = Registry::default();
        let requests =
            Family::<RequestLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
                Histogram::new(REQUEST_BOUNDS)
            });
        registry.register(
            "http_request_duration_seconds",
            "Time to the head of the response, by method, route and status",
            requests.clone(),
        );
        let sse_active_connections =
            gauge(&mut registry, "sse_active_connections", "Open SSE streams");
        let registry_of_ours = registry.sub_registry_with_prefix("tidegate");
        let r = registry_of_ours;
        let build: Family<VersionLabels, Gauge> = Family::default();
        build
            .get_or_create_owned(&VersionLabels {
                version: env!("CARGO_PKG_VERSION"),
                store,
            })
            .set(1);
        r.register("build_info", "Version and store of this replica", build);
        let ws_active_connections = gauge(r, "ws_active_connections", "Open WebSocket streams");
        let waiting_polls = gauge(r, "waiting_polls", "Polls that wait for an event");
        let tcp_connections = gauge(
            r,
            "tcp_connections",
            "Open TCP connections, on both listeners",
        );
        let evicted = counter(
            r,
            "connections_evicted",
            "Connections that waited for a request and were closed because file descriptors were short",
        );
        let tls = TlsMetrics::register(r);
        let lagging = gauge(
            r,
            "streams_lagging",
            "Streams that wait for their reader's socket",
        );
        let published = counter(r, "events_published", "Events stored through this replica");
        let published_bytes = counter(
            r,
            "published_bytes",
            "Bytes of data of the events stored through this replica",
        );
        let delivered = counter(r, "events_delivered", "Events written to streams");
        let delivered_bytes = counter(r, "delivered_bytes", "Bytes written to streams");
        let latency = Latencies::default();
        r.register_with_unit(
            "delivery_latency",
            "From storing an event to its write into a socket, once for each write",
            Unit::Seconds,
            latency.clone(),
        );
        if let Some(commands) = commands {
            r.register_with_unit(
                "redis_command_duration",
                "From sending a command to Redis to its reply, without those of the feed",
                Unit::Seconds,
                commands,
            );
        }
        let resumes: Family<VerdictLabels, Counter> = Family::default();
        for verdict in ["none", "complete", "gap"] {
            let _ = resumes.get_or_create_owned(&VerdictLabels { verdict });
        }
        r.register(
            "stream_opens",
            "Streams opened, by what their client was told about its resume",
            resumes.clone(),
        );
        let gaps: Family<ReasonLabels, Counter> = Family::default();
        r.register("gaps", "Gaps told to clients, by reason", gaps.clone());
        for reason in GAP_REASONS {
            let _ = gaps.get_or_create_owned(&ReasonLabels { reason });
        }
        let closes: Family<ReasonLabels, Counter> = Family::default();
        for reason in CloseReason::ALL {
            let _ = closes.get_or_create_owned(&ReasonLabels {
                reason: reason.as_str(),
            });
        }
        r.register("streams_closed", "Streams ended, by reason", closes.clone());
        let refusals: Family<RefusalLabels, Counter> = Family::default();
        r.register(
            "refusals",
            "Requests refused, by code, as a status or as a stream that an EventSource survives",
            refusals.clone(),
        );
        let reloads: Family<OutcomeLabels, Counter> = Family::default();
        for outcome in ReloadOutcome::ALL {
            let _ = reloads.get_or_create_owned(&OutcomeLabels {
                outcome: outcome.as_str(),
            });
        }
        r.register(
            "config_reloads",
            "Reloads of the settings, by what became of them",
            reloads.clone(),
        );
        let reload_succeeded = gauge(
            r,
            "config_last_reload_successful",
            "Whether the settings were valid when they were read last",
        );
        let reload_success_at = Gauge::default();
        r.register_with_unit(
            "config_last_reload_success_timestamp",
            "When valid settings were read last",
            Unit::Seconds,
            reload_success_at.clone(),
        );
        Self {
            registry,
            requests,
            sse_active_connections,
            ws_active_connections,
            waiting_polls,
            tcp_connections,
            evicted,
            tls,
            lagging,
            published,
            published_bytes,
            delivered,
            delivered_bytes,
            latency,
            resumes,
            gaps,
            closes,
            refusals,
            reloads,
            reload_succeeded,
            reload_success_at,
        }
    }

    /// Settings were read for the first time: they were valid, or there were no process.
    pub fn configured(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        self.reload_succeeded.set(1);
        self.reload_success_at
            .set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    /// Settings were read again.
    pub fn reloaded(&self, outcome: ReloadOutcome) {
        let labels = OutcomeLabels {
            outcome: outcome.as_str(),
        };
        self.reloads.get_or_create_owned(&labels).inc();
        match outcome {
            ReloadOutcome::Failed => {
                self.reload_succeeded.set(0);
            }
            ReloadOutcome::Applied | ReloadOutcome::Unchanged => self.configured(),
        }
    }

    /// The histogram of a kind of requests; whoever serves many of a kind keeps it.
    pub fn requests(&self, labels: &RequestLabels) -> Histogram {
        self.requests.get_or_create_owned(labels)
    }

    /// Counts a stream that was opened.
    pub fn opened(&self, verdict: &'static str) {
        self.resumes
            .get_or_create_owned(&VerdictLabels { verdict })
            .inc();
    }

    /// Counts a gap that a client was told.
    pub fn gap(&self, reason: &'static str) {
        self.gaps
            .get_or_create_owned(&ReasonLabels { reason })
            .inc();
    }

    /// Counts a stream that ended.
    pub fn closed(&self, reason: CloseReason) {
        self.closes
            .get_or_create_owned(&ReasonLabels {
                reason: reason.as_str(),
            })
            .inc();
    }

    /// Lets a refusal be seen before it happens: a counter that is not there cannot rise from zero.
    pub fn may_refuse(&self, code: &'static str, as_stream: bool) {
        let shape = if as_stream { "stream" } else { "status" };
        let _ = self
            .refusals
            .get_or_create_owned(&RefusalLabels { code, shape });
    }

    /// Counts connections that were closed to make room.
    pub fn evicted(&self, count: u64) {
        self.evicted.inc_by(count);
    }

    /// Counts a refusal.
    pub fn refused(&self, code: &'static str, as_stream: bool) {
        let shape = if as_stream { "stream" } else { "status" };
        self.refusals
            .get_or_create_owned(&RefusalLabels { code, shape })
            .inc();
    }

    /// All families as OpenMetrics text.
    ///
    /// # Errors
    /// When the text cannot be formatted, which no value of ours causes.
    pub fn encode(&self, snapshot: &Snapshot) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode_registry(&mut text, &self.registry)?;
        let mut now = Registry::default();
        snapshot.register(now.sub_registry_with_prefix("tidegate"));
        Dropped::read().register(now.sub_registry_with_prefix("tidegate"));
        super::traces::register(now.sub_registry_with_prefix("tidegate"));
        ProcessStats::read().register(now.sub_registry_with_prefix("process"));
        prometheus_client::encoding::text::encode_registry(&mut text, &now)?;
        prometheus_client::encoding::text::encode_eof(&mut text)?;
        Ok(text)
    }
}

impl Snapshot {
    fn register(&self, r: &mut Registry) {
        let count = |number: usize| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        r.register("topics", "Topics in memory", count(self.topics));
        r.register(
            "tail_bytes",
            "Bytes of all tails",
            ConstGauge::new(i64::try_from(self.tail_bytes).unwrap_or(i64::MAX)),
        );
        r.register(
            "frontier_age_seconds",
            "Time since the frontier moved while something is being repaired",
            ConstGauge::new(self.frontier_age_seconds),
        );
        r.register(
            "ready",
            "Whether new traffic is welcome",
            ConstGauge::new(i64::from(self.ready)),
        );
        let names = [
            ("feed_holes", "Holes found in the feed"),
            ("feed_cuts", "Times that the feed was cut"),
            (
                "store_forks",
                "Times that the store had lost acknowledged entries",
            ),
            ("store_resets", "Times that the log was born again"),
            ("store_pages", "Pages read from the store"),
        ];
        for ((name, help), value) in names.into_iter().zip(self.hub) {
            r.register(name, help, ConstCounter::new(value));
        }
        let names = [
            ("feed_backlog", "Entries of the feed that wait for the hub"),
            ("feed_backlog_bytes", "Their bytes"),
        ];
        for ((name, help), value) in names.into_iter().zip(self.backlog) {
            r.register(name, help, count(value));
        }
        r.register(
            "store_entries_skipped",
            "Times that something in the store was passed over because the rules do not allow it",
            ConstCounter::new(self.skipped),
        );
        let names = [
            ("store_topics", "Topics that the store remembers"),
            ("store_events", "Events that the store retains"),
            ("store_bytes", "Bytes on the wire of these"),
            (
                "store_idempotency_keys",
                "Idempotency keys that are remembered",
            ),
        ];
        for ((name, help), value) in names.into_iter().zip(self.holds.into_iter().flatten()) {
            r.register(name, help, count(value));
        }
        let names = [
            (
                "stream_places",
                "Places of streams that are taken, also by those that are about to open",
            ),
            (
                "stream_places_limit",
                "Streams that this replica may have open (limits.connections)",
            ),
            (
                "limited_callers",
                "Addresses and subjects whose open streams are counted",
            ),
            (
                "rate_limited_callers",
                "Addresses and subjects whose rate is remembered",
            ),
        ];
        for ((name, help), value) in names.into_iter().zip(self.places) {
            r.register(name, help, count(value));
        }
        if let Some([users, joins, leaves, failures]) = self.presence {
            r.register(
                "presence_users",
                "Users that have a stream on this replica, or had one a moment ago",
                ConstGauge::new(i64::try_from(users).unwrap_or(i64::MAX)),
            );
            let names = [
                ("presence_joins", "Joins that this replica told", joins),
                ("presence_leaves", "Leaves that this replica told", leaves),
                (
                    "presence_failures",
                    "Times that the store did not take who is there",
                    failures,
                ),
            ];
            for (name, help, value) in names {
                r.register(name, help, ConstCounter::new(value));
            }
        }
        if let Some([up, connects, commands, master_changes]) = self.redis {
            r.register(
                "redis_up",
                "Whether the feed from Redis is open",
                ConstGauge::new(i64::from(up > 0)),
            );
            r.register(
                "redis_connects",
                "Connections to Redis that were opened",
                ConstCounter::new(connects),
            );
            r.register(
                "redis_commands",
                "Commands that Redis answered, without those of the feed",
                ConstCounter::new(commands),
            );
            r.register(
                "redis_master_changes",
                "Times that another server was found to be the master",
                ConstCounter::new(master_changes),
            );
        }
        if let Some(ingest) = self.ingest {
            register_ingest(ingest, r);
        }
    }
}

fn register_ingest(figures: [u64; 7], r: &mut Registry) {
    let [moved, duplicates, dead, gauges @ .., lag_ms, moves] = figures;
    let names = [
        (
            "ingest_moved",
            "Entries of ingest that this replica made events of",
        ),
        (
            "ingest_duplicates",
            "Entries of ingest whose idempotency key had stored their event before",
        ),
        ("ingest_dead", "Entries of ingest that became dead letters"),
    ];
    for ((name, help), value) in names.into_iter().zip([moved, duplicates, dead]) {
        r.register(name, help, ConstCounter::new(value));
    }
    let names = [
        ("ingest_pending", "Entries that wait in ingest"),
        (
            "ingest_dead_letters",
            "Dead letters of ingest that are kept",
        ),
    ];
    for ((name, help), value) in names.into_iter().zip(gauges) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        r.register(name, help, ConstGauge::new(value));
    }
    r.register(
        "ingest_lag_seconds",
        "How long the oldest entry of ingest has waited",
        ConstGauge::new(Duration::from_millis(lag_ms).as_secs_f64()),
    );
    r.register(
        "ingest_moving",
        "Whether it is this replica that moves the entries of ingest",
        ConstGauge::new(i64::from(moves > 0)),
    );
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}
