//! Who may know who is there: a right of its own.

use super::*;

const SHOP: &str = "shop-0123456789abcdef";
const FILE: &str = r#"
auth:
  tokens:
    - {name: shop, token: shop-0123456789abcdef, subscribe: ["*"], presence: [room, "shop/*"]}
"#;

/// Everybody may follow; who is there is for those who have the right.
fn guarded() -> Settings {
    settings().with("auth.anonymous", "subscribe").config(FILE)
}

fn sign(claims: &Claims) -> String {
    Signer::hs256(SECRET).sign(claims)
}

fn knows(subject: &str, topics: &[&str]) -> String {
    let claims = Claims::of(subject).subscribe(&["room"]).presence(topics);
    sign(&claims)
}

/// Asks for the list, and for the events, in each encoding.
async fn everywhere(gateway: &Gateway, topic: &str, token: Option<&str>) -> Vec<Response> {
    let mut answers = Vec::new();
    for target in [
        format!("/presence?topic={topic}"),
        format!("/events?topic=$presence/{topic}"),
        format!("/poll?wait=0s&topic=$presence/{topic}"),
    ] {
        // A look at the head is judged as the stream would be, and leaves none open.
        let request = Request::new("HEAD", &target);
        let request = match token {
            Some(token) => request.bearer(token),
            None => request,
        };
        answers.push(gateway.ask(request).await);
    }
    answers
}

#[tokio::test]
async fn who_is_there_is_told_to_those_with_the_right() {
    let gateway = guarded().start().await;
    for answer in everywhere(&gateway, "room", None).await {
        assert_eq!(answer.status(), 401, "{answer:?}");
    }
    let stars = sign(&Claims::of("ann").subscribe(&["*"]).publish(&["*"]));
    let other = knows("ann", &["hall", "roo", "room/*"]);
    for token in [&stars, &other] {
        for answer in everywhere(&gateway, "room", Some(token)).await {
            assert_eq!(answer.status(), 403, "{answer:?}");
        }
    }
    let refusal = gateway
        .ask(Request::get("/presence?topic=room").bearer(&other))
        .await;
    let detail = refusal.refuses(403, "forbidden");
    assert!(detail.contains("room"), "it says which: {detail}");
    for (token, topic) in [
        (&*knows("ann", &["room"]), "room"),
        (&*knows("ann", &["*"]), "anything"),
        (SHOP, "shop/7"),
        (SHOP, "room"),
    ] {
        for answer in everywhere(&gateway, topic, Some(token)).await {
            assert_eq!(answer.status(), 200, "{answer:?}");
        }
    }
    // One that may not be known refuses the whole.
    let both = Request::get("/presence?topic=room,hall").bearer(SHOP);
    gateway.ask(both).await.refuses(403, "forbidden");
    let both = Request::new("HEAD", "/events?topic=$presence/room,$presence/hall");
    assert_eq!(gateway.ask(both.bearer(SHOP)).await.status(), 403);
    // In mid-stream, too.
    let mut ws = gateway.ws("topic=room").bearer(&stars).open().await;
    ws.send(json!({"type": "subscribe", "topics": ["$presence/room"]}))
        .await;
    ws.error("forbidden").await;
    // A ticket has the rights of whoever bought it.
    let bought = gateway
        .ask(Request::new("POST", "/ticket").bearer(SHOP))
        .await
        .json();
    let ticket = bought["ticket"].as_str().unwrap();
    let query = format!("topic=$presence/room&ticket={ticket}");
    let mut watch = gateway.events(&query).open().await;
    let _stream = gateway.visit("room", "bob").await;
    assert_eq!(watch.change().await, "join bob");
}

/// A claim that cannot be read is no right, and no guess.
#[tokio::test]
async fn a_wrong_claim_is_refused() {
    let gateway = guarded().start().await;
    for wrong in [
        json!("room"),
        json!(["$presence/room"]),
        json!([7]),
        json!({}),
    ] {
        let claims = Claims::of("ann").with("tidegate", json!({ "presence": wrong }));
        let request = Request::get("/presence?topic=room").bearer(&sign(&claims));
        gateway.ask(request).await.challenges(true);
    }
    let refused = settings()
        .with("auth.anonymous", "presences")
        .refuses_to_start()
        .await;
    assert!(refused.output.contains("presence"), "{}", refused.output);
}

#[tokio::test]
async fn a_reload_that_takes_the_right_away_ends_its_streams_and_no_other() {
    let gateway = guarded().start().await;
    let mut watch = gateway
        .events("topic=$presence/room")
        .bearer(SHOP)
        .open()
        .await;
    let mut other = gateway
        .events("topic=$presence/shop/1")
        .bearer(SHOP)
        .open()
        .await;
    let mut reader = gateway.events("topic=room").bearer(SHOP).open().await;
    assert_eq!(watch.change().await, "join shop");
    let fewer = FILE.replace("room, ", "");
    gateway.reload(&fewer).await;
    watch.rest().await;
    let again = Request::get("/events?topic=$presence/room").bearer(SHOP);
    gateway.ask(again).await.refuses(403, "forbidden");
    reader.stays_silent().await;
    other.stays_silent().await;
    // A renewal needs the right, too.
    let stream = gateway
        .events("topic=$presence/room")
        .bearer(&knows("ann", &["room"]));
    let mut stream = stream.open().await;
    let connection = stream.open_data()["connection"].clone();
    let renewal = format!("/connections/{}/token", connection.as_str().unwrap());
    for (topics, status) in [(&["hall"], 403), (&["room"], 200)] {
        let request = Request::new("POST", &renewal).bearer(&knows("ann", topics));
        assert_eq!(gateway.ask(request).await.status(), status);
    }
    stream.stays_silent().await;
}

/// In development mode anybody may, and nobody has a name.
#[tokio::test]
async fn in_development_mode_anybody_may_look() {
    let gateway = Gateway::with("presence.enabled", true).start().await;
    let _watch = gateway.watch("room").await;
    let _reader = gateway.subscribe("room").await;
    assert_eq!(gateway.present("room").await, (1, vec![]));
}
