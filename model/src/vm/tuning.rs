//! How a VM gets its CPUs and its memory, with every default expanded at admission and stored by value.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::PageSize;

/// Which tuning template a VM gets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Performance {
    /// Exclusive pinned CPU threads, guest memory on hugepages of the same NUMA nodes, virtio-blk with a queue per vCPU.
    High,
    /// Its CPUs float over the threads that no VM has for itself; what is booked is what was asked.
    Standard,
    /// As standard, and over-subscribed: less is booked than was asked, by the host's ratios.
    Density,
}

impl Performance {
    /// Every template.
    pub const ALL: [Self; 3] = [Self::High, Self::Standard, Self::Density];

    /// Whether each virtual CPU has a host thread for itself.
    pub const fn is_pinned(self) -> bool {
        matches!(self, Self::High)
    }

    /// What the VM may count on (requirement C9).
    pub const fn qos(self) -> Qos {
        match self {
            Self::High | Self::Standard => Qos::Guaranteed,
            Self::Density => Qos::Burstable,
        }
    }
}

impl fmt::Display for Performance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::High => "high",
            Self::Standard => "standard",
            Self::Density => "density",
        })
    }
}

/// What a VM may count on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Qos {
    /// All that was asked, always.
    Guaranteed,
    /// All that was asked as long as its neighbours on the host do not ask for theirs.
    Burstable,
}

impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Guaranteed => "guaranteed",
            Self::Burstable => "burstable",
        })
    }
}

/// What may share a core with a pinned VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum SmtPolicy {
    /// Threads of one core may belong to different VMs; whole cores are taken first.
    Siblings,
    /// Only whole cores: a sibling that is left over stays idle.
    WholeCores,
    /// One virtual CPU to a core: all its siblings stay idle.
    Isolate,
}

impl fmt::Display for SmtPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Siblings => "siblings",
            Self::WholeCores => "whole-cores",
            Self::Isolate => "isolate",
        })
    }
}

/// Over how many NUMA nodes a pinned VM may lie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum NumaPolicy {
    /// As few as possible.
    Fewest,
    /// One; without a host that has it, the VM waits.
    Single,
}

impl fmt::Display for NumaPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fewest => "fewest",
            Self::Single => "single",
        })
    }
}

/// How a VM's CPUs look to its guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum CpuShape {
    /// One socket of many cores.
    Cores,
    /// As many sockets as CPUs (the preference `sockets-advantage`).
    Sockets,
}

impl fmt::Display for CpuShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cores => "cores",
            Self::Sockets => "sockets",
        })
    }
}

/// How a VM gets its CPUs and its memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Tuning {
    /// The pages that guest memory lies on; hugepages only for a pinned VM.
    pub pages: PageSize,
    /// What may share its cores; a pinned VM only.
    pub smt: SmtPolicy,
    /// Over how many NUMA nodes it may lie; a pinned VM only.
    pub numa: NumaPolicy,
    /// Whether QEMU's own threads get a host thread for themselves; a pinned VM only.
    pub dedicated_emulator: bool,
    /// IOThreads with a host thread each for themselves; a pinned VM only. With none they share the host's own threads.
    pub dedicated_iothreads: u32,
    /// How its CPUs look to its guest.
    pub cpu_shape: CpuShape,
}

impl Tuning {
    /// The most IOThreads that have a host thread for themselves.
    pub const MOST_IOTHREADS: u32 = 16;

    /// What a template means where nothing else is asked.
    pub const fn of(performance: Performance) -> Self {
        let pages = match performance {
            Performance::High => PageSize::Huge2M,
            Performance::Standard | Performance::Density => PageSize::Small,
        };
        Self {
            pages,
            smt: SmtPolicy::Siblings,
            numa: NumaPolicy::Fewest,
            dedicated_emulator: false,
            dedicated_iothreads: 0,
            cpu_shape: CpuShape::Cores,
        }
    }

    /// Host threads that QEMU's own threads and IOThreads get for themselves.
    pub const fn dedicated_threads(&self) -> u32 {
        self.dedicated_emulator as u32 + self.dedicated_iothreads
    }
}
