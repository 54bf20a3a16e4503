//! One server with its subscribers and its publisher, and the measured stretch of time on it.

use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::clock::{deadline, now_ns, own_cpu_ns};
use crate::figures::{float, ratio};
use crate::process::CpuTime;
use crate::publisher::{Plan, Progress, Publisher, Sequences};
use crate::subscribers::{Subscribers, Subscription};
use crate::target::Server;
use crate::wire::{Protocol, Start};

const TURN: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(20);
const IN_FLIGHT: u64 = 256;
const RSS_EVERY: Duration = Duration::from_millis(50);
/// From this share of its core on, the load program is what was measured.
const BUSY: f64 = 0.9;
/// From this share of waiting on, somebody else was on the core.
const SHARED: f64 = 0.05;

/// A server on stage.
pub(crate) struct Stage {
    pub(crate) server: Server,
    /// Further replicas of the same log; everything is published to the first.
    pub(crate) others: Vec<Server>,
    pub(crate) subscribers: Subscribers,
    pub(crate) sequences: Sequences,
}

/// What a measured stretch of time took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) wall_ns: u64,
    pub(crate) server: CpuTime,
    /// The thread that reads all streams.
    pub(crate) reader: CpuTime,
    /// All threads of the load program.
    pub(crate) load_cpu_ns: u64,
    pub(crate) deliveries: u64,
    pub(crate) rss_start: u64,
    pub(crate) rss_most: u64,
}

/// A window that is still open.
pub(crate) struct Meter {
    start_ns: u64,
    server: CpuTime,
    reader: CpuTime,
    load_cpu_ns: u64,
    rss_start: u64,
    rss_most: u64,
    next_rss_ns: u64,
}

impl Meter {
    pub(crate) fn start(server: &Server) -> Result<Self> {
        Self::start_all([server])
    }

    /// Of several servers together.
    fn start_all<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Result<Self> {
        let (rss, cpu) = sums(servers)?;
        Ok(Self {
            start_ns: now_ns(),
            server: cpu,
            reader: CpuTime::of_this_thread(),
            load_cpu_ns: own_cpu_ns(),
            rss_start: rss,
            rss_most: rss,
            next_rss_ns: 0,
        })
    }

    /// Looks at the server's memory now and then.
    pub(crate) fn watch(&mut self, server: &Server) -> Result<()> {
        self.watch_all([server])
    }

    fn watch_all<'a>(&mut self, servers: impl IntoIterator<Item = &'a Server>) -> Result<()> {
        if now_ns() >= self.next_rss_ns {
            self.next_rss_ns = deadline(RSS_EVERY);
            self.rss_most = self.rss_most.max(sums(servers)?.0);
        }
        Ok(())
    }

    pub(crate) fn stop(self, server: &Server, deliveries: u64) -> Result<Window> {
        self.stop_all([server], deliveries)
    }

    fn stop_all<'a>(
        self,
        servers: impl IntoIterator<Item = &'a Server>,
        deliveries: u64,
    ) -> Result<Window> {
        let (rss, cpu) = sums(servers)?;
        Ok(Window {
            wall_ns: now_ns() - self.start_ns,
            server: cpu.since(self.server),
            reader: CpuTime::of_this_thread().since(self.reader),
            load_cpu_ns: own_cpu_ns() - self.load_cpu_ns,
            deliveries,
            rss_start: self.rss_start,
            rss_most: self.rss_most.max(rss),
        })
    }
}

/// Resident memory and CPU time.
fn sums<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Result<(u64, CpuTime)> {
    let (mut rss, mut cpu) = (0, CpuTime::default());
    for server in servers {
        rss += server.process.rss_bytes()?;
        cpu = cpu.and(server.process.cpu()?);
    }
    Ok((rss, cpu))
}

impl Window {
    /// Microseconds of the server's CPU time for each of `times`.
    pub(crate) fn cpu_us(&self, times: u64) -> f64 {
        ratio(float(self.server.used_ns) / 1e3, float(times))
    }

    pub(crate) fn cpu_us_per_delivery(&self) -> f64 {
        self.cpu_us(self.deliveries)
    }

    pub(crate) fn per_second(&self, times: u64) -> f64 {
        ratio(float(times), float(self.wall_ns) / 1e9)
    }

    /// The share of its core that the server used.
    pub(crate) fn server_share(&self) -> f64 {
        ratio(float(self.server.used_ns), float(self.wall_ns))
    }

    /// What a reader of the figure must know, beginning with whose window it was.
    pub(crate) fn notes(&self, whose: &str) -> Vec<String> {
        let load = ratio(float(self.load_cpu_ns), float(self.wall_ns));
        let mut notes = Vec::new();
        if load >= BUSY && self.server_share() >= BUSY {
            notes.push(format!("{whose}: both cores full"));
        } else if load >= BUSY {
            notes.push(format!("{whose}: load was the bottleneck"));
        }
        for (core, shared) in [("server", self.server), ("load", self.reader)] {
            if ratio(float(shared.waited_ns), float(self.wall_ns)) >= SHARED {
                notes.push(format!("{whose}: {core} core shared"));
            }
        }
        notes
    }
}

impl Stage {
    pub(crate) fn new(server: Server) -> Result<Self> {
        Ok(Self {
            subscribers: Subscribers::new(server.listen)?,
            sequences: Sequences::default(),
            server,
            others: Vec::new(),
        })
    }

    /// All replicas.
    fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.server).chain(&self.others)
    }

    /// Opens `each` streams on each of the first `topics` topics, from now on.
    pub(crate) fn subscribe(
        &mut self,
        protocol: Protocol,
        topics: usize,
        each: usize,
    ) -> Result<()> {
        let wanted: Vec<Subscription> = (0..topics * each)
            .map(|number| number % topics)
            .map(|topic| Subscription {
                protocol,
                topic,
                start: Start::Now,
                next: self.sequences.next(topic),
            })
            .collect();
        let connected = self.subscribers.connect(IN_FLIGHT, wanted);
        connected.with_context(|| self.server.process.last_words())
    }

    /// Publishes a plan without anybody being there to receive it.
    pub(crate) fn fill(&mut self, plan: &Plan) -> Result<()> {
        let mut publisher = Publisher::connect(&self.server)?;
        publisher.publish(plan, 0, &mut self.sequences, &Progress::default())?;
        publisher.finish()?;
        Ok(())
    }

    /// Publishes a plan and reads until each of the `fan` reading streams of each topic has had each event.
    pub(crate) fn deliver(&mut self, plan: &Plan, fan: u64) -> Result<Window> {
        let seconds = plan
            .per_second
            .map_or(0.0, |rate| float(plan.events) / rate);
        let until = deadline(PATIENCE + Duration::from_secs_f64(seconds));
        let before = self.subscribers.tally.delivered;
        let expected = plan.events * fan;
        let publisher = Publishing::start(
            &self.server,
            *plan,
            fan,
            std::mem::take(&mut self.sequences),
        )?;
        let meter = Meter::start_all(self.servers())?;
        let read = self.read_until(&publisher, meter, |delivered| {
            if delivered > before + expected {
                bail!("{} events too many arrived", delivered - before - expected);
            }
            if now_ns() > until {
                bail!(
                    "{} of {expected} deliveries arrived in time",
                    delivered - before
                );
            }
            publisher.tell(delivered - before);
            Ok(delivered == before + expected)
        });
        self.sequences = publisher.end(read.is_err())?;
        let window = read?.stop_all(self.servers(), expected)?;
        // What is not owed must not come either.
        self.subscribers.read_for(Duration::from_millis(20))?;
        self.subscribers.tally.faults.check()?;
        Ok(window)
    }

    /// Publishes as fast as deliveries are made, and measures `measured` of it after as much time to warm up as `warm`.
    pub(crate) fn saturate(
        &mut self,
        plan: &Plan,
        fan: u64,
        warm: Duration,
        measured: Duration,
    ) -> Result<Window> {
        let before = self.subscribers.tally.delivered;
        let first = self.sequences.next(0);
        let publisher = Publishing::start(
            &self.server,
            *plan,
            fan,
            std::mem::take(&mut self.sequences),
        )?;
        let outcome = self.saturated_window(&publisher, before, warm, measured);
        self.sequences = publisher.end(true)?;
        let window = outcome?;
        // All that was published has to arrive, once.
        let owed = before + (self.sequences.next(0) - first) * fan;
        self.subscribers
            .wait_for(PATIENCE, |tally| tally.delivered >= owed)?;
        self.subscribers.read_for(Duration::from_millis(20))?;
        self.subscribers.tally.faults.check()?;
        Ok(window)
    }

    fn saturated_window(
        &mut self,
        publisher: &Publishing,
        before: u64,
        warm: Duration,
        measured: Duration,
    ) -> Result<Window> {
        let until = deadline(warm);
        self.read_until(publisher, Meter::start(&self.server)?, |delivered| {
            publisher.tell(delivered - before);
            Ok(now_ns() >= until)
        })?;
        let start = self.subscribers.tally.delivered;
        let meter = Meter::start(&self.server)?;
        let until = deadline(measured);
        let meter = self.read_until(publisher, meter, |delivered| {
            publisher.tell(delivered - before);
            Ok(now_ns() >= until)
        })?;
        meter.stop(&self.server, self.subscribers.tally.delivered - start)
    }

    fn read_until(
        &mut self,
        publisher: &Publishing,
        mut meter: Meter,
        mut done: impl FnMut(u64) -> Result<bool>,
    ) -> Result<Meter> {
        while !done(self.subscribers.tally.delivered)? {
            self.subscribers.turn(TURN)?;
            self.subscribers.tally.faults.check()?;
            meter.watch_all(self.servers())?;
            let ended = self.subscribers.tally.ended;
            if ended > 0 {
                bail!(
                    "{ended} streams ended early: {}",
                    self.server.process.last_words()
                );
            }
            if publisher.has_failed() {
                bail!("publishing failed");
            }
        }
        Ok(meter)
    }

    /// Closes all streams and waits until the server has closed them too.
    pub(crate) fn leave(&mut self) -> Result<()> {
        let streams = self.subscribers.open();
        let before = self.server.process.open_files()?;
        self.subscribers.clear();
        let until = deadline(PATIENCE);
        while self.server.process.open_files()? > before.saturating_sub(streams) {
            if now_ns() > until {
                bail!("the server still holds files of streams that are gone");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// A publisher at work on its own thread (on the load's core).
pub(crate) struct Publishing {
    thread: JoinHandle<Result<(Publisher, Sequences)>>,
    progress: Progress,
}

impl Publishing {
    pub(crate) fn start(
        server: &Server,
        plan: Plan,
        fan: u64,
        mut sequences: Sequences,
    ) -> Result<Self> {
        let mut publisher = Publisher::connect(server)?;
        let progress = Progress::default();
        let shared = progress.clone();
        let thread = thread::spawn(move || {
            publisher.publish(&plan, fan, &mut sequences, &shared)?;
            Ok((publisher, sequences))
        });
        Ok(Self { thread, progress })
    }

    /// Lets the publisher know how many deliveries have been made.
    pub(crate) fn tell(&self, delivered: u64) {
        self.progress.delivered.store(delivered, Ordering::Relaxed);
    }

    pub(crate) fn has_failed(&self) -> bool {
        // A thread that is done has either published its plan or failed; which one, `end` tells.
        self.thread.is_finished() && !self.progress.done.load(Ordering::Relaxed)
    }

    pub(crate) fn end(self, stop: bool) -> Result<Sequences> {
        self.progress.stop.fetch_or(stop, Ordering::Relaxed);
        let joined = self
            .thread
            .join()
            .map_err(|_| anyhow!("the publisher panicked"))?;
        let (publisher, sequences) = joined?;
        publisher.finish()?;
        Ok(sequences)
    }
}
