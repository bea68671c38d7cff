//! What people read of a VM, derived by one pure function from the replicated state at one revision.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Condition, HostUid, Name};

/// A VM's life in one word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum VmPhase {
    /// Waits for a host that can take it.
    Pending,
    /// Has its berth; its host has not yet begun.
    Assigned,
    /// Being prepared or started.
    Starting,
    /// Guest code runs.
    Running,
    /// Guest code is held.
    Paused,
    /// Going down.
    Stopping,
    /// Down as asked.
    Stopped,
    /// Should run, does not, and will be tried again.
    Failing,
    /// Being deleted.
    Deleting,
    /// Its host is not heard of; it may well run.
    Unknown,
}

impl fmt::Display for VmPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "Pending",
            Self::Assigned => "Assigned",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Stopping => "Stopping",
            Self::Stopped => "Stopped",
            Self::Failing => "Failing",
            Self::Deleting => "Deleting",
            Self::Unknown => "Unknown",
        })
    }
}

/// What people read of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmStatus {
    /// In one word.
    pub phase: VmPhase,
    /// A sentence that explains the phase where it is not what was asked for; else empty.
    pub message: String,
    /// Its host.
    pub host: Option<(HostUid, Name)>,
    /// Named facts, in the order of their names.
    pub conditions: Vec<Condition>,
}
