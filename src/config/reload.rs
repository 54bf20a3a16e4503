//! What becomes of running settings when others have been read. Pure: who asks for it, and what follows, is elsewhere.

use serde::Serialize;
use serde_json::Value;

use super::{
    ConfigError, Settings,
    source::{KNOWN, leaves},
};

/// What is read at the start only: a key, or all that it holds. Everything else takes effect at once.
pub const NEEDS_RESTART: [&str; 14] = [
    "server.listen",
    "server.tls",
    "admin.listen",
    "tail",
    "publish.timeout",
    "store",
    "redis",
    "feed",
    "ingest",
    "presence.enabled",
    "log.format",
    "log.file",
    "log.rotate",
    "traces",
];
/// Of these only that it is there at all: a listener speaks TLS or does not, but its files may be others.
const ONLY_PRESENCE: &str = "server.tls";

/// A setting whose value is another now. Secrets are `***`, here as everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which.
    pub key: String,
    /// What it was.
    pub from: Value,
    /// What it is, or would be.
    pub to: Value,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What took effect.
    pub applied: Vec<Change>,
    /// What is as it was until a restart.
    pub restart: Vec<Change>,
    /// What was passed over, or is hardly meant.
    pub warnings: Vec<String>,
}

/// The settings after `running`, when `fresh` was read.
///
/// # Errors
/// When `fresh` is not valid together with what needs a restart, and so stays as it is.
pub fn next(running: &Settings, fresh: Settings) -> Result<(Settings, Report), ConfigError> {
    let mut report = Report::default();
    let mut kept = Vec::new();
    for key in leaves(&KNOWN, "") {
        let (from, to) = (running.value(&key), fresh.value(&key));
        if from == to {
            continue;
        }
        let change = Change {
            from: running.shown(&key),
            to: fresh.shown(&key),
            key: key.clone(),
        };
        if waits(&key, from, to) {
            report.restart.push(change);
            kept.push(key);
        } else {
            report.applied.push(change);
        }
    }
    let next = if kept.is_empty() {
        fresh
    } else {
        fresh.keeping(running, &kept)?
    };
    report.warnings = next.warnings().to_vec();
    Ok((next, report))
}

fn waits(key: &str, from: &Value, to: &Value) -> bool {
    let holds = |section: &&&str| {
        let rest = key.strip_prefix(**section);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match NEEDS_RESTART.iter().find(holds) {
        Some(&ONLY_PRESENCE) => from.is_null() != to.is_null(),
        found => found.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn settings(yaml: &str) -> Settings {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), yaml).expect("written");
        Settings::load(&Sources {
            file: Some(file.path().to_owned()),
            ..Sources::default()
        })
        .unwrap_or_else(|error| panic!("{yaml}: {error}"))
    }

    fn keys(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn what_can_takes_effect_and_what_cannot_is_told() {
        let running = settings("stream: {keepalive: 5s}\nredis: {prefix: a}\n");
        let fresh = settings(
            "stream: {keepalive: 7s}\nredis: {prefix: b}\nserver: {listen: '127.0.0.1:1'}\n",
        );
        let (next, report) = next(&running, fresh).expect("valid");
        assert_eq!(keys(&report.applied), ["stream.keepalive"]);
        assert_eq!(report.applied[0].from, "5s");
        assert_eq!(report.applied[0].to, "7s");
        assert_eq!(keys(&report.restart), ["redis.prefix", "server.listen"]);
        let config = next.config();
        assert_eq!(config.stream.keepalive.as_secs(), 7);
        assert_eq!(config.redis.prefix, "a");
        assert_eq!(config.server.listen.port(), 8080);
        let of = |key: &str| {
            let list = next.list();
            let setting = list.iter().find(|setting| setting.key == key);
            setting.expect("a setting").source
        };
        assert_eq!(
            (of("redis.prefix"), of("server.listen")),
            ("file", "default")
        );
    }

    #[test]
    fn nothing_new_is_nothing_to_do() {
        let yaml = "auth: {jwt: {secret: short}}\nlimits: {connections: 5}\n";
        let (next, report) = next(&settings(yaml), settings(yaml)).expect("valid");
        assert_eq!((report.applied.len(), report.restart.len()), (0, 0));
        assert_eq!(report.warnings.len(), 1);
        assert_eq!(next.config().limits.connections, 5);
    }

    #[test]
    fn secrets_are_hidden_in_a_report() {
        let running = settings(
            "auth: {jwt: {secret: s3cret-a}}\nredis: {url: 'redis://:s3cret@a', password: s3cret-b}\n",
        );
        let fresh = settings(
            "auth: {jwt: {secret: s3cret-c}, tokens: [{name: n, token: s3cret-s3cret-s3cret}]}\n",
        );
        let (_, report) = next(&running, fresh).expect("valid");
        assert_eq!(keys(&report.applied), ["auth.jwt.secret", "auth.tokens"]);
        assert_eq!(
            keys(&report.restart),
            ["redis.password", "redis.url", "store"]
        );
        let shown = serde_json::to_string(&report).expect("JSON");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn tls_is_turned_on_by_a_restart_and_changes_its_files_without() {
        let off = settings("");
        let on = |name: &str| {
            settings(&format!(
                "server: {{tls: {{certificate: {name}.pem, key: {name}.key}}}}"
            ))
        };
        let report = |from: &Settings, to| next(from, to).expect("valid").1;
        let tls = ["server.tls.certificate", "server.tls.key"];
        assert_eq!(keys(&report(&off, on("a")).restart), tls);
        assert_eq!(keys(&report(&on("a"), settings("")).restart), tls);
        assert_eq!(keys(&report(&on("a"), on("b")).applied), tls);
    }

    /// Alone the new settings are safe, with the address that stays they are not.
    #[test]
    fn what_comes_together_is_checked_together() {
        let running =
            settings("server: {listen: '0.0.0.0:8080'}\nauth: {anonymous: [subscribe]}\n");
        let error = next(&running, settings(""))
            .map(drop)
            .expect_err("open to all");
        assert!(matches!(error, ConfigError::Exposed { .. }), "{error}");
    }

    /// A warning that the settings as they stay call for is told once.
    #[test]
    fn warnings_are_those_of_what_is_in_force() {
        let running = settings("");
        let fresh = settings("store: memory\nredis: {url: 'redis://a'}\n");
        assert_eq!(fresh.warnings().len(), 1);
        let (next, report) = next(&running, fresh).expect("valid");
        assert_eq!(keys(&report.restart), ["redis.url"]);
        assert!(next.warnings().is_empty() && report.warnings.is_empty());
    }

    #[test]
    fn every_entry_of_the_list_is_a_setting() {
        let known = leaves(&KNOWN, "");
        for entry in NEEDS_RESTART {
            let holds = |key: &String| {
                waits(key, &Value::Null, &Value::Bool(true)) && key.starts_with(entry)
            };
            assert!(known.iter().any(holds), "{entry}");
        }
    }
}
