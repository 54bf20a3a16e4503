//! Deliveries a second when there is always more to deliver.
//!
//! One publishing connection keeps a bounded number of deliveries outstanding: enough to keep the server busy, few enough
//! that no stream falls behind what is retained. The floor sends each event alone; a server that coalesces sends less often.

use std::time::Duration;

use anyhow::Result;

use super::Context;
use crate::figures::{count, ratio};
use crate::publisher::Plan;
use crate::report::{Goal, Report, Sample};
use crate::stage::Window;
use crate::target::{Settings, Target};
use crate::wire::Protocol;

const WARM: Duration = Duration::from_millis(500);
/// Events that a stream may be behind, on average.
const OUTSTANDING: u64 = 256;
/// Below this share of its core the server was not what held things up.
const FULL: f64 = 0.9;

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let streams = context.scale.saturated;
    let pair = context.pair(|target| window(context, target, streams))?;
    let rate = |window: &Window| window.per_second(window.deliveries);
    let mut notes = pair.notes();
    for (whose, window) in [("floor", &pair.floor), ("tested", &pair.tested)] {
        if window.server_share() < FULL {
            notes.push(format!("{whose}: not saturated"));
        }
    }
    report.add(Sample {
        name: format!("saturated deliveries/s, 1 topic × {streams}"),
        value: ratio(rate(&pair.tested), rate(&pair.floor)),
        unit: "×",
        goal: Goal::AtLeast(3.0),
        floor: Some(rate(&pair.floor)),
        tested: Some(rate(&pair.tested)),
        raw_unit: "/s",
        notes,
    });
    let name = format!("saturated CPU per delivery, 1 topic × {streams}");
    report.add(pair.cpu_sample(name, Goal::None));
    Ok(())
}

fn window(context: &Context, target: Target, streams: usize) -> Result<Window> {
    let fan = count(streams);
    let mut stage = context.stage(target, &Settings::default())?;
    stage.subscribe(Protocol::Http1, 1, streams)?;
    let plan = Plan {
        topics: 1,
        events: u64::MAX,
        per_second: None,
        batch: 1,
        payload_bytes: context.scale.payload_bytes,
        window: Some(OUTSTANDING * fan),
    };
    stage.saturate(&plan, fan, WARM, context.scale.measured)
}
