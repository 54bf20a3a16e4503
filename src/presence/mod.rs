//! Who follows which topic: from the streams of this replica to the table that all replicas share.
//!
//! ```text
//!  stream begins, changes, ends ──► table ──► task ──► store.hear ──► $presence/<topic>
//!                                             │  ▲ lease, verdict
//!                                             └──► store.sweep (replicas that died)
//! ```
//!
//! A user is the subject of a token. It has come with its first stream, which is told at once; it has gone when it has had
//! no stream for the debounce, which a page that is loaded again, a switch of the replica and a deploy do not take.
//!
//! # Promises
//! 1. A stream costs one lock when it begins and one when it ends; where presence is off there is none of this.
//! 2. What could not be told is told when the store is back; a store that has lost what it was told is told again.
//! 3. Whoever dies is swept by another replica when its lease has ended, but not by one that has just come back itself: when
//!    the store was away, everybody gets the time of a lease to say that they live.
//!
//! Not here: who may know ([`crate::auth`]), how many streams there are ([`crate::http`]), and which replica is the first to
//! have a user ([`crate::store::presence`]).

mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use self::table::Table;
use crate::{
    event::Topic,
    store::{
        Store, StoreError,
        presence::{Heard, LISTED, Mark, Standing, Word},
    },
};

/// How long the word of a replica counts, at the least, when it falls silent.
const LEASE: Duration = Duration::from_secs(5);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(1);
/// How soon a store that did not take a word is asked again.
const AGAIN: Duration = Duration::from_millis(250);
/// A number of words that no table holds.
const UNKNOWN: u64 = u64::MAX;

/// The users of this replica.
pub struct Presence {
    store: Arc<dyn Store>,
    replica: Arc<str>,
    table: Mutex<Table>,
    /// There is something to tell, or it is due at another time.
    changed: Notify,
    counts: Counts,
}

/// What happened so far.
#[derive(Debug, Default)]
struct Counts {
    joined: AtomicU64,
    left: AtomicU64,
    failures: AtomicU64,
}

/// How presence fares on this replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceStats {
    /// Users that have a stream here, or had one a moment ago.
    pub users: usize,
    /// Joins that this replica has told of.
    pub joined: u64,
    /// Leaves that this replica has told of.
    pub left: u64,
    /// Times that the store did not take what it was told.
    pub failures: u64,
}

impl Presence {
    /// Nobody is there yet. Nothing is told before [`Presence::run`].
    pub fn new(store: Arc<dyn Store>, replica: &str, debounce: Duration) -> Self {
        Self {
            store,
            replica: replica.into(),
            table: Mutex::new(Table::new(debounce)),
            changed: Notify::new(),
            counts: Counts::default(),
        }
    }

    /// Another debounce from now on, also for those who are away at the moment.
    pub fn set_debounce(&self, debounce: Duration) {
        self.table.lock().debounce = debounce;
        self.changed.notify_one();
    }

    /// A stream of this user begins to follow these topics. An open stream is one, whatever it follows: where it begins
    /// itself, `is_new` is true.
    pub fn begins(&self, user: &Arc<str>, topics: &[Topic], is_new: bool) {
        if self.table.lock().enter(user, topics, is_new) {
            self.changed.notify_one();
        }
    }

    /// A stream of this user no longer follows these topics, and has ended where `is_over` is true.
    pub fn ends(&self, user: &Arc<str>, topics: &[Topic], is_over: bool) {
        if self
            .table
            .lock()
            .exit(user, topics, is_over, Instant::now())
        {
            self.changed.notify_one();
        }
    }

    /// The first users of this replica in their order, and how many there are.
    pub fn users(&self) -> (Vec<Arc<str>>, usize) {
        let mut users: Vec<Arc<str>> = self.table.lock().users().cloned().collect();
        let count = users.len();
        users.sort_unstable();
        users.truncate(LISTED);
        (users, count)
    }

    /// How it fares.
    pub fn stats(&self) -> PresenceStats {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        PresenceStats {
            users: self.table.lock().users().len(),
            joined: count(&self.counts.joined),
            left: count(&self.counts.left),
            failures: count(&self.counts.failures),
        }
    }

    /// Tells the store, until `stop`; then leaves what it has said to the others, who sweep it when the debounce is over.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut teller = Teller {
            presence: self.clone(),
            after: None,
            renew_at: Instant::now(),
            failing: false,
            steady_since: None,
            over: VecDeque::new(),
        };
        let stopped = stop.cancelled();
        tokio::pin!(stopped);
        loop {
            let wait = teller.wait();
            tokio::select! {
                () = wait => {}
                () = &mut stopped => break,
            }
            tokio::select! {
                () = teller.tell() => {}
                () = &mut stopped => break,
            }
        }
        teller.depart().await;
    }

    /// How long the word of this replica counts. Whoever dies has been there up to a renewal ago, and has the debounce, too.
    fn lease(&self) -> Duration {
        LEASE.max(self.table.lock().debounce + RENEWAL)
    }
}

/// The task that tells the store. There is one, so one word is under way at a time.
struct Teller {
    presence: Arc<Presence>,
    after: Option<Mark>,
    renew_at: Instant,
    /// The store did not take the last word: until the next renewal there is no other.
    failing: bool,
    /// Since when the store has taken each word, and lost none.
    steady_since: Option<Instant>,
    /// Replicas that have died and are to be swept.
    over: VecDeque<Arc<str>>,
}

impl Teller {
    /// Waits until there is something to do. After a failure nothing else than time counts.
    async fn wait(&self) {
        loop {
            let changed = self.presence.changed.notified();
            let mut until = self.renew_at;
            if !self.failing {
                let table = self.presence.table.lock();
                if table.has_news() || !self.over.is_empty() {
                    return;
                }
                until = table.next_due().map_or(until, |due| until.min(due));
            }
            tokio::select! {
                () = time::sleep_until(until) => return,
                () = changed => {}
            }
        }
    }

    /// Tells what there is, renews the lease, and sweeps a part of what others left behind.
    async fn tell(&mut self) {
        let presence = self.presence.clone();
        let changes = presence.table.lock().batch(Instant::now());
        if !changes.is_empty() || Instant::now() >= self.renew_at {
            let word = Word {
                replica: presence.replica.clone(),
                lease: presence.lease(),
                after: self.after.clone(),
                changes,
            };
            self.renew_at = Instant::now() + RENEWAL;
            match say(&presence, &word).await {
                Ok(heard) => {
                    self.failing = false;
                    self.after = Some(heard.mark);
                    self.over = heard.over.into();
                    self.stands(heard.standing).await;
                }
                Err(error) => self.failed(&error),
            }
        }
        let steady = self
            .steady_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        if steady < presence.lease() {
            // Whoever seems to be gone may be about to come back as this one did.
            self.over.clear();
        }
        let Some(replica) = self.over.front() else {
            return;
        };
        match presence.store.sweep(replica).await {
            Ok((more, events)) => {
                presence.counts.told(events);
                if !more {
                    tracing::info!(%replica, "the users of a replica that is gone have left");
                    self.over.pop_front();
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &StoreError) {
        let failures = &self.presence.counts.failures;
        failures.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, "the store does not take who is there");
        self.failing = true;
        self.steady_since = None;
        self.over.clear();
        self.renew_at = Instant::now() + AGAIN;
    }

    /// What follows from the fate of the words before.
    async fn stands(&mut self, standing: Standing) {
        let presence = &self.presence;
        match standing {
            Standing::Kept => {
                self.steady_since.get_or_insert_with(Instant::now);
                return;
            }
            Standing::Lost => presence.table.lock().lost(),
            Standing::Doubtful => {
                // What is said there though nobody here knows of it would stay for ever.
                match presence.store.said(&presence.replica).await {
                    Ok(said) => {
                        let mut table = presence.table.lock();
                        table.doubt();
                        table.compare(said);
                    }
                    Err(_) => self.after.iter_mut().for_each(|mark| mark.number = UNKNOWN),
                }
            }
        }
        self.steady_since = None;
    }

    /// Tells what there is to tell. Then the others may take the rest when the debounce is over.
    async fn depart(self) {
        let presence = &self.presence;
        loop {
            let (changes, debounce) = {
                let mut table = presence.table.lock();
                (table.batch(Instant::now()), table.debounce)
            };
            let word = Word {
                replica: presence.replica.clone(),
                lease: debounce,
                after: None,
                changes,
            };
            if say(presence, &word).await.is_err() || word.changes.is_empty() {
                return;
            }
        }
    }
}

/// Says a word. If nobody waits for the answer, it is as if none came.
async fn say(presence: &Presence, word: &Word) -> Result<Heard, StoreError> {
    let mut said = Said {
        presence,
        word,
        arrived: false,
    };
    let heard = presence.store.hear(word).await?;
    said.arrived = true;
    presence.counts.told(heard.events);
    Ok(heard)
}

struct Said<'a> {
    presence: &'a Presence,
    word: &'a Word,
    arrived: bool,
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        let mut table = self.presence.table.lock();
        table.done(&self.word.changes, self.arrived);
    }
}

impl Counts {
    fn told(&self, [joined, left]: [u64; 2]) {
        self.joined.fetch_add(joined, Ordering::Relaxed);
        self.left.fetch_add(left, Ordering::Relaxed);
    }
}
