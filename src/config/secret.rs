//! Keeping secrets out of what is written: errors, warnings, `Debug`, `config show`, `/config`, reports of a reload.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::{nearest::is_slip, position::join};

/// Every setting that is a secret; `[]` stands for each item of a list. The credentials in a URL, be it `redis.url` or any
/// other text, are one besides.
pub(super) const SECRETS: [&str; 5] = [
    "admin.token",
    "auth.jwt.secret",
    "auth.tokens[].token",
    "redis.password",
    "redis.sentinel.password",
];

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

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

/// A value as it may be shown.
pub(super) fn masked(key: &str, value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        _ if SECRETS.contains(&key) => HIDDEN.into(),
        Value::Array(items) => {
            let key = format!("{key}[]");
            items.iter().map(|item| masked(&key, item)).collect()
        }
        Value::Object(entries) => entries
            .iter()
            .map(|(name, value)| (name.clone(), masked(&join(key, name), value)))
            .collect(),
        Value::String(text) => without_credentials(text).into(),
        plain => plain.clone(),
    }
}

/// Whether what is written for a key may hold a secret: because it is one, or a secret is a part of it.
pub(super) fn may_hold_secret(key: &str) -> bool {
    let mut general = String::with_capacity(key.len());
    for (index, part) in key.split('[').enumerate() {
        match part.split_once(']') {
            Some((_, rest)) if index > 0 => general.extend(["[]", rest]),
            _ => general.push_str(part),
        }
    }
    let begins = |long: &str, short: &str| {
        let rest = long.strip_prefix(short);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    SECRETS
        .iter()
        .any(|secret| begins(secret, &general) || begins(&general, secret))
}

/// Whether an unknown key may be repeated where a secret was to be named: `- 5ecret: shop` happens, and what is like a name
/// of ours, or at least like a name, is none.
pub(super) fn may_be_repeated(key: &str, near: Option<&str>) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    near.is_some_and(|near| is_slip(key, near)) || key.len() <= 20 && key.bytes().all(plain)
}

/// The text with every value in it hidden that is quoted, as serde quotes what it did not expect.
pub(super) fn without_values(text: &str) -> String {
    let mut shown = String::new();
    for (index, part) in text.split(['"', '`']).enumerate() {
        shown.push_str(if index % 2 == 0 { part } else { HIDDEN });
    }
    shown
}

/// The text without the credentials of a URL in it: a URL that was given to the wrong setting is shown without its password.
pub(super) fn without_credentials(text: &str) -> String {
    if let Some((scheme, rest)) = text.split_once("://") {
        return match rest.rsplit_once('@') {
            Some((_, rest)) => format!("{scheme}://{HIDDEN}@{rest}"),
            None => text.to_owned(),
        };
    }
    // Without its scheme it is known by user:password@host.
    let Some((before, host)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    let begin = before
        .rfind(|c: char| c.is_whitespace() || "\"'`".contains(c))
        .map_or(0, |at| {
            at + before[at..].chars().next().map_or(1, char::len_utf8)
        });
    if before[begin..].contains(':') {
        format!("{}{HIDDEN}@{host}", &before[..begin])
    } else {
        text.to_owned()
    }
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
            ("\"a:b@c\" is no level", "\"***@c\" is no level"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn what_is_shown_of_a_value_depends_on_its_key() {
        let shown = |key, value| masked(key, &value).to_string();
        let tokens = serde_json::json!([{"name": "shop", "token": "s3cret", "publish": ["a"]}]);
        assert_eq!(
            shown("auth.tokens", tokens),
            r#"[{"name":"shop","publish":["a"],"token":"***"}]"#
        );
        assert_eq!(shown("admin.token", "s3cret".into()), r#""***""#);
        assert_eq!(shown("admin.token", Value::Null), "null");
        assert_eq!(
            shown("redis.url", "redis://a:b@c".into()),
            r#""redis://***@c""#
        );
        assert_eq!(shown("limits.connections", 5.into()), "5");
    }

    #[test]
    fn a_secret_is_looked_for_above_and_below() {
        for key in [
            "auth",
            "auth.tokens",
            "auth.tokens[7]",
            "auth.tokens[7].token",
            "redis.password",
        ] {
            assert!(may_hold_secret(key), "{key}");
        }
        for key in [
            "auth.tokens[7].publish[0]",
            "auth.cookie",
            "redis.passwor",
            "stream",
            "][",
        ] {
            assert!(!may_hold_secret(key), "{key}");
        }
    }

    /// The type of a setting says so, too: whoever adds one has to add it to the list.
    #[test]
    fn every_setting_of_the_type_is_in_the_list() {
        let typed = ["mod.rs", "redis.rs"].map(|file| {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
            let text = std::fs::read_to_string(path.join(file)).expect("a source");
            text.lines()
                .filter(|line| line.starts_with("    pub ") && line.contains("Secret"))
                .count()
        });
        assert_eq!(typed.iter().sum::<usize>(), SECRETS.len());
    }
}
