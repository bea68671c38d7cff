//! What hosts report, and what of it is believed.

use std::collections::BTreeMap;

use berth_model::host::{Liveness, Orphan, ThreadId};
use berth_model::image::ImageOnHost;
use berth_model::session::{Report, VmReport};
use berth_model::testing::{IMAGE_SIZE, Machine, digest, full_report, host_uid, name, observed, vm_spec, vm_uid};
use berth_model::vm::DomainState;
use berth_model::{BootId, Bytes, Condition, ConditionStatus, Epoch, HostUid, Timestamp, VmUid};

use crate::command::Body;
use crate::outcome::{Outcome, Rejection};
use crate::testing::{World, facts, report};

fn delta() -> Report {
    Report { number: 2, ..Report::default() }
}

fn seen(vm: VmUid, epoch: Epoch) -> Report {
    Report { vms: vec![(vm, VmReport::Seen(observed(epoch, DomainState::Running)))], ..delta() }
}

fn placed() -> (World, VmUid, HostUid, Epoch) {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(4).inventory());
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    let epoch = world.assign(vm, host, [0], 0);
    (world, vm, host, epoch)
}

#[test]
fn a_host_joins_with_its_first_report_and_not_before_it_says_what_it_is() {
    let mut world = World::new();
    let refused = world.refused(report(1, delta()));
    assert_eq!(refused, Rejection::NotFound { kind: "host".into(), name: host_uid(1).to_string() });
    let outcome = world.run(report(1, full_report(Machine::cores(4).inventory())));
    assert_eq!(outcome, Ok(Outcome::Host(host_uid(1))));
    let host = world.cluster.host_by_name(&name("h1")).unwrap();
    assert_eq!((host.liveness, host.address.as_str()), (Liveness::Alive, "10.0.0.1:7443"));
    assert_eq!(host.images[&digest(1)], ImageOnHost::Verified { virtual_size: IMAGE_SIZE });
}

#[test]
fn a_report_that_says_nothing_new_changes_nothing() {
    let (mut world, vm, _, epoch) = placed();
    world.done(report(1, seen(vm, epoch)));
    let before = world.cluster.revision;
    world.done(report(1, seen(vm, epoch)));
    world.done(report(1, delta()));
    assert_eq!(world.cluster.revision, before);
}

#[test]
fn a_name_belongs_to_one_host() {
    let mut world = World::new();
    world.host(1, Machine::cores(4).inventory());
    let mut stranger = facts(2);
    stranger.name = name("h1");
    let report = Box::new(full_report(Machine::cores(4).inventory()));
    let refused = world.refused(Body::ReportHost { facts: stranger, report });
    assert_eq!(refused, Rejection::HostNameTaken { name: name("h1"), held_by: host_uid(1) });
}

#[test]
fn a_host_keeps_its_identity_and_vms_under_a_new_name_and_frees_the_old_one() {
    let (mut world, vm, host, _) = placed();
    let mut renamed = facts(1);
    (renamed.name, renamed.address, renamed.boot) = (name("big"), "10.0.0.9:7443".into(), BootId("boot-2".into()));
    world.done(Body::ReportHost { facts: renamed, report: Box::new(delta()) });
    assert!(world.cluster.host_by_name(&name("h1")).is_none());
    let held = world.cluster.host_by_name(&name("big")).unwrap();
    assert_eq!((held.uid(), held.address.as_str(), &held.boot.0[..]), (host, "10.0.0.9:7443", "boot-2"));
    assert_eq!(world.placed(vm).host, host);
    let mut second = facts(2);
    second.name = name("h1");
    world.done(Body::ReportHost { facts: second, report: Box::new(full_report(Machine::cores(4).inventory())) });
    let mut back = facts(1);
    back.name = name("h1");
    let refused = world.refused(Body::ReportHost { facts: back, report: Box::new(delta()) });
    assert_eq!(refused, Rejection::HostNameTaken { name: name("h1"), held_by: host_uid(2) });
}

#[test]
fn a_host_that_reports_is_alive() {
    let (mut world, _, host, _) = placed();
    world.liveness(host, Liveness::Lost);
    world.at = world.at.plus(berth_model::Millis(100));
    world.done(report(1, delta()));
    let held = &world.cluster.hosts[&host];
    assert_eq!((held.liveness, held.liveness_since), (Liveness::Alive, world.at));
}

#[test]
fn what_a_host_says_of_a_vm_counts_only_by_the_epoch_of_its_placement() {
    let (mut world, vm, _, epoch) = placed();
    for other in [Epoch(epoch.0 - 1), epoch.next()] {
        world.done(report(1, seen(vm, other)));
        assert!(world.vm_now(vm).observed.is_none(), "epoch {other} of {epoch}");
    }
    world.done(report(1, seen(vm, epoch)));
    assert_eq!(world.vm_now(vm).observed, Some(observed(epoch, DomainState::Running)));
}

#[test]
fn what_a_host_says_of_another_hosts_vm_is_not_believed() {
    let (mut world, vm, _, epoch) = placed();
    world.host(2, Machine::cores(4).inventory());
    world.done(report(2, seen(vm, epoch)));
    assert!(world.vm_now(vm).observed.is_none());
    let waiting = world.vm(2, vm_spec(1, Bytes::mib(64)));
    world.done(report(2, seen(waiting, Epoch(0))));
    world.done(report(2, seen(vm_uid(9), epoch)));
    assert!(world.vm_now(waiting).observed.is_none());
}

#[test]
fn a_full_report_replaces_and_a_delta_adds() {
    let mut world = World::new();
    let inventory = || Machine::cores(4).inventory();
    world.host(1, inventory());
    let refused = ImageOnHost::Refused { reason: "it has a backing file".into() };
    let images = vec![(digest(1), None), (digest(2), Some(refused.clone()))];
    world.done(report(1, Report { images, ..delta() }));
    assert_eq!(world.cluster.hosts[&host_uid(1)].images, BTreeMap::from([(digest(2), refused)]));
    world.done(report(1, full_report(inventory())));
    let images: Vec<_> = world.cluster.hosts[&host_uid(1)].images.keys().copied().collect();
    assert_eq!(images, [digest(1)]);

    let orphan = Orphan { vm: vm_uid(7), called: "default/old".into(), running: true };
    world.done(report(1, Report { orphans: Some(vec![orphan.clone()]), ..delta() }));
    world.done(report(1, delta()));
    assert_eq!(world.cluster.hosts[&host_uid(1)].orphans, [orphan]);
    world.done(report(1, Report { orphans: Some(Vec::new()), ..delta() }));
    assert!(world.cluster.hosts[&host_uid(1)].orphans.is_empty());
}

#[test]
fn images_of_one_host_do_not_grow_without_end_and_known_ones_still_change() {
    let mut world = World::new();
    world.host(1, Machine::cores(4).inventory());
    let verified = ImageOnHost::Verified { virtual_size: IMAGE_SIZE };
    let numbered = |number: u32| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        berth_model::image::Sha256Digest(bytes)
    };
    for batch in 0..3 {
        let images = (batch * 5000..(batch + 1) * 5000).map(|at| (numbered(at), Some(verified.clone()))).collect();
        world.done(report(1, Report { images, ..delta() }));
    }
    let refused = ImageOnHost::Refused { reason: "it was altered".into() };
    world.done(report(1, Report { images: vec![(digest(1), Some(refused.clone()))], ..delta() }));
    let images = &world.cluster.hosts[&host_uid(1)].images;
    assert_eq!((images.len(), &images[&digest(1)]), (10_000, &refused));
}

#[test]
fn a_condition_keeps_the_time_since_which_it_holds() {
    let mut world = World::new();
    world.host(1, Machine::cores(4).inventory());
    let condition = |status, message: &str, since| Condition {
        kind: "Accelerated".into(),
        status,
        reason: "Probed".into(),
        message: message.into(),
        since: Timestamp::from_millis(since),
    };
    let mut say = |said: Condition| {
        world.done(report(1, Report { conditions: Some(vec![said]), ..delta() }));
        world.cluster.hosts[&host_uid(1)].conditions.clone()
    };
    say(condition(ConditionStatus::False, "a", 10));
    let again = say(condition(ConditionStatus::False, "b", 20));
    assert_eq!(again, [condition(ConditionStatus::False, "b", 10)]);
    let other = say(condition(ConditionStatus::True, "b", 30));
    assert_eq!(other, [condition(ConditionStatus::True, "b", 30)]);
}

#[test]
fn a_report_below_the_bookings_drops_none_of_them() {
    let (mut world, vm, host, _) = placed();
    let booked = world.cluster.bookings(host).unwrap().clone();
    let one_thread_less = {
        let mut inventory = Machine::cores(4).inventory();
        inventory.topology.threads.remove(0);
        inventory
    };
    world.done(report(1, full_report(one_thread_less)));
    assert_eq!(world.cluster.bookings(host), Some(&booked));
    let why = booked.overbooked(&world.cluster.hosts[&host].inventory).unwrap();
    assert_eq!(why, format!("CPU thread 0 of VM {vm} is no longer usable"));
    world.done(report(1, full_report(Machine { reserve: 1, ..Machine::cores(4) }.inventory())));
    assert!(booked.overbooked(&world.cluster.hosts[&host].inventory).is_some(), "a reserve that grew counts too");
    world.done(report(1, full_report(Machine { ordinary: Bytes::mib(64), ..Machine::cores(4) }.inventory())));
    let why = booked.overbooked(&world.cluster.hosts[&host].inventory).unwrap();
    assert!(why.ends_with("of ordinary memory are booked, the host has 64MiB"), "{why}");
}

#[test]
fn threads_are_kept_in_order_and_once_however_they_are_reported() {
    let mut world = World::new();
    let mut inventory = Machine::cores(4).inventory();
    inventory.topology.threads.reverse();
    let twin = inventory.topology.threads[0];
    inventory.topology.threads.push(twin);
    let host = world.host(1, inventory);
    let topology = &world.cluster.hosts[&host].inventory.topology;
    assert_eq!(topology, &Machine::cores(4).inventory().topology);
    assert!(topology.thread(ThreadId(3)).is_some());
}
