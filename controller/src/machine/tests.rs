//! Entries in, answers and word to the readers out.

use berth_control::{Publisher, Views};
use berth_model::testing::{NOW, cluster_id, operator};
use berth_raft::{Entry, StateMachine};
use berth_state::testing::create_image;
use berth_state::{Batch, Body, Command, Rejection, record};
use bytes::Bytes;

use super::Machine;

fn machine() -> (Machine, Views) {
    let (publisher, views) = Publisher::new();
    (Machine::new(publisher, crate::guard::Halt::new()), views)
}

fn entry(index: u64, body: Body) -> Entry {
    let commands = vec![Command { request: None, actor: operator(), body }];
    let payload = record::encode_batch(&Batch { at: NOW, commands }).unwrap();
    Entry { index, term: 1, payload: Bytes::from(payload) }
}

fn bootstrap() -> Body {
    Body::Bootstrap { cluster: cluster_id(), version: 1 }
}

#[test]
fn entries_are_answered_in_order_and_shown_to_readers() {
    let (mut machine, views) = machine();
    let answers =
        machine.apply(&[entry(1, bootstrap()), entry(2, create_image("a", 1)), entry(4, create_image("a", 1))]);
    let answers: Vec<_> =
        answers.iter().map(|answer| record::decode_answers(answer).unwrap().remove(0).result).collect();
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert_eq!(answers[2], Err(Rejection::NameTaken { kind: "image".into(), name: "a".into() }));
    let shown = views.cluster.borrow().clone();
    assert!(shown.images.contains_key("a"));
    assert_eq!(*views.window.newest().borrow(), shown.revision);
}

#[test]
fn a_restored_member_is_equal_and_its_watchers_are_told_to_list_again() {
    let (mut first, views) = machine();
    first.apply(&[entry(1, bootstrap()), entry(2, create_image("a", 1))]);
    let mut bytes = Vec::new();
    Machine::write(&first.snapshot(), &mut bytes).unwrap();
    let (mut second, restored) = machine();
    second.restore(&mut bytes.as_slice()).unwrap();
    assert!(*views.cluster.borrow() == *restored.cluster.borrow());
    let revision = restored.cluster.borrow().revision;
    assert!(restored.window.after(berth_model::Revision(revision.0 - 1)).is_err());
    assert!(restored.window.after(revision).is_ok());
    assert!(second.restore(&mut b"not a snapshot".as_slice()).is_err());
}

#[test]
#[should_panic(expected = "entry 7 cannot be read")]
fn an_entry_that_cannot_be_read_halts_the_member_and_is_not_skipped() {
    let (mut machine, _views) = machine();
    machine.apply(&[Entry { index: 7, term: 1, payload: Bytes::from_static(b"from the future") }]);
}
