//! One typed tree of settings: every source has its place, and a mistake is told with the right name.

use std::time::Duration;

use crate::support::{Gateway, Settings};

/// The `retry` that streams are told, which lies within a third of `stream.retry`.
async fn retry_is_about(gateway: &Gateway, seconds: u64) {
    let retry = gateway.subscribe("orders").await.opening.retry_ms.unwrap();
    let set = seconds * 1_000;
    assert!(
        retry >= set * 2 / 3 && retry <= set * 4 / 3,
        "{retry} ms is not about {seconds} s"
    );
}

#[tokio::test]
async fn an_unknown_name_in_the_environment_is_an_error_that_names_the_right_one() {
    for (wrong, right) in [
        ("TIDEGATE_STREAM__KEEPALIV", "STREAM__KEEPALIVE"),
        ("TIDEGATE_STREAM__RETYR", "STREAM__RETRY"),
        ("TIDEGATE_SERVER__LISTN", "SERVER__LISTEN"),
        ("TIDEGATE_LIMITS__CONECTIONS", "LIMITS__CONNECTIONS"),
        ("TIDEGATE_STREAM_KEEPALIVE", "STREAM__KEEPALIVE"),
    ] {
        let exit = Gateway::settings()
            .env(wrong, "1s")
            .refuses_to_start()
            .await;
        assert!(exit.output.contains(wrong), "what was wrong: {exit:?}");
        // By its name in the environment, or by its key.
        let key = right.to_lowercase().replace("__", ".");
        let named = exit.output.contains(right) || exit.output.contains(&key);
        assert!(named, "what is right: {exit:?}");
        assert!(exit.took < Duration::from_secs(2), "{exit:?}");
    }
}

#[tokio::test]
async fn an_unknown_key_in_the_file_is_an_error_that_names_the_right_one() {
    for (yaml, wrong, right) in [
        ("stream:\n  keepalife: 5s\n", "keepalife", "keepalive"),
        ("straem:\n  keepalive: 5s\n", "straem", "stream"),
        ("limits:\n  conections: 5\n", "conections", "connections"),
    ] {
        let exit = Gateway::settings()
            .file("gateway.yaml", yaml)
            .argument("--config")
            .argument("gateway.yaml")
            .refuses_to_start()
            .await;
        assert!(exit.output.contains(wrong), "what was wrong: {exit:?}");
        let besides = exit.output.replace(wrong, "");
        assert!(besides.contains(right), "what is right: {exit:?}");
        assert!(exit.output.contains("gateway.yaml"), "where: {exit:?}");
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_an_error_that_says_where() {
    for (key, value) in [
        ("stream.keepalive", "soon"),
        ("stream.retry", "-5s"),
        ("retention.bytes", "many"),
        ("limits.connections", "ten"),
        ("limits.refuse_as", "never"),
        ("server.listen", "nowhere"),
        ("auth.anonymous", "everything"),
        ("log.level", "shout,,=="),
        ("store", "disk"),
        ("redis.url", "localhost:6379"),
        ("redis.prefix", "{a}"),
        ("redis.wait_replicas", "some"),
        ("feed.backlog", "many"),
    ] {
        let exit = Gateway::with(key, value).refuses_to_start().await;
        let name = key.replace('.', "__").to_uppercase();
        assert!(
            exit.output.contains(key) || exit.output.contains(&name),
            "{key} is named: {exit:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_no_yaml_is_an_error() {
    let missing = Gateway::settings()
        .argument("--config")
        .argument("missing.yaml");
    let exit = missing.refuses_to_start().await;
    assert!(exit.output.contains("missing.yaml"), "{exit:?}");
    let broken = Gateway::settings()
        .file("gateway.yaml", "stream: [\n")
        .argument("--config")
        .argument("gateway.yaml");
    let exit = broken.refuses_to_start().await;
    assert!(exit.output.contains("gateway.yaml"), "{exit:?}");
}

/// Later wins: defaults, file, `.env`, environment, flags.
#[tokio::test]
async fn each_source_wins_over_the_one_before() {
    let file = || Gateway::settings().file("gateway.yaml", "stream:\n  retry: 20s\n");
    let gateway = file()
        .argument("--config")
        .argument("gateway.yaml")
        .start()
        .await;
    retry_is_about(&gateway, 20).await;
    let by_name = file().env("TIDEGATE_CONFIG", "gateway.yaml");
    retry_is_about(&by_name.clone().start().await, 20).await;
    let gateway = by_name.with("stream.retry", "60s").start().await;
    retry_is_about(&gateway, 60).await;
}

#[tokio::test]
async fn a_file_of_names_stands_between_the_settings_and_the_environment() {
    let named = Gateway::settings()
        .file("gateway.yaml", "stream:\n  retry: 20s\n")
        .file(".env", "# a comment\nTIDEGATE_STREAM__RETRY=60s\n")
        .env("TIDEGATE_CONFIG", "gateway.yaml");
    retry_is_about(&named.clone().start().await, 60).await;
    let gateway = named.with("stream.retry", "180s").start().await;
    retry_is_about(&gateway, 180).await;
}

#[tokio::test]
async fn flags_win_over_the_environment() {
    let gateway = Gateway::with("server.listen", "127.0.0.1:1")
        .argument("--listen")
        .argument("127.0.0.1:0")
        .start()
        .await;
    assert_ne!(gateway.public.port(), 1);
    assert_eq!(gateway.get("/health/live").await.status(), 200);
}

/// Without a command the binary serves.
#[tokio::test]
async fn to_serve_is_the_default_command() {
    let gateway = Settings::command([])
        .with("server.listen", "127.0.0.1:0")
        .with("admin.listen", "127.0.0.1:0")
        .start()
        .await;
    assert_eq!(gateway.get("/health/live").await.status(), 200);
}

/// The plain names that the guides of the field use.
#[tokio::test]
async fn plain_names_are_aliases() {
    let gateway = Gateway::settings()
        .without("server.listen")
        .env("HOST", "127.0.0.2")
        .env("PORT", "0")
        .env("LOG_LEVEL", "info")
        .env("MAX_CONNECTIONS", "1")
        .env("MAX_SUBSCRIPTIONS_PER_CLIENT", "2")
        .env("ALLOWED_ORIGINS", "https://app.example")
        .start()
        .await;
    assert_eq!(gateway.public.ip().to_string(), "127.0.0.2");
    let reader = gateway
        .events("topic=a,b")
        .header("Origin", "https://app.example")
        .open()
        .await;
    let allowed = reader.head.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://app.example"));
    gateway
        .get("/events?topic=a")
        .await
        .refuses(503, "connection_limit");
    gateway
        .get("/events?topic=a,b,c")
        .await
        .refuses(400, "too_many_topics");
}

#[tokio::test]
async fn a_level_of_the_log_that_is_none_is_an_error_by_its_alias_too() {
    Gateway::settings()
        .env("LOG_LEVEL", "shout,,==")
        .refuses_to_start()
        .await;
}

/// Some shells and container platforms set `HOST` to a name of their own.
#[tokio::test]
async fn a_host_that_is_no_address_is_ignored_with_a_warning() {
    let mut gateway = Gateway::settings()
        .without("server.listen")
        .env("HOST", "x86_64-linux-gnu")
        .env("PORT", "0")
        .start()
        .await;
    assert!(gateway.public.ip().is_loopback());
    let program = gateway.program();
    program
        .line("that it ignored HOST", |line| {
            (line.contains("WARN") && line.contains("HOST")).then_some(())
        })
        .await;
}

/// Names that are not ours are not our business.
#[tokio::test]
async fn the_rest_of_the_environment_is_left_alone() {
    Gateway::settings()
        .env("PATH", "/usr/bin")
        .env("TIDE", "high")
        .env("STREAM__KEEPALIVE", "soon")
        .start()
        .await;
}

#[tokio::test]
async fn a_redis_store_without_a_url_is_an_error_that_says_how_to_give_one() {
    let exit = Gateway::with("store", "redis").refuses_to_start().await;
    for way in ["redis.url", "REDIS_URL=redis://", "REDIS_HOST="] {
        assert!(exit.output.contains(way), "{exit:?}");
    }
}

#[tokio::test]
async fn a_url_of_redis_that_is_none_is_an_error_that_keeps_its_password() {
    for (url, expected) in [
        ("app:s3cret@localhost:6379", "redis://"),
        ("redis://app:s3cret@localhost:port", "port"),
        ("redis://app:s3cret@localhost?protocol=3", "query"),
        ("redis://app:s3/cret@localhost", "%2F"),
        ("redis+sentinel://app:s3cret@localhost/main", "Sentinel"),
    ] {
        let exit = Gateway::settings()
            .env("REDIS_URL", url)
            .refuses_to_start()
            .await;
        assert!(exit.output.contains("REDIS_URL"), "where: {exit:?}");
        assert!(exit.output.contains(expected), "what is right: {exit:?}");
        assert!(!exit.output.contains("cret"), "the password: {exit:?}");
    }
}

#[tokio::test]
async fn certificate_and_key_for_redis_go_together() {
    let exit = Gateway::with("redis.tls.key", "gateway.key")
        .refuses_to_start()
        .await;
    assert!(exit.output.contains("both or none"), "{exit:?}");
}

/// Who says `memory` means it, but a URL beside it was meant, too.
#[tokio::test]
async fn memory_wins_over_a_url_of_redis_with_a_warning() {
    for (name, value) in [
        ("REDIS_URL", "redis://app:s3cret@localhost:1"),
        ("REDIS_HOST", "localhost:1"),
    ] {
        let mut gateway = Gateway::with("store", "memory")
            .env(name, value)
            .start()
            .await;
        let warning = gateway
            .program()
            .line("that it passes Redis over", |line| {
                (line.contains("WARN") && line.contains(name)).then(|| line.to_owned())
            })
            .await;
        assert!(!warning.contains("s3cret"), "{warning}");
        assert_eq!(gateway.get("/health/ready").await.status(), 200);
    }
}

/// Kubernetes describes every Service to every container beside it; one named `redis` is none of ours.
#[tokio::test]
async fn what_kubernetes_says_of_a_service_named_redis_gives_no_url() {
    let gateway = Gateway::settings()
        .env("REDIS_SERVICE_HOST", "127.0.0.1")
        .env("REDIS_SERVICE_PORT", "1")
        .env("REDIS_PORT", "tcp://127.0.0.1:1")
        .env("REDIS_PORT_1_TCP", "tcp://127.0.0.1:1")
        .env("REDIS_PORT_1_TCP_ADDR", "127.0.0.1")
        .start()
        .await;
    assert_eq!(gateway.get("/health/ready").await.status(), 200);
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let gateway = Gateway::start().await;
    let exit = Gateway::with("server.listen", gateway.public)
        .refuses_to_start()
        .await;
    assert!(
        exit.output.contains(&gateway.public.to_string()),
        "{exit:?}"
    );
}
