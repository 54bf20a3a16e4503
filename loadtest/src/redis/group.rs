//! Many Redis processes that are one home of the log, set up from the files in `redis/` as they are shipped: one server, a
//! master with two replicas and three Sentinels, or a cluster of three masters with a replica each.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use super::Home;
use super::resp::{Connection, Value};
use crate::clock::{deadline, now_ns};
use crate::process::ServerProcess;

const MASTER: &str = include_str!("../../../redis/master.conf");
const SENTINEL: &str = include_str!("../../../redis/sentinel.conf");
const CLUSTER: &str = include_str!("../../../redis/cluster.conf");

/// How long everybody may take to know everybody.
const PATIENCE: Duration = Duration::from_secs(40);

/// What sort of a home it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Single,
    Sentinel,
    Cluster,
}

/// One process, and how it is started again.
struct Member {
    process: ServerProcess,
    home: Home,
    cores: Vec<usize>,
    command: Vec<OsString>,
    address: SocketAddr,
    password: String,
}

/// The processes. Dropping it ends them.
pub(crate) struct Group {
    layout: Layout,
    members: Vec<Member>,
    sentinels: Vec<Member>,
}

/// A port that was free a moment ago, below those that a system gives to outgoing connections: while a server is down nobody else
/// gets its port.
fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 12_000)?;
    for _ in 0..1_000 {
        let port = 15_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port")
}

/// The value of a line of a configuration.
fn setting(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(said, _)| *said == name);
    found.map_or_else(String::new, |(_, value)| value.to_owned())
}

impl Member {
    fn start(cores: &[usize], text: &str, lines: &[String], sentinel: bool) -> Result<Self> {
        let [address, bus] = [free_address()?, free_address()?];
        let home = Home::new(address.port())?;
        let folder = home.0.display();
        let mut all = format!(
            "{text}\nbind 127.0.0.1\nport {}\ndir {folder}\n",
            address.port()
        );
        if text.contains("cluster-enabled yes") {
            all += "cluster-port ";
            all += &bus.port().to_string();
            all += "\n";
        }
        all += &lines.join("\n");
        let file = home.0.join("redis.conf");
        fs::write(&file, all + "\n")?;
        let mut command: Vec<OsString> = vec!["redis-server".into(), file.into()];
        if sentinel {
            command.push("--sentinel".into());
        }
        let mut member = Self {
            process: ServerProcess::start(cores, "redis", &command, &[])?,
            home,
            cores: cores.to_vec(),
            command,
            address,
            password: setting(text, "requirepass"),
        };
        let pong = Value::Status("PONG".to_owned());
        eventually("redis-server to answer", || {
            member.process.check()?;
            Ok(member.ask(&["PING"]).is_ok_and(|answer| answer == pong))
        })?;
        Ok(member)
    }

    fn ask(&self, words: &[&str]) -> Result<Value> {
        let mut connection = Connection::open(self.address)?;
        if !self.password.is_empty() {
            connection.ask(&["AUTH", &self.password])?;
        }
        connection.ask(words)
    }

    fn text(&self, words: &[&str]) -> Result<String> {
        match self.ask(words)? {
            Value::Bulk(text) => Ok(String::from_utf8(text)?),
            Value::Status(text) => Ok(text),
            other => bail!("{}: {other:?}", words.join(" ")),
        }
    }
}

/// Looks until it is so.
fn eventually(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = deadline(PATIENCE);
    while now_ns() < until {
        if look()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("waited {PATIENCE:?} for {what}")
}

impl Group {
    /// Starts everything and waits until each knows all others.
    pub(crate) fn start(layout: Layout, cores: &[usize]) -> Result<Self> {
        let start = |text: &str, lines: &[String], sentinel: bool| {
            Member::start(cores, text, lines, sentinel)
        };
        let mut group = Self {
            layout,
            members: Vec::new(),
            sentinels: Vec::new(),
        };
        match layout {
            Layout::Single => {
                let alone = "min-replicas-to-write 0".to_owned();
                group.members.push(start(MASTER, &[alone], false)?);
            }
            Layout::Sentinel => {
                let master = start(MASTER, &[], false)?;
                let port = master.address.port();
                group.members.push(master);
                for _ in 0..2 {
                    let line = format!("replicaof 127.0.0.1 {port}");
                    group.members.push(start(MASTER, &[line], false)?);
                }
                let named = "sentinel monitor mymaster redis-1 6379 2";
                let here = format!("sentinel monitor mymaster 127.0.0.1 {port} 2");
                for _ in 0..3 {
                    let text = SENTINEL.replace(named, &here);
                    group.sentinels.push(start(&text, &[], true)?);
                }
                group.know_everybody()?;
            }
            Layout::Cluster => {
                for _ in 0..6 {
                    group.members.push(start(CLUSTER, &[], false)?);
                }
                group.join()?;
            }
        }
        Ok(group)
    }

    fn know_everybody(&self) -> Result<()> {
        eventually("the replicas to follow", || {
            let info = self.members[0].text(&["INFO", "replication"])?;
            Ok(info.matches("state=online").count() == 2)
        })?;
        eventually("the Sentinels to know each other", || {
            for sentinel in &self.sentinels {
                let Value::Array(fields) = sentinel.ask(&["SENTINEL", "MASTER", "mymaster"])?
                else {
                    return Ok(false);
                };
                let field = |name: &str| {
                    let at = fields.iter().position(|it| is(it, name))?;
                    fields.get(at + 1)
                };
                let all = field("num-slaves").is_some_and(|it| is(it, "2"))
                    && field("num-other-sentinels").is_some_and(|it| is(it, "2"));
                if !all {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn join(&self) -> Result<()> {
        let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (member, (first, last)) in self.members.iter().zip(slots) {
            member.ask(&["CLUSTER", "ADDSLOTSRANGE", first, last])?;
        }
        for (at, member) in self.members.iter().enumerate() {
            let epoch = (at + 1).to_string();
            member.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])?;
        }
        let first = &self.members[0];
        for member in &self.members[1..] {
            let file = fs::read_to_string(member.home.0.join("redis.conf"))?;
            let bus = setting(&file, "cluster-port");
            let port = member.address.port().to_string();
            first.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        let all = |wanted: &str| {
            eventually(wanted, || {
                let mut infos = self.members.iter().map(|it| it.text(&["CLUSTER", "INFO"]));
                Ok(infos.all(|info| info.is_ok_and(|info| info.contains(wanted))))
            })
        };
        all("cluster_known_nodes:6")?;
        all("cluster_state:ok")?;
        for at in 0..3 {
            let id = self.members[at].text(&["CLUSTER", "MYID"])?;
            let replicate = ["CLUSTER", "REPLICATE", &id];
            eventually("a node to take its master", || {
                let answer = self.members[at + 3].ask(&replicate)?;
                Ok(matches!(answer, Value::Status(_)))
            })?;
        }
        eventually("the replicas to follow", || {
            let online = |at: usize| {
                let info = self.members[at].text(&["INFO", "replication"]);
                info.is_ok_and(|info| info.contains("state=online"))
            };
            Ok((0..3).all(online))
        })
    }

    /// The server that has the log in the beginning: of a cluster, the one that owns slot 13907.
    fn owner(&self) -> usize {
        match self.layout {
            Layout::Single | Layout::Sentinel => 0,
            Layout::Cluster => 2,
        }
    }

    fn heirs(&self) -> &[usize] {
        match self.layout {
            Layout::Single => &[],
            Layout::Sentinel => &[1, 2],
            Layout::Cluster => &[5],
        }
    }

    /// What a gateway is told of it: names and values of its environment.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let nodes = |members: &[Member]| {
            let nodes = members.iter().map(|member| member.address.to_string());
            nodes.collect::<Vec<_>>().join(",")
        };
        let password = &self.members[0].password;
        let told = match self.layout {
            Layout::Single => vec![
                ("URL", format!("redis://{}", self.members[0].address)),
                ("PASSWORD", password.clone()),
            ],
            Layout::Sentinel => vec![
                ("SENTINEL__NODES", nodes(&self.sentinels)),
                ("SENTINEL__PASSWORD", self.sentinels[0].password.clone()),
                ("PASSWORD", password.clone()),
            ],
            Layout::Cluster => vec![
                ("CLUSTER__NODES", nodes(&self.members)),
                ("PASSWORD", password.clone()),
            ],
        };
        told.into_iter()
            .map(|(name, value)| (format!("REDIS__{name}"), value))
            .collect()
    }

    /// From now on the replicas get nothing of what the master takes: they stand still, and their connections are cut. A bold
    /// master takes events without them.
    pub(crate) fn part(&self, bold: bool) -> Result<()> {
        if bold {
            let alone = ["CONFIG", "SET", "min-replicas-to-write", "0"];
            self.members[self.owner()].ask(&alone)?;
        }
        for &heir in self.heirs() {
            self.members[heir].process.freeze()?;
        }
        let kill = ["CLIENT", "KILL", "TYPE", "replica"];
        self.members[self.owner()].ask(&kill)?;
        Ok(())
    }

    /// `kill -9` of the server that has the log; a single one is started again at once.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let owner = self.owner();
        self.members[owner].process.kill()?;
        for &heir in self.heirs() {
            self.members[heir].process.thaw()?;
        }
        if self.layout == Layout::Single {
            let member = &mut self.members[owner];
            member.process = ServerProcess::start(&member.cores, "redis", &member.command, &[])?;
        }
        Ok(())
    }
}

fn is(value: &Value, text: &str) -> bool {
    matches!(value, Value::Bulk(bytes) if bytes == text.as_bytes())
}
