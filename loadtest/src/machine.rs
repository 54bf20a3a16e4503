//! The machine's two limits that a measurement meets: cores and open files.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Open files that the load program needs besides its subscribers.
const RESERVED_FILES: usize = 600;

/// Which core the server gets, and which one the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// Checks that both cores may be used, and pins this process (and the threads it starts later) to the load's.
    pub(crate) fn claim(self) -> Result<()> {
        let allowed = sched_getaffinity(None).context("the allowed cores cannot be read")?;
        for core in [self.server, self.load] {
            ensure!(
                core < CpuSet::MAX_CPU && allowed.is_set(core),
                "core {core} is not available here"
            );
        }
        ensure!(
            self.server != self.load,
            "server and load need a core each: figures of a shared one mean nothing"
        );
        pin(&[self.load])
    }

    /// Both, for what stands between a server and the load.
    pub(crate) fn both(self) -> [usize; 2] {
        [self.server, self.load]
    }
}

/// Pins the calling thread, and what it starts later, to these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to {cores:?}"))
}

/// CPU nanoseconds that all processes of the machine have used so far, in steps of about 10 ms.
pub(crate) fn busy_ns() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
    let ticks = busy_ticks(&text).context("/proc/stat has no sum of all cores")?;
    Ok(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second())
}

/// All that is not idle: the fourth and fifth number are idle time and waiting for disks, and guests are counted as user.
fn busy_ticks(stat: &str) -> Option<u64> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?;
    let numbers = numbers.split_ascii_whitespace().take(8).enumerate();
    let mut sum = 0;
    for (place, number) in numbers {
        let number: u64 = number.parse().ok()?;
        sum += if matches!(place, 3 | 4) { 0 } else { number };
    }
    Some(sum)
}

/// Raises the limit of open files as far as it goes, and returns how many subscribers fit under it.
pub(crate) fn raise_open_files() -> Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum;
    let raised = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, raised).context("the limit of open files cannot be raised")?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX);
    Ok(most.saturating_sub(RESERVED_FILES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_guests_are_not_counted() {
        let stat = "cpu  10 1 20 1000 500 3 4 5 10 1\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(43));
        assert_eq!(busy_ticks("intr 1 2 3"), None);
    }
}
