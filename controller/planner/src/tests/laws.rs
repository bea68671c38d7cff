//! The laws of every plan, over clusters of up to four hosts of whatever shape and filling.

use std::sync::Arc;

use berth_model::testing::{Machine, vm_uid};
use berth_state::Body;
use berth_state::testing::{World, delete_vm};
use proptest::collection::vec;
use proptest::prelude::*;

use super::worlds::{create, patches, plain_specs, vms, worlds};
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
        judged(&mut world, made.commands)?;
        prop_assert_eq!(whole(&world.cluster).commands, Vec::new());
    }

    #[test]
    fn an_index_that_followed_every_change_is_that_of_the_view_and_plans_the_same(
        hosts in vec((super::worlds::machines(), patches()), 1..4),
        steps in vec((vms(), 0..12_u32, patches()), 1..12),
    ) {
        let mut world = World::new();
        let mut index = Index::default();
        for (number, (inventory, first)) in (0..).zip(&hosts) {
            world.host(number, inventory.clone());
            patch(&mut world, number, first.clone());
            index.catch_up(&world.cluster);
        }
        for (number, (asked, what, other)) in (1..).zip(steps) {
            let vm = create(&mut world, number, asked);
            let commands = crate::plan(&world.cluster, &mut index, None, Budget::default()).commands;
            prop_assert_eq!(&commands, &whole(&world.cluster).commands);
            for body in commands {
                world.done(body);
            }
            match what {
                0..3 if (what as usize) < hosts.len() => patch(&mut world, what, other),
                3 => { world.done(delete_vm(vm)); }
                4 => {
                    let labels = [("app".to_owned(), "b".to_owned())].into();
                    world.done(Body::SetLabels { vm, set: labels, remove: Vec::new(), expect: berth_state::Expect::default() });
                }
                5 => { world.host(50 + number, Machine::cores(4).inventory()); }
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
