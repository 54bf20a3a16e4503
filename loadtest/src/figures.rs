//! Conversions between counts and ratios, and what is made of several rounds.

/// A count as a number to divide with. Counts here stay far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts and nanoseconds of bounded runs stay below 2^53"
)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// A length as a count.
pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A non-negative number as a count, rounded down.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and negative numbers become 0"
)]
pub(crate) fn whole(number: f64) -> u64 {
    number as u64
}

/// A kernel's signed number that is never negative.
pub(crate) fn from_i64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// `a / b`, and 0 when there is nothing to divide by.
pub(crate) fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// `later - earlier` of two counts that may also have shrunk.
pub(crate) fn growth(earlier: u64, later: u64) -> f64 {
    float(later) - float(earlier)
}

/// What several rounds say together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

/// Sums up the values of the rounds; `None` without any.
pub(crate) fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, greatest) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some(Summary {
        median,
        least,
        greatest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_number_of_rounds_has_a_median_between_the_two_in_the_middle() {
        let of_four = summary(&[4.0, 1.0, 2.0, 9.0]);
        assert_eq!(
            of_four,
            Some(Summary {
                median: 3.0,
                least: 1.0,
                greatest: 9.0
            })
        );
        assert_eq!(summary(&[]), None);
    }
}
