//! The commands: publish, follow and ask for health from a terminal, without curl.

use serde_json::Value;

use crate::support::{Exit, Gateway, PATIENCE, Settings, id, nowhere};

fn command<'a>(gateway: &Gateway, arguments: impl IntoIterator<Item = &'a str>) -> Settings {
    Settings::command(arguments)
        .argument("--url")
        .argument(&format!("http://{}", gateway.public))
}

async fn run(settings: Settings) -> Exit {
    settings.run().exit(PATIENCE).await
}

#[tokio::test]
async fn publish_sends_one_event_and_prints_its_id() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let exit = run(command(&gateway, ["publish", "orders", "hello there"])).await;
    assert!(exit.status.success(), "{exit:?}");
    let event = reader.next().await;
    assert_eq!(event.data, "hello there");
    assert!(exit.output.contains(&event.id.to_string()), "{exit:?}");
    let exit = run(command(
        &gateway,
        ["publish", "orders", "{\"n\":1}", "--event", "created"],
    ))
    .await;
    assert!(exit.status.success(), "{exit:?}");
    let event = reader.next().await;
    assert_eq!(event.kind.as_deref(), Some("created"));
    assert_eq!(event.data, "{\"n\":1}");
}

#[tokio::test]
async fn publish_sends_each_line_of_its_input() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let settings = command(&gateway, ["publish", "orders"]).input("a\nb \"quoted\"\n\nd");
    let exit = run(settings).await;
    assert!(exit.status.success(), "{exit:?}");
    assert_eq!(reader.take(2).await, ["a", "b \"quoted\""]);
    // Whether a blank line is an event is left open.
    let mut rest = reader.take(1).await;
    if rest == [""] {
        rest = reader.take(1).await;
    }
    assert_eq!(rest, ["d"]);
}

#[tokio::test]
async fn publish_can_end_a_topic_and_be_run_again() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    for _ in 0..2 {
        let arguments = ["publish", "orders", "a", "--idempotency-key", "k"];
        let exit = run(command(&gateway, arguments)).await;
        assert!(exit.status.success(), "{exit:?}");
    }
    let exit = run(command(&gateway, ["publish", "orders", "last", "--end"])).await;
    assert!(exit.status.success(), "{exit:?}");
    assert_eq!(reader.take(2).await, ["a", "last"]);
    reader.control("$end").await;
}

#[tokio::test]
async fn publish_fails_aloud() {
    let gateway = Gateway::start().await;
    let exit = run(command(&gateway, ["publish", "$reserved", "a"])).await;
    assert!(!exit.status.success(), "{exit:?}");
    assert!(exit.output.contains("topic_invalid"), "{exit:?}");
    let (_held, address) = nowhere();
    let url = format!("http://{address}");
    let exit = run(Settings::command(["publish", "orders", "a", "--url", &url])).await;
    assert!(!exit.status.success(), "nobody listens there: {exit:?}");
}

#[tokio::test]
async fn tail_prints_what_it_was_asked_for_and_ends_with_the_topic() {
    let gateway = Gateway::start().await;
    gateway.publish_all("orders", ["a", "b", "c"]).await;
    let mut tail = command(&gateway, ["tail", "orders", "--last", "2"]).run();
    let wanted =
        |data: &'static str| move |line: &str| line.ends_with(data).then(|| line.to_owned());
    let line = tail.line("event b", wanted(" b")).await;
    assert!(line.contains("orders"), "{line}");
    tail.line("event c", wanted(" c")).await;
    let live = gateway.publish("orders", "d").await;
    let line = tail.line("event d", wanted(" d")).await;
    assert!(line.contains(&live.to_string()), "{line}");
    assert!(!tail.said().contains(" a\n"), "{}", tail.said());
    gateway.finish("orders", Some("last")).await;
    let exit = tail.exit(PATIENCE).await;
    assert!(exit.status.success(), "{exit:?}");
    assert!(exit.output.contains(" last"), "{exit:?}");
}

#[tokio::test]
async fn tail_follows_many_topics_and_prints_json() {
    let gateway = Gateway::start().await;
    let arguments = ["tail", "orders", "a/b", "--json", "--from", "earliest"];
    let before = gateway.publish("a/b", "line\nbreak").await;
    let mut tail = command(&gateway, arguments).run();
    let json = |line: &str| serde_json::from_str::<Value>(line).ok();
    let first = tail.line("a first event", json).await;
    assert_eq!(id(first["id"].as_str().unwrap()), before);
    assert_eq!(first["topic"], "a/b");
    assert_eq!(first["event"], "message");
    assert_eq!(first["data"], "line\nbreak");
    gateway.publish("orders", "b").await;
    let of_orders = |line: &str| json(line).filter(|event| event["topic"] == "orders");
    let second = tail.line("an event of orders", of_orders).await;
    assert_eq!(second["data"], "b");
}

/// A refusal that lasts ends it, and is said.
#[tokio::test]
async fn tail_says_when_it_is_refused() {
    let gateway = Gateway::start().await;
    let exit = run(command(&gateway, ["tail", "$reserved"])).await;
    assert!(!exit.status.success(), "{exit:?}");
    assert!(exit.output.contains("topic_invalid"), "{exit:?}");
}

#[tokio::test]
async fn healthcheck_says_whether_the_gateway_is_ready() {
    // Unready for as long as this takes.
    let gateway = Gateway::with("drain.delay", "5m").start().await;
    let by_url = command(&gateway, ["healthcheck"]);
    // As in a container: the same settings, and no address to give.
    let by_settings = Settings::command(["healthcheck"]).with("server.listen", gateway.public);
    for settings in [&by_url, &by_settings] {
        let exit = run(settings.clone()).await;
        assert!(exit.status.success(), "{exit:?}");
    }
    gateway.terminate();
    gateway.is_unready().await;
    for settings in [&by_url, &by_settings] {
        let exit = run(settings.clone()).await;
        assert!(!exit.status.success(), "{exit:?}");
    }
    let (_held, address) = nowhere();
    let url = format!("http://{address}");
    let exit = run(Settings::command(["healthcheck", "--url", &url])).await;
    assert!(!exit.status.success(), "{exit:?}");
}

#[tokio::test]
async fn help_names_the_commands_and_a_wrong_one_is_an_error() {
    let exit = run(Settings::command(["--help"])).await;
    assert!(exit.status.success(), "{exit:?}");
    for name in ["serve", "publish", "tail", "healthcheck"] {
        assert!(exit.output.contains(name), "{name}: {exit:?}");
    }
    let exit = run(Settings::command(["--version"])).await;
    assert!(exit.output.starts_with("tidegate "), "{exit:?}");
    let exit = run(Settings::command(["pubish"])).await;
    assert!(!exit.status.success(), "{exit:?}");
}
