//! `GET /admin/connections` and `DELETE /admin/connections/{id}`: who is there, how far each has come, and away with one.

use std::{net::IpAddr, sync::Arc};

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::{audit, moment, now_ms, tick_ms};
use crate::{
    event::{EventId, Topic},
    http::{
        Caller,
        app::App,
        body::Body,
        health,
        orders::{self, Order},
        problem::{Code, Problem},
        query::{self, Query},
        streams::StreamHandle,
        survey::survey,
    },
};

/// The path of all of them.
pub(crate) const CONNECTIONS: &str = "/admin/connections";
/// The path of one connection; its id is the one that `$open` told.
pub(crate) const CONNECTION: &str = "/admin/connections/{connection}";

/// Connections of one answer, unless it is asked for fewer or more.
const LIMIT: usize = 1_000;
/// The greatest `limit=`.
const MOST: usize = 10_000;

#[derive(Serialize)]
struct Connection<'a> {
    id: String,
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Arc<str>>,
    topics: Vec<Topic>,
    began: EventId,
    cursor: EventId,
    lag: Lag,
    behind: bool,
    last_write: Option<String>,
    opened: Option<String>,
    transport: &'static str,
    request_id: &'a str,
}

#[derive(Serialize)]
struct Lag {
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    ms: u64,
}

/// Open streams of this replica: `?topic=`, `?address=`, `?subject=` narrow it down, `?limit=`.
pub(crate) async fn list(app: &Arc<App>, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query)?;
    let limit = query.limit(LIMIT, MOST)?;
    let topic = query.first("topic").map(super::topic).transpose()?;
    let address = query.first("address").map(address).transpose()?;
    let subject = query.first("subject");
    let mut handles = app.streams.select(|handle| {
        let request = &handle.request;
        topic.as_ref().is_none_or(|topic| handle.follows(topic))
            && address.is_none_or(|address| request.address == address)
            && subject.is_none_or(|wanted| {
                let identity = handle.identity();
                identity
                    .subject()
                    .is_some_and(|subject| **subject == *wanted)
            })
    });
    let more = handles.len() > limit;
    handles.truncate(limit);
    survey(&app.streams, &handles).await;
    let connections: Vec<Connection<'_>> = handles
        .iter()
        .map(|handle| connection(app, handle))
        .collect();
    let answer = json!({ "connections": connections, "more": more });
    Ok(health::json(StatusCode::OK, &answer))
}

fn connection<'a>(app: &App, handle: &'a StreamHandle) -> Connection<'a> {
    let request = &handle.request;
    let standing = handle.answer.standing();
    let topics = handle.topics();
    let lag = app.hub.lag(&topics, standing.cursor);
    Connection {
        id: app.streams.connection(handle.number()),
        address: request.address,
        subject: handle.identity().subject().cloned(),
        topics: topics.into_vec(),
        began: handle.answer.began(),
        cursor: standing.cursor,
        lag: Lag {
            events: lag.events,
            ms: lag
                .since_ms
                .map_or(0, |since| now_ms().saturating_sub(since)),
        },
        behind: standing.behind,
        last_write: moment(tick_ms(app, standing.wrote_at)),
        opened: moment(handle.opened_ms),
        transport: request.transport.as_str(),
        request_id: &request.request_id,
    }
}

fn address(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| {
        Problem::new(
            Code::QueryInvalid,
            "address= is an IP address, as the list shows it",
        )
    })
}

/// Ends one stream politely, on whichever replica it is, with its cursor; its client comes back unless something else keeps
/// it away.
pub(crate) async fn close(
    app: &Arc<App>,
    caller: &Caller,
    connection: &str,
) -> Result<Response<Body>, Problem> {
    let connection = query::decode_path(connection)?;
    orders::give(app, &connection, Order::Close).await?;
    audit(caller, "close_connection", &connection);
    let answer = json!({ "connection": connection, "closed": true });
    Ok(health::json(StatusCode::OK, &answer))
}
