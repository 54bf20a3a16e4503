//! What must hold of every parser of foreign bytes, whatever the bytes are.
//!
//! One function a parser, shared by the fuzz targets beside this file and by `tests/corpus.rs`. "It does not panic" would let a
//! parser through that reads everything as nothing, so each one is held against a model that is written another way, and
//! what it accepts has to survive being written and read again.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use tidegate::{
    auth::{Auth, Credential, CredentialKind, Denied, MAX_BYTES, Tickets, credential},
    config::{Config, Flag, Sources},
    event::{
        Envelope, Event, EventId, EventType, Frame, Message, Parser, PublishItem, Topic, TopicList,
        TopicListError,
    },
    http::{
        app::rfc3339,
        problem::Code,
        query::Query,
        ws::message::{self, Reference, Request},
    },
    log::{Cursor, Start},
    store::redis::{
        entry::{self, Message as FeedMessage},
        ingest::waiting::{LONGEST, waiting},
        resp::{Decoder, RespError, Value as Resp},
    },
};

/// A cursor, one on each line: what is read is what was written, and cursors are ordered as their numbers are.
pub(crate) fn cursor(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut seen: Vec<((u64, u64), Cursor)> = Vec::new();
    for line in text.split('\n').chain([text]) {
        let expected = line
            .split_once('-')
            .and_then(|(ms, seq)| Some((number(ms)?, number(seq)?)));
        match (line.parse::<Cursor>(), expected) {
            (Ok(cursor), Some((ms, seq))) => {
                let id = cursor.id();
                assert_eq!((id.ms(), id.seq()), (ms, seq), "{line:?}");
                assert_eq!(cursor.to_string(), line);
                assert_eq!(line.parse::<EventId>(), Ok(id));
                let mut written = Vec::new();
                id.write_to(&mut written);
                assert_eq!(written, line.as_bytes());
                assert_eq!(id.text_len(), line.len());
                assert!(line.len() <= Cursor::MAX_BYTES);
                // Anything else in it, and browsers ask for leave before they reconnect (Fetch, 2.2.2).
                assert!(
                    line.bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                );
                assert!(id == EventId::MAX || (id.next() > id && id.next().previous() == id));
                assert_eq!(Start::after(cursor) == Start::Earliest, (ms, seq) == (0, 0));
                seen.push(((ms, seq), cursor));
            }
            (Err(_), None) => {}
            (read, expected) => panic!("{line:?} is read as {read:?}, expected {expected:?}"),
        }
    }
    for (numbers, cursor) in &seen {
        for (other_numbers, other) in &seen {
            assert_eq!(cursor.cmp(other), numbers.cmp(other_numbers));
        }
    }
}

/// A number in its one spelling.
fn number(text: &str) -> Option<u64> {
    text.parse::<u64>()
        .ok()
        .filter(|number| number.to_string() == text)
}

/// Values of `topic=`, one on each line: a name is one exactly if the rules say so, and a list names each once, in order.
pub(crate) fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let values: Vec<&str> = text.lines().collect();
    let limit = bytes.len() % 5 + 1;
    for name in values
        .iter()
        .flat_map(|value| value.split(','))
        .chain([text])
    {
        match name.parse::<Topic>() {
            Ok(topic) => {
                assert!(is_topic(name), "{name:?} was taken for a topic");
                assert_eq!(topic.as_str(), name);
                let json = serde_json::to_string(&topic).expect("text is JSON");
                assert_eq!(
                    serde_json::from_str::<Topic>(&json).expect("a topic"),
                    topic
                );
            }
            Err(error) => assert!(!is_topic(name), "{name:?} was refused: {error}"),
        }
    }

    let default: Topic = "default".parse().expect("a topic");
    let mut names: Vec<&str> = Vec::new();
    for name in values.iter().flat_map(|value| value.split(',')) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // A name is judged before it is counted, so one too many of them is told as what it is.
    let wrong = names.iter().take(limit + 1).find(|name| !is_followed(name));
    match TopicList::parse(values.iter().copied(), &default, limit) {
        Ok(list) => {
            assert!(wrong.is_none() && names.len() <= limit, "{values:?}");
            let read: Vec<&str> = list.as_slice().iter().map(Topic::as_str).collect();
            assert_eq!(
                read,
                if names.is_empty() {
                    vec!["default"]
                } else {
                    names
                }
            );
            let joined = read.join(",");
            assert_eq!(
                TopicList::parse([&*joined], &default, limit),
                Ok(list.clone())
            );
            assert_eq!(TopicList::parse(read, &default, limit), Ok(list.clone()));
        }
        Err(TopicListError::Topic { name, .. }) => {
            let wrong: Option<String> = wrong.map(|name| name.chars().take(64).collect());
            assert_eq!(Some(name), wrong);
        }
        Err(TopicListError::TooMany { limit: told }) => {
            assert!(
                wrong.is_none() && names.len() > limit && told == limit,
                "{values:?}"
            );
        }
    }
}

/// What can be followed: a topic, or who is there of one.
fn is_followed(name: &str) -> bool {
    is_topic(name.strip_prefix("$presence/").unwrap_or(name))
}

fn is_topic(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('$')
        && !name
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || "*{},".contains(c))
}

/// An event in JSON: it is read as any JSON parser reads it, and what was read is read again the same.
pub(crate) fn publish_json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let read = PublishItem::from_json(text);
    if let Ok(item) = &read {
        let mut written = serde_json::Map::new();
        written.insert("event".into(), item.kind.as_str().into());
        written.insert("end".into(), item.end.into());
        let texts = [
            ("topic", item.topic.as_ref().map(Topic::as_str)),
            ("data", item.data.as_deref()),
            ("key", item.key.as_deref()),
        ];
        for (name, value) in texts {
            written.extend(value.map(|value| (name.to_owned(), value.into())));
        }
        let again = PublishItem::from_json(&Value::Object(written).to_string());
        assert_eq!(again.as_ref().ok(), Some(item), "{text}");
    }
    // The model cannot read everything that is JSON: it has a limit of depth and one of numbers, and no lone surrogates.
    let Ok(model) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let is_item = serde_json::from_str::<Members>(text).is_ok_and(|members| members.are_an_item());
    match read {
        Ok(item) => {
            assert!(is_item, "{text} was taken for an event");
            assert_eq!(
                item.topic.as_ref().map(Topic::as_str),
                model["topic"].as_str()
            );
            assert_eq!(
                item.kind.as_str(),
                model["event"].as_str().unwrap_or("message")
            );
            assert_eq!(item.end, model["end"].as_bool().unwrap_or(false));
            assert_eq!(item.key.as_deref(), model["key"].as_str());
            match (item.data.as_deref(), model.get("data")) {
                (Some(data), Some(Value::String(expected))) => assert_eq!(data, expected),
                (Some(data), Some(expected)) => {
                    assert_eq!(
                        &serde_json::from_str::<Value>(data).expect("data stays JSON"),
                        expected
                    );
                    assert!(
                        is_compact(data),
                        "{data:?} has white space between its tokens"
                    );
                }
                (Some(data), None) => assert!(data.is_empty() && !item.end),
                (None, expected) => assert!(expected.is_none() && item.end),
            }
        }
        Err(error) => assert!(!is_item, "{text} was refused: {error}"),
    }
}

/// A message of a WebSocket client: it wants what any JSON parser reads in it, its reference comes back as it was written, and
/// what was read is read again the same.
pub(crate) fn ws_message(bytes: &[u8]) {
    const MOST: usize = 3;
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (reference, request) = message::read(text, MOST);
    if let Some(reference) = &reference {
        let json = reference.as_json();
        assert!(json.len() <= message::MAX_REFERENCE && text.contains(json));
        assert!(
            json.starts_with(['"', '-']) || json.as_bytes()[0].is_ascii_digit(),
            "{json}"
        );
    }
    if let Ok(request) = &request {
        let written = as_message(reference.as_ref(), request);
        assert_eq!(
            message::read(&written, MOST),
            (reference.clone(), Ok(request.clone())),
            "{text} is written as {written}"
        );
    }
    // As above, the model cannot read all that is JSON.
    let Ok(model) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let Ok(members) = serde_json::from_str::<Members>(text) else {
        assert!(request.is_err() && !model.is_object(), "{text}");
        return;
    };
    if let Some(reference) = &reference {
        let read: Value = serde_json::from_str(reference.as_json()).expect("it stays JSON");
        assert_eq!(read, model["ref"], "{text}");
    }
    let fits = match &model["ref"] {
        Value::Null => Some(true),
        Value::String(text) if text.len() > message::MAX_REFERENCE => Some(false),
        Value::String(_) | Value::Number(_) => {
            // A letter may be written in several ways, so near the limit the model does not know.
            (text.len() <= message::MAX_REFERENCE).then_some(true)
        }
        _ => Some(false),
    };
    let expected = members.are_a_request(MOST);
    match &request {
        Ok(request) => {
            assert_ne!(fits, Some(false), "{text}");
            assert_eq!(reference.is_some(), !model["ref"].is_null(), "{text}");
            assert!(
                expected.as_ref().is_some_and(|expected| expected(request)),
                "{text} was read as {request:?}"
            );
        }
        Err(problem) => assert!(
            expected.is_none() || fits != Some(true),
            "{text} was refused: {problem:?}"
        ),
    }
}

/// A request as a client might write it.
fn as_message(reference: Option<&Reference>, request: &Request) -> String {
    let mut members = vec![];
    let mut push = |name: &str, value: String| members.push(format!("{name:?}:{value}"));
    let names = |topics: &[Topic]| serde_json::to_string(topics).expect("text is JSON");
    let text = |text: &str| Value::from(text).to_string();
    match request {
        Request::Subscribe(topics, start) => {
            push("topics", names(topics));
            match start {
                Start::Now => {}
                Start::After(cursor) => push("lastEventId", text(&cursor.to_string())),
                Start::Earliest => push("lastEventId", text("earliest")),
                Start::Since(ms) => push("since", ms.to_string()),
                Start::Age(ms) => push("since", text(&format!("{ms}ms"))),
                Start::Last(count) => push("last", count.to_string()),
                Start::Unreadable => panic!("a message that cannot be read is refused"),
            }
            push("type", text("subscribe"));
        }
        Request::Unsubscribe(topics) => {
            push("type", text("unsubscribe"));
            push("topics", names(topics));
        }
        Request::Publish(item) => {
            push("type", text("publish"));
            push("event", text(item.kind.as_str()));
            push("end", item.end.to_string());
            let texts = [
                ("topic", item.topic.as_ref().map(Topic::as_str)),
                ("data", item.data.as_deref()),
                ("key", item.key.as_deref()),
            ];
            for (name, value) in texts {
                if let Some(value) = value {
                    push(name, text(value));
                }
            }
        }
        Request::Ping => push("type", text("ping")),
    }
    if let Some(reference) = reference {
        push("ref", reference.as_json().to_owned());
    }
    format!("{{{}}}", members.join(","))
}

/// The members of an object as they were written, also those that are there twice.
struct Members(Vec<(String, Value)>);

/// Whether a request is the one that was asked for.
type Expected<'a> = Box<dyn Fn(&Request) -> bool + 'a>;

impl Members {
    fn get(&self, name: &str) -> Option<&Value> {
        let mut named = self.0.iter().filter(|(member, _)| member == name);
        named.next().map(|(_, value)| value)
    }

    fn are_among(&self, names: &[&str]) -> bool {
        let Self(members) = self;
        members.iter().enumerate().all(|(at, (name, _))| {
            names.contains(&name.as_str())
                && members[..at].iter().all(|(earlier, _)| earlier != name)
        })
    }

    /// What a client that wrote these wants; none if they are no request.
    fn are_a_request(&self, most: usize) -> Option<Expected<'_>> {
        match self.get("type")?.as_str()? {
            "ping" if self.are_among(&["type", "ref"]) => {
                Some(Box::new(|request| *request == Request::Ping))
            }
            "unsubscribe" if self.are_among(&["type", "ref", "topics"]) => {
                let topics = self.topics(most)?;
                Some(Box::new(move |request| match request {
                    Request::Unsubscribe(read) => read.iter().map(Topic::as_str).eq(topics.clone()),
                    _ => false,
                }))
            }
            "subscribe"
                if self.are_among(&["type", "ref", "topics", "lastEventId", "since", "last"]) =>
            {
                let (topics, starts) = (self.topics(most)?, self.start()?);
                Some(Box::new(move |request| match request {
                    Request::Subscribe(read, start) => {
                        read.iter().map(Topic::as_str).eq(topics.clone()) && starts(*start)
                    }
                    _ => false,
                }))
            }
            "publish" => {
                let once = self.are_among(&["type", "ref", "topic", "event", "data", "end", "key"]);
                let rest = self
                    .0
                    .iter()
                    .filter(|(name, _)| name != "type" && name != "ref");
                let rest = Members(rest.cloned().collect());
                (once && rest.are_an_item()).then(|| -> Expected<'_> {
                    // The same item alone, which has an oracle of its own.
                    let alone = rest.0.into_iter().collect::<serde_json::Map<_, _>>();
                    let alone = PublishItem::from_json(&Value::Object(alone).to_string());
                    Box::new(move |request| match (request, &alone) {
                        (Request::Publish(read), Ok(alone)) => {
                            (&read.topic, &read.kind, read.end, &read.key)
                                == (&alone.topic, &alone.kind, alone.end, &alone.key)
                                && read.data.is_some() == alone.data.is_some()
                        }
                        _ => false,
                    })
                })
            }
            _ => None,
        }
    }

    /// The names in `topics`, each once.
    fn topics(&self, most: usize) -> Option<Vec<&str>> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.get("topics")?.as_array()? {
            let name = name.as_str()?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let fine = (1..=most).contains(&names.len()) && names.iter().all(|name| is_followed(name));
        fine.then_some(names)
    }

    /// Where these members say to start.
    fn start(&self) -> Option<Box<dyn Fn(Start) -> bool + '_>> {
        let place = |name| self.get(name).filter(|value| !value.is_null());
        let number = |value: &Value| value.is_string() || value.is_u64();
        let (since, last) = (place("since"), place("last"));
        if !since.into_iter().chain(last).all(number) {
            return None;
        }
        if let Some(cursor) = place("lastEventId") {
            let expected = match cursor.as_str()? {
                "" => None,
                "earliest" => Some(Start::Earliest),
                text => Some(Start::after(text.parse().ok()?)),
            };
            if let Some(expected) = expected {
                return Some(Box::new(move |start| start == expected));
            }
        }
        let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
        match (since.map(text), last.map(text)) {
            (Some(since), _) => {
                // The ways of writing a time have an oracle of their own.
                let query = format!("since={}", percent(since.as_bytes()));
                let query = Query::parse(Some(&query)).expect("it is encoded");
                let (expected, _) = query.start(&HeaderMap::new()).ok()?;
                Some(Box::new(move |start| start == expected))
            }
            (None, Some(last)) => {
                let count = last.parse().ok().filter(|count| *count <= 1_000)?;
                Some(Box::new(move |start| start == Start::Last(count)))
            }
            (None, None) => Some(Box::new(|start| start == Start::Now)),
        }
    }

    fn are_an_item(&self) -> bool {
        let Self(members) = self;
        members.iter().enumerate().all(|(at, (name, value))| {
            let once = members[..at].iter().all(|(earlier, _)| earlier != name);
            once && match (name.as_str(), value) {
                ("topic", Value::String(topic)) => is_topic(topic),
                ("event", Value::String(kind)) => {
                    (1..=128).contains(&kind.len())
                        && !kind.starts_with('$')
                        && !kind.contains(['\r', '\n', '\0'])
                }
                ("end", value) => value.is_boolean(),
                ("key", Value::String(_))
                | ("topic" | "event" | "key", Value::Null)
                | ("data", _) => true,
                _ => false,
            }
        })
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// Whether JSON has no white space outside of its strings.
fn is_compact(json: &str) -> bool {
    let (mut in_string, mut escaped) = (false, false);
    json.chars().all(|c| {
        let space = !in_string && c.is_ascii_whitespace();
        in_string ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        !space
    })
}

/// A `Last-Event-ID` on the first line, a query after it: names and values come out as they went in, and a start is what
/// the rules of precedence say.
pub(crate) fn query(bytes: &[u8]) {
    // What a caller puts in, percent-encoded, is what the gateway takes out.
    let pairs: Vec<(&[u8], &[u8])> = bytes
        .split(|&byte| byte == b'&')
        .map(|pair| cut(pair, b'=').unwrap_or((pair, b"")))
        .collect();
    let encoded: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", percent(name), percent(value)))
        .collect();
    let readable = pairs.iter().all(|(name, value)| {
        [name, value]
            .iter()
            .all(|text| std::str::from_utf8(text).is_ok())
    });
    match Query::parse(Some(&encoded.join("&"))) {
        Ok(query) => {
            assert!(readable);
            same(&query, &pairs);
        }
        Err(problem) => assert!(
            !readable && problem.code == Code::Utf8Invalid,
            "{problem:?}"
        ),
    }

    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (header, text) = text.split_once('\n').unwrap_or(("", text));
    let decoded = decode(text);
    match (Query::parse(Some(text)), &decoded) {
        (Ok(query), Ok(pairs)) => {
            let pairs: Vec<(&[u8], &[u8])> = pairs
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect();
            same(&query, &pairs);
            start(&query, header);
            options(&query);
        }
        (Err(problem), Err(code)) => assert_eq!(problem.code, *code, "{text:?}"),
        (read, decoded) => panic!("{text:?} is read as {read:?}, expected {decoded:?}"),
    }

    // Any moment to the year 9999, in the two ways of writing it.
    let ms = bytes.iter().fold(0_u64, |sum, &byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    }) % 253_402_300_799_999;
    for since in [
        ms.to_string(),
        rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
    ] {
        let query = format!("since={since}");
        let query = Query::parse(Some(&query)).expect("plain text");
        assert_eq!(
            query.start(&HeaderMap::new()),
            Ok((Start::Since(ms), false)),
            "{since}"
        );
    }
}

fn cut(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == at)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn percent(bytes: &[u8]) -> String {
    let digit = |number: u8| char::from_digit(number.into(), 16).expect("half a byte");
    bytes
        .iter()
        .flat_map(|byte| ['%', digit(byte >> 4), digit(byte & 15)])
        .collect()
}

type Decoded = Vec<(Vec<u8>, Vec<u8>)>;

/// The pairs of a query, or the code of the first thing that is wrong with it.
fn decode(query: &str) -> Result<Decoded, Code> {
    let one = |text: &str| {
        let mut bytes = Vec::new();
        let mut pieces = text.split('%');
        let plain = |piece: &str| piece.replace('+', " ").into_bytes();
        bytes.extend(plain(pieces.next().unwrap_or_default()));
        for piece in pieces {
            let digits = piece
                .get(..2)
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let digits = digits.ok_or(Code::QueryInvalid)?;
            bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
            bytes.extend(plain(&piece[2..]));
        }
        std::str::from_utf8(&bytes).map_err(|_| Code::Utf8Invalid)?;
        Ok(bytes)
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((one(name)?, one(value)?))
        })
        .collect()
}

/// Each name has its values, in order, and nothing else.
fn same(query: &Query<'_>, pairs: &[(&[u8], &[u8])]) {
    for (name, _) in pairs {
        let values: Vec<&[u8]> = pairs
            .iter()
            .filter(|(other, _)| other == name)
            .map(|(_, value)| *value)
            .collect();
        let name = std::str::from_utf8(name).expect("was judged before");
        assert_eq!(
            query.all(name).map(str::as_bytes).collect::<Vec<_>>(),
            values
        );
        assert_eq!(
            query.first(name).map(str::as_bytes),
            values.first().copied()
        );
    }
    // Longer than any of them, so none of them.
    let names: Vec<&[u8]> = pairs.iter().map(|(name, _)| *name).collect();
    let other = String::from_utf8(names.concat()).expect("was judged before") + "x";
    assert_eq!(query.first(&other), None);
}

/// The first that is present wins: the header, `lastEventId` in its spellings, `since`, `last`.
fn start(query: &Query<'_>, header: &str) {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(header) {
        headers.insert("last-event-id", value);
    }
    let header = headers
        .get("last-event-id")
        .filter(|header| !header.is_empty());
    let cursor = ["lastEventId", "last_event_id", "lastEventID"]
        .iter()
        .find_map(|name| query.first(name).filter(|text| !text.is_empty()));
    match (query.start(&headers), header, cursor) {
        (Ok((start, true)), Some(header), _) => {
            let cursor = header
                .to_str()
                .ok()
                .and_then(|text| text.trim().parse().ok());
            assert_eq!(start, cursor.map_or(Start::Unreadable, Start::after));
        }
        (Ok((start, false)), None, Some(text)) => match text {
            "earliest" => assert_eq!(start, Start::Earliest),
            text => assert_eq!(Ok(start), text.parse().map(Start::after)),
        },
        (Ok((start, false)), None, None) => {
            match (query.first("since"), query.first("last"), start) {
                (None, None, Start::Now) | (Some(_), _, Start::Since(_) | Start::Age(_)) => {}
                (None, Some(count), Start::Last(read)) => {
                    assert!(count.parse() == Ok(read) && read <= 1_000);
                }
                (since, last, start) => {
                    panic!("since={since:?} and last={last:?} start at {start:?}")
                }
            }
        }
        (Err(problem), None, Some(_)) => assert_eq!(problem.code, Code::CursorInvalid),
        (Err(problem), None, None) if query.first("since").is_some() => {
            assert_eq!(problem.code, Code::SinceInvalid);
        }
        (Err(problem), None, None) => assert_eq!(problem.code, Code::QueryInvalid),
        (read, header, cursor) => {
            panic!("header {header:?} and query {cursor:?} are read as {read:?}")
        }
    }
}

/// A value that is not known is refused, and never taken for another one.
fn options(query: &Query<'_>) {
    let known = |name: &str, values: [&str; 2]| {
        query
            .first(name)
            .is_none_or(|value| values.contains(&value))
    };
    let all_known = known("envelope", ["json", "none"])
        && known("heartbeat", ["event", "comment"])
        && known("control", ["on", "off"]);
    for topics in [1, 2] {
        match query.sse_options(topics) {
            Ok(options) => {
                assert!(all_known);
                let envelope = match (query.first("envelope"), topics) {
                    (Some("json"), _) => Envelope::Json,
                    (_, 1) => Envelope::Plain,
                    _ => Envelope::Topic,
                };
                assert_eq!(options.envelope, envelope);
                assert_eq!(options.heartbeat, query.first("heartbeat") == Some("event"));
                assert_eq!(options.quiet, query.first("control") == Some("off"));
            }
            Err(problem) => assert!(!all_known && problem.code == Code::QueryInvalid),
        }
    }
    assert_eq!(
        query.refuse().is_ok(),
        known("refuse", ["status", "stream"])
    );
}

/// An id, a type and a topic on three lines, then the data: the frame of that event is read back as that event, in every
/// form and cut into any pieces. Then the same bytes as a stream of somebody's: they are read as the standard says.
pub(crate) fn frame(bytes: &[u8]) {
    let mut lines = bytes
        .splitn(4, |&byte| byte == b'\n')
        .map(|line| std::str::from_utf8(line).ok());
    let mut line = || lines.next().flatten();
    let event = Event {
        id: line().and_then(|id| id.parse().ok()).unwrap_or_default(),
        previous: EventId::ZERO,
        kind: line()
            .and_then(|kind| kind.parse().ok())
            .unwrap_or_default(),
        topic: line()
            .and_then(|topic| topic.parse().ok())
            .unwrap_or_else(|| "t".parse().expect("a topic")),
        data: line().unwrap_or_default().into(),
        end: false,
    };
    frame_written(&Arc::new(event));

    let expected = reference(bytes);
    for size in [bytes.len().max(1), 1, 2, 7] {
        let mut parser = Parser::default();
        let read: Vec<Message> = bytes
            .chunks(size)
            .flat_map(|piece| parser.feed(piece))
            .collect();
        assert_eq!(read, expected, "in pieces of {size} bytes");
    }
}

fn frame_written(event: &Arc<Event>) {
    let frame = Frame::new(event.clone(), 0);
    // Each of the three line ends is one, and a browser sees `\n` (HTML, 9.2.6).
    let data = event.data.replace("\r\n", "\n").replace('\r', "\n");
    for envelope in [Envelope::Plain, Envelope::Topic, Envelope::Json] {
        let sse = frame.sse(envelope);
        let chunk = [format!("{:X}\r\n", sse.len()).as_bytes(), &sse, b"\r\n"].concat();
        assert_eq!(
            frame.chunk(envelope),
            &chunk,
            "a chunk is the frame with its length around it"
        );
        for size in [sse.len(), 1, 3] {
            let mut parser = Parser::default();
            let messages: Vec<Message> = sse
                .chunks(size)
                .flat_map(|piece| parser.feed(piece))
                .collect();
            let [message] = &*messages else {
                panic!("{event:?} became {messages:?}");
            };
            assert_eq!(message.id, Some(event.id.to_string()));
            assert_eq!(
                message.event.as_deref(),
                (event.kind.as_str() != "message").then_some(event.kind.as_str())
            );
            assert_eq!(
                message.topic.as_deref(),
                (envelope == Envelope::Topic).then_some(event.topic.as_str())
            );
            assert_eq!((message.retry_ms, &*message.comments), (None, &[][..]));
            let read = message.data.as_deref().expect("an event has data");
            if envelope == Envelope::Json {
                let json: Value = serde_json::from_str(read).expect("the envelope is JSON");
                let members = [
                    ("id", &*event.id.to_string()),
                    ("topic", event.topic.as_str()),
                    ("event", event.kind.as_str()),
                    ("data", &event.data),
                ];
                assert_eq!(
                    json.as_object().map(serde_json::Map::len),
                    Some(members.len())
                );
                for (name, value) in members {
                    assert_eq!(json[name], *value);
                }
            } else {
                assert_eq!(read, data);
            }
        }
    }
    assert_eq!(
        frame.wire_bytes(),
        frame.sse(Envelope::Plain).len(),
        "budgets count bytes on the wire"
    );
    assert_eq!(
        event.kind.as_str().parse::<EventType>().as_ref(),
        Ok(&event.kind)
    );
}

/// The blocks of a whole stream, read as the standard describes it: decode, cut into lines, then interpret each.
fn reference(bytes: &[u8]) -> Vec<Message> {
    let text = String::from_utf8_lossy(bytes);
    let text = text
        .strip_prefix('\u{feff}')
        .unwrap_or(&text)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let mut blocks = vec![Message::default()];
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop(); // Without a line end it is no line yet.
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        let block = blocks.last_mut().expect("there is always one");
        match name {
            "" if line.is_empty() => blocks.push(Message::default()),
            "" => block.comments.push(value),
            "data" => {
                let before = block.data.take().map(|data| data + "\n");
                block.data = Some(before.unwrap_or_default() + &value);
            }
            "event" => block.event = Some(value),
            "topic" => block.topic = Some(value),
            "id" if !value.contains('\0') => block.id = Some(value),
            "retry" if !value.contains(|c: char| !c.is_ascii_digit()) => {
                block.retry_ms = value.parse().ok().or(block.retry_ms);
            }
            _ => {}
        }
    }
    blocks.pop(); // Without an empty line after it, it is no block yet.
    blocks.retain(|block| *block != Message::default());
    blocks
}

/// What Redis sends: the first byte says how many bytes come at once, which makes no difference; a second reader, which needs
/// all bytes before it begins, reads the same values; and what was read is read again from its plainest form.
pub(crate) fn resp(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else {
        return;
    };
    let (values, error) = decode_resp(bytes, usize::from(step).max(1));
    assert_eq!(
        decode_resp(bytes, bytes.len().max(1)),
        (values.clone(), error.clone())
    );
    let mut plain = Vec::new();
    for value in &values {
        write_resp(value, &mut plain);
    }
    assert_eq!(decode_resp(&plain, 7), (values.clone(), None));
    let mut rest = bytes;
    for value in values {
        // Attributes before a value belong to nothing.
        let (model, left) = loop {
            match whole_resp(rest) {
                Some((Some(model), left)) => break (model, left),
                Some((None, left)) => rest = left,
                None => panic!("the second reader sees no value where {value:?} was read"),
            }
        };
        assert_eq!(model, value);
        rest = left;
    }
}

fn decode_resp(bytes: &[u8], step: usize) -> (Vec<Resp>, Option<RespError>) {
    decode_by(Decoder::default(), bytes, step)
}

fn decode_by(mut decoder: Decoder, bytes: &[u8], step: usize) -> (Vec<Resp>, Option<RespError>) {
    let (mut input, mut values) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(error) => return (values, Some(error)),
            }
        }
    }
    (values, None)
}

fn write_resp(value: &Resp, output: &mut Vec<u8>) {
    let mut head = |kind: char, number: usize| {
        output.extend_from_slice(format!("{kind}{number}\r\n").as_bytes());
    };
    match value {
        Resp::Null => output.extend_from_slice(b"_\r\n"),
        Resp::Long(_) => unreachable!("this decoder passes over nothing"),
        Resp::Number(number) => output.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Resp::Text(text) => {
            head('$', text.len());
            output.extend_from_slice(text);
            output.extend_from_slice(b"\r\n");
        }
        Resp::Error(text) => {
            head('!', text.len());
            output.extend_from_slice(text.as_bytes());
            output.extend_from_slice(b"\r\n");
        }
        Resp::Array(values) | Resp::Push(values) => {
            let kind = if matches!(value, Resp::Push(_)) {
                '>'
            } else {
                '*'
            };
            head(kind, values.len());
            for value in values {
                write_resp(value, output);
            }
        }
    }
}

/// The first value of these bytes, read from all of them by recursion, and what follows it. No value: an attribute.
fn whole_resp(bytes: &[u8]) -> Option<(Option<Resp>, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
    let (kind, word) = line.split_first()?;
    let text = || String::from_utf8_lossy(word).into_owned();
    let number = || text().parse::<i64>().ok();
    let several = |count: usize| {
        let (mut values, mut rest) = (Vec::new(), rest);
        while values.len() < count {
            let (value, left) = whole_resp(rest)?;
            values.extend(value);
            rest = left;
        }
        Some((values, rest))
    };
    let value = match kind {
        b'+' | b',' | b'(' => Resp::Text(word.to_vec().into()),
        b'-' => Resp::Error(text().into()),
        b':' => Resp::Number(number()?),
        b'#' => Resp::Number(i64::from(word == b"t")),
        b'_' => Resp::Null,
        b'$' | b'=' | b'!' | b'*' if word == b"-1" => Resp::Null,
        b'$' | b'=' | b'!' => {
            let count = usize::try_from(number()?).ok()?;
            let (body, rest) = (rest.get(..count)?, rest.get(count + 2..)?);
            let value = match kind {
                b'!' => Resp::Error(String::from_utf8_lossy(body).into()),
                b'=' => Resp::Text(body.get(4..).unwrap_or_default().to_vec().into()),
                _ => Resp::Text(body.to_vec().into()),
            };
            return Some((Some(value), rest));
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let pairs = matches!(kind, b'%' | b'|');
            let count = usize::try_from(number()?).ok()? * if pairs { 2 } else { 1 };
            let (values, rest) = several(count)?;
            let value = match kind {
                b'|' => None,
                b'>' => Some(Resp::Push(values)),
                _ => Some(Resp::Array(values)),
            };
            return Some((value, rest));
        }
        _ => return None,
    };
    Some((Some(value), rest))
}

/// What `XREAD` answers about the ingest stream, after a step in which it comes: texts that are passed over change nothing else,
/// and of each entry that is kept which a second reader finds.
pub(crate) fn ingest(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else {
        return;
    };
    let step = usize::from(step).max(1);
    let (whole, error) = decode_resp(bytes, bytes.len().max(1));
    // So few bytes are kept that something is passed over.
    let (kept, early) = decode_by(Decoder::keeping(3), bytes, step);
    assert!(
        kept.len() == whole.len() && early == error,
        "{kept:?} {whole:?}"
    );
    for (kept, whole) in kept.iter().zip(&whole) {
        same_but_long(kept, whole, 3);
    }
    let (kept, _) = decode_by(Decoder::keeping(LONGEST), bytes, step);
    for (kept, whole) in kept.iter().zip(&whole) {
        let Some(entries) = waiting(kept) else {
            continue;
        };
        let model = whole
            .array()
            .map_or(&[][..], |reply| reply[1].array().expect("entries"));
        assert_eq!(entries.len(), model.len());
        for (entry, model) in entries.iter().zip(model) {
            let [id, fields] = model.array().expect("an entry") else {
                panic!("an entry is an id and fields: {model:?}")
            };
            assert_eq!(id.text(), Some(&*entry.id.to_string()));
            let fields = fields.array().expect("fields");
            let first = |wanted: &[u8]| {
                let mut pairs = fields.chunks_exact(2);
                let found = pairs.find_map(|pair| {
                    let value = pair[1]
                        .bytes()
                        .filter(|_| pair[0].bytes().is_some_and(|it| it == wanted));
                    value.filter(|value| (1..=255).contains(&value.len()))
                });
                found.cloned()
            };
            assert_eq!(
                (&entry.topic, &entry.key),
                (&first(b"topic"), &first(b"key"))
            );
        }
    }
}

fn same_but_long(kept: &Resp, whole: &Resp, longest: usize) {
    match (kept, whole) {
        (Resp::Long(length), Resp::Text(text)) => {
            // Of a verbatim text the four bytes at its beginning are none of it.
            let whole = [text.len(), text.len() + 4.min(length - text.len())];
            assert!(
                *length > longest && whole.contains(length),
                "{kept:?} {text:?}"
            );
        }
        (Resp::Array(kept), Resp::Array(whole)) | (Resp::Push(kept), Resp::Push(whole)) => {
            assert_eq!(kept.len(), whole.len());
            for (kept, whole) in kept.iter().zip(whole) {
                same_but_long(kept, whole, longest);
            }
        }
        _ => assert_eq!(kept, whole),
    }
}

/// A message of the feed: what is accepted is what `tidegate_publish` writes, byte by byte, and within the rules.
pub(crate) fn feed(bytes: &[u8]) {
    let topic: Topic = "orders".parse().expect("a topic");
    let Ok(message) = entry::message(&topic, bytes) else {
        return;
    };
    let written = match &message {
        FeedMessage::Deleted(_) => {
            // Which of two ids stands second makes no difference.
            let mut words = bytes.split(|&byte| byte == b' ');
            let id = words.next().map(String::from_utf8_lossy);
            let FeedMessage::Deleted(through) = message else {
                unreachable!("it was one a moment ago");
            };
            assert_eq!(id.as_deref(), Some(&*through.to_string()));
            return;
        }
        FeedMessage::Lost(range) => format!("{} {} l", range.through, range.after),
        FeedMessage::Entry(event) if event.end => format!("{} {} x", event.id, event.previous),
        FeedMessage::Entry(event) => {
            let Event {
                id,
                previous,
                kind,
                data,
                ..
            } = event;
            format!("{id} {previous} e {kind}\n{data}")
        }
    };
    assert_eq!(written.as_bytes(), bytes);
    let FeedMessage::Entry(event) = message else {
        return;
    };
    assert!(event.previous < event.id);
    assert_eq!(event.topic, topic);
    assert_eq!(event.kind.as_str().parse::<EventType>(), Ok(event.kind));
}

/// The gateway that tokens are shown to, and all of them that it knows: nobody without its secrets makes another one.
static AUTH: LazyLock<Auth> = LazyLock::new(|| {
    let secret = "a secret of at least thirty-two bytes".to_owned();
    let flags = vec![
        ("auth.jwt.secret", secret),
        ("admin.token", "s3cret-1-s3cret-1".to_owned()),
    ];
    let flag = |(key, value)| Flag {
        name: "--setting",
        key,
        value,
    };
    let flags = flags.into_iter().map(flag).collect();
    let sources = Sources {
        flags,
        ..Sources::default()
    };
    let config = Config::load(&sources).expect("settings");
    Auth::new(&config, None).expect("settings of auth")
});
const KNOWN: [&str; 3] = [
    "s3cret-1-s3cret-1",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQwMDAwMDAwMDAsInN1YiI6ImFubiIsInRpZGVnYXRlIjp7InN1YnNjcmliZSI6WyJvcmRlcnMvKiJdfX0.RTf3D3KLQFm6E22fhZ2GZZQcoaufrTtzcwD4O26Cilw",
    "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsifQ.eyJleHAiOjQwMDAwMDAwMDAsIm5iZiI6MSwiYXVkIjpbImEiLCJiIl0sImlzcyI6Im1lIn0.GFUQ348PhwDASSMtYJBrt8C1hEkZV7HJO3iu08PO5SM",
];
const HAS_EXPIRED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjEwMDAwMDAwMDAsInN1YiI6ImFubiJ9.B2JYSFTXhCmtaBPV1qyw7M_H5xhKnB1Dwc08FiYLIrI";

/// `Authorization` on the first line, `Cookie` on the second, a query after them: the credential is the first that is there,
/// nobody gets in with one that was not made for it, and a ticket of which anything was changed is none.
pub(crate) fn token(bytes: &[u8]) {
    let (authorization, rest) = cut(bytes, b'\n').unwrap_or((bytes, b""));
    let (cookie, query) = cut(rest, b'\n').unwrap_or((rest, b""));
    let mut headers = HeaderMap::new();
    for (name, line) in [("authorization", authorization), ("cookie", cookie)] {
        if let Ok(value) = HeaderValue::from_bytes(line)
            && !line.is_empty()
        {
            headers.insert(name, value);
        }
    }
    let query = std::str::from_utf8(query).unwrap_or_default();
    let query = Query::parse(Some(query)).unwrap_or_default();
    let found = credential(&headers, &query, "tidegate");
    match (&found, expected_credential(&headers, &query)) {
        (Ok(found), Ok(expected)) => {
            let found = found.as_ref().map(|found| (found.kind, found.expose()));
            let expected = expected.as_ref().map(|(kind, text)| (*kind, &**text));
            assert_eq!(found, expected);
        }
        (Err(Denied::Invalid(_)), Err(_)) => {}
        (found, expected) => panic!("{found:?}, expected {expected:?}"),
    }
    let whole = String::from_utf8_lossy(bytes);
    let shown = [
        found.ok().flatten(),
        Some(Credential::new(CredentialKind::Bearer, &*whole)),
        Some(Credential::new(
            CredentialKind::Bearer,
            query.first("access_token").unwrap_or("x"),
        )),
    ];
    for credential in shown.into_iter().flatten() {
        identify(&credential);
    }

    let (tickets, moment) = (Tickets::new([7; 32]), SystemTime::UNIX_EPOCH);
    assert!(tickets.read(&whole, moment).is_err());
    let Ok(identity) = known(KNOWN[1]) else {
        panic!("it is known")
    };
    let ticket = tickets.mint(&identity, moment).into_bytes();
    assert!(ticket.len() < 1_000);
    let changed: Vec<u8> = ticket
        .iter()
        .zip(bytes.iter().chain(std::iter::repeat(&0)))
        .map(|(byte, change)| byte ^ (change & 7))
        .collect();
    let read = tickets.read(&String::from_utf8_lossy(&changed), moment);
    assert_eq!(read.is_ok(), changed == ticket, "{read:?}");
}

fn known(token: &str) -> Result<tidegate::auth::Identity, Denied> {
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let credential = Credential::new(CredentialKind::Bearer, token);
    let mut future = pin!(AUTH.identify(&credential, moment));
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(identified) => identified,
        Poll::Pending => panic!("there is nothing to wait for"),
    }
}

fn identify(credential: &Credential<'_>) {
    let text = credential.expose();
    match known(text) {
        Ok(identity) => {
            assert!(KNOWN.contains(&text), "{text} was made up");
            assert_eq!(identity.is_admin(), text == KNOWN[0]);
        }
        Err(Denied::Expired(_)) => assert_eq!(text, HAS_EXPIRED),
        Err(Denied::Invalid(why)) => {
            assert!(!KNOWN.contains(&text), "{text}: {why}");
            assert!(text.len() < 48 || !why.contains(text), "{why}");
        }
        Err(denied) => panic!("{denied:?} without a set of keys"),
    }
}

/// The credential by the rules; what they expect, where they refuse it.
fn expected_credential(
    headers: &HeaderMap,
    query: &Query<'_>,
) -> Result<Option<(CredentialKind, String)>, &'static str> {
    let found = if let Some(value) = headers.get("authorization") {
        let line = value.to_str().map_err(|_| "ASCII")?.trim();
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let [scheme, token] = words[..] else {
            return Err("two words");
        };
        if !scheme.eq_ignore_ascii_case("bearer") || token.contains('\t') {
            return Err("a bearer token");
        }
        Some((CredentialKind::Bearer, token.to_owned()))
    } else if let Some(ticket) = query.first("ticket") {
        Some((CredentialKind::Ticket, ticket.to_owned()))
    } else if let Some(token) = query.first("access_token") {
        Some((CredentialKind::AccessToken, token.to_owned()))
    } else {
        let line = headers.get("cookie").and_then(|line| line.to_str().ok());
        let mut found = None;
        for pair in line.unwrap_or_default().split(';').rev() {
            let Some(at) = pair.find('=') else { continue };
            let (name, value) = (pair[..at].trim(), pair[at + 1..].trim());
            let bare = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
            let value = if bare {
                &value[1..value.len() - 1]
            } else {
                value
            };
            if name == "tidegate" && !value.is_empty() {
                found = Some((CredentialKind::Cookie, value.to_owned()));
            }
        }
        found
    };
    match found {
        Some((_, text)) if text.is_empty() || text.len() > MAX_BYTES => Err("length"),
        found => Ok(found),
    }
}
