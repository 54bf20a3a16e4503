//! The HTTP/1.1 answer around a stream: status, headers, chunks; piece by piece, without an allocation.

use crate::line::Line;
use crate::wire::WireError;

/// The parser of one answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Http1 {
    line: Line,
    state: State,
    status: u16,
    chunked: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Status,
    Headers,
    ChunkSize,
    Chunk {
        left: usize,
    },
    ChunkEnd,
    /// Not chunked: everything until the connection ends.
    Rest,
    Trailers,
    Done,
}

impl Http1 {
    /// The status, 0 before it has arrived.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Whether the last chunk has been seen.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads the next piece and hands out what belongs to the body.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        body: &mut impl FnMut(&[u8]),
    ) -> Result<(), WireError> {
        while !bytes.is_empty() {
            match self.state {
                State::Chunk { left } => {
                    let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                    body(piece);
                    bytes = rest;
                    self.state = match left - piece.len() {
                        0 => State::ChunkEnd,
                        left => State::Chunk { left },
                    };
                }
                State::Rest => {
                    body(bytes);
                    return Ok(());
                }
                State::Done => return Err(WireError::AfterTheEnd),
                _ => bytes = self.next_line(bytes)?,
            }
        }
        Ok(())
    }

    fn next_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], WireError> {
        let (state, status, chunked) = (&mut self.state, &mut self.status, &mut self.chunked);
        let mut outcome = Ok(());
        let rest = self.line.split(bytes, |line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            outcome = state.advance(line, status, chunked);
            false
        });
        outcome.map(|()| rest)
    }
}

impl State {
    fn advance(
        &mut self,
        line: &[u8],
        status: &mut u16,
        chunked: &mut bool,
    ) -> Result<(), WireError> {
        *self = match *self {
            State::Status => {
                *status = status_of(line).ok_or(WireError::Head)?;
                State::Headers
            }
            State::Headers if !line.is_empty() => {
                *chunked |= line.eq_ignore_ascii_case(b"transfer-encoding: chunked");
                State::Headers
            }
            State::Headers if *chunked => State::ChunkSize,
            State::Headers => State::Rest,
            State::ChunkSize => match chunk_size(line).ok_or(WireError::Chunk)? {
                0 => State::Trailers,
                left => State::Chunk { left },
            },
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::ChunkEnd => return Err(WireError::Chunk),
            State::Trailers if line.is_empty() => State::Done,
            other => other,
        };
        Ok(())
    }
}

pub(crate) fn status_of(line: &[u8]) -> Option<u16> {
    let code = line.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().try_fold(0, |size, digit| {
        let value = char::from(*digit).to_digit(16)?;
        Some(size << 4 | usize::try_from(value).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0000000A;x=y\r\n, world\r\n!\r\n0\r\n\r\n";

    fn body<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Http1, Vec<u8>) {
        let (mut answer, mut body) = (Http1::default(), Vec::new());
        for piece in pieces {
            answer
                .feed(piece, &mut |bytes| body.extend_from_slice(bytes))
                .expect("the answer is well formed");
        }
        (answer, body)
    }

    #[test]
    fn chunks_are_joined_wherever_the_answer_is_cut() {
        for cut in 0..=ANSWER.len() {
            let (head, tail) = ANSWER.split_at(cut);
            let (answer, body) = body([head, tail]);
            assert_eq!(body, b"hello, world\r\n!", "cut at {cut}");
            assert!(answer.is_done());
            assert_eq!(answer.status(), 200);
        }
        assert_eq!(body(ANSWER.chunks(1)).1, b"hello, world\r\n!");
    }

    #[test]
    fn a_wrong_chunk_head_is_an_error() {
        let mut answer = Http1::default();
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
        assert!(answer.feed(text, &mut |_| ()).is_err());
    }

    #[test]
    fn what_follows_the_last_chunk_is_an_error() {
        let mut answer = Http1::default();
        let text = [ANSWER, b"more"].concat();
        assert!(answer.feed(&text, &mut |_| ()).is_err());
    }

    #[test]
    fn an_answer_without_chunks_is_all_body() {
        let (answer, body) = body([b"HTTP/1.1 503 X\r\n\r\nproblem".as_slice()]);
        assert_eq!(
            (answer.status(), body.as_slice()),
            (503, b"problem".as_slice())
        );
    }
}
