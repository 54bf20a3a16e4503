//! Who a caller is: from what a request shows to an [`Identity`] with rights for topics.
//!
//! ```text
//! headers, query ─► credential ─► static token? signed token? ─► identity ─► may it?
//!                            └──► ticket ─► (once, by the store) ──┘
//! ```
//!
//! # Invariants
//! 1. What decides how a token is checked is the key, never the token.
//! 2. Nothing that a token says is looked at before its signature is right, but for which key it names.
//! 3. No credential is in any text, log line or `Debug` that leaves this room.
//!
//! Not here: how a refusal is answered ([`crate::http`]), how often somebody may fail, and that a ticket is used once.

#[cfg(test)]
mod attacks;
mod claims;
mod credential;
mod denied;
mod fetch;
#[cfg(test)]
mod forge;
mod identity;
mod jwks;
#[cfg(test)]
mod jwks_tests;
mod jwt;
mod key;
mod static_tokens;
pub mod ticket;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use credential::{Credential, CredentialKind, MAX_BYTES, credential};
pub use denied::Denied;
pub use fetch::UrlError;
pub use identity::Identity;
pub use jwks::JwksStats;
pub use key::KeyError;
pub use ticket::{LIFETIME as TICKET_LIFETIME, MARK as TICKET_MARK, TicketId, Tickets};

use self::{
    claims::Rules, fetch::Fetch, identity::Source, jwks::Jwks, jwt::Jwt, key::Key,
    static_tokens::StaticTokens,
};
use crate::{
    config::{Config, Right},
    event::Topic,
};

/// The greatest `auth.jwt.leeway`: beyond it no clock is wrong, but a setting.
const MAX_LEEWAY: Duration = Duration::from_hours(1);

/// Why settings of auth were refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AuthError {
    #[error("{place}: the token is empty")]
    EmptyToken { place: String },
    #[error("{place}: this is the token of {other} too, so nobody could tell whose it is")]
    SameToken { place: String, other: String },
    #[error("auth.tokens[{at}].name: a name without control characters was expected")]
    TokenName { at: usize },
    #[error("auth.tokens: there are two of the name {name}")]
    SameName { name: String },
    #[error("auth.jwt.secret {0}")]
    Secret(KeyError),
    #[error("auth.jwt.public_key: cannot read {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("auth.jwt.public_key: {} {error}", .path.display())]
    PublicKey { path: PathBuf, error: KeyError },
    #[error("auth.jwt.jwks_url {0}")]
    Url(UrlError),
    #[error("auth.jwt.leeway: at most 1h was expected")]
    Leeway,
}

/// All that credentials are judged by; a reload puts another one in its place.
#[derive(Debug)]
pub struct Auth {
    /// Of each [`Right`], whether anybody has it.
    anonymous: [bool; Right::ALL.len()],
    tokens: StaticTokens,
    /// The keys of the settings.
    keys: Vec<Key>,
    jwks: Option<Arc<Jwks>>,
    rules: Rules,
}

/// What is read from the settings, before anything is begun.
fn read(config: &Config) -> Result<(StaticTokens, Vec<Key>, Option<http::Uri>), AuthError> {
    let jwt = &config.auth.jwt;
    if jwt.leeway > MAX_LEEWAY {
        return Err(AuthError::Leeway);
    }
    let tokens = StaticTokens::new(config)?;
    let mut keys = Vec::new();
    if let Some(secret) = &jwt.secret {
        keys.push(Key::secret(secret.expose()).map_err(AuthError::Secret)?);
    }
    if let Some(path) = &jwt.public_key {
        keys.push(public_key(path)?);
    }
    let url = jwt.jwks_url.as_deref().map(fetch::url).transpose();
    Ok((tokens, keys, url.map_err(AuthError::Url)?))
}

/// Which right it takes, for the topic of which name. Whoever may follow a topic may not know who else does: that is a right
/// of its own, which also following the presence of a topic takes.
fn needed(right: Right, topic: &Topic) -> (Right, &str) {
    match topic.presence_of() {
        Some(of) if right == Right::Subscribe => (Right::Presence, of),
        _ => (right, topic.as_str()),
    }
}

fn public_key(path: &Path) -> Result<Key, AuthError> {
    let path = path.to_owned();
    match std::fs::read(&path) {
        Ok(pem) => Key::pem(&pem).map_err(|error| AuthError::PublicKey { path, error }),
        Err(source) => Err(AuthError::File { path, source }),
    }
}

impl Auth {
    /// Whether the settings can be used; begins nothing.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub fn check(config: &Config) -> Result<(), AuthError> {
        read(config).map(drop)
    }

    /// Reads the keys that the settings name, and begins to fetch those behind a URL, unless `previous` does that already. Has
    /// to be called within a runtime.
    ///
    /// # Errors
    /// See [`AuthError`]. A URL that cannot be reached is none: its tokens are [`Denied::Unavailable`] until it can.
    pub fn new(config: &Config, previous: Option<&Self>) -> Result<Self, AuthError> {
        let (tokens, keys, url) = read(config)?;
        let jwt = &config.auth.jwt;
        let kept = |url: &str| {
            let jwks = previous?.jwks.as_ref()?;
            jwks.is(url, jwt.jwks_refresh).then(|| jwks.clone())
        };
        let jwks = url.map(|url| {
            let text = jwt.jwks_url.as_deref().unwrap_or_default();
            kept(text)
                .unwrap_or_else(|| Arc::new(Jwks::start(text, Fetch::new(url), jwt.jwks_refresh)))
        });
        let anybody = |right| config.development() || config.auth.anonymous.contains(&right);
        Ok(Self {
            anonymous: Right::ALL.map(anybody),
            tokens,
            keys,
            jwks,
            rules: Rules {
                issuer: jwt.issuer.clone(),
                audience: jwt.audience.clone(),
                leeway: jwt.leeway,
            },
        })
    }

    /// Whose credential this is. Tickets are not read here: see [`Tickets`].
    ///
    /// # Errors
    /// See [`Denied`].
    ///
    /// # Cancel safety
    /// Nothing is lost: what it waits for goes on without it.
    pub async fn identify(
        &self,
        credential: &Credential<'_>,
        now: SystemTime,
    ) -> Result<Identity, Denied> {
        if credential.kind == CredentialKind::Ticket {
            return Err(Denied::invalid("a ticket is not accepted here"));
        }
        let text = credential.expose();
        if text.len() > MAX_BYTES {
            return Err(Denied::invalid("the credential is longer than 8192 bytes"));
        }
        if let Some(identity) = self.tokens.find(text) {
            return Ok(identity.clone());
        }
        let token = match Jwt::parse(text) {
            Some(token) if self.verifies() => token,
            Some(_) => {
                return Err(Denied::invalid(
                    "the credential is not known, and signed tokens are not accepted here",
                ));
            }
            None => {
                return Err(Denied::invalid(
                    "the credential is not known, and is no signed token",
                ));
            }
        };
        let source = self.signer(&token).await?;
        self.rules.identify(&token.claims()?, &source, now)
    }

    /// Whether there is, or will be, a key to check signed tokens with.
    fn verifies(&self) -> bool {
        !self.keys.is_empty() || self.jwks.is_some()
    }

    /// The key that has signed a token.
    async fn signer(&self, token: &Jwt<'_>) -> Result<Source, Denied> {
        let header = token.header()?;
        let mut own = self
            .keys
            .iter()
            .filter(|key| key.algorithm() == header.algorithm);
        let tried = own.clone().next().is_some();
        if let Some(key) = own.find(|key| token.is_signed_by(key)) {
            return Ok(key.source().clone());
        }
        let wrong = || Denied::invalid("the signature of the token is not right");
        match &self.jwks {
            // No key of a set is shared with those who make tokens.
            Some(jwks) if header.algorithm != jsonwebtoken::Algorithm::HS256 => {
                let key = jwks.key(&header).await?;
                if token.is_signed_by(&key) {
                    return Ok(key.source().clone());
                }
                Err(wrong())
            }
            _ if tried => Err(wrong()),
            _ => Err(Denied::invalid(
                "alg of the token is not that of any key here",
            )),
        }
    }

    /// Whether an identity may do this: by a right of its own, or because anybody may.
    pub fn may(&self, identity: &Identity, right: Right, topic: &Topic) -> bool {
        let (right, name) = needed(right, topic);
        self.anonymous[right as usize] || identity.may(right, name)
    }

    /// Whether anybody may do this, with each of these topics.
    pub fn anybody_may(&self, right: Right, topics: &[Topic]) -> bool {
        if topics.is_empty() {
            return self.anonymous[right as usize];
        }
        let mut topics = topics.iter();
        topics.all(|topic| self.anonymous[needed(right, topic).0 as usize])
    }

    /// What an identity that was made earlier, perhaps by other settings or on another replica, is now: a static token has
    /// the rights of today. None: what it rests on is no longer accepted.
    pub fn current(&self, identity: &Identity) -> Option<Identity> {
        match &identity.source {
            Source::Anonymous => Some(identity.clone()),
            source @ (Source::Admin(_) | Source::Token { .. }) => {
                let now = self.tokens.current(source)?;
                // A ticket does not become an operator.
                let admin = now.admin && identity.admin;
                Some(Identity {
                    admin,
                    ticket: identity.ticket,
                    ..now.clone()
                })
            }
            Source::Key(_) => self
                .keys
                .iter()
                .any(|key| *key.source() == identity.source)
                .then(|| identity.clone()),
            Source::Jwks => self.jwks.is_some().then(|| identity.clone()),
            Source::Signed => self.verifies().then(|| identity.clone()),
        }
    }

    /// How the set of keys behind a URL fares, if there is one.
    pub fn stats(&self) -> Option<JwksStats> {
        self.jwks.as_ref().map(|jwks| jwks.stats())
    }
}
