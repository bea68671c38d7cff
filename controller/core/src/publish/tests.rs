//! Readers see what was applied, watchers miss nothing, and only the hosts concerned are rung for.

use std::time::Duration;

use berth_model::host::Liveness;
use berth_model::testing::{Machine, host_uid, vm_spec};
use berth_model::{Bytes, VmUid};
use berth_state::Cluster;
use berth_state::testing::{World, delete_vm};
use tokio::sync::Notify;

use super::{Publisher, Views};
use crate::window::VmEvent;

/// A world, and what was published of it.
struct Published {
    world: World,
    publisher: Publisher,
    views: Views,
    told: usize,
}

impl Published {
    fn new() -> Self {
        let (publisher, views) = Publisher::new();
        let mut begun = Self { world: World::new(), publisher, views, told: 0 };
        for number in [1, 2] {
            begun.world.host(number, Machine::cores(4).inventory());
        }
        begun.publish();
        begun
    }

    fn publish(&mut self) {
        self.publisher.applied(&self.world.cluster, &self.world.changes[self.told..]);
        self.told = self.world.changes.len();
    }

    fn vm(&mut self, number: u32) -> VmUid {
        self.world.vm(number, vm_spec(1, Bytes::mib(64)))
    }
}

async fn rings(bell: &Notify) -> bool {
    tokio::time::timeout(Duration::from_millis(1), bell.notified()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_bell_rings_for_the_host_whose_set_may_have_changed_and_for_no_other() {
    let mut published = Published::new();
    let (one, other) = (published.views.bells.of(host_uid(1)), published.views.bells.of(host_uid(2)));
    let vm = published.vm(1);
    published.publish();
    assert!(!rings(&one).await && !rings(&other).await, "it has no host yet");
    published.world.assign(vm, host_uid(1), [0], 0);
    published.publish();
    assert!(rings(&one).await && !rings(&other).await);
    published.world.done(delete_vm(vm));
    published.publish();
    assert!(rings(&one).await && !rings(&other).await);
    published.publisher.replaced(&published.world.cluster);
    assert!(rings(&one).await && rings(&other).await, "after a snapshot nobody knows what changed");
}

#[tokio::test(start_paused = true)]
async fn a_change_between_two_looks_of_a_session_rings_once_and_is_not_lost() {
    let mut published = Published::new();
    let bell = published.views.bells.of(host_uid(1));
    for number in [1, 2] {
        let vm = published.vm(number);
        published.world.assign(vm, host_uid(1), [number], 0);
        published.publish();
    }
    assert!(rings(&bell).await);
    assert!(!rings(&bell).await);
}

#[test]
fn whoever_lists_and_then_follows_knows_what_is_there_whenever_it_listed() {
    let mut published = Published::new();
    let mut lists = Vec::new();
    for number in 1..8 {
        let vm = published.vm(number);
        if number % 2 == 0 {
            published.world.assign(vm, host_uid(1), [number / 2], 0);
        }
        if number % 3 == 0 {
            published.world.done(delete_vm(vm));
        }
        // Several changes at once, as they come from the log; the list is taken at every publication.
        if number % 2 == 1 {
            published.publish();
            lists.push(published.views.cluster.borrow().clone());
        }
    }
    published.world.liveness(host_uid(1), Liveness::Lost);
    published.publish();
    let end = published.views.cluster.borrow().clone();
    for list in lists {
        let mut known = list.vms.clone();
        let (events, now) = published.views.window.after(list.revision).unwrap();
        for event in events {
            assert!(event.revision > list.revision);
            match event.what {
                VmEvent::Added(vm, _) => assert!(known.insert(vm.uid(), vm).is_none(), "added once"),
                VmEvent::Modified(vm, _) => assert!(known.insert(vm.uid(), vm).is_some(), "added before"),
                VmEvent::Deleted(vm) => assert!(known.remove(&vm.uid()).is_some(), "added before"),
            }
        }
        assert!(known == end.vms && now == end.revision);
    }
}

#[test]
fn a_machine_that_is_opened_again_shows_nothing_twice_and_nothing_older() {
    let mut published = Published::new();
    let first = published.vm(1);
    published.publish();
    let (before, changes) = (published.world.cluster.clone(), published.world.changes.clone());
    published.world.done(delete_vm(first));
    published.publish();
    let shown = published.views.cluster.borrow().clone();

    // It begins anew and goes over what it did before, in other pieces.
    let again = published.publisher.clone();
    again.replaced(&Cluster::default());
    again.applied(&before, &changes);
    assert!(*published.views.cluster.borrow() == shown, "readers never see an older state");
    published.vm(2);
    again.applied(&published.world.cluster, &published.world.changes);
    assert!(*published.views.cluster.borrow() != shown);
    let (events, now) = published.views.window.after(before.revision).unwrap();
    let revisions: Vec<_> = events.iter().map(|event| event.revision).collect();
    assert!(revisions.is_sorted_by(|one, next| one < next), "each event once and in order: {revisions:?}");
    assert_eq!((revisions.len(), now), (2, published.world.cluster.revision));
}
