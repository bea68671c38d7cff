//! Hosts: the machines that carry VMs.

mod inventory;
mod threads;
mod topology;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use inventory::{AcceleratorReport, HugepagePool, Inventory, NodeMemory};
pub use threads::{ThreadSet, ThreadSetError};
pub use topology::{CoreId, NodeId, Thread, ThreadId, Topology};

use crate::image::{ImageOnHost, Sha256Digest};
use crate::{BootId, Condition, HostUid, Meta, Timestamp, VmUid};

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

/// What was asked of a host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostSpec {
    /// Takes no new VMs.
    pub cordoned: bool,
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
}

impl Host {
    /// Its identity, typed.
    pub const fn uid(&self) -> HostUid {
        HostUid(self.meta.uid)
    }
}
