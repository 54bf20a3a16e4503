//! The scenarios: each measures one line of the table, the server under test beside its floor.

mod appends;
mod churn;
mod connects;
mod failover;
mod fanout;
mod idle;
mod ingest;
mod latency;
mod poll;
mod presence;
mod redis_fanout;
mod redis_memory;
mod redis_publish;
mod redis_storm;
mod replay;
mod resume;
mod saturated;
mod stuck;

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::figures::{float, ratio, whole};
use crate::machine::Cores;
use crate::publisher::Plan;
use crate::redis::RedisServer;
use crate::report::{Goal, Report, Sample};
use crate::scale::Scale;
use crate::stage::{Stage, Window};
use crate::target::{Server, Settings, Target};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// CPU per delivery of one topic, by number of streams.
    Fanout,
    /// The same on the generic path (HTTP/2).
    Generic,
    /// The same with many topics.
    Topics,
    /// Memory of a stream to which nothing is sent.
    Idle,
    /// Memory of such a stream on the generic path.
    IdleGeneric,
    /// Publish to arrival.
    Latency,
    /// Deliveries a second, with as much published as it takes.
    Saturated,
    /// Acknowledged appends a second.
    Appends,
    /// CPU per connect.
    Connects,
    /// Everybody comes back at once.
    Resume,
    /// A long history over one connection.
    Replay,
    /// Some do not read.
    Stuck,
    /// Connects and drops of every kind.
    Churn,
    /// Streams over `WebSocket`: CPU per delivery, memory, and some that do not read.
    Ws,
    /// Long polling: CPU per poll, and for each event that a poll waits for.
    Poll,
    /// Publishes through Redis, beside a plain XADD.
    RedisPublish,
    /// A replica is killed, and everybody comes back to another one.
    RedisStorm,
    /// The same streams on several replicas as on one.
    RedisFanout,
    /// What topics, events and keys take of the memory of Redis.
    RedisMemory,
    /// What is put into the ingest stream, beside what the function publishes.
    Ingest,
    /// The server that has the log is killed: a single one, the master of Sentinels, the owner in a cluster.
    Failover,
    /// Users of one topic over two replicas: told, listed, told again, gone.
    Presence,
}

/// What all scenarios share.
pub(crate) struct Context {
    pub(crate) gateway: PathBuf,
    pub(crate) tested: Target,
    pub(crate) cores: Cores,
    pub(crate) scale: Scale,
    pub(crate) round: u64,
}

impl Scenario {
    /// Measures one round.
    pub(crate) fn run(self, context: &Context, report: &mut Report) -> Result<()> {
        match self {
            Self::Fanout => fanout::one_topic(context, report),
            Self::Generic => fanout::generic(context, report),
            Self::Topics => fanout::many_topics(context, report),
            Self::Idle => idle::http1(context, report),
            Self::IdleGeneric => idle::generic(context, report),
            Self::Latency => latency::run(context, report),
            Self::Saturated => saturated::run(context, report),
            Self::Appends => appends::run(context, report),
            Self::Connects => connects::run(context, report),
            Self::Resume => resume::run(context, report),
            Self::Replay => replay::run(context, report),
            Self::Stuck => stuck::run(context, report),
            Self::Churn => churn::run(context, report),
            Self::Ws => {
                fanout::websockets(context, report)?;
                idle::websockets(context, report)?;
                stuck::websockets(context, report)
            }
            Self::Poll => poll::run(context, report),
            Self::RedisPublish => redis_publish::run(context, report),
            Self::RedisStorm => redis_storm::run(context, report),
            Self::RedisFanout => redis_fanout::run(context, report),
            Self::RedisMemory => redis_memory::run(context, report),
            Self::Ingest => ingest::run(context, report),
            Self::Failover => failover::run(context, report),
            Self::Presence => presence::run(context, report),
        }
    }

    /// Whether it starts a Redis.
    pub(crate) fn needs_redis(self) -> bool {
        matches!(
            self,
            Self::RedisPublish
                | Self::RedisStorm
                | Self::RedisFanout
                | Self::RedisMemory
                | Self::Ingest
                | Self::Failover
                | Self::Presence
        )
    }

    /// Whether it is measured by itself alone, because it takes long and does not measure speed.
    pub(crate) fn stands_alone(self) -> bool {
        self == Self::Failover
    }
}

/// The same measurement of the floor and of the server under test.
struct Pair<T> {
    floor: T,
    tested: T,
}

impl Context {
    fn stage(&self, target: Target, settings: &Settings) -> Result<Stage> {
        Stage::new(Server::start(
            target,
            &self.gateway,
            &[self.cores.server],
            settings,
        )?)
    }

    /// A gateway whose log lives in this Redis.
    fn replica(&self, redis: &RedisServer, cores: &[usize], settings: Settings) -> Result<Server> {
        ensure!(
            self.tested == Target::Gateway,
            "with Redis only the gateway can be measured: the floor has no use for it"
        );
        let settings = Settings {
            redis_url: Some(redis.url()),
            ..settings
        };
        Server::start(Target::Gateway, &self.gateway, cores, &settings)
    }

    /// Measures both, in an order that changes with the round: what drifts, drifts for both.
    fn pair<T>(&self, mut measure: impl FnMut(Target) -> Result<T>) -> Result<Pair<T>> {
        let (floor, tested);
        if self.round.is_multiple_of(2) {
            floor = measure(Target::Floor)?;
            tested = measure(self.tested)?;
        } else {
            tested = measure(self.tested)?;
            floor = measure(Target::Floor)?;
        }
        Ok(Pair { floor, tested })
    }

    /// A paced plan of `seconds` that makes the scale's number of deliveries a second.
    fn paced(&self, topics: usize, fan: u64, seconds: f64) -> Plan {
        let per_second = (self.scale.deliveries_per_second / float(fan.max(1))).max(1.0);
        // At most 200 writes a second; a topic gets one event of a write at most, so no two deliveries fall together.
        let batch = whole(per_second / 200.0)
            .max(1)
            .min(crate::figures::count(topics));
        Plan {
            topics,
            events: whole(per_second * seconds).max(3),
            per_second: Some(per_second),
            batch,
            payload_bytes: self.scale.payload_bytes,
            // A server that was kept from its core would otherwise find two events, and send them as one.
            window: Some(0),
        }
    }
}

impl Pair<Window> {
    /// CPU per delivery of the server under test as a multiple of the floor's.
    fn cpu_sample(&self, name: String, goal: Goal) -> Sample {
        let (floor, tested) = (
            self.floor.cpu_us_per_delivery(),
            self.tested.cpu_us_per_delivery(),
        );
        Sample {
            name,
            value: ratio(tested, floor),
            unit: "×",
            goal,
            floor: Some(floor),
            tested: Some(tested),
            raw_unit: "µs",
            notes: self.notes(),
        }
    }

    fn notes(&self) -> Vec<String> {
        [self.floor.notes("floor"), self.tested.notes("tested")].concat()
    }
}
