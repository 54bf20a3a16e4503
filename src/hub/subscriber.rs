//! One open connection: a cursor over its topics.
//!
//! [`Subscriber::poll_read`] looks from the cursor to the frontier and says what comes next; [`Subscriber::advance`] moves
//! the cursor over what was really written. In between nothing is kept, so a connection that cannot be written to holds
//! no events, and what is published meanwhile leaves in one go.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use smallvec::SmallVec;

use super::{Shared, shelf::Shelved, topic_log::TopicLog};
use crate::{
    event::{EventId, Frame, Topic},
    log::{Budget, Gap, GapReason, Merge},
};

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Events, in the frames that were handed over: [`Subscriber::advance`] moves over them.
    Events,
    /// Events are missing here.
    Gap(Gap),
    /// The stream has caught up with the frontier, which is now its cursor.
    Live,
    /// Everything up to the ceiling has been read, and the cursor is there.
    Reached,
    /// A topic has ended. Its id moves the cursor unless the cursor was past it before.
    End {
        /// Which.
        topic: Topic,
        /// The id of its end.
        id: EventId,
        /// Whether the id may be written: it does not lead the cursor back.
        moves: bool,
    },
    /// Every topic has ended: nothing will come.
    Over,
}

/// One topic of a subscription.
pub(super) struct Followed {
    pub(super) log: Arc<TopicLog>,
    slot: Option<usize>,
    /// Nothing of this topic is left to say up to here, though the common cursor may be behind it.
    passed: EventId,
    /// Whatever is missing up to here, before the first entry that is found, was not asked for or was told already.
    excused: EventId,
    end_told: bool,
    lost_told: u32,
    /// The cursor with which it was asked for.
    began: EventId,
}

impl Followed {
    pub(super) fn new(log: Arc<TopicLog>) -> Self {
        Self {
            log,
            slot: None,
            passed: EventId::ZERO,
            excused: EventId::ZERO,
            end_told: false,
            lost_told: 0,
            began: EventId::ZERO,
        }
    }

    /// Where its waker stands.
    pub(super) fn slot(&self) -> usize {
        self.slot.unwrap_or(usize::MAX)
    }

    /// Looks at this topic, the one at `at` of the subscription, from `cursor` on.
    fn look(
        &mut self,
        at: usize,
        cursor: EventId,
        shared: &Arc<Shared>,
        cx: &Context<'_>,
        merge: &mut Merge<'_, usize>,
    ) -> Look {
        loop {
            let state = self.log.read();
            let Some(tail) = &state.tail else {
                return Look::Wait;
            };
            if self.lost_told != state.lost_count {
                let fresh = usize::try_from(state.lost_count.wrapping_sub(self.lost_told))
                    .unwrap_or(usize::MAX)
                    .min(state.lost.len());
                self.lost_told = state.lost_count;
                let lost = state.lost[state.lost.len() - fresh..].iter();
                let through = lost
                    .filter(|lost| lost.concerns(self.began, cursor))
                    .map(|lost| lost.range.through)
                    .max();
                if let Some(through) = through {
                    // Whoever is past the range has got all of it, as far as is known.
                    let gap = self.gap(GapReason::Lost);
                    return Look::Say(Read::Gap(Gap {
                        missed_at_least: gap.missed_at_least.filter(|_| cursor < through),
                        ..gap
                    }));
                }
            }
            // A failover may have lost the end.
            self.end_told &= tail.end().is_some();
            if let Some(end) = tail.end().filter(|_| !self.end_told) {
                merge.barrier(end, at);
            }
            let place = cursor.max(self.passed);
            if let Some(after) = tail.after(place) {
                self.excused = EventId::ZERO;
                // A tail has no hole from its floor on, so there is nothing to check in it.
                merge.run(after, false);
                return Look::Done;
            }
            let floor = tail.floor();
            drop(state);
            let Shelved::Page(page) = shared.page(&self.log, place, self.slot(), None, cx.waker())
            else {
                return Look::Wait;
            };
            // Only once: what is missing after the first entry is missing.
            let excused = std::mem::take(&mut self.excused);
            let from = place.max(excused);
            let rest = &page.frames[page.frames.partition_point(|frame| frame.id() <= place)..];
            let Some(first) = rest.first() else {
                // The store has nothing left of what the tail no longer holds; from its floor on the tail knows again.
                self.passed = page.floor;
                if page.floor > from {
                    match page.proof.missing(from) {
                        None if excused > EventId::ZERO => {}
                        // The entry at the floor is gone. If the store knows nothing of it, it has lost its log, which the
                        // lane is about to find out.
                        reason => {
                            let reason = reason.unwrap_or(GapReason::Lost);
                            return Look::Say(Read::Gap(self.gap(reason)));
                        }
                    }
                }
                continue;
            };
            if first.id() > floor && first.previous() < floor && floor > excused {
                // The same, and new entries have been stored since.
                self.passed = floor;
                return Look::Say(Read::Gap(self.gap(GapReason::Lost)));
            }
            if first.previous() > place {
                // Said at once: an event of another topic would take the cursor into the hole, and an older page of the shelf
                // may still have a part of what is missing here.
                self.passed = first.previous();
                if first.previous() > excused {
                    return Look::Say(Read::Gap(self.gap(GapReason::Retention)));
                }
            }
            let holed = rest
                .windows(2)
                .position(|pair| pair[1].previous() != pair[0].id());
            let whole = &rest[..holed.map_or(rest.len(), |hole| hole + 1)];
            // What follows is on another page, or in the tail.
            merge.run(whole.iter(), true);
            return Look::Done;
        }
    }

    fn gap(&self, reason: GapReason) -> Gap {
        Gap {
            reason,
            topics: vec![self.log.topic.clone()],
            missed_at_least: Some(1),
        }
    }
}

/// A cursor over the logs of its topics.
pub struct Subscriber {
    shared: Arc<Shared>,
    /// Most subscriptions have one topic, which then needs no allocation of its own, and no cache line.
    topics: SmallVec<[Followed; 1]>,
    cursor: EventId,
    /// Everything up to here has been read, though the cursor that was written may be older.
    clear_to: EventId,
    epoch: u32,
    live: bool,
}

/// What a look at one topic found.
enum Look {
    Done,
    /// A page has to be read first: nothing may leave.
    Wait,
    /// Something has to be said at once.
    Say(Read),
}

impl Subscriber {
    pub(super) fn new(shared: Arc<Shared>, topics: Vec<Followed>) -> Self {
        let epoch = shared.frontier().epoch;
        Self {
            shared,
            topics: topics.into(),
            cursor: EventId::ZERO,
            clear_to: EventId::ZERO,
            epoch,
            live: false,
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn followed(&self) -> &[Followed] {
        &self.topics
    }

    /// What is lost from here on is told in the stream; what was lost before is part of the verdict. Returns the epoch in
    /// which the verdict has to be made.
    pub(super) fn before_verdict(&mut self) -> u32 {
        self.epoch = self.shared.frontier().epoch;
        for followed in &mut self.topics {
            followed.lost_told = followed.log.read().lost_count;
        }
        self.epoch
    }

    /// Begins at `cursor`. What is missing up to `excused` before the first entry of the topics in `anywhere` is of no concern,
    /// or has been told.
    pub(super) fn begin(
        &mut self,
        cursor: EventId,
        anywhere: &[Topic],
        excused: EventId,
        tells_live: bool,
    ) {
        self.cursor = cursor;
        self.live = !tells_live;
        for followed in &mut self.topics {
            followed.began = cursor;
            if anywhere.contains(&followed.log.topic) {
                followed.excused = excused;
            }
        }
    }

    /// Everything up to here has been written.
    pub fn cursor(&self) -> EventId {
        self.cursor
    }

    /// The topics it follows, in the order in which they were named.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter().map(|followed| &followed.log.topic)
    }

    /// The greatest end, if every topic is finished.
    pub(super) fn ended(&self) -> Option<EventId> {
        let ends = self.topics.iter().map(|followed| {
            followed
                .log
                .read()
                .tail
                .as_ref()
                .and_then(crate::log::Tail::end)
        });
        ends.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    pub(super) fn register(&mut self, waker: &Waker) {
        for followed in &mut self.topics {
            followed.slot = Some(followed.log.register(followed.slot, waker));
        }
    }

    /// Moves the waker to another task. The first [`Self::poll_read`] on that task calls it.
    pub fn wake_here(&mut self, cx: &Context<'_>) {
        self.register(cx.waker());
    }

    /// Moves the cursor over an event that was written.
    pub fn advance(&mut self, id: EventId) {
        debug_assert!(id >= self.cursor, "a cursor does not go back");
        self.cursor = id;
    }

    /// Moves the cursor without an event, over everything that was found not to concern this subscription.
    pub fn checkpoint(&mut self) -> Option<EventId> {
        (self.clear_to > self.cursor).then(|| {
            self.cursor = self.clear_to;
            self.cursor
        })
    }

    /// Reads on from the cursor: events into `frames`, which is empty, or something else that has to be said first.
    ///
    /// The waker must have been registered by [`Self::wake_here`]; it stays so.
    pub fn poll_read(
        &mut self,
        cx: &Context<'_>,
        frames: &mut Vec<Arc<Frame>>,
        budget: Budget,
    ) -> Poll<Read> {
        self.poll_read_to(EventId::MAX, cx, frames, budget)
    }

    /// As [`Self::poll_read`], but nothing above `ceiling`: there it is [`Read::Reached`]. Another subscriber may wait at
    /// this place to be absorbed.
    pub fn poll_read_to(
        &mut self,
        ceiling: EventId,
        cx: &Context<'_>,
        frames: &mut Vec<Arc<Frame>>,
        budget: Budget,
    ) -> Poll<Read> {
        let frontier = self.shared.frontier();
        if frontier.epoch != self.epoch {
            return Poll::Ready(self.born_again(frontier.epoch, frontier.born));
        }
        let mut merge = Merge::new(frontier.id.min(ceiling), budget, frames);
        let mut wait = false;
        for (at, followed) in self.topics.iter_mut().enumerate() {
            // Even if nothing may leave before a page has come, the others are asked for theirs: all are read at once.
            match followed.look(at, self.cursor, &self.shared, cx, &mut merge) {
                Look::Done => {}
                Look::Wait => wait = true,
                Look::Say(read) => {
                    frames.clear();
                    return Poll::Ready(read);
                }
            }
        }
        if wait {
            frames.clear();
            return Poll::Pending;
        }
        // What stands between events is the end of the topic at this place.
        if let Some((id, at)) = merge.finish() {
            let followed = &mut self.topics[at];
            followed.end_told = true;
            let topic = followed.log.topic.clone();
            let moves = id > self.cursor
                || self.topics.iter().all(|followed| {
                    followed
                        .log
                        .read()
                        .tail
                        .as_ref()
                        .is_some_and(|tail| tail.end().is_some())
                });
            self.cursor = self.cursor.max(id);
            return Poll::Ready(Read::End { topic, id, moves });
        }
        if !frames.is_empty() {
            return Poll::Ready(Read::Events);
        }
        if ceiling <= frontier.id {
            self.cursor = self.cursor.max(ceiling);
            self.clear_to = self.cursor;
            return Poll::Ready(Read::Reached);
        }
        // Who follows nothing at the moment may want to follow something again.
        if !self.topics.is_empty() && self.topics.iter().all(|followed| followed.end_told) {
            return Poll::Ready(Read::Over);
        }
        self.clear_to = frontier.id;
        if !self.live {
            self.live = true;
            self.cursor = self.cursor.max(frontier.id);
            return Poll::Ready(Read::Live);
        }
        Poll::Pending
    }

    /// Whether it has caught up once, or never had anything to catch up with.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Takes over the topics of `other`, if both stand at the same place of the same log; gives it back otherwise. `other`
    /// is woken where this one is.
    ///
    /// # Errors
    /// `other`, which has to read on first, or this one has to.
    pub fn absorb(&mut self, mut other: Self) -> Result<(), Box<Self>> {
        if self.cursor != other.cursor || self.epoch != other.epoch {
            return Err(Box::new(other));
        }
        self.clear_to = self.cursor;
        self.topics.extend(other.topics.drain(..));
        Ok(())
    }

    /// Follows these topics no longer. Those that it does not follow are passed over.
    pub fn leave(&mut self, topics: &[Topic]) {
        self.topics.retain(|followed| {
            let stays = !topics.contains(&followed.log.topic);
            if !stays && let Some(slot) = followed.slot.take() {
                followed.log.unregister(slot);
            }
            stays
        });
    }

    fn born_again(&mut self, epoch: u32, born: EventId) -> Read {
        self.epoch = epoch;
        self.cursor = self.cursor.max(born);
        self.clear_to = self.cursor;
        for followed in &mut self.topics {
            followed.passed = EventId::ZERO;
            followed.end_told = false;
            followed.lost_told = followed.log.read().lost_count;
        }
        let topics = self
            .topics
            .iter()
            .map(|followed| followed.log.topic.clone())
            .collect();
        Read::Gap(Gap {
            reason: GapReason::Reset,
            topics,
            missed_at_least: None,
        })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        for followed in &self.topics {
            if let Some(slot) = followed.slot {
                followed.log.unregister(slot);
            }
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.log.unfollow();
    }
}
