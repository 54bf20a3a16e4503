//! Questions to Redis and its answers as plain bytes (RESP2), by no client library: nothing that is measured measures itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::subscribers::connect;

const PATIENCE: Duration = Duration::from_secs(30);
/// Questions that are sent before the first answer is read: few enough for the buffers of both sides.
const AT_ONCE: usize = 500;

/// What Redis answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Self>),
}

/// A blocking connection.
pub(crate) struct Connection {
    socket: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let socket = connect(address, 0)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            unread: Vec::new(),
        })
    }

    /// Asks one question; an error of Redis is one here.
    pub(crate) fn ask(&mut self, words: &[&str]) -> Result<Value> {
        let mut question = Vec::new();
        write_command(&mut question, words);
        self.socket.write_all(&question)?;
        self.answer().with_context(|| words.join(" "))
    }

    /// Asks for a number.
    pub(crate) fn number(&mut self, words: &[&str]) -> Result<u64> {
        match self.ask(words)? {
            Value::Integer(number) => Ok(u64::try_from(number)?),
            other => bail!("{}: {other:?}", words.join(" ")),
        }
    }

    /// Asks for a text, as `INFO`.
    pub(crate) fn text(&mut self, words: &[&str]) -> Result<String> {
        match self.ask(words)? {
            Value::Bulk(text) => Ok(String::from_utf8(text)?),
            other => bail!("{}: {other:?}", words.join(" ")),
        }
    }

    /// Asks many questions without waiting for each answer.
    pub(crate) fn ask_all(&mut self, questions: &[Vec<String>]) -> Result<()> {
        for some in questions.chunks(AT_ONCE) {
            let mut bytes = Vec::new();
            for words in some {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                write_command(&mut bytes, &words);
            }
            self.socket.write_all(&bytes)?;
            for _ in some {
                self.answer()?;
            }
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<Value> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some((value, length)) = Value::parse(&self.unread)? {
                self.unread.drain(..length);
                return match value {
                    Value::Error(text) => bail!("Redis says: {text}"),
                    value => Ok(value),
                };
            }
            match self
                .socket
                .read(&mut buffer)
                .context("no answer of Redis")?
            {
                0 => bail!("Redis closed the connection"),
                length => self.unread.extend_from_slice(&buffer[..length]),
            }
        }
    }
}

impl Value {
    /// The value at the beginning of `bytes` and its length; none while it is not whole.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
            return Ok(None);
        };
        let line = std::str::from_utf8(&bytes[1..end])?;
        let start = end + 2;
        let value = match bytes[0] {
            b'+' => Self::Status(line.to_owned()),
            b'-' => Self::Error(line.to_owned()),
            b':' => Self::Integer(line.parse()?),
            b'$' | b'*' if line.starts_with('-') => Self::Nil,
            b'$' => {
                let length: usize = line.parse()?;
                let whole = bytes.get(start..start + length + 2);
                return Ok(
                    whole.map(|whole| (Self::Bulk(whole[..length].to_vec()), start + length + 2))
                );
            }
            b'*' => {
                let (mut items, mut at) = (Vec::new(), start);
                for _ in 0..line.parse::<usize>()? {
                    let Some((item, length)) = Self::parse(&bytes[at..])? else {
                        return Ok(None);
                    };
                    items.push(item);
                    at += length;
                }
                return Ok(Some((Self::Array(items), at)));
            }
            other => bail!("{:?} begins no answer of Redis", char::from(other)),
        };
        Ok(Some((value, start)))
    }

    /// The number that stands after `name` in names and values by turns, as `XINFO` answers.
    pub(crate) fn field(&self, name: &str) -> Option<u64> {
        let Self::Array(items) = self else {
            return None;
        };
        items.chunks_exact(2).find_map(|pair| match pair {
            [Self::Bulk(key), Self::Integer(number)] if key == name.as_bytes() => {
                u64::try_from(*number).ok()
            }
            _ => None,
        })
    }
}

/// Appends one command.
pub(super) fn write_command(bytes: &mut Vec<u8>, words: &[&str]) {
    let _to_memory = write!(bytes, "*{}\r\n", words.len());
    for word in words {
        let _to_memory = write!(bytes, "${}\r\n{word}\r\n", word.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERS: &[u8] =
        b"*4\r\n$6\r\nlength\r\n:7\r\n$2\r\n\r\n\r\n*1\r\n$-1\r\n+OK\r\n-ERR no\r\n";

    fn parse(bytes: &[u8]) -> Option<(Value, usize)> {
        Value::parse(bytes).expect("an answer of Redis")
    }

    #[test]
    fn answers_are_read_once_they_are_whole() {
        let (value, length) = parse(ANSWERS).expect("it is whole");
        assert_eq!(value.field("length"), Some(7));
        assert_eq!(value.field("height"), None);
        for cut in 0..length {
            assert_eq!(parse(&ANSWERS[..cut]), None, "cut at {cut}");
        }
        let rest = &ANSWERS[length..];
        assert_eq!(parse(rest), Some((Value::Status("OK".to_owned()), 5)));
        assert_eq!(
            parse(&rest[5..]),
            Some((Value::Error("ERR no".to_owned()), 9))
        );
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(Value::parse(b"HTTP/1.1 400 Bad Request\r\n").is_err());
    }

    #[test]
    fn a_command_is_written_with_its_lengths() {
        let mut bytes = Vec::new();
        write_command(&mut bytes, &["XLEN", "a b"]);
        assert_eq!(bytes, b"*2\r\n$4\r\nXLEN\r\n$3\r\na b\r\n");
    }
}
