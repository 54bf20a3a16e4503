//! A line as JSON: one object with `timestamp`, `level`, `message`, the fields of the event, `target`.
//!
//! The formatter of `tracing-subscriber` goes through serde maps and spans and takes four times as long, which a line for
//! each request would feel.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::{escape, secrets::Secrets, subscriber::is_of_log, timestamp};

/// Appends the line of an event.
pub(super) fn push(
    out: &mut String,
    event: &Event<'_>,
    level: Level,
    target: &str,
    secrets: Option<&Secrets>,
) {
    out.push_str("{\"timestamp\":\"");
    timestamp::push(out, SystemTime::now());
    out.push_str("\",\"level\":\"");
    out.push_str(level.as_str());
    out.push('"');
    let mut line = Line { out, secrets };
    event.record(&mut line);
    line.text("target", target);
    out.push_str("}\n");
}

struct Line<'a> {
    out: &'a mut String,
    secrets: Option<&'a Secrets>,
}

impl Line<'_> {
    fn name(&mut self, name: &str) {
        self.out.push_str(",\"");
        self.out.push_str(name);
        self.out.push_str("\":");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.quoted(|out| out.write_str(value));
    }

    fn quoted(&mut self, write: impl FnOnce(&mut escape::Json<'_>) -> fmt::Result) {
        self.out.push('"');
        let begin = self.out.len();
        let _ = write(&mut escape::Json(self.out));
        if let Some(secrets) = self.secrets {
            secrets.cut(self.out, begin);
        }
        self.out.push('"');
    }

    fn number(&mut self, field: &Field, value: impl fmt::Display) {
        if !is_of_log(field) {
            self.name(field.name());
            let _ = write!(self.out, "{value}");
        }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !is_of_log(field) {
            self.text(field.name(), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.number(field, value);
        } else {
            // JSON has no word for what is not a number.
            self.number(field, "null");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if is_of_log(field) {
            return;
        }
        self.name(field.name());
        self.quoted(|out| write!(out, "{value:?}"));
    }
}
