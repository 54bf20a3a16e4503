//! A clock around a closure: medians of several rounds, printed as a line.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate::{
    event::Topic,
    hub::{Hub, HubConfig},
    log::{Retention, RetentionRules, TailLimits},
    store::{
        Append,
        memory::{MemoryConfig, MemoryStore},
    },
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

/// A hub on a memory store that keeps a million events.
#[expect(dead_code, reason = "not every bench has a hub")]
pub(crate) fn hub() -> Hub {
    let keep = Retention {
        events: 1_000_000,
        bytes: 1 << 30,
        age_ms: 3_600_000,
    };
    let retention = RetentionRules::new(keep, Vec::new());
    let store = MemoryStore::new(MemoryConfig {
        retention: retention.clone(),
        total_bytes: 1 << 30,
        idempotency_window: Duration::from_mins(1),
    });
    let config = HubConfig {
        tail: TailLimits {
            events: 1024,
            bytes: 1 << 20,
            age_ms: 600_000,
        },
        tail_total_bytes: 1 << 28,
        linger: Duration::from_secs(30),
        topics: 100_000,
        retention,
        join_timeout: Duration::from_secs(5),
    };
    Hub::start(config, Arc::new(store))
}

/// An event of 128 bytes.
#[expect(dead_code, reason = "as above")]
pub(crate) fn append(topic: &Topic) -> Append {
    Append {
        topic: topic.clone(),
        kind: Default::default(),
        data: Some("x".repeat(128).into()),
        end: false,
        key: None,
    }
}
