//! A server as a child process: started on its core, watched from outside, ended by its own id.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::{deadline, now_ns};
use crate::figures::count;

const GRACE: Duration = Duration::from_secs(5);

/// A running child. Dropping it ends it.
pub(crate) struct ServerProcess {
    child: Child,
    log: PathBuf,
}

/// CPU time as the scheduler counts it, summed over the threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// Nanoseconds on the core.
    pub(crate) used_ns: u64,
    /// Nanoseconds in which a thread could have run and had to wait.
    pub(crate) waited_ns: u64,
}

impl CpuTime {
    /// What all threads of a process have used and waited for so far.
    pub(crate) fn of(process: u32) -> Result<Self> {
        let tasks = format!("/proc/{process}/task");
        let mut time = Self::default();
        for task in fs::read_dir(tasks)
            .context("the threads of a process cannot be listed")?
            .flatten()
        {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            time.add(&text);
        }
        if time.used_ns == 0 {
            bail!(
                "/proc/{process}/task/*/schedstat is not available: CPU time cannot be measured here"
            );
        }
        Ok(time)
    }

    /// What the calling thread has used and waited for so far.
    pub(crate) fn of_this_thread() -> Self {
        let mut time = Self::default();
        time.add(&fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default());
        time
    }

    /// Adds one thread's `schedstat`.
    fn add(&mut self, schedstat: &str) {
        let mut fields = schedstat
            .split_ascii_whitespace()
            .map(|field| field.parse().unwrap_or(0));
        self.used_ns += fields.next().unwrap_or(0_u64);
        self.waited_ns += fields.next().unwrap_or(0_u64);
    }

    /// What two have used and waited for together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            used_ns: self.used_ns + other.used_ns,
            waited_ns: self.waited_ns + other.waited_ns,
        }
    }

    /// What came since an earlier reading.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            used_ns: self.used_ns.saturating_sub(earlier.used_ns),
            waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns),
        }
    }
}

impl ServerProcess {
    /// Starts `command` on `cores` with nothing but `environment` added; its output goes to a file named after `name`.
    pub(crate) fn start(
        cores: &[usize],
        name: &str,
        command: &[OsString],
        environment: &[(String, String)],
    ) -> Result<Self> {
        let log = log_file(name);
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output
            .try_clone()
            .context("cannot write the server's log")?;
        let launcher =
            std::env::current_exe().context("cannot find the load program's own file")?;
        let pinned = cores.iter().map(|core| format!("--core={core}"));
        let child = Command::new(launcher)
            .arg("launch")
            .args(pinned)
            .arg("--")
            .args(command)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context("cannot start the server")?;
        Ok(Self { child, log })
    }

    /// Says why the server is gone, if it is.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("cannot watch the server")? {
            bail!(
                "the server ended by itself ({status}): {}",
                self.last_words()
            );
        }
        Ok(())
    }

    pub(crate) fn cpu(&self) -> Result<CpuTime> {
        CpuTime::of(self.child.id())
    }

    /// Resident memory in bytes.
    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.child.id()))
            .context("the server's memory cannot be read")?;
        let pages: u64 = text
            .split_ascii_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .context("statm has no resident pages")?;
        Ok(pages * count(rustix::param::page_size()))
    }

    pub(crate) fn open_files(&self) -> Result<u64> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .context("the server's files cannot be listed")?;
        Ok(count(files.count()))
    }

    /// The end of what the server has written.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Ends it at once, with no word to anybody.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill the server")?;
        self.child.wait().context("cannot wait for the server")?;
        Ok(())
    }

    /// It stands still: its connections stay open, and nobody answers.
    pub(crate) fn freeze(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::STOP).context("cannot freeze a server")
    }

    /// It goes on as if nothing had been.
    pub(crate) fn thaw(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::CONT).context("cannot thaw a server")
    }

    fn end(&mut self) {
        for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            // The child has not been waited for, so the id is still its own.
            let _gone_already = kill_process(Pid::from_child(&self.child), signal);
            let until = deadline(patience);
            while now_ns() < until {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.end();
        let _kept_otherwise = fs::remove_file(&self.log);
    }
}

fn log_file(name: &str) -> PathBuf {
    let directory: &Path = &std::env::temp_dir();
    directory.join(format!(
        "tidegate-loadtest-{}-{name}-{}.log",
        std::process::id(),
        now_ns()
    ))
}
