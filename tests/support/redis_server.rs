//! A real `redis-server`, with a port, a folder and an end of its own, and questions to it as plain bytes.
//!
//! What it answers is read by a few lines of RESP2, so that the tests do not believe the client that they test.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{PATIENCE, STARTING, eventually_within, within};

/// Where ports are looked for: below those that a system gives to outgoing connections. While Redis is down nobody else gets
/// its port then, and a client that tries to come back cannot meet itself on it.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// When the file of commands is brought to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fsync {
    /// Before a command is answered: what was acknowledged survives `kill -9`.
    Always,
    /// Once in a second.
    EverySecond,
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedisSettings {
    shipped: String,
    part: Part,
    lines: Vec<String>,
    password: Option<String>,
    tls: Option<[PathBuf; 3]>,
}

/// What the process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// A server by itself, or a master or replica.
    #[default]
    Server,
    /// A node of a cluster, with a port for the bus.
    Node,
    /// A Sentinel: it keeps no data, and knows fewer settings.
    Sentinel,
}

impl RedisSettings {
    /// Is a node of a cluster, with a port of its own for the bus.
    pub(crate) fn node(mut self) -> Self {
        self.part = Part::Node;
        self
    }

    /// Is a Sentinel.
    pub(crate) fn sentinel(mut self) -> Self {
        self.part = Part::Sentinel;
        self
    }

    /// Keeps a file of commands, from which it comes back after a restart. Without it, it comes back empty.
    pub(crate) fn appendonly(self, fsync: Fsync) -> Self {
        let when = match fsync {
            Fsync::Always => "always",
            Fsync::EverySecond => "everysec",
        };
        self.config("appendonly yes")
            .config(&format!("appendfsync {when}"))
    }

    /// Adds a line of `redis.conf`, as `maxmemory 10mb`.
    pub(crate) fn config(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Knows scripts, but no functions, as some managed servers.
    pub(crate) fn without_functions(self) -> Self {
        let commands = ["FUNCTION", "FCALL", "FCALL_RO"];
        commands.iter().fold(self, |settings, command| {
            settings.config(&format!("rename-command {command} \"\""))
        })
    }

    /// Whoever does not say this password is refused.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        let line = format!("requirepass {password}");
        self.config(&line)
    }

    /// Adds a user; `rules` as in `ACL SETUSER`: `on >secret ~tidegate:* +@all`.
    pub(crate) fn user(self, name: &str, rules: &str) -> Self {
        self.config(&format!("user {name} {rules}"))
    }

    /// Copies the log of another server, which needs no password.
    pub(crate) fn replica_of(self, master: &RedisServer) -> Self {
        self.config(&format!("replicaof 127.0.0.1 {}", master.port()))
    }

    /// Listens with TLS, too: on [`RedisServer::tls_port`]. Clients need no certificate.
    pub(crate) fn tls(mut self, certificate: &Path, key: &Path, authority: &Path) -> Self {
        self.tls = Some([certificate, key, authority].map(Path::to_owned));
        self
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(self) -> RedisServer {
        let mut clashes = 0;
        loop {
            let mut server = RedisServer::spawn(self.clone());
            match server.answers().await {
                Ok(()) => return server,
                Err(end) if end.contains("Address already in use") && clashes < 20 => clashes += 1,
                Err(end) => panic!("redis-server ended:\n{end}"),
            }
        }
    }
}

/// The text of a configuration file that users are given.
pub(crate) fn shipped(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("redis");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// The value of a setting in a configuration file.
pub(crate) fn setting(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(said, _)| *said == name);
    found.unwrap_or_else(|| panic!("no {name}")).1.to_owned()
}

/// A port that nobody listens on.
pub(super) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(PORTS);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A running server, or one that was killed and may come back. It ends with its owner, and so do all its files.
pub(crate) struct RedisServer {
    settings: RedisSettings,
    home: TempDir,
    port: u16,
    tls_port: Option<u16>,
    child: Option<Child>,
}

/// The data files of a server at some moment.
#[derive(Clone, Debug)]
pub(crate) struct Dump(BTreeMap<PathBuf, Vec<u8>>);

impl RedisServer {
    /// How a server is started: without persistence, unless told otherwise.
    pub(crate) fn settings() -> RedisSettings {
        RedisSettings::default()
    }

    /// Begins with a file of `redis/` and its password; `change` says what cannot be said in lines after it.
    pub(crate) fn shipped(name: &str, change: impl FnOnce(String) -> String) -> RedisSettings {
        let text = shipped(name);
        let password = setting(&text, "requirepass");
        RedisSettings {
            shipped: change(text),
            password: Some(password),
            ..RedisSettings::default()
        }
    }

    /// Starts a server as it comes.
    pub(crate) async fn start() -> Self {
        Self::settings().start().await
    }

    fn spawn(settings: RedisSettings) -> Self {
        let mut server = Self {
            home: TempDir::new().unwrap(),
            port: free_port(),
            tls_port: settings.tls.as_ref().map(|_| free_port()),
            settings,
            child: None,
        };
        // Once: what a server or a Sentinel has written there itself holds when it comes back.
        fs::write(server.file(), server.configuration()).unwrap();
        server.run();
        server
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("redis.conf")
    }

    fn run(&mut self) {
        let sentinel = self.settings.part == Part::Sentinel;
        let begun = Command::new("redis-server")
            .arg(self.file())
            .args(sentinel.then_some("--sentinel"))
            .env_clear()
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match begun {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!("there is no redis-server: scripts/install-test-tools installs it")
            }
            Err(error) => panic!("redis-server does not start: {error}"),
        }
    }

    fn configuration(&self) -> String {
        let mut lines = vec![
            self.settings.shipped.clone(),
            "bind 127.0.0.1".to_owned(),
            format!("port {}", self.port),
            format!("dir {}", self.home.path().display()),
            "logfile redis.log".to_owned(),
            "daemonize no".to_owned(),
        ];
        if self.settings.part != Part::Sentinel {
            lines.extend([
                "save \"\"".to_owned(),
                "enable-debug-command local".to_owned(),
            ]);
        }
        if self.settings.shipped.is_empty() {
            // A first replica would be waited for as long as for anything here.
            lines.push("repl-diskless-sync-delay 0".to_owned());
        }
        if self.settings.part == Part::Node {
            lines.push(format!("cluster-port {}", free_port()));
        }
        if let (Some(port), Some([certificate, key, authority])) =
            (self.tls_port, &self.settings.tls)
        {
            lines.extend([
                format!("tls-port {port}"),
                format!("tls-cert-file {}", certificate.display()),
                format!("tls-key-file {}", key.display()),
                format!("tls-ca-cert-file {}", authority.display()),
                "tls-auth-clients no".to_owned(),
            ]);
        }
        lines.extend(self.settings.lines.iter().cloned());
        lines.join("\n") + "\n"
    }

    /// Waits until it answers and has read its files; else what it said before it ended.
    async fn answers(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            if self.ended() {
                return Err(self.log());
            }
            let answer = self.try_command(&["PING"]).await;
            let answers = matches!(&answer, Ok(Value::Status(pong)) if pong == "PONG");
            if answers && self.is_itself().await {
                return Ok(());
            }
            assert!(
                begun.elapsed() < STARTING,
                "waited {STARTING:?} for redis-server to answer, saw {answer:?}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether it is this process that answers: another server may have taken the port since it was found free.
    async fn is_itself(&self) -> bool {
        let about = self.try_command(&["INFO", "server"]).await;
        let Ok(about @ Value::Bulk(_)) = about else {
            return false;
        };
        let pid = self.child.as_ref().map(|child| child.id().to_string());
        about.fields().get("process_id") == pid.as_ref()
    }

    /// Whether there is no process any more.
    fn ended(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && child.try_wait().unwrap().is_some()
        {
            self.child = None;
        }
        self.child.is_none()
    }

    /// What it wrote about itself.
    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("redis.log")).unwrap_or_default()
    }

    /// How a gateway is told of it.
    pub(crate) fn url(&self) -> String {
        self.url_by(self.port)
    }

    /// How a gateway is told of it, when something on another port leads to it.
    pub(crate) fn url_by(&self, port: u16) -> String {
        match &self.settings.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{port}"),
            None => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// How a gateway is told of it as one of [`RedisSettings::user`].
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens with TLS.
    pub(crate) fn tls_port(&self) -> u16 {
        self.tls_port.unwrap()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while !self.ended() {
            assert!(
                begun.elapsed() < STARTING,
                "waited {STARTING:?} for redis-server to end"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets it come back, on its port and with its files, and waits until it answers. One that runs is killed before that.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let mut clashes = 0;
        loop {
            self.run();
            match self.answers().await {
                Ok(()) => return,
                Err(end) if end.contains("Address already in use") && clashes < 20 => clashes += 1,
                Err(end) => panic!("redis-server did not come back:\n{end}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// It neither reads nor answers any more; its connections stay open.
    pub(crate) fn freeze(&self) {
        if let Some(child) = &self.child {
            super::freeze(Pid::from_child(child));
        }
    }

    /// It goes on as if nothing had been.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn data_files(&self) -> Vec<PathBuf> {
        let mut files = vec![PathBuf::from("dump.rdb")];
        if let Ok(folder) = fs::read_dir(self.home.path().join("appendonlydir")) {
            let names = folder.map(|file| file.unwrap().file_name());
            files.extend(names.map(|name| Path::new("appendonlydir").join(name)));
        }
        files.retain(|file| self.home.path().join(file).exists());
        files
    }

    /// Waits until each of its replicas has what it has now. They say so once a second.
    pub(crate) async fn is_copied(&self) {
        let info = async || self.command(&["INFO", "replication"]).await.fields();
        let wanted: u64 = info().await["master_repl_offset"].parse().unwrap();
        eventually_within(STARTING, "the replicas to have it all", async || {
            let info = info().await;
            let replicas = info
                .iter()
                .filter(|(name, value)| name.starts_with("slave") && value.starts_with("ip="));
            let mut seen = 0;
            for (_, replica) in replicas {
                let has = replica.split(',').find_map(|it| it.strip_prefix("offset="));
                if has.unwrap().parse::<u64>().unwrap() < wanted {
                    return Err(format!("{replica}, not {wanted}"));
                }
                seen += 1;
            }
            if seen > 0 {
                Ok(())
            } else {
                Err("none".to_owned())
            }
        })
        .await;
    }

    /// What it would find on its disk after a crash at this moment; without [`RedisSettings::appendonly`], what it holds.
    pub(crate) async fn dump(&self) -> Dump {
        let files = self.data_files();
        let snapshot = files.is_empty();
        if snapshot {
            self.command(&["SAVE"]).await;
        }
        let read = self.data_files().into_iter().map(|file| {
            let bytes = fs::read(self.home.path().join(&file)).unwrap();
            (file, bytes)
        });
        let dump = Dump(read.collect());
        if snapshot {
            // A restart is empty, as promised.
            fs::remove_file(self.home.path().join("dump.rdb")).unwrap();
        }
        dump
    }

    /// Kills it, puts old files in the place of its own, and lets it come back with them.
    pub(crate) async fn restore(&mut self, dump: &Dump) {
        self.kill();
        for file in self.data_files() {
            fs::remove_file(self.home.path().join(file)).unwrap();
        }
        for (file, bytes) in &dump.0 {
            let path = self.home.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        self.restart().await;
    }

    /// A connection of one's own, which has said the password.
    pub(crate) async fn connect(&self) -> RedisConnection {
        within("a connection to Redis", self.try_connect())
            .await
            .unwrap()
    }

    async fn try_connect(&self) -> io::Result<RedisConnection> {
        let mut connection = RedisConnection::open(self.address()).await?;
        if let Some(password) = &self.settings.password {
            connection.try_ask(&["AUTH", password]).await?;
        }
        Ok(connection)
    }

    /// The password that it wants.
    pub(crate) fn password(&self) -> &str {
        self.settings.password.as_deref().unwrap_or_default()
    }

    /// Sends one command on a connection of its own; an error is a failure of the test.
    pub(crate) async fn command<T: AsRef<[u8]>>(&self, words: &[T]) -> Value {
        match self.try_command(words).await {
            Ok(Value::Error(error)) => panic!("{}: {error}", said(words)),
            Ok(value) => value,
            Err(error) => panic!("{}: {error}", said(words)),
        }
    }

    /// The same where Redis may be away or may refuse.
    pub(crate) async fn try_command<T: AsRef<[u8]>>(&self, words: &[T]) -> io::Result<Value> {
        let ask = async { self.try_connect().await?.try_ask(words).await };
        timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            println!("--- what Redis said last\n{}\n---", last.join("\n"));
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn said<T: AsRef<[u8]>>(words: &[T]) -> String {
    let words = words.iter().map(|word| word.as_ref().escape_ascii());
    words.map(|word| word.to_string() + " ").collect()
}

/// A connection to Redis that speaks RESP2.
pub(crate) struct RedisConnection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl RedisConnection {
    /// Connects, and says nothing. Not bounded.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sends a command and returns its answer, which may be an error.
    pub(crate) async fn ask<T: AsRef<[u8]>>(&mut self, words: &[T]) -> Value {
        self.send(words).await.unwrap();
        self.read().await
    }

    /// The same where Redis may be away. Not bounded.
    pub(crate) async fn try_ask<T: AsRef<[u8]>>(&mut self, words: &[T]) -> io::Result<Value> {
        self.send(words).await?;
        self.try_read().await
    }

    pub(super) async fn send<T: AsRef<[u8]>>(&mut self, words: &[T]) -> io::Result<()> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&bytes).await
    }

    /// The next thing that comes: an answer, or a message of a subscription.
    pub(crate) async fn read(&mut self) -> Value {
        within("an answer of Redis", self.try_read()).await.unwrap()
    }

    /// The beginning of an answer that is not whole.
    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer
    }

    async fn try_read(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, length)) = Value::parse(&self.buffer) {
                self.buffer.drain(..length);
                return Ok(value);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// What Redis answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// `+OK`
    Status(String),
    /// `-ERR ...`
    Error(String),
    /// `:1`
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Nothing.
    Nil,
    /// Many.
    Array(Vec<Value>),
}

impl Value {
    /// The value at the beginning of `bytes` and its length; none while it is not whole.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[1..end]).unwrap();
        let number = || line.parse::<i64>().unwrap();
        let start = end + 2;
        let value = match bytes[0] {
            b'+' => Self::Status(line.to_owned()),
            b'-' => Self::Error(line.to_owned()),
            b':' => Self::Integer(number()),
            b'$' | b'*' if number() < 0 => Self::Nil,
            b'$' => {
                let length = usize::try_from(number()).unwrap();
                let bulk = bytes.get(start..start + length)?;
                bytes.get(start + length..start + length + 2)?;
                return Some((Self::Bulk(bulk.to_vec()), start + length + 2));
            }
            b'*' => {
                let (mut items, mut at) = (Vec::new(), start);
                for _ in 0..number() {
                    let (item, length) = Self::parse(&bytes[at..])?;
                    items.push(item);
                    at += length;
                }
                return Some((Self::Array(items), at));
            }
            other => panic!("no RESP2: {:?} {line}", char::from(other)),
        };
        Some((value, start))
    }

    /// The text of a status, an error or bytes.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{other} is no text"),
        }
    }

    /// The number, also where it comes as a text.
    pub(crate) fn integer(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            other => other.text().parse().unwrap(),
        }
    }

    /// The elements; none of nothing.
    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            Self::Nil => &[],
            other => panic!("{other} is no array"),
        }
    }

    /// A text like `a:1\r\nb:2`, as `INFO` answers, or names and values in turns, as `HGETALL` does.
    pub(crate) fn fields(&self) -> BTreeMap<String, String> {
        match self {
            Self::Bulk(_) => {
                let text = self.text();
                let pairs = text.lines().filter_map(|line| line.split_once(':'));
                let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
                pairs.map(owned).collect()
            }
            other => {
                let pairs = other.items().chunks(2);
                pairs.map(|pair| (pair[0].text(), pair[1].text())).collect()
            }
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(text) => write!(f, "{text}"),
            Self::Error(text) => write!(f, "error {text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Nil => f.write_str("nil"),
            Self::Array(items) => {
                let items: Vec<_> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

mod tests {
    use super::{Fsync, RedisServer, Value};
    use crate::support::{SILENCE, STARTING, eventually_within};

    #[tokio::test]
    async fn a_server_answers_and_forgets_everything_when_it_is_killed() {
        let mut redis = RedisServer::start().await;
        let id = redis.command(&["XADD", "s", "5-1", "d", "a\r\nb"]).await;
        assert_eq!(id.text(), "5-1");
        let entries = redis.command(&["XRANGE", "s", "-", "+"]).await;
        let entry = entries.items()[0].items();
        assert_eq!(entry[0].text(), "5-1");
        assert_eq!(entry[1].fields()["d"], "a\r\nb");
        let stats = redis.command(&["INFO", "commandstats"]).await.fields();
        assert!(stats["cmdstat_xadd"].starts_with("calls=1,"), "{stats:?}");
        let wrong = redis.try_command(&["GET", "s"]).await.unwrap();
        assert!(matches!(wrong, Value::Error(_)), "{wrong}");
        let port = redis.port();
        redis.kill();
        assert!(redis.try_command(&["PING"]).await.is_err());
        redis.restart().await;
        assert_eq!(redis.port(), port);
        assert_eq!(redis.command(&["DBSIZE"]).await.integer(), 0);
    }

    #[tokio::test]
    async fn a_file_of_commands_survives_a_kill_and_an_old_one_can_be_put_back() {
        let settings = RedisServer::settings().appendonly(Fsync::Always);
        let mut redis = settings.start().await;
        redis.command(&["SET", "a", "1"]).await;
        let old = redis.dump().await;
        redis.command(&["SET", "a", "2"]).await;
        redis.kill();
        redis.restart().await;
        assert_eq!(redis.command(&["GET", "a"]).await.text(), "2");
        redis.restore(&old).await;
        assert_eq!(redis.command(&["GET", "a"]).await.text(), "1");
        redis.stop().await;
        redis.restart().await;
        assert_eq!(redis.command(&["GET", "a"]).await.text(), "1");
    }

    #[tokio::test]
    async fn what_a_server_without_a_file_holds_can_be_put_back() {
        let mut redis = RedisServer::settings()
            .config("maxmemory 50mb")
            .start()
            .await;
        redis.command(&["SET", "a", "1"]).await;
        let old = redis.dump().await;
        redis.restart().await;
        assert_eq!(redis.command(&["GET", "a"]).await, Value::Nil);
        redis.restore(&old).await;
        assert_eq!(redis.command(&["GET", "a"]).await.text(), "1");
    }

    #[tokio::test]
    async fn a_frozen_server_answers_when_it_is_thawed() {
        let redis = RedisServer::settings()
            .appendonly(Fsync::EverySecond)
            .start()
            .await;
        let mut waits = redis.connect().await;
        redis.freeze();
        waits.send(&["PING"]).await.unwrap();
        let silence = tokio::time::timeout(SILENCE, waits.read()).await;
        assert!(silence.is_err(), "{silence:?}");
        redis.thaw();
        assert_eq!(waits.read().await.text(), "PONG");
    }

    #[tokio::test]
    async fn passwords_users_and_replicas() {
        let locked = RedisServer::settings()
            .password("secret")
            .user("alice", "on >wonder ~a:* +@all")
            .start()
            .await;
        locked.command(&["SET", "b", "1"]).await;
        let port = locked.port();
        assert_eq!(locked.url(), format!("redis://:secret@127.0.0.1:{port}"));
        assert_eq!(locked.url_by(1), "redis://:secret@127.0.0.1:1");
        let as_alice = locked.url_as("alice", "wonder");
        assert_eq!(as_alice, format!("redis://alice:wonder@127.0.0.1:{port}"));
        let mut alice = locked.connect().await;
        assert_eq!(alice.ask(&["AUTH", "alice", "wonder"]).await.text(), "OK");
        assert!(matches!(alice.ask(&["GET", "b"]).await, Value::Error(_)));

        let master = RedisServer::start().await;
        let copy = RedisServer::settings().replica_of(&master).start().await;
        master.command(&["SET", "a", "1"]).await;
        eventually_within(STARTING, "the replica to follow", async || {
            match copy.command(&["GET", "a"]).await {
                Value::Bulk(one) if one == b"1" => Ok(()),
                other => Err(other.to_string()),
            }
        })
        .await;
    }
}
