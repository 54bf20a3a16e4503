//! `GET /poll`: the same log, cursors and verdicts as a stream, one answer at a time.

mod away;
mod chain;
mod history;
mod replicas;
mod wait;

pub(crate) use chain::Dice;

use serde_json::json;
use tidegate::event::EventId;

use crate::support::{
    Connection, Gateway, H2Client, Poll, Polled, Request, Response, eventually, id, numbers,
};

#[tokio::test]
async fn an_answer_is_put_together_as_promised() {
    let gateway = Gateway::start().await;
    let start = gateway.poll("topic=orders&wait=0s").answer().await;
    assert_eq!(start.replay, "none");
    let body = json!({"topic": "orders", "event": "created", "data": {"order": 1}}).to_string();
    let first = gateway.post(&body).await.json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let second = gateway.publish("orders", "plain").await;
    let query = format!("topic=orders&lastEventId={}", start.cursor);
    let response = gateway.poll(&query).ask().await;
    let polled = Polled::of(&response);
    polled.is_complete();
    let wanted = format!(
        concat!(
            r#"{{"events":[{{"id":"{first}","topic":"orders","event":"created","data":"{{\"order\":1}}"}},"#,
            r#"{{"id":"{second}","topic":"orders","event":"message","data":"plain"}}],"#,
            r#""cursor":"{cursor}","replay":"complete"}}"#
        ),
        first = first,
        second = second,
        cursor = polled.cursor,
    );
    assert_eq!(response.text(), wanted);
    assert!(response.header("x-request-id").is_some(), "{response:?}");
    assert!(
        response.head.list("vary").contains(&"origin".to_owned()),
        "{response:?}"
    );
    for name in ["tidegate-refused", "content-encoding", "retry-after"] {
        assert_eq!(response.header(name), None, "{response:?}");
    }
}

/// The topic and the type are always said, and the data is text whatever it holds.
#[tokio::test]
async fn data_and_names_come_as_they_were_published() {
    let gateway = Gateway::start().await;
    let data = [
        "",
        " ",
        "a\nb\n\nc",
        "\n",
        "\"quoted\" \\ and / slashes",
        "ünïcödé \u{1F30A} \u{2028}\u{2029}\u{85}",
        "\u{0}\u{1}\u{7f}\t",
        "{\"json\":[1,2.0,null]}",
        "</script><!--",
    ];
    for data in data {
        gateway
            .publish("orders/ä b".replace(' ', "-").as_str(), data)
            .await;
    }
    let query = "topic=orders%2F%C3%A4-b&lastEventId=earliest&wait=0s";
    let polled = gateway.poll(query).answer().await;
    assert_eq!(polled.data(), data);
    for event in &polled.events {
        assert_eq!(event.topic.as_deref(), Some("orders/ä-b"));
        assert_eq!(event.kind.as_deref(), Some("message"));
    }
}

/// On the wire of SSE every line end becomes a line; here the text is what the publisher sent.
#[tokio::test]
async fn line_ends_are_those_of_a_stream_or_of_the_publisher() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "a\r\nb\rc").await;
    let polled = gateway.poll("topic=orders&last=1&wait=0s").answer().await;
    // Whether they are kept is not promised; that no line is lost is.
    let lines: Vec<&str> = polled.events[0]
        .data
        .split(['\r', '\n'])
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(lines, ["a", "b", "c"]);
}

#[tokio::test]
async fn the_verdict_is_that_of_a_stream() {
    let gateway = Gateway::with("retention.events", 3).start().await;
    let opened = gateway.poll("topic=orders&wait=0s").answer().await;
    let data = numbers(0..5);
    let ids = gateway
        .publish_all("orders", data.iter().map(String::as_str))
        .await;
    let now = gateway.poll("topic=orders&wait=0s").answer().await;
    assert_eq!(now.replay, "none");
    assert!(now.events.is_empty(), "{now:?}");
    assert_eq!(now.place(), ids[4], "the frontier");
    for (cursor, missed) in [(opened.place(), 2), (ids[0], 1)] {
        let query = format!("topic=orders&wait=0s&lastEventId={cursor}");
        let by_query = gateway.poll(&query).answer().await;
        let by_header = gateway
            .poll("topic=orders&wait=0s")
            .after(&cursor.to_string());
        for polled in [by_query, by_header.answer().await] {
            polled.is_gap("retention", &["orders"]);
            let at_least = polled.missed_at_least.unwrap_or(1);
            assert!((1..=missed).contains(&at_least), "{polled:?}");
            follows_gap(&gateway, polled, &["2", "3", "4"]).await;
        }
    }
    for (at, cursor) in ids.iter().enumerate().skip(1) {
        let query = format!("topic=orders&wait=0s&lastEventId={cursor}");
        let polled = gateway.poll(&query).answer().await;
        polled.is_complete();
        assert_eq!(polled.data(), numbers(at + 1..5));
        assert_eq!(polled.place(), ids[4]);
    }
    for query in [
        "lastEventId=earliest",
        "lastEventId=0-0",
        "since=1h",
        "last=9",
    ] {
        let query = format!("topic=orders&wait=0s&{query}");
        let polled = gateway.poll(&query).answer().await;
        assert_eq!(polled.replay, "none", "{query}");
        assert_eq!(polled.data(), ["2", "3", "4"], "{query}");
    }
}

/// A gap ends a poll; what comes after it is in the same answer or in the next, and then nothing is told again.
async fn follows_gap(gateway: &Gateway, told: Polled, wanted: &[&str]) {
    let (mut polled, mut data) = (told, Vec::new());
    for _ in 0..wanted.len() + 2 {
        data.extend(polled.data().into_iter().map(str::to_owned));
        if data.len() >= wanted.len() {
            break;
        }
        let query = format!("topic=orders&wait=0s&lastEventId={}", polled.cursor);
        polled = gateway.poll(&query).answer().await;
    }
    assert_eq!(data, wanted);
    let query = format!("topic=orders&wait=0s&lastEventId={}", polled.cursor);
    let after = gateway.poll(&query).answer().await;
    after.is_complete();
    assert!(after.events.is_empty(), "{after:?}");
}

#[tokio::test]
async fn a_restart_is_told_as_a_reset() {
    let old = Gateway::start().await;
    let cursor = old.publish("orders", "lost").await;
    old.stop(crate::support::PATIENCE).await;
    let gateway = Gateway::start().await;
    gateway.publish_all("orders", ["a", "b"]).await;
    let query = format!("topic=orders&lastEventId={cursor}");
    let polled = gateway.poll(&query).answer().await;
    polled.is_gap("reset", &["orders"]);
    follows_gap(&gateway, polled, &["a", "b"]).await;
}

/// A page cannot repair the header that its browser sends; the one who wrote the query can.
#[tokio::test]
async fn a_header_that_cannot_be_read_is_a_gap_and_a_query_is_refused() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish("orders", "a").await;
    let long = "9".repeat(10_000);
    for cursor in ["garbage", "1-", "1-2-3", "18446744073709551616-0", &long] {
        let polled = gateway.poll("topic=orders&wait=5s").after(cursor);
        // It is told at once, and waits for nothing.
        let polled = polled.answer().await;
        polled.is_gap("unknown", &["orders"]);
        assert!(polled.events.is_empty(), "from now on: {polled:?}");
        assert_eq!(polled.place(), newest, "the frontier: {cursor}");
    }
    for cursor in ["garbage", "1-", "1-2-3", "18446744073709551616-0"] {
        let query = format!("topic=orders&wait=0s&lastEventId={cursor}");
        let answer = gateway.poll(&query).ask().await;
        answer.refuses(400, "cursor_invalid");
    }
}

#[tokio::test]
async fn a_cursor_from_the_future_is_a_gap_of_unknown_size() {
    let gateway = Gateway::start().await;
    let newest = gateway.publish("orders", "a").await;
    for cursor in [
        newest.next(),
        EventId::new(newest.ms() + 3_600_000, 0),
        EventId::MAX,
    ] {
        let query = format!("topic=orders&wait=0s&lastEventId={cursor}");
        let polled = gateway.poll(&query).answer().await;
        polled.is_gap("unknown", &["orders"]);
        assert_eq!(polled.place(), newest, "the frontier: {cursor}");
    }
}

#[tokio::test]
async fn the_header_wins_over_the_query_and_empty_counts_as_absent() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b", "c"]).await;
    let query = format!("topic=orders&wait=0s&lastEventId={}", ids[0]);
    let header = gateway.poll(&query).after(&ids[1].to_string());
    assert_eq!(header.answer().await.data(), ["c"]);
    let last = gateway.poll("topic=orders&wait=0s&last=3");
    assert_eq!(last.after(&ids[1].to_string()).answer().await.data(), ["c"]);
    assert_eq!(
        gateway.poll(&query).after("").answer().await.data(),
        ["b", "c"]
    );
    for name in ["last_event_id", "lastEventID"] {
        let query = format!("topic=orders&wait=0s&{name}={}", ids[1]);
        assert_eq!(gateway.poll(&query).answer().await.data(), ["c"]);
    }
    let empty = gateway
        .poll("topic=orders&wait=0s&lastEventId=")
        .answer()
        .await;
    assert_eq!(empty.replay, "none");
    assert!(empty.events.is_empty(), "{empty:?}");
}

/// Nobody has to know by which way somebody came before.
#[tokio::test]
async fn a_cursor_goes_from_a_stream_to_a_poll_and_back() {
    let gateway = Gateway::start().await;
    let reader = gateway.subscribe("a,b").await;
    let (mut cursor, mut wanted) = (reader.cursor(), 0);
    drop(reader);
    for round in 0..12 {
        for number in round * 5..round * 5 + 5 {
            gateway
                .publish(["a", "b"][number % 2], &number.to_string())
                .await;
        }
        let until = round * 5 + 5;
        cursor = if round % 2 == 0 {
            let query = format!("topic=a,b&limit=3&lastEventId={cursor}");
            let polled = gateway.poll(&query).answer().await;
            polled.is_complete();
            assert_eq!(polled.data(), numbers(wanted..wanted + 3));
            wanted += 3;
            polled.cursor
        } else {
            let mut reader = gateway.resume("a,b", &cursor).await;
            assert_eq!(reader.replay(), "complete");
            // One that was not read to its end.
            let count = until - wanted - 1;
            assert_eq!(reader.take(count).await, numbers(wanted..until - 1));
            wanted = until - 1;
            reader.cursor()
        };
    }
    let query = format!("topic=a,b&lastEventId={cursor}");
    let polled = gateway.poll(&query).answer().await;
    assert_eq!(polled.data(), numbers(wanted..60));
}

/// The default topic is for reading; a topic named twice counts once.
#[tokio::test]
async fn topics_are_named_as_for_a_stream() {
    let gateway = Gateway::with("limits.topics_per_connection", 2)
        .start()
        .await;
    gateway.publish("default", "d").await;
    for topic in ["a", "b"] {
        gateway.publish(topic, topic).await;
    }
    let polled = gateway.poll("last=5&wait=0s").answer().await;
    assert_eq!(polled.data(), ["d"]);
    for query in ["topic=a,b", "topic=a&topic=b", "topic=a,b,a&topic=b"] {
        let query = format!("{query}&last=5&wait=0s");
        assert_eq!(gateway.poll(&query).answer().await.data(), ["a", "b"]);
    }
    for query in [
        "topic=a,b,c",
        "topic=*",
        "topic=$open",
        "topic=%FF",
        "topics=a",
        "topic=a&since=yesterday",
        "topic=a&last=many",
        "topic=a&last=1001",
        "topic=a&lastEventId=garbage",
    ] {
        let stream = gateway.get(&format!("/events?{query}")).await;
        let answer = gateway.poll(&format!("{query}&wait=0s")).ask().await;
        assert_eq!(answer.status(), 400, "{query}: {answer:?}");
        let (problem, as_stream) = (answer.problem(), stream.problem());
        assert_eq!(problem["code"], as_stream["code"], "{query}");
    }
}

#[tokio::test]
async fn limit_and_wait_are_read_strictly() {
    let gateway = Gateway::start().await;
    gateway.publish_all("orders", ["a", "b"]).await;
    for (query, count) in [
        ("limit=1", 1),
        ("limit=2", 2),
        ("limit=100", 2),
        ("limit=1000", 2),
    ] {
        let query = format!("topic=orders&last=2&wait=0s&{query}");
        let polled = gateway.poll(&query).answer().await;
        assert_eq!(polled.events.len(), count, "{query}");
    }
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=1.5",
        "limit=x",
        "limit=0x10",
        "limit=99999999999999999999",
        "wait=x",
        "wait=-1s",
        "wait=s",
        "wait=1q",
        "wait=1s1",
    ] {
        let answer = gateway
            .poll(&format!("topic=orders&last=2&{query}"))
            .ask()
            .await;
        let detail = answer.refuses(400, "query_invalid");
        let name = query.split('=').next().unwrap();
        assert!(
            detail.contains(name),
            "{query}: it names the parameter: {detail}"
        );
    }
    // What is too long is made shorter, and what is there needs no waiting.
    for wait in [
        "0s",
        "0ms",
        "500ms",
        "1s",
        "60s",
        "61s",
        "5m",
        "24h",
        "1s%20500ms",
    ] {
        let query = format!("topic=orders&last=2&wait={wait}");
        let polled = gateway.poll(&query).answer().await;
        assert_eq!(polled.data(), ["a", "b"], "{wait}");
    }
}

#[tokio::test]
async fn parameters_that_mean_nothing_here_are_ignored() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "a").await;
    let query = "topic=orders&last=1&wait=0s&utm_source=x&_=123";
    assert_eq!(gateway.poll(query).answer().await.data(), ["a"]);
}

#[tokio::test]
async fn a_finished_topic_is_told_with_its_last_event() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("orders", ["a", "b"]).await;
    let last = gateway.finish("orders", Some("last")).await;
    let query = format!("topic=orders&lastEventId={}", ids[0]);
    let polled = gateway.poll(&query).answer().await;
    polled.is_complete();
    assert_eq!(polled.data(), ["b", "last"]);
    let end = if polled.ended.is_empty() {
        // The answer ended with the events; the end comes with the next, at once.
        let query = format!("topic=orders&wait=5s&lastEventId={}", polled.cursor);
        let next = gateway.poll(&query).answer().await;
        next.is_complete();
        assert!(next.events.is_empty(), "{next:?}");
        next
    } else {
        polled
    };
    assert_eq!(end.ended, ["orders"]);
    assert!(end.place() > last, "the end has an id of its own: {end:?}");
    // Whoever comes back with that has everything, and is told so without waiting.
    for _ in 0..2 {
        let query = format!("topic=orders&wait=5s&lastEventId={}", end.cursor);
        let again = gateway.poll(&query).answer().await;
        again.is_complete();
        assert!(again.events.is_empty(), "{again:?}");
        assert_eq!(again.ended, ["orders"]);
        assert_eq!(again.cursor, end.cursor);
    }
    let header = gateway.poll("topic=orders&wait=5s").after(&end.cursor);
    let by_header = header.answer().await;
    assert_eq!(by_header.ended, ["orders"], "no 204 here: {by_header:?}");
    let now = gateway.poll("topic=orders&wait=5s").answer().await;
    assert_eq!(now.replay, "none");
    assert_eq!(now.ended, ["orders"]);
}

/// The cursor of an answer that was cut by its limit lies before the end: that is not told yet.
#[tokio::test]
async fn the_end_is_told_only_when_the_cursor_has_reached_it() {
    let gateway = Gateway::start().await;
    gateway.publish_all("orders", ["a", "b"]).await;
    gateway.finish("orders", Some("c")).await;
    let mut cursor = "earliest".to_owned();
    for data in ["a", "b"] {
        let query = format!("topic=orders&limit=1&lastEventId={cursor}");
        let polled = gateway.poll(&query).answer().await;
        assert_eq!(polled.data(), [data]);
        assert!(polled.ended.is_empty(), "{polled:?}");
        cursor = polled.cursor;
    }
    let query = format!("topic=orders&lastEventId={cursor}");
    let polled = gateway.poll(&query).answer().await;
    assert_eq!(polled.data(), ["c"]);
    let query = format!("topic=orders&wait=5s&lastEventId={}", polled.cursor);
    let end = gateway.poll(&query).answer().await;
    assert!(end.events.is_empty(), "{end:?}");
    assert_eq!(end.ended, ["orders"]);
}

#[tokio::test]
async fn among_several_topics_the_ends_are_told_and_the_others_go_on() {
    let gateway = Gateway::start().await;
    let mut poller = gateway.poller("a,b").await;
    gateway.finish("a", Some("last of a")).await;
    gateway.publish("b", "still here").await;
    let (mut data, mut ended) = (Vec::new(), Vec::new());
    while data.len() < 2 || ended.is_empty() {
        let polled = poller.once("wait=1s").await;
        polled.is_complete();
        data.extend(polled.data().into_iter().map(str::to_owned));
        if !polled.ended.is_empty() {
            ended = polled.ended;
        }
    }
    assert_eq!(data, ["last of a", "still here"]);
    assert_eq!(ended, ["a"]);
    // One topic that ended does not end the wait for the others.
    let mut waiting = poller.poll("wait=5s").begin().await;
    waiting.stays_silent().await;
    gateway.finish("b", Some("last of b")).await;
    let polled = waiting.answer().await;
    let mut ended = polled.ended.clone();
    let mut data: Vec<String> = polled.data().into_iter().map(str::to_owned).collect();
    poller.cursor = polled.cursor;
    while ended.len() < 2 {
        let polled = poller.once("wait=1s").await;
        data.extend(polled.data().into_iter().map(str::to_owned));
        ended = polled.ended;
    }
    assert_eq!(data, ["last of b"]);
    ended.sort_unstable();
    assert_eq!(ended, ["a", "b"]);
}

/// A chain used to stand still at the first end, which it was told again and again, once all topics had ended.
#[tokio::test]
async fn a_chain_goes_on_from_one_end_to_the_next() {
    let gateway = Gateway::start().await;
    let topics = ["a", "b", "c"];
    for topic in topics {
        gateway.publish(topic, topic).await;
    }
    for topic in topics {
        gateway.finish(topic, None).await;
    }
    for limit in [1, 2, 100] {
        let mut poller = crate::support::Poller::from(gateway.public, "a,b,c", "0-0");
        let (mut data, mut ended) = (Vec::new(), Vec::new());
        // An event an answer, an end an answer, and one that says that there is nothing more.
        for _ in 0..7 {
            let query = format!("limit={limit}&wait=5s");
            let polled = poller.once(&query).await;
            data.extend(polled.data().into_iter().map(str::to_owned));
            ended = polled.ended;
        }
        assert_eq!(data, topics, "by {limit}");
        ended.sort_unstable();
        assert_eq!(ended, topics, "by {limit}");
    }
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let gateway = Gateway::start().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let answer = gateway.ask(Request::new(method, "/poll?topic=a")).await;
        answer.refuses(405, "method_not_allowed");
        let mut allow = answer.head.list("allow");
        allow.retain(|method| method != "options");
        allow.sort_unstable();
        assert_eq!(allow, ["get", "head"], "{answer:?}");
    }
    for target in ["/poll/", "/poll/orders", "/Poll", "//poll", "/polls"] {
        gateway.get(target).await.refuses(404, "not_found");
    }
    let answer = gateway.get_admin("/poll?topic=a&wait=0s").await;
    answer.refuses(404, "not_found");
}

/// As for a stream: the head at once, and no place is taken.
#[tokio::test]
async fn head_answers_the_headers_and_waits_for_nothing() {
    let gateway = Gateway::with("limits.connections", 1).start().await;
    let _place = gateway.subscribe("orders").await;
    let ids = gateway.publish_all("orders", ["a", "b"]).await;
    for (query, replay) in [
        ("topic=orders".to_owned(), "none"),
        (format!("topic=orders&lastEventId={}", ids[0]), "complete"),
        (format!("topic=orders&lastEventId={}", ids[1]), "complete"),
    ] {
        let mut connection = gateway.connect().await;
        let head = Request::new("HEAD", &format!("/poll?{query}"));
        let answer = connection.ask(&head).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let cache = answer.header("cache-control");
        assert_eq!(cache, Some("no-cache, no-store, no-transform"));
        assert_eq!(answer.header("tidegate-replay"), Some(replay), "{answer:?}");
        // The connection is in order: nothing that looks like a body came.
        let next = connection.ask(&Request::get("/health/live")).await;
        assert_eq!(next.status(), 200, "{next:?}");
    }
    let head = Request::new("HEAD", "/poll?topic=*");
    assert_eq!(gateway.ask(head).await.status(), 400);
}

/// One connection carries a whole chain, as browsers do it.
#[tokio::test]
async fn a_connection_serves_one_poll_after_the_other() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    let mut cursor = "earliest".to_owned();
    for number in 0..20 {
        let data = number.to_string();
        gateway.publish("orders", &data).await;
        let target = format!("/poll?topic=orders&lastEventId={cursor}");
        let answer = connection.ask(&Request::get(&target)).await;
        assert_ne!(answer.header("connection"), Some("close"), "{answer:?}");
        let polled = Polled::of(&answer);
        assert_eq!(polled.data(), [data]);
        cursor = polled.cursor;
    }
    let answer = connection.ask(&Request::get("/health/live")).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
}

#[tokio::test]
async fn http_2_with_prior_knowledge_carries_the_same_answer() {
    let gateway = Gateway::start().await;
    gateway.publish_all("orders", ["a", "b"]).await;
    let mut client = H2Client::open(gateway.public).await;
    client.get("/poll?topic=orders&last=2").await;
    let body = client.data_to_the_end().await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["events"][1]["data"], "b", "{body}");
    let cursor = json["cursor"].as_str().unwrap();
    // One that waits for an event.
    let mut client = H2Client::open(gateway.public).await;
    let target = format!("/poll?topic=orders&wait=5s&lastEventId={cursor}");
    let request = client.request(1, &target, &[]);
    assert!(client.send(request).await);
    gateway.has_places_taken(1).await;
    gateway.publish("orders", "c").await;
    client.head_of_200().await;
    let body = client.data_to_the_end().await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["events"][0]["data"], "c", "{body}");
    assert_eq!(json["replay"], "complete", "{body}");
    gateway.has_places_taken(0).await;
}

/// A poll whose stream is taken back, and one whose connection goes.
#[tokio::test]
async fn http_2_gives_a_place_back_when_the_client_leaves() {
    let gateway = Gateway::start().await;
    let mut client = H2Client::open(gateway.public).await;
    for stream in [1, 3] {
        let request = client.request(stream, "/poll?topic=orders&wait=60s", &[]);
        assert!(client.send(request).await);
    }
    gateway.has_places_taken(2).await;
    assert!(client.send(H2Client::reset(1)).await);
    gateway.has_places_taken(1).await;
    drop(client);
    gateway.has_places_taken(0).await;
}

#[tokio::test]
async fn pages_of_listed_origins_read_answers_and_refusals() {
    let origin = "https://app.example";
    let gateway = Gateway::with("cors.origins", origin)
        .with("auth.anonymous", "subscribe,publish")
        .start()
        .await;
    gateway.publish("orders", "a").await;
    let is_open = |answer: &Response| {
        let header = |name: &str| answer.header(name).map(str::to_owned);
        let allowed = header("access-control-allow-origin");
        assert_eq!(allowed.as_deref(), Some(origin), "{answer:?}");
        let credentials = header("access-control-allow-credentials");
        assert_eq!(credentials.as_deref(), Some("true"), "{answer:?}");
        let exposed = answer.head.list("access-control-expose-headers");
        for name in ["tidegate-replay", "retry-after", "x-request-id"] {
            assert!(exposed.contains(&name.to_owned()), "{name}: {answer:?}");
        }
        assert!(answer.head.list("vary").contains(&"origin".to_owned()));
    };
    let page = |query: &str| {
        let poll = gateway.poll(query).header("Origin", origin);
        poll.header("Sec-Fetch-Site", "cross-site")
    };
    let answer = page("topic=orders&last=1&wait=0s").ask().await;
    is_open(&answer);
    assert_eq!(Polled::of(&answer).data(), ["a"]);
    let refused = page("topic=*").ask().await;
    refused.refuses(400, "topic_invalid");
    is_open(&refused);
    let stranger = gateway.poll("topic=orders&last=1&wait=0s");
    let answer = stranger
        .header("Origin", "https://evil.example")
        .ask()
        .await;
    let open = answer.header("access-control-allow-origin");
    assert_eq!(open, None, "its browser shows it nothing: {answer:?}");
    let preflight = Request::new("OPTIONS", "/poll?topic=orders")
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "GET")
        .header(
            "Access-Control-Request-Headers",
            "authorization,last-event-id",
        );
    let answer = gateway.ask(preflight).await;
    assert!([200, 204].contains(&answer.status()), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    let methods = answer.head.list("access-control-allow-methods");
    assert!(methods.contains(&"get".to_owned()), "{answer:?}");
    let headers = answer.head.list("access-control-allow-headers");
    for name in ["authorization", "last-event-id"] {
        assert!(headers.contains(&name.to_owned()), "{name}: {answer:?}");
    }
}

/// `EventSource` does not poll: whoever does reads a status.
#[tokio::test]
async fn a_refusal_is_a_status_whatever_is_accepted() {
    let gateway = Gateway::with("limits.connections", 1).start().await;
    let _reader = gateway.subscribe("orders").await;
    for accept in ["text/event-stream", "application/json", "*/*"] {
        let poll = gateway.poll("topic=orders").header("Accept", accept);
        let answer = poll.ask().await;
        answer.refuses(503, "connection_limit");
        let pause: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&pause), "{answer:?}");
    }
}

/// A cursor moves by what others publish, and never to a place that was not reached.
#[tokio::test]
async fn a_cursor_moves_without_events_and_is_complete_later() {
    let gateway = Gateway::with("retention.events", 5).start().await;
    let mut poller = gateway.poller("quiet").await;
    let opened = poller.cursor.clone();
    let mut newest = EventId::ZERO;
    for number in 0..50 {
        newest = gateway.publish("busy", &number.to_string()).await;
    }
    eventually("a checkpoint", async || {
        let polled = poller.once("wait=0s").await;
        polled.is_complete();
        assert!(polled.events.is_empty(), "{polled:?}");
        assert!(polled.place() <= newest, "never beyond what was stored");
        if polled.place() == newest {
            Ok(())
        } else {
            Err(polled.cursor)
        }
    })
    .await;
    let checkpoint = poller.cursor.clone();
    gateway.publish("quiet", "at last").await;
    for cursor in [&opened, &checkpoint] {
        let query = format!("topic=quiet&lastEventId={cursor}");
        let polled = gateway.poll(&query).answer().await;
        polled.is_complete();
        assert_eq!(polled.data(), ["at last"]);
    }
    assert!(id(&checkpoint) > id(&opened));
}

/// A browser may give the same cursor to both; they agree on every verdict.
#[tokio::test]
async fn polls_and_streams_judge_every_cursor_alike() {
    let gateway = Gateway::with("retention.events", 20).start().await;
    let mut cursors = vec![gateway.subscribe("a,b").await.cursor()];
    for number in 0..60 {
        let stored = gateway
            .publish(["a", "b", "c"][number % 3], &number.to_string())
            .await;
        cursors.push(stored.to_string());
    }
    cursors.extend(["0-1", "1-0", "99999999999999-0"].map(str::to_owned));
    for topics in ["a", "b", "a,b", "c,never", "never"] {
        for cursor in &cursors {
            let mut reader = gateway.resume(topics, cursor).await;
            let query = format!("topic={topics}&wait=0s&lastEventId={cursor}");
            let polled = gateway.poll(&query).answer().await;
            let stream = reader.open_data();
            assert_eq!(stream["replay"], polled.replay, "{topics} {cursor}");
            assert_eq!(
                stream.get("reason").and_then(|it| it.as_str()),
                polled.reason.as_deref(),
                "{topics} {cursor}"
            );
            if polled.replay == "gap" {
                assert_eq!(stream["topics"], json!(polled.topics), "{topics} {cursor}");
                let missed = stream
                    .get("missed_at_least")
                    .and_then(serde_json::Value::as_u64);
                assert_eq!(missed, polled.missed_at_least, "{topics} {cursor}");
            }
            if polled.reason.as_deref() != Some("unknown") && !polled.events.is_empty() {
                assert_eq!(reader.take(polled.events.len()).await, polled.data());
            }
        }
    }
}

/// A body that nobody wanted does not keep the connection from its next request.
#[tokio::test]
async fn a_request_with_a_body_is_answered_all_the_same() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "a").await;
    let mut connection = Connection::open(gateway.public).await;
    let request = Request::get("/poll?topic=orders&last=1&wait=0s").with_body("hello");
    let answer = connection.ask(&request).await;
    assert_eq!(Polled::of(&answer).data(), ["a"]);
    let polled = Poll::new(gateway.public, "topic=orders&last=1&wait=0s");
    assert_eq!(polled.answer().await.data(), ["a"]);
}
