//! `GET /poll`: the stream as long polling, and with `wait=0s` the history query.
//!
//! A poll is a stream that ends with its first events. It has the same opening, and its cursor goes on where it ended, so a
//! chain of polls is one stream in pieces.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{
    Caller,
    app::App,
    body::Body,
    health,
    problem::Problem,
    query::Query,
    stream::{Control, EventStream, GapData, Next},
    streams::Transport,
    subscription::Asked,
};
use crate::{
    event::{EventId, Frame, Topic},
    log::{Gap, Replay},
};

/// How long a poll waits, unless it says otherwise.
const WAIT: Duration = Duration::from_secs(25);
/// The longest that it may; many proxies cut after a minute of silence.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// Events of one answer, unless it says otherwise.
const LIMIT: usize = 100;
/// The greatest `limit=`.
const MAX_LIMIT: usize = 1_000;
/// Bytes on the wire from which on an answer is full, whatever its limit.
const FULL: usize = 1024 * 1024;
/// How long pages may take beyond `wait`: an answer without what is there would be wrong to whoever asks for history.
const PAGES: Duration = Duration::from_secs(5);

/// Answers with what there is after the cursor, or as soon as there is something.
pub(super) async fn get(
    app: &Arc<App>,
    method: &Method,
    headers: &HeaderMap,
    query: Option<&str>,
    caller: &Caller,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query)?;
    let asked = Asked::read(app, headers, &query)?;
    let wait = query.wait(WAIT, MAX_WAIT)?;
    let limit = query.limit(LIMIT, MAX_LIMIT)?;
    // A look at the head does not wait.
    let transport = (*method != Method::HEAD).then_some(Transport::Poll);
    let opened = asked.open(app, caller, transport).await?;
    let mut replay = opened.opening.replay.as_str();
    let mut response = match opened.stream(app, caller) {
        None => {
            let mut head = Response::new(Body::empty());
            head.headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            head
        }
        Some(mut stream) => {
            let mut answer = Collected::new(limit);
            answer.collect(&mut stream, wait).await;
            if answer.gap.is_some() {
                replay = "gap";
            }
            health::json(StatusCode::OK, &answer.json(replay, &stream))
        }
    };
    let headers = response.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, no-transform"),
    );
    headers.insert("tidegate-replay", HeaderValue::from_static(replay));
    Ok(response)
}

/// What an answer will say.
struct Collected {
    frames: Vec<Arc<Frame>>,
    limit: usize,
    bytes: usize,
    gap: Option<Gap>,
    ended: Vec<Topic>,
    /// Where it began.
    began: EventId,
    /// There is something that the client should know as soon as everything that there is has been read.
    news: bool,
    /// And at once.
    over: bool,
}

impl Collected {
    fn new(limit: usize) -> Self {
        Self {
            frames: Vec::new(),
            limit,
            bytes: 0,
            gap: None,
            ended: Vec::new(),
            began: EventId::ZERO,
            news: false,
            over: false,
        }
    }

    /// Reads the stream until there is an answer.
    async fn collect(&mut self, stream: &mut EventStream, wait: Duration) {
        let now = Instant::now();
        let (until, at_last) = (now + wait, now + wait.max(PAGES));
        let waited = tokio::time::timeout_at(until, poll_fn(|cx| self.poll(stream, cx, false)));
        if waited.await.is_ok() {
            return;
        }
        // Nothing more is waited for, but what is on its way from the store.
        let mut late = std::pin::pin!(sleep_until(at_last));
        poll_fn(|cx| {
            if self.poll(stream, cx, true).is_ready() {
                return Poll::Ready(());
            }
            late.as_mut().poll(cx)
        })
        .await;
    }

    /// Ready as soon as there is an answer; `now`: as soon as everything that there is has been read.
    fn poll(&mut self, stream: &mut EventStream, cx: &Context<'_>, now: bool) -> Poll<()> {
        let mut frames = Vec::new();
        while !self.over && self.frames.len() < self.limit && self.bytes < FULL {
            match stream.poll_next(cx, &mut frames) {
                Poll::Pending => {
                    // Before it is live, pages are missing.
                    let complete = stream.subscriber().is_live();
                    if complete && (now || self.news) {
                        stream.subscriber_mut().checkpoint();
                        break;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Next::Events) => self.take(stream, &mut frames),
                Poll::Ready(Next::Control(control)) => self.hear(control),
                Poll::Ready(Next::Reached | Next::End) => break,
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, stream: &mut EventStream, frames: &mut Vec<Arc<Frame>>) {
        frames.truncate(self.limit - self.frames.len());
        let bytes = frames.iter().map(|frame| frame.wire_bytes()).sum();
        stream.wrote(frames, bytes);
        self.bytes += bytes;
        self.news = true;
        self.frames.append(frames);
    }

    fn hear(&mut self, control: Control) {
        match control {
            Control::Open(opening) => {
                self.began = opening.cursor;
                if let Replay::Gap(gap) = opening.replay {
                    self.gap = Some(gap);
                    self.news = true;
                }
            }
            Control::Gap(gap) => {
                self.news = true;
                // Behind events, the next poll goes on from there.
                self.over = !self.frames.is_empty();
                match &mut self.gap {
                    Some(told) => {
                        let more = gap.topics.into_iter();
                        let more: Vec<_> =
                            more.filter(|topic| !told.topics.contains(topic)).collect();
                        told.topics.extend(more);
                    }
                    none => *none = Some(gap),
                }
            }
            Control::End { topic, id, .. } => {
                // An end that the cursor had passed is no news.
                self.news |= id > self.began;
                self.ended.push(topic);
            }
            Control::Drain(_) => self.over = true,
            Control::Live(_)
            | Control::Silence(_)
            | Control::Cursor(_)
            | Control::AuthExpiring(_) => {}
        }
    }

    fn json<'a>(&'a self, replay: &'a str, stream: &EventStream) -> Answer<'a> {
        let events = self.frames.iter().map(|frame| {
            let event = frame.event();
            EventData {
                id: event.id,
                topic: event.topic.as_str(),
                event: event.kind.as_str(),
                data: &event.data,
            }
        });
        Answer {
            events: events.collect(),
            cursor: stream.subscriber().cursor(),
            replay,
            gap: self.gap.as_ref().map(GapData::new),
            ended: &self.ended,
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    events: Vec<EventData<'a>>,
    cursor: EventId,
    replay: &'a str,
    #[serde(flatten)]
    gap: Option<GapData<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ended: &'a [Topic],
}

#[derive(Serialize)]
struct EventData<'a> {
    id: EventId,
    topic: &'a str,
    event: &'a str,
    data: &'a str,
}
