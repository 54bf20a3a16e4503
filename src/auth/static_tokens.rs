//! The secrets of the settings: `auth.tokens` and `admin.token`.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{
    AuthError, Identity,
    identity::{Print, Source},
};
use crate::config;

/// Who a known secret makes of its bearer.
#[derive(Debug)]
struct Entry {
    hash: [u8; 32],
    identity: Identity,
}

/// All secrets of the settings.
#[derive(Debug)]
pub(super) struct StaticTokens(Vec<Entry>);

pub(super) fn hash(secret: &[u8]) -> [u8; 32] {
    let hash = digest(&SHA256, secret);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The part of a hash that tells it from others.
pub(super) fn print(hash: &[u8; 32]) -> Print {
    hash[..16].try_into().expect("half of 32 bytes")
}

impl StaticTokens {
    pub(super) fn new(config: &config::Config) -> Result<Self, AuthError> {
        let mut entries: Vec<(String, Entry)> = Vec::new();
        let mut add = |place: String, secret: &config::Secret, identity: Identity| {
            if secret.expose().is_empty() {
                return Err(AuthError::EmptyToken { place });
            }
            let hash = hash(secret.expose().as_bytes());
            if let Some((other, _)) = entries.iter().find(|(_, entry)| entry.hash == hash) {
                let other = other.clone();
                return Err(AuthError::SameToken { place, other });
            }
            let mut identity = identity;
            match &mut identity.source {
                Source::Token { print: own, .. } => *own = Some(print(&hash)),
                source => *source = Source::Admin(print(&hash)),
            }
            entries.push((place, Entry { hash, identity }));
            Ok(())
        };
        for (at, token) in config.auth.tokens.iter().enumerate() {
            let earlier = config.auth.tokens[..at].iter();
            if token.name.is_empty() || token.name.contains(char::is_control) {
                return Err(AuthError::TokenName { at });
            }
            if earlier.clone().any(|other| other.name == token.name) {
                return Err(AuthError::SameName {
                    name: token.name.clone(),
                });
            }
            let name: Arc<str> = token.name.as_str().into();
            let identity = Identity {
                subject: Some(name.clone()),
                caller: format!("token:{name}").into(),
                subscribe: token.subscribe.as_slice().into(),
                publish: token.publish.as_slice().into(),
                presence: token.presence.as_slice().into(),
                admin: token.admin,
                expires: None,
                source: Source::Token { name, print: None },
                ticket: false,
            };
            add(
                format!("auth.tokens: {}", token.name),
                &token.token,
                identity,
            )?;
        }
        if let Some(secret) = &config.admin.token {
            let identity = Identity {
                subject: Some("admin".into()),
                caller: "admin".into(),
                admin: true,
                ..Identity::anonymous()
            };
            add("admin.token".into(), secret, identity)?;
        }
        let entries = entries.into_iter().map(|(_, entry)| entry);
        Ok(Self(entries.collect()))
    }

    /// Whose secret this is. All are compared, each to its end: neither a secret that begins right nor its place in the
    /// list can be told by the time that this takes. Hashes, because their length tells nothing.
    pub(super) fn find(&self, secret: &str) -> Option<&Identity> {
        let shown = hash(secret.as_bytes());
        // Zero is nobody; two entries are never equal, so there is one that is taken at most.
        let found = (1_u64..).zip(&self.0).fold(0_u64, |found, (at, entry)| {
            let same: Choice = entry.hash.ct_eq(&shown);
            u64::conditional_select(&found, &at, same)
        });
        let at = usize::try_from(found.checked_sub(1)?).ok()?;
        self.0.get(at).map(|entry| &entry.identity)
    }

    /// What the settings say now of an identity that rests on them; none, if they do not know it any more.
    pub(super) fn current(&self, source: &Source) -> Option<&Identity> {
        let same = |entry: &&Entry| match (source, &entry.identity.source) {
            // What came by a ticket has only the name.
            (Source::Token { name, print: None }, Source::Token { name: other, .. }) => {
                name == other
            }
            (one, other) => one == other,
        };
        self.0.iter().find(same).map(|entry| &entry.identity)
    }
}
