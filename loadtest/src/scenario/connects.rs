//! CPU per connect: accept, request, answer and first event. The close is not in it.

use anyhow::Result;

use super::Context;
use crate::figures::{count, ratio};
use crate::report::{Goal, Report, Sample};
use crate::stage::{Meter, Window};
use crate::target::{Settings, Target};
use crate::wire::Protocol;

const WARM: usize = 300;

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let connects = context.scale.connects;
    let pair = context.pair(|target| window(context, target, connects))?;
    let (floor, tested) = (
        pair.floor.cpu_us(count(connects)),
        pair.tested.cpu_us(count(connects)),
    );
    report.add(Sample {
        name: format!("CPU per connect, {connects} connects"),
        value: ratio(tested, floor),
        unit: "×",
        goal: Goal::AtMost(1.5),
        floor: Some(floor),
        tested: Some(tested),
        raw_unit: "µs",
        notes: pair.notes(),
    });
    Ok(())
}

fn window(context: &Context, target: Target, connects: usize) -> Result<Window> {
    let mut stage = context.stage(target, &Settings::default())?;
    stage.subscribe(Protocol::Http1, 1, WARM)?;
    let meter = Meter::start(&stage.server)?;
    stage.subscribe(Protocol::Http1, 1, connects)?;
    meter.stop(&stage.server, 0)
}
