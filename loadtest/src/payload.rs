//! What the data of a measured event says: its number within its topic, and when it was published.
//!
//! Both are fixed-width hex, so that reading them costs a few nanoseconds and the length of the data is exact.

/// Bytes of the two numbers; the rest of a payload is filler.
pub(crate) const STAMP_BYTES: usize = 32;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The measured part of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of the event within its topic, from 1.
    pub(crate) sequence: u64,
    /// When it was published, in monotonic nanoseconds.
    pub(crate) sent_ns: u64,
}

impl Stamp {
    /// Appends the payload, filled up to `bytes` (at least [`STAMP_BYTES`]).
    pub(crate) fn write(self, buffer: &mut Vec<u8>, bytes: usize) {
        write_hex(buffer, self.sequence);
        write_hex(buffer, self.sent_ns);
        let end = buffer.len() + bytes.saturating_sub(STAMP_BYTES);
        buffer.resize(end, b'x');
    }

    /// Reads the stamp at the start of an event's data.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let (sequence, rest) = data.split_at_checked(16)?;
        Some(Self {
            sequence: read_hex(sequence)?,
            sent_ns: read_hex(rest.get(..16)?)?,
        })
    }
}

/// The text that the payload of this event begins with.
pub(crate) fn sequence_text(sequence: u64) -> Vec<u8> {
    let mut text = Vec::with_capacity(16);
    write_hex(&mut text, sequence);
    text
}

fn write_hex(buffer: &mut Vec<u8>, number: u64) {
    buffer.extend(number.to_be_bytes().iter().flat_map(|byte| {
        [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]
    }));
}

fn read_hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_way_through_a_payload() {
        let stamp = Stamp {
            sequence: 0xfeed,
            sent_ns: u64::MAX,
        };
        let mut payload = Vec::new();
        stamp.write(&mut payload, 128);
        assert_eq!(payload.len(), 128);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert!(payload.starts_with(&sequence_text(0xfeed)));
    }

    #[test]
    fn other_data_has_no_stamp() {
        assert_eq!(
            Stamp::read(b"{\"connection\":\"abc\",\"replay\":\"none\"}"),
            None
        );
        assert_eq!(Stamp::read(b"0000"), None);
    }
}
