//! The open streams of this replica, and the scope of each: what has to happen exactly once when it ends.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::SystemTime,
};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use slab::Slab;
use smallvec::SmallVec;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    app::unix_ms,
    closed::{ClosedStream, ClosedStreams, subject},
    survey::Answer,
};
use crate::{
    auth::Identity,
    event::Topic,
    layers::rate::Key,
    presence::Presence,
    telemetry::{CloseReason, Metrics},
};

/// All open streams.
pub struct Streams {
    open: Mutex<Slab<Arc<StreamHandle>>>,
    /// How many of them each address and each subject has, where that is limited.
    callers: [Mutex<HashMap<Key, usize>>; 2],
    count: AtomicUsize,
    next: AtomicU64,
    closes: AtomicU32,
    surveys: AtomicU32,
    closed: ClosedStreams,
    /// Who they belong to, where that is told.
    presence: Option<Arc<Presence>>,
    replica: String,
    emptied: Notify,
    metrics: Arc<Metrics>,
}

/// How others reach an open stream.
pub struct StreamHandle {
    /// What asked for it.
    pub request: StreamRequest,
    /// What it follows.
    topics: Mutex<Topics>,
    number: u64,
    /// When it began, in Unix milliseconds.
    pub opened_ms: u64,
    /// Where it stands, for operators.
    pub(crate) answer: Answer,
    close: AtomicU8,
    waker: Mutex<Option<Waker>>,
    /// The tick at which its body was last asked for more; only where an HTTP library writes for it.
    pub polled_at: AtomicU64,
    /// What whoever asked has proved to be; a renewal puts another one in its place.
    identity: Mutex<Arc<Identity>>,
    /// Ends the connection of a body that is not asked any more.
    pub kill: Option<CancellationToken>,
    /// Written by us, so that we see for ourselves whether it is stuck.
    pub owned: AtomicBool,
}

impl StreamHandle {
    /// The number of its connection, in the order in which they began.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// What it follows.
    pub(crate) fn topics(&self) -> Topics {
        self.topics.lock().clone()
    }

    /// Whether it follows this topic.
    pub(crate) fn follows(&self, topic: &Topic) -> bool {
        self.topics.lock().contains(topic)
    }

    /// Why it was asked to end.
    pub fn closing(&self) -> Option<CloseReason> {
        let asked = self.close.load(Ordering::Acquire);
        CloseReason::ALL
            .into_iter()
            .find(|reason| *reason as u8 == asked)
    }

    /// When its token ends.
    pub fn expires(&self) -> Option<SystemTime> {
        self.identity.lock().expires()
    }

    /// What whoever asked has proved to be.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        self.identity.lock().clone()
    }

    /// Makes the stream look around.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// Where the stream is woken.
    pub fn wake_here(&self, waker: &Waker) {
        let mut slot = self.waker.lock();
        match &mut *slot {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

impl Streams {
    /// No streams yet, on the replica named `replica`.
    pub fn new(replica: String, metrics: Arc<Metrics>, presence: Option<Arc<Presence>>) -> Self {
        Self {
            open: Mutex::default(),
            callers: Default::default(),
            count: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            closes: AtomicU32::new(0),
            surveys: AtomicU32::new(0),
            closed: ClosedStreams::default(),
            presence,
            replica,
            emptied: Notify::new(),
            metrics,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Of how many callers the streams are counted.
    pub(crate) fn limited_callers(&self) -> usize {
        self.callers.iter().map(|counts| counts.lock().len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A place for one stream more, unless there are `limit` already, or as many as the address or the subject in `callers`
    /// may have.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        limit: usize,
        callers: [Option<CallerLimit>; 2],
    ) -> Result<Place, Full> {
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < limit).then_some(count + 1)
            })
            .map_err(|_| Full::Replica)?;
        // From here on, whatever was counted is given back when this is dropped.
        let mut place = Place {
            streams: self.clone(),
            callers: [None; 2],
        };
        for (at, caller) in callers.into_iter().enumerate() {
            let Some(CallerLimit { key, limit }) = caller else {
                continue;
            };
            let mut counts = self.callers[at].lock();
            let count = counts.entry(key).or_insert(0);
            if *count >= limit {
                return Err([Full::Address, Full::Subject][at]);
            }
            *count += 1;
            place.callers[at] = Some(key);
        }
        Ok(place)
    }

    /// Asks a stream to end for `reason`, in its own time; the first reason stays, but for [`CloseReason::Cut`], which
    /// leaves no time.
    pub fn close(&self, handle: &StreamHandle, reason: CloseReason) {
        if reason == CloseReason::Cut {
            handle.close.store(reason as u8, Ordering::Release);
        } else {
            let _ =
                handle
                    .close
                    .compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire);
        }
        self.alert(handle);
    }

    /// How many streams follow each of these topics.
    pub(crate) fn count(&self, topics: &[Topic]) -> Vec<u64> {
        let numbers: HashMap<&Topic, usize> = topics.iter().zip(0..).collect();
        let mut counts = vec![0; topics.len()];
        for handle in self.handles() {
            for topic in &*handle.topics.lock() {
                if let Some(&number) = numbers.get(topic) {
                    counts[number] += 1;
                }
            }
        }
        counts
    }

    /// A stream follows others from now on.
    pub(super) fn follow(&self, handle: &StreamHandle, topics: &Topics) {
        let before = std::mem::replace(&mut *handle.topics.lock(), topics.clone());
        let identity = handle.identity();
        if let (Some(presence), Some(user)) = (&self.presence, identity.subject()) {
            let without = |all: &Topics, some: &Topics| -> Topics {
                let rest = all.iter().filter(|topic| !some.contains(topic));
                rest.cloned().collect()
            };
            presence.begins(user, &without(topics, &before), false);
            presence.ends(user, &without(&before, topics), false);
        }
    }

    /// Gives a stream another end: its token was renewed.
    pub(crate) fn renew(&self, handle: &StreamHandle, identity: Arc<Identity>) {
        *handle.identity.lock() = identity;
        self.alert(handle);
    }

    /// Makes a stream look at its handle.
    fn alert(&self, handle: &StreamHandle) {
        self.look_up();
        handle.wake();
    }

    /// Makes each stream look at its handle when it has its turn.
    pub(super) fn look_up(&self) {
        self.closes.fetch_add(1, Ordering::Release);
    }

    /// The number of one more survey.
    pub(super) fn next_survey(&self) -> u32 {
        self.surveys.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// The id of a connection; it names this replica.
    pub(crate) fn connection(&self, number: u64) -> String {
        format!("{}-{number}", self.replica)
    }

    /// Open streams that `wanted` likes, the oldest first.
    pub(crate) fn select(&self, wanted: impl Fn(&StreamHandle) -> bool) -> Vec<Arc<StreamHandle>> {
        let mut handles: Vec<_> = {
            let open = self.open.lock();
            let handles = open.iter().map(|(_, handle)| handle);
            handles.filter(|handle| wanted(handle)).cloned().collect()
        };
        handles.sort_unstable_by_key(|handle| handle.number);
        handles
    }

    /// The streams that ended last and followed `topic`, the newest first.
    pub(crate) fn closed(&self, topic: &Topic) -> Vec<ClosedStream> {
        self.closed.of(topic)
    }

    /// The open stream of this connection.
    pub(crate) fn find(&self, connection: &str) -> Option<Arc<StreamHandle>> {
        let (replica, number) = connection.rsplit_once('-')?;
        let number: u64 = number.parse().ok().filter(|_| replica == self.replica)?;
        let open = self.open.lock();
        open.iter()
            .find_map(|(_, handle)| (handle.number == number).then(|| handle.clone()))
    }

    /// How often a stream was asked for something: while this stands still, none needs to look at its own handle.
    pub fn closes(&self) -> u32 {
        self.closes.load(Ordering::Acquire)
    }

    /// The handles of all open streams.
    pub fn handles(&self) -> Vec<Arc<StreamHandle>> {
        self.open
            .lock()
            .iter()
            .map(|(_, handle)| handle.clone())
            .collect()
    }

    /// Waits until there is none.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

/// How many streams one caller may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallerLimit {
    pub(crate) key: Key,
    pub(crate) limit: usize,
}

/// Why there was no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The replica has as many streams as it may.
    Replica,
    /// The address has.
    Address,
    /// The subject has.
    Subject,
}

/// A permit for one stream; given back when it is dropped, on whatever way.
pub struct Place {
    streams: Arc<Streams>,
    callers: [Option<Key>; 2],
}

impl Place {
    /// The stream begins.
    pub(crate) fn begin(
        self,
        request: StreamRequest,
        topics: Topics,
        identity: Arc<Identity>,
        kill: Option<CancellationToken>,
    ) -> StreamScope {
        let streams = &self.streams;
        if let (Some(presence), Some(user)) = (&streams.presence, identity.subject()) {
            presence.begins(user, &topics, true);
        }
        let number = streams.next.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(StreamHandle {
            identity: Mutex::new(identity),
            request,
            topics: Mutex::new(topics),
            number,
            opened_ms: unix_ms(SystemTime::now()),
            answer: Answer::default(),
            close: AtomicU8::new(0),
            waker: Mutex::default(),
            polled_at: AtomicU64::new(u64::MAX),
            kill,
            owned: AtomicBool::new(false),
        });
        let key = streams.open.lock().insert(handle.clone());
        handle.request.transport.gauge(&streams.metrics).inc();
        StreamScope {
            place: self,
            handle,
            key,
            started: Instant::now(),
            reason: CloseReason::Gone,
            events: 0,
            bytes: 0,
            behind: None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (counts, key) in self.streams.callers.iter().zip(self.callers) {
            let Some(key) = key else {
                continue;
            };
            if let Entry::Occupied(mut count) = counts.lock().entry(key) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        if self.streams.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.streams.emptied.notify_waiters();
        }
    }
}

/// What is remembered of the request that began a stream.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Who asked.
    pub address: IpAddr,
    /// The id of the request.
    pub request_id: Arc<str>,
    /// What it is written as.
    pub transport: Transport,
}

/// What a stream follows; most follow one topic.
pub(crate) type Topics = SmallVec<[Topic; 1]>;

/// What a stream is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `GET /events`.
    Sse,
    /// `GET /ws`.
    WebSocket,
    /// `GET /poll`.
    Poll,
}

impl Transport {
    /// As it stands in logs and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::WebSocket => "ws",
            Self::Poll => "poll",
        }
    }

    /// Counts the open ones.
    fn gauge(self, metrics: &Metrics) -> &Gauge {
        match self {
            Self::Sse => &metrics.sse_active_connections,
            Self::WebSocket => &metrics.ws_active_connections,
            Self::Poll => &metrics.waiting_polls,
        }
    }
}

/// From the moment a stream is accepted to its end, which happens once, when this is dropped.
pub struct StreamScope {
    place: Place,
    handle: Arc<StreamHandle>,
    key: usize,
    started: Instant,
    reason: CloseReason,
    events: u64,
    bytes: u64,
    /// Since when the reader's socket has not taken everything.
    behind: Option<Instant>,
}

impl StreamScope {
    /// How others reach it.
    pub fn handle(&self) -> &Arc<StreamHandle> {
        &self.handle
    }

    /// The id of the connection; it names its replica.
    pub fn connection(&self) -> String {
        self.place.streams.connection(self.handle.number)
    }

    /// The metrics it counts into.
    pub fn metrics(&self) -> &Metrics {
        &self.place.streams.metrics
    }

    /// Why it has ended, or would have by now.
    pub(crate) fn reason(&self) -> CloseReason {
        self.reason
    }

    /// Whether the reader's socket did not take everything at the last look.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Why it will have ended.
    pub fn ends(&mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// Counts what was written.
    pub fn wrote(&mut self, events: u64, bytes: u64) {
        self.events += events;
        self.bytes += bytes;
        let metrics = self.metrics();
        if events > 0 {
            metrics.delivered.inc_by(events);
        }
        metrics.delivered_bytes.inc_by(bytes);
    }

    /// Whether the reader's socket takes nothing at the moment.
    pub fn behind(&mut self, behind: bool) {
        if self.behind.is_some() != behind {
            self.behind = behind.then(Instant::now);
            let lagging = &self.metrics().lagging;
            if behind {
                lagging.inc()
            } else {
                lagging.dec()
            };
        }
    }
}

impl Drop for StreamScope {
    fn drop(&mut self) {
        let lag = self.behind.map(|since| since.elapsed());
        self.behind(false);
        if self.reason == CloseReason::Gone {
            // Killed before it could say so itself.
            self.reason = self.handle.closing().unwrap_or(CloseReason::Gone);
        }
        let streams = &self.place.streams;
        streams.open.lock().remove(self.key);
        if let Some(presence) = &streams.presence
            && let Some(user) = self.handle.identity().subject()
        {
            presence.ends(user, &self.handle.topics(), true);
        }
        let request = &self.handle.request;
        request.transport.gauge(&streams.metrics).dec();
        // A poll is a request like others, and its line says all of it.
        if request.transport == Transport::Poll {
            return;
        }
        streams.metrics.closed(self.reason);
        streams.closed.remember(ClosedStream {
            number: self.handle.number,
            topics: self.handle.topics(),
            address: request.address,
            subject: self.handle.identity().subject().map(|whole| subject(whole)),
            began: self.handle.answer.began(),
            cursor: self.handle.answer.standing().cursor,
            reason: self.reason,
            closed_ms: unix_ms(SystemTime::now()),
        });
        tracing::info!(
            target: "access",
            request_id = %self.handle.request.request_id,
            address = %self.handle.request.address,
            connection = %self.connection(),
            transport = request.transport.as_str(),
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            events = self.events,
            bytes = self.bytes,
            lag_ms = lag.map_or(0, |lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            reason = self.reason.as_str(),
            "stream ended"
        );
    }
}
