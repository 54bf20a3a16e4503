//! Takes events from `tracing`: whether they are said, in which format, to which queue.
//!
//! Spans are of no use here: a request's lines name it by its id, and its trace is kept elsewhere.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use tracing::{
    Event, Level, Metadata, Subscriber, field::Field, level_filters::LevelFilter, span,
    subscriber::Interest,
};
use tracing_log::{AsLog, NormalizeEvent};

use super::{
    json,
    queue::{Kind, Queue, Room},
    secrets::Secrets,
    text,
    writer::Waker,
};
use crate::config::LogLevel;

/// What a thread keeps of its last line, so that the next one needs no allocation.
const KEPT_BYTES: usize = 16 * 1024;

thread_local! {
    // Taken while it is used: what is logged while a line is being written gets one of its own.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    Json,
    Text { colours: bool },
}

/// Where lines go.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) main: Arc<Queue>,
    pub(super) access: Arc<Queue>,
    pub(super) audit: Arc<Queue>,
    /// Where the warnings and errors of the main log go once more.
    pub(super) errors: Option<Arc<Queue>>,
}

impl Route {
    /// All lines in one queue, in the order in which they come.
    pub(super) fn together(queue: &Arc<Queue>) -> Self {
        Self {
            main: queue.clone(),
            access: queue.clone(),
            audit: queue.clone(),
            errors: None,
        }
    }
}

/// What is said at the moment.
#[derive(Debug)]
pub(super) struct Rules {
    format: Format,
    level: ArcSwap<LogLevel>,
    secrets: ArcSwap<Secrets>,
    pub(super) access: AtomicBool,
    pub(super) audit: AtomicBool,
}

impl Rules {
    pub(super) fn new(format: Format, level: LogLevel, access: bool, audit: bool) -> Self {
        Self {
            format,
            secrets: ArcSwap::default(),
            level: ArcSwap::from_pointee(level),
            access: AtomicBool::new(access),
            audit: AtomicBool::new(audit),
        }
    }

    pub(super) fn level(&self) -> Arc<LogLevel> {
        self.level.load_full()
    }

    pub(super) fn set_level(&self, level: LogLevel) {
        self.level.store(Arc::new(level));
        self.apply();
    }

    pub(super) fn set_secrets<'a>(&self, secrets: impl Iterator<Item = &'a str>) {
        let secrets = Secrets::new(secrets, self.format);
        self.secrets.store(Arc::new(secrets));
    }

    /// Every place that logs remembers whether it may; now each asks again.
    pub(super) fn apply(&self) {
        tracing::callsite::rebuild_interest_cache();
        tracing_log::log::set_max_level(self.level.load().most().as_log());
    }

    fn say(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && match kind(metadata.target()) {
                Kind::Access => self.access.load(Ordering::Relaxed),
                Kind::Audit => self.audit.load(Ordering::Relaxed),
                Kind::Main => *metadata.level() <= self.level.load().of(metadata.target()),
            }
    }
}

fn kind(target: &str) -> Kind {
    match target {
        "access" => Kind::Access,
        "audit" => Kind::Audit,
        _ => Kind::Main,
    }
}

/// Fields by which the crate `log` says where a record comes from; the line has it as its target.
pub(super) fn is_of_log(field: &Field) -> bool {
    field.name().starts_with("log.")
}

/// See the module.
pub(super) struct LogSubscriber {
    rules: Arc<Rules>,
    route: Route,
    waker: Arc<Waker>,
}

impl LogSubscriber {
    pub(super) fn new(rules: Arc<Rules>, route: Route, waker: Arc<Waker>) -> Self {
        Self {
            rules,
            route,
            waker,
        }
    }

    fn write(&self, event: &Event<'_>, level: Level, target: &str) {
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        let kind = kind(target);
        let secrets = (kind != Kind::Access).then(|| self.rules.secrets.load());
        let secrets = secrets.as_deref().map(|secrets| &**secrets);
        match self.rules.format {
            Format::Json => json::push(&mut line, event, level, target, secrets),
            Format::Text { colours } => {
                text::push(&mut line, event, level, target, secrets, colours);
            }
        }
        let queue = match kind {
            Kind::Main => &self.route.main,
            Kind::Access => &self.route.access,
            Kind::Audit => &self.route.audit,
        };
        queue.push(&line, kind, Room::of(kind));
        if let Some(errors) = &self.route.errors
            && kind == Kind::Main
            && level <= Level::WARN
        {
            errors.push(&line, kind, Room::of(kind));
        }
        self.waker.wake();
        if line.capacity() <= KEPT_BYTES {
            line.clear();
            let _ = LINE.try_with(|kept| kept.set(line));
        }
    }
}

impl Subscriber for LogSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.rules.say(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.rules.say(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Access and audit lines are said at INFO, whatever the main log says.
        Some(self.rules.level.load().most().max(LevelFilter::INFO))
    }

    fn event(&self, event: &Event<'_>) {
        match event.normalized_metadata() {
            Some(of_log) => self.write(event, *of_log.level(), of_log.target()),
            None => {
                let metadata = event.metadata();
                self.write(event, *metadata.level(), metadata.target());
            }
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logs::LogHandle;

    fn log(format: Format, level: &str) -> (LogSubscriber, LogHandle, Arc<Queue>) {
        let queue = Arc::new(Queue::default());
        let waker = Arc::new(Waker::default());
        let level = level.parse().expect("a level");
        let rules = Arc::new(Rules::new(format, level, true, true));
        rules.set_secrets(["s3cret-token"].into_iter());
        let handle = LogHandle {
            rules: rules.clone(),
            waker: waker.clone(),
        };
        let route = Route::together(&queue);
        (LogSubscriber::new(rules, route, waker), handle, queue)
    }

    fn lines(queue: &Queue) -> Vec<String> {
        let mut bytes = Vec::new();
        queue.take(&mut bytes);
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_level_changes_while_it_runs_and_leaves_access_and_audit_alone() {
        let (subscriber, handle, queue) = log(Format::Json, "info");
        tracing::subscriber::with_default(subscriber, || {
            let say = || {
                tracing::debug!("debug");
                tracing::warn!("warn");
                tracing::info!(target: "access", "access");
                tracing::info!(target: "audit", "audit");
                let lines = lines(&queue);
                let message = |line: &String| {
                    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                    line["message"].as_str().expect("a message").to_owned()
                };
                lines.iter().map(message).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(say(), "warn access audit");
            handle.set_level("debug").expect("a level");
            assert_eq!(
                (say(), handle.level()),
                ("debug warn access audit".into(), "debug".into())
            );
            handle.set_level("off").expect("a level");
            assert_eq!(say(), "access audit");
            handle
                .set_level("info,tidegate::telemetry=error")
                .expect("levels");
            assert_eq!(say(), "access audit");
            let error = handle.set_level("loud").expect_err("no level");
            assert!(error.to_string().contains("debug, trace"), "{error}");
            assert_eq!(handle.level(), "info,tidegate::telemetry=error");
            handle.set_access(false);
            assert_eq!(say(), "audit");
            handle.set_audit(false);
            assert_eq!(say(), "");
            handle.set_access(true);
            assert_eq!(say(), "access");
        });
    }

    #[test]
    fn a_line_of_json_is_one_object_whatever_its_values_are() {
        let (subscriber, _handle, queue) = log(Format::Json, "info");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "access", id = "a\r\n{\"b\":1}\u{1b}[2J", number = -3, float = f64::NAN, code = Option::<&str>::None, shown = %"x\ny", "request\n");
        });
        let lines = lines(&queue);
        let [line] = &*lines else { panic!("{lines:?}") };
        assert!(!line.contains(char::is_control), "{line:?}");
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let fields = line.as_object().expect("an object");
        let names: Vec<_> = fields.keys().map(String::as_str).collect();
        for name in ["timestamp", "level", "message", "target"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert_eq!(line["id"], "a\r\n{\"b\":1}\u{1b}[2J");
        assert_eq!(line["message"], "request\n");
        assert_eq!(
            (&line["number"], &line["shown"]),
            (&(-3).into(), &"x\ny".into())
        );
        assert!(line["float"].is_null() && line.get("code").is_none());
    }

    #[test]
    fn a_line_of_text_is_one_line_and_a_value_is_one_value() {
        let (subscriber, _handle, queue) = log(Format::Text { colours: false }, "info");
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "audit", plain = "127.0.0.1:80", empty = "", forged = "x status=200", nasty = "\u{1b}[2J\r\nWARN", n = 3_u64, "two\r\nlines");
        });
        let lines = lines(&queue);
        let [line] = &*lines else { panic!("{lines:?}") };
        let (moment, rest) = line.split_once(' ').expect("a moment");
        assert_eq!(moment.len(), "2026-11-21T11:22:57.123456Z".len(), "{line}");
        assert_eq!(
            rest,
            r#" WARN audit: two\r\nlines plain=127.0.0.1:80 empty="" forged="x status=200" nasty="\u{1b}[2J\r\nWARN" n=3"#
        );
    }

    #[test]
    fn a_secret_is_cut_out_of_a_value_and_the_line_stays_what_it_is() {
        for format in [Format::Json, Format::Text { colours: false }] {
            let (subscriber, _handle, queue) = log(format, "info");
            tracing::subscriber::with_default(subscriber, || {
                let detail = String::from("no topic s3cret-token, no s3cret-token");
                tracing::info!(target: "audit", detail, "s3cret-token refused");
                tracing::warn!(error = ?detail, "{detail}");
                tracing::warn!(of = %detail, "refused");
            });
            let lines = lines(&queue);
            assert_eq!(lines.len(), 3);
            for line in lines {
                assert!(!line.contains("s3cret"), "{line}");
                assert!(line.contains("no topic ***, no ***"), "{line}");
                if matches!(format, Format::Json) {
                    serde_json::from_str::<serde_json::Value>(&line).expect("JSON");
                }
            }
        }
    }

    #[test]
    fn what_is_logged_while_a_line_is_written_is_a_line_of_its_own() {
        struct Talks;
        impl std::fmt::Display for Talks {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                tracing::info!("inner");
                f.write_str("value")
            }
        }
        let (subscriber, _handle, queue) = log(Format::Text { colours: true }, "info");
        tracing::subscriber::with_default(subscriber, || tracing::info!(of = %Talks, "outer"));
        // `tracing` itself does not let an event into a subscriber that is busy with one on the same thread.
        let lines = lines(&queue);
        assert!(
            lines.last().is_some_and(|line| line.contains("outer")),
            "{lines:?}"
        );
    }
}
