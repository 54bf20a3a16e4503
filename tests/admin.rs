//! Operators see and do what the gateway knows, and nobody else does.

mod rights;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Gateway, H2Client, Request, Subscriber, eventually, within};

fn connection(reader: &Subscriber) -> String {
    reader.open_data()["connection"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn json(gateway: &Gateway, target: &str) -> Value {
    let answer = gateway.get_admin(target).await;
    assert_eq!(answer.status(), 200, "{target}: {answer:?}");
    let media_type = answer.header("content-type").unwrap_or_default();
    assert!(media_type.starts_with("application/json"), "{answer:?}");
    answer.json()
}

/// What is listed under `name`, by what stands in `key`.
fn listed(answer: &Value, name: &str, key: &str) -> Vec<String> {
    let all = answer[name]
        .as_array()
        .unwrap_or_else(|| panic!("no {name} in {answer}"));
    let mut all: Vec<_> = all
        .iter()
        .map(|one| one[key].as_str().unwrap().to_owned())
        .collect();
    all.sort_unstable();
    all
}

fn method(method: &str, target: &str) -> Request {
    Request::new(method, target)
}

#[tokio::test]
async fn topics_are_listed_with_what_they_hold() {
    let gateway = Gateway::start().await;
    let _reader = gateway.subscribe("orders,quiet").await;
    let _second = gateway.subscribe("orders").await;
    let ids = gateway.publish_all("orders", ["a", "b", "c"]).await;
    gateway.publish("unread/1", "x").await;
    let all = json(&gateway, "/admin/topics").await;
    let topics = listed(&all, "topics", "topic");
    assert!(topics.contains(&"orders".to_owned()), "{all}");
    for (topic, events, subscribers) in [("orders", 3, 2), ("unread/1", 1, 0)] {
        // A name may be written as it is, or encoded.
        for name in [topic.to_owned(), topic.replace('/', "%2F")] {
            let one = json(&gateway, &format!("/admin/topics/{name}")).await;
            assert_eq!(one["topic"], topic, "{one}");
            assert_eq!(one["events"], events, "{one}");
            assert_eq!(one["subscribers"], subscribers, "{one}");
            assert!(one["bytes"].as_u64().unwrap() > 0, "{one}");
        }
    }
    let one = json(&gateway, "/admin/topics/orders").await;
    assert_eq!(one["first"], ids[0].to_string(), "{one}");
    assert_eq!(one["last"], ids[2].to_string(), "{one}");
    let from_all = all["topics"].as_array().unwrap().iter();
    let same = from_all.clone().find(|it| it["topic"] == "orders").unwrap();
    assert_eq!(same["events"], 3, "{all}");
    assert_eq!(same["subscribers"], 2, "{all}");
}

#[tokio::test]
async fn a_topic_of_which_nothing_is_known_is_not_found() {
    let gateway = Gateway::start().await;
    gateway
        .get_admin("/admin/topics/nothing")
        .await
        .refuses(404, "not_found");
    gateway
        .get_admin("/admin/topics/a%20b")
        .await
        .refuses(400, "topic_invalid");
    // One that is only followed is known.
    let _reader = gateway.subscribe("quiet").await;
    let one = json(&gateway, "/admin/topics/quiet").await;
    assert_eq!(one["events"], 0, "{one}");
    assert_eq!(one["first"], Value::Null, "{one}");
    assert_eq!(one["subscribers"], 1, "{one}");
}

#[tokio::test]
async fn a_topic_is_deleted_and_those_who_come_back_are_told() {
    let gateway = Gateway::start().await;
    let first = gateway.publish("orders", "a").await;
    gateway.publish("orders", "b").await;
    let answer = gateway
        .ask_admin(method("DELETE", "/admin/topics/orders"))
        .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json()["topic"], "orders", "{answer:?}");
    assert_eq!(answer.json()["deleted"], 2, "{answer:?}");
    let reader = gateway.resume("orders", first).await;
    assert_eq!(reader.replay(), "gap");
    let fields = [("target", "audit"), ("outcome", "OK")];
    gateway.logged(&fields).await;
}

#[tokio::test]
async fn connections_are_listed_with_where_they_are() {
    let gateway = Gateway::start().await;
    let mut orders = gateway.subscribe("orders,stock").await;
    let other = gateway.subscribe("other").await;
    let newest = gateway.publish("orders", "a").await;
    assert_eq!(orders.take(1).await, ["a"]);
    let all = json(&gateway, "/admin/connections").await;
    let mut ids = [connection(&orders), connection(&other)];
    ids.sort_unstable();
    assert_eq!(listed(&all, "connections", "id"), ids);
    // A stream that has no turn within the time of a survey is listed with what it last said.
    let of_topic = eventually("the stream to say where it is", async || {
        let of_topic = json(&gateway, "/admin/connections?topic=stock").await;
        if of_topic["connections"][0]["cursor"] == newest.to_string() {
            Ok(of_topic)
        } else {
            Err(of_topic.to_string())
        }
    })
    .await;
    assert_eq!(
        listed(&of_topic, "connections", "id"),
        [connection(&orders)]
    );
    let one = &of_topic["connections"][0];
    assert_eq!(one["address"], "127.0.0.1", "{one}");
    assert_eq!(one["subject"], Value::Null, "{one}");
    let mut topics: Vec<&str> = one["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    topics.sort_unstable();
    assert_eq!(topics, ["orders", "stock"], "{one}");
    assert_eq!(one["lag"], json!({ "events": 0, "ms": 0 }), "{one}");
    for time in ["opened", "last_write"] {
        let text = one[time].as_str().unwrap_or_default();
        assert!(
            text.starts_with("20") && text.ends_with('Z'),
            "{time}: {one}"
        );
    }
    assert_eq!(one["transport"], "sse", "{one}");
    assert_eq!(
        one["request_id"].as_str(),
        orders.head.header("x-request-id"),
        "{one}"
    );
    for nobody in [
        "?topic=nobody",
        "?address=192.0.2.1",
        "?topic=stock&address=192.0.2.1",
    ] {
        let none = json(&gateway, &format!("/admin/connections{nobody}")).await;
        assert_eq!(none["connections"], json!([]), "{nobody}");
    }
    let here = json(&gateway, "/admin/connections?address=127.0.0.1").await;
    assert_eq!(listed(&here, "connections", "id"), ids);
    drop(orders);
    gateway.has_open_streams(1).await;
    let rest = json(&gateway, "/admin/connections").await;
    assert_eq!(listed(&rest, "connections", "id"), [connection(&other)]);
}

/// Lag is what an operator looks for: who is behind, and how far.
#[tokio::test]
async fn a_reader_that_does_not_read_is_seen_behind() {
    let gateway = Gateway::start().await;
    let stuck = gateway.events("topic=orders").narrow().open().await;
    let mut quick = gateway.subscribe("orders").await;
    let large = "x".repeat(60_000);
    gateway.publish_lines("orders", vec![&large; 150]).await;
    let last = gateway.publish("orders", "last").await.to_string();
    quick.take(151).await;
    let (slow, fast) = (connection(&stuck), connection(&quick));
    eventually("one to be behind and one not", async || {
        let all = json(&gateway, "/admin/connections").await;
        let find = |id: &str| {
            let all = all["connections"].as_array().unwrap();
            all.iter().find(|one| one["id"] == id).unwrap().clone()
        };
        let (slow, fast) = (find(&slow), find(&fast));
        let behind = slow["lag"] != fast["lag"] && slow["cursor"] != last;
        if behind && fast["cursor"] == last {
            Ok(())
        } else {
            Err(all.to_string())
        }
    })
    .await;
}

#[tokio::test]
async fn an_operator_ends_a_stream_and_it_can_come_back() {
    let gateway = Gateway::start().await;
    let mut reader = gateway.subscribe("orders").await;
    let mut other = gateway.subscribe("orders").await;
    gateway.publish("orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    let cursor = reader.cursor();
    let id = connection(&reader);
    let target = format!("/admin/connections/{id}");
    let answer = gateway.ask_admin(method("DELETE", &target)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json(), json!({ "connection": id, "closed": true }));
    within("the stream to end", reader.rest()).await;
    gateway.has_open_streams(1).await;
    gateway.publish("orders", "b").await;
    assert_eq!(other.take(2).await, ["a", "b"]);
    let mut reader = gateway.resume("orders", cursor).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["b"]).await;
    let answer = gateway.ask_admin(method("DELETE", &target)).await;
    answer.refuses(404, "not_found");
    let answer = gateway
        .ask_admin(method("DELETE", "/admin/connections/nonsense"))
        .await;
    answer.refuses(404, "not_found");
    gateway
        .logged(&[("target", "audit"), ("outcome", "OK")])
        .await;
}

/// On HTTP/2 the connection goes on without the stream.
#[tokio::test]
async fn an_operator_ends_a_stream_of_http_2() {
    let gateway = Gateway::start().await;
    let mut client = H2Client::open(gateway.public).await;
    client.get("/events?topic=orders").await;
    let open = client.data_until("\n\n").await;
    let data = open
        .lines()
        .find_map(|line| line.strip_prefix("data: "))
        .unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let target = format!(
        "/admin/connections/{}",
        data["connection"].as_str().unwrap()
    );
    let answer = gateway.ask_admin(method("DELETE", &target)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    within("the stream to end", client.data_to_the_end()).await;
    gateway.has_open_streams(0).await;
}

#[tokio::test]
async fn the_log_level_changes_while_it_runs() {
    let gateway = Gateway::start().await;
    let level = |level: &str| {
        let body = json!({ "level": level }).to_string();
        let mut request =
            method("PUT", "/admin/log-level").header("Content-Type", "application/json");
        request = request.with_body(body);
        request
    };
    let chatter = |said: &str| {
        said.lines()
            .filter(|line| {
                line.contains(r#""level":"DEBUG""#) || line.contains(r#""level":"TRACE""#)
            })
            .count()
    };
    gateway.subscribe("orders").await;
    assert_eq!(chatter(&gateway.said()), 0);
    let answer = gateway.ask_admin(level("trace")).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json(), json!({ "level": "trace" }));
    eventually("lines of a lower level", async || {
        // A connection that breaks off is worth a line to whoever looks for it.
        let mut connection = gateway.connect().await;
        connection.send("GET /health HTTP/1.1\r\nHost").await;
        drop(connection);
        let said = gateway.said();
        if chatter(&said) > 0 {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    for wrong in ["loud", "", "info,tidegate=loud"] {
        let answer = gateway.ask_admin(level(wrong)).await;
        assert_eq!(answer.status(), 400, "{wrong}: {answer:?}");
        answer.problem();
    }
    let per_module = "info,tidegate::hub=debug";
    let answer = gateway.ask_admin(level(per_module)).await;
    assert_eq!(answer.json(), json!({ "level": per_module }));
    gateway
        .logged(&[("target", "audit"), ("outcome", "OK")])
        .await;
}

#[tokio::test]
async fn a_drain_is_asked_for_and_is_that_of_a_signal() {
    let mut gateway = Gateway::with("drain.timeout", "20s").start().await;
    let mut reader = gateway.subscribe("orders").await;
    let answer = gateway.ask_admin(method("POST", "/admin/drain")).await;
    assert_eq!(answer.status(), 202, "{answer:?}");
    assert_eq!(answer.json(), json!({ "draining": true }));
    let rest = within("the stream to be ended", reader.rest()).await;
    let told = rest
        .iter()
        .any(|frame| frame.event.as_deref() == Some("$drain"));
    assert!(told, "{rest:?}");
    gateway
        .logged(&[("message", "stream ended"), ("reason", "drain")])
        .await;
    let exit = gateway.program().exit(Duration::from_secs(10)).await;
    assert!(exit.status.success(), "{exit:?}");
}

#[tokio::test]
async fn why_a_client_did_not_get_an_event_is_answered() {
    let gateway = Gateway::start().await;
    let mut past = gateway.subscribe("orders").await;
    let closed = gateway.subscribe("orders").await;
    let closed_id = connection(&closed);
    let stuck = gateway.events("topic=orders").narrow().open().await;
    let _other = gateway.subscribe("other").await;
    drop(closed);
    // Its place is the last that it gives back: by then it is among those that have ended.
    gateway.has_places_taken(3).await;
    // Enough that a reader that does not read cannot have taken it all.
    let large = "x".repeat(60_000);
    gateway.publish_lines("orders", vec![&large; 150]).await;
    let id = gateway.publish("orders", "wanted").await;
    past.take(151).await;
    let answer = eventually("one stream to be past it", async || {
        let answer = json(&gateway, &format!("/admin/events/{id}")).await;
        let past = answer["open"]["past"].as_array().map(Vec::len);
        if past == Some(1) {
            Ok(answer)
        } else {
            Err(answer.to_string())
        }
    })
    .await;
    assert_eq!(answer["id"], id.to_string(), "{answer}");
    assert_eq!(answer["stored"], true, "{answer}");
    assert_eq!(answer["topic"], "orders", "{answer}");
    assert_eq!(answer["event"], "message", "{answer}");
    assert!(answer["bytes"].as_u64().unwrap() >= 6, "{answer}");
    let at = answer["at"].as_str().unwrap_or_default();
    assert!(at.starts_with("20") && at.ends_with('Z'), "{answer}");
    let names = |list: &Value| list.to_string();
    assert!(
        names(&answer["open"]["past"]).contains(&connection(&past)),
        "{answer}"
    );
    assert!(
        names(&answer["open"]["before"]).contains(&connection(&stuck)),
        "{answer}"
    );
    assert_eq!(answer["open"]["not_subscribed"], 1, "{answer}");
    let closed = names(&answer["closed"]);
    assert!(closed.contains(&closed_id), "{answer}");
    assert!(closed.contains("gone"), "it says why it ended: {answer}");
    // What was in it is nobody's business.
    assert!(!answer.to_string().contains("wanted"), "{answer}");
}

#[tokio::test]
async fn an_event_that_is_not_there_is_told_as_such() {
    let gateway = Gateway::with("retention.events", 1).start().await;
    let gone = gateway.publish("orders", "a").await;
    let there = gateway.publish("orders", "b").await;
    let answer = json(&gateway, &format!("/admin/events/{there}")).await;
    assert_eq!(answer["stored"], true, "{answer}");
    for id in [
        gone.to_string(),
        "1-1".to_owned(),
        "99999999999999-0".to_owned(),
    ] {
        let answer = gateway.get_admin(&format!("/admin/events/{id}")).await;
        // Known not to be there, and no error of whoever asks.
        assert!([200, 404].contains(&answer.status()), "{answer:?}");
        if answer.status() == 200 {
            assert_eq!(answer.json()["stored"], false, "{answer:?}");
        }
    }
    let answer = gateway.get_admin("/admin/events/nonsense").await;
    answer.refuses(400, "cursor_invalid");
}

#[tokio::test]
async fn settings_are_shown_with_their_sources_and_without_secrets() {
    let gateway = Gateway::settings()
        .config("auth:\n  tokens: [{name: shop, token: shop-0123456789abcdef, publish: [orders]}]\nstream: {keepalive: 7s}\n")
        .with("admin.token", "admin-0123456789abcdef")
        .with("auth.jwt.secret", "a secret of more than thirty-two bytes")
        .with("stream.retry", "5s")
        .start()
        .await;
    let config = json(&gateway, "/config").await;
    let settings = &config["settings"];
    for (key, value, source) in [
        ("stream.keepalive", "7s", "file"),
        ("stream.retry", "5s", "environment"),
        ("stream.write_timeout", "1m", "default"),
        ("admin.token", "***", "environment"),
        ("auth.jwt.secret", "***", "environment"),
    ] {
        let setting = &settings[key];
        let shown = &setting["value"];
        let same = shown == value || (value == "1m" && shown == "60s");
        assert!(same, "{key}: {setting}");
        assert_eq!(setting["source"], source, "{key}: {setting}");
    }
    let text = config.to_string();
    for secret in ["0123456789", "thirty-two"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    gateway.reload("auth:\n  tokens: [{name: shop, token: shop-0123456789abcdef}]\nstream: {keepalive: 8s}\n").await;
    let config = json(&gateway, "/config").await;
    assert_eq!(config["settings"]["stream.keepalive"]["value"], "8s");
}

#[tokio::test]
async fn stats_count_what_there_is() {
    let gateway = Gateway::start().await;
    let _reader = gateway.subscribe("orders,stock").await;
    gateway.publish("orders", "a").await;
    let stats = json(&gateway, "/stats").await;
    for part in ["connections", "topics", "messages", "store", "memory"] {
        assert!(!stats[part].is_null(), "{part} in {stats}");
    }
}
