//! Who a caller is, and what it may do.

use std::{sync::Arc, time::SystemTime};

use crate::{config::Right, event::TopicPattern};

/// The bytes of a key's or token's SHA-256 that tell it from others. They stay in this process: whoever had them could try
/// guesses without asking.
pub(super) type Print = [u8; 16];

/// What an identity rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nobody showed anything.
    Anonymous,
    /// `admin.token`
    Admin(Print),
    /// One of `auth.tokens`; a ticket carries its name alone.
    Token {
        name: Arc<str>,
        print: Option<Print>,
    },
    /// A token that `auth.jwt.secret` or `auth.jwt.public_key` has signed.
    Key(Print),
    /// A token that a key of the set at `auth.jwt.jwks_url` has signed.
    Jwks,
    /// A signed token, by way of a ticket.
    Signed,
}

/// Who a caller is, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub(super) subject: Option<Arc<str>>,
    pub(super) caller: Arc<str>,
    pub(super) subscribe: Arc<[TopicPattern]>,
    pub(super) publish: Arc<[TopicPattern]>,
    pub(super) presence: Arc<[TopicPattern]>,
    pub(super) admin: bool,
    pub(super) expires: Option<SystemTime>,
    pub(super) source: Source,
    /// Whether it came by a ticket.
    pub(super) ticket: bool,
}

impl Identity {
    /// Whoever shows nothing. What anybody may do is not a right of its own: see [`Auth::may`](super::Auth::may).
    pub fn anonymous() -> Self {
        Self {
            subject: None,
            caller: "".into(),
            subscribe: [].into(),
            publish: [].into(),
            presence: [].into(),
            admin: false,
            expires: None,
            source: Source::Anonymous,
            ticket: false,
        }
    }

    /// The claim `sub`, or the name of a static token.
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.subject.as_ref()
    }

    /// Whose idempotency keys and limits these are; empty for nobody. Two callers never share it, but for signed tokens of
    /// one issuer without a subject, which cannot be told apart.
    pub fn caller(&self) -> &Arc<str> {
        &self.caller
    }

    /// Whether it showed something.
    pub fn is_known(&self) -> bool {
        self.source != Source::Anonymous
    }

    /// Whether its own rights are for doing this with the topic of this name.
    pub(super) fn may(&self, right: Right, topic: &str) -> bool {
        let patterns = match right {
            Right::Subscribe => &self.subscribe,
            Right::Publish => &self.publish,
            Right::Presence => &self.presence,
        };
        patterns.iter().any(|pattern| pattern.matches(topic))
    }

    /// Whether it may do what operators do.
    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// Whether it was shown by a ticket, which is not good for another ticket: they would go on for ever.
    pub fn by_ticket(&self) -> bool {
        self.ticket
    }

    /// When it ends; never, if nothing says so.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Whether `new` may take the place of `old` on an open stream. Two that have no subject are not known to be the same.
    pub fn same_subject(old: &Self, new: &Self) -> bool {
        old.subject.is_some() && old.subject == new.subject && old.caller == new.caller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(subject: Option<&str>, caller: &str) -> Identity {
        Identity {
            subject: subject.map(Into::into),
            caller: caller.into(),
            source: Source::Jwks,
            ..Identity::anonymous()
        }
    }

    #[test]
    fn only_the_same_subject_may_take_over_a_stream() {
        let ann = identity(Some("ann"), "jwt:1:a:ann");
        assert!(Identity::same_subject(&ann, &ann.clone()));
        for other in [
            identity(Some("bob"), "jwt:1:a:bob"),
            // A static token of that name is somebody else.
            identity(Some("ann"), "token:ann"),
            identity(None, "jwt:1:a"),
            Identity::anonymous(),
        ] {
            assert!(!Identity::same_subject(&ann, &other), "{other:?}");
            assert!(!Identity::same_subject(&other, &ann), "{other:?}");
            assert!(other.subject.is_some() || !Identity::same_subject(&other, &other));
        }
    }

    #[test]
    fn whoever_shows_nothing_has_no_right_of_its_own() {
        let nobody = Identity::anonymous();
        for right in [Right::Subscribe, Right::Publish, Right::Presence] {
            assert!(!nobody.may(right, "orders"));
        }
        assert!(!nobody.is_admin() && !nobody.is_known());
    }
}
