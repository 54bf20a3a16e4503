//! WebSocket and poll with TLS: the protocol that the handshake agrees on decides what is possible.

use serde_json::json;

use crate::support::{
    Authority, Connection, Gateway, H2Client, Handshake, Polled, Request, TlsClient,
};

/// A gateway with a certificate, and who signed it.
async fn start() -> (Authority, Gateway) {
    let authority = Authority::new();
    let pair = authority.issue("gateway");
    let gateway = Gateway::with("server.tls.certificate", pair.certificate.display())
        .with("server.tls.key", pair.key.display())
        .start()
        .await;
    (authority, gateway)
}

async fn publish(client: &TlsClient, data: &str) {
    let body = json!({ "topic": "orders", "data": data }).to_string();
    let answer = client.ask(&Request::publish(body)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
}

#[tokio::test]
async fn a_websocket_and_a_poll_go_on_with_each_others_cursor() {
    let (authority, gateway) = start().await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    let handshake = Handshake::new(gateway.public, "topic=orders");
    let mut socket = handshake.upgrade_on(client.connect().await).await;
    let open = socket.message().await;
    assert_eq!(open["type"], "open", "{open}");
    for data in ["a", "b"] {
        publish(&client, data).await;
    }
    assert_eq!(socket.take(2).await, ["a", "b"]);
    publish(&client, "c").await;
    assert_eq!(socket.take(1).await, ["c"]);
    let cursor = open["cursor"].as_str().unwrap();
    let target = format!("/poll?topic=orders&lastEventId={cursor}");
    let polled = Polled::of(&client.ask(&Request::get(&target)).await);
    polled.is_complete();
    assert_eq!(polled.data(), ["a", "b", "c"]);
    // One that waits.
    let target = format!("/poll?topic=orders&wait=60s&lastEventId={}", polled.cursor);
    let mut waiting = client.connect().await;
    waiting
        .send(Request::get(&target).bytes(gateway.public))
        .await;
    publish(&client, "d").await;
    let polled = Polled::of(&waiting.response().await);
    assert_eq!(polled.data(), ["d"]);
}

/// Browsers offer no HTTP/2 where they want a WebSocket; other clients offer nothing at all.
#[tokio::test]
async fn without_a_protocol_a_websocket_opens() {
    let (authority, gateway) = start().await;
    for offered in [&[][..], &["http/1.1"]] {
        let client = authority.client(gateway.public, offered);
        let handshake = Handshake::new(gateway.public, "topic=orders");
        let mut socket = handshake.upgrade_on(client.connect().await).await;
        assert_eq!(socket.message().await["type"], "open");
        publish(&authority.client(gateway.public, &["http/1.1"]), "a").await;
        assert_eq!(socket.take(1).await, ["a"]);
    }
}

/// Whoever offers both is given HTTP/2, in which there is no Upgrade (RFC 9113, 8.6): the handshake of a browser that
/// reuses such a connection would need RFC 8441, so that must not be promised, and a `GET` is refused and not left alone.
#[tokio::test]
async fn over_http_2_there_is_no_websocket_and_none_is_promised() {
    const SETTINGS: u8 = 4;
    const ENABLE_CONNECT_PROTOCOL: [u8; 2] = [0, 8];
    let (authority, gateway) = start().await;
    let client = authority.client(gateway.public, &["h2", "http/1.1"]);
    let stream = client.shake().await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut connection = Connection::over(stream, gateway.public);
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    connection.send([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await;
    let mut first = Vec::new();
    while first.len() < 9 || first.len() < 9 + usize::from(first[2]) {
        first.extend(crate::support::within("settings", connection.read()).await);
    }
    assert_eq!(first[3], SETTINGS, "{first:?}");
    let settings = &first[9..9 + usize::from(first[2])];
    for setting in settings.chunks(6) {
        assert_ne!(setting[..2], ENABLE_CONNECT_PROTOCOL, "{settings:?}");
    }
    let connection = client.connect().await;
    let mut http2 = H2Client::over(connection, gateway.public).await;
    let request = http2.request(1, "/ws?topic=orders", &[]);
    assert!(http2.send(request).await);
    assert_eq!(http2.refusal(1).await, Some(426));
}

#[tokio::test]
async fn a_poll_over_http_2_with_tls_is_the_same() {
    let (authority, gateway) = start().await;
    let plain = authority.client(gateway.public, &["http/1.1"]);
    publish(&plain, "a").await;
    let client = authority.client(gateway.public, &["h2"]);
    let mut http2 = H2Client::over(client.connect().await, gateway.public).await;
    http2.get("/poll?topic=orders&last=1").await;
    let body = http2.data_to_the_end().await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["events"][0]["data"], "a", "{body}");
    let mut http2 = H2Client::over(client.connect().await, gateway.public).await;
    let cursor = json["cursor"].as_str().unwrap();
    let target = format!("/poll?topic=orders&wait=60s&lastEventId={cursor}");
    let request = http2.request(1, &target, &[]);
    assert!(http2.send(request).await);
    publish(&plain, "b").await;
    http2.head_of_200().await;
    let body = http2.data_to_the_end().await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["events"][0]["data"], "b", "{body}");
}

/// A WebSocket holds the whole stream of bytes, so what a slow reader leaves unread is read again later, as by SSE.
#[tokio::test]
async fn a_narrow_websocket_with_tls_gets_every_event() {
    let (authority, gateway) = start().await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    let handshake = Handshake::new(gateway.public, "topic=orders");
    let mut socket = handshake.upgrade_on(client.connect_narrow().await).await;
    assert_eq!(socket.message().await["type"], "open");
    let large = "x".repeat(20_000);
    let all: Vec<String> = (0..100).map(|number| format!("{number} {large}")).collect();
    for piece in all.chunks(20) {
        let items: Vec<_> = piece
            .iter()
            .map(|data| json!({"topic": "orders", "data": data}))
            .collect();
        let answer = client
            .ask(&Request::publish(json!(items).to_string()))
            .await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    assert!(socket.take(100).await == all, "each of them, in order");
}
