//! A line for people: `moment LEVEL target: message name=value name="a value with spaces"`.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::{escape, secrets::Secrets, subscriber::is_of_log, timestamp};

const DIM: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

/// Appends the line of an event.
pub(super) fn push(
    out: &mut String,
    event: &Event<'_>,
    level: Level,
    target: &str,
    secrets: Option<&Secrets>,
    colours: bool,
) {
    let (dim, plain, colour) = if colours {
        (DIM, PLAIN, colour(level))
    } else {
        ("", "", "")
    };
    out.push_str(dim);
    timestamp::push(out, SystemTime::now());
    let _ = write!(out, "{plain} {colour}{:>5}{plain} {dim}", level.as_str());
    let _ = escape::Text(out).write_str(target);
    out.push(':');
    out.push_str(plain);
    event.record(&mut Line {
        out,
        dim,
        plain,
        secrets,
    });
    out.push('\n');
}

const fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[35m",
    }
}

struct Line<'a> {
    out: &'a mut String,
    dim: &'static str,
    plain: &'static str,
    secrets: Option<&'a Secrets>,
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if is_of_log(field) {
            return;
        }
        let out = &mut *self.out;
        out.push(' ');
        if field.name() == "message" {
            let begin = out.len();
            let _ = write!(escape::Text(out), "{value:?}");
            if let Some(secrets) = self.secrets {
                secrets.cut(out, begin);
            }
            return;
        }
        out.push_str(self.dim);
        out.push_str(field.name());
        out.push('=');
        out.push_str(self.plain);
        let begin = out.len();
        let _ = write!(escape::Quoted(out), "{value:?}");
        if let Some(secrets) = self.secrets {
            secrets.cut(out, begin);
        }
        // Without quotes a value with a space in it could pass for two fields.
        let bare = |byte: u8| byte.is_ascii_graphic() && !b"\"\\=".contains(&byte);
        if out.len() == begin || !out.as_bytes()[begin..].iter().all(|byte| bare(*byte)) {
            out.insert(begin, '"');
            out.push('"');
        }
    }
}
