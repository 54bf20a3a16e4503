//! Publishers that repeat what was not answered, with its key, until it is; and what they were told.

use std::{io, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidegate::{event::EventId, store::faulty::Dice};
use tokio::time::{Instant, sleep, timeout};

use super::{
    judge::{Name, Publication},
    schedule::{BUSY, QUIET, REPLICAS, topic},
    wire::{Broken, ask},
    world::{Figures, World},
};
use crate::support::{self, RedisConnection, Request, id};

/// How long a publisher repeats itself at most.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// What became of one event in one attempt.
#[derive(Clone, Debug)]
enum Outcome {
    Stored(EventId, bool),
    /// Certainly not stored.
    Refused,
    Unknown,
}

/// How a request says its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    None,
    /// One for the whole request.
    Header,
    /// One for each event.
    Each,
}

/// Publishes as long as things break, in every way that there is.
pub(super) async fn publish(world: Arc<World>, mut dice: Dice) {
    let mut old: Vec<(Vec<Publication>, Keys)> = Vec::new();
    while world.pours() {
        let count = match dice.below(100) {
            0 => 120,
            1..60 => 1,
            60..80 => 2,
            _ => 8,
        };
        let keys = [Keys::None, Keys::Header, Keys::Each][dice.below(3)];
        let mut events: Vec<_> = (0..count).map(|_| draw(&world, &mut dice)).collect();
        for event in &mut events {
            event.keyed = keys != Keys::None;
        }
        deliver(&world, &mut dice, &mut events, keys).await;
        if keys == Keys::None {
            world.publications.lock().append(&mut events);
        } else if dice.once_in(4) {
            old.push((events, keys));
        } else {
            world.publications.lock().append(&mut events);
        }
        // Long after it was answered, somebody sends it once more.
        if old.len() > 10 {
            let (mut events, keys) = old.swap_remove(dice.below(old.len()));
            Figures::count(&world.figures.repeated);
            deliver(&world, &mut dice, &mut events, keys).await;
            world.publications.lock().append(&mut events);
        }
        sleep(dice.up_to(Duration::from_millis(40))).await;
    }
    for (mut events, _) in old {
        world.publications.lock().append(&mut events);
    }
}

fn draw(world: &World, dice: &mut Dice) -> Publication {
    let topic = match dice.below(10) {
        0..6 => topic(dice.below(BUSY)),
        // Some are quieter than others.
        _ => {
            let among = 1 + dice.below(QUIET);
            topic(BUSY + dice.below(among))
        }
    };
    let serial = world.serial();
    let data = match dice.below(8) {
        0 => format!("{serial}\nof two lines"),
        1 => format!("{serial} {}", "x".repeat(dice.below(3_000))),
        _ => serial.to_string(),
    };
    let kind = if dice.once_in(6) {
        "created"
    } else {
        "message"
    };
    Publication {
        topic: Name::from(topic),
        kind: kind.to_owned(),
        data,
        keyed: true,
        unknown: false,
        answers: Vec::new(),
    }
}

/// Publishes one event with a key, and returns when it is stored.
pub(super) async fn publish_one(
    world: &World,
    dice: &mut Dice,
    topic: &Name,
    data: &str,
) -> EventId {
    let mut events = vec![Publication {
        topic: topic.clone(),
        kind: "message".to_owned(),
        data: format!("{} {data}", world.serial()),
        keyed: true,
        unknown: false,
        answers: Vec::new(),
    }];
    deliver(world, dice, &mut events, Keys::Each).await;
    let (id, _) = *events[0].answers.last().unwrap();
    world.publications.lock().append(&mut events);
    id
}

/// Sends events until each of them is answered, or, without a key, until it is unknown what became of it.
async fn deliver(world: &World, dice: &mut Dice, events: &mut [Publication], keys: Keys) {
    let begun = Instant::now();
    let mut replica = dice.below(REPLICAS);
    let before: Vec<usize> = events.iter().map(|event| event.answers.len()).collect();
    loop {
        // The header numbers the events, so all of them are sent again; the others only as far as they have to.
        let open = |(at, event): (usize, &Publication)| {
            let answered = event.answers.len() > before[at];
            let given_up = keys == Keys::None && event.unknown;
            (!answered && !given_up).then_some(at)
        };
        let mut due: Vec<usize> = events.iter().enumerate().filter_map(open).collect();
        if due.is_empty() {
            return;
        }
        if keys == Keys::Header {
            due = (0..events.len()).collect();
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "nobody took {events:?} for {PATIENCE:?}"
        );
        let sent: Vec<&Publication> = due.iter().map(|&at| &events[at]).collect();
        let outcomes = attempt(world, replica, &sent, keys).await;
        let mut failed = false;
        for (at, outcome) in due.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Stored(id, duplicate) => events[at].answers.push((id, duplicate)),
                Outcome::Refused => {
                    Figures::count(&world.figures.refusals);
                    failed = true;
                }
                Outcome::Unknown => {
                    Figures::count(&world.figures.unknown);
                    events[at].unknown = true;
                    failed = true;
                }
            }
        }
        if failed {
            sleep(Duration::from_millis(10) + dice.up_to(Duration::from_millis(60))).await;
            replica = dice.below(REPLICAS);
        }
    }
}

/// What the keys of an event are made of.
fn key(event: &Publication) -> &str {
    event.data.split([' ', '\n']).next().unwrap()
}

async fn attempt(
    world: &World,
    replica: usize,
    events: &[&Publication],
    keys: Keys,
) -> Vec<Outcome> {
    let item = |event: &&Publication| {
        let mut item = json!({ "topic": *event.topic, "event": event.kind, "data": event.data });
        if keys == Keys::Each {
            item["key"] = format!("key of {}", key(event)).into();
        }
        item
    };
    let mut items: Vec<Value> = events.iter().map(item).collect();
    let single = items.len() == 1 && keys != Keys::Header;
    let body = if single {
        items.remove(0)
    } else {
        Value::Array(items)
    };
    let mut request = Request::publish(body.to_string());
    if keys == Keys::Header {
        request = request.header("Idempotency-Key", &format!("keys of {}", key(events[0])));
    }
    let all = |outcome: &Outcome| vec![outcome.clone(); events.len()];
    match ask(world.address(replica), &request).await {
        Err(Broken::Unsent) => all(&Outcome::Refused),
        Err(Broken::Cut) => all(&Outcome::Unknown),
        Ok((200 | 207, body)) if !single => {
            let results = body["results"].as_array().unwrap();
            assert_eq!(results.len(), events.len(), "{body}");
            results.iter().map(outcome).collect()
        }
        Ok((200, body)) => vec![outcome(&body)],
        Ok((_, body)) => all(&outcome(&json!({ "error": body }))),
    }
}

fn outcome(result: &Value) -> Outcome {
    if let Some(text) = result["id"].as_str() {
        let duplicate = result["duplicate"].as_bool().unwrap_or(false);
        return Outcome::Stored(id(text), duplicate);
    }
    match result["error"]["code"].as_str() {
        Some("store_unavailable") => Outcome::Refused,
        Some("store_timeout") => Outcome::Unknown,
        _ => panic!("a publisher is answered {result}"),
    }
}

/// How Redis says that it has done nothing, and that one may ask again: it reads its file, became a replica, waits for one, or
/// is a node of a cluster that does not own the slot, or not all of it, or not yet.
pub(super) const NOT_NOW: [&str; 8] = [
    "LOADING",
    "READONLY",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MOVED",
    "ASK",
    "TRYAGAIN",
];

/// A connection to the server that has the log, as far as is known.
pub(super) async fn connect(world: &World) -> io::Result<RedisConnection> {
    let mut connection = RedisConnection::open(world.master()).await?;
    if !world.password.is_empty() {
        connection.try_ask(&["AUTH", &world.password]).await?;
    }
    Ok(connection)
}

/// A producer in another language: it calls the function of Redis itself.
pub(super) async fn publish_directly(world: Arc<World>, mut dice: Dice) {
    let mut connection = None;
    while world.pours() {
        let mut event = draw(&world, &mut dice);
        let base = "tidegate:{0}:";
        let mut words = vec![
            "FCALL".to_owned(),
            "tidegate_publish".to_owned(),
            "6".to_owned(),
        ];
        words.extend(["meta", "last", "heads"].map(|key| format!("{base}{key}")));
        words.extend(["topic", "ch"].map(|key| format!("{base}{key}:{}", event.topic)));
        words.push(format!("{base}idem:direct-{}", key(&event)));
        words.extend([event.kind.clone(), event.data.clone()]);
        let begun = Instant::now();
        let mut rounds = 1 + dice.below(2);
        while rounds > 0 {
            assert!(begun.elapsed() < PATIENCE, "Redis did not take {event:?}");
            let ask = async {
                if connection.is_none() {
                    connection = Some(connect(&world).await?);
                }
                connection.as_mut().unwrap().try_ask(&words).await
            };
            match timeout(Duration::from_secs(3), ask).await {
                Ok(Ok(support::Value::Array(answer))) => {
                    let duplicate = answer[1].text() == "duplicate";
                    event.answers.push((id(&answer[0].text()), duplicate));
                    rounds -= 1;
                }
                Ok(Ok(other)) => {
                    let text = other.text();
                    let known = NOT_NOW.iter().any(|code| text.starts_with(code));
                    assert!(known, "{other}");
                    connection = None;
                    sleep(Duration::from_millis(10)).await;
                }
                Ok(Err(_)) | Err(_) => {
                    event.unknown = true;
                    connection = None;
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
        world.publications.lock().push(event);
        sleep(dice.up_to(Duration::from_millis(120))).await;
    }
}

/// How the data of the last event of a topic ends.
pub(super) const MARK: &str = "is the end";
