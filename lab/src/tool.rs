//! Calling the machine's own programs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::{At as _, Error, Result};
use crate::process::MARK;

/// Everything the lab calls, beside what it is given.
const NEEDED: [&str; 8] = ["ip", "nsenter", "unshare", "setsid", "mount", "hostname", "sleep", "virsh"];

/// Refuses early, and names all that is missing at once.
pub(crate) fn check_installed() -> Result<()> {
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| find(name).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Missing(missing.join(", "))) }
}

/// Where a program is: on the path, or where system programs are even if the path leaves them out.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// The path that every process of the lab has.
pub(crate) fn search_path() -> String {
    let ours = std::env::var("PATH").unwrap_or_default();
    format!("{ours}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Runs a command to its end; anything but success is an error that says what it said.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().at("run", command.get_program())?;
    if output.status.success() { Ok(output) } else { Err(failed(command, &output)) }
}

/// Runs many `ip` commands of lab `number` in one process, in a network namespace or in the present one.
///
/// It is marked as the lab's: should its caller be killed, it would go on making what the lab's remover has just looked for.
pub(crate) fn ip(number: u8, namespace: Option<&str>, lines: &[String]) -> Result<()> {
    let mut command = Command::new(find("ip").unwrap_or_else(|| PathBuf::from("ip")));
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    command.env(MARK, number.to_string());
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().at("run", "ip")?;
    let text = lines.join("\n") + "\n";
    // A batch is far below a pipe's 64 KiB, so that this cannot block on a child that answers first. Should the child
    // have ended early, its own words say why.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().at("wait for", "ip")?;
    if !output.status.success() {
        return Err(failed(&command, &output));
    }
    written.transpose().at("write to", "ip").map(|_| ())
}

fn failed(command: &Command, output: &Output) -> Error {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let said = String::from_utf8_lossy(&output.stderr);
    Error::Command { command: words.join(" "), output: format!("{}: {}", output.status, said.trim()) }
}

/// The last lines of a file that may not be there.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
