//! A connection lives no longer than the right to it, and every topic that it asks for, now or later, needs a right.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::support::{
    Claims, Gateway, Handshake, PATIENCE, Request, SILENCE, Settings, Signer, WebSocket, within,
    within_time,
};

const SECRET: &str = "a secret of more than thirty-two bytes";

fn settings() -> Settings {
    Gateway::with("auth.jwt.secret", SECRET)
        .with("auth.jwt.leeway", "0s")
        .with("auth.expiry_notice", "2s")
        .with("limits.rate.auth_failure", "off")
}

fn ann() -> Claims {
    Claims::of("ann")
        .subscribe(&["orders", "stock/*"])
        .publish(&["orders"])
}

fn sign(claims: &Claims) -> String {
    Signer::hs256(SECRET).sign(claims)
}

fn orders(gateway: &Gateway, claims: &Claims) -> Handshake {
    gateway.ws("topic=orders").bearer(&sign(claims))
}

async fn publish(gateway: &Gateway, topic: &str, data: &str) {
    let body = json!({ "topic": topic, "data": data }).to_string();
    let claims = Claims::of("publisher").publish(&["*"]);
    let answer = gateway
        .ask(Request::publish(body).bearer(&sign(&claims)))
        .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
}

async fn renewal(gateway: &Gateway, socket: &WebSocket, claims: &Claims) -> u16 {
    let target = format!("/connections/{}/token", socket.connection_id());
    let request = Request::new("POST", &target).bearer(&sign(claims));
    gateway.ask(request).await.status()
}

async fn ends_at(socket: &mut WebSocket, end: SystemTime) {
    let closing = socket.closes(4401, "auth_expired");
    within("the connection to end", closing).await;
    assert!(SystemTime::now() >= end, "not before its time");
}

#[tokio::test]
async fn a_credential_may_stand_wherever_it_may_for_events() {
    let gateway = settings().start().await;
    let token = sign(&ann());
    let request = Request::new("POST", "/ticket").bearer(&token);
    let ticket = gateway.ask(request).await.json()["ticket"].clone();
    let ticket = format!("topic=orders&ticket={}", ticket.as_str().unwrap());
    for handshake in [
        orders(&gateway, &ann()),
        gateway.ws(&format!("topic=orders&access_token={token}")),
        gateway
            .ws("topic=orders")
            .header("Cookie", &format!("a=b; tidegate={token}")),
        gateway.ws(&ticket),
    ] {
        let mut socket = handshake.open().await;
        publish(&gateway, "orders", "a").await;
        assert_eq!(socket.take(1).await, ["a"]);
    }
    // It is used once.
    let again = gateway.ws(&ticket);
    again.is_turned_away("unauthorized", 4401).await;
}

#[tokio::test]
async fn it_ends_with_its_token_and_is_told_before() {
    let gateway = settings().start().await;
    let claims = ann().expires_in(5);
    let mut socket = orders(&gateway, &claims).open().await;
    let told = socket.expect("auth_expiring").await;
    let left = told["in_ms"].as_u64().unwrap();
    assert!(left <= 2_300, "two seconds before: {told}");
    let end = told["expires"].as_str().unwrap();
    assert!(end.starts_with("20") && end.ends_with('Z'), "{told}");
    ends_at(&mut socket, claims.end()).await;
    let fields = [("message", "stream ended"), ("reason", "auth_expired")];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["connection"], socket.connection_id(), "{line}");
    gateway.has_places_taken(0).await;
}

#[tokio::test]
async fn it_is_renewed_in_place() {
    let gateway = settings().with("stream.keepalive", "2s").start().await;
    let first = ann().expires_in(5);
    let mut socket = orders(&gateway, &first).open().await;
    socket.expect("auth_expiring").await;
    // Its notice is after the first end, whenever this is asked for.
    let second = ann().expires_in(6);
    assert_eq!(renewal(&gateway, &socket, &second).await, 200);
    // It is told of the new end, and lives until then.
    let notice = socket.expect("auth_expiring");
    within_time(2 * PATIENCE, "the second notice", notice).await;
    assert!(SystemTime::now() > first.end());
    publish(&gateway, "orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    ends_at(&mut socket, second.end()).await;
}

/// A renewal has to allow what is followed at that time, not what was asked for at first.
#[tokio::test]
async fn a_renewal_needs_the_rights_of_all_topics_that_are_followed_now() {
    let gateway = settings().start().await;
    let mut socket = orders(&gateway, &ann()).open().await;
    socket.subscribe(&["stock/1"]).await;
    let fewer = ann().subscribe(&["orders"]);
    assert_eq!(renewal(&gateway, &socket, &fewer).await, 403);
    let bob = Claims::of("bob").subscribe(&["*"]);
    assert_eq!(renewal(&gateway, &socket, &bob).await, 403);
    socket.unsubscribe(&["stock/1"]).await;
    assert_eq!(renewal(&gateway, &socket, &fewer).await, 200);
    socket.is_open().await;
}

fn subscribe(topics: &[&str]) -> Value {
    json!({ "type": "subscribe", "ref": "s", "topics": topics })
}

#[tokio::test]
async fn each_topic_needs_a_right_also_in_mid_stream() {
    let gateway = settings().start().await;
    let mut socket = orders(&gateway, &ann()).open().await;
    for topics in [
        &["other"][..],
        &["stock/1", "other"],
        &["stock"],
        &["orders/1"],
    ] {
        socket.send(subscribe(topics)).await;
        let error = socket.error("forbidden").await;
        assert_eq!(error["ref"], "s", "{error}");
        assert_eq!(error.get("retry_after"), None, "{error}");
    }
    // Of a message that was refused nothing is followed.
    publish(&gateway, "stock/1", "x").await;
    publish(&gateway, "other", "x").await;
    socket.stays_silent().await;
    socket.subscribe(&["stock/1", "stock/2"]).await;
    publish(&gateway, "stock/2", "a").await;
    publish(&gateway, "orders", "b").await;
    assert_eq!(socket.take(2).await, ["a", "b"]);
}

#[tokio::test]
async fn to_publish_is_a_right_of_its_own() {
    let gateway = settings().start().await;
    let mut socket = gateway
        .ws("topic=stock/1")
        .bearer(&sign(&ann()))
        .open()
        .await;
    for topic in ["stock/1", "other", "orders/1"] {
        let message = json!({ "type": "publish", "ref": 1, "topic": topic, "data": "x" });
        socket.send(message).await;
        let error = socket.error("forbidden").await;
        assert_eq!(error["ref"], 1, "{error}");
    }
    socket.stays_silent().await;
    socket.publish("orders", "a").await;
    let reader = gateway.ws("topic=orders&lastEventId=earliest");
    let mut reader = reader.bearer(&sign(&ann())).open().await;
    reader.replays(["a"]).await;
}

#[tokio::test]
async fn who_may_only_look_may_not_publish() {
    let gateway = Gateway::with("auth.anonymous", "subscribe").start().await;
    let mut socket = gateway.follow("orders").await;
    let message = json!({ "type": "publish", "ref": 1, "topic": "orders", "data": "x" });
    socket.send(message).await;
    let error = socket.expect("error").await;
    let code = error["code"].as_str().unwrap();
    assert!(["forbidden", "unauthorized"].contains(&code), "{error}");
    socket.stays_silent().await;
}

const A: &str = "tenant-a-0123456789abcdef";
const B: &str = "tenant-b-0123456789abcdef";
const TENANTS: &str = r#"
auth:
  tokens:
    - {name: a, token: tenant-a-0123456789abcdef, subscribe: ["a/*"], publish: ["a/*"]}
    - {name: b, token: tenant-b-0123456789abcdef, subscribe: ["b/*"], publish: ["b/*"]}
"#;

#[tokio::test]
async fn a_token_that_is_taken_back_ends_its_connections() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let mut a = gateway.ws("topic=a/1").bearer(A).open().await;
    let mut b = gateway.ws("topic=b/1").bearer(B).open().await;
    let without = TENANTS.lines().filter(|line| !line.contains("tenant-a"));
    gateway
        .reload(&without.collect::<Vec<_>>().join("\n"))
        .await;
    a.closes(4401, "auth_expired").await;
    b.publish("b/2", "still here").await;
}

/// What was followed in mid-stream rests on the same rights as what was asked for at first.
#[tokio::test]
async fn a_right_that_is_taken_back_ends_the_connections_that_rest_on_it() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let mut one = gateway.ws("topic=a/2").bearer(A).open().await;
    one.subscribe(&["a/1"]).await;
    let mut left = gateway.ws("topic=a/2").bearer(A).open().await;
    left.subscribe(&["a/1"]).await;
    left.unsubscribe(&["a/1"]).await;
    let mut other = gateway.ws("topic=a/2").bearer(A).open().await;
    let narrower = TENANTS.replace("subscribe: [\"a/*\"]", "subscribe: [\"a/2\"]");
    gateway.reload(&narrower).await;
    one.closes(4401, "auth_expired").await;
    for socket in [&mut left, &mut other] {
        socket.send(subscribe(&["a/1"])).await;
        socket.error("forbidden").await;
        socket.is_open().await;
    }
}

#[tokio::test]
async fn a_right_to_publish_that_is_taken_back_is_gone() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let mut socket = gateway.ws("topic=a/1").bearer(A).open().await;
    socket.publish("a/2", "x").await;
    let narrower = TENANTS.replace("publish: [\"a/*\"]", "publish: []");
    gateway.reload(&narrower).await;
    let message = json!({ "type": "publish", "topic": "a/2", "data": "y" });
    socket.send(message).await;
    socket.error("forbidden").await;
}

#[tokio::test]
async fn a_static_token_never_ends_and_nobody_is_told() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let mut socket = gateway.ws("topic=a/1").bearer(A).open().await;
    tokio::time::sleep(SILENCE).await;
    socket.stays_silent().await;
}

#[tokio::test]
async fn no_line_and_no_metric_has_a_token_or_a_message_in_it() {
    let gateway = settings().with("log.level", "trace").start().await;
    let token = sign(&ann());
    let handshake = gateway.ws(&format!("topic=orders&access_token={token}"));
    let mut socket = handshake.open().await;
    socket.publish("orders", "the data of an event").await;
    for text in [
        "the text of no message",
        r#"{"type":"the type of no message"}"#,
    ] {
        socket.send_text(text).await;
    }
    assert!(!socket.close(1000, "the reason of a close").await.is_empty());
    let request = gateway.ws("topic=other").bearer(&token);
    request.is_turned_away("forbidden", 1008).await;
    let fields = [("message", "stream ended")];
    gateway.logged(&fields).await;
    gateway
        .logged(&[("target", "audit"), ("code", "forbidden")])
        .await;
    let said = gateway.said();
    let metrics = gateway.get_admin("/metrics").await.text();
    for secret in [
        &token[..],
        &token[token.len() - 20..],
        "the data of an event",
        "of no message",
        "the reason of",
    ] {
        assert!(!said.contains(secret), "{secret} in\n{said}");
        assert!(!metrics.contains(secret), "{secret} in\n{metrics}");
    }
}
