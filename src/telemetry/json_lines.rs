//! Log lines as JSON, one object a line: `timestamp`, `level`, `message`, the fields of the event, `target`.
//!
//! The formatter of `tracing-subscriber` goes through serde maps and spans and takes four times as long, which a line for
//! each request would feel.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// See the module.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now =
            humantime_serde::re::humantime::format_rfc3339_micros(std::time::SystemTime::now());
        let mut line = Line(String::with_capacity(384));
        write!(
            line.0,
            "{{\"timestamp\":\"{now}\",\"level\":\"{}\"",
            event.metadata().level()
        )?;
        event.record(&mut line);
        line.text("target", event.metadata().target());
        line.0.push_str("}\n");
        writer.write_str(&line.0)
    }
}

struct Line(String);

impl Line {
    fn name(&mut self, name: &str) {
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.push('"');
        let _ = Escaped(&mut self.0).write_str(value);
        self.0.push('"');
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field.name());
        let _ = write!(self.0, "{value}");
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field.name());
        let _ = write!(self.0, "{value}");
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field.name());
        let _ = write!(self.0, "{value}");
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field.name());
        // JSON has no word for what is not a number.
        let _ = if value.is_finite() {
            write!(self.0, "{value}")
        } else {
            write!(self.0, "null")
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field.name());
        self.0.push('"');
        let _ = write!(Escaped(&mut self.0), "{value:?}");
        self.0.push('"');
    }
}

/// Escapes what is written through it as the inside of a JSON string (RFC 8259, 7), so that nobody can forge a line.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest
            .bytes()
            .position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\')
        {
            self.0.push_str(&rest[..at]);
            match rest.as_bytes()[at] {
                b'"' => self.0.push_str("\\\""),
                b'\\' => self.0.push_str("\\\\"),
                b'\n' => self.0.push_str("\\n"),
                byte => write!(self.0, "\\u{byte:04x}")?,
            }
            rest = &rest[at + 1..];
        }
        self.0.push_str(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_logged_stays_one_line_of_json() {
        let mut line = String::from("\"");
        Escaped(&mut line)
            .write_str("a\"b\\c\r\n\u{1}\u{2028}é")
            .expect("written");
        line.push('"');
        assert!(!line.contains(['\n', '\r']));
        let read: String = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read, "a\"b\\c\r\n\u{1}\u{2028}é");
    }
}
