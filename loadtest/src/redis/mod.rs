//! A `redis-server` of one's own: a free port, a folder that goes with it, nothing written to the disk.

mod group;
mod resp;
mod stats;
mod xadd;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

pub(crate) use self::group::{Group, Layout};
pub(crate) use self::resp::Connection;
pub(crate) use self::stats::{Commands, field};
pub(crate) use self::xadd::{Xadds, xadd};

use crate::clock::{deadline, now_ns};
use crate::process::{CpuTime, ServerProcess};
use crate::target::free_addresses;

const READY: Duration = Duration::from_secs(10);

/// A Redis that answers. Dropping it ends it and removes its folder.
pub(crate) struct RedisServer {
    // Ended before its folder goes.
    pub(crate) process: ServerProcess,
    _home: Home,
    pub(crate) address: SocketAddr,
}

/// A folder that is removed with its owner.
struct Home(PathBuf);

impl Home {
    /// A new one for the server on this port.
    fn new(port: u16) -> Result<Self> {
        let name = format!("tidegate-loadtest-{}-redis-{port}", std::process::id());
        let home = Self(std::env::temp_dir().join(name));
        std::fs::create_dir(&home.0)
            .with_context(|| format!("cannot make the folder {}", home.0.display()))?;
        Ok(home)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _kept_otherwise = std::fs::remove_dir_all(&self.0);
    }
}

impl RedisServer {
    /// Starts `redis-server` on `core` and waits until it answers.
    pub(crate) fn start(core: usize) -> Result<Self> {
        let [address, _] = free_addresses()?;
        let home = Home::new(address.port())?;
        let mut command: Vec<OsString> = vec!["redis-server".into()];
        let port = address.port().to_string();
        let settings = [
            ("--bind", "127.0.0.1"),
            ("--port", &port),
            ("--save", ""),
            ("--appendonly", "no"),
            ("--daemonize", "no"),
        ];
        for (name, value) in settings {
            command.extend([name.into(), value.into()]);
        }
        command.extend(["--dir".into(), home.0.clone().into_os_string()]);
        let mut server = Self {
            process: ServerProcess::start(&[core], "redis", &command, &[])?,
            _home: home,
            address,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let until = deadline(READY);
        while now_ns() < until {
            self.process.check().context(
                "redis-server does not run; where it is missing, `scripts/install-test-tools build redis` installs it",
            )?;
            let asked = self
                .connect()
                .and_then(|mut connection| connection.ask(&["PING"]));
            if asked.is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!(
            "redis-server is not ready after {READY:?}: {}",
            self.process.last_words()
        );
    }

    /// What `REDIS_URL` says to reach it.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::open(self.address)
    }

    /// All commands that were executed so far, those inside of functions included.
    pub(crate) fn commands(&self) -> Result<Commands> {
        Ok(Commands::read(
            &self.connect()?.text(&["INFO", "commandstats"])?,
        ))
    }
}

/// What Redis does during a stretch of time that is still open.
pub(crate) struct RedisMeter {
    cpu: CpuTime,
    commands: Commands,
}

/// What Redis did.
#[derive(Clone, Debug)]
pub(crate) struct RedisWindow {
    pub(crate) cpu: CpuTime,
    pub(crate) commands: Commands,
}

impl RedisMeter {
    pub(crate) fn start(redis: &RedisServer) -> Result<Self> {
        Ok(Self {
            commands: redis.commands()?,
            cpu: redis.process.cpu()?,
        })
    }

    pub(crate) fn stop(self, redis: &RedisServer) -> Result<RedisWindow> {
        let cpu = redis.process.cpu()?.since(self.cpu);
        Ok(RedisWindow {
            cpu,
            commands: redis.commands()?.since(&self.commands),
        })
    }
}
