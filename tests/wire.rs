//! The stream, byte by byte.

use serde_json::{Value, json};
use tidegate::event::EventId;

use crate::support::{Connection, Gateway, H2Client, Request, Subscriber, id};

/// The raw bytes that come after the opening frame, as text, until they contain `end`.
async fn raw_until(reader: &mut Subscriber, end: &str) -> String {
    loop {
        let text = String::from_utf8(reader.raw.clone()).unwrap();
        let body = text.split_once("\n\n").unwrap().1;
        if body.contains(end) {
            return body.to_owned();
        }
        reader.frame().await;
    }
}

#[tokio::test]
async fn the_head_says_what_it_is_and_that_nobody_may_keep_it() {
    let gateway = Gateway::start().await;
    let reader = gateway
        .events("topic=orders")
        .like_a_browser()
        .header("Accept-Encoding", "gzip, deflate, br, zstd")
        .open()
        .await;
    let head = &reader.head;
    assert!(head.raw.starts_with("HTTP/1.1 200 OK\r\n"), "{}", head.raw);
    for (name, value) in [
        ("content-type", Some("text/event-stream")),
        ("cache-control", Some("no-cache, no-store, no-transform")),
        ("x-accel-buffering", Some("no")),
        ("tidegate-replay", Some("none")),
        ("transfer-encoding", Some("chunked")),
        ("content-length", None),
        ("content-encoding", None),
        ("tidegate-refused", None),
        ("etag", None),
    ] {
        assert_eq!(head.header(name), value, "{name} in\n{}", head.raw);
    }
}

#[tokio::test]
async fn the_body_begins_at_once_with_retry_cursor_and_open() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish("orders", "a").await;
    let reader = gateway.subscribe("orders").await;
    let raw = String::from_utf8(reader.raw).unwrap();
    let rest = raw.strip_prefix("retry: ").unwrap();
    let (retry, rest) = rest.split_once('\n').unwrap();
    retry.parse::<u32>().unwrap();
    let begin = format!("id: {newest}\nevent: $open\ndata: {{\"connection\":\"");
    let rest = rest
        .strip_prefix(&begin)
        .unwrap_or_else(|| panic!("{raw:?}"));
    let (connection, rest) = rest.split_once('"').unwrap();
    assert!(!connection.is_empty(), "{raw:?}");
    assert_eq!(
        rest, ",\"replay\":\"none\",\"topics\":[\"orders\"]}\n\n",
        "{raw:?}"
    );
}

#[tokio::test]
async fn every_connection_has_a_name_and_a_retry_of_its_own() {
    let gateway = Gateway::with("stream.retry", "10s").start().await;
    let (mut names, mut retries) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        let reader = gateway.subscribe("orders").await;
        let retry = reader.opening.retry_ms.unwrap();
        assert!(
            (6_700..=13_300).contains(&retry),
            "within a third of ten seconds: {retry}"
        );
        retries.push(retry);
        names.push(
            reader.open_data()["connection"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    retries.sort_unstable();
    assert!(
        retries[29] - retries[0] > 1_000,
        "drawn for each connection: {retries:?}"
    );
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 30);
}

#[tokio::test]
async fn by_default_a_browser_waits_about_three_seconds() {
    let gateway = Gateway::start().await;
    let retry = gateway.subscribe("orders").await.opening.retry_ms.unwrap();
    assert!((2_010..=3_990).contains(&retry), "{retry}");
}

#[tokio::test]
async fn an_event_has_a_type_only_if_it_is_not_message_and_a_topic_only_among_several() {
    let gateway = Gateway::start().await;
    let mut one = gateway.subscribe("orders").await;
    let mut two = gateway.subscribe("orders,other").await;
    let mut ids = Vec::new();
    for item in [
        json!({"topic": "orders", "event": "created", "data": {"order": 1}}),
        json!({"topic": "orders", "event": "message", "data": "plain"}),
        json!({"topic": "orders", "data": ""}),
    ] {
        let answer = gateway.post(item.to_string()).await;
        ids.push(id(answer.json()["id"].as_str().unwrap()));
    }
    let wanted = format!(
        "id: {}\nevent: created\ndata: {{\"order\":1}}\n\nid: {}\ndata: plain\n\nid: {}\ndata:\n\n",
        ids[0], ids[1], ids[2]
    );
    one.take(3).await;
    assert_eq!(raw_until(&mut one, &wanted).await, wanted);
    let wanted = format!(
        "id: {}\nevent: created\ntopic: orders\ndata: {{\"order\":1}}\n\nid: {}\ntopic: orders\ndata: plain\n\nid: {}\ntopic: orders\ndata:\n\n",
        ids[0], ids[1], ids[2]
    );
    two.take(3).await;
    assert_eq!(raw_until(&mut two, &wanted).await, wanted);
}

/// `\r\n`, `\n` and `\r` each end a line, each line gets its own `data:`, and nothing else ends one.
#[tokio::test]
async fn no_payload_can_forge_a_field_and_no_line_is_lost() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    for (data, lines) in [
        ("a\nb", "data: a\ndata: b\n"),
        ("a\r\nb", "data: a\ndata: b\n"),
        ("a\rb", "data: a\ndata: b\n"),
        ("a\n\nb", "data: a\ndata:\ndata: b\n"),
        ("a\r\r\nb", "data: a\ndata:\ndata: b\n"),
        ("a\n\rb", "data: a\ndata:\ndata: b\n"),
        ("a\n", "data: a\ndata:\n"),
        ("\n", "data:\ndata:\n"),
        ("\r\n\r\n", "data:\ndata:\ndata:\n"),
        (" a", "data:  a\n"),
        (":a", "data: :a\n"),
        ("id: 9-9", "data: id: 9-9\n"),
        (
            "x\n\nid: 9-9\nevent: $open\rdata: y",
            "data: x\ndata:\ndata: id: 9-9\ndata: event: $open\ndata: data: y\n",
        ),
        (
            "a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f\0g",
            "data: a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f\0g\n",
        ),
        ("\u{feff}bom", "data: \u{feff}bom\n"),
        ("数据 🌊", "data: 数据 🌊\n"),
    ] {
        let stored = gateway.publish("orders", data).await;
        let before = reader.raw.len();
        reader.next().await;
        let raw = std::str::from_utf8(&reader.raw[before..]).unwrap();
        assert_eq!(raw, format!("id: {stored}\n{lines}\n"), "{data:?}");
    }
}

#[tokio::test]
async fn the_envelope_holds_id_topic_type_and_data() {
    let gateway = Gateway::start().await;
    let mut reader = gateway
        .events("topic=orders&topic=other&envelope=json")
        .open()
        .await;
    let typed = json!({"topic": "orders", "event": "created", "data": {"order": 1}});
    let answer = gateway.post(typed.to_string()).await.json();
    let first = answer["id"].as_str().unwrap();
    let second = gateway.publish("other", "a\n\"b\"").await;
    let event = reader.next().await;
    assert_eq!(event.kind.as_deref(), Some("created"));
    assert_eq!(
        event.data,
        format!(
            r#"{{"id":"{first}","topic":"orders","event":"created","data":"{{\"order\":1}}"}}"#
        )
    );
    assert_eq!(event.id, id(first));
    let event = reader.next().await;
    assert_eq!(event.kind, None);
    assert_eq!(
        event.data,
        format!(r#"{{"id":"{second}","topic":"other","event":"message","data":"a\n\"b\""}}"#)
    );
}

/// When the cursor has moved without an event for this subscriber, silence is filled with a checkpoint.
#[tokio::test]
async fn a_checkpoint_has_an_id_and_empty_data() {
    let gateway = Gateway::with("stream.keepalive", "200ms").start().await;
    let mut reader = gateway.subscribe("orders").await;
    let elsewhere = gateway.publish("other", "a").await;
    let wanted = format!("\n\nid: {elsewhere}\nevent: $cursor\ndata:\n\n");
    let checkpoint = loop {
        let frame = reader.frame().await;
        // There may be keepalives before it and after it.
        if frame.comments.is_empty() {
            break frame;
        }
    };
    assert_eq!(checkpoint.event.as_deref(), Some("$cursor"));
    assert_eq!(id(&reader.cursor()), elsewhere);
    let raw = std::str::from_utf8(&reader.raw).unwrap();
    assert!(raw.contains(&wanted), "wanted {wanted:?} in {raw:?}");
}

#[tokio::test]
async fn a_heartbeat_is_an_event_without_an_id_for_who_asks() {
    let gateway = Gateway::with("stream.keepalive", "200ms").start().await;
    let mut reader = gateway.events("topic=orders&heartbeat=event").open().await;
    let frame = reader.frame().await;
    assert_eq!(frame.event.as_deref(), Some("$heartbeat"), "{frame:?}");
    assert_eq!(frame.id, None);
    assert!(
        frame.data.is_some(),
        "without data a browser would not tell the page"
    );
}

/// No script can read the field, and a page that reconnects by itself wants to know it.
#[tokio::test]
async fn retry_stands_in_the_data_as_well_for_who_asks() {
    let settings = Gateway::with("drain.timeout", "10s");
    let gateway = settings.with("limits.connections", 1).start().await;
    let mut reader = gateway.events("topic=orders&retry=data").open().await;
    let raw = String::from_utf8(reader.raw.clone()).unwrap();
    let field = raw
        .strip_prefix("retry: ")
        .unwrap()
        .split_once('\n')
        .unwrap()
        .0;
    assert_eq!(reader.open_data()["retry"].to_string(), field, "{raw:?}");

    let target = "/events?topic=orders&retry=data&refuse=stream";
    let refused = gateway.get(target).await;
    let body = refused.text();
    let field = body
        .strip_prefix("retry: ")
        .unwrap()
        .split_once('\n')
        .unwrap()
        .0;
    let data = body.split_once("data: ").unwrap().1.trim_end();
    let problem: Value = serde_json::from_str(data).unwrap();
    assert_eq!(problem["code"], "connection_limit");
    assert_eq!(problem["retry"].to_string(), field, "{body:?}");

    gateway.terminate();
    let drain = reader.control("$drain").await;
    let told = json!({ "retry": drain.retry_ms.unwrap() }).to_string();
    assert_eq!(drain.data.as_deref(), Some(&*told));
}

/// For simple parsers that treat each event as data.
#[tokio::test]
async fn without_control_events_there_are_ids_comments_and_what_was_published() {
    let gateway = Gateway::with("stream.keepalive", "200ms").start().await;
    let first = gateway.publish("orders", "a").await;
    let mut reader = gateway
        .events("topic=orders&control=off&lastEventId=earliest")
        .open()
        .await;
    let opening = std::str::from_utf8(&reader.raw).unwrap();
    let (retry, rest) = opening.split_once('\n').unwrap();
    assert!(retry.starts_with("retry: "), "{opening:?}");
    assert!(rest.starts_with("id: 0-0\n\n"), "{opening:?}");
    assert_eq!(reader.head.header("tidegate-replay"), Some("none"));
    let event = reader.next().await;
    assert_eq!((event.id, event.data.as_str()), (first, "a"));
    let elsewhere = gateway.publish("other", "b").await;
    let (mut comments, mut checkpoints) = (0, 0);
    while comments == 0 || checkpoints == 0 {
        let frame = reader.frame().await;
        assert_eq!((&frame.event, &frame.data), (&None, &None), "{frame:?}");
        if frame.comments.is_empty() {
            let at = id(frame.id.as_deref().unwrap());
            checkpoints += usize::from(at == elsewhere);
        } else {
            assert_eq!(frame.id, None, "{frame:?}");
            comments += 1;
        }
    }
    let raw = std::str::from_utf8(&reader.raw).unwrap();
    assert!(raw.contains(&format!("\n\nid: {elsewhere}\n\n")), "{raw:?}");
    assert!(!raw.contains('$'), "{raw:?}");
}

#[tokio::test]
async fn without_control_events_a_finished_topic_just_ends() {
    let gateway = Gateway::start().await;
    gateway.finish("orders", Some("last")).await;
    let mut reader = gateway
        .events("topic=orders&control=off&lastEventId=earliest")
        .open()
        .await;
    assert_eq!(reader.take(1).await, ["last"]);
    for frame in reader.rest().await {
        assert_eq!((&frame.event, &frame.data), (&None, &None), "{frame:?}");
    }
}

#[tokio::test]
async fn head_answers_the_headers_and_counts_as_no_stream() {
    let gateway = Gateway::with("limits.connections", 1).start().await;
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        let request = Request::new("HEAD", "/events?topic=orders").header("Connection", "close");
        let answer = connection.ask(&request).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.header("tidegate-replay"), Some("none"));
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(
            connection.rest().await.escape_ascii().to_string(),
            "",
            "a HEAD has no body"
        );
    }
    let answer = gateway
        .ask(Request::new("HEAD", "/events?topic=%24x"))
        .await;
    assert_eq!(answer.status(), 400);
    gateway.has_open_streams(0).await;
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..3 {
        let answer = connection.ask(&Request::get("/health/live")).await;
        assert_eq!(answer.status(), 200);
    }
    let body = r#"{"topic":"orders","data":"a"}"#;
    let answer = connection.ask(&Request::publish(body)).await;
    assert_eq!(answer.status(), 200);
    let request = Request::get("/health/live").header("Connection", "close");
    let answer = connection.ask(&request).await;
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(connection.rest().await, b"");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    let mut bytes = Request::publish(r#"{"topic":"orders","data":"a"}"#).bytes(gateway.public);
    bytes.extend(Request::get("/nowhere").bytes(gateway.public));
    bytes.extend(Request::get("/events?topic=orders&last=1").bytes(gateway.public));
    // Nobody answers this one as long as the stream before it lasts.
    bytes.extend(Request::get("/health/live").bytes(gateway.public));
    connection.send(bytes).await;
    assert_eq!(connection.response().await.status(), 200);
    assert_eq!(connection.response().await.status(), 404);
    let mut reader = Subscriber::begin(connection).await;
    reader.replays(["a"]).await;
    gateway.publish("orders", "b").await;
    assert_eq!(reader.take(1).await, ["b"]);
    reader.stays_silent().await;
}

/// What is asked after a stream that has ended is answered, or the connection is closed; never mixed into the stream.
#[tokio::test]
async fn a_stream_that_ends_leaves_the_connection_in_order() {
    let gateway = Gateway::start().await;
    gateway.finish("orders", Some("last")).await;
    let mut connection = gateway.connect().await;
    let mut bytes = Request::get("/events?topic=orders&last=1").bytes(gateway.public);
    bytes.extend(Request::get("/health/live").bytes(gateway.public));
    connection.send(bytes).await;
    let answer = connection.response().await;
    assert!(answer.text().contains("event: $end\n"), "{answer:?}");
    if answer.header("connection") == Some("close") {
        assert_eq!(connection.rest().await, b"");
    } else {
        assert_eq!(connection.response().await.status(), 200);
    }
}

#[tokio::test]
async fn connection_close_on_a_stream_is_respected_when_it_ends() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    let request = Request::get("/events?topic=orders").header("Connection", "close");
    connection.send(request.bytes(gateway.public)).await;
    let mut reader = Subscriber::begin(connection).await;
    assert_eq!(reader.head.header("connection"), Some("close"));
    gateway.finish("orders", Some("last")).await;
    assert_eq!(reader.take(1).await, ["last"]);
    reader.control("$end").await;
    assert!(reader.rest().await.is_empty());
}

/// HTTP/1.0 knows no chunks: the body is as it is, and ends with the connection.
#[tokio::test]
async fn a_client_of_http_1_0_gets_the_stream_without_chunks() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    let request = format!(
        "GET /events?topic=orders HTTP/1.0\r\nHost: {}\r\n\r\n",
        gateway.public
    );
    connection.send(request).await;
    let mut reader = Subscriber::begin(connection).await;
    assert_eq!(reader.head.header("transfer-encoding"), None);
    assert_eq!(reader.head.header("content-length"), None);
    assert_eq!(reader.open_data()["replay"], "none");
    let stored = gateway.finish("orders", Some("last")).await;
    let frames = reader.rest().await;
    assert_eq!(frames[0].id, Some(stored.to_string()));
    assert_eq!(frames.last().unwrap().event.as_deref(), Some("$end"));
    let raw = String::from_utf8(reader.raw).unwrap();
    assert!(
        raw.starts_with("retry: ") && raw.ends_with("\n\n"),
        "{raw:?}"
    );
}

/// Bodies of answers that are complete are not chunked for HTTP/1.0 either.
#[tokio::test]
async fn a_client_of_http_1_0_can_publish() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    let body = r#"{"topic":"orders","data":"a"}"#;
    let request = format!(
        "POST /publish HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.send(request).await;
    let answer = connection.response().await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.head.chunked());
    assert_eq!(answer.json()["topic"], "orders");
    assert_eq!(connection.rest().await, b"");
}

#[tokio::test]
async fn who_expects_to_be_asked_for_the_body_is_asked() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    let body = r#"{"topic":"orders","data":"a"}"#;
    let head = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    connection.send(head).await;
    assert_eq!(connection.response().await.status(), 100);
    connection.send(body).await;
    assert_eq!(connection.response().await.status(), 200);
}

/// A refusal does not ask for the body first.
#[tokio::test]
async fn who_expects_to_be_asked_is_refused_without_sending_the_body() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    connection
        .send("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(connection.response().await.status(), 404);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    let gateway = Gateway::start().await;
    let mut stays = gateway.subscribe("orders").await;
    let mut leaves = Vec::new();
    for _ in 0..10 {
        leaves.push(gateway.events("topic=orders").narrow().open().await);
    }
    gateway.has_open_streams(11).await;
    gateway.publish("orders", &"x".repeat(60_000)).await;
    drop(leaves);
    gateway.has_open_streams(1).await;
    assert_eq!(stays.take(1).await[0].len(), 60_000);
}

#[tokio::test]
async fn json_and_streams_are_not_compressed_by_the_gateway() {
    let gateway = Gateway::start().await;
    let mut reader = gateway
        .events("topic=orders")
        .header("Accept-Encoding", "gzip")
        .open()
        .await;
    assert_eq!(reader.head.header("content-encoding"), None);
    let text = "compress me ".repeat(1_000);
    gateway.publish("orders", &text).await;
    assert_eq!(reader.take(1).await, [text]);
}

#[tokio::test]
async fn names_in_the_query_are_percent_encoded_utf_8() {
    let gateway = Gateway::start().await;
    gateway.publish("orders/eu.west:1-2", "a").await;
    gateway.publish("数据", "b").await;
    gateway.publish("a=b&c+d", "c").await;
    for (topic, data) in [
        ("orders%2Feu.west%3A1-2", "a"),
        ("orders/eu.west:1-2", "a"),
        ("%E6%95%B0%E6%8D%AE", "b"),
        ("a%3Db%26c%2Bd", "c"),
        ("%61%3d%62%26%63%2b%64", "c"),
    ] {
        let mut reader = gateway
            .events(&format!("topic={topic}&last=1"))
            .open()
            .await;
        reader.replays([data]).await;
    }
    let several = gateway.events("topic=a%2Cb&topic=c").open().await;
    assert_eq!(several.open_data()["topics"], json!(["a", "b", "c"]));
}

/// Pages add such things to defeat caches.
#[tokio::test]
async fn parameters_that_mean_nothing_here_are_ignored() {
    let gateway = Gateway::start().await;
    let reader = gateway
        .events("_=1732096800123&topic=orders&t&&utm_source=x")
        .open()
        .await;
    assert_eq!(reader.open_data()["topics"], json!(["orders"]));
}

#[tokio::test]
async fn http_2_with_prior_knowledge_carries_the_same_stream() {
    let gateway = Gateway::start().await;
    let mut client = H2Client::open(gateway.public).await;
    client.get("/events?topic=orders").await;
    let opening = client.data_until("\n\n").await;
    assert!(opening.starts_with("retry: "), "{opening:?}");
    assert!(
        opening.contains("\nevent: $open\ndata: {\"connection\":\""),
        "{opening:?}"
    );
    let stored = gateway.publish("orders", "a\nb").await;
    let event = client.data_until("\n\n").await;
    assert_eq!(event, format!("id: {stored}\ndata: a\ndata: b\n\n"));
    gateway.has_open_streams(1).await;
    drop(client);
    gateway.has_open_streams(0).await;
}

/// Large frames over HTTP/2 respect the window that the client gives; nothing is lost when it stays shut for a while.
#[tokio::test]
async fn http_2_waits_for_the_window_of_the_client() {
    let gateway = Gateway::start().await;
    let mut client = H2Client::open(gateway.public).await;
    client.get("/events?topic=orders").await;
    client.data_until("\n\n").await;
    for _ in 0..3 {
        gateway.publish("orders", &"x".repeat(40_000)).await;
    }
    let got = client.data_until(&"x".repeat(20_000)).await;
    assert!(got.len() <= 65_535, "the first window holds no more");
    gateway
        .publish("other", "nobody waits for the stuck one")
        .await;
}

/// Whatever comes in one read or in many single bytes is the same request.
#[tokio::test]
async fn a_request_may_come_in_single_bytes() {
    let gateway = Gateway::start().await;
    let mut connection = Connection::open(gateway.public).await;
    let body = r#"{"topic":"orders","data":"a"}"#;
    for byte in Request::publish(body).bytes(gateway.public) {
        connection.send([byte]).await;
    }
    let answer = connection.response().await;
    assert_eq!(answer.status(), 200);
    let json: Value = answer.json();
    assert!(id(json["id"].as_str().unwrap()) > EventId::ZERO);
}
