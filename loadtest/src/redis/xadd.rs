//! The baseline of everything that goes through Redis: the same payload by a plain `XADD`, with none of the promises.
//!
//! It trims (`MAXLEN ~`), so that memory stays flat; that costs Redis next to nothing, since whole nodes go.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::RedisServer;
use super::resp::write_command;
use crate::clock::{deadline, now_ns};
use crate::figures::count;
use crate::payload::Stamp;
use crate::subscribers::connect;

/// The stream that is written to, beside those of the gateway.
const STREAM: &str = "plain";
const KEPT_EVENTS: &str = "100000";
/// Commands of one write.
const BATCH: u64 = 100;
/// Commands that are outstanding at most.
const OUTSTANDING: u64 = 20 * BATCH;
const BUFFER_BYTES: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

/// The bytes of one `XADD`.
pub(crate) fn xadd(payload_bytes: usize) -> Vec<u8> {
    let mut data = Vec::new();
    Stamp {
        sequence: 1,
        sent_ns: 0,
    }
    .write(&mut data, payload_bytes);
    let data = String::from_utf8_lossy(&data);
    let mut command = Vec::new();
    let words = ["XADD", STREAM, "MAXLEN", "~", KEPT_EVENTS, "*", "d", &data];
    write_command(&mut command, &words);
    command
}

/// A connection on which many `XADD` are under way at once.
pub(crate) struct Xadds {
    socket: TcpStream,
    batch: Vec<u8>,
}

impl Xadds {
    pub(crate) fn connect(redis: &RedisServer, payload_bytes: usize) -> Result<Self> {
        let socket = connect(redis.address, 0)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            batch: xadd(payload_bytes).repeat(usize::try_from(BATCH)?),
        })
    }

    /// Sends as fast as it is answered, for `duration`; returns how many were.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<u64> {
        let until = deadline(duration);
        let (mut sent, mut answered, mut answers) = (0, 0, Answers::default());
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if sent + BATCH <= answered + OUTSTANDING && now_ns() < until {
                self.socket.write_all(&self.batch)?;
                sent += BATCH;
            } else if answered < sent {
                let length = self
                    .socket
                    .read(&mut buffer)
                    .context("no answer of Redis")?;
                ensure!(length > 0, "Redis closed the connection");
                answered += answers.count(&buffer[..length])?;
            } else {
                return Ok(answered);
            }
        }
    }
}

/// Counts answers. Each is an id with its length before it; neither holds a `$`.
struct Answers {
    at_start_of_line: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            at_start_of_line: true,
        }
    }
}

impl Answers {
    /// How many answers begin in these bytes.
    fn count(&mut self, bytes: &[u8]) -> Result<u64> {
        let error = (self.at_start_of_line && bytes.starts_with(b"-"))
            || memchr::memmem::find(bytes, b"\n-").is_some();
        if error {
            bail!("Redis says: {}", String::from_utf8_lossy(bytes));
        }
        self.at_start_of_line = bytes.ends_with(b"\n");
        Ok(count(memchr::memchr_iter(b'$', bytes).count()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_wherever_they_are_cut() {
        let text = b"$15\r\n1795222322338-0\r\n$16\r\n1795222322338-11\r\n";
        for cut in 1..text.len() {
            let mut answers = Answers::default();
            let sum: u64 = [&text[..cut], &text[cut..]]
                .into_iter()
                .map(|piece| answers.count(piece).expect("no error"))
                .sum();
            assert_eq!(sum, 2, "cut at {cut}");
        }
    }

    #[test]
    fn an_error_is_seen_wherever_it_is_cut() {
        let text = b"$15\r\n1795222322338-0\r\n-OOM no room\r\n";
        for cut in 1..text.len() {
            let mut answers = Answers::default();
            let both = [&text[..cut], &text[cut..]].map(|piece| answers.count(piece));
            assert!(both.iter().any(Result::is_err), "cut at {cut}");
        }
    }
}
