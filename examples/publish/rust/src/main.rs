//! Publishes to a topic of Tidegate: `tidegate-publish TOPIC DATA [TYPE] [KEY]`
//!
//! An empty TYPE is message. KEY makes a repetition safe: it stores the event once; without one there is a new one for each run.
//! `tidegate-publish --lines` publishes the events of its standard input, one JSON object a line, while they come.
//! `TIDEGATE_URL` says where, `PUBLISH_TOKEN` what to show there.
//! Exit code 0: stored. 1: refused, and would be again. 75: try again later, with the same key.

use std::{
    env,
    error::Error,
    hash::{BuildHasher, RandomState},
    io,
    process::ExitCode,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use ureq::{Agent, Body, SendBody, http::Response};

/// Where to publish, and by whom.
struct Publisher {
    agent: Agent,
    url: String,
    token: Option<String>,
}

impl Publisher {
    fn new() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(Duration::from_secs(30)));
        Self {
            agent: config.build().into(),
            url: env::var("TIDEGATE_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".into()),
            token: env::var("PUBLISH_TOKEN").ok(),
        }
    }

    /// Sends it once.
    fn send(
        &self,
        kind: &str,
        key: Option<&str>,
        body: SendBody,
    ) -> Result<Response<Body>, ureq::Error> {
        let url = format!("{}/publish", self.url);
        let mut request = self.agent.post(url).header("Content-Type", kind);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        request.send(body)
    }

    /// Publishes one event, and does not give up at once.
    fn publish(&self, topic: &str, data: &str, kind: &str, key: &str) -> u8 {
        let kind = if kind.is_empty() { "message" } else { kind };
        let body = json!({"topic": topic, "data": data, "event": kind}).to_string();
        // One for all attempts: this is what makes them safe.
        let key = if key.is_empty() {
            random()
        } else {
            key.to_owned()
        };
        for pause in [100, 500, 2000, 0].map(Duration::from_millis) {
            let mut after = Duration::ZERO;
            let answer = self
                .send(
                    "application/json",
                    Some(&key),
                    SendBody::from_owned_reader(io::Cursor::new(body.clone())),
                )
                .and_then(|mut answer| {
                    let json: Value = answer.body_mut().read_json()?;
                    Ok((answer, json))
                });
            match answer {
                Ok((head, answer)) if head.status() == 200 => {
                    let duplicate = answer["duplicate"] == true;
                    let id = answer["id"].as_str().unwrap_or_default();
                    println!("{id} {}", if duplicate { "duplicate" } else { "stored" });
                    return 0;
                }
                Ok((head, problem)) => {
                    eprintln!("{}: {}", problem["code"], problem["detail"]);
                    if !is_temporary(&head) {
                        return 1;
                    }
                    let header = head.headers().get("Retry-After");
                    let seconds = header.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
                    after = Duration::from_secs(seconds.unwrap_or(0));
                }
                Err(error) => eprintln!("whether it was stored is unknown: {error}"),
            }
            if !pause.is_zero() {
                thread::sleep(pause.max(after));
            }
        }
        75
    }

    /// Publishes a stream of events. Give each of them a `key`: then what broke off may be sent again.
    fn publish_lines(&self, lines: impl io::Read + 'static) -> Result<u8, Box<dyn Error>> {
        let body = SendBody::from_owned_reader(lines);
        let mut answer = self.send("application/x-ndjson", None, body)?;
        println!("{}", answer.body_mut().read_to_string()?);
        Ok(match answer.status().as_u16() {
            200 => 0,
            _ if is_temporary(&answer) => 75,
            _ => 1,
        })
    }
}

/// Too fast, not now, or nobody knows: with the same key it may be sent again.
fn is_temporary(answer: &Response<Body>) -> bool {
    [429, 503, 504].contains(&answer.status().as_u16())
}

/// 128 bits that nobody else will have; a program with `uuid` or `rand` at hand takes those.
fn random() -> String {
    [0, 1]
        .map(|n| format!("{:016x}", RandomState::new().hash_one(n)))
        .concat()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let publisher = Publisher::new();
    let code = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--lines"] => publisher
            .publish_lines(io::stdin())
            .unwrap_or_else(|error| {
                eprintln!("how much was stored is unknown: {error}");
                75
            }),
        [topic, data] => publisher.publish(topic, data, "", ""),
        [topic, data, kind] => publisher.publish(topic, data, kind, ""),
        [topic, data, kind, key] => publisher.publish(topic, data, kind, key),
        _ => {
            eprintln!(
                "usage: tidegate-publish TOPIC DATA [TYPE] [KEY], or tidegate-publish --lines"
            );
            1
        }
    };
    ExitCode::from(code)
}
