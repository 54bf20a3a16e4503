//! Redis away is not an outage for readers.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tidegate::event::{EventId, Parser};
use tokio::time::{Instant, sleep};

use super::{is_back, ready, replica, settings};
use crate::support::{
    Fsync, Gateway, PATIENCE, RedisServer, Request, Subscriber, eventually, freeze, id, numbers,
    within,
};

/// Longer than it takes a gateway to notice.
const A_MOMENT: Duration = Duration::from_millis(700);

async fn durable() -> RedisServer {
    RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await
}

fn event(data: &str) -> String {
    json!({"topic": "orders", "data": data}).to_string()
}

/// Waits until the gateway has noticed that its Redis is away, and returns what it says about it.
async fn notices(gateway: &Gateway) -> String {
    eventually("the gateway to notice", async || {
        let answer = gateway.get("/health").await;
        let json = answer.json();
        let store = &json["dependencies"]["store"];
        match (answer.status(), store["error"].as_str()) {
            (503, Some(why)) => {
                assert_eq!(store["status"], "down", "{json}");
                assert_eq!(json["status"], "unavailable", "{json}");
                Ok(why.to_owned())
            }
            _ => Err(json.to_string()),
        }
    })
    .await
}

/// Waits for signs of life of an open stream.
async fn lives(reader: &mut Subscriber) {
    let until = Instant::now() + A_MOMENT;
    // What came before that.
    reader.stays_silent().await;
    let before = reader.raw.len();
    while Instant::now() < until || reader.raw.len() == before {
        assert!(
            Instant::now() < until + PATIENCE,
            "an open stream shows that it lives"
        );
        reader.stays_silent().await;
    }
}

#[tokio::test]
async fn open_streams_stay_open_and_go_on_with_what_they_missed() {
    let mut redis = durable().await;
    let gateway = ready(settings(&redis).with("stream.keepalive", "200ms")).await;
    let mut readers = [
        gateway.subscribe("orders").await,
        gateway.subscribe("orders,other").await,
    ];
    gateway.publish("orders", "before").await;
    for reader in &mut readers {
        assert_eq!(reader.take(1).await, ["before"]);
    }
    redis.kill();
    notices(&gateway).await;
    for reader in &mut readers {
        lives(reader).await;
    }
    redis.restart().await;
    // Before the gateway is back, somebody else publishes.
    let direct = crate::functions::publish_by_hand(&redis, "orders", "meanwhile").await;
    is_back(&gateway).await;
    let after = gateway.publish("orders", "after").await;
    for reader in &mut readers {
        for (wanted_id, data) in [(direct, "meanwhile"), (after, "after")] {
            let event = reader.next().await;
            assert_eq!((event.id, event.data.as_str()), (wanted_id, data));
        }
        reader.stays_silent().await;
    }
}

#[tokio::test]
async fn health_says_why_and_the_replica_stays_ready() {
    let mut redis = durable().await;
    let gateway = replica(&redis).await;
    redis.kill();
    let why = notices(&gateway).await;
    assert!(why.contains("refused") || why.contains("closed"), "{why}");
    for _ in 0..3 {
        let ready = gateway.get("/health/ready").await;
        assert_eq!(
            ready.status(),
            200,
            "a balancer would drop everybody: {ready:?}"
        );
        assert_eq!(gateway.get("/health/live").await.status(), 200);
        assert_eq!(gateway.get_admin("/health").await.status(), 503);
        sleep(Duration::from_millis(200)).await;
    }
    redis.restart().await;
    is_back(&gateway).await;
}

#[tokio::test]
async fn publishing_is_refused_with_the_time_to_come_back() {
    let mut redis = durable().await;
    let gateway = ready(settings(&redis).with("publish.timeout", "1m")).await;
    gateway.publish("orders", "before").await;
    redis.kill();
    notices(&gateway).await;
    for _ in 0..5 {
        let begun = Instant::now();
        let answer = gateway.post(event("lost")).await;
        answer.refuses(503, "store_unavailable");
        let pause: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&pause), "{answer:?}");
        assert!(
            begun.elapsed() < PATIENCE,
            "at once, and not after a minute: {:?}",
            begun.elapsed()
        );
    }
    let batch = json!([{"topic": "orders", "data": "a"}, {"topic": "orders", "data": "b"}]);
    let answer = gateway.post(batch.to_string()).await;
    assert!([207, 503].contains(&answer.status()), "{answer:?}");
    let lines = format!("{}\n{}\n", event("a"), event("b"));
    let answer = gateway.ask(Request::ndjson(lines)).await;
    let stored = answer.status() == 503 || answer.json()["stored"] == 0;
    assert!(stored, "{answer:?}");
    redis.restart().await;
    is_back(&gateway).await;
    gateway.publish("orders", "after").await;
    let mut reader = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    assert_eq!(
        reader.replayed().await,
        ["before", "after"],
        "what was refused was not stored"
    );
}

/// The tail proves a resume from wherever it begins; what it cannot prove is refused and not guessed.
#[tokio::test]
async fn a_resume_that_the_tail_proves_is_served() {
    let mut redis = durable().await;
    let gateway = ready(settings(&redis).with("tail.events", 5)).await;
    let mut live = gateway.subscribe("orders").await;
    let mut ids = Vec::new();
    for data in numbers(0..20) {
        ids.push(gateway.publish("orders", &data).await);
        // Who keeps up reads no page of the store, which would prove more.
        assert_eq!(live.take(1).await, [data]);
    }
    redis.kill();
    notices(&gateway).await;
    for at in [15, 17, 19] {
        let mut reader = gateway.resume("orders", ids[at]).await;
        assert_eq!(reader.replay(), "complete", "{at}");
        reader.replays(numbers(at + 1..20)).await;
    }
    let now = gateway.subscribe("orders").await;
    assert_eq!(now.start(), ids[19], "from now is after what is known");
    let header = |cursor: EventId| ("Last-Event-ID", cursor.to_string());
    for (query, (name, value)) in [
        ("topic=orders", header(ids[2])),
        (
            "topic=orders",
            header(EventId::new(ids[19].ms() + 5_000, 0)),
        ),
        ("topic=unheard-of", header(ids[19])),
        ("topic=orders,unheard-of", header(ids[19])),
        ("topic=orders&last=3", ("X", String::new())),
        ("topic=orders&since=1h", ("X", String::new())),
    ] {
        let request = Request::get(&format!("/events?{query}")).header(name, &value);
        let mut connection = gateway.connect().await;
        connection.send(request.bytes(gateway.public)).await;
        let head = connection.head().await;
        assert_eq!(head.status, 503, "{query} {value}: {}", head.raw);
        assert!(head.header("retry-after").is_some(), "{}", head.raw);
    }
    // Who asks for the earliest has nothing to be proven, and waits.
    let mut earliest = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    earliest.stays_silent().await;
    redis.restart().await;
    is_back(&gateway).await;
    earliest.replays(numbers(0..20)).await;
    let mut reader = gateway.resume("orders", ids[2]).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(numbers(3..20)).await;
}

/// Each connection comes back by itself, but the gateway says that all is well when all of them have.
#[tokio::test]
async fn when_health_is_good_again_publishing_is() {
    let mut redis = durable().await;
    let gateway = replica(&redis).await;
    for _ in 0..4 {
        redis.kill();
        notices(&gateway).await;
        sleep(A_MOMENT).await;
        redis.restart().await;
        super::is_healthy(&gateway).await;
        gateway.publish("orders", "a").await;
    }
}

/// Any status but 200 would end a page's live updates for good.
#[tokio::test]
async fn a_browser_is_refused_by_a_stream_that_lets_it_come_back() {
    let mut redis = durable().await;
    let gateway = replica(&redis).await;
    let cursor = gateway.publish("orders", "a").await.to_string();
    redis.kill();
    notices(&gateway).await;
    let request = Request::get("/events?topic=orders&lastEventId=earliest")
        .header("Accept", "text/event-stream")
        .header("Last-Event-ID", &cursor);
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.header("tidegate-refused"), Some("store_unavailable"));
    let frames = Parser::default().feed(&answer.body);
    assert_eq!(frames.len(), 1, "{answer:?}");
    assert_eq!(frames[0].event.as_deref(), Some("$refused"));
    assert_eq!(
        frames[0].id.as_deref(),
        Some(cursor.as_str()),
        "it keeps its cursor"
    );
    assert!(answer.text().starts_with("retry: "), "{answer:?}");
    redis.restart().await;
    is_back(&gateway).await;
    let reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
}

/// Again and again; each time everything that was missed comes once.
#[tokio::test]
async fn a_redis_that_comes_and_goes_loses_nothing() {
    let mut redis = durable().await;
    let [a, b] = [replica(&redis).await, replica(&redis).await];
    let mut live = b.subscribe("orders").await;
    let mut wanted = Vec::new();
    for round in 0..4 {
        let data = format!("{round} before");
        a.publish("orders", &data).await;
        wanted.push(data);
        redis.kill();
        sleep(Duration::from_millis(100 * round)).await;
        redis.restart().await;
        let data = format!("{round} by hand");
        crate::functions::publish_by_hand(&redis, "orders", &data).await;
        wanted.push(data);
        is_back(&a).await;
        is_back(&b).await;
    }
    assert_eq!(live.take(wanted.len()).await, wanted);
    live.stays_silent().await;
}

/// Whether it was stored nobody knows; with its key it may be said again.
#[tokio::test]
async fn a_publish_that_gets_no_answer_is_repeated_with_its_key_and_stored_once() {
    let redis = durable().await;
    let gateway = ready(settings(&redis).with("publish.timeout", "2s")).await;
    let mut live = gateway.subscribe("orders").await;
    gateway.publish("orders", "before").await;
    let keyed = json!({"topic": "orders", "data": "once", "key": "k"}).to_string();
    // What the gateway asks Redis meanwhile gets no answer from here on, and its connection ends with the oldest question.
    let begun = Instant::now();
    redis.freeze();
    let answer = gateway.post(&keyed).await;
    answer.refuses(504, "store_timeout");
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(1_600)..2 * PATIENCE).contains(&took),
        "{took:?}"
    );
    redis.thaw();
    is_back(&gateway).await;
    let stored = gateway.post(&keyed).await;
    assert_eq!(stored.status(), 200, "{stored:?}");
    assert_eq!(live.take(2).await, ["before", "once"]);
    live.stays_silent().await;
    let again = gateway.post(&keyed).await;
    assert_eq!(again.json()["duplicate"], true);
    assert_eq!(again.json()["id"], stored.json()["id"]);
}

/// A connection that is open and says nothing is given up after a while, and streams go on all the time.
#[tokio::test]
async fn a_frozen_redis_is_noticed_and_its_streams_stay() {
    let redis = durable().await;
    let gateway = ready(settings(&redis).with("stream.keepalive", "200ms")).await;
    let mut live = gateway.subscribe("orders").await;
    let cursor = gateway.publish("orders", "before").await;
    assert_eq!(live.take(1).await, ["before"]);
    redis.freeze();
    notices(&gateway).await;
    lives(&mut live).await;
    let mut resumed = gateway.resume("orders", cursor).await;
    assert_eq!(resumed.replay(), "complete", "the tail proves it");
    redis.thaw();
    is_back(&gateway).await;
    gateway.publish("orders", "after").await;
    assert_eq!(live.take(1).await, ["after"]);
    assert_eq!(resumed.take(1).await, ["after"]);
}

/// Before the first contact a replica has no tail, no frontier, no clock: it takes no traffic.
#[tokio::test]
async fn a_replica_that_starts_before_its_redis_serves_as_soon_as_it_is_there() {
    let mut redis = durable().await;
    let url = redis.url();
    redis.kill();
    let gateway = Gateway::settings().env("REDIS_URL", &url).start().await;
    let why = notices(&gateway).await;
    assert!(!why.is_empty());
    for _ in 0..3 {
        assert_eq!(gateway.get("/health/ready").await.status(), 503);
        assert_eq!(gateway.get("/health/live").await.status(), 200);
        gateway
            .get("/events?topic=orders")
            .await
            .refuses(503, "store_unavailable");
        gateway
            .post(event("a"))
            .await
            .refuses(503, "store_unavailable");
        sleep(Duration::from_millis(100)).await;
    }
    let browser = gateway.events("topic=orders").like_a_browser().open().await;
    assert_eq!(browser.opening.event.as_deref(), Some("$refused"));
    redis.restart().await;
    is_back(&gateway).await;
    assert_eq!(gateway.get("/health/ready").await.status(), 200);
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish("orders", "first").await;
    assert_eq!(reader.take(1).await, ["first"]);
}

/// A herd that comes back while Redis is away is served from memory, and Redis sees nothing of it when it is back.
#[tokio::test]
async fn a_herd_that_returns_while_redis_is_away_is_served() {
    let mut redis = durable().await;
    let gateway = replica(&redis).await;
    let _follows = gateway.subscribe("orders").await;
    let data = numbers(0..100);
    let ids = gateway
        .publish_all("orders", data.iter().map(String::as_str))
        .await;
    let mut live = gateway.resume("orders", ids[98]).await;
    live.replays(["99"]).await;
    redis.kill();
    notices(&gateway).await;
    let herd = (0..100).map(|at| gateway.resume("orders", ids[at]));
    let herd = within(
        "the herd to be served",
        futures_util::future::join_all(herd),
    )
    .await;
    for (at, mut reader) in herd.into_iter().enumerate() {
        assert_eq!(reader.replay(), "complete");
        reader.replays(numbers(at + 1..100)).await;
        assert_eq!(id(&reader.cursor()), ids[99]);
    }
}

/// SIGTERM while Redis is away: nothing waits for it.
#[tokio::test]
async fn a_replica_ends_in_time_while_redis_is_away() {
    let mut redis = durable().await;
    // Time enough for a machine that is slow: the stream is told before it is cut.
    let gateway = ready(settings(&redis).with("drain.timeout", "20s")).await;
    let mut reader = gateway.subscribe("orders").await;
    redis.kill();
    notices(&gateway).await;
    let exit = gateway.stop(Duration::from_secs(6)).await;
    assert!(exit.status.success(), "{exit:?}");
    let rest = reader.rest().await;
    assert_eq!(
        rest.last().unwrap().event.as_deref(),
        Some("$drain"),
        "{rest:?}"
    );
}

/// Readers go on; what is published is refused and not lost without a word.
#[tokio::test]
async fn a_full_redis_takes_no_events_and_serves_its_readers() {
    let redis = RedisServer::start().await;
    let [a, b] = [replica(&redis).await, replica(&redis).await];
    let mut live = b.subscribe("orders").await;
    let cursor = live.cursor();
    a.publish("orders", "before").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let answer = a.post(event("refused")).await;
    let detail = answer.refuses(503, "store_unavailable");
    assert!(detail.contains("OOM"), "{detail}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    for gateway in [&a, &b] {
        let mut reader = gateway.resume("orders", &cursor).await;
        assert_eq!(reader.replay(), "complete");
        reader.replays(["before"]).await;
        let mut new = gateway
            .events("topic=never&lastEventId=earliest")
            .open()
            .await;
        new.replays([""; 0]).await;
        let mut newest = gateway.events("topic=orders&last=1").open().await;
        newest.replays(["before"]).await;
    }
    // Also a replica that starts just now.
    let late = replica(&redis).await;
    let mut reader = late.resume("orders", &cursor).await;
    reader.replays(["before"]).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    is_back(&a).await;
    a.publish("orders", "after").await;
    assert_eq!(live.take(2).await, ["before", "after"]);
    live.stays_silent().await;
}

#[tokio::test]
async fn what_needs_the_store_is_refused_by_operators_routes_as_well() {
    let mut redis = durable().await;
    let gateway = replica(&redis).await;
    redis.kill();
    notices(&gateway).await;
    let delete = Request::new("DELETE", "/admin/topics/orders");
    gateway
        .ask_admin(delete)
        .await
        .refuses(503, "store_unavailable");
    let cluster = gateway.get_admin("/stats?scope=cluster").await;
    cluster.refuses(503, "store_unavailable");
    assert_eq!(gateway.get_admin("/stats").await.status(), 200);
    assert_eq!(gateway.get_admin("/metrics").await.status(), 200);
}

/// A pause is no outage: whoever can wait is served.
#[tokio::test]
async fn a_redis_that_pauses_for_a_moment_is_waited_for() {
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let mut live = gateway.subscribe("orders").await;
    let mut busy = redis.connect().await;
    let pause = async { busy.ask(&["DEBUG", "SLEEP", "1"]).await };
    let publish = async {
        sleep(Duration::from_millis(100)).await;
        let stored = gateway.publish("orders", "a").await;
        let mut other = gateway
            .events("topic=other&lastEventId=earliest")
            .open()
            .await;
        other.replays([""; 0]).await;
        stored
    };
    tokio::join!(pause, publish);
    assert_eq!(live.take(1).await, ["a"]);
    assert_eq!(gateway.get("/health").await.status(), 200);
}

#[tokio::test]
async fn a_redis_that_closes_idle_connections_is_no_trouble() {
    let redis = RedisServer::settings().config("timeout 1").start().await;
    let gateway = replica(&redis).await;
    let mut live = gateway.subscribe("orders").await;
    let cursor = live.cursor();
    for round in 0..2 {
        sleep(Duration::from_millis(2_300)).await;
        gateway.publish("orders", &round.to_string()).await;
        let mut reader = gateway.events("topic=other&last=1").open().await;
        reader.replays([""; 0]).await;
    }
    assert_eq!(live.take(2).await, ["0", "1"]);
    let mut reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["0", "1"]).await;
}

/// Redis says no before it does anything, so it is said as it is.
#[tokio::test]
async fn a_redis_that_wants_more_replicas_refuses_and_has_stored_nothing() {
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    redis
        .command(&["CONFIG", "SET", "min-replicas-to-write", "1"])
        .await;
    let detail = gateway
        .post(event("refused"))
        .await
        .refuses(503, "store_unavailable");
    assert!(detail.contains("NOREPLICAS"), "{detail}");
    redis
        .command(&["CONFIG", "SET", "min-replicas-to-write", "0"])
        .await;
    is_back(&gateway).await;
    gateway.publish("orders", "a").await;
    let mut reader = gateway
        .events("topic=orders&lastEventId=earliest")
        .open()
        .await;
    reader.replays(["a"]).await;
}

/// It accepts connections and says nothing, as a machine that swaps.
#[tokio::test]
async fn a_replica_that_starts_while_its_redis_is_frozen_serves_when_it_is_thawed() {
    let redis = durable().await;
    redis.freeze();
    let gateway = settings(&redis).start().await;
    notices(&gateway).await;
    assert_eq!(gateway.get("/health/ready").await.status(), 503);
    gateway
        .post(event("a"))
        .await
        .refuses(503, "store_unavailable");
    sleep(A_MOMENT).await;
    redis.thaw();
    is_back(&gateway).await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish("orders", "first").await;
    assert_eq!(reader.take(1).await, ["first"]);
}

/// The process with this in its environment.
fn process_with(mark: &str) -> Pid {
    let processes = std::fs::read_dir("/proc").unwrap();
    let found = processes.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let marked = environment
            .split(|&byte| byte == 0)
            .any(|one| one == mark.as_bytes());
        Pid::from_raw(pid).filter(|_| marked)
    });
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

/// A replica that stands still (its machine was moved) is cut off by Redis, which does not keep for it what it does not take.
#[tokio::test]
async fn a_replica_that_stood_still_goes_on_with_what_it_missed() {
    let redis = RedisServer::settings()
        .config("client-output-buffer-limit pubsub 1mb 1mb 1")
        .start()
        .await;
    let mark = redis.url();
    let a = replica(&redis).await;
    let b = ready(settings(&redis).env("MARK", &mark)).await;
    let pid = process_with(&format!("MARK={mark}"));
    let mut live = b.subscribe("orders,other").await;
    let cursor = live.cursor();
    a.publish("orders", "before").await;
    assert_eq!(live.take(1).await, ["before"]);
    let connected = b.metric("tidegate_redis_connects_total").await;
    freeze(pid);
    let large = "x".repeat(20_000);
    let wanted: Vec<_> = (0..400).map(|number| format!("{number} {large}")).collect();
    a.publish_lines("orders", &wanted).await;
    sleep(Duration::from_millis(1_500)).await;
    kill_process(pid, Signal::CONT).unwrap();
    assert!(live.take(400).await == wanted, "each of them, in order");
    live.stays_silent().await;
    is_back(&b).await;
    a.publish("orders", "after").await;
    assert_eq!(live.take(1).await, ["after"]);
    let mut resumed = b.resume("orders", cursor).await;
    assert_eq!(resumed.replay(), "complete");
    assert_eq!(resumed.take(1).await, ["before"]);
    assert!(resumed.take(400).await == wanted);
    let connects = b.metric("tidegate_redis_connects_total").await;
    assert!(connects > connected, "the test wants a cut: {connects:?}");
}
