//! A chronicle of everything that was in the log, read from Redis itself.

use super::{
    judge::{Birth, Entry, Log, Millis, Name, Taking},
    world::now_ms,
};
use crate::support::{RedisServer, Value, id};

/// Everything in Redis that is an entry of a topic, and the birth of the log.
const SNAPSHOT: &str = "
    local reply = { redis.call('HGET', 'tidegate:{0}:meta', 'born') or '' }
    for _, key in ipairs(redis.call('KEYS', 'tidegate:{0}:topic:*')) do
        reply[#reply + 1] = { key, redis.call('XRANGE', key, '-', '+') }
    end
    return reply";

/// What was in the log.
#[derive(Default)]
pub(super) struct Chronicle {
    log: Log,
    life: usize,
    /// When the last log began to go away, while no other has been seen.
    flushed: Option<Millis>,
}

/// Runs commands as one, so that nothing happens between them.
async fn at_once(redis: &RedisServer, commands: &[&[&str]]) -> (Millis, Vec<Value>) {
    let mut connection = redis.connect().await;
    let since = now_ms();
    connection.ask(&["MULTI"]).await;
    for command in commands {
        assert_eq!(connection.ask(command).await.text(), "QUEUED");
    }
    let answers = connection.ask(&["EXEC"]).await.items().to_vec();
    for answer in &answers {
        assert!(!matches!(answer, Value::Error(_)), "{answer}");
    }
    (since, answers)
}

impl Chronicle {
    /// Only `keep` entries of a topic stay.
    pub(super) async fn trim(&mut self, redis: &RedisServer, topic: &str, keep: usize) {
        let stream = format!("tidegate:{{0}}:topic:{topic}");
        let read = ["XRANGE", &stream, "-", "+"];
        let count = keep.to_string();
        let trim = ["XTRIM", &stream, "MAXLEN", "=", &count];
        let (since, answers) = at_once(redis, &[&read, &trim]).await;
        let entries = answers[0].items();
        let taken = entries.len().saturating_sub(keep);
        self.add(topic, &entries[..taken], Some((Taking::Trim, since)));
        self.add(topic, &entries[taken..], None);
    }

    /// The stream of a topic goes, and nobody is told.
    pub(super) async fn delete(&mut self, redis: &RedisServer, topic: &str) {
        let stream = format!("tidegate:{{0}}:topic:{topic}");
        let read = ["XRANGE", &stream, "-", "+"];
        let (since, answers) = at_once(redis, &[&read, &["DEL", &stream]]).await;
        self.add(topic, answers[0].items(), Some((Taking::Trim, since)));
    }

    /// A topic goes as the gateway lets it go.
    pub(super) async fn erase(&mut self, redis: &RedisServer, topic: &str) {
        let keys = ["meta", "last", "heads"].map(|key| format!("tidegate:{{0}}:{key}"));
        let [meta, last, heads] = keys.each_ref().map(String::as_str);
        let stream = format!("tidegate:{{0}}:topic:{topic}");
        let channel = format!("tidegate:{{0}}:ch:{topic}");
        let read = ["XRANGE", &stream, "-", "+"];
        let erase = [
            "FCALL",
            "tidegate_delete",
            "5",
            meta,
            last,
            heads,
            &stream,
            &channel,
            topic,
        ];
        let (since, answers) = at_once(redis, &[&read, &erase]).await;
        self.add(topic, answers[0].items(), Some((Taking::Trim, since)));
    }

    /// The pause lets the clock go on: ids of the new log lie above those of the old one, as they do when a person does it.
    pub(super) async fn flush(&mut self, redis: &RedisServer) {
        let commands: [&[&str]; 3] = [
            &["EVAL", SNAPSHOT, "0"],
            &["FLUSHALL"],
            &["DEBUG", "SLEEP", "0.005"],
        ];
        let (since, answers) = at_once(redis, &commands).await;
        self.add_all(&answers[0], Some((Taking::Flush, since)));
        self.flushed.get_or_insert(since);
        self.life += 1;
    }

    /// Everything that was ever in the log.
    pub(super) async fn close(&mut self, redis: &RedisServer) -> Log {
        let (_, answers) = at_once(redis, &[&["EVAL", SNAPSHOT, "0"]]).await;
        self.add_all(&answers[0], None);
        self.log.clone()
    }

    fn add_all(&mut self, snapshot: &Value, taken: Option<(Taking, Millis)>) {
        let mut items = snapshot.items().iter();
        let born = items.next().unwrap().text();
        if self.life > 0
            && !born.is_empty()
            && let Some(since) = self.flushed.take()
        {
            let born = id(&born);
            self.log.births.push(Birth { id: born, since });
        }
        for stream in items {
            let key = stream.items()[0].text();
            let topic = key.strip_prefix("tidegate:{0}:topic:").unwrap();
            self.add(topic, stream.items()[1].items(), taken);
        }
    }

    fn add(&mut self, topic: &str, entries: &[Value], taken: Option<(Taking, Millis)>) {
        let topic = Name::from(topic);
        for entry in entries {
            let [at, fields] = entry.items() else {
                panic!("{entry} is no entry")
            };
            let mut fields = fields.fields();
            let mut field = |name: &str| fields.remove(name).unwrap();
            let entry = Entry {
                kind: field("e"),
                data: field("d"),
                previous: id(&field("p")),
                life: self.life,
                era: 0,
                taken,
            };
            let added = self.log.add(&topic, id(&at.text()), entry);
            added.unwrap_or_else(|complaint| panic!("{complaint}"));
        }
    }
}
