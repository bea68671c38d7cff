//! The life of a VM: created, placed, started and stopped, deleted.

use std::collections::BTreeMap;

use berth_model::host::{Liveness, ThreadId};
use berth_model::session::{Report, VmReport};
use berth_model::testing::{Machine, full_report, host_uid, name, observed, vm_spec, vm_uid};
use berth_model::vm::{DomainState, RunStrategy};
use berth_model::{Bytes, Epoch, Generation, Incarnation, Meta, PageSize, Revision, Stamp};

use crate::command::{Body, Expect};
use crate::ledger::Shortage;
use crate::outcome::{Object, Outcome, Rejection};
use crate::testing::{World, create_vm, delete_vm, report};

const ANY: Expect = Expect { revision: None };

fn small() -> berth_model::vm::VmSpec {
    vm_spec(2, Bytes::mib(128))
}

/// A VM on a host of eight threads.
fn placed() -> (World, berth_model::VmUid, berth_model::HostUid, Epoch) {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let vm = world.vm(1, small());
    let epoch = world.assign(vm, host, [0, 1], 0);
    (world, vm, host, epoch)
}

fn said(vm: berth_model::VmUid, word: VmReport) -> Report {
    Report { number: 2, vms: vec![(vm, word)], ..Report::default() }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn set_labels<const N: usize, const M: usize>(
    vm: berth_model::VmUid,
    set: [(&str, &str); N],
    remove: [&str; M],
) -> Body {
    Body::SetLabels { vm, set: labels(set), remove: remove.map(ToOwned::to_owned).into(), expect: ANY }
}

fn stamp(epoch: Epoch) -> Stamp {
    Stamp { incarnation: Incarnation(0), epoch }
}

#[test]
fn a_created_vm_waits_and_is_found_by_its_name() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    let held = world.cluster.vm_by_name(&name("default"), &name("vm-1")).unwrap();
    assert_eq!((held.uid(), held.meta.generation, held.meta.revision), (vm, Generation(1), world.cluster.revision));
    assert_eq!(world.cluster.waiting().count(), 1);
}

#[test]
fn a_name_belongs_to_one_vm_of_a_project_and_a_uid_to_one_vm_at_all() {
    let mut world = World::new();
    world.vm(1, small());
    let Body::CreateVm { uid, project, name: called, labels, annotations, spec } = create_vm(1, small()) else {
        unreachable!()
    };
    let same_name = Body::CreateVm {
        uid: vm_uid(2),
        project,
        name: called,
        labels: labels.clone(),
        annotations: annotations.clone(),
        spec: spec.clone(),
    };
    assert_eq!(world.refused(same_name.clone()), Rejection::NameTaken { kind: "VM".into(), name: "vm-1".into() });
    let elsewhere = |uid| Body::CreateVm {
        uid,
        project: name("other"),
        name: name("vm-1"),
        labels: labels.clone(),
        annotations: annotations.clone(),
        spec: spec.clone(),
    };
    assert_eq!(world.refused(elsewhere(uid)), Rejection::NameTaken { kind: "VM uid".into(), name: uid.to_string() });
    world.done(elsewhere(vm_uid(2)));
}

#[test]
fn starting_and_stopping_count_generations_only_when_they_change_something() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    let before = world.cluster.revision;
    world.done(Body::SetRun { vm, run: RunStrategy::Always, expect: ANY });
    assert_eq!(world.cluster.revision, before);
    world.done(Body::SetRun { vm, run: RunStrategy::Halted, expect: ANY });
    let held = world.vm_now(vm);
    assert_eq!((held.spec.run, held.meta.generation), (RunStrategy::Halted, Generation(2)));
    let refused = world.refused(Body::RestartVm { vm, force: false, expect: ANY });
    assert_eq!(refused, Rejection::Halted { name: "vm-1".into() });
}

#[test]
fn a_restart_is_counted_and_is_no_change_of_the_spec() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    world.done(Body::RestartVm { vm, force: false, expect: ANY });
    world.done(Body::RestartVm { vm, force: false, expect: ANY });
    assert_eq!((world.vm_now(vm).restart_count, world.vm_now(vm).meta.generation), (2, Generation(1)));
}

#[test]
fn labels_are_set_and_removed_and_the_others_stay_without_a_new_generation() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    world.done(set_labels(vm, [("app", "web"), ("tier", "front")], []));
    world.done(set_labels(vm, [("app", "db"), ("zone", "a")], ["tier", "never-there"]));
    let held = world.vm_now(vm);
    assert_eq!(held.meta.labels, labels([("app", "db"), ("zone", "a")]));
    assert_eq!((held.meta.generation, held.meta.revision), (Generation(1), world.cluster.revision));
}

#[test]
fn labels_that_are_so_already_draw_no_revision() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    world.done(set_labels(vm, [("app", "web")], []));
    let before = world.cluster.revision;
    world.done(set_labels(vm, [("app", "web")], ["tier"]));
    world.done(set_labels(vm, [("app", "web")], ["app"]));
    assert_eq!(world.cluster.revision, before, "what is set wins over what is removed");
}

#[test]
fn a_vm_has_a_bounded_number_of_labels_and_one_that_has_more_may_lose_some() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    let many = |keys: std::ops::Range<usize>| keys.map(|key| (format!("k{key:03}"), String::new())).collect();
    let most = Meta::MOST_LABELS;
    world.done(Body::SetLabels { vm, set: many(0..most), remove: Vec::new(), expect: ANY });
    let refusal = |count: usize| {
        let (kind, name) = ("VM".into(), "vm-1".into());
        Rejection::TooManyLabels { kind, name, count: count as u64, most: most as u64 }
    };
    assert_eq!(world.refused(set_labels(vm, [("one", "more")], [])), refusal(most + 1));
    world.done(set_labels(vm, [("one", "more")], ["k000"]));

    // As one would be that an earlier version let through.
    let mut laden = berth_model::vm::Vm::clone(world.vm_now(vm));
    laden.meta.labels = many(0..most + 10);
    world.cluster.put_vm(&mut Vec::new(), |_| laden);
    world.cluster.sum = world.cluster.summed();
    world.done(set_labels(vm, [], ["k000"]));
    assert_eq!(world.refused(set_labels(vm, [("k001", "other")], [])), refusal(most + 9));
}

#[test]
fn what_a_client_saw_must_still_be_so() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    let actual = world.cluster.revision;
    let expect = Expect { revision: Some(Revision(1)) };
    let changed = Rejection::Changed { kind: "VM".into(), name: "vm-1".into(), expected: Revision(1), actual };
    for body in [
        Body::SetRun { vm, run: RunStrategy::Halted, expect },
        Body::RestartVm { vm, force: false, expect },
        Body::DeleteVm { vm, expect },
        Body::SetLabels { vm, set: labels([("a", "b")]), remove: Vec::new(), expect },
    ] {
        assert_eq!(world.refused(body), changed);
    }
    world.done(Body::DeleteVm { vm, expect: Expect { revision: Some(actual) } });
}

#[test]
fn what_is_not_there_cannot_be_changed() {
    let mut world = World::new();
    let vm = vm_uid(9);
    let host = world.host(1, Machine::cores(8).inventory());
    let not_found = Rejection::NotFound { kind: "VM".into(), name: vm.to_string() };
    let resources = berth_model::testing::resources(&Machine::cores(8).inventory(), &small(), [0, 1], 0);
    for body in [
        Body::SetRun { vm, run: RunStrategy::Halted, expect: ANY },
        Body::RestartVm { vm, force: false, expect: ANY },
        set_labels(vm, [("a", "b")], []),
        delete_vm(vm),
        Body::NoteUnplaced { vm, hosts: 0, refusals: Vec::new() },
        Body::Assign { vm, generation: Generation(1), host, resources },
    ] {
        assert_eq!(world.refused(body), not_found);
    }
}

#[test]
fn a_vm_without_a_berth_is_deleted_at_once() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    assert_eq!(world.run(delete_vm(vm)), Ok(Outcome::Vm(vm)));
    assert!(world.cluster.vms.is_empty());
    let last = world.changes.last().unwrap();
    assert!(matches!(&last.object, Object::Vm { before: Some(_), after: None }));
    assert_eq!(last.revision, world.cluster.revision);
    world.vm(1, small());
}

#[test]
fn a_vm_with_a_berth_keeps_record_and_bookings_until_its_host_reports_it_gone() {
    let (mut world, vm, host, epoch) = placed();
    world.done(delete_vm(vm));
    assert!(world.vm_now(vm).meta.is_deleting());
    let booked = |world: &World| world.cluster.bookings(host).map(|held| (held.threads(), held.count()));
    assert_eq!(booked(&world), Some((2, 1)));
    let before = world.cluster.revision;
    world.done(delete_vm(vm));
    assert_eq!(world.cluster.revision, before, "deleting twice changes nothing more");

    world.done(report(1, said(vm, VmReport::Seen(observed(epoch, DomainState::Stopping)))));
    world.liveness(host, Liveness::Lost);
    assert_eq!(booked(&world), Some((2, 1)), "neither silence nor a dying domain releases anything");

    world.done(report(1, said(vm, VmReport::Gone(stamp(epoch)))));
    assert!(world.cluster.vms.is_empty());
    assert_eq!(booked(&world), None);
}

#[test]
fn a_vm_is_gone_only_by_the_stamp_of_its_placement_and_only_when_it_was_to_go() {
    let (mut world, vm, _, epoch) = placed();
    world.done(report(1, said(vm, VmReport::Gone(stamp(epoch)))));
    assert!(world.cluster.vms.contains_key(&vm), "nobody asked for its deletion");
    world.done(delete_vm(vm));
    let restored = Stamp { incarnation: Incarnation(1), epoch };
    for wrong in [stamp(Epoch(epoch.0 - 1)), stamp(epoch.next()), restored] {
        world.done(report(1, said(vm, VmReport::Gone(wrong))));
        assert!(world.cluster.vms.contains_key(&vm), "{wrong}");
    }
    world.host(2, Machine::cores(8).inventory());
    world.done(report(2, said(vm, VmReport::Gone(stamp(epoch)))));
    assert!(world.cluster.vms.contains_key(&vm), "another host's word does not count");
    world.done(report(1, said(vm, VmReport::Gone(stamp(epoch)))));
    assert!(!world.cluster.vms.contains_key(&vm));
}

#[test]
fn a_vm_that_is_not_mentioned_is_not_gone() {
    let (mut world, vm, host, epoch) = placed();
    world.done(report(1, said(vm, VmReport::Seen(observed(epoch, DomainState::Running)))));
    world.done(delete_vm(vm));
    world.done(report(1, full_report(Machine::cores(8).inventory())));
    assert!(world.vm_now(vm).observed.is_none(), "what was seen before is no longer known");
    assert_eq!(world.placed(vm).host, host);
}

#[test]
fn a_vm_that_is_being_deleted_takes_no_other_change() {
    let (mut world, vm, host, _) = placed();
    world.done(delete_vm(vm));
    let resources = world.berth(vm, host, [2, 3], 0);
    for body in [
        Body::SetRun { vm, run: RunStrategy::Halted, expect: ANY },
        Body::RestartVm { vm, force: false, expect: ANY },
        set_labels(vm, [("a", "b")], []),
        Body::NoteUnplaced { vm, hosts: 1, refusals: Vec::new() },
        world.assignment(vm, host, resources),
    ] {
        assert_eq!(world.refused(body), Rejection::Deleting { name: "vm-1".into() });
    }
    let refused = world.refused(create_vm(1, small()));
    assert_eq!(refused, Rejection::NameTaken { kind: "VM".into(), name: "vm-1".into() });
}

#[test]
fn the_revision_of_the_assignment_is_the_epoch_of_the_placement() {
    let (world, vm, host, epoch) = placed();
    let held = world.vm_now(vm);
    assert_eq!((world.placed(vm).host, world.placed(vm).epoch), (host, epoch));
    assert_eq!((held.meta.revision.0, held.meta.generation), (epoch.0, Generation(1)));
    assert_eq!(world.cluster.waiting().count(), 0);
    let booked = world.cluster.bookings(host).unwrap();
    assert_eq!(booked.owner(ThreadId(1)), Some(vm));
    assert_eq!(booked.pages(berth_model::host::NodeId(0), PageSize::Huge2M), 64);
    assert_eq!(booked.ordinary(), small().overhead());
}

#[test]
fn a_placed_vm_is_not_placed_again_and_a_changed_one_only_for_its_new_spec() {
    let (mut world, vm, host, _) = placed();
    let again = world.assignment(vm, host, world.berth(vm, host, [2, 3], 0));
    assert_eq!(world.refused(again), Rejection::PlanOutdated);
    assert_eq!(world.refused(Body::NoteUnplaced { vm, hosts: 0, refusals: Vec::new() }), Rejection::PlanOutdated);
    let other = world.vm(2, small());
    let seen_before = world.assignment(other, host, world.berth(other, host, [2, 3], 0));
    world.done(Body::SetRun { vm: other, run: RunStrategy::Halted, expect: ANY });
    assert_eq!(world.refused(seen_before), Rejection::PlanOutdated);
}

#[test]
fn nothing_is_booked_twice_or_beyond_what_is_there() {
    let (mut world, first, host, _) = placed();
    let vm = world.vm(2, vm_spec(2, Bytes::mib(128)));
    let refuse = |world: &mut World, change: &dyn Fn(&mut berth_model::vm::Resources)| {
        let mut resources = world.berth(vm, host, [2, 3], 0);
        change(&mut resources);
        let command = world.assignment(vm, host, resources);
        world.refused(command)
    };
    let taken = refuse(&mut world, &|resources| resources.vcpus[1] = ThreadId(1));
    assert_eq!(taken, Rejection::DoesNotFit(Shortage::ThreadTaken { thread: ThreadId(1), by: first }));
    let twice = refuse(&mut world, &|resources| resources.vcpus[1] = ThreadId(2));
    assert_eq!(twice, Rejection::DoesNotFit(Shortage::NoSuchThread(ThreadId(2))));
    let nowhere = refuse(&mut world, &|resources| resources.vcpus[1] = ThreadId(8));
    assert_eq!(nowhere, Rejection::DoesNotFit(Shortage::NoSuchThread(ThreadId(8))));
    let node = refuse(&mut world, &|resources| resources.memory[0].node = berth_model::host::NodeId(1));
    assert!(matches!(node, Rejection::DoesNotFit(Shortage::Pages { wanted: 64, free: 0, .. })), "{node:?}");
    let ordinary = refuse(&mut world, &|resources| resources.overhead = Bytes::gib(8));
    assert!(matches!(ordinary, Rejection::DoesNotFit(Shortage::Ordinary { .. })), "{ordinary:?}");

    let large = world.vm(3, vm_spec(1, Bytes::mib(2 * (1024 - 64) + 2)));
    let refused = world.refused(world.assignment(large, host, world.berth(large, host, [2], 0)));
    assert!(
        matches!(refused, Rejection::DoesNotFit(Shortage::Pages { wanted: 961, free: 960, .. })),
        "the pages of two VMs add up: {refused:?}"
    );
}

#[test]
fn an_assignment_gives_exactly_what_was_asked() {
    let (mut world, _, host, _) = placed();
    let vm = world.vm(2, small());
    let wrong: [&dyn Fn(&mut berth_model::vm::Resources); 8] = [
        &|resources| resources.vcpus.truncate(1),
        &|resources| resources.memory[0].count -= 1,
        &|resources| resources.memory[0].page = PageSize::Small,
        &|resources| {
            let mut odd = resources.memory[0];
            (odd.page, odd.count) = (PageSize::Huge1G, 0);
            resources.memory.push(odd);
        },
        &|resources| {
            resources.memory.push(resources.memory[0]);
            resources.memory[1].count = u64::MAX;
        },
        &|resources| resources.overhead = Bytes(resources.overhead.0 - 1),
        &|resources| resources.emulator.0.clear(),
        &|resources| resources.iothread.0.extend([ThreadId(8)]),
    ];
    for (at, change) in wrong.iter().enumerate() {
        let mut resources = world.berth(vm, host, [2, 3], 0);
        change(&mut resources);
        let command = world.assignment(vm, host, resources);
        assert_eq!(world.refused(command), Rejection::PlanOutdated, "change {at}");
    }
}

#[test]
fn threads_kept_for_the_host_are_not_for_vms_and_qemus_own_threads_stay_there() {
    let mut world = World::new();
    let host = world.host(1, Machine { reserve: 2, ..Machine::cores(8) }.inventory());
    let vm = world.vm(1, small());
    let reserved = world.assignment(vm, host, world.berth(vm, host, [1, 2], 0));
    assert_eq!(world.refused(reserved), Rejection::DoesNotFit(Shortage::NoSuchThread(ThreadId(1))));
    let mut resources = world.berth(vm, host, [2, 3], 0);
    resources.emulator.0.insert(ThreadId(4));
    let spilling = world.assignment(vm, host, resources);
    assert_eq!(world.refused(spilling), Rejection::PlanOutdated);
    world.assign(vm, host, [2, 3], 0);
    assert_eq!(world.placed(vm).resources.emulator.to_string(), "0-1");
}

#[test]
fn a_host_that_is_cordoned_silent_or_overbooked_takes_no_new_vm() {
    let (mut world, _, host, _) = placed();
    let vm = world.vm(2, small());
    let command = world.assignment(vm, host, world.berth(vm, host, [2, 3], 0));
    let not_taking = |why: &str| Rejection::HostNotTaking { name: "h1".into(), why: why.into() };

    for silent in [Liveness::Suspect, Liveness::Lost] {
        world.liveness(host, silent);
        assert_eq!(world.refused(command.clone()), not_taking("it is not heard of"));
    }
    world.liveness(host, Liveness::Alive);

    let mut cordoned = world.clone();
    let mut held = berth_model::host::Host::clone(&cordoned.cluster.hosts[&host]);
    held.spec.cordoned = true;
    cordoned.cluster.put_host(&mut Vec::new(), held);
    // Nothing noted it: no command cordons a host yet.
    cordoned.cluster.sum = cordoned.cluster.summed();
    assert_eq!(cordoned.refused(command.clone()), not_taking("it is cordoned"));

    let less = Machine { hugepages: 63, ..Machine::cores(8) }.inventory();
    world.done(report(1, full_report(less)));
    let why = "it is overbooked: 64 pages of 2MiB are booked on NUMA node 0, it has 63";
    assert_eq!(world.refused(command), not_taking(why));
}

#[test]
fn a_vm_of_which_a_host_has_an_orphan_is_placed_nowhere() {
    let (mut world, _, host, _) = placed();
    let vm = world.vm(2, small());
    let command = world.assignment(vm, host, world.berth(vm, host, [2, 3], 0));
    let orphan = berth_model::host::Orphan { vm, called: "default/vm-2".into(), running: true };
    world.done(report(1, Report { orphans: Some(vec![orphan]), ..Report::default() }));
    let why = "a domain of this VM is there already, as an orphan".into();
    assert_eq!(world.refused(command.clone()), Rejection::HostNotTaking { name: "h1".into(), why });
    world.done(report(1, Report { orphans: Some(Vec::new()), ..Report::default() }));
    world.done(command);
}

#[test]
fn a_berth_on_an_unknown_host_is_refused() {
    let (mut world, _, host, _) = placed();
    let vm = world.vm(2, small());
    let resources = world.berth(vm, host, [2, 3], 0);
    let unknown = host_uid(9);
    let refused = world.refused(world.assignment(vm, unknown, resources));
    assert_eq!(refused, Rejection::NotFound { kind: "host".into(), name: unknown.to_string() });
}

#[test]
fn a_note_of_the_same_reasons_changes_nothing_and_new_reasons_keep_the_time_of_the_first() {
    let mut world = World::new();
    let vm = world.vm(1, small());
    let note = |why: &str| Body::NoteUnplaced { vm, hosts: 1, refusals: vec![(name("h1"), why.into())] };
    let first = world.at;
    let revision = world.done(note("is cordoned"));
    world.at = world.at.plus(berth_model::Millis(1000));
    assert_eq!(world.done(note("is cordoned")), revision);
    assert!(world.done(note("is Lost: not heard of")) > revision);
    let held = world.vm_now(vm).unplaced.clone().unwrap();
    assert_eq!((held.since, held.refusals[0].1.as_str()), (first, "is Lost: not heard of"));

    let host = world.host(1, Machine::cores(8).inventory());
    world.assign(vm, host, [0, 1], 0);
    assert!(world.vm_now(vm).unplaced.is_none());
}
