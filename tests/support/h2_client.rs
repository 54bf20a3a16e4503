//! As much of HTTP/2 as it takes to ask for one stream with prior knowledge: frames by hand, headers as literals.

use std::net::SocketAddr;

use super::{Connection, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
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
        let mut connection = Connection::open(address).await;
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
        within("a frame of HTTP/2", async {
            loop {
                if let Some(frame) = self.buffered() {
                    return frame;
                }
                let piece = self.connection.read().await;
                assert!(!piece.is_empty(), "the connection ended");
                self.buffer.extend(piece);
            }
        })
        .await
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
        let authority = self.address.to_string();
        // `:method: GET` and `:scheme: http` are entries 2 and 6 of the static table.
        let mut block = vec![0x82, 0x86];
        for (name, value) in [
            (":path", target),
            (":authority", &authority),
            ("accept", "text/event-stream"),
        ] {
            block.push(0);
            for text in [name, value] {
                let length = u8::try_from(text.len()).unwrap();
                assert!(length < 127, "fits one byte");
                block.push(length);
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.connection
            .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
            .await;
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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
