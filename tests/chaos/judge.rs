//! What every client was told, held against everything that was ever in the log.
//!
//! Pure: it is given what happened as values, so that each kind of mistake can be made here in a few lines, and must be found.
//! A gateway learns of things before a client does, and a client before its record has the time; so every comparison of times
//! forgives what may have been late, and none accuses where the order is not certain.

mod life;
mod log;
mod losses;
mod presence;
mod publications;
mod tests;
mod tests_failover;
mod tests_handed;

use std::{fmt, sync::Arc};

pub(super) use life::{Asked, Gap, Line, Reason, Replay, Tally, Told, judge};
pub(super) use log::{Birth, Entry, Failover, Log, Range, Taking};
pub(super) use presence::{Change, judge_presence};
pub(super) use publications::{Handed, Left, Publication, judge_publications};

/// Milliseconds of the clock that Redis and the test share.
pub(super) type Millis = u64;

/// The name of a topic, shared by everything that mentions it.
pub(super) type Name = Arc<str>;

/// The kinds of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// An event came twice.
    Doubled,
    /// An event did not come, and the log still has it.
    Lost,
    /// An event did not come because the log no longer had it, and that was not told.
    Untold,
    /// A gap was told where nothing is missing.
    FalseGap,
    /// An id came that does not lie above what had been told.
    Order,
    /// An event came that was never in the log like this.
    Unpublished,
    /// The log was born again, and that was not told.
    UntoldReset,
    /// `$open` does not answer what was asked.
    Verdict,
    /// The log itself is not as it should be.
    Log,
    /// It is recorded that something was lost, and it was not, or not like this.
    FalseRecord,
    /// Somebody could witness that something was lost, and it is not recorded.
    Unrecorded,
    /// An answer to a publisher is not true.
    Acknowledgement,
    /// What is told of who is there is not true.
    Presence,
}

/// What is wrong, for whoever has to find out why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) mistake: Mistake,
    pub(super) text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.mistake, self.text)
    }
}

fn complain<T>(mistake: Mistake, text: String) -> Result<T, Complaint> {
    Err(Complaint { mistake, text })
}
