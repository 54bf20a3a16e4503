//! Asks open streams where they stand, without a cost while nobody asks.
//!
//! A stream is its own task and keeps its cursor to itself: a cursor that others could read would be written with every
//! event. So whoever wants to know raises a flag in the handles of the streams, counts up what every stream looks at in
//! each turn anyway ([`Streams::closes`]), and wakes them; each writes its cursor down, also one that waits for its socket.
//!
//! A body that an HTTP library writes is not asked for more while its reader takes nothing. It writes down where it stands
//! with each piece, so what it last said is still true, and its silence says that it is behind.
//!
//! [`Streams::closes`]: super::streams::Streams::closes

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::yield_now,
    time::{self, Instant},
};

use super::streams::{StreamHandle, Streams};
use crate::event::EventId;

/// How long the slowest is waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often it is looked whether all have answered.
const LOOK: Duration = Duration::from_millis(4);
/// Streams that are woken at once; then others have their turn.
const WAKES: usize = 64;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Everything up to here has been written.
    pub cursor: EventId,
    /// The tick of the last write that the socket took.
    pub wrote_at: u64,
    /// Its reader takes nothing at the moment.
    pub behind: bool,
}

/// The part of a handle that a survey needs.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The number of the last survey that wants to know.
    asked: AtomicU32,
    /// The number of the last one that was answered.
    answered: AtomicU32,
    said: Mutex<Said>,
}

/// What a stream has said of itself.
#[derive(Clone, Copy, Debug)]
struct Said {
    began: EventId,
    standing: Standing,
}

impl Default for Answer {
    fn default() -> Self {
        let nowhere = Standing {
            cursor: EventId::ZERO,
            wrote_at: 0,
            behind: false,
        };
        Self {
            asked: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            said: Mutex::new(Said {
                began: EventId::ZERO,
                standing: nowhere,
            }),
        }
    }
}

impl Answer {
    /// The stream begins.
    pub(super) fn begin(&self, began: EventId, standing: Standing) {
        *self.said.lock() = Said { began, standing };
    }

    /// Whether somebody waits for an answer.
    pub(super) fn is_wanted(&self) -> bool {
        self.asked.load(Ordering::Acquire) != self.answered.load(Ordering::Relaxed)
    }

    /// This is where the stream stands now.
    pub(super) fn give(&self, standing: Standing) {
        // First: what is asked from here on is asked again.
        let asked = self.asked.load(Ordering::Acquire);
        self.said.lock().standing = standing;
        self.answered.store(asked, Ordering::Release);
    }

    /// The stream goes on meanwhile; whoever waits for an answer still waits.
    pub(super) fn note(&self, standing: Standing) {
        self.said.lock().standing = standing;
    }

    fn ask(&self, number: u32) {
        self.asked.store(number, Ordering::Release);
    }

    fn is_given(&self) -> bool {
        !self.is_wanted()
    }

    /// From where the stream began.
    pub(crate) fn began(&self) -> EventId {
        self.said.lock().began
    }

    /// What it last said; one that did not answer in time is behind.
    pub(crate) fn standing(&self) -> Standing {
        let standing = self.said.lock().standing;
        Standing {
            behind: standing.behind || self.is_wanted(),
            ..standing
        }
    }
}

/// Asks these streams where they stand, and waits for their answers, which are in their handles then.
pub(crate) async fn survey(streams: &Streams, handles: &[Arc<StreamHandle>]) {
    let number = streams.next_survey();
    for handle in handles {
        handle.answer.ask(number);
    }
    streams.look_up();
    let deadline = Instant::now() + PATIENCE;
    for some in handles.chunks(WAKES) {
        for handle in some {
            handle.wake();
        }
        // Ten thousand streams that wake at once would be a burst in front of the next event.
        yield_now().await;
    }
    let mut waiting: Vec<&StreamHandle> = handles.iter().map(|handle| &**handle).collect();
    loop {
        waiting.retain(|handle| !handle.answer.is_given());
        if waiting.is_empty() || Instant::now() >= deadline {
            return;
        }
        time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Standing {
        Standing {
            cursor: EventId::new(ms, 0),
            wrote_at: ms,
            behind: false,
        }
    }

    #[test]
    fn an_answer_is_given_once_for_each_question() {
        let answer = Answer::default();
        answer.begin(EventId::new(1, 0), at(1));
        assert!(!answer.is_wanted(), "nobody has asked");
        answer.ask(1);
        assert!(answer.is_wanted());
        answer.give(at(2));
        assert!(answer.is_given());
        assert_eq!(answer.standing(), at(2));
        assert_eq!(answer.began(), EventId::new(1, 0));
    }

    #[test]
    fn whoever_does_not_answer_is_behind() {
        let answer = Answer::default();
        answer.ask(1);
        answer.note(at(3));
        let standing = answer.standing();
        assert_eq!(standing.cursor, EventId::new(3, 0), "but not forgotten");
        assert!(standing.behind);
        answer.give(at(4));
        assert!(!answer.standing().behind);
    }
}
