//! What was acknowledged is stored: a publish answers 2xx only when the event is in the store, with its id.

use serde_json::{Value, json};
use tidegate::event::EventId;

use crate::support::{Chunks, Gateway, Request, Response, id, numbers};

/// All events of a topic, as a newcomer reads them.
async fn stored(gateway: &Gateway, topic: &str) -> Vec<String> {
    let query = format!("topic={topic}&lastEventId=earliest");
    gateway.events(&query).open().await.replayed().await
}

fn id_of(answer: &Value) -> EventId {
    id(answer["id"].as_str().unwrap())
}

#[tokio::test]
async fn one_event_is_answered_with_its_id_and_topic() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let answer = gateway
        .post(r#"{"topic":"orders","event":"created","data":"a"}"#)
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let event = reader.next().await;
    assert_eq!(
        answer.text().trim_end(),
        format!(r#"{{"id":"{}","topic":"orders"}}"#, event.id)
    );
    assert_eq!(event.kind.as_deref(), Some("created"));
}

/// The moment a publisher has its answer, a newcomer finds the event.
#[tokio::test]
async fn what_was_acknowledged_can_be_read_at_once() {
    let gateway = Gateway::start().await;
    for number in 0..50 {
        let text = number.to_string();
        let acknowledged = gateway.publish("orders", &text).await;
        let mut reader = gateway.events("topic=orders&last=1").open().await;
        let event = reader.next().await;
        assert_eq!((event.id, event.data), (acknowledged, text));
    }
}

#[tokio::test]
async fn data_is_a_string_as_it_is_or_other_json_made_compact() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    for (data, wanted) in [
        (r#""text""#, "text"),
        (r#""""#, ""),
        (r#""tab\tquote\" \u00e9 \ud83c\udf0a""#, "tab\tquote\" é 🌊"),
        (
            r#"{ "b" : 1,  "a" : [ 1.0, 2e3, "x y" ], "n": null }"#,
            r#"{"b":1,"a":[1.0,2e3,"x y"],"n":null}"#,
        ),
        ("[ ]", "[]"),
        ("12345678901234567890123.50", "12345678901234567890123.50"),
        ("true", "true"),
        ("null", "null"),
    ] {
        let body = format!("{{\n  \"topic\": \"orders\",\n  \"data\": {data}\n}}");
        let answer = gateway.post(body).await;
        assert_eq!(answer.status(), 200, "{data}: {answer:?}");
        assert_eq!(reader.take(1).await, [wanted]);
    }
}

#[tokio::test]
async fn a_content_type_may_have_parameters() {
    let gateway = Gateway::start().await;
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        let body = r#"{"topic":"orders","data":"a"}"#;
        let request = Request::post("/publish", content_type, body);
        assert_eq!(gateway.ask(request).await.status(), 200, "{content_type}");
    }
    assert_eq!(stored(&gateway, "orders").await, ["a", "a"]);
}

#[tokio::test]
async fn a_batch_is_answered_item_by_item_in_order() {
    let gateway = Gateway::start().await;
    let batch = json!([
        {"topic": "a", "data": "1"},
        {"topic": "b", "event": "created", "data": {"n": 2}},
        {"topic": "a", "data": "3"},
    ]);
    let answer = gateway.post(batch.to_string()).await;
    assert_eq!(answer.status(), 200);
    let json = answer.json();
    let ids: Vec<_> = json["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(id_of)
        .collect();
    let mut reader = gateway
        .events("topic=a,b&lastEventId=earliest")
        .open()
        .await;
    for (wanted, data) in ids.into_iter().zip(["1", r#"{"n":2}"#, "3"]) {
        let event = reader.next().await;
        assert_eq!((event.id, event.data.as_str()), (wanted, data));
    }
}

#[tokio::test]
async fn in_a_batch_each_item_stands_for_itself() {
    let gateway = Gateway::with("limits.event_bytes", "1KiB").start().await;
    let batch = json!([
        {"topic": "a", "data": "1"},
        {"data": "no topic"},
        {"topic": "a b", "data": "no topic either"},
        {"topic": "a", "event": "$open", "data": "the gateway's own"},
        {"topic": "a", "data": "x".repeat(1_025)},
        {"topic": "a", "dat": "?"},
        {"topic": "a", "data": "2"},
    ]);
    let answer = gateway.post(batch.to_string()).await;
    assert_eq!(answer.status(), 207, "{answer:?}");
    let json = answer.json();
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 7);
    let codes: Vec<_> = results
        .iter()
        .map(|result| result["error"]["code"].as_str().unwrap_or("stored"))
        .collect();
    assert_eq!(
        codes,
        [
            "stored",
            "topic_missing",
            "topic_invalid",
            "type_invalid",
            "event_too_large",
            "json_invalid",
            "stored"
        ]
    );
    for result in results {
        assert!(result["id"].is_string() != result["error"].is_object());
    }
    assert_eq!(stored(&gateway, "a").await, ["1", "2"]);
}

/// Nothing is asked, nothing is stored: whether that is a fault is left open, but not that it is answered.
#[tokio::test]
async fn an_empty_batch_stores_nothing() {
    let gateway = Gateway::start().await;
    let answer = gateway.post("[]").await;
    if answer.status() == 200 {
        assert_eq!(answer.json(), json!({"results": []}));
    } else {
        assert_eq!(answer.status(), 400);
        answer.problem();
    }
}

#[tokio::test]
async fn a_batch_over_the_limit_is_refused_as_a_whole() {
    let gateway = Gateway::start().await;
    let item = json!({"topic": "orders", "data": "a"});
    let answer = gateway
        .post(Value::from(vec![item.clone(); 1_001]).to_string())
        .await;
    answer.refuses(413, "batch_too_large");
    assert_eq!(stored(&gateway, "orders").await, [""; 0]);
    let answer = gateway
        .post(Value::from(vec![item; 1_000]).to_string())
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(stored(&gateway, "orders").await.len(), 1_000);
}

#[tokio::test]
async fn a_stream_of_lines_is_summed_up() {
    let gateway = Gateway::start().await;
    let line = |number: usize| format!("{{\"topic\":\"orders\",\"data\":\"{number}\"}}\n");
    let body = (0..2_500).map(line).collect::<Vec<_>>().concat();
    let answer = gateway.ask(Request::ndjson(body)).await;
    assert_eq!(answer.status(), 200);
    let json = answer.json();
    assert_eq!(
        (&json["stored"], &json["failed"]),
        (&2_500.into(), &0.into())
    );
    assert_eq!(json["errors"], json!([]));
    let mut reader = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    let first = reader.next().await;
    assert_eq!(json["first"], first.id.to_string());
    assert_eq!(reader.take(2_499).await, numbers(1..2_500));
    assert_eq!(json["last"], reader.cursor());
}

/// The body may be larger than `limits.body_bytes`, and the last line needs no line end; CRLF ends one as well.
#[tokio::test]
async fn lines_are_bound_by_memory_and_not_by_length() {
    let gateway = Gateway::with("limits.body_bytes", "100KiB").start().await;
    let line = json!({"topic": "orders", "data": "x".repeat(50_000)}).to_string();
    let body = [line.as_str(); 40].join("\r\n");
    let answer = gateway.ask(Request::ndjson(body)).await;
    assert_eq!(answer.json()["stored"], 40, "{answer:?}");
}

#[tokio::test]
async fn a_line_that_fails_does_not_stop_the_others_and_is_named() {
    let gateway = Gateway::start().await;
    let body = concat!(
        r#"{"topic":"orders","data":"1"}"#,
        "\nno json\n",
        r#"{"topic":"orders","data":"3"}"#,
        "\n",
        r#"{"data":"no topic"}"#,
        "\n",
        r#"{"topic":"orders","data":"5"}"#,
        "\n",
    );
    let answer = gateway.ask(Request::ndjson(body)).await;
    assert!([200, 207].contains(&answer.status()), "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["stored"], &json["failed"]), (&3.into(), &2.into()));
    let errors: Vec<_> = json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(line_and_code)
        .collect();
    assert_eq!(
        errors,
        [
            (2, "json_invalid".to_owned()),
            (4, "topic_missing".to_owned())
        ]
    );
    assert_eq!(stored(&gateway, "orders").await, ["1", "3", "5"]);
}

/// An error of NDJSON: its line, counted from one, and its code.
fn line_and_code(error: &Value) -> (u64, String) {
    let line = error["line"].as_u64().unwrap();
    let code = error["error"]["code"].as_str().or(error["code"].as_str());
    (line, code.unwrap().to_owned())
}

#[tokio::test]
async fn of_many_errors_the_first_hundred_are_listed() {
    let gateway = Gateway::start().await;
    let answer = gateway.ask(Request::ndjson("?\n".repeat(250))).await;
    let json = answer.json();
    assert_eq!((&json["stored"], &json["failed"]), (&0.into(), &250.into()));
    assert_eq!(json["errors"].as_array().unwrap().len(), 100);
    assert_eq!(line_and_code(&json["errors"][99]).0, 100);
}

/// Clients that read while they write get an answer for a line before they send the next.
#[tokio::test]
async fn lines_are_acknowledged_one_by_one_while_the_body_is_still_being_written() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let mut connection = gateway.connect().await;
    connection
        .send("POST /publish?ack=lines HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let mut chunks = Chunks::default();
    let mut answers = String::new();
    let mut head = None;
    for (at, line) in [
        r#"{"topic":"orders","data":"1"}"#,
        "?",
        r#"{"topic":"orders","data":"3"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let (begin, end) = line.split_at(line.len() / 2);
        for piece in [begin, end, "\n"] {
            if !piece.is_empty() {
                let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                connection.send(chunk).await;
            }
        }
        if head.is_none() {
            let first = connection.head().await;
            assert_eq!(first.status, 200);
            assert!(first.chunked());
            head = Some(first);
        }
        while answers.lines().count() <= at || !answers.ends_with('\n') {
            let what = format!("the answer to line {}", at + 1);
            let piece = crate::support::within(what, connection.read()).await;
            assert!(!piece.is_empty(), "the answer was cut: {answers:?}");
            answers.push_str(std::str::from_utf8(&chunks.feed(&piece)).unwrap());
        }
    }
    connection.send("0\r\n\r\n").await;
    while !chunks.ended() {
        let piece = crate::support::within("the end of the answer", connection.read()).await;
        assert!(!piece.is_empty(), "the answer was cut: {answers:?}");
        answers.push_str(std::str::from_utf8(&chunks.feed(&piece)).unwrap());
    }
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(id_of(&answers[0]), reader.next().await.id);
    assert_eq!(line_and_code(&answers[1]), (2, "json_invalid".to_owned()));
    assert_eq!(id_of(&answers[2]), reader.next().await.id);
}

#[tokio::test]
async fn any_other_content_type_is_the_data_itself() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    for (target, content_type, body, kind) in [
        ("/publish?topic=orders", "text/plain", "as it is\n", None),
        (
            "/publish?topic=orders&event=created",
            "application/xml",
            "<a/>",
            Some("created"),
        ),
        (
            "/publish?topic=orders",
            "application/octet-stream",
            "",
            None,
        ),
        (
            "/publish?event=caf%C3%A9&topic=orders",
            "text/csv; charset=utf-8",
            "{\"topic\": 1}",
            Some("café"),
        ),
    ] {
        let answer = gateway.ask(Request::post(target, content_type, body)).await;
        assert_eq!(answer.status(), 200, "{target}: {answer:?}");
        let event = reader.next().await;
        assert_eq!(id_of(&answer.json()), event.id);
        assert_eq!(answer.json()["topic"], "orders");
        assert_eq!((event.data.as_str(), event.kind.as_deref()), (body, kind));
    }
}

/// The default topic is for reading.
#[tokio::test]
async fn a_publish_without_a_topic_is_refused() {
    let gateway = Gateway::start().await;
    gateway
        .post(r#"{"data":"a"}"#)
        .await
        .refuses(400, "topic_missing");
    gateway
        .ask(Request::post("/publish", "text/plain", "a"))
        .await
        .refuses(400, "topic_missing");
    assert_eq!(stored(&gateway, "default").await, [""; 0]);
}

#[tokio::test]
async fn topics_and_types_follow_their_rules() {
    let gateway = Gateway::start().await;
    let item = |topic: &str, kind: &str| json!({"topic": topic, "event": kind, "data": "a"});
    for topic in [
        "",
        "a b",
        "a\u{3000}b",
        "a\nb",
        "a\0",
        "*",
        "a{b",
        "a}",
        "a,b",
        "$a",
        "\u{7f}",
    ] {
        let answer = gateway.post(item(topic, "x").to_string()).await;
        answer.refuses(400, "topic_invalid");
    }
    let answer = gateway.post(item(&"x".repeat(256), "x").to_string()).await;
    answer.refuses(400, "topic_invalid");
    for kind in ["", "a\nb", "a\rb", "a\0b", "$open", "$anything"] {
        let answer = gateway.post(item("orders", kind).to_string()).await;
        answer.refuses(400, "type_invalid");
    }
    let answer = gateway
        .post(item("orders", &"x".repeat(129)).to_string())
        .await;
    answer.refuses(400, "type_invalid");
    let topic = "x".repeat(255);
    for (topic, kind) in [
        (topic.as_str(), "x"),
        ("a/b.c:d-e", "x y"),
        ("orders", &"x".repeat(128)),
        ("数据", "イベント"),
        ("a$", "a$"),
    ] {
        let answer = gateway.post(item(topic, kind).to_string()).await;
        assert_eq!(answer.status(), 200, "{topic} {kind}: {answer:?}");
    }
    for target in [
        "/publish?topic=a%20b",
        "/publish?topic=$a",
        "/publish?topic=",
        "/publish?topic=a%0Ab",
    ] {
        gateway
            .ask(Request::post(target, "text/plain", "a"))
            .await
            .refuses(400, "topic_invalid");
    }
    for target in [
        "/publish?topic=a&event=$open",
        "/publish?topic=a&event=a%0Ab",
    ] {
        gateway
            .ask(Request::post(target, "text/plain", "a"))
            .await
            .refuses(400, "type_invalid");
    }
}

#[tokio::test]
async fn an_event_may_have_64_kib_of_data_and_not_a_byte_more() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let most = "x".repeat(64 * 1_024);
    gateway.publish("orders", &most).await;
    assert_eq!(reader.take(1).await, [most.as_str()]);
    let more = "x".repeat(64 * 1_024 + 1);
    let body = json!({"topic": "orders", "data": more}).to_string();
    let detail = gateway.post(&body).await.refuses(413, "event_too_large");
    assert!(
        detail.contains("65536") || detail.contains("64"),
        "{detail}"
    );
    gateway
        .ask(Request::post("/publish?topic=orders", "text/plain", &more))
        .await
        .refuses(413, "event_too_large");
    let request = Request::post("/publish?topic=orders", "text/plain", &most);
    assert_eq!(gateway.ask(request).await.status(), 200);
    let lines = format!("{body}\n{}\n", json!({"topic": "orders", "data": "b"}));
    let answer = gateway.ask(Request::ndjson(lines)).await;
    let json = answer.json();
    assert_eq!((&json["stored"], &json["failed"]), (&1.into(), &1.into()));
    assert_eq!(
        line_and_code(&json["errors"][0]),
        (1, "event_too_large".to_owned())
    );
    assert_eq!(reader.take(2).await, [most.as_str(), "b"]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let gateway = Gateway::start().await;
    let item = json!({"topic": "orders", "data": "x".repeat(60_000)});
    let body = Value::from(vec![item; 20]).to_string();
    assert!(body.len() > 1_024 * 1_024);
    gateway.post(&body).await.refuses(413, "body_too_large");
    // Without a length nobody knows beforehand.
    let mut connection = gateway.connect().await;
    let chunked = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let _ = connection.try_send(chunked).await;
    connection.response().await.refuses(413, "body_too_large");
    assert_eq!(stored(&gateway, "orders").await, [""; 0]);
}

/// The length is announced, so nobody has to send the body to learn that it is too much.
#[tokio::test]
async fn an_announced_body_over_the_limit_is_refused_before_it_is_sent() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    connection
        .send("POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n")
        .await;
    connection.response().await.refuses(413, "body_too_large");
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_refused() {
    let gateway = Gateway::start().await;
    let body = b"{\"topic\":\"orders\",\"data\":\"\xff\xfe\"}";
    gateway.post(body).await.refuses(400, "utf8_invalid");
    gateway
        .ask(Request::post(
            "/publish?topic=orders",
            "text/plain",
            b"a\xc3",
        ))
        .await
        .refuses(400, "utf8_invalid");
    let mut lines = body.to_vec();
    lines.extend_from_slice(b"\n{\"topic\":\"orders\",\"data\":\"b\"}\n");
    let json = gateway.ask(Request::ndjson(lines)).await.json();
    assert_eq!((&json["stored"], &json["failed"]), (&1.into(), &1.into()));
    assert_eq!(
        line_and_code(&json["errors"][0]),
        (1, "utf8_invalid".to_owned())
    );
    assert_eq!(stored(&gateway, "orders").await, ["b"]);
}

#[tokio::test]
async fn what_is_no_event_is_refused_and_named() {
    let gateway = Gateway::start().await;
    for body in [
        "",
        "{",
        "1",
        "null",
        "\"text\"",
        r#"{"topic":"orders","data":"\ud800"}"#,
        r#"{"topic":"orders","data":"a"} more"#,
        r#"{"topic":1}"#,
        r#"{"topic":"orders","end":"yes"}"#,
        r#"{"topic":"orders","data":"raw
line end"}"#,
    ] {
        gateway.post(body).await.refuses(400, "json_invalid");
    }
    let detail = gateway
        .post(r#"{"topic":"orders","dat":"a"}"#)
        .await
        .refuses(400, "json_invalid");
    assert!(
        detail.contains("dat"),
        "the unknown member is named: {detail}"
    );
    let deep = "[".repeat(50_000);
    let answer = gateway
        .post(format!(r#"{{"topic":"orders","data":{deep}}}"#))
        .await;
    answer.refuses(400, "json_invalid");
    assert_eq!(stored(&gateway, "orders").await, [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused() {
    let gateway = Gateway::start().await;
    for encoding in ["gzip", "br", "deflate", "zstd"] {
        let request = Request::publish("\u{1f}...").header("Content-Encoding", encoding);
        gateway
            .ask(request)
            .await
            .refuses(415, "media_type_unsupported");
    }
    gateway
        .ask(Request::post(
            "/publish?topic=orders",
            "multipart/form-data; boundary=x",
            "--x\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\na\r\n--x--\r\n",
        ))
        .await
        .refuses(415, "media_type_unsupported");
    assert_eq!(stored(&gateway, "orders").await, [""; 0]);
}

/// Answered with 400 or cut off, as the design allows for malformed HTTP; stored it is not.
#[tokio::test]
async fn a_malformed_chunked_body_stores_nothing() {
    let gateway = Gateway::start().await;
    for chunks in [
        "zz\r\n{\"topic\":\"orders\",\"data\":\"a\"}\r\n0\r\n\r\n",
        "1d\r\n{\"topic\":\"orders\",\"data\":\"a\"}XX0\r\n\r\n",
        "-1\r\n\r\n",
        "ffffffffffffffffff\r\n",
    ] {
        let mut connection = gateway.connect().await;
        let head = "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.send(format!("{head}{chunks}")).await;
        let answer = connection.rest().await;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 400 "),
            "{chunks:?}: {text}"
        );
    }
    assert_eq!(stored(&gateway, "orders").await, [""; 0]);
}

/// A publisher that breaks off within an event has stored none of it.
#[tokio::test]
async fn half_a_body_is_not_stored() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    connection
        .send("POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"topic\":\"orders\",\"data\":\"a\"}")
        .await;
    connection.finish_sending().await;
    let answer = connection.rest().await;
    let text = String::from_utf8_lossy(&answer);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 400 "),
        "{text}"
    );
    assert_eq!(stored(&gateway, "orders").await, [""; 0]);
}

fn with_key(body: &Value, key: &str) -> Request {
    Request::publish(body.to_string()).header("Idempotency-Key", key)
}

fn is_duplicate(answer: &Response) -> bool {
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json().get("duplicate") == Some(&Value::Bool(true))
}

#[tokio::test]
async fn a_repeat_with_the_same_key_is_answered_with_the_same_id() {
    let gateway = Gateway::start().await;
    let item = json!({"topic": "orders", "event": "created", "data": {"n": 1}});
    let keyed = json!({"topic": "orders", "data": "b", "key": "in the item"});
    let first = gateway.ask(with_key(&item, "k-1")).await;
    let second = gateway.post(keyed.to_string()).await;
    assert!(!is_duplicate(&first) && !is_duplicate(&second));
    for _ in 0..2 {
        let again = gateway.ask(with_key(&item, "k-1")).await;
        assert!(is_duplicate(&again), "{again:?}");
        assert_eq!(id_of(&again.json()), id_of(&first.json()));
        let again = gateway.post(keyed.to_string()).await;
        assert!(is_duplicate(&again), "{again:?}");
        assert_eq!(id_of(&again.json()), id_of(&second.json()));
    }
    let other_key = gateway.ask(with_key(&item, "k-2")).await;
    assert!(!is_duplicate(&other_key));
    assert_eq!(
        stored(&gateway, "orders").await,
        [r#"{"n":1}"#, "b", r#"{"n":1}"#]
    );
}

/// Two repeats at the same moment are no race.
#[tokio::test]
async fn repeats_at_once_store_one_event() {
    let gateway = Gateway::start().await;
    let item = json!({"topic": "orders", "data": "a"});
    let answers =
        futures_util::future::join_all((0..8).map(|_| gateway.ask(with_key(&item, "the same"))))
            .await;
    let fresh = answers.iter().filter(|answer| !is_duplicate(answer));
    assert_eq!(fresh.count(), 1);
    for answer in &answers {
        assert_eq!(id_of(&answer.json()), id_of(&answers[0].json()));
    }
    assert_eq!(stored(&gateway, "orders").await, ["a"]);
}

#[tokio::test]
async fn another_payload_under_the_same_key_is_a_mistake() {
    let gateway = Gateway::start().await;
    let item = json!({"topic": "orders", "data": "a"});
    assert_eq!(gateway.ask(with_key(&item, "k")).await.status(), 200);
    for other in [
        json!({"topic": "orders", "data": "b"}),
        json!({"topic": "orders", "event": "created", "data": "a"}),
        json!({"topic": "orders", "data": "a", "end": true}),
    ] {
        let answer = gateway.ask(with_key(&other, "k")).await;
        answer.refuses(409, "idempotency_mismatch");
    }
    let elsewhere = json!({"topic": "other", "data": "a"});
    let answer = gateway.ask(with_key(&elsewhere, "k")).await;
    assert!(!is_duplicate(&answer), "a key belongs to its topic");
    assert_eq!(stored(&gateway, "orders").await, ["a"]);
}

/// The same data, written in another way, is the same payload (numbers stay as they were written).
#[tokio::test]
async fn white_space_makes_no_other_payload() {
    let gateway = Gateway::start().await;
    let request = |body: &str| Request::publish(body).header("Idempotency-Key", "k");
    let first = gateway
        .ask(request(r#"{"topic":"orders","data":{"a":1}}"#))
        .await;
    let again = gateway
        .ask(request(r#"{ "data" : { "a" : 1 }, "topic" : "orders" }"#))
        .await;
    assert!(!is_duplicate(&first) && is_duplicate(&again), "{again:?}");
}

/// Item i of a batch has the key `key#i`.
#[tokio::test]
async fn one_key_serves_a_whole_batch() {
    let gateway = Gateway::start().await;
    let batch = json!([
        {"topic": "orders", "data": "a"},
        {"topic": "orders", "data": "b"},
        {"topic": "other", "data": "c"},
    ]);
    let first = gateway.ask(with_key(&batch, "k")).await.json();
    let again = gateway.ask(with_key(&batch, "k")).await;
    assert_eq!(again.status(), 200);
    let again = again.json();
    for item in 0..3 {
        assert_eq!(again["results"][item]["duplicate"], true, "{again}");
        assert_eq!(again["results"][item]["id"], first["results"][item]["id"]);
    }
    let single = gateway.ask(with_key(&batch[1], "k#1")).await;
    assert!(is_duplicate(&single), "{single:?}");
    assert_eq!(single.json()["id"], first["results"][1]["id"]);
    assert_eq!(stored(&gateway, "orders").await, ["a", "b"]);
    // What came through before the batch broke off is not stored again.
    let longer = json!([batch[0], batch[1], batch[2], {"topic": "orders", "data": "d"}]);
    let answer = gateway.ask(with_key(&longer, "k")).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(stored(&gateway, "orders").await, ["a", "b", "d"]);
}

#[tokio::test]
async fn keys_of_lines_are_respected() {
    let gateway = Gateway::start().await;
    let body = "{\"topic\":\"orders\",\"data\":\"a\",\"key\":\"1\"}\n{\"topic\":\"orders\",\"data\":\"b\",\"key\":\"2\"}\n";
    for _ in 0..2 {
        let json = gateway.ask(Request::ndjson(body)).await.json();
        assert_eq!(json["failed"], 0, "{json}");
    }
    assert_eq!(stored(&gateway, "orders").await, ["a", "b"]);
}

#[tokio::test]
async fn a_key_has_up_to_255_printable_characters() {
    let gateway = Gateway::start().await;
    let item = json!({"topic": "orders", "data": "a"});
    let long = "x".repeat(256);
    for key in [long.as_str(), "caf\u{e9}", "a\tb"] {
        let answer = gateway.ask(with_key(&item, key)).await;
        answer.refuses(400, "idempotency_invalid");
    }
    for key in ["", &long, "café", "a\nb", "\u{7f}"] {
        let keyed = json!({"topic": "orders", "data": "a", "key": key});
        let answer = gateway.post(keyed.to_string()).await;
        answer.refuses(400, "idempotency_invalid");
    }
    assert_eq!(stored(&gateway, "orders").await, [""; 0]);
    let answer = gateway.ask(with_key(&item, &long[1..])).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
}

/// A key is remembered for `publish.idempotency_window`.
#[tokio::test]
async fn a_key_is_forgotten_after_its_window() {
    let gateway = Gateway::with("publish.idempotency_window", "300ms")
        .start()
        .await;
    let item = json!({"topic": "orders", "data": "a"});
    let first = id_of(&gateway.ask(with_key(&item, "k")).await.json());
    crate::support::eventually("the key to be forgotten", async || {
        let answer = gateway.ask(with_key(&item, "k")).await.json();
        match id_of(&answer) {
            again if again == first => Err(answer.to_string()),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_topic_is_part_of_what_a_repeat_finds() {
    let gateway = Gateway::start().await;
    let item = json!({"topic": "orders", "data": "last", "end": true});
    let first = gateway.ask(with_key(&item, "k")).await;
    let again = gateway.ask(with_key(&item, "k")).await;
    assert!(!is_duplicate(&first) && is_duplicate(&again), "{again:?}");
    assert_eq!(id_of(&first.json()), id_of(&again.json()));
}
