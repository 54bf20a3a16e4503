//! `GET /health`, `/health/live`, `/health/ready`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde::Serialize;

use super::{
    app::{App, Mode, rfc3339},
    body::Body,
};
use crate::{store::RedisAbout, telemetry::ProcessStats};

#[derive(Serialize)]
struct Health {
    status: &'static str,
    timestamp: String,
    /// Seconds.
    uptime: f64,
    version: &'static str,
    memory: Memory,
    connections: Connections,
    dependencies: Dependencies,
}

#[derive(Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit is part of the name that clients see"
)]
struct Memory {
    resident_bytes: u64,
    tail_bytes: u64,
    store_bytes: usize,
}

#[derive(Serialize)]
struct Connections {
    active: usize,
    limit: usize,
}

#[derive(Serialize)]
struct Dependencies {
    store: Dependency,
}

#[derive(Serialize)]
struct Dependency {
    status: &'static str,
    kind: &'static str,
    latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<RedisAbout>,
    /// What an operator should mend though it works.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The full report: 503 where something that is needed is down.
pub(crate) async fn report(app: &Arc<App>) -> Response<Body> {
    let store = app.hub.store();
    let ping = tokio::time::timeout(Duration::from_secs(2), store.ping()).await;
    let (latency, error) = match ping {
        Ok(Ok(latency)) => (Some(latency.as_secs_f64() * 1e3), None),
        Ok(Err(error)) => (None, Some(error.to_string())),
        Err(_) => (None, Some("it did not answer within 2 s".to_owned())),
    };
    let warnings = store.warnings();
    let status = match (app.mode(), &error) {
        (Mode::Serving, None) if app.hub.ready() && warnings.is_empty() => "ok",
        (Mode::Serving, None) if app.hub.ready() => "degraded",
        (Mode::Serving, _) => "unavailable",
        _ => "draining",
    };
    let health = Health {
        status,
        timestamp: rfc3339(SystemTime::now()),
        uptime: app.started.elapsed().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION"),
        memory: Memory {
            resident_bytes: ProcessStats::read().resident_bytes,
            tail_bytes: app.hub.stats().tail_bytes,
            store_bytes: store.stats().bytes,
        },
        connections: Connections {
            active: app.streams.len(),
            limit: app.config().limits.connections,
        },
        dependencies: Dependencies {
            store: Dependency {
                status: match &error {
                    Some(_) => "down",
                    None if warnings.is_empty() => "ok",
                    None => "degraded",
                },
                kind: store.kind(),
                latency_ms: latency,
                error,
                redis: store.about(),
                warnings,
            },
        },
    };
    json(
        if matches!(status, "ok" | "degraded") {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        &health,
    )
}

/// The process is alive.
pub(crate) fn live() -> Response<Body> {
    json(StatusCode::OK, &serde_json::json!({"status": "ok"}))
}

/// Whether it may take traffic. A store that is away does not make it unready: a balancer would drop everybody.
pub(crate) fn ready(app: &App) -> Response<Body> {
    let (status, word) = match app.mode() {
        Mode::Serving if app.hub.ready() => (StatusCode::OK, "ok"),
        Mode::Serving => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    json(status, &serde_json::json!({"status": word}))
}

/// An answer in JSON that nobody keeps.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let json = serde_json::to_vec(value).expect("plain values are JSON");
    let mut response = Response::new(Body::Full(Bytes::from(json)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
