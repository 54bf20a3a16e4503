//! A client that polls, and holds every answer against the form that was promised.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tidegate::event::EventId;
use tokio::time::timeout;

use super::{Connection, Gateway, Published, Request, Response, SILENCE, id, within_time};

/// How long an answer may take that was asked to wait for at most a few seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// A poll that has not been sent yet.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    address: SocketAddr,
    request: Request,
}

impl Poll {
    /// `query` is what stands after `/poll?`.
    pub(crate) fn new(address: SocketAddr, query: &str) -> Self {
        let request = Request::get(&format!("/poll?{query}"));
        Self { address, request }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Shows a token.
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Begins after this cursor, which stands in the header.
    pub(crate) fn after(self, cursor: &str) -> Self {
        self.header("Last-Event-ID", cursor)
    }

    /// What will be sent.
    pub(crate) fn request(&self) -> Request {
        self.request.clone()
    }

    /// Sends it, and does not wait for the answer.
    pub(crate) async fn begin(self) -> WaitingPoll {
        let mut connection = Connection::open(self.address).await;
        connection.send(self.request.bytes(self.address)).await;
        WaitingPoll {
            connection,
            asked: format!("{:?}", self.request),
        }
    }

    /// The answer, whatever it is.
    pub(crate) async fn ask(self) -> Response {
        self.begin().await.response().await
    }

    /// The answer, which is one.
    pub(crate) async fn answer(self) -> Polled {
        self.begin().await.answer().await
    }
}

/// A poll whose answer has not come yet.
pub(crate) struct WaitingPoll {
    connection: Connection,
    asked: String,
}

impl WaitingPoll {
    /// The answer, whatever it is.
    pub(crate) async fn response(&mut self) -> Response {
        let what = format!("the answer to {}", self.asked);
        within_time(ANSWER, what, self.connection.patient_response()).await
    }

    /// The answer, which is one.
    pub(crate) async fn answer(mut self) -> Polled {
        Polled::of(&self.response().await)
    }

    /// No byte comes for a while.
    pub(crate) async fn stays_silent(&mut self) {
        let read = timeout(SILENCE, self.connection.read()).await;
        let came = read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(
            came.is_err(),
            "{}: wanted silence, got {came:?}",
            self.asked
        );
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Polled {
    /// What came.
    pub(crate) events: Vec<Published>,
    /// Where to go on.
    pub(crate) cursor: String,
    /// `none`, `complete` or `gap`.
    pub(crate) replay: String,
    /// Why there is a gap.
    pub(crate) reason: Option<String>,
    /// In which topics there is one.
    pub(crate) topics: Vec<String>,
    /// How much is missing, if that is known.
    pub(crate) missed_at_least: Option<u64>,
    /// Topics that have ended.
    pub(crate) ended: Vec<String>,
}

impl Polled {
    /// Reads an answer, and asserts that it is put together as promised: these members in this order and no others,
    /// the verdict as in the head, events in the order of their ids, and a cursor that is not before them.
    pub(crate) fn of(response: &Response) -> Self {
        assert_eq!(response.status(), 200, "{response:?}");
        assert_eq!(
            response.header("content-type"),
            Some("application/json"),
            "{response:?}"
        );
        assert_eq!(
            response.header("cache-control"),
            Some("no-cache, no-store, no-transform"),
            "{response:?}"
        );
        let polled = Self::parse(&response.body);
        assert_eq!(
            response.header("tidegate-replay"),
            Some(polled.replay.as_str()),
            "{response:?}"
        );
        polled
    }

    /// The same of a body alone.
    fn parse(body: &[u8]) -> Self {
        let shown = String::from_utf8_lossy(body);
        let Members(members) = match serde_json::from_slice(body) {
            Ok(members) => members,
            Err(error) => panic!("no object ({error}): {shown}"),
        };
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        let mut member: BTreeMap<String, Value> = members.iter().cloned().collect();
        let text = |name: &str| match member.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            None => None,
            Some(other) => panic!("{name} is no text but {other}: {shown}"),
        };
        let (cursor, replay, reason) = (text("cursor"), text("replay"), text("reason"));
        let gap = replay.as_deref() == Some("gap");
        let mut wanted = vec!["events", "cursor", "replay"];
        if gap {
            wanted.extend(["reason", "topics"]);
        }
        for optional in ["missed_at_least", "ended"] {
            let may = gap || optional == "ended";
            if may && names.contains(&optional) {
                wanted.push(optional);
            }
        }
        assert_eq!(names, wanted, "{shown}");
        let events = events_of(body);
        assert!(
            events.windows(2).all(|two| two[0].id < two[1].id),
            "in the order of ids: {shown}"
        );
        let polled = Self {
            events,
            cursor: cursor.unwrap(),
            replay: replay.unwrap(),
            reason,
            topics: texts(member.remove("topics")),
            missed_at_least: member
                .remove("missed_at_least")
                .map(|count| count.as_u64().unwrap()),
            ended: texts(member.remove("ended")),
        };
        assert!(
            ["none", "complete", "gap"].contains(&polled.replay.as_str()),
            "{shown}"
        );
        assert!(
            !gap || !polled.topics.is_empty(),
            "a gap is somewhere: {shown}"
        );
        assert!(
            !names.contains(&"ended") || !polled.ended.is_empty(),
            "nothing is said of no topics: {shown}"
        );
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        assert!(polled.cursor.chars().all(plain), "{shown}");
        let last = polled.events.last().map(|event| event.id);
        assert!(
            last.is_none_or(|last| polled.place() >= last),
            "the cursor is at the last event or after it: {shown}"
        );
        polled
    }

    /// The cursor as a place in the log.
    pub(crate) fn place(&self) -> EventId {
        id(&self.cursor)
    }

    /// The data of the events.
    pub(crate) fn data(&self) -> Vec<&str> {
        self.events
            .iter()
            .map(|event| event.data.as_str())
            .collect()
    }

    /// Asserts that nothing was lost.
    pub(crate) fn is_complete(&self) -> &Self {
        assert_eq!(self.replay, "complete", "{self:?}");
        self
    }

    /// Asserts that there is a gap.
    pub(crate) fn is_gap(&self, reason: &str, topics: &[&str]) -> &Self {
        assert_eq!(self.replay, "gap", "{self:?}");
        assert_eq!(self.reason.as_deref(), Some(reason), "{self:?}");
        assert_eq!(self.topics, topics, "{self:?}");
        self
    }
}

fn texts(list: Option<Value>) -> Vec<String> {
    list.map(|list| serde_json::from_value(list).unwrap())
        .unwrap_or_default()
}

/// The events, each of which has four members in this order, all of them text.
fn events_of(body: &[u8]) -> Vec<Published> {
    #[derive(serde::Deserialize)]
    struct Body {
        events: Vec<Members>,
    }
    let body: Body = serde_json::from_slice(body).unwrap();
    let event = |Members(members): Members| {
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "topic", "event", "data"], "{members:?}");
        let text = |at: usize| match &members[at].1 {
            Value::String(text) => text.clone(),
            other => panic!("{} is no text but {other}", members[at].0),
        };
        Published {
            id: id(&text(0)),
            topic: Some(text(1)),
            kind: Some(text(2)),
            data: text(3),
        }
    };
    body.events.into_iter().map(event).collect()
}

/// The members of an object in the order in which they came.
#[derive(Debug)]
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Somebody who polls again and again, each time from where the last answer ended.
#[derive(Clone, Debug)]
pub(crate) struct Poller {
    address: SocketAddr,
    topics: String,
    /// Where to go on.
    pub(crate) cursor: String,
    /// What has come and was not taken.
    waiting: std::collections::VecDeque<Published>,
}

impl Poller {
    /// From now.
    pub(crate) async fn begin(address: SocketAddr, topics: &str) -> Self {
        let first = Poll::new(address, &format!("topic={topics}&wait=0s"));
        let first = first.answer().await;
        assert_eq!(first.replay, "none", "{first:?}");
        assert!(first.events.is_empty(), "from now: {first:?}");
        Self::from(address, topics, first.cursor)
    }

    /// From a cursor.
    pub(crate) fn from(address: SocketAddr, topics: &str, cursor: impl fmt::Display) -> Self {
        Self {
            address,
            topics: topics.to_owned(),
            cursor: cursor.to_string(),
            waiting: std::collections::VecDeque::new(),
        }
    }

    /// Goes on elsewhere.
    pub(crate) fn at(&mut self, address: SocketAddr) -> &mut Self {
        self.address = address;
        self
    }

    /// The next poll, with more in its query.
    pub(crate) fn poll(&self, query: &str) -> Poll {
        let query = format!("topic={}&lastEventId={}&{query}", self.topics, self.cursor);
        Poll::new(self.address, &query)
    }

    /// Polls once, and goes on from there.
    pub(crate) async fn once(&mut self, query: &str) -> Polled {
        let polled = self.poll(query).answer().await;
        assert!(
            polled.place() >= id(&self.cursor) || polled.replay == "gap",
            "a cursor does not lead back: {polled:?}"
        );
        self.cursor.clone_from(&polled.cursor);
        polled
    }

    /// The next event, for which all that was to come is complete.
    pub(crate) async fn next(&mut self) -> Published {
        while self.waiting.is_empty() {
            let polled = self.once("wait=5s").await;
            polled.is_complete();
            assert!(
                !polled.events.is_empty(),
                "waited 5 s for an event: {polled:?}"
            );
            self.waiting.extend(polled.events);
        }
        self.waiting.pop_front().unwrap()
    }

    /// The data of the next events.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<String> {
        let mut data = Vec::with_capacity(count);
        for _ in 0..count {
            data.push(self.next().await.data);
        }
        data
    }

    /// Nothing more comes for a while.
    pub(crate) async fn stays_silent(&mut self) {
        assert!(self.waiting.is_empty(), "{:?}", self.waiting);
        let polled = self.once("wait=300ms").await;
        polled.is_complete();
        assert!(polled.events.is_empty(), "wanted silence: {polled:?}");
    }
}

impl Gateway {
    /// A poll that has not been sent yet; `query` is what stands after `/poll?`.
    pub(crate) fn poll(&self, query: &str) -> Poll {
        Poll::new(self.public, query)
    }

    /// Somebody who polls from now.
    pub(crate) async fn poller(&self, topics: &str) -> Poller {
        Poller::begin(self.public, topics).await
    }
}
