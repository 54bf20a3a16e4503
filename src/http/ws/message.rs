//! What a client says over a WebSocket: one JSON object for each message.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    event::{PublishItem, Topic, TopicListError},
    http::{
        problem::{Code, Problem},
        query,
    },
    log::Start,
};

/// Bytes of a `ref`, as it is written.
pub const MAX_REFERENCE: usize = 128;

/// What a client calls its request: a string or a number, given back as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(Box<str>);

impl Reference {
    /// As it was written.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To follow topics from a place on.
    Subscribe(Vec<Topic>, Start),
    /// To follow topics no longer.
    Unsubscribe(Vec<Topic>),
    /// To append an event.
    Publish(PublishItem),
    /// To know whether somebody is there.
    Ping,
}

/// A message that was read: its reference as far as it has one, and what it wants, or what is wrong with it.
pub type Read = (Option<Reference>, Result<Request, Problem>);

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(rename = "ref", borrow, default)]
    reference: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribe {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    #[serde(rename = "ref", default)]
    _reference: Option<IgnoredAny>,
    topics: Vec<String>,
    #[serde(rename = "lastEventId")]
    last_event_id: Option<String>,
    since: Option<Text>,
    last: Option<Text>,
}

/// A number may be written as one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a whole number")]
enum Text {
    Text(String),
    Number(u64),
}

impl Text {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unsubscribe {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    #[serde(rename = "ref", default)]
    _reference: Option<IgnoredAny>,
    topics: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ping {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    #[serde(rename = "ref", default)]
    _reference: Option<IgnoredAny>,
}

/// What a request is called, of a message that is not worked off.
pub fn reference_of(text: &str) -> Option<Reference> {
    let head: Head<'_> = serde_json::from_str(text).ok()?;
    reference(head.reference?.get())
}

/// Reads one message; `most` topics may be named at once.
pub fn read(text: &str, most: usize) -> Read {
    let head: Head<'_> = match serde_json::from_str(text) {
        // A sequence would be taken for the members in their order.
        Ok(head) if text.trim_start().starts_with('{') => head,
        Ok(_) => return (None, Err(invalid("a message is an object with a type"))),
        Err(error) if error.is_data() => return (None, Err(invalid(&error.to_string()))),
        Err(error) => {
            return (
                None,
                Err(Problem::new(Code::JsonInvalid, error.to_string())),
            );
        }
    };
    let reference = match head.reference.map(|value| reference(value.get())) {
        None => None,
        Some(Some(reference)) => Some(reference),
        Some(None) => {
            let detail = format!(
                "ref is a string or a number, of at most {MAX_REFERENCE} bytes as it is written"
            );
            return (None, Err(invalid(&detail)));
        }
    };
    let kind = head
        .kind
        .and_then(|kind| serde_json::from_str::<String>(kind.get()).ok());
    (reference, request(kind.as_deref(), text, most))
}

fn request(kind: Option<&str>, text: &str, most: usize) -> Result<Request, Problem> {
    let malformed = |error: serde_json::Error| invalid(&error.to_string());
    match kind {
        Some("subscribe") => {
            let subscribe: Subscribe = serde_json::from_str(text).map_err(malformed)?;
            let start = query::start_of(
                subscribe
                    .last_event_id
                    .as_deref()
                    .filter(|id| !id.is_empty()),
                subscribe.since.map(Text::into_text).as_deref(),
                subscribe.last.map(Text::into_text).as_deref(),
            )?;
            Ok(Request::Subscribe(topics(&subscribe.topics, most)?, start))
        }
        Some("unsubscribe") => {
            let unsubscribe: Unsubscribe = serde_json::from_str(text).map_err(malformed)?;
            Ok(Request::Unsubscribe(topics(&unsubscribe.topics, most)?))
        }
        Some("publish") => Ok(Request::Publish(PublishItem::from_message(text)?)),
        Some("ping") => {
            let Ping { .. } = serde_json::from_str(text).map_err(malformed)?;
            Ok(Request::Ping)
        }
        _ => Err(invalid(
            "type has to be one of subscribe, unsubscribe, publish, ping",
        )),
    }
}

fn reference(json: &str) -> Option<Reference> {
    let fits = json.len() <= MAX_REFERENCE;
    let is_scalar = json.starts_with(['"', '-']) || json.starts_with(|c: char| c.is_ascii_digit());
    (fits && is_scalar).then(|| Reference(json.into()))
}

/// Topics in the order in which they were named, each once.
fn topics(names: &[String], most: usize) -> Result<Vec<Topic>, Problem> {
    let mut topics: Vec<Topic> = Vec::new();
    for name in names {
        if topics.iter().any(|topic| topic.as_str() == name) {
            continue;
        }
        let topic = Topic::followed(name).map_err(|error| TopicListError::Topic {
            name: name.chars().take(64).collect(),
            error,
        })?;
        if topics.len() == most {
            return Err(TopicListError::TooMany { limit: most }.into());
        }
        topics.push(topic);
    }
    if topics.is_empty() {
        return Err(Problem::new(Code::TopicMissing, "topics names no topic"));
    }
    Ok(topics)
}

fn invalid(detail: &str) -> Problem {
    Problem::new(Code::MessageInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Code {
        let (_, request) = read(text, 3);
        request.expect_err("a message that is wrong").code
    }

    #[test]
    fn a_request_is_read_with_its_reference() {
        let (reference, request) = read(r#"{"type":"ping","ref":"a\"b"}"#, 3);
        assert_eq!(reference.expect("a reference").as_json(), r#""a\"b""#);
        assert_eq!(request, Ok(Request::Ping));
        let (reference, request) = read(
            r#"{"ref":-1.50,"type":"unsubscribe","topics":["a","b","a"]}"#,
            3,
        );
        assert_eq!(reference.expect("a reference").as_json(), "-1.50");
        let topics = ["a", "b"].map(|name| name.parse().expect("a topic"));
        assert_eq!(request, Ok(Request::Unsubscribe(topics.into())));
    }

    #[test]
    fn a_subscription_starts_as_one_of_the_query() {
        let start = |more: &str| {
            let (_, request) = read(
                &format!(r#"{{"type":"subscribe","topics":["a"]{more}}}"#),
                3,
            );
            match request {
                Ok(Request::Subscribe(_, start)) => Ok(start),
                Ok(other) => panic!("{other:?}"),
                Err(problem) => Err(problem.code),
            }
        };
        assert_eq!(start(""), Ok(Start::Now));
        assert_eq!(
            start(r#","lastEventId":"earliest","last":3"#),
            Ok(Start::Earliest)
        );
        assert_eq!(start(r#","lastEventId":"""#), Ok(Start::Now));
        assert_eq!(start(r#","lastEventId":null,"last":3"#), Ok(Start::Last(3)));
        assert_eq!(start(r#","since":"5m""#), Ok(Start::Age(300_000)));
        assert_eq!(start(r#","since":1500"#), Ok(Start::Since(1_500)));
        assert_eq!(start(r#","lastEventId":"x""#), Err(Code::CursorInvalid));
        assert_eq!(start(r#","last":1001"#), Err(Code::QueryInvalid));
        assert_eq!(start(r#","since":"soon""#), Err(Code::SinceInvalid));
        assert_eq!(start(r#","from":1"#), Err(Code::MessageInvalid));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert_eq!(code("{"), Code::JsonInvalid);
        assert_eq!(code(""), Code::JsonInvalid);
        assert_eq!(code("[]"), Code::MessageInvalid);
        assert_eq!(code(r#"["ping"]"#), Code::MessageInvalid);
        assert_eq!(code("7"), Code::MessageInvalid);
        assert_eq!(code("{}"), Code::MessageInvalid);
        assert_eq!(code(r#"{"type":"shout"}"#), Code::MessageInvalid);
        assert_eq!(code(r#"{"type":"ping","ref":{}}"#), Code::MessageInvalid);
        assert_eq!(code(r#"{"type":"ping","extra":1}"#), Code::MessageInvalid);
        assert_eq!(
            code(r#"{"type":"subscribe","topics":"a"}"#),
            Code::MessageInvalid
        );
        assert_eq!(
            code(r#"{"type":"subscribe","topics":[]}"#),
            Code::TopicMissing
        );
        assert_eq!(
            code(r#"{"type":"subscribe","topics":["a b"]}"#),
            Code::TopicInvalid
        );
        assert_eq!(
            code(r#"{"type":"publish","topic":"a","dat":"x"}"#),
            Code::JsonInvalid
        );
        let many = r#"{"type":"subscribe","topics":["a","b","a","c","d"]}"#;
        assert_eq!(code(many), Code::TooManyTopics);
        let long = format!(r#"{{"type":"ping","ref":"{}"}}"#, "x".repeat(MAX_REFERENCE));
        assert_eq!(code(&long), Code::MessageInvalid);
    }
}
