//! What only operators see and do: `/metrics`, `/stats`, and what changes the log past its publishers.

mod config;
mod reload;
mod stats;
mod topics;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};

pub(crate) use config::config;
pub(crate) use reload::{RELOAD, reload};
pub(crate) use stats::stats;
pub(crate) use topics::{TOPIC, delete_topic};

use crate::http::{
    Caller,
    access::forbidden,
    app::App,
    body::Body,
    problem::{Code, Problem},
};

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
