//! Whether there is a console.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// The page of the gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "each setting is documented in config/defaults.yaml, which is its reference"
)]
pub struct Console {
    pub enabled: ConsoleSwitch,
}

/// Whether it is served: `true` and `false`, in a file also without quotes, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleSwitch {
    /// In development mode.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl<'de> Deserialize<'de> for ConsoleSwitch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl Visitor<'_> for Words {
            type Value = ConsoleSwitch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or auto")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<ConsoleSwitch, E> {
                Ok(if on {
                    ConsoleSwitch::On
                } else {
                    ConsoleSwitch::Off
                })
            }

            // The environment knows texts only.
            fn visit_str<E: Error>(self, text: &str) -> Result<ConsoleSwitch, E> {
                match text {
                    "auto" => Ok(ConsoleSwitch::Auto),
                    "true" => Ok(ConsoleSwitch::On),
                    "false" => Ok(ConsoleSwitch::Off),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(Words)
    }
}
