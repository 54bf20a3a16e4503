//! The same streams of one topic on three replicas as on one: what the way through Redis costs each delivery.
//!
//! All replicas and Redis share one core, so a sweep over the streams takes as long on three as on one. Replicas with a core
//! of their own would sweep at the same time.

use std::time::Duration;

use anyhow::Result;

use super::Context;
use crate::figures::{count, float, ratio};
use crate::redis::{RedisMeter, RedisServer, RedisWindow};
use crate::report::{Goal, Report, Sample};
use crate::stage::{Stage, Window};
use crate::target::Settings;
use crate::wire::Protocol;

const REPLICAS: usize = 3;
const WARM: f64 = 0.5;
/// The share of the usual rate at which an event has reached everybody well before the next.
const RATE: f64 = 0.5;
/// Time in which nothing is published.
const REST: Duration = Duration::from_secs(3);

/// What one arrangement took.
struct Measured {
    window: Window,
    redis: RedisWindow,
    /// What Redis did while nothing was published, for [`REST`].
    rest: RedisWindow,
    events: u64,
    p50_ms: f64,
    p99_ms: f64,
}

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let (one, three);
    if context.round.is_multiple_of(2) {
        one = measure(context, 1)?;
        three = measure(context, REPLICAS)?;
    } else {
        three = measure(context, REPLICAS)?;
        one = measure(context, 1)?;
    }
    let each = each(context);
    let name = format!("{REPLICAS} replicas × {each} ÷ 1 × {}", each * REPLICAS);
    let rest = |measured: &Measured| float(measured.rest.cpu.used_ns) / 1e6 / REST.as_secs_f64();
    let redis_us = |measured: &Measured| {
        let seconds = float(measured.window.wall_ns) / 1e9;
        let busy_us = float(measured.redis.cpu.used_ns) / 1e3 - 1e3 * rest(measured) * seconds;
        ratio(busy_us, float(measured.events))
    };
    let cpu = |measured: &Measured| measured.window.cpu_us_per_delivery();
    let rows = [
        (
            "CPU of all gateways per delivery",
            cpu(&one),
            cpu(&three),
            "µs",
        ),
        ("publish to arrival, p50", one.p50_ms, three.p50_ms, "ms"),
        ("publish to arrival, p99", one.p99_ms, three.p99_ms, "ms"),
        (
            "CPU of Redis per event, less that at rest",
            redis_us(&one),
            redis_us(&three),
            "µs",
        ),
        ("CPU of Redis at rest", rest(&one), rest(&three), "ms/s"),
    ];
    let mut notes = [one.window.notes("one"), three.window.notes("three")].concat();
    notes.push("floor column: one replica".to_owned());
    for (what, one, three, raw_unit) in rows {
        report.add(Sample {
            name: format!("{what}, {name}"),
            value: ratio(three, one),
            unit: "×",
            goal: Goal::None,
            floor: Some(one),
            tested: Some(three),
            raw_unit,
            notes: notes.clone(),
        });
    }
    for (who, measured) in [("one replica", &one), ("three replicas", &three)] {
        report.remark(format!(
            "{who}, round {}: in {} s of rest Redis executed: {}",
            context.round + 1,
            REST.as_secs(),
            measured.rest.commands
        ));
    }
    Ok(())
}

/// Streams of each of several replicas.
fn each(context: &Context) -> usize {
    (context.scale.replicated / REPLICAS).max(1)
}

fn measure(context: &Context, replicas: usize) -> Result<Measured> {
    let each = each(context) * REPLICAS / replicas;
    let fan = count(each * replicas);
    let redis = RedisServer::start(context.cores.server)?;
    let replica = || context.replica(&redis, &[context.cores.server], Settings::default());
    let mut stage = Stage::new(replica()?)?;
    stage.subscribe(Protocol::Http1, 1, each)?;
    for _ in 1..replicas {
        let other = replica()?;
        stage.subscribers.turn_to(other.listen);
        stage.others.push(other);
        stage.subscribe(Protocol::Http1, 1, each)?;
    }
    stage.deliver(&context.paced(1, fan, WARM), fan)?;
    let meter = RedisMeter::start(&redis)?;
    stage.subscribers.read_for(REST)?;
    let rest = meter.stop(&redis)?;
    stage.subscribers.tally.timing = true;
    let mut plan = context.paced(1, fan, context.scale.measured.as_secs_f64());
    plan.slow_down(RATE);
    // Published when it is due, however late the one before was: waiting for it would hide how late.
    plan.window = None;
    let meter = RedisMeter::start(&redis)?;
    let window = stage.deliver(&plan, fan)?;
    let tally = &stage.subscribers.tally;
    Ok(Measured {
        window,
        redis: meter.stop(&redis)?,
        rest,
        events: plan.events,
        p50_ms: tally.latency_ms(0.5),
        p99_ms: tally.latency_ms(0.99),
    })
}
