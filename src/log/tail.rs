//! The newest frames of one topic, kept in memory.
//!
//! A reconnect storm is answered from here, without a question to the store.
//!
//! # Invariants
//! 1. Ids strictly increase from front to back, up to the head.
//! 2. Whoever has a cursor at or above the floor finds every later entry of the topic here.
//! 3. `bytes` stays within the limit, except while a single frame is larger.
//!
//! Not here: waking subscribers ([`crate::hub`]) and durable history ([`crate::store`]).

use std::{collections::VecDeque, sync::Arc};

use crate::event::{EventId, Frame};

/// How much of a topic stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailLimits {
    /// Frames.
    pub events: usize,
    /// Bytes on the wire.
    pub bytes: usize,
    /// Milliseconds since a frame was published.
    pub age_ms: u64,
}

/// The newest stretch of a log.
#[derive(Debug)]
pub struct Tail {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    floor: EventId,
    head: EventId,
    end: Option<EventId>,
}

impl Tail {
    /// An empty tail of a topic whose newest event is `last`: it proves what comes after.
    pub fn new(last: EventId, end: Option<EventId>) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            floor: last,
            head: end.unwrap_or(last),
            end,
        }
    }

    /// The id of the newest entry, also when it has been trimmed.
    pub fn head(&self) -> EventId {
        self.head
    }

    /// Cursors at or above this one are answered from here.
    pub fn floor(&self) -> EventId {
        self.floor
    }

    /// The id of the topic's end, once it is finished.
    pub fn end(&self) -> Option<EventId> {
        self.end
    }

    /// Bytes on the wire of all frames.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The id of the oldest frame.
    pub fn oldest(&self) -> Option<EventId> {
        self.frames.front().map(|frame| frame.id())
    }

    /// Appends what comes after the head, and trims the front by count and bytes. An end carries no frame.
    pub fn push(&mut self, frame: Arc<Frame>, limits: &TailLimits) {
        debug_assert!(frame.id() > self.head, "ids increase");
        self.head = frame.id();
        if frame.event().end {
            self.end = Some(frame.id());
            return;
        }
        self.bytes += frame.wire_bytes();
        self.frames.push_back(frame);
        self.fit(limits);
    }

    /// Whether there is more than the limits allow, by count or bytes.
    pub fn exceeds(&self, limits: &TailLimits) -> bool {
        self.frames.len() > limits.events.max(1)
            || (self.bytes > limits.bytes && self.frames.len() > 1)
    }

    /// Trims the front by count and bytes.
    pub fn fit(&mut self, limits: &TailLimits) {
        while self.exceeds(limits) {
            self.pop();
        }
    }

    /// Takes the front frame away.
    pub fn pop(&mut self) -> Option<Arc<Frame>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.wire_bytes();
        self.floor = match self.frames.front() {
            Some(next) => next.previous().max(frame.id()),
            None => frame.id(),
        };
        Some(frame)
    }

    /// Trims the frames that were published before `ms`.
    pub fn expire(&mut self, ms: u64) {
        while self.oldest().is_some_and(|id| id.ms() < ms) {
            self.pop();
        }
    }

    /// Forgets every entry after `common`: the store lost them.
    pub fn cut_back(&mut self, common: EventId) {
        while let Some(frame) = self.frames.pop_back_if(|frame| frame.id() > common) {
            self.bytes -= frame.wire_bytes();
        }
        self.end = self.end.filter(|&end| end <= common);
        self.head = self.head.min(common);
        self.floor = self.floor.min(self.head);
    }

    /// The frames after `cursor`, oldest first; none if the tail does not reach back that far.
    pub fn after(&self, cursor: EventId) -> Option<impl Iterator<Item = &Arc<Frame>> + Clone> {
        if cursor < self.floor {
            return None;
        }
        // Most cursors are at the head or one behind it.
        let newest = self.frames.len().checked_sub(1);
        let from = match newest.map(|at| (at, &self.frames[at])) {
            Some((at, frame)) if frame.id() > cursor && frame.previous() <= cursor => at,
            Some((_, frame)) if frame.id() <= cursor => self.frames.len(),
            _ => self.frames.partition_point(|frame| frame.id() <= cursor),
        };
        Some(self.frames.range(from..))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Event;

    fn frame(ms: u64, previous: u64, bytes: usize) -> Arc<Frame> {
        Arc::new(Frame::new(
            Arc::new(Event {
                id: EventId::new(ms, 0),
                previous: EventId::new(previous, 0),
                topic: "t".parse().expect("a topic"),
                kind: crate::event::EventType::default(),
                data: "x".repeat(bytes).into(),
                end: false,
            }),
            0,
        ))
    }

    #[derive(Clone, Debug)]
    enum Action {
        Push { step: u64, bytes: usize },
        Pop,
        Expire(u64),
        CutBack(u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            8 => (1_u64..4, 0_usize..200).prop_map(|(step, bytes)| Action::Push { step, bytes }),
            1 => Just(Action::Pop),
            1 => (0_u64..100).prop_map(Action::Expire),
            1 => (0_u64..3).prop_map(Action::CutBack),
        ]
    }

    proptest! {
        /// The model is the sorted list of all entries that were not cut away.
        #[test]
        fn the_tail_agrees_with_a_sorted_list(actions in proptest::collection::vec(action(), 0..80), start in 0_u64..5) {
            let limits = TailLimits { events: 8, bytes: 600, age_ms: 0 };
            let mut model: Vec<u64> = Vec::new();
            let mut head = start;
            let mut tail = Tail::new(EventId::new(head, 0), None);
            for action in actions {
                match action {
                    Action::Push { step, bytes } => {
                        tail.push(frame(head + step, head, bytes), &limits);
                        head += step;
                        model.push(head);
                    }
                    Action::Pop => { tail.pop(); }
                    Action::Expire(ms) => tail.expire(ms),
                    Action::CutBack(back) => {
                        let common = model.iter().rev().nth(usize::try_from(back).expect("small")).copied().unwrap_or(start);
                        model.retain(|&ms| ms <= common);
                        tail.cut_back(EventId::new(common, 0));
                        head = common;
                    }
                }
                prop_assert_eq!(tail.head(), EventId::new(head, 0));
                prop_assert!(tail.len() <= limits.events);
                prop_assert!(tail.bytes() <= limits.bytes || tail.len() == 1);
                for cursor in start..head + 2 {
                    let expected: Vec<u64> = model.iter().copied().filter(|&ms| ms > cursor).collect();
                    match tail.after(EventId::new(cursor, 0)) {
                        Some(frames) => prop_assert_eq!(frames.map(|frame| frame.id().ms()).collect::<Vec<_>>(), expected),
                        None => prop_assert!(cursor < tail.floor().ms()),
                    }
                }
                if let Some(oldest) = tail.oldest() {
                    prop_assert!(tail.floor() < oldest);
                }
            }
        }
    }
}
