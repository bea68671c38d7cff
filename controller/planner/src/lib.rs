//! Pure cluster decisions: a view goes in, a plan and its reasons come out.
//!
//! The planner runs on the leader only and holds no state between calls; the same view gives the same plan. What it
//! proposes is checked again in apply, so a plan made from an older view is refused there and made anew.

mod choose;
mod refusal;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::vm::{Resources, Unplaced, Vm};
use berth_model::{HostUid, Name, Timestamp, VmUid};
use berth_state::{Body, Cluster, HostBookings};

pub use choose::{Candidate, place};
pub use refusal::{Refusal, never_fits};

/// How much one call may do, so that a leader with 50,000 waiting VMs still answers its hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// VMs looked at in one call; at least one is.
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

/// Whose turn a call ended with, so that the next goes on behind it: VMs that cannot be placed must not keep those
/// behind them from being looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Turn {
    created_at: Timestamp,
    vm: VmUid,
}

impl Turn {
    fn of(vm: &Vm) -> Self {
        Self { created_at: vm.meta.created_at, vm: vm.uid() }
    }
}

/// What shall be done, and why.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// To be proposed, in order.
    pub commands: Vec<Body>,
    /// What each VM's turn came to.
    pub report: Vec<(VmUid, Verdict)>,
    /// Where the next call goes on, if the budget was used up before every waiting VM had its turn.
    pub next: Option<Turn>,
}

/// Plans for the VMs that wait and come after `after`, oldest first, by uid where the creation time is equal.
pub fn plan(view: &Cluster, after: Option<Turn>, budget: Budget) -> Plan {
    let mut waiting: Vec<(Turn, &Arc<Vm>)> = view
        .waiting()
        .map(|vm| (Turn::of(vm), vm))
        .filter(|(turn, _)| after.is_none_or(|after| *turn > after))
        .collect();
    waiting.sort_unstable_by_key(|(turn, _)| *turn);
    let figures = if view.waiting().nth(FEW_WAIT).is_none() { Figures::Follow } else { Figures::Let };
    let looked_at = waiting.len().min(budget.vms.max(1));
    let mut plan = Plan::default();
    if looked_at < waiting.len() {
        plan.next = Some(waiting[looked_at - 1].0);
    }
    let mut ledger = Overlay { view, changed: BTreeMap::new() };
    for (_, vm) in &waiting[..looked_at] {
        let verdict = match place(view, |host| ledger.bookings(host), vm) {
            Ok((host, resources, candidate)) => {
                ledger.book(host, vm.uid(), &resources);
                let generation = vm.meta.generation;
                plan.commands.push(Body::Assign { vm: vm.uid(), generation, host, resources });
                Verdict::Placed { host, candidate }
            }
            Err(refusals) => {
                plan.commands.extend(note(vm, &refusals, figures));
                Verdict::Refused(refusals)
            }
        };
        plan.report.push((vm.uid(), verdict));
    }
    plan
}

/// How many VMs may wait while each figure in their reasons is still followed.
///
/// Each berth given or freed changes a figure in the reasons of every VM that waits: with thousands of them that would
/// be thousands of log entries for one event.
const FEW_WAIT: usize = 64;

/// The longest reason that is kept, in characters; a host's own words may be part of it.
const REASON_LIMIT: usize = 240;

#[derive(Clone, Copy)]
enum Figures {
    /// A reason is noted anew when anything in it changed.
    Follow,
    /// A reason is noted anew when it became another one, whatever its figures.
    Let,
}

/// The command that keeps new reasons; none when the same reasons are kept already.
fn note(vm: &Vm, refusals: &[(Name, Refusal)], figures: Figures) -> Option<Body> {
    let hosts = u32::try_from(refusals.len()).unwrap_or(u32::MAX);
    let listed: Vec<(Name, String)> = refusals
        .iter()
        .take(Unplaced::LISTED)
        .map(|(name, why)| (name.clone(), why.to_string().chars().take(REASON_LIMIT).collect()))
        .collect();
    let same = |held: &str, now: &str| match figures {
        Figures::Follow => held == now,
        Figures::Let => words(held).eq(words(now)),
    };
    let known = vm.unplaced.as_ref().is_some_and(|held| {
        held.hosts == hosts
            && held.refusals.len() == listed.len()
            && held.refusals.iter().zip(&listed).all(|(held, now)| held.0 == now.0 && same(&held.1, &now.1))
    });
    (!known).then(|| Body::NoteUnplaced { vm: vm.uid(), hosts, refusals: listed })
}

/// A reason without its figures: the words in which no digit is.
fn words(reason: &str) -> impl Iterator<Item = &str> {
    reason.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
}

/// The ledger as it will be once the commands planned so far are applied.
struct Overlay<'a> {
    view: &'a Cluster,
    changed: BTreeMap<HostUid, Arc<HostBookings>>,
}

impl Overlay<'_> {
    fn bookings(&self, host: HostUid) -> Arc<HostBookings> {
        self.changed.get(&host).cloned().unwrap_or_else(|| self.view.occupied(host))
    }

    fn book(&mut self, host: HostUid, vm: VmUid, resources: &Resources) {
        let mut held = self.bookings(host);
        Arc::make_mut(&mut held).book(vm, resources);
        self.changed.insert(host, held);
    }
}

#[cfg(test)]
mod tests;
