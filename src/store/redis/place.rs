//! Where the server is that takes writes, and when it is another one.
//!
//! One server that the URL names stays where it is. With Sentinel, or in a cluster, others know: the *guides*. Each of them is
//! asked all the time ([`guide`]), and what they have said last is weighed ([`Council`]).
//!
//! # Invariants
//! 1. Every connection holds the place that it was opened at; it ends when the place is another one ([`Hold::lost`]). An old
//!    master that nobody has told would go on taking writes which are lost later.
//! 2. Guides that are silent take no connection away: it is a newer word that does.
//! 3. What is kept of guides is bounded, whatever they say.
//!
//! Not here: whether the server itself says that it is a master ([`super::link`]).

use std::{
    collections::HashMap,
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
    cluster,
    council::{Asked, Council, Word},
    guide,
    link::{Door, LinkError, role},
    resp::Request,
    url::{Address, Credentials, RedisUrl},
};

/// How long somebody who wants to connect waits for a word of any guide.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long guides are asked more often after a connection has failed.
const DOUBT: Duration = Duration::from_secs(2);
/// How long a change of the server is worth waiting for.
const MOVING: Duration = Duration::from_secs(1);
/// How long other replicas may take to find it, and to tell it what they have seen.
const SETTLING: Duration = Duration::from_secs(3);
/// How long it is waited for a replica that is being made the master, before the old one counts again.
const PROMOTION: Duration = Duration::from_secs(3);
/// How often it is asked.
const PROBE: Duration = Duration::from_millis(20);

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
    pub fn name(&self) -> &'static str {
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

/// Where the server is, and how often it was another one before.
#[derive(Clone, Debug, Default)]
struct Standing {
    number: u64,
    address: Option<Address>,
    /// Where it was when it was last known.
    last: Option<Address>,
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
    /// When the server was last found, or found to be about to be another one.
    moved: Mutex<Option<Instant>>,
    /// When another one took over.
    taken_over: Mutex<Option<Instant>>,
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
        let asked = match via {
            Via::Cluster(_) => Asked::First,
            _ => Asked::All,
        };
        let door = match &via {
            // They have users of their own.
            Via::Sentinel(sentinels) => servers.clone().with(sentinels.credentials.clone()),
            _ => servers.clone(),
        };
        let place = Arc::new(Self {
            council: Mutex::new(Council::new(via.guides().to_vec(), asked)),

            via,
            door,
            servers,
            standing: watch::Sender::new(Standing {
                address,
                ..Standing::default()
            }),
            tasks: Mutex::default(),
            asked: Notify::new(),
            doubt: Mutex::new(Some(Instant::now())),
            moved: Mutex::default(),
            taken_over: Mutex::default(),
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
                    self.weigh(|council, now| council.named(to, now));
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

    /// Whether another server took over, and other replicas may not have found it yet.
    pub(super) fn is_settling(&self) -> bool {
        self.taken_over
            .lock()
            .is_some_and(|at| at.elapsed() < SETTLING)
    }

    /// Whether the server was found a moment ago, or will be another one in a moment: it is worth waiting for.
    pub(super) fn is_moving(&self) -> bool {
        self.moved.lock().is_some_and(|at| at.elapsed() < MOVING)
    }

    /// Whether a replica is being made the master right now.
    pub(super) fn is_promoting(&self) -> bool {
        self.council.lock().promoting().is_some()
    }

    /// A sentinel is about to make this replica the master. Whatever the old one takes from now on may be lost, so nothing
    /// more is written there; the new one is the master as soon as it says so itself, which is up to a second before the
    /// sentinel has seen it.
    pub(super) fn promoting(self: &Arc<Self>, replica: Address) {
        let mut first = false;
        *self.moved.lock() = Some(Instant::now());
        self.weigh(|council, now| first = council.promote(replica.clone(), now));
        if !first {
            return;
        }
        tracing::warn!(%replica, "a replica is being made the master");
        let place = self.clone();
        tokio::spawn(async move {
            let promoted = time::timeout(PROMOTION, place.promoted(&replica));
            let promoted = tokio::select! {
                promoted = promoted => promoted.is_ok(),
                () = place.stop.cancelled() => return,
            };
            place.weigh(|council, now| council.promoted(promoted, now));
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
        if address == before {
            return;
        }
        let leaving = council.promoting().is_some();
        if address.is_some() {
            *self.moved.lock() = Some(now);
        }
        let mut last = None;
        let mut other = false;
        // Inside the lock, so that the newest conclusion is the last one.
        self.standing.send_modify(|standing| {
            standing.address.clone_from(&address);
            other = address.is_some() && address != standing.last;
            if other {
                last = std::mem::replace(&mut standing.last, address.clone());
            }
            // Where nobody knows, or knows again, whoever is connected stays.
            standing.number += u64::from(other || leaving);
        });
        drop(council);
        match (last, address) {
            (Some(from), Some(to)) => {
                self.changes.fetch_add(1, Ordering::Relaxed);
                *self.taken_over.lock() = Some(now);
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
        let nobody = match &self.via {
            Via::Url => return "it is not known where Redis is".into(),
            Via::Sentinel(of) => format!("no sentinel says where the master {:?} is", of.master),
            Via::Cluster(_) => "no node of the cluster says where the keys are".to_owned(),
        };
        if let Some(replica) = council.promoting() {
            return format!("the replica {replica} is being made the master");
        }
        format!("{nobody}: {}", council.why())
    }

    /// What an operator should mend though it works.
    pub(super) fn warnings(&self) -> Vec<String> {
        if !matches!(self.via, Via::Sentinel(_)) {
            return Vec::new();
        }
        self.council.lock().warnings(Instant::now())
    }
}

#[cfg(test)]
mod tests;
