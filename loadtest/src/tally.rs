//! What all streams of a measurement saw together.

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use crate::figures::float;

/// Latencies above a minute count as a minute.
const MOST_LATENCY_NS: u64 = 60_000_000_000;

/// The sums over all streams.
pub(crate) struct Tally {
    /// Streams that have been answered with 200 and their first event.
    pub(crate) opened: u64,
    /// Streams that have said that they caught up.
    pub(crate) live: u64,
    /// Events that arrived.
    pub(crate) delivered: u64,
    /// Streams that ended without being asked to.
    pub(crate) ended: u64,
    /// Publish to arrival, in nanoseconds, while [`Tally::timing`] is on.
    pub(crate) latency: Histogram<u64>,
    pub(crate) timing: bool,
    pub(crate) faults: Faults,
}

/// What must never happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Events that a stream skipped.
    pub(crate) lost: u64,
    /// Events that a stream got again, or after a later one.
    pub(crate) repeated: u64,
    /// Ids that did not increase.
    pub(crate) disordered: u64,
    /// Gaps that were announced: nothing here outlives its retention.
    pub(crate) gaps: u64,
    /// Answers other than 200.
    pub(crate) refused: u64,
    /// Streams that were not the format.
    pub(crate) unreadable: u64,
    /// The first fault, in words.
    pub(crate) first: Option<String>,
}

impl Faults {
    /// Counts a fault by `count` and keeps the words of the first.
    pub(crate) fn note(
        &mut self,
        count: impl FnOnce(&mut Self) -> &mut u64,
        by: u64,
        words: impl FnOnce() -> String,
    ) {
        *count(self) += by;
        if self.first.is_none() {
            self.first = Some(words());
        }
    }

    /// An error when there was any fault.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.first {
            None => Ok(()),
            Some(first) => bail!(
                "lost {}, repeated {}, disordered {}, gaps {}, refused {}, unreadable {}; first: {first}",
                self.lost,
                self.repeated,
                self.disordered,
                self.gaps,
                self.refused,
                self.unreadable
            ),
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            opened: 0,
            live: 0,
            delivered: 0,
            ended: 0,
            latency: Histogram::new_with_bounds(1_000, MOST_LATENCY_NS, 3)
                .expect("the bounds are in order"),
            timing: false,
            faults: Faults::default(),
        }
    }
}

impl Tally {
    pub(crate) fn record(&mut self, sent_ns: u64, now_ns: u64) {
        if self.timing {
            self.latency
                .saturating_record(now_ns.saturating_sub(sent_ns));
        }
    }

    /// A quantile of the latency in milliseconds.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        float(self.latency.value_at_quantile(quantile)) / 1e6
    }
}
