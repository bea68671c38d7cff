//! Which host, which threads and pages, in examples; then the laws of every plan.

mod answers;
mod brute;
mod laws;
mod moves;
mod rules;
mod worlds;

use berth_model::host::{HugepagePool, Liveness, NodeId};
use berth_model::image::ImageOnHost;
use berth_model::session::Report;
use berth_model::testing::{Machine, digest, full_report, host_uid, vm_spec, vm_uid};
use berth_model::vm::{Resources, VmSpec};
use berth_model::{Bytes, HostUid, PageSize, VmUid};
use berth_state::testing::{World, delete_vm, report};
use berth_state::{Body, Cluster, Expect, HostPatch};

use crate::{Budget, Index, Plan, Refusal, Turn, Verdict, never_fits};

fn plan(view: &Cluster, after: Option<Turn>, budget: Budget) -> Plan {
    crate::plan(view, &mut Index::default(), after, budget)
}

fn whole(view: &Cluster) -> Plan {
    plan(view, None, Budget::default())
}

/// Plans and applies; nothing may be refused.
fn settle(world: &mut World) -> Plan {
    let made = whole(&world.cluster);
    for body in made.commands.clone() {
        world.done(body);
    }
    made
}

fn patch(world: &mut World, host: u32, patch: HostPatch) {
    let host = host_uid(host.into());
    world.done(Body::UpdateHost { host, patch: Box::new(patch), expect: Expect::default() });
}

fn host_of(world: &World, vm: VmUid) -> HostUid {
    world.placed(vm).host
}

fn given(world: &World, vm: VmUid) -> (Vec<u32>, Vec<(u32, u64)>) {
    let Resources { vcpus, memory, .. } = &world.placed(vm).resources;
    (vcpus.iter().map(|thread| thread.0).collect(), memory.iter().map(|part| (part.node.0, part.count)).collect())
}

/// One VM on an otherwise empty host of this shape.
fn alone(machine: Machine, spec: VmSpec) -> (Vec<u32>, Vec<(u32, u64)>) {
    let mut world = World::new();
    world.host(1, machine.inventory());
    let vm = world.vm(1, spec);
    settle(&mut world);
    given(&world, vm)
}

/// Why a host of this shape refuses this VM.
fn refusal(machine: Machine, spec: VmSpec) -> String {
    let mut world = World::new();
    world.host(1, machine.inventory());
    world.vm(1, spec);
    only_refusal(&world.cluster)
}

fn only_refusal(view: &Cluster) -> String {
    match &whole(view).report[..] {
        [(_, Verdict::Refused(refused))] => refused.listed[0].1.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn vms_are_spread_over_hosts() {
    let mut world = World::new();
    for number in [1, 2] {
        world.host(number, Machine::cores(8).inventory());
    }
    let vms: Vec<_> = (1..5).map(|number| world.vm(number, vm_spec(2, Bytes::mib(128)))).collect();
    settle(&mut world);
    let hosts: Vec<_> = vms.iter().map(|vm| host_of(&world, *vm)).collect();
    assert_eq!(hosts, [host_uid(1), host_uid(2), host_uid(1), host_uid(2)]);
}

#[test]
fn of_equally_filled_hosts_the_smaller_is_taken_so_that_large_vms_find_room() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    world.host(2, Machine::cores(4).inventory());
    let (small, large) = (world.vm(1, vm_spec(2, Bytes::mib(128))), world.vm(2, vm_spec(8, Bytes::mib(128))));
    settle(&mut world);
    assert_eq!((host_of(&world, small), host_of(&world, large)), (host_uid(2), host_uid(1)));
}

#[test]
fn the_older_vm_is_placed_first() {
    let mut world = World::new();
    let first = world.vm(7, vm_spec(4, Bytes::mib(128)));
    world.at = world.at.plus(berth_model::Millis(1));
    let second = world.vm(1, vm_spec(4, Bytes::mib(128)));
    world.host(1, Machine::cores(4).inventory());
    settle(&mut world);
    assert!(world.vm_now(first).assignment.is_some() && world.vm_now(second).assignment.is_none());
}

#[test]
fn whole_cores_are_given_first_and_a_cores_siblings_together() {
    let smt = Machine { threads: 2, ..Machine::cores(4) };
    assert_eq!(alone(smt, vm_spec(4, Bytes::mib(128))).0, [0, 4, 1, 5]);
    let mut world = World::new();
    world.host(1, smt.inventory());
    let odd = world.vm(1, vm_spec(3, Bytes::mib(128)));
    settle(&mut world);
    let even = world.vm(2, vm_spec(2, Bytes::mib(128)));
    settle(&mut world);
    assert_eq!((given(&world, odd).0, given(&world, even).0), (vec![0, 4, 1], vec![2, 6]));
}

#[test]
fn the_hosts_own_threads_are_never_given_and_qemu_runs_there() {
    let machine = Machine { threads: 2, reserve: 2, ..Machine::cores(4) };
    assert_eq!(alone(machine, vm_spec(4, Bytes::mib(128))).0, [2, 6, 3, 7]);
    let refused = refusal(machine, vm_spec(5, Bytes::mib(128)));
    assert_eq!(refused, "needs 5 free CPU threads, has 4 of 8 (4 kept for the host)");
    let mut world = World::new();
    world.host(1, machine.inventory());
    let vm = world.vm(1, vm_spec(2, Bytes::mib(128)));
    settle(&mut world);
    let resources = &world.placed(vm).resources;
    assert_eq!((resources.emulator.to_string(), resources.iothread.to_string()), ("0-1,4-5".into(), "0-1,4-5".into()));
}

#[test]
fn one_numa_node_is_taken_if_one_is_enough_and_of_several_the_tightest() {
    let two = Machine { nodes: 2, ..Machine::cores(4) };
    assert_eq!(alone(two, vm_spec(4, Bytes::mib(256))), (vec![0, 1, 2, 3], vec![(0, 128)]));
    let mut world = World::new();
    world.host(1, two.inventory());
    let first = world.vm(1, vm_spec(2, Bytes::mib(128)));
    settle(&mut world);
    let second = world.vm(2, vm_spec(2, Bytes::mib(128)));
    settle(&mut world);
    let large = world.vm(3, vm_spec(4, Bytes::mib(128)));
    settle(&mut world);
    assert_eq!(given(&world, first), (vec![0, 1], vec![(0, 64)]));
    assert_eq!(given(&world, second), (vec![2, 3], vec![(0, 64)]), "the node that is begun is filled");
    assert_eq!(given(&world, large), (vec![4, 5, 6, 7], vec![(1, 64)]));
}

#[test]
fn a_vm_spans_nodes_only_when_no_node_is_enough() {
    let two = Machine { nodes: 2, hugepages: 100, ..Machine::cores(4) };
    let evenly = vec![(0, 43), (1, 21)];
    assert_eq!(alone(two, vm_spec(6, Bytes::mib(128))), (vec![0, 1, 2, 3, 4, 5], evenly), "memory as the threads");
    assert_eq!(alone(two, vm_spec(2, Bytes::mib(300))), (vec![0, 1], vec![(0, 100), (1, 50)]));
}

#[test]
fn a_host_with_a_whole_node_is_better_than_one_where_the_vm_would_span_also_by_its_threads_alone() {
    let mut world = World::new();
    world.host(1, Machine { nodes: 2, ..Machine::cores(2) }.inventory());
    let whole = world.host(2, Machine::cores(8).inventory());
    let first = world.vm(1, vm_spec(1, Bytes::mib(64)));
    world.assign(first, whole, [0], 0);
    let vm = world.vm(2, vm_spec(4, Bytes::mib(64)));
    settle(&mut world);
    assert_eq!(host_of(&world, vm), whole, "although it carries more VMs");
}

#[test]
fn pages_of_a_node_without_usable_threads_are_used() {
    let mut inventory = Machine { hugepages: 10, ..Machine::cores(2) }.inventory();
    inventory.hugepages.push(HugepagePool { node: NodeId(5), page: PageSize::Huge2M, total: 100 });
    let mut world = World::new();
    world.host(1, inventory);
    let vm = world.vm(1, vm_spec(2, Bytes::mib(128)));
    settle(&mut world);
    assert_eq!(given(&world, vm), (vec![0, 1], vec![(0, 10), (5, 54)]));
}

#[test]
fn each_refusal_says_what_is_missing_and_how_much() {
    let small = || vm_spec(2, Bytes::mib(128));
    let machine = Machine { ordinary: Bytes::mib(160), hugepages: 100, ..Machine::cores(4) };
    assert_eq!(refusal(machine, vm_spec(5, Bytes::mib(64))), "needs 5 free CPU threads, has 4 of 4");
    assert_eq!(refusal(machine, vm_spec(2, Bytes::mib(202))), "needs 101 free 2MiB hugepages, has 100 of 100");
    let tight = Machine { ordinary: Bytes::mib(64), ..machine };
    assert_eq!(refusal(tight, small()), "needs 113MiB of ordinary memory for QEMU, has 64MiB");

    let with = |change: &dyn Fn(&mut World)| {
        let mut world = World::new();
        world.host(1, machine.inventory());
        world.vm(1, small());
        change(&mut world);
        only_refusal(&world.cluster)
    };
    assert_eq!(with(&|world| world.liveness(host_uid(1), Liveness::Suspect)), "is Suspect: not heard of");
    assert_eq!(with(&|world| world.liveness(host_uid(1), Liveness::Lost)), "is Lost: not heard of");
    let found = |found: Option<ImageOnHost>| {
        with(&|world: &mut World| {
            let images = vec![(digest(1), found.clone())];
            world.done(report(1, Report { number: 2, images, ..Report::default() }));
        })
    };
    assert_eq!(found(None), "does not hold the image's file");
    let reason = "it has a backing file".into();
    assert_eq!(found(Some(ImageOnHost::Refused { reason })), "refuses the image's file: it has a backing file");
    let other_size = ImageOnHost::Verified { virtual_size: Bytes::mib(65) };
    assert_eq!(found(Some(other_size)), "holds the image with a virtual size of 65MiB, not 64MiB");
    let overbooked = with(&|world| {
        world.assign(vm_uid(1), host_uid(1), [0, 1], 0);
        world.vm(2, small());
        world.done(report(1, full_report(Machine { hugepages: 63, ..machine }.inventory())));
    });
    assert_eq!(overbooked, "is overbooked: 64 pages of 2MiB are booked on NUMA node 0, it has 63");
    assert_eq!(Refusal::Cordoned.to_string(), "is cordoned");
}

#[test]
fn a_vm_of_which_a_host_has_an_orphan_waits_and_says_why() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    let vm = world.vm(1, vm_spec(2, Bytes::mib(64)));
    let orphan = berth_model::host::Orphan { vm, called: "default/vm-1".into(), running: true };
    world.done(report(1, Report { number: 2, orphans: Some(vec![orphan]), ..Report::default() }));
    let why = "has a domain of this VM already, as an orphan; it is started nowhere until that is adopted or removed";
    assert_eq!(only_refusal(&world.cluster), why);
}

#[test]
fn a_cordoned_host_is_refused_before_anything_else_of_it_is_looked_at() {
    let mut world = World::new();
    world.host(1, Machine::cores(1).inventory());
    world.vm(1, vm_spec(2, Bytes::mib(64)));
    patch(&mut world, 1, HostPatch { cordoned: Some(true), ..HostPatch::default() });
    assert_eq!(only_refusal(&world.cluster), "is cordoned");
}

#[test]
fn every_host_is_named_with_its_reason_in_the_order_of_names() {
    let mut world = World::new();
    for number in [3, 1, 2] {
        world.host(number, Machine::cores(1).inventory());
    }
    world.liveness(host_uid(2), Liveness::Lost);
    let vm = world.vm(1, vm_spec(2, Bytes::mib(64)));
    settle(&mut world);
    let noted = world.vm_now(vm).unplaced.clone().unwrap();
    let lines: Vec<_> = noted.refusals.iter().map(|(host, why)| format!("{host} {why}")).collect();
    assert_eq!(noted.hosts, 3);
    assert_eq!(
        lines,
        [
            "h1 needs 2 free CPU threads, has 1 of 1",
            "h2 is Lost: not heard of",
            "h3 needs 2 free CPU threads, has 1 of 1"
        ]
    );
}

#[test]
fn reasons_that_are_noted_already_are_not_noted_again() {
    let mut world = World::new();
    world.host(1, Machine::cores(4).inventory());
    world.vm(1, vm_spec(5, Bytes::mib(64)));
    assert_eq!(settle(&mut world).commands.len(), 1);
    assert!(whole(&world.cluster).commands.is_empty());
    world.vm(2, vm_spec(1, Bytes::mib(64)));
    let made = settle(&mut world).commands;
    let is_figures = matches!(&made[..], [Body::Assign { .. }, Body::NoteUnplaced { vm, .. }] if *vm == vm_uid(1));
    assert!(is_figures, "few wait, and fewer threads are free now: {made:?}");
    assert!(whole(&world.cluster).commands.is_empty());
}

#[test]
fn while_many_wait_a_change_of_figures_alone_is_not_noted_and_another_reason_is() {
    let mut world = World::new();
    world.host(1, Machine::cores(4).inventory());
    for number in 0..70 {
        world.vm(number, vm_spec(5, Bytes::mib(64)));
    }
    assert_eq!(settle(&mut world).commands.len(), 70);
    world.vm(100, vm_spec(1, Bytes::mib(64)));
    assert_eq!(settle(&mut world).commands.len(), 1, "one gets its berth, and the others' figures change");
    assert_eq!(settle(&mut world).commands.len(), 0);
    world.liveness(host_uid(1), Liveness::Suspect);
    assert_eq!(settle(&mut world).commands.len(), 70);
}

#[test]
fn a_hosts_own_words_do_not_make_a_note_long() {
    let mut world = World::new();
    world.host(1, Machine::cores(4).inventory());
    let reason = "ä".repeat(10_000);
    let images = vec![(digest(1), Some(ImageOnHost::Refused { reason }))];
    world.done(report(1, Report { number: 2, images, ..Report::default() }));
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    settle(&mut world);
    assert_eq!(world.vm_now(vm).unplaced.as_ref().unwrap().refusals[0].1.chars().count(), 240);
    assert!(whole(&world.cluster).commands.is_empty(), "and the cut text counts as noted");
}

#[test]
fn vms_that_cannot_be_placed_do_not_keep_those_behind_them_from_their_turn() {
    let mut world = World::new();
    for number in 0..7 {
        world.vm(number, vm_spec(200, Bytes::mib(64)));
    }
    let behind = world.vm(9, vm_spec(1, Bytes::mib(64)));
    world.host(1, Machine::cores(4).inventory());
    let mut after: Option<Turn> = None;
    let mut turns = Vec::new();
    for _ in 0..3 {
        let part = plan(&world.cluster, after, Budget { vms: 3 });
        turns.extend(part.report.iter().map(|(vm, _)| *vm));
        after = part.next;
        for body in part.commands {
            world.done(body);
        }
    }
    assert_eq!(after, None, "the round is over");
    let expected: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 9].map(vm_uid).into();
    assert_eq!(turns, expected, "each had one turn");
    assert!(world.vm_now(behind).assignment.is_some());
}

#[test]
fn a_budget_of_nothing_still_moves() {
    let mut world = World::new();
    world.vm(1, vm_spec(1, Bytes::mib(64)));
    let made = plan(&world.cluster, None, Budget { vms: 0 });
    assert_eq!((made.report.len(), made.next), (1, None));
}

#[test]
fn what_no_host_could_ever_hold_is_told_apart_from_what_must_wait() {
    let host = berth_model::testing::host(1, Machine { reserve: 1, hugepages: 100, ..Machine::cores(4) }.inventory());
    let why = |spec: VmSpec| never_fits(&host, &spec).map(|refusal| refusal.to_string());
    assert_eq!(why(vm_spec(3, Bytes::mib(200))), None);
    let threads = "needs 4 free CPU threads, has 3 of 4 (1 kept for the host)";
    assert_eq!(why(vm_spec(4, Bytes::mib(200))).as_deref(), Some(threads));
    let pages = "needs 101 free 2MiB hugepages, has 100 of 100";
    assert_eq!(why(vm_spec(3, Bytes::mib(202))).as_deref(), Some(pages));
    let mut lean = host.clone();
    lean.inventory.memory.clear();
    let ordinary = never_fits(&lean, &vm_spec(3, Bytes::mib(64)));
    assert!(matches!(ordinary, Some(Refusal::Ordinary { free: Bytes(0), .. })));
}

#[test]
fn a_deleted_vms_berth_is_free_only_after_its_host_said_so() {
    let mut world = World::new();
    world.host(1, Machine::cores(2).inventory());
    let first = world.vm(1, vm_spec(2, Bytes::mib(64)));
    settle(&mut world);
    world.done(delete_vm(first));
    let second = world.vm(2, vm_spec(2, Bytes::mib(64)));
    settle(&mut world);
    assert!(world.vm_now(second).assignment.is_none());
    let stamp = berth_model::Stamp { incarnation: berth_model::Incarnation(0), epoch: world.placed(first).epoch };
    let gone = vec![(first, berth_model::session::VmReport::Gone(stamp))];
    world.done(report(1, Report { number: 2, vms: gone, ..Report::default() }));
    settle(&mut world);
    assert_eq!(given(&world, second).0, [0, 1]);
}

#[test]
fn without_hosts_a_vm_waits_and_the_note_says_that_none_were_looked_at() {
    let mut world = World::new();
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    let made = settle(&mut world);
    assert!(matches!(&made.report[..], [(_, Verdict::Refused(refused))] if refused.listed.is_empty()));
    assert_eq!(world.vm_now(vm).unplaced.as_ref().unwrap().hosts, 0);
}
