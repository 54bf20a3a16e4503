//! What does an event cost between the store and its subscribers, without sockets?

#[path = "support/stage.rs"]
mod stage;
mod support;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use stage::{append, hub};
use support::measure;
use tidegate::{
    event::Topic,
    hub::{Hub, Read, Subscriber},
    log::{Budget, Start},
};
use tokio::runtime::Runtime;

const EVENTS: usize = 200;
const BUDGET: Budget = Budget {
    frames: 64,
    bytes: 65_536,
};

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    for (topics, each) in [(1, 1), (1, 100), (1, 10_000), (1_000, 5), (10_000, 1)] {
        let deliveries = u32::try_from(each * EVENTS).expect("small");
        let prepare = || runtime.block_on(subscribed(topics, each));
        measure(
            &format!("deliver, {topics} topics × {each}, one by one"),
            deliveries,
            prepare,
            |stage| {
                runtime.block_on(async {
                    for at in 0..EVENTS {
                        let wanted = stage.delivered.load(Ordering::Relaxed) + each;
                        let event = append(&stage.topics[at % topics]);
                        stage.hub.store().append(vec![event]).await[0]
                            .as_ref()
                            .expect("stored");
                        while stage.delivered.load(Ordering::Relaxed) < wanted {
                            tokio::task::yield_now().await;
                        }
                    }
                });
            },
        );
    }
    measure(
        "append, nobody follows",
        100_000,
        || (runtime.block_on(async { hub() }), topic(0)),
        |(hub, topic)| {
            runtime.block_on(async {
                for _ in 0..200 {
                    hub.store()
                        .append((0..500).map(|_| append(topic)).collect())
                        .await;
                }
            });
        },
    );
}

struct Stage {
    hub: Hub,
    topics: Vec<Topic>,
    delivered: Arc<AtomicUsize>,
}

fn topic(number: usize) -> Topic {
    format!("topic-{number}").parse().expect("a topic")
}

async fn subscribed(topics: usize, each: usize) -> Stage {
    let stage = Stage {
        hub: hub(),
        topics: (0..topics).map(topic).collect(),
        delivered: Arc::default(),
    };
    for topic in &stage.topics {
        for _ in 0..each {
            let (subscriber, _) = stage
                .hub
                .subscribe(std::slice::from_ref(topic), Start::Now)
                .await
                .expect("subscribed");
            tokio::spawn(read(subscriber, stage.delivered.clone()));
        }
    }
    tokio::task::yield_now().await;
    stage
}

/// Reads for ever, as a stream's writer does.
async fn read(mut subscriber: Subscriber, delivered: Arc<AtomicUsize>) {
    poll_fn(|cx| {
        subscriber.wake_here(cx);
        Poll::Ready(())
    })
    .await;
    let mut frames = Vec::new();
    poll_fn(|cx| {
        while let Poll::Ready(read) = subscriber.poll_read(cx, &mut frames, BUDGET) {
            assert_eq!(read, Read::Events, "only events are published");
            subscriber.advance(frames.last().expect("events").id());
            delivered.fetch_add(frames.len(), Ordering::Relaxed);
            frames.clear();
        }
        Poll::<()>::Pending
    })
    .await;
}
