//! `POST /publish` with one event a line: streamed, in bounded memory whatever the length of the body.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{future::BoxFuture, stream};
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::timeout;

use super::{
    Caller,
    app::App,
    body::Body,
    health::json,
    problem::{Code, Problem},
    publish::{ItemAnswer, Rules, append, next_piece, store, text},
    query::Query,
};
use crate::{
    event::{EventId, PublishItem},
    store::{Append, Appended},
};

/// Lines that are stored in one go.
const LINES: usize = 512;
/// Errors that the summary of NDJSON lists.
const LISTED_ERRORS: usize = 100;

fn line_too_long(limit: usize) -> Problem {
    let detail = format!("the line has more than {limit} bytes, which is the limit");
    Problem::new(Code::EventTooLarge, detail)
}

fn quiet(idle: Duration) -> Problem {
    let detail = format!(
        "nothing of the body arrived for {idle:?} (publish.idle_timeout); a blank line now and then keeps it open"
    );
    Problem::new(Code::RequestTimeout, detail)
}

/// Answers to some lines, each with its number.
type Answers = Vec<(u64, Result<Appended, Problem>)>;

/// Reads lines and stores them, in bounded memory whatever the length of the body.
struct Lines {
    app: Arc<App>,
    caller: Caller,
    body: Incoming,
    key: Option<Box<str>>,
    buffer: BytesMut,
    /// Lines that were cut out of the buffer and wait to be stored.
    ready: VecDeque<(u64, Result<Append, Problem>)>,
    line: u64,
    events: u64,
    /// The rest of a line that is too long is passed over.
    skipping: bool,
    over: bool,
}

impl Lines {
    /// The answers to the next lines; none at the end of the body.
    async fn next(&mut self) -> Result<Option<Answers>, Problem> {
        loop {
            if !self.ready.is_empty() {
                let count = self.ready.len().min(LINES);
                let (numbers, items): (Vec<u64>, Vec<_>) = self.ready.drain(..count).unzip();
                return Ok(Some(
                    numbers
                        .into_iter()
                        .zip(store(&self.app, items).await)
                        .collect(),
                ));
            }
            if self.over {
                return Ok(None);
            }
            let idle = self.app.config().publish.idle_timeout;
            let piece = timeout(idle, next_piece(&mut self.body)).await;
            match piece.map_err(|_| quiet(idle))?? {
                Some(piece) => self.take(&piece),
                None => {
                    self.over = true;
                    let last = self.buffer.split();
                    self.end_of_line(&last, &Rules::of(&self.app));
                }
            }
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let rules = Rules::of(&self.app);
        let mut rest = piece;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if self.buffer.is_empty() {
                self.end_of_line(&rest[..end], &rules);
            } else {
                self.buffer.extend_from_slice(&rest[..end]);
                let line = self.buffer.split();
                self.end_of_line(&line, &rules);
            }
            rest = &rest[end + 1..];
        }
        let limit = rules.config.limits.body_bytes.bytes();
        if self.buffer.len() + rest.len() > limit && !self.skipping {
            self.buffer.clear();
            self.skipping = true;
            self.ready
                .push_back((self.line + 1, Err(line_too_long(limit))));
            self.events += 1;
        }
        if !self.skipping {
            self.buffer.extend_from_slice(rest);
        }
    }

    fn end_of_line(&mut self, line: &[u8], rules: &Rules) {
        self.line += 1;
        if std::mem::take(&mut self.skipping) || line.trim_ascii().is_empty() {
            // A line that was too long has its answer; its key is used up all the same.
            return;
        }
        let at = self.events;
        self.events += 1;
        let limit = rules.config.limits.body_bytes.bytes();
        if line.len() > limit {
            self.ready.push_back((self.line, Err(line_too_long(limit))));
            return;
        }
        let item = text(line).and_then(|text| Ok(PublishItem::from_json(text)?));
        let key = self.key.as_ref().map(|key| format!("{key}#{at}").into());
        let item = item.and_then(|item| append(rules, &self.caller, item, key));
        self.ready.push_back((self.line, item));
    }
}

pub(super) async fn post(
    app: &Arc<App>,
    query: &Query<'_>,
    key: Option<Box<str>>,
    body: Incoming,
    caller: &Caller,
) -> Result<Response<Body>, Problem> {
    #[derive(Default, Serialize)]
    struct Summary {
        stored: u64,
        failed: u64,
        first: Option<EventId>,
        last: Option<EventId>,
        errors: Vec<ItemAnswer>,
    }
    let mut lines = Lines {
        app: app.clone(),
        caller: caller.clone(),
        body,
        key,
        buffer: BytesMut::new(),
        ready: VecDeque::new(),
        line: 0,
        events: 0,
        skipping: false,
        over: false,
    };
    match query.first("ack") {
        None => {}
        Some("lines") => return Ok(acknowledged(lines)),
        Some(_) => {
            return Err(Problem::new(
                Code::QueryInvalid,
                "ack= is not known, allowed: lines",
            ));
        }
    }
    let mut summary = Summary::default();
    while let Some(answers) = lines.next().await.map_err(|problem| {
        let detail = format!(
            "{}; {} events of it are stored",
            problem.detail, summary.stored
        );
        Problem { detail, ..problem }
    })? {
        for (line, answer) in answers {
            match answer {
                Ok(appended) => {
                    summary.stored += 1;
                    summary.first = summary.first.or(Some(appended.id));
                    summary.last = Some(appended.id);
                }
                Err(problem) => {
                    summary.failed += 1;
                    if summary.errors.len() < LISTED_ERRORS {
                        summary
                            .errors
                            .push(ItemAnswer::new(Some(line), Err(problem)));
                    }
                }
            }
        }
    }
    Ok(json(
        if summary.failed == 0 {
            StatusCode::OK
        } else {
            StatusCode::MULTI_STATUS
        },
        &summary,
    ))
}

/// One answer a line, written while the lines are read.
fn acknowledged(lines: Lines) -> Response<Body> {
    let step = |mut lines: Lines| -> BoxFuture<'static, Option<(Bytes, Lines)>> {
        Box::pin(async move {
            let answers = match lines.next().await {
                Ok(answers) => answers?,
                // The request broke off: what was stored has been said.
                Err(problem) => {
                    lines.over = true;
                    vec![(lines.line + 1, Err(problem))]
                }
            };
            let mut bytes = Vec::new();
            for (line, answer) in answers {
                serde_json::to_writer(&mut bytes, &ItemAnswer::new(Some(line), answer))
                    .expect("plain values are JSON");
                bytes.push(b'\n');
            }
            Some((Bytes::from(bytes), lines))
        })
    };
    let mut response = Response::new(Body::Pieces(Box::pin(stream::unfold(lines, step))));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
