//! Memory of a stream to which nothing is sent: the slope between few and many, so that what the process needs anyway
//! does not count. Kernel memory is not in it.

use std::time::Duration;

use anyhow::Result;

use super::Context;
use crate::figures::{count, float, growth, ratio};
use crate::report::{Goal, Report, Sample};
use crate::target::{Settings, Target};
use crate::wire::Protocol;

const SETTLE: Duration = Duration::from_secs(1);
const KIB: f64 = 1024.0;

pub(super) fn http1(context: &Context, report: &mut Report) -> Result<()> {
    sample(context, report, Protocol::Http1, context.scale.idle, 1.5)
}

pub(super) fn generic(context: &Context, report: &mut Report) -> Result<()> {
    sample(
        context,
        report,
        Protocol::H2c,
        context.scale.idle_generic,
        12.0,
    )
}

/// What tokio-tungstenite alone was measured to take with a read buffer of 4 KiB: 5.7 KB.
pub(super) fn websockets(context: &Context, report: &mut Report) -> Result<()> {
    let sizes = context.scale.idle_generic;
    sample(context, report, Protocol::WebSocket, sizes, 5.6)
}

fn sample(
    context: &Context,
    report: &mut Report,
    protocol: Protocol,
    sizes: (usize, usize),
    most: f64,
) -> Result<()> {
    let slopes = context.pair(|target| {
        let protocol = if target == Target::Floor {
            Protocol::Http1
        } else {
            protocol
        };
        slope(context, target, protocol, sizes)
    })?;
    let path = match protocol {
        Protocol::Http1 => "HTTP/1.1",
        Protocol::H2c => "generic path (h2c)",
        Protocol::WebSocket => "WebSocket",
    };
    report.add(Sample {
        name: format!("RSS per idle stream, {path}, {} to {}", sizes.0, sizes.1),
        value: slopes.tested / KIB,
        unit: "KiB",
        goal: Goal::AtMost(most),
        floor: Some(slopes.floor),
        tested: Some(slopes.tested),
        raw_unit: "B",
        notes: Vec::new(),
    });
    Ok(())
}

/// Bytes of resident memory for each stream more.
fn slope(
    context: &Context,
    target: Target,
    protocol: Protocol,
    (few, many): (usize, usize),
) -> Result<f64> {
    let mut stage = context.stage(target, &Settings::default())?;
    stage.subscribe(protocol, 1, few)?;
    stage.subscribers.read_for(SETTLE)?;
    let before = stage.server.process.rss_bytes()?;
    stage.subscribe(protocol, 1, many.saturating_sub(few))?;
    stage.subscribers.read_for(SETTLE)?;
    let after = stage.server.process.rss_bytes()?;
    Ok(ratio(
        growth(before, after),
        float(count(many.saturating_sub(few))),
    ))
}
