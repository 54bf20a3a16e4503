//! CPU per delivery at a moderate rate: every event reaches every stream before the next one is published, so nothing is
//! coalesced and each delivery is one send, as on the floor.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Context, Pair};
use crate::figures::count;
use crate::report::{Goal, Report};
use crate::stage::Window;
use crate::target::{Settings, Target};
use crate::wire::Protocol;

const WARM: f64 = 0.5;
/// The share of the usual rate at which many topics are published: each delivery then costs a publish, or a fifth of one.
const MANY_TOPICS: f64 = 0.6;

pub(super) fn one_topic(context: &Context, report: &mut Report) -> Result<()> {
    for &streams in &context.scale.fanout {
        let pair = measure(context, Protocol::Http1, 1, streams)?;
        report.add(pair.cpu_sample(
            format!("CPU per delivery, 1 topic × {streams}"),
            Goal::AtMost(1.2),
        ));
    }
    Ok(())
}

/// The floor speaks HTTP/1.1 here too: the goal counts what HTTP/2 itself costs.
pub(super) fn generic(context: &Context, report: &mut Report) -> Result<()> {
    let streams = context.scale.generic;
    let pair = measure(context, Protocol::H2c, 1, streams)?;
    report.add(pair.cpu_sample(
        format!("CPU per delivery, generic path (h2c), 1 topic × {streams}"),
        Goal::AtMost(1.35),
    ));
    Ok(())
}

/// The floor sends server-sent events, which are a fifth shorter. No goal was set: this one is that of the generic path.
pub(super) fn websockets(context: &Context, report: &mut Report) -> Result<()> {
    for &streams in &context.scale.websockets {
        let pair = measure(context, Protocol::WebSocket, 1, streams)?;
        report.add(pair.cpu_sample(
            format!("CPU per delivery, WebSocket, 1 topic × {streams}"),
            Goal::AtMost(1.35),
        ));
    }
    Ok(())
}

pub(super) fn many_topics(context: &Context, report: &mut Report) -> Result<()> {
    for &(topics, each) in &context.scale.topics {
        let pair = measure(context, Protocol::Http1, topics, each)?;
        report.add(pair.cpu_sample(
            format!("CPU per delivery, {topics} topics × {each}"),
            Goal::AtMost(1.3),
        ));
    }
    Ok(())
}

fn measure(
    context: &Context,
    protocol: Protocol,
    topics: usize,
    each: usize,
) -> Result<Pair<Window>> {
    context.pair(|target| {
        let protocol = if target == Target::Floor {
            Protocol::Http1
        } else {
            protocol
        };
        window(context, target, protocol, topics, each)
            .with_context(|| format!("{target:?}, {topics} topics × {each}"))
    })
}

fn window(
    context: &Context,
    target: Target,
    protocol: Protocol,
    topics: usize,
    each: usize,
) -> Result<Window> {
    let fan = count(each);
    let mut stage = context.stage(target, &Settings::default())?;
    stage.subscribe(protocol, topics, each)?;
    stage.subscribers.read_for(Duration::from_millis(300))?;
    let paced = |seconds| {
        let mut plan = context.paced(topics, fan, seconds);
        if topics > 1 {
            plan.slow_down(MANY_TOPICS);
        }
        plan
    };
    stage.deliver(&paced(WARM), fan)?;
    stage.deliver(&paced(context.scale.measured.as_secs_f64()), fan)
}
