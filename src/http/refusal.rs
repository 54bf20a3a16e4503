//! A temporary refusal that does not kill a browser's stream.
//!
//! To an `EventSource` any status but 200 is final (HTML, 9.2.3): the page's live updates would be dead until a reload. So
//! whoever accepts `text/event-stream` alone gets a stream of one frame, which says what is wrong and when to come back.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header::ACCEPT};

use super::{
    app::jittered,
    body::Body,
    events::stream_headers,
    problem::Problem,
    query::{Query, request_cursor},
};
use crate::{config::RefuseAs, event::ControlFrame};

/// Long enough that a crowd spreads, short enough that a page is not given up.
const COME_BACK: Duration = Duration::from_secs(5);

/// What has to be known of a request to refuse it.
#[derive(Clone, Debug)]
pub(crate) struct Refusable {
    as_stream: bool,
    cursor: Option<crate::log::Cursor>,
    quiet: bool,
}

impl Refusable {
    /// Looks at a request for a stream.
    pub(crate) fn new(
        refuse_as: RefuseAs,
        method: &Method,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Self {
        let query = Query::parse(query).unwrap_or_default();
        let accepts = headers.get(ACCEPT).is_some_and(|accept| {
            accept
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"text/event-stream")
        });
        let as_stream = match (query.first("refuse"), refuse_as) {
            (Some("stream"), _) | (None, RefuseAs::Stream) => true,
            (None, RefuseAs::Auto) => accepts,
            _ => false,
        };
        Self {
            as_stream: as_stream && method == Method::GET,
            cursor: request_cursor(headers, &query),
            quiet: query.first("control") == Some("off"),
        }
    }

    /// The stream of one frame, if this problem is answered by one.
    pub(crate) fn response(&self, problem: &Problem, request_id: &str) -> Option<Response<Body>> {
        if !self.as_stream || !problem.is_temporary() {
            return None;
        }
        let wait = COME_BACK.max(Duration::from_secs(problem.retry_after.unwrap_or(0)));
        let json = problem.json(Some(request_id));
        let frame = ControlFrame {
            retry_ms: Some(jittered(wait)),
            id: self.cursor.map(crate::log::Cursor::id),
            event: Some("$refused"),
            data: Some(&json),
        };
        let frame = if self.quiet {
            ControlFrame {
                event: None,
                data: None,
                ..frame
            }
        } else {
            frame
        };
        let mut response = Response::new(Body::Full(Bytes::from(frame.encode())));
        let headers = response.headers_mut();
        stream_headers(headers);
        headers.insert(
            "tidegate-refused",
            HeaderValue::from_static(problem.code.as_str()),
        );
        problem.count_down(headers);
        Some(response)
    }
}
