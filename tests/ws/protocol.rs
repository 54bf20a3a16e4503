//! RFC 6455, byte by byte: what is right is understood however it is cut, and what is wrong ends the connection with the
//! code that says so.

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Frame, Gateway, Handshake, Received, WebSocket, opcode};

const PING: &str = r#"{"type":"ping","ref":"é🌊"}"#;

async fn is_understood(socket: &mut WebSocket) {
    let pong = json!({ "type": "pong", "ref": "é🌊" });
    assert_eq!(socket.telling().await, pong);
}

/// The next that comes has to be a pong of the protocol.
async fn pong(socket: &mut WebSocket) -> Vec<u8> {
    match socket.received().await {
        Received::Pong(payload) => payload,
        other => panic!("wanted a pong, got {other:?}"),
    }
}

#[tokio::test]
async fn a_ping_of_the_protocol_is_answered_with_what_it_carried() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for payload in [&b""[..], b"hello", b"\xff\x00\xfe", &[b'x'; 125]] {
        socket.send_frame(Frame::new(opcode::PING, payload)).await;
        assert_eq!(pong(&mut socket).await, payload);
    }
}

#[tokio::test]
async fn a_message_may_come_in_any_pieces() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    // One byte a piece cuts characters in two.
    for size in [1, 2, 3, 7, 100] {
        for piece in Frame::pieces(opcode::TEXT, PING, size) {
            socket.send_frame(piece).await;
        }
        is_understood(&mut socket).await;
    }
    let empty = || Frame::new(opcode::CONTINUATION, "").unfinished();
    for frame in [
        Frame::text("").unfinished(),
        empty(),
        Frame::new(opcode::CONTINUATION, PING).unfinished(),
        empty(),
        Frame::new(opcode::CONTINUATION, ""),
    ] {
        socket.send_frame(frame).await;
    }
    is_understood(&mut socket).await;
}

/// Control frames do not wait for the end of a message (RFC 6455, 5.4).
#[tokio::test]
async fn control_frames_come_between_the_pieces() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    for (number, piece) in Frame::pieces(opcode::TEXT, PING, 5).into_iter().enumerate() {
        let last = piece.last;
        socket.send_frame(piece).await;
        socket.send_frame(Frame::new(opcode::PONG, "unasked")).await;
        if !last {
            let payload = number.to_string();
            socket.send_frame(Frame::new(opcode::PING, &payload)).await;
            assert_eq!(pong(&mut socket).await, payload.as_bytes());
        }
    }
    is_understood(&mut socket).await;
    let mut pieces = Frame::pieces(opcode::TEXT, PING, 5);
    socket.send_frame(pieces.remove(0)).await;
    assert!(socket.close(1000, "in the midst").await.is_empty());
}

/// TCP knows nothing of frames.
#[tokio::test]
async fn frames_may_be_cut_and_joined_anywhere() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let long = json!({ "type": "ping", "ref": "é🌊", "x": "y".repeat(300) }).to_string();
    for text in [PING, &long] {
        for byte in Frame::text(text).bytes() {
            socket.send_bytes([byte]).await;
        }
    }
    // A member that nobody knows may be an error or not; it is answered.
    is_understood(&mut socket).await;
    assert!(["pong", "error"].contains(&socket.telling().await["type"].as_str().unwrap()));
    let joined: Vec<u8> = (0..100).flat_map(|_| Frame::text(PING).bytes()).collect();
    socket.send_bytes(&joined).await;
    for _ in 0..100 {
        is_understood(&mut socket).await;
    }
    let (begin, end) = joined.split_at(joined.len() - 7);
    socket.send_bytes(begin).await;
    for _ in 0..99 {
        is_understood(&mut socket).await;
    }
    socket.stays_silent().await;
    socket.send_bytes(end).await;
    is_understood(&mut socket).await;
}

/// A client closes with any code it may (RFC 6455, 7.4), and is answered with the same.
#[tokio::test]
async fn a_close_is_answered_and_the_connection_ends() {
    let gateway = Gateway::start().await;
    let long = "r".repeat(123);
    for (code, reason) in [
        (1000, ""),
        (1000, "bye"),
        (1001, "going away"),
        (1002, ""),
        (1003, ""),
        (1007, ""),
        (1009, ""),
        (1011, "é🌊"),
        (3000, ""),
        (4999, long.as_str()),
    ] {
        let mut socket = gateway.follow("orders").await;
        assert!(socket.close(code, reason).await.is_empty());
    }
    let mut socket = gateway.follow("orders").await;
    socket.send_frame(Frame::new(opcode::CLOSE, "")).await;
    let (messages, closed) = socket.rest().await;
    assert!(messages.is_empty(), "{messages:?}");
    assert!(matches!(closed.code, None | Some(1000)), "{closed:?}");
    gateway.has_places_taken(0).await;
}

#[tokio::test]
async fn nothing_is_understood_after_a_close() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.follow("orders").await;
    let publish = json!({ "type": "publish", "topic": "orders", "data": "late" }).to_string();
    let bytes = [Frame::close(1000, ""), Frame::text(publish)].map(|frame| frame.bytes());
    socket.send_bytes(bytes.concat()).await;
    let (messages, closed) = socket.rest().await;
    assert!(messages.is_empty(), "{messages:?}");
    assert_eq!(closed.code, Some(1000));
    let mut reader = gateway.ws("topic=orders&lastEventId=earliest").open().await;
    reader.replays([""; 0]).await;
}

/// Sends bytes, and sees the connection closed with one of these codes.
async fn is_closed(gateway: &Gateway, what: &str, bytes: Vec<u8>, codes: &[u16]) {
    let mut socket = gateway.follow("orders").await;
    socket.send_bytes(bytes).await;
    let (messages, closed) = socket.rest().await;
    assert!(messages.is_empty(), "{what}: {messages:?}");
    assert!(
        closed.code.is_some_and(|code| codes.contains(&code)),
        "{what}: {closed:?}"
    );
}

#[tokio::test]
async fn a_frame_that_is_none_is_a_protocol_error() {
    let gateway = Gateway::start().await;
    let frame = |opcode: u8, payload: &str| Frame::new(opcode, payload);
    let masked = |frame: Frame| frame.bytes();
    let two = |first: Frame, second: Frame| [first.bytes(), second.bytes()].concat();
    let mut cases = vec![
        ("no mask", Frame::text(PING).unmasked()),
        ("a ping without a mask", frame(opcode::PING, "").unmasked()),
        ("a close without a mask", Frame::close(1000, "").unmasked()),
        (
            "a continuation of nothing",
            masked(frame(opcode::CONTINUATION, PING)),
        ),
        (
            "the middle of nothing",
            masked(frame(opcode::CONTINUATION, PING).unfinished()),
        ),
        (
            "a message within a message",
            two(Frame::text("{").unfinished(), Frame::text(PING)),
        ),
        (
            "binary within text",
            two(Frame::text("{").unfinished(), frame(opcode::BINARY, "}")),
        ),
        (
            "a ping in pieces",
            masked(frame(opcode::PING, "x").unfinished()),
        ),
        (
            "a close in pieces",
            masked(Frame::close(1000, "").unfinished()),
        ),
        (
            "a ping that is too long",
            masked(Frame::new(opcode::PING, [b'x'; 126])),
        ),
        (
            "a pong that is too long",
            masked(Frame::new(opcode::PONG, vec![b'x'; 70_000])),
        ),
        (
            "a close that is too long",
            masked(Frame::close(1000, &"r".repeat(124))),
        ),
        ("half a code", masked(Frame::new(opcode::CLOSE, [3]))),
    ];
    for reserved in [1, 2, 4, 7] {
        cases.push((
            "a reserved bit",
            masked(Frame::text(PING).reserved(reserved)),
        ));
        let ping = frame(opcode::PING, "").reserved(reserved);
        cases.push(("a reserved bit of a ping", masked(ping)));
    }
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        cases.push(("a kind that there is not", masked(frame(opcode, ""))));
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
    ] {
        cases.push(("a code that there is not", masked(Frame::close(code, ""))));
    }
    for (what, bytes) in cases {
        is_closed(&gateway, what, bytes, &[1002]).await;
    }
    gateway.has_places_taken(0).await;
}

#[tokio::test]
async fn text_that_is_no_utf_8_is_closed_as_that() {
    let gateway = Gateway::start().await;
    for text in [
        &b"\xff"[..],
        b"{\"type\":\"\xc3\x28\"}",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ] {
        let whole = Frame::text(text).bytes();
        is_closed(&gateway, "whole", whole, &[1007]).await;
        let pieces = Frame::pieces(opcode::TEXT, text, 1);
        let pieces = pieces.iter().flat_map(Frame::bytes).collect();
        is_closed(&gateway, "in pieces", pieces, &[1007]).await;
    }
    let close = Frame::new(opcode::CLOSE, b"\x03\xe8\xff\xfe").bytes();
    is_closed(&gateway, "a reason", close, &[1007, 1002]).await;
    gateway.has_places_taken(0).await;
}

/// What was right before the fault has been done.
#[tokio::test]
async fn what_came_before_a_fault_counts() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.follow("stock").await;
    let mut socket = gateway.follow("orders").await;
    let publish = json!({ "type": "publish", "topic": "stock", "data": "a" }).to_string();
    let bytes = [Frame::text(publish).bytes(), Frame::text(PING).unmasked()];
    socket.send_bytes(bytes.concat()).await;
    let (messages, closed) = socket.rest().await;
    assert_eq!(closed.code, Some(1002), "{messages:?}");
    assert_eq!(reader.take(1).await, ["a"]);
}

/// Two hundred clients that speak nonsense of all kinds: the gateway lives, tells others the truth, and keeps no place.
#[tokio::test]
async fn noise_breaks_nothing() {
    let gateway = Gateway::start().await;
    let mut witness = gateway.follow("orders").await;
    let mut noise = JoinSet::new();
    for seed in 0..200_u64 {
        let handshake = gateway.ws("topic=orders&lastEventId=earliest");
        noise.spawn(make_noise(handshake, seed));
        if noise.len() >= 20 {
            noise.join_next().await.unwrap().unwrap();
        }
    }
    noise.join_all().await;
    gateway.has_places_taken(1).await;
    gateway.publish("orders", "after the noise").await;
    // Among the noise there may be a publish that is one.
    loop {
        if witness.next().await.data == "after the noise" {
            break;
        }
    }
    witness.is_open().await;
    let said = gateway.said();
    assert!(!said.contains("panicked"), "{said}");
}

async fn make_noise(handshake: Handshake, seed: u64) {
    let mut random = Random(seed);
    let mut socket = handshake.open().await;
    socket.answers_pings = false;
    let mut bytes = Vec::new();
    for _ in 0..=random.below(20) {
        let payload: Vec<u8> = match random.below(4) {
            0 => (0..random.below(300)).map(|_| random.byte()).collect(),
            1 => PING.into(),
            2 => br#"{"type":"subscribe","topics":["a","b"],"lastEventId":"earliest"}"#.into(),
            _ => br#"{"type":"publish","topic":"noise","data":{"a":[1]}}"#.into(),
        };
        let kinds = [0, 1, 1, 1, 2, 8, 9, 10, 3, 11];
        let kind = kinds[random.below(kinds.len())];
        let mut frame = Frame::new(kind, payload);
        frame.last = random.below(4) > 0;
        frame.reserved = if random.below(10) == 0 {
            random.byte() & 7
        } else {
            0
        };
        bytes.extend(if random.below(10) == 0 {
            frame.unmasked()
        } else {
            frame.bytes()
        });
    }
    match seed % 4 {
        // Right, up to a place where bits fall over.
        0 => {}
        1 => {
            for _ in 0..=random.below(8) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
        2 => bytes.truncate(random.below(bytes.len())),
        _ => bytes = (0..random.below(5_000)).map(|_| random.byte()).collect(),
    }
    for piece in bytes.chunks(1 + random.below(200)) {
        if socket.try_send_bytes(piece).await.is_err() {
            break;
        }
    }
    // The gateway waits for the rest of a frame, or closes; the client reads on in both cases, or goes.
    if random.below(2) == 0 {
        socket.finish_sending().await;
        socket.rest_until_cut().await;
    }
}

/// The same numbers each time (`SplitMix64`).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or zero.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}
