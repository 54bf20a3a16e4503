//! A subscriber's request, read roughly.

use super::frame::Id;

/// The topic of the query.
pub(super) fn topic_of(request: &[u8]) -> &[u8] {
    let Some(from) = memchr::memmem::find(request, b"topic=") else {
        return b"default";
    };
    let rest = &request[from + b"topic=".len()..];
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'&' | b' '))
        .unwrap_or(rest.len());
    &rest[..end]
}

/// Where the subscriber wants to start; `None`: now.
pub(super) fn start_of(request: &[u8]) -> Option<Id> {
    if memchr::memmem::find(request, b"lastEventId=earliest").is_some() {
        return Some((0, 0));
    }
    let from = memchr::memmem::find(request, b"Last-Event-ID: ")? + b"Last-Event-ID: ".len();
    let length = memchr::memchr(b'\r', &request[from..])?;
    let (milliseconds, sequence) = std::str::from_utf8(&request[from..from + length])
        .ok()?
        .split_once('-')?;
    Some((milliseconds.parse().ok()?, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_says_topic_and_start() {
        let request = b"GET /events?topic=t7&lastEventId=earliest HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(topic_of(request), b"t7");
        assert_eq!(start_of(request), Some((0, 0)));
        let request = b"GET /events?topic=t7 HTTP/1.1\r\nLast-Event-ID: 12-3\r\n\r\n";
        assert_eq!(topic_of(request), b"t7");
        assert_eq!(start_of(request), Some((12, 3)));
    }
}
