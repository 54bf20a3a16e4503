//! Who comes and goes, as events that are followed like any other.

use std::{path::Path, process::Command};

use rustix::process::Signal;
use tokio::task::spawn_blocking;

use super::*;

/// A file of settings with another debounce, which a reload may change.
fn file(debounce: &str) -> String {
    format!("presence: {{enabled: true, debounce: {debounce}}}\n")
}

/// A gateway with this debounce, from a file.
fn debounced(debounce: &str) -> Settings {
    settings()
        .without("presence.debounce")
        .without("presence.enabled")
        .config(&file(debounce))
}

/// A user comes with its first stream, at once, and has left when its last one has been closed for `presence.debounce`.
#[tokio::test]
async fn a_user_joins_and_leaves_once_however_many_streams_it_has() {
    let gateway = settings().start().await;
    let mut watch = gateway.watch("room").await;
    let first = gateway.visit("room", "alice").await;
    assert_eq!(watch.change().await, "join alice");
    let second = gateway.visit("room,hall", "alice").await;
    let third = gateway
        .ws("topic=room")
        .bearer(&token("alice"))
        .open()
        .await;
    let bob = gateway.visit("room", "b\"o\\b ü/").await;
    assert_eq!(watch.change().await, "join b\"o\\b ü/");
    drop((first, third));
    let carol = gateway.visit("room", "carol").await;
    assert_eq!(watch.change().await, "join carol");
    drop(bob);
    assert_eq!(
        watch.change().await,
        "leave b\"o\\b ü/",
        "alice has one stream left"
    );
    drop(second);
    assert_eq!(watch.change().await, "leave alice");
    drop(carol);
    assert_eq!(watch.change().await, "leave carol");
}

/// A page that is loaded again closes its stream and opens another one; a chain of polls does it all the time.
#[tokio::test]
async fn who_comes_back_at_once_has_not_left() {
    // However late they come on a busy machine, it is at once.
    let gateway = debounced("1h").start().await;
    let mut watch = gateway.watch("room").await;
    let mut alice = gateway.visit("room", "alice").await;
    assert_eq!(watch.change().await, "join alice");
    let mut cursor = gateway.poll("topic=room&wait=0s").answer().await.cursor;
    for round in 0..3 {
        drop(alice);
        gateway.has_open_streams(1).await;
        alice = gateway.visit("room", "alice").await;
        let poll = gateway.poll("topic=room&wait=60s").after(&cursor);
        let poll = poll.bearer(&token("bob")).begin().await;
        if round == 0 {
            assert_eq!(watch.change().await, "join bob");
        }
        gateway.publish("room", "next").await;
        cursor = poll.answer().await.cursor;
    }
    drop(gateway.visit("room", "carol").await);
    assert_eq!(watch.change().await, "join carol");
    // Whoever is away has left now, and nobody else.
    gateway.reload(&file("0s")).await;
    assert_eq!(watch.changes(2).await, ["leave bob", "leave carol"]);
    gateway.has("room", &["alice"]).await;
}

/// The list says where it stands among the events: whoever follows from there misses nothing and hears nothing twice.
#[tokio::test]
async fn joins_and_leaves_are_followed_from_a_cursor_by_all_encodings() {
    let gateway = settings().start().await;
    let early = gateway.visit("room", "early").await;
    gateway.has("room", &["early"]).await;
    let cursor = gateway.presence("room").await.json()["cursor"].clone();
    let cursor = cursor.as_str().unwrap();
    let late = gateway.visit("room", "late").await;
    drop(early);
    gateway.has("room", &["late"]).await;
    let wanted = ["join late", "leave early"];
    let topic = "$presence/room";
    let mut sse = gateway.resume(topic, cursor).await;
    assert_eq!(sse.replay(), "complete");
    assert_eq!([sse.change().await, sse.change().await], wanted);
    let mut ws = gateway.follow_after(topic, cursor).await;
    for wanted in wanted {
        let event = ws.next().await;
        assert_eq!(event.topic, topic);
        assert_eq!(change(Some(&event.event), &event.data), wanted);
    }
    let polled = gateway
        .poll(&format!("topic={topic}&wait=0s"))
        .after(cursor);
    let polled = polled.answer().await;
    polled.is_complete();
    let got = polled.events.iter();
    let got: Vec<_> = got.map(|it| change(it.kind.as_deref(), &it.data)).collect();
    assert_eq!(got, wanted);
    // A cursor of before is good for it together with other topics.
    let middle = sse.cursor();
    drop(late);
    let mut both = gateway.resume("room,$presence/room", &middle).await;
    assert_eq!(both.change().await, "leave late");
    assert_eq!(sse.change().await, "leave late");
    let topics = gateway.get_admin("/admin/topics?prefix=$presence/").await;
    assert_eq!(topics.json()["topics"][0]["topic"], topic, "{topics:?}");
    let one = gateway.get_admin("/admin/topics/%24presence%2Froom").await;
    assert_eq!(one.json()["events"], 4, "{one:?}");
}

/// What is awaited for ten seconds in vain is missing in what was said.
const WAITING: &str = r#"
exec > "$SAID"
opened() { curl -s "$ADMIN/metrics" | grep -q '^sse_active_connections 1$'; }
joined() { grep -q '^event: join$' "$SAID"; }
until_it_is() { for _ in {1..100}; do "$1" && return; sleep 0.1; done; }
"#;

/// The commands of the reference do what it says, but for the address and the secret.
#[tokio::test]
async fn the_page_about_presence_works_as_it_stands() {
    let page = std::fs::read_to_string("docs/presence.md").unwrap();
    let (_, commands) = page.split_once("```sh\nexport").unwrap();
    let (commands, _) = commands.split_once("```").unwrap();
    let home = tempfile::TempDir::new().unwrap();
    let said = home.path().join("said");
    let gateway = settings().without("auth.anonymous").start().await;
    let (lines, address) = (commands.lines().skip(1), gateway.public.to_string());
    let lines = lines.filter(|line| !line.ends_with("tidegate &"));
    let mut script: String = lines.map(|line| line.to_owned() + "\n").collect();
    script = script.replace("localhost:8080", &address) + "kill $(jobs -p)\n";
    // A second is enough for a person: first the board has to be there, then alice, and the board has to be told.
    for awaited in ["opened", "joined"] {
        assert!(script.contains("\nsleep 1\n"), "{script}");
        script = script.replacen("\nsleep 1\n", &format!("\nuntil_it_is {awaited}\n"), 1);
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    script.insert_str(0, WAITING);
    script.insert_str(0, "PATH=\"$GATEWAY:$PATH\"\n");
    let (admin, output) = (gateway.admin.to_string(), said.clone());
    let ran = spawn_blocking(move || {
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).env("GATEWAY", binary);
        shell.env("ADMIN", admin).env("SAID", output);
        shell.env("JWT_SECRET", SECRET).output().unwrap()
    });
    let ran = within_time(LEASE, "the commands to end", ran)
        .await
        .unwrap();
    let said = std::fs::read_to_string(said).unwrap();
    assert!(
        said.contains("event: join\ndata: {\"user\":\"alice\"}"),
        "{said} {ran:?}"
    );
    assert!(
        said.contains(r#""users":["alice"],"users_total":1"#),
        "{said} {ran:?}"
    );
}

#[tokio::test]
async fn the_debounce_changes_on_the_fly_and_the_rest_with_a_restart() {
    let mut gateway = debounced("1h").start().await;
    let mut watch = gateway.watch("room").await;
    drop(gateway.visit("room", "alice").await);
    assert_eq!(watch.change().await, "join alice");
    gateway.reloads(&file("0s")).await;
    // Those who have gone before are judged by the new setting, too.
    assert_eq!(watch.change().await, "leave alice");
    let bob = gateway.visit("room", "bob").await;
    assert_eq!(watch.change().await, "join bob");
    drop(bob);
    assert_eq!(watch.change().await, "leave bob");
    let answer = gateway
        .reloads("presence: {enabled: false, debounce: 0s}\n")
        .await;
    assert_eq!(answer["restart"][0]["key"], "presence.enabled", "{answer}");
    // When it drains, streams end in any order.
    let carol = gateway.visit("room", "carol").await;
    assert_eq!(watch.change().await, "join carol");
    drop(carol);
    assert_eq!(watch.change().await, "leave carol");
    gateway.program().signal(Signal::TERM);
    let frame = watch.control("$drain").await;
    assert!(frame.id.is_some());
}
