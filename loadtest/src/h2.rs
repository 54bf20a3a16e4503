//! Just enough HTTP/2 (prior knowledge, one stream a connection) to follow a stream on the gateway's generic path.
//!
//! The windows are opened to their limit once, so nothing but acknowledgements is ever sent after the request. One
//! connection can take in 2 GiB, more than a bounded measurement sends to one subscriber.

use crate::wire::WireError;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const WINDOW: u32 = 0x7fff_ffff;
const DEFAULT_WINDOW: u32 = 65_535;
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// `:status: 200` as an index into the static table, which is what every encoder makes of it.
const STATUS_200: u8 = 0x88;

/// The bytes that open a connection and ask for `path`, with these headers (names in lower case, values under 127 bytes).
pub(crate) fn request(path: &str, authority: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86]; // :method GET, :scheme http
    block.push(0x04); // :path, by name index 4
    push_string(&mut block, path);
    block.push(0x01); // :authority, by name index 1
    push_string(&mut block, authority);
    for (name, value) in headers {
        block.push(0x00);
        push_string(&mut block, name);
        push_string(&mut block, value);
    }
    let mut bytes = PREFACE.to_vec();
    let mut settings = Vec::new();
    settings.extend(2_u16.to_be_bytes()); // ENABLE_PUSH
    settings.extend(0_u32.to_be_bytes());
    settings.extend(4_u16.to_be_bytes()); // INITIAL_WINDOW_SIZE
    settings.extend(WINDOW.to_be_bytes());
    push_frame(&mut bytes, SETTINGS, 0, 0, &settings);
    push_frame(
        &mut bytes,
        WINDOW_UPDATE,
        0,
        0,
        &(WINDOW - DEFAULT_WINDOW).to_be_bytes(),
    );
    push_frame(&mut bytes, HEADERS, END_STREAM | END_HEADERS, 1, &block);
    bytes
}

/// The reading side of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct H2 {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// What is left of the frame whose head is complete.
    left: usize,
    /// The first bytes of a frame that is no data: a ping's payload, a header block's first byte.
    start: Vec<u8>,
    status: u16,
    done: bool,
}

impl H2 {
    /// 200, 500 for any other status, 0 before the headers.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Whether the server has ended the stream or the connection.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Reads the next piece, hands out what belongs to the body, and appends what must be answered to `replies`.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        replies: &mut Vec<u8>,
        body: &mut impl FnMut(&[u8]),
    ) -> Result<(), WireError> {
        loop {
            if self.head_bytes < HEAD_BYTES {
                if bytes.is_empty() {
                    return Ok(());
                }
                let (piece, rest) = bytes.split_at((HEAD_BYTES - self.head_bytes).min(bytes.len()));
                self.head[self.head_bytes..self.head_bytes + piece.len()].copy_from_slice(piece);
                self.head_bytes += piece.len();
                bytes = rest;
                if self.head_bytes == HEAD_BYTES {
                    let [a, b, c, ..] = self.head;
                    self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                }
                continue;
            }
            let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
            bytes = rest;
            self.left -= piece.len();
            if self.head[3] == DATA {
                body(piece);
            } else {
                let wanted = 8_usize.saturating_sub(self.start.len()).min(piece.len());
                self.start.extend_from_slice(&piece[..wanted]);
            }
            if self.left > 0 {
                return Ok(());
            }
            self.finish_frame(replies)?;
            self.head_bytes = 0;
            self.start.clear();
        }
    }

    fn finish_frame(&mut self, replies: &mut Vec<u8>) -> Result<(), WireError> {
        let (kind, flags) = (self.head[3], self.head[4]);
        match kind {
            DATA if flags & PADDED != 0 => return Err(WireError::Chunk),
            HEADERS => {
                self.status = if self.start.first() == Some(&STATUS_200) {
                    200
                } else {
                    500
                }
            }
            SETTINGS if flags & ACK == 0 => push_frame(replies, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => push_frame(replies, PING, ACK, 0, &self.start),
            RESET | GO_AWAY => self.done = true,
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            self.done = true;
        }
        Ok(())
    }
}

fn push_frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("frames of this client are short");
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

fn push_string(block: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).expect("header strings of this client are short");
    assert!(
        length < 127,
        "header strings of this client fit the one-byte length"
    );
    block.push(length);
    block.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Vec<u8> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
        push_frame(&mut bytes, SETTINGS, ACK, 0, &[]);
        push_frame(
            &mut bytes,
            HEADERS,
            END_HEADERS,
            1,
            &[STATUS_200, 0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        );
        push_frame(&mut bytes, DATA, 0, 1, b"hello, ");
        push_frame(&mut bytes, PING, 0, 0, b"12345678");
        push_frame(&mut bytes, DATA, END_STREAM, 1, b"world");
        bytes
    }

    #[test]
    fn a_body_comes_out_wherever_the_answer_is_cut() {
        let answer = answer();
        for cut in 0..=answer.len() {
            let (mut h2, mut replies, mut body) = (H2::default(), Vec::new(), Vec::new());
            for piece in [&answer[..cut], &answer[cut..]] {
                h2.feed(piece, &mut replies, &mut |bytes| {
                    body.extend_from_slice(bytes);
                })
                .expect("the answer is well formed");
            }
            assert_eq!(body, b"hello, world", "cut at {cut}");
            assert_eq!(h2.status(), 200);
            assert!(h2.is_done());
            let mut expected = Vec::new();
            push_frame(&mut expected, SETTINGS, ACK, 0, &[]);
            push_frame(&mut expected, PING, ACK, 0, b"12345678");
            assert_eq!(replies, expected);
        }
    }

    #[test]
    fn another_status_is_not_taken_for_200() {
        let mut bytes = Vec::new();
        push_frame(
            &mut bytes,
            HEADERS,
            END_HEADERS,
            1,
            &[0x48, 3, b'5', b'0', b'3'],
        );
        let mut h2 = H2::default();
        h2.feed(&bytes, &mut Vec::new(), &mut |_| ())
            .expect("well formed");
        assert_eq!(h2.status(), 500);
    }
}
