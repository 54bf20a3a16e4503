//! What goes on behind a replica's back is found: a server that is no master any more, a deletion that was not heard, settings
//! that went with a flush, ids that cannot be.

use serde_json::json;

use super::{is_back, is_gap, is_healthy, replica, replicas, settings};
use crate::support::{PATIENCE, RedisServer, Request, eventually, eventually_within};

const CHANNEL: &str = "tidegate:{0}:ch:orders";

/// Used to be followed for ever, with a health that said `ok` while every publish was refused.
#[tokio::test]
async fn a_server_that_became_a_replica_is_left() {
    let redis = RedisServer::start().await;
    let master = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let port = master.port().to_string();
    redis.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    // The feed looks at its server every five seconds.
    eventually_within(4 * PATIENCE, "health to say so", async || {
        let answer = gateway.get("/health").await;
        match answer.status() {
            503 if answer.text().contains("replica") => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
    let refused = gateway
        .post(json!({"topic": "orders", "data": "no"}).to_string())
        .await;
    assert_eq!(refused.status(), 503, "{refused:?}");
    redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    is_back(&gateway).await;
}

/// Used to stay in the tail of a replica whose feed was cut at that moment, and to be replayed from there as complete.
#[tokio::test]
async fn what_was_deleted_while_the_feed_was_cut_is_gone_everywhere() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut open = b.subscribe("orders").await;
    let first = a.publish("orders", "1").await;
    a.publish("orders", "2").await;
    assert_eq!(open.take(2).await, ["1", "2"]);
    let keys = ["meta", "last", "heads", "topic:orders", "ch:orders"]
        .map(|name| format!("tidegate:{{0}}:{name}"));
    let delete = ["FCALL", "tidegate_delete", "5"]
        .into_iter()
        .chain(keys.iter().map(String::as_str))
        .chain(["orders"]);
    let delete: Vec<&str> = delete.collect();
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    redis.command(&delete).await;
    eventually("the gap to be told", async || {
        let resumed = b.resume("orders", first).await;
        match resumed.open_data()["replay"].as_str() {
            Some("gap") => {
                is_gap(&resumed, "retention");
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    a.publish("orders", "3").await;
    assert_eq!(open.take(1).await, ["3"]);
    let mut earliest = b.events("topic=orders&lastEventId=earliest").open().await;
    assert_eq!(earliest.take(1).await, ["3"]);
}

/// Used to run with the defaults until some replica connected again.
#[tokio::test]
async fn a_flushed_log_gets_its_settings_back_also_when_a_publish_made_it() {
    let redis = RedisServer::start().await;
    let gateway = super::ready(settings(&redis).with("retention.events", 7)).await;
    redis.command(&["FLUSHALL"]).await;
    gateway.publish("orders", "first").await;
    eventually("the settings to be there", async || {
        let kept = redis
            .command(&["HGET", "tidegate:{0}:meta", "retention"])
            .await
            .to_string();
        if kept.contains("\"events\":7") || kept.contains("\\\"events\\\":7") {
            Ok(())
        } else {
            Err(kept)
        }
    })
    .await;
}

/// Used to make every later connection fail, because ids would have had to lie above it.
#[tokio::test]
async fn a_message_from_the_far_future_is_passed_over() {
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let mut reader = gateway.subscribe("orders").await;
    let first = gateway.publish("orders", "1").await;
    let forged = format!("99999999999999-0 {first} e message\nforged");
    redis.command(&["SPUBLISH", CHANNEL, &forged]).await;
    let skipped = "tidegate_store_entries_skipped_total";
    gateway.counts(skipped, &[], 1).await;
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    gateway.publish("orders", "2").await;
    assert_eq!(reader.take(2).await, ["1", "2"]);
    is_healthy(&gateway).await;
    assert_eq!(gateway.metric(skipped).await, Some(1.0));
}

/// A topic that was given up while Redis was away used to hold up every other one for ever: its join was never answered.
#[tokio::test]
async fn a_topic_that_was_given_up_in_an_outage_holds_up_nobody() {
    let mut redis = RedisServer::settings()
        .appendonly(crate::support::Fsync::Always)
        .start()
        .await;
    let gateway = super::ready(settings(&redis).with("tail.linger", "100ms")).await;
    let mut stays = gateway.subscribe("stays").await;
    let leaves = gateway.subscribe("leaves").await;
    redis.kill();
    eventually("the outage to be noticed", async || {
        match gateway.ask(Request::get("/health")).await.status() {
            503 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    drop(leaves);
    eventually("the topic to be given up", async || {
        let stats = gateway.get_admin("/stats").await.json();
        match stats["topics"]["followed"].as_u64() {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    redis.restart().await;
    is_back(&gateway).await;
    gateway.publish("stays", "here").await;
    assert_eq!(stays.take(1).await, ["here"]);
}
