//! Until when a certificate is valid: the one thing of it that operators must not miss.
//!
//! Only the way to that date is read (RFC 5280, 4.1); whether the rest is right is judged by the TLS library.

/// The end of a certificate's validity, in seconds since 1970.
pub(super) fn not_after(der: &[u8]) -> Option<i64> {
    const SEQUENCE: u8 = 0x30;
    const EXPLICIT_VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(der)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&EXPLICIT_VERSION) {
        fields = element(fields)?.2;
    }
    // Serial number, algorithm, issuer; then the two dates.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (tag, validity, _) = element(fields)?;
    if tag != SEQUENCE {
        return None;
    }
    let (_, _, rest) = element(validity)?;
    let (tag, date, _) = element(rest)?;
    moment(tag, std::str::from_utf8(date).ok()?)
}

/// The first element of DER: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(count)?;
        length = bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// `YYMMDDHHMMSSZ` or, by another tag, `YYYYMMDDHHMMSSZ`.
fn moment(tag: u8, text: &str) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    let (year, rest) = if tag == UTC_TIME {
        let (year, rest) = text.split_at_checked(2)?;
        let year: i64 = year.parse().ok()?;
        (if year < 50 { 2000 + year } else { 1900 + year }, rest)
    } else {
        let (year, rest) = text.split_at_checked(4)?;
        (year.parse().ok()?, rest)
    };
    let number = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (number(0)?, number(2)?);
    let seconds = number(4)? * 3600 + number(6)? * 60 + number(8)?;
    Some(days(year, month, day)? * 86_400 + seconds)
}

/// Days since 1970 of a day in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March end with the day that is sometimes missing.
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut der = vec![tag, 0x82];
        let length = u16::try_from(content.len()).expect("short");
        der.extend(length.to_be_bytes());
        der.extend(content);
        der
    }

    fn certificate(version: bool, date: &[u8]) -> Vec<u8> {
        let mut fields = Vec::new();
        if version {
            fields.extend(wrapped(0xa0, &[2, 1, 2]));
        }
        fields.extend([0x02, 1, 7]);
        fields.extend([0x30, 0, 0x30, 0]);
        let from = wrapped(0x17, b"240101000000Z");
        fields.extend(wrapped(0x30, &[from, date.to_vec()].concat()));
        fields.extend([0x30, 0]);
        wrapped(0x30, &wrapped(0x30, &fields))
    }

    #[test]
    fn the_end_of_validity_is_found_in_both_ways_of_writing_it() {
        let utc = wrapped(0x17, b"261121093015Z");
        assert_eq!(not_after(&certificate(true, &utc)), Some(1_795_253_415));
        assert_eq!(not_after(&certificate(false, &utc)), Some(1_795_253_415));
        let general = wrapped(0x18, b"20500301000000Z");
        assert_eq!(not_after(&certificate(true, &general)), Some(2_529_705_600));
        let leap = wrapped(0x17, b"240229235959Z");
        assert_eq!(not_after(&certificate(true, &leap)), Some(1_709_251_199));
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        let whole = certificate(true, &wrapped(0x17, b"261121093015Z"));
        for length in 0..whole.len() - 4 {
            assert_eq!(not_after(&whole[..length]), None, "{length}");
        }
        assert_eq!(not_after(&certificate(true, &wrapped(0x17, b"26"))), None);
        assert_eq!(not_after(&[0x30, 0x85, 1, 1, 1, 1, 1]), None);
        let strange = wrapped(0x17, b"269921093015Z");
        assert_eq!(not_after(&certificate(true, &strange)), None);
    }
}
