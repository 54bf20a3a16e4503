//! A memory store that fails on purpose, by seed: what the hub is proven against before a real store comes.
//!
//! It keeps the promises of [`super`] as a store does whose connections break: the feed may be late, be cut, have a hole,
//! acknowledged entries may vanish, the log may be born again, calls may be slow or fail. What it never does is let the
//! frontier pass a hole without a sign: behind a hole everything is held back until an entry gives it away, or a
//! [`FeedItem::Cut`] says so.
//!
//! Each fault is switched on in [`Faults`], or ordered once by a call.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use super::{
    Append, AppendError, Appended, Feed, FeedItem, Keep, Listing, Mailbox, Page, Position,
    ReplicaReport, Store, StoreError, StoreStats, TopicPage, TopicSummary,
    memory::MemoryStore,
    presence::{Heard, Presence, Whereabouts, Word},
};
use crate::{
    event::{Event, EventId, Topic},
    log::LostRange,
};

/// Items that are held back behind a hole before the feed says that it was cut.
const HELD: usize = 32;
/// How long they are held back.
const PATIENCE: Duration = Duration::from_millis(100);

/// Which faults happen, and how often: once in so many events or calls, 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The feed is late by up to this, and hands over in batches.
    pub delay: Duration,
    /// A call takes up to this, before or after it is carried out.
    pub slow: Duration,
    /// An entry vanishes from the feed.
    pub holes: u32,
    /// The feed is cut.
    pub cuts: u32,
    /// The newest entries of a topic vanish from the log, though they were acknowledged.
    pub forks: u32,
    /// The whole log vanishes.
    pub resets: u32,
    /// Calls begin to fail.
    pub outages: u32,
    /// They fail for up to this.
    pub outage: Duration,
    /// A word of presence is heard, and its answer is lost.
    pub unanswered: u32,
}

/// What happened to the log.
#[derive(Clone, Debug)]
pub enum Loss {
    /// These events of one topic are gone; if there are none, its end.
    Fork(Topic, Vec<Arc<Event>>),
    /// Everything up to this id is gone.
    Reset(EventId),
}

/// How the feed gives a reset away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It is cut.
    Cut,
    /// By the predecessor of the next entry.
    Entry,
}

/// A small generator of numbers that only depend on the seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as `seed` says.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (`SplitMix64`).
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, or 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.roll() % limit).unwrap_or(0)
    }

    /// True once in `times`; never for 0.
    pub fn once_in(&mut self, times: u32) -> bool {
        times > 0 && self.roll().is_multiple_of(u64::from(times))
    }

    /// A time up to `limit`, in milliseconds.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX - 1);
        Duration::from_millis(self.roll() % (limit + 1))
    }
}

/// A memory store with faults; cheap to clone.
#[derive(Clone)]
pub struct FaultyStore {
    shared: Arc<Shared>,
}

struct Shared {
    inner: MemoryStore,
    state: Mutex<State>,
    ordered: Notify,
}

struct State {
    faults: Faults,
    dice: Dice,
    away_until: Option<Instant>,
    orders: VecDeque<Order>,
    losses: Vec<(Instant, Loss)>,
    settling: bool,
}

/// What the feed has to do next.
enum Order {
    Cut,
    Hole(Topic),
    Reborn(EventId),
}

impl FaultyStore {
    /// `inner` with the given faults.
    pub fn new(inner: MemoryStore, faults: Faults, seed: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner,
                state: Mutex::new(State {
                    faults,
                    dice: Dice::new(seed),
                    away_until: None,
                    orders: VecDeque::new(),
                    losses: Vec::new(),
                    settling: false,
                }),
                ordered: Notify::new(),
            }),
        }
    }

    /// Changes the faults from now on. Without any, the store is well again.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.shared.state.lock();
        state.faults = faults;
        state.away_until = None;
    }

    /// Cuts the feed.
    pub fn cut(&self) {
        self.shared.order(Order::Cut);
    }

    /// The next entry of `topic` vanishes from the feed.
    pub fn hole(&self, topic: &Topic) {
        self.shared.order(Order::Hole(topic.clone()));
    }

    /// Calls fail for so long.
    pub fn go_away(&self, outage: Duration) {
        self.shared.state.lock().away_until = Some(Instant::now() + outage);
    }

    /// The newest entries of `topic`, at most `count`, vanish from the log, and the feed is cut. Returns what is gone.
    pub fn fork(&self, topic: &Topic, count: usize) -> Vec<Arc<Event>> {
        self.shared.fork(topic, count)
    }

    /// The log vanishes and is born again.
    pub fn reset(&self, sign: Sign) {
        self.shared.reset(sign);
    }

    /// Whether it says that it has just moved to another server.
    pub fn settle(&self, settling: bool) {
        self.shared.state.lock().settling = settling;
    }

    /// What the log has lost so far, and when.
    pub fn losses(&self) -> Vec<(Instant, Loss)> {
        self.shared.state.lock().losses.clone()
    }
}

impl Shared {
    fn order(&self, order: Order) {
        self.state.lock().orders.push_back(order);
        self.ordered.notify_one();
    }

    fn fork(&self, topic: &Topic, count: usize) -> Vec<Arc<Event>> {
        let lost = self.inner.lose(topic, count);
        if let Some(lost) = &lost {
            let fork = Loss::Fork(topic.clone(), lost.clone());
            self.state.lock().losses.push((Instant::now(), fork));
        }
        self.order(Order::Cut);
        lost.unwrap_or_default()
    }

    fn reset(&self, sign: Sign) {
        let born = self.inner.flush();
        let loss = Loss::Reset(born);
        self.state.lock().losses.push((Instant::now(), loss));
        self.order(match sign {
            Sign::Cut => Order::Cut,
            Sign::Entry => Order::Reborn(born),
        });
    }

    /// What happens to a call: how long it takes before and after, or that it is refused.
    fn call(&self) -> Result<(Duration, Duration), StoreError> {
        let mut state = self.state.lock();
        let State {
            faults,
            dice,
            away_until,
            ..
        } = &mut *state;
        if dice.once_in(faults.outages) {
            *away_until = Some(Instant::now() + dice.up_to(faults.outage));
        }
        if away_until.is_some_and(|until| Instant::now() < until) {
            return Err(StoreError::Unavailable("it fails on purpose".into()));
        }
        let slow = dice.up_to(faults.slow);
        Ok(if dice.once_in(2) {
            (slow, Duration::ZERO)
        } else {
            (Duration::ZERO, slow)
        })
    }

    /// As [`Self::carry_out`], but the answer may be lost.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = self.carry_out(call).await??;
        let State { faults, dice, .. } = &mut *self.state.lock();
        if dice.once_in(faults.unanswered) {
            return Err(StoreError::Timeout);
        }
        Ok(answer)
    }

    async fn carry_out<T>(&self, call: impl Future<Output = T>) -> Result<T, StoreError> {
        let (before, after) = self.call()?;
        pause(before).await;
        let answer = call.await;
        pause(after).await;
        Ok(answer)
    }
}

/// Sleeps, but not for nothing: a timer is a millisecond at the least.
async fn pause(time: Duration) {
    if !time.is_zero() {
        time::sleep(time).await;
    }
}

impl Store for FaultyStore {
    fn append(&self, batch: Vec<Append>) -> BoxFuture<'_, Vec<Result<Appended, AppendError>>> {
        async move {
            let items = batch.len();
            match self.shared.carry_out(self.shared.inner.append(batch)).await {
                Ok(answers) => answers,
                Err(error) => vec![Err(error.into()); items],
            }
        }
        .boxed()
    }

    fn position<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<Position, StoreError>> {
        // The inner call is made when it is its turn: a slow one must not answer with what was true before it began.
        self.shared
            .carry_out(async { self.shared.inner.position(topics).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn read<'a>(
        &'a self,
        topic: &'a Topic,
        after: EventId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        self.shared
            .carry_out(async move { self.shared.inner.read(topic, after, limit).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn newest<'a>(
        &'a self,
        topic: &'a Topic,
        count: usize,
    ) -> BoxFuture<'a, Result<Vec<EventId>, StoreError>> {
        self.shared
            .carry_out(async move { self.shared.inner.newest(topic, count).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn join(&self, topics: Vec<Topic>, seen: EventId) {
        self.shared.inner.join(topics, seen);
    }

    fn leave(&self, topics: Vec<Topic>) {
        self.shared.inner.leave(topics);
    }

    fn record_lost<'a>(
        &'a self,
        topic: &'a Topic,
        range: LostRange,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.shared
            .carry_out(async move { self.shared.inner.record_lost(topic, range).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn delete<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<usize, StoreError>> {
        self.shared
            .carry_out(async { self.shared.inner.delete(topic).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn summary<'a>(
        &'a self,
        topic: &'a Topic,
    ) -> BoxFuture<'a, Result<Option<TopicSummary>, StoreError>> {
        self.shared
            .carry_out(async { self.shared.inner.summary(topic).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn topics<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<TopicPage, StoreError>> {
        self.shared
            .carry_out(async { self.shared.inner.topics(listing).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn find<'a>(
        &'a self,
        id: EventId,
        topic: Option<&'a Topic>,
    ) -> BoxFuture<'a, Result<Option<Arc<Event>>, StoreError>> {
        self.shared
            .carry_out(async move { self.shared.inner.find(id, topic).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn announce<'a>(&'a self, report: &'a ReplicaReport) -> BoxFuture<'a, Result<(), StoreError>> {
        self.shared.inner.announce(report)
    }

    fn retire<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.shared.inner.retire(id)
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaReport>, StoreError>> {
        self.shared.inner.replicas()
    }

    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        self.shared
            .carry_out(async { self.shared.inner.secret().await })
            .map(|answer| answer?)
            .boxed()
    }

    fn claim<'a>(
        &'a self,
        name: &'a str,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.shared
            .carry_out(async move { self.shared.inner.claim(name, lasts).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn mailbox(&self, replica: &str) -> Mailbox {
        self.shared.inner.mailbox(replica)
    }

    fn send<'a>(
        &'a self,
        replica: &'a str,
        letter: &'a str,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.shared
            .carry_out(async move { self.shared.inner.send(replica, letter).await })
            .map(|answer| answer?)
            .boxed()
    }

    fn hear<'a>(&'a self, word: &'a Word) -> BoxFuture<'a, Result<Heard, StoreError>> {
        self.shared
            .answer(async move { self.shared.inner.hear(word).await })
            .boxed()
    }

    fn sweep<'a>(
        &'a self,
        replica: &'a Arc<str>,
    ) -> BoxFuture<'a, Result<(bool, [u64; 2]), StoreError>> {
        self.shared
            .answer(async move { self.shared.inner.sweep(replica).await })
            .boxed()
    }

    fn said<'a>(&'a self, replica: &'a str) -> BoxFuture<'a, Result<Vec<Whereabouts>, StoreError>> {
        self.shared
            .answer(async move { self.shared.inner.said(replica).await })
            .boxed()
    }

    fn present<'a>(
        &'a self,
        places: &'a [Option<Topic>],
    ) -> BoxFuture<'a, Result<Presence, StoreError>> {
        self.shared
            .answer(async move { self.shared.inner.present(places).await })
            .boxed()
    }

    fn retain(&self, keep: Keep) {
        self.shared.inner.retain(keep);
    }

    fn feed(&self) -> Box<dyn Feed> {
        Box::new(FaultyFeed {
            inner: self.shared.inner.feed(),
            shared: self.shared.clone(),
            live: HashSet::new(),
            fed: HashSet::new(),
            doomed: HashSet::new(),
            pulled: Vec::new(),
            ready: VecDeque::new(),
            due: None,
            hold: None,
        })
    }

    fn tidy(&self) {
        self.shared.inner.tidy();
    }

    fn ping(&self) -> BoxFuture<'_, Result<Duration, StoreError>> {
        self.shared
            .carry_out(async { self.shared.inner.ping().await })
            .map(|answer| answer?)
            .boxed()
    }

    fn settling(&self) -> bool {
        self.shared.state.lock().settling
    }

    fn stats(&self) -> StoreStats {
        self.shared.inner.stats()
    }

    fn kind(&self) -> &'static str {
        "faulty"
    }
}

struct FaultyFeed {
    inner: Box<dyn Feed>,
    shared: Arc<Shared>,
    /// Topics that were joined since the last cut.
    live: HashSet<Topic>,
    /// Topics of which the reader knows an entry.
    fed: HashSet<Topic>,
    /// Topics whose next entry was ordered to vanish.
    doomed: HashSet<Topic>,
    pulled: Vec<FeedItem>,
    ready: VecDeque<FeedItem>,
    /// When the next of them are handed over.
    due: Option<Instant>,
    hold: Option<Hold>,
}

/// What waits behind a hole.
struct Hold {
    behind: Behind,
    items: Vec<FeedItem>,
    until: Instant,
}

enum Behind {
    /// Entries of this topic vanished; its next one gives it away.
    Hole(Topic),
    /// The log was born again at this id; any entry of a topic that the reader knows gives it away.
    Reborn(EventId),
}

impl FaultyFeed {
    fn obey(&mut self) {
        loop {
            let order = self.shared.state.lock().orders.pop_front();
            match order {
                None => return,
                Some(Order::Cut) => self.cut(),
                Some(Order::Hole(topic)) => {
                    self.doomed.insert(topic);
                }
                Some(Order::Reborn(born)) => {
                    // What is in the queue from before belongs to the log that is gone.
                    self.pull_now();
                    if self.hold.is_some() {
                        self.cut();
                    } else {
                        self.hold_back(Behind::Reborn(born));
                        self.take_pulled();
                    }
                }
            }
        }
    }

    fn pull_now(&mut self) {
        let _ = self.inner.next(&mut self.pulled).now_or_never();
    }

    /// Everything is dropped from here on until topics are joined again.
    fn cut(&mut self) {
        self.pull_now();
        self.pulled.clear();
        self.hold = None;
        self.live.clear();
        self.fed.clear();
        self.doomed.clear();
        self.ready.push_back(FeedItem::Cut);
    }

    fn hold_back(&mut self, behind: Behind) {
        self.hold = Some(Hold {
            behind,
            items: Vec::new(),
            until: Instant::now() + PATIENCE,
        });
    }

    fn take_pulled(&mut self) {
        for item in std::mem::take(&mut self.pulled) {
            if !self.take(item) {
                self.cut();
                return;
            }
        }
    }

    /// Takes one item over from the store below. Returns whether the feed lives on.
    fn take(&mut self, item: FeedItem) -> bool {
        match item {
            FeedItem::Event(event, at) => self.take_event(event, at),
            FeedItem::Joined(topics, position) => {
                match self.hold.as_ref().map(|hold| &hold.behind) {
                    Some(Behind::Hole(hole)) if topics.contains(hole) => return false,
                    Some(Behind::Reborn(born)) if position.born == *born => return false,
                    _ => {}
                }
                self.live.extend(topics.iter().cloned());
                for (topic, stand) in topics.iter().zip(&position.topics) {
                    if stand.last.is_some() {
                        self.fed.insert(topic.clone());
                    } else {
                        self.fed.remove(topic);
                    }
                }
                self.hand_on(FeedItem::Joined(topics, position))
            }
            item => self.hand_on(item),
        }
    }

    fn take_event(&mut self, event: Arc<Event>, at: Instant) -> bool {
        if !self.live.contains(&event.topic) {
            return self.hand_on(FeedItem::Frontier(event.id));
        }
        let gives_away = self.hold.as_ref().is_some_and(|hold| match &hold.behind {
            Behind::Hole(topic) => *topic == event.topic,
            Behind::Reborn(born) => event.id > *born && self.fed.contains(&event.topic),
        });
        if gives_away && let Some(hold) = self.hold.take() {
            if matches!(hold.behind, Behind::Reborn(_)) {
                self.fed.clear();
            }
            self.fed.insert(event.topic.clone());
            self.ready.push_back(FeedItem::Event(event, at));
            self.ready.extend(hold.items);
            return true;
        }
        let (hole, cut, fork, reset) = {
            let mut state = self.shared.state.lock();
            let State { faults, dice, .. } = &mut *state;
            let hole = dice.once_in(faults.holes);
            let cut = dice.once_in(faults.cuts);
            let fork = dice.once_in(faults.forks).then(|| 1 + dice.below(4));
            let reset = dice.once_in(faults.resets).then(|| {
                if dice.once_in(2) {
                    Sign::Cut
                } else {
                    Sign::Entry
                }
            });
            (hole, cut, fork, reset)
        };
        if let Some(count) = fork {
            self.shared.fork(&event.topic, count);
        } else if let Some(sign) = reset {
            self.shared.reset(sign);
        }
        if cut {
            return false;
        }
        if self.hold.is_none() && (hole || self.doomed.remove(&event.topic)) {
            self.hold_back(Behind::Hole(event.topic.clone()));
            return true;
        }
        self.fed.insert(event.topic.clone());
        self.hand_on(FeedItem::Event(event, at))
    }

    fn hand_on(&mut self, item: FeedItem) -> bool {
        match &mut self.hold {
            Some(hold) if !hold.lets_pass(&item) => {
                hold.items.push(item);
                hold.items.len() <= HELD
            }
            _ => {
                self.ready.push_back(item);
                true
            }
        }
    }
}

impl Hold {
    /// Items of the log that is gone may still come after it was born again.
    fn lets_pass(&self, item: &FeedItem) -> bool {
        let Behind::Reborn(born) = &self.behind else {
            return false;
        };
        match item {
            FeedItem::Event(event, _) => event.id < *born,
            FeedItem::Frontier(id) | FeedItem::Trimmed(_, id) => id < born,
            FeedItem::Lost(_, range) => range.through < *born,
            FeedItem::Joined(_, position) => position.born < *born,
            FeedItem::Cut => true,
        }
    }
}

impl Feed for FaultyFeed {
    // Everything that was taken over stands in `self`, so that a call may be dropped at any time.
    fn next<'a>(&'a mut self, items: &'a mut Vec<FeedItem>) -> BoxFuture<'a, ()> {
        async move {
            loop {
                self.obey();
                if !self.ready.is_empty() {
                    let due = *self.due.get_or_insert_with(|| {
                        let mut state = self.shared.state.lock();
                        let delay = state.faults.delay;
                        Instant::now() + state.dice.up_to(delay)
                    });
                    if Instant::now() < due {
                        time::sleep_until(due).await;
                    }
                    self.due = None;
                    let mut state = self.shared.state.lock();
                    let all = self.ready.len();
                    let batch = if state.faults.delay.is_zero() {
                        all
                    } else {
                        1 + state.dice.below(all)
                    };
                    items.extend(self.ready.drain(..batch));
                    return;
                }
                let until = self.hold.as_ref().map(|hold| hold.until);
                tokio::select! {
                    biased;
                    () = self.shared.ordered.notified() => {}
                    () = self.inner.next(&mut self.pulled) => {}
                    () = time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                        self.cut();
                    }
                }
                self.take_pulled();
            }
        }
        .boxed()
    }
}
