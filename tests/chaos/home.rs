//! Where the log lives: what the replicas are told of it, which server has it now, and what may break there.

use std::{net::SocketAddr, time::Duration};

use tokio::time::sleep;

use crate::support::{Fsync, RedisServer, RedisSettings, Settings};

/// The kinds of homes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One server. Replicas reach it through wires that break.
    Single,
}

/// A home that runs.
pub(super) enum Home {
    Single(RedisServer),
}

/// What every server that holds the log is set up with.
fn server() -> RedisSettings {
    RedisServer::settings().appendonly(Fsync::Always)
}

impl Home {
    pub(super) async fn begin(kind: Kind) -> Self {
        match kind {
            Kind::Single => Self::Single(server().start().await),
        }
    }

    /// The server that has the log now.
    pub(super) fn master(&self) -> &RedisServer {
        match self {
            Self::Single(redis) => redis,
        }
    }

    /// Where a wire that breaks leads to; none where replicas find the way by themselves.
    pub(super) fn wired(&self) -> Option<SocketAddr> {
        match self {
            Self::Single(redis) => Some(redis.address()),
        }
    }

    /// How a replica of the gateway is told of it; `port` is that of its wire.
    pub(super) fn tell(&self, settings: Settings, port: Option<u16>) -> Settings {
        match self {
            Self::Single(redis) => {
                let port = port.unwrap_or(redis.port());
                settings.env("REDIS_URL", &redis.url_by(port))
            }
        }
    }

    /// `kill -9`; after a while it comes back with its file.
    pub(super) async fn restart(&mut self, time: Duration) {
        match self {
            Self::Single(redis) => {
                redis.kill();
                sleep(time).await;
                redis.restart().await;
            }
        }
    }
}
