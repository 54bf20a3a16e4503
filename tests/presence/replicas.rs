//! The same over replicas that share a Redis, whatever happens to them.

use rustix::process::Signal;

use crate::support::Fsync;

use super::*;

async fn replicas<const COUNT: usize>(redis: &RedisServer) -> [Gateway; COUNT] {
    replicas_of(&settings(), redis).await
}

async fn replicas_of<const COUNT: usize>(
    settings: &Settings,
    redis: &RedisServer,
) -> [Gateway; COUNT] {
    let start = |_| crate::redis::replica_of(settings.clone(), redis);
    let all = futures_util::future::join_all((0..COUNT).map(start)).await;
    all.try_into()
        .unwrap_or_else(|_| panic!("{COUNT} replicas"))
}

/// Asks until so many of three replicas have answered: one that is busy may be too late.
async fn asked(gateway: &Gateway, topics: &str, answered: u32) -> Value {
    let wanted = json!({"live": 3, "answered": answered});
    eventually(format!("{answered} of 3 replicas to answer"), async || {
        let json = gateway.presence(topics).await.json();
        if json["replicas"] == wanted {
            Ok(json)
        } else {
            Err(json.to_string())
        }
    })
    .await
}

#[tokio::test]
async fn streams_and_users_are_counted_over_all_replicas() {
    let redis = RedisServer::start().await;
    let [a, b, mut c] = replicas(&redis).await;
    let mut watch = c.watch("room").await;
    let _streams = (
        a.visit("room", "alice").await,
        b.visit("room", "alice").await,
        b.ws("topic=room").bearer(&token("bob")).open().await,
        c.poll("topic=room&wait=60s")
            .bearer(&token("carol"))
            .begin()
            .await,
        c.subscribe("room").await,
    );
    assert_eq!(
        watch.changes(3).await,
        ["join alice", "join bob", "join carol"]
    );
    for gateway in [&a, &b, &c] {
        eventually("all to be counted", async || {
            match gateway.present("room").await {
                (5, users) if users == ["alice", "bob", "carol"] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let json = asked(gateway, "room", 3).await;
        assert_eq!(json["topics"][0]["subscribers"], 5, "{json}");
    }
    let online = |json: &Value| json["users"].clone();
    let all = json!({"online": 3, "list": ["alice", "bob", "carol"]});
    assert_eq!(
        online(&a.get_admin("/stats?scope=cluster").await.json()),
        all
    );
    let own = a.get_admin("/stats").await.json();
    assert_eq!(online(&own), json!({"online": 1, "list": ["alice"]}));
    // Many long names do not fit into one letter.
    let names: Vec<String> = (0..90)
        .map(|at| format!("{at:03}{}", "ü".repeat(120)))
        .collect();
    let _last = b.subscribe(&names[89]).await;
    let json = asked(&a, &names.join(","), 3).await;
    assert_eq!(json["topics"][89]["subscribers"], 1, "{json}");
    assert_eq!(json["topics"][0]["subscribers"], 0, "{json}");
    // One that does not answer is told, not guessed.
    c.program().freeze();
    let json = asked(&a, "room", 2).await;
    assert_eq!(json["topics"][0]["subscribers"], 3, "{json}");
    c.program().signal(Signal::CONT);
}

/// Page reloads, switches, deploys: the stream ends here and begins there.
#[tokio::test]
async fn who_goes_on_at_another_replica_has_not_left() {
    let redis = RedisServer::start().await;
    // Longer than anybody needs to come back on a busy machine.
    let settings = settings().with("presence.debounce", "6s");
    let [a, b] = replicas_of(&settings, &redis).await;
    let mut watch = b.watch("room").await;
    let mut alice = a.visit("room", "alice").await;
    assert_eq!(watch.change().await, "join alice");
    for gateway in [&b, &a, &a, &b, &a] {
        drop(alice);
        alice = gateway.visit("room", "alice").await;
    }
    let mut bob = a.visit("room", "bob").await;
    assert_eq!(watch.change().await, "join bob");
    // The replica is drained: its streams are told to come back, and do so elsewhere.
    a.terminate();
    alice.control("$drain").await;
    alice.rest().await;
    let alice = b.visit("room", "alice").await;
    bob.control("$drain").await;
    bob.rest().await;
    // Bob does not come back, and is the only one who has left.
    assert_eq!(watch.change().await, "leave bob");
    b.has("room", &["alice"]).await;
    // The whole deployment is another one now.
    let [c] = replicas_of(&settings, &redis).await;
    let mut watch = c.resume("$presence/room", watch.cursor()).await;
    b.terminate();
    let alice_again = c.visit("room", "alice").await;
    drop(alice);
    c.has("room", &["alice"]).await;
    drop(alice_again);
    assert_eq!(watch.change().await, "leave alice");
}

/// Also on a server that has no functions, as some that are managed by others.
#[tokio::test]
async fn a_killed_replica_leaves_no_ghosts() {
    let mut server = RedisServer::settings();
    for command in ["FUNCTION", "FCALL", "FCALL_RO"] {
        server = server.config(&format!("rename-command {command} \"\""));
    }
    let redis = server.start().await;
    let [a, b] = replicas(&redis).await;
    let mut watch = b.watch("room").await;
    let _streams = [
        a.visit("room,hall", "alice").await,
        a.visit("room", "bob").await,
        a.visit("room", "carol").await,
        b.visit("room", "carol").await,
    ];
    watch.changes(3).await;
    drop(a);
    // Bob comes back elsewhere, carol has always been there, too.
    let _bob = b.visit("room", "bob").await;
    assert_eq!(watch.change().await, "leave alice");
    b.has("room", &["bob", "carol"]).await;
    b.has("hall", &[]).await;
    let keys = redis.command(&["KEYS", "tidegate:{0}:presence-of:*"]).await;
    assert_eq!(keys.items().len(), 1, "nothing is left of it: {keys:?}");
    let json = b.get_admin("/stats?scope=cluster").await.json();
    assert_eq!(
        json["users"],
        json!({"online": 2, "list": ["bob", "carol"]})
    );
    // All at once: the next one finds what they have left behind.
    drop(b);
    let c = replica(&redis).await;
    let mut watch = c.watch("room").await;
    let _bob = c.visit("room", "bob").await;
    assert_eq!(watch.change().await, "leave carol");
    c.has("room", &["bob"]).await;
}

#[tokio::test]
async fn the_users_of_a_frozen_replica_leave_and_come_back_with_it() {
    let redis = RedisServer::start().await;
    let [mut a, b] = replicas(&redis).await;
    let mut watch = b.watch("room").await;
    let _streams = [
        a.visit("room", "alice").await,
        a.visit("room", "bob").await,
        b.visit("room", "bob").await,
    ];
    watch.changes(2).await;
    a.program().freeze();
    assert_eq!(watch.change().await, "leave alice");
    b.has("room", &["bob"]).await;
    a.program().signal(Signal::CONT);
    assert_eq!(watch.change().await, "join alice");
    b.has("room", &["alice", "bob"]).await;
}

/// What Redis has forgotten the replicas know, and nobody has come or gone by it.
#[tokio::test]
async fn a_redis_that_lost_everything_learns_who_is_there_without_an_event() {
    let redis = RedisServer::start().await;
    let [a, b] = replicas(&redis).await;
    let mut watch = b.watch("room").await;
    let streams = [
        a.visit("room", "alice").await,
        b.visit("room", "bob").await,
        b.visit("room", "alice").await,
    ];
    watch.changes(2).await;
    // It is no event that alice is at the second replica, too. Told after the flush, she would be new.
    eventually("both replicas to have told of alice", async || {
        let told = ["HGET", "tidegate:{0}:presence:room", "alice"];
        match redis.command(&told).await.text().split(' ').count() {
            2 => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
    redis.command(&["FLUSHALL"]).await;
    watch.control("$gap").await;
    b.has("room", &["alice", "bob"]).await;
    let _carol = a.visit("room", "carol").await;
    assert_eq!(watch.change().await, "join carol", "and nobody before her");
    drop(streams);
    assert_eq!(watch.changes(2).await, ["leave alice", "leave bob"]);
    b.has("room", &["carol"]).await;
}

/// A Redis that is away for longer than any lease has not seen anybody go.
#[tokio::test]
async fn a_redis_that_was_away_learns_who_came_and_went_meanwhile() {
    let mut redis = RedisServer::settings()
        .appendonly(Fsync::Always)
        .start()
        .await;
    let [a, b] = replicas(&redis).await;
    let mut watch = b.watch("room").await;
    let alice = a.visit("room", "alice").await;
    let bob = a.visit("room", "bob").await;
    let carol = b.visit("room", "carol").await;
    watch.changes(3).await;
    redis.stop().await;
    eventually("the list to be refused", async || {
        match a.presence("room").await.status() {
            503 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    drop(bob);
    let dave = b.visit("room", "dave").await;
    // Whoever came and went while nobody could be told was never there.
    drop(b.visit("room", "eve").await);
    tokio::time::sleep(Duration::from_secs(7)).await;
    redis.restart().await;
    assert_eq!(watch.changes(2).await, ["join dave", "leave bob"]);
    b.has("room", &["alice", "carol", "dave"]).await;
    drop((alice, carol, dave));
    assert_eq!(
        watch.changes(3).await,
        ["leave alice", "leave carol", "leave dave"]
    );
}
