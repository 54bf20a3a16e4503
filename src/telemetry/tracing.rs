//! Log lines: pretty on a terminal, JSON otherwise, on standard output, never in the way of the work.

use std::io::{BufWriter, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::json_lines::JsonLines;
use crate::config::{Log, LogFormat};

/// Lines that come together are written together; whatever comes alone is written at once.
const LINES_BYTES: usize = 64 * 1024;

/// Installs the subscriber of this process. The guard writes what is left when it is dropped.
///
/// # Errors
/// When `log.level` is no filter.
pub fn init(log: &Log) -> Result<WorkerGuard, tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(&log.level)?;
    let filter = if log.access {
        filter
    } else {
        filter.add_directive("access=off".parse()?)
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .finish(BufWriter::with_capacity(LINES_BYTES, std::io::stdout()));
    let terminal = std::io::stdout().is_terminal();
    let pretty = match log.format {
        LogFormat::Pretty => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    if pretty {
        builder.with_ansi(terminal).init();
    } else {
        builder.event_format(JsonLines).init();
    }
    Ok(guard)
}
