//! `POST /admin/reload-config`.

use std::sync::Arc;

use http::{Response, StatusCode};

use crate::http::{
    Caller,
    app::App,
    body::Body,
    health,
    problem::{Code, Problem},
    reload::{self, Trigger},
};

/// The path.
pub(crate) const RELOAD: &str = "/admin/reload-config";

/// Reads the settings again and answers what changed: `{"applied": […], "restart": […], "warnings": […]}`.
pub(crate) async fn reload(app: &Arc<App>, caller: &Caller) -> Result<Response<Body>, Problem> {
    let report = reload::reload(app, Trigger::Request(caller.clone()))
        .await
        .map_err(|error| Problem::new(Code::ConfigInvalid, error.told()))?;
    Ok(health::json(StatusCode::OK, &report))
}
