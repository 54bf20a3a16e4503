//! Where a Redis server is, and as whom to speak to it.
//!
//! `redis://[username][:password@]host[:port][/db]`, and `rediss://` for TLS, as they are registered with IANA. Whatever shows
//! such a URL, errors included, shows no password.
//!
//! Not here: connecting, and TLS certificates.

use std::{fmt, net::Ipv6Addr, str::FromStr};

const DEFAULT_PORT: u16 = 6379;

/// Where a server listens: `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
}

impl Address {
    /// Where somebody said that a server is; none where that can be no address.
    pub(super) fn new(host: &str, port: i64) -> Option<Self> {
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => address.to_string(),
            Err(_) => is_name(host).then(|| host.to_ascii_lowercase())?,
        };
        Some(Self { host, port })
    }

    /// `host`, `host:port`, `[address]:port`, or an address alone.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, RedisUrlError> {
        if text.contains(['/', '@', '?', '#']) {
            return Err(RedisUrlError::Node);
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self {
                host: address.to_string(),
                port: default_port,
            });
        }
        let (host, port) = host_and_port(text, default_port)?;
        Ok(Self { host, port })
    }

    /// The name or address to connect to; an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// Who connects, and what proves it. Shown, it is `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// None: the server's default user.
    pub username: Option<String>,
    /// None: nothing has to be proven.
    pub password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One Redis server and the credentials for it. Both text forms show `***` in place of the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    tls: bool,
    username: Option<String>,
    password: Option<String>,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    db: u32,
}

/// Why a text is no URL of a Redis server. Nothing of the text is repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    /// Begins with something else.
    #[error("a Redis URL begins with redis:// or, for TLS, with rediss://")]
    Scheme,
    /// Asks for a server that Sentinel names.
    #[error(
        "a Redis URL names a server: Sentinels are named in redis.sentinel.nodes, as host:port, and their master in redis.sentinel.master"
    )]
    Sentinel,
    /// Asks for a cluster.
    #[error(
        "a Redis URL names a server: nodes of a cluster are named in redis.cluster.nodes, as host:port"
    )]
    Cluster,
    /// Names a file.
    #[error("Unix sockets are not supported: name a host, with redis:// or rediss://")]
    UnixSocket,
    /// Names more than one server.
    #[error(
        "a Redis URL names one server: several are named in redis.sentinel.nodes or redis.cluster.nodes, as host:port"
    )]
    Several,
    /// A URL where a host was expected.
    #[error(
        "host or host:port was expected, without user name, password or anything else of a URL"
    )]
    Node,
    /// No host, or no name of one.
    #[error(
        "a Redis server is named by its host, as in redis://localhost:6379: ASCII letters, digits, '-', '_' and '.', or an IP address"
    )]
    Host,
    /// Colons without brackets, or no address in them.
    #[error("an IPv6 address stands in brackets, as in redis://[::1]:6379")]
    Ipv6,
    /// No port after the colon.
    #[error("the port of a Redis server is a number from 1 to 65535")]
    Port,
    /// A path that is no number.
    #[error("the path of a Redis URL is the number of a database, as in redis://localhost:6379/0")]
    Database,
    /// A wrong percent-encoding in the user name or password.
    #[error(
        "in user name and password of a Redis URL % is followed by two hexadecimal digits and begins a byte of UTF-8; % itself is %25"
    )]
    Percent,
    /// The authority ends before the `@`.
    #[error("in user name and password of a Redis URL '/' is written %2F, '?' %3F and '#' %23")]
    Reserved,
    /// Something after `?`.
    #[error(
        "a Redis URL has no query: the database is its path, TLS is rediss://, and the protocol is always RESP3"
    )]
    Query,
    /// Something after `#`.
    #[error("a Redis URL has no fragment: nothing follows the number of the database")]
    Fragment,
}

impl RedisUrl {
    /// What is said of servers that are named elsewhere, where there is no URL: no TLS, no credentials, database 0.
    pub fn nowhere() -> Self {
        Self {
            tls: false,
            username: None,
            password: None,
            host: "localhost".into(),
            port: DEFAULT_PORT,
            db: 0,
        }
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        Address {
            host: self.host.clone(),
            port: self.port,
        }
    }

    /// Who connects, and what proves it.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            username: self.username.clone(),
            password: self.password.clone(),
        }
    }

    /// The name or address to connect to; an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the connection is encrypted.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// The number of the database.
    pub fn db(&self) -> u32 {
        self.db
    }

    /// Who connects; none: the server's default user.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// What proves it.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The same server with other credentials. What is none or empty stays as it is.
    #[must_use]
    pub fn with_credentials(self, username: Option<String>, password: Option<String>) -> Self {
        let told = |text: &String| !text.is_empty();
        Self {
            username: username.filter(told).or(self.username),
            password: password.filter(told).or(self.password),
            ..self
        }
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let (scheme, rest) = text.split_once(':').ok_or(RedisUrlError::Scheme)?;
        let tls = tls(scheme)?;
        let rest = rest.strip_prefix("//").ok_or(RedisUrlError::Scheme)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        // Before anything else is said of the rest: what looks like a path may be the second half of a password.
        if rest.contains('@') {
            return Err(RedisUrlError::Reserved);
        }
        let (credentials, server) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (username, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (host, port) = host_and_port(server, DEFAULT_PORT)?;
        Ok(Self {
            tls,
            username: decode(username)?,
            password: decode(password)?,
            host,
            port,
            db: database(rest)?,
        })
    }
}

fn tls(scheme: &str) -> Result<bool, RedisUrlError> {
    match scheme.to_ascii_lowercase().as_str() {
        "redis" => Ok(false),
        "rediss" => Ok(true),
        "redis+sentinel" | "redis-sentinel" | "rediss+sentinel" | "rediss-sentinel" => {
            Err(RedisUrlError::Sentinel)
        }
        "redis+cluster" | "redis-cluster" | "rediss+cluster" | "rediss-cluster" => {
            Err(RedisUrlError::Cluster)
        }
        "unix" | "redis+unix" | "redis+socket" | "redis-socket" => Err(RedisUrlError::UnixSocket),
        _ => Err(RedisUrlError::Scheme),
    }
}

fn host_and_port(server: &str, default_port: u16) -> Result<(String, u16), RedisUrlError> {
    if server.contains(',') {
        return Err(RedisUrlError::Several);
    }
    if let Some(bracketed) = server.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']').ok_or(RedisUrlError::Ipv6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| RedisUrlError::Ipv6)?;
        let port = match port.strip_prefix(':') {
            Some(port) => number(port),
            None => port.is_empty().then_some(default_port),
        };
        return Ok((address.to_string(), port.ok_or(RedisUrlError::Port)?));
    }
    let (host, port) = match server.split_once(':') {
        Some((_, port)) if port.contains(':') => return Err(RedisUrlError::Ipv6),
        Some((host, port)) => (host, number(port).ok_or(RedisUrlError::Port)?),
        None => (server, default_port),
    };
    if !is_name(host) {
        return Err(RedisUrlError::Host);
    }
    Ok((host.to_owned(), port))
}

/// Whether it looks like the name of a host, or like an IPv4 address.
fn is_name(host: &str) -> bool {
    let in_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !host.is_empty() && host.len() <= 253 && host.chars().all(in_a_name)
}

/// A port of digits alone; `parse` would take a plus sign, too.
fn number(port: &str) -> Option<u16> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|&port| digits && port > 0)
}

/// What follows host and port: nothing, `/`, or `/` and a number.
fn database(rest: &str) -> Result<u32, RedisUrlError> {
    if rest.contains('#') {
        return Err(RedisUrlError::Fragment);
    }
    if rest.contains('?') {
        return Err(RedisUrlError::Query);
    }
    let path = rest.strip_prefix('/').unwrap_or(rest);
    if path.is_empty() {
        return Ok(0);
    }
    if !path.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RedisUrlError::Database);
    }
    path.parse().map_err(|_| RedisUrlError::Database)
}

/// Undoes percent-encoding (RFC 3986, 2.1); an empty text is none.
fn decode(text: &str) -> Result<Option<String>, RedisUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(RedisUrlError::Percent);
        };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| RedisUrlError::Percent)?);
    }
    let text = String::from_utf8(bytes).map_err(|_| RedisUrlError::Percent)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn encode(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss://" } else { "redis://" })?;
        match (&self.username, &self.password) {
            (None, None) => {}
            // Without a password it may be one, written without its colon.
            (Some(_), None) => f.write_str("***@")?,
            (username, Some(_)) => {
                encode(username.as_deref().unwrap_or_default(), f)?;
                f.write_str(":***@")?;
            }
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        write!(f, ":{}", self.port)?;
        if self.db != 0 {
            write!(f, "/{}", self.db)?;
        }
        Ok(())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl<'de> serde::Deserialize<'de> for RedisUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> RedisUrl {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let plain = url("redis://cache.internal");
        assert_eq!(
            (plain.host(), plain.port(), plain.db(), plain.tls()),
            ("cache.internal", 6379, 0, false)
        );
        assert_eq!((plain.username(), plain.password()), (None, None));
        assert_eq!(url("redis://cache.internal:6379/"), plain);
    }

    #[test]
    fn every_part_is_read() {
        let full = url("rediss://app:s3cret@cache_1.internal:7000/12");
        assert_eq!(
            (full.host(), full.port(), full.db(), full.tls()),
            ("cache_1.internal", 7000, 12, true)
        );
        assert_eq!(
            (full.username(), full.password()),
            (Some("app"), Some("s3cret"))
        );
        assert_eq!(url("REDIS://127.0.0.1").host(), "127.0.0.1");
    }

    #[test]
    fn a_password_needs_no_user_name() {
        let secret = url("redis://:s3cret@localhost");
        assert_eq!(
            (secret.username(), secret.password()),
            (None, Some("s3cret"))
        );
        let nobody = url("redis://:@localhost");
        assert_eq!((nobody.username(), nobody.password()), (None, None));
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        let address = url("redis://:x@[FD00::0:1]:7000/1");
        assert_eq!((address.host(), address.port()), ("fd00::1", 7000));
        assert_eq!(address.to_string(), "redis://:***@[fd00::1]:7000/1");
        assert_eq!(url("redis://[::1]").port(), 6379);
    }

    #[test]
    fn credentials_are_percent_decoded() {
        let odd = url("redis://us%65r%3A:p%40%2f%25+:%C3%BC@localhost");
        assert_eq!(odd.username(), Some("user:"));
        assert_eq!(odd.password(), Some("p@/%+:ü"));
        // The last @ ends the credentials, so that one that was not encoded does no harm.
        assert_eq!(url("redis://:p@ss@localhost").password(), Some("p@ss"));
    }

    #[test]
    fn other_credentials_win_and_none_leave_those_in_the_url() {
        let both = url("redis://a:b@localhost");
        let other = |username: Option<&str>, password: Option<&str>| {
            let both = both
                .clone()
                .with_credentials(username.map(Into::into), password.map(Into::into));
            (
                both.username().map(str::to_owned),
                both.password().map(str::to_owned),
            )
        };
        let pair = |username: &str, password: &str| (Some(username.into()), Some(password.into()));
        assert_eq!(other(None, None), pair("a", "b"));
        assert_eq!(other(None, Some("y")), pair("a", "y"));
        assert_eq!(other(Some("x"), Some("")), pair("x", "b"));
    }

    #[test]
    fn a_node_is_a_host_with_or_without_a_port() {
        use RedisUrlError as E;
        let node = |text: &str| Address::parse(text, 26379).map(|it| it.to_string());
        for (text, shown) in [
            ("a", "a:26379"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("[fd00::0:1]", "[fd00::1]:26379"),
            ("[::1]:7000", "[::1]:7000"),
            ("::1", "[::1]:26379"),
        ] {
            assert_eq!(node(text).as_deref(), Ok(shown));
        }
        for (text, error) in [
            ("", E::Host),
            ("redis://a:1", E::Node),
            (":s3cret@a", E::Node),
            ("a:1/0", E::Node),
            ("a,b", E::Several),
            ("::1:26379x", E::Ipv6),
            ("a:0", E::Port),
        ] {
            assert_eq!(Address::parse(text, 1), Err(error), "{text}");
        }
        // What servers say of each other is not trusted any more.
        assert_eq!(Address::new("a", 70_000), None);
        assert_eq!(Address::new("a/b", 1), None);
        assert_eq!(Address::new(&"a".repeat(254), 1), None);
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        use RedisUrlError as E;
        let wrong = [
            ("", E::Scheme),
            ("localhost", E::Scheme),
            ("localhost:6379", E::Scheme),
            ("http://localhost", E::Scheme),
            ("redis:localhost", E::Scheme),
            ("redis+sentinel://h:26379/main/0", E::Sentinel),
            ("redis-sentinel://h:26379", E::Sentinel),
            ("redis+cluster://h", E::Cluster),
            ("unix:///run/redis.sock", E::UnixSocket),
            ("unix:/run/redis.sock", E::UnixSocket),
            ("redis://a:7000,b:7000", E::Several),
            ("redis://", E::Host),
            ("redis:///0", E::Host),
            ("redis://:x@:6379", E::Host),
            ("redis://a b", E::Host),
            ("redis://bücher", E::Host),
            ("redis://localhost\n", E::Host),
            ("redis://::1", E::Ipv6),
            ("redis://[::1", E::Ipv6),
            ("redis://[localhost]", E::Ipv6),
            ("redis://[::1]6379", E::Port),
            ("redis://localhost:", E::Port),
            ("redis://localhost:0", E::Port),
            ("redis://localhost:+1", E::Port),
            ("redis://localhost:65536", E::Port),
            ("redis://localhost/main", E::Database),
            ("redis://localhost/-1", E::Database),
            ("redis://localhost/0/1", E::Database),
            ("redis://localhost/4294967296", E::Database),
            ("redis://:50%@localhost", E::Percent),
            ("redis://:%zz@localhost", E::Percent),
            ("redis://%ff:x@localhost", E::Percent),
            ("redis://:a/b@localhost", E::Reserved),
            ("redis://:a?b@localhost", E::Reserved),
            ("redis://:a#b@localhost", E::Reserved),
            ("redis://localhost?protocol=3", E::Query),
            ("redis://localhost/0?db=1", E::Query),
            ("redis://localhost/0#1", E::Fragment),
        ];
        for (text, error) in wrong {
            assert_eq!(text.parse::<RedisUrl>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_has_no_password() {
        let shown = url("rediss://app:s3cret@cache:7000/1");
        assert_eq!(shown.to_string(), "rediss://app:***@cache:7000/1");
        assert_eq!(format!("{shown:?}"), "\"rediss://app:***@cache:7000/1\"");
        // A password without its colon is read as a user name.
        assert_eq!(
            url("redis://s3cret@cache").to_string(),
            "redis://***@cache:6379"
        );
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_shown_is_the_same_server(
            text in prop_oneof![
                any::<String>(),
                "rediss?://[a-z%@:/?#0-9\\[\\].]{0,24}",
                "rediss?://([a-z%2-7]{0,6}(:[a-z%2-7@]{0,6})?@)?([a-z.]{1,6}|\\[[0-9a-f:]{2,8}\\])(:[0-9]{1,5})?(/[0-9]{0,3})?",
            ]
        ) {
            if let Ok(url) = text.parse::<RedisUrl>() {
                let shown: RedisUrl = url.to_string().parse().expect("what is shown is a URL");
                let hidden = match (url.username(), url.password()) {
                    (Some(_), None) => url.with_credentials(Some("***".into()), None),
                    (_, Some(_)) => url.with_credentials(None, Some("***".into())),
                    (None, None) => url,
                };
                prop_assert_eq!(shown, hidden);
            }
        }

        /// Passwords begin with a capital letter here: nothing else in these URLs has one.
        #[test]
        fn no_password_is_ever_shown(username in "[a-z]{0,4}", password in "[A-Z][A-Z@:/?#% ]{0,12}", host in "[a-z]{1,8}") {
            use fmt::Write;
            let mut encoded = String::new();
            for byte in password.bytes() {
                write!(encoded, "%{byte:02x}").expect("written");
            }
            let url = url(&format!("redis://{username}:{encoded}@{host}"));
            prop_assert_eq!(url.password(), Some(password.as_str()));
            let moved = url.clone().with_credentials(None, Some("Other".into()));
            for shown in [url.to_string(), format!("{url:?}"), moved.to_string()] {
                prop_assert!(!shown.contains(char::is_uppercase), "{}", shown);
            }
        }
    }
}
