//! `tidegate tail`: follows topics in the terminal, resuming whenever the stream breaks.

use std::{io::Write, time::Duration};

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use http::{Request, StatusCode, header::ACCEPT};
use http_body_util::BodyExt;

use super::client::{DEFAULT_URL, block_on, encode, send, text};
use crate::event::{Message, Parser};

#[derive(Args, Clone, Debug)]
pub(super) struct Tail {
    /// What to follow.
    #[arg(required = true)]
    topics: Vec<String>,
    /// Begin with the newest so many events.
    #[arg(long, value_name = "N", conflicts_with_all = ["since", "from"])]
    last: Option<u32>,
    /// Begin with events since a time (RFC 3339, Unix milliseconds) or of an age (5m).
    #[arg(long, value_name = "TIME", conflicts_with = "from")]
    since: Option<String>,
    /// Begin after an event id, or with the "earliest".
    #[arg(long, value_name = "ID")]
    from: Option<String>,
    /// Print each event as JSON: id, topic, event, data.
    #[arg(long)]
    json: bool,
    /// The gateway.
    #[arg(long, env = "TIDEGATE_URL", default_value = DEFAULT_URL)]
    url: String,
}

/// How one connection ended.
enum Ended {
    /// It broke, or the gateway asked to come back.
    Broken,
    /// There is nothing more to come.
    Finished,
}

/// What is kept from one connection to the next.
struct Following {
    cursor: Option<String>,
    retry: Duration,
}

impl Tail {
    pub(super) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            let mut following = Following {
                cursor: None,
                retry: Duration::from_secs(3),
            };
            loop {
                match self.follow(&mut following).await {
                    Ok(Ended::Finished) => return Ok(()),
                    Ok(Ended::Broken) => {}
                    // Never connected: a wrong address should be said rather than tried for ever.
                    Err(error) if following.cursor.is_none() => return Err(error),
                    Err(error) => eprintln!("# {error:#}"),
                }
                tokio::time::sleep(following.retry).await;
            }
        })
    }

    async fn follow(&self, following: &mut Following) -> anyhow::Result<Ended> {
        let mut path = format!(
            "/events?topic={}",
            self.topics
                .iter()
                .map(|topic| encode(topic))
                .collect::<Vec<_>>()
                .join(",")
        );
        path += "&envelope=json";
        let mut request = Request::get("/").header(ACCEPT, "text/event-stream");
        match &following.cursor {
            Some(cursor) => request = request.header("last-event-id", cursor),
            None => {
                let start = [
                    ("last", self.last.map(|count| count.to_string())),
                    ("since", self.since.clone()),
                    ("lastEventId", self.from.clone()),
                ];
                path.extend(
                    start
                        .into_iter()
                        .filter_map(|(name, value)| Some(format!("&{name}={}", encode(&value?)))),
                );
            }
        }
        let response = send(&self.url, &path, request, Bytes::new()).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NO_CONTENT => return Ok(Ended::Finished),
            status => bail!("refused with {status}: {}", text(response).await?),
        }
        let (mut parser, mut body) = (Parser::default(), response.into_body());
        let mut ended = Ended::Broken;
        while let Some(Ok(frame)) = body.frame().await {
            for message in parser.feed(frame.data_ref().map_or(&[][..], |bytes| bytes)) {
                following.cursor = message.id.clone().or(following.cursor.take());
                following.retry = message
                    .retry_ms
                    .map_or(following.retry, Duration::from_millis);
                let topics = self.topics.iter().flat_map(|topics| topics.split(','));
                if message.event.as_deref() == Some("$end") && topics.count() == 1 {
                    ended = Ended::Finished;
                }
                self.print(&message)?;
            }
        }
        Ok(ended)
    }

    fn print(&self, message: &Message) -> anyhow::Result<()> {
        let (kind, Some(data)) = (message.event.as_deref().unwrap_or("message"), &message.data)
        else {
            return Ok(());
        };
        if kind.starts_with('$') {
            if !matches!(kind, "$cursor" | "$heartbeat") {
                eprintln!("# {kind} {}", harmless(data));
            }
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{data}")?;
        } else {
            let event: serde_json::Value = serde_json::from_str(data)?;
            let field = |name: &str| harmless(event[name].as_str().unwrap_or_default());
            writeln!(
                out,
                "{} {} {} {}",
                field("id"),
                field("topic"),
                field("event"),
                field("data")
            )?;
        }
        Ok(out.flush()?)
    }
}

/// Text whose control characters are shown instead of obeyed: it comes from whoever may publish.
fn harmless(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(shown).collect()
}
