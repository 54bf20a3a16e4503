//! What the tests of this room need: settings, keys of every kind, and tokens that say anything.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    encoding::AsDer,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::{Auth, Credential, CredentialKind, Denied, Identity};
use crate::config::{Config, Flag, Sources};

pub(super) const SECRET: &str = "a secret of at least thirty-two bytes";

/// Now, for all tests.
pub(super) const NOW: u64 = 2_000_000_000;

pub(super) fn now() -> SystemTime {
    at(NOW)
}

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn config(settings: &[(&'static str, &str)]) -> Config {
    let flags = settings.iter().map(|(key, value)| Flag {
        name: "--setting",
        key,
        value: (*value).to_owned(),
    });
    Config::load(&Sources {
        flags: flags.collect(),
        ..Sources::default()
    })
    .expect("settings")
}

/// A gateway that has these settings of auth.
pub(super) fn auth(settings: &[(&'static str, &str)]) -> Auth {
    Auth::new(&config(settings), None).expect("settings of auth")
}

pub(super) async fn show(auth: &Auth, token: &str) -> Result<Identity, Denied> {
    let credential = Credential::new(CredentialKind::Bearer, token);
    auth.identify(&credential, now()).await
}

/// Whoever makes tokens.
pub(super) struct Issuer {
    pub(super) algorithm: Algorithm,
    pub(super) key: EncodingKey,
    /// The public key, for everybody.
    pub(super) pem: String,
    pub(super) jwk: Value,
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("base64"))
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// Text as it stands in a token.
pub(super) fn part(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

pub(super) fn hs() -> Issuer {
    Issuer {
        algorithm: Algorithm::HS256,
        key: EncodingKey::from_secret(SECRET.as_bytes()),
        pem: String::new(),
        jwk: json!({"kty": "oct", "k": part(SECRET)}),
    }
}

pub(super) fn new_rsa() -> Issuer {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let private = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der>::as_der(&pair).expect("DER");
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(pair.public_key());
    let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    let private = pem("PRIVATE KEY", private.as_ref());
    Issuer {
        algorithm: Algorithm::RS256,
        key: EncodingKey::from_rsa_pem(private.as_bytes()).expect("a key"),
        pem: pem("PUBLIC KEY", public.expect("DER").as_ref()),
        jwk: json!({"kty": "RSA", "n": part(parts.n), "e": part(parts.e)}),
    }
}

pub(super) fn new_ec() -> Issuer {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let private = pair.to_pkcs8v1().expect("DER");
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(pair.public_key());
    let point = pair.public_key().as_ref();
    Issuer {
        algorithm: Algorithm::ES256,
        key: EncodingKey::from_ec_der(private.as_ref()),
        pem: pem("PUBLIC KEY", public.expect("DER").as_ref()),
        jwk: json!({"kty": "EC", "crv": "P-256", "x": part(&point[1..33]), "y": part(&point[33..])}),
    }
}

pub(super) fn new_ed() -> Issuer {
    let pair = Ed25519KeyPair::generate().expect("a key");
    let private = pair.to_pkcs8v1().expect("DER");
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(pair.public_key());
    Issuer {
        algorithm: Algorithm::EdDSA,
        key: EncodingKey::from_ed_der(private.as_ref()),
        pem: pem("PUBLIC KEY", public.expect("DER").as_ref()),
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": part(pair.public_key())}),
    }
}

/// One of each kind; making them takes time.
pub(super) static RSA: LazyLock<Issuer> = LazyLock::new(new_rsa);
pub(super) static EC: LazyLock<Issuer> = LazyLock::new(new_ec);
pub(super) static ED: LazyLock<Issuer> = LazyLock::new(new_ed);

pub(super) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        _ => "EdDSA",
    }
}

impl Issuer {
    /// The key as it stands in a set, with these members more.
    pub(super) fn jwk(&self, more: &Value) -> Value {
        let mut jwk = self.jwk.clone();
        let members = jwk.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        jwk
    }

    /// Signs whatever it is given.
    pub(super) fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm)
            .expect("a signature");
        format!("{message}.{signature}")
    }

    /// A token with these claims, and an end where they have none.
    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_of(&json!({}), claims)
    }

    /// The same, with these members more in its header.
    pub(super) fn token_of(&self, header: &Value, claims: &Value) -> String {
        let mut all = json!({"alg": name(self.algorithm), "typ": "JWT"});
        let members = all.as_object_mut().expect("an object");
        members.extend(header.as_object().expect("an object").clone());
        let mut claims = claims.clone();
        if claims.get("exp").is_none() {
            claims["exp"] = json!(NOW + 60);
        }
        self.sign(&all.to_string(), &claims.to_string())
    }
}
