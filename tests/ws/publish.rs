//! An event that is published over the connection is one as any other: acknowledged is stored.

use serde_json::{Value, json};

use crate::support::{Gateway, Settings, id, numbers};

fn publish(mut item: Value) -> Value {
    item["type"] = "publish".into();
    item["ref"] = "p".into();
    item
}

#[tokio::test]
async fn the_ack_has_the_id_that_everybody_sees() {
    let gateway = Gateway::start().await;
    let mut publisher = gateway.follow("elsewhere").await;
    let mut socket = gateway.follow("orders").await;
    let mut reader = gateway.subscribe("orders").await;
    for data in ["a", "b", "c"] {
        let acknowledged = publisher.publish("orders", data).await;
        let came = socket.next().await;
        assert_eq!((came.id, came.data.as_str()), (acknowledged, data));
        assert_eq!(reader.next().await.id, acknowledged);
    }
}

#[tokio::test]
async fn who_follows_a_topic_gets_what_it_publishes_there_once() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for number in 0..100 {
        let item = json!({ "topic": "orders", "data": number.to_string() });
        socket.send(publish(item)).await;
    }
    let (mut acknowledged, mut came) = (Vec::new(), Vec::new());
    while acknowledged.len() + came.len() < 200 {
        let message = socket.telling().await;
        let event = id(message["id"].as_str().unwrap());
        match message["type"].as_str() {
            Some("ack") => acknowledged.push(event),
            Some("event") => came.push(event),
            _ => panic!("{message}"),
        }
    }
    assert_eq!(acknowledged, came);
    assert!(came.is_sorted());
    socket.stays_silent().await;
}

#[tokio::test]
async fn an_item_is_what_it_is_over_http() {
    let gateway = Gateway::start().await;
    let mut publisher = gateway.follow("elsewhere").await;
    let mut socket = gateway.follow("orders").await;
    for (item, kind, data) in [
        (json!({ "data": "text" }), "message", "text"),
        (json!({ "data": "" }), "message", ""),
        (json!({}), "message", ""),
        (
            json!({ "event": "created", "data": "a\r\nb\u{0}" }),
            "created",
            "a\r\nb\u{0}",
        ),
        (
            json!({ "data": { "order": [1, 2.5, null] } }),
            "message",
            r#"{"order":[1,2.5,null]}"#,
        ),
        (json!({ "data": null }), "message", "null"),
        (
            json!({ "data": 7, "event": null, "key": null }),
            "message",
            "7",
        ),
        (
            json!({ "data": "x".repeat(64 * 1024) }),
            "message",
            &"x".repeat(64 * 1024),
        ),
    ] {
        let mut item = item;
        item["topic"] = "orders".into();
        publisher.send(publish(item.clone())).await;
        let ack = publisher.expect("ack").await;
        let came = socket.next().await;
        assert_eq!(ack["id"], came.id.to_string());
        assert_eq!((came.event.as_str(), came.data.as_str()), (kind, data));
    }
    // Numbers and the order of members stay as they were written.
    publisher
        .send_text(r#"{"data": {"b": 1.0, "a": 12345678901234567890123}, "topic": "orders", "type": "publish"}"#)
        .await;
    let ack = publisher.expect("ack").await;
    assert_eq!(ack.get("ref"), None, "there was none: {ack}");
    assert_eq!(
        socket.take(1).await,
        [r#"{"b":1.0,"a":12345678901234567890123}"#]
    );
}

#[tokio::test]
async fn a_key_makes_a_repetition_safe() {
    let gateway = Gateway::start().await;
    let mut publisher = gateway.follow("elsewhere").await;
    let mut socket = gateway.follow("orders").await;
    let item = |data: &str| publish(json!({ "topic": "orders", "data": data, "key": "k-1" }));
    let first = publisher.ask(item("a")).await;
    assert_eq!(first["type"], "ack", "{first}");
    assert_eq!(first.get("duplicate"), None, "{first}");
    let again = publisher.ask(item("a")).await;
    assert_eq!(
        again,
        json!({ "type": "ack", "ref": "p", "id": first["id"], "duplicate": true })
    );
    publisher.send(item("b")).await;
    let error = publisher.error("idempotency_mismatch").await;
    assert_eq!(error["ref"], "p", "{error}");
    // Whichever way it comes.
    let body = json!({ "topic": "orders", "data": "a", "key": "k-1" });
    let answer = gateway.post(body.to_string()).await.json();
    assert_eq!(
        (&answer["id"], &answer["duplicate"]),
        (&first["id"], &json!(true))
    );
    // After a reconnect too.
    drop(publisher);
    let mut publisher = gateway.follow("elsewhere").await;
    let again = publisher.ask(item("a")).await;
    assert_eq!(
        (&again["id"], &again["duplicate"]),
        (&first["id"], &json!(true))
    );
    assert_eq!(socket.take(1).await, ["a"]);
    socket.stays_silent().await;
}

#[tokio::test]
async fn a_topic_is_ended_by_a_publish() {
    let gateway = Gateway::start().await;
    let mut publisher = gateway.follow("elsewhere").await;
    let mut socket = gateway.follow("orders").await;
    let item = json!({ "topic": "orders", "data": "last", "end": true });
    let ack = publisher.ask(publish(item)).await;
    let came = socket.next().await;
    assert_eq!(
        (ack["id"].clone(), came.data.as_str()),
        (json!(came.id.to_string()), "last")
    );
    socket.expect("end").await;
    socket.closes(1000, "finished").await;
    let item = json!({ "topic": "orders", "data": "later" });
    publisher.send(publish(item)).await;
    publisher.error("topic_finished").await;
    publisher.is_open().await;
}

#[tokio::test]
async fn what_cannot_be_stored_is_an_error_and_the_connection_goes_on() {
    let gateway = Gateway::with("limits.event_bytes", "1KiB").start().await;
    let mut socket = gateway.follow("orders").await;
    let long = "x".repeat(256);
    for (item, code) in [
        (json!({ "data": "a" }), "topic_missing"),
        (json!({ "topic": null, "data": "a" }), "topic_missing"),
        (json!({ "topic": "$x", "data": "a" }), "topic_invalid"),
        (json!({ "topic": "", "data": "a" }), "topic_invalid"),
        (json!({ "topic": "a b", "data": "a" }), "topic_invalid"),
        (json!({ "topic": long, "data": "a" }), "topic_invalid"),
        (
            json!({ "topic": "orders", "event": "$open" }),
            "type_invalid",
        ),
        (
            json!({ "topic": "orders", "event": "a\nb" }),
            "type_invalid",
        ),
        (json!({ "topic": "orders", "event": "" }), "type_invalid"),
        (
            json!({ "topic": "orders", "data": "x".repeat(1_025) }),
            "event_too_large",
        ),
        (
            json!({ "topic": "orders", "data": "a", "key": "" }),
            "idempotency_invalid",
        ),
        (
            json!({ "topic": "orders", "data": "a", "key": "ä" }),
            "idempotency_invalid",
        ),
        (
            json!({ "topic": "orders", "data": "a", "key": "k".repeat(256) }),
            "idempotency_invalid",
        ),
    ] {
        // What POST /publish says of it is the measure.
        gateway.post(item.to_string()).await.problem();
        socket.send(publish(item)).await;
        let error = socket.error(code).await;
        assert_eq!(error["ref"], "p", "{error}");
        assert_eq!(
            error.get("retry_after"),
            None,
            "nothing to wait for: {error}"
        );
    }
    for item in [
        json!({ "topic": 1, "data": "a" }),
        json!({ "topic": ["orders"], "data": "a" }),
        json!({ "topic": "orders", "event": 1 }),
        json!({ "topic": "orders", "end": "yes" }),
        json!({ "topic": "orders", "key": 5 }),
        json!({ "topic": "orders", "dat": "a" }),
    ] {
        socket.send(publish(item)).await;
        let error = socket.expect("error").await;
        assert_eq!(error["ref"], "p", "{error}");
    }
    gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"], "nothing of that was stored");
}

/// None waits for the answer to another, and each is answered.
#[tokio::test]
async fn many_are_acknowledged_in_order() {
    const EVENTS: usize = 2_000;
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("elsewhere").await;
    let mut before = None;
    for piece in numbers(0..EVENTS).chunks(100) {
        for data in piece {
            let message =
                json!({ "type": "publish", "ref": data, "topic": "orders", "data": data });
            socket.send(message).await;
        }
        for data in piece {
            let ack = socket.expect("ack").await;
            assert_eq!(ack["ref"], *data, "{ack}");
            let published = Some(id(ack["id"].as_str().unwrap()));
            assert!(published > before, "{ack}");
            before = published;
        }
    }
    let mut reader = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    reader.replays(numbers(0..EVENTS)).await;
}

/// Served to everybody, so that the rules of development mode do not hold.
fn open_to_all() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish")
}

#[tokio::test]
async fn a_publish_counts_for_the_rate_of_publishing() {
    let gateway = open_to_all()
        .with("limits.rate.publish", "1/h burst 2")
        .start()
        .await;
    let mut socket = gateway.follow("elsewhere").await;
    socket.publish("orders", "a").await;
    gateway.publish("orders", "over HTTP").await;
    let item = json!({ "topic": "orders", "data": "b" });
    socket.send(publish(item)).await;
    let error = socket.error("rate_limited").await;
    assert_eq!(error["ref"], "p", "{error}");
    assert!(error["retry_after"].as_u64() > Some(0), "{error}");
    // It is the publishing that is limited, not what else it does.
    socket.subscribe(&["orders"]).await;
    socket.is_open().await;
}
