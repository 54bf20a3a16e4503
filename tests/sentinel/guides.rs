//! Some Sentinels may be away, or no Sentinels at all; with all of them away, who is connected stays.

use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::{is_at, ready};
use crate::support::{Authority, RedisSentinel, eventually};

/// Somebody who answers everybody with what no Sentinel says.
async fn babbler() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let _ = caller.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    address
}

#[tokio::test]
async fn one_sentinel_that_answers_is_enough_and_without_any_who_is_connected_stays() {
    // Servers without functions besides: scripts have to be brought to the next master.
    let commands = ["FUNCTION", "FCALL", "FCALL_RO"];
    let settings = commands
        .iter()
        .fold(RedisSentinel::settings(), |settings, command| {
            settings.server(&format!("rename-command {command} \"\""))
        });
    let mut group = settings.start().await;
    for at in 0..3 {
        group.sentinel(at).kill();
    }
    // All are away at the start: it says so, naming each, and is not restarted for that.
    let late = super::lively(group.gateway()).start().await;
    eventually("the gateway to name all Sentinels", async || {
        let answer = late.get("/health").await;
        let text = answer.text();
        let named = group.nodes().split(',').all(|node| text.contains(node));
        match answer.status() {
            503 if named => Ok(()),
            _ => Err(text),
        }
    })
    .await;
    assert_eq!(
        late.get("/health/ready").await.status(),
        503,
        "before the first contact"
    );

    // One of three answers. It is not the first that is asked.
    group.sentinel(2).restart().await;
    let port = group.wire(0).port();
    is_at(&late, port).await;
    let nodes = format!("{},127.0.0.1:1,{}", babbler().await, group.nodes());
    let gateway = ready(group.gateway_by(&nodes)).await;
    is_at(&gateway, port).await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);

    // None is there.
    group.sentinel(2).kill();
    for gateway in [&gateway, &late] {
        gateway.publish("orders", "b").await;
        assert_eq!(reader.take(1).await, ["b"]);
        is_at(gateway, port).await;
    }

    // They are back, and the next failover is followed. The gateway had been told of one that is gone for good.
    for at in [0, 1] {
        group.sentinel(at).restart().await;
    }
    group.sentinel(2).restart().await;
    for at in 0..3 {
        group.hurry(at).await;
    }
    group.settled().await;
    super::copied(&group, "orders", 3).await;
    group.kill(0).await;
    let master = group.promoted(0).await;
    for gateway in [&gateway, &late] {
        is_at(gateway, group.wire(master).port()).await;
    }
    gateway.publish("orders", "c").await;
    assert_eq!(reader.take(1).await, ["c"]);
}

/// Passwords are everywhere in the shipped files; here is TLS besides. What a Sentinel says against a gateway is told in words.
#[tokio::test]
async fn sentinels_and_servers_may_want_tls_and_passwords() {
    let authority = Authority::new();
    let mut group = RedisSentinel::settings().tls(&authority).start().await;
    for (key, value, why) in [
        ("redis.sentinel.password", "wrong", "WRONGPASS"),
        ("redis.sentinel.master", "nobody", "nobody"),
        ("redis.password", "wrong", "WRONGPASS"),
        ("redis.url", "redis://plain.invalid", "127.0.0.1"),
    ] {
        let gateway = group.gateway().with(key, value).start().await;
        eventually("the reason", async || {
            let answer = gateway.get("/health").await;
            match answer.status() {
                503 if answer.text().contains(why) => Ok(()),
                _ => Err(answer.text()),
            }
        })
        .await;
    }
    let gateway = ready(group.gateway()).await;
    let mut reader = gateway.subscribe("orders").await;
    gateway.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    super::copied(&group, "orders", 1).await;
    group.kill(0).await;
    let master = group.promoted(0).await;
    is_at(&gateway, group.wire(master).port()).await;
    gateway.publish("orders", "b").await;
    assert_eq!(reader.take(1).await, ["b"]);
    reader.stays_silent().await;
}
