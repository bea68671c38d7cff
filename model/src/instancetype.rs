//! Instance types: a name for a size. They are expanded at admission and stored in the VM by value.

use serde::{Deserialize, Serialize};

use crate::{Bytes, Meta};

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
