//! One subscriber: a socket, the parsers of its answer, and the number of the event that must come next.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;

use crate::stream::{Arrival, EventId, Kind, Sse};
use crate::tally::Tally;
use crate::wire::Wire;
use crate::ws;

/// One open stream.
pub(crate) struct Reader {
    pub(crate) socket: TcpStream,
    pub(crate) topic: usize,
    /// Whether it reads at all.
    pub(crate) stuck: bool,
    wire: Wire,
    sse: Sse,
    replies: Vec<u8>,
    position: Position,
}

/// How far a subscriber has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The number within the topic that must come next.
    pub(crate) next: u64,
    pub(crate) id: EventId,
    pub(crate) opened: bool,
}

/// Whether the stream goes on after a piece of it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Waiting,
    Ended,
}

impl Reader {
    pub(crate) fn new(socket: TcpStream, wire: Wire, topic: usize, next: u64) -> Self {
        Self {
            socket,
            topic,
            stuck: false,
            wire,
            sse: Sse::default(),
            replies: Vec::new(),
            position: Position {
                next,
                ..Position::default()
            },
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Reads what the socket has. Readiness is told once (edge), so it goes on until there is nothing left, and to the end
    /// when that has been told too (`closed`).
    pub(crate) fn read(
        &mut self,
        closed: bool,
        buffer: &mut [u8],
        now_ns: impl Fn() -> u64,
        tally: &mut Tally,
    ) -> After {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return After::Ended,
                Ok(length) => {
                    let after = self.take(&buffer[..length], now_ns(), tally);
                    // A short read has emptied the socket: what comes later is told anew.
                    if after == After::Ended || (length < buffer.len() && !closed) {
                        return after;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return After::Waiting,
                Err(_) => return After::Ended,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], now_ns: u64, tally: &mut Tally) -> After {
        let Self {
            wire,
            sse,
            position,
            replies,
            topic,
            ..
        } = self;
        let messages = matches!(wire, Wire::WebSocket(_));
        let fed = wire.feed(bytes, replies, &mut |body| {
            if messages {
                position.arrive(ws::arrival(body), *topic, now_ns, tally);
            } else {
                sse.feed(body, &mut |arrival| {
                    position.arrive(arrival, *topic, now_ns, tally);
                });
            }
        });
        if let Err(error) = fed {
            let topic = self.topic;
            tally.faults.note(
                |faults| &mut faults.unreadable,
                1,
                || format!("{error:?} on a stream of t{topic}"),
            );
            return After::Ended;
        }
        if !matches!(self.wire.status(), 0 | 101 | 200) {
            let (status, start) = (self.wire.status(), String::from_utf8_lossy(bytes));
            tally.faults.note(
                |faults| &mut faults.refused,
                1,
                || {
                    format!(
                        "status {status}: {}",
                        start.chars().take(600).collect::<String>()
                    )
                },
            );
            return After::Ended;
        }
        if !self.replies.is_empty() {
            // Acknowledgements and pongs are a few bytes now and then: the socket has room for them.
            let _gone_otherwise = self.socket.write(&self.replies);
            self.replies = Vec::new();
        }
        if self.wire.is_done() {
            After::Ended
        } else {
            After::Waiting
        }
    }
}

impl Position {
    pub(crate) fn arrive(
        &mut self,
        arrival: Arrival,
        topic: usize,
        now_ns: u64,
        tally: &mut Tally,
    ) {
        match arrival.kind {
            Kind::Open => {
                tally.opened += u64::from(!self.opened);
                self.opened = true;
                if let Some(id) = arrival.id {
                    self.id = id;
                }
                if arrival.gap {
                    tally.faults.note(
                        |faults| &mut faults.gaps,
                        1,
                        || format!("$open of t{topic} announces a gap"),
                    );
                }
            }
            Kind::Live => tally.live += 1,
            Kind::Gap => {
                tally
                    .faults
                    .note(|faults| &mut faults.gaps, 1, || format!("$gap on t{topic}"));
            }
            Kind::Refused => tally.faults.note(
                |faults| &mut faults.refused,
                1,
                || format!("$refused on t{topic}"),
            ),
            Kind::Control => {}
            Kind::Message => self.event(arrival, topic, now_ns, tally),
        }
    }

    fn event(&mut self, arrival: Arrival, topic: usize, now_ns: u64, tally: &mut Tally) {
        tally.delivered += 1;
        let (Some(stamp), Some(id)) = (arrival.stamp, arrival.id) else {
            return tally.faults.note(
                |faults| &mut faults.unreadable,
                1,
                || format!("an event of t{topic} without id or stamp"),
            );
        };
        if id <= self.id {
            tally.faults.note(
                |faults| &mut faults.disordered,
                1,
                || format!("t{topic}: id {id} after {}", self.id),
            );
        }
        let (sequence, next) = (stamp.sequence, self.next);
        if sequence > next {
            tally.faults.note(
                |faults| &mut faults.lost,
                sequence - next,
                || format!("t{topic}: event {sequence} where {next} was due"),
            );
        } else if sequence < next {
            tally.faults.note(
                |faults| &mut faults.repeated,
                1,
                || format!("t{topic}: event {sequence} again, {next} was due"),
            );
        }
        self.id = self.id.max(id);
        self.next = next.max(sequence + 1);
        tally.record(stamp.sent_ns, now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Stamp;

    fn arrival(sequence: u64, id: &str) -> Arrival {
        Arrival {
            id: EventId::read(id.as_bytes()),
            stamp: Some(Stamp {
                sequence,
                sent_ns: 0,
            }),
            ..Arrival::default()
        }
    }

    fn faults(arrivals: &[(u64, &str)]) -> (u64, u64, u64) {
        let mut position = Position {
            next: 1,
            ..Position::default()
        };
        let mut tally = Tally::default();
        for (sequence, id) in arrivals {
            position.arrive(arrival(*sequence, id), 0, 0, &mut tally);
        }
        (
            tally.faults.lost,
            tally.faults.repeated,
            tally.faults.disordered,
        )
    }

    #[test]
    fn an_ordered_stream_has_no_faults() {
        assert_eq!(faults(&[(1, "1-0"), (2, "1-1"), (3, "2-0")]), (0, 0, 0));
    }

    #[test]
    fn a_hole_a_repetition_and_a_step_back_are_seen() {
        assert_eq!(faults(&[(1, "1-0"), (4, "1-1")]), (2, 0, 0));
        assert_eq!(faults(&[(1, "1-0"), (1, "1-1")]), (0, 1, 0));
        assert_eq!(faults(&[(1, "5-0"), (2, "4-0")]), (0, 0, 1));
        assert_eq!(faults(&[(2, "1-0")]), (1, 0, 0));
    }
}
