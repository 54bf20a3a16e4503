//! Entries of the log as Redis has them: in a stream, and on the feed.
//!
//! Anybody who can reach the Redis can write there, so everything is checked again when it is read.

use super::resp::Value;
use crate::{
    event::{Event, EventId, EventType, Topic},
    log::LostRange,
    store::TopicPosition,
};

/// What stood where an entry of ours was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A field is missing, or it is no entry at all.
    #[error("it is not an entry that tidegate_publish writes")]
    Shape,
    /// An id is none, or the previous one is not before it.
    #[error("its id or that of its predecessor is not valid")]
    Id,
    /// The type is not allowed.
    #[error("its type is not valid")]
    Type,
    /// The data is not UTF-8.
    #[error("its data is not UTF-8")]
    Data,
}

/// A message of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A new entry.
    Entry(Event),
    /// Everything up to this id was deleted.
    Deleted(EventId),
    /// What lay between was lost.
    Lost(LostRange),
}

fn id(text: &[u8]) -> Result<EventId, EntryError> {
    let text = std::str::from_utf8(text).map_err(|_| EntryError::Id)?;
    text.parse().map_err(|_| EntryError::Id)
}

/// An event of its parts, each as it came.
fn event(
    topic: &Topic,
    (id, previous): (EventId, EventId),
    kind: &[u8],
    data: &[u8],
) -> Result<Event, EntryError> {
    if previous >= id {
        return Err(EntryError::Id);
    }
    let kind = match kind {
        b"message" => EventType::default(),
        kind => std::str::from_utf8(kind)
            .ok()
            .and_then(|kind| kind.parse().ok())
            .ok_or(EntryError::Type)?,
    };
    let data = std::str::from_utf8(data).map_err(|_| EntryError::Data)?;
    Ok(Event {
        id,
        previous,
        topic: topic.clone(),
        kind,
        data: data.into(),
        end: false,
    })
}

fn end(topic: &Topic, (id, previous): (EventId, EventId)) -> Result<Event, EntryError> {
    if previous >= id {
        return Err(EntryError::Id);
    }
    Ok(Event {
        id,
        previous,
        topic: topic.clone(),
        kind: EventType::default(),
        data: Box::default(),
        end: true,
    })
}

/// Reads a message of the channel of `topic`.
///
/// # Errors
/// When `tidegate_publish` did not write it.
pub fn message(topic: &Topic, payload: &[u8]) -> Result<Message, EntryError> {
    let (head, data) = match memchr::memchr(b'\n', payload) {
        Some(at) => (&payload[..at], Some(&payload[at + 1..])),
        None => (payload, None),
    };
    let mut words = head.splitn(4, |&byte| byte == b' ');
    let mut word = || words.next().ok_or(EntryError::Shape);
    let (at, previous, mark) = (word()?, word()?, word()?);
    let ids = (id(at)?, id(previous)?);
    match (mark, word(), data) {
        (b"e", Ok(kind), Some(data)) => Ok(Message::Entry(event(topic, ids, kind, data)?)),
        (b"x", Err(_), None) => Ok(Message::Entry(end(topic, ids)?)),
        (b"d", Err(_), None) => Ok(Message::Deleted(ids.0)),
        (b"l", Err(_), None) if ids.1 < ids.0 => Ok(Message::Lost(LostRange {
            after: ids.1,
            through: ids.0,
        })),
        _ => Err(EntryError::Shape),
    }
}

/// The id of an entry of a stream, whoever wrote it.
pub(super) fn entry_id(entry: &Value) -> Option<EventId> {
    entry.array()?.first()?.text()?.parse().ok()
}

/// Reads an entry of the stream of `topic`.
///
/// # Errors
/// When `tidegate_publish` did not write it.
pub fn entry(topic: &Topic, entry: &Value) -> Result<Event, EntryError> {
    let Some([at, Value::Array(fields)]) = entry.array() else {
        return Err(EntryError::Shape);
    };
    let field = |name: &[u8]| {
        fields
            .chunks_exact(2)
            .find(|pair| pair[0].bytes().is_some_and(|field| field == name))
            .and_then(|pair| pair[1].bytes())
    };
    let at = id(at.bytes().ok_or(EntryError::Shape)?)?;
    let ids = (at, id(field(b"p").ok_or(EntryError::Shape)?)?);
    if field(b"x").is_some() {
        return end(topic, ids);
    }
    let (kind, data) = (field(b"e"), field(b"d"));
    event(
        topic,
        ids,
        kind.ok_or(EntryError::Shape)?,
        data.ok_or(EntryError::Shape)?,
    )
}

/// Reads what `last` holds of a topic: "<last>" or "<last> <end>".
pub(super) fn last(text: &str) -> Option<(EventId, Option<EventId>)> {
    match text.split_once(' ') {
        Some((last, end)) => Some((last.parse().ok()?, Some(end.parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}

/// Reads what `lost` holds of a topic: ranges, by spaces.
pub(super) fn lost(text: &str) -> Vec<LostRange> {
    text.split_ascii_whitespace()
        .filter_map(|range| {
            let (after, through) = range.split_once("..")?;
            Some(LostRange {
                after: after.parse().ok()?,
                through: through.parse().ok()?,
            })
        })
        .collect()
}

/// Where a topic stands, as `tidegate_position` says it: last id, end, lost ranges, oldest entry.
pub(super) fn topic_position(values: &[Value]) -> Option<TopicPosition> {
    let [last, end, ranges, first] = values else {
        return None;
    };
    let id = |value: &Value| match value.text() {
        Some("") => Some(None),
        text => text?.parse().ok().map(Some),
    };
    Some(TopicPosition {
        last: id(last)?,
        end: id(end)?,
        lost: lost(ranges.text()?),
        first: id(first)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic() -> Topic {
        "t".parse().expect("a topic")
    }

    #[test]
    fn a_message_is_an_event_an_end_or_a_deletion() {
        let Ok(Message::Entry(event)) = message(&topic(), b"5-1 4-0 e order created\na\nb") else {
            panic!("an event");
        };
        assert_eq!(
            (event.id, event.previous),
            (EventId::new(5, 1), EventId::new(4, 0))
        );
        assert_eq!(
            (event.kind.as_str(), &*event.data),
            ("order created", "a\nb")
        );
        let end = message(&topic(), b"5-2 5-1 x");
        assert!(matches!(end, Ok(Message::Entry(end)) if end.end));
        let deleted = message(&topic(), b"5-2 5-2 d");
        assert_eq!(deleted, Ok(Message::Deleted(EventId::new(5, 2))));
        let lost = LostRange {
            after: EventId::new(5, 1),
            through: EventId::new(7, 0),
        };
        assert_eq!(message(&topic(), b"7-0 5-1 l"), Ok(Message::Lost(lost)));
    }

    #[test]
    fn what_others_wrote_is_refused() {
        for (payload, error) in [
            (&b"hello"[..], EntryError::Shape),
            (b"", EntryError::Shape),
            (b"5-1 4-0 e created", EntryError::Shape),
            (b"5-1 4-0 y", EntryError::Shape),
            (b"5-1 4-0 x more", EntryError::Shape),
            (b"5-1 5-1 l", EntryError::Shape),
            (b"5-1 5-1 e a\n", EntryError::Id),
            (b"5 4-0 e a\n", EntryError::Id),
            (b"5-1 4-0 e $open\n", EntryError::Type),
            (b"5-1 4-0 e \n", EntryError::Type),
            (b"5-1 4-0 e a\r\nx", EntryError::Type),
            (b"5-1 4-0 e a\n\xff", EntryError::Data),
        ] {
            assert_eq!(message(&topic(), payload), Err(error), "{payload:?}");
        }
    }

    proptest! {
        #[test]
        fn a_message_reads_back_as_it_was(kind in "[a-z][^\r\n\0]{0,20}", data in ".{0,40}", ms in 1_u64..1 << 50) {
            let payload = format!("{ms}-3 {}-9 e {kind}\n{data}", ms - 1);
            let Ok(Message::Entry(event)) = message(&topic(), payload.as_bytes()) else {
                panic!("an event");
            };
            prop_assert_eq!(event.kind.as_str(), &kind);
            prop_assert_eq!(&*event.data, data.as_str());
        }

        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = message(&topic(), &payload);
        }
    }
}
