//! How long the planner takes over what is not placement: why a VM waits, what the loss of any host would mean, which moves
//! would help; and over VMs with the largest rules that admission lets through.
//!
//! Each question begins without an index, as the controller asks it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_model::placement::{
    Domain, HostWish, Operator, Proposal, Requirement, Rules, Selector, Spread, Strength, VmAffinity, WhenUnsatisfiable,
};
use berth_model::vm::Performance;
use berth_model::{Bytes, Millis};
use berth_planner::{Budget, Index, SETTLED, explain, losses, plan, rebalance};

use super::World;
use super::cases::{Asked, ordinary, spec};
use super::cluster;
use crate::report::{Better, Report};

/// What is asked for each question about one VM: the slowest of so many is the answer.
const SAMPLES: u32 = 10;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Asks every question of a cluster and notes how long it took.
pub(super) fn measure(world: &World, suffix: &str, report: &mut Report) -> Result<()> {
    let explained = explained(&mut world.clone())?;
    report.metric(format!("explain_ms{suffix}"), milliseconds(explained), "ms", Better::Lower);
    let began = Instant::now();
    let losses = losses(&world.cluster, &mut Index::new(&world.cluster));
    let homeless: usize = losses.iter().map(|loss| loss.homeless.len()).sum();
    report.metric(format!("survives_s{suffix}"), began.elapsed().as_secs_f64(), "s", Better::Lower);
    report.say(format_args!("the loss of each of {} hosts: {homeless} VMs would find no other", losses.len()));
    let (time, moves) = rebalanced(&mut world.clone());
    report.metric(format!("rebalance_s{suffix}"), time.as_secs_f64(), "s", Better::Lower);
    report.say(format_args!("{moves} moves proposed before and after one host in twenty was added"));
    let slowest = worst(&mut world.clone())?;
    report.metric(format!("plan_worst_vm_ms{suffix}"), milliseconds(slowest), "ms", Better::Lower);
    Ok(())
}

/// The slowest explanation, of VMs that wait and of VMs that are placed.
fn explained(world: &mut World) -> Result<Duration> {
    let mut vms: Vec<_> =
        world.cluster.vms.values().step_by(997).take(SAMPLES as usize).map(|vm| vm.meta.name.clone()).collect();
    for number in 0..SAMPLES {
        world.create(1, &|_| too_large(number));
        vms.push(cluster::name(&format!("vm-{}", world.created - 1)));
    }
    let mut slowest = Duration::ZERO;
    for name in vms {
        let vm = world.cluster.vm_by_name(&berth_model::Name::default_project(), &name).context("it was created")?;
        let began = Instant::now();
        let explanation = explain(&world.cluster, &mut Index::new(&world.cluster), vm);
        slowest = slowest.max(began.elapsed());
        let fits = explanation.best().is_some();
        ensure!(fits == vm.assignment.is_some(), "{name} is placed or waits, and the explanation says otherwise");
        ensure!(fits || explanation.smallest_change.is_some(), "no change would make {name} fit");
    }
    Ok(slowest)
}

/// Ordinary VMs of which one or two fields would have to be others.
fn too_large(number: u32) -> Asked {
    let mut asked = Asked { spec: spec(Performance::High, 4, Bytes::gib(4)), ..ordinary(number) };
    let nowhere = Requirement { key: "zone".into(), operator: Operator::In, values: BTreeSet::from(["moon".into()]) };
    match number % 3 {
        0 => asked.spec.cpus = 200,
        1 => asked.spec.memory = Bytes::gib(1000),
        _ => asked.spec.rules.hosts = vec![Selector(vec![nowhere])],
    }
    if number % 2 == 1 {
        asked.spec.rules.affinity = vec![VmAffinity {
            anti: false,
            strength: Strength::Required,
            domain: Domain::Zone,
            vms: Selector::of_labels(&BTreeMap::from([("app".into(), "nobody".into())])),
        }];
    }
    asked
}

/// The longest look for moves, and how many were found: in the cluster as it is, and when one host in twenty is new.
fn rebalanced(world: &mut World) -> (Duration, usize) {
    // By now every VM has been where it is for long enough.
    world.at = world.at.plus(Millis(2 * SETTLED.0));
    world.create(1, &ordinary);
    let looked = |world: &World| {
        let began = Instant::now();
        let moves = rebalance(&world.cluster, &mut Index::new(&world.cluster), Proposal::MOST);
        (began.elapsed(), moves.len())
    };
    let (as_it_is, few) = looked(world);
    let hosts = u32::try_from(world.cluster.hosts.len()).unwrap_or(u32::MAX);
    for number in hosts..hosts + hosts / 20 {
        world.done(cluster::host(number).into());
    }
    let (grown, many) = looked(world);
    (as_it_is.max(grown), few + many)
}

/// The longest plan for one VM whose rules are as large as admission lets them be.
fn worst(world: &mut World) -> Result<Duration> {
    let mut index = Index::new(&world.cluster);
    let mut slowest = Duration::ZERO;
    for number in 0..SAMPLES {
        world.create(1, &|_| Asked { spec: largest_rules(number), ..ordinary(number) });
        let began = Instant::now();
        let made = plan(&world.cluster, &mut index, None, Budget { vms: 1 });
        slowest = slowest.max(began.elapsed());
        ensure!(made.next.is_none() && made.report.len() == 1, "more than one VM waited");
        world.done(made.commands);
    }
    Ok(slowest)
}

/// Rules of the greatest number and size, of which every condition has to be looked at, and all are new.
fn largest_rules(number: u32) -> berth_model::vm::VmSpec {
    let mut asked = spec(Performance::Standard, 1, Bytes::gib(1));
    // 64 selectors of 16 conditions of 16 bytes are the 16 KiB that are let through.
    let conditions = |of: &str| {
        let condition = |at: usize| Requirement {
            key: format!("{of}{number:03}{at:02}"),
            operator: Operator::NotIn,
            values: BTreeSet::from([format!("{at:08}")]),
        };
        Selector((0..Rules::MOST_REQUIREMENTS).map(condition).collect())
    };
    let all = || 0..Rules::MOST;
    asked.rules = Rules {
        hosts: all().map(|at| conditions(&format!("h{at:02}"))).collect(),
        host_wishes: all().map(|at| HostWish { weight: 1, hosts: conditions(&format!("w{at:02}")) }).collect(),
        affinity: all()
            .map(|at| VmAffinity {
                anti: at % 2 == 0,
                strength: Strength::Preferred(1),
                domain: [Domain::Host, Domain::Rack, Domain::Zone][at % 3].clone(),
                vms: conditions(&format!("a{at:02}")),
            })
            .collect(),
        spread: all()
            .map(|at| Spread {
                domain: [Domain::Host, Domain::Rack, Domain::Zone][at % 3].clone(),
                max_skew: 1,
                when_unsatisfiable: WhenUnsatisfiable::ScheduleAnyway,
                vms: conditions(&format!("s{at:02}")),
            })
            .collect(),
        ..Rules::default()
    };
    asked
}
