//! Events of one topic reach a connection in the order of their ids.

use std::collections::BTreeMap;

use tidegate::event::EventId;

use crate::support::{Connection, Gateway, Published, Request, id, numbers};

fn in_order(events: &[Published]) -> bool {
    events.is_sorted_by(|a, b| a.id < b.id)
}

#[tokio::test]
async fn events_come_in_the_order_in_which_they_were_published() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let mut ids = Vec::new();
    for data in ["a", "b", "c"] {
        ids.push(gateway.publish("orders", data).await);
    }
    for (wanted, data) in ids.into_iter().zip(["a", "b", "c"]) {
        let event = reader.next().await;
        assert_eq!((event.id, event.data.as_str()), (wanted, data));
    }
}

#[tokio::test]
async fn a_batch_and_a_stream_of_lines_keep_their_order() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let data = numbers(0..1_000);
    let ids = gateway
        .publish_all("orders", data.iter().map(String::as_str))
        .await;
    assert!(ids.is_sorted_by(|a, b| a < b), "results are in order");
    gateway.publish_lines("orders", numbers(1_000..2_000)).await;
    assert_eq!(reader.take(2_000).await, numbers(0..2_000));
}

/// Many publishers at once: what each of them sent keeps its order, ids rise, and all readers see the same.
#[tokio::test]
async fn publishers_at_once_make_one_order_for_everybody() {
    const PUBLISHERS: usize = 8;
    const EACH: usize = 50;
    let gateway = Gateway::start().await;
    let mut first = gateway.subscribe("orders").await;
    let mut second = gateway.subscribe("orders").await;
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let address = gateway.public;
        publishers.spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut last = EventId::ZERO;
            for number in 0..EACH {
                let body = format!(r#"{{"topic":"orders","data":"{publisher} {number}"}}"#);
                let answer = connection.ask(&Request::publish(body)).await;
                assert_eq!(answer.status(), 200, "{answer:?}");
                let stored = id(answer.json()["id"].as_str().unwrap());
                assert!(stored > last, "ids of one publisher rise");
                last = stored;
            }
        });
    }
    publishers.join_all().await;
    let mut events = Vec::new();
    for _ in 0..PUBLISHERS * EACH {
        events.push(first.next().await);
    }
    assert!(in_order(&events), "{events:?}");
    let mut of_each: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for event in &events {
        let (publisher, number) = event.data.split_once(' ').unwrap();
        of_each
            .entry(publisher)
            .or_default()
            .push(number.parse().unwrap());
    }
    assert_eq!(of_each.len(), PUBLISHERS);
    for numbers in of_each.values() {
        assert_eq!(*numbers, (0..EACH).collect::<Vec<_>>());
    }
    for event in &events {
        assert_eq!(second.next().await, *event);
    }
}

/// One cursor stands for all topics, so it may not go back when topics mix.
#[tokio::test]
async fn many_topics_are_merged_in_the_order_of_their_ids() {
    let gateway = Gateway::start().await;
    let mut live = gateway.subscribe("a,b,c").await;
    let mut stored = Vec::new();
    for number in 0..90 {
        let topic = ["a", "b", "c"][number % 3];
        stored.push(gateway.publish(topic, &number.to_string()).await);
    }
    let mut replay = gateway
        .events("topic=c&topic=a&topic=b&lastEventId=earliest")
        .open()
        .await;
    for (number, wanted) in stored.into_iter().enumerate() {
        for reader in [&mut live, &mut replay] {
            let event = reader.next().await;
            assert_eq!(event.id, wanted);
            assert_eq!(event.data, number.to_string());
            assert_eq!(event.topic.as_deref(), Some(["a", "b", "c"][number % 3]));
        }
    }
}

#[tokio::test]
async fn a_topic_named_twice_is_followed_once() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.events("topic=a,b&topic=a&topic=b").open().await;
    gateway.publish("a", "1").await;
    gateway.publish("b", "2").await;
    assert_eq!(reader.take(2).await, ["1", "2"]);
    reader.stays_silent().await;
}

#[tokio::test]
async fn only_the_topics_that_were_asked_for_come() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let mut nobody_named_it = gateway.events("").open().await;
    gateway.publish("orders/eu", "no").await;
    gateway.publish("order", "no").await;
    gateway.publish("default", "for those who name none").await;
    gateway.publish("orders", "yes").await;
    assert_eq!(reader.take(1).await, ["yes"]);
    assert_eq!(nobody_named_it.take(1).await, ["for those who name none"]);
}
