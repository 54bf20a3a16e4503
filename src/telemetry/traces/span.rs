//! Spans: begun where something happens, put into a bounded queue when it is over.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{DROPPED, RequestEnd, TraceId, TraceParent, TracesError, export, fan_out};
use crate::event::{EventId, Frame};

pub use export::Exporter;

/// Spans that wait for the exporter; beyond them they are dropped and counted.
const WAITING: usize = 4096;
/// As many as are told at once.
pub(super) const BATCH: usize = 512;

static TRACER: OnceLock<Tracer> = OnceLock::new();

tokio::task_local! {
    static CURRENT: Context;
}

/// Where spans wait.
pub(super) struct Tracer {
    ratio: f64,
    waiting: Mutex<Vec<Span>>,
    pub(super) many: Notify,
}

/// Which span something is a part of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) trace: TraceId,
    pub(super) span: u64,
}

/// What a span says beside its name and time.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(Box<str>),
    Number(u64),
}

/// A span that is over.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) context: Context,
    /// None: the first of its trace.
    pub(super) parent: Option<u64>,
    /// The parent is another program's.
    pub(super) remote: bool,
    /// A request, in contrast to a part of one.
    pub(super) serves: bool,
    pub(super) name: &'static str,
    pub(super) begun: SystemTime,
    pub(super) lasted: Duration,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) failed: bool,
}

pub(super) fn start(endpoint: &str, ratio: f64) -> Result<Exporter, TracesError> {
    let exporter = Exporter::new(endpoint)?;
    let _ = TRACER.set(Tracer {
        ratio,
        waiting: Mutex::default(),
        many: Notify::new(),
    });
    Ok(exporter)
}

pub(super) fn tracer() -> Option<&'static Tracer> {
    TRACER.get()
}

impl Tracer {
    fn put(&self, span: Span) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING {
            waiting.push(span);
            if waiting.len() == BATCH {
                self.many.notify_one();
            }
        } else {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest spans.
    pub(super) fn take(&self) -> Vec<Span> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(BATCH);
        waiting.drain(..count).collect()
    }
}

/// A span whose end is to come; dropped without one, it was given up and is not told.
#[derive(Debug)]
pub(super) struct OpenSpan {
    context: Context,
    parent: Option<u64>,
    remote: bool,
    name: &'static str,
    begun: SystemTime,
    started: Instant,
}

/// The span of a request, if it is to have one.
pub(super) fn root(name: &'static str, parent: Option<TraceParent>) -> Option<OpenSpan> {
    let tracer = tracer()?;
    let traced = parent.map_or_else(
        || rand::random::<f64>() < tracer.ratio,
        |parent| parent.sampled,
    );
    traced.then(|| {
        let trace = parent.map_or_else(
            || TraceId(rand::random::<u128>().max(1)),
            |parent| parent.trace,
        );
        OpenSpan::new(name, trace, parent.map(|parent| parent.span), true)
    })
}

impl OpenSpan {
    fn new(name: &'static str, trace: TraceId, parent: Option<u64>, remote: bool) -> Self {
        Self {
            context: Context {
                trace,
                span: rand::random::<u64>().max(1),
            },
            parent,
            remote: remote && parent.is_some(),
            name,
            begun: SystemTime::now(),
            started: Instant::now(),
        }
    }

    pub(super) fn trace(&self) -> TraceId {
        self.context.trace
    }

    pub(super) async fn scope<F: Future>(&self, future: F) -> F::Output {
        CURRENT.scope(self.context, future).await
    }

    pub(super) fn end_request(self, said: &RequestEnd<'_>) {
        let mut attributes = vec![
            ("http.request.method", Value::Text(said.method.into())),
            ("http.route", Value::Text(said.route.into())),
            (
                "http.response.status_code",
                Value::Number(said.status.into()),
            ),
            ("tidegate.request_id", Value::Text(said.request_id.into())),
        ];
        if let Some(code) = said.code {
            attributes.push(("tidegate.code", Value::Text(code.into())));
        }
        self.end(true, attributes, said.status >= 500);
    }

    fn end(self, serves: bool, attributes: Vec<(&'static str, Value)>, failed: bool) {
        put(Span {
            context: self.context,
            parent: self.parent,
            remote: self.remote,
            serves,
            name: self.name,
            begun: self.begun,
            // Not the difference of two clock readings: the clock may be set meanwhile.
            lasted: self.started.elapsed(),
            attributes,
            failed,
        });
    }
}

/// Hands a span to the exporter.
pub(super) fn put(span: Span) {
    if let Some(tracer) = tracer() {
        tracer.put(span);
    }
}

/// Events on their way into the store, of a request that is traced.
#[derive(Debug)]
pub struct Storing {
    span: OpenSpan,
    request: Context,
    events: usize,
    /// Until this goes, writes of events without a known id are remembered.
    _writes: fan_out::Storing,
}

pub(super) fn storing(events: usize, now_us: impl FnOnce() -> u64) -> Option<Storing> {
    tracer()?;
    let request = CURRENT.try_with(|context| *context).ok()?;
    Some(Storing {
        span: OpenSpan::new("store.append", request.trace, Some(request.span), false),
        request,
        events,
        _writes: fan_out::Storing::begin(now_us()),
    })
}

impl Storing {
    /// The store has answered: the newest of the events that are new, and how many it has.
    pub fn stored(self, newest: Option<EventId>, stored: usize) {
        let attributes = vec![
            ("tidegate.events", Value::Number(self.events as u64)),
            ("tidegate.stored", Value::Number(stored as u64)),
        ];
        self.span.end(false, attributes, stored < self.events);
        if let Some(id) = newest {
            fan_out::watch(id, self.request);
        }
    }
}

pub(super) fn wrote(frames: &[Arc<Frame>]) {
    fan_out::wrote(frames);
}
