//! The examples in `examples/ingest` do what they say, with the real programs: also when they are killed in the middle.

use std::{
    cell::Cell,
    fs,
    io::Write as _,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{dead, length, log};
use crate::{
    interop::programs::{Language, command, must, python_of_ingest, run, said},
    redis::replica,
    support::{RedisServer, SILENCE, numbers, within_time},
};

/// How long a program of another language may take, on two busy cores.
const PATIENCE: Duration = Duration::from_secs(30);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/ingest")
        .join(name)
}

/// A program in the background. It is killed with its owner.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(
            quiet
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }

    /// `kill -9`.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the log of a topic has as many events as are wanted, and returns them.
async fn has(redis: &RedisServer, topic: &str, count: usize) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let events = log(redis, topic).await;
        if events.len() >= count {
            return events;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{topic} has {} of {count}",
            events.len()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_example_for_the_shell_is_safe_to_repeat() {
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let mut reader = gateway.subscribe("orders").await;
    let publish = async |url: &str, arguments: &[&str]| {
        let mut command = command(example("shell/publish"), arguments);
        command.env("REDIS_URL", url);
        let output = run(command).await;
        (output.status.code(), said(&output))
    };
    let url = redis.url();
    for (data, kind) in [
        ("{\"n\": 1}", None),
        ("größer\n\nals $1 \"zwei\" @a", Some("order created")),
        ("", None),
    ] {
        let arguments = ["orders", data, kind.unwrap_or_default()];
        let (code, text) = publish(&url, &arguments).await;
        assert_eq!(code, Some(0), "{text}");
        let event = reader.next().await;
        assert_eq!((event.data.as_str(), event.kind.as_deref()), (data, kind));
    }
    let keyed = ["orders", "once", "created", "order 7"];
    for _ in 0..2 {
        assert_eq!(publish(&url, &keyed).await.0, Some(0));
    }
    assert_eq!(reader.take(1).await, ["once"]);
    reader.stays_silent().await;
    assert_eq!(publish(&url, &["no topic", "a"]).await.0, Some(0));
    within_time(PATIENCE, "a dead letter", async {
        while length(&redis, "ingest:dead").await == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(dead(&redis).await[0].0, "topic_invalid");
    let (code, text) = publish(&redis.url_by(1), &keyed).await;
    assert_eq!(code, Some(75), "{text}");
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let (code, text) = publish(&url, &keyed).await;
    assert!(code == Some(75) && text.contains("OOM"), "{text}");
}

/// Killed, started with an old place, rotated by name while it runs and while it does not, and truncated.
#[tokio::test]
async fn the_log_shipper_makes_one_event_of_each_line() {
    if !Language::Python
        .is_there("the example of a log shipper")
        .await
    {
        return;
    }
    let python = python_of_ingest().await;
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let home = TempDir::new().unwrap();
    let (file, place) = (home.path().join("app.log"), home.path().join("place"));
    let ship = || {
        let mut command = Command::new(python);
        command
            .arg(example("log-shipper/ship.py"))
            .arg(&file)
            .arg("logs/app")
            .arg(&place);
        command.env("REDIS_URL", redis.url());
        Running::start(command)
    };
    let append = |text: &str| {
        let mut open = fs::OpenOptions::new();
        let mut log = open.create(true).append(true).open(&file).unwrap();
        log.write_all(text.as_bytes()).unwrap();
    };
    let lines = Cell::new(0);
    let write = |count: usize| {
        let end = lines.get() + count;
        append(&(numbers(lines.get()..end).join("\n") + "\n"));
        lines.set(end);
        end
    };
    let shipper = ship();
    has(&redis, "logs/app", write(700)).await;
    // A line is shipped when it is whole.
    append("70");
    sleep(SILENCE).await;
    assert_eq!(length(&redis, "topic:logs/app").await, 700);
    append("0\n");
    lines.set(701);
    has(&redis, "logs/app", 701).await;
    let old = fs::read(&place).unwrap();
    write(2_000);
    shipper.kill();
    // As if it had been killed before it could note its place, several times.
    for _ in 0..2 {
        fs::write(&place, &old).unwrap();
        let shipper = ship();
        has(&redis, "logs/app", lines.get()).await;
        let end = fs::metadata(&file).unwrap().len();
        within_time(PATIENCE, "its place to be at the end", async {
            while !fs::read_to_string(&place)
                .unwrap()
                .contains(&format!(", {end}, "))
            {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        shipper.kill();
    }
    let rotate = |number: &str, age: u64| {
        let old = home.path().join(format!("app.log.{number}"));
        fs::rename(&file, &old).unwrap();
        let written = SystemTime::now() - Duration::from_secs(age);
        let old = fs::File::options().write(true).open(old).unwrap();
        old.set_modified(written).unwrap();
    };
    // Rotated while nobody ships, twice, and while somebody does.
    write(10);
    rotate("2", 60);
    write(10);
    rotate("1", 30);
    write(10);
    let _shipper = ship();
    has(&redis, "logs/app", 2_731).await;
    rotate("0", 0);
    has(&redis, "logs/app", write(10)).await;
    fs::write(&file, "").unwrap();
    let shipped = has(&redis, "logs/app", write(2)).await;
    assert_eq!(shipped, numbers(0..2_743));
    // A whole row is renamed, again and again, while it looks for the file that comes next.
    let name = |number: usize| home.path().join(format!("app.log.{number}"));
    for rotation in 0..150 {
        for number in (0..rotation + 3).rev() {
            fs::rename(name(number), name(number + 1)).unwrap();
        }
        fs::rename(&file, name(0)).unwrap();
        sleep(Duration::from_millis(10)).await;
        write(5);
    }
    let shipped = has(&redis, "logs/app", lines.get()).await;
    assert_eq!(shipped, numbers(0..lines.get()));
    assert!(dead(&redis).await.is_empty());
    drop(gateway);
}

/// A database server (`PostgreSQL`) of one's own, reached by a socket in its folder. It refuses to run as root.
struct Database {
    server: Child,
    home: TempDir,
}

impl Database {
    /// None: it is not installed.
    async fn start() -> Option<Self> {
        let mut folders: Vec<_> = fs::read_dir("/usr/lib/postgresql")
            .ok()?
            .flatten()
            .collect();
        folders.sort_by_key(fs::DirEntry::path);
        let programs = folders.pop()?.path().join("bin");
        let home = TempDir::new().unwrap();
        let data = home.path().join("data");
        let mut before: Vec<String> = Vec::new();
        if rustix::process::geteuid().is_root() {
            let nobody = must(command("id", &["-u", "nobody"])).await;
            chown(home.path(), Some(nobody.trim().parse().unwrap()), None).unwrap();
            before.extend(["setpriv", "--reuid=nobody", "--clear-groups"].map(str::to_owned));
        }
        let program = |name: &str| {
            let mut words = before.clone();
            words.push(programs.join(name).display().to_string());
            let mut command = Command::new(&words[0]);
            command
                .args(&words[1..])
                .arg("-D")
                .arg(&data)
                .current_dir(home.path());
            command
        };
        let mut init = program("initdb");
        init.args([
            "-A",
            "trust",
            "-U",
            "app",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]);
        must(init).await;
        let mut server = program("postgres");
        server
            .arg("-k")
            .arg(home.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let server = server
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let database = Self { server, home };
        within_time(PATIENCE, "the database to answer", async {
            while !run(database.psql(&["-c", "SELECT 1"]))
                .await
                .status
                .success()
            {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        Some(database)
    }

    fn url(&self) -> String {
        format!(
            "host={} user=app dbname=postgres",
            self.home.path().display()
        )
    }

    fn psql(&self, arguments: &[&str]) -> Command {
        let mut command = command(
            "psql",
            &["-qAt", "-v", "ON_ERROR_STOP=1", "-d", &self.url()],
        );
        command.args(arguments);
        command
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Its children, and its memory, go with it.
        let _ = kill_process(Pid::from_child(&self.server), Signal::QUIT);
        let _ = self.server.wait();
    }
}

/// Two movers, of which one works; it is killed again and again, while several clients change the same rows.
#[tokio::test]
async fn every_change_of_a_table_becomes_one_event_in_order() {
    const ORDERS: usize = 20;
    const CHANGES: usize = 30;
    if !Language::Python
        .is_there("the example of a database trigger")
        .await
    {
        return;
    }
    let Some(database) = Database::start().await else {
        let why = "the example of a database trigger is not run, because there is no PostgreSQL";
        let ci = option_env!("CI").is_some();
        assert!(!ci, "{why}: run scripts/install-test-tools clients");
        println!("passed over: {why}");
        return;
    };
    let python = python_of_ingest().await;
    let redis = RedisServer::start().await;
    let gateway = replica(&redis).await;
    let schema = example("database/schema.sql").display().to_string();
    must(database.psql(&["-f", &schema])).await;
    let mover = || {
        let mut command = Command::new(python);
        command.arg(example("database/move.py"));
        command
            .env("REDIS_URL", redis.url())
            .env("DATABASE_URL", database.url());
        Running::start(command)
    };
    let mut movers = vec![mover(), mover()];
    let insert = format!("INSERT INTO orders (state) SELECT '0' FROM generate_series(1, {ORDERS})");
    must(database.psql(&["-c", &insert])).await;
    // Each statement is a transaction of its own, and locks one row: two that lock several may wait for each other.
    let update =
        |id| format!("UPDATE orders SET state = (state::int + 1)::text WHERE id = {id};\n");
    let update: Vec<String> = (1..=ORDERS).map(update).collect();
    // Written once: a client that reads while another one writes it anew finds it empty.
    let statements = write(&database, &update.concat().repeat(CHANGES));
    let change = async || {
        let quick = "SET synchronous_commit = off";
        must(database.psql(&["-c", quick, "-f", &statements])).await;
    };
    let kill = async {
        for _ in 0..3 {
            sleep(Duration::from_millis(300)).await;
            let victim = movers.remove(0);
            victim.kill();
            movers.push(mover());
        }
    };
    tokio::join!(change(), change(), kill);
    must(database.psql(&["-c", "DELETE FROM orders WHERE id = 1"])).await;
    for order in 1..=ORDERS {
        let deleted = usize::from(order == 1);
        let topic = format!("orders/{order}");
        let told = has(&redis, &topic, 1 + 2 * CHANGES + deleted).await;
        let mut wanted: Vec<String> = (0..=2 * CHANGES)
            .map(|state| format!(r#"{{"id":{order},"state":"{state}"}}"#))
            .collect();
        if deleted > 0 {
            wanted.push(wanted[2 * CHANGES].clone());
        }
        assert_eq!(told, wanted);
    }
    // A row is deleted after it was sent.
    within_time(PATIENCE, "the outbox to be empty", async {
        let count = ["-c", "SELECT count(*) FROM outbox"];
        while must(database.psql(&count)).await.trim() != "0" {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(dead(&redis).await.is_empty());
    let mut reader = gateway.events("topic=orders/1&last=1").open().await;
    assert_eq!(reader.next().await.kind.as_deref(), Some("delete"));
}

/// A file of statements that the database's client may read.
fn write(database: &Database, statements: &str) -> String {
    let path = database.home.path().join("statements.sql");
    fs::write(&path, statements).unwrap();
    path.display().to_string()
}
