//! Time and CPU time, read straight from the kernel.
//!
//! Stamps in payloads are monotonic nanoseconds: publisher and subscribers share one machine, so they share this clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::figures::{from_i64, whole};

/// Monotonic nanoseconds.
pub(crate) fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// CPU nanoseconds that all threads of the load program have used.
pub(crate) fn own_cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// A moment `duration` from now, on the clock of [`now_ns`].
pub(crate) fn deadline(duration: Duration) -> u64 {
    now_ns() + nanoseconds(duration)
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    whole(duration.as_secs_f64() * 1e9)
}

/// Sleeps until the moment, or not at all when it has passed.
pub(crate) fn sleep_until(moment_ns: u64) {
    let left = moment_ns.saturating_sub(now_ns());
    if left > 0 {
        std::thread::sleep(Duration::from_nanos(left));
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    from_i64(time.tv_sec) * 1_000_000_000 + from_i64(time.tv_nsec)
}
