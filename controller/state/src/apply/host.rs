//! Commands about hosts: what they report of themselves and of their VMs, and whether they are heard of.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::host::{Host, HostSpec, Inventory, Liveness};
use berth_model::session::{Report, VmReport};
use berth_model::vm::{Observed, Vm};
use berth_model::{HostUid, Meta, Name, Stamp, Timestamp, VmUid};

use crate::cluster::Cluster;
use crate::command::HostFacts;
use crate::outcome::{Change, Outcome, Rejection};

pub(super) fn report(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    facts: &HostFacts,
    report: &Report,
) -> Result<Outcome, Rejection> {
    if let Some(holder) = cluster.host_by_name(&facts.name)
        && holder.uid() != facts.uid
    {
        return Err(Rejection::HostNameTaken { name: facts.name.clone(), held_by: holder.uid() });
    }
    let before = cluster.hosts.get(&facts.uid).cloned();
    let mut host = match (&before, &report.inventory) {
        (Some(held), _) => Host::clone(held),
        (None, Some(inventory)) => Host {
            meta: Meta::new(Name::default_project(), facts.name.clone(), facts.uid.0, at),
            spec: HostSpec::default(),
            address: facts.address.clone(),
            boot: facts.boot.clone(),
            liveness: Liveness::Alive,
            liveness_since: at,
            inventory: inventory.clone(),
            conditions: Vec::new(),
            images: BTreeMap::new(),
            orphans: Vec::new(),
            evictions: Vec::new(),
            awaited: None,
        },
        (None, None) => {
            return Err(Rejection::NotFound { kind: "host".into(), name: facts.uid.to_string() });
        }
    };
    if before.is_none() || host.meta.name != facts.name {
        // A host keeps its identity when its certificate brings a new name.
        host.meta.name = facts.name.clone();
    }
    host.address.clone_from(&facts.address);
    host.boot.clone_from(&facts.boot);
    if host.liveness != Liveness::Alive {
        host.liveness = Liveness::Alive;
        host.liveness_since = at;
    }
    fold(&mut host, report);
    end_evictions(&mut host, report);
    if before.as_deref() != Some(&host) {
        cluster.put_host(changes, host);
    }
    fold_vms(cluster, changes, facts.uid, report);
    if let Some(orphans) = &report.orphans {
        super::orphan::keep(cluster, facts.uid, orphans);
    }
    Ok(Outcome::Host(facts.uid))
}

/// Images of one host that are kept.
const MOST_IMAGES: usize = 10_000;

/// Threads and devices are looked up by their numbers, so they are kept in that order, each once, whatever a host sends.
fn in_order(inventory: &mut Inventory) {
    let threads = &mut inventory.topology.threads;
    threads.sort_by_key(|thread| thread.id);
    threads.dedup_by_key(|thread| thread.id);
    let devices = &mut inventory.devices;
    devices.sort_by_key(|device| device.address);
    devices.dedup_by_key(|device| device.address);
}

fn fold(host: &mut Host, report: &Report) {
    if let Some(inventory) = &report.inventory {
        host.inventory = inventory.clone();
        in_order(&mut host.inventory);
    }
    if let Some(conditions) = &report.conditions {
        let mut next = Vec::new();
        for condition in conditions {
            berth_model::condition::set(&mut next, condition.clone());
        }
        for condition in &mut next {
            let held = host.conditions.iter().find(|held| held.kind == condition.kind);
            if let Some(held) = held.filter(|held| held.status == condition.status) {
                condition.since = held.since;
            }
        }
        host.conditions = next;
    }
    if report.full {
        let named: BTreeSet<_> = report.images.iter().map(|(digest, _)| *digest).collect();
        host.images.retain(|digest, _| named.contains(digest));
    }
    for (digest, found) in &report.images {
        match found {
            Some(found) if host.images.len() < MOST_IMAGES || host.images.contains_key(digest) => {
                host.images.insert(*digest, found.clone());
            }
            // Images are added report by report: without a limit a host could grow every member's state.
            Some(_) => {}
            None => {
                host.images.remove(digest);
            }
        }
    }
    if let Some(orphans) = &report.orphans {
        host.orphans.clone_from(orphans);
        host.awaited = None;
    }
}

/// A placement that was ended without the host's word is over once the host reports it gone.
fn end_evictions(host: &mut Host, report: &Report) {
    host.evictions.retain(|held| {
        let ended = |(vm, said): &(VmUid, VmReport)| *vm == held.vm && *said == VmReport::Gone(held.stamp);
        !report.vms.iter().any(ended)
    });
}

/// A host's word about a VM counts only while the VM is placed on that host by that epoch: what it says of another's
/// VM, or of an older placement, is not believed.
fn fold_vms(cluster: &mut Cluster, changes: &mut Vec<Change>, host: HostUid, report: &Report) {
    let incarnation = cluster.info.map(|info| info.incarnation).unwrap_or_default();
    for (uid, said) in &report.vms {
        let Some(vm) = cluster.vms.get(uid) else { continue };
        let Some(assignment) = vm.assignment.as_ref().filter(|held| held.host == host) else { continue };
        let stamp = Stamp { incarnation, epoch: assignment.epoch };
        match said {
            VmReport::Seen(observed) => {
                if observed.epoch == assignment.epoch && vm.observed.as_ref() != Some(observed) {
                    let vm = Vm { observed: Some(observed.clone()), ..Vm::clone(vm) };
                    cluster.put_vm(changes, |_| vm);
                }
            }
            VmReport::Gone(ended) => {
                if *ended == stamp && vm.meta.is_deleting() {
                    cluster.remove_vm(changes, *uid);
                }
            }
        }
    }
    if report.full {
        forget_unmentioned(cluster, changes, host, report);
    }
}

/// In a full report a VM that the host does not mention has not reached it: what was seen before is no longer known.
fn forget_unmentioned(cluster: &mut Cluster, changes: &mut Vec<Change>, host: HostUid, report: &Report) {
    let mentioned: BTreeSet<VmUid> = report.vms.iter().map(|(uid, _)| *uid).collect();
    let silent: Vec<Vm> = cluster
        .vms_on(host)
        .filter(|vm| !mentioned.contains(&vm.uid()) && vm.observed.is_some())
        .map(|vm| Vm { observed: None::<Observed>, ..Vm::clone(vm) })
        .collect();
    for vm in silent {
        cluster.put_vm(changes, |_| vm);
    }
}

pub(super) fn set_liveness(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    uid: HostUid,
    liveness: Liveness,
) -> Result<Outcome, Rejection> {
    let host =
        cluster.hosts.get(&uid).ok_or_else(|| Rejection::NotFound { kind: "host".into(), name: uid.to_string() })?;
    if host.liveness != liveness {
        let host = Host { liveness, liveness_since: at, ..Host::clone(host) };
        cluster.put_host(changes, host);
    }
    Ok(Outcome::Host(uid))
}
