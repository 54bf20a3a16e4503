//! The examples do what they say: each is run as a user would run it, where its language is installed.
//!
//! What the pages among them show is tested in browsers: `tests/browser/promises/examples.js`.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::spawn_blocking,
};

use crate::{
    interop::{
        programs::{self, Language, run, said},
        publishing::{Ended, are_refused, arrives},
    },
    support::{
        Aim, ChaosProxy, Connection, Gateway, Request, eventually, nowhere, within, within_time,
    },
};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// What publishers show.
const TOKEN: &str = "a-token-of-the-tests-own";

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(path)
}

/// An example of publishing that is ready to run.
struct Publisher {
    words: Vec<PathBuf>,
    /// It says of each line what became of it, and not only how many there were.
    answers_each_line: bool,
    _home: Option<TempDir>,
}

impl Publisher {
    fn new(words: Vec<PathBuf>, home: Option<TempDir>) -> Self {
        Self {
            words,
            answers_each_line: true,
            _home: home,
        }
    }

    fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(arguments);
        command.env("TIDEGATE_URL", url);
        command.env("PUBLISH_TOKEN", TOKEN);
        command
    }

    /// Runs it with `TOPIC DATA [TYPE] [KEY]`.
    async fn publish(&self, url: &str, arguments: &[&str]) -> Ended {
        let output = run(self.command(url, arguments)).await;
        (output.status.code(), said(&output).trim_end().to_owned())
    }

    /// Runs it with lines on its standard input.
    async fn publish_lines(&self, url: &str, lines: &str) -> Ended {
        let mut command = self.command(url, &["--lines"]);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let lines = lines.to_owned();
        let output = spawn_blocking(move || {
            child
                .stdin
                .take()
                .unwrap()
                .write_all(lines.as_bytes())
                .unwrap();
            child.wait_with_output().unwrap()
        });
        let output = within_time(PATIENCE, "the lines to be published", output).await;
        let output = output.unwrap();
        (output.status.code(), said(&output).trim_end().to_owned())
    }

    /// What every one of them promises.
    async fn keeps_its_promises(self) {
        self.publishes().await;
        self.tries_again().await;
    }

    async fn publishes(&self) {
        let tokens = format!(
            "auth:\n  anonymous: [subscribe]\n  tokens:\n    - {{name: t, token: \"{TOKEN}\", publish: [\"orders\"]}}\n"
        );
        let gateway = Gateway::settings()
            .file("tidegate.yaml", &tokens)
            .env("TIDEGATE_CONFIG", "tidegate.yaml")
            .start()
            .await;
        let url = format!("http://{}", gateway.public);
        let mut reader = gateway.subscribe("orders").await;
        let publish = async |arguments: &[&str]| self.publish(&url, arguments).await;
        arrives(publish, &mut reader).await;
        let wrong: [(&[&str], &str); 4] = [
            (
                &["orders", "another", "created", "order 7"],
                "idempotency_mismatch",
            ),
            (&["no topic", "a"], "topic_invalid"),
            (&["orders", "a", "$open"], "type_invalid"),
            (&["others", "a"], "forbidden"),
        ];
        are_refused(publish, &wrong).await;
        reader.stays_silent().await;

        let lines = [
            r#"{"topic":"orders","data":"a","key":"a"}"#,
            r#"{"topic":"orders","dat":"b"}"#,
            r#"{"topic":"orders","data":"c"}"#,
            "",
        ];
        let (code, text) = self.publish_lines(&url, &lines.join("\n")).await;
        assert_eq!(code, Some(1), "one of them is no event: {text}");
        assert!(text.contains("json_invalid"), "{text}");
        if self.answers_each_line {
            assert_eq!(text.lines().count(), 3, "{text}");
        } else {
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (&answer["stored"], &answer["failed"]),
                (&json!(2), &json!(1))
            );
        }
        assert_eq!(reader.take(2).await, ["a", "c"]);
        let (code, text) = self.publish_lines(&url, lines[0]).await;
        assert_eq!(code, Some(0), "{text}");
        reader.stays_silent().await;
    }

    /// Against a server that cannot just now, and then can: each attempt is the same, with the same key.
    async fn tries_again(&self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let problem = |code: &str| format!(r#"{{"code":"{code}","detail":"in a test"}}"#);
        let answers = [
            ("503 Service Unavailable", problem("store_unavailable")),
            ("504 Gateway Timeout", problem("store_timeout")),
            ("200 OK", r#"{"id":"5-1","topic":"orders"}"#.to_owned()),
        ];
        let server = async {
            let mut attempts = Vec::new();
            for (status, body) in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                attempts.push(request(&mut socket).await);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                     Retry-After: 0\r\nConnection: close\r\n\r\n{body}"
                );
                socket.write_all(answer.as_bytes()).await.unwrap();
                socket.shutdown().await.unwrap();
            }
            attempts
        };
        let both = async { tokio::join!(server, self.publish(&url, &["orders", "a"])) };
        let (attempts, (code, text)) = within_time(PATIENCE, "three attempts", both).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("5-1 stored"), "{text}");
        let keys: Vec<_> = attempts
            .iter()
            .map(|attempt| {
                let mut lines = attempt.lines();
                let is_key = |line: &&str| line.to_lowercase().starts_with("idempotency-key: ");
                lines.find(is_key).unwrap_or_else(|| panic!("{attempt}"))
            })
            .collect();
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        let (_, body) = attempts[0].split_once("\r\n\r\n").unwrap();
        assert!(body.contains('a'), "{body}");
        assert!(attempts.iter().all(|attempt| attempt.ends_with(body)));

        let (_held, address) = nowhere();
        let url = format!("http://{address}");
        let (code, text) = self.publish(&url, &["orders", "a"]).await;
        assert_eq!(code, Some(75), "{text}");
    }
}

/// One request with a `Content-Length`, or in chunks, as it came.
async fn request(socket: &mut tokio::net::TcpStream) -> String {
    let mut text = Vec::new();
    let whole = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            return false;
        };
        let head = head.to_lowercase();
        match head.split("content-length: ").nth(1) {
            Some(rest) => body.len() >= rest.lines().next().unwrap().parse::<usize>().unwrap(),
            None => body.ends_with("0\r\n\r\n"),
        }
    };
    while !whole(&text) {
        let read = within("a request", socket.read_buf(&mut text))
            .await
            .unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

/// The back end of an example, on a port that the system chose.
struct BackEnd {
    child: Child,
    address: SocketAddr,
}

impl BackEnd {
    /// Starts it, unless Node.js is missing.
    async fn of(name: &str, gateway: &str, settings: &[(&str, &str)]) -> Option<Self> {
        if !Language::Node.is_there(&format!("examples/{name}")).await {
            return None;
        }
        let mut command = programs::command("node", &["server.js"]);
        command.current_dir(example(name));
        command.env("PORT", "0").env("TIDEGATE_URL", gateway);
        command.envs(settings.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let pipe = child.stdout.take().unwrap();
        let line = spawn_blocking(move || BufReader::new(pipe).lines().next());
        let line = within_time(PATIENCE, "the back end to listen", line).await;
        let line = line.unwrap().unwrap().unwrap();
        let (_, address) = line.split_once("http://").unwrap();
        let address = address.parse().unwrap();
        Some(Self { child, address })
    }

    async fn ask(&self, request: &Request) -> Value {
        let answer = Connection::open(self.address).await.ask(request).await;
        assert!((200..300).contains(&answer.status()), "{answer:?}");
        answer.json()
    }

    async fn post(&self, target: &str, body: &Value) -> Value {
        let request = Request::post(target, "application/json", body.to_string());
        self.ask(&request).await
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that a topic has to say until it ends: types and data, those of tokens put together.
async fn told(gateway: &Gateway, topic: &str) -> Vec<(String, String)> {
    let query = format!("topic={topic}&lastEventId=earliest");
    let mut reader = gateway.events(&query).open().await;
    let mut all: Vec<(String, String)> = Vec::new();
    loop {
        let event = within_time(PATIENCE, "the answer to go on", reader.next()).await;
        let kind = event.kind.unwrap_or_default();
        match all.last_mut() {
            Some((last, text)) if *last == kind => text.push_str(&event.data),
            _ => all.push((kind.clone(), event.data)),
        }
        if kind == "done" {
            reader.control("$end").await;
            return all;
        }
    }
}

#[tokio::test]
async fn the_tokens_of_a_model_arrive_once_whatever_happens_to_the_connection_of_the_back_end() {
    let gateway = Gateway::start().await;
    let proxy = ChaosProxy::start(gateway.public).await;
    let through = format!("http://127.0.0.1:{}", proxy.port());
    // The model does not wait for anybody: it shall still speak after the last cut.
    let settings = [("TOKEN_MS", "50")];
    let Some(back_end) = BackEnd::of("llm-stream", &through, &settings).await else {
        return;
    };
    let prompt = json!({"prompt": "why?"});
    let calm = back_end.post("/chats", &prompt).await;
    let calm = told(&gateway, calm["topic"].as_str().unwrap()).await;
    let kinds: Vec<_> = calm.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["prompt", "token", "done"]);
    assert_eq!(calm[0].1, "why?");
    assert!(calm[1].1.starts_with("A tide gate lets water"), "{calm:?}");
    assert_eq!(calm[2].1, r#"{"how":"complete"}"#);

    let answer = back_end.post("/chats", &prompt).await;
    let topic = answer["topic"].as_str().unwrap();
    let mut reader = gateway
        .events(&format!("topic={topic}&lastEventId=earliest"))
        .open()
        .await;
    // In the middle of acknowledgements: whether the last token was stored is unknown to the back end.
    for cut in 0..3 {
        while reader.next().await.kind.as_deref() != Some("token") {}
        // Between two of its requests there may be no connection.
        eventually("a connection that can be cut", async || {
            match proxy.cut_after(Aim::All, 40 + 17 * cut) {
                0 => Err("there is none".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        while reader.next().await.kind.as_deref() != Some("token") {}
    }
    assert_eq!(told(&gateway, topic).await, calm);

    let long = back_end
        .post("/chats", &json!({"prompt": "?".repeat(1000)}))
        .await;
    let stop = format!("/chats/{}/stop", long["id"].as_str().unwrap());
    back_end.post(&stop, &json!({})).await;
    let stopped = told(&gateway, long["topic"].as_str().unwrap()).await;
    assert_eq!(stopped.last().unwrap().1, r#"{"how":"stopped"}"#);
}

#[tokio::test]
async fn the_state_of_the_order_board_and_the_events_after_its_cursor_are_complete() {
    // The back end may pause for five seconds: whoever waits for it has to hear something meanwhile.
    let gateway = Gateway::with("stream.keepalive", "1s").start().await;
    let proxy = ChaosProxy::start(gateway.public).await;
    let through = format!("http://127.0.0.1:{}", proxy.port());
    let Some(back_end) = BackEnd::of("order-board", &through, &[]).await else {
        return;
    };
    let topics = "orders/kitchen,orders/bar,notices";
    let mut reader = gateway
        .events(&format!("topic={topics}&lastEventId=earliest"))
        .open()
        .await;
    assert_eq!(reader.next().await.kind.as_deref(), Some("reset"));
    let soup = json!({"station": "kitchen", "item": "soup", "table": 4});
    let first = back_end.post("/orders", &soup).await;
    let event = reader.next().await;
    assert_eq!(event.topic.as_deref(), Some("orders/kitchen"));
    assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap(), first);
    let state = eventually("the state to say so", async || {
        let state = back_end.ask(&Request::get("/state")).await;
        let stands_for = state["cursor"] == event.id.to_string();
        if stands_for {
            Ok(state)
        } else {
            Err(state.to_string())
        }
    })
    .await;
    assert_eq!(state["orders"], json!([first]));

    // While the gateway is away orders go on, and are told in their order when it is back.
    proxy.refuse();
    proxy.cut(Aim::All);
    back_end
        .post("/orders/1", &json!({"state": "preparing"}))
        .await;
    let tea = json!({"station": "bar", "item": "tea", "table": 2});
    back_end.post("/orders", &tea).await;
    back_end.post("/orders/1", &json!({"state": "ready"})).await;
    proxy.heal();
    let cursor = state["cursor"].as_str().unwrap();
    let mut late = gateway.resume(topics, cursor).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = within_time(PATIENCE, "what was published late", late.next()).await;
        let order: Value = serde_json::from_str(&event.data).unwrap();
        seen.push((
            order["id"].clone(),
            order["version"].clone(),
            order["state"].clone(),
        ));
    }
    let wanted = [(1, 2, "preparing"), (2, 1, "new"), (1, 3, "ready")];
    let wanted = wanted.map(|(id, version, state)| (json!(id), json!(version), json!(state)));
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn the_shell_publishes() {
    let publisher = Publisher::new(vec![example("publish/shell/publish")], None);
    publisher.keeps_its_promises().await;
}

#[tokio::test]
async fn python_publishes() {
    if !Language::Python.is_there("examples/publish/python").await {
        return;
    }
    let program = example("publish/python/publish.py");
    let mut publisher = Publisher::new(vec!["python3".into(), program], None);
    publisher.answers_each_line = false;
    publisher.keeps_its_promises().await;
}

#[tokio::test]
async fn node_publishes() {
    if !Language::Node.is_there("examples/publish/node").await {
        return;
    }
    let program = example("publish/node/publish.js");
    let publisher = Publisher::new(vec!["node".into(), program], None);
    publisher.keeps_its_promises().await;
}

#[tokio::test]
async fn go_publishes() {
    if !Language::Go.is_there("examples/publish/go").await {
        return;
    }
    let home = TempDir::new().unwrap();
    let program = programs::go(&example("publish/go"), home.path()).await;
    let publisher = Publisher::new(vec![program], Some(home));
    publisher.keeps_its_promises().await;
}

#[tokio::test]
async fn rust_publishes() {
    let program = programs::rust(&example("publish/rust"), "tidegate-publish").await;
    let mut publisher = Publisher::new(vec![program], None);
    publisher.answers_each_line = false;
    publisher.keeps_its_promises().await;
}
