//! Events of producers that can only `XADD`: moved from the ingest stream into the logs of their topics.
//!
//! ```text
//!  XADD …:ingest ──► XREAD BLOCK ──► which topics, which keys ──► FCALL tidegate_ingest ──► logs, feed
//!                        ▲ a connection of its own                    │ dead letters
//!                        └────────────── asked again ◄────────────────┘
//! ```
//!
//! Every replica is ready to do it; the one that has the lease does. That spares work, and nothing else: a function appends and
//! deletes by one step, so replicas that race, that are killed, or that wake up from a long sleep move nothing twice.
//!
//! # Promises
//! 1. An entry becomes an event, or a dead letter, once; events of a topic stand in the order of their entries.
//! 2. An entry that is added while nothing else waits is moved at once: this task is woken by it, and does not look around.
//! 3. What is read is held by the number of its fields, not by its bytes: an entry may be of any size.
//! 4. Nothing is moved while ids would be too low: each connection raises them first, as that of publishes does.
//!
//! Not here: what is a valid entry (`functions.lua`).

mod moves;
mod state;
#[doc(hidden)]
pub mod waiting;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::AsyncWriteExt,
    time::{self, Instant},
};

pub(super) use self::state::Ingest;
use self::{
    moves::{CALL_ENTRIES, Outcome, moves},
    state::Standing,
    waiting::{LONGEST, Waiting, waiting},
};
use super::{
    Shared,
    backoff::Backoff,
    calls::{Function, is_missing},
    library,
    link::{Link, LinkError, lost, read},
    resp::{Decoder, Request, Value},
};

/// How long the lease lasts that is not renewed.
const LEASE: Duration = Duration::from_secs(2);
/// How often it is renewed, or asked for; and how long one read waits for an entry.
const RENEW: Duration = Duration::from_millis(500);
/// After this time without a byte the connection is given up.
const SILENCE: Duration = Duration::from_secs(5);
/// How long Redis is left alone after it refused to move something.
const PAUSE: Duration = Duration::from_millis(250);
/// Entries of the first read after a silence. Nobody knows how large they are.
const FIRST: usize = 16;
/// Entries of one read, at most: while the second call runs, the way to and fro is paid for.
const MOST: usize = 2 * CALL_ENTRIES;
/// Bytes that one read should bring, as far as the one before it tells.
const READ_BYTES: usize = 1024 * 1024;

/// Moves entries for ever, or until the replica leaves.
pub(super) async fn run(shared: Arc<Shared>, ingest: Arc<Ingest>) {
    let mut backoff = Backoff::default();
    loop {
        let mut place = shared.endpoint.place.mark();
        let error = tokio::select! {
            Err(error) = connection(&shared, &ingest, &mut backoff) => error,
            () = shared.stop.cancelled() => return,
            () = ingest.retired.cancelled() => return,
        };
        shared.endpoint.failed(&error);
        tracing::debug!(why = %error, "the connection of ingest is gone, trying again");
        ingest.lost(&error.to_string());
        let opened = shared.health.opened.notified();
        tokio::select! {
            () = time::sleep(backoff.next()) => {}
            () = opened => {}
            () = place.lost() => backoff.reset(),
            () = shared.stop.cancelled() => return,
            () = ingest.retired.cancelled() => return,
        }
    }
}

async fn connection(
    shared: &Arc<Shared>,
    ingest: &Ingest,
    backoff: &mut Backoff,
) -> Result<Infallible, LinkError> {
    let mut link = shared.endpoint.connect("ingest").await?;
    library::load(&mut link).await?;
    library::begin(&mut link, shared).await?;
    link.decoder = Decoder::keeping(LONGEST);
    shared.counters.connected();
    let mut session = Session {
        shared,
        ingest,
        link,
        output: BytesMut::new(),
        renewed: None,
        count: FIRST,
        entries: Vec::new(),
        stopped: None,
    };
    let mut hold = session.link.hold.take();
    let run = async {
        session.renew().await?;
        backoff.reset();
        session.run().await
    };
    tokio::select! {
        ended = run => ended,
        () = lost(&mut hold) => Err(LinkError::Elsewhere),
    }
}

/// One connection's time.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    ingest: &'a Ingest,
    link: Link,
    output: BytesMut,
    /// When the lease was asked for.
    renewed: Option<Instant>,
    /// How many entries the next read may bring.
    count: usize,
    /// What was read and is to be moved.
    entries: Vec<Waiting>,
    /// The entry before which a call stopped that has moved nothing.
    stopped: Option<Box<str>>,
}

impl Session<'_> {
    async fn run(&mut self) -> Result<Infallible, LinkError> {
        loop {
            if !self.ingest.moves() {
                time::sleep(RENEW.mul_f64(rand::random_range(0.8..=1.2))).await;
                self.renew().await?;
            } else if let Some(why) = self.turn().await? {
                self.ingest.troubled(&why);
                self.entries.clear();
                self.count = FIRST;
                time::sleep(PAUSE).await;
                self.renew().await?;
            }
        }
    }

    /// Moves what was read, and reads what is there by then, or comes. Returns why Redis refused, if it did.
    async fn turn(&mut self) -> Result<Option<String>, LinkError> {
        if let Some(why) = self.shared.health.why_closed() {
            return Ok(Some(why.to_string()));
        }
        let entries = std::mem::take(&mut self.entries);
        let calls = moves(&self.shared.keys, &entries);
        for call in &calls {
            call.write(self.link.calls, &mut self.output);
        }
        let renews = self.renewed.is_none_or(|at| at.elapsed() >= RENEW);
        if renews {
            self.write_lease();
        }
        // The first entries that are left: so whatever was not moved is read again.
        Request::new("XREAD")
            .arg("COUNT")
            .arg(self.count.to_string())
            .arg("BLOCK")
            .arg(RENEW.as_millis().to_string())
            .arg("STREAMS")
            .arg(&self.shared.keys.ingest)
            .arg("0-0")
            .write(self.link.calls, &mut self.output);
        self.send().await?;
        let (mut refused, moved_any) = (None, !calls.is_empty());
        for _ in calls {
            match self.reply().await? {
                Value::Error(text) => {
                    refused.get_or_insert(said(text)?);
                }
                reply => {
                    let moved = Outcome::of(&reply).ok_or(LinkError::Unexpected)?;
                    self.ingest.moved(&moved);
                    let stuck = moved.is_nothing() && moved.stopped.is_some();
                    if stuck && moved.stopped == self.stopped {
                        let at = moved.stopped.as_deref().unwrap_or_default();
                        refused.get_or_insert(format!("the entry {at} changes while it is read"));
                    }
                    self.stopped = moved.stopped.filter(|_| stuck);
                }
            }
        }
        if renews {
            let reply = self.reply().await?;
            self.stand(reply)?;
        }
        match self.reply().await? {
            Value::Error(text) => {
                refused.get_or_insert(said(text)?);
            }
            reply => {
                self.entries = waiting(&reply).ok_or(LinkError::Unexpected)?;
                self.count = next_count(self.count, &self.entries);
            }
        }
        // That something can be read does not say that it can be moved.
        if refused.is_none() && (moved_any || self.entries.is_empty()) {
            self.ingest.untroubled();
        }
        Ok(refused)
    }

    /// Asks for the lease, and learns what waits.
    async fn renew(&mut self) -> Result<(), LinkError> {
        self.write_lease();
        self.send().await?;
        let reply = self.reply().await?;
        self.stand(reply)
    }

    fn write_lease(&mut self) {
        lease(self.shared, self.ingest, LEASE).write(self.link.calls, &mut self.output);
        self.renewed = Some(Instant::now());
    }

    fn stand(&mut self, reply: Value) -> Result<(), LinkError> {
        if let Value::Error(text) = reply {
            // Whoever has it keeps it as long as it lasts.
            self.ingest.stands(Standing::default());
            self.ingest.troubled(&said(text)?);
            return Ok(());
        }
        let standing = Standing::of(&reply).ok_or(LinkError::Unexpected)?;
        let began = standing.moves && !self.ingest.moves();
        if began {
            tracing::debug!(waiting = standing.waiting, "moving what is put into ingest");
        }
        if !standing.moves {
            self.ingest.untroubled();
        }
        self.ingest.stands(standing);
        Ok(())
    }

    async fn send(&mut self) -> Result<(), LinkError> {
        let writer = &mut self.link.writer;
        let sent = async {
            writer.write_all(&self.output).await?;
            writer.flush().await
        };
        let sent = time::timeout(SILENCE, sent).await;
        sent.map_err(|_| LinkError::Silent)??;
        self.output.clear();
        Ok(())
    }

    /// The next reply, an error too.
    async fn reply(&mut self) -> Result<Value, LinkError> {
        let Link {
            reader,
            decoder,
            input,
            ..
        } = &mut self.link;
        loop {
            match decoder.decode(input)? {
                Some(Value::Push(_)) => {}
                Some(value) => return Ok(value),
                None => {
                    let heard = time::timeout(SILENCE, read(reader, input)).await;
                    heard.map_err(|_| LinkError::Silent)??;
                }
            }
        }
    }
}

/// What was refused and may be asked again here. Some refusals say that this is the wrong server, or that the functions are
/// gone: a new connection finds and brings them.
fn said(text: Box<str>) -> Result<String, LinkError> {
    const ELSEWHERE: [&str; 6] = [
        "MOVED",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "LOADING",
        "UNBLOCKED",
        "NOAUTH",
    ];
    let code = text.split(' ').next().unwrap_or_default();
    if code == "READONLY" {
        return Err(LinkError::Replica);
    }
    if ELSEWHERE.contains(&code) || is_missing(&text) {
        return Err(LinkError::Refused(text));
    }
    Ok(text.into())
}

/// How many entries the next read asks for: twice as many where there may be more, as long as they are small.
fn next_count(count: usize, entries: &[Waiting]) -> usize {
    if entries.is_empty() {
        return FIRST;
    }
    let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
    let each = (bytes / entries.len()).max(1);
    let wanted = if entries.len() < count {
        count
    } else {
        2 * count
    };
    wanted.min(READ_BYTES / each).clamp(1, MOST)
}

/// The lease for a while, or given back.
fn lease(shared: &Shared, ingest: &Ingest, lasts: Duration) -> Request {
    let keys = &shared.keys;
    let names = [
        &*keys.meta,
        &*keys.ingest,
        &*keys.ingest_dead,
        &*keys.ingest_lease,
    ];
    Request::call(Function::INGEST_LEASE, names)
        .arg(ingest.replica())
        .arg(lasts.as_millis().to_string())
}

/// The replica leaves: no entry is read here any more. Returns what gives the lease to another one at once.
pub(super) fn retire(shared: &Shared, ingest: &Ingest) -> Option<Request> {
    ingest.retired.cancel();
    ingest
        .moves()
        .then(|| lease(shared, ingest, Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn entries(count: usize, bytes: usize) -> Vec<Waiting> {
        let entry = |seq: usize| Waiting {
            id: EventId::new(1, seq as u64),
            topic: None,
            key: None,
            bytes,
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn reads_grow_while_entries_are_small_and_shrink_when_they_are_not() {
        let mut count = FIRST;
        for expected in [32, 64, 128, 256, 512, 512] {
            count = next_count(count, &entries(count, 200));
            assert_eq!(count, expected);
        }
        assert_eq!(next_count(512, &entries(3, 200)), 512, "there were no more");
        assert_eq!(next_count(512, &entries(512, 64 * 1024)), 16);
        assert_eq!(next_count(512, &entries(512, 5_000_000)), 1);
        assert_eq!(next_count(1, &entries(1, 0)), 2);
        assert_eq!(next_count(512, &[]), FIRST, "nobody knows what comes next");
    }

    #[test]
    fn a_wrong_server_is_left_and_a_full_one_is_not() {
        for leave in [
            "READONLY You can't write against a read only replica.",
            "MOVED 13907 10.0.0.1:6379",
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            "ERR Function not found",
        ] {
            assert!(said(leave.into()).is_err(), "{leave}");
        }
        for stay in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "NOPERM this user has no permissions to run the 'xread' command",
            "NOREPLICAS Not enough good replicas to write.",
            // The slot is on its way to another node.
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "ASK 13907 10.0.0.1:6379",
        ] {
            assert_eq!(said(stay.into()).expect("stays"), stay);
        }
    }
}
