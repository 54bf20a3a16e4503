//! A client of WebSocket (RFC 6455) that writes every byte itself and believes none that it reads.
//!
//! What comes is held against the protocol (no mask, no reserved bit, the shortest length, whole UTF-8, small control
//! frames, nothing after a close) and against what the gateway promises of its messages: which members there are, and that
//! the cursor of a connection never goes back.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tidegate::event::EventId;
use tokio::time::{Instant, timeout};

use super::{Connection, Gateway, PATIENCE, Request, Response, SILENCE, edge::sum, http::Head, id};

/// RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The kinds of frames (RFC 6455, 11.8).
pub(crate) mod opcode {
    pub(crate) const CONTINUATION: u8 = 0x0;
    pub(crate) const TEXT: u8 = 0x1;
    pub(crate) const BINARY: u8 = 0x2;
    pub(crate) const CLOSE: u8 = 0x8;
    pub(crate) const PING: u8 = 0x9;
    pub(crate) const PONG: u8 = 0xA;
}

/// What `Sec-WebSocket-Accept` has to be for this key (RFC 6455, 4.2.2).
pub(crate) fn accept_of(key: &str) -> String {
    let hash = digest(
        &SHA1_FOR_LEGACY_USE_ONLY,
        (key.to_owned() + GUID).as_bytes(),
    );
    STANDARD.encode(hash.as_ref())
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Whether it ends its message.
    pub(crate) last: bool,
    /// The three reserved bits, as a number.
    pub(crate) reserved: u8,
    /// Its kind.
    pub(crate) opcode: u8,
    /// What it carries, without the mask.
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// A whole message, or a control frame.
    pub(crate) fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self {
            last: true,
            reserved: 0,
            opcode,
            payload: payload.as_ref().to_vec(),
        }
    }

    /// A text message.
    pub(crate) fn text(text: impl AsRef<[u8]>) -> Self {
        Self::new(opcode::TEXT, text)
    }

    /// A close with a code and a reason.
    pub(crate) fn close(code: u16, reason: &str) -> Self {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        Self::new(opcode::CLOSE, payload)
    }

    /// The same, with more to come.
    pub(crate) fn unfinished(mut self) -> Self {
        self.last = false;
        self
    }

    /// The same, with these reserved bits.
    pub(crate) fn reserved(mut self, bits: u8) -> Self {
        self.reserved = bits;
        self
    }

    /// A message in pieces of these bytes (RFC 6455, 5.4).
    pub(crate) fn pieces(opcode: u8, payload: impl AsRef<[u8]>, size: usize) -> Vec<Self> {
        let mut pieces: Vec<_> = payload
            .as_ref()
            .chunks(size)
            .map(|piece| Self::new(opcode::CONTINUATION, piece).unfinished())
            .collect();
        pieces.first_mut().unwrap().opcode = opcode;
        pieces.last_mut().unwrap().last = true;
        pieces
    }

    fn head(&self, masked: bool) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.last) << 7 | self.reserved << 4 | self.opcode];
        let mask = u8::from(masked) << 7;
        match self.payload.len() {
            length @ 0..=125 => bytes.push(mask | u8::try_from(length).unwrap()),
            length @ 126..=0xFFFF => {
                bytes.push(mask + 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                bytes.push(mask + 127);
                bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        bytes
    }

    /// As a client has to send it: with a mask of its own.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head(true);
        let mask: [u8; 4] = rand::random();
        bytes.extend(mask);
        let masked = self.payload.iter().zip(mask.iter().cycle());
        bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// As only a server may send it.
    pub(crate) fn unmasked(&self) -> Vec<u8> {
        let mut bytes = self.head(false);
        bytes.extend(&self.payload);
        bytes
    }

    /// Takes the next frame of a server off `buffer`, once it is there as a whole.
    fn take(buffer: &mut Vec<u8>) -> Option<Self> {
        let (first, second) = (*buffer.first()?, *buffer.get(1)?);
        assert_eq!(second & 0x80, 0, "a server does not mask (RFC 6455, 5.1)");
        let (head, length) = match second {
            126 => {
                let length = u16::from_be_bytes(buffer.get(2..4)?.try_into().unwrap());
                assert!(length > 125, "the shortest length counts (RFC 6455, 5.2)");
                (4, usize::from(length))
            }
            127 => {
                let length = u64::from_be_bytes(buffer.get(2..10)?.try_into().unwrap());
                assert!(
                    length > 0xFFFF,
                    "the shortest length counts (RFC 6455, 5.2)"
                );
                (10, usize::try_from(length).unwrap())
            }
            length => (2, usize::from(length)),
        };
        let payload = buffer.get(head..head + length)?.to_vec();
        buffer.drain(..head + length);
        let frame = Self {
            last: first & 0x80 != 0,
            reserved: first >> 4 & 0x7,
            opcode: first & 0xF,
            payload,
        };
        assert_eq!(frame.reserved, 0, "no extension was agreed on: {frame:?}");
        if frame.opcode & 0x8 != 0 {
            let small = frame.last && frame.payload.len() <= 125;
            assert!(small, "no control frame (RFC 6455, 5.5): {frame:?}");
        }
        Some(frame)
    }
}

/// How the other side has closed: its code, if it gave one, and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    /// RFC 6455, 7.4.
    pub(crate) code: Option<u16>,
    /// A word or a code of ours.
    pub(crate) reason: String,
}

impl Closed {
    fn parse(payload: &[u8]) -> Self {
        let Some((code, reason)) = payload.split_first_chunk() else {
            assert!(payload.is_empty(), "half of a code: {payload:?}");
            return Self {
                code: None,
                reason: String::new(),
            };
        };
        let code = u16::from_be_bytes(*code);
        let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        assert!(may_be_sent, "{code} must not be sent (RFC 6455, 7.4)");
        Self {
            code: Some(code),
            reason: String::from_utf8(reason.to_vec()).unwrap(),
        }
    }
}

/// What comes from the gateway.
#[derive(Clone, Debug)]
pub(crate) enum Received {
    /// A text message, which has to be JSON.
    Message(Value),
    /// A ping; it has been answered, unless the client is told not to.
    Ping,
    /// A pong.
    Pong(Vec<u8>),
    /// The close.
    Close(Closed),
}

/// One event that somebody published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WsEvent {
    pub(crate) id: EventId,
    pub(crate) topic: String,
    pub(crate) event: String,
    pub(crate) data: String,
    /// Whether it moved the cursor of the connection.
    pub(crate) has_cursor: bool,
}

/// A WebSocket that is about to be opened.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    address: SocketAddr,
    target: String,
    headers: Vec<(String, String)>,
    narrow: bool,
}

impl Handshake {
    /// `query` is what stands after `/ws?`.
    pub(crate) fn new(address: SocketAddr, query: &str) -> Self {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", &key),
        ];
        Self {
            address,
            target: format!("/ws?{query}"),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            narrow: false,
        }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a header out.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers
            .retain(|(set, _)| !set.eq_ignore_ascii_case(name));
        self
    }

    /// Says something else in a header.
    pub(crate) fn instead(self, name: &str, value: &str) -> Self {
        self.without(name).header(name, value)
    }

    /// Shows a token.
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// With little room for what is not read.
    pub(crate) fn narrow(mut self) -> Self {
        self.narrow = true;
        self
    }

    /// The request.
    pub(crate) fn request(&self) -> Request {
        let mut request = Request::get(&self.target);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
    }

    /// The bytes of the request.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.request().bytes(self.address)
    }

    /// What this has to be answered with in `Sec-WebSocket-Accept`.
    pub(crate) fn accept(&self) -> String {
        let mut keys = self.headers.iter();
        let key = keys.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
        accept_of(&key.unwrap().1)
    }

    async fn sent(&self) -> Connection {
        let mut connection = if self.narrow {
            Connection::open_narrow(self.address).await
        } else {
            Connection::open(self.address).await
        };
        connection.send(self.bytes()).await;
        connection
    }

    /// The answer to what must not open a WebSocket.
    pub(crate) async fn answer(&self) -> Response {
        let mut connection = self.sent().await;
        let head = connection.head().await;
        assert_ne!(head.status, 101, "{}", head.raw);
        connection.response_of(head).await
    }

    /// Opens it, and reads no message yet.
    pub(crate) async fn upgrade(&self) -> WebSocket {
        self.upgraded(self.sent().await).await
    }

    /// The same on a connection that is there already.
    pub(crate) async fn upgrade_on(&self, mut connection: Connection) -> WebSocket {
        connection.send(self.bytes()).await;
        self.upgraded(connection).await
    }

    async fn upgraded(&self, mut connection: Connection) -> WebSocket {
        let head = connection.head().await;
        if head.status != 101 {
            let answer = connection.response_of(head).await;
            panic!("no WebSocket for {self:?}: {answer:?}");
        }
        assert_eq!(
            head.header("sec-websocket-accept"),
            Some(self.accept().as_str()),
            "{}",
            head.raw
        );
        assert_eq!(head.list("upgrade"), ["websocket"], "{}", head.raw);
        let upgrades = head.list("connection").contains(&"upgrade".to_owned());
        assert!(upgrades, "{}", head.raw);
        WebSocket::over(connection, head, self.target.clone())
    }

    /// Opens it, and reads `open`.
    pub(crate) async fn open(&self) -> WebSocket {
        let mut socket = self.upgrade().await;
        socket.opening = socket.message().await;
        assert_eq!(socket.opening["type"], "open", "{}", socket.opening);
        socket
    }

    /// Opens it, reads `error` with this code, and the close with this number and the same word; returns the error.
    pub(crate) async fn is_turned_away(&self, code: &str, close: u16) -> Value {
        let mut socket = self.upgrade().await;
        let error = socket.error(code).await;
        assert!(error.get("ref").is_none(), "nobody asked by a ref: {error}");
        socket.closes(close, code).await;
        error
    }
}

/// An open WebSocket.
pub(crate) struct WebSocket {
    connection: Connection,
    /// What was asked for.
    target: String,
    /// The head of the answer.
    pub(crate) head: Head,
    /// The first message.
    pub(crate) opening: Value,
    /// Whether pings are answered while it reads.
    pub(crate) answers_pings: bool,
    /// Everything that was received and understood, for messages of tests.
    told: Vec<String>,
    buffer: Vec<u8>,
    fragments: Option<Vec<u8>>,
    received: VecDeque<(Received, Instant)>,
    pongs_due: Vec<Vec<u8>>,
    /// Of what has been handed out.
    cursor: Option<String>,
    last_of: HashMap<String, EventId>,
    /// The same of what has been read, which may be more.
    read_cursor: Option<EventId>,
    read_last_of: HashMap<String, EventId>,
    catching_up: HashSet<String>,
    close: Option<Closed>,
    ended: bool,
}

impl WebSocket {
    fn over(connection: Connection, head: Head, target: String) -> Self {
        Self {
            connection,
            target,
            head,
            opening: Value::Null,
            answers_pings: true,
            told: Vec::new(),
            buffer: Vec::new(),
            fragments: None,
            received: VecDeque::new(),
            pongs_due: Vec::new(),
            cursor: None,
            last_of: HashMap::new(),
            read_cursor: None,
            read_last_of: HashMap::new(),
            catching_up: HashSet::new(),
            close: None,
            ended: false,
        }
    }

    /// Reads once. Nothing is lost if it is not waited for.
    async fn read(&mut self) {
        let piece = self.connection.read().await;
        self.ended = piece.is_empty();
        if self.ended {
            let rest = self.buffer.escape_ascii().to_string();
            let whole = self.buffer.is_empty() || self.close.is_none();
            assert!(whole, "{}: something after the close: {rest}", self.target);
        }
        self.buffer.extend(piece);
        let now = Instant::now();
        while let Some(frame) = Frame::take(&mut self.buffer) {
            assert_eq!(self.close, None, "after the close: {frame:?}");
            if let Some(received) = self.understand(frame) {
                self.received.push_back((received, now));
            }
        }
    }

    fn understand(&mut self, frame: Frame) -> Option<Received> {
        let data = match frame.opcode {
            opcode::PING => {
                if self.answers_pings {
                    self.pongs_due.push(frame.payload);
                }
                return Some(Received::Ping);
            }
            opcode::PONG => return Some(Received::Pong(frame.payload)),
            opcode::CLOSE => {
                let closed = Closed::parse(&frame.payload);
                self.close = Some(closed.clone());
                return Some(Received::Close(closed));
            }
            opcode::TEXT => {
                assert_eq!(self.fragments, None, "a message within another");
                frame.payload
            }
            opcode::CONTINUATION => {
                let mut begun = self.fragments.take().unwrap();
                begun.extend(frame.payload);
                begun
            }
            other => panic!("the gateway sends no frame of kind {other}"),
        };
        if !frame.last {
            self.fragments = Some(data);
            return None;
        }
        let text = String::from_utf8(data).unwrap();
        let Ok(message) = serde_json::from_str::<Value>(&text) else {
            panic!("no JSON: {text}")
        };
        self.told.push(text.chars().take(200).collect());
        self.check(&message);
        Some(Received::Message(message))
    }

    /// Every message has the members that it has to have, and no others; cursors never go back.
    fn check(&mut self, message: &Value) {
        let kind = message["type"].as_str().unwrap_or_default();
        let gap = ["reason", "missed_at_least"];
        let (always, sometimes): (&[&str], &[&str]) = match kind {
            "open" => (
                &["connection", "replay", "topics", "id", "cursor", "retry"],
                &gap,
            ),
            "event" => (&["id", "topic", "event", "data"], &["cursor"]),
            "gap" => (&["reason", "topics"], &["missed_at_least"]),
            "live" => (&["topics", "id", "cursor"], &[]),
            "end" => (&["topic", "id"], &["cursor"]),
            "cursor" => (&["id", "cursor"], &[]),
            "drain" => (&["id", "cursor", "retry"], &[]),
            "auth_expiring" => (&["expires", "in_ms"], &[]),
            "subscribed" => (
                &["topics", "replay", "id"],
                &["ref", "reason", "missed_at_least", "missing"],
            ),
            "unsubscribed" => (&["topics"], &["ref"]),
            "ack" => (&["id"], &["ref", "duplicate"]),
            "pong" => (&[], &["ref"]),
            "error" => (&["code", "detail"], &["ref", "retry_after"]),
            _ => panic!("{}: an unknown message: {message}", self.target),
        };
        let members = message.as_object().unwrap();
        for member in always {
            assert!(members.contains_key(*member), "no {member}: {message}");
        }
        for (member, value) in members {
            let known = member == "type"
                || always.contains(&member.as_str())
                || sometimes.contains(&member.as_str());
            assert!(known, "what is {member}? {message}");
            let fits = match member.as_str() {
                "ref" => true,
                "topics" | "missing" => value
                    .as_array()
                    .is_some_and(|all| all.iter().all(Value::is_string)),
                "retry" | "in_ms" | "missed_at_least" | "retry_after" => value.is_u64(),
                "duplicate" => *value == true,
                _ => value.is_string(),
            };
            assert!(fits, "{member} is of another kind: {message}");
        }
        let of = |name: &str| message.get(name).map(|text| id(text.as_str().unwrap()));
        match kind {
            "subscribed" => self.catching_up.extend(sorted(&message["topics"])),
            "unsubscribed" => {
                for topic in sorted(&message["topics"]) {
                    self.read_last_of.remove(&topic);
                    self.catching_up.remove(&topic);
                }
            }
            "live" => {
                for topic in sorted(&message["topics"]) {
                    self.catching_up.remove(&topic);
                    let seen = self.read_last_of.get(&topic).copied();
                    assert!(seen <= of("cursor"), "{seen:?} is in no cursor: {message}");
                }
            }
            "event" => {
                let (topic, event) = (message["topic"].as_str().unwrap(), of("id").unwrap());
                assert_ne!(message["event"], "", "{message}");
                let before = self.read_last_of.insert(topic.to_owned(), event);
                let later = before.is_none_or(|before| before < event);
                assert!(later, "{}: {before:?} was before {message}", self.target);
                let joined = !self.catching_up.contains(topic);
                let says = message.get("cursor").is_some();
                assert!(says || !joined, "{}: no cursor: {message}", self.target);
            }
            _ => {}
        }
        if let Some(cursor) = of("cursor") {
            assert_eq!(of("id"), Some(cursor), "they are the same: {message}");
            let before = self.read_cursor;
            let forward = before.is_none_or(|before| before <= cursor);
            assert!(forward, "{}: back from {before:?}: {message}", self.target);
            let again = kind == "event" && before == Some(cursor);
            assert!(!again, "{}: the cursor had it: {message}", self.target);
            self.read_cursor = Some(cursor);
        }
    }

    /// Moves the cursor over a message that is handed out, as a page moves its own when it has dealt with it.
    fn hand_out(&mut self, message: &Value) {
        if message["type"] == "event" {
            let came = event(message);
            self.last_of.insert(came.topic, came.id);
        }
        if let Some(cursor) = message["cursor"].as_str() {
            self.cursor = Some(cursor.to_owned());
        }
    }

    /// The next of whatever kind, and when it came; none at the end of the connection.
    pub(crate) async fn received_or_end(&mut self) -> Option<(Received, Instant)> {
        let begun = Instant::now();
        loop {
            self.send_pongs().await;
            if let Some((received, at)) = self.received.pop_front() {
                if let Received::Message(message) = &received {
                    self.hand_out(message);
                }
                return Some((received, at));
            }
            if self.ended {
                return None;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let in_time = timeout(left, self.read()).await.is_ok();
            assert!(
                in_time,
                "waited {PATIENCE:?} for the next message, {}",
                self.so_far()
            );
        }
    }

    async fn send_pongs(&mut self) {
        for payload in std::mem::take(&mut self.pongs_due) {
            // The other side may have gone meanwhile.
            let pong = Frame::new(opcode::PONG, payload).bytes();
            let _ = self.connection.try_send(pong).await;
        }
    }

    fn so_far(&self) -> String {
        let last = &self.told[self.told.len().saturating_sub(12)..];
        let rest = self.buffer.escape_ascii().to_string();
        format!(
            "{} so far: {last:#?} and {:?}",
            self.target,
            &rest[..rest.len().min(200)]
        )
    }

    /// The next of whatever kind.
    pub(crate) async fn received(&mut self) -> Received {
        match self.received_or_end().await {
            Some((received, _)) => received,
            None => panic!("the connection was cut, {}", self.so_far()),
        }
    }

    /// The next message; pings and pongs may come before it.
    pub(crate) async fn message(&mut self) -> Value {
        loop {
            match self.received().await {
                Received::Message(message) => return message,
                Received::Ping | Received::Pong(_) => {}
                Received::Close(closed) => panic!("{closed:?}, {}", self.so_far()),
            }
        }
    }

    /// The next message, if one comes at once or nearly so. Nothing is lost if none does.
    pub(crate) async fn message_or_silence(&mut self) -> Option<Value> {
        timeout(SILENCE / 30, self.message()).await.ok()
    }

    /// The next message that is more than a checkpoint.
    pub(crate) async fn telling(&mut self) -> Value {
        loop {
            let message = self.message().await;
            if message["type"] != "cursor" {
                return message;
            }
        }
    }

    /// The next message is of this type; only checkpoints may come before it.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let message = self.telling().await;
        assert_eq!(message["type"], kind, "{message}, {}", self.so_far());
        message
    }

    /// The next message is an error with this code.
    pub(crate) async fn error(&mut self, code: &str) -> Value {
        let error = self.expect("error").await;
        assert_eq!(error["code"], code, "{error}");
        let detail = error["detail"].as_str().unwrap();
        assert!(!detail.is_empty(), "{error}");
        error
    }

    /// The next published event; only checkpoints and `live` may come before it.
    pub(crate) async fn next(&mut self) -> WsEvent {
        loop {
            let message = self.telling().await;
            match message["type"].as_str() {
                Some("live") => {}
                Some("event") => return event(&message),
                _ => panic!("wanted an event, got {message}, {}", self.so_far()),
            }
        }
    }

    /// The data of the next `count` published events.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<String> {
        let mut data = Vec::with_capacity(count);
        for _ in 0..count {
            data.push(self.next().await.data);
        }
        data
    }

    /// The next published events are `wanted`, and `live` is said once: after them, or among them where an event that was
    /// acknowledged a moment ago is still on its way.
    pub(crate) async fn replays(&mut self, wanted: impl IntoIterator<Item: AsRef<str>>) -> Value {
        let wanted: Vec<String> = wanted
            .into_iter()
            .map(|data| data.as_ref().to_owned())
            .collect();
        let (mut got, mut live) = (Vec::new(), Vec::new());
        while live.is_empty() || got.len() < wanted.len() {
            let message = self.telling().await;
            match message["type"].as_str() {
                Some("live") => live.push(message),
                Some("event") => got.push(event(&message).data),
                _ => panic!("within the replay: {message}, {}", self.so_far()),
            }
        }
        assert!(live.len() == 1, "{}: {live:?}", self.target);
        assert!(
            got == wanted,
            "{}: wanted {wanted:?}, got {got:?}",
            self.target
        );
        live.remove(0)
    }

    /// Nobody says anything to it for a while; pings, checkpoints and `live` may come.
    pub(crate) async fn stays_silent(&mut self) {
        let until = Instant::now() + SILENCE;
        loop {
            self.send_pongs().await;
            while let Some((received, _)) = self.received.pop_front() {
                let silent = match &received {
                    Received::Message(message) => {
                        self.hand_out(message);
                        message["type"] == "cursor" || message["type"] == "live"
                    }
                    Received::Ping | Received::Pong(_) => true,
                    Received::Close(_) => false,
                };
                assert!(silent, "wanted silence, got {received:?}");
            }
            assert!(!self.ended, "wanted silence, got the end");
            let left = until.saturating_duration_since(Instant::now());
            if timeout(left, self.read()).await.is_err() {
                return;
            }
        }
    }

    /// Reads on until the gateway closes, answers that, and sees the connection end. Returns the messages that came before.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, Closed) {
        let mut messages = Vec::new();
        let closed = loop {
            match self.received().await {
                Received::Message(message) => messages.push(message),
                Received::Ping | Received::Pong(_) => {}
                Received::Close(closed) => break closed,
            }
        };
        self.echo(&closed).await;
        self.is_ended().await;
        (messages, closed)
    }

    async fn echo(&mut self, closed: &Closed) {
        let payload = closed.code.map(u16::to_be_bytes);
        let payload = payload.as_ref().map_or(&[][..], |code| &code[..]);
        // A gateway that waits for no answer may have gone already.
        let frame = Frame::new(opcode::CLOSE, payload).bytes();
        let _ = self.connection.try_send(frame).await;
    }

    /// Reads on until the gateway closes with this code and this reason; only signs of life may come before it.
    pub(crate) async fn closes(&mut self, code: u16, reason: &str) {
        let closed = self.expect_close(code).await;
        assert_eq!(closed.reason, reason, "{closed:?}");
    }

    /// The same, with any reason.
    pub(crate) async fn expect_close(&mut self, code: u16) -> Closed {
        let (messages, closed) = self.rest().await;
        let silent = messages
            .iter()
            .all(|message| message["type"] == "cursor" || message["type"] == "live");
        assert!(silent, "before the close: {messages:?}, {closed:?}");
        assert_eq!(closed.code, Some(code), "{closed:?}, {}", self.so_far());
        closed
    }

    /// The connection ends, and nothing comes before that.
    pub(crate) async fn is_ended(&mut self) {
        if let Some(received) = self.received_or_end().await {
            panic!("wanted the end, got {received:?}, {}", self.so_far());
        }
    }

    /// Reads until the connection ends in whatever way, and returns the messages.
    pub(crate) async fn rest_until_cut(&mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some((received, _)) = self.received_or_end().await {
            match received {
                Received::Message(message) => rest.push(message),
                Received::Close(closed) => self.echo(&closed).await,
                Received::Ping | Received::Pong(_) => {}
            }
        }
        rest
    }

    /// Whether the gateway has said that it closes.
    pub(crate) fn was_closed(&self) -> Option<&Closed> {
        self.close.as_ref()
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.connection.send(bytes).await;
    }

    /// The same, to a peer that may have closed already.
    pub(crate) async fn try_send_bytes(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.connection.try_send(bytes).await
    }

    /// The same, however long it takes.
    pub(crate) async fn try_send_patiently(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.connection.try_send_patiently(bytes).await
    }

    /// Sends a frame with a mask.
    pub(crate) async fn send_frame(&mut self, frame: Frame) {
        self.send_bytes(frame.bytes()).await;
    }

    /// Sends a text message.
    pub(crate) async fn send_text(&mut self, text: &str) {
        self.send_frame(Frame::text(text)).await;
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends a message, and reads the next one.
    pub(crate) async fn ask(&mut self, message: Value) -> Value {
        self.send(message).await;
        self.telling().await
    }

    /// Says that nothing more will be sent (TCP, without a close).
    pub(crate) async fn finish_sending(&mut self) {
        self.connection.try_finish_sending().await;
    }

    /// Follows topics from now, and reads that they are live; nothing else may be on its way.
    pub(crate) async fn subscribe(&mut self, topics: &[&str]) -> Value {
        self.subscribe_from(topics, json!({})).await
    }

    /// Follows topics from where `start` says (`lastEventId`, `since`, `last`), and reads `subscribed`.
    pub(crate) async fn begin_subscribe(&mut self, topics: &[&str], start: Value) -> Value {
        let mut message = json!({ "type": "subscribe", "ref": "s", "topics": topics });
        let members = message.as_object_mut().unwrap();
        members.extend(start.as_object().unwrap().clone());
        self.send(message).await;
        let subscribed = self.expect("subscribed").await;
        assert_eq!(subscribed["ref"], "s", "{subscribed}");
        assert_eq!(subscribed["topics"], json!(topics), "{subscribed}");
        subscribed
    }

    async fn subscribe_from(&mut self, topics: &[&str], start: Value) -> Value {
        let subscribed = self.begin_subscribe(topics, start).await;
        let live = self.expect("live").await;
        assert_eq!(sorted(&live["topics"]), sorted(&json!(topics)), "{live}");
        subscribed
    }

    /// Follows topics no more; only checkpoints may be on their way.
    pub(crate) async fn unsubscribe(&mut self, topics: &[&str]) {
        let message = json!({ "type": "unsubscribe", "ref": "u", "topics": topics });
        let wanted = json!({ "type": "unsubscribed", "ref": "u", "topics": topics });
        assert_eq!(self.ask(message).await, wanted);
    }

    /// Publishes an event, and returns the id of its `ack`; nothing but checkpoints may come before that.
    pub(crate) async fn publish(&mut self, topic: &str, data: &str) -> EventId {
        let message = json!({ "type": "publish", "ref": "p", "topic": topic, "data": data });
        self.send(message).await;
        let ack = self.expect("ack").await;
        assert_eq!(ack["ref"], "p", "{ack}");
        id(ack["id"].as_str().unwrap())
    }

    /// Everything that was asked before has been worked off; nothing but checkpoints may come before that.
    pub(crate) async fn is_open(&mut self) {
        let number = rand::random::<u32>();
        let pong = self.ask(json!({ "type": "ping", "ref": number })).await;
        assert_eq!(pong, json!({ "type": "pong", "ref": number }));
    }

    /// Closes as a client does, and sees the gateway answer with the same code (RFC 6455, 5.5.1) and end the connection.
    /// Events may still be on their way.
    pub(crate) async fn close(&mut self, code: u16, reason: &str) -> Vec<Value> {
        self.send_frame(Frame::close(code, reason)).await;
        let mut messages = Vec::new();
        loop {
            match self.received().await {
                Received::Message(message) => messages.push(message),
                Received::Ping | Received::Pong(_) => {}
                Received::Close(closed) => {
                    assert_eq!(closed.code, Some(code), "{closed:?}");
                    break;
                }
            }
        }
        self.is_ended().await;
        messages
    }

    /// The cursor to come back with.
    pub(crate) fn cursor(&self) -> String {
        self.cursor.clone().unwrap()
    }

    /// The last event of this topic that was handed out.
    pub(crate) fn last_of(&self, topic: &str) -> Option<EventId> {
        self.last_of.get(topic).copied()
    }

    /// The verdict of the connect.
    pub(crate) fn replay(&self) -> &str {
        self.opening["replay"].as_str().unwrap()
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> EventId {
        id(self.opening["id"].as_str().unwrap())
    }

    /// Its id.
    pub(crate) fn connection_id(&self) -> &str {
        self.opening["connection"].as_str().unwrap()
    }
}

/// The event of a message.
pub(crate) fn event(message: &Value) -> WsEvent {
    assert_eq!(message["type"], "event", "{message}");
    let text = |name: &str| message[name].as_str().unwrap().to_owned();
    WsEvent {
        id: id(&text("id")),
        topic: text("topic"),
        event: text("event"),
        data: text("data"),
        has_cursor: message.get("cursor").is_some(),
    }
}

/// The texts of an array, in order.
pub(crate) fn sorted(array: &Value) -> Vec<String> {
    let mut all: Vec<_> = array
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap().to_owned())
        .collect();
    all.sort_unstable();
    all
}

impl Gateway {
    /// A WebSocket that is not yet opened; `query` is what stands after `/ws?`.
    pub(crate) fn ws(&self, query: &str) -> Handshake {
        Handshake::new(self.public, query)
    }

    /// Follows topics (separated by commas) over a WebSocket from now.
    pub(crate) async fn follow(&self, topics: &str) -> WebSocket {
        self.ws(&format!("topic={topics}")).open().await
    }

    /// Comes back with a cursor over a WebSocket, as a page does.
    pub(crate) async fn follow_after(
        &self,
        topics: &str,
        cursor: impl std::fmt::Display,
    ) -> WebSocket {
        let query = format!("topic={topics}&lastEventId={cursor}");
        self.ws(&query).open().await
    }

    /// Waits until so many places of streams are taken, each by one that has begun: a place is taken before it is settled
    /// where its stream begins, and a poll from now would not get what is published in between.
    pub(crate) async fn has_places_taken(&self, count: u32) {
        const BEGUN: [&str; 3] = [
            "sse_active_connections",
            "tidegate_ws_active_connections",
            "tidegate_waiting_polls",
        ];
        super::eventually(format!("{count} places that are taken"), async || {
            let page = self.get_admin("/metrics").await.text();
            let places = sum(&page, "tidegate_stream_places", &[]);
            let begun: f64 = BEGUN.iter().map(|name| sum(&page, name, &[])).sum();
            let is_count = |it: f64| (it - f64::from(count)).abs() < 0.5;
            if is_count(places) && is_count(begun) {
                Ok(())
            } else {
                Err(format!("{places}, {begun} of them by streams"))
            }
        })
        .await;
    }
}
