//! `GET` and `PUT /admin/log-level`: how much the main log says, until the next change or restart.

use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::audit;
use crate::{
    http::{
        Caller,
        body::Body,
        health,
        problem::{Code, Problem},
    },
    telemetry::logs,
};

/// The path.
pub(crate) const LOG_LEVEL: &str = "/admin/log-level";

/// A level, or levels of modules, are not longer.
const BODY: usize = 4 * 1024;
/// How long the body may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    level: String,
}

/// `{"level":"info"}`
pub(crate) fn show() -> Result<Response<Body>, Problem> {
    let level = handle()?.level();
    Ok(health::json(StatusCode::OK, &json!({ "level": level })))
}

/// Takes `{"level":"debug"}` or levels of modules, `{"level":"info,tidegate::hub=debug"}`, and answers with it.
pub(crate) async fn set(caller: &Caller, body: Incoming) -> Result<Response<Body>, Problem> {
    let wanted: Wanted = serde_json::from_slice(&read(body).await?).map_err(|error| {
        Problem::new(
            Code::JsonInvalid,
            format!("a body as {{\"level\":\"debug\"}} was expected: {error}"),
        )
    })?;
    let handle = handle()?;
    let before = handle.level();
    handle
        .set_level(&wanted.level)
        .map_err(|error| Problem::new(Code::LevelInvalid, error.to_string()))?;
    let level = handle.level();
    audit(caller, "log_level", &format!("{before} to {level}"));
    Ok(health::json(StatusCode::OK, &json!({ "level": level })))
}

fn handle() -> Result<&'static logs::LogHandle, Problem> {
    logs::handle().ok_or_else(|| Problem::new(Code::Internal, "this process has no log"))
}

async fn read(body: Incoming) -> Result<Vec<u8>, Problem> {
    let whole = Limited::new(body, BODY).collect();
    let whole = tokio::time::timeout(PATIENCE, whole)
        .await
        .map_err(|_| Problem::new(Code::RequestTimeout, "the body did not arrive in time"))?;
    match whole {
        Ok(whole) => Ok(whole.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::new(
            Code::BodyTooLarge,
            format!("the body has at most {BODY} bytes"),
        )),
        Err(_) => Err(Problem::new(
            Code::RequestMalformed,
            "the body could not be read",
        )),
    }
}
