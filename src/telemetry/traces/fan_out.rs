//! The way of one event from the store into the streams of this replica.
//!
//! A stream that wrote something asks two numbers whether any of it is looked for: almost always that is all. The first is
//! a bit for each event that is watched; the second says from when on frames may be of an event that is just being stored,
//! because a stream is often faster than the answer to the publisher, and the id is not known before that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use super::span::{self, Context, Span, Value};
use crate::event::{EventId, Frame};

/// How long writes of an event belong to its fan-out; what comes later is a replay.
const WINDOW: Duration = Duration::from_secs(1);
/// Events that are watched at once, and events seen while something is being stored; of more there is no such span.
const MOST: usize = 256;

static WATCHED: AtomicU64 = AtomicU64::new(0);
static SINCE_US: AtomicU64 = AtomicU64::new(u64::MAX);
static STATE: Mutex<State> = Mutex::new(State {
    storing: Vec::new(),
    early: Vec::new(),
    watched: Vec::new(),
});

#[derive(Debug)]
struct State {
    /// When each append began that is not over, by the clock of the frames.
    storing: Vec<u64>,
    /// What was written meanwhile.
    early: Vec<(EventId, Writes)>,
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    id: EventId,
    request: Context,
    stored: SystemTime,
    writes: Option<Writes>,
}

#[derive(Clone, Copy, Debug)]
struct Writes {
    streams: u64,
    first: SystemTime,
    last: SystemTime,
}

impl Writes {
    fn more(writes: Option<Self>, now: SystemTime) -> Self {
        writes.map_or(
            Self {
                streams: 1,
                first: now,
                last: now,
            },
            |writes| Self {
                streams: writes.streams + 1,
                last: now,
                ..writes
            },
        )
    }
}

fn bit(id: EventId) -> u64 {
    1 << ((id.ms() ^ id.seq().rotate_left(3)) % 64)
}

impl State {
    /// After each change: what streams look at.
    fn show(&mut self) {
        let since = self.storing.iter().min().copied();
        if since.is_none() {
            self.early.clear();
        }
        SINCE_US.store(since.unwrap_or(u64::MAX), Ordering::Release);
        let watched = self.watched.iter().fold(0, |bits, one| bits | bit(one.id));
        WATCHED.store(watched, Ordering::Release);
    }

    fn wrote(&mut self, id: EventId, may_be_early: bool) {
        let now = SystemTime::now();
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.id == id) {
            watched.writes = Some(Writes::more(watched.writes, now));
        } else if may_be_early {
            let room = self.early.len() < MOST;
            match self.early.iter_mut().find(|(early, _)| *early == id) {
                Some((_, writes)) => *writes = Writes::more(Some(*writes), now),
                None if room => self.early.push((id, Writes::more(None, now))),
                None => {}
            }
        }
    }
}

/// These frames were written into a stream.
pub(super) fn wrote(frames: &[Arc<Frame>]) {
    let watched = WATCHED.load(Ordering::Acquire);
    let since = SINCE_US.load(Ordering::Acquire);
    if watched == 0 && since == u64::MAX {
        return;
    }
    for frame in frames {
        let early = frame.arrived_us() >= since;
        if early || watched & bit(frame.id()) != 0 {
            STATE.lock().wrote(frame.id(), early);
        }
    }
}

/// An append that is not over.
#[derive(Debug)]
pub(super) struct Storing {
    since_us: u64,
}

impl Storing {
    pub(super) fn begin(since_us: u64) -> Self {
        let mut state = STATE.lock();
        state.storing.push(since_us);
        state.show();
        Self { since_us }
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        let mut state = STATE.lock();
        let at = state
            .storing
            .iter()
            .position(|since| *since == self.since_us);
        if let Some(at) = at {
            state.storing.swap_remove(at);
        }
        state.show();
    }
}

/// An event has an id now, under which its writes are looked for; those that were earlier are taken along.
pub(super) fn watch(id: EventId, request: Context) {
    let mut state = STATE.lock();
    if state.watched.len() >= MOST {
        return;
    }
    let early = state.early.iter().find(|(early, _)| *early == id);
    let writes = early.map(|(_, writes)| *writes);
    state.watched.push(Watched {
        id,
        request,
        stored: SystemTime::now(),
        writes,
    });
    state.show();
    drop(state);
    tokio::spawn(async move {
        tokio::time::sleep(WINDOW).await;
        end(|watched| watched.id == id);
    });
}

/// Whatever is watched has been watched long enough.
pub(super) fn end_all() {
    end(|_| true);
}

fn end(which: impl Fn(&Watched) -> bool) {
    let mut state = STATE.lock();
    let over: Vec<Watched> = state
        .watched
        .extract_if(.., |watched| which(watched))
        .collect();
    state.show();
    drop(state);
    for watched in over {
        span::put(watched.into_span());
    }
}

impl Watched {
    fn into_span(self) -> Span {
        // A stream may have been faster than the answer of the store.
        let first = self.writes.map_or(self.stored, |writes| writes.first);
        let begun = self.stored.min(first);
        let last = self.writes.map_or(begun, |writes| writes.last);
        let since = |moment: SystemTime| moment.duration_since(begun).unwrap_or_default();
        let mut attributes = vec![
            ("tidegate.event_id", Value::Text(self.id.to_string().into())),
            (
                "tidegate.streams",
                Value::Number(self.writes.map_or(0, |writes| writes.streams)),
            ),
        ];
        if self.writes.is_some() {
            let micros = u64::try_from(since(first).as_micros()).unwrap_or(u64::MAX);
            attributes.push(("tidegate.first_write_us", Value::Number(micros)));
        }
        Span {
            context: Context {
                trace: self.request.trace,
                span: rand::random::<u64>().max(1),
            },
            parent: Some(self.request.span),
            remote: false,
            serves: false,
            name: "fan-out",
            begun,
            lasted: since(last),
            attributes,
            failed: false,
        }
    }
}
