//! The secret that all replicas share.
//!
//! It stands in a key that the first replica makes. Whoever has it keeps it in memory, and puts it back where Redis has lost
//! it, so that replicas do not part over a flush: the first one wins, and the others take over what they find.

use parking_lot::Mutex;

use super::{
    ask,
    keys::Keys,
    pipe::Pipe,
    resp::{Request, Value},
};
use crate::store::StoreError;

/// What is known of it.
#[derive(Default)]
pub(super) struct Secret(Mutex<Option<[u8; 32]>>);

impl Secret {
    /// The secret: from memory, from Redis, or drawn now.
    pub(super) async fn ask(&self, pipe: &Pipe, keys: &Keys) -> Result<[u8; 32], StoreError> {
        if let Some(known) = *self.0.lock() {
            return Ok(known);
        }
        // A Redis that is full still tells what it has.
        let stored = ask(pipe, Request::new("GET").arg(&keys.secret)).await?;
        let secret = match stored {
            Value::Null => {
                let drawn = rand::random();
                match ask(pipe, offer(keys, drawn)).await? {
                    Value::Null => drawn,
                    stored => read(&stored, keys)?,
                }
            }
            stored => read(&stored, keys)?,
        };
        *self.0.lock() = Some(secret);
        Ok(secret)
    }

    /// What is known, offered to a Redis that may have lost it; none: nothing is known.
    pub(super) fn offer(&self, keys: &Keys) -> Option<Request> {
        let known = *self.0.lock();
        known.map(|known| offer(keys, known))
    }

    /// Takes over what the answer to an offer says that there was.
    pub(super) fn answered(&self, reply: &Value) {
        if let Some(stored) = reply.text().and_then(parse) {
            let mut known = self.0.lock();
            if known.is_some_and(|known| known != stored) {
                tracing::warn!(
                    "Redis lost the secret of the replicas, another one has made a new one"
                );
                *known = Some(stored);
            }
        }
    }
}

/// # Errors
/// When the key holds something else: whoever wrote that has to mend it.
fn read(stored: &Value, keys: &Keys) -> Result<[u8; 32], StoreError> {
    let wrong = || format!("the key {} holds no secret of ours: delete it", keys.secret);
    let secret = stored.text().and_then(parse);
    secret.ok_or_else(|| StoreError::Unavailable(wrong()))
}

fn offer(keys: &Keys, secret: [u8; 32]) -> Request {
    Request::new("SET")
        .arg(&keys.secret)
        .arg(hex(secret))
        .args(["NX", "GET"])
}

fn hex(secret: [u8; 32]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in secret {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut secret = [0; 32];
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_as_it_was() {
        let secret: [u8; 32] = rand::random();
        assert_eq!(parse(&hex(secret)), Some(secret));
        for other in ["", "00", &"0".repeat(63), &"g".repeat(64), &"0".repeat(65)] {
            assert_eq!(parse(other), None);
        }
    }
}
