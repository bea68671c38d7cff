//! How much room there is: for more VMs of one sort, and on one host.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::host::{NodeId, Thread};
use berth_model::vm::Vm;
use berth_model::{Bytes, HostUid, Name, PageSize, Uid, VmUid};
use berth_state::{Cluster, HostBookings};

use crate::allocate::{Demand, allocate};
use crate::choose::{Ask, Mode, choose, consider};
use crate::index::Index;
use crate::layout::{Free, page_at};

/// How many more VMs of one sort fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// On all hosts.
    pub total: u64,
    /// On each host, in the order of names.
    pub hosts: Vec<(Name, u64)>,
    /// Whether counting ended before there was no more room.
    pub is_more: bool,
}

/// Counts how many more VMs such as this one fit, placed one after another as the planner would; at most `most`.
pub fn capacity(view: &Cluster, index: &mut Index, like: &Vm, most: u64) -> Capacity {
    index.catch_up(view);
    let like = Vm { assignment: None, ..like.clone() };
    let ask = Ask::of(index, &like);
    let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
    let mut total = 0;
    if ask.rules.is_empty() {
        // Nothing that is placed on one host matters to another.
        for row in 0..index.rows.len() {
            let count = alone(index, &like, &ask, row, most - total);
            counts.insert(row, count);
            total += count;
        }
    } else {
        let mark = index.mark();
        while total < most {
            let mut next = like.clone();
            next.meta.uid = stand_in(total).0;
            let next = Arc::new(next);
            let ask = Ask::of(index, &next);
            let Some((row, berth, _)) = choose(index, &next, &ask, Mode::Spread) else { break };
            index.try_placing(&next, row, &berth.resources);
            *counts.entry(row).or_default() += 1;
            total += 1;
        }
        index.take_back(mark);
    }
    let count = |row: &usize| (index.rows[*row].host.meta.name.clone(), counts.get(row).copied().unwrap_or(0));
    Capacity { total, hosts: index.by_name.iter().map(count).collect(), is_more: total == most }
}

/// The uid of a VM that is only counted: real ones are drawn at random and are never among the last.
fn stand_in(number: u64) -> VmUid {
    VmUid(Uid::from_bits(u128::MAX - u128::from(number)))
}

fn alone(index: &Index, like: &Vm, ask: &Ask<'_>, row: usize, most: u64) -> u64 {
    let Ok((berth, _)) = consider(index, like, ask, row) else { return 0 };
    if most == 0 {
        return 0;
    }
    let standing = &index.rows[row];
    let mut held = HostBookings::clone(&standing.held);
    held.book(stand_in(0), &berth.resources);
    let demand = Demand::of(&like.spec);
    let mut count = 1;
    while count < most {
        let free = Free::of(&standing.host, &standing.layout, &held);
        let Ok(berth) = allocate(&standing.host, &standing.layout, &free, &demand) else { break };
        held.book(stand_in(count), &berth.resources);
        count += 1;
    }
    count
}

/// Whose a thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThreadUse {
    /// Kept for the host.
    Reserved,
    /// Nobody has it for itself; VMs whose CPUs float run there.
    Free,
    /// A VM has it for itself, perhaps idle.
    Exclusive(VmUid),
}

/// Room on one NUMA node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRoom {
    /// Which.
    pub node: NodeId,
    /// Every thread in the order of cores, with its use.
    pub threads: Vec<(Thread, ThreadUse)>,
    /// Threads that nobody has for itself and that are not kept for the host.
    pub free_threads: u32,
    /// Of these, those on wholly free cores: the rest is of no use to VMs that want whole cores.
    pub free_on_whole_cores: u32,
    /// Pages of each size that the node has: size, all, free.
    pub pages: Vec<(PageSize, u64, u64)>,
}

/// Room on one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostRoom {
    /// Which.
    pub host: Name,
    /// VMs that have something booked.
    pub vms: usize,
    /// Each NUMA node.
    pub nodes: Vec<NodeRoom>,
    /// Threads in all, kept for the host, booked for VMs alone, free.
    pub threads: (usize, usize, usize, usize),
    /// Thousandths of a thread promised to VMs whose CPUs float, and still to be promised.
    pub shared_cpu: (u64, u64),
    /// Ordinary memory: in all, free.
    pub ordinary: (Bytes, Bytes),
    /// PCI devices: in all, free.
    pub devices: (usize, usize),
    /// Of the free threads, how many in a hundred are not on the node that has most of them: a VM on one node cannot have
    /// these beside the others.
    pub scattered_percent: u32,
    /// Why less is there than is booked.
    pub overbooked: Option<String>,
}

/// What a host has free, booked and kept, node by node; none if there is no such host.
pub fn host_room(view: &Cluster, index: &mut Index, host: HostUid) -> Option<HostRoom> {
    index.catch_up(view);
    let row = &index.rows[index.row(host)?];
    let (inventory, layout, free, held) = (&row.host.inventory, &row.layout, &row.free, &row.held);
    let node_room = |(at, node): (usize, &NodeId)| {
        let cores = || layout.cores.iter().enumerate().filter(move |(_, core)| core.node == at);
        let threads = cores().flat_map(|(_, core)| &core.threads).filter_map(|id| inventory.topology.thread(*id));
        let of = |thread: &Thread| match held.owner(thread.id) {
            _ if inventory.reserve.contains(thread.id) => ThreadUse::Reserved,
            Some(vm) => ThreadUse::Exclusive(vm),
            None => ThreadUse::Free,
        };
        let empty = HostBookings::default();
        let pages = [PageSize::Small, PageSize::Huge2M, PageSize::Huge1G]
            .map(|page| (page, empty.free_pages(inventory, *node, page), free.pages[at][page_at(page)]));
        NodeRoom {
            node: *node,
            threads: threads.map(|thread| (*thread, of(thread))).collect(),
            free_threads: cores().map(|(core, _)| free.count(core)).sum(),
            free_on_whole_cores: cores()
                .filter(|(core, _)| free.is_whole(layout, *core))
                .map(|(core, _)| free.count(core))
                .sum(),
            pages: pages.into_iter().filter(|(_, all, _)| *all > 0).collect(),
        }
    };
    let nodes: Vec<NodeRoom> = layout.nodes.iter().enumerate().map(node_room).collect();
    let all_free: u32 = nodes.iter().map(|node| node.free_threads).sum();
    let on_one = nodes.iter().map(|node| node.free_threads).max().unwrap_or(0);
    let ordinary = HostBookings::default().free_ordinary(inventory);
    Some(HostRoom {
        host: row.host.meta.name.clone(),
        vms: free.vms,
        threads: (layout.threads, layout.reserved, held.threads(), all_free as usize),
        shared_cpu: (held.shared_cpu(), free.shared),
        ordinary: (ordinary, free.ordinary),
        devices: (inventory.devices.len(), free.devices.iter().filter(|is_free| **is_free).count()),
        scattered_percent: (all_free - on_one) * 100 / all_free.max(1),
        overbooked: row.overbooked.clone(),
        nodes,
    })
}
