//! What `/events` promises of order, completeness, cursors and verdicts holds here, message for frame.

use serde_json::json;
use tidegate::event::EventId;

use crate::support::{Gateway, Handshake, PATIENCE, WebSocket, event, id, numbers};

/// Members of the first message, without those that differ by nature.
fn opened(socket: &WebSocket) -> serde_json::Value {
    let mut open = socket.opening.clone();
    for member in ["connection", "retry", "id", "cursor"] {
        open.as_object_mut().unwrap().remove(member).unwrap();
    }
    open
}

#[tokio::test]
async fn open_comes_first_and_says_where_it_starts() {
    let gateway = Gateway::with("stream.retry", "3s").start().await;
    let newest = gateway.publish("orders", "before").await;
    let mut socket = gateway.follow("orders,stock").await;
    let topics = json!(["orders", "stock"]);
    assert_eq!(
        opened(&socket),
        json!({ "type": "open", "replay": "none", "topics": topics })
    );
    assert_eq!(socket.start(), newest, "the frontier");
    assert_eq!(socket.opening["cursor"], socket.opening["id"]);
    assert!(!socket.connection_id().is_empty());
    let retry = socket.opening["retry"].as_u64().unwrap();
    assert!((2_000..=4_000).contains(&retry), "{}", socket.opening);
    socket.stays_silent().await;
}

#[tokio::test]
async fn without_a_topic_it_follows_the_default_one() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.ws("").open().await;
    assert_eq!(socket.opening["topics"], json!(["default"]));
    gateway.publish("default", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
}

#[tokio::test]
async fn an_event_has_all_its_members() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let first = gateway.publish("orders", "a").await;
    let message = socket.expect("event").await;
    let text = first.to_string();
    assert_eq!(
        message,
        json!({ "type": "event", "id": text, "topic": "orders", "event": "message", "data": "a", "cursor": text }),
        "the type is always named"
    );
    let body = r#"{"topic":"orders","event":"created","data":{"order": 1, "lines": [ ]}}"#;
    let answer = gateway.post(body).await;
    let text = answer.json()["id"].clone();
    assert_eq!(
        socket.expect("event").await,
        json!({ "type": "event", "id": text, "topic": "orders", "event": "created", "data": "{\"order\":1,\"lines\":[]}", "cursor": text }),
        "data is a string, always"
    );
}

#[tokio::test]
async fn events_come_in_order_and_once() {
    let gateway = Gateway::start().await;
    let mut sockets = [
        gateway.follow("orders").await,
        gateway.follow("orders").await,
        gateway.ws("topic=orders&lastEventId=earliest").open().await,
    ];
    let data = numbers(0..500);
    for piece in data.chunks(50) {
        gateway
            .publish_all("orders", piece.iter().map(String::as_str))
            .await;
    }
    for socket in &mut sockets {
        assert_eq!(socket.take(500).await, data);
        socket.stays_silent().await;
    }
}

/// Every character that there is, and what would end a line, a string or a frame in other formats.
#[tokio::test]
async fn data_arrives_byte_for_byte() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let every: Vec<char> = (char::MIN..=char::MAX).collect();
    let mut data: Vec<String> = every
        .chunks(15_000)
        .map(|piece| piece.iter().collect())
        .collect();
    data.extend(
        [
            "",
            " ",
            "\n",
            "\n\n",
            "a\nb",
            "a\r\nb",
            "a\rb",
            "\r\n\r\n",
            "data: forged\n\nid: 1-1\n\n",
            "\0",
            "a\0b",
            "\u{feff}bom",
            "\u{2028}\u{2029}\u{85}",
            "\"quoted\" \\ / \u{8}\u{c}\t",
            "{\"type\":\"live\"}",
            "</script><!--",
            "\u{1b}[31m",
            "\u{d7ff}\u{e000}\u{10ffff}",
        ]
        .map(str::to_owned),
    );
    data.push("x".repeat(64 * 1024));
    data.push("\u{1F30A}".repeat(16 * 1024));
    data.push("\u{1}".repeat(32 * 1024));
    for (number, data) in data.iter().enumerate() {
        let published = gateway.publish("orders", data).await;
        let came = socket.next().await;
        assert_eq!(came.id, published, "{number}");
        let same = came.data == *data;
        assert!(
            same,
            "{number}: {:?}",
            &data.escape_debug().to_string()[..60.min(data.len())]
        );
    }
}

#[tokio::test]
async fn types_and_topics_arrive_as_they_were_named() {
    let gateway = Gateway::start().await;
    let topic = "käufe/é.1:\u{1F30A}-\"quoted\"\\";
    let encode = |bytes: &[u8]| {
        let hex = bytes.iter().map(|byte| format!("%{byte:02X}"));
        hex.collect::<Vec<_>>().concat()
    };
    let encoded = encode(topic.as_bytes());
    let mut socket = gateway.ws(&format!("topic={encoded}")).open().await;
    assert_eq!(socket.opening["topics"], json!([topic]));
    for kind in [
        "created",
        "message",
        "error",
        "open",
        "ä \"b\"",
        "x".repeat(128).as_str(),
    ] {
        let body = json!({ "topic": topic, "event": kind, "data": kind });
        let answer = gateway.post(body.to_string()).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let came = socket.next().await;
        assert_eq!((came.topic.as_str(), came.event.as_str()), (topic, kind));
    }
}

#[tokio::test]
async fn one_cursor_stands_for_many_topics() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("a,b,c").await;
    for number in 0..30 {
        let topic = ["a", "b", "c"][number % 3];
        gateway.publish(topic, &number.to_string()).await;
    }
    for number in 0..10 {
        let came = socket.next().await;
        assert_eq!(came.data, number.to_string());
        assert_eq!(came.topic, ["a", "b", "c"][number % 3]);
        assert!(came.has_cursor, "{came:?}");
    }
    let cursor = socket.cursor();
    drop(socket);
    for number in 30..60 {
        let topic = ["c", "c", "a"][number % 3];
        gateway.publish(topic, &number.to_string()).await;
    }
    let mut socket = gateway.follow_after("a,b,c", &cursor).await;
    assert_eq!(socket.replay(), "complete");
    socket.replays(numbers(10..60)).await;
    socket.stays_silent().await;
}

/// A cursor says nothing of how it was come by.
#[tokio::test]
async fn a_cursor_of_one_transport_is_good_on_the_other() {
    let gateway = Gateway::start().await;
    let mut cursor = gateway.subscribe("orders,stock").await.cursor();
    for round in 0..6 {
        let wanted = numbers(round * 4..round * 4 + 4);
        for (at, data) in wanted.iter().enumerate() {
            gateway.publish(["orders", "stock"][at % 2], data).await;
        }
        // The last one is read by the next.
        let wanted: Vec<String> = match round {
            0 => wanted,
            _ => numbers(round * 4 - 1..round * 4 + 4),
        };
        let count = wanted.len() - 1;
        cursor = if round % 2 == 0 {
            let mut socket = gateway.follow_after("orders,stock", &cursor).await;
            assert_eq!(socket.replay(), "complete");
            assert_eq!(socket.take(count).await, wanted[..count]);
            socket.cursor()
        } else {
            let mut reader = gateway.resume("orders,stock", &cursor).await;
            assert_eq!(reader.replay(), "complete");
            assert_eq!(reader.take(count).await, wanted[..count]);
            reader.cursor()
        };
    }
    let mut socket = gateway.follow_after("orders,stock", &cursor).await;
    socket.replays(["23"]).await;
}

#[tokio::test]
async fn who_drops_before_the_first_event_misses_nothing() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "before").await;
    let cursor = gateway.follow("orders").await.cursor();
    gateway.publish_all("orders", ["a", "b"]).await;
    let mut socket = gateway.follow_after("orders", cursor).await;
    assert_eq!(socket.replay(), "complete");
    socket.replays(["a", "b"]).await;
}

#[tokio::test]
async fn where_nothing_was_lost_the_replay_is_complete() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b"]).await;
    for name in ["lastEventId", "last_event_id", "lastEventID"] {
        let query = format!("topic=orders&{name}={}", ids[0]);
        let mut socket = gateway.ws(&query).open().await;
        let wanted = json!({ "type": "open", "replay": "complete", "topics": ["orders"] });
        assert_eq!(opened(&socket), wanted);
        assert_eq!(socket.start(), ids[0]);
        let live = socket.replays(["b"]).await;
        assert_eq!(live["topics"], json!(["orders"]));
        assert_eq!(live["cursor"], ids[1].to_string());
    }
}

fn is_gap(socket: &WebSocket, reason: &str, topics: &[&str]) {
    let mut open = opened(socket);
    let missed = open.as_object_mut().unwrap().remove("missed_at_least");
    assert_eq!(
        open,
        json!({ "type": "open", "replay": "gap", "reason": reason, "topics": topics })
    );
    assert!(missed.is_none_or(|missed| missed.as_u64() > Some(0)));
}

#[tokio::test]
async fn what_retention_took_is_told_before_anything_newer() {
    let gateway = Gateway::with("retention.events", 5).start().await;
    let cursor = id(&gateway.follow("orders,quiet").await.cursor());
    let data = numbers(0..10);
    let ids = gateway
        .publish_all("orders", data.iter().map(String::as_str))
        .await;
    for cursor in [cursor, ids[0], ids[3]] {
        let mut socket = gateway.follow_after("orders,quiet", cursor).await;
        is_gap(&socket, "retention", &["orders"]);
        assert_eq!(socket.start(), cursor);
        let live = socket.replays(numbers(5..10)).await;
        assert_eq!(
            crate::support::sorted(&live["topics"]),
            ["orders", "quiet"],
            "all are live now"
        );
    }
    let mut socket = gateway.follow_after("orders,quiet", ids[4]).await;
    assert_eq!(socket.replay(), "complete");
    socket.replays(numbers(5..10)).await;
}

#[tokio::test]
async fn a_restart_is_told_as_a_reset() {
    let old = Gateway::start().await;
    let cursor = old.publish("orders", "lost").await;
    old.stop(PATIENCE).await;
    let gateway = Gateway::start().await;
    let first = gateway.publish_all("orders", ["a", "b"]).await[0];
    let mut socket = gateway.follow_after("orders", cursor).await;
    is_gap(&socket, "reset", &["orders"]);
    let birth = socket.start();
    assert!(cursor < birth && birth < first, "the birth: {birth}");
    socket.replays(["a", "b"]).await;
}

/// A client that comes with a header cannot always repair it; a query was written by somebody who can (see the handshake).
#[tokio::test]
async fn a_cursor_that_cannot_be_understood_is_a_gap_of_unknown_size() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish("orders", "a").await;
    let future = EventId::new(newest.ms() + 3_600_000, 0).to_string();
    let by_header = |text: &str| gateway.ws("topic=orders").header("Last-Event-ID", text);
    for handshake in [
        by_header("garbage"),
        by_header("1-2-3"),
        by_header(&future),
        gateway.ws(&format!("topic=orders&lastEventId={future}")),
    ] {
        let mut socket = handshake.open().await;
        is_gap(&socket, "unknown", &["orders"]);
        assert_eq!(socket.start(), newest, "the frontier");
        socket.stays_silent().await;
    }
}

#[tokio::test]
async fn history_is_asked_for_as_of_events() {
    let gateway = Gateway::with("retention.events", 3).start().await;
    gateway
        .publish_all("orders", ["a", "b", "c", "d", "e"])
        .await;
    for (query, wanted) in [
        ("lastEventId=earliest", &["c", "d", "e"][..]),
        ("lastEventId=0-0", &["c", "d", "e"]),
        ("since=1h", &["c", "d", "e"]),
        ("since=1970-01-01T00:00:00Z", &["c", "d", "e"]),
        ("last=2", &["d", "e"]),
        ("last=2&since=1h", &["c", "d", "e"]),
    ] {
        let mut socket = gateway.ws(&format!("topic=orders&{query}")).open().await;
        assert_eq!(socket.replay(), "none", "{query}");
        if query.starts_with("lastEventId") {
            assert_eq!(socket.start(), EventId::ZERO, "{query}");
        }
        socket.replays(wanted).await;
        socket.stays_silent().await;
    }
}

#[tokio::test]
async fn the_header_wins_over_the_query_and_an_empty_one_is_none() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b", "c"]).await;
    let query = format!("topic=orders&lastEventId={}", ids[0]);
    let after = |cursor: &str| gateway.ws(&query).header("Last-Event-ID", cursor);
    let mut socket = after(&ids[1].to_string()).open().await;
    socket.replays(["c"]).await;
    let mut socket = after("").open().await;
    socket.replays(["b", "c"]).await;
}

#[tokio::test]
async fn live_is_said_once_after_every_start_but_now() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish_all("orders", ["a", "b"]).await[1];
    for query in [
        "topic=orders,quiet&lastEventId=earliest",
        "topic=orders,quiet&since=5m",
        "topic=orders,quiet&last=1",
        "topic=never-used&lastEventId=earliest",
        &format!("topic=orders,quiet&lastEventId={newest}"),
    ] {
        let mut socket = gateway.ws(query).open().await;
        let live = loop {
            let message = socket.telling().await;
            if message["type"] == "live" {
                break message;
            }
            event(&message);
        };
        let followed = crate::support::sorted(&live["topics"]);
        let mut wanted: Vec<&str> = query[6..].split('&').next().unwrap().split(',').collect();
        wanted.sort_unstable();
        assert_eq!(followed, wanted, "{query}");
        // Said once: the next thing that comes is the next event.
        socket.is_open().await;
    }
    for query in ["topic=orders", "topic=orders&last=0"] {
        let mut socket = gateway.ws(query).open().await;
        gateway.publish("orders", "next").await;
        let next = socket.telling().await;
        assert_eq!(next["type"], "event", "{query}: {next}");
    }
}

/// While a topic is quiet its cursor is moved by the others, so it never ages out while its owner is connected.
#[tokio::test]
async fn a_quiet_topic_gets_checkpoints() {
    let gateway = Gateway::with("stream.keepalive", "1s")
        .with("retention.events", 5)
        .start()
        .await;
    let mut socket = gateway.follow("quiet").await;
    let data = numbers(0..50);
    let busy = data.iter().map(String::as_str);
    let last = *gateway.publish_all("busy", busy).await.last().unwrap();
    loop {
        let message = socket.message().await;
        assert_eq!(message["type"], "cursor", "{message}");
        let cursor = id(message["cursor"].as_str().unwrap());
        assert!(cursor <= last, "never beyond what was stored");
        if cursor == last {
            break;
        }
    }
    let cursor = socket.cursor();
    drop(socket);
    gateway.publish("quiet", "at last").await;
    let mut socket = gateway.follow_after("quiet", cursor).await;
    assert_eq!(socket.replay(), "complete");
    socket.replays(["at last"]).await;
}

#[tokio::test]
async fn a_finished_topic_is_ended_and_with_the_last_one_the_connection() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("a,b").await;
    gateway.publish("a", "1").await;
    let last = gateway.finish("a", Some("2")).await;
    assert_eq!(socket.take(2).await, ["1", "2"]);
    let end = socket.expect("end").await;
    assert_eq!(end["topic"], "a", "{end}");
    assert!(id(end["id"].as_str().unwrap()) > last, "{end}");
    // The other one goes on.
    gateway.publish("b", "3").await;
    assert_eq!(socket.take(1).await, ["3"]);
    gateway.finish("b", None).await;
    let end = socket.expect("end").await;
    assert_eq!(end["topic"], "b", "{end}");
    socket.closes(1000, "finished").await;
    gateway.has_places_taken(0).await;
}

#[tokio::test]
async fn who_comes_after_the_end_is_told_and_closed() {
    let gateway = Gateway::start().await;
    let first = gateway.publish("orders", "a").await;
    gateway.publish("orders", "b").await;
    let end = gateway.finish("orders", None).await;
    for (query, wanted) in [
        (format!("lastEventId={first}"), &["b"][..]),
        ("lastEventId=earliest".to_owned(), &["a", "b"]),
        (format!("lastEventId={end}"), &[]),
        (String::new(), &[]),
    ] {
        let handshake = gateway.ws(&format!("topic=orders&{query}"));
        let mut socket = handshake.open().await;
        let (messages, closed) = socket.rest().await;
        let mut data = Vec::new();
        let mut ends = 0;
        for message in &messages {
            match message["type"].as_str() {
                Some("event") => {
                    assert_eq!(ends, 0, "{query}: after the end: {messages:?}");
                    data.push(event(message).data);
                }
                Some("end") => ends += 1,
                Some("live" | "cursor") => {}
                _ => panic!("{query}: {messages:?}"),
            }
        }
        assert_eq!(
            (data.as_slice(), ends),
            (
                &wanted.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()[..],
                1
            ),
            "{query}"
        );
        assert_eq!(closed.code, Some(1000), "{query}");
        assert_eq!(closed.reason, "finished", "{query}");
    }
}

/// Older than what is in memory, and longer than any buffer.
#[tokio::test]
async fn a_long_replay_comes_whole() {
    const EVENTS: usize = 20_000;
    let gateway = Gateway::with("retention.events", 50_000)
        .with("tail.events", 64)
        .start()
        .await;
    let cursor = gateway.follow("orders").await.cursor();
    for piece in numbers(0..EVENTS).chunks(2_000) {
        gateway.publish_lines("orders", piece).await;
    }
    let mut socket = gateway.follow_after("orders", cursor).await;
    assert_eq!(socket.replay(), "complete");
    for number in 0..EVENTS {
        assert_eq!(socket.next().await.data, number.to_string());
    }
    socket.expect("live").await;
}

/// The race between history and live: readers leave and return all the time while events are published.
#[tokio::test]
async fn who_returns_while_events_are_published_gets_each_once() {
    const EVENTS: usize = 2_000;
    let gateway = Gateway::start().await;
    let mut readers = tokio::task::JoinSet::new();
    for stride in [1_usize, 7, 40, 333] {
        let mut socket = gateway.follow("orders").await;
        let address = gateway.public;
        readers.spawn(async move {
            let (mut seen, mut rounds) = (Vec::with_capacity(EVENTS), 0);
            while seen.len() < EVENTS {
                let stride = if rounds < 100 { stride } else { 100 };
                let count = stride.min(EVENTS - seen.len());
                seen.extend(socket.take(count).await);
                rounds += 1;
                let query = format!("topic=orders&lastEventId={}", socket.cursor());
                drop(socket);
                socket = Handshake::new(address, &query).open().await;
                assert_eq!(socket.replay(), "complete");
            }
            socket.stays_silent().await;
            seen
        });
    }
    let all = numbers(0..EVENTS);
    for piece in all.chunks(20) {
        gateway
            .publish_all("orders", piece.iter().map(String::as_str))
            .await;
    }
    for seen in readers.join_all().await {
        assert_eq!(seen, all);
    }
}

/// Retention does not wait for a reader that does not read; when it reads on, the hole is told where it is.
#[tokio::test]
async fn a_hole_that_opens_while_connected_is_told_in_the_stream() {
    const EVENTS: usize = 120;
    let gateway = Gateway::with("retention.events", 20)
        .with("tail.events", 20)
        .with("stream.keepalive", "5m")
        .with("stream.write_timeout", "5m")
        .start()
        .await;
    let mut socket = gateway.ws("topic=orders").narrow().open().await;
    let large = "x".repeat(60_000);
    let data: Vec<String> = (0..EVENTS)
        .map(|number| format!("{number} {large}"))
        .collect();
    for piece in data.chunks(30) {
        gateway.publish_lines("orders", piece).await;
    }
    let (mut wanted, mut came, mut told) = (0, 0, false);
    while wanted < EVENTS {
        let message = socket.telling().await;
        match message["type"].as_str() {
            Some("gap") => {
                assert_eq!(message["reason"], "retention", "{message}");
                assert_eq!(message["topics"], json!(["orders"]), "{message}");
                told = true;
            }
            Some("event") => {
                let data = event(&message).data;
                let number: usize = data.split(' ').next().unwrap().parse().unwrap();
                assert!(number >= wanted, "{number} came after {wanted} was due");
                assert_eq!(number > wanted, told, "{number} after {wanted} was due");
                (wanted, came, told) = (number + 1, came + 1, false);
            }
            _ => panic!("{message}"),
        }
    }
    assert!(came < EVENTS, "the test wants a hole");
}
