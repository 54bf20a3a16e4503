//! Pages of a topic older than its tail, read once for all who want them.
//!
//! At most one read of a topic is under way; whoever needs another place waits for it. The next read begins at the oldest
//! place that is still wanted, so one page serves everybody whom it covers, and a storm of returning cursors costs a few
//! reads, however many they are. What is read stays for a moment: as it is for a stream, which is told where its next page
//! does not follow, and for a verdict as long as nothing was published since ([`FRESH`]).

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use super::{Shared, topic_log::TopicLog};
use crate::{
    event::{EventId, Frame},
    log::{Proof, Tail},
    store::StoreError,
};

/// Events of a page.
pub(super) const PAGE_EVENTS: usize = 256;
/// Pages of one topic that stay on the shelf.
const PAGES: usize = 8;
/// How long a page stays, so that others find it.
const KEEP: Duration = Duration::from_secs(2);
/// How old a page of a topic that goes on may be when a verdict is made of it: retention may have taken what it shows.
const FRESH: Duration = Duration::from_millis(100);
/// How long it stays while all pages together are over [`TOTAL_BYTES`].
const KEEP_WHEN_FULL: Duration = Duration::from_millis(100);
/// Bytes of the pages of all topics; beyond it the next read waits until some are gone.
const TOTAL_BYTES: u64 = 64 * 1024 * 1024;
/// How often it looks whether they are.
const FULL: Duration = Duration::from_millis(20);

/// A stretch of a log: everything after `after`, up to and with its last frame.
pub(super) struct HubPage {
    pub(super) after: EventId,
    pub(super) frames: Vec<Arc<Frame>>,
    pub(super) proof: Proof,
    /// The tail's floor before the page was read: an empty page says that nothing is left up to here.
    pub(super) floor: EventId,
    /// The tail's head before the page was read.
    head: EventId,
    /// Before it was read.
    asked_at: Instant,
    _bytes: Counted,
}

/// Bytes that count as long as this lives.
struct Counted {
    bytes: u64,
    total: Arc<AtomicU64>,
}

impl Counted {
    fn new(bytes: usize, total: &Arc<AtomicU64>) -> Self {
        let bytes = bytes as u64;
        total.fetch_add(bytes, Ordering::Relaxed);
        Self {
            bytes,
            total: total.clone(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
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

    /// Whether a verdict of this moment can be made of it, where `head` is the tail's head.
    fn is_fresh(&self, since: Instant, head: EventId) -> bool {
        self.head == head || self.asked_at + FRESH >= since
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

    /// Drops what is old; sooner when there is too much of it.
    pub(super) fn tidy(&mut self, now: Instant, full: bool) {
        let keep = if full { KEEP_WHEN_FULL } else { KEEP };
        self.pages
            .retain(|page| now.saturating_duration_since(page.asked_at) < keep);
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
    /// Whether all shelves together hold as much as they may.
    pub(super) fn shelves_full(&self) -> bool {
        self.shelf_bytes.load(Ordering::Relaxed) >= TOTAL_BYTES
    }

    /// The page after `cursor`, or a place in the queue for it. `slot` tells callers apart. A verdict is asked for since when.
    pub(super) fn page(
        self: &Arc<Self>,
        log: &Arc<TopicLog>,
        cursor: EventId,
        slot: usize,
        verdict: Option<Instant>,
        waker: &Waker,
    ) -> Shelved {
        let (floor, head) = ends(log);
        let mut shelf = log.shelf.lock();
        if let Some(page) = shelf.pages.iter().find(|page| {
            page.covers(cursor, floor) && verdict.is_none_or(|since| page.is_fresh(since, head))
        }) {
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

/// Where the tail of `log` begins and ends.
fn ends(log: &TopicLog) -> (EventId, EventId) {
    let ends = |tail: &Tail| (tail.floor(), tail.head());
    log.read().tail.as_ref().map(ends).unwrap_or_default()
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
        while shared.shelves_full() {
            log.shelf.lock().tidy(Instant::now(), true);
            tokio::select! {
                () = tokio::time::sleep(FULL) => {}
                () = shared.stop.cancelled() => return,
            }
        }
        let (floor, head) = ends(&log);
        let asked_at = Instant::now();
        let read = tokio::select! {
            read = shared.store.read(&log.topic, after, PAGE_EVENTS) => read,
            () = shared.stop.cancelled() => return,
        };
        shared.counters.pages.fetch_add(1, Ordering::Relaxed);
        // A page of another log than the lane knows proves nothing: the lane will hear of it in a moment.
        let read = read.and_then(|page| {
            if page.born == shared.frontier().born {
                Ok(page)
            } else {
                Err(StoreError::Unavailable("the log was born again".into()))
            }
        });
        match read {
            Ok(page) => {
                let proof = page.proof();
                let frames: Vec<Arc<Frame>> = page
                    .events
                    .into_iter()
                    .map(|event| Arc::new(Frame::new(event, 0)))
                    .collect();
                let bytes = frames.iter().map(|frame| frame.wire_bytes()).sum();
                let page = Arc::new(HubPage {
                    after,
                    proof,
                    frames,
                    floor,
                    head,
                    asked_at,
                    _bytes: Counted::new(bytes, &shared.shelf_bytes),
                });
                let mut shelf = log.shelf.lock();
                shelf.failed = None;
                if shelf.generation != generation {
                    continue;
                }
                let gone = page.proof.gone();
                if gone > after {
                    // Whoever is told so would get some of it yet.
                    shelf.pages.retain(|older| older.after >= gone);
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
                    () = tokio::time::sleep(Duration::from_millis(250)) => {}
                    () = shared.stop.cancelled() => return,
                }
            }
        }
    }
}
