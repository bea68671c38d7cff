//! What a watcher is told of how far it has come.

use berth_control::selector::Selector;
use berth_control::window::{Event, VmEvent};
use berth_model::testing::{name, vm, vm_spec};
use berth_model::{Bytes, Revision};

use super::{Filter, to_wire};

fn event(revision: u64, number: u64) -> Event {
    let gone = vm(number, vm_spec(1, Bytes::mib(64)));
    Event { revision: Revision(revision), what: VmEvent::Deleted(gone.into()) }
}

fn told(events: &[(u64, u64)], filter: &Filter) -> Vec<u64> {
    let events = events.iter().map(|(revision, number)| event(*revision, *number)).collect();
    to_wire(events, filter).iter().map(|event| event.revision).collect()
}

fn everything() -> Filter {
    Filter { project: None, name: String::new(), selector: Selector::parse("").unwrap() }
}

#[test]
fn a_revision_is_told_only_with_the_last_of_its_events_so_that_nobody_goes_on_in_the_middle() {
    let events = [(5, 1), (7, 1), (7, 2), (7, 3), (9, 1)];
    assert_eq!(told(&events, &everything()), [5, 6, 6, 7, 9]);
}

#[test]
fn events_of_others_do_not_count() {
    let only = Filter { project: Some(name("default")), name: "vm-2".into(), ..everything() };
    assert_eq!(told(&[(7, 1), (7, 2), (7, 3), (8, 2)], &only), [7, 8]);
    let elsewhere = Filter { project: Some(name("other")), ..everything() };
    assert_eq!(told(&[(7, 1)], &elsewhere), Vec::<u64>::new());
}
