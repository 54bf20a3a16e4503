//! Replicas that share a log: a chain of polls may ask another one each time.

use tidegate::event::EventId;

use crate::{
    redis::{replica, replica_of},
    support::{Gateway, Poller, RedisServer, id, numbers},
};

#[tokio::test]
async fn a_chain_that_changes_the_replica_loses_and_doubles_nothing() {
    let redis = RedisServer::start().await;
    let gateways = [replica(&redis).await, replica(&redis).await];
    super::chain::over_replicas(&gateways, &[21, 22]).await;
}

/// The cursor of one replica may be ahead of what another has heard: that is no future and no loss.
#[tokio::test]
async fn a_cursor_that_a_replica_has_not_reached_yet_is_complete() {
    let redis = RedisServer::start().await;
    let (a, b) = (replica(&redis).await, replica(&redis).await);
    let mut poller = a.poller("orders").await;
    for number in 0..100 {
        let data = number.to_string();
        let publisher = [&a, &b][number % 2];
        let stored = publisher.publish("orders", &data).await;
        poller.at([b.public, a.public][number % 2]);
        let polled = poller.once("wait=5s").await;
        polled.is_complete();
        assert_eq!(polled.data(), [data]);
        assert_eq!(polled.events[0].id, stored);
        assert!(polled.place() >= stored);
    }
    poller.stays_silent().await;
}

/// A poll that waits at one replica is woken by what was published on another.
#[tokio::test]
async fn what_is_published_elsewhere_ends_the_wait() {
    let redis = RedisServer::start().await;
    let (a, b) = (replica(&redis).await, replica(&redis).await);
    let mut poller = a.poller("orders,other").await;
    for number in 0..20 {
        let waiting = poller.poll("wait=60s").begin().await;
        a.has_places_taken(1).await;
        let data = number.to_string();
        let stored = b.publish(["orders", "other"][number % 2], &data).await;
        let polled = waiting.answer().await;
        polled.is_complete();
        assert_eq!(polled.data(), [data]);
        assert_eq!(polled.events[0].id, stored);
        poller.cursor = polled.cursor;
    }
}

#[tokio::test]
async fn history_is_paged_on_any_replica() {
    const EVENTS: usize = 1_200;
    let redis = RedisServer::start().await;
    let settings = || Gateway::with("tail.events", 100);
    let gateways = [
        replica_of(settings(), &redis).await,
        replica_of(settings(), &redis).await,
    ];
    for (at, piece) in numbers(0..EVENTS).chunks(100).enumerate() {
        gateways[at % 2].publish_lines("orders", piece).await;
    }
    let mut poller = Poller::from(gateways[0].public, "orders", "0-0");
    let mut seen = Vec::new();
    let mut page = 0;
    while seen.len() < EVENTS {
        poller.at(gateways[page % 2].public);
        let polled = poller.once("wait=0s&limit=70").await;
        assert_eq!(polled.replay, if page == 0 { "none" } else { "complete" });
        assert!(!polled.events.is_empty(), "{polled:?}");
        seen.extend(polled.events.into_iter().map(|event| event.data));
        page += 1;
    }
    assert!(seen == numbers(0..EVENTS), "each once, in order");
}

/// A quiet topic keeps its place by the checkpoints of whichever replica is asked.
#[tokio::test]
async fn a_checkpoint_of_one_replica_is_good_at_the_other() {
    let redis = RedisServer::start().await;
    let settings = || Gateway::with("retention.events", 5);
    let a = replica_of(settings(), &redis).await;
    let b = replica_of(settings(), &redis).await;
    let mut poller = a.poller("quiet").await;
    let mut newest = EventId::ZERO;
    for number in 0..200 {
        newest = b.publish("busy", &number.to_string()).await;
        if number % 20 == 0 {
            poller.at([a.public, b.public][number / 20 % 2]);
            let polled = poller.once("wait=50ms").await;
            polled.is_complete();
            assert!(polled.events.is_empty(), "{polled:?}");
            assert!(polled.place() <= newest, "never beyond what was stored");
        }
    }
    assert!(id(&poller.cursor) <= newest);
    a.publish("quiet", "at last").await;
    for gateway in [&a, &b] {
        let mut poller = Poller::from(gateway.public, "quiet", &poller.cursor);
        assert_eq!(poller.take(1).await, ["at last"]);
    }
}

#[tokio::test]
async fn the_end_of_a_topic_is_told_on_every_replica() {
    let redis = RedisServer::start().await;
    let (a, b) = (replica(&redis).await, replica(&redis).await);
    let poller = b.poller("orders").await;
    let waiting = poller.poll("wait=60s").begin().await;
    b.has_places_taken(1).await;
    a.finish("orders", Some("last")).await;
    let polled = waiting.answer().await;
    assert_eq!(polled.data(), ["last"]);
    for gateway in [&a, &b] {
        let mut poller = Poller::from(gateway.public, "orders", &polled.cursor);
        let end = poller.once("wait=5s").await;
        end.is_complete();
        assert_eq!(end.ended, ["orders"]);
    }
}
