//! So many connects, polls and messages in a time: each is counted where it belongs, and told when it may come again.

use serde_json::json;

use crate::support::{Claims, Encoding, Entry, Gateway, Received, Response, Settings, Signer};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// Behind a proxy on this machine, which names its clients.
fn settings() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish").with("server.trusted_proxies", "127.0.0.1")
}

fn entry(gateway: &Gateway, way: Encoding, address: &str) -> Entry {
    gateway.entry(way, "topic=orders").from(address)
}

/// A poll that waits for nothing.
async fn poll(gateway: &Gateway, address: &str) -> Response {
    let poll = gateway.poll("topic=orders&wait=0s");
    poll.header("X-Forwarded-For", address).ask().await
}

/// Asserts that this is a refusal by rate.
fn is_limited(answer: &Response, burst: u32) {
    answer.refuses(429, "rate_limited");
    let number = |name: &str| -> u64 {
        let value = answer.header(name);
        value
            .unwrap_or_else(|| panic!("no {name}: {answer:?}"))
            .parse()
            .unwrap()
    };
    assert_eq!(number("ratelimit-limit"), u64::from(burst), "{answer:?}");
    assert_eq!(number("ratelimit-remaining"), 0, "{answer:?}");
    let wait = number("retry-after");
    assert!(wait >= 1 && number("ratelimit-reset") >= wait, "{answer:?}");
}

/// A WebSocket that opens is a connect as a stream is.
#[tokio::test]
async fn websockets_and_streams_are_counted_together() {
    let gateway = settings()
        .with("limits.rate.connect", "1/min burst 3")
        .start()
        .await;
    for way in [Encoding::Ws, Encoding::Sse, Encoding::Ws] {
        entry(&gateway, way, "192.0.2.1").enter().await;
    }
    for way in [Encoding::Ws, Encoding::Sse] {
        let entry = entry(&gateway, way, "192.0.2.1");
        let later = entry.is_refused(429, "rate_limited").await.unwrap();
        assert!((30..=60).contains(&later), "one comes each minute: {later}");
    }
    let answer = gateway
        .ws("topic=orders&refuse=status")
        .header("X-Forwarded-For", "192.0.2.1")
        .answer()
        .await;
    is_limited(&answer, 3);
    entry(&gateway, Encoding::Ws, "192.0.2.2").enter().await;
    let line = gateway
        .logged(&[
            ("target", "audit"),
            ("code", "rate_limited"),
            ("route", "/ws"),
        ])
        .await;
    assert_eq!(line["outcome"], "BLOCKED", "{line}");
    assert_eq!(line["address"], "192.0.2.1", "{line}");
    // It is connects that are limited, not polls.
    assert_eq!(poll(&gateway, "192.0.2.1").await.status(), 200);
}

#[tokio::test]
async fn polls_have_a_rate_of_their_own() {
    let gateway = settings()
        .with("limits.rate.poll", "1/min burst 3")
        .with("limits.rate.connect", "1/min burst 1")
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(poll(&gateway, "192.0.2.1").await.status(), 200);
    }
    is_limited(&poll(&gateway, "192.0.2.1").await, 3);
    assert_eq!(poll(&gateway, "192.0.2.2").await.status(), 200);
    let code = ["code=\"rate_limited\""];
    gateway.counts("tidegate_refusals_total", &code, 1).await;
    // A stream is no poll, and a poll no connect.
    entry(&gateway, Encoding::Sse, "192.0.2.1").enter().await;
    entry(&gateway, Encoding::Ws, "192.0.2.2").enter().await;
    let line = gateway
        .logged(&[
            ("target", "audit"),
            ("code", "rate_limited"),
            ("route", "/poll"),
        ])
        .await;
    assert_eq!(line["address"], "192.0.2.1", "{line}");
}

/// Six hundred in a minute by default: a page that polls without a pause is stopped, one that waits is not.
#[tokio::test]
async fn by_default_there_is_a_rate_of_polls() {
    let gateway = settings().start().await;
    let mut connection = gateway.connect().await;
    let request = gateway.poll("topic=orders&wait=0s").request();
    let mut served = 0;
    let answer = loop {
        let answer = connection.ask(&request).await;
        if answer.status() != 200 {
            break answer;
        }
        served += 1;
        assert!(served < 2_000, "nobody stopped it");
    };
    is_limited(&answer, 600);
    assert!(served >= 600, "{served}");
}

#[tokio::test]
async fn each_network_of_ipv6_is_counted_for_itself() {
    let gateway = settings()
        .with("limits.rate.poll", "1/min burst 1")
        .with("limits.rate.connect", "1/min burst 1")
        .start()
        .await;
    for address in ["192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:2::1"] {
        assert_eq!(poll(&gateway, address).await.status(), 200, "{address}");
        entry(&gateway, Encoding::Ws, address).enter().await;
    }
    for address in ["::ffff:192.0.2.1", "2001:db8:0:1:2:3:4:5"] {
        is_limited(&poll(&gateway, address).await, 1);
        let entry = entry(&gateway, Encoding::Ws, address);
        entry.is_refused(429, "rate_limited").await;
    }
}

#[tokio::test]
async fn rates_of_polls_change_by_reload() {
    let yaml = |rate: &str| {
        format!(
            "auth: {{anonymous: [subscribe]}}\nlimits: {{rate: {{poll: {rate}, message: {rate}}}}}\n"
        )
    };
    let gateway = Gateway::settings()
        .config(&yaml("1/min burst 1"))
        .start()
        .await;
    let poll = async || gateway.poll("topic=orders&wait=0s").ask().await;
    assert_eq!(poll().await.status(), 200);
    is_limited(&poll().await, 1);
    gateway.reload(&yaml("off")).await;
    for _ in 0..20 {
        assert_eq!(poll().await.status(), 200);
    }
}

#[tokio::test]
async fn in_development_mode_nobody_is_counted() {
    let gateway = Gateway::with("limits.rate.connect", "1/h")
        .with("limits.rate.poll", "1/h")
        .with("limits.rate.message", "1/h")
        .with("limits.rate.publish", "1/h")
        .start()
        .await;
    for _ in 0..5 {
        let mut socket = gateway.follow("orders").await;
        for number in 0..5 {
            socket.is_open().await;
            socket
                .send(json!({"type": "publish", "topic": "other", "data": number.to_string()}))
                .await;
            socket.expect("ack").await;
        }
        gateway.poll("topic=orders&wait=0s").answer().await;
    }
}

/// The one who sends too much is told so, and loses nothing of what it follows.
#[tokio::test]
async fn messages_have_a_rate_and_the_connection_stays_open() {
    let gateway = settings()
        .with("limits.rate.message", "60/h burst 3")
        .start()
        .await;
    let handshake = |address: &str| {
        let handshake = gateway.ws("topic=orders");
        handshake.header("X-Forwarded-For", address)
    };
    let mut socket = handshake("192.0.2.1").open().await;
    for _ in 0..3 {
        socket.is_open().await;
    }
    for number in 0..5 {
        socket.send(json!({"type": "ping", "ref": number})).await;
        let error = socket.error("rate_limited").await;
        let told = error.get("ref");
        assert!(told.is_none_or(|told| *told == number), "{error}");
        let later = error["retry_after"].as_u64().unwrap();
        assert!((1..=3_600).contains(&later), "{error}");
    }
    gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    // The rate is the address's, not the connection's.
    let mut second = handshake("192.0.2.1").open().await;
    second.send(json!({"type": "ping"})).await;
    second.error("rate_limited").await;
    let mut other = handshake("192.0.2.2").open().await;
    other.is_open().await;
}

/// What was refused was not done.
#[tokio::test]
async fn a_message_over_the_rate_has_no_effect() {
    let gateway = settings()
        .with("limits.rate.message", "60/h burst 2")
        .start()
        .await;
    let mut socket = gateway.follow("orders").await;
    socket.is_open().await;
    socket.is_open().await;
    let publish = json!({"type": "publish", "ref": 1, "topic": "orders", "data": "refused"});
    socket.send(publish).await;
    socket.error("rate_limited").await;
    let subscribe = json!({"type": "subscribe", "ref": 2, "topics": ["other"]});
    socket.send(subscribe).await;
    socket.error("rate_limited").await;
    gateway.publish("other", "not followed").await;
    gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    let polled = gateway.poll("topic=orders&lastEventId=earliest&wait=0s");
    assert_eq!(polled.answer().await.data(), ["a"]);
}

#[tokio::test]
async fn who_goes_on_regardless_is_closed() {
    let gateway = settings()
        .with("limits.rate.message", "1/h burst 1")
        .start()
        .await;
    let mut socket = gateway.follow("orders").await;
    socket.is_open().await;
    let mut errors = 0;
    let closed = loop {
        socket.send(json!({"type": "ping"})).await;
        match socket.received().await {
            Received::Message(message) => {
                assert_eq!(message["code"], "rate_limited", "{message}");
                errors += 1;
                assert!(errors < 200, "nobody stopped it");
            }
            Received::Close(closed) => break closed,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(closed.code, Some(1008), "{closed:?}");
    assert!((99..=101).contains(&errors), "a hundred in a row: {errors}");
    gateway.has_places_taken(0).await;
}

/// A publish is a publish, however it comes.
#[tokio::test]
async fn publishing_by_websocket_counts_as_publishing() {
    let gateway = settings()
        .with("limits.rate.publish", "60/h burst 3")
        .start()
        .await;
    let handshake = gateway
        .ws("topic=orders")
        .header("X-Forwarded-For", "192.0.2.1");
    let mut socket = handshake.open().await;
    let publish =
        |data: &str| json!({"type": "publish", "ref": data, "topic": "other", "data": data});
    for data in ["a", "b"] {
        assert_eq!(socket.ask(publish(data)).await["type"], "ack");
    }
    let by_http = || {
        let request = crate::support::Request::publish(r#"{"topic":"other","data":"c"}"#);
        request.header("X-Forwarded-For", "192.0.2.1")
    };
    assert_eq!(gateway.ask(by_http()).await.status(), 200);
    socket.send(publish("refused")).await;
    let error = socket.error("rate_limited").await;
    assert_eq!(error["ref"], "refused");
    assert!(error["retry_after"].as_u64().unwrap() >= 1, "{error}");
    is_limited(&gateway.ask(by_http()).await, 3);
    // Other messages are not meant.
    socket.is_open().await;
    let polled = gateway.poll("topic=other&last=10&wait=0s").answer().await;
    assert_eq!(polled.data(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_subject_publishes_so_often_by_websocket_wherever_it_is() {
    let gateway = Gateway::with("auth.jwt.secret", SECRET)
        .with("server.trusted_proxies", "127.0.0.1")
        .with("limits.rate.publish_per_subject", "60/h burst 2")
        .with("limits.rate.connect_per_subject", "60/h burst 3")
        .start()
        .await;
    let open = async |subject: &str, address: &str| {
        let claims = Claims::of(subject).subscribe(&["*"]).publish(&["*"]);
        let token = Signer::hs256(SECRET).sign(&claims);
        let handshake = gateway.ws("topic=orders").bearer(&token);
        handshake.header("X-Forwarded-For", address)
    };
    let publish = json!({"type": "publish", "topic": "other", "data": "a"});
    for address in ["192.0.2.1", "192.0.2.2"] {
        let mut socket = open("ann", address).await.open().await;
        assert_eq!(socket.ask(publish.clone()).await["type"], "ack");
    }
    let mut socket = open("ann", "192.0.2.3").await.open().await;
    socket.send(publish.clone()).await;
    socket.error("rate_limited").await;
    let mut other = open("bob", "192.0.2.1").await.open().await;
    assert_eq!(other.ask(publish).await["type"], "ack");
    let fourth = open("ann", "192.0.2.4").await;
    fourth.is_turned_away("rate_limited", 1013).await;
}

/// Then not even the right one is looked at.
#[tokio::test]
async fn who_guesses_credentials_is_stopped_whatever_the_route() {
    let gateway = settings()
        .config("auth: {tokens: [{name: shop, token: shop-0123456789abcdef, subscribe: [orders]}]}")
        .with("limits.rate.auth_failure", "10/h burst 10")
        .start()
        .await;
    let guess = |number: usize| format!("guess-{number}-0123456789abcdef");
    for number in 0..10 {
        let way = Encoding::ALL[number % 3];
        let entry = entry(&gateway, way, "192.0.2.1").bearer(&guess(number));
        entry.is_refused(401, "unauthorized").await;
    }
    for way in Encoding::ALL {
        for token in [&guess(10), "shop-0123456789abcdef"] {
            let entry = entry(&gateway, way, "192.0.2.1").bearer(token);
            entry.is_refused(429, "rate_limited").await;
        }
        let others = entry(&gateway, way, "192.0.2.2").bearer("shop-0123456789abcdef");
        others.enter().await;
    }
}
