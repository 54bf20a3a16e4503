//! Pages of a topic older than its tail, read once for all who want them.
//!
//! At most one read of a topic is under way; whoever needs another place waits for it. The next read begins at the oldest
//! place that is still wanted, so one page serves everybody whom it covers, and a storm of returning cursors costs a few
//! reads, however many they are.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    task::Waker,
};

use tokio::time::Instant;

use super::{Shared, topic_log::TopicLog};
use crate::{
    event::{EventId, Frame},
    log::Proof,
    store::StoreError,
};

/// Events of a page.
pub(super) const PAGE_EVENTS: usize = 256;
/// Pages of one topic that stay on the shelf.
const PAGES: usize = 8;
/// How long a page stays.
const KEEP: std::time::Duration = std::time::Duration::from_secs(2);

/// A stretch of a log: everything after `after`, up to and with its last frame.
pub(super) struct HubPage {
    pub(super) after: EventId,
    pub(super) frames: Vec<Arc<Frame>>,
    pub(super) proof: Proof,
    /// The tail's floor before the page was read: an empty page says that nothing is left up to here.
    pub(super) floor: EventId,
    read_at: Instant,
}

impl HubPage {
    /// Whether this page says what comes next after `cursor`.
    fn covers(&self, cursor: EventId, floor: EventId) -> bool {
        cursor >= self.after
            && match self.frames.last() {
                Some(last) => cursor < last.id(),
                // Nothing was there; still true as long as the tail has not moved on.
                None => cursor < self.floor && self.floor == floor,
            }
    }
}

/// The answer to a question for a place.
pub(super) enum Shelved {
    /// Here it is.
    Page(Arc<HubPage>),
    /// The caller is woken when the page is there.
    Wait,
}

#[derive(Default)]
pub(super) struct Shelf {
    pages: VecDeque<Arc<HubPage>>,
    waiting: HashMap<usize, (EventId, Waker)>,
    reading: bool,
    /// Counts how often every page was forgotten: what was read before belongs to a log that is gone.
    generation: u64,
    failed: Option<StoreError>,
}

impl Shelf {
    pub(super) fn forget(&mut self, slot: usize) {
        self.waiting.remove(&slot);
    }

    /// Drops what is old. Returns whether anything is left to look after.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.pages
            .retain(|page| now.saturating_duration_since(page.read_at) < KEEP);
        if self.pages.is_empty() && self.waiting.is_empty() {
            self.pages.shrink_to_fit();
            self.waiting.shrink_to_fit();
        }
    }

    /// Forgets every page: the log was cut back.
    pub(super) fn clear(&mut self) {
        self.pages.clear();
        self.generation += 1;
    }

    /// Forgets what no longer tells the truth: the store has let go of everything up to `through`.
    pub(super) fn trimmed(&mut self, through: EventId) {
        self.pages.retain(|page| page.after >= through);
        self.generation += 1;
    }

    /// Why the last read failed, if no other has succeeded since.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failed.clone()
    }
}

impl Shared {
    /// The page after `cursor`, or a place in the queue for it. `slot` tells callers apart.
    pub(super) fn page(
        self: &Arc<Self>,
        log: &Arc<TopicLog>,
        cursor: EventId,
        slot: usize,
        waker: &Waker,
    ) -> Shelved {
        let floor = log
            .read()
            .tail
            .as_ref()
            .map_or(EventId::ZERO, crate::log::Tail::floor);
        let mut shelf = log.shelf.lock();
        if let Some(page) = shelf.pages.iter().find(|page| page.covers(cursor, floor)) {
            let page = page.clone();
            shelf.waiting.remove(&slot);
            return Shelved::Page(page);
        }
        shelf.waiting.insert(slot, (cursor, waker.clone()));
        if !std::mem::replace(&mut shelf.reading, true) {
            // What failed long ago says nothing about this read.
            shelf.failed = None;
            self.tasks.spawn(fill(self.clone(), log.clone()));
        }
        Shelved::Wait
    }
}

/// Reads pages of `log` until nobody waits for one.
async fn fill(shared: Arc<Shared>, log: Arc<TopicLog>) {
    loop {
        let (generation, after) = {
            let mut shelf = log.shelf.lock();
            let oldest = shelf.waiting.values().map(|(cursor, _)| *cursor).min();
            shelf.reading = oldest.is_some();
            let Some(oldest) = oldest else { return };
            (shelf.generation, oldest)
        };
        let floor = log
            .read()
            .tail
            .as_ref()
            .map_or(EventId::ZERO, crate::log::Tail::floor);
        let read = tokio::select! {
            read = shared.store.read(&log.topic, after, PAGE_EVENTS) => read,
            () = shared.stop.cancelled() => return,
        };
        shared.counters.pages.fetch_add(1, Ordering::Relaxed);
        match read {
            Ok(page) => {
                let page = Arc::new(HubPage {
                    after,
                    proof: page.proof(),
                    frames: page
                        .events
                        .into_iter()
                        .map(|event| Arc::new(Frame::new(event, 0)))
                        .collect(),
                    floor,
                    read_at: Instant::now(),
                });
                let mut shelf = log.shelf.lock();
                shelf.failed = None;
                if shelf.generation != generation {
                    continue;
                }
                let through = page.frames.last().map_or(floor, |frame| frame.id());
                if shelf.pages.len() == PAGES {
                    shelf.pages.pop_front();
                }
                shelf.pages.push_back(page);
                shelf.waiting.retain(|_, (cursor, waker)| {
                    let served = *cursor >= after && (*cursor < through || *cursor == after);
                    if served {
                        waker.wake_by_ref();
                    }
                    !served
                });
            }
            Err(error) => {
                tracing::debug!(topic = %log.topic, %error, "a page could not be read");
                {
                    let mut shelf = log.shelf.lock();
                    shelf.failed = Some(error);
                    for (_, waker) in shelf.waiting.values() {
                        waker.wake_by_ref();
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(std::time::Duration::from_millis(250)) => {}
                    () = shared.stop.cancelled() => return,
                }
            }
        }
    }
}
