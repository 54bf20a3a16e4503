//! `traceparent`: the trace that a request is already part of (W3C Trace Context, 3.2).
//!
//! Read to the letter: what is not as written there is as if it were not sent, and nothing of it reaches a line.

use std::fmt;

use http::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The id of a trace; shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub(super) u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a caller says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Which trace.
    pub trace: TraceId,
    pub(super) span: u64,
    /// Whether the caller keeps it.
    pub sampled: bool,
}

impl TraceParent {
    /// The one of a request; none where there are two, or it is malformed.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        Self::parse(value.as_bytes()).filter(|_| values.next().is_none())
    }

    fn parse(value: &[u8]) -> Option<Self> {
        // version "-" trace-id "-" parent-id "-" flags; a later version may go on behind another dash.
        let (known, rest) = value.split_at_checked(55)?;
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let version = hex(&known[..2])?;
        let may_go_on = version != 0 && rest.first() == Some(&b'-');
        if !dashes || version == 0xff || !(rest.is_empty() || may_go_on) {
            return None;
        }
        let trace = hex(&known[3..35])?;
        let span = u64::try_from(hex(&known[36..52])?).ok()?;
        let flags = hex(&known[53..])?;
        (trace != 0 && span != 0).then_some(Self {
            trace: TraceId(trace),
            span,
            sampled: flags & 1 == 1,
        })
    }
}

/// Lower-case digits only, as the format has them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn parse(value: &str) -> Option<TraceParent> {
        TraceParent::parse(value.as_bytes())
    }

    #[test]
    fn a_trace_is_taken_as_it_was_sent() {
        let parent = parse(&format!("00-{TRACE}-00f067aa0ba902b7-01")).expect("a parent");
        assert_eq!(parent.trace.to_string(), TRACE);
        assert_eq!(parent.span, 0x00f0_67aa_0ba9_02b7);
        assert!(parent.sampled);
        let parent = parse(&format!("00-{TRACE}-00f067aa0ba902b7-02")).expect("a parent");
        assert!(!parent.sampled);
        let later = parse(&format!("cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later"));
        assert!(later.is_some());
    }

    #[test]
    fn what_is_not_as_written_is_as_if_it_were_not_sent() {
        for wrong in [
            String::new(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-00f067aa0ba902b7-1"),
            format!("01-{TRACE}-00f067aa0ba902b7-01.more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00_{TRACE}_00f067aa0ba902b7_01"),
            format!("00-{}\r\n-00f067aa0ba902b7-01", &TRACE[2..]),
            format!("+0-{TRACE}-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong:?}");
        }
        let mut two = HeaderMap::new();
        for flags in ["00", "01"] {
            let value = format!("00-{TRACE}-00f067aa0ba902b7-{flags}");
            two.append(TRACEPARENT, value.parse().expect("a value"));
        }
        assert_eq!(TraceParent::of(&two), None);
    }
}
