//! What one host shall hold, out of the replicated state.

use std::collections::BTreeMap;

use berth_model::host::Eviction;
use berth_model::session::{Absent, DesiredEntry, Present};
use berth_model::vm::Vm;
use berth_model::{HostUid, Incarnation, Stamp, VmUid};
use berth_state::Cluster;

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
    for Eviction { vm, stamp, resources: _, with_disk } in view.hosts.get(&host).into_iter().flat_map(|host| &host.evictions) {
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
