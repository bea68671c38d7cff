//! Questions about room: why a VM is where it is, how many more fit, what the loss of a host would mean.
//!
//! Answers come from the planner and from one view; nothing is kept between two questions, and nothing is written. On a
//! large cluster they take from some tens of milliseconds to seconds, so callers ask on a thread of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::host::{Host, Liveness, ThreadId};
use berth_model::image::{ImageOnHost, ImageRef, Sha256Digest};
use berth_model::vm::Vm;
use berth_model::{Bytes, Meta, Name, Uid, VmUid};
use berth_planner::Index;
use berth_state::Cluster;

pub use berth_planner::{Candidate, Capacity, Change, Explanation, HostRoom, Loss, NodeRoom, Refusal, ThreadUse};

use crate::admit::{self, CreateVm};
use crate::error::Error;

/// What each host says to a VM: one that waits, one that is not created yet, or one that is placed, as if it were not.
pub fn explain(view: &Cluster, vm: &Vm) -> Explanation {
    berth_planner::explain(view, &mut Index::new(view), vm)
}

/// The most VMs that are counted.
const MOST: u64 = 100_000;

/// How many more VMs fit that are such as the request says. Its name does not matter, and neither does its image, if none is
/// named: every host then counts as having it. With the count: if it is none, what each host says.
pub fn capacity(view: &Arc<Cluster>, request: &CreateVm) -> Result<(Capacity, Option<Explanation>), Error> {
    let (project, spec) = admit::wanted(view, request)?;
    let view =
        if request.image.is_empty() { Arc::new(with_image_everywhere(view, &spec.image)) } else { Arc::clone(view) };
    let name = Name::default_project();
    let meta =
        Meta { labels: request.labels.clone(), ..Meta::new(project, name, Uid::from_bits(u128::MAX), view.last_at) };
    let vm = Vm::new(meta, spec);
    let mut index = Index::new(&view);
    let found = berth_planner::capacity(&view, &mut index, &vm, MOST);
    let why = (found.total == 0).then(|| berth_planner::explain(&view, &mut index, &vm));
    Ok((found, why))
}

/// An image that no host has: for questions in which the image does not matter.
pub(crate) fn no_image() -> ImageRef {
    ImageRef { name: Name::default_project(), sha256: Sha256Digest([0; 32]), virtual_size: Bytes::gib(1) }
}

fn with_image_everywhere(view: &Cluster, image: &ImageRef) -> Cluster {
    let mut view = view.clone();
    let hosts: Vec<Host> = view.hosts.values().map(|host| Host::clone(host)).collect();
    for mut host in hosts {
        host.images.insert(image.sha256, ImageOnHost::Verified { virtual_size: image.virtual_size });
        view.hosts.insert(host.uid(), Arc::new(host));
    }
    view
}

/// What one host has free, booked and kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Room {
    /// As the planner sees it.
    pub room: HostRoom,
    /// Why it takes no new VMs, if it takes none.
    pub closed: Option<String>,
    /// What each thread that belongs to a VM is for, and the VM's `project/name`.
    pub threads: BTreeMap<ThreadId, (ThreadPart, String)>,
}

/// What a VM has a thread for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThreadPart {
    /// One of its virtual CPUs.
    Vcpu,
    /// QEMU's own threads or its IOThreads.
    Dedicated,
    /// Nothing: its siblings are the VM's.
    Idle,
    /// Not known: an orphan has it, or a placement that was ended without the host's word.
    Held,
}

/// The room on these hosts, in the order that they are given.
pub fn hosts<'a>(view: &Cluster, hosts: impl IntoIterator<Item = &'a Arc<Host>>) -> Vec<Room> {
    let mut index = Index::new(view);
    hosts
        .into_iter()
        .filter_map(|host| {
            let room = berth_planner::host_room(view, &mut index, host.uid())?;
            Some(Room { closed: closed(host, &room), threads: parts(view, &room), room })
        })
        .collect()
}

fn closed(host: &Host, room: &HostRoom) -> Option<String> {
    if host.liveness != Liveness::Alive {
        Some(format!("it is {}: not heard of", host.liveness))
    } else if host.spec.cordoned {
        Some("it is cordoned".into())
    } else {
        room.overbooked.as_ref().map(|why| format!("it is overbooked: {why}"))
    }
}

fn parts(view: &Cluster, room: &HostRoom) -> BTreeMap<ThreadId, (ThreadPart, String)> {
    let mut parts = BTreeMap::new();
    for (thread, used) in room.nodes.iter().flat_map(|node| &node.threads) {
        if let ThreadUse::Exclusive(vm) = used {
            parts.insert(thread.id, part(view, *vm, thread.id, &room.host));
        }
    }
    parts
}

fn part(view: &Cluster, vm: VmUid, thread: ThreadId, host: &Name) -> (ThreadPart, String) {
    let Some(vm) = view.vms.get(&vm) else { return (ThreadPart::Held, String::new()) };
    let called = format!("{}/{}", vm.meta.project, vm.meta.name);
    let here = view.host_by_name(host).map(|host| host.uid());
    let part = match vm.assignment.as_ref().filter(|held| Some(held.host) == here) {
        Some(held) if held.resources.vcpus.contains(&thread) => ThreadPart::Vcpu,
        Some(held) if held.resources.dedicated.contains(thread) => ThreadPart::Dedicated,
        Some(held) if held.resources.idle.contains(thread) => ThreadPart::Idle,
        Some(_) | None => ThreadPart::Held,
    };
    (part, called)
}

/// What the loss of each host would mean, in the order of names.
pub fn losses(view: &Cluster) -> Vec<Loss> {
    berth_planner::losses(view, &mut Index::new(view))
}

/// The field of a spec that a change is about, as the wire calls it.
pub const fn field(change: &Change) -> &'static str {
    match change {
        Change::Memory { .. } => "memory_bytes",
        Change::Cpus { .. } => "cpus",
        Change::AnyHost => "rules.hosts",
        Change::AnyGroup => "rules.host_group",
        Change::WithoutAffinity(_) => "rules.affinity",
        Change::SoftSpread(_) => "rules.spread",
        Change::Tolerate(_) => "rules.tolerations",
        Change::Devices { .. } => "devices",
        Change::Smt { .. } => "tuning.smt",
        Change::AnyNodes => "tuning.numa",
        Change::SharedEmulator => "tuning.dedicated_emulator",
        Change::Iothreads { .. } => "tuning.dedicated_iothreads",
        Change::Pages { .. } => "tuning.pages",
    }
}

/// What refuses, in one UpperCamelCase word.
pub fn rule(refusal: &Refusal) -> String {
    let shown = format!("{refusal:?}");
    shown.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
