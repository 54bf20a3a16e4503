//! The calls that move entries: so many in one that others need not wait for long, in the order in which they stand.

use std::collections::HashMap;

use super::waiting::Waiting;
use crate::store::redis::{
    calls::Function,
    keys::Keys,
    resp::{Request, Value},
};

/// Entries of one call. Redis runs a call alone: others wait for a millisecond or two.
pub(super) const CALL_ENTRIES: usize = 256;
/// Bytes of one call, unless a single entry has more.
const CALL_BYTES: usize = 512 * 1024;
/// Whose idempotency keys they are. No caller over HTTP is called so: see `auth`.
const CALLER: &str = "ingest";

/// The calls that move these entries.
pub(super) fn moves(keys: &Keys, mut entries: &[Waiting]) -> Vec<Request> {
    let mut calls = Vec::new();
    while !entries.is_empty() {
        let mut bytes = 0;
        let fits = |entry: &&Waiting| {
            bytes += entry.bytes;
            bytes <= CALL_BYTES
        };
        let most = entries.iter().take(CALL_ENTRIES);
        let count = most.take_while(fits).count().max(1);
        let (these, others) = entries.split_at(count);
        entries = others;
        calls.push(call(keys, these));
    }
    calls
}

fn call(keys: &Keys, entries: &[Waiting]) -> Request {
    let mut topics: HashMap<&[u8], usize> = HashMap::new();
    let mut names: Vec<&[u8]> = Vec::new();
    let mut idempotency = Vec::new();
    for entry in entries {
        let Some(topic) = &entry.topic else { continue };
        let number = *topics.entry(topic).or_insert_with(|| {
            names.push(topic);
            names.len()
        });
        if let Some(key) = &entry.key {
            idempotency.push((number, topic, key));
        }
    }
    let mut keyed = Vec::with_capacity(5 + 2 * names.len() + idempotency.len());
    let log = [
        &keys.meta,
        &keys.last,
        &keys.heads,
        &keys.ingest,
        &keys.ingest_dead,
    ];
    keyed.extend(log.map(|key| key.clone().into_bytes()));
    for topic in &names {
        keyed.extend(keys.unchecked(topic));
    }
    for (_, topic, key) in &idempotency {
        keyed.push(keys.remembered(CALLER, topic, key).into_bytes());
    }
    let mut request = Request::call(Function::INGEST, &keyed);
    let last = entries
        .last()
        .map_or_else(String::new, |entry| entry.id.to_string());
    request.push(last);
    request.push(entries.len().to_string());
    request.push(names.len().to_string());
    request = request.args(&names);
    for (number, _, key) in &idempotency {
        request.push(number.to_string());
        request.push(key);
    }
    request
}

/// What a call has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) moved: u64,
    pub(super) duplicates: u64,
    pub(super) dead: u64,
    /// The entry before which it stopped, because the stream is not what was read of it.
    pub(super) stopped: Option<Box<str>>,
}

impl Outcome {
    pub(super) fn of(reply: &Value) -> Option<Self> {
        let [moved, duplicates, dead, stopped] = reply.array()? else {
            return None;
        };
        let figure = |value: &Value| u64::try_from(value.number()?).ok();
        Some(Self {
            moved: figure(moved)?,
            duplicates: figure(duplicates)?,
            dead: figure(dead)?,
            stopped: Some(stopped.text()?)
                .filter(|id| !id.is_empty())
                .map(Into::into),
        })
    }

    /// Nothing is gone from the stream.
    pub(super) fn is_nothing(&self) -> bool {
        self.moved + self.duplicates + self.dead == 0
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::*;
    use crate::{event::EventId, store::redis::calls::Calls};

    fn entry(seq: u64, topic: &str, key: &str, bytes: usize) -> Waiting {
        let text = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
        Waiting {
            id: EventId::new(1, seq),
            topic: text(topic).filter(|topic| !topic.is_empty()),
            key: text(key).filter(|key| !key.is_empty()),
            bytes,
        }
    }

    fn words(request: &Request) -> Vec<String> {
        let mut output = BytesMut::new();
        request.write(Calls::Functions, &mut output);
        let text = String::from_utf8(output.to_vec()).expect("text");
        text.split("\r\n")
            .skip(2)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_call_names_every_topic_and_key_of_its_entries_once() {
        let keys = Keys::new("t");
        let entries = [
            entry(1, "a", "", 9),
            entry(2, "", "k", 9),
            entry(3, "b", "k", 9),
            entry(4, "a", "k", 9),
        ];
        let calls = moves(&keys, &entries);
        assert_eq!(calls.len(), 1);
        let words = words(&calls[0]);
        assert_eq!(words[..3], ["FCALL", "tidegate_ingest", "11"]);
        let base = |name: &&str| format!("t:{{0}}:{name}");
        let named = [
            "meta",
            "last",
            "heads",
            "ingest",
            "ingest:dead",
            "topic:a",
            "ch:a",
            "topic:b",
            "ch:b",
        ];
        assert_eq!(words[3..12], named.iter().map(base).collect::<Vec<_>>());
        let remembered = |topic: &[u8]| keys.remembered("ingest", topic, b"k");
        assert_eq!(words[12..14], [remembered(b"b"), remembered(b"a")]);
        assert_eq!(words[14..], ["1-4", "4", "2", "a", "b", "2", "k", "1", "k"]);
    }

    #[test]
    fn a_call_is_bounded_and_takes_at_least_one() {
        let keys = Keys::new("t");
        let lasts = |entries: &[Waiting]| -> Vec<[String; 2]> {
            let bounds = |request: &Request| {
                let words = words(request);
                let at = 3 + words[2].parse::<usize>().expect("a number");
                [words[at].clone(), words[at + 1].clone()]
            };
            moves(&keys, entries).iter().map(bounds).collect()
        };
        let many: Vec<_> = (1..=600).map(|seq| entry(seq, "a", "", 100)).collect();
        let expected = [["1-256", "256"], ["1-512", "256"], ["1-600", "88"]];
        assert_eq!(lasts(&many), expected.map(|it| it.map(str::to_owned)));
        let large = [1, 600_000, 300_000, 200_000, 100_000];
        let large: Vec<_> = (1..)
            .zip(large)
            .map(|(seq, bytes)| entry(seq, "a", "", bytes))
            .collect();
        let expected = [["1-1", "1"], ["1-2", "1"], ["1-4", "2"], ["1-5", "1"]];
        assert_eq!(lasts(&large), expected.map(|it| it.map(str::to_owned)));
        assert!(moves(&keys, &[]).is_empty());
    }
}
