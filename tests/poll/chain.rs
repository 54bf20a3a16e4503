//! A chain of polls under everything at once: each event comes once, or it is told that some are missing.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::time::sleep;

use crate::support::{Gateway, Poll, Polled, Subscription, WaitingPoll, numbers};

/// Numbers that look like chance and are the same in every run (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of so many.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % sides as u64).unwrap()
    }
}

/// What somebody has read of each topic, whose events are numbered from 0.
#[derive(Debug)]
struct Reader {
    /// The next number, by topic.
    next: BTreeMap<String, usize>,
    /// Topics in which a gap was told, and nothing came since.
    told: Vec<String>,
    came: usize,
    gaps: usize,
}

impl Reader {
    fn new(topics: &[&str]) -> Self {
        Self {
            next: topics
                .iter()
                .map(|topic| ((*topic).to_owned(), 0))
                .collect(),
            told: Vec::new(),
            came: 0,
            gaps: 0,
        }
    }

    /// Takes an answer: numbers go on without a hole, but where a gap was told before.
    fn takes(&mut self, polled: &Polled, seed: u64) {
        if polled.replay == "gap" {
            assert_eq!(
                polled.reason.as_deref(),
                Some("retention"),
                "{seed}: {polled:?}"
            );
            self.told.extend(polled.topics.iter().cloned());
            self.gaps += 1;
        } else {
            assert_eq!(polled.replay, "complete", "{seed}: {polled:?}");
        }
        for event in &polled.events {
            let topic = event.topic.as_deref().unwrap();
            let number: usize = event.data.split(' ').next().unwrap().parse().unwrap();
            let next = self.next.get_mut(topic).unwrap();
            assert!(
                number >= *next,
                "{seed}: {topic} {number} again, after {next} was due"
            );
            let told = self.told.iter().any(|told| told == topic);
            assert!(
                number == *next || told,
                "{seed}: {topic} {number} came where {next} was due, and no gap was told"
            );
            *next = number + 1;
            self.told.retain(|told| told != topic);
            self.came += 1;
        }
    }
}

/// Publishes so many events to each topic, in pieces and pauses of a random size.
async fn publish(gateway: &Gateway, topics: &[&str], each: usize, seed: u64) {
    let mut dice = Dice::new(seed ^ 0xffff);
    let mut numbers: Vec<usize> = vec![0; topics.len()];
    while numbers.iter().any(|number| *number < each) {
        let mut batch = Vec::new();
        for _ in 0..=dice.roll(12) {
            let at = dice.roll(topics.len());
            if numbers[at] < each {
                let data = format!("{} {}", numbers[at], "x".repeat(dice.roll(300)));
                batch.push(serde_json::json!({"topic": topics[at], "data": data}));
                numbers[at] += 1;
            }
        }
        if batch.is_empty() {
            continue;
        }
        let answer = gateway.post(serde_json::to_string(&batch).unwrap()).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        if dice.roll(4) == 0 {
            sleep(Duration::from_millis(dice.roll(8) as u64)).await;
        }
    }
}

/// Polls with random limits and waits, sometimes leaves before the answer and sometimes forgets it, until all has come.
async fn follow(
    addresses: &[SocketAddr],
    topics: &[&str],
    each: usize,
    mut cursor: String,
    seed: u64,
) -> Reader {
    let mut dice = Dice::new(seed);
    let mut reader = Reader::new(topics);
    let all = topics.join(",");
    while reader.next.values().any(|next| *next < each) {
        let address = addresses[dice.roll(addresses.len())];
        let limit = [1, 2, 5, 17, 100, 1000][dice.roll(6)];
        let wait = ["0s", "1ms", "20ms", "300ms", "60s"][dice.roll(5)];
        // The last may have come already by an answer that was forgotten, and is still to be read.
        let query = format!("topic={all}&limit={limit}&wait={wait}");
        let poll = if dice.roll(2) == 0 {
            Poll::new(address, &query).after(&cursor)
        } else {
            Poll::new(address, &format!("{query}&lastEventId={cursor}"))
        };
        match dice.roll(10) {
            0 => {
                let leaves: WaitingPoll = poll.begin().await;
                sleep(Duration::from_millis(dice.roll(5) as u64)).await;
                drop(leaves);
            }
            1 => {
                // An answer that got lost on the way: the cursor stays.
                let mut waiting = poll.begin().await;
                let lost = tokio::time::timeout(Duration::from_millis(50), waiting.response());
                let _ = lost.await;
            }
            2 => {
                // The same by a stream, for a while.
                let subscription = Subscription::new(address, &format!("topic={all}"));
                let stream = subscription.header("Last-Event-ID", &cursor).open().await;
                if stream.replay() == "complete" {
                    cursor = stream.cursor();
                }
            }
            _ => {
                let polled = poll.answer().await;
                assert!(polled.events.len() <= limit, "{seed}: {polled:?}");
                reader.takes(&polled, seed);
                cursor.clone_from(&polled.cursor);
            }
        }
    }
    reader
}

#[tokio::test]
async fn a_chain_under_random_publishing_gets_each_event_once() {
    const EACH: usize = 250;
    let topics = ["a", "b", "c"];
    for seed in [1, 2, 3] {
        let gateway = Gateway::with("tail.events", 40).start().await;
        let cursor = gateway.poller("a,b,c").await.cursor;
        let addresses = [gateway.public];
        let chains = (0..4).map(|which| {
            let seed = seed * 1_000 + which;
            follow(&addresses, &topics, EACH, cursor.clone(), seed)
        });
        let chains = futures_util::future::join_all(chains);
        let ((), readers) = tokio::join!(publish(&gateway, &topics, EACH, seed), chains);
        for reader in readers {
            assert_eq!(reader.came, 3 * EACH, "seed {seed}");
            assert_eq!(reader.gaps, 0, "seed {seed}");
        }
        gateway.has_seen_all_leave().await;
        gateway.has_places_taken(0).await;
    }
}

/// With little kept, a slow chain misses much; it is told before what comes after it, and never without cause.
#[tokio::test]
async fn a_chain_that_retention_overtakes_is_told_each_time() {
    const EACH: usize = 400;
    let topics = ["a", "b"];
    let mut gaps = 0;
    for seed in [11, 12, 13] {
        let gateway = Gateway::with("retention.events", 12)
            .with("tail.events", 8)
            .start()
            .await;
        let cursor = gateway.poller("a,b").await.cursor;
        let addresses = [gateway.public];
        let chains = (0..4).map(|which| {
            let seed = seed * 1_000 + which;
            follow(&addresses, &topics, EACH, cursor.clone(), seed)
        });
        let chains = futures_util::future::join_all(chains);
        let ((), readers) = tokio::join!(publish(&gateway, &topics, EACH, seed), chains);
        for reader in readers {
            let missed = 2 * EACH - reader.came;
            assert!(missed == 0 || reader.gaps > 0, "seed {seed}: {reader:?}");
            gaps += reader.gaps;
        }
    }
    assert!(gaps > 0, "the test wants holes");
}

/// Whoever reads one event an answer gets as far as whoever reads a thousand.
#[tokio::test]
async fn a_chain_of_single_events_ends_where_all_do() {
    let gateway = Gateway::start().await;
    let cursor = gateway.poller("orders").await.cursor;
    gateway.publish_lines("orders", numbers(0..120)).await;
    let mut poller = crate::support::Poller::from(gateway.public, "orders", &cursor);
    let mut seen = Vec::new();
    while seen.len() < 120 {
        let polled = poller.once("limit=1&wait=0s").await;
        polled.is_complete();
        assert_eq!(polled.events.len(), 1, "{polled:?}");
        seen.extend(polled.events.into_iter().map(|event| event.data));
    }
    assert_eq!(seen, numbers(0..120));
    poller.stays_silent().await;
}

/// Two replicas of one log, and a chain that asks whichever comes first.
pub(super) async fn over_replicas(gateways: &[Gateway], seeds: &[u64]) {
    const EACH: usize = 150;
    let addresses: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.public).collect();
    for &seed in seeds {
        let names = [format!("{seed}/a"), format!("{seed}/b")];
        let topics = [names[0].as_str(), names[1].as_str()];
        let cursor = gateways[0].poller(&topics.join(",")).await.cursor;
        let chains = (0..4).map(|which| {
            let seed = seed * 1_000 + which;
            follow(&addresses, &topics, EACH, cursor.clone(), seed)
        });
        let chains = futures_util::future::join_all(chains);
        // One publisher a replica, of one topic each, so that the numbers of a topic are in order.
        let publishers = topics.iter().enumerate().map(|(at, topic)| async move {
            let gateway = &gateways[at % gateways.len()];
            publish(gateway, &[topic], EACH, seed + at as u64).await;
        });
        let publishers = futures_util::future::join_all(publishers);
        let (_, readers) = tokio::join!(publishers, chains);
        for reader in readers {
            assert_eq!(reader.came, 2 * EACH, "seed {seed}");
            assert_eq!(reader.gaps, 0, "seed {seed}");
        }
    }
}
