//! A page of a stranger changes nothing, on neither listener; a page that is listed works as if it were ours.

use crate::support::{Gateway, Request, Response, Settings, Subscription};

const APP: &str = "https://app.example";
const EVENT: &str = r#"{"topic":"orders","data":"a"}"#;
const SHOP: &str = "shop-0123456789abcdef";

/// With auth, so that the rules are not those of development mode.
fn settings() -> Settings {
    Gateway::settings()
        .config("auth: {tokens: [{name: shop, token: shop-0123456789abcdef, subscribe: [orders], publish: [orders], admin: true}]}")
        .with("cors.origins", APP)
}

/// Whatever changes something, by listener.
fn changes() -> [(bool, Request); 9] {
    let request = |method: &str, target: &str| Request::new(method, target).bearer(SHOP);
    [
        (true, Request::publish(EVENT).bearer(SHOP)),
        (true, Request::ndjson(EVENT).bearer(SHOP)),
        (
            true,
            Request::post("/publish?topic=orders", "text/plain", "a").bearer(SHOP),
        ),
        (true, request("POST", "/ticket")),
        (true, request("POST", "/connections/a-1/token")),
        (false, request("DELETE", "/admin/topics/orders")),
        (false, request("DELETE", "/admin/connections/a-1")),
        (false, request("POST", "/admin/reload-config")),
        (false, request("POST", "/admin/drain")),
    ]
}

async fn ask(gateway: &Gateway, public: bool, request: Request) -> Response {
    if public {
        gateway.ask(request).await
    } else {
        gateway.ask_admin(request).await
    }
}

#[tokio::test]
async fn a_page_of_a_stranger_changes_nothing() {
    let gateway = settings().start().await;
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "https://APP.example.",
        "http://localhost:3000",
        "null",
        "",
        "file://",
        "app.example",
        "https://app.example, https://evil.example",
    ] {
        for (public, request) in changes() {
            let answer = ask(&gateway, public, request.header("Origin", origin)).await;
            answer.refuses(403, "origin_forbidden");
            assert_eq!(
                answer.header("access-control-allow-origin"),
                None,
                "{answer:?}"
            );
        }
    }
    gateway
        .logged(&[("target", "audit"), ("code", "origin_forbidden")])
        .await;
}

#[tokio::test]
async fn a_log_level_and_a_drain_are_out_of_its_reach_too() {
    let gateway = settings().start().await;
    for request in [
        Request::new("POST", "/admin/drain"),
        Request::new("PUT", "/admin/log-level"),
    ] {
        for (name, value) in [
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
            ("Sec-Fetch-Site", "cross-site"),
        ] {
            let answer = gateway.ask_admin(request.clone().header(name, value)).await;
            answer.refuses(403, "origin_forbidden");
        }
    }
    assert_eq!(gateway.get("/health/ready").await.status(), 200);
}

/// Browsers leave `Origin` out here and there, and say so in another way.
#[tokio::test]
async fn a_request_from_another_site_changes_nothing() {
    let gateway = settings().start().await;
    for (public, request) in changes() {
        let request = request.header("Sec-Fetch-Site", "cross-site");
        let answer = ask(&gateway, public, request).await;
        answer.refuses(403, "origin_forbidden");
    }
    for site in ["same-origin", "none"] {
        let request = Request::publish(EVENT)
            .bearer(SHOP)
            .header("Sec-Fetch-Site", site);
        assert_eq!(gateway.ask(request).await.status(), 200, "{site}");
    }
}

/// The three types that a form can send need no preflight, and cookies go along.
#[tokio::test]
async fn a_form_of_another_page_publishes_nothing() {
    let gateway = settings().start().await;
    let cookie = format!("tidegate={SHOP}");
    for media_type in [
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data; boundary=x",
    ] {
        for (name, value) in [
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
            ("Sec-Fetch-Site", "cross-site"),
        ] {
            let form = Request::post("/publish?topic=orders", media_type, EVENT)
                .header("Cookie", &cookie)
                .header(name, value);
            gateway.ask(form).await.refuses(403, "origin_forbidden");
        }
    }
    let query = "topic=orders&lastEventId=earliest";
    let mut reader = gateway.events(query).bearer(SHOP).open().await;
    reader.replays([""; 0]).await;
}

#[tokio::test]
async fn our_own_pages_and_those_who_are_no_pages_may() {
    let gateway = settings().start().await;
    let own = format!("http://{}", gateway.public);
    let request = Request::publish(EVENT).bearer(SHOP);
    assert_eq!(gateway.ask(request.clone()).await.status(), 200);
    let page = request.clone().header("Origin", &own);
    assert_eq!(gateway.ask(page).await.status(), 200);
    // Behind a proxy that ends TLS our own name is another one.
    let page = request
        .header("Host", "gate.example")
        .header("Origin", "https://gate.example");
    assert_eq!(gateway.ask(page).await.status(), 200);
    let own = format!("http://{}", gateway.admin);
    let request = Request::new("DELETE", "/admin/topics/orders").header("Origin", &own);
    assert_eq!(gateway.ask_admin(request).await.status(), 200);
}

/// A page that is listed lives on another site, and its browser says so.
#[tokio::test]
async fn a_listed_page_may_and_reads_the_answer() {
    let gateway = settings().start().await;
    let is_open = |answer: &Response| {
        let head = &answer.head;
        assert_eq!(
            head.header("access-control-allow-origin"),
            Some(APP),
            "{answer:?}"
        );
        let credentials = head.header("access-control-allow-credentials");
        assert_eq!(credentials, Some("true"), "{answer:?}");
        assert!(
            head.list("vary").contains(&"origin".to_owned()),
            "{answer:?}"
        );
        let exposed = head.list("access-control-expose-headers");
        for name in [
            "tidegate-replay",
            "tidegate-refused",
            "retry-after",
            "x-request-id",
        ] {
            assert!(exposed.contains(&name.to_owned()), "{name}: {answer:?}");
        }
        for name in ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
            assert!(exposed.contains(&name.to_owned()), "{name}: {answer:?}");
        }
    };
    let page = |request: Request| {
        request
            .header("Origin", APP)
            .header("Sec-Fetch-Site", "cross-site")
    };
    for (request, status) in [
        (Request::publish(EVENT).bearer(SHOP), 200),
        (Request::new("POST", "/ticket").bearer(SHOP), 200),
        (
            Request::new("HEAD", "/events?topic=orders").bearer(SHOP),
            200,
        ),
        // It has to be able to read why not.
        (Request::publish(EVENT), 401),
        (
            Request::publish(r#"{"topic":"x","data":"a"}"#).bearer(SHOP),
            403,
        ),
        (Request::get("/nowhere"), 404),
        (Request::get("/publish"), 405),
        (Request::publish("{").bearer(SHOP), 400),
    ] {
        let answer = gateway.ask(page(request)).await;
        assert_eq!(answer.status(), status, "{answer:?}");
        is_open(&answer);
    }
}

#[tokio::test]
async fn an_event_source_of_a_listed_page_brings_its_cookie() {
    let gateway = settings().start().await;
    let browser = |it: Subscription| {
        it.like_a_browser()
            .header("Origin", APP)
            .header("Cookie", &format!("tidegate={SHOP}"))
            .header("Sec-Fetch-Site", "cross-site")
    };
    let mut reader = browser(gateway.events("topic=orders")).open().await;
    let open = reader.head.header("access-control-allow-origin");
    assert_eq!(open, Some(APP), "{}", reader.head.raw);
    gateway.ask(Request::publish(EVENT).bearer(SHOP)).await;
    assert_eq!(reader.take(1).await, ["a"]);
}

/// It may read what it is let read by its browser, which is nothing.
#[tokio::test]
async fn a_page_of_a_stranger_reads_nothing() {
    let gateway = settings().start().await;
    for target in ["/events?topic=orders", "/health"] {
        for origin in ["https://evil.example", "null"] {
            let request = Request::new("HEAD", target)
                .bearer(SHOP)
                .header("Origin", origin);
            let answer = gateway.ask(request).await;
            let open = answer.header("access-control-allow-origin");
            assert_eq!(open, None, "{answer:?}");
            let credentials = answer.header("access-control-allow-credentials");
            assert_eq!(credentials, None, "{answer:?}");
            assert!(
                answer.head.list("vary").contains(&"origin".to_owned()),
                "{answer:?}"
            );
        }
    }
    for target in ["/stats", "/metrics", "/config"] {
        let request = Request::get(target).header("Origin", "https://evil.example");
        let answer = gateway.ask_admin(request).await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_preflight_says_what_a_listed_page_may_and_needs_no_credential() {
    let gateway = settings().start().await;
    let preflight = |target: &str, method: &str, headers: &str, origin: &str| {
        Request::new("OPTIONS", target)
            .header("Origin", origin)
            .header("Access-Control-Request-Method", method)
            .header("Access-Control-Request-Headers", headers)
            .header("Sec-Fetch-Site", "cross-site")
    };
    for (target, method, headers) in [
        (
            "/publish",
            "POST",
            "authorization,content-type,idempotency-key",
        ),
        ("/events?topic=orders", "GET", "authorization,last-event-id"),
        ("/ticket", "POST", "authorization"),
        ("/connections/a-1/token", "POST", "authorization"),
    ] {
        let answer = gateway.ask(preflight(target, method, headers, APP)).await;
        assert!([200, 204].contains(&answer.status()), "{answer:?}");
        let head = &answer.head;
        assert_eq!(
            head.header("access-control-allow-origin"),
            Some(APP),
            "{answer:?}"
        );
        let credentials = head.header("access-control-allow-credentials");
        assert_eq!(credentials, Some("true"), "{answer:?}");
        assert!(
            head.list("access-control-allow-methods")
                .contains(&method.to_lowercase()),
            "{answer:?}"
        );
        let allowed = head.list("access-control-allow-headers");
        for header in headers.split(',') {
            assert!(allowed.contains(&header.to_owned()), "{header}: {answer:?}");
        }
        assert!(
            head.list("vary").contains(&"origin".to_owned()),
            "{answer:?}"
        );
        let strange = preflight(target, method, headers, "https://evil.example");
        let answer = gateway.ask(strange).await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{answer:?}"
        );
    }
}

/// A name that an attacker controls can be made to point to this machine: then its page is of the same origin as we are.
#[tokio::test]
async fn a_foreign_name_opens_nothing_on_the_admin_listener() {
    let gateway = settings().start().await;
    let routes = [
        ("GET", "/config"),
        ("GET", "/admin/topics"),
        ("GET", "/admin/connections"),
        ("DELETE", "/admin/topics/orders"),
        ("POST", "/admin/reload-config"),
        ("POST", "/admin/drain"),
    ];
    for host in [
        "evil.example",
        "evil.example:9090",
        "localhost.evil.example",
        "192.0.2.1",
        "",
    ] {
        for (method, target) in routes {
            let request = Request::new(method, target)
                .header("Host", host)
                .header("Sec-Fetch-Site", "same-origin");
            let answer = gateway.ask_admin(request).await;
            assert!(
                [400, 401, 403].contains(&answer.status()),
                "{host} {target}: {answer:?}"
            );
        }
    }
    // Who proves to be an operator may call it what they like.
    let request = Request::get("/config")
        .header("Host", "gate.example")
        .bearer(SHOP);
    assert_eq!(gateway.ask_admin(request).await.status(), 200);
    for host in ["localhost:9090", "127.0.0.1", "[::1]:9090"] {
        let request = Request::get("/config").header("Host", host);
        assert_eq!(gateway.ask_admin(request).await.status(), 200, "{host}");
    }
    assert_eq!(gateway.get("/health/ready").await.status(), 200);
}

#[tokio::test]
async fn origins_change_by_reload() {
    let yaml =
        |origins: &str| format!("auth: {{anonymous: [publish]}}\ncors: {{origins: [{origins}]}}\n");
    let gateway = Gateway::settings().config(&yaml("")).start().await;
    let page = || Request::publish(EVENT).header("Origin", APP);
    gateway.ask(page()).await.refuses(403, "origin_forbidden");
    gateway.reload(&yaml("'https://app.example'")).await;
    assert_eq!(gateway.ask(page()).await.status(), 200);
    gateway.reload(&yaml("")).await;
    gateway.ask(page()).await.refuses(403, "origin_forbidden");
}

#[tokio::test]
async fn a_star_is_no_origin() {
    for origins in [
        "*",
        "https://*.example",
        "app.example",
        "https://app.example/",
    ] {
        let exit = Gateway::with("cors.origins", origins)
            .refuses_to_start()
            .await;
        assert!(exit.output.contains("cors.origins"), "{origins}: {exit:?}");
    }
}
