//! The gateway asks its clients to leave: each is told where it was, and finds it again elsewhere.

use std::time::Duration;

use tidegate::event::EventId;
use tokio::time::Instant;

use crate::{
    redis::replica_of,
    support::{Gateway, PATIENCE, RedisServer, Request, WebSocket, event, id, numbers},
};

/// Reads on until the close, which comes after `drain`; returns the data that came before, and when the close came.
async fn drained(socket: &mut WebSocket) -> (Vec<String>, Instant) {
    let before = id(&socket.cursor());
    let (mut messages, closed) = socket.rest().await;
    let at = Instant::now();
    assert_eq!(closed.code, Some(1001), "{closed:?}");
    assert_eq!(closed.reason, "draining", "{closed:?}");
    let drain = messages.pop().unwrap();
    assert_eq!(drain["type"], "drain", "{drain}");
    assert!(drain["retry"].as_u64() > Some(0), "{drain}");
    let cursor = id(drain["cursor"].as_str().unwrap());
    assert!(cursor >= before, "{drain}");
    let data = messages.iter().filter(|message| message["type"] == "event");
    (data.map(|message| event(message).data).collect(), at)
}

#[tokio::test]
async fn each_gets_a_last_cursor_and_ends_in_its_own_time() {
    // Ten slots of 250 ms, and enough time after them that nobody is cut.
    let mut gateway = Gateway::with("drain.timeout", "10s").start().await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(gateway.follow("orders").await);
    }
    let published = gateway.publish("orders", "a").await;
    for socket in &mut sockets {
        assert_eq!(socket.take(1).await, ["a"]);
    }
    let begun = Instant::now();
    gateway.terminate();
    let ends = sockets.iter_mut().map(drained);
    let ends = futures_util::future::join_all(ends).await;
    for ((data, _), socket) in ends.iter().zip(&sockets) {
        assert!(data.is_empty(), "{data:?}");
        assert!(id(&socket.cursor()) >= published);
    }
    let first = ends.iter().map(|(_, at)| *at).min().unwrap();
    let last = ends.iter().map(|(_, at)| *at).max().unwrap();
    assert!(
        last - first > Duration::from_millis(400),
        "spread over two and a half seconds, not all within {:?}",
        last - first
    );
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
    assert!(begun.elapsed() < Duration::from_millis(10_800));
}

#[tokio::test]
async fn while_it_drains_newcomers_are_sent_away_and_who_is_there_is_served() {
    // Twenty slots of 250 ms: somebody is there when the event comes.
    let settings = Gateway::with("drain.timeout", "20s").with("stream.keepalive", "2s");
    let mut gateway = settings.start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(gateway.follow("orders").await);
    }
    gateway.terminate();
    gateway.is_unready().await;
    let published = gateway.publish("orders", "while it drains").await;
    let newcomer = gateway.ws("topic=orders");
    let error = newcomer.is_turned_away("draining", 1013).await;
    assert!(error["retry_after"].as_u64() > Some(0), "{error}");
    let ends = sockets.iter_mut().map(drained);
    let ends = futures_util::future::join_all(ends).await;
    let mut saw = 0;
    for ((data, _), socket) in ends.iter().zip(&sockets) {
        let got = *data == ["while it drains"];
        let cursor: EventId = id(&socket.cursor());
        assert_eq!(
            got,
            cursor >= published,
            "a cursor tells no more than was sent"
        );
        saw += u32::from(got);
    }
    assert!(saw > 0, "nobody got what was published while it drained");
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

/// The other replica takes up what the first one has told, events that were published meanwhile included.
#[tokio::test]
async fn who_was_sent_away_misses_nothing_elsewhere() {
    const EVENTS: usize = 400;
    let redis = RedisServer::start().await;
    let settings = Gateway::with("drain.timeout", "10s");
    let (a, b) = (
        replica_of(settings.clone(), &redis).await,
        replica_of(settings, &redis).await,
    );
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(a.follow("orders,stock").await);
    }
    let publishing = async {
        for number in 0..EVENTS {
            let topic = ["orders", "stock"][number % 2];
            b.publish(topic, &number.to_string()).await;
            if number == EVENTS / 4 {
                a.terminate();
            }
        }
    };
    let moving = futures_util::future::join_all(sockets.iter_mut().map(async |socket| {
        let (mut data, _) = drained(socket).await;
        let mut again = b.follow_after("orders,stock", socket.cursor()).await;
        assert_eq!(again.replay(), "complete");
        let left = EVENTS - data.len();
        data.extend(again.take(left).await);
        again.stays_silent().await;
        data
    }));
    let ((), all) = tokio::join!(publishing, moving);
    for data in all {
        assert_eq!(data, numbers(0..EVENTS));
    }
}

/// Neither somebody who reads nothing nor somebody who answers nothing holds up the end.
#[tokio::test]
async fn nobody_holds_up_the_end() {
    let gateway = Gateway::with("drain.timeout", "1s").start().await;
    let stuck = gateway.ws("topic=orders").narrow().open().await;
    let large = "x".repeat(60_000);
    gateway
        .publish_lines("orders", std::iter::repeat_n(large, 60))
        .await;
    let mute = gateway.follow("other").await;
    // The one would be given up after a minute, the other after three pings.
    let exit = gateway.stop(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
    drop((stuck, mute));
}

/// In `drain.delay` all still works.
#[tokio::test]
async fn in_the_delay_all_still_works() {
    let gateway = Gateway::with("drain.delay", "5s")
        .with("drain.timeout", "10s")
        .with("stream.keepalive", "2s")
        .start()
        .await;
    let mut before = gateway.follow("orders").await;
    gateway.terminate();
    gateway.is_unready().await;
    let mut newcomer = gateway.follow("orders").await;
    newcomer.subscribe(&["stock"]).await;
    before.publish("stock", "a").await;
    assert_eq!(newcomer.take(1).await, ["a"]);
    tokio::join!(drained(&mut before), drained(&mut newcomer));
}

/// The client comes back by itself: 1012 says that this is meant (IANA, registered for restarts).
#[tokio::test]
async fn an_operator_closes_one_connection() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let mut other = gateway.follow("orders").await;
    gateway.publish("orders", "a").await;
    for socket in [&mut socket, &mut other] {
        assert_eq!(socket.take(1).await, ["a"]);
    }
    let target = format!("/admin/connections/{}", socket.connection_id());
    let answer = gateway.ask_admin(Request::new("DELETE", &target)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    socket.closes(1012, "closed").await;
    let fields = [("message", "stream ended"), ("reason", "admin")];
    gateway.logged(&fields).await;
    gateway.publish("orders", "b").await;
    assert_eq!(other.take(1).await, ["b"]);
    let mut again = gateway.follow_after("orders", socket.cursor()).await;
    again.replays(["b"]).await;
}
