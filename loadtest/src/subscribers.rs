//! All subscribers of a measurement: one thread, one epoll, nothing allocated for an event.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as BlockingStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::clock::{deadline, now_ns};
use crate::figures::count;
use crate::reader::{After, Position, Reader};
use crate::tally::Tally;
use crate::wire::{self, Protocol, Start, Wire};

const BUFFER_BYTES: usize = 256 * 1024;
const TURN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections from one source address before the next is taken; the kernel has about 28,000 ports for each.
const PORTS_PER_ADDRESS: u64 = 10_000;

/// What one subscriber wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    pub(crate) protocol: Protocol,
    pub(crate) topic: usize,
    pub(crate) start: Start,
    /// The number of the first event that must come.
    pub(crate) next: u64,
}

/// The open streams and what they saw.
pub(crate) struct Subscribers {
    pub(crate) tally: Tally,
    poll: Poll,
    events: Events,
    readers: Vec<Option<Reader>>,
    buffer: Vec<u8>,
    server: SocketAddr,
    connects: u64,
    /// What each shows, in the order in which they are opened, over HTTP/1.1; nothing once there are no more.
    pub(crate) tokens: Vec<String>,
    /// Topic and position of the streams that ended by themselves.
    left: Vec<(usize, Position)>,
}

impl Subscribers {
    pub(crate) fn new(server: SocketAddr) -> Result<Self> {
        Ok(Self {
            tally: Tally::default(),
            poll: Poll::new().context("no epoll")?,
            events: Events::with_capacity(4096),
            readers: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            server,
            connects: 0,
            tokens: Vec::new(),
            left: Vec::new(),
        })
    }

    /// Streams are opened at this server from now on.
    pub(crate) fn turn_to(&mut self, server: SocketAddr) {
        self.server = server;
    }

    /// Opens these streams, at most `in_flight` unanswered at a time, and waits until each has had its first event.
    pub(crate) fn connect(
        &mut self,
        in_flight: u64,
        wanted: impl IntoIterator<Item = Subscription>,
    ) -> Result<()> {
        let before = self.tally.opened;
        let mut asked = 0;
        for subscription in wanted {
            self.ask(subscription)?;
            asked += 1;
            if asked + before >= self.tally.opened + in_flight {
                self.wait_for(PATIENCE, |tally| tally.opened + in_flight > before + asked)?;
            }
        }
        self.wait_for(PATIENCE, |tally| tally.opened == before + asked)
    }

    fn ask(&mut self, subscription: Subscription) -> Result<()> {
        let mut socket = connect(self.server, self.connects)?;
        let topic = format!("t{}", subscription.topic);
        let mut request = wire::subscribe(subscription.protocol, &topic, subscription.start);
        let token = usize::try_from(self.connects).ok();
        if let Some(token) = token.and_then(|number| self.tokens.get(number)) {
            // In place of the blank line.
            request.truncate(request.len() - 2);
            request.extend(format!("Authorization: Bearer {token}\r\n\r\n").bytes());
        }
        self.connects += 1;
        socket
            .write_all(&request)
            .context("a request cannot be sent")?;
        socket.set_nonblocking(true)?;
        let wire = Wire::new(subscription.protocol);
        let mut reader = Reader::new(
            TcpStream::from_std(socket),
            wire,
            subscription.topic,
            subscription.next,
        );
        let token = Token(self.readers.len());
        self.poll
            .registry()
            .register(&mut reader.socket, token, Interest::READABLE)?;
        self.readers.push(Some(reader));
        Ok(())
    }

    /// Lets the last `number` opened streams stop reading.
    pub(crate) fn stick(&mut self, number: usize) {
        for reader in self.readers.iter_mut().rev().take(number).flatten() {
            reader.stuck = true;
            // Not even asked whether there is something: the kernel's buffers fill and stay full.
            let _closed_otherwise = self.poll.registry().deregister(&mut reader.socket);
        }
    }

    /// Handles what is ready, waiting at most `timeout` for something to be.
    pub(crate) fn turn(&mut self, timeout: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(error).context("epoll failed");
            }
            _ => {}
        }
        for event in &self.events {
            let slot = &mut self.readers[event.token().0];
            let Some(reader) = slot else { continue };
            if reader.read(
                event.is_read_closed(),
                &mut self.buffer,
                now_ns,
                &mut self.tally,
            ) == After::Ended
            {
                self.tally.ended += 1;
                self.left.push((reader.topic, reader.position()));
                *slot = None;
            }
        }
        Ok(())
    }

    /// Reads on until `done`, and fails after `patience` without it, or as soon as a stream ended early.
    pub(crate) fn wait_for(
        &mut self,
        patience: Duration,
        done: impl Fn(&Tally) -> bool,
    ) -> Result<()> {
        let until = deadline(patience);
        while !done(&self.tally) {
            self.turn(TURN)?;
            self.tally.faults.check()?;
            if self.tally.ended > 0 {
                bail!("{} streams ended early", self.tally.ended);
            }
            if now_ns() > until {
                bail!(
                    "not done after {patience:?}: {} streams open, {} events arrived",
                    self.tally.opened,
                    self.tally.delivered
                );
            }
        }
        Ok(())
    }

    /// Reads on for as long as this takes.
    pub(crate) fn read_for(&mut self, duration: Duration) -> Result<()> {
        let until = deadline(duration);
        loop {
            let left = until.saturating_sub(now_ns());
            if left == 0 {
                return Ok(());
            }
            self.turn(Duration::from_nanos(left).min(TURN))?;
        }
    }

    /// The topic and the position of each open stream that reads.
    pub(crate) fn positions(&self) -> Vec<(usize, Position)> {
        let open = self.readers.iter().flatten().filter(|reader| !reader.stuck);
        open.map(|reader| (reader.topic, reader.position()))
            .collect()
    }

    /// Reads what a server that is gone has left in the sockets, and returns where each of its streams stood in the end.
    pub(crate) fn bereaved(&mut self) -> Result<Vec<(usize, Position)>> {
        let until = deadline(PATIENCE);
        while self.open() > 0 {
            self.turn(TURN)?;
            self.tally.faults.check()?;
            if now_ns() > until {
                bail!("{} streams outlived their server", self.open());
            }
        }
        self.tally.ended = 0;
        Ok(std::mem::take(&mut self.left))
    }

    pub(crate) fn open(&self) -> u64 {
        count(self.readers.iter().flatten().count())
    }

    /// Closes all.
    pub(crate) fn clear(&mut self) {
        self.readers.clear();
    }
}

/// A blocking connection; the `number` chooses the source address, so that ports never run out.
pub(crate) fn connect(server: SocketAddr, number: u64) -> Result<BlockingStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM.cloexec(), None)
        .context("no socket")?;
    let last = u8::try_from(1 + number / PORTS_PER_ADDRESS % 250).unwrap_or(1);
    let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
    socket
        .bind(&SocketAddr::V4(source).into())
        .with_context(|| format!("no port left at {source}"))?;
    socket
        .connect_timeout(&server.into(), PATIENCE)
        .context("the server does not accept")?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}
