//! Writes a stream to a socket that it owns: the way of almost every stream.
//!
//! The HTTP library has answered the request and given the socket up, with TLS around it or without; what is left for each
//! connection is this small task.
//! It keeps no queue: what the socket did not take is read from the log again, but for the rest of one frame.
//!
//! The end is a whole chunk, the last chunk, a shutdown of the write side, and a short time of discarding what the client
//! still sends: a close with unread bytes would reset the last cursor away (RFC 9112, 9.6).

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{alarm::Alarms, sockets::CountedConnection, sse::SseStream, stream::Next, wire::Wire};
use crate::{event::Frame, telemetry::CloseReason};

/// What the kernel may hold for a reader that does not read; without it, some megabytes.
const SEND_BUFFER: usize = 64 * 1024;
/// What a client may send on a stream before it is closed.
const NOISE_LIMIT: u32 = 64 * 1024;
/// Bounds what the kernel holds for a reader. A larger buffer is no error, only memory.
pub(super) fn limit_send_buffer(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_send_buffer_size(SEND_BUFFER);
}

/// How long the last bytes have to arrive.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// Rounds of one poll; then others have their turn.
const ROUNDS: usize = 4;

thread_local! {
    // One for each core instead of one for each connection: they are used within one poll.
    static FRAMES: RefCell<Vec<Arc<Frame>>> = const { RefCell::new(Vec::new()) };
    static BATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static NOISE: RefCell<Box<[u8]>> = RefCell::new(vec![0; 4096].into());
}

/// The task of one stream.
pub struct StreamWriter<W> {
    wire: W,
    sse: SseStream,
    /// What the socket has not taken of the last write.
    rest: Bytes,
    phase: Phase,
    /// The tick of the last progress.
    progress: u64,
    noise: u32,
    /// Whether the socket wakes us when the client sends something or goes away.
    listens: bool,
    /// Whether this turn has written anything.
    wrote: bool,
    /// The connection counts as open until the last byte is out.
    _connection: CountedConnection,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// The last chunk is on its way.
    Ending,
    /// The write side is shut down; the client has until this tick.
    Lingering(u64),
}

impl<W: Wire> StreamWriter<W> {
    /// A writer that begins with `head`.
    pub fn new(wire: W, sse: SseStream, head: Vec<u8>, connection: CountedConnection) -> Self {
        limit_send_buffer(wire.socket());
        sse.stream.handle().owned.store(true, Ordering::Relaxed);
        let progress = sse.stream.app().alarms.now();
        Self {
            wire,
            sse,
            rest: head.into(),
            phase: Phase::Streaming,
            progress,
            noise: 0,
            listens: false,
            wrote: false,
            _connection: connection,
        }
    }

    /// Discards what the client sends. Ready: the stream is over.
    fn poll_noise(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.listens = true;
        NOISE.with_borrow_mut(|noise| {
            loop {
                match ready!(self.wire.poll_discard(cx, noise)) {
                    Ok(0) | Err(_) => return Poll::Ready(CloseReason::Gone),
                    Ok(count) => {
                        self.noise = self
                            .noise
                            .saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
                        if self.noise > NOISE_LIMIT {
                            return Poll::Ready(CloseReason::Noise);
                        }
                    }
                }
            }
        })
    }

    /// Bytes to be written next; the time that they may take begins now.
    fn owe(&mut self, bytes: Bytes) {
        self.rest = bytes;
        self.progress = self.sse.stream.app().alarms.now();
    }

    /// Writes what is left of the last write.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while self.wire.owes() || !self.rest.is_empty() {
            let written = if self.wire.owes() {
                self.wire.try_flush().map(|()| 0)
            } else {
                self.wire.try_write(&self.rest)
            };
            match written {
                Ok(count) => {
                    self.rest.advance(count);
                    self.progress = self.sse.stream.app().alarms.now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.sse.stream.scope().behind(true);
                    match self.wire.socket().poll_write_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(CloseReason::Gone)),
                        Poll::Pending => {
                            self.sse.stream.answer(self.progress, true);
                            // There is no way to be polite to a reader that takes nothing.
                            if let Some(reason @ (CloseReason::Cut | CloseReason::Admin)) =
                                self.sse.stream.handle().closing()
                            {
                                return Poll::Ready(Err(reason));
                            }
                            let timeout = self.sse.stream.app().config().stream.write_timeout;
                            // The last progress lay somewhere within its tick: one more makes sure that all of the
                            // time has passed.
                            let deadline = self.progress + u64::from(Alarms::ticks(timeout)) + 1;
                            if self.sse.stream.app().alarms.now() >= deadline {
                                return Poll::Ready(Err(CloseReason::Stuck));
                            }
                            self.sse.stream.ring_at(deadline, cx);
                            return Poll::Pending;
                        }
                    }
                }
                Err(_) => return Poll::Ready(Err(CloseReason::Gone)),
            }
        }
        self.sse.stream.scope().behind(false);
        Poll::Ready(Ok(()))
    }

    /// Writes events as far as the socket takes them; of the rest only the frame that was begun is kept.
    fn write_frames(&mut self, frames: &[Arc<Frame>]) -> Result<(), CloseReason> {
        let envelope = self.sse.envelope();
        let written = match frames {
            [frame] => self.wire.try_write(frame.chunk(envelope)),
            // Copied together: a vector of small pieces costs the kernel more than the copy costs us.
            frames => BATCH.with_borrow_mut(|batch| {
                batch.clear();
                for frame in frames {
                    batch.extend_from_slice(frame.chunk(envelope));
                }
                self.wire.try_write(batch)
            }),
        };
        let mut left = match written {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(CloseReason::Gone),
        };
        let taken = left;
        let mut whole = 0;
        for frame in frames {
            let chunk = frame.chunk(envelope);
            if left < chunk.len() {
                if left > 0 || taken == 0 {
                    // Begun, or the first one of a socket that takes nothing: it waits in `rest`.
                    self.rest = chunk.slice(left..);
                    whole += 1;
                }
                break;
            }
            left -= chunk.len();
            whole += 1;
        }
        // The socket took something, or begins to owe us now.
        self.progress = self.sse.stream.app().alarms.now();
        self.sse
            .stream
            .wrote(&frames[..whole], taken + self.rest.len());
        Ok(())
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        for _ in 0..ROUNDS {
            if let Err(reason) = ready!(self.poll_rest(cx)) {
                return Poll::Ready(reason);
            }
            match self.phase {
                Phase::Streaming => {}
                Phase::Ending => {
                    self.wire.say_goodbye();
                    if let Err(reason) = ready!(self.poll_rest(cx)) {
                        return Poll::Ready(reason);
                    }
                    self.wire.shut_down();
                    let until =
                        self.sse.stream.app().alarms.now() + u64::from(Alarms::ticks(LINGER));
                    self.phase = Phase::Lingering(until);
                    continue;
                }
                Phase::Lingering(until) => {
                    if self.sse.stream.app().alarms.now() >= until {
                        return Poll::Ready(CloseReason::Finished);
                    }
                    self.sse.stream.answer(self.progress, false);
                    self.sse.stream.ring_at(until, cx);
                    return Poll::Pending;
                }
            }
            let mut frames = FRAMES.take();
            let next = self.sse.poll_next(cx, &mut frames);
            let outcome = match next {
                Poll::Pending => None,
                Poll::Ready(Next::Events) => Some(self.write_frames(&frames)),
                Poll::Ready(Next::Control(sse)) => {
                    let chunk = chunk(&sse);
                    self.sse.stream.wrote(&[], chunk.len());
                    self.owe(chunk.into());
                    Some(Ok(()))
                }
                Poll::Ready(Next::End | Next::Reached) => {
                    self.owe(Bytes::from_static(b"0\r\n\r\n"));
                    self.phase = Phase::Ending;
                    Some(Ok(()))
                }
            };
            frames.clear();
            FRAMES.set(frames);
            match outcome {
                None => return Poll::Pending,
                Some(Ok(())) => self.wrote = true,
                Some(Err(reason)) => return Poll::Ready(reason),
            }
        }
        // There is more to write, and others wait for this core.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<W: Wire> Future for StreamWriter<W> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.wrote = false;
        let reason = match this.poll_stream(cx) {
            Poll::Ready(reason) => reason,
            // To ask the socket again costs each delivery a twentieth, and is not needed while its waker is still set. It
            // is not when the client left just now: that, and what was written, may have come in one wake.
            Poll::Pending if this.wrote && this.listens && !this.wire.has_come() => {
                return Poll::Pending;
            }
            Poll::Pending => match this.poll_noise(cx) {
                Poll::Ready(reason) => reason,
                // What came may want an answer of TLS: new keys do.
                Poll::Pending if this.wire.owes() => match ready!(this.poll_rest(cx)) {
                    Ok(()) => return Poll::Pending,
                    Err(reason) => reason,
                },
                Poll::Pending => return Poll::Pending,
            },
        };
        // A stream that ended by itself has said so; what comes after is only the farewell.
        if this.phase == Phase::Streaming {
            this.sse.stream.scope().ends(reason);
        }
        Poll::Ready(())
    }
}

/// Bytes as one HTTP/1.1 chunk.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:X}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}
