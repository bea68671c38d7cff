//! What one host shall hold, out of the replicated state.

use std::collections::BTreeMap;

use berth_model::host::Eviction;
use berth_model::session::{Absent, DesiredEntry, Present};
use berth_model::vm::Vm;
use berth_model::{HostUid, Incarnation, Stamp, VmUid};
use berth_state::{Change, Cluster, Object};

use crate::ports::Seal;

/// The whole desired set of a host. Names every VM that the cluster places on it or removes from it.
///
/// A secret that cannot be opened leaves its VM out of the set: it keeps running if it does, and is not started
/// without what it was to start with. The second value names such VMs and why.
pub fn desired(
    view: &Cluster,
    host: HostUid,
    seal: &dyn Seal,
) -> (BTreeMap<VmUid, DesiredEntry>, Vec<(VmUid, String)>) {
    let incarnation = view.info.map(|info| info.incarnation).unwrap_or_default();
    let mut entries = BTreeMap::new();
    let mut unopened = Vec::new();
    // Placements that an operator's word ended while the host was silent. No VM has its berth on a host that may still
    // hold it by such a placement.
    for Eviction { vm, stamp, resources: _, with_disk } in
        view.hosts.get(&host).into_iter().flat_map(|host| &host.evictions)
    {
        entries.insert(*vm, DesiredEntry::Absent(Absent { vm: *vm, stamp: *stamp, with_disk: *with_disk }));
    }
    for vm in view.vms_on(host) {
        match entry(vm, incarnation, seal) {
            Ok(entry) => {
                entries.insert(vm.uid(), entry);
            }
            Err(why) => unopened.push((vm.uid(), why)),
        }
    }
    (entries, unopened)
}

/// The hosts whose desired set may be another one after this change: those that are told of the VM otherwise than before.
pub fn concerned(change: &Change) -> impl Iterator<Item = HostUid> {
    let hosts = match &change.object {
        Object::Vm { before, after } => match (before.as_deref(), after.as_deref()) {
            (Some(before), Some(after)) if told(before) == told(after) => [None, None],
            (before, after) => {
                let (left, entered) = (before.and_then(host_of), after.and_then(host_of));
                [left, entered.filter(|_| entered != left)]
            }
        },
        // Placements of it that were ended without its word are told as absent until it says that they are; and whether it
        // may start anything depends on whether it is heard of.
        Object::Host { before, after: Some(after) }
            if before
                .as_deref()
                .is_none_or(|before| before.evictions != after.evictions || before.liveness != after.liveness) =>
        {
            [Some(after.uid()), None]
        }
        Object::Host { .. } | Object::Image { .. } | Object::InstanceType { .. } | Object::Preference { .. } => {
            [None, None]
        }
    };
    hosts.into_iter().flatten()
}

/// What of a VM goes into its host's set. What its host reported of it does not, and that is what changes most.
fn told(vm: &Vm) -> impl PartialEq {
    let Vm { meta, spec, restart_count, assignment, unplaced: _, observed: _ } = vm;
    (&meta.project, &meta.name, meta.is_deleting(), spec, *restart_count, assignment)
}

fn host_of(vm: &Vm) -> Option<HostUid> {
    vm.assignment.as_ref().map(|held| held.host)
}

fn entry(vm: &Vm, incarnation: Incarnation, seal: &dyn Seal) -> Result<DesiredEntry, String> {
    let assignment = vm.assignment.clone().expect("a VM in a host's bookings has an assignment");
    let stamp = Stamp { incarnation, epoch: assignment.epoch };
    if vm.meta.is_deleting() {
        return Ok(DesiredEntry::Absent(Absent { vm: vm.uid(), stamp, with_disk: true }));
    }
    let user_data = match &vm.spec.user_data {
        None => None,
        Some(sealed) => Some(seal.open(sealed, vm.meta.uid.as_str().as_bytes())?),
    };
    let mut spec = vm.spec.clone();
    spec.user_data = None;
    let present = Present {
        vm: vm.uid(),
        project: vm.meta.project.clone(),
        name: vm.meta.name.clone(),
        spec,
        assignment,
        restart_count: vm.restart_count,
        user_data,
    };
    Ok(DesiredEntry::Present(Box::new(present), stamp))
}

#[cfg(test)]
mod tests;
