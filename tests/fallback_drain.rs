//! A deploy is quiet for a WebSocket and for a poll too: each leaves in its own time with a cursor that holds, and nobody new gets in.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    redis::replica_of,
    support::{
        Encoding, Follower, Gateway, PATIENCE, Place, Polled, RedisServer, Request, WebSocket,
        eventually, id, numbers,
    },
};

/// For a moment it is unready and takes streams.
async fn takes_nobody(gateway: &Gateway) {
    eventually("the gateway to drain", async || {
        let look = Request::new("HEAD", "/events?topic=orders");
        match gateway.ask(look).await.status() {
            503 => Ok(()),
            status => Err(format!("{status}")),
        }
    })
    .await;
}

/// Reads on to the close, before which `drain` comes; returns the events, the cursor and when it came.
async fn drained(mut socket: WebSocket) -> (Vec<String>, String, Instant) {
    let mut data = Vec::new();
    let cursor = loop {
        let message = socket.telling().await;
        match message["type"].as_str().unwrap() {
            "event" => data.push(message["data"].as_str().unwrap().to_owned()),
            "drain" => {
                let retry = message["retry"].as_u64().unwrap();
                assert!(retry > 0, "{message}");
                assert_eq!(message["id"], message["cursor"], "{message}");
                break message["cursor"].as_str().unwrap().to_owned();
            }
            "live" => {}
            _ => panic!("{message}"),
        }
    };
    let at = Instant::now();
    socket.closes(1001, "draining").await;
    (data, cursor, at)
}

async fn answered(place: Place) -> (Polled, Instant) {
    let Place::Poll(mut waiting) = place else {
        panic!("this is for polls")
    };
    let answer = waiting.response().await;
    (Polled::of(&answer), Instant::now())
}

#[tokio::test]
async fn each_has_a_slot_of_its_own_and_a_cursor() {
    // What is not gone by then is cut. Their slots take a quarter of a second each.
    let mut gateway = Gateway::with("drain.timeout", "10s").start().await;
    let newest = gateway.publish("orders", "before").await;
    let mut sockets = Vec::new();
    let mut polls = Vec::new();
    for _ in 0..5 {
        sockets.push(gateway.follow("orders").await);
        polls.push(gateway.entry(Encoding::Poll, "topic=orders").enter().await);
    }
    gateway.has_places_taken(10).await;
    let begun = Instant::now();
    gateway.terminate();
    let (sockets, polls) = tokio::join!(
        join_all(sockets.into_iter().map(drained)),
        join_all(polls.into_iter().map(answered))
    );
    let mut ends = Vec::new();
    for (data, cursor, at) in sockets {
        assert!(data.is_empty(), "{data:?}");
        assert!(id(&cursor) >= newest, "{cursor}");
        ends.push(at);
    }
    for (polled, at) in polls {
        assert_eq!(polled.replay, "none");
        assert!(polled.events.is_empty(), "{polled:?}");
        assert!(polled.place() >= newest, "{polled:?}");
        ends.push(at);
    }
    let (first, last) = (*ends.iter().min().unwrap(), *ends.iter().max().unwrap());
    assert!(
        last - first > Duration::from_millis(400),
        "spread over their slots, not all within {:?}",
        last - first
    );
    assert!(last - begun < Duration::from_secs(10), "{:?}", last - begun);
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

#[tokio::test]
async fn while_it_drains_nobody_new_gets_in_and_publishing_goes_on() {
    let mut gateway = Gateway::with("drain.timeout", "10s").start().await;
    let mut sockets = Vec::new();
    let mut polls = Vec::new();
    for _ in 0..6 {
        sockets.push(gateway.follow("orders").await);
        polls.push(gateway.entry(Encoding::Poll, "topic=orders").enter().await);
    }
    gateway.has_places_taken(12).await;
    gateway.terminate();
    takes_nobody(&gateway).await;
    for way in Encoding::ALL {
        let entry = gateway.entry(way, "topic=orders");
        entry.is_refused(503, "draining").await;
    }
    let history = gateway
        .poll("topic=orders&lastEventId=earliest&wait=0s")
        .ask()
        .await;
    history.refuses(503, "draining");
    let published = gateway.publish("orders", "while it drains").await;
    let (sockets, polls) = tokio::join!(
        join_all(sockets.into_iter().map(drained)),
        join_all(polls.into_iter().map(answered))
    );
    let mut saw = 0;
    for (data, cursor, _) in sockets {
        let got = data == ["while it drains"];
        assert!(got || data.is_empty(), "{data:?}");
        assert_eq!(
            got,
            id(&cursor) >= published,
            "a cursor tells no more than was sent"
        );
        saw += u32::from(got);
    }
    for (polled, _) in polls {
        let got = polled.data() == ["while it drains"];
        assert!(got || polled.events.is_empty(), "{polled:?}");
        assert_eq!(got, polled.place() >= published, "{polled:?}");
        saw += u32::from(got);
    }
    assert!(saw > 0, "nobody got what was published while it drained");
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

/// `drain.delay`: time for the balancer to notice, in which all still works.
#[tokio::test]
async fn in_the_delay_all_still_works() {
    let gateway = Gateway::with("drain.delay", "3s")
        .with("drain.timeout", "10s")
        .start()
        .await;
    let before = gateway.follow("orders").await;
    gateway.terminate();
    gateway.is_unready().await;
    let newcomer = gateway.follow("orders").await;
    let poll = gateway.entry(Encoding::Poll, "topic=orders").enter().await;
    gateway.has_places_taken(3).await;
    gateway.publish("orders", "a").await;
    let (polled, _) = answered(poll).await;
    assert_eq!(polled.data(), ["a"]);
    for socket in [before, newcomer] {
        let (data, _, _) = drained(socket).await;
        assert_eq!(data, ["a"]);
    }
}

/// Operators ask for the same by a route.
#[tokio::test]
async fn a_drain_that_an_operator_asked_for_is_the_same() {
    let mut gateway = Gateway::with("drain.timeout", "10s").start().await;
    let socket = gateway.follow("orders").await;
    let poll = gateway.entry(Encoding::Poll, "topic=orders").enter().await;
    gateway.has_places_taken(2).await;
    let request = Request::new("POST", "/admin/drain");
    let answer = gateway.ask_admin(request).await;
    assert!([200, 202].contains(&answer.status()), "{answer:?}");
    let ((data, _, _), (polled, _)) = tokio::join!(drained(socket), answered(poll));
    assert!(
        data.is_empty() && polled.events.is_empty(),
        "{data:?} {polled:?}"
    );
    gateway.terminate();
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

/// An end that does not answer the close, or does not read, holds nothing up.
#[tokio::test]
async fn a_stuck_websocket_does_not_hold_up_the_end() {
    let gateway = Gateway::with("drain.timeout", "1s").start().await;
    let stuck = gateway.ws("topic=orders").narrow().open().await;
    let deaf = gateway.follow("other").await;
    let large = "x".repeat(60_000);
    gateway.publish_lines("orders", vec![&large; 200]).await;
    let exit = gateway.stop(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
    assert!(exit.took < Duration::from_secs(3), "{:?}", exit.took);
    drop((stuck, deaf));
}

/// With another replica behind the same address nobody loses an event, by whatever encoding.
#[tokio::test]
async fn who_is_drained_goes_on_at_another_replica() {
    const EVENTS: usize = 300;
    let redis = RedisServer::start().await;
    let old = replica_of(Gateway::with("drain.timeout", "10s"), &redis).await;
    let new = replica_of(Gateway::settings(), &redis).await;
    let start = old.poller("orders").await.cursor;
    let draining = std::sync::atomic::AtomicBool::new(false);
    let follow = async |way: Encoding| {
        let mut follower = Follower::from("orders", &start);
        let mut at = old.public;
        while follower.seen.len() < EVENTS {
            if at == old.public && draining.load(std::sync::atomic::Ordering::Relaxed) {
                // What is open is read to its end; then the balancer knows only the other.
                while follower.is_open() {
                    follower.read(at, way).await;
                }
                at = new.public;
            }
            if follower.seen.len() < EVENTS {
                follower.read(at, way).await;
            }
        }
        assert_eq!(follower.gaps, 0, "{way}");
        let data: Vec<_> = follower.seen.into_iter().map(|event| event.data).collect();
        assert!(data == numbers(0..EVENTS), "{way}: {data:?}");
    };
    let publish = async {
        for (at, piece) in numbers(0..EVENTS).chunks(10).enumerate() {
            if at == 8 {
                draining.store(true, std::sync::atomic::Ordering::Relaxed);
                old.terminate();
            }
            new.publish_all("orders", piece.iter().map(String::as_str))
                .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(
        publish,
        follow(Encoding::Sse),
        follow(Encoding::Ws),
        follow(Encoding::Poll)
    );
}
