use berth_model::host::Liveness;
use berth_model::testing::{Machine, name, operator, vm_spec};
use berth_model::vm::{RunStrategy, VmSpec};
use berth_model::{Bytes, Sealed};
use proptest::prelude::*;

use super::*;
use crate::command::{Body, Expect};
use crate::record::{decode_snapshot, encode_snapshot};
use crate::testing::{World, create_vm, delete_vm};

fn asked<'a>(project: &'a Name, called: &'a Name) -> Asked<'a> {
    Asked { kind: ObjectKind::Vm, project, name: called }
}

fn vm_at(world: &World, called: &str, revision: Revision) -> Option<Vm> {
    let (project, called) = (Name::default_project(), name(called));
    let then = at(&world.cluster, &asked(&project, &called), revision).unwrap()?;
    match then.object {
        Stored::Vm(vm) => Some(*vm),
        other => panic!("{other:?} is no VM"),
    }
}

#[test]
fn an_object_is_shown_as_it_was_at_each_revision_with_who_made_it_so() {
    let mut world = World::new();
    let before = world.cluster.revision;
    let spec = vm_spec(1, Bytes::mib(64));
    let id = RequestId::from_parts(world.at, 5);
    let created = world.command(Some((id, [1; 32])), operator(), create_vm(1, spec.clone())).revision;
    let vm = berth_model::testing::vm_uid(1);
    let first = world.vm_now(vm).clone();
    let halted = world.done(Body::SetRun { vm, run: RunStrategy::Halted, expect: Expect::default() });
    let second = world.vm_now(vm).clone();
    let deleted = world.done(delete_vm(vm));
    // The name is given again, to another VM.
    world.done(create_image_like_noise());
    let again = world.done(Body::CreateVm {
        uid: berth_model::testing::vm_uid(2),
        project: Name::default_project(),
        name: name("vm-1"),
        labels: std::collections::BTreeMap::new(),
        annotations: std::collections::BTreeMap::new(),
        spec: Box::new(spec),
    });
    assert_eq!(vm_at(&world, "vm-1", before), None);
    assert_eq!(vm_at(&world, "vm-1", created), Some(first));
    assert_eq!(vm_at(&world, "vm-1", halted), Some(second));
    assert_eq!(vm_at(&world, "vm-1", deleted), None);
    assert_eq!(vm_at(&world, "vm-1", again).map(|vm| vm.uid()), Some(berth_model::testing::vm_uid(2)));

    let (project, called) = (Name::default_project(), name("vm-1"));
    let then = at(&world.cluster, &asked(&project, &called), created).unwrap().unwrap();
    let by = then.by.unwrap();
    assert_eq!((by.revision, by.actor, by.request, &*by.command), (created, operator(), Some(id), "CreateVm"));
    assert_eq!(then.ended.map(|record| record.revision), Some(halted));

    let (changes, more) =
        list(&world.cluster, &Question { object: Some(asked(&project, &called)), ..Question::default() }, 3).unwrap();
    let told: Vec<_> = changes.iter().map(|record| (record.revision, &*record.command, record.exists)).collect();
    assert_eq!(told, [(again, "CreateVm", true), (deleted, "DeleteVm", false), (halted, "SetRun", true)]);
    assert!(more, "the creation is older");
    let (all, more) = list(&world.cluster, &Question { after: Some(halted), ..Question::default() }, 10).unwrap();
    assert_eq!((all.len(), more), (3, false));
    let (nobody, _) = list(&world.cluster, &Question { actor: Some("nobody"), ..Question::default() }, 10).unwrap();
    assert!(nobody.is_empty());
}

fn create_image_like_noise() -> Body {
    crate::testing::create_image("other", 3)
}

#[test]
fn a_secret_is_not_in_the_history() {
    let mut world = World::new();
    let user_data = Some(Sealed { key_id: "k1".into(), nonce: vec![0xAB; 12], ciphertext: vec![0xCD; 64] });
    let vm = world.vm(1, VmSpec { user_data, ..vm_spec(1, Bytes::mib(64)) });
    let created = world.cluster.revision;
    world.done(delete_vm(vm));
    let shown = vm_at(&world, "vm-1", created).unwrap().spec.user_data.unwrap();
    assert_eq!((&*shown.key_id, shown.nonce.len(), shown.ciphertext.len()), ("k1", 0, 0));
    let kept: Vec<u8> = world.cluster.history.open.iter().flat_map(|(_, encoded)| encoded.to_vec()).collect();
    assert!(!kept.windows(4).any(|bytes| bytes == [0xCD; 4] || bytes == [0xAB; 4]));
}

#[test]
fn what_is_too_old_is_said_to_be_compacted_and_what_is_to_come_is_said_to_be_so() {
    let mut world = World::new();
    world.cluster.history = History::after(world.cluster.revision);
    let oldest = world.cluster.revision;
    world.vm(1, vm_spec(1, Bytes::mib(64)));
    let (project, called) = (Name::default_project(), name("vm-1"));
    let ask = |revision| at(&world.cluster, &asked(&project, &called), Revision(revision));
    assert!(matches!(ask(oldest.0 - 1), Err(NotAt::Compacted { oldest: told, .. }) if told == oldest));
    assert!(matches!(ask(oldest.0), Ok(None)));
    assert!(matches!(ask(oldest.0 + 5), Err(NotAt::Future { .. })));
    let question = Question { after: Some(Revision(0)), ..Question::default() };
    assert!(matches!(list(&world.cluster, &question, 10), Err(NotAt::Compacted { .. })));
}

/// A history of `count` changes of one object, each of about `bytes` bytes.
fn grown(count: u64, bytes: usize) -> History {
    let mut history = History::default();
    for number in 1..=count {
        history.push(&noise(number, bytes));
    }
    history
}

fn noise(number: u64, bytes: usize) -> Record {
    Record {
        revision: Revision(number),
        at: berth_model::testing::NOW,
        actor: operator(),
        request: None,
        command: "SetRun".into(),
        kind: ObjectKind::Vm,
        project: Name::default_project(),
        name: name("vm-1"),
        uid: berth_model::testing::vm_uid(1).0,
        exists: true,
        undo: Some(Undo { revision: Revision(number - 1), layout: 1, front: 9, back: 9, middle: vec![7; bytes] }),
    }
}

#[test]
fn at_least_a_hundred_thousand_revisions_are_kept_and_hardly_more() {
    let history = grown(103_000, 60);
    assert!(history.len() >= History::RECORDS && history.len() < History::RECORDS + 600, "{}", history.len());
    assert_eq!(history.oldest(), Revision(103_000 - history.len()));
    assert!(history.bytes() < History::BYTES && history.packed_bytes() < history.bytes() / 4);
}

#[test]
fn the_bytes_win_over_the_count_and_are_counted_uncompressed() {
    let mut history = grown(2000, 1000);
    history.evict(100_000, 500_000);
    assert!(history.bytes() <= 500_000 && history.len() < 600, "{} in {}", history.len(), history.bytes());
    assert_eq!(history.oldest(), Revision(2000 - history.len()));
    let mut seen = 0;
    history
        .walk(Revision(0), |record| {
            seen += 1;
            record.revision > history.oldest()
        })
        .unwrap();
    assert_eq!(seen, history.len(), "what it says it has, it has");
}

#[test]
fn a_clone_and_a_snapshot_share_the_sealed_blocks_and_later_changes_do_not_reach_them() {
    let mut history = grown(1000, 20);
    let copy = history.clone();
    history.push(&noise(1001, 20));
    assert_eq!((copy.len(), history.len()), (1000, 1001));
    assert!(copy.blocks.iter().zip(&history.blocks).all(|(a, b)| Arc::ptr_eq(a, b)));
}

#[test]
fn a_record_that_does_not_fit_its_object_is_an_error_and_not_another_object() {
    let mut world = World::new();
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    let created = world.cluster.revision;
    world.done(Body::RestartVm { vm, force: false, expect: Expect::default() });
    let mut spoiled = noise(world.cluster.revision.0 + 1, 3);
    spoiled.undo = Some(Undo { front: 40_000, ..spoiled.undo.unwrap() });
    world.cluster.history.push(&spoiled);
    world.cluster.revision = spoiled.revision;
    let (project, called) = (Name::default_project(), name("vm-1"));
    let found = at(&world.cluster, &asked(&project, &called), created);
    assert!(matches!(found, Err(NotAt::Record(_))), "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_way_back_leads_back(old in prop::collection::vec(0_u8..3, 0..40), new in prop::collection::vec(0_u8..3, 0..40)) {
        let undo = way_back(Revision(1), &old, &new);
        prop_assert_eq!(undo.applied_to(&new), Some(old));
    }

    #[test]
    fn every_past_state_of_every_vm_is_found_again_also_in_a_snapshot_and_across_blocks(
        steps in prop::collection::vec((0_u32..5, 1_u32..4), 1..60),
        seal_at in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut world = World::new();
        let host = world.host(1, Machine::cores(4).inventory());
        let mut past = Vec::new();
        for ((step, number), seal) in steps.into_iter().zip(seal_at) {
            let vm = berth_model::testing::vm_uid(u128::from(number));
            let run = |run| Body::SetRun { vm, run, expect: Expect::default() };
            let _ = world.run(match step {
                0 => create_vm(number, vm_spec(number, Bytes::mib(64 * u64::from(number)))),
                1 => delete_vm(vm),
                2 => run(RunStrategy::Halted),
                3 => run(RunStrategy::Always),
                _ => Body::SetLiveness { host, liveness: if number == 1 { Liveness::Lost } else { Liveness::Alive } },
            });
            if seal {
                world.cluster.history.seal();
            }
            let vms: Vec<_> = (1..4).map(|number| world.cluster.vms.get(&berth_model::testing::vm_uid(number)).cloned()).collect();
            let host = world.cluster.hosts[&host].clone();
            past.push((world.cluster.revision, vms, host));
        }
        world.cluster = decode_snapshot(&encode_snapshot(&world.cluster).unwrap()).unwrap();
        for (revision, vms, host) in past {
            for (number, vm) in (1..4).zip(vms) {
                prop_assert_eq!(vm_at(&world, &format!("vm-{number}"), revision), vm.map(|vm| Vm::clone(&vm)));
            }
            let asked = Asked { kind: ObjectKind::Host, project: &Name::default_project(), name: &name("h1") };
            let then = at(&world.cluster, &asked, revision).unwrap().unwrap();
            prop_assert_eq!(then.object, Stored::Host(Box::new(Host::clone(&host))));
        }
    }
}
