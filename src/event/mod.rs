//! What travels: topic, event id, event, and the event as bytes on the wire.
//!
//! Pure: no I/O, no clock, no runtime. Whatever a publisher or a client hands in as text becomes one of these types
//! at the door, or an error that says what was wrong and what is allowed.
//!
//! Not here: where events are kept ([`crate::log`], [`crate::store`]) and who reads them ([`crate::hub`]).

mod event_id;
mod event_type;
mod frame;
mod parse;
mod publish;
mod topic;
mod topic_pattern;

#[expect(clippy::module_inception, reason = "a file is named by its type")]
mod event;

pub use event::Event;
pub use event_id::{EventId, EventIdError};
pub use event_type::{EventType, EventTypeError};
pub use frame::{ControlFrame, Envelope, Frame};
pub use parse::{Message, Parser};
pub use publish::{PublishItem, PublishItemError};
pub use topic::{Topic, TopicError, TopicList, TopicListError};
pub use topic_pattern::{TopicPattern, TopicPatternError};
