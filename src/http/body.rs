//! What a response carries: some bytes, a stream of events, or answers that are written while the request is read.
//!
//! No layer wraps it. The connection looks for [`Body::Stream`] and takes the socket over; where it cannot, the stream is
//! an ordinary body.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream::Stream;
use http_body::{Frame, SizeHint};

use super::{sse::SseStream, ws::Accepted};

/// A response body.
pub enum Body {
    /// All of it, known beforehand; taken when it has been sent.
    Full(Bytes),
    /// Events.
    Stream(Box<SseStream>),
    /// The other protocol that the connection changes to.
    WebSocket(Box<Accepted>),
    /// Pieces that come one by one.
    Pieces(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self::Full(Bytes::new())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Full(bytes) => Poll::Ready((!bytes.is_empty()).then(|| std::mem::take(bytes))),
            Self::Stream(stream) => stream.poll_bytes(cx),
            // Whoever owns the connection has taken it; there is nothing to send here.
            Self::WebSocket(_) => Poll::Ready(None),
            Self::Pieces(pieces) => pieces.as_mut().poll_next(cx),
        };
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::WebSocket(_) => true,
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
