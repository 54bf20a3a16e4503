//! Replicas on one store, held against a tiny model, with a clock that tests move.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::store::{
    contract::everything,
    faulty::{Dice, Faults, FaultyStore, Sign},
    memory::MemoryStore,
    presence::Present,
};

const DEBOUNCE: Duration = Duration::from_secs(5);
/// Steps of time; no number of them is exactly the debounce.
const STEP: Duration = Duration::from_millis(700);
const REPLICAS: usize = 3;
const USERS: usize = 4;

/// One replica in one of its lives.
struct Life {
    presence: Arc<Presence>,
    store: FaultyStore,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    /// How many streams each user has at each topic.
    streams: BTreeMap<(usize, usize), usize>,
}

struct World {
    memory: MemoryStore,
    lives: Vec<Life>,
    number: usize,
    topics: [Topic; 2],
    dice: Dice,
}

fn user(number: usize) -> Arc<str> {
    format!("u{number}").into()
}

impl World {
    fn new(seed: u64) -> Self {
        let begun = Instant::now();
        let clock = move || {
            let passed = u64::try_from(begun.elapsed().as_millis());
            1_700_000_000_000 + passed.expect("a test is short")
        };
        let mut world = Self {
            memory: MemoryStore::with_clock(everything(), Arc::new(clock)),
            lives: Vec::new(),
            number: 0,
            topics: ["x", "y"].map(|name| name.parse().expect("a topic")),
            dice: Dice::new(seed),
        };
        for _ in 0..REPLICAS {
            let life = world.life();
            world.lives.push(life);
        }
        world
    }

    fn life(&mut self) -> Life {
        self.number += 1;
        // Of any order, and none twice.
        let name = format!("{:02}-{}", self.dice.below(100), self.number);
        let seed = self.dice.roll();
        let store = FaultyStore::new(self.memory.clone(), Faults::default(), seed);
        let presence = Presence::new(Arc::new(store.clone()), &name, DEBOUNCE);
        let (presence, stop) = (Arc::new(presence), CancellationToken::new());
        Life {
            task: tokio::spawn(presence.clone().run(stop.clone())),
            presence,
            store,
            stop,
            streams: BTreeMap::new(),
        }
    }

    fn open(&mut self, at: usize, who: usize, topic: usize) {
        let life = &mut self.lives[at];
        life.presence
            .begins(&user(who), &self.topics[topic..=topic], true);
        *life.streams.entry((who, topic)).or_default() += 1;
    }

    fn close(&mut self, at: usize, who: usize, topic: usize) {
        let life = &mut self.lives[at];
        if let Some(count) = life
            .streams
            .get_mut(&(who, topic))
            .filter(|count| **count > 0)
        {
            *count -= 1;
            life.presence
                .ends(&user(who), &self.topics[topic..=topic], true);
        }
    }

    /// The process is no more, and another one takes its place.
    fn crash(&mut self, at: usize) {
        self.lives[at].task.abort();
        self.lives[at] = self.life();
    }

    /// A deploy: its streams end, it says good-bye, another one takes its place.
    async fn deploy(&mut self, at: usize) -> Vec<(usize, usize)> {
        let open: Vec<_> = self.lives[at].streams.clone().into_iter().collect();
        let mut closed = Vec::new();
        for ((who, topic), count) in open {
            for _ in 0..count {
                self.close(at, who, topic);
                closed.push((who, topic));
            }
        }
        let next = self.life();
        let old = std::mem::replace(&mut self.lives[at], next);
        old.stop.cancel();
        old.task.await.expect("it ends");
        closed
    }

    fn is_there(&self, who: usize, topic: usize) -> bool {
        let count = |life: &Life| life.streams.get(&(who, topic)).copied().unwrap_or(0);
        self.lives.iter().any(|life| count(life) > 0)
    }

    /// All who are there, by the model.
    fn wanted(&self, topic: usize) -> Vec<Arc<str>> {
        let there = (0..USERS).filter(|who| self.is_there(*who, topic));
        there.map(user).collect()
    }

    async fn listed(&self) -> [Vec<Arc<str>>; 3] {
        let places = [
            Some(self.topics[0].clone()),
            Some(self.topics[1].clone()),
            None,
        ];
        let presence = self.memory.present(&places).await.expect("it is well");
        let users = presence
            .places
            .into_iter()
            .map(|Present { users, .. }| users);
        let users: Vec<_> = users.collect();
        users.try_into().expect("three places")
    }

    /// The events of each user at a topic, in their order.
    async fn told(&self, topic: usize) -> BTreeMap<String, Vec<String>> {
        let presence = self.topics[topic].presence();
        let page = self
            .memory
            .read(&presence, crate::event::EventId::ZERO, 100_000)
            .await;
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in page.expect("it is well").events {
            let data: BTreeMap<String, String> = serde_json::from_str(&event.data).expect("JSON");
            let kinds = told.entry(data["user"].clone()).or_default();
            kinds.push(event.kind.as_str().to_owned());
        }
        told
    }

    async fn agrees(&self, seed: u64) {
        let [x, y, anywhere] = self.listed().await;
        assert_eq!((x, y), (self.wanted(0), self.wanted(1)), "seed {seed}");
        let all: BTreeSet<_> = [self.wanted(0), self.wanted(1)]
            .concat()
            .into_iter()
            .collect();
        let all: Vec<_> = all.into_iter().collect();
        assert_eq!(anywhere, all, "seed {seed}");
    }
}

/// While nothing breaks, exactly those join and leave who were away for the debounce, wherever their streams are.
#[tokio::test(start_paused = true)]
async fn who_was_away_for_the_debounce_has_left_and_nobody_else() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        let mut wanted: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
        let mut away: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for _ in 0..150 {
            for _ in 0..world.dice.below(4) {
                let (at, who) = (world.dice.below(REPLICAS), world.dice.below(USERS));
                let topic = world.dice.below(2);
                match world.dice.below(5) {
                    0 | 1 => world.open(at, who, topic),
                    // A page that is loaded again, here or elsewhere.
                    2 if world.lives[at]
                        .streams
                        .get(&(who, topic))
                        .is_some_and(|it| *it > 0) =>
                    {
                        world.close(at, who, topic);
                        let at = world.dice.below(REPLICAS);
                        world.open(at, who, topic);
                    }
                    _ => world.close(at, who, topic),
                }
            }
            // Who is away while its replica leaves gets the debounce once more.
            let nobody_is_away = away
                .values()
                .all(|gone| *gone == 0 || STEP * *gone > DEBOUNCE);
            if world.dice.once_in(10) && nobody_is_away {
                let at = world.dice.below(REPLICAS);
                for (who, topic) in world.deploy(at).await {
                    let at = world.dice.below(REPLICAS);
                    world.open(at, who, topic);
                }
            }
            time::sleep(STEP).await;
            for (who, topic) in (0..USERS).flat_map(|who| [(who, 0), (who, 1)]) {
                let told = wanted.entry((who, topic)).or_default();
                let gone = away.entry((who, topic)).or_default();
                *gone = if world.is_there(who, topic) {
                    0
                } else {
                    *gone + 1
                };
                let there = told.last() == Some(&"join");
                if *gone == 0 && !there {
                    told.push("join");
                } else if STEP * *gone > DEBOUNCE && there {
                    told.push("leave");
                }
            }
        }
        for topic in 0..2 {
            let told = world.told(topic).await;
            for who in 0..USERS {
                let got = told.get(&*user(who)).cloned().unwrap_or_default();
                assert_eq!(
                    got,
                    wanted[&(who, topic)],
                    "seed {seed}, user {who}, topic {topic}"
                );
            }
        }
    }
}

/// Whatever breaks, in the end everybody knows who is there; and who came and went is told in turn, once.
#[tokio::test(start_paused = true)]
async fn after_any_storm_the_table_is_right_and_events_alternate() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let resets = seed % 4 == 3;
        for round in 0..120 {
            for _ in 0..world.dice.below(5) {
                let (at, who) = (world.dice.below(REPLICAS), world.dice.below(USERS));
                let topic = world.dice.below(2);
                if world.dice.once_in(2) {
                    world.open(at, who, topic);
                } else {
                    world.close(at, who, topic);
                }
            }
            let at = world.dice.below(REPLICAS);
            match world.dice.below(24) {
                0 => world.crash(at),
                1 => drop(world.deploy(at).await),
                2 => {
                    // Also for longer than its lease: it is taken for gone, and comes back.
                    let outage = world.dice.up_to(Duration::from_secs(15));
                    world.lives[at].store.go_away(outage);
                }
                3 => world.lives[at].store.set_faults(Faults {
                    unanswered: 2,
                    slow: Duration::from_millis(300),
                    ..Faults::default()
                }),
                4 => world.lives[at].store.set_faults(Faults::default()),
                5 if resets && round < 80 => world.lives[at].store.reset(Sign::Cut),
                _ => {}
            }
            let step = world.dice.up_to(STEP);
            time::sleep(step).await;
        }
        for life in &world.lives {
            life.store.set_faults(Faults::default());
        }
        // A lease, the patience of whoever sweeps, the debounce, and some renewals.
        time::sleep(Duration::from_secs(40)).await;
        world.agrees(seed).await;
        for topic in 0..2 {
            for (who, kinds) in world.told(topic).await {
                // A log that was born again may begin with a leave.
                let begins_well = resets || kinds[0] == "join";
                let alternates = kinds.windows(2).all(|two| two[0] != two[1]);
                assert!(begins_well && alternates, "seed {seed}: {who} {kinds:?}");
            }
        }
    }
}

/// An open stream is never told to have left while its replica lives and the store answers, whatever others do.
#[tokio::test(start_paused = true)]
async fn a_store_that_was_away_for_long_has_seen_nobody_go() {
    let mut world = World::new(1);
    for at in 0..REPLICAS {
        world.open(at, at, 0);
    }
    time::sleep(Duration::from_secs(20)).await;
    for (at, seconds) in [(0, 33), (1, 30), (2, 36)] {
        world.lives[at].store.go_away(Duration::from_secs(seconds));
    }
    time::sleep(Duration::from_mins(2)).await;
    world.agrees(1).await;
    let told = world.told(0).await;
    assert!(told.values().all(|kinds| *kinds == ["join"]), "{told:?}");
}

/// Nothing of it stays when nobody is there any more.
#[tokio::test(start_paused = true)]
async fn a_table_without_users_is_empty() {
    let mut world = World::new(1);
    for who in 0..USERS {
        world.open(0, who, 0);
        world.open(0, who, 1);
        world.close(0, who, 0);
    }
    time::sleep(STEP).await;
    for who in 0..USERS {
        world.close(0, who, 1);
    }
    time::sleep(DEBOUNCE + STEP).await;
    let presence = &world.lives[0].presence;
    let stats = presence.stats();
    assert_eq!(
        (stats.users, stats.joined, stats.left, stats.failures),
        (0, 8, 8, 0)
    );
    let is_empty = presence.table.lock().is_empty();
    assert!(is_empty, "something is left");
    world.agrees(1).await;
}
