//! Servers that have no functions, or forbid them, are called by scripts of the same source: nobody outside notices.

use serde_json::json;

use crate::{
    redis::{access::RIGHTS, is_back, replica},
    support::{
        Gateway, RedisServer, Request, eventually,
        traffic::{Listener, Traffic, is_complete},
    },
};

async fn says(gateway: &Gateway, calls: &str) {
    let report = gateway.get("/health").await.json();
    let redis = &report["dependencies"]["store"]["redis"];
    assert_eq!(redis["functions"], calls, "{report}");
}

async fn without_functions() -> RedisServer {
    RedisServer::settings().without_functions().start().await
}

#[tokio::test]
async fn without_functions_everything_is_as_it_is_with_them() {
    let redis = without_functions().await;
    let (a, b) = tokio::join!(replica(&redis), replica(&redis));
    says(&a, "scripts").await;
    let mut reader = b.subscribe("orders").await;
    let first = a.publish("orders", "a").await;
    let batch = b.publish_all("orders", ["b", "c"]).await;
    a.publish_lines("orders", ["d", "e"]).await;
    assert!(first < batch[0] && batch[0] < batch[1]);
    assert_eq!(reader.take(5).await, ["a", "b", "c", "d", "e"]);

    // Idempotency, over replicas.
    let keyed = |data: &str| json!({"topic": "orders", "data": data, "key": "k"}).to_string();
    let stored = a.post(keyed("f")).await.json();
    let again = b.post(keyed("f")).await.json();
    assert_eq!(again["id"], stored["id"]);
    assert_eq!(again["duplicate"], true, "{again}");
    let other = b.post(keyed("other")).await;
    other.refuses(409, "idempotency_mismatch");
    assert_eq!(reader.take(1).await, ["f"]);

    // Resumes, of what is in no replica's memory too.
    let fresh = replica(&redis).await;
    for gateway in [&a, &fresh] {
        let mut resumed = gateway.resume("orders", batch[0]).await;
        assert_eq!(resumed.replay(), "complete");
        resumed.replays(["c", "d", "e", "f"]).await;
    }
    let mut last = fresh.events("topic=orders&last=2").open().await;
    last.replays(["e", "f"]).await;

    // What operators do, and an end.
    let listed = fresh.get_admin("/admin/topics/orders").await.json();
    assert_eq!(listed["events"], 6, "{listed}");
    eventually("all replicas to be counted", async || {
        let stats = a.get_admin("/stats?scope=cluster").await.json();
        let count = stats["replicas"].as_array().map(Vec::len);
        if count == Some(3) {
            Ok(())
        } else {
            Err(stats.to_string())
        }
    })
    .await;
    let request = Request::new("DELETE", "/admin/topics/orders");
    let deleted = a.ask_admin(request).await;
    assert_eq!(deleted.status(), 200, "{deleted:?}");
    b.finish("orders", Some("g")).await;
    assert_eq!(reader.take(1).await, ["g"]);
    reader.control("$end").await;
    let more = json!({"topic": "orders", "data": "h"}).to_string();
    a.post(&more).await.refuses(409, "topic_finished");
}

/// A restart, a failover, or somebody who flushes them.
#[tokio::test]
async fn scripts_that_a_server_has_forgotten_are_loaded_again() {
    let redis = without_functions().await;
    let (a, b) = tokio::join!(replica(&redis), replica(&redis));
    let listeners = [&a, &b].map(async |gateway| {
        let reader = gateway.subscribe("orders").await;
        Listener::until(reader, "the end")
    });
    let listeners = futures_util::future::join_all(listeners).await;
    let traffic = Traffic::begin([a.public, b.public], "orders");
    for _ in 0..5 {
        redis.command(&["SCRIPT", "FLUSH"]).await;
        is_back(&a).await;
        is_back(&b).await;
    }
    let acknowledged = traffic.end().await;
    a.publish("orders", "the end").await;
    assert!(
        !acknowledged.refusals.contains_key("store_timeout"),
        "it is known that nothing was done"
    );
    for listener in listeners {
        is_complete(&listener.heard().await, &acknowledged, &[]);
    }
}

/// What reads, and what must work nevertheless, is told apart by the first lines of the scripts.
#[tokio::test]
async fn with_full_memory_scripts_refuse_what_functions_refuse() {
    let redis = without_functions().await;
    let gateway = replica(&redis).await;
    let mut reader = gateway.subscribe("orders").await;
    let first = gateway.publish_all("orders", ["a", "b"]).await[0];
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let body = json!({"topic": "orders", "data": "c"}).to_string();
    let answer = gateway.post(&body).await;
    answer.refuses(503, "store_unavailable");
    assert_eq!(reader.take(2).await, ["a", "b"]);
    // One that begins now finds the log, and reads it.
    let fresh = replica(&redis).await;
    let mut resumed = fresh.resume("orders", first).await;
    resumed.replays(["b"]).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    gateway.publish("orders", "c").await;
    assert_eq!(reader.take(1).await, ["c"]);
    assert_eq!(resumed.take(1).await, ["c"]);
}

/// The rights are those that docs/redis.md names. Replicas that call one way and the other share a log.
#[tokio::test]
async fn who_has_no_right_to_functions_shares_the_log_with_who_has() {
    let to_call = "+fcall +fcall_ro +function|load";
    assert!(RIGHTS.contains(to_call), "{RIGHTS}");
    let rights = RIGHTS.replace(to_call, "+evalsha +script|load");
    let rights = format!("on >secret {rights}");
    let settings = RedisServer::settings().user("gateway", &rights);
    let redis = settings.start().await;
    let by_functions = replica(&redis).await;
    let by_scripts = Gateway::settings();
    let by_scripts = by_scripts.env("REDIS_URL", &redis.url_as("gateway", "secret"));
    let by_scripts = by_scripts.start().await;
    is_back(&by_scripts).await;
    says(&by_functions, "functions").await;
    says(&by_scripts, "scripts").await;
    let mut readers = [
        by_functions.subscribe("orders").await,
        by_scripts.subscribe("orders").await,
    ];
    let mut ids = Vec::new();
    for (gateway, data) in [(&by_scripts, "a"), (&by_functions, "b"), (&by_scripts, "c")] {
        ids.push(gateway.publish("orders", data).await);
    }
    assert!(ids.is_sorted());
    for reader in &mut readers {
        assert_eq!(reader.take(3).await, ["a", "b", "c"]);
        reader.stays_silent().await;
    }
}
