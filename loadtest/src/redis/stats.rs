//! What Redis says of itself (`INFO`).

use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// How often each command was executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commands(BTreeMap<String, u64>);

impl Commands {
    /// Reads `INFO commandstats`.
    pub(super) fn read(info: &str) -> Self {
        let calls = info.lines().filter_map(|line| {
            let (name, values) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = values.split(',').next()?.parse().ok()?;
            Some((name.to_owned(), calls))
        });
        Self(calls.collect())
    }

    /// What came since an earlier reading, without the question for that reading.
    pub(super) fn since(mut self, earlier: &Self) -> Self {
        for (name, calls) in &mut self.0 {
            *calls -= earlier.of(name).min(*calls);
        }
        if let Some(own) = self.0.get_mut("info") {
            *own = own.saturating_sub(1);
        }
        self.0.retain(|_, calls| *calls > 0);
        self
    }

    /// How often this one.
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.values().sum()
    }
}

impl Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, calls)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{name} {calls}")?;
        }
        Ok(())
    }
}

/// The number of one field.
pub(crate) fn field(info: &str, name: &str) -> Option<u64> {
    let value = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_counted_between_two_readings() {
        let earlier =
            Commands::read("# Commandstats\r\ncmdstat_get:calls=2,usec=9,rejected_calls=0\r\n");
        let later = Commands::read(
            "cmdstat_get:calls=2,usec=9\r\ncmdstat_config|get:calls=3,usec=1\r\ncmdstat_info:calls=1,usec=5\r\n\
             cmdstat_xadd:calls=40,usec=9\r\n",
        );
        let between = later.since(&earlier);
        assert_eq!(between.to_string(), "config|get 3, xadd 40");
        assert_eq!(
            (between.of("xadd"), between.of("get"), between.sum()),
            (40, 0, 43)
        );
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let info = "# Memory\r\nused_memory_rss:9\r\nused_memory:1048576\r\n";
        assert_eq!(field(info, "used_memory"), Some(1_048_576));
        assert_eq!(field(info, "memory"), None);
    }
}
