//! The file `.env`: names and values, read as the environment is.
//!
//! Other programs read such files, too, each in its own way. So a line that is none is warned of, and the rest is read.

use std::{collections::BTreeMap, io, path::Path};

use super::{ConfigError, environment::Names, place::DOTENV};

/// Reads the file; there need not be one.
pub(super) fn read(path: &Path, warnings: &mut Vec<String>) -> Result<Names, ConfigError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse(&bytes, warnings)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Names::default()),
        Err(source) => Err(ConfigError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Lines of `NAME=value`, with or without `export` and quotes; `#` begins a comment.
fn parse(bytes: &[u8], warnings: &mut Vec<String>) -> Names {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let (mut values, mut lines) = (BTreeMap::new(), BTreeMap::new());
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line_number = index + 1;
        // Not repeated: it may be a secret.
        let mut warn = |what: &str| {
            warnings.push(format!(
                "{DOTENV}, line {line_number}: {what}, it is ignored"
            ));
        };
        let Ok(line) = std::str::from_utf8(line) else {
            warn("this is not UTF-8");
            continue;
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let pair = line.split_once('=').map(|(name, rest)| (name.trim(), rest));
        let Some((name, rest)) = pair.filter(|(name, _)| is_name(name)) else {
            warn("NAME=value was expected");
            continue;
        };
        let Some(value) = value(rest.trim()) else {
            warn("the quotes do not match");
            continue;
        };
        if name == "TIDEGATE_CONFIG" {
            warn("TIDEGATE_CONFIG is read from the environment only");
            continue;
        }
        values.insert(name.to_owned(), value);
        lines.insert(name.to_owned(), line_number);
    }
    Names {
        values,
        lines: Some(lines),
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !name.is_empty() && name.chars().all(plain)
}

/// What stands behind the `=`; none where a quote is not closed, or followed by more than a comment.
fn value(text: &str) -> Option<String> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let comment = if text.starts_with('#') {
            Some(0)
        } else {
            text.find(" #").or_else(|| text.find("\t#"))
        };
        return Some(text[..comment.unwrap_or(text.len())].trim_end().to_owned());
    };
    let mut value = String::new();
    let mut rest = text[1..].chars();
    loop {
        match rest.next()? {
            c if c == quote => break,
            '\\' if quote == '"' => match rest.next()? {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\' | '$') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    let rest = rest.as_str().trim_start();
    (rest.is_empty() || rest.starts_with('#')).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_names_is_read_as_the_environment_is() {
        let text = b"\xef\xbb\xbf# a comment\nexport A = 1\nB=\"x # y\" # note\n\r\nC=z # note\r\nD='q'\nE=\nF=a#b\nG=\"a\\\"b\\\\n\"\nH='a\\n'\nA=2\n";
        let mut warnings = Vec::new();
        let read = parse(text, &mut warnings);
        let found: Vec<_> = read
            .values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("A", "2"),
                ("B", "x # y"),
                ("C", "z"),
                ("D", "q"),
                ("E", ""),
                ("F", "a#b"),
                ("G", "a\"b\\n"),
                ("H", "a\\n")
            ]
        );
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(read.place("C").to_string(), ".env, line 5, C");
    }

    #[test]
    fn a_line_that_is_none_is_warned_of_and_not_repeated() {
        let mut warnings = Vec::new();
        let text = b"A=1\ns3cret\nB=\"s3cret\nC=\"s3cret\" s3cret\n\xffs3cret=\xff\ns3 cret=1\nD=2\nTIDEGATE_CONFIG=s3cret\n";
        let read = parse(text, &mut warnings);
        assert_eq!(read.values.keys().collect::<Vec<_>>(), ["A", "D"]);
        let lines: Vec<_> = warnings
            .iter()
            .filter_map(|warning| warning.strip_prefix(".env, line ")?.split(':').next())
            .collect();
        assert_eq!(lines, ["2", "3", "4", "5", "6", "8"]);
        assert!(!warnings.concat().contains("s3cret"), "{warnings:?}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_none_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |path: &Path| read(path, &mut Vec::new());
        assert!(read(&folder.path().join(".env")).is_ok());
        let error = read(folder.path()).map(drop).expect_err("a folder");
        assert!(error.told().contains("cannot read"), "{error}");
    }
}
