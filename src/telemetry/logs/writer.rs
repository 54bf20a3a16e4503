//! The thread that writes lines. Nobody waits for it, and it waits for everybody: for a full disk, for a reader that does
//! not read.
//!
//! After it has written it gathers what comes in a few milliseconds more, and meanwhile nobody has to wake it: under load a
//! line costs a copy, and a write to the system is one for many lines.

use std::{
    io::{self, Write as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::{file::LogFile, queue::Queue};

/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(10);
/// When an output that cannot be written to is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// When one that has no room at the moment is.
const RETRY_SOON: Duration = Duration::from_millis(10);
/// What a burst may leave behind as a buffer.
const KEPT_BYTES: usize = 256 * 1024;

/// Wakes the writer, and tells it what to do.
#[derive(Debug, Default)]
pub(super) struct Waker {
    /// It sleeps until it is woken. Set before it looks at the queues for the last time, so no line is left alone.
    asleep: AtomicBool,
    stop: AtomicBool,
    reopen: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Waker {
    /// There is a line; costs next to nothing while the writer is awake.
    pub(super) fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
        self.unpark();
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.unpark();
    }
}

/// Told when the writer has come to its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopped(Arc<(Mutex<bool>, Condvar)>);

impl Stopped {
    /// Waits for the end, but not longer than `patience`.
    pub(super) fn wait(&self, patience: Duration) {
        let (stopped, condition) = &*self.0;
        condition.wait_while_for(&mut stopped.lock(), |stopped| !*stopped, patience);
    }

    fn tell(&self) {
        let (stopped, condition) = &*self.0;
        *stopped.lock() = true;
        condition.notify_all();
    }
}

/// A queue and where its lines go.
pub(super) struct Output {
    queue: Arc<Queue>,
    file: LogFile,
    /// Taken from the queue; written from `done` on.
    lines: Vec<u8>,
    done: usize,
    /// It could not be written to, and is tried again at this time.
    retry: Option<Instant>,
    /// That was said.
    told: bool,
}

impl Output {
    pub(super) fn new(queue: Arc<Queue>, file: LogFile) -> Self {
        Self {
            queue,
            file,
            lines: Vec::new(),
            done: 0,
            retry: None,
            told: false,
        }
    }

    /// Writes what waits. Returns whether there was anything.
    fn write(&mut self) -> bool {
        if self.retry.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        if self.lines.is_empty() {
            self.queue.take(&mut self.lines);
        }
        if let Err(error) = self.file.turn_by_age() {
            say(&format!("cannot put {} aside: {error}", self.file.name()));
        }
        if self.lines.is_empty() {
            return false;
        }
        let (bytes, result) = self
            .file
            .write(&self.lines[self.done..], &mut |complaint| say(&complaint));
        self.done += bytes;
        match result {
            Ok(()) => {
                self.retry = None;
                if std::mem::take(&mut self.told) {
                    say(&format!("{} is written to again", self.file.name()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.retry = Some(Instant::now() + RETRY_SOON);
            }
            Err(error) => {
                self.retry = Some(Instant::now() + RETRY);
                if !std::mem::replace(&mut self.told, true) {
                    say(&format!(
                        "cannot write to {}: {error}; this is tried again, lines beyond some megabytes are dropped meanwhile",
                        self.file.name()
                    ));
                }
            }
        }
        if self.done == self.lines.len() {
            self.done = 0;
            self.lines.clear();
            if self.lines.capacity() > KEPT_BYTES {
                self.lines = Vec::new();
            }
        }
        true
    }

    fn reopen(&mut self) {
        match self.file.reopen() {
            Ok(()) => self.retry = None,
            Err(error) => say(&format!(
                "cannot open {} again, writing to the old file: {error}",
                self.file.name()
            )),
        }
    }

    fn waits(&self) -> bool {
        !self.lines.is_empty() || !self.queue.is_empty()
    }
}

/// Where the log cannot say it itself.
fn say(what: &str) {
    // Not `eprintln!`, which panics where nobody listens.
    let _ = writeln!(io::stderr(), "tidegate: log: {what}");
}

/// See the module.
pub(super) struct Writer {
    outputs: Vec<Output>,
    waker: Arc<Waker>,
}

impl Writer {
    /// Begins to write.
    pub(super) fn start(outputs: Vec<Output>, waker: &Arc<Waker>) -> io::Result<Stopped> {
        let stopped = Stopped::default();
        let tell = stopped.clone();
        let writer = Self {
            outputs,
            waker: waker.clone(),
        };
        let thread = thread::Builder::new().name("log".into()).spawn(move || {
            writer.run();
            tell.tell();
        })?;
        let _ = waker.thread.set(thread.thread().clone());
        Ok(stopped)
    }

    fn run(mut self) {
        loop {
            let stop = self.waker.stop.load(Ordering::SeqCst);
            // What was logged before the signal goes into the old file.
            let reopen = self.waker.reopen.swap(false, Ordering::SeqCst);
            let mut wrote = false;
            for output in &mut self.outputs {
                wrote |= output.write();
                if reopen {
                    output.reopen();
                }
            }
            if stop {
                // Once more for what has come meanwhile; what cannot be written now never will be.
                for output in &mut self.outputs {
                    output.write();
                }
                return;
            }
            if wrote || reopen {
                thread::park_timeout(GATHER);
            } else {
                self.sleep();
            }
        }
    }

    /// Waits for a line, a command, or the time when something is due.
    fn sleep(&self) {
        let asleep = &self.waker.asleep;
        asleep.store(true, Ordering::SeqCst);
        let told =
            self.waker.stop.load(Ordering::SeqCst) || self.waker.reopen.load(Ordering::SeqCst);
        // An output that fails is not looked at before its time, whatever waits for it.
        let ready = |output: &Output| output.retry.is_none() && output.waits();
        if !told && !self.outputs.iter().any(ready) {
            let now = Instant::now();
            let due = self.outputs.iter().filter_map(|output| match output.retry {
                Some(at) => Some(at.saturating_duration_since(now)),
                None => output.file.due(),
            });
            match due.min() {
                Some(due) => thread::park_timeout(due.max(Duration::from_millis(1))),
                None => thread::park(),
            }
        }
        asleep.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::telemetry::logs::queue::Kind;

    fn started(path: &Path) -> (Arc<Queue>, Arc<Waker>, Stopped) {
        let rotate =
            serde_json::from_value(serde_json::json!({ "size": 0, "age": "0s", "count": 0 }));
        let file = LogFile::open(path, &rotate.expect("settings")).expect("opened");
        let (queue, waker) = (Arc::new(Queue::default()), Arc::new(Waker::default()));
        let output = Output::new(queue.clone(), file);
        let stopped = Writer::start(vec![output], &waker).expect("started");
        (queue, waker, stopped)
    }

    fn push(queue: &Queue, waker: &Waker, line: &str) {
        queue.push(line, Kind::Main, usize::MAX);
        waker.wake();
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..1000 {
            if holds() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("waited for {what}");
    }

    #[test]
    fn whatever_is_renamed_meanwhile_no_line_is_lost_and_all_are_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.log");
        let (queue, waker, stopped) = started(&path);
        let mut names = Vec::new();
        for number in 0..2000 {
            push(&queue, &waker, &format!("{number}\n"));
            if number % 500 == 250 {
                let aside = folder.path().join(format!("t.log.{number}"));
                eventually("the file", || path.exists());
                fs::rename(&path, &aside).expect("renamed");
                waker.reopen();
                names.push(aside);
                eventually("a new file", || path.exists());
            }
            if number % 100 == 0 {
                thread::sleep(Duration::from_millis(3));
            }
        }
        waker.stop();
        stopped.wait(Duration::from_secs(5));
        names.push(path);
        let read = names
            .iter()
            .map(|name| fs::read_to_string(name).expect("a file"));
        let all: String = read.collect();
        let wanted: String = (0..2000).fold(String::new(), |all, number| {
            all + &number.to_string() + "\n"
        });
        assert!(all == wanted, "{} bytes of {}", all.len(), wanted.len());
    }

    #[test]
    fn a_line_that_comes_alone_is_written_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.log");
        let (queue, waker, stopped) = started(&path);
        for round in 1..=3 {
            // Long enough for the writer to have gone to sleep.
            thread::sleep(GATHER * 3);
            push(&queue, &waker, "line\n");
            eventually("the line", || {
                fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == round)
            });
        }
        waker.stop();
        stopped.wait(Duration::from_secs(5));
    }

    #[test]
    fn an_output_that_does_not_take_lines_ends_nothing() {
        if !Path::new("/dev/full").exists() {
            return;
        }
        let (queue, waker, stopped) = started(Path::new("/dev/full"));
        push(&queue, &waker, "line\n");
        eventually("the line to be taken", || queue.is_empty());
        waker.stop();
        let begun = Instant::now();
        stopped.wait(Duration::from_secs(5));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
