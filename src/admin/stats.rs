//! `GET /stats`: the metrics at a glance, as JSON, of this replica or of all.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    http::{
        app::App,
        body::Body,
        health,
        problem::{Code, Problem},
        query::Query,
    },
    store::{ReplicaReport, presence::Present},
    telemetry::ProcessStats,
};

/// `scope=replica`, which is the default, or `scope=cluster`.
pub(crate) async fn stats(app: &Arc<App>, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query)?;
    let value = match query.first("scope") {
        None | Some("replica") => replica(app),
        Some("cluster") => cluster(app).await?,
        Some(_) => {
            return Err(Problem::new(
                Code::QueryInvalid,
                "scope is replica, which is the default, or cluster",
            ));
        }
    };
    Ok(health::json(StatusCode::OK, &value))
}

fn replica(app: &App) -> Value {
    let (hub, process, metrics) = (app.hub.stats(), ProcessStats::read(), &app.metrics);
    let store = app.hub.store().stats();
    let mut stats = json!({
        "replica": app.replica(),
        "uptime": app.started.elapsed().as_secs_f64(),
        "connections": {
            "active_connections": app.streams.len(),
            "limit": app.config().limits.connections,
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
        // There is no queue for a connection: what waits is the feed for the hub, and streams for their readers.
        "message_queue": {
            "feed_backlog": store.feed_backlog,
            "feed_backlog_bytes": store.feed_backlog_bytes,
            "lagging": metrics.lagging.get(),
        },
        "hub": hub,
        "store": { "kind": app.hub.store().kind(), "holds": store },
        "memory": { "resident_bytes": process.resident_bytes, "tail_bytes": hub.tail_bytes },
        "process": process,
    });
    if let Some(presence) = &app.presence {
        let (users, online) = presence.users();
        stats["users"] = json!({ "online": online, "list": users });
    }
    stats
}

/// The sum over every live replica. The others say how they fare once a second, this one is as it is now.
async fn cluster(app: &App) -> Result<Value, Problem> {
    let mut replicas = app.hub.store().replicas().await?;
    let own = app.report();
    replicas.retain(|replica| replica.id != own.id);
    replicas.push(own);
    replicas.sort_by(|a, b| (&a.started, &a.id).cmp(&(&b.started, &b.id)));
    let users = match &app.presence {
        Some(_) => app.hub.store().present(&[None]).await?.places.pop(),
        None => None,
    };
    let sum = |field: fn(&ReplicaReport) -> u64| replicas.iter().map(field).sum::<u64>();
    let mut stats = json!({
        "scope": "cluster",
        "connections": {
            "active_connections": sum(|replica| replica.connections),
            "lagging": sum(|replica| replica.lagging),
        },
        // Of each replica, added up: a topic that two of them follow counts twice.
        "topics": { "followed": sum(|replica| replica.topics) },
        "messages": {
            "published": sum(|replica| replica.published),
            "published_bytes": sum(|replica| replica.published_bytes),
            "delivered": sum(|replica| replica.delivered),
            "delivered_bytes": sum(|replica| replica.delivered_bytes),
        },
        "message_queue": {
            "feed_backlog": sum(|replica| replica.feed_backlog),
            "feed_backlog_bytes": sum(|replica| replica.feed_backlog_bytes),
            "lagging": sum(|replica| replica.lagging),
        },
        "store": { "kind": app.hub.store().kind() },
        "memory": {
            "resident_bytes": sum(|replica| replica.resident_bytes),
            "tail_bytes": sum(|replica| replica.tail_bytes),
        },
        "replicas": replicas,
    });
    if let Some(Present { users, total }) = users {
        // Each once, however many streams on however many replicas it has.
        stats["users"] = json!({ "online": total, "list": users });
    }
    Ok(stats)
}
