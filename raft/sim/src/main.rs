//! The replicated log under turmoil: the real consensus, transport and codec on a simulated network, with disks in memory
//! that lose at a crash what was not synced.
//!
//! A seed means one cluster, its clients and everything that goes wrong ([`plan`]). One process runs one seed, in one
//! thread and in simulated time, so that a seed that fails can be run again. What must never happen is watched for while
//! it runs ([`witness`]), and the clients' history is checked for linearizability at the end.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

mod client;
mod dice;
mod fleet;
mod machine;
mod member;
mod nemesis;
mod operator;
mod plan;
mod roster;
mod witness;
mod world;

use world::{Outcome, Plant};

/// Simulates clusters of the replicated log, each from a seed.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Runs this seed alone
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs so many seeds, each in a process of its own
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Processes at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Starts no more seeds after this time, such as 120s
    #[arg(long, value_parser = seconds)]
    budget: Option<Duration>,
    /// Runs at least so many, whatever the budget says
    #[arg(long, default_value_t = 0)]
    at_least: u64,
    /// Runs so many of the seeds a second time, and tells how many came out the same in every event
    #[arg(long, default_value_t = 0)]
    twice: u64,
    /// Makes a bug on purpose
    #[arg(long)]
    plant: Option<Plant>,
    /// Shows each event; twice, the consensus's own log too
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Prints the outcome as JSON
    #[arg(long, hide = true)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    number.parse().map(Duration::from_secs).map_err(|error| format!("{error}; say for example 120s"))
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.verbose > 1 {
        let filter = tracing_subscriber::EnvFilter::new("warn,openraft=debug,berth_raft=debug");
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stdout).init();
    }
    match (args.seed, args.seeds) {
        (Some(seed), None) => single(seed, &args),
        (None, Some(seeds)) => fleet::run(seeds, &args),
        _ => anyhow::bail!("name a seed with --seed, or how many with --seeds"),
    }
}

fn single(seed: u64, args: &Args) -> Result<ExitCode> {
    let ran = catch_unwind(AssertUnwindSafe(|| world::run(seed, args.plant, args.verbose > 0)));
    let outcome = match ran {
        Ok(outcome) => outcome?,
        Err(_) => Outcome { failure: Some("something panicked; see above".to_owned()), ..Outcome::empty(seed) },
    };
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
    } else {
        writeln!(out, "{outcome}")?;
    }
    if let Some(failure) = &outcome.failure {
        if !args.json {
            writeln!(out, "{failure}\nreplay: {}", replay(seed, args.plant))?;
        }
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The command that shows a seed's run.
fn replay(seed: u64, plant: Option<Plant>) -> String {
    use clap::ValueEnum;
    let plant = plant.and_then(|plant| plant.to_possible_value()).map(|plant| format!(" --plant {}", plant.get_name()));
    format!("cargo run -p berth-raftsim -- --seed {seed}{} -v", plant.unwrap_or_default())
}
