//! The settings of Redis, and how the store is chosen by them.

use std::{collections::BTreeMap, net::Ipv6Addr, path::PathBuf};

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;

use super::{ConfigError, Place, Secret, environment::Names};
use crate::store::redis::{Address, Credentials, RedisTls, RedisUrl, Sentinels, Via};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "each setting is documented in config/defaults.yaml, which is its reference"
)]
pub struct RedisSettings {
    pub url: Option<RedisUrl>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub prefix: String,
    pub wait_replicas: usize,
    pub tls: RedisTlsSettings,
    pub sentinel: SentinelSettings,
    pub cluster: ClusterSettings,
}

/// Who knows where the master is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct SentinelSettings {
    #[serde(deserialize_with = "sentinels")]
    pub nodes: Vec<Address>,
    pub master: String,
    pub username: Option<String>,
    pub password: Option<Secret>,
}

/// Some nodes of a cluster, which know the others.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct ClusterSettings {
    #[serde(deserialize_with = "nodes")]
    pub nodes: Vec<Address>,
}

fn sentinels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    addresses(deserializer, 26379)
}

fn nodes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    addresses(deserializer, 6379)
}

fn addresses<'de, D: Deserializer<'de>>(
    deserializer: D,
    default_port: u16,
) -> Result<Vec<Address>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parsed = texts
        .iter()
        .map(|text| Address::parse(text, default_port).map_err(D::Error::custom));
    parsed.collect()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as above")]
pub struct RedisTlsSettings {
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl RedisSettings {
    /// Whether anything says where Redis is.
    pub(super) fn is_named(&self) -> bool {
        self.url.is_some() || self.is_found()
    }

    /// Whether others say where the master is, and not the URL.
    pub(super) fn is_found(&self) -> bool {
        !self.sentinel.nodes.is_empty() || !self.cluster.nodes.is_empty()
    }

    /// The URL with the credentials that stand beside it, which win.
    pub(super) fn server(&self) -> Option<RedisUrl> {
        let password = self.password.as_ref().map(|it| it.expose().to_owned());
        let url = self.url.clone();
        let url = url.or_else(|| self.is_found().then(RedisUrl::nowhere))?;
        Some(url.with_credentials(self.username.clone(), password))
    }

    /// Who says where the server is that takes writes.
    pub(super) fn via(&self) -> Via {
        let Self {
            sentinel, cluster, ..
        } = self;
        let told = |text: &String| !text.is_empty();
        if !sentinel.nodes.is_empty() {
            let password = sentinel.password.as_ref();
            return Via::Sentinel(Sentinels {
                nodes: sentinel.nodes.clone(),
                master: sentinel.master.clone(),
                credentials: Credentials {
                    username: sentinel.username.clone().filter(told),
                    password: password.map(|it| it.expose().to_owned()).filter(told),
                },
            });
        }
        if cluster.nodes.is_empty() {
            return Via::Url;
        }
        Via::Cluster(cluster.nodes.clone())
    }

    /// Settings of sentinels, and nobody to use them on.
    pub(super) fn sentinel_is_idle(&self) -> bool {
        let SentinelSettings {
            username, password, ..
        } = &self.sentinel;
        let given = username.as_deref().is_some_and(|name| !name.is_empty())
            || password.as_ref().is_some_and(|it| !it.expose().is_empty());
        given && self.sentinel.nodes.is_empty()
    }

    pub(super) fn tls(&self) -> RedisTls {
        RedisTls {
            ca: self.tls.ca.clone(),
            certificate: self.tls.certificate.clone(),
            key: self.tls.key.clone(),
        }
    }

    /// The prefix stands in names of keys, before a hash tag in braces.
    pub(super) fn prefix_is_plain(&self) -> bool {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.:".contains(&c);
        (1..=64).contains(&self.prefix.len()) && self.prefix.bytes().all(plain)
    }

    /// The files for TLS were named, but the URL asks for none.
    pub(super) fn tls_is_idle(&self) -> bool {
        let files = [&self.tls.ca, &self.tls.certificate, &self.tls.key];
        let named = files.into_iter().any(Option::is_some);
        named && self.server().is_some_and(|url| !url.tls())
    }
}

/// What all sources together say of Redis: `REDIS_HOST` names a server where nothing gives a URL, and a URL makes Redis the
/// store where none is named. `names` are those of the environment and of `.env`, the stronger first.
pub(super) fn choose(
    tree: &mut Value,
    places: &mut BTreeMap<String, Place>,
    names: [&Names; 2],
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let name = |name: &str| {
        let told = |names: &&Names| {
            let value = names.values.get(name).filter(|value| !value.is_empty())?;
            Some((value.clone(), names.place(name)))
        };
        names.iter().find_map(told)
    };
    if tree["redis"]["url"].is_null()
        && let Some((host, place)) = name("REDIS_HOST")
    {
        tree["redis"]["url"] = Value::String(url_of(&host, &place)?);
        places.insert("redis.url".into(), place);
        // What Kubernetes writes there, tcp://…, is not addressed to us. A number is, by somebody who thinks that it is read.
        if let Some((port, _)) = name("REDIS_PORT")
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && !host.contains(':')
        {
            warnings.push(format!(
                "REDIS_PORT is not read: write REDIS_HOST=host:{port}"
            ));
        }
    }
    let redis = &tree["redis"];
    let listed = |part: &str| {
        redis[part]["nodes"]
            .as_array()
            .is_some_and(|it| !it.is_empty())
    };
    let why = [
        (!redis["url"].is_null(), "redis.url"),
        (listed("sentinel"), "redis.sentinel.nodes"),
        (listed("cluster"), "redis.cluster.nodes"),
    ];
    if let Some((_, why)) = why.into_iter().find(|(named, _)| *named)
        && !places.contains_key("store")
    {
        tree["store"] = "redis".into();
        places.insert("store".into(), Place::Derived { why });
    }
    Ok(())
}

fn url_of(host: &str, place: &Place) -> Result<String, ConfigError> {
    if host.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("redis://[{host}]"));
    }
    if host.contains(['/', '@', '?', '#']) {
        // Not repeated: it may be a URL with a password.
        return Err(ConfigError::Value {
            place: place.to_string(),
            key: "redis.url".into(),
            message: "host or host:port was expected; a URL is given as REDIS_URL".into(),
        });
    }
    Ok(format!("redis://{host}"))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::config::{Config, Sources, StoreKind};

    fn names(names: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        names.iter().map(owned).collect()
    }

    fn load(environment: &[(&str, &str)], yaml: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), yaml).expect("written");
        Config::load(&Sources {
            file: Some(file.path().to_owned()),
            environment: names(environment),
            ..Sources::default()
        })
    }

    fn valid(environment: &[(&str, &str)], yaml: &str) -> Config {
        load(environment, yaml).expect("valid")
    }

    fn refused(environment: &[(&str, &str)], yaml: &str) -> String {
        load(environment, yaml).expect_err("refused").to_string()
    }

    fn url(config: &Config) -> String {
        let url = config.redis.url.as_ref();
        url.map_or_else(|| "none".to_owned(), ToString::to_string)
    }

    #[test]
    fn the_store_is_redis_where_there_is_a_url_and_no_other_word() {
        let kind = |environment: &[(&str, &str)], yaml| {
            let config = valid(environment, yaml);
            (config.store, config.warnings.len())
        };
        let url = ("REDIS_URL", "redis://cache");
        assert_eq!(kind(&[], ""), (StoreKind::Memory, 0));
        assert_eq!(kind(&[url], ""), (StoreKind::Redis, 0));
        assert_eq!(kind(&[url], "store:"), (StoreKind::Redis, 0));
        assert_eq!(
            kind(&[], "redis: {url: redis://cache}"),
            (StoreKind::Redis, 0)
        );
        assert_eq!(
            kind(&[("REDIS_HOST", "cache")], "store: redis"),
            (StoreKind::Redis, 0)
        );
        assert_eq!(kind(&[url], "store: memory"), (StoreKind::Memory, 1));
        assert_eq!(
            kind(&[url, ("TIDEGATE_STORE", "memory")], "store: redis"),
            (StoreKind::Memory, 1)
        );
        let idle = valid(&[url], "store: memory");
        assert!(
            idle.warnings[0].contains("REDIS_URL"),
            "{:?}",
            idle.warnings
        );
        assert!(idle.redis().is_none());
    }

    #[test]
    fn a_redis_store_without_a_url_is_told_how_to_get_one() {
        let error = refused(&[("REDIS_URL", "")], "store: redis");
        for way in ["store: ", "redis.url", "REDIS_URL=", "REDIS_HOST="] {
            assert!(error.contains(way), "{error}");
        }
    }

    #[test]
    fn sentinels_or_a_cluster_name_the_server() {
        let nodes = "a, [fd00::1]:7000";
        let config = valid(&[("TIDEGATE_REDIS__SENTINEL__NODES", nodes)], "");
        assert_eq!(config.store, StoreKind::Redis);
        let Via::Sentinel(sentinels) = config.redis().expect("Redis").via else {
            panic!("sentinels were expected");
        };
        let shown: Vec<String> = sentinels.nodes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a:26379", "[fd00::1]:7000"]);
        for (text, shown) in [("[::1]:7000,a", "[::1]:7000"), ("[::1]", "[::1]:26379")] {
            let config = valid(&[("TIDEGATE_REDIS__SENTINEL__NODES", text)], "");
            let first = &config.redis.sentinel.nodes[0];
            assert_eq!(first.to_string(), shown);
        }
        assert_eq!(sentinels.master, "mymaster");
        assert_eq!(sentinels.credentials, Credentials::default());

        let yaml = "
redis:
  url: rediss://app:b@ignored/2
  sentinel: {nodes: [a], master: orders, username: watcher, password: s3cret}
";
        let store = valid(&[], yaml).redis().expect("Redis");
        assert!(store.url.tls() && store.url.db() == 2);
        assert_eq!(store.url.credentials().password.as_deref(), Some("b"));
        let Via::Sentinel(sentinels) = &store.via else {
            panic!("sentinels were expected");
        };
        assert_eq!(sentinels.master, "orders");
        assert_eq!(sentinels.credentials.username.as_deref(), Some("watcher"));
        assert_eq!(sentinels.credentials.password.as_deref(), Some("s3cret"));
        assert!(!format!("{store:?}").contains("s3cret"));
        assert!(valid(&[], yaml).secrets().any(|secret| secret == "s3cret"));

        let cluster = valid(&[("TIDEGATE_REDIS__CLUSTER__NODES", "a,b:7000")], "");
        let Via::Cluster(nodes) = cluster.redis().expect("Redis").via else {
            panic!("a cluster was expected");
        };
        let shown: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a:6379", "b:7000"]);
        assert_eq!(
            valid(&[("REDIS_URL", "redis://a")], "")
                .redis()
                .expect("Redis")
                .via,
            Via::Url
        );
    }

    #[test]
    fn sentinels_and_a_cluster_are_refused_where_they_make_no_sense() {
        for (yaml, error) in [
            (
                "redis: {sentinel: {nodes: [a]}, cluster: {nodes: [b]}}",
                "redis.cluster.nodes: are given beside",
            ),
            (
                "redis: {url: redis://a/1, cluster: {nodes: [b]}}",
                "redis.url: names a database",
            ),
            (
                "redis: {sentinel: {nodes: [a], master: ''}}",
                "redis.sentinel.master: must be",
            ),
            (
                "redis: {sentinel: {nodes: [a], master: 'a b'}}",
                "redis.sentinel.master: must be",
            ),
            (
                "redis: {sentinel: {nodes: ['redis://:s3cret@a']}}",
                "host or host:port was expected",
            ),
            ("redis: {cluster: {nodes: ['a:x']}}", "port"),
        ] {
            let told = refused(&[], yaml);
            assert!(told.contains(error) && !told.contains("s3cret"), "{told}");
        }
        let idle = valid(&[], "redis: {url: redis://a, sentinel: {password: s3cret}}");
        assert!(
            idle.warnings[0].contains("redis.sentinel.password"),
            "{:?}",
            idle.warnings
        );
        let idle = valid(&[], "{store: memory, redis: {cluster: {nodes: [a]}}}");
        assert!(
            idle.warnings[0].contains("redis.cluster.nodes"),
            "{:?}",
            idle.warnings
        );
    }

    #[test]
    fn a_later_url_wins() {
        let file = "redis: {url: redis://file}";
        let alias = ("REDIS_URL", "redis://alias");
        let own = ("TIDEGATE_REDIS__URL", "rediss://own:1/2");
        assert_eq!(url(&valid(&[], file)), "redis://file:6379");
        assert_eq!(url(&valid(&[alias], file)), "redis://alias:6379");
        assert_eq!(url(&valid(&[alias, own], file)), "rediss://own:1/2");
    }

    #[test]
    fn an_empty_url_is_none() {
        assert_eq!(url(&valid(&[], "redis: {url: ''}")), "none");
        assert_eq!(url(&valid(&[], "redis: {url: null}")), "none");
        let nothing = [
            ("REDIS_URL", ""),
            ("REDIS_HOST", ""),
            ("TIDEGATE_REDIS__URL", ""),
        ];
        assert_eq!(url(&valid(&nothing, "")), "none");
        assert_eq!(valid(&nothing, "").store, StoreKind::Memory);
        let given = valid(&nothing, "redis: {url: redis://cache}");
        assert_eq!(url(&given), "redis://cache:6379");
    }

    #[test]
    fn a_host_is_a_url_where_there_is_none() {
        let of = |host| url(&valid(&[("REDIS_HOST", host)], ""));
        assert_eq!(of("cache"), "redis://cache:6379");
        assert_eq!(of("10.0.0.1:7000"), "redis://10.0.0.1:7000");
        assert_eq!(of("::1"), "redis://[::1]:6379");
        assert_eq!(of("[::1]:7000"), "redis://[::1]:7000");
        let host = ("REDIS_HOST", "host");
        let given = valid(&[host, ("REDIS_URL", "redis://url")], "");
        assert_eq!(url(&given), "redis://url:6379");
        let given = valid(&[host], "redis: {url: redis://file}");
        assert_eq!(url(&given), "redis://file:6379");
    }

    #[test]
    fn a_host_in_a_file_of_names_gives_way_to_any_url_and_to_the_environment() {
        let load = |environment: &[(&str, &str)]| {
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            fs::write(file.path(), "REDIS_HOST=dotenv").expect("written");
            let sources = Sources {
                dotenv: Some(file.path().to_owned()),
                environment: names(environment),
                ..Sources::default()
            };
            url(&Config::load(&sources).expect("valid"))
        };
        assert_eq!(load(&[]), "redis://dotenv:6379");
        assert_eq!(load(&[("REDIS_HOST", "host")]), "redis://host:6379");
        assert_eq!(load(&[("REDIS_HOST", "")]), "redis://dotenv:6379");
        assert_eq!(load(&[("REDIS_URL", "redis://url")]), "redis://url:6379");
    }

    #[test]
    fn a_host_that_is_more_than_that_is_refused() {
        for host in ["redis://:s3cret@cache", ":s3cret@cache", "cache/0"] {
            let error = refused(&[("REDIS_HOST", host)], "");
            assert!(error.starts_with("REDIS_HOST: redis.url: "), "{error}");
            assert!(!error.contains("s3cret") && error.contains("REDIS_URL"));
        }
        let error = refused(&[("REDIS_HOST", "cache:many")], "");
        assert!(error.starts_with("REDIS_HOST: redis.url: the port"));
    }

    /// What Kubernetes says of a Service named `redis`, or `tidegate-redis`.
    #[test]
    fn links_to_a_service_name_no_server() {
        let links = [
            ("REDIS_SERVICE_HOST", "10.0.0.1"),
            ("REDIS_SERVICE_PORT", "6379"),
            ("REDIS_PORT", "tcp://10.0.0.1:6379"),
            ("REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
            ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
            ("TIDEGATE_REDIS_SERVICE_HOST", "10.0.0.1"),
            ("TIDEGATE_REDIS_PORT", "tcp://10.0.0.1:6379"),
            ("TIDEGATE_REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ];
        let config = valid(&links, "");
        assert_eq!(
            (config.store, url(&config)),
            (StoreKind::Memory, "none".into())
        );
        let with_host = [&links[..], &[("REDIS_HOST", "redis")]].concat();
        let config = valid(&with_host, "");
        assert_eq!(url(&config), "redis://redis:6379");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        // A URL of a wrong kind in a setting is no link.
        let error = refused(&[("TIDEGATE_REDIS__URL", "tcp://10.0.0.1:6379")], "");
        assert!(
            error.starts_with("TIDEGATE_REDIS__URL: redis.url: "),
            "{error}"
        );
    }

    #[test]
    fn a_port_of_its_own_is_not_passed_over_silently() {
        let warned = |host| {
            let config = valid(&[("REDIS_HOST", host), ("REDIS_PORT", "7000")], "");
            assert_eq!(url(&config), "redis://cache:6379");
            config.warnings
        };
        assert!(warned("cache")[0].contains("REDIS_HOST=host:7000"));
        assert!(warned("cache:6379").is_empty());
    }

    #[test]
    fn credentials_beside_the_url_win() {
        let of = |environment: &[(&str, &str)]| {
            let server = valid(environment, "").redis().expect("Redis").url;
            (
                server.username().map(str::to_owned),
                server.password().map(str::to_owned),
            )
        };
        let pair = |username: &str, password: &str| (Some(username.into()), Some(password.into()));
        let url = ("REDIS_URL", "redis://a:b@cache");
        let username = ("TIDEGATE_REDIS__USERNAME", "x");
        let password = ("TIDEGATE_REDIS__PASSWORD", "y, z");
        assert_eq!(of(&[url]), pair("a", "b"));
        assert_eq!(of(&[url, password]), pair("a", "y, z"));
        assert_eq!(of(&[url, username, password]), pair("x", "y, z"));
        assert_eq!(
            of(&[("REDIS_HOST", "cache"), password]),
            (None, Some("y, z".into()))
        );
    }

    #[test]
    fn what_the_store_is_told_is_what_was_set() {
        let config = valid(
            &[
                ("TIDEGATE_REDIS__WAIT_REPLICAS", "2"),
                ("TIDEGATE_REDIS__TLS__CA", "ca.pem"),
            ],
            "
redis:
  url: rediss://cache/3
  prefix: shop:live
  tls: {certificate: /etc/gateway.pem, key: /etc/gateway.key}
feed: {backlog: 1MiB}
publish: {timeout: 2s, idempotency_window: 1m}
limits: {event_bytes: 1KiB}
",
        );
        let store = config.redis().expect("Redis");
        assert_eq!(store.url.to_string(), "rediss://cache:6379/3");
        assert_eq!(store.prefix, "shop:live");
        assert_eq!(store.wait_replicas, 2);
        assert_eq!(store.tls.ca, Some("ca.pem".into()));
        assert_eq!(store.tls.certificate, Some("/etc/gateway.pem".into()));
        assert_eq!(store.tls.key, Some("/etc/gateway.key".into()));
        assert_eq!(store.backlog_bytes, 1 << 20);
        assert_eq!(store.timeout, Duration::from_secs(2));
        assert_eq!(store.idempotency_window, Duration::from_mins(1));
        assert_eq!(store.event_bytes, 1_024);

        let store = valid(&[("REDIS_HOST", "cache")], "")
            .redis()
            .expect("Redis");
        assert_eq!(
            (store.prefix.as_str(), store.wait_replicas),
            ("tidegate", 0)
        );
        assert_eq!(store.backlog_bytes, 64 << 20);
        assert_eq!(store.tls.ca, None);
    }

    #[test]
    fn a_prefix_is_plain_text() {
        let long = "x".repeat(64);
        for prefix in ["t", "shop-1_a.b:c", &long] {
            assert_eq!(
                valid(&[("TIDEGATE_REDIS__PREFIX", prefix)], "")
                    .redis
                    .prefix,
                prefix
            );
        }
        for prefix in ["", "a b", "{a}", "a*", "ü", &"x".repeat(65)] {
            let error = refused(&[("TIDEGATE_REDIS__PREFIX", prefix)], "");
            assert!(error.contains("redis.prefix: must be 1 to 64"), "{error}");
        }
    }

    #[test]
    fn certificate_and_key_go_together() {
        for alone in ["certificate", "key"] {
            let error = refused(&[], &format!("redis: {{tls: {{{alone}: a.pem}}}}"));
            assert!(error.contains("redis.tls: ") && error.contains("both or none"));
        }
    }

    #[test]
    fn certificates_for_a_connection_without_tls_are_warned_of() {
        let warned = |url| {
            let set = [("REDIS_URL", url), ("TIDEGATE_REDIS__TLS__CA", "ca.pem")];
            valid(&set, "").warnings
        };
        assert!(warned("redis://cache")[0].contains("rediss://"));
        assert!(warned("rediss://cache").is_empty());
    }

    #[test]
    fn a_url_that_is_none_says_what_was_expected_and_where_it_stands() {
        for (url, expected) in [
            ("cache:6379", "redis://"),
            ("redis+sentinel://cache/main", "redis.sentinel.nodes"),
            ("redis-cluster://cache", "redis.cluster.nodes"),
            (
                "redis://a:1,b:2",
                "redis.sentinel.nodes or redis.cluster.nodes",
            ),
            ("unix:///run/redis.sock", "not supported"),
            ("redis://cache?protocol=3", "no query"),
        ] {
            let error = refused(&[("REDIS_URL", url)], "");
            assert!(error.starts_with("REDIS_URL: redis.url: "), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Whatever is wrong, and wherever a URL was put by mistake.
    #[test]
    fn no_password_is_shown() {
        let url = "redis://app:s3cret@cache/0";
        let wrong: [(&[(&str, &str)], String); 17] = [
            (&[("REDIS_URL", "redis//app:s3cret@cache")], String::new()),
            (
                &[("REDIS_URL", "redis://app:s3cret@cache?x=1")],
                String::new(),
            ),
            (
                &[("REDIS_URL", "redis://app:s3cret/x@cache")],
                String::new(),
            ),
            (&[("REDIS_URL", "redis://app:s3cret%@cache")], String::new()),
            (&[("REDIS_URL", "redis://:s3cret@cache:x")], String::new()),
            (&[("TIDEGATE_STORE", url)], String::new()),
            (&[("TIDEGATE_REDIS", url)], String::new()),
            (&[("TIDEGATE_REDIS__WAIT_REPLICAS", url)], String::new()),
            (&[("MAX_CONNECTIONS", url)], String::new()),
            (&[("PORT", url)], String::new()),
            (&[("ALLOWED_ORIGINS", url)], String::new()),
            (&[("TIDEGATE_REDIS__PREFIX", url)], String::new()),
            (&[], format!("store: {url}")),
            (&[], format!("redis: {url}")),
            (&[], format!("redis: {{url:{url}}}")),
            (&[], format!("redis: {{url: {url}")),
            (&[], "redis: {password: [s3cret]}".to_owned()),
        ];
        for (environment, yaml) in wrong {
            let error = refused(environment, &yaml);
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = refused(&[], "redis: {password: 12345}");
        assert!(
            error.contains("quotes") && !error.contains("12345"),
            "{error}"
        );
        let idle = [
            ("HOST", url),
            ("REDIS_URL", url),
            ("TIDEGATE_REDIS__PASSWORD", "s3cret"),
        ];
        for yaml in ["store: memory", "store: redis"] {
            let shown = format!("{:?}", valid(&idle, yaml));
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        let store = valid(&[("REDIS_URL", url)], "").redis().expect("Redis");
        assert!(!format!("{store:?}").contains("s3cret"));
    }
}
