//! Topics come and go while the connection stays: each begins at an id of its own and joins the common cursor when it has
//! caught up.

use serde_json::{Value, json};

use crate::support::{Gateway, WebSocket, event, id, numbers, sorted};

/// The members of `subscribed` that it has beside its type, the ref and the topics.
fn verdict(mut subscribed: Value) -> Value {
    for member in ["type", "ref", "topics", "id"] {
        subscribed.as_object_mut().unwrap().remove(member).unwrap();
    }
    subscribed
}

/// Reads the replay of topics that catch up: events without a cursor, up to `live`. Returns their data, and `live`.
async fn catches_up(socket: &mut WebSocket, topics: &[&str]) -> (Vec<String>, Value) {
    let mut data = Vec::new();
    loop {
        let message = socket.telling().await;
        if message["type"] == "live" {
            assert_eq!(sorted(&message["topics"]), sorted(&json!(topics)));
            return (data, message);
        }
        let came = event(&message);
        assert!(topics.contains(&came.topic.as_str()), "{message}");
        assert!(!came.has_cursor, "not before it is live: {message}");
        data.push(came.data);
    }
}

#[tokio::test]
async fn a_topic_is_followed_from_now() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let before = gateway.publish("stock", "before").await;
    let subscribed = socket.begin_subscribe(&["stock"], json!({})).await;
    let begin = id(subscribed["id"].as_str().unwrap());
    assert!(begin >= before, "{subscribed}");
    assert_eq!(verdict(subscribed), json!({ "replay": "none" }));
    let live = socket.expect("live").await;
    assert_eq!(live["topics"], json!(["stock"]), "the new one alone");
    gateway.publish("stock", "a").await;
    gateway.publish("orders", "b").await;
    for wanted in ["a", "b"] {
        let came = socket.next().await;
        assert_eq!(came.data, wanted);
        assert!(came.has_cursor, "{came:?}");
    }
    socket.stays_silent().await;
}

/// What was published between the answer to `subscribe` and `live` is not lost to anybody.
#[tokio::test]
async fn from_subscribed_on_nothing_is_missed() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for round in 0..50 {
        let topic = format!("topic-{round}");
        let message = json!({ "type": "subscribe", "ref": round, "topics": [topic] });
        socket.send(message).await;
        let begun = socket.expect("subscribed").await;
        assert_eq!(begun["ref"], round);
        let published = gateway.publish(&topic, "a").await;
        let came = socket.next().await;
        assert_eq!((came.topic, came.id), (topic.clone(), published));
        if came.has_cursor {
            continue;
        }
        let live = socket.expect("live").await;
        assert_eq!(live["topics"], json!([topic]));
    }
}

/// The common cursor has long been past the events of the new topic: it must not go back for them.
#[tokio::test]
async fn a_topic_is_replayed_from_its_own_id_and_joins_when_it_is_live() {
    let gateway = Gateway::start().await;
    let ids = gateway.publish_all("stock", ["a", "b", "c"]).await;
    let mut socket = gateway.follow("orders").await;
    let newer = gateway.publish("orders", "x").await;
    assert_eq!(socket.take(1).await, ["x"]);
    let start = json!({ "lastEventId": ids[0].to_string() });
    let subscribed = socket.begin_subscribe(&["stock"], start).await;
    assert_eq!(subscribed["id"], ids[0].to_string());
    assert_eq!(verdict(subscribed), json!({ "replay": "complete" }));
    let (data, live) = catches_up(&mut socket, &["stock"]).await;
    assert_eq!(data, ["b", "c"]);
    assert!(id(live["cursor"].as_str().unwrap()) >= newer, "{live}");
    gateway.publish("stock", "d").await;
    let came = socket.next().await;
    assert!(came.data == "d" && came.has_cursor, "{came:?}");
    // One cursor for both, from here on.
    let cursor = socket.cursor();
    drop(socket);
    gateway.publish("stock", "e").await;
    gateway.publish("orders", "y").await;
    let mut socket = gateway.follow_after("orders,stock", cursor).await;
    assert_eq!(socket.replay(), "complete");
    socket.replays(["e", "y"]).await;
}

#[tokio::test]
async fn the_cursor_of_live_is_good_for_all_topics() {
    let gateway = Gateway::start().await;
    gateway.publish_all("stock", ["a", "b"]).await;
    gateway.publish("orders", "x").await;
    let mut socket = gateway.follow("orders").await;
    let start = json!({ "lastEventId": "earliest" });
    let subscribed = socket.begin_subscribe(&["stock", "prices"], start).await;
    assert_eq!(subscribed["id"], "0-0", "{subscribed}");
    assert_eq!(verdict(subscribed), json!({ "replay": "none" }));
    let (data, live) = catches_up(&mut socket, &["stock", "prices"]).await;
    assert_eq!(data, ["a", "b"]);
    drop(socket);
    for (topic, data) in [("stock", "c"), ("orders", "y"), ("prices", "1")] {
        gateway.publish(topic, data).await;
    }
    let cursor = live["cursor"].as_str().unwrap();
    let mut reader = gateway.resume("orders,stock,prices", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["c", "y", "1"]).await;
}

/// Before `live` a topic is no part of the cursor: whoever drops there takes it up again by its own last id.
#[tokio::test]
async fn who_drops_while_a_topic_catches_up_takes_it_up_where_it_was() {
    const EVENTS: usize = 3_000;
    let gateway = Gateway::with("tail.events", 16).start().await;
    gateway.publish_lines("stock", numbers(0..EVENTS)).await;
    let mut socket = gateway.follow("orders").await;
    let mut start = json!({ "lastEventId": "earliest" });
    let mut seen = Vec::new();
    for stop in [1, 10, 500, EVENTS - 600] {
        socket.begin_subscribe(&["stock"], start).await;
        for _ in 0..stop {
            let came = event(&socket.expect("event").await);
            assert!(!came.has_cursor, "{came:?}");
            seen.push(came.data);
        }
        start = json!({ "lastEventId": socket.last_of("stock").unwrap().to_string() });
        let cursor = socket.cursor();
        drop(socket);
        gateway.publish("orders", &stop.to_string()).await;
        socket = gateway.follow_after("orders", cursor).await;
        assert_eq!(socket.replay(), "complete");
        socket.replays([stop.to_string()]).await;
    }
    socket.begin_subscribe(&["stock"], start).await;
    let (rest, _) = catches_up(&mut socket, &["stock"]).await;
    seen.extend(rest);
    assert_eq!(seen, numbers(0..EVENTS));
}

#[tokio::test]
async fn a_subscribe_starts_where_it_says() {
    let gateway = Gateway::start().await;
    let ids = gateway
        .publish_all("orders", ["a", "b", "c", "d", "e"])
        .await;
    let milliseconds = (ids[0].ms() - 1_000).to_string();
    for (start, wanted) in [
        (
            json!({ "lastEventId": "earliest" }),
            &["a", "b", "c", "d", "e"][..],
        ),
        (json!({ "lastEventId": "0-0" }), &["a", "b", "c", "d", "e"]),
        (json!({ "lastEventId": ids[2].to_string() }), &["d", "e"]),
        (json!({ "lastEventId": ids[4].to_string() }), &[]),
        (json!({ "since": "1h" }), &["a", "b", "c", "d", "e"]),
        (json!({ "since": milliseconds }), &["a", "b", "c", "d", "e"]),
        (
            json!({ "since": "1970-01-01T00:00:00Z" }),
            &["a", "b", "c", "d", "e"],
        ),
        (json!({ "since": "2999-01-01T00:00:00Z" }), &[]),
        (json!({ "last": 2 }), &["d", "e"]),
        (json!({ "last": 0 }), &[]),
        (
            json!({ "lastEventId": ids[3].to_string(), "last": 5, "since": "1h" }),
            &["e"],
        ),
        (
            json!({ "last": 1, "since": "1h" }),
            &["a", "b", "c", "d", "e"],
        ),
        (json!({}), &[]),
    ] {
        let mut socket = gateway.follow("other").await;
        let subscribed = socket.begin_subscribe(&["orders"], start.clone()).await;
        let resumed = start
            .get("lastEventId")
            .is_some_and(|id| id.as_str() > Some("1"))
            && start["lastEventId"] != "earliest";
        let replay = if resumed { "complete" } else { "none" };
        assert_eq!(subscribed["replay"], replay, "{start}");
        let (data, _) = catches_up(&mut socket, &["orders"]).await;
        assert_eq!(data, wanted, "{start}");
        socket.is_open().await;
    }
}

#[tokio::test]
async fn a_start_that_is_none_is_an_error_and_follows_nothing() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("other").await;
    for (start, code) in [
        (json!({ "lastEventId": "garbage" }), "cursor_invalid"),
        (json!({ "lastEventId": "1-2-3" }), "cursor_invalid"),
        (json!({ "since": "yesterday" }), "since_invalid"),
    ] {
        let mut message = json!({ "type": "subscribe", "ref": 7, "topics": ["orders"] });
        let members = message.as_object_mut().unwrap();
        members.extend(start.as_object().unwrap().clone());
        socket.send(message).await;
        let error = socket.error(code).await;
        assert_eq!(error["ref"], 7, "{error}");
    }
    gateway.publish("orders", "a").await;
    socket.stays_silent().await;
}

#[tokio::test]
async fn what_retention_took_is_told_by_topic() {
    let gateway = Gateway::with("retention.events", 5).start().await;
    let cursor = gateway.follow("orders,quiet").await.cursor();
    let data = numbers(0..10);
    gateway
        .publish_all("orders", data.iter().map(String::as_str))
        .await;
    let mut socket = gateway.follow("other").await;
    let start = json!({ "lastEventId": cursor });
    let subscribed = socket.begin_subscribe(&["orders", "quiet"], start).await;
    let mut verdict = verdict(subscribed);
    let missed = verdict.as_object_mut().unwrap().remove("missed_at_least");
    assert!(missed.is_none_or(|missed| (1..=5).contains(&missed.as_u64().unwrap())));
    assert_eq!(
        verdict,
        json!({ "replay": "gap", "reason": "retention", "missing": ["orders"] })
    );
    let (data, _) = catches_up(&mut socket, &["orders", "quiet"]).await;
    assert_eq!(data, numbers(5..10));
}

#[tokio::test]
async fn a_cursor_of_another_log_or_another_time_is_told() {
    let old = Gateway::start().await;
    let cursor = old.publish("orders", "lost").await;
    old.stop(crate::support::PATIENCE).await;
    let gateway = Gateway::start().await;
    let newest = gateway.publish_all("orders", ["a", "b"]).await[1];
    let future = format!("{}-0", newest.ms() + 3_600_000);
    for (cursor, reason, wanted) in [
        (cursor.to_string(), "reset", &["a", "b"][..]),
        (future, "unknown", &[]),
    ] {
        let mut socket = gateway.follow("other").await;
        let start = json!({ "lastEventId": cursor });
        let subscribed = socket.begin_subscribe(&["orders"], start).await;
        assert_eq!(subscribed["replay"], "gap", "{subscribed}");
        assert_eq!(subscribed["reason"], reason, "{subscribed}");
        assert_eq!(subscribed["missing"], json!(["orders"]), "{subscribed}");
        let (data, _) = catches_up(&mut socket, &["orders"]).await;
        assert_eq!(data, wanted, "{reason}");
    }
}

/// Reads until the pong that answers `ref`, and returns what came before that is no sign of life and no `live`.
async fn until_pong(socket: &mut WebSocket, number: u64) -> Vec<Value> {
    let ping = json!({ "type": "ping", "ref": number });
    let pong = json!({ "type": "pong", "ref": number });
    socket.send(ping).await;
    let mut before = Vec::new();
    loop {
        let message = socket.telling().await;
        if message == pong {
            return before;
        }
        if message["type"] != "live" {
            before.push(message);
        }
    }
}

#[tokio::test]
async fn a_topic_that_is_followed_already_stays_as_it_is() {
    let gateway = Gateway::start().await;
    gateway.publish_all("orders", ["a", "b"]).await;
    let mut socket = gateway.follow("orders").await;
    for start in [
        json!({}),
        json!({ "lastEventId": "earliest" }),
        json!({ "last": 2 }),
    ] {
        let subscribed = socket.begin_subscribe(&["orders"], start).await;
        assert_eq!(subscribed["topics"], json!(["orders"]), "{subscribed}");
        assert_eq!(until_pong(&mut socket, 1).await, [] as [Value; 0]);
        let published = gateway.publish("orders", "next").await;
        let came = socket.next().await;
        assert_eq!(came.id, published, "once, and nothing older: {came:?}");
        socket.stays_silent().await;
    }
}

/// It used to be called live at once, with a cursor beyond what was still to come: whoever came back with that missed it.
#[tokio::test]
async fn a_topic_that_catches_up_is_not_live_because_it_is_asked_for_again() {
    const EVENTS: usize = 3_000;
    let gateway = Gateway::with("tail.events", 16).start().await;
    gateway.publish_lines("stock", numbers(0..EVENTS)).await;
    let mut socket = gateway.follow("orders").await;
    let subscribe = |number: u32, topics: &[&str], start: &str| json!({ "type": "subscribe", "ref": number, "topics": topics, "lastEventId": start });
    socket.send(subscribe(1, &["stock"], "earliest")).await;
    socket.send(subscribe(2, &["stock"], "earliest")).await;
    socket.send(subscribe(3, &["stock", "orders"], "")).await;
    let (mut answered, mut came) = (0, 0);
    while came < EVENTS || answered < 3 {
        let message = socket.telling().await;
        match message["type"].as_str() {
            Some("subscribed") => {
                answered += 1;
                assert_eq!(message["ref"], answered, "{message}");
            }
            Some("event") => came += 1,
            // The client has seen that it is in the cursor.
            Some("live") => assert_eq!(came, EVENTS, "{message}"),
            _ => panic!("{message}"),
        }
    }
    let before = until_pong(&mut socket, 4).await;
    assert!(before.is_empty(), "{before:?}");
    gateway.publish("stock", "the next").await;
    let came = socket.next().await;
    assert!(came.has_cursor, "{came:?}");
}

/// Nobody is put out for following nothing at the moment.
#[tokio::test]
async fn the_last_topic_may_be_left_too() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    socket.unsubscribe(&["orders"]).await;
    socket.publish("orders", "a").await;
    socket.stays_silent().await;
    let start = json!({ "lastEventId": "earliest" });
    socket.begin_subscribe(&["orders"], start).await;
    let (data, _) = catches_up(&mut socket, &["orders"]).await;
    assert_eq!(data, ["a"]);
}

#[tokio::test]
async fn of_old_and_new_topics_the_new_ones_are_replayed() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "old").await;
    gateway.publish("stock", "new").await;
    let mut socket = gateway.follow("orders").await;
    let start = json!({ "lastEventId": "earliest" });
    socket.begin_subscribe(&["orders", "stock"], start).await;
    let came = socket.next().await;
    assert_eq!((came.topic.as_str(), came.data.as_str()), ("stock", "new"));
    socket.expect("live").await;
    gateway.publish("orders", "once").await;
    assert_eq!(socket.take(1).await, ["once"]);
    socket.stays_silent().await;
}

#[tokio::test]
async fn a_topic_that_was_left_is_silent_and_can_be_taken_up_by_its_own_id() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders,stock").await;
    gateway.publish("orders", "1").await;
    gateway.publish("stock", "a").await;
    assert_eq!(socket.take(2).await, ["1", "a"]);
    let last = socket.last_of("stock").unwrap();
    socket.unsubscribe(&["stock"]).await;
    for data in ["b", "c"] {
        gateway.publish("stock", data).await;
        gateway.publish("orders", data).await;
    }
    for wanted in ["b", "c"] {
        let came = socket.next().await;
        assert_eq!(
            (came.topic.as_str(), came.data.as_str()),
            ("orders", wanted)
        );
    }
    socket.stays_silent().await;
    let start = json!({ "lastEventId": last.to_string() });
    let subscribed = socket.begin_subscribe(&["stock"], start).await;
    assert_eq!(verdict(subscribed), json!({ "replay": "complete" }));
    let (data, _) = catches_up(&mut socket, &["stock"]).await;
    assert_eq!(data, ["b", "c"]);
    let cursor = socket.cursor();
    drop(socket);
    gateway.publish("stock", "d").await;
    let mut socket = gateway.follow_after("orders,stock", cursor).await;
    socket.replays(["d"]).await;
}

/// Somebody who leaves in the middle of a replay is sent nothing more of it.
#[tokio::test]
async fn a_topic_can_be_left_while_it_catches_up() {
    let gateway = Gateway::with("tail.events", 16).start().await;
    gateway.publish_lines("stock", numbers(0..5_000)).await;
    let mut socket = gateway.follow("orders").await;
    let start = json!({ "lastEventId": "earliest" });
    socket.begin_subscribe(&["stock"], start.clone()).await;
    let leave = json!({ "type": "unsubscribe", "ref": "u", "topics": ["stock"] });
    socket.send(leave).await;
    loop {
        let message = socket.telling().await;
        match message["type"].as_str() {
            Some("unsubscribed") => break,
            Some("event" | "live") => {}
            _ => panic!("{message}"),
        }
    }
    gateway.publish("stock", "after").await;
    gateway.publish("orders", "a").await;
    let came = socket.next().await;
    assert_eq!((came.topic.as_str(), came.data.as_str()), ("orders", "a"));
    socket.stays_silent().await;
    // And taken up again, from anywhere.
    socket.begin_subscribe(&["stock"], start).await;
    let (data, _) = catches_up(&mut socket, &["stock"]).await;
    assert_eq!(data.len(), 5_001);
}

#[tokio::test]
async fn leaving_what_is_not_followed_is_an_error() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let leave = |topic: &str| json!({ "type": "unsubscribe", "ref": topic, "topics": [topic] });
    socket.send(leave("stock")).await;
    let error = socket.error("topic_not_followed").await;
    assert_eq!(error["ref"], "stock", "{error}");
    socket.subscribe(&["stock"]).await;
    socket.unsubscribe(&["stock"]).await;
    socket.send(leave("stock")).await;
    socket.error("topic_not_followed").await;
    gateway.publish("orders", "a").await;
    assert_eq!(socket.take(1).await, ["a"]);
}

#[tokio::test]
async fn the_limit_of_topics_counts_all_of_them() {
    let gateway = Gateway::with("limits.topics_per_connection", 3)
        .start()
        .await;
    let mut socket = gateway.follow("a,b").await;
    let subscribe = |topics: &[&str]| json!({ "type": "subscribe", "ref": 1, "topics": topics });
    socket.send(subscribe(&["c", "d"])).await;
    let error = socket.error("too_many_topics").await;
    assert_eq!(error["ref"], 1, "{error}");
    // All of it was refused.
    gateway.publish("c", "x").await;
    socket.stays_silent().await;
    socket.subscribe(&["c"]).await;
    socket.send(subscribe(&["d"])).await;
    socket.error("too_many_topics").await;
    socket.unsubscribe(&["a"]).await;
    socket.subscribe(&["d"]).await;
    gateway.publish("a", "not any more").await;
    for topic in ["b", "c", "d"] {
        gateway.publish(topic, topic).await;
    }
    assert_eq!(socket.take(3).await, ["b", "c", "d"]);
}

/// A refusal for now: whoever waits may get in, so it says when.
#[tokio::test]
async fn the_limit_of_a_replica_is_told_and_the_connection_goes_on() {
    let gateway = Gateway::with("limits.topics", 2).start().await;
    let mut socket = gateway.follow("a,b").await;
    let subscribe = json!({ "type": "subscribe", "ref": 1, "topics": ["c"] });
    socket.send(subscribe).await;
    let error = socket.error("topic_limit").await;
    assert!(error["retry_after"].as_u64() > Some(0), "{error}");
    gateway.publish("a", "x").await;
    assert_eq!(socket.take(1).await, ["x"]);
}

#[tokio::test]
async fn a_topic_that_is_none_is_an_error_and_none_of_the_message_is_followed() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let long = "x".repeat(256);
    for topic in ["$internal", "a b", "a*", "a,b", "", "a\nb", "a{b}", &long] {
        let topics = json!(["stock", topic]);
        let message = json!({ "type": "subscribe", "ref": 1, "topics": topics });
        socket.send(message).await;
        let error = socket.error("topic_invalid").await;
        assert_eq!(error["ref"], 1, "{error}");
    }
    gateway.publish("stock", "a").await;
    socket.stays_silent().await;
}

#[tokio::test]
async fn a_finished_topic_is_replayed_ended_and_the_others_go_on() {
    let gateway = Gateway::start().await;
    gateway.publish("stock", "a").await;
    gateway.finish("stock", Some("b")).await;
    let mut socket = gateway.follow("orders").await;
    let start = json!({ "lastEventId": "earliest" });
    socket.begin_subscribe(&["stock"], start).await;
    assert_eq!(socket.take(2).await, ["a", "b"]);
    let end = loop {
        let message = socket.telling().await;
        if message["type"] != "live" {
            break message;
        }
    };
    assert_eq!(
        (&end["type"], &end["topic"]),
        (&json!("end"), &json!("stock"))
    );
    gateway.publish("orders", "x").await;
    assert_eq!(socket.take(1).await, ["x"]);
    socket.is_open().await;
    gateway.finish("orders", None).await;
    socket.expect("end").await;
    socket.closes(1000, "finished").await;
}

#[tokio::test]
async fn requests_are_worked_off_in_order() {
    let gateway = Gateway::start().await;
    gateway.publish_lines("old", numbers(0..2_000)).await;
    let mut socket = gateway.follow("orders").await;
    let mut sent = Vec::new();
    for number in 0..60_u64 {
        let topic = format!("topic-{}", number / 2);
        let message = match number {
            10 => json!({ "type": "subscribe", "topics": ["old"], "lastEventId": "earliest" }),
            number if number % 3 == 0 => json!({ "type": "ping" }),
            number if number % 7 == 0 => json!({ "type": "dance" }),
            number if number % 2 == 0 => json!({ "type": "subscribe", "topics": [topic] }),
            _ => json!({ "type": "publish", "topic": "elsewhere", "data": topic }),
        };
        let mut message = message;
        message["ref"] = number.into();
        sent.push(message);
    }
    for message in &sent {
        socket.send(message.clone()).await;
    }
    let mut answered = 0;
    let mut replayed = 0;
    while answered < sent.len() || replayed < 2_000 {
        let message = socket.telling().await;
        let kind = message["type"].as_str().unwrap();
        let wanted = match kind {
            "event" => {
                replayed += 1;
                continue;
            }
            "live" => continue,
            "subscribed" => "subscribe",
            "ack" => "publish",
            "pong" => "ping",
            "error" => "dance",
            _ => panic!("{message}"),
        };
        assert_eq!(message["ref"], answered, "in order: {message}");
        assert_eq!(sent[answered]["type"], wanted, "{message}");
        answered += 1;
    }
}

/// A page that follows one topic after the other needs no pause between them.
#[tokio::test]
async fn a_hundred_topics_join_one_after_another() {
    let gateway = Gateway::start().await;
    for number in 0..99 {
        gateway.publish(&format!("topic-{number}"), "old").await;
    }
    let mut socket = gateway.follow("orders").await;
    for number in 0..99 {
        let topic = format!("topic-{number}");
        let message = json!({ "type": "subscribe", "ref": number, "topics": [topic], "last": 1 });
        socket.send(message).await;
    }
    let (mut live, mut old) = (Vec::new(), 0);
    while live.len() < 99 {
        let message = socket.telling().await;
        match message["type"].as_str() {
            Some("live") => live.extend(sorted(&message["topics"])),
            Some("event") => old += 1,
            Some("subscribed") => {}
            _ => panic!("{message}"),
        }
    }
    assert_eq!(old, 99);
    live.sort_unstable();
    live.dedup();
    assert_eq!(live.len(), 99, "each once: {live:?}");
    for number in 0..99 {
        gateway.publish(&format!("topic-{number}"), "new").await;
    }
    for number in 0..99 {
        let came = socket.next().await;
        assert_eq!(came.topic, format!("topic-{number}"));
        assert!(came.data == "new" && came.has_cursor, "{came:?}");
    }
}
