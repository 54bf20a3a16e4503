//! What only operators see: `/metrics` and `/stats`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

use crate::{
    http::{
        app::App,
        body::Body,
        health::json,
        problem::{Code, Problem},
    },
    telemetry::ProcessStats,
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

/// `GET /stats`: the same at a glance, as JSON.
pub(crate) fn stats(app: &Arc<App>) -> Response<Body> {
    let (hub, process, metrics) = (app.hub.stats(), ProcessStats::read(), &app.metrics);
    let value = serde_json::json!({
        "uptime": app.started.elapsed().as_secs_f64(),
        "connections": {
            "active_connections": app.streams.len(),
            "limit": app.config.limits.connections,
            "tcp": metrics.tcp_connections.get(),
            "lagging": metrics.lagging.get(),
        },
        "topics": { "followed": hub.topics },
        "messages": {
            "published": metrics.published.get(),
            "published_bytes": metrics.published_bytes.get(),
            "delivered": metrics.delivered.get(),
            "delivered_bytes": metrics.delivered_bytes.get(),
        },
        "hub": hub,
        "store": { "kind": app.hub.store().kind(), "holds": app.hub.store().stats() },
        "memory": { "resident_bytes": process.resident_bytes, "tail_bytes": hub.tail_bytes },
        "process": process,
    });
    json(StatusCode::OK, &value)
}
