//! The bench of the log: our key-value members against etcd's, in turns, on the same disk.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::cluster::Keys;
use crate::report::{Better, Report};
use crate::{failover, rounds, space};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print each metric as a line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// One round of 5 s each and few kills: for a look while developing
    #[arg(long)]
    pub(crate) quick: bool,
    /// How many rounds, in each of which every system takes its turn; 5, or 1 if quick
    #[arg(long)]
    rounds: Option<u64>,
    /// How long each turn is measured, in seconds; 20, or 5 if quick
    #[arg(long)]
    seconds: Option<f64>,
    /// How many leaders are killed of each system; 30, or 3 if quick
    #[arg(long)]
    kills: Option<u64>,
    /// How many writes go before the space is measured; 1,000,000, or 50,000 if quick
    #[arg(long)]
    writes: Option<u64>,
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
    /// Acknowledged writes and linearizable reads against etcd's
    Load,
    /// Label updates on controllers against etcd's writes
    Api,
    /// Killed leaders
    Failover,
    /// Disk and memory after many writes
    Space,
}

/// What every part is given.
pub(crate) struct Bench {
    /// The empty folder of the part.
    pub(crate) folder: PathBuf,
    pub(crate) keys: Keys,
    pub(crate) rounds: u64,
    pub(crate) seconds: f64,
    pub(crate) kills: u64,
    pub(crate) writes: u64,
    /// How often our members changed their leader although none was killed.
    pub(crate) leader_changes: u64,
    pub(crate) report: Report,
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
    let folder = std::path::absolute(&args.folder)?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let or = |full, quick| if args.quick { quick } else { full };
    let mut bench = Bench {
        keys: Keys::make(&folder.join("tls"))?,
        folder,
        rounds: args.rounds.unwrap_or_else(|| or(5, 1)),
        seconds: args.seconds.unwrap_or(if args.quick { 5.0 } else { 20.0 }),
        kills: args.kills.unwrap_or_else(|| or(30, 3)),
        writes: args.writes.unwrap_or_else(|| or(space::WRITES, 50_000)),
        leader_changes: 0,
        report: Report::of("raft", args.json),
    };
    ensure!(bench.rounds > 0 && bench.seconds > 0.0, "no round, no measurement; ask for at least one of some seconds");
    bench.report.say(etcd_version().await?);
    let wants = |part: Part| args.parts.is_empty() || args.parts.contains(&part);
    if wants(Part::Load) {
        rounds::load(&mut bench).await?;
    }
    if wants(Part::Api) {
        rounds::api(&mut bench).await?;
    }
    if wants(Part::Failover) {
        failover::run(&mut bench).await?;
    }
    if wants(Part::Space) {
        space::run(&mut bench).await?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful at most")]
    let leader_changes = bench.leader_changes as f64;
    bench.report.metric("unprovoked_leader_changes", leader_changes, "count", Better::Lower);
    std::fs::remove_dir_all(&bench.folder).with_context(|| format!("cannot remove {}", bench.folder.display()))?;
    bench.report.print()
}

/// The yardstick's own word on which one it is.
async fn etcd_version() -> Result<String> {
    let output = Command::new("etcd").arg("--version").output().await;
    let output = output.context("etcd cannot be started; it comes with the package etcd-server")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(format!("yardstick: {}", text.lines().next().context("etcd does not say its version")?))
}
