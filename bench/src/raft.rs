//! The bench of the log: our key-value members against etcd's, in turns, on the same disk.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::cluster::{Cluster, Keys, MEMBERS, System};
use crate::load::{Operation, Outcome};
use crate::report::{Better, Report, Series};
use crate::usage::Usage;

/// How many clients write at once.
const CLIENTS: [u64; 4] = [1, 16, 64, 256];

/// How many clients read at once.
const READERS: u64 = 64;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print each metric as a line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// One round of 5 s each and few kills: for a look while developing
    #[arg(long)]
    quick: bool,
    /// How many rounds, in each of which both systems take their turn
    #[arg(long)]
    rounds: Option<u64>,
    /// How long each system is measured in a round, in seconds
    #[arg(long)]
    seconds: Option<f64>,
    /// Measure only these parts; all if none is named
    #[arg(long = "only", value_enum)]
    parts: Vec<Part>,
    /// Where data directories are made, on the disk that is measured
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Acknowledged writes and linearizable reads
    Load,
}

/// Runs the bench.
pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = berth_telemetry::shutdown_signal().context("cannot listen for signals")?;
        tokio::select! {
            outcome = measure(args) => outcome,
            () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
        }
    })
}

async fn measure(args: &Args) -> Result<()> {
    let mut report = Report::new(args.json);
    let folder = std::path::absolute(&args.folder)?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let keys = Keys::make(&folder.join("tls"))?;
    let wants = |part: Part| args.parts.is_empty() || args.parts.contains(&part);
    if wants(Part::Load) {
        rounds(args, &folder, &keys, &mut report).await?;
    }
    report.print()
}

/// What one system did in one round under one load.
struct Turn {
    outcome: Outcome,
    /// Of the leader, then of the others.
    used: Vec<Usage>,
    terms: u64,
}

async fn turn(cluster: &mut Cluster<'_>, keys: &Keys, clients: u64, operation: Operation, seconds: f64, seed: u64) -> Result<Turn> {
    let (leader, term) = cluster.settled().await?;
    let before = cluster.usage().await?;
    let mut command = Command::new(std::env::current_exe()?);
    let operation = match operation {
        Operation::Put => "put",
        Operation::Get => "get",
        Operation::StaleGet => "stale-get",
    };
    command.arg("load").args(["--target", &cluster.members[leader].api.to_string()]).arg("--tls").arg(keys.client_folder());
    command.args(["--operation", operation, "--clients", &clients.to_string()]);
    command.args(["--seconds", &seconds.to_string(), "--seed", &seed.to_string()]);
    let output = command.stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "the load generator failed: {}", output.status);
    let outcome: Outcome = serde_json::from_slice(&output.stdout).context("the load generator says nothing")?;
    let after = cluster.usage().await?;
    let (_, term_after) = cluster.settled().await?;
    let mut used: Vec<Usage> = after.into_iter().zip(before).map(|(after, before)| after.since(before)).collect();
    used.swap(0, leader);
    Ok(Turn { outcome, used, terms: term_after.saturating_sub(term) })
}

async fn rounds(args: &Args, folder: &std::path::Path, keys: &Keys, report: &mut Report) -> Result<()> {
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 });
    let seconds = args.seconds.unwrap_or(if args.quick { 5.0 } else { 20.0 });
    let loads: Vec<(Operation, u64)> =
        CLIENTS.iter().map(|&clients| (Operation::Put, clients)).chain([(Operation::Get, READERS)]).collect();
    // By load, then by system.
    let mut turns: Vec<[Vec<Turn>; 2]> = loads.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    for round in 1..=rounds {
        let systems = [System::Berth, System::Etcd];
        let mut clusters = Vec::new();
        for system in systems {
            clusters.push(Cluster::start(system, &folder.join(system.name()), keys).await?);
        }
        for (load, &(operation, clients)) in loads.iter().enumerate() {
            // Whoever comes first in one round comes second in the next.
            for place in if round % 2 == 1 { [0, 1] } else { [1, 0] } {
                let cluster = &mut clusters[place];
                let turn = turn(cluster, keys, clients, operation, seconds, round).await?;
                let Turn { outcome, used, terms } = &turn;
                let total: f64 = used.iter().map(|used| used.cpu_s).sum();
                #[expect(clippy::cast_precision_loss, reason = "a count of requests stays far below 2^52")]
                let each = total * 1e6 / outcome.requests as f64;
                report.say(format_args!(
                    "round {round}: {operation:?} by {clients:>3} clients, {:<5} {:>8.0}/s, p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms, {each:.0} us CPU each; {}{}{}",
                    cluster.system.name(),
                    outcome.per_second(),
                    outcome.p50_us as f64 / 1e3,
                    outcome.p99_us as f64 / 1e3,
                    outcome.max_us as f64 / 1e3,
                    used.iter().map(|used| format!("{:.1} s CPU, {} syncs, {} MB", used.cpu_s, used.syncs, used.written >> 20)).collect::<Vec<_>>().join("; "),
                    if outcome.failures > 0 { format!(", {} failures ({})", outcome.failures, outcome.failure.as_deref().unwrap_or("")) } else { String::new() },
                    if *terms > 0 { format!(", {terms} terms") } else { String::new() },
                ));
                turns[load][place].push(turn);
            }
        }
        for cluster in clusters {
            cluster.discard().await?;
        }
    }
    for ((operation, clients), [ours, theirs]) in loads.iter().zip(&turns) {
        let rate: Series = ours.iter().zip(theirs).map(|(ours, theirs)| ours.outcome.per_second() / theirs.outcome.per_second()).collect();
        let p99: Series = ours.iter().zip(theirs).map(|(ours, theirs)| ours.outcome.p99_us as f64 / theirs.outcome.p99_us as f64).collect();
        report.say(format_args!("{operation:?} {clients}: rate {rate}, p99 {p99}"));
        match operation {
            Operation::Put => {
                report.metric(format!("writes_per_s_ratio_vs_etcd_clients_{clients}"), rate.median(), "ratio", Better::Higher);
                report.metric(format!("p99_latency_ratio_vs_etcd_clients_{clients}"), p99.median(), "ratio", Better::Lower);
            }
            _ => report.metric(format!("linearizable_reads_per_s_ratio_vs_etcd_clients_{clients}"), rate.median(), "ratio", Better::Higher),
        }
    }
    let _ = MEMBERS;
    Ok(())
}
