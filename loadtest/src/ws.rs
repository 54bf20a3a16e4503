//! A stream over WebSocket: the answer to the handshake, then messages; piece by piece, without an allocation.
//!
//! What is measured stands in the first members of a message, so of one that comes in pieces its start is enough.

use crate::line::Line;
use crate::payload::Stamp;
use crate::stream::{Arrival, EventId, Kind};
use crate::wire::{Start, WireError};

/// Bytes that are kept of a message that comes in pieces.
const KEPT_BYTES: usize = 256;
/// Head of a frame without a mask.
const MOST_HEAD_BYTES: usize = 10;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// The parser of one WebSocket, the client's side.
pub(crate) struct Ws {
    line: Line,
    state: State,
    status: u16,
    start: [u8; KEPT_BYTES],
    kept: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Status,
    Fields,
    Head {
        bytes: [u8; MOST_HEAD_BYTES],
        have: usize,
    },
    Payload {
        opcode: u8,
        left: usize,
        begun: bool,
    },
    Done,
}

const HEAD: State = State::Head {
    bytes: [0; MOST_HEAD_BYTES],
    have: 0,
};

impl Default for Ws {
    fn default() -> Self {
        Self {
            line: Line::default(),
            state: State::Status,
            status: 0,
            start: [0; KEPT_BYTES],
            kept: 0,
        }
    }
}

impl Ws {
    /// The status, 0 before it has arrived.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Whether the server has closed.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads the next piece; hands out each message once, in full or its start. Pings are answered in `replies`.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        replies: &mut Vec<u8>,
        message: &mut impl FnMut(&[u8]),
    ) -> Result<(), WireError> {
        while !bytes.is_empty() {
            match self.state {
                State::Status | State::Fields => bytes = self.next_line(bytes)?,
                State::Head { .. } => bytes = self.head(bytes, replies, message)?,
                State::Payload {
                    opcode,
                    left,
                    begun,
                } => {
                    let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                    bytes = rest;
                    if !begun && piece.len() == left {
                        self.end(opcode, Some(piece), replies, message);
                        continue;
                    }
                    let room = piece.len().min(KEPT_BYTES - self.kept);
                    self.start[self.kept..self.kept + room].copy_from_slice(&piece[..room]);
                    self.kept += room;
                    if piece.len() == left {
                        self.end(opcode, None, replies, message);
                    } else {
                        self.state = State::Payload {
                            opcode,
                            left: left - piece.len(),
                            begun: true,
                        };
                    }
                }
                State::Done => return Err(WireError::AfterTheEnd),
            }
        }
        Ok(())
    }

    fn next_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], WireError> {
        let (state, status) = (&mut self.state, &mut self.status);
        let mut outcome = Ok(());
        let rest = self.line.split(bytes, |line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if *state == State::Status {
                match crate::http1::status_of(line) {
                    Some(read) => (*status, *state) = (read, State::Fields),
                    None => outcome = Err(WireError::Head),
                }
            } else if line.is_empty() {
                *state = HEAD;
            }
            false
        });
        outcome.map(|()| rest)
    }

    fn head<'a>(
        &mut self,
        bytes: &'a [u8],
        replies: &mut Vec<u8>,
        message: &mut impl FnMut(&[u8]),
    ) -> Result<&'a [u8], WireError> {
        let State::Head { bytes: head, have } = &mut self.state else {
            return Ok(bytes);
        };
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            head[*have] = byte;
            *have += 1;
            rest = after;
            let length = match (*have, head[1] & 0x7f) {
                (2, short @ 0..126) => usize::from(short),
                (4, 126) => usize::from(u16::from_be_bytes([head[2], head[3]])),
                (10, 127) => {
                    let long: [u8; 8] = head[2..].try_into().unwrap_or_default();
                    usize::try_from(u64::from_be_bytes(long)).map_err(|_| WireError::Frame)?
                }
                _ => continue,
            };
            // A server neither masks nor, here, cuts a message into frames.
            if head[0] & 0xf0 != 0x80 || head[1] & 0x80 != 0 {
                return Err(WireError::Frame);
            }
            let opcode = head[0] & 0x0f;
            self.kept = 0;
            self.state = State::Payload {
                opcode,
                left: length,
                begun: false,
            };
            if length == 0 {
                self.end(opcode, Some(&[]), replies, message);
            }
            break;
        }
        Ok(rest)
    }

    fn end(
        &mut self,
        opcode: u8,
        whole: Option<&[u8]>,
        replies: &mut Vec<u8>,
        message: &mut impl FnMut(&[u8]),
    ) {
        let payload = whole.unwrap_or(&self.start[..self.kept]);
        self.state = HEAD;
        match opcode {
            TEXT => message(payload),
            PING => {
                // With a mask of zeros, which changes nothing.
                let length = u8::try_from(payload.len().min(125)).unwrap_or(0);
                replies.extend_from_slice(&[0x8a, 0x80 | length, 0, 0, 0, 0]);
                replies.extend_from_slice(&payload[..usize::from(length)]);
            }
            CLOSE => self.state = State::Done,
            _ => {}
        }
    }
}

/// What a message says.
pub(crate) fn arrival(message: &[u8]) -> Arrival {
    let kind = match text_after(message, b"\"type\":\"") {
        Some(b"event") => Kind::Message,
        Some(b"open") => Kind::Open,
        Some(b"live") => Kind::Live,
        Some(b"gap") => Kind::Gap,
        Some(b"error") => Kind::Refused,
        _ => Kind::Control,
    };
    Arrival {
        kind,
        id: text_after(message, b"\"id\":\"").and_then(EventId::read),
        stamp: text_after(message, b"\"data\":\"").and_then(Stamp::read),
        gap: kind == Kind::Open && memchr::memmem::find(message, b"\"replay\":\"gap\"").is_some(),
        has_data: true,
    }
}

/// The text that begins after `name`, without escapes; also one that was cut.
pub(crate) fn text_after<'a>(json: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = &json[memchr::memmem::find(json, name)? + name.len()..];
    Some(&rest[..memchr::memchr(b'"', rest).unwrap_or(rest.len())])
}

/// The bytes of a handshake for the stream of `topic`.
pub(crate) fn handshake(topic: &str, start: Start) -> Vec<u8> {
    let start = match start {
        Start::Now => String::new(),
        Start::Earliest => "&lastEventId=earliest".to_owned(),
        Start::After(id) => format!("&lastEventId={id}"),
    };
    format!(
        "GET /ws?topic={topic}{start} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec();
        let mut data = Vec::new();
        let stamp = Stamp {
            sequence: 7,
            sent_ns: 42,
        };
        stamp.write(&mut data, 300);
        let data = String::from_utf8(data).expect("text");
        let open = r#"{"type":"open","connection":"a","replay":"gap","topics":["t0"],"id":"5-0","cursor":"5-0","retry":3}"#;
        let event = format!(
            r#"{{"type":"event","id":"6-1","topic":"t0","event":"message","data":"{data}","cursor":"6-1"}}"#
        );
        for text in [open, &event] {
            match u8::try_from(text.len()) {
                Ok(short @ 0..126) => bytes.extend([0x81, short]),
                _ => {
                    bytes.extend([0x81, 126]);
                    bytes.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
                }
            }
            bytes.extend(text.as_bytes());
        }
        bytes.extend([0x89, 2, b'h', b'i', 0x8a, 0, 0x88, 2, 3, 0xe8]);
        bytes
    }

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Arrival>, Vec<u8>, bool) {
        let (mut ws, mut arrivals, mut replies) = (Ws::default(), Vec::new(), Vec::new());
        for piece in pieces {
            ws.feed(piece, &mut replies, &mut |message| {
                arrivals.push(arrival(message));
            })
            .expect("it is well formed");
        }
        assert_eq!(ws.status(), 101);
        (arrivals, replies, ws.is_done())
    }

    #[test]
    fn messages_come_out_wherever_the_stream_is_cut() {
        let bytes = stream();
        let whole = read([bytes.as_slice()]);
        let kinds: Vec<Kind> = whole.0.iter().map(|arrival| arrival.kind).collect();
        assert_eq!(kinds, [Kind::Open, Kind::Message]);
        assert!(whole.0[0].gap && whole.2);
        assert_eq!(whole.0[1].id, EventId::read(b"6-1"));
        assert_eq!(whole.0[1].stamp.map(|stamp| stamp.sequence), Some(7));
        assert_eq!(whole.1, b"\x8a\x82\0\0\0\0hi");
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(read([head, tail]), whole, "cut at {cut}");
        }
        assert_eq!(read(bytes.chunks(1)), whole);
    }

    #[test]
    fn a_masked_or_fragmented_frame_is_an_error() {
        for head in [[0x81, 0x81], [0x01, 0x01]] {
            let mut ws = Ws {
                state: HEAD,
                ..Ws::default()
            };
            assert!(ws.feed(&head, &mut Vec::new(), &mut |_| ()).is_err());
        }
    }
}
