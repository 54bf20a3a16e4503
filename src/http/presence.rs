//! `GET /presence`: how many streams follow a topic, over all replicas, and which users they belong to.
//!
//! Streams are counted when somebody asks, by each replica its own: while nobody does, it costs nothing. Who they belong to
//! is kept by the store ([`crate::presence`]), where `presence.enabled` wants it.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header::CACHE_CONTROL};
use serde::{Deserialize, Serialize};

use super::{
    Caller,
    access::allowed,
    app::App,
    body::Body,
    health,
    problem::{Code, Problem},
    query::Query,
};
use crate::{
    config::{Config, Right},
    event::{EventId, Topic},
    store::presence::Presence,
};

/// How long another replica may take to count its streams.
const PATIENCE: Duration = Duration::from_secs(1);
/// Replicas that are asked at the same time.
const ASKED: usize = 64;
/// Bytes of names in one letter, which has an end.
const NAMES: usize = 8 * 1024;

/// What one replica asks another.
#[derive(Serialize, Deserialize)]
struct Question<'a> {
    #[serde(borrow)]
    count: Vec<std::borrow::Cow<'a, str>>,
}

#[derive(Serialize)]
struct Answer<'a> {
    topics: Vec<OfTopic<'a>>,
    /// From there on, `$presence/<topic>` tells what has changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<EventId>,
    replicas: Replicas,
}

#[derive(Serialize)]
struct OfTopic<'a> {
    topic: &'a Topic,
    subscribers: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<&'a [Arc<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users_total: Option<u64>,
}

#[derive(Serialize)]
struct Replicas {
    live: usize,
    answered: usize,
}

/// Says who is there.
pub(super) async fn get(
    app: &Arc<App>,
    query: Option<&str>,
    caller: &Caller,
) -> Result<Response<Body>, Problem> {
    let config = app.config();
    let query = Query::parse(query)?;
    if query.first("topic").is_none() && query.first("topics").is_none() {
        let detail = "presence is that of a topic: ?topic=name";
        return Err(Problem::new(Code::TopicMissing, detail));
    }
    let topics = query.topics(
        &config.stream.default_topic,
        config.limits.topics_per_connection,
    )?;
    let topics = topics.as_slice();
    if let Some(topic) = topics.iter().find(|topic| topic.presence_of().is_some()) {
        let detail = format!("who follows {topic} is not told: it has no presence of its own");
        return Err(Problem::new(Code::TopicInvalid, detail));
    }
    allowed(&app.auth(), &caller.identity, Right::Presence, topics)?;
    let (counts, users) = tokio::join!(count(app, topics), users(app, topics));
    let ((subscribers, replicas), users) = (counts?, users?);
    let of = |at: usize| {
        let present = users.as_ref().map(|users| &users.places[at]);
        OfTopic {
            topic: &topics[at],
            subscribers: subscribers[at],
            users: present.map(|present| &*present.users),
            users_total: present.map(|present| present.total),
        }
    };
    let answer = Answer {
        topics: (0..topics.len()).map(of).collect(),
        cursor: users.as_ref().map(|users| users.last),
        replicas,
    };
    let mut response = health::json(StatusCode::OK, &answer);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn users(app: &App, topics: &[Topic]) -> Result<Option<Presence>, Problem> {
    if app.presence.is_none() {
        return Ok(None);
    }
    let places: Vec<Option<Topic>> = topics.iter().cloned().map(Some).collect();
    Ok(Some(app.hub.store().present(&places).await?))
}

/// How many streams follow each topic, on those replicas that answer.
async fn count(app: &Arc<App>, topics: &[Topic]) -> Result<(Vec<u64>, Replicas), Problem> {
    let mut counts = app.streams.count(topics);
    let others = app.hub.store().replicas().await?;
    let others: Vec<String> = others
        .into_iter()
        .map(|report| report.id)
        .filter(|id| id != app.replica())
        .collect();
    let mut replicas = Replicas {
        live: others.len() + 1,
        answered: 1,
    };
    let ask = |replica: String| async move {
        let asked = tokio::time::timeout(PATIENCE, ask(app, &replica, topics));
        asked.await.ok().flatten()
    };
    let mut answers = stream::iter(others).map(ask).buffer_unordered(ASKED);
    while let Some(answer) = answers.next().await {
        let Some(answer) = answer else {
            continue;
        };
        replicas.answered += 1;
        for (count, more) in counts.iter_mut().zip(answer) {
            *count += more;
        }
    }
    Ok((counts, replicas))
}

/// What another replica counts; none: it did not answer.
async fn ask(app: &App, replica: &str, topics: &[Topic]) -> Option<Vec<u64>> {
    let mut counts = Vec::with_capacity(topics.len());
    let mut rest = topics;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |topic: &&Topic| {
            bytes += topic.as_str().len();
            bytes <= NAMES
        };
        let some = rest.iter().take_while(fits).count();
        let (some, later) = rest.split_at(some);
        let question = Question {
            count: some.iter().map(|topic| topic.as_str().into()).collect(),
        };
        let question = serde_json::to_string(&question).expect("names are JSON");
        let answer = app.letters.ask(replica, &question).await.ok()?;
        let answer: Vec<u64> = serde_json::from_str(&answer).ok()?;
        if answer.len() != some.len() {
            return None;
        }
        counts.extend(answer);
        rest = later;
    }
    Some(counts)
}

/// What this replica counts for another one; none: it was asked something else.
pub(super) fn answer(app: &App, question: &str) -> Option<String> {
    let question: Question<'_> = serde_json::from_str(question).ok()?;
    let topics = question.count.iter().map(|name| name.parse());
    let topics: Vec<Topic> = topics.collect::<Result<_, _>>().ok()?;
    Some(serde_json::to_string(&app.streams.count(&topics)).expect("numbers are JSON"))
}

/// Refuses to follow the presence of a topic where nobody tells it.
pub(super) fn followable(config: &Config, topics: &[Topic]) -> Result<(), Problem> {
    let presence = topics.iter().find(|topic| topic.presence_of().is_some());
    match presence {
        Some(topic) if !config.presence.enabled => Err(Problem::new(
            Code::TopicInvalid,
            format!("{topic} can be followed where presence.enabled is set, and it is not"),
        )),
        _ => Ok(()),
    }
}
