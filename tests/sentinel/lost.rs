//! A failover that loses what was acknowledged: the replicas had been cut off before the master died.

use serde_json::{Value, json};

use super::{copied, is_at, length, ready, recorded};
use crate::{
    redis::is_gap,
    support::{Gateway, RedisSentinel, Subscriber},
};

/// The next frame is the gap of a failover, in this topic.
async fn is_told(reader: &mut Subscriber) {
    let gap = reader.control("$gap").await;
    assert_eq!(gap.id, None, "a gap does not move the cursor");
    let data: Value = serde_json::from_str(gap.data.as_deref().unwrap()).unwrap();
    assert_eq!(data["reason"], "lost", "{data}");
    assert_eq!(data["topics"], json!(["orders"]), "{data}");
}

/// What the servers do by themselves against this loss is switched off, so that it happens: the master goes on without replicas.
#[tokio::test]
async fn what_a_failover_lost_is_found_recorded_and_told_to_whoever_could_have_had_it() {
    let settings = RedisSentinel::settings().server("min-replicas-to-write 0");
    let mut group = settings.start().await;
    let careful = group.gateway().with("redis.wait_replicas", 1);
    // Longer than a server may stand still, and less than the test waits for an answer.
    let careful = careful.with("publish.timeout", "3s");
    let (a, b, careful) = tokio::join!(
        ready(group.gateway()),
        ready(group.gateway()),
        ready(careful)
    );
    let mut open = Vec::new();
    for gateway in [&a, &b, &careful] {
        open.push(gateway.subscribe("orders").await);
        open.push(gateway.subscribe("quiet,orders").await);
    }
    let mut quiet = b.subscribe("quiet").await;
    let calm = b.publish("quiet", "q").await;
    let kept = a.publish_all("orders", ["a", "b", "c"]).await;
    assert_eq!(quiet.take(1).await, ["q"]);
    for (at, reader) in open.iter_mut().enumerate() {
        let wanted = if at % 2 == 0 {
            vec!["a", "b", "c"]
        } else {
            vec!["q", "a", "b", "c"]
        };
        assert_eq!(reader.take(wanted.len()).await, wanted);
    }
    copied(&group, "orders", 3).await;
    copied(&group, "quiet", 1).await;

    group.part_replicas(0);
    let lost = a.publish_all("orders", ["d", "e", "f"]).await;
    for reader in &mut open {
        assert_eq!(reader.take(3).await, ["d", "e", "f"]);
    }
    // Who waits for a replica is told that none has it. It is repeated when there is a master again, and stored once.
    let keyed = json!({"topic": "careful", "data": "g", "key": "g"}).to_string();
    careful.post(&keyed).await.refuses(504, "store_timeout");
    assert_eq!(length(&group, 0, "orders").await, 6);
    group.kill(0).await;
    group.heal(0);
    let master = group.promoted(0).await;
    for gateway in [&a, &b, &careful] {
        is_at(gateway, group.wire(master).port()).await;
    }

    for reader in &mut open {
        is_told(reader).await;
        reader.stays_silent().await;
    }
    quiet.stays_silent().await;
    let ranges = recorded(&group, master, "orders").await;
    assert_eq!(ranges, [(kept[2], lost[2])], "exactly what was lost");
    assert_eq!(recorded(&group, master, "quiet").await, []);
    let next = b.publish("orders", "h").await;
    assert!(
        next > lost[2],
        "ids keep increasing: {next} after {}",
        lost[2]
    );
    for reader in &mut open {
        assert_eq!(reader.take(1).await, ["h"]);
    }

    // A replica of the gateway that was not there says the same.
    let fresh = ready(group.gateway()).await;
    for gateway in [&a, &b, &careful, &fresh] {
        tells_the_same(gateway, &kept, &lost, "h").await;
        let after = gateway.resume("orders", next).await;
        assert_eq!(after.replay(), "complete");
        let mut others = gateway.resume("quiet", calm).await;
        assert_eq!(others.replay(), "complete", "nothing of it was lost");
        others.replays([""; 0]).await;
    }
    group
        .follows(group.others(master).find(|at| *at != 0).unwrap(), master)
        .await;
    let answer = careful.post(&keyed).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let mut reader = fresh
        .events("topic=careful&lastEventId=earliest")
        .open()
        .await;
    reader.replays(["g"]).await;

    // The old master has the lost events in its file. It comes back as a replica, and nobody ever gets them.
    group.restart(0).await;
    group.follows(0, master).await;
    assert_eq!(length(&group, 0, "orders").await, 4);
    for reader in &mut open {
        reader.stays_silent().await;
    }
}

async fn tells_the_same(
    gateway: &Gateway,
    kept: &[tidegate::event::EventId],
    lost: &[tidegate::event::EventId],
    next: &str,
) {
    for cursor in [kept[2], lost[0], lost[1]] {
        let mut reader = gateway.resume("orders", cursor).await;
        is_gap(&reader, "lost");
        assert_eq!(reader.start(), cursor);
        reader.replays([next]).await;
    }
    // Who had everything that was lost has missed nothing, and who comes from before gets what there is.
    let mut had_all = gateway.resume("orders", lost[2]).await;
    assert_eq!(had_all.replay(), "complete");
    had_all.replays([next]).await;
    let mut before = gateway.resume("orders", kept[0]).await;
    assert_eq!(before.replay(), "complete");
    before.replays(["b", "c", next]).await;
}
