//! Keys that signatures are checked with. Each is for one algorithm, whatever a token says of itself.

use std::fmt;

use aws_lc_rs::{
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RsaPublicKeyComponents},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::{
    identity::{Print, Source},
    static_tokens::{hash, print},
};

/// A key, and what it is for.
#[derive(Clone)]
pub(super) struct Key {
    algorithm: Algorithm,
    verifier: DecodingKey,
    /// What it is called in a set of keys.
    id: Option<Box<str>>,
    source: Source,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.algorithm, self.id)
    }
}

/// Why something is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum KeyError {
    #[error("is empty: `openssl rand -hex 32` makes a good one")]
    EmptySecret,
    #[error("holds a PEM, which is no secret: a public key belongs to auth.jwt.public_key")]
    PemAsSecret,
    #[error("is no PEM: -----BEGIN PUBLIC KEY----- was expected")]
    NoPem,
    #[error(
        "holds a private key, which only the issuer of tokens should have: openssl pkey -in FILE -pubout makes a public one of it"
    )]
    Private,
    #[error(
        "holds a certificate: openssl x509 -in FILE -noout -pubkey takes the public key out of it"
    )]
    Certificate,
    #[error(
        "holds a key of another kind: RSA of 2048 to 8192 bits, EC on P-256 or Ed25519 was expected"
    )]
    Kind,
    #[error("is a shared secret, which has no place in a public set")]
    Symmetric,
    #[error("is for something else than checking signatures")]
    Use,
    #[error("is for an algorithm that is not supported")]
    Algorithm,
    #[error("is malformed")]
    Malformed,
}

impl Key {
    /// The key of HS256.
    pub(super) fn secret(secret: &str) -> Result<Self, KeyError> {
        if secret.contains("-----BEGIN") {
            return Err(KeyError::PemAsSecret);
        }
        if secret.is_empty() {
            return Err(KeyError::EmptySecret);
        }
        let key = DecodingKey::from_secret(secret.as_bytes());
        Ok(Self::new(Algorithm::HS256, key, own(secret.as_bytes())))
    }

    /// A public key from a PEM file; its kind says what it is for.
    pub(super) fn pem(pem: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(pem).map_err(|_| KeyError::NoPem)?;
        let (_, rest) = text.split_once("-----BEGIN ").ok_or(KeyError::NoPem)?;
        let (label, _) = rest.split_once("-----").ok_or(KeyError::NoPem)?;
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            "CERTIFICATE" => return Err(KeyError::Certificate),
            label if label.ends_with("PRIVATE KEY") => return Err(KeyError::Private),
            _ => return Err(KeyError::NoPem),
        }
        let read = [
            (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
            (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
            (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
        ];
        let mut read = read.into_iter();
        let (algorithm, key) = read
            .find_map(|(algorithm, key)| Some((algorithm, key.ok()?)))
            .ok_or(KeyError::Kind)?;
        let bytes = key.try_get_as_bytes().map_err(|_| KeyError::Kind)?;
        check(algorithm, bytes)?;
        let source = own(bytes);
        Ok(Self::new(algorithm, key, source))
    }

    /// A key of a set.
    pub(super) fn jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        if jwk.kty == "oct" || jwk.k.is_some() {
            return Err(KeyError::Symmetric);
        }
        if jwk.d.is_some() {
            return Err(KeyError::Private);
        }
        let verify = |operations: &Vec<String>| operations.iter().any(|name| name == "verify");
        if jwk.usage.as_ref().is_some_and(|usage| usage != "sig")
            || !jwk.key_ops.as_ref().is_none_or(verify)
        {
            return Err(KeyError::Use);
        }
        let (algorithm, key) = match (&*jwk.kty, jwk.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (bytes(jwk.n.as_deref())?, bytes(jwk.e.as_deref())?);
                modulus(&n)?;
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                (Algorithm::RS256, key)
            }
            ("EC", Some("P-256")) => {
                let point = [
                    &[4][..],
                    &field(jwk.x.as_deref())?,
                    &field(jwk.y.as_deref())?,
                ];
                let point = point.concat();
                check(Algorithm::ES256, &point)?;
                (Algorithm::ES256, DecodingKey::from_ec_der(&point))
            }
            ("OKP", Some("Ed25519")) => {
                let x = field(jwk.x.as_deref())?;
                check(Algorithm::EdDSA, &x)?;
                (Algorithm::EdDSA, DecodingKey::from_ed_der(&x))
            }
            _ => return Err(KeyError::Kind),
        };
        if jwk
            .alg
            .as_deref()
            .is_some_and(|name| self::algorithm(name) != Some(algorithm))
        {
            return Err(KeyError::Algorithm);
        }
        Ok(Self {
            id: jwk.kid.as_deref().map(Into::into),
            ..Self::new(algorithm, key, Source::Jwks)
        })
    }

    fn new(algorithm: Algorithm, verifier: DecodingKey, source: Source) -> Self {
        Self {
            algorithm,
            verifier,
            id: None,
            source,
        }
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What an identity rests on that a token with its signature makes.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Whether this key's owner has signed the message.
    pub(super) fn has_signed(&self, message: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(
            signature,
            message.as_bytes(),
            &self.verifier,
            self.algorithm,
        )
        .unwrap_or(false)
    }
}

fn own(bytes: &[u8]) -> Source {
    let print: Print = print(&hash(bytes));
    Source::Key(print)
}

/// Which algorithm a token or a key names, of those that are supported.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "RS256" => Some(Algorithm::RS256),
        "ES256" => Some(Algorithm::ES256),
        // The second is what RFC 9864 calls it.
        "EdDSA" | "Ed25519" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// Whether these bytes are a public key for that algorithm: on its curve, of its size.
fn check(algorithm: Algorithm, bytes: &[u8]) -> Result<(), KeyError> {
    let parsed = match algorithm {
        Algorithm::RS256 => {
            let key = rsa::PublicKey::from_der(bytes).map_err(|_| KeyError::Kind)?;
            return modulus(&RsaPublicKeyComponents::<Vec<u8>>::from(&key).n);
        }
        Algorithm::ES256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes),
        _ => ParsedPublicKey::new(&ED25519, bytes),
    };
    parsed.map(drop).map_err(|_| KeyError::Kind)
}

/// Whether an RSA key is of a size that signatures are checked with: otherwise none would ever be right.
fn modulus(n: &[u8]) -> Result<(), KeyError> {
    let zeros = n.iter().take_while(|&&byte| byte == 0).count();
    let first = n.get(zeros).map_or(8, |byte| byte.leading_zeros() as usize);
    let bits = (8 * (n.len() - zeros)).saturating_sub(first);
    if (2048..=8192).contains(&bits) {
        Ok(())
    } else {
        Err(KeyError::Kind)
    }
}

fn bytes(text: Option<&str>) -> Result<Vec<u8>, KeyError> {
    let text = text.ok_or(KeyError::Malformed)?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| KeyError::Malformed)
}

/// A number of a curve: 32 bytes, also where it begins with zeros (RFC 7518, 6.2.1.2).
fn field(text: Option<&str>) -> Result<[u8; 32], KeyError> {
    bytes(text)?.try_into().map_err(|_| KeyError::Malformed)
}

/// A key as it stands in a set (RFC 7517, 4); what is not named here makes no difference.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: String,
    pub(super) kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
    k: Option<serde::de::IgnoredAny>,
}
