//! Everybody comes back at once, each with the last id it saw, and each has missed the same hundred events.
//!
//! What a resumed event costs includes the new connection that it comes over.

use anyhow::Result;

use super::Context;
use crate::figures::{count, float, ratio};
use crate::publisher::Plan;
use crate::report::{Goal, Report, Sample};
use crate::stage::Meter;
use crate::subscribers::Subscription;
use crate::target::{Settings, Target};
use crate::wire::{Protocol, Start};

const MISSED: u64 = 100;
/// Unanswered connects at a time: below the backlog of any listener, so that no connect waits for a retransmission.
const AT_ONCE: u64 = 1_000;
const LIVE_SECONDS: f64 = 1.5;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let streams = context.scale.resumed;
    let fan = count(streams);
    let settings = Settings {
        floor_keeps: true,
        ..Settings::default()
    };
    let mut stage = context.stage(context.tested, &settings)?;
    stage.subscribe(Protocol::Http1, 1, streams)?;
    stage.deliver(&context.paced(1, fan, 0.3), fan)?;
    let live = stage.deliver(&context.paced(1, fan, LIVE_SECONDS), fan)?;
    let positions = stage.subscribers.positions();
    stage.leave()?;
    stage.fill(&Plan {
        topics: 1,
        events: MISSED,
        per_second: None,
        batch: 10,
        payload_bytes: context.scale.payload_bytes,
        window: None,
    })?;

    let (opened, delivered) = (
        stage.subscribers.tally.opened,
        stage.subscribers.tally.delivered,
    );
    let resumed = delivered + fan * MISSED;
    let meter = Meter::start(&stage.server)?;
    let returning = positions.into_iter().map(|(topic, position)| Subscription {
        protocol: Protocol::Http1,
        topic,
        start: Start::After(position.id),
        next: position.next,
    });
    stage.subscribers.connect(AT_ONCE, returning)?;
    stage
        .subscribers
        .wait_for(PATIENCE, |tally| tally.delivered >= resumed)?;
    let window = meter.stop(&stage.server, fan * MISSED)?;
    if context.tested == Target::Gateway {
        // `$live` may come right behind the last event.
        stage
            .subscribers
            .wait_for(PATIENCE, |tally| tally.live >= tally.opened - opened)?;
    }
    stage.subscribers.tally.faults.check()?;

    let mut notes = [live.notes("live"), window.notes("resume")].concat();
    notes.push(format!(
        "floor column: its own live delivery; {:.1} s until all had caught up",
        float(window.wall_ns) / 1e9
    ));
    report.add(Sample {
        name: format!("CPU per resumed event, {streams} clients × {MISSED}, ÷ live delivery"),
        value: ratio(window.cpu_us_per_delivery(), live.cpu_us_per_delivery()),
        unit: "×",
        goal: Goal::AtMost(1.0),
        floor: Some(live.cpu_us_per_delivery()),
        tested: Some(window.cpu_us_per_delivery()),
        raw_unit: "µs",
        notes,
    });
    Ok(())
}
