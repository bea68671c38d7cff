//! The plan for VMs that wait: one after another by their turns, and if some find no room, in other orders too.
//!
//! A VM takes the best host that there is when its turn comes. On few hosts that may leave no room for one behind it although
//! another order would have had room for both; then other orders are tried and the one that places most is taken. VMs
//! that were passed over before keep their right: an order that leaves out one of them which the plain order places is
//! not taken, or a stream of small VMs could keep a large one waiting for ever. Nothing that is placed is ever displaced.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use berth_model::vm::{Resources, Unplaced, Vm};
use berth_model::{HostUid, Name, Timestamp, VmUid};
use berth_state::{Body, Cluster};

use crate::choose::{Ask, Candidate, Mode, choose, host_of, reasons};
use crate::index::Index;
use crate::note::{Figures, note};
use crate::refusal::Refusal;

/// How much one call may do, so that a leader with 50,000 waiting VMs still answers its hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// VMs looked at in one call; at least one is. Fewer are if their rules speak of much that was never counted before.
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
    Refused(Refused),
}

/// Why no host can take a VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Hosts that were looked at.
    pub hosts: usize,
    /// The first reason of each, in the order of names; at most [`Unplaced::LISTED`].
    pub listed: Vec<(Name, Refusal)>,
}

/// Whose turn a call ended with, so that the next goes on behind it: VMs that cannot be placed must not keep those
/// behind them from being looked at. The greater priority first, then the older, then by uid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Turn {
    priority: Reverse<i32>,
    created_at: Timestamp,
    vm: VmUid,
}

impl Turn {
    pub(crate) fn of(vm: &Vm) -> Self {
        Self { priority: Reverse(vm.spec.rules.priority), created_at: vm.meta.created_at, vm: vm.uid() }
    }
}

/// What shall be done, and why.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// To be proposed, in order.
    pub commands: Vec<Body>,
    /// What each VM's turn came to, in the order of turns.
    pub report: Vec<(VmUid, Verdict)>,
    /// Where the next call goes on, if the budget was used up before every waiting VM had its turn.
    pub next: Option<Turn>,
}

/// Plans for the VMs that wait and come after `after`.
pub fn plan(view: &Cluster, index: &mut Index, after: Option<Turn>, budget: Budget) -> Plan {
    index.catch_up(view);
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let most = budget.vms.max(1);
    let turns: Vec<Turn> =
        index.waiting.range((from, Bound::Unbounded)).take(most.saturating_add(1)).copied().collect();
    let mut vms: Vec<Arc<Vm>> = turns.iter().take(most).filter_map(|turn| view.vms.get(&turn.vm).cloned()).collect();
    let prepared = index.prepare(&vms);
    vms.truncate(prepared);
    let mut plan = Plan::default();
    if turns.len() > vms.len() {
        plan.next = vms.last().map(|vm| Turn::of(vm));
    }
    let figures = Figures::of_waiting(index.waiting.len());
    let mark = index.mark();
    let mut placed = best_order(index, &vms);
    // In the order in which they were chosen, because rules look at what was placed before.
    let (mut assigns, mut notes) = (BTreeMap::new(), Vec::new());
    // All reasons are those at the end: what was placed after a VM's turn may be among them.
    for vm in &vms {
        let verdict = match placed.remove(&vm.uid()) {
            Some(Placed { host, candidate, resources, order }) => {
                let generation = vm.meta.generation;
                assigns.insert(order, Body::Assign { vm: vm.uid(), generation, host, resources });
                Verdict::Placed { host, candidate }
            }
            None => {
                let ask = Ask::of(index, vm);
                let (hosts, listed) = reasons(index, vm, &ask, Unplaced::LISTED);
                let refused = Refused { hosts, listed };
                notes.extend(note(vm, &refused, figures));
                Verdict::Refused(refused)
            }
        };
        plan.report.push((vm.uid(), verdict));
    }
    index.take_back(mark);
    plan.commands = assigns.into_values().chain(notes).collect();
    plan
}

#[derive(Clone, Debug)]
struct Placed {
    host: HostUid,
    candidate: Candidate,
    resources: Resources,
    /// How many were placed before it.
    order: usize,
}

type Attempt = BTreeMap<VmUid, Placed>;

/// Beyond this many VMs times hosts no other orders are tried: there, what an order gains is little and costs much.
const FEW: usize = 4096;

/// How often those that found no room are moved to the front.
const SHUFFLES: usize = 12;

/// Places the VMs on the index in the order that places most, and leaves them there.
fn best_order(index: &mut Index, vms: &[Arc<Vm>]) -> Attempt {
    let mark = index.mark();
    let plain: Vec<&Arc<Vm>> = vms.iter().collect();
    let mut best = attempt(index, &plain, Mode::Spread);
    if best.len() == vms.len() || vms.len().saturating_mul(index.rows.len()) > FEW || index.rows.is_empty() {
        return best;
    }
    let seniors: BTreeSet<VmUid> =
        vms.iter().filter(|vm| vm.unplaced.is_some()).map(|vm| vm.uid()).filter(|vm| best.contains_key(vm)).collect();
    let size = |vm: &&Arc<Vm>| (vm.spec.cpus, vm.spec.memory, vm.uid());
    let mut largest = plain.clone();
    largest.sort_by_key(|vm| Reverse(size(vm)));
    let mut smallest = plain.clone();
    smallest.sort_by_key(size);
    let mut by_memory = plain.clone();
    by_memory.sort_by_key(|vm| Reverse((vm.spec.memory, vm.spec.cpus, vm.uid())));
    let mut standing = (plain.clone(), Mode::Spread);
    let mut queue = vec![(smallest, Mode::Pack), (by_memory, Mode::Pack), (largest, Mode::Pack), (plain, Mode::Pack)];
    let mut shuffles = 0;
    while best.len() < vms.len() {
        let Some((order, mode)) = queue.pop() else { break };
        index.take_back(mark);
        let tried = attempt(index, &order, mode);
        // Who found no room goes first the next time.
        if shuffles < SHUFFLES && tried.len() < vms.len() && queue.is_empty() {
            let (mut next, rest): (Vec<_>, Vec<_>) =
                order.iter().copied().partition(|vm| !tried.contains_key(&vm.uid()));
            next.extend(rest);
            queue.push((next, mode));
            shuffles += 1;
        }
        let keeps_seniors = seniors.iter().all(|vm| tried.contains_key(vm));
        if keeps_seniors && worth(vms, &tried) > worth(vms, &best) {
            best = tried;
            standing = (order, mode);
        }
    }
    index.take_back(mark);
    attempt(index, &standing.0, standing.1)
}

/// How many are placed, by priority: the greater first.
fn worth(vms: &[Arc<Vm>], attempt: &Attempt) -> Vec<(i32, usize)> {
    let mut counts: BTreeMap<Reverse<i32>, usize> = BTreeMap::new();
    for vm in vms {
        *counts.entry(Reverse(vm.spec.rules.priority)).or_default() += usize::from(attempt.contains_key(&vm.uid()));
    }
    counts.into_iter().map(|(priority, count)| (priority.0, count)).collect()
}

/// Places one VM after another on the index and leaves them there.
fn attempt(index: &mut Index, order: &[&Arc<Vm>], mode: Mode) -> Attempt {
    let mut placed = Attempt::new();
    let mut left: Vec<&Arc<Vm>> = order.to_vec();
    loop {
        let before = placed.len();
        let mut may_ease = Vec::new();
        for vm in left {
            let ask = Ask::of(index, vm);
            let Some((row, berth, candidate)) = choose(index, vm, &ask, mode) else {
                // What others were given may be what its rules wait for.
                if ask.rules.may_ease() {
                    may_ease.push(vm);
                }
                continue;
            };
            index.try_placing(vm, row, &berth.resources);
            let host = host_of(index, row);
            placed.insert(vm.uid(), Placed { host, candidate, resources: berth.resources, order: placed.len() });
        }
        if placed.len() == before || may_ease.is_empty() {
            return placed;
        }
        left = may_ease;
    }
}
