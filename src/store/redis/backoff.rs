//! How long to wait before the next attempt: longer each time, never the same, for ever.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
/// Short enough that a Redis that is back is found within a second or so.
const LONGEST: Duration = Duration::from_secs(1);

/// Exponential back-off with full jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// What to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let most = FIRST
            .saturating_mul(1 << self.attempts.min(10))
            .min(LONGEST);
        self.attempts += 1;
        // Replicas that lost their Redis at the same moment must not all come back at the same moment.
        most.mul_f64(rand::random_range(0.1..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_a_second_and_starts_over() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= FIRST);
        for _ in 0..100 {
            let wait = backoff.next();
            assert!(wait >= FIRST / 10 && wait <= LONGEST);
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
