//! The bench at scale: three real controllers, a thousand hosts of which only the machines are imagined, fifty thousand VMs.
//!
//! The controllers run as shipped, with the settings that their package has. Everything goes through gRPC and mutual TLS, and
//! is counted by the controllers themselves. The load generator is this process, on one thread; how much processor time each
//! took is told, so that it shows whose figures they are. The fleet, which stands for a thousand other computers, runs at a
//! lower priority than what is measured.

pub(crate) mod drive;
pub(crate) mod vms;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_proto::v1;
use berth_proto::v1::host_service_client::HostServiceClient;
use berth_proto::v1::image_service_client::ImageServiceClient;
use berth_proto::v1::vm_service_client::VmServiceClient;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::sleep;

use crate::cluster::{Cluster, Keys, System};
use crate::fleet::{Fleet, host_name};
use crate::load;
use crate::report::{Better, Report, Series};
use crate::usage;
use crate::wire;
use drive::{Drive, Placed};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print each metric as a line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// 50 hosts and 1,000 VMs: for a look while developing
    #[arg(long)]
    quick: bool,
    /// How many hosts; 1,000, or 50 if quick
    #[arg(long)]
    hosts: Option<u64>,
    /// How many VMs; 50 for each host, or 20 if quick
    #[arg(long)]
    vms: Option<u64>,
    /// Wait so long before the end, in seconds, with everything in place: to look at it with other tools
    #[arg(long, default_value_t = 0)]
    linger: u64,
    /// Where data directories are made, on the disk that is measured
    #[arg(long, default_value = "target/bench-scale")]
    folder: PathBuf,
}

/// How long a cluster without hosts and VMs runs before its memory is looked at.
const EMPTY_FOR: Duration = Duration::from_secs(5);
/// How long the cluster comes to rest before it is watched doing nothing.
const REST: Duration = Duration::from_secs(10);
/// VMs a second, where it is measured how soon hosts are told.
const PACE: u64 = 50;
/// Updates of hosts at once.
const UPDATES: usize = 16;

/// The controllers' counters.
const COMMANDS: &str = "berth_commands_applied_total";
const LOG_BYTES: &str = "berth_raft_appended_bytes_total";
const HEARTBEATS: &str = "berth_host_heartbeats_total";

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
    let folder = fresh(&args.folder)?;
    let keys = Keys::make(&folder.join("tls"))?;
    let hosts = args.hosts.unwrap_or(if args.quick { 50 } else { 1000 });
    let vms = args.vms.unwrap_or(hosts * if args.quick { 20 } else { 50 });
    let mut scale = Scale {
        cluster: Cluster::start(System::Controller, &folder.join("controllers"), &keys).await?,
        keys: &keys,
        report: Report::of("scale", args.json),
        hosts,
        vms,
        rest: if args.quick { 10 } else { 30 },
    };
    scale.empty().await?;
    let fleet = scale.join(&folder).await?;
    scale.create(&fleet).await?;
    scale.idle().await?;
    scale.read().await?;
    scale.told(&fleet).await?;
    sleep(Duration::from_secs(args.linger)).await;
    scale.failover().await?;
    fleet.stop().await?;
    scale.cluster.discard().await?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    scale.report.print()
}

/// An empty folder.
pub(crate) fn fresh(folder: &Path) -> Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Has a controller know the image of all VMs.
pub(crate) async fn make_image(api: &str, keys: &Keys) -> Result<()> {
    let request = v1::CreateImageRequest {
        write: Some(load::write()),
        name: vms::IMAGE.to_owned(),
        spec: Some(v1::ImageSpec { sha256: vms::SHA256.to_owned(), virtual_size_bytes: vms::IMAGE_BYTES }),
        ..v1::CreateImageRequest::default()
    };
    ImageServiceClient::new(wire::channel(api, &keys.client)).create_image(request).await?;
    Ok(())
}

/// The bench under way.
struct Scale<'a> {
    cluster: Cluster<'a>,
    keys: &'a Keys,
    report: Report,
    hosts: u64,
    vms: u64,
    /// How long the cluster is watched doing nothing, and how long VMs come at a pace, in seconds.
    rest: u64,
}

/// What was counted and used at one moment.
struct Moment {
    leader: usize,
    commands: u64,
    log_bytes: u64,
    heartbeats: u64,
    /// Processor time of each member, in seconds.
    cpu: Vec<f64>,
    at: Instant,
}

impl Scale<'_> {
    async fn moment(&mut self) -> Result<Moment> {
        let (leader, _) = self.cluster.settled().await?;
        let page = self.cluster.metrics(leader).await?;
        let cpu = |member: &crate::cluster::Member| Ok(usage::of_process(member.pid()?)?.cpu_s);
        Ok(Moment {
            leader,
            commands: page.value(COMMANDS)?,
            log_bytes: page.value(LOG_BYTES)?,
            heartbeats: page.value(HEARTBEATS)?,
            cpu: self.cluster.members.iter().map(cpu).collect::<Result<_>>()?,
            at: Instant::now(),
        })
    }

    /// The leader, which must be the one that it was.
    async fn moment_since(&mut self, before: &Moment) -> Result<Moment> {
        let now = self.moment().await?;
        ensure!(now.leader == before.leader, "another member leads than before: this is no measurement");
        Ok(now)
    }

    async fn empty(&mut self) -> Result<()> {
        sleep(EMPTY_FOR).await;
        let (leader, _) = self.cluster.settled().await?;
        let held = usage::memory(self.cluster.members[leader].pid()?)?;
        self.metric("leader_empty_rss_bytes", whole(held), "bytes", Better::Lower);
        Ok(())
    }

    async fn join(&mut self, folder: &Path) -> Result<Fleet> {
        let (leader, _) = self.cluster.settled().await?;
        let api = self.cluster.members[leader].api.to_string();
        make_image(&api, self.keys).await?;
        let mut fleet = Fleet::start(&self.cluster, self.keys, folder, self.hosts)?;
        let channel = wire::channel(&api, &self.keys.client);
        fleet.ready(channel.clone(), self.hosts).await?;
        self.report.say(format_args!("{} hosts have sessions", self.hosts));
        stream::iter(1..=self.hosts)
            .map(|number| {
                let mut client = HostServiceClient::new(channel.clone());
                async move { client.update_host(vms::marks(&host_name(number), number)).await }
            })
            .buffer_unordered(UPDATES)
            .try_for_each(async |_| Ok(()))
            .await?;
        Ok(fleet)
    }

    async fn create(&mut self, fleet: &Fleet) -> Result<()> {
        let before = self.moment().await?;
        let own = std::process::id();
        let (fleet_before, own_before) = (usage::of_process(fleet.pid()?)?, usage::of_process(own)?);
        let mut drive = Drive::new(&self.cluster.members[before.leader].api.to_string(), self.keys);
        let created = drive.create(0..self.vms).await?;
        let accepted = before.at.elapsed().as_secs_f64();
        self.report.say(format_args!(
            "{} VMs were accepted in {accepted:.1} s ({:.0}/s, {} tries again)",
            self.vms,
            whole(self.vms) / accepted,
            created.retries,
        ));
        let placed = drive.until_running(self.vms).await?;
        let took = before.at.elapsed().as_secs_f64();
        let after = self.moment_since(&before).await?;
        let leader = self.cluster.members[before.leader].pid()?;
        let vms = whole(self.vms);
        self.say_cpu(&before, &after);
        self.report.say(format_args!(
            "processor time: fleet {:.1} s, load generator {:.1} s; fleet's memory {:.0} MiB; load average {}",
            usage::of_process(fleet.pid()?)?.since(fleet_before).cpu_s,
            usage::of_process(own)?.since(own_before).cpu_s,
            whole(usage::memory(fleet.pid()?)?) / f64::from(1 << 20),
            load_average()?,
        ));
        self.show_mix(&placed);
        self.metric("vms_per_s", vms / took, "1/s", Better::Higher);
        self.metric("commands_per_vm", whole(after.commands - before.commands) / vms, "count", Better::Lower);
        self.metric("log_bytes_per_vm", whole(after.log_bytes - before.log_bytes) / vms, "bytes", Better::Lower);
        self.metric("leader_rss_bytes", whole(usage::memory(leader)?), "bytes", Better::Lower);
        self.metric("leader_peak_rss_bytes", whole(usage::most_memory(leader)?), "bytes", Better::Lower);
        Ok(())
    }

    fn show_mix(&mut self, placed: &Placed) {
        let share = |part: u64| 100.0 * whole(part) / whole(placed.vms.max(1));
        let booked = 100.0 * whole(placed.booked) / (whole(self.hosts) * 512.0 * f64::from(1 << 30));
        for (name, value) in [
            ("mix_density", share(placed.density)),
            ("mix_standard", share(placed.standard)),
            ("mix_high", share(placed.high)),
            ("mix_with_rules", share(placed.with_rules)),
            ("memory_booked", booked),
        ] {
            self.metric(name, value, "%", Better::Higher);
        }
        self.metric("vms_on_the_fullest_host", whole(placed.fullest()), "VMs", Better::Higher);
    }

    /// With everything in place and nothing asked for.
    async fn idle(&mut self) -> Result<()> {
        sleep(REST).await;
        let before = self.moment().await?;
        sleep(Duration::from_secs(self.rest)).await;
        let after = self.moment_since(&before).await?;
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        self.say_cpu(&before, &after);
        let percent = 100.0 * (after.cpu[before.leader] - before.cpu[before.leader]) / seconds;
        self.metric("leader_idle_cpu_percent", percent, "%", Better::Lower);
        let heartbeats = after.heartbeats - before.heartbeats;
        ensure!(heartbeats > 0, "no host was heard of for {seconds:.0} s");
        let commands = after.commands - before.commands;
        self.report.say(format_args!("{commands} commands and {heartbeats} heartbeats in {seconds:.0} s of rest"));
        self.metric("commands_per_heartbeat", whole(commands) / whole(heartbeats), "count", Better::Lower);
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        let (leader, _) = self.cluster.settled().await?;
        let mut drive = Drive::new(&self.cluster.members[leader].api.to_string(), self.keys);
        let pages = drive.list(200).await?;
        let gets = drive.get(2000, self.vms).await?;
        self.report.say(format_args!("pages of 500: {pages:.2} ms; single VMs: {gets:.2} ms"));
        self.metric("list_page_500_ms_p99", pages.quantile(0.99), "ms", Better::Lower);
        self.metric("get_ms_p99", gets.quantile(0.99), "ms", Better::Lower);
        Ok(())
    }

    async fn told(&mut self, fleet: &Fleet) -> Result<()> {
        let before = self.moment().await?;
        let mut drive = Drive::new(&self.cluster.members[before.leader].api.to_string(), self.keys);
        let first = self.vms;
        let accepted = drive.paced(first..first + PACE * self.rest, PACE).await?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let told = loop {
            let told = fleet.told()?;
            if accepted.keys().all(|vm| told.contains_key(vm)) {
                break told;
            }
            ensure!(Instant::now() < deadline, "hosts were not told of all VMs that were accepted");
            sleep(Duration::from_millis(200)).await;
        };
        let after = self.moment_since(&before).await?;
        self.say_cpu(&before, &after);
        let millis = |(vm, at): (&String, &Duration)| told[vm].saturating_sub(*at).as_secs_f64() * 1e3;
        let spans: Series = accepted.iter().map(millis).collect();
        self.report.say(format_args!("from the acknowledgement to the host's synced ledger: {spans:.1} ms"));
        self.metric("accept_to_host_told_ms_p50", spans.quantile(0.5), "ms", Better::Lower);
        self.metric("accept_to_host_told_ms_p99", spans.quantile(0.99), "ms", Better::Lower);
        Ok(())
    }

    async fn failover(&mut self) -> Result<()> {
        let (leader, _) = self.cluster.settled().await?;
        let survivors: Vec<_> = (0..self.cluster.members.len())
            .filter(|&member| member != leader)
            .map(|member| {
                VmServiceClient::new(wire::channel(&self.cluster.members[member].api.to_string(), &self.keys.client))
            })
            .collect();
        for survivor in &survivors {
            // Connected, so that no handshake is measured.
            let consistency = v1::Consistency::Stale.into();
            let request = v1::GetVmRequest { consistency, name: vms::name(0), ..v1::GetVmRequest::default() };
            survivor.clone().get_vm(request).await?;
        }
        let killed = self.cluster.kill(leader).await?;
        let gap = drive::next_placement(&survivors, killed, self.vms + PACE * self.rest).await?;
        self.metric("leader_kill_to_next_placement_s", gap, "s", Better::Lower);
        self.cluster.spawn(leader)?;
        Ok(())
    }

    fn metric(&mut self, name: &'static str, value: f64, unit: &'static str, better: Better) {
        self.report.say(format_args!("{name}: {value:.3} {unit}"));
        self.report.metric(name, value, unit, better);
    }

    fn say_cpu(&self, before: &Moment, after: &Moment) {
        let used = |member: usize| after.cpu[member] - before.cpu[member];
        let others: Vec<_> = (0..after.cpu.len())
            .filter(|&member| member != before.leader)
            .map(|member| format!("{:.1} s", used(member)))
            .collect();
        self.report.say(format_args!(
            "processor time in {:.1} s: leader {:.1} s, followers {}",
            after.at.duration_since(before.at).as_secs_f64(),
            used(before.leader),
            others.join(" and "),
        ));
    }
}

/// How busy this computer is.
fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("the load average is not known")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "counts and bytes of one run stay far below 2^52")]
pub(crate) fn whole(count: u64) -> f64 {
    count as f64
}
