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
    /// Placement: how many VMs a second find their exact berths on 1,000 and on 5,000 hosts
    Planner {
        /// Print each metric as a line of JSON on standard output
        #[arg(long)]
        json: bool,
        /// A tenth of the VMs: for a look while developing
        #[arg(long)]
        quick: bool,
        /// More options of `berth-bench planner`
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Three real controllers with 1,000 simulated hosts and 50,000 VMs
    Scale {
        /// Print each metric as a line of JSON on standard output
        #[arg(long)]
        json: bool,
        /// 50 hosts and 1,000 VMs: for a look while developing
        #[arg(long)]
        quick: bool,
        /// More options of `berth-bench scale`
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// One host's daemon with 300 VMs: its plan and its memory
    Host {
        /// Print each metric as a line of JSON on standard output
        #[arg(long)]
        json: bool,
        /// Fewer plans: for a look while developing
        #[arg(long)]
        quick: bool,
        /// More options of `berth-bench host`
        #[arg(last = true)]
        more: Vec<String>,
    },
}

/// Entry of the sub-command.
pub(crate) fn run(args: &Args) -> Result<()> {
    // The log is measured together with controllers around it, and a whole cluster with its hosts.
    let fleet: &[_] = &["berth-bench", "berth-controller", "berth-hostd"];
    let (word, packages, json, quick, more): (_, &[_], _, _, _) = match args {
        Args::Raft { json, quick, more } => ("raft", &fleet[..2], json, quick, more),
        Args::Planner { json, quick, more } => ("planner", &fleet[..1], json, quick, more),
        Args::Scale { json, quick, more } => ("scale", fleet, json, quick, more),
        Args::Host { json, quick, more } => ("host", fleet, json, quick, more),
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
