//! Nobody does what no credential allows, and everybody does what theirs allows, however they bring it.

mod key_set;
mod signed;

use serde_json::json;

use crate::support::{Gateway, Request, Settings, eventually};

/// Three who have a token, and what they may do.
const TOKENS: &str = r#"
auth:
  tokens:
    - name: shop
      token: shop-0123456789abcdef
      publish: ["orders/*", stock]
    - name: page
      token: page-0123456789abcdef
      subscribe: ["orders/*", stock]
    - name: everything
      token: everything-0123456789abcdef
      subscribe: ["*"]
      publish: ["*"]
"#;
const SHOP: &str = "shop-0123456789abcdef";
const PAGE: &str = "page-0123456789abcdef";
const EVERYTHING: &str = "everything-0123456789abcdef";
const WRONG: &str = "wrong-0123456789abcdef";

fn settings() -> Settings {
    // What is tried here is wrong more often than an address may be.
    Gateway::settings()
        .config(TOKENS)
        .with("limits.rate.auth_failure", "off")
}

fn event(topic: &str) -> Request {
    Request::publish(json!({ "topic": topic, "data": "a" }).to_string())
}

fn stream(topics: &str) -> Request {
    // A look at the head is judged as the stream would be, and leaves none open.
    Request::new("HEAD", &format!("/events?topic={topics}"))
}

#[tokio::test]
async fn a_token_publishes_where_its_patterns_say() {
    let gateway = settings().start().await;
    for topic in ["orders/1", "orders/a/b", "orders/", "stock"] {
        let answer = gateway.ask(event(topic).bearer(SHOP)).await;
        assert_eq!(answer.status(), 200, "{topic}: {answer:?}");
    }
    for topic in [
        "orders",
        "stock/1",
        "stocks",
        "Stock",
        "other",
        "x/orders/1",
    ] {
        let answer = gateway.ask(event(topic).bearer(SHOP)).await;
        let detail = answer.refuses(403, "forbidden");
        assert!(detail.contains(topic), "it says which topic: {detail}");
        let text = Request::post(&format!("/publish?topic={topic}"), "text/plain", "a");
        let answer = gateway.ask(text.bearer(SHOP)).await;
        answer.refuses(403, "forbidden");
    }
}

#[tokio::test]
async fn a_token_follows_what_its_patterns_say() {
    let gateway = settings().start().await;
    let mut reader = gateway
        .events("topic=orders/1,stock")
        .bearer(PAGE)
        .open()
        .await;
    let answer = gateway.ask(event("orders/1").bearer(SHOP)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(reader.take(1).await, ["a"]);
    for topic in ["orders", "stocks", "other"] {
        let request = Request::get(&format!("/events?topic={topic}")).bearer(PAGE);
        gateway.ask(request).await.refuses(403, "forbidden");
    }
    // The topic of whoever names none is not theirs either.
    let request = Request::get("/events").bearer(PAGE);
    gateway.ask(request).await.refuses(403, "forbidden");
}

/// A stream of the rest would look like one of all.
#[tokio::test]
async fn one_forbidden_topic_refuses_the_whole() {
    let gateway = settings().start().await;
    for topics in [
        "orders/1,secret",
        "secret,orders/1",
        "orders/1,stock,orders",
    ] {
        let request = Request::get(&format!("/events?topic={topics}")).bearer(PAGE);
        gateway.ask(request).await.refuses(403, "forbidden");
    }
    gateway.has_open_streams(0).await;
}

#[tokio::test]
async fn a_right_to_publish_is_none_to_follow_and_the_other_way_round() {
    let gateway = settings().start().await;
    let answer = gateway.ask(event("stock").bearer(PAGE)).await;
    answer.refuses(403, "forbidden");
    let request = Request::get("/events?topic=stock").bearer(SHOP);
    gateway.ask(request).await.refuses(403, "forbidden");
}

/// To a browser a stream that it may not have is a lasting refusal: coming back with the same token would not help.
#[tokio::test]
async fn a_forbidden_topic_is_a_status_for_a_browser_too() {
    let gateway = settings().start().await;
    let request = Request::event_source("/events?topic=secret").bearer(PAGE);
    gateway.ask(request).await.refuses(403, "forbidden");
}

#[tokio::test]
async fn no_star_matches_a_name_of_the_gateway() {
    let gateway = settings().start().await;
    for topic in ["$open", "$"] {
        let request = Request::get(&format!("/events?topic={topic}")).bearer(EVERYTHING);
        let answer = gateway.ask(request).await;
        assert!([400, 403].contains(&answer.status()), "{answer:?}");
        let answer = gateway.ask(event(topic).bearer(EVERYTHING)).await;
        assert!([400, 403].contains(&answer.status()), "{answer:?}");
    }
}

#[tokio::test]
async fn a_credential_is_brought_in_a_header_a_cookie_or_the_url() {
    let gateway = settings().with("auth.cookie", "session").start().await;
    let target = "/events?topic=stock";
    let with_token = format!("{target}&access_token={EVERYTHING}");
    let cookies = format!("theme=dark; session={EVERYTHING}; tidegate=other");
    for request in [
        Request::get(target).bearer(EVERYTHING),
        Request::get(target).header("authorization", &format!("bearer {EVERYTHING}")),
        Request::get(target).header("Cookie", &cookies),
        Request::get(&with_token),
    ] {
        let mut connection = gateway.connect().await;
        connection.send(request.bytes(gateway.public)).await;
        let head = connection.head().await;
        assert_eq!(head.status, 200, "{request:?}\n{}", head.raw);
    }
    let body = r#"{"topic":"stock","data":"a"}"#;
    let publish = format!("/publish?access_token={EVERYTHING}");
    for request in [
        Request::publish(body).bearer(EVERYTHING),
        Request::publish(body).header("Cookie", &cookies),
        Request::post(&publish, "application/json", body),
    ] {
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_cookie_of_another_name_is_no_credential() {
    let gateway = settings().start().await;
    for cookie in ["session", "Tidegate", "xtidegate"] {
        let request = stream("stock").header("Cookie", &format!("{cookie}={EVERYTHING}"));
        assert_eq!(gateway.ask(request).await.status(), 401, "{cookie}");
    }
    let request = stream("stock").header("Cookie", &format!("tidegate={EVERYTHING}"));
    assert_eq!(gateway.ask(request).await.status(), 200);
}

/// `Authorization`, ticket, `access_token`, cookie: whoever brings two gets what the first one is worth.
#[tokio::test]
async fn the_first_credential_counts_and_no_other() {
    let gateway = settings().start().await;
    let target = |query: &str| format!("/events?topic=stock&{query}");
    let token = format!("access_token={EVERYTHING}");
    let wrong_ticket = format!("ticket={WRONG}&{token}");
    let cookie = |token: &str| format!("tidegate={token}");
    let head = |query: &str| Request::new("HEAD", &target(query));
    for (request, status) in [
        (head(&token).bearer(WRONG), 401),
        (head(&format!("ticket={WRONG}")).bearer(EVERYTHING), 200),
        (
            head(&format!("access_token={WRONG}")).bearer(EVERYTHING),
            200,
        ),
        (
            head("").bearer(EVERYTHING).header("Cookie", &cookie(WRONG)),
            200,
        ),
        (
            head("").bearer(WRONG).header("Cookie", &cookie(EVERYTHING)),
            401,
        ),
        (head(&wrong_ticket), 401),
        (head(&token).header("Cookie", &cookie(WRONG)), 200),
        (
            head(&format!("access_token={WRONG}")).header("Cookie", &cookie(EVERYTHING)),
            401,
        ),
    ] {
        let what = format!("{request:?}");
        assert_eq!(gateway.ask(request).await.status(), status, "{what}");
    }
}

/// A client that believes to be somebody must learn that it is not.
#[tokio::test]
async fn a_bad_credential_is_never_taken_for_none() {
    let gateway = settings()
        .with("auth.anonymous", "subscribe,publish")
        .start()
        .await;
    let target = format!("/events?topic=stock&access_token={WRONG}");
    for request in [
        Request::get("/events?topic=stock").bearer(WRONG),
        Request::get("/events?topic=stock").bearer(""),
        Request::get("/events?topic=stock").header("Authorization", "Basic YTpi"),
        Request::get("/events?topic=stock").header("Cookie", &format!("tidegate={WRONG}")),
        Request::get(&target),
        Request::get("/events?topic=stock&access_token="),
        Request::get("/events?topic=stock&ticket=abc"),
        event("stock").bearer(WRONG),
    ] {
        gateway.ask(request).await.challenges(true);
    }
}

/// Without a key nothing that is shown could be good, so it was meant for somebody else: a proxy, or the application.
#[tokio::test]
async fn where_no_token_could_be_good_none_is_looked_at() {
    let gateway = Gateway::with("auth.anonymous", "subscribe,publish")
        .start()
        .await;
    for request in [
        event("stock").bearer(WRONG),
        event("stock").header("Authorization", "Basic YTpi"),
        event("stock").header("Cookie", "tidegate=logged-in"),
    ] {
        assert_eq!(gateway.ask(request).await.status(), 200);
    }
}

#[tokio::test]
async fn what_anybody_may_is_beside_what_a_token_may() {
    let gateway = settings().with("auth.anonymous", "subscribe").start().await;
    let mut anybody = gateway.subscribe("other,stock").await;
    gateway.ask(event("stock")).await.challenges(false);
    assert_eq!(gateway.ask(event("stock").bearer(SHOP)).await.status(), 200);
    assert_eq!(anybody.take(1).await, ["a"]);
    // Whoever shows a token has no fewer rights than whoever shows none.
    let reader = gateway.events("topic=other").bearer(SHOP).open().await;
    assert_eq!(reader.replay(), "none");
    let answer = gateway.ask(event("other").bearer(SHOP)).await;
    answer.refuses(403, "forbidden");
}

#[tokio::test]
async fn who_shows_nothing_is_told_how_and_who_shows_nonsense_that_it_is() {
    let gateway = settings().start().await;
    for (request, shown) in [
        (Request::get("/events?topic=stock"), false),
        (event("stock"), false),
        (Request::get("/events?topic=stock").bearer(WRONG), true),
        (event("stock").bearer(WRONG), true),
    ] {
        gateway.ask(request).await.challenges(shown);
    }
}

/// What no credential that this browser could ever have had explains is no reason to come back.
#[tokio::test]
async fn what_was_never_valid_is_a_status_for_a_browser_too() {
    let gateway = settings().start().await;
    let target = "/events?topic=stock";
    let request = Request::event_source(target).bearer(WRONG);
    gateway.ask(request).await.challenges(true);
    let request = Request::event_source(target);
    gateway.ask(request).await.challenges(false);
    let request = Request::event_source("/events?topic=stock&refuse=stream").bearer(WRONG);
    gateway.ask(request).await.challenges(true);
}

#[tokio::test]
async fn a_look_at_the_head_needs_the_rights_of_the_stream() {
    let gateway = settings().start().await;
    assert_eq!(gateway.ask(stream("stock")).await.status(), 401);
    let answer = gateway.ask(stream("stock").bearer(SHOP)).await;
    assert_eq!(answer.status(), 403, "{answer:?}");
    let answer = gateway.ask(stream("stock").bearer(PAGE)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.header("tidegate-replay"), Some("none"));
}

/// Browsers send no credentials with a preflight.
#[tokio::test]
async fn a_preflight_and_the_health_need_no_credential() {
    let gateway = settings()
        .with("cors.origins", "https://app.example")
        .start()
        .await;
    for target in ["/publish", "/events?topic=stock", "/ticket"] {
        let request = Request::new("OPTIONS", target)
            .header("Origin", "https://app.example")
            .header("Access-Control-Request-Method", "POST");
        let answer = gateway.ask(request).await;
        assert!([200, 204].contains(&answer.status()), "{answer:?}");
        let open = answer.header("access-control-allow-origin");
        assert_eq!(open, Some("https://app.example"), "{answer:?}");
    }
    for target in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(gateway.get(target).await.status(), 200, "{target}");
    }
}

#[tokio::test]
async fn each_event_of_an_array_is_judged_for_itself() {
    let gateway = settings().start().await;
    let body = json!([
        { "topic": "stock", "data": "a" },
        { "topic": "secret", "data": "b" },
        { "topic": "orders/1", "data": "c" },
    ]);
    let request = Request::publish(body.to_string()).bearer(SHOP);
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 207, "{answer:?}");
    let json = answer.json();
    let results = json["results"].as_array().unwrap();
    assert!(results[0]["id"].is_string(), "{answer:?}");
    assert_eq!(results[1]["error"]["code"], "forbidden", "{answer:?}");
    assert_eq!(results[1]["error"]["status"], 403, "{answer:?}");
    assert!(results[2]["id"].is_string(), "{answer:?}");
    // What was refused was not stored.
    let query = "topic=secret&lastEventId=earliest";
    let mut reader = gateway.events(query).bearer(EVERYTHING).open().await;
    reader.replays([""; 0]).await;
}

#[tokio::test]
async fn each_line_of_a_stream_of_events_is_judged_for_itself() {
    let gateway = settings().start().await;
    let lines = ["stock", "secret", "orders/1"].map(|topic| {
        let line = json!({ "topic": topic, "data": "a" });
        format!("{line}\n")
    });
    let request = Request::ndjson(lines.concat()).bearer(SHOP);
    let answer = gateway.ask(request).await;
    let json = answer.json();
    assert_eq!(json["stored"], 2, "{answer:?}");
    assert_eq!(json["failed"], 1, "{answer:?}");
    assert_eq!(json["errors"][0]["line"], 2, "{answer:?}");
    let code = json["errors"][0].pointer("/error/code");
    let code = code.or(json["errors"][0].get("code"));
    assert_eq!(code, Some(&json!("forbidden")), "{answer:?}");
}

/// Somebody else's key is no key: or a publisher could find out, or swallow, what another publishes.
#[tokio::test]
async fn an_idempotency_key_is_the_callers_own() {
    let gateway = settings().start().await;
    let publish = |token: &str, data: &str| {
        let body = json!({ "topic": "stock", "data": data }).to_string();
        Request::publish(body)
            .header("Idempotency-Key", "1")
            .bearer(token)
    };
    let first = gateway.ask(publish(SHOP, "a")).await;
    assert_eq!(first.status(), 200, "{first:?}");
    let other = gateway.ask(publish(EVERYTHING, "b")).await;
    assert_eq!(other.status(), 200, "{other:?}");
    assert_ne!(first.json()["id"], other.json()["id"]);
    let again = gateway.ask(publish(SHOP, "a")).await;
    assert_eq!(again.json()["duplicate"], true, "{again:?}");
    assert_eq!(again.json()["id"], first.json()["id"]);
    let answer = gateway.ask(publish(SHOP, "b")).await;
    answer.refuses(409, "idempotency_mismatch");
}

#[tokio::test]
async fn failures_and_denials_are_audited_and_no_credential_is_in_any_line() {
    let gateway = settings().start().await;
    let target = format!("/events?topic=secret&access_token={PAGE}");
    let request = Request::get(&target).header("X-Request-Id", "denied");
    gateway.ask(request).await.refuses(403, "forbidden");
    let target = format!("/events?topic=stock&access_token={WRONG}");
    let request = Request::get(&target).header("X-Request-Id", "failed");
    gateway.ask(request).await.challenges(true);
    for (request_id, outcome) in [("denied", "DENIED"), ("failed", "FAILED")] {
        let fields = [("target", "audit"), ("request_id", request_id)];
        let line = gateway.logged(&fields).await;
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(line["address"], "127.0.0.1", "{line}");
        let fields = [("target", "access"), ("request_id", request_id)];
        gateway.logged(&fields).await;
    }
    let denied = gateway
        .logged(&[("target", "audit"), ("request_id", "denied")])
        .await;
    assert_eq!(denied["subject"], "page", "{denied}");
    let last = [
        stream("stock").bearer(WRONG),
        stream("stock").bearer(EVERYTHING),
        stream("stock").header("Cookie", &format!("tidegate={SHOP}")),
        stream(&format!("stock&ticket={WRONG}")),
        Request::get(&format!("/nowhere?access_token={EVERYTHING}")),
        Request::get(&format!("/events?topics=a&access_token={EVERYTHING}")),
        Request::new("BREW", &format!("/events?access_token={EVERYTHING}")),
    ];
    let count = last.len();
    for request in last {
        gateway.ask(request.header("X-Request-Id", "last")).await;
    }
    eventually("a line of each", async || {
        let fields = [("target", "access"), ("request_id", "last")];
        match gateway.times_logged(&fields) {
            times if times == count => Ok(()),
            times => Err(times.to_string()),
        }
    })
    .await;
    let said = gateway.said();
    for secret in [SHOP, PAGE, EVERYTHING, WRONG] {
        assert!(!said.contains(secret), "{secret} in\n{said}");
    }
    let metrics = gateway.get_admin("/metrics").await.text();
    assert!(!metrics.contains("0123456789"), "{metrics}");
}
