//! What only operators see and do: `/metrics`, `/stats`, and what changes the log past its publishers.

mod stats;
mod topics;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};

pub(crate) use stats::stats;
pub(crate) use topics::{TOPIC, delete_topic};

use crate::http::{
    app::App,
    body::Body,
    problem::{Code, Problem},
};

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
