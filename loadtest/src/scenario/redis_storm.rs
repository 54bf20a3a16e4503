//! A replica is killed while it delivers, and all its clients come back to another one at once, each with the last id it saw.
//!
//! What they missed was published while nobody followed the topics there. Then it happens again, to a third replica, while
//! publishing goes on.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Context;
use crate::clock::now_ns;
use crate::figures::{count, float, ratio, whole};
use crate::publisher::{Plan, Sequences};
use crate::reader::Position;
use crate::redis::{RedisMeter, RedisServer, RedisWindow};
use crate::report::{Goal, Report, Sample};
use crate::stage::{Meter, Publishing, Stage, Window};
use crate::subscribers::Subscription;
use crate::target::{Server, Settings};
use crate::wire::{Protocol, Start};

/// Events of each topic that the first replica is delivering when it is killed.
const BEGUN: u64 = 4;
/// Events of each topic that are published while everybody is away.
const MISSED: u64 = 20;
/// Events a second in all topics together while the second storm lasts.
const MEANWHILE: f64 = 500.0;
const MEANWHILE_SECONDS: f64 = 2.0;
/// Unanswered connects at a time: below the backlog of any listener, so that no connect waits for a retransmission.
const AT_ONCE: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Time in which what is not owed would come.
const SILENCE: Duration = Duration::from_millis(300);

/// Where the clients of a dead replica stood.
type Positions = Vec<(usize, Position)>;

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let (clients, topics) = context.scale.storm;
    let each = (clients / topics).max(1);
    let clients = count(each * topics);
    let redis = RedisServer::start(context.cores.server)?;
    let replica = || context.replica(&redis, &[context.cores.server], Settings::default());
    let mut first = Stage::new(replica()?)?;
    let mut second = Stage::new(replica()?)?;
    first.subscribe(Protocol::Http1, topics, each)?;

    first.fill(&all_topics(context, topics, BEGUN))?;
    let positions = kill(&mut first)?;
    second.sequences = first.sequences;
    second.fill(&all_topics(context, topics, MISSED))?;
    let meter = RedisMeter::start(&redis)?;
    let (window, missed) = storm(&mut second, &positions)?;
    let during = meter.stop(&redis)?;
    second.subscribers.read_for(SILENCE)?;
    second.subscribers.tally.faults.check()?;
    say(report, context, clients, topics, &window, missed, &during);

    let seconds = storm_while_publishing(context, topics, second, replica()?)?;
    report.add(Sample {
        name: format!(
            "they lose that one too, {MEANWHILE:.0} events a second meanwhile, until all are open"
        ),
        value: seconds,
        unit: "s",
        goal: Goal::None,
        floor: None,
        tested: None,
        raw_unit: "",
        notes: Vec::new(),
    });
    Ok(())
}

/// Events of all topics in turn, as fast as they are taken.
fn all_topics(context: &Context, topics: usize, events_each: u64) -> Plan {
    Plan {
        topics,
        events: events_each * count(topics),
        per_second: None,
        batch: 10,
        payload_bytes: context.scale.payload_bytes,
        window: None,
    }
}

/// Kills the replica, which may be in the middle of delivering, and returns how far its clients had come.
fn kill(stage: &mut Stage) -> Result<Positions> {
    stage.server.process.kill()?;
    stage.subscribers.bereaved()
}

fn returning(positions: &Positions) -> impl Iterator<Item = Subscription> + '_ {
    positions.iter().map(|(topic, position)| Subscription {
        protocol: Protocol::Http1,
        topic: *topic,
        start: Start::After(position.id),
        next: position.next,
    })
}

/// How many events these clients have not seen.
fn owed(positions: &Positions, sequences: &Sequences) -> u64 {
    let owed = positions
        .iter()
        .map(|(topic, position)| sequences.next(*topic) - position.next);
    owed.sum()
}

/// All come back; returns what it took until each had seen everything, and how many events that were.
fn storm(stage: &mut Stage, positions: &Positions) -> Result<(Window, u64)> {
    let missed = owed(positions, &stage.sequences);
    let clients = count(positions.len());
    let meter = Meter::start(&stage.server)?;
    stage.subscribers.connect(AT_ONCE, returning(positions))?;
    stage.subscribers.wait_for(PATIENCE, |tally| {
        tally.delivered >= missed && tally.live >= clients
    })?;
    let window = meter.stop(&stage.server, missed)?;
    let delivered = stage.subscribers.tally.delivered;
    ensure!(
        delivered == missed,
        "{missed} events were missed, {delivered} arrived"
    );
    Ok((window, missed))
}

fn say(
    report: &mut Report,
    context: &Context,
    clients: u64,
    topics: usize,
    window: &Window,
    missed: u64,
    during: &RedisWindow,
) {
    let who = format!("{clients} clients in {topics} topics");
    let mut notes = window.notes("tested");
    notes.push("their connects included".to_owned());
    report.add(Sample {
        name: format!("{who} come back to another replica, until all have caught up"),
        value: float(window.wall_ns) / 1e9,
        unit: "s",
        goal: Goal::None,
        floor: None,
        tested: Some(window.cpu_us(clients)),
        raw_unit: "µs CPU a client",
        notes,
    });
    let sum = during.commands.sum();
    report.add(Sample {
        name: format!("commands of Redis for each of {who}"),
        value: ratio(float(sum), float(clients)),
        unit: "",
        goal: Goal::None,
        floor: None,
        tested: Some(float(sum)),
        raw_unit: "commands",
        notes: vec![
            "those inside of functions, and those of both replicas at rest, included".to_owned(),
        ],
    });
    let reads = during.commands.of("xrange") + during.commands.of("xrevrange");
    report.add(Sample {
        name: format!("reads of streams in Redis for each topic, {who}"),
        value: ratio(float(reads), float(count(topics))),
        unit: "",
        goal: Goal::AtMost(20.0),
        floor: None,
        tested: Some(float(reads)),
        raw_unit: "reads",
        notes: Vec::new(),
    });
    report.remark(format!(
        "storm, round {}: {missed} events were missed and arrived once; Redis used {:.1} ms and executed: {}",
        context.round + 1,
        float(during.cpu.used_ns) / 1e6,
        during.commands
    ));
}

/// The clients of `before` lose their replica as well and come to `server` while events are published there; returns the
/// seconds until all were open again. Every event has to reach everybody once, whenever it came.
fn storm_while_publishing(
    context: &Context,
    topics: usize,
    mut before: Stage,
    server: Server,
) -> Result<f64> {
    let plan = Plan {
        events: whole(MEANWHILE * MEANWHILE_SECONDS),
        per_second: Some(MEANWHILE),
        batch: 1,
        ..all_topics(context, topics, 1)
    };
    let positions = kill(&mut before)?;
    let mut stage = Stage::new(server)?;
    let publishing = Publishing::start(&stage.server, plan, 0, before.sequences)?;
    let start = now_ns();
    let connected = stage.subscribers.connect(AT_ONCE, returning(&positions));
    let took = now_ns() - start;
    stage.sequences = publishing.end(connected.is_err())?;
    connected?;
    let missed = owed(&positions, &stage.sequences);
    stage
        .subscribers
        .wait_for(PATIENCE, |tally| tally.delivered >= missed)?;
    stage.subscribers.read_for(SILENCE)?;
    stage.subscribers.tally.faults.check()?;
    let delivered = stage.subscribers.tally.delivered;
    ensure!(
        delivered == missed,
        "{missed} events were owed, {delivered} arrived"
    );
    Ok(float(took) / 1e9)
}
