//! A page cannot see why a handshake failed: whoever is refused for a reason that a page could mend, or wait out, gets its
//! WebSocket, is told why, and is closed with a number that says whether to come back.

use serde_json::json;

use crate::support::{Claims, Gateway, Settings, Signer};

const SECRET: &str = "a secret of more than thirty-two bytes";
const SHOP: &str = "shop-0123456789abcdef";

/// Served to everybody, so that the rules of development mode do not hold.
fn open_to_all() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish")
}

fn with_tokens() -> Settings {
    Gateway::settings()
        .config("auth: {tokens: [{name: shop, token: shop-0123456789abcdef, subscribe: [orders]}]}")
        .with("auth.jwt.secret", SECRET)
        .with("auth.jwt.leeway", "0s")
        .with("limits.rate.auth_failure", "off")
}

#[tokio::test]
async fn beyond_the_last_place_it_is_told_to_come_back_later() {
    let gateway = open_to_all().with("limits.connections", 2).start().await;
    let mut first = gateway.follow("orders").await;
    let mut reader = gateway.subscribe("orders").await;
    let ws = || gateway.ws("topic=orders");
    let error = ws().is_turned_away("connection_limit", 1013).await;
    let again = error["retry_after"].as_u64().unwrap();
    assert!((1..=60).contains(&again), "{error}");
    gateway.publish("orders", "a").await;
    assert_eq!(first.take(1).await, ["a"]);
    assert_eq!(reader.take(1).await, ["a"]);
    let code = ["code=\"connection_limit\""];
    gateway.counts("tidegate_refusals_total", &code, 1).await;
    let fields = [("target", "audit"), ("code", "connection_limit")];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["outcome"], "BLOCKED", "{line}");
    drop(first);
    gateway.has_places_taken(1).await;
    ws().open().await.is_open().await;
}

#[tokio::test]
async fn an_address_has_as_many_as_it_may_of_all_transports() {
    let gateway = open_to_all()
        .with("limits.connections_per_address", 2)
        .start()
        .await;
    let _reader = gateway.subscribe("orders").await;
    let socket = gateway.follow("orders").await;
    let ws = || gateway.ws("topic=orders");
    let error = ws().is_turned_away("address_limit", 1013).await;
    assert!(error["retry_after"].as_u64() > Some(0), "{error}");
    let answer = gateway.get("/events?topic=orders").await;
    answer.refuses(429, "address_limit");
    drop(socket);
    gateway.has_places_taken(1).await;
    ws().open().await.is_open().await;
}

#[tokio::test]
async fn who_connects_too_often_is_told_when_to_come_back() {
    let gateway = open_to_all()
        .with("limits.rate.connect", "1/min burst 2")
        .start()
        .await;
    let ws = || gateway.ws("topic=orders");
    let mut first = ws().open().await;
    ws().open().await;
    let error = ws().is_turned_away("rate_limited", 1013).await;
    let again = error["retry_after"].as_u64().unwrap();
    assert!((1..=60).contains(&again), "{error}");
    first.is_open().await;
}

#[tokio::test]
async fn who_shows_nothing_good_is_closed_as_not_authorised() {
    let gateway = with_tokens().start().await;
    let claims = Claims::of("ann").subscribe(&["orders"]);
    let old = Signer::hs256(SECRET).sign(&claims.expires_in(-5));
    let ws = || gateway.ws("topic=orders");
    for handshake in [
        ws(),
        ws().bearer("wrong-0123456789abcdef"),
        ws().bearer(&old),
        ws().bearer("x.y.z"),
        ws().header("Cookie", "tidegate=wrong-0123456789abcdef"),
        gateway.ws("topic=orders&access_token=wrong-0123456789abcdef"),
        gateway.ws("topic=orders&ticket=wrong"),
        gateway.ws("topic=other"),
    ] {
        handshake.is_turned_away("unauthorized", 4401).await;
    }
    gateway.has_places_taken(0).await;
    let failed = [("target", "audit"), ("code", "unauthorized")];
    gateway.logged(&failed).await;
}

#[tokio::test]
async fn who_may_not_follow_a_topic_is_closed_for_good() {
    let gateway = with_tokens().start().await;
    for topics in ["other", "orders,other"] {
        let handshake = gateway.ws(&format!("topic={topics}")).bearer(SHOP);
        let error = handshake.is_turned_away("forbidden", 1008).await;
        assert_eq!(error.get("retry_after"), None, "{error}");
    }
    let fields = [("target", "audit"), ("code", "forbidden")];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["subject"], "shop", "{line}");
}

#[tokio::test]
async fn who_guesses_credentials_is_stopped() {
    let gateway = with_tokens()
        .with("limits.rate.auth_failure", "1/min burst 3")
        .start()
        .await;
    let ws = |token: &str| gateway.ws("topic=orders").bearer(token);
    for number in 0..3 {
        let guess = ws(&format!("guess-{number}-0123456789abcdef"));
        guess.is_turned_away("unauthorized", 4401).await;
    }
    ws("guess-3-0123456789abcdef")
        .is_turned_away("rate_limited", 1013)
        .await;
    ws(SHOP).is_turned_away("rate_limited", 1013).await;
}

#[tokio::test]
async fn a_replica_that_follows_as_many_topics_as_it_may_says_so() {
    let gateway = Gateway::with("limits.topics", 2).start().await;
    let mut socket = gateway.follow("a,b").await;
    let handshake = gateway.ws("topic=c");
    handshake.is_turned_away("topic_limit", 1013).await;
    socket.is_open().await;
}

/// A page that is refused says why it went, and does not take the answer for an event.
#[tokio::test]
async fn the_error_is_the_only_message() {
    let gateway = open_to_all().with("limits.connections", 1).start().await;
    let _first = gateway.follow("orders").await;
    let mut socket = gateway.ws("topic=orders").upgrade().await;
    let (messages, closed) = socket.rest().await;
    let [error] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    let mut members: Vec<_> = error.as_object().unwrap().keys().collect();
    members.sort_unstable();
    assert_eq!(
        json!(members),
        json!(["code", "detail", "retry_after", "type"])
    );
    assert_eq!(closed.reason, "connection_limit");
}
