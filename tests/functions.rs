//! The functions of Redis keep what their header promises, to the gateway and to every producer that calls them itself.
//!
//! A real Redis with the library, and no gateway beside it.

mod foreign;
mod gateway;
mod ingest;
mod kept;
mod valid;

use std::collections::BTreeMap;

use tidegate::event::EventId;

use crate::support::{RedisServer, Value, id, numbers};

const LIBRARY: &str = include_str!("../src/store/redis/functions.lua");

/// The name of a key, without the prefix of the deployment.
fn key(name: &str) -> String {
    format!("tidegate:{{0}}:{name}")
}

/// A Redis with the library, and nothing else.
struct Log {
    redis: RedisServer,
}

/// A call of `tidegate_publish`, or a part of one of `tidegate_publish_batch`.
#[derive(Clone, Debug)]
struct Publish {
    topic: Vec<u8>,
    kind: Vec<u8>,
    /// Without it there is only the end, which takes a batch.
    data: Option<Vec<u8>>,
    end: bool,
    key: Option<String>,
}

/// What a publisher is told of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Stored(EventId),
    Duplicate(EventId),
    /// The code, and what stands after it.
    Refused(String, String),
}

/// What a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    id: EventId,
    fields: BTreeMap<String, String>,
}

/// An event that is about to be published.
fn event(topic: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Publish {
    Publish {
        topic: topic.as_ref().to_vec(),
        kind: Vec::new(),
        data: Some(data.as_ref().to_vec()),
        end: false,
        key: None,
    }
}

impl Publish {
    fn kind(mut self, kind: impl AsRef<[u8]>) -> Self {
        self.kind = kind.as_ref().to_vec();
        self
    }

    /// With an idempotency key.
    fn key(mut self, key: &str) -> Self {
        self.key = Some(format!("idem:{key}"));
        self
    }

    /// The topic ends after it.
    fn ending(mut self) -> Self {
        self.end = true;
        self
    }

    /// The end of its topic, and no event.
    fn only_the_end(mut self) -> Self {
        self.data = None;
        self.ending()
    }

    fn keys_of_topic(&self) -> [Vec<u8>; 2] {
        ["topic:", "ch:"].map(|what| [key(what).as_bytes(), &self.topic].concat())
    }

    /// The words of the call.
    fn words(&self) -> Vec<Vec<u8>> {
        let mut keys = ["meta", "last", "heads"].map(text_key).to_vec();
        keys.extend(self.keys_of_topic());
        keys.extend(self.key.as_deref().map(text_key));
        let mut words = vec![b"FCALL".to_vec(), b"tidegate_publish".to_vec()];
        words.push(keys.len().to_string().into_bytes());
        words.extend(keys);
        words.push(self.kind.clone());
        words.extend(self.data.clone());
        words.extend(self.end.then(|| b"end".to_vec()));
        words
    }
}

fn text_key(name: &str) -> Vec<u8> {
    key(name).into_bytes()
}

impl Answer {
    fn refused(error: &str) -> Self {
        let (code, text) = error.split_once(' ').unwrap();
        Self::Refused(code.to_owned(), text.to_owned())
    }

    /// As `tidegate_publish` says it.
    fn of_call(value: &Value) -> Self {
        if let Value::Error(error) = value {
            return Self::refused(error);
        }
        let [answered, word] = value.items() else {
            panic!("wanted an id and a word, got {value}")
        };
        let answered = id(&answered.text());
        match word.text().as_str() {
            "stored" => Self::Stored(answered),
            "duplicate" => Self::Duplicate(answered),
            other => panic!("neither stored nor duplicate: {other}"),
        }
    }

    /// As `tidegate_publish_batch` says it of one event.
    fn of_event(value: &Value) -> Self {
        let text = value.text();
        let (mark, rest) = text.split_at(1);
        match mark {
            "+" => Self::Stored(id(rest)),
            "=" => Self::Duplicate(id(rest)),
            "-" => Self::refused(rest),
            _ => panic!("no answer to an event: {text}"),
        }
    }

    fn stored(&self) -> EventId {
        match self {
            Self::Stored(id) => *id,
            other => panic!("wanted it stored, got {other:?}"),
        }
    }

    /// Asserts that it was refused, and returns why.
    fn refuses(&self, code: &str) -> &str {
        match self {
            Self::Refused(said, text) if said == code => text,
            other => panic!("wanted {code}, got {other:?}"),
        }
    }
}

impl Log {
    async fn new() -> Self {
        Self::on(RedisServer::start().await).await
    }

    async fn on(redis: RedisServer) -> Self {
        redis.command(&["FUNCTION", "LOAD", LIBRARY]).await;
        Self { redis }
    }

    /// Calls a function with keys of this deployment.
    async fn call(&self, function: &str, names: &[&str], arguments: &[&str]) -> Value {
        let mut words = vec!["FCALL".to_owned(), function.to_owned()];
        words.push(names.len().to_string());
        words.extend(names.iter().map(|name| key(name)));
        words.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.redis.try_command(&words).await.unwrap()
    }

    /// The answer to a call of `tidegate_publish`.
    async fn answer(&self, publish: &Publish) -> Answer {
        Answer::of_call(&self.redis.try_command(&publish.words()).await.unwrap())
    }

    /// Publishes one event.
    async fn publish(&self, topic: &str, data: &str) -> EventId {
        self.answer(&event(topic, data)).await.stored()
    }

    /// The answers to a call of `tidegate_publish_batch`.
    async fn batch(&self, events: &[Publish]) -> Vec<Answer> {
        let mut topics: Vec<&Publish> = Vec::new();
        let mut idempotency = Vec::new();
        let mut rest = Vec::new();
        for event in events {
            let known = topics.iter().position(|topic| topic.topic == event.topic);
            let topic = known.unwrap_or_else(|| {
                topics.push(event);
                topics.len() - 1
            });
            let number = event.key.as_deref().map_or(0, |name| {
                idempotency.push(text_key(name));
                idempotency.len()
            });
            let flag = match (&event.data, event.end) {
                (None, _) => "X",
                (Some(_), true) => "x",
                (Some(_), false) => "",
            };
            rest.extend([
                (topic + 1).to_string().into_bytes(),
                flag.as_bytes().to_vec(),
                event.kind.clone(),
                event.data.clone().unwrap_or_default(),
                number.to_string().into_bytes(),
            ]);
        }
        let mut keys = ["meta", "last", "heads"].map(text_key).to_vec();
        keys.extend(topics.iter().flat_map(|topic| topic.keys_of_topic()));
        keys.extend(idempotency);
        let mut words = vec![b"FCALL".to_vec(), b"tidegate_publish_batch".to_vec()];
        words.push(keys.len().to_string().into_bytes());
        words.extend(keys);
        words.push(topics.len().to_string().into_bytes());
        words.extend(topics.iter().map(|topic| topic.topic.clone()));
        words.extend(rest);
        let answers = self.redis.command(&words).await;
        assert_eq!(answers.items().len(), events.len(), "{answers}");
        answers.items().iter().map(Answer::of_event).collect()
    }

    /// Publishes many events of one topic, and returns their ids.
    async fn publish_all<T: AsRef<str>>(
        &self,
        topic: &str,
        data: impl IntoIterator<Item = T>,
    ) -> Vec<EventId> {
        let events: Vec<Publish> = data
            .into_iter()
            .map(|data| event(topic, data.as_ref()).kind("message"))
            .collect();
        let answers = self.batch(&events).await;
        answers.iter().map(Answer::stored).collect()
    }

    /// Sends a command about one of our keys.
    async fn about(&self, command: &str, name: &str, rest: &[&str]) -> Value {
        let name = key(name);
        let mut words = vec![command, name.as_str()];
        words.extend(rest);
        self.redis.command(&words).await
    }

    /// The whole log of a topic.
    async fn entries(&self, topic: &str) -> Vec<Entry> {
        let name = format!("topic:{topic}");
        let entries = self.about("XRANGE", &name, &["-", "+"]).await;
        entries.items().iter().map(Entry::of).collect()
    }

    /// The id of the newest event of a topic, or those of its newest event and its end.
    async fn last_of(&self, topic: &str) -> Option<String> {
        match self.about("HGET", "last", &[topic]).await {
            Value::Nil => None,
            last => Some(last.text()),
        }
    }

    async fn meta(&self, field: &str) -> String {
        self.about("HGET", "meta", &[field]).await.text()
    }

    /// The id that lies below every entry of this log, and before the first one of each topic.
    async fn born(&self) -> EventId {
        id(&self.meta("born").await)
    }

    /// Writes the settings of the deployment.
    async fn settle(&self, retention: &str, limits: &str) {
        let arguments = ["0-0", retention, limits, "replace"];
        let answer = self.call("tidegate_init", &LOG, &arguments).await;
        assert!(matches!(answer, Value::Array(_)), "{answer}");
    }

    /// Unix milliseconds by the clock of Redis.
    async fn now_ms(&self) -> u64 {
        let time = self.redis.command(&["TIME"]).await;
        let [seconds, micros] = time.items() else {
            panic!("no time: {time}")
        };
        u64::try_from(seconds.integer() * 1_000 + micros.integer() / 1_000).unwrap()
    }

    /// All that Redis holds, as one number.
    async fn digest(&self) -> String {
        self.redis.command(&["DEBUG", "DIGEST"]).await.text()
    }

    /// Asserts that a publish is refused with this code and writes nothing, and returns the text.
    async fn refuses(&self, publish: &Publish, code: &str) -> String {
        let before = self.digest().await;
        let answer = self.answer(publish).await;
        let text = answer.refuses(code).to_owned();
        assert_eq!(before, self.digest().await, "{answer:?} has written");
        text
    }
}

/// Publishes an event past every gateway, as a producer of its own does.
pub(crate) async fn publish_by_hand(redis: &RedisServer, topic: &str, data: &str) -> EventId {
    let words = event(topic, data).words();
    Answer::of_call(&redis.try_command(&words).await.unwrap()).stored()
}

/// The keys that most functions begin with.
const LOG: [&str; 3] = ["meta", "last", "heads"];

impl Entry {
    fn of(value: &Value) -> Self {
        let [entry_id, fields] = value.items() else {
            panic!("no entry of a stream: {value}")
        };
        Self {
            id: id(&entry_id.text()),
            fields: fields.fields(),
        }
    }

    /// The id that it names as the one before it.
    fn previous(&self) -> EventId {
        id(&self.fields["p"])
    }

    /// The running total of bytes.
    fn bytes(&self) -> usize {
        self.fields["b"].parse().unwrap()
    }
}

fn increase(ids: &[EventId]) -> bool {
    ids.windows(2).all(|two| two[0] < two[1])
}

#[tokio::test]
async fn ids_increase_over_topics_and_calls() {
    let log = Log::new().await;
    let mut ids = Vec::new();
    for round in 0..30 {
        ids.push(log.publish(["a", "b", "c"][round % 3], "single").await);
        let batch = ["b", "a", "b", "d"].map(|topic| event(topic, "in a batch").kind("x"));
        ids.extend(log.batch(&batch).await.iter().map(Answer::stored));
    }
    assert!(increase(&ids), "{ids:?}");
    assert_eq!(log.meta("last").await, ids.last().unwrap().to_string());
}

/// The clock gives the milliseconds, as long as it does not go back.
#[tokio::test]
async fn ids_go_on_above_the_last_one_when_the_clock_is_behind_it() {
    let log = Log::new().await;
    log.publish("a", "1").await;
    let ahead = EventId::new(log.now_ms().await + 300_000, 7);
    let seen = ahead.to_string();
    let raised = log.call("tidegate_raise", &LOG, &[&seen, ""]).await;
    assert!(matches!(raised, Value::Array(_)), "{raised}");
    let mut ids = vec![log.publish("a", "1").await];
    ids.extend(log.publish_all("b", ["2", "3"]).await);
    ids.push(log.publish("a", "4").await);
    let wanted = [8, 9, 10, 11].map(|seq| EventId::new(ahead.ms(), seq));
    assert_eq!(ids, wanted);
    let behind = Log::new().await;
    let before = behind.now_ms().await;
    let first = behind.publish("a", "1").await;
    assert!(
        (before..=behind.now_ms().await).contains(&first.ms()),
        "{first}"
    );
}

/// Somebody put an old `meta` back: what a topic knows of itself still holds.
#[tokio::test]
async fn an_id_is_above_the_last_one_of_its_topic_whatever_meta_says() {
    let log = Log::new().await;
    let ahead = EventId::new(log.now_ms().await + 300_000, 0).to_string();
    log.call("tidegate_raise", &LOG, &[&ahead, ""]).await;
    let newest = log.publish("a", "1").await;
    log.about("HSET", "meta", &["last", "5-0"]).await;
    let next = log.publish("a", "2").await;
    assert!(next > newest, "{next} after {newest}");
    assert_eq!(log.entries("a").await[1].previous(), newest);
}

#[tokio::test]
async fn an_entry_names_its_predecessor_in_its_topic() {
    let log = Log::new().await;
    for round in 0..10 {
        log.publish("a", "single").await;
        let batch = ["b", "a", "b", "a"].map(|topic| event(topic, round.to_string()).kind("x"));
        log.batch(&batch).await;
    }
    for (topic, count) in [("a", 30), ("b", 20)] {
        let entries = log.entries(topic).await;
        assert_eq!(entries.len(), count);
        // The first one names the birth of the log, so that the chain tells this log from one before it.
        let mut previous = log.born().await;
        for entry in entries {
            assert_eq!(entry.previous(), previous, "{entry:?}");
            previous = entry.id;
        }
        assert_eq!(log.last_of(topic).await, Some(previous.to_string()));
    }
}

#[tokio::test]
async fn an_entry_holds_type_data_predecessor_and_bytes() {
    let log = Log::new().await;
    let publish = event("orders", "größer\n").kind("order created");
    let first = log.answer(&publish).await.stored();
    let second = log.publish("orders", "").await;
    let entries = log.entries("orders").await;
    let fields = |entry: &Entry| {
        let fields = entry.fields.iter();
        fields
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!((entries[0].id, entries[1].id), (first, second));
    let (one, two) = (entries[0].bytes(), entries[1].bytes());
    let born = log.born().await;
    assert_eq!(
        fields(&entries[0]),
        [
            &format!("b={one}"),
            "d=größer\n",
            "e=order created",
            &format!("p={born}")
        ]
    );
    assert_eq!(
        fields(&entries[1]),
        [
            &format!("b={two}"),
            "d=",
            "e=message",
            &format!("p={first}")
        ],
        "an event without a type is a message"
    );
    let score = log.about("ZSCORE", "heads", &["orders"]).await.integer();
    assert_eq!(u64::try_from(score).unwrap(), second.ms());
}

/// One message for one entry, in the same step, on the sharded channel of its topic.
#[tokio::test]
async fn the_feed_says_every_entry_in_order() {
    let log = Log::new().await;
    let before = log.publish("orders", "before").await;
    let mut feed = log.redis.connect().await;
    let channel = key("ch:orders");
    feed.ask(&["SSUBSCRIBE", &channel]).await;
    let first = log
        .answer(&event("orders", "a\nb").kind("created"))
        .await
        .stored();
    log.publish("other", "not here").await;
    let batch = [
        event("orders", "").kind("message"),
        event("orders", "last").kind("x").ending(),
    ];
    let answers = log.batch(&batch).await;
    let (second, last) = (answers[0].stored(), answers[1].stored());
    let end = log.last_of("orders").await.unwrap();
    let end = end.strip_prefix(&format!("{last} ")).unwrap();
    for wanted in [
        format!("{first} {before} e created\na\nb"),
        format!("{second} {first} e message\n"),
        format!("{last} {second} e x\nlast"),
        format!("{end} {last} x"),
    ] {
        let message = feed.read().await;
        let words: Vec<_> = message.items().iter().map(Value::text).collect();
        assert_eq!(words, ["smessage", channel.as_str(), wanted.as_str()]);
    }
}

/// `PUBLISH` would reach every node of a cluster; and a gateway that follows nothing of a topic hears nothing of it.
#[tokio::test]
async fn the_feed_is_said_to_nobody_else() {
    let log = Log::new().await;
    let mut all = log.redis.connect().await;
    all.ask(&["PSUBSCRIBE", "*"]).await;
    log.publish("orders", "a").await;
    log.redis.command(&["PUBLISH", "end", "of test"]).await;
    assert_eq!(all.read().await.items()[2].text(), "end");
}

/// A slip of a producer must not make a log that nobody reads.
#[tokio::test]
async fn keys_that_do_not_belong_together_are_refused() {
    let log = Log::new().await;
    let good = event("orders", "a").key("k").words();
    let at = |number: usize, name: &str| {
        let mut words = good.clone();
        words[2 + number] = name.as_bytes().to_vec();
        words
    };
    let with_count = |count: usize| {
        let mut words = good.clone();
        words[2] = count.to_string().into_bytes();
        if count > 6 {
            words.insert(3, text_key("more"));
        }
        words
    };
    for (words, said) in [
        (at(1, "tidegate:{0}:metas"), "KEYS[1] is <prefix>:{0}:meta"),
        (at(1, "tidegate:meta"), "KEYS[1] is <prefix>:{0}:meta"),
        (at(1, ":{0}:meta"), "KEYS[1] is <prefix>:{0}:meta"),
        (at(1, "other:{0}:meta"), "KEYS[2] is other:{0}:last"),
        (at(2, "tidegate:{1}:last"), "KEYS[2] is tidegate:{0}:last"),
        (at(3, "tidegate:{0}:last"), "KEYS[3] is tidegate:{0}:heads"),
        (at(4, "orders"), "KEYS[4] is tidegate:{0}:topic:<topic>"),
        (
            at(4, "other:{0}:topic:orders"),
            "KEYS[4] is tidegate:{0}:topic:<topic>",
        ),
        (
            at(4, "tidegate:{0}:topic:other"),
            "KEYS[5] is tidegate:{0}:ch:other",
        ),
        (
            at(5, "tidegate:{0}:ch:order"),
            "KEYS[5] is tidegate:{0}:ch:orders",
        ),
        (
            at(6, "tidegate:{0}:meta"),
            "KEYS[6] begins with tidegate:{0}:idem:",
        ),
        (with_count(0), "five or six keys are expected"),
        (with_count(4), "five or six keys are expected"),
        (with_count(7), "five or six keys are expected"),
    ] {
        let answer = Answer::of_call(&log.redis.try_command(&words).await.unwrap());
        let text = answer.refuses("KEYS_INVALID");
        assert!(text.starts_with(said), "wanted {said:?}, got {text:?}");
    }
    assert_eq!(log.redis.command(&["DBSIZE"]).await.integer(), 0);
}

/// Another prefix is another deployment.
#[tokio::test]
async fn a_prefix_makes_a_log_of_its_own() {
    let log = Log::new().await;
    log.publish("orders", "ours").await;
    let words = event("orders", "theirs").words().into_iter().map(|word| {
        let text = String::from_utf8(word).unwrap();
        text.replace("tidegate:{0}", "team:b:{0}")
    });
    let words: Vec<_> = words.collect();
    Answer::of_call(&log.redis.command(&words).await).stored();
    let theirs = ["XRANGE", "team:b:{0}:topic:orders", "-", "+"];
    let theirs = log.redis.command(&theirs).await;
    let born = ["HGET", "team:b:{0}:meta", "born"];
    let born = id(&log.redis.command(&born).await.text());
    assert_eq!(Entry::of(&theirs.items()[0]).previous(), born);
    assert_eq!(log.entries("orders").await.len(), 1);
}

#[tokio::test]
async fn what_is_refused_writes_nothing_and_says_why() {
    let log = Log::new().await;
    let long = |count| "x".repeat(count);
    for round in ["an empty Redis", "a log"] {
        for (publish, code, said) in [
            (event("", "a"), "TOPIC_INVALID", "1 to 255 bytes"),
            (event(long(256), "a"), "TOPIC_INVALID", "1 to 255 bytes"),
            (
                event("$sys", "a"),
                "TOPIC_INVALID",
                "reserved for the gateway",
            ),
            (event("a b", "a"), "TOPIC_INVALID", "whitespace"),
            (event("a\u{85}", "a"), "TOPIC_INVALID", "control characters"),
            (event("a*", "a"), "TOPIC_INVALID", "* { } ,"),
            (event(b"a\xff", "a"), "TOPIC_INVALID", "UTF-8"),
            (
                event("a", "a").kind(long(129)),
                "TYPE_INVALID",
                "1 to 128 bytes",
            ),
            (
                event("a", "a").kind("$open"),
                "TYPE_INVALID",
                "reserved for the gateway",
            ),
            (
                event("a", "a").kind("a\nb"),
                "TYPE_INVALID",
                "line break or NUL",
            ),
            (event("a", "a").kind(b"\xff"), "TYPE_INVALID", "UTF-8"),
            (event("a", b"a\xff"), "DATA_INVALID", "UTF-8"),
            (
                Publish {
                    data: None,
                    ..event("a", "")
                },
                "DATA_INVALID",
                "two arguments",
            ),
            (
                event("a", long(65_537)),
                "EVENT_TOO_LARGE",
                "65537 bytes, the limit is 65536",
            ),
        ] {
            let text = log.refuses(&publish, code).await;
            assert!(
                text.contains(said),
                "{round}: wanted {said:?}, got {text:?}"
            );
        }
        for rest in [&["End"][..], &[""], &["end", "more"]] {
            let mut words = event("a", "a").words();
            words.extend(rest.iter().map(|word| word.as_bytes().to_vec()));
            let before = log.digest().await;
            let answer = Answer::of_call(&log.redis.try_command(&words).await.unwrap());
            let text = answer.refuses("DATA_INVALID");
            assert!(text.contains("\"end\""), "{round}: {text}");
            assert_eq!(before, log.digest().await, "{round}");
        }
        log.publish("other", "a log").await;
    }
    assert!(log.entries("a").await.is_empty());
}

#[tokio::test]
async fn the_limit_of_an_event_is_that_of_the_deployment() {
    let log = Log::new().await;
    log.publish("a", &"x".repeat(65_536)).await;
    log.settle("{}", r#"{"event_bytes":10}"#).await;
    log.publish("a", "0123456789").await;
    log.refuses(&event("a", "0123456789a"), "EVENT_TOO_LARGE")
        .await;
    log.settle("{}", "{}").await;
    log.publish("a", "0123456789a").await;
}

#[tokio::test]
async fn a_full_redis_says_so_and_stores_nothing() {
    let redis = RedisServer::settings().config("maxmemory-policy noeviction");
    let log = Log::on(redis.start().await).await;
    log.publish("a", "1").await;
    log.redis
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    let text = log.refuses(&event("a", "2"), "OOM").await;
    assert!(text.contains("maxmemory"), "{text}");
    log.redis
        .command(&["CONFIG", "SET", "maxmemory", "0"])
        .await;
    log.publish("a", "2").await;
    assert_eq!(log.entries("a").await.len(), 2);
}

#[tokio::test]
async fn a_repetition_with_the_same_key_is_answered_with_the_first_id() {
    let log = Log::new().await;
    let publish = event("orders", "a").kind("created").key("k");
    let first = log.answer(&publish).await.stored();
    let before = log.entries("orders").await;
    let again = log.answer(&publish).await;
    assert_eq!(again, Answer::Duplicate(first));
    let in_a_batch = log
        .batch(&[publish, event("orders", "b").kind("x").key("l")])
        .await;
    assert_eq!(in_a_batch[0], Answer::Duplicate(first));
    let second = in_a_batch[1].stored();
    let single = event("orders", "b").kind("x").key("l");
    assert_eq!(log.answer(&single).await, Answer::Duplicate(second));
    let entries = log.entries("orders").await;
    assert_eq!(entries[..1], before);
    assert_eq!(entries.len(), 2);
}

#[tokio::test]
async fn another_payload_under_the_same_key_is_refused() {
    let log = Log::new().await;
    let publish = event("orders", "a").kind("created").key("k");
    log.answer(&publish).await.stored();
    for other in [
        event("orders", "b").kind("created").key("k"),
        event("orders", "a").kind("changed").key("k"),
        event("orders", "a").kind("created").key("k").ending(),
        event("orders", "created\na").key("k"),
    ] {
        let text = log.refuses(&other, "IDEMPOTENCY_MISMATCH").await;
        assert!(text.contains("another payload"), "{text}");
        let other = if other.kind.is_empty() {
            other.kind("message")
        } else {
            other
        };
        let before = log.digest().await;
        let answers = log.batch(&[other]).await;
        answers[0].refuses("IDEMPOTENCY_MISMATCH");
        assert_eq!(before, log.digest().await);
    }
}

/// An event without a key used to be taken for a repetition of the one before it: the number 0 led to the key of a channel.
#[tokio::test]
async fn in_a_batch_events_without_a_key_are_never_repetitions() {
    let log = Log::new().await;
    let ids = log.publish_all("orders", ["a", "a", "b"]).await;
    assert!(increase(&ids), "{ids:?}");
    let mixed = [
        event("orders", "c").kind("x").key("k"),
        event("orders", "c").kind("x"),
        event("other", "c").kind("x"),
        event("other", "c").kind("x").key("l"),
        event("orders", "c").kind("x").key("k"),
    ];
    let answers = log.batch(&mixed).await;
    let ids: Vec<_> = answers[..4].iter().map(Answer::stored).collect();
    assert!(increase(&ids), "{ids:?}");
    assert_eq!(answers[4], Answer::Duplicate(ids[0]));
    assert_eq!(log.entries("orders").await.len(), 5);
    assert_eq!(log.entries("other").await.len(), 2);
    let strings = log.redis.command(&["KEYS", &key("ch:*")]).await;
    assert!(
        strings.items().is_empty(),
        "channels are no keys: {strings}"
    );
}

/// A repetition does not make the time longer.
#[tokio::test]
async fn a_key_is_remembered_for_the_window_since_the_first_call() {
    let log = Log::new().await;
    let publish = event("orders", "a").key("k");
    log.answer(&publish).await.stored();
    let left = log.about("PTTL", "idem:k", &[]).await.integer();
    assert!((295_000..=300_000).contains(&left), "five minutes: {left}");
    log.settle("{}", r#"{"idempotency_window":60000}"#).await;
    log.answer(&event("orders", "b").key("l")).await.stored();
    let left = log.about("PTTL", "idem:l", &[]).await.integer();
    assert!((55_000..=60_000).contains(&left), "a minute: {left}");
    log.about("PEXPIRE", "idem:k", &["30000"]).await;
    log.answer(&publish).await;
    log.batch(&[publish.clone().kind("message")]).await;
    let left = log.about("PTTL", "idem:k", &[]).await.integer();
    assert!((1..=30_000).contains(&left), "{left}");
    log.about("DEL", "idem:k", &[]).await;
    log.answer(&publish).await.stored();
}

/// Without a window nothing is remembered. It used to be an error, told after the event was stored.
#[tokio::test]
async fn a_window_of_nothing_remembers_nothing() {
    let log = Log::new().await;
    log.settle("{}", r#"{"idempotency_window":0}"#).await;
    let publish = event("orders", "a").key("k");
    let first = log.answer(&publish).await.stored();
    let second = log.batch(&[publish.clone().kind("message")]).await[0].stored();
    assert!(first < second);
    assert_eq!(log.last_of("orders").await, Some(second.to_string()));
    assert_eq!(log.about("EXISTS", "idem:k", &[]).await.integer(), 0);
}

#[tokio::test]
async fn the_end_takes_an_id_of_its_own_and_nothing_comes_after_it() {
    let log = Log::new().await;
    let first = log.publish("orders", "a").await;
    let last = log.answer(&event("orders", "b").ending()).await.stored();
    let entries = log.entries("orders").await;
    assert_eq!(entries.len(), 3);
    let (event_before, end) = (&entries[1], &entries[2]);
    assert_eq!((event_before.id, event_before.previous()), (last, first));
    assert!(end.id > last);
    assert_eq!(end.previous(), last);
    assert_eq!(end.bytes(), event_before.bytes(), "an end has no bytes");
    assert_eq!(end.fields["x"], "1");
    assert_eq!(end.fields.len(), 3, "{end:?}");
    let known = log.last_of("orders").await;
    assert_eq!(known, Some(format!("{last} {}", end.id)));
    assert_eq!(log.meta("last").await, end.id.to_string());
    let text = log.refuses(&event("orders", "c"), "TOPIC_FINISHED").await;
    assert_eq!(text, "the topic orders has ended");
    log.refuses(&event("orders", "c").key("k").ending(), "TOPIC_FINISHED")
        .await;
    assert!(log.publish("other", "d").await > end.id);
}

#[tokio::test]
async fn an_end_may_come_alone_and_stops_only_its_own_topic() {
    let log = Log::new().await;
    let answers = log
        .batch(&[
            event("a", "1").kind("x"),
            event("a", "").only_the_end(),
            event("a", "2").kind("x"),
            event("b", "3").kind("x"),
            event("never", "").only_the_end().key("k"),
            event("a", "").only_the_end(),
        ])
        .await;
    let [first, end] = [0, 1].map(|at| answers[at].stored());
    answers[2].refuses("TOPIC_FINISHED");
    answers[5].refuses("TOPIC_FINISHED");
    assert_eq!(log.last_of("a").await, Some(format!("{first} {end}")));
    let third = answers[3].stored();
    assert_eq!(log.last_of("b").await, Some(third.to_string()));
    let never = answers[4].stored();
    let born = log.born().await;
    assert_eq!(log.last_of("never").await, Some(format!("{born} {never}")));
    let entries = log.entries("never").await;
    assert_eq!(entries[0].previous(), born);
    let again = log
        .batch(&[event("never", "").only_the_end().key("k")])
        .await;
    assert_eq!(again, [Answer::Duplicate(never)]);
}

/// Somebody else's key under the name of an idempotency key is no reason to store an event that is then not answered.
#[tokio::test]
async fn an_idempotency_key_that_is_not_ours_is_refused() {
    let log = Log::new().await;
    log.publish("orders", "a").await;
    log.about("SET", "idem:text", &["something"]).await;
    log.about("RPUSH", "idem:list", &["something"]).await;
    let text = event("orders", "b").key("text");
    log.refuses(&text, "IDEMPOTENCY_MISMATCH").await;
    let list = event("orders", "b").key("list");
    log.refuses(&list, "WRONGTYPE").await;
}

/// The answer to the last event may be the one that got lost.
#[tokio::test]
async fn a_repetition_is_recognised_after_the_end_of_its_topic() {
    let log = Log::new().await;
    let publish = event("orders", "last").key("k").ending();
    let last = log.answer(&publish).await.stored();
    assert_eq!(log.answer(&publish).await, Answer::Duplicate(last));
    assert_eq!(log.entries("orders").await.len(), 2);
}

/// As `examples/producers` says.
#[tokio::test]
async fn a_producer_may_have_a_user_with_few_rights() {
    let rules = "on >secret ~tidegate:* &tidegate:* +fcall +time +spublish +@read +@write";
    let redis = RedisServer::settings().user("billing", rules);
    let log = Log::on(redis.start().await).await;
    log.settle(r#"{"age":10,"bytes":1000}"#, "{}").await;
    let mut billing = log.redis.connect().await;
    assert_eq!(
        billing.ask(&["AUTH", "billing", "secret"]).await.text(),
        "OK"
    );
    for data in ["x".repeat(500), "y".repeat(5_000), "z".to_owned()] {
        for publish in [event("a", &data).key(&data[..1]), event("b", &data)] {
            let answer = billing.ask(&publish.words()).await;
            Answer::of_call(&answer).stored();
        }
    }
    let elsewhere = event("a", "x").words().into_iter();
    let elsewhere = elsewhere.map(|word| {
        String::from_utf8(word)
            .unwrap()
            .replace("tidegate:", "other:")
    });
    let refused = billing.ask(&elsewhere.collect::<Vec<_>>()).await;
    assert!(
        matches!(&refused, Value::Error(error) if error.starts_with("NOPERM ")),
        "{refused}"
    );
}

/// Whoever shares a Redis with others can be sure that a batch is not torn apart.
#[tokio::test]
async fn many_events_and_topics_fit_one_batch() {
    let log = Log::new().await;
    let events: Vec<Publish> = numbers(0..1_000)
        .iter()
        .map(|number| {
            event(format!("topic/{number}"), number)
                .kind("x")
                .key(number)
        })
        .collect();
    let ids: Vec<_> = log
        .batch(&events)
        .await
        .iter()
        .map(Answer::stored)
        .collect();
    assert!(increase(&ids));
    let ids = log.publish_all("one", numbers(0..1_000)).await;
    assert!(increase(&ids));
    assert_eq!(log.entries("one").await.len(), 1_000);
}
