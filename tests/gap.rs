//! On every connect the client learns whether its resume was complete: told, not guessed.

use serde_json::Value;
use tidegate::event::EventId;

use crate::support::{Gateway, Subscriber, eventually, id, numbers};

fn is_gap(reader: &Subscriber, reason: &str, topics: &[&str]) -> Value {
    let data = reader.open_data();
    assert_eq!(data["replay"], "gap", "{data}");
    assert_eq!(data["reason"], reason, "{data}");
    assert_eq!(data["topics"], serde_json::json!(topics), "{data}");
    data
}

#[tokio::test]
async fn without_a_cursor_nothing_is_replayed() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish("orders", "a").await;
    let mut reader = gateway.subscribe("orders").await;
    assert_eq!(reader.replay(), "none");
    assert_eq!(reader.open_data().get("reason"), None);
    assert_eq!(reader.start(), newest, "the frontier");
    reader.stays_silent().await;
}

#[tokio::test]
async fn where_nothing_was_lost_the_replay_is_complete() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b"]).await;
    let mut reader = gateway.resume("orders", ids[0]).await;
    assert_eq!(reader.head.header("tidegate-replay"), Some("complete"));
    assert_eq!(reader.replay(), "complete");
    assert_eq!(reader.open_data().get("reason"), None);
    assert_eq!(reader.start(), ids[0]);
    reader.replays(["b"]).await;
}

/// The oldest five of ten are gone. Whoever had the fifth misses nothing, whoever had less is told.
#[tokio::test]
async fn what_retention_took_is_told_before_anything_newer() {
    let gateway = Gateway::with("retention.events", 5).start().await;
    let cursor = id(&gateway.subscribe("orders").await.cursor());
    let data = numbers(0..10);
    let ids = gateway
        .publish_all("orders", data.iter().map(String::as_str))
        .await;
    for (cursor, missed) in [(cursor, 5), (ids[0], 4), (ids[3], 1)] {
        let mut reader = gateway.resume("orders", cursor).await;
        let data = is_gap(&reader, "retention", &["orders"]);
        assert_eq!(reader.head.header("tidegate-replay"), Some("gap"));
        assert_eq!(reader.start(), cursor);
        if let Some(at_least) = data.get("missed_at_least") {
            let at_least = at_least.as_u64().unwrap();
            assert!((1..=missed).contains(&at_least), "{data}");
        }
        reader.replays(numbers(5..10)).await;
        let query = format!("topic=orders&lastEventId={cursor}");
        is_gap(
            &gateway.events(&query).open().await,
            "retention",
            &["orders"],
        );
    }
    for (at, cursor) in ids.iter().enumerate().skip(4) {
        let mut reader = gateway.resume("orders", cursor).await;
        assert_eq!(reader.replay(), "complete", "{at}");
        reader.replays(numbers(at + 1..10)).await;
    }
}

/// The same, with events that the tail in memory would still have: it never proves more than the store would keep.
#[tokio::test]
async fn retention_by_bytes_is_told_as_well() {
    let gateway = Gateway::with("retention.bytes", "10KiB").start().await;
    let mut live = gateway.subscribe("orders").await;
    let cursor = live.cursor();
    for _ in 0..10 {
        gateway.publish("orders", &"x".repeat(2_000)).await;
    }
    live.take(10).await;
    let mut reader = gateway.resume("orders", cursor).await;
    is_gap(&reader, "retention", &["orders"]);
    let kept = reader.replayed().await.len();
    assert!((4..=5).contains(&kept), "10 KiB hold {kept} of them");
}

/// The age of an event takes it away, too; the cursor that has seen it is complete all the same.
#[tokio::test]
async fn retention_by_age_is_told_only_to_those_who_miss_something() {
    let gateway = Gateway::with("retention.age", "300ms").start().await;
    let before = gateway.subscribe("orders").await.cursor();
    let last = gateway.publish("orders", "a").await;
    eventually("the event to age out", async || {
        let query = "topic=orders&lastEventId=earliest";
        match gateway.events(query).open().await.replayed().await {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        }
    })
    .await;
    let reader = gateway.resume("orders", &before).await;
    is_gap(&reader, "retention", &["orders"]);
    let reader = gateway.resume("orders", last).await;
    assert_eq!(reader.replay(), "complete");
    assert_eq!(reader.start(), last);
}

/// A cursor may be ever so old: if its own topics had nothing since, nothing is missing.
#[tokio::test]
async fn what_is_complete_is_never_a_gap_however_much_others_lost() {
    let gateway = Gateway::with("retention.events", 5)
        .with("retention.total_bytes", "64KiB")
        .start()
        .await;
    let cursor = gateway.publish("quiet", "a").await;
    let fresh = gateway.subscribe("never-used").await.cursor();
    for _ in 0..4 {
        let data = numbers(0..100);
        gateway
            .publish_all("busy", data.iter().map(String::as_str))
            .await;
    }
    assert_eq!(gateway.resume("quiet", cursor).await.replay(), "complete");
    let never = gateway.resume("never-used", &fresh).await;
    assert_eq!(never.replay(), "complete");
    let both = gateway.resume("quiet,busy", cursor).await;
    let data = both.open_data();
    assert_eq!(data["reason"], "retention");
    let topics = data["topics"].as_array().unwrap();
    assert!(
        topics.contains(&"busy".into()),
        "the topic that lost something is named: {data}"
    );
}

/// The memory store is born with the process: whatever the old one had is gone, and that is said.
#[tokio::test]
async fn a_restart_is_told_as_a_reset() {
    let old = Gateway::start().await;
    let cursor = old.publish("orders", "lost").await;
    old.stop(crate::support::PATIENCE).await;
    let gateway = Gateway::start().await;
    let first = gateway.publish_all("orders", ["a", "b"]).await[0];
    let mut reader = gateway.resume("orders", cursor).await;
    is_gap(&reader, "reset", &["orders"]);
    assert_eq!(reader.head.header("tidegate-replay"), Some("gap"));
    let birth = reader.start();
    assert!(cursor < birth && birth < first, "the birth: {birth}");
    reader.replays(["a", "b"]).await;
    let query = format!("topic=orders&lastEventId={cursor}");
    let by_query = gateway.events(&query).open().await;
    is_gap(&by_query, "reset", &["orders"]);
    assert_eq!(by_query.start(), birth, "a birth does not move");
    let again = gateway.resume("orders", birth).await;
    assert_eq!(again.replay(), "complete", "told once is enough");
}

/// A browser cannot repair its header, so it is never a 400.
#[tokio::test]
async fn a_header_that_cannot_be_read_is_a_gap_of_unknown_size() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish("orders", "a").await;
    let long = "9".repeat(10_000);
    for cursor in [
        "garbage",
        "é",
        "earliest?",
        "1",
        "1-",
        "-1",
        "1-2-3",
        "1732096800123-0, 1732096800123-1",
        "18446744073709551616-0",
        "\"1732096800123-0\"",
        long.as_str(),
    ] {
        let mut reader = gateway.resume("orders", cursor).await;
        is_gap(&reader, "unknown", &["orders"]);
        assert_eq!(reader.start(), newest, "the frontier: {cursor}");
        reader.stays_silent().await;
    }
}

#[tokio::test]
async fn a_cursor_from_the_future_is_a_gap_of_unknown_size() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish("orders", "a").await;
    let future = EventId::new(newest.ms() + 3_600_000, 0);
    for cursor in [newest.next(), future, EventId::MAX] {
        let by_header = gateway.resume("orders", cursor).await;
        let query = format!("topic=orders&lastEventId={cursor}");
        let by_query = gateway.events(&query).open().await;
        for mut reader in [by_header, by_query] {
            is_gap(&reader, "unknown", &["orders"]);
            assert_eq!(reader.start(), newest, "the frontier: {cursor}");
            reader.stays_silent().await;
        }
    }
    let mut reader = gateway.resume("orders", future).await;
    gateway.publish("orders", "b").await;
    assert_eq!(reader.take(1).await, ["b"], "it goes on from now");
}

/// The same connection goes on from the frontier after an unknown cursor; nothing after that is lost.
#[tokio::test]
async fn after_an_unknown_cursor_the_new_one_holds() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "a").await;
    let cursor = gateway.resume("orders", "garbage").await.cursor();
    gateway.publish("orders", "b").await;
    let mut reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["b"]).await;
}

#[tokio::test]
async fn asking_for_history_is_no_gap_however_little_is_left() {
    let gateway = Gateway::with("retention.events", 2).start().await;
    gateway.publish_all("orders", ["a", "b", "c", "d"]).await;
    for query in ["lastEventId=earliest", "since=1h", "last=4"] {
        let query = format!("topic=orders&{query}");
        let mut reader = gateway.events(&query).open().await;
        assert_eq!(reader.replay(), "none", "{query}");
        reader.replays(["c", "d"]).await;
    }
}

/// Reads events whose data begin with consecutive numbers, up to `last`, and checks that a gap is told exactly where some
/// of them are missing: by `$gap`, or by `$open` before the first one. Returns how many came.
async fn holes_are_told(reader: &mut Subscriber, first: usize, last: usize) -> usize {
    let mut told = reader.replay() == "gap";
    let (mut wanted, mut count) = (first, 0);
    while wanted <= last {
        let frame = reader.telling_frame().await;
        match frame.event.as_deref() {
            Some("$gap") => {
                assert_eq!(frame.id, None, "a gap does not move the cursor");
                let data: Value = serde_json::from_str(&frame.data.unwrap()).unwrap();
                assert_eq!(data["reason"], "retention", "{data}");
                assert_eq!(data["topics"], serde_json::json!(["orders"]), "{data}");
                told = true;
            }
            Some("$live") => {}
            Some(kind) => panic!("{kind}: {frame:?}"),
            None => {
                let data = frame.data.unwrap();
                let number = data.split(' ').next().unwrap().parse::<usize>().unwrap();
                assert!(number >= wanted, "{number} came after {wanted} was due");
                assert_eq!(
                    number > wanted,
                    told,
                    "told: {told}, and after {wanted} events comes {number}"
                );
                told = false;
                wanted = number + 1;
                count += 1;
            }
        }
    }
    count
}

/// Whoever returns in the very moment in which retention takes what it missed may learn of it from `$open` or, where this
/// replica comes to know it a little later, from `$gap`; but it learns of it, and before anything newer.
#[tokio::test]
async fn a_gap_that_opens_while_the_reader_returns_is_told_all_the_same() {
    const EACH: usize = 12;
    let gateway = Gateway::with("retention.events", 5).start().await;
    let mut cursor = gateway.subscribe("orders").await.cursor();
    for round in 0..80 {
        let first = round * EACH;
        let data = numbers(first..first + EACH);
        let ids = gateway
            .publish_all("orders", data.iter().map(String::as_str))
            .await;
        let mut reader = gateway.resume("orders", cursor).await;
        holes_are_told(&mut reader, first, first + EACH - 1).await;
        cursor = reader.cursor();
        assert_eq!(id(&cursor), ids[EACH - 1]);
    }
}

/// Retention does not wait for a reader that does not read; when it reads on, the hole is told where it is.
#[tokio::test]
async fn retention_that_overtakes_a_connected_reader_is_told_in_the_stream() {
    const EVENTS: usize = 600;
    let gateway = Gateway::with("retention.events", 20)
        .with("tail.events", 20)
        .start()
        .await;
    let mut reader = gateway.events("topic=orders").narrow().open().await;
    let large = "x".repeat(60_000);
    let data = (0..EVENTS).map(|number| format!("{number} {large}"));
    gateway.publish_lines("orders", data).await;
    let came = holes_are_told(&mut reader, 0, EVENTS - 1).await;
    assert!(came < EVENTS, "the test wants a hole");
}

/// A page that somebody had read before retention went on used to be taken for proof: the verdict was `complete`, and the
/// hole came as a `$gap` in the middle.
#[tokio::test]
async fn what_was_read_before_retention_went_on_proves_nothing() {
    let gateway = Gateway::with("retention.events", 5).start().await;
    let ids = gateway.publish_all("orders", ["0", "1", "2"]).await;
    let mut early = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    early.replays(["0", "1", "2"]).await;
    let data = numbers(3..12);
    gateway
        .publish_all("orders", data.iter().map(String::as_str))
        .await;
    let mut reader = gateway.resume("orders", ids[0]).await;
    is_gap(&reader, "retention", &["orders"]);
    reader.replays(numbers(7..12)).await;
}
