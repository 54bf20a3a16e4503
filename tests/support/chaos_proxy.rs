//! A wire between a gateway and Redis that breaks when it is told to.
//!
//! It forwards bytes and knows nothing of what they mean, but for three words: a connection on which `SSUBSCRIBE` was said is
//! that of the feed, one that begins with `REPLCONF` is a replica's, and one that is called `sentinel-...` a Sentinel's.
//! Whoever asks for a fault draws it from a seed; here nothing is random.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, redis_server::free_port};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToStore,
    ToGateway,
}

/// Which connections a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    All,
    /// The feed's.
    Feed,
    /// One that is nobody's of these; the number chooses among them.
    Command(usize),
    /// Those of replicas that copy this server.
    Replicas,
    /// Those of Sentinels.
    Sentinels,
}

/// Whose connection it is, as far as it has said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Speaker {
    #[default]
    Unknown,
    Feed,
    Replica,
    Sentinel,
}

impl Speaker {
    /// The words that give them away. The last two stand at the beginning of a connection: later they might be data.
    const WORDS: [(&[u8], Self, usize); 3] = [
        (b"SSUBSCRIBE", Self::Feed, usize::MAX),
        (b"REPLCONF", Self::Replica, 512),
        (b"sentinel-", Self::Sentinel, 512),
    ];
    const LONGEST: usize = 10;

    /// Who says `bytes`, after `before` others.
    fn of(bytes: &[u8], before: usize) -> Option<Self> {
        let said = |word: &[u8]| {
            let mut windows = bytes.windows(word.len());
            windows.any(|window| window.eq_ignore_ascii_case(word))
        };
        let words = Self::WORDS.iter();
        let mut in_time = words.filter(|(_, _, until)| before < *until);
        in_time.find(|(word, _, _)| said(word)).map(|word| word.1)
    }
}

/// What holds for all connections.
#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    refuses: bool,
    /// To the store, to the gateway.
    ways: [bool; 2],
    /// Replicas, Sentinels.
    parted: [bool; 2],
}

impl Gate {
    fn holds(self, way: Way, speaker: Speaker) -> bool {
        self.ways[way as usize]
            || match speaker {
                Speaker::Replica => self.parted[0],
                Speaker::Sentinel => self.parted[1],
                Speaker::Unknown | Speaker::Feed => false,
            }
    }
}

/// One connection through the proxy.
struct Link {
    over: CancellationToken,
    speaker: Mutex<Speaker>,
    /// Bytes that still go to the gateway, if they are counted.
    left: Mutex<Option<usize>>,
}

struct Shared {
    target: SocketAddr,
    gate: watch::Sender<Gate>,
    links: Mutex<Vec<Arc<Link>>>,
    over: CancellationToken,
}

/// A listener that leads to Redis.
pub(crate) struct ChaosProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl ChaosProxy {
    /// Listens on a port of its own and leads to `target`.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = loop {
            let address = (Ipv4Addr::LOCALHOST, free_port());
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("the proxy cannot listen: {error}"),
            }
        };
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            gate: watch::Sender::new(Gate::default()),
            links: Mutex::default(),
            over: CancellationToken::new(),
        });
        let accepting = accept(shared.clone(), listener, address);
        tokio::spawn(shared.over.clone().run_until_cancelled_owned(accepting));
        Self { address, shared }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    fn aimed(&self, aim: Aim) -> Vec<Arc<Link>> {
        let mut links = self.shared.links.lock();
        links.retain(|link| !link.over.is_cancelled());
        let of = |speaker: Speaker| {
            let theirs = links.iter().filter(|link| *link.speaker.lock() == speaker);
            theirs.cloned().collect::<Vec<_>>()
        };
        match aim {
            Aim::All => links.clone(),
            Aim::Feed => of(Speaker::Feed),
            Aim::Replicas => of(Speaker::Replica),
            Aim::Sentinels => of(Speaker::Sentinel),
            Aim::Command(which) => {
                let others = of(Speaker::Unknown);
                let chosen = others.get(which % others.len().max(1));
                chosen.into_iter().cloned().collect()
            }
        }
    }

    /// Cuts connections, and returns how many there were.
    pub(crate) fn cut(&self, aim: Aim) -> usize {
        let links = self.aimed(aim);
        for link in &links {
            link.over.cancel();
        }
        links.len()
    }

    /// Cuts connections when `bytes` more have gone to the gateway: most often in the middle of a reply.
    pub(crate) fn cut_after(&self, aim: Aim, bytes: usize) -> usize {
        let links = self.aimed(aim);
        for link in &links {
            *link.left.lock() = Some(bytes);
        }
        links.len()
    }

    /// Bytes that go this way wait, on every connection, until [`Self::heal`].
    pub(crate) fn hold(&self, way: Way) {
        let gate = &self.shared.gate;
        gate.send_modify(|gate| gate.ways[way as usize] = true);
    }

    /// Bytes of replicas wait, both ways and also of those that come: a network that has lost them.
    pub(crate) fn part_replicas(&self) {
        self.shared.gate.send_modify(|gate| gate.parted[0] = true);
    }

    /// The same for Sentinels.
    pub(crate) fn part_sentinels(&self) {
        self.shared.gate.send_modify(|gate| gate.parted[1] = true);
    }

    /// Nobody listens any more, until [`Self::heal`]; what is connected stays.
    pub(crate) fn refuse(&self) {
        self.shared.gate.send_modify(|gate| gate.refuses = true);
    }

    /// What waited goes on, what was refused is accepted. What was cut stays cut, and so does what was parted: what a replica
    /// has not got it does not get from a connection of then.
    pub(crate) fn heal(&self) {
        let gate = *self.shared.gate.borrow();
        if gate.parted[0] {
            self.cut(Aim::Replicas);
        }
        if gate.parted[1] {
            self.cut(Aim::Sentinels);
        }
        self.shared.gate.send_modify(|gate| *gate = Gate::default());
        for link in self.aimed(Aim::All) {
            *link.left.lock() = None;
        }
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.cut(Aim::All);
        self.shared.over.cancel();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, address: SocketAddr) {
    let mut listener = Some(listener);
    let mut gate = shared.gate.subscribe();
    loop {
        if gate.borrow_and_update().refuses {
            listener = None;
            let _ = gate.changed().await;
            continue;
        }
        let Some(open) = &listener else {
            match TcpListener::bind(address).await {
                Ok(open) => listener = Some(open),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((gateway, _)) = accepted {
                    let link = Arc::new(Link {
                        over: shared.over.child_token(),
                        speaker: Mutex::default(),
                        left: Mutex::new(None),
                    });
                    shared.links.lock().push(link.clone());
                    let joined = join(shared.clone(), link.clone(), gateway);
                    tokio::spawn(link.over.clone().run_until_cancelled_owned(joined));
                }
            }
            _ = gate.changed() => {}
        }
    }
}

/// Forwards until one side ends or the link is cut; then both connections are closed.
async fn join(shared: Arc<Shared>, link: Arc<Link>, gateway: TcpStream) {
    let connecting = timeout(PATIENCE, TcpStream::connect(shared.target));
    if let Ok(Ok(store)) = connecting.await {
        let _ = (gateway.set_nodelay(true), store.set_nodelay(true));
        let (from_gateway, to_gateway) = gateway.into_split();
        let (from_store, to_store) = store.into_split();
        let gate = || shared.gate.subscribe();
        tokio::select! {
            _ = forward(Way::ToStore, &link, gate(), from_gateway, to_store) => {}
            _ = forward(Way::ToGateway, &link, gate(), from_store, to_gateway) => {}
        }
    }
    link.over.cancel();
}

async fn forward(
    way: Way,
    link: &Link,
    mut gate: watch::Receiver<Gate>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    // The end of what came before, in which a word may have begun, and how much that was in all.
    let (mut before, mut length) = (Vec::new(), 0);
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let bytes = &buffer[..count];
        if way == Way::ToStore && *link.speaker.lock() == Speaker::Unknown {
            before.extend_from_slice(bytes);
            if let Some(speaker) = Speaker::of(&before, length) {
                *link.speaker.lock() = speaker;
            }
            length += count;
            before.drain(..before.len().saturating_sub(Speaker::LONGEST - 1));
        }
        let holds = |gate: &Gate| gate.holds(way, *link.speaker.lock());
        let _ = gate.wait_for(|gate| !holds(gate)).await;
        if link.over.is_cancelled() {
            // What was cut while it waited does not arrive after all.
            return Ok(());
        }
        match way {
            Way::ToStore => to.write_all(bytes).await?,
            Way::ToGateway => {
                let goes = link.spend(count);
                to.write_all(&bytes[..goes.unwrap_or(count)]).await?;
                if goes.is_some() {
                    return to.shutdown().await;
                }
            }
        }
    }
}

impl Link {
    /// How many of `count` bytes are the last ones that go to the gateway, if they are.
    fn spend(&self, count: usize) -> Option<usize> {
        let mut left = self.left.lock();
        let rest = left.as_mut()?;
        if *rest <= count {
            return Some(*rest);
        }
        *rest -= count;
        None
    }
}

mod tests {
    use super::{Aim, ChaosProxy, Way};
    use crate::support::{RedisServer, SILENCE, eventually, redis_server::RedisConnection};

    async fn through(proxy: &ChaosProxy) -> RedisConnection {
        let connection = RedisConnection::open(proxy.address).await;
        connection.unwrap()
    }

    async fn is_silent(connection: &mut RedisConnection) {
        let answer = tokio::time::timeout(SILENCE, connection.read()).await;
        assert!(answer.is_err(), "{answer:?}");
    }

    #[tokio::test]
    async fn a_cut_is_for_those_it_is_aimed_at() {
        let redis = RedisServer::start().await;
        let proxy = ChaosProxy::start(redis.address()).await;
        let (mut feed, mut command) = (through(&proxy).await, through(&proxy).await);
        feed.ask(&["SSUBSCRIBE", "a"]).await;
        assert_eq!(command.ask(&["PING"]).await.text(), "PONG");
        assert_eq!(proxy.cut(Aim::Feed), 1);
        assert!(feed.try_ask(&["PING"]).await.is_err());
        assert_eq!(command.ask(&["PING"]).await.text(), "PONG");
        assert_eq!(proxy.cut(Aim::Command(7)), 1);
        assert!(command.try_ask(&["PING"]).await.is_err());
        let mut again = through(&proxy).await;
        assert_eq!(again.ask(&["PING"]).await.text(), "PONG");
        assert_eq!(proxy.cut(Aim::All), 1);
    }

    #[tokio::test]
    async fn a_reply_can_end_in_its_middle() {
        let redis = RedisServer::start().await;
        let proxy = ChaosProxy::start(redis.address()).await;
        let mut connection = through(&proxy).await;
        assert_eq!(connection.ask(&["PING"]).await.text(), "PONG");
        assert_eq!(proxy.cut_after(Aim::All, 10), 1);
        // "+PONG\r\n" has seven bytes.
        assert_eq!(connection.ask(&["PING"]).await.text(), "PONG");
        assert!(connection.try_ask(&["PING"]).await.is_err());
        assert_eq!(connection.unread(), b"+PO");
    }

    #[tokio::test]
    async fn each_way_can_be_held_and_goes_on() {
        let redis = RedisServer::start().await;
        let proxy = ChaosProxy::start(redis.address()).await;
        let mut connection = through(&proxy).await;
        for (way, arrives) in [(Way::ToStore, 0), (Way::ToGateway, 1)] {
            redis.command(&["DEL", "a"]).await;
            assert_eq!(connection.ask(&["PING"]).await.text(), "PONG");
            proxy.hold(way);
            connection.send(&["INCR", "a"]).await.unwrap();
            is_silent(&mut connection).await;
            let there = redis.command(&["EXISTS", "a"]).await.integer();
            assert_eq!(there, arrives, "{way:?}");
            proxy.heal();
            assert_eq!(connection.read().await.integer(), 1);
        }
    }

    #[tokio::test]
    async fn who_is_refused_may_come_later() {
        let redis = RedisServer::start().await;
        let proxy = ChaosProxy::start(redis.address()).await;
        let mut open = through(&proxy).await;
        assert_eq!(open.ask(&["PING"]).await.text(), "PONG");
        proxy.refuse();
        eventually(
            "connections to be refused",
            async || match RedisConnection::open(proxy.address).await {
                Ok(_) => Err("one was accepted".to_owned()),
                Err(_) => Ok(()),
            },
        )
        .await;
        assert_eq!(open.ask(&["PING"]).await.text(), "PONG");
        proxy.heal();
        eventually("connections to be accepted", async || {
            let connection = RedisConnection::open(proxy.address).await;
            connection.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
}
