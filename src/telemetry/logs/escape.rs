//! What a client sends must neither begin a line of its own nor speak to the terminal of whoever reads the log.
//!
//! Escaped are, in both formats: control characters (C0, delete, C1, and with them every ANSI sequence), the two line ends
//! of Unicode, and the marks that turn the direction of writing round.

use std::fmt::{self, Write};

/// Whether a terminal, a pager or a JSON reader could take it for more than a character to show.
fn speaks(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Nothing to look at twice: most of what is logged.
const fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte < 0x7f && byte != b'"' && byte != b'\\'
}

/// Calls `escape` for what needs one, and copies the rest.
fn pass(out: &mut String, text: &str, mut escape: impl FnMut(&mut String, char) -> bool) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| !is_plain(byte)) {
        out.push_str(&rest[..at]);
        let mut characters = rest[at..].chars();
        if let Some(character) = characters.next()
            && !escape(out, character)
        {
            out.push(character);
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
}

/// Writes as the inside of a JSON string (RFC 8259, 7).
pub(super) struct Json<'a>(pub(super) &'a mut String);

impl Write for Json<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        pass(self.0, text, |out, character| {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                // All of them are in the first plane, so one unit is enough.
                character if speaks(character) => {
                    let _ = write!(out, "\\u{:04x}", u32::from(character));
                }
                _ => return false,
            }
            true
        });
        Ok(())
    }
}

/// Writes for people: as in a string of Rust, without its quotes.
pub(super) struct Text<'a>(pub(super) &'a mut String);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        pass(self.0, text, |out, character| {
            let speaks = speaks(character);
            if speaks {
                let _ = write!(out, "{}", character.escape_default());
            }
            speaks
        });
        Ok(())
    }
}

/// The same between quotes, where a quote is escaped, too.
pub(super) struct Quoted<'a>(pub(super) &'a mut String);

impl Write for Quoted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        pass(self.0, text, |out, character| {
            let escaped = speaks(character) || matches!(character, '"' | '\\');
            if escaped {
                let _ = write!(out, "{}", character.escape_default());
            }
            escaped
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\"b\\c\r\n\u{1}\u{1b}[2J\u{7f}\u{9b}2J\u{2028}\u{202e}\u{2066}é☃";

    #[test]
    fn json_says_the_same_without_a_character_that_speaks() {
        let mut line = String::from("\"");
        Json(&mut line).write_str(HOSTILE).expect("written");
        line.push('"');
        assert!(!line.contains(speaks), "{line:?}");
        let read: String = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read, HOSTILE);
    }

    #[test]
    fn text_has_no_character_that_speaks() {
        let (mut text, mut quoted) = (String::new(), String::new());
        Text(&mut text).write_str(HOSTILE).expect("written");
        Quoted(&mut quoted).write_str(HOSTILE).expect("written");
        assert!(!text.contains(speaks) && !quoted.contains(speaks));
        assert!(text.starts_with("a\"b\\c\\r\\n\\u{1}\\u{1b}[2J"), "{text}");
        assert!(quoted.starts_with("a\\\"b\\\\c\\r\\n"), "{quoted}");
        assert!(text.ends_with("é☃"), "what is only a letter stays: {text}");
    }
}
