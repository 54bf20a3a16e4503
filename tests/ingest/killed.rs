//! Exactly once, whoever dies, sleeps or races in the middle.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{add_numbers, add_on, dead, is_drained, key, length, log, stats};
use crate::{
    redis::replica,
    support::{Gateway, RedisServer, Value, eventually, numbers, within_time},
};

/// Longer than a lease lasts.
const TAKEOVER: Duration = Duration::from_secs(15);

/// Which of the replicas moves entries, or believes that it does.
async fn mover(gateways: &[Gateway]) -> usize {
    eventually("one replica to move entries", async || {
        for (at, gateway) in gateways.iter().enumerate() {
            if stats(gateway).await["moves"] == true {
                return Ok(at);
            }
        }
        Err("none".to_owned())
    })
    .await
}

/// Waits until all entries are moved, also where a lease has to end first.
async fn is_drained_by_another(redis: &RedisServer) {
    within_time(TAKEOVER, "all entries to be moved", async {
        while length(redis, "ingest").await > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// No entry has a key: what is moved twice would be seen twice. Leases are taken away all the time, so that replicas that
/// believe that they hold one race with each other; and whoever moves is killed in the middle, again and again.
#[tokio::test]
async fn replicas_that_race_and_are_killed_move_each_entry_once_and_in_order() {
    const EACH: usize = 4_000;
    const KILLS: usize = 5;
    let redis = RedisServer::start().await;
    let mut gateways = vec![
        replica(&redis).await,
        replica(&redis).await,
        replica(&redis).await,
    ];
    let witness = replica(&redis).await;
    let mut reader = witness.subscribe("a").await;
    let done = tokio_util::sync::CancellationToken::new();
    let produce = async |topic: &str| {
        let mut producer = redis.connect().await;
        let mut at = 0;
        // Single entries, and heaps of them.
        while at < EACH {
            let data = at.to_string();
            add_on(&mut producer, &["topic", topic, "data", &data]).await;
            add_numbers(&redis, topic, at + 1..at + 40).await;
            at += 40;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let take_leases = async {
        let mut thief = redis.connect().await;
        while !done.is_cancelled() {
            thief.ask(&["DEL", &key("ingest:lease")]).await;
            sleep(Duration::from_millis(3)).await;
        }
    };
    // One more that moves, and knows of no lease at all.
    let names = [
        "meta",
        "last",
        "heads",
        "ingest",
        "ingest:dead",
        "topic:a",
        "ch:a",
        "topic:b",
        "ch:b",
    ];
    let mut call = vec!["FCALL".to_owned(), "tidegate_ingest".into(), "9".into()];
    call.extend(names.map(key));
    call.extend(["+", "7", "2", "a", "b"].map(str::to_owned));
    let race = async {
        let (mut rival, mut moved) = (redis.connect().await, 0);
        while !done.is_cancelled() {
            moved += rival.ask(&call).await.items()[0].integer();
            sleep(Duration::from_millis(1)).await;
        }
        moved
    };
    let kill = async {
        for _ in 0..KILLS {
            let victim = mover(&gateways).await;
            let before = Instant::now();
            // In the middle of its work, not between.
            while length(&redis, "ingest").await == 0
                && before.elapsed() < Duration::from_millis(200)
            {}
            let mut victim = gateways.swap_remove(victim);
            victim.program().signal(Signal::KILL);
            gateways.push(replica(&redis).await);
        }
    };
    let load = async {
        tokio::join!(produce("a"), produce("b"), kill);
        done.cancel();
    };
    let ((), (), moved) = tokio::join!(load, take_leases, race);
    assert!(moved > 0, "there was a race");
    is_drained_by_another(&redis).await;
    for topic in ["a", "b"] {
        assert_eq!(log(&redis, topic).await, numbers(0..EACH), "in {topic}");
    }
    assert_eq!(reader.take(EACH).await, numbers(0..EACH));
    reader.stays_silent().await;
    assert!(dead(&redis).await.is_empty());
}

/// It believes that it has the lease when it wakes up, and has calls on the way.
#[tokio::test]
async fn a_replica_that_slept_wakes_up_and_does_no_harm() {
    let redis = RedisServer::start().await;
    let mut gateways = [replica(&redis).await, replica(&redis).await];
    let sleeper = mover(&gateways).await;
    let mut reader = gateways[1 - sleeper].subscribe("a").await;
    add_numbers(&redis, "a", 0..2_000).await;
    gateways[sleeper].program().freeze();
    add_numbers(&redis, "a", 2_000..4_000).await;
    is_drained_by_another(&redis).await;
    assert_eq!(stats(&gateways[1 - sleeper]).await["moves"], true);
    add_numbers(&redis, "a", 4_000..4_500).await;
    gateways[sleeper].program().signal(Signal::CONT);
    add_numbers(&redis, "a", 4_500..5_000).await;
    is_drained_by_another(&redis).await;
    assert_eq!(reader.take(5_000).await, numbers(0..5_000));
    reader.stays_silent().await;
    eventually("it to see that it lost the lease", async || {
        let said = stats(&gateways[sleeper]).await;
        if said["moves"] == false {
            Ok(())
        } else {
            Err(said.to_string())
        }
    })
    .await;
    assert_eq!(log(&redis, "a").await, numbers(0..5_000));

    // One that leaves as it should leaves no lease behind.
    let lease = key("ingest:lease");
    let held = eventually("somebody to hold the lease", async || {
        match redis.command(&["GET", &lease]).await {
            Value::Nil => Err("nobody".to_owned()),
            held => Ok(held),
        }
    })
    .await;
    let [first, second] = gateways;
    let (stays, leaves) = if sleeper == 0 {
        (first, second)
    } else {
        (second, first)
    };
    assert!(leaves.stop(TAKEOVER).await.status.success());
    let now = redis.command(&["GET", &lease]).await;
    assert!(now != held, "{held} {now}");
    add_numbers(&redis, "a", 5_000..5_001).await;
    is_drained(&redis).await;
    drop(stays);
}
