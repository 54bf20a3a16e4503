//! Signed tokens (RFC 7519): three parts, one signature, by a key of ours.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::{
    Denied,
    key::{Key, algorithm},
};

/// A token whose signature nobody has looked at yet.
#[derive(Clone, Copy)]
pub(super) struct Jwt<'a> {
    /// What was signed: the header and the claims.
    message: &'a str,
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
}

/// What a header says that makes a difference; of each there may be one. Keys that it carries or points to (`jwk`, `jku`,
/// `x5c`, `x5u`) are those of whoever wrote it: they are not even read.
#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

/// Which key a token claims to be signed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
}

impl<'a> Jwt<'a> {
    /// Takes a token apart; none, if it has not the form of one.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (message, signature) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let plain = |part: &str| {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !part.is_empty() && part.bytes().all(letter)
        };
        // Whatever else has a dot in it, such as an encrypted token of five parts, fails here.
        let parts = [header, claims];
        (parts.into_iter().all(plain) && (signature.is_empty() || plain(signature))).then_some(
            Self {
                message,
                header,
                claims,
                signature,
            },
        )
    }

    /// What it says of its key, which is good for finding that key and for nothing else.
    pub(super) fn header(&self) -> Result<Header, Denied> {
        let wrong = || Denied::invalid("the header of the token is not that of a signed token");
        let json = URL_SAFE_NO_PAD.decode(self.header).map_err(|_| wrong())?;
        let header: RawHeader = serde_json::from_slice(&json).map_err(|_| wrong())?;
        if header.crit.is_some() {
            return Err(Denied::invalid(
                "the header of the token asks for extensions (crit), of which none is known here",
            ));
        }
        let algorithm = algorithm(&header.alg).ok_or_else(|| {
            Denied::invalid("alg of the token is none of HS256, RS256, ES256 and EdDSA")
        })?;
        Ok(Header {
            algorithm,
            key_id: header.kid,
        })
    }

    /// Whether this key has signed it, by the key's own algorithm.
    pub(super) fn is_signed_by(&self, key: &Key) -> bool {
        key.has_signed(self.message, self.signature)
    }

    /// The claims as JSON.
    pub(super) fn claims(&self) -> Result<Vec<u8>, Denied> {
        URL_SAFE_NO_PAD
            .decode(self.claims)
            .map_err(|_| Denied::invalid("the claims are not in base64url"))
    }
}
