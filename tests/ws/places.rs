//! Nobody slows anybody, and whoever leaves, in whatever way, leaves nothing behind.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{Frame, Gateway, PATIENCE, Settings, WebSocket, event, within_time};

const EVENTS: usize = 100;

/// Far more than the buffers of a socket hold.
fn large_events() -> impl Iterator<Item = String> {
    let large = "x".repeat(60_000);
    (0..EVENTS).map(move |number| format!("{number} {large}"))
}

/// Publishes them, a few megabytes at a time.
async fn publish(gateway: &Gateway, events: impl Iterator<Item = String>) {
    let events: Vec<String> = events.collect();
    for piece in events.chunks(30) {
        gateway.publish_lines("orders", piece).await;
    }
}

fn number(data: &str) -> usize {
    data.split_once(' ').unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn others_get_their_events_while_one_does_not_read() {
    let gateway = Gateway::start().await;
    let stuck = gateway.ws("topic=orders").narrow().open().await;
    let mut reads = gateway.follow("orders").await;
    publish(&gateway, large_events()).await;
    for wanted in 0..EVENTS {
        assert_eq!(number(&reads.next().await.data), wanted);
    }
    gateway.has_places_taken(2).await;
    for _ in 0..20 {
        gateway.publish("orders", "0 small").await;
        reads.next().await;
    }
    drop(stuck);
}

/// Closed after `stream.write_timeout` without progress; it comes back with its cursor, and has lost nothing.
#[tokio::test]
async fn a_reader_that_does_not_read_is_closed_and_can_resume() {
    // Who comes back has to read for as long as that, too.
    let gateway = Gateway::with("stream.write_timeout", "2s").start().await;
    let mut stuck = gateway.ws("topic=orders").narrow().open().await;
    gateway.has_places_taken(1).await;
    publish(&gateway, large_events()).await;
    gateway.has_places_taken(0).await;
    let fields = [("message", "stream ended"), ("reason", "stuck")];
    let line = gateway.logged(&fields).await;
    assert_eq!(line["connection"], stuck.connection_id(), "{line}");
    // What had been sent before can still be read.
    let before: Vec<usize> = stuck
        .rest_until_cut()
        .await
        .iter()
        .map(|message| number(&event(message).data))
        .collect();
    assert_eq!(stuck.was_closed(), None, "there was no room to say so");
    assert!(before.len() < EVENTS, "the test wants a cut");
    assert_eq!(before, (0..before.len()).collect::<Vec<_>>());
    let mut again = gateway.follow_after("orders", stuck.cursor()).await;
    assert_eq!(again.replay(), "complete");
    for wanted in before.len()..EVENTS {
        assert_eq!(number(&again.next().await.data), wanted);
    }
}

/// Slow is not stuck: who makes progress stays, however long it takes in all.
#[tokio::test]
async fn a_slow_reader_is_not_closed() {
    const SLOW: usize = 60;
    let gateway = Gateway::with("stream.write_timeout", "3s").start().await;
    let mut slow = gateway.ws("topic=orders").narrow().open().await;
    let begun = Instant::now();
    let reading = async {
        for wanted in 0..SLOW {
            assert_eq!(number(&slow.next().await.data), wanted);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(publish(&gateway, large_events().take(SLOW)), reading);
    assert!(begun.elapsed() > Duration::from_secs(5));
}

async fn memory(gateway: &Gateway) -> f64 {
    let name = "process_resident_memory_bytes";
    gateway.metric(name).await.unwrap()
}

/// Twenty queues of what each of them was not sent would be 240 MB.
#[tokio::test]
async fn readers_that_do_not_read_cost_no_memory() {
    let gateway = Gateway::with("retention.total_bytes", "1MiB")
        .with("tail.total_bytes", "1MiB")
        .with("stream.keepalive", "5m")
        .with("stream.write_timeout", "5m")
        .start()
        .await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(gateway.ws("topic=orders").narrow().open().await);
    }
    publish(&gateway, large_events()).await;
    let before = memory(&gateway).await;
    for _ in 0..2 {
        publish(&gateway, large_events()).await;
    }
    let after = memory(&gateway).await;
    assert!(after - before < 32e6, "{before} {after}");
    // Now that they read, each is told what it missed, and gets the newest.
    gateway.publish("orders", "0 the last").await;
    for socket in &mut stuck {
        let mut gaps = 0;
        loop {
            let message = socket.telling().await;
            match message["type"].as_str() {
                Some("gap") => gaps += 1,
                Some("event") if message["data"] == "0 the last" => break,
                Some("event") => {}
                _ => panic!("{message}"),
            }
        }
        assert!(gaps > 0, "it was told nothing");
    }
}

/// Each has to be answered; what is not read must not pile up, and the sender learns that by not being read either.
#[tokio::test]
async fn questions_that_nobody_reads_the_answers_of_take_no_memory() {
    let gateway = Gateway::with("stream.write_timeout", "1s").start().await;
    let before = memory(&gateway).await;
    for question in [
        Frame::text(json!({ "type": "ping", "ref": "r".repeat(1_000) }).to_string()).bytes(),
        Frame::text(json!({ "type": "dance" }).to_string()).bytes(),
        Frame::new(crate::support::opcode::PING, [b'p'; 125]).bytes(),
    ] {
        let mut socket = gateway.ws("topic=orders").narrow().open().await;
        let bytes = question.repeat(200);
        let flood = async { while socket.try_send_patiently(&bytes).await.is_ok() {} };
        within_time(Duration::from_secs(30), "the gateway to hang up", flood).await;
        gateway.has_places_taken(0).await;
    }
    let after = memory(&gateway).await;
    assert!(after - before < 16e6, "{before} {after}");
}

/// Served to everybody, so that the rules of development mode do not hold.
fn open_to_all() -> Settings {
    Gateway::with("auth.anonymous", "subscribe,publish").with("limits.rate.connect", "off")
}

#[tokio::test]
async fn a_place_comes_back_however_a_client_leaves() {
    let gateway = open_to_all()
        .with("stream.keepalive", "1s")
        .with("limits.connections", 1)
        .start()
        .await;
    let ws = || gateway.ws("topic=orders");
    let is_free = async |after: &str| {
        gateway.has_places_taken(0).await;
        let mut socket = ws().open().await;
        socket.is_open().await;
        assert!(socket.close(1000, after).await.is_empty());
        gateway.has_places_taken(0).await;
    };

    is_free("nobody was there").await;
    drop(ws().open().await);
    is_free("a client that just went").await;

    let mut raw = TcpStream::connect(gateway.public).await.unwrap();
    raw.write_all(&ws().bytes()).await.unwrap();
    let mut answer = [0; 64];
    let read = raw.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 101"));
    raw.set_zero_linger().unwrap();
    drop(raw);
    is_free("a reset").await;

    // Who sends nothing more can neither close nor answer a ping.
    let mut half = ws().open().await;
    half.finish_sending().await;
    half.rest_until_cut().await;
    is_free("a client that had said that it sends no more").await;

    let mut early = gateway.connect().await;
    early.send(ws().bytes()).await;
    drop(early);
    gateway.has_seen_all_leave().await;
    is_free("a client that did not wait for the head").await;

    let mut amid = ws().open().await;
    amid.send_bytes(&Frame::text("{}").bytes()[..5]).await;
    drop(amid);
    is_free("a client that went in the midst of a frame").await;

    let mut silent = ws().open().await;
    silent.answers_pings = false;
    silent.rest_until_cut().await;
    is_free("a client that did not answer").await;

    let mut wrong = ws().open().await;
    wrong.send_bytes(Frame::text("{}").unmasked()).await;
    wrong.expect_close(1002).await;
    is_free("a client that does not know the protocol").await;

    // Who never answers a close is not waited for.
    let mut rude = ws().open().await;
    rude.send_bytes(Frame::text("{}").unmasked()).await;
    is_free("a client that did not answer a close").await;
    drop(rude);

    let mut polite = ws().open().await;
    gateway.finish("orders", None).await;
    polite.expect("end").await;
    polite.closes(1000, "finished").await;
    gateway.has_places_taken(0).await;
}

/// Whoever is refused takes no place.
#[tokio::test]
async fn a_refused_handshake_takes_no_place() {
    let gateway = open_to_all().with("limits.connections", 1).start().await;
    for _ in 0..10 {
        let ws = || gateway.ws("topic=orders");
        assert_eq!(ws().without("Upgrade").answer().await.status(), 426);
        let key = ws().without("Sec-WebSocket-Key");
        assert_eq!(key.answer().await.status(), 400);
        let stranger = ws().header("Origin", "https://evil.example");
        assert_eq!(stranger.answer().await.status(), 403);
        assert_eq!(gateway.ws("topic=$x").answer().await.status(), 400);
    }
    let first = gateway.follow("orders").await;
    for _ in 0..10 {
        let handshake = gateway.ws("topic=orders");
        handshake.is_turned_away("connection_limit", 1013).await;
    }
    drop(first);
    gateway.has_places_taken(0).await;
    gateway.follow("orders").await.is_open().await;
}

/// Clients that leave while others come: in the end every place is free.
#[tokio::test]
async fn places_do_not_leak_in_a_crowd() {
    let gateway = open_to_all()
        .with("limits.connections", 10)
        .with("limits.connections_per_address", 8)
        .start()
        .await;
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..200_u64 {
        let handshake = gateway.ws("topic=orders");
        crowd.spawn(async move {
            let mut socket: WebSocket = handshake.upgrade().await;
            let message: Value = socket.message().await;
            if message["type"] == "error" {
                // Refused, or about to be.
                return;
            }
            match number % 4 {
                0 => socket.is_open().await,
                1 => drop(socket.close(1000, "").await),
                2 => socket.finish_sending().await,
                _ => {
                    let silence = Duration::from_millis(number % 50);
                    let _ = timeout(silence, socket.is_ended()).await;
                }
            }
        });
        if crowd.len() >= 20 {
            crowd.join_next().await.unwrap().unwrap();
        }
    }
    within_time(PATIENCE * 4, "the crowd to leave", crowd.join_all()).await;
    gateway.has_places_taken(0).await;
    gateway.counts("tidegate_limited_callers", &[], 0).await;
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(gateway.follow("orders").await);
    }
}
