//! A large world: many hosts and VMs at once, with everything that is watched in a history watched here too.
//!
//! VMs are created as fast as clients would, and the run ends once all of them run. The state is audited now and then and at the
//! end: in a large world the audit would otherwise outweigh the work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use berth_control::admit::HostTarget;
use berth_model::Bytes;
use berth_state::HostBookings;
use berth_state::audit::audit;
use serde::Serialize;

use crate::dice::Dice;
use crate::plan::{Fault, FaultKind};
use crate::tally::Group;
use crate::world::{Clients, Event, Settings, Wish, World, shapes};

/// Which faults a large world has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Faults {
    /// None.
    None,
    /// One every second or two, of the kinds from which nothing but time is needed to recover.
    Default,
}

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Hosts.
    pub hosts: usize,
    /// VMs.
    pub vms: usize,
    /// By which everything is drawn.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
}

/// One figure, as `./x bench` prints them.
#[derive(Clone, Debug, Serialize)]
pub struct Metric {
    bench: &'static str,
    #[serde(rename = "metric")]
    name: String,
    value: f64,
    unit: &'static str,
    better: &'static str,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<28}{:>18.1} {}", self.name, self.value, self.unit)
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Figures.
    pub metrics: Vec<Metric>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// VMs that clients create in a second of virtual time.
const VMS_A_SECOND: u64 = 1000;
/// How long all may take to run after the last was asked for and the last fault is over, in milliseconds of virtual time.
const RUN_WITHIN: u64 = 900_000;
/// Virtual time between two audits, in milliseconds.
const AUDIT_EVERY: u64 = 60_000;
const LOOK_EVERY: u64 = 1000;

/// Runs a large world. `progress` hears now and then how many VMs run, and at which virtual second.
pub fn run(order: Order, mut progress: impl FnMut(usize, u64)) -> Result<Report> {
    let began = Instant::now();
    let Order { hosts, vms, seed, faults } = order;
    let mut dice = Dice::new(seed);
    let settings = Settings {
        machines: vec![shapes::large_machine(); hosts],
        network: 1..5,
        commit: 2..6,
        disk: 1..5,
        plant: None,
        is_verbose: false,
        is_thorough: false,
    };
    let asked_within = 2000 + vms as u64 * 1000 / VMS_A_SECOND;
    let faults = match faults {
        Faults::None => Vec::new(),
        Faults::Default => default_faults(&mut dice, asked_within + 30_000),
    };
    let healed = faults.iter().map(|fault| fault.at + fault.lasts).max().unwrap_or(0).max(asked_within);
    let mut world = World::new(settings, dice.fork(), Clients::new(dice.fork(), vms), faults);
    // Guests take 50 to 1500 ms; nothing else of a world is as slow, so the first hosts are up when the first VM comes.
    world.at(LOOK_EVERY, Event::Look);
    let (mut asked, mut next_audit, mut steps) = (0_usize, AUDIT_EVERY, 0_u64);
    let mut is_settled = false;
    while world.witness.broken.is_none() && !is_settled {
        let is_look = world.next_is_look();
        if !world.advance() {
            break;
        }
        steps += 1;
        if !is_look {
            continue;
        }
        world.after(LOOK_EVERY, Event::Look);
        if world.now == LOOK_EVERY {
            world.wish(Wish::tiny());
            for number in 0..hosts {
                let target = HostTarget { name: format!("h{}", number + 1), ..HostTarget::default() };
                world.wish(Wish::Host(target, Box::new(shapes::large_marks(number))));
            }
        }
        let due = usize::try_from(world.now.saturating_sub(2000) * VMS_A_SECOND / 1000).unwrap_or(vms).min(vms);
        while asked < due {
            let request = shapes::large_vm(&mut dice, asked);
            // Spread over the second.
            world.wish_later(dice.within(0..LOOK_EVERY), Wish::Create(Box::new(request)));
            asked += 1;
        }
        progress(world.witness.running(), world.now / 1000);
        if world.now >= next_audit {
            next_audit += AUDIT_EVERY;
            check(&mut world);
        }
        if world.now > healed && asked == vms && world.witness.running() == vms {
            world.is_healed = true;
            is_settled = world.unsettled().is_none();
        }
        if world.now > healed + RUN_WITHIN {
            let why = world.unsettled().unwrap_or_default();
            let running = world.witness.running();
            world.witness.broken("all comes to be as wanted", format_args!("{running} of {vms} run; {why}"));
        }
    }
    check(&mut world);
    let took = began.elapsed().as_secs_f64();
    let mut metrics = figures(&world, steps, took)?;
    metrics.extend(mix(&world));
    Ok(Report { metrics, failure: world.witness.broken.take() })
}

fn check(world: &mut World) {
    let broken = audit(world.front());
    if !broken.is_empty() {
        world.witness.broken("the audit finds nothing", format_args!("{}", broken.join("; ")));
    }
}

fn default_faults(dice: &mut Dice, until: u64) -> Vec<Fault> {
    let kinds: Vec<_> = FaultKind::ALL.into_iter().filter(|(kind, _)| kind.heals_by_itself()).collect();
    let (mut faults, mut at) = (Vec::new(), 4000);
    while at < until {
        let kind = dice.weighted(&kinds);
        faults.push(Fault { at, lasts: kind.draw_length(dice), kind, whom: dice.next() });
        at += dice.within(200..2500);
    }
    faults
}

fn metric(name: impl Into<String>, value: f64, unit: &'static str, better: &'static str) -> Metric {
    Metric { bench: "sim", name: name.into(), value, unit, better }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people and charts; none comes near 2^52")]
fn figures(world: &World, steps: u64, took: f64) -> Result<Vec<Metric>> {
    let front = world.front();
    let vms = front.vms.len().max(1) as f64;
    Ok(vec![
        metric("hosts", front.hosts.len() as f64, "hosts", "higher"),
        metric("vms", front.vms.len() as f64, "VMs", "higher"),
        metric("vms_running", world.witness.running() as f64, "VMs", "higher"),
        metric("wall", took, "s", "lower"),
        metric("virtual", world.now as f64 / 1000.0, "s", "lower"),
        metric("events_per_s", steps as f64 / took, "1/s", "higher"),
        metric("commands_per_vm", world.log.commands as f64 / vms, "commands", "lower"),
        metric("log_bytes_per_vm", world.log.bytes as f64 / vms, "bytes", "lower"),
        metric("faults", world.witness.tally.sum(Group::Fault) as f64, "faults", "higher"),
        metric("peak_memory", peak_memory()? as f64, "bytes", "lower"),
    ])
}

/// What kinds of VMs there are, and how full the hosts are.
#[expect(clippy::cast_precision_loss, reason = "figures for people and charts; none comes near 2^52")]
fn mix(world: &World) -> Vec<Metric> {
    let front = world.front();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let (mut most, mut ruled) = (0, 0_usize);
    for vm in front.vms.values() {
        *kinds.entry(shapes::kind(&vm.spec)).or_default() += 1;
        ruled += usize::from(!vm.spec.rules.is_empty());
    }
    let (mut cpu, mut cpu_free, mut memory, mut memory_free) = (0_u64, 0_u64, Bytes(0), Bytes(0));
    let empty = Arc::new(HostBookings::default());
    for host in front.hosts.values() {
        let inventory = &host.inventory;
        let held = front.bookings(host.uid()).unwrap_or(&empty);
        most = most.max(held.count());
        cpu += empty.free_shared_cpu(inventory);
        cpu_free += held.free_shared_cpu(inventory);
        memory = memory.saturating_add(empty.free_ordinary(inventory));
        memory_free = memory_free.saturating_add(held.free_ordinary(inventory));
        for pool in &inventory.hugepages {
            let page = pool.page.bytes().0;
            memory = memory.saturating_add(Bytes(pool.total * page));
            let free = held.free_pages(inventory, pool.node, pool.page) * page;
            memory_free = memory_free.saturating_add(Bytes(free));
        }
    }
    let share = |part: f64, whole: f64| 100.0 * part / whole.max(1.0);
    let all = front.vms.len() as f64;
    let mut metrics = vec![
        metric("memory_booked", 100.0 - share(memory_free.0 as f64, memory.0 as f64), "%", "higher"),
        metric("cpu_booked", 100.0 - share(cpu_free as f64, cpu as f64), "%", "higher"),
        metric("vms_on_the_fullest_host", most as f64, "VMs", "higher"),
        metric("vms_with_rules", share(ruled as f64, all), "%", "higher"),
    ];
    metrics.extend(
        kinds.into_iter().map(|(kind, count)| metric(format!("mix_{kind}"), share(count as f64, all), "%", "higher")),
    );
    metrics
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("the kernel does not tell of this process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmHWM is no number of kB")?;
    Ok(kilobytes * 1024)
}
