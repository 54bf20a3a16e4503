//! What the Redis store counts, for metrics and health.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::calls::Calls;
use crate::telemetry::Latencies;

/// Counters of one store.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connects: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) letters_dropped: AtomicU64,
    pub(super) latency: Latencies,
    last_warning: Mutex<Option<Instant>>,
}

impl Counters {
    /// A connection was opened.
    pub(super) fn connected(&self) {
        self.connects.fetch_add(1, Ordering::Relaxed);
    }

    /// A command was answered.
    pub(super) fn command(&self, took: Duration) {
        self.commands.fetch_add(1, Ordering::Relaxed);
        self.latency
            .observe_us(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Something was passed over that `tidegate_publish` did not write. A flood of it must not flood the log, too.
    pub(super) fn skipped(&self, place: &str, why: super::entry::EntryError) {
        let count = self.skipped.fetch_add(1, Ordering::Relaxed) + 1;
        let mut last = self.last_warning.lock();
        if last.is_none_or(|last| last.elapsed() > Duration::from_secs(1)) {
            *last = Some(Instant::now());
            tracing::warn!(place, %why, count, "skipped what was written past tidegate_publish");
        }
    }
}

/// Whether the store can be reached.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: Mutex<HealthState>,
    /// The feed is open: other connections need not wait for their next attempt.
    pub(super) opened: Notify,
}

#[derive(Debug, Default)]
struct HealthState {
    /// Why there is no feed, while there is none.
    away: Option<Arc<str>>,
    /// Whatever would be published now would be given an id below what was already seen.
    clock_behind: bool,
    warnings: Vec<String>,
    /// How the server is called, as the feed found out last.
    calls: Option<Calls>,
    /// Why no letters come, while none can.
    no_letters: Option<String>,
    /// Masters that have no functions, while there are any.
    untaught: Option<String>,
}

impl Health {
    pub(super) fn away(&self, why: &str) {
        let mut state = self.state.lock();
        state.away = Some(why.into());
        state.clock_behind = why.contains("CLOCK_BEHIND");
    }

    /// Why nothing may be published though Redis may take it.
    pub(super) fn why_closed(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        state.away.clone().filter(|_| state.clock_behind)
    }

    pub(super) fn back(&self) {
        let mut state = self.state.lock();
        state.away = None;
        state.clock_behind = false;
        drop(state);
        self.opened.notify_waiters();
    }

    /// A connection found out how the server is called.
    pub(super) fn called(&self, calls: Calls) {
        self.state.lock().calls = Some(calls);
    }

    /// How the server is called.
    pub(super) fn calls(&self) -> Option<Calls> {
        self.state.lock().calls
    }

    /// What an operator should mend now.
    pub(super) fn warn(&self, warnings: Vec<String>) {
        let mut state = self.state.lock();
        if state.warnings != warnings {
            for warning in &warnings {
                tracing::warn!("{warning}");
            }
            state.warnings = warnings;
        }
    }

    /// Whether letters come, and if not, why.
    pub(super) fn letters(&self, refused: Option<&str>) {
        let mut state = self.state.lock();
        if state.no_letters.as_deref() == refused {
            return;
        }
        state.no_letters = refused.map(Into::into);
        if let Some(why) = refused {
            tracing::warn!(%why, "Redis does not let this replica take letters from the others");
        }
    }

    /// Whether all masters of the cluster have the functions, and if not, why.
    pub(super) fn untaught(&self, warning: Option<String>) {
        let mut state = self.state.lock();
        if state.untaught != warning
            && let Some(warning) = &warning
        {
            tracing::warn!("{warning}");
        }
        state.untaught = warning;
    }

    /// Why it cannot be reached, if it cannot.
    pub(super) fn why_away(&self) -> Option<Arc<str>> {
        self.state.lock().away.clone()
    }

    /// What an operator should mend.
    pub(super) fn warnings(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut warnings = state.warnings.clone();
        warnings.extend(state.no_letters.as_ref().map(|why| {
            format!("letters from other replicas are refused ({why}): let the user subscribe to all channels of the prefix")
        }));
        warnings.extend(state.untaught.clone());
        warnings
    }
}
