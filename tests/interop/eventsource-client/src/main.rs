//! Follows a stream by the crate `eventsource-client`: `interop URL`.
//!
//! Says what it sees, a line of JSON for each: see `tests/interop.rs`.

use std::{error::Error as StdError, time::Duration};

use eventsource_client::{Client, ClientBuilder, Error, ReconnectOptions, SSE};
use futures::StreamExt;
use launchdarkly_sdk_transport::HyperTransport;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn StdError>> {
    let url = std::env::args().nth(1).ok_or("usage: interop URL")?;
    // Longer than the keepalive, or every quiet stream ends.
    let transport = HyperTransport::builder()
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(45))
        .build_http()?;
    // It takes `retry:` as the first delay, and doubles it up to this.
    let reconnect = ReconnectOptions::reconnect(true)
        .retry_initial(true)
        .delay_max(Duration::from_secs(30))
        .build();
    let client = ClientBuilder::for_url(&url)?
        .reconnect(reconnect)
        .build_with_transport(transport);
    let mut stream = client.stream();
    // An error is no end: whoever goes on polling is connected again.
    while let Some(seen) = stream.next().await {
        match seen {
            Ok(SSE::Connected(connection)) if connection.response().status() == 204 => {
                println!(
                    "{}",
                    json!({"saw": "over", "status": 204, "why": "finished"})
                );
                break;
            }
            Ok(SSE::Connected(_)) => println!("{}", json!({"saw": "open"})),
            Ok(SSE::Event(event)) => {
                println!(
                    "{}",
                    json!({"saw": "event", "type": event.event_type, "id": event.id, "data": event.data})
                );
                if event.event_type == "$end" {
                    println!("{}", json!({"saw": "over", "why": "left"}));
                    break;
                }
            }
            Ok(SSE::Comment(_)) => {} // a keepalive
            Err(Error::UnexpectedResponse(response, body))
                if ![429, 503].contains(&response.status()) =>
            {
                let mut body = body.into_stream();
                let mut text = Vec::new();
                while let Some(Ok(bytes)) = body.next().await {
                    text.extend_from_slice(&bytes);
                }
                let problem: serde_json::Value = serde_json::from_slice(&text)?;
                println!(
                    "{}",
                    json!({"saw": "over", "status": response.status(), "why": problem["code"]})
                );
                break;
            }
            Err(error) => println!("{}", json!({"saw": "cut", "why": error.to_string()})),
        }
    }
    Ok(())
}
