//! How often something may happen.

use std::{fmt, time::Duration};

use serde::Deserialize;

/// `60/min burst 200`: so many in a time on average, so many at once after a silence. `off`: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<Allowance>);

/// The numbers of a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The time in which one more is earned.
    pub interval: Duration,
    /// How many may come at once.
    pub burst: u32,
    count: u32,
    unit: &'static str,
}

impl Rate {
    /// No limit.
    pub const OFF: Self = Self(None);

    /// The numbers; none where any number is allowed.
    pub const fn allowance(self) -> Option<Allowance> {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let rate = words.next()?;
        if rate == "off" {
            return words.next().is_none().then_some(Self::OFF);
        }
        let (count, unit) = rate.split_once('/')?;
        let count: u32 = count.parse().ok().filter(|count| *count > 0)?;
        let (time, unit) = match unit {
            "s" | "sec" | "second" => (Duration::from_secs(1), "s"),
            "min" | "minute" => (Duration::from_mins(1), "min"),
            "h" | "hour" => (Duration::from_hours(1), "h"),
            _ => return None,
        };
        let burst = match (words.next(), words.next(), words.next()) {
            (None, ..) => count,
            (Some("burst"), Some(burst), None) => burst.parse().ok().filter(|burst| *burst > 0)?,
            _ => return None,
        };
        let interval = (time / count).max(Duration::from_nanos(1));
        Some(Self(Some(Allowance {
            interval,
            burst,
            count,
            unit,
        })))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("off"),
            Some(it) => write!(f, "{}/{} burst {}", it.count, it.unit, it.burst),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // YAML 1.1 readers take `off` for false.
        let value = serde_json::Value::deserialize(deserializer)?;
        let text = match &value {
            serde_json::Value::Bool(false) => "off",
            serde_json::Value::String(text) => text,
            _ => "",
        };
        Self::parse(text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{value} is no rate: 60/min, 60/min burst 200 (also /s, /h) or off was expected"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_as_people_say_it() {
        let rate = |text| {
            let allowance = Rate::parse(text).and_then(Rate::allowance).expect("a rate");
            (allowance.interval.as_secs(), allowance.burst)
        };
        assert_eq!(rate("60/min burst 200"), (1, 200));
        assert_eq!(rate("1/h"), (3600, 1));
        assert_eq!(rate("1/s"), (1, 1));
        let shown = |text| Rate::parse(text).map(|rate| rate.to_string());
        assert_eq!(shown("60/minute"), Some("60/min burst 60".into()));
        assert_eq!(Rate::parse("off"), Some(Rate::OFF));
        for wrong in [
            "",
            "60",
            "60/day",
            "0/s",
            "-1/s",
            "1/s burst",
            "1/s burst 0",
            "1/s burst 2 3",
            "off off",
            "1/s bursts 3",
        ] {
            assert_eq!(Rate::parse(wrong), None, "{wrong}");
        }
    }
}
