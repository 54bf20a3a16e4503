//! The hub against a store that fails: whatever breaks, every client gets every event of its topics, in order, once, or is
//! told at that place what it will not get.
//!
//! Publishers, clients and faults are drawn from a seed, on a clock that does not wait. At the end each client's record is
//! held against the list of all events that were acknowledged.

mod joins;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{Hub, HubConfig, Opening, Read, SubscribeError, Subscriber};
use crate::{
    event::{Event, EventId, EventType, Frame, Topic},
    log::{
        Budget, Cursor, Gap, GapReason, LostRange, Replay, Retention, RetentionRules, Start,
        TailLimits,
    },
    store::{
        Append, AppendError, Keep, Store, StoreError,
        faulty::{Dice, Faults, FaultyStore, Loss, Sign},
        memory::{MemoryConfig, MemoryStore},
    },
};

/// Seeds of an ordinary run; `TIDEGATE_FAULT_SEEDS` asks for more when this is compiled.
fn seeds() -> impl Iterator<Item = u64> {
    let seeds = option_env!("TIDEGATE_FAULT_SEEDS").and_then(|seeds| seeds.parse().ok());
    1..=seeds.unwrap_or(2)
}

/// Says with which seed a run failed.
struct Seed(&'static str, u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} failed with seed {}", self.0, self.1);
        }
    }
}

fn topic(name: &str) -> Topic {
    name.parse().expect("a topic")
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const ALL: Retention = Retention {
    events: usize::MAX,
    bytes: usize::MAX,
    age_ms: 1 << 40,
};

fn keep(events: usize) -> Retention {
    Retention { events, ..ALL }
}

fn hub_config(retention: Retention) -> HubConfig {
    HubConfig {
        tail: TailLimits {
            events: 16,
            bytes: 1 << 20,
            age_ms: 1 << 40,
        },
        tail_total_bytes: 1 << 30,
        linger: millis(300),
        topics: 100_000,
        retention: RetentionRules::new(retention, Vec::new()),
        join_timeout: Duration::from_secs(2),
    }
}

/// A log whose clock is that of the runtime.
fn memory(retention: Retention) -> MemoryStore {
    let begin = Instant::now();
    let config = MemoryConfig {
        retention: RetentionRules::new(retention, Vec::new()),
        total_bytes: usize::MAX,
        idempotency_window: Duration::from_mins(5),
    };
    let clock =
        move || 1_700_000_000_000 + u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    MemoryStore::with_clock(config, Arc::new(clock))
}

/// A hub on a store that fails when it is told to.
struct World {
    hub: Hub,
    store: FaultyStore,
    /// The same log, without faults.
    log: MemoryStore,
}

impl World {
    fn new(retention: Retention) -> Self {
        Self::with(retention, hub_config(retention), Faults::default(), 0)
    }

    fn with(retention: Retention, config: HubConfig, faults: Faults, seed: u64) -> Self {
        let log = memory(retention);
        let store = FaultyStore::new(log.clone(), faults, seed);
        let hub = Hub::start(config, Arc::new(store.clone()));
        Self { hub, store, log }
    }

    /// Publishes past all faults.
    async fn publish(&self, topic: &Topic, data: &str) -> EventId {
        let answers = self.log.append(vec![append(topic, Some(data))]).await;
        answers[0].clone().expect("the log is well").id
    }

    async fn publish_many(&self, topic: &Topic, count: usize) -> Vec<EventId> {
        let batch = (0..count).map(|n| append(topic, Some(&n.to_string())));
        let answers = self.log.append(batch.collect()).await;
        let ids = answers
            .into_iter()
            .map(|answer| answer.expect("the log is well").id);
        ids.collect()
    }

    async fn open(&self, topics: &[&Topic], start: Start) -> (Reader, Opening) {
        let topics: Vec<Topic> = topics.iter().copied().cloned().collect();
        let (subscriber, opening) = self
            .hub
            .subscribe(&topics, start)
            .await
            .expect("the store is well");
        (Reader::new(subscriber), opening)
    }

    async fn resume(&self, topics: &[&Topic], cursor: EventId) -> (Reader, Opening) {
        self.open(topics, Start::after(Cursor::from(cursor))).await
    }

    fn count(&self, counter: impl Fn(&super::HubCounters) -> &std::sync::atomic::AtomicU64) -> u64 {
        counter(self.hub.counters()).load(Ordering::Relaxed)
    }
}

fn append(topic: &Topic, data: Option<&str>) -> Append {
    Append {
        topic: topic.clone(),
        kind: EventType::default(),
        data: data.map(Into::into),
        end: data.is_none(),
        key: None,
    }
}

/// A subscriber that only reads when it is woken.
struct Reader {
    subscriber: Subscriber,
    registered: bool,
    budget: Budget,
}

/// What a client is told in its stream.
#[derive(Clone, Debug)]
enum Told {
    Opened(Opening),
    Event(Topic, EventId, Box<str>),
    Gap(Gap),
    Live(EventId),
    End(Topic, EventId, bool),
    Checkpoint(EventId),
    Over,
    Left,
}

const BUDGET: Budget = Budget {
    frames: 64,
    bytes: 1 << 16,
};

impl Reader {
    fn new(subscriber: Subscriber) -> Self {
        Self {
            subscriber,
            registered: false,
            budget: BUDGET,
        }
    }

    /// Waits for what comes next; frames are written by whoever asked.
    async fn read(&mut self) -> (Read, Vec<Arc<Frame>>) {
        let mut frames = Vec::new();
        let read = poll_fn(|cx| {
            if !std::mem::replace(&mut self.registered, true) {
                self.subscriber.wake_here(cx);
            }
            self.subscriber.poll_read(cx, &mut frames, self.budget)
        });
        let read = read.await;
        (read, frames)
    }

    /// The data of the next `count` events; nothing else may come, but that it has caught up.
    async fn events(&mut self, count: usize) -> Vec<EventId> {
        let mut ids = Vec::new();
        while ids.len() < count {
            match self.soon().await {
                (Read::Events, frames) => ids.extend(self.write(&frames)),
                (Read::Live, _) => {}
                (read, _) => panic!("{read:?} after {ids:?}"),
            }
        }
        assert_eq!(ids.len(), count, "no event more: {ids:?}");
        ids
    }

    fn write(&mut self, frames: &[Arc<Frame>]) -> Vec<EventId> {
        let write = |frame: &Arc<Frame>| {
            self.subscriber.advance(frame.id());
            frame.id()
        };
        frames.iter().map(write).collect()
    }

    async fn soon(&mut self) -> (Read, Vec<Arc<Frame>>) {
        let begin = Instant::now();
        let read = time::timeout(Duration::from_secs(5), self.read()).await;
        // A timeout looks once more when it is over, so the answer alone does not show that there was a wake.
        assert!(begin.elapsed() < Duration::from_secs(2), "it is woken");
        read.expect("it is woken")
    }

    /// The next thing that is said and no event, `Live` aside.
    async fn said(&mut self) -> Read {
        loop {
            match self.soon().await {
                (Read::Events, frames) => panic!("{:?}", self.write(&frames)),
                (Read::Live, _) => {}
                (read, _) => return read,
            }
        }
    }

    /// Nothing comes for a second.
    async fn is_silent(&mut self) {
        while let Ok((read, frames)) = time::timeout(millis(1_000), self.read()).await {
            assert_eq!(read, Read::Live, "{:?}", self.write(&frames));
        }
    }
}

fn gap(read: Read) -> (GapReason, Vec<Topic>) {
    match read {
        Read::Gap(gap) => (gap.reason, gap.topics),
        read => panic!("{read:?} is no gap"),
    }
}

// ---- the storm -----------------------------------------------------------------------------------------------------------

/// How hard a run is.
#[derive(Clone, Copy, Debug)]
struct Storm {
    faults: Faults,
    /// Events that the log keeps of a topic.
    keep: usize,
    tail_total_bytes: usize,
    clients: usize,
    time: Duration,
}

const CALM: Storm = Storm {
    faults: Faults {
        delay: Duration::ZERO,
        slow: Duration::ZERO,
        holes: 0,
        cuts: 0,
        forks: 0,
        resets: 0,
        outages: 0,
        outage: Duration::ZERO,
        unanswered: 0,
    },
    keep: usize::MAX,
    tail_total_bytes: 1 << 30,
    clients: 20,
    time: millis(1_000),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Storm,
    Calm,
    Over,
}

/// An acknowledged event.
#[derive(Clone, Debug)]
struct Entry {
    topic: Topic,
    id: EventId,
    data: Box<str>,
    /// When it was acknowledged.
    at: Instant,
}

#[derive(Default)]
struct Truth {
    entries: Mutex<Vec<Entry>>,
    ended: Mutex<HashSet<Topic>>,
    serial: AtomicUsize,
}

/// Topics that few publish to, topics that many do, and some that end.
fn pool() -> Vec<Topic> {
    let names = (0..3)
        .map(|n| format!("busy/{n}"))
        .chain((0..24).map(|n| format!("quiet/{n}")))
        .chain((0..3).map(|n| format!("finite/{n}")));
    names.map(|name| topic(&name)).collect()
}

async fn publish(store: FaultyStore, truth: Arc<Truth>, mut dice: Dice, until: Instant) {
    let pool = pool();
    while Instant::now() < until {
        let count = 1 + dice.below(4);
        let mut batch = Vec::new();
        for _ in 0..count {
            let at = match dice.below(10) {
                0..5 => dice.below(3),
                _ => 3 + dice.below(pool.len() - 3),
            };
            let serial = truth.serial.fetch_add(1, Ordering::Relaxed);
            let finishes = pool[at].as_str().starts_with("finite/") && dice.once_in(40);
            let data = serial.to_string();
            batch.push(append(&pool[at], (!finishes).then_some(data.as_str())));
        }
        let answers = store.append(batch.clone()).await;
        for (append, answer) in batch.into_iter().zip(answers) {
            match (answer, append.data) {
                (Ok(stored), Some(data)) => truth.entries.lock().push(Entry {
                    topic: append.topic,
                    id: stored.id,
                    data,
                    at: Instant::now(),
                }),
                (Ok(_), None) => {
                    truth.ended.lock().insert(append.topic);
                }
                (Err(AppendError::Finished(_) | AppendError::Store(_)), _) => {}
                (Err(error), _) => panic!("{error}"),
            }
        }
        if !dice.once_in(3) {
            time::sleep(dice.up_to(millis(6))).await;
        }
    }
}

type Record = Vec<(Instant, Told)>;

/// A client: connects, reads in its own way, leaves when it likes, and comes back with the last cursor that it was told.
async fn follow(
    hub: Hub,
    topics: Vec<Topic>,
    mut dice: Dice,
    mut phase: watch::Receiver<Phase>,
) -> Record {
    let mut record = Record::new();
    let mut cursor = None;
    let first = if dice.once_in(2) {
        Start::Now
    } else {
        Start::Earliest
    };
    let ticks = dice.once_in(2);
    let stays = dice.once_in(4);
    let slow = [Duration::ZERO, Duration::ZERO, millis(2), millis(40)][dice.below(4)];
    let budget = Budget {
        frames: [1, 3, 16, 64][dice.below(4)],
        bytes: [200, 4_096, 1 << 16][dice.below(3)],
    };
    time::sleep(dice.up_to(millis(200))).await;
    loop {
        let start = cursor.map_or(first, |id: EventId| Start::after(Cursor::from(id)));
        let patience = if dice.once_in(8) && *phase.borrow() == Phase::Storm {
            dice.up_to(millis(5))
        } else {
            Duration::from_mins(1)
        };
        let Ok(Ok((subscriber, opening))) =
            time::timeout(patience, hub.subscribe(&topics, start)).await
        else {
            assert_ne!(*phase.borrow(), Phase::Over, "no way back in");
            time::sleep(dice.up_to(millis(30))).await;
            continue;
        };
        let mut reader = Reader {
            budget,
            ..Reader::new(subscriber)
        };
        cursor = Some(opening.cursor);
        record.push((Instant::now(), Told::Opened(opening)));
        let mut leaves = (!stays).then(|| Instant::now() + dice.up_to(millis(400)));
        loop {
            if *phase.borrow() != Phase::Storm {
                leaves = None;
            }
            if leaves.is_some_and(|leaves| leaves <= Instant::now()) {
                break;
            }
            let tick = millis(20) + dice.up_to(millis(60));
            let read = tokio::select! {
                biased;
                changed = phase.changed() => {
                    if changed.is_err() || *phase.borrow() == Phase::Over {
                        return record;
                    }
                    continue;
                }
                read = reader.read() => Some(read),
                () = time::sleep(tick), if ticks => None,
                () = time::sleep_until(leaves.unwrap_or_else(Instant::now)), if leaves.is_some() => break,
            };
            let Some((read, frames)) = read else {
                if let Some(id) = reader.subscriber.checkpoint() {
                    cursor = Some(id);
                    record.push((Instant::now(), Told::Checkpoint(id)));
                }
                continue;
            };
            match read {
                Read::Events => {
                    assert!(!frames.is_empty() && frames.len() <= budget.frames);
                    let written = if dice.once_in(3) {
                        dice.below(frames.len() + 1)
                    } else {
                        frames.len()
                    };
                    for frame in &frames[..written] {
                        let event = frame.event();
                        reader.subscriber.advance(event.id);
                        cursor = Some(event.id);
                        let told = Told::Event(event.topic.clone(), event.id, event.data.clone());
                        record.push((Instant::now(), told));
                    }
                    if !slow.is_zero() && *phase.borrow() == Phase::Storm {
                        time::sleep(dice.up_to(slow)).await;
                    }
                }
                Read::Gap(gap) => record.push((Instant::now(), Told::Gap(gap))),
                Read::Reached => unreachable!("these readers have no ceiling"),
                Read::Live => {
                    let id = reader.subscriber.cursor();
                    cursor = Some(id);
                    record.push((Instant::now(), Told::Live(id)));
                }
                Read::End { topic, id, moves } => {
                    if moves {
                        cursor = Some(id);
                    }
                    record.push((Instant::now(), Told::End(topic, id, moves)));
                }
                Read::Over => {
                    record.push((Instant::now(), Told::Over));
                    return record;
                }
            }
        }
        record.push((Instant::now(), Told::Left));
        drop(reader);
        time::sleep(dice.up_to(millis(600))).await;
    }
}

/// Lets one storm pass and judges what every client was told.
fn weather(name: &'static str, storm: Storm) {
    for seed in seeds() {
        let _told = Seed(name, seed);
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(endure(storm, seed));
    }
}

async fn endure(storm: Storm, seed: u64) {
    let retention = keep(storm.keep);
    let config = HubConfig {
        tail_total_bytes: storm.tail_total_bytes,
        ..hub_config(retention)
    };
    let world = World::with(retention, config, storm.faults, seed);
    let truth = Arc::new(Truth::default());
    let mut dice = Dice::new(seed ^ 0x5EED);
    let (phase, watch) = watch::channel(Phase::Storm);
    let until = Instant::now() + storm.time;
    let publishers: Vec<_> = (0..3)
        .map(|_| {
            let dice = Dice::new(dice.roll());
            tokio::spawn(publish(world.store.clone(), truth.clone(), dice, until))
        })
        .collect();
    let pool = pool();
    let clients: Vec<_> = (0..storm.clients)
        .map(|_| {
            let mut topics = pool.clone();
            let count = 1 + dice.below(20);
            for at in 0..count {
                let other = at + dice.below(topics.len() - at);
                topics.swap(at, other);
            }
            topics.truncate(count);
            let client = follow(
                world.hub.clone(),
                topics.clone(),
                Dice::new(dice.roll()),
                watch.clone(),
            );
            (topics, tokio::spawn(client))
        })
        .collect();
    for publisher in publishers {
        publisher.await.expect("a publisher");
    }
    world.store.set_faults(Faults::default());
    phase.send_replace(Phase::Calm);
    // Nothing is published any more: whoever was not woken for what it has not read stays without it.
    time::sleep(Duration::from_secs(20)).await;
    phase.send_replace(Phase::Over);
    let stats = world.hub.stats();
    assert!(!stats.frozen, "everything has been repaired");
    if storm.faults.forks == 0 && storm.faults.resets == 0 {
        assert_eq!(world.count(|counters| &counters.forks), 0);
        assert_eq!(world.count(|counters| &counters.resets), 0);
        let position = world.log.position(&[]).await.expect("the log is well");
        assert_eq!(stats.frontier, position.last);
    }
    let judge = Judge::new(storm, &truth, &world.store).await;
    for (client, (topics, record)) in clients.into_iter().enumerate() {
        let record = record.await.expect("a client");
        for topic in &topics {
            judge.judge(client, topic, topics.len(), &record);
        }
        judge_order(client, &record);
    }
    // Everybody has left.
    time::sleep(Duration::from_secs(5)).await;
    let stats = world.hub.stats();
    assert_eq!((stats.topics, stats.tail_bytes), (0, 0));
    world.hub.stop().await;
}

/// Over all its topics, a client's ids increase and its cursor never goes back.
fn judge_order(client: usize, record: &Record) {
    let mut cursor = EventId::ZERO;
    for (_, told) in record {
        let (id, event) = match told {
            Told::Opened(opening) => (opening.cursor, false),
            Told::Event(_, id, _) => (*id, true),
            Told::Live(id) | Told::Checkpoint(id) | Told::End(_, id, true) => (*id, false),
            Told::End(..) | Told::Gap(_) | Told::Over | Told::Left => continue,
        };
        assert!(
            id > cursor || (id == cursor && !event),
            "client {client} was at {cursor} and is told {told:?}"
        );
        cursor = id;
    }
}

/// What was acknowledged under each id of a topic, and when; after a fork that may be more than one event.
type Entries = BTreeMap<EventId, Vec<(Box<str>, Instant)>>;

/// Knows what was acknowledged and what was lost.
struct Judge {
    storm: Storm,
    entries: HashMap<Topic, Entries>,
    /// What forks took, and when.
    lost: HashMap<(Topic, EventId, Box<str>), Instant>,
    forked: HashSet<Topic>,
    /// When the log was born again, and above which id.
    births: Vec<(Instant, EventId)>,
    ended: HashSet<Topic>,
}

impl Judge {
    async fn new(storm: Storm, truth: &Truth, faulty: &FaultyStore) -> Self {
        let mut entries: HashMap<Topic, Entries> = HashMap::new();
        for entry in truth.entries.lock().drain(..) {
            let of = entries.entry(entry.topic).or_default();
            let texts = of.entry(entry.id).or_default();
            texts.push((entry.data, entry.at));
        }
        let (mut lost, mut forked, mut births) = (HashMap::new(), HashSet::new(), Vec::new());
        for (at, loss) in faulty.losses() {
            match loss {
                Loss::Fork(topic, events) => {
                    for event in events {
                        let Event { id, data, .. } = event.as_ref().clone();
                        lost.insert((topic.clone(), id, data), at);
                    }
                    forked.insert(topic);
                }
                Loss::Reset(born) => births.push((at, born)),
            }
        }
        let topics: Vec<Topic> = truth.ended.lock().drain().collect();
        let position = faulty.position(&topics).await.expect("the store is well");
        let ended = topics.into_iter().zip(&position.topics);
        let ended = ended.filter(|(_, stand)| stand.end.is_some());
        Self {
            storm,
            entries,
            lost,
            forked,
            births,
            ended: ended.map(|(topic, _)| topic).collect(),
        }
    }

    /// Holds what a client was told of one topic against the truth.
    fn judge(&self, client: usize, topic: &Topic, of: usize, record: &Record) {
        let who = format!("client {client}, {topic} of {of}");
        self.judge_until(&who, topic, None, record);
    }

    /// The same of a client that gave the topic up when it had everything `until` there.
    fn judge_until(&self, who: &str, topic: &Topic, until: Option<EventId>, record: &Record) {
        let nothing = BTreeMap::new();
        let entries = self.entries.get(topic).unwrap_or(&nothing);
        let mut begin = None;
        let mut last = EventId::ZERO;
        let mut gaps: Vec<GapReason> = Vec::new();
        let mut ended = false;
        let mut end = None;
        // The greatest cursor that was told, and when for the first time.
        let mut cursors: Vec<(Instant, EventId)> = Vec::new();
        for (at, told) in record {
            match told {
                Told::Opened(opening) => {
                    begin.get_or_insert_with(|| {
                        last = opening.cursor;
                        opening.cursor
                    });
                    cursors.push((*at, opening.cursor));
                    ended = false;
                    if let Replay::Gap(gap) = &opening.replay
                        && gap.topics.contains(topic)
                    {
                        gaps.push(gap.reason);
                    }
                }
                Told::Gap(gap) if gap.topics.contains(topic) => {
                    ended &= gap.reason == GapReason::Retention;
                    gaps.push(gap.reason);
                }
                Told::Event(told, id, data) if told == topic => {
                    let known = entries
                        .get(id)
                        .is_some_and(|known| known.iter().any(|(known, _)| known == data));
                    assert!(known, "{who}: {id} {data} was never acknowledged");
                    assert!(!ended, "{who}: {id} comes after the end");
                    self.judge_stretch(who, topic, record, (last, Some(*id)), &gaps, &cursors);
                    gaps.clear();
                    last = *id;
                    cursors.push((*at, *id));
                }
                Told::Event(_, id, _) | Told::Live(id) | Told::Checkpoint(id) => {
                    cursors.push((*at, *id));
                }
                Told::End(told, id, moves) => {
                    if told == topic {
                        ended = true;
                        end = Some(*id);
                    }
                    if *moves {
                        cursors.push((*at, *id));
                    }
                }
                Told::Gap(_) | Told::Over | Told::Left => {}
            }
        }
        let over = matches!(record.last(), Some((_, Told::Over)));
        if let Some(until) = until {
            // What a gap is about that was told last may lie beyond.
            let before = Some(until.max(last).next());
            self.missing(who, topic, record, (last, before), &gaps, &cursors);
            return;
        }
        let before = end.filter(|end| over && *end > last);
        if before.is_some() || !over {
            self.judge_stretch(who, topic, record, (last, before), &gaps, &cursors);
        }
        assert!(
            over || ended == self.ended.contains(topic),
            "{who}: its end"
        );
        assert!(!over || ended, "{who}: over before its end");
    }

    /// Between two events that a client got nothing is missing, or it was told; and it was told nothing else.
    fn judge_stretch(
        &self,
        who: &str,
        topic: &Topic,
        record: &Record,
        (after, before): (EventId, Option<EventId>),
        gaps: &[GapReason],
        cursors: &[(Instant, EventId)],
    ) {
        if !self.entries.contains_key(topic) {
            assert!(gaps.iter().all(|gap| *gap == GapReason::Reset), "{who}");
            return;
        }
        let (missing, retained_gone) =
            self.missing(who, topic, record, (after, before), gaps, cursors);
        for gap in gaps {
            let justified = match gap {
                GapReason::Retention => self.storm.keep < usize::MAX && retained_gone,
                GapReason::Lost => self.forked.contains(topic) || !self.births.is_empty(),
                GapReason::Reset => !self.births.is_empty(),
                GapReason::Unknown => false,
            };
            assert!(
                justified,
                "{who}: told {gap:?} between {after} and {before:?}, where {missing} are missing"
            );
        }
    }

    /// What a client did not get between two events is explained. How many that are, and whether retention took some.
    fn missing(
        &self,
        who: &str,
        topic: &Topic,
        record: &Record,
        (after, before): (EventId, Option<EventId>),
        gaps: &[GapReason],
        cursors: &[(Instant, EventId)],
    ) -> (usize, bool) {
        let nothing = BTreeMap::new();
        let entries = self.entries.get(topic).unwrap_or(&nothing);
        let bounds = (
            std::ops::Bound::Excluded(after),
            before.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded),
        );
        // Whoever asked for the earliest that there is begins with that.
        let at_the_beginning =
            after == EventId::ZERO && (self.storm.keep < usize::MAX || !self.births.is_empty());
        let missing: Vec<_> = if before.is_some_and(|before| before <= after) {
            panic!("{who}: {before:?} comes after {after}")
        } else {
            entries.range(bounds).collect()
        };
        let mut retained_gone = false;
        for (id, texts) in &missing {
            for (data, acknowledged) in *texts {
                let lost = self.lost.get(&(topic.clone(), **id, data.clone()));
                let reset = self.births.iter().any(|(_, born)| **id < *born);
                let told = |reason| gaps.contains(&reason);
                // Whoever asked for the earliest after that got the earliest that there was.
                let asked = record.iter().rev().find(
                    |(_, told)| matches!(told, Told::Opened(opening) if opening.cursor == after),
                );
                let asked_later = after == EventId::ZERO
                    && asked.is_some_and(|(opened, _)| {
                        let gone = |(at, born): &(Instant, EventId)| at <= opened && **id < *born;
                        self.births.iter().any(gone)
                    });
                let forgiven = lost.is_some_and(|lost| {
                    // Nobody can know that it was, but whoever had been told a cursor past it.
                    let past = |(at, cursor): &(Instant, EventId)| at < lost && cursor >= *id;
                    !cursors.iter().any(past)
                });
                // After a fork, ids that had been given may be given again before the hub is back. Of a topic that nobody
                // follows at that moment nobody can know that a cursor was past them.
                let unseen = self.storm.faults.forks > 0
                    && cursors
                        .iter()
                        .any(|(at, cursor)| at <= acknowledged && cursor >= *id)
                    && !is_open(record, *acknowledged);
                let explained = forgiven
                    || unseen
                    || (at_the_beginning && before.is_some())
                    || asked_later
                    || (reset && (told(GapReason::Reset) || told(GapReason::Lost)))
                    || (self.forked.contains(topic) && told(GapReason::Lost))
                    || told(GapReason::Retention);
                assert!(
                    explained,
                    "{who}: {id} {data} is missing between {after} and {before:?}, told {gaps:?}, lost {lost:?}, reset {reset}, births {:?}, {}",
                    self.births,
                    tell(topic, record)
                );
                retained_gone |= lost.is_none();
            }
        }
        (missing.len(), retained_gone)
    }
}

/// Whether the client had an open stream at that time.
fn is_open(record: &Record, when: Instant) -> bool {
    let before = record.iter().rev().filter(|(at, _)| *at <= when);
    let mut edges = before.filter(|(_, told)| matches!(told, Told::Opened(_) | Told::Left));
    matches!(edges.next(), Some((_, Told::Opened(_))))
}

/// What a client was told that may concern `topic`, for the message of a failure.
fn tell(topic: &Topic, record: &Record) -> String {
    let concerns = |told: &Told| match told {
        Told::Event(of, ..) => of == topic,
        Told::Gap(gap) => gap.topics.contains(topic),
        _ => true,
    };
    let lines = record.iter().filter(|(_, told)| concerns(told));
    lines.fold(String::new(), |text, (_, told)| {
        format!("{text}\n  {told:?}")
    })
}

#[test]
fn in_fair_weather_everybody_gets_everything() {
    weather("fair weather", CALM);
}

#[test]
fn a_late_feed_and_slow_calls_lose_nothing() {
    let faults = Faults {
        delay: millis(12),
        slow: millis(9),
        ..Faults::default()
    };
    weather("delays", Storm { faults, ..CALM });
}

#[test]
fn holes_in_the_feed_are_closed() {
    let faults = Faults {
        holes: 25,
        ..Faults::default()
    };
    weather("holes", Storm { faults, ..CALM });
}

#[test]
fn a_cut_feed_is_taken_up_again() {
    let faults = Faults {
        cuts: 60,
        delay: millis(3),
        ..Faults::default()
    };
    weather("cuts", Storm { faults, ..CALM });
}

#[test]
fn a_store_that_is_away_for_a_while_loses_nothing() {
    let faults = Faults {
        outages: 150,
        outage: millis(250),
        holes: 80,
        cuts: 300,
        slow: millis(4),
        ..Faults::default()
    };
    weather("outages", Storm { faults, ..CALM });
}

/// All that breaks no log at once, and readers that tails and the budget of all tails overtake.
#[test]
fn everything_that_breaks_at_once_loses_nothing() {
    let faults = Faults {
        delay: millis(8),
        slow: millis(6),
        holes: 60,
        cuts: 200,
        outages: 400,
        outage: millis(120),
        ..Faults::default()
    };
    let storm = Storm {
        faults,
        tail_total_bytes: 6_000,
        clients: 30,
        ..CALM
    };
    weather("everything", storm);
}

#[test]
fn what_retention_takes_is_told_at_its_place() {
    let storm = Storm { keep: 12, ..CALM };
    weather("retention", storm);
    let faults = Faults {
        delay: millis(8),
        slow: millis(12),
        holes: 40,
        cuts: 150,
        outages: 300,
        outage: millis(200),
        ..Faults::default()
    };
    weather("retention under faults", Storm { faults, ..storm });
}

#[test]
fn what_a_failover_lost_is_told() {
    let faults = Faults {
        forks: 100,
        ..Faults::default()
    };
    weather("forks", Storm { faults, ..CALM });
    let faults = Faults {
        delay: millis(5),
        slow: millis(5),
        holes: 80,
        outages: 400,
        outage: millis(100),
        ..faults
    };
    weather("forks and more", Storm { faults, ..CALM });
}

#[test]
fn a_log_that_is_born_again_is_told() {
    let faults = Faults {
        resets: 300,
        ..Faults::default()
    };
    weather("resets", Storm { faults, ..CALM });
    let faults = Faults {
        delay: millis(5),
        slow: millis(5),
        holes: 80,
        cuts: 200,
        outages: 400,
        outage: millis(100),
        ..faults
    };
    weather("resets and more", Storm { faults, ..CALM });
}

// ---- one thing at a time -------------------------------------------------------------------------------------------------

/// What is held back because something is missing in another topic goes out when that is closed, without a further event.
#[tokio::test(start_paused = true)]
async fn a_hole_in_one_topic_does_not_leave_the_others_asleep() {
    let world = World::new(ALL);
    let (holed, other) = (topic("holed"), topic("other"));
    let (mut on_holed, _) = world.open(&[&holed], Start::Now).await;
    let (mut on_other, _) = world.open(&[&other], Start::Now).await;
    let first = world.publish(&holed, "1").await;
    assert_eq!(on_holed.events(1).await, [first]);
    // In a task of its own, which no other topic wakes.
    let beside_read = tokio::spawn(async move { on_other.events(1).await });
    tokio::task::yield_now().await;
    world.store.hole(&holed);
    let vanished = world.publish(&holed, "2").await;
    let beside = world.publish(&other, "beside").await;
    let gives_away = world.publish(&holed, "3").await;
    assert_eq!(on_holed.events(2).await, [vanished, gives_away]);
    assert_eq!(beside_read.await.expect("a reader"), [beside]);
    assert_eq!(world.count(|counters| &counters.holes), 1);
}

/// A repair that the store refuses is tried again, however busy the feed is with other topics.
#[tokio::test(start_paused = true)]
async fn a_busy_feed_does_not_starve_a_repair() {
    let world = World::new(ALL);
    let (holed, busy) = (topic("holed"), topic("busy"));
    let (mut reader, _) = world.open(&[&holed], Start::Now).await;
    let (_busy, _) = world.open(&[&busy], Start::Now).await;
    world.store.hole(&holed);
    world.store.go_away(millis(300));
    let vanished = world.publish(&holed, "1").await;
    let gives_away = world.publish(&holed, "2").await;
    let got = reader.events(2);
    let publishing = async {
        loop {
            world.publish(&busy, "x").await;
            time::sleep(millis(10)).await;
        }
    };
    tokio::select! {
        got = got => assert_eq!(got, [vanished, gives_away]),
        () = publishing => {}
    }
}

/// Two joins of one topic may be under way at once; the second is no fork, whatever was published in between.
#[tokio::test(start_paused = true)]
async fn joins_that_overlap_are_no_fork() {
    let world = World::new(ALL);
    let topics = [topic("a"), topic("b"), topic("c")];
    let (mut reader, opening) = world
        .open(&[&topics[0], &topics[1], &topics[2]], Start::Now)
        .await;
    let mut given = Vec::new();
    for round in 0..20 {
        world.store.hole(&topics[round % 3]);
        for n in 0..9 {
            given.push(world.publish(&topics[(n + n / 3) % 3], "x").await);
            if n % 4 == round % 4 {
                tokio::task::yield_now().await;
            }
        }
        world.store.cut();
        given.push(world.publish(&topics[round % 3], "y").await);
    }
    assert!(given[0] > opening.cursor);
    assert_eq!(reader.events(given.len()).await, given);
    assert_eq!(world.count(|counters| &counters.forks), 0);
    reader.is_silent().await;
}

/// A topic that nobody followed yet, asked for beside others that flow, and cut at once: nothing is lost on return.
#[tokio::test(start_paused = true)]
async fn a_new_topic_beside_flowing_ones_and_a_cut_at_once() {
    let world = World::new(ALL);
    let flowing = topic("flowing");
    for round in 0..50 {
        let new = topic(&format!("new/{round}"));
        let (mut reader, _) = world.open(&[&flowing], Start::Now).await;
        let mut given = vec![world.publish(&flowing, "1").await];
        assert_eq!(reader.events(1).await, given);
        drop(reader);
        given.push(world.publish(&new, "2").await);
        given.push(world.publish(&flowing, "3").await);
        let (reader, opening) = world.resume(&[&flowing, &new], given[0]).await;
        assert_eq!(
            (opening.replay, opening.cursor),
            (Replay::Complete, given[0])
        );
        drop(reader);
        world.store.cut();
        given.push(world.publish(&flowing, "4").await);
        given.push(world.publish(&new, "5").await);
        let (mut reader, opening) = world.resume(&[&flowing, &new], given[0]).await;
        assert_eq!(opening.replay, Replay::Complete);
        assert_eq!(reader.events(4).await, given[1..]);
    }
}

/// The cursor of a quiet topic moves with the others', so a resume is complete though all else has been trimmed meanwhile.
#[tokio::test(start_paused = true)]
async fn a_quiet_topic_beside_a_busy_one_resumes_from_a_checkpoint() {
    let world = World::new(keep(5));
    let (quiet, busy) = (topic("quiet"), topic("busy"));
    let only = world.publish(&quiet, "only").await;
    let (mut reader, opening) = world.open(&[&quiet], Start::Earliest).await;
    assert_eq!(opening.cursor, EventId::ZERO);
    assert_eq!(reader.events(1).await, [only]);
    let last = *world.publish_many(&busy, 1_000).await.last().expect("some");
    reader.is_silent().await;
    let checkpoint = reader.subscriber.checkpoint();
    assert_eq!(checkpoint, Some(last));
    assert_eq!(reader.subscriber.checkpoint(), None);
    drop(reader);
    world.publish_many(&busy, 1_000).await;
    // Longer than a topic lingers.
    time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.hub.stats().topics, 0);
    let next = world.publish(&quiet, "next").await;
    let (mut reader, opening) = world.resume(&[&quiet], last).await;
    assert_eq!(opening.replay, Replay::Complete);
    assert_eq!(reader.events(1).await, [next]);
    let (_, opening) = world.resume(&[&quiet, &busy], last).await;
    let Replay::Gap(gap) = opening.replay else {
        panic!("of the busy one much is missing");
    };
    assert_eq!((gap.reason, gap.topics), (GapReason::Retention, vec![busy]));
}

/// A topic whose resume was complete when it began is told when retention overtakes the reader before its first read, though
/// another one's gap was part of the verdict.
#[tokio::test(start_paused = true)]
async fn a_verdict_about_one_topic_covers_no_other() {
    let world = World::new(keep(3));
    let (gone, whole) = (topic("gone"), topic("whole"));
    let begin = world.publish(&whole, "0").await;
    world.publish_many(&gone, 9).await;
    world.publish_many(&whole, 2).await;
    let (mut reader, opening) = world.resume(&[&gone, &whole], begin).await;
    let Replay::Gap(told) = opening.replay else {
        panic!("much is missing");
    };
    assert_eq!(told.topics, [gone]);
    world.publish_many(&whole, 9).await;
    // Longer than a page stays on the shelf.
    time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        gap(reader.said().await),
        (GapReason::Retention, vec![whole])
    );
    assert_eq!(reader.events(6).await.len(), 6);
}

/// Retention may change while the hub runs. A tail never proves what the store has let go, also where nothing is published any
/// more; and where more is kept, more is proven.
#[tokio::test(start_paused = true)]
async fn changed_retention_reaches_the_tails() {
    let keeping = |events| Keep {
        retention: RetentionRules::new(keep(events), Vec::new()),
        total_bytes: usize::MAX,
        idempotency_window: Duration::from_mins(5),
        event_bytes: 65_536,
    };
    let world = World::new(ALL);
    let a = topic("a");
    let (mut reader, _) = world.open(&[&a], Start::Now).await;
    let given = world.publish_many(&a, 10).await;
    assert_eq!(reader.events(10).await, given);
    world.hub.retain(keeping(3));
    time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.hub.topic(&a).map(|stats| stats.frames), Some(3));
    let (_, opening) = world.resume(&[&a], given[2]).await;
    let Replay::Gap(told) = opening.replay else {
        panic!("four are missing");
    };
    assert_eq!(told.reason, GapReason::Retention);
    let (mut kept, opening) = world.resume(&[&a], given[6]).await;
    assert_eq!(opening.replay, Replay::Complete);
    assert_eq!(kept.events(3).await, given[7..]);
    world.hub.retain(keeping(100));
    let more = world.publish_many(&a, 10).await;
    assert_eq!(reader.events(10).await, more);
    assert_eq!(world.hub.topic(&a).map(|stats| stats.frames), Some(13));
    assert_eq!(world.count(|counters| &counters.holes), 0);
}

/// One subscriber may follow very many topics, and a single one of them wakes it.
#[tokio::test(start_paused = true)]
async fn ten_thousand_topics_have_one_subscriber() {
    let world = World::new(ALL);
    let topics: Vec<Topic> = (0..10_000).map(|n| topic(&format!("t/{n}"))).collect();
    let (mut reader, _) = world
        .open(&topics.iter().collect::<Vec<_>>(), Start::Now)
        .await;
    assert_eq!(reader.subscriber.topics().count(), 10_000);
    for at in [9_999, 0, 5_000, 17] {
        let id = world.publish(&topics[at], "x").await;
        assert_eq!(reader.events(1).await, [id]);
    }
    let mut given = Vec::new();
    for topic in topics.iter().step_by(100) {
        given.push(world.publish(topic, "x").await);
    }
    world.store.cut();
    given.push(world.publish(&topics[1], "x").await);
    assert_eq!(reader.events(given.len()).await, given);
    assert_eq!(world.hub.stats().topics, 10_000);
}

/// When the last subscriber has been gone for a while, nothing is left of a topic; before that it is still there.
#[tokio::test(start_paused = true)]
async fn topics_without_subscribers_give_their_memory_back() {
    let world = World::new(ALL);
    let a = topic("a");
    let (mut reader, _) = world.open(&[&a], Start::Now).await;
    let given = world.publish_many(&a, 10).await;
    assert_eq!(reader.events(10).await, given);
    let stats = world.hub.stats();
    assert!(stats.topics == 1 && stats.tail_bytes > 0);
    drop(reader);
    let (mut reader, _) = world.resume(&[&a], given[4]).await;
    assert_eq!(reader.events(5).await, given[5..]);
    assert_eq!(world.count(|counters| &counters.pages), 0);
    drop(reader);
    time::sleep(Duration::from_secs(3)).await;
    let stats = world.hub.stats();
    assert_eq!((stats.topics, stats.tail_bytes), (0, 0));
    // It is joined anew, and goes on.
    let more = world.publish(&a, "more").await;
    let (mut reader, _) = world.resume(&[&a], given[8]).await;
    assert_eq!(reader.events(2).await, [given[9], more]);
}

/// All tails together stay within their budget; whoever is behind reads from the store.
#[tokio::test(start_paused = true)]
async fn the_budget_of_all_tails_is_kept() {
    let config = HubConfig {
        tail_total_bytes: 2_000,
        ..hub_config(ALL)
    };
    let world = World::with(ALL, config, Faults::default(), 0);
    let topics: Vec<Topic> = (0..20).map(|n| topic(&format!("t{n}"))).collect();
    let all: Vec<&Topic> = topics.iter().collect();
    let (mut reader, _) = world.open(&all, Start::Now).await;
    let mut given = Vec::new();
    for round in 0..200 {
        given.push(world.publish(&topics[round % 20], "x").await);
        if round % 10 == 0 {
            time::sleep(millis(70)).await;
            assert!(world.hub.stats().tail_bytes <= 2_000);
        }
    }
    assert_eq!(reader.events(given.len()).await, given);
    assert!(world.count(|counters| &counters.pages) > 0);
}

/// A storm of returning cursors, all different and all older than the tail, costs a few reads.
#[tokio::test(start_paused = true)]
async fn two_thousand_cursors_share_a_few_pages() {
    let world = World::new(ALL);
    let a = topic("a");
    let given = world.publish_many(&a, 2_100).await;
    let (_keeps_it, _) = world.open(&[&a], Start::Now).await;
    let readers: Vec<_> = given[..2_000]
        .iter()
        .map(|&cursor| {
            let (hub, a) = (world.hub.clone(), a.clone());
            tokio::spawn(async move {
                let start = Start::after(Cursor::from(cursor));
                let opened = hub.subscribe(&[a], start).await.expect("it is well");
                assert_eq!(opened.1.replay, Replay::Complete);
                let mut reader = Reader::new(opened.0);
                reader.read().await.1[0].id()
            })
        })
        .collect();
    for (at, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.await.expect("a reader"), given[at + 1]);
    }
    let pages = world.count(|counters| &counters.pages);
    assert!(pages <= 30, "{pages} reads");
}

/// A failover that lost entries is told once to each open stream that was past them, and to a cursor among them.
#[tokio::test(start_paused = true)]
async fn a_fork_is_told_once() {
    let world = World::new(ALL);
    let (a, b) = (topic("a"), topic("b"));
    let (mut past, _) = world.open(&[&a, &b], Start::Now).await;
    let (mut elsewhere, _) = world.open(&[&b], Start::Now).await;
    let given = world.publish_many(&a, 6).await;
    assert_eq!(past.events(6).await, given);
    time::sleep(millis(5)).await;
    assert_eq!(world.store.fork(&a, 2).len(), 2);
    let Read::Gap(told) = past.said().await else {
        panic!("it is told");
    };
    assert_eq!(
        (told.reason, &told.topics),
        (GapReason::Lost, &vec![a.clone()])
    );
    assert_eq!(told.missed_at_least, None, "it has got what was lost");
    let next = [world.publish(&a, "7").await, world.publish(&b, "8").await];
    assert!(next[0] > given[5], "ids still increase");
    assert_eq!(past.events(2).await, next);
    past.is_silent().await;
    assert_eq!(elsewhere.events(1).await, [next[1]]);
    assert_eq!(world.count(|counters| &counters.forks), 1);
    for (cursor, lost) in [(given[3], true), (given[4], true), (given[5], false)] {
        let (mut reader, opening) = world.resume(&[&a], cursor).await;
        let told = matches!(&opening.replay, Replay::Gap(gap) if gap.reason == GapReason::Lost);
        assert_eq!(told, lost, "{cursor}");
        assert_eq!(reader.events(1).await, [next[0]]);
    }
    // Also when the topic has been given up meanwhile: the store remembers.
    drop(past);
    time::sleep(Duration::from_secs(5)).await;
    assert!(world.hub.topic(&a).is_none());
    let (_, opening) = world.resume(&[&a], given[4]).await;
    assert!(matches!(opening.replay, Replay::Gap(gap) if gap.reason == GapReason::Lost));
}

/// Who has just begun to follow a topic has nothing in memory by which the newest entry of both logs could be found; the chain of
/// the new one names it. The range that was recorded used to begin where the memory does, and held nothing.
#[tokio::test(start_paused = true)]
async fn a_fork_below_everything_in_memory_is_told_from_its_beginning() {
    let world = World::new(ALL);
    let a = topic("a");
    let given = world.publish_many(&a, 6).await;
    let (mut fresh, _) = world.open(&[&a], Start::Now).await;
    // Ids of the new log lie above those that were lost.
    time::sleep(millis(5)).await;
    assert_eq!(world.store.fork(&a, 3).len(), 3);
    let next = world.publish(&a, "7").await;
    assert_eq!(gap(fresh.said().await), (GapReason::Lost, vec![a.clone()]));
    assert_eq!(fresh.events(1).await, [next]);
    for (at, lost) in [(1, false), (2, true), (4, true), (5, false)] {
        let (_, opening) = world.resume(&[&a], given[at]).await;
        let told = matches!(&opening.replay, Replay::Gap(gap) if gap.reason == GapReason::Lost);
        assert_eq!(told, lost, "{at}");
    }
}

/// A position that was stated before a failover and a page that is read after it are of two logs: nothing follows from them
/// together. What was recorded then used to begin where the memory does.
#[tokio::test(start_paused = true)]
async fn a_failover_in_the_middle_of_a_repair_is_told_from_its_beginning() {
    for moment in 0..40 {
        let world = World::new(ALL);
        let a = topic("a");
        let given = world.publish_many(&a, 4).await;
        let (mut reader, _) = world.open(&[&a], Start::Now).await;
        world.publish_many(&a, 3).await;
        reader.events(3).await;
        world.store.set_faults(Faults {
            slow: millis(40),
            ..Faults::default()
        });
        world.store.cut();
        world.publish_many(&a, 2).await;
        // Ids of the new log lie above those that were lost.
        time::sleep(millis(2 + moment)).await;
        assert_eq!(world.store.fork(&a, 7).len(), 7);
        let next = world.publish(&a, "next").await;
        let mut told = Vec::new();
        loop {
            match reader.soon().await {
                (Read::Gap(gap), _) => told.push(gap.reason),
                (Read::Events, frames) if reader.write(&frames).contains(&next) => break,
                _ => {}
            }
        }
        assert_eq!(told, [GapReason::Lost], "at {moment} ms");
        for (at, lost) in [(0, false), (2, true), (3, true)] {
            let (_, opening) = world.resume(&[&a], given[at]).await;
            let told = matches!(&opening.replay, Replay::Gap(gap) if gap.reason == GapReason::Lost);
            assert_eq!(told, lost, "{at} at {moment} ms");
        }
    }
}

/// A page may show more than the feed has brought yet. Where a failover takes that, nobody here has seen it: it must not come
/// from the shelf afterwards, as if it were still there.
#[tokio::test(start_paused = true)]
async fn what_a_failover_took_does_not_come_from_the_shelf() {
    let mut unseen = 0;
    for seed in 0..20 {
        let world = World::with(ALL, hub_config(ALL), Faults::default(), seed);
        let a = topic("a");
        let (mut open, _) = world.open(&[&a], Start::Now).await;
        let given = world.publish_many(&a, 40).await;
        assert_eq!(open.events(40).await, given);
        // Nothing is on the shelf any more.
        time::sleep(Duration::from_secs(3)).await;
        world.store.set_faults(Faults {
            delay: millis(100),
            ..Faults::default()
        });
        // The feed is busy with this one, and cut before it has taken the others up.
        world.publish(&topic("b"), "beside").await;
        time::sleep(millis(1)).await;
        world.publish_many(&a, 5).await;
        let (mut reader, opening) = world.resume(&[&a], given[0]).await;
        assert_eq!(opening.replay, Replay::Complete);
        assert_eq!(reader.events(39).await, given[1..]);
        assert_eq!(world.store.fork(&a, 5).len(), 5);
        // Ids of the new log lie above those that were lost, and there are more than the tail holds.
        time::sleep(millis(5)).await;
        let next = world.publish_many(&a, 30).await;
        let (mut got, mut told) = (Vec::new(), false);
        while got.last() != next.last() {
            match reader.soon().await {
                (Read::Events, frames) => got.extend(reader.write(&frames)),
                (read, _) => told |= matches!(read, Read::Gap(_)),
            }
        }
        if !told {
            assert_eq!(got, next, "seed {seed}");
            unseen += 1;
        }
    }
    assert!(unseen > 0, "the feed was late");
}

/// What another replica found lost reaches streams that came here with a cursor from there before it was known, and cursors
/// that come later; nobody else.
#[tokio::test(start_paused = true)]
async fn what_another_replica_found_lost_is_told() {
    let world = World::new(ALL);
    let a = topic("a");
    let given = world.publish_many(&a, 6).await;
    let (mut from_there, _) = world.resume(&[&a], given[3]).await;
    let (mut from_before, _) = world.resume(&[&a], given[1]).await;
    assert_eq!(from_there.events(2).await, given[4..]);
    assert_eq!(from_before.events(4).await, given[2..]);
    let range = LostRange {
        after: given[2],
        through: given[4],
    };
    for _ in 0..2 {
        let recorded = world.store.record_lost(&a, range).await;
        recorded.expect("the store is well");
    }
    let told = gap(from_there.said().await);
    assert_eq!(told, (GapReason::Lost, vec![a.clone()]));
    let next = world.publish(&a, "7").await;
    assert_eq!(from_there.events(1).await, [next]);
    assert_eq!(from_before.events(1).await, [next]);
    from_before.is_silent().await;
    for (cursor, lost) in [(given[1], false), (given[3], true), (given[4], false)] {
        let (_, opening) = world.resume(&[&a], cursor).await;
        let told = matches!(&opening.replay, Replay::Gap(gap) if gap.reason == GapReason::Lost);
        assert_eq!(told, lost, "{cursor}");
    }
}

/// Right after a failover an id above the log may be one that was given out and lost, which the replica that gave it out is
/// about to say: nothing is said of such a cursor before.
#[tokio::test(start_paused = true)]
async fn a_cursor_above_a_log_that_has_just_moved_is_judged_later() {
    let world = World::new(ALL);
    let a = topic("a");
    let (_open, _) = world.open(&[&a], Start::Now).await;
    let last = world.publish(&a, "1").await;
    world.store.settle(true);
    let above = Start::after(Cursor::from(last.next()));
    let early = world.hub.subscribe(std::slice::from_ref(&a), above).await;
    let Err(SubscribeError::Store(StoreError::Unavailable(why))) = early else {
        panic!("{:?}", early.map(|(_, opening)| opening));
    };
    assert!(why.contains("master"), "{why}");
    let (_, opening) = world.resume(&[&a], last).await;
    assert_eq!(opening.replay, Replay::Complete, "{last} is known");
    world.store.settle(false);
    let (_, opening) = world.resume(&[&a], last.next()).await;
    assert!(matches!(opening.replay, Replay::Gap(gap) if gap.reason == GapReason::Unknown));
}

/// Whoever comes with an unknown cursor goes on after everything that the store has, also where this replica has not got it yet:
/// it may have seen that.
#[tokio::test(start_paused = true)]
async fn an_unknown_cursor_goes_on_after_what_the_store_has() {
    let world = World::new(ALL);
    let a = topic("a");
    let (mut open, _) = world.open(&[&a], Start::Now).await;
    let first = world.publish(&a, "1").await;
    assert_eq!(open.events(1).await, [first]);
    for seed in 0..20 {
        world.store.set_faults(Faults {
            delay: millis(200),
            ..Faults::default()
        });
        time::sleep(millis(seed)).await;
        let last = world.publish(&a, "late").await;
        let (mut reader, opening) = world.resume(&[&a], last.next()).await;
        assert!(matches!(opening.replay, Replay::Gap(gap) if gap.reason == GapReason::Unknown));
        assert_eq!(opening.cursor, last);
        let next = world.publish(&a, "next").await;
        assert_eq!(reader.events(1).await, [next]);
    }
}

/// An entry that turns up below the frontier cannot be sent any more: it is told, also to cursors given out before.
#[tokio::test(start_paused = true)]
async fn an_entry_that_comes_too_late_is_told() {
    let world = World::new(ALL);
    let (a, b) = (topic("a"), topic("b"));
    let (mut reader, _) = world.open(&[&a, &b], Start::Now).await;
    let mut given = world.publish_many(&a, 2).await;
    given.extend(world.publish_many(&b, 6).await);
    assert_eq!(reader.events(8).await, given);
    // The log forgets what it gave to b, and hands the same ids out again before the hub is back.
    world.store.fork(&b, 5);
    let late = world.publish(&a, "late").await;
    assert!(late <= given[7]);
    let mut told = vec![gap(reader.said().await), gap(reader.said().await)];
    told.sort_by(|one, other| one.1[0].cmp(&other.1[0]));
    let lost = |topic: &Topic| (GapReason::Lost, vec![topic.clone()]);
    assert_eq!(told, [lost(&a), lost(&b)]);
    drop(reader);
    let (_, opening) = world.resume(&[&a], given[7]).await;
    assert!(matches!(opening.replay, Replay::Gap(gap) if gap.reason == GapReason::Lost));
}

/// A log that is born again is told once to each open stream, whatever gave it away, and to returning cursors.
#[tokio::test(start_paused = true)]
async fn a_reset_is_told_once() {
    for sign in [Sign::Cut, Sign::Entry] {
        let world = World::new(ALL);
        let (a, b) = (topic("a"), topic("b"));
        let (mut both, _) = world.open(&[&a, &b], Start::Now).await;
        let (mut one, _) = world.open(&[&b], Start::Now).await;
        let before = world.publish(&a, "1").await;
        let of_b = world.publish(&b, "2").await;
        assert_eq!(both.events(2).await, [before, of_b]);
        assert_eq!(one.events(1).await, [of_b]);
        world.store.reset(sign);
        let after = world.publish(&a, "3").await;
        let all = vec![a.clone(), b.clone()];
        assert_eq!(gap(both.said().await), (GapReason::Reset, all.clone()));
        assert_eq!(gap(one.said().await), (GapReason::Reset, vec![b.clone()]));
        assert_eq!(both.events(1).await, [after]);
        let (mut back, opening) = world.resume(&[&a, &b], of_b).await;
        let Replay::Gap(told) = opening.replay else {
            panic!("the log is gone");
        };
        assert_eq!((told.reason, told.topics), (GapReason::Reset, all));
        assert_eq!(opening.cursor, world.hub.stats().born);
        assert_eq!(back.events(1).await, [after]);
        for reader in [&mut both, &mut one, &mut back] {
            reader.is_silent().await;
        }
        assert_eq!(world.count(|counters| &counters.resets), 1);
    }
}

/// While the store is away, what is in memory is served; what is not is refused, and is there again afterwards.
#[tokio::test(start_paused = true)]
async fn an_outage_leaves_no_trace() {
    let world = World::new(ALL);
    let a = topic("a");
    let given = world.publish_many(&a, 40).await;
    let (_keeps_it, _) = world.open(&[&a], Start::Now).await;
    let more = world.publish_many(&a, 10).await;
    time::sleep(millis(5)).await;
    world.store.go_away(Duration::from_secs(1));
    let (mut near, opening) = world.resume(&[&a], more[4]).await;
    assert_eq!(opening.replay, Replay::Complete);
    assert_eq!(near.events(5).await, more[5..]);
    let far = Start::after(Cursor::from(given[3]));
    assert!(
        world
            .hub
            .subscribe(std::slice::from_ref(&a), far)
            .await
            .is_err()
    );
    time::sleep(Duration::from_secs(2)).await;
    let (mut reader, opening) = world.resume(&[&a], given[3]).await;
    assert_eq!(opening.replay, Replay::Complete);
    assert_eq!(reader.events(46).await.len(), 46);
}
