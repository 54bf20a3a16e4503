//! What topics, events and idempotency keys take of the memory of Redis.
//!
//! Each figure is the growth of `used_memory` less the buffers of clients, on a fresh server that has seen one event. It is
//! what the allocator gave, with the share that each key has in the tables of all keys, and says nothing of the kernel.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Context;
use crate::clock::{deadline, now_ns};
use crate::figures::{count, float, growth, ratio};
use crate::publisher::{Plan, read_answer};
use crate::redis::{Connection, RedisServer, field};
use crate::report::{Report, Sample};
use crate::stage::Stage;
use crate::subscribers::connect;
use crate::target::Settings;

/// Topics among which many events are spread.
const SPREAD: usize = 100;
const BATCH: u64 = 200;
/// Time in which Redis moves its tables to their new size.
const SETTLE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);
const BASE: &str = "tidegate:{0}:";

/// A Redis and a gateway that has written one event.
struct Bench {
    // Ended before its Redis.
    stage: Stage,
    _redis: RedisServer,
    connection: Connection,
    before: u64,
}

impl Bench {
    fn start(context: &Context) -> Result<Self> {
        let redis = RedisServer::start(context.cores.server)?;
        let settings = Settings {
            retained_events: context.scale.redis_memory.1 * 2,
            ..Settings::default()
        };
        let mut stage = Stage::new(context.replica(&redis, &context.cores.both(), settings)?)?;
        // Topics are taken in turn from the first: this one is not counted again.
        stage.fill(&plan(context, 1, 1))?;
        let mut connection = redis.connect()?;
        let before = used(&mut connection)?;
        Ok(Self {
            stage,
            _redis: redis,
            connection,
            before,
        })
    }

    /// Bytes that came since the start.
    fn grown(&mut self) -> Result<f64> {
        Ok(growth(self.before, used(&mut self.connection)?))
    }

    /// The bytes of one key with all that it holds.
    fn usage(&mut self, key: &str) -> Result<f64> {
        let key = format!("{BASE}{key}");
        let bytes = self
            .connection
            .number(&["MEMORY", "USAGE", &key, "SAMPLES", "0"])?;
        Ok(float(bytes))
    }
}

fn plan(context: &Context, topics: usize, events: u64) -> Plan {
    Plan {
        topics,
        events,
        per_second: None,
        batch: BATCH.min(events),
        payload_bytes: context.scale.payload_bytes,
        window: None,
    }
}

fn used(connection: &mut Connection) -> Result<u64> {
    std::thread::sleep(SETTLE);
    let info = connection.text(&["INFO", "memory"])?;
    let of = |name: &str| field(&info, name).with_context(|| format!("INFO has no {name}"));
    Ok(of("used_memory")?.saturating_sub(of("mem_clients_normal")?))
}

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    topics(context, report)?;
    let bytes = context.scale.payload_bytes;
    let (_, events) = context.scale.redis_memory;
    for topics in [1, SPREAD] {
        let mut bench = Bench::start(context)?;
        bench.stage.fill(&plan(context, topics, events))?;
        let each = ratio(bench.grown()?, float(events));
        let name = format!("an event of {bytes} bytes, {events} in {topics} topics");
        say(report, &name, each, Vec::new());
    }
    keys(context, report)
}

fn say(report: &mut Report, name: &str, bytes: f64, notes: Vec<String>) {
    report.add(Sample {
        notes,
        ..Sample::alone(format!("memory of Redis: {name}"), bytes, "B")
    });
}

fn topics(context: &Context, report: &mut Report) -> Result<()> {
    let (topics, _) = context.scale.redis_memory;
    let number = float(count(topics));
    let mut bench = Bench::start(context)?;
    bench.stage.fill(&plan(context, topics, count(topics)))?;
    let all = ratio(bench.grown()?, number);
    let streams = bench.usage(&format!("topic:t{}", topics - 1))?;
    let last = bench.usage("last")? / number;
    let heads = bench.usage("heads")? / number;
    say(
        report,
        &format!("a topic with one event, of {topics}"),
        all,
        vec![format!(
            "by MEMORY USAGE: stream {streams:.0} B, last {last:.0} B, heads {heads:.0} B"
        )],
    );
    // As their age would make them, only sooner.
    let expire: Vec<Vec<String>> = (0..topics)
        .map(|topic| {
            let key = format!("{BASE}topic:t{topic}");
            vec!["PEXPIRE".to_owned(), key, "1".to_owned()]
        })
        .collect();
    bench.connection.ask_all(&expire)?;
    let until = deadline(PATIENCE);
    while bench.connection.number(&["DBSIZE"])? > 10 {
        ensure!(now_ns() < until, "the streams do not expire");
        std::thread::sleep(Duration::from_millis(50));
    }
    let quiet = ratio(bench.grown()?, number);
    say(
        report,
        &format!("a quiet topic whose stream has expired, of {topics}"),
        quiet,
        vec!["gone after twice the longest retention".to_owned()],
    );
    Ok(())
}

/// The same events in one topic, with and without a key each.
fn keys(context: &Context, report: &mut Report) -> Result<()> {
    let (number, _) = context.scale.redis_memory;
    let mut grown = [0.0; 2];
    for (grown, key) in grown
        .iter_mut()
        .zip(["", "Idempotency-Key: order-2024\r\n"])
    {
        let mut bench = Bench::start(context)?;
        publish_lines(&bench.stage, context, number, key)?;
        let expected = if key.is_empty() { 0 } else { count(number) };
        let found = bench.connection.number(&["DBSIZE"])?;
        ensure!(
            (expected..expected + 10).contains(&found),
            "{found} keys in Redis after {expected} idempotency keys"
        );
        *grown = bench.grown()?;
    }
    let each = ratio(grown[1] - grown[0], float(count(number)));
    say(
        report,
        &format!("an idempotency key, of {number}"),
        each,
        vec!["gone after publish.idempotency_window".to_owned()],
    );
    Ok(())
}

/// One NDJSON request, so that one header gives each event a key of its own.
fn publish_lines(stage: &Stage, context: &Context, events: usize, header: &str) -> Result<()> {
    let data = "x".repeat(context.scale.payload_bytes);
    let body = format!("{{\"topic\":\"t0\",\"data\":\"{data}\"}}\n").repeat(events);
    let mut socket = connect(stage.server.publish, 0)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(
        socket,
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n{header}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let answer = read_answer(&mut socket)?;
    ensure!(
        answer.starts_with(&format!("{{\"stored\":{events},")),
        "{events} events were sent, the answer is: {answer}"
    );
    Ok(())
}
