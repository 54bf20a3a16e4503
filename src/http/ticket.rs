//! `POST /ticket`: something to put into a URL, good for half a minute and for one request.

use std::{sync::Arc, time::SystemTime};

use http::{Response, StatusCode};
use serde_json::json;

use super::{
    Caller,
    access::forbidden,
    app::App,
    body::Body,
    health,
    problem::{Code, Problem},
};
use crate::auth::TICKET_LIFETIME;

/// Answers with a ticket that has the rights of whoever asks for it. In development mode anybody has them, so that a page
/// that asks for tickets works there, too.
pub(super) async fn post(app: &Arc<App>, caller: &Caller) -> Result<Response<Body>, Problem> {
    if !caller.identity.is_known() && !app.config().development() {
        let detail = "a ticket has the rights of whoever asks for it: show credentials";
        return Err(Problem::new(Code::Unauthorized, detail));
    }
    if caller.identity.by_ticket() {
        // Or whoever finds one, in the log of a proxy, could live on it for ever.
        return Err(forbidden("a ticket buys no other ticket".into()));
    }
    let tickets = app.tickets().await?;
    let ticket = tickets.mint(&caller.identity, SystemTime::now());
    let answer = json!({ "ticket": ticket, "expires_in": TICKET_LIFETIME.as_secs() });
    Ok(health::json(StatusCode::OK, &answer))
}
