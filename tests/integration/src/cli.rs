//! The command line as an operator runs it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::machine;

/// No command takes longer; one that waits says so by itself.
const LONGEST: Duration = Duration::from_secs(120);

/// `berth` with a configuration.
#[derive(Clone, Debug)]
pub struct Cli {
    program: PathBuf,
    config: PathBuf,
}

impl Cli {
    /// With this configuration file.
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Self { program: machine::program("berth"), config: config.into() }
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn run(&self, words: &[&str]) -> Said {
        let mut command = Command::new(&self.program);
        command.args(words).env_clear().env("BERTH_CONFIG", &self.config).env("HOME", "/nonexistent");
        ended(command, format!("berth {}", words.join(" "))).await
    }

    /// Runs a command that must succeed, and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn ok(&self, words: &[&str]) -> String {
        let said = self.run(words).await;
        assert_eq!(said.exit, Some(0), "{said:#?}");
        said.out
    }

    /// Runs a command that must succeed, and reads its JSON.
    ///
    /// # Panics
    /// When it fails or prints something else.
    pub async fn json(&self, words: &[&str]) -> Value {
        let out = self.ok(&[words, &["--output", "json"]].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("`berth {words:?}` printed no JSON: {error}\n{out}"))
    }
}

/// `berth-controller` with these words, as on the machine whose files it is to make.
///
/// # Panics
/// When it does not end.
pub async fn controller(words: &[&str]) -> Said {
    let mut command = Command::new(machine::program("berth-controller"));
    command.args(words).env_clear();
    ended(command, format!("berth-controller {}", words.join(" "))).await
}

async fn ended(mut command: Command, words: String) -> Said {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LONGEST, running)
        .await
        .unwrap_or_else(|_| panic!("`{words}` did not end within {} s", LONGEST.as_secs()))
        .unwrap_or_else(|error| panic!("`{words}` cannot be run: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { words, exit: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// The command.
    pub words: String,
    /// Its exit code; none if a signal ended it.
    pub exit: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The code in `error[BE-NNNN]: …`.
    pub fn code(&self) -> Option<&str> {
        self.err.split_once("error[")?.1.split(']').next()
    }

    /// Checks that it was refused with this exit code and this error code, in words.
    ///
    /// # Panics
    /// When it was not.
    pub fn refused(&self, exit: i32, code: &str) {
        assert_eq!((self.exit, self.code()), (Some(exit), Some(code)), "{self:#?}");
        assert_eq!(self.out, "", "a refusal is no data: {self:#?}");
        let message = self.err.split_once("]: ").map_or("", |(_, rest)| rest.lines().next().unwrap_or_default());
        assert!(message.len() > 10, "the refusal says what and why: {self:#?}");
    }
}
