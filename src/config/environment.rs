//! Sources that name settings one by one: the environment, a file `.env`, flags.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    ConfigError, Place, nearest::nearest, place::DOTENV, secret::may_hold_secret, source::leaves,
};

const PREFIX: &str = "TIDEGATE_";
/// Names of ours in the environment that are no settings.
const NOT_SETTINGS: [&str; 2] = ["TIDEGATE_CONFIG", "TIDEGATE_URL"];
/// The plain names that the field's guides use.
const ALIASES: [(&str, &str); 6] = [
    ("JWT_SECRET", "auth.jwt.secret"),
    ("LOG_LEVEL", "log.level"),
    ("MAX_CONNECTIONS", "limits.connections"),
    (
        "MAX_SUBSCRIPTIONS_PER_CLIENT",
        "limits.topics_per_connection",
    ),
    ("ALLOWED_ORIGINS", "cors.origins"),
    ("REDIS_URL", "redis.url"),
];

/// Names and their values, of the environment or of a file `.env`.
#[derive(Default)]
pub(super) struct Names {
    pub(super) values: BTreeMap<String, String>,
    /// The lines of the file; none for the environment.
    pub(super) lines: Option<BTreeMap<String, usize>>,
}

impl Names {
    pub(super) fn of_environment(values: &BTreeMap<String, String>) -> Self {
        Self {
            values: values.clone(),
            lines: None,
        }
    }

    pub(super) fn place(&self, name: &str) -> Place {
        let name = name.to_owned();
        match &self.lines {
            None => Place::Environment { name },
            Some(lines) => Place::Dotenv {
                line: lines.get(&name).copied().unwrap_or_default(),
                name,
            },
        }
    }
}

/// One source that names settings one by one, on its way into the tree.
pub(super) struct Layer<'a> {
    pub(super) tree: &'a mut Value,
    pub(super) known: &'a Value,
    pub(super) places: &'a mut BTreeMap<String, Place>,
}

impl Layer<'_> {
    pub(super) fn names(
        &mut self,
        names: &Names,
        warnings: &mut Vec<String>,
    ) -> Result<(), ConfigError> {
        self.host_and_port(names, warnings)?;
        for (alias, key) in ALIASES {
            if let Some(value) = names.values.get(alias) {
                self.set(key, value, names.place(alias))?;
            }
        }
        for (name, value) in &names.values {
            if let Some(key) = name.strip_prefix(PREFIX)
                && !NOT_SETTINGS.contains(&name.as_str())
                && !is_service_link(key, value)
            {
                let key = key.to_lowercase().replace("__", ".");
                self.set(&key, value, names.place(name))?;
            }
        }
        Ok(())
    }

    /// `HOST` and `PORT` each name one half of `server.listen`. Shells set `HOST` to the machine's name: that is no address.
    fn host_and_port(
        &mut self,
        names: &Names,
        warnings: &mut Vec<String>,
    ) -> Result<(), ConfigError> {
        let listen = self.tree["server"]["listen"].as_str().unwrap_or_default();
        let Some((mut host, mut port)) = listen
            .rsplit_once(':')
            .map(|(host, port)| (host.to_owned(), port.to_owned()))
        else {
            // What it is instead is told by its type.
            return Ok(());
        };
        let mut named = Vec::new();
        match names
            .values
            .get("HOST")
            .map(|host| host.parse::<std::net::IpAddr>().map_err(|_| host))
        {
            Some(Ok(address)) => {
                host = if address.is_ipv6() {
                    format!("[{address}]")
                } else {
                    address.to_string()
                };
                named.push("HOST");
            }
            Some(Err(name)) if name == "localhost" => {
                host = "127.0.0.1".into();
                named.push("HOST");
            }
            Some(Err(name)) => warnings.push(format!(
                "HOST is {name:?}, which is no address: it is ignored"
            )),
            None => {}
        }
        if let Some(value) = names.values.get("PORT") {
            let number = value.parse::<u16>().map_err(|_| ConfigError::Value {
                place: names.place("PORT").to_string(),
                key: "server.listen".into(),
                message: format!("{value:?} is no port: a number from 0 to 65535 was expected"),
            })?;
            port = number.to_string();
            named.push("PORT");
        }
        if let Some(first) = named.first() {
            let place = match names.place(first) {
                Place::Dotenv { line, .. } => Place::Dotenv {
                    line,
                    name: named.join(", "),
                },
                _ => Place::Environment {
                    name: named.join(", "),
                },
            };
            self.tree["server"]["listen"] = format!("{host}:{port}").into();
            self.places.insert("server.listen".into(), place);
        }
        Ok(())
    }

    /// Sets one key to a text, read as the kind of value that its default has; where there is no default it is text, and an
    /// empty one says nothing.
    pub(super) fn set(&mut self, key: &str, text: &str, place: Place) -> Result<(), ConfigError> {
        let pointer = format!("/{}", key.replace('.', "/"));
        let default = self
            .known
            .pointer(&pointer)
            .filter(|known| !known.is_object() && !key.contains(['/', '~']));
        let (Some(default), Some(slot)) = (default, self.tree.pointer_mut(&pointer)) else {
            return Err(self.unknown(key, place));
        };
        let wrong = |expected: &str| ConfigError::Value {
            place: place.to_string(),
            key: key.into(),
            message: if may_hold_secret(key) {
                format!("{expected} was expected")
            } else {
                format!("{text:?} is no {expected}")
            },
        };
        *slot = match default {
            Value::Null if text.is_empty() => return Ok(()),
            Value::Bool(_) => Value::Bool(text.parse().map_err(|_| wrong("true or false"))?),
            Value::Number(number) if number.is_f64() => {
                text.parse::<f64>().map_err(|_| wrong("number"))?.into()
            }
            Value::Number(_) => text
                .parse::<u64>()
                .map_err(|_| wrong("whole number"))?
                .into(),
            Value::Array(_) if is_list(text) => {
                yaml_serde::from_str(text).map_err(|_| wrong("list, as YAML or JSON"))?
            }
            Value::Array(_) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(Value::from)
                .collect(),
            _ => Value::String(text.to_owned()),
        };
        self.places.insert(key.to_owned(), place);
        Ok(())
    }

    fn unknown(&self, key: &str, place: Place) -> ConfigError {
        let near = nearest(key, &leaves(self.known, ""));
        let in_environment =
            |key: &str| format!("{PREFIX}{}", key.replace('.', "__").to_uppercase());
        let (place, written, near) = match place {
            Place::Environment { name } => (
                "environment".to_owned(),
                name,
                near.as_deref().map(in_environment),
            ),
            Place::Dotenv { line, name } => (
                format!("{DOTENV}, line {line}"),
                name,
                near.as_deref().map(in_environment),
            ),
            place => (place.to_string(), key.to_owned(), near),
        };
        ConfigError::Unknown {
            place,
            key: written,
            nearest: near,
        }
    }
}

/// Whether a list is written as YAML or JSON. An IPv6 address begins in the same way.
fn is_list(text: &str) -> bool {
    let address = |inside: &str| {
        let (address, _) = inside.split_once(']').unwrap_or((inside, ""));
        address.parse::<std::net::Ipv6Addr>().is_ok()
    };
    let inside = text.trim_start().strip_prefix('[');
    inside.is_some_and(|inside| !address(inside))
}

/// Whether Kubernetes put this into the environment, because a Service has a name like ours: `TIDEGATE_SERVICE_HOST`,
/// `TIDEGATE_PORT=tcp://…`, `TIDEGATE_PORT_8080_TCP_ADDR`. It is addressed to others.
fn is_service_link(key: &str, value: &str) -> bool {
    let port = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    key.contains("SERVICE_HOST")
        || key.contains("SERVICE_PORT")
        || key.ends_with("PORT")
            && ["tcp://", "udp://", "sctp://"]
                .iter()
                .any(|scheme| value.starts_with(scheme))
        || key.split_once("PORT_").is_some_and(|(_, rest)| port(rest))
}
