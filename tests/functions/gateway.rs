//! The functions that are the gateway's own: birth, position, what was lost, deleting, and who is alive.

use serde_json::json;
use tidegate::event::EventId;

use super::{Answer, LOG, Log, event, key};
use crate::support::{Value, eventually, id};

const POSITION: [&str; 3] = ["meta", "last", "lost"];

fn texts(value: &Value) -> Vec<String> {
    value.items().iter().map(Value::text).collect()
}

/// Asserts that a function said no with this code, and returns the text.
fn refuses(answer: &Value, code: &str) -> String {
    let Value::Error(error) = answer else {
        panic!("wanted {code}, got {answer}")
    };
    let text = error.strip_prefix(code);
    text.unwrap_or_else(|| panic!("wanted {code}, got {error}"))
        .trim()
        .to_owned()
}

impl Log {
    /// Birth and last id after a replica told what it has seen and which birth it knows.
    async fn raise(&self, seen: EventId, known: &str) -> [EventId; 2] {
        let seen = seen.to_string();
        let reply = self.call("tidegate_raise", &LOG, &[&seen, known]).await;
        let [born, last] = reply.items() else {
            panic!("wanted birth and last id, got {reply}")
        };
        [born, last].map(|text| id(&text.text()))
    }

    async fn delete(&self, topic: &str) -> (i64, String) {
        let [stream, channel] = ["topic", "ch"].map(|what| format!("{what}:{topic}"));
        let names = [&LOG[..], &[&stream, &channel]].concat();
        let reply = self.call("tidegate_delete", &names, &[topic]).await;
        (reply.items()[0].integer(), reply.items()[1].text())
    }

    /// The ids that the entries of a topic name, and at the end its newest one.
    async fn own_chain(&self, topic: &str) -> Vec<EventId> {
        let entries = self.entries(topic).await;
        let newest = entries.last().map(|entry| entry.id);
        entries
            .iter()
            .map(super::Entry::previous)
            .chain(newest)
            .collect()
    }

    /// How many replicas are alive, once this one has said so of itself.
    async fn lease(&self, replica: &str, ms: u32) -> i64 {
        let about = json!({ "id": replica }).to_string();
        let arguments = [replica, &ms.to_string(), &about];
        self.call("tidegate_replica", &["meta", "replicas"], &arguments)
            .await
            .integer()
    }

    async fn replicas(&self) -> Vec<String> {
        let mut said = texts(
            &self
                .call("tidegate_replicas", &["meta", "replicas"], &[])
                .await,
        );
        said.sort();
        said
    }
}

#[tokio::test]
async fn the_version_can_be_asked_without_a_log() {
    let log = Log::new().await;
    let version = log.call("tidegate_version", &[], &[]).await.integer();
    assert_eq!(version, 3);
    let read_only = ["FCALL_RO", "tidegate_version", "0"];
    assert_eq!(log.redis.command(&read_only).await.integer(), version);
    assert_eq!(log.redis.command(&["DBSIZE"]).await.integer(), 0);
}

#[tokio::test]
async fn a_log_is_born_once() {
    let log = Log::new().await;
    let now = log.now_ms().await;
    let first = log
        .call("tidegate_init", &LOG, &["0-0", "{}", "{}", ""])
        .await;
    let born = id(&first.items()[0].text());
    assert!((now..now + 5_000).contains(&born.ms()), "{born}");
    let later = EventId::new(now + 100_000, 0).to_string();
    let second = log
        .call("tidegate_init", &LOG, &[&later, "{}", "{}", "replace"])
        .await;
    assert_eq!(first, second, "two replicas that start at once agree");
    assert!(log.publish("a", "1").await > born);
}

/// Also where a producer was there before the first replica.
#[tokio::test]
async fn a_log_is_born_above_what_its_maker_has_seen() {
    let log = Log::new().await;
    let seen = EventId::new(log.now_ms().await + 200_000, 9);
    let reply = log
        .call("tidegate_init", &LOG, &[&seen.to_string(), "{}", "{}", ""])
        .await;
    let born = id(&reply.items()[0].text());
    assert!(born > seen);
    assert!(log.publish("a", "1").await > born);
    let log = Log::new().await;
    let first = log.publish("a", "1").await;
    let reply = log
        .call("tidegate_init", &LOG, &["0-0", "{}", "{}", ""])
        .await;
    assert!(id(&reply.items()[0].text()) < first);
    assert_eq!(log.entries("a").await.len(), 1);
}

#[tokio::test]
async fn settings_are_written_where_there_are_none_or_on_demand() {
    let log = Log::new().await;
    log.publish("a", "1").await;
    let init = async |retention: &str, limits: &str, how: &str| {
        log.call("tidegate_init", &LOG, &["0-0", retention, limits, how])
            .await;
        [log.meta("retention").await, log.meta("limits").await]
    };
    assert_eq!(
        init("{\"events\":1}", "{}", "").await,
        ["{\"events\":1}", "{}"]
    );
    assert_eq!(
        init("{\"events\":2}", "{\"x\":1}", "").await,
        ["{\"events\":1}", "{}"]
    );
    assert_eq!(
        init("{\"events\":3}", "{\"x\":2}", "replace").await,
        ["{\"events\":3}", "{\"x\":2}"]
    );
}

#[tokio::test]
async fn a_log_of_another_version_is_left_alone() {
    let log = Log::new().await;
    log.publish("a", "1").await;
    log.about("HSET", "meta", &["format", "2"]).await;
    let before = log.digest().await;
    let answer = log
        .call("tidegate_init", &LOG, &["0-0", "{}", "{}", "replace"])
        .await;
    let text = refuses(&answer, "FORMAT_UNKNOWN");
    assert!(
        text.contains("format 2") && text.contains("reads and writes 1"),
        "{text}"
    );
    assert_eq!(before, log.digest().await);
}

#[tokio::test]
async fn the_last_id_rises_to_what_was_seen_and_never_falls() {
    let log = Log::new().await;
    let first = log.publish("a", "1").await;
    let born = log.born().await;
    let known = born.to_string();
    let seen = EventId::new(first.ms() + 50_000, 3);
    assert_eq!(log.raise(seen, &known).await, [born, seen]);
    for lower in [EventId::ZERO, first, seen, EventId::new(seen.ms(), 2)] {
        assert_eq!(log.raise(lower, &known).await, [born, seen]);
    }
    assert_eq!(log.publish("b", "2").await, seen.next());
    assert_eq!(log.born().await, born);
}

#[tokio::test]
async fn what_lies_far_ahead_of_the_clock_raises_nothing() {
    let log = Log::new().await;
    log.publish("a", "1").await;
    let before = log.digest().await;
    let begun = log.now_ms().await;
    let far = EventId::new(begun + 605_000, 0).to_string();
    let answer = log.call("tidegate_raise", &LOG, &[&far, ""]).await;
    let text = refuses(&answer, "CLOCK_BEHIND");
    // It comes nearer meanwhile.
    let passed = (log.now_ms().await - begun).div_ceil(1_000);
    let mut seconds = 605 - passed..=605;
    assert!(
        seconds.any(|seconds| text.contains(&format!("{seconds} s"))),
        "{text}"
    );
    assert!(text.contains(&far), "{text}");
    let answer = log.call("tidegate_raise", &LOG, &["yesterday", ""]).await;
    refuses(&answer, "ID_INVALID");
    assert_eq!(before, log.digest().await);
    let near = EventId::new(log.now_ms().await + 595_000, 0);
    assert_eq!(log.raise(near, "").await[1], near);
}

#[tokio::test]
async fn where_there_is_no_log_what_was_seen_makes_one_above_it() {
    let log = Log::new().await;
    let seen = EventId::new(log.now_ms().await + 50_000, 3);
    let [born, last] = log.raise(seen, "").await;
    assert_eq!((born, last), (seen.next(), seen.next()));
    assert!(log.publish("a", "1").await > born);
}

/// A cursor of the old log must lie below the birth of the new one, or nobody would tell it.
#[tokio::test]
async fn a_log_that_a_replica_does_not_know_is_born_above_what_it_has_seen() {
    let log = Log::new().await;
    let first = log.publish("a", "1").await;
    let born = log.born().await;
    let above = EventId::new(first.ms() + 50_000, 3);
    for below in [EventId::ZERO, EventId::new(born.ms() - 1, 0)] {
        assert_eq!(
            log.raise(below, "5-0").await[0],
            born,
            "nothing seen lies above the birth"
        );
    }
    assert_eq!(
        log.raise(above, "").await,
        [born, above],
        "it knows of no other log"
    );
    let [moved, last] = log.raise(above, "5-0").await;
    assert_eq!((moved, last), (above.next(), above.next()));
    assert_eq!(log.raise(above, &moved.to_string()).await, [moved, last]);
    assert!(log.publish("a", "2").await > last);
    let [third, _] = log.raise(moved, "5-0").await;
    assert_eq!(
        third,
        moved.next(),
        "the birth itself was seen by nobody, but may be a cursor"
    );
}

/// An event of the new log may have come before its birth was known: it is no sign of the old one. What a position has stated
/// of the old log is.
#[tokio::test]
async fn only_what_is_certainly_of_another_log_moves_a_birth() {
    let log = Log::new().await;
    let [first, second] = [log.publish("a", "1").await, log.publish("a", "2").await];
    let born = log.born().await;
    let raise = async |seen: EventId, confirmed: EventId| {
        let arguments = [seen.to_string(), "5-0".to_owned(), confirmed.to_string()];
        let arguments = [0, 1, 2].map(|at| arguments[at].as_str());
        let reply = log.call("tidegate_raise", &LOG, &arguments).await;
        id(&reply.items()[0].text())
    };
    let before = EventId::new(born.ms() - 5, 0);
    assert_eq!(
        raise(second, before).await,
        born,
        "both were of the new log, perhaps"
    );
    assert_eq!(
        raise(second, first).await,
        first.next(),
        "this one was of the old log"
    );
    let above = EventId::new(second.ms() + 1_000, 0);
    assert_eq!(
        raise(above, before).await,
        above.next(),
        "it is not of the new log"
    );
    assert!(log.publish("a", "3").await > above.next());
    let last = log.own_chain("a").await;
    assert!(last.windows(2).all(|two| two[0] < two[1]), "{last:?}");
}

/// It would be born in the future, and the first sane clock would refuse it.
#[tokio::test]
async fn no_log_is_born_far_ahead_of_the_clock() {
    let log = Log::new().await;
    let far = EventId::new(log.now_ms().await + 3_600_000, 0).to_string();
    let answer = log
        .call("tidegate_init", &LOG, &[&far, "{}", "{}", ""])
        .await;
    refuses(&answer, "CLOCK_BEHIND");
    assert_eq!(log.redis.command(&["DBSIZE"]).await.integer(), 0);
    log.publish("a", "1").await;
    let known = log
        .call("tidegate_init", &LOG, &[&far, "{}", "{}", ""])
        .await;
    assert_eq!(
        id(&known.items()[0].text()),
        log.born().await,
        "one that is there stays"
    );
}

/// Readers go on when the memory is full, and whoever deletes makes room.
#[tokio::test]
async fn a_full_redis_still_does_what_takes_no_memory() {
    let log = Log::new().await;
    let last = log.publish("a", "1").await;
    log.redis
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    let known = log
        .call("tidegate_init", &LOG, &["0-0", "{}", "{}", ""])
        .await;
    assert_eq!(id(&known.items()[0].text()), log.born().await);
    assert_eq!(log.raise(last, "").await[1], last);
    assert_eq!(log.lease("one", 60_000).await, 1);
    assert_eq!(log.replicas().await.len(), 1);
    let lost = log
        .call(
            "tidegate_lost",
            &["meta", "lost", "ch:a"],
            &["a", "1-0", "2-0"],
        )
        .await;
    assert_eq!(lost.integer(), 1);
    let names = [&POSITION[..], &["topic:a"]].concat();
    let position = log.call("tidegate_position", &names, &["a"]).await;
    assert_eq!(position.items()[4].text(), last.to_string());
    log.refuses(&event("a", "2"), "OOM").await;
    assert_eq!(log.delete("a").await, (1, last.to_string()));
}

#[tokio::test]
async fn the_position_is_that_of_the_log_and_of_each_topic() {
    let log = Log::new().await;
    let none = log.call("tidegate_position", &POSITION, &[]).await;
    refuses(&none, "NOT_INITIALISED");
    let first = log.publish("a", "1").await;
    let last = log.answer(&event("b", "2").ending()).await.stored();
    let end = log.entries("b").await[1].id;
    log.call(
        "tidegate_lost",
        &["meta", "lost", "ch:a"],
        &["a", "5-0", "7-0"],
    )
    .await;
    log.call(
        "tidegate_lost",
        &["meta", "lost", "ch:a"],
        &["a", "8-0", "9-0"],
    )
    .await;
    let only_end = log.batch(&[event("d", "").only_the_end()]).await[0].stored();
    let before = log.digest().await;
    let now = log.now_ms().await;
    let names = [&POSITION[..], &["topic:a", "topic:b", "topic:c", "topic:d"]].concat();
    let reply = log
        .call("tidegate_position", &names, &["a", "b", "c", "d"])
        .await;
    let said = texts(&reply);
    let born = log.born().await.to_string();
    assert_eq!(said[..3], [born.clone(), only_end.to_string(), born]);
    assert!(
        (now..=log.now_ms().await).contains(&said[3].parse().unwrap()),
        "{}",
        said[3]
    );
    let (first, last) = (first.to_string(), last.to_string());
    assert_eq!(said[4..8], [&first, "", "5-0..7-0 8-0..9-0", &first]);
    assert_eq!(said[8..12], [&last, &end.to_string(), "", &last]);
    assert_eq!(said[12..16], [""; 4], "nothing is known of it");
    let only_end = only_end.to_string();
    assert_eq!(said[16..], ["", &only_end, "", &only_end]);
    let keys = names.iter().map(|name| key(name));
    let words = ["FCALL_RO", "tidegate_position", "7"]
        .map(str::to_owned)
        .into_iter();
    let words = words
        .chain(keys)
        .chain(["a", "b", "c", "d"].map(str::to_owned));
    let read_only = log.redis.command(&words.collect::<Vec<_>>()).await;
    assert_eq!(texts(&read_only)[..3], said[..3]);
    assert_eq!(before, log.digest().await);
}

#[tokio::test]
async fn a_thousand_topics_can_be_asked_for_at_once() {
    let log = Log::new().await;
    let topics: Vec<_> = (0..1_000).map(|number| format!("t{number}")).collect();
    let events: Vec<_> = topics
        .iter()
        .map(|topic| event(topic, "x").kind("x"))
        .collect();
    let ids: Vec<_> = log
        .batch(&events)
        .await
        .iter()
        .map(Answer::stored)
        .collect();
    let streams: Vec<_> = topics
        .iter()
        .map(|topic| format!("topic:{topic}"))
        .collect();
    let names: Vec<_> = POSITION
        .into_iter()
        .chain(streams.iter().map(String::as_str))
        .collect();
    let arguments: Vec<_> = topics.iter().map(String::as_str).collect();
    let said = texts(&log.call("tidegate_position", &names, &arguments).await);
    assert_eq!(said.len(), 4 + 4 * 1_000);
    for (at, wanted) in ids.iter().enumerate() {
        assert_eq!(said[4 + 4 * at], wanted.to_string());
    }
}

/// Entries that are not of the gateway used to be counted among them, if they had the right fields.
#[tokio::test]
async fn the_newest_events_are_named_newest_first_and_nothing_else() {
    let log = Log::new().await;
    let newest = async |count: &str| {
        let names = ["meta", "topic:a"];
        texts(&log.call("tidegate_newest", &names, &[count]).await)
    };
    assert!(newest("5").await.is_empty());
    let mut ids = Vec::new();
    for number in 0..150 {
        ids.push(log.publish("a", "x").await.to_string());
        let [from, data, previous, kind] = match number % 6 {
            0 => ["p", "evil\u{85}", "0-0", "$open"],
            1 => ["p", "evil", "yesterday", "message"],
            2 => ["p", "evil", "99999999999999-0", "message"],
            3 => ["p", "evil", "0-0", "a\nb"],
            4 => ["q", "evil", "0-0", "message"],
            _ => continue,
        };
        let entry = ["*", "e", kind, "d", data, from, previous];
        log.about("XADD", "topic:a", &entry).await;
    }
    log.batch(&[event("a", "").only_the_end()]).await;
    ids.reverse();
    assert_eq!(newest("1").await, ids[..1]);
    assert_eq!(newest("2").await, ids[..2]);
    assert_eq!(newest("100").await, ids[..100]);
    assert_eq!(newest("1000").await, ids);
    assert!(newest("0").await.is_empty());
}

/// It used to be answered by the place of the range where it was known already.
#[tokio::test]
async fn lost_ranges_are_remembered_once_and_the_newest_sixteen() {
    let log = Log::new().await;
    let lost = async |from: u32| {
        let [after, through] = [from, from + 5].map(|ms| format!("{ms}-0"));
        let arguments = ["orders", after.as_str(), through.as_str()];
        log.call("tidegate_lost", &["meta", "lost", "ch:orders"], &arguments)
            .await
            .integer()
    };
    assert_eq!(lost(10).await, 1);
    assert_eq!(lost(20).await, 2);
    assert_eq!(lost(30).await, 3);
    assert_eq!(lost(10).await, 3, "two replicas find the same loss");
    for more in 4..=20 {
        assert_eq!(lost(more * 10).await, i64::from(more.min(16)));
    }
    let known = log.about("HGET", "lost", &["orders"]).await.text();
    let wanted: Vec<_> = (5..=20)
        .map(|from| format!("{}-0..{}-0", from * 10, from * 10 + 5))
        .collect();
    assert_eq!(known, wanted.join(" "));
}

#[tokio::test]
async fn deleting_takes_the_events_and_not_what_is_known_of_them() {
    let log = Log::new().await;
    let last = log.publish_all("a", ["1", "2", "3"]).await[2];
    log.publish("b", "other").await;
    let mut feed = log.redis.connect().await;
    feed.ask(&["SSUBSCRIBE", &key("ch:a")]).await;
    assert_eq!(log.delete("a").await, (3, last.to_string()));
    let message = feed.read().await.items()[2].text();
    assert_eq!(message, format!("{last} {last} d"));
    assert!(log.entries("a").await.is_empty());
    assert_eq!(log.last_of("a").await, Some(last.to_string()));
    assert_eq!(log.entries("b").await.len(), 1);
    assert_eq!(log.delete("a").await, (0, last.to_string()));
    let next = log.publish("a", "4").await;
    let entries = log.entries("a").await;
    assert_eq!((entries[0].id, entries[0].previous()), (next, last));
}

#[tokio::test]
async fn a_finished_topic_stays_finished_when_it_is_deleted() {
    let log = Log::new().await;
    let last = log.answer(&event("a", "1").ending()).await.stored();
    let end = log.entries("a").await[1].id;
    assert_eq!(
        log.delete("a").await,
        (1, end.to_string()),
        "the end is no event"
    );
    assert_eq!(log.last_of("a").await, Some(format!("{last} {end}")));
    log.refuses(&event("a", "2"), "TOPIC_FINISHED").await;
}

#[tokio::test]
async fn deleting_what_is_not_there_writes_nothing() {
    let log = Log::new().await;
    log.publish("a", "1").await;
    let before = log.digest().await;
    assert_eq!(log.delete("never").await, (0, String::new()));
    assert_eq!(before, log.digest().await);
}

/// What was forgotten is known again from what the stream had.
#[tokio::test]
async fn deleting_writes_down_what_only_the_stream_knew() {
    let log = Log::new().await;
    let last = log.publish_all("a", ["1", "2"]).await[1];
    log.about("HDEL", "last", &["a"]).await;
    log.about("ZREM", "heads", &["a"]).await;
    assert_eq!(log.delete("a").await, (2, last.to_string()));
    assert_eq!(log.last_of("a").await, Some(last.to_string()));
    let score = log.about("ZSCORE", "heads", &["a"]).await.integer();
    assert_eq!(u64::try_from(score).unwrap(), last.ms());
}

#[tokio::test]
async fn a_replica_lives_as_long_as_its_lease() {
    let log = Log::new().await;
    assert!(log.replicas().await.is_empty());
    assert_eq!(log.lease("one", 60_000).await, 1);
    assert_eq!(log.lease("two", 60_000).await, 2);
    assert_eq!(log.lease("one", 60_000).await, 2, "a lease is renewed");
    assert_eq!(log.replicas().await, [r#"{"id":"one"}"#, r#"{"id":"two"}"#]);
    assert_eq!(log.lease("two", 300).await, 2);
    eventually("the lease to be over", async || {
        match log.replicas().await {
            one if one == [r#"{"id":"one"}"#] => Ok(()),
            more => Err(format!("{more:?}")),
        }
    })
    .await;
    assert_eq!(log.about("HLEN", "replicas", &[]).await.integer(), 2);
    assert_eq!(log.lease("three", 60_000).await, 2);
    let known = log.about("HLEN", "replicas", &[]).await.integer();
    assert_eq!(known, 2, "whose lease is over is removed");
    assert_eq!(log.lease("one", 0).await, 1, "a lease is given back");
    assert_eq!(log.replicas().await, [r#"{"id":"three"}"#]);
}

/// Somebody else's field is no replica.
#[tokio::test]
async fn what_is_no_lease_is_removed() {
    let log = Log::new().await;
    log.about("HSET", "replicas", &["x", "soon", "y", "", "z", "5 {}"])
        .await;
    assert!(log.replicas().await.is_empty());
    assert_eq!(log.lease("one", 60_000).await, 1);
    assert_eq!(log.about("HKEYS", "replicas", &[]).await.items().len(), 1);
}

#[tokio::test]
async fn keys_of_another_deployment_are_refused_by_all() {
    let log = Log::new().await;
    log.publish("a", "1").await;
    let before = log.digest().await;
    for (function, names, arguments) in [
        (
            "tidegate_publish_batch",
            &["meta", "heads", "last"][..],
            &["0"][..],
        ),
        (
            "tidegate_init",
            &["last", "meta", "heads"],
            &["0-0", "{}", "{}", ""],
        ),
        ("tidegate_raise", &["meta", "heads", "last"], &["0-0", ""]),
        ("tidegate_position", &["meta", "last", "heads"], &[]),
        (
            "tidegate_lost",
            &["meta", "last", "ch:a"],
            &["a", "1-0", "2-0"],
        ),
        (
            "tidegate_lost",
            &["meta", "lost", "ch:b"],
            &["a", "1-0", "2-0"],
        ),
        (
            "tidegate_delete",
            &["meta", "last", "heads", "topic:a", "ch:b"],
            &["a"],
        ),
        (
            "tidegate_replica",
            &["meta", "replica"],
            &["one", "5", "{}"],
        ),
        ("tidegate_replicas", &["meta", "lost"], &[]),
    ] {
        let answer = log.call(function, names, arguments).await;
        refuses(&answer, "KEYS_INVALID");
    }
    assert_eq!(before, log.digest().await);
}
