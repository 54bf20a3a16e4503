//! Keeping secrets out of what is written: errors, warnings, `Debug`.

use std::fmt;

use serde::Deserialize;

/// A text that only whoever asks for it by [`expose`](Self::expose) gets to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Not derived: serde's error would repeat a password of digits that stands in a file without quotes.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom(
                "a text was expected: put it in quotes",
            )),
        }
    }
}

/// The text without the credentials of a URL in it: a URL that was given to the wrong setting is shown without its password.
pub(super) fn without_credentials(text: &str) -> String {
    let shown = text.split_once("://").and_then(|(scheme, rest)| {
        let (_, rest) = rest.rsplit_once('@')?;
        Some(format!("{scheme}://***@{rest}"))
    });
    shown.unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret: Secret = serde_json::from_str("\"s3cret\"").expect("a text");
        assert_eq!(format!("{secret:?} {}", secret.expose()), "*** s3cret");
        let error = serde_json::from_str::<Secret>("12345").expect_err("a number");
        assert!(!error.to_string().contains("12345"), "{error}");
    }

    #[test]
    fn the_credentials_of_a_url_are_cut_out_of_a_text() {
        for (text, shown) in [
            (
                "no `redis://a:b@c:1/0`, sorry",
                "no `redis://***@c:1/0`, sorry",
            ),
            ("redis://:p@ss w/o#d@c", "redis://***@c"),
            ("redis://c:1", "redis://c:1"),
            ("a@b", "a@b"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }
}
