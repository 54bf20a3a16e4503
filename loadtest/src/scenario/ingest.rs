//! What is put into the ingest stream, beside what is published by the function itself: how fast a heap of it is moved, and
//! how long a single entry is on its way to a stream.
//!
//! Moving cannot be as fast as publishing: each entry was written once before, is read twice and deleted. What the function
//! itself takes for the same events in calls of the same size is the floor.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use super::{Context, redis_publish};
use crate::clock::{deadline, now_ns, sleep_until};
use crate::figures::{count, float, ratio, whole};
use crate::payload::Stamp;
use crate::redis::{RedisMeter, RedisServer};
use crate::report::{Goal, Report, Sample};
use crate::requests;
use crate::subscribers::connect;
use crate::target::{Server, Settings};

/// Events of one call of the function, as the gateway makes them.
const CALL: usize = 256;
/// Calls that are under way at once.
const CALLS: usize = 4;
const TOPICS: [usize; 2] = [1, 16];
const KEY: &str = "tidegate:{0}:";
/// Longer than a lease is asked for.
const LET_GO: Duration = Duration::from_millis(1_500);
const LOOK: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_mins(1);
/// Single events a second, when the way of each is measured.
const PACED: f64 = 200.0;

/// How fast, and what Redis took for an event.
struct Rate {
    per_second: f64,
    redis_us: f64,
    /// The share of a core that Redis used.
    full: f64,
}

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let redis = RedisServer::start(context.cores.server)?;
    let gateway = context.replica(&redis, &[context.cores.load], Settings::default())?;
    for topics in TOPICS {
        let (function, ingest);
        if context.round.is_multiple_of(2) {
            function = publish(context, &redis, topics)?;
            ingest = moved(context, &redis, topics)?;
        } else {
            ingest = moved(context, &redis, topics)?;
            function = publish(context, &redis, topics)?;
        }
        let busy = |rate: &Rate| format!("{:.0} %", 100.0 * rate.full);
        let notes = vec![format!(
            "Redis busy: function {}, ingest {}",
            busy(&function),
            busy(&ingest)
        )];
        report.add(Sample {
            name: format!("events/s moved ÷ published by the function, {topics} topics"),
            value: ratio(ingest.per_second, function.per_second),
            unit: "×",
            goal: Goal::AtLeast(0.5),
            floor: Some(function.per_second),
            tested: Some(ingest.per_second),
            raw_unit: "/s",
            notes: notes.clone(),
        });
        report.add(Sample {
            name: format!("events of a full Redis core, moved ÷ published, {topics} topics"),
            value: ratio(function.redis_us, ingest.redis_us),
            unit: "×",
            goal: Goal::AtLeast(0.5),
            floor: Some(function.redis_us),
            tested: Some(ingest.redis_us),
            raw_unit: "µs",
            notes,
        });
    }
    ways(context, &redis, &gateway, report)
}

fn data(context: &Context) -> Result<String> {
    let mut data = Vec::new();
    let stamp = Stamp {
        sequence: 1,
        sent_ns: 0,
    };
    stamp.write(&mut data, context.scale.payload_bytes);
    Ok(String::from_utf8(data)?)
}

fn names(what: &str, topics: usize) -> Vec<String> {
    (0..topics)
        .map(|topic| format!("{what}{topics}-{topic}"))
        .collect()
}

/// The function, called with as many events as the gateway would take into one call.
fn publish(context: &Context, redis: &RedisServer, topics: usize) -> Result<Rate> {
    let (names, data) = (names("f", topics), data(context)?);
    let mut call = vec!["FCALL".to_owned(), "tidegate_publish_batch".to_owned()];
    call.push((3 + 2 * topics).to_string());
    call.extend(["meta", "last", "heads"].map(|name| format!("{KEY}{name}")));
    for name in &names {
        call.extend(["topic", "ch"].map(|what| format!("{KEY}{what}:{name}")));
    }
    call.push(topics.to_string());
    call.extend(names.iter().cloned());
    for event in 0..CALL {
        let topic = (event % topics + 1).to_string();
        call.extend([
            topic,
            String::new(),
            "message".into(),
            data.clone(),
            "0".into(),
        ]);
    }
    let calls = vec![call; CALLS];
    let mut connection = redis.connect()?;
    connection.ask_all(&calls)?;
    let meter = RedisMeter::start(redis)?;
    let (start, until, mut events) = (now_ns(), deadline(context.scale.measured), 0);
    while now_ns() < until {
        connection.ask_all(&calls)?;
        events += count(CALLS * CALL);
    }
    let wall_ns = now_ns() - start;
    rate(events, wall_ns, meter.stop(redis)?.cpu.used_ns)
}

fn rate(events: u64, wall_ns: u64, redis_ns: u64) -> Result<Rate> {
    ensure!(wall_ns > 0 && events > 0, "nothing was measured");
    Ok(Rate {
        per_second: ratio(float(events), float(wall_ns) / 1e9),
        redis_us: ratio(float(redis_ns) / 1e3, float(events)),
        full: ratio(float(redis_ns), float(wall_ns)),
    })
}

/// A heap of entries, moved by the gateway. While it grows, somebody else has the lease.
fn moved(context: &Context, redis: &RedisServer, topics: usize) -> Result<Rate> {
    let (names, data) = (names("i", topics), data(context)?);
    let (lease, ingest) = (format!("{KEY}ingest:lease"), format!("{KEY}ingest"));
    let mut connection = redis.connect()?;
    connection.ask(&["SET", &lease, "the load program"])?;
    sleep(LET_GO);
    let heap = context.scale.redis_lines / 4;
    let before = redis_publish::added(redis, &names).unwrap_or(0);
    let entries: Vec<Vec<String>> = (0..usize::try_from(heap)?)
        .map(|entry| {
            let topic = &names[entry % topics];
            let words = ["XADD", &ingest, "*", "topic", topic, "data", &data];
            words.map(str::to_owned).to_vec()
        })
        .collect();
    connection.ask_all(&entries)?;
    drop(entries);
    let meter = RedisMeter::start(redis)?;
    connection.ask(&["DEL", &lease])?;
    let until = deadline(PATIENCE);
    // From the first look at which something is gone.
    let mut first = None;
    loop {
        let left = connection.number(&["XLEN", &ingest])?;
        let now = now_ns();
        if left == 0 {
            let (since, at) =
                first.context("it was moved between two looks: the heap is too small")?;
            let redis_ns = meter.stop(redis)?.cpu.used_ns;
            let added = redis_publish::added(redis, &names)? - before;
            ensure!(
                added == heap,
                "{heap} entries were moved into {added} events"
            );
            let moving = rate(since, now - at, 0)?;
            let whole = rate(heap, now - at, redis_ns)?;
            return Ok(Rate {
                per_second: moving.per_second,
                ..whole
            });
        }
        if left < heap {
            first.get_or_insert((left, now));
        }
        ensure!(now < until, "{left} entries are not moved");
        sleep(LOOK);
    }
}

/// A stream, read as far as events come.
struct Reader {
    socket: TcpStream,
    unread: Vec<u8>,
}

impl Reader {
    fn open(gateway: &Server, topic: &str) -> Result<Self> {
        let mut socket = connect(gateway.listen, 0)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "GET /events?topic={topic}&control=off HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            gateway.listen
        );
        socket.write_all(head.as_bytes())?;
        let mut reader = Self {
            socket,
            unread: Vec::new(),
        };
        reader.until(b"\nid: ")?;
        reader.until(b"\n\n")?;
        Ok(reader)
    }

    /// Waits for the next event.
    fn event(&mut self) -> Result<()> {
        self.until(b"\ndata: ")?;
        self.until(b"\n\n")
    }

    fn until(&mut self, text: &[u8]) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, text) {
                self.unread.drain(..at + text.len());
                return Ok(());
            }
            let length = self.socket.read(&mut buffer).context("no event came")?;
            ensure!(length > 0, "the stream ended");
            self.unread.extend_from_slice(&buffer[..length]);
        }
    }
}

/// From just before an event is handed over to its arrival in a stream, one at a time: by `XADD`, and by `POST /publish`.
fn ways(
    context: &Context,
    redis: &RedisServer,
    gateway: &Server,
    report: &mut Report,
) -> Result<()> {
    let data = data(context)?;
    let ingest = format!("{KEY}ingest");
    let mut connection = redis.connect()?;
    let mut add = || {
        connection
            .ask(&["XADD", &ingest, "*", "topic", "paced", "data", &data])
            .map(drop)
    };
    let request = requests::single("paced", context.scale.payload_bytes);
    let mut socket = connect(gateway.listen, 0)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut post = || -> Result<()> {
        socket.write_all(&request)?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while !requests::is_complete(&answer)? {
            let length = socket.read(&mut buffer)?;
            ensure!(
                length > 0,
                "the gateway closed a connection that should stay"
            );
            answer.extend_from_slice(&buffer[..length]);
        }
        Ok(())
    };
    let mut reader = Reader::open(gateway, "paced")?;
    let (posted, added);
    if context.round.is_multiple_of(2) {
        posted = way(context, &mut reader, &mut post)?;
        added = way(context, &mut reader, &mut add)?;
    } else {
        added = way(context, &mut reader, &mut add)?;
        posted = way(context, &mut reader, &mut post)?;
    }
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let us = |of: &Histogram<u64>| float(of.value_at_quantile(quantile)) / 1e3;
        report.add(Sample {
            name: format!("XADD to arrival in a stream ÷ POST /publish to arrival, {PACED:.0} a second, {name}"),
            value: ratio(us(&added), us(&posted)),
            unit: "×",
            goal: Goal::None,
            floor: Some(us(&posted)),
            tested: Some(us(&added)),
            raw_unit: "µs",
            notes: Vec::new(),
        });
    }
    Ok(())
}

fn way(
    context: &Context,
    reader: &mut Reader,
    hand_over: &mut impl FnMut() -> Result<()>,
) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?;
    let interval = whole(1e9 / PACED);
    let (mut due, until) = (now_ns(), deadline(context.scale.measured));
    while due < until {
        sleep_until(due);
        let since = now_ns();
        hand_over()?;
        reader.event()?;
        histogram.saturating_record(now_ns() - since);
        due += interval;
    }
    Ok(histogram)
}
