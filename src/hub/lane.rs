//! The one lane on which the feed's items reach the tails.
//!
//! Whatever the feed hands over is applied in order by this task and nobody else. A hole, a cut, a fork freezes the
//! frontier; the topic is joined again, what is missing is read from the store up to the position that the join states, and
//! while that goes on nothing else is applied. That is the whole repair, whatever broke.
//!
//! # Invariants
//! 1. The frontier moves by an item taken in order, and only while no topic is suspect.
//! 2. Tails are written before the frontier moves, and the frontier moves before anybody is woken.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{self, Instant},
};

use super::{
    Shared,
    shelf::PAGE_EVENTS,
    topic_log::{Lost, TopicLog},
};
use crate::{
    event::{Event, EventId, Frame, Topic},
    log::{Head, LostRange, Place, Tail, place, reconcile},
    store::{Feed, FeedItem, Page, Position, StoreError, TopicPosition},
};

/// How long a repair that failed waits before it asks again.
const RETRY: Duration = Duration::from_millis(200);

pub(super) async fn run(shared: Arc<Shared>, mut feed: Box<dyn Feed>) {
    let mut lane = Lane {
        frontier: shared.frontier().id,
        suspect: HashSet::new(),
        news: Vec::new(),
        retry: None,
        shared,
    };
    // The first position tells the birth of the log.
    lane.contact().await;
    let mut items = Vec::new();
    loop {
        let stop = lane.shared.stop.clone();
        tokio::select! {
            () = feed.next(&mut items) => {}
            () = time::sleep_until(lane.retry.unwrap_or_else(Instant::now)), if lane.retry.is_some() => {
                lane.join_suspects();
            }
            () = stop.cancelled() => return,
        }
        for item in items.drain(..) {
            lane.apply(item).await;
        }
        lane.publish();
        // Subscribers run now, and publishers; what they append meanwhile goes out with the next pass, together.
        yield_now().await;
    }
}

struct Lane {
    shared: Arc<Shared>,
    frontier: EventId,
    /// Topics in which something is missing.
    suspect: HashSet<Topic>,
    /// Logs with something new to wake for.
    news: Vec<Arc<TopicLog>>,
    /// The store could not be asked: when the suspects have to be joined again, however busy the feed is.
    retry: Option<Instant>,
}

impl Lane {
    async fn contact(&mut self) {
        let mut attempts = 0_u32;
        loop {
            match self.shared.store.position(&[]).await {
                Ok(position) => {
                    self.frontier = self.frontier.max(position.born);
                    let mut frontier = self.shared.frontier.lock();
                    frontier.born = position.born;
                    frontier.id = self.frontier;
                    drop(frontier);
                    self.shared.moved.notify_waiters();
                    return;
                }
                Err(error) => {
                    attempts += 1;
                    // That a connection takes a moment is nothing to warn of; that it takes longer is said now and then.
                    if attempts % 50 == 5 {
                        tracing::warn!(%error, "waiting for the store");
                    }
                    tokio::select! {
                        () = time::sleep(if attempts < 5 { RETRY / 20 } else { RETRY }) => {}
                        () = self.shared.stop.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn apply(&mut self, item: FeedItem) {
        match item {
            FeedItem::Event(event, at) => {
                let id = event.id;
                self.event(event, at);
                self.advance(id);
            }
            FeedItem::Frontier(id) => self.advance(id),
            FeedItem::Trimmed(topic, through) => {
                if let Some(log) = self.shared.registry.find(&topic) {
                    self.shared.trim(&log, |tail| {
                        while tail.oldest().is_some_and(|id| id <= through) {
                            tail.pop();
                        }
                    });
                    log.shelf.lock().trimmed(through);
                }
            }
            FeedItem::Lost(topic, range) => {
                if let Some(log) = self.shared.registry.find(&topic) {
                    log.write().hear_lost(range);
                    self.tell(&log);
                }
            }
            FeedItem::Joined(topics, position) => self.joined(topics, *position).await,
            FeedItem::Cut => {
                self.shared.counters.cuts.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("the feed was cut, joining every topic again");
                self.suspect.extend(
                    self.shared
                        .registry
                        .all()
                        .iter()
                        .map(|log| log.topic.clone()),
                );
                self.join_suspects();
            }
        }
    }

    fn advance(&mut self, id: EventId) {
        if self.suspect.is_empty() {
            self.frontier = self.frontier.max(id);
        }
    }

    fn event(&mut self, event: Arc<Event>, at: Instant) {
        let Some(log) = self.shared.registry.find(&event.topic) else {
            return;
        };
        if self.suspect.contains(&event.topic) {
            return;
        }
        let Some(head) = log.read().tail.as_ref().map(Tail::head) else {
            return;
        };
        match place(head, event.previous, event.id) {
            Place::Next => self.push(&log, event, at),
            Place::Known => {}
            Place::Hole => {
                self.shared.counters.holes.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(topic = %event.topic, %head, previous = %event.previous, "the feed has a hole, joining the topic again");
                self.suspect.insert(event.topic.clone());
                self.join_suspects();
            }
        }
    }

    fn push(&mut self, log: &Arc<TopicLog>, event: Arc<Event>, at: Instant) {
        let limits = self.shared.tail_limits(&log.topic);
        let frame = Arc::new(Frame::new(event, self.shared.stamp(at)));
        self.shared.trim(log, |tail| tail.push(frame, &limits));
        self.tell(log);
    }

    /// Remembers to wake the subscribers of `log`.
    fn tell(&mut self, log: &Arc<TopicLog>) {
        // A run of events of one topic is the ordinary case; a topic that comes twice is woken twice, which costs little.
        if self.news.last().is_none_or(|last| !Arc::ptr_eq(last, log)) {
            self.news.push(log.clone());
        }
    }

    fn join_suspects(&mut self) {
        self.retry = None;
        self.shared
            .store
            .join(self.suspect.iter().cloned().collect(), self.frontier);
    }

    async fn joined(&mut self, topics: Vec<Topic>, position: Position) {
        let born = self.shared.frontier().born;
        if position.born != born {
            self.reborn(born, &position);
        }
        for (topic, stand) in topics.into_iter().zip(&position.topics) {
            let Some(log) = self.shared.registry.find(&topic) else {
                self.suspect.remove(&topic);
                // It was given up while it was joined again.
                let store = &self.shared.store;
                self.shared
                    .registry
                    .unless_followed(&topic, || store.leave(vec![topic.clone()]));
                continue;
            };
            if !log.joined() {
                let mut state = log.write();
                state.tail = Some(Tail::new(stand.last.unwrap_or(position.horizon), stand.end));
                state.lost = stand.lost.iter().copied().map(Lost::heard).collect();
                drop(state);
                self.suspect.remove(&topic);
                // Streams that begin are woken now, and once more when the frontier has reached this position.
                log.wake();
                self.tell(&log);
                continue;
            }
            // What is on the shelf may be of a server that lacks something now, or show what the feed has not brought yet and a
            // failover took.
            log.shelf.lock().clear();
            match self.repair(&log, stand, &position).await {
                Ok(()) => {
                    // Not before: who begins now would be told of what is still in memory here, and then get it.
                    let mut state = log.write();
                    for range in &stand.lost {
                        state.hear_lost(*range);
                    }
                    drop(state);
                    self.suspect.remove(&topic);
                    self.tell(&log);
                }
                Err(error) => {
                    tracing::warn!(%topic, %error, "a repair has to wait for the store");
                    self.suspect.insert(topic);
                    self.retry.get_or_insert_with(|| Instant::now() + RETRY);
                }
            }
        }
        // A topic that was given up while it was suspect is nobody's concern: its join may never be answered.
        let registry = &self.shared.registry;
        self.suspect.retain(|topic| registry.find(topic).is_some());
        self.advance(position.last);
    }

    /// The log is a new one: everything in memory belonged to the old one.
    fn reborn(&mut self, before: EventId, position: &Position) {
        let reset = before != EventId::ZERO;
        if reset {
            self.shared.counters.resets.fetch_add(1, Ordering::Relaxed);
            tracing::error!(born = %position.born, "the store was born again: what it held is lost");
        }
        for log in self.shared.registry.all() {
            if log.joined() {
                self.shared
                    .trim(&log, |tail| *tail = Tail::new(EventId::ZERO, None));
                log.write().tail = None;
                log.shelf.lock().clear();
                // Each topic's place in the new log is read before the frontier moves on.
                self.suspect.insert(log.topic.clone());
            }
            self.tell(&log);
        }
        let mut frontier = self.shared.frontier.lock();
        frontier.born = position.born;
        frontier.epoch += u32::from(reset);
        drop(frontier);
        self.join_suspects();
    }

    /// Brings the tail of `log` to what the store had at `position`. What lies above comes from the feed alone: read here, it
    /// would make the next position that is still under way look like a fork.
    async fn repair(
        &mut self,
        log: &Arc<TopicLog>,
        stand: &TopicPosition,
        position: &Position,
    ) -> Result<(), StoreError> {
        self.forget_deleted(log, stand);
        let place = |tail: &Tail| (tail.head(), tail.end());
        let Some((mut head, end)) = log.read().tail.as_ref().map(place) else {
            return Ok(());
        };
        // The topic may have been idle for so long that its last id was forgotten: then nothing is missing.
        let forgotten = stand.last.is_none() && head <= position.horizon;
        let lacks_head = match end {
            Some(end) => stand.end != Some(end),
            None => stand.last.unwrap_or_default() < head,
        };
        match reconcile(head, stand.end.max(stand.last).unwrap_or_default()) {
            Head::Current => return Ok(()),
            Head::Forked if forgotten => return Ok(()),
            Head::Forked => return self.fork(log, stand, position).await,
            Head::Behind if lacks_head && !forgotten => {
                return self.fork(log, stand, position).await;
            }
            Head::Behind => {}
        }
        let mut late = false;
        loop {
            let page = self.page(log, head, stand, position).await?;
            let Some(first) = page.events.first() else {
                break;
            };
            // Only a store that has forgotten the topic names no predecessor.
            if first.previous < head && (head > position.horizon || first.previous != EventId::ZERO)
            {
                return self.fork(log, stand, position).await;
            }
            let frontier = self.shared.frontier().id;
            if first.id <= frontier && !std::mem::replace(&mut late, true) {
                // It cannot be sent in order any more: streams that are past it are told, and so is every cursor that was
                // given out between it and the frontier.
                let range = LostRange {
                    after: first.id.previous(),
                    through: frontier.next(),
                };
                self.shared.store.record_lost(&log.topic, range).await?;
                log.write().tell_lost(range);
            }
            let at = Instant::now();
            let more = page.more
                && page
                    .events
                    .last()
                    .is_some_and(|last| last.id < position.last);
            for event in page.events {
                if event.id <= position.last {
                    head = event.id;
                    self.append(log, event, at);
                }
            }
            if !more {
                break;
            }
        }
        self.append_end(log, stand);
        Ok(())
    }

    /// What the store no longer has was deleted while nobody told us, or is about to expire: the tail lets go of it, too.
    fn forget_deleted(&self, log: &TopicLog, stand: &TopicPosition) {
        let gone = |tail: &Tail| {
            let oldest = tail.oldest()?;
            (stand.first.is_none_or(|first| oldest < first) && Some(oldest) <= stand.last)
                .then_some(oldest)
        };
        if log.read().tail.as_ref().and_then(gone).is_some() {
            self.shared.trim(log, |tail| {
                while gone(tail).is_some() {
                    tail.pop();
                }
            });
        }
    }

    /// A page of the log that this repair began with. Another one says nothing about it, be it that the log was born again since
    /// the position was stated, or that a server took over that lacks something: the next position will tell.
    async fn page(
        &self,
        log: &TopicLog,
        after: EventId,
        stand: &TopicPosition,
        position: &Position,
    ) -> Result<Page, StoreError> {
        let page = self
            .shared
            .store
            .read(&log.topic, after, PAGE_EVENTS)
            .await?;
        if page.born == self.shared.frontier().born && page.continues(stand, position.last) {
            Ok(page)
        } else {
            Err(StoreError::Unavailable("it is another log now".into()))
        }
    }

    /// Appends what was read from the store.
    fn append(&mut self, log: &Arc<TopicLog>, event: Arc<Event>, at: Instant) {
        self.shared.trim(log, |tail| {
            if event.previous > tail.head() {
                // Retention was faster than the repair; readers find the hole by the chain and are told.
                *tail = Tail::new(event.previous, None);
            }
        });
        self.push(log, event, at);
    }

    /// Appends what a page does not show: that the newest events have been taken by retention, and the topic's end.
    fn append_end(&mut self, log: &Arc<TopicLog>, stand: &TopicPosition) {
        let Some(known) = log.read().tail.as_ref().map(Tail::head) else {
            return;
        };
        if let Some(last) = stand.last.filter(|&last| last > known) {
            self.shared.trim(log, |tail| *tail = Tail::new(last, None));
        }
        if let Some(end) = stand.end.filter(|&end| end > known) {
            let end = Event {
                id: end,
                previous: stand.last.unwrap_or_default(),
                topic: log.topic.clone(),
                kind: crate::event::EventType::default(),
                data: "".into(),
                end: true,
            };
            self.push(log, Arc::new(end), Instant::now());
        }
    }

    /// The store lacks our head: it lost entries that it had acknowledged. The tail goes back to the newest entry that both
    /// have, and whoever was past that is told.
    async fn fork(
        &mut self,
        log: &Arc<TopicLog>,
        stand: &TopicPosition,
        position: &Position,
    ) -> Result<(), StoreError> {
        let ours = |tail: &Tail| {
            let frames: Vec<Arc<Frame>> = tail
                .after(tail.floor())
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            (frames, tail.floor(), tail.head())
        };
        let Some((ours, floor, head)) = log.read().tail.as_ref().map(ours) else {
            return Ok(());
        };
        let last = stand.last.unwrap_or_default();
        let floor = floor.min(last);
        let mut theirs: Vec<Arc<Event>> = Vec::new();
        loop {
            let after = theirs.last().map_or(floor, |event| event.id);
            let page = self.page(log, after, stand, position).await?;
            let all = page.events.len();
            let known = page.events.into_iter();
            let before = theirs.len();
            theirs.extend(known.take_while(|event| event.id <= position.last));
            if !page.more || theirs.len() - before < all {
                break;
            }
        }
        // Retention may have taken the newest entry that both have, or memory may not reach back to it: its id is still named.
        let named = theirs.first().map_or(last, |first| first.previous);
        let common = common(&ours, &theirs, named).unwrap_or(floor.min(named));
        let frontier = self.shared.frontier().id;
        let late = theirs
            .iter()
            .any(|event| event.id > common && event.id <= frontier);
        let range = LostRange {
            after: common,
            through: if late {
                head.max(frontier.next())
            } else {
                head
            },
        };
        self.shared.store.record_lost(&log.topic, range).await?;
        self.shared.counters.forks.fetch_add(1, Ordering::Relaxed);
        tracing::error!(topic = %log.topic, after = %range.after, through = %range.through, "the store lost entries that it had acknowledged");
        self.shared.trim(log, |tail| tail.cut_back(common));
        log.write().tell_lost(range);
        let at = Instant::now();
        for event in theirs.into_iter().filter(|event| event.id > common) {
            self.append(log, event, at);
        }
        self.append_end(log, stand);
        self.tell(log);
        Ok(())
    }

    /// Shows the frontier, then wakes whoever has something to read.
    fn publish(&mut self) {
        let moved = {
            let mut frontier = self.shared.frontier.lock();
            frontier.frozen = !self.suspect.is_empty();
            let moved = frontier.id != self.frontier;
            if moved || !frontier.frozen {
                frontier.moved_at = Instant::now();
            }
            frontier.id = self.frontier;
            moved
        };
        let frozen = !self.suspect.is_empty();
        if moved || !frozen {
            self.shared.moved.notify_waiters();
            for log in &self.news {
                log.wake();
            }
        }
        if frozen {
            // What is new lies above the frontier: they are woken once more when it moves on.
            self.news.sort_unstable_by_key(Arc::as_ptr);
            self.news.dedup_by(|a, b| Arc::ptr_eq(a, b));
        } else {
            self.news.clear();
        }
    }
}

/// The newest entry in memory that both logs have. `named` is the predecessor of the first of theirs.
fn common(ours: &[Arc<Frame>], theirs: &[Arc<Event>], named: EventId) -> Option<EventId> {
    let find = |id: EventId| {
        let at = ours.binary_search_by_key(&id, |frame| frame.id()).ok()?;
        Some(&ours[at])
    };
    let same = theirs
        .iter()
        .rev()
        .find(|theirs| find(theirs.id).is_some_and(|ours| ours.event() == theirs.as_ref()));
    same.map(|event| event.id)
        .or_else(|| find(named).map(|frame| frame.id()))
}
