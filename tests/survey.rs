//! Operators see who is connected and how far each has come, and nobody else notices that they look.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{Gateway, H2Client, Request, Subscriber, eventually, id, quarters};

/// What `target` answers, as JSON.
async fn asked(gateway: &Gateway, target: &str) -> Value {
    let answer = gateway.get_admin(target).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

/// The open streams of a topic.
async fn connections(gateway: &Gateway, query: &str) -> Vec<Value> {
    let list = asked(gateway, &format!("/admin/connections?{query}")).await;
    list["connections"].as_array().unwrap().clone()
}

/// The same, once all of them have answered in time: who has not counts as behind.
async fn connections_that_answer(gateway: &Gateway, query: &str) -> Vec<Value> {
    eventually("all streams to answer in time", async || {
        let list = connections(gateway, query).await;
        let mut behind = list.iter().filter(|it| it["behind"] != false);
        match behind.next().map(ToString::to_string) {
            None => Ok(list),
            Some(behind) => Err(behind),
        }
    })
    .await
}

fn connection(reader: &Subscriber) -> String {
    let data = reader.open_data();
    data["connection"].as_str().unwrap().to_owned()
}

/// Far more than the buffers of a socket hold.
async fn fill(gateway: &Gateway, topic: &str) {
    let large = "x".repeat(60_000);
    let events = (0..60).map(|_| large.clone());
    gateway.publish_lines(topic, events).await;
}

#[tokio::test]
async fn each_stream_says_where_it_stands() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders,other").await;
    let quiet = gateway.subscribe("other").await;
    let last = gateway.publish_all("orders", ["a", "b", "c"]).await[2];
    reader.take(3).await;
    let list = connections_that_answer(&gateway, "").await;
    assert_eq!(list.len(), 2, "{list:?}");
    let first = &list[0];
    assert_eq!(first["id"], connection(&reader));
    assert_eq!(first["topics"], serde_json::json!(["orders", "other"]));
    assert_eq!(first["address"], "127.0.0.1");
    assert_eq!(first["transport"], "sse");
    assert_eq!(first["cursor"], last.to_string());
    assert_eq!(first["lag"], serde_json::json!({"events": 0, "ms": 0}));
    for member in ["opened", "last_write", "request_id"] {
        assert!(first[member].is_string(), "no {member}: {first}");
    }
    let only = connections(&gateway, "topic=orders&address=127.0.0.1").await;
    assert_eq!(only.len(), 1, "{only:?}");
    assert!(connections(&gateway, "address=192.0.2.1").await.is_empty());
    assert!(connections(&gateway, "subject=nobody").await.is_empty());
    let page = asked(&gateway, "/admin/connections?limit=1").await;
    assert_eq!(page["more"], true, "{page}");
    assert_eq!(page["connections"].as_array().unwrap().len(), 1);
    drop(quiet);
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_seen_with_its_lag() {
    let gateway = Gateway::start().await;
    let stuck = gateway.events("topic=orders").narrow().open().await;
    let mut reads = gateway.subscribe("orders").await;
    let begin = stuck.start();
    fill(&gateway, "orders").await;
    let mut last = begin;
    for _ in 0..60 {
        last = reads.next().await.id;
    }
    let seen = eventually("the stuck reader to be seen", async || {
        let list = connections(&gateway, "topic=orders").await;
        let behind: Vec<_> = list.iter().filter(|it| it["behind"] == true).collect();
        match behind.as_slice() {
            // The other one may not have answered in time.
            [behind] if behind["id"] == connection(&stuck) => Ok((*behind).clone()),
            _ => Err(format!("{list:?}")),
        }
    })
    .await;
    let cursor = id(seen["cursor"].as_str().unwrap());
    assert!(cursor >= begin && cursor < last, "{seen}");
    assert!(seen["lag"]["ms"].as_u64() > Some(0), "{seen}");
    let event = asked(&gateway, &format!("/admin/events/{last}")).await;
    let open = &event["open"];
    assert_eq!(open["past"], serde_json::json!([connection(&reads)]));
    assert_eq!(open["before"][0]["id"], connection(&stuck), "{event}");
    assert_eq!(open["before"][0]["behind"], true, "{event}");
}

/// There the library writes: a stream whose window is used up is not asked for more, and what it last said counts.
#[tokio::test]
async fn a_reader_on_http2_that_does_not_read_is_seen_as_it_last_was() {
    let gateway = Gateway::start().await;
    let mut client = H2Client::open(gateway.public).await;
    client.get("/events?topic=orders").await;
    client.data_until("$open").await;
    let first = gateway.publish("orders", "a").await;
    client.data_until("data: a").await;
    let reads = connections_that_answer(&gateway, "").await.remove(0);
    assert_eq!(reads["cursor"], first.to_string(), "{reads}");
    fill(&gateway, "orders").await;
    let seen = eventually("the stuck reader to be seen", async || {
        let one = connections(&gateway, "").await.remove(0);
        // One that has not answered in time counts as behind, wherever it stands.
        if one["behind"] == true && one["cursor"] != reads["cursor"] {
            Ok(one)
        } else {
            Err(one.to_string())
        }
    })
    .await;
    assert_eq!(seen["id"], reads["id"]);
    assert!(id(seen["cursor"].as_str().unwrap()) > first, "{seen}");
    assert!(seen["lag"]["ms"].as_u64() > Some(0), "{seen}");
}

/// A thousand streams answer at once, and an event for them takes no longer than without a survey.
#[tokio::test]
async fn a_survey_of_a_thousand_streams_disturbs_nobody() {
    const STREAMS: usize = 1_000;
    let gateway = Gateway::with("log.access", false).start().await;
    let mut readers = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS / 50 {
        let some = (0..50).map(|_| gateway.subscribe("orders"));
        readers.extend(futures_util::future::join_all(some).await);
    }
    let mut witness = gateway.subscribe("orders").await;
    let surveys = async {
        let mut took = Vec::new();
        for _ in 0..10 {
            let begun = Instant::now();
            let list = connections(&gateway, "limit=10000").await;
            took.push(begun.elapsed());
            assert_eq!(list.len(), STREAMS + 1);
        }
        quarters(2, took)
    };
    let events = async {
        let mut took = Vec::new();
        for number in 0..30 {
            let begun = Instant::now();
            let data = number.to_string();
            gateway.publish("quiet", &data).await;
            gateway.publish("orders", &data).await;
            assert_eq!(witness.next().await.data, data);
            took.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        quarters(2, took)
    };
    let (survey, event) = tokio::join!(surveys, events);
    assert!(survey < Duration::from_secs(3), "a survey took {survey:?}");
    assert!(event < Duration::from_secs(2), "an event took {event:?}");
    let list = connections_that_answer(&gateway, "limit=10000").await;
    assert_eq!(list.len(), STREAMS + 1);
    for reader in readers.iter_mut().step_by(100) {
        let wanted: Vec<String> = (0..30).map(|number| number.to_string()).collect();
        assert_eq!(reader.take(30).await, wanted, "in order, once");
    }
}

#[tokio::test]
async fn a_stream_that_is_closed_ends_politely_and_comes_back_where_it_was() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish("orders", "a").await;
    gateway.publish("other", "moves the cursor").await;
    assert_eq!(reader.take(1).await, ["a"]);
    let target = format!("/admin/connections/{}", connection(&reader));
    let answer = gateway.ask_admin(Request::new("DELETE", &target)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json()["closed"], true);
    reader.rest().await;
    assert!(reader.ended_whole());
    eventually("the connection to be gone", async || {
        let again = gateway.ask_admin(Request::new("DELETE", &target)).await;
        match again.status() {
            404 => Ok(()),
            _ => Err(again.text()),
        }
    })
    .await;
    // It is not listed any more before it is remembered.
    gateway.has_places_taken(0).await;
    gateway.publish("orders", "b").await;
    let mut back = gateway.resume("orders", reader.cursor()).await;
    assert_eq!(back.replay(), "complete");
    assert_eq!(back.take(1).await, ["b"]);
    let event = gateway.publish("orders", "c").await;
    let why = asked(&gateway, &format!("/admin/events/{event}")).await;
    let closed = &why["closed"][0];
    assert_eq!(closed["id"], connection(&reader), "{why}");
    assert_eq!(closed["reason"], "admin");
    assert_eq!(closed["past"], false);
    assert_eq!(why["open"]["not_subscribed"], 0, "{why}");
}

#[tokio::test]
async fn a_stuck_reader_is_closed_at_once() {
    let gateway = Gateway::start().await;
    let stuck = gateway.events("topic=orders").narrow().open().await;
    fill(&gateway, "orders").await;
    let target = format!("/admin/connections/{}", connection(&stuck));
    let answer = gateway.ask_admin(Request::new("DELETE", &target)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    gateway.has_open_streams(0).await;
}

#[tokio::test]
async fn a_survey_writes_nothing_to_anybody() {
    let gateway = Gateway::with("stream.keepalive", "60s").start().await;
    let mut reader = gateway.subscribe("orders").await;
    for _ in 0..5 {
        connections(&gateway, "").await;
    }
    reader.stays_silent().await;
}

/// What a stream was told of its token was told again whenever something was asked of any stream.
#[tokio::test]
async fn a_stream_whose_token_expires_is_told_once_however_often_one_looks() {
    const SECRET: &str = "a secret of more than thirty-two bytes";
    let gateway = Gateway::with("auth.jwt.secret", SECRET)
        .with("auth.expiry_notice", "10m")
        .start()
        .await;
    let expires = std::time::SystemTime::now() + Duration::from_mins(5);
    let expires = expires.duration_since(std::time::UNIX_EPOCH).unwrap();
    let claims = serde_json::json!({
        "exp": expires.as_secs(),
        "sub": "alice",
        "tidegate": { "subscribe": ["orders"] },
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let authorization = format!("Bearer {token}");
    let open = gateway
        .events("topic=orders")
        .header("Authorization", &authorization);
    let mut reader = open.open().await;
    reader.control("$auth_expiring").await;
    for _ in 0..5 {
        assert_eq!(connections(&gateway, "subject=alice").await.len(), 1);
    }
    reader.stays_silent().await;
}
