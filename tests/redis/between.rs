//! What replicas share beside the log: a secret, claims, letters, and the settings; and what becomes of these when Redis is
//! away, refuses, or has lost something.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tidegate::{
    event::{EventId, EventType, Topic},
    log::{Retention, RetentionRules},
    store::{
        Append, AskError, Feed, FeedItem, Keep, LETTER_BYTES, Letters, Store, StoreError,
        redis::{RedisConfig, RedisStore, RedisTls, Via},
    },
};
use tokio::time::Instant;

use crate::support::{Fsync, PATIENCE, RedisServer, within};

const MINUTE: Duration = Duration::from_mins(1);
/// How long a command may take.
const TIMEOUT: Duration = Duration::from_secs(3);

fn keep(events: usize) -> Keep {
    let retention = Retention {
        events,
        bytes: usize::MAX,
        age_ms: 1 << 40,
    };
    Keep {
        retention: RetentionRules::new(retention, Vec::new()),
        total_bytes: usize::MAX,
        idempotency_window: MINUTE,
        event_bytes: 65_536,
    }
}

fn config(url: &str) -> RedisConfig {
    RedisConfig {
        url: url.parse().unwrap(),
        via: Via::Url,
        prefix: "tidegate".into(),
        tls: RedisTls::default(),
        wait_replicas: 0,
        timeout: TIMEOUT,
        backlog_bytes: 1024 * 1024,
        retention: keep(10_000).retention,
        event_bytes: 65_536,
        idempotency_window: MINUTE,
        ingest: false,
    }
}

/// Looks until `look` finds what it wants. The session looks at most things every five seconds.
async fn soon<S: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<(), S>) {
    let begun = Instant::now();
    while let Err(saw) = look().await {
        let waited = begun.elapsed();
        assert!(
            waited < 3 * PATIENCE,
            "waited {waited:?} for {what}, saw {saw:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The store of a replica, once it is of use.
async fn open(config: RedisConfig) -> Arc<dyn Store> {
    let store = Arc::new(RedisStore::start(config).unwrap());
    is_there(&*store).await;
    store
}

async fn store(redis: &RedisServer) -> Arc<dyn Store> {
    open(config(&redis.url())).await
}

async fn is_there(store: &dyn Store) {
    soon("Redis to be there", async || {
        match (store.away(), store.ping().await) {
            (false, Ok(_)) => Ok(()),
            (away, ping) => Err((away, ping)),
        }
    })
    .await;
}

/// Waits until letters come to this replica.
async fn listens(from: &dyn Store, replica: &str) {
    soon("letters to come", async || {
        match from.send(replica, "first").await {
            Ok(true) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

fn is_unavailable<T: Debug>(answer: &Result<T, StoreError>, wanted: &str) {
    match answer {
        Err(StoreError::Unavailable(why)) => assert!(why.contains(wanted), "{wanted}: {why}"),
        other => panic!("wanted {wanted}, got {other:?}"),
    }
}

/// What `meta` says is kept of each topic.
async fn kept(redis: &RedisServer) -> String {
    let retention = ["HGET", "tidegate:{0}:meta", "retention"];
    redis.command(&retention).await.text()
}

async fn keeps(redis: &RedisServer, events: usize) {
    soon("the settings to be written", async || {
        let kept = kept(redis).await;
        let wanted = format!("\"events\":{events},");
        kept.contains(&wanted).then_some(()).ok_or(kept)
    })
    .await;
}

#[tokio::test]
async fn two_prefixes_share_nothing() {
    let redis = RedisServer::start().await;
    let ours = store(&redis).await;
    let theirs = RedisConfig {
        prefix: "team-b".into(),
        ..config(&redis.url())
    };
    let theirs = open(theirs).await;
    assert_ne!(ours.secret().await.unwrap(), theirs.secret().await.unwrap());
    assert_eq!(ours.claim("a", MINUTE).await, Ok(true));
    assert_eq!(theirs.claim("a", MINUTE).await, Ok(true));
    let _mailbox = ours.mailbox("a");
    listens(&*ours, "a").await;
    assert_eq!(theirs.send("a", "?").await, Ok(false));
}

/// A claim and a secret survive whoever made them.
#[tokio::test]
async fn what_was_claimed_stays_claimed_when_its_replica_ends() {
    let redis = RedisServer::start().await;
    let first = store(&redis).await;
    let secret = first.secret().await.unwrap();
    assert_eq!(first.claim("a", MINUTE).await, Ok(true));
    drop(first);
    let second = store(&redis).await;
    assert_eq!(second.secret().await, Ok(secret));
    assert_eq!(second.claim("a", MINUTE).await, Ok(false));
    let left = redis.command(&["PTTL", "tidegate:{0}:claim:a"]).await;
    assert!(
        (1..=60_000).contains(&left.integer()),
        "it ends by itself: {left}"
    );
}

/// Tickets that were given out before go on to be worth something.
#[tokio::test]
async fn a_secret_that_redis_has_lost_is_put_back() {
    let redis = RedisServer::start().await;
    let [a, b] = [store(&redis).await, store(&redis).await];
    let secret = a.secret().await.unwrap();
    redis.command(&["FLUSHALL"]).await;
    soon("the secret to be put back", async || {
        let stored = redis.command(&["EXISTS", "tidegate:{0}:secret"]).await;
        match stored.integer() {
            1 => Ok(()),
            none => Err(none),
        }
    })
    .await;
    assert_eq!(b.secret().await, Ok(secret));
}

/// Replicas do not part for ever: whoever was first after the loss has made the one that counts.
#[tokio::test]
async fn a_secret_that_another_replica_made_anew_is_taken_over() {
    let redis = RedisServer::start().await;
    let a = store(&redis).await;
    let secret = a.secret().await.unwrap();
    let other = "07".repeat(32);
    redis.command(&["SET", "tidegate:{0}:secret", &other]).await;
    assert_eq!(a.secret().await, Ok(secret), "known without asking");
    soon("the other secret to be taken over", async || {
        match a.secret().await {
            Ok(secret) if secret == [7; 32] => Ok(()),
            secret => Err(secret.map(|_| "another")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_that_holds_no_secret_is_named() {
    let redis = RedisServer::start().await;
    redis.command(&["SET", "tidegate:{0}:secret", "x"]).await;
    let a = store(&redis).await;
    is_unavailable(&a.secret().await.map(|_| ()), "tidegate:{0}:secret");
    redis.command(&["DEL", "tidegate:{0}:secret"]).await;
    redis.command(&["LPUSH", "tidegate:{0}:secret", "x"]).await;
    is_unavailable(&a.secret().await.map(|_| ()), "WRONGTYPE");
    redis.command(&["DEL", "tidegate:{0}:secret"]).await;
    assert!(a.secret().await.is_ok());
}

#[tokio::test]
async fn without_redis_there_are_errors_and_no_waiting() {
    let mut redis = RedisServer::start().await;
    let [a, fresh] = [store(&redis).await, store(&redis).await];
    let secret = a.secret().await.unwrap();
    redis.kill();
    soon("it to be noticed", async || {
        let away = (a.away(), fresh.away());
        (away == (true, true)).then_some(()).ok_or(away)
    })
    .await;
    let begun = Instant::now();
    is_unavailable(&a.claim("a", MINUTE).await, "");
    is_unavailable(&a.send("a", "?").await, "");
    is_unavailable(&fresh.secret().await.map(|_| ()), "");
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    assert_eq!(a.secret().await, Ok(secret));
    redis.restart().await;
    is_there(&*a).await;
    is_there(&*fresh).await;
    soon("claims to be won again", async || {
        match a.claim("a", MINUTE).await {
            Ok(true) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// It may have done what was asked: whoever asked is told that this is unknown, and has not won.
#[tokio::test]
async fn a_redis_that_does_not_answer_gives_nobody_a_claim() {
    let redis = RedisServer::start().await;
    let [a, b] = [store(&redis).await, store(&redis).await];
    redis.freeze();
    let claim = within("an answer", a.claim("a", MINUTE)).await;
    redis.thaw();
    assert_eq!(claim, Err(StoreError::Timeout));
    is_there(&*a).await;
    let claims = futures_util::join!(a.claim("a", MINUTE), b.claim("a", MINUTE));
    let won = [claims.0, claims.1];
    let count = won.iter().filter(|won| **won == Ok(true)).count();
    assert!(count <= 1, "{won:?}");
}

#[tokio::test]
async fn a_full_redis_gives_no_claims_and_still_tells_the_secret() {
    let redis = RedisServer::start().await;
    let secret = store(&redis).await.secret().await.unwrap();
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let a = store(&redis).await;
    assert_eq!(a.secret().await, Ok(secret));
    is_unavailable(&a.claim("a", MINUTE).await, "OOM");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(a.claim("a", MINUTE).await, Ok(true));
}

/// The feed says the position, also where it may not say more.
#[tokio::test]
async fn claims_need_no_rights_to_channels() {
    let rules = "on >s3cret ~tidegate:* resetchannels +@all";
    let redis = RedisServer::settings().user("gateway", rules).start().await;
    let a = open(config(&redis.url_as("gateway", "s3cret"))).await;
    assert_eq!(a.claim("a", MINUTE).await, Ok(true));
    assert_eq!(a.claim("a", MINUTE).await, Ok(false));
    assert!(a.secret().await.is_ok());
    is_unavailable(&a.send("a", "?").await, "NOPERM");
}

#[tokio::test]
async fn without_a_password_there_are_no_claims() {
    let redis = RedisServer::settings().password("s3cret").start().await;
    let bare = format!("redis://127.0.0.1:{}", redis.port());
    let a = RedisStore::start(config(&bare)).unwrap();
    soon("the reason", async || match a.claim("a", MINUTE).await {
        Err(StoreError::Unavailable(why)) if why.contains("NOAUTH") => Ok(()),
        other => Err(other),
    })
    .await;
    is_unavailable(&a.secret().await.map(|_| ()), "NOAUTH");
}

struct Follower(Box<dyn Feed>);

impl Follower {
    /// Waits for an event, through whatever else the feed says.
    async fn event(&mut self) -> String {
        loop {
            let mut items = Vec::new();
            within("the feed to go on", self.0.next(&mut items)).await;
            for item in items {
                match item {
                    FeedItem::Event(event, _) => return event.data.to_string(),
                    FeedItem::Cut => panic!("nothing cuts this feed"),
                    _ => {}
                }
            }
        }
    }
}

async fn publish(store: &dyn Store, topic: &Topic, data: &str) {
    let append = Append {
        topic: topic.clone(),
        kind: EventType::default(),
        data: Some(data.into()),
        end: false,
        key: None,
    };
    store.append(vec![append]).await.remove(0).unwrap();
}

/// A user that was made for an older version may follow topics, and not take letters. The refusal is a reply where none was
/// expected: it must not be taken for that of a position.
#[tokio::test]
async fn letters_that_are_refused_do_not_end_the_feed() {
    let rules = "on >s3cret ~tidegate:* resetchannels &tidegate:{0}:ch:* +@all";
    let redis = RedisServer::settings().user("gateway", rules).start().await;
    let a = open(config(&redis.url_as("gateway", "s3cret"))).await;
    let mut follower = Follower(a.feed());
    let topic: Topic = "orders".parse().unwrap();
    let mut mailbox = a.mailbox("a");
    for round in ["1", "2"] {
        a.join(vec![topic.clone()], EventId::ZERO);
        soon("the operator to be told", async || {
            let warnings = a.warnings();
            let told = warnings.iter().any(|text| text.contains("letters"));
            told.then_some(()).ok_or(warnings)
        })
        .await;
        publish(&*a, &topic, round).await;
        assert_eq!(follower.event().await, round);
        // Long enough for the next attempts.
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    assert!(!a.away());
    redis
        .command(&["ACL", "SETUSER", "gateway", "&tidegate:{0}:to:*"])
        .await;
    listens(&*a, "a").await;
    assert_eq!(mailbox.next().await.as_deref(), Some("first"));
    soon("the warning to end", async || match a.warnings() {
        none if none.is_empty() => Ok(()),
        warnings => Err(warnings),
    })
    .await;
    publish(&*a, &topic, "3").await;
    assert_eq!(follower.event().await, "3");
}

/// Anybody who can reach Redis can write there.
#[tokio::test]
async fn what_others_write_to_the_channel_of_letters_is_passed_over() {
    let redis = RedisServer::start().await;
    let a = store(&redis).await;
    let mut mailbox = a.mailbox("a");
    listens(&*a, "a").await;
    assert_eq!(mailbox.next().await.as_deref(), Some("first"));
    let channel: &[u8] = b"tidegate:{0}:to:a";
    for letter in [&b"\xff\xfe"[..], &vec![b'x'; LETTER_BYTES + 1]] {
        redis.command(&[b"SPUBLISH", channel, letter]).await;
    }
    assert_eq!(a.send("a", "good").await, Ok(true));
    assert_eq!(mailbox.next().await.as_deref(), Some("good"));
    assert_eq!(a.stats().letters_dropped, 2);
}

/// Serves questions to a replica, in capital letters.
fn serve(store: &Arc<dyn Store>, replica: &str) -> Arc<Letters> {
    let letters = Arc::new(Letters::new(store.clone(), replica));
    let served = letters.clone();
    tokio::spawn(async move {
        let answer = |question: String| async move { question.to_uppercase() }.boxed();
        served.serve(answer).await;
    });
    letters
}

#[tokio::test]
async fn replicas_ask_each_other_also_after_redis_was_away() {
    let mut redis = RedisServer::start().await;
    let [a, b] = [store(&redis).await, store(&redis).await];
    let [asking, _answering] = [serve(&a, "a"), serve(&b, "b")];
    listens(&*a, "b").await;
    listens(&*b, "a").await;
    assert_eq!(asking.ask("b", "line\nline").await, Ok("LINE\nLINE".into()));
    assert_eq!(asking.ask("a", "itself").await, Ok("ITSELF".into()));
    assert_eq!(asking.ask("c", "?").await, Err(AskError::Nobody));
    redis.kill();
    soon("it to be noticed", async || {
        match asking.ask("b", "?").await {
            Err(AskError::Store(StoreError::Unavailable(_))) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    redis.restart().await;
    soon("answers to come again", async || {
        match asking.ask("b", "x").await {
            Ok(answer) if answer == "X" => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_replica_that_changes_the_settings_wins() {
    let redis = RedisServer::start().await;
    let [a, b] = [store(&redis).await, store(&redis).await];
    keeps(&redis, 10_000).await;
    a.retain(keep(111));
    keeps(&redis, 111).await;
    b.retain(keep(222));
    keeps(&redis, 222).await;
    let limits = ["HGET", "tidegate:{0}:meta", "limits"];
    let limits = redis.command(&limits).await.text();
    assert!(limits.contains("\"idempotency_window\":60000"), "{limits}");
    // Whoever comes back does not undo it.
    for client in ["pubsub", "normal"] {
        let kill = ["CLIENT", "KILL", "TYPE", client, "SKIPME", "yes"];
        redis.command(&kill).await;
    }
    is_there(&*a).await;
    is_there(&*b).await;
    // The same again is no change.
    a.retain(keep(111));
    tokio::time::sleep(Duration::from_secs(1)).await;
    keeps(&redis, 222).await;
    a.retain(keep(333));
    keeps(&redis, 333).await;
}

#[tokio::test]
async fn settings_that_change_while_redis_is_away_are_written_when_it_is_back() {
    let settings = RedisServer::settings().appendonly(Fsync::Always);
    let mut redis = settings.start().await;
    let a = store(&redis).await;
    keeps(&redis, 10_000).await;
    redis.kill();
    a.retain(keep(111));
    a.retain(keep(222));
    redis.restart().await;
    keeps(&redis, 222).await;
    is_there(&*a).await;
}
