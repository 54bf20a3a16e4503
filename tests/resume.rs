//! A client that comes back with the last id it saw gets every retained event after it, once.

use std::time::Duration;

use tidegate::event::EventId;
use tokio::time::sleep;

use crate::support::{Gateway, Request, Subscription, id, numbers};

/// Whoever returns with the last id it saw gets every later event, once and in order.
#[tokio::test]
async fn a_returning_subscriber_misses_nothing() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish_all("orders", ["a", "b"]).await;
    let last = reader.next().await.id;
    drop(reader);
    gateway.publish("orders", "c").await;
    let mut reader = gateway.resume("orders", last).await;
    assert_eq!(reader.replay(), "complete");
    assert_eq!(reader.start(), last);
    assert_eq!(reader.take(2).await, ["b", "c"]);
    reader.stays_silent().await;
}

/// The browser holds the cursor of `$open` from the first moment.
#[tokio::test]
async fn who_drops_before_the_first_event_misses_nothing() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "before").await;
    let reader = gateway.subscribe("orders").await;
    assert_eq!(reader.replay(), "none");
    let cursor = reader.cursor();
    drop(reader);
    gateway.publish_all("orders", ["a", "b"]).await;
    let mut reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["a", "b"]).await;
}

/// Also where nothing has ever been published.
#[tokio::test]
async fn the_cursor_of_an_empty_log_resumes_it() {
    let gateway = Gateway::start().await;
    let cursor = gateway.subscribe("orders").await.cursor();
    let again = gateway.resume("orders", &cursor).await;
    assert_eq!(again.replay(), "complete");
    drop(again);
    gateway.publish("orders", "first").await;
    let mut reader = gateway.resume("orders", &cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["first"]).await;
}

#[tokio::test]
async fn one_cursor_resumes_many_topics() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("a,b,c").await;
    for number in 0..30 {
        let topic = ["a", "b", "c"][number % 3];
        gateway.publish(topic, &number.to_string()).await;
    }
    assert_eq!(reader.take(10).await, numbers(0..10));
    let cursor = reader.cursor();
    drop(reader);
    for number in 30..60 {
        let topic = ["c", "c", "a"][number % 3];
        gateway.publish(topic, &number.to_string()).await;
    }
    let mut reader = gateway.resume("a,b,c", &cursor).await;
    assert_eq!(reader.replay(), "complete");
    assert_eq!(reader.take(50).await, numbers(10..60));
    reader.stays_silent().await;
    let mut others = gateway.resume("b,other", &cursor).await;
    others
        .replays(["10", "13", "16", "19", "22", "25", "28"])
        .await;
}

/// The race between history and live: readers leave and return all the time while events are published.
#[tokio::test]
async fn who_returns_while_events_are_published_gets_each_once() {
    const EVENTS: usize = 3_000;
    let gateway = Gateway::start().await;
    let mut readers = tokio::task::JoinSet::new();
    for stride in [1_usize, 7, 40, 333] {
        let first = gateway.subscribe("orders").await;
        let address = gateway.public;
        readers.spawn(async move {
            let mut reader = first;
            let mut seen = Vec::with_capacity(EVENTS);
            let mut rounds = 0;
            while seen.len() < EVENTS {
                // Each stride is met a hundred times; the rest goes faster.
                let stride = if rounds < 100 { stride } else { 100 };
                let count = stride.min(EVENTS - seen.len());
                seen.extend(reader.take(count).await);
                rounds += 1;
                let cursor = reader.cursor();
                drop(reader);
                reader = Subscription::new(address, "topic=orders")
                    .header("Last-Event-ID", &cursor)
                    .open()
                    .await;
                assert_eq!(reader.replay(), "complete");
            }
            reader.stays_silent().await;
            seen
        });
    }
    let all = numbers(0..EVENTS);
    for piece in all.chunks(20) {
        gateway
            .publish_all("orders", piece.iter().map(String::as_str))
            .await;
    }
    for seen in readers.join_all().await {
        assert_eq!(seen, all);
    }
}

/// While a topic is quiet its cursor is moved by the others, so it never ages out while its owner is connected.
#[tokio::test]
async fn a_quiet_topic_keeps_its_place_while_others_are_busy() {
    let gateway = Gateway::with("stream.keepalive", "200ms")
        .with("retention.events", 5)
        .start()
        .await;
    let mut reader = gateway.subscribe("quiet").await;
    let mut last = EventId::ZERO;
    for number in 0..50 {
        last = gateway.publish("busy", &number.to_string()).await;
    }
    let checkpoint = loop {
        let frame = reader.frame().await;
        if let Some(text) = frame.id {
            break id(&text);
        }
    };
    assert!(checkpoint <= last, "never beyond what was stored");
    let cursor = loop {
        if id(&reader.cursor()) == last {
            break reader.cursor();
        }
        reader.frame().await;
    };
    drop(reader);
    gateway.publish("quiet", "at last").await;
    let mut reader = gateway.resume("quiet", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["at last"]).await;
}

#[tokio::test]
async fn a_hundred_thousand_missed_events_come_over_one_connection() {
    const EVENTS: usize = 100_000;
    let gateway = Gateway::with("retention.events", 200_000)
        .with("retention.bytes", "512MiB")
        .with("retention.total_bytes", "1GiB")
        .start()
        .await;
    let cursor = gateway.subscribe("orders").await.cursor();
    gateway.publish_lines("orders", numbers(0..EVENTS)).await;
    let mut reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    for number in 0..EVENTS {
        assert_eq!(reader.next().await.data, number.to_string());
    }
    reader.control("$live").await;
}

/// The browser repeats the old URL when it reconnects, so the header must win.
#[tokio::test]
async fn the_header_wins_over_the_query() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b", "c"]).await;
    for query in [
        format!("topic=orders&lastEventId={}", ids[0]),
        "topic=orders&lastEventId=earliest".to_owned(),
        "topic=orders&since=1h".to_owned(),
        "topic=orders&last=3".to_owned(),
    ] {
        let mut reader = gateway
            .events(&query)
            .header("Last-Event-ID", &ids[1].to_string())
            .open()
            .await;
        assert_eq!(reader.replay(), "complete", "{query}");
        reader.replays(["c"]).await;
    }
}

#[tokio::test]
async fn a_cursor_in_the_query_has_three_spellings() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b", "c"]).await;
    for name in ["lastEventId", "last_event_id", "lastEventID"] {
        let query = format!("topic=orders&{name}={}", ids[0]);
        let mut reader = gateway.events(&query).open().await;
        assert_eq!(reader.replay(), "complete", "{name}");
        assert_eq!(reader.start(), ids[0], "{name}");
        reader.replays(["b", "c"]).await;
    }
}

/// The order of precedence goes on: a cursor before `since`, and that before `last`.
#[tokio::test]
async fn the_first_start_that_is_present_wins() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b", "c"]).await;
    let query = format!("topic=orders&last=1&since=1h&lastEventId={}", ids[0]);
    let mut reader = gateway.events(&query).open().await;
    reader.replays(["b", "c"]).await;
    let mut reader = gateway.events("topic=orders&last=1&since=1h").open().await;
    reader.replays(["a", "b", "c"]).await;
}

#[tokio::test]
async fn an_empty_header_counts_as_absent() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b"]).await;
    let reader = gateway.resume("orders", "").await;
    assert_eq!(reader.replay(), "none");
    let mut reader = gateway
        .events(&format!("topic=orders&lastEventId={}", ids[0]))
        .header("Last-Event-ID", "")
        .open()
        .await;
    reader.replays(["b"]).await;
}

#[tokio::test]
async fn earliest_and_the_zero_cursor_begin_with_the_oldest_retained() {
    let gateway = Gateway::with("retention.events", 3).start().await;
    gateway
        .publish_all("orders", ["a", "b", "c", "d", "e"])
        .await;
    for query in [
        "topic=orders&lastEventId=earliest",
        "topic=orders&lastEventId=0-0",
    ] {
        let mut reader = gateway.events(query).open().await;
        assert_eq!(reader.replay(), "none", "{query}");
        assert_eq!(reader.start(), EventId::ZERO, "{query}");
        reader.replays(["c", "d", "e"]).await;
    }
    let mut reader = gateway.resume("orders", "0-0").await;
    assert_eq!(reader.replay(), "none");
    reader.replays(["c", "d", "e"]).await;
}

/// Three events in three milliseconds.
async fn three_moments(gateway: &Gateway) -> [EventId; 3] {
    let mut ids = [EventId::ZERO; 3];
    for (at, data) in ["a", "b", "c"].into_iter().enumerate() {
        ids[at] = gateway.publish("orders", data).await;
        gateway.passes_millisecond_of(ids[at]).await;
    }
    ids
}

#[tokio::test]
async fn since_takes_milliseconds() {
    let gateway = Gateway::start().await;
    let [a, b, _] = three_moments(&gateway).await;
    let query = format!("topic=orders&since={}", b.ms());
    let mut reader = gateway.events(&query).open().await;
    assert_eq!(reader.replay(), "none");
    assert!(
        (a..b).contains(&reader.start()),
        "the id before the first of them: {}",
        reader.start()
    );
    reader.replays(["b", "c"]).await;
}

#[tokio::test]
async fn since_takes_a_time_of_rfc_3339() {
    let gateway = Gateway::start().await;
    let [a, b, _] = three_moments(&gateway).await;
    for (since, wanted) in [
        (rfc3339(b.ms(), "Z"), &["b", "c"][..]),
        (rfc3339(b.ms(), "%2B00:00"), &["b", "c"]),
        (rfc3339(b.ms() + 7_200_000, "%2B02:00"), &["b", "c"]),
        (rfc3339(a.ms() - 60_000, "Z"), &["a", "b", "c"]),
        ("1970-01-01T00:00:00Z".to_owned(), &["a", "b", "c"]),
    ] {
        let query = format!("topic=orders&since={since}");
        let mut reader = gateway.events(&query).open().await;
        reader.replays(wanted).await;
    }
}

/// The text of Unix milliseconds (days since the epoch to a date: the era has 146,097 days, years begin in March).
fn rfc3339(ms: u64, zone: &str) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let date = day - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, fraction) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}{zone}")
}

#[tokio::test]
async fn since_takes_an_age() {
    let gateway = Gateway::start().await;
    gateway.publish_all("orders", ["a", "b"]).await;
    for age in ["5m", "1h", "30s", "2d"] {
        let query = format!("topic=orders&since={age}");
        let mut reader = gateway.events(&query).open().await;
        reader.replays(["a", "b"]).await;
    }
    // What is younger than this is what comes after a pause longer than it.
    sleep(Duration::from_millis(3_200)).await;
    gateway.publish("orders", "c").await;
    let mut reader = gateway.events("topic=orders&since=3s").open().await;
    reader.replays(["c"]).await;
}

#[tokio::test]
async fn since_in_the_future_and_the_last_zero_start_now() {
    let gateway = Gateway::start().await;
    let mut newest = gateway.publish_all("orders", ["a", "b"]).await[1];
    for query in [
        "topic=orders&since=2999-01-01T00:00:00Z",
        "topic=orders&since=32503680000000",
        "topic=orders&last=0",
    ] {
        let mut reader = gateway.events(query).open().await;
        assert_eq!(reader.replay(), "none", "{query}");
        assert_eq!(reader.start(), newest, "the frontier: {query}");
        newest = gateway.publish("orders", "next").await;
        let frame = reader.telling_frame().await;
        assert_eq!(
            frame.id,
            Some(newest.to_string()),
            "no $live after a start from now: {frame:?}"
        );
    }
}

#[tokio::test]
async fn the_last_events_of_the_subscription_come_first() {
    let gateway = Gateway::start().await;
    for number in 0..20 {
        let topic = ["a", "a", "a", "b"][number % 4];
        gateway.publish(topic, &number.to_string()).await;
    }
    let mut reader = gateway.events("topic=a,b&last=5").open().await;
    assert_eq!(reader.replay(), "none");
    reader.replays(numbers(15..20)).await;
    let mut reader = gateway.events("topic=b&last=2").open().await;
    reader.replays(["15", "19"]).await;
    let mut reader = gateway.events("topic=a,b&last=1000").open().await;
    reader.replays(numbers(0..20)).await;
    let mut reader = gateway.events("topic=nothing&last=3").open().await;
    reader.replays([""; 0]).await;
}

/// At most 1,000 (whether more is refused or cut is left open).
#[tokio::test]
async fn the_last_are_at_most_a_thousand() {
    let gateway = Gateway::start().await;
    gateway.publish_lines("orders", numbers(0..1_500)).await;
    let mut reader = gateway.events("topic=orders&last=1000").open().await;
    reader.replays(numbers(500..1_500)).await;
    let answer = gateway
        .ask(Request::new("HEAD", "/events?topic=orders&last=1001"))
        .await;
    if answer.status() != 400 {
        let mut reader = gateway.events("topic=orders&last=1001").open().await;
        reader.replays(numbers(500..1_500)).await;
    }
}

#[tokio::test]
async fn live_is_said_once_after_every_start_but_now() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish_all("orders", ["a", "b"]).await[1];
    for query in [
        "topic=orders&lastEventId=earliest",
        "topic=orders&since=5m",
        "topic=orders&last=1",
        "topic=never-used&lastEventId=earliest",
        &format!("topic=orders&lastEventId={newest}"),
    ] {
        let mut reader = gateway.events(query).open().await;
        let live = loop {
            let frame = reader.telling_frame().await;
            if frame.event.as_deref() == Some("$live") {
                break frame;
            }
        };
        assert_eq!(live.data.as_deref(), Some("{}"), "{query}");
        let at = id(live.id.as_deref().unwrap());
        assert!(at >= newest, "{query}: {live:?}");
        drop(reader);
    }
    let mut reader = gateway.events("topic=orders&last=1").open().await;
    reader.replays(["b"]).await;
    gateway.publish("orders", "c").await;
    let frame = reader.telling_frame().await;
    assert_eq!(frame.data.as_deref(), Some("c"), "$live came once");
    let mut from_now = gateway.subscribe("orders").await;
    gateway.publish("orders", "d").await;
    let frame = from_now.telling_frame().await;
    assert_eq!(frame.data.as_deref(), Some("d"), "no $live from now");
}

#[tokio::test]
async fn events_older_than_the_tail_come_from_the_store() {
    let gateway = Gateway::with("tail.events", 16).start().await;
    let mut live = gateway.subscribe("orders").await;
    let cursor = live.cursor();
    for piece in numbers(0..500).chunks(100) {
        gateway
            .publish_all("orders", piece.iter().map(String::as_str))
            .await;
    }
    let mut resumed = gateway.resume("orders", &cursor).await;
    assert_eq!(resumed.replay(), "complete");
    resumed.replays(numbers(0..500)).await;
    let mut mixed = gateway.resume("orders,other", &cursor).await;
    mixed.replays(numbers(0..500)).await;
    assert_eq!(live.take(500).await, numbers(0..500));
    let middle = live.cursor();
    gateway.publish("orders", "500").await;
    let mut resumed = gateway.resume("orders", middle).await;
    resumed.replays(["500"]).await;
}

/// A topic that nobody follows leaves memory after `tail.linger`; who returns after that reads the store.
#[tokio::test]
async fn a_topic_that_has_left_memory_is_resumed_all_the_same() {
    let gateway = Gateway::with("tail.linger", "100ms").start().await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish_all("orders", ["a", "b"]).await;
    assert_eq!(reader.take(1).await, ["a"]);
    let cursor = reader.cursor();
    drop(reader);
    gateway.has_open_streams(0).await;
    sleep(Duration::from_millis(400)).await;
    gateway.publish("orders", "c").await;
    let mut reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["b", "c"]).await;
}

/// Each reader comes back at its own place, at once.
#[tokio::test]
async fn a_herd_of_returning_readers_is_served() {
    let gateway = Gateway::with("tail.events", 32).start().await;
    let data = numbers(0..300);
    let ids = gateway
        .publish_all("orders", data.iter().map(String::as_str))
        .await;
    let mut herd = tokio::task::JoinSet::new();
    for (at, cursor) in ids.into_iter().enumerate().step_by(3) {
        let address = gateway.public;
        let wanted = numbers(at + 1..300);
        herd.spawn(async move {
            let mut reader = Subscription::new(address, "topic=orders")
                .header("Last-Event-ID", &cursor.to_string())
                .open()
                .await;
            reader.replays(wanted).await;
        });
    }
    herd.join_all().await;
    gateway.has_open_streams(0).await;
}
