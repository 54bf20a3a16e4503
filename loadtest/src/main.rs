//! Bounded load program and benchmark of Tidegate: the gateway and the floor, side by side.
//!
//! It starts what it measures, checks every stream for loss, repetition and order while it measures, prints figures with
//! their goals, and leaves nothing behind. Missed goals are figures, not failures; a stream that was not what it must be
//! is one.

mod clock;
mod command;
mod constant;
mod figures;
mod floor;
mod h2;
mod http1;
mod launch;
mod line;
mod machine;
mod pace;
mod payload;
mod pollers;
mod process;
mod publisher;
mod reader;
mod redis;
mod report;
mod requests;
mod scale;
mod scenario;
mod stage;
mod stream;
mod subscribers;
mod tally;
mod target;
mod wire;
mod ws;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::command::{Command, Line};

fn main() -> Result<ExitCode> {
    match Line::parse().command {
        Command::Table(table) => table.measure(),
        Command::Run(run) => run.measure(),
        Command::Floor {
            listen,
            publish,
            keep,
        } => floor::serve(listen, publish, keep).map(|()| ExitCode::SUCCESS),
        Command::Constant { listen } => constant::serve(listen).map(|()| ExitCode::SUCCESS),
        Command::Launch { core, command } => {
            launch::launch(&core, &command).map(|()| ExitCode::SUCCESS)
        }
    }
}
