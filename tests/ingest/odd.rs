//! Entries that nobody would expect, and what becomes of them.

use super::{add, add_numbers, add_on, dead, is_drained, key, length, log, stats};
use crate::{
    redis::replica,
    support::{RedisServer, eventually, numbers},
};

/// Each is a dead letter with its reason, and what stands behind it does not wait.
#[tokio::test]
async fn an_entry_that_is_no_event_is_kept_with_its_reason_and_stops_nobody() {
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let mut reader = gateway.subscribe("orders").await;
    let mut producer = redis.connect().await;
    let megabyte = vec![b'x'; 1_000_000];
    let many: Vec<String> = (0..20_000).map(|number| format!("f{number}")).collect();
    let many: Vec<&[u8]> = many.iter().map(String::as_bytes).collect();
    let binary: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    let long = vec![b't'; 10_000];
    let wrong: [(&[&[u8]], &str); 10] = [
        (
            &[b"topic", b"orders", b"data", &megabyte],
            "event_too_large",
        ),
        (&[b"topic", b"orders", b"data", &binary], "utf8_invalid"),
        (&many, "field_unknown"),
        (&[b"topic", &binary, b"data", b"x"], "topic_invalid"),
        (&[b"topic", &long], "topic_invalid"),
        (&[b"topic", b"$presence/x", b"data", b"x"], "topic_invalid"),
        (&[b"data", b"x"], "topic_missing"),
        (&[b"topic", b"orders", b"event", b"$end"], "type_invalid"),
        (&[b"topic", b"orders", b"key", &long], "idempotency_invalid"),
        (&[&megabyte, &megabyte], "field_unknown"),
    ];
    let mut ids = Vec::new();
    for (number, (fields, _)) in wrong.iter().enumerate() {
        add_numbers(&redis, "orders", number..number + 1).await;
        ids.push(add_on(&mut producer, fields).await);
    }
    add_numbers(&redis, "orders", 10..11).await;
    assert_eq!(reader.take(11).await, numbers(0..11));
    reader.stays_silent().await;
    let reasons = wrong.iter().map(|(_, reason)| (*reason).to_owned());
    let expected: Vec<_> = reasons.zip(ids).collect();
    assert_eq!(dead(&redis).await, expected);
    let docs = include_str!("../../docs/ingest.md");
    for (reason, _) in expected {
        assert!(
            docs.contains(&format!("| `{reason}` |")),
            "docs/ingest.md does not explain {reason}"
        );
    }
    eventually("what was moved to be counted", async || {
        let said = stats(&gateway).await;
        if said["moved"] == 11 && said["dead"] == 10 {
            Ok(())
        } else {
            Err(said.to_string())
        }
    })
    .await;
    eventually("the dead letters to be counted", async || {
        let letters = gateway.metric("tidegate_ingest_dead_letters").await;
        if letters == Some(10.0) {
            Ok(())
        } else {
            Err(format!("{letters:?}"))
        }
    })
    .await;

    // A heap of large ones, and what waits behind it.
    for _ in 0..40 {
        let fields: [&[u8]; 4] = [b"topic", b"orders", b"data", &megabyte];
        add_on(&mut producer, &fields).await;
    }
    add_numbers(&redis, "orders", 11..12).await;
    assert_eq!(reader.take(1).await, ["11"]);
    assert_eq!(length(&redis, "ingest:dead").await, 50);
}

/// Whoever can write to Redis can take away what waits, or the whole stream. What is left is moved.
#[tokio::test]
async fn what_somebody_deletes_is_gone_and_the_rest_is_moved() {
    let redis = RedisServer::start().await;
    // Nobody moves yet.
    let first = add(&redis, &["topic", "a", "data", "deleted"]).await;
    add_numbers(&redis, "a", 0..100).await;
    redis.command(&["XDEL", &key("ingest"), &first]).await;
    let gateway = replica(&redis).await;
    is_drained(&redis).await;
    assert_eq!(log(&redis, "a").await, numbers(0..100));
    for round in 1..6 {
        let range = round * 100..round * 100 + 100;
        add_numbers(&redis, "a", range).await;
        redis.command(&["DEL", &key("ingest")]).await;
        // Ids begin anew, below those that were there.
        let words = [
            "XADD",
            &key("ingest"),
            "1-1",
            "topic",
            "b",
            "data",
            &round.to_string(),
        ];
        redis.command(&words).await;
        is_drained(&redis).await;
        redis.command(&["DEL", &key("ingest")]).await;
    }
    assert_eq!(log(&redis, "b").await, numbers(1..6));
    let moved: Vec<usize> = log(&redis, "a")
        .await
        .iter()
        .map(|it| it.parse().unwrap())
        .collect();
    assert!(moved.windows(2).all(|two| two[0] < two[1]), "{moved:?}");
    assert!(dead(&redis).await.is_empty());
    drop(gateway);
}
