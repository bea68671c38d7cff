//! The choice of a host and of the exact threads and pages on it.
//!
//! Filter, score by named fields compared in order, allocate. No magic weights: a field earlier in [`Candidate`]
//! decides before a later one is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::host::{Host, Liveness, NodeId, ThreadId};
use berth_model::image::ImageOnHost;
use berth_model::vm::{NodePages, Resources, Vm, VmSpec};
use berth_model::{HostUid, Name, PageSize};
use berth_state::{Cluster, HostBookings, Stray};

use crate::refusal::{Refusal, total_pages};

/// Why one host is better than another: compared field by field, less is better.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Candidate {
    /// NUMA nodes that the VM's threads and memory would span: memory of another node is slow.
    pub nodes: usize,
    /// VMs that the host carries: VMs are spread over hosts.
    pub vms_on_host: usize,
    /// Threads that would stay free: of equally filled hosts the fuller, so that large VMs find whole hosts.
    pub free_threads_after: usize,
    /// The host's name, so that the same view gives the same plan.
    pub name: Name,
}

/// Chooses a berth, or says for each host why not, in the order of names.
pub fn place(
    view: &Cluster,
    bookings: impl Fn(HostUid) -> Arc<HostBookings>,
    vm: &Vm,
) -> Result<(HostUid, Resources, Candidate), Vec<(Name, Refusal)>> {
    if let Some(Stray::Orphan(host) | Stray::Evicted(host)) = view.stray(vm.uid()) {
        return Err(vec![(host.meta.name.clone(), Refusal::Orphan)]);
    }
    let mut best: Option<(Candidate, HostUid, Resources)> = None;
    let mut refusals = Vec::new();
    for host in view.hosts.values() {
        let held = bookings(host.uid());
        match fit(host, &held, vm) {
            Ok(resources) => {
                let candidate = Candidate {
                    nodes: nodes_spanned(host, &resources),
                    vms_on_host: held.count(),
                    free_threads_after: free_threads(host, &held).len() - resources.vcpus.len(),
                    name: host.meta.name.clone(),
                };
                if best.as_ref().is_none_or(|(standing, ..)| candidate < *standing) {
                    best = Some((candidate, host.uid(), resources));
                }
            }
            Err(refusal) => refusals.push((host.meta.name.clone(), refusal)),
        }
    }
    refusals.sort_by(|a, b| a.0.cmp(&b.0));
    best.map(|(candidate, host, resources)| (host, resources, candidate)).ok_or(refusals)
}

fn nodes_spanned(host: &Host, resources: &Resources) -> usize {
    let topology = &host.inventory.topology;
    let of_threads = resources.vcpus.iter().filter_map(|id| topology.thread(*id)).map(|thread| thread.node);
    of_threads.chain(resources.memory.iter().map(|part| part.node)).collect::<BTreeSet<_>>().len()
}

/// The berth on one host, or why there is none.
fn fit(host: &Host, held: &HostBookings, vm: &Vm) -> Result<Resources, Refusal> {
    match host.liveness {
        Liveness::Alive => {}
        Liveness::Suspect => return Err(Refusal::NotAlive("Suspect")),
        Liveness::Lost => return Err(Refusal::NotAlive("Lost")),
    }
    if host.spec.cordoned {
        return Err(Refusal::Cordoned);
    }
    if let Some(why) = held.overbooked(&host.inventory) {
        return Err(Refusal::Overbooked(why));
    }
    let image = &vm.spec.image;
    match host.images.get(&image.sha256) {
        None => return Err(Refusal::ImageMissing),
        Some(ImageOnHost::Refused { reason }) => return Err(Refusal::ImageRefused(reason.clone())),
        Some(ImageOnHost::Verified { virtual_size }) if *virtual_size != image.virtual_size => {
            return Err(Refusal::ImageSize { expected: image.virtual_size, found: *virtual_size });
        }
        Some(ImageOnHost::Verified { .. }) => {}
    }
    allocate(host, held, &vm.spec)
}

/// The threads of a host that no VM has and that are not kept for the host, in ascending order.
fn free_threads(host: &Host, held: &HostBookings) -> Vec<berth_model::host::Thread> {
    let inventory = &host.inventory;
    inventory
        .topology
        .threads
        .iter()
        .filter(|thread| !inventory.reserve.contains(thread.id) && held.owner(thread.id).is_none())
        .copied()
        .collect()
}

fn allocate(host: &Host, held: &HostBookings, spec: &VmSpec) -> Result<Resources, Refusal> {
    let inventory = &host.inventory;
    let free = free_threads(host, held);
    if free.len() < spec.cpus as usize {
        let reserved = inventory.topology.threads.iter().filter(|thread| inventory.reserve.contains(thread.id)).count();
        let total = inventory.topology.threads.len();
        return Err(Refusal::Threads { wanted: spec.cpus, free: free.len(), reserved, total });
    }
    let page = spec.page_size();
    let wanted = page.pages_for(spec.memory);
    // A node may have memory and no usable threads.
    let with_pages = inventory.hugepages.iter().filter(|pool| pool.page == page).map(|pool| pool.node);
    let ids: BTreeSet<NodeId> = inventory.topology.nodes().into_iter().chain(with_pages).collect();
    let mut nodes: Vec<Node> = ids
        .into_iter()
        .map(|id| Node {
            id,
            threads: free.iter().filter(|thread| thread.node == id).copied().collect(),
            pages: held.free_pages(inventory, id, page),
        })
        .collect();
    let all = nodes.iter().fold(0_u64, |sum, node| sum.saturating_add(node.pages));
    if all < wanted {
        let total = total_pages(inventory, page);
        return Err(Refusal::Pages { wanted, free: all, total, page });
    }
    let ordinary = held.free_ordinary(inventory);
    if ordinary < spec.overhead() {
        return Err(Refusal::Ordinary { wanted: spec.overhead(), free: ordinary });
    }
    let cpus = spec.cpus as usize;
    // The tightest single node that holds all of it; else as few nodes as possible, the fullest first.
    let single = nodes
        .iter()
        .filter(|node| node.threads.len() >= cpus && node.pages >= wanted)
        .min_by_key(|node| (node.threads.len(), node.pages, node.id));
    let (vcpus, memory) = match single {
        Some(node) => (whole_cores_first(&node.threads, cpus), vec![NodePages { node: node.id, page, count: wanted }]),
        None => {
            nodes.sort_by_key(|node| (std::cmp::Reverse((node.threads.len(), node.pages)), node.id));
            spread(&nodes, cpus, page, wanted)
        }
    };
    let housekeeping = inventory.housekeeping();
    Ok(Resources {
        vcpus,
        emulator: housekeeping.clone(),
        iothread: housekeeping,
        memory,
        overhead: spec.overhead(),
        ..Resources::default()
    })
}

struct Node {
    id: NodeId,
    threads: Vec<berth_model::host::Thread>,
    pages: u64,
}

/// Threads of cores that are wholly free first, a core's siblings together, so that VMs do not share cores while
/// there is room.
fn whole_cores_first(free: &[berth_model::host::Thread], count: usize) -> Vec<ThreadId> {
    let mut by_core: BTreeMap<_, Vec<ThreadId>> = BTreeMap::new();
    for thread in free {
        by_core.entry(thread.core).or_default().push(thread.id);
    }
    let mut cores: Vec<_> = by_core.into_values().collect();
    cores.sort_by_key(|siblings| (std::cmp::Reverse(siblings.len()), siblings[0]));
    cores.into_iter().flatten().take(count).collect()
}

/// Takes threads and pages over several nodes, in the order given.
fn spread(nodes: &[Node], cpus: usize, page: PageSize, wanted: u64) -> (Vec<ThreadId>, Vec<NodePages>) {
    let mut vcpus = Vec::new();
    let mut memory = Vec::new();
    let mut missing = wanted;
    for node in nodes {
        vcpus.extend(whole_cores_first(&node.threads, cpus - vcpus.len()));
        let count = node.pages.min(missing);
        if count > 0 {
            memory.push(NodePages { node: node.id, page, count });
            missing -= count;
        }
    }
    memory.sort_by_key(|part| part.node);
    (vcpus, memory)
}
