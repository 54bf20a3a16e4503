//! Settings are read again while streams are open: all that can takes effect or nothing does, and what became of it is told.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Connection, Gateway, Request, Response, Settings, eventually, replace, within_time,
};

const FILE: &str = "gateway.yaml";

fn with_file(yaml: &str) -> Settings {
    Gateway::settings()
        .file(FILE, yaml)
        .argument("--config")
        .argument(FILE)
}

async fn reload(gateway: &Gateway) -> Response {
    let request = Request::new("POST", "/admin/reload-config");
    gateway.ask_admin(request).await
}

/// Nobody looks at the file between its exchange and the request: what changes is in the answer to that.
async fn applies(gateway: &mut Gateway, yaml: &str) -> Value {
    let mut connection = Connection::open(gateway.admin).await;
    gateway.program().freeze();
    replace(&gateway.home().join(FILE), yaml);
    let request = Request::new("POST", "/admin/reload-config");
    connection.send(request.bytes(gateway.admin)).await;
    gateway.program().signal(Signal::CONT);
    let answer = connection.response().await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

fn keys(changes: &Value) -> Vec<&str> {
    let changes = changes.as_array().unwrap().iter();
    changes.map(|it| it["key"].as_str().unwrap()).collect()
}

async fn setting(gateway: &Gateway, key: &str) -> Value {
    gateway.get_admin("/config").await.json()["settings"][key].clone()
}

/// How many topics a stream may have, as a refusal shows it.
async fn may_follow(gateway: &Gateway, topics: &str) -> bool {
    let target = format!("/events?topic={topics}");
    let reader = gateway.ask(Request::new("HEAD", &target)).await;
    match reader.status() {
        200 => true,
        400 => false,
        _ => panic!("{reader:?}"),
    }
}

#[tokio::test]
async fn a_request_reloads_without_dropping_a_stream() {
    let mut gateway = with_file("limits: {topics_per_connection: 1}\n")
        .start()
        .await;
    let mut reader = gateway.subscribe("orders").await;
    assert!(!may_follow(&gateway, "a,b").await);
    let report = applies(&mut gateway, "limits: {topics_per_connection: 2}\n").await;
    assert_eq!(
        report,
        serde_json::json!({
            "applied": [{"key": "limits.topics_per_connection", "from": 1, "to": 2}],
            "restart": [],
            "warnings": [],
        })
    );
    assert!(may_follow(&gateway, "a,b").await);
    gateway.publish("orders", "still here").await;
    assert_eq!(reader.take(1).await, ["still here"]);
    let report = reload(&gateway).await.json();
    assert_eq!(
        keys(&report["applied"]).len(),
        0,
        "nothing is new: {report}"
    );
}

#[tokio::test]
async fn a_signal_reloads() {
    let mut gateway = with_file("").start().await;
    let origin = "https://app.example";
    let allowed = async |gateway: &Gateway| {
        let request = Request::get("/events?topic=a").header("Origin", origin);
        let mut connection = gateway.connect().await;
        connection.send(request.bytes(gateway.public)).await;
        connection.head().await.status == 200
    };
    assert!(!allowed(&gateway).await);
    replace(
        &gateway.home().join(FILE),
        "cors: {origins: ['https://app.example']}\n",
    );
    gateway.program().signal(Signal::HUP);
    eventually("the origin to be allowed", async || {
        if allowed(&gateway).await {
            Ok(())
        } else {
            Err("a refusal".into())
        }
    })
    .await;
    let said = gateway.program();
    said.line("who asked", |line| {
        (line.contains("config_reloaded") && line.contains("signal")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_file_that_changes_is_read() {
    let gateway = with_file("limits: {topics_per_connection: 1}\n")
        .file(".env", "TIDEGATE_STREAM__RETRY=20s\n")
        .start()
        .await;
    // The same size, and within the same second: it is another file all the same.
    replace(
        &gateway.home().join(FILE),
        "limits: {topics_per_connection: 3}\n",
    );
    eventually("the file to be read", async || {
        match setting(&gateway, "limits.topics_per_connection").await["value"].as_u64() {
            Some(3) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    replace(&gateway.home().join(".env"), "TIDEGATE_STREAM__RETRY=60s\n");
    eventually("the names to be read", async || {
        let retry = setting(&gateway, "stream.retry").await;
        if retry["value"] == "60s" {
            Ok(())
        } else {
            Err(retry.to_string())
        }
    })
    .await;
}

/// A stream that is silent for most of its life is not left to a setting of yesterday.
#[tokio::test]
async fn the_keepalive_of_an_open_stream_follows() {
    let mut gateway = with_file("stream: {keepalive: 3s}\n").start().await;
    let mut reader = gateway.subscribe("orders").await;
    applies(&mut gateway, "stream: {keepalive: 200ms}\n").await;
    // What had begun goes on to its end.
    let (_, before) = reader.frame_or_end().await.unwrap();
    let mut took = Duration::ZERO;
    for _ in 0..4 {
        let (frame, at) = reader.frame_or_end().await.unwrap();
        assert_eq!(frame.comments, ["keepalive"]);
        took = at - before;
    }
    // In this time not even one would have come as it was set before.
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_told_with_line_and_key() {
    let mut gateway = with_file("limits: {topics_per_connection: 1}\n")
        .start()
        .await;
    let mut reader = gateway.subscribe("orders").await;
    for (yaml, line, key) in [
        (
            "limits:\n  topics_per_connection: 5\n  topics: many\n",
            "line 3",
            "limits.topics",
        ),
        (
            "limits:\n  topics_per_connection: 5\nlimit: 5\n",
            "line 3",
            "limit",
        ),
        (
            "limits: {topics_per_connection: 5}\nstream:\n  retry: 0s\n",
            "line 3",
            "stream.retry",
        ),
        ("limits: {topics_per_connection: 5\n", "line 2", ""),
    ] {
        replace(&gateway.home().join(FILE), yaml);
        let detail = reload(&gateway).await.refuses(422, "config_invalid");
        for told in [FILE, line, key] {
            assert!(detail.contains(told), "{told}: {detail}");
        }
        assert!(!may_follow(&gateway, "a,b").await, "{yaml}");
    }
    assert_eq!(
        gateway
            .metric("tidegate_config_last_reload_successful")
            .await,
        Some(0.0)
    );
    gateway
        .program()
        .line("that it failed", |line| {
            let told = line.contains("FAILED") && line.contains("config_reloaded");
            (told && line.contains("stream.retry")).then_some(())
        })
        .await;
    applies(&mut gateway, "limits: {topics_per_connection: 2}\n").await;
    assert!(may_follow(&gateway, "a,b").await);
    assert_eq!(
        gateway
            .metric("tidegate_config_last_reload_successful")
            .await,
        Some(1.0)
    );
    let at = gateway
        .metric("tidegate_config_last_reload_success_timestamp_seconds")
        .await;
    assert!(at.unwrap() > 1.0e9, "{at:?}");
    gateway.publish("orders", "still here").await;
    assert_eq!(reader.take(1).await, ["still here"]);
}

#[tokio::test]
async fn what_needs_a_restart_is_listed_and_stays() {
    let mut gateway = with_file("").start().await;
    let yaml = "limits: {topics_per_connection: 1}\nfeed: {backlog: 1MiB}\nlog: {format: text}\nredis: {password: s3cret-s3cret}\n";
    let report = applies(&mut gateway, yaml).await;
    assert_eq!(keys(&report["applied"]), ["limits.topics_per_connection"]);
    assert_eq!(
        keys(&report["restart"]),
        ["feed.backlog", "log.format", "redis.password"]
    );
    assert!(!may_follow(&gateway, "a,b").await);
    let config = gateway.get_admin("/config").await.json();
    assert_eq!(config["settings"]["feed.backlog"]["value"], "64MiB");
    assert_eq!(config["settings"]["feed.backlog"]["source"], "default");
    assert_eq!(config["restart"], report["restart"]);
    assert!(!config.to_string().contains("s3cret"), "{config}");
    // Taken back, there is nothing to wait for.
    applies(&mut gateway, "").await;
    let config = gateway.get_admin("/config").await.json();
    assert_eq!(keys(&config["restart"]).len(), 0, "{config}");
}

/// Without auth only this machine may be served, and the address that it listens on does not change any more.
#[tokio::test]
async fn a_reload_does_not_open_the_gateway_to_everybody() {
    let gateway = with_file("auth: {anonymous: [subscribe]}\n")
        .with("server.listen", "0.0.0.0:0")
        .start()
        .await;
    replace(&gateway.home().join(FILE), "");
    let detail = reload(&gateway).await.refuses(422, "config_invalid");
    assert!(detail.contains("auth.anonymous"), "{detail}");
    let anonymous = setting(&gateway, "auth.anonymous").await;
    assert_eq!(anonymous["value"], serde_json::json!(["subscribe"]));
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing() {
    let mut gateway = with_file("limits: {topics_per_connection: 1}\n")
        .start()
        .await;
    std::fs::remove_file(gateway.home().join(FILE)).unwrap();
    let detail = reload(&gateway).await.refuses(422, "config_invalid");
    assert!(
        detail.contains(FILE) && detail.contains("No such file"),
        "{detail}"
    );
    assert!(!may_follow(&gateway, "a,b").await);
    applies(&mut gateway, "limits: {topics_per_connection: 2}\n").await;
    assert!(may_follow(&gateway, "a,b").await);
}

/// Whoever looks sees one file or the other, however many reload at once.
#[tokio::test]
async fn reloads_that_race_are_whole() {
    let yaml = |number: u32| {
        format!(
            "limits: {{topics_per_connection: {number}, batch_events: {number}}}\nstream: {{retry: {number}s}}\n"
        )
    };
    let mut gateway = with_file(&yaml(1)).start().await;
    let mut reader = gateway.subscribe("orders").await;
    let write = async |number: u32| {
        for turn in 0..20 {
            replace(&gateway.home().join(FILE), &yaml(number + turn % 2));
            let answer = reload(&gateway).await;
            assert_eq!(answer.status(), 200, "{answer:?}");
        }
    };
    let look = async || {
        for _ in 0..40 {
            let settings = gateway.get_admin("/config").await.json()["settings"].take();
            let topics = settings["limits.topics_per_connection"]["value"].clone();
            assert_eq!(settings["limits.batch_events"]["value"], topics);
            assert_eq!(settings["stream.retry"]["value"], format!("{topics}s"));
        }
    };
    within_time(Duration::from_secs(30), "reloads", async {
        let writers = join_all([10, 20, 30, 40].map(write));
        tokio::join!(writers, look(), look());
    })
    .await;
    applies(&mut gateway, &yaml(7)).await;
    assert_eq!(setting(&gateway, "stream.retry").await["value"], "7s");
    gateway.publish("orders", "still here").await;
    assert_eq!(reader.take(1).await, ["still here"]);
    assert!(!gateway.said().contains("FAILED"), "{}", gateway.said());
    let reloads = gateway.metric("tidegate_config_reloads_total").await;
    assert!(reloads.unwrap() >= 81.0, "{reloads:?}");
}

/// There are files for so many streams only, whatever a file says.
#[tokio::test]
async fn a_reload_respects_the_limit_of_open_files() {
    let mut gateway = with_file("limits: {connections: 5}\n").start().await;
    let report = applies(&mut gateway, "limits: {connections: 4000000000}\n").await;
    let connections = setting(&gateway, "limits.connections").await;
    let lowered = connections["value"].as_u64().unwrap();
    assert!(lowered > 5 && lowered < 4_000_000_000, "{connections}");
    assert_eq!(connections["source"], "derived");
    assert_eq!(report["applied"][0]["to"], lowered);
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1, "{report}");
}

/// The level is that of the file until somebody changes it, and then that of the next file.
#[tokio::test]
async fn the_level_of_the_log_follows() {
    // Below errors all that it says is that it has begun: a signal before that would end it.
    let yaml = "log: {level: 'error,tidegate::cli=info'}\n";
    let mut gateway = with_file(yaml).start().await;
    replace(&gateway.home().join(FILE), "log: {level: info}\n");
    gateway.program().signal(Signal::HUP);
    gateway
        .program()
        .line("that it reloaded", |line| {
            line.contains("the settings were reloaded").then_some(())
        })
        .await;
}

#[tokio::test]
async fn only_operators_see_and_reload() {
    let gateway = Gateway::start().await;
    for request in [
        Request::get("/config"),
        Request::new("POST", "/admin/reload-config"),
    ] {
        gateway.ask(request).await.refuses(404, "not_found");
    }
    let cross = Request::new("POST", "/admin/reload-config").header("Origin", "https://a.example");
    gateway
        .ask_admin(cross)
        .await
        .refuses(403, "origin_forbidden");
    let wrong = gateway.get_admin("/admin/reload-config").await;
    wrong.refuses(405, "method_not_allowed");
}
