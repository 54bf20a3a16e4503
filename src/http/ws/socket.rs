//! A WebSocket on a socket: the library's settings, each with its bound.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

use crate::config;

/// What is read at once. The library would take 128 KiB, which every connection would hold for ever.
const READ_BUFFER: usize = 4 * 1024;
/// What is gathered before it is written: a replay is a few large writes rather than one for each event. The library keeps
/// a buffer of this size for a connection that has once filled it.
const WRITE_BUFFER: usize = 4 * 1024;
/// The text around an event's data, and the longest topic and type, with room to spare.
const AROUND: usize = 8 * 1024;
/// The most that JSON makes of a byte: `\u0000`.
const ESCAPED: usize = 6;

/// How large messages may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One that comes in.
    pub incoming_bytes: usize,
    /// One that goes out.
    pub outgoing_bytes: usize,
}

impl Limits {
    /// Those of the settings.
    pub fn of(limits: &config::Limits) -> Self {
        // An event that was stored when the limit was greater still has to leave.
        let event = limits.event_bytes.bytes().max(1024 * 1024);
        Self {
            incoming_bytes: limits.body_bytes.bytes(),
            outgoing_bytes: event.saturating_mul(ESCAPED).saturating_add(AROUND),
        }
    }
}

/// A WebSocket whose opening handshake is over.
pub type Socket<S> = WebSocketStream<Metered<S>>;

/// The server's end of a WebSocket on `io`; `early` is what was read of it already.
pub async fn server<S>(io: S, early: Bytes, limits: Limits) -> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        // No message waits behind another one but for what is gathered, so this is no queue.
        .max_write_buffer_size(limits.outgoing_bytes.saturating_add(2 * WRITE_BUFFER))
        .max_message_size(Some(limits.incoming_bytes))
        .max_frame_size(Some(limits.incoming_bytes));
    let io = Metered { io, written: 0 };
    if early.is_empty() {
        return WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    }
    WebSocketStream::from_partially_read(io, early.into(), Role::Server, Some(config)).await
}

/// Counts what was written: whether a reader reads shows in nothing else.
#[derive(Debug)]
pub struct Metered<S> {
    io: S,
    written: u64,
}

impl<S> Metered<S> {
    /// Bytes that the socket has taken.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn count(&mut self, taken: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &taken {
            self.written += *bytes as u64;
        }
        taken
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, room)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.count(taken)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
