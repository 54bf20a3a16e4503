//! The options that say where settings come from; every command that reads the settings of a gateway has the same.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Flag, Sources};

#[derive(Args, Clone, Debug, Default)]
pub(super) struct SourceArgs {
    /// A YAML file of settings; else the one that `TIDEGATE_CONFIG` names.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where subscribers and publishers connect (server.listen).
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where metrics and stats are served (admin.listen).
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

impl SourceArgs {
    pub(super) fn sources(self) -> Sources {
        let flags = [
            ("--listen", "server.listen", self.listen),
            ("--admin-listen", "admin.listen", self.admin_listen),
        ];
        let given = |(name, key, value): (_, _, Option<String>)| {
            let value = value?;
            Some(Flag { name, key, value })
        };
        Sources::of_process(self.config, flags.into_iter().filter_map(given).collect())
    }
}
