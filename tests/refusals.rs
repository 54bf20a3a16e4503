//! Every refusal says what was wrong, with a status, a code and a sentence; and none kills a browser's stream.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    Connection, Gateway, PATIENCE, Request, Response, Settings, Subscriber, eventually, id,
};

#[tokio::test]
async fn an_unknown_route_is_not_found() {
    let gateway = Gateway::start().await;
    for target in [
        "/nowhere",
        "/events/",
        "/events/orders",
        "/Events",
        "//events",
    ] {
        gateway.get(target).await.refuses(404, "not_found");
    }
    gateway
        .get_admin("/nowhere")
        .await
        .refuses(404, "not_found");
    gateway.get("/metrics").await.refuses(404, "not_found");
}

/// `OPTIONS` may be listed or not.
#[tokio::test]
async fn a_wrong_method_is_answered_with_the_right_ones() {
    fn allows(answer: &Response, methods: &[&str]) {
        answer.refuses(405, "method_not_allowed");
        let mut allow = answer.head.list("allow");
        allow.retain(|method| method != "options");
        allow.sort_unstable();
        assert_eq!(allow, methods, "{answer:?}");
    }
    let gateway = Gateway::start().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let answer = gateway.ask(Request::new(method, "/events?topic=a")).await;
        allows(&answer, &["get", "head"]);
    }
    for method in ["GET", "PUT", "DELETE"] {
        let answer = gateway.ask(Request::new(method, "/publish")).await;
        allows(&answer, &["post"]);
    }
    for route in ["/health", "/health/live", "/health/ready"] {
        let answer = gateway.ask(Request::new("POST", route)).await;
        allows(&answer, &["get", "head"]);
    }
    for route in ["/metrics", "/stats", "/health"] {
        let answer = gateway.ask_admin(Request::new("POST", route)).await;
        allows(&answer, &["get", "head"]);
    }
}

#[tokio::test]
async fn a_bad_query_is_refused_with_a_code_that_says_what() {
    let gateway = Gateway::start().await;
    let long_topic = "x".repeat(256);
    let long_cursor = "9".repeat(10_000);
    for (query, code) in [
        ("topic=", "topic_invalid"),
        ("topic=a,,b", "topic_invalid"),
        ("topic=a%20b", "topic_invalid"),
        ("topic=a+b", "topic_invalid"),
        ("topic=a%0Ab", "topic_invalid"),
        ("topic=a%00", "topic_invalid"),
        ("topic=*", "topic_invalid"),
        ("topic=%7Ba%7D", "topic_invalid"),
        ("topic=$open", "topic_invalid"),
        (&format!("topic={long_topic}"), "topic_invalid"),
        ("topic=a&lastEventId=garbage", "cursor_invalid"),
        ("topic=a&lastEventId=1", "cursor_invalid"),
        ("topic=a&last_event_id=1-2-3", "cursor_invalid"),
        ("topic=a&lastEventID=-1-0", "cursor_invalid"),
        ("topic=a&lastEventId=latest", "cursor_invalid"),
        ("topic=a&lastEventId=1-0%00", "cursor_invalid"),
        ("topic=a&lastEventId=%00", "cursor_invalid"),
        (
            "topic=a&lastEventId=18446744073709551616-0",
            "cursor_invalid",
        ),
        (
            &format!("topic=a&lastEventId={long_cursor}"),
            "cursor_invalid",
        ),
        ("topic=a&since=yesterday", "since_invalid"),
        ("topic=a&since=-5m", "since_invalid"),
        ("topic=a&since=2024-13-01T00:00:00Z", "since_invalid"),
        ("topic=a&since=2024-02-30T00:00:00Z", "since_invalid"),
        ("topic=a&since=5parsecs", "since_invalid"),
        ("topic=a&since=99999999999999999999999", "since_invalid"),
    ] {
        let answer = gateway.get(&format!("/events?{query}")).await;
        let detail = answer.refuses(400, code);
        assert!(detail.len() < 1_000, "short enough to read: {detail}");
    }
}

/// The design names no code for these; each is refused, and the detail names the parameter.
#[tokio::test]
async fn options_that_cannot_be_read_are_refused_by_name() {
    let gateway = Gateway::start().await;
    for (name, value) in [
        ("last", "many"),
        ("last", "-1"),
        ("last", "1.5"),
        ("heartbeat", "maybe"),
        ("envelope", "xml"),
        ("control", "maybe"),
        ("refuse", "never"),
    ] {
        let answer = gateway
            .get(&format!("/events?topic=a&{name}={value}"))
            .await;
        assert_eq!(answer.status(), 400, "{name}={value}: {answer:?}");
        let problem = answer.problem();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(name), "{name}={value}: {detail}");
    }
}

#[tokio::test]
async fn topics_is_refused_with_the_right_spelling() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/events?topics=a,b").await;
    assert_eq!(answer.status(), 400, "{answer:?}");
    let problem = answer.problem();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("topic="), "{detail}");
}

#[tokio::test]
async fn a_connection_follows_at_most_a_hundred_topics() {
    let gateway = Gateway::start().await;
    let topics = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("t{number}")).collect();
        names.join(",")
    };
    let reader = gateway.subscribe(&format!("{},t1,t2", topics(100))).await;
    assert_eq!(reader.open_data()["topics"].as_array().unwrap().len(), 100);
    let answer = gateway.get(&format!("/events?topic={}", topics(101))).await;
    let detail = answer.refuses(400, "too_many_topics");
    assert!(detail.contains("100"), "{detail}");
    let repeated = topics(101).replace(',', "&topic=");
    gateway
        .get(&format!("/events?topic={repeated}"))
        .await
        .refuses(400, "too_many_topics");
}

/// The guides call it `MAX_SUBSCRIPTIONS_PER_CLIENT`.
#[tokio::test]
async fn how_many_topics_a_connection_follows_can_be_set() {
    let gateway = Gateway::with("limits.topics_per_connection", 2)
        .start()
        .await;
    gateway
        .get("/events?topic=a,b,c")
        .await
        .refuses(400, "too_many_topics");
    gateway.subscribe("a,b").await;
}

#[tokio::test]
async fn a_query_that_is_no_utf_8_or_badly_encoded_is_refused() {
    let gateway = Gateway::start().await;
    for query in ["topic=%ff", "topic=%C3", "topic=a&lastEventId=%ff%fe"] {
        let answer = gateway.get(&format!("/events?{query}")).await;
        answer.refuses(400, "utf8_invalid");
    }
    // No code is named for a broken escape.
    for query in ["topic=%", "topic=%4", "topic=%zz"] {
        let answer = gateway.get(&format!("/events?{query}")).await;
        assert_eq!(answer.status(), 400, "{query}: {answer:?}");
        answer.problem();
    }
    gateway
        .ask(Request::post("/publish?topic=%ff", "text/plain", "a"))
        .await
        .refuses(400, "utf8_invalid");
}

#[tokio::test]
async fn a_bad_header_cursor_is_a_stream_where_a_bad_query_cursor_is_an_error() {
    let gateway = Gateway::start().await;
    let cursor = "9".repeat(10_000);
    let reader = gateway.resume("orders", &cursor).await;
    assert_eq!(reader.open_data()["reason"], "unknown");
    let target = format!("/events?topic=orders&lastEventId={cursor}");
    gateway.get(&target).await.refuses(400, "cursor_invalid");
    // The header was there first, so the query is not looked at.
    let newest = gateway.publish("orders", "a").await.to_string();
    let reader = gateway
        .events("topic=orders&lastEventId=garbage")
        .header("Last-Event-ID", &newest)
        .open()
        .await;
    assert_eq!(reader.replay(), "complete");
}

/// A hundred topics of 255 bytes are within the limits, so their URL has to be.
#[tokio::test]
async fn a_url_of_as_many_topics_as_are_allowed_is_not_too_long() {
    let gateway = Gateway::start().await;
    let topics: Vec<String> = (0..100).map(|number| format!("{number:x>255}")).collect();
    let reader = gateway.subscribe(&topics.join("&topic=")).await;
    assert_eq!(reader.open_data()["topics"], serde_json::json!(topics));
}

#[tokio::test]
async fn a_url_that_is_too_long_is_refused() {
    let gateway = Gateway::start().await;
    let target = |length| format!("/events?topic={}", "x".repeat(length));
    let answer = gateway.get(&target(60_000)).await;
    answer.refuses(414, "url_too_large");
    // So long that the gateway need not read to the end of it: the head as a whole is too large then.
    let answer = gateway.get(&target(200_000)).await;
    assert!([414, 431].contains(&answer.status()), "{answer:?}");
    answer.problem();
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused() {
    let gateway = Gateway::start().await;
    let large = "x".repeat(1_000_000);
    let request = Request::get("/health/live").header("X-Large", &large);
    gateway.ask(request).await.refuses(431, "header_too_large");
    let mut many = Request::get("/health/live");
    for number in 0..2_000 {
        many = many.header(&format!("X-{number}"), "x");
    }
    gateway.ask(many).await.refuses(431, "header_too_large");
}

/// Cookies of a large site are no attack.
#[tokio::test]
async fn headers_of_a_browser_are_not_too_large() {
    let gateway = Gateway::start().await;
    let request = Request::get("/health/live").header("Cookie", &"x".repeat(8_000));
    assert_eq!(gateway.ask(request).await.status(), 200);
}

/// Answered with 400 (505 for a version that is none of ours) or cut off.
#[tokio::test]
async fn malformed_http_is_refused() {
    let gateway = Gateway::start().await;
    for bytes in [
        "GARBAGE\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET /health/live\r\n\r\n",
        "GET /health/live HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "GET /health/live HTTP/1.1\r\nHost localhost\r\n\r\n",
        "GET /health/live HTTP/1.1\r\nHost: localhost\r\nA\0B: c\r\n\r\n",
        "GET /health live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        let mut connection = gateway.connect().await;
        connection.send(bytes).await;
        let answer = connection.rest().await;
        let text = String::from_utf8_lossy(&answer);
        let status = text.get(9..12).unwrap_or("closed");
        assert!(
            ["400", "501", "505", "closed"].contains(&status),
            "{bytes:?}: {text}"
        );
    }
    assert_eq!(gateway.get("/health/live").await.status(), 200);
}

/// Two lengths that disagree are how requests are smuggled past a proxy: the chunked one counts alone, or none.
#[tokio::test]
async fn a_body_with_two_lengths_is_not_read_twice() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    connection
        .send("POST /publish?topic=orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
        .await;
    let answer = connection.rest().await;
    let text = String::from_utf8_lossy(&answer);
    let answers = text.matches("HTTP/1.1 ").count();
    assert!(answers <= 1, "one request, one answer: {text}");
}

/// A request that never ends takes no room for long.
#[tokio::test]
async fn slow_headers_are_cut_off() {
    let gateway = Gateway::with("server.header_timeout", "2s").start().await;
    let half = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Half: ";
    for sent in ["", "G", half] {
        let begun = Instant::now();
        let mut connection = gateway.connect().await;
        connection.send(sent).await;
        let answer = connection.rest().await;
        let took = begun.elapsed();
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 408 "),
            "after {sent:?}: {text}"
        );
        assert!(
            took > Duration::from_millis(1_800) && took < PATIENCE,
            "after {sent:?} it took {took:?}"
        );
    }
}

/// A body that stops arriving used to keep its connection for ever.
#[tokio::test]
async fn a_body_that_stops_arriving_is_refused() {
    let gateway = Gateway::with("server.header_timeout", "2s").start().await;
    let mut connection = gateway.connect().await;
    connection
        .send("POST /publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx")
        .await;
    let answer = connection.rest().await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(text.contains(r#""code":"request_timeout""#), "{text}");
}

/// A header now and then does not keep it open: the time is for all of them.
#[tokio::test]
async fn headers_that_trickle_are_cut_off_all_the_same() {
    let gateway = Gateway::with("server.header_timeout", "1s").start().await;
    let mut connection = gateway.connect().await;
    connection
        .send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n")
        .await;
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < PATIENCE {
        number += 1;
        if connection
            .try_send(format!("X-{number}: x\r\n"))
            .await
            .is_err()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "still open after {:?}",
        begun.elapsed()
    );
}

/// An open stream is no slow header.
#[tokio::test]
async fn a_stream_is_not_cut_by_the_time_for_headers() {
    let gateway = Gateway::with("server.header_timeout", "2s").start().await;
    let mut reader = gateway.subscribe("orders").await;
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    gateway.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
}

/// A gateway with room for two streams, which are taken.
async fn full(settings: Settings) -> (Gateway, [Subscriber; 2]) {
    let gateway = settings.with("limits.connections", 2).start().await;
    let readers = [
        gateway.subscribe("orders").await,
        gateway.subscribe("orders").await,
    ];
    (gateway, readers)
}

#[tokio::test]
async fn over_the_connection_limit_a_client_gets_503() {
    let (gateway, _readers) = full(Gateway::settings()).await;
    for accept in ["*/*", "application/json", "text/event-stream, */*"] {
        let request = Request::get("/events?topic=orders").header("Accept", accept);
        let answer = gateway.ask(request).await;
        answer.refuses(503, "connection_limit");
        let retry_after = answer.header("retry-after").unwrap();
        assert!(retry_after.parse::<u32>().unwrap() > 0, "{answer:?}");
        assert_eq!(answer.header("tidegate-refused"), None);
    }
    let answer = gateway.get("/events?topic=orders").await;
    answer.refuses(503, "connection_limit");
    assert_eq!(gateway.get("/health/live").await.status(), 200);
    gateway.publish("orders", "publishing is no stream").await;
}

/// To an `EventSource` any status but 200 is final.
#[tokio::test]
async fn over_the_connection_limit_a_browser_is_told_to_come_back() {
    let (gateway, _readers) = full(Gateway::settings()).await;
    let cursor = gateway.publish("orders", "a").await;
    let mut retries = Vec::new();
    for (query, header, echoed) in [
        ("topic=orders".to_owned(), None, None),
        ("topic=orders".to_owned(), Some(cursor), Some(cursor)),
        (
            format!("topic=orders&lastEventId={cursor}"),
            None,
            Some(cursor),
        ),
        ("topic=orders&last=5".to_owned(), None, None),
    ] {
        let mut request =
            Request::get(&format!("/events?{query}")).header("Accept", "text/event-stream");
        if let Some(cursor) = header {
            request = request.header("Last-Event-ID", &cursor.to_string());
        }
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.header("tidegate-refused"), Some("connection_limit"));
        let text = answer.text();
        let rest = text.strip_prefix("retry: ").unwrap();
        let (retry, mut rest) = rest.split_once('\n').unwrap();
        retries.push(retry.parse::<u64>().unwrap());
        if let Some(cursor) = echoed {
            let line = format!("id: {cursor}\n");
            rest = rest
                .strip_prefix(&line)
                .unwrap_or_else(|| panic!("{line:?} in {text:?}"));
        }
        let rest = rest
            .strip_prefix("event: $refused\ndata: ")
            .unwrap_or_else(|| panic!("{text:?}"));
        let problem = rest.strip_suffix("\n\n").unwrap();
        let problem: Value = serde_json::from_str(problem).unwrap();
        assert_eq!(problem["code"], "connection_limit", "{text}");
        assert_eq!(problem["status"], 503, "{text}");
        for member in ["type", "title", "detail", "request_id"] {
            assert!(problem[member].is_string(), "{member} in {text}");
        }
    }
    assert!(
        retries.iter().all(|retry| *retry > 3_000),
        "longer than an ordinary retry: {retries:?}"
    );
}

#[tokio::test]
async fn the_request_may_say_how_it_wants_to_be_refused() {
    let (gateway, _readers) = full(Gateway::settings()).await;
    let ask = |query: &str, accept: &str| {
        Request::get(&format!("/events?topic=orders&{query}")).header("Accept", accept)
    };
    let answer = gateway.ask(ask("refuse=status", "text/event-stream")).await;
    answer.refuses(503, "connection_limit");
    let answer = gateway.ask(ask("refuse=stream", "*/*")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("tidegate-refused"), Some("connection_limit"));
}

#[tokio::test]
async fn the_operator_may_say_how_requests_are_refused() {
    let (gateway, _readers) = full(Gateway::with("limits.refuse_as", "status")).await;
    let request = Request::get("/events?topic=orders").header("Accept", "text/event-stream");
    gateway.ask(request).await.refuses(503, "connection_limit");
    let (gateway, _readers) = full(Gateway::with("limits.refuse_as", "stream")).await;
    let answer = gateway.get("/events?topic=orders").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("tidegate-refused"), Some("connection_limit"));
}

/// A bad request stays one for a browser as well: coming back would not help.
#[tokio::test]
async fn a_lasting_refusal_has_its_status_for_everybody() {
    let gateway = Gateway::start().await;
    for query in ["topic=$x", "topic=a&lastEventId=garbage"] {
        for extra in ["", "&refuse=stream"] {
            let request = Request::get(&format!("/events?{query}{extra}"))
                .header("Accept", "text/event-stream");
            let answer = gateway.ask(request).await;
            assert_eq!(answer.status(), 400, "{answer:?}");
            answer.problem();
        }
    }
}

#[tokio::test]
async fn the_room_of_a_stream_that_has_left_is_free_again() {
    let (gateway, [leaves, mut stays]) = full(Gateway::settings()).await;
    for _ in 0..20 {
        let answer = gateway.get("/events?topic=orders").await;
        answer.refuses(503, "connection_limit");
    }
    drop(leaves);
    gateway.has_places_taken(1).await;
    let mut newcomer = gateway.subscribe("orders").await;
    gateway
        .get("/events?topic=orders")
        .await
        .refuses(503, "connection_limit");
    gateway.publish("orders", "a").await;
    assert_eq!(stays.take(1).await, ["a"]);
    assert_eq!(newcomer.take(1).await, ["a"]);
}

/// Whatever ends a stream or a request gives its room back: none is leaked in many rounds.
#[tokio::test]
async fn no_room_is_leaked() {
    let gateway = Gateway::with("limits.connections", 2).start().await;
    gateway.finish("finished", None).await;
    for _ in 0..20 {
        gateway
            .get("/events?topic=$x")
            .await
            .refuses(400, "topic_invalid");
        gateway.ask(Request::new("HEAD", "/events?topic=a")).await;
        // Leaves before the head has come.
        let mut connection = Connection::open(gateway.public).await;
        connection
            .send(Request::get("/events?topic=a").bytes(gateway.public))
            .await;
        drop(connection);
        // Ends by itself.
        let reader = eventually("room for a stream", async || {
            let request = Request::get("/events?topic=finished");
            match gateway.ask(request).await {
                answer if answer.status() == 200 => Ok(answer),
                answer => Err(format!("{answer:?}")),
            }
        })
        .await;
        assert!(reader.text().contains("$end"));
    }
    gateway.has_seen_all_leave().await;
    gateway.has_places_taken(0).await;
    let _both = [gateway.subscribe("a").await, gateway.subscribe("b").await];
}

/// The id of a request is new each time, so that it can be found in the log.
#[tokio::test]
async fn every_refusal_has_a_request_id_of_its_own() {
    let gateway = Gateway::start().await;
    let first = gateway.get("/nowhere").await.problem();
    let second = gateway.get("/nowhere").await.problem();
    assert_ne!(first["request_id"], second["request_id"]);
}

#[tokio::test]
async fn a_refused_body_does_not_stop_the_connection_for_ever() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    let answer = connection.ask(&Request::publish("{")).await;
    answer.refuses(400, "json_invalid");
    // It is answered on the same connection, or the gateway has said that it closes it.
    if answer.header("connection") != Some("close") {
        let request = Request::publish(r#"{"topic":"orders","data":"a"}"#);
        let next = connection.ask(&request).await;
        assert_eq!(next.status(), 200);
        id(next.json()["id"].as_str().unwrap());
    }
}
