//! What one address, or one subject, may have; and which addresses are served at all.

use super::open_to_all;
use crate::support::{
    Claims, Connection, Gateway, Request, Response, Settings, Signer, Subscriber, Subscription,
};

/// Behind a proxy on this machine, which names its clients.
fn proxied() -> Settings {
    open_to_all().with("server.trusted_proxies", "127.0.0.1")
}

trait From {
    fn from(self, address: &str) -> Self;
}

impl From for Request {
    fn from(self, address: &str) -> Self {
        self.header("X-Forwarded-For", address)
    }
}

impl From for Subscription {
    fn from(self, address: &str) -> Self {
        self.header("X-Forwarded-For", address)
    }
}

async fn follow(gateway: &Gateway, address: &str) -> Subscriber {
    gateway.events("topic=orders").from(address).open().await
}

async fn ask(gateway: &Gateway, address: &str) -> Response {
    gateway
        .ask(Request::get("/events?topic=orders").from(address))
        .await
}

/// What RFC 9110 and the design say of a 429.
fn says_when(answer: &Response) {
    for name in [
        "retry-after",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
    ] {
        let value = answer
            .header(name)
            .unwrap_or_else(|| panic!("no {name}: {answer:?}"));
        let number: u64 = value.parse().unwrap();
        let remaining = name == "ratelimit-remaining";
        assert_eq!(remaining, number == 0, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn one_address_has_so_many_streams_and_others_have_theirs() {
    let gateway = proxied()
        .with("limits.connections_per_address", 2)
        .start()
        .await;
    let first = follow(&gateway, "192.0.2.1").await;
    let _second = follow(&gateway, "192.0.2.1").await;
    let answer = ask(&gateway, "192.0.2.1").await;
    answer.refuses(429, "address_limit");
    says_when(&answer);
    let request = Request::event_source("/events?topic=orders").from("192.0.2.1");
    gateway
        .ask(request)
        .await
        .refuses_as_stream("address_limit");
    let _other = follow(&gateway, "192.0.2.2").await;
    // Whoever comes without a proxy in between is somebody else again.
    let _direct = gateway.subscribe("orders").await;
    drop(first);
    gateway.has_places_taken(3).await;
    let _third = follow(&gateway, "192.0.2.1").await;
    ask(&gateway, "192.0.2.1")
        .await
        .refuses(429, "address_limit");
    let code = ["code=\"address_limit\""];
    gateway.counts("tidegate_refusals_total", &code, 3).await;
    let fields = [("target", "audit"), ("code", "address_limit")];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["address"], "192.0.2.1", "{line}");
    assert_eq!(line["outcome"], "BLOCKED", "{line}");
}

/// Within its /64 one host has as many addresses as it likes.
#[tokio::test]
async fn an_ipv6_client_is_its_network_of_64_bits() {
    let gateway = proxied()
        .with("limits.connections_per_address", 2)
        .start()
        .await;
    let _first = follow(&gateway, "2001:db8:0:1::1").await;
    let _second = follow(&gateway, "2001:db8:0:1:ffff::2").await;
    ask(&gateway, "2001:db8:0:1:1:2:3:4")
        .await
        .refuses(429, "address_limit");
    let _other = follow(&gateway, "2001:db8:0:2::1").await;
}

#[tokio::test]
async fn an_ipv4_address_in_the_clothes_of_ipv6_is_the_same() {
    let gateway = proxied()
        .with("limits.connections_per_address", 1)
        .start()
        .await;
    let _first = follow(&gateway, "192.0.2.1").await;
    ask(&gateway, "::ffff:192.0.2.1")
        .await
        .refuses(429, "address_limit");
    ask(&gateway, "192.0.2.1:4711")
        .await
        .refuses(429, "address_limit");
    let _other = follow(&gateway, "::ffff:192.0.2.2").await;
}

/// Or anybody could have any number of streams.
#[tokio::test]
async fn a_name_that_a_stranger_gives_itself_does_not_count() {
    let gateway = open_to_all()
        .with("server.trusted_proxies", "127.0.0.9")
        .with("limits.connections_per_address", 1)
        .start()
        .await;
    let _first = follow(&gateway, "192.0.2.1").await;
    ask(&gateway, "192.0.2.2")
        .await
        .refuses(429, "address_limit");
}

#[tokio::test]
async fn the_limit_of_the_replica_comes_before_that_of_an_address() {
    let gateway = proxied()
        .with("limits.connections_per_address", 1)
        .with("limits.connections", 1)
        .start()
        .await;
    let _first = follow(&gateway, "192.0.2.1").await;
    ask(&gateway, "192.0.2.2")
        .await
        .refuses(503, "connection_limit");
}

const SECRET: &str = "a secret of more than thirty-two bytes";

fn token(subject: &str) -> String {
    Signer::hs256(SECRET).sign(&Claims::of(subject).subscribe(&["orders"]))
}

#[tokio::test]
async fn one_subject_has_so_many_streams_wherever_it_is() {
    let yaml = format!(
        "auth:\n  jwt: {{secret: {SECRET}}}\n  tokens: [{{name: shop, token: shop-0123456789abcdef, subscribe: [orders]}}]\n\
         server: {{trusted_proxies: [127.0.0.1]}}\nlimits: {{connections_per_subject: 2}}\n"
    );
    let gateway = Gateway::settings().config(&yaml).start().await;
    for (token, other) in [
        (token("ann"), token("bob")),
        ("shop-0123456789abcdef".to_owned(), token("cyd")),
    ] {
        let follow = async |token: &str, address: &str| {
            let subscription = gateway.events("topic=orders").bearer(token);
            subscription.from(address).open().await
        };
        let first = follow(&token, "192.0.2.1").await;
        let second = follow(&token, "192.0.2.2").await;
        let request = || {
            let request = Request::get("/events?topic=orders").bearer(&token);
            request.from("192.0.2.3")
        };
        let answer = gateway.ask(request()).await;
        answer.refuses(429, "subject_limit");
        says_when(&answer);
        let browser = request().header("Accept", "text/event-stream");
        gateway
            .ask(browser)
            .await
            .refuses_as_stream("subject_limit");
        let others = follow(&other, "192.0.2.1").await;
        drop(first);
        gateway.has_places_taken(2).await;
        let third = follow(&token, "192.0.2.4").await;
        gateway.ask(request()).await.refuses(429, "subject_limit");
        drop((second, others, third));
        gateway.has_places_taken(0).await;
    }
}

/// A page that renews its token by a new stream, and a back end with no limit, are not the same.
#[tokio::test]
async fn without_a_limit_of_its_own_a_subject_has_any_number() {
    let gateway = Gateway::with("auth.jwt.secret", SECRET).start().await;
    let mut readers = Vec::new();
    for _ in 0..50 {
        let reader = gateway.events("topic=orders").bearer(&token("ann"));
        readers.push(reader.open().await);
    }
}

#[tokio::test]
async fn denied_addresses_are_not_served() {
    let gateway = proxied()
        .with("limits.addresses.deny", "192.0.2.0/24,2001:db8::/32")
        .start()
        .await;
    for address in [
        "192.0.2.1",
        "192.0.2.255",
        "2001:db8::1",
        "::ffff:192.0.2.1",
    ] {
        ask(&gateway, address)
            .await
            .refuses(403, "address_forbidden");
        let browser = Request::event_source("/events?topic=orders").from(address);
        gateway.ask(browser).await.refuses(403, "address_forbidden");
        let publish = Request::publish(r#"{"topic":"orders","data":"a"}"#);
        let answer = gateway.ask(publish.from(address)).await;
        answer.refuses(403, "address_forbidden");
        for route in ["/health", "/health/live", "/health/ready"] {
            let answer = gateway.ask(Request::get(route).from(address)).await;
            assert_eq!(answer.status(), 200, "{route} is for everybody: {answer:?}");
        }
    }
    for address in ["192.0.3.1", "2001:db9::1"] {
        follow(&gateway, address).await;
    }
    let fields = [("target", "audit"), ("code", "address_forbidden")];
    assert_eq!(gateway.logged(&fields).await["outcome"], "DENIED");
}

#[tokio::test]
async fn where_addresses_are_allowed_no_others_are_served() {
    let gateway = proxied()
        .with("limits.addresses.allow", "192.0.2.0/24,127.0.0.1")
        .with("limits.addresses.deny", "192.0.2.7")
        .start()
        .await;
    follow(&gateway, "192.0.2.1").await;
    gateway.subscribe("orders").await;
    for address in ["192.0.2.7", "192.0.3.1", "2001:db8::1"] {
        ask(&gateway, address)
            .await
            .refuses(403, "address_forbidden");
    }
}

/// A header names somebody else only where a trusted proxy wrote it.
#[tokio::test]
async fn a_denied_address_cannot_give_itself_another_name() {
    let gateway = open_to_all()
        .with("limits.addresses.deny", "127.0.0.1")
        .start()
        .await;
    ask(&gateway, "192.0.2.1")
        .await
        .refuses(403, "address_forbidden");
    let mut connection = Connection::open(gateway.public).await;
    let answer = connection.ask(&Request::get("/events?topic=orders")).await;
    answer.refuses(403, "address_forbidden");
    assert_eq!(gateway.get_admin("/metrics").await.status(), 200);
}

#[tokio::test]
async fn the_lists_change_by_reload() {
    let yaml = |deny: &str| {
        format!("auth: {{anonymous: [subscribe]}}\nlimits: {{addresses: {{deny: [{deny}]}}}}\n")
    };
    let gateway = Gateway::settings().config(&yaml("")).start().await;
    gateway.subscribe("orders").await;
    gateway.reload(&yaml("127.0.0.0/8")).await;
    let answer = gateway.get("/events?topic=orders").await;
    answer.refuses(403, "address_forbidden");
    gateway.reload(&yaml("")).await;
    gateway.subscribe("orders").await;
}
