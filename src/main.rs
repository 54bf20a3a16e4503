//! The `tidegate` binary.

use clap::Parser;
use tidegate::cli::Command;

fn main() -> std::process::ExitCode {
    match Command::parse().run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
