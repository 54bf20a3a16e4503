//! Long-polling subscribers: each has a poll waiting, and asks again with its new cursor as soon as it was answered.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::clock::now_ns;
use crate::payload::Stamp;
use crate::publisher::content_length;
use crate::subscribers::connect;
use crate::tally::Tally;
use crate::ws::text_after;

const BUFFER_BYTES: usize = 64 * 1024;

/// The connections and what they saw. Ready ones count as opened.
pub(crate) struct Pollers {
    pub(crate) tally: Tally,
    poll: Poll,
    events: Events,
    polling: Vec<Poller>,
    buffer: Vec<u8>,
}

struct Poller {
    socket: TcpStream,
    answer: Vec<u8>,
    /// The number of the event that must come next.
    next: u64,
    waits: bool,
}

impl Pollers {
    /// Lets `number` of them follow `t0` from now on, whose next event has the number `next`.
    pub(crate) fn connect(server: SocketAddr, number: usize, next: u64) -> Result<Self> {
        let poll = Poll::new().context("no epoll")?;
        let mut polling = Vec::with_capacity(number);
        for index in 0..number {
            let socket = connect(server, crate::figures::count(index))?;
            socket.set_nonblocking(true)?;
            let mut poller = Poller {
                socket: TcpStream::from_std(socket),
                answer: Vec::new(),
                next,
                waits: false,
            };
            poll.registry()
                .register(&mut poller.socket, Token(index), Interest::READABLE)?;
            // The first one only takes a cursor.
            poller.socket.write_all(&request("wait=0s"))?;
            polling.push(poller);
        }
        Ok(Self {
            tally: Tally::default(),
            poll,
            events: Events::with_capacity(4096),
            polling,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Handles what is ready, waiting at most `timeout` for something to be.
    pub(crate) fn turn(&mut self, timeout: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(error).context("epoll failed");
            }
            _ => {}
        }
        for event in &self.events {
            let poller = &mut self.polling[event.token().0];
            loop {
                match poller.socket.read(&mut self.buffer) {
                    Ok(0) => bail!("the server closed a connection that should stay"),
                    Ok(length) => poller.answer.extend_from_slice(&self.buffer[..length]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("a connection broke"),
                }
            }
            poller.take(&mut self.tally)?;
        }
        Ok(())
    }
}

impl Poller {
    /// Judges an answer that is complete, and asks again.
    fn take(&mut self, tally: &mut Tally) -> Result<()> {
        let Some(head) = memchr::memmem::find(&self.answer, b"\r\n\r\n") else {
            return Ok(());
        };
        ensure!(
            self.answer.starts_with(b"HTTP/1.1 200"),
            "a poll was refused: {}",
            String::from_utf8_lossy(&self.answer)
        );
        let length = content_length(&self.answer[..head]).context("an answer without a length")?;
        let Some(body) = self.answer.get(head + 4..head + 4 + length) else {
            return Ok(());
        };
        let now_ns = now_ns();
        // Data has no quotes here, so no member can be forged.
        for at in memchr::memmem::find_iter(body, b"\"data\":\"") {
            let stamp = text_after(&body[at..], b"\"data\":\"").and_then(Stamp::read);
            let stamp = stamp.context("an event without a stamp")?;
            let (sequence, due) = (stamp.sequence, self.next);
            if sequence != due {
                tally.faults.note(
                    |faults| {
                        if sequence > due {
                            &mut faults.lost
                        } else {
                            &mut faults.repeated
                        }
                    },
                    1,
                    || format!("event {sequence} where {due} was due"),
                );
            }
            self.next = sequence + 1;
            tally.delivered += 1;
            tally.record(stamp.sent_ns, now_ns);
        }
        if memchr::memmem::find(body, b"\"replay\":\"gap\"").is_some() {
            tally
                .faults
                .note(|faults| &mut faults.gaps, 1, || "a poll told a gap".into());
        }
        let cursor = memchr::memmem::rfind(body, b"\"cursor\":\"")
            .and_then(|at| text_after(&body[at..], b"\"cursor\":\""))
            .context("an answer without a cursor")?;
        let cursor = String::from_utf8_lossy(cursor);
        let again = request(&format!("wait=25s&lastEventId={cursor}"));
        self.socket
            .write_all(&again)
            .context("a request cannot be sent")?;
        self.answer.clear();
        tally.opened += u64::from(!std::mem::replace(&mut self.waits, true));
        Ok(())
    }
}

/// A poll of `t0`.
pub(crate) fn request(query: &str) -> Vec<u8> {
    format!("GET /poll?topic=t0&{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}
