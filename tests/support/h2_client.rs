//! As much of HTTP/2 as it takes to ask for one stream with prior knowledge: frames by hand, headers as literals.

use std::net::SocketAddr;

use super::{Connection, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Debug)]
pub(crate) struct H2Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection on which both sides have said their settings.
pub(crate) struct H2Client {
    connection: Connection,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl H2Client {
    /// Sends the preface, and waits for the settings of the gateway.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(Connection::open(address).await, address).await
    }

    /// The same on a connection that is there already.
    pub(crate) async fn over(mut connection: Connection, address: SocketAddr) -> Self {
        connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        connection.send(frame(SETTINGS, 0, 0, &[])).await;
        let mut client = Self {
            connection,
            address,
            buffer: Vec::new(),
        };
        let first = client.frame().await;
        assert_eq!(first.kind, SETTINGS, "settings come first: {first:?}");
        client.connection.send(frame(SETTINGS, ACK, 0, &[])).await;
        client
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> H2Frame {
        self.frame_or_end().await.expect("the connection ended")
    }

    /// The next frame; none when the connection has ended.
    pub(crate) async fn frame_or_end(&mut self) -> Option<H2Frame> {
        within("a frame of HTTP/2", async {
            loop {
                if let Some(frame) = self.buffered() {
                    return Some(frame);
                }
                let piece = self.connection.read().await;
                if piece.is_empty() {
                    return None;
                }
                self.buffer.extend(piece);
            }
        })
        .await
    }

    /// Reads to the end of the connection; returns the error code of the last GOAWAY, if there was one.
    pub(crate) async fn goes_away(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.frame_or_end().await {
            if frame.kind == GOAWAY {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }

    /// The same, however long it takes.
    pub(crate) async fn goes_away_slowly(&mut self) {
        while !self.connection.read().await.is_empty() {}
    }

    /// Sends bytes as they are; the gateway may have closed already.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.connection.try_send(bytes).await.is_ok()
    }

    /// The same, however long it takes.
    pub(crate) async fn send_patiently(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.connection.try_send_patiently(bytes).await.is_ok()
    }

    /// Sends a request whose fields may take several frames.
    pub(crate) async fn send_request(&mut self, stream: u32, target: &str, more: &[(&str, &str)]) {
        const FRAME: usize = 16 * 1024;
        let block = self.block(target, more);
        let mut pieces = block.chunks(FRAME).peekable();
        let first = pieces.next().unwrap();
        let ends = |last: bool| if last { END_HEADERS } else { 0 };
        let flags = END_STREAM | ends(pieces.peek().is_none());
        let mut bytes = frame(HEADERS, flags, stream, first);
        while let Some(piece) = pieces.next() {
            let flags = ends(pieces.peek().is_none());
            bytes.extend(frame(CONTINUATION, flags, stream, piece));
        }
        self.send(bytes).await;
    }

    /// How a request was refused: with a status, or by the end of its stream or of the connection.
    pub(crate) async fn refusal(&mut self, stream: u32) -> Option<u16> {
        while let Some(frame) = self.frame_or_end().await {
            if frame.kind == GOAWAY || (frame.kind == RST_STREAM && frame.stream == stream) {
                return None;
            }
            if frame.kind == HEADERS && frame.stream == stream {
                // `:status` is entry 8 of the static table; other values follow as three digits, plain or by Huffman.
                let at = frame
                    .payload
                    .iter()
                    .position(|byte| *byte == 0x08 || *byte == 0x48);
                let value = &frame.payload[at.expect("a status that is not 200") + 1..];
                let text = match value[0] {
                    3 => &value[1..4],
                    // Digits 0, 1, 2 have five bits each, those from 3 on six (RFC 7541, Appendix B).
                    _ => return Some(huffman_digits(value)),
                };
                return std::str::from_utf8(text).unwrap().parse().ok();
            }
        }
        None
    }

    /// The frame that asks for `target` on `stream`, with more header fields.
    pub(crate) fn request(&self, stream: u32, target: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let block = self.block(target, more);
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
    }

    /// The same, but the fields go on in frames that never end.
    pub(crate) fn endless_request(&self, stream: u32, target: &str) -> Vec<u8> {
        frame(HEADERS, END_STREAM, stream, &self.block(target, &[]))
    }

    /// More of fields that go on.
    pub(crate) fn continuation(stream: u32, block: &[u8]) -> Vec<u8> {
        frame(CONTINUATION, 0, stream, block)
    }

    /// The frame that takes a request back.
    pub(crate) fn reset(stream: u32) -> Vec<u8> {
        frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
    }

    /// A ping.
    pub(crate) fn ping() -> Vec<u8> {
        frame(PING, 0, 0, b"tidegate")
    }

    /// Settings that change nothing.
    pub(crate) fn settings() -> Vec<u8> {
        frame(SETTINGS, 0, 0, &[])
    }

    /// Settings by which no stream may send anything.
    pub(crate) fn no_window() -> Vec<u8> {
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])
    }

    fn block(&self, target: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let authority = self.address.to_string();
        // `:method: GET` and `:scheme: http` are entries 2 and 6 of the static table.
        let mut block = vec![0x82, 0x86];
        let own = [(":path", target), (":authority", &authority)];
        for (name, value) in own.iter().chain(more) {
            block.push(0);
            for text in [name, value] {
                length(&mut block, text.len());
                block.extend_from_slice(text.as_bytes());
            }
        }
        block
    }

    fn buffered(&mut self) -> Option<H2Frame> {
        let head: [u8; 9] = self.buffer.get(..9)?.try_into().ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.buffer.get(9..9 + length)?.to_vec();
        self.buffer.drain(..9 + length);
        Some(H2Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Asks for `target` on stream 1, and waits for the head of the answer, which must be a 200.
    pub(crate) async fn get(&mut self, target: &str) {
        let request = self.request(1, target, &[("accept", "text/event-stream")]);
        self.connection.send(request).await;
        self.head_of_200().await;
    }

    /// The head of the answer on stream 1, which must be a 200.
    pub(crate) async fn head_of_200(&mut self) {
        let head = loop {
            let frame = self.frame().await;
            if frame.stream == 1 {
                break frame;
            }
        };
        assert_eq!(head.kind, HEADERS, "{head:?}");
        // The head may begin with a change of the table's size (0x20..=0x3f); `:status: 200` is entry 8.
        let mut fields = head
            .payload
            .iter()
            .skip_while(|byte| (0x20..0x40).contains(*byte));
        assert_eq!(fields.next(), Some(&0x88), "status 200: {head:?}");
    }

    /// The data of stream 1 until it contains `end`.
    pub(crate) async fn data_until(&mut self, end: &str) -> String {
        let (data, ended) = self.data(|data| data.contains(end)).await;
        assert!(!ended, "the stream ended with {data:?}");
        data
    }

    /// The data of stream 1 until it ends.
    pub(crate) async fn data_to_the_end(&mut self) -> String {
        self.data(|_| false).await.0
    }

    async fn data(&mut self, enough: impl Fn(&str) -> bool) -> (String, bool) {
        let mut data = Vec::new();
        loop {
            let frame = self.frame().await;
            if frame.stream != 1 {
                continue;
            }
            assert_eq!(frame.kind, DATA, "{frame:?}");
            data.extend(frame.payload);
            let text = String::from_utf8_lossy(&data);
            let ended = frame.flags & END_STREAM != 0;
            if ended || enough(&text) {
                return (text.into_owned(), ended);
            }
        }
    }
}

/// A length as HPACK has it (RFC 7541, 5.1), with seven bits in the first byte.
fn length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        block.push(u8::try_from(length).unwrap());
        return;
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// Three digits in the code of HPACK (RFC 7541, Appendix B): `0` to `2` have five bits, the others six.
fn huffman_digits(value: &[u8]) -> u16 {
    let bytes = usize::from(value[0] & 0x7f);
    let mut bits = value[1..=bytes]
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut code = (0..5).fold(0, |code, _| code << 1 | bits.next().unwrap());
        let digit = if code < 3 {
            code
        } else {
            code = code << 1 | bits.next().unwrap();
            code - 0x19 + 3
        };
        number = number * 10 + digit;
    }
    number
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
