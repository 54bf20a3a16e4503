//! Operators see a WebSocket and a poll as they see a stream: in the logs, in the metrics, by whom and for how long.

use crate::support::{Encoding, Gateway, Request, Settings};

fn open_to_all() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish")
}

const COUNT: &str = "http_request_duration_seconds_count";

#[tokio::test]
async fn a_request_has_a_line_and_a_count_under_its_route() {
    let gateway = Gateway::start().await;
    let socket = gateway
        .ws("topic=orders")
        .header("X-Request-Id", "the-socket");
    let socket = socket.open().await;
    assert_eq!(socket.head.header("x-request-id"), Some("the-socket"));
    let poll = gateway
        .poll("topic=orders&wait=0s")
        .header("X-Request-Id", "the-poll");
    let answer = poll.ask().await;
    assert_eq!(answer.header("x-request-id"), Some("the-poll"));
    let own = gateway.poll("topic=orders&wait=0s").ask().await;
    assert!(!own.header("x-request-id").unwrap().is_empty(), "{own:?}");
    for (request_id, route, status) in [("the-socket", "/ws", 101), ("the-poll", "/poll", 200)] {
        let fields = [
            ("target", "access"),
            ("message", "request"),
            ("request_id", request_id),
        ];
        let line = gateway.logged(&fields).await;
        assert_eq!(line["route"], route, "{line}");
        assert_eq!(line["method"], "GET", "{line}");
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["address"], "127.0.0.1", "{line}");
        assert!(line["duration_us"].is_u64(), "{line}");
        for absent in ["code", "path"] {
            assert!(line.get(absent).is_none(), "{line}");
        }
        assert_eq!(gateway.times_logged(&fields), 1);
        let route = format!("route=\"{route}\"");
        let status = format!("status=\"{status}\"");
        let counted = gateway.counted(COUNT, &[&route, &status]).await;
        assert!(counted >= 1.0, "{route} {status}: {counted}");
    }
    let wrong = gateway
        .poll("topic=*")
        .header("X-Request-Id", "the-refusal");
    wrong.ask().await.refuses(400, "topic_invalid");
    let line = gateway
        .logged(&[("target", "access"), ("request_id", "the-refusal")])
        .await;
    assert_eq!(line["code"], "topic_invalid", "{line}");
    assert_eq!(line["route"], "/poll", "{line}");
}

#[tokio::test]
async fn the_end_of_a_websocket_is_a_line_with_its_reason() {
    let gateway = Gateway::start().await;
    let handshake = gateway
        .ws("topic=orders")
        .header("X-Request-Id", "the-socket");
    let mut socket = handshake.open().await;
    for data in ["a", "b"] {
        gateway.publish("orders", data).await;
    }
    assert_eq!(socket.take(2).await, ["a", "b"]);
    let connection = socket.connection_id().to_owned();
    drop(socket);
    let fields = [
        ("target", "access"),
        ("message", "stream ended"),
        ("request_id", "the-socket"),
    ];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["connection"], connection, "{line}");
    assert_eq!(line["reason"], "gone", "{line}");
    assert_eq!(line["events"], 2, "{line}");
    for number in ["duration_ms", "bytes", "lag_ms"] {
        assert!(line[number].is_u64(), "no {number}: {line}");
    }
    let reason = ["reason=\"gone\""];
    gateway
        .counts("tidegate_streams_closed_total", &reason, 1)
        .await;
    let mut socket = gateway.follow("finished").await;
    gateway.finish("finished", None).await;
    socket.expect("end").await;
    socket.closes(1000, "finished").await;
    let fields = [("message", "stream ended"), ("reason", "finished")];
    gateway.logged(&fields).await;
}

/// It stayed HTTP as far as HTTP went; what it was refused for counts as what it is.
#[tokio::test]
async fn a_refusal_after_the_upgrade_is_seen_as_the_refusal_that_it_is() {
    let gateway = open_to_all().with("limits.connections", 1).start().await;
    let _place = gateway.subscribe("orders").await;
    let handshake = gateway
        .ws("topic=orders")
        .header("X-Request-Id", "the-refused");
    handshake.is_turned_away("connection_limit", 1013).await;
    let code = ["code=\"connection_limit\""];
    gateway.counts("tidegate_refusals_total", &code, 1).await;
    let fields = [
        ("target", "access"),
        ("request_id", "the-refused"),
        ("message", "request"),
    ];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["code"], "connection_limit", "{line}");
    let fields = [("target", "audit"), ("request_id", "the-refused")];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["outcome"], "BLOCKED", "{line}");
    assert_eq!(line["route"], "/ws", "{line}");
    gateway.has_open_streams(1).await;
}

/// A client is who a trusted proxy says it is.
#[tokio::test]
async fn trusted_proxies_name_the_client_of_every_encoding() {
    let gateway = open_to_all()
        .with("server.trusted_proxies", "127.0.0.1,10.0.0.0/8")
        .start()
        .await;
    for (number, (name, value, client)) in [
        ("X-Forwarded-For", "192.0.2.1", "192.0.2.1"),
        (
            "X-Forwarded-For",
            "6.6.6.6, 192.0.2.1, 10.2.2.2",
            "192.0.2.1",
        ),
        ("X-Real-IP", "2001:db8::1", "2001:db8::1"),
        ("Forwarded", "for=192.0.2.1;proto=https", "192.0.2.1"),
    ]
    .into_iter()
    .enumerate()
    {
        for way in Encoding::ALL {
            let request_id = format!("{}-{number}", way.route().trim_start_matches('/'));
            let entry = gateway.entry(way, "topic=orders").header(name, value);
            let place = entry.header("X-Request-Id", &request_id).enter().await;
            gateway.has_places_taken(1).await;
            gateway.publish("orders", "a").await;
            let mut place = place;
            place.gets("a").await;
            drop(place);
            gateway.has_places_taken(0).await;
            let fields = [("target", "access"), ("request_id", &*request_id)];
            let line = gateway.logged(&fields).await;
            assert_eq!(line["address"], client, "{way} {name}: {line}");
        }
    }
    // Of a stranger the same header says nothing.
    let gateway = open_to_all()
        .with("server.trusted_proxies", "127.0.0.9")
        .start()
        .await;
    for way in Encoding::FALLBACKS {
        let request_id = way.route().trim_start_matches('/');
        let entry = gateway.entry(way, "topic=orders").from("192.0.2.1");
        let mut place = entry.header("X-Request-Id", request_id).enter().await;
        gateway.has_places_taken(1).await;
        gateway.publish("orders", "a").await;
        place.gets("a").await;
        drop(place);
        let fields = [("target", "access"), ("request_id", request_id)];
        assert_eq!(gateway.logged(&fields).await["address"], "127.0.0.1");
        gateway.has_places_taken(0).await;
    }
}

/// Who scans with made-up queries and paths fills no memory of Prometheus.
#[tokio::test]
async fn what_a_client_makes_up_makes_no_label() {
    let gateway = Gateway::start().await;
    for number in 0..10 {
        let mark = format!("made-up-{number}");
        gateway
            .poll(&format!("topic={mark}&wait=0s&x={mark}"))
            .answer()
            .await;
        gateway.get(&format!("/poll/{mark}")).await;
        gateway.get(&format!("/ws/{mark}")).await;
        let mut socket = gateway.ws(&format!("topic={mark}&x={mark}")).open().await;
        socket
            .send(serde_json::json!({"type": mark, "ref": mark}))
            .await;
        socket.expect("error").await;
        gateway
            .ask(Request::new("BREW", &format!("/ws?x={mark}")))
            .await;
    }
    gateway.has_places_taken(0).await;
    let page = gateway.get_admin("/metrics").await.text();
    assert!(!page.contains("made-up"), "{page}");
    assert!(!page.contains("BREW"), "{page}");
    let said = gateway.said();
    // A path that leads nowhere is logged, a query and a message are not.
    let lines = said.lines().filter(|line| line.contains("made-up"));
    for line in lines {
        assert!(
            line.contains("/poll/made-up") || line.contains("/ws/made-up"),
            "{line}"
        );
    }
}

/// Operators find a WebSocket as they find a stream.
#[tokio::test]
async fn a_websocket_is_listed_and_can_be_closed() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders,stock").await;
    let mut other = gateway.follow("orders").await;
    let newest = gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    assert_eq!(other.take(1).await, ["a"]);
    let list = gateway
        .get_admin("/admin/connections?topic=stock")
        .await
        .json();
    let connections = list["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 1, "{list}");
    assert_eq!(connections[0]["id"], socket.connection_id(), "{list}");
    assert_eq!(connections[0]["address"], "127.0.0.1", "{list}");
    let where_is = gateway.get_admin(&format!("/admin/events/{newest}")).await;
    assert_eq!(where_is.status(), 200, "{where_is:?}");
    let target = format!("/admin/connections/{}", socket.connection_id());
    let answer = gateway.ask_admin(Request::new("DELETE", &target)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    socket.closes(1012, "closed").await;
    gateway.has_places_taken(1).await;
    gateway.publish("orders", "b").await;
    assert_eq!(other.take(1).await, ["b"]);
}
