//! The servers that are measured, all started in the same way: the gateway, the floor, and the constant answer.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::clock::{deadline, now_ns};
use crate::process::ServerProcess;

const READY: Duration = Duration::from_secs(10);

/// What a scenario runs against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Target {
    /// The gateway, as an operator runs it.
    Gateway,
    /// The bare epoll server: the least that the kernel lets anybody do.
    Floor,
    /// hyper answering a constant.
    #[value(skip)]
    Constant,
}

/// What a scenario asks of the server's settings; the rest is as it comes.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) retained_events: u64,
    pub(crate) retained_bytes: String,
    pub(crate) write_timeout: String,
    /// Whether the floor keeps what was published, to replay it. Live figures are taken without.
    pub(crate) floor_keeps: bool,
    /// As on the internet: no development mode, so the streams of each address are counted. Rates are off.
    pub(crate) counted: bool,
    /// Where the log lives, when that is not the process.
    pub(crate) redis_url: Option<String>,
    /// Further settings, by their names in the environment without what all begin with.
    pub(crate) environment: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retained_events: 100_000,
            retained_bytes: "256MiB".to_owned(),
            write_timeout: "60s".to_owned(),
            floor_keeps: false,
            counted: false,
            redis_url: None,
            environment: Vec::new(),
        }
    }
}

/// A server that answers.
pub(crate) struct Server {
    pub(crate) target: Target,
    pub(crate) process: ServerProcess,
    /// Where subscribers connect, and where the gateway takes its publishers too.
    pub(crate) listen: SocketAddr,
    /// Where publishers connect.
    pub(crate) publish: SocketAddr,
    /// Where the gateway's metrics are.
    admin: SocketAddr,
}

impl Server {
    /// Starts the server on `cores` and waits until it takes traffic.
    pub(crate) fn start(
        target: Target,
        gateway: &PathBuf,
        cores: &[usize],
        settings: &Settings,
    ) -> Result<Self> {
        let [listen, second] = free_addresses()?;
        let own = std::env::current_exe().context("cannot find the load program's own file")?;
        let (name, command, environment, publish) = match target {
            Target::Gateway => {
                let command: Vec<OsString> = vec![gateway.into(), "serve".into()];
                (
                    "gateway",
                    command,
                    gateway_environment(listen, second, settings),
                    listen,
                )
            }
            Target::Floor => {
                let mut command = floor_command(own, listen, second);
                if settings.floor_keeps {
                    command.push("--keep".into());
                }
                ("floor", command, Vec::new(), second)
            }
            Target::Constant => {
                let command = vec![
                    own.into(),
                    "constant".into(),
                    "--listen".into(),
                    listen.to_string().into(),
                ];
                ("constant", command, Vec::new(), listen)
            }
        };
        let mut server = Self {
            target,
            process: ServerProcess::start(cores, name, &command, &environment)?,
            listen,
            publish,
            admin: second,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// The value of a metric of the gateway that has no labels.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let mut socket = TcpStream::connect(self.admin)?;
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .strip_prefix(' ')?
                    .trim()
                    .parse()
                    .ok()
            })
            .with_context(|| format!("the gateway has no metric {name}"))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let until = deadline(READY);
        while now_ns() < until {
            self.process.check()?;
            let ready = match self.target {
                Target::Gateway => answers_ready(self.listen).unwrap_or(false),
                Target::Floor | Target::Constant => TcpStream::connect(self.publish).is_ok(),
            };
            if ready {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!(
            "the server is not ready after {READY:?}: {}",
            self.process.last_words()
        );
    }
}

fn floor_command(own: PathBuf, listen: SocketAddr, publish: SocketAddr) -> Vec<OsString> {
    vec![
        own.into(),
        "floor".into(),
        "--listen".into(),
        listen.to_string().into(),
        "--publish".into(),
        publish.to_string().into(),
    ]
}

fn gateway_environment(
    listen: SocketAddr,
    admin: SocketAddr,
    settings: &Settings,
) -> Vec<(String, String)> {
    let counted = [
        ("AUTH__ANONYMOUS", "subscribe,publish,presence"),
        ("LIMITS__CONNECTIONS_PER_ADDRESS", "20000"),
        ("LIMITS__RATE__CONNECT", "off"),
        ("LIMITS__RATE__PUBLISH", "off"),
    ];
    let counted = counted
        .into_iter()
        .filter(|_| settings.counted)
        .map(|(key, value)| (key, value.to_owned()));
    [
        ("SERVER__LISTEN", listen.to_string()),
        ("ADMIN__LISTEN", admin.to_string()),
        ("LIMITS__CONNECTIONS", "20000".to_owned()),
        ("RETENTION__EVENTS", settings.retained_events.to_string()),
        ("RETENTION__BYTES", settings.retained_bytes.clone()),
        ("RETENTION__TOTAL_BYTES", "2GiB".to_owned()),
        ("STREAM__WRITE_TIMEOUT", settings.write_timeout.clone()),
        ("DRAIN__TIMEOUT", "1s".to_owned()),
    ]
    .into_iter()
    .chain(counted)
    .chain(settings.redis_url.clone().map(|url| ("REDIS__URL", url)))
    .map(|(key, value)| (key.to_owned(), value))
    .chain(settings.environment.iter().cloned())
    .map(|(key, value)| (format!("TIDEGATE_{key}"), value))
    .collect()
}

fn answers_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket
        .write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// Two ports that were free a moment ago.
pub(crate) fn free_addresses() -> Result<[SocketAddr; 2]> {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let [first, second] =
        listeners.map(|listener| listener.and_then(|listener| listener.local_addr()));
    Ok([
        first.context("no free port")?,
        second.context("no free port")?,
    ])
}
