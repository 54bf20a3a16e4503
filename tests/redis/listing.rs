//! Operators see every topic of the log in Redis, whichever replica they ask, and nobody waits for that.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{replica, replicas};
use crate::support::{Gateway, RedisServer, eventually};

async fn asked(gateway: &Gateway, target: &str) -> Value {
    let answer = gateway.get_admin(target).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

/// The names of the topics that are listed.
async fn names(gateway: &Gateway, query: &str) -> Vec<String> {
    let list = asked(gateway, &format!("/admin/topics?{query}")).await;
    let topics = list["topics"].as_array().unwrap().iter();
    let name = |topic: &Value| topic["topic"].as_str().unwrap().to_owned();
    topics.map(name).collect()
}

#[tokio::test]
async fn every_replica_lists_every_topic_and_its_own_subscribers() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let _readers = [
        a.subscribe("orders,nothing").await,
        a.subscribe("orders").await,
    ];
    let given = a.publish_all("orders", ["1", "2", "3"]).await;
    b.publish("other/b?", "x").await;
    b.finish("done", Some("x")).await;
    for (gateway, followers, listed) in [
        (&a, 2, vec!["done", "nothing", "orders", "other/b?"]),
        (&b, 0, vec!["done", "orders", "other/b?"]),
    ] {
        assert_eq!(names(gateway, "").await, listed);
        let orders = asked(gateway, "/admin/topics/orders").await;
        assert_eq!(orders["events"], 3, "{orders}");
        assert_eq!(orders["first"], given[0].to_string());
        assert_eq!(orders["last"], given[2].to_string());
        assert_eq!(orders["ended"], false);
        assert_eq!(orders["subscribers"], followers, "{orders}");
        assert_eq!(asked(gateway, "/admin/topics/done").await["ended"], true);
        assert_eq!(names(gateway, "prefix=other/b%3F").await, ["other/b?"]);
        assert_eq!(names(gateway, "after=done&limit=1").await, [listed[1]]);
    }
    assert_eq!(b.get_admin("/admin/topics/nothing").await.status(), 404);
}

#[tokio::test]
async fn an_event_is_found_wherever_it_was_published() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    a.publish("other", "x").await;
    let id = a.publish("orders", "found").await;
    let found = asked(&b, &format!("/admin/events/{id}")).await;
    assert_eq!(found["stored"], true, "{found}");
    assert_eq!(found["topic"], "orders");
    assert_eq!(found["event"], "message");
    assert_eq!(found["open"]["past"], json!([]));
    a.ask_admin(crate::support::Request::new(
        "DELETE",
        "/admin/topics/orders",
    ))
    .await;
    let gone = asked(&b, &format!("/admin/events/{id}?topic=orders")).await;
    assert_eq!(gone["stored"], false, "{gone}");
    assert_eq!(gone["reason"], "retention");
}

/// Also where somebody has deleted the hash of last ids: the streams are still there.
#[tokio::test]
async fn topics_are_listed_by_their_streams_where_their_last_ids_are_gone() {
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    gateway.publish_all("orders", ["1", "2"]).await;
    redis.command(&["DEL", "tidegate:{0}:last"]).await;
    assert_eq!(names(&gateway, "").await, ["orders"]);
    let orders = asked(&gateway, "/admin/topics/orders").await;
    assert_eq!(orders["events"], 2, "{orders}");
}

/// Twenty thousand topics are listed page by page, and whoever publishes meanwhile does not wait for it.
#[tokio::test]
async fn a_long_list_makes_nobody_wait() {
    const TOPICS: usize = 20_000;
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    for some in (0..TOPICS).collect::<Vec<_>>().chunks(1_000) {
        let item = |number: &usize| json!({"topic": format!("t/{number:06}"), "data": ""});
        let batch: Vec<Value> = some.iter().map(item).collect();
        let answer = gateway.post(Value::from(batch).to_string()).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    let mut reader = gateway.subscribe("orders").await;
    let listing = async {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = names(&gateway, &format!("after={after}")).await;
            let Some(last) = page.last() else { return all };
            last.clone_into(&mut after);
            all.extend(page);
        }
    };
    let events = async {
        let mut slowest = Duration::ZERO;
        for number in 0..40 {
            let begun = Instant::now();
            gateway.publish("orders", &number.to_string()).await;
            reader.next().await;
            slowest = slowest.max(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        slowest
    };
    let (mut all, slowest) = tokio::join!(listing, events);
    all.retain(|name| name != "orders");
    let wanted: Vec<String> = (0..TOPICS).map(|number| format!("t/{number:06}")).collect();
    assert_eq!(all, wanted);
    assert!(
        slowest < Duration::from_secs(2),
        "an event took {slowest:?}"
    );
}

#[tokio::test]
async fn the_figures_of_all_replicas_are_added_up() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let _readers = [a.subscribe("orders").await, b.subscribe("orders").await];
    eventually("both replicas to be heard of", async || {
        let stats = asked(&a, "/stats?scope=cluster").await;
        let followed = stats["topics"]["followed"].as_u64();
        let memory = stats["memory"]["resident_bytes"].as_u64();
        if followed == Some(2) && memory > Some(1 << 20) {
            return Ok(());
        }
        Err(stats.to_string())
    })
    .await;
}
