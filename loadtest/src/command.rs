//! The command line, and the rounds that it asks for.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum as _};

use crate::machine::{Cores, raise_open_files};
use crate::report::Report;
use crate::scale::{Overrides, Scale};
use crate::scenario::{Context, Scenario};
use crate::target::Target;

/// Measures Tidegate beside its floor.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Line {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Every scenario without Redis, or every one with it, in one table.
    Table(Table),
    /// One scenario.
    Run(Run),
    /// The floor as a server of its own.
    Floor {
        /// Where subscribers connect.
        #[arg(long)]
        listen: SocketAddr,
        /// Where publishers connect and send `topic<TAB>data` lines.
        #[arg(long)]
        publish: SocketAddr,
        /// Keep all frames, to replay them.
        #[arg(long)]
        keep: bool,
    },
    /// hyper answering a constant, as a server of its own.
    Constant {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Becomes another program, pinned and tied to its parent.
    #[command(hide = true)]
    Launch {
        #[arg(long)]
        core: Vec<usize>,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Table {
    /// Small sizes, one round: to see that all works.
    #[arg(long)]
    quick: bool,
    /// The scenarios with Redis, and no others. They start a `redis-server`.
    #[arg(long)]
    redis: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// What to measure.
    scenario: Scenario,
    /// Small sizes to begin with.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, Args)]
struct Common {
    /// Rounds; the table gives their median and spread [default: 3, or 1 with --quick].
    #[arg(long)]
    rounds: Option<u64>,
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/tidegate")]
    gateway: PathBuf,
    /// What is compared with the floor. The floor itself shows how noisy the machine is.
    #[arg(long, value_enum, default_value = "gateway")]
    target: Target,
    /// The core of the server.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Also write the figures here.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Table {
    pub(crate) fn measure(self) -> Result<ExitCode> {
        let scale = if self.quick {
            Scale::quick()
        } else {
            Scale::full()
        };
        let scenarios: Vec<Scenario> = Scenario::value_variants()
            .iter()
            .copied()
            .filter(|scenario| scenario.needs_redis() == self.redis && !scenario.stands_alone())
            .collect();
        self.common.measure(scale, self.quick, &scenarios)
    }
}

impl Run {
    pub(crate) fn measure(self) -> Result<ExitCode> {
        let mut scale = if self.quick {
            Scale::quick()
        } else {
            Scale::full()
        };
        scale.change(&self.overrides);
        self.common.measure(scale, self.quick, &[self.scenario])
    }
}

impl Common {
    fn measure(self, mut scale: Scale, quick: bool, scenarios: &[Scenario]) -> Result<ExitCode> {
        let rounds = self.rounds.unwrap_or(if quick { 1 } else { 3 });
        ensure!(rounds > 0, "no rounds, no figures");
        let cores = Cores {
            server: self.server_core,
            load: self.load_core,
        };
        ensure!(
            self.target != Target::Gateway || self.gateway.is_file(),
            "there is no gateway at {}: build it (`cargo build --release`) or name it with --gateway",
            self.gateway.display()
        );
        cores.claim()?;
        let most = raise_open_files()?;
        if scale.clamp(most) {
            eprintln!("sizes are cut to {most} streams: the limit of open files ends there");
        }
        let mut context = Context {
            gateway: self.gateway,
            tested: self.target,
            cores,
            scale,
            round: 0,
        };
        let mut report = Report::default();
        for round in 0..rounds {
            context.round = round;
            for scenario in scenarios {
                eprintln!("round {} of {rounds}: {scenario:?}", round + 1);
                if let Err(error) = scenario.run(&context, &mut report) {
                    eprintln!("{scenario:?} broke: {error:#}");
                    report.broke(format!("{scenario:?}, round {}: {error:#}", round + 1));
                }
            }
        }
        let tested = match self.target {
            Target::Gateway => "gateway",
            Target::Floor | Target::Constant => "the floor again",
        };
        println!(
            "{rounds} rounds, server on core {}, load on core {}",
            cores.server, cores.load
        );
        print!("{}", report.text(tested));
        if let Some(path) = self.json {
            report.write_json(&path, tested)?;
        }
        Ok(if report.is_sound() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
