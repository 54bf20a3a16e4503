//! What tests of the edge say often: who asks, what the log says, and settings that change while the gateway runs.

use serde_json::Value;

use super::{Gateway, Request, Response, Settings, Subscription, eventually, replace};

/// The file of settings that [`Settings::config`] writes.
const FILE: &str = "tidegate.yaml";

impl Settings {
    /// Puts YAML into the file of settings; what the environment says wins.
    pub(crate) fn config(self, yaml: &str) -> Self {
        self.file(FILE, yaml).env("TIDEGATE_CONFIG", FILE)
    }
}

impl Request {
    /// Shows a token.
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// As `EventSource` asks for a stream.
    pub(crate) fn event_source(target: &str) -> Self {
        Self::get(target).header("Accept", "text/event-stream")
    }
}

impl Subscription {
    /// Shows a token.
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }
}

/// A refusal that an `EventSource` survives.
pub(crate) struct Survivable {
    /// Milliseconds after which the browser comes back.
    pub(crate) retry: u64,
    /// The cursor that it was given back.
    pub(crate) id: Option<String>,
    /// What was wrong.
    pub(crate) problem: Value,
}

impl Response {
    /// Asserts that this is a refusal as a stream of one frame.
    pub(crate) fn refuses_as_stream(&self, code: &str) -> Survivable {
        assert_eq!(self.status(), 200, "wanted a stream for {code}: {self:?}");
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        assert_eq!(self.header("tidegate-refused"), Some(code), "{self:?}");
        let text = self.text();
        let mut survivable = Survivable {
            retry: 0,
            id: None,
            problem: Value::Null,
        };
        let frame = text.strip_suffix("\n\n").unwrap();
        let mut event = "";
        for line in frame.lines() {
            let (field, value) = line.split_once(": ").unwrap();
            match field {
                "retry" => survivable.retry = value.parse().unwrap(),
                "id" => survivable.id = Some(value.to_owned()),
                "event" => event = value,
                "data" => survivable.problem = serde_json::from_str(value).unwrap(),
                _ => panic!("{field} in {text}"),
            }
        }
        assert_eq!(event, "$refused", "{text}");
        assert_eq!(survivable.problem["code"], code, "{text}");
        assert!(survivable.retry > 0, "{text}");
        survivable
    }

    /// Asserts that credentials were not accepted; `shown` is whether there were any (RFC 6750, 3).
    pub(crate) fn challenges(&self, shown: bool) {
        self.refuses(401, "unauthorized");
        let challenge = self.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Bearer"), "{self:?}");
        let says = challenge.contains(r#"error="invalid_token""#);
        assert_eq!(says, shown, "{self:?}");
    }
}

impl Gateway {
    /// Writes the file of settings anew, and waits until it holds.
    pub(crate) async fn reload(&self, yaml: &str) {
        self.reloads(yaml).await;
    }

    /// The same, and what was said of it.
    pub(crate) async fn reloads(&self, yaml: &str) -> Value {
        replace(&self.home().join(FILE), yaml);
        let request = Request::new("POST", "/admin/reload-config");
        let answer = self.ask_admin(request).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.json()
    }

    /// The line of the log that has these fields.
    pub(crate) async fn logged(&self, fields: &[(&str, &str)]) -> Value {
        eventually(format!("a log line with {fields:?}"), async || {
            let said = self.said();
            let found = lines(&said).find(|line| fits(line, fields));
            found.ok_or_else(|| format!("only\n{said}"))
        })
        .await
    }

    /// How many lines of the log have these fields by now.
    pub(crate) fn times_logged(&self, fields: &[(&str, &str)]) -> usize {
        let said = self.said();
        lines(&said).filter(|line| fits(line, fields)).count()
    }

    /// The value of a metric with these labels, zero where there is none; `labels` as in `reason="gone"`.
    pub(crate) async fn counted(&self, name: &str, labels: &[&str]) -> f64 {
        sum(&self.get_admin("/metrics").await.text(), name, labels)
    }

    /// Waits until a metric with these labels is `wanted`.
    pub(crate) async fn counts(&self, name: &str, labels: &[&str], wanted: u32) {
        eventually(format!("{wanted} {name} {labels:?}"), async || {
            let count = self.counted(name, labels).await;
            if (count - f64::from(wanted)).abs() < 0.5 {
                Ok(())
            } else {
                Err(count.to_string())
            }
        })
        .await;
    }
}

/// The value of a metric with these labels on a page of metrics.
pub(super) fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    let mut sum = 0.0;
    for line in page.lines() {
        let Some((set, value)) = line.strip_prefix(name).and_then(|it| it.rsplit_once(' ')) else {
            continue;
        };
        let named = set.is_empty() || set.starts_with('{');
        if named && labels.iter().all(|label| set.contains(label)) {
            sum += value.parse::<f64>().unwrap();
        }
    }
    sum
}

fn lines(said: &str) -> impl Iterator<Item = Value> {
    said.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

fn fits(line: &Value, fields: &[(&str, &str)]) -> bool {
    fields.iter().all(|(name, wanted)| match &line[*name] {
        Value::String(text) => text == wanted,
        Value::Null => false,
        other => serde_json::from_str(wanted).is_ok_and(|wanted: Value| *other == wanted),
    })
}
