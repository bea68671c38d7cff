//! `./x fix`: what a machine can mend. The only one of the checks' commands that writes.

use anyhow::Result;

use crate::checkout;
use crate::tools::{self, TYPOS};

/// Applies clippy's suggestions and the spelling corrections, then formats.
pub(crate) fn run() -> Result<()> {
    let typos = tools::ensure(TYPOS)?;
    eprintln!("==> clippy --fix");
    checkout::run(checkout::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))?;
    eprintln!("==> typos --write-changes");
    checkout::run(checkout::command(&typos.to_string_lossy()).arg("--write-changes"))?;
    eprintln!("==> fmt");
    checkout::run(checkout::cargo().args(["fmt", "--all"]))
}
