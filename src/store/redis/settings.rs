//! The settings of the deployment that the functions need, and whether this replica has written what it was told.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    log::{Retention, RetentionRules},
    store::Keep,
};

/// Numbers that a double holds exactly; beyond it a limit is none.
const EXACT: u64 = 1 << 53;

/// What this replica wants to be kept.
pub(super) struct Settings(Mutex<State>);

struct State {
    retention: Arc<str>,
    limits: Arc<str>,
    /// How often they were set.
    number: u64,
    /// The number of those that were written last.
    written: u64,
}

/// The settings at one moment.
pub(super) struct Now {
    /// JSON.
    pub(super) retention: Arc<str>,
    /// JSON.
    pub(super) limits: Arc<str>,
    pub(super) number: u64,
    /// This replica has not written them yet.
    pub(super) unwritten: bool,
}

impl Settings {
    pub(super) fn new(keep: &Keep) -> Self {
        Self(Mutex::new(State {
            retention: retention_json(&keep.retention).into(),
            limits: limits_json(keep.event_bytes, keep.idempotency_window).into(),
            number: 1,
            written: 0,
        }))
    }

    /// Others take their place. Where they say the same there is nothing to write: what another replica wrote meanwhile stays.
    pub(super) fn set(&self, keep: &Keep) {
        let retention = retention_json(&keep.retention);
        let limits = limits_json(keep.event_bytes, keep.idempotency_window);
        let mut state = self.0.lock();
        if *state.retention != *retention || *state.limits != *limits {
            state.retention = retention.into();
            state.limits = limits.into();
            state.number += 1;
        }
    }

    pub(super) fn now(&self) -> Now {
        let state = self.0.lock();
        Now {
            retention: state.retention.clone(),
            limits: state.limits.clone(),
            number: state.number,
            unwritten: state.written < state.number,
        }
    }

    /// Those of this number have been written.
    pub(super) fn written(&self, number: u64) {
        let mut state = self.0.lock();
        state.written = state.written.max(number);
    }

    /// Whether something has to be written.
    pub(super) fn are_unwritten(&self) -> bool {
        let state = self.0.lock();
        state.written < state.number
    }
}

fn limits_json(event_bytes: usize, idempotency_window: Duration) -> String {
    serde_json::json!({
        "event_bytes": event_bytes,
        "idempotency_window": u64::try_from(idempotency_window.as_millis()).unwrap_or(u64::MAX),
    })
    .to_string()
}

/// The rules, as the functions read them.
fn retention_json(retention: &RetentionRules) -> String {
    let mut json = String::from("{");
    keep(&mut json, retention.default_rule());
    json.push_str(",\"rules\":[");
    for (at, rule) in retention.prefix_rules().iter().enumerate() {
        let prefix = serde_json::to_string(&rule.prefix).expect("a text is JSON");
        let _ = write!(
            json,
            "{}{{\"prefix\":{prefix},",
            if at > 0 { "," } else { "" }
        );
        keep(&mut json, rule.retention);
        json.push('}');
    }
    json.push_str("]}");
    json
}

fn keep(json: &mut String, retention: Retention) {
    let exact = |number: u64| number.min(EXACT);
    let (events, bytes) = (retention.events as u64, retention.bytes as u64);
    let _ = write!(
        json,
        "\"events\":{},\"bytes\":{},\"age\":{}",
        exact(events.max(1)),
        exact(bytes),
        // Redis wants to add it to the time of day.
        retention.age_ms.min(1 << 45)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(events: usize) -> Keep {
        let retention = Retention {
            events,
            bytes: usize::MAX,
            age_ms: 1_000,
        };
        Keep {
            retention: RetentionRules::new(retention, Vec::new()),
            total_bytes: usize::MAX,
            idempotency_window: Duration::from_secs(1),
            event_bytes: 1_000,
        }
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_again() {
        let settings = Settings::new(&keep(1));
        let first = settings.now();
        assert!(first.unwritten);
        settings.set(&keep(2));
        settings.written(first.number);
        let second = settings.now();
        assert!(second.unwritten && second.retention.contains("\"events\":2"));
        settings.written(second.number);
        settings.written(first.number);
        assert!(!settings.are_unwritten());
    }

    #[test]
    fn what_stays_the_same_is_not_written_again() {
        let settings = Settings::new(&keep(1));
        settings.written(settings.now().number);
        settings.set(&keep(1));
        assert!(!settings.are_unwritten());
    }
}
