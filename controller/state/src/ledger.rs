//! The whole-machine ledger: what assignments add up to on one host, and whether more would fit.
//!
//! A thread belongs to one VM, a hugepage to one VM; sums are conserved at every revision (law 9). The ledger is an
//! index over assignments, rebuilt from them by [`crate::audit`], and never a second source of truth.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_model::host::{Inventory, NodeId, PciAddress, PciDevice, ThreadId};
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
    /// Too little is left of the threads that no VM has for itself.
    Shared {
        /// Thousandths of a thread that would be booked among them.
        wanted: u64,
        /// Thousandths of a thread that they are.
        capacity: u64,
    },
    /// The host has no such device for VMs.
    NoSuchDevice(PciAddress),
    /// The device, or another of its group, belongs to a VM.
    DeviceTaken {
        /// Which device.
        device: PciAddress,
        /// Whose it is.
        by: VmUid,
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
            Self::Ordinary { wanted, free } => write!(f, "needs {wanted} of ordinary memory, has {free}"),
            Self::Shared { wanted, capacity } => write!(
                f,
                "{} CPU threads would be promised to VMs that share {}",
                Thousandths(*wanted),
                Thousandths(*capacity)
            ),
            Self::NoSuchDevice(device) => write!(f, "PCI device {device} is not for VMs"),
            Self::DeviceTaken { device, by } => write!(f, "PCI device {device} or its IOMMU group belongs to VM {by}"),
        }
    }
}

/// Thousandths, printed as the decimal number that they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Thousandths(pub u64);

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return whole.fmt(f);
        }
        let digits = format!("{rest:03}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// What is booked on one host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostBookings {
    threads: BTreeMap<ThreadId, VmUid>,
    pages: BTreeMap<(NodeId, PageSize), u64>,
    ordinary: Bytes,
    shared_cpu: u64,
    devices: BTreeMap<PciAddress, VmUid>,
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

    /// The threads that are booked, in ascending order.
    pub fn taken(&self) -> impl Iterator<Item = ThreadId> + '_ {
        self.threads.keys().copied()
    }

    /// How many threads are booked.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// How many pages are booked.
    pub fn pages(&self, node: NodeId, page: PageSize) -> u64 {
        self.pages.get(&(node, page)).copied().unwrap_or(0)
    }

    /// How much ordinary memory is booked: guest memory on ordinary pages, and what QEMU needs beside guest memory.
    pub fn ordinary(&self) -> Bytes {
        self.ordinary
    }

    /// Thousandths of a thread that are booked among the threads that no VM has for itself.
    pub fn shared_cpu(&self) -> u64 {
        self.shared_cpu
    }

    /// Whose a device is.
    pub fn device_owner(&self, device: PciAddress) -> Option<VmUid> {
        self.devices.get(&device).copied()
    }

    /// How many devices are booked.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Books for a VM. Whether it fits is asked before, by [`HostBookings::shortage`].
    pub fn book(&mut self, vm: VmUid, resources: &Resources) {
        self.vms.insert(vm);
        self.threads.extend(resources.exclusive().map(|thread| (thread, vm)));
        for part in &resources.memory {
            let sum = self.pages.entry((part.node, part.page)).or_default();
            *sum = sum.saturating_add(part.count);
        }
        self.ordinary = self.ordinary.saturating_add(ordinary_of(resources));
        self.shared_cpu = self.shared_cpu.saturating_add(resources.shared_cpu);
        self.devices.extend(resources.devices.iter().map(|device| (*device, vm)));
    }

    /// Releases what a VM had booked.
    pub fn release(&mut self, vm: VmUid, resources: &Resources) {
        self.vms.remove(&vm);
        for thread in resources.exclusive() {
            if self.threads.get(&thread) == Some(&vm) {
                self.threads.remove(&thread);
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
        self.ordinary = self.ordinary.saturating_sub(ordinary_of(resources));
        self.shared_cpu = self.shared_cpu.saturating_sub(resources.shared_cpu);
        for device in &resources.devices {
            if self.devices.get(device) == Some(&vm) {
                self.devices.remove(device);
            }
        }
    }

    /// The first reason why `wanted` does not fit on the host beside what is booked; none if it fits.
    pub fn shortage(&self, inventory: &Inventory, wanted: &Resources) -> Option<Shortage> {
        let mut seen = BTreeSet::new();
        for thread in wanted.exclusive() {
            let usable = inventory.topology.thread(thread).is_some() && !inventory.reserve.contains(thread);
            if !usable || !seen.insert(thread) {
                return Some(Shortage::NoSuchThread(thread));
            }
            if let Some(by) = self.owner(thread) {
                return Some(Shortage::ThreadTaken { thread, by });
            }
        }
        let capacity = shared_capacity(inventory, self.threads.len() + seen.len());
        let promised = self.shared_cpu.saturating_add(wanted.shared_cpu);
        if promised > capacity && !(seen.is_empty() && wanted.shared_cpu == 0) {
            return Some(Shortage::Shared { wanted: promised, capacity });
        }
        self.short_of_memory(inventory, wanted).or_else(|| self.short_of_devices(inventory, wanted))
    }

    fn short_of_memory(&self, inventory: &Inventory, wanted: &Resources) -> Option<Shortage> {
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
        let (free, ordinary) = (self.free_ordinary(inventory), ordinary_of(wanted));
        (ordinary > free).then_some(Shortage::Ordinary { wanted: ordinary, free })
    }

    fn short_of_devices(&self, inventory: &Inventory, wanted: &Resources) -> Option<Shortage> {
        let mut seen = BTreeSet::new();
        wanted.devices.iter().find_map(|address| {
            let device = inventory.device(*address).filter(|device| device.iommu_group.is_some());
            let Some(device) = device.filter(|_| seen.insert(*address)) else {
                return Some(Shortage::NoSuchDevice(*address));
            };
            self.holder(inventory, device).map(|by| Shortage::DeviceTaken { device: *address, by })
        })
    }

    /// The VM that holds this device, another of its IOMMU group, its physical function or one of its virtual functions.
    pub fn holder(&self, inventory: &Inventory, device: &PciDevice) -> Option<VmUid> {
        if self.devices.is_empty() {
            return None;
        }
        self.device_owner(device.address).or_else(|| {
            let mut tied = inventory.devices.iter().filter(|other| device.is_tied_to(other));
            tied.find_map(|other| self.device_owner(other.address))
        })
    }

    /// Pages of this size on this node that nobody has booked.
    pub fn free_pages(&self, inventory: &Inventory, node: NodeId, page: PageSize) -> u64 {
        total_pages(inventory, node, page).saturating_sub(self.pages(node, page))
    }

    /// Ordinary memory that nobody has booked.
    pub fn free_ordinary(&self, inventory: &Inventory) -> Bytes {
        total_ordinary(inventory).saturating_sub(self.ordinary)
    }

    /// Thousandths of a thread that can still be promised among the threads that no VM has for itself.
    pub fn free_shared_cpu(&self, inventory: &Inventory) -> u64 {
        shared_capacity(inventory, self.threads.len()).saturating_sub(self.shared_cpu)
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
        if self.ordinary > total {
            return Some(format!("{} of ordinary memory are booked, the host has {total}", self.ordinary));
        }
        let capacity = shared_capacity(inventory, self.threads.len());
        if self.shared_cpu > capacity {
            let (booked, left) = (Thousandths(self.shared_cpu), Thousandths(capacity));
            return Some(format!("{booked} CPU threads are promised to VMs that share {left}"));
        }
        let gone = self.devices.iter().find(|(address, _)| inventory.device(**address).is_none());
        gone.map(|(address, vm)| format!("PCI device {address} of VM {vm} is no longer there"))
    }
}

/// What a VM takes of ordinary memory.
fn ordinary_of(resources: &Resources) -> Bytes {
    resources.ordinary_pages().saturating_add(resources.overhead)
}

/// What the threads are that are for VMs and that no VM has for itself, in thousandths of a thread.
fn shared_capacity(inventory: &Inventory, exclusive: usize) -> u64 {
    let usable = inventory.topology.threads.iter().filter(|thread| !inventory.reserve.contains(thread.id)).count();
    (usable.saturating_sub(exclusive) as u64).saturating_mul(1000)
}

/// Pages of this size that a node has for VMs: of ordinary pages, what its ordinary memory holds.
fn total_pages(inventory: &Inventory, node: NodeId, page: PageSize) -> u64 {
    if page == PageSize::Small {
        let parts = inventory.memory.iter().filter(|part| part.node == node);
        let bytes = parts.fold(Bytes(0), |sum, part| sum.saturating_add(part.ordinary));
        return bytes.0 / page.bytes().0;
    }
    inventory
        .hugepages
        .iter()
        .filter(|pool| pool.node == node && pool.page == page)
        .fold(0, |sum, pool| sum.saturating_add(pool.total))
}

fn total_ordinary(inventory: &Inventory) -> Bytes {
    inventory.memory.iter().fold(Bytes(0), |sum, node| sum.saturating_add(node.ordinary))
}
