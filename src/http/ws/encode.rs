//! What the gateway says over a WebSocket: one JSON text for each message.

use serde::Serialize;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::message::Reference;
use crate::{
    event::{EventId, Topic},
    http::{
        problem::Problem,
        stream::{GapData, OpenData, json},
    },
    hub::Opening,
    log::{Gap, Replay},
    store::Appended,
};

/// Not authorised, or not any more.
pub(super) const UNAUTHORIZED: CloseCode = CloseCode::Library(4401);

#[derive(Serialize)]
struct Message<T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    rest: T,
}

fn message(kind: &'static str, rest: impl Serialize) -> String {
    json(&Message { kind, rest })
}

/// Moves the cursor. The id is that of the frame in SSE, the cursor is where to come back; here they are the same.
#[derive(Serialize)]
struct Moved {
    id: EventId,
    cursor: EventId,
}

impl Moved {
    fn to(cursor: EventId) -> Self {
        Self { id: cursor, cursor }
    }
}

pub(super) fn open(data: &OpenData<'_>, cursor: EventId, retry: u64) -> String {
    #[derive(Serialize)]
    struct Open<'a> {
        #[serde(flatten)]
        data: &'a OpenData<'a>,
        #[serde(flatten)]
        moved: Moved,
        retry: u64,
    }
    let moved = Moved::to(cursor);
    message("open", Open { data, moved, retry })
}

pub(super) fn gap(gap: &Gap) -> String {
    message("gap", GapData::new(gap))
}

pub(super) fn live<'a>(topics: impl Iterator<Item = &'a Topic>, cursor: EventId) -> String {
    #[derive(Serialize)]
    struct Live<'a> {
        topics: Vec<&'a Topic>,
        #[serde(flatten)]
        moved: Moved,
    }
    let (topics, moved) = (topics.collect(), Moved::to(cursor));
    message("live", Live { topics, moved })
}

/// The end of a topic; the cursor, if that moves it.
pub(super) fn end(topic: &Topic, id: EventId, cursor: Option<EventId>) -> String {
    #[derive(Serialize)]
    struct End<'a> {
        topic: &'a Topic,
        id: EventId,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<EventId>,
    }
    message("end", End { topic, id, cursor })
}

pub(super) fn cursor(cursor: EventId) -> String {
    message("cursor", Moved::to(cursor))
}

pub(super) fn drain(cursor: EventId, retry: u64) -> String {
    #[derive(Serialize)]
    struct Drain {
        #[serde(flatten)]
        moved: Moved,
        retry: u64,
    }
    let moved = Moved::to(cursor);
    message("drain", Drain { moved, retry })
}

/// `data` is that of `$auth_expiring`: an object.
pub(super) fn auth_expiring(data: &str) -> String {
    let rest: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(data).unwrap_or_default();
    message("auth_expiring", rest)
}

/// The answer to a request, with the reference that it came with.
///
/// By hand: a value that is written as it came cannot be flattened.
fn answer(kind: &'static str, reference: Option<&Reference>, rest: impl Serialize) -> String {
    let rest = json(&rest);
    let mut text = format!("{{\"type\":\"{kind}\"");
    if let Some(reference) = reference {
        text.push_str(",\"ref\":");
        text.push_str(reference.as_json());
    }
    let members = &rest[1..];
    if members != "}" {
        text.push(',');
    }
    text.push_str(members);
    text
}

pub(super) fn subscribed(
    reference: Option<&Reference>,
    topics: &[Topic],
    opening: &Opening,
) -> String {
    #[derive(Serialize)]
    struct Subscribed<'a> {
        topics: &'a [Topic],
        replay: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        missed_at_least: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        missing: Option<&'a [Topic]>,
        id: EventId,
    }
    let gap = match &opening.replay {
        Replay::Gap(gap) => Some(gap),
        _ => None,
    };
    let subscribed = Subscribed {
        topics,
        replay: opening.replay.as_str(),
        reason: gap.map(|gap| gap.reason.as_str()),
        missed_at_least: gap.and_then(|gap| gap.missed_at_least),
        missing: gap.map(|gap| &*gap.topics),
        id: opening.cursor,
    };
    answer("subscribed", reference, subscribed)
}

pub(super) fn unsubscribed(reference: Option<&Reference>, topics: &[Topic]) -> String {
    #[derive(Serialize)]
    struct Unsubscribed<'a> {
        topics: &'a [Topic],
    }
    answer("unsubscribed", reference, Unsubscribed { topics })
}

pub(super) fn ack(reference: Option<&Reference>, appended: &Appended) -> String {
    #[derive(Serialize)]
    struct Ack {
        id: EventId,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        duplicate: bool,
    }
    let (id, duplicate) = (appended.id, appended.duplicate);
    answer("ack", reference, Ack { id, duplicate })
}

pub(super) fn pong(reference: Option<&Reference>) -> String {
    #[derive(Serialize)]
    struct Pong {}
    answer("pong", reference, Pong {})
}

pub(super) fn error(reference: Option<&Reference>, problem: &Problem) -> String {
    #[derive(Serialize)]
    struct Error<'a> {
        code: &'a str,
        detail: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    }
    let error = Error {
        code: problem.code.as_str(),
        detail: &problem.detail,
        retry_after: problem.retry_after,
    };
    answer("error", reference, error)
}
