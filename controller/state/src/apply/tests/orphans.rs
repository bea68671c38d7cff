//! Orphans: what is remembered of them, and how they are adopted or removed.

use berth_model::host::{Liveness, Orphan};
use berth_model::session::{Holding, Report, VmReport};
use berth_model::testing::{self, Machine, digest, full_report, host_uid, name, vm_spec, vm_uid};
use berth_model::vm::{Performance, Resources, RunStrategy, Tuning};
use berth_model::{Bytes, Epoch, HostUid, Incarnation, Name, Stamp, VmUid};

use crate::command::{Body, Expect};
use crate::ledger::Shortage;
use crate::outcome::{Outcome, Rejection};
use crate::testing::{World, delete_vm, report};

const LOST: u128 = 7;

fn lost() -> VmUid {
    vm_uid(LOST)
}

fn holding(resources: Resources) -> Holding {
    Holding {
        vm: lost(),
        project: Name::default_project(),
        name: name("lost"),
        cpus: 2,
        memory: Bytes::mib(64),
        performance: Performance::High,
        tuning: Tuning::of(Performance::High),
        devices: Vec::new(),
        image_name: name("tiny"),
        image: digest(1),
        disk_size: testing::IMAGE_SIZE,
        run: RunStrategy::Always,
        resources,
        restart_count: 4,
    }
}

fn orphan() -> Orphan {
    Orphan { vm: lost(), called: "default/lost".into(), running: true }
}

/// A host with one orphan on the threads 2 and 3, and what it remembers of it.
fn found() -> (World, HostUid) {
    let mut world = World::new();
    let inventory = Machine::cores(8).inventory();
    let resources = testing::resources(&inventory, &vm_spec(2, Bytes::mib(64)), [2, 3], 0);
    world.done(report(1, Report { orphans: Some(vec![orphan()]), ..full_report(inventory) }));
    let host = host_uid(1);
    world.done(Body::NoteHoldings { host, holdings: vec![holding(resources)] });
    (world, host)
}

#[test]
fn a_restored_state_hears_anew_from_each_host_what_its_orphans_hold() {
    let (world, _) = found();
    assert!(!world.cluster.holdings.is_empty());
    let renewed = crate::restore::renew(&world.cluster, world.at, 0, berth_model::Incarnation(0));
    assert!(renewed.holdings.is_empty());
    assert_eq!(crate::audit::audit(&renewed), Vec::<String>::new());
}

fn adopt(host: HostUid) -> Body {
    Body::AdoptOrphan { host, vm: lost(), expect: Expect::default() }
}

fn remove(host: HostUid) -> Body {
    Body::RemoveOrphan { host, vm: lost(), expect: Expect::default() }
}

#[test]
fn an_orphan_that_an_ended_placement_left_is_only_the_new_placements_once_it_is_adopted_or_removed() {
    for decide in [adopt, remove] {
        let (mut world, host) = found();
        world.done(adopt(host));
        world.liveness(host, Liveness::Lost);
        world.done(Body::ConfirmDead { host, expect: Expect::default() });
        assert_eq!(world.cluster.hosts[&host].evictions.len(), 1, "and the host still lists it");
        if decide(host).name() == "RemoveOrphan" {
            world.done(delete_vm(lost()));
        } else {
            let inventory = Machine::cores(8).inventory();
            let resources = testing::resources(&inventory, &vm_spec(2, Bytes::mib(64)), [2, 3], 0);
            world.done(Body::NoteHoldings { host, holdings: vec![holding(resources)] });
        }
        world.done(decide(host));
        assert!(world.cluster.hosts[&host].evictions.is_empty());
        assert_eq!(crate::audit::audit(&world.cluster), Vec::<String>::new());
    }
}

#[test]
fn what_an_orphan_holds_is_given_to_nobody_else() {
    let (mut world, host) = found();
    let vm = world.vm(1, vm_spec(2, Bytes::mib(64)));
    let taken = world.assignment(vm, host, world.berth(vm, host, [3, 4], 0));
    let by = lost();
    let thread = berth_model::host::ThreadId(3);
    assert_eq!(world.refused(taken), Rejection::DoesNotFit(Shortage::ThreadTaken { thread, by }));
    world.assign(vm, host, [4, 5], 0);
    // The host no longer lists it: what it held is free.
    world.done(report(1, Report { orphans: Some(Vec::new()), ..Report::default() }));
    assert!(world.cluster.holdings.is_empty());
    let other = world.vm(2, vm_spec(2, Bytes::mib(64)));
    world.assign(other, host, [2, 3], 0);
}

#[test]
fn an_adopted_orphan_is_a_vm_where_it_runs_by_a_later_placement_and_only_once() {
    let (mut world, host) = found();
    let revision = world.done(adopt(host));
    let vm = world.vm_now(lost()).clone();
    let assignment = vm.assignment.clone().unwrap();
    assert_eq!((assignment.host, assignment.epoch), (host, Epoch(revision.0)));
    assert_eq!(assignment.resources.vcpus, [2, 3].map(berth_model::host::ThreadId));
    assert_eq!((vm.meta.name, vm.restart_count, vm.spec.run, vm.spec.cpus), (name("lost"), 4, RunStrategy::Always, 2));
    assert!(world.cluster.holdings.is_empty(), "what it held is booked now");
    // Before the host has said that it is no orphan any more, a second word changes nothing, and a removal is refused.
    assert_eq!(world.run(adopt(host)), Ok(Outcome::Vm(lost())));
    assert_eq!(world.cluster.revision, revision);
    assert_eq!(world.refused(remove(host)), Rejection::OrphanIsVm { vm: lost(), name: "lost".into() });
    // A report that was on its way still lists it, and what it held is not booked twice.
    world.done(Body::NoteHoldings { host, holdings: vec![holding(assignment.resources)] });
    assert!(world.cluster.holdings.is_empty());
}

#[test]
fn an_orphan_that_the_state_knows_as_a_waiting_vm_is_bound_where_it_runs() {
    let (mut world, host) = found();
    world.done(crate::testing::create_vm(u32::try_from(LOST).unwrap(), vm_spec(2, Bytes::mib(64))));
    world.done(adopt(host));
    let vm = world.vm_now(lost());
    assert_eq!((vm.meta.name.as_str(), vm.restart_count), ("vm-7", 4));
    assert!(vm.assignment.is_some() && world.cluster.waiting().next().is_none());
}

#[test]
fn an_orphan_is_not_adopted_over_others_or_without_what_it_held() {
    let (world, host) = found();
    let mut named = world.clone();
    named.done(Body::CreateVm {
        uid: vm_uid(1),
        project: Name::default_project(),
        name: name("lost"),
        labels: std::collections::BTreeMap::new(),
        annotations: std::collections::BTreeMap::new(),
        spec: Box::new(vm_spec(1, Bytes::mib(64))),
    });
    assert_eq!(named.refused(adopt(host)), Rejection::NameTaken { kind: "VM".into(), name: "lost".into() });

    let mut bare = world.clone();
    bare.done(report(1, Report { orphans: Some(Vec::new()), ..Report::default() }));
    assert_eq!(bare.refused(adopt(host)), Rejection::NoOrphan { host: "h1".into(), vm: lost() });
    bare.done(report(1, Report { orphans: Some(vec![orphan()]), ..Report::default() }));
    assert_eq!(bare.refused(adopt(host)), Rejection::NothingHeld { host: "h1".into(), vm: lost() });

    // A VM was placed there before the host spoke of its orphan: the orphan runs on, and is not adopted.
    let mut taken = bare.clone();
    let vm = taken.vm(1, vm_spec(2, Bytes::mib(64)));
    let resources = taken.berth(vm, host, [3, 4], 0);
    taken.done(taken.assignment(vm, host, resources));
    let held = taken.berth(vm, host, [2, 3], 0);
    taken.done(Body::NoteHoldings { host, holdings: vec![holding(held)] });
    let shortage = Shortage::ThreadTaken { thread: berth_model::host::ThreadId(3), by: vm };
    assert_eq!(taken.refused(adopt(host)), Rejection::DoesNotFit(shortage));

    let mut changed = world;
    let expect = Expect { revision: Some(berth_model::Revision(1)) };
    let refused = changed.refused(Body::AdoptOrphan { host, vm: lost(), expect });
    assert!(matches!(refused, Rejection::Changed { .. }), "{refused}");
}

#[test]
fn a_removed_orphan_is_a_vm_that_is_being_deleted_until_its_host_reports_it_gone() {
    for remembered in [true, false] {
        let (mut world, host) = found();
        if !remembered {
            world.done(report(1, Report { orphans: Some(Vec::new()), ..Report::default() }));
            world.done(report(1, Report { orphans: Some(vec![orphan()]), ..Report::default() }));
        }
        let revision = world.done(remove(host));
        let vm = world.vm_now(lost());
        assert!(vm.meta.is_deleting() && vm.meta.name == name("lost"));
        assert_eq!(vm.assignment.as_ref().map(|held| (held.host, held.epoch)), Some((host, Epoch(revision.0))));
        assert_eq!(world.run(remove(host)), Ok(Outcome::Vm(lost())), "a second word changes nothing");
        assert_eq!(world.refused(adopt(host)), Rejection::OrphanIsVm { vm: lost(), name: "lost".into() });
        let stamp = Stamp { incarnation: Incarnation(0), epoch: Epoch(revision.0) };
        let gone = Report { vms: vec![(lost(), VmReport::Gone(stamp))], ..Report::default() };
        world.done(report(1, Report { orphans: Some(Vec::new()), ..gone }));
        assert!(world.cluster.vms.is_empty() && world.cluster.bookings(host).is_none());
    }
}

#[test]
fn an_orphan_of_a_vm_that_runs_elsewhere_can_only_be_removed_and_the_vm_stays_where_it_is() {
    let (mut world, host) = found();
    let elsewhere = world.host(2, Machine::cores(8).inventory());
    // As when an older state was put back that has it elsewhere.
    world.done(report(1, Report { orphans: Some(Vec::new()), ..Report::default() }));
    let vm = world.vm(u32::try_from(LOST).unwrap(), vm_spec(2, Bytes::mib(64)));
    let epoch = world.assign(vm, elsewhere, [2, 3], 0);
    world.done(report(1, Report { orphans: Some(vec![orphan()]), ..Report::default() }));
    assert!(matches!(world.refused(adopt(host)), Rejection::OrphanIsVm { .. }));
    world.done(remove(host));
    let [ended] = &world.cluster.hosts[&host].evictions[..] else { panic!("one is ended") };
    assert!(ended.with_disk && ended.stamp.epoch > epoch);
    assert_eq!(crate::audit::audit(&world.cluster), Vec::<String>::new());
    let (stamp, revision) = (ended.stamp, world.cluster.revision);
    assert_eq!(world.run(remove(host)), Ok(Outcome::Vm(vm)), "a second word changes nothing");
    assert_eq!(world.cluster.revision, revision);
    let gone = Report { vms: vec![(vm, VmReport::Gone(stamp))], orphans: Some(Vec::new()), ..Report::default() };
    world.done(report(1, gone));
    assert!(world.cluster.hosts[&host].evictions.is_empty());
    assert_eq!(world.placed(vm).host, elsewhere);
}

#[test]
fn a_removed_orphan_whose_name_is_taken_is_shown_by_its_uid_and_one_that_is_a_vm_is_left_to_its_deletion() {
    let (mut world, host) = found();
    world.done(Body::CreateVm {
        uid: vm_uid(1),
        project: Name::default_project(),
        name: name("lost"),
        labels: std::collections::BTreeMap::new(),
        annotations: std::collections::BTreeMap::new(),
        spec: Box::new(vm_spec(1, Bytes::mib(64))),
    });
    world.done(remove(host));
    assert_eq!(world.vm_now(lost()).meta.name.to_string(), lost().to_string());

    let (mut world, host) = found();
    world.done(crate::testing::create_vm(u32::try_from(LOST).unwrap(), vm_spec(2, Bytes::mib(64))));
    assert_eq!(world.refused(remove(host)), Rejection::OrphanIsVm { vm: lost(), name: "vm-7".into() });
    world.done(delete_vm(lost()));
    world.done(remove(host));
}
