//! Silence is filled, so that neither a proxy nor a browser takes it for the end.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::support::{Gateway, Subscriber, id, within};

const KEEPALIVE: Duration = Duration::from_millis(600);

/// Drawn anew each time, but never longer than what was set by much, and never so short that it is chatter. What a slow machine
/// adds to one silence it does not add to each of ten.
#[tokio::test]
async fn silence_is_filled_with_a_comment() {
    let gateway = Gateway::with("stream.keepalive", "600ms").start().await;
    // Not after the stream began, so that the first silence does not seem shorter than it was.
    let begun = Instant::now();
    let mut reader = gateway.subscribe("orders").await;
    let opened = reader.raw.len();
    let mut last = begun;
    for _ in 0..10 {
        let (frame, at) = reader.frame_or_end().await.unwrap();
        assert_eq!(frame.comments, ["keepalive"], "{frame:?}");
        last = at;
    }
    let silence = (last - begun) / 10;
    let timely = KEEPALIVE * 3 / 4..KEEPALIVE * 3 / 2;
    assert!(timely.contains(&silence), "{silence:?} each");
    let raw = std::str::from_utf8(&reader.raw[opened..]).unwrap();
    let kept = raw.replace(": keepalive\n\n", "");
    assert_eq!(kept, "", "{raw:?}");
}

/// Counted from the last write: who gets events needs no sign of life.
#[tokio::test]
async fn an_event_begins_the_silence_anew() {
    let gateway = Gateway::with("stream.keepalive", "600ms").start().await;
    let mut before = Instant::now();
    let mut reader = gateway.subscribe("orders").await;
    // Counted from before the last event was published: a sign of life that comes sooner does not count from it.
    let is_due = |before: Instant, at: Instant| {
        let silence = at - before;
        assert!(silence > KEEPALIVE / 2, "only {silence:?} after an event");
    };
    for number in 0..12 {
        let begun = Instant::now();
        gateway.publish("orders", &number.to_string()).await;
        loop {
            let (frame, at) = reader.frame_or_end().await.unwrap();
            if frame.data == Some(number.to_string()) {
                break;
            }
            // Only where the machine was slow.
            assert_eq!(frame.comments, ["keepalive"], "{frame:?}");
            is_due(before, at);
        }
        before = begun;
        sleep(Duration::from_millis(100)).await;
    }
    let (frame, at) = reader.frame_or_end().await.unwrap();
    assert_eq!(frame.comments, ["keepalive"]);
    is_due(before, at);
}

/// A checkpoint takes the place of the comment when there is something to tell, and only then.
#[tokio::test]
async fn a_checkpoint_comes_once_for_what_others_published() {
    let gateway = Gateway::with("stream.keepalive", "300ms").start().await;
    let mut reader = gateway.subscribe("orders").await;
    let elsewhere = gateway.publish("other", "a").await;
    // Before it was published there may have been silence enough for a comment.
    let frame = within("a checkpoint", async {
        loop {
            let frame = reader.frame().await;
            if frame.comments != ["keepalive"] {
                break frame;
            }
            assert_eq!(frame.id, None);
        }
    })
    .await;
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
    const ROUNDS: usize = 4;
    let gateway = Gateway::with("stream.keepalive", "1s").start().await;
    let mut readers = Vec::new();
    for _ in 0..20 {
        readers.push(gateway.subscribe("orders").await);
    }
    let moments = async |mut reader: Subscriber| {
        let mut moments = Vec::new();
        for _ in 0..ROUNDS {
            let (frame, at) = reader.frame_or_end().await.unwrap();
            assert_eq!(frame.comments, ["keepalive"]);
            moments.push(at);
        }
        moments
    };
    let moments = join_all(readers.into_iter().map(moments)).await;
    let spread = |round: usize| {
        let moments = moments.iter().map(|moments| moments[round]);
        moments.clone().max().unwrap() - moments.min().unwrap()
    };
    // Whoever stood still for a moment finds a whole round waiting, but not each.
    let widest = (0..ROUNDS).map(spread).max().unwrap();
    assert!(
        widest > Duration::from_millis(30),
        "all came within {widest:?}"
    );
}
