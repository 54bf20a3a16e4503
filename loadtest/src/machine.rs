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
        pin(self.load)
    }
}

/// Pins the calling thread, and what it starts later, to one core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to core {core}"))
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
