//! Safe by default: with no auth configured the gateway serves loopback only, and no page from elsewhere gets through.

use crate::support::{Gateway, Request};

const PUBLISH: &str = r#"{"topic":"orders","data":"a"}"#;

#[tokio::test]
async fn it_refuses_to_listen_elsewhere_and_names_the_two_ways_out() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let exit = Gateway::with("server.listen", address)
            .refuses_to_start()
            .await;
        assert!(exit.output.contains("auth.anonymous"), "{exit:?}");
        let besides = exit.output.replace("auth.anonymous", "");
        assert!(besides.contains("auth"), "the other way is auth: {exit:?}");
        assert!(exit.output.contains(address), "what was told: {exit:?}");
    }
}

#[tokio::test]
async fn it_serves_everywhere_when_told_that_everybody_may() {
    let gateway = Gateway::with("server.listen", "0.0.0.0:0")
        .with("auth.anonymous", "subscribe,publish")
        .start()
        .await;
    let mut reader = gateway
        .events("topic=orders")
        .header("Host", "gateway.example")
        .header("X-Forwarded-For", "192.0.2.1")
        .open()
        .await;
    let request = Request::publish(PUBLISH).header("Host", "gateway.example");
    assert_eq!(gateway.ask(request).await.status(), 200);
    assert_eq!(reader.take(1).await, ["a"]);
}

#[tokio::test]
async fn the_host_must_be_a_loopback_one() {
    let gateway = Gateway::start().await;
    for host in [
        "localhost",
        "localhost:8080",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.8.9.10:80",
        "[::1]",
        "[::1]:8080",
    ] {
        let request = Request::get("/events?topic=orders").header("Host", host);
        let mut connection = gateway.connect().await;
        connection.send(request.bytes(gateway.public)).await;
        assert_eq!(connection.head().await.status, 200, "{host}");
        let request = Request::publish(PUBLISH).header("Host", host);
        assert_eq!(gateway.ask(request).await.status(), 200, "{host}");
    }
    // The page of an attacker whose name was made to resolve to this machine.
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "0.0.0.0",
        "127.0.0.1@evil.example",
    ] {
        for request in [
            Request::get("/events?topic=orders"),
            Request::publish(PUBLISH),
        ] {
            let answer = gateway.ask(request.header("Host", host)).await;
            answer.refuses(403, "host_forbidden");
        }
    }
}

/// HTTP/1.1 wants a `Host`; HTTP/1.0 may go without, and no browser speaks it.
#[tokio::test]
async fn a_request_without_a_host_is_refused() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    connection
        .send("GET /events?topic=a HTTP/1.1\r\n\r\n")
        .await;
    let answer = connection.response().await;
    assert!([400, 403].contains(&answer.status()), "{answer:?}");
}

#[tokio::test]
async fn a_proxy_in_front_is_noticed_on_both_listeners() {
    let gateway = Gateway::start().await;
    for (name, value) in [
        ("Forwarded", "for=192.0.2.1"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "localhost"),
        ("x-forwarded-anything", "x"),
        ("X-Real-IP", "192.0.2.1"),
        ("Via", "1.1 proxy"),
    ] {
        for request in [
            Request::get("/events?topic=orders"),
            Request::publish(PUBLISH),
        ] {
            let answer = gateway.ask(request.header(name, value)).await;
            assert_eq!(answer.status(), 403, "{name}: {answer:?}");
            let detail = answer.refuses(403, "proxied_in_development");
            assert!(
                detail.to_lowercase().contains(&name.to_lowercase()) || detail.contains("auth"),
                "it says why: {detail}"
            );
        }
        let stats = Request::get("/stats").header(name, value);
        let answer = gateway.ask_admin(stats).await;
        answer.refuses(403, "proxied_in_development");
        for route in ["/health", "/health/live", "/health/ready"] {
            let request = Request::get(route).header(name, value);
            assert_eq!(gateway.ask(request.clone()).await.status(), 200, "{route}");
            assert_eq!(gateway.ask_admin(request).await.status(), 200, "{route}");
        }
        let metrics = Request::get("/metrics").header(name, value);
        assert_eq!(gateway.ask_admin(metrics).await.status(), 200);
    }
}

/// A page of this machine is treated as listed, in whatever port it runs.
#[tokio::test]
async fn pages_of_this_machine_are_let_in() {
    let gateway = Gateway::start().await;
    for origin in [
        "http://localhost:3000",
        "http://localhost",
        "https://localhost:8443",
        "http://127.0.0.1:5173",
        "http://[::1]:3000",
    ] {
        let reader = gateway
            .events("topic=orders")
            .header("Origin", origin)
            .open()
            .await;
        let head = &reader.head;
        assert_eq!(head.header("access-control-allow-origin"), Some(origin));
        assert_eq!(
            head.header("access-control-allow-credentials"),
            Some("true")
        );
        assert!(
            head.list("vary").contains(&"origin".to_owned()),
            "{}",
            head.raw
        );
        let exposed = head.list("access-control-expose-headers");
        assert!(
            exposed.contains(&"tidegate-replay".to_owned()),
            "{}",
            head.raw
        );
        let request = Request::publish(PUBLISH).header("Origin", origin);
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        // A page must be able to read why it was refused.
        let request = Request::publish("{").header("Origin", origin);
        let answer = gateway.ask(request).await;
        answer.refuses(400, "json_invalid");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    }
}

/// Without these headers the browser would take a temporary refusal for a failure for ever.
#[tokio::test]
async fn a_page_of_another_origin_can_read_every_kind_of_answer() {
    let gateway = Gateway::with("limits.connections", 1).start().await;
    gateway.finish("finished", None).await;
    let end = gateway.events("topic=finished").open().await.cursor();
    // A stream is counted as ended a moment before its place is free.
    gateway.has_places_taken(0).await;
    let origin = "http://localhost:3000";
    let is_open_to_the_page = async |request: Request, status: u16| {
        let answer = gateway.ask(request.header("Origin", origin)).await;
        assert_eq!(answer.status(), status, "{answer:?}");
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, Some(origin), "{answer:?}");
        let credentials = answer.header("access-control-allow-credentials");
        assert_eq!(credentials, Some("true"), "{answer:?}");
        let vary = answer.head.list("vary");
        assert!(vary.contains(&"origin".to_owned()), "{answer:?}");
    };
    let stop = Request::get("/events?topic=finished").header("Last-Event-ID", &end);
    is_open_to_the_page(stop, 204).await;
    gateway.has_places_taken(0).await;
    let _reader = gateway.subscribe("orders").await;
    let stream = Request::get("/events?topic=orders").header("Accept", "text/event-stream");
    is_open_to_the_page(stream, 200).await;
    for (target, status) in [
        ("/events?topic=orders", 503),
        ("/events?topic=$x", 400),
        ("/nowhere", 404),
        ("/publish", 405),
        ("/health", 200),
    ] {
        is_open_to_the_page(Request::get(target), status).await;
    }
}

#[tokio::test]
async fn pages_from_elsewhere_are_refused() {
    let gateway = Gateway::start().await;
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example:80",
        "http://192.0.2.1",
        "null",
        "file://",
        "chrome-extension://abcdef",
    ] {
        for request in [
            Request::publish(PUBLISH),
            Request::get("/events?topic=orders"),
        ] {
            let answer = gateway.ask(request.header("Origin", origin)).await;
            answer.refuses(403, "origin_forbidden");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    let mut reader = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    reader.replays([""; 0]).await;
}

/// A form of a page anywhere can post to a loopback port without a preflight; browsers tell so, even without `Origin`.
#[tokio::test]
async fn a_cross_site_post_is_refused() {
    let gateway = Gateway::start().await;
    let post = |site: &str| Request::publish(PUBLISH).header("Sec-Fetch-Site", site);
    gateway
        .ask(post("cross-site"))
        .await
        .refuses(403, "origin_forbidden");
    let form = Request::post("/publish?topic=orders", "text/plain", "a")
        .header("Sec-Fetch-Site", "cross-site");
    gateway.ask(form).await.refuses(403, "origin_forbidden");
    for site in ["same-origin", "none"] {
        assert_eq!(gateway.ask(post(site)).await.status(), 200, "{site}");
    }
}

#[tokio::test]
async fn a_listed_origin_is_let_in() {
    let gateway = Gateway::with("cors.origins", "https://app.example,https://other.example")
        .start()
        .await;
    for origin in ["https://app.example", "https://other.example"] {
        let reader = gateway
            .events("topic=orders")
            .header("Origin", origin)
            .open()
            .await;
        let allowed = reader.head.header("access-control-allow-origin");
        assert_eq!(allowed, Some(origin));
        let request = Request::publish(PUBLISH).header("Origin", origin);
        assert_eq!(gateway.ask(request).await.status(), 200);
    }
    let request = Request::publish(PUBLISH).header("Origin", "http://app.example");
    gateway.ask(request).await.refuses(403, "origin_forbidden");
}

/// Caches must not hand the answer for one origin to another.
#[tokio::test]
async fn answers_differ_by_origin_and_say_so() {
    let gateway = Gateway::start().await;
    let reader = gateway.subscribe("orders").await;
    assert!(reader.head.list("vary").contains(&"origin".to_owned()));
    assert_eq!(reader.head.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_preflight_is_answered_for_pages_that_may() {
    let gateway = Gateway::start().await;
    let preflight = |target: &str, method: &str, headers: &str, origin: &str| {
        Request::new("OPTIONS", target)
            .header("Origin", origin)
            .header("Access-Control-Request-Method", method)
            .header("Access-Control-Request-Headers", headers)
    };
    let origin = "http://localhost:3000";
    for (target, method, headers) in [
        ("/publish", "POST", "content-type,idempotency-key"),
        ("/events?topic=orders", "GET", "last-event-id"),
    ] {
        let answer = gateway
            .ask(preflight(target, method, headers, origin))
            .await;
        assert!([200, 204].contains(&answer.status()), "{answer:?}");
        let head = &answer.head;
        assert_eq!(head.header("access-control-allow-origin"), Some(origin));
        assert_eq!(
            head.header("access-control-allow-credentials"),
            Some("true")
        );
        let methods = head.list("access-control-allow-methods");
        assert!(methods.contains(&method.to_lowercase()), "{answer:?}");
        let allowed = head.list("access-control-allow-headers");
        for header in headers.split(',') {
            assert!(allowed.contains(&header.to_owned()), "{header}: {answer:?}");
        }
        assert!(
            head.list("vary").contains(&"origin".to_owned()),
            "{answer:?}"
        );
    }
    let answer = gateway
        .ask(preflight(
            "/publish",
            "POST",
            "content-type",
            "https://evil.example",
        ))
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

/// The admin listener has the same rules: a page from elsewhere can neither read nor change anything there.
#[tokio::test]
async fn the_admin_listener_keeps_pages_out_as_well() {
    let gateway = Gateway::start().await;
    let foreign = Request::get("/stats").header("Host", "evil.example");
    gateway
        .ask_admin(foreign)
        .await
        .refuses(403, "host_forbidden");
    let page = Request::get("/stats").header("Origin", "https://evil.example");
    let answer = gateway.ask_admin(page).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

/// Rates and limits by address are off in development mode, so a test of one's own is not throttled.
#[tokio::test]
async fn nobody_is_throttled_in_development() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..700 {
        let answer = connection.ask(&Request::publish(PUBLISH)).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    let mut readers = Vec::new();
    for _ in 0..120 {
        readers.push(gateway.subscribe("orders").await);
    }
    gateway.publish("orders", "b").await;
    for reader in &mut readers {
        assert_eq!(reader.take(1).await, ["b"]);
    }
}
