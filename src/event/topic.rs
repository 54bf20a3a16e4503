//! The name of a log.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// What begins the name of the log that tells who follows a topic, before the name of that topic.
const PRESENCE: &str = "$presence/";

/// The name of a log: 1 to 255 bytes of UTF-8, without control characters, whitespace and any of `* { } ,`.
///
/// `/`, `.`, `:` and `-` are ordinary. A leading `$` is reserved for the gateway: such a name is none to [`FromStr`]. The only
/// one that can be followed is `$presence/<topic>`, see [`Topic::followed`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// Why a text is no topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Nothing at all.
    #[error("a topic has at least one character")]
    Empty,
    /// Over 255 bytes.
    #[error("a topic has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// A character that no topic may have.
    #[error(
        "a topic may not contain {0:?}: no control character, no whitespace, none of * {{ }} ,"
    )]
    Character(char),
    /// Begins with `$`.
    #[error("topics that begin with $ are reserved for the gateway")]
    Reserved,
}

impl Topic {
    /// The greatest length of a topic in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Reads what can be followed: a topic, or the presence of one.
    ///
    /// # Errors
    /// It is neither.
    pub fn followed(text: &str) -> Result<Self, TopicError> {
        check(text.strip_prefix(PRESENCE).unwrap_or(text))?;
        Ok(Self(text.into()))
    }

    /// The log that tells who follows this topic.
    #[must_use]
    pub fn presence(&self) -> Self {
        Self(format!("{PRESENCE}{self}").into())
    }

    /// The name of the topic of which this one tells who follows it; none: it is an ordinary topic.
    pub fn presence_of(&self) -> Option<&str> {
        self.0.strip_prefix(PRESENCE)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > Topic::MAX_BYTES {
        return Err(TopicError::TooLong(text.len()));
    }
    let forbidden =
        |c: char| c.is_control() || c.is_whitespace() || matches!(c, '*' | '{' | '}' | ',');
    if let Some(character) = text.chars().find(|&c| forbidden(c)) {
        return Err(TopicError::Character(character));
    }
    if text.starts_with('$') {
        return Err(TopicError::Reserved);
    }
    Ok(())
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check(text)?;
        Ok(Self(text.into()))
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl serde::Serialize for Topic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Topic {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The topics of one subscription: at least one, none twice, in the order in which they were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicList(Vec<Topic>);

/// Why a list of topics was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicListError {
    /// One of them is no topic.
    #[error("topic {name:?}: {error}")]
    Topic {
        /// The name as it came, cut to 64 characters.
        name: String,
        /// What is wrong with it.
        error: TopicError,
    },
    /// More topics than a connection may follow.
    #[error("a connection may follow {limit} topics, this one names more")]
    TooMany {
        /// `limits.topics_per_connection`
        limit: usize,
    },
}

impl TopicList {
    /// Reads the values of every `topic=` of a query; a value may hold several, separated by commas. None gives `default`.
    /// Presence may be among them.
    ///
    /// # Errors
    /// A name that is no topic, or more than `limit` different ones.
    pub fn parse<'a>(
        values: impl IntoIterator<Item = &'a str>,
        default: &Topic,
        limit: usize,
    ) -> Result<Self, TopicListError> {
        let mut topics: Vec<Topic> = Vec::new();
        for name in values.into_iter().flat_map(|value| value.split(',')) {
            if topics.iter().any(|topic| topic.as_str() == name) {
                continue;
            }
            let topic = Topic::followed(name).map_err(|error| TopicListError::Topic {
                name: name.chars().take(64).collect(),
                error,
            })?;
            if topics.len() == limit {
                return Err(TopicListError::TooMany { limit });
            }
            topics.push(topic);
        }
        if topics.is_empty() {
            topics.push(default.clone());
        }
        Ok(Self(topics))
    }

    /// The topics.
    pub fn as_slice(&self) -> &[Topic] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(values: &[&str]) -> Result<Vec<String>, TopicListError> {
        let default = "default".parse().expect("a topic");
        TopicList::parse(values.iter().copied(), &default, 3)
            .map(|list| list.as_slice().iter().map(Topic::to_string).collect())
    }

    #[test]
    fn ordinary_names_are_topics() {
        for name in [
            "a",
            "orders/eu.west:1-2",
            "数据",
            "a$",
            "~",
            "a=b&c",
            &"x".repeat(255),
        ] {
            assert!(name.parse::<Topic>().is_ok(), "{name:?}");
        }
    }

    #[test]
    fn other_names_are_refused_with_the_reason() {
        let wrong = [
            ("", TopicError::Empty),
            ("a b", TopicError::Character(' ')),
            ("a\u{3000}b", TopicError::Character('\u{3000}')),
            ("a\nb", TopicError::Character('\n')),
            ("a\0", TopicError::Character('\0')),
            ("a\u{85}", TopicError::Character('\u{85}')),
            ("orders/*", TopicError::Character('*')),
            ("{0}", TopicError::Character('{')),
            ("$sys", TopicError::Reserved),
        ];
        for (name, error) in wrong {
            assert_eq!(name.parse::<Topic>(), Err(error), "{name:?}");
        }
        assert_eq!(
            "x".repeat(256).parse::<Topic>(),
            Err(TopicError::TooLong(256))
        );
    }

    #[test]
    fn the_presence_of_a_topic_can_be_followed_and_nothing_else_that_is_reserved() {
        let topic: Topic = "orders/1".parse().expect("a topic");
        let presence = Topic::followed("$presence/orders/1").expect("its presence");
        assert_eq!(topic.presence(), presence);
        assert_eq!(presence.presence_of(), Some("orders/1"));
        assert_eq!(topic.presence_of(), None);
        assert_eq!(Topic::followed("orders/1"), Ok(topic));
        let longest = format!("$presence/{}", "x".repeat(255));
        assert!(Topic::followed(&longest).is_ok());
        for wrong in [
            "$presence",
            "$presence/",
            "$presence/$presence/a",
            "$presence/a b",
            "$presence/*",
            "$sys",
            &format!("{longest}x"),
        ] {
            assert!(Topic::followed(wrong).is_err(), "{wrong}");
        }
        assert_eq!("$presence/a".parse::<Topic>(), Err(TopicError::Reserved));
    }

    #[test]
    fn a_list_is_written_with_commas_or_by_repetition_and_counts_each_once() {
        assert_eq!(list(&["a,b", "a"]), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(list(&[]), Ok(vec!["default".into()]));
        assert_eq!(
            list(&["a,b,c,a,b"]),
            Ok(vec!["a".into(), "b".into(), "c".into()])
        );
        assert_eq!(
            list(&["a,b", "c,d"]),
            Err(TopicListError::TooMany { limit: 3 })
        );
        assert!(matches!(
            list(&["a,,b"]),
            Err(TopicListError::Topic {
                error: TopicError::Empty,
                ..
            })
        ));
        assert!(matches!(list(&[""]), Err(TopicListError::Topic { .. })));
    }

    proptest! {
        #[test]
        fn a_topic_is_its_text(text in ".*") {
            if let Ok(topic) = text.parse::<Topic>() {
                prop_assert_eq!(topic.as_str(), text);
            }
        }
    }
}
