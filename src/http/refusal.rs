//! A temporary refusal that does not kill a browser's stream.
//!
//! To an `EventSource` any status but 200 is final (HTML, 9.2.3): the page's live updates would be dead until a reload. So
//! whoever accepts `text/event-stream` alone gets a stream of one frame, which says what is wrong and when to come back. Of a
//! handshake that fails a page sees nothing at all, so a WebSocket is opened to be told why it is closed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, Version, header::ACCEPT};

use super::{
    app::{App, jittered},
    body::Body,
    events::stream_headers,
    problem::Problem,
    query::{Query, request_cursor},
    sse::{SseOptions, with_retry},
    ws::{
        self,
        handshake::{self, Accept},
    },
};
use crate::{config::RefuseAs, event::ControlFrame, log::Cursor};

/// Long enough that a crowd spreads, short enough that a page is not given up.
const COME_BACK: Duration = Duration::from_secs(5);

/// What has to be known of a request to refuse it in a way that its client survives.
#[derive(Clone)]
pub(crate) enum Refusable {
    /// By a stream of one frame.
    Stream {
        /// The request's own cursor.
        cursor: Option<Cursor>,
        /// How it wants its stream.
        options: SseOptions,
    },
    /// Over the WebSocket that it asks for.
    WebSocket(Arc<App>, Accept),
}

impl Refusable {
    /// Looks at a request; none for one that is refused by a status.
    pub(crate) fn of(
        app: &Arc<App>,
        refuse_as: RefuseAs,
        route: &str,
        head: &Head<'_>,
    ) -> Option<Self> {
        if head.method != Method::GET {
            return None;
        }
        let query = Query::parse(head.query).unwrap_or_default();
        let choice = match (query.first("refuse"), refuse_as) {
            (Some("stream"), _) | (None, RefuseAs::Stream) => Some(true),
            (None, RefuseAs::Auto) => None,
            _ => Some(false),
        };
        match route {
            "/events" => {
                let accepts = head.headers.get(ACCEPT).is_some_and(|accept| {
                    accept
                        .as_bytes()
                        .trim_ascii()
                        .eq_ignore_ascii_case(b"text/event-stream")
                });
                choice.unwrap_or(accepts).then(|| Self::Stream {
                    cursor: request_cursor(head.headers, &query),
                    // As far as it can be read: what is refused may be this very query.
                    options: SseOptions {
                        quiet: query.first("control") == Some("off"),
                        retry: query.first("retry") == Some("data"),
                        ..SseOptions::default()
                    },
                })
            }
            "/ws" if head.owned && choice != Some(false) => {
                let accept = handshake::accept(head.version, head.headers).ok()?;
                Some(Self::WebSocket(app.clone(), accept))
            }
            _ => None,
        }
    }

    /// The response, if this problem is answered in that way.
    pub(crate) fn response(&self, problem: &Problem, request_id: &str) -> Option<Response<Body>> {
        match self {
            Self::Stream { cursor, options } => problem
                .is_temporary()
                .then(|| frame(problem, request_id, *cursor, *options)),
            Self::WebSocket(app, accept) => ws::refuse(app, accept, problem),
        }
    }
}

/// What [`Refusable::of`] looks at.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: Option<&'a str>,
    /// The connection can be taken from the HTTP library.
    pub(crate) owned: bool,
}

/// The stream of one frame.
fn frame(
    problem: &Problem,
    request_id: &str,
    cursor: Option<Cursor>,
    options: SseOptions,
) -> Response<Body> {
    let wait = COME_BACK.max(Duration::from_secs(problem.retry_after.unwrap_or(0)));
    let retry_ms = jittered(wait);
    let mut json = problem.json(Some(request_id));
    if options.retry {
        json = with_retry(json, retry_ms);
    }
    let mut frame = ControlFrame {
        retry_ms: Some(retry_ms),
        id: cursor.map(Cursor::id),
        event: Some("$refused"),
        data: Some(&json),
    };
    if options.quiet {
        frame.event = None;
        frame.data = None;
    }
    let mut response = Response::new(Body::Full(Bytes::from(frame.encode())));
    let headers = response.headers_mut();
    stream_headers(headers);
    headers.insert(
        "tidegate-refused",
        HeaderValue::from_static(problem.code.as_str()),
    );
    problem.count_down(headers);
    response
}
