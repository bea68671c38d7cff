//! What operators say about hosts: place and marks, dead hosts, hosts that are forgotten.

use std::collections::BTreeSet;

use berth_model::host::{Liveness, Overcommit, Percent};
use berth_model::placement::{Taint, TaintEffect};
use berth_model::session::{Report, VmReport};
use berth_model::testing::{Machine, full_report, name, vm_spec, vm_uid};
use berth_model::vm::{Performance, Resources, Tuning, VmSpec};
use berth_model::{Bytes, Epoch, HostUid, Incarnation, Stamp, VmUid};

use crate::cluster::Stray;
use crate::command::{Body, Expect, HostPatch};
use crate::outcome::Rejection;
use crate::testing::{World, delete_vm, report};

fn update(host: HostUid, patch: HostPatch) -> Body {
    Body::UpdateHost { host, patch: Box::new(patch), expect: Expect::default() }
}

fn dead(host: HostUid) -> Body {
    Body::ConfirmDead { host, expect: Expect::default() }
}

fn remove(host: HostUid, never_returns: bool) -> Body {
    Body::RemoveHost { host, never_returns, expect: Expect::default() }
}

fn gone(vm: VmUid, epoch: Epoch) -> Report {
    let stamp = Stamp { incarnation: Incarnation::default(), epoch };
    Report { number: 2, vms: vec![(vm, VmReport::Gone(stamp))], ..Report::default() }
}

/// Two hosts, and a VM on the first, which is not heard of.
fn silent() -> (World, VmUid, HostUid, HostUid, Epoch) {
    let mut world = World::new();
    let first = world.host(1, Machine::cores(4).inventory());
    let second = world.host(2, Machine::cores(4).inventory());
    let vm = world.vm(1, vm_spec(2, Bytes::mib(64)));
    let epoch = world.assign(vm, first, [0, 1], 0);
    world.liveness(first, Liveness::Lost);
    (world, vm, first, second, epoch)
}

#[test]
fn what_a_patch_does_not_name_stays_as_it_is() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(4).inventory());
    let taint = |value: &str| Taint { key: "gpu".into(), value: value.into(), effect: TaintEffect::NoSchedule };
    let overcommit = Overcommit { cpu_percent: Percent(300), memory_percent: Percent(100) };
    world.done(update(
        host,
        HostPatch {
            set_labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            zone: Some(Some(name("a"))),
            rack: Some(Some(name("r1"))),
            groups: Some([name("fast")].into()),
            set_taints: vec![taint("a100")],
            overcommit: Some(overcommit),
            ..HostPatch::default()
        },
    ));
    world.done(update(host, HostPatch { cordoned: Some(true), rack: Some(None), ..HostPatch::default() }));
    world.done(update(host, HostPatch { set_taints: vec![taint("h100")], ..HostPatch::default() }));
    let held = &world.cluster.hosts[&host];
    assert_eq!(held.meta.labels["disk"], "ssd");
    assert_eq!((held.spec.zone.clone(), held.spec.rack.clone(), held.spec.cordoned), (Some(name("a")), None, true));
    assert_eq!(held.spec.taints, BTreeSet::from([taint("h100")]), "a taint of the same key and effect is replaced");
    assert_eq!(held.spec.overcommit, overcommit);
    let gone = HostPatch { remove_taints: vec![("gpu".into(), None)], ..HostPatch::default() };
    world.done(update(host, gone.clone()));
    assert!(world.cluster.hosts[&host].spec.taints.is_empty());
    let before = world.cluster.revision;
    world.done(update(host, gone));
    assert_eq!(world.cluster.revision, before, "a patch that changes nothing draws no revision");
}

#[test]
fn a_host_that_is_heard_of_is_neither_dead_nor_removed() {
    let (mut world, _, _, second, _) = silent();
    assert!(matches!(world.refused(dead(second)), Rejection::HostHeardOf { .. }));
    assert!(matches!(world.refused(remove(second, true)), Rejection::HostHeardOf { .. }));
}

#[test]
fn a_dead_hosts_vms_wait_anew_and_get_a_higher_epoch_elsewhere() {
    let (mut world, vm, first, second, epoch) = silent();
    world.done(dead(first));
    assert_eq!(world.cluster.waiting().map(|vm| vm.uid()).collect::<Vec<_>>(), [vm]);
    assert!(world.cluster.bookings(first).is_none());
    assert!(world.cluster.occupied(first).owner(berth_model::host::ThreadId(0)).is_some());
    assert!(world.assign(vm, second, [0, 1], 0) > epoch);
}

#[test]
fn a_dead_host_that_is_heard_of_again_keeps_what_it_holds_until_it_says_that_it_is_gone() {
    let (mut world, vm, first, second, epoch) = silent();
    world.done(dead(first));
    world.done(report(1, full_report(Machine::cores(4).inventory())));
    assert!(matches!(world.cluster.stray(vm), Some(Stray::Evicted(_))));
    let elsewhere = world.berth(vm, second, [0, 1], 0);
    let refused = world.refused(world.assignment(vm, second, elsewhere));
    assert!(matches!(refused, Rejection::HostNotTaking { .. }), "{refused}");
    let other = world.vm(2, vm_spec(1, Bytes::mib(64)));
    let its_threads = world.berth(other, first, [0], 0);
    assert!(matches!(world.refused(world.assignment(other, first, its_threads)), Rejection::DoesNotFit(_)));
    // Another placement's end is not this one's.
    world.done(report(1, gone(vm, Epoch(epoch.0 + 1))));
    assert!(world.cluster.stray(vm).is_some());
    world.done(report(1, gone(vm, epoch)));
    assert!(world.cluster.stray(vm).is_none() && world.cluster.hosts[&first].evictions.is_empty());
    world.assign(vm, first, [0, 1], 0);
}

#[test]
fn a_vm_is_never_placed_where_an_ended_placement_may_still_hold_it() {
    let (mut world, vm, first, _, _) = silent();
    world.done(dead(first));
    assert!(world.cluster.holds_ended(first, vm));
    let there = world.berth(vm, first, [2, 3], 0);
    assert!(matches!(world.refused(world.assignment(vm, first, there)), Rejection::HostNotTaking { .. }));
}

#[test]
fn a_vm_that_was_being_deleted_on_a_dead_host_is_gone_and_its_disk_goes_when_the_host_returns() {
    let (mut world, vm, first, _, _) = silent();
    world.done(delete_vm(vm));
    world.done(dead(first));
    assert!(!world.cluster.vms.contains_key(&vm));
    let held = &world.cluster.hosts[&first].evictions;
    assert_eq!(held.iter().map(|held| (held.vm, held.with_disk)).collect::<Vec<_>>(), [(vm, true)]);
}

#[test]
fn a_vm_that_is_deleted_after_its_host_was_said_to_be_dead_leaves_no_disk_there_either() {
    let (mut world, vm, first, second, _) = silent();
    world.done(dead(first));
    let kept =
        |world: &World| world.cluster.hosts[&first].evictions.iter().map(|held| held.with_disk).collect::<Vec<_>>();
    assert_eq!(kept(&world), [false], "what it holds may be wanted");
    world.assign(vm, second, [0, 1], 0);
    world.done(delete_vm(vm));
    assert_eq!(kept(&world), [true]);
}

#[test]
fn a_host_is_removed_only_when_it_holds_nothing_or_never_returns() {
    let (mut world, vm, first, _, _) = silent();
    assert!(matches!(world.refused(remove(first, true)), Rejection::HostInUse { .. }), "VMs have their berths there");
    world.done(dead(first));
    assert!(matches!(world.refused(remove(first, false)), Rejection::HostInUse { .. }));
    world.done(remove(first, true));
    assert!(!world.cluster.hosts.contains_key(&first) && world.cluster.stray(vm).is_none());
}

#[test]
fn to_confirm_a_death_twice_changes_nothing_the_second_time() {
    let (mut world, _, first, _, _) = silent();
    let revision = world.done(dead(first));
    assert_eq!(world.done(dead(first)), revision);
}

#[test]
fn what_is_asked_of_a_vm_changes_before_it_has_its_berth_and_its_rules_at_any_time() {
    let (mut world, vm, _, _, _) = silent();
    let spec = |world: &World, vm| world.vm_now(vm).spec.clone();
    let set = |vm, spec| Body::SetSpec { vm, spec: Box::new(spec), expect: Expect::default() };
    let larger = VmSpec { cpus: 3, ..spec(&world, vm) };
    assert!(matches!(world.refused(set(vm, larger)), Rejection::Placed { .. }));
    let mut ruled = spec(&world, vm);
    ruled.rules.priority = 7;
    world.done(set(vm, ruled));
    let waiting = world.vm(2, vm_spec(1, Bytes::mib(64)));
    let generation = world.vm_now(waiting).meta.generation;
    world.done(set(waiting, VmSpec { cpus: 3, ..spec(&world, waiting) }));
    assert!(world.vm_now(waiting).meta.generation > generation);
}

#[test]
fn vms_that_share_threads_are_promised_no_more_than_the_ratio_allows_and_leave_pinned_ones_theirs() {
    let mut world = World::new();
    let host = world.host(1, Machine { hugepages: 4096, ..Machine::cores(4) }.inventory());
    let tuned = |performance| VmSpec { performance, tuning: Tuning::of(performance), ..vm_spec(4, Bytes::mib(64)) };
    let shared = |world: &World, vm: VmUid| {
        let spec = &world.vm_now(vm).spec;
        let ratios = world.cluster.hosts[&host].spec.overcommit;
        let page = spec.page_size();
        let mut resources = world.berth(vm, host, [], 0);
        resources.shared_cpu = spec.shared_cpu(ratios);
        resources.memory[0].count = page.pages_for(spec.booked_memory(ratios));
        resources
    };
    // Four CPUs of four threads, four to one: three threads are left of four, so twelve CPUs fit.
    let pinned = world.vm(1, vm_spec(1, Bytes::mib(64)));
    world.assign(pinned, host, [3], 0);
    for number in 2..=4 {
        let vm = world.vm(number, tuned(Performance::Density));
        let resources = shared(&world, vm);
        assert_eq!(resources.shared_cpu, 1000);
        world.done(world.assignment(vm, host, resources));
    }
    let more = world.vm(5, tuned(Performance::Density));
    let resources = shared(&world, more);
    assert!(matches!(world.refused(world.assignment(more, host, resources)), Rejection::DoesNotFit(_)));
    let greedy = world.vm(6, vm_spec(1, Bytes::mib(64)));
    let resources = world.berth(greedy, host, [2], 0);
    assert!(matches!(world.refused(world.assignment(greedy, host, resources)), Rejection::DoesNotFit(_)));
    // A share that is not what the ratio says is no plan of this host's.
    let wrong = Resources { shared_cpu: 1, ..shared(&world, more) };
    assert_eq!(world.refused(world.assignment(more, host, wrong)), Rejection::PlanOutdated);
    assert_eq!(vm_uid(5), more);
}
