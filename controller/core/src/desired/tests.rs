//! What one host shall hold.

use std::collections::BTreeMap;

use berth_model::session::{Absent, DesiredEntry, Report, VmReport};
use berth_model::testing::{Machine, observed, vm_spec};
use berth_model::vm::{DomainState, VmSpec};
use berth_model::{Bytes, Incarnation, Stamp};
use berth_state::testing::{World, delete_vm, report};

use super::{News, Wanted, concerned};
use crate::ports::Seal;
use crate::testing::Mirror;

fn with_user_data(uid: berth_model::VmUid, key: &str) -> VmSpec {
    let mut sealed = Mirror.seal(b"#cloud-config", uid.0.as_str().as_bytes()).unwrap();
    sealed.key_id = key.into();
    VmSpec { user_data: Some(sealed), ..vm_spec(1, Bytes::mib(64)) }
}

#[test]
fn a_host_is_told_of_every_vm_that_is_placed_on_it_or_leaves_it_and_of_no_other() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let other = world.host(2, Machine::cores(8).inventory());
    let stays = world.vm(1, with_user_data(berth_model::testing::vm_uid(1), "k1"));
    let goes = world.vm(2, vm_spec(1, Bytes::mib(64)));
    let elsewhere = world.vm(3, vm_spec(1, Bytes::mib(64)));
    world.vm(4, vm_spec(1, Bytes::mib(64)));
    let (kept, ending) = (world.assign(stays, host, [0], 0), world.assign(goes, host, [1], 0));
    world.assign(elsewhere, other, [0], 0);
    world.done(delete_vm(goes));

    let News { entries, forgotten, unopened } = Wanted::of(&world.cluster, host).news(&Wanted::default(), &Mirror);
    assert!(unopened.is_empty() && forgotten.is_empty());
    let entries: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.vm(), entry)).collect();
    assert_eq!(entries.keys().copied().collect::<Vec<_>>(), [stays, goes]);
    let stamp = |epoch| Stamp { incarnation: Incarnation(0), epoch };
    let DesiredEntry::Present(present, by) = &entries[&stays] else { panic!("{:?}", entries[&stays]) };
    assert_eq!((*by, present.assignment.epoch), (stamp(kept), kept));
    assert_eq!(present.user_data.as_ref().unwrap().0, b"#cloud-config");
    assert_eq!(present.spec.user_data, None, "the sealed form does not go along");
    let absent = Absent { vm: goes, stamp: stamp(ending), with_disk: true };
    assert_eq!(entries[&goes], DesiredEntry::Absent(absent));
}

#[test]
fn a_hosts_own_word_about_a_vm_is_no_reason_to_look_at_its_set_again() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    let mut since = world.changes.len();
    let mut concerned_now = |world: &World| {
        let hosts: Vec<_> = world.changes[since..].iter().flat_map(concerned).collect();
        since = world.changes.len();
        hosts
    };
    let epoch = world.assign(vm, host, [0], 0);
    assert_eq!(concerned_now(&world), [host]);
    let seen = VmReport::Seen(observed(epoch, DomainState::Running));
    world.done(report(1, Report { number: 2, vms: vec![(vm, seen)], ..Report::default() }));
    assert!(concerned_now(&world).is_empty(), "it said so itself");
    world.done(delete_vm(vm));
    assert_eq!(concerned_now(&world), [host]);
    let stamp = Stamp { incarnation: Incarnation(0), epoch };
    world.done(report(1, Report { number: 3, vms: vec![(vm, VmReport::Gone(stamp))], ..Report::default() }));
    assert_eq!(concerned_now(&world), [host], "it leaves the set");
}
