//! Letters that wait for the replica to which they are addressed.
//!
//! A letter is small, comes once at most, and may get lost: whoever needs an answer asks for one ([`super::letters`]).
//!
//! # Invariants
//! 1. What waits is bounded: a letter that finds the mailbox full is dropped, and counted by whoever brought it.

use tokio::sync::mpsc;

use super::StoreError;

/// The longest letter, in bytes.
pub const LETTER_BYTES: usize = 16 * 1024;
/// Letters that may wait.
const LETTERS: usize = 256;

/// Whether it may be sent.
///
/// # Errors
/// When it is too long: nothing has happened.
pub(super) fn check(letter: &str) -> Result<(), StoreError> {
    if letter.len() <= LETTER_BYTES {
        return Ok(());
    }
    let (bytes, limit) = (letter.len(), LETTER_BYTES);
    let why = format!("a letter of {bytes} bytes is not sent, the limit is {limit}");
    Err(StoreError::Unavailable(why))
}

/// Where one replica takes its letters from. Once it is dropped, others are told that nobody listens.
#[derive(Debug)]
pub struct Mailbox {
    letters: mpsc::Receiver<String>,
}

impl Mailbox {
    /// An empty mailbox, and the slot through which letters come.
    pub(super) fn new() -> (Self, Slot) {
        let (slot, letters) = mpsc::channel(LETTERS);
        (Self { letters }, Slot(slot))
    }

    /// Waits for the next letter; none: the store is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses no letter.
    pub async fn next(&mut self) -> Option<String> {
        self.letters.recv().await
    }
}

/// Where letters are put in.
#[derive(Clone, Debug)]
pub(super) struct Slot(mpsc::Sender<String>);

impl Slot {
    /// Whether somebody takes the letters.
    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    /// Whether it was taken: a letter that is too long, is no UTF-8, or finds the mailbox full is not.
    pub(super) fn put(&self, letter: &[u8]) -> bool {
        letter.len() <= LETTER_BYTES
            && std::str::from_utf8(letter)
                .is_ok_and(|letter| self.0.try_send(letter.to_owned()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn letters_come_in_order_and_what_is_beyond_the_bound_is_dropped() {
        let (mut mailbox, slot) = Mailbox::new();
        let taken = (0..LETTERS + 10)
            .filter(|number| slot.put(number.to_string().as_bytes()))
            .count();
        assert_eq!(taken, LETTERS);
        for number in 0..LETTERS {
            assert_eq!(mailbox.next().await, Some(number.to_string()));
        }
        assert!(slot.put(b"there is room again"));
    }

    #[test]
    fn what_is_no_letter_is_not_taken() {
        let (mailbox, slot) = Mailbox::new();
        assert!(slot.put(&vec![b'x'; LETTER_BYTES]));
        assert!(!slot.put(&vec![b'x'; LETTER_BYTES + 1]));
        assert!(!slot.put(b"\xff"));
        drop(mailbox);
        assert!(!slot.is_open() && !slot.put(b"nobody is there"));
    }
}
