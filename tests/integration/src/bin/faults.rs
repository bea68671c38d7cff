//! Breaks a real cluster at random for as long as one likes. `cargo run -p berth-integration --bin faults -- --help`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use berth_integration::faults::{self, Cluster, Kind, Plan};
use clap::Parser;

/// Breaks a cluster of three controllers at random under load, and checks what its clients saw for linearizability
#[derive(Parser, Debug)]
struct Args {
    /// How long faults go on
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Everything that is left to chance follows from it [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// How many operations are to be completed at least; faults go on for up to twice the time until they are
    #[arg(long, default_value_t = 20_000)]
    operations: usize,
    /// Only these faults, as in full-disk,slow-disk [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "this is what it is for")]
async fn main() -> ExitCode {
    let Args { minutes, seed, operations, only } = Args::parse();
    let seed = seed.unwrap_or_else(faults::fresh_seed);
    let mut plan = Plan { operations, ..Plan::new(seed, Duration::from_secs(minutes * 60)) };
    if !only.is_empty() {
        plan.kinds = only;
    }
    println!("seed {seed}; again: faults --minutes {minutes} --seed {seed}");
    let cluster = Arc::new(Cluster::up().await);
    let report = faults::run(&cluster, &plan).await;
    println!("{report}");
    // Keeps the logs if it fails.
    report.assert_clean(&plan);
    ExitCode::SUCCESS
}
