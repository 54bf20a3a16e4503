//! Coarse alarms for many streams: one task, no timer a connection.
//!
//! A ring of slots, one for each tick. A stream leaves its waker in the slot of its deadline; deadlines mostly move away
//! (each write postpones the keepalive), so an alarm that is early is left where it is, and the stream sets a new one when
//! it has been woken for nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::{self, Instant, MissedTickBehavior};

/// The resolution of all deadlines.
const TICK: Duration = Duration::from_millis(Alarms::TICK_MS);
/// Deadlines further away than this many ticks are reached in several steps.
const SLOTS: u64 = 512;

/// The ring.
pub struct Alarms {
    slots: Box<[Mutex<Slab<Waker>>]>,
    tick: AtomicU64,
    started: Instant,
}

/// A waker left in the ring.
#[derive(Clone, Copy, Debug)]
pub struct Alarm {
    tick: u64,
    key: u32,
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Mutex::default()).collect(),
            tick: AtomicU64::new(0),
            started: Instant::now(),
        }
    }
}

impl Alarms {
    /// Milliseconds of a tick.
    pub const TICK_MS: u64 = 50;

    /// How many ticks a duration takes, at least one.
    pub fn ticks(duration: Duration) -> u32 {
        u32::try_from(duration.as_millis() / TICK.as_millis())
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// The current tick.
    pub fn now(&self) -> u64 {
        self.tick.load(Ordering::Relaxed)
    }

    /// Sees to it that `waker` is woken at `deadline` or before. Returns the alarm to be kept.
    pub fn set(&self, alarm: Option<Alarm>, deadline: u64, waker: &Waker) -> Alarm {
        let now = self.now();
        if let Some(alarm) = alarm.filter(|alarm| alarm.tick > now) {
            if alarm.tick <= deadline {
                return alarm;
            }
            self.cancel(alarm);
        }
        loop {
            let now = self.now();
            let tick = deadline.clamp(now + 1, now + SLOTS - 1);
            let mut slot = self.slot(tick).lock();
            // The tick moves under the lock of its slot: what is put in before it moves is woken.
            if self.now() < tick {
                let key = u32::try_from(slot.insert(waker.clone())).unwrap_or(u32::MAX);
                return Alarm { tick, key };
            }
        }
    }

    /// Takes a waker back.
    pub fn cancel(&self, alarm: Alarm) {
        let mut slot = self.slot(alarm.tick).lock();
        if self.now() < alarm.tick {
            slot.try_remove(alarm.key as usize);
        }
    }

    fn slot(&self, tick: u64) -> &Mutex<Slab<Waker>> {
        &self.slots[usize::try_from(tick % SLOTS).unwrap_or(0)]
    }

    /// Rings the alarms; never returns.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let due = u64::try_from(self.started.elapsed().as_millis() / TICK.as_millis())
                .unwrap_or(u64::MAX);
            while self.now() < due {
                self.ring();
            }
        }
    }

    fn ring(&self) {
        let tick = self.now() + 1;
        let wakers = {
            let mut slot = self.slot(tick).lock();
            self.tick.store(tick, Ordering::Relaxed);
            std::mem::take(&mut *slot)
        };
        for (_, waker) in wakers {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn an_alarm_rings_once_at_its_tick_and_not_when_it_was_taken_back() {
        let alarms = Alarms::default();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let kept = alarms.set(None, 3, &waker);
        assert_eq!(alarms.set(Some(kept), 9, &waker).tick, 3);
        let taken = alarms.set(None, 3, &waker);
        alarms.cancel(taken);
        (0..2).for_each(|_| alarms.ring());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        (0..2 * SLOTS).for_each(|_| alarms.ring());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        alarms.cancel(kept);
    }

    #[tokio::test]
    async fn an_earlier_deadline_replaces_a_later_one() {
        let alarms = Alarms::default();
        let waker = Waker::from(Arc::new(Count::default()));
        let late = alarms.set(None, 100, &waker);
        assert_eq!(alarms.set(Some(late), 2, &waker).tick, 2);
        assert!(alarms.slot(100).lock().is_empty());
    }
}
