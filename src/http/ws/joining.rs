//! Topics that were added in mid-stream and catch up beside the stream, until they stand where it stands.
//!
//! The events of a joining topic may be older than what the stream has written, so they carry no cursor. Once the topic has
//! caught up, a meeting place is fixed: the further of the two cursors. Both read up to there and not beyond, which the
//! frontier has passed already, so neither waits; there the topic is handed over, and from then on one cursor is true for all.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    event::{EventId, Frame, Topic},
    http::stream::BUDGET,
    hub::{Read, Subscriber},
};

/// See the module.
pub(super) struct Joining {
    subscriber: Subscriber,
    /// What was asked for, to be told when it is live. Some of it may have been followed before.
    asked: Vec<Topic>,
    begun: bool,
    caught_up: bool,
    /// Where it meets the stream, and whether it is there.
    meeting: Option<EventId>,
    there: bool,
}

impl Joining {
    pub(super) fn new(subscriber: Subscriber, asked: Vec<Topic>) -> Self {
        Self {
            caught_up: subscriber.is_live(),
            subscriber,
            asked,
            begun: false,
            meeting: None,
            there: false,
        }
    }

    /// What it follows.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.subscriber.topics()
    }

    /// Whether one of these topics is among what it follows.
    pub(super) fn follows_any(&self, topics: &[Topic]) -> bool {
        self.topics().any(|followed| topics.contains(followed))
    }

    /// Tells of these topics, too, when it is live.
    pub(super) fn tell_of(&mut self, topics: Vec<Topic>) {
        for topic in topics {
            if !self.asked.contains(&topic) {
                self.asked.push(topic);
            }
        }
    }

    /// Its parts, to be handed over: with what was asked for, and is still followed.
    pub(super) fn into_parts(self) -> (Subscriber, Vec<Topic>) {
        (self.subscriber, self.asked)
    }

    /// Follows these topics no longer. Whether nothing is left.
    pub(super) fn leave(&mut self, topics: &[Topic]) -> bool {
        self.subscriber.leave(topics);
        self.asked.retain(|topic| !topics.contains(topic));
        self.subscriber.topics().next().is_none()
    }

    /// Fixes where it meets a stream that stands at `cursor`, once it has caught up. Whether that is news.
    pub(super) fn fix_meeting(&mut self, cursor: EventId) -> bool {
        let news = self.caught_up && self.meeting.is_none();
        if news {
            self.meeting = Some(cursor.max(self.subscriber.cursor()));
        }
        news
    }

    /// Where it meets the stream; none before it has caught up.
    pub(super) fn meeting(&self) -> Option<EventId> {
        self.meeting
    }

    /// Whether it waits at the meeting place.
    pub(super) fn is_there(&self) -> bool {
        self.there
    }

    /// Moves over what was written.
    pub(super) fn advance(&mut self, frames: &[Arc<Frame>]) {
        if let Some(last) = frames.last() {
            self.subscriber.advance(last.id());
        }
    }

    /// Reads on; events, gaps and ends are for the client, everything else is seen to here.
    pub(super) fn poll_read(
        &mut self,
        cx: &Context<'_>,
        frames: &mut Vec<Arc<Frame>>,
    ) -> Poll<Read> {
        if !std::mem::replace(&mut self.begun, true) {
            self.subscriber.wake_here(cx);
        }
        loop {
            if self.there || (self.caught_up && self.meeting.is_none()) {
                return Poll::Pending;
            }
            let ceiling = self.meeting.unwrap_or(EventId::MAX);
            match self.subscriber.poll_read_to(ceiling, cx, frames, BUDGET) {
                // Before the frontier has come to the meeting place; asked again, it would say the same.
                Poll::Ready(Read::Over) if self.meeting.is_some() => return Poll::Pending,
                Poll::Ready(Read::Live | Read::Over) => self.caught_up = true,
                Poll::Ready(Read::Reached) => self.there = true,
                other => return other,
            }
        }
    }
}
