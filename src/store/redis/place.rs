//! Where the server is that takes writes, and when it is another one.
//!
//! One server that the URL names stays where it is. With Sentinel, or in a cluster, others know: the *guides*. Each of them is
//! asked all the time ([`guide`]), and what they say last is weighed here ([`Council`]): guides may be cut off, and a stale one
//! names a server that clients must not write to. So not the first answer counts but the newest, by the epoch that sentinels
//! and clusters number their decisions with.
//!
//! # Invariants
//! 1. Every connection holds the place that it was opened at; it ends when the place is another one ([`Hold::lost`]). An old
//!    master that nobody has told would go on taking writes which are lost later.
//! 2. Guides that are silent take no connection away: it is a newer word that does.
//! 3. What is kept of guides is bounded, whatever they say.
//!
//! Not here: whether the server itself says that it is a master ([`super::link`]).

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    cluster, guide,
    link::{Door, LinkError, role},
    resp::Request,
    url::{Address, Credentials, RedisUrl},
};

/// How long somebody who wants to connect waits for a word of any guide.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the word of a guide counts that has fallen silent.
const COUNTS: Duration = Duration::from_secs(10);
/// How long the first word waits for those of the others.
const OTHERS: Duration = Duration::from_millis(200);
/// How long a server counts that another one has named, against what guides say: they may not know yet.
const PINNED: Duration = Duration::from_secs(2);
/// How long guides are asked more often after a connection has failed.
const DOUBT: Duration = Duration::from_secs(2);
/// How long a change of the server is worth waiting for.
const MOVING: Duration = Duration::from_secs(1);
/// How long it is waited for a replica that is being made the master, before the old one counts again.
const PROMOTION: Duration = Duration::from_secs(3);
/// How often it is asked.
const PROBE: Duration = Duration::from_millis(20);
/// Guides that are asked at a time.
const GUIDES: usize = 16;
/// The same in a cluster, whose nodes have more to do than to be asked, and more to say.
const NODES: usize = 6;

/// Who says where the server is that takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// The URL.
    Url,
    /// Sentinels.
    Sentinel(Sentinels),
    /// Nodes of a cluster.
    Cluster(Vec<Address>),
}

/// Sentinels, and what they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// Some of them; the others are learnt.
    pub nodes: Vec<Address>,
    /// The name by which they know the master.
    pub master: String,
    /// Who asks.
    pub credentials: Credentials,
}

impl Via {
    /// The word for it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Sentinel(_) => "sentinel",
            Self::Cluster(_) => "cluster",
        }
    }

    fn guides(&self) -> &[Address] {
        match self {
            Self::Url => &[],
            Self::Sentinel(sentinels) => &sentinels.nodes,
            Self::Cluster(nodes) => nodes,
        }
    }
}

/// What a guide says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// The server that takes writes; none: it knows of none.
    pub(super) master: Option<Address>,
    /// The number of the decision that made it the master; 0: not known.
    pub(super) epoch: u64,
    /// Others that can be asked, those that will know first before the rest.
    pub(super) guides: Vec<Address>,
    /// All masters of a cluster.
    pub(super) masters: Vec<Address>,
}

/// Where the server is, and how often it was another one before.
#[derive(Clone, Debug, Default)]
struct Standing {
    number: u64,
    address: Option<Address>,
}

/// The place of a connection.
#[derive(Debug)]
pub(super) struct Hold {
    standing: watch::Receiver<Standing>,
    number: u64,
}

impl Hold {
    /// Waits until the server is another one, or has to be found again.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn lost(&mut self) {
        let number = self.number;
        let lost = self.standing.wait_for(|it| it.number != number);
        if lost.await.map(drop).is_err() {
            // The store has ended, and with it its connections.
            std::future::pending::<()>().await;
        }
    }
}

/// Where the server is that takes writes.
pub(super) struct Place {
    via: Via,
    /// The way to the guides.
    pub(super) door: Door,
    /// The way to the servers.
    servers: Door,
    standing: watch::Sender<Standing>,
    council: Mutex<Council>,
    tasks: Mutex<HashMap<Address, CancellationToken>>,
    /// Guides are to be asked now.
    pub(super) asked: Notify,
    doubt: Mutex<Option<Instant>>,
    /// When the server was last found to be, or about to be, another one.
    moved: Mutex<Option<Instant>>,
    changes: AtomicU64,
    /// The masters of a cluster, as they change.
    pub(super) masters: watch::Sender<Vec<Address>>,
    stop: CancellationToken,
}

impl Place {
    /// The server of the URL, or one that guides name. They are asked from now on.
    pub(super) fn new(
        via: Via,
        url: &RedisUrl,
        servers: Door,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let address = (via == Via::Url).then(|| url.address());
        let door = match &via {
            // They have users of their own.
            Via::Sentinel(sentinels) => servers.clone().with(sentinels.credentials.clone()),
            _ => servers.clone(),
        };
        let place = Arc::new(Self {
            council: Mutex::new(Council::new(
                via.guides().to_vec(),
                match via {
                    Via::Cluster(_) => NODES,
                    _ => GUIDES,
                },
            )),
            via,
            door,
            servers,
            standing: watch::Sender::new(Standing { number: 0, address }),
            tasks: Mutex::default(),
            asked: Notify::new(),
            doubt: Mutex::new(Some(Instant::now())),
            moved: Mutex::default(),
            changes: AtomicU64::new(0),
            masters: watch::Sender::default(),
            stop,
        });
        place.clone().send_for_guides();
        place
    }

    /// Who is asked, and for what.
    pub(super) fn via(&self) -> &Via {
        &self.via
    }

    /// Where the server is, as far as is known.
    pub(super) fn address(&self) -> Option<Address> {
        self.standing.borrow().address.clone()
    }

    /// How often it was found to be another one.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Where to connect to.
    ///
    /// # Errors
    /// When no guide has said it within a second; what each of them said instead is told.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub(super) async fn find(&self) -> Result<(Address, Hold), LinkError> {
        let mut standing = self.standing.subscribe();
        let found = time::timeout(PATIENCE, standing.wait_for(|it| it.address.is_some())).await;
        let Ok(Ok(found)) = found.map(|it| it.map(|it| it.clone())) else {
            return Err(LinkError::NoMaster(self.why().into()));
        };
        let address = found.address.ok_or(LinkError::Closed)?;
        let number = found.number;
        Ok((address, Hold { standing, number }))
    }

    /// The place as it is now: whoever has to wait before it connects again need not wait any longer when that is lost.
    pub(super) fn mark(&self) -> Hold {
        let standing = self.standing.subscribe();
        let number = standing.borrow().number;
        Hold { standing, number }
    }

    /// A connection could not be opened, or has ended: it is asked whether the server is still the same.
    pub(super) fn failed(&self, error: &LinkError) {
        match error {
            LinkError::Elsewhere => return,
            LinkError::Refused(text) if matches!(self.via, Via::Cluster(_)) => {
                let current = self.address();
                if let Some(to) = cluster::moved(text, current.as_ref()) {
                    self.weigh(|council, now| council.pin(to, now));
                }
            }
            _ => {}
        }
        if self.via != Via::Url {
            *self.doubt.lock() = Some(Instant::now());
            self.asked.notify_waiters();
        }
    }

    /// Whether guides are to be asked more often than usual.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubt.lock().is_some_and(|at| at.elapsed() < DOUBT)
    }

    /// Whether the server is another one since a moment ago, or will be in a moment: it is worth waiting for.
    pub(super) fn is_moving(&self) -> bool {
        self.moved.lock().is_some_and(|at| at.elapsed() < MOVING)
    }

    /// A sentinel is about to make this replica the master. Whatever the old one takes from now on may be lost, so nothing
    /// more is written there; the new one is the master as soon as it says so itself, which is up to a second before the
    /// sentinel has seen it.
    pub(super) fn promoting(self: &Arc<Self>, replica: Address) {
        let begun = self.council.lock().promoting.is_some();
        if begun {
            return;
        }
        tracing::warn!(%replica, "a replica is being made the master");
        *self.moved.lock() = Some(Instant::now());
        self.weigh(|council, now| council.promoting = Some((replica.clone(), now)));
        let place = self.clone();
        tokio::spawn(async move {
            let promoted = time::timeout(PROMOTION, place.promoted(&replica));
            let promoted = tokio::select! {
                promoted = promoted => promoted.is_ok(),
                () = place.stop.cancelled() => return,
            };
            place.weigh(|council, now| {
                council.promoting = None;
                if promoted {
                    council.pin(replica, now);
                }
            });
        });
    }

    /// Waits until this server says that it is a master.
    async fn promoted(&self, replica: &Address) {
        loop {
            let asking = async {
                let mut link = self.servers.open(replica).await?;
                let mut about = self.servers.hello(&mut link, "promotion").await?;
                // It ends its connections when it becomes the master, and may be slow to take new ones.
                while role(&about) != Some("master") {
                    time::sleep(PROBE).await;
                    about = link.ask(&Request::new("HELLO")).await?;
                }
                Ok::<_, LinkError>(())
            };
            if asking.await.is_ok() {
                return;
            }
            time::sleep(PROBE).await;
        }
    }

    /// What a guide says now, or why it says nothing.
    pub(super) fn heard(self: &Arc<Self>, guide: &Address, word: Result<Word, String>) {
        if let Ok(word) = &word
            && !word.masters.is_empty()
        {
            self.masters.send_if_modified(|masters| {
                let other = *masters != word.masters;
                masters.clone_from(&word.masters);
                other
            });
        }
        let heard = word.is_ok();
        self.weigh(|council, now| council.heard(guide, word, now));
        if heard {
            self.clone().send_for_guides();
        }
    }

    /// Changes what is known, and draws the conclusion.
    fn weigh(&self, change: impl FnOnce(&mut Council, Instant)) {
        let now = Instant::now();
        let mut council = self.council.lock();
        change(&mut council, now);
        let before = self.address();
        let address = council.decide(before.as_ref(), now);
        let leaving = council.promoting.is_some() && before.is_some();
        if address == before {
            return;
        }
        let other = address.is_some() && address != council.last;
        let last = if other {
            std::mem::replace(&mut council.last, address.clone())
        } else {
            None
        };
        // Inside the lock, so that the newest conclusion is the last one.
        self.standing.send_modify(|standing| {
            standing.address.clone_from(&address);
            // Where nobody knows, or knows again, whoever is connected stays.
            standing.number += u64::from(other || leaving);
        });
        drop(council);
        if other {
            *self.moved.lock() = Some(now);
        }
        match (last, address) {
            (Some(from), Some(to)) => {
                self.changes.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%from, %to, "the master is another server: all connections go there");
            }
            (None, Some(master)) if other => {
                tracing::info!(%master, via = self.via.name(), "the master is found");
            }
            _ => {}
        }
    }

    /// Sees to it that each guide that is to be asked has its task, and none of the others.
    fn send_for_guides(self: Arc<Self>) {
        let wanted = self.council.lock().wanted(Instant::now());
        let mut tasks = self.tasks.lock();
        tasks.retain(|guide, task| {
            let keep = wanted.contains(guide);
            if !keep {
                task.cancel();
            }
            keep
        });
        for guide in wanted {
            tasks.entry(guide).or_insert_with_key(|guide| {
                let stop = self.stop.child_token();
                tokio::spawn(guide::run(self.clone(), guide.clone(), stop.clone()));
                stop
            });
        }
    }

    /// Why nobody knows where the server is.
    fn why(&self) -> String {
        let council = self.council.lock();
        let mut why = match &self.via {
            Via::Url => return "it is not known where Redis is".into(),
            Via::Sentinel(of) => format!("no sentinel says where the master {:?} is", of.master),
            Via::Cluster(_) => "no node of the cluster says where the keys are".to_owned(),
        };
        if let Some((replica, _)) = &council.promoting {
            return format!("the replica {replica} is being made the master");
        }
        let mut between = ": ";
        for guide in &council.configured {
            let said = council.said.get(guide).and_then(|it| it.silent.as_deref());
            let _ = write!(why, "{between}{guide}: {}", said.unwrap_or("no answer yet"));
            between = "; ";
        }
        why
    }

    /// What an operator should mend though it works.
    pub(super) fn warnings(&self) -> Vec<String> {
        if !matches!(self.via, Via::Sentinel(_)) {
            return Vec::new();
        }
        self.council.lock().warnings(Instant::now())
    }
}

/// What all guides have said, and what follows from it.
#[derive(Debug)]
struct Council {
    configured: Vec<Address>,
    /// How many are asked at a time, as soon as any has answered.
    limit: usize,
    said: BTreeMap<Address, Said>,
    /// The server that another one has named.
    pinned: Option<(Address, Instant)>,
    /// The replica that a sentinel is making the master.
    promoting: Option<(Address, Instant)>,
    /// When the first word came since none counted.
    first: Option<Instant>,
    /// Since when those that count have named more than one server.
    differ: Option<Instant>,
    /// The last conclusion.
    last: Option<Address>,
}

#[derive(Debug, Default)]
struct Said {
    word: Option<(Word, Instant)>,
    /// Why it says nothing now.
    silent: Option<String>,
    since: Option<Instant>,
}

impl Council {
    fn new(configured: Vec<Address>, limit: usize) -> Self {
        Self {
            configured,
            limit,
            said: BTreeMap::new(),
            pinned: None,
            promoting: None,
            first: None,
            differ: None,
            last: None,
        }
    }

    fn heard(&mut self, guide: &Address, word: Result<Word, String>, now: Instant) {
        let said = self.said.entry(guide.clone()).or_default();
        match word {
            Ok(word) => {
                *said = Said {
                    word: Some((word, now)),
                    ..Said::default()
                };
            }
            Err(why) => {
                said.silent = Some(why);
                said.since.get_or_insert(now);
            }
        }
    }

    /// A server says that another one has the keys. It was asked after everything that was said so far.
    fn pin(&mut self, to: Address, now: Instant) {
        for said in self.said.values_mut() {
            said.word = None;
        }
        self.pinned = Some((to, now));
    }

    /// What was said and counts: the servers, with the epoch and how many name it.
    fn candidates(&self, now: Instant) -> BTreeMap<(u64, &Address), usize> {
        let mut candidates = BTreeMap::new();
        for (word, at) in self.said.values().filter_map(|it| it.word.as_ref()) {
            if let Some(master) = &word.master
                && now.duration_since(*at) < COUNTS
            {
                *candidates.entry((word.epoch, master)).or_default() += 1;
            }
        }
        candidates
    }

    /// Where the server is. The newest decision counts; where it has no number, what most of them say; where that leaves it
    /// open, nothing changes.
    fn decide(&mut self, current: Option<&Address>, now: Instant) -> Option<Address> {
        if let Some((to, at)) = &self.pinned {
            if now.duration_since(*at) < PINNED {
                return Some(to.clone());
            }
            self.pinned = None;
        }
        if let Some((replica, at)) = &self.promoting {
            // The only news can be that it is done, as one of them sees it.
            let seen = self.said.values().filter_map(|it| it.word.as_ref());
            let done =
                |(word, told): &(Word, Instant)| told > at && word.master.as_ref() == Some(replica);
            return seen.into_iter().any(done).then(|| replica.clone());
        }
        let candidates = self.candidates(now);
        let Some(&(newest, _)) = candidates.keys().next_back() else {
            self.first = None;
            return None;
        };
        let best = candidates
            .iter()
            .filter(|((epoch, _), _)| *epoch == newest)
            .max_by_key(|((_, master), votes)| (**votes, Some(*master) == current, *master))
            .map(|((_, master), _)| (*master).clone());
        let disagree = candidates
            .keys()
            .any(|(_, master)| Some(*master) != best.as_ref());
        let since = self.differ.filter(|_| disagree).or(disagree.then_some(now));
        let first = *self.first.get_or_insert(now);
        // A stale guide may be the first to answer.
        let told = |guide: &Address| {
            self.said
                .get(guide)
                .is_some_and(|it| it.word.is_some() || it.silent.is_some())
        };
        let wait = current.is_none()
            && now.duration_since(first) < OTHERS
            && !self.configured.iter().all(told);
        self.differ = since;
        best.filter(|_| !wait)
    }

    /// Who is to be asked.
    fn wanted(&mut self, now: Instant) -> Vec<Address> {
        let mut newest: Vec<&(Word, Instant)> = self
            .said
            .values()
            .filter_map(|it| it.word.as_ref())
            .collect();
        newest.retain(|(_, at)| now.duration_since(*at) < COUNTS);
        newest.sort_by_key(|(word, at)| std::cmp::Reverse((word.epoch, *at)));
        let learnt = newest.iter().flat_map(|(word, _)| &word.guides);
        let limit = if newest.is_empty() {
            GUIDES.max(self.configured.len())
        } else {
            self.limit
        };
        let mut wanted: Vec<Address> = Vec::new();
        let all: Vec<&Address> = if self.limit == NODES {
            // Those that will know first.
            learnt.chain(&self.configured).collect()
        } else {
            self.configured.iter().chain(learnt).collect()
        };
        for guide in all {
            if wanted.len() < limit && !wanted.contains(guide) {
                wanted.push(guide.clone());
            }
        }
        self.said.retain(|guide, _| wanted.contains(guide));
        wanted
    }

    fn warnings(&self, now: Instant) -> Vec<String> {
        let long =
            |since: &Option<Instant>| since.is_some_and(|at| now.duration_since(at) >= COUNTS);
        let mut warnings = Vec::new();
        for guide in &self.configured {
            if let Some(said) = self.said.get(guide)
                && let Some(why) = &said.silent
                && long(&said.since)
            {
                warnings.push(format!("the sentinel {guide} is of no use: {why}"));
            }
        }
        if long(&self.differ) {
            warnings.push("the sentinels name different servers as the master: the newest decision is followed, see SENTINEL MASTER on each of them".into());
        }
        warnings
    }
}
