//! Every setting, as one typed tree. Its defaults, units and meanings stand in `config/defaults.yaml`.
//!
//! Loading binds nothing and reads no global: the sources are handed in.

mod check;
mod console;
mod count;
mod dotenv;
mod environment;
mod error;
mod log_level;
mod look;
mod nearest;
mod network;
mod place;
mod position;
mod rate;
mod redis;
pub mod reload;
mod secret;
mod settings;
mod source;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use console::{Console, ConsoleSwitch};
pub use error::{ConfigError, Wrong};
pub use log_level::{LevelError, LogLevel};
pub use look::Look;
pub use network::Network;
pub use place::Place;
pub use position::Position;
pub use rate::Rate;
pub use redis::{ClusterSettings, RedisSettings, RedisTlsSettings, SentinelSettings};
pub use secret::Secret;
pub use settings::{Setting, Settings};
pub use source::{Flag, Sources, Stamp};

use crate::{
    event::{Topic, TopicPattern},
    hub::HubConfig,
    log::{Retention, RetentionRule, RetentionRules, TailLimits},
    store::{Keep, memory::MemoryConfig, redis::RedisConfig},
};

/// The whole tree.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "each setting is documented in config/defaults.yaml, which is its reference"
)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub stream: Stream,
    pub tail: TailConfig,
    pub retention: RetentionConfig,
    pub publish: Publish,
    pub limits: Limits,
    pub drain: Drain,
    pub store: StoreKind,
    pub redis: RedisSettings,
    pub feed: FeedSettings,
    pub ingest: IngestSettings,
    pub auth: Auth,
    pub cors: Cors,
    pub console: Console,
    pub presence: PresenceSettings,
    pub log: Log,
    pub traces: Traces,
    /// What was passed over while reading; to be logged once there is a log.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Server {
    pub listen: SocketAddr,
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    pub trusted_proxies: Vec<Network>,
    pub tls: ServerTls,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct ServerTls {
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Admin {
    pub listen: SocketAddr,
    pub token: Option<Secret>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Stream {
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    pub default_topic: Topic,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct TailConfig {
    pub events: usize,
    pub bytes: Size,
    #[serde(with = "humantime_serde")]
    pub age: Duration,
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    pub total_bytes: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct RetentionConfig {
    pub events: usize,
    pub bytes: Size,
    #[serde(with = "humantime_serde")]
    pub age: Duration,
    pub total_bytes: Size,
    pub rules: Vec<RetentionRuleConfig>,
}

/// What is left out is as for all topics.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct RetentionRuleConfig {
    pub prefix: String,
    pub events: Option<usize>,
    pub bytes: Option<Size>,
    #[serde(default, with = "humantime_serde::option")]
    pub age: Option<Duration>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Publish {
    #[serde(with = "humantime_serde")]
    pub idempotency_window: Duration,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Limits {
    pub connections: usize,
    pub connections_per_address: usize,
    #[serde(deserialize_with = "count::deserialize")]
    pub connections_per_subject: Option<NonZeroUsize>,
    pub topics_per_connection: usize,
    pub topics: usize,
    pub event_bytes: Size,
    pub batch_events: usize,
    pub body_bytes: Size,
    pub memory: Option<Size>,
    pub handshakes: NonZeroUsize,
    pub addresses: Addresses,
    pub rate: Rates,
    pub refuse_as: RefuseAs,
}

/// Who may connect at all; an empty `allow` admits everybody whom `deny` does not name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Addresses {
    pub allow: Vec<Network>,
    pub deny: Vec<Network>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Rates {
    pub connect: Rate,
    pub publish: Rate,
    pub poll: Rate,
    pub message: Rate,
    pub auth_failure: Rate,
    pub connect_per_subject: Rate,
    pub publish_per_subject: Rate,
}

/// How a temporary refusal is answered.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RefuseAs {
    /// A stream for whoever accepts `text/event-stream` alone, a status for others.
    Auto,
    /// Always a status.
    Status,
    /// Always a stream.
    Stream,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Drain {
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
}

/// Where the log lives.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In this process.
    Memory,
    /// In Redis, for all replicas.
    Redis,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct FeedSettings {
    pub backlog: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct IngestSettings {
    pub enabled: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct PresenceSettings {
    pub enabled: bool,
    #[serde(with = "humantime_serde")]
    pub debounce: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Auth {
    pub anonymous: Vec<Right>,
    pub tokens: Vec<StaticToken>,
    pub jwt: Jwt,
    pub cookie: String,
    #[serde(with = "humantime_serde")]
    pub expiry_notice: Duration,
}

/// A secret that whoever shows it is known by.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct StaticToken {
    pub name: String,
    pub token: Secret,
    #[serde(default)]
    pub subscribe: Vec<TopicPattern>,
    #[serde(default)]
    pub publish: Vec<TopicPattern>,
    #[serde(default)]
    pub presence: Vec<TopicPattern>,
    #[serde(default)]
    pub admin: bool,
}

/// How tokens that others sign are checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Jwt {
    pub secret: Option<Secret>,
    pub public_key: Option<PathBuf>,
    pub jwks_url: Option<String>,
    #[serde(with = "humantime_serde")]
    pub jwks_refresh: Duration,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
}

impl Jwt {
    /// Whether there is a key to check them with.
    pub fn is_configured(&self) -> bool {
        self.secret.is_some() || self.public_key.is_some() || self.jwks_url.is_some()
    }
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Follow topics.
    Subscribe,
    /// Publish to topics.
    Publish,
    /// Know who follows topics.
    Presence,
}

impl Right {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Subscribe, Self::Publish, Self::Presence];
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Cors {
    pub origins: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    pub access: bool,
    pub audit: bool,
    pub file: Option<PathBuf>,
    pub rotate: Rotate,
}

/// When a log file is put aside; zero: not for this reason.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Rotate {
    pub size: Size,
    #[serde(with = "humantime_serde")]
    pub age: Duration,
    pub count: usize,
}

/// Where traces go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct Traces {
    pub endpoint: Option<String>,
    pub ratio: f64,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    #[serde(alias = "pretty")]
    Text,
    /// For programs.
    Json,
}

/// A number of bytes: `64KiB`, `1MiB`, or digits alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(usize);

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size = bytesize::ByteSize::deserialize(deserializer)?;
        usize::try_from(size.as_u64())
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

impl Config {
    /// Reads all sources and checks what they say together.
    ///
    /// # Errors
    /// See [`ConfigError`]; it names the place, the key and what is allowed.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Settings::load(sources).map(|settings| settings.config().as_ref().clone())
    }

    /// Whether no auth is configured: then only loopback is served, under the rules of development mode.
    pub fn development(&self) -> bool {
        self.auth.anonymous.is_empty() && !self.knows_tokens()
    }

    /// Whether the console is served.
    pub fn console(&self) -> bool {
        match self.console.enabled {
            ConsoleSwitch::Auto => self.development(),
            ConsoleSwitch::On => true,
            ConsoleSwitch::Off => false,
        }
    }

    /// Whether callers of the public listener can prove who they are.
    pub fn knows_tokens(&self) -> bool {
        !self.auth.tokens.is_empty() || self.auth.jwt.is_configured()
    }

    /// Every secret in it, for those who have to keep them out of what they write.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let tokens = self.auth.tokens.iter().map(|token| &token.token);
        let single = [
            &self.admin.token,
            &self.auth.jwt.secret,
            &self.redis.password,
            &self.redis.sentinel.password,
        ];
        let url = self.redis.url.as_ref().and_then(|url| url.password());
        let settings = tokens.chain(single.into_iter().flatten());
        settings.map(Secret::expose).chain(url)
    }

    /// The rules of retention.
    pub fn retention_rules(&self) -> RetentionRules {
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let keep = &self.retention;
        let default = Retention {
            events: keep.events,
            bytes: keep.bytes.bytes(),
            age_ms: millis(keep.age),
        };
        let rule = |rule: &RetentionRuleConfig| RetentionRule {
            prefix: rule.prefix.clone(),
            retention: Retention {
                events: rule.events.unwrap_or(default.events),
                bytes: rule.bytes.map_or(default.bytes, Size::bytes),
                age_ms: rule.age.map_or(default.age_ms, millis),
            },
        };
        RetentionRules::new(default, keep.rules.iter().map(rule).collect())
    }

    /// The settings of the hub.
    pub fn hub(&self) -> HubConfig {
        HubConfig {
            tail: TailLimits {
                events: self.tail.events,
                bytes: self.tail.bytes.bytes(),
                age_ms: u64::try_from(self.tail.age.as_millis()).unwrap_or(u64::MAX),
            },
            tail_total_bytes: self.tail.total_bytes.bytes(),
            linger: self.tail.linger,
            topics: self.limits.topics,
            retention: self.retention_rules(),
            join_timeout: self.publish.timeout,
        }
    }

    /// The settings of the memory store.
    pub fn memory(&self) -> MemoryConfig {
        MemoryConfig {
            retention: self.retention_rules(),
            total_bytes: self.retention.total_bytes.bytes(),
            idempotency_window: self.publish.idempotency_window,
        }
    }

    /// What the store keeps, as far as it may change while it runs.
    pub fn keep(&self) -> Keep {
        Keep {
            retention: self.retention_rules(),
            total_bytes: self.retention.total_bytes.bytes(),
            idempotency_window: self.publish.idempotency_window,
            event_bytes: self.limits.event_bytes.bytes(),
        }
    }

    /// The settings of the Redis store; none where the store is another.
    pub fn redis(&self) -> Option<RedisConfig> {
        match self.store {
            StoreKind::Memory => None,
            StoreKind::Redis => Some(RedisConfig {
                url: self
                    .redis
                    .server()
                    .expect("settings with this store and no server are refused"),
                via: self.redis.via(),
                prefix: self.redis.prefix.clone(),
                tls: self.redis.tls(),
                wait_replicas: self.redis.wait_replicas,
                timeout: self.publish.timeout,
                backlog_bytes: self.feed.backlog.bytes(),
                retention: self.retention_rules(),
                event_bytes: self.limits.event_bytes.bytes(),
                idempotency_window: self.publish.idempotency_window,
                ingest: self.ingest.enabled,
            }),
        }
    }
}
