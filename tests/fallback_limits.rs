//! A place is a place: all encodings share every limit, and give back what they took.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::{
    Claims, Connection, Encoding, Entry, Gateway, Place, Request, Response, Settings, Signer,
    eventually,
};

/// Served to everybody, so that the rules of development mode do not hold.
fn open_to_all() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish")
}

/// Behind a proxy on this machine, which names its clients.
fn proxied() -> Settings {
    open_to_all().with("server.trusted_proxies", "127.0.0.1")
}

/// Enters, and waits until so many places are taken.
async fn enters(gateway: &Gateway, entry: &Entry, places: u32) -> Place {
    let place = entry.enter().await;
    gateway.has_places_taken(places).await;
    place
}

#[tokio::test]
async fn places_are_counted_over_all_encodings() {
    let gateway = open_to_all().with("limits.connections", 3).start().await;
    for first in Encoding::ALL {
        let mut places = Vec::new();
        for (number, way) in (1..).zip([first, Encoding::Sse, Encoding::Ws]) {
            let entry = gateway.entry(way, "topic=orders");
            places.push(enters(&gateway, &entry, number).await);
        }
        for way in Encoding::ALL {
            let entry = gateway.entry(way, "topic=orders");
            let later = entry.is_refused(503, "connection_limit").await;
            assert!(
                later.is_some_and(|seconds| seconds <= 60),
                "{way}: {later:?}"
            );
        }
        // Publishing is no place.
        gateway.publish("orders", "a").await;
        for place in &mut places {
            place.gets("a").await;
        }
        drop(places);
        gateway.has_places_taken(0).await;
    }
    let code = ["code=\"connection_limit\""];
    gateway.counts("tidegate_refusals_total", &code, 9).await;
    let fields = [("target", "audit"), ("code", "connection_limit")];
    for way in Encoding::ALL {
        let fields = [fields[0], fields[1], ("route", way.route())];
        assert_eq!(gateway.logged(&fields).await["outcome"], "BLOCKED");
    }
    gateway.has_open_streams(0).await;
}

/// What one encoding leaves, another takes.
#[tokio::test]
async fn the_place_of_one_encoding_is_free_for_another() {
    let gateway = open_to_all().with("limits.connections", 1).start().await;
    for leaves in Encoding::ALL {
        for comes in Encoding::ALL {
            let entry = gateway.entry(leaves, "topic=orders");
            let place = enters(&gateway, &entry, 1).await;
            let next = gateway.entry(comes, "topic=orders");
            next.is_refused(503, "connection_limit").await;
            drop(place);
            gateway.has_places_taken(0).await;
            let mut place = enters(&gateway, &next, 1).await;
            gateway.publish("orders", "a").await;
            place.gets("a").await;
            drop(place);
            gateway.has_places_taken(0).await;
        }
    }
}

/// An answer gives the place back, also on a connection that goes on.
#[tokio::test]
async fn a_poll_has_its_place_for_as_long_as_it_waits() {
    let gateway = open_to_all().with("limits.connections", 1).start().await;
    let mut connection = gateway.connect().await;
    for number in 0..5 {
        let request = Request::get("/poll?topic=orders&wait=60s");
        connection.send(request.bytes(gateway.public)).await;
        gateway.has_places_taken(1).await;
        gateway.publish("orders", &number.to_string()).await;
        assert_eq!(connection.response().await.status(), 200);
        gateway.has_places_taken(0).await;
        drop(gateway.subscribe("orders").await);
        gateway.has_places_taken(0).await;
    }
}

/// Only the streams of SSE are called so.
#[tokio::test]
async fn the_gauge_of_sse_counts_sse_alone() {
    let gateway = Gateway::start().await;
    let mut places = Vec::new();
    for (number, way) in (1..).zip([
        Encoding::Sse,
        Encoding::Ws,
        Encoding::Poll,
        Encoding::Ws,
        Encoding::Sse,
    ]) {
        let entry = gateway.entry(way, "topic=orders");
        places.push(enters(&gateway, &entry, number).await);
    }
    gateway.has_open_streams(2).await;
    drop(places);
    gateway.has_places_taken(0).await;
    gateway.has_open_streams(0).await;
}

#[tokio::test]
async fn the_limit_changes_while_places_are_taken() {
    let yaml = |limit: u32| {
        format!("auth: {{anonymous: [subscribe, publish]}}\nlimits: {{connections: {limit}}}\n")
    };
    let gateway = Gateway::settings().config(&yaml(2)).start().await;
    let mut socket = enters(&gateway, &gateway.entry(Encoding::Ws, "topic=orders"), 1).await;
    let mut waiting = enters(&gateway, &gateway.entry(Encoding::Poll, "topic=orders"), 2).await;
    let refused = async || {
        for way in Encoding::ALL {
            let entry = gateway.entry(way, "topic=orders");
            entry.is_refused(503, "connection_limit").await;
        }
    };
    refused().await;
    gateway.reload(&yaml(1)).await;
    refused().await;
    // Nobody who is in is put out.
    gateway.publish("orders", "a").await;
    socket.gets("a").await;
    waiting.gets("a").await;
    gateway.reload(&yaml(3)).await;
    enters(&gateway, &gateway.entry(Encoding::Ws, "topic=orders"), 2).await;
}

fn says_when(answer: &Response) {
    for name in [
        "retry-after",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
    ] {
        assert!(answer.header(name).is_some(), "no {name}: {answer:?}");
    }
}

#[tokio::test]
async fn one_address_has_so_many_places_by_whatever_encoding() {
    let gateway = proxied()
        .with("limits.connections_per_address", 2)
        .start()
        .await;
    let entry = |way: Encoding, address: &str| gateway.entry(way, "topic=orders").from(address);
    for first in Encoding::ALL {
        let one = enters(&gateway, &entry(first, "192.0.2.1"), 1).await;
        let two = enters(&gateway, &entry(Encoding::Poll, "192.0.2.1"), 2).await;
        for way in Encoding::ALL {
            entry(way, "192.0.2.1")
                .is_refused(429, "address_limit")
                .await;
        }
        says_when(&entry(Encoding::Poll, "192.0.2.1").answer().await);
        let other = enters(&gateway, &entry(Encoding::Ws, "192.0.2.2"), 3).await;
        drop(one);
        gateway.has_places_taken(2).await;
        let three = enters(&gateway, &entry(first, "192.0.2.1"), 3).await;
        entry(first, "192.0.2.1")
            .is_refused(429, "address_limit")
            .await;
        drop((two, other, three));
        gateway.has_places_taken(0).await;
    }
    gateway.counts("tidegate_limited_callers", &[], 0).await;
}

const SECRET: &str = "a secret of more than thirty-two bytes";

fn token(subject: &str) -> String {
    let claims = Claims::of(subject)
        .subscribe(&["orders"])
        .publish(&["orders"]);
    Signer::hs256(SECRET).sign(&claims)
}

#[tokio::test]
async fn one_subject_has_so_many_places_wherever_it_is() {
    let gateway = Gateway::with("auth.jwt.secret", SECRET)
        .with("server.trusted_proxies", "127.0.0.1")
        .with("limits.connections_per_subject", 2)
        .start()
        .await;
    let entry = |way: Encoding, subject: &str, address: &str| {
        let entry = gateway.entry(way, "topic=orders");
        entry.bearer(&token(subject)).from(address)
    };
    let one = enters(&gateway, &entry(Encoding::Ws, "ann", "192.0.2.1"), 1).await;
    let _two = enters(&gateway, &entry(Encoding::Poll, "ann", "192.0.2.2"), 2).await;
    for way in Encoding::ALL {
        let third = entry(way, "ann", "192.0.2.3");
        third.is_refused(429, "subject_limit").await;
    }
    let _other = enters(&gateway, &entry(Encoding::Poll, "bob", "192.0.2.1"), 3).await;
    drop(one);
    gateway.has_places_taken(2).await;
    let _three = enters(&gateway, &entry(Encoding::Sse, "ann", "192.0.2.4"), 3).await;
    entry(Encoding::Ws, "ann", "192.0.2.1")
        .is_refused(429, "subject_limit")
        .await;
}

#[tokio::test]
async fn denied_addresses_are_not_served() {
    let gateway = proxied()
        .with("limits.addresses.deny", "192.0.2.0/24")
        .start()
        .await;
    for way in Encoding::ALL {
        let denied = gateway.entry(way, "topic=orders").from("192.0.2.1");
        let answer = if way == Encoding::Ws {
            denied.handshake().answer().await
        } else {
            denied.answer().await
        };
        answer.refuses(403, "address_forbidden");
        let other = gateway.entry(way, "topic=orders").from("192.0.3.1");
        drop(enters(&gateway, &other, 1).await);
        gateway.has_places_taken(0).await;
    }
}

#[tokio::test]
async fn beyond_the_memory_limit_all_are_refused_and_those_who_are_in_go_on() {
    let yaml = |memory: &str| {
        format!("auth: {{anonymous: [subscribe, publish]}}\nlimits: {{memory: {memory}}}\n")
    };
    let gateway = Gateway::settings().config(&yaml("10GiB")).start().await;
    let mut socket = enters(&gateway, &gateway.entry(Encoding::Ws, "topic=orders"), 1).await;
    let mut waiting = enters(&gateway, &gateway.entry(Encoding::Poll, "topic=orders"), 2).await;
    gateway.reload(&yaml("1MiB")).await;
    eventually("new ones to be refused", async || {
        match gateway.get("/poll?topic=orders&wait=10ms").await {
            answer if answer.status() == 503 => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
    for way in Encoding::ALL {
        let entry = gateway.entry(way, "topic=orders&refuse=status");
        if way == Encoding::Ws {
            let answer = entry.handshake().answer().await;
            answer.refuses(503, "memory_limit");
            let entry = gateway.entry(way, "topic=orders");
            entry.is_refused(503, "memory_limit").await;
        } else {
            entry.is_refused(503, "memory_limit").await;
        }
    }
    gateway.publish("orders", "a").await;
    socket.gets("a").await;
    waiting.gets("a").await;
}

#[tokio::test]
async fn as_many_topics_are_followed_as_are_allowed() {
    let gateway = Gateway::with("limits.topics", 2)
        .with("tail.linger", "100ms")
        .start()
        .await;
    let _both = enters(&gateway, &gateway.entry(Encoding::Ws, "topic=a,b"), 1).await;
    let _same = enters(&gateway, &gateway.entry(Encoding::Poll, "topic=a"), 2).await;
    for way in Encoding::ALL {
        gateway
            .entry(way, "topic=c")
            .is_refused(503, "topic_limit")
            .await;
    }
    gateway.publish("c", "publishing is no following").await;
}

/// What a program has to mend is told before the upgrade.
#[tokio::test]
async fn too_many_topics_are_a_bad_query() {
    let gateway = Gateway::with("limits.topics_per_connection", 2)
        .start()
        .await;
    let answer = gateway.poll("topic=a,b,c").ask().await;
    answer.refuses(400, "too_many_topics");
    let answer = gateway.ws("topic=a,b,c").answer().await;
    answer.refuses(400, "too_many_topics");
}

/// A page cannot read the status of a handshake that failed; a program can, and may ask for it.
#[tokio::test]
async fn a_websocket_is_refused_by_a_status_where_that_is_asked_for() {
    let gateway = open_to_all().with("limits.connections", 1).start().await;
    let _place = gateway.subscribe("orders").await;
    let refused = |answer: &Response| {
        answer.refuses(503, "connection_limit");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    };
    refused(&gateway.ws("topic=orders&refuse=status").answer().await);
    let handshake = gateway.ws("topic=orders");
    handshake.is_turned_away("connection_limit", 1013).await;
    let gateway = open_to_all()
        .with("limits.connections", 1)
        .with("limits.refuse_as", "status")
        .start()
        .await;
    let _place = gateway.subscribe("orders").await;
    refused(&gateway.ws("topic=orders").answer().await);
    // A poll has nothing but a status.
    for refuse in ["stream", "status"] {
        let query = format!("topic=orders&refuse={refuse}");
        refused(
            &gateway
                .poll(&query)
                .header("Accept", "text/event-stream")
                .ask()
                .await,
        );
    }
}

/// Whoever is refused takes no place, not even for a moment that others would feel.
#[tokio::test]
async fn a_refused_request_takes_no_place() {
    const TOKEN: &str = "a-0123456789abcdef";
    let gateway = Gateway::settings()
        .config("auth: {tokens: [{name: a, token: a-0123456789abcdef, subscribe: [orders]}]}\nlimits: {connections: 1, rate: {auth_failure: off}}\n")
        .start()
        .await;
    for _ in 0..10 {
        for way in Encoding::FALLBACKS {
            let entry = |query: &str, token: &str| gateway.entry(way, query).bearer(token);
            let wrong = entry("topic=orders", "wrong-0123456789abcdef");
            wrong.is_refused(401, "unauthorized").await;
            entry("topic=other", TOKEN)
                .is_refused(403, "forbidden")
                .await;
        }
        let answer = gateway.poll("topic=$x").bearer(TOKEN).ask().await;
        assert_eq!(answer.status(), 400, "{answer:?}");
        let answer = gateway.ws("topic=$x").bearer(TOKEN).answer().await;
        assert_eq!(answer.status(), 400, "{answer:?}");
    }
    for way in Encoding::ALL {
        let entry = gateway.entry(way, "topic=orders").bearer(TOKEN);
        drop(enters(&gateway, &entry, 1).await);
        gateway.has_places_taken(0).await;
    }
}

/// All encodings come and go at once, politely or not: in the end every place is free.
#[tokio::test]
async fn places_do_not_leak_in_a_crowd() {
    let gateway = open_to_all()
        .with("limits.connections", 12)
        .with("limits.connections_per_address", 10)
        .with("limits.rate.connect", "off")
        .with("limits.rate.poll", "off")
        .start()
        .await;
    let public = gateway.public;
    let mut crowd = JoinSet::new();
    for number in 0..240_u64 {
        let way = Encoding::ALL[usize::try_from(number % 3).unwrap()];
        let request = gateway.entry(way, "topic=orders").request().bytes(public);
        crowd.spawn(async move {
            let mut connection = Connection::open(public).await;
            connection.send(request).await;
            if !number.is_multiple_of(4) && way != Encoding::Poll {
                connection.head().await;
            }
            if number.is_multiple_of(5) {
                tokio::time::sleep(Duration::from_millis(number % 50)).await;
            }
        });
        if number.is_multiple_of(40) {
            gateway.publish("orders", "passes").await;
        }
        if crowd.len() >= 20 {
            crowd.join_next().await.unwrap().unwrap();
        }
    }
    crowd.join_all().await;
    gateway.has_seen_all_leave().await;
    gateway.has_places_taken(0).await;
    gateway.counts("tidegate_limited_callers", &[], 0).await;
    let mut all = Vec::new();
    for number in 1..=10 {
        let way = Encoding::ALL[number as usize % 3];
        let entry = gateway.entry(way, "topic=orders");
        all.push(enters(&gateway, &entry, number).await);
    }
}
