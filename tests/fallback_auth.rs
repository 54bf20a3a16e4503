//! The same credentials and the same rights by every encoding; and nobody stays in longer than they may.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::{
    redis::replica_of,
    support::{
        Claims, Encoding, Gateway, Place, Polled, RedisServer, Request, SILENCE, Settings, Signer,
        WaitingPoll, within,
    },
};

const SECRET: &str = "a secret of more than thirty-two bytes";
const PAGE: &str = "page-0123456789abcdef";
const SHOP: &str = "shop-0123456789abcdef";
const WRONG: &str = "wrong-0123456789abcdef";
const TOKENS: &str = r#"
auth:
  tokens:
    - {name: page, token: page-0123456789abcdef, subscribe: ["orders/*", stock]}
    - {name: shop, token: shop-0123456789abcdef, subscribe: ["*"], publish: ["*"]}
  jwt:
    secret: a secret of more than thirty-two bytes
    leeway: 0s
"#;

fn settings() -> Settings {
    Gateway::settings()
        .config(TOKENS)
        .with("limits.rate.auth_failure", "off")
        .with("auth.expiry_notice", "2s")
}

fn sign(claims: &Claims) -> String {
    Signer::hs256(SECRET).sign(claims)
}

fn ann() -> Claims {
    Claims::of("ann").subscribe(&["orders/*", "stock"])
}

async fn publish(gateway: &Gateway, topic: &str, data: &str) {
    let body = json!({ "topic": topic, "data": data }).to_string();
    let answer = gateway.ask(Request::publish(body).bearer(SHOP)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
}

async fn ticket(gateway: &Gateway, token: &str) -> String {
    let request = Request::new("POST", "/ticket").bearer(token);
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_credential_is_brought_in_whatever_way() {
    let gateway = settings().start().await;
    for way in Encoding::ALL {
        for token in [PAGE.to_owned(), sign(&ann())] {
            let entry = |query: &str| gateway.entry(way, &format!("topic=stock{query}"));
            let cookie = format!("theme=dark; tidegate={token}");
            let ticket = ticket(&gateway, &token).await;
            for entry in [
                entry("").bearer(&token),
                entry("").header("Cookie", &cookie),
                entry(&format!("&access_token={token}")),
                entry(&format!("&ticket={ticket}")),
            ] {
                let mut place = entry.enter().await;
                gateway.has_places_taken(1).await;
                publish(&gateway, "stock", "a").await;
                place.gets("a").await;
                drop(place);
                gateway.has_places_taken(0).await;
            }
        }
    }
}

#[tokio::test]
async fn who_shows_nothing_or_something_wrong_is_not_let_in() {
    let gateway = settings().start().await;
    let stranger = Signer::hs256("another secret of more than 32 bytes");
    let wrong = [
        WRONG.to_owned(),
        stranger.sign(&ann()),
        stranger.sign(&ann().expires_in(-60)),
        "x.y.z".to_owned(),
    ];
    for way in Encoding::ALL {
        let entry = || gateway.entry(way, "topic=stock");
        entry().is_refused(401, "unauthorized").await;
        for wrong in &wrong {
            entry().bearer(wrong).is_refused(401, "unauthorized").await;
            let cookie = format!("tidegate={wrong}");
            let entry = entry().header("Cookie", &cookie);
            entry.is_refused(401, "unauthorized").await;
            let query = format!("topic=stock&access_token={wrong}");
            let entry = gateway.entry(way, &query);
            entry.is_refused(401, "unauthorized").await;
        }
        let spent = gateway.entry(way, "topic=stock&ticket=abc");
        spent.is_refused(401, "unauthorized").await;
    }
    gateway.poll("topic=stock").ask().await.challenges(false);
    gateway
        .poll("topic=stock")
        .bearer(WRONG)
        .ask()
        .await
        .challenges(true);
}

/// A status for whoever can read one.
#[tokio::test]
async fn a_websocket_that_asks_for_it_is_refused_by_a_status() {
    let gateway = settings().start().await;
    let ws = |query: &str| gateway.ws(&format!("{query}&refuse=status"));
    ws("topic=stock").answer().await.challenges(false);
    ws("topic=stock")
        .bearer(WRONG)
        .answer()
        .await
        .challenges(true);
    let old = sign(&ann().expires_in(-60));
    ws("topic=stock")
        .bearer(&old)
        .answer()
        .await
        .challenges(true);
    let answer = ws("topic=other").bearer(PAGE).answer().await;
    answer.refuses(403, "forbidden");
    gateway.has_places_taken(0).await;
}

/// A stream of the rest would look like one of all.
#[tokio::test]
async fn one_forbidden_topic_refuses_the_whole() {
    let gateway = settings().start().await;
    for way in Encoding::ALL {
        for topics in [
            "other",
            "stock,other",
            "other,stock",
            "orders/1,stock,orders",
        ] {
            for token in [PAGE.to_owned(), sign(&ann())] {
                let entry = gateway.entry(way, &format!("topic={topics}"));
                entry.bearer(&token).is_refused(403, "forbidden").await;
            }
        }
        // The topic of whoever names none is not theirs either.
        gateway
            .entry(way, "")
            .bearer(PAGE)
            .is_refused(403, "forbidden")
            .await;
        let place = gateway
            .entry(way, "topic=orders/1,stock")
            .bearer(PAGE)
            .enter()
            .await;
        gateway.has_places_taken(1).await;
        drop(place);
        gateway.has_places_taken(0).await;
    }
    let detail = gateway.poll("topic=stock,other").bearer(PAGE).ask().await;
    let detail = detail.refuses(403, "forbidden");
    assert!(detail.contains("other"), "it says which: {detail}");
}

/// A page that was asleep shows an old token: it comes back with a new one.
#[tokio::test]
async fn an_expired_token_is_told_as_such_to_a_fallback() {
    let gateway = settings().start().await;
    let old = sign(&ann().expires_in(-60));
    for way in Encoding::FALLBACKS {
        let entry = gateway.entry(way, "topic=stock");
        entry.bearer(&old).is_refused(401, "unauthorized").await;
    }
    for (route, event) in [("/ws", "auth_expired"), ("/poll", "auth_expired")] {
        let fields = [("target", "audit"), ("route", route), ("event", event)];
        assert_eq!(gateway.logged(&fields).await["outcome"], "FAILED");
    }
}

#[tokio::test]
async fn a_ticket_is_used_once_over_all_encodings() {
    let gateway = settings().start().await;
    for first in Encoding::ALL {
        let query = format!("topic=stock&ticket={}", ticket(&gateway, PAGE).await);
        let mut place = gateway.entry(first, &query).enter().await;
        gateway.has_places_taken(1).await;
        for way in Encoding::ALL {
            let entry = gateway.entry(way, &query);
            entry.is_refused(401, "unauthorized").await;
        }
        publish(&gateway, "stock", "a").await;
        place.gets("a").await;
        drop(place);
        gateway.has_places_taken(0).await;
    }
}

#[tokio::test]
async fn a_ticket_of_one_replica_opens_a_fallback_on_any() {
    let redis = RedisServer::start().await;
    let a = replica_of(settings(), &redis).await;
    let b = replica_of(settings(), &redis).await;
    for way in Encoding::FALLBACKS {
        let query = format!("topic=stock&ticket={}", ticket(&a, PAGE).await);
        let mut place = b.entry(way, &query).enter().await;
        b.has_places_taken(1).await;
        for gateway in [&a, &b] {
            let entry = gateway.entry(way, &query);
            entry.is_refused(401, "unauthorized").await;
        }
        publish(&a, "stock", "a").await;
        place.gets("a").await;
        drop(place);
        b.has_places_taken(0).await;
    }
}

/// Whoever polls shows its credential each time, and each time it is judged.
#[tokio::test]
async fn every_poll_is_judged_anew() {
    let gateway = settings().start().await;
    let claims = ann().expires_in(5);
    let token = sign(&claims);
    let poll = |cursor: &str| {
        let query = format!("topic=stock&wait=0s&lastEventId={cursor}");
        gateway.poll(&query).bearer(&token)
    };
    publish(&gateway, "stock", "a").await;
    let cursor = poll("earliest").answer().await.cursor;
    poll(&cursor).answer().await.is_complete();
    let left = claims.end().duration_since(SystemTime::now());
    tokio::time::sleep(left.unwrap_or_default() + Duration::from_millis(200)).await;
    poll(&cursor).ask().await.challenges(true);
}

/// How a poll that waited ended before its time: with its cursor and nothing more, or without credentials that hold.
async fn ends_without_events(mut waiting: Box<WaitingPoll>) {
    let answer = waiting.response().await;
    if answer.status() == 401 || answer.status() == 403 {
        answer.problem();
    } else {
        let polled = Polled::of(&answer);
        assert!(polled.events.is_empty(), "{polled:?}");
    }
}

#[tokio::test]
async fn nobody_stays_longer_than_the_token() {
    let gateway = settings().start().await;
    let claims = ann().expires_in(5);
    let token = sign(&claims);
    let mut socket = gateway.ws("topic=stock").bearer(&token).open().await;
    let waiting = gateway
        .entry(Encoding::Poll, "topic=stock")
        .bearer(&token)
        .enter()
        .await;
    gateway.has_places_taken(2).await;
    publish(&gateway, "orders/1", "for others").await;
    let told = socket.expect("auth_expiring").await;
    let left = told["in_ms"].as_u64().unwrap();
    assert!((200..=2_300).contains(&left), "two seconds before: {told}");
    let end = told["expires"].as_str().unwrap();
    assert!(end.starts_with("20") && end.ends_with('Z'), "{told}");
    socket.closes(4401, "auth_expired").await;
    assert!(SystemTime::now() >= claims.end(), "not before its time");
    gateway.has_places_taken(0).await;
    let Place::Poll(waiting) = waiting else {
        panic!()
    };
    publish(&gateway, "stock", "not for ann any more").await;
    ends_without_events(waiting).await;
    let reason = ["reason=\"auth_expired\""];
    assert!(
        gateway
            .counted("tidegate_streams_closed_total", &reason)
            .await
            >= 1.0
    );
}

#[tokio::test]
async fn a_websocket_is_renewed_in_place() {
    // It lives for longer than anybody waits for a single message.
    let gateway = settings().with("stream.keepalive", "2s").start().await;
    let first = ann().expires_in(5);
    let mut socket = gateway.ws("topic=stock").bearer(&sign(&first)).open().await;
    socket.expect("auth_expiring").await;
    let target = format!("/connections/{}/token", socket.connection_id());
    let renewal = |claims: &Claims| Request::new("POST", &target).bearer(&sign(claims));
    let bob = Claims::of("bob").subscribe(&["*"]);
    gateway.ask(renewal(&bob)).await.refuses(403, "forbidden");
    let fewer = Claims::of("ann").subscribe(&["orders/*"]);
    gateway.ask(renewal(&fewer)).await.refuses(403, "forbidden");
    let second = first.clone().expires_in(6);
    let answer = gateway.ask(renewal(&second)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json()["connection"], socket.connection_id());
    let told = socket.expect("auth_expiring").await;
    assert_eq!(told["expires"], answer.json()["expires"]);
    assert!(SystemTime::now() > first.end(), "{told}");
    publish(&gateway, "stock", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    socket.closes(4401, "auth_expired").await;
    assert!(SystemTime::now() >= second.end(), "not before its time");
}

#[tokio::test]
async fn a_static_token_never_ends_and_nobody_is_told() {
    let gateway = settings().start().await;
    let mut socket = gateway.ws("topic=stock").bearer(PAGE).open().await;
    socket.stays_silent().await;
    let target = format!("/connections/{}/token", socket.connection_id());
    let answer = gateway
        .ask(Request::new("POST", &target).bearer(PAGE))
        .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json()["expires"], Value::Null, "{answer:?}");
}

/// It was taken back because it may be in wrong hands.
#[tokio::test]
async fn a_token_that_is_taken_back_ends_what_rests_on_it() {
    let gateway = settings().start().await;
    let mut socket = gateway.ws("topic=stock").bearer(PAGE).open().await;
    let waiting = gateway
        .entry(Encoding::Poll, "topic=stock")
        .bearer(PAGE)
        .enter()
        .await;
    let mut other = gateway.ws("topic=stock").bearer(SHOP).open().await;
    gateway.has_places_taken(3).await;
    let without: Vec<_> = TOKENS
        .lines()
        .filter(|line| !line.contains("name: page"))
        .collect();
    gateway.reload(&without.join("\n")).await;
    let (messages, closed) = within("the WebSocket to close", socket.rest()).await;
    assert_eq!(closed.code, Some(4401), "{closed:?}");
    assert!(
        messages.iter().all(|it| it["type"] != "event"),
        "{messages:?}"
    );
    gateway.has_places_taken(1).await;
    publish(&gateway, "stock", "a").await;
    let Place::Poll(waiting) = waiting else {
        panic!()
    };
    ends_without_events(waiting).await;
    // Others do not notice.
    assert_eq!(other.take(1).await, ["a"]);
    for way in Encoding::FALLBACKS {
        let entry = gateway.entry(way, "topic=stock").bearer(PAGE);
        entry.is_refused(401, "unauthorized").await;
    }
}

#[tokio::test]
async fn a_right_that_is_taken_back_ends_what_rests_on_it() {
    let gateway = settings().start().await;
    let mut one = gateway.ws("topic=stock").bearer(PAGE).open().await;
    let waiting = gateway
        .entry(Encoding::Poll, "topic=stock")
        .bearer(PAGE)
        .enter()
        .await;
    let mut other = gateway.ws("topic=orders/1").bearer(PAGE).open().await;
    gateway.has_places_taken(3).await;
    let narrower = TOKENS.replace(r#"["orders/*", stock]"#, r#"["orders/*"]"#);
    gateway.reload(&narrower).await;
    let (messages, closed) = within("the WebSocket to close", one.rest()).await;
    assert!(matches!(closed.code, Some(1008 | 4401)), "{closed:?}");
    assert!(
        messages.iter().all(|it| it["type"] != "event"),
        "{messages:?}"
    );
    gateway.has_places_taken(1).await;
    publish(&gateway, "stock", "a").await;
    let Place::Poll(waiting) = waiting else {
        panic!()
    };
    ends_without_events(waiting).await;
    publish(&gateway, "orders/1", "b").await;
    assert_eq!(other.take(1).await, ["b"]);
    for way in Encoding::FALLBACKS {
        let entry = gateway.entry(way, "topic=stock").bearer(PAGE);
        entry.is_refused(403, "forbidden").await;
    }
}

/// What a WebSocket subscribed in mid-stream rests on the same rights.
#[tokio::test]
async fn a_topic_that_was_added_falls_with_its_right() {
    let gateway = settings().start().await;
    let mut socket = gateway.ws("topic=orders/1").bearer(PAGE).open().await;
    socket.subscribe(&["stock"]).await;
    publish(&gateway, "stock", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    let narrower = TOKENS.replace(r#"["orders/*", stock]"#, r#"["orders/*"]"#);
    gateway.reload(&narrower).await;
    let (messages, closed) = within("the WebSocket to close", socket.rest()).await;
    assert!(matches!(closed.code, Some(1008 | 4401)), "{closed:?}");
    assert!(
        messages.iter().all(|it| it["type"] != "event"),
        "{messages:?}"
    );
}

/// A WebSocket publishes with the rights that it was opened with, and no longer than those hold.
#[tokio::test]
async fn a_message_is_judged_by_the_rights_of_its_connection() {
    let gateway = settings().start().await;
    let mut page = gateway.ws("topic=stock").bearer(PAGE).open().await;
    let publish = json!({"type": "publish", "ref": 1, "topic": "stock", "data": "x"});
    page.send(publish.clone()).await;
    page.error("forbidden").await;
    page.send(json!({"type": "subscribe", "ref": 2, "topics": ["other"]}))
        .await;
    page.error("forbidden").await;
    page.is_open().await;
    let mut shop = gateway.ws("topic=other").bearer(SHOP).open().await;
    shop.send(publish).await;
    assert_eq!(shop.expect("ack").await["ref"], 1);
    assert_eq!(page.take(1).await, ["x"]);
}

/// A cursor is a place in the log and no right to anything.
#[tokio::test]
async fn the_cursor_of_one_shows_another_only_what_is_its_own() {
    let gateway = settings().start().await;
    publish(&gateway, "other", "secret").await;
    let cursor = gateway.poll("topic=other&wait=0s&last=1").bearer(SHOP);
    let cursor = cursor.answer().await.cursor;
    publish(&gateway, "stock", "a").await;
    publish(&gateway, "other", "secret, too").await;
    let query = format!("topic=stock&wait=0s&lastEventId={cursor}");
    let polled = gateway.poll(&query).bearer(PAGE).answer().await;
    polled.is_complete();
    assert_eq!(polled.data(), ["a"]);
    let handshake = gateway.ws(&query.replace("&wait=0s", "")).bearer(PAGE);
    handshake.open().await.replays(["a"]).await;
}

#[tokio::test]
async fn no_line_and_no_metric_has_a_credential_in_it() {
    let gateway = settings().with("log.level", "trace").start().await;
    let token = sign(&ann());
    let ticket = ticket(&gateway, PAGE).await;
    for way in Encoding::FALLBACKS {
        for credential in [
            format!("access_token={token}"),
            format!("access_token={PAGE}"),
            format!("access_token={WRONG}"),
            format!("ticket={ticket}"),
        ] {
            let entry = gateway.entry(way, &format!("topic=stock&{credential}"));
            let mut connection = gateway.connect().await;
            connection.send(entry.request().bytes(gateway.public)).await;
            publish(&gateway, "stock", "passes").await;
            let _ = tokio::time::timeout(SILENCE, connection.read()).await;
        }
        let fields = [("target", "access"), ("route", way.route())];
        gateway.logged(&fields).await;
        let fields = [("target", "audit"), ("route", way.route())];
        gateway.logged(&fields).await;
    }
    gateway.has_places_taken(0).await;
    let said = gateway.said();
    let metrics = gateway.get_admin("/metrics").await.text();
    for secret in [&token[..], PAGE, WRONG, &ticket[..24], SECRET] {
        assert!(!said.contains(secret), "{secret} in\n{said}");
        assert!(!metrics.contains(secret), "{secret} in\n{metrics}");
    }
}
