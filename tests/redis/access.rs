//! How a gateway gets into Redis, and what it says when it does not.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use super::{is_back, ready, settings};
use crate::support::{Gateway, RedisServer, Settings, eventually};

/// The rights that a gateway needs, as `docs/redis.md` names them.
pub(crate) const RIGHTS: &str = "~tidegate:* &tidegate:* +@read +@write +@pubsub +@connection -@dangerous +fcall +fcall_ro +function|load +wait +info +time";

/// What `/health` says is wrong with the store.
async fn complaint(gateway: &Gateway) -> String {
    eventually("the gateway to say what is wrong", async || {
        let answer = gateway.get("/health").await;
        assert_eq!(answer.status(), 503, "{answer:?}");
        let json = answer.json();
        match json["dependencies"]["store"]["error"].as_str() {
            Some(error) if !error.contains("not reached yet") => Ok(error.to_owned()),
            _ => Err(json.to_string()),
        }
    })
    .await
}

async fn publishes_and_follows(gateway: &Gateway) {
    is_back(gateway).await;
    let mut reader = gateway.subscribe("orders").await;
    let cursor = gateway.publish("orders", "a").await;
    gateway.publish("orders", "b").await;
    assert_eq!(reader.take(2).await, ["a", "b"]);
    let mut reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["b"]).await;
}

fn at(url: &str) -> Settings {
    Gateway::settings().env("REDIS_URL", url)
}

#[tokio::test]
async fn a_password_comes_in_the_url_or_on_its_own() {
    let redis = RedisServer::settings().password("s3cret").start().await;
    publishes_and_follows(&settings(&redis).start().await).await;
    let bare = format!("redis://127.0.0.1:{}", redis.port());
    let apart = at(&bare).with("redis.password", "s3cret");
    publishes_and_follows(&apart.start().await).await;
}

#[tokio::test]
async fn a_password_may_have_any_character() {
    let redis = RedisServer::settings()
        .password("p@ss:/w%rd?#")
        .start()
        .await;
    let port = redis.port();
    let encoded = format!("redis://:p%40ss%3A%2Fw%25rd%3F%23@127.0.0.1:{port}");
    publishes_and_follows(&at(&encoded).start().await).await;
    let bare = format!("redis://127.0.0.1:{port}");
    let apart = at(&bare).with("redis.password", "p@ss:/w%rd?#");
    publishes_and_follows(&apart.start().await).await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let redis = RedisServer::settings().password("s3cret").start().await;
    let bare = format!("127.0.0.1:{}", redis.port());
    for (url, wanted) in [
        (format!("redis://:wrong-one@{bare}"), "WRONGPASS"),
        (format!("redis://nobody:wrong-one@{bare}"), "WRONGPASS"),
        (format!("redis://{bare}"), "NOAUTH"),
    ] {
        let mut gateway = at(&url).start().await;
        let why = complaint(&gateway).await;
        assert!(why.contains(wanted), "wanted {wanted}, got {why}");
        assert_eq!(gateway.get("/health/ready").await.status(), 503);
        let program = gateway.program();
        let found = |line: &str| line.contains(wanted).then_some(());
        program.line("it in the log, too", found).await;
        let said = program.said();
        assert!(
            !said.contains("wrong-one"),
            "no password in the log: {said}"
        );
        assert!(!why.contains("wrong-one"), "{why}");
    }
}

#[tokio::test]
async fn a_user_with_few_rights_is_enough() {
    let docs = include_str!("../../docs/redis.md");
    assert!(docs.contains(RIGHTS), "docs/redis.md names other rights");
    let rules = format!("on >s3cret {RIGHTS}");
    let redis = RedisServer::settings()
        .user("gateway", &rules)
        .start()
        .await;
    let gateway = at(&redis.url_as("gateway", "s3cret")).start().await;
    publishes_and_follows(&gateway).await;
    let deleted = crate::support::Request::new("DELETE", "/admin/topics/orders");
    assert_eq!(gateway.ask_admin(deleted).await.status(), 200);
}

#[tokio::test]
async fn a_user_without_rights_is_told_what_it_may_not() {
    let redis = RedisServer::settings()
        .user("gateway", "on >s3cret +ping")
        .start()
        .await;
    let gateway = at(&redis.url_as("gateway", "s3cret")).start().await;
    let why = complaint(&gateway).await;
    assert!(why.contains("NOPERM"), "{why}");
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_at_the_start() {
    for (url, wanted) in [
        ("http://127.0.0.1:6379", "redis://"),
        ("127.0.0.1:6379", "redis://"),
        ("redis://", "host"),
        ("redis://127.0.0.1:port", "port"),
        ("redis://127.0.0.1:6379/orders", "database"),
        (
            "redis-sentinel://127.0.0.1:26379/main",
            "redis.sentinel.nodes",
        ),
        ("redis-cluster://127.0.0.1:7000", "redis.cluster.nodes"),
    ] {
        let exit = at(url).refuses_to_start().await;
        let named = exit.output.contains("REDIS_URL") || exit.output.contains("redis.url");
        assert!(named, "{url}: {}", exit.output);
        assert!(
            exit.output.to_lowercase().contains(wanted),
            "{url}: wanted {wanted:?}: {}",
            exit.output
        );
    }
}

#[tokio::test]
async fn a_host_that_is_not_there_is_named() {
    let gateway = at("redis://no-such-host.invalid:6379").start().await;
    let why = complaint(&gateway).await;
    assert!(why.contains("no-such-host.invalid"), "{why}");
    let gateway = at("redis://127.0.0.1:1").start().await;
    let why = complaint(&gateway).await;
    assert!(
        why.contains("127.0.0.1:1") && why.contains("refused"),
        "{why}"
    );
}

/// What answers there is no Redis.
#[tokio::test]
async fn another_server_in_the_place_of_redis_is_noticed() {
    let other = Gateway::start().await;
    let gateway = at(&format!("redis://{}", other.public)).start().await;
    let why = complaint(&gateway).await;
    assert!(!why.is_empty());
    assert_eq!(gateway.get("/health/ready").await.status(), 503);
}

#[tokio::test]
async fn another_database_and_another_prefix_are_other_logs() {
    let redis = RedisServer::start().await;
    let ours = ready(settings(&redis)).await;
    let prefixed = ready(settings(&redis).with("redis.prefix", "team-b")).await;
    let mut our_reader = ours.subscribe("orders").await;
    let mut their_reader = prefixed.subscribe("orders").await;
    ours.publish("orders", "ours").await;
    prefixed.publish("orders", "theirs").await;
    assert_eq!(our_reader.take(1).await, ["ours"]);
    assert_eq!(their_reader.take(1).await, ["theirs"]);
    our_reader.stays_silent().await;
    their_reader.stays_silent().await;
    let keys = redis.command(&["KEYS", "team-b:{0}:*"]).await;
    assert!(keys.items().len() >= 4, "{keys}");
}

/// A certificate of our own, and one that it signed for 127.0.0.1.
struct Certificates {
    home: TempDir,
}

impl Certificates {
    fn new() -> Self {
        let certificates = Self {
            home: TempDir::new().unwrap(),
        };
        let home = certificates.home.path();
        openssl(
            home,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE",
        );
        openssl(
            home,
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=redis -keyout redis.key -out redis.csr",
        );
        std::fs::write(
            home.join("names"),
            "subjectAltName=IP:127.0.0.1,DNS:localhost\n",
        )
        .unwrap();
        openssl(
            home,
            "x509 -req -in redis.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out redis.pem",
        );
        certificates
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }
}

fn openssl(home: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command
        .args(arguments.split(' '))
        .current_dir(home)
        .output();
    let output = output.unwrap_or_else(|error| panic!("openssl, which the test needs: {error}"));
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own() {
    let certificates = Certificates::new();
    let [authority, certificate, key] =
        ["ca.pem", "redis.pem", "redis.key"].map(|name| certificates.file(name));
    let redis = RedisServer::settings()
        .tls(&certificate, &key, &authority)
        .start()
        .await;
    let url = format!("rediss://127.0.0.1:{}", redis.tls_port());
    let trusting = at(&url).with("redis.tls.ca", authority.display());
    publishes_and_follows(&trusting.start().await).await;

    let gateway = at(&url).start().await;
    let why = complaint(&gateway).await.to_lowercase();
    assert!(
        why.contains("certificate"),
        "whom the system does not know: {why}"
    );

    let elsewhere = Certificates::new();
    let mistrusting = at(&url).with("redis.tls.ca", elsewhere.file("ca.pem").display());
    let why = complaint(&mistrusting.start().await).await.to_lowercase();
    assert!(why.contains("certificate"), "{why}");

    let plain = at(&format!("redis://127.0.0.1:{}", redis.tls_port()))
        .start()
        .await;
    let why = complaint(&plain).await;
    assert!(!why.is_empty());
    let reversed = at(&format!("rediss://127.0.0.1:{}", redis.port()))
        .with("redis.tls.ca", authority.display());
    let why = complaint(&reversed.start().await).await;
    assert!(!why.is_empty());
}

#[tokio::test]
async fn a_file_of_certificates_that_is_none_is_refused_at_the_start() {
    for (key, name, text) in [
        ("redis.tls.ca", "missing.pem", None),
        ("redis.tls.ca", "empty.pem", Some("")),
        ("redis.tls.ca", "text.pem", Some("no certificate")),
    ] {
        let mut settings = at("rediss://127.0.0.1:6379").with(key, name);
        if let Some(text) = text {
            settings = settings.file(name, text);
        }
        let exit = settings.refuses_to_start().await;
        assert!(exit.output.contains(name), "{}", exit.output);
    }
}

/// A copy takes no events: whoever is sent to one is told.
#[tokio::test]
async fn a_replica_of_redis_is_no_home() {
    let master = RedisServer::start().await;
    let copy = RedisServer::settings().replica_of(&master).start().await;
    let gateway = settings(&copy).start().await;
    let why = complaint(&gateway).await;
    assert!(why.contains("replica") && why.contains("master"), "{why}");
    assert_eq!(gateway.get("/health/ready").await.status(), 503);
    copy.command(&["REPLICAOF", "NO", "ONE"]).await;
    publishes_and_follows(&gateway).await;
}
