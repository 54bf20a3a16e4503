//! `GET /config`: every setting in force, with where it came from, and without secrets.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::http::{app::App, body::Body, health};

/// `{"settings": {key: {value, source, place}}, "restart": [{key, from, to}]}`.
pub(crate) fn config(app: &Arc<App>) -> Response<Body> {
    let (list, restart) = app.reloader.list();
    let settings: Map<String, Value> = list
        .into_iter()
        .map(|setting| (setting.key.clone(), json!(setting)))
        .collect();
    let value = json!({ "settings": settings, "restart": restart });
    health::json(StatusCode::OK, &value)
}
