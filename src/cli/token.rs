//! `tidegate token`: a signed token, for trying things out and for back ends without a library of their own.
//!
//! A secret is never an argument: whoever may list the processes of a machine reads those.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

use crate::{
    config::{Config, Sources},
    event::TopicPattern,
};

#[derive(Args, Clone, Debug)]
pub(super) struct Token {
    /// What may be followed: a topic, or a beginning and one final *. May be repeated.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    subscribe: Vec<TopicPattern>,
    /// What may be published to, in the same way.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    publish: Vec<TopicPattern>,
    /// Of which topics it may be known who follows them, in the same way.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    presence: Vec<TopicPattern>,
    /// Whose token it is (sub). Without it an open stream cannot be renewed.
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// How long it is valid, like 15m, 1h, 30d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime_serde::re::humantime::parse_duration)]
    expires_in: Duration,
    /// Who made it (iss); auth.jwt.issuer where the settings are read and say so.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Whom it is for (aud); auth.jwt.audience where the settings are read and say so.
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// The name of the key (kid), for gateways that have a set of them.
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Sign by HS256 with the secret in this environment variable. Without any key option: auth.jwt.secret of the settings,
    /// which `JWT_SECRET` sets, too.
    #[arg(long, value_name = "VARIABLE", group = "key")]
    secret_env: Option<String>,
    /// Sign by HS256 with the secret in this file, without a line end behind it; - is standard input.
    #[arg(long, value_name = "FILE", group = "key")]
    secret_file: Option<PathBuf>,
    /// Sign by RS256, ES256 or `EdDSA`, by the kind of the private key in this PEM file (PKCS #8).
    #[arg(long, value_name = "FILE", group = "key")]
    private_key: Option<PathBuf>,
    /// A YAML file of settings.
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Token {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (algorithm, key, settings) = self.key()?;
        let patterns = [&self.subscribe, &self.publish, &self.presence];
        if patterns.iter().all(|patterns| patterns.is_empty()) {
            eprintln!(
                "tidegate: the token is good for nothing: say --subscribe, --publish or --presence"
            );
        }
        let header = Header {
            kid: self.kid.clone(),
            ..Header::new(algorithm)
        };
        let claims = self.claims(settings.as_ref(), SystemTime::now())?;
        let token = jsonwebtoken::encode(&header, &claims, &key).with_context(|| {
            format!("the key cannot sign by {algorithm:?}: RSA of 2048 to 8192 bits, EC on P-256 or Ed25519 was expected")
        })?;
        println!("{token}");
        Ok(())
    }

    /// What to sign with. The settings are read only where nothing else says so: a machine that makes tokens need not be one
    /// that could serve.
    fn key(&self) -> anyhow::Result<(Algorithm, EncodingKey, Option<Config>)> {
        if let Some(path) = &self.private_key {
            let (algorithm, key) = private_key(path)?;
            return Ok((algorithm, key, None));
        }
        if let Some(name) = &self.secret_env {
            // Who mistakes it for the secret itself must not find that in a log.
            let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
            ensure!(
                name.len() <= 64 && name.chars().all(letter),
                "--secret-env takes the name of an environment variable, not the secret"
            );
            let environment = Sources::of_process(None, Vec::new()).environment;
            let secret = environment.get(name).with_context(|| {
                format!("--secret-env: there is no variable {name} in the environment")
            })?;
            return Ok((Algorithm::HS256, secret_key(secret, name)?, None));
        }
        if let Some(path) = &self.secret_file {
            let text = read(path)?;
            let secret = text.strip_suffix('\n').unwrap_or(&text);
            let secret = secret.strip_suffix('\r').unwrap_or(secret);
            let place = path.display().to_string();
            return Ok((Algorithm::HS256, secret_key(secret, &place)?, None));
        }
        let config = Config::load(&Sources::of_process(self.config.clone(), Vec::new()))?;
        let secret = config.auth.jwt.secret.clone().context(
            "there is nothing to sign with: set JWT_SECRET (auth.jwt.secret), or say --secret-env, --secret-file or --private-key",
        )?;
        let key = secret_key(secret.expose(), "auth.jwt.secret")?;
        Ok((Algorithm::HS256, key, Some(config)))
    }

    fn claims(&self, settings: Option<&Config>, now: SystemTime) -> anyhow::Result<Value> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH)?;
        let end = now
            .checked_add(self.expires_in)
            .filter(|end| end.as_secs() < 253_402_300_800)
            .context("--expires-in ends after the year 9999")?;
        ensure!(
            self.expires_in >= Duration::from_secs(1),
            "--expires-in is shorter than a second"
        );
        let jwt = settings.map(|config| &config.auth.jwt);
        let issuer = self.issuer.clone();
        let audience = self.audience.clone();
        let names = [
            ("sub", self.subject.clone()),
            ("iss", issuer.or_else(|| jwt?.issuer.clone())),
            ("aud", audience.or_else(|| jwt?.audience.clone())),
        ];
        let mut claims = Map::new();
        for (claim, name) in names {
            claims.extend(name.map(|name| (claim.to_owned(), name.into())));
        }
        claims.insert("iat".into(), now.as_secs().into());
        claims.insert("exp".into(), end.as_secs().into());
        let mut rights = json!({"subscribe": self.subscribe, "publish": self.publish});
        // Older versions refuse what they do not know.
        if !self.presence.is_empty() {
            rights["presence"] = json!(self.presence);
        }
        claims.insert("tidegate".into(), rights);
        Ok(claims.into())
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn secret_key(secret: &str, place: &str) -> anyhow::Result<EncodingKey> {
    ensure!(
        !secret.is_empty(),
        "{place} holds no secret (openssl rand -base64 32 makes one)"
    );
    ensure!(
        !secret.contains("-----BEGIN"),
        "{place} holds a PEM, which is no secret: a private key belongs to --private-key"
    );
    Ok(EncodingKey::from_secret(secret.as_bytes()))
}

fn private_key(path: &Path) -> anyhow::Result<(Algorithm, EncodingKey)> {
    let place = path.display();
    let text = read(path)?;
    let label = text
        .split_once("-----BEGIN ")
        .and_then(|(_, rest)| rest.split_once("-----"))
        .map(|(label, _)| label);
    let pem = text.as_bytes();
    let read = match label {
        Some("PRIVATE KEY") => [
            (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
            (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem)),
        ]
        .into_iter()
        .find_map(|(algorithm, key)| Some((algorithm, key.ok()?))),
        Some("RSA PRIVATE KEY") => EncodingKey::from_rsa_pem(pem)
            .ok()
            .map(|key| (Algorithm::RS256, key)),
        Some("EC PRIVATE KEY") => bail!(
            "{place} is in the older form of EC keys: openssl pkcs8 -topk8 -nocrypt -in {place} makes the one that is expected"
        ),
        Some("ENCRYPTED PRIVATE KEY") => bail!(
            "{place} is encrypted: openssl pkcs8 -topk8 -nocrypt -in {place} asks for its password and shows the key"
        ),
        Some(label) if label.ends_with("PUBLIC KEY") => bail!(
            "{place} holds a public key, which only checks signatures: the private one was expected"
        ),
        _ => bail!("{place} is no PEM: -----BEGIN PRIVATE KEY----- was expected"),
    };
    read.with_context(|| {
        format!("{place} holds a key of another kind: RSA, EC on P-256 or Ed25519 was expected")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        token: Token,
    }

    fn token(arguments: &[&str]) -> Token {
        let line = ["token"].iter().chain(arguments);
        Line::try_parse_from(line).expect("arguments").token
    }

    #[test]
    fn the_claims_are_those_that_the_gateway_reads() {
        let token = token(&[
            "--subscribe",
            "orders/*,chat",
            "--presence",
            "orders/*",
            "--publish",
            "chat",
            "--subject",
            "ann",
            "--issuer",
            "me",
            "--expires-in",
            "15m",
        ]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(
            token.claims(None, now).expect("claims"),
            json!({
                "sub": "ann", "iss": "me", "iat": 1_000, "exp": 1_900,
                "tidegate": {
                    "subscribe": ["orders/*", "chat"],
                    "publish": ["chat"],
                    "presence": ["orders/*"],
                }
            })
        );
    }

    #[test]
    fn one_key_is_named_at_most_and_a_pattern_is_one() {
        for wrong in [
            &["--secret-env", "A", "--private-key", "b"][..],
            &["--subscribe", "a*b"],
            &["--publish", "$sys"],
            &["--expires-in", "soon"],
        ] {
            let line = ["token"].iter().chain(wrong);
            assert!(Line::try_parse_from(line).is_err(), "{wrong:?}");
        }
        let now = SystemTime::UNIX_EPOCH;
        for time in ["0s", "9000years"] {
            assert!(token(&["--expires-in", time]).claims(None, now).is_err());
        }
    }

    #[test]
    fn a_key_that_cannot_sign_is_told_with_the_way_out() {
        let folder = tempfile::tempdir().expect("a folder");
        for (label, told) in [
            ("PUBLIC KEY", "public key"),
            ("EC PRIVATE KEY", "openssl pkcs8"),
            ("ENCRYPTED PRIVATE KEY", "encrypted"),
            ("CERTIFICATE", "no PEM"),
            ("PRIVATE KEY", "another kind"),
        ] {
            let path = folder.path().join(label);
            let text = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
            std::fs::write(&path, text).expect("written");
            let error = private_key(&path).expect_err(label);
            assert!(error.to_string().contains(told), "{error}");
        }
        assert!(secret_key("", "X").is_err());
    }
}
