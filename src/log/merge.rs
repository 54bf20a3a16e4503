//! Many topics under one cursor.
//!
//! One cursor is true over many topics only if events leave in the order of their ids over all of them, and none leaves
//! before every smaller one has been seen. Each topic offers a *run*: what it has after the cursor. A run that was cut
//! short hides what follows, so nothing after its last frame may leave yet.

use std::sync::Arc;

use crate::event::{EventId, Frame};

/// Collects the runs of a subscription's topics into one sequence.
///
/// `B` is what stands between events and has to be said in its place: a hole, the end of a topic.
#[derive(Debug)]
pub struct Merge<B> {
    limit: EventId,
    barrier: Option<(EventId, B)>,
    runs: usize,
}

impl<B> Merge<B> {
    /// A merge that lets nothing pass above `frontier`.
    pub fn new(frontier: EventId) -> Self {
        Self {
            limit: frontier,
            barrier: None,
            runs: 0,
        }
    }

    /// What lies above this id may not leave.
    pub fn limit(&self) -> EventId {
        self.limit
    }

    /// Counts a run that has frames, and, where it was cut short, holds everything back that comes after `through`.
    pub fn run(&mut self, cut_after: Option<EventId>) {
        self.runs += 1;
        self.limit = cut_after.map_or(self.limit, |through| self.limit.min(through));
    }

    /// Nothing from the id `at` on may leave before `barrier` has been said. Above the frontier it waits.
    pub fn barrier(&mut self, at: EventId, barrier: B) {
        if self.barrier.as_ref().is_none_or(|(first, _)| at < *first) {
            self.barrier = Some((at, barrier));
        }
    }

    /// Brings the frames of all runs into order and takes away what may not leave. If nothing is left before the barrier,
    /// that is what comes next.
    pub fn finish(self, frames: &mut Vec<Arc<Frame>>) -> Option<(EventId, B)> {
        if self.runs > 1 {
            frames.sort_unstable_by_key(|frame| frame.id());
        }
        let before = self
            .barrier
            .as_ref()
            .map_or(EventId::MAX, |(at, _)| at.previous());
        let keep = frames.partition_point(|frame| frame.id() <= self.limit.min(before));
        frames.truncate(keep);
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
        ) {
            let topics: Vec<Topic> = (0..4).map(|n| format!("t{n}").parse().expect("a topic")).collect();
            let mut cursor = EventId::ZERO;
            let mut seen = Vec::new();
            loop {
                let mut merge = Merge::<()>::new(EventId::new(frontier, 0));
                let mut frames = Vec::new();
                for (n, topic) in topics.iter().enumerate() {
                    let all: Vec<u64> = owners.iter().enumerate().filter(|&(_, &owner)| owner == n).map(|(at, _)| at as u64 + 1)
                        .filter(|&ms| EventId::new(ms, 0) > cursor).collect();
                    let run = &all[..all.len().min(budget)];
                    frames.extend(run.iter().map(|&ms| frame(topic, ms)));
                    if let Some(&last) = run.last() {
                        merge.run((run.len() < all.len()).then(|| EventId::new(last, 0)));
                    }
                }
                prop_assert_eq!(merge.finish(&mut frames), None);
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
        let finish = |frontier, mut frames: Vec<Arc<Frame>>| {
            let mut merge = Merge::new(EventId::new(frontier, 0));
            merge.barrier(EventId::new(5, 0), "hole");
            merge.barrier(EventId::new(8, 0), "end");
            merge.run(None);
            let said = merge.finish(&mut frames).map(|(_, said)| said);
            (
                said,
                frames
                    .iter()
                    .map(|frame| frame.id().ms())
                    .collect::<Vec<_>>(),
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
