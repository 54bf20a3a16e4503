//! Guides and servers that are made up, on real sockets.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::broadcast,
};

use super::*;
use crate::store::redis::{
    RedisTls,
    link::Endpoint,
    pipe::{CallError, Pipe, PipeConfig},
    resp::{Decoder, Value},
};

/// Everything here happens sooner, or never.
const SOON: Duration = Duration::from_secs(10);

/// How commands begin, and the answers; none: garbage to everything.
type Answers = Arc<Mutex<Option<Vec<(&'static str, String)>>>>;

/// Somebody who answers as it is told to.
struct Made {
    address: Address,
    answers: Answers,
    push: broadcast::Sender<String>,
}

impl Made {
    async fn new(answers: Option<Vec<(&'static str, String)>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let made = Self {
            address: Address::new("127.0.0.1", port.into()).expect("an address"),
            answers: Arc::new(Mutex::new(answers)),
            push: broadcast::Sender::new(16),
        };
        let (answers, push) = (made.answers.clone(), made.push.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, answers.clone(), push.subscribe()));
            }
        });
        made
    }

    async fn sentinel(master: &Address, epoch: u64) -> Self {
        let made = Self::new(Some(Vec::new())).await;
        made.names(master, epoch);
        made
    }

    fn names(&self, master: &Address, epoch: u64) {
        *self.answers.lock() = Some(vec![
            ("HELLO 3", "%1\r\n+mode\r\n+sentinel\r\n".into()),
            ("SUBSCRIBE ", String::new()),
            ("PING", "+PONG\r\n".into()),
            (
                "SENTINEL MASTER",
                format!("%1\r\n+config-epoch\r\n+{epoch}\r\n"),
            ),
            (
                "SENTINEL GET-MASTER",
                format!("*2\r\n+{}\r\n+{}\r\n", master.host(), master.port()),
            ),
            ("SENTINEL SENTINELS", "*0\r\n".into()),
        ]);
    }

    async fn server(role: &str) -> Self {
        let made = Self::new(Some(Vec::new())).await;
        made.is(role);
        made
    }

    fn is(&self, role: &str) {
        let about = format!("%2\r\n+version\r\n+7.0.0\r\n+role\r\n+{role}\r\n");
        *self.answers.lock() = Some(vec![("HELLO", about)]);
    }
}

async fn serve(mut socket: TcpStream, answers: Answers, mut push: broadcast::Receiver<String>) {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    loop {
        let answer = tokio::select! {
            read = socket.read_buf(&mut input) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
                let mut output = String::new();
                while let Ok(Some(command)) = decoder.decode(&mut input) {
                    let words = command.array().unwrap_or_default().iter();
                    let words: Vec<&str> = words.filter_map(Value::text).collect();
                    let command = words.join(" ").to_uppercase();
                    output += &match &*answers.lock() {
                        None => "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(),
                        Some(answers) => {
                            let mut answers = answers.iter();
                            let answer = answers.find(|(begin, _)| command.starts_with(begin));
                            answer.map_or("-ERR unknown command\r\n".to_owned(), |(_, it)| it.clone())
                        }
                    };
                }
                output
            }
            Ok(news) = push.recv() => news,
        };
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A port at which nobody is.
async fn nobody() -> Address {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    Address::new("127.0.0.1", port.into()).expect("an address")
}

fn place(nodes: Vec<Address>) -> (Arc<Place>, tokio_util::sync::DropGuard) {
    let stop = CancellationToken::new();
    let sentinels = Sentinels {
        nodes,
        master: "mymaster".into(),
        credentials: Credentials {
            username: None,
            password: Some("s3cret".into()),
        },
    };
    let door = Door::default();
    let url = RedisUrl::nowhere();
    let place = Place::new(Via::Sentinel(sentinels), &url, door, stop.clone());
    (place, stop.drop_guard())
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    time::timeout(SOON, what).await.expect("it happens in time")
}

/// Asks until somebody knows: a try waits for a second only.
async fn found(place: &Place) -> (Address, Hold) {
    soon(async {
        loop {
            if let Ok(found) = place.find().await {
                return found;
            }
        }
    })
    .await
}

#[tokio::test]
async fn guides_that_answer_garbage_or_nothing_are_passed_over() {
    let master = Made::server("master").await;
    let garbage = Made::new(None).await;
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let silent_port = silent.local_addr().expect("an address").port();
    let silent_address = Address::new("127.0.0.1", silent_port.into()).expect("an address");
    let honest = Made::sentinel(&master.address, 1).await;
    let nodes = [
        &garbage.address,
        &silent_address,
        &nobody().await,
        &honest.address,
    ];
    let (place, _stop) = place(nodes.map(Clone::clone).to_vec());
    let (address, _) = found(&place).await;
    assert_eq!(address, master.address);
}

#[tokio::test]
async fn when_nobody_knows_it_is_said_what_each_guide_says_and_no_password() {
    let server = Made::server("master").await;
    let garbage = Made::new(None).await;
    let other = Made::sentinel(&server.address, 1).await;
    other.answers.lock().as_mut().expect("answers")[4].1 = "_\r\n".into();
    let nodes = [&garbage.address, &nobody().await, &other.address];
    let (place, _stop) = place(nodes.map(Clone::clone).to_vec());
    let all = [
        "no RESP3",
        "refused",
        "knows no master of that name",
        "\"mymaster\"",
    ];
    soon(async {
        loop {
            let why = place.find().await.expect_err("nobody knows").to_string();
            assert!(!why.contains("s3cret"), "{why}");
            if all.iter().all(|part| why.contains(part)) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn whoever_is_connected_is_told_when_the_master_is_another_one_and_not_before() {
    let (old, new) = (nobody().await, nobody().await);
    let sentinels = [Made::sentinel(&old, 1).await, Made::sentinel(&old, 1).await];
    let nodes = sentinels.iter().map(|it| it.address.clone()).collect();
    let (place, _stop) = place(nodes);
    let (address, mut hold) = found(&place).await;
    assert_eq!(address, old);
    // One is of no use any more: that changes nothing.
    *sentinels[0].answers.lock() = None;
    place.failed(&LinkError::Closed);
    soon(async {
        while place.council.lock().why().matches("no RESP3").count() == 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(place.mark().number, hold.number);
    assert!(!place.is_settling(), "it is the first master");
    // The news alone says nothing: it is asked again.
    sentinels[1].names(&new, 2);
    let _ = sentinels[1]
        .push
        .send(">3\r\n+message\r\n+switch-master\r\n+-\r\n".into());
    soon(hold.lost()).await;
    assert_eq!(found(&place).await.0, new);
    assert_eq!(place.changes(), 1);
    assert!(place.is_settling());
}

#[tokio::test]
async fn a_replica_that_is_being_promoted_is_waited_for() {
    let old = nobody().await;
    let replica = Made::server("replica").await;
    let sentinel = Made::sentinel(&old, 1).await;
    let (place, _stop) = place(vec![sentinel.address.clone()]);
    let (_, mut hold) = found(&place).await;
    let port = replica.address.port();
    let news = format!("slave 127.0.0.1:{port} 127.0.0.1 {port} @ mymaster 127.0.0.1 1");
    let channel = "+failover-state-send-slaveof-noone";
    let _ = sentinel
        .push
        .send(format!(">3\r\n+message\r\n+{channel}\r\n+{news}\r\n"));
    // Nothing more is written to the old one, and to the new one only when it takes writes.
    soon(hold.lost()).await;
    assert_eq!(place.address(), None);
    assert!(place.is_moving());
    replica.is("master");
    let (address, mut hold) = found(&place).await;
    assert_eq!(address, replica.address);
    // What the sentinel does not know yet is not held against it.
    sentinel.names(&replica.address, 2);
    assert!(
        time::timeout(Duration::from_millis(300), hold.lost())
            .await
            .is_err()
    );
}

/// A pipe to wherever the guides say.
fn pipe(via: Via, stop: CancellationToken) -> (Arc<Endpoint>, Pipe) {
    let tls = RedisTls::default();
    let endpoint = Endpoint::new(&RedisUrl::nowhere(), via, &tls, "meta".into(), stop.clone());
    let endpoint = Arc::new(endpoint.expect("no files"));
    let (pipe, task) = Pipe::new(PipeConfig {
        endpoint: endpoint.clone(),
        purpose: "test",
        timeout: SOON,
        counters: Arc::default(),
        health: Arc::default(),
        prepare: Arc::new(|_| Box::pin(std::future::ready(Ok(())))),
        stop,
    });
    tokio::spawn(task);
    (endpoint, pipe)
}

/// A node of a cluster that says that `owner` has all slots.
fn is_node(node: &Made, owner: &Address, publish: String) {
    let owner = format!("*3\r\n+{}\r\n:{}\r\n+id\r\n", owner.host(), owner.port());
    *node.answers.lock() = Some(vec![
        (
            "HELLO",
            "%3\r\n+mode\r\n+cluster\r\n+version\r\n+7.0.0\r\n+role\r\n+master\r\n".into(),
        ),
        (
            "CLUSTER SLOTS",
            format!("*1\r\n*3\r\n:0\r\n:16383\r\n{owner}"),
        ),
        ("EXISTS", ":0\r\n".into()),
        ("PING", "+PONG\r\n".into()),
        ("SPUBLISH", publish),
    ]);
}

#[tokio::test]
async fn a_refusal_that_names_the_owner_is_followed_at_once() {
    let nodes = [
        Made::new(Some(Vec::new())).await,
        Made::new(Some(Vec::new())).await,
    ];
    let [old, new] = &nodes;
    // Both nodes are behind: only a refusal tells.
    let moved = format!("-MOVED 13907 127.0.0.1:{}\r\n", new.address.port());
    is_node(old, &old.address, moved);
    is_node(new, &old.address, ":1\r\n".into());
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let via = Via::Cluster(nodes.iter().map(|it| it.address.clone()).collect());
    let (endpoint, pipe) = pipe(via, stop);
    assert_eq!(found(&endpoint.place).await.0, old.address);
    let publish = || Request::new("SPUBLISH").arg("channel").arg("message");
    let sent = async { tokio::join!(pipe.call(publish()), pipe.call(publish())) };
    for answer in <[_; 2]>::from(soon(sent).await) {
        // All that was under way is known to be undone.
        let text = format!("{answer:?}");
        assert!(
            text.contains("MOVED") || answer == Ok(Value::Number(1)),
            "{text}"
        );
    }
    assert_eq!(soon(pipe.call(publish())).await, Ok(Value::Number(1)));
    assert_eq!(endpoint.place.address().as_ref(), Some(&new.address));
}

/// Whatever has not begun to leave when a server is left is not told to it any more: it may lose it.
#[tokio::test]
async fn what_waits_when_a_server_is_left_stays_here() {
    let old = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = old.local_addr().expect("an address").port();
    let address = Address::new("127.0.0.1", port.into()).expect("an address");
    let small = socket2::SockRef::from(&old).set_recv_buffer_size(64 * 1024);
    small.expect("a small buffer");
    let sentinel = Made::sentinel(&address, 1).await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let sentinels = Sentinels {
        nodes: vec![sentinel.address.clone()],
        master: "mymaster".into(),
        credentials: Credentials::default(),
    };
    let (endpoint, pipe) = pipe(Via::Sentinel(sentinels), stop);
    let mut hold = found(&endpoint.place).await.1;
    let mut socket = soon(old.accept()).await.expect("a connection").0;
    let mut greeting = [0; 1024];
    assert!(soon(socket.read(&mut greeting)).await.expect("a greeting") > 0);
    let about = b"%2\r\n+version\r\n+7.0.0\r\n+role\r\n+master\r\n";
    socket.write_all(about).await.expect("it is taken");
    // Now it takes nothing: more than the system holds waits here.
    let calls: Vec<_> = (0..120)
        .map(|number| {
            let mark = format!("<{number}>");
            let request = Request::new("X").arg(&mark).arg("x".repeat(64 * 1024));
            let pipe = pipe.clone();
            (mark, tokio::spawn(async move { pipe.call(request).await }))
        })
        .collect();
    time::sleep(Duration::from_millis(500)).await;
    let new = Made::server("master").await;
    sentinel.names(&new.address, 2);
    let _ = sentinel
        .push
        .send(">3\r\n+message\r\n+switch-master\r\n+-\r\n".into());
    soon(hold.lost()).await;
    let mut taken = Vec::new();
    // It may end in the middle.
    let _ = soon(socket.read_to_end(&mut taken)).await;
    let taken = String::from_utf8_lossy(&taken);
    let mut waited = 0;
    for (mark, call) in calls {
        let answer = soon(call).await.expect("it does not panic");
        let sent = matches!(answer, Err(CallError::Unknown));
        assert_eq!(taken.contains(&mark), sent, "{mark} {answer:?}");
        waited += usize::from(matches!(answer, Err(CallError::NotSent(_))));
    }
    assert!(waited > 0, "nothing had to wait");
}
