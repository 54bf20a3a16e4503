//! Long polling: what a poll costs that finds nothing, one that takes a page of history, and one that waits for each event.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::Context;
use crate::clock::{deadline, now_ns};
use crate::figures::{count, float, ratio};
use crate::pollers::{Pollers, request};
use crate::publisher::{Plan, Sequences};
use crate::report::{Goal, Report, Sample};
use crate::requests::Requests;
use crate::stage::{Meter, Publishing, Stage, Window};
use crate::subscribers::connect;
use crate::target::{Settings, Target};

const WARM: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);
/// Events of a page of history.
const PAGE: u64 = 100;
/// Deliveries a second: each is a request and an answer.
const RATE: f64 = 8_000.0;

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    ensure!(
        context.tested == Target::Gateway,
        "only the gateway can be polled"
    );
    requests(context, report)?;
    waiting(context, report)
}

/// Polls over connections that stay, one at a time on each.
fn requests(context: &Context, report: &mut Report) -> Result<()> {
    let connections = context.scale.request_connections;
    let (constant, nothing, page);
    if context.round.is_multiple_of(2) {
        constant = closed_loop(context, Target::Constant, false)?;
        nothing = closed_loop(context, Target::Gateway, false)?;
        page = closed_loop(context, Target::Gateway, true)?;
    } else {
        page = closed_loop(context, Target::Gateway, true)?;
        nothing = closed_loop(context, Target::Gateway, false)?;
        constant = closed_loop(context, Target::Constant, false)?;
    }
    let rate = |window: &Window| window.per_second(window.deliveries);
    for (name, polls) in [
        ("that find nothing", &nothing),
        ("that take 100 events", &page),
    ] {
        report.add(Sample {
            name: format!("polls/s {name}, {connections} connections (floor: constant answer)"),
            value: rate(polls),
            unit: "/s",
            goal: Goal::None,
            floor: Some(rate(&constant)),
            tested: Some(rate(polls)),
            raw_unit: "/s",
            notes: [constant.notes("constant"), polls.notes("tested")].concat(),
        });
        report.add(Sample {
            name: format!("CPU per poll {name} (floor: constant answer)"),
            value: ratio(polls.cpu_us_per_delivery(), constant.cpu_us_per_delivery()),
            unit: "×",
            goal: Goal::None,
            floor: Some(constant.cpu_us_per_delivery()),
            tested: Some(polls.cpu_us_per_delivery()),
            raw_unit: "µs",
            notes: Vec::new(),
        });
    }
    Ok(())
}

fn closed_loop(context: &Context, target: Target, page: bool) -> Result<Window> {
    let mut stage = context.stage(target, &Settings::default())?;
    let mut poll = request("wait=0s");
    if target == Target::Gateway {
        stage.fill(&plan(PAGE, None, context.scale.payload_bytes))?;
        poll = if page {
            request("wait=0s&lastEventId=earliest&limit=100")
        } else {
            request(&format!("wait=0s&lastEventId={}", cursor(&stage)?))
        };
    }
    let polls = vec![poll; context.scale.request_connections];
    let mut requests = Requests::with(stage.server.listen, polls)?;
    requests.run(WARM)?;
    let before = requests.answered;
    let meter = Meter::start(&stage.server)?;
    requests.run(context.scale.measured)?;
    meter.stop(&stage.server, requests.answered - before)
}

/// Where the log of `t0` ends.
fn cursor(stage: &Stage) -> Result<String> {
    let mut socket = connect(stage.server.listen, 0)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let poll = request("wait=0s&lastEventId=earliest");
    // The connection ends with the answer.
    let head = String::from_utf8(poll)?.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let events = memchr::memmem::find_iter(&answer, b"\"data\":\"").count();
    ensure!(
        count(events) == PAGE,
        "{events} events in the page: {}",
        String::from_utf8_lossy(&answer)
    );
    let at = memchr::memmem::rfind(&answer, b"\"cursor\":\"").context("no cursor")?;
    let cursor = crate::ws::text_after(&answer[at..], b"\"cursor\":\"").context("no cursor")?;
    Ok(String::from_utf8(cursor.to_vec())?)
}

fn plan(events: u64, per_second: Option<f64>, payload_bytes: usize) -> Plan {
    Plan {
        topics: 1,
        events,
        per_second,
        batch: 1,
        payload_bytes,
        window: Some(0),
    }
}

/// Everybody waits for each event: an answer and a new poll for each delivery.
fn waiting(context: &Context, report: &mut Report) -> Result<()> {
    let pollers = context.scale.pollers;
    let pair = context.pair(|target| match target {
        Target::Gateway => long_polls(context, pollers),
        _ => {
            let fan = count(pollers);
            let mut stage = context.stage(target, &Settings::default())?;
            stage.subscribe(crate::wire::Protocol::Http1, 1, pollers)?;
            stage.deliver(&paced(context, fan, WARM), fan)?;
            stage.deliver(&paced(context, fan, context.scale.measured), fan)
        }
    })?;
    report.add(pair.cpu_sample(
        format!("CPU per delivery, 1 topic × {pollers} waiting polls (floor: streams)"),
        Goal::None,
    ));
    let grown = |window: &Window| float(window.rss_most.saturating_sub(window.rss_start));
    report.add(Sample {
        name: format!("{pollers} waiting polls: RSS above its start while delivering"),
        value: grown(&pair.tested) / 1024.0 / 1024.0,
        unit: "MiB",
        goal: Goal::None,
        floor: Some(grown(&pair.floor)),
        tested: Some(grown(&pair.tested)),
        raw_unit: "B",
        notes: Vec::new(),
    });
    Ok(())
}

fn paced(context: &Context, fan: u64, time: Duration) -> Plan {
    let per_second = (RATE / float(fan)).max(1.0);
    let events = crate::figures::whole(per_second * time.as_secs_f64()).max(3);
    plan(events, Some(per_second), context.scale.payload_bytes)
}

fn long_polls(context: &Context, number: usize) -> Result<Window> {
    let stage = context.stage(Target::Gateway, &Settings::default())?;
    let mut pollers = Pollers::connect(stage.server.listen, number, 1)?;
    let fan = count(number);
    let until = deadline(PATIENCE);
    while pollers.tally.opened < fan {
        pollers.turn(Duration::from_millis(10))?;
        pollers.tally.faults.check()?;
        if now_ns() > until {
            bail!("{} of {number} polls wait", pollers.tally.opened);
        }
    }
    let warm = paced(context, fan, WARM);
    let (_, sequences) = rounds(&stage, &mut pollers, &warm, fan, Sequences::default())?;
    let measured = paced(context, fan, context.scale.measured);
    let (window, _) = rounds(&stage, &mut pollers, &measured, fan, sequences)?;
    Ok(window)
}

/// Publishes a plan, and reads until each poller has had each event.
fn rounds(
    stage: &Stage,
    pollers: &mut Pollers,
    plan: &Plan,
    fan: u64,
    sequences: Sequences,
) -> Result<(Window, Sequences)> {
    let before = pollers.tally.delivered;
    let expected = plan.events * fan;
    let seconds = plan
        .per_second
        .map_or(0.0, |rate| float(plan.events) / rate);
    let until = deadline(PATIENCE + Duration::from_secs_f64(seconds));
    let publisher = Publishing::start(&stage.server, *plan, fan, sequences)?;
    let mut meter = Meter::start(&stage.server)?;
    let mut read = || -> Result<()> {
        loop {
            let delivered = pollers.tally.delivered - before;
            publisher.tell(delivered);
            if delivered == expected {
                return Ok(());
            }
            ensure!(delivered < expected, "too many events arrived");
            ensure!(
                now_ns() < until && !publisher.has_failed(),
                "{delivered} of {expected} deliveries arrived: {}",
                stage.server.process.last_words()
            );
            pollers.turn(Duration::from_millis(10))?;
            pollers.tally.faults.check()?;
            meter.watch(&stage.server)?;
        }
    };
    let outcome = read();
    let sequences = publisher.end(outcome.is_err())?;
    outcome?;
    Ok((meter.stop(&stage.server, expected)?, sequences))
}
