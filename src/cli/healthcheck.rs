//! `tidegate healthcheck`: for containers that have no curl.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::Request;

use super::client::{block_on, send};
use crate::config::{Settings, Sources};

#[derive(Args, Clone, Debug)]
pub(super) struct Healthcheck {
    /// The gateway; by default the one that the same settings would start.
    #[arg(long, env = "TIDEGATE_URL")]
    url: Option<String>,
    /// What to ask.
    #[arg(long, default_value = "/health/ready")]
    path: String,
    /// How long it may take.
    #[arg(long, default_value = "3s", value_parser = humantime_serde::re::humantime::parse_duration)]
    timeout: Duration,
}

impl Healthcheck {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let url = match self.url {
            Some(url) => url,
            None => {
                let sources = Sources::of_process(None, Vec::new());
                let mut listen = Settings::load(&sources)?.config().server.listen;
                if listen.ip().is_unspecified() {
                    listen.set_ip(if listen.is_ipv4() {
                        [127, 0, 0, 1].into()
                    } else {
                        std::net::Ipv6Addr::LOCALHOST.into()
                    });
                }
                format!("http://{listen}")
            }
        };
        block_on(async {
            let asked = tokio::time::timeout(
                self.timeout,
                send(&url, &self.path, Request::get("/"), Bytes::new()),
            );
            let status = asked
                .await
                .with_context(|| format!("{url} did not answer in time"))??
                .status();
            if !status.is_success() {
                bail!("{url}{} answers {status}", self.path);
            }
            Ok(())
        })
    }
}
