//! The floor's frames: the bytes that the gateway would send.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::figures::count;

/// Milliseconds and sequence.
pub(super) type Id = (u64, u64);

/// The id after `last`, by the clock.
pub(super) fn next_id(last: Id) -> Id {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let now = since.as_secs() * 1000 + u64::from(since.subsec_millis());
    if now > last.0 {
        (now, 0)
    } else {
        (last.0, last.1 + 1)
    }
}

/// Encodes an event once for all, with the head and tail of its HTTP chunk.
pub(super) fn encode(frame: &mut Vec<u8>, id: Id, data: &[u8]) {
    let id = format!("id: {}-{}\ndata: ", id.0, id.1);
    frame.clear();
    let length = count(id.len() + data.len() + 2);
    let _to_memory = write!(frame, "{length:x}\r\n{id}");
    frame.extend_from_slice(data);
    frame.extend_from_slice(b"\n\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_chunk() {
        let mut frame = Vec::new();
        encode(&mut frame, (1, 0), b"hello");
        assert_eq!(frame, b"15\r\nid: 1-0\ndata: hello\n\n\r\n");
    }
}
