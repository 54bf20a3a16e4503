//! Acknowledged appends a second to topics that nobody follows: by NDJSON, and by single requests over connections that
//! stay.
//!
//! Single requests are compared with the same HTTP server answering a constant, by what each takes of its core: where both
//! fill it, that is the ratio of their rates, and where the load program is the bottleneck it is still true.

use anyhow::Result;

use super::Context;
use crate::figures::{count, ratio};
use crate::publisher::{Publisher, repeat_all};
use crate::report::{Goal, Report, Sample};
use crate::requests::Requests;
use crate::stage::{Meter, Window};
use crate::target::{Settings, Target};

const NDJSON_CONNECTIONS: usize = 4;
const EVENTS_PER_WRITE: u64 = 400;
const WARM: std::time::Duration = std::time::Duration::from_millis(300);

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    streamed(context, report)?;
    single(context, report)
}

fn streamed(context: &Context, report: &mut Report) -> Result<()> {
    let pair = context.pair(|target| ndjson(context, target))?;
    let rate = |window: &Window| window.per_second(window.deliveries);
    report.add(Sample {
        name: format!("appends/s, NDJSON, {NDJSON_CONNECTIONS} connections"),
        value: rate(&pair.tested),
        unit: "/s",
        goal: Goal::AtLeast(500_000.0),
        floor: Some(rate(&pair.floor)),
        tested: Some(rate(&pair.tested)),
        raw_unit: "/s",
        notes: pair.notes(),
    });
    Ok(())
}

fn ndjson(context: &Context, target: Target) -> Result<Window> {
    let settings = Settings {
        retained_events: 10_000,
        ..Settings::default()
    };
    let stage = context.stage(target, &settings)?;
    let publishers: Vec<Publisher> = (0..NDJSON_CONNECTIONS)
        .map(|_| Publisher::connect(&stage.server))
        .collect::<Result<_>>()?;
    let times =
        (context.scale.appended_events / EVENTS_PER_WRITE / count(NDJSON_CONNECTIONS)).max(1);
    let bytes = context.scale.payload_bytes;
    let meter = Meter::start(&stage.server)?;
    let acknowledged = repeat_all(publishers, EVENTS_PER_WRITE, times, bytes)?;
    meter.stop(&stage.server, acknowledged)
}

fn single(context: &Context, report: &mut Report) -> Result<()> {
    // The floor takes no requests: against itself, the baseline stands on both sides.
    let tested = if context.tested == Target::Floor {
        Target::Constant
    } else {
        context.tested
    };
    let (constant, gateway);
    if context.round.is_multiple_of(2) {
        constant = requests(context, Target::Constant)?;
        gateway = requests(context, tested)?;
    } else {
        gateway = requests(context, tested)?;
        constant = requests(context, Target::Constant)?;
    }
    let notes = [constant.notes("constant"), gateway.notes("tested")].concat();
    report.add(Sample {
        name: format!(
            "appends/s, single requests, {} connections (floor: constant answer)",
            context.scale.request_connections
        ),
        value: 100.0
            * ratio(
                constant.cpu_us_per_delivery(),
                gateway.cpu_us_per_delivery(),
            ),
        unit: "%",
        goal: Goal::AtLeast(60.0),
        floor: Some(constant.per_second(constant.deliveries)),
        tested: Some(gateway.per_second(gateway.deliveries)),
        raw_unit: "/s",
        notes,
    });
    Ok(())
}

fn requests(context: &Context, target: Target) -> Result<Window> {
    let stage = context.stage(target, &Settings::default())?;
    let mut requests = Requests::connect(
        stage.server.listen,
        context.scale.request_connections,
        context.scale.payload_bytes,
    )?;
    requests.run(WARM)?;
    let before = requests.answered;
    let meter = Meter::start(&stage.server)?;
    requests.run(context.scale.measured)?;
    meter.stop(&stage.server, requests.answered - before)
}
