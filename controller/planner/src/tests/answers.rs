//! What operators ask: why, what else would fit, how much room, what a loss would mean, what could move.

use std::collections::BTreeMap;

use berth_model::host::Liveness;
use berth_model::placement::{Domain, Rules, Selector, Spread, Strength, VmAffinity, WhenUnsatisfiable};
use berth_model::testing::{Machine, host_uid, name, vm_spec};
use berth_model::vm::{NumaPolicy, Performance, Resources, Tuning, Vm, VmSpec};
use berth_model::{Bytes, Millis, VmUid};
use berth_state::testing::{World, delete_vm};
use berth_state::{Cluster, HostPatch};
use proptest::prelude::*;

use super::worlds::{create, vms, worlds};
use super::{patch, settle, whole};
use crate::testing::Judge;
use crate::{Change, Explanation, Gain, Index, Verdict, capacity, explain, host_room, losses, rebalance};

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

fn explained(view: &Cluster, vm: VmUid) -> Explanation {
    explain(view, &mut Index::default(), &view.vms[&vm])
}

fn change_for(world: &mut World, spec: VmSpec) -> Vec<String> {
    let vm = world.vm(99, spec);
    let change = explained(&world.cluster, vm).smallest_change.unwrap_or_default();
    world.done(delete_vm(vm));
    change.iter().map(ToString::to_string).collect()
}

#[test]
fn the_smallest_change_is_one_field_and_the_least_of_it() {
    let mut world = World::new();
    world.host(1, Machine { nodes: 2, hugepages: 100, ..Machine::cores(2) }.inventory());
    assert_eq!(change_for(&mut world, vm_spec(2, Bytes::mib(500))), ["ask for 400MiB of memory"]);
    assert_eq!(change_for(&mut world, vm_spec(7, Bytes::mib(100))), ["ask for 4 CPUs"]);
    let both = change_for(&mut world, vm_spec(7, Bytes::mib(500)));
    assert_eq!(both, ["ask for 400MiB of memory", "ask for 4 CPUs"]);
    let mut single = vm_spec(2, Bytes::mib(250));
    single.tuning.numa = NumaPolicy::Single;
    assert_eq!(change_for(&mut world, single.clone()), ["ask for 200MiB of memory"], "memory comes before policy");
    single.memory = Bytes::mib(64);
    single.rules.host_group = Some(name("fast"));
    assert_eq!(change_for(&mut world, single), ["ask for hosts of any group"]);
}

#[test]
fn less_memory_is_found_where_smaller_pages_would_fit_even_less() {
    let mut world = World::new();
    // Room for QEMU and for nothing beside it.
    world.host(1, Machine { hugepages: 100, ordinary: Bytes::mib(105), ..Machine::cores(2) }.inventory());
    assert_eq!(change_for(&mut world, vm_spec(1, Bytes::mib(500))), ["ask for 200MiB of memory"]);
}

#[test]
fn no_change_of_a_vm_helps_where_no_host_takes_any() {
    let mut world = World::new();
    world.host(1, Machine::cores(2).inventory());
    world.liveness(host_uid(1), Liveness::Lost);
    let vm = world.vm(1, vm_spec(4, Bytes::mib(64)));
    let explanation = explained(&world.cluster, vm);
    assert_eq!(explanation.smallest_change, None);
    assert!(explanation.hosts[0].1.is_err());
}

#[test]
fn a_placed_vm_is_explained_as_if_it_were_not_there() {
    let mut world = World::new();
    for number in [1, 2] {
        world.host(number, Machine::cores(4).inventory());
    }
    let vm = world.vm(1, vm_spec(4, Bytes::mib(64)));
    settle(&mut world);
    let explanation = explained(&world.cluster, vm);
    assert!(explanation.hosts.iter().all(|(_, word)| word.is_ok()));
    assert_eq!(explanation.best().unwrap().name, name("h1"), "where it is");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn an_explanation_says_of_each_host_what_the_judge_finds_and_its_smallest_change_makes_the_vm_fit(
        world in worlds(), asked in vms(),
    ) {
        let mut world = world;
        for vm in world.cluster.waiting().map(|vm| vm.uid()).collect::<Vec<_>>() {
            world.done(delete_vm(vm));
        }
        let vm = create(&mut world, 1, asked);
        let view = world.cluster.clone();
        let explanation = explained(&view, vm);
        let judge = Judge::new(&view);
        prop_assert_eq!(explanation.hosts.len(), view.hosts.len());
        for (host, word) in &explanation.hosts {
            let could = judge.could_take(&view.vms[&vm], view.host_by_name(host).unwrap());
            prop_assert_eq!(word.is_ok(), could, "{}: {:?}", host, word);
        }
        match &whole(&view).report[..] {
            [(_, Verdict::Placed { candidate, .. })] => prop_assert_eq!(explanation.best(), Some(candidate)),
            _ => prop_assert_eq!(explanation.best(), None),
        }
        if let Some(changes) = explanation.smallest_change {
            prop_assert!(!changes.is_empty());
            let mut changed = Vm::clone(&view.vms[&vm]);
            for change in &changes {
                change.apply_to(&mut changed.spec);
            }
            let fits = |vm: &Vm| view.hosts.values().any(|host| judge.could_take(vm, host));
            prop_assert!(fits(&changed), "{:?} does not make it fit", changes);
            // Not one field of it can be left out, and a single field is changed by the least amount.
            for at in 0..changes.len() {
                let mut less = Vm::clone(&view.vms[&vm]);
                changes.iter().enumerate().filter(|(held, _)| *held != at).for_each(|(_, change)| change.apply_to(&mut less.spec));
                prop_assert!(!fits(&less), "{:?} is not needed of {:?}", changes[at], changes);
            }
            if let [Change::Memory { to }] = changes[..] {
                let mut more = Vm::clone(&view.vms[&vm]);
                more.spec.memory = Bytes(to.0 + more.spec.page_size().bytes().0.max(1 << 20));
                prop_assert!(!fits(&more), "more than {} fits", to);
            }
            if let [Change::Cpus { to }] = changes[..] {
                let mut more = Vm::clone(&view.vms[&vm]);
                more.spec.cpus = to + 1;
                prop_assert!(!fits(&more), "more than {} fit", to);
            }
        }
    }

    #[test]
    fn as_many_more_fit_as_are_placed_when_they_are_asked_for(world in worlds(), asked in vms()) {
        let mut world = world;
        for vm in world.cluster.waiting().map(|vm| vm.uid()).collect::<Vec<_>>() {
            world.done(delete_vm(vm));
        }
        let first = create(&mut world, 1, asked.clone());
        let like = Vm::clone(&world.cluster.vms[&first]);
        let before = world.cluster.clone();
        let room = capacity(&before, &mut Index::default(), &like, 12);
        prop_assert_eq!(room.hosts.iter().map(|(_, count)| *count).sum::<u64>(), room.total);
        for number in 2..=u32::try_from(room.total).unwrap() + 1 {
            settle(&mut world);
            create(&mut world, number, asked.clone());
        }
        let placed = before.vms.len() as u64 - 1;
        let now = world.cluster.vms.values().filter(|vm| vm.assignment.is_some()).count() as u64;
        prop_assert_eq!(now - before.vms.values().filter(|vm| vm.assignment.is_some()).count() as u64, room.total);
        let _ = placed;
        if !room.is_more {
            settle(&mut world);
            prop_assert!(world.cluster.waiting().next().is_some(), "one more fits");
        }
    }

    #[test]
    fn who_is_homeless_after_a_loss_finds_no_berth_in_the_cluster_without_that_host(world in worlds()) {
        let mut world = world;
        for vm in world.cluster.waiting().map(|vm| vm.uid()).collect::<Vec<_>>() {
            world.done(delete_vm(vm));
        }
        let view = world.cluster.clone();
        let mut index = Index::new(&view);
        let found = losses(&view, &mut index);
        prop_assert_eq!(index.differences(), Vec::<String>::new(), "every trial was taken back");
        let carrying = view.hosts.keys().filter(|host| view.vms_on(**host).next().is_some()).count();
        prop_assert_eq!(found.len(), carrying);
        for loss in found {
            // One alone is homeless only if really no other host can take it.
            if let ([vm], 1) = (&loss.homeless[..], loss.vms) {
                let mut judge = Judge::new(&view);
                view.vms_on(loss.host).for_each(|vm| judge.remove(vm.uid()));
                judge.forget_host(loss.host);
                let others = view.hosts.values().filter(|host| host.uid() != loss.host);
                let could = others.filter(|host| judge.could_take(&view.vms[vm], host)).count();
                prop_assert_eq!(could, 0);
            }
        }
    }

    #[test]
    fn moves_are_possible_one_after_another_and_when_they_are_done_none_is_proposed(world in worlds()) {
        let mut world = world;
        for vm in world.cluster.waiting().map(|vm| vm.uid()).collect::<Vec<_>>() {
            world.done(delete_vm(vm));
        }
        world.at = world.at.plus(Millis(3_600_000));
        world.vm(98, vm_spec(200, Bytes::mib(64)));
        let mut view = world.cluster.clone();
        for _ in 0..20 {
            let mut index = Index::new(&view);
            let moves = rebalance(&view, &mut index, 100);
            prop_assert_eq!(index.differences(), Vec::<String>::new(), "every trial was taken back");
            if moves.is_empty() {
                return Ok(());
            }
            let mut judge = Judge::new(&view);
            for one in moves {
                let vm = view.vms[&one.vm].clone();
                judge.remove(one.vm);
                let faults = judge.faults(&vm, one.to, &one.resources);
                prop_assert!(faults.is_empty(), "{:?}: {:?}", one, faults);
                judge.place(&vm, one.to, one.resources.clone());
                view = moved(&view, one.vm, one.to, one.resources);
            }
        }
        prop_assert!(false, "it never ends");
    }
}

/// The view with one VM placed elsewhere, long ago.
fn moved(view: &Cluster, vm: VmUid, to: berth_model::HostUid, resources: Resources) -> Cluster {
    berth_state::testing::with_vm(view, vm, |vm| {
        let held = vm.assignment.as_mut().expect("it is placed");
        (held.host, held.resources) = (to, resources);
    })
}

#[test]
fn room_on_a_host_is_shown_node_by_node() {
    let mut world = World::new();
    world.host(1, Machine { nodes: 2, threads: 2, reserve: 1, ..Machine::cores(2) }.inventory());
    let vm = world.vm(1, vm_spec(3, Bytes::mib(64)));
    settle(&mut world);
    let room = host_room(&world.cluster, &mut Index::default(), host_uid(1)).unwrap();
    assert_eq!(room.threads, (8, 2, 3, 3), "all, kept, booked, free");
    assert_eq!(room.vms, 1);
    let free: Vec<_> = room.nodes.iter().map(|node| (node.free_threads, node.free_on_whole_cores)).collect();
    assert_eq!(free, [(2, 2), (1, 0)], "three threads of the second node are the VM's");
    assert_eq!(room.scattered_percent, 33);
    assert!(room.nodes[1].threads.iter().any(|(_, held)| *held == crate::ThreadUse::Exclusive(vm)));
}

fn shared(cpus: u32) -> VmSpec {
    let performance = Performance::Standard;
    VmSpec { performance, tuning: Tuning::of(performance), ..vm_spec(cpus, Bytes::mib(64)) }
}

#[test]
fn a_full_host_loses_vms_to_an_empty_one_until_they_are_nearly_even_and_not_sooner_than_they_settled() {
    let mut world = World::new();
    world.host(1, Machine::cores(10).inventory());
    let vms: Vec<_> = (1..=10).map(|number| world.vm(number, shared(1))).collect();
    settle(&mut world);
    world.host(2, Machine::cores(10).inventory());
    let early = rebalance(&world.cluster, &mut Index::default(), 100);
    assert_eq!(early, [], "they were placed just now");
    world.at = world.at.plus(Millis(3_600_000));
    world.liveness(host_uid(2), Liveness::Alive);
    world.vm(99, vm_spec(200, Bytes::mib(64)));
    let moves = rebalance(&world.cluster, &mut Index::default(), 100);
    assert_eq!(moves.len(), 4, "{moves:?}");
    assert_eq!((moves[0].vm, moves[0].gain), (vms[0], Gain::Load { from: 100, to: 10 }));
    assert_eq!(moves[3].gain, Gain::Load { from: 70, to: 40 });
    assert_eq!(moves[0].gain.to_string(), "100 % of its host's CPU is promised, there it would be 10 %");
}

#[test]
fn a_vm_whose_rule_is_broken_by_later_labels_is_proposed_to_move() {
    let mut world = World::new();
    for number in [1, 2] {
        world.host(number, Machine::cores(8).inventory());
    }
    patch(&mut world, 2, HostPatch { cordoned: Some(true), ..HostPatch::default() });
    let away = VmAffinity {
        anti: true,
        strength: Strength::Required,
        domain: Domain::Host,
        vms: Selector::of_labels(&labels("loud")),
    };
    let shy = create(
        &mut world,
        1,
        (VmSpec { rules: Rules { affinity: vec![away], ..Rules::default() }, ..shared(1) }, labels("shy")),
    );
    let other = create(&mut world, 2, (shared(1), labels("calm")));
    settle(&mut world);
    patch(&mut world, 2, HostPatch { cordoned: Some(false), ..HostPatch::default() });
    world.at = world.at.plus(Millis(3_600_000));
    let set = labels("loud");
    world.done(berth_state::Body::SetLabels {
        vm: other,
        set,
        remove: Vec::new(),
        expect: berth_state::Expect::default(),
    });
    let moves = rebalance(&world.cluster, &mut Index::default(), 100);
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert_eq!((moves[0].vm, moves[0].to, moves[0].gain), (shy, host_uid(2), Gain::Rules));
}

#[test]
fn an_uneven_soft_spread_is_evened_out() {
    let mut world = World::new();
    for number in [1, 2] {
        world.host(number, Machine::cores(8).inventory());
    }
    patch(&mut world, 2, HostPatch { cordoned: Some(true), ..HostPatch::default() });
    let spread = Spread {
        domain: Domain::Host,
        max_skew: 1,
        when_unsatisfiable: WhenUnsatisfiable::ScheduleAnyway,
        vms: Selector::of_labels(&labels("web")),
    };
    for number in 1..=4 {
        let rules = Rules { spread: vec![spread.clone()], ..Rules::default() };
        create(&mut world, number, (VmSpec { rules, ..shared(1) }, labels("web")));
    }
    settle(&mut world);
    world.at = world.at.plus(Millis(3_600_000));
    patch(&mut world, 2, HostPatch { cordoned: Some(false), ..HostPatch::default() });
    let moves = rebalance(&world.cluster, &mut Index::default(), 100);
    assert_eq!(moves[0].gain, Gain::Skew { from: 3, to: 0 });
    assert_eq!(moves.len(), 2, "{moves:?}");
}
