//! A subscriber that keeps every byte and knows its cursor, as a browser does.

use std::{collections::VecDeque, net::SocketAddr};

use serde_json::Value;
use tidegate::event::{EventId, Message, Parser};
use tokio::time::{Instant, timeout};

use super::{Chunks, Connection, PATIENCE, Request, SILENCE, http::Head, id};

/// A subscription that is about to be opened.
pub(crate) struct Subscription {
    address: SocketAddr,
    request: Request,
    narrow: bool,
}

/// One event that somebody published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) id: EventId,
    pub(crate) kind: Option<String>,
    pub(crate) topic: Option<String>,
    pub(crate) data: String,
}

impl Subscription {
    /// `query` is what stands after `/events?`.
    pub(crate) fn new(address: SocketAddr, query: &str) -> Self {
        let target = format!("/events?{query}");
        Self {
            address,
            request: Request::get(&target),
            narrow: false,
        }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// As `EventSource` asks.
    pub(crate) fn like_a_browser(self) -> Self {
        self.header("Accept", "text/event-stream")
    }

    /// With little room for what is not read.
    pub(crate) fn narrow(mut self) -> Self {
        self.narrow = true;
        self
    }

    /// Opens it, and reads the first frame.
    pub(crate) async fn open(self) -> Subscriber {
        let mut connection = if self.narrow {
            Connection::open_narrow(self.address).await
        } else {
            Connection::open(self.address).await
        };
        connection.send(self.request.bytes(self.address)).await;
        let mut subscriber = Subscriber::begin(connection).await;
        subscriber.asked = format!("{:?}", self.request);
        subscriber
    }
}

/// An open stream.
pub(crate) struct Subscriber {
    connection: Connection,
    /// The request, for messages.
    asked: String,
    /// The head of the answer.
    pub(crate) head: Head,
    /// The first frame.
    pub(crate) opening: Message,
    /// The body so far, without the chunks around it.
    pub(crate) raw: Vec<u8>,
    chunks: Option<Chunks>,
    parser: Parser,
    frames: VecDeque<(Message, Instant)>,
    cursor: Option<String>,
    closed: bool,
}

impl Subscriber {
    /// Reads the head and the first frame of a stream that was asked for on `connection`.
    pub(crate) async fn begin(mut connection: Connection) -> Self {
        let head = connection.head().await;
        if head.status != 200 || head.header("content-type") != Some("text/event-stream") {
            let rest = timeout(SILENCE, connection.read())
                .await
                .unwrap_or_default();
            panic!("no stream:\n{}{}", head.raw, String::from_utf8_lossy(&rest));
        }
        let mut subscriber = Self {
            chunks: head.chunked().then(Chunks::default),
            connection,
            asked: String::new(),
            head,
            opening: Message::default(),
            raw: Vec::new(),
            parser: Parser::default(),
            frames: VecDeque::new(),
            cursor: None,
            closed: false,
        };
        subscriber.opening = subscriber.frame().await;
        subscriber
    }

    /// Reads once. Nothing is lost if it is not waited for.
    async fn read(&mut self) {
        let piece = self.connection.read().await;
        self.closed = piece.is_empty();
        let data = match &mut self.chunks {
            Some(chunks) => chunks.feed(&piece),
            None => piece,
        };
        let now = Instant::now();
        for message in self.parser.feed(&data) {
            self.frames.push_back((message, now));
        }
        self.raw.extend(data);
        self.closed |= self.ended_whole();
    }

    /// Whether the last chunk has come.
    pub(crate) fn ended_whole(&self) -> bool {
        self.chunks.as_ref().is_some_and(Chunks::ended)
    }

    /// The next frame and when it came; none at the end.
    pub(crate) async fn frame_or_end(&mut self) -> Option<(Message, Instant)> {
        let begun = Instant::now();
        loop {
            if let Some((message, at)) = self.frames.pop_front() {
                if message.id.is_some() {
                    self.cursor.clone_from(&message.id);
                }
                return Some((message, at));
            }
            if self.closed {
                return None;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let in_time = timeout(left, self.read()).await.is_ok();
            assert!(
                in_time,
                "waited {PATIENCE:?} for the next frame; {} so far ends with\n{}",
                self.asked,
                self.end_of_raw()
            );
        }
    }

    fn end_of_raw(&self) -> String {
        let end = &self.raw[self.raw.len().saturating_sub(1_000)..];
        String::from_utf8_lossy(end).into_owned()
    }

    /// The next frame of any kind.
    pub(crate) async fn frame(&mut self) -> Message {
        match self.frame_or_end().await {
            Some((message, _)) => message,
            None => panic!("the stream ended with\n{}", self.end_of_raw()),
        }
    }

    /// The next frame that is more than a sign of life (keepalive, heartbeat, checkpoint). However lively the stream is, it comes
    /// within the time of a failover.
    pub(crate) async fn telling_frame(&mut self) -> Message {
        let begun = Instant::now();
        loop {
            let frame = self.frame().await;
            if !is_sign_of_life(&frame) {
                return frame;
            }
            assert!(
                begun.elapsed() < 6 * PATIENCE,
                "{} tells nothing; so far it ends with\n{}",
                self.asked,
                self.end_of_raw()
            );
        }
    }

    /// The next event that somebody published; only signs of life and `$live` may come before it.
    pub(crate) async fn next(&mut self) -> Published {
        loop {
            let frame = self.telling_frame().await;
            if frame.event.as_deref() == Some("$live") {
                continue;
            }
            if frame
                .event
                .as_deref()
                .is_some_and(|kind| kind.starts_with('$'))
            {
                panic!("wanted a published event, got {frame:?}");
            }
            let (Some(id_text), Some(data)) = (&frame.id, &frame.data) else {
                panic!("a published event has id and data: {frame:?}")
            };
            return Published {
                id: id(id_text),
                data: data.clone(),
                kind: frame.event,
                topic: frame.topic,
            };
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

    /// The next frame must be the control event `kind`; returns it.
    pub(crate) async fn control(&mut self, kind: &str) -> Message {
        let frame = self.telling_frame().await;
        assert_eq!(frame.event.as_deref(), Some(kind), "{frame:?}");
        frame
    }

    /// The data of published events up to `$live`.
    pub(crate) async fn replayed(&mut self) -> Vec<String> {
        let mut data = Vec::new();
        loop {
            let frame = self.telling_frame().await;
            match frame.event.as_deref() {
                Some("$live") => return data,
                Some(kind) if kind.starts_with('$') => panic!("within the replay: {frame:?}"),
                _ => data.push(frame.data.unwrap()),
            }
        }
    }

    /// As [`Self::replayed`], and on to the event with this data: one that was acknowledged a moment ago may still be on its
    /// way to this replica when it is live.
    pub(crate) async fn replayed_through(&mut self, last: &str) -> Vec<String> {
        let mut data = self.replayed().await;
        while data.last().is_none_or(|it| it != last) {
            data.extend(self.take(1).await);
        }
        data
    }

    /// The next published events are `wanted`, and `$live` is said once: after them, or among them where an event that
    /// was acknowledged a moment ago is still on its way to this replica.
    pub(crate) async fn replays(&mut self, wanted: impl IntoIterator<Item: AsRef<str>>) {
        let wanted: Vec<String> = wanted
            .into_iter()
            .map(|data| data.as_ref().to_owned())
            .collect();
        let (mut got, mut live) = (Vec::new(), 0);
        while live == 0 || got.len() < wanted.len() {
            let frame = self.telling_frame().await;
            match frame.event.as_deref() {
                Some("$live") => live += 1,
                Some(kind) if kind.starts_with('$') => panic!("within the replay: {frame:?}"),
                _ => got.push(frame.data.unwrap()),
            }
        }
        assert!(live == 1, "{}: $live was said {live} times", self.asked);
        assert!(
            got == wanted,
            "{}: wanted {wanted:?}, got {got:?}",
            self.asked
        );
    }

    /// All frames until the stream ends whole.
    pub(crate) async fn rest(&mut self) -> Vec<Message> {
        let mut rest = Vec::new();
        while let Some((frame, _)) = self.frame_or_end().await {
            rest.push(frame);
        }
        let cut = self.chunks.is_some() && !self.ended_whole();
        assert!(!cut, "the stream was cut after\n{}", self.end_of_raw());
        rest
    }

    /// All frames until the stream ends in whatever way.
    pub(crate) async fn rest_until_cut(&mut self) -> Vec<Message> {
        let mut rest = Vec::new();
        while let Some((frame, _)) = self.frame_or_end().await {
            rest.push(frame);
        }
        rest
    }

    /// Nobody publishes anything to it for a while; signs of life and `$live` may come.
    pub(crate) async fn stays_silent(&mut self) {
        let until = Instant::now() + SILENCE;
        loop {
            while let Some((frame, _)) = self.frames.pop_front() {
                if frame.id.is_some() {
                    self.cursor.clone_from(&frame.id);
                }
                assert!(
                    is_sign_of_life(&frame) || frame.event.as_deref() == Some("$live"),
                    "wanted silence, got {frame:?}"
                );
            }
            assert!(!self.closed, "wanted silence, got the end");
            let left = until.saturating_duration_since(Instant::now());
            if timeout(left, self.read()).await.is_err() {
                return;
            }
        }
    }

    /// The last id that came, as the browser will repeat it.
    pub(crate) fn cursor(&self) -> String {
        self.cursor.clone().unwrap()
    }

    /// The data of `$open`, which agrees with the head.
    pub(crate) fn open_data(&self) -> Value {
        assert_eq!(
            self.opening.event.as_deref(),
            Some("$open"),
            "{:?}",
            self.opening
        );
        let data: Value = serde_json::from_str(self.opening.data.as_deref().unwrap()).unwrap();
        assert_eq!(
            data["replay"].as_str(),
            self.head.header("tidegate-replay"),
            "$open and the head disagree"
        );
        data
    }

    /// The verdict of the connect: `none`, `complete` or `gap`.
    pub(crate) fn replay(&self) -> String {
        self.open_data()["replay"].as_str().unwrap().to_owned()
    }

    /// The id of the first frame.
    pub(crate) fn start(&self) -> EventId {
        id(self.opening.id.as_deref().unwrap())
    }
}

fn is_sign_of_life(frame: &Message) -> bool {
    match frame.event.as_deref() {
        Some(kind) => kind == "$cursor" || kind == "$heartbeat",
        // A comment, or a checkpoint of a stream without control events.
        None => frame.data.is_none(),
    }
}
