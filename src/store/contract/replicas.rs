//! What replicas of one deployment promise each other through their store.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time;

use super::{AGE, Home, LONG, Opened, event, everything, keep_all, topic};
use crate::{
    event::EventId,
    log::{Retention, RetentionRule, RetentionRules},
    store::{Keep, LETTER_BYTES, Mailbox, Store, StoreError},
};

/// How long something may take that is done by and by.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks again until the answer is the wanted one.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asked = async {
        while !is_so().await {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = time::timeout(PATIENCE, asked).await;
    assert!(waited.is_ok(), "waited {PATIENCE:?} until {what}");
}

async fn next(mailbox: &mut Mailbox) -> String {
    let letter = time::timeout(PATIENCE, mailbox.next()).await;
    letter.expect("a letter comes").expect("the store is there")
}

/// Writes to a replica until its mailbox is open, and takes those letters away.
async fn opens(store: &Arc<dyn Store>, replica: &str, mailbox: &mut Mailbox) {
    eventually("a replica listens", async || {
        store.send(replica, "first").await == Ok(true)
    })
    .await;
    assert_eq!(next(mailbox).await, "first");
}

/// Of many who claim the same at once, on several replicas, one wins.
pub async fn a_claim_has_one_winner(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let other = home.replica(&opened).await;
    for name in ["a", "b/c", "*{0} ü"] {
        let claim = |number: usize| {
            let store = if number.is_multiple_of(2) {
                &opened.store
            } else {
                &other
            };
            async move { store.claim(name, Duration::from_mins(1)).await }
        };
        let won = join_all((0..64).map(claim)).await;
        let count = won.iter().filter(|won| **won == Ok(true)).count();
        assert_eq!(count, 1, "{name}: {won:?}");
        assert!(won.iter().all(Result::is_ok), "{name}: {won:?}");
    }
}

/// A claim ends by itself, and only then.
pub async fn a_claim_is_free_again_after_its_time(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let other = home.replica(&opened).await;
    let short = AGE;
    assert_eq!(opened.store.claim("a", short).await, Ok(true));
    assert_eq!(
        opened.store.claim("long", Duration::from_mins(1)).await,
        Ok(true)
    );
    assert_eq!(other.claim("a", Duration::from_mins(1)).await, Ok(false));
    opened.pass(LONG).await;
    assert_eq!(other.claim("a", Duration::from_mins(1)).await, Ok(true));
    assert_eq!(opened.store.claim("a", short).await, Ok(false));
    assert_eq!(other.claim("long", short).await, Ok(false));
}

/// All replicas get the same secret, from the first moment on, and another deployment another one.
pub async fn replicas_share_a_secret_with_nobody_else(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let other = home.replica(&opened).await;
    let ask = |number: usize| {
        let store = if number.is_multiple_of(2) {
            &opened.store
        } else {
            &other
        };
        async move { store.secret().await.expect("the store is well") }
    };
    let secrets: HashSet<[u8; 32]> = join_all((0..16).map(ask)).await.into_iter().collect();
    assert_eq!(secrets.len(), 1);
    assert!(!secrets.contains(&[0; 32]));
    let elsewhere = home.open(everything(), None).await;
    let secret = elsewhere.store.secret().await.expect("the store is well");
    assert!(!secrets.contains(&secret));
}

/// A letter comes to the replica to which it was written, whoever wrote it, and to no other.
pub async fn a_letter_reaches_its_replica_and_no_other(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let other = home.replica(&opened).await;
    let (mut a, mut b) = (opened.store.mailbox("a"), other.mailbox("b"));
    opens(&other, "a", &mut a).await;
    opens(&opened.store, "b", &mut b).await;
    for (store, replica, letter) in [
        (&opened.store, "b", "to b"),
        (&other, "a", "to a"),
        (&opened.store, "a", "to a by itself"),
        (&other, "b", "line\r\nline\n\u{1F30A}"),
        (&other, "b", ""),
    ] {
        assert_eq!(store.send(replica, letter).await, Ok(true));
    }
    for letter in ["to a", "to a by itself"] {
        assert_eq!(next(&mut a).await, letter);
    }
    for letter in ["to b", "line\r\nline\n\u{1F30A}", ""] {
        assert_eq!(next(&mut b).await, letter);
    }
    for mailbox in [&mut a, &mut b] {
        let more = time::timeout(Duration::from_millis(50), mailbox.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

/// The feed breaks and comes back, and the letters with it. What is followed is not disturbed by letters.
pub async fn letters_come_again_after_the_feed_was_cut(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let other = home.replica(&opened).await;
    let mut mailbox = opened.store.mailbox("a");
    opens(&other, "a", &mut mailbox).await;
    let x = topic("x");
    let mut follower = opened.follow();
    for _ in 0..3 {
        if home.cut(&opened).await {
            follower.is_cut().await;
        }
        eventually("letters come again", async || {
            other.send("a", "again").await == Ok(true)
        })
        .await;
        assert_eq!(next(&mut mailbox).await, "again");
        opened.store.join(vec![x.clone()], EventId::ZERO);
        follower.joined().await;
        let published = opened.publish(&x, "event").await;
        assert_eq!(other.send("a", "after").await, Ok(true));
        assert_eq!(next(&mut mailbox).await, "after");
        assert_eq!(follower.events(1).await[0].id, published);
    }
}

/// Whoever writes to a replica that is gone, or never was, is told so.
pub async fn a_replica_that_is_gone_takes_no_letters(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let other = home.replica(&opened).await;
    assert_eq!(other.send("a", "too early").await, Ok(false));
    let mut mailbox = opened.store.mailbox("a");
    opens(&other, "a", &mut mailbox).await;
    drop(mailbox);
    eventually("nobody listens", async || {
        other.send("a", "too late").await == Ok(false)
    })
    .await;
}

/// A replica that does not read its letters loses them, and nothing grows.
pub async fn letters_that_nobody_reads_are_dropped_and_counted(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let other = home.replica(&opened).await;
    let mut mailbox = opened.store.mailbox("a");
    opens(&other, "a", &mut mailbox).await;
    for number in 0..400 {
        assert_eq!(other.send("a", &number.to_string()).await, Ok(true));
    }
    eventually("all have come", async || {
        opened.store.stats().letters_dropped == 400 - 256
    })
    .await;
    for number in 0..256 {
        assert_eq!(next(&mut mailbox).await, number.to_string());
    }
    assert_eq!(other.send("a", "last").await, Ok(true));
    assert_eq!(next(&mut mailbox).await, "last");
}

/// A letter has a longest form.
pub async fn a_letter_that_is_too_long_is_not_sent(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    let mut mailbox = opened.store.mailbox("a");
    opens(&opened.store, "a", &mut mailbox).await;
    let longest = "x".repeat(LETTER_BYTES);
    assert_eq!(opened.store.send("a", &longest).await, Ok(true));
    assert_eq!(next(&mut mailbox).await, longest);
    let refused = opened.store.send("a", &(longest + "x")).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
}

fn keeping(events: usize, total_bytes: usize) -> Keep {
    let few = Retention {
        events,
        ..keep_all()
    };
    let rule = RetentionRule {
        prefix: "kept/".into(),
        retention: keep_all(),
    };
    Keep {
        retention: RetentionRules::new(few, vec![rule]),
        total_bytes,
        idempotency_window: Duration::from_mins(5),
        event_bytes: 65_536,
    }
}

async fn fill(opened: &Opened, name: &str, count: usize) {
    let name = topic(name);
    let batch = (0..count).map(|_| event(&name, "x")).collect();
    for answer in opened.store.append(batch).await {
        answer.expect("the store is well");
    }
}

/// How many events there are, page by page.
async fn count(opened: &Opened, name: &str) -> usize {
    let (name, mut after, mut count) = (topic(name), EventId::ZERO, 0);
    loop {
        let page = opened.page(&name, after, 1_000).await;
        count += page.events.len();
        match page.events.last() {
            Some(last) if page.more => after = last.id,
            _ => return count,
        }
    }
}

/// Less is kept when that is said, and more again when that is said; also of topics that are published to by others.
pub async fn changed_retention_takes_effect(home: &dyn Home) {
    let opened = home.open(everything(), None).await;
    fill(&opened, "a", 500).await;
    fill(&opened, "kept/a", 500).await;
    opened.store.retain(keeping(20, usize::MAX));
    let most = 20 + home.slack();
    eventually("less is kept", async || {
        fill(&opened, "a", 1).await;
        opened.store.tidy();
        count(&opened, "a").await <= most
    })
    .await;
    let events = opened.all(&topic("a")).await;
    super::assert_chained(&events);
    assert!(events.len() >= 20, "{}", events.len());
    assert_eq!(count(&opened, "kept/a").await, 500);
    opened.store.retain(keeping(10_000, usize::MAX));
    eventually("more is kept", async || {
        fill(&opened, "a", 100).await;
        count(&opened, "a").await > most + 400
    })
    .await;
}

/// What nobody publishes to goes, too, and whoever follows it is told.
pub async fn changed_retention_reaches_quiet_topics(home: &dyn Home) {
    if !home.tells_expiry() {
        return;
    }
    let opened = home.open(everything(), None).await;
    let quiet: Vec<_> = (0..50).map(|number| format!("quiet/{number}")).collect();
    for name in &quiet {
        fill(&opened, name, 500).await;
    }
    let mut follower = opened.follow();
    opened.store.join(vec![topic("quiet/7")], EventId::ZERO);
    follower.joined().await;
    opened.store.retain(keeping(20, usize::MAX));
    // More than one call may take: the lock is not held for so long.
    for _ in 0..3 {
        opened.store.tidy();
    }
    for name in &quiet {
        assert_eq!(opened.all(&topic(name)).await.len(), 20, "{name}");
    }
    let oldest = opened.all(&topic("quiet/7")).await[0].previous;
    follower.trimmed(&topic("quiet/7"), oldest).await;
}

/// The budget of the whole store goes down step by step, and the oldest first.
pub async fn a_smaller_total_budget_takes_the_oldest(home: &dyn Home) {
    if !home.has_total_budget() {
        return;
    }
    let opened = home.open(everything(), None).await;
    for number in 0..50 {
        fill(&opened, &format!("t/{number}"), 500).await;
    }
    let before = opened.store.stats();
    assert_eq!(before.events, 25_000);
    let (budget, keep) = (1_000_000, usize::MAX);
    opened.store.retain(keeping(keep, budget));
    assert_eq!(opened.store.stats().events, 25_000, "nothing goes at once");
    for _ in 0..3 {
        opened.store.tidy();
    }
    let after = opened.store.stats();
    assert!(after.events > 1_000 && after.bytes < budget, "{after:?}");
    assert_eq!(opened.all(&topic("t/49")).await.len(), 500);
    assert!(opened.all(&topic("t/0")).await.is_empty());
    // What is published now pushes out what is older.
    fill(&opened, "t/50", 500).await;
    assert!(opened.store.stats().events <= after.events);
    opened.store.retain(keeping(keep, usize::MAX));
    fill(&opened, "t/51", 500).await;
    assert!(opened.store.stats().events > after.events);
}
