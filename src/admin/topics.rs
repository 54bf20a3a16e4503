//! `GET /admin/topics`, `GET` and `DELETE /admin/topics/{topic}`.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::{audit, patiently};
use crate::{
    event::{EventId, Topic},
    http::{
        Caller,
        app::App,
        body::Body,
        health,
        problem::{Code, Problem},
        query::{self, Query},
    },
    store::{Listing, TopicSummary},
};

/// The path of all of them.
pub(crate) const TOPICS: &str = "/admin/topics";
/// The path of one topic. Its name is percent-encoded where a path needs that; a `/` may stand as it is.
pub(crate) const TOPIC: &str = "/admin/topics/{topic}";

/// Topics of one page, unless it is asked for fewer or more.
const LIMIT: usize = 1_000;
/// The greatest `limit=`.
const MOST: usize = 10_000;

/// What is answered of one topic.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shown {
    topic: Topic,
    events: u64,
    bytes: u64,
    first: Option<EventId>,
    last: Option<EventId>,
    ended: bool,
    subscribers: usize,
}

impl Shown {
    fn new(summary: TopicSummary, subscribers: usize) -> Self {
        Self {
            topic: summary.topic,
            events: summary.events,
            bytes: summary.bytes,
            first: summary.first,
            last: summary.last,
            ended: summary.end.is_some(),
            subscribers,
        }
    }
}

/// A page of topics: those that the store knows, and those that somebody follows here.
pub(crate) async fn list(app: &Arc<App>, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query)?;
    let listing = Listing {
        prefix: query.first("prefix").unwrap_or_default().to_owned(),
        after: query.first("after").unwrap_or_default().to_owned(),
        limit: query.limit(LIMIT, MOST)?,
    };
    let page = patiently(app.hub.store().topics(&listing)).await?;
    let mut more = page.more;
    let last = page.topics.last().map(|summary| summary.topic.clone());
    let mut topics: Vec<Shown> = page
        .topics
        .into_iter()
        .map(|summary| {
            let subscribers = app.hub.subscribers(&summary.topic);
            Shown::new(summary, subscribers)
        })
        .collect();
    // A topic that nobody has published to yet is known here alone. What lies beyond the page comes with a later one.
    let here = app.hub.followed(&listing).into_iter();
    let within = |topic: &Topic| !more || last.as_ref().is_some_and(|last| topic < last);
    let here: Vec<_> = here.filter(|(topic, _)| within(topic)).collect();
    for (topic, subscribers) in here {
        if let Err(at) = topics.binary_search_by(|shown| shown.topic.cmp(&topic)) {
            let shown = Shown::new(TopicSummary::unknown(topic), subscribers);
            topics.insert(at, shown);
        }
    }
    more |= topics.len() > listing.limit;
    topics.truncate(listing.limit);
    let answer = json!({ "topics": topics, "more": more });
    Ok(health::json(StatusCode::OK, &answer))
}

/// One topic.
pub(crate) async fn show(app: &Arc<App>, name: &str) -> Result<Response<Body>, Problem> {
    let topic = topic_of(name)?;
    let summary = patiently(app.hub.store().summary(&topic)).await?;
    let subscribers = app.hub.subscribers(&topic);
    if summary.is_none() && subscribers == 0 {
        let detail = format!(
            "nothing is known of the topic {topic}: no event of it is remembered, and nobody follows it here"
        );
        return Err(Problem::new(Code::NotFound, detail));
    }
    let summary = summary.unwrap_or_else(|| TopicSummary::unknown(topic));
    let shown = Shown::new(summary, subscribers);
    Ok(health::json(StatusCode::OK, &shown))
}

/// Takes every event of a topic, from the store and from the tails of all replicas.
pub(crate) async fn delete_topic(
    app: &Arc<App>,
    caller: &Caller,
    name: &str,
) -> Result<Response<Body>, Problem> {
    let topic = topic_of(name)?;
    let delete = app.hub.store().delete(&topic);
    let events = tokio::time::timeout(app.config().publish.timeout, delete)
        .await
        .map_err(|_| crate::store::StoreError::Timeout)??;
    tracing::info!(%topic, events, "a topic was deleted");
    audit(caller, "delete_topic", topic.as_str());
    Ok(health::json(
        StatusCode::OK,
        &json!({ "topic": topic, "deleted": events }),
    ))
}

fn topic_of(name: &str) -> Result<Topic, Problem> {
    super::topic(&query::decode_path(name)?)
}
