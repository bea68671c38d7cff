//! Instance types and preferences: names for sizes and for wishes. They are expanded at admission and stored in the VM by
//! value, so that changing one changes no VM that is there.

use serde::{Deserialize, Serialize};

use crate::vm::{CpuShape, NumaPolicy, SmtPolicy};
use crate::{Bytes, Meta, PageSize};

/// The size that a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceTypeSpec {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory: Bytes,
}

/// An instance type known to the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceType {
    /// Its metadata; instance types are cluster-wide.
    pub meta: Meta,
    /// Its size.
    pub spec: InstanceTypeSpec,
}

/// The built-in types, present in every cluster from its bootstrap: name, virtual CPUs, memory (requirement B2).
pub const BUILT_IN: [(&str, InstanceTypeSpec); 3] = [
    ("standard-2", InstanceTypeSpec { cpus: 2, memory: Bytes::gib(8) }),
    ("standard-4", InstanceTypeSpec { cpus: 4, memory: Bytes::gib(16) }),
    ("standard-8", InstanceTypeSpec { cpus: 8, memory: Bytes::gib(32) }),
];

/// What a preference wishes; what it does not name is left to the template.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PreferenceSpec {
    /// How the CPUs look to the guest.
    pub cpu_shape: Option<CpuShape>,
    /// The pages of a pinned VM; [`PageSize::Small`] refuses hugepages (requirement C4).
    pub pages: Option<PageSize>,
    /// What may share the cores of a pinned VM.
    pub smt: Option<SmtPolicy>,
    /// Over how many NUMA nodes a pinned VM may lie.
    pub numa: Option<NumaPolicy>,
    /// Whether QEMU's own threads of a pinned VM get a host thread for themselves.
    pub dedicated_emulator: Option<bool>,
    /// IOThreads of a pinned VM with a host thread each for themselves.
    pub dedicated_iothreads: Option<u32>,
}

/// A preference known to the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Preference {
    /// Its metadata; preferences are cluster-wide.
    pub meta: Meta,
    /// Its wishes.
    pub spec: PreferenceSpec,
}

/// The built-in preferences, present in every cluster from its bootstrap (requirement B3).
pub const BUILT_IN_PREFERENCES: [(&str, PreferenceSpec); 1] = [(
    "sockets-advantage",
    PreferenceSpec {
        cpu_shape: Some(CpuShape::Sockets),
        pages: None,
        smt: None,
        numa: None,
        dedicated_emulator: None,
        dedicated_iothreads: None,
    },
)];
