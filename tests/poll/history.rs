//! With `wait=0s` a poll is a question about history: pages, until the log is read.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::event::EventId;

use crate::support::{Gateway, Polled, Request, numbers};

/// Reads pages from `start` on until one is empty, and returns what came.
async fn read_all(gateway: &Gateway, topics: &str, start: &str, limit: usize) -> Vec<Polled> {
    let mut pages = Vec::new();
    let mut start = start.to_owned();
    loop {
        let query = format!("topic={topics}&wait=0s&limit={limit}&{start}");
        let page = gateway.poll(&query).answer().await;
        assert!(page.events.len() <= limit, "{page:?}");
        if !pages.is_empty() {
            page.is_complete();
        }
        if page.events.is_empty() {
            return pages;
        }
        start = format!("lastEventId={}", page.cursor);
        pages.push(page);
    }
}

fn data(pages: &[Polled]) -> Vec<String> {
    let events = pages.iter().flat_map(|page| &page.events);
    events.map(|event| event.data.clone()).collect()
}

#[tokio::test]
async fn the_log_is_read_in_pages_to_its_end() {
    const EVENTS: usize = 230;
    let gateway = Gateway::start().await;
    let all = numbers(0..EVENTS);
    gateway.publish_lines("orders", &all).await;
    for limit in [1, 7, 100, 229, 230, 1000] {
        for start in [
            "lastEventId=earliest",
            "lastEventId=0-0",
            "since=1h",
            "last=1000",
        ] {
            // One event a page takes its time, and one start is enough for it.
            if limit == 1 && start != "last=1000" {
                continue;
            }
            let pages = read_all(&gateway, "orders", start, limit).await;
            assert_eq!(pages[0].replay, "none", "{start}");
            assert_eq!(data(&pages), all, "{start} by {limit}");
        }
    }
    let by_default = gateway.poll("topic=orders&wait=0s&lastEventId=earliest");
    let count = by_default.answer().await.events.len();
    assert!((1..=100).contains(&count), "100 by default: {count}");
}

/// A page may be shorter than its limit, but while there is more it is not empty.
#[tokio::test]
async fn large_events_come_in_pages_as_well() {
    let gateway = Gateway::start().await;
    let large = "x".repeat(60_000);
    let all: Vec<String> = (0..60).map(|number| format!("{number} {large}")).collect();
    gateway.publish_lines("orders", &all).await;
    let pages = read_all(&gateway, "orders", "lastEventId=earliest", 1000).await;
    assert!(data(&pages) == all, "each of them, in order");
}

/// Far below what the tail has, where pages come from the store.
#[tokio::test]
async fn what_is_older_than_the_tail_comes_from_the_store() {
    const EVENTS: usize = 3_000;
    let gateway = Gateway::with("tail.events", 50).start().await;
    let _follower = gateway.subscribe("orders").await;
    let all = numbers(0..EVENTS);
    gateway.publish_lines("orders", &all).await;
    for limit in [64, 1000] {
        let pages = read_all(&gateway, "orders", "lastEventId=earliest", limit).await;
        assert!(data(&pages) == all, "each of them, in order, by {limit}");
    }
}

#[tokio::test]
async fn many_topics_are_read_under_one_cursor() {
    const TOPICS: usize = 60;
    let gateway = Gateway::start().await;
    let name = |number: usize| format!("t/{}", number * 7 % TOPICS);
    let items: Vec<serde_json::Value> = (0..600)
        .map(|number| serde_json::json!({"topic": name(number), "data": number.to_string()}))
        .collect();
    for piece in items.chunks(150) {
        let answer = gateway.post(serde_json::to_string(piece).unwrap()).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    let topics: Vec<String> = (0..TOPICS).map(|number| format!("t/{number}")).collect();
    for limit in [13, 100, 1000] {
        let pages = read_all(&gateway, &topics.join(","), "lastEventId=earliest", limit).await;
        assert_eq!(data(&pages), numbers(0..600), "by {limit}");
        for event in pages.iter().flat_map(|page| &page.events) {
            let wanted = name(event.data.parse().unwrap());
            assert_eq!(event.topic.as_deref(), Some(wanted.as_str()));
        }
        let ids: Vec<EventId> = pages
            .iter()
            .flat_map(|page| page.events.iter().map(|event| event.id))
            .collect();
        assert!(ids.windows(2).all(|two| two[0] < two[1]), "over all topics");
    }
    let some = read_all(&gateway, "t/0,t/30,t/59,never", "last=20", 7).await;
    assert_eq!(data(&some).len(), 20);
}

/// The race between a page and what is published while it is read.
#[tokio::test]
async fn pages_lose_and_double_nothing_while_publishing_goes_on() {
    const EVENTS: usize = 2_000;
    let gateway = Gateway::with("tail.events", 100).start().await;
    let publish = async {
        for piece in numbers(0..EVENTS).chunks(20) {
            let items: Vec<serde_json::Value> = piece
                .iter()
                .map(|data| {
                    let topic = ["a", "b", "c"][data.len() % 3];
                    serde_json::json!({"topic": topic, "data": data})
                })
                .collect();
            let answer = gateway.post(serde_json::to_string(&items).unwrap()).await;
            assert_eq!(answer.status(), 200, "{answer:?}");
        }
    };
    let read = async |limit: usize| {
        let (mut start, mut seen) = ("0-0".to_owned(), Vec::new());
        while seen.len() < EVENTS {
            let query = format!("topic=a,b,c&wait=0s&limit={limit}&lastEventId={start}");
            let page = gateway.poll(&query).answer().await;
            if start != "0-0" {
                page.is_complete();
            }
            start.clone_from(&page.cursor);
            seen.extend(page.events.into_iter().map(|event| event.data));
        }
        assert!(
            seen == numbers(0..EVENTS),
            "each once and in order, by {limit}"
        );
    };
    tokio::join!(publish, read(1000), read(100), read(33));
}

#[tokio::test]
async fn since_and_last_begin_where_they_say() {
    let gateway = Gateway::start().await;
    let mut ids = Vec::new();
    for data in ["a", "b", "c", "d"] {
        ids.push(gateway.publish("orders", data).await);
        gateway.passes_millisecond_of(*ids.last().unwrap()).await;
    }
    gateway.publish("other", "e").await;
    for (query, wanted) in [
        ("topic=orders&last=3".to_owned(), &["b", "c", "d"][..]),
        ("topic=orders&last=0".to_owned(), &[]),
        ("topic=orders,other&last=2".to_owned(), &["d", "e"]),
        (format!("topic=orders&since={}", ids[2].ms()), &["c", "d"]),
        ("topic=orders&since=2999-01-01T00:00:00Z".to_owned(), &[]),
        ("topic=orders&since=1h".to_owned(), &["a", "b", "c", "d"]),
        ("topic=never&lastEventId=earliest".to_owned(), &[]),
    ] {
        let page = gateway.poll(&format!("{query}&wait=0s")).answer().await;
        assert_eq!(page.replay, "none", "{query}");
        assert_eq!(page.data(), wanted, "{query}");
        // Whatever came, the cursor leads on from there.
        let topics = query.split('&').next().unwrap();
        let next = format!("{topics}&wait=0s&lastEventId={}", page.cursor);
        let next = gateway.poll(&next).answer().await;
        let wanted = if page.cursor == "0-0" {
            "none"
        } else {
            "complete"
        };
        assert_eq!(next.replay, wanted, "{query}: {next:?}");
        assert!(next.events.is_empty(), "{query}: {next:?}");
    }
    // The newest, of which the oldest come first, also over several pages.
    let newest = gateway
        .poll("topic=orders&last=3&limit=2&wait=0s")
        .answer()
        .await;
    assert_eq!(newest.data(), ["b", "c"]);
    let query = format!("topic=orders&wait=0s&lastEventId={}", newest.cursor);
    assert_eq!(gateway.poll(&query).answer().await.data(), ["d"]);
}

/// Nobody has to follow a topic for its history to be asked for, and asking leaves nothing behind.
#[tokio::test]
async fn asking_takes_no_place_and_leaves_nothing() {
    let gateway = Gateway::with("tail.linger", "100ms").start().await;
    gateway.publish("orders", "a").await;
    for _ in 0..50 {
        let page = gateway.poll("topic=orders&last=1&wait=0s").answer().await;
        assert_eq!(page.data(), ["a"]);
    }
    gateway.has_places_taken(0).await;
    gateway.has_open_streams(0).await;
    gateway.counts("tidegate_topics", &[], 0).await;
}

/// Retention takes the oldest while somebody pages: what is missing is told before what comes after it.
#[tokio::test]
async fn retention_that_overtakes_the_pages_is_told() {
    let gateway = Gateway::with("retention.events", 30)
        .with("tail.events", 10)
        .start()
        .await;
    let publish = async |range: std::ops::Range<usize>| {
        gateway.publish_lines("orders", numbers(range)).await;
    };
    publish(0..30).await;
    let first = gateway.poll("topic=orders&limit=5&wait=0s&lastEventId=earliest");
    let first = first.answer().await;
    assert_eq!(first.data(), numbers(0..5));
    publish(30..60).await;
    let query = format!("topic=orders&limit=5&wait=0s&lastEventId={}", first.cursor);
    let page = gateway.poll(&query).answer().await;
    page.is_gap("retention", &["orders"]);
    assert!(
        page.missed_at_least
            .is_none_or(|count| (1..=25).contains(&count)),
        "{page:?}"
    );
    let mut seen: Vec<String> = page.data().into_iter().map(str::to_owned).collect();
    let mut cursor = page.cursor;
    loop {
        let query = format!("topic=orders&limit=5&wait=0s&lastEventId={cursor}");
        let page = gateway.poll(&query).answer().await;
        if page.events.is_empty() && page.replay == "complete" {
            break;
        }
        assert!(seen.is_empty() || page.replay == "complete", "{page:?}");
        seen.extend(page.data().into_iter().map(str::to_owned));
        cursor = page.cursor;
    }
    assert_eq!(seen, numbers(30..60));
}

/// Every page is one request, so a careless loop is stopped by its rate and not by what it costs; here a herd asks at once.
#[tokio::test]
async fn a_herd_that_asks_for_the_same_pages_gets_them() {
    let gateway = Gateway::with("tail.events", 10).start().await;
    let all = numbers(0..500);
    gateway.publish_lines("orders", &all).await;
    let asks = (0..60).map(async |_| {
        let pages = read_all(&gateway, "orders", "lastEventId=earliest", 100).await;
        assert_eq!(data(&pages), all);
    });
    futures_util::future::join_all(asks).await;
}

/// What a topic's pages hold is what its stream holds.
#[tokio::test]
async fn a_page_and_a_stream_tell_the_same() {
    let gateway = Gateway::start().await;
    let mut wanted: BTreeMap<EventId, (String, String, String)> = BTreeMap::new();
    for number in 0..40 {
        let topic = ["a", "b"][number % 2];
        let kind = ["message", "created", "order.updated"][number % 3];
        let data = "line\n".repeat(number % 4);
        let body = serde_json::json!({"topic": topic, "event": kind, "data": data});
        let answer = gateway.ask(Request::publish(body.to_string())).await;
        let id = crate::support::id(answer.json()["id"].as_str().unwrap());
        wanted.insert(id, (topic.to_owned(), kind.to_owned(), data));
    }
    let pages = read_all(&gateway, "a,b", "lastEventId=earliest", 17).await;
    let got: BTreeMap<_, _> = pages
        .into_iter()
        .flat_map(|page| page.events)
        .map(|event| {
            (
                event.id,
                (event.topic.unwrap(), event.kind.unwrap(), event.data),
            )
        })
        .collect();
    assert_eq!(got, wanted);
    let mut reader = gateway
        .events("topic=a,b&lastEventId=earliest")
        .open()
        .await;
    let mut ids = BTreeSet::new();
    for (id, (topic, kind, data)) in &wanted {
        let event = reader.next().await;
        assert!(ids.insert(event.id));
        assert_eq!(event.id, *id);
        assert_eq!(event.topic.as_deref(), Some(topic.as_str()));
        assert_eq!(event.kind.as_deref().unwrap_or("message"), kind);
        assert_eq!(&event.data, data);
    }
}
