//! A finished topic is told, its streams close, and a browser that has everything is told to stop.

use serde_json::json;
use tidegate::event::EventId;

use crate::support::{Gateway, Request, Subscriber, id};

/// Reads `$end` of `topic`, and returns its id.
async fn end_of(reader: &mut Subscriber, topic: &str) -> EventId {
    let end = reader.control("$end").await;
    let data: serde_json::Value = serde_json::from_str(end.data.as_deref().unwrap()).unwrap();
    assert_eq!(data["topic"], topic, "{end:?}");
    id(end.id.as_deref().unwrap())
}

#[tokio::test]
async fn its_streams_get_the_last_event_then_the_end_and_close() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish("orders", "a").await;
    let last = gateway.finish("orders", Some("last")).await;
    assert_eq!(reader.take(2).await, ["a", "last"]);
    assert_eq!(id(&reader.cursor()), last);
    let end = end_of(&mut reader, "orders").await;
    assert!(end > last, "the end has an id of its own");
    assert!(reader.rest().await.is_empty());
    gateway.has_open_streams(0).await;
}

#[tokio::test]
async fn a_topic_may_end_without_a_last_event() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish("orders", "a").await;
    let answered = gateway.finish("orders", None).await;
    assert_eq!(reader.take(1).await, ["a"]);
    assert_eq!(end_of(&mut reader, "orders").await, answered);
    assert!(reader.rest().await.is_empty());
}

/// 204 tells `EventSource` to stop. A query does not change when the browser reconnects, so it is answered with a stream.
#[tokio::test]
async fn only_a_header_at_or_after_the_end_is_told_to_stop() {
    let gateway = Gateway::start().await;
    let first = gateway.publish("orders", "a").await;
    let last = gateway.finish("orders", Some("last")).await;
    let mut reader = gateway.resume("orders", last).await;
    let end = end_of(&mut reader, "orders").await;
    let later = gateway.publish("other", "b").await;
    for cursor in [end, later] {
        let request =
            Request::get("/events?topic=orders").header("Last-Event-ID", &cursor.to_string());
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status(), 204, "{cursor}: {answer:?}");
        let mut reader = gateway
            .events(&format!("topic=orders&lastEventId={cursor}"))
            .open()
            .await;
        assert_eq!(reader.replay(), "complete");
        end_of(&mut reader, "orders").await;
        assert!(reader.rest().await.is_empty(), "$open, $end, close");
    }
    let request = Request::get(&format!("/events?topic=orders&lastEventId={first}"))
        .header("Last-Event-ID", &end.to_string());
    assert_eq!(gateway.ask(request).await.status(), 204, "the header wins");
}

#[tokio::test]
async fn without_a_cursor_a_finished_topic_opens_and_ends() {
    let gateway = Gateway::start().await;
    gateway.finish("orders", Some("last")).await;
    let mut reader = gateway.subscribe("orders").await;
    assert_eq!(reader.replay(), "none");
    end_of(&mut reader, "orders").await;
    assert!(reader.rest().await.is_empty());
}

#[tokio::test]
async fn who_comes_back_before_the_end_gets_the_rest_and_the_end() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b"]).await;
    gateway.finish("orders", Some("last")).await;
    let by_header = gateway.resume("orders", ids[0]).await;
    let by_query = gateway
        .events(&format!("topic=orders&lastEventId={}", ids[0]))
        .open()
        .await;
    for mut reader in [by_header, by_query] {
        assert_eq!(reader.replay(), "complete");
        assert_eq!(reader.take(2).await, ["b", "last"]);
        the_end_alone(&mut reader).await;
    }
}

/// Nothing but `$end` is left, and its id is returned. Whether `$live` is said before the end is left open.
async fn the_end_alone(reader: &mut Subscriber) -> EventId {
    let mut frames = reader.rest().await;
    frames.retain(|frame| frame.event.as_deref() != Some("$live"));
    let [end] = frames.as_slice() else {
        panic!("wanted $end alone: {frames:?}")
    };
    assert_eq!(end.event.as_deref(), Some("$end"));
    assert_eq!(end.data.as_deref(), Some(r#"{"topic":"orders"}"#));
    id(end.id.as_deref().unwrap())
}

/// A resume from `$open`'s id of a stream that was dropped before the end.
#[tokio::test]
async fn the_cursor_of_an_open_stream_is_before_the_end() {
    let gateway = Gateway::start().await;
    let cursor = gateway.subscribe("orders").await.cursor();
    let end = gateway.finish("orders", None).await;
    let mut reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    assert_eq!(the_end_alone(&mut reader).await, end);
}

#[tokio::test]
async fn a_finished_topic_takes_no_more_events() {
    let gateway = Gateway::start().await;
    gateway.finish("orders", Some("last")).await;
    for item in [
        json!({"topic": "orders", "data": "more"}),
        json!({"topic": "orders", "end": true}),
    ] {
        gateway
            .post(item.to_string())
            .await
            .refuses(409, "topic_finished");
    }
    let batch = json!([{"topic": "orders", "data": "more"}, {"topic": "other", "data": "b"}]);
    let answer = gateway.post(batch.to_string()).await;
    assert_eq!(answer.status(), 207);
    let json = answer.json();
    assert_eq!(json["results"][0]["error"]["code"], "topic_finished");
    assert!(json["results"][1]["id"].is_string(), "{json}");
    let mut reader = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    assert_eq!(reader.take(1).await, ["last"]);
}

#[tokio::test]
async fn a_stream_of_several_topics_closes_when_all_have_ended() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("a,b").await;
    gateway.finish("a", Some("last of a")).await;
    assert_eq!(reader.take(1).await, ["last of a"]);
    let end_of_a = end_of(&mut reader, "a").await;
    gateway.publish("b", "still here").await;
    assert_eq!(reader.take(1).await, ["still here"]);
    let cursor = reader.cursor();
    gateway.finish("b", None).await;
    let end_of_b = end_of(&mut reader, "b").await;
    assert!(end_of_b > end_of_a);
    assert!(reader.rest().await.is_empty());
    // Between the ends there is something left to say, after both there is not.
    let mut again = gateway.resume("a,b", cursor).await;
    let frames = again.rest().await;
    let last = frames.last().unwrap();
    assert_eq!(last.event.as_deref(), Some("$end"), "{frames:?}");
    assert_eq!(last.data.as_deref(), Some(r#"{"topic":"b"}"#));
    let head = |topics: &str, cursor: EventId| {
        Request::get(&format!("/events?topic={topics}"))
            .header("Last-Event-ID", &cursor.to_string())
    };
    assert_eq!(gateway.ask(head("a,b", end_of_b)).await.status(), 204);
    assert_eq!(gateway.ask(head("a", end_of_a)).await.status(), 204);
    let open = gateway.resume("a,b,c", end_of_b).await;
    assert_eq!(open.replay(), "complete", "one topic is not finished");
}

/// The end counts neither for `last` nor for retention, and outlives the events.
#[tokio::test]
async fn the_end_is_no_event() {
    let gateway = Gateway::with("retention.events", 2).start().await;
    gateway.publish_all("orders", ["a", "b"]).await;
    gateway.finish("orders", None).await;
    let mut reader = gateway.events("topic=orders&last=1").open().await;
    assert_eq!(reader.take(1).await, ["b"]);
    let mut reader = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    assert_eq!(reader.take(2).await, ["a", "b"]);
}

#[tokio::test]
async fn other_topics_go_on() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("other").await;
    gateway.finish("orders", Some("last")).await;
    gateway.publish("other", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    reader.stays_silent().await;
}
