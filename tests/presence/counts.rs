//! How many follow a topic, and who they are.

use super::*;

/// However a client follows a topic, it is one subscriber of it; a user is counted once, however many streams it has.
#[tokio::test]
async fn every_open_stream_and_every_waiting_poll_is_counted() {
    let gateway = settings().start().await;
    let nobody = gateway.subscribe("room,hall").await;
    let sse = gateway.visit("room", "alice").await;
    let mut ws = gateway.ws("topic=room").bearer(&token("bob")).open().await;
    let poll = gateway.poll("topic=room&wait=60s").bearer(&token("alice"));
    let poll = poll.begin().await;
    gateway.has("room", &["alice", "bob"]).await;
    eventually("the poll to wait", async || {
        match gateway.present("room").await.0 {
            4 => Ok(()),
            other => Err(format!("{other}")),
        }
    })
    .await;
    assert_eq!(gateway.present("hall").await, (1, vec![]));
    let answer = gateway.presence("hall,room&topic=empty&topic=room").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json = answer.json();
    let count = |at: usize| {
        (
            &json["topics"][at]["topic"],
            &json["topics"][at]["subscribers"],
        )
    };
    assert_eq!(count(0), (&json!("hall"), &json!(1)), "{json}");
    assert_eq!(count(1), (&json!("room"), &json!(4)), "{json}");
    assert_eq!(count(2), (&json!("empty"), &json!(0)), "{json}");
    assert_eq!(json["topics"].as_array().unwrap().len(), 3, "{json}");
    assert_eq!(
        json["replicas"],
        json!({"live": 1, "answered": 1}),
        "{json}"
    );
    // Whoever changes its topics in mid-stream is counted where it is.
    ws.subscribe(&["hall"]).await;
    assert_eq!(gateway.present("hall").await.0, 2);
    gateway.has("hall", &["bob"]).await;
    ws.unsubscribe(&["room"]).await;
    assert_eq!(gateway.present("room").await.0, 3);
    gateway.has("room", &["alice"]).await;
    drop((nobody, sse, poll));
    gateway.has("room", &[]).await;
    // The store knows it before the gateway has noted that it does.
    gateway.counts("tidegate_presence_users", &[], 1).await;
    let online = gateway.get_admin("/stats").await.json()["users"].clone();
    assert_eq!(online, json!({"online": 1, "list": ["bob"]}));
    let told = [
        gateway.metric("tidegate_presence_joins_total").await,
        gateway.metric("tidegate_presence_leaves_total").await,
    ];
    assert_eq!(told, [Some(3.0), Some(2.0)]);
}

/// Counting needs no setting. Who is there does.
#[tokio::test]
async fn without_the_setting_streams_are_counted_and_nobody_is_named() {
    let gateway = settings().without("presence.enabled").start().await;
    let _reader = gateway.visit("room", "alice").await;
    let json = gateway.presence("room").await.json();
    assert_eq!(
        json["topics"],
        json!([{"topic": "room", "subscribers": 1}]),
        "{json}"
    );
    assert!(json.get("cursor").is_none(), "{json}");
    let target = "/events?topic=$presence/room";
    let answer = gateway.get(target).await;
    let detail = answer.refuses(400, "topic_invalid");
    assert!(detail.contains("presence.enabled"), "{detail}");
    assert!(
        gateway
            .get_admin("/stats")
            .await
            .json()
            .get("users")
            .is_none()
    );
    assert_eq!(gateway.metric("tidegate_presence_users").await, None);
}

/// A room of any size has an answer of bounded length.
#[tokio::test]
async fn a_thousand_users_are_named_and_all_are_counted() {
    let gateway = settings()
        .with("limits.connections_per_address", 2_000)
        .start()
        .await;
    let names: Vec<String> = (0..1_005)
        .map(|number| format!("user-{number:04}"))
        .collect();
    let mut streams = Vec::new();
    for name in &names {
        streams.push(gateway.visit("room", name).await);
    }
    eventually("all to be there", async || {
        let json = gateway.presence("room").await.json();
        let of = &json["topics"][0];
        match (of["subscribers"].as_u64(), of["users_total"].as_u64()) {
            (Some(1_005), Some(1_005)) => {
                assert_eq!(of["users"], json!(names[..1_000]));
                Ok(())
            }
            _ => Err(format!("{}", of["users_total"])),
        }
    })
    .await;
    let online = gateway.get_admin("/stats").await.json()["users"].clone();
    assert_eq!(
        (&online["online"], &online["list"]),
        (&json!(1_005), &json!(names[..1_000]))
    );
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let gateway = settings()
        .with("limits.topics_per_connection", 2)
        .start()
        .await;
    for (query, code) in [
        ("", "topic_missing"),
        ("?topics=a", "topic_invalid"),
        ("?topic=", "topic_invalid"),
        ("?topic=a*", "topic_invalid"),
        ("?topic=$presence/a", "topic_invalid"),
        ("?topic=a,b,c", "too_many_topics"),
        ("?topic=%ff", "utf8_invalid"),
    ] {
        let answer = gateway.get(&format!("/presence{query}")).await;
        answer.refuses(400, code);
    }
    let answer = gateway.ask(Request::new("POST", "/presence?topic=a")).await;
    answer.refuses(405, "method_not_allowed");
    // What can be followed of the reserved names is the presence of a topic, and nothing else.
    for name in [
        "$presence",
        "$presence/",
        "$presence/$presence/a",
        "$presence/a*",
        "$other/a",
        "$",
    ] {
        let answer = gateway.get(&format!("/events?topic={name}")).await;
        answer.refuses(400, "topic_invalid");
        let answer = gateway.get(&format!("/poll?wait=0s&topic={name}")).await;
        answer.refuses(400, "topic_invalid");
    }
    let mut ws = gateway.follow("room").await;
    let wrong = json!({"type": "subscribe", "topics": ["$presence/"]});
    ws.send(wrong).await;
    ws.error("topic_invalid").await;
    // Nobody but the gateway says who is there.
    let event = json!({"topic": "$presence/room", "event": "join", "data": "{\"user\":\"eve\"}"});
    gateway
        .post(event.to_string())
        .await
        .refuses(400, "topic_invalid");
    let request = Request::post("/publish?topic=$presence/room", "text/plain", "a");
    gateway.ask(request).await.refuses(400, "topic_invalid");
    ws.send(json!({"type": "publish", "topic": "$presence/room", "data": ""}))
        .await;
    ws.error("topic_invalid").await;
    let longest = "x".repeat(255);
    let _watch = gateway.watch(&longest).await;
    let _reader = gateway.visit(&longest, "alice").await;
    gateway.has(&longest, &["alice"]).await;
}
