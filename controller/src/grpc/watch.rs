//! Watches over VMs: the list as it is, then what happens, each event at its revision.

use std::pin::Pin;
use std::time::Duration;

use berth_control::selector::Selector;
use berth_control::window::{Compacted, Event, VmEvent};
use berth_control::{Consistency, admit, status as derived};
use berth_model::vm::Vm;
use berth_model::{Name, Revision};
use berth_proto::convert::vm_to_wire;
use berth_proto::status::to_status;
use berth_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Shared, caller, error, vm};

/// What a watch sends.
pub(super) type VmStream = Pin<Box<dyn Stream<Item = Result<v1::WatchVmsEvent, Status>> + Send>>;

/// Events that wait for a slow client before the watch waits with it; a client that falls out of the window is told.
const WAITING: usize = 64;
/// How often a quiet watch says up to where it has seen everything.
const BOOKMARK_EVERY: Duration = Duration::from_secs(15);

const LIST_AGAIN: &str = "list again and watch from the list's revision";

struct Filter {
    project: Option<Name>,
    name: String,
    selector: Selector,
}

impl Filter {
    fn admits(&self, vm: &Vm) -> bool {
        self.project.as_ref().is_none_or(|project| *project == vm.meta.project)
            && (self.name.is_empty() || vm.meta.name.as_str() == self.name)
            && self.selector.matches(&vm.meta.labels)
    }
}

pub(super) async fn vms(shared: &Shared, request: v1::WatchVmsRequest) -> Result<VmStream, Status> {
    let project = match request.project.as_str() {
        "" => None,
        project => Some(admit::project(project).map_err(error::status)?),
    };
    let selector = Selector::parse(&request.label_selector).map_err(error::status)?;
    let filter = Filter { project, name: request.name, selector };
    let freshness = caller::consistency(request.consistency);
    let view = shared.control.view(freshness).await.map_err(error::status)?;
    let mut first = Vec::new();
    let start = match request.from_revision.map(Revision) {
        Some(from) => {
            // Nobody was ever told of a revision that is still to come: the state was put back meanwhile. A stale view
            // may only be behind.
            if from > view.revision && freshness == Consistency::Linearizable {
                let message = format!("revision {from} is not reached yet, the state is at {}", view.revision);
                return Err(to_status(Code::OutOfRange, "BE-5005", message, Some(LIST_AGAIN)));
            }
            shared.control.window().after(from).map_err(compacted)?;
            from
        }
        None => {
            for held in view.vms_by_name(filter.project.as_ref(), None).filter(|vm| filter.admits(vm)) {
                let event = v1::watch_vms_event::Event::Added(vm::wire(&view, held));
                // Until the bookmark not everything up to any revision has been sent.
                first.push(v1::WatchVmsEvent { revision: 0, event: Some(event) });
            }
            first.push(bookmark(view.revision, true));
            view.revision
        }
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(follow(shared.clone(), filter, first, start, sender));
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

async fn follow(
    shared: Shared,
    filter: Filter,
    first: Vec<v1::WatchVmsEvent>,
    mut seen: Revision,
    sender: mpsc::Sender<Result<v1::WatchVmsEvent, Status>>,
) {
    for event in first {
        if sender.send(Ok(event)).await.is_err() {
            return;
        }
    }
    let window = shared.control.window().clone();
    let mut newest = window.newest();
    let mut trouble = shared.trouble.clone();
    loop {
        let why = trouble.borrow_and_update().clone();
        if let Some(why) = why {
            let message = format!("this controller takes no part at present: {why}");
            let hint = Some("watch through another from the last revision");
            let _ = sender.send(Err(to_status(Code::Unavailable, "BE-5003", message, hint))).await;
            return;
        }
        match window.after(seen) {
            Ok((events, now)) => {
                for event in to_wire(events, &filter) {
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                seen = now;
            }
            Err(gone) => {
                let _ = sender.send(Err(compacted(gone))).await;
                return;
            }
        }
        tokio::select! {
            () = shared.shutdown.cancelled() => {
                let message = "this controller is going down; watch through another from the last revision";
                let _ = sender.send(Err(to_status(Code::Unavailable, "BE-5001", message, None))).await;
                return;
            }
            () = sender.closed() => return,
            changed = newest.changed() => if changed.is_err() { return },
            // What it is, is seen above.
            Ok(()) = trouble.changed() => {}
            () = tokio::time::sleep(BOOKMARK_EVERY) => {
                if sender.send(Ok(bookmark(seen, false))).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn subject(event: &Event) -> &Vm {
    match &event.what {
        VmEvent::Added(vm, _) | VmEvent::Modified(vm, _) | VmEvent::Deleted(vm) => vm,
    }
}

/// What a watcher is sent of these events.
///
/// Several events may share a revision. A watcher that was cut off between two of them goes on from the revision it was
/// last told, so only the last of them tells theirs; the others tell the one before, and may be sent again.
fn to_wire(events: Vec<Event>, filter: &Filter) -> Vec<v1::WatchVmsEvent> {
    let admitted: Vec<Event> = events.into_iter().filter(|event| filter.admits(subject(event))).collect();
    let revisions: Vec<Revision> = admitted.iter().map(|event| event.revision).collect();
    let complete = |at: usize| match revisions.get(at + 1) {
        Some(next) if *next == revisions[at] => revisions[at].0.saturating_sub(1),
        Some(_) | None => revisions[at].0,
    };
    let wired = |(at, event): (usize, Event)| v1::WatchVmsEvent { revision: complete(at), event: Some(wire(event)) };
    admitted.into_iter().enumerate().map(wired).collect()
}

fn wire(event: Event) -> v1::watch_vms_event::Event {
    use v1::watch_vms_event::Event as Wire;
    match event.what {
        VmEvent::Added(vm, status) => Wire::Added(vm_to_wire(&vm, &status)),
        VmEvent::Modified(vm, status) => Wire::Modified(vm_to_wire(&vm, &status)),
        VmEvent::Deleted(vm) => {
            // As it last was; its host and the rest of the state do not matter any more.
            Wire::Deleted(vm_to_wire(&vm, &derived::derive(&berth_state::Cluster::default(), &vm)))
        }
    }
}

fn bookmark(revision: Revision, initial_list_done: bool) -> v1::WatchVmsEvent {
    let event = v1::watch_vms_event::Event::Bookmark(v1::Bookmark { initial_list_done });
    v1::WatchVmsEvent { revision: revision.0, event: Some(event) }
}

fn compacted(gone: Compacted) -> Status {
    to_status(Code::OutOfRange, "BE-5005", gone.to_string(), Some(LIST_AGAIN))
}

#[cfg(test)]
mod tests;
