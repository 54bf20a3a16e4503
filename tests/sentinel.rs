//! With Sentinel a gateway goes where the master is, and whatever a failover loses is told to whoever could have had it.

mod figures;
mod guides;
mod lost;
mod split;

use tidegate::event::EventId;

use crate::support::{
    Gateway, RedisSentinel, Settings, eventually, patiently,
    traffic::{Listener, Lost, Traffic, is_complete, ranges},
};

/// Streams that show signs of life often, so that a failover is waited for.
pub(crate) fn lively(settings: Settings) -> Settings {
    settings.with("stream.keepalive", "500ms")
}

/// Starts a replica of the gateway and waits until it has met its Redis.
pub(crate) async fn ready(settings: Settings) -> Gateway {
    let gateway = lively(settings).start().await;
    crate::redis::is_healthy(&gateway).await;
    gateway
}

/// Waits until a gateway says that its Redis is the one with this port, and that all is well.
pub(crate) async fn is_at(gateway: &Gateway, port: u16) {
    let wanted = format!("127.0.0.1:{port}");
    patiently(&format!("the gateway to be at {wanted}"), async || {
        let answer = gateway.get("/health").await;
        let report = answer.json();
        let at = &report["dependencies"]["store"]["redis"]["master"];
        match answer.status() {
            200 if *at == *wanted => Ok(()),
            status => Err(format!("{status} {report}")),
        }
    })
    .await;
}

/// The lost ranges of a topic, as the master has them.
async fn recorded(group: &RedisSentinel, master: usize, topic: &str) -> Vec<Lost> {
    let words = ["HGET", "tidegate:{0}:lost", topic];
    match group.at(master).command(&words).await {
        crate::support::Value::Nil => Vec::new(),
        text => ranges(&text.text()),
    }
}

/// How many entries of a topic a server has.
async fn length(group: &RedisSentinel, at: usize, topic: &str) -> i64 {
    let key = format!("tidegate:{{0}}:topic:{topic}");
    group.at(at).command(&["XLEN", &key]).await.integer()
}

/// Waits until all servers have as many entries of a topic.
async fn copied(group: &RedisSentinel, topic: &str, count: i64) {
    eventually("the replicas to have it all", async || {
        for at in 0..3 {
            match length(group, at, topic).await {
                has if has == count => {}
                has => return Err(format!("{at} has {has}")),
            }
        }
        Ok(())
    })
    .await;
}

/// A master that is killed, one that comes back, and one that is asked to give way: with `redis.wait_replicas` none of it loses
/// what was acknowledged, and open streams have everything once and in order.
#[tokio::test]
async fn publishing_goes_on_at_the_next_master_and_streams_miss_nothing() {
    let mut group = RedisSentinel::start().await;
    let settings = || group.gateway().with("redis.wait_replicas", 1);
    let (a, b) = tokio::join!(ready(settings()), ready(settings()));
    let report = a.get("/health").await.json();
    let about = &report["dependencies"]["store"]["redis"];
    assert_eq!(about["via"], "sentinel", "{report}");
    is_at(&a, group.wire(0).port()).await;
    // A log of which no replica has heard is a new one at the next master.
    group.at(0).is_copied().await;
    let first = a.subscribe("orders").await;
    let begin = first.start();
    let listeners = [
        Listener::until(first, "the end"),
        Listener::until(b.subscribe("orders").await, "the end"),
    ];
    let traffic = Traffic::begin([a.public, b.public], "orders");

    group.kill(0).await;
    let second = group.promoted(0).await;
    for gateway in [&a, &b] {
        is_at(gateway, group.wire(second).port()).await;
    }
    group.restart(0).await;
    group.follows(0, second).await;
    group.settled().await;

    group.fail_over().await;
    let third = group.promoted(second).await;
    for gateway in [&a, &b] {
        is_at(gateway, group.wire(third).port()).await;
        let changes = gateway.metric("tidegate_redis_master_changes_total").await;
        assert!(changes >= Some(2.0), "{changes:?}");
    }
    group.settled().await;

    let acknowledged = traffic.end().await;
    let last = a.publish("orders", "the end").await;
    assert!(acknowledged.events.len() > 10, "{acknowledged:?}");
    let lost = recorded(&group, third, "orders").await;
    assert_eq!(acknowledged.lost(&lost), 0, "lost {lost:?}");
    for listener in listeners {
        is_complete(&listener.heard().await, &acknowledged, &lost);
    }
    // What came live is what is in the log.
    for gateway in [&a, &b] {
        let reader = gateway.resume("orders", begin).await;
        let heard = Listener::until(reader, "the end").heard().await;
        is_complete(&heard, &acknowledged, &lost);
    }
    let newest: EventId = acknowledged.events.last().unwrap().0;
    assert!(last > newest, "ids increase");
}
