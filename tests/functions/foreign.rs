//! What others do to the keys: entries that are not of the gateway, keys that are gone.

use serde_json::json;
use tidegate::event::EventId;

use super::{Answer, LOG, Log, event, increase};
use crate::support::{Value, id};

impl Log {
    /// Writes to the stream of a topic past the functions, and returns the id.
    async fn write_past(&self, topic: &str, at: &str) -> EventId {
        let name = format!("topic:{topic}");
        id(&self.about("XADD", &name, &[at, "foo", "bar"]).await.text())
    }

    /// The entries of a topic that the functions wrote.
    async fn own_entries(&self, topic: &str) -> Vec<super::Entry> {
        let mut entries = self.entries(topic).await;
        entries.retain(|entry| entry.fields.contains_key("p"));
        entries
    }

    async fn horizon(&self) -> EventId {
        let reply = self
            .call("tidegate_position", &["meta", "last", "lost"], &[])
            .await;
        id(&reply.items()[2].text())
    }
}

#[tokio::test]
async fn ids_go_on_above_a_foreign_entry_and_the_chain_leaves_it_out() {
    let log = Log::new().await;
    let first = log.publish("a", "1").await;
    let ahead = EventId::new(first.ms() + 60_000, 5);
    log.write_past("a", &ahead.to_string()).await;
    let second = log.publish("a", "2").await;
    assert_eq!(second, ahead.next());
    let elsewhere = log.publish("b", "3").await;
    assert!(elsewhere > second);
    for _ in 0..3 {
        log.write_past("a", "*").await;
    }
    let third = log.batch(&[event("a", "4").kind("x")]).await[0].stored();
    let ids: Vec<_> = log
        .own_entries("a")
        .await
        .iter()
        .map(|entry| entry.id)
        .collect();
    assert_eq!(ids, [first, second, third]);
    let previous: Vec<_> = log
        .own_entries("a")
        .await
        .iter()
        .map(super::Entry::previous)
        .collect();
    assert_eq!(previous, [log.born().await, first, second]);
}

/// The first event used to name the foreign entry as the one before it: a cursor from before that was told of a gap.
#[tokio::test]
async fn a_foreign_entry_that_came_first_is_nobodys_predecessor() {
    let log = Log::new().await;
    log.write_past("a", "*").await;
    log.write_past("a", "*").await;
    log.publish("a", "1").await;
    let first = log.own_entries("a").await.remove(0);
    assert_eq!(first.previous(), log.born().await);
}

/// The total used to begin again at nothing after each foreign entry, so that no topic that has some was ever full.
#[tokio::test]
async fn foreign_entries_do_not_loosen_retention_by_bytes() {
    let log = Log::new().await;
    let keep = json!({"events": 1_000_000, "bytes": 50_000});
    log.settle(&keep.to_string(), "{}").await;
    let data = "x".repeat(960);
    let mut last = 0;
    for _ in 0..40 {
        for _ in 0..10 {
            log.publish("a", &data).await;
        }
        let total = log.own_entries("a").await.last().unwrap().bytes();
        assert!(total > last, "{total} after {last}");
        last = total;
        log.write_past("a", "*").await;
    }
    let kept = log.own_entries("a").await.len();
    assert!(
        (49..=65).contains(&kept),
        "50 of a thousand bytes, and a node or two: {kept}"
    );
}

/// A step into the future would take the ids of every topic with it.
#[tokio::test]
async fn a_foreign_entry_far_in_the_future_breaks_its_topic_alone() {
    let log = Log::new().await;
    let first = log.publish("a", "1").await;
    let far = EventId::new(log.now_ms().await + 3_600_000, 0).to_string();
    log.write_past("a", &far).await;
    let text = log.refuses(&event("a", "2"), "TOPIC_BROKEN").await;
    assert!(
        text.contains(&far) && text.contains(&super::key("topic:a")),
        "{text}"
    );
    let answers = log
        .batch(&[event("a", "2").kind("x"), event("b", "3").kind("x")])
        .await;
    answers[0].refuses("TOPIC_BROKEN");
    let third = answers[1].stored();
    assert!(third.ms() < first.ms() + 600_000, "{third}");
}

/// The message says to delete it. That used not to help: Redis remembers the greatest id of a stream.
#[tokio::test]
async fn a_topic_is_well_again_once_the_entry_from_the_future_is_deleted() {
    let log = Log::new().await;
    for (topic, before) in [("a", true), ("b", false)] {
        if before {
            log.publish(topic, "1").await;
        }
        let far = EventId::new(log.now_ms().await + 3_600_000, 0).to_string();
        log.write_past(topic, &far).await;
        log.refuses(&event(topic, "2"), "TOPIC_BROKEN").await;
        log.about("XDEL", &format!("topic:{topic}"), &[&far]).await;
        let now = log.now_ms().await;
        let next = log.publish(topic, "2").await;
        assert!((now..now + 600_000).contains(&next.ms()), "{next}");
        log.publish_all(topic, ["3"]).await;
        let data = log
            .entries(topic)
            .await
            .into_iter()
            .map(|mut entry| entry.fields.remove("d"));
        let data: Vec<_> = data.flatten().collect();
        assert_eq!(
            data,
            if before {
                &["1", "2", "3"][..]
            } else {
                &["2", "3"]
            }
        );
    }
}

/// What it says then is the way out that costs the history: the topic goes, and what it was is still known.
#[tokio::test]
async fn deleting_a_topic_takes_the_entry_from_the_future_along() {
    let log = Log::new().await;
    let last = log.publish("a", "1").await;
    for known in [true, false] {
        let far = EventId::new(log.now_ms().await + 3_600_000, 0);
        log.write_past("a", &far.to_string()).await;
        if !known {
            log.about("HDEL", "last", &["a"]).await;
        }
        let mut feed = log.redis.connect().await;
        feed.ask(&["SSUBSCRIBE", &super::key("ch:a")]).await;
        let before = log.own_entries("a").await.last().unwrap().id;
        let names = [&LOG[..], &["topic:a", "ch:a"]].concat();
        let reply = log.call("tidegate_delete", &names, &["a"]).await;
        assert_eq!(
            reply.items()[1].text(),
            before.to_string(),
            "not what lies in the future"
        );
        let said = feed.read().await.items()[2].text();
        assert_eq!(said, format!("{before} {before} d"));
        assert!(log.entries("a").await.is_empty());
        let next = log.publish("a", "2").await;
        assert!(last < next && next < far, "{next}");
        assert_eq!(log.own_entries("a").await[0].previous(), before);
    }
}

/// A topic of which nothing but foreign entries is there is one that never had an event.
#[tokio::test]
async fn foreign_entries_alone_make_no_last_id() {
    let log = Log::new().await;
    log.publish("b", "1").await;
    log.write_past("a", "*").await;
    let names = ["meta", "last", "lost", "topic:a"];
    let reply = log.call("tidegate_position", &names, &["a"]).await;
    assert_eq!(reply.items()[4].text(), "", "it would be told as a gap");
    let names = [&LOG[..], &["topic:a", "ch:a"]].concat();
    let reply = log.call("tidegate_delete", &names, &["a"]).await;
    assert_eq!(reply.items()[0].integer(), 1);
    assert_eq!(reply.items()[1].text(), "");
    assert!(log.entries("a").await.is_empty());
    assert_eq!(log.last_of("a").await, None);
}

/// So many that the gateway's own is not looked for behind all of them: then more is called missing than is.
#[tokio::test]
async fn behind_many_foreign_entries_the_chain_is_broken_and_never_falsely_whole() {
    let log = Log::new().await;
    let last = log.publish("a", "1").await;
    for _ in 0..300 {
        log.write_past("a", "*").await;
    }
    log.publish("a", "2").await;
    assert_eq!(
        log.own_entries("a").await[1].previous(),
        last,
        "its last id is known"
    );
    for _ in 0..300 {
        log.write_past("a", "*").await;
    }
    let last = log.own_entries("a").await[1].id;
    log.about("HDEL", "last", &["a"]).await;
    log.publish("a", "3").await;
    assert!(log.own_entries("a").await[2].previous() > last);
}

/// No number of ours is as great as the greatest of Redis.
#[tokio::test]
async fn a_foreign_entry_beyond_all_numbers_breaks_its_topic_alone() {
    let log = Log::new().await;
    log.publish("first", "of the log").await;
    for (topic, far) in [
        ("a", "18446744073709551615-18446744073709551615"),
        ("b", "18446744073709551615-0"),
        ("c", "1-18446744073709551615"),
    ] {
        log.write_past(topic, far).await;
        if topic == "c" {
            log.publish(topic, "1").await;
            log.publish(topic, "2").await;
            assert_eq!(log.own_entries(topic).await.len(), 2);
        } else {
            log.refuses(&event(topic, "1"), "TOPIC_BROKEN").await;
        }
    }
    log.publish("d", "1").await;
}

#[tokio::test]
async fn an_entry_that_somebody_deleted_stays_the_predecessor() {
    let log = Log::new().await;
    let first = log.publish("a", "1").await;
    let second = log.publish("a", "2").await;
    log.about("XDEL", "topic:a", &[&second.to_string()]).await;
    let third = log.publish("a", "3").await;
    let entries = log.entries("a").await;
    assert_eq!((entries[0].id, entries[1].id), (first, third));
    assert_eq!(entries[1].previous(), second);
}

/// Redis takes no id below one that was there, also if it is gone.
#[tokio::test]
async fn ids_go_on_above_a_foreign_entry_that_was_deleted() {
    let log = Log::new().await;
    let first = log.publish("a", "1").await;
    let ahead = EventId::new(first.ms() + 60_000, 5);
    log.write_past("a", &ahead.to_string()).await;
    log.about("XDEL", "topic:a", &[&ahead.to_string()]).await;
    let answers = log
        .batch(&[event("a", "2").kind("x"), event("b", "3").kind("x")])
        .await;
    assert_eq!(answers[0], Answer::Stored(ahead.next()));
    assert!(answers[1].stored() > ahead.next());
    assert_eq!(log.own_entries("a").await[1].previous(), first);
}

#[tokio::test]
async fn a_key_of_another_type_breaks_its_topic_alone_and_stays_as_it_is() {
    let log = Log::new().await;
    log.publish("b", "1").await;
    log.about("SET", "topic:a", &["mine"]).await;
    let text = log.refuses(&event("a", "1"), "TOPIC_BROKEN").await;
    assert!(text.contains("WRONGTYPE"), "{text}");
    let answers = log
        .batch(&[event("a", "1").kind("x"), event("b", "2").kind("x")])
        .await;
    answers[0].refuses("TOPIC_BROKEN");
    answers[1].stored();
    assert_eq!(log.about("GET", "topic:a", &[]).await.text(), "mine");
    assert_eq!(log.last_of("a").await, None);
}

/// All that a publish has to write is looked at before it writes any of it.
#[tokio::test]
async fn a_key_of_the_log_of_another_type_is_an_error_before_anything_is_written() {
    for name in ["meta", "last", "heads"] {
        let log = Log::new().await;
        if name != "meta" {
            log.publish("a", "1").await;
        }
        log.about("DEL", name, &[]).await;
        log.about("SET", name, &["mine"]).await;
        log.refuses(&event("a", "2"), "WRONGTYPE").await;
        log.refuses(&event("a", "2").key("k").ending(), "WRONGTYPE")
            .await;
        log.about("DEL", name, &[]).await;
        log.publish("a", "3").await;
    }
}

/// Nobody knows any more which topics had events: cursors from before that must tell.
#[tokio::test]
async fn last_ids_that_somebody_deleted_raise_the_horizon() {
    let log = Log::new().await;
    let first = log.publish("a", "1").await;
    let newest = log.publish("b", "2").await;
    log.about("DEL", "last", &[]).await;
    let before = log.digest().await;
    assert_eq!(log.horizon().await, newest, "it is said at once");
    assert_eq!(
        log.digest().await,
        before,
        "though nothing is written by a question"
    );
    log.publish("a", "3").await;
    assert_eq!(log.meta("horizon").await, newest.to_string());
    assert_eq!(
        log.own_entries("a").await[1].previous(),
        first,
        "the stream still has it"
    );
    log.publish("c", "4").await;
    assert_eq!(
        log.own_entries("c").await[0].previous(),
        newest,
        "it may have had some"
    );
    assert_eq!(log.horizon().await, newest, "it is raised once");
    log.about("DEL", "last", &[]).await;
    let answers = log.batch(&[event("d", "5").kind("x")]).await;
    let raised = log.horizon().await;
    assert!(newest < raised && raised < answers[0].stored());
}

#[tokio::test]
async fn a_log_whose_meta_somebody_deleted_is_born_again_above_everything() {
    let log = Log::new().await;
    let ahead = EventId::new(log.now_ms().await + 300_000, 3);
    log.call("tidegate_raise", &LOG, &[&ahead.to_string(), ""])
        .await;
    let old = [log.publish("a", "1").await, log.publish("b", "2").await];
    log.about("DEL", "meta", &[]).await;
    let new = [log.publish("a", "3").await, log.publish("c", "4").await];
    let born = id(&log.meta("born").await);
    assert!(
        increase(&[old[0], old[1], born, new[0], new[1]]),
        "{old:?} {born} {new:?}"
    );
    assert_eq!(log.meta("format").await, "1");
    assert_eq!(
        log.last_of("b").await,
        None,
        "what it proved was of the old log"
    );
    assert_eq!(log.horizon().await, born);
    let first = &log.own_entries("a").await[1];
    assert_eq!(
        first.previous(),
        born,
        "the chain does not go back into the old log"
    );
}

/// The library survives `FLUSHALL`, so a producer goes on as if nothing had been. The gateway is told by the birth.
#[tokio::test]
async fn after_a_flush_there_is_a_log_that_was_just_born() {
    let log = Log::new().await;
    let old = log.publish_all("a", ["1", "2"]).await;
    let old_birth = log.meta("born").await;
    // Whoever flushes a log in the millisecond of its birth gets the same one.
    while log.now_ms().await <= old[1].ms() {}
    log.redis.command(&["FLUSHALL"]).await;
    let none = log
        .call("tidegate_position", &["meta", "last", "lost"], &[])
        .await;
    let Value::Error(error) = &none else {
        panic!("there is no log: {none}")
    };
    assert!(error.starts_with("NOT_INITIALISED "), "{error}");
    let first = log.publish("a", "3").await;
    let born = id(&log.meta("born").await);
    assert!(old[1] < born && born < first, "{old:?} {born} {first}");
    assert_eq!(log.own_entries("a").await[0].previous(), born);
    // What a replica has seen of the old log lies below the new birth from now on.
    let seen = EventId::new(first.ms() + 1_000, 0);
    let raised = log
        .call("tidegate_raise", &LOG, &[&seen.to_string(), &old_birth])
        .await;
    assert_eq!(raised.items()[0].text(), seen.next().to_string());
    assert!(log.publish("a", "4").await > seen.next());
}

/// A mistake in the settings is no reason to lose an event.
#[tokio::test]
async fn settings_that_cannot_be_read_are_those_by_default() {
    let log = Log::new().await;
    for settings in ["", "no JSON", "[1", "7", "\"text\"", "null"] {
        log.settle(settings, settings).await;
        log.publish("a", "1").await;
        let left = log.about("PTTL", "topic:a", &[]).await.integer();
        assert!(left > 80_000_000, "{settings}: a day, not {left}");
        log.refuses(&event("a", "x".repeat(65_537)), "EVENT_TOO_LARGE")
            .await;
    }
}
