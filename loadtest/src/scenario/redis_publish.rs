//! Publishes through Redis, beside a plain `XADD` of the same payload on the same server in the same run.
//!
//! Redis has one core to itself; the gateway may use both, and shares one with the load. So a rate is what this machine
//! gives, and may end before Redis is full. What an event takes of the core of Redis does not depend on that: where Redis
//! is full, the ratio of that time is the ratio of the rates.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use super::Context;
use crate::clock::{now_ns, own_cpu_ns};
use crate::figures::{count, float, ratio};
use crate::machine::busy_ns;
use crate::pace::{Exchange, Pace};
use crate::publisher::{Publisher, repeat_all};
use crate::redis::{RedisMeter, RedisServer, RedisWindow, Xadds, xadd};
use crate::report::{Goal, Report, Sample};
use crate::requests::{self, Requests};
use crate::stage::{Meter, Window};
use crate::target::{Server, Settings};

const ARRAY_CONNECTIONS: usize = 16;
const ARRAY_EVENTS: usize = 100;
const LINE_CONNECTIONS: usize = 4;
const EVENTS_PER_WRITE: u64 = 400;
/// Connections by which round trips are measured.
const PACED_CONNECTIONS: usize = 16;
const WARM: Duration = Duration::from_millis(300);
/// From this share of its core on, Redis is what was measured.
const FULL: f64 = 0.9;
/// From this share of a core on, somebody else was there.
const SHARED: f64 = 0.1;

/// How events are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One event a request, all to one topic.
    Singles,
    /// The same, each connection to a topic of its own.
    SinglesApart,
    Arrays,
    Lines,
}

const WAYS: [Way; 4] = [Way::Singles, Way::SinglesApart, Way::Arrays, Way::Lines];

/// What one way of publishing took.
struct Measured {
    events: u64,
    wall_ns: u64,
    redis: RedisWindow,
    /// None of a plain `XADD`.
    gateway: Option<Window>,
    load_cpu_ns: u64,
    /// What all processes of the machine used.
    busy_ns: u64,
}

impl Measured {
    fn rate(&self) -> f64 {
        ratio(float(self.events), float(self.wall_ns) / 1e9)
    }

    /// Microseconds of Redis for an event.
    fn redis_us(&self) -> f64 {
        ratio(float(self.redis.cpu.used_ns) / 1e3, float(self.events))
    }

    /// A share of one core.
    fn share(&self, used_ns: u64) -> f64 {
        ratio(float(used_ns), float(self.wall_ns))
    }

    /// What those used who have nothing to do with this.
    fn share_of_others(&self) -> f64 {
        let gateway_ns = self.gateway.map_or(0, |window| window.server.used_ns);
        let own_ns = self.redis.cpu.used_ns + gateway_ns + self.load_cpu_ns;
        self.share(self.busy_ns.saturating_sub(own_ns))
    }

    /// Who was how busy, in words.
    fn shares(&self) -> String {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let mut text = format!(
            "Redis {}, load {}, others {} of a core",
            percent(self.share(self.redis.cpu.used_ns)),
            percent(self.share(self.load_cpu_ns)),
            percent(self.share_of_others()),
        );
        if let Some(gateway) = &self.gateway {
            let _to_memory = write!(
                text,
                ", gateway {}, {:.1} µs an event; {:.1} events a call",
                percent(self.share(gateway.server.used_ns)),
                gateway.cpu_us(self.events),
                ratio(float(self.events), float(self.redis.commands.of("fcall"))),
            );
        }
        text
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.share(self.redis.cpu.used_ns) >= FULL {
            notes.push("Redis was full".to_owned());
        }
        if self.share_of_others() >= SHARED {
            notes.push("machine shared".to_owned());
        }
        notes
    }
}

impl Way {
    fn name(self, context: &Context) -> String {
        let connections = context.scale.request_connections;
        match self {
            Self::Singles => format!("single requests, {connections} connections, 1 topic"),
            Self::SinglesApart => {
                format!("single requests, {connections} connections, a topic each")
            }
            Self::Arrays => format!("arrays of {ARRAY_EVENTS}, {ARRAY_CONNECTIONS} connections"),
            Self::Lines => format!("NDJSON, {LINE_CONNECTIONS} connections"),
        }
    }

    /// The share of a plain `XADD` that is to be reached.
    fn goal(self) -> f64 {
        match self {
            Self::Singles | Self::SinglesApart => 0.18,
            Self::Arrays | Self::Lines => 0.4,
        }
    }

    fn topics(self, context: &Context) -> Vec<String> {
        let (name, number) = match self {
            Self::Singles => ("single", 1),
            Self::SinglesApart => ("apart", context.scale.request_connections),
            Self::Arrays => ("array", ARRAY_CONNECTIONS),
            Self::Lines => ("t", LINE_CONNECTIONS),
        };
        (0..number).map(|topic| format!("{name}{topic}")).collect()
    }

    /// Publishes this way for a while; afterwards the log must hold what was acknowledged.
    fn measure(self, context: &Context, redis: &RedisServer, gateway: &Server) -> Result<Measured> {
        let topics = self.topics(context);
        let bytes = context.scale.payload_bytes;
        let (measured, unanswered) = match self {
            Self::Singles | Self::SinglesApart => {
                let connections = context.scale.request_connections;
                let topics = topics.iter().cycle().take(connections);
                let requests = topics.map(|topic| requests::single(topic, bytes)).collect();
                closed_loop(context, redis, gateway, requests, 1)?
            }
            Self::Arrays => {
                let requests = topics
                    .iter()
                    .map(|topic| requests::array(topic, ARRAY_EVENTS, bytes))
                    .collect();
                closed_loop(context, redis, gateway, requests, count(ARRAY_EVENTS))?
            }
            Self::Lines => (lines(context, redis, gateway)?, 0..=0),
        };
        let added = added(redis, &topics)?;
        let acknowledged = *unanswered.start() + measured.events;
        ensure!(
            (acknowledged..=*unanswered.end() + measured.events).contains(&added),
            "{acknowledged} events were acknowledged, the log was given {added}"
        );
        Ok(measured)
    }
}

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let redis = RedisServer::start(context.cores.server)?;
    let gateway = context.replica(&redis, &context.cores.both(), Settings::default())?;
    let mut plain = None;
    if context.round.is_multiple_of(2) {
        plain = Some(plain_xadd(context, &redis)?);
    }
    let mut measured = Vec::new();
    for way in WAYS {
        let one = way.measure(context, &redis, &gateway);
        measured.push((way, one.with_context(|| way.name(context))?));
    }
    let plain = match plain {
        Some(plain) => plain,
        None => plain_xadd(context, &redis)?,
    };
    let round = context.round + 1;
    report.remark(format!("plain XADD, round {round}: {}", plain.shares()));
    for (way, measured) in &measured {
        let name = way.name(context);
        report.remark(format!("{name}, round {round}: {}", measured.shares()));
        say(report, *way, &name, &plain, measured);
    }
    round_trips(context, &redis, &gateway, report)
}

fn say(report: &mut Report, way: Way, name: &str, plain: &Measured, measured: &Measured) {
    report.add(Sample {
        name: format!("events/s through Redis ÷ plain XADD, {name}"),
        value: ratio(measured.rate(), plain.rate()),
        unit: "×",
        goal: Goal::None,
        floor: Some(plain.rate()),
        tested: Some(measured.rate()),
        raw_unit: "/s",
        notes: measured.notes(),
    });
    report.add(Sample {
        name: format!("events of a full Redis core ÷ plain XADD, {name}"),
        value: ratio(plain.redis_us(), measured.redis_us()),
        unit: "×",
        goal: Goal::AtLeast(way.goal()),
        floor: Some(plain.redis_us()),
        tested: Some(measured.redis_us()),
        raw_unit: "µs",
        notes: vec!["raw: CPU of Redis for an event".to_owned()],
    });
    report.add(Sample {
        name: format!("events/s that fill a Redis core, {name}"),
        value: ratio(1e6, measured.redis_us()),
        unit: "/s",
        goal: Goal::AtLeast(100_000.0),
        floor: Some(ratio(1e6, plain.redis_us())),
        tested: Some(ratio(1e6, measured.redis_us())),
        raw_unit: "/s",
        notes: Vec::new(),
    });
}

fn plain_xadd(context: &Context, redis: &RedisServer) -> Result<Measured> {
    let mut xadds = Xadds::connect(redis, context.scale.payload_bytes)?;
    xadds.run(WARM)?;
    let meter = RedisMeter::start(redis)?;
    let (start, cpu, busy) = (now_ns(), own_cpu_ns(), busy_ns()?);
    let events = xadds.run(context.scale.measured)?;
    Ok(Measured {
        events,
        wall_ns: now_ns() - start,
        load_cpu_ns: own_cpu_ns() - cpu,
        busy_ns: busy_ns()? - busy,
        redis: meter.stop(redis)?,
        gateway: None,
    })
}

/// What was published in the window, and how many events besides may have been stored: those of the time to warm up, and
/// the last ones, whose answers nobody waited for.
fn closed_loop(
    context: &Context,
    redis: &RedisServer,
    gateway: &Server,
    requests: Vec<Vec<u8>>,
    events_each: u64,
) -> Result<(Measured, std::ops::RangeInclusive<u64>)> {
    let outstanding = count(requests.len()) * events_each;
    let mut requests = Requests::with(gateway.listen, requests)?;
    requests.run(WARM)?;
    let warm = requests.answered;
    let redis_meter = RedisMeter::start(redis)?;
    let (meter, busy) = (Meter::start(gateway)?, busy_ns()?);
    requests.run(context.scale.measured)?;
    let events = (requests.answered - warm) * events_each;
    let window = meter.stop(gateway, events)?;
    let warm = warm * events_each;
    let measured = Measured {
        events,
        wall_ns: window.wall_ns,
        load_cpu_ns: window.load_cpu_ns,
        busy_ns: busy_ns()? - busy,
        redis: redis_meter.stop(redis)?,
        gateway: Some(window),
    };
    Ok((measured, warm..=warm + outstanding))
}

fn lines(context: &Context, redis: &RedisServer, gateway: &Server) -> Result<Measured> {
    let publishers: Vec<Publisher> = (0..LINE_CONNECTIONS)
        .map(|_| Publisher::connect(gateway))
        .collect::<Result<_>>()?;
    let times = (context.scale.redis_lines / EVENTS_PER_WRITE / count(LINE_CONNECTIONS)).max(1);
    let bytes = context.scale.payload_bytes;
    let redis_meter = RedisMeter::start(redis)?;
    let (meter, busy) = (Meter::start(gateway)?, busy_ns()?);
    let acknowledged = repeat_all(publishers, EVENTS_PER_WRITE, times, bytes)?;
    let window = meter.stop(gateway, acknowledged)?;
    Ok(Measured {
        events: acknowledged,
        wall_ns: window.wall_ns,
        load_cpu_ns: window.load_cpu_ns,
        busy_ns: busy_ns()? - busy,
        redis: redis_meter.stop(redis)?,
        gateway: Some(window),
    })
}

/// How many entries the streams of these topics were ever given.
pub(super) fn added(redis: &RedisServer, topics: &[String]) -> Result<u64> {
    let mut connection = redis.connect()?;
    let mut sum = 0;
    for topic in topics {
        let key = format!("tidegate:{{0}}:topic:{topic}");
        let about = connection.ask(&["XINFO", "STREAM", &key])?;
        sum += about
            .field("entries-added")
            .context("a stream does not say what it was given")?;
    }
    Ok(sum)
}

/// Round trips, and what they took.
struct RoundTrips {
    latency: Histogram<u64>,
    measured: Measured,
}

/// Single publishes at a modest rate, each alone in its call, beside as many plain `XADD`.
fn round_trips(
    context: &Context,
    redis: &RedisServer,
    gateway: &Server,
    report: &mut Report,
) -> Result<()> {
    let bytes = context.scale.payload_bytes;
    let pace = Pace {
        connections: PACED_CONNECTIONS,
        per_second: context.scale.redis_paced,
        duration: context.scale.measured,
    };
    let plain = Exchange {
        server: redis.address,
        request: xadd(bytes),
        is_complete: |answer| {
            ensure!(
                !answer.starts_with(b"-"),
                "Redis says: {}",
                String::from_utf8_lossy(answer)
            );
            Ok(memchr::memchr_iter(b'\n', answer).count() == 2)
        },
    };
    let publish = Exchange {
        server: gateway.listen,
        request: requests::single("paced", bytes),
        is_complete: requests::is_complete,
    };
    let measure = |exchange: &Exchange| -> Result<RoundTrips> {
        let redis_meter = RedisMeter::start(redis)?;
        let (meter, busy) = (Meter::start(gateway)?, busy_ns()?);
        let latency = pace.round_trips(exchange)?;
        let window = meter.stop(gateway, latency.len())?;
        let measured = Measured {
            events: latency.len(),
            wall_ns: window.wall_ns,
            load_cpu_ns: window.load_cpu_ns,
            busy_ns: busy_ns()? - busy,
            redis: redis_meter.stop(redis)?,
            gateway: Some(window),
        };
        Ok(RoundTrips { latency, measured })
    };
    let (plain, publish) = if context.round.is_multiple_of(2) {
        let plain = measure(&plain)?;
        (plain, measure(&publish)?)
    } else {
        let publish = measure(&publish)?;
        (measure(&plain)?, publish)
    };
    let rate = format!("{:.0} a second", context.scale.redis_paced);
    let notes = [plain.measured.notes(), publish.measured.notes()].concat();
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let us = |of: &RoundTrips| float(of.latency.value_at_quantile(quantile)) / 1e3;
        report.add(Sample {
            name: format!("single publish ÷ round trip of XADD, {rate}, {name}"),
            value: ratio(us(&publish), us(&plain)),
            unit: "×",
            goal: Goal::None,
            floor: Some(us(&plain)),
            tested: Some(us(&publish)),
            raw_unit: "µs",
            notes: notes.clone(),
        });
    }
    report.add(Sample {
        name: format!("CPU of Redis for an event ÷ XADD, single publishes, {rate}"),
        value: ratio(publish.measured.redis_us(), plain.measured.redis_us()),
        unit: "×",
        goal: Goal::None,
        floor: Some(plain.measured.redis_us()),
        tested: Some(publish.measured.redis_us()),
        raw_unit: "µs",
        notes: vec!["each alone in its call, and with its own wake-up".to_owned()],
    });
    Ok(())
}
