//! The exact threads, pages and devices of one VM on one host.
//!
//! Whenever there is a way to give one VM what it asks for on a host, one is found: what the host has in all decides, and
//! which of it is taken is a matter of preference only. Preferred are, in this order: few NUMA nodes, nodes with the
//! VM's devices, tight nodes, few last-level caches, whole cores.

use berth_model::host::{Host, NodeId, Overcommit, PciAddress, ThreadId, ThreadSet};
use berth_model::vm::{NodePages, NumaPolicy, Resources, SmtPolicy, VmSpec};
use berth_model::{Bytes, PageSize};

use crate::devices;
use crate::layout::{Brief, Free, Layout, page_at};
use crate::refusal::Refusal;
use crate::threads::{self, Taken};

/// What a VM asks of a host, apart from rules. What an over-subscribed VM asks depends on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand<'a> {
    pub(crate) spec: &'a VmSpec,
    /// Threads that nobody else may have, idle siblings not counted; none for a VM whose CPUs float.
    pub(crate) threads: u32,
    /// What may share its cores.
    pub(crate) smt: SmtPolicy,
    /// Whether it must lie on one node.
    pub(crate) single: bool,
    pub(crate) page: PageSize,
    pub(crate) overhead: Bytes,
    /// Devices of all kinds.
    pub(crate) devices: u32,
}

impl<'a> Demand<'a> {
    pub(crate) fn of(spec: &'a VmSpec) -> Self {
        let pinned = spec.performance.is_pinned();
        Self {
            spec,
            threads: if pinned { spec.cpus.saturating_add(spec.tuning.dedicated_threads()) } else { 0 },
            smt: spec.tuning.smt,
            single: pinned && spec.tuning.numa == NumaPolicy::Single,
            page: spec.page_size(),
            overhead: spec.overhead(),
            devices: spec.device_count(),
        }
    }

    /// Thousandths of a thread among the shared ones, on a host of these ratios.
    pub(crate) fn shared(&self, ratios: Overcommit) -> u64 {
        self.spec.shared_cpu(ratios)
    }

    /// Pages of guest memory, on a host of these ratios.
    pub(crate) fn pages(&self, ratios: Overcommit) -> u64 {
        self.page.pages_for(self.spec.booked_memory(ratios))
    }

    /// Ordinary memory in all, for so many pages of guest memory.
    pub(crate) fn ordinary(&self, pages: u64) -> Bytes {
        match self.page {
            PageSize::Small => self.overhead.saturating_add(bytes_of(self.page, pages)),
            PageSize::Huge2M | PageSize::Huge1G => self.overhead,
        }
    }

    /// Which of the three counts of threads in [`Brief`] matters.
    pub(crate) const fn counted(&self) -> usize {
        match self.smt {
            SmtPolicy::Siblings => 0,
            SmtPolicy::WholeCores => 1,
            SmtPolicy::Isolate => 2,
        }
    }

    /// Whether a host of these few numbers might take it; where not, it certainly cannot. `pages` and `shared` are what
    /// the VM asks of that host.
    pub(crate) fn might_fit(&self, brief: &Brief, pages: u64, shared: u64) -> bool {
        let at = page_at(self.page);
        let counted = self.counted();
        let (threads, room) = if self.single {
            (brief.node_threads[counted], brief.node_pages[at])
        } else {
            (brief.threads[counted], brief.pages[at])
        };
        threads >= self.threads
            && room >= pages
            && brief.shared >= shared.max(u64::from(self.threads) * 1000)
            && brief.ordinary >= self.ordinary(pages).0
            && brief.devices >= self.devices
    }
}

pub(crate) const fn bytes_of(page: PageSize, pages: u64) -> Bytes {
    Bytes(pages.saturating_mul(page.bytes().0))
}

/// What a VM would get on a host, and how it lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Berth {
    pub(crate) resources: Resources,
    /// NUMA nodes of its threads and its memory.
    pub(crate) nodes: u32,
    /// Last-level caches of its threads.
    pub(crate) caches: u32,
    /// Thousandths of a thread that would stay unpromised.
    pub(crate) leftover: u64,
}

/// What one node has of what is asked for.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// By position in [`Layout::nodes`].
    at: usize,
    threads: u32,
    pages: u64,
}

/// Finds a berth on a host, or the first thing that is missing.
pub(crate) fn allocate(host: &Host, layout: &Layout, free: &Free, demand: &Demand<'_>) -> Result<Berth, Refusal> {
    let ratios = host.spec.overcommit;
    let (pages, shared) = (demand.pages(ratios), demand.shared(ratios));
    let offers = threads::offers(layout, free, demand.smt);
    let devices = devices::wanted(host, free, demand.spec);
    enough_in_all(host, layout, free, demand, &offers, pages, shared)?;
    devices::enough(host, &devices)?;
    let node =
        |(at, threads): (usize, &u32)| Node { at, threads: *threads, pages: free.pages[at][page_at(demand.page)] };
    let nodes: Vec<Node> = offers.iter().enumerate().map(node).collect();
    let chosen = if demand.single {
        vec![one_node(layout, demand, &nodes, &devices, host, pages)?]
    } else if demand.threads > 0 {
        fewest_nodes(&nodes, demand.threads, pages, |ours| {
            devices::missing_on(host, &devices, |id| ours.iter().any(|node| layout.nodes[node.at] == id))
        })
    } else {
        for_memory(&nodes, pages)
    };
    let mut taken = Taken::default();
    let mut by_node = Vec::new();
    let mut missing = demand.threads;
    for node in &chosen {
        let count = missing.min(node.threads);
        if count > 0 {
            threads::take(layout, free, node.at, count, demand.smt, &mut taken);
            by_node.push((*node, count));
            missing -= count;
        }
    }
    let alone = (taken.given.len() + taken.idle.len()) as u64 * 1000;
    if alone > free.shared {
        return Err(Refusal::Promised { wanted: alone, free: free.shared });
    }
    let memory = split(&chosen, &by_node, pages);
    let mut of_ours: Vec<NodeId> = by_node.iter().map(|(node, _)| layout.nodes[node.at]).collect();
    of_ours.extend(memory.iter().map(|(at, _)| layout.nodes[*at]));
    of_ours.sort_unstable();
    of_ours.dedup();
    let given = devices::pick(host, &devices, demand.single, |id| of_ours.contains(&id));
    let Some(given) = given else { return Err(devices::refusal(host, &devices, None)) };
    let mut parts: Vec<NodePages> =
        memory.into_iter().map(|(at, count)| NodePages { node: layout.nodes[at], page: demand.page, count }).collect();
    parts.sort_unstable_by_key(|part| part.node);
    Ok(Berth {
        nodes: u32::try_from(of_ours.len()).unwrap_or(u32::MAX),
        caches: taken.caches(),
        leftover: free.shared.saturating_sub(alone).saturating_sub(shared),
        resources: resources(layout, demand, taken, shared, parts, given),
    })
}

fn enough_in_all(
    host: &Host,
    layout: &Layout,
    free: &Free,
    demand: &Demand<'_>,
    offers: &[u32],
    pages: u64,
    shared: u64,
) -> Result<(), Refusal> {
    if demand.threads > 0 {
        let all: usize = (0..layout.cores.len()).map(|core| free.count(core) as usize).sum();
        if all < demand.threads as usize {
            let (reserved, total) = (layout.reserved, layout.threads);
            return Err(Refusal::Threads { wanted: demand.threads, free: all, reserved, total });
        }
        let offered: u32 = offers.iter().sum();
        if offered < demand.threads {
            let alone = demand.smt == SmtPolicy::Isolate;
            return Err(Refusal::Cores { wanted: demand.threads, free: offered, alone });
        }
        let alone = u64::from(demand.threads) * 1000;
        if alone > free.shared {
            return Err(Refusal::Promised { wanted: alone, free: free.shared });
        }
    } else if shared > free.shared {
        return Err(Refusal::Shared { wanted: shared, free: free.shared });
    }
    let (all, ordinary) = (free.all_pages(demand.page), demand.ordinary(pages));
    match demand.page {
        PageSize::Small if ordinary > free.ordinary => Err(Refusal::Memory { wanted: ordinary, free: free.ordinary }),
        PageSize::Small if pages > all => Err(Refusal::Memory { wanted: ordinary, free: bytes_of(demand.page, all) }),
        PageSize::Huge2M | PageSize::Huge1G if pages > all => {
            let pools = host.inventory.hugepages.iter().filter(|pool| pool.page == demand.page);
            let total = pools.fold(0, |sum: u64, pool| sum.saturating_add(pool.total));
            Err(Refusal::Pages { wanted: pages, free: all, total, page: demand.page })
        }
        PageSize::Huge2M | PageSize::Huge1G if ordinary > free.ordinary => {
            Err(Refusal::Ordinary { wanted: ordinary, free: free.ordinary })
        }
        PageSize::Small | PageSize::Huge2M | PageSize::Huge1G => Ok(()),
    }
}

/// The tightest node that has all of it.
fn one_node(
    layout: &Layout,
    demand: &Demand<'_>,
    nodes: &[Node],
    devices: &[devices::Wanted],
    host: &Host,
    pages: u64,
) -> Result<Node, Refusal> {
    let roomy: Vec<&Node> = nodes.iter().filter(|node| node.threads >= demand.threads && node.pages >= pages).collect();
    if roomy.is_empty() {
        let has = |node: &Node| (layout.nodes[node.at], node.threads, node.pages);
        let nodes = nodes.iter().map(has).collect();
        return Err(Refusal::Node { threads: demand.threads, pages, page: demand.page, nodes });
    }
    let has_devices = |node: &Node| devices::pick(host, devices, true, |id| id == layout.nodes[node.at]).is_some();
    roomy
        .iter()
        .filter(|node| has_devices(node))
        .min_by_key(|node| (node.threads, node.pages, node.at))
        .map(|node| **node)
        .ok_or_else(|| devices::refusal(host, devices, Some(layout.nodes[roomy[0].at])))
}

/// More nodes than this are not tried in every combination.
const COMBINED: usize = 8;

/// As few nodes as possible that have all of it together: of several such sets one with the VM's devices, then the
/// tightest. In the order in which threads are to be taken, those with most first.
///
/// All nodes together have it.
fn fewest_nodes(nodes: &[Node], threads: u32, pages: u64, devices_missing: impl Fn(&[Node]) -> u32) -> Vec<Node> {
    let alone = nodes
        .iter()
        .filter(|node| node.threads >= threads && node.pages >= pages)
        .min_by_key(|node| (devices_missing(&[**node]), node.threads, node.pages, node.at));
    if let Some(node) = alone {
        return vec![*node];
    }
    let mut order: Vec<Node> = nodes.iter().filter(|node| node.threads > 0 || node.pages > 0).copied().collect();
    order.sort_unstable_by_key(|node| (std::cmp::Reverse((node.threads, node.pages)), node.at));
    if order.len() > COMBINED {
        return greedily(&order, threads, pages);
    }
    let mut best = None;
    for mask in 1_u32..1 << order.len() {
        let size = mask.count_ones();
        let set: Vec<Node> =
            order.iter().enumerate().filter(|(at, _)| mask & (1 << at) != 0).map(|(_, node)| *node).collect();
        let (all_threads, all_pages) = sums(&set);
        if all_threads < threads || all_pages < pages {
            continue;
        }
        let key = (size, devices_missing(&set), all_threads, all_pages, mask);
        if best.as_ref().is_none_or(|(standing, _)| key < *standing) {
            best = Some((key, set));
        }
    }
    best.map_or(order, |(_, set)| set)
}

fn sums(nodes: &[Node]) -> (u32, u64) {
    nodes.iter().fold((0, 0), |(threads, pages): (u32, u64), node| {
        (threads.saturating_add(node.threads), pages.saturating_add(node.pages))
    })
}

/// The nodes with most threads, then those with most pages.
fn greedily(order: &[Node], threads: u32, pages: u64) -> Vec<Node> {
    let mut chosen: Vec<Node> = Vec::new();
    let mut rest = order.to_vec();
    while sums(&chosen).0 < threads && !rest.is_empty() {
        chosen.push(rest.remove(0));
    }
    rest.sort_by_key(|node| std::cmp::Reverse(node.pages));
    while sums(&chosen).1 < pages && !rest.is_empty() {
        chosen.push(rest.remove(0));
    }
    chosen
}

/// Nodes for memory alone: the tightest that has room for all of it, else as few as possible.
fn for_memory(nodes: &[Node], pages: u64) -> Vec<Node> {
    let alone = nodes.iter().filter(|node| node.pages >= pages).min_by_key(|node| (node.pages, node.at));
    if let Some(node) = alone {
        return vec![*node];
    }
    let mut order = nodes.to_vec();
    order.sort_by_key(|node| (std::cmp::Reverse(node.pages), node.at));
    let mut missing = pages;
    order.retain(|node| {
        let is_needed = missing > 0;
        missing = missing.saturating_sub(node.pages);
        is_needed
    });
    order
}

/// The pages of each node: as evenly over the nodes of the threads as these are, then wherever there is room. By
/// position in [`Layout::nodes`].
fn split(chosen: &[Node], by_node: &[(Node, u32)], pages: u64) -> Vec<(usize, u64)> {
    let threads: u64 = by_node.iter().map(|(_, count)| u64::from(*count)).sum();
    let even = |(node, count): &(Node, u32)| (*node, (pages * u64::from(*count) / threads.max(1)).min(node.pages));
    let mut parts: Vec<(Node, u64)> = by_node.iter().map(even).collect();
    let mut others: Vec<Node> =
        chosen.iter().filter(|node| by_node.iter().all(|(held, _)| held.at != node.at)).copied().collect();
    others.sort_by_key(|node| (std::cmp::Reverse(node.pages), node.at));
    parts.extend(others.into_iter().map(|node| (node, 0)));
    let mut missing = pages - parts.iter().map(|(_, count)| *count).sum::<u64>();
    for (node, count) in &mut parts {
        let more = missing.min(node.pages - *count);
        *count += more;
        missing -= more;
    }
    parts.into_iter().filter(|(_, count)| *count > 0).map(|(node, count)| (node.at, count)).collect()
}

fn resources(
    layout: &Layout,
    demand: &Demand<'_>,
    taken: Taken,
    shared_cpu: u64,
    memory: Vec<NodePages>,
    devices: Vec<PciAddress>,
) -> Resources {
    let spec = demand.spec;
    let Taken { given: mut vcpus, idle, .. } = taken;
    let dedicated: Vec<ThreadId> = if vcpus.is_empty() { Vec::new() } else { vcpus.split_off(spec.cpus as usize) };
    let own = |threads: &[ThreadId]| -> ThreadSet {
        if threads.is_empty() { layout.housekeeping.clone() } else { threads.iter().copied().collect() }
    };
    let dedicated: ThreadSet = dedicated.into_iter().collect();
    let in_order: Vec<ThreadId> = dedicated.iter().collect();
    let for_emulator = usize::from(spec.tuning.dedicated_emulator && !in_order.is_empty());
    Resources {
        vcpus,
        emulator: own(&in_order[..for_emulator]),
        iothread: own(&in_order[for_emulator..]),
        dedicated,
        idle: idle.into_iter().collect(),
        shared_cpu,
        memory,
        overhead: demand.overhead,
        devices,
    }
}
