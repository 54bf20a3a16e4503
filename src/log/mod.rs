//! A topic is a log, a connection is a cursor into it: the rules of that, and nothing else.
//!
//! Pure: no I/O, no clock, no runtime; time comes in as an argument. What is here decides what a client is told, so it
//! is small enough to be held against a model.
//!
//! Not here: waking subscribers ([`crate::hub`]) and keeping history ([`crate::store`]).

mod chain;
mod cursor;
mod gap;
mod merge;
mod retention;
mod tail;

pub use chain::{Head, Place, place, reconcile};
pub use cursor::{Cursor, CursorError, Start};
pub use gap::{Gap, GapReason, LostRange, Proof, Replay};
pub use merge::{Budget, Merge};
pub use retention::{Retention, RetentionRule, RetentionRules};
pub use tail::{Tail, TailLimits};
