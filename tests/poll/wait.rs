//! A poll that waits is an open place: it ends with the first that there is to tell, and with whoever asked.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use crate::support::{
    Connection, Gateway, H2Client, PATIENCE, Polled, Poller, Request, SILENCE, WaitingPoll,
    eventually, id, numbers,
};

/// Far longer than anything here takes: what waits for it has not been woken.
const LONG: &str = "wait=60s";

#[tokio::test]
async fn the_first_event_ends_the_wait() {
    let gateway = Gateway::start().await;
    let mut poller = gateway.poller("orders").await;
    for number in 0..10 {
        let data = number.to_string();
        let mut waiting = poller.poll(LONG).begin().await;
        gateway.has_places_taken(1).await;
        if number == 0 {
            waiting.stays_silent().await;
        }
        let stored = gateway.publish("orders", &data).await;
        let polled = waiting.answer().await;
        polled.is_complete();
        assert_eq!(polled.data(), [data]);
        assert_eq!(polled.events[0].id, stored);
        poller.cursor = polled.cursor;
        gateway.has_places_taken(0).await;
    }
}

/// From now is a start as any other: what is published while it waits comes.
#[tokio::test]
async fn without_a_cursor_it_waits_from_now() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "before").await;
    let waiting = gateway.poll(&format!("topic=orders&{LONG}")).begin().await;
    // It takes its place before it is known from where on it waits.
    gateway.counts("tidegate_waiting_polls", &[], 1).await;
    gateway.publish("orders", "after").await;
    let polled = waiting.answer().await;
    assert_eq!(polled.replay, "none");
    assert_eq!(polled.data(), ["after"]);
}

#[tokio::test]
async fn what_is_there_together_comes_together() {
    let gateway = Gateway::start().await;
    let mut poller = gateway.poller("a,b").await;
    for number in 0..40 {
        gateway
            .publish(["a", "b"][number % 2], &number.to_string())
            .await;
    }
    let polled = poller.once(LONG).await;
    polled.is_complete();
    assert_eq!(polled.data(), numbers(0..40));
    // A batch may be torn, but nothing of it is lost.
    let mut waiting: Vec<WaitingPoll> = Vec::new();
    for _ in 0..10 {
        waiting.push(poller.poll(LONG).begin().await);
    }
    gateway.has_places_taken(10).await;
    let all = numbers(100..150);
    gateway
        .publish_all("a", all.iter().map(String::as_str))
        .await;
    for waiting in waiting {
        let polled = waiting.answer().await;
        assert!(!polled.events.is_empty(), "{polled:?}");
        let mut rest = crate::support::Poller::from(gateway.public, "a,b", &polled.cursor);
        let mut data: Vec<String> = polled.data().into_iter().map(str::to_owned).collect();
        data.extend(rest.take(50 - data.len()).await);
        assert_eq!(data, all);
    }
}

/// What is published elsewhere wakes nobody.
#[tokio::test]
async fn other_topics_do_not_end_the_wait() {
    let gateway = Gateway::start().await;
    let poller = gateway.poller("orders").await;
    let mut waiting = poller.poll(LONG).begin().await;
    gateway.has_places_taken(1).await;
    for number in 0..20 {
        gateway.publish("other", &number.to_string()).await;
    }
    waiting.stays_silent().await;
    gateway.publish("orders", "a").await;
    assert_eq!(waiting.answer().await.data(), ["a"]);
}

/// The answer is empty, its cursor is as far as all is known, and from there nothing is lost.
#[tokio::test]
async fn when_nothing_comes_it_ends_with_a_cursor() {
    let gateway = Gateway::start().await;
    for start in ["", "&lastEventId=earliest"] {
        let query = format!("topic=quiet{start}&wait=200ms");
        let polled = gateway.poll(&query).answer().await;
        assert_eq!(polled.replay, "none");
        assert!(polled.events.is_empty(), "{polled:?}");
    }
    let mut poller = gateway.poller("quiet").await;
    let before = id(&poller.cursor);
    // Long enough that something is published before it is over.
    let waiting = poller.poll("wait=5s").begin().await;
    gateway.has_places_taken(1).await;
    let mut newest = before;
    for number in 0..30 {
        newest = gateway.publish("busy", &number.to_string()).await;
    }
    let polled = waiting.answer().await;
    polled.is_complete();
    assert!(polled.events.is_empty(), "{polled:?}");
    assert!(
        polled.place() > before && polled.place() <= newest,
        "a checkpoint: {polled:?}"
    );
    poller.cursor = polled.cursor;
    gateway.publish("quiet", "at last").await;
    assert_eq!(poller.take(1).await, ["at last"]);
}

/// It is not before the wait is over that an empty answer comes.
#[tokio::test]
async fn an_empty_answer_takes_as_long_as_it_was_asked_to() {
    let gateway = Gateway::start().await;
    let poller = gateway.poller("orders").await;
    let begun = Instant::now();
    let polled = poller.poll("wait=700ms").answer().await;
    assert!(polled.events.is_empty(), "{polled:?}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(690), "{took:?}");
}

#[tokio::test]
async fn a_gap_waits_for_nothing() {
    let gateway = Gateway::with("retention.events", 2).start().await;
    let cursor = gateway.poller("orders").await.cursor;
    gateway.publish_all("orders", ["a", "b", "c"]).await;
    let query = format!("topic=orders&{LONG}&lastEventId={cursor}");
    let polled = gateway.poll(&query).answer().await;
    polled.is_gap("retention", &["orders"]);
    let query = format!("topic=orders&{LONG}");
    let polled = gateway.poll(&query).after("garbage").answer().await;
    polled.is_gap("unknown", &["orders"]);
}

#[tokio::test]
async fn the_end_of_all_topics_ends_the_wait() {
    let gateway = Gateway::start().await;
    let poller = gateway.poller("a,b").await;
    gateway.finish("a", None).await;
    let mut poller = poller;
    // The end of one topic may be told for itself.
    let first = poller.once("wait=500ms").await;
    assert!(first.ended.is_empty() || first.ended == ["a"], "{first:?}");
    let waiting = poller.poll(LONG).begin().await;
    gateway.has_places_taken(1).await;
    gateway.finish("b", None).await;
    let polled = waiting.answer().await;
    polled.is_complete();
    assert!(polled.ended.contains(&"b".to_owned()), "{polled:?}");
    gateway.has_places_taken(0).await;
}

/// A topic that is born again under a poll that waits.
#[tokio::test]
async fn a_topic_that_an_operator_deletes_is_no_silence() {
    let gateway = Gateway::start().await;
    let cursor = gateway.poller("orders").await.cursor;
    gateway.publish_all("orders", ["a", "b"]).await;
    let waiting = gateway.poll(&format!("topic=other&{LONG}")).begin().await;
    gateway.counts("tidegate_waiting_polls", &[], 1).await;
    let delete = Request::new("DELETE", "/admin/topics/orders");
    assert_eq!(gateway.ask_admin(delete).await.status(), 200);
    // What was taken away is told to whoever had not read it. The feed brings it: until then the tail still has it.
    eventually("the gap", async || {
        let mut poller = Poller::from(gateway.public, "orders", &cursor);
        let polled = poller.once("wait=1s").await;
        match &*polled.replay {
            "gap" => Ok(()),
            _ => Err(format!("{polled:?}")),
        }
    })
    .await;
    gateway.publish("other", "c").await;
    assert_eq!(waiting.answer().await.data(), ["c"]);
}

#[tokio::test]
async fn a_place_comes_back_however_a_client_leaves() {
    let gateway = Gateway::start().await;
    let request = Request::get(&format!("/poll?topic=orders&{LONG}")).bytes(gateway.public);

    let mut closes = gateway.connect().await;
    closes.send(&request).await;
    gateway.has_places_taken(1).await;
    drop(closes);
    gateway.has_places_taken(0).await;

    let mut resets = TcpStream::connect(gateway.public).await.unwrap();
    resets.write_all(&request).await.unwrap();
    gateway.has_places_taken(1).await;
    resets.set_zero_linger().unwrap();
    drop(resets);
    gateway.has_places_taken(0).await;

    let mut early = gateway.connect().await;
    early.send(&request).await;
    drop(early);
    gateway.publish("orders", "passes").await;
    gateway.has_seen_all_leave().await;
    gateway.has_places_taken(0).await;
    gateway.has_open_streams(0).await;
}

/// Whoever asks for the next before the first is answered waits in line, and takes one place at a time.
#[tokio::test]
async fn polls_on_one_connection_are_answered_in_order() {
    let gateway = Gateway::start().await;
    let cursor = gateway.poller("a,b").await.cursor;
    let request = |topic: &str| {
        let target = format!("/poll?topic={topic}&{LONG}&lastEventId={cursor}");
        Request::get(&target).bytes(gateway.public)
    };
    let mut connection = gateway.connect().await;
    connection.send(request("a")).await;
    connection.send(request("b")).await;
    gateway.has_places_taken(1).await;
    gateway.publish("b", "second").await;
    gateway.publish("a", "first").await;
    for (topic, data) in [("a", "first"), ("b", "second")] {
        let polled = Polled::of(&connection.response().await);
        assert_eq!(polled.data(), [data], "{topic}");
    }
    gateway.has_places_taken(0).await;
}

/// A hundred that wait are a hundred cursors, and each gets its own.
#[tokio::test]
async fn many_that_wait_slow_nobody_and_all_are_answered() {
    const MANY: usize = 400;
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let cursor = gateway.poller("orders,many").await.cursor;
    let mut waiting = Vec::with_capacity(MANY);
    while waiting.len() < MANY {
        let some = (waiting.len()..waiting.len() + 50).map(|number| {
            let topics = ["many", "orders,many"][number % 2];
            let query = format!("topic={topics}&{LONG}&lastEventId={cursor}");
            gateway.poll(&query).begin()
        });
        waiting.extend(join_all(some).await);
        let places = u32::try_from(waiting.len()).unwrap() + 1;
        gateway.has_places_taken(places).await;
    }
    // Half of them follow what the reader follows; the others sleep on.
    gateway.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    for (number, waiting) in waiting.iter_mut().enumerate() {
        if number % 2 == 1 {
            let polled = Polled::of(&waiting.response().await);
            assert_eq!(polled.data(), ["a"]);
        }
    }
    gateway
        .has_places_taken(u32::try_from(MANY / 2).unwrap() + 1)
        .await;
    gateway.publish("many", "b").await;
    for (number, waiting) in waiting.into_iter().enumerate() {
        if number % 2 == 0 {
            assert_eq!(waiting.answer().await.data(), ["b"]);
        }
    }
    gateway.has_places_taken(1).await;
    reader.stays_silent().await;
}

/// An answer that nobody reads takes no more than what the socket holds, and its place is given back in time.
#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_given_up() {
    let gateway = Gateway::with("stream.write_timeout", "500ms").start().await;
    let large = "x".repeat(60_000);
    gateway.publish_lines("orders", vec![&large; 150]).await;
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let mut connection = Connection::open_narrow(gateway.public).await;
        let request = Request::get("/poll?topic=orders&limit=1000&wait=0s&lastEventId=earliest");
        connection.send(request.bytes(gateway.public)).await;
        stuck.push(connection);
    }
    let polled = gateway.poll("topic=orders&last=1&wait=0s").answer().await;
    assert!(polled.data() == [large.as_str()], "others are served");
    // All of them have had their places.
    let answered = "http_request_duration_seconds_count";
    gateway.counts(answered, &["route=\"/poll\""], 6).await;
    gateway.has_places_taken(0).await;
    drop(stuck);
}

/// With the events in the answer and its cursor in hand, nobody has to stay.
#[tokio::test]
async fn the_answer_is_whole_when_the_client_only_stops_sending() {
    let gateway = Gateway::start().await;
    let mut connection = gateway.connect().await;
    let request = Request::get(&format!("/poll?topic=orders&{LONG}")).header("Connection", "close");
    connection.send(request.bytes(gateway.public)).await;
    // It takes its place before it is known from where on it waits.
    gateway.counts("tidegate_waiting_polls", &[], 1).await;
    gateway.publish("orders", "a").await;
    let polled = Polled::of(&connection.response().await);
    assert_eq!(polled.data(), ["a"]);
    assert!(connection.rest().await.is_empty(), "it was asked to close");
    gateway.has_places_taken(0).await;
}

/// HTTP/1.0 has no chunks; a poll is an answer like any other.
#[tokio::test]
async fn a_client_of_http_1_0_polls() {
    let gateway = Gateway::start().await;
    gateway.publish("orders", "a").await;
    let mut connection = gateway.connect().await;
    let host = gateway.public;
    let request = format!("GET /poll?topic=orders&last=1 HTTP/1.0\r\nHost: {host}\r\n\r\n");
    connection.send(request).await;
    let answer = connection.response().await;
    assert!(!answer.head.chunked(), "{answer:?}");
    assert_eq!(Polled::of(&answer).data(), ["a"]);
}

/// What a client does while it waits is its own affair, as long as it is little.
#[tokio::test]
async fn a_client_that_talks_while_it_waits_does_not_grow_the_gateway() {
    let gateway = Gateway::start().await;
    let request = Request::get(&format!("/poll?topic=orders&{LONG}")).bytes(gateway.public);
    let mut noisy = gateway.connect().await;
    noisy.send(&request).await;
    gateway.has_places_taken(1).await;
    let talk = async {
        let junk = "x".repeat(64 * 1024);
        for _ in 0..1_000 {
            if noisy.try_send_patiently(&junk).await.is_err() {
                break;
            }
        }
    };
    // Either the connection is closed, or it is not read on and its sender stands still.
    let _ = tokio::time::timeout(SILENCE, talk).await;
    assert_eq!(gateway.get("/health").await.status(), 200);
    drop(noisy);
    gateway.publish("orders", "a").await;
    gateway.has_places_taken(0).await;
}

/// As for a stream: an answer in time, then the end of the process.
#[tokio::test]
async fn a_stopped_gateway_answers_who_waits() {
    let gateway = Gateway::start().await;
    let poller = gateway.poller("orders").await;
    let waiting = poller.poll(LONG).begin().await;
    gateway.has_places_taken(1).await;
    let (exit, polled) = tokio::join!(gateway.stop(PATIENCE), waiting.answer());
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
    polled.is_complete();
    assert!(polled.events.is_empty(), "{polled:?}");
}

/// One connection of HTTP/2 carries many that wait, and each is answered for itself.
#[tokio::test]
async fn many_wait_on_one_connection_of_http_2() {
    const MANY: u32 = 60;
    let gateway = Gateway::start().await;
    let mut client = H2Client::open(gateway.public).await;
    for number in 0..MANY {
        let target = format!("/poll?topic=t/{number}&wait=60s");
        let request = client.request(2 * number + 1, &target, &[]);
        assert!(client.send(request).await);
    }
    // Each takes its place before it is known from where on it waits.
    gateway.counts("tidegate_waiting_polls", &[], MANY).await;
    for number in (0..MANY).rev() {
        gateway
            .publish(&format!("t/{number}"), &number.to_string())
            .await;
    }
    let mut answered = std::collections::BTreeMap::new();
    while answered.len() < MANY as usize {
        let frame = client.frame().await;
        // DATA.
        if frame.kind == 0 && !frame.payload.is_empty() {
            let json: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap();
            answered.insert(frame.stream, json["events"][0]["data"].clone());
        }
    }
    for number in 0..MANY {
        assert_eq!(answered[&(2 * number + 1)], number.to_string());
    }
    gateway.has_places_taken(0).await;
}
