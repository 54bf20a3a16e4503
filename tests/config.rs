//! One typed tree of settings: every source has its place, and a mistake is told with the right name.

use serde_json::Value;

use crate::support::{Gateway, PATIENCE, Request, Settings};

/// The `retry` that streams are told, which lies within a third of `stream.retry`.
async fn retry_is_about(gateway: &Gateway, seconds: u64) {
    let retry = gateway.subscribe("orders").await.opening.retry_ms.unwrap();
    let set = seconds * 1_000;
    assert!(
        retry >= set * 2 / 3 && retry <= set * 4 / 3,
        "{retry} ms is not about {seconds} s"
    );
}

#[tokio::test]
async fn an_unknown_name_in_the_environment_is_an_error_that_names_the_right_one() {
    for (wrong, right) in [
        ("TIDEGATE_STREAM__KEEPALIV", "STREAM__KEEPALIVE"),
        ("TIDEGATE_STREAM__RETYR", "STREAM__RETRY"),
        ("TIDEGATE_SERVER__LISTN", "SERVER__LISTEN"),
        ("TIDEGATE_LIMITS__CONECTIONS", "LIMITS__CONNECTIONS"),
        ("TIDEGATE_STREAM_KEEPALIVE", "STREAM__KEEPALIVE"),
    ] {
        let exit = Gateway::settings()
            .env(wrong, "1s")
            .refuses_to_start()
            .await;
        assert!(exit.output.contains(wrong), "what was wrong: {exit:?}");
        // By its name in the environment, or by its key.
        let key = right.to_lowercase().replace("__", ".");
        let named = exit.output.contains(right) || exit.output.contains(&key);
        assert!(named, "what is right: {exit:?}");
    }
}

#[tokio::test]
async fn an_unknown_key_in_the_file_is_an_error_that_names_the_right_one() {
    for (yaml, wrong, right) in [
        ("stream:\n  keepalife: 5s\n", "keepalife", "keepalive"),
        ("straem:\n  keepalive: 5s\n", "straem", "stream"),
        ("limits:\n  conections: 5\n", "conections", "connections"),
    ] {
        let exit = Gateway::settings()
            .file("gateway.yaml", yaml)
            .argument("--config")
            .argument("gateway.yaml")
            .refuses_to_start()
            .await;
        assert!(exit.output.contains(wrong), "what was wrong: {exit:?}");
        let besides = exit.output.replace(wrong, "");
        assert!(besides.contains(right), "what is right: {exit:?}");
        assert!(exit.output.contains("gateway.yaml"), "where: {exit:?}");
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_an_error_that_says_where() {
    for (key, value) in [
        ("stream.keepalive", "soon"),
        ("stream.retry", "-5s"),
        ("retention.bytes", "many"),
        ("limits.connections", "ten"),
        ("limits.refuse_as", "never"),
        ("server.listen", "nowhere"),
        ("auth.anonymous", "everything"),
        ("log.level", "shout,,=="),
        ("store", "disk"),
        ("redis.url", "localhost:6379"),
        ("redis.prefix", "{a}"),
        ("redis.wait_replicas", "some"),
        ("feed.backlog", "many"),
    ] {
        let exit = Gateway::with(key, value).refuses_to_start().await;
        let name = key.replace('.', "__").to_uppercase();
        assert!(
            exit.output.contains(key) || exit.output.contains(&name),
            "{key} is named: {exit:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_no_yaml_is_an_error() {
    let missing = Gateway::settings()
        .argument("--config")
        .argument("missing.yaml");
    let exit = missing.refuses_to_start().await;
    assert!(exit.output.contains("missing.yaml"), "{exit:?}");
    let broken = Gateway::settings()
        .file("gateway.yaml", "stream: [\n")
        .argument("--config")
        .argument("gateway.yaml");
    let exit = broken.refuses_to_start().await;
    assert!(exit.output.contains("gateway.yaml"), "{exit:?}");
}

/// Later wins: defaults, file, `.env`, environment, flags.
#[tokio::test]
async fn each_source_wins_over_the_one_before() {
    let file = || Gateway::settings().file("gateway.yaml", "stream:\n  retry: 20s\n");
    let gateway = file()
        .argument("--config")
        .argument("gateway.yaml")
        .start()
        .await;
    retry_is_about(&gateway, 20).await;
    let by_name = file().env("TIDEGATE_CONFIG", "gateway.yaml");
    retry_is_about(&by_name.clone().start().await, 20).await;
    let gateway = by_name.with("stream.retry", "60s").start().await;
    retry_is_about(&gateway, 60).await;
}

#[tokio::test]
async fn a_file_of_names_stands_between_the_settings_and_the_environment() {
    let named = Gateway::settings()
        .file("gateway.yaml", "stream:\n  retry: 20s\n")
        .file(".env", "# a comment\nTIDEGATE_STREAM__RETRY=60s\n")
        .env("TIDEGATE_CONFIG", "gateway.yaml");
    retry_is_about(&named.clone().start().await, 60).await;
    let gateway = named.with("stream.retry", "180s").start().await;
    retry_is_about(&gateway, 180).await;
}

#[tokio::test]
async fn flags_win_over_the_environment() {
    let gateway = Gateway::with("server.listen", "127.0.0.1:1")
        .argument("--listen")
        .argument("127.0.0.1:0")
        .start()
        .await;
    assert_ne!(gateway.public.port(), 1);
    assert_eq!(gateway.get("/health/live").await.status(), 200);
}

/// Without a command the binary serves.
#[tokio::test]
async fn to_serve_is_the_default_command() {
    let gateway = Settings::command([])
        .with("server.listen", "127.0.0.1:0")
        .with("admin.listen", "127.0.0.1:0")
        .start()
        .await;
    assert_eq!(gateway.get("/health/live").await.status(), 200);
}

/// The plain names that the guides of the field use.
#[tokio::test]
async fn plain_names_are_aliases() {
    let gateway = Gateway::settings()
        .without("server.listen")
        .env("HOST", "127.0.0.2")
        .env("PORT", "0")
        .env("LOG_LEVEL", "info")
        .env("MAX_CONNECTIONS", "1")
        .env("MAX_SUBSCRIPTIONS_PER_CLIENT", "2")
        .env("ALLOWED_ORIGINS", "https://app.example")
        .start()
        .await;
    assert_eq!(gateway.public.ip().to_string(), "127.0.0.2");
    let reader = gateway
        .events("topic=a,b")
        .header("Origin", "https://app.example")
        .open()
        .await;
    let allowed = reader.head.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://app.example"));
    gateway
        .get("/events?topic=a")
        .await
        .refuses(503, "connection_limit");
    gateway
        .get("/events?topic=a,b,c")
        .await
        .refuses(400, "too_many_topics");
}

#[tokio::test]
async fn a_level_of_the_log_that_is_none_is_an_error_by_its_alias_too() {
    Gateway::settings()
        .env("LOG_LEVEL", "shout,,==")
        .refuses_to_start()
        .await;
}

/// Some shells and container platforms set `HOST` to a name of their own.
#[tokio::test]
async fn a_host_that_is_no_address_is_ignored_with_a_warning() {
    let mut gateway = Gateway::settings()
        .without("server.listen")
        .env("HOST", "x86_64-linux-gnu")
        .env("PORT", "0")
        .start()
        .await;
    assert!(gateway.public.ip().is_loopback());
    let program = gateway.program();
    program
        .line("that it ignored HOST", |line| {
            (line.contains("WARN") && line.contains("HOST")).then_some(())
        })
        .await;
}

/// Names that are not ours are not our business.
#[tokio::test]
async fn the_rest_of_the_environment_is_left_alone() {
    Gateway::settings()
        .env("PATH", "/usr/bin")
        .env("TIDE", "high")
        .env("STREAM__KEEPALIVE", "soon")
        .start()
        .await;
}

#[tokio::test]
async fn a_redis_store_without_a_url_is_an_error_that_says_how_to_give_one() {
    let exit = Gateway::with("store", "redis").refuses_to_start().await;
    for way in ["redis.url", "REDIS_URL=redis://", "REDIS_HOST="] {
        assert!(exit.output.contains(way), "{exit:?}");
    }
}

#[tokio::test]
async fn a_url_of_redis_that_is_none_is_an_error_that_keeps_its_password() {
    for (url, expected) in [
        ("app:s3cret@localhost:6379", "redis://"),
        ("redis://app:s3cret@localhost:port", "port"),
        ("redis://app:s3cret@localhost?protocol=3", "query"),
        ("redis://app:s3/cret@localhost", "%2F"),
        ("redis+sentinel://app:s3cret@localhost/main", "Sentinel"),
    ] {
        let exit = Gateway::settings()
            .env("REDIS_URL", url)
            .refuses_to_start()
            .await;
        assert!(exit.output.contains("REDIS_URL"), "where: {exit:?}");
        assert!(exit.output.contains(expected), "what is right: {exit:?}");
        assert!(!exit.output.contains("cret"), "the password: {exit:?}");
    }
}

#[tokio::test]
async fn certificate_and_key_for_redis_go_together() {
    let exit = Gateway::with("redis.tls.key", "gateway.key")
        .refuses_to_start()
        .await;
    assert!(exit.output.contains("both or none"), "{exit:?}");
}

/// Who says `memory` means it, but a URL beside it was meant, too.
#[tokio::test]
async fn memory_wins_over_a_url_of_redis_with_a_warning() {
    for (name, value) in [
        ("REDIS_URL", "redis://app:s3cret@localhost:1"),
        ("REDIS_HOST", "localhost:1"),
    ] {
        let mut gateway = Gateway::with("store", "memory")
            .env(name, value)
            .start()
            .await;
        let warning = gateway
            .program()
            .line("that it passes Redis over", |line| {
                (line.contains("WARN") && line.contains(name)).then(|| line.to_owned())
            })
            .await;
        assert!(!warning.contains("s3cret"), "{warning}");
        assert_eq!(gateway.get("/health/ready").await.status(), 200);
    }
}

/// Kubernetes describes every Service to every container beside it; one named `redis` is none of ours.
#[tokio::test]
async fn what_kubernetes_says_of_a_service_named_redis_gives_no_url() {
    let gateway = Gateway::settings()
        .env("REDIS_SERVICE_HOST", "127.0.0.1")
        .env("REDIS_SERVICE_PORT", "1")
        .env("REDIS_PORT", "tcp://127.0.0.1:1")
        .env("REDIS_PORT_1_TCP", "tcp://127.0.0.1:1")
        .env("REDIS_PORT_1_TCP_ADDR", "127.0.0.1")
        .start()
        .await;
    assert_eq!(gateway.get("/health/ready").await.status(), 200);
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let gateway = Gateway::start().await;
    let exit = Gateway::with("server.listen", gateway.public)
        .refuses_to_start()
        .await;
    assert!(
        exit.output.contains(&gateway.public.to_string()),
        "{exit:?}"
    );
}

/// What `config show --json` says of one setting: its value and its source.
async fn shown(settings: Settings, key: &str) -> (String, String, String) {
    let exit = settings.run().exit(PATIENCE).await;
    assert!(exit.status.success(), "{exit:?}");
    let begin = exit.output.find('{').unwrap();
    let end = exit.output.rfind('}').unwrap();
    let all: Value = serde_json::from_str(&exit.output[begin..=end]).unwrap();
    let part = |name: &str| match &all[key][name] {
        Value::String(text) => text.clone(),
        Value::Null if name == "place" => String::new(),
        other => other.to_string(),
    };
    (part("value"), part("source"), part("place"))
}

fn is(value: &str, source: &str, place: &str) -> (String, String, String) {
    (value.to_owned(), source.to_owned(), place.to_owned())
}

/// Five sources, each of which wins over those before.
#[tokio::test]
async fn every_source_is_shown_and_wins_over_the_one_before() {
    let key = "server.listen";
    let settings = || Settings::command(["config", "show", "--json"]);
    assert_eq!(
        shown(settings(), key).await,
        is("127.0.0.1:8080", "default", "")
    );
    let settings = || {
        let file = "server:\n  listen: 127.0.0.1:1\n";
        settings()
            .file("a.yaml", file)
            .env("TIDEGATE_CONFIG", "a.yaml")
    };
    let in_file = is("127.0.0.1:1", "file", "a.yaml, line 2 column 3");
    assert_eq!(shown(settings(), key).await, in_file);
    let settings = || settings().file(".env", "\nTIDEGATE_SERVER__LISTEN='127.0.0.1:2'\n");
    let in_names = is(
        "127.0.0.1:2",
        ".env",
        ".env, line 2, TIDEGATE_SERVER__LISTEN",
    );
    assert_eq!(shown(settings(), key).await, in_names);
    let settings = || settings().env("PORT", "3");
    assert_eq!(
        shown(settings(), key).await,
        is("127.0.0.1:3", "environment", "PORT")
    );
    let settings = || settings().with(key, "127.0.0.1:4");
    let in_environment = is("127.0.0.1:4", "environment", "TIDEGATE_SERVER__LISTEN");
    assert_eq!(shown(settings(), key).await, in_environment);
    let flagged = settings().argument("--listen").argument("127.0.0.1:5");
    assert_eq!(
        shown(flagged, key).await,
        is("127.0.0.1:5", "flag", "--listen")
    );
}

#[tokio::test]
async fn every_plain_name_stands_for_its_setting() {
    for (name, value, key, shows) in [
        ("HOST", "127.0.0.3", "server.listen", "127.0.0.3:8080"),
        ("HOST", "::1", "server.listen", "[::1]:8080"),
        ("PORT", "7", "server.listen", "127.0.0.1:7"),
        ("LOG_LEVEL", "warn", "log.level", "warn"),
        ("MAX_CONNECTIONS", "7", "limits.connections", "7"),
        (
            "MAX_SUBSCRIPTIONS_PER_CLIENT",
            "7",
            "limits.topics_per_connection",
            "7",
        ),
        (
            "ALLOWED_ORIGINS",
            "https://a.example",
            "cors.origins",
            "[\"https://a.example\"]",
        ),
        (
            "JWT_SECRET",
            "s3cret-s3cret-s3cret-s3cret-s3cret",
            "auth.jwt.secret",
            "***",
        ),
        (
            "REDIS_URL",
            "redis://:s3cret@cache/1",
            "redis.url",
            "redis://***@cache/1",
        ),
        ("REDIS_HOST", "cache:7", "redis.url", "redis://cache:7"),
    ] {
        let settings = Settings::command(["config", "show", "--json"]);
        let by_name = shown(settings.clone().env(name, value), key).await;
        assert_eq!(by_name, is(shows, "environment", name));
        let line = format!("# one\n{name}={value}\n");
        let in_file = shown(settings.file(".env", &line), key).await;
        assert_eq!(in_file, is(shows, ".env", &format!(".env, line 2, {name}")));
    }
}

#[tokio::test]
async fn check_says_whether_settings_are_valid() {
    let check = |yaml: &str| {
        Settings::command(["config", "check", "gateway.yaml"]).file("gateway.yaml", yaml)
    };
    let exit = check("stream: {keepalive: 5s}\n")
        .run()
        .exit(PATIENCE)
        .await;
    assert!(exit.status.success(), "{exit:?}");
    assert_eq!(exit.output, "ok");
    for (yaml, line, key) in [
        ("stream:\n  keepalife: 5s\n", "line 2", "stream.keepalive"),
        ("stream:\n  keepalive: soon\n", "line 2", "stream.keepalive"),
        ("server:\n  listen: 0.0.0.0:1\n", "line 2", "auth.anonymous"),
        (
            "auth:\n  tokens:\n  - name: shop\n    tokken: 0123456789abcdef\n",
            "line 4",
            "auth.tokens[0].token",
        ),
        (
            "retention:\n  rules:\n  - {prefix: a}\n  - {prefix: b, evnts: 1}\n",
            "line 4",
            "retention.rules[1].events",
        ),
        (
            "auth:\n  jwt:\n    public_key: missing.pem\n",
            "line 3",
            "auth.jwt.public_key",
        ),
        (
            "server:\n  tls:\n    certificate: missing.pem\n    key: missing.key\n",
            "line 3",
            "server.tls.certificate",
        ),
        ("stream: [\n", "line 2", ""),
    ] {
        let exit = check(yaml).refuses_to_start().await;
        assert_eq!(exit.status.code(), Some(1));
        for told in ["gateway.yaml", line, key] {
            assert!(exit.output.contains(told), "{told}: {exit:?}");
        }
    }
    let exit = check("store: memory\nredis: {url: 'redis://cache'}\n")
        .run()
        .exit(PATIENCE)
        .await;
    assert!(
        exit.status.success() && exit.output.contains("warning"),
        "{exit:?}"
    );
    let exit = Settings::command(["config", "check", "missing.yaml"])
        .refuses_to_start()
        .await;
    assert!(exit.output.contains("missing.yaml"), "{exit:?}");
}

/// An option in front of a command was for another one.
#[tokio::test]
async fn an_option_that_would_not_be_read_is_an_error() {
    for arguments in [
        ["--config", "a.yaml", "config", "check"],
        ["--config", "a.yaml", "serve", "--listen=127.0.0.1:0"],
    ] {
        let exit = Settings::command(arguments).refuses_to_start().await;
        assert_eq!(exit.status.code(), Some(2), "{exit:?}");
    }
    // A name in the environment is for all of them.
    let check = Settings::command(["config", "check"]).env("TIDEGATE_CONFIG", "a.yaml");
    let exit = check.file("a.yaml", "").run().exit(PATIENCE).await;
    assert!(exit.status.success(), "{exit:?}");
}

#[tokio::test]
async fn a_file_of_names_that_is_none_is_told() {
    let check = || Settings::command(["config", "check"]);
    let exit = check()
        .file(
            ".env",
            "A=1\nTIDEGATE_STREAM__RETRY=1s\ns3cret\nB='s3cret\n",
        )
        .run()
        .exit(PATIENCE)
        .await;
    assert!(exit.status.success(), "{exit:?}");
    for line in [".env, line 3", ".env, line 4"] {
        assert!(exit.output.contains(line), "{exit:?}");
    }
    assert!(!exit.output.contains("s3cret"), "{exit:?}");
    let unknown = check().file(".env", "\nTIDEGATE_STREAM__RETYR=1s\n");
    let exit = unknown.refuses_to_start().await;
    assert!(
        exit.output.contains(".env, line 2") && exit.output.contains("STREAM__RETRY?"),
        "{exit:?}"
    );
    // A folder of that name.
    let exit = check().folder(".env").refuses_to_start().await;
    assert!(exit.output.contains(".env"), "{exit:?}");
}

/// Wherever settings are shown, and whatever is wrong with them.
#[tokio::test]
async fn secrets_are_never_shown() {
    let yaml = "\
admin: {token: s3cret-admin-token}
auth:
  jwt: {secret: s3cret-s3cret-s3cret-s3cret-s3cret}
  tokens:
  - {name: shop, token: s3cret-shop-token, publish: ['*']}
redis: {url: 'redis://app:s3cret@127.0.0.1:1', password: s3cret-redis}
store: memory
log: {level: debug}
";
    let settings = |command: &[&str]| {
        Settings::command(command.iter().copied())
            .file("gateway.yaml", yaml)
            .env("TIDEGATE_CONFIG", "gateway.yaml")
    };
    for command in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["config", "check"],
    ] {
        let exit = settings(command).run().exit(PATIENCE).await;
        assert!(exit.status.success(), "{exit:?}");
        assert!(!exit.output.contains("s3cret"), "{exit:?}");
        assert_eq!(
            exit.output.contains("***"),
            command[1] == "show",
            "{exit:?}"
        );
    }
    let gateway = settings(&["serve"])
        .with("server.listen", "127.0.0.1:0")
        .with("admin.listen", "127.0.0.1:0")
        .start()
        .await;
    let config = gateway.get_admin("/config").await;
    assert_eq!(config.status(), 200);
    assert_eq!(
        config.json()["settings"]["auth.tokens"]["value"][0]["token"],
        "***"
    );
    let again = || gateway.ask_admin(Request::new("POST", "/admin/reload-config"));
    let mut said = vec![config.text(), again().await.text()];
    for changed in [
        yaml.replace("-token", "-other-token"),
        yaml.replace("name: shop", "nam: shop"),
        yaml.replace("s3cret-shop-token", "[s3cret]"),
        yaml.replace("s3cret-shop-token", "s3cret"),
        yaml.replace("level: debug", "level: 'redis://app:s3cret@cache'"),
        yaml.replace("store: memory", "store: 'redis://app:s3cret@cache'"),
        yaml.replace(
            "jwt: {",
            "jwt: {jwks_url: 'https://app:s3cret@keys.example', ",
        ),
        yaml.replace("s3cret-redis", "[s3cret-redis"),
        yaml.replace("jwt: {secret:", "jwt: {x-s3cret-9:"),
    ] {
        std::fs::write(gateway.home().join("gateway.yaml"), changed).unwrap();
        said.push(again().await.text());
    }
    said.push(gateway.get_admin("/config").await.text());
    let exit = gateway.stop(PATIENCE).await;
    said.push(exit.output);
    for said in &said {
        assert!(!said.contains("s3cret"), "{said}");
    }
    for wrong in [
        "[{name: shop, token: s3cret",
        "shop:s3cret",
        "[{name: a, token: [s3cret]}]",
    ] {
        let exit = Gateway::with("auth.tokens", wrong).refuses_to_start().await;
        assert!(exit.output.contains("auth.tokens"), "{exit:?}");
        assert!(!exit.output.contains("s3cret"), "{exit:?}");
    }
}

/// The lines of `config/defaults.yaml` that set something: the path, the value, and whether a comment stands right above.
fn reference() -> Vec<(String, String, bool)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("config/defaults.yaml")).unwrap();
    let mut path: Vec<&str> = Vec::new();
    let (mut found, mut explained) = (Vec::new(), false);
    for line in text.lines() {
        let entry = line.trim_start();
        if entry.is_empty() || entry.starts_with('#') {
            explained = entry.starts_with('#');
            continue;
        }
        let (name, value) = entry.split_once(':').unwrap();
        path.truncate((line.len() - entry.len()) / 2);
        path.push(name);
        found.push((path.join("."), value.trim().to_owned(), explained));
        explained = false;
    }
    found
}

fn leaves() -> impl Iterator<Item = (String, String, bool)> {
    reference()
        .into_iter()
        .filter(|(_, value, _)| !value.is_empty())
}

#[test]
fn every_setting_is_explained_in_the_reference() {
    assert!(leaves().count() > 70);
    let silent: Vec<_> = leaves().filter(|(.., explained)| !explained).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

/// A key in the file that no type has, or a type that the file does not have, would be a setting that does nothing.
#[test]
fn the_reference_and_the_types_have_the_same_settings() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("config/defaults.yaml")).unwrap();
    let defaults: Value = yaml_serde::from_str(&text).unwrap();
    let sections = std::iter::once(String::new()).chain(
        reference()
            .into_iter()
            .filter(|(_, value, _)| value.is_empty())
            .map(|(path, ..)| format!("/{}", path.replace('.', "/"))),
    );
    for section in sections {
        let mut tree = defaults.clone();
        let entries = tree.pointer_mut(&section).unwrap().as_object_mut().unwrap();
        let mut written: Vec<String> = entries.keys().cloned().collect();
        entries.insert("bogus".into(), Value::Null);
        let error = serde_json::from_value::<tidegate::config::Config>(tree)
            .unwrap_err()
            .to_string();
        let (_, expected) = error.split_once(", expected ").unwrap();
        let mut typed: Vec<String> = expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        written.sort();
        typed.sort();
        assert_eq!(written, typed, "{section}");
    }
}

/// The table at the end of the guide: each setting, its default, and whether it needs a restart, as the reference has it.
#[test]
fn every_setting_is_in_the_guide() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let (_, table) = guide.split_once("## All settings").unwrap();
    let documented: Vec<(String, String, String)> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let key = cells.next()?.trim_end_matches('`');
            let default = cells.next()?.trim_matches('`');
            let reload = cells.next()?.trim_end_matches('|').trim();
            Some((key.to_owned(), default.to_owned(), reload.to_owned()))
        })
        .collect();
    let restart = tidegate::config::reload::NEEDS_RESTART;
    let mut written: Vec<(String, String, String)> = leaves()
        .map(|(key, value, _)| {
            let waits = |it: &&str| key == *it || key.starts_with(&format!("{it}."));
            let reload = match restart.iter().find(|it| waits(it)) {
                Some(&"server.tls") => "on or off: restart",
                Some(_) => "restart",
                None => "",
            };
            let value = if value == "null" {
                "none".to_owned()
            } else {
                value
            };
            (key, value, reload.to_owned())
        })
        .collect();
    written.sort();
    assert_eq!(documented, written);
    let (text, _) = guide.split_once("## All settings").unwrap();
    for key in restart {
        let named = format!("`{key}`");
        assert!(
            text.contains(&named),
            "{key} is named where reloads are explained"
        );
    }
}
