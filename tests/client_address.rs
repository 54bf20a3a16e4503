//! A client is who a trusted proxy says it is, and otherwise whoever is at the other end of the connection.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Gateway, Request, Settings};

/// Behind proxies: this machine, and two networks of them.
fn settings() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish")
        .with("server.trusted_proxies", "127.0.0.1,10.0.0.0/8,fd00::/8")
}

/// The address that the access line of a request with these headers names.
async fn seen(gateway: &Gateway, headers: &[(&str, &str)]) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let request_id = format!("seen-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut request = Request::new("HEAD", "/events?topic=orders");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = gateway
        .ask(request.header("X-Request-Id", &request_id))
        .await;
    assert_eq!(answer.status(), 200, "{headers:?}: {answer:?}");
    let fields = [("target", "access"), ("request_id", &request_id)];
    let line = gateway.logged(&fields).await;
    line["address"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_a_header_it_is_the_other_end() {
    let gateway = settings().start().await;
    assert_eq!(seen(&gateway, &[]).await, "127.0.0.1");
}

#[tokio::test]
async fn a_trusted_proxy_names_its_client_in_any_of_three_headers() {
    let gateway = settings().start().await;
    for (name, value, client) in [
        ("X-Forwarded-For", "192.0.2.1", "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1:4711", "192.0.2.1"),
        ("X-Forwarded-For", "2001:db8::1", "2001:db8::1"),
        ("X-Forwarded-For", "[2001:db8::1]", "2001:db8::1"),
        ("X-Forwarded-For", "[2001:db8::1]:80", "2001:db8::1"),
        ("X-Forwarded-For", "::ffff:192.0.2.1", "192.0.2.1"),
        ("X-Real-IP", "192.0.2.1", "192.0.2.1"),
        ("X-Real-IP", "2001:db8::1", "2001:db8::1"),
        ("Forwarded", "for=192.0.2.1", "192.0.2.1"),
        (
            "Forwarded",
            "for=192.0.2.1;proto=http;by=203.0.113.43",
            "192.0.2.1",
        ),
        (
            "Forwarded",
            "proto=https; For=\"192.0.2.1:4711\"",
            "192.0.2.1",
        ),
        (
            "Forwarded",
            "FOR=\"[2001:db8:cafe::17]\"",
            "2001:db8:cafe::17",
        ),
        (
            "Forwarded",
            "for=\"[2001:db8:cafe::17]:4711\"",
            "2001:db8:cafe::17",
        ),
    ] {
        assert_eq!(
            seen(&gateway, &[(name, value)]).await,
            client,
            "{name}: {value}"
        );
    }
}

/// What is further left was written by whoever is there.
#[tokio::test]
async fn the_last_address_that_is_no_trusted_proxy_is_the_client() {
    let gateway = settings().start().await;
    for (name, value, client) in [
        ("X-Forwarded-For", "6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("X-Forwarded-For", "6.6.6.6,192.0.2.1,10.2.2.2", "192.0.2.1"),
        (
            "X-Forwarded-For",
            "192.0.2.1, 10.3.3.3, fd00::1",
            "192.0.2.1",
        ),
        ("X-Forwarded-For", "127.0.0.1, 192.0.2.1", "192.0.2.1"),
        (
            "Forwarded",
            "for=6.6.6.6, for=192.0.2.1, for=10.2.2.2",
            "192.0.2.1",
        ),
        (
            "Forwarded",
            "for=192.0.2.1, for=\"[fd00::1]:80\"",
            "192.0.2.1",
        ),
        // A comma within quotes ends nothing.
        (
            "Forwarded",
            "for=192.0.2.1;x=\"a, for=6.6.6.6\"",
            "192.0.2.1",
        ),
        (
            "Forwarded",
            "for=192.0.2.1;x=\"\\\", for=6.6.6.6\"",
            "192.0.2.1",
        ),
    ] {
        assert_eq!(
            seen(&gateway, &[(name, value)]).await,
            client,
            "{name}: {value}"
        );
    }
    // Several headers are one list.
    let two = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "192.0.2.1, 10.2.2.2"),
    ];
    assert_eq!(seen(&gateway, &two).await, "192.0.2.1");
    let two = [
        ("Forwarded", "for=192.0.2.1"),
        ("Forwarded", "for=10.2.2.2"),
    ];
    assert_eq!(seen(&gateway, &two).await, "192.0.2.1");
}

/// A client that comes from the proxies' own network is the one furthest from us.
#[tokio::test]
async fn of_nothing_but_trusted_proxies_the_first_is_the_client() {
    let gateway = settings().start().await;
    let chain = [("X-Forwarded-For", "10.3.3.3, 10.2.2.2")];
    assert_eq!(seen(&gateway, &chain).await, "10.3.3.3");
}

/// What is left of something that no proxy of ours has written was not written by one either.
#[tokio::test]
async fn beyond_what_cannot_be_read_nobody_is_believed() {
    let gateway = settings().start().await;
    for (name, value, client) in [
        ("X-Forwarded-For", "192.0.2.1, nonsense", "127.0.0.1"),
        (
            "X-Forwarded-For",
            "192.0.2.1, unknown, 10.2.2.2",
            "10.2.2.2",
        ),
        ("X-Forwarded-For", "192.0.2.1,", "127.0.0.1"),
        ("X-Forwarded-For", "", "127.0.0.1"),
        ("X-Forwarded-For", "192.0.2.256", "127.0.0.1"),
        ("X-Forwarded-For", "192.0.2.1:port", "127.0.0.1"),
        ("X-Forwarded-For", "\"192.0.2.1\"", "127.0.0.1"),
        ("Forwarded", "for=unknown", "127.0.0.1"),
        (
            "Forwarded",
            "for=192.0.2.1, for=_hidden, for=10.2.2.2",
            "10.2.2.2",
        ),
        ("Forwarded", "for=\"_SEVKISEK\"", "127.0.0.1"),
        ("Forwarded", "by=192.0.2.1", "127.0.0.1"),
        ("Forwarded", "192.0.2.1", "127.0.0.1"),
        ("Forwarded", ";;,,==", "127.0.0.1"),
        ("Forwarded", "for=\"192.0.2.1", "127.0.0.1"),
        ("X-Real-IP", "nonsense", "127.0.0.1"),
        ("X-Real-IP", "\u{e9}", "127.0.0.1"),
    ] {
        assert_eq!(
            seen(&gateway, &[(name, value)]).await,
            client,
            "{name}: {value}"
        );
    }
}

#[tokio::test]
async fn the_first_of_the_three_headers_counts() {
    let gateway = settings().start().await;
    let (list, forwarded, real) = (
        ("X-Forwarded-For", "192.0.2.1"),
        ("Forwarded", "for=192.0.2.2"),
        ("X-Real-IP", "192.0.2.3"),
    );
    assert_eq!(seen(&gateway, &[real, forwarded, list]).await, "192.0.2.1");
    assert_eq!(seen(&gateway, &[real, forwarded]).await, "192.0.2.2");
    assert_eq!(seen(&gateway, &[real]).await, "192.0.2.3");
}

#[tokio::test]
async fn nobody_else_names_a_client_and_who_tries_is_warned_of_once() {
    for settings in [
        Gateway::with("auth.anonymous", "subscribe"),
        settings().with("server.trusted_proxies", "127.0.0.2"),
    ] {
        let gateway = settings.start().await;
        for _ in 0..3 {
            for (name, value) in [
                ("X-Forwarded-For", "192.0.2.1"),
                ("Forwarded", "for=192.0.2.1"),
                ("X-Real-IP", "192.0.2.1"),
            ] {
                assert_eq!(
                    seen(&gateway, &[(name, value)]).await,
                    "127.0.0.1",
                    "{name}"
                );
            }
        }
        let said = gateway.said();
        let warnings = said
            .lines()
            .filter(|line| line.contains("server.trusted_proxies"));
        let warnings: Vec<_> = warnings.collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("\"level\":\"WARN\""), "{warnings:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_stream_names_its_client_too() {
    let gateway = settings().start().await;
    let reader = gateway
        .events("topic=orders")
        .header("X-Forwarded-For", "192.0.2.1")
        .header("X-Request-Id", "stream")
        .open()
        .await;
    drop(reader);
    let fields = [("message", "stream ended"), ("request_id", "stream")];
    assert_eq!(gateway.logged(&fields).await["address"], "192.0.2.1");
}

#[tokio::test]
async fn trusted_proxies_change_by_reload() {
    let yaml = |proxies: &str| {
        format!("auth: {{anonymous: [subscribe]}}\nserver: {{trusted_proxies: [{proxies}]}}\n")
    };
    let gateway = Gateway::settings().config(&yaml("")).start().await;
    let named = [("X-Forwarded-For", "192.0.2.1")];
    assert_eq!(seen(&gateway, &named).await, "127.0.0.1");
    gateway.reload(&yaml("127.0.0.0/8")).await;
    assert_eq!(seen(&gateway, &named).await, "192.0.2.1");
}
