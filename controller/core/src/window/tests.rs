//! Recent events: in order, whole at each revision, and honest about what is gone.

use std::collections::BTreeSet;

use berth_model::host::Liveness;
use berth_model::testing::{Machine, host_uid, vm_spec, vm_uid};
use berth_model::vm::{VmPhase, VmSpec};
use berth_model::{Bytes, Revision, Sealed};
use berth_state::testing::{World, create_vm, delete_vm, report};
use berth_state::{Batch, Body, Command, apply};
use proptest::prelude::*;

use super::{Compacted, Event, VmEvent, Window, events};

fn small() -> berth_model::vm::VmSpec {
    vm_spec(1, Bytes::mib(64))
}

/// Events that follow from what the world saw since its `from`th change.
fn since(world: &World, from: usize) -> Vec<Event> {
    events(&world.cluster, &world.changes[from..])
}

fn told(events: &[Event]) -> Vec<(u64, String)> {
    let told = |event: &Event| {
        let what = match &event.what {
            VmEvent::Added(vm, status) => format!("added {} {}", vm.meta.name, status.phase),
            VmEvent::Modified(vm, status) => format!("modified {} {}", vm.meta.name, status.phase),
            VmEvent::Deleted(vm) => format!("deleted {}", vm.meta.name),
        };
        (event.revision.0, what)
    };
    events.iter().map(told).collect()
}

fn event(revision: u64) -> Event {
    Event { revision: Revision(revision), what: VmEvent::Deleted(berth_model::testing::vm(1, small()).into()) }
}

fn revisions(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.revision.0).collect()
}

#[test]
fn secrets_are_not_kept_for_watchers_who_are_told_only_that_there_is_one() {
    let mut world = World::new();
    let from = world.changes.len();
    let sealed = Sealed { key_id: "k1".into(), nonce: vec![7; 12], ciphertext: vec![7; 1 << 20] };
    let uid = world.vm(1, VmSpec { user_data: Some(sealed.clone()), ..small() });
    let [Event { what: VmEvent::Added(vm, _), .. }] = &since(&world, from)[..] else { panic!("one event") };
    let kept = vm.spec.user_data.as_ref().unwrap();
    assert_eq!((kept.nonce.len(), kept.ciphertext.len()), (0, 0));
    assert_eq!(world.vm_now(uid).spec.user_data, Some(sealed), "the state itself keeps it");
}

#[test]
fn a_vms_life_is_told_with_its_status() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(4).inventory());
    let (from, at) = (world.changes.len(), world.cluster.revision.0);
    let vm = world.vm(1, small());
    world.assign(vm, host, [0], 0);
    world.done(delete_vm(vm));
    let waiting = world.vm(2, small());
    world.done(delete_vm(waiting));
    let expected = [
        (at + 1, "added vm-1 Pending"),
        (at + 2, "modified vm-1 Assigned"),
        (at + 3, "modified vm-1 Deleting"),
        (at + 4, "added vm-2 Pending"),
        (at + 5, "deleted vm-2"),
    ];
    assert_eq!(told(&since(&world, from)), expected.map(|(revision, what)| (revision, what.to_owned())));
}

#[test]
fn a_hosts_silence_is_an_event_of_each_of_its_vms_at_one_revision() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(4).inventory());
    for number in [1, 2] {
        let vm = world.vm(number, small());
        world.assign(vm, host, [number], 0);
    }
    world.vm(3, small());
    let from = world.changes.len();
    world.liveness(host, Liveness::Lost);
    let at = world.cluster.revision.0;
    let told = told(&since(&world, from));
    assert_eq!(told, [(at, "modified vm-1 Unknown".into()), (at, "modified vm-2 Unknown".into())]);
}

#[test]
fn what_does_not_show_in_a_vm_is_no_event_of_it() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(4).inventory());
    let vm = world.vm(1, small());
    world.assign(vm, host, [0], 0);
    let from = world.changes.len();
    world.done(report(1, berth_model::testing::full_report(Machine::cores(5).inventory())));
    world.done(berth_state::testing::create_image("other", 2));
    assert_eq!(world.changes.len(), from + 2);
    assert!(since(&world, from).is_empty());
}

#[test]
fn a_vm_is_added_before_it_is_modified_even_when_all_happens_in_one_entry() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(4).inventory());
    let resources = berth_model::testing::resources(&Machine::cores(4).inventory(), &small(), [0], 0);
    let bodies = [
        Body::SetLiveness { host, liveness: Liveness::Suspect },
        Body::SetLiveness { host, liveness: Liveness::Alive },
        create_vm(1, small()),
        Body::Assign { vm: vm_uid(1), generation: berth_model::Generation(1), host: host_uid(1), resources },
    ];
    let actor = berth_model::testing::operator();
    let commands = bodies.map(|body| Command { request: None, actor: actor.clone(), body }).into();
    let (_, changes) = apply::apply(&mut world.cluster, &Batch { at: world.at, commands });
    let events = events(&world.cluster, &changes);
    assert!(matches!(&events[0].what, VmEvent::Added(..)), "{:?}", told(&events));
    assert!(matches!(&events.last().unwrap().what, VmEvent::Modified(_, status) if status.phase == VmPhase::Assigned));
}

#[test]
fn a_watcher_goes_on_behind_what_it_has_seen() {
    let window = Window::new(Revision(5));
    assert_eq!(window.after(Revision(5)), Ok((vec![], Revision(5))));
    window.push(Revision(8), vec![event(6), event(8)]);
    let (events, now) = window.after(Revision(5)).unwrap();
    assert_eq!((revisions(&events), now), (vec![6, 8], Revision(8)));
    assert_eq!(revisions(&window.after(Revision(6)).unwrap().0), [8]);
    window.push(Revision(9), vec![]);
    assert_eq!(window.after(Revision(8)), Ok((vec![], Revision(9))), "a revision without events passes too");
    assert_eq!(window.after(Revision(20)), Ok((vec![], Revision(20))), "this member is behind the watcher");
    let gone = Compacted { asked: Revision(4), oldest: Revision(5) };
    assert_eq!(window.after(Revision(4)), Err(gone));
}

#[test]
fn after_a_snapshot_the_window_begins_anew() {
    let window = Window::new(Revision(0));
    window.push(Revision(8), vec![event(6), event(8)]);
    window.reset(Revision(30));
    assert_eq!(window.after(Revision(8)), Err(Compacted { asked: Revision(8), oldest: Revision(30) }));
    assert_eq!(window.after(Revision(30)), Ok((vec![], Revision(30))));
    assert_eq!(*window.newest().borrow(), Revision(30));
}

#[test]
fn events_of_one_revision_are_kept_and_dropped_together() {
    let window = Window::new(Revision(0));
    let many = |revision, count| vec![event(revision); count];
    window.push(Revision(1), many(1, 10));
    window.push(Revision(2), many(2, Window::KEPT - 5));
    assert_eq!(
        window.after(Revision(0)),
        Err(Compacted { asked: Revision(0), oldest: Revision(1) }),
        "five of the ten are gone, so none of them is given"
    );
    let (events, _) = window.after(Revision(1)).unwrap();
    assert_eq!(events.len(), Window::KEPT - 5);
    window.push(Revision(3), many(3, Window::KEPT + 1));
    assert!(window.after(Revision(2)).is_err(), "more than fits at one revision is not given in part");
    assert_eq!(window.after(Revision(3)), Ok((vec![], Revision(3))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whoever_follows_gets_every_event_once_or_is_told_that_some_are_gone(
        pushes in prop::collection::vec((1..4_u64, 0..9000_usize), 1..12),
        begin in 0..12_u64,
    ) {
        let window = Window::new(Revision(0));
        let (mut revision, mut counts) = (0, Vec::new());
        for (step, count) in pushes {
            revision += step;
            counts.push((revision, count));
            window.push(Revision(revision), vec![event(revision); count]);
        }
        if let Ok((events, now)) = window.after(Revision(begin)) {
            prop_assert_eq!(now.0, revision.max(begin));
            let wanted: usize = counts.iter().filter(|(at, _)| *at > begin).map(|(_, count)| count).sum();
            prop_assert_eq!(events.len(), wanted, "whole, or refused");
            prop_assert!(revisions(&events).is_sorted());
            let named: BTreeSet<_> = revisions(&events).into_iter().collect();
            prop_assert!(named.iter().all(|at| *at > begin));
        } else {
            let kept: usize = counts.iter().filter(|(at, _)| *at > begin).map(|(_, count)| count).sum();
            prop_assert!(kept > Window::KEPT, "refused although all {} are kept", kept);
        }
    }
}
