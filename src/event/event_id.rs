//! The place of an event in its log.

use std::{fmt, str::FromStr};

/// The place of an event in its log: Unix milliseconds, then a sequence number within that millisecond.
///
/// Ordered as the log is ordered. The text form `ms-seq` is that of Redis Streams and of `Last-Event-ID`.
///
/// ```
/// use tidegate::event::EventId;
///
/// let id: EventId = "1732096800123-0".parse()?;
/// assert!(id < id.next());
/// assert_eq!(id.to_string(), "1732096800123-0");
/// # Ok::<(), tidegate::event::EventIdError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    ms: u64,
    seq: u64,
}

/// Why a text is no event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an event id is <milliseconds>-<sequence>, two decimal numbers below 2^64 without leading zeros"
)]
pub struct EventIdError;

impl EventId {
    /// The id before every event: `0-0`.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };
    /// No event comes after this one.
    pub const MAX: Self = Self {
        ms: u64::MAX,
        seq: u64::MAX,
    };

    /// An id of its two parts.
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq }
    }

    /// The Unix milliseconds.
    pub const fn ms(self) -> u64 {
        self.ms
    }

    /// The number within the millisecond.
    pub const fn seq(self) -> u64 {
        self.seq
    }

    /// The smallest id above this one ([`EventId::MAX`] stays).
    #[must_use]
    pub const fn next(self) -> Self {
        match (self.ms, self.seq) {
            (u64::MAX, u64::MAX) => self,
            (ms, u64::MAX) => Self { ms: ms + 1, seq: 0 },
            (ms, seq) => Self { ms, seq: seq + 1 },
        }
    }

    /// The greatest id below this one (`0-0` stays).
    #[must_use]
    pub const fn previous(self) -> Self {
        match (self.ms, self.seq) {
            (0, 0) => self,
            (ms, 0) => Self {
                ms: ms - 1,
                seq: u64::MAX,
            },
            (ms, seq) => Self { ms, seq: seq - 1 },
        }
    }

    /// Appends the text form, without the detour over [`fmt`].
    pub fn write_to(self, out: &mut Vec<u8>) {
        write_decimal(self.ms, out);
        out.push(b'-');
        write_decimal(self.seq, out);
    }

    /// Length of the text form in bytes.
    pub fn text_len(self) -> usize {
        decimal_len(self.ms) + 1 + decimal_len(self.seq)
    }
}

fn decimal_len(number: u64) -> usize {
    number
        .checked_ilog10()
        .map_or(1, |digits| digits as usize + 1)
}

fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let (ms, seq) = text.split_once('-').ok_or(EventIdError)?;
        Ok(Self {
            ms: decimal(ms)?,
            seq: decimal(seq)?,
        })
    }
}

/// One spelling for one number: `u64::from_str` would also take `+1` and `007`.
fn decimal(text: &str) -> Result<u64, EventIdError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0'))
    {
        return Err(EventIdError);
    }
    text.parse().map_err(|_| EventIdError)
}

impl serde::Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "+1-0",
            "1-+0",
            "01-0",
            "1-00",
            "1-0-0",
            " 1-0",
            "1-0\0",
            "18446744073709551616-0",
            "a-b",
            "1_0",
        ] {
            assert_eq!(text.parse::<EventId>(), Err(EventIdError), "{text:?}");
        }
    }

    #[test]
    fn neighbours_cross_the_millisecond() {
        assert_eq!(EventId::new(5, 0).previous(), EventId::new(4, u64::MAX));
        assert_eq!(EventId::new(4, u64::MAX).next(), EventId::new(5, 0));
        assert_eq!(EventId::ZERO.previous(), EventId::ZERO);
        assert_eq!(EventId::MAX.next(), EventId::MAX);
    }

    proptest! {
        #[test]
        fn every_id_survives_its_text(ms: u64, seq: u64) {
            let id = EventId::new(ms, seq);
            let mut written = Vec::new();
            id.write_to(&mut written);
            let text = id.to_string();
            prop_assert_eq!(&written, text.as_bytes());
            prop_assert_eq!(id.text_len(), text.len());
            prop_assert_eq!(text.parse::<EventId>(), Ok(id));
        }

        #[test]
        fn previous_undoes_next(ms in 0..u64::MAX, seq: u64) {
            let id = EventId::new(ms, seq);
            prop_assert!(id.next() > id);
            prop_assert_eq!(id.next().previous(), id);
        }
    }
}
