//! Why settings were refused: where it was written, which setting, what is allowed.

use std::{net::SocketAddr, path::PathBuf};

use super::secret;

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no YAML.
    #[error("{path} is not valid YAML: {message}")]
    Yaml {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// There is no such setting.
    #[error("{place}: unknown setting {key}{}", hint(.nearest.as_ref()))]
    Unknown {
        /// Where it was written.
        place: String,
        /// What was written.
        key: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// The value does not fit the setting.
    #[error("{place}: {key}: {message}")]
    Value {
        /// Where it was written.
        place: String,
        /// Which setting.
        key: String,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// Serving others without saying who may do what.
    #[error(
        "{place}: {key} is {address}, which is not a loopback address, and no auth is configured: anybody who reaches it could publish. \
         Configure auth, or say auth.anonymous: [subscribe, publish] (TIDEGATE_AUTH__ANONYMOUS=subscribe,publish) if that is what you want"
    )]
    Exposed {
        /// Where it was written.
        place: String,
        /// Which listener.
        key: &'static str,
        /// Where it was told to listen.
        address: SocketAddr,
    },
}

fn hint(nearest: Option<&String>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(", did you mean {nearest}?"))
}

impl ConfigError {
    /// What was written is repeated in many a message, and may be a URL with a password that went to the wrong setting.
    pub(super) fn without_credentials(mut self) -> Self {
        match &mut self {
            Self::Yaml { message: text, .. }
            | Self::Unknown { key: text, .. }
            | Self::Value { message: text, .. } => *text = secret::without_credentials(text),
            Self::File { .. } | Self::Exposed { .. } => {}
        }
        self
    }

    /// The error and what it comes from, in one line.
    pub fn told(&self) -> String {
        match self {
            Self::File { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// What is wrong with one setting, before it is known where it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Wrong {
    /// Which setting.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Wrong {
    /// Something is wrong with `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        let (key, message) = (key.into(), message.into());
        Self { key, message }
    }
}
