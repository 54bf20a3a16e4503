//! A producer that can do no more than `XADD` is as good as any: its entries become events, once and in order, or dead letters.

mod examples;
mod killed;
mod odd;
mod trouble;

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use crate::{
    redis::{replica, replica_of},
    support::{
        Gateway, RedisConnection, RedisServer, Value, eventually, eventually_within, id, numbers,
    },
};

/// How long entries may wait: also until the lease of a replica ends that has died, or lost its Redis.
const MOVED: Duration = Duration::from_secs(20);

/// The name of a key, without the prefix of the deployment.
fn key(name: &str) -> String {
    format!("tidegate:{{0}}:{name}")
}

/// Puts an entry into the ingest stream and returns its id.
async fn add<T: AsRef<[u8]>>(redis: &RedisServer, fields: &[T]) -> String {
    add_on(&mut redis.connect().await, fields).await
}

async fn add_on<T: AsRef<[u8]>>(producer: &mut RedisConnection, fields: &[T]) -> String {
    let mut words = vec![b"XADD".to_vec(), key("ingest").into_bytes(), b"*".to_vec()];
    words.extend(fields.iter().map(|field| field.as_ref().to_vec()));
    match producer.ask(&words).await {
        Value::Error(error) => panic!("XADD: {error}"),
        id => id.text(),
    }
}

/// Puts many entries there at once: to the topic, with numbers as data.
async fn add_numbers(redis: &RedisServer, topic: &str, range: std::ops::Range<usize>) {
    let script = "for n = ARGV[2], ARGV[3] do \
        redis.call('XADD', KEYS[1], '*', 'topic', ARGV[1], 'data', string.format('%d', n)) end";
    let (first, last) = (range.start.to_string(), (range.end - 1).to_string());
    let words = ["EVAL", script, "1", &key("ingest"), topic, &first, &last];
    redis.command(&words).await;
}

async fn length(redis: &RedisServer, name: &str) -> i64 {
    redis.command(&["XLEN", &key(name)]).await.integer()
}

/// Waits until nothing waits any more.
async fn is_drained(redis: &RedisServer) {
    eventually_within(MOVED, "all entries to be moved", async || {
        match length(redis, "ingest").await {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        }
    })
    .await;
}

/// The data of a topic, as its log has it.
async fn log(redis: &RedisServer, topic: &str) -> Vec<String> {
    let entries = redis
        .command(&["XRANGE", &key(&format!("topic:{topic}")), "-", "+"])
        .await;
    let data = |entry: &Value| entry.items()[1].fields().get("d").cloned();
    entries.items().iter().filter_map(data).collect()
}

/// The reasons of the dead letters, and the ids of their entries.
async fn dead(redis: &RedisServer) -> Vec<(String, String)> {
    let letters = redis
        .command(&["XRANGE", &key("ingest:dead"), "-", "+"])
        .await;
    let about = |letter: &Value| {
        let fields = letter.items()[1].items();
        (fields[1].text(), fields[5].text())
    };
    letters.items().iter().map(about).collect()
}

/// The figures of ingest in `/stats`.
async fn stats(gateway: &Gateway) -> serde_json::Value {
    gateway.get_admin("/stats").await.json()["store"]["holds"]["ingest"].clone()
}

#[tokio::test]
async fn entries_are_followed_and_resumed_like_any_event() {
    let redis = RedisServer::start().await;
    let (a, b) = (replica(&redis).await, replica(&redis).await);
    let mut readers = [a.subscribe("orders").await, b.subscribe("orders").await];
    let mut producer = redis.connect().await;
    let cursor = readers[0].cursor();
    // Each comes before the next is put there, so nothing but the entry itself wakes anybody.
    for number in numbers(0..20) {
        add_on(
            &mut producer,
            &["topic", "orders", "event", "created", "data", &number],
        )
        .await;
        for reader in &mut readers {
            let event = reader.next().await;
            assert_eq!(
                (event.kind.as_deref(), event.data),
                (Some("created"), number.clone())
            );
        }
    }
    let published = b.publish("orders", "20").await;
    add_numbers(&redis, "orders", 21..600).await;
    for reader in &mut readers {
        assert_eq!(reader.take(580).await, numbers(20..600));
        reader.stays_silent().await;
    }
    let mut resumed = b.resume("orders", cursor).await;
    assert_eq!(resumed.replay(), "complete");
    assert_eq!(resumed.take(600).await, numbers(0..600));
    let mut resumed = a.resume("orders", published).await;
    assert_eq!(resumed.take(579).await, numbers(21..600));

    // A topic that nobody knew, and its end.
    add_on(&mut producer, &["topic", "jobs/7", "data", "half"]).await;
    add_on(
        &mut producer,
        &["topic", "jobs/7", "data", "done", "end", "1"],
    )
    .await;
    is_drained(&redis).await;
    let mut late = a.events("topic=jobs/7&lastEventId=earliest").open().await;
    assert_eq!(late.take(2).await, ["half", "done"]);
    let ending = late.rest().await;
    assert!(
        ending
            .iter()
            .any(|frame| frame.event.as_deref() == Some("$end")),
        "{ending:?}"
    );

    // What was done is counted by whoever did it, and what waits is known to all, a moment later.
    let [of_a, of_b] = eventually("one to move, and all to be counted", async || {
        let said = [stats(&a).await, stats(&b).await];
        let waits = said.iter().any(|it| it["pending"] != 0);
        // Whoever moved it counts it when Redis has answered, and loses its lease when it is late with that.
        let moved: u64 = said.iter().filter_map(|it| it["moved"].as_u64()).sum();
        if waits || moved < 601 || said[0]["moves"] == said[1]["moves"] {
            Err(format!("{said:?}"))
        } else {
            Ok(said)
        }
    })
    .await;
    let sum = |name: &str| of_a[name].as_u64().unwrap() + of_b[name].as_u64().unwrap();
    assert_eq!((sum("moved"), sum("dead")), (601, 0), "{of_a} {of_b}");
    let moved = a.metric("tidegate_ingest_moved_total").await.unwrap()
        + b.metric("tidegate_ingest_moved_total").await.unwrap();
    assert!((moved - 601.0).abs() < 0.5, "{moved}");
}

/// Each producer's events stand in its order, whoever else writes to the same topics in the same moment, and however.
#[tokio::test]
async fn producers_and_publishers_at_once_keep_their_order_and_lose_nothing() {
    const EACH: usize = 400;
    let redis = RedisServer::start().await;
    let (a, b) = (replica(&redis).await, replica(&redis).await);
    let mut reader = a.subscribe("x,y").await;
    let produce = async |name: &str| {
        let mut producer = redis.connect().await;
        for number in 0..EACH {
            let topic = if number % 3 == 0 { "y" } else { "x" };
            let (data, key) = (format!("{name} {number}"), format!("{name}{number}"));
            let fields = ["topic", topic, "data", &data, "key", &key];
            add_on(&mut producer, &fields).await;
            // A producer that does not know whether it was heard says it again.
            if number % 50 == 7 {
                add_on(&mut producer, &fields).await;
            }
        }
    };
    let publish = async |name: &str, gateway: &Gateway| {
        for number in 0..EACH {
            let topic = if number % 3 == 0 { "y" } else { "x" };
            let data = format!("{name} {number}");
            let body = json!({"topic": topic, "data": data}).to_string();
            assert_eq!(gateway.post(body).await.status(), 200);
        }
    };
    tokio::join!(
        produce("p"),
        produce("q"),
        produce("r"),
        publish("s", &a),
        publish("t", &b)
    );
    is_drained(&redis).await;
    let mut seen: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    let mut last = id("0-0");
    for _ in 0..5 * EACH {
        let event = reader.next().await;
        assert!(event.id > last);
        last = event.id;
        let (name, number) = event.data.split_once(' ').unwrap();
        let seen = seen
            .entry((name.to_owned(), event.topic.unwrap()))
            .or_default();
        seen.push(number.parse().unwrap());
    }
    reader.stays_silent().await;
    assert_eq!(seen.len(), 10);
    for ((name, topic), numbers) in seen {
        let of_y = |number: &usize| number.is_multiple_of(3) == (topic == "y");
        let wanted: Vec<_> = (0..EACH).filter(of_y).collect();
        assert_eq!(numbers, wanted, "of {name} in {topic}");
    }
    eventually("24 repetitions to be counted", async || {
        let of = async |gateway: &Gateway| stats(gateway).await["duplicates"].as_u64().unwrap();
        match of(&a).await + of(&b).await {
            24 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    assert!(dead(&redis).await.is_empty());
}

#[tokio::test]
async fn a_replica_that_is_told_to_leaves_ingest_to_the_others() {
    let redis = RedisServer::start().await;
    let idle = replica_of(Gateway::with("ingest.enabled", false), &redis).await;
    let mut reader = idle.subscribe("orders").await;
    add_numbers(&redis, "orders", 0..3).await;
    reader.stays_silent().await;
    assert_eq!(length(&redis, "ingest").await, 3);
    assert_eq!(stats(&idle).await, serde_json::Value::Null);
    assert_eq!(idle.metric("tidegate_ingest_pending").await, None);
    let busy = replica(&redis).await;
    assert_eq!(reader.take(3).await, numbers(0..3));
    drop(busy);
}
