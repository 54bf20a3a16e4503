//! What the functions take for a topic, a type, a text is what the gateway takes for one, and they count the same bytes.

use std::{cell::RefCell, str};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tidegate::event::{Event, EventId, EventType, Topic};
use tokio::runtime::{Builder, Runtime};

use super::{Answer, Entry, LIBRARY, Publish, event, key};
use crate::support::{RedisConnection, RedisServer, Value};

/// Generated inputs of each property.
const CASES: u32 = 3_000;
/// No UTF-8. It is looked at last, so this is what is said of an event whose topic and type are right; and nothing is stored.
const BROKEN: &[u8] = b"\xff";

/// What an event is refused for.
fn code(answer: &Answer) -> &str {
    match answer {
        Answer::Refused(code, _) => code,
        other => panic!("wanted a refusal, got {other:?}"),
    }
}

/// Asks a Redis with the library from a test that is not asynchronous.
struct Asker {
    connection: RedisConnection,
    runtime: Runtime,
    _redis: RedisServer,
}

impl Asker {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (connection, redis) = runtime.block_on(async {
            let redis = RedisServer::start().await;
            redis.command(&["FUNCTION", "LOAD", LIBRARY]).await;
            (redis.connect().await, redis)
        });
        Self {
            connection,
            runtime,
            _redis: redis,
        }
    }

    fn ask(&mut self, words: &[Vec<u8>]) -> Value {
        self.runtime.block_on(self.connection.ask(words))
    }

    fn publish(&mut self, publish: &Publish) -> Answer {
        Answer::of_call(&self.ask(&publish.words()))
    }

    fn takes_topic(&mut self, topic: &[u8]) -> bool {
        code(&self.publish(&event(topic, BROKEN))) != "TOPIC_INVALID"
    }

    fn takes_type(&mut self, kind: &[u8]) -> bool {
        code(&self.publish(&event("a", BROKEN).kind(kind))) != "TYPE_INVALID"
    }
}

fn is_topic(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| text.parse::<Topic>().is_ok())
}

/// An empty type is `message`.
fn is_type(bytes: &[u8]) -> bool {
    bytes.is_empty() || str::from_utf8(bytes).is_ok_and(|text| text.parse::<EventType>().is_ok())
}

/// Characters at the borders of what is allowed, and of the forms of UTF-8.
const BORDERS: &[char] = &[
    '\0',
    '\u{1}',
    '\t',
    '\n',
    '\u{b}',
    '\r',
    '\u{1f}',
    ' ',
    '!',
    '$',
    '*',
    '+',
    ',',
    '-',
    '{',
    '|',
    '}',
    '~',
    '\u{7f}',
    '\u{80}',
    '\u{85}',
    '\u{9f}',
    '\u{a0}',
    '\u{a1}',
    '\u{7ff}',
    '\u{800}',
    '\u{fff}',
    '\u{1000}',
    '\u{167f}',
    '\u{1680}',
    '\u{1681}',
    '\u{180e}',
    '\u{1fff}',
    '\u{2000}',
    '\u{200a}',
    '\u{200b}',
    '\u{2027}',
    '\u{2028}',
    '\u{2029}',
    '\u{202a}',
    '\u{202f}',
    '\u{2030}',
    '\u{205f}',
    '\u{2060}',
    '\u{2fff}',
    '\u{3000}',
    '\u{3001}',
    '\u{d7ff}',
    '\u{e000}',
    '\u{feff}',
    '\u{fffd}',
    '\u{ffff}',
    '\u{10000}',
    '\u{3ffff}',
    '\u{40000}',
    '\u{10ffff}',
];

/// What looks like UTF-8 and is none: cut off, too long, a surrogate, beyond the last character, a stray byte.
const NEARLY: &[&[u8]] = &[
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xc2",
    b"\xc2\x41",
    b"\xc2\xc2\x80",
    b"\xdf",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xe0\xa0",
    b"\xe1\x80",
    b"\xe2\x80",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xee\x80",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf0\x90\x80",
    b"\xf1\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff",
];

/// Bytes that are often, but by far not always, a text.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let encoded = |character: char| character.to_string().into_bytes();
    let plain = || "[a-z/.:-]{1,12}".prop_map(String::into_bytes);
    let piece = prop_oneof![
        8 => plain(),
        4 => prop::sample::select(BORDERS).prop_map(encoded),
        4 => any::<char>().prop_map(encoded),
        1 => prop::sample::select(NEARLY).prop_map(<[u8]>::to_vec),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    let pieces = prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    // Around the greatest length of a type (128) and of a topic (255).
    let long = (
        prop_oneof![120_usize..132, 246_usize..260],
        plain(),
        any::<char>(),
    )
        .prop_map(move |(length, plain, last)| {
            let mut bytes: Vec<u8> = plain.iter().copied().cycle().take(length).collect();
            bytes.extend(encoded(last));
            bytes
        });
    prop_oneof![6 => pieces, 1 => long]
}

fn for_all<T: std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
    mut property: impl FnMut(T) -> Result<(), TestCaseError>,
) {
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(CASES)
    };
    let property = RefCell::new(&mut property);
    let result = TestRunner::new(config).run(&strategy, |value| property.borrow_mut()(value));
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn a_topic_is_what_the_gateway_takes_for_one() {
    let mut redis = Asker::new();
    for_all(bytes(), |bytes| {
        prop_assert_eq!(redis.takes_topic(&bytes), is_topic(&bytes));
        Ok(())
    });
}

#[test]
fn a_type_is_what_the_gateway_takes_for_one() {
    let mut redis = Asker::new();
    for_all(bytes(), |bytes| {
        prop_assert_eq!(redis.takes_type(&bytes), is_type(&bytes));
        Ok(())
    });
}

/// Each character that a topic may not have is tried, and all others, as many as fit a name at once.
#[test]
fn every_character_there_is_is_judged_alike_in_topics() {
    let mut redis = Asker::new();
    let mut name = String::new();
    let mut refused = 0;
    for character in '\0'..=char::MAX {
        if is_topic(format!("a{character}").as_bytes()) {
            if name.len() + character.len_utf8() > Topic::MAX_BYTES {
                assert!(redis.takes_topic(name.as_bytes()), "{name:?}");
                name.clear();
            }
            if !(name.is_empty() && character == '$') {
                name.push(character);
            }
        } else {
            refused += 1;
            let name = format!("a{character}");
            assert!(!redis.takes_topic(name.as_bytes()), "{name:?}");
        }
    }
    assert!(redis.takes_topic(name.as_bytes()), "{name:?}");
    assert!(refused > 80, "{refused}");
}

#[test]
fn every_character_there_is_is_judged_alike_in_types() {
    let mut redis = Asker::new();
    for character in '\0'..'\u{3100}' {
        let kind = character.to_string();
        assert_eq!(
            redis.takes_type(kind.as_bytes()),
            is_type(kind.as_bytes()),
            "{kind:?}"
        );
    }
}

#[test]
fn data_is_any_utf_8() {
    let mut redis = Asker::new();
    for_all(bytes(), |bytes| {
        let answer = redis.publish(&event("a", &bytes));
        if str::from_utf8(&bytes).is_ok() {
            prop_assert!(matches!(answer, Answer::Stored(_)), "{:?}", answer);
        } else {
            prop_assert_eq!(code(&answer), "DATA_INVALID");
        }
        Ok(())
    });
}

/// Types and data in which every kind of line end and of empty line comes often.
fn contents() -> impl Strategy<Value = (String, String)> {
    let data = prop_oneof![
        4 => "[ab\r\n]{0,12}",
        1 => "(\r\n|\n|\r|é|\u{2028}|🌊|[ -~]{1,20}){0,12}",
    ];
    let kind = prop_oneof![
        Just("message".to_owned()),
        "[a-z]{1,9}".prop_map(|kind| kind),
        Just("größe".to_owned())
    ];
    (kind, data)
}

/// Bytes of an event of the topic `a` on the wire, as the gateway counts them.
fn wire_bytes(id: EventId, kind: &str, data: &str) -> usize {
    let event = Event {
        id,
        previous: EventId::ZERO,
        topic: "a".parse().unwrap(),
        kind: kind.parse().unwrap(),
        data: data.into(),
        end: false,
    };
    event.wire_bytes()
}

/// Budgets count bytes on the wire. An empty line used to be counted with the blank that it does not have.
#[test]
fn the_running_total_counts_the_bytes_on_the_wire() {
    let mut redis = Asker::new();
    let mut total = 0;
    for_all(contents(), |(kind, data)| {
        let id = redis.publish(&event("a", &data).kind(&kind)).stored();
        let newest = ["XREVRANGE", &key("topic:a"), "+", "-", "COUNT", "1"];
        let newest = redis.ask(&newest.map(|word| word.as_bytes().to_vec()));
        let entry = Entry::of(&newest.items()[0]);
        let before = total;
        total = entry.bytes();
        prop_assert_eq!(entry.id, id);
        prop_assert_eq!(total - before, wire_bytes(id, &kind, &data));
        Ok(())
    });
}
