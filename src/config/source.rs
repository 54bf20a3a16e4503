//! Where settings come from: defaults, a file, the environment, flags. Later wins.
//!
//! The tree of defaults is also the list of what exists: a key that it lacks is an error that names the nearest right one.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value};

use super::{Config, ConfigError, dotenv, environment::Layer, nearest::nearest, redis};

const DEFAULTS: &str = include_str!("../../config/defaults.yaml");

/// Everything that settings are read from. It has no `Debug`: an environment is full of secrets.
#[derive(Clone, Default)]
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

impl Sources {
    /// What a command of this process reads: the file if one is named, `.env` if there is one, the environment.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let environment = process_environment();
        let file = file.or_else(|| environment.get("TIDEGATE_CONFIG").map(Into::into));
        let dotenv = std::fs::read_to_string(".env")
            .map_or_else(|_| BTreeMap::new(), |text| dotenv::parse(&text));
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
        let names = [&self.environment, &self.dotenv];
        redis::choose(&mut tree, &mut places, names, &mut warnings)?;
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
            // Where there is no default, an empty text says as little.
            Value::String(text) if text.is_empty() && known.is_null() => {}
            _ if known.is_object() => {
                return Err(ConfigError::Value {
                    place: place.into(),
                    key,
                    message: "a mapping of settings was expected".into(),
                });
            }
            value => {
                *known = value;
                places.insert(key, place.into());
            }
        }
    }
    Ok(())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

pub(super) fn leaves(tree: &Value, path: &str) -> Vec<String> {
    match tree {
        Value::Object(tree) => tree
            .iter()
            .flat_map(|(name, value)| leaves(value, &join(path, name)))
            .collect(),
        _ => vec![path.to_owned()],
    }
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
