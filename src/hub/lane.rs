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

use super::{Shared, shelf::PAGE_EVENTS, topic_log::TopicLog};
use crate::{
    event::{Event, EventId, Frame, Topic},
    log::{Head, LostRange, Place, Tail, place, reconcile},
    store::{Feed, FeedItem, Position, StoreError, TopicPosition},
};

/// How long a repair that failed waits before it asks again.
const RETRY: Duration = Duration::from_millis(200);

pub(super) async fn run(shared: Arc<Shared>, mut feed: Box<dyn Feed>) {
    let mut lane = Lane {
        frontier: shared.frontier().id,
        suspect: HashSet::new(),
        news: Vec::new(),
        retry: false,
        shared,
    };
    // The first position tells the birth of the log.
    lane.contact().await;
    let mut items = Vec::new();
    loop {
        let stop = lane.shared.stop.clone();
        tokio::select! {
            () = feed.next(&mut items) => {}
            () = time::sleep(RETRY), if lane.retry => lane.join_suspects(),
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
    /// The store could not be asked: the suspects have to be joined again.
    retry: bool,
}

impl Lane {
    async fn contact(&mut self) {
        loop {
            match self.shared.store.position(&[]).await {
                Ok(position) => {
                    self.frontier = self.frontier.max(position.born);
                    let mut frontier = self.shared.frontier.lock();
                    frontier.born = position.born;
                    frontier.id = self.frontier;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "waiting for the store");
                    tokio::select! {
                        () = time::sleep(RETRY) => {}
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
        self.retry = false;
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
                continue;
            };
            let head = log.read().tail.as_ref().map(Tail::head);
            let Some(head) = head else {
                let tail = Tail::new(stand.last.unwrap_or(position.horizon), stand.end);
                log.write().tail = Some(tail);
                self.suspect.remove(&topic);
                log.wake();
                continue;
            };
            match self.repair(&log, head, stand, &position).await {
                Ok(()) => {
                    self.suspect.remove(&topic);
                    self.tell(&log);
                }
                Err(error) => {
                    tracing::warn!(%topic, %error, "a repair has to wait for the store");
                    self.suspect.insert(topic);
                    self.retry = true;
                }
            }
        }
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

    /// Brings the tail of `log` to what the store had at `position`.
    async fn repair(
        &mut self,
        log: &Arc<TopicLog>,
        head: EventId,
        stand: &TopicPosition,
        position: &Position,
    ) -> Result<(), StoreError> {
        let last = stand.end.max(stand.last).unwrap_or(EventId::ZERO);
        match reconcile(head, last) {
            Head::Current => return Ok(()),
            // The topic has been idle for so long that its last id was forgotten: nothing is missing.
            Head::Forked if stand.last.is_none() && head <= position.horizon => return Ok(()),
            Head::Forked => return self.fork(log, head, stand).await,
            Head::Behind => {}
        }
        let mut head = head;
        loop {
            let page = self
                .shared
                .store
                .read(&log.topic, head, PAGE_EVENTS)
                .await?;
            let first = page.events.first().map(|event| event.previous);
            if first.is_some_and(|previous| previous < head)
                && log
                    .read()
                    .tail
                    .as_ref()
                    .is_some_and(|tail| tail.oldest().is_some_and(|oldest| oldest <= head))
            {
                return self.fork(log, head, stand).await;
            }
            let at = Instant::now();
            for event in page.events {
                if event.previous > head {
                    // Retention was faster than the repair; readers find the hole by the chain and are told.
                    self.shared
                        .trim(log, |tail| *tail = Tail::new(event.previous, None));
                }
                head = event.id;
                self.late(log, &event);
                self.push(log, event, at);
            }
            if !page.more {
                break;
            }
        }
        let known = log.read().tail.as_ref().map_or(EventId::ZERO, Tail::head);
        if stand.last.is_some_and(|last| last > known) {
            self.shared.trim(log, |tail| {
                *tail = Tail::new(stand.last.unwrap_or_default(), None)
            });
        }
        if let Some(end) = stand.end.filter(|&end| end > known) {
            let previous = stand.last.unwrap_or_default();
            let end = Event {
                id: end,
                previous,
                topic: log.topic.clone(),
                kind: crate::event::EventType::default(),
                data: "".into(),
                end: true,
            };
            self.push(log, Arc::new(end), Instant::now());
        }
        Ok(())
    }

    /// An entry that turns up below the frontier cannot be sent in order any more: streams that are past it are told.
    fn late(&self, log: &TopicLog, event: &Event) {
        if event.id <= self.shared.frontier().id {
            log.write().tell_lost(LostRange {
                after: event.previous,
                through: event.id,
            });
        }
    }

    /// The store lacks our head: it lost entries that it had acknowledged. The tail goes back to the newest entry that both
    /// have, and whoever was past that is told.
    async fn fork(
        &mut self,
        log: &Arc<TopicLog>,
        head: EventId,
        stand: &TopicPosition,
    ) -> Result<(), StoreError> {
        let ours: Vec<Arc<Frame>> = log.read().tail.as_ref().map_or_else(Vec::new, |tail| {
            tail.after(tail.floor())
                .into_iter()
                .flatten()
                .cloned()
                .collect()
        });
        let floor = log
            .read()
            .tail
            .as_ref()
            .map_or(EventId::ZERO, Tail::floor)
            .min(stand.last.unwrap_or_default());
        let mut theirs = Vec::new();
        loop {
            let after = theirs.last().map_or(floor, |event: &Arc<Event>| event.id);
            let page = self
                .shared
                .store
                .read(&log.topic, after, PAGE_EVENTS)
                .await?;
            theirs.extend(page.events);
            if !page.more {
                break;
            }
        }
        let common = ours
            .iter()
            .zip(&theirs)
            .take_while(|(ours, theirs)| ours.event() == theirs.as_ref())
            .last()
            .map_or(floor, |(frame, _)| frame.id());
        let range = LostRange {
            after: common,
            through: head,
        };
        self.shared.counters.forks.fetch_add(1, Ordering::Relaxed);
        tracing::error!(topic = %log.topic, after = %range.after, through = %range.through, "the store lost entries that it had acknowledged");
        self.shared.store.record_lost(&log.topic, range).await?;
        self.shared.trim(log, |tail| tail.cut_back(common));
        log.shelf.lock().clear();
        log.write().tell_lost(range);
        let at = Instant::now();
        for event in theirs.into_iter().filter(|event| event.id > common) {
            self.push(log, event, at);
        }
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
        if moved || !self.news.is_empty() {
            self.shared.moved.notify_waiters();
        }
        for log in self.news.drain(..) {
            log.wake();
        }
    }
}
