//! Who is there: how many streams follow a topic, over all replicas, and which users they belong to, now and as it changes.

mod counts;
mod joins;
mod replicas;
mod rights;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Claims, Gateway, RedisServer, Request, Response, Settings, Signer, Subscriber, eventually,
    within_time,
};

const SECRET: &str = "a secret of more than thirty-two bytes";
/// How long a user may be away without having left; what is awaited below is awaited for several times as long.
const DEBOUNCE: &str = "1500ms";
/// How long it may take until a replica that says nothing any more is taken for gone. Its streams tell that they live meanwhile.
const LEASE: Duration = Duration::from_secs(20);

/// A gateway that knows users, and tells who is there.
fn settings() -> Settings {
    Gateway::settings()
        .with("auth.jwt.secret", SECRET)
        .with("auth.anonymous", "subscribe,publish,presence")
        .with("presence.enabled", true)
        .with("presence.debounce", DEBOUNCE)
        .with("drain.timeout", "2s")
        .with("stream.keepalive", "1s")
        .with("limits.rate.connect", "off")
        .with("limits.rate.poll", "off")
}

async fn replica(redis: &RedisServer) -> Gateway {
    crate::redis::replica_of(settings(), redis).await
}

fn token(user: &str) -> String {
    Signer::hs256(SECRET).sign(&Claims::of(user))
}

impl Gateway {
    /// The stream of a user.
    async fn visit(&self, topics: &str, user: &str) -> Subscriber {
        let stream = self.events(&format!("topic={topics}"));
        stream.bearer(&token(user)).open().await
    }

    /// Asks who is there; `topics` are separated by commas.
    async fn presence(&self, topics: &str) -> Response {
        self.get(&format!("/presence?topic={topics}")).await
    }

    /// Who is there of one topic: how many streams, which users.
    async fn present(&self, topic: &str) -> (u64, Vec<String>) {
        let answer = self.presence(topic).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let json = answer.json();
        let of = &json["topics"][0];
        assert_eq!(of["topic"], topic, "{json}");
        let users = of["users"].as_array().unwrap().iter();
        let users: Vec<_> = users.map(|it| it.as_str().unwrap().to_owned()).collect();
        assert_eq!(of["users_total"], users.len(), "{json}");
        (of["subscribers"].as_u64().unwrap(), users)
    }

    /// Waits until these, in this order, are there.
    async fn has(&self, topic: &str, wanted: &[&str]) {
        eventually(
            format!("{wanted:?} to be in {topic}"),
            async || match self.present(topic).await {
                (_, users) if users == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
        .await;
    }

    /// Follows who comes and goes.
    async fn watch(&self, topic: &str) -> Subscriber {
        self.subscribe(&format!("$presence/{topic}")).await
    }
}

impl Subscriber {
    /// The next who came or went, as `join alice`.
    async fn change(&mut self) -> String {
        let event = within_time(LEASE, "somebody to come or go", self.next()).await;
        change(event.kind.as_deref(), &event.data)
    }

    /// The next changes, whatever their order.
    async fn changes(&mut self, count: usize) -> Vec<String> {
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            changes.push(self.change().await);
        }
        changes.sort();
        changes
    }
}

fn change(kind: Option<&str>, data: &str) -> String {
    let data: Value = serde_json::from_str(data).unwrap();
    let user = data["user"].as_str().unwrap();
    assert_eq!(data, json!({ "user": user }));
    format!("{} {user}", kind.unwrap())
}
