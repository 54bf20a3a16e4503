//! What is promised of who follows what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{AGE, Home, LONG, Opened, everything, topic};
use crate::{
    event::Topic,
    store::{
        Store,
        faulty::Dice,
        presence::{CHANGES, Heard, LISTED, Mark, Standing, Turn, Whereabouts, Word},
    },
};

/// One that ends within no test.
const LEASE: Duration = Duration::from_mins(5);

/// A replica that speaks.
struct Speaker {
    store: Arc<dyn Store>,
    name: Arc<str>,
    after: Option<Mark>,
}

impl Speaker {
    fn new(store: &Arc<dyn Store>, name: &str) -> Self {
        Self {
            store: store.clone(),
            name: name.into(),
            after: None,
        }
    }

    async fn say_for(&mut self, lease: Duration, changes: Vec<(Turn, Whereabouts)>) -> Heard {
        let word = Word {
            replica: self.name.clone(),
            lease,
            after: self.after.clone(),
            changes,
        };
        let heard = self.store.hear(&word).await.expect("the store is well");
        self.after = Some(heard.mark.clone());
        heard
    }

    /// Says what `words` names: `+alice@a` she came to the topic a, `=`, `-`; without a topic: to any.
    async fn say(&mut self, words: &str) -> Heard {
        let changes = words.split_whitespace().map(change).collect();
        self.say_for(LEASE, changes).await
    }

    async fn said(&self) -> BTreeSet<Whereabouts> {
        let said = self.store.said(&self.name).await;
        said.expect("the store is well").into_iter().collect()
    }
}

fn change(word: &str) -> (Turn, Whereabouts) {
    let (sign, rest) = word.split_at(1);
    let turn = match sign {
        "+" => Turn::Comes,
        "=" => Turn::Stays,
        _ => Turn::Goes,
    };
    (turn, whereabouts(rest))
}

fn whereabouts(text: &str) -> Whereabouts {
    let (user, at) = text.split_once('@').unwrap_or((text, ""));
    Whereabouts {
        topic: (!at.is_empty()).then(|| topic(at)),
        user: user.into(),
    }
}

impl Opened {
    async fn users(&self, at: Option<&str>) -> Vec<String> {
        let places = [at.map(topic)];
        let presence = self
            .store
            .present(&places)
            .await
            .expect("the store is well");
        let present = &presence.places[0];
        assert_eq!(present.total, present.users.len() as u64);
        present.users.iter().map(ToString::to_string).collect()
    }

    /// Who came and went, as events tell it.
    async fn changes(&self, at: &Topic) -> Vec<String> {
        let events = self.all(&at.presence()).await;
        super::assert_chained(&events);
        let change = |event: &Arc<crate::event::Event>| {
            let data: BTreeMap<String, String> =
                serde_json::from_str(&event.data).expect("it is JSON");
            format!("{} {}", event.kind.as_str(), data["user"])
        };
        events.iter().map(change).collect()
    }
}

/// The first replica on which a user is makes it come, the last one makes it go.
pub async fn a_user_is_told_once_however_many_replicas_it_is_on(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let other = home.replica(&opened).await;
    let (mut a, mut b) = (Speaker::new(&opened.store, "a"), Speaker::new(&other, "b"));
    assert_eq!(a.say("+ann +ann@x +bob@x +bob@y").await.events, [3, 0]);
    assert_eq!(b.say("+ann@x +ann").await.events, [0, 0]);
    // To say a thing again changes nothing.
    assert_eq!(a.say("+ann@x +ann@x =bob@x").await.events, [0, 0]);
    assert_eq!(opened.users(Some("x")).await, ["ann", "bob"]);
    assert_eq!(opened.users(Some("y")).await, ["bob"]);
    assert_eq!(opened.users(None).await, ["ann"]);
    assert_eq!(a.say("-ann@x -ann -bob@y -eve@y").await.events, [0, 1]);
    assert_eq!(b.say("-ann@x -ann -bob@x").await.events, [0, 1]);
    assert_eq!(opened.users(Some("x")).await, ["bob"]);
    assert_eq!(opened.users(Some("y")).await, <[&str; 0]>::default());
    assert_eq!(opened.users(None).await, <[&str; 0]>::default());
    let wanted = ["join ann", "join bob", "leave ann"];
    assert_eq!(opened.changes(&topic("x")).await, wanted);
    assert_eq!(opened.changes(&topic("y")).await, ["join bob", "leave bob"]);
    assert_eq!(a.said().await, BTreeSet::from([whereabouts("bob@x")]));
    assert_eq!(b.said().await, BTreeSet::new());
    // Whoever follows the events from the moment of the list misses none.
    let list = opened.store.present(&[]).await.expect("the store is well");
    assert_eq!(list.last, opened.position(&[]).await.last);
}

/// A user is any text, and stands in an event as JSON.
pub async fn a_user_may_be_called_anything(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut a = Speaker::new(&opened.store, "a");
    let names = [
        "",
        " ",
        "a b",
        "\"\\/",
        "ü\u{2028}🦀",
        "{}",
        "*",
        "$",
        "a\tb\n",
        "0",
    ];
    let at = |name: &&str| Whereabouts {
        topic: Some(topic("a:b")),
        user: (*name).into(),
    };
    let changes = names.iter().map(|name| (Turn::Comes, at(name)));
    let heard = a.say_for(LEASE, changes.collect()).await;
    assert_eq!(heard.events, [names.len() as u64, 0]);
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(opened.users(Some("a:b")).await, sorted);
    let told = names.map(|name| format!("join {name}"));
    assert_eq!(opened.changes(&topic("a:b")).await, told);
    assert_eq!(a.said().await, names.iter().map(at).collect());
}

/// What is said of a replica that says nothing any more can be taken by any other, once.
pub async fn whoever_is_silent_is_swept_and_nobody_else(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let (mut a, mut b, mut c) = (
        Speaker::new(&opened.store, "a"),
        Speaker::new(&opened.store, "b"),
        Speaker::new(&opened.store, "c"),
    );
    a.say("+ann@x +bob@x").await;
    assert_eq!(a.say("").await.standing, Standing::Kept);
    let users = (0..CHANGES)
        .map(|user| change(&format!("+{user}@y")))
        .collect();
    a.say_for(AGE, users).await;
    assert!(b.say("+bob@x").await.over.is_empty());
    let name = a.name.clone();
    let sweep = async || opened.store.sweep(&name).await.expect("the store is well");
    assert_eq!(sweep().await, (false, [0, 0]), "it lives");
    opened.pass(LONG).await;
    // One is asked to: the first by name that lives.
    assert!(c.say("").await.over.is_empty());
    assert_eq!(b.say("").await.over, [a.name.clone()]);
    let (more, first) = sweep().await;
    let (again, second) = sweep().await;
    assert!(more && !again);
    assert_eq!(
        [first[1] + second[1], first[0] + second[0]],
        [CHANGES as u64 + 1, 0]
    );
    assert_eq!(sweep().await, (false, [0, 0]));
    assert_eq!(opened.users(Some("x")).await, ["bob"]);
    assert!(b.say("").await.over.is_empty());
    let wanted = ["join ann", "join bob", "leave ann"];
    assert_eq!(opened.changes(&topic("x")).await, wanted);
    // It was only slow, says so, and is told that its word did not stand.
    assert_eq!(a.say("").await.standing, Standing::Doubtful);
    assert_eq!(a.say("+ann@x +bob@x").await.events, [1, 0]);
    assert_eq!(a.say("").await.standing, Standing::Kept);
    assert_eq!(opened.users(Some("x")).await, ["ann", "bob"]);
    assert_eq!(sweep().await, (false, [0, 0]), "it lives again");
}

/// A replica finds out that its words were lost, or that one arrived whose answer was lost.
pub async fn a_replica_is_told_what_became_of_its_words(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut a = Speaker::new(&opened.store, "a");
    assert_eq!(
        a.say("+ann@x").await.standing,
        Standing::Lost,
        "it knows of no table"
    );
    let before = a.after.clone();
    assert_eq!(a.say("+bob@x").await.standing, Standing::Kept);
    assert_eq!(a.say("").await.standing, Standing::Kept);
    a.after = before;
    assert_eq!(a.say("").await.standing, Standing::Doubtful);
    assert_eq!(a.say("").await.standing, Standing::Kept);
    // Another store takes the place: nobody comes or goes by that.
    let reborn = home.open(everything(), Some(&opened)).await;
    a.store = reborn.store.clone();
    let heard = a.say("").await;
    assert_eq!(heard.standing, Standing::Lost);
    assert_eq!(a.say("=ann@x =bob@x").await.events, [0, 0]);
    assert_eq!(reborn.users(Some("x")).await, ["ann", "bob"]);
    assert_eq!(a.say("-ann@x +eve@x").await.events, [1, 1]);
    assert_eq!(reborn.changes(&topic("x")).await, ["leave ann", "join eve"]);
}

/// A list has an end, and its length is told.
pub async fn the_first_users_are_listed_and_all_are_counted(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut a = Speaker::new(&opened.store, "a");
    let names: Vec<String> = (0..LISTED + 5).map(|user| format!("{user:05}")).collect();
    for some in names.chunks(CHANGES) {
        let changes = some.iter().rev().map(|name| change(&format!("+{name}@x")));
        a.say_for(LEASE, changes.collect()).await;
    }
    let places = [None, Some(topic("x")), Some(topic("y"))];
    let presence = opened
        .store
        .present(&places)
        .await
        .expect("the store is well");
    let [none, x, y] = &*presence.places else {
        panic!("one for each place: {presence:?}")
    };
    assert_eq!((none.total, x.total, y.total), (0, names.len() as u64, 0));
    let users: Vec<&str> = x.users.iter().map(|user| &**user).collect();
    assert_eq!(users, names[..LISTED]);
}

/// Whatever replicas say, in whatever order, and whoever dies: the store and a tiny model agree, and events alternate.
pub async fn the_table_agrees_with_a_model(home: &dyn Home) {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    for seed in 0..4 {
        let opened = home.open(everything(), None).await;
        let other = home.replica(&opened).await;
        let stores = [&opened.store, &other, &opened.store];
        let mut speakers = [0, 1, 2].map(|at| Speaker::new(stores[at], NAMES[at]));
        let mut model: [BTreeSet<Whereabouts>; 3] = Default::default();
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut dice = Dice::new(seed);
        let everybody = |model: &[BTreeSet<Whereabouts>; 3]| -> BTreeSet<Whereabouts> {
            model.iter().flatten().cloned().collect()
        };
        for _ in 0..60 {
            let which = dice.below(3);
            let before = everybody(&model);
            if dice.once_in(12) {
                speakers[which]
                    .say_for(Duration::from_millis(1), Vec::new())
                    .await;
                opened.pass(Duration::from_millis(20)).await;
                let name = speakers[which].name.clone();
                while opened
                    .store
                    .sweep(&name)
                    .await
                    .expect("the store is well")
                    .0
                {}
                model[which].clear();
            } else {
                let mut changes = BTreeMap::new();
                for _ in 0..=dice.below(6) {
                    let user = dice.below(4);
                    let at = ["@x", "@y", ""][dice.below(3)];
                    let turn = if dice.once_in(2) {
                        Turn::Comes
                    } else {
                        Turn::Goes
                    };
                    changes.insert(whereabouts(&format!("{user}{at}")), turn);
                }
                for (whereabouts, turn) in &changes {
                    if *turn == Turn::Comes {
                        model[which].insert(whereabouts.clone());
                    } else {
                        model[which].remove(whereabouts);
                    }
                }
                let changes = changes.into_iter().map(|(who, turn)| (turn, who));
                speakers[which].say_for(LEASE, changes.collect()).await;
            }
            let now = everybody(&model);
            for (kind, from, to) in [("join", &before, &now), ("leave", &now, &before)] {
                for one in to.difference(from) {
                    if let Some(topic) = &one.topic {
                        let key = format!("{topic} {}", one.user);
                        told.entry(key).or_default().push(kind.to_owned());
                    }
                }
            }
            for (at, speaker) in speakers.iter().enumerate() {
                assert_eq!(speaker.said().await, model[at], "seed {seed}");
            }
        }
        let users = |at: Option<&str>| -> BTreeSet<String> {
            let now = everybody(&model).into_iter();
            let there = now.filter(|one| one.topic.as_ref().map(Topic::as_str) == at);
            there.map(|one| one.user.to_string()).collect()
        };
        for at in [None, Some("x"), Some("y")] {
            let present: BTreeSet<String> = opened.users(at).await.into_iter().collect();
            assert_eq!(present, users(at), "seed {seed}");
        }
        for at in ["x", "y"] {
            let mut events: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for change in opened.changes(&topic(at)).await {
                let (kind, user) = change.split_once(' ').expect("a change");
                let key = format!("{at} {user}");
                events.entry(key).or_default().push(kind.to_owned());
            }
            let wanted = told
                .iter()
                .filter(|(key, _)| key.starts_with(&format!("{at} ")));
            let wanted = wanted.map(|(key, kinds)| (key.clone(), kinds.clone()));
            assert_eq!(events, wanted.collect(), "seed {seed}");
        }
    }
}
