//! A line that may arrive in pieces, of which the first bytes are enough.
//!
//! Everything that is measured stands at the start of its line, so a stream needs a small fixed buffer however long its
//! events are, and nothing is allocated for an event.

const KEPT_BYTES: usize = 80;

/// The start of a line whose end has not been seen yet.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    start: [u8; KEPT_BYTES],
    kept: u8,
    begun: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            start: [0; KEPT_BYTES],
            kept: 0,
            begun: false,
        }
    }
}

impl Line {
    /// Splits `bytes` at line feeds and hands out each line without it, up to the first for which `take` returns
    /// `false`; returns what follows that line. A line that came in pieces is cut to its first 80 bytes.
    pub(crate) fn split<'a>(
        &mut self,
        mut bytes: &'a [u8],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> &'a [u8] {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (piece, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            let go_on = if self.begun {
                self.keep(piece);
                self.begun = false;
                let go_on = take(&self.start[..usize::from(self.kept)]);
                self.kept = 0;
                go_on
            } else {
                take(piece)
            };
            if !go_on {
                return bytes;
            }
        }
        if !bytes.is_empty() {
            self.keep(bytes);
        }
        &[]
    }

    fn keep(&mut self, piece: &[u8]) {
        self.begun = true;
        let from = usize::from(self.kept);
        let length = piece.len().min(KEPT_BYTES - from);
        self.start[from..from + length].copy_from_slice(&piece[..length]);
        self.kept = u8::try_from(from + length).unwrap_or(u8::MAX);
    }
}
