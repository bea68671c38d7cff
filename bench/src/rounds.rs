//! Rounds: each system under the same load in turn, and what the one did to what the other did.

use std::fmt::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use berth_proto::v1;
use berth_proto::v1::image_service_client::ImageServiceClient;
use tokio::process::Command;

use crate::cluster::{Cluster, Keys, System};
use crate::load::{IMAGE, KEYS, Operation, Outcome};
use crate::raft::Bench;
use crate::report::{Better, Report, Series};
use crate::usage::Usage;
use crate::wire;

/// How many clients write at once.
const WRITERS: [u64; 4] = [1, 16, 64, 256];

/// Of which numbers of writers the latency is a metric: all of them are shown.
const LATENCY_METRIC: [u64; 3] = [1, 64, 256];

/// How many clients read at once, and how many use `berth.v1`.
const SIXTY_FOUR: u64 = 64;

/// How long a load that ends by its count may take at most, in seconds.
pub(crate) const LONGEST: f64 = 3600.0;

/// What one system did in one round under one load.
struct Turn {
    outcome: Outcome,
    /// Of the leader, then of the others.
    used: Vec<Usage>,
}

/// What is asked of a member by how many, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) operation: Operation,
    pub(crate) clients: u64,
    pub(crate) seconds: f64,
    /// End after so many.
    pub(crate) requests: Option<u64>,
    pub(crate) seed: u64,
}

/// Runs the load generator against the leader. Returns what came of it and by how many terms the cluster went on.
pub(crate) async fn generate(cluster: &mut Cluster<'_>, keys: &Keys, load: Load) -> Result<(Outcome, usize, u64)> {
    let (leader, term) = cluster.settled().await?;
    let Load { operation, clients, seconds, requests, seed } = load;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["load", "--target", &cluster.members[leader].api.to_string()]).arg("--tls").arg(keys.client_folder());
    command.args(["--operation", operation.word(), "--clients", &clients.to_string()]);
    command.args(["--seconds", &seconds.to_string(), "--seed", &seed.to_string()]);
    if let Some(requests) = requests {
        command.args(["--requests", &requests.to_string(), "--warmup", "0"]);
    }
    let output = command.stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "the load generator failed against {}: {}", cluster.system.name(), output.status);
    let outcome = serde_json::from_slice(&output.stdout).context("the load generator says nothing")?;
    let (_, term_after) = cluster.settled().await?;
    Ok((outcome, leader, term_after.saturating_sub(term)))
}

async fn turn(cluster: &mut Cluster<'_>, bench: &mut Bench, load: Load, round: u64) -> Result<Turn> {
    let before = cluster.usage().await?;
    let (outcome, leader, terms) = generate(cluster, &bench.keys, load).await?;
    let after = cluster.usage().await?;
    let mut used: Vec<Usage> = after.into_iter().zip(before).map(|(after, before)| after.since(before)).collect();
    used.swap(0, leader);
    if cluster.system != System::Etcd {
        bench.leader_changes += terms;
    }
    show(&bench.report, cluster.system, load, round, &outcome, &used, terms);
    ensure!(
        matches!(load.operation, Operation::Get | Operation::StaleGet) || used.iter().all(|used| used.syncs > 0),
        "a member of {} never brought its log to the disk: this is no measurement",
        cluster.system.name()
    );
    Ok(Turn { outcome, used })
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn show(report: &Report, system: System, load: Load, round: u64, outcome: &Outcome, used: &[Usage], terms: u64) {
    let Outcome { failures, p50_us, p99_us, max_us, .. } = outcome;
    let millis = |micros: &u64| *micros as f64 / 1e3;
    // Writing to a string cannot fail.
    let mut line = format!(
        "round {round}, {:>3} x {:<5} {:<10} {:>7.0}/s  p50 {:.2}  p99 {:.2}  max {:.1} ms",
        load.clients,
        load.operation.word(),
        system.name(),
        outcome.per_second(),
        millis(p50_us),
        millis(p99_us),
        millis(max_us)
    );
    for (used, what) in used.iter().zip(["leader", "follower", "follower"]) {
        let _ = write!(line, "; {what} {:.1} s CPU, {} syncs", used.cpu_s, used.syncs);
        if used.written > 0 {
            let _ = write!(line, ", {:.0} MiB", used.written as f64 / f64::from(1 << 20));
        }
    }
    if *failures > 0 {
        let _ = write!(line, "; {failures} failures ({})", outcome.failure.as_deref().unwrap_or_default());
    }
    if terms > 0 {
        let _ = write!(line, "; {terms} more terms");
    }
    report.say(line);
}

/// Acknowledged writes and linearizable reads.
pub(crate) async fn load(bench: &mut Bench) -> Result<()> {
    let writes = WRITERS.map(|clients| (Operation::Put, clients));
    let loads: Vec<_> = writes.into_iter().chain([(Operation::Get, SIXTY_FOUR)]).collect();
    // By load, then by system, then by round.
    let mut turns: Vec<[Vec<Turn>; 2]> = loads.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    let folder = bench.folder.clone();
    let keys = bench.keys.clone();
    for round in 1..=bench.rounds {
        // Without data at the beginning of each round, so that all rounds are alike.
        let mut clusters = [
            Cluster::start(System::Berth, &folder.join("berth"), &keys).await?,
            Cluster::start(System::Etcd, &folder.join("etcd"), &keys).await?,
        ];
        for (turns, &(operation, clients)) in turns.iter_mut().zip(&loads) {
            let load = Load { operation, clients, seconds: bench.seconds, requests: None, seed: round };
            for place in order(round) {
                turns[place].push(turn(&mut clusters[place], bench, load, round).await?);
            }
        }
        for cluster in clusters {
            cluster.discard().await?;
        }
    }
    for ((operation, clients), [ours, theirs]) in loads.into_iter().zip(&turns) {
        let compared = Compared::new(ours, theirs);
        compared.show(&bench.report, operation, clients);
        let rate = compared.rate.median();
        if operation == Operation::Get {
            let metric = format!("linearizable_reads_per_s_ratio_vs_etcd_clients_{clients}");
            bench.report.metric(metric, rate, "ratio", Better::Higher);
            continue;
        }
        let metric = format!("writes_per_s_ratio_vs_etcd_clients_{clients}");
        bench.report.metric(metric, rate, "ratio", Better::Higher);
        if LATENCY_METRIC.contains(&clients) {
            let metric = format!("p99_latency_ratio_vs_etcd_clients_{clients}");
            bench.report.metric(metric, compared.p99.median(), "ratio", Better::Lower);
        }
    }
    Ok(())
}

/// Label updates on as many VMs as etcd has keys, through controllers as they are shipped.
pub(crate) async fn api(bench: &mut Bench) -> Result<()> {
    let keys = bench.keys.clone();
    let mut clusters = [
        Cluster::start(System::Controller, &bench.folder.join("controller"), &keys).await?,
        Cluster::start(System::Etcd, &bench.folder.join("etcd"), &keys).await?,
    ];
    bench.report.say(format_args!("creating {KEYS} VMs"));
    image(&mut clusters[0], &keys).await?;
    let create =
        Load { operation: Operation::CreateVm, clients: SIXTY_FOUR, seconds: LONGEST, requests: Some(KEYS), seed: 0 };
    let (created, _, terms) = generate(&mut clusters[0], &keys, create).await?;
    bench.leader_changes += terms;
    ensure!(created.failures == 0, "VMs cannot be created: {}", created.failure.unwrap_or_default());
    let mut turns = [Vec::new(), Vec::new()];
    for round in 1..=bench.rounds {
        for place in order(round) {
            let operation = [Operation::Label, Operation::Put][place];
            let load = Load { operation, clients: SIXTY_FOUR, seconds: bench.seconds, requests: None, seed: round };
            turns[place].push(turn(&mut clusters[place], bench, load, round).await?);
        }
    }
    for cluster in clusters {
        cluster.discard().await?;
    }
    let compared = Compared::new(&turns[0], &turns[1]);
    compared.show(&bench.report, Operation::Label, SIXTY_FOUR);
    let metric = format!("api_writes_per_s_ratio_vs_etcd_clients_{SIXTY_FOUR}");
    bench.report.metric(metric, compared.rate.median(), "ratio", Better::Higher);
    Ok(())
}

/// Makes the image that the VMs name; no host needs to have it.
async fn image(cluster: &mut Cluster<'_>, keys: &Keys) -> Result<()> {
    let (leader, _) = cluster.settled().await?;
    let channel = wire::channel(&cluster.members[leader].api.to_string(), &keys.client);
    let request = v1::CreateImageRequest {
        name: IMAGE.to_owned(),
        spec: Some(v1::ImageSpec { sha256: "0".repeat(64), virtual_size_bytes: 1 << 30 }),
        ..v1::CreateImageRequest::default()
    };
    ImageServiceClient::new(channel).create_image(request).await?;
    Ok(())
}

/// Whoever comes first in one round comes second in the next.
fn order(round: u64) -> [usize; 2] {
    if round % 2 == 1 { [0, 1] } else { [1, 0] }
}

/// Ours by theirs. A ratio is taken within each round, whose turns met the machine in the same mood.
struct Compared {
    rates: [Series; 2],
    p99s: [Series; 2],
    cpu: [Series; 2],
    rate: Series,
    p99: Series,
}

impl Compared {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn new(ours: &[Turn], theirs: &[Turn]) -> Self {
        let both = [ours, theirs];
        let of = |what: fn(&Turn) -> f64| both.map(|turns| turns.iter().map(what).collect::<Vec<f64>>());
        let ratio =
            |[ours, theirs]: &[Vec<f64>; 2]| ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let rates = of(|turn| turn.outcome.per_second());
        let p99s = of(|turn| turn.outcome.p99_us as f64 / 1e3);
        let cpu = of(|turn| turn.used.iter().map(|used| used.cpu_s).sum::<f64>() * 1e6 / turn.outcome.requests as f64);
        let (rate, p99) = (ratio(&rates), ratio(&p99s));
        let series = |values: [Vec<f64>; 2]| values.map(|values| values.into_iter().collect());
        Self { rates: series(rates), p99s: series(p99s), cpu: series(cpu), rate, p99 }
    }

    fn show(&self, report: &Report, operation: Operation, clients: u64) {
        let Self { rates, p99s, cpu, rate, p99 } = self;
        report.say(format_args!("{clients} x {}: {rate:.2} times the rate, {p99:.2} times the p99", operation.word()));
        for (at, who) in ["ours", "etcd"].into_iter().enumerate() {
            report.say(format_args!(
                "    {who}: {:.0} per s; p99 {:.2} ms; {:.0} us of CPU each in the three members",
                rates[at], p99s[at], cpu[at]
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(requests: u64, p99_us: u64) -> Turn {
        let outcome = Outcome { requests, failures: 0, failure: None, seconds: 2.0, p50_us: 1, p99_us, max_us: p99_us };
        Turn { outcome, used: vec![Usage { cpu_s: 1.0, written: 0, syncs: 1 }; 3] }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was ten times slower in the second round, for both.
        let compared = Compared::new(&[turn(400, 500), turn(40, 5000)], &[turn(200, 1000), turn(20, 10_000)]);
        assert!((compared.rate.median() - 2.0).abs() < 1e-9 && (compared.rate.max() - 2.0).abs() < 1e-9);
        assert!((compared.p99.median() - 0.5).abs() < 1e-9);
        assert!((compared.rates[0].max() - 200.0).abs() < 1e-9);
    }
}
