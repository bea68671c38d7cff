//! The bench of one host: how long it takes to plan for three hundred VMs, and what memory the daemon needs for them.
//!
//! The plan is the pure step itself, over entries that came through a real ledger. The daemon is the real one on a simulated
//! machine, with a session to three controllers that placed the VMs there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_host::backend::DomainSeen;
use berth_host::clock::{BootTime, Now};
use berth_host::float::Shared;
use berth_host::history::History;
use berth_host::ledger::Ledger;
use berth_host::plan::{HostDesired, HostObserved, HostPlan, Permission, Scan, plan};
use berth_host::step::Mark;
use berth_model::host::{AcceleratorReport, CoreId, Inventory, NodeId, Thread, ThreadId, Topology};
use berth_model::image::{ImageOnHost, ImageRef, Sha256Digest};
use berth_model::placement::Rules;
use berth_model::session::{DesiredEntry, Present};
use berth_model::vm::{
    Accelerator, Assignment, DomainState, NodePages, Performance, Resources, RunStrategy, Tuning, VmSpec,
};
use berth_model::{Bytes, ClusterId, Epoch, HostUid, Name, PageSize, Stamp, Timestamp, Uid, VmUid};
use tokio::time::sleep;

use crate::cluster::{Cluster, Keys, System};
use crate::fleet::Fleet;
use crate::report::{Better, Report, Series};
use crate::scale::{self, drive::Drive, vms, whole};
use crate::{usage, wire};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print each metric as a line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// Fewer plans: for a look while developing
    #[arg(long)]
    quick: bool,
    /// Where data directories are made
    #[arg(long, default_value = "target/bench-host")]
    folder: PathBuf,
}

/// VMs on the host.
const VMS: u32 = 300;
/// How long the daemon runs on before its memory is looked at.
const REST: Duration = Duration::from_secs(10);

/// Runs the bench.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::of("host", args.json);
    let spans = plans(if args.quick { 100 } else { 2000 })?;
    report.say(format_args!("a plan over {VMS} VMs: {spans:.3} ms"));
    report.metric("plan_ms_p99", spans.quantile(0.99), "ms", Better::Lower);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let held = runtime.block_on(async {
        let stop = berth_telemetry::shutdown_signal().context("cannot listen for signals")?;
        tokio::select! {
            held = memory(args, &report) => held,
            () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
        }
    })?;
    report.metric("hostd_rss_bytes", whole(held), "bytes", Better::Lower);
    report.print()
}

/// What the daemon holds in memory with all VMs running.
async fn memory(args: &Args, report: &Report) -> Result<u64> {
    let folder = scale::fresh(&args.folder)?;
    let keys = Keys::make(&folder.join("tls"))?;
    let mut cluster = Cluster::start(System::Controller, &folder.join("controllers"), &keys).await?;
    let (leader, _) = cluster.settled().await?;
    let api = cluster.members[leader].api.to_string();
    scale::make_image(&api, &keys).await?;
    let mut fleet = Fleet::start(&cluster, &keys, &folder, 1)?;
    fleet.ready(wire::channel(&api, &keys.client), 1).await?;
    let mut drive = Drive::new(&api, &keys);
    drive.create_all(0..u64::from(VMS), vms::small).await?;
    drive.until_running(u64::from(VMS)).await?;
    sleep(REST).await;
    let held = usage::memory(fleet.pid()?)?;
    report.say(format_args!("{VMS} VMs run on one host; its daemon holds {:.1} MiB", whole(held) / f64::from(1 << 20)));
    fleet.stop().await?;
    cluster.discard().await?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(held)
}

/// How long plans take, in milliseconds: of a host that has just been told of all its VMs, and of one where all run.
fn plans(rounds: u32) -> Result<Series> {
    let host = HostUid(Uid::from_bits(1));
    let mut ledger = Ledger::new(host);
    let told: Vec<_> = (0..VMS).map(|number| entry(host, number)).collect::<Result<_>>()?;
    let accepted = ledger.accept_set(&told);
    ensure!(accepted.changed.len() == told.len(), "the ledger does not take the entries");
    let images = BTreeMap::from([(image()?.sha256, ImageOnHost::Verified { virtual_size: Bytes::gib(2) })]);
    let inventory = inventory();
    let now = Now { boot: BootTime::from_millis(1000), wall: Timestamp::from_millis(1_800_000_000_000) };
    let permission = Permission { until: Some(BootTime::from_millis(11_000)), confirmed: true };
    let domains: Vec<_> = told.iter().filter_map(running).collect();
    let (journals, progress) = (BTreeMap::new(), BTreeMap::new());
    let user_data = BTreeMap::new();
    let mut spans = Vec::new();
    for (seen, steps) in [(Vec::new(), VMS as usize), (domains, 0)] {
        let scan = Scan::new(1, Some(cluster()?), seen);
        let desired = HostDesired {
            cluster: Some(cluster()?),
            entries: ledger.entries(),
            orphaned: ledger.orphaned(),
            user_data: &user_data,
            permission,
        };
        let observed = HostObserved { scan: Some(&scan), images: Some(&images), inventory: Some(&inventory) };
        let history = History { journals: &journals, progress: &progress };
        for _ in 0..rounds {
            let began = Instant::now();
            let made: HostPlan = plan(&desired, &observed, &history, now);
            spans.push(began.elapsed().as_secs_f64() * 1e3);
            ensure!(made.steps.len() == steps, "{} steps are planned, {steps} should be", made.steps.len());
        }
    }
    Ok(spans.into_iter().collect())
}

/// A machine of two sockets with 32 cores of two threads each.
fn inventory() -> Inventory {
    let thread = |id: u32| {
        let core = id % 64;
        let socket = core / 32;
        Thread { id: ThreadId(id), core: CoreId(core), socket, node: NodeId(socket), cache: socket }
    };
    let topology = Topology { threads: (0..128).map(thread).collect() };
    Inventory {
        reserve: topology.host_reserve(2),
        topology,
        memory: Vec::new(),
        hugepages: Vec::new(),
        devices: Vec::new(),
        accelerator: AcceleratorReport { accelerator: Accelerator::Kvm, failed_step: None, detail: None },
        versions: Vec::new(),
        overlap: false,
    }
}

fn cluster() -> Result<ClusterId> {
    Ok("bench".parse()?)
}

fn name(text: &str) -> Result<Name> {
    Ok(text.parse()?)
}

fn image() -> Result<ImageRef> {
    let sha256: Sha256Digest = vms::SHA256.parse()?;
    Ok(ImageRef { name: name(vms::IMAGE)?, sha256, virtual_size: Bytes(vms::IMAGE_BYTES) })
}

fn entry(host: HostUid, number: u32) -> Result<DesiredEntry> {
    let epoch = Epoch(u64::from(number) + 10);
    let memory = Bytes::mib(512);
    let spec = VmSpec {
        instance_type: None,
        cpus: 1,
        preference: None,
        memory,
        performance: Performance::Density,
        tuning: Tuning::of(Performance::Density),
        devices: Vec::new(),
        rules: Rules::default(),
        image: image()?,
        disk_size: Bytes::gib(2),
        run: RunStrategy::Always,
        grace: VmSpec::GRACE,
        user_data: None,
    };
    let resources = Resources {
        emulator: [ThreadId(0)].into_iter().collect(),
        iothread: [ThreadId(0)].into_iter().collect(),
        shared_cpu: 250,
        memory: vec![NodePages { node: NodeId(0), page: PageSize::Small, count: PageSize::Small.pages_for(memory) }],
        overhead: spec.overhead(),
        ..Resources::default()
    };
    let present = Present {
        vm: VmUid(Uid::from_bits(u128::from(number) + 100)),
        project: Name::default_project(),
        name: name(&format!("vm-{number}"))?,
        spec,
        assignment: Assignment { host, epoch, resources, at: Timestamp::from_millis(1) },
        restart_count: 0,
        power: berth_model::vm::Power::default(),
        user_data: None,
    };
    Ok(DesiredEntry::Present(Box::new(present), Stamp { epoch, ..Stamp::default() }))
}

/// The domain of an entry, as a scan shows it while it runs.
fn running(entry: &DesiredEntry) -> Option<DomainSeen> {
    let DesiredEntry::Present(present, stamp) = entry else { return None };
    let mark = Mark {
        cluster: cluster().ok()?,
        vm: present.vm,
        project: present.project.clone(),
        name: present.name.clone(),
        stamp: *stamp,
        restart_count: 0,
    };
    let (state, accelerator) = (DomainState::Running, Accelerator::Kvm);
    let floats = Shared::new(&inventory(), []).place(&present.assignment.resources);
    Some(DomainSeen { mark, state, accelerator, since: None, floats, is_read_back: true, degraded: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_timed_is_a_plan_that_starts_all_and_one_that_has_nothing_to_do() {
        assert!(plans(1).unwrap().quantile(0.5) > 0.0);
    }
}
