//! A deploy is quiet: on SIGTERM each stream is asked to come back, in its own time, and nothing is cut.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Gateway, H2Client, PATIENCE, Request, Settings, Subscriber, id};

/// A drain that may take so long. Its streams show that they live, so that their ends can be waited for.
fn draining(timeout: &str) -> Settings {
    Gateway::with("drain.timeout", timeout).with("stream.keepalive", "1s")
}

/// Reads on until the end, which comes whole after `$drain`; returns when `$drain` came.
async fn drained(mut reader: Subscriber) -> Instant {
    let cursor = id(&reader.cursor());
    let mut drain = None;
    while let Some((frame, at)) = reader.frame_or_end().await {
        assert!(drain.is_none(), "nothing comes after $drain: {frame:?}");
        if frame.event.as_deref() == Some("$drain") {
            drain = Some((frame, at));
        }
    }
    let (frame, at) = drain.unwrap();
    assert!(reader.ended_whole(), "the last chunk is `0\\r\\n\\r\\n`");
    assert!(frame.retry_ms.is_some(), "{frame:?}");
    assert!(
        frame.data.is_some(),
        "an id moves a cursor with data: {frame:?}"
    );
    assert!(id(frame.id.as_deref().unwrap()) >= cursor, "{frame:?}");
    at
}

#[tokio::test]
async fn each_stream_gets_a_last_cursor_and_ends_in_its_own_time() {
    let mut gateway = draining("20s").start().await;
    let mut readers = Vec::new();
    // So many that they get less than the time that each would like to have.
    for _ in 0..80 {
        readers.push(gateway.subscribe("orders").await);
    }
    gateway.publish("orders", "a").await;
    let begun = Instant::now();
    gateway.terminate();
    let ends = readers.into_iter().map(drained);
    let ends = futures_util::future::join_all(ends).await;
    let first = *ends.iter().min().unwrap();
    let last = *ends.iter().max().unwrap();
    assert!(
        last - first > Duration::from_secs(4),
        "spread over sixteen seconds, not all within {:?}",
        last - first
    );
    assert!(last - begun < Duration::from_secs(20), "{:?}", last - begun);
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

#[tokio::test]
async fn while_it_drains_it_is_unready_refuses_streams_and_takes_events() {
    let mut gateway = draining("20s").start().await;
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(gateway.subscribe("orders").await);
    }
    gateway.terminate();
    gateway.is_unready().await;
    assert_eq!(gateway.get_admin("/health/ready").await.status(), 503);
    assert_eq!(gateway.get("/health/live").await.status(), 200);
    let published = gateway.publish("orders", "while it drains").await;
    let answer = gateway.get("/events?topic=orders").await;
    answer.refuses(503, "draining");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let request = Request::get("/events?topic=orders")
        .header("Accept", "text/event-stream")
        .header("Last-Event-ID", &published.to_string());
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("tidegate-refused"), Some("draining"));
    let text = answer.text();
    assert!(text.contains(&format!("\nid: {published}\n")), "{text}");
    // Whoever is still there gets the event before the end.
    let mut saw = 0;
    for mut reader in readers {
        let frames = reader.rest().await;
        let (end, rest) = frames.split_last().unwrap();
        assert_eq!(end.event.as_deref(), Some("$drain"));
        let cursor = id(end.id.as_deref().unwrap());
        let got = rest
            .iter()
            .any(|frame| frame.data.as_deref() == Some("while it drains"));
        assert_eq!(
            got,
            cursor >= published,
            "a cursor tells no more than was sent"
        );
        saw += u32::from(got);
    }
    assert!(saw > 0, "nobody got what was published while it drained");
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

/// A stream over HTTP/2 is told the same, and only the stream ends.
#[tokio::test]
async fn a_stream_over_http_2_is_drained_as_well() {
    let mut gateway = Gateway::with("drain.timeout", "5s").start().await;
    let mut client = H2Client::open(gateway.public).await;
    client.get("/events?topic=orders").await;
    client.data_until("$open").await;
    gateway.terminate();
    let data = client.data_to_the_end().await;
    let end = data.rsplit_once("retry: ").unwrap().1;
    assert!(end.contains("\nevent: $drain\ndata: "), "{data:?}");
    assert!(end.ends_with("\n\n"), "{data:?}");
    // A client that does not answer holds its connection for as long as the drain may take.
    let exit = gateway.program().exit(2 * PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

/// `drain.delay`: time for the balancer to notice, in which all still works.
#[tokio::test]
async fn in_the_delay_all_still_works() {
    let gateway = draining("20s").with("drain.delay", "4s").start().await;
    let begun = Instant::now();
    let before = gateway.subscribe("orders").await;
    gateway.terminate();
    gateway.is_unready().await;
    let newcomer = gateway.subscribe("orders").await;
    gateway.publish("orders", "a").await;
    for mut reader in [before, newcomer] {
        assert_eq!(reader.take(1).await, ["a"]);
        let at = drained(reader).await;
        assert!(
            at - begun > Duration::from_millis(3_900),
            "not before the delay is over"
        );
    }
}

#[tokio::test]
async fn with_nobody_connected_it_ends_at_once() {
    let gateway = Gateway::with("drain.timeout", "20s").start().await;
    let exit = gateway.stop(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut gateway = Gateway::with("drain.timeout", "60s").start().await;
    let mut readers = Vec::new();
    // Their slots take fifteen seconds.
    for _ in 0..60 {
        readers.push(gateway.subscribe("orders").await);
    }
    gateway.terminate();
    gateway.is_unready().await;
    gateway.terminate();
    gateway.program().exit(PATIENCE).await;
}

/// A reader that does not read cannot hold up the end.
#[tokio::test]
async fn a_stuck_reader_does_not_hold_up_the_end() {
    let gateway = Gateway::with("drain.timeout", "1s").start().await;
    let stuck = gateway.events("topic=orders").narrow().open().await;
    let large = "x".repeat(60_000);
    gateway
        .publish_lines("orders", std::iter::repeat_n(large, 200))
        .await;
    let exit = gateway.stop(2 * PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
    drop(stuck);
}

/// A connection on which nothing was ever said, as browsers open them ahead, used to hold the exit for the time of a head.
#[tokio::test]
async fn a_silent_connection_does_not_hold_up_the_end() {
    let gateway = Gateway::start().await;
    let silent = gateway.connect().await;
    gateway.has_let_all_in().await;
    let exit = gateway.stop(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
    drop(silent);
}

/// What was accepted is answered, however late it was sent.
#[tokio::test]
async fn a_publish_that_has_begun_is_answered() {
    let mut gateway = Gateway::with("drain.timeout", "20s").start().await;
    let reader = gateway.subscribe("orders").await;
    let body = r#"{"topic":"orders","data":"a"}"#;
    let request = Request::publish(body).header("Expect", "100-continue");
    let bytes = request.bytes(gateway.public);
    let (head, body) = bytes.split_at(bytes.len() - body.len());
    let mut connection = gateway.connect().await;
    connection.send(head).await;
    assert_eq!(connection.head().await.status, 100, "it has begun");
    let (begin, end) = body.split_at(10);
    connection.send(begin).await;
    gateway.terminate();
    gateway.is_unready().await;
    connection.send(end).await;
    assert_eq!(connection.response().await.status(), 200);
    drained(reader).await;
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}
