//! Whether a connection is at work, or waits for its client to ask for something.
//!
//! An exchange lasts from the head of a request to the last byte of its response that was given to the socket, or to the
//! end of its stream. A connection without one waits: it is closed after `server.header_timeout`, and earlier where
//! descriptors are short.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use slab::Slab;

use super::{app::App, body::Body};

/// What is under way on one connection.
pub(super) struct Activity {
    app: Arc<App>,
    open: AtomicUsize,
    unused: AtomicBool,
    /// The tick of the last end of an exchange, or of the accept.
    since: AtomicU64,
    /// When the answers that have not left were given.
    unsent: Mutex<Slab<u64>>,
}

impl Activity {
    pub(super) fn new(app: Arc<App>) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            unused: AtomicBool::new(true),
            since: AtomicU64::new(app.alarms.now()),
            unsent: Mutex::default(),
            app,
        })
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Exchange {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.unused.store(false, Ordering::Relaxed);
        Exchange {
            activity: self.clone(),
            unsent: None,
        }
    }

    /// Whether no request has ever come.
    pub(super) fn is_unused(&self) -> bool {
        self.unused.load(Ordering::Relaxed)
    }

    /// The tick since which nothing is under way; none while something is.
    pub(super) fn waits_since(&self) -> Option<u64> {
        (self.open.load(Ordering::Acquire) == 0).then(|| self.since.load(Ordering::Relaxed))
    }

    /// The tick at which the oldest answer was given of those that have not left.
    pub(super) fn oldest_unsent(&self) -> Option<u64> {
        self.unsent.lock().iter().map(|(_, since)| *since).min()
    }
}

/// A request and its response.
pub(super) struct Exchange {
    activity: Arc<Activity>,
    unsent: Option<usize>,
}

impl Exchange {
    /// The response is known in full, and has to leave from now on.
    pub(super) fn answered(&mut self) {
        let now = self.activity.app.alarms.now();
        self.unsent = Some(self.activity.unsent.lock().insert(now));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let activity = &self.activity;
        if let Some(key) = self.unsent {
            activity.unsent.lock().remove(key);
        }
        activity
            .since
            .store(activity.app.alarms.now(), Ordering::Relaxed);
        activity.open.fetch_sub(1, Ordering::Release);
    }
}

/// A body that tells when it has left. The way of what stays in the HTTP library; a stream that is taken over has none.
pub(super) struct Tracked {
    body: Body,
    exchange: Option<Exchange>,
}

impl Tracked {
    pub(super) fn new(body: Body, exchange: Exchange) -> Self {
        Self {
            body,
            exchange: Some(exchange),
        }
    }
}

/// The bytes of a whole body; the library drops them when the last one has been written.
struct Leaving {
    bytes: Bytes,
    _exchange: Option<Exchange>,
}

impl AsRef<[u8]> for Leaving {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Body::Full(bytes) = &mut self.body {
            let bytes = std::mem::take(bytes);
            if bytes.is_empty() {
                return Poll::Ready(None);
            }
            let leaving = Leaving {
                bytes,
                _exchange: self.exchange.take(),
            };
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(leaving)))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.exchange = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
