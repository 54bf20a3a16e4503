//! Nobody slows anybody: a reader that does not read costs the others nothing, and is closed in the end.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Gateway, quarters};

const EVENTS: usize = 250;

/// Far more than the buffers of a socket hold.
fn large_events() -> impl Iterator<Item = String> {
    let large = "x".repeat(60_000);
    (0..EVENTS).map(move |number| format!("{number} {large}"))
}

fn number(data: &str) -> usize {
    data.split_once(' ').unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn others_get_their_events_while_one_does_not_read() {
    let gateway = Gateway::start().await;
    let stuck = gateway.events("topic=orders").narrow().open().await;
    let mut reads = gateway.subscribe("orders").await;
    gateway.publish_lines("orders", large_events()).await;
    for wanted in 0..EVENTS {
        assert_eq!(number(&reads.next().await.data), wanted);
    }
    gateway.has_open_streams(2).await;
    // Now that its connection is full, an event for the others takes no longer than it would without it.
    let mut took = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        gateway.publish("orders", "0 small").await;
        reads.next().await;
        took.push(begun.elapsed());
    }
    let took = quarters(3, took);
    assert!(took < Duration::from_secs(1), "{took:?}");
    drop(stuck);
}

/// Closed after `stream.write_timeout` without progress; it comes back with its cursor, and has lost nothing.
#[tokio::test]
async fn a_reader_that_does_not_read_is_closed_and_can_resume() {
    // Long enough for a reader that reads to stand still for a moment.
    let gateway = Gateway::with("stream.write_timeout", "3s").start().await;
    let mut stuck = gateway.events("topic=orders").narrow().open().await;
    let mut reads = gateway.subscribe("orders").await;
    let begun = Instant::now();
    tokio::join!(
        gateway.publish_lines("orders", large_events()),
        reads.take(EVENTS)
    );
    // However long publishing took: what it has not taken by now it has that time to take.
    gateway.has_open_streams(1).await;
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(2_900), "closed after {took:?}");
    // What had been sent before can still be read.
    let before: Vec<usize> = stuck
        .rest_until_cut()
        .await
        .iter()
        .filter_map(|frame| Some(number(frame.data.as_deref()?)))
        .collect();
    assert!(!stuck.ended_whole(), "it was cut, not ended");
    assert!(before.len() < EVENTS, "the test wants a cut");
    assert_eq!(before, (0..before.len()).collect::<Vec<_>>());
    let mut again = gateway.resume("orders", stuck.cursor()).await;
    assert_eq!(again.replay(), "complete");
    for wanted in before.len()..EVENTS {
        assert_eq!(number(&again.next().await.data), wanted);
    }
    gateway.has_open_streams(2).await;
}

/// Slow is not stuck: who makes progress stays, however long it takes in all.
#[tokio::test]
async fn a_slow_reader_is_not_closed() {
    const SLOW: usize = 60;
    let gateway = Gateway::with("stream.write_timeout", "2s").start().await;
    let mut slow = gateway.events("topic=orders").narrow().open().await;
    let begun = Instant::now();
    let reading = async {
        for wanted in 0..SLOW {
            assert_eq!(number(&slow.next().await.data), wanted);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    tokio::join!(
        gateway.publish_lines("orders", large_events().take(SLOW)),
        reading
    );
    assert!(begun.elapsed() > Duration::from_secs(3));
}

/// A quiet stream makes no progress either, and is no stuck reader.
#[tokio::test]
async fn a_reader_of_a_quiet_topic_is_not_closed() {
    let gateway = Gateway::with("stream.write_timeout", "300ms").start().await;
    let mut reader = gateway.subscribe("orders").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gateway.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
}
