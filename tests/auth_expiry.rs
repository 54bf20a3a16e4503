//! A stream lives no longer than the right to it: told before, renewed in place, and judged anew at every return.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::{
    redis::replica_of,
    support::{
        Claims, Gateway, H2Client, PATIENCE, RedisServer, Request, Response, SILENCE, Settings,
        Signer, Subscriber, within, within_time,
    },
};

const SECRET: &str = "a secret of more than thirty-two bytes";

fn settings() -> Settings {
    Gateway::with("auth.jwt.secret", SECRET)
        // Far longer than an end may be late: it is for clocks that are ahead.
        .with("auth.jwt.leeway", "5m")
        .with("auth.expiry_notice", "3s")
        // A stream shows that it lives, so that its end can be waited for.
        .with("stream.keepalive", "1s")
}

fn ann() -> Claims {
    Claims::of("ann")
        .subscribe(&["orders"])
        .publish(&["orders"])
}

fn sign(claims: &Claims) -> String {
    Signer::hs256(SECRET).sign(claims)
}

fn connection(reader: &Subscriber) -> String {
    reader.open_data()["connection"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn follow(gateway: &Gateway, claims: &Claims) -> Subscriber {
    gateway
        .events("topic=orders")
        .bearer(&sign(claims))
        .open()
        .await
}

fn renewal(connection: &str) -> Request {
    Request::new("POST", &format!("/connections/{connection}/token"))
}

async fn publish(gateway: &Gateway, data: &str) {
    let body = json!({ "topic": "orders", "data": data }).to_string();
    let request = Request::publish(body).bearer(&sign(&ann()));
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
}

/// Waits for `$auth_expiring`, and returns what it says.
async fn is_told(reader: &mut Subscriber) -> Value {
    let frame = reader.control("$auth_expiring").await;
    assert_eq!(frame.id, None, "it moves no cursor: {frame:?}");
    serde_json::from_str(&frame.data.unwrap()).unwrap()
}

/// Waits for the end, which comes with the token's and whole.
async fn ends_at(reader: &mut Subscriber, end: SystemTime) {
    let rest = within_time(2 * PATIENCE, "the stream to end", reader.rest()).await;
    let told = |kind: &str| {
        rest.iter()
            .any(|frame| frame.event.as_deref() == Some(kind))
    };
    assert!(!told("$drain") && !told("$end"), "{rest:?}");
    let late = SystemTime::now().duration_since(end);
    assert!(
        late.as_ref().is_ok_and(|late| *late < PATIENCE),
        "the token ended {late:?} ago"
    );
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_is_told_before() {
    let gateway = settings().start().await;
    let claims = ann().expires_in(7);
    let mut reader = follow(&gateway, &claims).await;
    publish(&gateway, "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    let told = is_told(&mut reader).await;
    let left = told["in_ms"].as_u64().unwrap();
    assert!(
        (200..=3_300).contains(&left),
        "three seconds before: {told}"
    );
    let end = told["expires"].as_str().unwrap();
    assert!(end.starts_with("20") && end.ends_with('Z'), "{told}");
    ends_at(&mut reader, claims.end()).await;
    let fields = [("message", "stream ended"), ("reason", "auth_expired")];
    let line = gateway.logged(&fields).await;
    assert_eq!(
        line["connection"],
        reader.open_data()["connection"],
        "{line}"
    );
    let reason = ["reason=\"auth_expired\""];
    gateway
        .counts("tidegate_streams_closed_total", &reason, 1)
        .await;
    gateway.has_open_streams(0).await;
}

/// Where the HTTP library writes for us, nobody asks for more until there is something.
#[tokio::test]
async fn a_stream_of_http_2_ends_with_its_token_too() {
    let gateway = settings().start().await;
    let claims = ann().expires_in(7);
    let mut client = H2Client::open(gateway.public).await;
    let target = format!("/events?topic=orders&access_token={}", sign(&claims));
    client.get(&target).await;
    let data = client.data_to_the_end().await;
    assert!(data.contains("event: $auth_expiring\n"), "{data}");
    assert!(SystemTime::now() >= claims.end(), "not before its time");
    let fields = [("message", "stream ended"), ("reason", "auth_expired")];
    gateway.logged(&fields).await;
    gateway.has_open_streams(0).await;
}

/// A producer that streams for hours has no more rights than one that sends each event on its own.
#[tokio::test]
async fn a_body_that_outlives_its_token_stores_no_more() {
    let gateway = settings().start().await;
    let claims = ann().expires_in(5);
    let mut connection = gateway.connect().await;
    let head = format!(
        "POST /publish?ack=lines HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
         Authorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        sign(&claims)
    );
    let line = "{\"topic\":\"orders\",\"data\":\"a\"}\n";
    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
    connection.send(head + &chunk).await;
    let head = connection.head().await;
    assert_eq!(head.status, 200, "it began before the end");
    let left = claims.end().duration_since(SystemTime::now());
    tokio::time::sleep(left.unwrap_or_default() + SILENCE).await;
    // The gateway may have ended it by itself.
    let _ = connection.try_send(chunk + "0\r\n\r\n").await;
    let answer = connection.response_of(head).await;
    let text = answer.text();
    let stored = text.lines().filter(|line| line.contains("\"id\"")).count();
    assert_eq!(stored, 1, "{answer:?}");
    assert!(text.contains("\"unauthorized\""), "{answer:?}");
}

#[tokio::test]
async fn a_token_that_ends_soon_is_told_at_once() {
    let gateway = settings().with("auth.expiry_notice", "1m").start().await;
    let mut reader = follow(&gateway, &ann().expires_in(10)).await;
    let told = within("the notice", is_told(&mut reader)).await;
    let left = told["in_ms"].as_u64().unwrap();
    assert!((5_000..=10_000).contains(&left), "{told}");
}

#[tokio::test]
async fn without_control_events_it_ends_all_the_same() {
    let gateway = settings().start().await;
    let claims = ann().expires_in(5);
    let mut reader = gateway
        .events("topic=orders&control=off")
        .bearer(&sign(&claims))
        .open()
        .await;
    let rest = within_time(2 * PATIENCE, "the stream to end", reader.rest()).await;
    assert!(rest.iter().all(|frame| frame.event.is_none()), "{rest:?}");
    assert!(SystemTime::now() >= claims.end(), "not before its time");
}

#[tokio::test]
async fn a_static_token_never_ends_and_nobody_is_told() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let mut reader = gateway.events("topic=a/1").bearer(A).open().await;
    reader.stays_silent().await;
    let answer = gateway.ask(renewal(&connection(&reader)).bearer(A)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json()["expires"], Value::Null, "{answer:?}");
}

#[tokio::test]
async fn a_stream_is_renewed_in_place() {
    let gateway = settings().start().await;
    let first = ann().expires_in(7);
    let mut reader = follow(&gateway, &first).await;
    is_told(&mut reader).await;
    // So that its notice comes after the first end.
    let second = first.clone().expires_in(8);
    let request = renewal(&connection(&reader)).bearer(&sign(&second));
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let json = answer.json();
    assert_eq!(json["connection"], connection(&reader), "{answer:?}");
    assert!(
        json["expires"].as_str().unwrap().starts_with("20"),
        "{answer:?}"
    );
    // It is told of the new end, and lives until then.
    let told = within_time(3 * PATIENCE, "the second notice", is_told(&mut reader)).await;
    assert_eq!(told["expires"], json["expires"]);
    assert!(SystemTime::now() > first.end(), "{told}");
    publish(&gateway, "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    ends_at(&mut reader, second.end()).await;
}

/// Where the new token has fewer rights, the stream would be one that nobody may open.
#[tokio::test]
async fn a_renewal_needs_the_rights_of_the_stream() {
    let gateway = settings().start().await;
    let reader = follow(&gateway, &ann()).await;
    let fewer = Claims::of("ann").subscribe(&["other"]);
    let request = renewal(&connection(&reader)).bearer(&sign(&fewer));
    gateway.ask(request).await.refuses(403, "forbidden");
}

#[tokio::test]
async fn only_the_same_subject_renews_a_stream() {
    let gateway = settings().start().await;
    let claims = ann().expires_in(7);
    let mut reader = follow(&gateway, &claims).await;
    let bob = Claims::of("bob").subscribe(&["*"]);
    let nobody = bob.clone().without("sub");
    for other in [&bob, &nobody] {
        let request = renewal(&connection(&reader)).bearer(&sign(other));
        gateway.ask(request).await.refuses(403, "forbidden");
    }
    // Nothing has changed.
    is_told(&mut reader).await;
    ends_at(&mut reader, claims.end()).await;
}

#[tokio::test]
async fn a_renewal_names_an_open_stream_and_shows_a_good_token() {
    let gateway = settings().start().await;
    let reader = follow(&gateway, &ann()).await;
    let own = connection(&reader);
    gateway.ask(renewal(&own)).await.challenges(false);
    let expired = sign(&ann().expires_in(-5));
    gateway
        .ask(renewal(&own).bearer(&expired))
        .await
        .challenges(true);
    gateway
        .ask(renewal(&own).bearer("x.y.z"))
        .await
        .challenges(true);
    let token = sign(&ann());
    let (replica, number) = own.rsplit_once('-').unwrap();
    for unknown in [
        "nonsense".to_owned(),
        format!("{replica}-999999"),
        format!("{replica}x-{number}"),
        format!("{replica}-"),
        "a%20b".to_owned(),
        "-".to_owned(),
    ] {
        let answer = gateway.ask(renewal(&unknown).bearer(&token)).await;
        answer.refuses(404, "not_found");
    }
    drop(reader);
    gateway.has_open_streams(0).await;
    let answer = gateway.ask(renewal(&own).bearer(&token)).await;
    answer.refuses(404, "not_found");
    let get = Request::get(&format!("/connections/{own}/token")).bearer(&token);
    gateway.ask(get).await.refuses(405, "method_not_allowed");
}

#[tokio::test]
async fn a_stream_is_renewed_on_any_replica() {
    let redis = RedisServer::start().await;
    // It is renewed before it would be told.
    let settings = settings().with("auth.expiry_notice", "100ms");
    let (a, b) = (
        replica_of(settings.clone(), &redis).await,
        replica_of(settings, &redis).await,
    );
    let first = ann().expires_in(7);
    let mut reader = follow(&a, &first).await;
    let own = connection(&reader);
    let bob = Claims::of("bob").subscribe(&["*"]);
    let answer = b.ask(renewal(&own).bearer(&sign(&bob))).await;
    answer.refuses(403, "forbidden");
    let second = first.clone().expires_in(60);
    let answer = b.ask(renewal(&own).bearer(&sign(&second))).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json()["connection"], own, "{answer:?}");
    let left = first
        .end()
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    tokio::time::sleep(left + SILENCE).await;
    publish(&b, "still here").await;
    assert_eq!(reader.take(1).await, ["still here"]);
    let (replica, _) = own.rsplit_once('-').unwrap();
    for unknown in [format!("{replica}-999999"), "elsewhere-1".to_owned()] {
        let answer = b.ask(renewal(&unknown).bearer(&sign(&second))).await;
        answer.refuses(404, "not_found");
    }
}

/// The page fetches a new token and is there again by itself; a status would end its stream for good.
#[tokio::test]
async fn an_expired_token_is_a_refusal_that_a_browser_survives() {
    let gateway = settings().start().await;
    let ask = |request: Request| async { gateway.ask(request).await };
    let old = sign(&ann().expires_in(-5));
    let target = "/events?topic=orders";
    let answer = ask(Request::event_source(target).bearer(&old)).await;
    assert_eq!(
        answer.refuses_as_stream("unauthorized").problem["status"],
        401
    );
    let cookie = format!("tidegate={old}");
    let request = Request::event_source(target).header("Cookie", &cookie);
    let answer = ask(request.header("Last-Event-ID", "1732096700000-3")).await;
    let survivable = answer.refuses_as_stream("unauthorized");
    assert_eq!(survivable.id.as_deref(), Some("1732096700000-3"));
    for accept in ["*/*", "text/event-stream, */*"] {
        let request = Request::get(target).header("Accept", accept).bearer(&old);
        ask(request).await.challenges(true);
    }
    let request = Request::event_source(&format!("{target}&refuse=status")).bearer(&old);
    ask(request).await.challenges(true);
    let body = r#"{"topic":"orders","data":"a"}"#;
    let request = Request::publish(body).header("Accept", "text/event-stream");
    ask(request.bearer(&old)).await.challenges(true);
    let code = ["code=\"unauthorized\""];
    let refused = gateway.counted("tidegate_refusals_total", &code).await;
    assert!(refused >= 6.0, "a metric counts them: {refused}");
}

/// An expired token that nobody here has ever signed was never valid.
#[tokio::test]
async fn what_only_looks_expired_is_no_reason_to_come_back() {
    let gateway = settings().start().await;
    let other = Signer::hs256("another secret of more than 32 bytes");
    let request = Request::event_source("/events?topic=orders");
    let answer = gateway
        .ask(request.bearer(&other.sign(&ann().expires_in(-5))))
        .await;
    answer.challenges(true);
}

const A: &str = "tenant-a-0123456789abcdef";
const B: &str = "tenant-b-0123456789abcdef";
const TENANTS: &str = r#"
auth:
  tokens:
    - {name: a, token: tenant-a-0123456789abcdef, subscribe: ["a/*"], publish: ["a/*"]}
    - {name: b, token: tenant-b-0123456789abcdef, subscribe: ["b/*"], publish: ["b/*"]}
"#;

#[tokio::test]
async fn rights_are_judged_anew_at_every_return() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let reader = gateway.events("topic=a/1").bearer(A).open().await;
    let cursor = reader.cursor();
    drop(reader);
    let back = || {
        Request::event_source("/events?topic=a/1")
            .bearer(A)
            .header("Last-Event-ID", &cursor)
    };
    gateway
        .reload(&TENANTS.replace("subscribe: [\"a/*\"]", "subscribe: [\"a/2\"]"))
        .await;
    gateway.ask(back()).await.refuses(403, "forbidden");
    gateway.reload(TENANTS).await;
    let reader = gateway
        .events("topic=a/1")
        .bearer(A)
        .header("Last-Event-ID", &cursor)
        .open()
        .await;
    assert_eq!(reader.replay(), "complete");
}

#[tokio::test]
async fn a_token_that_is_taken_back_ends_its_streams() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let mut a = gateway.events("topic=a/1").bearer(A).open().await;
    let mut b = gateway.events("topic=b/1").bearer(B).open().await;
    let without = TENANTS.lines().filter(|line| !line.contains("tenant-a"));
    gateway
        .reload(&without.collect::<Vec<_>>().join("\n"))
        .await;
    within("the stream to end", a.rest()).await;
    gateway
        .logged(&[("message", "stream ended"), ("reason", "auth_expired")])
        .await;
    let request = Request::get("/events?topic=a/1").bearer(A);
    gateway.ask(request).await.challenges(true);
    // Others do not notice.
    let body = r#"{"topic":"b/1","data":"x"}"#;
    let answer = gateway.ask(Request::publish(body).bearer(B)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(b.take(1).await, ["x"]);
}

#[tokio::test]
async fn a_right_that_is_taken_back_ends_the_streams_that_rest_on_it() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let mut one = gateway.events("topic=a/1").bearer(A).open().await;
    let mut other = gateway.events("topic=a/2").bearer(A).open().await;
    let mut client = H2Client::open(gateway.public).await;
    client
        .get(&format!("/events?topic=a/1&access_token={A}"))
        .await;
    let narrower = TENANTS.replace("subscribe: [\"a/*\"]", "subscribe: [\"a/2\"]");
    gateway.reload(&narrower).await;
    within("the stream to end", one.rest()).await;
    within("the stream of HTTP/2 to end", client.data_to_the_end()).await;
    let body = r#"{"topic":"a/2","data":"x"}"#;
    let answer = gateway.ask(Request::publish(body).bearer(A)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(other.take(1).await, ["x"]);
}

#[tokio::test]
async fn keys_rotate_by_reload() {
    const NEW: &str = "a newer secret of more than 32 bytes";
    let yaml = |secret: &str| format!("auth:\n  jwt:\n    secret: {secret}\n");
    let gateway = Gateway::settings().config(&yaml(SECRET)).start().await;
    let mut reader = follow(&gateway, &ann()).await;
    let signed = |secret: &str| {
        let token = Signer::hs256(secret).sign(&ann());
        Request::new("HEAD", "/events?topic=orders").bearer(&token)
    };
    assert_eq!(gateway.ask(signed(SECRET)).await.status(), 200);
    assert_eq!(gateway.ask(signed(NEW)).await.status(), 401);
    gateway.reload(&yaml(NEW)).await;
    assert_eq!(gateway.ask(signed(SECRET)).await.status(), 401);
    assert_eq!(gateway.ask(signed(NEW)).await.status(), 200);
    // A key is taken back because it may be in wrong hands: what rests on it ends.
    within("the stream to end", reader.rest()).await;
}

/// A cursor is a place in the log and no right to anything.
#[tokio::test]
async fn the_cursor_of_one_tenant_shows_another_only_what_is_its_own() {
    let gateway = Gateway::settings().config(TENANTS).start().await;
    let publish = |token: &'static str, topic: &str, data: &str| {
        let body = json!({ "topic": topic, "data": data }).to_string();
        Request::publish(body).bearer(token)
    };
    let ids = |answer: Response| answer.json()["id"].as_str().unwrap().to_owned();
    let cursor = ids(gateway.ask(publish(A, "a/1", "a's first")).await);
    gateway.ask(publish(B, "b/1", "b's")).await;
    gateway.ask(publish(A, "a/1", "a's second")).await;
    let mut reader = gateway
        .events("topic=b/1")
        .bearer(B)
        .header("Last-Event-ID", &cursor)
        .open()
        .await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["b's"]).await;
    for topics in ["a/1", "b/1,a/1"] {
        let target = format!("/events?topic={topics}&lastEventId={cursor}");
        let answer = gateway.ask(Request::get(&target).bearer(B)).await;
        answer.refuses(403, "forbidden");
    }
}
