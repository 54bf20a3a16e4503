//! `tidegate publish`: one event from the command line, or one for each line of standard input.

use std::io::Read;

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use http::{Request, header::CONTENT_TYPE};

use super::client::{DEFAULT_URL, block_on, send, text};

#[derive(Args, Clone, Debug)]
pub(super) struct Publish {
    /// Where to publish.
    topic: String,
    /// What to say; without it each line of standard input is an event.
    data: Option<String>,
    /// The type of the events.
    #[arg(long, default_value = "message")]
    event: String,
    /// End the topic: nothing more can be published to it.
    #[arg(long)]
    end: bool,
    /// Makes it safe to run the same command again.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// The gateway.
    #[arg(long, env = "TIDEGATE_URL", default_value = DEFAULT_URL)]
    url: String,
}

impl Publish {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let event = |data: &str| serde_json::json!({"topic": self.topic, "event": self.event, "data": data});
        let (media_type, body) = match &self.data {
            Some(data) => {
                let mut event = event(data);
                event["end"] = self.end.into();
                ("application/json", event.to_string())
            }
            None if self.end => (
                "application/json",
                serde_json::json!({"topic": self.topic, "end": true}).to_string(),
            ),
            None => {
                let mut input = String::new();
                std::io::stdin().read_to_string(&mut input)?;
                (
                    "application/x-ndjson",
                    input
                        .lines()
                        .map(|line| event(line).to_string() + "\n")
                        .collect(),
                )
            }
        };
        let mut request = Request::post("/").header(CONTENT_TYPE, media_type);
        if let Some(key) = &self.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        block_on(async {
            let response = send(&self.url, "/publish", request, Bytes::from(body)).await?;
            let status = response.status();
            let answer = text(response).await?;
            if !status.is_success() || status == http::StatusCode::MULTI_STATUS {
                bail!("refused with {status}: {answer}");
            }
            println!("{answer}");
            Ok(())
        })
    }
}
