//! What the controller chose for a VM: a host and the exact resources on it. A host applies this and never chooses.

use serde::{Deserialize, Serialize};

use crate::host::{NodeId, PciAddress, ThreadId, ThreadSet};
use crate::{Bytes, Epoch, HostUid, PageSize, Timestamp};

/// Guest memory on one NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodePages {
    /// The host's NUMA node.
    pub node: NodeId,
    /// The size of each page.
    pub page: PageSize,
    /// How many pages.
    pub count: u64,
}

/// The exact resources of one VM on one host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    /// The host thread of each virtual CPU, in the order of virtual CPUs; exclusive. None for a VM whose CPUs float over
    /// the threads that no VM has for itself.
    pub vcpus: Vec<ThreadId>,
    /// Threads that are exclusive beside those of its virtual CPUs: for QEMU's own threads and IOThreads, where dedicated
    /// ones were asked for.
    pub dedicated: ThreadSet,
    /// Threads that nobody uses, because their siblings are this VM's.
    pub idle: ThreadSet,
    /// Where QEMU's own threads run: of `dedicated`, or the host's reserve.
    pub emulator: ThreadSet,
    /// Where the IOThreads run: of `dedicated`, or the host's reserve.
    pub iothread: ThreadSet,
    /// Thousandths of a CPU thread that are booked among the threads that no VM has for itself.
    pub shared_cpu: u64,
    /// Guest memory by NUMA node; exclusive. Of an over-subscribed VM, what is booked of it.
    pub memory: Vec<NodePages>,
    /// Ordinary memory booked beside guest memory.
    pub overhead: Bytes,
    /// PCI devices; exclusive, with their whole IOMMU groups.
    pub devices: Vec<PciAddress>,
}

impl Resources {
    /// Every thread that nobody else may have, each once if the resources are sound.
    pub fn exclusive(&self) -> impl Iterator<Item = ThreadId> + '_ {
        self.vcpus.iter().copied().chain(self.dedicated.iter()).chain(self.idle.iter())
    }

    /// Booked guest memory on ordinary pages.
    pub fn ordinary_pages(&self) -> Bytes {
        let small = self.memory.iter().filter(|part| part.page == PageSize::Small);
        small
            .fold(Bytes(0), |sum, part| sum.saturating_add(Bytes(part.count.saturating_mul(PageSize::Small.bytes().0))))
    }
}

/// Where a VM belongs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The host.
    pub host: HostUid,
    /// The revision of the `Assign` that made this.
    pub epoch: Epoch,
    /// What was chosen there.
    pub resources: Resources,
    /// When, by entry time.
    pub at: Timestamp,
}
