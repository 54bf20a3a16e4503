//! Redis is full, away, locked, or set up wrongly: entries wait, and somebody is told.

use super::{MOVED, add, add_numbers, is_drained, key, length, log, stats};
use crate::{
    redis::{is_back, replica, replica_of},
    support::{Authority, Fsync, Gateway, RedisServer, eventually, eventually_within, numbers},
};

/// The warnings in `/health` about the store.
async fn warnings(gateway: &Gateway) -> String {
    let health = gateway.get("/health").await.json();
    health["dependencies"]["store"]["warnings"].to_string()
}

/// Waits until operators are told. What is over within two seconds they are not told, so it takes longer than that.
async fn warns(gateway: &Gateway, of: &str) {
    let what = format!("a warning of {of}");
    eventually_within(MOVED, what, async || {
        let said = warnings(gateway).await;
        if said.contains(of) { Ok(()) } else { Err(said) }
    })
    .await;
}

#[tokio::test]
async fn a_full_redis_moves_nothing_loses_nothing_and_is_told_of() {
    let redis = RedisServer::start().await;
    // The functions are there, and nobody moves anything.
    let _idle = replica_of(Gateway::with("ingest.enabled", false), &redis).await;
    let old = ["XADD", &key("ingest"), "1000-1", "topic", "a", "data", "0"];
    redis.command(&old).await;
    add_numbers(&redis, "a", 1..600).await;
    add(&redis, &["topic", "$wrong"]).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let gateway = Gateway::settings()
        .env("REDIS_URL", &redis.url())
        .start()
        .await;
    warns(&gateway, "entries of ingest are not moved: OOM").await;
    warns(&gateway, "601 entries wait in ingest, the oldest for ").await;
    assert_eq!(gateway.get("/health").await.json()["status"], "degraded");
    let said = stats(&gateway).await;
    assert_eq!(
        (&said["moved"], &said["pending"]),
        (&0.into(), &601.into()),
        "{said}"
    );
    assert!(gateway.metric("tidegate_ingest_lag_seconds").await.unwrap() > 60.0);
    assert_eq!(length(&redis, "ingest").await, 601);
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    is_drained(&redis).await;
    assert_eq!(log(&redis, "a").await, numbers(0..600));
    eventually("all to be well", async || match warnings(&gateway).await {
        none if none == "null" => Ok(()),
        said => Err(said),
    })
    .await;

    // A key of another type where the stream should be: the gateway says so, and goes on when it is gone.
    for name in ["ingest", "ingest:dead"] {
        redis.command(&["DEL", &key(name)]).await;
        redis.command(&["SET", &key(name), "x"]).await;
        warns(
            &gateway,
            &format!("INGEST_BROKEN the key {} is no stream", key(name)),
        )
        .await;
        redis.command(&["DEL", &key(name)]).await;
    }
    add_numbers(&redis, "a", 600..610).await;
    is_drained(&redis).await;
    assert_eq!(log(&redis, "a").await, numbers(0..610));
}

/// Functions that are taken away, a Redis that restarts, connections that are cut: nobody has to do anything.
#[tokio::test]
async fn entries_are_moved_once_whatever_happens_to_redis() {
    let mut redis = RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await;
    let (a, b) = (replica(&redis).await, replica(&redis).await);
    let mut reader = a.subscribe("a").await;
    let mut last = 0;
    for round in 0..8 {
        let next = last + 500;
        add_numbers(&redis, "a", last..next).await;
        match round % 4 {
            0 => drop(redis.command(&["FUNCTION", "FLUSH"]).await),
            1 => redis.restart().await,
            2 => drop(
                redis
                    .command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
                    .await,
            ),
            _ => {
                redis.freeze();
                redis.thaw();
            }
        }
        add_numbers(&redis, "a", next..next + 5).await;
        last = next + 5;
    }
    for gateway in [&a, &b] {
        is_back(gateway).await;
    }
    is_drained(&redis).await;
    assert_eq!(log(&redis, "a").await, numbers(0..last));
    assert_eq!(reader.take(last).await, numbers(0..last));
    reader.stays_silent().await;
}

/// Some managed servers have no functions: the same is done by scripts.
#[tokio::test]
async fn a_redis_without_functions_moves_entries_by_scripts() {
    let mut settings = RedisServer::settings();
    for command in ["FUNCTION", "FCALL", "FCALL_RO"] {
        settings = settings.config(&format!("rename-command {command} \"\""));
    }
    let redis = settings.start().await;
    let gateway = replica(&redis).await;
    let mut reader = gateway.subscribe("a").await;
    add_numbers(&redis, "a", 0..600).await;
    assert_eq!(reader.take(600).await, numbers(0..600));
    redis.command(&["SCRIPT", "FLUSH"]).await;
    add_numbers(&redis, "a", 600..610).await;
    add(&redis, &["topic", "$wrong"]).await;
    is_drained(&redis).await;
    assert_eq!(reader.take(10).await, numbers(600..610));
    assert_eq!(length(&redis, "ingest:dead").await, 1);
}

/// TLS, a user of few rights, another prefix, all at once.
#[tokio::test]
async fn ingest_works_with_tls_a_user_of_its_own_and_another_prefix() {
    let authority = Authority::new();
    let pair = authority.issue("localhost");
    let docs = include_str!("../../docs/redis.md");
    let (_, rest) = docs.split_once("A user of its own needs: `").unwrap();
    let (rights, _) = rest.split_once('`').unwrap();
    let rights = rights.replace("tidegate:", "shop:");
    let producer = include_str!("../../docs/ingest.md");
    let (_, rest) = producer.split_once("ACL SETUSER billing ").unwrap();
    let (producer, _) = rest.split_once('`').unwrap();
    let redis = RedisServer::settings()
        .user("gateway", &format!("on >s3cret {rights}"))
        .user("billing", &producer.replace("tidegate:", "shop:"))
        .tls(&pair.certificate, &pair.key, &authority.file())
        .start()
        .await;
    let settings = Gateway::settings()
        .env(
            "REDIS_URL",
            &format!("rediss://gateway:s3cret@localhost:{}", redis.tls_port()),
        )
        .with("redis.tls.ca", authority.file().display())
        .with("redis.prefix", "shop");
    let gateway = settings.start().await;
    is_back(&gateway).await;
    let mut reader = gateway.subscribe("orders").await;
    let mut billing = redis.connect().await;
    assert_eq!(
        billing.ask(&["AUTH", "billing", "secret"]).await.text(),
        "OK"
    );
    let stream = "shop:{0}:ingest";
    let added = billing
        .ask(&["XADD", stream, "*", "topic", "orders", "data", "a"])
        .await;
    assert!(added.text().contains('-'), "{added}");
    assert_eq!(reader.take(1).await, ["a"]);
    for refused in [
        &["XRANGE", stream, "-", "+"][..],
        &["XADD", "shop:{0}:topic:orders", "*", "d", "a"],
        &["DEL", stream],
    ] {
        let answer = billing.ask(refused).await;
        assert!(answer.to_string().contains("NOPERM"), "{answer}");
    }
    // Another deployment on the same server has an ingest of its own.
    let other = replica_of(Gateway::settings(), &redis).await;
    add(&redis, &["topic", "orders", "data", "b"]).await;
    is_drained(&redis).await;
    assert_eq!(log(&redis, "orders").await, ["b"]);
    reader.stays_silent().await;
    drop(other);
}
