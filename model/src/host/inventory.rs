//! What a host is, as it reports: the ledger books only what the kernel really gave (law 9).

use serde::{Deserialize, Serialize};

use super::{NodeId, PciAddress, PciDevice, ThreadSet, Topology};
use crate::vm::Accelerator;
use crate::{Bytes, PageSize};

/// Ordinary memory of one NUMA node that VMs may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeMemory {
    /// The node.
    pub node: NodeId,
    /// Bytes beyond hugepages and beyond what is kept for the host.
    pub ordinary: Bytes,
}

/// Hugepages of one size on one NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HugepagePool {
    /// The node.
    pub node: NodeId,
    /// The size of each page.
    pub page: PageSize,
    /// Pages that the kernel really gave to this host's pool.
    pub total: u64,
}

/// What runs guest code on this host, and how that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcceleratorReport {
    /// What will be used.
    pub accelerator: Accelerator,
    /// If it is not KVM: the step of the preflight that failed.
    pub failed_step: Option<String>,
    /// If it is not KVM: what happened there, a sentence.
    pub detail: Option<String>,
}

/// What a host is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inventory {
    /// Usable threads, the reserve included.
    pub topology: Topology,
    /// Threads kept for the host's own work; emulator threads and IOThreads run there.
    pub reserve: ThreadSet,
    /// Ordinary memory by node.
    pub memory: Vec<NodeMemory>,
    /// Hugepages by node and size.
    pub hugepages: Vec<HugepagePool>,
    /// PCI devices that VMs may be given, in ascending order of address.
    pub devices: Vec<PciDevice>,
    /// What runs guest code.
    pub accelerator: AcceleratorReport,
    /// The versions of what it runs VMs with, for people: `libvirt 11.3.0`, `QEMU 10.0.2`, `Linux 6.18.0`.
    pub versions: Vec<String>,
    /// Set only in the lab: this host's threads are shared with other hosts on the same machine.
    pub overlap: bool,
}

impl Inventory {
    /// The PCI device of this address.
    pub fn device(&self, address: PciAddress) -> Option<&PciDevice> {
        self.devices.binary_search_by_key(&address, |device| device.address).ok().map(|at| &self.devices[at])
    }

    /// Where emulator threads and IOThreads run: the reserve, or every thread of a host that keeps none.
    pub fn housekeeping(&self) -> ThreadSet {
        if self.reserve.is_empty() {
            self.topology.threads.iter().map(|thread| thread.id).collect()
        } else {
            self.reserve.clone()
        }
    }
}
