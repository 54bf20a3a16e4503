//! One followed topic: its tail, its shelf of older pages, and the wakers of its subscribers.
//!
//! Wakers stay registered while a subscription lasts, so a wake is one pass over a slab and no subscriber is missed between
//! its look at the tail and its sleep.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Waker,
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use slab::Slab;
use tokio::time::Instant;

use super::shelf::Shelf;
use crate::{
    event::{EventId, Topic},
    log::{LostRange, Tail},
};

pub(super) struct TopicLog {
    pub(super) topic: Topic,
    state: RwLock<State>,
    // Locked for a few instructions, and for one pass over the wakers when there is news.
    wakers: Mutex<Slab<Waker>>,
    pub(super) shelf: Mutex<Shelf>,
    followers: AtomicUsize,
    idle_since: Mutex<Instant>,
}

#[derive(Default)]
pub(super) struct State {
    /// None until the topic is joined.
    pub(super) tail: Option<Tail>,
    /// What was lost, and has to be told, oldest first.
    pub(super) lost: Vec<Lost>,
    /// How many entries `lost` ever had.
    pub(super) lost_count: u32,
}

/// A stretch of the log that is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) range: LostRange,
    /// Where it was in memory here, every stream past its beginning has seen some of it. Another replica found it: only who
    /// came with a cursor from there has, and was judged before this was known.
    pub(super) seen_here: bool,
}

impl Lost {
    /// Another replica has found it.
    pub(super) fn heard(range: LostRange) -> Self {
        Self {
            range,
            seen_here: false,
        }
    }

    /// Whether a stream that began at one cursor and has come to the other has to be told.
    pub(super) fn concerns(&self, began: EventId, cursor: EventId) -> bool {
        if self.seen_here {
            self.range.after < cursor
        } else {
            self.range.holds(began)
        }
    }
}

impl State {
    /// Another replica has found that entries of this range are gone.
    pub(super) fn hear_lost(&mut self, range: LostRange) {
        let is_known = self.lost.iter().any(|lost| lost.range == range);
        // One that is older than all of them has had to make room: it must not take that of one that has to be told.
        let is_over = self.lost.len() == 16
            && self
                .lost
                .iter()
                .all(|lost| lost.range.through > range.through);
        if !is_known && !is_over {
            self.add_lost(Lost::heard(range));
        }
    }

    /// Entries of this range, which were in memory here, are gone, or come too late.
    pub(super) fn tell_lost(&mut self, range: LostRange) {
        self.add_lost(Lost {
            range,
            seen_here: true,
        });
    }

    fn add_lost(&mut self, lost: Lost) {
        if self.lost.len() == 16 {
            self.lost.remove(0);
        }
        self.lost.push(lost);
        self.lost_count += 1;
    }
}

impl TopicLog {
    pub(super) fn new(topic: Topic) -> Self {
        Self {
            topic,
            state: RwLock::default(),
            wakers: Mutex::default(),
            shelf: Mutex::default(),
            followers: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    pub(super) fn joined(&self) -> bool {
        self.state.read().tail.is_some()
    }

    pub(super) fn followers(&self) -> usize {
        self.followers.load(Ordering::Acquire)
    }

    /// One subscription more. Called under the registry's lock, so that a topic is not given up meanwhile.
    pub(super) fn follow(&self) {
        self.followers.fetch_add(1, Ordering::AcqRel);
    }

    /// One subscription less.
    pub(super) fn unfollow(&self) {
        if self.followers.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.idle_since.lock() = Instant::now();
        }
    }

    /// Since when nobody has followed it.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.followers() == 0).then(|| *self.idle_since.lock())
    }

    /// Registers a waker, or renews the one at `slot`.
    pub(super) fn register(&self, slot: Option<usize>, waker: &Waker) -> usize {
        let mut wakers = self.wakers.lock();
        match slot {
            Some(slot) => {
                wakers[slot].clone_from(waker);
                slot
            }
            None => wakers.insert(waker.clone()),
        }
    }

    pub(super) fn unregister(&self, slot: usize) {
        // In this order: as soon as the slot is free it may be another one's, who waits for a page.
        self.shelf.lock().forget(slot);
        self.wakers.lock().remove(slot);
    }

    /// Wakes every subscriber.
    pub(super) fn wake(&self) {
        for (_, waker) in &*self.wakers.lock() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(ms: u64) -> LostRange {
        LostRange {
            after: EventId::new(ms, 0),
            through: EventId::new(ms, 9),
        }
    }

    /// Sixteen are remembered. An older one, which a position may still name, would push out one that nobody has been told of.
    #[test]
    fn what_had_to_make_room_does_not_come_back() {
        let mut state = State::default();
        for ms in 1..=17 {
            state.tell_lost(range(ms));
        }
        state.hear_lost(range(1));
        assert_eq!(state.lost_count, 17);
        let kept: Vec<LostRange> = state.lost.iter().map(|lost| lost.range).collect();
        assert_eq!(kept, (2..=17).map(range).collect::<Vec<_>>());
        state.hear_lost(range(18));
        assert_eq!((state.lost_count, state.lost[15].range), (18, range(18)));
    }
}
