//! Virtual machines: what was asked ([`VmSpec`]), chosen ([`Assignment`]), seen ([`Observed`]), and what people read
//! of it ([`VmStatus`]).

mod assignment;
pub mod budget;
mod lifecycle;
mod observed;
mod spec;
mod status;
mod tuning;

use serde::{Deserialize, Serialize};

pub use assignment::{Assignment, NodePages, Resources};
pub use lifecycle::{Ended, Past, Power, Rest, shall_start};
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
    /// How often one more run was asked for: by a restart, or by a start of a VM whose last run was its last.
    pub restart_count: u64,
    /// What operators last said about its run.
    pub power: Power,
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
        Self { meta, spec, restart_count: 0, power: Power::default(), assignment: None, unplaced: None, observed: None }
    }

    /// Its strategy as it counts now.
    pub const fn run_now(&self) -> RunStrategy {
        self.power.effective(self.spec.run)
    }

    /// Its placement was ended without its host's word: what may have run there is over, and whether the VM runs
    /// elsewhere is for its strategy to say. The new host knows nothing of its past, so what rests is told to.
    pub fn lose_berth(&mut self) {
        let seen = self.observed.as_ref();
        let is_done = seen.is_some_and(|seen| seen.restart_count >= self.restart_count);
        let rests = match self.spec.run {
            RunStrategy::Always | RunStrategy::Halted => false,
            RunStrategy::RerunOnFailure => {
                is_done && seen.is_some_and(|seen| seen.state == DomainState::Stopped(StopReason::GuestShutdown))
            }
            RunStrategy::Manual => is_done,
            RunStrategy::Once => self.assignment.is_some(),
        };
        self.power.off |= rests;
        self.assignment = None;
        self.observed = None;
    }

    /// Its identity, typed.
    pub const fn uid(&self) -> crate::VmUid {
        crate::VmUid(self.meta.uid)
    }
}
