//! The same log by three encodings: what one is told, all are told, and it is what was acknowledged.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tidegate::event::EventId;
use tokio::time::sleep;

use crate::{
    poll::Dice,
    redis::{is_back, replica_of},
    support::{
        Aim, ChaosProxy, Encoding, Follower, Fsync, Gateway, Place, RedisServer, Request,
        eventually, id,
    },
};

const TOPICS: [&str; 3] = ["a", "b/c", "quiet"];

/// An event as it was acknowledged: topic, type and data, by id.
type Log = BTreeMap<EventId, (String, String, String)>;

/// Data that every encoding has to carry: lines, quotes, nothing at all, much.
fn data(dice: &mut Dice, number: usize) -> String {
    match dice.roll(9) {
        0 => format!("{number}\nsecond line\n\n"),
        1 => format!("{number} \"quoted\" \\ \u{2028} \u{1F30A}"),
        2 => json!({ "number": number, "list": [1, null, "x"] }).to_string(),
        3 => format!("{number} {}", "x".repeat(5_000)),
        4 => format!("{number}:\u{1}\u{7f}\t"),
        5 => String::new(),
        _ => number.to_string(),
    }
}

/// Publishes so many events, some by HTTP and some by WebSocket, and returns them as they were acknowledged.
async fn publish(gateways: &[Gateway], events: usize, seed: u64) -> Log {
    let mut dice = Dice::new(seed);
    let mut log = Log::new();
    let mut sockets = Vec::new();
    for gateway in gateways {
        sockets.push(gateway.follow("nothing").await);
    }
    while log.len() < events {
        let at = dice.roll(gateways.len());
        let mut batch = Vec::new();
        for number in 0..(1 + dice.roll(6)).min(events - log.len()) {
            // The last of them is busy, the first is not.
            let topic = TOPICS[[0, 0, 0, 0, 1, 1, 1, 2][dice.roll(8)]];
            let kind = ["message", "message", "created", "order.updated"][dice.roll(4)];
            batch.push((topic, kind, data(&mut dice, log.len() + number)));
        }
        let items: Vec<Value> = batch
            .iter()
            .map(|(topic, kind, data)| json!({"topic": topic, "event": kind, "data": data}))
            .collect();
        let ids: Vec<EventId> = if dice.roll(3) == 0 {
            let socket = &mut sockets[at];
            let mut ids = Vec::new();
            for mut item in items {
                item["type"] = "publish".into();
                socket.send(item).await;
                let ack = socket.expect("ack").await;
                ids.push(id(ack["id"].as_str().unwrap()));
            }
            ids
        } else {
            let request = Request::publish(json!(items).to_string());
            let answer = gateways[at].ask(request).await;
            assert_eq!(answer.status(), 200, "{answer:?}");
            let json = answer.json();
            let results = json["results"].as_array().unwrap().iter();
            results.map(|it| id(it["id"].as_str().unwrap())).collect()
        };
        for (id, (topic, kind, data)) in ids.into_iter().zip(batch) {
            let before = log.insert(id, (topic.to_owned(), kind.to_owned(), data));
            assert!(before.is_none(), "{id} twice");
        }
        if dice.roll(3) == 0 {
            sleep(Duration::from_millis(dice.roll(10) as u64)).await;
        }
    }
    log
}

/// Follows until so much has come, by one of these encodings at a time; leaves and returns now and then.
async fn follow(
    addresses: &[SocketAddr],
    ways: &[Encoding],
    cursor: &str,
    events: usize,
    seed: u64,
) -> Follower {
    let mut dice = Dice::new(seed);
    let mut follower = Follower::from(&TOPICS.join(","), cursor);
    let (mut address, mut way) = (addresses[0], ways[0]);
    while follower.seen.len() < events {
        if dice.roll(25) == 0 {
            follower.leave();
        }
        if !follower.is_open() {
            address = addresses[dice.roll(addresses.len())];
            way = ways[dice.roll(ways.len())];
        }
        follower.read(address, way).await;
    }
    while follower.ended.len() < TOPICS.len() {
        follower.read(address, way).await;
    }
    follower
}

/// What came is the log: each event once, in order, with its topic, its type and its data.
fn is_the_log(follower: &Follower, log: &Log, who: &str) {
    assert_eq!(follower.gaps, 0, "{who}");
    let wanted: Vec<EventId> = log.keys().copied().collect();
    assert!(
        follower.ids() == wanted,
        "{who}: {:?} for {wanted:?}",
        follower.ids()
    );
    for event in &follower.seen {
        let (topic, kind, data) = &log[&event.id];
        assert_eq!(event.topic.as_ref(), Some(topic), "{who}: {event:?}");
        assert_eq!(event.kind.as_ref(), Some(kind), "{who}: {event:?}");
        assert_eq!(&event.data, data, "{who}: {}", event.id);
    }
    let mut ended = follower.ended.clone();
    ended.sort_unstable();
    let mut topics = TOPICS.to_vec();
    topics.sort_unstable();
    assert_eq!(ended, topics, "{who}: each end once");
}

/// The same scenario by each encoding, and by all of them in turn.
async fn agree(gateways: &[Gateway], seed: u64) {
    const EVENTS: usize = 400;
    let addresses: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.public).collect();
    let start = gateways[0].poller(&TOPICS.join(",")).await.cursor;
    let followers = [
        ("sse", &[Encoding::Sse][..]),
        ("ws", &[Encoding::Ws]),
        ("poll", &[Encoding::Poll]),
        ("any", &Encoding::ALL),
        ("any, too", &Encoding::ALL),
        ("fallbacks", &Encoding::FALLBACKS),
    ];
    let following = followers.iter().enumerate().map(|(which, (who, ways))| {
        let (addresses, start) = (&addresses, &start);
        async move {
            let seed = seed * 100 + which as u64;
            (*who, follow(addresses, ways, start, EVENTS, seed).await)
        }
    });
    let publishing = async {
        let log = publish(gateways, EVENTS, seed).await;
        for topic in TOPICS {
            gateways[0].finish(topic, None).await;
        }
        log
    };
    let (log, followers) = tokio::join!(publishing, join_all(following));
    for (who, follower) in &followers {
        is_the_log(follower, &log, &format!("{who}, seed {seed}"));
    }
    // Whoever comes late reads the same.
    for way in Encoding::ALL {
        let late = follow(&addresses, &[way], &start, EVENTS, seed).await;
        is_the_log(&late, &log, &format!("late by {way}, seed {seed}"));
    }
}

#[tokio::test]
async fn all_encodings_tell_the_same_log() {
    for seed in [1, 2, 3] {
        let gateway = Gateway::with("tail.events", 50).start().await;
        agree(&[gateway], seed).await;
    }
}

#[tokio::test]
async fn all_encodings_tell_the_same_log_over_two_replicas() {
    for seed in [4, 5] {
        let redis = RedisServer::start().await;
        let settings = || Gateway::with("tail.events", 50);
        let gateways = [
            replica_of(settings(), &redis).await,
            replica_of(settings(), &redis).await,
        ];
        agree(&gateways, seed).await;
    }
}

/// What retention took is told by each, and nobody is told of a gap who has none.
#[tokio::test]
async fn all_encodings_tell_the_same_gap() {
    let gateway = Gateway::with("retention.events", 10).start().await;
    let topics = "a,other";
    let start = gateway.poller(topics).await.cursor;
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(gateway.publish("a", &number.to_string()).await.to_string());
    }
    ids.insert(0, start);
    for (at, cursor) in ids.iter().enumerate() {
        // The cursor is after `at` events; the oldest that is left is number 20.
        for way in Encoding::ALL {
            let mut follower = Follower::from(topics, cursor);
            let wanted = 30 - at.max(20);
            while follower.seen.len() < wanted {
                follower.read(gateway.public, way).await;
            }
            if wanted > 0 {
                let first: usize = follower.seen[0].data.parse().unwrap();
                assert_eq!(first, at.max(20), "{way}");
            }
            assert_eq!(follower.gaps > 0, at < 20, "{way} after {at}");
        }
    }
}

#[tokio::test]
async fn a_restart_is_told_by_all_encodings() {
    let old = Gateway::start().await;
    let cursor = old.publish("orders", "lost").await;
    old.stop(crate::support::PATIENCE).await;
    let gateway = Gateway::start().await;
    gateway.publish("orders", "a").await;
    let query = format!("topic=orders&lastEventId={cursor}");
    let reader = gateway.events(&query).open().await;
    let socket = gateway.ws(&query).open().await;
    let polled = gateway.poll(&query).answer().await;
    let told = reader.open_data();
    for name in ["replay", "reason", "topics", "missed_at_least"] {
        assert_eq!(told.get(name), socket.opening.get(name), "{name}");
    }
    assert_eq!(reader.start(), socket.start(), "the birth");
    assert_eq!(told["reason"], "reset");
    polled.is_gap("reset", &["orders"]);
    assert_eq!(
        told.get("missed_at_least").and_then(Value::as_u64),
        polled.missed_at_least
    );
}

/// The end of a topic is the end for each.
#[tokio::test]
async fn a_finished_topic_ends_all_encodings() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let mut socket = gateway.follow("orders").await;
    let waiting = gateway.entry(Encoding::Poll, "topic=orders").enter().await;
    gateway.has_places_taken(3).await;
    gateway.finish("orders", None).await;
    let end = reader.control("$end").await.id.unwrap();
    assert!(reader.rest().await.is_empty());
    let told = socket.expect("end").await;
    assert_eq!(told["id"], end.as_str());
    assert_eq!(told["topic"], "orders");
    socket.closes(1000, "finished").await;
    let Place::Poll(mut waiting) = waiting else {
        panic!("it is a poll")
    };
    let polled = crate::support::Polled::of(&waiting.response().await);
    assert_eq!(polled.ended, ["orders"]);
    assert_eq!(polled.cursor, end);
    gateway.has_places_taken(0).await;
}

async fn notices(gateway: &Gateway) {
    eventually("the gateway to notice", async || {
        match gateway.get("/health").await {
            answer if answer.status() == 503 => Ok(()),
            answer => Err(answer.text()),
        }
    })
    .await;
}

/// Open places stay open, new ones are served as far as the tail proves them, and nothing of the time between is lost.
#[tokio::test]
async fn redis_away_is_no_outage_for_any_encoding() {
    let mut redis = RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await;
    let gateway = replica_of(Gateway::settings(), &redis).await;
    let mut live = gateway.subscribe("orders").await;
    let mut socket = gateway.follow("orders").await;
    let cursor = live.cursor();
    let before = gateway.publish("orders", "before").await;
    assert_eq!(live.take(1).await, ["before"]);
    assert_eq!(socket.take(1).await, ["before"]);
    let query = format!("topic=orders&lastEventId={before}");
    let mut waiting = gateway.entry(Encoding::Poll, &query).enter().await;
    gateway.has_places_taken(3).await;
    redis.kill();
    notices(&gateway).await;
    // What the tail proves.
    let query = format!("topic=orders&lastEventId={cursor}");
    let mut late = gateway.ws(&query).open().await;
    assert_eq!(late.replay(), "complete");
    late.replays(["before"]).await;
    let polled = gateway.poll(&query).answer().await;
    polled.is_complete();
    assert_eq!(polled.data(), ["before"]);
    // What it does not.
    for way in Encoding::ALL {
        for query in ["topic=unheard-of&last=3", "topic=orders&since=1h"] {
            let entry = gateway.entry(way, query);
            entry.is_refused(503, "store_unavailable").await;
        }
    }
    late.send(json!({"type": "publish", "ref": 1, "topic": "orders", "data": "refused"}))
        .await;
    let error = late.error("store_unavailable").await;
    assert_eq!(error["ref"], 1, "{error}");
    socket.stays_silent().await;
    redis.restart().await;
    is_back(&gateway).await;
    gateway.publish("orders", "after").await;
    waiting.gets("after").await;
    assert_eq!(live.take(1).await, ["after"]);
    for socket in [&mut socket, &mut late] {
        assert_eq!(socket.take(1).await, ["after"]);
        socket.stays_silent().await;
    }
    live.stays_silent().await;
}

/// A reader that does not read costs the others nothing, whatever it reads by.
#[tokio::test]
async fn nobody_slows_anybody() {
    let gateway = Gateway::with("stream.write_timeout", "700ms").start().await;
    let large = "x".repeat(60_000);
    let mut stuck = Vec::new();
    for _ in 0..3 {
        stuck.push(gateway.ws("topic=orders").narrow().open().await);
    }
    let mut socket = gateway.follow("orders").await;
    let mut poller = gateway.poller("orders").await;
    let mut reader = gateway.subscribe("orders").await;
    for number in 0..120 {
        let data = format!("{number} {large}");
        gateway.publish("orders", &data).await;
        assert!(socket.take(1).await == [data.as_str()], "{number}");
        assert!(reader.take(1).await == [data.as_str()], "{number}");
        assert!(poller.take(1).await == [data.as_str()], "{number}");
    }
    // The stuck ones are given up; who keeps up stays.
    gateway.has_places_taken(2).await;
    for mut stuck in stuck {
        stuck.rest_until_cut().await;
        assert!(
            stuck.was_closed().is_none(),
            "a stuck reader reads no close"
        );
        let cursor = stuck.cursor();
        let back = gateway.follow_after("orders", &cursor).await;
        assert_eq!(back.replay(), "complete");
    }
}

/// The same through wires that break again and again; an event is published with its key until it is stored.
#[tokio::test]
async fn all_encodings_tell_the_same_log_over_wires_that_break() {
    over_wires_that_break(7).await;
}

async fn over_wires_that_break(seed: u64) {
    const EVENTS: usize = 300;
    let redis = RedisServer::start().await;
    let wires = [
        ChaosProxy::start(redis.address()).await,
        ChaosProxy::start(redis.address()).await,
    ];
    let mut gateways = Vec::new();
    for wire in &wires {
        let url = redis.url_by(wire.port());
        let settings = Gateway::with("tail.events", 50).env("REDIS_URL", &url);
        let gateway = settings.start().await;
        is_back(&gateway).await;
        gateways.push(gateway);
    }
    let addresses: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.public).collect();
    let start = gateways[0].poller(&TOPICS.join(",")).await.cursor;
    let over = AtomicBool::new(false);
    let breaking = async {
        let mut dice = Dice::new(seed);
        while !over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(20 + dice.roll(80) as u64)).await;
            let wire = &wires[dice.roll(2)];
            match dice.roll(4) {
                0 => wire.cut(Aim::All),
                1 => wire.cut(Aim::Feed),
                2 => wire.cut_after(Aim::Feed, dice.roll(3_000)),
                _ => {
                    wire.refuse();
                    wire.cut(Aim::All)
                }
            };
            sleep(Duration::from_millis(dice.roll(100) as u64)).await;
            wire.heal();
        }
    };
    let publishing = async {
        let mut dice = Dice::new(seed + 1_000);
        let mut log = Log::new();
        for number in 0..EVENTS {
            let topic = TOPICS[[0, 0, 0, 1, 2][dice.roll(5)]];
            let data = data(&mut dice, number);
            let item = json!({"topic": topic, "data": data, "key": number.to_string()});
            let id = stored(&gateways, &mut dice, &item).await;
            log.insert(id, (topic.to_owned(), "message".to_owned(), data));
            if dice.roll(4) == 0 {
                sleep(Duration::from_millis(dice.roll(20) as u64)).await;
            }
        }
        for topic in TOPICS {
            let item = json!({"topic": topic, "end": true, "key": "end"});
            stored(&gateways, &mut dice, &item).await;
        }
        over.store(true, Ordering::Relaxed);
        log
    };
    let ways = [
        &[Encoding::Sse][..],
        &[Encoding::Ws],
        &[Encoding::Poll],
        &Encoding::ALL,
    ];
    let following = ways
        .iter()
        .enumerate()
        .map(|(which, ways)| follow(&addresses, ways, &start, EVENTS, seed * 10 + which as u64));
    let (log, (), followers) = tokio::join!(publishing, breaking, join_all(following));
    for (way, follower) in ways.iter().zip(&followers) {
        is_the_log(follower, &log, &format!("by {way:?}, seed {seed}"));
    }
}

/// Publishes with a key, at whichever replica, until it is stored.
async fn stored(gateways: &[Gateway], dice: &mut Dice, item: &Value) -> EventId {
    loop {
        let gateway = &gateways[dice.roll(gateways.len())];
        let mut connection = gateway.connect().await;
        let request = Request::publish(item.to_string()).bytes(gateway.public);
        connection.send(request).await;
        // It has as long to answer as we wait for anything else.
        let answer = connection.patient_response().await;
        match answer.status() {
            200 => return id(answer.json()["id"].as_str().unwrap()),
            503 | 504 => sleep(Duration::from_millis(20)).await,
            _ => panic!("{answer:?}"),
        }
    }
}
