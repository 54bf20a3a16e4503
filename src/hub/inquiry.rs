//! What operators ask of the topics in memory: who follows what, how far a cursor is behind, where an event is.
//!
//! Nothing here waits for the lane or makes it wait for longer than a look at one topic takes.

use std::{collections::BTreeMap, sync::Arc};

use super::{Hub, registry::SHARDS, topic_log::TopicLog};
use crate::{
    event::{EventId, Frame, Topic},
    store::Listing,
};

/// How far a cursor is behind what could be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Events that it has still to get; none where more are missing than are in memory.
    pub events: Option<u64>,
    /// The Unix milliseconds at which the oldest of them was published, or where that is not in memory: those of the cursor.
    pub since_ms: Option<u64>,
}

impl Hub {
    /// How many open subscriptions follow a topic.
    pub fn subscribers(&self, topic: &Topic) -> usize {
        let log = self.shared.registry.find(topic);
        log.map_or(0, |log| log.followers())
    }

    /// The first topics of a listing that have open subscriptions, and one more.
    pub fn followed(&self, listing: &Listing) -> BTreeMap<Topic, usize> {
        let mut first = BTreeMap::new();
        for log in (0..SHARDS).flat_map(|shard| self.shared.registry.shard_logs(shard)) {
            let followers = log.followers();
            if followers > 0 && listing.wants(log.topic.as_str()) {
                first.insert(log.topic.clone(), followers);
                if first.len() > listing.limit + 1 {
                    first.pop_last();
                }
            }
        }
        first
    }

    /// How far a cursor over `topics` is behind what is in memory.
    pub fn lag(&self, topics: &[Topic], cursor: EventId) -> Lag {
        let mut lag = Lag {
            events: Some(0),
            since_ms: None,
        };
        for topic in topics {
            let Some(log) = self.shared.registry.find(topic) else {
                continue;
            };
            let state = log.read();
            let Some(tail) = state.tail.as_ref().filter(|tail| tail.head() > cursor) else {
                continue;
            };
            let since = match tail.after(cursor) {
                Some(mut unread) => {
                    let oldest = unread.next().map(|frame| frame.id());
                    let count = usize::from(oldest.is_some()) + unread.count();
                    lag.events = lag.events.map(|events| events + count as u64);
                    oldest
                }
                None => {
                    lag.events = None;
                    Some(cursor)
                }
            };
            if let Some(since) = since {
                let earliest = lag.since_ms.map_or(since.ms(), |ms| ms.min(since.ms()));
                lag.since_ms = Some(earliest);
            }
        }
        lag
    }

    /// The frame with this id, of `topic` or of any that is in memory.
    pub async fn find(&self, id: EventId, topic: Option<&Topic>) -> Option<Arc<Frame>> {
        if let Some(topic) = topic {
            return find(&*self.shared.registry.find(topic)?, id);
        }
        for shard in 0..SHARDS {
            for logs in self.shared.registry.shard_logs(shard).chunks(256) {
                if let Some(frame) = logs.iter().find_map(|log| find(log, id)) {
                    return Some(frame);
                }
                tokio::task::yield_now().await;
            }
        }
        None
    }
}

fn find(log: &TopicLog, id: EventId) -> Option<Arc<Frame>> {
    let state = log.read();
    let mut from = state.tail.as_ref()?.after(id.previous())?;
    from.next().filter(|frame| frame.id() == id).cloned()
}
