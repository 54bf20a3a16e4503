//! `POST /connections/{connection}/token`: an open stream goes on with a newer token.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::json;

use super::{
    Caller,
    access::{allowed, forbidden},
    app::{App, rfc3339},
    body::Body,
    health,
    problem::{Code, Problem},
};
use crate::{auth::Identity, config::Right};

/// The path of the token of one connection; its id is the one that `$open` told.
pub(super) const TOKEN: &str = "/connections/{connection}/token";

/// The token that this request came with is the stream's from here on.
pub(super) async fn renew(
    app: &Arc<App>,
    caller: &Caller,
    connection: &str,
) -> Result<Response<Body>, Problem> {
    if !caller.identity.is_known() {
        let detail = "show the new token as this request's own: Authorization: Bearer …";
        return Err(Problem::new(Code::Unauthorized, detail));
    }
    renew_here(app, caller, connection)?;
    let expires = caller.identity.expires().map(rfc3339);
    Ok(health::json(
        StatusCode::OK,
        &json!({ "connection": connection, "expires": expires }),
    ))
}

/// The same, for a stream of this replica.
fn renew_here(app: &App, caller: &Caller, connection: &str) -> Result<(), Problem> {
    let handle = app.streams.find(connection).ok_or_else(not_open)?;
    let request = &handle.request;
    if !Identity::same_subject(&request.identity, &caller.identity) {
        let detail = "the stream belongs to another subject than this token";
        return Err(forbidden(detail.into()));
    }
    allowed(&app.auth(), caller, Right::Subscribe, &request.topics)?;
    app.streams.renew(&handle, caller.identity.expires());
    Ok(())
}

/// There is no such stream, or not any more.
fn not_open() -> Problem {
    Problem::new(
        Code::NotFound,
        "no stream with this connection id is open: the id is in the data of $open",
    )
}
