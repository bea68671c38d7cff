use berth_model::session::{Absent, DesiredEntry};
use berth_model::{BootId, Incarnation, Stamp, Term};
use proptest::prelude::*;

use super::*;
use crate::journal::Run;
use crate::testing::{absent, always, at, halted, host, present, restarted, stamp, vm, welcome};

fn fresh() -> Ledger {
    Ledger::new(host())
}

#[test]
fn an_entry_older_than_the_one_held_is_refused_and_the_others_are_taken() {
    let mut ledger = fresh();
    ledger.accept_set(&[always(1, 5), always(2, 5)]);
    let accepted = ledger.accept_set(&[always(1, 4), always(2, 6)]);
    assert_eq!(accepted.changed, [vm(2)]);
    assert_eq!(accepted.refused, [EntryRefusal::Older { vm: vm(1), held: stamp(5), offered: stamp(4) }]);
    assert_eq!(ledger.entries()[&vm(1)].stamp(), stamp(5));
}

#[test]
fn the_incarnation_weighs_more_than_the_epoch() {
    let mut ledger = fresh();
    ledger.accept_set(&[always(1, 500)]);
    let restored = Stamp { incarnation: Incarnation(2), epoch: berth_model::Epoch(3) };
    let accepted = ledger.accept_delta(&[DesiredEntry::Present(Box::new(present(1, 3)), restored)], &[]);
    assert_eq!(accepted.changed, [vm(1)]);
    assert_eq!(ledger.accept_delta(&[always(1, 501)], &[]).refused.len(), 1);
}

#[test]
fn a_placement_that_ended_does_not_come_back() {
    let mut ledger = fresh();
    ledger.accept_set(&[always(1, 5)]);
    assert_eq!(ledger.accept_delta(&[absent(1, 5)], &[]).changed, [vm(1)], "the same placement may end");
    assert_eq!(ledger.accept_delta(&[always(1, 5)], &[]).refused.len(), 1);
    assert_eq!(ledger.accept_delta(&[always(1, 6)], &[]).changed, [vm(1)], "a new placement may begin");
    assert_eq!(ledger.accept_delta(&[absent(1, 5)], &[]).refused.len(), 1);
}

#[test]
fn a_vm_placed_on_another_host_is_not_taken() {
    let mut other = present(1, 5);
    other.assignment.host = "host2".parse().unwrap();
    let accepted = fresh().accept_set(&[DesiredEntry::Present(Box::new(other), stamp(5))]);
    assert!(matches!(accepted.refused[..], [EntryRefusal::OtherHost { .. }]));
}

#[test]
fn a_set_that_does_not_mention_a_vm_makes_its_entry_leave_and_nothing_else() {
    let mut ledger = fresh();
    ledger.accept_set(&[always(1, 5), absent(2, 5)]);
    let accepted = ledger.accept_set(&[]);
    assert_eq!(accepted.left, [vm(1), vm(2)]);
    assert!(ledger.entries().is_empty(), "no entry says Absent because of silence");
}

#[test]
fn another_cluster_and_the_past_are_refused_whole() {
    let mut ledger = fresh();
    ledger.greet(&welcome(7)).unwrap();
    ledger.greet(&welcome(7)).unwrap();
    assert!(matches!(ledger.greet(&welcome(6)), Err(Refusal::Past { .. })));
    let other = Welcome { cluster: "prod".parse().unwrap(), ..welcome(9) };
    assert!(matches!(ledger.greet(&other), Err(Refusal::OtherCluster { .. })));
    let restored = Welcome { incarnation: Incarnation(2), ..welcome(1) };
    ledger.greet(&restored).unwrap();
    assert_eq!(ledger.cluster().map(|(_, incarnation, term)| (incarnation, term)), Some((Incarnation(2), Term(1))));
    assert!(ledger.greet(&welcome(99)).is_err(), "a high term does not make up for a low incarnation");
}

#[test]
fn a_lower_term_is_obeyed_only_if_a_majority_knows_nothing_of_the_higher_one() {
    let overriding = |term, held| Welcome { overrides: Some(Term(held)), ..welcome(term) };
    let mut ledger = fresh();
    ledger.greet(&welcome(7)).unwrap();
    ledger.accept_set(&[always(1, 5)]);
    assert!(ledger.greet(&overriding(6, 5)).is_err(), "another term than the one held");
    ledger.greet(&overriding(3, 7)).unwrap();
    assert_eq!(ledger.cluster().map(|(_, _, term)| term), Some(Term(3)));
    assert_eq!(ledger.accept_set(&[always(1, 4)]).refused.len(), 1, "stamps still count");
    let earlier = Welcome { incarnation: Incarnation(0), ..overriding(3, 3) };
    assert!(ledger.greet(&earlier).is_err(), "an incarnation is never taken back");
}

#[test]
fn a_new_boot_forgets_pauses_and_what_ran() {
    let mut ledger = fresh();
    ledger.enter_boot(&BootId("a".into()), at(0));
    ledger.accept_set(&[always(1, 5), always(2, 5)]);
    ledger.set_journal(vm(1), Journal::default().started(0, at(1)));
    ledger.set_journal(vm(2), Journal::default().start_failed(at(1)));
    ledger.enter_boot(&BootId("a".into()), at(2));
    assert!(matches!(ledger.journal(vm(1)).run, Run::Running { .. }), "the daemon restarted, the machine did not");
    ledger.enter_boot(&BootId("b".into()), at(3));
    assert!(matches!(ledger.journal(vm(1)).run, Run::Stopped { .. }));
    assert_eq!(ledger.journal(vm(2)).next_try, None);
}

#[test]
fn a_new_word_about_a_vm_ends_its_pause() {
    let mut ledger = fresh();
    ledger.accept_set(&[always(1, 5)]);
    ledger.set_journal(vm(1), Journal::default().start_failed(at(1)));
    ledger.accept_set(&[always(1, 5)]);
    assert!(ledger.journal(vm(1)).next_try.is_some(), "the same word again is no new word");
    ledger.accept_delta(&[restarted(1, 5, 1)], &[]);
    assert_eq!(ledger.journal(vm(1)).next_try, None);
}

#[test]
fn user_data_is_in_no_record() {
    let mut ledger = fresh();
    ledger.accept_set(&[always(1, 5)]);
    for record in ledger.take_unsaved() {
        let bytes = crate::record::encode(record).unwrap();
        for secret in [&b"open secret"[..], b"sealed secret"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
}

fn words() -> impl Strategy<Value = (bool, Vec<DesiredEntry>, Vec<u8>)> {
    let entry = (0_u8..4, 1_u64..5, 0_u8..4).prop_map(|(number, epoch, kind)| match kind {
        0 => always(number, epoch),
        1 => halted(number, epoch),
        2 => restarted(number, epoch, 3),
        _ => absent(number, epoch),
    });
    (any::<bool>(), proptest::collection::vec(entry, 0..4), proptest::collection::vec(0_u8..4, 0..2))
}

proptest! {
    #[test]
    fn stamps_never_go_back_while_an_entry_is_held_and_replay_gives_the_same_ledger(
        said in proptest::collection::vec(words(), 1..12)
    ) {
        let mut ledger = fresh();
        let mut written = Vec::new();
        for (whole, entries, forgotten) in said {
            let before = ledger.entries().clone();
            let forgotten: Vec<_> = forgotten.into_iter().map(vm).collect();
            let accepted = if whole { ledger.accept_set(&entries) } else { ledger.accept_delta(&entries, &forgotten) };
            for (vm, held) in &before {
                match ledger.entries().get(vm) {
                    Some(entry) => prop_assert!(entry.stamp() >= held.stamp()),
                    None => prop_assert!(accepted.left.contains(vm)),
                }
                let ended = matches!(held, Entry::Absent(Absent { .. }));
                if let Some(Entry::Present(berth)) = ledger.entries().get(vm) {
                    prop_assert!(!ended || berth.stamp > held.stamp());
                }
            }
            written.extend(ledger.take_unsaved());
            let replayed = Ledger::replay(written.clone()).unwrap();
            prop_assert_eq!(replayed.snapshot(), ledger.snapshot());
            let compacted = Ledger::replay(ledger.snapshot()).unwrap();
            prop_assert_eq!(compacted.snapshot(), ledger.snapshot());
        }
    }
}
