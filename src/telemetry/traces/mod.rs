//! Traces: what became of one request, told to a collector by OpenTelemetry (OTLP over HTTP).
//!
//! ```text
//! POST /publish ─┬─ store.append
//!                └─ fan-out        from the store to the last write into a stream of this replica
//! GET /events                      to the head of the response
//! ```
//!
//! A request is traced when its `traceparent` says so; without one, a share of `traces.ratio` is. Its trace id stands in its
//! access line, traced or not. A request that is not traced costs a look at its headers, and a stream a look at two numbers.
//!
//! Spans hold method, route, status, code, counts: no query, no header, no topic.
//!
//! The parts of the format that we need are a hundred lines. The SDK brings seventy crates, a second HTTP client and a thread
//! for them. Not here: spans of `tracing`, which would have to be entered and left around every await.

#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod fan_out;
mod parent;
#[cfg(feature = "otlp")]
mod protobuf;
#[cfg(feature = "otlp")]
mod span;
#[cfg(not(feature = "otlp"))]
#[path = "without.rs"]
mod span;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::HeaderMap;
use prometheus_client::{metrics::counter::ConstCounter, registry::Registry};

use self::span::OpenSpan;
use crate::{config::Traces, event::Frame};

pub use parent::{TraceId, TraceParent};
pub use span::{Exporter, Storing};

/// Spans, since the start.
static EXPORTED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Why there are no traces.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TracesError {
    /// Nobody can be told of them.
    #[error("traces.endpoint is set, but this tidegate was built without the feature otlp")]
    NotBuilt,
    /// The address cannot be used. It is not repeated: it may have a password in it.
    #[error("traces.endpoint: {0}")]
    Endpoint(&'static str),
}

/// Begins to trace, where there is a collector; its exporter has to run.
///
/// # Errors
/// When there is one, and it cannot be told.
pub fn start(settings: &Traces) -> Result<Option<Exporter>, TracesError> {
    let endpoint = settings.endpoint.as_deref();
    endpoint
        .map(|endpoint| span::start(endpoint, settings.ratio))
        .transpose()
}

/// What is said of a request at its end.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd<'a> {
    /// `GET`, `POST` …
    pub method: &'static str,
    /// The route's path.
    pub route: &'static str,
    /// The status of the response.
    pub status: u16,
    /// The code of the refusal, if it was one.
    pub code: Option<&'static str>,
    /// As in the access line.
    pub request_id: &'a str,
}

/// The trace of a request.
#[derive(Debug)]
pub struct RequestTrace {
    id: Option<TraceId>,
    span: Option<OpenSpan>,
}

impl RequestTrace {
    /// A request came in. Of a route without a name there is no span.
    pub fn begin(headers: &HeaderMap, name: Option<&'static str>) -> Self {
        let parent = TraceParent::of(headers);
        let span = name.and_then(|name| span::root(name, parent));
        let id = match (parent, &span) {
            (Some(parent), _) => Some(parent.trace),
            (None, Some(span)) => Some(span.trace()),
            (None, None) => None,
        };
        Self { id, span }
    }

    /// Which trace it is part of, as a field of a line.
    pub fn id(&self) -> Option<tracing::field::DisplayValue<TraceId>> {
        self.id.map(tracing::field::display)
    }

    /// Whatever is traced in `future` is a part of this request.
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        match &self.span {
            Some(span) => span.scope(future).await,
            None => future.await,
        }
    }

    /// The head of the response is there.
    pub fn end(self, said: &RequestEnd<'_>) {
        if let Some(span) = self.span {
            span.end_request(said);
        }
    }
}

/// The store is about to be asked for `events`; None where the request is not traced. `now_us` is the clock by which frames
/// arrive.
pub fn storing(events: usize, now_us: impl FnOnce() -> u64) -> Option<Storing> {
    span::storing(events, now_us)
}

/// These frames were written into a stream.
pub fn wrote(frames: &[Arc<Frame>]) {
    span::wrote(frames);
}

pub(super) fn register(r: &mut Registry) {
    for (name, help, count) in [
        (
            "trace_spans_exported",
            "Spans that the collector has taken",
            &EXPORTED,
        ),
        (
            "trace_spans_dropped",
            "Spans that were dropped because the collector did not take them in time",
            &DROPPED,
        ),
    ] {
        let count = count.load(Ordering::Relaxed);
        r.register(name, help, ConstCounter::new(count));
    }
}
