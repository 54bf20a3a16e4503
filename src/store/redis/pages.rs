//! Stretches of a topic's stream, read together with what proves their completeness.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use super::{
    Shared, entry,
    pipe::{CallError, Pipe},
    resp::{Request, Value},
    unavailable, unexpected,
};
use crate::{
    event::{EventId, Topic},
    store::{Page, StoreError, TopicPosition},
};

/// About how many bytes of data one page brings.
const PAGE_BYTES: usize = 256 * 1024;
/// Entries of a page at the least, however large they are.
const PAGE_LEAST: usize = 8;
/// Among so many of the newest entries one of ours is looked for, where others have written, too.
const NEWEST: &str = "64";
/// What is expected of events before one was seen.
const EVENT_BYTES: usize = 4 * 1024;
/// Pages that are read at once.
const READS: usize = 16;

/// Reads pages, and learns how large they should be.
pub(super) struct Pages {
    /// About how many bytes an event has.
    event_bytes: AtomicUsize,
    reads: Semaphore,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            event_bytes: AtomicUsize::new(EVENT_BYTES),
            reads: Semaphore::new(READS),
        }
    }
}

impl Pages {
    /// How many entries a page should have.
    fn entries(&self, limit: usize) -> usize {
        let bytes = self.event_bytes.load(Ordering::Relaxed).max(1);
        limit.min((PAGE_BYTES / bytes).max(PAGE_LEAST))
    }

    /// The page after `after`, of at most `limit` events; of fewer where they are large.
    pub(super) async fn read(
        &self,
        pipe: &Pipe,
        shared: &Shared,
        topic: &Topic,
        after: EventId,
        limit: usize,
    ) -> Result<Page, StoreError> {
        // A fresh replica is asked for many topics at once, and does not know how large their events are.
        let _one = self.reads.acquire().await;
        let (mut from, mut with_newest) = (after, false);
        loop {
            let wanted = self.entries(limit);
            let raw = raw_page(pipe, shared, topic, from, wanted, with_newest).await?;
            if raw.stand.is_none() && !with_newest {
                // The last id was forgotten, but the stream may still be there.
                with_newest = true;
                continue;
            }
            let count = raw.entries.len();
            let mut events = Vec::with_capacity(count);
            let mut bytes = 0;
            for entry in &raw.entries {
                match entry::entry(topic, entry) {
                    Ok(event) => {
                        bytes += event.data.len();
                        events.push(event);
                    }
                    Err(error) => shared.counters.skipped("stream", error),
                }
            }
            // The end is no event, and nothing stands after it.
            let ended = events.last().is_some_and(|event| event.end);
            events.retain(|event| !event.end);
            let more = count > wanted && !ended;
            events.truncate(wanted);
            let last_read = raw.entries.last().and_then(entry::entry_id);
            if events.is_empty()
                && more
                && let Some(last_read) = last_read
            {
                // Nothing here is of ours: what comes after it may be.
                from = last_read;
                continue;
            }
            if !events.is_empty() {
                let average = self.event_bytes.load(Ordering::Relaxed);
                let now = bytes / events.len() + 64;
                self.event_bytes
                    .store(now.max(usize::midpoint(average, now)), Ordering::Relaxed);
            }
            return Ok(Page {
                events: events.into_iter().map(Arc::new).collect(),
                more,
                topic: raw.stand.unwrap_or_default(),
                horizon: raw.horizon,
                born: raw.born,
            });
        }
    }
}

/// A page as it came.
struct RawPage {
    entries: Vec<Value>,
    /// None: nothing is remembered of the topic, and its stream was not asked for its newest entry.
    stand: Option<TopicPosition>,
    horizon: EventId,
    born: EventId,
}

/// Reads entries, and before them what proves their completeness: what was published in between is only more than was
/// promised, and what was taken in between is missed. No transaction, because a Redis whose memory is full refuses those.
async fn raw_page(
    pipe: &Pipe,
    shared: &Shared,
    topic: &Topic,
    after: EventId,
    count: usize,
    with_newest: bool,
) -> Result<RawPage, StoreError> {
    let keys = &shared.keys;
    let stream = keys.topic(topic);
    let mut requests = vec![
        Request::new("HMGET")
            .arg(&keys.last)
            .arg(topic.as_str())
            .arg("$"),
        // After the last ids: one that was forgotten in between lies below this horizon.
        Request::new("HMGET")
            .arg(&keys.meta)
            .args(["born", "horizon", "last"]),
        Request::new("HGET").arg(&keys.lost).arg(topic.as_str()),
    ];
    if with_newest {
        let newest = Request::new("XREVRANGE").arg(&stream);
        requests.push(newest.args(["+", "-", "COUNT", NEWEST]));
    }
    requests.push(
        Request::new("XRANGE")
            .arg(&stream)
            .arg(format!("({after}"))
            .args(["+", "COUNT"])
            .arg(count.saturating_add(1).to_string()),
    );
    // Again: it must be one log of which all of this was read.
    requests.push(Request::new("HGET").arg(&keys.meta).arg("born"));
    let replies = pipe.send(requests).await.await;
    let mut all = replies
        .unwrap_or(Err(CallError::Unknown))
        .map_err(unavailable)?;
    if let Some(text) = all.iter().find_map(|value| match value {
        Value::Error(text) => Some(text.clone()),
        _ => None,
    }) {
        return Err(StoreError::Unavailable(text.into()));
    }
    let (Some(born_after), Some(Value::Array(entries))) = (all.pop(), all.pop()) else {
        return Err(unexpected());
    };
    let mut all = all.into_iter();
    let mut next = || all.next().ok_or_else(unexpected);
    let (last, meta, lost) = (next()?, next()?, next()?);
    let newest = next().ok();
    let field = |values: &Value, at: usize| -> Option<String> {
        values.array()?.get(at)?.text().map(str::to_owned)
    };
    let id = |at: usize| field(&meta, at).and_then(|text| text.parse().ok());
    let born = field(&meta, 0).filter(|born| born_after.text() == Some(born));
    let Some(born) = born.and_then(|born| born.parse().ok()) else {
        // A flushed server proves nothing before a log was born there.
        shared.exchange.join(Vec::new(), false);
        return Err(StoreError::Unavailable("the log is being made anew".into()));
    };
    // Without its mark, the hash of last ids was deleted: any of them may be missing.
    let forgot = field(&last, 1).is_none();
    let horizon = id(if forgot { 2 } else { 1 }).unwrap_or_default();
    let lost = lost.text().map(entry::lost).unwrap_or_default();
    let known = field(&last, 0).and_then(|text| entry::last(&text));
    let stand = match (known, newest) {
        (Some((last, end)), _) => Some(TopicPosition {
            // What is not above the birth is no event of this log.
            last: Some(last).filter(|&last| last > born),
            end,
            lost,
            first: None,
        }),
        (None, Some(newest)) => Some(TopicPosition {
            last: newest
                .array()
                .unwrap_or_default()
                .iter()
                .find_map(|newest| entry::entry(topic, newest).ok())
                .map(|newest| newest.id)
                .filter(|&last| last > born),
            end: None,
            lost,
            first: None,
        }),
        (None, None) => None,
    };
    Ok(RawPage {
        entries,
        stand,
        horizon,
        born,
    })
}
