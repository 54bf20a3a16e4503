//! The file `.env`: names and values, read as the environment is.

use std::collections::BTreeMap;

/// Reads the lines of a file `.env`: `NAME=value`, with or without `export` and quotes; `#` begins a comment.
pub(super) fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'));
    let pairs =
        lines.filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='));
    let unquoted = |value: &str| {
        let value = value.trim();
        let quoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        quoted
            .unwrap_or_else(|| value.split(" #").next().unwrap_or(value).trim_end())
            .to_owned()
    };
    pairs
        .map(|(name, value)| (name.trim().to_owned(), unquoted(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_names_is_read_as_the_environment_is() {
        let read = parse("# a comment\nexport A = 1\nB=\"x # y\"\n\nC=z # note\nD='q'\nnonsense\n");
        let read: Vec<_> = read
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(read, [("A", "1"), ("B", "x # y"), ("C", "z"), ("D", "q")]);
    }
}
