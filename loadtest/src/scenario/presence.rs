//! Everybody is there: 10,000 users follow one topic over two replicas, are asked for, are told to a Redis that has forgotten
//! them, and leave at once.
//!
//! The replicas and Redis share one core, the load program has the other.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::Context;
use crate::clock::{deadline, now_ns};
use crate::figures::{count, float, growth, ratio};
use crate::publisher::read_answer;
use crate::redis::{RedisMeter, RedisServer};
use crate::report::{Report, Sample};
use crate::stage::Stage;
use crate::subscribers::connect;
use crate::target::Settings;
use crate::wire::Protocol;

const REPLICAS: usize = 2;
/// Streams that are open before memory is measured: a share of them all.
const WARM: usize = 10;
/// Answers of which the latency is taken.
const ASKED: usize = 200;
const SETTLE: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(1);
/// What signs the tokens of users.
const SECRET: &str = "a secret of more than thirty-two bytes";
/// `presence.debounce` of these gateways.
const DEBOUNCE_NS: u64 = 5_000_000_000;

/// A public listener that is asked who is there.
struct Asker(TcpStream);

impl Asker {
    fn ask(&mut self) -> Result<Value> {
        use std::io::Write as _;
        let request = b"GET /presence?topic=t0 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        self.0.write_all(request)?;
        serde_json::from_str(&read_answer(&mut self.0)?).context("no JSON")
    }

    /// Asks until so many users are there; returns the moment at which they were.
    fn until(&mut self, users: usize) -> Result<u64> {
        let until = deadline(PATIENCE);
        loop {
            // A Redis that was flushed has no log for a moment.
            let answer = self.ask();
            let now = now_ns();
            if let Ok(answer) = &answer
                && answer["topics"][0]["users_total"] == users
            {
                return Ok(now);
            }
            ensure!(now < until, "{users} users are wanted, seen was {answer:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Bytes of memory for each stream more, on all replicas together, and what they were.
struct Opened {
    stage: Stage,
    redis: RedisServer,
    bytes_each: f64,
    /// How long it took to open all but the first, how long until the last of them was counted.
    took: [f64; 2],
    calls: u64,
    redis_ms: f64,
}

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let users = context.scale.present;
    let without = open(context, users, false)?;
    let plain = (without.bytes_each, without.took[0]);
    drop(without);
    let mut opened = open(context, users, true)?;
    let seconds = |ns: u64| float(ns) / 1e9;
    let name = |what: &str| format!("presence of {users} users over {REPLICAS} replicas: {what}");
    let mut row = |what: &str, value: f64, unit: &'static str, notes: Vec<String>| {
        report.add(Sample {
            notes,
            ..Sample::alone(name(what), value, unit)
        });
    };
    row("RSS per stream, without", plain.0, "B", Vec::new());
    row("RSS per stream, with", opened.bytes_each, "B", Vec::new());
    row("all streams open, without", plain.1, "s", Vec::new());
    row("all streams open, with", opened.took[0], "s", Vec::new());
    row(
        "until all are counted, from then on",
        opened.took[1],
        "s",
        Vec::new(),
    );
    row(
        "calls of functions meanwhile",
        float(opened.calls),
        "",
        vec![format!("CPU of Redis {:.0} ms", opened.redis_ms)],
    );

    let mut asker = Asker(connect(opened.stage.server.listen, 0)?);
    asker.0.set_read_timeout(Some(PATIENCE))?;
    let mut taken = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let begun = now_ns();
        let answer = asker.ask()?;
        taken.push(now_ns() - begun);
        let subscribers = &answer["topics"][0]["subscribers"];
        ensure!(
            *subscribers == users,
            "{subscribers} subscribers are counted"
        );
    }
    taken.sort_unstable();
    let ms = |at: usize| float(taken[at]) / 1e6;
    row("GET /presence, p50", ms(ASKED / 2), "ms", Vec::new());
    row("GET /presence, p99", ms(ASKED * 99 / 100), "ms", Vec::new());

    let meter = RedisMeter::start(&opened.redis)?;
    opened.stage.subscribers.read_for(REST)?;
    let rest = meter.stop(&opened.redis)?;
    let cpu_ms = float(rest.cpu.used_ns) / 1e6 / REST.as_secs_f64();
    row(
        "CPU of Redis at rest",
        cpu_ms,
        "ms/s",
        vec![rest.commands.to_string()],
    );

    let used = memory(&opened.redis)?;
    let begun = now_ns();
    opened.redis.connect()?.ask(&["FLUSHALL"])?;
    let back = asker.until(users)?;
    row(
        "all told again after a flush",
        seconds(back - begun),
        "s",
        Vec::new(),
    );
    let told = growth(used[1], memory(&opened.redis)?[0]);
    let each = ratio(told, float(count(users)));
    row(
        "memory of Redis per user, without the events",
        each,
        "B",
        Vec::new(),
    );

    let meter = RedisMeter::start(&opened.redis)?;
    let begun = now_ns();
    opened.stage.subscribers.clear();
    let gone = asker.until(0)?;
    let left = meter.stop(&opened.redis)?;
    row(
        "all left, after the debounce",
        seconds((gone - begun).saturating_sub(DEBOUNCE_NS)),
        "s",
        vec![format!(
            "calls of functions {}, CPU of Redis {:.0} ms",
            left.commands.of("fcall"),
            float(left.cpu.used_ns) / 1e6
        )],
    );
    Ok(())
}

/// Memory of Redis that is used, less the buffers of clients; and what it is without any data.
fn memory(redis: &RedisServer) -> Result<[u64; 2]> {
    std::thread::sleep(Duration::from_millis(500));
    let info = redis.connect()?.text(&["INFO", "memory"])?;
    let of = |name: &str| {
        crate::redis::field(&info, name).with_context(|| format!("INFO has no {name}"))
    };
    let used = of("used_memory")?.saturating_sub(of("mem_clients_normal")?);
    Ok([used, of("used_memory_startup")?])
}

/// Opens all streams, each of a user of its own; `enabled` is whether they are told.
fn open(context: &Context, users: usize, enabled: bool) -> Result<Opened> {
    let each = users / REPLICAS;
    if each <= WARM {
        bail!("{users} users are too few");
    }
    let redis = RedisServer::start(context.cores.server)?;
    let settings = Settings {
        counted: true,
        environment: [
            ("AUTH__JWT__SECRET", SECRET.to_owned()),
            ("PRESENCE__ENABLED", enabled.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec(),
        ..Settings::default()
    };
    let replica = || context.replica(&redis, &[context.cores.server], settings.clone());
    let mut stage = Stage::new(replica()?)?;
    stage.others.push(replica()?);
    stage.subscribers.tokens = tokens(REPLICAS * each)?;
    let listen = [stage.server.listen, stage.others[0].listen];
    for replica in listen {
        stage.subscribers.turn_to(replica);
        stage.subscribe(Protocol::Http1, 1, each / WARM)?;
    }
    stage.subscribers.read_for(SETTLE)?;
    let before = resident(&stage)?;
    let meter = RedisMeter::start(&redis)?;
    let begun = now_ns();
    for replica in listen {
        stage.subscribers.turn_to(replica);
        stage.subscribe(Protocol::Http1, 1, each - each / WARM)?;
    }
    let open = now_ns();
    let counted = if enabled {
        let mut asker = Asker(connect(listen[0], 0)?);
        asker.0.set_read_timeout(Some(PATIENCE))?;
        asker.until(REPLICAS * each)?
    } else {
        open
    };
    let window = meter.stop(&redis)?;
    stage.subscribers.read_for(SETTLE)?;
    let more = count(REPLICAS * (each - each / WARM));
    Ok(Opened {
        bytes_each: ratio(growth(before, resident(&stage)?), float(more)),
        stage,
        redis,
        took: [float(open - begun) / 1e9, float(counted - open) / 1e9],
        calls: window.commands.of("fcall"),
        redis_ms: float(window.cpu.used_ns) / 1e6,
    })
}

/// Resident memory of both replicas.
fn resident(stage: &Stage) -> Result<u64> {
    let servers = std::iter::once(&stage.server).chain(&stage.others);
    servers.map(|server| server.process.rss_bytes()).sum()
}

fn tokens(users: usize) -> Result<Vec<String>> {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let header = Header::new(Algorithm::HS256);
    // The end of the year 2200.
    let sign = |user| {
        let claims = json!({ "sub": format!("user-{user:05}"), "exp": 7_289_654_400_u64 });
        jsonwebtoken::encode(&header, &claims, &key).context("no token")
    };
    (0..users).map(sign).collect()
}
