//! `tidegate_ingest` moves what others put into the ingest stream: by the rules of publishing, in order, once.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Answer, Entry, Log, event, key};
use crate::support::{Value, id, numbers};

/// What a call of the function answers.
#[derive(Debug, PartialEq, Eq)]
struct Answered {
    moved: i64,
    duplicates: i64,
    dead: i64,
    /// The entry before which it stopped.
    stopped: String,
}

fn moved(moved: i64, duplicates: i64, dead: i64) -> Answered {
    Answered {
        moved,
        duplicates,
        dead,
        stopped: String::new(),
    }
}

impl Log {
    async fn add<T: AsRef<[u8]>>(&self, fields: &[T]) -> String {
        let mut words = vec![b"XADD".to_vec(), key("ingest").into_bytes(), b"*".to_vec()];
        words.extend(fields.iter().map(|field| field.as_ref().to_vec()));
        self.redis.command(&words).await.text()
    }

    /// Adds so many entries at once, without a topic; `data` is an expression of Lua.
    async fn add_many(&self, count: usize, data: &str) {
        let script =
            format!("for _ = 1, {count} do redis.call('XADD', KEYS[1], '*', 'data', {data}) end");
        self.redis
            .command(&["EVAL", &script, "1", &key("ingest")])
            .await;
    }

    /// Calls the function with the keys of these topics, and of these idempotency keys: number of the topic, and key.
    async fn ingest_through(
        &self,
        last: &str,
        count: usize,
        topics: &[&str],
        keys: &[(usize, &str)],
    ) -> Value {
        let mut names: Vec<String> = ["meta", "last", "heads", "ingest", "ingest:dead"]
            .map(str::to_owned)
            .to_vec();
        for topic in topics {
            names.extend(["topic", "ch"].map(|what| format!("{what}:{topic}")));
        }
        names.extend(
            keys.iter()
                .map(|(topic, key)| format!("idem:{topic}-{key}")),
        );
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut arguments = vec![last.to_owned(), count.to_string(), topics.len().to_string()];
        arguments.extend(topics.iter().map(|&topic| topic.to_owned()));
        for (topic, key) in keys {
            arguments.extend([topic.to_string(), (*key).to_owned()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.call("tidegate_ingest", &names, &arguments).await
    }

    async fn ingest(&self, topics: &[&str], keys: &[(usize, &str)]) -> Answered {
        let answer = self.ingest_through("+", 1000, topics, keys).await;
        let [moved, duplicates, dead, stopped] = answer.items() else {
            panic!("wanted four figures, got {answer}")
        };
        Answered {
            moved: moved.integer(),
            duplicates: duplicates.integer(),
            dead: dead.integer(),
            stopped: stopped.text(),
        }
    }

    async fn waiting(&self) -> i64 {
        self.about("XLEN", "ingest", &[]).await.integer()
    }

    async fn dead(&self) -> Vec<BTreeMap<String, String>> {
        let letters = self.about("XRANGE", "ingest:dead", &["-", "+"]).await;
        let fields = |letter: &Value| letter.items()[1].fields();
        letters.items().iter().map(fields).collect()
    }

    async fn data(&self, topic: &str) -> Vec<String> {
        let entries = self.entries(topic).await;
        let data = |entry: Entry| entry.fields.get("d").cloned();
        entries.into_iter().filter_map(data).collect()
    }
}

#[tokio::test]
async fn entries_become_events_in_their_order_with_the_chain_of_any_other() {
    let log = Log::new().await;
    let before = log.publish("a", "published").await;
    for number in numbers(0..300) {
        let topic = if number.ends_with('7') { "b" } else { "a" };
        log.add(&["topic", topic, "data", &number]).await;
    }
    // No more than the caller has seen.
    let entries = log
        .about("XRANGE", "ingest", &["-", "+", "COUNT", "10"])
        .await;
    let tenth = entries.items()[9].items()[0].text();
    let answer = log.ingest_through(&tenth, 256, &["a", "b"], &[]).await;
    assert_eq!(answer.items()[0].integer(), 10);
    assert_eq!(log.waiting().await, 290);
    let answer = log.ingest_through("+", 4, &["a", "b"], &[]).await;
    assert_eq!(answer.items()[0].integer(), 4);
    assert_eq!(log.ingest(&["a", "b"], &[]).await, moved(286, 0, 0));
    assert_eq!(log.ingest(&["a", "b"], &[]).await, moved(0, 0, 0));
    let of = |topic: &str| -> Vec<String> {
        let is_b = |number: &String| number.ends_with('7') == (topic == "b");
        numbers(0..300).into_iter().filter(is_b).collect()
    };
    assert_eq!(log.data("a").await[1..], of("a"));
    assert_eq!(log.data("b").await, of("b"));
    let entries = log.entries("a").await;
    assert_eq!(entries[0].id, before);
    for two in entries.windows(2) {
        assert_eq!(two[1].previous(), two[0].id);
    }
    let after = log.publish("a", "published").await;
    assert_eq!(log.last_of("a").await, Some(after.to_string()));
}

#[tokio::test]
async fn types_ends_and_keys_are_those_of_publishing() {
    let log = Log::new().await;
    log.add(&["topic", "a", "event", "created", "data", "é\n2"])
        .await;
    log.add(&["data", "", "topic", "a"]).await;
    log.add(&["topic", "a", "data", "once", "key", "k 1"]).await;
    log.add(&["topic", "a", "data", "once", "key", "k 1"]).await;
    log.add(&["topic", "a", "data", "other", "key", "k 1"])
        .await;
    log.add(&["topic", "a", "end", "0"]).await;
    log.add(&["topic", "b", "data", "last", "end", "true"])
        .await;
    log.add(&["topic", "b", "data", "late"]).await;
    log.add(&["topic", "c", "data", "x"]).await;
    log.add(&["topic", "c", "end", "1"]).await;
    let keys = [(1, "k 1")];
    assert_eq!(log.ingest(&["a", "b", "c"], &keys).await, moved(7, 1, 2));
    let entries = log.entries("a").await;
    let kinds: Vec<_> = entries.iter().map(|entry| &*entry.fields["e"]).collect();
    assert_eq!(kinds, ["created", "message", "message", "message"]);
    assert_eq!(log.data("a").await, ["é\n2", "", "once", ""]);
    assert_eq!(log.data("c").await, ["x"]);
    for ended in ["b", "c"] {
        let late = log.answer(&event(ended, "late")).await;
        late.refuses("TOPIC_FINISHED");
    }
    let dead = log.dead().await;
    let reasons: Vec<_> = dead.iter().map(|letter| &*letter["reason"]).collect();
    assert_eq!(reasons, ["idempotency_mismatch", "topic_finished"]);
    // A producer that repeats it past the gateways is known by the key, too.
    let twice = event("a", "once").kind("message").key("1-k 1");
    assert_eq!(
        log.answer(&twice).await,
        Answer::Duplicate(log.entries("a").await[2].id)
    );
}

#[tokio::test]
async fn what_publishing_would_refuse_becomes_a_dead_letter_with_its_reason() {
    let log = Log::new().await;
    log.settle("{}", &json!({"event_bytes": 10}).to_string())
        .await;
    let long_topic = "x".repeat(256);
    let long_key = "k".repeat(256);
    let wrong: [(&[&[u8]], &str); 22] = [
        (&[b"data", b"1"], "topic_missing"),
        (&[b"topic", b""], "topic_invalid"),
        (&[b"topic", b"$x"], "topic_invalid"),
        (&[b"topic", b"$presence/a"], "topic_invalid"),
        (&[b"topic", b"a b"], "topic_invalid"),
        (&[b"topic", b"a,b"], "topic_invalid"),
        (&[b"topic", b"\xff"], "topic_invalid"),
        (&[b"topic", long_topic.as_bytes()], "topic_invalid"),
        (&[b"topic", b"a", b"event", b""], "type_invalid"),
        (&[b"topic", b"a", b"event", b"$open"], "type_invalid"),
        (&[b"topic", b"a", b"event", b"x\ny"], "type_invalid"),
        (&[b"topic", b"a", b"data", b"\xc3("], "utf8_invalid"),
        (
            &[b"topic", b"a", b"data", b"12345678901"],
            "event_too_large",
        ),
        (&[b"topic", b"a", b"end", b"yes"], "end_invalid"),
        (&[b"topic", b"a", b"key", b""], "idempotency_invalid"),
        (
            &[b"topic", b"a", b"key", b"\xc3\xa9"],
            "idempotency_invalid",
        ),
        (
            &[b"topic", b"a", b"key", long_key.as_bytes()],
            "idempotency_invalid",
        ),
        (&[b"topic", b"a", b"dat", b"1"], "field_unknown"),
        (&[b"topic", b"a", b"", b""], "field_unknown"),
        (&[b"topic", b"a", b"ending", b"1"], "field_unknown"),
        (&[b"topic", b"a", b"topic", b"a"], "field_repeated"),
        (
            &[b"topic", b"a", b"data", b"", b"data", b""],
            "field_repeated",
        ),
    ];
    let mut ids = Vec::new();
    for (fields, _) in wrong {
        ids.push(log.add(fields).await);
    }
    log.add(&["topic", "a", "data", "good"]).await;
    assert_eq!(log.ingest(&["a"], &[]).await, moved(1, 0, 22));
    assert_eq!(
        (log.data("a").await, log.waiting().await),
        (vec!["good".to_owned()], 0)
    );
    let letters = log.about("XRANGE", "ingest:dead", &["-", "+"]).await;
    let now = log.now_ms().await;
    for ((letter, (fields, reason)), entry) in letters.items().iter().zip(wrong).zip(ids) {
        let said = letter.items()[1].items();
        let said: Vec<&[u8]> = said
            .iter()
            .map(|it| match it {
                Value::Bulk(bytes) => &**bytes,
                other => panic!("{other}"),
            })
            .collect();
        let text = |at: usize| String::from_utf8_lossy(said[at]).into_owned();
        assert_eq!([text(0), text(1)], ["reason", reason], "{letter}");
        assert_eq!([text(2), text(4), text(5)], ["detail", "id", &entry]);
        assert!(!text(3).is_empty());
        assert_eq!(text(6), "at");
        assert!((now - 60_000..=now).contains(&text(7).parse().unwrap()));
        // All of the entry, as it was.
        let original: Vec<Vec<u8>> = fields
            .iter()
            .enumerate()
            .map(|(at, &it)| {
                if at % 2 == 0 {
                    [b"f:", it].concat()
                } else {
                    it.to_vec()
                }
            })
            .collect();
        assert_eq!(said[10..], original, "{letter}");
    }
}

#[tokio::test]
async fn it_stops_before_a_topic_or_key_that_its_caller_did_not_name() {
    let log = Log::new().await;
    log.add(&["topic", "a", "data", "1"]).await;
    let second = log.add(&["topic", "b", "data", "2"]).await;
    let third = log.add(&["topic", "a", "data", "3", "key", "k"]).await;
    log.add(&["topic", "a", "data", "4"]).await;
    let stopped = |at: &str, count| Answered {
        stopped: at.to_owned(),
        ..moved(count, 0, 0)
    };
    assert_eq!(log.ingest(&["a"], &[]).await, stopped(&second, 1));
    assert_eq!(log.ingest(&["a"], &[]).await, stopped(&second, 0));
    // A key belongs to its topic.
    assert_eq!(
        log.ingest(&["a", "b"], &[(2, "k")]).await,
        stopped(&third, 1)
    );
    assert_eq!(log.ingest(&["a"], &[(1, "k")]).await, moved(2, 0, 0));
    assert_eq!(log.data("a").await, ["1", "3", "4"]);
}

/// Nothing is moved by halves: what is wrong with the keys, or the memory, is found before the first write.
#[tokio::test]
async fn what_cannot_be_moved_now_stays_as_it_is() {
    let log = Log::new().await;
    log.publish("a", "0").await;
    log.add(&["topic", "a", "data", "1"]).await;
    log.add(&["topic", "$"]).await;
    let refuses = async |code: &str| {
        let before = log.digest().await;
        let answer = log.ingest_through("+", 256, &["a"], &[]).await;
        assert!(
            matches!(&answer, Value::Error(text) if text.starts_with(code)),
            "{answer}"
        );
        assert_eq!(log.digest().await, before);
    };
    log.redis
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    refuses("OOM").await;
    // Whoever moves them is known all the same.
    let names = ["meta", "ingest", "ingest:dead", "ingest:lease"];
    let lease = log
        .call("tidegate_ingest_lease", &names, &["r", "60000"])
        .await;
    assert_eq!(lease.items()[1].integer(), 2, "{lease}");
    log.redis
        .command(&["CONFIG", "SET", "maxmemory", "0"])
        .await;
    log.about("SET", "ingest:dead", &["x"]).await;
    refuses("INGEST_BROKEN").await;
    log.about("DEL", "ingest:dead", &[]).await;
    let wrong = log.call("tidegate_ingest", &names, &["+", "1", "0"]).await;
    assert!(matches!(&wrong, Value::Error(text) if text.starts_with("KEYS_INVALID")));
    log.about("RENAME", "ingest", &[&key("kept")]).await;
    log.about("SET", "ingest", &["x"]).await;
    refuses("INGEST_BROKEN").await;
    log.about("RENAME", "kept", &[&key("ingest")]).await;
    assert_eq!(log.ingest(&["a"], &[]).await, moved(1, 0, 1));
}

#[tokio::test]
async fn a_broken_topic_does_not_stop_the_others() {
    let log = Log::new().await;
    log.about("SET", "topic:a", &["x"]).await;
    for topic in ["a", "b", "a"] {
        log.add(&["topic", topic, "data", "1"]).await;
    }
    assert_eq!(log.ingest(&["a", "b"], &[]).await, moved(1, 0, 2));
    let dead = log.dead().await;
    assert_eq!(dead[0]["reason"], "topic_broken");
    assert!(dead[0]["detail"].contains("topic:a"), "{dead:?}");
}

/// The ids of entries are the producer's: those that no number of ours holds are as good as any.
#[tokio::test]
async fn entries_with_ids_of_their_own_are_moved() {
    let log = Log::new().await;
    let ids = [
        "0-1",
        "5-18446744073709551615",
        "9007199254740993-7",
        "18446744073709551615-18446744073709551614",
    ];
    for at in ids {
        log.about("XADD", "ingest", &[at, "topic", "a", "data", at])
            .await;
    }
    assert_eq!(
        log.ingest_through(ids[0], 9, &["a"], &[]).await.items()[0].integer(),
        1
    );
    assert_eq!(
        log.ingest_through(ids[1], 9, &["a"], &[]).await.items()[0].integer(),
        1
    );
    assert_eq!(log.waiting().await, 2);
    assert_eq!(log.ingest(&["a"], &[]).await, moved(2, 0, 0));
    assert_eq!(log.waiting().await, 0);
    assert_eq!(log.data("a").await, ids);
    let now = log.now_ms().await;
    assert!(
        log.entries("a")
            .await
            .iter()
            .all(|entry| entry.id.ms() <= now)
    );
}

/// However large and however many: 10,000 letters, 64 MiB, and of each a quarter of a MiB and 64 fields.
#[tokio::test]
async fn dead_letters_do_not_fill_the_memory() {
    let log = Log::new().await;
    let many: Vec<String> = (0..20_000).map(|number| format!("f{number}")).collect();
    log.add(&many).await;
    let large = vec![b'\xff'; 1_000_000];
    let fields: [&[u8]; 6] = [b"topic", b"a", b"data", &large, b"key", b"k"];
    log.add(&fields).await;
    assert_eq!(log.ingest(&["a"], &[]).await, moved(0, 0, 2));
    let letters = log.about("XRANGE", "ingest:dead", &["-", "+"]).await;
    let fields: Vec<_> = letters
        .items()
        .iter()
        .map(|it| it.items()[1].items())
        .collect();
    assert_eq!(fields[0].len(), 2 * (6 + 64));
    assert_eq!(fields[1].len(), 2 * (6 + 3));
    assert_eq!(
        [&fields[0][10], &fields[1][10]].map(Value::text),
        ["cut", "cut"]
    );
    assert_eq!(
        fields[1][11].integer(),
        1_000_000 - 262_144 + 6 + 1,
        "what was left out"
    );
    for _ in 0..15 {
        log.add_many(20, "string.rep('x', 300000)").await;
        assert_eq!(log.ingest(&[], &[]).await, moved(0, 0, 20));
    }
    let kept = log.about("XLEN", "ingest:dead", &[]).await.integer();
    assert!(
        (240..=256).contains(&kept),
        "64 MiB of a quarter each: {kept}"
    );
    for _ in 0..12 {
        log.add_many(1_000, "''").await;
        assert_eq!(log.ingest(&[], &[]).await, moved(0, 0, 1_000));
    }
    let kept = log.about("XLEN", "ingest:dead", &[]).await.integer();
    assert!((10_000..10_200).contains(&kept), "{kept}");
}

#[tokio::test]
async fn the_lease_is_one_replicas_until_it_ends_or_is_given_back() {
    let log = Log::new().await;
    let names = ["meta", "ingest", "ingest:dead", "ingest:lease"];
    let lease = async |replica: &str, ms: &str| {
        log.call("tidegate_ingest_lease", &names, &[replica, ms])
            .await
    };
    let holds = async |replica: &str, ms: &str| lease(replica, ms).await.items()[0].integer();
    assert_eq!(holds("a", "").await, 0);
    assert_eq!(holds("a", "60000").await, 1);
    assert_eq!(holds("b", "60000").await, 0);
    assert_eq!(holds("b", "0").await, 0, "it is not b's to give back");
    assert_eq!(holds("a", "60000").await, 1);
    assert_eq!(holds("a", "").await, 1);
    assert_eq!(holds("a", "0").await, 0);
    assert_eq!(holds("b", "60000").await, 1);
    log.about("PEXPIRE", "ingest:lease", &["1"]).await;
    crate::support::eventually("the lease to end", async || {
        match holds("a", "60000").await {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    let first = log.add(&["topic", "a"]).await;
    log.add(&["topic", "a"]).await;
    let answer = lease("b", "60000").await;
    let said = answer.items();
    assert_eq!([&said[1], &said[3]].map(Value::integer), [2, 0]);
    assert_eq!(said[2].text(), first);
    assert!(said[4].integer() >= i64::try_from(id(&first).ms()).unwrap());
}
