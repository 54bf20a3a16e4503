//! Publishers that send one request at a time over connections that stay: a closed loop of many, on one thread.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::clock::{deadline, now_ns};
use crate::payload::Stamp;
use crate::publisher::content_length;
use crate::subscribers::connect;

/// More than the longest answer: readiness is told once for all of it.
const BUFFER_BYTES: usize = 64 * 1024;

/// The connections of a closed loop.
pub(crate) struct Requests {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    /// Requests that were answered with 2xx.
    pub(crate) answered: u64,
}

struct Connection {
    socket: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Requests {
    /// Each connection publishes one event at a time to the same topic.
    pub(crate) fn connect(
        server: SocketAddr,
        connections: usize,
        payload_bytes: usize,
    ) -> Result<Self> {
        Self::with(server, vec![single("t0", payload_bytes); connections])
    }

    /// One connection for each of these requests, which it sends again and again.
    pub(crate) fn with(server: SocketAddr, requests: Vec<Vec<u8>>) -> Result<Self> {
        let poll = Poll::new().context("no epoll")?;
        let mut closed_loop = Self {
            poll,
            events: Events::with_capacity(1024),
            connections: Vec::with_capacity(requests.len()),
            answered: 0,
        };
        for (index, request) in requests.into_iter().enumerate() {
            let socket = connect(server, 0)?;
            socket.set_nonblocking(true)?;
            let mut connection = Connection {
                socket: TcpStream::from_std(socket),
                request,
                answer: Vec::new(),
            };
            closed_loop.poll.registry().register(
                &mut connection.socket,
                Token(index),
                Interest::READABLE,
            )?;
            connection.socket.write_all(&connection.request)?;
            closed_loop.connections.push(connection);
        }
        Ok(closed_loop)
    }

    /// Sends a request on each connection as soon as its last one has been answered, for `duration`.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<()> {
        let until = deadline(duration);
        let mut buffer = vec![0; BUFFER_BYTES];
        while now_ns() < until {
            match self
                .poll
                .poll(&mut self.events, Some(Duration::from_secs(1)))
            {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(error).context("epoll failed");
                }
                _ => {}
            }
            for event in &self.events {
                let connection = &mut self.connections[event.token().0];
                let length = match connection.socket.read(&mut buffer) {
                    Ok(0) => bail!("the server closed a connection that should stay"),
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error).context("a connection broke"),
                };
                connection.answer.extend_from_slice(&buffer[..length]);
                if is_complete(&connection.answer)? {
                    connection.answer.clear();
                    self.answered += 1;
                    // One small request on a connection whose last one has been answered: the socket has room for it.
                    connection
                        .socket
                        .write_all(&connection.request)
                        .context("a request cannot be sent")?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a publish has been answered. That some events of it were refused is an error, too.
pub(crate) fn is_complete(answer: &[u8]) -> Result<bool> {
    let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else {
        return Ok(false);
    };
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "a publish was refused: {}",
        String::from_utf8_lossy(answer)
    );
    let length = content_length(&answer[..head]).context("an answer without a length")?;
    Ok(answer.len() >= head + 4 + length)
}

/// A request that publishes one event.
pub(crate) fn single(topic: &str, payload_bytes: usize) -> Vec<u8> {
    request(&event(topic, payload_bytes))
}

/// A request that publishes an array of events to one topic.
pub(crate) fn array(topic: &str, events: usize, payload_bytes: usize) -> Vec<u8> {
    let events = vec![event(topic, payload_bytes); events];
    request(&format!("[{}]", events.join(",")))
}

fn event(topic: &str, payload_bytes: usize) -> String {
    let mut data = Vec::new();
    Stamp {
        sequence: 1,
        sent_ns: 0,
    }
    .write(&mut data, payload_bytes);
    let data = String::from_utf8_lossy(&data);
    format!("{{\"topic\":\"{topic}\",\"data\":\"{data}\"}}")
}

fn request(body: &str) -> Vec<u8> {
    format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
