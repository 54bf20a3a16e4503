//! A build without traces: nothing begins, so nothing can be a part of it.

use std::{convert::Infallible, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{RequestEnd, TraceId, TraceParent, TracesError};
use crate::event::{EventId, Frame};

/// There is none.
#[derive(Debug)]
pub struct Exporter(Infallible);

/// There is none.
#[derive(Debug)]
pub struct Storing(Infallible);

#[derive(Debug)]
pub(super) struct OpenSpan(Infallible);

pub(super) fn start(_: &str, _: f64) -> Result<Exporter, TracesError> {
    Err(TracesError::NotBuilt)
}

pub(super) fn root(_: &'static str, _: Option<TraceParent>) -> Option<OpenSpan> {
    None
}

pub(super) fn storing(_: usize, _: impl FnOnce() -> u64) -> Option<Storing> {
    None
}

pub(super) fn wrote(_: &[Arc<Frame>]) {}

impl OpenSpan {
    pub(super) fn trace(&self) -> TraceId {
        match self.0 {}
    }

    #[expect(clippy::unused_async, reason = "as in span.rs")]
    pub(super) async fn scope<F: Future>(&self, _: F) -> F::Output {
        match self.0 {}
    }

    pub(super) fn end_request(self, _: &RequestEnd<'_>) {
        match self.0 {}
    }
}

impl Storing {
    /// There is none.
    pub fn stored(self, _: Option<EventId>, _: usize) {
        match self.0 {}
    }
}

impl Exporter {
    /// There is none.
    #[expect(clippy::unused_async, reason = "as in export.rs")]
    pub async fn run(self, _: CancellationToken) {
        match self.0 {}
    }
}
