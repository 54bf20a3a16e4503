//! Which pages may open a WebSocket, and what development mode lets through to `/ws` and `/poll`.

use crate::support::{Encoding, Gateway, Handshake, Response, Settings};

const APP: &str = "https://app.example";
const SHOP: &str = "shop-0123456789abcdef";

/// With auth, so that the rules are not those of development mode.
fn settings() -> Settings {
    Gateway::settings()
        .config("auth: {tokens: [{name: shop, token: shop-0123456789abcdef, subscribe: [orders], publish: [orders]}]}")
        .with("cors.origins", APP)
}

/// Before the upgrade, as a browser tells its page nothing anyway.
fn is_forbidden(answer: &Response, code: &str) {
    answer.refuses(403, code);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        None,
        "{answer:?}"
    );
}

/// A WebSocket may publish, and no browser asks before it opens one: who opens it is all there is to go by.
#[tokio::test]
async fn a_page_of_a_stranger_opens_no_websocket() {
    let gateway = settings().start().await;
    let ws = || gateway.ws("topic=orders").bearer(SHOP);
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "http://localhost:3000",
        "null",
        "",
        "file://",
        "app.example",
        "https://app.example, https://evil.example",
    ] {
        let answer = ws().header("Origin", origin).answer().await;
        is_forbidden(&answer, "origin_forbidden");
        // Neither does a cookie that the browser adds help.
        let handshake = gateway.ws("topic=orders").header("Origin", origin);
        let answer = handshake
            .header("Cookie", &format!("tidegate={SHOP}"))
            .answer()
            .await;
        is_forbidden(&answer, "origin_forbidden");
    }
    let answer = ws().header("Sec-Fetch-Site", "cross-site").answer().await;
    is_forbidden(&answer, "origin_forbidden");
    gateway.has_places_taken(0).await;
    let fields = [
        ("target", "audit"),
        ("code", "origin_forbidden"),
        ("route", "/ws"),
    ];
    gateway.logged(&fields).await;
}

#[tokio::test]
async fn our_own_pages_listed_ones_and_programs_open_websockets() {
    let gateway = settings().start().await;
    let own = format!("http://{}", gateway.public);
    let ws = || gateway.ws("topic=orders").bearer(SHOP);
    for handshake in [
        ws(),
        ws().header("Origin", &own),
        ws().header("Origin", &own)
            .header("Sec-Fetch-Site", "same-origin"),
        // Behind a proxy that ends TLS our own name is another one.
        ws().header("Host", "gate.example")
            .header("Origin", "https://gate.example"),
        ws().header("Origin", APP),
        ws().header("Origin", APP)
            .header("Sec-Fetch-Site", "cross-site"),
        ws().header("Sec-Fetch-Site", "none"),
    ] {
        handshake.open().await.is_open().await;
    }
}

/// As by a stream: its browser shows it nothing without our word.
#[tokio::test]
async fn a_page_of_a_stranger_reads_no_answer() {
    let gateway = settings().start().await;
    for origin in ["https://evil.example", "null"] {
        let poll = gateway.poll("topic=orders&wait=0s").bearer(SHOP);
        let answer = poll.header("Origin", origin).ask().await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{answer:?}"
        );
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert!(
            answer.head.list("vary").contains(&"origin".to_owned()),
            "{answer:?}"
        );
    }
    let poll = gateway.poll("topic=orders&wait=0s").bearer(SHOP);
    let answer = poll.header("Origin", APP).ask().await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
}

#[tokio::test]
async fn origins_of_websockets_change_by_reload() {
    let yaml = |origins: &str| {
        format!("auth: {{anonymous: [subscribe]}}\ncors: {{origins: [{origins}]}}\n")
    };
    let gateway = Gateway::settings().config(&yaml("")).start().await;
    let page = || gateway.ws("topic=orders").header("Origin", APP);
    is_forbidden(&page().answer().await, "origin_forbidden");
    gateway.reload(&yaml("'https://app.example'")).await;
    let mut socket = page().open().await;
    gateway.reload(&yaml("")).await;
    is_forbidden(&page().answer().await, "origin_forbidden");
    // Who is in was let in by the rules of then.
    socket.is_open().await;
}

async fn opens(handshake: Handshake) {
    handshake.open().await.is_open().await;
}

/// The page of an attacker whose name was made to resolve to this machine.
#[tokio::test]
async fn in_development_the_host_must_be_a_loopback_one() {
    let gateway = Gateway::start().await;
    for host in ["localhost", "localhost:8080", "127.0.0.1", "[::1]:8080"] {
        opens(gateway.ws("topic=orders").header("Host", host)).await;
        let poll = gateway.poll("topic=orders&wait=0s").header("Host", host);
        poll.answer().await;
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "192.0.2.1",
        "0.0.0.0",
    ] {
        let answer = gateway
            .ws("topic=orders")
            .header("Host", host)
            .answer()
            .await;
        is_forbidden(&answer, "host_forbidden");
        // Its own page is of the same origin as it believes us to be.
        let page = gateway.ws("topic=orders").header("Host", host);
        let answer = page
            .header("Origin", &format!("http://{host}"))
            .answer()
            .await;
        is_forbidden(&answer, "host_forbidden");
        let poll = gateway.poll("topic=orders&wait=0s").header("Host", host);
        is_forbidden(&poll.ask().await, "host_forbidden");
    }
}

#[tokio::test]
async fn in_development_a_proxy_in_front_is_noticed() {
    let gateway = Gateway::start().await;
    for (name, value) in [
        ("Forwarded", "for=192.0.2.1"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "localhost"),
        ("X-Real-IP", "192.0.2.1"),
        ("Via", "1.1 proxy"),
    ] {
        let answer = gateway
            .ws("topic=orders")
            .header(name, value)
            .answer()
            .await;
        is_forbidden(&answer, "proxied_in_development");
        let poll = gateway.poll("topic=orders&wait=0s").header(name, value);
        is_forbidden(&poll.ask().await, "proxied_in_development");
    }
}

/// A page of this machine is treated as listed, in whatever port it runs.
#[tokio::test]
async fn in_development_pages_of_this_machine_are_let_in_and_others_are_not() {
    let gateway = Gateway::start().await;
    for origin in [
        "http://localhost:3000",
        "http://localhost",
        "https://localhost:8443",
        "http://127.0.0.1:5173",
        "http://[::1]:3000",
    ] {
        opens(gateway.ws("topic=orders").header("Origin", origin)).await;
        let poll = gateway
            .poll("topic=orders&wait=0s")
            .header("Origin", origin);
        let answer = poll.ask().await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let poll = gateway.poll("topic=*").header("Origin", origin);
        let answer = poll.ask().await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some(origin),
            "{answer:?}"
        );
    }
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://192.0.2.1",
        "null",
        "chrome-extension://abcdef",
    ] {
        let handshake = gateway.ws("topic=orders").header("Origin", origin);
        is_forbidden(&handshake.answer().await, "origin_forbidden");
        let poll = gateway
            .poll("topic=orders&wait=0s")
            .header("Origin", origin);
        is_forbidden(&poll.ask().await, "origin_forbidden");
    }
    for way in Encoding::ALL {
        let page = gateway
            .entry(way, "topic=orders")
            .header("Sec-Fetch-Site", "same-origin");
        drop(page.enter().await);
    }
    let cross = gateway
        .ws("topic=orders")
        .header("Sec-Fetch-Site", "cross-site");
    is_forbidden(&cross.answer().await, "origin_forbidden");
}
