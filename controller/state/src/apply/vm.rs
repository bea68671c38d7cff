//! Commands about VMs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::host::{Host, Inventory, Liveness, Overcommit, PciAddress, PciKind, ThreadId, ThreadSet};
use berth_model::vm::{Assignment, NumaPolicy, Resources, SmtPolicy, Unplaced, Vm, VmSpec};
use berth_model::{Epoch, Generation, HostUid, Meta, Name, Timestamp, VmUid};

use super::expected;
use crate::cluster::{Cluster, Stray};
use crate::command::Expect;
use crate::outcome::{Change, Outcome, Rejection};

const STILL_HELD: &str = "it may still run this VM by a placement that was ended without its word";

/// What a new VM is made of.
pub(super) struct NewVm<'a> {
    pub(super) uid: VmUid,
    pub(super) project: &'a Name,
    pub(super) name: &'a Name,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) spec: &'a VmSpec,
}

pub(super) fn create(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    new: &NewVm<'_>,
) -> Result<Outcome, Rejection> {
    if cluster.vm_by_name(new.project, new.name).is_some() {
        return Err(Rejection::NameTaken { kind: "VM".into(), name: new.name.to_string() });
    }
    if cluster.vms.contains_key(&new.uid) {
        return Err(Rejection::NameTaken { kind: "VM uid".into(), name: new.uid.to_string() });
    }
    let meta = Meta {
        labels: new.labels.clone(),
        annotations: new.annotations.clone(),
        ..Meta::new(new.project.clone(), new.name.clone(), new.uid.0, at)
    };
    let spec = new.spec.clone();
    cluster.put_vm(changes, |_| Vm::new(meta, spec));
    Ok(Outcome::Vm(new.uid))
}

/// The VM, if it is there, is not being deleted and is as the client saw it.
pub(super) fn living(cluster: &Cluster, uid: VmUid, expect: Expect) -> Result<Arc<Vm>, Rejection> {
    let vm = known(cluster, uid)?;
    if vm.meta.is_deleting() {
        return Err(Rejection::Deleting { name: vm.meta.name.to_string() });
    }
    expected("VM", &vm.meta.name, vm.meta.revision, expect)?;
    Ok(vm)
}

fn known(cluster: &Cluster, uid: VmUid) -> Result<Arc<Vm>, Rejection> {
    cluster.vms.get(&uid).cloned().ok_or_else(|| Rejection::NotFound { kind: "VM".into(), name: uid.to_string() })
}

/// Before a VM has its berth, anything may be asked of it; afterwards only its rules, which count when it is placed the
/// next time, and when and how it runs.
pub(super) fn set_spec(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    spec: &VmSpec,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let mut vm = Vm::clone(&*living(cluster, uid, expect)?);
    if vm.spec == *spec {
        return Ok(Outcome::Vm(uid));
    }
    let VmSpec { rules, run, grace, .. } = vm.spec.clone();
    let is_same_otherwise = VmSpec { rules, run, grace, ..spec.clone() } == vm.spec;
    if vm.assignment.is_some() && !is_same_otherwise {
        return Err(Rejection::Placed { name: vm.meta.name.to_string() });
    }
    vm.power = super::power::under(spec.run, vm.power);
    vm.spec = spec.clone();
    vm.meta.generation = vm.meta.generation.next();
    cluster.put_vm(changes, |_| vm);
    Ok(Outcome::Vm(uid))
}

/// Labels are no part of the spec: the generation stays, and what runs is not touched.
pub(super) fn set_labels(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    set: &BTreeMap<String, String>,
    remove: &[String],
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let held = living(cluster, uid, expect)?;
    let mut labels = held.meta.labels.clone();
    for key in remove {
        labels.remove(key);
    }
    labels.extend(set.clone());
    if labels == held.meta.labels {
        return Ok(Outcome::Vm(uid));
    }
    // An object that has too many already may lose some.
    if labels.len() > Meta::MOST_LABELS && labels.len() >= held.meta.labels.len() {
        let (count, most) = (labels.len() as u64, Meta::MOST_LABELS as u64);
        return Err(Rejection::TooManyLabels { kind: "VM".into(), name: held.meta.name.to_string(), count, most });
    }
    let mut vm = Vm::clone(&held);
    vm.meta.labels = labels;
    cluster.put_vm(changes, |_| vm);
    Ok(Outcome::Vm(uid))
}

/// Deleting a VM that has a berth only sets its deletion time: record and bookings go when its host reports it gone
/// (law 5). One that has no berth goes at once.
pub(super) fn delete(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    uid: VmUid,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let vm = known(cluster, uid)?;
    if vm.meta.is_deleting() {
        return Ok(Outcome::Vm(uid));
    }
    expected("VM", &vm.meta.name, vm.meta.revision, expect)?;
    super::steer::end_with_disks(cluster, changes, uid);
    if vm.assignment.is_none() {
        cluster.remove_vm(changes, uid);
    } else {
        let mut vm = Vm::clone(&*vm);
        vm.meta.deleted_at = Some(at);
        cluster.put_vm(changes, |_| vm);
    }
    Ok(Outcome::Vm(uid))
}

pub(super) fn assign(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    uid: VmUid,
    generation: Generation,
    host: HostUid,
    resources: &Resources,
) -> Result<Outcome, Rejection> {
    let vm = living(cluster, uid, Expect::default())?;
    if vm.assignment.is_some() || vm.meta.generation != generation {
        return Err(Rejection::PlanOutdated);
    }
    let target =
        cluster.hosts.get(&host).ok_or_else(|| Rejection::NotFound { kind: "host".into(), name: host.to_string() })?;
    if let Some(stray) = cluster.stray(uid) {
        let (elsewhere, why) = match stray {
            Stray::Orphan(host) => (host, "a domain of this VM is there already, as an orphan"),
            Stray::Evicted(host) => (host, STILL_HELD),
            Stray::Awaited(host) => (host, "an older state was put back, and it did not yet say what runs on it"),
        };
        return Err(Rejection::HostNotTaking { name: elsewhere.meta.name.to_string(), why: why.into() });
    }
    check_demand(&vm.spec, target, Some(target.spec.overcommit), resources)?;
    let held = cluster.bookings.get(&host).cloned().unwrap_or_default();
    let not_taking = |why: &str| Rejection::HostNotTaking { name: target.meta.name.to_string(), why: why.into() };
    if target.spec.cordoned {
        return Err(not_taking("it is cordoned"));
    }
    if target.liveness != Liveness::Alive {
        return Err(not_taking("it is not heard of"));
    }
    if cluster.holds_ended(host, uid) {
        return Err(not_taking(STILL_HELD));
    }
    if let Some(why) = held.overbooked(&target.inventory) {
        return Err(not_taking(&format!("it is overbooked: {why}")));
    }
    if let Some(shortage) = cluster.occupied(host).shortage(&target.inventory, resources) {
        return Err(Rejection::DoesNotFit(shortage));
    }
    let mut vm = Vm::clone(&*vm);
    vm.unplaced = None;
    vm.observed = None;
    let resources = resources.clone();
    cluster.put_vm(changes, |revision| {
        vm.assignment = Some(Assignment { host, epoch: Epoch(revision.0), resources, at });
        vm
    });
    Ok(Outcome::Vm(uid))
}

/// An assignment gives exactly what was asked: threads for itself or a share of the common ones, pages for all memory,
/// devices, and the overhead; and QEMU's own threads stay where the host keeps room for them, away from what belongs to
/// other VMs. `ratios`: those of over-subscription; none: any.
pub(super) fn check_demand(
    spec: &VmSpec,
    host: &Host,
    ratios: Option<Overcommit>,
    resources: &Resources,
) -> Result<(), Rejection> {
    let page = spec.page_size();
    let pages = resources.memory.iter().fold(0_u64, |sum, part| sum.saturating_add(part.count));
    let (least, most) = match ratios {
        Some(ratios) => (ratios, ratios),
        None => (Overcommit::MOST, Overcommit::NONE),
    };
    let booked = |ratios| page.pages_for(spec.booked_memory(ratios));
    let fits = resources.memory.iter().all(|part| part.page == page)
        && (booked(least)..=booked(most)).contains(&pages)
        && (spec.shared_cpu(least)..=spec.shared_cpu(most)).contains(&resources.shared_cpu)
        && resources.overhead >= spec.overhead()
        && has_its_threads(spec, host, resources)
        && has_its_devices(spec, &host.inventory, &resources.devices);
    if fits { Ok(()) } else { Err(Rejection::PlanOutdated) }
}

fn has_its_threads(spec: &VmSpec, host: &Host, resources: &Resources) -> bool {
    let (topology, housekeeping) = (&host.inventory.topology, host.inventory.housekeeping());
    let within = |threads: &ThreadSet, room: &ThreadSet| {
        !threads.is_empty() && threads.iter().all(|thread| room.contains(thread))
    };
    if !spec.performance.is_pinned() {
        let nothing_for_itself = resources.exclusive().next().is_none();
        return nothing_for_itself
            && within(&resources.emulator, &housekeeping)
            && within(&resources.iothread, &housekeeping);
    }
    let room = |dedicated: bool| if dedicated { &resources.dedicated } else { &housekeeping };
    let counted = resources.vcpus.len() == spec.cpus as usize
        && resources.dedicated.len() == spec.tuning.dedicated_threads() as usize
        && within(&resources.emulator, room(spec.tuning.dedicated_emulator))
        && within(&resources.iothread, room(spec.tuning.dedicated_iothreads > 0));
    let used: Vec<ThreadId> = resources.vcpus.iter().copied().chain(resources.dedicated.iter()).collect();
    let alone = match spec.tuning.smt {
        SmtPolicy::Siblings => resources.idle.is_empty(),
        SmtPolicy::WholeCores | SmtPolicy::Isolate => {
            let own: BTreeSet<ThreadId> = resources.exclusive().collect();
            let cores: BTreeSet<_> =
                used.iter().filter_map(|id| topology.thread(*id)).map(|thread| thread.core).collect();
            let whole = topology
                .threads
                .iter()
                .filter(|thread| cores.contains(&thread.core))
                .all(|thread| own.contains(&thread.id));
            whole && (spec.tuning.smt == SmtPolicy::WholeCores || cores.len() == used.len())
        }
    };
    let one_node = || {
        let threads = used.iter().filter_map(|id| topology.thread(*id)).map(|thread| thread.node);
        let nodes: BTreeSet<_> = threads.chain(resources.memory.iter().map(|part| part.node)).collect();
        nodes.len() <= 1
    };
    counted && alone && (spec.tuning.numa == NumaPolicy::Fewest || one_node())
}

fn has_its_devices(spec: &VmSpec, inventory: &Inventory, devices: &[PciAddress]) -> bool {
    let mut wanted: BTreeMap<PciKind, u64> = BTreeMap::new();
    for demand in &spec.devices {
        *wanted.entry(demand.kind).or_default() += u64::from(demand.count);
    }
    let mut given: BTreeMap<PciKind, u64> = BTreeMap::new();
    for device in devices.iter().filter_map(|address| inventory.device(*address)) {
        *given.entry(device.kind).or_default() += 1;
    }
    wanted.retain(|_, count| *count > 0);
    given == wanted && devices.len() as u64 == wanted.values().sum::<u64>()
}

pub(super) fn note_unplaced(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    uid: VmUid,
    hosts: u32,
    refusals: &[(Name, String)],
) -> Result<Outcome, Rejection> {
    let vm = living(cluster, uid, Expect::default())?;
    if vm.assignment.is_some() {
        return Err(Rejection::PlanOutdated);
    }
    let refusals: Vec<_> = refusals.iter().take(Unplaced::LISTED).cloned().collect();
    let same = vm.unplaced.as_ref().is_some_and(|held| held.hosts == hosts && held.refusals == refusals);
    if !same {
        let since = vm.unplaced.as_ref().map_or(at, |held| held.since);
        let mut vm = Vm::clone(&*vm);
        vm.unplaced = Some(Unplaced { since, hosts, refusals });
        cluster.put_vm(changes, |_| vm);
    }
    Ok(Outcome::Vm(uid))
}
