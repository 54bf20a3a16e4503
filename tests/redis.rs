//! Replicas that share a log in Redis are one gateway: whatever was published on one is followed, resumed and repeated on any.

pub(crate) mod access;
mod away;
mod between;
mod foreign;
mod listing;
mod lost;
mod operators;
mod repair;

use serde_json::json;
use tidegate::event::EventId;
use tokio::task::JoinSet;

use crate::support::{
    Gateway, RedisServer, Request, Settings, Subscriber, Subscription, eventually, id, numbers,
};

/// A replica that has not been started yet.
fn settings(redis: &RedisServer) -> Settings {
    Gateway::settings().env("REDIS_URL", &redis.url())
}

/// Starts a replica and waits until it has met its Redis.
async fn ready(settings: Settings) -> Gateway {
    let gateway = settings.start().await;
    is_healthy(&gateway).await;
    gateway
}

/// A replica that serves from this Redis, with settings of its own.
pub(crate) async fn replica_of(settings: Settings, redis: &RedisServer) -> Gateway {
    ready(settings.env("REDIS_URL", &redis.url())).await
}

/// A replica that serves from this Redis.
pub(crate) async fn replica(redis: &RedisServer) -> Gateway {
    ready(settings(redis)).await
}

/// So many of them.
async fn replicas<const COUNT: usize>(redis: &RedisServer) -> [Gateway; COUNT] {
    let all = futures_util::future::join_all((0..COUNT).map(|_| replica(redis))).await;
    all.try_into()
        .unwrap_or_else(|_| panic!("{COUNT} replicas"))
}

/// Waits until the gateway says that all is well.
pub(crate) async fn is_healthy(gateway: &Gateway) {
    eventually("the gateway to be healthy", async || {
        let answer = gateway.get("/health").await;
        match answer.status() {
            200 => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
}

/// Waits until the gateway is healthy and takes events, after its Redis was away.
pub(crate) async fn is_back(gateway: &Gateway) {
    is_healthy(gateway).await;
    let probe = json!({"topic": "probe", "data": ""}).to_string();
    eventually("the gateway to take events", async || {
        let answer = gateway.post(&probe).await;
        match answer.status() {
            200 => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
}

/// Waits until this replica has heard of everything that was stored: the feed brings it a moment after it was acknowledged.
async fn is_up_to_date(gateway: &Gateway) {
    // Whoever follows something from now on begins behind all of that.
    drop(gateway.subscribe("anything").await);
}

/// The data of a gap at the opening.
pub(crate) fn is_gap(reader: &Subscriber, reason: &str) {
    let data = reader.open_data();
    assert_eq!(data["replay"], "gap", "{data}");
    assert_eq!(data["reason"], reason, "{data}");
}

#[tokio::test]
async fn what_is_published_on_one_replica_is_followed_on_every_other() {
    let redis = RedisServer::start().await;
    let [a, b, c] = replicas(&redis).await;
    let mut readers = [
        a.subscribe("orders").await,
        b.subscribe("orders").await,
        c.subscribe("orders").await,
    ];
    let mut wanted = Vec::new();
    for (number, gateway) in [&a, &b, &c, &c, &a].into_iter().enumerate() {
        let data = number.to_string();
        wanted.push((gateway.publish("orders", &data).await, data));
    }
    for reader in &mut readers {
        for (stored, data) in &wanted {
            let event = reader.next().await;
            assert_eq!((&event.id, &event.data), (stored, data));
        }
        reader.stays_silent().await;
    }
}

/// Whoever publishes on different replicas at once does so in some order, and it is the same for all.
#[tokio::test]
async fn every_subscriber_sees_the_same_order() {
    const EACH: usize = 200;
    let redis = RedisServer::start().await;
    let [a, b, c] = replicas(&redis).await;
    let mut readers = [
        a.subscribe("x,y").await,
        b.subscribe("x,y").await,
        c.subscribe("x,y").await,
    ];
    let publish = async |gateway: &Gateway, topic: &str| {
        for piece in numbers(0..EACH).chunks(5) {
            gateway
                .publish_all(topic, piece.iter().map(String::as_str))
                .await;
        }
    };
    tokio::join!(publish(&a, "x"), publish(&b, "x"), publish(&c, "y"));
    let mut first: Vec<EventId> = Vec::new();
    for reader in &mut readers {
        let mut ids = Vec::new();
        for _ in 0..3 * EACH {
            ids.push(reader.next().await.id);
        }
        assert!(
            ids.windows(2).all(|two| two[0] < two[1]),
            "in the order of ids"
        );
        if first.is_empty() {
            first.clone_from(&ids);
        }
        assert_eq!(first, ids);
        reader.stays_silent().await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_read_on_another_replica_at_once() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let _follows = b.subscribe("orders").await;
    for number in 0..100 {
        let data = number.to_string();
        let acknowledged = a.publish("orders", &data).await;
        let mut reader = b.events("topic=orders&last=1").open().await;
        let event = reader.next().await;
        assert_eq!((event.id, event.data), (acknowledged, data));
    }
}

#[tokio::test]
async fn a_subscriber_goes_on_at_another_replica_where_it_left() {
    let redis = RedisServer::start().await;
    let gateways: [Gateway; 3] = replicas(&redis).await;
    let mut reader = gateways[0].subscribe("orders").await;
    let mut wanted = 0;
    for round in 0..30 {
        let data = numbers(round * 4..round * 4 + 4);
        let publisher = &gateways[(round + 1) % 3];
        publisher
            .publish_all("orders", data.iter().map(String::as_str))
            .await;
        // It leaves in the middle of what there is.
        let count = 1 + round % 4;
        assert_eq!(reader.take(count).await, numbers(wanted..wanted + count));
        wanted += count;
        let cursor = reader.cursor();
        drop(reader);
        reader = gateways[(round + 2) % 3].resume("orders", &cursor).await;
        assert_eq!(reader.replay(), "complete");
        assert_eq!(reader.start(), id(&cursor));
    }
    assert_eq!(reader.take(120 - wanted).await, numbers(wanted..120));
    reader.stays_silent().await;
}

/// The race between history and live, with a change of replicas at each return.
#[tokio::test]
async fn who_returns_elsewhere_while_events_are_published_gets_each_once() {
    const EVENTS: usize = 1_500;
    let redis = RedisServer::start().await;
    let gateways: [Gateway; 3] = replicas(&redis).await;
    let mut readers = JoinSet::new();
    for (which, stride) in [1_usize, 7, 40].into_iter().enumerate() {
        let first = gateways[which].subscribe("orders").await;
        let addresses = [0, 1, 2].map(|at| gateways[at].public);
        readers.spawn(async move {
            let (mut reader, mut seen, mut rounds) = (first, Vec::new(), which);
            while seen.len() < EVENTS {
                let stride = if rounds < 60 { stride } else { 50 };
                seen.extend(reader.take(stride.min(EVENTS - seen.len())).await);
                rounds += 1;
                let cursor = reader.cursor();
                drop(reader);
                reader = Subscription::new(addresses[rounds % 3], "topic=orders")
                    .header("Last-Event-ID", &cursor)
                    .open()
                    .await;
                assert_eq!(reader.replay(), "complete");
            }
            reader.stays_silent().await;
            seen
        });
    }
    let all = numbers(0..EVENTS);
    for (at, piece) in all.chunks(10).enumerate() {
        gateways[at % 3]
            .publish_all("orders", piece.iter().map(String::as_str))
            .await;
    }
    for seen in readers.join_all().await {
        assert_eq!(seen, all);
    }
}

#[tokio::test]
async fn one_cursor_resumes_many_topics_at_another_replica() {
    let redis = RedisServer::start().await;
    let [a, b, c] = replicas(&redis).await;
    let mut reader = a.subscribe("a,b,c").await;
    let publish = async |range: std::ops::Range<usize>| {
        for number in range {
            let gateway = [&a, &b][number % 2];
            gateway
                .publish(["a", "b", "c"][number % 3], &number.to_string())
                .await;
        }
    };
    publish(0..30).await;
    assert_eq!(reader.take(10).await, numbers(0..10));
    let cursor = reader.cursor();
    drop(reader);
    publish(30..60).await;
    for gateway in [&b, &c] {
        let mut reader = gateway.resume("a,b,c", &cursor).await;
        assert_eq!(reader.replay(), "complete");
        assert_eq!(reader.take(50).await, numbers(10..60));
        reader.stays_silent().await;
    }
    let mut others = c.resume("b,other", &cursor).await;
    let wanted = (10..60)
        .filter(|number| number % 3 == 1)
        .map(|number| number.to_string());
    others.replays(wanted).await;
}

/// The browser holds the cursor of `$open` from the first moment, and it is as good elsewhere.
#[tokio::test]
async fn who_drops_before_the_first_event_misses_nothing_elsewhere() {
    let redis = RedisServer::start().await;
    let [a, b, c] = replicas(&redis).await;
    for round in 0..5 {
        let cursor = a.subscribe("orders,never").await.cursor();
        let data = numbers(round * 2..round * 2 + 2);
        b.publish_all("orders", data.iter().map(String::as_str))
            .await;
        let mut reader = c.resume("orders,never", cursor).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays(data).await;
    }
}

#[tokio::test]
async fn the_cursor_of_a_log_without_events_resumes_it_elsewhere() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let cursor = a.subscribe("orders").await.cursor();
    let again = b.resume("orders", &cursor).await;
    assert_eq!(again.replay(), "complete");
    b.publish("orders", "first").await;
    let mut reader = b.resume("orders", &cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["first"]).await;
}

/// While a topic is quiet its cursor is moved by what others publish, here by another replica in a topic that nobody follows.
#[tokio::test]
async fn a_quiet_topic_keeps_its_place_while_others_are_busy() {
    let redis = RedisServer::start().await;
    let limits = |settings: Settings| {
        settings
            .with("stream.keepalive", "200ms")
            .with("retention.events", 5)
    };
    let a = ready(limits(settings(&redis))).await;
    let b = ready(limits(settings(&redis))).await;
    let mut reader = a.subscribe("quiet").await;
    let opened = reader.start();
    let mut last = EventId::ZERO;
    for number in 0..300 {
        last = b.publish("busy", &number.to_string()).await;
    }
    let checkpoint = loop {
        let frame = reader.frame().await;
        if frame.event.as_deref() == Some("$cursor") {
            let checkpoint = id(frame.id.as_deref().unwrap());
            assert!(
                opened < checkpoint && checkpoint <= last,
                "never beyond what was stored"
            );
            if checkpoint == last {
                break checkpoint;
            }
        }
    };
    drop(reader);
    b.publish("quiet", "at last").await;
    let mut elsewhere = b.resume("quiet", checkpoint).await;
    assert_eq!(elsewhere.replay(), "complete");
    elsewhere.replays(["at last"]).await;
    let mut before = b.resume("quiet", opened).await;
    assert_eq!(
        before.replay(),
        "complete",
        "its own topic had nothing else"
    );
    before.replays(["at last"]).await;
}

#[tokio::test]
async fn a_cursor_from_the_future_is_unknown_on_every_replica() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let newest = a.publish("orders", "a").await;
    for gateway in [&a, &b] {
        for cursor in [
            newest.next(),
            EventId::new(newest.ms() + 3_600_000, 0),
            EventId::MAX,
        ] {
            let mut reader = gateway.resume("orders", cursor).await;
            is_gap(&reader, "unknown");
            assert_eq!(reader.start(), newest, "the frontier: {cursor}");
            reader.stays_silent().await;
        }
        let unreadable = gateway.resume("orders", "garbage").await;
        is_gap(&unreadable, "unknown");
    }
}

/// A replica lags by as long as a message takes. Whoever comes with what another has shown a moment ago is no liar.
#[tokio::test]
async fn a_cursor_that_a_replica_has_not_reached_yet_is_not_called_future() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let followed = b.subscribe("followed").await;
    for number in 0..150 {
        // One that the replica follows, one that it does not, one that it has never heard of.
        let new = format!("new/{number}");
        let topic = ["followed", "orders", &new][number % 3];
        let stored = a.publish(topic, &number.to_string()).await;
        let mut reader = b.resume(topic, stored).await;
        assert_eq!(reader.replay(), "complete", "{topic} {number}");
        assert_eq!(reader.start(), stored);
        if number % 30 == 0 {
            reader.stays_silent().await;
        }
    }
    drop(followed);
}

#[tokio::test]
async fn history_is_asked_for_on_any_replica() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut ids = Vec::new();
    for data in ["a", "b", "c", "d"] {
        ids.push(a.publish("orders", data).await);
        a.passes_millisecond_of(*ids.last().unwrap()).await;
    }
    for (query, wanted) in [
        ("lastEventId=earliest", &["a", "b", "c", "d"][..]),
        ("lastEventId=0-0", &["a", "b", "c", "d"]),
        (&format!("since={}", ids[2].ms()), &["c", "d"]),
        ("since=1h", &["a", "b", "c", "d"]),
        ("last=3", &["b", "c", "d"]),
        ("last=1000", &["a", "b", "c", "d"]),
        ("last=0", &[]),
        ("since=2999-01-01T00:00:00Z", &[]),
    ] {
        let mut reader = b.events(&format!("topic=orders&{query}")).open().await;
        assert_eq!(reader.replay(), "none", "{query}");
        if wanted.is_empty() {
            reader.stays_silent().await;
        } else {
            reader.replays(wanted).await;
        }
    }
    a.publish("other", "e").await;
    let mut both = b.events("topic=orders,other&last=2").open().await;
    both.replays(["d", "e"]).await;
    let mut none = b.events("topic=never&lastEventId=earliest").open().await;
    none.replays([""; 0]).await;
}

#[tokio::test]
async fn a_topic_that_ends_on_one_replica_ends_on_all() {
    let redis = RedisServer::start().await;
    let [a, b, c] = replicas(&redis).await;
    let mut reader = b.subscribe("orders").await;
    let first = a.publish("orders", "first").await;
    let last = a.finish("orders", Some("last")).await;
    assert_eq!(reader.take(2).await, ["first", "last"]);
    let end = id(reader.control("$end").await.id.as_deref().unwrap());
    assert!(end > last);
    assert!(reader.rest().await.is_empty());
    for gateway in [&a, &b, &c] {
        let mut late = gateway.resume("orders", first).await;
        assert_eq!(late.replay(), "complete");
        assert_eq!(late.next().await.data, "last");
        late.control("$end").await;
        assert!(late.rest().await.is_empty());
        let header = |cursor: EventId| {
            Request::get("/events?topic=orders").header("Last-Event-ID", &cursor.to_string())
        };
        assert_eq!(
            gateway.ask(header(end)).await.status(),
            204,
            "a browser is told to stop"
        );
        let mut before = gateway.resume("orders", last).await;
        before.control("$end").await;
        let body = json!({"topic": "orders", "data": "more"}).to_string();
        gateway.post(body).await.refuses(409, "topic_finished");
    }
}

#[tokio::test]
async fn a_repetition_on_another_replica_is_answered_with_the_same_id() {
    let redis = RedisServer::start().await;
    let [a, b, c] = replicas(&redis).await;
    let mut reader = c.subscribe("orders").await;
    let item = json!({"topic": "orders", "event": "created", "data": {"n": 1}, "key": "k"});
    let first = a.post(item.to_string()).await;
    assert_eq!(first.status(), 200, "{first:?}");
    for gateway in [&b, &c, &a] {
        let again = gateway.post(item.to_string()).await;
        assert_eq!(again.status(), 200, "{again:?}");
        assert_eq!(again.json()["id"], first.json()["id"]);
        assert_eq!(again.json()["duplicate"], true);
    }
    let other = json!({"topic": "orders", "event": "created", "data": {"n": 2}, "key": "k"});
    b.post(other.to_string())
        .await
        .refuses(409, "idempotency_mismatch");
    assert_eq!(reader.take(1).await, [r#"{"n":1}"#]);
    reader.stays_silent().await;
}

/// Two repetitions at the same moment are no race, wherever they arrive.
#[tokio::test]
async fn repetitions_at_once_on_many_replicas_store_one_event() {
    let redis = RedisServer::start().await;
    let gateways: [Gateway; 3] = replicas(&redis).await;
    for round in 0..10 {
        let batch = json!([
            {"topic": "orders", "data": "a", "key": format!("{round}-a")},
            {"topic": "orders", "data": "b"},
            {"topic": "other", "data": "c", "key": format!("{round}-c")},
        ]);
        let body = batch.to_string();
        let asked = (0..6).map(|at| gateways[at % 3].post(&body));
        let answers = futures_util::future::join_all(asked).await;
        for item in [0, 2] {
            let results: Vec<_> = answers
                .iter()
                .map(|answer| answer.json()["results"][item].clone())
                .collect();
            let fresh = results
                .iter()
                .filter(|result| result.get("duplicate").is_none());
            assert_eq!(fresh.count(), 1, "{results:?}");
            assert!(
                results
                    .iter()
                    .all(|result| result["id"] == results[0]["id"]),
                "{results:?}"
            );
        }
    }
    let mut all = gateways[0]
        .events("topic=orders,other&lastEventId=earliest")
        .open()
        .await;
    let data = all.replayed().await;
    let count = |wanted: &str| data.iter().filter(|&data| data == wanted).count();
    assert_eq!([count("a"), count("b"), count("c")], [10, 60, 10]);
}

#[tokio::test]
async fn twenty_thousand_missed_events_come_from_a_replica_that_has_none_of_them() {
    const EVENTS: usize = 20_000;
    let redis = RedisServer::start().await;
    let a = ready(settings(&redis).with("retention.events", 30_000)).await;
    let cursor = a.subscribe("orders").await.cursor();
    a.publish_lines("orders", numbers(0..EVENTS)).await;
    let b = ready(settings(&redis).with("retention.events", 30_000)).await;
    for gateway in [&a, &b] {
        let mut reader = gateway.resume("orders", &cursor).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays(numbers(0..EVENTS)).await;
    }
}

/// The log outlives every process that serves it.
#[tokio::test]
async fn a_replica_that_starts_anew_goes_on_with_the_same_log() {
    let redis = RedisServer::start().await;
    let old = replica(&redis).await;
    let mut reader = old.subscribe("orders").await;
    old.publish_all("orders", ["a", "b"]).await;
    assert_eq!(reader.take(1).await, ["a"]);
    let cursor = reader.cursor();
    old.stop(crate::support::PATIENCE).await;
    let new = replica(&redis).await;
    new.publish("orders", "c").await;
    let mut reader = new.resume("orders", &cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["b", "c"]).await;
}

/// Events may be of any size that is allowed, also many of them at once, also on a page that is read for many.
#[tokio::test]
async fn large_events_arrive_whole_live_and_from_the_store() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut live = b.subscribe("orders").await;
    let cursor = live.cursor();
    let data: Vec<String> = (0..60_usize)
        .map(|number| format!("{number} {}\r\n\n🌊", "x".repeat(number * 1_000)))
        .collect();
    a.publish_lines("orders", &data).await;
    let wanted: Vec<String> = data.iter().map(|data| data.replace("\r\n", "\n")).collect();
    assert_eq!(live.take(60).await, wanted);
    let c = replica(&redis).await;
    let mut readers = JoinSet::new();
    for _ in 0..5 {
        let (address, cursor, wanted) = (c.public, cursor.clone(), wanted.clone());
        readers.spawn(async move {
            let query = "topic=orders,other";
            let mut reader = Subscription::new(address, query)
                .header("Last-Event-ID", &cursor)
                .open()
                .await;
            reader.replays(wanted).await;
        });
    }
    readers.join_all().await;
}

#[tokio::test]
async fn what_retention_took_is_told_on_every_replica() {
    let redis = RedisServer::start().await;
    let limits = |settings: Settings| {
        settings
            .with("retention.events", 100)
            .with("tail.events", 50)
    };
    let a = ready(limits(settings(&redis))).await;
    let b = ready(limits(settings(&redis))).await;
    let old = a.subscribe("orders").await.cursor();
    // Left behind, it would have a page read that tells of more than there is in the end.
    a.has_open_streams(0).await;
    let quiet = b.publish("quiet", "x").await;
    let mut ids = Vec::new();
    for piece in numbers(0..1_000).chunks(100) {
        ids.extend(
            a.publish_all("orders", piece.iter().map(String::as_str))
                .await,
        );
    }
    for gateway in [&a, &b] {
        is_up_to_date(gateway).await;
        let mut reader = gateway.resume("orders", &old).await;
        is_gap(&reader, "retention");
        assert_eq!(reader.start(), id(&old));
        let rest = reader.replayed_through("999").await;
        assert!(
            (100..200).contains(&rest.len()),
            "a node more at the most: {}",
            rest.len()
        );
        assert_eq!(rest, numbers(1_000 - rest.len()..1_000));
        let mut reader = gateway.resume("orders", ids[900]).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays(numbers(901..1_000)).await;
        let reader = gateway.resume("quiet", quiet).await;
        assert_eq!(
            reader.replay(),
            "complete",
            "what is complete is never a gap"
        );
        let reader = gateway
            .events("topic=orders&lastEventId=earliest")
            .open()
            .await;
        assert_eq!(reader.replay(), "none");
    }
}

/// What a replica read for somebody a moment ago is no proof of what is still there: Redis tells nobody what retention takes.
#[tokio::test]
async fn a_verdict_is_not_made_of_what_was_read_before_retention_took_it() {
    let redis = RedisServer::start().await;
    let limits = settings(&redis)
        .with("retention.events", 100)
        .with("tail.events", 10);
    let gateway = ready(limits).await;
    let old = gateway.publish("orders", "old").await;
    let publish = async |count: usize| {
        for piece in numbers(0..count).chunks(100) {
            let piece = piece.iter().map(String::as_str);
            gateway.publish_all("orders", piece).await;
        }
    };
    publish(50).await;
    let reader = gateway.resume("orders", old).await;
    assert_eq!(reader.replay(), "complete");
    publish(500).await;
    is_up_to_date(&gateway).await;
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let mut reader = gateway.resume("orders", old).await;
    is_gap(&reader, "retention");
    // Nor does what it had read come after it was told to be gone.
    let rest = reader.replayed_through("499").await;
    assert!((100..200).contains(&rest.len()), "{rest:?}");
    assert_eq!(rest, numbers(500 - rest.len()..500));
}

/// Somebody made room by hand. A replica that has no tail of the topic has nothing but the store to go by.
#[tokio::test]
async fn what_was_trimmed_by_hand_is_told() {
    for command in [&["XTRIM", "MINID"][..], &["DEL"], &["XDEL"]] {
        let redis = RedisServer::start().await;
        let a = replica(&redis).await;
        let cursor = a.subscribe("orders").await.cursor();
        let ids = a.publish_all("orders", ["a", "b", "c", "d"]).await;
        let stream = "tidegate:{0}:topic:orders";
        let third = ids[2].to_string();
        let (words, left): (Vec<&str>, &[&str]) = match command {
            ["XTRIM", by] => (vec!["XTRIM", stream, by, &third], &["c", "d"]),
            ["XDEL"] => (vec!["XDEL", stream, &third], &["a", "b", "d"]),
            _ => (vec!["DEL", stream], &[]),
        };
        redis.command(&words).await;
        let b = replica(&redis).await;
        let mut reader = b.resume("orders", &cursor).await;
        if command == ["XDEL"] {
            // The hole is in the middle, so it is told in the middle.
            assert_eq!(reader.take(2).await, ["a", "b"]);
            let gap = reader.control("$gap").await;
            assert!(gap.data.unwrap().contains("retention"));
            assert_eq!(reader.take(1).await, ["d"]);
        } else {
            is_gap(&reader, "retention");
            assert_eq!(reader.replayed().await, left, "{command:?}");
        }
        let last = b.resume("orders", ids[3]).await;
        assert_eq!(
            last.replay(),
            "complete",
            "{command:?}: the last id outlives the events"
        );
        a.publish("orders", "e").await;
        assert_eq!(reader.take(1).await, ["e"]);
        let mut last = b.resume("orders", ids[3]).await;
        assert_eq!(last.replay(), "complete", "{command:?}");
        last.replays(["e"]).await;
    }
}

/// Retention does not wait for a reader that does not read; when it reads on, the hole is told where it is.
#[tokio::test]
async fn retention_that_overtakes_a_connected_reader_is_told_in_the_stream() {
    const EVENTS: usize = 600;
    let redis = RedisServer::start().await;
    let limits = |settings: Settings| {
        settings
            .with("retention.events", 20)
            .with("tail.events", 20)
    };
    let a = ready(limits(settings(&redis))).await;
    let b = ready(limits(settings(&redis))).await;
    let mut reader = b.events("topic=orders").narrow().open().await;
    let large = "x".repeat(60_000);
    a.publish_lines(
        "orders",
        (0..EVENTS).map(|number| format!("{number} {large}")),
    )
    .await;
    let (mut wanted, mut told, mut holes) = (0, false, 0);
    while wanted < EVENTS {
        let frame = reader.telling_frame().await;
        match frame.event.as_deref() {
            Some("$gap") => {
                assert_eq!(frame.id, None, "a gap does not move the cursor");
                assert!(frame.data.unwrap().contains("retention"));
                told = true;
            }
            Some(kind) => panic!("{kind}"),
            None => {
                let data = frame.data.unwrap();
                let number: usize = data.split(' ').next().unwrap().parse().unwrap();
                assert!(number >= wanted, "{number} came after {wanted} was due");
                assert_eq!(
                    number > wanted,
                    told,
                    "told {told}: {number} where {wanted} was due"
                );
                holes += usize::from(told);
                (wanted, told) = (number + 1, false);
            }
        }
    }
    assert!(holes > 0, "the test wants a hole");
}

/// A replica that keeps events for this long, until [`keeps_for_an_hour`].
async fn keeping_for(age: &str, redis: &RedisServer) -> Gateway {
    ready(settings(redis).config(&format!("retention: {{age: {age}}}\n"))).await
}

/// What is published now stays, however slow the test is.
async fn keeps_for_an_hour<const COUNT: usize>(redis: &RedisServer, gateways: [&Gateway; COUNT]) {
    for gateway in gateways {
        gateway.reload("retention: {age: 1h}\n").await;
    }
    eventually("the settings of the log to be written", async || {
        let retention = ["HGET", "tidegate:{0}:meta", "retention"];
        let retention = redis.command(&retention).await.text();
        if retention.contains("\"age\":3600000,") {
            Ok(())
        } else {
            Err(retention)
        }
    })
    .await;
}

/// Waits until this replica has nothing of a topic any more, neither from the store nor in memory.
async fn has_nothing_of(gateway: &Gateway, topic: &str) {
    // What it has not heard of yet would not be there either.
    is_up_to_date(gateway).await;
    eventually("the events to age out", async || {
        let query = format!("topic={topic}&lastEventId=earliest");
        match gateway.events(&query).open().await.replayed().await {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        }
    })
    .await;
}

/// The age of an event takes it away, too; the cursor that has seen it is complete all the same, and so is one that is younger.
#[tokio::test]
async fn what_has_aged_out_is_told_only_to_those_who_miss_something() {
    let redis = RedisServer::start().await;
    let a = keeping_for("400ms", &redis).await;
    let b = keeping_for("400ms", &redis).await;
    let _follows = a.subscribe("orders").await;
    let before = a.subscribe("orders").await.cursor();
    let last = a.publish_all("orders", ["a", "b"]).await[1];
    for gateway in [&a, &b] {
        has_nothing_of(gateway, "orders").await;
        let reader = gateway.resume("orders", &before).await;
        is_gap(&reader, "retention");
        let reader = gateway.resume("orders", last).await;
        assert_eq!(reader.replay(), "complete");
    }
    keeps_for_an_hour(&redis, [&a, &b]).await;
    a.publish("orders", "c").await;
    for gateway in [&a, &b] {
        let mut reader = gateway.resume("orders", last).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays(["c"]).await;
        let mut reader = gateway.resume("orders", &before).await;
        is_gap(&reader, "retention");
        reader.replays(["c"]).await;
    }
}

/// After twice the longest age the last id of a topic is forgotten: then a cursor tells that is older than what was forgotten.
#[tokio::test]
async fn what_was_forgotten_altogether_is_told_and_nothing_else() {
    let redis = RedisServer::start().await;
    let a = keeping_for("150ms", &redis).await;
    let before = a.subscribe("orders").await.cursor();
    a.publish("orders", "a").await;
    eventually("the topic to be forgotten", async || {
        a.publish("busy", "x").await;
        let words = ["HEXISTS", "tidegate:{0}:last", "orders"];
        match redis.command(&words).await.integer() {
            0 => Ok(()),
            _ => Err("it is still known".to_owned()),
        }
    })
    .await;
    let after = a.publish("busy", "x").await;
    let b = keeping_for("150ms", &redis).await;
    is_gap(&b.resume("orders", &before).await, "retention");
    // It is still in memory for a moment where it was published.
    has_nothing_of(&a, "orders").await;
    for gateway in [&a, &b] {
        is_gap(&gateway.resume("orders", &before).await, "retention");
        let mut reader = gateway.resume("orders", after).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays([""; 0]).await;
    }
    keeps_for_an_hour(&redis, [&a, &b]).await;
    a.publish("orders", "b").await;
    for gateway in [&a, &b] {
        let mut reader = gateway.resume("orders", after).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays(["b"]).await;
    }
}

/// What is set in the gateway holds for whoever publishes past it, too.
#[tokio::test]
async fn settings_of_the_gateway_are_those_of_the_log() {
    let redis = RedisServer::start().await;
    let limits = |settings: Settings| {
        settings
            .with("limits.event_bytes", "1KiB")
            .with("publish.idempotency_window", "10s")
            .with("retention.age", "30s")
            .with("retention.events", 100)
            .file(
                "tidegate.yaml",
                "retention:\n  rules: [{prefix: audit/, events: 300, age: 60s}]\n",
            )
    };
    let gateway = ready(
        limits(settings(&redis))
            .argument("--config")
            .argument("tidegate.yaml"),
    )
    .await;
    let key = |name: &str| format!("tidegate:{{0}}:{name}");
    let large = "x".repeat(1_025);
    let keys = ["meta", "last", "heads", "topic:orders", "ch:orders"].map(key);
    let words: Vec<&str> = ["FCALL", "tidegate_publish", "5"]
        .into_iter()
        .chain(keys.iter().map(String::as_str))
        .chain(["", &large])
        .collect();
    let refused = redis.try_command(&words).await.unwrap();
    assert!(refused.text().starts_with("EVENT_TOO_LARGE "), "{refused}");
    for (topic, age, kept) in [("orders", 30_000, 100), ("audit/eu", 60_000, 300)] {
        gateway.publish_lines(topic, numbers(0..1_000)).await;
        let stream = key(&format!("topic:{topic}"));
        let left = redis.command(&["PTTL", &stream]).await.integer();
        assert!((age - 10_000..=age).contains(&left), "{topic}: {left}");
        let count = redis.command(&["XLEN", &stream]).await.integer();
        assert!((kept..kept + 100).contains(&count), "{topic}: {count}");
    }
    let keyed = json!({"topic": "orders", "data": "a", "key": "k"}).to_string();
    gateway.post(&keyed).await;
    let known = redis.command(&["KEYS", &key("idem:*")]).await;
    let left = redis
        .command(&["PTTL", &known.items()[0].text()])
        .await
        .integer();
    assert!((5_000..=10_000).contains(&left), "{left}");
    let stricter = ready(settings(&redis).with("limits.event_bytes", "2KiB")).await;
    let stored = redis.try_command(&words).await.unwrap();
    assert_eq!(
        stored.items()[1].text(),
        "stored",
        "the replica that started last has set it"
    );
    drop(stricter);
}

/// A name is a name, however much it looks like something else.
#[tokio::test]
async fn topics_may_be_named_as_they_like() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let long = "x".repeat(255);
    for name in [
        "meta",
        "last",
        "topic:a",
        "ch:a",
        "a:b/c.d-e",
        "a$",
        "0",
        "数据",
        "[a-z]?",
        "it's",
        "a\"b",
        &long,
    ] {
        let encoded = name.bytes().map(|byte| format!("%{byte:02X}"));
        let encoded = encoded.collect::<Vec<_>>().concat();
        let mut live = b.subscribe(&encoded).await;
        let cursor = live.cursor();
        a.publish(name, name).await;
        assert_eq!(live.take(1).await, [name]);
        let mut resumed = a.resume(&encoded, cursor).await;
        assert_eq!(resumed.replay(), "complete");
        resumed.replays([name]).await;
    }
}

#[tokio::test]
async fn thousands_of_topics_are_followed_at_once_and_again_after_a_cut() {
    const STREAMS: usize = 20;
    const TOPICS: usize = 100;
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let names =
        |stream: usize| (0..TOPICS).map(move |topic| format!("t{}", stream * TOPICS + topic));
    let opened = (0..STREAMS).map(|stream| {
        let list: Vec<_> = names(stream).collect();
        let list = list.join(",");
        let b = &b;
        async move { b.subscribe(&list).await }
    });
    let mut readers = futures_util::future::join_all(opened).await;
    for round in ["first", "after the cut"] {
        for piece in (0..STREAMS * TOPICS).collect::<Vec<_>>().chunks(500) {
            let items: Vec<_> = piece
                .iter()
                .map(|topic| json!({"topic": format!("t{topic}"), "data": round}))
                .collect();
            let answer = a.post(serde_json::to_string(&items).unwrap()).await;
            assert_eq!(answer.status(), 200, "{answer:?}");
        }
        for (stream, reader) in readers.iter_mut().enumerate() {
            let wanted: Vec<_> = names(stream).map(Some).collect();
            let mut got = Vec::new();
            for _ in 0..TOPICS {
                let event = reader.next().await;
                assert_eq!(event.data, round);
                got.push(event.topic);
            }
            assert_eq!(got, wanted);
        }
        let silent = readers.iter_mut().map(Subscriber::stays_silent);
        futures_util::future::join_all(silent).await;
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
}

/// One after another goes and is replaced while events are published; a client goes wherever it is sent.
#[tokio::test]
async fn a_rolling_deploy_loses_nothing() {
    let redis = RedisServer::start().await;
    let start = async || ready(settings(&redis).with("stream.retry", "10ms")).await;
    let publisher = replica(&redis).await;
    let mut fleet = vec![start().await, start().await, start().await];
    let mut reader = fleet[0].subscribe("orders,other").await;
    let (mut published, mut seen) = (0, Vec::new());
    let publish = async |count: usize, published: &mut usize| {
        for _ in 0..count {
            publisher.publish("orders", &published.to_string()).await;
            *published += 1;
        }
    };
    for round in 0..6 {
        publish(5, &mut published).await;
        // The oldest goes, and whoever is on it is told so; the client comes back on the next one.
        let old = fleet.remove(0);
        old.terminate();
        publish(5, &mut published).await;
        let mut drained = false;
        while let Some((frame, _)) = reader.frame_or_end().await {
            match frame.event.as_deref() {
                Some("$drain") => drained = true,
                Some("$live" | "$cursor") => {}
                Some(kind) => panic!("{round}: {kind}"),
                None => seen.extend(frame.data),
            }
        }
        assert!(drained, "{round}: it says goodbye");
        let cursor = reader.cursor();
        publish(3, &mut published).await;
        reader = fleet[0].resume("orders,other", &cursor).await;
        assert_eq!(reader.replay(), "complete");
        fleet.push(start().await);
    }
    while seen.len() < published {
        seen.push(reader.next().await.data);
    }
    assert_eq!(seen, numbers(0..published));
    reader.stays_silent().await;
}

/// Topics are joined and left all the time, and each event comes once to whoever follows.
#[tokio::test]
async fn a_topic_that_is_followed_and_left_again_and_again_loses_nothing() {
    const EVENTS: usize = 300;
    let redis = RedisServer::start().await;
    let a = replica(&redis).await;
    let b = ready(settings(&redis).with("tail.linger", "0s")).await;
    let mut readers = JoinSet::new();
    for pause in [0_u64, 3, 11, 29] {
        let first = b.subscribe("orders").await;
        let address = b.public;
        readers.spawn(async move {
            let (mut reader, mut seen) = (first, Vec::new());
            while seen.len() < EVENTS {
                seen.extend(reader.take(1 + seen.len() % 3).await);
                let cursor = reader.cursor();
                drop(reader);
                // Long enough, at times, that nobody follows it.
                tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
                reader = Subscription::new(address, "topic=orders")
                    .header("Last-Event-ID", &cursor)
                    .open()
                    .await;
                assert_eq!(reader.replay(), "complete");
            }
            seen
        });
    }
    for number in numbers(0..EVENTS + 3) {
        a.publish("orders", &number).await;
    }
    for seen in readers.join_all().await {
        assert_eq!(seen, numbers(0..seen.len()));
        assert!(seen.len() >= EVENTS);
    }
}
