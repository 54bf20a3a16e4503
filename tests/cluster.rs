//! In a cluster a gateway goes where its slot is, and goes on when that is elsewhere.

use serde_json::json;

use crate::{
    sentinel::{is_at, ready},
    support::{
        Gateway, RedisCluster, Value, eventually, patiently,
        traffic::{Listener, Lost, Traffic, is_complete, ranges, stored},
    },
};

/// Whether a node has the functions of the gateway.
async fn has_functions(cluster: &RedisCluster, at: usize) -> bool {
    let words = ["FUNCTION", "LIST", "LIBRARYNAME", "tidegate_v1"];
    !cluster.at(at).command(&words).await.items().is_empty()
}

/// The lost ranges of a topic, as the owner has them.
async fn recorded(cluster: &RedisCluster, owner: usize, topic: &str) -> Vec<Lost> {
    let words = ["HGET", "tidegate:{0}:lost", topic];
    match cluster.at(owner).command(&words).await {
        Value::Nil => Vec::new(),
        text => ranges(&text.text()),
    }
}

async fn listeners(gateways: [&Gateway; 2]) -> [Listener; 2] {
    let [a, b] = gateways;
    [
        Listener::until(a.subscribe("orders").await, "the end"),
        Listener::until(b.subscribe("other,orders").await, "the end"),
    ]
}

/// Gateways that are told of one node each, a master that has none of our keys and a replica of it, find the owner; the slot
/// is moved under their hands and back.
#[tokio::test]
async fn a_slot_that_moves_takes_the_gateway_along_and_nothing_is_lost_or_doubled() {
    let cluster = RedisCluster::start().await;
    let (a, b) = tokio::join!(
        ready(cluster.gateway_by([0])),
        ready(cluster.gateway_by([3]))
    );
    let report = a.get("/health").await.json();
    let about = &report["dependencies"]["store"]["redis"];
    assert_eq!(about["via"], "cluster", "{report}");
    for gateway in [&a, &b] {
        is_at(gateway, cluster.at(2).port()).await;
    }
    for at in 0..3 {
        eventually("functions on every master", async || {
            let there = has_functions(&cluster, at).await;
            there.then_some(()).ok_or(format!("none on {at}"))
        })
        .await;
    }

    // More topics than are moved at a time, so that one call can find some keys here and some there.
    for topic in 0..30 {
        a.publish(&format!("filling-{topic}"), "").await;
    }
    let listening = listeners([&a, &b]).await;
    let traffic = Traffic::begin([a.public, b.public], "orders");
    cluster.begin_to_move(2, 1).await;
    for _ in 0..3 {
        cluster.move_keys(2, 1, 5).await;
    }
    // Nothing was done, it says.
    let body = json!({"topic": "filling-0", "data": "", "key": "k"}).to_string();
    eventually("a publish to be refused while keys move", async || {
        let answer = a.post(&body).await;
        match answer.status() {
            503 => Ok(answer.refuses(503, "store_unavailable")),
            // Its keys are all on one side still.
            status => {
                cluster.move_keys(2, 1, 5).await;
                Err(format!("{status} {}", answer.text()))
            }
        }
    })
    .await;
    while cluster.move_keys(2, 1, 100).await > 0 {}
    cluster.end_to_move(2, 1).await;
    for gateway in [&a, &b] {
        is_at(gateway, cluster.at(1).port()).await;
    }
    let acknowledged = traffic.end().await;
    a.publish("orders", "the end").await;
    for listener in listening {
        is_complete(&listener.heard().await, &acknowledged, &[]);
    }

    // At once, and back.
    let listening = listeners([&a, &b]).await;
    let traffic = Traffic::begin([a.public, b.public], "orders");
    cluster.move_slot(1, 2).await;
    for gateway in [&a, &b] {
        is_at(gateway, cluster.at(2).port()).await;
        let changes = "tidegate_redis_master_changes_total";
        gateway.counts(changes, &[], 2).await;
    }
    let acknowledged = traffic.end().await;
    a.publish("orders", "the end").await;
    for listener in listening {
        is_complete(&listener.heard().await, &acknowledged, &[]);
    }
    assert_eq!(recorded(&cluster, 2, "orders").await, []);
}

/// Its owner is killed, comes back, and is asked to take over again; later the cluster has no majority.
#[tokio::test]
async fn the_owner_of_the_slot_is_replaced_and_a_cluster_that_is_down_costs_no_stream() {
    let mut cluster = RedisCluster::start().await;
    let (a, b) = tokio::join!(ready(cluster.gateway()), ready(cluster.gateway_by([0, 1])));
    // A log of which no replica has heard is a new one at the next owner.
    cluster.at(2).is_copied().await;
    let listening = listeners([&a, &b]).await;
    let traffic = Traffic::begin([a.public, b.public], "orders");
    cluster.kill(2).await;
    let owner = cluster.promoted(2).await;
    for gateway in [&a, &b] {
        is_at(gateway, cluster.at(owner).port()).await;
    }
    cluster.restart(2).await;
    cluster.settled().await;
    cluster.fail_over(2).await;
    let owner = cluster.promoted(owner).await;
    for gateway in [&a, &b] {
        is_at(gateway, cluster.at(owner).port()).await;
    }
    cluster.settled().await;
    let acknowledged = traffic.end().await;
    let end = a.publish("orders", "the end").await;
    let lost = recorded(&cluster, owner, "orders").await;
    let log = stored(cluster.at(owner), "orders").await;
    let acknowledged = acknowledged.without_unheard(&log, &lost);
    for listener in listening {
        is_complete(&listener.heard().await, &acknowledged, &lost);
    }
    println!(
        "publishing stood still for {:?} at most, {:?}, lost {}",
        acknowledged.silence,
        acknowledged.refusals,
        acknowledged.lost(&lost)
    );

    // Two of three masters do not answer: the third one may not either.
    let mut reader = a.resume("orders", end).await;
    cluster.freeze(&[0, 1]).await;
    cluster.is_down(owner).await;
    let body = json!({"topic": "orders", "data": "a", "key": "a"}).to_string();
    let answer = a.post(&body).await;
    answer.refuses(503, "store_unavailable");
    assert_eq!(a.get("/health").await.status(), 503);
    assert_eq!(a.get("/health/ready").await.status(), 200);
    reader.stays_silent().await;
    cluster.thaw(&[0, 1]);
    patiently("publishing to go on", async || {
        let answer = b.post(&body).await;
        match answer.status() {
            200 => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
    assert_eq!(reader.take(1).await, ["a"]);
    reader.stays_silent().await;
}
