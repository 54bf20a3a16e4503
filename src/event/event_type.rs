//! The type of an event: what `addEventListener` names.

use std::{fmt, str::FromStr, sync::Arc};

/// The type of an event: 1 to 128 bytes of UTF-8 without line break and NUL; `message` by default.
///
/// A leading `$` is reserved for the gateway's own control events.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct EventType(Option<Arc<str>>);

/// Why a text is no event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// Nothing at all.
    #[error("an event type has at least one character (leave it out for \"message\")")]
    Empty,
    /// Over 128 bytes.
    #[error("an event type has at most 128 bytes, this one has {0}")]
    TooLong(usize),
    /// A carriage return, line feed or NUL.
    #[error("an event type may not contain {0:?}: no line break, no NUL")]
    Character(char),
    /// Begins with `$`.
    #[error("event types that begin with $ are reserved for the gateway")]
    Reserved,
}

impl EventType {
    /// The greatest length of an event type in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The type as text.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("message")
    }

    /// Whether this is `message`, which needs no `event:` line.
    pub fn is_message(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for EventType {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, EventTypeError> {
        if text.is_empty() {
            return Err(EventTypeError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(EventTypeError::TooLong(text.len()));
        }
        if let Some(character) = text.chars().find(|c| matches!(c, '\r' | '\n' | '\0')) {
            return Err(EventTypeError::Character(character));
        }
        if text.starts_with('$') {
            return Err(EventTypeError::Reserved);
        }
        Ok(Self((text != "message").then(|| text.into())))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_cannot_forge_a_line_or_a_control_event() {
        assert_eq!("".parse::<EventType>(), Err(EventTypeError::Empty));
        assert_eq!(
            "a\nid: 9".parse::<EventType>(),
            Err(EventTypeError::Character('\n'))
        );
        assert_eq!(
            "a\r".parse::<EventType>(),
            Err(EventTypeError::Character('\r'))
        );
        assert_eq!(
            "a\0".parse::<EventType>(),
            Err(EventTypeError::Character('\0'))
        );
        assert_eq!("$open".parse::<EventType>(), Err(EventTypeError::Reserved));
        assert_eq!(
            "x".repeat(129).parse::<EventType>(),
            Err(EventTypeError::TooLong(129))
        );
    }

    #[test]
    fn message_is_the_default() {
        assert_eq!("message".parse::<EventType>(), Ok(EventType::default()));
        assert_eq!(EventType::default().as_str(), "message");
        assert_eq!(
            "order created"
                .parse::<EventType>()
                .map(|kind| kind.to_string()),
            Ok("order created".into())
        );
    }
}
