//! What does it cost when everybody comes back at once, without sockets?

#[path = "support/stage.rs"]
mod stage;
mod support;

use std::{future::poll_fn, task::Poll};

use stage::{append, hub};
use support::measure;
use tidegate::{
    event::{EventId, Topic},
    hub::{Hub, Read},
    log::{Budget, Cursor, Start},
};
use tokio::{runtime::Runtime, task::JoinSet};

const MISSED: usize = 100;
const BUDGET: Budget = Budget {
    frames: 64,
    bytes: 65_536,
};

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    for (clients, behind) in [(2_000, 0), (5_000, 0), (2_000, 5_000)] {
        let name = if behind == 0 {
            "from the tail"
        } else {
            "from the store"
        };
        let events = u32::try_from(clients * MISSED).expect("small");
        let prepare = || runtime.block_on(history(behind));
        measure(
            &format!("{clients} clients resume {MISSED} events {name}"),
            events,
            prepare,
            |(hub, topic, cursor)| {
                runtime.block_on(async {
                    let mut all = JoinSet::new();
                    for _ in 0..clients {
                        all.spawn(resume(hub.clone(), topic.clone(), *cursor));
                    }
                    all.join_all().await;
                });
                let pages = hub
                    .counters()
                    .pages
                    .load(std::sync::atomic::Ordering::Relaxed);
                assert!(pages <= 20, "{pages} pages were read from the store");
            },
        );
    }
}

/// A topic with events, and the cursor of somebody who missed the last of them, with `behind` more after those.
async fn history(behind: usize) -> (Hub, Topic, Cursor) {
    let (hub, topic): (Hub, Topic) = (hub(), "orders".parse().expect("a topic"));
    let (_follower, _) = hub
        .subscribe(std::slice::from_ref(&topic), Start::Now)
        .await
        .expect("subscribed");
    let mut ids: Vec<EventId> = Vec::new();
    for _ in 0..1 + MISSED + behind {
        ids.push(
            hub.store().append(vec![append(&topic)]).await[0]
                .as_ref()
                .expect("stored")
                .id,
        );
    }
    (hub, topic, ids[0].into())
}

async fn resume(hub: Hub, topic: Topic, cursor: Cursor) {
    let (mut subscriber, opening) = hub
        .subscribe(&[topic], Start::After(cursor))
        .await
        .expect("subscribed");
    assert_eq!(opening.replay.as_str(), "complete");
    poll_fn(|cx| {
        subscriber.wake_here(cx);
        Poll::Ready(())
    })
    .await;
    let (mut frames, mut count) = (Vec::new(), 0);
    poll_fn(|cx| {
        loop {
            frames.clear();
            let Poll::Ready(read) = subscriber.poll_read(cx, &mut frames, BUDGET) else {
                return Poll::Pending;
            };
            if let (Read::Events, Some(last)) = (read, frames.last()) {
                count += frames.len();
                subscriber.advance(last.id());
            }
            if count >= MISSED {
                return Poll::Ready(());
            }
        }
    })
    .await;
}
