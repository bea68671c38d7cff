//! What a host saw of a VM. Reported only when it changes, and kept in the replicated state as reported.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Ended;
use crate::{Epoch, Timestamp};

/// What runs guest code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Accelerator {
    /// The processor's own virtualization.
    Kvm,
    /// QEMU's translator: correct, and slow.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// Why a domain is not running.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum StopReason {
    /// It was never started here.
    NeverStarted,
    /// The guest shut itself down.
    GuestShutdown,
    /// It was stopped as asked.
    Asked,
    /// QEMU ended by itself or was killed.
    Crashed,
    /// It could not be started.
    StartFailed,
    /// The host does not know, for example after a reboot.
    Unknown,
    /// The guest's kernel gave up.
    Panicked,
}

/// The state of a VM's domain on its host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum DomainState {
    /// Being prepared or started.
    Starting,
    /// Guest code runs.
    Running,
    /// Guest code is held.
    Paused,
    /// The guest was asked to shut down.
    Stopping,
    /// No guest code runs; disk and definition are kept.
    Stopped(StopReason),
    /// The guest's kernel gave up: no guest code runs, and QEMU is still there.
    Panicked,
}

/// What a host last reported of one VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Observed {
    /// The epoch that the host obeys for this VM.
    pub epoch: Epoch,
    /// Its domain.
    pub state: DomainState,
    /// What runs its code, while it runs.
    pub accelerator: Option<Accelerator>,
    /// The last run that was asked for and begun.
    pub restart_count: u64,
    /// The last reset that was carried out.
    pub reset_count: u64,
    /// Starts that failed or ended in a crash in a row.
    pub failures: u32,
    /// How its last run ended, if one did; kept while the next one lasts.
    pub last_end: Option<Ended>,
    /// One UpperCamelCase word and a sentence about what hinders it, if something does.
    pub trouble: Option<(String, String)>,
    /// What the host degraded because its libvirt or QEMU lacks it, a sentence each.
    pub degraded: Vec<String>,
    /// When the domain came into this state, by the host's clock.
    pub since: Timestamp,
}
