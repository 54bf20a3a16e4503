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

/// The connections of a closed loop.
pub(crate) struct Requests {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    request: Vec<u8>,
    /// Requests that were answered with 2xx.
    pub(crate) answered: u64,
}

struct Connection {
    socket: TcpStream,
    answer: Vec<u8>,
}

impl Requests {
    pub(crate) fn connect(
        server: SocketAddr,
        connections: usize,
        payload_bytes: usize,
    ) -> Result<Self> {
        let poll = Poll::new().context("no epoll")?;
        let mut requests = Self {
            poll,
            events: Events::with_capacity(1024),
            connections: Vec::with_capacity(connections),
            request: request(payload_bytes),
            answered: 0,
        };
        for index in 0..connections {
            let socket = connect(server, 0)?;
            socket.set_nonblocking(true)?;
            let mut connection = Connection {
                socket: TcpStream::from_std(socket),
                answer: Vec::new(),
            };
            requests.poll.registry().register(
                &mut connection.socket,
                Token(index),
                Interest::READABLE,
            )?;
            connection.socket.write_all(&requests.request)?;
            requests.connections.push(connection);
        }
        Ok(requests)
    }

    /// Sends a request on each connection as soon as its last one has been answered, for `duration`.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<()> {
        let until = deadline(duration);
        let mut buffer = [0; 4096];
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
                        .write_all(&self.request)
                        .context("a request cannot be sent")?;
                }
            }
        }
        Ok(())
    }
}

fn is_complete(answer: &[u8]) -> Result<bool> {
    let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else {
        return Ok(false);
    };
    ensure!(
        answer.starts_with(b"HTTP/1.1 2"),
        "a publish was refused: {}",
        String::from_utf8_lossy(answer)
    );
    let length = content_length(&answer[..head]).context("an answer without a length")?;
    Ok(answer.len() >= head + 4 + length)
}

fn request(payload_bytes: usize) -> Vec<u8> {
    let mut data = Vec::new();
    Stamp {
        sequence: 1,
        sent_ns: 0,
    }
    .write(&mut data, payload_bytes);
    let data = String::from_utf8_lossy(&data);
    let body = format!("{{\"topic\":\"t0\",\"data\":\"{data}\"}}");
    format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
