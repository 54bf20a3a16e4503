//! The path of a request that found no route, as a log line may show it.
//!
//! It tells a misspelt `/event` from a scanner. But people paste tokens into any place of a URL, so whatever could be one is
//! left out: a known secret, what follows an `=`, a long part, and what is percent-encoded.

use std::fmt::Write as _;

/// What a line has of a path.
const SHOWN_BYTES: usize = 256;
/// Parts up to here are words; tokens and tickets are longer.
const WORD_BYTES: usize = 20;

/// The path, with `***` for what could be a credential. `is_secret` knows those of the gateway itself.
pub fn shown_path(path: &str, is_secret: impl Fn(&str) -> bool) -> String {
    let mut shown = String::new();
    for (at, part) in path.split('/').enumerate() {
        if at > 0 {
            shown.push('/');
        }
        let (word, value) = part
            .split_once('=')
            .map_or((part, false), |(word, _)| (word, true));
        let plain = word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if value && plain && word.len() <= WORD_BYTES && !is_secret(word) {
            let _ = write!(shown, "{word}=***");
        } else if value || !plain || word.len() > WORD_BYTES || is_secret(word) {
            shown.push_str("***");
        } else {
            shown.push_str(word);
        }
        if shown.len() > SHOWN_BYTES {
            shown.truncate(SHOWN_BYTES);
            shown.push('…');
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_shown_and_what_could_be_a_credential_is_not() {
        let is_secret = |part: &str| part.contains("hunter2");
        for (path, shown) in [
            ("/event", "/event"),
            ("/.git/config", "/.git/config"),
            ("/events/", "/events/"),
            ("/hunter2", "/***"),
            ("/my-hunter2/x", "/***/x"),
            ("/access_token=abc", "/access_token=***"),
            ("/eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "/***"),
            ("/a%0d%0ab/c", "/***/c"),
            ("/a\u{1b}[2J", "/***"),
            ("*", "***"),
            ("", ""),
        ] {
            assert_eq!(shown_path(path, is_secret), shown, "{path}");
        }
        let long = shown_path(&"/abcdefghi".repeat(1000), is_secret);
        assert!(long.len() < 270 && long.ends_with('…'), "{long}");
    }
}
