//! What operators ask of the log: its topics, and where an event is.
//!
//! There may be millions of topics, so names are taken step by step by `HSCAN` and `ZSCAN`, which no other client of the
//! server notices, and only as many of them are held as one page needs. How much is kept of a topic is a function: only
//! figures travel, not the data of the events.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Shared, ask,
    calls::Function,
    entry,
    pipe::{CallError, Pipe},
    resp::{Request, Value},
    unavailable, unexpected,
};
use crate::{
    event::{Event, EventId, Topic},
    store::{Listing, StoreError, TopicPage, TopicSummary},
};

/// About how many names one step brings.
const STEP: &str = "1000";
/// Topics of one call of the function: about two milliseconds of the server.
const SUMMARIES: usize = 100;

/// What is known of one topic.
pub(super) async fn summary(
    pipe: &Pipe,
    shared: &Shared,
    topic: &Topic,
) -> Result<Option<TopicSummary>, StoreError> {
    let mut found = summaries(pipe, shared, std::slice::from_ref(topic)).await?;
    Ok(found.pop().filter(TopicSummary::is_known))
}

/// A page of topics.
pub(super) async fn topics(
    pipe: &Pipe,
    shared: &Shared,
    listing: &Listing,
) -> Result<TopicPage, StoreError> {
    let mut page = TopicPage::default();
    let mut from = listing.clone();
    loop {
        let (names, more) = names(pipe, shared, &from).await?;
        page.more = more;
        for topics in names.chunks(SUMMARIES) {
            let found = summaries(pipe, shared, topics).await?;
            page.topics
                .extend(found.into_iter().filter(TopicSummary::is_known));
        }
        // A name of which nothing is known any more leaves room for another one.
        from.limit = listing.limit - page.topics.len();
        match names.last() {
            Some(last) if more && from.limit > 0 => last.as_str().clone_into(&mut from.after),
            _ => return Ok(page),
        }
    }
}

/// The first names of a listing, in order, and whether there are more.
async fn names(
    pipe: &Pipe,
    shared: &Shared,
    listing: &Listing,
) -> Result<(Vec<Topic>, bool), StoreError> {
    let keys = &shared.keys;
    let counts = send(
        pipe,
        vec![
            Request::new("HGET").arg(&keys.meta).arg("born"),
            Request::new("HLEN").arg(&keys.last),
            Request::new("ZCARD").arg(&keys.heads),
        ],
    )
    .await?;
    let [born, lasts, heads] = &*counts else {
        return Err(unexpected());
    };
    let Some(born) = born.text().and_then(|born| born.parse().ok()) else {
        return Err(StoreError::Unavailable("the log is being made anew".into()));
    };
    let mut first = First {
        listing,
        names: BTreeSet::new(),
    };
    let pattern = (!listing.prefix.is_empty()).then(|| format!("{}*", literal(&listing.prefix)));
    scan(
        pipe,
        "HSCAN",
        &keys.last,
        pattern.as_deref(),
        |name, value| {
            // What is not above the birth belongs to a log that is gone.
            let of_this_log = value
                .text()
                .and_then(entry::last)
                .is_some_and(|(last, end)| end.max(Some(last)) > Some(born));
            if of_this_log {
                first.offer(name);
            }
        },
    )
    .await?;
    // One field of the hash is a mark. Where somebody deleted it, its topics may still be known by their streams.
    if heads.number() >= lasts.number() {
        scan(pipe, "ZSCAN", &keys.heads, pattern.as_deref(), |name, _| {
            first.offer(name);
        })
        .await?;
    }
    let more = first.names.len() > listing.limit;
    Ok((first.names.into_iter().take(listing.limit).collect(), more))
}

/// The first names of those that come, in order, and one more.
struct First<'a> {
    listing: &'a Listing,
    names: BTreeSet<Topic>,
}

impl First<'_> {
    fn offer(&mut self, name: &str) {
        let full = self.names.len() > self.listing.limit;
        let late = full && self.names.last().is_some_and(|last| last.as_str() <= name);
        if late || !self.listing.wants(name) {
            return;
        }
        // What is no topic, as the mark of the hash, is none of ours.
        if let Ok(topic) = Topic::followed(name) {
            self.names.insert(topic);
            if self.names.len() > self.listing.limit + 1 {
                self.names.pop_last();
            }
        }
    }
}

/// Hands every pair of a hash or sorted set to `each`; one that is changed meanwhile may come twice.
async fn scan(
    pipe: &Pipe,
    command: &str,
    key: &str,
    pattern: Option<&str>,
    mut each: impl FnMut(&str, &Value),
) -> Result<(), StoreError> {
    let mut cursor = String::from("0");
    loop {
        let (next, pairs) = step(pipe, command, key, pattern, &cursor).await?;
        for pair in pairs.chunks_exact(2) {
            if let Some(name) = pair[0].text() {
                each(name, &pair[1]);
            }
        }
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// One step of a scan: where the next one begins, and names and values in turn.
async fn step(
    pipe: &Pipe,
    command: &str,
    key: &str,
    pattern: Option<&str>,
    cursor: &str,
) -> Result<(String, Vec<Value>), StoreError> {
    let mut request = Request::new(command)
        .arg(key)
        .arg(cursor)
        .args(["COUNT", STEP]);
    if let Some(pattern) = pattern {
        request = request.args(["MATCH", pattern]);
    }
    let Value::Array(reply) = ask(pipe, request).await? else {
        return Err(unexpected());
    };
    let mut reply = reply.into_iter();
    match (reply.next(), reply.next()) {
        (Some(next), Some(Value::Array(pairs))) => {
            let next = next.text().ok_or_else(unexpected)?.to_owned();
            Ok((next, pairs))
        }
        _ => Err(unexpected()),
    }
}

/// A text as a pattern of Redis that only matches itself.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// How much is kept of these topics, in the same order.
async fn summaries(
    pipe: &Pipe,
    shared: &Shared,
    topics: &[Topic],
) -> Result<Vec<TopicSummary>, StoreError> {
    let keys = &shared.keys;
    let streams: Vec<String> = topics.iter().map(|topic| keys.topic(topic)).collect();
    let mut names = vec![&*keys.meta, &*keys.last];
    names.extend(streams.iter().map(String::as_str));
    let request = Request::call(Function::SUMMARIES, &names).args(topics.iter().map(Topic::as_str));
    let reply = ask(pipe, request).await?;
    let values = reply.array().ok_or_else(unexpected)?;
    if values.len() != 5 * topics.len() {
        return Err(unexpected());
    }
    let summary = |(topic, values): (&Topic, &[Value])| {
        let [last, end, events, bytes, first] = values else {
            return None;
        };
        let id = |value: &Value| value.text()?.parse::<EventId>().ok();
        let number = |value: &Value| u64::try_from(value.number()?).ok();
        Some(TopicSummary {
            topic: topic.clone(),
            events: number(events)?,
            bytes: number(bytes)?,
            first: id(first),
            last: id(last),
            end: id(end),
        })
    };
    let found = topics.iter().zip(values.chunks_exact(5)).map(summary);
    found.collect::<Option<_>>().ok_or_else(unexpected)
}

/// The entry with this id, of `topic` or of any that had an entry since.
pub(super) async fn find(
    pipe: &Pipe,
    shared: &Shared,
    id: EventId,
    topic: Option<&Topic>,
) -> Result<Option<Arc<Event>>, StoreError> {
    if let Some(topic) = topic {
        return find_in(pipe, shared, id, vec![topic.clone()]).await;
    }
    let mut cursor = String::from("0");
    loop {
        let (next, pairs) = step(pipe, "ZSCAN", &shared.keys.heads, None, &cursor).await?;
        // Its newest entry cannot be older. Scores are whole numbers, which a double holds exactly for some time to come.
        let recent = |pair: &[Value]| {
            let head: f64 = pair[1].text()?.parse().ok()?;
            #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nothing is found")]
            let wanted = id.ms() as f64;
            Topic::followed(pair[0].text().filter(|_| head >= wanted)?).ok()
        };
        let topics: Vec<Topic> = pairs.chunks_exact(2).filter_map(recent).collect();
        if !topics.is_empty() {
            let found = find_in(pipe, shared, id, topics).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        if next == "0" {
            return Ok(None);
        }
        cursor = next;
    }
}

async fn find_in(
    pipe: &Pipe,
    shared: &Shared,
    id: EventId,
    topics: Vec<Topic>,
) -> Result<Option<Arc<Event>>, StoreError> {
    let text = id.to_string();
    let range = |topic: &Topic| {
        Request::new("XRANGE")
            .arg(shared.keys.topic(topic))
            .arg(&text)
            .arg(&text)
    };
    let replies = pipe.send(topics.iter().map(range).collect()).await.await;
    let replies = replies
        .unwrap_or(Err(CallError::Unknown))
        .map_err(unavailable)?;
    // A key that is no stream is an error of its own, and no reason to stop looking.
    let found = topics.iter().zip(&replies).find_map(|(topic, reply)| {
        let entry = reply.array()?.first()?;
        entry::entry(topic, entry).ok()
    });
    Ok(found.map(Arc::new))
}

/// Sends requests that stay together, none of which may be refused.
async fn send(pipe: &Pipe, requests: Vec<Request>) -> Result<Vec<Value>, StoreError> {
    let replies = pipe.send(requests).await.await;
    let replies = replies
        .unwrap_or(Err(CallError::Unknown))
        .map_err(unavailable)?;
    match replies.iter().find_map(|value| match value {
        Value::Error(text) => Some(text.clone()),
        _ => None,
    }) {
        Some(text) => Err(StoreError::Unavailable(text.into())),
        None => Ok(replies),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_names_are_held() {
        let listing = Listing {
            prefix: "b".into(),
            after: "b1".into(),
            limit: 2,
        };
        let mut first = First {
            listing: &listing,
            names: BTreeSet::new(),
        };
        for name in ["b9", "a", "$", "b1", "b3", "b2", "b2", "b4", "c", "b 5"] {
            first.offer(name);
        }
        let names: Vec<_> = first.names.iter().map(Topic::as_str).collect();
        assert_eq!(names, ["b2", "b3", "b4"]);
    }

    #[test]
    fn a_prefix_matches_only_itself() {
        assert_eq!(literal("a?b[c]\\d/e.f"), "a\\?b\\[c\\]\\\\d/e.f");
    }
}
