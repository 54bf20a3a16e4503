//! A ticket opens one stream, once, on whichever replica, with the rights of whoever asked for it.

use std::time::SystemTime;

use tokio::task::JoinSet;

use crate::{
    redis::replica_of,
    support::{
        Claims, Connection, Gateway, RedisServer, Request, Settings, Signer, Subscriber, within,
    },
};

const SECRET: &str = "a secret of more than thirty-two bytes";
const SHOP: &str = "shop-0123456789abcdef";
const OPERATOR: &str = "operator-0123456789abcdef";
const TOKENS: &str = r"
auth:
  tokens:
    - {name: shop, token: shop-0123456789abcdef, subscribe: [orders], publish: [orders]}
    - {name: operator, token: operator-0123456789abcdef, subscribe: [orders], admin: true}
  jwt:
    secret: a secret of more than thirty-two bytes
    leeway: 0s
";

fn settings() -> Settings {
    Gateway::settings()
        .config(TOKENS)
        .with("limits.rate.auth_failure", "off")
}

async fn ticket(gateway: &Gateway, token: &str) -> String {
    let request = Request::new("POST", "/ticket").bearer(token);
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let json = answer.json();
    assert_eq!(json["expires_in"], 30, "{answer:?}");
    let ticket = json["ticket"].as_str().unwrap().to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    assert!(ticket.chars().all(plain), "as it is in a URL: {ticket}");
    ticket
}

fn target(ticket: &str) -> String {
    format!("/events?topic=orders&ticket={ticket}")
}

async fn open(gateway: &Gateway, ticket: &str) -> Subscriber {
    gateway
        .events(&format!("topic=orders&ticket={ticket}"))
        .open()
        .await
}

#[tokio::test]
async fn a_ticket_opens_a_stream() {
    let gateway = settings().start().await;
    let ticket = ticket(&gateway, SHOP).await;
    let mut reader = open(&gateway, &ticket).await;
    let body = r#"{"topic":"orders","data":"a"}"#;
    let answer = gateway.ask(Request::publish(body).bearer(SHOP)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(reader.take(1).await, ["a"]);
}

#[tokio::test]
async fn no_cache_keeps_a_ticket() {
    let gateway = settings().start().await;
    let answer = gateway
        .ask(Request::new("POST", "/ticket").bearer(SHOP))
        .await;
    let cache = answer.head.list("cache-control");
    assert!(cache.contains(&"no-store".to_owned()), "{answer:?}");
}

/// The page of a browser that reconnects by itself shows the same URL again: it survives, and its next ticket is good.
#[tokio::test]
async fn a_ticket_is_used_once() {
    let gateway = settings().start().await;
    let ticket = ticket(&gateway, SHOP).await;
    let reader = open(&gateway, &ticket).await;
    gateway
        .ask(Request::get(&target(&ticket)))
        .await
        .challenges(true);
    drop(reader);
    gateway.has_open_streams(0).await;
    gateway
        .ask(Request::get(&target(&ticket)))
        .await
        .challenges(true);
    let request = Request::event_source(&target(&ticket));
    let answer = gateway
        .ask(request.header("Last-Event-ID", "1732096700000-3"))
        .await;
    let survivable = answer.refuses_as_stream("unauthorized");
    assert_eq!(survivable.id.as_deref(), Some("1732096700000-3"));
}

#[tokio::test]
async fn a_ticket_of_one_replica_is_good_on_any_and_once_on_all() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        replica_of(settings(), &redis).await,
        replica_of(settings(), &redis).await,
    );
    for (first, second) in [(&a, &b), (&b, &a)] {
        let ticket = ticket(&a, SHOP).await;
        let _reader = open(first, &ticket).await;
        for gateway in [second, first] {
            gateway
                .ask(Request::get(&target(&ticket)))
                .await
                .challenges(true);
        }
    }
}

#[tokio::test]
async fn of_many_who_show_a_ticket_at_once_one_gets_in() {
    let redis = RedisServer::start().await;
    let (a, b) = (
        replica_of(settings(), &redis).await,
        replica_of(settings(), &redis).await,
    );
    for _ in 0..5 {
        let ticket = ticket(&a, SHOP).await;
        let mut connections = Vec::new();
        for number in 0..32 {
            let address = if number % 2 == 0 { a.public } else { b.public };
            connections.push((Connection::open(address).await, address));
        }
        let mut racing = JoinSet::new();
        for (mut connection, address) in connections {
            let request = Request::get(&target(&ticket)).bytes(address);
            racing.spawn(async move {
                connection.send(request).await;
                (connection.head().await.status, connection)
            });
        }
        let answers = racing.join_all().await;
        let open = answers.iter().filter(|(status, _)| *status == 200).count();
        let refused = answers.iter().filter(|(status, _)| *status == 401).count();
        assert_eq!((open, refused), (1, 31));
    }
}

/// The memory store has to be as strict.
#[tokio::test]
async fn a_ticket_is_used_once_without_redis_too() {
    let gateway = settings().start().await;
    let ticket = ticket(&gateway, SHOP).await;
    let mut racing = JoinSet::new();
    for _ in 0..32 {
        let mut connection = gateway.connect().await;
        let request = Request::get(&target(&ticket)).bytes(gateway.public);
        racing.spawn(async move {
            connection.send(request).await;
            (connection.head().await.status, connection)
        });
    }
    let answers = racing.join_all().await;
    let open = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(open, 1);
}

#[tokio::test]
async fn a_ticket_has_the_rights_of_whoever_asked_for_it() {
    let gateway = settings().start().await;
    let claims = Claims::of("ann").subscribe(&["orders"]);
    for token in [SHOP.to_owned(), Signer::hs256(SECRET).sign(&claims)] {
        let ticket = ticket(&gateway, &token).await;
        for topics in ["other", "orders,other"] {
            let target = format!("/events?topic={topics}&ticket={ticket}");
            let answer = gateway.ask(Request::get(&target)).await;
            // Whether an attempt on the wrong topic spends it is not promised.
            assert!([401, 403].contains(&answer.status()), "{answer:?}");
        }
    }
    let ticket = ticket(&gateway, &Signer::hs256(SECRET).sign(&claims)).await;
    let body = r#"{"topic":"orders","data":"a"}"#;
    let publish = format!("/publish?ticket={ticket}");
    let answer = gateway
        .ask(Request::post(&publish, "application/json", body))
        .await;
    assert!([401, 403].contains(&answer.status()), "{answer:?}");
}

/// It lives no longer than the token that it was made for.
#[tokio::test]
async fn a_stream_by_ticket_ends_with_the_token_of_whoever_asked() {
    let gateway = settings().with("auth.expiry_notice", "2s").start().await;
    let claims = Claims::of("ann").subscribe(&["orders"]).expires_in(5);
    let ticket = ticket(&gateway, &Signer::hs256(SECRET).sign(&claims)).await;
    let mut reader = open(&gateway, &ticket).await;
    reader.control("$auth_expiring").await;
    within("the stream to end", reader.rest()).await;
    assert!(SystemTime::now() >= claims.end(), "not before its time");
}

#[tokio::test]
async fn a_ticket_makes_nobody_an_operator() {
    let gateway = settings()
        .with("server.trusted_proxies", "127.0.0.1")
        .start()
        .await;
    let from_elsewhere = |target: &str| Request::get(target).header("X-Forwarded-For", "192.0.2.1");
    let answer = gateway
        .ask_admin(from_elsewhere("/config").bearer(OPERATOR))
        .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let ticket = ticket(&gateway, OPERATOR).await;
    for request in [
        from_elsewhere(&format!("/config?ticket={ticket}")),
        from_elsewhere("/config").bearer(&ticket),
    ] {
        let answer = gateway.ask_admin(request).await;
        assert!([401, 403].contains(&answer.status()), "{answer:?}");
    }
}

#[tokio::test]
async fn a_ticket_needs_credentials() {
    let gateway = settings().with("auth.anonymous", "subscribe").start().await;
    let ask = || Request::new("POST", "/ticket");
    gateway.ask(ask()).await.challenges(false);
    gateway
        .ask(ask().bearer("wrong-0123456789abcdef"))
        .await
        .challenges(true);
    let old = Claims::of("ann").subscribe(&["orders"]).expires_in(-5);
    let request = ask().bearer(&Signer::hs256(SECRET).sign(&old));
    gateway.ask(request).await.challenges(true);
    let answer = gateway.get("/ticket").await;
    answer.refuses(405, "method_not_allowed");
}

/// Whoever finds one in a log of a proxy could otherwise live on it for ever.
#[tokio::test]
async fn a_ticket_buys_no_other_ticket() {
    let gateway = settings().start().await;
    let first = ticket(&gateway, SHOP).await;
    let request = Request::new("POST", &format!("/ticket?ticket={first}"));
    let answer = gateway.ask(request).await;
    assert!([401, 403].contains(&answer.status()), "{answer:?}");
}

#[tokio::test]
async fn what_is_no_ticket_of_ours_was_never_valid() {
    let (gateway, stranger) = (settings().start().await, settings().start().await);
    let foreign = ticket(&stranger, SHOP).await;
    let own = ticket(&gateway, SHOP).await;
    let mut changed = own.clone().into_bytes();
    let middle = changed.len() / 2;
    changed[middle] = if changed[middle] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    for wrong in ["", "x", SHOP, &own[..20]] {
        for request in [
            Request::get(&target(wrong)),
            Request::event_source(&target(wrong)),
        ] {
            gateway.ask(request).await.challenges(true);
        }
    }
    // These look like tickets of the process before, with which a page may come back.
    for wrong in [&foreign, &changed, &own[..own.len() - 1]] {
        gateway
            .ask(Request::get(&target(wrong)))
            .await
            .challenges(true);
        let browser = gateway.ask(Request::event_source(&target(wrong))).await;
        if browser.status() == 200 {
            browser.refuses_as_stream("unauthorized");
        } else {
            browser.challenges(true);
        }
    }
    // What was tried around it has not spent the real one.
    open(&gateway, &own).await;
}

/// A ticket stands for its token: it is no way to keep what was taken back.
#[tokio::test]
async fn a_ticket_falls_with_the_token_that_it_was_made_for() {
    let gateway = settings().start().await;
    let ticket = ticket(&gateway, SHOP).await;
    let without = TOKENS.lines().filter(|line| !line.contains("name: shop"));
    gateway
        .reload(&without.collect::<Vec<_>>().join("\n"))
        .await;
    gateway
        .ask(Request::get(&target(&ticket)))
        .await
        .challenges(true);
}

#[tokio::test]
async fn no_line_and_no_metric_has_a_ticket_in_it() {
    let gateway = settings().with("log.level", "trace").start().await;
    let ticket = ticket(&gateway, SHOP).await;
    let reader = open(&gateway, &ticket).await;
    drop(reader);
    gateway.has_open_streams(0).await;
    let again = Request::get(&target(&ticket)).header("X-Request-Id", "again");
    gateway.ask(again).await.challenges(true);
    gateway
        .logged(&[("target", "access"), ("request_id", "again")])
        .await;
    gateway
        .logged(&[("target", "audit"), ("request_id", "again")])
        .await;
    let said = gateway.said();
    // Its beginning would say whose it is.
    for secret in [&ticket[..], &ticket[..24], SHOP, SECRET] {
        assert!(!said.contains(secret), "{secret} in\n{said}");
    }
    let metrics = gateway.get_admin("/metrics").await.text();
    assert!(!metrics.contains(&ticket[..24]), "{metrics}");
}
