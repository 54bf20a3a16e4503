//! Who gets a WebSocket, and what the others are told while they still speak HTTP (RFC 6455, 4.2).

use serde_json::json;

use crate::support::{Gateway, H2Client, Handshake, Request, Response, Settings, accept_of};

const APP: &str = "https://app.example";
const SHOP: &str = "shop-0123456789abcdef";

/// With auth, so that the rules are not those of development mode.
fn settings() -> Settings {
    Gateway::settings()
        .config("auth: {tokens: [{name: shop, token: shop-0123456789abcdef, subscribe: [orders]}]}")
        .with("cors.origins", APP)
}

fn wants_upgrade(answer: &Response) {
    answer.refuses(426, "upgrade_required");
    assert_eq!(answer.head.list("upgrade"), ["websocket"], "{answer:?}");
    let connection = answer.head.list("connection");
    assert!(
        connection.contains(&"upgrade".to_owned()),
        "Upgrade is said with Connection (RFC 9110, 7.8): {answer:?}"
    );
}

/// The example of RFC 6455, 1.3.
#[tokio::test]
async fn the_key_is_answered() {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    assert_eq!(accept_of(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let gateway = Gateway::start().await;
    let socket = gateway.ws("topic=orders").instead("Sec-WebSocket-Key", KEY);
    let socket = socket.open().await;
    let accept = socket.head.header("sec-websocket-accept");
    assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for unexpected in ["content-length", "transfer-encoding"] {
        let value = socket.head.header(unexpected);
        assert_eq!(value, None, "{}", socket.head.raw);
    }
}

/// A server may only name what the client has offered, and need not take any of it.
#[tokio::test]
async fn no_extension_and_no_subprotocol_is_selected() {
    let gateway = Gateway::start().await;
    let offers = gateway
        .ws("topic=orders")
        .header(
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
        )
        .header("Sec-WebSocket-Protocol", "tidegate, json, graphql-ws");
    let mut socket = offers.open().await;
    for header in ["sec-websocket-extensions", "sec-websocket-protocol"] {
        let selected = socket.head.header(header);
        assert_eq!(selected, None, "{}", socket.head.raw);
    }
    // Where a bit of compression were set, the client would find it.
    gateway.publish("orders", &"a".repeat(10_000)).await;
    assert_eq!(socket.take(1).await, ["a".repeat(10_000)]);
}

#[tokio::test]
async fn tokens_of_the_handshake_have_no_case_and_may_be_one_of_a_list() {
    let gateway = Gateway::start().await;
    let ws = || gateway.ws("topic=orders");
    for handshake in [
        ws().instead("Connection", "upgrade"),
        ws().instead("Connection", "UPGRADE"),
        ws().instead("Connection", "keep-alive, Upgrade"),
        ws().instead("Connection", "Upgrade,keep-alive"),
        ws().instead("Connection", "keep-alive")
            .header("Connection", "Upgrade"),
        ws().instead("Upgrade", "WebSocket"),
        ws().instead("Upgrade", "WEBSOCKET"),
        ws().instead("Upgrade", "h2c, websocket"),
    ] {
        let socket = handshake.open().await;
        assert_eq!(socket.replay(), "none");
    }
}

#[tokio::test]
async fn a_plain_get_is_told_to_upgrade() {
    let gateway = Gateway::start().await;
    let ws = || gateway.ws("topic=orders");
    wants_upgrade(&gateway.get("/ws?topic=orders").await);
    wants_upgrade(&gateway.get("/ws").await);
    for handshake in [
        ws().without("Connection"),
        ws().without("Upgrade"),
        ws().instead("Connection", "keep-alive"),
        ws().instead("Connection", "upgraded"),
        ws().instead("Upgrade", "h2c"),
        ws().instead("Upgrade", "websockets"),
    ] {
        wants_upgrade(&handshake.answer().await);
    }
}

#[tokio::test]
async fn another_version_is_told_which_one_there_is() {
    let gateway = Gateway::start().await;
    for version in ["0", "8", "12", "14", "130", "x"] {
        let handshake = gateway.ws("topic=orders");
        let answer = handshake
            .instead("Sec-WebSocket-Version", version)
            .answer()
            .await;
        wants_upgrade(&answer);
        let versions = answer.header("sec-websocket-version");
        assert_eq!(versions, Some("13"), "{version}: {answer:?}");
    }
}

/// Sixteen bytes in base64 (RFC 6455, 4.1), once.
#[tokio::test]
async fn a_broken_key_is_refused() {
    let gateway = Gateway::start().await;
    let ws = || gateway.ws("topic=orders").without("Sec-WebSocket-Key");
    let answer = ws().answer().await;
    answer.refuses(400, "request_malformed");
    for key in [
        "",
        "x",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZSE=dGhl",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZSEh",
        "****************************",
        "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
    ] {
        let answer = ws().header("Sec-WebSocket-Key", key).answer().await;
        answer.refuses(400, "request_malformed");
    }
    let twice = gateway.ws("topic=orders");
    let answer = twice
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .answer()
        .await;
    answer.refuses(400, "request_malformed");
}

/// A program can mend it, so it is told before the upgrade, as by `/events`.
#[tokio::test]
async fn a_query_that_is_no_query_is_refused_before_the_upgrade() {
    let gateway = Gateway::with("limits.topics_per_connection", 3)
        .start()
        .await;
    for (query, code) in [
        ("topic=$internal", "topic_invalid"),
        ("topic=a%20b", "topic_invalid"),
        ("topic=a*", "topic_invalid"),
        ("topic=a,b,c,d", "too_many_topics"),
        ("topic=a&lastEventId=garbage", "cursor_invalid"),
        ("topic=a&last_event_id=1-2-3", "cursor_invalid"),
        ("topic=a&since=yesterday", "since_invalid"),
        ("topic=a&last=x", "query_invalid"),
        ("topic=a&last=-1", "query_invalid"),
        ("topics=a", "topic_invalid"),
        ("topic=a&refuse=maybe", "query_invalid"),
    ] {
        let answer = gateway.ws(query).answer().await;
        let detail = answer.refuses(400, code);
        // `/events` says the same, in the same words.
        let events = gateway.get(&format!("/events?{query}")).await;
        assert_eq!(events.refuses(400, code), detail, "{query}");
    }
}

/// Silence is not filled by frames here, and an event says all that an envelope would.
#[tokio::test]
async fn options_that_mean_nothing_here_are_refused() {
    let gateway = Gateway::start().await;
    for query in ["heartbeat=event", "envelope=json", "control=off"] {
        let answer = gateway.ws(&format!("topic=a&{query}")).answer().await;
        answer.refuses(400, "query_invalid");
    }
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let gateway = Gateway::start().await;
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = gateway.ask(Request::new(method, "/ws?topic=orders")).await;
        answer.refuses(405, "method_not_allowed");
        let allow = answer.head.list("allow");
        assert!(allow.contains(&"get".to_owned()), "{answer:?}");
    }
    let mut upgrade = Request::new("POST", "/ws?topic=orders");
    for (name, value) in [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        upgrade = upgrade.header(name, value);
    }
    let answer = gateway.ask(upgrade).await;
    answer.refuses(405, "method_not_allowed");
}

/// An `Upgrade` in HTTP/1.0 has to be ignored (RFC 9110, 7.8), and HTTP/2 has none.
#[tokio::test]
async fn a_websocket_begins_with_http_1_1_alone() {
    let gateway = Gateway::start().await;
    let bytes = String::from_utf8(gateway.ws("topic=orders").bytes()).unwrap();
    let mut connection = gateway.connect().await;
    connection
        .send(bytes.replacen("HTTP/1.1", "HTTP/1.0", 1))
        .await;
    let answer = connection.response().await;
    answer.refuses(426, "upgrade_required");
    let mut client = H2Client::open(gateway.public).await;
    client.send_request(1, "/ws?topic=orders", &[]).await;
    let status = client.refusal(1).await;
    assert!(
        status.is_some_and(|status| (400..500).contains(&status)),
        "{status:?}"
    );
    gateway.has_places_taken(0).await;
}

fn of_page(handshake: Handshake, origin: &str) -> Handshake {
    handshake
        .bearer(SHOP)
        .header("Origin", origin)
        .header("Sec-Fetch-Mode", "websocket")
}

/// Browsers show cookies to whomever a page wants to speak, and no preflight asks before: the origin is all there is.
#[tokio::test]
async fn a_page_of_a_stranger_gets_no_websocket() {
    let gateway = settings().start().await;
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "http://localhost:3000",
        "null",
        "",
        "file://",
        "https://app.example, https://evil.example",
    ] {
        let answer = of_page(gateway.ws("topic=orders"), origin).answer().await;
        answer.refuses(403, "origin_forbidden");
        let open = answer.header("access-control-allow-origin");
        assert_eq!(open, None, "{answer:?}");
    }
    let cross_site = gateway.ws("topic=orders").bearer(SHOP);
    let cross_site = cross_site.header("Sec-Fetch-Site", "cross-site");
    let answer = cross_site.answer().await;
    answer.refuses(403, "origin_forbidden");
    gateway.has_places_taken(0).await;
    let fields = [("target", "audit"), ("code", "origin_forbidden")];
    gateway.logged(&fields).await;
}

#[tokio::test]
async fn our_own_pages_listed_ones_and_those_who_are_no_pages_get_one() {
    let gateway = settings().start().await;
    gateway.ws("topic=orders").bearer(SHOP).open().await;
    let own = format!("http://{}", gateway.public);
    of_page(gateway.ws("topic=orders"), &own).open().await;
    let proxied = gateway
        .ws("topic=orders")
        .header("Host", "gate.example")
        .bearer(SHOP)
        .header("Origin", "https://gate.example");
    proxied.open().await;
    // A page that is listed lives on another site, and its browser says so.
    of_page(gateway.ws("topic=orders"), APP)
        .header("Sec-Fetch-Site", "cross-site")
        .open()
        .await;
}

#[tokio::test]
async fn in_development_mode_pages_of_this_machine_get_one_and_others_do_not() {
    let gateway = Gateway::start().await;
    for origin in ["http://localhost:3000", "http://127.0.0.1:5173"] {
        let handshake = gateway.ws("topic=orders").header("Origin", origin);
        handshake.open().await;
    }
    for (name, value, code) in [
        ("Origin", "https://evil.example", "origin_forbidden"),
        ("Origin", "null", "origin_forbidden"),
        ("Sec-Fetch-Site", "cross-site", "origin_forbidden"),
        ("Host", "evil.example", "host_forbidden"),
        ("X-Forwarded-For", "192.0.2.1", "proxied_in_development"),
    ] {
        let handshake = gateway.ws("topic=orders").header(name, value);
        handshake.answer().await.refuses(403, code);
    }
}

/// `?refuse=status` gives a program the status that a page could not see.
#[tokio::test]
async fn who_asks_for_a_status_gets_one() {
    let gateway = Gateway::settings()
        .config("auth: {tokens: [{name: shop, token: shop-0123456789abcdef, subscribe: [orders]}]}")
        .with("limits.connections", 1)
        .with("limits.rate.auth_failure", "off")
        .start()
        .await;
    let ws = |topic: &str| gateway.ws(&format!("topic={topic}&refuse=status"));
    ws("orders").answer().await.challenges(false);
    let wrong = ws("orders").bearer("wrong-0123456789abcdef");
    wrong.answer().await.challenges(true);
    let answer = ws("other").bearer(SHOP).answer().await;
    answer.refuses(403, "forbidden");
    let _reader = ws("orders").bearer(SHOP).open().await;
    let answer = ws("orders").bearer(SHOP).answer().await;
    answer.refuses(503, "connection_limit");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

#[tokio::test]
async fn a_setting_gives_everybody_the_status() {
    let gateway = Gateway::with("limits.connections", 1)
        .with("limits.refuse_as", "status")
        .start()
        .await;
    let first = gateway.follow("orders").await;
    let answer = gateway.ws("topic=orders").answer().await;
    answer.refuses(503, "connection_limit");
    assert_eq!(first.opening["topics"], json!(["orders"]));
}
