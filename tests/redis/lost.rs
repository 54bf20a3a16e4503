//! What Redis has lost is told to everybody who could have missed it, once, and the log goes on.

use serde_json::{Value, json};
use tidegate::event::EventId;

use super::{is_back, is_gap, ready, replica, replicas, settings};
use crate::support::{Fsync, Gateway, RedisServer, Subscriber, eventually, id, numbers};

/// The next frame must be a gap with this reason.
async fn is_told(reader: &mut Subscriber, reason: &str) -> Value {
    let gap = reader.control("$gap").await;
    assert_eq!(gap.id, None, "a gap does not move the cursor");
    let data: Value = serde_json::from_str(gap.data.as_deref().unwrap()).unwrap();
    assert_eq!(data["reason"], reason, "{data}");
    data
}

/// Flushed, or come back empty: nobody has any of it any more.
async fn the_log_was_reset(
    redis: &RedisServer,
    gateways: &[Gateway],
    mut open: Vec<Subscriber>,
    old: EventId,
) {
    let mut births = Vec::new();
    for reader in &mut open {
        is_told(reader, "reset").await;
    }
    let first = gateways[0].publish("orders", "new").await;
    assert!(first > old, "ids keep increasing: {first} after {old}");
    for reader in &mut open {
        let event = reader.next().await;
        assert_eq!((event.id, event.data.as_str()), (first, "new"));
        reader.stays_silent().await;
    }
    for gateway in gateways {
        let mut reader = gateway.resume("orders", old).await;
        is_gap(&reader, "reset");
        births.push(reader.start());
        assert!(
            old < reader.start() && reader.start() < first,
            "the birth: {}",
            reader.start()
        );
        reader.replays(["new"]).await;
        let mut earliest = gateway
            .events("topic=orders&lastEventId=earliest")
            .open()
            .await;
        earliest.replays(["new"]).await;
    }
    let fresh = replica(redis).await;
    let reader = fresh.resume("orders", old).await;
    is_gap(&reader, "reset");
    births.push(reader.start());
    births.dedup();
    assert_eq!(births.len(), 1, "there is one birth: {births:?}");
    let again = gateways[0].resume("orders", births[0]).await;
    assert_eq!(again.replay(), "complete", "told once is enough");
}

/// Two replicas, and streams on both that have seen everything.
async fn followed(redis: &RedisServer) -> ([Gateway; 2], Vec<Subscriber>, EventId) {
    let gateways: [Gateway; 2] = replicas(redis).await;
    let mut open = Vec::new();
    for gateway in &gateways {
        open.push(gateway.subscribe("orders").await);
        open.push(gateway.subscribe("other,orders").await);
    }
    let last = gateways[0].publish_all("orders", ["a", "b", "c"]).await[2];
    for reader in &mut open {
        assert_eq!(reader.take(3).await, ["a", "b", "c"]);
    }
    (gateways, open, last)
}

#[tokio::test]
async fn a_flush_is_told_once_to_every_open_stream_and_to_who_returns() {
    for command in ["FLUSHALL", "FLUSHDB"] {
        let redis = RedisServer::start().await;
        let (gateways, open, last) = followed(&redis).await;
        redis.command(&[command]).await;
        the_log_was_reset(&redis, &gateways, open, last).await;
    }
}

/// Without a word of publishing, too: a stream that waits is told all the same.
#[tokio::test]
async fn a_flush_is_told_though_nobody_publishes() {
    let redis = RedisServer::start().await;
    let (gateways, mut open, last) = followed(&redis).await;
    redis.command(&["FLUSHALL"]).await;
    for reader in &mut open {
        is_told(reader, "reset").await;
        reader.stays_silent().await;
    }
    for gateway in &gateways {
        let mut reader = gateway.resume("orders", last).await;
        is_gap(&reader, "reset");
        reader.replays([""; 0]).await;
    }
}

/// A producer that needs no gateway may be the one that makes the new log.
#[tokio::test]
async fn a_flush_is_told_though_a_producer_goes_on_at_once() {
    let redis = RedisServer::start().await;
    let (gateways, mut open, last) = followed(&redis).await;
    redis.command(&["FLUSHALL"]).await;
    let mut ids = vec![last];
    for data in ["d", "e"] {
        ids.push(crate::functions::publish_by_hand(&redis, "orders", data).await);
    }
    assert!(ids.windows(2).all(|two| two[0] < two[1]), "{ids:?}");
    for reader in &mut open {
        is_told(reader, "reset").await;
        assert_eq!(reader.take(2).await, ["d", "e"]);
        reader.stays_silent().await;
    }
    for gateway in &gateways {
        let mut reader = gateway.resume("orders", last).await;
        is_gap(&reader, "reset");
        reader.replays(["d", "e"]).await;
    }
}

#[tokio::test]
async fn a_restart_without_its_data_is_told_as_a_reset() {
    let mut redis = RedisServer::start().await;
    let (gateways, open, last) = followed(&redis).await;
    redis.restart().await;
    for gateway in &gateways {
        is_back(gateway).await;
    }
    the_log_was_reset(&redis, &gateways, open, last).await;
}

/// While all replicas are down nobody is there to tell; the cursor that comes back still is.
#[tokio::test]
async fn a_reset_that_no_replica_saw_is_told_to_who_returns() {
    let mut redis = RedisServer::start().await;
    let old = replica(&redis).await;
    let cursor = old.publish("orders", "lost").await;
    old.stop(crate::support::PATIENCE).await;
    redis.restart().await;
    let new = replica(&redis).await;
    let reader = new.resume("orders", cursor).await;
    is_gap(&reader, "reset");
}

#[tokio::test]
async fn a_restart_with_its_data_is_told_to_nobody() {
    let mut redis = RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await;
    let (gateways, mut open, last) = followed(&redis).await;
    redis.restart().await;
    for gateway in &gateways {
        is_back(gateway).await;
    }
    gateways[1].publish("orders", "d").await;
    for reader in &mut open {
        assert_eq!(reader.take(1).await, ["d"]);
        reader.stays_silent().await;
    }
    let mut reader = gateways[0].resume("orders", last).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["d"]).await;
}

/// A backup was put back, or a replica of Redis became the master that had not heard of the last events.
#[tokio::test]
async fn what_an_old_dump_does_not_have_is_told_as_lost() {
    let mut redis = RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await;
    let (gateways, mut open, kept) = followed(&redis).await;
    let old = redis.dump().await;
    let lost = gateways[1].publish_all("orders", ["d", "e", "f"]).await;
    for reader in &mut open {
        assert_eq!(reader.take(3).await, ["d", "e", "f"]);
    }
    redis.restore(&old).await;
    for gateway in &gateways {
        is_back(gateway).await;
    }
    for reader in &mut open {
        let data = is_told(reader, "lost").await;
        assert_eq!(data["topics"], json!(["orders"]), "{data}");
    }
    let next = gateways[0].publish("orders", "g").await;
    assert!(
        next > lost[2],
        "ids keep increasing: {next} after {}",
        lost[2]
    );
    for reader in &mut open {
        assert_eq!(reader.take(1).await, ["g"]);
        reader.stays_silent().await;
    }
    let fresh = replica(&redis).await;
    for gateway in gateways.iter().chain([&fresh]) {
        for cursor in [kept, lost[0], lost[1]] {
            let mut reader = gateway.resume("orders", cursor).await;
            is_gap(&reader, "lost");
            assert_eq!(reader.start(), cursor);
            reader.replays(["g"]).await;
        }
        let after = gateway.resume("orders", next).await;
        assert_eq!(after.replay(), "complete");
        let mut earliest = gateway
            .events("topic=orders&lastEventId=earliest")
            .open()
            .await;
        earliest.replays(["a", "b", "c", "g"]).await;
    }
}

/// A topic that had nothing new since the dump has lost nothing.
#[tokio::test]
async fn what_an_old_dump_has_is_no_loss() {
    let mut redis = RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await;
    let gateway = replica(&redis).await;
    let mut quiet = gateway.subscribe("quiet").await;
    let first = gateway.publish("quiet", "a").await;
    assert_eq!(quiet.take(1).await, ["a"]);
    let old = redis.dump().await;
    let mut busy = gateway.subscribe("busy").await;
    gateway.publish_all("busy", ["x", "y"]).await;
    assert_eq!(busy.take(2).await, ["x", "y"]);
    redis.restore(&old).await;
    is_back(&gateway).await;
    is_told(&mut busy, "lost").await;
    quiet.stays_silent().await;
    gateway.publish("quiet", "b").await;
    assert_eq!(quiet.take(1).await, ["b"]);
    let mut reader = gateway.resume("quiet", first).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["b"]).await;
}

/// An event counts as stored only when a replica of Redis has it, too.
#[tokio::test]
async fn with_wait_replicas_an_event_is_acknowledged_when_a_replica_has_it() {
    let master = RedisServer::start().await;
    let copy = RedisServer::settings().replica_of(&master).start().await;
    let settings = settings(&master)
        .with("redis.wait_replicas", 1)
        .with("publish.timeout", "3s");
    let gateway = ready(settings).await;
    let first = json!({"topic": "orders", "data": "first", "key": "first"}).to_string();
    master.is_copied().await;
    eventually("the replica to follow its master", async || {
        match gateway.post(&first).await {
            answer if answer.status() == 200 => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
    for data in numbers(0..10) {
        let stored = gateway.publish("orders", &data).await;
        let newest = [
            "XREVRANGE",
            "tidegate:{0}:topic:orders",
            "+",
            "-",
            "COUNT",
            "1",
        ];
        let newest = copy.command(&newest).await;
        let there = id(&newest.items()[0].items()[0].text());
        assert_eq!(there, stored, "what was acknowledged is there");
    }
    copy.freeze();
    let keyed = json!({"topic": "orders", "data": "k", "key": "k"}).to_string();
    gateway.post(&keyed).await.refuses(504, "store_timeout");
    copy.thaw();
    let again = eventually("the replica to be heard again", async || {
        let answer = gateway.post(&keyed).await;
        match answer.status() {
            200 => Ok(answer),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
    assert_eq!(
        again.json()["duplicate"],
        true,
        "it was stored the first time"
    );
    let mut reader = gateway.events("topic=orders&last=2").open().await;
    reader.replays(["9", "k"]).await;
}

/// Also the repetition: what is answered as a duplicate is as durable as any other.
#[tokio::test]
async fn without_a_replica_of_redis_nothing_is_acknowledged_that_wants_one() {
    let redis = RedisServer::start().await;
    let settings = settings(&redis)
        .with("redis.wait_replicas", 1)
        .with("publish.timeout", "500ms");
    let gateway = ready(settings).await;
    let keyed = json!({"topic": "orders", "data": "k", "key": "k"}).to_string();
    for _ in 0..2 {
        gateway.post(&keyed).await.refuses(504, "store_timeout");
    }
}

/// An id from then would be given to something else now. So nothing is given at all, until the clock has caught up.
#[tokio::test]
async fn a_clock_that_is_far_behind_the_newest_event_stops_publishing_and_says_so() {
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let mut live = gateway.subscribe("orders").await;
    let first = gateway.publish("orders", "a").await;
    let ahead = EventId::new(first.ms() + 1_200_000, 0).to_string();
    redis
        .command(&["HSET", "tidegate:{0}:meta", "last", &ahead])
        .await;
    let second = gateway.publish("orders", "b").await;
    assert_eq!(second.ms(), first.ms() + 1_200_000);
    assert_eq!(live.take(2).await, ["a", "b"]);
    redis.command(&["FLUSHALL"]).await;
    eventually("the gateway to say so", async || {
        let answer = gateway.get("/health").await;
        match answer.status() {
            503 if answer.text().contains("CLOCK_BEHIND") => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
    let body = json!({"topic": "orders", "data": "c"}).to_string();
    let answer = gateway.post(&body).await;
    answer.refuses(503, "store_unavailable");
    assert_eq!(gateway.get("/health/ready").await.status(), 200);
    // What it has in memory it still serves.
    let mut resumed = gateway.resume("orders", first).await;
    assert_eq!(resumed.replay(), "complete");
    resumed.replays(["b"]).await;
}

/// The end went with the log that it ended: the topic is a new one.
#[tokio::test]
async fn a_finished_topic_is_open_again_in_a_new_log() {
    let redis = RedisServer::start().await;
    let gateways: [Gateway; 2] = replicas(&redis).await;
    let mut open = gateways[1].subscribe("orders,other").await;
    let last = gateways[0].finish("orders", Some("last")).await;
    assert_eq!(open.take(1).await, ["last"]);
    let end = id(open.control("$end").await.id.as_deref().unwrap());
    redis.command(&["FLUSHALL"]).await;
    is_told(&mut open, "reset").await;
    let first = gateways[0].publish("orders", "new").await;
    assert!(first > end);
    assert_eq!(open.take(1).await, ["new"]);
    for gateway in &gateways {
        for cursor in [last, end] {
            let mut reader = gateway.resume("orders", cursor).await;
            is_gap(&reader, "reset");
            reader.replays(["new"]).await;
            reader.stays_silent().await;
        }
    }
}

/// The end was among what was lost.
#[tokio::test]
async fn a_topic_whose_end_was_lost_is_open_again() {
    let mut redis = RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await;
    let (gateways, mut open, kept) = followed(&redis).await;
    let old = redis.dump().await;
    gateways[0].finish("orders", Some("d")).await;
    for reader in &mut open {
        assert_eq!(reader.take(1).await, ["d"]);
        reader.control("$end").await;
    }
    let ended = open[0].cursor();
    redis.restore(&old).await;
    for gateway in &gateways {
        is_back(gateway).await;
    }
    // Those that follow another topic, too, are still open: on each replica one, which is told when the loss is known there.
    for at in [1, 3] {
        is_told(&mut open[at], "lost").await;
    }
    let next = gateways[1].publish("orders", "e").await;
    assert!(
        next > id(&ended),
        "ids keep increasing: {next} after {ended}"
    );
    for gateway in &gateways {
        let mut reader = gateway.resume("orders", kept).await;
        is_gap(&reader, "lost");
        reader.replays(["e"]).await;
        reader.stays_silent().await;
        let mut reader = gateway.resume("orders", &ended).await;
        reader.replays(["e"]).await;
    }
}
