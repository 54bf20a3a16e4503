//! Where the log lives: what the replicas are told of it, which server has it now, and how another one takes over.

use std::{net::SocketAddr, time::Duration};

use tokio::time::sleep;

use super::{chronicle::Snapshot, judge::Millis, world::now_ms};
use crate::support::{
    ChaosProxy, Fsync, Gateway, RedisCluster, RedisSentinel, RedisServer, Settings, patiently,
};

/// The kinds of homes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One server. Each replica reaches it through a wire of its own, which breaks.
    Single,
    /// The same, and it has no functions.
    Scripts,
    /// A master with two replicas, and three Sentinels. The wire before each server is the same for all.
    Sentinel,
    /// Three masters with a replica each.
    Cluster,
}

/// A home that runs. A number is that of the server that has the log now.
pub(super) enum Home {
    Single(Box<RedisServer>),
    Sentinel(Box<RedisSentinel>, usize),
    Cluster(Box<RedisCluster>, usize),
}

/// One server has taken over from another.
pub(super) struct Handover {
    /// The old one stored nothing after this moment.
    pub(super) since: Millis,
    /// What the old one had in the end.
    pub(super) old: Snapshot,
    /// What the new one had in the beginning.
    pub(super) new: Snapshot,
    /// The number of the one that was killed.
    pub(super) killed: usize,
}

impl Home {
    pub(super) async fn begin(kind: Kind) -> Self {
        let single = RedisServer::settings().appendonly(Fsync::Always);
        match kind {
            Kind::Single => Self::Single(Box::new(single.start().await)),
            Kind::Scripts => {
                let hidden = ["FUNCTION", "FCALL", "FCALL_RO"].into_iter();
                let settings = hidden.fold(single, |settings, command| {
                    settings.config(&format!("rename-command {command} \"\""))
                });
                Self::Single(Box::new(settings.start().await))
            }
            Kind::Sentinel => {
                // What is lost is for the test to decide.
                let settings = RedisSentinel::settings().server("min-replicas-to-write 0");
                Self::Sentinel(Box::new(settings.start().await), 0)
            }
            Kind::Cluster => {
                let cluster = RedisCluster::start().await;
                let owner = cluster.owner().await.unwrap();
                Self::Cluster(Box::new(cluster), owner)
            }
        }
    }

    /// The server that has the log now.
    pub(super) fn master(&self) -> &RedisServer {
        match self {
            Self::Single(redis) => redis,
            Self::Sentinel(group, at) => group.at(*at),
            Self::Cluster(cluster, at) => cluster.at(*at),
        }
    }

    /// What has to be said to its servers; empty where nothing.
    pub(super) fn password(&self) -> &str {
        self.master().password()
    }

    /// Where a wire of each replica leads to; none where replicas find the way by themselves.
    pub(super) fn wired(&self) -> Option<SocketAddr> {
        match self {
            Self::Single(redis) => Some(redis.address()),
            Self::Sentinel(..) | Self::Cluster(..) => None,
        }
    }

    /// The wire before the server that has the log, which all replicas share.
    pub(super) fn shared_wire(&self) -> Option<&ChaosProxy> {
        match self {
            Self::Sentinel(group, at) => Some(group.wire(*at)),
            Self::Single(_) | Self::Cluster(..) => None,
        }
    }

    /// How a replica of the gateway is told of it; `port` is that of its wire.
    pub(super) fn tell(&self, port: Option<u16>) -> Settings {
        match self {
            Self::Single(redis) => {
                let port = port.unwrap_or(redis.port());
                Gateway::settings().env("REDIS_URL", &redis.url_by(port))
            }
            Self::Sentinel(group, _) => group.gateway(),
            Self::Cluster(cluster, _) => cluster.gateway(),
        }
    }

    /// `kill -9`; after a while it comes back with its file.
    pub(super) async fn restart(&mut self, time: Duration) {
        if let Self::Single(redis) = self {
            redis.kill();
            sleep(time).await;
            redis.restart().await;
        }
    }

    /// From now on what the master takes is lost.
    pub(super) fn part(&self) {
        if let Self::Sentinel(group, at) = self {
            group.part_replicas(*at);
        }
    }

    /// Kills the master and waits until another one is there. What is written down is exact: nothing more is stored while it is
    /// read, and where the replicas are not parted, they get everything before that.
    pub(super) async fn fail_over(&mut self, parted: bool) -> Handover {
        let pause = ["CLIENT", "PAUSE", "60000", "WRITE"];
        self.master().command(&pause).await;
        let since = now_ms();
        let heirs = self.heirs().await;
        if !parted {
            let all = offset(self.master(), "master_repl_offset").await.unwrap();
            for &heir in &heirs {
                let heir = self.server(heir);
                patiently("a replica to have everything", async || {
                    match offset(heir, "slave_repl_offset").await? {
                        some if some < all => Err(format!("{some} of {all}")),
                        _ => Ok(()),
                    }
                })
                .await;
            }
        }
        let old = Snapshot::take(self.master()).await;
        let mut has = Vec::new();
        for &heir in &heirs {
            has.push((heir, Snapshot::take(self.server(heir)).await));
        }
        let killed = match self {
            Self::Single(_) => unreachable!("nobody takes over"),
            Self::Sentinel(group, at) => {
                group.kill(*at).await;
                group.heal(*at);
                std::mem::replace(at, group.promoted(*at).await)
            }
            Self::Cluster(cluster, at) => {
                cluster.kill(*at).await;
                std::mem::replace(at, cluster.promoted(*at).await)
            }
        };
        let heir = self.number();
        let new = has.into_iter().find(|(at, _)| *at == heir);
        let (_, new) =
            new.unwrap_or_else(|| panic!("{heir} took over from {killed}, of {heirs:?}"));
        Handover {
            since,
            old,
            new,
            killed,
        }
    }

    fn number(&self) -> usize {
        match self {
            Self::Single(_) => 0,
            Self::Sentinel(_, at) | Self::Cluster(_, at) => *at,
        }
    }

    fn server(&self, at: usize) -> &RedisServer {
        match self {
            Self::Single(redis) => redis,
            Self::Sentinel(group, _) => group.at(at),
            Self::Cluster(cluster, _) => cluster.at(at),
        }
    }

    /// Who may take over.
    async fn heirs(&self) -> Vec<usize> {
        match self {
            Self::Single(_) => Vec::new(),
            Self::Sentinel(group, at) => group.others(*at).collect(),
            Self::Cluster(cluster, at) => cluster.replicas_of(*at).await.unwrap(),
        }
    }

    /// The server that was killed comes back, and follows the other one. Before that it may take itself for the master, and
    /// nobody may ask it any more.
    pub(super) async fn revive(&mut self, killed: usize) {
        match self {
            Self::Single(_) => {}
            Self::Sentinel(group, _) => {
                group.restart(killed).await;
                group.settled().await;
            }
            Self::Cluster(cluster, _) => {
                cluster.restart(killed).await;
                cluster.settled().await;
            }
        }
    }

    /// The slot that everything is in moves to another master, some keys at a time.
    pub(super) async fn move_slot(&mut self) {
        if let Self::Cluster(cluster, owner) = self {
            let others = cluster.others(&[*owner]);
            let mut to = None;
            for at in others {
                let role = cluster.at(at).command(&["ROLE"]).await;
                if role.items()[0].text() == "master" {
                    to = Some(at);
                }
            }
            let to = to.unwrap();
            cluster.begin_to_move(*owner, to).await;
            while cluster.move_keys(*owner, to, 5).await > 0 {
                sleep(Duration::from_millis(10)).await;
            }
            cluster.end_to_move(*owner, to).await;
            *owner = to;
            cluster.settled().await;
        }
    }
}

/// How far a server is in what a master has written.
async fn offset(server: &RedisServer, name: &str) -> Result<i64, String> {
    let info = server.try_command(&["INFO", "replication"]).await;
    let info = info.map_err(|error| error.to_string())?.fields();
    let offset = info.get(name).and_then(|text| text.parse().ok());
    offset.ok_or_else(|| format!("{info:?}"))
}
