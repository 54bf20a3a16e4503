//! The floor: a bare single-thread epoll server that sends the same bytes with one `write` per connection and event.
//!
//! It knows nothing but topics: no cursor check, no keepalive, no limit, no log line. What a gateway costs above it is what
//! the gateway does; what both cost is the kernel's TCP. With `--keep` it also remembers the frames of each topic and sends
//! them again from memory, which is the measure of a replay.
//!
//! Subscribers connect to one port and are read roughly; publishers connect to another and send `topic<TAB>data` lines. A
//! publisher that closes its sending side is answered with the number of lines that were sent on.

mod frame;
mod request;
mod topics;

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::{Domain, Socket, Type};

use self::frame::{Id, encode, next_id};
use self::request::{start_of, topic_of};
use self::topics::Topics;

const SUBSCRIBERS: Token = Token(usize::MAX - 1);
const PUBLISHERS: Token = Token(usize::MAX - 2);
const BUFFER_BYTES: usize = 64 * 1024;
const BACKLOG: i32 = 4096;
/// A subscriber that lets more than this wait is dropped: the floor has memory for everybody or for nobody.
const MOST_PENDING_BYTES: usize = 8 * 1024 * 1024;
const MOST_REQUEST_BYTES: usize = 8 * 1024;
const REPLAY_WRITE_BYTES: usize = 256 * 1024;

/// Serves until the process is ended.
pub(crate) fn serve(listen: SocketAddr, publish: SocketAddr, keep: bool) -> Result<()> {
    let mut poll = Poll::new().context("no epoll")?;
    let mut floor = Floor {
        registry: poll.registry().try_clone().context("no epoll")?,
        subscribers: listener(listen)?,
        publishers: listener(publish)?,
        peers: Vec::new(),
        free: Vec::new(),
        topics: Topics::default(),
        keep,
        last: (0, 0),
        frame: Vec::new(),
    };
    floor
        .registry
        .register(&mut floor.subscribers, SUBSCRIBERS, Interest::READABLE)?;
    floor
        .registry
        .register(&mut floor.publishers, PUBLISHERS, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(error).context("epoll failed");
            }
            _ => {}
        }
        for event in &events {
            match event.token() {
                SUBSCRIBERS => floor.accept(SUBSCRIBERS),
                PUBLISHERS => floor.accept(PUBLISHERS),
                Token(index) => floor.turn(index, event, &mut buffer),
            }
        }
    }
}

struct Floor {
    registry: Registry,
    subscribers: TcpListener,
    publishers: TcpListener,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    topics: Topics,
    keep: bool,
    /// The id given last.
    last: Id,
    frame: Vec<u8>,
}

struct Peer {
    socket: TcpStream,
    role: Role,
}

enum Role {
    /// Has not said yet what it wants.
    Asking(Vec<u8>),
    Subscriber(Subscriber),
    /// The line that has not ended yet, and how many have.
    Publisher {
        partial: Vec<u8>,
        lines: u64,
    },
}

struct Subscriber {
    topic: usize,
    /// Its place among the topic's members.
    member: usize,
    pending: Vec<u8>,
    /// How far into the topic's kept bytes it has been sent, while it is behind.
    replay: Option<usize>,
}

impl Floor {
    fn accept(&mut self, kind: Token) {
        loop {
            let listener = if kind == SUBSCRIBERS {
                &self.subscribers
            } else {
                &self.publishers
            };
            let Ok((socket, _)) = listener.accept() else {
                return;
            };
            let _without_delay = socket.set_nodelay(true);
            let role = if kind == SUBSCRIBERS {
                Role::Asking(Vec::new())
            } else {
                Role::Publisher {
                    partial: Vec::new(),
                    lines: 0,
                }
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            let mut peer = Peer { socket, role };
            if self
                .registry
                .register(&mut peer.socket, Token(index), Interest::READABLE)
                .is_ok()
            {
                self.peers[index] = Some(peer);
            } else {
                self.free.push(index);
            }
        }
    }

    fn turn(&mut self, index: usize, event: &Event, buffer: &mut [u8]) {
        if event.is_writable() {
            self.flush(index);
        }
        if event.is_readable() {
            self.read(index, event.is_read_closed(), buffer);
        }
    }

    fn read(&mut self, index: usize, closed: bool, buffer: &mut [u8]) {
        loop {
            let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else {
                return;
            };
            match peer.socket.read(buffer) {
                Ok(0) => return self.leave(index),
                Ok(length) => {
                    let bytes = &buffer[..length];
                    match &mut peer.role {
                        Role::Asking(_) => self.ask(index, bytes),
                        Role::Subscriber(_) => {}
                        Role::Publisher { .. } => self.take_lines(index, bytes),
                    }
                    // A short read has emptied the socket, unless its end has been told together with its bytes.
                    if length < buffer.len() && !closed {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.leave(index),
            }
        }
    }

    fn ask(&mut self, index: usize, bytes: &[u8]) {
        let Some(Peer {
            role: Role::Asking(request),
            ..
        }) = &mut self.peers[index]
        else {
            return;
        };
        request.extend_from_slice(bytes);
        if memchr::memmem::find(request, b"\r\n\r\n").is_some() {
            let request = std::mem::take(request);
            self.answer(index, &request);
        } else if request.len() > MOST_REQUEST_BYTES
            || !b"GET ".starts_with(&request[..request.len().min(4)])
        {
            self.leave(index);
        }
    }

    fn answer(&mut self, index: usize, request: &[u8]) {
        let topic = self.topics.find(topic_of(request));
        let log = &mut self.topics.all[topic];
        let start = start_of(request);
        let behind = start
            .map(|id| log.offset_after(id))
            .filter(|from| *from < log.kept.len());
        let cursor = start.unwrap_or(self.last);
        let open = format!(
            "retry: 3000\nid: {}-{}\nevent: $open\ndata: {{}}\n\n",
            cursor.0, cursor.1
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{open}\r\n",
            open.len()
        );
        let Some(peer) = &mut self.peers[index] else {
            return;
        };
        if !peer
            .socket
            .write(head.as_bytes())
            .is_ok_and(|sent| sent == head.len())
        {
            return self.leave(index);
        }
        log.members.push(index);
        peer.role = Role::Subscriber(Subscriber {
            topic,
            member: log.members.len() - 1,
            pending: Vec::new(),
            replay: behind,
        });
        if behind.is_some() {
            self.watch(index, Interest::READABLE | Interest::WRITABLE);
            self.flush(index);
        }
    }

    fn take_lines(&mut self, index: usize, mut bytes: &[u8]) {
        let Some(Peer {
            role: Role::Publisher { partial, lines },
            ..
        }) = &mut self.peers[index]
        else {
            return;
        };
        let (mut begun, mut taken) = (std::mem::take(partial), *lines);
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if begun.is_empty() {
                self.publish(&bytes[..end]);
            } else {
                begun.extend_from_slice(&bytes[..end]);
                self.publish(&begun);
                begun.clear();
            }
            taken += 1;
            bytes = &bytes[end + 1..];
        }
        begun.extend_from_slice(bytes);
        if let Some(Peer {
            role: Role::Publisher { partial, lines },
            ..
        }) = &mut self.peers[index]
        {
            (*partial, *lines) = (begun, taken);
        }
    }

    fn publish(&mut self, line: &[u8]) {
        let Some(tab) = memchr::memchr(b'\t', line) else {
            return;
        };
        let topic = self.topics.find(&line[..tab]);
        let mut frame = std::mem::take(&mut self.frame);
        self.last = next_id(self.last);
        encode(&mut frame, self.last, &line[tab + 1..]);
        let log = &mut self.topics.all[topic];
        if self.keep {
            log.keep(self.last, &frame);
        }
        let mut left = Vec::new();
        for &member in &log.members {
            let Some(Peer {
                socket,
                role: Role::Subscriber(subscriber),
            }) = &mut self.peers[member]
            else {
                continue;
            };
            if subscriber.replay.is_some() {
                continue;
            }
            let sent = if subscriber.pending.is_empty() {
                socket.write(&frame)
            } else {
                Ok(0)
            };
            match sent {
                Ok(sent) if sent == frame.len() => {}
                Ok(sent) => left.push((member, sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => left.push((member, 0)),
                Err(_) => left.push((member, frame.len())),
            }
        }
        for (member, sent) in left {
            self.wait(member, &frame[sent..]);
        }
        self.frame = frame;
    }

    /// Keeps what a socket did not take (nothing: the socket is broken).
    fn wait(&mut self, index: usize, rest: &[u8]) {
        let Some(Peer {
            role: Role::Subscriber(subscriber),
            ..
        }) = &mut self.peers[index]
        else {
            return;
        };
        let first = subscriber.pending.is_empty();
        subscriber.pending.extend_from_slice(rest);
        if rest.is_empty() || subscriber.pending.len() > MOST_PENDING_BYTES {
            self.leave(index);
        } else if first {
            self.watch(index, Interest::READABLE | Interest::WRITABLE);
        }
    }

    fn flush(&mut self, index: usize) {
        let Some(Some(Peer {
            socket,
            role: Role::Subscriber(subscriber),
        })) = self.peers.get_mut(index)
        else {
            return;
        };
        while !subscriber.pending.is_empty() {
            match socket.write(&subscriber.pending) {
                Ok(sent) => drop(subscriber.pending.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.leave(index),
            }
        }
        let kept = &self.topics.all[subscriber.topic].kept;
        while let Some(from) = subscriber.replay {
            let end = kept.len().min(from + REPLAY_WRITE_BYTES);
            match socket.write(&kept[from..end]) {
                Ok(sent) => subscriber.replay = Some(from + sent).filter(|from| *from < kept.len()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.leave(index),
            }
        }
        self.watch(index, Interest::READABLE);
    }

    fn watch(&mut self, index: usize, interest: Interest) {
        if let Some(peer) = &mut self.peers[index] {
            let _closed_otherwise =
                self.registry
                    .reregister(&mut peer.socket, Token(index), interest);
        }
    }

    fn leave(&mut self, index: usize) {
        let Some(mut peer) = self.peers[index].take() else {
            return;
        };
        match &peer.role {
            Role::Subscriber(subscriber) => self.forget(subscriber),
            Role::Publisher { lines, .. } => {
                let _reader_gone = peer.socket.write(format!("{lines}\n").as_bytes());
            }
            Role::Asking(_) => {}
        }
        let _closed_otherwise = self.registry.deregister(&mut peer.socket);
        self.free.push(index);
    }

    fn forget(&mut self, subscriber: &Subscriber) {
        let members = &mut self.topics.all[subscriber.topic].members;
        members.swap_remove(subscriber.member);
        if let Some(&moved) = members.get(subscriber.member)
            && let Some(Peer {
                role: Role::Subscriber(moved),
                ..
            }) = &mut self.peers[moved]
        {
            moved.member = subscriber.member;
        }
    }
}

fn listener(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket
        .bind(&address.into())
        .with_context(|| format!("cannot listen on {address}"))?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}
