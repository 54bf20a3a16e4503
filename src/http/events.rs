//! `GET /events`: the stream.

use std::{num::NonZeroUsize, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE},
};

use super::{
    Caller,
    access::allowed,
    app::{App, Mode},
    body::Body,
    problem::{Code, Problem, Quota},
    query::Query,
    stream::EventStream,
    streams::{CallerLimit, Full, Place, StreamRequest},
};
use crate::{
    config::{Right, Size},
    layers::rate::Key,
    log::Start,
};

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
    let auth = app.auth();
    allowed(&auth, &caller.identity, Right::Subscribe, topics.as_slice())?;
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
    // A look at the head counts as no stream.
    let place = match *method {
        Method::HEAD => None,
        _ => Some(place(app, caller)?),
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
    if let Some(place) = place {
        let scope = place.begin(
            StreamRequest {
                peer: caller.peer,
                address: caller.address,
                request_id: caller.request_id.clone(),
                // Those of the hub, which all streams of a topic share.
                topics: subscriber.topics().cloned().collect(),
            },
            caller.identity.clone(),
            caller.kill.clone(),
        );
        if !Arc::ptr_eq(&auth, &app.auth()) {
            app.judge(scope.handle());
        }
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

/// A place for one stream more, within all limits.
fn place(app: &Arc<App>, caller: &Caller) -> Result<Place, Problem> {
    let config = app.config();
    let limits = &config.limits;
    if let Some(limit) = limits.memory.map(Size::bytes)
        && app.resident_bytes() >= limit
    {
        let detail =
            format!("this replica uses the {limit} bytes of memory that it may (limits.memory)");
        return Err(Problem::new(Code::MemoryLimit, detail));
    }
    // Without a subject nobody knows whether two tokens are one person's.
    let identity = &caller.identity;
    let subject = identity.subject().and(limits.connections_per_subject);
    let address = (!config.development()).then(|| CallerLimit {
        key: Key::address(caller.address),
        limit: limits.connections_per_address,
    });
    let subject = subject.map(|limit| CallerLimit {
        key: app.rates.subject(identity.caller()),
        limit: limit.get(),
    });
    app.streams
        .reserve(limits.connections, [address, subject])
        .map_err(|full| {
            let (code, limit, detail) = match full {
                Full::Replica => {
                    let limit = limits.connections;
                    let detail =
                        format!("this replica has {limit} open streams, which is its limit");
                    return Problem::new(Code::ConnectionLimit, detail);
                }
                Full::Subject => (
                    Code::SubjectLimit,
                    limits.connections_per_subject.map_or(0, NonZeroUsize::get),
                    "your token's subject",
                ),
                Full::Address => (
                    Code::AddressLimit,
                    limits.connections_per_address,
                    "your address",
                ),
            };
            let detail = format!("{detail} has {limit} open streams, which is the limit");
            let problem = Problem::new(code, detail);
            let reset = problem.retry_after.unwrap_or(1);
            Problem {
                quota: Some(Box::new(Quota {
                    limit: u32::try_from(limit).unwrap_or(u32::MAX),
                    remaining: 0,
                    reset,
                })),
                ..problem
            }
        })
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
