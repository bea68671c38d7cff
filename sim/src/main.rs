//! Runs simulated worlds: `./x sim` builds and starts it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use berth_sim::scale::{self, Faults};
use berth_sim::{Plant, fleet};
use clap::{Parser, Subcommand};

/// Simulates whole clusters, each from a seed.
#[derive(Debug, Parser)]
#[command(name = "berth-sim", bin_name = "./x sim", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    large: Large,
}

/// A large world: all VMs are created, and the run ends once all of them run.
#[derive(Debug, clap::Args)]
struct Large {
    /// Hosts of two sockets, 128 threads and 512 GiB
    #[arg(long, default_value_t = 1000)]
    hosts: usize,
    /// VMs
    #[arg(long, default_value_t = 50_000)]
    vms: usize,
    /// By which everything is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What goes wrong
    #[arg(long, value_enum, default_value_t = Faults::None)]
    faults: Faults,
    /// Prints each figure as a line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs many histories, with everything going wrong, and prints how often what occurred
    Histories {
        /// How many
        #[arg(long, default_value_t = 1000)]
        histories: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Threads
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Makes a bug on purpose
        #[arg(long)]
        plant: Option<Plant>,
    },
    /// Runs one history again
    Replay {
        /// Which
        #[arg(long)]
        seed: u64,
        /// Makes a bug on purpose
        #[arg(long)]
        plant: Option<Plant>,
        /// Shows each event
        #[arg(short, long)]
        verbose: bool,
    },
}

fn main() -> Result<ExitCode> {
    let Cli { command, large } = Cli::parse();
    let mut out = std::io::stdout();
    let problems = match command {
        None => simulate(&large)?,
        Some(Command::Histories { histories, first, jobs, plant }) => {
            let summary = fleet::run(fleet::Order { first, histories, jobs, plant });
            write!(out, "{summary}")?;
            summary.problems(plant)
        }
        Some(Command::Replay { seed, plant, verbose }) => {
            let outcome = fleet::one(seed, plant, verbose);
            writeln!(
                out,
                "seed {seed}: {} events in {} virtual seconds, trace {:016x}, converged after {:?} ms",
                outcome.events,
                outcome.lasted / 1000,
                outcome.trace,
                outcome.converged_after
            )?;
            write!(out, "{}", outcome.tally)?;
            outcome.failure.into_iter().collect()
        }
    };
    for problem in &problems {
        writeln!(out, "{problem}")?;
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn simulate(large: &Large) -> Result<Vec<String>> {
    let &Large { hosts, vms, seed, faults, json } = large;
    let mut talk = std::io::stderr();
    let report = scale::run(scale::Order { hosts, vms, seed, faults }, |running, second| {
        if second.is_multiple_of(10) {
            // Talk that nobody hears is no reason to stop.
            let _ = writeln!(talk, "{second:>5} virtual s: {running} of {vms} run");
        }
    })?;
    let mut out = std::io::stdout();
    for metric in &report.metrics {
        if json {
            writeln!(out, "{}", serde_json::to_string(metric)?)?;
        } else {
            writeln!(out, "{metric}")?;
        }
    }
    Ok(report.failure.into_iter().collect())
}
