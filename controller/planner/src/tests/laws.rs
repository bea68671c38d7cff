//! The laws of every plan, over clusters of up to four hosts of whatever shape and filling.

use std::sync::Arc;

use berth_model::host::Liveness;
use berth_model::session::{Report, VmReport};
use berth_model::testing::{Machine, host_uid, name, vm_uid};
use berth_model::{Incarnation, Stamp};
use berth_state::testing::{World, delete_vm, facts, report};
use berth_state::{Body, Expect, HostFacts};
use proptest::collection::vec;
use proptest::prelude::*;

use super::worlds::{create, create_in, patches, plain_specs, projects, vms, worlds};
use super::{patch, plan, settle, whole};
use crate::testing::Judge;
use crate::{Budget, Index, Verdict};

/// Those that wait from before would take what is there.
fn only_placed(world: &mut World) {
    for vm in world.cluster.waiting().map(|vm| vm.uid()).collect::<Vec<_>>() {
        world.done(delete_vm(vm));
    }
}

/// Applies a plan; the judge looks at each placement before it is made.
fn judged(world: &mut World, commands: Vec<Body>) -> Result<(), TestCaseError> {
    let mut judge = Judge::new(&world.cluster);
    for body in commands {
        if let Body::Assign { vm, host, resources, .. } = &body {
            let vm = Arc::clone(&world.cluster.vms[vm]);
            let faults = judge.faults(&vm, *host, resources);
            prop_assert!(faults.is_empty(), "{} on {}: {:?}; {:?}", vm.meta.name, host, faults, resources);
            judge.place(&vm, *host, resources.clone());
        }
        world.done(body);
    }
    Ok(())
}

/// Every second VM that is placed is deleted, and its host reports it gone.
fn all_gone(world: &mut World, number: u32) {
    let placed: Vec<_> = world.cluster.vms.values().filter(|vm| vm.assignment.is_some()).step_by(2).cloned().collect();
    for vm in placed {
        let held = world.placed(vm.uid()).clone();
        let host = (0..100).find(|number| host_uid(u128::from(*number)) == held.host).unwrap();
        world.done(delete_vm(vm.uid()));
        let gone = vec![(vm.uid(), VmReport::Gone(Stamp { incarnation: Incarnation(0), epoch: held.epoch }))];
        world.done(report(host, Report { number: u64::from(number) + 10, vms: gone, ..Report::default() }));
    }
}

/// A host comes with another name, perhaps before all others or behind them.
fn rename(world: &mut World, host: usize, number: u32) {
    let facts = facts(u32::try_from(host).unwrap());
    let called = if number.is_multiple_of(2) { "a" } else { "z" };
    let facts = HostFacts { name: name(&format!("{called}{number}")), ..facts };
    world.done(Body::ReportHost {
        facts,
        report: Box::new(Report { number: u64::from(number) + 10, ..Report::default() }),
    });
}

/// A host is lost for ever, and forgotten.
fn lose(world: &mut World, number: u32) {
    let (host, expect) = (host_uid(number.into()), Expect::default());
    if world.cluster.hosts.contains_key(&host) {
        world.liveness(host, Liveness::Lost);
        world.done(Body::ConfirmDead { host, expect });
        world.done(Body::RemoveHost { host, never_returns: true, expect });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_single_vm_is_placed_whenever_some_host_fits_and_only_there(world in worlds(), asked in vms()) {
        let mut world = world;
        only_placed(&mut world);
        let vm = create(&mut world, 1, asked);
        let view = world.cluster.clone();
        let judge = Judge::new(&view);
        let hosts = view.hosts.values();
        let fitting: Vec<_> =
            hosts.filter(|host| judge.could_take(&view.vms[&vm], host)).map(|host| host.meta.name.clone()).collect();
        let made = whole(&view);
        match &made.report[..] {
            [(planned, Verdict::Placed { candidate, .. })] => {
                prop_assert_eq!(*planned, vm);
                prop_assert!(fitting.contains(&candidate.name), "{} does not fit", candidate.name);
                judged(&mut world, made.commands)?;
            }
            [(_, Verdict::Refused(refused))] => {
                prop_assert!(fitting.is_empty(), "{:?} fit, and the plan says {:?}", fitting, refused);
                prop_assert_eq!(refused.listed.len(), view.hosts.len(), "each host has its reason");
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_plan_that_is_applied_at_once_is_never_refused_and_the_next_one_is_empty(
        world in worlds(),
        asked in vec(vms(), 0..10),
    ) {
        let mut world = world;
        for (number, asked) in (1..).zip(asked) {
            create(&mut world, number, asked);
        }
        let made = whole(&world.cluster);
        prop_assert_eq!(&made, &whole(&world.cluster.clone()), "the same view gives the same plan");
        judged(&mut world, made.commands.clone())?;
        prop_assert_eq!(whole(&world.cluster).commands, Vec::new(), "after {:?}", made.commands);
    }

    #[test]
    fn an_index_that_followed_every_change_is_that_of_the_view_and_plans_the_same(
        hosts in vec((super::worlds::machines(), patches()), 1..4),
        steps in vec((vms(), projects(), 0..14_u32, patches()), 1..12),
    ) {
        let mut world = World::new();
        let mut index = Index::default();
        for (number, (inventory, first)) in (0..).zip(&hosts) {
            world.host(number, inventory.clone());
            patch(&mut world, number, first.clone());
            index.catch_up(&world.cluster);
        }
        for (number, (asked, project, what, other)) in (1..).zip(steps) {
            let vm = create_in(&mut world, project, number, asked);
            let commands = crate::plan(&world.cluster, &mut index, None, Budget::default()).commands;
            prop_assert_eq!(&commands, &whole(&world.cluster).commands);
            for body in commands {
                world.done(body);
            }
            match what {
                0..3 if world.cluster.hosts.contains_key(&host_uid(what.into())) => patch(&mut world, what, other),
                3 => { world.done(delete_vm(vm)); }
                4 => {
                    let labels = [("app".to_owned(), "b".to_owned())].into();
                    world.done(Body::SetLabels { vm, set: labels, remove: Vec::new(), expect: Expect::default() });
                }
                5 => { world.host(50 + number, Machine::cores(4).inventory()); }
                6 | 7 => all_gone(&mut world, number),
                8 if hosts.len() > 1 => lose(&mut world, 0),
                9 => rename(&mut world, hosts.len() - 1, number),
                _ => {}
            }
            index.catch_up(&world.cluster);
            prop_assert_eq!(index.differences(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_round_in_parts_gives_each_waiting_vm_one_turn(specs in vec(plain_specs(), 0..10), vms in 0..4_usize) {
        let mut world = World::new();
        world.host(0, Machine::cores(6).inventory());
        for (number, spec) in (1..).zip(&specs) {
            world.vm(number, spec.clone());
        }
        let (mut after, mut turns) = (None, Vec::new());
        loop {
            let part = plan(&world.cluster, after, Budget { vms });
            turns.extend(part.report.iter().map(|(vm, _)| *vm));
            for body in part.commands {
                world.done(body);
            }
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        let all: Vec<_> = (1..=specs.len() as u128).map(vm_uid).collect();
        prop_assert_eq!(turns, all);
        settle(&mut world);
    }
}
