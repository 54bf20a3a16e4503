//! How long the store keeps events.

use crate::event::{EventId, Topic};

/// What is kept of one topic. The newest event stays until its age is over, however large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Number of events.
    pub events: usize,
    /// Bytes on the wire.
    pub bytes: usize,
    /// Milliseconds since the event was published.
    pub age_ms: u64,
}

impl Retention {
    /// Whether the oldest of `events` entries, `oldest`, has to go.
    pub fn exceeded(&self, events: usize, bytes: usize, oldest: EventId, now_ms: u64) -> bool {
        events > self.events.max(1)
            || (bytes > self.bytes && events > 1)
            || oldest.ms().saturating_add(self.age_ms) < now_ms
    }
}

/// A retention for the topics that begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRule {
    /// How the names of the topics begin.
    pub prefix: String,
    /// What is kept of each.
    pub retention: Retention,
}

/// The retention of every topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRules {
    default: Retention,
    rules: Vec<RetentionRule>,
}

impl RetentionRules {
    /// `default` for all topics but those of `rules`, of which the longest prefix wins.
    pub fn new(default: Retention, mut rules: Vec<RetentionRule>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        Self { default, rules }
    }

    /// What is kept of `topic`.
    pub fn of(&self, topic: &Topic) -> Retention {
        self.rules
            .iter()
            .find(|rule| topic.as_str().starts_with(&rule.prefix))
            .map_or(self.default, |rule| rule.retention)
    }

    /// What is kept of topics for which there is no rule.
    pub fn default_rule(&self) -> Retention {
        self.default
    }

    /// The rules for prefixes, the longest first.
    pub fn prefix_rules(&self) -> &[RetentionRule] {
        &self.rules
    }

    /// The shortest age of all.
    pub fn shortest_age_ms(&self) -> u64 {
        self.ages().min().unwrap_or(self.default.age_ms)
    }

    /// The longest age of all: ends and last ids outlive the events by it.
    pub fn longest_age_ms(&self) -> u64 {
        self.ages().max().unwrap_or(self.default.age_ms)
    }

    fn ages(&self) -> impl Iterator<Item = u64> {
        self.rules
            .iter()
            .map(|rule| rule.retention.age_ms)
            .chain([self.default.age_ms])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Retention = Retention {
        events: 3,
        bytes: 100,
        age_ms: 1_000,
    };

    #[test]
    fn each_limit_takes_the_oldest() {
        let oldest = EventId::new(5_000, 0);
        assert!(!KEEP.exceeded(3, 100, oldest, 6_000));
        assert!(KEEP.exceeded(4, 10, oldest, 5_000));
        assert!(KEEP.exceeded(2, 101, oldest, 5_000));
        assert!(KEEP.exceeded(1, 1, oldest, 6_001));
    }

    #[test]
    fn a_single_event_may_be_larger_than_the_budget() {
        assert!(!KEEP.exceeded(1, 1_000, EventId::new(5_000, 0), 5_000));
    }

    #[test]
    fn the_longest_prefix_wins() {
        let rule = |prefix: &str, events| RetentionRule {
            prefix: prefix.into(),
            retention: Retention { events, ..KEEP },
        };
        let rules = RetentionRules::new(KEEP, vec![rule("a/", 1), rule("a/b/", 2)]);
        let of = |topic: &str| rules.of(&topic.parse().expect("a topic")).events;
        assert_eq!((of("a/x"), of("a/b/x"), of("b")), (1, 2, 3));
    }
}
