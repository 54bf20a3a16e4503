//! What a publisher hands over, with its place in the log.

use super::{EventId, EventType, Topic};

/// One stored event: immutable, shared by whoever reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log.
    pub id: EventId,
    /// The id of the event before it in the same topic, also if that one has expired. The first one names the birth
    /// of the log. The chain of these is what proves that nothing is missing.
    pub previous: EventId,
    /// The log it belongs to.
    pub topic: Topic,
    /// What it is.
    pub kind: EventType,
    /// What it says: any text.
    pub data: Box<str>,
    /// The end of a finished topic: no event for subscribers, but an entry of the log.
    pub end: bool,
}

impl Event {
    /// Bytes that the event takes on the wire, as `GET /events?topic=<its topic>` writes it. Budgets count these.
    pub fn wire_bytes(&self) -> usize {
        if self.end {
            return 0;
        }
        super::frame::sse_len(self, false)
    }
}
