//! What the controller chose for a VM: a host and the exact resources on it. A host applies this and never chooses.

use serde::{Deserialize, Serialize};

use crate::host::{NodeId, ThreadId, ThreadSet};
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resources {
    /// The host thread of each virtual CPU, in the order of virtual CPUs; exclusive.
    pub vcpus: Vec<ThreadId>,
    /// Where QEMU's own threads run: the host's reserve unless dedicated ones were asked for; not exclusive.
    pub emulator: ThreadSet,
    /// Where the shared IOThread runs; not exclusive.
    pub iothread: ThreadSet,
    /// Guest memory by NUMA node; exclusive.
    pub memory: Vec<NodePages>,
    /// Ordinary memory booked beside guest memory.
    pub overhead: Bytes,
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
