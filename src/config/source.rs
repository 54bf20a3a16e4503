//! Where settings come from: defaults, a file, `.env`, the environment, flags. Later wins.
//!
//! The tree of defaults is also the list of what exists: a key that it lacks is an error that names the nearest right one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::{Map, Value};

use super::{
    ConfigError, Look, Place, dotenv,
    environment::{Layer, Names},
    nearest::nearest,
    place::DOTENV,
    position::{Position, Positions, join},
    redis, secret,
};

const DEFAULTS: &str = include_str!("../../config/defaults.yaml");

/// The defaults, which are also the list of what exists.
pub(super) static KNOWN: LazyLock<Value> =
    LazyLock::new(|| yaml_serde::from_str(DEFAULTS).expect("the embedded defaults are YAML"));

/// Everything that settings are read from. It has no `Debug`: an environment is full of secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// A YAML file.
    pub file: Option<PathBuf>,
    /// A file `.env`, which need not be there.
    pub dotenv: Option<PathBuf>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Flags that were given.
    pub flags: Vec<Flag>,
}

/// A flag that sets a setting.
#[derive(Clone)]
pub struct Flag {
    /// As it was written: `--listen`.
    pub name: &'static str,
    /// What it sets.
    pub key: &'static str,
    /// To what.
    pub value: String,
}

/// How the files look from outside; when it differs, there is something to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    file: Option<Look>,
    dotenv: Option<Look>,
}

impl Stamp {
    /// Whether the file of settings is gone, maybe for the moment that it takes to put another in its place.
    pub fn lacks_file(&self, sources: &Sources) -> bool {
        sources.file.is_some() && self.file.is_none()
    }
}

/// What all sources say, before it is known to be right.
pub(super) struct Gathered {
    pub(super) tree: Value,
    pub(super) places: BTreeMap<String, Place>,
    pub(super) file: Option<(PathBuf, Positions)>,
    pub(super) warnings: Vec<String>,
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
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let environment = process_environment();
        let file = file.or_else(|| environment.get("TIDEGATE_CONFIG").map(Into::into));
        Self {
            // `TIDEGATE_CONFIG=` is how a name is taken back.
            file: file.filter(|path| !path.as_os_str().is_empty()),
            dotenv: Some(DOTENV.into()),
            environment,
            flags,
        }
    }

    /// How the files look from outside.
    pub fn stamp(&self) -> Stamp {
        let look = |path: &Option<PathBuf>| path.as_deref().and_then(Look::at);
        Stamp {
            file: look(&self.file),
            dotenv: look(&self.dotenv),
        }
    }

    pub(super) fn gather(&self) -> Result<Gathered, ConfigError> {
        let known = &*KNOWN;
        let mut gathered = Gathered {
            tree: known.clone(),
            places: BTreeMap::new(),
            file: None,
            warnings: Vec::new(),
        };
        if let Some(path) = &self.file {
            gathered.file(path)?;
        }
        let Gathered {
            tree,
            places,
            warnings,
            ..
        } = &mut gathered;
        let dotenv = match &self.dotenv {
            Some(path) => dotenv::read(path, warnings)?,
            None => Names::default(),
        };
        let environment = Names::of_environment(&self.environment);
        let mut layer = Layer {
            tree,
            known,
            places,
        };
        for names in [&dotenv, &environment] {
            layer.names(names, warnings)?;
        }
        for Flag { name, key, value } in &self.flags {
            layer.set(key, value, Place::Flag { name })?;
        }
        redis::choose(tree, places, [&environment, &dotenv], warnings)?;
        Ok(gathered)
    }
}

impl Gathered {
    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source: explained(source),
        })?;
        let yaml = |message: String| ConfigError::Yaml {
            path: path.to_owned(),
            message,
        };
        let file: Value =
            yaml_serde::from_str(&text).map_err(|error| yaml(syntax(&error.to_string(), &text)))?;
        let positions = Positions::of(&text);
        if let Some((key, at)) = &positions.repeated {
            return Err(ConfigError::Value {
                place: Place::file(path, Some(*at)).to_string(),
                // A key may be anything here, also a token that lost its name.
                key: known_part(key),
                message: "this stands here twice".into(),
            });
        }
        let mut merge = Merge {
            path,
            positions: &positions,
            places: &mut self.places,
        };
        match file {
            Value::Object(file) => merge.object(&mut self.tree, file, "")?,
            Value::Null => {}
            _ => return Err(yaml("a mapping of settings was expected".into())),
        }
        self.file = Some((path.to_owned(), positions));
        Ok(())
    }
}

/// What the reader of YAML says, without values, and with the line where it knows only an offset.
fn syntax(message: &str, text: &str) -> String {
    let message = secret::without_values(message);
    let offset = message
        .rsplit_once(" at position ")
        .and_then(|(_, at)| at.split([' ', ',']).next()?.parse::<usize>().ok());
    match offset {
        Some(offset) => {
            let before = &text.as_bytes()[..offset.min(text.len())];
            let line = before.split(|byte| *byte == b'\n').count();
            format!("{message}, line {line}")
        }
        None => message,
    }
}

/// The longest part of a key that exists.
fn known_part(key: &str) -> String {
    let mut part = key;
    while KNOWN
        .pointer(&format!("/{}", part.replace('.', "/")))
        .is_none()
    {
        match part.rsplit_once(['.', '[']) {
            Some((before, _)) => part = before,
            None => return "a key".into(),
        }
    }
    part.to_owned()
}

/// A file that is no text is said to be one that is "stream did not contain valid UTF-8".
fn explained(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::InvalidData {
        return io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
    }
    error
}

/// A file on its way into the tree.
struct Merge<'a> {
    path: &'a Path,
    positions: &'a Positions,
    places: &'a mut BTreeMap<String, Place>,
}

impl Merge<'_> {
    fn place(&self, key: &str) -> Place {
        let at: Option<Position> = self.positions.find(key);
        Place::file(self.path, at)
    }

    fn object(
        &mut self,
        tree: &mut Value,
        file: Map<String, Value>,
        path: &str,
    ) -> Result<(), ConfigError> {
        for (name, value) in file {
            let key = join(path, &name);
            let Some(known) = tree.get_mut(&name) else {
                return Err(self.unknown(tree, path, &name));
            };
            match value {
                Value::Object(value) if known.is_object() => self.object(known, value, &key)?,
                Value::Null => {}
                // Where there is no default, an empty text says as little.
                Value::String(text) if text.is_empty() && known.is_null() => {}
                _ if known.is_object() => {
                    return Err(ConfigError::Value {
                        place: self.place(&key).to_string(),
                        key,
                        message: "a mapping of settings was expected".into(),
                    });
                }
                value => {
                    *known = value;
                    let place = self.place(&key);
                    self.places.insert(key, place);
                }
            }
        }
        Ok(())
    }

    fn unknown(&self, tree: &Value, path: &str, name: &str) -> ConfigError {
        let key = join(path, name);
        let place = self.place(&key).to_string();
        let siblings = tree.as_object().into_iter().flatten();
        let siblings: Vec<String> = siblings.map(|(name, _)| name.clone()).collect();
        let near = nearest(name, &siblings);
        if secret::may_hold_secret(path) && !secret::may_be_repeated(name, near.as_deref()) {
            let message = format!("an unknown key; there are {}", siblings.join(", "));
            return ConfigError::Value {
                place,
                key: path.to_owned(),
                message,
            };
        }
        // `stream.keepalive: 5s` in one line is what the keys look like everywhere else.
        let whole = leaves(&KNOWN, "").contains(&key);
        let nearest = match key.rsplit_once('.').filter(|_| whole) {
            Some((section, name)) => Some(format!("{section}: {{{name}: …}}")),
            None => near.map(|near| join(path, &near)),
        };
        ConfigError::Unknown {
            place,
            key,
            nearest,
        }
    }
}

/// The keys of all that is no mapping.
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
    use crate::config::Config;

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
