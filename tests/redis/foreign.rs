//! What others do to the keys of a running gateway: it passes over what is not of the gateway, and goes on.

use serde_json::json;
use tokio::time::sleep;

use super::{is_gap, replica, replicas};
use crate::support::{Gateway, RedisServer, SILENCE, eventually, numbers};

const STREAM: &str = "tidegate:{0}:topic:orders";
const CHANNEL: &str = "tidegate:{0}:ch:orders";

/// How many entries the replica has passed over.
async fn skipped(gateway: &Gateway) -> f64 {
    let skipped = gateway.metric("tidegate_store_entries_skipped_total").await;
    skipped.unwrap()
}

async fn has_skipped_more_than(gateway: &Gateway, before: f64) {
    eventually("what was skipped to be counted", async || {
        match skipped(gateway).await {
            more if more > before => Ok(()),
            same => Err(same.to_string()),
        }
    })
    .await;
}

/// Names and values.
type Fields = [(&'static str, &'static [u8])];

/// Entries that no gateway would write, each with what is wrong with it.
const WRONG: [(&str, &Fields); 9] = [
    ("of other fields", &[("foo", b"bar")]),
    (
        "without a predecessor",
        &[("e", b"message"), ("d", b"evil")],
    ),
    (
        "without data",
        &[("e", b"message"), ("p", b"0-0"), ("b", b"1")],
    ),
    (
        "of data that are no text",
        &[
            ("e", b"message"),
            ("d", b"evil\xff"),
            ("p", b"0-0"),
            ("b", b"1"),
        ],
    ),
    (
        "of a control type",
        &[
            ("e", b"$open"),
            ("d", b"{\"evil\":1}"),
            ("p", b"0-0"),
            ("b", b"1"),
        ],
    ),
    (
        "of a type that forges a line",
        &[
            ("e", b"a\nid: 9-9"),
            ("d", b"evil"),
            ("p", b"0-0"),
            ("b", b"1"),
        ],
    ),
    (
        "of a type that is no text",
        &[("e", b"\xff"), ("d", b"evil"), ("p", b"0-0"), ("b", b"1")],
    ),
    (
        "with a predecessor that is none",
        &[
            ("e", b"message"),
            ("d", b"evil"),
            ("p", b"yesterday"),
            ("b", b"1"),
        ],
    ),
    (
        "with a predecessor from the future",
        &[
            ("e", b"message"),
            ("d", b"evil"),
            ("p", b"99999999999999-0"),
            ("b", b"1"),
        ],
    ),
];

async fn write_past(redis: &RedisServer, fields: &Fields) {
    let mut words: Vec<&[u8]> = vec![b"XADD", STREAM.as_bytes(), b"*"];
    for (name, value) in fields {
        words.extend([name.as_bytes(), value]);
    }
    redis.command(&words).await;
}

/// Neither who is connected nor who reads it from the store ever sees it, and what is good around it arrives.
#[tokio::test]
async fn an_entry_that_is_not_of_the_gateway_is_passed_over_and_counted() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut live = b.subscribe("orders").await;
    let cursor = live.cursor();
    a.publish("orders", "0").await;
    for (at, (_, fields)) in WRONG.iter().enumerate() {
        write_past(&redis, fields).await;
        a.publish("orders", &(at + 1).to_string()).await;
    }
    write_past(&redis, WRONG[0].1).await;
    let wanted = numbers(0..WRONG.len() + 1);
    assert_eq!(live.take(wanted.len()).await, wanted);
    live.stays_silent().await;
    let fresh = replica(&redis).await;
    let before = skipped(&fresh).await;
    let mut resumed = fresh.resume("orders", &cursor).await;
    assert_eq!(resumed.replay(), "complete");
    resumed.replays(&wanted).await;
    has_skipped_more_than(&fresh, before).await;
    for query in ["lastEventId=earliest", "last=1000", "since=1h"] {
        let mut reader = fresh.events(&format!("topic=orders&{query}")).open().await;
        reader.replays(&wanted).await;
    }
    let mut two = fresh.events("topic=orders&last=2").open().await;
    two.replays(&wanted[wanted.len() - 2..]).await;
}

/// A whole page of them is no end of the log.
#[tokio::test]
async fn many_foreign_entries_hide_nothing_behind_them() {
    let redis = RedisServer::start().await;
    let a = replica(&redis).await;
    let cursor = a.publish("orders", "first").await;
    let mut connection = redis.connect().await;
    for _ in 0..9_000 {
        connection.ask(&["XADD", STREAM, "*", "foo", "bar"]).await;
    }
    a.publish("orders", "last").await;
    let b = replica(&redis).await;
    let mut reader = b.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["last"]).await;
}

/// Nothing of the gateway's was ever there, so nothing is missing.
#[tokio::test]
async fn a_topic_of_foreign_entries_alone_is_an_empty_one() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let cursor = a.subscribe("orders").await.cursor();
    a.publish("other", "x").await;
    write_past(&redis, WRONG[0].1).await;
    write_past(&redis, WRONG[1].1).await;
    for gateway in [&a, &b, &replica(&redis).await] {
        let mut reader = gateway.resume("orders", &cursor).await;
        assert_eq!(
            reader.replay(),
            "complete",
            "what is complete is never a gap"
        );
        reader.replays([""; 0]).await;
    }
    a.publish("orders", "first").await;
    for gateway in [&a, &b, &replica(&redis).await] {
        let mut reader = gateway.resume("orders", &cursor).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays(["first"]).await;
    }
}

#[tokio::test]
async fn garbage_on_the_feed_is_passed_over_and_counted() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut live = b.subscribe("orders").await;
    let first = a.publish("orders", "0").await;
    assert_eq!(live.take(1).await, ["0"]);
    let next = first.next();
    let long = "x".repeat(100_000);
    let garbage: [&[u8]; 11] = [
        b"",
        b"hello",
        b"\xff\xfe",
        b"1-1 2-2 e message\nevil",
        b"1-1 0-0 e $open\nevil",
        b"1-1 0-0 z",
        b"99999999999999-0 soon e message\nevil",
        b"\n\n\n",
        b"1-1",
        b"99999999999999999999999-0 0-0 e message\nevil",
        long.as_bytes(),
    ];
    let before = skipped(&b).await;
    for payload in garbage {
        redis
            .command(&[b"SPUBLISH", CHANNEL.as_bytes(), payload])
            .await;
    }
    let bad_data = [
        format!("{next} {first} e message\n").as_bytes(),
        b"evil\xff",
    ]
    .concat();
    redis
        .command(&[b"SPUBLISH", CHANNEL.as_bytes(), &bad_data])
        .await;
    a.publish("orders", "1").await;
    assert_eq!(live.take(1).await, ["1"]);
    live.stays_silent().await;
    has_skipped_more_than(&b, before + 11.0).await;
    let mut resumed = b.resume("orders", first).await;
    assert_eq!(resumed.replay(), "complete");
    resumed.replays(["1"]).await;
}

/// Somebody made room by hand, and a good event comes after it.
#[tokio::test]
async fn a_topic_whose_stream_was_deleted_goes_on_where_it_is_followed() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut live = b.subscribe("orders").await;
    a.publish_all("orders", ["a", "b"]).await;
    assert_eq!(live.take(2).await, ["a", "b"]);
    redis.command(&["DEL", STREAM]).await;
    a.publish("orders", "c").await;
    assert_eq!(
        live.take(1).await,
        ["c"],
        "who has seen everything misses nothing"
    );
    live.stays_silent().await;
}

/// All cursors from before that tell, for nobody knows any more what there was.
#[tokio::test]
async fn a_hash_of_last_ids_that_was_deleted_is_no_proof() {
    let redis = RedisServer::start().await;
    let a = replica(&redis).await;
    let cursor = a.subscribe("orders,never").await.cursor();
    let last = a.publish_all("orders", ["a", "b"]).await[1];
    redis.command(&["DEL", "tidegate:{0}:last", STREAM]).await;
    let b = replica(&redis).await;
    let reader = b.resume("orders", &cursor).await;
    is_gap(&reader, "retention");
    let reader = b.resume("orders", last).await;
    assert_eq!(
        reader.replay(),
        "complete",
        "it has seen everything there ever was"
    );
    a.publish("orders", "c").await;
    let mut reader = b.resume("orders", last).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["c"]).await;
}

#[tokio::test]
async fn a_stream_with_an_entry_from_the_far_future_stops_its_topic_alone() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut live = b.subscribe("orders,other").await;
    let first = a.publish("orders", "a").await;
    let far = format!("{}-0", first.ms() + 86_400_000);
    redis.command(&["XADD", STREAM, &far, "foo", "bar"]).await;
    let refused = a
        .post(json!({"topic": "orders", "data": "b"}).to_string())
        .await;
    assert!(refused.status() >= 500, "{refused:?}");
    refused.problem();
    a.publish("other", "c").await;
    assert_eq!(live.take(2).await, ["a", "c"]);
    redis.command(&["XDEL", STREAM, &far]).await;
    a.publish("orders", "d").await;
    assert_eq!(live.take(1).await, ["d"]);
    live.stays_silent().await;
}

/// The gateway brings its functions back by itself.
#[tokio::test]
async fn functions_that_were_flushed_are_loaded_again() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut live = b.subscribe("orders").await;
    a.publish("orders", "0").await;
    for round in 1..=3 {
        redis.command(&["FUNCTION", "FLUSH"]).await;
        if round == 2 {
            // Long enough that each connection has met it.
            sleep(2 * SILENCE).await;
        }
        a.publish("orders", &round.to_string()).await;
    }
    assert_eq!(live.take(4).await, numbers(0..4));
    redis.command(&["FUNCTION", "FLUSH"]).await;
    let mut history = b.events("topic=orders&last=2").open().await;
    history.replays(["2", "3"]).await;
    live.stays_silent().await;
    for gateway in [&a, &b] {
        super::is_back(gateway).await;
    }
}

/// Another program's functions under the same name stay what they are: the gateway says so, and goes on trying.
#[tokio::test]
async fn the_library_of_a_newer_version_is_left_alone() {
    let redis = RedisServer::start().await;
    let newer = include_str!("../../src/store/redis/functions.lua").replacen(
        "local VERSION = 3\n",
        "local VERSION = 1000\n",
        1,
    );
    redis.command(&["FUNCTION", "LOAD", &newer]).await;
    let gateway = replica(&redis).await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    let version = redis.command(&["FCALL", "tidegate_version", "0"]).await;
    assert_eq!(version.integer(), 1_000);
}

#[tokio::test]
async fn a_cut_feed_loses_nothing() {
    const EVENTS: usize = 400;
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut live = b.subscribe("orders,other").await;
    let cursor = live.cursor();
    for (at, piece) in numbers(0..EVENTS).chunks(10).enumerate() {
        if at % 4 == 1 {
            for kind in ["pubsub", "normal"].iter().take(1 + at % 8 / 5) {
                let kill = ["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"];
                redis.command(&kill).await;
            }
        }
        for data in piece {
            // The publisher's connection may be the one that was cut.
            let body = json!({"topic": "orders", "data": data, "key": data}).to_string();
            eventually("the event to be stored", async || {
                let answer = a.post(&body).await;
                match answer.status() {
                    200 => Ok(()),
                    503 | 504 => Err(format!("{answer:?}")),
                    _ => panic!("{answer:?}"),
                }
            })
            .await;
        }
    }
    assert_eq!(live.take(EVENTS).await, numbers(0..EVENTS));
    live.stays_silent().await;
    let mut resumed = b.resume("orders", cursor).await;
    assert_eq!(resumed.replay(), "complete");
    resumed.replays(numbers(0..EVENTS)).await;
}

/// Whoever writes a message that looks like the next event can make it be shown. The log does not have it, and that is told.
#[tokio::test]
async fn a_forged_event_on_the_feed_is_told_as_lost_and_the_log_goes_on() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut live = b.subscribe("orders").await;
    let first = a.publish("orders", "a").await;
    assert_eq!(live.take(1).await, ["a"]);
    let forged = format!("{} {first} e message\nforged", first.next());
    redis.command(&["SPUBLISH", CHANNEL, &forged]).await;
    assert_eq!(live.take(1).await, ["forged"]);
    a.publish_all("orders", ["b", "c"]).await;
    let gap = live.control("$gap").await;
    assert!(gap.data.unwrap().contains("lost"));
    assert_eq!(live.take(2).await, ["b", "c"]);
    live.stays_silent().await;
    let fresh = replica(&redis).await;
    let mut resumed = fresh.resume("orders", first.previous()).await;
    assert_eq!(resumed.take(3).await, ["a", "b", "c"]);
}
