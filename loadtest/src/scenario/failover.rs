//! The server that has the log is killed while events are published and read: how long until both go on, and what is lost.
//!
//! Publishers send one event at a time, each on its own connection, and repeat nothing; a reader follows. In the end the whole
//! log is read, and compared with what was acknowledged.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::Context;
use crate::clock::{deadline, now_ns};
use crate::figures::{count, float};
use crate::redis::{Group, Layout};
use crate::report::{Report, Sample};
use crate::subscribers::connect;
use crate::target::{Server, Settings, Target};

const PUBLISHERS: usize = 4;
/// Between two events of a publisher.
const PAUSE: Duration = Duration::from_millis(5);
/// Time in which all is well, before; and as long again the replicas are parted from the master, where they are.
const STEADY: Duration = Duration::from_secs(1);
/// How long it may take until publishing and reading go on.
const PATIENCE: Duration = Duration::from_mins(1);
/// Events that are published after that, before it is over.
const AFTER: u64 = 200;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    name: &'static str,
    layout: Layout,
    cut: Cut,
    wait_replicas: usize,
}

/// Whether the replicas are cut off from the master before it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    None,
    /// As the files are shipped, a master without replicas takes no writes.
    Shipped,
    /// It takes them all the same.
    Bold,
}

const fn case(name: &'static str, layout: Layout, cut: Cut, wait_replicas: usize) -> Case {
    Case {
        name,
        layout,
        cut,
        wait_replicas,
    }
}

/// A cluster whose masters have one replica each takes no event after the death of an owner, if one replica has to have it: there
/// is none any more. So that is not measured.
const CASES: [Case; 8] = [
    case("Redis restart", Layout::Single, Cut::None, 0),
    case("Sentinel, master killed", Layout::Sentinel, Cut::None, 0),
    case("Sentinel, master killed", Layout::Sentinel, Cut::None, 1),
    case(
        "Sentinel, cut off for 1 s, then killed",
        Layout::Sentinel,
        Cut::Shipped,
        0,
    ),
    case(
        "Sentinel, cut off for 1 s, then killed",
        Layout::Sentinel,
        Cut::Shipped,
        1,
    ),
    case(
        "the same, min-replicas-to-write 0",
        Layout::Sentinel,
        Cut::Bold,
        0,
    ),
    case(
        "the same, min-replicas-to-write 0",
        Layout::Sentinel,
        Cut::Bold,
        1,
    ),
    case("Cluster, owner killed", Layout::Cluster, Cut::None, 0),
];

/// One request and its answer.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    number: u64,
    sent_ns: u64,
    answered_ns: u64,
    /// 0 where the connection ended.
    status: u16,
}

/// What one case showed.
struct Outcome {
    publish_ns: u64,
    read_ns: u64,
    acknowledged: usize,
    lost: usize,
    refused: usize,
    unknown: usize,
    gaps: u64,
}

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    ensure!(
        context.tested == Target::Gateway,
        "a failover can only be measured of the gateway: the floor has no Redis"
    );
    for case in CASES {
        let outcome = fail_over(context, case).with_context(|| case.name)?;
        say(report, context, case, &outcome);
    }
    Ok(())
}

fn fail_over(context: &Context, case: Case) -> Result<Outcome> {
    let cores = [context.cores.server, context.cores.load];
    let mut group = Group::start(case.layout, &cores)?;
    let mut environment = group.environment();
    let wait = case.wait_replicas.to_string();
    environment.push(("REDIS__WAIT_REPLICAS".to_owned(), wait));
    // The reader looks at each line whether it is over.
    environment.push(("STREAM__KEEPALIVE".to_owned(), "1s".to_owned()));
    let settings = Settings {
        environment,
        ..Settings::default()
    };
    let gateway = Server::start(Target::Gateway, &context.gateway, &cores, &settings)?;
    let reader = Reader::start(gateway.listen)?;
    let publishers = Publishers::start(gateway.listen);
    thread::sleep(STEADY);
    if case.cut != Cut::None {
        group.part(case.cut == Cut::Bold)?;
        thread::sleep(STEADY);
    }
    let killed_ns = now_ns();
    group.kill()?;
    let until = deadline(PATIENCE);
    let mark = publishers.shared.stored.load(Ordering::Relaxed);
    while publishers.shared.stored.load(Ordering::Relaxed) < mark + AFTER {
        ensure!(now_ns() < until, "publishing does not go on");
        thread::sleep(Duration::from_millis(20));
    }
    let sent = publishers.end()?;
    let late: BTreeSet<u64> = sent
        .iter()
        .filter(|it| it.sent_ns > killed_ns && it.status == 200)
        .map(|it| it.number)
        .collect();
    let (arrivals, gaps) = reader.end(*late.last().context("nothing was stored")?)?;
    let first = |times: &mut dyn Iterator<Item = u64>| times.min().map(|at| at - killed_ns);
    let stored = sent.iter().filter(|it| late.contains(&it.number));
    let publish_ns = first(&mut stored.map(|it| it.answered_ns)).context("nothing was stored")?;
    let new = arrivals.iter().filter(|(number, _)| late.contains(number));
    let read_ns = first(&mut new.map(|(_, at)| *at)).context("nothing new was read")?;
    let kept = whole_log(gateway.listen)?;
    let acknowledged: BTreeSet<u64> = sent
        .iter()
        .filter(|it| it.status == 200)
        .map(|it| it.number)
        .collect();
    let with = |status: &[u16]| sent.iter().filter(|it| status.contains(&it.status)).count();
    Ok(Outcome {
        publish_ns,
        read_ns,
        lost: acknowledged.difference(&kept).count(),
        acknowledged: acknowledged.len(),
        refused: with(&[503]),
        unknown: with(&[504, 0]),
        gaps,
    })
}

fn say(report: &mut Report, context: &Context, case: Case, outcome: &Outcome) {
    let Case {
        name,
        wait_replicas,
        ..
    } = case;
    let who = format!("{name}, wait_replicas {wait_replicas}");
    let seconds = |ns: u64| float(ns) / 1e9;
    let lost = float(count(outcome.lost));
    let rows = [
        ("until publishing goes on", seconds(outcome.publish_ns), "s"),
        ("until reading goes on", seconds(outcome.read_ns), "s"),
        ("acknowledged and lost", lost, "events"),
    ];
    for (what, value, unit) in rows {
        report.add(Sample::alone(format!("{who}: {what}"), value, unit));
    }
    report.remark(format!(
        "{who}, round {}: {} events acknowledged, {} of them lost, {} refused, {} unknown; the reader was told {} gaps",
        context.round + 1,
        outcome.acknowledged,
        outcome.lost,
        outcome.refused,
        outcome.unknown,
        outcome.gaps
    ));
}

/// Publishers at work, each on a thread of its own.
struct Publishers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<Attempt>>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    numbers: AtomicU64,
    stored: AtomicU64,
}

impl Publishers {
    fn start(gateway: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..PUBLISHERS).map(|_| {
            let shared = shared.clone();
            thread::spawn(move || publish(gateway, &shared))
        });
        Self {
            threads: threads.collect(),
            shared,
        }
    }

    fn end(self) -> Result<Vec<Attempt>> {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            let sent = thread.join().map_err(|_| anyhow!("a publisher panicked"))?;
            all.extend(sent);
        }
        Ok(all)
    }
}

fn publish(gateway: SocketAddr, shared: &Shared) -> Vec<Attempt> {
    let mut connection = None;
    let mut all = Vec::new();
    while !shared.over.load(Ordering::Relaxed) {
        let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
        let sent_ns = now_ns();
        let status = ask(&mut connection, gateway, number).unwrap_or(0);
        if status == 0 {
            connection = None;
        }
        shared
            .stored
            .fetch_add(u64::from(status == 200), Ordering::Relaxed);
        all.push(Attempt {
            number,
            sent_ns,
            answered_ns: now_ns(),
            status,
        });
        thread::sleep(PAUSE);
    }
    all
}

/// Publishes one event, and returns the status of the answer.
fn ask(
    connection: &mut Option<std::net::TcpStream>,
    gateway: SocketAddr,
    number: u64,
) -> Result<u16> {
    if connection.is_none() {
        let socket = connect(gateway, 0)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        *connection = Some(socket);
    }
    let socket = connection.as_mut().context("it was just opened")?;
    let body = format!("{{\"topic\":\"failover\",\"data\":\"{number}\"}}");
    write!(
        socket,
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let read = socket.read(&mut bytes)?;
        ensure!(read > 0, "the gateway closed the connection");
        answer.extend_from_slice(&bytes[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, rest)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        });
        let length: usize = length.context("an answer without a length")?;
        if rest.len() >= length {
            return Ok(head[9..12].parse()?);
        }
    }
}

/// What a stream brought: each event with its time, and how many gaps.
type Read = (Vec<(u64, u64)>, u64);

/// A reader on a thread of its own.
struct Reader {
    last: Arc<AtomicU64>,
    thread: JoinHandle<Result<Read>>,
}

impl Reader {
    fn start(gateway: SocketAddr) -> Result<Self> {
        let lines = lines(gateway, "/events?topic=failover")?;
        let last = Arc::new(AtomicU64::new(u64::MAX));
        let until = last.clone();
        let thread = thread::spawn(move || {
            let (mut arrivals, mut gaps) = (Vec::new(), 0);
            for line in lines {
                let line = line?;
                gaps += u64::from(line == "event: $gap");
                if let Some(number) = line.strip_prefix("data: ").and_then(|it| it.parse().ok()) {
                    arrivals.push((number, now_ns()));
                }
                let until = until.load(Ordering::Relaxed);
                if until < u64::MAX && arrivals.iter().any(|(number, _)| *number == until) {
                    return Ok((arrivals, gaps));
                }
            }
            bail!("the stream ended")
        });
        Ok(Self { last, thread })
    }

    /// Reads up to this event. Keepalives wake it, if that has come already.
    fn end(self, last: u64) -> Result<Read> {
        self.last.store(last, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the reader panicked"))?
    }
}

/// The lines of a stream, as they come. The sizes of chunks are among them; nothing here looks like one.
fn lines(
    gateway: SocketAddr,
    target: &str,
) -> Result<impl Iterator<Item = std::io::Result<String>> + Send + use<>> {
    let mut socket = connect(gateway, 0)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    Ok(BufReader::new(socket).lines())
}

/// Everything that is in the log.
fn whole_log(gateway: SocketAddr) -> Result<BTreeSet<u64>> {
    let mut kept = BTreeSet::new();
    for line in lines(gateway, "/events?topic=failover&lastEventId=earliest")? {
        let line = line?;
        if line == "event: $live" {
            return Ok(kept);
        }
        if let Some(number) = line.strip_prefix("data: ").and_then(|it| it.parse().ok()) {
            ensure!(kept.insert(number), "{number} is in the log twice");
        }
    }
    bail!("the stream ended")
}
