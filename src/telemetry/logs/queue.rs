//! Lines that wait to be written: bounded, in order, and put there without waiting.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Which log a line belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Main,
    Access,
    Audit,
}

/// Bytes of a queue, by the kind of line that asks.
pub(super) struct Room;

/// Lines for which there was no room, since the start of the process.
static DROPPED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// What waits for one output.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Vec<u8>>,
}

impl Queue {
    /// Puts a line at the end, unless those before it leave no room.
    pub(super) fn push(&self, line: &str, kind: Kind, room: usize) {
        let mut waiting = self.waiting.lock();
        if waiting.len() + line.len() <= room {
            waiting.extend_from_slice(line.as_bytes());
        } else {
            drop(waiting);
            Dropped::count(kind, 1);
        }
    }

    /// Takes all that waits, and leaves `empty` in its place.
    pub(super) fn take(&self, empty: &mut Vec<u8>) {
        std::mem::swap(&mut *self.waiting.lock(), empty);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }
}

/// How many lines were lost because they could not be written fast enough.
#[derive(Clone, Copy, Debug)]
pub struct Dropped {
    main: u64,
    access: u64,
    audit: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LogLabels {
    log: &'static str,
}

impl Dropped {
    fn count(kind: Kind, lines: u64) {
        DROPPED[kind as usize].fetch_add(lines, Ordering::Relaxed);
    }

    /// The numbers of now.
    pub fn read() -> Self {
        let of = |kind: Kind| DROPPED[kind as usize].load(Ordering::Relaxed);
        Self {
            main: of(Kind::Main),
            access: of(Kind::Access),
            audit: of(Kind::Audit),
        }
    }

    /// All of them.
    pub fn total(self) -> u64 {
        self.main + self.access + self.audit
    }

    pub(in super::super) fn register(self, r: &mut Registry) {
        let family = Family::<LogLabels, Counter>::default();
        for (log, lines) in [
            ("main", self.main),
            ("access", self.access),
            ("audit", self.audit),
        ] {
            family.get_or_create_owned(&LogLabels { log }).inc_by(lines);
        }
        r.register(
            "log_lines_dropped",
            "Log lines that were dropped because they could not be written fast enough, by log",
            family,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_line_has_room_where_an_access_line_has_none() {
        let queue = Queue::default();
        for _ in 0..10 {
            queue.push("access\n", Kind::Access, 21);
        }
        queue.push("audit\n", Kind::Audit, 30);
        queue.push("audit\n", Kind::Audit, 30);
        let mut lines = Vec::new();
        queue.take(&mut lines);
        assert_eq!(lines, b"access\naccess\naccess\naudit\n");
        assert!(queue.is_empty());
        let dropped = Dropped::read();
        assert!(dropped.access >= 7 && dropped.audit >= 1, "{dropped:?}");
    }
}
