//! `POST /connections/{connection}/token`: an open stream goes on with a newer token.

use std::{sync::Arc, time::SystemTime};

use http::{Response, StatusCode};
use serde_json::json;

use super::{
    Caller,
    app::{App, rfc3339},
    body::Body,
    health,
    orders::{self, Order},
    problem::{Code, Problem},
    query,
};

/// The path of the token of one connection; its id is the one that `$open` told.
pub(super) const TOKEN: &str = "/connections/{connection}/token";

/// The token that this request came with is the stream's from here on. It has to be the same subject's, and to allow what
/// the stream follows.
pub(super) async fn renew(
    app: &Arc<App>,
    caller: &Caller,
    connection: &str,
) -> Result<Response<Body>, Problem> {
    let identity = &caller.identity;
    if !identity.is_known() {
        let detail = "show the new token as this request's own: Authorization: Bearer …";
        return Err(Problem::new(Code::Unauthorized, detail));
    }
    let connection = query::decode_path(connection)?;
    let ticket = app.tickets().await?.mint(identity, SystemTime::now());
    orders::give(app, &connection, Order::Renew { ticket }).await?;
    let expires = identity.expires().map(rfc3339);
    Ok(health::json(
        StatusCode::OK,
        &json!({ "connection": connection, "expires": expires }),
    ))
}
