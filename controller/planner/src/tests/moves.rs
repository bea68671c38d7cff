//! Moves that would help, and those that are not proposed because others would have to follow them for ever.

use std::collections::BTreeMap;

use berth_model::placement::{Domain, Rules, Selector, Spread, Strength, VmAffinity, WhenUnsatisfiable};
use berth_model::testing::{Machine, host_uid, name, vm_spec};
use berth_model::vm::{Performance, Tuning, VmSpec};
use berth_model::{Bytes, Millis, VmUid};
use berth_state::HostPatch;
use berth_state::testing::World;

use super::worlds::create;
use super::{host_of, patch, settle};
use crate::{Gain, Index, Move, rebalance};

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

fn with(app: &str) -> Selector {
    Selector::of_labels(&labels(app))
}

fn near(domain: Domain, app: &str) -> Rules {
    let affinity = VmAffinity { anti: false, strength: Strength::Required, domain, vms: with(app) };
    Rules { affinity: vec![affinity], ..Rules::default() }
}

fn even(strict: bool, app: &str) -> Rules {
    let when_unsatisfiable = if strict { WhenUnsatisfiable::DoNotSchedule } else { WhenUnsatisfiable::ScheduleAnyway };
    let spread = Spread { domain: Domain::Host, max_skew: 1, when_unsatisfiable, vms: with(app) };
    Rules { spread: vec![spread], ..Rules::default() }
}

fn floating(cpus: u32, rules: Rules) -> VmSpec {
    let performance = Performance::Standard;
    VmSpec { performance, tuning: Tuning::of(performance), rules, ..vm_spec(cpus, Bytes::mib(64)) }
}

/// Two hosts; what is placed now goes to the first.
fn crowded(vms: &[(u32, Rules, &str)]) -> (World, Vec<VmUid>) {
    let mut world = World::new();
    for number in [1, 2] {
        world.host(number, Machine::cores(10).inventory());
        let zone = name(if number == 1 { "a" } else { "b" });
        patch(&mut world, number, HostPatch { zone: Some(Some(zone)), ..HostPatch::default() });
    }
    patch(&mut world, 2, HostPatch { cordoned: Some(true), ..HostPatch::default() });
    let placed = (1..).zip(vms).map(|(number, (cpus, rules, app))| {
        let vm = create(&mut world, number, (floating(*cpus, rules.clone()), labels(app)));
        settle(&mut world);
        assert_eq!(host_of(&world, vm), host_uid(1));
        vm
    });
    let placed = placed.collect();
    world.at = world.at.plus(Millis(3_600_000));
    patch(&mut world, 2, HostPatch { cordoned: Some(false), ..HostPatch::default() });
    (world, placed)
}

fn moves(world: &World) -> Vec<Move> {
    rebalance(&world.cluster, &mut Index::default(), 100)
}

#[test]
fn a_vm_does_not_flee_from_those_that_must_follow_it() {
    let followers = || (1, near(Domain::Host, "shy"), "loud");
    let (world, _) = crowded(&[(1, even(false, "loud"), "shy"), followers(), followers()]);
    assert_eq!(moves(&world), []);
    let (world, vms) =
        crowded(&[(1, even(false, "loud"), "shy"), (1, Rules::default(), "loud"), (1, Rules::default(), "loud")]);
    let moves = moves(&world);
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert_eq!((moves[0].vm, moves[0].gain), (vms[0], Gain::Skew { from: 1, to: 0 }), "nobody follows it");
}

#[test]
fn no_vm_leaves_a_full_host_if_another_must_follow_it() {
    let (world, _) = crowded(&[(5, Rules::default(), "db"), (5, near(Domain::Host, "db"), "web")]);
    assert_eq!(moves(&world), []);
    let (world, vms) = crowded(&[(5, Rules::default(), "db"), (5, near(Domain::Zone, "other"), "other")]);
    let moves = moves(&world);
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert_eq!((moves[0].vm, moves[0].gain), (vms[0], Gain::Load { from: 100, to: 50 }));
}

#[test]
fn no_vm_leaves_a_full_host_if_it_spoils_the_spread_of_another() {
    let (mut world, vms) = crowded(&[(5, Rules::default(), "loud"), (4, Rules::default(), "calm")]);
    patch(&mut world, 1, HostPatch { cordoned: Some(true), ..HostPatch::default() });
    create(&mut world, 8, (floating(1, Rules::default()), labels("loud")));
    create(&mut world, 9, (floating(1, even(false, "loud")), labels("shy")));
    settle(&mut world);
    patch(&mut world, 1, HostPatch { cordoned: Some(false), ..HostPatch::default() });
    let moves = moves(&world);
    let shown: Vec<_> = moves.iter().map(|one| (one.vm, one.gain)).collect();
    assert_eq!(shown, [(vms[1], Gain::Load { from: 90, to: 60 })], "the shy one would avoid two loud ones");
}
