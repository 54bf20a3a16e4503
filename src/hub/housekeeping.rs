//! What is done once a second: expiry, budgets, topics that nobody follows.
//!
//! One shard of the registry at a time, so that a hundred thousand topics cost no visible pause.

use std::{
    collections::BinaryHeap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{self, Instant, MissedTickBehavior};

use super::{Shared, registry::SHARDS, topic_log::TopicLog};
use crate::event::EventId;

const STEP: Duration = Duration::from_millis(62);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut steps = time::interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for shard in (0..SHARDS).cycle() {
        tokio::select! {
            _ = steps.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        if shard == 0 {
            shared.store.tidy();
        }
        for log in shared.registry.shard_logs(shard) {
            tidy(&shared, &log);
        }
        shared.fit_budget();
    }
}

fn tidy(shared: &Shared, log: &TopicLog) {
    let now = Instant::now();
    if log
        .idle_since()
        .is_some_and(|since| now.saturating_duration_since(since) >= shared.config.linger)
        && let Some(log) = shared
            .registry
            .give_up(&log.topic, || shared.store.leave(vec![log.topic.clone()]))
    {
        // The lane may still hold the log: without a tail it puts nothing into it.
        let tail = log.write().tail.take();
        let bytes = tail.map_or(0, |tail| tail.bytes() as u64);
        shared.tail_bytes.fetch_sub(bytes, Ordering::Relaxed);
        return;
    }
    log.shelf.lock().tidy(now, shared.shelves_full());
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(0));
    let limits = shared.tail_limits(&log.topic);
    let oldest_ms = now_ms.saturating_sub(limits.age_ms);
    let is_over = |tail: &crate::log::Tail| {
        let expired = tail.oldest().is_some_and(|oldest| oldest.ms() < oldest_ms);
        expired || tail.exceeds(&limits)
    };
    if log.read().tail.as_ref().is_some_and(is_over) {
        shared.trim(log, |tail| {
            tail.expire(oldest_ms);
            tail.fit(&limits);
        });
    }
}

impl Shared {
    /// Changes a tail and keeps the sum of all bytes true.
    pub(super) fn trim(&self, log: &TopicLog, change: impl FnOnce(&mut crate::log::Tail)) {
        let mut state = log.write();
        let Some(tail) = &mut state.tail else { return };
        let before = tail.bytes() as u64;
        change(tail);
        let after = tail.bytes() as u64;
        self.tail_bytes
            .fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Where all tails together are over their budget, the oldest frames go until a tenth of it is free.
    fn fit_budget(&self) {
        let limit = self.config.tail_total_bytes as u64;
        if self.tail_bytes.load(Ordering::Relaxed) <= limit {
            return;
        }
        let oldest = |log: &TopicLog| {
            log.read()
                .tail
                .as_ref()
                .and_then(crate::log::Tail::oldest)
                .map(std::cmp::Reverse)
        };
        let logs = self.registry.all();
        let mut order: BinaryHeap<(std::cmp::Reverse<EventId>, usize)> = logs
            .iter()
            .enumerate()
            .filter_map(|(at, log)| oldest(log).map(|id| (id, at)))
            .collect();
        while self.tail_bytes.load(Ordering::Relaxed) > limit - limit / 10
            && let Some((_, at)) = order.pop()
        {
            self.trim(&logs[at], |tail| {
                tail.pop();
            });
            order.extend(oldest(&logs[at]).map(|id| (id, at)));
        }
    }
}
