//! `tidegate config check` and `tidegate config show`: what `serve` would make of its settings, without serving.

use std::{fmt::Write, io::Write as _, path::PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::sources::SourceArgs;
use crate::{
    config::{Setting, Settings},
    http::reload,
};

#[derive(Args, Clone, Debug)]
pub(super) struct Config {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Clone, Debug, Subcommand)]
enum Sub {
    /// Say whether the settings are valid: exit 0 and `ok`, or exit 1 and what is wrong, with line and key.
    Check {
        /// A YAML file of settings, as --config.
        #[arg(value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
        #[command(flatten)]
        sources: SourceArgs,
    },
    /// Print every setting with its value and where that came from; secrets as ***.
    Show {
        /// As JSON: {key: {value, source, place}}.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        sources: SourceArgs,
    },
}

impl Config {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let text = match self.command {
            Sub::Check { file, mut sources } => {
                sources.config = file.or(sources.config);
                reload::check(&load(sources)?)?;
                "ok\n".to_owned()
            }
            Sub::Show { json, sources } => {
                let list = load(sources)?.list();
                if json { as_json(list)? } else { table(&list) }
            }
        };
        // Whoever reads only the beginning is content with that.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(())
    }
}

fn load(sources: SourceArgs) -> anyhow::Result<Settings> {
    let settings = Settings::load(&sources.sources())?;
    for warning in settings.warnings() {
        eprintln!("tidegate: warning: {warning}");
    }
    Ok(settings)
}

fn as_json(list: Vec<Setting>) -> anyhow::Result<String> {
    let entry = |setting: Setting| Ok((setting.key.clone(), serde_json::to_value(setting)?));
    let map: serde_json::Result<Map<String, Value>> = list.into_iter().map(entry).collect();
    Ok(format!("{}\n", serde_json::to_string_pretty(&map?)?))
}

/// Three columns; a value that is too long for its own pushes the third aside.
fn table(list: &[Setting]) -> String {
    const WIDEST: usize = 40;
    let value = |setting: &Setting| match &setting.value {
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    };
    let rows = list.iter().map(|setting| {
        let place = setting.place.as_deref().unwrap_or(setting.source);
        (setting.key.as_str(), value(setting), place)
    });
    let rows: Vec<_> = rows.collect();
    let keys = rows.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let values = rows.iter().map(|(_, value, _)| value.chars().count());
    let values = values.filter(|width| *width <= WIDEST).max().unwrap_or(0);
    rows.iter()
        .fold(String::new(), |mut text, (key, value, place)| {
            let _ = writeln!(text, "{key:keys$}  {value:values$}  {place}");
            text
        })
}
