//! Rules in examples.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::host::{Inventory, NodeId, PciAddress, PciDevice};
use berth_model::placement::{
    Domain, HostWish, Operator, Requirement, Rules, Selector, Spread, Strength, Taint, TaintEffect, Toleration,
    VmAffinity, WhenUnsatisfiable,
};
use berth_model::testing::{Machine, name, vm_spec};
use berth_model::vm::{DeviceDemand, NumaPolicy, Performance, SmtPolicy, Tuning, VmSpec};
use berth_model::{Bytes, HostUid, PageSize, VmUid};
use berth_state::HostPatch;
use berth_state::testing::World;

use super::worlds::{CARD, FUNCTION, create};
use super::{given, host_of, only_refusal, patch, settle, whole};

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

fn with(app: &str) -> Selector {
    Selector::of_labels(&labels(app))
}

/// Hosts 1 to `hosts`, in zones a, b, a, b and so on.
fn zones(hosts: u32) -> World {
    let mut world = World::new();
    for number in 1..=hosts {
        world.host(number, Machine::cores(8).inventory());
        let zone = name(if number % 2 == 1 { "a" } else { "b" });
        patch(&mut world, number, HostPatch { zone: Some(Some(zone)), ..HostPatch::default() });
    }
    world
}

fn small(rules: Rules) -> VmSpec {
    VmSpec { rules, ..vm_spec(1, Bytes::mib(64)) }
}

fn affinity(anti: bool, strength: Strength, domain: Domain, app: &str) -> Rules {
    Rules { affinity: vec![VmAffinity { anti, strength, domain, vms: with(app) }], ..Rules::default() }
}

fn spread(strict: bool, domain: Domain, app: &str) -> Rules {
    let when_unsatisfiable = if strict { WhenUnsatisfiable::DoNotSchedule } else { WhenUnsatisfiable::ScheduleAnyway };
    Rules { spread: vec![Spread { domain, max_skew: 1, when_unsatisfiable, vms: with(app) }], ..Rules::default() }
}

fn place(world: &mut World, number: u32, rules: Rules, app: &str) -> Option<HostUid> {
    let vm = create(world, number, (small(rules), labels(app)));
    settle(world);
    world.vm_now(vm).assignment.as_ref().map(|held| held.host)
}

fn zone_of(world: &World, host: Option<HostUid>) -> String {
    host.map_or_else(String::new, |host| world.cluster.hosts[&host].spec.zone.as_ref().unwrap().to_string())
}

#[test]
fn a_required_affinity_follows_its_vms_and_the_first_of_a_group_may_begin_it() {
    let mut world = zones(4);
    let own = || affinity(false, Strength::Required, Domain::Zone, "web");
    let first = place(&mut world, 1, own(), "web");
    let zone = zone_of(&world, first);
    for number in 2..6 {
        let host = place(&mut world, number, own(), "web");
        assert_eq!(zone_of(&world, host), zone);
    }
    let alone = affinity(false, Strength::Required, Domain::Zone, "db");
    assert_eq!(place(&mut world, 9, alone, "web"), None, "nobody is a database, and it is none itself");
    assert_eq!(only_refusal(&world.cluster), "is not near to VMs with app=db: its zone \"a\" has none");
}

#[test]
fn a_required_anti_affinity_binds_both_sides() {
    let mut world = zones(2);
    let shy = place(&mut world, 1, affinity(true, Strength::Required, Domain::Zone, "loud"), "shy");
    let loud = place(&mut world, 2, Rules::default(), "loud");
    assert_ne!(zone_of(&world, shy), zone_of(&world, loud));
    for number in 3..6 {
        let next = place(&mut world, number, Rules::default(), "loud");
        assert_eq!(zone_of(&world, next), zone_of(&world, loud));
    }
    let late = place(&mut world, 9, affinity(true, Strength::Required, Domain::Host, "loud"), "late");
    assert_eq!(late, shy);
    assert_eq!(place(&mut world, 10, affinity(true, Strength::Required, Domain::Host, "shy"), "loud"), loud);
}

#[test]
fn which_of_two_reasons_is_told_does_not_depend_on_which_came_first() {
    let mut world = zones(1);
    place(&mut world, 34, affinity(true, Strength::Required, Domain::Zone, "loud"), "shy");
    create(&mut world, 1, (small(Rules::default()), labels("loud")));
    create(&mut world, 2, (small(affinity(true, Strength::Required, Domain::Host, "loud")), labels("shy")));
    assert_eq!(settle(&mut world).commands.len(), 2, "one is placed, and one is told that it is avoided");
    assert_eq!(whole(&world.cluster).commands, [], "and nothing else is told by who looks for the first time");
}

#[test]
fn a_preference_is_kept_while_it_can_be_and_the_heavier_wins() {
    let mut world = zones(2);
    let first = place(&mut world, 1, Rules::default(), "db");
    for number in 2..9 {
        let near = affinity(false, Strength::Preferred(10), Domain::Host, "db");
        assert_eq!(place(&mut world, number, near, "web"), first, "the host is full after the eighth");
    }
    assert_ne!(place(&mut world, 9, affinity(false, Strength::Preferred(10), Domain::Host, "db"), "web"), first);
    let mut world = zones(2);
    let first = place(&mut world, 1, Rules::default(), "db");
    let mut both = affinity(false, Strength::Preferred(10), Domain::Host, "db");
    both.host_wishes = vec![HostWish {
        weight: 20,
        hosts: Selector(vec![Requirement {
            key: "berth.dev/zone".into(),
            operator: Operator::In,
            values: BTreeSet::from(["b".to_owned()]),
        }]),
    }];
    assert_eq!(zone_of(&world, first), "a");
    let host = place(&mut world, 2, both, "web");
    assert_eq!(zone_of(&world, host), "b");
}

#[test]
fn a_strict_spread_keeps_the_parts_even_and_says_by_how_much_they_would_not_be() {
    let mut world = zones(3);
    let mut zones_taken = Vec::new();
    for number in 1..=8 {
        let host = place(&mut world, number, spread(true, Domain::Zone, "web"), "web");
        zones_taken.push(zone_of(&world, host));
    }
    let in_a = zones_taken.iter().filter(|zone| *zone == "a").count();
    assert_eq!(in_a, 4, "although zone a has two hosts: {zones_taken:?}");
    patch(&mut world, 1, HostPatch { zone: Some(None), ..HostPatch::default() });
    patch(&mut world, 2, HostPatch { cordoned: Some(true), ..HostPatch::default() });
    let host = place(&mut world, 9, spread(true, Domain::Zone, "web"), "web");
    assert_eq!(zone_of(&world, host), "a", "a zone whose hosts take no VMs is not the emptiest");
    patch(&mut world, 2, HostPatch { cordoned: Some(false), ..HostPatch::default() });
    let judged = berth_model::testing::host_uid(3);
    world.liveness(judged, berth_model::host::Liveness::Suspect);
    world.liveness(berth_model::testing::host_uid(1), berth_model::host::Liveness::Suspect);
    assert!(place(&mut world, 10, spread(true, Domain::Zone, "web"), "web").is_some(), "of one zone that is left");
    world.liveness(judged, berth_model::host::Liveness::Alive);
    patch(&mut world, 2, HostPatch { set_taints: vec![], ..HostPatch::default() });
}

#[test]
fn a_soft_spread_prefers_the_emptiest_and_never_waits_for_it() {
    let mut world = zones(2);
    patch(&mut world, 2, HostPatch { cordoned: Some(true), ..HostPatch::default() });
    for number in 1..4 {
        assert!(place(&mut world, number, spread(false, Domain::Zone, "web"), "web").is_some());
    }
    patch(&mut world, 2, HostPatch { cordoned: Some(false), ..HostPatch::default() });
    let host = place(&mut world, 4, spread(false, Domain::Zone, "web"), "web");
    assert_eq!(zone_of(&world, host), "b");
}

#[test]
fn taints_keep_away_those_who_do_not_tolerate_them() {
    let mut world = zones(1);
    let taint = |effect| Taint { key: "gpu".into(), value: "yes".into(), effect };
    let set = |effect| HostPatch { set_taints: vec![taint(effect)], ..HostPatch::default() };
    patch(&mut world, 1, set(TaintEffect::NoSchedule));
    assert_eq!(place(&mut world, 1, Rules::default(), "web"), None);
    assert_eq!(only_refusal(&world.cluster), "has the taint gpu=yes:NoSchedule, which the VM does not tolerate");
    let tolerations = vec![Toleration { key: Some("gpu".into()), ..Toleration::default() }];
    assert!(place(&mut world, 2, Rules { tolerations, ..Rules::default() }, "web").is_some());
    let mut world = zones(2);
    patch(&mut world, 1, set(TaintEffect::PreferNoSchedule));
    for number in 1..=8 {
        let host = place(&mut world, number, Rules::default(), "web");
        assert_eq!(zone_of(&world, host), "b");
    }
    let host = place(&mut world, 9, Rules::default(), "web");
    assert_eq!(zone_of(&world, host), "a", "rather there than nowhere");
}

#[test]
fn labels_and_groups_of_hosts_are_asked_for() {
    let mut world = zones(2);
    let hosts = vec![with("x"), with("y")];
    assert_eq!(place(&mut world, 1, Rules { hosts, ..Rules::default() }, "web"), None);
    assert_eq!(only_refusal(&world.cluster), "is none of the hosts asked for: app=x, or app=y");
    patch(&mut world, 2, HostPatch { set_labels: labels("y"), ..HostPatch::default() });
    settle(&mut world);
    assert!(world.cluster.waiting().next().is_none());
    let host_group = Some(name("fast"));
    assert_eq!(place(&mut world, 2, Rules { host_group, ..Rules::default() }, "web"), None);
    assert_eq!(only_refusal(&world.cluster), "is not in the host group \"fast\"");
}

#[test]
fn the_greater_priority_has_the_earlier_turn() {
    let mut world = World::new();
    let vms: Vec<VmUid> = [(1, 0), (2, 5), (3, -5)]
        .map(|(number, priority)| {
            let spec = VmSpec { rules: Rules { priority, ..Rules::default() }, ..vm_spec(4, Bytes::mib(64)) };
            create(&mut world, number, (spec, BTreeMap::new()))
        })
        .into();
    world.host(1, Machine::cores(4).inventory());
    let made = settle(&mut world);
    let turns: Vec<VmUid> = made.report.iter().map(|(vm, _)| *vm).collect();
    assert_eq!(turns, [vms[1], vms[0], vms[2]]);
    assert!(world.vm_now(vms[1]).assignment.is_some());
}

#[test]
fn who_was_passed_over_before_keeps_its_right_against_many_small_ones() {
    let mut world = World::new();
    let large = world.vm(1, vm_spec(4, Bytes::mib(64)));
    settle(&mut world);
    for number in 2..6 {
        world.vm(number, vm_spec(1, Bytes::mib(64)));
    }
    world.host(1, Machine::cores(4).inventory());
    settle(&mut world);
    assert!(world.vm_now(large).assignment.is_some());
}

fn smt() -> Machine {
    Machine { threads: 2, ..Machine::cores(4) }
}

fn pinned(cpus: u32, change: impl FnOnce(&mut Tuning)) -> VmSpec {
    let mut spec = vm_spec(cpus, Bytes::mib(64));
    change(&mut spec.tuning);
    spec
}

#[test]
fn whole_cores_leave_their_last_sibling_idle_and_isolation_all_of_them() {
    let mut world = World::new();
    world.host(1, smt().inventory());
    let whole = world.vm(1, pinned(3, |tuning| tuning.smt = SmtPolicy::WholeCores));
    let alone = world.vm(2, pinned(2, |tuning| tuning.smt = SmtPolicy::Isolate));
    settle(&mut world);
    assert_eq!(given(&world, whole).0, [0, 4, 1]);
    assert_eq!(world.placed(whole).resources.idle.to_string(), "5");
    assert_eq!(given(&world, alone).0, [2, 3]);
    assert_eq!(world.placed(alone).resources.idle.to_string(), "6-7");
    world.vm(3, pinned(1, |tuning| tuning.smt = SmtPolicy::WholeCores));
    assert_eq!(only_refusal(&world.cluster), "needs 1 free CPU threads, has 0 of 8");
}

#[test]
fn qemus_own_threads_and_iothreads_get_threads_of_their_own_if_asked_for() {
    let mut world = World::new();
    world.host(1, Machine { reserve: 1, ..Machine::cores(8) }.inventory());
    let vm = world.vm(1, pinned(2, |tuning| (tuning.dedicated_emulator, tuning.dedicated_iothreads) = (true, 2)));
    let emulator = world.vm(2, pinned(1, |tuning| tuning.dedicated_emulator = true));
    settle(&mut world);
    let held = &world.placed(vm).resources;
    let shown = |world: &World, vm| {
        let held = &world.placed(vm).resources;
        (held.dedicated.to_string(), held.emulator.to_string(), held.iothread.to_string())
    };
    assert_eq!(held.vcpus.len(), 2);
    assert_eq!(shown(&world, vm), ("3-5".into(), "3".into(), "4-5".into()));
    assert_eq!(shown(&world, emulator), ("7".into(), "7".into(), "0".into()));
}

#[test]
fn few_caches_are_spanned_before_whole_cores_are_sought() {
    let mut inventory = Machine::cores(8).inventory();
    for thread in &mut inventory.topology.threads {
        thread.cache = thread.core.0 / 4;
    }
    let mut world = World::new();
    world.host(1, inventory);
    let first = world.vm(1, vm_spec(3, Bytes::mib(64)));
    settle(&mut world);
    let second = world.vm(2, vm_spec(4, Bytes::mib(64)));
    settle(&mut world);
    assert_eq!((given(&world, first).0, given(&world, second).0), (vec![0, 1, 2], vec![4, 5, 6, 7]));
}

#[test]
fn a_vm_that_must_lie_on_one_node_waits_for_one_and_says_what_each_has() {
    let two = Machine { nodes: 2, hugepages: 100, ..Machine::cores(2) };
    let mut world = World::new();
    world.host(1, two.inventory());
    world.vm(1, pinned(3, |tuning| tuning.numa = NumaPolicy::Single));
    let refused =
        "needs 3 free CPU threads and 32 free 2MiB pages on one NUMA node; node 0 has 2 and 100; node 1 has 2 and 100";
    assert_eq!(only_refusal(&world.cluster), refused);
}

#[test]
fn floating_cpus_are_counted_by_their_promise_and_pinned_ones_leave_room_for_them() {
    let mut world = World::new();
    world.host(1, Machine::cores(4).inventory());
    let floating = |cpus: u32, performance: Performance| VmSpec {
        performance,
        tuning: Tuning::of(performance),
        ..vm_spec(cpus, Bytes::mib(100))
    };
    let standard = world.vm(1, floating(2, Performance::Standard));
    let dense = world.vm(2, floating(5, Performance::Density));
    settle(&mut world);
    assert_eq!(world.placed(standard).resources.shared_cpu, 2000);
    assert_eq!(world.placed(dense).resources.shared_cpu, 1250);
    assert_eq!(world.placed(dense).resources.memory[0].count, 80 * 256, "and 100 MiB are booked as 80");
    let pinned = world.vm(3, vm_spec(1, Bytes::mib(64)));
    assert_eq!(
        only_refusal(&world.cluster),
        "would give 1 CPU threads to this VM alone, and only 0.75 are not promised to VMs that share theirs"
    );
    settle(&mut world);
    assert!(world.vm_now(pinned).assignment.is_none());
    world.done(berth_state::testing::delete_vm(pinned));
    world.vm(4, floating(1, Performance::Standard));
    assert_eq!(only_refusal(&world.cluster), "needs 1 of the CPU threads that VMs share, has 0.75");
}

fn device(number: u8, node: u32, functions_of: Option<u8>) -> PciDevice {
    let at = |device| PciAddress { domain: 0, bus: 1, device, function: 0 };
    PciDevice {
        address: at(number),
        kind: if functions_of.is_some() { FUNCTION } else { CARD },
        node: Some(NodeId(node)),
        iommu_group: Some(number.into()),
        physical: functions_of.map(at),
    }
}

#[test]
fn devices_come_from_the_vms_own_node_and_a_card_is_not_given_once_its_functions_are() {
    let devices = vec![device(1, 0, None), device(2, 1, None), device(3, 1, Some(2))];
    let two = Machine { nodes: 2, ..Machine::cores(4) };
    let mut world = World::new();
    world.host(1, Inventory { devices, ..two.inventory() });
    let wants = |kind| VmSpec { devices: vec![DeviceDemand { kind, count: 1 }], ..vm_spec(2, Bytes::mib(64)) };
    let function = world.vm(1, wants(FUNCTION));
    settle(&mut world);
    assert_eq!(given(&world, function).0, [4, 5], "on the node of the only function");
    let card = world.vm(2, wants(CARD));
    settle(&mut world);
    assert_eq!(world.placed(card).resources.devices[0].device, 1, "the other card's function is taken");
    assert_eq!(given(&world, card).0, [0, 1]);
    world.vm(3, wants(CARD));
    assert_eq!(only_refusal(&world.cluster), "needs 1 free PCI devices 8086:0001, has 0 of 2");
}

#[test]
fn a_pinned_vm_on_ordinary_pages_takes_them_of_its_node() {
    let two = Machine { nodes: 2, hugepages: 0, ordinary: Bytes::gib(1), ..Machine::cores(4) };
    let mut world = World::new();
    world.host(1, two.inventory());
    let vm = world.vm(1, pinned(2, |tuning| tuning.pages = PageSize::Small));
    settle(&mut world);
    assert_eq!(given(&world, vm), (vec![0, 1], vec![(0, 64 * 256)]));
    assert_eq!(host_of(&world, vm), berth_model::testing::host_uid(1));
}
