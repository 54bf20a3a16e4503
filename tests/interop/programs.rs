//! Programs in other languages, run where these are installed.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use tokio::{sync::OnceCell, task::spawn_blocking};

use crate::support::within_time;

/// How long packages may take to be fetched and built, where it is the first time, on two busy cores.
const PATIENCE: Duration = Duration::from_mins(5);

/// Languages that this machine may lack. Rust is there: this is a test of cargo's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Language {
    Go,
    Node,
    Python,
}

impl Language {
    /// Whether it is installed. That it is not is said aloud, and is an error in CI if `scripts/install-test-tools` promises it.
    pub(crate) async fn is_there(self, what: &str) -> bool {
        // One after another: some versions of npm are there without a node that can run them.
        let (programs, promised): (&[(&str, &[&str])], bool) = match self {
            Self::Go => (&[("go", &["version"])], false),
            Self::Node => (&[("node", &["--version"]), ("npm", &["--version"])], true),
            Self::Python => (&[("python3", &["-c", "import venv, ensurepip"])], true),
        };
        for (program, arguments) in programs {
            let mut command = command(program, arguments);
            let output = spawn_blocking(move || command.output());
            let output = within_time(PATIENCE, program, output).await.unwrap();
            if output.is_ok_and(|output| output.status.success()) {
                continue;
            }
            let asked = arguments.join(" ");
            let why = format!("{what} is not run, because `{program} {asked}` does not work here");
            assert!(
                !(promised && option_env!("CI").is_some()),
                "{why}: run scripts/install-test-tools clients"
            );
            println!("passed over: {why}");
            return false;
        }
        true
    }
}

/// A program and its arguments.
pub(crate) fn command(program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    command
}

/// A Python with the packages of the examples of ingest, made once for all tests.
pub(crate) async fn python_of_ingest() -> &'static Path {
    static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
    let make = async || {
        // Kept beside what cargo builds: a static is never dropped, and would leave its folder behind.
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-of-ingest");
        let requirements =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ingest/requirements.txt");
        python(&home, &requirements).await
    };
    PYTHON.get_or_init(make).await
}

/// Runs a program to its end.
pub(crate) async fn run(command: Command) -> Output {
    run_within(PATIENCE, command).await
}

/// The same, with another patience.
pub(crate) async fn run_within(patience: Duration, mut command: Command) -> Output {
    let what = format!("{command:?}");
    let output = spawn_blocking(move || command.output());
    let output = within_time(patience, &what, output).await.unwrap();
    output.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Runs a program that has to succeed, and returns what it said.
pub(crate) async fn must(command: Command) -> String {
    let what = format!("{command:?}");
    let output = run(command).await;
    assert!(output.status.success(), "{what}: {}", said(&output));
    said(&output)
}

/// Both of its outputs.
pub(crate) fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|pipe| String::from_utf8_lossy(pipe))
        .concat()
}

/// A Python with packages of its own.
pub(crate) async fn python(home: &Path, requirements: &Path) -> PathBuf {
    let path = home.to_str().unwrap();
    must(command("python3", &["-m", "venv", path])).await;
    let python = home.join("bin/python");
    let install = ["-m", "pip", "install", "--quiet", "--no-deps"];
    let mut install = command(&python, &install);
    install
        .args(["--disable-pip-version-check", "--requirement"])
        .arg(requirements);
    must(install).await;
    python
}

/// The program in `source`, built into the folder `home`.
pub(crate) async fn go(source: &Path, home: &Path) -> PathBuf {
    let program = home.join("program");
    // Without optimisation: on a machine that has not built it before, that is what takes the time.
    let flags = ["build", "-buildvcs=false", "-gcflags=all=-N -l", "-o"];
    let mut build = command("go", &flags);
    build.arg(&program).arg(".").current_dir(source);
    must(build).await;
    program
}

/// The program of the package in `source`, which is a workspace of its own. What has been built stays for the next time.
pub(crate) async fn rust(source: &Path, name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    let mut build = command(env!("CARGO"), &["build", "--locked", "--quiet"]);
    build.current_dir(source).arg("--target-dir").arg(&target);
    must(build).await;
    target.join("debug").join(name)
}
