//! Where settings come from: defaults, a file, the environment, flags. Later wins.
//!
//! The tree of defaults is also the list of what exists: a key that it lacks is an error that names the nearest right one.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value};

use super::{Config, ConfigError};

const DEFAULTS: &str = include_str!("../../config/defaults.yaml");
const PREFIX: &str = "TIDEGATE_";
/// Names of ours in the environment that are no settings.
const NOT_SETTINGS: [&str; 2] = ["TIDEGATE_CONFIG", "TIDEGATE_URL"];
/// The plain names that the field's guides use.
const ALIASES: [(&str, &str); 4] = [
    ("LOG_LEVEL", "log.level"),
    ("MAX_CONNECTIONS", "limits.connections"),
    (
        "MAX_SUBSCRIPTIONS_PER_CLIENT",
        "limits.topics_per_connection",
    ),
    ("ALLOWED_ORIGINS", "cors.origins"),
];

/// Everything that settings are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A YAML file.
    pub file: Option<PathBuf>,
    /// Names and values of a file `.env`, read as the environment is.
    pub dotenv: BTreeMap<String, String>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Flags: the path of a setting and its value.
    pub flags: Vec<(String, String)>,
}

/// The environment of this process; names and values that are not UTF-8 are none of ours.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the environment"
)]
fn process_environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Reads the lines of a file `.env`: `NAME=value`, with or without `export` and quotes; `#` begins a comment.
fn dotenv(text: &str) -> BTreeMap<String, String> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'));
    let pairs =
        lines.filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='));
    let unquoted = |value: &str| {
        let value = value.trim();
        let quoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        quoted
            .unwrap_or_else(|| value.split(" #").next().unwrap_or(value).trim_end())
            .to_owned()
    };
    pairs
        .map(|(name, value)| (name.trim().to_owned(), unquoted(value)))
        .collect()
}

impl Sources {
    /// What a command of this process reads: the file if one is named, `.env` if there is one, the environment.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let environment = process_environment();
        let file = file.or_else(|| environment.get("TIDEGATE_CONFIG").map(Into::into));
        let dotenv =
            std::fs::read_to_string(".env").map_or_else(|_| BTreeMap::new(), |text| dotenv(&text));
        Self {
            file,
            dotenv,
            environment,
            flags,
        }
    }

    pub(super) fn read(&self) -> Result<Config, ConfigError> {
        let mut tree: Value =
            yaml_serde::from_str(DEFAULTS).expect("the embedded defaults are YAML");
        let known = tree.clone();
        let mut places = BTreeMap::new();
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
                path: path.clone(),
                source,
            })?;
            let yaml = |message: String| ConfigError::Yaml {
                path: path.clone(),
                message,
            };
            let file: Value =
                yaml_serde::from_str(&text).map_err(|error| yaml(error.to_string()))?;
            match file {
                Value::Object(file) => merge(
                    &mut tree,
                    file,
                    "",
                    &path.display().to_string(),
                    &mut places,
                )?,
                Value::Null => {}
                _ => return Err(yaml("a mapping of settings was expected".into())),
            }
        }
        let mut warnings = Vec::new();
        for (environment, place) in [(&self.dotenv, ".env"), (&self.environment, "environment")] {
            let mut layer = Layer {
                tree: &mut tree,
                known: &known,
                places: &mut places,
                place,
            };
            layer.environment(environment, &mut warnings)?;
        }
        for (key, value) in &self.flags {
            let place = "command line";
            Layer {
                tree: &mut tree,
                known: &known,
                places: &mut places,
                place,
            }
            .set(key, value, place)?;
        }
        let config: Result<Config, _> = serde_path_to_error::deserialize(tree);
        config
            .map(|config| Config { warnings, ..config })
            .map_err(|error| {
                let key = error.path().to_string();
                let place = places
                    .get(&key)
                    .cloned()
                    .unwrap_or_else(|| "settings".into());
                ConfigError::Value {
                    place,
                    key,
                    message: error.into_inner().to_string(),
                }
            })
    }
}

fn merge(
    tree: &mut Value,
    file: Map<String, Value>,
    path: &str,
    place: &str,
    places: &mut BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    for (name, value) in file {
        let key = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let Some(known) = tree.get_mut(&name) else {
            let siblings: Vec<String> = tree.as_object().map_or_else(Vec::new, |tree| {
                tree.keys().map(|name| join(path, name)).collect()
            });
            return Err(ConfigError::Unknown {
                place: place.into(),
                nearest: nearest(&key, &siblings),
                key,
            });
        };
        match value {
            Value::Object(value) if known.is_object() => merge(known, value, &key, place, places)?,
            Value::Null => {}
            value => {
                *known = value;
                places.insert(key, place.into());
            }
        }
    }
    Ok(())
}

/// One source that names settings one by one.
struct Layer<'a> {
    tree: &'a mut Value,
    known: &'a Value,
    places: &'a mut BTreeMap<String, String>,
    place: &'static str,
}

impl Layer<'_> {
    fn environment(
        &mut self,
        environment: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ConfigError> {
        self.host_and_port(environment, warnings)?;
        if environment.contains_key("REDIS_URL") {
            warnings
                .push("REDIS_URL is set, but this version keeps its log in memory alone".into());
        }
        for (alias, key) in ALIASES {
            if let Some(value) = environment.get(alias) {
                self.set(key, value, alias)?;
            }
        }
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(PREFIX)
                && !NOT_SETTINGS.contains(&name.as_str())
                && !is_service_link(key, value)
            {
                self.set(&key.to_lowercase().replace("__", "."), value, name)?;
            }
        }
        Ok(())
    }

    /// `HOST` and `PORT` each name one half of `server.listen`. Shells set `HOST` to the machine's name: that is no address.
    fn host_and_port(
        &mut self,
        environment: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ConfigError> {
        if !environment.contains_key("HOST") && !environment.contains_key("PORT") {
            return Ok(());
        }
        let Some(listen) = self
            .tree
            .pointer("/server/listen")
            .and_then(Value::as_str)
            .map(str::to_owned)
        else {
            return Ok(());
        };
        let (mut host, mut port) = listen
            .rsplit_once(':')
            .map(|(host, port)| (host.to_owned(), port.to_owned()))
            .unwrap_or_default();
        match environment
            .get("HOST")
            .map(|host| host.parse::<std::net::IpAddr>().map_err(|_| host))
        {
            Some(Ok(address)) => {
                host = if address.is_ipv6() {
                    format!("[{address}]")
                } else {
                    address.to_string()
                }
            }
            Some(Err(name)) if name == "localhost" => host = "127.0.0.1".into(),
            Some(Err(name)) => warnings.push(format!(
                "HOST is {name:?}, which is no address: it is ignored"
            )),
            None => {}
        }
        if let Some(value) = environment.get("PORT") {
            let number = value.parse::<u16>().map_err(|_| ConfigError::Value {
                place: "PORT".into(),
                key: "server.listen".into(),
                message: format!("{value:?} is no port: a number from 0 to 65535 was expected"),
            })?;
            port = number.to_string();
        }
        let joined = format!("{host}:{port}");
        if joined != listen {
            self.tree["server"]["listen"] = Value::String(joined);
            self.places
                .insert("server.listen".into(), "HOST, PORT".into());
        }
        Ok(())
    }

    /// Sets one key to a text, read as the kind of value that its default has. `name` is how it was written.
    fn set(&mut self, key: &str, text: &str, name: &str) -> Result<(), ConfigError> {
        let pointer = format!("/{}", key.replace('.', "/"));
        let default = self
            .known
            .pointer(&pointer)
            .filter(|known| !known.is_object());
        let (Some(default), Some(slot)) = (default, self.tree.pointer_mut(&pointer)) else {
            let in_environment = name.starts_with(PREFIX);
            let spelled = |key: String| {
                if in_environment {
                    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
                } else {
                    key
                }
            };
            return Err(ConfigError::Unknown {
                place: self.place.into(),
                key: if in_environment { name } else { key }.into(),
                nearest: nearest(key, &leaves(self.known, "")).map(spelled),
            });
        };
        let wrong = |expected: &str| ConfigError::Value {
            place: name.into(),
            key: key.into(),
            message: format!("{text:?} is no {expected}"),
        };
        *slot = match default {
            Value::Bool(_) => Value::Bool(text.parse().map_err(|_| wrong("true or false"))?),
            Value::Number(_) => Value::Number(
                text.parse::<u64>()
                    .map_err(|_| wrong("whole number"))?
                    .into(),
            ),
            Value::Array(_) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(Value::from)
                .collect(),
            _ => Value::String(text.to_owned()),
        };
        self.places.insert(key.to_owned(), name.to_owned());
        Ok(())
    }
}

/// Whether Kubernetes put this into the environment, because a Service has a name like ours: `TIDEGATE_SERVICE_HOST`,
/// `TIDEGATE_PORT=tcp://…`, `TIDEGATE_PORT_8080_TCP_ADDR`. It is addressed to others.
fn is_service_link(key: &str, value: &str) -> bool {
    let port = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    key.contains("SERVICE_HOST")
        || key.contains("SERVICE_PORT")
        || ["tcp://", "udp://", "sctp://"]
            .iter()
            .any(|scheme| value.starts_with(scheme))
        || key.split_once("PORT_").is_some_and(|(_, rest)| port(rest))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn leaves(tree: &Value, path: &str) -> Vec<String> {
    match tree {
        Value::Object(tree) => tree
            .iter()
            .flat_map(|(name, value)| leaves(value, &join(path, name)))
            .collect(),
        _ => vec![path.to_owned()],
    }
}

/// The candidate that is closest to what was written, if any is close.
fn nearest(written: &str, candidates: &[String]) -> Option<String> {
    let (distance, best) = candidates
        .iter()
        .map(|candidate| (distance(written, candidate), candidate))
        .min()?;
    (distance <= written.len() / 2 + 1).then(|| best.clone())
}

/// Edits that lead from one text to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn load(environment: &[(&str, &str)], yaml: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), yaml).expect("written");
        let environment = environment
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Config::load(&Sources {
            file: Some(file.path().to_owned()),
            environment,
            ..Sources::default()
        })
    }

    #[test]
    fn later_sources_win() {
        let config = load(
            &[("TIDEGATE_STREAM__KEEPALIVE", "5s")],
            "stream: {keepalive: 7s, retry: 1s}",
        )
        .expect("valid");
        assert_eq!(
            (config.stream.keepalive, config.stream.retry),
            (Duration::from_secs(5), Duration::from_secs(1))
        );
        assert_eq!(config.limits.event_bytes.bytes(), 65_536);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_right_one() {
        let error = |environment: &[(&str, &str)], yaml| {
            load(environment, yaml).expect_err("refused").to_string()
        };
        assert!(error(&[], "stream: {keepalife: 7s}").contains("did you mean stream.keepalive?"));
        assert!(error(&[], "steam: {}").contains("did you mean stream?"));
        assert!(
            error(&[("TIDEGATE_STREAM__KEEPALIFE", "1s")], "")
                .contains("did you mean TIDEGATE_STREAM__KEEPALIVE?")
        );
    }

    #[test]
    fn a_wrong_value_names_its_place() {
        let error =
            |environment: &[(&str, &str)]| load(environment, "").expect_err("refused").to_string();
        assert!(
            error(&[("TIDEGATE_STREAM__KEEPALIVE", "soon")])
                .starts_with("TIDEGATE_STREAM__KEEPALIVE: stream.keepalive: ")
        );
        assert!(
            error(&[("MAX_CONNECTIONS", "many")])
                .starts_with("MAX_CONNECTIONS: limits.connections: ")
        );
        assert!(error(&[("PORT", "99999")]).starts_with("PORT: "));
        assert!(
            error(&[("TIDEGATE_CORS__ORIGINS", "https://a.example/x")]).contains("is no origin")
        );
    }

    #[test]
    fn the_plain_names_are_aliases() {
        let config = load(
            &[
                ("PORT", "0"),
                ("HOST", "::1"),
                ("MAX_CONNECTIONS", "7"),
                ("ALLOWED_ORIGINS", "https://a.example, http://b.example:1"),
            ],
            "",
        )
        .expect("valid");
        assert_eq!(config.server.listen.to_string(), "[::1]:0");
        assert_eq!(config.limits.connections, 7);
        assert_eq!(
            config.cors.origins,
            ["https://a.example", "http://b.example:1"]
        );
        assert_eq!(
            load(&[("HOST", "my-machine")], "")
                .expect("valid")
                .server
                .listen
                .to_string(),
            "127.0.0.1:8080"
        );
    }

    #[test]
    fn a_file_of_names_is_read_as_the_environment_is() {
        let read =
            dotenv("# a comment\nexport A = 1\nB=\"x # y\"\n\nC=z # note\nD='q'\nnonsense\n");
        let read: Vec<_> = read
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(read, [("A", "1"), ("B", "x # y"), ("C", "z"), ("D", "q")]);
    }

    #[test]
    fn what_kubernetes_says_of_a_service_is_not_addressed_to_us() {
        let links = [
            ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
            ("TIDEGATE_PORT", "tcp://10.0.0.1:8080"),
            ("TIDEGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("TIDEGATE_REDIS_SERVICE_PORT", "6379"),
        ];
        assert!(load(&links, "").is_ok());
    }

    #[test]
    fn strangers_are_not_served_by_accident() {
        let refused = load(&[("HOST", "0.0.0.0")], "")
            .expect_err("refused")
            .to_string();
        assert!(
            refused.contains("auth.anonymous: [subscribe, publish]")
                && refused.contains("Configure auth")
        );
        assert!(
            load(
                &[
                    ("HOST", "0.0.0.0"),
                    ("TIDEGATE_AUTH__ANONYMOUS", "subscribe")
                ],
                ""
            )
            .is_ok()
        );
    }
}
