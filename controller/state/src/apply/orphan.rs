//! Commands about orphans: domains of ours that the state does not know, as after an older state was put back.
//!
//! Nothing is done to an orphan until an operator says so (law 5). Adopted, it becomes a VM that is placed where it runs;
//! removed, it becomes a VM that is being deleted, so that the explicit word to its host and the end of it are those of
//! every deletion.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::host::{Eviction, Host, Orphan};
use berth_model::image::{ImageRef, Sha256Digest};
use berth_model::placement::Rules;
use berth_model::session::Holding;
use berth_model::vm::{Assignment, Performance, Resources, RunStrategy, Tuning, Vm, VmSpec};
use berth_model::{Bytes, Epoch, HostUid, Meta, Name, Stamp, Timestamp, VmUid};

use super::{expected, vm};
use crate::cluster::Cluster;
use crate::command::Expect;
use crate::outcome::{Change, Outcome, Rejection};

/// Forgets what a host remembered of VMs that are its orphans no more.
pub(super) fn keep(cluster: &mut Cluster, host: HostUid, orphans: &[Orphan]) {
    let named: BTreeSet<VmUid> = orphans.iter().map(|orphan| orphan.vm).collect();
    let gone: Vec<VmUid> = cluster.holdings_on(host).map(|held| held.vm).filter(|vm| !named.contains(vm)).collect();
    for vm in gone {
        cluster.remove_holding(host, vm);
    }
}

/// What a host remembers counts only for VMs that it lists as orphans and that are not placed anywhere.
pub(super) fn note_holdings(cluster: &mut Cluster, host: HostUid, holdings: &[Holding]) -> Result<Outcome, Rejection> {
    let Some(held) = cluster.hosts.get(&host).cloned() else {
        return Err(Rejection::NotFound { kind: "host".into(), name: host.to_string() });
    };
    let listed: BTreeSet<VmUid> = held.orphans.iter().map(|orphan| orphan.vm).collect();
    for holding in holdings {
        let placed = cluster.vms.get(&holding.vm).is_some_and(|vm| vm.assignment.is_some());
        let known = cluster.holdings.get(&(host, holding.vm)).is_some_and(|known| **known == *holding);
        if listed.contains(&holding.vm) && !placed && !known {
            cluster.put_holding(host, holding.clone());
        }
    }
    Ok(Outcome::Host(host))
}

/// The host and its orphan, if it lists it and is as the client saw it.
fn listed(cluster: &Cluster, host: HostUid, vm: VmUid, expect: Expect) -> Result<(Arc<Host>, Orphan), Rejection> {
    let Some(held) = cluster.hosts.get(&host).cloned() else {
        return Err(Rejection::NotFound { kind: "host".into(), name: host.to_string() });
    };
    expected("host", &held.meta.name, held.meta.revision, expect)?;
    match held.orphans.iter().find(|orphan| orphan.vm == vm).cloned() {
        Some(orphan) => Ok((held, orphan)),
        None => Err(Rejection::NoOrphan { host: held.meta.name.to_string(), vm }),
    }
}

pub(super) fn adopt(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    host: HostUid,
    uid: VmUid,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let (target, orphan) = listed(cluster, host, uid, expect)?;
    let known = cluster.vms.get(&uid).cloned();
    if let Some(known) = &known
        && let Some(assignment) = &known.assignment
    {
        // The host has not said yet that it is no orphan any more.
        let done = assignment.host == host && !known.meta.is_deleting();
        let name = known.meta.name.to_string();
        return if done { Ok(Outcome::Vm(uid)) } else { Err(Rejection::OrphanIsVm { vm: uid, name }) };
    }
    let nothing_held = || Rejection::NothingHeld { host: target.meta.name.to_string(), vm: uid };
    let holding = cluster.holdings.get(&(host, uid)).cloned().ok_or_else(nothing_held)?;
    let adopted = match known {
        Some(known) => {
            let restart_count = known.restart_count.max(holding.restart_count);
            Vm { restart_count, unplaced: None, observed: None, ..Vm::clone(&known) }
        }
        None => {
            if cluster.vm_by_name(&holding.project, &holding.name).is_some() {
                return Err(Rejection::NameTaken { kind: "VM".into(), name: holding.name.to_string() });
            }
            made_of(cluster, &holding, at)
        }
    };
    let mut adopted = adopted;
    // The host has forgotten what it carried out and how runs ended: what runs goes on, and what is down and need not run
    // rests until it is started.
    (adopted.power.resume_count, adopted.power.reset_count) = (0, 0);
    if !matches!(adopted.spec.run, RunStrategy::Always | RunStrategy::Halted) {
        adopted.power.off = !orphan.running;
    }
    // By which ratios it was booked nobody knows any more; what it holds is taken as it is.
    vm::check_demand(&adopted.spec, &target, None, &holding.resources).map_err(|_| nothing_held())?;
    let others = cluster.occupied_by_others(host, Some(uid));
    if let Some(shortage) = others.shortage(&target.inventory, &holding.resources) {
        return Err(Rejection::DoesNotFit(shortage));
    }
    cluster.remove_holding(host, uid);
    place(cluster, changes, at, host, adopted, holding.resources.clone());
    Ok(Outcome::Vm(uid))
}

pub(super) fn remove(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    host: HostUid,
    uid: VmUid,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let (target, orphan) = listed(cluster, host, uid, expect)?;
    if cluster.vms.get(&uid).and_then(|known| known.assignment.as_ref()).is_some_and(|held| held.host != host) {
        end_beside(cluster, changes, &target, uid);
        return Ok(Outcome::Vm(uid));
    }
    if let Some(known) = cluster.vms.get(&uid) {
        let here = known.assignment.as_ref().is_some_and(|held| held.host == host);
        let name = known.meta.name.to_string();
        let done = here && known.meta.is_deleting();
        return if done { Ok(Outcome::Vm(uid)) } else { Err(Rejection::OrphanIsVm { vm: uid, name }) };
    }
    let holding = cluster.holdings.get(&(host, uid)).cloned();
    let mut vm = match &holding {
        Some(holding) => made_of(cluster, holding, at),
        None => unknown(uid, &orphan.called, at),
    };
    if cluster.vm_by_name(&vm.meta.project, &vm.meta.name).is_some() {
        // It is shown while it is being removed, under a name that hardly anybody else can have.
        vm.meta.name = uid.to_string().parse().unwrap_or(vm.meta.name);
        if cluster.vm_by_name(&vm.meta.project, &vm.meta.name).is_some() {
            return Err(Rejection::NameTaken { kind: "VM".into(), name: vm.meta.name.to_string() });
        }
    }
    vm.meta.deleted_at = Some(at);
    // What it holds stays booked until it is gone, unless others have it already.
    let others = cluster.occupied_by_others(host, Some(uid));
    let held = holding.map(|holding| holding.resources.clone());
    let resources = held.filter(|held| others.shortage(&target.inventory, held).is_none());
    cluster.remove_holding(host, uid);
    place(cluster, changes, at, host, vm, resources.unwrap_or_default());
    Ok(Outcome::Vm(uid))
}

/// An orphan of a VM that has its berth on another host: it is ended there like any placement that nobody stands by, by a
/// word that is later than all that its host has obeyed.
fn end_beside(cluster: &mut Cluster, changes: &mut Vec<Change>, target: &Host, uid: VmUid) {
    let held = target.evictions.iter().find(|held| held.vm == uid);
    if held.is_some_and(|held| held.with_disk) {
        return;
    }
    let others = cluster.occupied_by_others(target.uid(), Some(uid));
    let held = cluster.holdings.get(&(target.uid(), uid)).map(|holding| holding.resources.clone());
    let resources = held.filter(|held| others.shortage(&target.inventory, held).is_none()).unwrap_or_default();
    let incarnation = cluster.info.map(|info| info.incarnation).unwrap_or_default();
    cluster.remove_holding(target.uid(), uid);
    let mut host = target.clone();
    host.evictions.retain(|held| held.vm != uid);
    let stamp = Stamp { incarnation, epoch: Epoch(cluster.revision.next().0) };
    host.evictions.push(Eviction { vm: uid, stamp, resources, with_disk: true });
    host.evictions.sort_by_key(|held| held.vm);
    cluster.put_host(changes, host);
}

/// Puts the VM in place on the host, by a placement that is later than the one which made its domain.
fn place(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    host: HostUid,
    mut vm: Vm,
    resources: Resources,
) {
    // What an ended placement left there is this domain: from now on the word about it is the new placement's.
    let listing =
        cluster.hosts.get(&host).filter(|host| host.evictions.iter().any(|held| held.vm == vm.uid())).cloned();
    if let Some(listing) = listing {
        let mut listing = Host::clone(&listing);
        listing.evictions.retain(|held| held.vm != vm.uid());
        cluster.put_host(changes, listing);
    }
    cluster.put_vm(changes, |revision| {
        vm.assignment = Some(Assignment { host, epoch: Epoch(revision.0), resources, at });
        vm
    });
}

/// The VM that a host remembers. Its labels, annotations and user data are lost; its disk and its seed are on the host.
fn made_of(cluster: &Cluster, holding: &Holding, at: Timestamp) -> Vm {
    let Holding {
        vm,
        project,
        name,
        cpus,
        memory,
        performance,
        tuning,
        devices,
        image_name,
        image,
        disk_size,
        run,
        resources: _,
        restart_count,
    } = holding;
    let same = cluster.images.values().find(|known| known.spec.sha256 == *image);
    let virtual_size = same.map_or(*disk_size, |known| known.spec.virtual_size);
    let spec = VmSpec {
        instance_type: None,
        preference: None,
        cpus: *cpus,
        memory: *memory,
        performance: *performance,
        tuning: *tuning,
        devices: devices.clone(),
        rules: Rules::default(),
        image: ImageRef { name: image_name.clone(), sha256: *image, virtual_size },
        disk_size: *disk_size,
        run: *run,
        grace: VmSpec::GRACE,
        user_data: None,
    };
    Vm { restart_count: *restart_count, ..Vm::new(Meta::new(project.clone(), name.clone(), vm.0, at), spec) }
}

/// A VM of which nothing is known but that it shall go.
fn unknown(uid: VmUid, called: &str, at: Timestamp) -> Vm {
    let parsed = called.split_once('/').and_then(|(project, name)| Some((project.parse().ok()?, name.parse().ok()?)));
    let word = |text: &str| text.parse::<Name>().expect("a lower-case word is a DNS label");
    let (project, name) = parsed.unwrap_or_else(|| (Name::default_project(), word("orphan")));
    let spec = VmSpec {
        instance_type: None,
        preference: None,
        cpus: 1,
        memory: VmSpec::MIN_MEMORY,
        performance: Performance::High,
        tuning: Tuning::of(Performance::High),
        devices: Vec::new(),
        rules: Rules::default(),
        image: ImageRef { name: word("unknown"), sha256: Sha256Digest([0; 32]), virtual_size: Bytes(0) },
        disk_size: Bytes(0),
        run: RunStrategy::Halted,
        grace: VmSpec::GRACE,
        user_data: None,
    };
    Vm::new(Meta::new(project, name, uid.0, at), spec)
}
