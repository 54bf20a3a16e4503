//! The real binary, with settings of its own, ports of its own, and an end.

use std::{
    fmt::Display,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tidegate::event::EventId;
use tokio::{sync::watch, time::Instant};

use super::{
    Connection, Request, Response, STARTING, Subscriber, Subscription, eventually_within, id,
    within, within_time,
};

/// What a process has said so far.
#[derive(Default)]
struct Output {
    lines: Vec<String>,
    open_pipes: usize,
}

/// A run of the binary.
pub(crate) struct Program {
    child: Child,
    output: watch::Receiver<Output>,
    /// Where it runs; goes with it.
    home: TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Exit {
    /// What it said of itself.
    pub(crate) status: ExitStatus,
    /// Since the start, or since the signal that ended it.
    pub(crate) took: Duration,
    /// Everything that it wrote, both pipes.
    pub(crate) output: String,
}

impl Program {
    /// Whether the process still runs is told by its pipes: they close when it ends.
    pub(crate) async fn exit(&mut self, patience: Duration) -> Exit {
        let since = Instant::now();
        let ended = self.output.wait_for(|output| output.open_pipes == 0);
        let in_time = tokio::time::timeout(patience, ended).await.is_ok();
        assert!(
            in_time,
            "waited {patience:?} for the process to end; it said\n{}",
            self.said()
        );
        let status = self.child.wait().unwrap();
        Exit {
            status,
            took: since.elapsed(),
            output: self.said(),
        }
    }

    /// Waits for a line that `find` likes, and returns what it made of it.
    pub(crate) async fn line<T>(
        &mut self,
        what: &str,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let mut found = None;
        let mut seen = 0;
        let wait = self.output.wait_for(|output| {
            for line in &output.lines[seen..] {
                found = found.take().or_else(|| find(line));
            }
            seen = output.lines.len();
            found.is_some() || output.open_pipes == 0
        });
        let timely = tokio::time::timeout(STARTING, wait).await.is_ok();
        found.unwrap_or_else(|| {
            let why = if timely { "it ended" } else { "time is over" };
            panic!(
                "the process should say {what}, but {why}; it said\n{}",
                self.said()
            )
        })
    }

    /// Everything it wrote.
    pub(crate) fn said(&self) -> String {
        self.output.borrow().lines.join("\n")
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// It neither reads nor answers any more, until `Signal::CONT`; its connections stay open.
    pub(crate) fn freeze(&self) {
        super::freeze(Pid::from_child(&self.child));
    }

    /// The folder where it runs.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if thread::panicking() {
            let said = self.said();
            let lines: Vec<_> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            println!("--- what the process said last\n{}\n---", last.join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(pipe: impl Read + Send + 'static, output: watch::Sender<Output>) {
    output.send_modify(|output| output.open_pipes += 1);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            output.send_modify(|output| output.lines.push(line));
        }
        output.send_modify(|output| output.open_pipes -= 1);
    });
}

/// How a gateway is started.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
    input: Option<String>,
    files_limit: Option<u32>,
}

impl Settings {
    /// A command of the binary, with nothing in its environment.
    pub(crate) fn command<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            environment: Vec::new(),
            files: Vec::new(),
            input: None,
            files_limit: None,
        }
    }

    /// Lets the process open so many files, and no more.
    pub(crate) fn open_files(mut self, limit: u32) -> Self {
        self.files_limit = Some(limit);
        self
    }

    /// Sets `key` (as `stream.keepalive`) by its name in the environment.
    pub(crate) fn with(self, key: &str, value: impl Display) -> Self {
        let name = format!("TIDEGATE_{}", key.to_uppercase().replace('.', "__"));
        self.env(&name, &value.to_string())
    }

    /// Takes back what [`Self::with`] or the defaults of [`Gateway`] set.
    pub(crate) fn without(mut self, key: &str) -> Self {
        let name = format!("TIDEGATE_{}", key.to_uppercase().replace('.', "__"));
        self.environment.retain(|(set, _)| *set != name);
        self
    }

    /// Sets a name of the environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(set, _)| set != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Puts a file into the folder where the process runs.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Puts a folder into the folder where the process runs.
    pub(crate) fn folder(self, name: &str) -> Self {
        self.file(&format!("{name}/"), "")
    }

    /// Gives the process something to read from its standard input.
    pub(crate) fn input(mut self, text: &str) -> Self {
        self.input = Some(text.to_owned());
        self
    }

    /// Runs the binary. Its folder is new and empty, so no file from elsewhere has a say.
    pub(crate) fn run(self) -> Program {
        let home = TempDir::new().unwrap();
        for (name, text) in &self.files {
            let path = home.path().join(name);
            if name.ends_with('/') {
                std::fs::create_dir(path).unwrap();
            } else {
                std::fs::write(path, text).unwrap();
            }
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        if let Some(limit) = self.files_limit {
            command = Command::new("sh");
            let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
            command.args(["-c", &script, env!("CARGO_BIN_EXE_tidegate")]);
        }
        let mut child = command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment)
            .current_dir(home.path())
            .stdin(if self.input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input) {
            stdin.write_all(input.as_bytes()).unwrap();
        }
        let (sender, output) = watch::channel(Output::default());
        collect(child.stdout.take().unwrap(), sender.clone());
        collect(child.stderr.take().unwrap(), sender);
        Program {
            child,
            output,
            home,
        }
    }

    /// Starts a gateway and waits until both listeners are there.
    pub(crate) async fn start(self) -> Gateway {
        let mut program = self.run();
        let public = listener(&mut program, "public").await;
        let admin = listener(&mut program, "admin").await;
        Gateway {
            program,
            public,
            admin,
        }
    }

    /// Starts a gateway that logs into a file, and waits until it says there that both listeners are there.
    pub(crate) async fn start_logging_into(self, file: &Path) -> Gateway {
        let program = self.with("log.file", file.display()).run();
        let find = async |name: &str| {
            let what = format!("where its {name} listener is");
            eventually_within(STARTING, what, async || {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                let mut lines = text.lines();
                lines
                    .find_map(|line| listening(line, name))
                    .ok_or_else(|| text.clone() + &program.said())
            })
            .await
        };
        let public = find("public").await;
        let admin = find("admin").await;
        Gateway {
            program,
            public,
            admin,
        }
    }

    /// Runs what must not come up, and returns what it said.
    pub(crate) async fn refuses_to_start(self) -> Exit {
        let exit = self.run().exit(STARTING).await;
        assert!(!exit.status.success(), "it should have refused: {exit:?}");
        exit
    }
}

async fn listener(program: &mut Program, name: &str) -> SocketAddr {
    let what = format!("where its {name} listener is");
    program.line(&what, |line| listening(line, name)).await
}

/// The address, if this line is of the listener that is called so.
fn listening(line: &str, name: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| {
        line.get(name)
            .or_else(|| line.get("fields")?.get(name))?
            .as_str()
    };
    if field("message")? != "listening" || field("listener")? != name {
        return None;
    }
    let mut address: SocketAddr = field("address")?.parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    Some(address)
}

/// A gateway that serves, with the memory store unless told otherwise.
pub(crate) struct Gateway {
    program: Program,
    /// The public listener.
    pub(crate) public: SocketAddr,
    /// The admin listener.
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// A gateway as it comes, on ports that the system chose.
    pub(crate) fn settings() -> Settings {
        Settings::command(["serve"])
            .with("server.listen", "127.0.0.1:0")
            .with("admin.listen", "127.0.0.1:0")
    }

    /// A gateway with one setting more.
    pub(crate) fn with(key: &str, value: impl Display) -> Settings {
        Self::settings().with(key, value)
    }

    /// Starts a gateway as it comes.
    pub(crate) async fn start() -> Self {
        Self::settings().start().await
    }

    /// A run of the binary that serves there.
    pub(crate) fn of(program: Program, public: SocketAddr, admin: SocketAddr) -> Self {
        Self {
            program,
            public,
            admin,
        }
    }

    /// The process.
    pub(crate) fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.program.terminate();
    }

    /// The folder where it runs.
    pub(crate) fn home(&self) -> &Path {
        self.program.home()
    }

    /// Everything that it wrote so far.
    pub(crate) fn said(&self) -> String {
        self.program.said()
    }

    /// Asks it to end and waits for that; the time is that since the signal.
    pub(crate) async fn stop(mut self, patience: Duration) -> Exit {
        self.terminate();
        self.program.exit(patience).await
    }

    /// A connection to the public listener.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.public).await
    }

    /// Sends `request` to the public listener.
    pub(crate) async fn ask(&self, request: Request) -> Response {
        Connection::open(self.public).await.ask(&request).await
    }

    /// Sends `request` to the admin listener.
    pub(crate) async fn ask_admin(&self, request: Request) -> Response {
        Connection::open(self.admin).await.ask(&request).await
    }

    /// Asks the public listener for `target`.
    pub(crate) async fn get(&self, target: &str) -> Response {
        self.ask(Request::get(target)).await
    }

    /// Asks the admin listener for `target`.
    pub(crate) async fn get_admin(&self, target: &str) -> Response {
        self.ask_admin(Request::get(target)).await
    }

    /// Publishes `body`, which is JSON.
    pub(crate) async fn post(&self, body: impl AsRef<[u8]>) -> Response {
        self.ask(Request::publish(body)).await
    }

    /// Publishes one event and returns its id.
    pub(crate) async fn publish(&self, topic: &str, data: &str) -> EventId {
        let body = serde_json::json!({ "topic": topic, "data": data }).to_string();
        let answer = self.post(body).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        id(answer.json()["id"].as_str().unwrap())
    }

    /// Publishes many events in one batch and returns their ids.
    pub(crate) async fn publish_all<'a>(
        &self,
        topic: &str,
        data: impl IntoIterator<Item = &'a str>,
    ) -> Vec<EventId> {
        let items: Vec<Value> = data
            .into_iter()
            .map(|data| serde_json::json!({ "topic": topic, "data": data }))
            .collect();
        let answer = self.post(serde_json::to_string(&items).unwrap()).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let json = answer.json();
        json["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| id(result["id"].as_str().unwrap()))
            .collect()
    }

    /// Publishes any number of events as NDJSON.
    pub(crate) async fn publish_lines<T: AsRef<str>>(
        &self,
        topic: &str,
        data: impl IntoIterator<Item = T>,
    ) {
        let mut body = String::new();
        let mut count = 0;
        for data in data {
            let line = serde_json::json!({ "topic": topic, "data": data.as_ref() });
            body.push_str(&line.to_string());
            body.push('\n');
            count += 1;
        }
        let mut connection = self.connect().await;
        let request = Request::ndjson(body);
        let what = format!("{count} events to be stored");
        let answer = within_time(Duration::from_mins(1), what, async {
            let bytes = request.bytes(self.public);
            connection.try_send_patiently(bytes).await.unwrap();
            connection.patient_response().await
        })
        .await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.json()["stored"], count, "{answer:?}");
    }

    /// Ends a topic, with one more event if there is `data`, and returns the id that the answer names.
    pub(crate) async fn finish(&self, topic: &str, data: Option<&str>) -> EventId {
        let mut item = serde_json::json!({ "topic": topic, "end": true });
        if let Some(data) = data {
            item["data"] = data.into();
        }
        let answer = self.post(item.to_string()).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        id(answer.json()["id"].as_str().unwrap())
    }

    /// A subscription that is not yet opened; `query` is what stands after `/events?`.
    pub(crate) fn events(&self, query: &str) -> Subscription {
        Subscription::new(self.public, query)
    }

    /// Follows topics (separated by commas) from now.
    pub(crate) async fn subscribe(&self, topics: &str) -> Subscriber {
        self.events(&format!("topic={topics}")).open().await
    }

    /// Comes back with the last id seen, as a browser does.
    pub(crate) async fn resume(&self, topics: &str, cursor: impl Display) -> Subscriber {
        self.events(&format!("topic={topics}"))
            .header("Last-Event-ID", &cursor.to_string())
            .open()
            .await
    }

    /// The value of a metric, summed over its labels.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let page = self.get_admin("/metrics").await.text();
        let mut sum = None;
        for line in page.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            if rest.starts_with(' ') || rest.starts_with('{') {
                let value = rest.rsplit(['}', ' ']).next()?;
                *sum.get_or_insert(0.0) += value.trim().parse::<f64>().ok()?;
            }
        }
        sum
    }

    /// Waits until everybody who came before has been let in: connections are taken in the order in which they came.
    pub(crate) async fn has_let_all_in(&self) {
        self.get("/health/live").await;
    }

    /// Waits until everybody who came before has been let in and has left, also who left before an answer.
    pub(crate) async fn has_seen_all_leave(&self) {
        self.has_seen_all_leave_but(0).await;
    }

    /// The same, but for so many connections that stay.
    pub(crate) async fn has_seen_all_leave_but(&self, stay: u32) {
        self.has_let_all_in().await;
        // The question itself is on a connection.
        self.counts("tidegate_tcp_connections", &[], stay + 1).await;
    }

    /// Waits until the gateway says that it takes no more traffic.
    pub(crate) async fn is_unready(&self) {
        super::eventually("the gateway to be unready", async || {
            match self.get("/health/ready").await.status() {
                503 => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await;
    }

    /// Waits until so many streams are open, as the gateway counts them.
    pub(crate) async fn has_open_streams(&self, count: u32) {
        super::eventually(format!("{count} open streams"), async || {
            match self.metric("sse_active_connections").await {
                #[expect(clippy::float_cmp, reason = "a count is a whole number")]
                Some(open) if open == f64::from(count) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until the millisecond of `id` is over, so that the next event has another one.
    pub(crate) async fn passes_millisecond_of(&self, earlier: EventId) {
        within("the clock to move on", async {
            while self.publish("clock", "").await.ms() <= earlier.ms() {}
        })
        .await;
    }
}
