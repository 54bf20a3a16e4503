//! What a client says: answered with its own ref, in its own order, and no nonsense ends the connection.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Frame, Gateway, Received, Settings, WebSocket, opcode};

#[tokio::test]
async fn a_ping_is_answered_and_a_ref_comes_back_as_it_was() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let pong = socket.ask(json!({ "type": "ping" })).await;
    assert_eq!(pong, json!({ "type": "pong" }), "no ref was sent");
    for reference in [
        json!("a"),
        json!(""),
        json!("\u{0}\"\\\u{1F30A}\n"),
        json!("x".repeat(100)),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(9_007_199_254_740_993_u64),
        json!(u64::MAX),
        json!(i64::MIN),
    ] {
        let pong = socket
            .ask(json!({ "type": "ping", "ref": reference }))
            .await;
        assert_eq!(pong, json!({ "type": "pong", "ref": reference }));
    }
}

/// Reads an error, and whatever its code is the connection is open afterwards.
async fn is_an_error(socket: &mut WebSocket, text: &str) -> Value {
    let shown: String = text.chars().take(80).collect();
    socket.send_text(text).await;
    let message = socket.telling().await;
    assert_eq!(message["type"], "error", "{shown}: {message}");
    socket.is_open().await;
    message
}

#[tokio::test]
async fn what_is_no_json_is_an_error() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for text in [
        "",
        " ",
        "{",
        "ping",
        "{\"type\":\"ping\"",
        "{\"type\":\"ping\"}}",
        "{'type':'ping'}",
        "{\"type\":\"ping\",}",
        "{\"type\":\"ping\"}\n{\"type\":\"ping\"}",
        "\u{feff}{\"type\":\"ping\"}",
        "{\"type\":\"pi\nng\"}",
        "NaN",
    ] {
        let error = is_an_error(&mut socket, text).await;
        assert_eq!(error["code"], "json_invalid", "{text:?}: {error}");
        assert_eq!(error.get("ref"), None, "{text:?}: {error}");
    }
    gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
}

#[tokio::test]
async fn json_that_is_no_message_is_an_error() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for message in [
        json!(null),
        json!(1),
        json!("ping"),
        json!([]),
        json!([{ "type": "ping" }]),
        json!({}),
        json!({ "type": null }),
        json!({ "type": 1 }),
        json!({ "type": ["ping"] }),
        json!({ "type": "dance" }),
        json!({ "type": "PING" }),
        json!({ "type": "" }),
        json!({ "type": "event", "id": "1-1", "topic": "orders", "event": "message", "data": "a" }),
        json!({ "type": "subscribe" }),
        json!({ "type": "subscribe", "topics": 1 }),
        json!({ "type": "subscribe", "topics": null }),
        json!({ "type": "subscribe", "topics": [1] }),
        json!({ "type": "subscribe", "topics": [["stock"]] }),
        json!({ "type": "subscribe", "topics": { "stock": 1 } }),
        json!({ "type": "unsubscribe" }),
        json!({ "type": "unsubscribe", "topics": [null] }),
    ] {
        let error = is_an_error(&mut socket, &message.to_string()).await;
        assert_eq!(error["code"], "message_invalid", "{message}: {error}");
    }
    // What is asked for wrongly is not done in part.
    gateway.publish("stock", "a").await;
    socket.stays_silent().await;
}

/// What code these have is not promised; that they do no harm is.
#[tokio::test]
async fn members_of_the_wrong_kind_are_errors() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for message in [
        json!({ "type": "subscribe", "topics": ["stock"], "lastEventId": { "id": 1 } }),
        json!({ "type": "subscribe", "topics": ["stock"], "lastEventId": [] }),
        json!({ "type": "subscribe", "topics": ["stock"], "since": [] }),
        json!({ "type": "subscribe", "topics": ["stock"], "since": {} }),
        json!({ "type": "subscribe", "topics": ["stock"], "last": -1 }),
        json!({ "type": "subscribe", "topics": ["stock"], "last": 1.5 }),
        json!({ "type": "subscribe", "topics": ["stock"], "last": "x" }),
        json!({ "type": "subscribe", "topics": ["stock"], "last": {} }),
        json!({ "type": "ping", "ref": {} }),
        json!({ "type": "ping", "ref": [] }),
        json!({ "type": "ping", "ref": true }),
    ] {
        is_an_error(&mut socket, &message.to_string()).await;
    }
    gateway.publish("stock", "a").await;
    socket.stays_silent().await;
}

#[tokio::test]
async fn an_error_names_what_was_asked() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for reference in [json!("a"), json!(7), json!("")] {
        for message in [
            json!({ "type": "dance" }),
            json!({ "type": "subscribe", "topics": [1] }),
            json!({ "type": "subscribe", "topics": ["$x"] }),
            json!({ "type": "unsubscribe", "topics": ["stock"] }),
            json!({ "type": "publish", "topic": "$x" }),
        ] {
            let mut message = message;
            message["ref"] = reference.clone();
            let error = is_an_error(&mut socket, &message.to_string()).await;
            assert_eq!(error["ref"], reference, "{message}: {error}");
        }
    }
}

/// Deeper than any stack, longer than any log line: answered somehow, and nothing breaks.
#[tokio::test]
async fn what_is_deep_or_large_does_no_harm() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    let huge = "x".repeat(200_000);
    for text in [
        deep("[", "]"),
        deep("{\"a\":", "}"),
        "[".repeat(500_000),
        format!("{{\"type\":\"ping\",\"x\":{}}}", deep("[", "]")),
        format!(
            "{{\"type\":\"publish\",\"topic\":\"deep\",\"data\":{}}}",
            deep("[", "]")
        ),
        format!("{{\"type\":\"{huge}\"}}"),
        format!("{{\"type\":\"subscribe\",\"topics\":[\"{huge}\"]}}"),
        format!("{{\"type\":\"subscribe\",\"topics\":[\"a\"],\"lastEventId\":\"{huge}\"}}"),
        json!({ "type": "subscribe", "topics": vec!["a$"; 100_000] }).to_string(),
        json!({ "type": "ping", "ref": huge }).to_string(),
        json!({ "type": "dance", "ref": huge }).to_string(),
        format!("{{\"type\":\"ping\",\"ref\":1{}}}", "0".repeat(100_000)),
    ] {
        socket.send_text(&text).await;
        let answer = socket.telling().await;
        let size = answer.to_string().len();
        let kind = answer["type"].as_str().unwrap();
        let answers = ["error", "pong", "subscribed", "ack"];
        assert!(answers.contains(&kind), "{kind}");
        assert!(size < 300_000, "{size} bytes");
        if kind == "subscribed" {
            socket.expect("live").await;
            socket.unsubscribe(&["a$"]).await;
        }
        socket.is_open().await;
    }
}

#[tokio::test]
async fn a_binary_message_is_an_error() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for payload in [&b""[..], b"{\"type\":\"ping\"}", b"\xff\xfe\x00"] {
        socket.send_frame(Frame::new(opcode::BINARY, payload)).await;
        socket.error("message_invalid").await;
        socket.is_open().await;
    }
    for piece in Frame::pieces(opcode::BINARY, b"{\"type\":\"ping\"}", 4) {
        socket.send_frame(piece).await;
    }
    socket.error("message_invalid").await;
    socket.is_open().await;
}

/// As a body of `POST /publish`: that much and no more, in one frame or in many.
#[tokio::test]
async fn a_message_that_is_too_large_closes_the_connection() {
    let gateway = Gateway::with("limits.body_bytes", "4KiB").start().await;
    let ping = |size: usize| {
        let message = json!({ "type": "ping", "ref": "" }).to_string();
        format!("{message:<size$}")
    };
    let mut socket = gateway.follow("orders").await;
    for size in [4_000, 4_096] {
        socket.send_text(&ping(size)).await;
        assert_eq!(socket.telling().await["type"], "pong");
    }
    for piece in Frame::pieces(opcode::TEXT, ping(4_096), 100) {
        socket.send_frame(piece).await;
    }
    assert_eq!(socket.telling().await["type"], "pong");
    let whole = vec![Frame::text(ping(4_097))];
    let pieces = Frame::pieces(opcode::TEXT, ping(10_000), 1_000);
    let binary = vec![Frame::new(opcode::BINARY, ping(4_097))];
    for frames in [whole, pieces, binary] {
        let mut socket = gateway.follow("orders").await;
        for frame in frames {
            // It may have been closed before the last one.
            let _ = socket.try_send_bytes(frame.bytes()).await;
        }
        socket.expect_close(1009).await;
    }
    // It is enough to announce it.
    let mut socket = gateway.follow("orders").await;
    let head = [0x81, 0x80 | 127, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    socket.send_bytes(head).await;
    socket.expect_close(1009).await;
    gateway.has_places_taken(1).await;
    drop(socket);
}

/// Whatever the gateway sends itself has no such bound.
#[tokio::test]
async fn an_event_may_be_larger_than_what_a_client_may_say() {
    let gateway = Gateway::with("limits.body_bytes", "4KiB")
        .with("limits.event_bytes", "64KiB")
        .start()
        .await;
    let mut socket = gateway.follow("orders").await;
    let line = json!({ "topic": "orders", "data": "\u{1}".repeat(600) });
    let answer = gateway.post(line.to_string()).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(socket.take(1).await, ["\u{1}".repeat(600)]);
}

#[tokio::test]
async fn silence_is_filled_with_pings_and_who_answers_stays() {
    // Who stands still for three of them is gone, and this one shall not be.
    let gateway = Gateway::with("stream.keepalive", "1s").start().await;
    let mut socket = gateway.follow("orders").await;
    let mut pings = 0;
    while pings < 6 {
        match socket.received().await {
            Received::Ping => pings += 1,
            Received::Message(message) => assert_eq!(message["type"], "cursor", "{message}"),
            other => panic!("{other:?}"),
        }
    }
    gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
}

#[tokio::test]
async fn who_answers_no_ping_is_gone() {
    let gateway = Gateway::with("stream.keepalive", "200ms").start().await;
    let mut socket = gateway.follow("orders").await;
    socket.answers_pings = false;
    let mut pings = 0;
    while let Some((received, _)) = socket.received_or_end().await {
        match received {
            Received::Ping => pings += 1,
            Received::Message(message) => assert_eq!(message["type"], "cursor", "{message}"),
            other => panic!("{other:?}"),
        }
    }
    assert!((2..=3).contains(&pings), "{pings}");
    gateway.has_places_taken(0).await;
    let fields = [("message", "stream ended"), ("reason", "gone")];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["connection"], socket.connection_id(), "{line}");
}

/// A pong that nobody asked for is a sign of life as well (RFC 6455, 5.5.3).
#[tokio::test]
async fn a_pong_without_a_ping_does_no_harm() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for payload in [&b""[..], b"hello", &[0xFF; 125]] {
        socket.send_frame(Frame::new(opcode::PONG, payload)).await;
    }
    socket.is_open().await;
}

/// Served to everybody, so that the rules of development mode do not hold.
fn limited(rate: &str) -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish").with("limits.rate.message", rate)
}

#[tokio::test]
async fn who_says_too_much_is_told_when_to_go_on() {
    let gateway = limited("1/s burst 3").start().await;
    let mut socket = gateway.follow("orders").await;
    for _ in 0..3 {
        socket.is_open().await;
    }
    let ping = json!({ "type": "ping", "ref": "p" });
    let error = loop {
        // A slow machine may have brought one back.
        let answer = socket.ask(ping.clone()).await;
        if answer["type"] == "error" {
            break answer;
        }
    };
    assert_eq!(error["code"], "rate_limited", "{error}");
    assert_eq!(error["ref"], "p", "{error}");
    let wait = error["retry_after"].as_u64().unwrap();
    assert!((1..=2).contains(&wait), "{error}");
    // Events come all the same.
    gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    tokio::time::sleep(Duration::from_secs(wait)).await;
    let pong = socket.ask(ping).await;
    assert_eq!(pong["type"], "pong", "{pong}");
}

#[tokio::test]
async fn a_flood_is_closed() {
    let gateway = limited("1/h burst 3").start().await;
    let mut other = gateway.follow("orders").await;
    let mut socket = gateway.follow("orders").await;
    for number in 0..200 {
        let ping = json!({ "type": "ping", "ref": number }).to_string();
        // It is closed in the midst of it.
        if socket
            .try_send_bytes(Frame::text(ping).bytes())
            .await
            .is_err()
        {
            break;
        }
    }
    let (messages, closed) = socket.rest().await;
    assert_eq!(closed.code, Some(1008), "{closed:?}");
    let pongs = messages.iter().filter(|it| it["type"] == "pong").count();
    let errors = messages.iter().filter(|it| it["code"] == "rate_limited");
    let errors = errors.count();
    // The last of the hundred is answered by the close.
    assert!(pongs == 3 && (99..=100).contains(&errors), "{messages:?}");
    gateway.has_places_taken(1).await;
    gateway.publish("orders", "a").await;
    assert_eq!(other.take(1).await, ["a"]);
}

#[tokio::test]
async fn in_development_mode_nobody_is_counted() {
    let gateway = Gateway::with("limits.rate.message", "1/h").start().await;
    let mut socket = gateway.follow("orders").await;
    for _ in 0..300 {
        socket.is_open().await;
    }
}

/// By default 600 a minute, and that many at once.
#[tokio::test]
async fn six_hundred_messages_at_once_are_no_flood() {
    let gateway = Gateway::with("auth.anonymous", "subscribe").start().await;
    let mut socket = gateway.follow("orders").await;
    for _ in 0..600 {
        socket.is_open().await;
    }
}
