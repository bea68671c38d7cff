//! Pure cluster decisions: a view goes in, a plan and its reasons come out.
//!
//! The planner runs on the leader only and holds no state between calls; the same view gives the same plan. What it
//! proposes is checked again in apply, so a plan made from an older view is refused there and made anew.

mod choose;
mod refusal;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::vm::{Resources, Unplaced, Vm};
use berth_model::{HostUid, Name, VmUid};
use berth_state::{Body, Cluster, HostBookings};

pub use choose::{Candidate, place};
pub use refusal::{Refusal, never_fits};

/// How much one call may do, so that a leader with 50,000 waiting VMs still answers its hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// VMs looked at in one call.
    pub vms: usize,
}

impl Default for Budget {
    /// 200 VMs against 1,000 hosts take some tens of milliseconds.
    fn default() -> Self {
        Self { vms: 200 }
    }
}

/// What one VM's turn came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It got a berth.
    Placed {
        /// Where.
        host: HostUid,
        /// Why there.
        candidate: Candidate,
    },
    /// No host can take it now.
    Refused(Vec<(Name, Refusal)>),
}

/// What shall be done, and why.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// To be proposed, in order.
    pub commands: Vec<Body>,
    /// What each VM's turn came to.
    pub report: Vec<(VmUid, Verdict)>,
    /// VMs that were not looked at because the budget was used up.
    pub left: usize,
}

/// Plans for the VMs that wait, oldest first by uid of equal creation time.
pub fn plan(view: &Cluster, budget: Budget) -> Plan {
    let mut waiting: Vec<&Arc<Vm>> = view.waiting().collect();
    waiting.sort_by_key(|vm| (vm.meta.created_at, vm.uid()));
    let mut ledger = Overlay { view, changed: BTreeMap::new() };
    let mut plan = Plan { left: waiting.len().saturating_sub(budget.vms), ..Plan::default() };
    for vm in waiting.into_iter().take(budget.vms) {
        let verdict = match place(view, |host| ledger.bookings(host), vm) {
            Ok((host, resources, candidate)) => {
                ledger.book(host, vm.uid(), &resources);
                let generation = vm.meta.generation;
                plan.commands.push(Body::Assign { vm: vm.uid(), generation, host, resources });
                Verdict::Placed { host, candidate }
            }
            Err(refusals) => {
                plan.commands.extend(note(vm, &refusals));
                Verdict::Refused(refusals)
            }
        };
        plan.report.push((vm.uid(), verdict));
    }
    plan
}

/// The command that keeps new reasons; none when the same reasons are kept already.
fn note(vm: &Vm, refusals: &[(Name, Refusal)]) -> Option<Body> {
    let hosts = u32::try_from(refusals.len()).unwrap_or(u32::MAX);
    let listed: Vec<_> =
        refusals.iter().take(Unplaced::LISTED).map(|(name, why)| (name.clone(), why.to_string())).collect();
    let known = vm.unplaced.as_ref().is_some_and(|held| held.hosts == hosts && held.refusals == listed);
    (!known).then(|| Body::NoteUnplaced { vm: vm.uid(), hosts, refusals: listed })
}

/// The ledger as it will be once the commands planned so far are applied.
struct Overlay<'a> {
    view: &'a Cluster,
    changed: BTreeMap<HostUid, HostBookings>,
}

impl Overlay<'_> {
    fn bookings(&self, host: HostUid) -> HostBookings {
        self.changed
            .get(&host)
            .cloned()
            .or_else(|| self.view.bookings(host).map(|held| HostBookings::clone(held)))
            .unwrap_or_default()
    }

    fn book(&mut self, host: HostUid, vm: VmUid, resources: &Resources) {
        let mut held = self.bookings(host);
        held.book(vm, resources);
        self.changed.insert(host, held);
    }
}

#[cfg(test)]
mod tests;
