//! Where things lie: the checkout, its target folder, and the cache that several checkouts share.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What is checked and tested beside what is shipped: a fleet of simulated hosts.
pub(crate) const FEATURES: &str = "berth-hostd/sim";

/// The root of the checkout that this xtask was built from.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in a folder of the checkout").to_path_buf()
}

/// Things that are dear to make and the same for every checkout: images, package lists, tools.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("BERTH_CACHE") {
        return Ok(PathBuf::from(folder));
    }
    match env::var_os("HOME") {
        Some(home) if !home.is_empty() => Ok(Path::new(&home).join(".cache/berth")),
        _ => bail!(
            "there is neither BERTH_CACHE nor HOME in the environment, so there is no place for a cache; set BERTH_CACHE to a folder"
        ),
    }
}

/// A command that runs in the root of the checkout.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Cargo as the one that started us.
pub(crate) fn cargo() -> Command {
    command(&env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
}

/// Standard output of a command that must succeed; its standard error is shown only when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let what = describe(command);
    let output = command.output().with_context(|| format!("cannot start {what}"))?;
    if !output.status.success() {
        bail!("{what} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{what} wrote something that is not UTF-8"))
}

/// Runs a command with the terminal's own output; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let what = describe(command);
    let status = command.status().with_context(|| format!("cannot start {what}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// How a person would have typed it, program name without its folder.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}
