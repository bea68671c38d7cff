//! Hosts: the machines that carry VMs.

mod inventory;
mod pci;
mod threads;
mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

pub use inventory::{AcceleratorReport, HugepagePool, Inventory, NodeMemory};
pub use pci::{PciAddress, PciAddressError, PciDevice, PciKind};
pub use threads::{ThreadSet, ThreadSetError};
pub use topology::{CoreId, NodeId, Thread, ThreadId, Topology};

use crate::image::{ImageOnHost, Sha256Digest};
use crate::placement::{Domain, Taint};
use crate::vm::Resources;
use crate::{BootId, Condition, HostUid, Meta, Name, Stamp, Timestamp, VmUid};

/// Whether a host is heard of: replicated transitions, from the leader's count of heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Liveness {
    /// It has a session with the leader.
    Alive,
    /// Its heartbeats stopped a short while ago.
    Suspect,
    /// It has not been heard of for long. Its VMs may well run: nothing is inferred about them.
    Lost,
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alive => "Alive",
            Self::Suspect => "Suspect",
            Self::Lost => "Lost",
        })
    }
}

/// A percentage of at least 100.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub u32);

impl Percent {
    /// The most that makes sense of over-subscription: twenty to one.
    pub const MOST: u32 = 2000;

    /// The percentage, at least 100 whatever was stored: a ratio is divided by.
    pub const fn get(self) -> u64 {
        if self.0 < 100 { 100 } else { self.0 as u64 }
    }

    /// The percentage; none outside 100 to [`Percent::MOST`].
    pub const fn checked(percent: u32) -> Option<Self> {
        if percent >= 100 && percent <= Self::MOST { Some(Self(percent)) } else { None }
    }
}

/// How much more a host promises to over-subscribed VMs than it has (requirement C2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Overcommit {
    /// Virtual CPUs in percent of CPU threads.
    pub cpu_percent: Percent,
    /// Guest memory in percent of memory.
    pub memory_percent: Percent,
}

impl Overcommit {
    /// Nothing is promised twice.
    pub const NONE: Self = Self { cpu_percent: Percent(100), memory_percent: Percent(100) };
    /// The most that can be promised.
    pub const MOST: Self = Self { cpu_percent: Percent(Percent::MOST), memory_percent: Percent(Percent::MOST) };
}

impl Default for Overcommit {
    /// Four virtual CPUs to a thread; a quarter more memory than there is, which page sharing and ballooning carry.
    fn default() -> Self {
        Self { cpu_percent: Percent(400), memory_percent: Percent(125) }
    }
}

/// What was asked of a host. Its labels are in its metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostSpec {
    /// Takes no new VMs.
    pub cordoned: bool,
    /// The zone it stands in.
    pub zone: Option<Name>,
    /// The rack it stands in.
    pub rack: Option<Name>,
    /// Groups it belongs to.
    pub groups: BTreeSet<Name>,
    /// Marks that keep VMs away.
    pub taints: BTreeSet<Taint>,
    /// What it promises to over-subscribed VMs.
    pub overcommit: Overcommit,
}

impl HostSpec {
    /// The most taints, and the most groups, of one host.
    pub const MOST: usize = 16;
}

/// A placement that was ended without the host's word, by an operator's word that the host is dead. It stays until the
/// host reports the domain gone, and what it had booked there is given to nobody as long.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Eviction {
    /// Which VM.
    pub vm: VmUid,
    /// The placement that ended.
    pub stamp: Stamp,
    /// What it had there.
    pub resources: Resources,
    /// Whether its disk there goes too: only if the VM was being deleted. Otherwise what it holds may be wanted.
    pub with_disk: bool,
}

/// A domain that carries Berth's mark and that the controllers do not know or do not place here.
///
/// It keeps running until an operator adopts or removes it (law 5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Orphan {
    /// As the domain's metadata says.
    pub vm: VmUid,
    /// Project and name, as the domain's metadata says.
    pub called: String,
    /// Whether guest code runs.
    pub running: bool,
}

/// A host in the replicated state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Its metadata; hosts are cluster-wide.
    pub meta: Meta,
    /// What was asked of it.
    pub spec: HostSpec,
    /// Where its daemon answers controllers, `address:port`.
    pub address: String,
    /// The boot it last reported from.
    pub boot: BootId,
    /// Whether it is heard of.
    pub liveness: Liveness,
    /// When `liveness` last changed, by entry time.
    pub liveness_since: Timestamp,
    /// What the host is, as it last reported.
    pub inventory: Inventory,
    /// Named facts that the host reported of itself.
    pub conditions: Vec<Condition>,
    /// Image files that it found.
    pub images: BTreeMap<Sha256Digest, ImageOnHost>,
    /// Domains of ours that nobody knows.
    pub orphans: Vec<Orphan>,
    /// Placements that were ended without its word, in ascending order of VM.
    pub evictions: Vec<Eviction>,
    /// From when an older state of the cluster was put back until the host said what runs on it, or an operator that nothing
    /// does: the entry time at which that state ended. VMs of that time may run there without being known to.
    pub awaited: Option<Timestamp>,
}

impl Host {
    /// Its identity, typed.
    pub const fn uid(&self) -> HostUid {
        HostUid(self.meta.uid)
    }

    /// The part of the cluster that it belongs to, by name; none if it belongs to none of this kind.
    pub fn domain(&self, domain: &Domain) -> Option<&str> {
        match domain {
            Domain::Host => Some(self.meta.name.as_str()),
            Domain::Rack => self.spec.rack.as_ref().map(Name::as_str),
            Domain::Zone => self.spec.zone.as_ref().map(Name::as_str),
            Domain::Label(key) => self.meta.labels.get(key).map(String::as_str),
        }
    }
}
