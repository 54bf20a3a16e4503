//! The query of a request, and what of it says how a stream begins.

use std::{borrow::Cow, time::Duration};

use http::HeaderMap;

use super::problem::{Code, Problem};
use crate::{
    event::{Envelope, Topic, TopicList},
    log::{Cursor, Start},
};

/// The greatest `last=`.
pub const MAX_LAST: usize = 1_000;

/// Names and values, decoded, in order.
#[derive(Clone, Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads a query. `+` is a space, as in forms; names and values are UTF-8 in percent-encoding (RFC 3986, 2.1).
    ///
    /// # Errors
    /// A percent sign without two hexadecimal digits, or bytes that are not UTF-8.
    pub fn parse(query: Option<&'a str>) -> Result<Self, Problem> {
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        pairs.collect::<Result<_, Problem>>().map(Self)
    }

    /// The first value of `name`.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| &**value)
    }

    /// All values of `name`.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| &**value)
    }

    /// The value of an option that takes one of `allowed`.
    fn choice(
        &self,
        name: &str,
        allowed: &[&'static str],
    ) -> Result<Option<&'static str>, Problem> {
        match self.first(name) {
            None => Ok(None),
            Some(value) => match allowed.iter().find(|choice| **choice == value) {
                Some(choice) => Ok(Some(choice)),
                None => Err(Problem::new(
                    Code::QueryInvalid,
                    format!(
                        "{name}={} is not known, allowed: {}",
                        excerpt(value),
                        allowed.join(", ")
                    ),
                )),
            },
        }
    }

    /// The topics of a subscription.
    ///
    /// # Errors
    /// A topic that is none, too many of them, or `topics=`.
    pub fn topics(&self, default: &Topic, limit: usize) -> Result<TopicList, Problem> {
        if self.first("topics").is_some() {
            return Err(Problem::new(
                Code::TopicInvalid,
                "the parameter is named topic: write topic=a&topic=b or topic=a,b instead of topics=",
            ));
        }
        Ok(TopicList::parse(self.all("topic"), default, limit)?)
    }

    /// The options `heartbeat`, `envelope`, `control`, `retry`, of a subscription of `topics`.
    ///
    /// # Errors
    /// A value that is not known.
    pub fn sse_options(&self, topics: usize) -> Result<super::sse::SseOptions, Problem> {
        let envelope = match self.choice("envelope", &["json", "none"])? {
            Some("json") => Envelope::Json,
            _ if topics > 1 => Envelope::Topic,
            _ => Envelope::Plain,
        };
        let heartbeat = self.choice("heartbeat", &["event", "comment"])? == Some("event");
        let quiet = self.choice("control", &["on", "off"])? == Some("off");
        let retry = self.choice("retry", &["field", "data"])? == Some("data");
        Ok(super::sse::SseOptions {
            envelope,
            heartbeat,
            quiet,
            retry,
        })
    }

    /// `limit=`, from 1 to `most`.
    ///
    /// # Errors
    /// Another value.
    pub fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.first("limit") else {
            return Ok(default);
        };
        let limit = text.parse().ok();
        limit
            .filter(|limit| (1..=most).contains(limit))
            .ok_or_else(|| {
                let detail = format!("limit= is a whole number from 1 to {most}");
                Problem::new(Code::QueryInvalid, detail)
            })
    }

    /// `wait=`: how long a poll waits, at most `most`.
    ///
    /// # Errors
    /// What is no duration.
    pub fn wait(&self, default: Duration, most: Duration) -> Result<Duration, Problem> {
        let Some(text) = self.first("wait") else {
            return Ok(default);
        };
        humantime_serde::re::humantime::parse_duration(text)
            .map(|wait| wait.min(most))
            .map_err(|_| {
                let detail = format!("wait={}: a duration like 25s was expected", excerpt(text));
                Problem::new(Code::QueryInvalid, detail)
            })
    }

    /// `refuse=status` or `refuse=stream`.
    ///
    /// # Errors
    /// Another value.
    pub fn refuse(&self) -> Result<Option<&'static str>, Problem> {
        self.choice("refuse", &["status", "stream"])
    }

    /// Where to start: the header `Last-Event-ID`, then `lastEventId`, `since`, `last`; the first that is present wins,
    /// because a browser repeats the old URL when it reconnects.
    ///
    /// # Errors
    /// A value of the query that cannot be read. A header that cannot be read is [`Start::Unreadable`]: no browser could
    /// repair it.
    pub fn start(&self, headers: &HeaderMap) -> Result<(Start, bool), Problem> {
        if let Some(header) = headers
            .get("last-event-id")
            .filter(|header| !header.is_empty())
        {
            let cursor = header
                .to_str()
                .ok()
                .and_then(|text| text.trim().parse().ok());
            return Ok((cursor.map_or(Start::Unreadable, Start::after), true));
        }
        let cursor = ["lastEventId", "last_event_id", "lastEventID"]
            .iter()
            .find_map(|name| self.first(name).filter(|text| !text.is_empty()));
        let start = start_of(cursor, self.first("since"), self.first("last"))?;
        Ok((start, false))
    }
}

/// Where to start; the first that is present wins.
///
/// # Errors
/// A value that cannot be read.
pub fn start_of(
    cursor: Option<&str>,
    since: Option<&str>,
    last: Option<&str>,
) -> Result<Start, Problem> {
    match cursor {
        Some("earliest") => return Ok(Start::Earliest),
        Some(text) => {
            return match text.parse::<Cursor>() {
                Ok(cursor) => Ok(Start::after(cursor)),
                Err(error) => Err(Problem::new(
                    Code::CursorInvalid,
                    format!("lastEventId={}: {error}, or \"earliest\"", excerpt(text)),
                )),
            };
        }
        None => {}
    }
    match (since, last) {
        (Some(text), _) => since_of(text),
        (None, Some(text)) => match text.parse() {
            Ok(count) if count <= MAX_LAST => Ok(Start::Last(count)),
            _ => Err(Problem::new(
                Code::QueryInvalid,
                format!(
                    "last={}: a whole number from 0 to {MAX_LAST} was expected",
                    excerpt(text)
                ),
            )),
        },
        (None, None) => Ok(Start::Now),
    }
}

/// What is quoted of a value that was refused.
fn excerpt(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

fn since_of(text: &str) -> Result<Start, Problem> {
    if let Ok(ms) = text.parse() {
        return Ok(Start::Since(ms));
    }
    // `+` of a time zone arrives as a space.
    if let Some(ms) = rfc3339_ms(&text.replace(' ', "+")) {
        return Ok(Start::Since(ms));
    }
    match humantime_serde::re::humantime::parse_duration(text) {
        Ok(age) => Ok(Start::Age(millis(age))),
        Err(_) => Err(Problem::new(
            Code::SinceInvalid,
            format!(
                "since={}: a time as RFC 3339 (2026-01-31T12:00:00Z), Unix milliseconds, or an age (5m) was expected",
                excerpt(text)
            ),
        )),
    }
}

/// Unix milliseconds of an RFC 3339 time with `Z` or an offset.
fn rfc3339_ms(text: &str) -> Option<u64> {
    let (local, offset_minutes) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let at = text.len().checked_sub(6)?;
            let (local, offset) = (text.get(..at)?, text.get(at..)?);
            let sign = match offset.as_bytes()[0] {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = offset[1..].split_once(':')?;
            let part = |digits: &str, most: i64| {
                digits
                    .bytes()
                    .all(|byte| byte.is_ascii_digit())
                    .then(|| digits.parse::<i64>().ok())
                    .flatten()
                    .filter(|number| *number <= most)
            };
            (local, sign * (part(hours, 23)? * 60 + part(minutes, 59)?))
        }
    };
    let utc =
        humantime_serde::re::humantime::parse_rfc3339(&format!("{}Z", local.replace('t', "T")))
            .ok()?;
    let ms = i64::try_from(utc.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()?;
    u64::try_from(ms - offset_minutes * 60_000).ok()
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// Undoes the percent-encoding of a part of a path, where `+` is only a plus sign.
///
/// # Errors
/// A percent sign without two hexadecimal digits, or bytes that are not UTF-8.
pub fn decode_path(text: &str) -> Result<String, Problem> {
    decode(&text.replace('+', "%2B")).map(Cow::into_owned)
}

fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(b'?'),
                    _ => {
                        return Err(Problem::new(
                            Code::QueryInvalid,
                            "the query has a % that is not followed by two hexadecimal digits",
                        ));
                    }
                }
            }
            byte => byte,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Owned(text)),
        Err(_) => Err(Problem::new(
            Code::Utf8Invalid,
            "the query is not valid UTF-8 once its percent-encoding is undone",
        )),
    }
}

/// The cursor that a request brings, for the frame of a refusal.
pub fn request_cursor(headers: &HeaderMap, query: &Query<'_>) -> Option<Cursor> {
    // One that is there but cannot be read must not be replaced by the older one of the URL.
    if let Some(header) = headers
        .get("last-event-id")
        .filter(|header| !header.is_empty())
    {
        return header.to_str().ok()?.trim().parse().ok();
    }
    let names = ["lastEventId", "last_event_id", "lastEventID"];
    let text = names
        .iter()
        .find_map(|name| query.first(name).filter(|text| !text.is_empty()))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn start(query: &str, header: Option<&str>) -> Result<Start, Code> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(
                "last-event-id",
                HeaderValue::from_str(header).expect("a header"),
            );
        }
        let query = Query::parse(Some(query)).map_err(|problem| problem.code)?;
        query
            .start(&headers)
            .map(|(start, _)| start)
            .map_err(|problem| problem.code)
    }

    fn after(text: &str) -> Start {
        Start::After(text.parse().expect("a cursor"))
    }

    #[test]
    fn the_first_start_that_is_present_wins() {
        assert_eq!(
            start("lastEventId=1-0&last=5", Some("2-0")),
            Ok(after("2-0"))
        );
        assert_eq!(
            start("lastEventId=1-0&since=5m&last=5", Some("")),
            Ok(after("1-0"))
        );
        assert_eq!(start("last_event_id=1-0", None), Ok(after("1-0")));
        assert_eq!(start("lastEventID=earliest", None), Ok(Start::Earliest));
        assert_eq!(start("lastEventId=0-0", None), Ok(Start::Earliest));
        assert_eq!(start("since=5m&last=5", None), Ok(Start::Age(300_000)));
        assert_eq!(start("last=5", None), Ok(Start::Last(5)));
        assert_eq!(start("", None), Ok(Start::Now));
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_the_query_and_told_in_the_stream() {
        assert_eq!(start("", Some("rubbish")), Ok(Start::Unreadable));
        assert_eq!(start("lastEventId=rubbish", None), Err(Code::CursorInvalid));
        assert_eq!(start("lastEventId=%00", None), Err(Code::CursorInvalid));
        assert_eq!(start("since=soon", None), Err(Code::SinceInvalid));
        assert_eq!(start("last=1001", None), Err(Code::QueryInvalid));
        assert_eq!(start("last=-1", None), Err(Code::QueryInvalid));
        assert_eq!(start("last=%", None), Err(Code::QueryInvalid));
        assert_eq!(start("last=%ff", None), Err(Code::Utf8Invalid));
    }

    #[test]
    fn a_time_is_written_in_three_ways() {
        assert_eq!(
            start("since=1970-01-01T00:00:01Z", None),
            Ok(Start::Since(1_000))
        );
        assert_eq!(
            start("since=1970-01-01T01:00:01.5%2B01:00", None),
            Ok(Start::Since(1_500))
        );
        assert_eq!(
            start("since=1970-01-01T01:00:01+01:00", None),
            Ok(Start::Since(1_000))
        );
        assert_eq!(start("since=1500", None), Ok(Start::Since(1_500)));
        assert_eq!(
            start("since=1970-01-01T00:00:01+9x:00", None),
            Err(Code::SinceInvalid)
        );
    }

    #[test]
    fn a_limit_is_a_number_within_bounds() {
        let of = |query| {
            let query = Query::parse(Some(query)).expect("a query");
            query.limit(5, 10).map_err(|problem| problem.code)
        };
        assert_eq!(of(""), Ok(5));
        assert_eq!(of("limit=10"), Ok(10));
        for wrong in ["limit=0", "limit=11", "limit=", "limit=x", "limit=-1"] {
            assert_eq!(of(wrong), Err(Code::QueryInvalid), "{wrong}");
        }
    }
}
