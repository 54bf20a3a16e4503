//! Where a setting got its value.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::position::Position;

/// The file of names that is read where the gateway runs.
pub(super) const DOTENV: &str = ".env";

/// Where a setting got its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody has said anything.
    Default,
    /// A file of settings.
    File {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        at: Option<Position>,
    },
    /// A line of `.env`.
    Dotenv {
        /// Which line.
        line: usize,
        /// The name on it.
        name: String,
    },
    /// The environment.
    Environment {
        /// The name in it.
        name: String,
    },
    /// The command line.
    Flag {
        /// The flag.
        name: &'static str,
    },
    /// It follows from something else.
    Derived {
        /// From what.
        why: &'static str,
    },
}

impl Place {
    pub(super) fn file(path: &Path, at: Option<Position>) -> Self {
        let path = path.to_owned();
        Self::File { path, at }
    }

    /// The kind of source, from a closed list.
    pub const fn source(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Dotenv { .. } => DOTENV,
            Self::Environment { .. } => "environment",
            Self::Flag { .. } => "flag",
            Self::Derived { .. } => "derived",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, at: None } => write!(f, "{}", path.display()),
            Self::File { path, at: Some(at) } => write!(f, "{}, {at}", path.display()),
            Self::Dotenv { line, name } => write!(f, "{DOTENV}, line {line}, {name}"),
            Self::Environment { name } => f.write_str(name),
            Self::Flag { name } => f.write_str(name),
            Self::Derived { why } => f.write_str(why),
        }
    }
}
