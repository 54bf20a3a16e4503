//! The streams that ended last, for the question why a client did not get an event.
//!
//! # Invariants
//! 1. At most [`STREAMS`] are remembered, and of these only so many that their topics have [`NAMES`] bytes together.

use std::{collections::VecDeque, net::IpAddr};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{
    event::{EventId, Topic},
    telemetry::CloseReason,
};

/// Streams that are remembered.
const STREAMS: usize = 1_000;
/// Bytes of their topics' names.
const NAMES: usize = 1024 * 1024;
/// Bytes of a subject that are kept.
const SUBJECT: usize = 256;

/// A stream that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClosedStream {
    /// The number of its connection.
    pub number: u64,
    /// What it followed.
    pub topics: SmallVec<[Topic; 1]>,
    /// Who it was.
    pub address: IpAddr,
    /// What the client had proved to be.
    pub subject: Option<Box<str>>,
    /// From where it began.
    pub began: EventId,
    /// Everything up to here had been written.
    pub cursor: EventId,
    /// Why it ended.
    pub reason: CloseReason,
    /// When, in Unix milliseconds.
    pub closed_ms: u64,
}

impl ClosedStream {
    fn name_bytes(&self) -> usize {
        self.topics.iter().map(|topic| topic.as_str().len()).sum()
    }
}

/// What is kept of a subject.
pub(super) fn subject(whole: &str) -> Box<str> {
    let mut end = whole.len().min(SUBJECT);
    while !whole.is_char_boundary(end) {
        end -= 1;
    }
    whole[..end].into()
}

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct ClosedStreams(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    streams: VecDeque<ClosedStream>,
    name_bytes: usize,
}

impl ClosedStreams {
    pub(super) fn remember(&self, stream: ClosedStream) {
        let ring = &mut *self.0.lock();
        ring.name_bytes += stream.name_bytes();
        ring.streams.push_back(stream);
        while ring.streams.len() > STREAMS || ring.name_bytes > NAMES {
            let Some(oldest) = ring.streams.pop_front() else {
                return;
            };
            ring.name_bytes -= oldest.name_bytes();
        }
    }

    /// Those that followed `topic`, the newest first.
    pub(super) fn of(&self, topic: &Topic) -> Vec<ClosedStream> {
        let ring = self.0.lock();
        let followed = ring.streams.iter().rev();
        followed
            .filter(|stream| stream.topics.contains(topic))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(number: u64, topics: impl IntoIterator<Item = String>) -> ClosedStream {
        ClosedStream {
            number,
            topics: topics
                .into_iter()
                .map(|name| name.parse().expect("a topic"))
                .collect(),
            address: IpAddr::from([127, 0, 0, 1]),
            subject: None,
            began: EventId::ZERO,
            cursor: EventId::ZERO,
            reason: CloseReason::Gone,
            closed_ms: number,
        }
    }

    #[test]
    fn the_last_thousand_are_remembered_the_newest_first() {
        let closed = ClosedStreams::default();
        for number in 0..2_500 {
            let topic = if number % 2 == 0 { "even" } else { "odd" };
            closed.remember(stream(number, [topic.to_owned()]));
        }
        let odd = closed.of(&"odd".parse().expect("a topic"));
        let numbers: Vec<u64> = odd.iter().map(|stream| stream.number).collect();
        let wanted: Vec<u64> = (1_500..2_500).rev().filter(|it| it % 2 == 1).collect();
        assert_eq!(numbers, wanted);
    }

    #[test]
    fn long_names_take_no_more_memory() {
        let closed = ClosedStreams::default();
        for number in 0..1_000 {
            let names = (0..100).map(|at| format!("{number}/{at}/{}", "x".repeat(200)));
            closed.remember(stream(number, names));
        }
        let ring = closed.0.lock();
        assert!(ring.name_bytes <= NAMES);
        assert!(ring.streams.len() > 40);
        let sum: usize = ring.streams.iter().map(ClosedStream::name_bytes).sum();
        assert_eq!(sum, ring.name_bytes);
    }

    #[test]
    fn a_subject_is_cut_between_characters() {
        assert_eq!(&*subject("me"), "me");
        assert_eq!(subject(&"é".repeat(200)).len(), 256);
        assert_eq!(subject(&format!("x{}", "é".repeat(200))).len(), 255);
    }
}
