//! One subscription in its three encodings: asked for alike, refused alike.

use std::{fmt, net::SocketAddr, time::Duration};

use tidegate::event::EventId;
use tokio::time::sleep;

use super::{
    Gateway, Handshake, Poll, Polled, Published, Request, Response, Subscriber, Subscription,
    WaitingPoll, WebSocket, id,
};

/// An encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Sse,
    Ws,
    Poll,
}

impl Encoding {
    pub(crate) const ALL: [Self; 3] = [Self::Sse, Self::Ws, Self::Poll];
    /// Those for whom SSE does not get through.
    pub(crate) const FALLBACKS: [Self; 2] = [Self::Ws, Self::Poll];

    /// The route, as logs and metrics name it.
    pub(crate) fn route(self) -> &'static str {
        match self {
            Self::Sse => "/events",
            Self::Ws => "/ws",
            Self::Poll => "/poll",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.route())
    }
}

/// Somebody who wants in.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    way: Encoding,
    address: SocketAddr,
    query: String,
    headers: Vec<(String, String)>,
}

impl Entry {
    /// `query` is what stands after the `?`.
    pub(crate) fn new(address: SocketAddr, way: Encoding, query: &str) -> Self {
        Self {
            way,
            address,
            query: query.to_owned(),
            headers: Vec::new(),
        }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Shows a token.
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// As a trusted proxy names it.
    pub(crate) fn from(self, address: &str) -> Self {
        self.header("X-Forwarded-For", address)
    }

    fn poll(&self) -> Poll {
        let poll = Poll::new(self.address, &format!("{}&wait=60s", self.query));
        let headers = self.headers.iter();
        headers.fold(poll, |it, (name, value)| it.header(name, value))
    }

    /// The handshake of a WebSocket.
    pub(crate) fn handshake(&self) -> Handshake {
        let handshake = Handshake::new(self.address, &self.query);
        let headers = self.headers.iter();
        headers.fold(handshake, |it, (name, value)| it.header(name, value))
    }

    /// The request as it is sent.
    pub(crate) fn request(&self) -> Request {
        match self.way {
            Encoding::Sse => {
                let request = Request::get(&format!("/events?{}", self.query));
                let headers = self.headers.iter();
                headers.fold(request, |it, (name, value)| it.header(name, value))
            }
            Encoding::Ws => self.handshake().request(),
            Encoding::Poll => self.poll().request(),
        }
    }

    /// Gets in. Whether a poll is let in shows when it is answered, or when its place is taken.
    pub(crate) async fn enter(&self) -> Place {
        match self.way {
            Encoding::Sse => {
                let subscription = Subscription::new(self.address, &self.query);
                let headers = self.headers.iter();
                let subscription =
                    headers.fold(subscription, |it, (name, value)| it.header(name, value));
                Place::Sse(Box::new(subscription.open().await))
            }
            Encoding::Ws => Place::Ws(Box::new(self.handshake().open().await)),
            Encoding::Poll => Place::Poll(Box::new(self.poll().begin().await)),
        }
    }

    /// Is not let in: with this status, which a WebSocket tells by an error and a close. Returns the seconds until it may
    /// come again, which are told whenever that makes sense.
    pub(crate) async fn is_refused(&self, status: u16, code: &str) -> Option<u64> {
        let later = match self.way {
            Encoding::Ws => {
                let close = match status {
                    401 => 4401,
                    403 => 1008,
                    _ => 1013,
                };
                let error = self.handshake().is_turned_away(code, close).await;
                error.get("retry_after").map(|it| it.as_u64().unwrap())
            }
            Encoding::Sse | Encoding::Poll => {
                let answer = self.answer().await;
                answer.refuses(status, code);
                let header = answer.header("retry-after");
                header.map(|it| it.parse().unwrap())
            }
        };
        let temporary = [429, 503].contains(&status);
        assert_eq!(later.is_some(), temporary, "{} {code}: {later:?}", self.way);
        assert_ne!(later, Some(0), "{} {code}", self.way);
        later
    }

    /// The answer where it is no WebSocket, and ends.
    pub(crate) async fn answer(&self) -> Response {
        let mut connection = super::Connection::open(self.address).await;
        connection.ask(&self.request()).await
    }
}

/// Somebody who got in.
pub(crate) enum Place {
    Sse(Box<Subscriber>),
    Ws(Box<WebSocket>),
    Poll(Box<WaitingPoll>),
}

impl Place {
    /// The next event is this one. A poll is answered with it, and is over.
    pub(crate) async fn gets(&mut self, data: &str) {
        let got = match self {
            Self::Sse(reader) => reader.next().await.data,
            Self::Ws(socket) => socket.next().await.data,
            Self::Poll(waiting) => {
                let polled = Polled::of(&waiting.response().await);
                assert_ne!(polled.replay, "gap", "{polled:?}");
                let [event] = polled.events.as_slice() else {
                    panic!("wanted {data}: {polled:?}")
                };
                event.data.clone()
            }
        };
        assert_eq!(got, data);
    }
}

/// Somebody who follows topics by one encoding at a time, and takes the cursor along.
pub(crate) struct Follower {
    topics: String,
    /// Where to go on.
    pub(crate) cursor: String,
    open: Option<(Encoding, Place)>,
    /// Everything that came.
    pub(crate) seen: Vec<Published>,
    /// How often a gap was told.
    pub(crate) gaps: usize,
    /// How often it was refused for now.
    pub(crate) refused: usize,
    /// Topics that have ended.
    pub(crate) ended: Vec<String>,
}

impl Follower {
    /// From a cursor.
    pub(crate) fn from(topics: &str, cursor: impl fmt::Display) -> Self {
        Self {
            topics: topics.to_owned(),
            cursor: cursor.to_string(),
            open: None,
            seen: Vec::new(),
            gaps: 0,
            refused: 0,
            ended: Vec::new(),
        }
    }

    /// Whether there is something that was begun and has not ended.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Leaves, in whatever state it is.
    pub(crate) fn leave(&mut self) {
        self.open = None;
    }

    /// Gets in, and hears the verdict. Where it is refused for now, it has not got in.
    async fn enter(&mut self, address: SocketAddr, way: Encoding) {
        let query = format!("topic={}&lastEventId={}", self.topics, self.cursor);
        let entry = Entry::new(address, way, &query);
        let told = match way {
            Encoding::Sse => {
                // As a browser, which is refused by a stream.
                let entry = entry.header("Accept", "text/event-stream");
                let Place::Sse(reader) = entry.enter().await else {
                    unreachable!("it was asked for a stream")
                };
                if reader.opening.event.as_deref() == Some("$refused") {
                    self.refused += 1;
                    return;
                }
                self.cursor = reader.cursor();
                let told = reader.replay();
                self.open = Some((way, Place::Sse(reader)));
                told
            }
            Encoding::Ws => {
                let mut socket = entry.handshake().upgrade().await;
                let first = socket.message().await;
                if first["type"] == "error" {
                    assert!(first["retry_after"].is_u64(), "{first}");
                    self.refused += 1;
                    return;
                }
                first["cursor"]
                    .as_str()
                    .unwrap()
                    .clone_into(&mut self.cursor);
                let told = first["replay"].as_str().unwrap().to_owned();
                self.open = Some((way, Place::Ws(Box::new(socket))));
                told
            }
            Encoding::Poll => {
                self.open = Some((way, entry.enter().await));
                return;
            }
        };
        self.gaps += usize::from(told == "gap");
    }

    /// Reads once what there is next, by `way`: a frame, a message or an answer.
    pub(crate) async fn read(&mut self, address: SocketAddr, way: Encoding) {
        if self.open.as_ref().is_none_or(|(open, _)| *open != way) {
            self.open = None;
            self.enter(address, way).await;
            if self.open.is_none() {
                sleep(Duration::from_millis(20)).await;
                return;
            }
        }
        match &mut self.open.as_mut().unwrap().1 {
            Place::Sse(reader) => {
                let Some((frame, _)) = reader.frame_or_end().await else {
                    self.open = None;
                    return;
                };
                match frame.event.as_deref() {
                    Some("$gap") => self.gaps += 1,
                    Some("$end") => {
                        let data: serde_json::Value =
                            serde_json::from_str(frame.data.as_deref().unwrap()).unwrap();
                        self.ended.push(data["topic"].as_str().unwrap().to_owned());
                    }
                    Some(kind) if kind.starts_with('$') => {}
                    _ if frame.data.is_some() => self.seen.push(Published {
                        id: id(frame.id.as_deref().unwrap()),
                        kind: Some(frame.event.unwrap_or_else(|| "message".to_owned())),
                        topic: frame.topic,
                        data: frame.data.unwrap(),
                    }),
                    _ => {}
                }
                self.cursor = reader.cursor();
            }
            Place::Ws(socket) => {
                let Some((received, _)) = socket.received_or_end().await else {
                    self.open = None;
                    return;
                };
                if let super::Received::Message(message) = received {
                    // What was received and not yet read here moves no cursor.
                    if let Some(cursor) = message["cursor"].as_str() {
                        cursor.clone_into(&mut self.cursor);
                    }
                    match message["type"].as_str().unwrap() {
                        "gap" => self.gaps += 1,
                        "end" => self
                            .ended
                            .push(message["topic"].as_str().unwrap().to_owned()),
                        "event" => {
                            let event = super::event(&message);
                            self.seen.push(Published {
                                id: event.id,
                                kind: Some(event.event),
                                topic: Some(event.topic),
                                data: event.data,
                            });
                        }
                        _ => {}
                    }
                }
            }
            Place::Poll(waiting) => {
                let answer = waiting.response().await;
                self.open = None;
                if answer.status() == 503 {
                    assert!(answer.header("retry-after").is_some(), "{answer:?}");
                    self.refused += 1;
                    sleep(Duration::from_millis(20)).await;
                    return;
                }
                let polled = Polled::of(&answer);
                self.gaps += usize::from(polled.replay == "gap");
                for topic in &polled.ended {
                    if !self.ended.contains(topic) {
                        self.ended.push(topic.clone());
                    }
                }
                self.seen.extend(polled.events);
                self.cursor = polled.cursor;
            }
        }
    }

    /// The ids of what came.
    pub(crate) fn ids(&self) -> Vec<EventId> {
        self.seen.iter().map(|event| event.id).collect()
    }
}

impl Gateway {
    /// Somebody who wants in; `query` is what stands after the `?`.
    pub(crate) fn entry(&self, way: Encoding, query: &str) -> Entry {
        Entry::new(self.public, way, query)
    }
}
