//! Who says little, says it slowly, or does not listen, holds nothing for long and costs the others nothing.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Connection, Gateway, H2Client, PATIENCE, Request, Settings, eventually, quarters, within_time,
};

/// What a slow client is allowed, so short that tests can wait for its end, and no shorter than it takes anybody to say
/// something who has just connected.
const ALLOWED: Duration = Duration::from_secs(2);

fn hasty() -> Settings {
    Gateway::with("server.header_timeout", "2s")
}

/// Nobody else has noticed anything.
async fn all_is_well(gateway: &Gateway) {
    let mut reader = gateway.subscribe("all-is-well").await;
    gateway.publish("all-is-well", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
}

/// `head` came, and nothing after it: the answer says so, and comes in time.
async fn a_slow_head_is_refused(gateway: &Gateway, head: &str) {
    let begun = Instant::now();
    let mut connection = gateway.connect().await;
    connection.send(head).await;
    let answer = connection.response().await;
    let took = begun.elapsed();
    let detail = answer.refuses(408, "request_timeout");
    assert!(detail.contains("2s"), "{detail}");
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(connection.rest().await, b"");
    assert!(
        took >= ALLOWED / 2 && took < ALLOWED * 4,
        "{head:?}: {took:?}"
    );
}

#[tokio::test]
async fn a_head_that_does_not_end_is_refused() {
    let gateway = hasty().start().await;
    let heads = [
        "G",
        "GET /events?topic=orders",
        "GET /events?topic=orders HTTP/1.1\r\nHost: x\r\n",
        "POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n",
    ];
    join_all(heads.map(|head| a_slow_head_is_refused(&gateway, head))).await;
    gateway.has_open_streams(0).await;
    all_is_well(&gateway).await;
}

/// Each byte in time does not make the whole in time.
#[tokio::test]
async fn a_head_that_drips_is_refused() {
    let gateway = hasty().start().await;
    let begun = Instant::now();
    let mut connection = gateway.connect().await;
    let dripping = async {
        connection.send("GET / HTTP/1.1\r\nHost: x\r\n").await;
        loop {
            sleep(Duration::from_millis(50)).await;
            if connection.try_send("X: y\r\n").await.is_err() {
                return;
            }
        }
    };
    within_time(ALLOWED * 6, "the gateway to hang up", dripping).await;
    assert!(begun.elapsed() > ALLOWED / 2);
}

/// Whoever has said nothing gets no answer: it may be a browser that opened a connection ahead.
#[tokio::test]
async fn a_silent_connection_is_closed_without_a_word() {
    let gateway = hasty().start().await;
    let mut silent = gateway.connect().await;
    let mut idle = gateway.connect().await;
    assert_eq!(idle.ask(&Request::get("/health/live")).await.status(), 200);
    let begun = Instant::now();
    assert_eq!(silent.rest().await, b"");
    assert_eq!(idle.rest().await, b"", "an idle connection ends, too");
    assert!(begun.elapsed() < ALLOWED * 4, "{:?}", begun.elapsed());
}

const HEAD: &str =
    "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

#[tokio::test]
async fn a_body_that_pauses_for_too_long_is_refused() {
    let gateway = hasty().start().await;
    let pause = async |begin: &str| {
        let mut connection = gateway.connect().await;
        let begun = Instant::now();
        let request = format!("{HEAD}Content-Length: 100\r\n\r\n{begin}");
        connection.send(request).await;
        let detail = connection.response().await.refuses(408, "request_timeout");
        assert!(detail.contains("2s"), "{detail}");
        let took = begun.elapsed();
        assert!(took >= ALLOWED && took < ALLOWED * 3, "{took:?}");
    };
    tokio::join!(pause(""), pause("{"));
    all_is_well(&gateway).await;
}

/// It used to be allowed as long as each byte came in time, which let a client hold a request for ever.
#[tokio::test]
async fn a_body_that_drips_is_refused() {
    let gateway = hasty().start().await;
    let mut connection = gateway.connect().await;
    let begun = Instant::now();
    connection
        .send(format!("{HEAD}Content-Length: 1000\r\n\r\n"))
        .await;
    let mut sent = 0;
    let answer = loop {
        if sent < 900 {
            let _ = connection.try_send("x").await;
            sent += 1;
        }
        match timeout(Duration::from_millis(100), connection.response()).await {
            Ok(answer) => break answer,
            Err(_) => assert!(begun.elapsed() < ALLOWED * 12, "held {:?}", begun.elapsed()),
        }
    };
    let detail = answer.refuses(408, "request_timeout");
    assert!(detail.contains("too slow"), "{detail}");
    let took = begun.elapsed();
    assert!(took > ALLOWED * 5 && took < ALLOWED * 10, "{took:?}");
}

#[tokio::test]
async fn lines_may_be_quiet_for_the_idle_timeout_and_a_blank_one_is_enough_to_go_on() {
    let gateway = hasty().with("publish.idle_timeout", "3s").start().await;
    let head = "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let line = "{\"topic\":\"orders\",\"data\":\"a\"}\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let mut connection = gateway.connect().await;
    connection.send(format!("{head}{}", chunk(line))).await;
    let begun = Instant::now();
    for _ in 0..4 {
        sleep(Duration::from_secs(1)).await;
        connection.send(chunk("\n")).await;
    }
    connection.send(chunk(line)).await;
    let answer = connection.response().await;
    let detail = answer.refuses(408, "request_timeout");
    assert!(
        detail.contains("publish.idle_timeout") && detail.contains("2 events of it are stored"),
        "{detail}"
    );
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(6_500), "{took:?}");

    let mut connection = gateway.connect().await;
    let head = head.replace("/publish", "/publish?ack=lines");
    connection.send(format!("{head}{}", chunk(line))).await;
    let answer = connection.response().await;
    assert_eq!(answer.status(), 200);
    let text = answer.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[1].contains("request_timeout"), "{text}");
}

/// The answers of many requests, and nobody who reads them.
#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_given_up() {
    let gateway = Gateway::with("stream.write_timeout", "1s")
        .with("stream.keepalive", "200ms")
        .start()
        .await;
    let mut connection = Connection::open_narrow(gateway.public).await;
    let request = Request::get("/health").bytes(gateway.public).repeat(500);
    let writing = async { while connection.try_send_patiently(&request).await.is_ok() {} };
    within_time(Duration::from_secs(30), "the gateway to hang up", writing).await;
    all_is_well(&gateway).await;
}

#[tokio::test]
async fn a_thousand_half_open_sockets_leave_the_others_alone() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let mut held = Vec::new();
    for number in 0..1_000 {
        let mut connection = gateway.connect().await;
        match number % 4 {
            0 => {}
            1 => connection.send("PRI * HT").await,
            2 => {
                connection
                    .send("GET /events?topic=orders HTTP/1.1\r\n")
                    .await;
            }
            _ => {
                let request = format!("{HEAD}Content-Length: 100\r\n\r\n{{");
                connection.send(request).await;
            }
        }
        held.push(connection);
    }
    let mut took = Vec::new();
    for number in 0..20 {
        let begun = Instant::now();
        gateway.publish("orders", &number.to_string()).await;
        assert_eq!(reader.take(1).await, [number.to_string()]);
        took.push(begun.elapsed());
    }
    let took = quarters(3, took);
    assert!(took < Duration::from_secs(1), "{took:?}");
    gateway.has_open_streams(1).await;
    drop(held);
}

/// Sockets that say nothing used to take every descriptor: then operators could not even look.
#[tokio::test]
async fn a_flood_of_silent_sockets_leaves_descriptors_for_those_who_speak() {
    let mut gateway = Gateway::settings().open_files(360).start().await;
    let mut reader = gateway.subscribe("orders").await;
    let mut held = Vec::new();
    // All at once: who has to go is chosen faster than anybody leaves.
    gateway.program().freeze();
    for _ in 0..800 {
        held.push(gateway.connect().await);
    }
    gateway.program().signal(Signal::CONT);
    for number in 0..20 {
        gateway.publish("orders", &number.to_string()).await;
        assert_eq!(reader.take(1).await, [number.to_string()]);
        held.push(gateway.connect().await);
    }
    gateway.has_open_streams(1).await;
    // 841 came, 264 have room. Not many more may have to go than that, or those who speak are soon among them.
    let evicted = gateway.metric("tidegate_connections_evicted_total").await;
    assert!(
        evicted.is_some_and(|evicted| (400.0..600.0).contains(&evicted)),
        "{evicted:?}"
    );
    let open = gateway.metric("process_open_fds").await.unwrap();
    assert!(open < 300.0, "{open}");
}

/// What is too large is refused, whatever it is made of; on both protocols.
#[tokio::test]
async fn header_bombs_are_refused() {
    let gateway = Gateway::start().await;
    let many: Vec<(String, String)> = (0..90)
        .map(|number| (format!("x-{number}"), "y".repeat(400)))
        .collect();
    let too_many: Vec<(String, String)> = (0..2_000)
        .map(|number| (format!("x-{number}"), "y".to_owned()))
        .collect();
    let large = vec![("x".to_owned(), "y".repeat(40_000))];
    let huge = vec![("x".to_owned(), "y".repeat(2_000_000))];
    let same = vec![("x".to_owned(), "y".repeat(200)); 95];
    for bomb in [&many, &too_many, &large, &huge, &same] {
        let mut request = Request::get("/events?topic=orders");
        for (name, value) in bomb {
            request = request.header(name, value);
        }
        let answer = gateway.ask(request).await;
        answer.refuses(431, "header_too_large");
        let mut client = H2Client::open(gateway.public).await;
        let fields: Vec<(&str, &str)> = bomb
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        client
            .send_request(1, "/events?topic=orders", &fields)
            .await;
        let refused = client.refusal(1).await;
        assert!(
            refused.is_none_or(|status| status == 431),
            "answered {refused:?}"
        );
    }
    gateway.has_open_streams(0).await;
    all_is_well(&gateway).await;
}

/// An error code of HTTP/2 (RFC 9113, 7).
const ENHANCE_YOUR_CALM: u32 = 11;

/// CVE-2023-44487: asking and taking back costs the client nothing.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let gateway = Gateway::start().await;
    let mut attacker = H2Client::open(gateway.public).await;
    let mut bytes = Vec::new();
    for number in 0..10_000 {
        let stream = 1 + 2 * number;
        bytes.extend(attacker.request(stream, "/events?topic=orders", &[]));
        bytes.extend(H2Client::reset(stream));
    }
    attacker.send(bytes).await;
    let code = attacker.goes_away().await;
    assert!(
        code.is_none_or(|code| code == ENHANCE_YOUR_CALM),
        "{code:?}"
    );
    gateway.has_open_streams(0).await;
    all_is_well(&gateway).await;
}

/// Ten thousand streams on one connection: so many are open as one connection may have, and the others are served.
#[tokio::test]
async fn a_flood_of_streams_is_bounded() {
    let gateway = Gateway::start().await;
    let mut attacker = H2Client::open(gateway.public).await;
    let mut bytes = Vec::new();
    for number in 0..10_000 {
        bytes.extend(attacker.request(1 + 2 * number, "/events?topic=orders", &[]));
    }
    attacker.send(bytes).await;
    eventually(
        "the streams that one connection may have",
        async || match gateway.metric("sse_active_connections").await {
            Some(open) if open <= 200.0 => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    all_is_well(&gateway).await;
    drop(attacker);
    gateway.has_open_streams(0).await;
}

/// A head that goes on for ever in CONTINUATION frames.
#[tokio::test]
async fn a_head_without_an_end_over_http_2_is_cut() {
    let gateway = hasty().start().await;
    let mut attacker = H2Client::open(gateway.public).await;
    let mut bytes = attacker.endless_request(1, "/events?topic=orders");
    // A field that costs nothing to write: `x: y`, as a literal that is not remembered.
    let block = [0, 1, b'x', 1, b'y'].repeat(2_000);
    for _ in 0..200 {
        bytes.extend(H2Client::continuation(1, &block));
    }
    attacker.send(bytes).await;
    attacker.goes_away().await;

    let mut slow = H2Client::open(gateway.public).await;
    let begun = Instant::now();
    let head = slow.endless_request(1, "/events?topic=orders");
    slow.send(head).await;
    slow.goes_away().await;
    let took = begun.elapsed();
    assert!(took < ALLOWED * 6, "{took:?}");
    gateway.has_open_streams(0).await;
    all_is_well(&gateway).await;
}

/// Each has to be answered; what is not read must not pile up.
#[tokio::test]
async fn pings_and_settings_that_nobody_reads_the_answers_of_take_no_memory() {
    let gateway = Gateway::with("stream.write_timeout", "1s")
        .with("stream.keepalive", "200ms")
        .start()
        .await;
    let before = gateway
        .metric("process_resident_memory_bytes")
        .await
        .unwrap();
    let connection = Connection::open_narrow(gateway.public).await;
    let mut attacker = H2Client::over(connection, gateway.public).await;
    let frames = [H2Client::ping(), H2Client::settings()].concat();
    let bytes = frames.repeat(10_000);
    let flooding = async { while attacker.send_patiently(&bytes).await {} };
    within_time(Duration::from_secs(30), "the gateway to hang up", flooding).await;
    let after = gateway
        .metric("process_resident_memory_bytes")
        .await
        .unwrap();
    assert!(after - before < 8e6, "{before} {after}");
    all_is_well(&gateway).await;
}

/// The client opens no window: its answers wait, and not for ever.
#[tokio::test]
async fn answers_that_no_window_lets_out_are_given_up() {
    let gateway = Gateway::with("stream.write_timeout", "1s")
        .with("stream.keepalive", "200ms")
        .start()
        .await;
    let mut attacker = H2Client::open(gateway.public).await;
    let mut bytes = H2Client::no_window();
    for number in 0..150 {
        bytes.extend(attacker.request(1 + 2 * number, "/health", &[]));
    }
    let begun = Instant::now();
    attacker.send(bytes).await;
    within_time(
        Duration::from_secs(15),
        "the end",
        attacker.goes_away_slowly(),
    )
    .await;
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    all_is_well(&gateway).await;
}

#[tokio::test]
async fn an_idle_connection_of_http_2_is_closed_and_one_with_a_stream_is_not() {
    let gateway = hasty().start().await;
    let mut unused = H2Client::open(gateway.public).await;
    let mut preface = gateway.connect().await;
    preface.send("PRI * HTTP/2.0\r\n\r\nSM").await;
    let mut half = gateway.connect().await;
    half.send("PRI * HT").await;
    let mut follows = H2Client::open(gateway.public).await;
    follows.get("/events?topic=orders").await;
    let begun = Instant::now();
    unused.goes_away().await;
    preface.rest().await;
    half.rest().await;
    let took = begun.elapsed();
    assert!(took < ALLOWED * 6 && took < PATIENCE, "{took:?}");
    sleep(ALLOWED * 3).await;
    gateway.publish("orders", "still here").await;
    follows.data_until("still here").await;
    // A client whose stream has ended is told before its connection is closed.
    gateway.finish("orders", None).await;
    assert_eq!(follows.goes_away().await, Some(0), "NO_ERROR");
}
