//! `/admin` and `/config` are for this machine and for those who show a token for operators.

use crate::support::{Gateway, Request, Response, Settings};

const ADMIN: &str = "admin-0123456789abcdef";
const OPERATOR: &str = "operator-0123456789abcdef";
const SHOP: &str = "shop-0123456789abcdef";

fn settings() -> Settings {
    Gateway::settings()
        .config(
            "auth:\n  tokens:\n  - {name: operator, token: operator-0123456789abcdef, admin: true}\n  - {name: shop, token: shop-0123456789abcdef, subscribe: ['*'], publish: ['*']}\n",
        )
        .with("admin.token", ADMIN)
        .with("limits.rate.auth_failure", "off")
}

/// What operators see and do; nothing that would change much.
const GUARDED: [(&str, &str); 8] = [
    ("GET", "/config"),
    ("GET", "/admin/topics"),
    ("GET", "/admin/topics/orders"),
    ("DELETE", "/admin/topics/orders"),
    ("GET", "/admin/connections"),
    ("DELETE", "/admin/connections/a-1"),
    ("POST", "/admin/reload-config"),
    ("GET", "/admin/events/1-1"),
];

/// Through a proxy on this machine, which makes it anybody's.
fn from_elsewhere(method: &str, target: &str) -> Request {
    Request::new(method, target).header("X-Forwarded-For", "192.0.2.1")
}

/// Whoever asked got past the question who it is.
fn is_let_in(answer: &Response) {
    assert!(![401, 403, 405].contains(&answer.status()), "{answer:?}");
    if answer.status() >= 400 {
        answer.refuses(404, "not_found");
    }
}

#[tokio::test]
async fn on_this_machine_no_token_is_needed() {
    let gateway = settings().start().await;
    for (method, target) in GUARDED {
        let answer = gateway.ask_admin(Request::new(method, target)).await;
        is_let_in(&answer);
    }
}

/// A proxy on this machine forwards whoever it likes: its header is reason enough to ask.
#[tokio::test]
async fn a_forwarded_request_is_not_of_this_machine() {
    let gateway = settings().start().await;
    for (method, target) in GUARDED {
        for (name, value) in [
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("Forwarded", "for=127.0.0.1"),
            ("X-Real-IP", "127.0.0.1"),
            ("X-Forwarded-Host", "localhost"),
            ("Via", "1.1 proxy"),
        ] {
            let request = Request::new(method, target).header(name, value);
            gateway.ask_admin(request).await.challenges(false);
        }
    }
}

#[tokio::test]
async fn with_a_token_for_operators_one_may_from_anywhere() {
    for settings in [
        settings(),
        settings().with("server.trusted_proxies", "127.0.0.1"),
    ] {
        let gateway = settings.start().await;
        for (method, target) in GUARDED {
            for token in [ADMIN, OPERATOR] {
                let request = from_elsewhere(method, target).bearer(token);
                is_let_in(&gateway.ask_admin(request).await);
            }
        }
        let fields = [("target", "audit"), ("outcome", "OK")];
        gateway.logged(&fields).await;
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_even_on_this_machine() {
    let gateway = settings().start().await;
    for (method, target) in GUARDED {
        let wrong = "wrong-0123456789abcdef";
        let request = from_elsewhere(method, target).bearer(wrong);
        gateway.ask_admin(request).await.challenges(true);
        let request = Request::new(method, target).bearer(wrong);
        gateway.ask_admin(request).await.challenges(true);
    }
}

/// To publish everything everywhere is not to be an operator.
#[tokio::test]
async fn a_token_for_topics_is_none_for_operators() {
    let gateway = settings().start().await;
    for (method, target) in GUARDED {
        let request = from_elsewhere(method, target).bearer(SHOP);
        gateway.ask_admin(request).await.refuses(403, "forbidden");
    }
}

/// The right to look after the gateway is none to what goes through it.
#[tokio::test]
async fn a_token_for_operators_is_none_for_topics() {
    let gateway = settings().start().await;
    for token in [ADMIN, OPERATOR] {
        let request = Request::publish(r#"{"topic":"orders","data":"a"}"#).bearer(token);
        let answer = gateway.ask(request).await;
        assert!([401, 403].contains(&answer.status()), "{answer:?}");
        let request = Request::get("/events?topic=orders").bearer(token);
        let answer = gateway.ask(request).await;
        assert!([401, 403].contains(&answer.status()), "{answer:?}");
    }
}

/// Without a token there is no way in but from this machine.
#[tokio::test]
async fn where_no_token_is_set_none_opens() {
    let gateway = Gateway::with("auth.anonymous", "subscribe").start().await;
    for (method, target) in GUARDED {
        let request = from_elsewhere(method, target);
        gateway.ask_admin(request.clone()).await.challenges(false);
        gateway.ask_admin(request.bearer("")).await.challenges(true);
    }
    is_let_in(&gateway.get_admin("/config").await);
}

/// Scrapers and balancers have no token.
#[tokio::test]
async fn what_watches_the_gateway_needs_no_token() {
    let gateway = settings().start().await;
    for target in [
        "/metrics",
        "/stats",
        "/health",
        "/health/live",
        "/health/ready",
    ] {
        let answer = gateway.ask_admin(from_elsewhere("GET", target)).await;
        assert_eq!(answer.status(), 200, "{target}: {answer:?}");
    }
}

#[tokio::test]
async fn what_is_refused_there_is_audited_and_what_is_done_too() {
    let gateway = settings().start().await;
    let request =
        from_elsewhere("DELETE", "/admin/topics/orders").header("X-Request-Id", "refused");
    gateway.ask_admin(request).await.challenges(false);
    let line = gateway
        .logged(&[("target", "audit"), ("request_id", "refused")])
        .await;
    assert_eq!(line["outcome"], "DENIED", "{line}");
    let request = from_elsewhere("DELETE", "/admin/topics/orders").bearer(OPERATOR);
    gateway
        .ask_admin(request.header("X-Request-Id", "done"))
        .await;
    let line = gateway
        .logged(&[("target", "audit"), ("request_id", "done")])
        .await;
    assert_eq!(line["outcome"], "OK", "{line}");
    assert_eq!(line["subject"], "operator", "{line}");
    let said = gateway.said();
    for secret in [ADMIN, OPERATOR, SHOP] {
        assert!(!said.contains(secret), "{secret} in\n{said}");
    }
}

/// The public listener knows nothing of what operators do.
#[tokio::test]
async fn the_public_listener_has_no_admin_routes() {
    let gateway = settings().start().await;
    for (method, target) in GUARDED {
        let request = Request::new(method, target).bearer(ADMIN);
        gateway.ask(request).await.refuses(404, "not_found");
    }
}
