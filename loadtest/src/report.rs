//! The table of figures: each with its goal, its spread over the rounds, and the raw figures behind it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::figures::{Summary, summary};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Stated, not judged.
    None,
}

impl Goal {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::None => None,
        }
    }

    /// A goal that the median misses while a round reached it is neither met nor missed on a machine like this one.
    fn verdict(self, of: Summary) -> &'static str {
        match (
            self.is_met(of.median),
            self.is_met(of.least),
            self.is_met(of.greatest),
        ) {
            (None, ..) => "-",
            (Some(true), ..) => "met",
            (_, Some(false), Some(false)) => "NOT MET",
            _ => "within spread",
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {}", figure(most, unit)),
            Self::AtLeast(least) => format!("≥ {}", figure(least, unit)),
            Self::None => "-".to_owned(),
        }
    }
}

/// One figure of one round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
    /// What the floor (or the other baseline) did, in `raw_unit`.
    pub(crate) floor: Option<f64>,
    /// What the server under test did, in `raw_unit`.
    pub(crate) tested: Option<f64>,
    pub(crate) raw_unit: &'static str,
    pub(crate) notes: Vec<String>,
}

impl Sample {
    /// A figure that is compared with nothing.
    pub(crate) fn alone(name: String, value: f64, unit: &'static str) -> Self {
        Self {
            name,
            value,
            unit,
            goal: Goal::None,
            floor: None,
            tested: None,
            raw_unit: "",
            notes: Vec::new(),
        }
    }
}

struct Row {
    first: Sample,
    values: Vec<f64>,
    floor: Vec<f64>,
    tested: Vec<f64>,
    notes: BTreeSet<String>,
}

/// All figures so far, in the order in which they were first measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    remarks: Vec<String>,
    broken: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, sample: Sample) {
        let place = self
            .rows
            .iter()
            .position(|row| row.first.name == sample.name);
        let row = match place {
            Some(place) => &mut self.rows[place],
            None => {
                self.rows.push(Row {
                    first: sample.clone(),
                    values: Vec::new(),
                    floor: Vec::new(),
                    tested: Vec::new(),
                    notes: BTreeSet::new(),
                });
                self.rows.last_mut().expect("a row was added")
            }
        };
        row.values.push(sample.value);
        row.floor.extend(sample.floor);
        row.tested.extend(sample.tested);
        row.notes.extend(sample.notes);
    }

    /// Says below the table what is too long for a cell.
    pub(crate) fn remark(&mut self, text: String) {
        self.remarks.push(text);
    }

    /// Notes a run that could not be carried through, or in which a stream was not what it must be.
    pub(crate) fn broke(&mut self, what: String) {
        self.broken.push(what);
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.broken.is_empty()
    }

    pub(crate) fn text(&self, tested: &str) -> String {
        let head = [
            "figure", "median", "spread", "goal", "met", "floor", tested, "notes",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        let widths: [usize; 8] = std::array::from_fn(|column| {
            let cells = lines.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or(0)
        });
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                let padded = if column == 7 {
                    cell.clone()
                } else {
                    format!("{cell:width$}")
                };
                let _to_memory = write!(text, "| {padded} ");
            }
            text.push_str("|\n");
            if number == 0 {
                for width in widths {
                    let _to_memory = write!(text, "|{}", "-".repeat(width + 2));
                }
                text.push_str("|\n");
            }
        }
        for remark in &self.remarks {
            let _to_memory = writeln!(text, "{remark}");
        }
        for broken in &self.broken {
            let _to_memory = writeln!(text, "BROKEN: {broken}");
        }
        text
    }

    pub(crate) fn write_json(&self, path: &Path, tested: &str) -> Result<()> {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let report = json!({ "tested": tested, "rows": rows, "remarks": self.remarks, "broken": self.broken });
        std::fs::write(path, format!("{report:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let Sample {
            name,
            unit,
            goal,
            raw_unit,
            ..
        } = &self.first;
        let of = summary(&self.values);
        let met = of.map_or("-", |of| goal.verdict(of));
        [
            name.clone(),
            of.map_or_else(String::new, |of| figure(of.median, unit)),
            of.map_or_else(String::new, |of| spread(of, unit)),
            goal.text(unit),
            met.to_owned(),
            raw(&self.floor, raw_unit),
            raw(&self.tested, raw_unit),
            self.notes.iter().cloned().collect::<Vec<_>>().join("; "),
        ]
    }

    fn json(&self) -> Value {
        let Sample {
            name,
            unit,
            goal,
            raw_unit,
            ..
        } = &self.first;
        let of = summary(&self.values);
        json!({
            "name": name,
            "unit": unit,
            "median": of.map(|of| of.median),
            "values": self.values,
            "goal": goal.text(unit),
            "met": of.and_then(|of| goal.is_met(of.median)),
            "raw_unit": raw_unit,
            "floor": self.floor,
            "tested": self.tested,
            "notes": self.notes,
        })
    }
}

fn spread(of: Summary, unit: &str) -> String {
    format!("{} - {}", figure(of.least, unit), figure(of.greatest, unit))
}

fn raw(values: &[f64], unit: &str) -> String {
    summary(values).map_or_else(|| "-".to_owned(), |of| figure(of.median, unit))
}

/// A number with three digits that matter, large ones with their thousands apart.
fn figure(number: f64, unit: &str) -> String {
    let digits = match number.abs() {
        small if small < 10.0 => 2,
        middle if middle < 100.0 => 1,
        _ => 0,
    };
    let plain = format!("{number:.digits$}");
    let (whole, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut text = String::new();
    for (place, digit) in whole.char_indices() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    let space = if matches!(unit, "×" | "%" | "") {
        ""
    } else {
        " "
    };
    format!("{text}{rest}{space}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(figure(1.234, "×"), "1.23×");
        assert_eq!(figure(12_345_678.9, "/s"), "12,345,679 /s");
        assert_eq!(figure(-123.4, "B"), "-123 B");
        assert_eq!(figure(-1_234.0, "B"), "-1,234 B");
    }

    #[test]
    fn a_row_says_median_spread_and_whether_the_goal_is_met() {
        let mut report = Report::default();
        for value in [1.1, 1.3, 1.0] {
            report.add(Sample {
                name: "CPU".to_owned(),
                value,
                unit: "×",
                goal: Goal::AtMost(1.2),
                floor: Some(2.0),
                tested: Some(2.0 * value),
                raw_unit: "µs",
                notes: Vec::new(),
            });
        }
        let text = report.text("gateway");
        let row = text.lines().last().expect("a row");
        assert_eq!(
            row.split('|').map(str::trim).collect::<Vec<_>>(),
            [
                "",
                "CPU",
                "1.10×",
                "1.00× - 1.30×",
                "≤ 1.20×",
                "met",
                "2.00 µs",
                "2.20 µs",
                "",
                ""
            ]
        );
    }
}
