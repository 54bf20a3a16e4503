//! `POST /admin/drain`: the replica leaves, as after SIGTERM.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::json;

use super::audit;
use crate::http::{Caller, app::App, body::Body, health};

/// The path.
pub(crate) const DRAIN: &str = "/admin/drain";

/// It is answered before anything ends; the process exits when the drain is over.
pub(crate) fn drain(app: &Arc<App>, caller: &Caller) -> Response<Body> {
    audit(caller, "drain", app.replica());
    app.leave.cancel();
    health::json(StatusCode::ACCEPTED, &json!({ "draining": true }))
}
