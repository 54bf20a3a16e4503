//! HTTP/1.1 with a gateway that may be killed at any byte: what is cut is an answer here, not a failure of the test.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::Value;
use tidegate::event::{Message, Parser};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{Chunks, Request};

/// How long a gateway may take for an answer. Far beyond what it promises: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a request failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// It was not sent.
    Unsent,
    /// It was sent, and the connection ended before the answer did.
    Cut,
}

/// A connection, and what was read and not yet used.
struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The head of an answer.
pub(super) struct Head {
    pub(super) status: u16,
    lines: Vec<(String, String)>,
}

impl Head {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.lines.iter();
        let (_, value) = lines.find(|(set, _)| set.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}

impl Wire {
    async fn send(
        address: SocketAddr,
        request: &Request,
        room: Option<u32>,
    ) -> Result<Self, Broken> {
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            if let Some(room) = room {
                socket.set_recv_buffer_size(room)?;
            }
            socket.connect(address).await
        };
        let stream = connect.await.map_err(|_| Broken::Unsent)?;
        let mut wire = Self {
            stream,
            buffer: Vec::new(),
        };
        let bytes = request.bytes(address);
        let sent = wire.stream.write_all(&bytes).await;
        sent.map_err(|_| Broken::Cut)?;
        Ok(wire)
    }

    /// Reads more; nothing is the end, in whatever way it came.
    async fn more(&mut self) -> Result<(), Broken> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(Broken::Cut),
            Ok(_) => Ok(()),
        }
    }

    async fn head(&mut self) -> Result<Head, Broken> {
        let end = loop {
            let blank = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            match blank {
                Some(at) => break at + 4,
                None => self.more().await?,
            }
        };
        let rest = self.buffer.split_off(end);
        let text = String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
        let status = text[9..12].parse().unwrap();
        let lines = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.trim().to_owned());
        Ok(Head {
            status,
            lines: lines.map(owned).collect(),
        })
    }
}

/// Sends a request that is answered with a body of known length.
pub(super) async fn ask(address: SocketAddr, request: &Request) -> Result<(u16, Value), Broken> {
    let ask = async {
        let mut wire = Wire::send(address, request, None).await?;
        let head = wire.head().await?;
        let length = head.header("content-length");
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while wire.buffer.len() < length {
            wire.more().await?;
        }
        let body = serde_json::from_slice(&wire.buffer[..length]);
        Ok((head.status, body.unwrap_or(Value::Null)))
    };
    let answer = timeout(PATIENCE, ask).await;
    answer.unwrap_or_else(|_| panic!("{address} does not answer {request:?} in {PATIENCE:?}"))
}

/// A stream of events that may end anywhere.
pub(super) struct Stream {
    wire: Wire,
    chunks: Chunks,
    parser: Parser,
    over: bool,
}

/// What comes of asking for a stream.
pub(super) enum Asking {
    Open(Box<Stream>),
    /// By its status, or in a stream of its own.
    Refused,
}

impl Stream {
    /// Asks for a stream, with a receive buffer of so many bytes.
    pub(super) async fn ask(
        address: SocketAddr,
        request: &Request,
        room: Option<u32>,
    ) -> Result<Asking, Broken> {
        let ask = async {
            let mut wire = Wire::send(address, request, room).await?;
            let head = wire.head().await?;
            if head.status == 503 {
                return Ok(Asking::Refused);
            }
            assert_eq!(head.status, 200, "{request:?}");
            assert_eq!(head.header("content-type"), Some("text/event-stream"));
            if head.header("tidegate-refused").is_some() {
                return Ok(Asking::Refused);
            }
            assert_eq!(head.header("transfer-encoding"), Some("chunked"));
            Ok(Asking::Open(Box::new(Self {
                wire,
                chunks: Chunks::default(),
                parser: Parser::default(),
                over: false,
            })))
        };
        let answer = timeout(PATIENCE, ask).await;
        answer.unwrap_or_else(|_| panic!("{address} does not answer {request:?} in {PATIENCE:?}"))
    }

    /// Reads once, at most `room` bytes, and returns the frames that became whole. None at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost if it is not waited for.
    pub(super) async fn read(&mut self, room: usize) -> Option<Vec<Message>> {
        if self.over {
            return None;
        }
        if self.wire.buffer.is_empty() {
            self.wire.buffer.reserve(room);
            let mut limited = (&mut self.wire.stream).take(room as u64);
            let read: io::Result<usize> = limited.read_buf(&mut self.wire.buffer).await;
            if !matches!(read, Ok(count) if count > 0) {
                return None;
            }
        }
        let bytes = std::mem::take(&mut self.wire.buffer);
        let data = self.chunks.feed(&bytes);
        self.over = self.chunks.ended();
        Some(self.parser.feed(&data))
    }
}
