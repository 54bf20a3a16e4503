//! One event as a publisher writes it in JSON: `{"topic","event","data","end","key"}`.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{EventType, EventTypeError, Topic, TopicError};

/// One event as it was asked for: checked, but not yet stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishItem {
    /// Where it goes; none was named.
    pub topic: Option<Topic>,
    /// What it is.
    pub kind: EventType,
    /// What it says; none with `end` means that there is only the end to store.
    pub data: Option<Box<str>>,
    /// Whether the topic ends with it.
    pub end: bool,
    /// The idempotency key of this item.
    pub key: Option<Box<str>>,
}

/// Why a text is no event to publish.
#[derive(Debug, thiserror::Error)]
pub enum PublishItemError {
    /// Not JSON, a member that is not known, or one of the wrong type.
    #[error("{0}; an event is {{\"topic\",\"event\",\"data\",\"end\",\"key\"}}")]
    Json(#[from] serde_json::Error),
    /// The topic is none.
    #[error("topic: {0}")]
    Topic(#[from] TopicError),
    /// The type is none.
    #[error("event: {0}")]
    Kind(#[from] EventTypeError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Written<'a> {
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    // `Option<&RawValue>` would take an explicit `null` for "not there".
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    end: bool,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
}

/// [`Written`] with what a message has besides; a flattened one could not keep `data` as it was written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Message<'a> {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    #[serde(rename = "ref", default)]
    _reference: Option<IgnoredAny>,
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    end: bool,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
}

fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl PublishItem {
    /// Reads one event. `data` may be a string, which is taken as it is, or any other JSON, which is sent compact:
    /// numbers and the order of members stay as they were written.
    ///
    /// # Errors
    /// See [`PublishItemError`]. The length of data and key is not judged here.
    pub fn from_json(json: &str) -> Result<Self, PublishItemError> {
        // A sequence would be taken for the members in their order.
        if json.trim_start().starts_with('[') {
            let error = <serde_json::Error as serde::de::Error>::custom("this is an array");
            return Err(error.into());
        }
        Self::read(serde_json::from_str(json)?)
    }

    /// Reads one event from a WebSocket message, which has a `type` and may have a `ref` besides.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn from_message(json: &str) -> Result<Self, PublishItemError> {
        let message: Message<'_> = serde_json::from_str(json)?;
        Self::read(Written {
            topic: message.topic,
            event: message.event,
            data: message.data,
            end: message.end,
            key: message.key,
        })
    }

    fn read(written: Written<'_>) -> Result<Self, PublishItemError> {
        let data = match written.data.map(RawValue::get) {
            None => (!written.end).then(Box::default),
            Some(text) if text.starts_with('"') => {
                Some(serde_json::from_str::<String>(text)?.into())
            }
            Some(text) => Some(compact(text).into()),
        };
        Ok(Self {
            topic: written.topic.map(|topic| topic.parse()).transpose()?,
            kind: written
                .event
                .map(|kind| kind.parse())
                .transpose()?
                .unwrap_or_default(),
            data,
            end: written.end,
            key: written.key.map(Into::into),
        })
    }
}

/// Valid JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(quote) = rest.find('"') {
        out.extend(rest[..quote].chars().filter(|c| !c.is_ascii_whitespace()));
        let end = string_end(&rest.as_bytes()[quote + 1..]) + quote + 1;
        out.push_str(&rest[quote..end]);
        rest = &rest[end..];
    }
    out.extend(rest.chars().filter(|c| !c.is_ascii_whitespace()));
    out
}

/// Bytes up to and with the closing quote of a string whose opening quote has been passed.
fn string_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(json: &str) -> Option<String> {
        PublishItem::from_json(&format!(r#"{{"topic":"t","data":{json}}}"#))
            .expect("valid")
            .data
            .map(Into::into)
    }

    #[test]
    fn a_string_is_taken_as_it_is_and_other_json_compact() {
        assert_eq!(data(r#""a\nb \u00e9""#).as_deref(), Some("a\nb é"));
        assert_eq!(
            data(r#"{ "b" : [1.0, 2e3 ,"x \" y"] , "a":null }"#).as_deref(),
            Some(r#"{"b":[1.0,2e3,"x \" y"],"a":null}"#)
        );
        assert_eq!(data(" null ").as_deref(), Some("null"));
        assert_eq!(data(r#""""#).as_deref(), Some(""));
        assert_eq!(
            data("18446744073709551617.50").as_deref(),
            Some("18446744073709551617.50")
        );
    }

    #[test]
    fn data_may_be_absent() {
        assert_eq!(
            PublishItem::from_json(r#"{"topic":"t"}"#)
                .expect("valid")
                .data
                .as_deref(),
            Some("")
        );
        let end = PublishItem::from_json(r#"{"topic":"t","end":true}"#).expect("valid");
        assert_eq!((end.data, end.end), (None, true));
    }

    #[test]
    fn what_is_not_an_event_is_refused() {
        for json in [
            "",
            "{",
            "[]",
            r#"["t","created","x",false,"k"]"#,
            "1",
            "null",
            r#"{"topic":1}"#,
            r#"{"topic":"t","dat":1}"#,
            r#"{"topic":"t","topic":"u"}"#,
            r#"{"data":"\ud800"}"#,
            r#"{"end":"yes"}"#,
            r#"{"topic":"t"} x"#,
            r#"{"topic":""}"#,
            r#"{"topic":"$x"}"#,
            r#"{"event":"$open"}"#,
            r#"{"event":""}"#,
        ] {
            assert!(PublishItem::from_json(json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn compacting_changes_nothing_but_space(text in "[ \\[\\]{}:,\"\\\\a-c0-9\\n]{0,40}") {
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&compact(&text)).expect("still JSON"), value);
            }
        }
    }
}
