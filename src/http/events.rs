//! `GET /events`: the stream as server-sent events.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE},
};

use super::{
    Caller, app::App, body::Body, problem::Problem, query::Query, sse::SseStream,
    streams::Transport, subscription::Asked,
};
use crate::log::Start;

/// Answers the request; the stream goes on in the body.
pub(super) async fn get(
    app: &Arc<App>,
    method: &Method,
    headers: &HeaderMap,
    query: Option<&str>,
    caller: &Caller,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query)?;
    let asked = Asked::read(app, headers, &query)?;
    let options = query.sse_options(asked.topics().len())?;
    // A look at the head counts as no stream.
    let transport = (*method != Method::HEAD).then_some(Transport::Sse);
    let opened = asked.open(app, caller, transport).await?;
    if let (true, Start::After(cursor), Some(ended)) =
        (asked.from_header, asked.start, opened.opening.ended)
        && cursor.id() >= ended
    {
        // To an EventSource this is the one way of saying: do not come back (HTML, 9.2.3).
        return Ok(no_content());
    }
    let replay = HeaderValue::from_static(opened.opening.replay.as_str());
    let mut response = Response::new(Body::empty());
    if let Some(stream) = opened.stream(app, caller) {
        *response.body_mut() = Body::Stream(Box::new(SseStream::new(stream, options)));
    }
    stream_headers(response.headers_mut());
    response.headers_mut().insert("tidegate-replay", replay);
    Ok(response)
}

/// The head of everything that an `EventSource` shall read.
pub(super) fn stream_headers(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, no-transform"),
    );
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    // The connection ends with the stream; a proxy must not think of using it again.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, no-transform"),
    );
    response
}
