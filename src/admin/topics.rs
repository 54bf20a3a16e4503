//! `DELETE /admin/topics/{topic}`.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::json;

use crate::{
    event::Topic,
    http::{
        app::App,
        body::Body,
        health,
        problem::{Code, Problem},
        query,
    },
};

/// The path of one topic. Its name is percent-encoded where a path needs that; a `/` may stand as it is.
pub(crate) const TOPIC: &str = "/admin/topics/{topic}";

/// Takes every event of a topic, from the store and from the tails of all replicas.
pub(crate) async fn delete_topic(app: &Arc<App>, name: &str) -> Result<Response<Body>, Problem> {
    let name = query::decode_path(name)?;
    let topic: Topic = name.parse().map_err(|error: crate::event::TopicError| {
        Problem::new(Code::TopicInvalid, error.to_string())
    })?;
    let delete = app.hub.store().delete(&topic);
    let events = tokio::time::timeout(app.config().publish.timeout, delete)
        .await
        .map_err(|_| crate::store::StoreError::Timeout)??;
    tracing::info!(%topic, events, "a topic was deleted");
    Ok(health::json(
        StatusCode::OK,
        &json!({ "topic": topic, "deleted": events }),
    ))
}
