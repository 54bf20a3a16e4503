//! Clients that follow, drop, come back elsewhere and read slowly, and write down everything that they are told.

use std::{
    collections::HashSet,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tidegate::{
    event::{EventId, Message},
    store::faulty::Dice,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    judge::{Asked, Gap, Line, Millis, Name, Reason, Replay, Told},
    publisher::{MARK, publish_one},
    schedule::{BUSY, QUIET, REPLICAS, topic},
    wire::{Asking, Stream},
    world::{Figures, Phase, Tide, World, now_ms},
};
use crate::support::{Request, id};

/// An open stream says something at least so often. Far beyond the keepalive of the test: the machine may be busy.
const SILENCE: Duration = Duration::from_secs(15);

/// What sort of a client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Reads what comes, leaves when it likes.
    Ordinary,
    /// Stays until it is cut.
    Faithful,
    /// Reads a little at a time, and has little room for the rest.
    Slow,
    /// Follows quiet topics, and leaves with the id of a checkpoint.
    Quiet,
    /// Leaves while what is stored will be lost, and stays away until everybody knows.
    Absent,
    /// Adds topics that nobody followed before, while the others flow, and its feed is cut at once.
    Newcomer,
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) struct Client {
    world: Arc<World>,
    number: usize,
    habit: Habit,
    dice: Dice,
    topics: Vec<Name>,
    /// Topics of its own, to which it alone publishes.
    own: Vec<Name>,
    /// Their last events are published.
    marked: bool,
    cursor: Option<EventId>,
    earliest: bool,
    replica: usize,
    /// When it last asked for a stream.
    sent: Millis,
    /// Topics whose last event has come.
    ended: HashSet<Name>,
    progress: Progress,
}

/// How far a client is, for those who wait for it.
#[derive(Clone, Default)]
pub(super) struct Progress {
    pub(super) record: Arc<Mutex<Vec<Line>>>,
    /// Whether the last event of each of its topics has come.
    pub(super) complete: Arc<AtomicBool>,
}

/// Why a stay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    Ended,
    /// The storm is over and everything has come.
    Complete,
}

impl Client {
    pub(super) fn new(world: Arc<World>, number: usize, mut dice: Dice) -> Self {
        let habit = match number % 20 {
            0..8 => Habit::Ordinary,
            8..10 => Habit::Absent,
            10..13 => Habit::Faithful,
            13..16 => Habit::Slow,
            16..19 => Habit::Quiet,
            _ => Habit::Newcomer,
        };
        let mut all: Vec<usize> = match habit {
            Habit::Quiet => (BUSY..BUSY + QUIET).collect(),
            _ => (0..BUSY + QUIET).collect(),
        };
        let count = match habit {
            Habit::Quiet => 1 + dice.below(2),
            Habit::Newcomer => 2,
            _ => 1 + dice.below(20),
        };
        for at in 0..count {
            let other = at + dice.below(all.len() - at);
            all.swap(at, other);
        }
        all.truncate(count);
        if habit == Habit::Newcomer {
            all[0] = 0;
            all.dedup();
        }
        Self {
            world,
            number,
            habit,
            topics: all.into_iter().map(|it| topic(it).into()).collect(),
            own: Vec::new(),
            marked: false,
            cursor: None,
            earliest: habit != Habit::Newcomer && dice.once_in(2),
            replica: dice.below(REPLICAS),
            sent: 0,
            ended: HashSet::new(),
            progress: Progress::default(),
            dice,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// A whole life: until everything has come and the test says that it is over.
    pub(super) async fn live(mut self) {
        sleep(self.dice.up_to(millis(300))).await;
        loop {
            if !self.world.is_storming() && !std::mem::replace(&mut self.marked, true) {
                for own in self.own.clone() {
                    publish_one(&self.world, &mut self.dice, &own, MARK).await;
                }
            }
            if self.habit == Habit::Newcomer && self.cursor.is_some() && !self.marked {
                self.add_topic().await;
            }
            if self.habit == Habit::Absent {
                let mut tide = self.world.tide.subscribe();
                tide.wait_for(|tide| *tide == Tide::Steady).await.unwrap();
            }
            if self.visit().await == Stay::Complete {
                return;
            }
            if self.dice.once_in(2) {
                self.replica = self.dice.below(REPLICAS);
            }
            sleep(self.dice.up_to(millis(150))).await;
        }
    }

    /// A topic that no replica follows joins those that flow; an event waits in it.
    async fn add_topic(&mut self) {
        let number = self.own.len();
        let own = Name::from(format!("own/{}/{number}", self.number));
        self.own.push(own.clone());
        publish_one(&self.world, &mut self.dice, &own, "before").await;
        self.topics.push(own);
    }

    fn tell(&self, told: Told) {
        let at = now_ms();
        self.progress.record.lock().push(Line { at, told });
    }

    fn request(&mut self) -> (Request, Asked) {
        let mut target = format!("/events?topic={}", self.topics.join(","));
        let mut header = None;
        let asked = match self.cursor {
            Some(cursor) => {
                if self.dice.once_in(2) {
                    header = Some(cursor.to_string());
                } else {
                    target = format!("{target}&lastEventId={cursor}");
                }
                Asked::After(cursor)
            }
            None if self.earliest => {
                target += "&lastEventId=earliest";
                Asked::Earliest
            }
            None => Asked::Now,
        };
        let mut request = Request::get(&target);
        if let Some(header) = header {
            request = request.header("Last-Event-ID", &header);
        }
        if self.dice.once_in(2) {
            request = request.header("Accept", "text/event-stream");
        }
        if self.dice.once_in(6) {
            // Such a request leaves HTTP by the other of the two ways there are.
            request = request
                .header("Connection", "Upgrade")
                .header("Upgrade", "other");
        }
        (request, asked)
    }

    /// One connection: from the request to its end.
    async fn visit(&mut self) -> Stay {
        let (request, asked) = self.request();
        let address = self.world.address(self.replica);
        let room = (self.habit == Habit::Slow).then_some(4_096);
        self.sent = now_ms();
        let asking = Stream::ask(address, &request, room);
        let asking = if self.world.is_storming() && self.dice.once_in(10) {
            // Gone before it was answered.
            let patience = self.dice.up_to(millis(30));
            timeout(patience, asking).await.ok()
        } else {
            Some(asking.await)
        };
        let mut stream = match asking {
            Some(Ok(Asking::Open(stream))) => stream,
            Some(Ok(Asking::Refused)) => {
                Figures::count(&self.world.figures.refusals);
                return Stay::Ended;
            }
            Some(Err(_)) | None => return Stay::Ended,
        };
        let cut = self.habit == Habit::Newcomer && !self.own.is_empty() && self.world.is_storming();
        if cut && self.dice.once_in(2) {
            self.world.cut_feed(self.replica).await;
        }
        let stay = self.read(&mut stream, asked, cut).await;
        let why = match stay {
            Stay::Ended => "ended or left",
            Stay::Complete => "complete",
        };
        self.tell(Told::Left(why));
        stay
    }

    async fn read(&mut self, stream: &mut Stream, asked: Asked, cut: bool) -> Stay {
        let mut phase = self.world.phase.subscribe();
        let mut tide = self.world.tide.subscribe();
        let habit = self.habit;
        let parts = async {
            let parted = tide.wait_for(|tide| *tide == Tide::Parted);
            if habit != Habit::Absent || parted.await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::pin!(parts);
        let mut parted = false;
        let leaves = match self.habit {
            Habit::Ordinary => Some(self.dice.up_to(millis(900))),
            Habit::Slow => Some(self.dice.up_to(millis(4_000))),
            Habit::Newcomer => Some(self.dice.up_to(millis(300))),
            Habit::Absent => Some(self.dice.up_to(millis(3_000))),
            Habit::Faithful | Habit::Quiet => None,
        };
        let mut leaves = leaves.map(|after| Instant::now() + after);
        let mut opened = false;
        loop {
            let storming = self.world.is_storming();
            if !storming && !self.marked && !self.own.is_empty() {
                // The last events of its own topics are to be published before it comes back.
                return Stay::Ended;
            }
            if *phase.borrow() == Phase::Over {
                return Stay::Complete;
            }
            let slowly = self.habit == Habit::Slow && storming;
            let frames = tokio::select! {
                biased;
                () = sleep_until(leaves.unwrap_or_else(Instant::now)), if storming && leaves.is_some() => {
                    return Stay::Ended;
                }
                changed = phase.changed() => {
                    changed.unwrap();
                    continue;
                }
                () = &mut parts, if !parted => {
                    // With some of what will be lost.
                    parted = true;
                    leaves = Some(Instant::now() + self.dice.up_to(millis(600)));
                    continue;
                }
                read = timeout(SILENCE, stream.read(if slowly { 500 } else { 16 * 1024 })) => {
                    let record = || self.progress.record.lock().last().cloned();
                    read.unwrap_or_else(|_| panic!("{SILENCE:?} of silence after {:?}", record()))
                }
            };
            let Some(frames) = frames else {
                return Stay::Ended;
            };
            let mut checkpoint = false;
            for frame in frames {
                checkpoint |= frame.event.as_deref() == Some("$cursor");
                self.hear(frame, asked);
                if !std::mem::replace(&mut opened, true) && cut {
                    Figures::count(&self.world.figures.newcomers);
                    self.world.cut_feed(self.replica).await;
                    let own = self.own.last().unwrap().clone();
                    publish_one(&self.world, &mut self.dice, &own, "after").await;
                }
            }
            if storming && checkpoint && self.habit == Habit::Quiet {
                Figures::count(&self.world.figures.from_checkpoints);
                return Stay::Ended;
            }
            if slowly {
                sleep(self.dice.up_to(millis(60))).await;
            }
        }
    }

    /// Writes a frame down, and moves the cursor as a browser does.
    fn hear(&mut self, frame: Message, asked: Asked) {
        let Message {
            id: at,
            event,
            topic,
            data,
            ..
        } = frame;
        let at = at.as_deref().map(id);
        assert!(
            at.is_none() || data.is_some(),
            "an id moves a cursor only with data"
        );
        let json = |data: &Option<String>| -> Value {
            serde_json::from_str(data.as_deref().unwrap()).unwrap()
        };
        let told = match event.as_deref() {
            Some("$open") => {
                let data = json(&data);
                let replay = match data["replay"].as_str().unwrap() {
                    "none" => Replay::None,
                    "complete" => Replay::Complete,
                    "gap" => Replay::Gap(gap(&data)),
                    other => panic!("{other} is no verdict"),
                };
                Told::Opened {
                    replica: self.replica,
                    sent: self.sent,
                    asked,
                    topics: self.topics.clone().into(),
                    replay,
                    id: at.unwrap(),
                }
            }
            Some("$gap") => {
                assert_eq!(at, None, "a gap moves no cursor");
                Told::Gap(gap(&json(&data)))
            }
            Some("$live") => Told::Live(at.unwrap()),
            Some("$cursor" | "$drain") => Told::Cursor(at.unwrap()),
            Some(control) if control.starts_with('$') => panic!("{control} is not expected"),
            None if data.is_none() => return,
            kind => {
                let topic = match topic {
                    Some(topic) => Name::from(topic),
                    None => self.topics[0].clone(),
                };
                let data = data.unwrap();
                if data.ends_with(MARK) {
                    self.ended.insert(topic.clone());
                    let complete = self.topics.iter().all(|it| self.ended.contains(it));
                    self.progress.complete.store(complete, Ordering::Relaxed);
                }
                Told::Event {
                    topic,
                    id: at.unwrap(),
                    kind: kind.unwrap_or("message").to_owned(),
                    data,
                }
            }
        };
        if at.is_some() {
            self.cursor = at;
        }
        self.tell(told);
    }
}

fn gap(data: &Value) -> Gap {
    let topics = data["topics"].as_array().unwrap().iter();
    Gap {
        reason: match data["reason"].as_str().unwrap() {
            "retention" => Reason::Retention,
            "reset" => Reason::Reset,
            "lost" => Reason::Lost,
            "unknown" => Reason::Unknown,
            other => panic!("{other} is no reason"),
        },
        topics: topics.map(|it| it.as_str().unwrap().into()).collect(),
        at_least: data.get("missed_at_least").and_then(Value::as_u64),
    }
}
