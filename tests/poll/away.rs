//! Redis away is no outage for those who poll: what the tail proves is served, and what it does not is not guessed.

use std::time::Duration;

use tidegate::event::EventId;
use tokio::time::sleep;

use crate::{
    redis::{is_back, replica, replica_of},
    support::{Fsync, Gateway, Poller, RedisServer, Response, eventually, numbers, within},
};

async fn durable() -> RedisServer {
    RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await
}

/// Waits until the gateway has noticed that its Redis is away.
async fn notices(gateway: &Gateway) {
    eventually("the gateway to notice", async || {
        match gateway.get("/health").await {
            answer if answer.status() == 503 => Ok(()),
            answer => Err(answer.text()),
        }
    })
    .await;
}

fn comes_again(answer: &Response) {
    answer.refuses(503, "store_unavailable");
    let pause: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&pause), "{answer:?}");
}

#[tokio::test]
async fn a_poll_that_the_tail_proves_is_served() {
    let mut redis = durable().await;
    let settings = Gateway::with("tail.events", 5);
    let gateway = replica_of(settings, &redis).await;
    let mut live = gateway.subscribe("orders").await;
    let mut ids = Vec::new();
    for data in numbers(0..20) {
        ids.push(gateway.publish("orders", &data).await);
        assert_eq!(live.take(1).await, [data]);
    }
    redis.kill();
    notices(&gateway).await;
    for at in [15, 17, 18] {
        let query = format!("topic=orders&wait=5s&lastEventId={}", ids[at]);
        let polled = gateway.poll(&query).answer().await;
        polled.is_complete();
        assert_eq!(polled.data(), numbers(at + 1..20));
        assert_eq!(polled.place(), ids[19]);
    }
    // Who has everything waits, and is told that nothing came.
    let query = format!("topic=orders&wait=300ms&lastEventId={}", ids[19]);
    let polled = gateway.poll(&query).answer().await;
    polled.is_complete();
    assert!(polled.events.is_empty(), "{polled:?}");
    let now = gateway.poll("topic=orders&wait=0s").answer().await;
    assert_eq!(now.place(), ids[19], "from now is after what is known");
    for query in [
        format!("topic=orders&lastEventId={}", ids[2]),
        format!(
            "topic=orders&lastEventId={}",
            EventId::new(ids[19].ms() + 5_000, 0)
        ),
        format!("topic=unheard-of&lastEventId={}", ids[19]),
        format!("topic=orders,unheard-of&lastEventId={}", ids[19]),
        "topic=orders&last=3".to_owned(),
        "topic=orders&since=1h".to_owned(),
    ] {
        let answer = gateway.poll(&format!("{query}&wait=0s")).ask().await;
        comes_again(&answer);
    }
    redis.restart().await;
    is_back(&gateway).await;
    let query = format!("topic=orders&wait=0s&lastEventId={}", ids[2]);
    let polled = gateway.poll(&query).answer().await;
    polled.is_complete();
    assert_eq!(polled.data(), numbers(3..20));
}

/// The wait goes on over the outage, and ends with what was missed.
#[tokio::test]
async fn a_poll_that_waits_while_redis_comes_and_goes_gets_what_it_missed() {
    let mut redis = durable().await;
    let gateway = replica(&redis).await;
    let mut poller = gateway.poller("orders").await;
    gateway.publish("orders", "before").await;
    assert_eq!(poller.take(1).await, ["before"]);
    let waiting = poller.poll("wait=60s").begin().await;
    gateway.has_places_taken(1).await;
    redis.kill();
    notices(&gateway).await;
    redis.restart().await;
    let direct = crate::functions::publish_by_hand(&redis, "orders", "meanwhile").await;
    let polled = waiting.answer().await;
    polled.is_complete();
    assert_eq!(polled.events[0].id, direct);
    assert_eq!(polled.events[0].data, "meanwhile");
    poller.cursor = polled.cursor;
    is_back(&gateway).await;
    gateway.publish("orders", "after").await;
    let mut got: Vec<_> = polled.events[1..]
        .iter()
        .map(|event| event.data.clone())
        .collect();
    got.extend(poller.take(1 - got.len()).await);
    assert_eq!(got, ["after"]);
}

/// Again and again; each time everything that was missed comes once, and what cannot be proven is asked for again.
#[tokio::test]
async fn a_chain_over_a_redis_that_comes_and_goes_loses_nothing() {
    let mut redis = durable().await;
    let gateways = [replica(&redis).await, replica(&redis).await];
    let start = gateways[0].poller("orders").await.cursor;
    let mut wanted = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let mut cursor = start;
    let read = async |cursor: &mut String, seen: &mut Vec<String>, at: usize| {
        let poller = Poller::from(gateways[at % 2].public, "orders", &*cursor);
        let answer = poller.poll("wait=100ms").ask().await;
        if answer.status() == 503 {
            comes_again(&answer);
            return;
        }
        let polled = crate::support::Polled::of(&answer);
        polled.is_complete();
        seen.extend(polled.events.into_iter().map(|event| event.data));
        *cursor = polled.cursor;
    };
    for round in 0..3 {
        let data = format!("{round} before");
        gateways[0].publish("orders", &data).await;
        wanted.push(data);
        redis.kill();
        for at in 0..3 {
            read(&mut cursor, &mut seen, at).await;
        }
        sleep(Duration::from_millis(150 * round)).await;
        redis.restart().await;
        let data = format!("{round} by hand");
        crate::functions::publish_by_hand(&redis, "orders", &data).await;
        wanted.push(data);
        for at in 0..3 {
            read(&mut cursor, &mut seen, at).await;
        }
        is_back(&gateways[0]).await;
        is_back(&gateways[1]).await;
    }
    // That Redis is there again does not say that what was missed has been read.
    let all = async {
        for at in 0.. {
            if seen.len() >= wanted.len() {
                break;
            }
            read(&mut cursor, &mut seen, at).await;
        }
    };
    within("all that was published", all).await;
    for at in 0..4 {
        read(&mut cursor, &mut seen, at).await;
    }
    assert_eq!(seen, wanted);
}

/// Before the first contact a replica has no tail, no frontier, no clock.
#[tokio::test]
async fn a_replica_that_has_not_met_its_redis_takes_no_polls() {
    let mut redis = durable().await;
    let url = redis.url();
    redis.kill();
    let gateway = Gateway::settings().env("REDIS_URL", &url).start().await;
    notices(&gateway).await;
    for query in [
        "topic=orders&wait=0s",
        "topic=orders&lastEventId=earliest&wait=0s",
    ] {
        comes_again(&gateway.poll(query).ask().await);
    }
    redis.restart().await;
    is_back(&gateway).await;
    let polled = gateway.poll("topic=orders&wait=0s").answer().await;
    assert_eq!(polled.replay, "none");
}

/// A flushed Redis is another log: that is told, and what is in the new one follows.
#[tokio::test]
async fn a_flushed_redis_is_told_as_a_reset() {
    let redis = durable().await;
    let gateway = replica(&redis).await;
    let mut poller = gateway.poller("orders").await;
    gateway.publish("orders", "before").await;
    assert_eq!(poller.take(1).await, ["before"]);
    redis.command(&["FLUSHALL"]).await;
    eventually("the reset to be told", async || {
        let answer = poller.poll("wait=0s").ask().await;
        if answer.status() == 503 {
            return Err(answer.text());
        }
        let polled = crate::support::Polled::of(&answer);
        if polled.replay == "gap" {
            polled.is_gap("reset", &["orders"]);
            poller.cursor = polled.cursor;
            Ok(())
        } else {
            assert!(polled.events.is_empty(), "{polled:?}");
            Err(polled.replay)
        }
    })
    .await;
    is_back(&gateway).await;
    gateway.publish("orders", "after").await;
    assert_eq!(poller.take(1).await, ["after"]);
}

/// The log was born anew under a poll that waits: it waits for nothing more.
#[tokio::test]
async fn a_flush_ends_the_wait() {
    let redis = durable().await;
    let gateway = replica(&redis).await;
    let poller = gateway.poller("orders").await;
    let waiting = poller.poll("wait=60s").begin().await;
    gateway.has_places_taken(1).await;
    redis.command(&["FLUSHALL"]).await;
    let polled = waiting.answer().await;
    polled.is_gap("reset", &["orders"]);
    let mut poller = Poller::from(gateway.public, "orders", &polled.cursor);
    is_back(&gateway).await;
    gateway.publish("orders", "after").await;
    assert_eq!(poller.take(1).await, ["after"]);
}
