//! The one door to a stream, whatever it is written as: what is asked for, whether it may be had, and whether there is room.

use std::{num::NonZeroUsize, sync::Arc};

use http::HeaderMap;

use super::{
    Caller,
    access::allowed,
    app::{App, Mode},
    presence,
    problem::{Code, Problem, Quota},
    query::Query,
    stream::EventStream,
    streams::{CallerLimit, Full, Place, StreamRequest, Transport},
};
use crate::{
    auth::Auth,
    config::{Right, Size},
    event::{Topic, TopicList},
    hub::{Opening, Subscriber},
    layers::rate::Key,
    log::Start,
};

/// What a request asks for.
pub(super) struct Asked {
    topics: TopicList,
    /// Where to start.
    pub(super) start: Start,
    /// Whether the header `Last-Event-ID` said so.
    pub(super) from_header: bool,
}

/// A subscription that has begun, and what it will be told first.
pub(super) struct Opened {
    subscriber: Subscriber,
    pub(super) opening: Opening,
    /// None: only a look at it.
    place: Option<(Place, Transport)>,
    auth: Arc<Auth>,
}

impl Asked {
    /// Reads the query, as far as all encodings share it.
    pub(super) fn read(app: &App, headers: &HeaderMap, query: &Query<'_>) -> Result<Self, Problem> {
        let config = app.config();
        let topics = query.topics(
            &config.stream.default_topic,
            config.limits.topics_per_connection,
        )?;
        query.refuse()?;
        presence::followable(&config, topics.as_slice())?;
        let (start, from_header) = query.start(headers)?;
        Ok(Self {
            topics,
            start,
            from_header,
        })
    }

    /// What is to be followed.
    pub(super) fn topics(&self) -> &[Topic] {
        self.topics.as_slice()
    }

    /// Begins the subscription. Without a transport it takes no place, and can only be looked at.
    pub(super) async fn open(
        &self,
        app: &Arc<App>,
        caller: &Caller,
        transport: Option<Transport>,
    ) -> Result<Opened, Problem> {
        let auth = app.auth();
        allowed(&auth, &caller.identity, Right::Subscribe, self.topics())?;
        if app.mode() == Mode::Draining {
            return Err(Problem::new(
                Code::Draining,
                "this replica is shutting down, another one will serve you",
            ));
        }
        if !app.hub.ready() {
            return Err(Problem::new(
                Code::StoreUnavailable,
                "the event store has not answered yet",
            ));
        }
        let place = match transport {
            Some(transport) => Some((place(app, caller)?, transport)),
            None => None,
        };
        let (subscriber, opening) = app.hub.subscribe(self.topics(), self.start).await?;
        Ok(Opened {
            subscriber,
            opening,
            place,
            auth,
        })
    }
}

impl Opened {
    /// The stream, if it has a place.
    pub(super) fn stream(self, app: &Arc<App>, caller: &Caller) -> Option<EventStream> {
        let (place, transport) = self.place?;
        let scope = place.begin(
            StreamRequest {
                peer: caller.peer,
                address: caller.address,
                request_id: caller.request_id.clone(),
                transport,
            },
            // Those of the hub, which all streams of a topic share.
            self.subscriber.topics().cloned().collect(),
            caller.identity.clone(),
            caller.kill.clone(),
        );
        // A reload may have taken a right back meanwhile.
        if !Arc::ptr_eq(&self.auth, &app.auth()) {
            app.judge(scope.handle());
        }
        Some(EventStream::new(
            app.clone(),
            self.subscriber,
            self.opening,
            scope,
        ))
    }
}

/// A place for one stream more, within all limits.
fn place(app: &Arc<App>, caller: &Caller) -> Result<Place, Problem> {
    let config = app.config();
    let limits = &config.limits;
    if let Some(limit) = limits.memory.map(Size::bytes)
        && app.resident_bytes() >= limit
    {
        let detail =
            format!("this replica uses the {limit} bytes of memory that it may (limits.memory)");
        return Err(Problem::new(Code::MemoryLimit, detail));
    }
    // Without a subject nobody knows whether two tokens are one person's.
    let identity = &caller.identity;
    let subject = identity.subject().and(limits.connections_per_subject);
    let address = (!config.development()).then(|| CallerLimit {
        key: Key::address(caller.address),
        limit: limits.connections_per_address,
    });
    let subject = subject.map(|limit| CallerLimit {
        key: app.rates.subject(identity.caller()),
        limit: limit.get(),
    });
    app.streams
        .reserve(limits.connections, [address, subject])
        .map_err(|full| {
            let (code, limit, detail) = match full {
                Full::Replica => {
                    let limit = limits.connections;
                    let detail =
                        format!("this replica has {limit} open streams, which is its limit");
                    return Problem::new(Code::ConnectionLimit, detail);
                }
                Full::Subject => (
                    Code::SubjectLimit,
                    limits.connections_per_subject.map_or(0, NonZeroUsize::get),
                    "your token's subject",
                ),
                Full::Address => (
                    Code::AddressLimit,
                    limits.connections_per_address,
                    "your address",
                ),
            };
            let detail = format!("{detail} has {limit} open streams, which is the limit");
            let problem = Problem::new(code, detail);
            let reset = problem.retry_after.unwrap_or(1);
            Problem {
                quota: Some(Box::new(Quota {
                    limit: u32::try_from(limit).unwrap_or(u32::MAX),
                    remaining: 0,
                    reset,
                })),
                ..problem
            }
        })
}
