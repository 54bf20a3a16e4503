//! Whatever strangers send, the gateway stays up, serves the others, keeps nothing of it, and writes one line a thing.

use std::time::Duration;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::{Gateway, Request, eventually};

/// Requests as they should be; a mutation makes something else of them.
const SEEDS: [&[u8]; 9] = [
    b"GET /events?topic=orders HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nLast-Event-ID: 1732096700000-3\r\n\r\n",
    b"GET /events?topic=a&topic=b,c&since=5m&envelope=json HTTP/1.1\r\nHost: localhost\r\nCookie: tidegate=e30.e30.e30; a=b\r\n\r\n",
    b"GET /events?access_token=e30.e30.e30&ticket=abc HTTP/1.0\r\nAuthorization: Bearer e30.e30.e30\r\n\r\n",
    b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n{\"topic\":\"orders\",\"data\":\"x\"}",
    b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n{\"topic\":\"orders\",\"data\":\"x\"}\n\r\n0\r\n\r\n",
    b"POST /ticket HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=\"[::1]\"\r\n\r\n",
    b"OPTIONS /publish HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:1\r\nAccess-Control-Request-Method: POST\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x0c\x01\x05\0\0\0\x01\x82\x84\x86\x41\x03abc\x44\x01/",
    b"HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\nGET /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

#[derive(Clone, Debug)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, usize),
    Splice(prop::sample::Index, usize, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..24),
        prop::sample::select(vec![
            b"\r\n".to_vec(),
            b"\r\n\r\n".to_vec(),
            b"\0".to_vec(),
            b"%00%0d%0a".to_vec(),
            b"Content-Length: 5\r\n".to_vec(),
            b"Transfer-Encoding: chunked\r\n".to_vec(),
            b"Expect: 100-continue\r\n".to_vec(),
            b"Upgrade: h2c\r\nConnection: upgrade\r\n".to_vec(),
            b"\xff\xfe".to_vec(),
            b"ffffffffffffffff\r\n".to_vec(),
        ]),
    ];
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
        index().prop_map(Mutation::Cut),
        (index(), bytes).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (index(), 2..400_usize).prop_map(|(at, times)| Mutation::Repeat(at, times)),
        (index(), 0..SEEDS.len(), index())
            .prop_map(|(at, seed, from)| Mutation::Splice(at, seed, from)),
    ]
}

fn mutated(seed: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for mutation in mutations {
        if bytes.is_empty() {
            break;
        }
        match mutation {
            Mutation::Flip(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Mutation::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Mutation::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Mutation::Repeat(at, times) => {
                let at = at.index(bytes.len());
                let end = (at + 16).min(bytes.len());
                let piece = bytes[at..end].repeat(*times);
                bytes.splice(at..end, piece);
            }
            Mutation::Splice(at, seed, from) => {
                bytes.truncate(at.index(bytes.len()));
                let seed = SEEDS[*seed];
                bytes.extend_from_slice(&seed[from.index(seed.len())..]);
            }
        }
    }
    bytes
}

/// Sends bytes, reads a little of what comes, and leaves.
async fn visit(gateway: std::net::SocketAddr, bytes: Vec<u8>) {
    let Ok(mut socket) = TcpStream::connect(gateway).await else {
        panic!("the gateway does not accept connections any more");
    };
    let _ = timeout(Duration::from_secs(2), socket.write_all(&bytes)).await;
    let mut answer = [0; 512];
    let _ = timeout(Duration::from_millis(20), socket.read(&mut answer)).await;
}

/// The seed is fixed, so that a failure can be had again.
#[tokio::test]
async fn a_corpus_of_broken_requests_breaks_nothing() {
    let gateway = Gateway::with("LIMITS__CONNECTIONS", 50)
        .with("SERVER__HEADER_TIMEOUT", "1s")
        // Where the HTTP library writes a stream, only a write finds out that its reader is gone.
        .with("STREAM__KEEPALIVE", "500ms")
        .start()
        .await;
    let mut steady = gateway.subscribe("steady").await;
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha),
    );
    let corpus = (0..SEEDS.len(), prop::collection::vec(mutation(), 0..4));
    let mut visits = JoinSet::new();
    for number in 0..1_500 {
        let (seed, mutations) = corpus.new_tree(&mut runner).unwrap().current();
        let bytes = mutated(SEEDS[seed], &mutations);
        let listener = if number % 4 == 0 {
            gateway.admin
        } else {
            gateway.public
        };
        visits.spawn(visit(listener, bytes));
        if visits.len() >= 32 {
            visits.join_next().await.unwrap().unwrap();
        }
    }
    visits.join_all().await;
    gateway.publish("steady", "still here").await;
    assert_eq!(steady.take(1).await, ["still here"]);
    drop(steady);
    eventually("every place is given back", async || {
        let places = gateway.metric("tidegate_stream_places").await;
        let connections = gateway.metric("tidegate_tcp_connections").await;
        // The scrape itself is on a connection.
        if places == Some(0.0) && connections <= Some(1.0) {
            Ok(())
        } else {
            Err(format!("{places:?} places, {connections:?} connections"))
        }
    })
    .await;
    let mut gateway = gateway;
    let said = gateway.program().said();
    assert!(!said.contains("panicked"), "{said}");
}

/// Every line of the log is one object, whatever stood in the request.
#[tokio::test]
async fn nobody_writes_a_line_of_the_log() {
    let gateway = Gateway::start().await;
    let forged = "{\"level\":\"INFO\",\"message\":\"forged\"}";
    for target in [
        format!("/events%0d%0a{forged}")
            .replace('"', "%22")
            .replace('{', "%7b")
            .replace('}', "%7d"),
        "/events?topic=a%0d%0aforged".to_owned(),
        "/nowhere/%1b%5b31mforged".to_owned(),
        "/events?since=%0aforged".to_owned(),
    ] {
        gateway.get(&target).await;
    }
    for (name, value) in [
        ("X-Request-Id", "a\u{1b}[31mforged"),
        ("X-Request-Id", "forged forged"),
        ("Last-Event-ID", "\u{7f}forged"),
        ("Origin", "http://forged\u{1b}[0m"),
        ("traceparent", "forged\tforged"),
    ] {
        let request = Request::get("/events?topic=a").header(name, value);
        let mut connection = gateway.connect().await;
        connection.send(request.bytes(gateway.public)).await;
    }
    gateway
        .post("{\"topic\":\"a\\nforged\",\"data\":\"\",\"event\":\"b\\r\\nforged\"}")
        .await;
    let exit = gateway.stop(Duration::from_secs(10)).await;
    for line in exit.output.lines().filter(|line| !line.is_empty()) {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no object: {line}"));
        assert_ne!(value["message"], "forged", "{line}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}

/// A payload cannot forge a field or a frame, whichever line ends it uses.
#[tokio::test]
async fn nobody_writes_a_frame_of_a_stream() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let data = "a\nevent: $refused\rid: 9999999999999-0\r\n\r\ndata: forged\n\nretry: 1";
    let body = serde_json::json!({ "topic": "orders", "data": data }).to_string();
    let stored = gateway.post(body).await.json();
    for field in ["event", "topic"] {
        for value in ["a\nid: 1-1", "a\rdata: x", "a\u{0}"] {
            let mut body = serde_json::json!({ "topic": "orders", "data": "x" });
            body[field] = value.into();
            let answer = gateway.post(body.to_string()).await;
            assert_eq!(answer.status(), 400, "{field} {value:?}: {answer:?}");
        }
    }
    let event = reader.next().await;
    assert_eq!(event.id.to_string(), stored["id"].as_str().unwrap());
    let lines: Vec<&str> = event.data.split('\n').collect();
    let sent: Vec<&str> = "a\nevent: $refused\nid: 9999999999999-0\n\ndata: forged\n\nretry: 1"
        .split('\n')
        .collect();
    assert_eq!(lines, sent);
    gateway.publish("orders", "next").await;
    assert_eq!(reader.next().await.data, "next");
}

/// No path leaves its route, however it is written.
#[tokio::test]
async fn a_path_is_taken_as_it_is() {
    let gateway = Gateway::start().await;
    for target in [
        "/../metrics",
        "/health/../metrics",
        "/%2e%2e/metrics",
        "//admin/topics/a",
        "/admin/topics/a",
        "/config",
        "/metrics%00",
        "/events/..;/metrics",
        "/stats",
    ] {
        let answer = gateway.get(target).await;
        assert_eq!(answer.status(), 404, "{target}: {answer:?}");
    }
}
