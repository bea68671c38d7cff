//! The port through which steps are carried out and domains are seen.
//!
//! Calls block; the daemon makes them from a bounded pool of its own. A backend decides nothing.

use berth_model::vm::{Accelerator, DomainState};
use berth_model::{Timestamp, VmUid};

use crate::float::Floats;
use crate::step::{Mark, Step};

/// One domain that carries Berth's mark. Domains that do not are never shown to the brain (law 6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainSeen {
    /// What its metadata says.
    pub mark: Mark,
    /// Its state. `Starting` is never seen here: a domain runs, is paused, is going down, or is stopped.
    pub state: DomainState,
    /// What runs its code, by its own definition.
    pub accelerator: Accelerator,
    /// When it came into this state, where the backend can tell.
    pub since: Option<Timestamp>,
    /// Where it may run, by its own definition, if its CPUs float.
    pub floats: Option<Floats>,
    /// Whether it was seen, since it was started, how far it runs as its definition says; of a domain that does not run it
    /// means nothing.
    pub is_read_back: bool,
    /// What its definition lacks because this host's libvirt or QEMU cannot do it, and in what it runs otherwise than its
    /// definition says; a sentence each.
    pub degraded: Vec<String>,
}

/// Why a step or a scan did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// The backend cannot be reached at present; nothing is known of the effect.
    #[error("{what} cannot be reached: {why}")]
    Unreachable {
        /// Whom was tried, such as `libvirt at qemu:///system`.
        what: String,
        /// What was answered.
        why: String,
    },
    /// It was refused or failed; it may be tried again later.
    #[error("{what}: {why}")]
    Failed {
        /// One UpperCamelCase word for programs: `ImageMissing`, `StartFailed`, `NoSpace`.
        reason: &'static str,
        /// What was tried.
        what: String,
        /// What was answered.
        why: String,
    },
}

/// Where steps go and domains are seen.
pub trait Backend: Send + Sync + 'static {
    /// Every domain that carries Berth's mark.
    fn scan(&self) -> Result<Vec<DomainSeen>, BackendError>;

    /// Carries out one step.
    fn execute(&self, step: &Step) -> Result<(), BackendError>;

    /// Whether anything of this VM is left on the host: definition, seed or disk.
    fn leftovers(&self, vm: VmUid) -> Result<bool, BackendError>;
}
