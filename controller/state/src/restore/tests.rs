use berth_model::Bytes;
use berth_model::testing::{Machine, full_report, vm_spec};
use berth_model::{Millis, VmUid};
use proptest::prelude::*;

use super::*;
use crate::audit::audit;
use crate::history::{self, NotAt, Question};
use crate::outcome::Rejection;
use crate::testing::{World, report};

fn world() -> (World, VmUid) {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let vm = world.vm(1, vm_spec(2, Bytes::mib(64)));
    world.assign(vm, host, [2, 3], 0);
    (world, vm)
}

#[test]
fn a_restored_state_is_a_later_incarnation_far_ahead_with_its_past_compacted() {
    let (mut world, vm) = world();
    let before = world.cluster.clone();
    let renewed = renew(&before, world.at, 0, Incarnation(0));
    assert_eq!(audit(&renewed), Vec::<String>::new());
    assert_eq!(renewed.info.unwrap().incarnation, Incarnation(before.info.unwrap().incarnation.0 + 1));
    assert!(renewed.revision.0 >= before.revision.0 + JUMP);
    assert_eq!(renewed.vms, before.vms, "what was asked and placed stays");
    assert_eq!(renewed.requests, before.requests, "and so do the answers to requests");
    let old = Question { after: Some(before.revision), ..Question::default() };
    assert!(
        matches!(history::list(&renewed, &old, 1), Err(NotAt::Compacted { oldest, .. }) if oldest == renewed.revision)
    );
    assert_eq!(renew(&before, world.at, 0, Incarnation(9)).info.unwrap().incarnation, Incarnation(9));

    // A placement made afterwards is later than any that a host can have heard of.
    world.cluster = renewed;
    world.done(report(1, full_report(Machine::cores(8).inventory())));
    let second = world.vm(2, vm_spec(2, Bytes::mib(64)));
    let epoch = world.assign(second, berth_model::testing::host_uid(1), [4, 5], 0);
    assert!(epoch.0 > before.revision.0 + JUMP);
    assert_eq!(world.placed(vm).epoch, before.vms[&vm].assignment.as_ref().unwrap().epoch);
}

#[test]
fn two_restores_by_one_clock_are_told_apart_by_the_dice() {
    let (world, _) = world();
    let revision = |random| renew(&world.cluster, world.at, random, Incarnation(0)).revision;
    assert_ne!(revision(1), revision(2));
}

#[test]
fn a_restored_state_does_not_compare_itself_by_what_another_incarnation_was() {
    let (mut world, _) = world();
    let (revision, digest) = (world.cluster.revision, world.cluster.digest());
    world.cluster.checkpoints.push_back(crate::Checkpoint { number: 1, revision, digest });
    assert!(renew(&world.cluster, world.at, 0, Incarnation(0)).checkpoints.is_empty());
}

#[test]
fn nothing_is_placed_on_a_host_before_its_first_report_after_the_restore() {
    let (mut world, _) = world();
    let host = berth_model::testing::host_uid(1);
    let second = world.vm(2, vm_spec(2, Bytes::mib(64)));
    let command = world.assignment(second, host, world.berth(second, host, [4, 5], 0));
    world.cluster = renew(&world.cluster, world.at, 0, Incarnation(0));
    let not_yet = |why: Rejection| matches!(why, Rejection::HostNotTaking { .. } | Rejection::PlanOutdated);
    assert!(not_yet(world.refused(command.clone())));
    // A heartbeat alone makes it alive: still nothing is known of what runs there.
    world.liveness(host, Liveness::Alive);
    assert!(not_yet(world.refused(command.clone())));
    world.done(report(1, full_report(Machine::cores(8).inventory())));
    world.done(command);
}

#[test]
fn a_vm_that_waited_is_placed_only_when_every_host_of_that_time_has_spoken_and_a_new_one_at_once() {
    let mut world = World::new();
    let (one, two) = (world.host(1, Machine::cores(8).inventory()), world.host(2, Machine::cores(8).inventory()));
    let vm = world.vm(1, vm_spec(2, Bytes::mib(64)));
    world.cluster = renew(&world.cluster, world.at, 0, Incarnation(0));
    let speaks = |world: &mut World, host| {
        world.done(report(host, full_report(Machine::cores(8).inventory())));
    };
    speaks(&mut world, 1);
    // It may have been placed on the second host after this state was kept.
    let command = world.assignment(vm, one, world.berth(vm, one, [2, 3], 0));
    assert!(matches!(world.refused(command.clone()), Rejection::HostNotTaking { name, .. } if name == "h2"));
    assert!(matches!(world.cluster.stray(vm), Some(crate::Stray::Awaited(host)) if host.uid() == two));
    world.at = world.at.plus(Millis(1));
    let new = world.vm(2, vm_spec(2, Bytes::mib(64)));
    world.assign(new, one, [4, 5], 0);
    // To forget the host is no word about what runs there, unless it never returns.
    let forget = |never_returns| crate::Body::RemoveHost { host: two, never_returns, expect: crate::Expect::default() };
    assert!(matches!(world.refused(forget(false)), Rejection::HostInUse { .. }));
    let mut gone = world.clone();
    gone.done(forget(true));
    gone.done(command.clone());
    let mut dead = world.clone();
    dead.done(crate::Body::ConfirmDead { host: two, expect: crate::Expect::default() });
    assert_eq!(audit(&dead.cluster), Vec::<String>::new());
    dead.done(command.clone());
    speaks(&mut world, 2);
    assert_eq!(audit(&world.cluster), Vec::<String>::new());
    world.done(command);
}

#[test]
fn a_restored_state_says_nothing_about_placements_that_were_ended_before() {
    let (mut world, vm) = world();
    let host = berth_model::testing::host_uid(1);
    world.liveness(host, Liveness::Lost);
    world.done(crate::Body::ConfirmDead { host, expect: crate::Expect::default() });
    assert!(world.cluster.holds_ended(host, vm));
    // The VM may have been placed there anew since: that is for the host to say.
    let renewed = renew(&world.cluster, world.at, 0, Incarnation(0));
    assert!(!renewed.holds_ended(host, vm));
    assert!(matches!(renewed.stray(vm), Some(crate::Stray::Awaited(_))));
    assert_eq!(audit(&renewed), Vec::<String>::new());
}

proptest! {
    #[test]
    fn two_restores_of_one_backup_never_give_the_same_revisions(
        first in 0..1_000_000_u64, apart in 1..1_000_000_u64, dice in any::<(u64, u64)>(), drawn in 0..1000_u64,
    ) {
        let (world, _) = world();
        let at = |millis| world.at.plus(Millis(millis));
        let one = renew(&world.cluster, at(first), dice.0, Incarnation(0)).revision.0;
        // What the first drew until the second was made: at most a thousand revisions a millisecond.
        let reached = one + drawn * apart;
        // The dice alone may bring the second back behind the first by less than 2^30; the clocks decide from a second on.
        let two = renew(&world.cluster, at(first + apart), dice.1, Incarnation(0)).revision.0;
        prop_assert!(two > reached || apart < 1100, "{one} reached {reached}, then {two}");
        prop_assert_ne!(one, two);
    }
}
