//! A tenth of the readers does not read, and the events are large: the others must not notice, nor the memory.

use anyhow::Result;

use super::Context;
use crate::figures::{count, float, ratio, whole};
use crate::publisher::Plan;
use crate::report::{Goal, Report, Sample};
use crate::stage::Window;
use crate::target::Settings;
use crate::wire::Protocol;

const PAYLOAD_BYTES: usize = 16 * 1024;
const MIB: f64 = 1024.0 * 1024.0;
/// Deliveries a second: 16 KiB each, 240 MB/s.
const RATE: f64 = 15_000.0;
/// Fills the retention, so that memory does not grow by what is published.
const FILL_EVENTS: u64 = 400;

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    compare(context, report, Protocol::Http1, "")
}

pub(super) fn websockets(context: &Context, report: &mut Report) -> Result<()> {
    compare(context, report, Protocol::WebSocket, " WebSockets")
}

fn compare(context: &Context, report: &mut Report, protocol: Protocol, what: &str) -> Result<()> {
    let reading = context.scale.stuck_of * 9 / 10;
    let stuck = context.scale.stuck_of - reading;
    let (alone, beside);
    if context.round.is_multiple_of(2) {
        alone = measure(context, protocol, reading, 0)?;
        beside = measure(context, protocol, reading, stuck)?;
    } else {
        beside = measure(context, protocol, reading, stuck)?;
        alone = measure(context, protocol, reading, 0)?;
    }
    report.add(Sample {
        name: format!(
            "{stuck} of {}{what} stuck, 16 KiB events: p99 of the others",
            context.scale.stuck_of
        ),
        value: ratio(beside.1, alone.1),
        unit: "×",
        goal: Goal::AtMost(1.2),
        floor: Some(alone.1),
        tested: Some(beside.1),
        raw_unit: "ms",
        notes: [
            vec!["floor column: the same run without them".to_owned()],
            alone.0.notes("without"),
            beside.0.notes("with"),
        ]
        .concat(),
    });
    let grown = |window: &Window| float(window.rss_most.saturating_sub(window.rss_start)) / MIB;
    report.add(Sample {
        name: format!(
            "{stuck} of {}{what} stuck: RSS above its start",
            context.scale.stuck_of
        ),
        value: grown(&beside.0),
        unit: "MiB",
        goal: Goal::AtMost(8.0),
        floor: Some(grown(&alone.0)),
        tested: Some(grown(&beside.0)),
        raw_unit: "MiB",
        notes: Vec::new(),
    });
    Ok(())
}

/// The window, and p99 in milliseconds.
fn measure(
    context: &Context,
    protocol: Protocol,
    reading: usize,
    stuck: usize,
) -> Result<(Window, f64)> {
    let settings = Settings {
        retained_bytes: "4MiB".to_owned(),
        write_timeout: "10s".to_owned(),
        ..Settings::default()
    };
    let fan = count(reading);
    let per_second = RATE / float(fan);
    let plan = |events| Plan {
        topics: 1,
        events,
        per_second: Some(per_second),
        batch: 1,
        payload_bytes: PAYLOAD_BYTES,
        window: None,
    };
    let mut stage = context.stage(context.tested, &settings)?;
    stage.fill(&Plan {
        per_second: None,
        ..plan(FILL_EVENTS)
    })?;
    stage.subscribe(protocol, 1, reading)?;
    stage.deliver(&plan(whole(per_second).max(3)), fan)?;
    stage.subscribe(protocol, 1, stuck)?;
    stage.subscribers.stick(stuck);
    stage.subscribers.tally.timing = true;
    let events = whole(per_second * context.scale.stuck_measured.as_secs_f64()).max(3);
    let window = stage.deliver(&plan(events), fan)?;
    Ok((window, stage.subscribers.tally.latency_ms(0.99)))
}
