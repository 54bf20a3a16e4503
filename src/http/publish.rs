//! `POST /publish`: one event, a batch, or the data itself; what comes line by line goes on in [`super::ndjson`].

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::{
    Caller,
    access::allowed,
    app::App,
    body::Body,
    health::json,
    ndjson,
    problem::{Code, Problem},
    query::Query,
};
use crate::{
    auth::Auth,
    config::{Config, Right},
    event::{EventId, PublishItem},
    store::{Append, Appended, IdempotencyKey, StoreError},
    telemetry::traces,
};

/// What the body is.
enum Form {
    Json,
    Lines,
    Data,
}

fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    if let Some(encoding) = headers
        .get(CONTENT_ENCODING)
        .filter(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let detail =
            format!("Content-Encoding {encoding:?} is not supported: send the body as it is");
        return Err(Problem::new(Code::MediaTypeUnsupported, detail));
    }
    let media_type = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let essence = media_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii()
        .to_ascii_lowercase();
    match &*essence {
        b"application/json" => Ok(Form::Json),
        b"application/x-ndjson" | b"application/ndjson" => Ok(Form::Lines),
        essence if essence.starts_with(b"multipart/") => Err(Problem::new(
            Code::MediaTypeUnsupported,
            "multipart bodies are not supported: send application/json, application/x-ndjson, or the data itself",
        )),
        _ => Ok(Form::Data),
    }
}

/// Stores what the body says and answers with the ids.
pub(super) async fn post(
    app: &Arc<App>,
    headers: &HeaderMap,
    query: Option<&str>,
    body: Incoming,
    caller: &Caller,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query)?;
    let form = form(headers)?;
    let key = headers
        .get("idempotency-key")
        .map(|key| key_of(key.as_bytes()))
        .transpose()?;
    allowed(&app.auth(), &caller.identity, Right::Publish, &[])?;
    match form {
        Form::Lines => ndjson::post(app, &query, key, body, caller).await,
        Form::Data => {
            data(
                app,
                caller,
                &query,
                key,
                &collect(app, headers, body).await?,
            )
            .await
        }
        Form::Json => {
            let body = collect(app, headers, body).await?;
            let text = text(&body)?;
            if text.trim_ascii_start().starts_with('[') {
                batch(app, caller, text, key).await
            } else {
                single(app, caller, PublishItem::from_json(text)?, key).await
            }
        }
    }
}

fn key_of(key: &[u8]) -> Result<Box<str>, Problem> {
    let printable = key.iter().all(|byte| (0x20..0x7f).contains(byte));
    match std::str::from_utf8(key) {
        Ok(text) if printable && (1..=255).contains(&key.len()) => Ok(text.into()),
        _ => Err(Problem::new(
            Code::IdempotencyInvalid,
            "an idempotency key has 1 to 255 printable ASCII characters",
        )),
    }
}

pub(super) fn text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        Problem::new(
            Code::Utf8Invalid,
            format!(
                "the body is not valid UTF-8 after byte {}",
                error.valid_up_to()
            ),
        )
    })
}

async fn collect(app: &App, headers: &HeaderMap, mut body: Incoming) -> Result<Bytes, Problem> {
    let limit = app.config().limits.body_bytes.bytes();
    let too_large = || {
        Problem::new(
            Code::BodyTooLarge,
            format!(
                "the body has more than {limit} bytes, which is the limit; application/x-ndjson may be of any length"
            ),
        )
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut pace = Pace::new(app.config().server.header_timeout);
    while let Some(piece) = pace.next_piece(&mut body).await? {
        if all.is_empty() && first.is_empty() {
            first = piece;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&piece);
        if all.len() > limit {
            return Err(too_large());
        }
    }
    let body = if all.is_empty() { first } else { all.freeze() };
    if body.len() > limit {
        Err(too_large())
    } else {
        Ok(body)
    }
}

/// How slow a body may be: a pause must not last long, and all of it together has to come at some rate. Otherwise a client
/// that sends a byte now and then holds its request for ever.
struct Pace {
    pause: Duration,
    begun: Instant,
    received: usize,
}

impl Pace {
    /// Pauses that a whole body may last, however little it is.
    const PAUSES: u32 = 6;
    /// What has to arrive in each second beyond that.
    const BYTES_PER_SECOND: usize = 16 * 1024;

    fn new(pause: Duration) -> Self {
        Self {
            pause,
            begun: Instant::now(),
            received: 0,
        }
    }

    fn allowed(&self) -> Duration {
        let seconds = (self.received / Self::BYTES_PER_SECOND) as u64;
        self.pause * Self::PAUSES + Duration::from_secs(seconds)
    }

    async fn next_piece(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Problem> {
        let end = self.begun + self.allowed();
        let deadline = end.min(Instant::now() + self.pause);
        let Ok(piece) = timeout_at(deadline, next_piece(body)).await else {
            let detail = if deadline == end {
                let (received, allowed) = (self.received, self.allowed());
                format!("the body is too slow: {received} bytes of it arrived in {allowed:?}")
            } else {
                format!("nothing of the body arrived for {:?}", self.pause)
            };
            return Err(Problem::new(Code::RequestTimeout, detail));
        };
        let piece = piece?;
        self.received += piece.as_ref().map_or(0, Bytes::len);
        Ok(piece)
    }
}

pub(super) async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, Problem> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                return Err(Problem::new(
                    Code::RequestMalformed,
                    format!("the body could not be read: {error}"),
                ));
            }
        }
    }
}

/// What items are judged by: the keys and settings of one moment, for all that are looked at in one go.
pub(super) struct Rules {
    auth: Arc<Auth>,
    pub(super) config: Arc<Config>,
}

impl Rules {
    pub(super) fn of(app: &App) -> Self {
        Self {
            auth: app.auth(),
            config: app.config(),
        }
    }
}

/// What the store is asked for an item that is complete and within the limits.
pub(super) fn append(
    rules: &Rules,
    caller: &Caller,
    item: PublishItem,
    key: Option<Box<str>>,
) -> Result<Append, Problem> {
    let topic = item.topic.ok_or_else(|| Problem::new(Code::TopicMissing, "name the topic to publish to: {\"topic\":\"…\"}, or ?topic=… where the body is the data"))?;
    let one = std::slice::from_ref(&topic);
    allowed(&rules.auth, &caller.identity, Right::Publish, one)?;
    let limit = rules.config.limits.event_bytes.bytes();
    let bytes = item.data.as_ref().map_or(0, |data| data.len());
    if bytes > limit {
        return Err(Problem::new(
            Code::EventTooLarge,
            format!("the data has {bytes} bytes, the limit is {limit}"),
        ));
    }
    let key = match item.key {
        Some(key) => Some(key_of(key.as_bytes())?),
        None => key,
    };
    let key = key.map(|key| IdempotencyKey {
        caller: caller.identity.caller().clone(),
        key,
    });
    Ok(Append {
        topic,
        kind: item.kind,
        data: item.data,
        end: item.end,
        key,
    })
}

/// Stores items that passed the checks; the answers are those of the items, in order.
pub(super) async fn store(
    app: &App,
    items: Vec<Result<Append, Problem>>,
) -> Vec<Result<Appended, Problem>> {
    let bytes: Vec<u64> = items
        .iter()
        .flatten()
        .map(|append| append.data.as_ref().map_or(0, |data| data.len() as u64))
        .collect();
    let mut answers = Vec::with_capacity(items.len());
    let mut batch = Vec::with_capacity(bytes.len());
    for item in items {
        answers.push(item.map(|append| batch.push(append)));
    }
    let count = batch.len();
    let traced = traces::storing(count, || app.hub.now_us());
    let stored =
        match tokio::time::timeout(app.config().publish.timeout, app.hub.store().append(batch))
            .await
        {
            Ok(stored) => stored,
            Err(_) => (0..count)
                .map(|_| Err(StoreError::Timeout.into()))
                .collect(),
        };
    let (mut events, mut sum) = (0, 0);
    for (answer, bytes) in stored.iter().zip(bytes) {
        if answer.as_ref().is_ok_and(|appended| !appended.duplicate) {
            events += 1;
            sum += bytes;
        }
    }
    app.metrics.published.inc_by(events);
    app.metrics.published_bytes.inc_by(sum);
    if let Some(traced) = traced {
        let stored = stored.iter().flatten();
        let fresh = stored.clone().filter(|appended| !appended.duplicate);
        traced.stored(fresh.map(|appended| appended.id).max(), stored.count());
    }
    let mut stored = stored.into_iter();
    answers
        .into_iter()
        .map(|answer| {
            answer.and_then(|()| {
                stored
                    .next()
                    .expect("an answer for each item")
                    .map_err(Problem::from)
            })
        })
        .collect()
}

#[derive(Serialize)]
pub(super) struct Stored<'a> {
    id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// The answer for one of several items.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ItemAnswer {
    Stored(Stored<'static>),
    Failed {
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<u64>,
        error: Box<RawValue>,
    },
}

impl ItemAnswer {
    pub(super) fn new(line: Option<u64>, answer: Result<Appended, Problem>) -> Self {
        match answer {
            Ok(appended) => Self::Stored(Stored {
                id: appended.id,
                topic: None,
                duplicate: appended.duplicate,
            }),
            Err(problem) => Self::Failed {
                line,
                error: RawValue::from_string(problem.json(None)).expect("a problem is JSON"),
            },
        }
    }
}

async fn single(
    app: &App,
    caller: &Caller,
    item: PublishItem,
    key: Option<Box<str>>,
) -> Result<Response<Body>, Problem> {
    let append = append(&Rules::of(app), caller, item, key)?;
    let topic = append.topic.clone();
    let appended = store(app, vec![Ok(append)])
        .await
        .pop()
        .expect("an answer for each item")?;
    Ok(json(
        StatusCode::OK,
        &Stored {
            id: appended.id,
            topic: Some(topic.as_str()),
            duplicate: appended.duplicate,
        },
    ))
}

async fn data(
    app: &App,
    caller: &Caller,
    query: &Query<'_>,
    key: Option<Box<str>>,
    body: &[u8],
) -> Result<Response<Body>, Problem> {
    let item = PublishItem {
        topic: query
            .first("topic")
            .map(str::parse)
            .transpose()
            .map_err(|error| Problem::new(Code::TopicInvalid, format!("topic: {error}")))?,
        kind: query
            .first("event")
            .map(str::parse)
            .transpose()
            .map_err(|error| Problem::new(Code::TypeInvalid, format!("event: {error}")))?
            .unwrap_or_default(),
        data: Some(text(body)?.into()),
        end: false,
        key: None,
    };
    single(app, caller, item, key).await
}

async fn batch(
    app: &App,
    caller: &Caller,
    text: &str,
    key: Option<Box<str>>,
) -> Result<Response<Body>, Problem> {
    #[derive(Serialize)]
    struct Results {
        results: Vec<ItemAnswer>,
    }
    let items: Vec<&RawValue> = serde_json::from_str(text)
        .map_err(|error| Problem::new(Code::JsonInvalid, error.to_string()))?;
    let rules = Rules::of(app);
    let limit = rules.config.limits.batch_events;
    if items.len() > limit {
        return Err(Problem::new(
            Code::BatchTooLarge,
            format!(
                "the batch has {} events, the limit is {limit}; application/x-ndjson may have any number of lines",
                items.len()
            ),
        ));
    }
    let item = |(at, item): (usize, &&RawValue)| {
        append(
            &rules,
            caller,
            PublishItem::from_json(item.get())?,
            key.as_ref().map(|key| format!("{key}#{at}").into()),
        )
    };
    let items = items.iter().enumerate().map(item).collect();
    let answers = store(app, items).await;
    let status = if answers.iter().all(Result::is_ok) {
        StatusCode::OK
    } else {
        StatusCode::MULTI_STATUS
    };
    let results = answers
        .into_iter()
        .map(|answer| ItemAnswer::new(None, answer))
        .collect();
    Ok(json(status, &Results { results }))
}
