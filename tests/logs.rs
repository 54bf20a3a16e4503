//! Each line of a log is one line and says what it should, nothing secret among it; files are turned without losing one.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Gateway, RedisServer, Request, Settings, eventually};

/// All that a gateway wrote until its end.
async fn all_of(gateway: Gateway) -> String {
    let exit = gateway.stop(Duration::from_secs(5)).await;
    assert!(exit.status.success(), "{exit:?}");
    exit.output
}

fn quick() -> Settings {
    Gateway::with("drain.timeout", "1s")
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

/// The lines of a log, of which each is an object and has what every line has.
fn objects(text: &str) -> Vec<Value> {
    let line = |line: &str| {
        assert!(!line.contains(speaks), "{line:?}");
        let object = json(line);
        for name in ["timestamp", "level", "message", "target"] {
            assert!(object[name].is_string(), "no {name}: {line}");
        }
        let moment = object["timestamp"].as_str().unwrap();
        assert!(moment.len() == 27 && moment.ends_with('Z'), "{line}");
        object
    };
    text.lines().map(line).collect()
}

/// What a terminal or a pager would take for more than a character.
fn speaks(character: char) -> bool {
    character.is_control() || ('\u{2028}'..='\u{202e}').contains(&character)
}

fn of<'a>(lines: &'a [Value], target: &str) -> Vec<&'a Value> {
    let of_target = lines.iter().filter(|line| line["target"] == target);
    of_target.collect()
}

fn one<'a>(lines: &'a [Value], name: &str, value: &str) -> &'a Value {
    let mut found = lines.iter().filter(|line| line[name] == value);
    let (first, second) = (found.next(), found.next());
    assert!(second.is_none(), "{name}={value} twice: {lines:#?}");
    first.unwrap_or_else(|| panic!("no {name}={value}: {lines:#?}"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn request_ids(text: &str) -> Vec<String> {
    let lines = text.lines().map(json);
    let requests = lines.filter(|line| line["message"] == "request");
    requests
        .map(|line| line["request_id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_request_and_the_end_of_a_stream_are_a_line_of_json_each() {
    let gateway = quick().start().await;
    let subscription = gateway.events("topic=orders");
    let mut reader = subscription
        .header("X-Request-Id", "the-stream")
        .open()
        .await;
    let publish = Request::publish(r#"{"topic":"orders","data":"1"}"#);
    gateway
        .ask(publish.header("X-Request-Id", "the-publish"))
        .await;
    reader.next().await;
    let wrong = Request::get("/events?topic=*").header("X-Request-Id", "the-refusal");
    gateway.ask(wrong).await.refuses(400, "topic_invalid");
    let lost = Request::get("/event?topic=orders").header("X-Request-Id", "the-lost");
    gateway.ask(lost).await.refuses(404, "not_found");
    drop(reader);
    gateway.has_open_streams(0).await;
    let lines = objects(&all_of(gateway).await);
    let access: Vec<Value> = of(&lines, "access").into_iter().cloned().collect();

    let publish = one(&access, "request_id", "the-publish");
    assert_eq!(publish["message"], "request");
    assert_eq!(
        (&publish["method"], &publish["route"]),
        (&"POST".into(), &"/publish".into())
    );
    assert_eq!(publish["status"], 200);
    assert!(
        publish["duration_us"].is_u64() && publish["address"].is_string(),
        "{publish}"
    );
    for absent in ["code", "path", "trace_id"] {
        assert!(publish.get(absent).is_none(), "{publish}");
    }
    let refusal = one(&access, "request_id", "the-refusal");
    assert_eq!(
        (&refusal["status"], &refusal["code"]),
        (&400.into(), &"topic_invalid".into())
    );
    let lost = one(&access, "request_id", "the-lost");
    assert_eq!(
        (&lost["route"], &lost["path"]),
        (&"other".into(), &"/event".into())
    );

    let ends: Vec<Value> = access
        .iter()
        .filter(|line| line["message"] == "stream ended")
        .cloned()
        .collect();
    let end = one(&ends, "request_id", "the-stream");
    assert_eq!(end["events"], 1);
    assert_eq!(end["lag_ms"], 0, "the reader had taken everything: {end}");
    assert_eq!(end["reason"], "gone");
    for number in ["duration_ms", "bytes"] {
        assert!(end[number].is_u64(), "{end}");
    }
}

/// The lag at a stream's end is for how long its reader had not taken what it was given.
#[tokio::test]
async fn a_stuck_reader_is_logged_with_its_lag() {
    let gateway = quick().with("stream.write_timeout", "2s").start().await;
    let reader = gateway.events("topic=orders").narrow().open().await;
    let large = "x".repeat(60_000);
    for _ in 0..4 {
        gateway.publish_all("orders", [&*large; 10]).await;
    }
    gateway.has_open_streams(0).await;
    drop(reader);
    let lines = objects(&all_of(gateway).await);
    let end = one(&lines, "message", "stream ended");
    assert_eq!(end["reason"], "stuck");
    assert!(end["lag_ms"].as_u64().unwrap() >= 1_000, "{end}");
}

#[tokio::test]
async fn text_is_a_line_for_people() {
    let mut program = quick().with("log.format", "text").run();
    let address = program
        .line("where it listens", |line| {
            let rest = line.split_once("listening listener=public address=")?.1;
            rest.parse().ok()
        })
        .await;
    let mut connection = crate::support::Connection::open(address).await;
    let request = Request::get("/health/live").header("X-Request-Id", "abc");
    assert_eq!(connection.ask(&request).await.status(), 200);
    program.terminate();
    let output = program.exit(Duration::from_secs(5)).await.output;
    let mut found = 0;
    for line in output.lines() {
        let (moment, rest) = line.split_once(' ').unwrap();
        assert!(moment.len() == 27 && moment.ends_with('Z'), "{line:?}");
        assert!(
            !line.contains('\u{1b}'),
            "no colours where nobody sees them: {line:?}"
        );
        if let Some(rest) = rest
            .trim_start()
            .strip_prefix("INFO access: request request_id=abc ")
        {
            assert!(
                rest.contains(" method=GET route=/health/live status=200 "),
                "{line}"
            );
            found += 1;
        }
    }
    assert_eq!(found, 1, "{output}");
}

#[tokio::test]
async fn access_and_audit_lines_can_be_left_out_each_by_itself() {
    for (access, audit) in [(true, true), (false, true), (true, false), (false, false)] {
        let settings = quick().with("log.access", access).with("log.audit", audit);
        // They have switches of their own: the level is that of the rest.
        let gateway = settings
            .with("log.level", "info,tidegate::hub=off")
            .start()
            .await;
        let stranger = Request::publish(r#"{"topic":"a","data":""}"#);
        let stranger = stranger.header("Origin", "https://stranger.example");
        gateway.ask(stranger).await.refuses(403, "origin_forbidden");
        let lines = objects(&all_of(gateway).await);
        assert_eq!(
            of(&lines, "access").len(),
            usize::from(access),
            "{lines:#?}"
        );
        let refusals = of(&lines, "audit");
        assert_eq!(refusals.len(), usize::from(audit), "{lines:#?}");
        for line in refusals {
            assert_eq!(line["event"], "origin_refused");
            assert_eq!(line["outcome"], "DENIED");
        }
    }
}

#[tokio::test]
async fn the_level_of_the_main_log_is_not_that_of_the_others() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("t.log");
    let gateway = quick().start_logging_into(&file).await;
    let port = gateway.public.port();
    drop(gateway);
    fs::remove_file(&file).unwrap();
    let settings = quick().with("server.listen", format!("127.0.0.1:{port}"));
    let settings = settings
        .with("log.level", "off")
        .with("log.file", file.display());
    let program = settings.run();
    let access = directory.path().join("t.access.log");
    eventually("an access line", async || {
        let Ok(mut socket) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
            return Err("nobody listens yet".to_owned());
        };
        let request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: seen\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut socket, request)
            .await
            .map_err(|error| error.to_string())?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let text = read(&access);
        if text.contains("\"seen\"") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    drop(program);
    assert_eq!(read(&file), "");
}

#[tokio::test]
async fn the_id_of_a_request_is_taken_or_made_and_always_returned() {
    let gateway = quick().start().await;
    let long = "x".repeat(64);
    for fit in ["7", "a-b_c.d:e", &*long] {
        let answer = gateway
            .ask(Request::get("/health/live").header("X-Request-Id", fit))
            .await;
        assert_eq!(answer.header("x-request-id"), Some(fit));
    }
    let mut made = BTreeSet::new();
    let too_long = "x".repeat(65);
    for unfit in [
        "",
        "a b",
        "a\"b",
        "{}",
        "é",
        "a\u{1b}[2J",
        "a\tb",
        &*too_long,
    ] {
        let request = Request::get("/health/live").header("X-Request-Id", unfit);
        let answer = gateway.ask(request).await;
        // Whatever a header must not hold at all is refused before anybody reads the id.
        if answer.status() == 200 {
            let id = answer.header("x-request-id").unwrap();
            assert!(
                id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{id}"
            );
            made.insert(id.to_owned());
        }
    }
    let none = gateway.get("/nowhere").await;
    let detail = none.problem();
    assert_eq!(none.header("x-request-id"), detail["request_id"].as_str());
    made.insert(none.header("x-request-id").unwrap().to_owned());
    assert!(made.len() > 4, "each has its own: {made:?}");
    let text = all_of(gateway).await;
    let ids = request_ids(&text);
    for id in made.iter().map(String::as_str).chain(["7", &*long]) {
        assert!(ids.iter().any(|logged| logged == id), "{id}: {ids:?}");
    }
}

/// Whatever a client sends, it neither begins a line nor speaks to a terminal.
#[tokio::test]
async fn no_client_writes_a_line_of_its_own() {
    const FORGED: &str = "forged-by-a-client";
    for format in ["json", "text"] {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("t.log");
        let settings = quick().with("log.level", "trace");
        let gateway = settings.start_logging_into(&file).await;
        let (public, admin) = (gateway.public, gateway.admin);
        drop(gateway);
        for kind in ["", ".access", ".audit", ".error"] {
            fs::remove_file(directory.path().join(format!("t{kind}.log"))).unwrap();
        }
        let settings = quick()
            .with("log.level", "trace")
            .with("log.format", format);
        let settings = settings
            .with("server.listen", public)
            .with("admin.listen", admin);
        let program = settings.with("log.file", file.display()).run();
        eventually("it listens", async || {
            let connected = tokio::net::TcpStream::connect(admin).await;
            connected.map(drop).map_err(|error| error.to_string())
        })
        .await;
        let line = format!(
            "\r\n{{\"level\":\"ERROR\",\"message\":\"{FORGED}\"}}\r\n\u{1b}[2J\u{1b}]0;{FORGED}\u{7}"
        );
        let encoded = line
            .bytes()
            .fold(String::new(), |text, byte| text + &format!("%{byte:02X}"));
        let raw = |text: String| text.into_bytes();
        let requests = [
            raw(format!(
                "GET /{encoded} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )),
            raw(format!(
                "GET /events?topic={encoded}&lastEventId={encoded} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )),
            raw(format!("GET /{line} HTTP/1.1\r\nHost: localhost\r\n\r\n")),
            raw(format!(
                "GET /\u{1b}[2J HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a{line}\r\n\r\n"
            )),
            raw(format!(
                "GET /\u{202e}\u{2028}{FORGED} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )),
            raw(format!("{encoded} / HTTP/1.1\r\nHost: localhost\r\n\r\n")),
            raw(format!("GET /health HTTP/1.1\r\nHost: {encoded}\r\n\r\n")),
            raw(format!(
                "GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: {encoded}\r\nUser-Agent: \u{1b}[2J\r\ntraceparent: 00-{encoded}-01\r\nForwarded: for=\"{encoded}\"\r\nX-Forwarded-For: \u{9b}2J\r\n\r\n"
            )),
            raw(format!(
                "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: {encoded}\r\nContent-Encoding: {encoded}\r\nAuthorization: Bearer {encoded}\r\nContent-Length: 0\r\n\r\n"
            )),
            raw(format!(
                "DELETE /admin/topics/{encoded} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )),
            raw(format!(
                "DELETE /admin/topics/%1b%5b2J HTTP/1.1\r\nHost: localhost\r\nOrigin: https://\u{1b}{FORGED}\r\n\r\n"
            )),
            b"GET /\x9b2J\xc2\x9b2J HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ];
        for request in requests {
            for listener in [public, admin] {
                let mut connection = crate::support::Connection::open(listener).await;
                connection.send(&request).await;
                // Some are answered and some cut; all are logged before the gateway ends.
                let _ = tokio::time::timeout(Duration::from_millis(100), connection.read()).await;
            }
        }
        program.terminate();
        let mut program = program;
        let printed = program.exit(Duration::from_secs(5)).await.output;
        assert_eq!(printed, "", "everything is in the files");
        let mut lines = 0;
        for kind in ["", ".access", ".audit", ".error"] {
            let text = read(&directory.path().join(format!("t{kind}.log")));
            for line in text.lines() {
                lines += 1;
                assert!(!line.contains(speaks), "{line:?}");
                match format {
                    "json" => assert_ne!(json(line)["message"], FORGED),
                    _ => assert!(
                        line.starts_with("20") && line.as_bytes()[26] == b'Z',
                        "{line:?}"
                    ),
                }
            }
        }
        assert!(lines > 20, "{lines}");
    }
}

/// With every secret that there can be, in every place where one can stand, at the most talkative level.
#[tokio::test]
async fn nothing_secret_is_in_any_line() {
    // A part of each, so that looking for one word finds all of them.
    const SECRET: &str = "hunter2";
    let redis = RedisServer::settings()
        .password("hunter2-redis")
        .start()
        .await;
    let settings = "
admin: {token: hunter2-admin}
auth:
  tokens:
    - {name: shop, token: hunter2-static, publish: ['*'], subscribe: ['*']}
    - {name: other, token: hunter2-other, subscribe: [b]}
  jwt: {secret: hunter2-of-at-least-32-bytes-for-hs256}
";
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJodW50ZXIyIjoiaHVudGVyMiJ9.hunter2hunter2hunter2hunter2hunter2hunter2x";
    for format in ["json", "text"] {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("t.log");
        let start = |format: &str| {
            quick()
                .argument("--config")
                .argument("tidegate.yaml")
                .file("tidegate.yaml", settings)
                .with("redis.url", redis.url())
                .with("log.level", "trace")
                .with("log.format", format)
        };
        let mut gateway = start("json").start_logging_into(&file).await;
        if format == "text" {
            let again = start("text")
                .with("server.listen", gateway.public)
                .with("admin.listen", gateway.admin);
            gateway.terminate();
            gateway.program().exit(Duration::from_secs(5)).await;
            let (public, admin) = (gateway.public, gateway.admin);
            let program = again.with("log.file", file.display()).run();
            eventually("it listens", async || {
                let connected = tokio::net::TcpStream::connect(admin).await;
                connected.map(drop).map_err(|error| error.to_string())
            })
            .await;
            gateway = Gateway::of(program, public, admin);
        }
        for secret in [
            "hunter2-static",
            "hunter2-other",
            "hunter2-unknown",
            "hunter2-admin",
            jwt,
        ] {
            // Nobody can tell a word that is nobody's token from any other, where no token belongs.
            let wrong = match secret {
                "hunter2-unknown" => "hunter2-static",
                secret => secret,
            };
            let body = format!(r#"{{"topic":"a","data":"{SECRET}"}}"#);
            let topic = format!(r#"{{"topic":"{wrong}","data":"{SECRET}","key":"{wrong}"}}"#);
            let bearer = format!("Bearer {secret}");
            let requests = [
                Request::publish(&body).header("Authorization", &bearer),
                Request::publish(&topic).header("Authorization", &bearer),
                Request::publish(&body).header("Authorization", secret),
                Request::publish(&body).header("Authorization", &format!("Basic {secret}")),
                Request::publish(&body).header("Cookie", &format!("tidegate={secret}; {secret}=1")),
                Request::publish(&body).header("Idempotency-Key", wrong),
                Request::publish(&body).header("X-Request-Id", wrong),
                Request::publish(&body).header("Origin", &format!("https://{wrong}.example")),
                Request::publish(&body).header("Content-Type", wrong),
                Request::post("/ticket", "application/json", "").header("Authorization", &bearer),
                Request::post(
                    &format!("/connections/{secret}/token"),
                    "application/json",
                    "",
                )
                .header("Authorization", &bearer),
                Request::get(&format!(
                    "/events?topic=a&access_token={secret}&refuse=status"
                ))
                .header("Accept", "text/html"),
                Request::get(&format!("/events?topic=a&ticket={secret}&refuse=status")),
                Request::get(&format!(
                    "/events?topic={wrong}&lastEventId={wrong}&since={wrong}&refuse=status"
                )),
                Request::get(&format!("/nowhere?access_token={secret}")),
                Request::get(&format!("/health?{secret}")),
                Request::get("/health")
                    .header(secret, "1")
                    .header("X-Token", secret),
                Request::get("/health").header("Host", wrong),
                Request::get("/health")
                    .header("X-Forwarded-For", secret)
                    .header("Forwarded", &format!("for={secret}")),
                Request::get("/health").header("traceparent", wrong),
                Request::new("DELETE", &format!("/admin/topics/a?token={secret}"))
                    .header("Authorization", &bearer),
                Request::new(wrong, "/publish"),
            ];
            for request in &requests {
                for listener in [gateway.public, gateway.admin] {
                    let mut connection = crate::support::Connection::open(listener).await;
                    connection.send(request.bytes(listener)).await;
                    let _ =
                        tokio::time::timeout(Duration::from_millis(200), connection.read()).await;
                }
            }
            // Pasted into the path: what the gateway knows, and what looks like a token.
            for path in [
                format!("/{wrong}"),
                format!("/events/{wrong}"),
                format!("/access_token={wrong}"),
            ] {
                gateway.get(&path).await.refuses(404, "not_found");
            }
            // What is no HTTP.
            for garbage in [
                format!("{secret}\r\n\r\n"),
                format!("GET / HTTP/1.1\r\n{secret}\r\n\r\n"),
                format!("GET /{secret}\u{1} HTTP/1.1\r\n\r\n"),
            ] {
                let mut connection = gateway.connect().await;
                connection.send(&garbage).await;
                let _ = tokio::time::timeout(Duration::from_millis(200), connection.read()).await;
            }
        }
        gateway.terminate();
        let printed = gateway.program().exit(Duration::from_secs(5)).await.output;
        let mut all = printed;
        for kind in ["", ".access", ".audit", ".error"] {
            all += &read(&directory.path().join(format!("t{kind}.log")));
        }
        assert!(all.lines().count() > 100, "{all}");
        for line in all.lines() {
            assert!(!line.contains(SECRET), "{line}");
        }
    }
}

/// A token that a reload brought is as secret as those of the start.
#[tokio::test]
async fn a_secret_that_came_by_a_reload_is_in_no_line_either() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("t.yaml");
    let tokens = |more: &str| {
        let first = "{name: first, token: first-token, publish: [a]}";
        fs::write(&file, format!("auth: {{tokens: [{first}{more}]}}\n")).unwrap();
    };
    tokens("");
    let settings = quick()
        .argument("--config")
        .argument(file.to_str().unwrap());
    let gateway = settings.start().await;
    tokens(", {name: second, token: second-token, publish: [a]}");
    let reload = Request::post("/admin/reload-config", "application/json", "");
    let answer = gateway.ask_admin(reload).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let misplaced = Request::publish(r#"{"topic":"second-token","data":""}"#);
    let misplaced = misplaced.header("Authorization", "Bearer first-token");
    gateway.ask(misplaced).await.refuses(403, "forbidden");
    let output = all_of(gateway).await;
    let lines = objects(&output);
    let refusal = one(&lines, "event", "forbidden");
    assert!(
        refusal["detail"].as_str().unwrap().contains("***"),
        "{refusal}"
    );
    assert!(
        !output.contains("second-token") && !output.contains("first-token"),
        "{output}"
    );
}

/// An error at the start repeats what was written, but no secret of it.
#[tokio::test]
async fn nothing_secret_is_in_an_error_at_the_start() {
    let failing = [
        quick().with("log.level", "redis://:hunter2@host:6379"),
        quick().with("log.format", "redis://:hunter2@host:6379"),
        quick().with("server.listen", "redis://:hunter2@host:6379"),
        quick()
            .with("log.file", "/nowhere/tidegate.log")
            .with("redis.url", "redis://:hunter2@127.0.0.1:1"),
        quick().with("redis.url", "redis//:hunter2@host"),
        quick().with("traces.endpoint", "http://u:hunter2@127.0.0.1:4318"),
        quick().with("traces.endpoint", "grpc://hunter2"),
        quick()
            .with("admin.token", "hunter2")
            .with("admin.tokem", "hunter2"),
        quick().argument("--config").argument("t.yaml").file(
            "t.yaml",
            "auth:\n  jwt:\n    secret: hunter2\n    secrets: 1\n",
        ),
    ];
    for settings in failing {
        let exit = settings.refuses_to_start().await;
        assert!(!exit.output.contains("hunter2"), "{exit:?}");
    }
}

#[tokio::test]
async fn with_a_file_each_log_has_its_own_and_nothing_is_printed() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("tidegate.log");
    // A warning at the start: it is of the main log and of that of errors.
    let settings = quick()
        .without("server.listen")
        .env("HOST", "x86_64-linux-gnu")
        .env("PORT", "0");
    let gateway = settings.start_logging_into(&file).await;
    let stranger = Request::publish(r#"{"topic":"a","data":""}"#);
    let stranger = stranger.header("Origin", "https://stranger.example");
    gateway.ask(stranger).await.refuses(403, "origin_forbidden");
    assert_eq!(all_of(gateway).await, "");
    let lines = |kind: &str| objects(&read(&directory.path().join(format!("tidegate{kind}.log"))));
    let (main, access, audit, error) = (
        lines(""),
        lines(".access"),
        lines(".audit"),
        lines(".error"),
    );
    assert!(
        main.iter().any(|line| line["message"] == "exit"),
        "the last line, too: {main:#?}"
    );
    assert!(
        main.iter()
            .all(|line| line["target"] != "access" && line["target"] != "audit")
    );
    assert!(!access.is_empty() && access.iter().all(|line| line["target"] == "access"));
    assert!(!audit.is_empty() && audit.iter().all(|line| line["target"] == "audit"));
    assert!(
        !error.is_empty() && error.iter().all(|line| line["level"] == "WARN"),
        "{error:#?}"
    );
    assert!(error.iter().all(|line| main.contains(line)));
    for kind in ["", ".access", ".audit", ".error"] {
        let metadata = fs::metadata(directory.path().join(format!("tidegate{kind}.log"))).unwrap();
        let mode = metadata.permissions().mode();
        assert_eq!(
            mode & 0o137,
            0,
            "not for everybody, and not to be run: {mode:o}"
        );
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing").join("tidegate.log");
    for (path, why) in [
        (missing.as_path(), "No such file"),
        (directory.path(), "directory"),
        (Path::new("/proc/tidegate.log"), "No such file"),
    ] {
        let exit = quick()
            .with("log.file", path.display())
            .refuses_to_start()
            .await;
        assert!(
            exit.output.contains("log.file") && exit.output.contains(why),
            "{exit:?}"
        );
        assert!(
            exit.output.contains(&path.display().to_string()),
            "{exit:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_full_is_put_aside_and_no_line_is_lost_or_split() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("t.log");
    let settings = quick()
        .with("log.rotate.size", "3KiB")
        .with("log.rotate.count", 4);
    let gateway = settings.start_logging_into(&file).await;
    let mut connection = gateway.connect().await;
    for number in 0..200 {
        let id = format!("n{number}");
        connection
            .ask(&Request::get("/health/live").header("X-Request-Id", &id))
            .await;
        if number % 20 == 0 {
            // Now and then the lines are gathered, now and then they are not.
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
    drop(connection);
    all_of(gateway).await;
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("t.access.log"))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "t.access.log",
            "t.access.log.1",
            "t.access.log.2",
            "t.access.log.3",
            "t.access.log.4"
        ]
    );
    let mut ids = Vec::new();
    names.rotate_left(1);
    for name in names[..4].iter().rev().chain(&names[4..]) {
        let text = read(&directory.path().join(name));
        assert!(
            text.len() <= 3 * 1024 && text.ends_with('\n'),
            "{name}: {}",
            text.len()
        );
        assert!(!objects(&text).is_empty());
        ids.extend(request_ids(&text));
    }
    let first = 200 - ids.len();
    let wanted: Vec<_> = (first..200).map(|number| format!("n{number}")).collect();
    assert_eq!(ids, wanted);
    assert!(ids.len() > 40, "{}", ids.len());
}

#[tokio::test]
async fn a_file_that_is_old_is_put_aside_though_nothing_is_written() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("t.log");
    // The lines that say where it listens are found in the first file.
    let settings = quick().with("log.rotate.age", "2s");
    let gateway = settings.start_logging_into(&file).await;
    gateway.get("/health/live").await;
    let aside = directory.path().join("t.access.log.1");
    let text = eventually("the file to be put aside", async || {
        Some(read(&aside))
            .filter(|text| !text.is_empty())
            .ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert_eq!(request_ids(&text).len(), 1);
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    let more = directory.path().join("t.access.log.2");
    assert!(!more.exists(), "an empty file is not put aside");
    assert!(!directory.path().join("t.audit.log.1").exists());
}

/// As logrotate does it: rename, signal, go on.
#[tokio::test]
async fn files_that_were_put_aside_are_opened_anew_at_a_signal_and_no_line_is_lost() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("t.log");
    let settings = quick()
        .with("log.rotate.size", 0)
        .with("log.rotate.age", "0s");
    let mut gateway = settings.start_logging_into(&file).await;
    let access = directory.path().join("t.access.log");
    let mut connection = gateway.connect().await;
    let mut asides = Vec::new();
    for number in 0..300 {
        let id = format!("n{number}");
        connection
            .ask(&Request::get("/health/live").header("X-Request-Id", &id))
            .await;
        if number % 100 == 50 {
            let aside = directory.path().join(format!("aside-{number}"));
            fs::rename(&access, &aside).unwrap();
            asides.push(aside);
        }
        if number % 100 == 70 {
            gateway.program().signal(Signal::USR1);
            eventually("a new file", async || {
                access
                    .exists()
                    .then_some(())
                    .ok_or_else(|| "none".to_owned())
            })
            .await;
        }
    }
    drop(connection);
    let said = all_of(gateway).await;
    assert_eq!(said, "");
    asides.push(access);
    let mut ids = Vec::new();
    for name in &asides {
        let part = request_ids(&read(name));
        assert!(!part.is_empty(), "{}", name.display());
        ids.extend(part);
    }
    let wanted: Vec<_> = (0..300).map(|number| format!("n{number}")).collect();
    assert_eq!(ids, wanted);
    assert!(read(&file).contains("opened again"));
}

/// The gateway serves on, and says it once where it still can.
#[tokio::test]
async fn a_disk_that_is_full_harms_only_the_log() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let directory = TempDir::new().unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("t.access.log")).unwrap();
    let mut gateway = quick()
        .start_logging_into(&directory.path().join("t.log"))
        .await;
    for number in 0..50 {
        gateway.publish("orders", &number.to_string()).await;
    }
    let complaint = |line: &str| line.contains("No space left on device").then_some(());
    gateway
        .program()
        .line("that the disk is full", complaint)
        .await;
    gateway.publish("orders", "still").await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let said = all_of(gateway).await;
    assert_eq!(said.lines().count(), 1, "once: {said}");
    assert!(said.contains("t.access.log"), "{said}");
}

#[tokio::test]
async fn lines_that_were_dropped_are_counted() {
    let gateway = Gateway::start().await;
    let metrics = gateway.get_admin("/metrics").await.text();
    for log in ["main", "access", "audit"] {
        let line = format!("tidegate_log_lines_dropped_total{{log=\"{log}\"}} 0");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}
