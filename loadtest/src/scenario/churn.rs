//! Connects and drops of every kind, beside streams that stay: afterwards the server is what it was before.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::Context;
use crate::clock::{deadline, now_ns};
use crate::figures::{count, float, growth, ratio};
use crate::report::{Goal, Report, Sample};
use crate::stage::{Meter, Stage};
use crate::subscribers::{Subscribers, connect};
use crate::target::{Settings, Target};
use crate::wire::{self, Protocol, Start};

/// Streams that stay and must miss nothing.
const STEADY: usize = 50;
/// Connections held open before the oldest is dropped.
const HELD: usize = 300;
/// One event to the steady streams for so many connects.
const CONNECTS_PER_EVENT: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(5);
const MIB: f64 = 1024.0 * 1024.0;

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Drop {
    Silent,
    HalfRequest,
    BeforeTheAnswer,
    AfterTheAnswer,
    Reset,
    HalfClosed,
    Garbage,
    Http2,
    HalfPublish,
    UnreadReplay,
}

const KINDS: [Drop; 10] = [
    Drop::Silent,
    Drop::HalfRequest,
    Drop::BeforeTheAnswer,
    Drop::AfterTheAnswer,
    Drop::Reset,
    Drop::HalfClosed,
    Drop::Garbage,
    Drop::Http2,
    Drop::HalfPublish,
    Drop::UnreadReplay,
];

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let connects = context.scale.churned;
    let settings = Settings {
        retained_events: 1_000,
        counted: true,
        ..Settings::default()
    };
    let mut stage = context.stage(context.tested, &settings)?;
    stage.subscribe(Protocol::Http1, 1, STEADY)?;
    stage.subscribers.read_for(Duration::from_millis(300))?;
    let files = stage.server.process.open_files()?;
    // Buffers, pools and thread stacks come with the first clients, whatever follows.
    churn(context, &mut stage, (connects / 10).max(count(2 * HELD)))?;
    settle(&stage, files)?;
    let rss = stage.server.process.rss_bytes()?;
    let meter = Meter::start(&stage.server)?;
    churn(context, &mut stage, connects)?;
    let window = meter.stop(&stage.server, 0)?;
    let files_left = settle(&stage, files)?;
    let rss_left = stage.server.process.rss_bytes()?;
    let mut notes = window.notes("tested");
    notes.push(format!(
        "{:.0} connects/s",
        ratio(float(connects), float(window.wall_ns) / 1e9)
    ));
    report.add(Sample {
        name: format!("churn of {connects} connects: RSS kept"),
        value: growth(rss, rss_left) / MIB,
        unit: "MiB",
        goal: Goal::AtMost(8.0),
        floor: None,
        tested: Some(float(rss_left) / MIB),
        raw_unit: "MiB",
        notes,
    });
    report.add(Sample {
        name: format!("churn of {connects} connects: open files kept"),
        value: growth(files, files_left),
        unit: "",
        goal: Goal::AtMost(0.0),
        floor: None,
        tested: Some(float(files_left)),
        raw_unit: "",
        notes: Vec::new(),
    });
    if stage.server.target == Target::Gateway {
        let held = float(count(STEADY));
        let steady = stage.server.metric("tidegate_stream_places")?;
        report.add(permits(
            format!("churn of {connects} connects: places kept"),
            steady - held,
        ));
        stage.subscribers = Subscribers::new(stage.server.listen)?;
        let left = nobody(&stage)?;
        report.add(permits(
            format!("churn of {connects} connects: callers kept when all are gone"),
            left,
        ));
    }
    Ok(())
}

/// A count that has to be zero.
fn permits(name: String, left: f64) -> Sample {
    Sample {
        name,
        value: left,
        unit: "",
        goal: Goal::AtMost(0.0),
        floor: None,
        tested: Some(left),
        raw_unit: "",
        notes: Vec::new(),
    }
}

/// Waits until the gateway counts nobody's streams, and returns whatever it still counts.
fn nobody(stage: &Stage) -> Result<f64> {
    let until = deadline(PATIENCE);
    loop {
        let mut left = 0.0;
        for gauge in [
            "tidegate_limited_callers",
            "tidegate_stream_places",
            "sse_active_connections",
        ] {
            left += stage.server.metric(gauge)?;
        }
        if left == 0.0 || now_ns() > until {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn churn(context: &Context, stage: &mut Stage, connects: u64) -> Result<()> {
    let plan = crate::publisher::Plan {
        events: 1,
        ..context.paced(1, count(STEADY), 0.0)
    };
    let mut held = VecDeque::with_capacity(HELD);
    for number in 0..connects {
        let kind = KINDS[usize::try_from(number % count(KINDS.len()))?];
        if held.len() == HELD {
            held.pop_front();
        }
        held.extend(visit(stage, number, kind)?);
        if number % CONNECTS_PER_EVENT == 0 {
            stage.deliver(&plan, count(STEADY))?;
        }
    }
    held.clear();
    stage.deliver(&plan, count(STEADY))?;
    Ok(())
}

/// Connects and behaves; what it returns is dropped later.
fn visit(stage: &Stage, number: u64, kind: Drop) -> Result<Option<TcpStream>> {
    let mut socket = connect(stage.server.listen, number)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let request = wire::subscribe(Protocol::Http1, "t0", Start::Now);
    match kind {
        Drop::Silent => {}
        Drop::HalfRequest => socket.write_all(&request[..request.len() / 2])?,
        Drop::BeforeTheAnswer => {
            socket.write_all(&request)?;
            return Ok(None);
        }
        Drop::AfterTheAnswer => {
            socket.write_all(&request)?;
            hear(&mut socket)?;
        }
        Drop::Reset => {
            socket.write_all(&request)?;
            hear(&mut socket)?;
            SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        }
        Drop::HalfClosed => {
            socket.write_all(&request)?;
            hear(&mut socket)?;
            socket.shutdown(Shutdown::Write)?;
        }
        Drop::Garbage => {
            socket.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")?;
        }
        Drop::Http2 if stage.server.target == Target::Gateway => {
            socket.write_all(&wire::subscribe(Protocol::H2c, "t0", Start::Now))?;
            hear(&mut socket)?;
        }
        Drop::HalfPublish | Drop::Http2 => {
            socket.write_all(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\r\n{\"top")?;
        }
        Drop::UnreadReplay => {
            socket.write_all(&wire::subscribe(Protocol::Http1, "t0", Start::Earliest))?;
        }
    }
    Ok(Some(socket))
}

/// Reads the beginning of the answer.
fn hear(socket: &mut TcpStream) -> Result<()> {
    let length = socket.read(&mut [0; 1024]).context("no answer")?;
    ensure!(length > 0, "the server hung up on a proper request");
    Ok(())
}

/// Waits until the server holds no more files than at the start, and returns how many it holds.
fn settle(stage: &Stage, files: u64) -> Result<u64> {
    let until = deadline(PATIENCE);
    loop {
        let open = stage.server.process.open_files()?;
        if open <= files || now_ns() > until {
            // What closed last may still be on its way back to the allocator.
            std::thread::sleep(Duration::from_millis(500));
            return stage.server.process.open_files();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
