//! The step between the load program and the server that it measures.
//!
//! The server must stand on its own cores and must not outlive the load program, however that ends. Both are set here, in
//! the child, and survive the `exec` that turns it into the server: what the load program knows by its process id *is* the
//! server.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::machine;

/// Becomes `command`, pinned to `cores`.
pub(crate) fn launch(cores: &[usize], command: &[OsString]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot tie the server to the load program")?;
    if getppid().is_none_or(rustix::process::Pid::is_init) {
        bail!("the load program ended before its server began");
    }
    machine::pin(cores)?;
    let (program, arguments) = command.split_first().context("nothing to launch")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
