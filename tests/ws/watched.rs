//! Operators see a WebSocket as they see a stream: how many, whose, how far, and why it ended.

use serde_json::{Value, json};

use crate::support::{Gateway, eventually, sorted};

async fn connections(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway
        .get_admin(&format!("/admin/connections{query}"))
        .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()["connections"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_websocket_takes_a_place_and_is_no_sse_stream() {
    let gateway = Gateway::start().await;
    let first = gateway.follow("orders").await;
    let _second = gateway.follow("orders").await;
    let _reader = gateway.subscribe("orders").await;
    gateway.has_places_taken(3).await;
    gateway.has_open_streams(1).await;
    gateway
        .counts("tidegate_ws_active_connections", &[], 2)
        .await;
    drop(first);
    gateway.has_places_taken(2).await;
    gateway.has_open_streams(1).await;
}

#[tokio::test]
async fn the_stats_count_it() {
    let gateway = Gateway::start().await;
    let before = gateway.get_admin("/stats").await.json();
    let _socket = gateway.follow("orders").await;
    let after = gateway.get_admin("/stats").await.json();
    assert_ne!(before["connections"], after["connections"], "{after}");
}

#[tokio::test]
async fn it_is_listed_with_where_it_is() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders,stock").await;
    let reader = gateway.subscribe("other").await;
    let newest = gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    let all = connections(&gateway, "").await;
    assert_eq!(all.len(), 2, "{all:?}");
    // A stream that does not say within 200 ms where it is is listed with where it was.
    let one = eventually("it to be listed with where it is", async || {
        let listed = connections(&gateway, "?topic=stock").await;
        let [one] = listed.as_slice() else {
            panic!("{listed:?}")
        };
        if one["cursor"] == newest.to_string() {
            Ok(one.clone())
        } else {
            Err(one.to_string())
        }
    })
    .await;
    assert_eq!(one["id"], socket.connection_id(), "{one}");
    assert_eq!(one["transport"], "ws", "{one}");
    assert_eq!(one["address"], "127.0.0.1", "{one}");
    assert_eq!(sorted(&one["topics"]), ["orders", "stock"], "{one}");
    assert_eq!(one["lag"], json!({ "events": 0, "ms": 0 }), "{one}");
    assert_eq!(
        one["request_id"].as_str(),
        socket.head.header("x-request-id"),
        "{one}"
    );
    drop((socket, reader));
    eventually("nobody to be listed", async || {
        match connections(&gateway, "").await {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn topics_that_come_and_go_are_seen() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    socket.subscribe(&["stock", "prices"]).await;
    socket.unsubscribe(&["orders", "prices"]).await;
    let followed = connections(&gateway, "").await[0]["topics"].clone();
    assert_eq!(sorted(&followed), ["stock"], "{followed}");
    assert_eq!(
        connections(&gateway, "?topic=orders").await,
        [] as [Value; 0]
    );
    assert_eq!(connections(&gateway, "?topic=stock").await.len(), 1);
    for (topic, subscribers) in [("stock", 1), ("orders", 0)] {
        let answer = gateway.get_admin(&format!("/admin/topics/{topic}")).await;
        if answer.status() == 200 {
            assert_eq!(answer.json()["subscribers"], subscribers, "{answer:?}");
        } else {
            assert_eq!(subscribers, 0, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn the_access_log_has_its_beginning_and_its_end() {
    let gateway = Gateway::start().await;
    let handshake = gateway.ws("topic=orders").header("X-Request-Id", "it-1");
    let mut socket = handshake.open().await;
    assert_eq!(socket.head.header("x-request-id"), Some("it-1"));
    gateway.publish_all("orders", ["a", "b"]).await;
    assert_eq!(socket.take(2).await, ["a", "b"]);
    gateway.finish("orders", None).await;
    socket.expect("end").await;
    socket.closes(1000, "finished").await;
    let request = [
        ("target", "access"),
        ("message", "request"),
        ("request_id", "it-1"),
    ];
    let line = gateway.logged(&request).await;
    assert_eq!(line["route"], "/ws", "{line}");
    assert_eq!(line["status"], 101, "{line}");
    assert_eq!(line["method"], "GET", "{line}");
    let ended = [("target", "access"), ("message", "stream ended")];
    let line = gateway.logged(&ended).await;
    assert_eq!(line["request_id"], "it-1", "{line}");
    assert_eq!(line["connection"], socket.connection_id(), "{line}");
    assert_eq!(line["reason"], "finished", "{line}");
    assert_eq!(line["events"], 2, "{line}");
    assert!(line["bytes"].as_u64() > Some(0), "{line}");
    assert_eq!(gateway.times_logged(&ended), 1, "it ends once");
}

#[tokio::test]
async fn how_it_ended_is_counted() {
    let gateway = Gateway::start().await;
    let count = async |reason: &str, wanted: u32| {
        let label = format!("reason=\"{reason}\"");
        let name = "tidegate_streams_closed_total";
        gateway.counts(name, &[&label], wanted).await;
    };
    drop(gateway.follow("orders").await);
    count("gone", 1).await;
    let mut socket = gateway.follow("orders").await;
    gateway.finish("orders", None).await;
    socket.expect("end").await;
    socket.closes(1000, "finished").await;
    count("finished", 1).await;
}

#[tokio::test]
async fn what_it_is_sent_is_counted() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    gateway.publish_all("orders", ["a", "b", "c"]).await;
    assert_eq!(socket.take(3).await, ["a", "b", "c"]);
    let name = "tidegate_events_delivered_total";
    gateway.counts(name, &[], 3).await;
    let bytes = gateway.counted("tidegate_delivered_bytes_total", &[]).await;
    assert!(bytes > 0.0, "{bytes}");
    socket.publish("stock", "d").await;
    let published = "tidegate_events_published_total";
    gateway.counts(published, &[], 4).await;
}

/// Where an event is is asked by its id; a WebSocket that is past it is named.
#[tokio::test]
async fn an_operator_sees_whether_an_event_was_written_to_it() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let other = gateway.follow("other").await;
    let published = gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
    let target = format!("/admin/events/{published}");
    // A stream that does not say within 200 ms where it is counts as where it was.
    let answer = eventually("it to be past the event", async || {
        let answer = gateway.get_admin(&target).await.json();
        if answer["open"]["past"] == json!([socket.connection_id()]) {
            Ok(answer)
        } else {
            Err(answer.to_string())
        }
    })
    .await;
    assert_eq!(answer["open"]["not_subscribed"], 1, "{answer}");
    drop(other);
}
