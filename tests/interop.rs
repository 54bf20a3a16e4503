//! Clients that others wrote follow the gateway as it is: `docs/clients.md` says what each of them needs to know.
//!
//! The programs in `tests/interop` use them as their documentation says, at the versions that lock files pin, and write a line
//! of JSON for each thing that they see. Each is run where its language is installed; one that is missing is said aloud, and
//! is an error in CI where `scripts/install-test-tools` promises it.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::event::EventId;
use tokio::{sync::mpsc, time::sleep};

use crate::support::{Aim, ChaosProxy, Gateway, Request, Settings, id, within_time};
use programs::{Language, command, must};

pub(crate) mod programs;
pub(crate) mod publishing;

/// How long one thing may take to be seen: a client that was refused comes back after 7 s, and each program has to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// More silence than this is filled with a keepalive.
const KEEPALIVE: Duration = Duration::from_millis(300);

fn folder(client: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/interop")
        .join(client)
}

/// What a program says that it has seen.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Seen {
    saw: String,
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    data: String,
    status: Option<u16>,
    why: String,
}

impl Seen {
    fn is_control(&self) -> bool {
        self.kind.starts_with('$')
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A client that is ready to run, and what is special about it.
struct Client {
    words: Vec<PathBuf>,
    /// Stands in each of its URLs.
    query: &'static str,
    /// It stops when it is answered with 204, as a browser does; the others leave on `$end`.
    stops_by_204: bool,
    /// It loses empty lines at the beginning of data.
    strips_first_lines: bool,
    _home: Option<TempDir>,
}

impl Client {
    fn new(words: Vec<PathBuf>, home: Option<TempDir>) -> Self {
        Self {
            words,
            query: "",
            stops_by_204: false,
            strips_first_lines: false,
            _home: home,
        }
    }

    fn follow(&self, address: SocketAddr, query: &str) -> Following {
        let url = format!("http://{address}/events?{query}{}", self.query);
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).arg(url);
        // Nothing on this machine may lead it elsewhere.
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.words));
        let pipe = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel(1024);
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Following { child, lines }
    }

    /// What every one of them shows.
    async fn keeps_its_promises(self) {
        tokio::join!(
            self.sees_each_event_as_it_was_published(),
            self.comes_back_without_loss_or_doubles(),
            self.sees_a_final_refusal(),
            self.survives_a_temporary_refusal(),
            self.sees_the_end(),
            self.does_without_control_events(),
        );
    }

    async fn sees_each_event_as_it_was_published(&self) {
        let gateway = settings().start().await;
        let mut following = self.follow(gateway.public, "topic=orders");
        assert_eq!(following.next().await.saw, "open");
        let open = following.event().await;
        assert_eq!(
            (open.kind.as_str(), &open.json()["replay"]),
            ("$open", &json!("none"))
        );

        let long = "x".repeat(64 * 1024);
        for (kind, data) in [
            ("message", "plain"),
            ("created", r#"{"order": 1}"#),
            ("message", "a\n\n b\n"),
            ("created", "\n\nafter empty lines"),
            ("message", ""),
            ("created", "größer\u{2028}als 🦀\u{85}data: no field"),
            ("created", &long),
        ] {
            let body = json!({"topic": "orders", "event": kind, "data": data}).to_string();
            let answer = gateway.post(body).await;
            assert_eq!(answer.status(), 200, "{answer:?}");
            let event = following.published().await;
            assert_eq!(event.id.as_deref(), answer.json()["id"].as_str());
            let wanted = if self.strips_first_lines {
                data.trim_start_matches('\n')
            } else {
                data
            };
            assert_eq!((event.kind.as_str(), event.data.as_str()), (kind, wanted));
        }
        // Keepalives and checkpoints are nothing that looks like an event.
        sleep(3 * KEEPALIVE).await;
        let elsewhere = gateway.publish("elsewhere", "").await;
        let mut checkpoint = following.event().await;
        while checkpoint.id.as_deref().is_none_or(|at| id(at) < elsewhere) {
            assert_eq!(checkpoint.kind, "$cursor", "{checkpoint:?}");
            checkpoint = following.event().await;
        }
        sleep(3 * KEEPALIVE).await;
        gateway.publish("orders", "after a silence").await;
        assert_eq!(following.published().await.data, "after a silence");
    }

    /// Cut before the first event, in the middle of frames, and by an operator.
    async fn comes_back_without_loss_or_doubles(&self) {
        let gateway = settings().start().await;
        let proxy = ChaosProxy::start(gateway.public).await;
        let through = SocketAddr::from(([127, 0, 0, 1], proxy.port()));
        let mut following = self.follow(through, "topic=orders");
        let mut verdicts = vec![following.opened().await];
        let (mut published, mut received) = (Vec::new(), Vec::new());

        assert_eq!(proxy.cut(Aim::All), 1);
        published.extend(
            gateway
                .publish_all("orders", ["while away", "and another"])
                .await,
        );
        following
            .up_to(&published, &mut received, &mut verdicts)
            .await;
        assert_eq!(verdicts.len(), 2);
        for cut in 0..4 {
            assert_eq!(proxy.cut_after(Aim::All, 700 + cut * 777), 1);
            let data: Vec<_> = (0..60)
                .map(|number| format!("{number} {}", "x".repeat(90)))
                .collect();
            let data = data.iter().map(String::as_str);
            published.extend(gateway.publish_all("orders", data).await);
            following
                .up_to(&published, &mut received, &mut verdicts)
                .await;
            assert_eq!(verdicts.len(), cut + 3, "each cut was one");
        }
        let connection = verdicts.last().unwrap()["connection"].as_str().unwrap();
        let close = Request::new("DELETE", &format!("/admin/connections/{connection}"));
        let answer = gateway.ask_admin(close).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        published.push(gateway.publish("orders", "after an operator's close").await);
        following
            .up_to(&published, &mut received, &mut verdicts)
            .await;
        let replays: Vec<_> = verdicts.iter().map(|open| &open["replay"]).collect();
        assert_eq!(replays[0], "none");
        assert_eq!(replays[1..], ["complete"; 6]);
    }

    async fn sees_a_final_refusal(&self) {
        let gateway = settings().start().await;
        let over = self.follow(gateway.public, "topic=$mine").over().await;
        assert_eq!(over.status, Some(400), "{over:?}");
    }

    async fn survives_a_temporary_refusal(&self) {
        let gateway = settings().with("limits.connections", 1).start().await;
        let other = gateway.subscribe("orders").await;
        let mut following = self.follow(gateway.public, "topic=orders");
        let refused = following.event().await;
        assert_eq!(refused.kind, "$refused", "{refused:?}");
        assert_eq!(refused.json()["code"], "connection_limit");
        drop(other);
        following.opened().await;
        gateway.publish("orders", "at last").await;
        assert_eq!(following.published().await.data, "at last");
    }

    async fn sees_the_end(&self) {
        let gateway = settings().start().await;
        let first = gateway.publish("answer", "first").await;
        let mut following = self.follow(gateway.public, "topic=answer&lastEventId=earliest");
        assert_eq!(following.published().await.id, Some(first.to_string()));
        gateway.finish("answer", Some("last")).await;
        assert_eq!(following.published().await.data, "last");
        let end = following.event().await;
        assert_eq!(
            (end.kind.as_str(), &end.json()["topic"]),
            ("$end", &json!("answer"))
        );
        let over = following.over().await;
        assert_eq!(over.status, self.stops_by_204.then_some(204), "{over:?}");
    }

    /// With `control=off` there are only events. Some clients take a frame with an id alone for an empty one.
    async fn does_without_control_events(&self) {
        let gateway = settings().start().await;
        gateway.publish_all("orders", ["a", "b"]).await;
        let query = "topic=orders&control=off&lastEventId=earliest";
        let mut following = self.follow(gateway.public, query);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let event = following.event().await;
            assert!(!event.is_control(), "{event:?}");
            if !event.data.is_empty() {
                seen.push(event.data);
            }
            if seen.len() == 2 {
                gateway.publish("orders", "c").await;
            }
        }
        assert_eq!(seen, ["a", "b", "c"]);
    }
}

/// Short silences, and clients that come back soon.
fn settings() -> Settings {
    Gateway::with("stream.keepalive", format!("{}ms", KEEPALIVE.as_millis()))
        .with("stream.retry", "100ms")
}

/// A program that runs.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    /// The next thing that it says.
    async fn next(&mut self) -> Seen {
        let line = within_time(PATIENCE, "the client to see something", self.lines.recv()).await;
        let line = line.expect("the client should go on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next event, of whatever type; connections come and go.
    async fn event(&mut self) -> Seen {
        loop {
            let seen = self.next().await;
            match seen.saw.as_str() {
                "event" => return seen,
                "open" | "cut" => {}
                _ => panic!("an event should come, not {seen:?}"),
            }
        }
    }

    /// The next event that somebody has published.
    async fn published(&mut self) -> Seen {
        loop {
            let event = self.event().await;
            if !event.is_control() {
                return event;
            }
        }
    }

    /// The verdict on the next connection.
    async fn opened(&mut self) -> Value {
        loop {
            let event = self.event().await;
            if event.kind == "$open" {
                return event.json();
            }
        }
    }

    /// How it ended.
    async fn over(&mut self) -> Seen {
        loop {
            let seen = self.next().await;
            if seen.saw == "over" {
                return seen;
            }
        }
    }

    /// Reads until the last of `published`, and holds that each of them came, once and in order.
    async fn up_to(
        &mut self,
        published: &[EventId],
        received: &mut Vec<EventId>,
        verdicts: &mut Vec<Value>,
    ) {
        while received.last() < published.last() {
            let event = self.event().await;
            if event.kind == "$open" {
                verdicts.push(event.json());
            } else if !event.is_control() {
                received.push(id(event.id.as_deref().unwrap()));
                assert_eq!(*received, published[..received.len()]);
            }
        }
        assert_eq!(*received, published);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies the files of a client into a new folder, where its packages may come.
fn copied(client: &str, files: &[&str]) -> TempDir {
    let home = TempDir::new().unwrap();
    for file in files {
        fs::copy(folder(client).join(file), home.path().join(file)).unwrap();
    }
    home
}

/// Installs the packages of a client for Node.js.
async fn of_npm(client: &str) -> TempDir {
    let home = copied(client, &["package.json", "package-lock.json", "follow.js"]);
    let arguments = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
    let mut install = command("npm", &arguments);
    install.current_dir(home.path());
    must(install).await;
    home
}

async fn eventsource(package: &str) {
    if !Language::Node.is_there(package).await {
        return;
    }
    let home = of_npm("eventsource").await;
    let program = home.path().join("follow.js");
    let mut client = Client::new(vec!["node".into(), program, package.into()], Some(home));
    client.stops_by_204 = true;
    client.keeps_its_promises().await;
}

/// It asks for Node.js 22 where it is installed, and works with 20.
#[tokio::test]
async fn eventsource_of_npm_follows() {
    eventsource("eventsource").await;
}

/// The last one that is made for Node.js 20.
#[tokio::test]
async fn eventsource_4_of_npm_follows() {
    eventsource("eventsource-4").await;
}

#[tokio::test]
async fn fetch_event_source_of_npm_follows() {
    if !Language::Node.is_there("fetch-event-source").await {
        return;
    }
    let home = of_npm("fetch-event-source").await;
    let program = home.path().join("follow.js");
    let mut client = Client::new(vec!["node".into(), program], Some(home));
    client.strips_first_lines = true;
    client.keeps_its_promises().await;
}

#[tokio::test]
async fn httpx_sse_of_python_follows() {
    if !Language::Python.is_there("httpx-sse").await {
        return;
    }
    let home = copied("httpx-sse", &["requirements.txt", "follow.py"]);
    let packages = home.path().join("packages");
    let python = programs::python(&packages, &home.path().join("requirements.txt")).await;
    let words = vec![python, home.path().join("follow.py")];
    Client::new(words, Some(home)).keeps_its_promises().await;
}

#[tokio::test]
async fn r3labs_sse_of_go_follows() {
    if !Language::Go.is_there("r3labs/sse").await {
        return;
    }
    let home = TempDir::new().unwrap();
    let program = programs::go(&folder("r3labs-sse"), home.path()).await;
    let mut client = Client::new(vec![program], Some(home));
    // It hands out the beginning of an event that was cut. In an envelope that can be seen.
    client.query = "&envelope=json";
    client.keeps_its_promises().await;
}

#[tokio::test]
async fn eventsource_client_of_rust_follows() {
    let program = programs::rust(
        &folder("eventsource-client"),
        "tidegate-interop-eventsource-client",
    )
    .await;
    Client::new(vec![program], None).keeps_its_promises().await;
}
