//! So many at once, so many in a time, each for itself: and whoever is refused learns when to come again.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};

use crate::support::{
    Claims, Connection, Gateway, Request, Response, Settings, Signer, eventually,
};

const SECRET: &str = "a secret of more than thirty-two bytes";
const EVENT: &str = r#"{"topic":"orders","data":"a"}"#;

/// Behind a proxy on this machine, which names its clients.
fn settings() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish").with("server.trusted_proxies", "127.0.0.1")
}

fn connect(address: &str) -> Request {
    Request::get("/events?topic=orders").header("X-Forwarded-For", address)
}

fn publish(address: &str) -> Request {
    Request::publish(EVENT).header("X-Forwarded-For", address)
}

/// The status of an answer whose body may not end.
async fn status(gateway: &Gateway, request: Request) -> u16 {
    let mut connection = gateway.connect().await;
    connection.send(request.bytes(gateway.public)).await;
    connection.head().await.status
}

/// Asserts that this is a refusal by rate, and returns the seconds until the next one may come.
fn is_limited(answer: &Response, burst: u32) -> u64 {
    answer.refuses(429, "rate_limited");
    let number = |name: &str| -> u64 {
        let value = answer
            .header(name)
            .unwrap_or_else(|| panic!("no {name}: {answer:?}"));
        value.parse().unwrap()
    };
    assert_eq!(number("ratelimit-limit"), u64::from(burst), "{answer:?}");
    assert_eq!(number("ratelimit-remaining"), 0, "{answer:?}");
    let wait = number("retry-after");
    assert!(wait >= 1 && number("ratelimit-reset") >= wait, "{answer:?}");
    wait
}

#[tokio::test]
async fn a_burst_gets_in_and_the_rest_waits() {
    let gateway = settings()
        .with("limits.rate.connect", "1/min burst 3")
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(status(&gateway, connect("192.0.2.1")).await, 200);
    }
    let answer = gateway.ask(connect("192.0.2.1")).await;
    assert!(
        (30..=60).contains(&is_limited(&answer, 3)),
        "one comes each minute: {answer:?}"
    );
    let code = ["code=\"rate_limited\""];
    gateway.counts("tidegate_refusals_total", &code, 1).await;
    let line = gateway
        .logged(&[("target", "audit"), ("code", "rate_limited")])
        .await;
    assert_eq!(line["outcome"], "BLOCKED", "{line}");
    assert_eq!(line["address"], "192.0.2.1", "{line}");
    // It is the streams that are limited, not what else the address does.
    assert_eq!(gateway.ask(publish("192.0.2.1")).await.status(), 200);
}

#[tokio::test]
async fn a_browser_that_comes_too_often_is_told_to_come_back() {
    let gateway = settings()
        .with("limits.rate.connect", "1/min burst 1")
        .start()
        .await;
    assert_eq!(status(&gateway, connect("192.0.2.1")).await, 200);
    let request = connect("192.0.2.1")
        .header("Accept", "text/event-stream")
        .header("Last-Event-ID", "1732096700000-3");
    let answer = gateway.ask(request).await;
    let survivable = answer.refuses_as_stream("rate_limited");
    assert_eq!(survivable.problem["status"], 429);
    assert_eq!(survivable.id.as_deref(), Some("1732096700000-3"));
    assert!(
        survivable.retry >= 20_000,
        "around when it may: {}",
        survivable.retry
    );
}

#[tokio::test]
async fn time_brings_one_after_another_back() {
    let gateway = settings()
        .with("limits.rate.publish", "30/min burst 2")
        .start()
        .await;
    let begun = Instant::now();
    for _ in 0..2 {
        assert_eq!(gateway.ask(publish("192.0.2.1")).await.status(), 200);
    }
    is_limited(&gateway.ask(publish("192.0.2.1")).await, 2);
    // Two more take four seconds, whoever asks how often.
    for _ in 0..2 {
        eventually("the next one", async || {
            match gateway.ask(publish("192.0.2.1")).await {
                answer if answer.status() == 200 => Ok(()),
                answer => Err(format!("{answer:?}")),
            }
        })
        .await;
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(3_900), "{took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

/// `Retry-After` is no guess: who waits for it gets in.
#[tokio::test]
async fn who_waits_as_told_gets_in() {
    let gateway = settings()
        .with("limits.rate.publish", "20/min burst 1")
        .start()
        .await;
    assert_eq!(gateway.ask(publish("192.0.2.1")).await.status(), 200);
    let wait = is_limited(&gateway.ask(publish("192.0.2.1")).await, 1);
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(gateway.ask(publish("192.0.2.1")).await.status(), 200);
}

#[tokio::test]
async fn each_address_is_counted_for_itself_and_ipv6_by_its_network() {
    let gateway = settings()
        .with("limits.rate.publish", "1/min burst 1")
        .start()
        .await;
    for address in [
        "192.0.2.1",
        "192.0.2.2",
        "2001:db8:0:1::1",
        "2001:db8:0:2::1",
    ] {
        let answer = gateway.ask(publish(address)).await;
        assert_eq!(answer.status(), 200, "{address}: {answer:?}");
    }
    for address in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8:0:1:2:3:4:5"] {
        is_limited(&gateway.ask(publish(address)).await, 1);
    }
}

/// A batch is one request.
#[tokio::test]
async fn an_array_of_events_counts_once() {
    let gateway = settings()
        .with("limits.rate.publish", "1/min burst 2")
        .start()
        .await;
    let events = format!("[{}]", [EVENT; 50].join(","));
    let lines = [EVENT; 50].join("\n");
    for request in [Request::publish(events), Request::ndjson(lines)] {
        let request = request.header("X-Forwarded-For", "192.0.2.1");
        assert_eq!(gateway.ask(request).await.status(), 200);
    }
    is_limited(&gateway.ask(publish("192.0.2.1")).await, 2);
}

/// Those behind the address of one office are not one subject, and one subject may be in many places.
#[tokio::test]
async fn each_subject_is_counted_for_itself_wherever_it_is() {
    let gateway = Gateway::with("auth.jwt.secret", SECRET)
        .with("server.trusted_proxies", "127.0.0.1")
        .with("limits.rate.publish_per_subject", "1/min burst 2")
        .with("limits.rate.connect_per_subject", "1/min burst 3")
        .start()
        .await;
    let token = |subject: &str| {
        let claims = Claims::of(subject).subscribe(&["*"]).publish(&["*"]);
        Signer::hs256(SECRET).sign(&claims)
    };
    let (ann, bob) = (token("ann"), token("bob"));
    for address in ["192.0.2.1", "192.0.2.2"] {
        let answer = gateway.ask(publish(address).bearer(&ann)).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    is_limited(&gateway.ask(publish("192.0.2.3").bearer(&ann)).await, 2);
    let answer = gateway.ask(publish("192.0.2.1").bearer(&bob)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        assert_eq!(status(&gateway, connect(address).bearer(&ann)).await, 200);
    }
    is_limited(&gateway.ask(connect("192.0.2.4").bearer(&ann)).await, 3);
    assert_eq!(
        status(&gateway, connect("192.0.2.4").bearer(&bob)).await,
        200
    );
    let line = gateway
        .logged(&[("target", "audit"), ("code", "rate_limited")])
        .await;
    assert_eq!(line["subject"], "ann", "{line}");
}

#[tokio::test]
async fn in_development_mode_nobody_is_counted() {
    let gateway = Gateway::with("limits.rate.connect", "1/h")
        .with("limits.rate.publish", "1/h")
        .with("limits.rate.auth_failure", "1/h")
        .with("limits.connections_per_address", 1)
        .start()
        .await;
    let mut readers = Vec::new();
    for _ in 0..5 {
        readers.push(gateway.subscribe("orders").await);
        gateway.publish("orders", "a").await;
    }
}

#[tokio::test]
async fn a_rate_can_be_off_and_changes_by_reload() {
    let yaml = |rate: &str| {
        format!("auth: {{anonymous: [publish]}}\nlimits: {{rate: {{publish: {rate}}}}}\n")
    };
    let gateway = Gateway::settings().config(&yaml("off")).start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..700 {
        let answer = connection.ask(&Request::publish(EVENT)).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    gateway.reload(&yaml("1/min burst 1")).await;
    gateway.publish("orders", "a").await;
    is_limited(&gateway.post(EVENT).await, 1);
    gateway.reload(&yaml("off")).await;
    gateway.publish("orders", "a").await;
}

/// An office behind one address: its replica was drained, and all come back at once.
#[tokio::test]
async fn a_hundred_streams_of_one_address_come_back_at_once() {
    let gateway = Gateway::with("auth.anonymous", "subscribe").start().await;
    for round in 0..2 {
        let mut coming = JoinSet::new();
        for _ in 0..100 {
            let public = gateway.public;
            coming.spawn(async move {
                let mut connection = Connection::open(public).await;
                let request = Request::event_source("/events?topic=orders").bytes(public);
                connection.send(request).await;
                let head = connection.head().await;
                (
                    head.header("tidegate-refused").map(str::to_owned),
                    connection,
                )
            });
        }
        let all = coming.join_all().await;
        let refused: Vec<_> = all
            .iter()
            .filter_map(|(refused, _)| refused.as_ref())
            .collect();
        assert!(refused.is_empty(), "round {round}: {refused:?}");
        gateway.has_open_streams(100).await;
        drop(all);
        gateway.has_places_taken(0).await;
    }
}

/// Ten at once, and one more each six seconds.
#[tokio::test]
async fn ten_wrong_credentials_are_looked_at_in_a_minute_by_default() {
    let gateway = settings()
        .config("auth: {tokens: [{name: shop, token: shop-0123456789abcdef, publish: [orders]}]}")
        .start()
        .await;
    let mut looked_at = 0;
    let answer = loop {
        let answer = gateway.ask(guess("192.0.2.1", looked_at)).await;
        if answer.status() != 401 {
            break answer;
        }
        looked_at += 1;
        assert!(looked_at < 100, "nobody stopped it");
    };
    assert!(is_limited(&answer, 10) <= 6, "{answer:?}");
    assert!(looked_at >= 10, "{looked_at}");
}

fn guess(address: &str, number: usize) -> Request {
    let request = Request::publish(EVENT).header("X-Forwarded-For", address);
    request.bearer(&format!("guess-{number}-0123456789abcdef"))
}

/// Then not even the right one is looked at.
#[tokio::test]
async fn who_guesses_credentials_is_stopped() {
    let gateway = settings()
        .config("auth: {tokens: [{name: shop, token: shop-0123456789abcdef, publish: [orders]}]}")
        .with("limits.rate.auth_failure", "10/h burst 10")
        .start()
        .await;
    for number in 0..10 {
        gateway
            .ask(guess("192.0.2.1", number))
            .await
            .challenges(true);
    }
    is_limited(&gateway.ask(guess("192.0.2.1", 10)).await, 10);
    let good = |address: &str| publish(address).bearer("shop-0123456789abcdef");
    is_limited(&gateway.ask(good("192.0.2.1")).await, 10);
    let ticket = Request::get("/events?topic=orders&ticket=abc");
    let answer = gateway
        .ask(ticket.header("X-Forwarded-For", "192.0.2.1"))
        .await;
    is_limited(&answer, 10);
    // Who shows nothing guesses nothing, and others are not meant.
    assert_eq!(gateway.ask(publish("192.0.2.1")).await.status(), 200);
    assert_eq!(gateway.ask(good("192.0.2.2")).await.status(), 200);
    let failed = [
        ("target", "audit"),
        ("code", "unauthorized"),
        ("address", "192.0.2.1"),
    ];
    gateway.logged(&failed).await;
    let limited = [
        ("target", "audit"),
        ("code", "rate_limited"),
        ("address", "192.0.2.1"),
    ];
    assert_eq!(gateway.logged(&limited).await["outcome"], "BLOCKED");
    assert_eq!(gateway.times_logged(&failed), 10);
    let code = ["code=\"rate_limited\""];
    gateway.counts("tidegate_refusals_total", &code, 3).await;
}

/// A tab that was asleep shows an old token: that is no guess.
#[tokio::test]
async fn an_expired_token_is_no_guess() {
    let gateway = Gateway::with("auth.jwt.secret", SECRET)
        .with("limits.rate.auth_failure", "1/min burst 1")
        .start()
        .await;
    let claims = Claims::of("ann").subscribe(&["orders"]);
    let old = Signer::hs256(SECRET).sign(&claims.clone().expires_in(-60));
    for _ in 0..5 {
        let request = Request::get("/events?topic=orders").bearer(&old);
        gateway.ask(request).await.challenges(true);
    }
    let new = Signer::hs256(SECRET).sign(&claims);
    gateway.events("topic=orders").bearer(&new).open().await;
    // What is good and not enough is none either.
    for _ in 0..5 {
        let request = Request::get("/events?topic=other").bearer(&new);
        gateway.ask(request).await.refuses(403, "forbidden");
    }
    gateway.events("topic=orders").bearer(&new).open().await;
}

/// On the admin listener too: its token opens more than any other.
#[tokio::test]
async fn who_guesses_the_admin_token_is_stopped() {
    let gateway = settings()
        .with("admin.token", "admin-0123456789abcdef")
        .with("limits.rate.auth_failure", "10/h burst 10")
        .start()
        .await;
    let guess = |token: &str| {
        let request = Request::get("/config").header("X-Forwarded-For", "192.0.2.1");
        request.bearer(token)
    };
    for number in 0..10 {
        let answer = gateway
            .ask_admin(guess(&format!("guess-{number}-0123456789abcdef")))
            .await;
        assert_eq!(answer.status(), 401, "{answer:?}");
    }
    is_limited(
        &gateway.ask_admin(guess("admin-0123456789abcdef")).await,
        10,
    );
}
