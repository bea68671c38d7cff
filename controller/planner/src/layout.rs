//! A host in dense numbers: where its threads sit, and what of it nobody has booked.
//!
//! The ledger of the state says what is booked, by names of threads and nodes. Placement asks the opposite, what is free and
//! how it lies, many times a second: this is that answer, made anew from the ledger whenever something on the host
//! changes.

use std::collections::BTreeMap;

use berth_model::host::{CoreId, Host, Inventory, NodeId, Overcommit, ThreadId, ThreadSet};
use berth_model::{Bytes, PageSize};
use berth_state::HostBookings;

/// One core: its threads, and where it sits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Core {
    /// By position in [`Layout::nodes`].
    pub(crate) node: usize,
    /// The last-level cache, unique on the host.
    pub(crate) cache: u32,
    /// Its threads, in ascending order; at most [`MOST_OF_A_CORE`].
    pub(crate) threads: Vec<ThreadId>,
    /// Which of them are for VMs, a bit for each.
    pub(crate) usable: u64,
}

/// No processor has cores of more threads; what a host reports beyond is given to nobody.
const MOST_OF_A_CORE: usize = 64;

/// What of a host does not change with what is booked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// Every NUMA node that has threads or memory, in ascending order.
    pub(crate) nodes: Vec<NodeId>,
    /// Every core, by node, cache and number.
    pub(crate) cores: Vec<Core>,
    /// Where each thread is, in ascending order: its core by position, and its bit there.
    places: Vec<(ThreadId, usize, usize)>,
    /// Where QEMU's own threads run if they have none for themselves.
    pub(crate) housekeeping: ThreadSet,
    /// Threads in all.
    pub(crate) threads: usize,
    /// Threads kept for the host.
    pub(crate) reserved: usize,
    /// The fewest and the most threads of one core.
    pub(crate) core_threads: (u32, u32),
}

impl Layout {
    pub(crate) fn of(inventory: &Inventory) -> Self {
        let topology = &inventory.topology;
        let of_memory = inventory.memory.iter().map(|part| part.node);
        let of_pools = inventory.hugepages.iter().map(|pool| pool.node);
        let mut nodes: Vec<NodeId> =
            topology.threads.iter().map(|thread| thread.node).chain(of_memory).chain(of_pools).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut by_core: BTreeMap<CoreId, Core> = BTreeMap::new();
        for thread in &topology.threads {
            let node = nodes.binary_search(&thread.node).expect("the node of a thread is one of the nodes");
            let fresh = || Core { node, cache: thread.cache, threads: Vec::new(), usable: 0 };
            let core = by_core.entry(thread.core).or_insert_with(fresh);
            if core.threads.len() < MOST_OF_A_CORE {
                core.usable |= u64::from(!inventory.reserve.contains(thread.id)) << core.threads.len();
                core.threads.push(thread.id);
            }
        }
        let mut cores: Vec<Core> = by_core.into_values().collect();
        cores.sort_by_key(|core| (core.node, core.cache, core.threads[0]));
        let reserved = topology.threads.iter().filter(|thread| inventory.reserve.contains(thread.id)).count();
        let places = |(at, core): (usize, &Core)| -> Vec<(ThreadId, usize, usize)> {
            core.threads.iter().enumerate().map(|(bit, thread)| (*thread, at, bit)).collect()
        };
        let mut places: Vec<_> = cores.iter().enumerate().flat_map(places).collect();
        places.sort_unstable();
        let sizes = || cores.iter().map(|core| u32::try_from(core.threads.len()).unwrap_or(u32::MAX));
        let core_threads = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
        Self {
            nodes,
            housekeeping: inventory.housekeeping(),
            threads: topology.threads.len(),
            reserved,
            core_threads,
            cores,
            places,
        }
    }

    /// Whether two hosts have the same layout.
    pub(crate) fn is_same(one: &Inventory, other: &Inventory) -> bool {
        one.topology == other.topology
            && one.reserve == other.reserve
            && one.memory == other.memory
            && one.hugepages == other.hugepages
    }

    /// The core of a thread by position, and the thread's bit there.
    fn place(&self, thread: ThreadId) -> Option<(usize, usize)> {
        let at = self.places.binary_search_by_key(&thread, |(held, _, _)| *held).ok()?;
        Some((self.places[at].1, self.places[at].2))
    }
}

/// The three sizes of pages, as positions.
pub(crate) const fn page_at(page: PageSize) -> usize {
    match page {
        PageSize::Small => 0,
        PageSize::Huge2M => 1,
        PageSize::Huge1G => 2,
    }
}

/// What of a host nobody has booked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Free {
    /// By core: which of its threads are free, a bit for each.
    pub(crate) threads: Vec<u64>,
    /// By node: free pages of each size, see [`page_at`].
    pub(crate) pages: Vec<[u64; 3]>,
    /// Of the whole host: ordinary memory, for guest memory on ordinary pages and for QEMU itself.
    pub(crate) ordinary: Bytes,
    /// Thousandths of a thread that can still be promised among threads that no VM has for itself.
    pub(crate) shared: u64,
    /// By position in the inventory: whether a VM can be given the device.
    pub(crate) devices: Vec<bool>,
    /// VMs that have something booked.
    pub(crate) vms: usize,
}

impl Free {
    pub(crate) fn of(host: &Host, layout: &Layout, held: &HostBookings) -> Self {
        let inventory = &host.inventory;
        let mut threads: Vec<u64> = layout.cores.iter().map(|core| core.usable).collect();
        for (core, bit) in held.taken().filter_map(|thread| layout.place(thread)) {
            threads[core] &= !(1 << bit);
        }
        let for_vms = (layout.threads - layout.reserved).saturating_sub(held.threads()) as u64 * 1000;
        let pages = layout
            .nodes
            .iter()
            .map(|node| {
                [PageSize::Small, PageSize::Huge2M, PageSize::Huge1G]
                    .map(|page| held.free_pages(inventory, *node, page))
            })
            .collect();
        let can_be_given = |device| held.holder(inventory, device).is_none();
        Self {
            threads,
            pages,
            ordinary: held.free_ordinary(inventory),
            shared: for_vms.saturating_sub(held.shared_cpu()),
            devices: inventory
                .devices
                .iter()
                .map(|device| device.iommu_group.is_some() && can_be_given(device))
                .collect(),
            vms: held.count(),
        }
    }

    /// How many threads of this core are free.
    pub(crate) fn count(&self, core: usize) -> u32 {
        self.threads[core].count_ones()
    }

    /// Whether no thread of this core is booked or kept for the host.
    pub(crate) fn is_whole(&self, layout: &Layout, core: usize) -> bool {
        self.count(core) as usize == layout.cores[core].threads.len()
    }

    /// Free pages of this size on all nodes.
    pub(crate) fn all_pages(&self, page: PageSize) -> u64 {
        self.pages.iter().fold(0, |sum, node| sum.saturating_add(node[page_at(page)]))
    }
}

/// Hosts of one sort are asked for the same by the same VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Sort {
    /// What it promises to over-subscribed VMs.
    pub(crate) ratios: Overcommit,
    /// The fewest and the most threads of one core.
    pub(crate) core_threads: (u32, u32),
}

/// A host in few numbers: enough to see at once that a VM does not fit, and how good the host could be at best.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Brief {
    /// Free threads; of wholly free cores; wholly free cores.
    pub(crate) threads: [u32; 3],
    /// The same, of the node that has most of each.
    pub(crate) node_threads: [u32; 3],
    /// The same, of the cache that has most of each.
    pub(crate) cache_threads: [u32; 3],
    /// VMs that have something booked.
    pub(crate) vms: u32,
    /// Free pages of each size on all nodes.
    pub(crate) pages: [u64; 3],
    /// Free pages of each size on the node that has most.
    pub(crate) node_pages: [u64; 3],
    /// Free ordinary memory in bytes.
    pub(crate) ordinary: u64,
    /// Free thousandths among the shared threads.
    pub(crate) shared: u64,
    /// Devices that can be given.
    pub(crate) devices: u32,
    /// What it is like.
    pub(crate) sort: Sort,
    /// Whether less is there than is booked.
    pub(crate) overbooked: bool,
}

impl Brief {
    pub(crate) fn of(host: &Host, layout: &Layout, free: &Free, overbooked: bool) -> Self {
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut brief = Self {
            vms: small(free.vms),
            ordinary: free.ordinary.0,
            shared: free.shared,
            devices: small(free.devices.iter().filter(|is_free| **is_free).count()),
            sort: Sort { ratios: host.spec.overcommit, core_threads: layout.core_threads },
            overbooked,
            ..Self::default()
        };
        // Cores lie in the order of nodes, and within a node in the order of caches.
        let (mut of_node, mut of_cache) = ([0; 3], [0; 3]);
        let mut place = None;
        for (at, core) in layout.cores.iter().enumerate() {
            let here = (core.node, core.cache);
            if place.is_some_and(|(node, _)| node != here.0) {
                of_node = [0; 3];
            }
            if place.is_some_and(|last| last != here) {
                of_cache = [0; 3];
            }
            place = Some(here);
            let all = free.count(at);
            let whole = free.is_whole(layout, at);
            let counts = [all, if whole { all } else { 0 }, u32::from(whole)];
            for (at, count) in counts.into_iter().enumerate() {
                of_node[at] += count;
                of_cache[at] += count;
                brief.threads[at] += count;
                brief.node_threads[at] = brief.node_threads[at].max(of_node[at]);
                brief.cache_threads[at] = brief.cache_threads[at].max(of_cache[at]);
            }
        }
        for node in &free.pages {
            for (at, count) in node.iter().enumerate() {
                brief.pages[at] = brief.pages[at].saturating_add(*count);
                brief.node_pages[at] = brief.node_pages[at].max(*count);
            }
        }
        brief
    }
}
