//! Any program may publish past the gateway: the examples in `examples/producers` do, and a subscriber sees no difference.
//!
//! Each is run where its language is installed; a language that is missing is said aloud. Their packages are fetched into a
//! folder of the test, at the versions that the examples pin.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::{
    interop::{
        programs::{command, run_within, said},
        publishing::{Ended, are_refused, arrives, stored},
    },
    redis::replica,
    support::{RedisServer, within_time},
};

/// How long packages may take to be fetched and built, where it is the first time, on two busy cores.
const PATIENCE: Duration = Duration::from_mins(5);

fn example(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/producers")
        .join(language)
}

/// Runs a program to its end.
async fn run(command: Command) -> Output {
    run_within(PATIENCE, command).await
}

/// Runs a program that has to succeed.
async fn must(command: Command) {
    let what = format!("{command:?}");
    let output = run(command).await;
    assert!(output.status.success(), "{what}: {}", said(&output));
}

/// Whether a program is there and runs.
async fn is_there(program: &str, arguments: &[&str]) -> bool {
    let mut command = command(program, arguments);
    let output = spawn_blocking(move || command.output());
    let output = within_time(PATIENCE, program, output).await.unwrap();
    output.is_ok_and(|output| output.status.success())
}

/// An example that is ready to run.
struct Producer {
    words: Vec<PathBuf>,
    /// Its packages; go with it.
    _home: Option<TempDir>,
}

impl Producer {
    /// Runs it with `TOPIC DATA [TYPE] [KEY]`.
    async fn publish(&self, url: &str, arguments: &[&str]) -> Ended {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(arguments);
        command.env("REDIS_URL", url);
        let output = run(command).await;
        (output.status.code(), said(&output).trim_end().to_owned())
    }

    /// What every one of them promises.
    async fn keeps_its_promises(self) {
        let redis = RedisServer::start().await;
        let url = redis.url();
        let (code, text) = self.publish(&url, &["orders", "a"]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains("start a gateway once, or load functions.lua"),
            "{text}"
        );

        let gateway = replica(&redis).await;
        let mut reader = gateway.subscribe("orders").await;
        let publish = async |arguments: &[&str]| self.publish(&url, arguments).await;
        arrives(publish, &mut reader).await;
        let elsewhere = ["other", "with a key", "created", "order 7"];
        stored(self.publish(&url, &elsewhere).await, "stored");
        reader.stays_silent().await;

        let wrong: [(&[&str], &str); 3] = [
            (
                &["orders", "another", "created", "order 7"],
                "IDEMPOTENCY_MISMATCH",
            ),
            (&["no topic", "a"], "TOPIC_INVALID"),
            (&["orders", "a", "$open"], "TYPE_INVALID"),
        ];
        are_refused(publish, &wrong).await;
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let (code, text) = self.publish(&url, &["orders", "a"]).await;
        assert_eq!(code, Some(75), "it may be repeated: {text}");
        assert!(text.contains("not stored"), "{text}");
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        reader.stays_silent().await;

        let away = redis.url_by(1);
        let (code, text) = self.publish(&away, &["orders", "a"]).await;
        assert_eq!(code, Some(75), "it may be repeated: {text}");
    }
}

/// Said aloud, in CI, too: nobody has to install four languages to work on the fifth.
fn passed_over(language: &str, why: &str) {
    println!("passed over: the example for {language} is not run, because {why}");
}

#[tokio::test]
async fn the_example_for_the_shell_publishes() {
    assert!(
        is_there("redis-cli", &["--version"]).await,
        "there is no redis-cli, which comes with redis-server: scripts/install-test-tools installs it"
    );
    let producer = Producer {
        words: vec![example("shell/publish")],
        _home: None,
    };
    producer.keeps_its_promises().await;
}

#[tokio::test]
async fn the_example_for_python_publishes() {
    if !is_there("python3", &["-c", "import venv, ensurepip"]).await {
        return passed_over("Python", "there is no python3 with venv");
    }
    let home = TempDir::new().unwrap();
    let path = home.path().to_str().unwrap();
    must(command("python3", &["-m", "venv", path])).await;
    let python = home.path().join("bin/python");
    let requirements = example("python/requirements.txt");
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
    ];
    let mut install = command(&python, &install);
    install.arg(&requirements);
    must(install).await;
    let producer = Producer {
        words: vec![python, example("python/publish.py")],
        _home: Some(home),
    };
    producer.keeps_its_promises().await;
}

#[tokio::test]
async fn the_example_for_node_publishes() {
    if !is_there("node", &["--version"]).await || !is_there("npm", &["--version"]).await {
        return passed_over("Node.js", "there is no node with npm");
    }
    let home = TempDir::new().unwrap();
    for file in ["package.json", "package-lock.json", "publish.js"] {
        fs::copy(example("node").join(file), home.path().join(file)).unwrap();
    }
    let mut install = command(
        "npm",
        &["ci", "--no-audit", "--no-fund", "--ignore-scripts"],
    );
    install.current_dir(home.path());
    must(install).await;
    let producer = Producer {
        words: vec!["node".into(), home.path().join("publish.js")],
        _home: Some(home),
    };
    producer.keeps_its_promises().await;
}

#[tokio::test]
async fn the_example_for_go_publishes() {
    if !is_there("go", &["version"]).await {
        return passed_over("Go", "there is no go");
    }
    let home = TempDir::new().unwrap();
    let program = home.path().join("producer");
    // Without optimisation: on a machine that has not built it before, that is what takes the time.
    let flags = ["build", "-buildvcs=false", "-gcflags=all=-N -l", "-o"];
    let mut build = command("go", &flags);
    build.arg(&program).arg(".").current_dir(example("go"));
    must(build).await;
    let producer = Producer {
        words: vec![program],
        _home: Some(home),
    };
    producer.keeps_its_promises().await;
}
