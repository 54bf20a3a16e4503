//! A long history over one connection: in flat memory, and in a time that is near that of sending the bytes from memory.
//!
//! The reader only reads while the clock runs, into memory that it has touched before, and checks every event afterwards:
//! a parser beside it would be the bottleneck, and would hide the difference.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Context;
use crate::clock::{deadline, now_ns};
use crate::figures::{float, ratio};
use crate::http1::Http1;
use crate::payload::sequence_text;
use crate::publisher::Plan;
use crate::reader::Position;
use crate::report::{Goal, Report, Sample};
use crate::stage::{Meter, Window};
use crate::stream::Sse;
use crate::subscribers::connect;
use crate::tally::Tally;
use crate::target::{Server, Settings, Target};
use crate::wire::{self, Protocol, Start};

/// What ids, field names and chunk heads add to an event, generously.
const FRAME_BYTES: usize = 96;
const FRAME_END: &[u8] = b"\n\n\r\n";
/// Where the last event is looked for: it and a word of the gateway after it.
const END_BYTES: usize = 512;
const PATIENCE: Duration = Duration::from_secs(45);
const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let events = context.scale.replayed_events;
    let pair = context.pair(|target| replay(context, target, events))?;
    let milliseconds = |window: &Window| float(window.wall_ns) / 1e6;
    report.add(Sample {
        name: format!("replay of {events} events, time ÷ from memory"),
        value: ratio(milliseconds(&pair.tested), milliseconds(&pair.floor)),
        unit: "×",
        goal: Goal::AtMost(2.0),
        floor: Some(milliseconds(&pair.floor)),
        tested: Some(milliseconds(&pair.tested)),
        raw_unit: "ms",
        notes: pair.notes(),
    });
    let (floor, tested) = (pair.floor.cpu_us(events), pair.tested.cpu_us(events));
    report.add(Sample {
        name: format!("replay of {events} events, CPU per event ÷ from memory"),
        value: ratio(tested, floor),
        unit: "×",
        goal: Goal::None,
        floor: Some(floor),
        tested: Some(tested),
        raw_unit: "µs",
        notes: Vec::new(),
    });
    let grown = |window: &Window| float(window.rss_most.saturating_sub(window.rss_start)) / MIB;
    report.add(Sample {
        name: format!("replay of {events} events, RSS above its start"),
        value: grown(&pair.tested),
        unit: "MiB",
        goal: Goal::AtMost(8.0),
        floor: Some(grown(&pair.floor)),
        tested: Some(grown(&pair.tested)),
        raw_unit: "MiB",
        notes: Vec::new(),
    });
    Ok(())
}

fn replay(context: &Context, target: Target, events: u64) -> Result<Window> {
    let settings = Settings {
        retained_events: events * 2,
        retained_bytes: "1GiB".to_owned(),
        floor_keeps: true,
        ..Settings::default()
    };
    let mut stage = context.stage(target, &settings)?;
    stage.fill(&Plan {
        topics: 1,
        events,
        per_second: None,
        batch: 200,
        payload_bytes: context.scale.payload_bytes,
        window: None,
    })?;
    let room = usize::try_from(events)? * (context.scale.payload_bytes + FRAME_BYTES) + (1 << 20);
    let mut history = vec![1; room];
    let (window, length) = read(&stage.server, events, &mut history)?;
    verify(&history[..length], events)?;
    Ok(window)
}

fn read(server: &Server, events: u64, history: &mut [u8]) -> Result<(Window, usize)> {
    let mut socket = connect(server.listen, 0)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let last = [b"data: ", sequence_text(events).as_slice()].concat();
    let until = deadline(PATIENCE);
    let mut meter = Meter::start(server)?;
    socket.write_all(&wire::subscribe(Protocol::Http1, "t0", Start::Earliest))?;
    let mut length = 0;
    loop {
        let room = &mut history[length..];
        ensure!(!room.is_empty(), "the replay is longer than the history");
        let most = room.len().min(1 << 20);
        let got = socket
            .read(&mut room[..most])
            .context("the replay stopped")?;
        ensure!(got > 0, "the replay ended early");
        length += got;
        let end = &history[length.saturating_sub(END_BYTES)..length];
        if end.ends_with(FRAME_END) && memchr::memmem::find(end, &last).is_some() {
            return Ok((meter.stop(server, events)?, length));
        }
        ensure!(
            now_ns() < until,
            "the replay is not done after {PATIENCE:?}"
        );
        meter.watch(server)?;
    }
}

fn verify(history: &[u8], events: u64) -> Result<()> {
    let mut tally = Tally::default();
    let (mut answer, mut sse) = (Http1::default(), Sse::default());
    let mut position = Position {
        next: 1,
        ..Position::default()
    };
    let fed = answer.feed(history, &mut |body| {
        sse.feed(body, &mut |arrival| {
            position.arrive(arrival, 0, 0, &mut tally);
        });
    });
    ensure!(
        fed.is_ok() && answer.status() == 200,
        "the replay is no event stream: {fed:?}"
    );
    tally.faults.check()?;
    ensure!(
        tally.delivered == events,
        "{} of {events} events were replayed",
        tally.delivered
    );
    Ok(())
}
