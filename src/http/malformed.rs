//! What is not HTTP is refused as everything else is: with a problem that says so.
//!
//! The HTTP library answers what it cannot parse by itself, with a status and no word. This wrapper around the socket knows
//! whether a response of ours is under way, and puts a problem in the place of one that is not.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time,
};

use super::{
    app::App,
    problem::{Code, Problem},
    writer::LINGER,
};

/// Whether a response of ours is under way; the service sets it, a flush takes it back.
pub(super) type Answering = Arc<AtomicBool>;

/// A refusal of what never became a request, as HTTP/1.1: counted, logged, and ready to be sent.
pub(super) fn refusal(app: &App, address: SocketAddr, problem: &Problem) -> Vec<u8> {
    app.metrics.refused(problem.code.as_str(), false);
    let status = problem.code.status();
    let request_id = format!("{:016x}", rand::random::<u64>());
    let body = problem.json(Some(&request_id));
    tracing::info!(target: "access", request_id, address = %address.ip().to_canonical(), status = status.as_u16(), code = problem.code.as_str(), "request");
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\nconnection: close\r\nx-request-id: {request_id}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends the last bytes of a connection, and gives them a moment to arrive: a close with unread bytes would reset them away.
pub(super) async fn last_words<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, bytes: &[u8]) {
    let said = async {
        socket.write_all(bytes).await?;
        socket.shutdown().await?;
        let mut noise = [0; 1024];
        while socket.read(&mut noise).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let _ = time::timeout(LINGER, said).await;
}

/// A socket whose wordless refusals become problems.
pub(super) struct Worded<T> {
    inner: T,
    app: Arc<App>,
    address: SocketAddr,
    answering: Answering,
    problem: Vec<u8>,
    written: usize,
}

impl<T> Worded<T> {
    pub(super) fn new(inner: T, app: Arc<App>, address: SocketAddr, answering: Answering) -> Self {
        Self {
            inner,
            app,
            address,
            answering,
            problem: Vec::new(),
            written: 0,
        }
    }

    pub(super) fn into_inner(self) -> T {
        self.inner
    }

    /// Whether `bytes` are the library's own refusal; its problem is then ready to be written.
    fn is_wordless(&mut self, bytes: &[u8]) -> bool {
        if !self.problem.is_empty() {
            return true;
        }
        if self.answering.load(Ordering::Relaxed) || !bytes.starts_with(b"HTTP/1.1 4") {
            return false;
        }
        let problem = match &bytes[9..12] {
            b"414" => Problem::new(Code::UrlTooLarge, "the URL is too long"),
            b"431" => Problem::new(Code::HeaderTooLarge, "the request head is too large"),
            _ => Problem::new(
                Code::RequestMalformed,
                "the request is not valid HTTP/1.1 (RFC 9112)",
            ),
        };
        self.problem = refusal(&self.app, self.address, &problem);
        true
    }
}

impl<T: Write + Unpin> Worded<T> {
    /// Writes the problem; the `len` bytes that it stands for then count as written.
    fn poll_problem(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        while self.written < self.problem.len() {
            let count =
                ready!(Pin::new(&mut self.inner).poll_write(cx, &self.problem[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        Poll::Ready(Ok(len))
    }
}

impl<T: Read + Unpin> Read for Worded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: Write + Unpin> Write for Worded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_wordless(bytes) {
            return self.poll_problem(cx, bytes.len());
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.first().is_some_and(|first| self.is_wordless(first)) {
            return self.poll_problem(cx, slices.iter().map(|slice| slice.len()).sum());
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        // A piece of a longer body that comes later begins with no status line.
        self.answering.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
