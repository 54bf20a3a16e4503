//! What whoever runs the gateway sees of all replicas, and does to all of them.

use serde_json::Value;

use super::{is_gap, ready, replica, replicas, settings};
use crate::support::{
    Gateway, PATIENCE, RedisServer, Request, Response, eventually, eventually_within,
};

async fn cluster(gateway: &Gateway) -> Value {
    let answer = gateway.get_admin("/stats?scope=cluster").await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

fn listed(stats: &Value) -> Vec<String> {
    let replicas = stats["replicas"].as_array().unwrap().iter();
    let mut addresses: Vec<_> = replicas
        .map(|replica| replica["address"].as_str().unwrap().to_owned())
        .collect();
    addresses.sort();
    addresses
}

async fn delete(gateway: &Gateway, topic: &str) -> Response {
    let target = format!("/admin/topics/{topic}");
    gateway.ask_admin(Request::new("DELETE", &target)).await
}

#[tokio::test]
async fn the_connections_of_all_replicas_are_added_up() {
    let redis = RedisServer::start().await;
    let gateways: [Gateway; 3] = replicas(&redis).await;
    let mut open = Vec::new();
    for (count, gateway) in gateways.iter().enumerate() {
        for _ in 0..count {
            open.push(gateway.subscribe("orders").await);
        }
    }
    gateways[2].publish("orders", "a").await;
    let mut wanted: Vec<_> = gateways
        .iter()
        .map(|gateway| gateway.public.to_string())
        .collect();
    wanted.sort();
    for gateway in &gateways {
        let stats = eventually("all replicas to be heard of", async || {
            let stats = cluster(gateway).await;
            let connections = stats["connections"]["active_connections"].as_u64();
            if listed(&stats) == wanted && connections == Some(3) {
                return Ok(stats);
            }
            Err(stats.to_string())
        })
        .await;
        let mut ids = Vec::new();
        for replica in stats["replicas"].as_array().unwrap() {
            let address = replica["address"].as_str().unwrap();
            let which = gateways
                .iter()
                .position(|gateway| gateway.public.to_string() == address);
            assert_eq!(replica["connections"], which.unwrap(), "{stats}");
            assert_eq!(replica["version"], env!("CARGO_PKG_VERSION"));
            assert!(
                replica["started"].as_str().unwrap().ends_with('Z'),
                "{stats}"
            );
            ids.push(replica["id"].as_str().unwrap());
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 3, "{stats}");
    }
    drop(open);
    let none = async || {
        let stats = cluster(&gateways[0]).await;
        match stats["connections"]["active_connections"].as_u64() {
            Some(0) => Ok(()),
            _ => Err(stats.to_string()),
        }
    };
    eventually("the streams to be gone everywhere", none).await;
    let own = gateways[0].get_admin("/stats").await.json();
    assert!(
        own["replicas"].is_null(),
        "one replica is the default: {own}"
    );
    let wrong = gateways[0].get_admin("/stats?scope=world").await;
    assert_eq!(wrong.status(), 400, "{wrong:?}");
}

/// Whoever ends in peace says so; whoever is killed is missed when its lease is over.
#[tokio::test]
async fn a_replica_that_is_gone_is_no_longer_listed() {
    let redis = RedisServer::start().await;
    let [a, b, c] = replicas(&redis).await;
    let known = eventually("all replicas to be heard of", async || {
        let stats = cluster(&a).await;
        match listed(&stats).len() {
            3 => Ok(stats),
            _ => Err(stats.to_string()),
        }
    })
    .await;
    let address = c.public.to_string();
    let mut replicas = known["replicas"].as_array().unwrap().iter();
    let about = replicas.find(|replica| replica["address"] == address.as_str());
    let id = about.unwrap()["id"].as_str().unwrap();
    b.stop(PATIENCE).await;
    let left = listed(&cluster(&a).await);
    assert_eq!(left.len(), 2, "it gave its lease back: {left:?}");
    drop(c);
    // By the clock of Redis, which is none of how slow this machine is.
    let lease = ["HGET", "tidegate:{0}:replicas", id];
    let lease = redis.command(&lease).await.text();
    let ends: i64 = lease.split(' ').next().unwrap().parse().unwrap();
    let left = async || {
        let time = redis.command(&["TIME"]).await;
        let [seconds, micros] = [0, 1].map(|at| time.items()[at].integer());
        ends - seconds * 1_000 - micros / 1_000
    };
    let at_first = left().await;
    assert!(at_first <= 5_000, "a lease of five seconds: {at_first} ms");
    eventually_within(3 * PATIENCE, "its lease to be over", async || {
        match left().await {
            over if over < 0 => Ok(()),
            left => Err(format!("{left} ms")),
        }
    })
    .await;
    assert_eq!(listed(&cluster(&a).await), [a.public.to_string()]);
}

#[tokio::test]
async fn a_gateway_without_redis_is_a_cluster_of_one() {
    let gateway = Gateway::start().await;
    let _open = gateway.subscribe("orders").await;
    let stats = cluster(&gateway).await;
    assert_eq!(stats["connections"]["active_connections"], 1, "{stats}");
    assert_eq!(listed(&stats), [gateway.public.to_string()]);
}

/// The tails of all replicas are cleared, so nobody is shown what was deleted.
#[tokio::test]
async fn a_deleted_topic_is_gone_on_every_replica() {
    let redis = RedisServer::start().await;
    let [a, b, c] = replicas(&redis).await;
    let mut live = b.subscribe("orders").await;
    let mut also = c.subscribe("orders,other").await;
    let before = live.cursor();
    let ids = a.publish_all("orders", ["secret", "secret too"]).await;
    let other = a.publish("other", "stays").await;
    assert_eq!(live.take(2).await.len(), 2);
    // What a replica has not heard of yet would not be in its tail either.
    assert_eq!(also.take(3).await.len(), 3);
    let answer = delete(&a, "orders").await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json()["deleted"], 2, "{answer:?}");
    for gateway in [&a, &b, &c] {
        eventually("the tail to be cleared", async || {
            let mut earliest = gateway
                .events("topic=orders&lastEventId=earliest")
                .open()
                .await;
            match earliest.replayed().await {
                none if none.is_empty() => Ok(()),
                some => Err(format!("{some:?}")),
            }
        })
        .await;
        for cursor in [before.as_str(), &ids[0].to_string()] {
            let mut reader = gateway.resume("orders", cursor).await;
            is_gap(&reader, "retention");
            reader.replays([""; 0]).await;
        }
        let reader = gateway.resume("orders", ids[1]).await;
        assert_eq!(
            reader.replay(),
            "complete",
            "who has seen everything misses nothing"
        );
        let mut both = gateway.resume("other", other.previous()).await;
        both.replays(["stays"]).await;
    }
    a.publish("orders", "new").await;
    assert_eq!(live.take(1).await, ["new"], "open streams go on");
    live.stays_silent().await;
    for gateway in [&a, &b, &c] {
        let mut reader = gateway.resume("orders", ids[1]).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays(["new"]).await;
    }
    assert_eq!(delete(&b, "never").await.status(), 200);
    delete(&b, "a%20b").await.refuses(400, "topic_invalid");
}

/// A reader that lags is somewhere in what is deleted: it is told at that place.
#[tokio::test]
async fn who_has_not_read_it_yet_is_told_that_it_was_deleted() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut slow = b.events("topic=orders").narrow().open().await;
    let large = "x".repeat(50_000);
    a.publish_lines("orders", (0..300).map(|number| format!("{number} {large}")))
        .await;
    assert_eq!(delete(&a, "orders").await.status(), 200);
    a.publish("orders", "new").await;
    let (mut wanted, mut told) = (0, false);
    loop {
        let frame = slow.telling_frame().await;
        match frame.event.as_deref() {
            Some("$gap") => told = true,
            Some(kind) => panic!("{kind}"),
            None if frame.data.as_deref() == Some("new") => break,
            None => {
                assert!(!told, "what was deleted came after it was told");
                assert!(frame.data.unwrap().starts_with(&format!("{wanted} ")));
                wanted += 1;
            }
        }
    }
    assert!(told && wanted < 300, "told {told} after {wanted}");
}

/// With another policy Redis deletes events at will, and no gateway would know.
#[tokio::test]
async fn a_policy_that_evicts_is_a_warning_in_health() {
    let redis = RedisServer::settings()
        .config("maxmemory-policy allkeys-lru")
        .start()
        .await;
    let gateway = ready(settings(&redis)).await;
    let health = gateway.get("/health").await.json();
    assert_eq!(health["status"], "degraded", "{health}");
    let warnings = health["dependencies"]["store"]["warnings"].to_string();
    assert!(
        warnings.contains("allkeys-lru") && warnings.contains("noeviction"),
        "{health}"
    );
    let sound = RedisServer::start().await;
    let gateway = replica(&sound).await;
    let health = gateway.get("/health").await.json();
    assert_eq!(health["status"], "ok", "{health}");
    assert!(
        health["dependencies"]["store"]["warnings"].is_null(),
        "{health}"
    );
}

/// A master that has lost its replicas, and was told to refuse writes then, is not well though it answers.
#[tokio::test]
async fn a_master_without_the_replicas_that_it_needs_is_a_warning_in_health() {
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let needs = ["CONFIG", "SET", "min-replicas-to-write", "1"];
    redis.command(&needs).await;
    let refused = gateway.post(r#"{"topic":"orders","data":"a"}"#).await;
    assert_eq!(refused.status(), 503, "{refused:?}");
    // The feed asks how its server is set up every five seconds.
    eventually_within(4 * PATIENCE, "health to warn", async || {
        let health = gateway.get("/health").await.json();
        let warnings = health["dependencies"]["store"]["warnings"].to_string();
        if warnings.contains("min-replicas-to-write") {
            Ok(())
        } else {
            Err(health.to_string())
        }
    })
    .await;
}

#[tokio::test]
async fn the_metrics_tell_whether_redis_is_there() {
    let mut redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let up = async |wanted: &str| {
        eventually(
            format!("tidegate_redis_up to be {wanted}"),
            async || match gateway.metric("tidegate_redis_up").await {
                Some(up) if up.to_string() == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
        .await;
    };
    up("1").await;
    redis.kill();
    up("0").await;
    redis.restart().await;
    up("1").await;
    let page = gateway.get_admin("/metrics").await.text();
    for family in [
        "tidegate_redis_connects_total",
        "tidegate_redis_commands_total",
        "tidegate_redis_command_duration_seconds_count",
        "tidegate_store_entries_skipped_total",
    ] {
        assert!(page.contains(family), "no {family}");
    }
}
