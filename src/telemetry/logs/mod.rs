//! Log lines: what is said, where it goes, and that it is never in the way of the work.
//!
//! Three logs, told apart by the target of an event: `access` (each request, each ended stream), `audit` (who was refused,
//! what operators did), and everything else, the main log. Without `log.file` all go to standard output; with it each has
//! a file, and the warnings and errors of the main log have one more.
//!
//! ```text
//! event ─► subscriber ─► json or text ─► queue ─► writer ─► standard output, or a file that rotates
//!          (is it said?)  (one line)     (bounded) (a thread)
//! ```
//!
//! # Invariants
//! 1. Whoever logs never waits: a line for which there is no room is dropped and counted.
//! 2. An audit line has room left where access lines have none any more.
//! 3. Whatever a client sends, a line stays one line, and moves no cursor on a terminal.
//! 4. A file holds whole lines, also where a disk was full in the middle of one.
//!
//! Not here: what is said; no line may hold a credential or a query string.

mod escape;
mod file;
mod json;
mod queue;
mod secrets;
mod subscriber;
mod text;
mod timestamp;
mod writer;

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

pub use crate::config::LevelError;
pub use queue::Dropped;

use self::{
    file::LogFile,
    queue::{Kind, Queue, Room},
    subscriber::{Format, LogSubscriber, Route, Rules},
    writer::{Output, Waker, Writer},
};
use crate::config::{Config, LogFormat};

/// How long the last lines may take at the end.
const PATIENCE: Duration = Duration::from_secs(2);

static HANDLE: OnceLock<LogHandle> = OnceLock::new();

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// Its file cannot be used.
    #[error("log.file: cannot open {} (its folder has to be there, and to be writable)", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has no name that others could stand beside.
    #[error("log.file: {} is no name of a file", .0.display())]
    Name(PathBuf),
    /// Standard output cannot be used.
    #[error("cannot write to the standard output")]
    Output(#[source] io::Error),
    /// There is a log already.
    #[error("this process has a log already")]
    Twice,
}

/// The log of this process; what is left is written when it is dropped.
#[derive(Debug)]
pub struct Logs {
    handle: LogHandle,
    stopped: writer::Stopped,
}

/// Changes the log of this process while it runs.
#[derive(Clone, Debug)]
pub struct LogHandle {
    rules: Arc<Rules>,
    waker: Arc<Waker>,
}

/// Begins the log of this process.
///
/// # Errors
/// When a file cannot be written, or there is a log already.
pub fn init(config: &Config) -> Result<Logs, LogsError> {
    let log = &config.log;
    let terminal = log.file.is_none() && io::stdout().is_terminal();
    let format = match log.format {
        LogFormat::Text => Format::Text { colours: terminal },
        LogFormat::Auto if terminal => Format::Text { colours: true },
        LogFormat::Json | LogFormat::Auto => Format::Json,
    };
    let waker = Arc::new(Waker::default());
    let (route, outputs) = match &log.file {
        None => {
            let queue = Arc::new(Queue::default());
            let output = LogFile::standard_output().map_err(LogsError::Output)?;
            (Route::together(&queue), vec![Output::new(queue, output)])
        }
        Some(path) => {
            let open = |kind: Option<&str>| {
                let path = beside(path, kind)?;
                let queue = Arc::new(Queue::default());
                let file = LogFile::open(&path, &log.rotate)
                    .map_err(|source| LogsError::File { path, source })?;
                Ok((queue.clone(), Output::new(queue, file)))
            };
            let (main, main_output) = open(None)?;
            let (errors, errors_output) = open(Some("error"))?;
            let (access, access_output) = open(Some("access"))?;
            let (audit, audit_output) = open(Some("audit"))?;
            let route = Route {
                main,
                access,
                audit,
                errors: Some(errors),
            };
            (
                route,
                vec![main_output, errors_output, access_output, audit_output],
            )
        }
    };
    let rules = Arc::new(Rules::new(format, log.level.clone(), log.access, log.audit));
    rules.set_secrets(config.secrets());
    let subscriber = LogSubscriber::new(rules.clone(), route, waker.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogsError::Twice)?;
    // What libraries say through the older crate `log`.
    tracing_log::LogTracer::init().map_err(|_| LogsError::Twice)?;
    rules.apply();
    let stopped = Writer::start(outputs, &waker).map_err(LogsError::Output)?;
    let handle = LogHandle { rules, waker };
    let _ = HANDLE.set(handle.clone());
    Ok(Logs { handle, stopped })
}

/// The log of this process; none before [`init`], as in commands that only print.
pub fn handle() -> Option<&'static LogHandle> {
    HANDLE.get()
}

/// `tidegate.log` and `access` make `tidegate.access.log`.
fn beside(path: &Path, kind: Option<&str>) -> Result<PathBuf, LogsError> {
    let Some(kind) = kind else {
        return Ok(path.to_owned());
    };
    let stem = path.file_stem();
    let mut name = stem
        .ok_or_else(|| LogsError::Name(path.to_owned()))?
        .to_owned();
    name.push(".");
    name.push(kind);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    Ok(path.with_file_name(name))
}

impl Logs {
    /// What changes it while it runs.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.handle.waker.stop();
        // A reader of the standard output that does not read must not keep the process from its end.
        self.stopped.wait(PATIENCE);
    }
}

impl LogHandle {
    /// What these settings keep secret is cut out of lines from now on.
    pub fn set_secrets(&self, config: &Config) {
        self.rules.set_secrets(config.secrets());
    }

    /// Says more, or less, in the main log from now on: a level, or levels of modules as in `info,tidegate::hub=debug`.
    ///
    /// # Errors
    /// When it is no level; the message says what is one.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        self.rules.set_level(level.parse()?);
        Ok(())
    }

    /// What is said in the main log, as it was written.
    pub fn level(&self) -> String {
        self.rules.level().as_str().to_owned()
    }

    /// Whether there are access lines from now on.
    pub fn set_access(&self, on: bool) {
        self.rules.access.store(on, Ordering::Relaxed);
        self.rules.apply();
    }

    /// Whether there are audit lines from now on.
    pub fn set_audit(&self, on: bool) {
        self.rules.audit.store(on, Ordering::Relaxed);
        self.rules.apply();
    }

    /// Opens every file by its name again: what follows goes into new files where the old ones were put aside.
    pub fn reopen(&self) {
        self.waker.reopen();
    }
}

impl Room {
    /// What each kind of line may fill of a queue; the others find room where access lines do not.
    fn of(kind: Kind) -> usize {
        const MIB: usize = 1024 * 1024;
        match kind {
            Kind::Access => 8 * MIB,
            Kind::Main => 9 * MIB,
            Kind::Audit => 10 * MIB,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_logs_stand_beside_the_main_one() {
        let of = |path: &str, kind| beside(Path::new(path), Some(kind)).expect("a name");
        assert_eq!(
            of("/a/tidegate.log", "access"),
            Path::new("/a/tidegate.access.log")
        );
        assert_eq!(of("tidegate", "audit"), Path::new("tidegate.audit"));
        assert_eq!(of("a.b.log", "error"), Path::new("a.b.error.log"));
        assert!(beside(Path::new("/"), Some("access")).is_err());
    }
}
