//! The bench of placement: how many VMs a second find their exact berths, in the shapes of kube-scheduler's own workloads.
//!
//! One thread does what the leader does: it plans for VMs that wait, applies each `Assign` to the replicated state, publishes
//! the view, and lets the planner's index follow. That is what is measured; creating the VMs is not. Every placement is
//! looked at by a judge of its own, which counts by walking lists and shares no code with the planner; the watch stands
//! still meanwhile.

mod cases;
mod cluster;
mod questions;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_model::Timestamp;
use berth_planner::testing::Judge;
use berth_planner::{Budget, Index, Verdict, plan};
use berth_state::{Batch, Body, Cluster, Command, apply};

use crate::report::{Better, Report};
use cases::Case;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print each metric as a line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// A tenth of the VMs: for a look while developing
    #[arg(long)]
    quick: bool,
    /// Measure only these cases; all if none is named
    #[arg(long = "only", value_enum)]
    cases: Vec<Case>,
    /// Measure only with so many hosts; 1,000 and 5,000 if none is named
    #[arg(long)]
    hosts: Vec<u32>,
    /// Do not look at placements a second time: for profiles
    #[arg(long)]
    unchecked: bool,
}

/// VMs that are in place before, those of the case's own shapes included.
const IN_PLACE: u32 = 45_000;
/// Of these, so many of the case's own shapes.
const OF_THE_CASE: u32 = 1000;
/// VMs that are measured.
const MEASURED: u32 = 5000;
/// VMs in one batch.
const BATCH: usize = 100;
/// Commands in one log entry, as the leader proposes them.
const COMMANDS: usize = 50;

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::of("planner", args.json);
    let few = if args.quick { 10 } else { 1 };
    let sizes = if args.hosts.is_empty() { vec![1000, 5000] } else { args.hosts.clone() };
    for hosts in sizes {
        let mut base = World::new(hosts);
        let plain = IN_PLACE / few - OF_THE_CASE / few;
        base.fill(plain, &|number| cases::ordinary(number))?;
        report.say(format_args!("{hosts} hosts with {plain} VMs in place"));
        let suffix = if hosts == 1000 { String::new() } else { format!("_{hosts}hosts") };
        for case in Case::ALL.iter().filter(|case| args.cases.is_empty() || args.cases.contains(case)) {
            let mut world = base.clone();
            world.fill(OF_THE_CASE / few, &|number| case.vm(number))?;
            let outcome = world.measure(*case, MEASURED / few, !args.unchecked)?;
            let rate = f64::from(outcome.placed) / outcome.wall.as_secs_f64();
            report.say(format_args!(
                "{case}, {hosts} hosts: {rate:.0} placements/s ({:.0} by processor time), planning {:.0} %; {} left",
                f64::from(outcome.placed) / outcome.processor.as_secs_f64(),
                100.0 * outcome.planning.as_secs_f64() / outcome.wall.as_secs_f64(),
                outcome.unplaced,
            ));
            ensure!(outcome.unplaced == 0, "{} VMs of {case} found no host", outcome.unplaced);
            report.metric(format!("placements_per_s_{case}{suffix}"), rate, "1/s", Better::Higher);
        }
        if args.cases.is_empty() {
            // As many VMs as the cases end with.
            base.fill(IN_PLACE / few + MEASURED / few - plain, &|number| Case::Mixed.vm(number))?;
            questions::measure(&base, &suffix, &mut report)?;
        }
    }
    report.print()
}

/// A cluster and who plans for it.
#[derive(Clone)]
struct World {
    cluster: Cluster,
    at: Timestamp,
    created: u32,
}

#[derive(Debug, Default)]
struct Outcome {
    placed: u32,
    unplaced: u32,
    wall: Duration,
    planning: Duration,
    processor: Duration,
}

impl World {
    fn new(hosts: u32) -> Self {
        let mut world = Self { cluster: Cluster::default(), at: cluster::BEGIN, created: 0 };
        for body in cluster::hosts(hosts) {
            world.done(vec![body]);
        }
        world
    }

    fn done(&mut self, bodies: Vec<Body>) {
        self.at = self.at.plus(berth_model::Millis(1));
        let commands =
            bodies.into_iter().map(|body| Command { request: None, actor: cluster::actor(), body }).collect();
        let (answers, _) = apply::apply(&mut self.cluster, &Batch { at: self.at, commands });
        for answer in answers {
            answer.result.expect("the bench proposes only what can be done");
        }
    }

    fn create(&mut self, count: u32, vm: &dyn Fn(u32) -> cases::Asked) {
        let bodies = (0..count).map(|at| cluster::create(self.created + at, vm(self.created + at))).collect();
        self.created += count;
        self.done(bodies);
    }

    /// Creates and places VMs, unmeasured.
    fn fill(&mut self, count: u32, vm: &dyn Fn(u32) -> cases::Asked) -> Result<()> {
        let mut index = Index::default();
        let mut left = count;
        while left > 0 {
            let now = left.min(1000);
            self.create(now, vm);
            left -= now;
            let made = plan(&self.cluster, &mut index, None, Budget { vms: now as usize });
            let refused = made.report.iter().find(|(_, verdict)| matches!(verdict, Verdict::Refused(_)));
            ensure!(refused.is_none(), "a VM that should be in place found no host: {refused:?}");
            self.done(made.commands);
        }
        Ok(())
    }

    fn measure(&mut self, case: Case, count: u32, checked: bool) -> Result<Outcome> {
        let mut index = Index::new(&self.cluster);
        let mut judge = if checked { Judge::new(&self.cluster) } else { Judge::default() };
        let mut outcome = Outcome::default();
        let mut shapes: BTreeMap<String, u32> = BTreeMap::new();
        let mut left = count;
        while left > 0 {
            let now = left.min(u32::try_from(BATCH)?);
            for number in self.created..self.created + now {
                *shapes.entry(format!("{:?}", case.vm(number))).or_default() += 1;
            }
            self.create(now, &|number| case.vm(number));
            left -= now;
            let view = self.cluster.clone();
            let processor = processor_time()?;
            let began = Instant::now();
            let made = plan(&view, &mut index, None, Budget { vms: BATCH });
            outcome.planning += began.elapsed();
            let mut published = Vec::new();
            for commands in made.commands.chunks(COMMANDS) {
                self.done(commands.to_vec());
                published.push(self.cluster.clone());
            }
            if left == 0 {
                index.catch_up(&self.cluster);
            }
            outcome.wall += began.elapsed();
            outcome.processor += processor_time()?.saturating_sub(processor);
            for body in made.commands {
                let Body::Assign { vm, host, resources, .. } = body else {
                    outcome.unplaced += 1;
                    continue;
                };
                outcome.placed += 1;
                if checked {
                    let vm = Arc::clone(view.vms.get(&vm).context("a VM that was never asked for")?);
                    let faults = judge.faults(&vm, host, &resources);
                    ensure!(faults.is_empty(), "{} was placed wrongly: {faults:?}", vm.meta.name);
                    judge.place(&vm, host, resources);
                }
            }
        }
        ensure!(shapes.len() >= 50, "{case} has only {} shapes", shapes.len());
        let differences = if checked { index.differences() } else { Vec::new() };
        ensure!(differences.is_empty(), "the index is not that of the view: {differences:?}");
        Ok(outcome)
    }
}

/// Processor time of this thread.
fn processor_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("how long this thread ran is not known")?;
    let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}
