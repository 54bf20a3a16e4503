//! How ingest fares: who moves, what waits, what was moved, and what an operator should mend.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::moves::Outcome;
use crate::{
    event::EventId,
    store::{IngestStats, redis::resp::Value},
};

/// From this age of the oldest entry on, somebody should look.
const LATE: Duration = Duration::from_mins(1);
/// What is over sooner than this is nothing to tell an operator.
const BRIEF: Duration = Duration::from_secs(2);

/// What this replica knows and has done.
pub(in crate::store::redis) struct Ingest {
    /// Who it is in the lease: two replicas of one name must not both have it.
    replica: Box<str>,
    moved: AtomicU64,
    duplicates: AtomicU64,
    dead: AtomicU64,
    state: Mutex<State>,
    pub(super) retired: CancellationToken,
}

#[derive(Default)]
struct State {
    standing: Standing,
    trouble: Option<(String, Instant)>,
}

impl State {
    /// Returns whether all was well before.
    fn trouble(&mut self, why: &str) -> bool {
        match &mut self.trouble {
            Some((said, _)) => {
                why.clone_into(said);
                false
            }
            none => {
                *none = Some((why.to_owned(), Instant::now()));
                true
            }
        }
    }
}

/// What was said with the lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// This replica moves entries.
    pub(super) moves: bool,
    /// Entries that wait.
    pub(super) waiting: u64,
    /// Milliseconds that the oldest has waited.
    pub(super) lag_ms: u64,
    /// Dead letters that are kept.
    pub(super) letters: u64,
}

impl Standing {
    pub(super) fn of(reply: &Value) -> Option<Self> {
        let [moves, waiting, oldest, letters, now] = reply.array()? else {
            return None;
        };
        let figure = |value: &Value| u64::try_from(value.number()?).ok();
        let oldest = oldest.text()?.parse::<EventId>();
        Some(Self {
            moves: figure(moves)? > 0,
            waiting: figure(waiting)?,
            // By its id, which Redis gives by its clock unless the producer insists on another.
            lag_ms: oldest.map_or(Some(0), |oldest| {
                Some(figure(now)?.saturating_sub(oldest.ms()))
            })?,
            letters: figure(letters)?,
        })
    }
}

impl Ingest {
    pub(in crate::store::redis) fn new() -> Self {
        let mut replica = String::new();
        let _ = write!(replica, "{:016x}", rand::random::<u64>());
        Self {
            replica: replica.into(),
            moved: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            state: Mutex::default(),
            retired: CancellationToken::new(),
        }
    }

    pub(super) fn replica(&self) -> &str {
        &self.replica
    }

    /// Whether this replica moves entries.
    pub(super) fn moves(&self) -> bool {
        self.state.lock().standing.moves
    }

    pub(super) fn moved(&self, moved: &Outcome) {
        self.moved.fetch_add(moved.moved, Ordering::Relaxed);
        self.duplicates
            .fetch_add(moved.duplicates, Ordering::Relaxed);
        let dead = self.dead.fetch_add(moved.dead, Ordering::Relaxed) + moved.dead;
        if moved.dead > 0 {
            tracing::debug!(
                count = moved.dead,
                dead,
                "entries of ingest became dead letters"
            );
        }
    }

    pub(super) fn stands(&self, standing: Standing) {
        self.state.lock().standing = standing;
    }

    /// The connection is gone, and with it, before long, the lease. The feed says so in the log: whoever uses no ingest need
    /// not read it twice.
    pub(super) fn lost(&self, why: &str) {
        let mut state = self.state.lock();
        state.standing.moves = false;
        state.trouble(why);
    }

    /// Entries are not moved.
    pub(super) fn troubled(&self, why: &str) {
        if self.state.lock().trouble(why) {
            tracing::warn!(%why, "entries of ingest are not moved");
        }
    }

    /// They are, or would be.
    pub(super) fn untroubled(&self) {
        self.state.lock().trouble = None;
    }

    /// What an operator should mend.
    pub(in crate::store::redis) fn warnings(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut warnings = Vec::new();
        if let Some((why, since)) = &state.trouble
            && since.elapsed() >= BRIEF
        {
            warnings.push(format!("entries of ingest are not moved: {why}"));
        }
        let Standing {
            waiting, lag_ms, ..
        } = state.standing;
        let lag = Duration::from_millis(lag_ms);
        if lag >= LATE {
            let lag = lag.as_secs();
            warnings.push(format!(
                "{waiting} entries wait in ingest, the oldest for {lag} s"
            ));
        }
        warnings
    }

    pub(in crate::store::redis) fn stats(&self) -> IngestStats {
        let standing = self.state.lock().standing;
        IngestStats {
            moves: standing.moves,
            moved: self.moved.load(Ordering::Relaxed),
            duplicates: self.duplicates.load(Ordering::Relaxed),
            dead: self.dead.load(Ordering::Relaxed),
            pending: standing.waiting,
            lag_ms: standing.lag_ms,
            dead_letters: standing.letters,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn standing(oldest: &'static str, now: &'static str) -> Option<Standing> {
        let text = |text: &'static str| Value::Text(Bytes::from_static(text.as_bytes()));
        Standing::of(&Value::Array(vec![
            Value::Number(1),
            Value::Number(7),
            text(oldest),
            Value::Number(3),
            text(now),
        ]))
    }

    #[test]
    fn the_age_of_the_oldest_entry_is_its_ids() {
        let lag = |oldest, now| standing(oldest, now).map(|standing| standing.lag_ms);
        assert_eq!(lag("1000-5", "1250"), Some(250));
        assert_eq!(lag("", "1250"), Some(0));
        // From a clock that is ahead, or from a producer.
        assert_eq!(lag("18446744073709551615-1", "1250"), Some(0));
        assert_eq!(lag("1000-5", "x"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn operators_hear_of_what_lasts() {
        let ingest = Ingest::new();
        ingest.troubled("OOM");
        assert!(ingest.warnings().is_empty());
        tokio::time::advance(BRIEF).await;
        ingest.troubled("OOM again");
        assert_eq!(
            ingest.warnings(),
            ["entries of ingest are not moved: OOM again"]
        );
        ingest.untroubled();
        ingest.stands(standing("1000-0", "60999").expect("a standing"));
        assert!(ingest.warnings().is_empty());
        ingest.stands(standing("1000-0", "61000").expect("a standing"));
        assert_eq!(
            ingest.warnings(),
            ["7 entries wait in ingest, the oldest for 60 s"]
        );
    }
}
