//! What was probably meant by a name that does not exist.

/// The candidate that is closest to what was written, if any is close.
pub(super) fn nearest(written: &str, candidates: &[String]) -> Option<String> {
    let (distance, best) = candidates
        .iter()
        .map(|candidate| (distance(written, candidate), candidate))
        .min()?;
    (distance <= written.len() / 2 + 1).then(|| best.clone())
}

/// Whether it is hardly anything but a slip of the pen.
pub(super) fn is_slip(written: &str, meant: &str) -> bool {
    distance(written, meant) <= 1 + meant.len() / 4
}

/// Edits that lead from one text to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
