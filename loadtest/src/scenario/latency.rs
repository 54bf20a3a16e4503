//! Publish to arrival at many streams of one topic, at the same moderate rate for both servers.
//!
//! Most of it is the sweep: the last of 10,000 streams is written 10,000 sends after the first, on the floor too.

use anyhow::Result;

use super::Context;
use crate::figures::{count, ratio};
use crate::report::{Goal, Report, Sample};
use crate::stage::Window;
use crate::target::{Settings, Target};
use crate::wire::Protocol;

const WARM: f64 = 0.5;
/// The share of the usual rate at which an event has reached everybody well before the next.
const RATE: f64 = 0.5;

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let streams = context.scale.latency;
    let pair = context.pair(|target| quantiles(context, target, streams))?;
    let notes = [pair.floor.2.notes("floor"), pair.tested.2.notes("tested")].concat();
    let rows = [
        ("p50", pair.floor.0, pair.tested.0, 1.0),
        ("p99", pair.floor.1, pair.tested.1, 1.3),
    ];
    for (quantile, floor, tested, most) in rows {
        report.add(Sample {
            name: format!("publish to arrival, {streams} streams, {quantile}"),
            value: ratio(tested, floor),
            unit: "×",
            goal: Goal::AtMost(most),
            floor: Some(floor),
            tested: Some(tested),
            raw_unit: "ms",
            notes: notes.clone(),
        });
    }
    Ok(())
}

/// p50 and p99 in milliseconds.
fn quantiles(context: &Context, target: Target, streams: usize) -> Result<(f64, f64, Window)> {
    let fan = count(streams);
    let mut stage = context.stage(target, &Settings::default())?;
    stage.subscribe(Protocol::Http1, 1, streams)?;
    stage.deliver(&context.paced(1, fan, WARM), fan)?;
    stage.subscribers.tally.timing = true;
    let mut plan = context.paced(1, fan, context.scale.measured.as_secs_f64());
    plan.slow_down(RATE);
    // Published when it is due, however late the one before was: waiting for it would hide how late.
    plan.window = None;
    let window = stage.deliver(&plan, fan)?;
    let tally = &stage.subscribers.tally;
    Ok((tally.latency_ms(0.5), tally.latency_ms(0.99), window))
}
