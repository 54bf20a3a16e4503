//! An event as bytes on the wire: encoded once, shared by every connection.
//!
//! A frame is kept as `[HTTP chunk head][SSE bytes][CRLF]`: a writer that owns its socket sends it as it is, frames
//! concatenate, and a writer that sits on an HTTP library takes the middle. A form is encoded when it is first asked for.
//!
//! # Invariants
//! 1. No payload can forge a field: `\r\n`, `\n` and `\r` each end a line, and each line gets its own `data:`.
//! 2. A frame that shall move a browser's cursor has `id` and `data`; all others have no `id`.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Event, EventId};

/// How events of a subscription are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Envelope {
    /// `data` is the event's data.
    #[default]
    Plain,
    /// As `Plain`, with a `topic:` line: subscriptions of more than one topic.
    Topic,
    /// `data` is `{"id","topic","event","data"}`.
    Json,
}

/// An event with its forms on the wire.
#[derive(Debug)]
pub struct Frame {
    event: Arc<Event>,
    arrived_us: u64,
    wire_bytes: usize,
    plain: OnceLock<Chunk>,
    topic: OnceLock<Chunk>,
    json: OnceLock<Chunk>,
    message: OnceLock<Bytes>,
}

/// SSE bytes with an HTTP/1.1 chunk around them.
#[derive(Clone, Debug)]
struct Chunk {
    bytes: Bytes,
    head: usize,
}

impl Frame {
    /// A frame of `event`; nothing is encoded yet. `arrived_us` is a stamp of whoever measures latencies.
    pub fn new(event: Arc<Event>, arrived_us: u64) -> Self {
        let wire_bytes = event.wire_bytes();
        Self {
            event,
            arrived_us,
            wire_bytes,
            plain: OnceLock::new(),
            topic: OnceLock::new(),
            json: OnceLock::new(),
            message: OnceLock::new(),
        }
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The stamp that it was made with.
    pub fn arrived_us(&self) -> u64 {
        self.arrived_us
    }

    /// Its id.
    pub fn id(&self) -> EventId {
        self.event.id
    }

    /// The id of the event before it in the same topic.
    pub fn previous(&self) -> EventId {
        self.event.previous
    }

    /// Bytes on the wire in the plain form, without the chunk around them.
    pub fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    /// The frame as one HTTP/1.1 chunk.
    pub fn chunk(&self, envelope: Envelope) -> &Bytes {
        &self.form(envelope).bytes
    }

    /// The frame as SSE bytes.
    pub fn sse(&self, envelope: Envelope) -> Bytes {
        let chunk = self.form(envelope);
        chunk.bytes.slice(chunk.head..chunk.bytes.len() - 2)
    }

    /// The frame as a WebSocket message: JSON text. `cursor`, its last member, can be left out.
    pub fn message(&self, with_cursor: bool) -> Bytes {
        let message = self.message.get_or_init(|| encode_message(&self.event));
        if with_cursor {
            return message.clone();
        }
        let cursor = ",\"cursor\":\"\"}".len() + self.event.id.text_len();
        let mut short = message[..message.len() - cursor].to_vec();
        short.push(b'}');
        short.into()
    }

    fn form(&self, envelope: Envelope) -> &Chunk {
        match envelope {
            Envelope::Plain => self.plain.get_or_init(|| encode(&self.event, false)),
            Envelope::Topic => self.topic.get_or_init(|| encode(&self.event, true)),
            Envelope::Json => self.json.get_or_init(|| encode_json(&self.event)),
        }
    }
}

/// Length of the SSE bytes of an event.
pub(super) fn sse_len(event: &Event, with_topic: bool) -> usize {
    let mut len = "id: \n".len() + event.id.text_len() + 1;
    if !event.kind.is_message() {
        len += "event: \n".len() + event.kind.as_str().len();
    }
    if with_topic {
        len += "topic: \n".len() + event.topic.as_str().len();
    }
    for_each_line(&event.data, |line| len += data_line_len(line));
    len
}

fn data_line_len(line: &[u8]) -> usize {
    "data:\n".len() + line.len() + usize::from(!line.is_empty())
}

fn encode(event: &Event, with_topic: bool) -> Chunk {
    in_chunk(sse_len(event, with_topic), |out| {
        out.extend_from_slice(b"id: ");
        event.id.write_to(out);
        if !event.kind.is_message() {
            out.extend_from_slice(b"\nevent: ");
            out.extend_from_slice(event.kind.as_str().as_bytes());
        }
        if with_topic {
            out.extend_from_slice(b"\ntopic: ");
            out.extend_from_slice(event.topic.as_str().as_bytes());
        }
        out.push(b'\n');
        write_data(&event.data, out);
        out.push(b'\n');
    })
}

fn encode_json(event: &Event) -> Chunk {
    #[derive(serde::Serialize)]
    struct Json<'a> {
        id: EventId,
        topic: &'a str,
        event: &'a str,
        data: &'a str,
    }
    let json = Json {
        id: event.id,
        topic: event.topic.as_str(),
        event: event.kind.as_str(),
        data: &event.data,
    };
    let json = serde_json::to_string(&json).expect("text with text keys is JSON");
    let kind = if event.kind.is_message() {
        None
    } else {
        Some(event.kind.as_str())
    };
    let sse = ControlFrame {
        retry_ms: None,
        id: Some(event.id),
        event: kind,
        data: Some(&json),
    }
    .encode();
    in_chunk(sse.len(), |out| out.extend_from_slice(&sse))
}

fn encode_message(event: &Event) -> Bytes {
    #[derive(serde::Serialize)]
    struct Message<'a> {
        r#type: &'static str,
        id: EventId,
        topic: &'a str,
        event: &'a str,
        data: &'a str,
        cursor: EventId,
    }
    let message = Message {
        r#type: "event",
        id: event.id,
        topic: event.topic.as_str(),
        event: event.kind.as_str(),
        data: &event.data,
        cursor: event.id,
    };
    let json = serde_json::to_vec(&message).expect("text with text keys is JSON");
    json.into()
}

/// Puts `len` bytes, which `fill` writes, into an HTTP/1.1 chunk.
fn in_chunk(len: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Chunk {
    let mut bytes = Vec::with_capacity(CHUNK_OVERHEAD + len);
    write_chunk_head(len, &mut bytes);
    let head = bytes.len();
    fill(&mut bytes);
    debug_assert_eq!(
        bytes.len(),
        head + len,
        "a chunk is as long as its head says"
    );
    bytes.extend_from_slice(b"\r\n");
    Chunk {
        bytes: bytes.into(),
        head,
    }
}

/// More than the head and the tail of a chunk take.
const CHUNK_OVERHEAD: usize = 12;

/// Writes the head of a chunk of `len` bytes (RFC 9112, 7.1).
fn write_chunk_head(len: usize, out: &mut Vec<u8>) {
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789ABCDEF"[(len >> (4 * digit)) & 0xF]);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_data(data: &str, out: &mut Vec<u8>) {
    for_each_line(data, |line| {
        out.extend_from_slice(if line.is_empty() { b"data:" } else { b"data: " });
        out.extend_from_slice(line);
        out.push(b'\n');
    });
}

/// Calls `each` for every line of `data`. There is always one more line than line ends, so that trailing and blank
/// lines survive; U+2028 and friends are no line ends (HTML, 9.2.5).
fn for_each_line<'a>(data: &'a str, mut each: impl FnMut(&'a [u8])) {
    let bytes = data.as_bytes();
    let mut start = 0;
    for end in memchr::memchr2_iter(b'\n', b'\r', bytes) {
        // The second half of a CRLF: its line has been taken at the CR.
        if bytes[end] == b'\n' && end == start && end > 0 && bytes[end - 1] == b'\r' {
            start = end + 1;
            continue;
        }
        each(&bytes[start..end]);
        start = end + 1;
    }
    each(&bytes[start..]);
}

/// A frame of the gateway's own, for one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlFrame<'a> {
    /// How long the browser waits before it comes back.
    pub retry_ms: Option<u64>,
    /// The cursor, where the frame shall move it.
    pub id: Option<EventId>,
    /// The type, with its leading `$`.
    pub event: Option<&'a str>,
    /// The data; without it a browser dispatches nothing.
    pub data: Option<&'a str>,
}

impl ControlFrame<'_> {
    /// The frame as SSE bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.data.map_or(0, str::len));
        if let Some(retry_ms) = self.retry_ms {
            out.extend_from_slice(format!("retry: {retry_ms}\n").as_bytes());
        }
        if let Some(id) = self.id {
            out.extend_from_slice(b"id: ");
            id.write_to(&mut out);
            out.push(b'\n');
        }
        if let Some(event) = self.event {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(event.as_bytes());
            out.push(b'\n');
        }
        if let Some(data) = self.data {
            write_data(data, &mut out);
        }
        out.push(b'\n');
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Parser;

    fn event(kind: &str, data: &str) -> Arc<Event> {
        Arc::new(Event {
            id: EventId::new(1_732_096_800_123, 0),
            previous: EventId::ZERO,
            topic: "orders".parse().expect("a topic"),
            kind: kind.parse().expect("a type"),
            data: data.into(),
            end: false,
        })
    }

    fn sse(kind: &str, data: &str, envelope: Envelope) -> String {
        String::from_utf8(Frame::new(event(kind, data), 0).sse(envelope).to_vec()).expect("UTF-8")
    }

    #[test]
    fn an_event_is_written_as_the_design_says() {
        assert_eq!(
            sse("message", "hello", Envelope::Plain),
            "id: 1732096800123-0\ndata: hello\n\n"
        );
        assert_eq!(
            sse("created", r#"{"order":1}"#, Envelope::Topic),
            "id: 1732096800123-0\nevent: created\ntopic: orders\ndata: {\"order\":1}\n\n"
        );
        assert_eq!(
            sse("created", "a\n\"b\"", Envelope::Json),
            "id: 1732096800123-0\nevent: created\ndata: {\"id\":\"1732096800123-0\",\"topic\":\"orders\",\"event\":\"created\",\"data\":\"a\\n\\\"b\\\"\"}\n\n"
        );
    }

    #[test]
    fn every_line_end_makes_a_line_and_none_is_lost() {
        let lines =
            |data| sse("message", data, Envelope::Plain).replace("id: 1732096800123-0\n", "");
        assert_eq!(lines(""), "data:\n\n");
        assert_eq!(lines("\n"), "data:\ndata:\n\n");
        assert_eq!(
            lines("a\r\nb\rc\nd"),
            "data: a\ndata: b\ndata: c\ndata: d\n\n"
        );
        assert_eq!(
            lines("a\r\r\n\n\r"),
            "data: a\ndata:\ndata:\ndata:\ndata:\n\n"
        );
        assert_eq!(lines("\r\n"), "data:\ndata:\n\n");
        assert_eq!(lines(" a"), "data:  a\n\n");
        assert_eq!(
            lines("a\u{2028}b\u{85}c\u{b}d"),
            "data: a\u{2028}b\u{85}c\u{b}d\n\n"
        );
        assert_eq!(
            lines("x\nid: 9\nevent: $open"),
            "data: x\ndata: id: 9\ndata: event: $open\n\n"
        );
    }

    #[test]
    fn a_chunk_is_the_frame_with_its_length_around_it() {
        let frame = Frame::new(event("message", "hello"), 0);
        assert_eq!(
            frame.chunk(Envelope::Plain).as_ref(),
            b"21\r\nid: 1732096800123-0\ndata: hello\n\n\r\n"
        );
        assert_eq!(frame.wire_bytes(), 0x21);
    }

    proptest! {
        #[test]
        fn the_head_of_a_chunk_is_its_length_in_hexadecimal(len in 0_usize..1 << 40) {
            let mut head = Vec::new();
            write_chunk_head(len, &mut head);
            prop_assert_eq!(String::from_utf8(head).expect("ASCII"), format!("{len:X}\r\n"));
        }

        #[test]
        fn what_is_written_is_read_back(data in "[ -~\\r\\n\u{2028}é]{0,60}", kind in "[a-z]{1,8}") {
            let event = event(&kind, &data);
            let normal = data.replace("\r\n", "\n").replace('\r', "\n");
            for envelope in [Envelope::Plain, Envelope::Topic] {
                let frame = Frame::new(event.clone(), 0);
                let sse = frame.sse(envelope);
                prop_assert_eq!(sse.len(), sse_len(&event, envelope == Envelope::Topic));
                let mut parser = Parser::default();
                let messages = parser.feed(&sse);
                prop_assert_eq!(messages.len(), 1);
                prop_assert_eq!(messages[0].data.as_deref(), Some(normal.as_str()));
                prop_assert_eq!(messages[0].id.as_deref(), Some("1732096800123-0"));
                prop_assert_eq!(messages[0].event.as_deref().unwrap_or("message"), kind.as_str());
            }
        }
    }
}
