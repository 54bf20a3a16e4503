//! Three replicas, one Redis, a breakable wire between each of them, and a chronicle of everything that was in the log.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::sleep};

use super::{
    judge::{Birth, Entry, Log, Millis, Name, Publication, Taking},
    schedule::{Fault, REPLICAS},
};
use crate::support::{
    Aim, ChaosProxy, Fsync, Gateway, RedisServer, Settings, Value, Way, eventually, id,
};

/// How long a gateway may take to end when it is asked to: the drain, and a publish that waits for Redis meanwhile.
const DRAIN_PATIENCE: Duration = Duration::from_secs(15);

/// Everything in Redis that is an entry of a topic, and the birth of the log.
const SNAPSHOT: &str = "
    local reply = { redis.call('HGET', 'tidegate:{0}:meta', 'born') or '' }
    for _, key in ipairs(redis.call('KEYS', 'tidegate:{0}:topic:*')) do
        reply[#reply + 1] = { key, redis.call('XRANGE', key, '-', '+') }
    end
    return reply";

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
    /// Nothing breaks any more; clients stay and read to the end.
    Calm,
    /// Clients leave.
    Over,
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
}

/// The place of one replica: processes come and go, the wire to Redis stays.
struct Place {
    proxy: ChaosProxy,
    address: Mutex<SocketAddr>,
    gateway: tokio::sync::Mutex<Option<Gateway>>,
}

/// What was in the log.
#[derive(Default)]
struct Chronicle {
    log: Log,
    life: usize,
    /// When the last log began to go away, while no other has been seen.
    flushed: Option<Millis>,
}

pub(super) struct World {
    pub(super) redis: tokio::sync::Mutex<RedisServer>,
    pub(super) redis_address: SocketAddr,
    places: Vec<Place>,
    chronicle: Mutex<Chronicle>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) figures: Figures,
    pub(super) publications: Mutex<Vec<Publication>>,
    serial: AtomicUsize,
    /// What every process said that is gone.
    said: Mutex<Vec<String>>,
}

fn settings(place: usize, proxy: &ChaosProxy) -> Settings {
    let settings = Gateway::settings()
        .env("REDIS_URL", &format!("redis://127.0.0.1:{}", proxy.port()))
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
    pub(super) async fn begin() -> Arc<Self> {
        let redis = RedisServer::settings().appendonly(Fsync::Always);
        let redis = redis.start().await;
        let mut places = Vec::new();
        for place in 0..REPLICAS {
            let proxy = ChaosProxy::start(redis.address()).await;
            let gateway = settings(place, &proxy).start().await;
            places.push(Place {
                proxy,
                address: Mutex::new(gateway.public),
                gateway: tokio::sync::Mutex::new(Some(gateway)),
            });
        }
        let world = Self {
            redis_address: redis.address(),
            redis: tokio::sync::Mutex::new(redis),
            places,
            chronicle: Mutex::default(),
            phase: watch::Sender::new(Phase::Storm),
            figures: Figures::default(),
            publications: Mutex::default(),
            serial: AtomicUsize::new(0),
            said: Mutex::default(),
        };
        world.is_healthy().await;
        Arc::new(world)
    }

    /// Where a replica is, or was.
    pub(super) fn address(&self, replica: usize) -> SocketAddr {
        *self.places[replica].address.lock()
    }

    pub(super) fn is_storming(&self) -> bool {
        *self.phase.borrow() == Phase::Storm
    }

    /// A number that no other event has.
    pub(super) fn serial(&self) -> usize {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Cuts the feed of a replica.
    pub(super) fn cut_feed(&self, replica: usize) {
        self.places[replica].proxy.cut(Aim::Feed);
    }

    /// Waits until every replica says that it and Redis are well.
    pub(super) async fn is_healthy(&self) {
        for (number, place) in self.places.iter().enumerate() {
            let gateway = place.gateway.lock().await;
            let gateway = gateway.as_ref().unwrap();
            let what = format!("replica {number} to be healthy");
            eventually(what, async || {
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
            Fault::Cut(replica, aim) => {
                self.places[replica].proxy.cut(aim);
            }
            Fault::CutAfter(replica, aim, bytes) => {
                self.places[replica].proxy.cut_after(aim, bytes);
            }
            Fault::Hold(replica, way, time) => {
                let proxy = &self.places[replica].proxy;
                for each in [Way::ToStore, Way::ToGateway] {
                    if way.is_none_or(|way| way == each) {
                        proxy.hold(each);
                    }
                }
                sleep(time).await;
                proxy.heal();
            }
            Fault::Refuse(replica, time) => {
                let proxy = &self.places[replica].proxy;
                proxy.refuse();
                proxy.cut(Aim::All);
                sleep(time).await;
                proxy.heal();
            }
            Fault::KillFeeds => {
                let redis = self.redis.lock().await;
                redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            }
            Fault::Freeze(time) => {
                let redis = self.redis.lock().await;
                redis.freeze();
                sleep(time).await;
                redis.thaw();
            }
            Fault::Restart(time) => {
                let mut redis = self.redis.lock().await;
                redis.kill();
                sleep(time).await;
                redis.restart().await;
            }
            Fault::Trim(topic, keep) => {
                let topic = super::schedule::topic(topic);
                self.trim(&topic, keep).await;
            }
            Fault::Delete(topic) => self.delete(&super::schedule::topic(topic)).await,
            Fault::Erase(topic) => self.erase(&super::schedule::topic(topic)).await,
            Fault::Flush => self.flush().await,
        }
    }

    async fn start(&self, replica: usize) -> Gateway {
        let place = &self.places[replica];
        let gateway = settings(replica, &place.proxy).start().await;
        *place.address.lock() = gateway.public;
        gateway
    }

    /// Nothing breaks any more.
    pub(super) fn heal(&self) {
        for place in &self.places {
            place.proxy.heal();
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

    // ---- the chronicle ---------------------------------------------------------------------------------------------------

    /// Runs commands as one, so that nothing happens between them.
    async fn at_once(&self, commands: &[&[&str]]) -> (Millis, Vec<Value>) {
        let redis = self.redis.lock().await;
        let mut connection = redis.connect().await;
        let since = now_ms();
        connection.ask(&["MULTI"]).await;
        for command in commands {
            assert_eq!(connection.ask(command).await.text(), "QUEUED");
        }
        let answers = connection.ask(&["EXEC"]).await.items().to_vec();
        for answer in &answers {
            assert!(!matches!(answer, Value::Error(_)), "{answer}");
        }
        (since, answers)
    }

    async fn trim(&self, topic: &str, keep: usize) {
        let stream = format!("tidegate:{{0}}:topic:{topic}");
        let read = ["XRANGE", &stream, "-", "+"];
        let count = keep.to_string();
        let trim = ["XTRIM", &stream, "MAXLEN", "=", &count];
        let (since, answers) = self.at_once(&[&read, &trim]).await;
        let entries = answers[0].items();
        let taken = entries.len().saturating_sub(keep);
        let mut chronicle = self.chronicle.lock();
        chronicle.add(topic, &entries[..taken], Some((Taking::Trim, since)));
        chronicle.add(topic, &entries[taken..], None);
    }

    async fn delete(&self, topic: &str) {
        let stream = format!("tidegate:{{0}}:topic:{topic}");
        let read = ["XRANGE", &stream, "-", "+"];
        let (since, answers) = self.at_once(&[&read, &["DEL", &stream]]).await;
        let mut chronicle = self.chronicle.lock();
        chronicle.add(topic, answers[0].items(), Some((Taking::Trim, since)));
    }

    async fn erase(&self, topic: &str) {
        let keys = ["meta", "last", "heads"].map(|key| format!("tidegate:{{0}}:{key}"));
        let [meta, last, heads] = keys.each_ref().map(String::as_str);
        let stream = format!("tidegate:{{0}}:topic:{topic}");
        let channel = format!("tidegate:{{0}}:ch:{topic}");
        let read = ["XRANGE", &stream, "-", "+"];
        let erase = [
            "FCALL",
            "tidegate_delete",
            "5",
            meta,
            last,
            heads,
            &stream,
            &channel,
            topic,
        ];
        let (since, answers) = self.at_once(&[&read, &erase]).await;
        let mut chronicle = self.chronicle.lock();
        chronicle.add(topic, answers[0].items(), Some((Taking::Trim, since)));
    }

    /// The pause lets the clock go on: ids of the new log lie above those of the old one, as they do when a person does it.
    async fn flush(&self) {
        let commands: [&[&str]; 3] = [
            &["EVAL", SNAPSHOT, "0"],
            &["FLUSHALL"],
            &["DEBUG", "SLEEP", "0.005"],
        ];
        let (since, answers) = self.at_once(&commands).await;
        let mut chronicle = self.chronicle.lock();
        chronicle.add_all(&answers[0], Some((Taking::Flush, since)));
        chronicle.flushed.get_or_insert(since);
        chronicle.life += 1;
    }

    /// Everything that was ever in the log.
    pub(super) async fn log(&self) -> Log {
        let (_, answers) = self.at_once(&[&["EVAL", SNAPSHOT, "0"]]).await;
        let mut chronicle = self.chronicle.lock();
        chronicle.add_all(&answers[0], None);
        chronicle.log.clone()
    }
}

impl Chronicle {
    fn add_all(&mut self, snapshot: &Value, taken: Option<(Taking, Millis)>) {
        let mut items = snapshot.items().iter();
        let born = items.next().unwrap().text();
        if self.life > 0
            && !born.is_empty()
            && let Some(since) = self.flushed.take()
        {
            let born = id(&born);
            self.log.births.push(Birth { id: born, since });
        }
        for stream in items {
            let key = stream.items()[0].text();
            let topic = key.strip_prefix("tidegate:{0}:topic:").unwrap();
            self.add(topic, stream.items()[1].items(), taken);
        }
    }

    fn add(&mut self, topic: &str, entries: &[Value], taken: Option<(Taking, Millis)>) {
        let topic = Name::from(topic);
        for entry in entries {
            let [at, fields] = entry.items() else {
                panic!("{entry} is no entry")
            };
            let mut fields = fields.fields();
            let mut field = |name: &str| fields.remove(name).unwrap();
            let entry = Entry {
                kind: field("e"),
                data: field("d"),
                previous: id(&field("p")),
                life: self.life,
                taken,
            };
            let added = self.log.add(&topic, id(&at.text()), entry);
            added.unwrap_or_else(|complaint| panic!("{complaint}"));
        }
    }
}
