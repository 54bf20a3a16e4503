//! The publishing side: one connection that streams numbered, stamped events at a pace.
//!
//! To the gateway it is one NDJSON request; to the floor, lines. Each batch is one `write`, and is answered for in the end:
//! the number that the server says it has stored must be the number that was sent.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::clock::{now_ns, sleep_until};
use crate::figures::{count, float, whole};
use crate::payload::Stamp;
use crate::subscribers::connect;
use crate::target::{Server, Target};

const PATIENCE: Duration = Duration::from_secs(30);
/// Digits of a chunk head: fixed, so that it can be written before the chunk is known.
const CHUNK_HEAD_BYTES: usize = 10;

/// What is to be published, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Topics `t0` to `t(n-1)`, in turn.
    pub(crate) topics: usize,
    pub(crate) events: u64,
    /// `None`: as fast as it goes.
    pub(crate) per_second: Option<f64>,
    /// Events written at once.
    pub(crate) batch: u64,
    pub(crate) payload_bytes: usize,
    /// Deliveries that may be outstanding before the publisher waits.
    pub(crate) window: Option<u64>,
}

impl Plan {
    /// Publishes fewer events a second, for as long as before.
    pub(crate) fn slow_down(&mut self, share: f64) {
        self.per_second = self.per_second.map(|rate| rate * share);
        self.events = whole(float(self.events) * share).max(1);
    }
}

/// The number of the next event in each topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequences(Vec<u64>);

impl Sequences {
    /// The number that the next event of this topic will have.
    pub(crate) fn next(&self, topic: usize) -> u64 {
        self.0.get(topic).copied().unwrap_or(1)
    }

    fn take(&mut self, topic: usize) -> u64 {
        if topic >= self.0.len() {
            self.0.resize(topic + 1, 1);
        }
        self.0[topic] += 1;
        self.0[topic] - 1
    }
}

/// What publisher and subscribers tell each other while both run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Deliveries that the subscribers have seen.
    pub(crate) delivered: Arc<AtomicU64>,
    /// Set by the publisher when its plan is done.
    pub(crate) done: Arc<AtomicBool>,
    /// Tells the publisher to stop before its plan is done.
    pub(crate) stop: Arc<AtomicBool>,
}

/// One publishing connection.
pub(crate) struct Publisher {
    socket: TcpStream,
    target: Target,
    batch: Vec<u8>,
    sent: u64,
}

impl Publisher {
    pub(crate) fn connect(server: &Server) -> Result<Self> {
        let mut socket = connect(server.publish, 0)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        if server.target == Target::Gateway {
            socket.write_all(
                b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
                  Transfer-Encoding: chunked\r\n\r\n",
            )?;
        }
        Ok(Self {
            socket,
            target: server.target,
            batch: Vec::new(),
            sent: 0,
        })
    }

    /// Publishes what the plan says; `fan` is the number of subscribers of each topic.
    pub(crate) fn publish(
        &mut self,
        plan: &Plan,
        fan: u64,
        sequences: &mut Sequences,
        progress: &Progress,
    ) -> Result<()> {
        let (start, mut topic, mut done) = (now_ns(), 0, 0);
        while done < plan.events && !progress.stop.load(Ordering::Relaxed) {
            if let Some(rate) = plan.per_second {
                sleep_until(start + whole(float(done) / rate * 1e9));
            }
            if let Some(window) = plan.window {
                while done * fan > progress.delivered.load(Ordering::Relaxed) + window
                    && !progress.stop.load(Ordering::Relaxed)
                {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            let events = plan.batch.min(plan.events - done);
            self.begin();
            for _ in 0..events {
                let stamp = Stamp {
                    sequence: sequences.take(topic),
                    sent_ns: now_ns(),
                };
                self.push(topic, stamp, plan.payload_bytes);
                topic = (topic + 1) % plan.topics;
            }
            self.send()
                .context("the server stopped reading what is published")?;
            done += events;
        }
        self.sent += done;
        progress.done.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Sends the same bytes `times` times: a publisher that costs the load's core next to nothing.
    pub(crate) fn repeat(
        &mut self,
        topic: usize,
        events: u64,
        times: u64,
        payload_bytes: usize,
    ) -> Result<()> {
        self.begin();
        for sequence in 1..=events {
            self.push(
                topic,
                Stamp {
                    sequence,
                    sent_ns: 0,
                },
                payload_bytes,
            );
        }
        self.end_chunk();
        for _ in 0..times {
            self.socket
                .write_all(&self.batch)
                .context("the server stopped reading what is published")?;
        }
        self.sent += events * times;
        Ok(())
    }

    /// Ends the request and checks that all was stored.
    pub(crate) fn finish(mut self) -> Result<u64> {
        let answer = match self.target {
            Target::Gateway => {
                self.socket.write_all(b"0\r\n\r\n")?;
                read_answer(&mut self.socket)?
            }
            _ => {
                self.socket.shutdown(Shutdown::Write)?;
                let mut answer = String::new();
                self.socket.read_to_string(&mut answer)?;
                answer
            }
        };
        let stored = match self.target {
            Target::Gateway => serde_json::from_str::<serde_json::Value>(&answer)
                .ok()
                .and_then(|summary| summary["stored"].as_u64()),
            _ => answer.trim().parse().ok(),
        };
        ensure!(
            stored == Some(self.sent),
            "{} events were sent, the answer is: {answer}",
            self.sent
        );
        Ok(self.sent)
    }

    fn begin(&mut self) {
        self.batch.clear();
        if self.target == Target::Gateway {
            self.batch.extend_from_slice(&[b'0'; CHUNK_HEAD_BYTES]);
        }
    }

    fn push(&mut self, topic: usize, stamp: Stamp, payload_bytes: usize) {
        let (before, between, after): (&[u8], &[u8], &[u8]) = match self.target {
            Target::Gateway => (b"{\"topic\":\"t", b"\",\"data\":\"", b"\"}\n"),
            _ => (b"t", b"\t", b"\n"),
        };
        self.batch.extend_from_slice(before);
        let _to_memory = write!(self.batch, "{topic}");
        self.batch.extend_from_slice(between);
        stamp.write(&mut self.batch, payload_bytes);
        self.batch.extend_from_slice(after);
    }

    fn end_chunk(&mut self) {
        if self.target == Target::Gateway {
            let head = format!("{:08x}\r\n", count(self.batch.len() - CHUNK_HEAD_BYTES));
            self.batch[..CHUNK_HEAD_BYTES].copy_from_slice(head.as_bytes());
            self.batch.extend_from_slice(b"\r\n");
        }
    }

    fn send(&mut self) -> std::io::Result<()> {
        self.end_chunk();
        self.socket.write_all(&self.batch)
    }
}

/// Each publisher streams to a topic of its own, all at once and as fast as they can. Returns how many events were stored.
pub(crate) fn repeat_all(
    publishers: Vec<Publisher>,
    events: u64,
    times: u64,
    bytes: usize,
) -> Result<u64> {
    let threads: Vec<_> = publishers
        .into_iter()
        .enumerate()
        .map(|(topic, mut publisher)| {
            thread::spawn(move || {
                publisher.repeat(topic, events, times, bytes)?;
                publisher.finish()
            })
        })
        .collect();
    let mut stored = 0;
    for thread in threads {
        stored += thread
            .join()
            .map_err(|_| anyhow!("a publisher panicked"))??;
    }
    Ok(stored)
}

/// Reads one answer with a length and returns its body; any status but 2xx is an error.
pub(crate) fn read_answer(socket: &mut TcpStream) -> Result<String> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.read(&mut buffer).context("no answer to a publish")?;
        answer.extend_from_slice(&buffer[..length]);
        if let Some(head) = memchr::memmem::find(&answer, b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if !text.starts_with("HTTP/1.1 2") {
                bail!("a publish was refused: {text}");
            }
            let body = text.get(head + 4..).unwrap_or_default();
            if content_length(&answer[..head]).is_some_and(|length| body.len() >= length) {
                return Ok(body.to_owned());
            }
        }
        ensure!(
            length > 0,
            "the answer to a publish broke off: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}

/// The length that a head announces.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    })?;
    value.trim().parse().ok()
}
