//! What is said in the main log: a level, and levels of single modules.
//!
//! ```text
//! info                          this gateway from info on
//! warn,tidegate::hub=debug      less of it, but more of one module
//! info,h2=debug                 and what a library has to say
//! ```
//!
//! A level alone is one for this gateway: libraries say at most warnings, unless they are named. Some of them write down
//! what clients send, and a level of `trace` must not bring a token into a line.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use tracing::{Level, level_filters::LevelFilter};

/// The crate whose modules follow a level that stands alone.
const OWN: &str = env!("CARGO_CRATE_NAME");
/// What is said where only modules are named.
const OTHERWISE: LevelFilter = LevelFilter::INFO;

/// See the module.
#[derive(Clone, Debug)]
pub struct LogLevel {
    text: String,
    own: LevelFilter,
    /// The longest names first.
    modules: Vec<(String, LevelFilter)>,
}

/// No level, and what would be one. What was written is repeated only where it cannot hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}expected one of off, error, warn, info, debug, trace, or levels of modules, too: info,tidegate::hub=debug",
    shown(.written.as_deref())
)]
pub struct LevelError {
    written: Option<String>,
}

fn shown(written: Option<&str>) -> String {
    written.map_or_else(String::new, |written| format!("{written:?} is no level: "))
}

impl LogLevel {
    /// What is said of the modules that are called so.
    pub fn of(&self, target: &str) -> LevelFilter {
        let named = |(module, _): &&(String, LevelFilter)| is_in(target, module);
        match self.modules.iter().find(named) {
            Some((_, level)) => *level,
            None if is_in(target, OWN) => self.own,
            None => self.own.min(LevelFilter::WARN),
        }
    }

    /// The most that is said of anything.
    pub fn most(&self) -> LevelFilter {
        let modules = self.modules.iter().map(|(_, level)| *level);
        modules.fold(self.own, LevelFilter::max)
    }

    /// Whether a library may say so much that what clients send could be among it.
    pub fn libraries_tell_all(&self) -> bool {
        let mut modules = self.modules.iter();
        modules.any(|(module, level)| !is_in(module, OWN) && *level >= Level::DEBUG)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether a module is another one, or stands in it.
fn is_in(target: &str, module: &str) -> bool {
    target
        .strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn level(word: &str) -> Option<LevelFilter> {
    const LEVELS: [(&str, LevelFilter); 7] = [
        ("off", LevelFilter::OFF),
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        // As other languages say it.
        ("warning", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    let found = LEVELS
        .iter()
        .find(|(name, _)| word.eq_ignore_ascii_case(name));
    found.map(|(_, level)| *level)
}

impl FromStr for LogLevel {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        let plain =
            |character: char| character.is_ascii_alphanumeric() || " ,=:_-".contains(character);
        // A URL that went to the wrong setting has a password in any of its parts.
        let repeatable = text.len() <= 128 && text.chars().all(plain) && !text.is_empty();
        let wrong = |part: &str| LevelError {
            written: repeatable.then(|| part.to_owned()),
        };
        let (mut own, mut modules) = (OTHERWISE, Vec::new());
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None => own = level(part).ok_or_else(|| wrong(part))?,
                Some((module, word)) => {
                    let module = module.trim();
                    let named = !module.is_empty()
                        && module.chars().all(|character| {
                            character.is_ascii_alphanumeric() || "_:".contains(character)
                        });
                    let level = level(word.trim()).filter(|_| named);
                    modules.push((module.to_owned(), level.ok_or_else(|| wrong(part))?));
                }
            }
        }
        modules.sort_by_key(|(module, _)| std::cmp::Reverse(module.len()));
        Ok(Self {
            text: text.to_owned(),
            own,
            modules,
        })
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // YAML reads `off` without quotes as a text, but other tools write it as a switch.
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text.parse().map_err(serde::de::Error::custom),
            serde_json::Value::Bool(false) => "off".parse().map_err(serde::de::Error::custom),
            _ => Err(serde::de::Error::custom(LevelError { written: None })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> LogLevel {
        text.parse().expect("a level")
    }

    #[test]
    fn a_level_is_one_for_this_gateway_and_at_most_warn_for_libraries() {
        let level = parsed("TRACE");
        assert_eq!(level.of("tidegate::hub::lane"), LevelFilter::TRACE);
        assert_eq!(level.of("tidegate"), LevelFilter::TRACE);
        assert_eq!(level.of("tidegate_other"), LevelFilter::WARN);
        assert_eq!(level.of("h2::codec"), LevelFilter::WARN);
        assert!(!level.libraries_tell_all());
        assert_eq!(parsed("error").of("h2"), LevelFilter::ERROR);
        assert_eq!(parsed("warning").of("tidegate"), LevelFilter::WARN);
    }

    #[test]
    fn the_longest_name_decides() {
        let level = parsed("warn, tidegate::hub=debug, tidegate::hub::lane=off, h2=trace");
        assert_eq!(level.of("tidegate::http"), LevelFilter::WARN);
        assert_eq!(level.of("tidegate::hub"), LevelFilter::DEBUG);
        assert_eq!(level.of("tidegate::hub::lane"), LevelFilter::OFF);
        assert_eq!(level.of("tidegate::hubs"), LevelFilter::WARN);
        assert_eq!(level.of("h2::proto"), LevelFilter::TRACE);
        assert_eq!(level.most(), LevelFilter::TRACE);
        assert!(level.libraries_tell_all());
        assert_eq!(
            parsed("tidegate::hub=debug").of("tidegate"),
            LevelFilter::INFO
        );
    }

    #[test]
    fn what_is_no_level_is_told_with_what_would_be_one() {
        for wrong in [
            "loud",
            "",
            "info,",
            "shout,,==",
            "=info",
            "a b=info",
            "tidegate=5",
        ] {
            let error = wrong.parse::<LogLevel>().expect_err(wrong).to_string();
            assert!(error.contains("off, error, warn, info"), "{error}");
        }
        let error = "info,loud".parse::<LogLevel>().expect_err("no level");
        assert!(
            error.to_string().starts_with("\"loud\" is no level"),
            "{error}"
        );
    }

    #[test]
    fn a_url_that_went_here_keeps_its_password() {
        for url in [
            "redis://:s3cret@host/0",
            "redis://u:a,s3cret,b@host",
            "s3cret\u{1b}[0m",
        ] {
            let error = url.parse::<LogLevel>().expect_err(url).to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
