//! Virtual machines: what was asked ([`VmSpec`]), chosen ([`Assignment`]), seen ([`Observed`]), and what people read
//! of it ([`VmStatus`]).

mod assignment;
pub mod budget;
mod observed;
mod spec;
mod status;
mod tuning;

use serde::{Deserialize, Serialize};

pub use assignment::{Assignment, NodePages, Resources};
pub use observed::{Accelerator, DomainState, Observed, StopReason};
pub use spec::{DeviceDemand, RunStrategy, VmSpec};
pub use status::{VmPhase, VmStatus};
pub use tuning::{CpuShape, NumaPolicy, Performance, Qos, SmtPolicy, Tuning};

use crate::{Meta, Name, Timestamp};

/// Why no host could take a VM, as the planner last found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unplaced {
    /// When this was first found, by entry time.
    pub since: Timestamp,
    /// Hosts that were looked at.
    pub hosts: u32,
    /// Each host's name and why not, in the order of names; at most [`Unplaced::LISTED`].
    pub refusals: Vec<(Name, String)>,
}

impl Unplaced {
    /// How many refusals are kept: enough to read, few enough that 50,000 waiting VMs stay small.
    pub const LISTED: usize = 16;
}

/// A virtual machine in the replicated state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vm {
    /// Its metadata. `meta.uid` is its identity, its disk serial and the name of its domain.
    pub meta: Meta,
    /// What was asked.
    pub spec: VmSpec,
    /// How often a restart was asked for.
    pub restart_count: u64,
    /// Where it runs and on what, once chosen.
    pub assignment: Option<Assignment>,
    /// Why it could not be placed, while it waits.
    pub unplaced: Option<Unplaced>,
    /// What its host last reported of it.
    pub observed: Option<Observed>,
}

impl Vm {
    /// One that was just asked for: placed nowhere, and seen by nobody.
    pub fn new(meta: Meta, spec: VmSpec) -> Self {
        Self { meta, spec, restart_count: 0, assignment: None, unplaced: None, observed: None }
    }

    /// Its identity, typed.
    pub const fn uid(&self) -> crate::VmUid {
        crate::VmUid(self.meta.uid)
    }
}
