//! `GET /events`: the stream.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE},
};

use super::{
    Caller,
    app::{App, Mode},
    body::Body,
    problem::{Code, Problem},
    query::Query,
    stream::EventStream,
    streams::StreamRequest,
};
use crate::{config::Right, log::Start};

/// Answers the request; the stream goes on in the body.
pub(super) async fn get(
    app: &Arc<App>,
    method: &Method,
    headers: &HeaderMap,
    query: Option<&str>,
    caller: &Caller,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query)?;
    let topics = query.topics(
        &app.config().stream.default_topic,
        app.config().limits.topics_per_connection,
    )?;
    let options = query.stream_options(topics.as_slice().len())?;
    query.refuse()?;
    let (start, from_header) = query.start(headers)?;
    if !app.anonymous_may(Right::Subscribe) {
        return Err(Problem::new(
            Code::Unauthorized,
            "following topics needs credentials here",
        ));
    }
    if app.mode() == Mode::Draining {
        return Err(Problem::new(
            Code::Draining,
            "this replica is shutting down, another one will serve you",
        ));
    }
    if !app.hub.ready() {
        return Err(Problem::new(
            Code::StoreUnavailable,
            "the event store has not answered yet",
        ));
    }
    let limit = app.config().limits.connections;
    let place = match app.streams.reserve(limit) {
        // A look at the head counts as no stream.
        place if method == Method::HEAD => place,
        None => {
            let detail = format!("this replica has {limit} open streams, which is its limit");
            return Err(Problem::new(Code::ConnectionLimit, detail));
        }
        place => place,
    };
    let (subscriber, opening) = app.hub.subscribe(topics.as_slice(), start).await?;
    if let (true, Start::After(cursor), Some(ended)) = (from_header, start, opening.ended)
        && cursor.id() >= ended
    {
        // To an EventSource this is the one way of saying: do not come back (HTML, 9.2.3).
        return Ok(no_content());
    }
    let replay = HeaderValue::from_static(opening.replay.as_str());
    let mut response = Response::new(Body::empty());
    if let Some(place) = place.filter(|_| method != Method::HEAD) {
        let scope = place.begin(
            StreamRequest {
                address: caller.address,
                request_id: caller.request_id.clone(),
            },
            caller.kill.clone(),
        );
        *response.body_mut() = Body::Stream(Box::new(EventStream::new(
            app.clone(),
            subscriber,
            opening,
            scope,
            options,
        )));
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
