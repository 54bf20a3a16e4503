//! A clock around a closure: medians of several rounds, printed as a line.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Rounds of each measurement; the median counts.
const ROUNDS: usize = 7;

/// Runs `work` on what `prepare` makes and prints the time for each of its `units`.
#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
pub(crate) fn measure<T>(
    name: &str,
    units: u32,
    mut prepare: impl FnMut() -> T,
    mut work: impl FnMut(&mut T),
) {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let mut prepared = prepare();
            let started = Instant::now();
            work(black_box(&mut prepared));
            started.elapsed() / units
        })
        .collect();
    rounds.sort_unstable();
    println!(
        "{name:<48} {:>9.1} ns (from {:.1} to {:.1})",
        nanos(rounds[ROUNDS / 2]),
        nanos(rounds[0]),
        nanos(rounds[ROUNDS - 1])
    );
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}
