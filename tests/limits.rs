//! Each limit refuses what is beyond it, leaves everybody else alone, and gives back what it took.

mod callers;

use std::time::Duration;

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Claims, Connection, Gateway, H2Client, Request, Settings, Signer, Subscriber, eventually,
    within,
};

/// Served to everybody, so that the rules of development mode do not hold.
fn open_to_all() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish")
}

#[tokio::test]
async fn beyond_the_last_place_streams_are_refused_and_publishing_goes_on() {
    let gateway = open_to_all().with("limits.connections", 3).start().await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(gateway.subscribe("orders").await);
    }
    let answer = gateway.get("/events?topic=orders").await;
    answer.refuses(503, "connection_limit");
    let again: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&again), "{answer:?}");
    let request = Request::event_source("/events?topic=orders");
    gateway
        .ask(request)
        .await
        .refuses_as_stream("connection_limit");
    let head = Request::new("HEAD", "/events?topic=orders");
    assert_eq!(
        gateway.ask(head).await.status(),
        200,
        "it counts as no stream"
    );
    gateway.publish("orders", "a").await;
    for reader in &mut readers {
        assert_eq!(reader.take(1).await, ["a"]);
    }
    let code = ["code=\"connection_limit\""];
    gateway.counts("tidegate_refusals_total", &code, 2).await;
    let fields = [("target", "audit"), ("code", "connection_limit")];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["outcome"], "BLOCKED", "{line}");
}

#[tokio::test]
async fn the_limit_changes_while_streams_are_open() {
    let yaml = |limit: u32| {
        format!("auth: {{anonymous: [subscribe, publish]}}\nlimits: {{connections: {limit}}}\n")
    };
    let gateway = Gateway::settings().config(&yaml(1)).start().await;
    let mut first = gateway.subscribe("orders").await;
    let refused = || Request::get("/events?topic=orders");
    gateway
        .ask(refused())
        .await
        .refuses(503, "connection_limit");
    gateway.reload(&yaml(2)).await;
    let second = gateway.subscribe("orders").await;
    gateway.reload(&yaml(1)).await;
    // Nobody who is in is put out.
    gateway.publish("orders", "a").await;
    assert_eq!(first.take(1).await, ["a"]);
    drop(second);
    gateway.has_open_streams(1).await;
    gateway
        .ask(refused())
        .await
        .refuses(503, "connection_limit");
}

/// A gateway with one place, and the one stream that takes it.
struct OnePlace(Gateway);

impl OnePlace {
    async fn start(settings: Settings) -> Self {
        // Whoever waits for the place asks often.
        let settings = settings.with("limits.rate.connect", "off");
        Self(settings.with("limits.connections", 1).start().await)
    }

    /// Waits until somebody gets in.
    async fn is_free(&self, after: &str) -> Subscriber {
        let what = format!("a place after {after}");
        eventually(what, async || {
            let mut connection = Connection::open(self.0.public).await;
            let request = Request::get("/events?topic=next");
            connection.send(request.bytes(self.0.public)).await;
            let head = connection.head().await;
            if head.status == 200 {
                Ok(())
            } else {
                Err(head.raw)
            }
        })
        .await;
        self.0.has_places_taken(0).await;
        self.0.subscribe("next").await
    }
}

#[tokio::test]
async fn a_place_comes_back_however_a_client_leaves() {
    let it = OnePlace::start(open_to_all().with("stream.keepalive", "300ms")).await;
    let public = it.0.public;
    let request = Request::get("/events?topic=orders");

    drop(it.0.subscribe("orders").await);
    drop(it.is_free("a client that closed").await);

    it.0.has_places_taken(0).await;
    let mut raw = TcpStream::connect(public).await.unwrap();
    raw.write_all(&request.bytes(public)).await.unwrap();
    let mut answer = [0; 64];
    let read = raw.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    raw.set_zero_linger().unwrap();
    drop(raw);
    drop(it.is_free("a reset").await);

    it.0.has_places_taken(0).await;
    let mut half = it.0.connect().await;
    half.send(request.bytes(public)).await;
    assert_eq!(half.head().await.status, 200);
    half.finish_sending().await;
    // It may be served on, if it reads on; it is gone when it goes.
    drop(half);
    drop(
        it.is_free("a client that had said that it sends no more")
            .await,
    );

    it.0.has_places_taken(0).await;
    let mut early = it.0.connect().await;
    early.send(request.bytes(public)).await;
    drop(early);
    it.0.has_seen_all_leave().await;
    drop(it.is_free("a client that did not wait for the head").await);

    it.0.has_places_taken(0).await;
    let mut h2 = H2Client::open(public).await;
    h2.get("/events?topic=orders").await;
    drop(h2);
    drop(it.is_free("a client of HTTP/2").await);

    it.0.has_places_taken(0).await;
    let mut noisy = it.0.connect().await;
    noisy.send(request.bytes(public)).await;
    assert_eq!(noisy.head().await.status, 200);
    let _ = noisy.try_send("x".repeat(100_000)).await;
    drop(noisy);
    drop(it.is_free("a client that talked").await);
}

/// The gateway learns of both at once, and has written the event before it looks who is still there.
#[tokio::test]
async fn a_place_comes_back_when_a_client_leaves_just_as_an_event_comes() {
    let mut gateway = Gateway::start().await;
    let mut publisher = gateway.connect().await;
    let publish = Request::post("/publish?topic=orders", "text/plain", "an event");
    for _ in 0..5 {
        let mut streams = Vec::new();
        for _ in 0..40 {
            streams.push(gateway.subscribe("orders").await);
        }
        gateway.program().freeze();
        publisher.send(publish.bytes(gateway.public)).await;
        drop(streams);
        gateway.program().signal(Signal::CONT);
        assert_eq!(publisher.response().await.status(), 200);
        gateway.has_places_taken(0).await;
    }
}

#[tokio::test]
async fn a_place_comes_back_however_the_gateway_ends_a_stream() {
    const SECRET: &str = "a secret of more than thirty-two bytes";
    let settings = open_to_all()
        .with("auth.jwt.secret", SECRET)
        .with("auth.jwt.leeway", "0s")
        .with("stream.write_timeout", "500ms");
    let it = OnePlace::start(settings).await;

    let mut reader = it.0.subscribe("finished").await;
    it.0.finish("finished", None).await;
    within("the end", reader.rest()).await;
    drop(it.is_free("the end of its topic").await);

    it.0.has_places_taken(0).await;
    let claims = Claims::of("ann").subscribe(&["orders"]).expires_in(3);
    let token = Signer::hs256(SECRET).sign(&claims);
    let mut reader = it.0.events("topic=orders").bearer(&token).open().await;
    within("the end", reader.rest()).await;
    drop(it.is_free("the end of its token").await);

    it.0.has_places_taken(0).await;
    let mut reader = it.0.subscribe("orders").await;
    let connection = reader.open_data()["connection"]
        .as_str()
        .unwrap()
        .to_owned();
    let target = format!("/admin/connections/{connection}");
    let answer = it.0.ask_admin(Request::new("DELETE", &target)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    within("the end", reader.rest_until_cut()).await;
    drop(it.is_free("an operator ended it").await);

    it.0.has_places_taken(0).await;
    let stuck = it.0.events("topic=orders").narrow().open().await;
    let large = "x".repeat(60_000);
    it.0.publish_lines("orders", vec![&large; 200]).await;
    drop(it.is_free("a reader that did not read was closed").await);
    drop(stuck);
}

/// Whoever is refused takes no place, not even for a moment that others would feel.
#[tokio::test]
async fn a_refused_request_takes_no_place() {
    let it = OnePlace::start(Gateway::settings().config(
        "auth: {tokens: [{name: a, token: a-0123456789abcdef, subscribe: [orders]}]}\nlimits: {rate: {auth_failure: off}}\n",
    ))
    .await;
    for _ in 0..20 {
        for (target, token, status) in [
            ("/events?topic=orders", "wrong-0123456789abcdef", 401),
            ("/events?topic=other", "a-0123456789abcdef", 403),
            ("/events?topic=$x", "a-0123456789abcdef", 400),
            ("/events?topic=orders&last=x", "a-0123456789abcdef", 400),
        ] {
            let answer = it.0.ask(Request::get(target).bearer(token)).await;
            assert_eq!(answer.status(), status, "{target}: {answer:?}");
        }
    }
    let reader =
        it.0.events("topic=orders")
            .bearer("a-0123456789abcdef")
            .open()
            .await;
    assert_eq!(reader.replay(), "none");
}

#[tokio::test]
async fn sizes_are_what_the_settings_say() {
    let gateway = open_to_all()
        .with("limits.event_bytes", "1KiB")
        .with("limits.batch_events", 2)
        .with("limits.body_bytes", "4KiB")
        .start()
        .await;
    let body = |data: &str| serde_json::json!({ "topic": "a", "data": data });
    let fits = body(&"x".repeat(900)).to_string();
    assert_eq!(gateway.post(&fits).await.status(), 200);
    let large = body(&"x".repeat(1_025)).to_string();
    let detail = gateway.post(&large).await.refuses(413, "event_too_large");
    assert!(detail.contains("1024"), "it names the limit: {detail}");
    let batch = serde_json::json!([body("a"), body("b"), body("c")]).to_string();
    let detail = gateway.post(&batch).await.refuses(413, "batch_too_large");
    assert!(detail.contains('2'), "it names the limit: {detail}");
    let body = " ".repeat(5_000);
    let detail = gateway.post(&body).await.refuses(413, "body_too_large");
    assert!(detail.contains("4096"), "it names the limit: {detail}");
}

#[tokio::test]
async fn sizes_change_by_reload() {
    let yaml = |limit: &str| {
        format!("limits: {{event_bytes: {limit}, batch_events: 1, topics_per_connection: 1}}\n")
    };
    let gateway = Gateway::settings().config(&yaml("1KiB")).start().await;
    let body = serde_json::json!({ "topic": "a", "data": "x".repeat(2_000) }).to_string();
    gateway.post(&body).await.refuses(413, "event_too_large");
    gateway
        .get("/events?topic=a,b")
        .await
        .refuses(400, "too_many_topics");
    gateway.reload("limits: {topics_per_connection: 2}").await;
    assert_eq!(gateway.post(&body).await.status(), 200);
    assert_eq!(gateway.post(format!("[{body},{body}]")).await.status(), 200);
    gateway.subscribe("a,b").await;
}

/// The kernel would end the process, and with it every stream.
#[tokio::test]
async fn beyond_the_memory_limit_new_streams_are_refused_and_old_ones_go_on() {
    let yaml = |memory: &str| {
        format!("auth: {{anonymous: [subscribe, publish]}}\nlimits: {{memory: {memory}}}\n")
    };
    let gateway = Gateway::settings().config(&yaml("10GiB")).start().await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.reload(&yaml("1MiB")).await;
    let answer = eventually("new streams to be refused", async || {
        let request = Request::new("GET", "/events?topic=orders&refuse=status");
        let mut connection = gateway.connect().await;
        connection.send(request.bytes(gateway.public)).await;
        let head = connection.head().await;
        if head.status == 200 {
            return Err(head.raw);
        }
        Ok(gateway.ask(request).await)
    })
    .await;
    answer.refuses(503, "memory_limit");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let request = Request::event_source("/events?topic=orders");
    gateway.ask(request).await.refuses_as_stream("memory_limit");
    gateway.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    assert_eq!(gateway.get("/health/live").await.status(), 200);
    gateway.reload(&yaml("10GiB")).await;
    eventually("new streams to be let in", async || {
        let request = Request::get("/events?topic=orders");
        let mut connection = gateway.connect().await;
        connection.send(request.bytes(gateway.public)).await;
        let head = connection.head().await;
        if head.status == 200 {
            Ok(())
        } else {
            Err(head.raw)
        }
    })
    .await;
}

#[tokio::test]
async fn as_many_topics_are_followed_as_are_allowed() {
    let gateway = Gateway::with("limits.topics", 2)
        .with("tail.linger", "100ms")
        .start()
        .await;
    let _both = gateway.subscribe("a,b").await;
    let _same = gateway.subscribe("a").await;
    gateway
        .get("/events?topic=c")
        .await
        .refuses(503, "topic_limit");
    let request = Request::event_source("/events?topic=c");
    gateway.ask(request).await.refuses_as_stream("topic_limit");
    gateway.publish("c", "publishing is no following").await;
}

/// Streams that leave while others come: in the end every place is free, and every reason was counted.
#[tokio::test]
async fn places_do_not_leak_in_a_crowd() {
    let gateway = open_to_all()
        .with("limits.connections", 10)
        .with("limits.rate.connect", "off")
        .with("limits.connections_per_address", 8)
        .start()
        .await;
    let public = gateway.public;
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..200_u64 {
        crowd.spawn(async move {
            let mut connection = Connection::open(public).await;
            let request = Request::get("/events?topic=orders");
            connection.send(request.bytes(public)).await;
            if !number.is_multiple_of(3) {
                connection.head().await;
            }
            if number.is_multiple_of(5) {
                tokio::time::sleep(Duration::from_millis(number % 50)).await;
            }
        });
        if crowd.len() >= 20 {
            crowd.join_next().await.unwrap().unwrap();
        }
    }
    crowd.join_all().await;
    gateway.has_seen_all_leave().await;
    gateway.has_places_taken(0).await;
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(gateway.subscribe("orders").await);
    }
}
