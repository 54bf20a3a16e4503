//! Topics that are added and taken away in mid-stream, while the store fails: each is told exactly once, in order, from where
//! it was followed, and a cursor that was told with `live` is complete for all topics that it stands for.
//!
//! An added group of topics is a subscriber of its own until it has caught up; then both read to the same place, and the
//! stream takes it over. A client knows the cursor of its stream and, of each group that still catches up, the last id; with
//! these it comes back.

use std::{
    collections::HashMap,
    future::poll_fn,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    CALM, Judge, Phase, Reader, Record, Seed, Storm, Told, Truth, World, hub_config, keep, millis,
    pool, publish, seeds,
};
use crate::{
    event::{EventId, Frame, Topic},
    hub::{Hub, HubConfig, Opening, Read, SubscribeError, Subscriber},
    log::{Budget, Cursor, Start},
    store::faulty::{Dice, Faults},
};

/// A group of topics that were added together; 0 is the stream itself.
type Group = usize;

const STREAM: Group = 0;

/// What a client is told, or says.
#[derive(Clone, Debug)]
enum Heard {
    /// These topics begin. Whether it goes on with what it had of them.
    Opened(Group, Vec<Topic>, Opening, bool),
    /// In the group in which this topic stands at that moment.
    Told(Group, Told),
    /// The group has become a part of the stream, whose cursor is here.
    Joined(Group, EventId),
    /// These are no longer followed; up to here the client has everything of them.
    Unfollowed(Vec<Topic>, EventId),
    Left,
}

type Subscribing =
    Pin<Box<dyn Future<Output = Result<(Subscriber, Opening), SubscribeError>> + Send>>;

enum State {
    Asks(Subscribing),
    CatchesUp(Reader),
    /// It has caught up, and waits for the stream to be at the same place.
    Meets(Reader),
}

/// Topics that have been asked for and are not yet a part of the stream.
struct Added {
    group: Group,
    topics: Vec<Topic>,
    /// Where it begins, and whether the client goes on there.
    start: Start,
    goes_on: bool,
    /// The last id that the client was told of it.
    last: Option<EventId>,
    state: State,
}

/// What one look at a connection found.
enum Step {
    Stream(Read, Vec<Arc<Frame>>),
    Added(usize, Read, Vec<Arc<Frame>>),
    Asked(usize, Result<(Subscriber, Opening), SubscribeError>),
    /// All that wait to be taken over stand where the stream does.
    Met,
}

/// A connection on which topics come and go.
struct Connection {
    stream: Reader,
    added: Vec<Added>,
}

impl Connection {
    /// Where all meet that have caught up; none while nobody waits for it.
    fn meeting(&self) -> Option<EventId> {
        let cursors = self.added.iter().filter_map(|added| match &added.state {
            State::Meets(reader) => Some(reader.subscriber.cursor()),
            _ => None,
        });
        cursors
            .max()
            .map(|id| id.max(self.stream.subscriber.cursor()))
    }

    fn poll(&mut self, cx: &mut Context<'_>, budget: Budget) -> Poll<Step> {
        let meeting = self.meeting();
        let mut all_there = meeting.is_some();
        for (at, added) in self.added.iter_mut().enumerate() {
            let mut frames = Vec::new();
            let read = match &mut added.state {
                State::Asks(asked) => match asked.as_mut().poll(cx) {
                    Poll::Ready(answer) => return Poll::Ready(Step::Asked(at, answer)),
                    Poll::Pending => continue,
                },
                State::CatchesUp(reader) => look(reader, EventId::MAX, cx, &mut frames, budget),
                State::Meets(reader) => {
                    let ceiling = meeting.unwrap_or(EventId::MAX);
                    match look(reader, ceiling, cx, &mut frames, budget) {
                        Poll::Ready(Read::Reached) => continue,
                        Poll::Pending => {
                            all_there = false;
                            Poll::Pending
                        }
                        read @ Poll::Ready(_) => read,
                    }
                }
            };
            if let Poll::Ready(read) = read {
                return Poll::Ready(Step::Added(at, read, frames));
            }
        }
        let mut frames = Vec::new();
        let ceiling = meeting.unwrap_or(EventId::MAX);
        match look(&mut self.stream, ceiling, cx, &mut frames, budget) {
            Poll::Ready(Read::Reached) if all_there => Poll::Ready(Step::Met),
            // Others are about to be added.
            Poll::Ready(Read::Over) if !self.added.is_empty() => Poll::Pending,
            Poll::Ready(Read::Reached) | Poll::Pending => Poll::Pending,
            Poll::Ready(read) => Poll::Ready(Step::Stream(read, frames)),
        }
    }
}

fn look(
    reader: &mut Reader,
    ceiling: EventId,
    cx: &Context<'_>,
    frames: &mut Vec<Arc<Frame>>,
    budget: Budget,
) -> Poll<Read> {
    if !mem::replace(&mut reader.registered, true) {
        reader.subscriber.wake_here(cx);
    }
    reader.subscriber.poll_read_to(ceiling, cx, frames, budget)
}

/// A client whose topics come and go.
struct Client {
    hub: Hub,
    dice: Dice,
    budget: Budget,
    /// The cursor of the stream, as the client knows it.
    cursor: Option<EventId>,
    /// The topics that it stands for.
    joined: Vec<Topic>,
    /// Up to where the client has everything of a topic that it gave up.
    given_up: HashMap<Topic, EventId>,
    groups: Group,
    heard: Vec<(Instant, Heard)>,
    joins: Arc<AtomicUsize>,
}

impl Client {
    fn hears(&mut self, heard: Heard) {
        self.heard.push((Instant::now(), heard));
    }

    /// Asks for topics in mid-stream.
    fn add(&mut self, topics: Vec<Topic>, start: Start, goes_on: bool) -> Added {
        self.groups += 1;
        let (hub, asked) = (self.hub.clone(), topics.clone());
        let pause = self.dice.up_to(millis(20));
        Added {
            group: self.groups,
            topics,
            start,
            goes_on,
            last: None,
            state: State::Asks(Box::pin(async move {
                time::sleep(pause).await;
                hub.subscribe(&asked, start).await
            })),
        }
    }

    /// Adds a few topics that are not followed, from a place of its choice.
    fn add_some(&mut self, added: &mut Vec<Added>) {
        let followed = |topic: &Topic| {
            self.joined.contains(topic) || added.iter().any(|added| added.topics.contains(topic))
        };
        let mut others: Vec<Topic> = pool();
        others.retain(|topic| !followed(topic));
        if others.is_empty() || self.joined.len() > 20 {
            return;
        }
        let back = others
            .iter()
            .find_map(|topic| Some((topic.clone(), *self.given_up.get(topic)?)));
        let added_now = match back {
            Some((topic, last)) if self.dice.once_in(2) => {
                self.add(vec![topic], Start::after(Cursor::from(last)), true)
            }
            _ => {
                let mut topics = Vec::new();
                for _ in 0..=self.dice.below(3) {
                    if !others.is_empty() {
                        topics.push(others.swap_remove(self.dice.below(others.len())));
                    }
                }
                let start = if self.dice.once_in(2) {
                    Start::Earliest
                } else {
                    Start::Now
                };
                self.add(topics, start, false)
            }
        };
        added.push(added_now);
    }

    /// Gives up a topic or two, of the stream or of a group that still catches up.
    fn drop_some(&mut self, connection: &mut Connection) {
        let at = self.dice.below(connection.added.len() + 2);
        if let Some(added) = connection.added.get_mut(at) {
            let (State::CatchesUp(reader) | State::Meets(reader)) = &mut added.state else {
                return;
            };
            let gone = added
                .topics
                .swap_remove(self.dice.below(added.topics.len()));
            reader.subscriber.leave(std::slice::from_ref(&gone));
            let last = added.last.expect("it has begun");
            if added.topics.is_empty() {
                connection.added.swap_remove(at);
            }
            self.given_up.insert(gone.clone(), last);
            self.hears(Heard::Unfollowed(vec![gone], last));
            return;
        }
        let mut gone = Vec::new();
        for _ in 0..=self.dice.below(2) {
            if !self.joined.is_empty() {
                gone.push(self.joined.swap_remove(self.dice.below(self.joined.len())));
            }
        }
        connection.stream.subscriber.leave(&gone);
        let cursor = self.cursor.expect("it has begun");
        for topic in &gone {
            self.given_up.insert(topic.clone(), cursor);
        }
        self.hears(Heard::Unfollowed(gone, cursor));
    }

    /// Writes what was read, or a part of it. The last id that was written.
    fn write(
        &mut self,
        group: Group,
        reader: &mut Reader,
        frames: &[Arc<Frame>],
    ) -> Option<EventId> {
        let written = if self.dice.once_in(3) {
            self.dice.below(frames.len() + 1)
        } else {
            frames.len()
        };
        for frame in &frames[..written] {
            let event = frame.event();
            reader.subscriber.advance(event.id);
            let told = Told::Event(event.topic.clone(), event.id, event.data.clone());
            self.hears(Heard::Told(group, told));
        }
        frames[..written].last().map(|frame| frame.id())
    }

    /// Takes note of what was said. Whether the stream is over.
    fn takes(&mut self, connection: &mut Connection, step: Step) -> bool {
        match step {
            Step::Stream(read, frames) => {
                let told = match read {
                    Read::Events => {
                        let last = self.write(STREAM, &mut connection.stream, &frames);
                        self.cursor = last.or(self.cursor);
                        return false;
                    }
                    Read::Gap(gap) => Told::Gap(gap),
                    Read::Live => {
                        let id = connection.stream.subscriber.cursor();
                        self.cursor = Some(id);
                        Told::Live(id)
                    }
                    Read::End { topic, id, moves } => {
                        self.cursor = if moves { Some(id) } else { self.cursor };
                        Told::End(topic, id, moves)
                    }
                    Read::Over => Told::Over,
                    Read::Reached => panic!("nobody waits for it"),
                };
                let over = matches!(told, Told::Over);
                self.hears(Heard::Told(STREAM, told));
                over
            }
            Step::Asked(at, answer) => {
                let added = &mut connection.added[at];
                match answer {
                    Ok((subscriber, opening)) => {
                        added.last = Some(opening.cursor);
                        let reader = Reader::new(subscriber);
                        added.state = if reader.subscriber.is_live() {
                            State::Meets(reader)
                        } else {
                            State::CatchesUp(reader)
                        };
                        let (group, topics) = (added.group, added.topics.clone());
                        let goes_on = added.goes_on;
                        self.hears(Heard::Opened(group, topics, opening, goes_on));
                    }
                    // The store is away: an error is told, and the client asks again.
                    Err(_) => {
                        let added = connection.added.swap_remove(at);
                        let again = self.add(added.topics, added.start, added.goes_on);
                        connection.added.push(again);
                    }
                }
                false
            }
            Step::Added(at, read, frames) => {
                let added = &mut connection.added[at];
                let group = added.group;
                let (State::CatchesUp(reader) | State::Meets(reader)) = &mut added.state else {
                    panic!("it has not begun");
                };
                let told = match read {
                    Read::Events => {
                        let last = self.write(group, reader, &frames);
                        added.last = last.or(added.last);
                        return false;
                    }
                    Read::Gap(gap) => Told::Gap(gap),
                    Read::End { topic, id, moves } => {
                        added.last = if moves { Some(id) } else { added.last };
                        Told::End(topic, id, moves)
                    }
                    // That is told with the cursor of the stream.
                    Read::Live | Read::Over => {
                        let asks = State::Asks(Box::pin(std::future::pending()));
                        // One that had caught up catches up once more when the log is born again before they meet.
                        if let State::CatchesUp(reader) | State::Meets(reader) =
                            mem::replace(&mut added.state, asks)
                        {
                            added.state = State::Meets(reader);
                        }
                        return false;
                    }
                    Read::Reached => panic!("it is not asked for"),
                };
                self.hears(Heard::Told(group, told));
                false
            }
            Step::Met => {
                let mut still = Vec::new();
                for added in mem::take(&mut connection.added) {
                    let Added { group, topics, .. } = added;
                    let State::Meets(reader) = added.state else {
                        still.push(Added { topics, ..added });
                        continue;
                    };
                    match connection.stream.subscriber.absorb(reader.subscriber) {
                        Ok(()) => {
                            self.joins.fetch_add(1, Ordering::Relaxed);
                            let cursor = connection.stream.subscriber.cursor();
                            self.cursor = Some(cursor);
                            self.joined.extend(topics);
                            self.hears(Heard::Joined(group, cursor));
                        }
                        // One of them has not yet seen that the log was born again.
                        Err(subscriber) => still.push(Added {
                            topics,
                            state: State::Meets(Reader {
                                registered: true,
                                ..Reader::new(*subscriber)
                            }),
                            ..added
                        }),
                    }
                }
                connection.added = still;
                false
            }
        }
    }

    /// Connects, again and again, until the storm is over.
    async fn follow(mut self, mut phase: watch::Receiver<Phase>) -> Vec<(Instant, Heard)> {
        let stays = self.dice.once_in(4);
        let ticks = self.dice.once_in(2);
        let restless = [millis(15), millis(60), millis(200)][self.dice.below(3)];
        let slow = [Duration::ZERO, Duration::ZERO, millis(2), millis(30)][self.dice.below(4)];
        // What was catching up when the connection ended, and how far it had come.
        let mut interrupted: Vec<(Vec<Topic>, Start, bool)> = Vec::new();
        let mut pool = pool();
        for _ in 0..=self.dice.below(4) {
            let at = self.dice.below(pool.len());
            self.joined.push(pool.swap_remove(at));
        }
        time::sleep(self.dice.up_to(millis(200))).await;
        loop {
            let start = self
                .cursor
                .map_or(Start::Now, |id| Start::after(Cursor::from(id)));
            let Ok((subscriber, opening)) = self.hub.subscribe(&self.joined, start).await else {
                assert_ne!(*phase.borrow(), Phase::Over, "no way back in");
                time::sleep(self.dice.up_to(millis(30))).await;
                continue;
            };
            let goes_on = self.cursor.is_some();
            self.cursor = Some(opening.cursor);
            self.hears(Heard::Opened(STREAM, self.joined.clone(), opening, goes_on));
            let mut connection = Connection {
                stream: Reader::new(subscriber),
                added: Vec::new(),
            };
            for (topics, start, goes_on) in interrupted.drain(..) {
                let added = self.add(topics, start, goes_on);
                connection.added.push(added);
            }
            let mut leaves = (!stays).then(|| Instant::now() + self.dice.up_to(millis(500)));
            let mut acts = Instant::now() + self.dice.up_to(restless);
            loop {
                let storm = *phase.borrow() == Phase::Storm;
                if !storm {
                    leaves = None;
                }
                let now = Instant::now();
                if leaves.is_some_and(|leaves| leaves <= now) {
                    break;
                }
                if storm && acts <= now {
                    acts = now + millis(1) + self.dice.up_to(restless);
                    if self.dice.below(5) < 3 {
                        self.add_some(&mut connection.added);
                    } else {
                        self.drop_some(&mut connection);
                    }
                }
                let tick = millis(20) + self.dice.up_to(millis(60));
                let budget = self.budget;
                let step = tokio::select! {
                    biased;
                    changed = phase.changed() => {
                        if changed.is_err() || *phase.borrow() == Phase::Over {
                            assert!(connection.added.is_empty(), "all have caught up");
                            return self.heard;
                        }
                        continue;
                    }
                    step = poll_fn(|cx| connection.poll(cx, budget)) => step,
                    () = time::sleep_until(acts), if storm => continue,
                    () = time::sleep_until(leaves.unwrap_or(now)), if leaves.is_some() => break,
                    () = time::sleep(tick), if ticks => {
                        if let Some(id) = connection.stream.subscriber.checkpoint() {
                            self.cursor = Some(id);
                            self.hears(Heard::Told(STREAM, Told::Checkpoint(id)));
                        }
                        continue;
                    }
                };
                let joins = matches!(step, Step::Met);
                if self.takes(&mut connection, step) {
                    return self.heard;
                }
                if storm && !slow.is_zero() {
                    time::sleep(self.dice.up_to(slow)).await;
                }
                // The cursor has to be good at once.
                if joins && leaves.is_some() && self.dice.once_in(3) {
                    break;
                }
            }
            self.hears(Heard::Left);
            for added in connection.added {
                let again = added.last.map_or((added.start, added.goes_on), |last| {
                    (Start::after(Cursor::from(last)), true)
                });
                interrupted.push((added.topics, again.0, again.1));
            }
            drop(connection.stream);
            time::sleep(self.dice.up_to(millis(400))).await;
        }
    }
}

/// What a client was told of one topic, from where it followed it until it gave it up.
#[derive(Default)]
struct Span {
    record: Record,
    /// Up to where it must have everything.
    until: Option<EventId>,
}

/// Each stretch of time in which `topic` was followed; whoever goes on with what it has adds to the last one.
fn spans(topic: &Topic, heard: &[(Instant, Heard)]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    // In which group the topic stands.
    let mut of: Option<Group> = None;
    for (at, heard) in heard {
        let told = match heard {
            Heard::Opened(group, topics, opening, goes_on) if topics.contains(topic) => {
                of = Some(*group);
                if !goes_on || spans.is_empty() {
                    spans.push(Span::default());
                }
                if let Some(span) = spans.last_mut() {
                    span.until = None;
                }
                Told::Opened(opening.clone())
            }
            Heard::Told(group, told) if of == Some(*group) => told.clone(),
            Heard::Joined(group, id) if of == Some(*group) => {
                of = Some(STREAM);
                Told::Live(*id)
            }
            // The cursor of the stream, which this one is a part of.
            Heard::Joined(_, id) if of == Some(STREAM) => Told::Live(*id),
            Heard::Unfollowed(topics, until) if topics.contains(topic) => {
                of = None;
                if let Some(span) = spans.last_mut() {
                    span.until = Some(*until);
                }
                Told::Left
            }
            Heard::Left if of.is_some() => Told::Left,
            _ => continue,
        };
        if let Some(span) = spans.last_mut() {
            span.record.push((*at, told));
        }
    }
    spans
}

/// The cursor of the stream never goes back, and its events are above it.
fn judge_order(client: usize, heard: &[(Instant, Heard)]) {
    let mut cursor = EventId::ZERO;
    for (_, heard) in heard {
        let (id, event) = match heard {
            Heard::Opened(STREAM, _, opening, _) => (opening.cursor, false),
            Heard::Told(STREAM, Told::Event(_, id, _)) => (*id, true),
            Heard::Told(STREAM, Told::Live(id) | Told::Checkpoint(id)) | Heard::Joined(_, id) => {
                (*id, false)
            }
            // Once everything has ended: a topic that was given up may have taken the cursor past it.
            Heard::Told(STREAM, Told::End(_, id, true)) => (cursor.max(*id), false),
            _ => continue,
        };
        assert!(
            id > cursor || (id == cursor && !event),
            "client {client} was at {cursor} and is told {heard:?}"
        );
        cursor = id;
    }
}

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
    let mut dice = Dice::new(seed ^ 0x701_4ED);
    let (phase, watch) = watch::channel(Phase::Storm);
    let until = Instant::now() + storm.time;
    let publishers: Vec<_> = (0..3)
        .map(|_| {
            let dice = Dice::new(dice.roll());
            tokio::spawn(publish(world.store.clone(), truth.clone(), dice, until))
        })
        .collect();
    let joins = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..storm.clients)
        .map(|_| {
            let client = Client {
                hub: world.hub.clone(),
                budget: Budget {
                    frames: [1, 3, 16, 64][dice.below(4)],
                    bytes: [200, 4_096, 1 << 16][dice.below(3)],
                },
                cursor: None,
                joined: Vec::new(),
                given_up: HashMap::new(),
                groups: STREAM,
                heard: Vec::new(),
                joins: joins.clone(),
                dice: Dice::new(dice.roll()),
            };
            tokio::spawn(client.follow(watch.clone()))
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
    assert!(!world.hub.stats().frozen, "everything has been repaired");
    let judge = Judge::new(storm, &truth, &world.store).await;
    for (client, heard) in clients.into_iter().enumerate() {
        let heard = heard.await.expect("a client");
        for topic in pool() {
            for span in spans(&topic, &heard) {
                let who = format!("client {client}, {topic}");
                judge.judge_until(&who, &topic, span.until, &span.record);
            }
        }
        judge_order(client, &heard);
    }
    let joins = joins.load(Ordering::Relaxed);
    assert!(joins > storm.clients, "only {joins} joins");
    // Everybody has left.
    time::sleep(Duration::from_secs(5)).await;
    let stats = world.hub.stats();
    assert_eq!((stats.topics, stats.tail_bytes), (0, 0));
    world.hub.stop().await;
}

#[test]
fn in_fair_weather_topics_come_and_go_without_a_loss() {
    weather("fair weather", CALM);
}

#[test]
fn topics_come_and_go_while_the_feed_is_late_holed_and_cut() {
    let faults = Faults {
        delay: millis(12),
        slow: millis(9),
        holes: 40,
        cuts: 120,
        ..Faults::default()
    };
    weather("feed", Storm { faults, ..CALM });
}

/// Also where every tail is too short, so that whoever catches up reads pages.
#[test]
fn topics_come_and_go_while_the_store_does() {
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
fn what_retention_takes_of_topics_that_come_and_go_is_told() {
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
fn what_a_failover_lost_of_topics_that_come_and_go_is_told() {
    let faults = Faults {
        forks: 100,
        delay: millis(5),
        slow: millis(5),
        holes: 80,
        outages: 400,
        outage: millis(100),
        ..Faults::default()
    };
    weather("forks", Storm { faults, ..CALM });
}

#[test]
fn a_log_that_is_born_again_is_told_where_topics_come_and_go() {
    let faults = Faults {
        resets: 300,
        delay: millis(5),
        slow: millis(5),
        holes: 80,
        cuts: 200,
        outages: 400,
        outage: millis(100),
        ..Faults::default()
    };
    weather("resets", Storm { faults, ..CALM });
}
