//! All settings as they were read: the typed tree, and for each of its leaves the value and where it came from.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::{
    Config, ConfigError, Place, Sources, Wrong,
    nearest::nearest,
    position::{Positions, join},
    secret::{masked, may_be_repeated, may_hold_secret, without_credentials},
    source::{Gathered, KNOWN, leaves},
};

/// All settings as they were read. It has no `Debug`: it holds secrets.
#[derive(Clone)]
pub struct Settings {
    config: Arc<Config>,
    tree: Value,
    origins: Origins,
}

/// Where each value came from.
#[derive(Clone, Default)]
struct Origins {
    /// What is not in it is a default.
    places: BTreeMap<String, Place>,
    file: Option<(PathBuf, Positions)>,
}

/// One setting as it may be shown: without secrets.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Its key.
    #[serde(skip)]
    pub key: String,
    /// Its value, or what stands for it.
    pub value: Value,
    /// The kind of source that it came from.
    pub source: &'static str,
    /// Where it was written; nothing for a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl Settings {
    /// Reads all sources and checks what they say together.
    ///
    /// # Errors
    /// See [`ConfigError`]; it names the place, the key and what is allowed.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let read = sources.gather().and_then(|gathered| {
            let Gathered {
                tree,
                places,
                file,
                warnings,
            } = gathered;
            Self::of_tree(tree, Origins { places, file }, warnings)
        });
        read.map_err(ConfigError::without_credentials)
    }

    fn of_tree(
        tree: Value,
        origins: Origins,
        mut warnings: Vec<String>,
    ) -> Result<Self, ConfigError> {
        let read: Result<Config, _> = serde_path_to_error::deserialize(&tree);
        let mut config = read.map_err(|error| {
            let (key, message) = (error.path().to_string(), error.into_inner().to_string());
            origins.mistyped(key, &message)
        })?;
        if let Some((key, address)) = config.exposed() {
            return Err(ConfigError::Exposed {
                place: origins.place(key),
                key,
                address,
            });
        }
        config.check().map_err(|wrong| origins.wrong(wrong))?;
        warnings.extend(config.doubts());
        config.warnings = warnings
            .iter()
            .map(|warning| without_credentials(warning))
            .collect();
        Ok(Self {
            config: Arc::new(config),
            tree,
            origins,
        })
    }

    /// The typed tree.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// What was passed over, or is hardly meant.
    pub fn warnings(&self) -> &[String] {
        &self.config.warnings
    }

    /// Every setting, in the order of their keys.
    pub fn list(&self) -> Vec<Setting> {
        let setting = |key: String| {
            let place = self.origins.places.get(&key);
            Setting {
                value: self.shown(&key),
                source: place.unwrap_or(&Place::Default).source(),
                place: place.map(|place| without_credentials(&place.to_string())),
                key,
            }
        };
        leaves(&KNOWN, "").into_iter().map(setting).collect()
    }

    /// Lowers `limits.connections` to what there is room for, with a warning.
    pub fn lower_connections(&mut self, room: usize) {
        let config = Arc::make_mut(&mut self.config);
        if config.limits.connections <= room {
            return;
        }
        config.warnings.push(format!(
            "limits.connections is more than the limit of open files allows, it is lowered to {room}"
        ));
        config.limits.connections = room;
        self.tree["limits"]["connections"] = room.into();
        let why = "the limit of open files";
        let place = Place::Derived { why };
        self.origins
            .places
            .insert("limits.connections".into(), place);
    }

    /// Puts the place to what is wrong with a setting.
    pub fn refuse(&self, wrong: Wrong) -> ConfigError {
        self.origins.wrong(wrong).without_credentials()
    }

    pub(super) fn value(&self, key: &str) -> &Value {
        let pointer = format!("/{}", key.replace('.', "/"));
        self.tree.pointer(&pointer).unwrap_or(&Value::Null)
    }

    /// The value of a key as it may be shown.
    pub(super) fn shown(&self, key: &str) -> Value {
        masked(key, self.value(key))
    }

    /// These settings with the values of some keys as `running` has them.
    pub(super) fn keeping(self, running: &Self, keys: &[String]) -> Result<Self, ConfigError> {
        let Self {
            config,
            mut tree,
            mut origins,
        } = self;
        for key in keys {
            let pointer = format!("/{}", key.replace('.', "/"));
            if let Some(value) = tree.pointer_mut(&pointer) {
                *value = running.value(key).clone();
            }
            match running.origins.places.get(key) {
                Some(place) => origins.places.insert(key.clone(), place.clone()),
                None => origins.places.remove(key),
            };
        }
        // What the sources were warned of stays, what the checks add comes anew.
        let old: Vec<String> = config.doubts();
        let warnings = config.warnings.iter();
        let warnings = warnings.filter(|warning| !old.contains(warning)).cloned();
        Self::of_tree(tree, origins, warnings.collect()).map_err(ConfigError::without_credentials)
    }
}

impl Origins {
    /// Where a key was written: itself, or what it is a part of, or the first of its parts.
    fn place(&self, key: &str) -> String {
        let mut part = key;
        loop {
            match self.places.get(part) {
                Some(Place::File { path, at }) => {
                    // Where in a list it is, is known for files only.
                    let at = self
                        .file
                        .as_ref()
                        .filter(|_| part != key)
                        .and_then(|(_, positions)| positions.find(key))
                        .or(*at);
                    return Place::file(path, at).to_string();
                }
                Some(place) => return place.to_string(),
                None => {}
            }
            match part.rsplit_once(['.', '[']) {
                Some((before, _)) => part = before,
                None => break,
            }
        }
        let below = join(key, "");
        let mut parts = self.places.range(below.clone()..);
        match parts.next().filter(|(key, _)| key.starts_with(&below)) {
            Some((_, place)) => place.to_string(),
            None => "settings".to_owned(),
        }
    }

    fn wrong(&self, wrong: Wrong) -> ConfigError {
        ConfigError::Value {
            place: self.place(&wrong.key),
            key: wrong.key,
            message: wrong.message,
        }
    }

    /// What serde says of a value that does not fit, in our words, and without the value where it may be a secret.
    fn mistyped(&self, key: String, message: &str) -> ConfigError {
        if let Some(unknown) = message.strip_prefix("unknown field `") {
            return self.unknown(key, unknown);
        }
        let message = if may_hold_secret(&key) && message.starts_with("invalid ") {
            let expected = message.rsplit_once(", expected ");
            expected.map_or_else(
                || "something else was expected".to_owned(),
                |(_, expected)| format!("{expected} was expected"),
            )
        } else {
            message.to_owned()
        };
        self.wrong(Wrong { key, message })
    }

    /// `message` is what serde says of a field in an item of a list: ``agge`, expected one of `prefix`, `age` ``.
    fn unknown(&self, key: String, message: &str) -> ConfigError {
        let (field, expected) = message.rsplit_once("`, expected ").unwrap_or((message, ""));
        let known: Vec<String> = expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        let near = nearest(field, &known);
        // serde names the entry or the field in it, as it comes.
        let entry = match key
            .strip_suffix(field)
            .and_then(|key| key.strip_suffix('.'))
        {
            Some(entry) => entry.to_owned(),
            None => key,
        };
        let place = self.place(&join(&entry, field));
        if may_hold_secret(&entry) && !may_be_repeated(field, near.as_deref()) {
            let message = format!("an unknown key; there are {}", known.join(", "));
            return ConfigError::Value {
                place,
                key: entry,
                message,
            };
        }
        ConfigError::Unknown {
            place,
            key: join(&entry, field),
            nearest: near.map(|near| join(&entry, &near)),
        }
    }
}

#[cfg(test)]
mod tests;
