//! Three replicas, a home of the log, and everything that may break in them and between them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{net::TcpSocket, sync::watch, time::sleep};

use super::{
    chronicle::Chronicle,
    home::Home,
    judge::{Change, Handed, Left, Log, Millis, Name, Publication},
    schedule::{Fault, REPLICAS, Weather, topic},
    users,
};
use crate::support::{Aim, ChaosProxy, Gateway, Settings, Value, Way, eventually_within, nowhere};

/// How long a gateway may take to end when it is asked to: the drain, and a publish that waits for Redis meanwhile.
const DRAIN_PATIENCE: Duration = Duration::from_secs(15);

/// The time, as Redis knows it, too.
pub(super) fn now_ms() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_millis()).unwrap()
}

/// Where everybody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Things break.
    Storm,
    /// Nothing breaks any more; what is under way comes to its end.
    Ebb,
    /// Nothing breaks any more; clients stay and read to the end.
    Calm,
    /// Clients leave.
    Over,
}

/// Whether what is stored will stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tide {
    Steady,
    /// What is acknowledged now will be lost.
    Parted,
}

/// What happened, in figures.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) faults: AtomicUsize,
    pub(super) refusals: AtomicUsize,
    pub(super) unknown: AtomicUsize,
    pub(super) repeated: AtomicUsize,
    /// Resumes from a checkpoint of a quiet topic.
    pub(super) from_checkpoints: AtomicUsize,
    /// Topics that joined a subscription whose other topics flowed, and were cut at once.
    pub(super) newcomers: AtomicUsize,
}

impl Figures {
    pub(super) fn count(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether all shapes that matter were there. The clients bring them, and a busy machine needs longer for them.
    pub(super) fn have_all_shapes(&self) -> bool {
        [&self.from_checkpoints, &self.newcomers]
            .iter()
            .all(|seen| seen.load(Ordering::Relaxed) > 0)
    }
}

/// The place of one replica: processes come and go, the wire to Redis stays.
struct Place {
    /// None where it finds the way by itself.
    proxy: Option<ChaosProxy>,
    settings: Settings,
    address: SocketAddr,
    /// Bound there, and not listening: while nobody does, nobody else is given the port, and clients are refused.
    _reserved: TcpSocket,
    gateway: tokio::sync::Mutex<Option<Gateway>>,
}

pub(super) struct World {
    pub(super) home: tokio::sync::Mutex<Home>,
    /// Where the log is now.
    pub(super) master: Mutex<SocketAddr>,
    /// What has to be said there; empty where nothing.
    pub(super) password: String,
    places: Vec<Place>,
    pub(super) chronicle: tokio::sync::Mutex<Chronicle>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) tide: watch::Sender<Tide>,
    pub(super) figures: Figures,
    pub(super) publications: Mutex<Vec<Publication>>,
    /// What was handed over to be taken in; those of one producer in their order.
    pub(super) handed: Mutex<Vec<Handed>>,
    serial: AtomicUsize,
    /// What every process said that is gone.
    said: Mutex<Vec<String>>,
}

fn settings(place: usize, home: &Home, wire: Option<u16>) -> Settings {
    let settings = home
        .tell(wire)
        .with("stream.keepalive", "400ms")
        .with("publish.timeout", "1s")
        .with("publish.idempotency_window", "1h")
        .with("tail.events", 24)
        .with("tail.linger", "500ms")
        .with("limits.topics_per_connection", 1_000)
        .with("drain.timeout", "1s")
        .with("log.access", super::FOLDER.is_some())
        .with("log.format", "json");
    // One of them is soon full while it repairs, and drops what comes.
    if place == 0 {
        settings.with("feed.backlog", "8KiB")
    } else {
        settings
    }
}

impl World {
    pub(super) async fn begin(weather: Weather) -> Arc<Self> {
        let home = Home::begin(weather.home()).await;
        let mut places = Vec::new();
        for place in 0..REPLICAS {
            let proxy = match home.wired() {
                Some(address) => Some(ChaosProxy::start(address).await),
                None => None,
            };
            let mut settings = settings(place, &home, proxy.as_ref().map(ChaosProxy::port));
            if weather.has_users() {
                settings = users::tell(settings);
            }
            let (reserved, address) = nowhere();
            let settings = settings.with("server.listen", address);
            let gateway = settings.clone().start().await;
            places.push(Place {
                proxy,
                settings,
                address,
                _reserved: reserved,
                gateway: tokio::sync::Mutex::new(Some(gateway)),
            });
        }
        let world = Self {
            master: Mutex::new(home.master().address()),
            places,
            chronicle: tokio::sync::Mutex::default(),
            phase: watch::Sender::new(Phase::Storm),
            tide: watch::Sender::new(Tide::Steady),
            password: home.password().to_owned(),
            figures: Figures::default(),
            publications: Mutex::default(),
            handed: Mutex::default(),
            serial: AtomicUsize::new(0),
            said: Mutex::default(),
            home: tokio::sync::Mutex::new(home),
        };
        world.is_healthy().await;
        Arc::new(world)
    }

    /// Where a replica is, or was and will be.
    pub(super) fn address(&self, replica: usize) -> SocketAddr {
        self.places[replica].address
    }

    /// Where the log is now, or was when it was last seen.
    pub(super) fn master(&self) -> SocketAddr {
        *self.master.lock()
    }

    /// Whether there are new events.
    pub(super) fn pours(&self) -> bool {
        *self.phase.borrow() == Phase::Storm
    }

    pub(super) fn is_storming(&self) -> bool {
        *self.phase.borrow() < Phase::Calm
    }

    /// A number that no other event has.
    pub(super) fn serial(&self) -> usize {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Cuts the feed of a replica, or, where they share the wire, of all.
    pub(super) async fn cut_feed(&self, replica: usize) {
        self.cut(replica, Aim::Feed).await;
    }

    async fn cut(&self, replica: usize, aim: Aim) {
        if let Some(wire) = &self.places[replica].proxy {
            wire.cut(aim);
        } else if let Ok(home) = self.home.try_lock() {
            if let Some(wire) = home.shared_wire() {
                wire.cut(aim);
            } else {
                let which = if aim == Aim::Feed { "pubsub" } else { "normal" };
                let kill = ["CLIENT", "KILL", "TYPE", which];
                home.master().command(&kill).await;
            }
        }
    }

    fn wire(&self, replica: usize) -> &ChaosProxy {
        self.places[replica].proxy.as_ref().unwrap()
    }

    /// Waits until every replica says that it and Redis are well.
    pub(super) async fn is_healthy(&self) {
        for (number, place) in self.places.iter().enumerate() {
            let gateway = place.gateway.lock().await;
            let gateway = gateway.as_ref().unwrap();
            let what = format!("replica {number} to be healthy");
            eventually_within(super::CALM, what, async || {
                let health = gateway.get_admin("/health").await;
                let well = health.status() == 200;
                well.then_some(()).ok_or_else(|| format!("{health:?}"))
            })
            .await;
        }
    }

    /// What every replica says of itself.
    pub(super) async fn stats(&self) -> String {
        let mut all = String::new();
        for (number, place) in self.places.iter().enumerate() {
            let gateway = place.gateway.lock().await;
            for page in ["/stats", "/health"] {
                let answer = gateway.as_ref().unwrap().get_admin(page).await;
                let _ = writeln!(all, "replica {number} {page}: {}", answer.text());
            }
        }
        all
    }

    // ---- faults ----------------------------------------------------------------------------------------------------------

    /// Lets one thing break, and returns when it is over.
    pub(super) async fn strike(&self, fault: Fault) {
        Figures::count(&self.figures.faults);
        match fault {
            Fault::Kill(replica) => {
                let mut place = self.places[replica].gateway.lock().await;
                let mut gateway = place.take().unwrap();
                self.keep(replica, &gateway.program().said());
                drop(gateway);
                *place = Some(self.start(replica).await);
            }
            Fault::Drain(replica) => {
                let mut place = self.places[replica].gateway.lock().await;
                let exit = place.take().unwrap().stop(DRAIN_PATIENCE).await;
                self.keep(replica, &exit.output);
                assert!(exit.status.success(), "a drain ends well: {exit:?}");
                *place = Some(self.start(replica).await);
            }
            Fault::Cut(replica, aim) => self.cut(replica, aim).await,
            Fault::CutAfter(replica, aim, bytes) => {
                self.wire(replica).cut_after(aim, bytes);
            }
            Fault::Hold(replica, way, time) => {
                let proxy = self.wire(replica);
                for each in [Way::ToStore, Way::ToGateway] {
                    if way.is_none_or(|way| way == each) {
                        proxy.hold(each);
                    }
                }
                sleep(time).await;
                proxy.heal();
            }
            Fault::Refuse(replica, time) => {
                let proxy = self.wire(replica);
                proxy.refuse();
                proxy.cut(Aim::All);
                sleep(time).await;
                proxy.heal();
            }
            Fault::KillFeeds => {
                let home = self.home.lock().await;
                let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
                home.master().command(&kill).await;
            }
            Fault::Freeze(time) => {
                let home = self.home.lock().await;
                home.master().freeze();
                sleep(time).await;
                home.master().thaw();
            }
            Fault::FailOver(parted) => self.fail_over(parted).await,
            Fault::Move => {
                let mut home = self.home.lock().await;
                home.move_slot().await;
                *self.master.lock() = home.master().address();
            }
            Fault::Restart(time) => self.home.lock().await.restart(time).await,
            Fault::Trim(at, keep) => {
                let home = self.home.lock().await;
                let mut chronicle = self.chronicle.lock().await;
                chronicle.trim(home.master(), &topic(at), keep).await;
            }
            Fault::Delete(at) => {
                let home = self.home.lock().await;
                let mut chronicle = self.chronicle.lock().await;
                chronicle.delete(home.master(), &topic(at)).await;
            }
            Fault::Erase(at) => {
                let home = self.home.lock().await;
                let mut chronicle = self.chronicle.lock().await;
                chronicle.erase(home.master(), &topic(at)).await;
            }
            Fault::Flush => {
                let home = self.home.lock().await;
                self.chronicle.lock().await.flush(home.master()).await;
            }
        }
    }

    /// What Redis has of who is there.
    pub(super) async fn table(&self) -> String {
        let home = self.home.lock().await;
        let mut table = String::new();
        let keys = home.master().command(&["KEYS", "tidegate:{0}:presence*"]);
        for key in keys.await.items().iter().map(Value::text) {
            let fields = home.master().command(&["HGETALL", &key]).await;
            let _ = writeln!(table, "{key}: {fields}");
        }
        table
    }

    /// How many events wait to be taken in.
    pub(super) async fn waiting(&self) -> i64 {
        let home = self.home.lock().await;
        let length = ["XLEN", "tidegate:{0}:ingest"];
        home.master().command(&length).await.integer()
    }

    /// Everything that was ever in the log, what was left outside, and who came and went.
    pub(super) async fn log(&self) -> (Log, Left, BTreeMap<Name, Vec<Change>>) {
        let home = self.home.lock().await;
        self.chronicle.lock().await.close(home.master()).await
    }

    async fn start(&self, replica: usize) -> Gateway {
        self.places[replica].settings.clone().start().await
    }

    /// Nothing breaks any more.
    pub(super) fn heal(&self) {
        for proxy in self.places.iter().filter_map(|place| place.proxy.as_ref()) {
            proxy.heal();
        }
    }

    /// Ends every replica, politely.
    pub(super) async fn end(&self) {
        for (replica, place) in self.places.iter().enumerate() {
            let gateway = place.gateway.lock().await.take().unwrap();
            let exit = gateway.stop(DRAIN_PATIENCE).await;
            self.keep(replica, &exit.output);
            assert!(exit.status.success(), "it ends well: {exit:?}");
        }
    }

    fn keep(&self, replica: usize, said: &str) {
        self.said
            .lock()
            .push(format!("---- replica {replica}\n{said}\n"));
    }

    /// Everything that the replicas said, those that still run included.
    pub(super) fn said(&self) -> String {
        for (replica, place) in self.places.iter().enumerate() {
            if let Ok(mut gateway) = place.gateway.try_lock()
                && let Some(gateway) = gateway.as_mut()
            {
                self.keep(replica, &gateway.program().said());
            }
        }
        self.said.lock().concat()
    }
}
