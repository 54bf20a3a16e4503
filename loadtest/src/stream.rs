//! The SSE format as a subscriber reads it: piece by piece, without an allocation.
//!
//! Only what a measurement needs is kept of an event: its id, what kind it is, and the stamp of its payload.

use crate::line::Line;
use crate::payload::Stamp;

/// The place of an event in its log; ordered as the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventId {
    milliseconds: u64,
    sequence: u64,
}

impl EventId {
    /// Reads the text form `ms-seq`.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let dash = memchr::memchr(b'-', text)?;
        Some(Self {
            milliseconds: decimal(&text[..dash])?,
            sequence: decimal(&text[dash + 1..])?,
        })
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

/// What an event is to the measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An event that somebody published.
    #[default]
    Message,
    /// The gateway's first word on a stream.
    Open,
    /// The stream has caught up.
    Live,
    /// The gateway tells of a hole.
    Gap,
    /// A temporary refusal, dressed as a stream.
    Refused,
    /// Any other word of the gateway.
    Control,
}

/// One event as it came out of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) kind: Kind,
    pub(crate) id: Option<EventId>,
    pub(crate) stamp: Option<Stamp>,
    /// `$open` that announces a gap.
    pub(crate) gap: bool,
    pub(crate) has_data: bool,
}

/// The parser of one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sse {
    line: Line,
    arrival: Arrival,
}

impl Sse {
    /// Reads the next piece of the stream and hands out each event that it completes.
    pub(crate) fn feed(&mut self, bytes: &[u8], take: &mut impl FnMut(Arrival)) {
        let arrival = &mut self.arrival;
        self.line.split(bytes, |line| {
            if line.is_empty() {
                let arrival = std::mem::take(arrival);
                if arrival.has_data {
                    take(arrival);
                }
            } else {
                arrival.field(line);
            }
            true
        });
    }
}

impl Arrival {
    fn field(&mut self, line: &[u8]) {
        if let Some(data) = line.strip_prefix(b"data:") {
            let data = data.strip_prefix(b" ").unwrap_or(data);
            if !self.has_data {
                self.stamp = Stamp::read(data);
            }
            self.gap = self.kind == Kind::Open
                && memchr::memmem::find(data, b"\"replay\":\"gap\"").is_some();
            self.has_data = true;
        } else if let Some(id) = line.strip_prefix(b"id:") {
            self.id = EventId::read(id.strip_prefix(b" ").unwrap_or(id));
        } else if let Some(kind) = line.strip_prefix(b"event:") {
            self.kind = match kind.strip_prefix(b" ").unwrap_or(kind) {
                b"$open" => Kind::Open,
                b"$live" => Kind::Live,
                b"$gap" => Kind::Gap,
                b"$refused" => Kind::Refused,
                other if other.starts_with(b"$") => Kind::Control,
                _ => Kind::Message,
            };
        }
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, &digit| {
        let value = digit.checked_sub(b'0').filter(|value| *value < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Arrival> {
        let mut sse = Sse::default();
        let mut arrivals = Vec::new();
        for piece in pieces {
            sse.feed(piece, &mut |arrival| arrivals.push(arrival));
        }
        arrivals
    }

    fn stream() -> Vec<u8> {
        let mut text = b"retry: 3271\nid: 1732096700000-3\nevent: $open\ndata: {\"connection\":\"a\"}\n\n: keepalive\n\n".to_vec();
        text.extend(b"id: 1732096800123-0\ndata: ");
        Stamp {
            sequence: 7,
            sent_ns: 42,
        }
        .write(&mut text, 300);
        text.extend(b"\n\nevent: $live\nid: 1732096800123-0\ndata: {}\n\n");
        text
    }

    #[test]
    fn events_come_out_with_kind_id_and_stamp() {
        let found = arrivals([stream().as_slice()]);
        let kinds: Vec<Kind> = found.iter().map(|arrival| arrival.kind).collect();
        assert_eq!(kinds, [Kind::Open, Kind::Message, Kind::Live]);
        assert_eq!(
            found[1].stamp,
            Some(Stamp {
                sequence: 7,
                sent_ns: 42
            })
        );
        assert_eq!(found[1].id, EventId::read(b"1732096800123-0"));
    }

    #[test]
    fn it_does_not_matter_where_the_stream_is_cut() {
        let text = stream();
        let whole = arrivals([text.as_slice()]);
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(arrivals([head, tail]), whole, "cut at {cut}");
        }
        assert_eq!(arrivals(text.chunks(1)), whole);
    }

    #[test]
    fn a_comment_or_an_id_alone_is_no_event() {
        assert_eq!(
            arrivals([b": keepalive\n\nid: 5-0\n\nretry: 3\n\n".as_slice()]),
            []
        );
    }

    #[test]
    fn an_announced_gap_is_seen() {
        let text = b"id: 1-0\nevent: $open\ndata: {\"replay\":\"gap\"}\n\n";
        assert!(arrivals([text.as_slice()])[0].gap);
    }

    #[test]
    fn ids_are_ordered_by_both_parts() {
        assert!(EventId::read(b"9-0") < EventId::read(b"10-0"));
        assert!(EventId::read(b"10-9") < EventId::read(b"10-10"));
        assert_eq!(EventId::read(b"10"), None);
        assert_eq!(EventId::read(b"-1"), None);
    }
}
