//! A chronicle of everything that was in the log, read from Redis itself.

use std::collections::{BTreeMap, HashMap, HashSet};

use tidegate::event::EventId;

use super::{
    home::Handover,
    judge::{Birth, Change, Entry, Failover, Left, Log, Millis, Name, Range, Taking},
    world::now_ms,
};
use crate::support::{RedisServer, Value, id};

/// Everything in Redis that is an entry of a topic; the birth of the log, and its last id; what waits to be taken in, and what
/// was refused; what is recorded as lost.
const SNAPSHOT: &str = "
    local base = 'tidegate:{0}:'
    local function entries(key) return redis.call('XRANGE', base .. key, '-', '+') end
    local reply = {
        redis.call('HGET', base .. 'meta', 'born') or '',
        redis.call('HGET', base .. 'meta', 'last') or '0-0',
        entries('ingest'),
        entries('ingest:dead'),
        redis.call('HGETALL', base .. 'lost'),
    }
    for _, key in ipairs(redis.call('KEYS', base .. 'topic:*')) do
        reply[#reply + 1] = { key, redis.call('XRANGE', key, '-', '+') }
    end
    return reply";

/// What a server had at some moment.
pub(super) struct Snapshot {
    born: String,
    last: EventId,
    /// The data of what waits to be taken in, and of what was refused.
    left: Left,
    lost: BTreeMap<Name, Vec<Range>>,
    topics: Vec<(Name, Vec<Value>)>,
    /// Who came and went, by the topic of which that is told.
    changes: BTreeMap<Name, Vec<Change>>,
}

impl Snapshot {
    /// Reads a server that may be a replica.
    pub(super) async fn take(redis: &RedisServer) -> Self {
        let mut connection = redis.connect().await;
        // Where there is no cluster this is an error, and of no concern.
        connection.ask(&["READONLY"]).await;
        Self::read(&connection.ask(&["EVAL_RO", SNAPSHOT, "0"]).await)
    }

    fn read(answer: &Value) -> Self {
        let items = answer.items();
        let data = |entries: &Value, name: &str| -> Vec<String> {
            let fields = entries
                .items()
                .iter()
                .map(|entry| entry.items()[1].fields());
            let data = fields.map(|mut fields| fields.remove(name));
            data.map(Option::unwrap_or_default).collect()
        };
        let stream = |stream: &Value| {
            let key = stream.items()[0].text();
            let topic = key.strip_prefix("tidegate:{0}:topic:").unwrap();
            (Name::from(topic), stream.items()[1].items().to_vec())
        };
        let (told, topics): (Vec<_>, Vec<_>) = items[5..]
            .iter()
            .map(stream)
            .partition(|(topic, _)| topic.starts_with('$'));
        let changes = told.iter().map(|(topic, entries)| {
            let topic = topic.strip_prefix("$presence/").unwrap();
            (Name::from(topic), entries.iter().map(change).collect())
        });
        let lost = items[4].fields().into_iter().map(|(topic, ranges)| {
            let ranges = ranges.split(' ').map(|range| {
                let (after, through) = range.split_once("..").unwrap();
                (id(after), id(through))
            });
            (Name::from(topic), ranges.collect())
        });
        Self {
            born: items[0].text(),
            last: id(&items[1].text()),
            left: Left {
                waiting: data(&items[2], "data"),
                dead: data(&items[3], "f:data"),
                gone: Vec::new(),
            },
            lost: lost.collect(),
            topics,
            changes: changes.collect(),
        }
    }

    /// The data of everything that was handed over to be taken in, wherever it is now.
    fn taken_in(&self) -> HashSet<String> {
        let entries = self.topics.iter().flat_map(|(_, entries)| entries);
        let data = entries.map(|entry| entry.items()[1].fields().remove("d").unwrap());
        let left = self.left.waiting.iter().chain(&self.left.dead).cloned();
        data.chain(left).collect()
    }
}

/// What an entry tells of a user.
fn change(entry: &Value) -> Change {
    let fields = entry.items()[1].fields();
    let data: serde_json::Value = serde_json::from_str(&fields["d"]).unwrap();
    Change {
        comes: match fields["e"].as_str() {
            "join" => true,
            "leave" => false,
            other => panic!("{other} is told of {data}"),
        },
        user: data["user"].as_str().unwrap().to_owned(),
    }
}

/// What was in the log.
#[derive(Default)]
pub(super) struct Chronicle {
    log: Log,
    life: usize,
    /// When the last log began to go away, while no other has been seen.
    flushed: Option<Millis>,
    /// The data of what was handed over to be taken in, and was lost.
    gone: Vec<String>,
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
        let snapshot = Snapshot::read(&answers[0]);
        self.add_all(&snapshot, Some((Taking::Flush, since)));
        self.flushed.get_or_insert(since);
        self.life += 1;
    }

    /// Another server has taken over. Returns the number of the failover.
    pub(super) fn hand_over(&mut self, handover: Handover) -> usize {
        let Handover {
            since, old, new, ..
        } = handover;
        let number = self.log.failovers.len();
        let kept: HashMap<&Name, HashSet<String>> = {
            let ids = |entries: &[Value]| {
                entries
                    .iter()
                    .map(|entry| entry.items()[0].text())
                    .collect()
            };
            let topics = new.topics.iter();
            topics
                .map(|(topic, entries)| (topic, ids(entries)))
                .collect()
        };
        for (topic, entries) in &old.topics {
            let kept = kept.get(topic);
            for entry in entries {
                let stays = kept.is_some_and(|kept| kept.contains(&entry.items()[0].text()));
                let taken = (!stays).then_some((Taking::Lost(number), since));
                self.add(topic, std::slice::from_ref(entry), taken);
            }
        }
        let (before, after) = (old.taken_in(), new.taken_in());
        self.gone.extend(before.difference(&after).cloned());
        self.log.failovers.push(Failover {
            since,
            over: Millis::MAX,
            last: new.last,
        });
        number
    }

    /// Everybody knows what there is to know of a failover.
    pub(super) fn is_over(&mut self, failover: usize) {
        self.log.failovers[failover].over = now_ms();
    }

    /// Everything that was ever in the log, what did not come there, and who came and went.
    pub(super) async fn close(
        &mut self,
        redis: &RedisServer,
    ) -> (Log, Left, BTreeMap<Name, Vec<Change>>) {
        let snapshot = Snapshot::take(redis).await;
        self.add_all(&snapshot, None);
        self.log.recorded.clone_from(&snapshot.lost);
        let gone = self.gone.clone();
        let left = Left {
            gone,
            ..snapshot.left
        };
        (self.log.clone(), left, snapshot.changes)
    }

    fn add_all(&mut self, snapshot: &Snapshot, taken: Option<(Taking, Millis)>) {
        if self.life > 0
            && !snapshot.born.is_empty()
            && let Some(since) = self.flushed.take()
        {
            let born = id(&snapshot.born);
            self.log.births.push(Birth { id: born, since });
        }
        for (topic, entries) in &snapshot.topics {
            self.add(topic, entries, taken);
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
                era: self.log.failovers.len(),
                taken,
            };
            let added = self.log.add(&topic, id(&at.text()), entry);
            added.unwrap_or_else(|complaint| panic!("{complaint}"));
        }
    }
}
