//! Whatever a client does and whenever it does it: of every topic it gets every event once and in order, from where it
//! began to follow, for as long as it follows, over all its connections.
//!
//! Followers act by chance (from a seed) while events are published. What each of them was shown is written down as claims:
//! "this event comes next", "there is nothing up to this cursor". In the end they are held against the log.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use serde_json::{Value, json};
use tidegate::event::EventId;
use tokio::task::JoinSet;

use super::protocol::Random;
use crate::{
    redis::replica_of,
    support::{Connection, Gateway, Handshake, RedisServer, Request, WebSocket, event, id, sorted},
};

/// Followed from the beginning to the end, so that there is always a cursor to come back with.
const HOME: &str = "home";
const TOPICS: [&str; 6] = [HOME, "a", "b", "c", "d", "e"];
const FOLLOWERS: u64 = 8;
const ACTIONS: usize = 120;
const PUBLISHERS: u64 = 2;
const BATCHES: usize = 150;
const LAST: &str = "the last";

/// What a follower was shown, by topic.
#[derive(Debug)]
enum Claim {
    /// After this id that one comes.
    Next {
        after: EventId,
        id: EventId,
        data: String,
    },
    /// After this id nothing comes up to that one.
    Nothing { after: EventId, until: EventId },
}

/// The log of each topic, in order.
type Log = HashMap<String, Vec<(EventId, String)>>;

struct Follower {
    replicas: Vec<SocketAddr>,
    random: Random,
    socket: WebSocket,
    /// Topics that the cursor stands for, and up to where they are known.
    joined: BTreeMap<String, EventId>,
    /// Topics that are not live yet.
    catching_up: BTreeMap<String, EventId>,
    /// Topics that were left, and where.
    left: BTreeMap<String, EventId>,
    cursor: EventId,
    claims: Vec<(String, Claim)>,
    acknowledged: Vec<(String, EventId, String)>,
    ended: BTreeSet<String>,
    asked: u64,
    seed: u64,
}

impl Follower {
    async fn start(replicas: Vec<SocketAddr>, seed: u64) -> Self {
        let random = Random(seed);
        let query = format!("topic={HOME}");
        let socket = Handshake::new(replicas[0], &query).open().await;
        let cursor = socket.start();
        Self {
            replicas,
            random,
            socket,
            joined: BTreeMap::from([(HOME.to_owned(), cursor)]),
            catching_up: BTreeMap::new(),
            left: BTreeMap::new(),
            cursor,
            claims: Vec::new(),
            acknowledged: Vec::new(),
            ended: BTreeSet::new(),
            asked: 0,
            seed,
        }
    }

    fn follows(&self, topic: &str) -> bool {
        self.joined.contains_key(topic) || self.catching_up.contains_key(topic)
    }

    fn claim(&mut self, topic: &str, claim: Claim) {
        self.claims.push((topic.to_owned(), claim));
    }

    /// What the cursor says of a topic that has joined it.
    fn known_up_to_cursor(&mut self, topic: &str) -> EventId {
        let after = self.joined[topic];
        let until = self.cursor.max(after);
        self.claim(topic, Claim::Nothing { after, until });
        until
    }

    fn take_in(&mut self, message: &Value) {
        let seed = self.seed;
        match message["type"].as_str().unwrap() {
            "event" => {
                let came = event(message);
                let topics = if came.has_cursor {
                    &mut self.joined
                } else {
                    &mut self.catching_up
                };
                let Some(place) = topics.get_mut(&came.topic) else {
                    panic!("seed {seed}: not followed, or not like this: {message}")
                };
                let after = std::mem::replace(place, came.id);
                if came.data == LAST {
                    self.ended.insert(came.topic.clone());
                }
                let (id, data) = (came.id, came.data);
                self.claim(&came.topic, Claim::Next { after, id, data });
            }
            "live" => {
                self.cursor = id(message["cursor"].as_str().unwrap());
                for topic in sorted(&message["topics"]) {
                    // One that was followed already may be named again.
                    if let Some(place) = self.catching_up.remove(&topic) {
                        self.joined.insert(topic.clone(), place);
                        let until = self.known_up_to_cursor(&topic);
                        self.joined.insert(topic, until);
                    }
                    // One that was left while it caught up may not be named any more.
                }
            }
            "cursor" => {}
            _ => panic!("seed {seed}: {message}"),
        }
        if let Some(cursor) = message["cursor"].as_str() {
            self.cursor = id(cursor);
        }
    }

    /// Asks, and takes in what comes before the answer.
    async fn ask(&mut self, mut message: Value) -> Value {
        self.asked += 1;
        message["ref"] = self.asked.into();
        self.socket.send(message).await;
        loop {
            let message = self.socket.message().await;
            if message["ref"] == self.asked {
                return message;
            }
            self.take_in(&message);
        }
    }

    async fn subscribe(&mut self) {
        let count = 1 + self.random.below(3);
        let topics: BTreeSet<&str> = (0..count)
            .map(|_| TOPICS[self.random.below(TOPICS.len())])
            .collect();
        let mut message = json!({ "type": "subscribe", "topics": topics });
        let own = topics.iter().find_map(|topic| self.left.get(*topic));
        let own = own.copied();
        match (self.random.below(6), own) {
            (0, _) => message["lastEventId"] = "earliest".into(),
            (1, _) => message["last"] = (1 + self.random.below(50)).into(),
            (2..5, Some(own)) => message["lastEventId"] = own.to_string().into(),
            _ => {}
        }
        self.subscribe_as(message).await;
    }

    async fn subscribe_as(&mut self, message: Value) {
        let topics = sorted(&message["topics"]);
        let start = message.get("lastEventId").cloned();
        let new: Vec<String> = topics
            .into_iter()
            .filter(|topic| !self.follows(topic))
            .collect();
        let answer = self.ask(message).await;
        assert_eq!(answer["type"], "subscribed", "seed {}: {answer}", self.seed);
        let begin = id(answer["id"].as_str().unwrap());
        match start.as_ref().and_then(Value::as_str) {
            _ if new.is_empty() => {}
            Some("earliest") => assert_eq!(begin, EventId::ZERO, "{answer}"),
            Some(own) => {
                assert_eq!(answer["replay"], "complete", "seed {}: {answer}", self.seed);
                assert_eq!(begin, id(own), "{answer}");
            }
            None => {}
        }
        for topic in new {
            self.left.remove(&topic);
            self.catching_up.insert(topic, begin);
        }
    }

    async fn unsubscribe(&mut self) {
        let followed: Vec<&String> = self.joined.keys().chain(self.catching_up.keys()).collect();
        let topic = followed[self.random.below(followed.len())].clone();
        if topic == HOME {
            return;
        }
        let message = json!({ "type": "unsubscribe", "topics": [topic] });
        let answer = self.ask(message).await;
        let answered = &answer["type"];
        assert_eq!(answered, "unsubscribed", "seed {}: {answer}", self.seed);
        let place = if self.joined.contains_key(&topic) {
            let known = self.known_up_to_cursor(&topic);
            self.joined.remove(&topic);
            known
        } else {
            self.catching_up.remove(&topic).unwrap()
        };
        self.left.insert(topic, place);
    }

    async fn publish(&mut self) {
        let topic = TOPICS[self.random.below(TOPICS.len())];
        let data = format!("{}/{} by a follower", self.seed, self.asked);
        let message = json!({ "type": "publish", "topic": topic, "data": data });
        let answer = self.ask(message).await;
        assert_eq!(answer["type"], "ack", "seed {}: {answer}", self.seed);
        let id = id(answer["id"].as_str().unwrap());
        self.acknowledged.push((topic.to_owned(), id, data));
    }

    /// Goes without a word, and comes back: with the cursor for what has joined it, and each other topic by its own id.
    async fn drop_and_resume(&mut self) {
        let topics: Vec<String> = self.joined.keys().cloned().collect();
        for topic in &topics {
            let until = self.known_up_to_cursor(topic);
            self.joined.insert(topic.clone(), until);
        }
        let replica = self.replicas[self.random.below(self.replicas.len())];
        let query = format!("topic={}&lastEventId={}", topics.join(","), self.cursor);
        self.socket = Handshake::new(replica, &query).open().await;
        assert_eq!(self.socket.replay(), "complete", "seed {}", self.seed);
        assert_eq!(self.socket.start(), self.cursor, "seed {}", self.seed);
        for (topic, place) in std::mem::take(&mut self.catching_up) {
            // One of which nothing had come is forgotten.
            if place > EventId::ZERO {
                let start = place.to_string();
                let message =
                    json!({ "type": "subscribe", "topics": [topic], "lastEventId": start });
                self.subscribe_as(message).await;
            }
        }
    }

    async fn act(&mut self) {
        match self.random.below(10) {
            0..4 => {
                let answer = self.ask(json!({ "type": "ping" })).await;
                assert_eq!(answer["type"], "pong", "{answer}");
            }
            4..6 => self.subscribe().await,
            6 => self.unsubscribe().await,
            7 => self.publish().await,
            8 => self.drop_and_resume().await,
            _ => {
                let message = self.socket.message_or_silence().await;
                if let Some(message) = message {
                    self.take_in(&message);
                }
            }
        }
    }

    /// Reads on until the last event of every topic that it follows.
    async fn finish(&mut self) {
        let all: Vec<String> = self
            .joined
            .keys()
            .chain(self.catching_up.keys())
            .cloned()
            .collect();
        while !all.iter().all(|topic| self.ended.contains(topic)) || !self.catching_up.is_empty() {
            let message = self.socket.message().await;
            self.take_in(&message);
        }
        self.socket.stays_silent().await;
    }

    /// Holds every claim against the log.
    fn verify(&self, log: &Log) {
        let seed = self.seed;
        for (topic, claim) in &self.claims {
            let log = &log[topic];
            match claim {
                Claim::Next { after, id, data } => {
                    let at = log.partition_point(|(entry, _)| entry <= after);
                    let (next, wanted) = &log[at];
                    assert_eq!(
                        (next, wanted),
                        (id, data),
                        "seed {seed}, {topic}: {claim:?}"
                    );
                }
                Claim::Nothing { after, until } => {
                    let begin = log.partition_point(|(entry, _)| entry <= after);
                    let end = log.partition_point(|(entry, _)| entry <= until);
                    let missed = log.get(begin..end).unwrap_or_default();
                    assert!(
                        missed.is_empty(),
                        "seed {seed}, {topic}: {claim:?}: {missed:?}"
                    );
                }
            }
        }
        for (topic, id, data) in &self.acknowledged {
            let entry = (*id, data.clone());
            let stored = log[topic].contains(&entry);
            assert!(stored, "seed {seed}: acknowledged: {topic}, {entry:?}");
        }
    }
}

async fn publish(replica: SocketAddr, seed: u64) {
    let mut random = Random(seed);
    let mut connection = Connection::open(replica).await;
    for batch in 0..BATCHES {
        let items: Vec<Value> = (0..=random.below(20))
            .map(|number| {
                let topic = TOPICS[random.below(TOPICS.len())];
                let padding = "x".repeat(random.below(2_000));
                json!({ "topic": topic, "data": format!("{seed}/{batch}/{number} {padding}") })
            })
            .collect();
        let body = Value::from(items).to_string();
        let answer = connection.ask(&Request::publish(body)).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
}

async fn all_is_told(replicas: &[&Gateway]) {
    let addresses: Vec<SocketAddr> = replicas.iter().map(|gateway| gateway.public).collect();
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        let replica = addresses[usize::try_from(number).unwrap() % addresses.len()];
        publishers.spawn(publish(replica, 1_000 + number));
    }
    let mut following = JoinSet::new();
    for seed in 0..FOLLOWERS {
        let addresses = addresses.clone();
        following.spawn(async move {
            let mut follower = Follower::start(addresses, seed).await;
            for _ in 0..ACTIONS {
                follower.act().await;
            }
            follower
        });
    }
    let mut followers = following.join_all().await;
    publishers.join_all().await;
    let mut log = Log::new();
    for topic in TOPICS {
        let last = replicas[0].publish(topic, LAST).await;
        let query = format!("topic={topic}&lastEventId=earliest");
        let mut reader = replicas[0].events(&query).open().await;
        let entries = log.entry(topic.to_owned()).or_default();
        while entries.last().is_none_or(|(id, _)| *id < last) {
            let entry = reader.next().await;
            entries.push((entry.id, entry.data));
        }
    }
    let mut shown = 0;
    for follower in &mut followers {
        follower.finish().await;
        follower.verify(&log);
        shown += follower.claims.len();
    }
    assert!(shown > 1_000, "{shown} claims prove little");
}

#[tokio::test]
async fn every_topic_is_told_whole_whatever_a_client_does() {
    let gateway = Gateway::start().await;
    all_is_told(&[&gateway]).await;
}

/// So little is in memory that nearly everything is read from the store.
#[tokio::test]
async fn every_topic_is_told_whole_from_the_store_too() {
    let gateway = Gateway::with("tail.events", 8)
        .with("tail.linger", "20ms")
        .start()
        .await;
    all_is_told(&[&gateway]).await;
}

#[tokio::test]
async fn every_topic_is_told_whole_over_two_replicas() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        replica_of(Gateway::settings(), &redis).await,
        replica_of(Gateway::with("tail.events", 32), &redis).await,
    );
    all_is_told(&[&a, &b]).await;
}
