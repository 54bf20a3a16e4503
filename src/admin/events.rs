//! `GET /admin/events/{id}`: why did this client not get that event?
//!
//! Whether the event is stored, and if not, why, as far as that can be known; which open streams are past it, which are not
//! yet, which began after it, and how the streams that ended last stood.

use std::{net::IpAddr, sync::Arc};

use http::{Response, StatusCode};
use serde::Serialize;

use super::{moment, patiently};
use crate::{
    event::{EventId, EventType, Topic},
    http::{
        app::App, body::Body, closed::ClosedStream, health, problem::Problem, query::Query,
        survey::survey,
    },
    store::Position,
};

/// The path of one event.
pub(crate) const EVENT: &str = "/admin/events/{id}";

/// Streams that are asked, and listed, at most; the oldest first.
const STREAMS: usize = 10_000;

#[derive(Serialize)]
struct Answer {
    id: EventId,
    stored: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    topic: Option<Topic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    end: bool,
    at: Option<String>,
    retention: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<Open>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<Vec<Closed>>,
}

/// How the open streams of the topic stand.
#[derive(Default, Serialize)]
struct Open {
    past: Vec<String>,
    before: Vec<Before>,
    began_after: Vec<String>,
    not_subscribed: usize,
    more: bool,
}

#[derive(Serialize)]
struct Before {
    id: String,
    cursor: EventId,
    behind: bool,
}

#[derive(Serialize)]
struct Closed {
    id: String,
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Box<str>>,
    began: EventId,
    cursor: EventId,
    reason: &'static str,
    #[serde(rename = "closed_at")]
    at: Option<String>,
    past: bool,
}

/// An entry that is there.
struct Found {
    topic: Topic,
    kind: EventType,
    bytes: usize,
    end: bool,
}

/// `?topic=` narrows the search, and lets an event that is gone be explained.
pub(crate) async fn explain(
    app: &Arc<App>,
    id: &str,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let id: EventId = id.parse().map_err(|error: crate::event::EventIdError| {
        Problem::new(crate::http::problem::Code::CursorInvalid, error.to_string())
    })?;
    let query = Query::parse(query)?;
    let topic = query.first("topic").map(super::topic).transpose()?;
    let found = find(app, id, topic.as_ref()).await?;
    let topic = found.as_ref().map(|found| found.topic.clone()).or(topic);
    let (reason, retention) = match &found {
        Some(found) => (None, kept_until(app, &found.topic, id)),
        None => {
            let asked: Vec<Topic> = topic.iter().cloned().collect();
            let position = patiently(app.hub.store().position(&asked)).await?;
            let reason = missing(id, topic.as_ref(), &position);
            (Some(reason.code()), reason.to_string())
        }
    };
    let (open, closed) = match &topic {
        Some(topic) => (
            Some(open(app, topic, id).await),
            Some(closed(app, topic, id)),
        ),
        None => (None, None),
    };
    let answer = Answer {
        id,
        stored: found.is_some(),
        reason,
        topic,
        bytes: found.as_ref().map(|found| found.bytes),
        end: found.as_ref().is_some_and(|found| found.end),
        event: found
            .filter(|found| !found.end)
            .map(|found| found.kind.to_string()),
        at: moment(id.ms()),
        retention,
        open,
        closed,
    };
    Ok(health::json(StatusCode::OK, &answer))
}

/// Looks in memory first, then in the store.
async fn find(app: &App, id: EventId, topic: Option<&Topic>) -> Result<Option<Found>, Problem> {
    if let Some(frame) = app.hub.find(id, topic).await {
        let event = frame.event();
        return Ok(Some(Found {
            topic: event.topic.clone(),
            kind: event.kind.clone(),
            bytes: event.wire_bytes(),
            end: false,
        }));
    }
    let event = patiently(app.hub.store().find(id, topic)).await?;
    Ok(event.map(|event| Found {
        topic: event.topic.clone(),
        kind: event.kind.clone(),
        bytes: event.wire_bytes(),
        end: event.end,
    }))
}

fn kept_until(app: &App, topic: &Topic, id: EventId) -> String {
    let keep = app.config().retention_rules().of(topic);
    let until = moment(id.ms().saturating_add(keep.age_ms));
    format!(
        "kept until {} at the latest, while it is among the newest {} events and {} bytes of its topic",
        until.as_deref().unwrap_or("further notice"),
        keep.events,
        keep.bytes
    )
}

/// Why an event is not there.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    Future(EventId),
    Reset(EventId),
    Lost(EventId, EventId),
    Retention(Option<EventId>),
    NotPublished(Topic),
    Unknown,
}

impl Missing {
    fn code(&self) -> &'static str {
        match self {
            Self::Future(_) => "future",
            Self::Reset(_) => "reset",
            Self::Lost(..) => "lost",
            Self::Retention(_) => "retention",
            Self::NotPublished(_) => "not_published",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Future(last) => write!(f, "no such id was given yet: the newest is {last}"),
            Self::Reset(born) => write!(
                f,
                "it is older than the log, which was born at {born}: what was there before is lost"
            ),
            Self::Lost(after, through) => write!(
                f,
                "it lies in a range that a failover of the store lost: after {after}, up to {through}"
            ),
            Self::Retention(Some(first)) => {
                write!(
                    f,
                    "it is older than what is kept of the topic, which begins at {first}"
                )
            }
            Self::Retention(None) => f.write_str("it is gone: nothing is kept of the topic any more"),
            Self::NotPublished(topic) => write!(f, "no event of {topic} was given this id"),
            Self::Unknown => f.write_str(
                "no event with this id is stored; say ?topic= to learn whether it is gone or never was",
            ),
        }
    }
}

/// What the store knows of an id that is not there. `position` has one topic where that is known.
fn missing(id: EventId, topic: Option<&Topic>, position: &Position) -> Missing {
    if id > position.last {
        return Missing::Future(position.last);
    }
    if id <= position.born {
        return Missing::Reset(position.born);
    }
    let (Some(topic), Some(stand)) = (topic, position.topics.first()) else {
        return Missing::Unknown;
    };
    let lost = stand.lost.iter();
    let mut lost = lost.filter(|range| range.after < id && id <= range.through);
    if let Some(range) = lost.next() {
        return Missing::Lost(range.after, range.through);
    }
    // What was forgotten lies at or below the horizon.
    let last = stand.last.unwrap_or(position.horizon);
    match stand.first {
        Some(first) if id < first => Missing::Retention(Some(first)),
        None if id <= last => Missing::Retention(None),
        _ => Missing::NotPublished(topic.clone()),
    }
}

async fn open(app: &App, topic: &Topic, id: EventId) -> Open {
    let mut handles = app.streams.select(|handle| handle.follows(topic));
    let mut open = Open {
        not_subscribed: app.streams.len().saturating_sub(handles.len()),
        more: handles.len() > STREAMS,
        ..Open::default()
    };
    handles.truncate(STREAMS);
    survey(&app.streams, &handles).await;
    for handle in handles {
        let standing = handle.answer.standing();
        let connection = app.streams.connection(handle.number());
        if handle.answer.began() >= id {
            open.began_after.push(connection);
        } else if standing.cursor >= id {
            open.past.push(connection);
        } else {
            open.before.push(Before {
                id: connection,
                cursor: standing.cursor,
                behind: standing.behind,
            });
        }
    }
    open
}

fn closed(app: &App, topic: &Topic, id: EventId) -> Vec<Closed> {
    let shown = |stream: ClosedStream| Closed {
        id: app.streams.connection(stream.number),
        address: stream.address,
        subject: stream.subject,
        began: stream.began,
        cursor: stream.cursor,
        reason: stream.reason.as_str(),
        at: moment(stream.closed_ms),
        past: stream.began < id && stream.cursor >= id,
    };
    app.streams.closed(topic).into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{log::LostRange, store::TopicPosition};

    fn id(ms: u64) -> EventId {
        EventId::new(ms, 0)
    }

    fn position(stand: TopicPosition) -> Position {
        Position {
            born: id(10),
            last: id(100),
            horizon: id(20),
            now_ms: 200,
            topics: vec![stand],
        }
    }

    #[test]
    fn what_is_not_there_is_explained_as_far_as_it_can_be_known() {
        let topic: Topic = "a".parse().expect("a topic");
        let stand = TopicPosition {
            last: Some(id(90)),
            first: Some(id(50)),
            lost: vec![LostRange {
                after: id(60),
                through: id(70),
            }],
            end: None,
        };
        let stands = position(stand.clone());
        let why = |at: u64| missing(id(at), Some(&topic), &stands);
        assert_eq!(why(101), Missing::Future(id(100)));
        assert_eq!(why(10), Missing::Reset(id(10)));
        assert_eq!(why(65), Missing::Lost(id(60), id(70)));
        assert_eq!(why(70), Missing::Lost(id(60), id(70)));
        assert_eq!(why(49), Missing::Retention(Some(id(50))));
        assert_eq!(why(60), Missing::NotPublished(topic.clone()));
        assert_eq!(missing(id(49), None, &stands), Missing::Unknown);
        let empty = position(TopicPosition {
            first: None,
            lost: Vec::new(),
            ..stand
        });
        let why = |at: u64| missing(id(at), Some(&topic), &empty);
        assert_eq!(why(90), Missing::Retention(None));
        assert_eq!(why(91), Missing::NotPublished(topic.clone()));
        let forgotten = position(TopicPosition::default());
        let why = |at: u64| missing(id(at), Some(&topic), &forgotten);
        assert_eq!(why(20), Missing::Retention(None));
        assert_eq!(why(21), Missing::NotPublished(topic.clone()));
    }
}
