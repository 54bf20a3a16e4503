//! Finds out who sends a request, from what it shows.

use std::{sync::Arc, time::SystemTime};

use http::request::Parts;

use super::rate::{self, Key};
use crate::{
    auth::{self, CredentialKind, Denied, Identity},
    config::Config,
    http::{
        Caller,
        app::App,
        problem::{Code, Problem},
        query::Query,
    },
};

/// Who it is; none for somebody who shows nothing.
///
/// What was shown and is not good is refused, also where anybody may do the same without it: a client that believes to be
/// somebody must learn that it is not.
pub(super) async fn identify(
    app: &App,
    config: &Config,
    head: &Parts,
    caller: &Caller,
) -> Result<Option<Arc<Identity>>, Problem> {
    let query = Query::parse(head.uri.query()).unwrap_or_default();
    let shown = auth::credential(&head.headers, &query, &config.auth.cookie);
    if matches!(shown, Ok(None)) {
        return Ok(None);
    }
    let (rate, key) = (
        config.limits.rate.auth_failure,
        Key::address(caller.address),
    );
    let limited = !config.development();
    if limited && let Err(left) = app.rates.auth_failure.peek(key, rate) {
        return Err(rate::refusal(left, rate, "limits.rate.auth_failure"));
    }
    let now = SystemTime::now();
    let identified = match shown {
        Ok(None) => return Ok(None),
        Ok(Some(credential)) if credential.kind == CredentialKind::Ticket => {
            redeem(app, credential.expose(), now).await?
        }
        Ok(Some(credential)) => app.auth().identify(&credential, now).await,
        Err(denied) => Err(denied),
    };
    match identified {
        Ok(identity) => Ok(Some(Arc::new(identity))),
        Err(denied) => {
            if limited && denied.is_failure() {
                let _ = app.rates.auth_failure.take(key, rate);
            }
            Err(problem(&denied))
        }
    }
}

/// A ticket is good once, on whichever replica: the store knows whether it was used.
async fn redeem(
    app: &App,
    ticket: &str,
    now: SystemTime,
) -> Result<Result<Identity, Denied>, Problem> {
    let (id, identity) = match app.tickets().await?.read(ticket, now) {
        Ok(read) => read,
        Err(denied) => return Ok(Err(denied)),
    };
    let mark = format!("ticket:{}", id.as_str());
    let first = app.hub.store().claim(&mark, auth::TICKET_MARK).await?;
    if !first {
        return Ok(Err(Denied::Spent));
    }
    // What it rests on may have been taken back, or allow less, since it was made: it is spent all the same.
    let current = app.auth().current(&identity);
    let taken_back = "the credential that the ticket was made for is no longer accepted";
    Ok(current.ok_or_else(|| Denied::Invalid(taken_back.into())))
}

fn problem(denied: &Denied) -> Problem {
    let code = match denied {
        Denied::Unavailable(_) => Code::AuthUnavailable,
        Denied::Invalid(_) | Denied::Expired(_) | Denied::Spent => Code::Unauthorized,
    };
    Problem {
        shown: true,
        outdated: denied.is_temporary(),
        ..Problem::new(code, denied.to_string())
    }
}
