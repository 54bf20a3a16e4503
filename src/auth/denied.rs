//! Why a credential was not accepted.

use std::{borrow::Cow, time::SystemTime};

/// Why a credential was not accepted. Its text is for whoever showed the credential: it says what was wrong, never repeats
/// any of it, and says of what nobody has signed no more than its form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It was never valid here.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// It was valid, up to this moment.
    #[error("the credential has expired: get a new one and come back")]
    Expired(SystemTime),
    /// A ticket that has been used: it opens one stream, once.
    #[error("the ticket has been used: get a new one for each connect")]
    Spent,
    /// Nobody can tell now: the keys that say so are away.
    #[error("{0}")]
    Unavailable(&'static str),
}

impl Denied {
    pub(super) const fn invalid(text: &'static str) -> Self {
        Self::Invalid(Cow::Borrowed(text))
    }

    /// Whether it may be accepted again, or another one in its place, without anybody having done anything wrong. A browser
    /// has to survive it.
    pub const fn is_temporary(&self) -> bool {
        !matches!(self, Self::Invalid(_))
    }

    /// Whether this counts as an attempt with a credential that was never valid.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Invalid(_))
    }
}
