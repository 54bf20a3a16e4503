//! A master with two replicas, and three Sentinels that watch them: six real processes, started from the files in `redis/`.
//!
//! Each server stands behind a wire ([`ChaosProxy`]), and everybody (the other servers, the Sentinels, a gateway that asks them)
//! knows it by the port of its wire. So a server can be parted from its replicas, from the Sentinels, or from all.
//!
//! The Sentinels look and talk more often than they do by themselves, so that nobody waits for their news; how they decide is theirs.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use futures_util::future::join_all;

use super::{
    Authority, ChaosProxy, Gateway, RedisServer, Settings, Value, eventually_within,
    redis_server::RedisSettings,
};

/// How long a failover may take; longer than an election that has to be repeated.
const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "mymaster";

/// Milliseconds for which a server may be silent. A machine that is busy is not taken for one that is gone: what decides is
/// that a test has killed, frozen or parted a server, and then it is missed soon.
pub(super) const PATIENT: &str = "8000";
pub(super) const HASTY: &str = "1000";

/// How the processes are started.
#[derive(Clone, Debug)]
pub(crate) struct SentinelSettings {
    servers: Vec<String>,
    sentinels: Vec<String>,
    quick: bool,
    tls: Option<[PathBuf; 3]>,
}

impl SentinelSettings {
    /// Adds a line to the configuration of each server, as `min-replicas-to-write 0`.
    pub(crate) fn server(mut self, line: &str) -> Self {
        self.servers.push(line.to_owned());
        self
    }

    /// Adds a line to the configuration of each Sentinel.
    pub(crate) fn sentinel(mut self, line: &str) -> Self {
        self.sentinels.push(line.to_owned());
        self
    }

    /// Everybody speaks TLS with everybody. The tests still ask without.
    pub(crate) fn tls(mut self, authority: &Authority) -> Self {
        let pair = authority.issue("redis");
        self.tls = Some([pair.certificate, pair.key, authority.file()]);
        self.server("tls-replication yes")
            .sentinel("tls-replication yes")
    }

    fn with_tls(&self, settings: RedisSettings) -> RedisSettings {
        match &self.tls {
            Some([certificate, key, authority]) => settings.tls(certificate, key, authority),
            None => settings,
        }
    }

    /// With the times that the files give, for measuring.
    pub(crate) fn unhurried(mut self) -> Self {
        self.quick = false;
        self
    }

    /// Starts everything and waits until each knows all others and every replica has the same as its master.
    pub(crate) async fn start(self) -> RedisSentinel {
        let servers = join_all(["master.conf", "replica.conf", "replica.conf"].map(|file| {
            let alone = |text: String| {
                let lines = text.lines().filter(|line| !line.starts_with("replicaof "));
                lines.collect::<Vec<_>>().join("\n")
            };
            let lines = self.servers.iter();
            let settings = lines.fold(RedisServer::shipped(file, alone), |settings, line| {
                settings.config(line)
            });
            self.with_tls(settings).start()
        }))
        .await;
        let mut wires = Vec::new();
        for server in &servers {
            let port = self.port(server);
            wires.push(ChaosProxy::start((Ipv4Addr::LOCALHOST, port).into()).await);
        }
        for (at, (server, wire)) in servers.iter().zip(&wires).enumerate() {
            server.set("replica-announce-ip", "127.0.0.1").await;
            let port = wire.port().to_string();
            server.set("replica-announce-port", &port).await;
            if at > 0 {
                let master = wires[0].port().to_string();
                server.command(&["REPLICAOF", "127.0.0.1", &master]).await;
            }
            server.command(&["CONFIG", "REWRITE"]).await;
        }
        let sentinels = self.sentinels(wires[0].port()).await;
        let nodes = sentinels
            .iter()
            .map(|node| format!("127.0.0.1:{}", self.port(node)));
        let nodes = nodes.collect::<Vec<_>>().join(",");
        let group = RedisSentinel {
            servers,
            wires,
            quick: self.quick,
            tls: self.tls.map(|files| files[2].clone()),
            nodes,
            sentinels,
        };
        group.settled().await;
        group
    }

    /// Where others reach it.
    fn port(&self, server: &RedisServer) -> u16 {
        match self.tls {
            Some(_) => server.tls_port(),
            None => server.port(),
        }
    }

    async fn sentinels(&self, master: u16) -> Vec<RedisServer> {
        let told = |text: String| {
            let monitor = format!("sentinel monitor {NAME} redis-1 6379 2");
            assert!(
                text.contains(&monitor),
                "redis/sentinel.conf says {monitor}"
            );
            text.replace(
                &monitor,
                &format!("sentinel monitor {NAME} 127.0.0.1 {master} 2"),
            )
        };
        let mut settings = RedisServer::shipped("sentinel.conf", told).sentinel();
        if self.quick {
            settings = settings
                .config(&format!(
                    "sentinel down-after-milliseconds {NAME} {PATIENT}"
                ))
                // A vote without a majority is repeated after twice this time.
                .config(&format!("sentinel failover-timeout {NAME} 3000"));
        }
        for line in &self.sentinels {
            settings = settings.config(line);
        }
        let settings = self.with_tls(settings);
        let sentinels = join_all((0..3).map(|_| settings.clone().start())).await;
        if self.quick {
            for sentinel in &sentinels {
                sentinel.hurry().await;
            }
        }
        sentinels
    }
}

impl RedisServer {
    async fn set(&self, name: &str, value: &str) {
        self.command(&["CONFIG", "SET", name, value]).await;
    }

    /// A Sentinel looks and talks every 100 to 500 ms, not every 1 to 10 s.
    async fn hurry(&self) {
        let words = [
            "SENTINEL",
            "DEBUG",
            "INFO-PERIOD",
            "200",
            // A replica of which nothing was heard for five times this is not promoted, and with a master down it is asked once in a second.
            "PING-PERIOD",
            "500",
            "ASK-PERIOD",
            "100",
            // After four times this one that calls itself master against their will is made a replica: not while a failover runs.
            "PUBLISH-PERIOD",
            "500",
            "TILT-PERIOD",
            "1000",
        ];
        self.command(&words).await;
    }
}

/// The six processes. They end with their owner.
pub(crate) struct RedisSentinel {
    servers: Vec<RedisServer>,
    wires: Vec<ChaosProxy>,
    sentinels: Vec<RedisServer>,
    /// Whether its times are those of a test.
    quick: bool,
    /// Where they are.
    nodes: String,
    /// The authority of their certificates.
    tls: Option<PathBuf>,
}

impl RedisSentinel {
    /// How everything is started.
    pub(crate) fn settings() -> SentinelSettings {
        SentinelSettings {
            servers: Vec::new(),
            sentinels: Vec::new(),
            quick: true,
            tls: None,
        }
    }

    /// Starts everything as it is shipped, but for the times. Server 0 is the master.
    pub(crate) async fn start() -> Self {
        Self::settings().start().await
    }

    /// Where the Sentinels are, as a gateway is told.
    pub(crate) fn nodes(&self) -> &str {
        &self.nodes
    }

    /// A gateway that is told of the Sentinels and all passwords.
    pub(crate) fn gateway(&self) -> Settings {
        self.gateway_by(&self.nodes)
    }

    /// A gateway that is told of these Sentinels.
    pub(crate) fn gateway_by(&self, nodes: &str) -> Settings {
        let settings = Gateway::with("redis.sentinel.nodes", nodes)
            .with("redis.sentinel.password", self.sentinels[0].password())
            .with("redis.password", self.servers[0].password());
        match &self.tls {
            // The host is not used.
            Some(authority) => settings
                .with("redis.url", "rediss://nowhere.invalid")
                .with("redis.tls.ca", authority.display()),
            None => settings,
        }
    }

    /// A server, by its number.
    pub(crate) fn at(&self, at: usize) -> &RedisServer {
        &self.servers[at]
    }

    /// What everybody else sees of it.
    pub(crate) fn wire(&self, at: usize) -> &ChaosProxy {
        &self.wires[at]
    }

    /// A Sentinel, by its number.
    pub(crate) fn sentinel(&mut self, at: usize) -> &mut RedisServer {
        &mut self.sentinels[at]
    }

    /// A Sentinel that came back looks and talks often again.
    pub(crate) async fn hurry(&self, at: usize) {
        self.sentinels[at].hurry().await;
    }

    /// The numbers of all servers but this one.
    pub(crate) fn others(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.servers.len()).filter(move |other| *other != at)
    }

    /// The server that every Sentinel that answers calls the master, if they agree.
    pub(crate) async fn named(&self) -> Result<usize, String> {
        let mut named = Vec::new();
        for sentinel in &self.sentinels {
            let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
            if let Ok(Value::Array(address)) = sentinel.try_command(&words).await {
                named.push(u16::try_from(address[1].integer()).unwrap());
            }
        }
        let ports: Vec<_> = self.wires.iter().map(ChaosProxy::port).collect();
        named.dedup();
        match named[..] {
            [port] => match ports.iter().position(|known| *known == port) {
                Some(at) => Ok(at),
                None => Err(format!("{port}, of {ports:?}")),
            },
            _ => Err(format!("{named:?}, of {ports:?}")),
        }
    }

    /// Waits until another server than `old` is the master, and says which.
    pub(crate) async fn promoted(&self, old: usize) -> usize {
        let what = format!("another master than {old}");
        let master = patiently(&what, async || {
            let at = self.named().await?;
            let info = self.replication(at).await?;
            match info.as_str() {
                "master" if at != old => Ok(at),
                role => Err(format!("{at}, a {role}")),
            }
        })
        .await;
        self.miss_after(PATIENT).await;
        master
    }

    async fn replication(&self, at: usize) -> Result<String, String> {
        let info = self.servers[at].try_command(&["INFO", "replication"]).await;
        let info = info.map_err(|error| error.to_string())?;
        let field = |name: &str| info.fields().get(name).cloned().unwrap_or_default();
        Ok(match field("role").as_str() {
            "slave" => field("master_link_status") + " to " + &field("master_port"),
            role => role.to_owned(),
        })
    }

    /// Waits until a server follows another one and has all of it.
    pub(crate) async fn follows(&self, at: usize, master: usize) {
        let wanted = format!("up to {}", self.wires[master].port());
        patiently(&format!("{at} to follow {master}"), async || {
            match self.replication(at).await? {
                saw if saw == wanted => Ok(()),
                saw => Err(saw),
            }
        })
        .await;
    }

    /// Waits until every replica follows the master, and every Sentinel knows all others and takes each replica for good.
    pub(crate) async fn settled(&self) {
        patiently("everybody to know everybody", async || {
            let master = self.named().await?;
            for at in self.others(master) {
                let wanted = format!("up to {}", self.wires[master].port());
                let saw = self.replication(at).await?;
                if saw != wanted {
                    return Err(format!("{at}: {saw}"));
                }
            }
            for sentinel in &self.sentinels {
                let ask = async |word| sentinel.command(&["SENTINEL", word, NAME]).await;
                let seen = ask("MASTER").await.fields();
                let counts = [&seen["num-slaves"], &seen["num-other-sentinels"]];
                if counts != ["2", "2"] || seen["flags"] != "master" {
                    return Err(format!("{seen:?}"));
                }
                for replica in ask("REPLICAS").await.items() {
                    let seen = replica.fields();
                    if seen["flags"] != "slave" || seen["master-link-status"] != "ok" {
                        return Err(format!("{seen:?}"));
                    }
                }
            }
            Ok(())
        })
        .await;
    }

    /// Until another server has been promoted, one that is silent is missed soon.
    pub(crate) async fn miss_soon(&self) {
        self.miss_after(HASTY).await;
    }

    async fn miss_after(&self, millis: &str) {
        if !self.quick {
            return;
        }
        let words = ["SENTINEL", "SET", NAME, "down-after-milliseconds", millis];
        for sentinel in &self.sentinels {
            // One that was killed hears nothing.
            let _ = sentinel.try_command(&words).await;
        }
    }

    /// Kills a server, and what is on its way with it; it is missed soon.
    pub(crate) async fn kill(&mut self, at: usize) {
        self.miss_soon().await;
        self.servers[at].kill();
        self.wires[at].cut(super::Aim::All);
    }

    /// Lets a server come back with its files.
    pub(crate) async fn restart(&mut self, at: usize) {
        self.servers[at].restart().await;
    }

    /// Nothing comes to the replicas of this server any more, and nothing from them.
    pub(crate) fn part_replicas(&self, at: usize) {
        self.wires[at].part_replicas();
    }

    /// This master is parted from its replicas and from the Sentinels; who else reaches it still does.
    pub(crate) fn part(&self, at: usize) {
        self.wires[at].part_replicas();
        self.wires[at].part_sentinels();
    }

    /// Everybody reaches this server again. What was on its way is gone.
    pub(crate) fn heal(&self, at: usize) {
        self.wires[at].heal();
    }

    /// Asks a Sentinel to make another server the master while all is well.
    pub(crate) async fn fail_over(&self) {
        let words = ["SENTINEL", "FAILOVER", NAME];
        patiently("a Sentinel to begin", async || {
            let answer = self.sentinels[0].try_command(&words).await;
            match answer.map_err(|error| error.to_string())? {
                Value::Status(_) => Ok(()),
                other => Err(other.to_string()),
            }
        })
        .await;
    }
}

/// Looks until `look` finds what it wants, for as long as a failover may take.
pub(crate) async fn patiently<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, look).await
}

mod tests {
    use crate::support::redis_server::{setting, shipped};

    /// The lines of a file that say something.
    fn lines(file: &str) -> Vec<String> {
        let text = shipped(file);
        let said = text.lines().filter(|line| !line.is_empty());
        let said = said.filter(|line| !line.starts_with('#'));
        said.map(str::to_owned).collect()
    }

    /// Any of them may become the master.
    #[test]
    fn the_shipped_replica_differs_from_the_master_in_whom_it_follows() {
        let mut master = lines("master.conf");
        master.push("replicaof redis-1 6379".to_owned());
        assert_eq!(lines("replica.conf"), master);
        for name in ["requirepass", "masterauth"] {
            let files = ["master.conf", "cluster.conf"].map(shipped);
            let [one, other] = files.map(|text| setting(&text, name));
            assert_eq!(one, other);
        }
    }
}
