//! Many topics under one cursor.
//!
//! One cursor is true over many topics only if events leave in the order of their ids over all of them, and none leaves
//! before every smaller one has been seen. Each topic offers a *run*: what it has after the cursor. A run that was cut
//! short hides what follows, so nothing after its last frame may leave yet.

use std::sync::Arc;

use crate::event::{EventId, Frame};

/// How much of each topic is read in one go.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Frames.
    pub frames: usize,
    /// Bytes on the wire; a single larger frame passes.
    pub bytes: usize,
}

impl Budget {
    /// Whether a frame that would make it `bytes` may not join `count` others.
    fn is_spent(self, count: usize, bytes: usize) -> bool {
        count > 0 && (count >= self.frames || bytes > self.bytes)
    }

    /// How many of these frames it pays for.
    fn covers(self, frames: &[Arc<Frame>]) -> usize {
        let mut bytes = 0;
        let spent = frames.iter().enumerate().position(|(count, frame)| {
            bytes += frame.wire_bytes();
            self.is_spent(count, bytes)
        });
        spent.unwrap_or(frames.len())
    }
}

/// Collects the runs of a subscription's topics into one sequence.
///
/// `B` is what stands between events and has to be said in its place: a hole, the end of a topic.
#[derive(Debug)]
pub struct Merge<'a, B> {
    frames: &'a mut Vec<Arc<Frame>>,
    budget: Budget,
    limit: EventId,
    barrier: Option<(EventId, B)>,
    runs: usize,
}

impl<'a, B> Merge<'a, B> {
    /// A merge into `frames` that lets nothing pass above `frontier`.
    pub fn new(frontier: EventId, budget: Budget, frames: &'a mut Vec<Arc<Frame>>) -> Self {
        Self {
            frames,
            budget,
            limit: frontier,
            barrier: None,
            runs: 0,
        }
    }

    /// Adds what one topic has, oldest first, as much of it as the budget allows, but at least one. Where `more` of it may
    /// follow that is not in `run`, or the budget ends it, nothing after its last frame may leave yet.
    pub fn run<'f>(&mut self, run: impl Iterator<Item = &'f Arc<Frame>>, more: bool) {
        let start = self.frames.len();
        let mut bytes = 0;
        let mut cut = more;
        for frame in run {
            if frame.id() > self.limit {
                break;
            }
            let count = self.frames.len() - start;
            if self.budget.is_spent(count, bytes + frame.wire_bytes()) {
                cut = true;
                break;
            }
            bytes += frame.wire_bytes();
            self.frames.push(frame.clone());
        }
        if let Some(last) = self.frames[start..].last() {
            self.runs += 1;
            if cut {
                self.limit = self.limit.min(last.id());
            }
        }
    }

    /// Nothing from the id `at` on may leave before `barrier` has been said. Above the frontier it waits.
    pub fn barrier(&mut self, at: EventId, barrier: B) {
        if self.barrier.as_ref().is_none_or(|(first, _)| at < *first) {
            self.barrier = Some((at, barrier));
        }
    }

    /// Brings the frames of all runs into order and takes away what may not leave. If nothing is left before the barrier,
    /// that is what comes next.
    pub fn finish(self) -> Option<(EventId, B)> {
        let frames = self.frames;
        if self.runs > 1 {
            frames.sort_unstable_by_key(|frame| frame.id());
        }
        let before = self
            .barrier
            .as_ref()
            .map_or(EventId::MAX, |(at, _)| at.previous());
        let keep = frames.partition_point(|frame| frame.id() <= self.limit.min(before));
        frames.truncate(keep);
        if self.runs > 1 {
            // Each topic may have spent the whole budget.
            frames.truncate(self.budget.covers(frames));
        }
        self.barrier
            .filter(|(at, _)| keep == 0 && *at <= self.limit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Event, EventType, Topic};

    fn frame(topic: &Topic, ms: u64) -> Arc<Frame> {
        Arc::new(Frame::new(
            Arc::new(Event {
                id: EventId::new(ms, 0),
                previous: EventId::ZERO,
                topic: topic.clone(),
                kind: EventType::default(),
                data: "".into(),
                end: false,
            }),
            0,
        ))
    }

    proptest! {
        /// Reading a subscription in small pieces gives the sorted list of all its events, up to the frontier.
        #[test]
        fn pieces_of_many_topics_make_one_ordered_sequence(
            owners in proptest::collection::vec(0_usize..4, 0..60),
            frontier in 0_u64..70,
            budget in 1_usize..5,
            page in 1_usize..8,
        ) {
            let topics: Vec<Topic> = (0..4).map(|n| format!("t{n}").parse().expect("a topic")).collect();
            let mut cursor = EventId::ZERO;
            let mut seen = Vec::new();
            loop {
                let mut frames = Vec::new();
                let mut merge = Merge::<()>::new(EventId::new(frontier, 0), Budget { frames: budget, bytes: usize::MAX }, &mut frames);
                for (n, topic) in topics.iter().enumerate() {
                    let all: Vec<u64> = owners.iter().enumerate().filter(|&(_, &owner)| owner == n).map(|(at, _)| at as u64 + 1)
                        .filter(|&ms| EventId::new(ms, 0) > cursor).collect();
                    let all: Vec<_> = all.into_iter().map(|ms| frame(topic, ms)).collect();
                    let offered = all.len().min(page);
                    merge.run(all[..offered].iter(), offered < all.len());
                }
                prop_assert_eq!(merge.finish(), None);
                let Some(last) = frames.last() else { break };
                cursor = last.id();
                seen.extend(frames.iter().map(|frame| frame.id().ms()));
            }
            let expected: Vec<u64> = (1..=owners.len() as u64).filter(|&ms| ms <= frontier).collect();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_barrier_is_said_after_what_lies_before_it_and_before_what_lies_after_it() {
        let topic: Topic = "b".parse().expect("a topic");
        let finish = |frontier, frames: Vec<Arc<Frame>>| {
            let mut out = Vec::new();
            let mut merge = Merge::new(
                EventId::new(frontier, 0),
                Budget {
                    frames: 9,
                    bytes: 999,
                },
                &mut out,
            );
            merge.barrier(EventId::new(5, 0), "hole");
            merge.barrier(EventId::new(8, 0), "end");
            merge.run(frames.iter(), false);
            let said = merge.finish().map(|(_, said)| said);
            (
                said,
                out.iter().map(|frame| frame.id().ms()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            finish(9, vec![frame(&topic, 3), frame(&topic, 7)]),
            (None, vec![3])
        );
        assert_eq!(finish(9, vec![frame(&topic, 7)]), (Some("hole"), vec![]));
        assert_eq!(finish(4, vec![frame(&topic, 7)]), (None, vec![]));
    }
}
