//! The commands of the binary, one a file.

mod client;
mod config;
mod healthcheck;
mod publish;
mod serve;
mod sources;
mod tail;

use clap::{Parser, Subcommand};

/// Publish once, every EventSource gets it: in order, once, or is told exactly what it missed.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    max_term_width = 110,
    args_conflicts_with_subcommands = true
)]
pub struct Command {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Serve (the default).
    Serve(serve::Serve),
    /// Publish one event, or one for each line of standard input.
    Publish(publish::Publish),
    /// Follow topics in the terminal, resuming whenever the stream breaks.
    Tail(tail::Tail),
    /// Check or show the settings that `serve` would have.
    Config(config::Config),
    /// Ask a gateway whether it is ready; exit 0 if so. For health checks of containers.
    Healthcheck(healthcheck::Healthcheck),
}

impl Command {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// Whatever kept it from its end, told for a person.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            None => self.serve.run(),
            Some(Sub::Serve(serve)) => serve.run(),
            Some(Sub::Publish(publish)) => publish.run(),
            Some(Sub::Tail(tail)) => tail.run(),
            Some(Sub::Config(config)) => config.run(),
            Some(Sub::Healthcheck(healthcheck)) => healthcheck.run(),
        }
    }
}
