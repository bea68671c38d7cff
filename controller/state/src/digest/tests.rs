use berth_model::host::Liveness;
use berth_model::testing::{Machine, vm_spec};
use berth_model::{Bytes, Sealed};
use proptest::prelude::*;

use super::*;
use crate::apply::apply;
use crate::command::{Batch, Body, Expect};
use crate::record::{decode_snapshot, encode_snapshot};
use crate::testing::{World, create_vm, delete_vm};

fn sealed(byte: u8) -> Sealed {
    Sealed { key_id: "k1".into(), nonce: vec![byte; 12], ciphertext: vec![byte; 40] }
}

#[test]
fn the_digest_is_that_of_the_state_and_not_of_the_way_there() {
    let mut world = World::new();
    let before = world.cluster.sum;
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    assert_ne!(world.cluster.sum, before);
    world.done(delete_vm(vm));
    assert_eq!(world.cluster.sum, before, "what was put and removed left nothing");
}

#[test]
fn a_difference_in_a_secret_in_a_request_or_in_a_single_value_is_seen() {
    let mut world = World::new();
    let mut other = world.clone();
    for (world, byte) in [(&mut world, 1), (&mut other, 2)] {
        let spec = berth_model::vm::VmSpec { user_data: Some(sealed(byte)), ..vm_spec(1, Bytes::mib(64)) };
        world.done(create_vm(1, spec));
    }
    assert_ne!(world.cluster.digest(), other.cluster.digest(), "only the sealed bytes differ");

    let digest = world.cluster.digest();
    let id = berth_model::RequestId::from_parts(world.at, 9);
    let refused = world.command(
        Some((id, [1; 32])),
        berth_model::testing::operator(),
        Body::DeleteImage { name: berth_model::testing::name("none") },
    );
    assert!(refused.result.is_err());
    assert_ne!(world.cluster.digest(), digest, "a remembered refusal is part of the state");

    let mut later = other.cluster.clone();
    later.last_at = later.last_at.plus(berth_model::Millis(1));
    assert_ne!(later.digest(), other.cluster.digest(), "entry time");
}

#[test]
fn members_that_apply_the_same_entries_have_the_same_checkpoints_and_one_that_does_not_differs() {
    let mut world = World::new();
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    let mut straying = world.cluster.clone();
    let (mut one, mut two) = (world.cluster.clone(), world.cluster.clone());
    let run = |halted| if halted { berth_model::vm::RunStrategy::Halted } else { berth_model::vm::RunStrategy::Always };
    for round in 0..2500_u64 {
        let body = Body::SetRun { vm, run: run(round % 2 == 0), expect: Expect::default() };
        let command = crate::command::Command { request: None, actor: berth_model::testing::operator(), body };
        let batch = Batch { at: world.at, commands: vec![command] };
        apply(&mut one, &batch);
        apply(&mut two, &batch);
        // The planted fault: one member does something else at one entry.
        let actor_less = Batch { at: world.at.plus(berth_model::Millis(1)), commands: batch.commands.clone() };
        apply(&mut straying, if round == 1200 { &actor_less } else { &batch });
    }
    assert_eq!(one.checkpoints, two.checkpoints);
    let numbers: Vec<_> = one.checkpoints.iter().map(|held| (held.number, held.revision.0)).collect();
    assert_eq!(numbers, [(1, 1000), (2, 2000)]);
    assert_eq!(one.checkpoints[0], straying.checkpoints[0], "before the fault they agree");
    assert_ne!(one.checkpoints[1].digest, straying.checkpoints[1].digest, "after it they do not");
}

#[test]
fn a_snapshot_whose_digest_is_not_that_of_its_objects_is_refused() {
    let mut world = World::new();
    world.vm(1, vm_spec(1, Bytes::mib(64)));
    let mut wrong = world.cluster.clone();
    wrong.sum.add(Part::Vm, &[b"something that is not there"]);
    let refused = decode_snapshot(&encode_snapshot(&wrong).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("digest"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // `World` audits after each command, and the audit computes the digest from scratch.
    #[test]
    fn whatever_happens_the_digest_kept_up_is_the_one_computed_anew_and_a_snapshot_keeps_it(
        steps in prop::collection::vec((0_u32..6, 1_u32..5), 0..40),
    ) {
        let mut world = World::new();
        let host = world.host(1, Machine::cores(4).inventory());
        for (step, number) in steps {
            let vm = berth_model::testing::vm_uid(u128::from(number));
            let request = berth_model::RequestId::from_parts(world.at, u128::from(number % 3));
            let body = match step {
                0 | 1 => {
                    let user_data = (step == 1).then(|| sealed(9));
                    create_vm(number, berth_model::vm::VmSpec { user_data, ..vm_spec(1, Bytes::mib(64)) })
                }
                2 => delete_vm(vm),
                3 => Body::RestartVm { vm, force: false, expect: Expect::default() },
                4 => Body::SetLiveness { host, liveness: if number % 2 == 0 { Liveness::Suspect } else { Liveness::Alive } },
                _ => Body::SetRun { vm, run: berth_model::vm::RunStrategy::Halted, expect: Expect::default() },
            };
            world.command(Some((request, [7; 32])), berth_model::testing::operator(), body);
        }
        let restored = decode_snapshot(&encode_snapshot(&world.cluster).unwrap()).unwrap();
        prop_assert!(restored == world.cluster);
        prop_assert_eq!(restored.digest(), world.cluster.digest());
    }
}
