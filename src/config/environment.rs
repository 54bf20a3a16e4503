//! Sources that name settings one by one: the environment, a file `.env`, flags.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ConfigError, nearest::nearest, source::leaves};

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

/// One source that names settings one by one.
pub(super) struct Layer<'a> {
    pub(super) tree: &'a mut Value,
    pub(super) known: &'a Value,
    pub(super) places: &'a mut BTreeMap<String, String>,
    pub(super) place: &'static str,
}

impl Layer<'_> {
    pub(super) fn environment(
        &mut self,
        environment: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ConfigError> {
        self.host_and_port(environment, warnings)?;
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

    /// Sets one key to a text, read as the kind of value that its default has; where there is no default it is text, and an
    /// empty one says nothing. `name` is how it was written.
    pub(super) fn set(&mut self, key: &str, text: &str, name: &str) -> Result<(), ConfigError> {
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
            Value::Null if text.is_empty() => return Ok(()),
            Value::Bool(_) => Value::Bool(text.parse().map_err(|_| wrong("true or false"))?),
            Value::Number(number) if number.is_f64() => {
                text.parse::<f64>().map_err(|_| wrong("number"))?.into()
            }
            Value::Number(_) => text
                .parse::<u64>()
                .map_err(|_| wrong("whole number"))?
                .into(),
            Value::Array(_) if text.trim_start().starts_with('[') => {
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
        || key.ends_with("PORT")
            && ["tcp://", "udp://", "sctp://"]
                .iter()
                .any(|scheme| value.starts_with(scheme))
        || key.split_once("PORT_").is_some_and(|(_, rest)| port(rest))
}
