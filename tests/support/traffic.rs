//! Somebody who publishes whatever happens, and somebody who writes down what a stream told meanwhile.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tidegate::event::EventId;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Connection, PATIENCE, RedisServer, Request, Subscriber, id};

/// Publishes one event after another to one topic until it is told to stop. Each has a key, and is published again until it is
/// acknowledged.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Acknowledged>,
}

/// What was acknowledged, in order.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    pub(crate) events: Vec<(EventId, String)>,
    /// How often each refusal was answered.
    pub(crate) refusals: BTreeMap<String, usize>,
    /// The longest time between two events that were acknowledged.
    pub(crate) silence: Duration,
}

/// What a stream told, in order.
#[derive(Debug)]
pub(crate) struct Heard {
    told: Vec<Told>,
    /// The longest time between two events.
    pub(crate) silence: Duration,
}

impl Traffic {
    /// Publishes at each of these gateways in turn.
    pub(crate) fn begin(gateways: impl IntoIterator<Item = SocketAddr>, topic: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let gateways: Vec<_> = gateways.into_iter().collect();
        let task = tokio::spawn(publish(gateways, topic.to_owned(), stop.clone()));
        Self { stop, task }
    }

    /// Ends when the event that is under way is acknowledged.
    pub(crate) async fn end(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        let ended =
            super::within_time(4 * PATIENCE, "the last event to be acknowledged", self.task);
        ended.await.unwrap()
    }
}

async fn publish(gateways: Vec<SocketAddr>, topic: String, stop: Arc<AtomicBool>) -> Acknowledged {
    let mut done = Acknowledged::default();
    let mut last = Instant::now();
    // Two of them in one test are not to share keys.
    let name = rand::random::<u32>();
    for number in 0.. {
        let data = format!("{name} {number}");
        let body = json!({"topic": topic, "data": data, "key": data}).to_string();
        for round in number.. {
            let gateway = gateways[round % gateways.len()];
            let mut connection = Connection::open(gateway).await;
            // Longer than `publish.timeout`, after which it has to answer.
            connection
                .send(Request::publish(&body).bytes(gateway))
                .await;
            let answer = connection.patient_response().await;
            if answer.status() == 200 {
                let stored = id(answer.json()["id"].as_str().unwrap());
                done.events.push((stored, data));
                done.silence = done.silence.max(last.elapsed());
                last = Instant::now();
                break;
            }
            let code = answer.problem()["code"].as_str().unwrap().to_owned();
            let known = ["store_unavailable", "store_timeout"].contains(&code.as_str());
            assert!(known, "{answer:?}");
            *done.refusals.entry(code).or_default() += 1;
            sleep(Duration::from_millis(10)).await;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sleep(Duration::from_millis(2)).await;
    }
    done
}

#[derive(Debug)]
enum Told {
    Event((EventId, String)),
    Gap(Value),
}

/// Reads a stream in the background. It has to show signs of life more often than every [`PATIENCE`].
pub(crate) struct Listener(JoinHandle<Heard>);

impl Listener {
    /// Reads until an event with this data comes.
    pub(crate) fn until(mut reader: Subscriber, data: &str) -> Self {
        let until = data.to_owned();
        Self(tokio::spawn(async move {
            let (mut told, mut silence) = (Vec::new(), Duration::ZERO);
            let mut last = Instant::now();
            loop {
                let frame = reader.telling_frame().await;
                let data = frame.data.unwrap_or_default();
                match frame.event.as_deref() {
                    Some("$live") => {}
                    Some("$gap") => told.push(Told::Gap(serde_json::from_str(&data).unwrap())),
                    Some(kind) if kind.starts_with('$') => panic!("{kind} {data}"),
                    _ if data == until => return Heard { told, silence },
                    _ => {
                        told.push(Told::Event((id(&frame.id.unwrap()), data)));
                        silence = silence.max(last.elapsed());
                        last = Instant::now();
                    }
                }
            }
        }))
    }

    pub(crate) async fn heard(self) -> Heard {
        super::within_time(4 * PATIENCE, "a stream to come to its end", self.0)
            .await
            .unwrap()
    }
}

/// A range of ids that a failover lost: after the first, up to and with the second.
pub(crate) type Lost = (EventId, EventId);

/// The ids of a topic's events, as this server has them.
pub(crate) async fn stored(server: &RedisServer, topic: &str) -> Vec<EventId> {
    let key = format!("tidegate:{{0}}:topic:{topic}");
    let entries = server.command(&["XRANGE", &key, "-", "+"]).await;
    let ids = entries.items().iter().map(|entry| entry.items()[0].text());
    ids.map(|text| id(&text)).collect()
}

/// The lost ranges of a topic as they are recorded: `1-0..2-0 5-0..6-1`.
pub(crate) fn ranges(recorded: &str) -> Vec<Lost> {
    let ranges = recorded.split_whitespace();
    let ends = ranges.map(|range| range.split_once("..").unwrap());
    ends.map(|(after, through)| (id(after), id(through)))
        .collect()
}

fn is_lost(event: EventId, lost: &[Lost]) -> bool {
    lost.iter()
        .any(|(after, through)| *after < event && event <= *through)
}

impl Acknowledged {
    /// How many of them are in a lost range.
    pub(crate) fn lost(&self, lost: &[Lost]) -> usize {
        let gone = |event: &&(EventId, String)| is_lost(event.0, lost);
        self.events.iter().filter(gone).count()
    }

    /// Forgets the event that its server acknowledged in the moment in which it was killed, before it said a word of it to any
    /// replica: the log of the next one lacks it, and nobody can witness that. It is one at most, since each waits for the one
    /// before it.
    pub(crate) fn without_unheard(mut self, log: &[EventId], lost: &[Lost]) -> Self {
        let all = self.events.len();
        let is_known = |id: EventId| log.contains(&id) || is_lost(id, lost);
        self.events.retain(|(id, _)| is_known(*id));
        let unheard = all - self.events.len();
        assert!(unheard <= 1, "{unheard} are neither there nor lost");
        self
    }
}

/// A stream told all that was acknowledged and not lost, once, and in order; and that something was lost where it was.
pub(crate) fn is_complete(heard: &Heard, acknowledged: &Acknowledged, lost: &[Lost]) {
    let kept = acknowledged.events.iter();
    let kept: Vec<_> = kept.filter(|(id, _)| !is_lost(*id, lost)).collect();
    let mut seen: Vec<&(EventId, String)> = Vec::new();
    let (mut gone, mut gaps) = (0, 0);
    let mut newest = EventId::ZERO;
    for item in &heard.told {
        match item {
            Told::Event(event) => {
                let (id, data) = event;
                assert!(newest < *id, "{data} has {id}, after {newest}");
                newest = *id;
                if is_lost(*id, lost) {
                    gone += 1;
                } else {
                    seen.push(event);
                }
            }
            Told::Gap(gap) => {
                assert_eq!(gap["reason"], "lost", "{gap}");
                gaps += 1;
            }
        }
    }
    let at = seen.iter().zip(&kept).position(|(one, other)| one != other);
    let at = at.unwrap_or(seen.len().min(kept.len()));
    let near = |list: &[&(EventId, String)]| {
        format!("{:?}", list.iter().skip(at).take(3).collect::<Vec<_>>())
    };
    assert!(
        seen == kept,
        "from number {at} on: told {}, acknowledged {}; lost {lost:?}",
        near(&seen),
        near(&kept)
    );
    assert!(
        gone == 0 || gaps > 0,
        "{gone} were taken back without a word"
    );
    assert!(gaps <= lost.len(), "{gaps} gaps, lost {lost:?}");
}
