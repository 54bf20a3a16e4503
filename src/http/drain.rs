//! A deploy is quiet: how a replica leaves.
//!
//! 1. Unready: balancers look away, everything still works (`drain.delay`).
//! 2. New streams are refused, and each open one gets a slot of its own in four fifths of `drain.timeout`: a last cursor, a
//!    time to come back, a whole frame, the end. Publishing goes on.
//! 3. What is left is cut; connections that wait for another request end; requests under way are finished.

use std::{sync::Arc, time::Duration};

use rand::seq::SliceRandom;
use tokio::time::{self, Instant};
use tokio_util::task::TaskTracker;

use super::app::{App, Mode};
use crate::telemetry::CloseReason;

/// A few streams need not take the whole time: closes are at most this far apart on average.
const SLOT: Duration = Duration::from_millis(250);

/// Drains the replica; `connections` are its tasks. Returns within `drain.delay` and `drain.timeout`.
pub async fn drain(app: &Arc<App>, connections: &TaskTracker) {
    app.enter(Mode::Unready);
    tracing::info!(streams = app.streams.len(), delay = ?app.config().drain.delay, timeout = ?app.config().drain.timeout, "draining");
    let delay = app.config().drain.delay;
    if !delay.is_zero() {
        // Even a sleep of no time would be a moment in which it is unready and takes streams.
        time::sleep(delay).await;
    }
    app.enter(Mode::Draining);
    app.draining.cancel();
    let deadline = Instant::now() + app.config().drain.timeout;
    let left = time::timeout_at(deadline - app.config().drain.timeout / 10, leave(app)).await;
    if left.is_err() {
        tracing::warn!(
            streams = app.streams.len(),
            "drain time is over, cutting the rest"
        );
        for handle in app.streams.handles() {
            app.streams.close(&handle, CloseReason::Cut);
            if let Some(kill) = &handle.kill {
                kill.cancel();
            }
        }
    }
    app.closing.cancel();
    connections.close();
    if time::timeout_at(deadline, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "drain time is over, leaving connections behind"
        );
    }
}

/// Closes every stream in its slot and waits until all are gone.
async fn leave(app: &Arc<App>) {
    let mut handles = app.streams.handles();
    handles.shuffle(&mut rand::rng());
    let count = u32::try_from(handles.len()).unwrap_or(u32::MAX).max(1);
    let window = (app.config().drain.timeout * 4 / 5).min(SLOT.saturating_mul(count));
    let started = Instant::now();
    for (at, handle) in (0..count).zip(&handles) {
        // Anywhere within its slot, so that the closes of two replicas do not beat in time.
        let place = f64::from(at) + rand::random_range(0.0..1.0);
        time::sleep_until(started + window.mul_f64(place / f64::from(count))).await;
        app.streams.close(handle, CloseReason::Drain);
    }
    // Streams that were being opened when the drain began have no slot; some may still be about to begin.
    loop {
        for handle in app.streams.handles() {
            app.streams.close(&handle, CloseReason::Drain);
        }
        if time::timeout(SLOT, app.streams.emptied()).await.is_ok() {
            return;
        }
    }
}
