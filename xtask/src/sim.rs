//! `./x sim`: simulated worlds, for developers and for users.
//!
//! The world itself is the program `berth-sim`; this builds it the way it is shipped.

use anyhow::Result;

use crate::{checkout, lab};

/// What to simulate.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Words of `berth-sim`: `--hosts 1000 --vms 50000 --seed 1`, `replay --seed 7 -v`, `histories`, `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<String>,
}

/// Entry of the sub-command.
pub(crate) fn run(args: &Args) -> Result<()> {
    eprintln!("==> building berth-sim as it is shipped");
    checkout::run(checkout::cargo().args(["build", "--release", "--package", "berth-sim"]))?;
    let program = lab::target().join("release/berth-sim");
    checkout::run(checkout::command(&program.display().to_string()).args(&args.words))
}
