//! Where a stream starts.

use std::{fmt, str::FromStr};

use crate::event::EventId;

/// The last id that a subscriber has: its `Last-Event-ID`.
///
/// One shard holds the whole deployment, so one id stands for all topics of a subscription. The text has at most 128
/// bytes of `[A-Za-z0-9._-]`: anything else would make browsers send a CORS preflight when they reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(EventId);

/// Why a text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is the id of an event, <milliseconds>-<sequence>, as the stream gave it")]
pub struct CursorError;

impl Cursor {
    /// The greatest length of a cursor in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The id up to which everything is known.
    pub const fn id(self) -> EventId {
        self.0
    }
}

impl From<EventId> for Cursor {
    fn from(id: EventId) -> Self {
        Self(id)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() > Self::MAX_BYTES {
            return Err(CursorError);
        }
        text.parse().map(Self).map_err(|_| CursorError)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a subscription asked to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes from now on.
    Now,
    /// After an id; `0-0` is [`Start::Earliest`].
    After(Cursor),
    /// After a cursor that could not be read: from now, and told as a gap.
    Unreadable,
    /// With the oldest event that is retained.
    Earliest,
    /// With the first event at or after a time of the store's clock, in Unix milliseconds.
    Since(u64),
    /// With the first event that is younger than this many milliseconds.
    Age(u64),
    /// With the newest so many events of the subscription.
    Last(usize),
}

impl Start {
    /// A start after `cursor`.
    pub fn after(cursor: Cursor) -> Self {
        if cursor.0 == EventId::ZERO {
            Self::Earliest
        } else {
            Self::After(cursor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_an_id() {
        assert_eq!(
            "5-1".parse::<Cursor>().map(Cursor::id),
            Ok(EventId::new(5, 1))
        );
        assert_eq!("0.5-1".parse::<Cursor>(), Err(CursorError));
        assert_eq!("9".repeat(10_000).parse::<Cursor>(), Err(CursorError));
    }

    #[test]
    fn the_cursor_before_everything_is_the_earliest_start() {
        assert_eq!(
            Start::after("0-0".parse().expect("a cursor")),
            Start::Earliest
        );
    }
}
