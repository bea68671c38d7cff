//! The whole-machine ledger: what assignments add up to on one host, and whether more would fit.
//!
//! A thread belongs to one VM, a hugepage to one VM; sums are conserved at every revision (law 9). The ledger is an
//! index over assignments, rebuilt from them by [`crate::audit`], and never a second source of truth.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_model::host::{Inventory, NodeId, ThreadId};
use berth_model::vm::Resources;
use berth_model::{Bytes, PageSize, VmUid};
use serde::{Deserialize, Serialize};

/// A resource of which a host has too little.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Shortage {
    /// The host has no such thread, keeps it for itself, or it is asked for twice.
    NoSuchThread(ThreadId),
    /// The thread belongs to a VM.
    ThreadTaken {
        /// Which thread.
        thread: ThreadId,
        /// Whose it is.
        by: VmUid,
    },
    /// Too few free pages.
    Pages {
        /// On which node.
        node: NodeId,
        /// Of which size.
        page: PageSize,
        /// Pages asked for.
        wanted: u64,
        /// Pages free.
        free: u64,
    },
    /// Too little ordinary memory.
    Ordinary {
        /// Bytes asked for.
        wanted: Bytes,
        /// Bytes free.
        free: Bytes,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchThread(thread) => write!(f, "CPU thread {thread} is not for VMs"),
            Self::ThreadTaken { thread, by } => write!(f, "CPU thread {thread} belongs to VM {by}"),
            Self::Pages { node, page, wanted, free } => {
                write!(f, "needs {wanted} free {page} pages on NUMA node {node}, has {free}")
            }
            Self::Ordinary { wanted, free } => write!(f, "needs {wanted} of ordinary memory for QEMU, has {free}"),
        }
    }
}

/// What is booked on one host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostBookings {
    threads: BTreeMap<ThreadId, VmUid>,
    pages: BTreeMap<(NodeId, PageSize), u64>,
    ordinary: Bytes,
    vms: BTreeSet<VmUid>,
}

impl HostBookings {
    /// The VMs that have something booked, in ascending order.
    pub fn vms(&self) -> impl Iterator<Item = VmUid> + '_ {
        self.vms.iter().copied()
    }

    /// How many VMs have something booked.
    pub fn count(&self) -> usize {
        self.vms.len()
    }

    /// Whether nothing is booked.
    pub fn is_empty(&self) -> bool {
        self.vms.is_empty()
    }

    /// Whose a thread is.
    pub fn owner(&self, thread: ThreadId) -> Option<VmUid> {
        self.threads.get(&thread).copied()
    }

    /// How many threads are booked.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// How many pages are booked.
    pub fn pages(&self, node: NodeId, page: PageSize) -> u64 {
        self.pages.get(&(node, page)).copied().unwrap_or(0)
    }

    /// How much ordinary memory is booked.
    pub fn ordinary(&self) -> Bytes {
        self.ordinary
    }

    /// Books for a VM. Whether it fits is asked before, by [`HostBookings::shortage`].
    pub fn book(&mut self, vm: VmUid, resources: &Resources) {
        self.vms.insert(vm);
        self.threads.extend(resources.vcpus.iter().map(|thread| (*thread, vm)));
        for part in &resources.memory {
            let sum = self.pages.entry((part.node, part.page)).or_default();
            *sum = sum.saturating_add(part.count);
        }
        self.ordinary = self.ordinary.saturating_add(resources.overhead);
    }

    /// Releases what a VM had booked.
    pub fn release(&mut self, vm: VmUid, resources: &Resources) {
        self.vms.remove(&vm);
        for thread in &resources.vcpus {
            if self.threads.get(thread) == Some(&vm) {
                self.threads.remove(thread);
            }
        }
        for part in &resources.memory {
            if let Some(count) = self.pages.get_mut(&(part.node, part.page)) {
                *count = count.saturating_sub(part.count);
                if *count == 0 {
                    self.pages.remove(&(part.node, part.page));
                }
            }
        }
        self.ordinary = self.ordinary.saturating_sub(resources.overhead);
    }

    /// The first reason why `wanted` does not fit on the host beside what is booked; none if it fits.
    pub fn shortage(&self, inventory: &Inventory, wanted: &Resources) -> Option<Shortage> {
        let mut seen = BTreeSet::new();
        for thread in &wanted.vcpus {
            let usable = inventory.topology.thread(*thread).is_some() && !inventory.reserve.contains(*thread);
            if !usable || !seen.insert(*thread) {
                return Some(Shortage::NoSuchThread(*thread));
            }
            if let Some(by) = self.owner(*thread) {
                return Some(Shortage::ThreadTaken { thread: *thread, by });
            }
        }
        let mut sums: BTreeMap<(NodeId, PageSize), u64> = BTreeMap::new();
        for part in &wanted.memory {
            let sum = sums.entry((part.node, part.page)).or_default();
            *sum = sum.saturating_add(part.count);
        }
        for ((node, page), count) in sums {
            let free = self.free_pages(inventory, node, page);
            if count > free {
                return Some(Shortage::Pages { node, page, wanted: count, free });
            }
        }
        let free = self.free_ordinary(inventory);
        (wanted.overhead > free).then_some(Shortage::Ordinary { wanted: wanted.overhead, free })
    }

    /// Pages of this size on this node that nobody has booked.
    pub fn free_pages(&self, inventory: &Inventory, node: NodeId, page: PageSize) -> u64 {
        total_pages(inventory, node, page).saturating_sub(self.pages(node, page))
    }

    /// Ordinary memory that nobody has booked.
    pub fn free_ordinary(&self, inventory: &Inventory) -> Bytes {
        total_ordinary(inventory).saturating_sub(self.ordinary)
    }

    /// Why the host cannot carry what is booked on it, if it reported less than it once had (law 9).
    ///
    /// Bookings are never dropped for it; the host takes no new VM until they fit again.
    pub fn overbooked(&self, inventory: &Inventory) -> Option<String> {
        let missing = self
            .threads
            .iter()
            .find(|(thread, _)| inventory.topology.thread(**thread).is_none() || inventory.reserve.contains(**thread));
        if let Some((thread, vm)) = missing {
            return Some(format!("CPU thread {thread} of VM {vm} is no longer usable"));
        }
        for ((node, page), booked) in &self.pages {
            let total = total_pages(inventory, *node, *page);
            if *booked > total {
                return Some(format!("{booked} pages of {page} are booked on NUMA node {node}, it has {total}"));
            }
        }
        let total = total_ordinary(inventory);
        (self.ordinary > total)
            .then(|| format!("{} of ordinary memory are booked, the host has {total}", self.ordinary))
    }
}

fn total_pages(inventory: &Inventory, node: NodeId, page: PageSize) -> u64 {
    inventory
        .hugepages
        .iter()
        .filter(|pool| pool.node == node && pool.page == page)
        .fold(0, |sum, pool| sum.saturating_add(pool.total))
}

fn total_ordinary(inventory: &Inventory) -> Bytes {
    inventory.memory.iter().fold(Bytes(0), |sum, node| sum.saturating_add(node.ordinary))
}
