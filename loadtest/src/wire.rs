//! How a subscriber asks, and how its answer is unpacked: HTTP/1.1, HTTP/2 or WebSocket.

use crate::h2::{self, H2};
use crate::http1::Http1;
use crate::ws::{self, Ws};

/// The protocol that a subscriber speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// HTTP/2 without TLS: the gateway's generic path.
    H2c,
    WebSocket,
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Now,
    Earliest,
    After(crate::stream::EventId),
}

/// Why an answer could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireError {
    Head,
    Chunk,
    AfterTheEnd,
    Frame,
}

/// One answer being read.
pub(crate) enum Wire {
    Http1(Http1),
    H2c(Box<H2>),
    WebSocket(Box<Ws>),
}

impl Wire {
    pub(crate) fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1(Http1::default()),
            Protocol::H2c => Self::H2c(Box::default()),
            Protocol::WebSocket => Self::WebSocket(Box::default()),
        }
    }

    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Http1(answer) => answer.status(),
            Self::H2c(answer) => answer.status(),
            Self::WebSocket(answer) => answer.status(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Http1(answer) => answer.is_done(),
            Self::H2c(answer) => answer.is_done(),
            Self::WebSocket(answer) => answer.is_done(),
        }
    }

    /// Reads the next piece: the body goes to `body`, each message of a WebSocket at once; what must be answered to `replies`.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        replies: &mut Vec<u8>,
        body: &mut impl FnMut(&[u8]),
    ) -> Result<(), WireError> {
        match self {
            Self::Http1(answer) => answer.feed(bytes, body),
            Self::H2c(answer) => answer.feed(bytes, replies, body),
            Self::WebSocket(answer) => answer.feed(bytes, replies, body),
        }
    }
}

/// The bytes of a request for the stream of `topic`.
pub(crate) fn subscribe(protocol: Protocol, topic: &str, start: Start) -> Vec<u8> {
    let (query, cursor) = match start {
        Start::Now => ("", None),
        Start::Earliest => ("&lastEventId=earliest", None),
        Start::After(id) => ("", Some(id.to_string())),
    };
    let path = format!("/events?topic={topic}{query}");
    match protocol {
        Protocol::WebSocket => ws::handshake(topic, start),
        Protocol::Http1 => {
            let cursor = cursor.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{cursor}\r\n").into_bytes()
        }
        Protocol::H2c => {
            let mut headers = vec![("accept", "text/event-stream")];
            if let Some(id) = &cursor {
                headers.push(("last-event-id", id));
            }
            h2::request(&path, "localhost", &headers)
        }
    }
}
