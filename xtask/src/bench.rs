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
    Raft(Options),
    /// Placement: how many VMs a second find their exact berths on 1,000 and on 5,000 hosts
    Planner(Options),
    /// Three real controllers with 1,000 simulated hosts and 50,000 VMs
    Scale(Options),
    /// One host's daemon with 300 VMs: its plan and its memory
    Host(Options),
}

/// How to measure it.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print each metric as a line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// Far less of everything: for a look while developing
    #[arg(long)]
    quick: bool,
    /// More options of the same sub-command of `berth-bench`
    #[arg(last = true)]
    more: Vec<String>,
}

/// Entry of the sub-command.
pub(crate) fn run(args: &Args) -> Result<()> {
    // The log is measured together with controllers around it, and a whole cluster with its hosts.
    let fleet: &[_] = &["berth-bench", "berth-controller", "berth-hostd"];
    let (word, packages, Options { json, quick, more }): (_, &[_], _) = match args {
        Args::Raft(options) => ("raft", &fleet[..2], options),
        Args::Planner(options) => ("planner", &fleet[..1], options),
        Args::Scale(options) => ("scale", fleet, options),
        Args::Host(options) => ("host", fleet, options),
    };
    eprintln!("==> building {} as shipped", packages.join(", "));
    let mut build = checkout::cargo();
    build.args(["build", "--release", "--bins"]).args(packages.iter().flat_map(|package| ["-p", package]));
    if packages.len() == fleet.len() {
        // The hosts' machines are simulated, which no shipped daemon can do.
        build.args(["--features", checkout::FEATURES]);
    }
    checkout::run(&mut build)?;
    let program = lab::target().join("release/berth-bench");
    let mut command = checkout::command(&program.display().to_string());
    command.arg(word);
    for (is_wanted, word) in [(json, "--json"), (quick, "--quick")] {
        if *is_wanted {
            command.arg(word);
        }
    }
    checkout::run(command.args(more))
}
