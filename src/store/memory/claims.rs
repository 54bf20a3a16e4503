//! What was claimed, and until when.
//!
//! # Invariants
//! 1. `until` and `order` name the same claims.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::store::StoreError;

/// Claims that are remembered at most. Beyond it new ones fail: to forget one before its time would give it to two.
const LIMIT: usize = 1_000_000;

/// The claims of one process.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The first millisecond in which a name is free again.
    until: HashMap<Arc<str>, u64>,
    order: BTreeSet<(u64, Arc<str>)>,
}

impl Claims {
    /// Whether the name was free.
    pub(super) fn claim(
        &mut self,
        name: &str,
        lasts: Duration,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.tidy(now_ms);
        if self.until.contains_key(name) {
            return Ok(false);
        }
        if self.until.len() >= LIMIT {
            let why = format!("{LIMIT} claims are remembered, which is the limit");
            return Err(StoreError::Unavailable(why));
        }
        let lasts = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).max(1);
        let (name, until): (Arc<str>, _) = (name.into(), now_ms.saturating_add(lasts));
        self.order.insert((until, name.clone()));
        self.until.insert(name, until);
        Ok(true)
    }

    /// Forgets what is over.
    pub(super) fn tidy(&mut self, now_ms: u64) {
        while let Some((until, _)) = self.order.first()
            && *until <= now_ms
        {
            if let Some((_, name)) = self.order.pop_first() {
                self.until.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_takes_no_memory() {
        let mut claims = Claims::default();
        for number in 0..100 {
            let lasts = Duration::from_millis(100 + number);
            assert_eq!(claims.claim(&number.to_string(), lasts, 0), Ok(true));
        }
        claims.tidy(149);
        assert_eq!((claims.until.len(), claims.order.len()), (50, 50));
        claims.tidy(1_000);
        assert_eq!((claims.until.len(), claims.order.len()), (0, 0));
    }
}
