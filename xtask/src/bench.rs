//! `./x bench`: measures Berth against its yardsticks, on this machine, in the same run.
//!
//! The measuring itself is the program `berth-bench`; this builds it and what it starts the way they are shipped.

use anyhow::Result;
use clap::Subcommand;

use crate::{checkout, lab};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// The replicated log against etcd: writes, reads, failover, space
    Raft {
        /// Print each metric as a line of JSON on standard output
        #[arg(long)]
        json: bool,
        /// One round of 5 s each: for a look while developing
        #[arg(long)]
        quick: bool,
        /// More options of `berth-bench raft`
        #[arg(last = true)]
        more: Vec<String>,
    },
}

/// Entry of the sub-command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Args::Raft { json, quick, more } = args;
    eprintln!("==> building berth-bench and berth-controller as they are shipped");
    checkout::run(checkout::cargo().args([
        "build",
        "--release",
        "-p",
        "berth-bench",
        "-p",
        "berth-controller",
        "--bins",
    ]))?;
    let program = lab::target().join("release/berth-bench");
    let mut command = checkout::command(&program.display().to_string());
    command.arg("raft");
    for (is_wanted, word) in [(json, "--json"), (quick, "--quick")] {
        if *is_wanted {
            command.arg(word);
        }
    }
    checkout::run(command.args(more))
}
