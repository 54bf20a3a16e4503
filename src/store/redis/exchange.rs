//! Between the hub and the connection of the feed: what the hub wants, and what waits for it.
//!
//! # Invariants
//! 1. What waits for the hub is bounded; what is beyond it is dropped, and said to be cut.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use futures_util::{FutureExt, future::BoxFuture};
use indexmap::IndexSet;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Shared;
use crate::{
    event::Topic,
    store::{Feed, FeedItem},
};

/// What an item takes beside its data.
const ITEM_BYTES: usize = 200;

/// Between the hub and the connection.
#[derive(Default)]
pub(super) struct Exchange {
    queue: Mutex<Queue>,
    filled: Notify,
    pub(super) asks: Mutex<Asks>,
    pub(super) asked: Notify,
}

/// What waits for the hub.
#[derive(Default)]
struct Queue {
    items: VecDeque<FeedItem>,
    bytes: usize,
    /// There was too much: nothing more is taken until the hub has been told.
    overflowed: bool,
}

/// What the hub wants.
#[derive(Default)]
pub(super) struct Asks {
    pub(super) join: IndexSet<Topic>,
    pub(super) leave: HashSet<Topic>,
    pub(super) position: bool,
    pub(super) raise: bool,
}

impl Exchange {
    pub(super) fn join(&self, topics: Vec<Topic>, raise: bool) {
        let mut asks = self.asks.lock();
        for topic in topics {
            asks.leave.remove(&topic);
            asks.join.insert(topic);
        }
        asks.position = true;
        asks.raise |= raise;
        drop(asks);
        self.asked.notify_one();
    }

    pub(super) fn leave(&self, topics: Vec<Topic>) {
        let mut asks = self.asks.lock();
        for topic in topics {
            asks.join.shift_remove(&topic);
            asks.leave.insert(topic);
        }
        drop(asks);
        self.asked.notify_one();
    }

    /// There is something else to do than joining and leaving.
    pub(super) fn wake(&self) {
        self.asked.notify_one();
    }

    /// Items, and bytes, that wait for the hub.
    pub(super) fn backlog(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.items.len(), queue.bytes)
    }

    pub(super) fn push(&self, item: FeedItem, limit: usize) {
        let bytes = match &item {
            FeedItem::Event(event, _) => ITEM_BYTES + event.data.len(),
            FeedItem::Joined(topics, _) => ITEM_BYTES * (1 + topics.len()),
            _ => ITEM_BYTES,
        };
        let mut queue = self.queue.lock();
        if queue.overflowed {
            return;
        }
        if queue.bytes + bytes > limit && !queue.items.is_empty() {
            queue.items.clear();
            queue.items.push_back(FeedItem::Cut);
            queue.bytes = ITEM_BYTES;
            queue.overflowed = true;
            tracing::warn!(
                limit,
                "more of the feed waits than feed.backlog allows: it is dropped and read again"
            );
        } else {
            queue.items.push_back(item);
            queue.bytes += bytes;
        }
        drop(queue);
        self.filled.notify_one();
    }
}

/// The hub's end.
pub(super) struct RedisFeed {
    pub(super) shared: Arc<Shared>,
}

impl Feed for RedisFeed {
    fn next<'a>(&'a mut self, items: &'a mut Vec<FeedItem>) -> BoxFuture<'a, ()> {
        async move {
            loop {
                {
                    let mut queue = self.shared.exchange.queue.lock();
                    items.extend(queue.items.drain(..));
                    queue.bytes = 0;
                    queue.overflowed = false;
                }
                if !items.is_empty() {
                    return;
                }
                self.shared.exchange.filled.notified().await;
            }
        }
        .boxed()
    }
}
