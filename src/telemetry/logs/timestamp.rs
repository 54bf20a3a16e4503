//! The moment of a line: RFC 3339 with microseconds. The calendar is asked once a second, not once a line.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use humantime_serde::re::humantime::format_rfc3339_seconds;

const DIGITS: usize = "2026-11-21T11:22:57".len();

thread_local! {
    static SECOND: Cell<(u64, [u8; DIGITS])> = const { Cell::new((u64::MAX, [0; DIGITS])) };
}

/// Appends a moment.
pub(super) fn push(out: &mut String, moment: SystemTime) {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, mut micros) = (since.as_secs(), since.subsec_micros());
    let known = SECOND.try_with(Cell::get).ok();
    let text = match known {
        Some((second, text)) if second == seconds => text,
        _ => {
            let text =
                format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
            let mut digits = [b'?'; DIGITS];
            digits.copy_from_slice(&text.as_bytes()[..DIGITS]);
            let _ = SECOND.try_with(|cell| cell.set((seconds, digits)));
            digits
        }
    };
    let mut fraction = *b".000000Z";
    for digit in fraction[1..7].iter_mut().rev() {
        *digit = b'0' + u8::try_from(micros % 10).unwrap_or(0);
        micros /= 10;
    }
    for part in [&text[..], &fraction[..]] {
        out.push_str(std::str::from_utf8(part).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_the_calendar_says_it() {
        for micros in [0, 1, 999_999, 1_795_260_177_000_450, 1_795_260_177_900_000] {
            let moment = UNIX_EPOCH + Duration::from_micros(micros);
            let mut text = String::new();
            push(&mut text, moment);
            let calendar = humantime_serde::re::humantime::format_rfc3339_micros(moment);
            assert_eq!(text, calendar.to_string());
        }
    }
}
