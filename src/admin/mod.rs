//! What only operators see and do: `/metrics`, `/stats`, who is connected, what became of an event, and what changes the log
//! past its publishers.

mod config;
pub(crate) mod connections;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod log_level;
mod reload;
mod stats;
pub(crate) mod topics;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};

pub(crate) use config::config;
pub(crate) use reload::{RELOAD, reload};
pub(crate) use stats::stats;

use crate::{
    event::Topic,
    http::{
        Caller,
        access::forbidden,
        alarm::Alarms,
        app::{App, rfc3339, unix_ms},
        body::Body,
        problem::{Code, Problem},
    },
    store::StoreError,
};

/// How long the store may take for an answer that needs a look at every topic.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first millisecond that is not written with four digits for the year.
const YEAR_10_000: u64 = 253_402_300_800_000;

/// Whether a route is for operators alone; the others only show how the replica fares.
pub(crate) fn is_guarded(path: &str) -> bool {
    path == "/config" || path.starts_with("/admin/")
}

/// Whoever is on this machine may, and whoever shows the token of an operator.
pub(crate) fn guard(caller: &Caller) -> Result<(), Problem> {
    if caller.local || caller.identity.is_admin() {
        return Ok(());
    }
    if caller.identity.is_known() {
        let detail = "these credentials are not those of an operator (admin.token)";
        return Err(forbidden(detail.into()));
    }
    Err(Problem::new(
        Code::Unauthorized,
        "from elsewhere than this machine, and through a proxy, this needs admin.token as Authorization: Bearer …",
    ))
}

/// Writes down what an operator did, and to what.
fn audit(caller: &Caller, action: &'static str, object: &str) {
    tracing::info!(
        target: "audit",
        event = "admin",
        outcome = "OK",
        action,
        object,
        request_id = &*caller.request_id,
        address = %caller.address,
        subject = caller.identity.subject().map(|subject| &**subject),
        "an operator acted"
    );
}

/// What a store answers within [`PATIENCE`].
async fn patiently<T>(
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.map_err(|_| StoreError::Timeout)?
}

fn topic(name: &str) -> Result<Topic, Problem> {
    Topic::followed(name).map_err(|error| Problem::new(Code::TopicInvalid, error.to_string()))
}

/// Unix milliseconds as RFC 3339, if they are a moment that can be written so.
fn moment(ms: u64) -> Option<String> {
    let age = Some(ms).filter(|&ms| ms < YEAR_10_000)?;
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(age))
        .map(rfc3339)
}

fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}

/// About when it was that the alarms stood at `tick`, in Unix milliseconds.
fn tick_ms(app: &App, tick: u64) -> u64 {
    let ticks = app.alarms.now().saturating_sub(tick);
    now_ms().saturating_sub(ticks.saturating_mul(Alarms::TICK_MS))
}

/// `GET /metrics`: OpenMetrics text.
pub(crate) fn metrics(app: &Arc<App>) -> Result<Response<Body>, Problem> {
    let text = app
        .metrics
        .encode(&app.snapshot())
        .map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let mut response = Response::new(Body::Full(Bytes::from(text)));
    let media_type =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_only_if_it_can_be() {
        assert_eq!(moment(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        let last = moment(YEAR_10_000 - 1);
        assert_eq!(last.as_deref(), Some("9999-12-31T23:59:59.999Z"));
        assert_eq!(moment(YEAR_10_000), None);
        assert_eq!(moment(u64::MAX), None);
    }
}
