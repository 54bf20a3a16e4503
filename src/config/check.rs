//! What settings have to hold together, beyond what the type of each says.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::{Config, StoreKind, Wrong};

/// What a secret that is sent as it is has to be long at least, in characters.
const TOKEN_CHARS: usize = 16;
/// What a key for HS256 should be long at least, in bytes (RFC 7518, 3.2).
const HS256_BYTES: usize = 32;
/// Beyond it nobody would call that present, and the lease of a replica that was killed is as long.
const LONGEST_DEBOUNCE: Duration = Duration::from_hours(1);

impl Config {
    /// A listener that others reach, though anybody could do anything there.
    pub(super) fn exposed(&self) -> Option<(&'static str, SocketAddr)> {
        let listeners = [
            ("server.listen", self.server.listen),
            ("admin.listen", self.admin.listen),
        ];
        let open = |(_, address): &(_, SocketAddr)| !address.ip().is_loopback();
        listeners
            .into_iter()
            .find(open)
            .filter(|_| self.development())
    }

    pub(super) fn check(&self) -> Result<(), Wrong> {
        let tls = &self.server.tls;
        let redis = &self.redis;
        let rules = [
            (
                "stream.keepalive",
                self.stream.keepalive >= Duration::from_millis(100),
                "must be at least 100ms",
            ),
            (
                "stream.write_timeout",
                self.stream.write_timeout >= Duration::from_millis(100),
                "must be at least 100ms",
            ),
            (
                "stream.retry",
                self.stream.retry >= Duration::from_millis(1),
                "must be at least 1ms",
            ),
            (
                "server.header_timeout",
                self.server.header_timeout >= Duration::from_millis(100),
                "must be at least 100ms",
            ),
            (
                "limits.topics_per_connection",
                self.limits.topics_per_connection >= 1,
                "must be at least 1",
            ),
            (
                "limits.connections_per_address",
                self.limits.connections_per_address >= 1,
                "must be at least 1",
            ),
            (
                "publish.idle_timeout",
                self.publish.idle_timeout >= Duration::from_millis(100),
                "must be at least 100ms",
            ),
            ("tail.events", self.tail.events >= 1, "must be at least 1"),
            (
                "retention.events",
                self.retention.events >= 1,
                "must be at least 1",
            ),
            (
                "store",
                self.store == StoreKind::Memory || redis.is_named(),
                "redis has to be told where: set redis.url (REDIS_URL=redis://host:6379, or REDIS_HOST=host), redis.sentinel.nodes or redis.cluster.nodes",
            ),
            (
                "redis.cluster.nodes",
                redis.cluster.nodes.is_empty() || redis.sentinel.nodes.is_empty(),
                "are given beside redis.sentinel.nodes: it is either a cluster or a master that sentinels name",
            ),
            (
                "redis.url",
                redis.cluster.nodes.is_empty()
                    || redis.url.as_ref().is_none_or(|url| url.db() == 0),
                "names a database, but a cluster has none but 0",
            ),
            (
                "redis.sentinel.master",
                is_master_name(&redis.sentinel.master),
                "must be the name that the sentinels know the master by: 1 to 255 of ASCII letters, digits, '-', '_' and '.'",
            ),
            (
                "redis.prefix",
                redis.prefix_is_plain(),
                "must be 1 to 64 ASCII letters, digits, '-', '_', '.' or ':'",
            ),
            (
                "redis.tls",
                redis.tls.certificate.is_some() == redis.tls.key.is_some(),
                "certificate and key go together: both or none",
            ),
            (
                "server.tls",
                tls.certificate.is_some() == tls.key.is_some(),
                "certificate and key go together: both or none",
            ),
            (
                "presence.debounce",
                self.presence.debounce <= LONGEST_DEBOUNCE,
                "must be at most 1h",
            ),
            (
                "traces.ratio",
                (0.0..=1.0).contains(&self.traces.ratio),
                "must be from 0 to 1",
            ),
            (
                "traces.endpoint",
                self.traces.endpoint.as_deref().is_none_or(is_web_address),
                "http://host:port or https://host was expected",
            ),
            (
                "auth.jwt.jwks_url",
                self.auth.jwt.jwks_url.as_deref().is_none_or(is_web_address),
                "a URL that begins with https:// or http:// was expected",
            ),
            (
                "auth.cookie",
                is_token(&self.auth.cookie),
                "is no name of a cookie: letters, digits and !#$%&'*+-.^_`|~ were expected (RFC 6265, 4.1.1)",
            ),
            (
                "admin.token",
                self.admin
                    .token
                    .as_ref()
                    .is_none_or(|token| !token.expose().is_empty()),
                EMPTY,
            ),
            (
                "admin.token",
                self.admin
                    .token
                    .as_ref()
                    .is_none_or(|token| is_sendable(token.expose())),
                NOT_SENDABLE,
            ),
        ];
        if let Some((key, _, message)) = rules.into_iter().find(|(_, holds, _)| !holds) {
            return Err(Wrong::new(key, message));
        }
        self.check_paths()?;
        self.check_origins()?;
        self.check_tokens()
    }

    /// A URL that went to the wrong setting would be a file with a password in its name.
    fn check_paths(&self) -> Result<(), Wrong> {
        let (tls, redis) = (&self.server.tls, &self.redis.tls);
        let paths = [
            ("server.tls.certificate", &tls.certificate),
            ("server.tls.key", &tls.key),
            ("redis.tls.ca", &redis.ca),
            ("redis.tls.certificate", &redis.certificate),
            ("redis.tls.key", &redis.key),
            ("auth.jwt.public_key", &self.auth.jwt.public_key),
            ("log.file", &self.log.file),
        ];
        let is_url = |path: &Option<std::path::PathBuf>| {
            let text = path.as_ref().map(|path| path.to_string_lossy());
            text.is_some_and(|text| text.contains("://"))
        };
        match paths.iter().find(|(_, path)| is_url(path)) {
            Some((key, _)) => Err(Wrong::new(
                *key,
                "the path of a file was expected, this is a URL",
            )),
            None => Ok(()),
        }
    }

    fn check_origins(&self) -> Result<(), Wrong> {
        for (index, origin) in self.cors.origins.iter().enumerate() {
            let plain = origin.split_once("://").is_some_and(|(scheme, host)| {
                !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '*', ' '])
            });
            if !plain {
                return Err(Wrong::new(
                    format!("cors.origins[{index}]"),
                    format!(
                        "{origin:?} is no origin: write scheme://host or scheme://host:port, no path, no wildcard"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// A name is a subject in logs, limits and the scope of idempotency keys; a token says which name it is.
    fn check_tokens(&self) -> Result<(), Wrong> {
        let (mut names, mut secrets) = (BTreeSet::new(), BTreeSet::new());
        for (index, token) in self.auth.tokens.iter().enumerate() {
            let wrong = |field: &str, message: &str| {
                Err(Wrong::new(format!("auth.tokens[{index}].{field}"), message))
            };
            if token.name.trim().is_empty() {
                return wrong("name", "must not be empty");
            }
            if token.name.chars().any(char::is_control) {
                return wrong("name", "must not hold control characters");
            }
            if !names.insert(&token.name) {
                return wrong("name", "another token has the same name");
            }
            if token.token.expose().is_empty() {
                return wrong("token", EMPTY);
            }
            if !is_sendable(token.token.expose()) {
                return wrong("token", NOT_SENDABLE);
            }
            if !secrets.insert(token.token.expose()) {
                return wrong("token", "another entry has the same token");
            }
        }
        Ok(())
    }

    /// What is allowed, but hardly meant.
    pub(super) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let mut doubt = |holds: bool, text: &str| {
            if holds {
                doubts.push(text.to_owned());
            }
        };
        let unused = self.store == StoreKind::Memory && self.redis.is_named();
        doubt(
            unused,
            "store is memory, so Redis is not used, though it is said where it is (redis.url, REDIS_URL, REDIS_HOST, redis.sentinel.nodes, redis.cluster.nodes)",
        );
        doubt(
            self.redis.sentinel_is_idle(),
            "redis.sentinel.username and redis.sentinel.password are not used, because there are no redis.sentinel.nodes",
        );
        doubt(
            !unused && self.redis.tls_is_idle(),
            "redis.tls is not used, because redis.url asks for no TLS: it would begin with rediss:// (its host is not used with Sentinel or a cluster)",
        );
        let jwt = &self.auth.jwt;
        let short = |secret: &super::Secret| secret.expose().len() < HS256_BYTES;
        doubt(
            jwt.secret.as_ref().is_some_and(short),
            "auth.jwt.secret is shorter than 32 bytes: it can be guessed from one token (RFC 7518, 3.2)",
        );
        let guessable = |secret: &&super::Secret| secret.expose().chars().count() < TOKEN_CHARS;
        let tokens = self.auth.tokens.iter().map(|token| &token.token);
        doubt(
            tokens
                .chain(&self.admin.token)
                .any(|token| guessable(&token)),
            "a token in auth.tokens, or admin.token, is shorter than 16 characters: it can be guessed (`openssl rand -hex 32` makes a good one)",
        );
        doubt(
            jwt.jwks_url.as_deref().is_some_and(is_open_to_forgery),
            "auth.jwt.jwks_url is http://: whoever is in between can put in keys of their own",
        );
        let presence = &self.presence;
        doubt(
            presence.enabled && presence.debounce < self.stream.retry * 4 / 3,
            "presence.debounce is shorter than browsers wait before they come back (stream.retry and a third): whoever reconnects leaves and joins",
        );
        doubts
    }
}

/// What `sentinel monitor` takes for a name.
fn is_master_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(plain)
}

const EMPTY: &str = "must not be empty: `openssl rand -hex 32` makes a good one";

const NOT_SENDABLE: &str = "must be ASCII without spaces, or no header could hold it";

fn is_sendable(secret: &str) -> bool {
    secret.bytes().all(|byte| byte.is_ascii_graphic())
}

fn web_address(text: &str) -> Option<http::Uri> {
    let url: http::Uri = text.parse().ok()?;
    let web = matches!(url.scheme_str(), Some("http" | "https"));
    (web && url.host().is_some_and(|host| !host.is_empty())).then_some(url)
}

fn is_web_address(text: &str) -> bool {
    web_address(text).is_some()
}

/// Without TLS, and not to this machine.
fn is_open_to_forgery(text: &str) -> bool {
    web_address(text).is_some_and(|url| {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        let near = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        url.scheme_str() == Some("http") && !near
    })
}

/// A `token` of RFC 9110, 5.6.2, which is what a cookie's name has to be.
fn is_token(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Sources};

    fn load(yaml: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), yaml).expect("written");
        let sources = Sources {
            file: Some(file.path().to_owned()),
            ..Sources::default()
        };
        Config::load(&sources).map_err(|error| error.told())
    }

    #[test]
    fn names_of_tokens_are_unique_and_a_short_token_is_warned_of() {
        let one = "{name: shop, token: 0123456789abcdef}";
        assert!(load(&format!("auth: {{tokens: [{one}]}}")).is_ok());
        for (entry, key, message) in [
            (
                "{name: ' ', token: fedcba9876543210}",
                "auth.tokens[1].name",
                "empty",
            ),
            (
                "{name: shop, token: fedcba9876543210}",
                "auth.tokens[1].name",
                "same name",
            ),
            (
                "{name: other, token: 0123456789abcdef}",
                "auth.tokens[1].token",
                "same token",
            ),
            (
                "{name: other, token: ''}",
                "auth.tokens[1].token",
                "must not be empty",
            ),
            (
                "{name: other, token: fedcba98 76543210}",
                "auth.tokens[1].token",
                "ASCII",
            ),
        ] {
            let yaml = format!("auth:\n  tokens:\n  - {one}\n  - {entry}\n");
            let error = load(&yaml).expect_err(entry);
            assert!(error.contains("line 4") && error.contains(key), "{error}");
            assert!(error.contains(message), "{error}");
            assert!(
                !error.contains("fedc") && !error.contains("0123"),
                "{error}"
            );
        }
        let error = load("admin: {token: two words}").expect_err("not sendable");
        assert!(
            error.contains("admin.token") && !error.contains("two"),
            "{error}"
        );
        let warnings = load("admin: {token: s3cret}").expect("valid").warnings;
        assert!(
            warnings.len() == 1 && warnings[0].contains("16 characters"),
            "{warnings:?}"
        );
    }

    #[test]
    fn what_would_open_the_door_to_forgery_is_warned_of() {
        let warned = |yaml: &str| load(yaml).expect("valid").warnings;
        let short = warned("auth: {jwt: {secret: s3cret-s3cret-s3cret-s3cret-s3c}}");
        assert!(
            short[0].contains("32 bytes") && !short[0].contains("s3cret"),
            "{short:?}"
        );
        let long = warned("auth: {jwt: {secret: s3cret-s3cret-s3cret-s3cret-s3cre}}");
        assert!(long.is_empty(), "{long:?}");
        assert_eq!(
            warned("auth: {jwt: {jwks_url: 'http://keys.example/'}}").len(),
            1
        );
        for fine in [
            "https://keys.example/",
            "http://127.0.0.1:1/",
            "http://[::1]/a",
        ] {
            let warnings = warned(&format!("auth: {{jwt: {{jwks_url: '{fine}'}}}}"));
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    #[test]
    fn addresses_of_keys_and_names_of_cookies_are_what_they_seem() {
        for (yaml, key) in [
            (
                "auth: {jwt: {jwks_url: 'ftp://keys.example'}}",
                "auth.jwt.jwks_url",
            ),
            ("auth: {jwt: {jwks_url: keys.json}}", "auth.jwt.jwks_url"),
            ("traces: {endpoint: 'localhost:4318'}", "traces.endpoint"),
            ("auth: {cookie: ''}", "auth.cookie"),
            ("auth: {cookie: 'a b'}", "auth.cookie"),
            ("auth: {cookie: 'a;b'}", "auth.cookie"),
            ("auth: {cookie: 'a=b'}", "auth.cookie"),
            ("log: {file: 'redis://:s3cret@cache'}", "log.file"),
        ] {
            let error = load(yaml).expect_err(yaml);
            assert!(error.contains(key) && error.contains("line 1"), "{error}");
        }
        assert!(load("auth: {cookie: __Host-tidegate}").is_ok());
    }
}
