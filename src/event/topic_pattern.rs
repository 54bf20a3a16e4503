//! Which topics a right is for.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Topic, TopicError};

/// The name of one topic, or a beginning and one final `*` that stands for any rest.
///
/// Names that begin with `$` are the gateway's: no pattern matches them.
#[derive(Clone, PartialEq, Eq)]
pub struct TopicPattern {
    /// Without the star.
    text: Box<str>,
    open: bool,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicPatternError {
    /// A star that is not at the end.
    #[error("a * stands at the end of a pattern, and once")]
    Star,
    /// What is before the star could begin no topic.
    #[error(transparent)]
    Topic(#[from] TopicError),
}

impl TopicPattern {
    /// Whether a right for this pattern is one for `topic`.
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') {
            return false;
        }
        if self.open {
            topic.starts_with(&*self.text)
        } else {
            topic == &*self.text
        }
    }
}

impl FromStr for TopicPattern {
    type Err = TopicPatternError;

    fn from_str(text: &str) -> Result<Self, TopicPatternError> {
        let (name, open) = match text.strip_suffix('*') {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(TopicPatternError::Star);
        }
        if !(open && name.is_empty()) {
            let _: Topic = name.parse()?;
        }
        Ok(Self {
            text: name.into(),
            open,
        })
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str(if self.open { "*" } else { "" })
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TopicPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TopicPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_a_beginning() {
        for (pattern, topic, matches) in [
            ("orders", "orders", true),
            ("orders", "orders/1", false),
            ("orders/*", "orders/1/2", true),
            ("orders/*", "orders/", true),
            ("orders/*", "orders", false),
            ("*", "anything", true),
            ("*", "$presence/orders", false),
            ("a.c*", "abc", false),
        ] {
            let parsed: TopicPattern = pattern.parse().expect("a pattern");
            assert_eq!(parsed.matches(topic), matches, "{pattern} {topic}");
            assert_eq!(parsed.to_string(), pattern);
        }
        for wrong in ["", "**", "a*b", "a*b*", "$a", "$a*", "a b", "a,b"] {
            assert!(wrong.parse::<TopicPattern>().is_err(), "{wrong}");
        }
    }
}
