//! A master that is parted from everybody but the gateway goes on calling itself master.

use serde_json::json;

use super::{copied, is_at, length, ready};
use crate::support::{RedisSentinel, eventually};

#[tokio::test]
async fn a_master_that_the_others_have_replaced_is_left_though_it_answers() {
    let group = RedisSentinel::start().await;
    let port = group.wire(0).port();
    let blind = format!("redis://:{}@127.0.0.1:{port}", group.at(0).password());
    let (a, b, blind) = tokio::join!(
        ready(group.gateway()),
        ready(group.gateway()),
        // It knows of no Sentinel, so it stays.
        ready(crate::support::Gateway::with("redis.url", blind))
    );
    let mut reader = a.subscribe("orders").await;
    let kept = a.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    copied(&group, "orders", 1).await;

    group.part(0);
    // It has not noticed yet.
    let lost = b.publish("orders", "b").await;
    assert_eq!(reader.take(1).await, ["b"]);
    group.miss_soon().await;
    let master = group.promoted(0).await;
    for gateway in [&a, &b] {
        is_at(gateway, group.wire(master).port()).await;
    }
    let gap = reader.control("$gap").await;
    assert!(gap.data.unwrap().contains("lost"));
    let next = b.publish("orders", "c").await;
    assert!(kept < lost && lost < next, "ids keep increasing");
    assert_eq!(reader.take(1).await, ["c"]);
    assert_eq!(length(&group, master, "orders").await, 2);

    // `min-replicas-to-write 1`: nobody can be acknowledged what will be lost.
    let body = json!({"topic": "orders", "data": "nobody's"}).to_string();
    eventually("the old master to take nothing", async || {
        let answer = blind.post(&body).await;
        match answer.status() {
            503 => Ok(answer.refuses(503, "store_unavailable")),
            status => Err(format!("{status} {}", answer.text())),
        }
    })
    .await;
    eventually("the gateway to say why", async || {
        let answer = blind.get("/health").await;
        let text = answer.text();
        let degraded = text.contains("degraded") && text.contains("min-replicas-to-write");
        if degraded { Ok(()) } else { Err(text) }
    })
    .await;
    group.heal(0);
    group.follows(0, master).await;
    // What the old one took meanwhile is gone, and nobody who follows the Sentinels ever hears of it.
    assert_eq!(length(&group, 0, "orders").await, 2);
    reader.stays_silent().await;
}
