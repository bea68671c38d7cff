//! The window of recent events, from which watches are served on every member.
//!
//! Each event carries the revision of its change, so a watch that breaks goes on where it was, through another member
//! if need be. One that asks for what is no longer kept is told so and lists again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use berth_model::host::Host;
use berth_model::vm::{Vm, VmStatus};
use berth_model::{Revision, Sealed};
use berth_state::{Change, Cluster, Object};
use tokio::sync::watch;

use crate::status;

/// What happened to a VM.
#[derive(Clone, PartialEq, Debug)]
pub enum VmEvent {
    /// It was created.
    Added(Arc<Vm>, Arc<VmStatus>),
    /// It, or what is derived of it, changed.
    Modified(Arc<Vm>, Arc<VmStatus>),
    /// It was removed; as it last was.
    Deleted(Arc<Vm>),
}

/// One event at its revision. Several may share one: a host's silence changes what is derived of all its VMs.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Of the change that caused it.
    pub revision: Revision,
    /// What happened.
    pub what: VmEvent,
}

/// The events that follow from changes, with statuses as the state stood after all of them.
pub fn events(view: &Cluster, changes: &[Change]) -> Vec<Event> {
    let mut events = Vec::new();
    for change in changes {
        let revision = change.revision;
        match &change.object {
            Object::Vm { before, after } => {
                let what = match (before, after) {
                    (None, Some(vm)) => VmEvent::Added(kept(vm), Arc::new(status::derive(view, vm))),
                    (Some(_), Some(vm)) => VmEvent::Modified(kept(vm), Arc::new(status::derive(view, vm))),
                    (Some(vm), None) => VmEvent::Deleted(kept(vm)),
                    (None, None) => continue,
                };
                events.push(Event { revision, what });
            }
            Object::Host { before: Some(before), after: Some(after) } if shows(before, after) => {
                // A VM that changes later among these changes has its own event there, perhaps its first.
                for vm in view.vms_on(after.uid()).filter(|vm| vm.meta.revision < revision) {
                    let status = Arc::new(status::derive(view, vm));
                    events.push(Event { revision, what: VmEvent::Modified(kept(vm), status) });
                }
            }
            Object::Host { .. } | Object::Image { .. } | Object::InstanceType { .. } | Object::Preference { .. } => {}
        }
    }
    events
}

/// A VM as watchers need it. They are told only that there is user data; its sealed bytes, up to a megabyte and a copy
/// of its own in each change, would make the window grow to gigabytes.
fn kept(vm: &Arc<Vm>) -> Arc<Vm> {
    let Some(sealed) = &vm.spec.user_data else { return Arc::clone(vm) };
    let emptied = Sealed { key_id: sealed.key_id.clone(), nonce: Vec::new(), ciphertext: Vec::new() };
    let mut slim = Vm::clone(vm);
    slim.spec.user_data = Some(emptied);
    Arc::new(slim)
}

/// Whether a host's change shows in the status of its VMs.
fn shows(before: &Host, after: &Host) -> bool {
    before.liveness != after.liveness
        || before.meta.name != after.meta.name
        || before.inventory.accelerator != after.inventory.accelerator
}

/// A watch asked for events that are no longer kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("events after revision {asked} are no longer kept; the oldest that can be asked for is {oldest}")]
pub struct Compacted {
    /// What was asked.
    pub asked: Revision,
    /// What can be asked.
    pub oldest: Revision,
}

#[derive(Debug)]
struct Kept {
    events: VecDeque<Event>,
    /// Events after this revision are all here.
    complete_after: Revision,
}

/// The window. Cheap to share.
#[derive(Clone, Debug)]
pub struct Window {
    kept: Arc<Mutex<Kept>>,
    newest: watch::Sender<Revision>,
}

impl Window {
    /// Events kept: some minutes of a busy cluster, about 20 MB.
    pub const KEPT: usize = 20_000;

    /// A window that begins at the revision of a restored or empty state.
    pub fn new(begin: Revision) -> Self {
        Self {
            kept: Arc::new(Mutex::new(Kept { events: VecDeque::new(), complete_after: begin })),
            newest: watch::Sender::new(begin),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was applied; `revision` is the state's after it.
    pub fn push(&self, revision: Revision, events: Vec<Event>) {
        {
            let mut kept = self.kept();
            kept.events.extend(events);
            while kept.events.len() > Self::KEPT {
                if let Some(gone) = kept.events.pop_front() {
                    kept.complete_after = gone.revision;
                }
            }
        }
        self.newest.send_replace(revision);
    }

    /// Begins anew after a snapshot was installed: what lay between is not known here.
    pub fn reset(&self, begin: Revision) {
        {
            let mut kept = self.kept();
            kept.events.clear();
            kept.complete_after = begin;
        }
        self.newest.send_replace(begin);
    }

    /// The events after `after`, in order, and the revision that they bring a watcher to.
    pub fn after(&self, after: Revision) -> Result<(Vec<Event>, Revision), Compacted> {
        let newest = *self.newest.borrow();
        let kept = self.kept();
        if after < kept.complete_after {
            return Err(Compacted { asked: after, oldest: kept.complete_after });
        }
        let first = kept.events.partition_point(|event| event.revision <= after);
        let events: Vec<_> = kept.events.range(first..).take_while(|event| event.revision <= newest).cloned().collect();
        Ok((events, newest.max(after)))
    }

    /// Told whenever the state moved.
    pub fn newest(&self) -> watch::Receiver<Revision> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests;
