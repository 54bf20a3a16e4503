//! Round trips at a modest rate: what one request takes when nothing else is in its way.
//!
//! Requests are sent when they are due, each connection in its turn. One whose turn comes while its last answer is still
//! missing counts from when it was due: waiting for it would hide how late it was.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use hdrhistogram::Histogram;

use crate::clock::{now_ns, sleep_until};
use crate::figures::{count, float, whole};
use crate::subscribers::connect;

const MOST_NS: u64 = 60_000_000_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, and how it is seen that its answer is complete.
#[derive(Clone)]
pub(crate) struct Exchange {
    pub(crate) server: SocketAddr,
    pub(crate) request: Vec<u8>,
    pub(crate) is_complete: fn(&[u8]) -> Result<bool>,
}

/// How often, how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) connections: usize,
    pub(crate) per_second: f64,
    pub(crate) duration: Duration,
}

impl Pace {
    /// Nanoseconds from each request to its answer.
    pub(crate) fn round_trips(self, exchange: &Exchange) -> Result<Histogram<u64>> {
        let interval = 1e9 / self.per_second;
        let times = whole(self.per_second * self.duration.as_secs_f64() / self.stride()).max(1);
        let start = now_ns() + 50_000_000;
        let threads: Vec<_> = (0..self.connections)
            .map(|turn| {
                let exchange = exchange.clone();
                let due = move |time: u64| {
                    start + whole((float(time) * self.stride() + float(count(turn))) * interval)
                };
                thread::spawn(move || exchange.repeat(times, due))
            })
            .collect();
        let mut all = histogram();
        for thread in threads {
            let one = thread
                .join()
                .map_err(|_| anyhow!("a publisher panicked"))??;
            all.add(one)
                .context("the histograms have the same bounds")?;
        }
        Ok(all)
    }

    fn stride(self) -> f64 {
        float(count(self.connections))
    }
}

impl Exchange {
    fn repeat(self, times: u64, due: impl Fn(u64) -> u64) -> Result<Histogram<u64>> {
        let mut socket = connect(self.server, 0)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut latency = histogram();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        for time in 0..times {
            let due = due(time);
            let since = if now_ns() < due {
                sleep_until(due);
                now_ns()
            } else {
                due
            };
            socket.write_all(&self.request)?;
            answer.clear();
            while !(self.is_complete)(&answer)? {
                let length = socket.read(&mut buffer).context("no answer")?;
                ensure!(
                    length > 0,
                    "the server closed a connection that should stay"
                );
                answer.extend_from_slice(&buffer[..length]);
            }
            latency.saturating_record(now_ns() - since);
        }
        Ok(latency)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, MOST_NS, 3).expect("the bounds are in order")
}
