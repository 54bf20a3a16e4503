//! Topic → log, sharded, so that connects and the lane do not wait for each other.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::topic_log::TopicLog;
use crate::event::Topic;

pub(super) const SHARDS: usize = 16;

#[derive(Default)]
pub(super) struct Registry {
    shards: [Mutex<HashMap<Topic, Arc<TopicLog>>>; SHARDS],
    hasher: RandomState,
    len: AtomicUsize,
}

/// The registry holds as many topics as it may.
#[derive(Debug)]
pub(super) struct Full;

impl Registry {
    fn shard(&self, topic: &Topic) -> &Mutex<HashMap<Topic, Arc<TopicLog>>> {
        let hash = self.hasher.hash_one(topic);
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn find(&self, topic: &Topic) -> Option<Arc<TopicLog>> {
        self.shard(topic).lock().get(topic).cloned()
    }

    /// The log of `topic` with one follower more, and whether it is new.
    pub(super) fn follow(
        &self,
        topic: &Topic,
        limit: usize,
    ) -> Result<(Arc<TopicLog>, bool), Full> {
        let mut shard = self.shard(topic).lock();
        if let Some(log) = shard.get(topic) {
            log.follow();
            return Ok((log.clone(), false));
        }
        if self.len() >= limit {
            return Err(Full);
        }
        let log = Arc::new(TopicLog::new(topic.clone()));
        log.follow();
        shard.insert(topic.clone(), log.clone());
        self.len.fetch_add(1, Ordering::Relaxed);
        Ok((log, true))
    }

    /// Every log.
    pub(super) fn all(&self) -> Vec<Arc<TopicLog>> {
        (0..SHARDS)
            .flat_map(|shard| self.shard_logs(shard))
            .collect()
    }

    /// The logs of one shard.
    pub(super) fn shard_logs(&self, shard: usize) -> Vec<Arc<TopicLog>> {
        self.shards[shard].lock().values().cloned().collect()
    }

    /// Takes out a log that is still without followers. `leave` is called before anybody can follow it again.
    pub(super) fn give_up(&self, topic: &Topic, leave: impl FnOnce()) -> Option<Arc<TopicLog>> {
        let mut shard = self.shard(topic).lock();
        if shard.get(topic)?.followers() > 0 {
            return None;
        }
        leave();
        self.len.fetch_sub(1, Ordering::Relaxed);
        shard.remove(topic)
    }

    /// Calls `leave` if the topic is not here, before anybody can follow it.
    pub(super) fn unless_followed(&self, topic: &Topic, leave: impl FnOnce()) {
        let shard = self.shard(topic).lock();
        if !shard.contains_key(topic) {
            leave();
        }
    }
}
