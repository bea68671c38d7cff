//! The laws of the replicated state as checks over one value, for tests, simulations and operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::vm::Vm;
use berth_model::{HostUid, VmUid};

use crate::cluster::{self, Cluster};
use crate::ledger::HostBookings;

/// Every law that does not hold, a sentence each; empty when all hold.
///
/// Walks the whole state: for small worlds after each event, for large ones now and then.
pub fn audit(cluster: &Cluster) -> Vec<String> {
    let mut broken = Vec::new();
    let mut bookings: BTreeMap<_, HostBookings> = BTreeMap::new();
    for (uid, vm) in &cluster.vms {
        if vm.uid() != *uid {
            broken.push(format!("VM {uid} is filed under another uid than its own, {}", vm.uid()));
        }
        if vm.meta.revision > cluster.revision {
            broken.push(format!("VM {uid} is at revision {}, the state at {}", vm.meta.revision, cluster.revision));
        }
        if cluster.vm_by_name(&vm.meta.project, &vm.meta.name).map(|held| held.uid()) != Some(*uid) {
            broken.push(format!("VM {uid} is not found by its name {}", vm.meta.name));
        }
        let waits = vm.assignment.is_none() && !vm.meta.is_deleting();
        if waits != cluster.waiting.contains_key(uid) {
            broken.push(format!("VM {uid} waits: {waits}, and the index says otherwise"));
        }
        let Some(assignment) = &vm.assignment else {
            if vm.meta.is_deleting() {
                broken.push(format!("VM {uid} is being deleted without a berth; it should be gone"));
            }
            continue;
        };
        if assignment.epoch.0 > vm.meta.revision.0 {
            broken.push(format!("VM {uid} has an epoch beyond its revision"));
        }
        let held = bookings.entry(assignment.host).or_default();
        for thread in assignment.resources.exclusive() {
            if let Some(other) = held.owner(thread) {
                broken.push(format!("thread {thread} of host {} is booked by {other} and {uid}", assignment.host));
            }
        }
        for device in &assignment.resources.devices {
            if let Some(other) = held.device_owner(*device) {
                broken.push(format!("device {device} of host {} is booked by {other} and {uid}", assignment.host));
            }
        }
        held.book(*uid, &assignment.resources);
    }
    if cluster.vm_names.len() != cluster.vms.len() {
        broken.push(format!("{} names for {} VMs", cluster.vm_names.len(), cluster.vms.len()));
    }
    if let Some(uid) = cluster.waiting.keys().find(|uid| !cluster.vms.contains_key(*uid)) {
        broken.push(format!("VM {uid} waits and is not there"));
    }
    hosts(cluster, &mut broken);
    requests(cluster, &mut broken);
    let recomputed: imbl::OrdMap<_, _> = bookings.into_iter().map(|(host, held)| (host, Arc::new(held))).collect();
    if cluster.summed() != cluster.sum || cluster.requests.summed() != cluster.requests.sum {
        broken.push("the digest is not that of the state".into());
    }
    if recomputed != cluster.bookings {
        broken.push("the ledger is not what the assignments add up to".into());
    }
    broken
}

fn hosts(cluster: &Cluster, broken: &mut Vec<String>) {
    for (uid, host) in &cluster.hosts {
        if host.uid() != *uid {
            broken.push(format!("host {uid} is filed under another uid than its own, {}", host.uid()));
        }
        if host.meta.revision > cluster.revision {
            broken.push(format!("host {uid} is at revision {}, the state at {}", host.meta.revision, cluster.revision));
        }
        if host.evictions.iter().any(|held| cluster.vms.get(&held.vm).is_some_and(|vm| is_on(vm, *uid))) {
            broken.push(format!("host {uid} has the berth of a VM that it still holds by an ended placement"));
        }
        if cluster.host_by_name(&host.meta.name).map(|held| held.uid()) != Some(*uid) {
            broken.push(format!("host {uid} is not found by its name {}", host.meta.name));
        }
    }
    let mut strays: imbl::OrdMap<VmUid, imbl::OrdSet<HostUid>> = imbl::OrdMap::new();
    for (uid, host) in &cluster.hosts {
        for vm in cluster::strays(host) {
            strays.entry(vm).or_default().insert(*uid);
        }
    }
    if strays != cluster.strays {
        broken.push("the index of strays is not what the hosts list".into());
    }
    let awaited: imbl::OrdSet<_> =
        cluster.hosts.values().filter(|host| host.awaited.is_some()).map(|host| host.uid()).collect();
    if awaited != cluster.awaited {
        broken.push("the index of awaited hosts is not what the hosts say".into());
    }
    if cluster.host_names.len() != cluster.hosts.len() {
        broken.push(format!("{} names for {} hosts", cluster.host_names.len(), cluster.hosts.len()));
    }
    if let Some(host) = cluster.bookings.keys().find(|host| !cluster.hosts.contains_key(*host)) {
        broken.push(format!("host {host} has bookings and is not there"));
    }
}

fn is_on(vm: &Vm, host: HostUid) -> bool {
    vm.assignment.as_ref().is_some_and(|assignment| assignment.host == host)
}

fn requests(cluster: &Cluster, broken: &mut Vec<String>) {
    let requests = &cluster.requests;
    if requests.by_id.len() != requests.order.len() || requests.iter().count() != requests.by_id.len() {
        broken.push("the remembered requests and their order do not match".into());
    }
    if requests.order.get_max().is_some_and(|(last, _)| *last >= requests.next_sequence) {
        broken.push("a remembered request has a number that is still to be given".into());
    }
}
