//! What operators say about hosts: their place and marks, that one is dead, that one is to be forgotten.
//!
//! A host that is confirmed dead is fenced by that word: its VMs lose their berths and wait for new ones. Should the word
//! be wrong, the host finds an explicit `Absent` for each of them when it comes back, before anything else (law 5); until
//! it has obeyed, nobody is given what they hold there.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::host::{Eviction, Host, HostSpec, Liveness};
use berth_model::placement::Proposal;
use berth_model::vm::{Assignment, Vm};
use berth_model::{HostUid, Meta, Stamp, Timestamp, VmUid};
use imbl::Vector;

use super::expected;
use crate::cluster::Cluster;
use crate::command::{Expect, HostPatch, ProposedMove};
use crate::outcome::{Change, Outcome, Rejection};

fn known(cluster: &Cluster, uid: HostUid, expect: Expect) -> Result<Host, Rejection> {
    let host =
        cluster.hosts.get(&uid).ok_or_else(|| Rejection::NotFound { kind: "host".into(), name: uid.to_string() })?;
    expected("host", &host.meta.name, host.meta.revision, expect)?;
    Ok(Host::clone(host))
}

pub(super) fn update(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: HostUid,
    patch: &HostPatch,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let before = known(cluster, uid, expect)?;
    let mut host = before.clone();
    for key in &patch.remove_labels {
        host.meta.labels.remove(key);
    }
    host.meta.labels.extend(patch.set_labels.clone());
    host.spec = patched(&host.spec, patch);
    let counts = [
        ("labels", host.meta.labels.len(), before.meta.labels.len(), Meta::MOST_LABELS),
        ("taints", host.spec.taints.len(), before.spec.taints.len(), HostSpec::MOST),
        ("groups", host.spec.groups.len(), before.spec.groups.len(), HostSpec::MOST),
    ];
    for (what, count, held, most) in counts {
        if count > most && count > held {
            let (name, count, most) = (host.meta.name.to_string(), count as u64, most as u64);
            return Err(Rejection::TooMany { name, what: what.into(), count, most });
        }
    }
    if host != before {
        host.meta.generation = host.meta.generation.next();
        cluster.put_host(changes, host);
    }
    Ok(Outcome::Host(uid))
}

fn patched(held: &HostSpec, patch: &HostPatch) -> HostSpec {
    let HostPatch {
        set_labels: _,
        remove_labels: _,
        cordoned,
        zone,
        rack,
        groups,
        set_taints,
        remove_taints,
        overcommit,
    } = patch;
    let mut taints: BTreeMap<_, _> =
        held.taints.iter().map(|taint| ((taint.key.clone(), taint.effect), taint.clone())).collect();
    taints.retain(|(key, effect), _| {
        !remove_taints.iter().any(|(gone, of)| gone == key && of.is_none_or(|of| of == *effect))
    });
    taints.extend(set_taints.iter().map(|taint| ((taint.key.clone(), taint.effect), taint.clone())));
    HostSpec {
        cordoned: cordoned.unwrap_or(held.cordoned),
        zone: zone.clone().unwrap_or_else(|| held.zone.clone()),
        rack: rack.clone().unwrap_or_else(|| held.rack.clone()),
        groups: groups.clone().unwrap_or_else(|| held.groups.clone()),
        taints: taints.into_values().collect(),
        overcommit: overcommit.unwrap_or(held.overcommit),
    }
}

pub(super) fn confirm_dead(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    uid: HostUid,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let mut host = known(cluster, uid, expect)?;
    if host.liveness == Liveness::Alive {
        let (name, liveness) = (host.meta.name.to_string(), host.liveness.to_string());
        return Err(Rejection::HostHeardOf { name, liveness });
    }
    let incarnation = cluster.info.map(|info| info.incarnation).unwrap_or_default();
    let vms: Vec<Vm> = cluster.vms_on(uid).map(|vm| Vm::clone(vm)).collect();
    if vms.is_empty() && host.liveness == Liveness::Lost && host.awaited.is_none() {
        return Ok(Outcome::Host(uid));
    }
    host.awaited = None;
    if host.liveness != Liveness::Lost {
        host.liveness = Liveness::Lost;
        host.liveness_since = at;
    }
    for vm in &vms {
        let Some(Assignment { epoch, resources, .. }) = vm.assignment.clone() else { continue };
        host.evictions.retain(|held| held.vm != vm.uid());
        let stamp = Stamp { incarnation, epoch };
        host.evictions.push(Eviction { vm: vm.uid(), stamp, resources, with_disk: vm.meta.is_deleting() });
    }
    host.evictions.sort_by_key(|held| held.vm);
    cluster.put_host(changes, host);
    for mut vm in vms {
        if vm.meta.is_deleting() {
            cluster.remove_vm(changes, vm.uid());
        } else {
            vm.lose_berth();
            cluster.put_vm(changes, |_| vm);
        }
    }
    Ok(Outcome::Host(uid))
}

/// Who deletes a VM wants its disks gone, also those that placements which were ended without their hosts' word left behind.
pub(super) fn end_with_disks(cluster: &mut Cluster, changes: &mut Vec<Change>, vm: VmUid) {
    let listing: Vec<HostUid> = cluster.strays.get(&vm).into_iter().flatten().copied().collect();
    for uid in listing {
        let Some(mut host) = cluster.hosts.get(&uid).map(|host| Host::clone(host)) else { continue };
        let left = host.evictions.iter_mut().filter(|held| held.vm == vm && !held.with_disk);
        let mut is_changed = false;
        for held in left {
            held.with_disk = true;
            is_changed = true;
        }
        if is_changed {
            cluster.put_host(changes, host);
        }
    }
}

pub(super) fn remove(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: HostUid,
    never_returns: bool,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let host = known(cluster, uid, expect)?;
    let name = host.meta.name.to_string();
    if host.liveness == Liveness::Alive {
        return Err(Rejection::HostHeardOf { name, liveness: host.liveness.to_string() });
    }
    let bound = cluster.vms_on(uid).count();
    let why = if bound > 0 {
        format!("{bound} VMs have their berths there")
    } else if never_returns {
        String::new()
    } else if host.awaited.is_some() {
        "an older state was put back, and it did not yet say what runs on it".into()
    } else if !host.evictions.is_empty() {
        format!("it may still run {} VMs whose berths there were ended by an operator's word", host.evictions.len())
    } else if !host.orphans.is_empty() {
        format!("it last reported {} orphans", host.orphans.len())
    } else {
        String::new()
    };
    if !why.is_empty() {
        return Err(Rejection::HostInUse { name, why });
    }
    let remembered: Vec<_> = cluster.holdings_on(uid).map(|held| held.vm).collect();
    for vm in remembered {
        cluster.remove_holding(uid, vm);
    }
    cluster.remove_host(changes, uid);
    Ok(Outcome::Host(uid))
}

/// Keeps what the planner proposes now. Of VMs and hosts that are not as it saw them nothing is kept.
pub(super) fn note_proposals(cluster: &mut Cluster, at: Timestamp, moves: &[ProposedMove]) {
    let still = |one: &&ProposedMove| {
        let berth = cluster.vms.get(&one.vm).and_then(|vm| vm.assignment.as_ref()).map(|held| held.host);
        berth == Some(one.from) && cluster.hosts.contains_key(&one.to)
    };
    let known = |one: &ProposedMove| {
        cluster.proposals.iter().find(|held| (held.vm, held.from, held.to) == (one.vm, one.from, one.to))
    };
    let proposals: Vector<Arc<Proposal>> = moves
        .iter()
        .filter(still)
        .take(Proposal::MOST)
        .map(|one| {
            let ProposedMove { vm, from, to, why } = one.clone();
            Arc::new(Proposal { vm, from, to, why, since: known(one).map_or(at, |held| held.since) })
        })
        .collect();
    if proposals != cluster.proposals {
        cluster.put_proposals(proposals);
    }
}
