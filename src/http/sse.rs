//! A stream as server-sent events (HTML, 9.2): the encoding of `GET /events`.
//!
//! One [`SseStream`] has two kinds of writers: [`super::writer`], which owns the socket, and the body of a response, where
//! an HTTP library does.

use std::{
    fmt::Write as _,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::stream::{Control, EventStream, GapData, Next, OpenData, json};
use crate::event::{ControlFrame, Envelope, EventId, Frame, Topic};

/// How the client wants its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SseOptions {
    /// How events are written.
    pub envelope: Envelope,
    /// `heartbeat=event`: `$heartbeat` instead of a comment.
    pub heartbeat: bool,
    /// `control=off`: no `$` event at all.
    pub quiet: bool,
    /// `retry=data`: what the field `retry` says stands in the data as well, since no script can read the field.
    pub retry: bool,
}

/// A stream and how it is written.
pub struct SseStream {
    /// The stream beneath, which counts what is written.
    pub(super) stream: EventStream,
    options: SseOptions,
}

impl SseStream {
    /// Writes `stream` as `options` say.
    pub fn new(stream: EventStream, options: SseOptions) -> Self {
        Self { stream, options }
    }

    /// How events are written.
    pub fn envelope(&self) -> Envelope {
        self.options.envelope
    }

    /// What comes next; events are put into `frames`, which is empty. What the gateway says comes as bytes.
    pub fn poll_next(
        &mut self,
        cx: &Context<'_>,
        frames: &mut Vec<Arc<Frame>>,
    ) -> Poll<Next<Vec<u8>>> {
        loop {
            let next = match ready!(self.stream.poll_next(cx, frames)) {
                Next::Control(control) => {
                    let bytes = self.encode(&control);
                    if bytes.is_empty() {
                        // Nothing that this client wants to hear.
                        continue;
                    }
                    Next::Control(bytes)
                }
                Next::Events => Next::Events,
                Next::Reached => Next::Reached,
                Next::End => Next::End,
            };
            return Poll::Ready(next);
        }
    }

    /// The next piece for a body that an HTTP library writes.
    pub fn poll_bytes(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        self.stream.polled();
        let mut frames = Vec::new();
        let piece = match ready!(self.poll_next(cx, &mut frames)) {
            Next::End | Next::Reached => return Poll::Ready(None),
            Next::Control(control) => {
                let bytes = Bytes::from(control);
                self.stream.wrote(&[], bytes.len());
                bytes
            }
            Next::Events => {
                let bytes = match &*frames {
                    [frame] => frame.sse(self.options.envelope),
                    frames => {
                        let mut bytes = BytesMut::with_capacity(
                            frames.iter().map(|frame| frame.wire_bytes()).sum(),
                        );
                        for frame in frames {
                            bytes.extend_from_slice(&frame.sse(self.options.envelope));
                        }
                        bytes.freeze()
                    }
                };
                self.stream.wrote(&frames, bytes.len());
                bytes
            }
        };
        self.stream.handed_over();
        Poll::Ready(Some(piece))
    }

    /// What the gateway says as a frame; empty where this client does not want to hear it.
    fn encode(&mut self, control: &Control) -> Vec<u8> {
        let quiet = self.options.quiet;
        let retry_ms = self.stream.app().retry_ms();
        match control {
            Control::Open(opening) => {
                let connection = self.stream.scope().connection();
                let open = OpenData::new(&connection, opening, self.stream.subscriber());
                let data = self.with_retry(json(&open), retry_ms);
                self.frame(Some(retry_ms), Some(opening.cursor), "$open", &data)
            }
            Control::Gap(gap) => self.frame(None, None, "$gap", &json(&GapData::new(gap))),
            Control::Live(cursor) => self.frame(None, Some(*cursor), "$live", "{}"),
            Control::End { topic, id, moves } => {
                #[derive(Serialize)]
                struct End<'a> {
                    topic: &'a Topic,
                }
                self.frame(None, moves.then_some(*id), "$end", &json(&End { topic }))
            }
            Control::Cursor(cursor) => self.frame(None, Some(*cursor), "$cursor", ""),
            Control::Drain(cursor) => {
                let data = self.with_retry("{}".into(), retry_ms);
                self.frame(Some(retry_ms), Some(*cursor), "$drain", &data)
            }
            Control::AuthExpiring(data) => self.frame(None, None, "$auth_expiring", data),
            Control::Silence(moved) => {
                let mut bytes = moved.map_or_else(Vec::new, |cursor| {
                    self.frame(None, Some(cursor), "$cursor", "")
                });
                if self.options.heartbeat && !quiet {
                    bytes.extend(self.frame(None, None, "$heartbeat", ""));
                } else if bytes.is_empty() {
                    bytes.extend_from_slice(b": keepalive\n\n");
                }
                bytes
            }
        }
    }

    fn with_retry(&self, data: String, retry_ms: u64) -> String {
        if self.options.retry {
            with_retry(data, retry_ms)
        } else {
            data
        }
    }

    /// A frame; with `control=off` only what moves the cursor.
    fn frame(
        &self,
        retry_ms: Option<u64>,
        id: Option<EventId>,
        event: &str,
        data: &str,
    ) -> Vec<u8> {
        if !self.options.quiet {
            return ControlFrame {
                retry_ms,
                id,
                event: Some(event),
                data: Some(data),
            }
            .encode();
        }
        if id.is_none() {
            return Vec::new();
        }
        ControlFrame {
            retry_ms,
            id,
            ..ControlFrame::default()
        }
        .encode()
    }
}

/// An object with one member more.
pub(super) fn with_retry(mut object: String, retry_ms: u64) -> String {
    object.truncate(object.len() - 1);
    let comma = if object.len() > 1 { "," } else { "" };
    let _ = write!(object, "{comma}\"retry\":{retry_ms}}}");
    object
}
