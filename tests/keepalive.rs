//! Silence is filled, so that neither a proxy nor a browser takes it for the end.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::support::{Gateway, Subscriber, id};

const KEEPALIVE: Duration = Duration::from_millis(600);

/// Drawn anew for each stream, but never longer than what was set by much, and never so short that it is chatter.
fn is_timely(silence: Duration) -> bool {
    silence > KEEPALIVE / 2 && silence < KEEPALIVE * 3 / 2
}

#[tokio::test]
async fn silence_is_filled_with_a_comment() {
    let gateway = Gateway::with("stream.keepalive", "600ms").start().await;
    let mut reader = gateway.subscribe("orders").await;
    let opened = reader.raw.len();
    let mut since = Instant::now();
    for _ in 0..3 {
        let (frame, at) = reader.frame_or_end().await.unwrap();
        assert_eq!(frame.comments, ["keepalive"], "{frame:?}");
        assert!(is_timely(at - since), "after {:?}", at - since);
        since = at;
    }
    let raw = std::str::from_utf8(&reader.raw[opened..]).unwrap();
    let kept = raw.replace(": keepalive\n\n", "");
    assert_eq!(kept, "", "{raw:?}");
}

/// Counted from the last write: who gets events needs no sign of life.
#[tokio::test]
async fn an_event_begins_the_silence_anew() {
    let gateway = Gateway::with("stream.keepalive", "600ms").start().await;
    let mut reader = gateway.subscribe("orders").await;
    for number in 0..12 {
        gateway.publish("orders", &number.to_string()).await;
        sleep(Duration::from_millis(100)).await;
    }
    for number in 0..12 {
        let frame = reader.frame().await;
        assert_eq!(frame.data, Some(number.to_string()), "no sign of life yet");
    }
    let since = Instant::now();
    let (frame, at) = reader.frame_or_end().await.unwrap();
    assert_eq!(frame.comments, ["keepalive"]);
    // The last event came up to 100 ms before.
    assert!(is_timely(at - since + Duration::from_millis(100)));
}

/// A checkpoint takes the place of the comment when there is something to tell, and only then.
#[tokio::test]
async fn a_checkpoint_comes_once_for_what_others_published() {
    let gateway = Gateway::with("stream.keepalive", "300ms").start().await;
    let mut reader = gateway.subscribe("orders").await;
    let elsewhere = gateway.publish("other", "a").await;
    let frame = reader.frame().await;
    assert_eq!(frame.event.as_deref(), Some("$cursor"));
    assert_eq!(id(frame.id.as_deref().unwrap()), elsewhere);
    assert_eq!(frame.data.as_deref(), Some(""));
    let frame = reader.frame().await;
    assert_eq!(frame.comments, ["keepalive"], "nothing has moved since");
    assert_eq!(frame.id, None);
}

#[tokio::test]
async fn a_heartbeat_takes_the_place_of_the_comment_for_who_asks() {
    let gateway = Gateway::with("stream.keepalive", "300ms").start().await;
    let mut reader = gateway.events("topic=orders&heartbeat=event").open().await;
    for _ in 0..2 {
        let frame = reader.frame().await;
        assert_eq!(frame.event.as_deref(), Some("$heartbeat"), "{frame:?}");
        assert_eq!((&frame.id, frame.comments.len()), (&None, 0));
    }
    // The cursor of a quiet topic moves all the same.
    let elsewhere = gateway.publish("other", "a").await;
    loop {
        let frame = reader.frame().await;
        assert!(frame.comments.is_empty(), "{frame:?}");
        if let Some(cursor) = frame.id {
            assert_eq!(id(&cursor), elsewhere);
            break;
        }
    }
}

/// Streams that were opened together do not all wake at the same moment for ever.
#[tokio::test]
async fn keepalives_of_many_streams_are_spread() {
    let gateway = Gateway::with("stream.keepalive", "1s").start().await;
    let mut readers = Vec::new();
    for _ in 0..20 {
        readers.push(gateway.subscribe("orders").await);
    }
    let first = async |mut reader: Subscriber| {
        let (frame, at) = reader.frame_or_end().await.unwrap();
        assert_eq!(frame.comments, ["keepalive"]);
        at
    };
    let moments = join_all(readers.into_iter().map(first)).await;
    let spread = *moments.iter().max().unwrap() - *moments.iter().min().unwrap();
    assert!(
        spread > Duration::from_millis(30),
        "all came within {spread:?}"
    );
}
