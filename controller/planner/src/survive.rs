//! Whether the cluster survives the loss of any one host: whether its VMs would find berths on the others.
//!
//! For each host its VMs are placed anew on an index that goes on without it, the largest first, and taken back: one
//! placement for each VM of the cluster, whatever the number of hosts that are looked at for each.

use std::cmp::Reverse;
use std::sync::Arc;

use berth_model::vm::Vm;
use berth_model::{HostUid, Name, VmUid};
use berth_state::Cluster;

use crate::choose::{Ask, Mode, choose};
use crate::index::Index;

/// What the loss of one host would mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Of which host.
    pub host: HostUid,
    /// Its name.
    pub name: Name,
    /// VMs that it carries and that are not being deleted.
    pub vms: usize,
    /// Of these, those that no other host could take beside the rest.
    pub homeless: Vec<VmUid>,
}

/// The loss of each host that carries VMs, in the order of names. VMs that wait now are not placed meanwhile.
pub fn losses(view: &Cluster, index: &mut Index) -> Vec<Loss> {
    index.catch_up(view);
    let rows = index.by_name.clone();
    rows.into_iter().filter_map(|row| loss(view, index, row)).collect()
}

fn loss(view: &Cluster, index: &mut Index, row: usize) -> Option<Loss> {
    let host = Arc::clone(&index.rows[row].host);
    let mut vms: Vec<&Arc<Vm>> = view.vms_on(host.uid()).collect();
    if vms.is_empty() {
        return None;
    }
    let mark = index.mark();
    index.lose(Some(row));
    // Also those that are being deleted go with the host.
    for vm in &vms {
        index.try_leaving(vm, row);
    }
    vms.retain(|vm| !vm.meta.is_deleting());
    vms.sort_by_key(|vm| Reverse((vm.spec.rules.priority, vm.spec.cpus, vm.spec.memory, Reverse(vm.uid()))));
    let mut homeless = Vec::new();
    for vm in &vms {
        let ask = Ask::of(index, vm);
        match choose(index, vm, &ask, Mode::Spread) {
            Some((row, berth, _)) => index.try_placing(vm, row, &berth.resources),
            None => homeless.push(vm.uid()),
        }
    }
    index.take_back(mark);
    index.lose(None);
    Some(Loss { host: host.uid(), name: host.meta.name.clone(), vms: vms.len(), homeless })
}
