//! What operators ask of the log: which topics there are, and how much is kept of each.

use crate::event::{EventId, Topic};

/// What is known of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSummary {
    /// Which.
    pub topic: Topic,
    /// Events that are retained.
    pub events: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// The id of the oldest of them.
    pub first: Option<EventId>,
    /// The id of the newest event, also when it is gone, as long as it is remembered.
    pub last: Option<EventId>,
    /// The id of the topic's end, once it is finished.
    pub end: Option<EventId>,
}

impl TopicSummary {
    /// A topic of which nothing is known.
    pub fn unknown(topic: Topic) -> Self {
        Self {
            topic,
            events: 0,
            bytes: 0,
            first: None,
            last: None,
            end: None,
        }
    }

    /// Whether there is anything to say.
    pub fn is_known(&self) -> bool {
        self.events > 0 || self.last.is_some() || self.end.is_some()
    }
}

/// Which topics are asked for: those whose names come after `after` and begin with `prefix`, at most `limit`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// How their names begin.
    pub prefix: String,
    /// The last name of the page before; empty for the first page. It need not be a topic.
    pub after: String,
    /// At most so many.
    pub limit: usize,
}

impl Listing {
    /// Whether a topic of that name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        name > self.after.as_str() && name.starts_with(&self.prefix)
    }
}

/// Topics in the order of their names, byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPage {
    /// They.
    pub topics: Vec<TopicSummary>,
    /// Whether there are more after them.
    pub more: bool,
}
