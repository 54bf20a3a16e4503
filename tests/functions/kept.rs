//! What is kept of a topic, and how long it is known what was there.

use std::time::Duration;

use serde_json::json;
use tidegate::event::EventId;
use tokio::time::sleep;

use super::{Answer, Entry, LOG, Log, event};
use crate::support::{Value, eventually, id, numbers};

/// Entries of one node of a stream, as Redis makes them by default.
const NODE_ENTRIES: usize = 100;
/// Bytes of one node of a stream, but for one entry.
const NODE_BYTES: usize = 4_096;

impl Log {
    /// Writes what is kept of each topic.
    async fn keep(&self, retention: serde_json::Value) {
        self.settle(&retention.to_string(), "{}").await;
    }

    /// The bytes of the events that are retained.
    async fn bytes_kept(&self, topic: &str) -> usize {
        let entries = self.entries(topic).await;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return 0;
        };
        // The total before the first one is not known; it counts in full.
        last.bytes() - first.bytes() + first.fields.get("d").map_or(0, |data| data.len() + 40)
    }

    /// What `tidegate_position` says of the log and one topic: birth, last, horizon; last and end of the topic.
    async fn position(&self, topic: &str) -> ([EventId; 3], [String; 2]) {
        let stream = format!("topic:{topic}");
        let names = ["meta", "last", "lost", &stream];
        let reply = self.call("tidegate_position", &names, &[topic]).await;
        let items = reply.items();
        let ids = [0, 1, 2].map(|at| id(&items[at].text()));
        (ids, [4, 5].map(|at| items[at].text()))
    }
}

#[tokio::test]
async fn a_topic_keeps_its_newest_events() {
    let log = Log::new().await;
    log.keep(json!({"events": 150})).await;
    for number in numbers(0..400) {
        log.publish("single", &number).await;
    }
    for piece in numbers(0..400).chunks(80) {
        log.publish_all("batch", piece).await;
    }
    log.publish_all("at once", numbers(0..1_000).iter().filter(|_| false))
        .await;
    log.publish_all("at-once", numbers(0..1_000)).await;
    for (topic, newest) in [("single", "399"), ("batch", "399"), ("at-once", "999")] {
        let entries = log.entries(topic).await;
        assert!(
            (150..150 + NODE_ENTRIES).contains(&entries.len()),
            "{topic}: {}",
            entries.len()
        );
        assert_eq!(entries.last().unwrap().fields["d"], newest);
        let chain = entries.windows(2).all(|two| two[1].previous() == two[0].id);
        assert!(chain, "only the oldest went");
    }
}

#[tokio::test]
async fn without_settings_ten_thousand_events_are_kept() {
    let log = Log::new().await;
    for piece in numbers(0..10_500).chunks(500) {
        log.publish_all("a", piece).await;
    }
    let kept = log.about("XLEN", "topic:a", &[]).await.integer();
    assert!((10_000..=10_100).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_topic_keeps_its_newest_bytes() {
    const KEEP: usize = 100_000;
    for (length, count) in [(10, 6_000), (1_000, 400), (10_000, 40)] {
        let log = Log::new().await;
        log.keep(json!({"events": 1_000_000, "bytes": KEEP})).await;
        let data = "x".repeat(length);
        let one = length + 40;
        for at in 0..count {
            if at % 3 == 0 {
                log.publish("a", &data).await;
            } else {
                log.publish_all("a", [&data]).await;
            }
        }
        let kept = log.bytes_kept("a").await;
        // It is looked at about once for each node.
        let most = KEEP + 2 * NODE_BYTES + 2 * one;
        assert!((KEEP - one..=most).contains(&kept), "{length}: {kept}");
    }
}

/// A batch may be larger than all that was there before it.
#[tokio::test]
async fn after_a_large_batch_no_more_is_kept_either() {
    const KEEP: usize = 100_000;
    let log = Log::new().await;
    log.keep(json!({"events": 1_000_000, "bytes": KEEP})).await;
    for piece in numbers(0..2_000).chunks(500) {
        log.publish_all("a", piece).await;
    }
    let large = "x".repeat(5_000);
    log.publish_all("a", vec![large; 100]).await;
    let kept = log.bytes_kept("a").await;
    assert!(kept <= KEEP + 2 * NODE_BYTES + 2 * 5_040, "{kept}");
}

/// The newest event stays until its age is over, however large it is.
#[tokio::test]
async fn the_newest_event_stays_however_large_it_is() {
    let log = Log::new().await;
    log.keep(json!({"events": 1, "bytes": 10})).await;
    let large = "x".repeat(20_000);
    for _ in 0..5 {
        let newest = log.publish("a", &large).await;
        let entries = log.entries("a").await;
        assert_eq!(entries.last().unwrap().id, newest);
        assert!(entries.len() <= 2, "{}", entries.len());
    }
}

#[tokio::test]
async fn what_is_too_old_goes_with_the_next_event() {
    let log = Log::new().await;
    log.keep(json!({"events": 1_000_000, "age": 60_000})).await;
    let old = log.publish_all("a", numbers(0..500)).await[499];
    // Ahead of the clock: it grows no older while the test does.
    let ahead = EventId::new(old.ms() + 300_000, 0).to_string();
    log.call("tidegate_raise", &LOG, &[&ahead, ""]).await;
    log.publish("a", "middle").await;
    log.keep(json!({"events": 1_000_000, "age": 400})).await;
    eventually("the old events to be too old", async || {
        match log.now_ms().await {
            now if now > old.ms() + 400 => Ok(()),
            now => Err(now.to_string()),
        }
    })
    .await;
    log.publish("a", "new").await;
    let kept = log.entries("a").await.len();
    assert!((2..=1 + NODE_ENTRIES).contains(&kept), "{kept}");
}

/// A topic that nobody writes to any more goes by itself; what it was is still known.
#[tokio::test]
async fn an_idle_topic_goes_when_its_age_is_over() {
    let log = Log::new().await;
    log.keep(json!({"age": 60_000})).await;
    log.publish("a", "1").await;
    let left = log.about("PTTL", "topic:a", &[]).await.integer();
    assert!((55_000..=60_000).contains(&left), "{left}");
    log.keep(json!({"age": 300})).await;
    // In one call: a later one may forget a last id of an earlier one.
    let both = [
        event("a", "2").kind("x"),
        event("ended", "x").kind("x").ending(),
    ];
    let both = log.batch(&both).await;
    let [last, end] = [0, 1].map(|at| both[at].stored());
    eventually("the topics to go", async || {
        match log
            .about("EXISTS", "topic:a", &[&super::key("topic:ended")])
            .await
        {
            Value::Integer(0) => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    assert_eq!(log.last_of("a").await, Some(last.to_string()));
    // What is published now stays until it was looked at, and what is known of the others, too.
    log.keep(json!({"age": 60_000})).await;
    let next = log.publish("a", "3").await;
    let entries = log.entries("a").await;
    assert_eq!((entries[0].id, entries[0].previous()), (next, last));
    assert_eq!(entries.len(), 1);
    assert!(
        log.last_of("ended")
            .await
            .unwrap()
            .starts_with(&end.to_string())
    );
    log.refuses(&event("ended", "y"), "TOPIC_FINISHED").await;
}

#[tokio::test]
async fn without_an_age_a_topic_stays() {
    let log = Log::new().await;
    log.keep(json!({"events": 5})).await;
    log.publish("a", "1").await;
    assert_eq!(log.about("PTTL", "topic:a", &[]).await.integer(), -1);
    assert_eq!(
        log.last_of("a").await.map(|last| last.len() > 3),
        Some(true)
    );
}

#[tokio::test]
async fn the_rule_with_the_longest_prefix_wins() {
    let log = Log::new().await;
    log.keep(json!({
        "events": 1_000, "bytes": 1_000_000, "age": 10_000,
        "rules": [
            {"prefix": "au", "events": 2_000, "age": 20_000},
            {"prefix": "audit/", "events": 300, "age": 40_000},
            {"prefix": "audit", "age": 30_000},
        ],
    }))
    .await;
    for (topic, age) in [
        ("orders", 10_000),
        ("a", 10_000),
        ("au", 20_000),
        ("audi", 20_000),
        ("audit", 30_000),
        ("audit/eu", 40_000),
        ("xaudit/", 10_000),
    ] {
        log.publish(topic, "x").await;
        let left = log
            .about("PTTL", &format!("topic:{topic}"), &[])
            .await
            .integer();
        assert!((age - 5_000..=age).contains(&left), "{topic}: {left}");
    }
    // What a rule leaves open is as for all.
    for (topic, most) in [("audit/eu", 300), ("audit", 1_000)] {
        for piece in numbers(0..1_400).chunks(700) {
            log.publish_all(topic, piece).await;
        }
        let kept = log.entries(topic).await.len();
        assert!(
            (most..=most + NODE_ENTRIES).contains(&kept),
            "{topic}: {kept}"
        );
    }
}

/// Twice the longest retention: as long as anybody may come back who has seen one of the events.
#[tokio::test]
async fn last_ids_are_forgotten_after_twice_the_longest_age() {
    let log = Log::new().await;
    log.keep(json!({"age": 100, "rules": [{"prefix": "x", "age": 250}]}))
        .await;
    // In one call: a later one may forget what an earlier one wrote.
    let old: Vec<_> = (0..6)
        .map(|number| event(format!("old/{number}"), "x").kind("x").ending())
        .collect();
    for answer in log.batch(&old).await {
        answer.stored();
    }
    let newest = id(log
        .last_of("old/5")
        .await
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap());
    assert_eq!(log.meta("horizon").await, log.meta("born").await);
    // Older than 500 ms.
    let due = newest.ms() + 501;
    loop {
        let now = log.publish("busy", "x").await;
        if now.ms() >= due {
            break;
        }
        assert!(log.last_of("old/5").await.is_some(), "{now} is too early");
        sleep(Duration::from_millis(40)).await;
    }
    // A few with each call.
    for _ in 0..3 {
        log.publish("busy", "x").await;
    }
    for number in 0..6 {
        assert_eq!(log.last_of(&format!("old/{number}")).await, None);
    }
    assert!(log.last_of("busy").await.is_some());
    let known = log.about("ZRANGE", "heads", &["0", "-1"]).await;
    assert_eq!(
        known.items().iter().map(Value::text).collect::<Vec<_>>(),
        ["busy"]
    );
    assert_eq!(
        log.meta("horizon").await,
        newest.to_string(),
        "the highest that was forgotten, an end"
    );
    let (said, _) = log.position("old/1").await;
    assert_eq!(said[2], newest);
    // Whoever has seen everything up to there has seen what may have been forgotten.
    log.keep(json!({"age": 60_000})).await;
    let first = log.publish("old/2", "again").await;
    let entries = log.entries("old/2").await;
    assert_eq!((entries[0].id, entries[0].previous()), (first, newest));
}

/// A call does a little: a publisher does not wait for a house to be tidied.
#[tokio::test]
async fn a_call_forgets_only_a_few() {
    let log = Log::new().await;
    log.keep(json!({"age": 20})).await;
    let events: Vec<_> = (0..40)
        .map(|number| event(format!("old/{number}"), "x").kind("x"))
        .collect();
    log.batch(&events).await;
    sleep(Duration::from_millis(100)).await;
    let known = async || log.about("HLEN", "last", &[]).await.integer();
    let mut before = known().await;
    log.publish("busy", "x").await;
    before += 1;
    while before > 2 {
        let now = known().await;
        // One more for a topic that is new, so that they do not grow for ever.
        assert!((1..=5).contains(&(before - now)), "{before} became {now}");
        before = now;
        if before > 2 {
            log.publish("busy", "x").await;
        }
    }
    assert!(log.last_of("busy").await.is_some());
}

/// A topic without events of late may still have some, by a rule of its own or none at all.
#[tokio::test]
async fn what_was_forgotten_is_known_from_the_stream_that_still_has_it() {
    let log = Log::new().await;
    log.publish("a", "1").await;
    let last = log.publish("a", "2").await;
    log.about("HDEL", "last", &["a"]).await;
    log.about("HSET", "meta", &["horizon", &last.next().to_string()])
        .await;
    let (_, [said, end]) = log.position("a").await;
    assert_eq!((said, end), (last.to_string(), String::new()));
    log.publish("a", "3").await;
    assert_eq!(log.entries("a").await[2].previous(), last);
}

/// The bounds are those of the day: a smaller one holds from the next event on.
#[tokio::test]
async fn settings_hold_from_the_next_call_on() {
    let log = Log::new().await;
    log.publish_all("a", numbers(0..1_000)).await;
    log.keep(json!({"events": 200})).await;
    assert_eq!(log.entries("a").await.len(), 1_000);
    log.publish("a", "x").await;
    let kept = log.entries("a").await.len();
    assert!((200..200 + NODE_ENTRIES).contains(&kept), "{kept}");
}

/// Of a topic whose events are gone it is still known that they were there.
#[tokio::test]
async fn trimming_never_breaks_the_chain() {
    let log = Log::new().await;
    log.keep(json!({"events": 10, "bytes": 5_000})).await;
    let mut previous = EventId::ZERO;
    for number in 0..300 {
        let answers = log.batch(&[event("a", "x".repeat(number)).kind("x")]).await;
        let entries = log.entries("a").await;
        let newest: &Entry = entries.last().unwrap();
        assert_eq!(answers, [Answer::Stored(newest.id)]);
        if number == 0 {
            previous = log.born().await;
        }
        assert_eq!(newest.previous(), previous);
        previous = newest.id;
    }
    let none = log.call("tidegate_position", &LOG[..2], &[]).await;
    assert!(
        matches!(none, Value::Error(_)),
        "the keys are looked at: {none}"
    );
}
