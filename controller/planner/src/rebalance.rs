//! Moves that would make the cluster better: for rules that are no longer kept, for VMs that span nodes without need, and
//! for hosts that carry much more than others.
//!
//! A move is worth its trouble only if it makes one measure clearly better and no measure before it worse, neither for the VM
//! nor for any other; a VM that was placed or moved lately stays where it is. As each move lowers the first measure that it
//! changes, no move is the way back of others, and there is a last one.

mod strain;

use std::fmt;
use std::sync::Arc;

use berth_model::vm::{Resources, Vm};
use berth_model::{HostUid, Millis, VmUid};
use berth_state::Cluster;

use crate::allocate::Berth;
use crate::choose::{Ask, Candidate, Mode, choose, consider};
use crate::index::{Index, state_of};
use strain::Strains;

/// What would be better, with the figures before and after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gain {
    /// A required rule that is broken where the VM is would be kept.
    Rules,
    /// Soft spreads would be less uneven, by so many VMs.
    Skew {
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// The VM would span fewer NUMA nodes.
    Nodes {
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// CPU promised on the host that the VM leaves, with it, and on the one where it would be, with it, in percent.
    Load {
        /// Before.
        from: u64,
        /// After.
        to: u64,
    },
}

impl fmt::Display for Gain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules => write!(f, "a required rule is broken where it is"),
            Self::Skew { from, to } => write!(f, "its spread would be uneven by {to} instead of {from}"),
            Self::Nodes { from, to } => write!(f, "it would lie on {to} NUMA nodes instead of {from}"),
            Self::Load { from, to } => write!(f, "{from} % of its host's CPU is promised, there it would be {to} %"),
        }
    }
}

/// One move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Which VM.
    pub vm: VmUid,
    /// Where it is.
    pub from: HostUid,
    /// Where it would be.
    pub to: HostUid,
    /// What it would have there.
    pub resources: Resources,
    /// What would be better.
    pub gain: Gain,
}

/// How long a VM stays where it was placed before it may be moved.
pub const SETTLED: Millis = Millis(10 * 60 * 1000);

/// By how many percent points the loads of two hosts must differ after a move for it to be worth its trouble.
pub const LOAD_MARGIN: u64 = 20;

/// Moves that would make the cluster better, at most `most`, each possible when those before it are done.
pub fn rebalance(view: &Cluster, index: &mut Index, most: usize) -> Vec<Move> {
    index.catch_up(view);
    let mark = index.mark();
    let mut strains = Strains::of(view, index);
    let mut moves = Vec::new();
    // Loads only rise where VMs come: a host that is no fuller than this loses none for its load.
    let least_load =
        (0..index.rows.len()).filter(|row| state_of(&index.rows[*row].host).is_ok()).map(|row| load(index, row)).min();
    let least_load = least_load.unwrap_or(100);
    for vm in view.vms.values() {
        if moves.len() >= most {
            break;
        }
        let Some(held) = &vm.assignment else { continue };
        let settled = held.at.plus(SETTLED) <= view.last_at;
        let Some(row) = index.row(held.host).filter(|_| settled && !vm.meta.is_deleting()) else { continue };
        if !is_promising(index, vm, row, least_load) {
            continue;
        }
        if let Some((to, resources, gain)) = better(index, &mut strains, vm, row, &held.resources) {
            moves.push(Move { vm: vm.uid(), from: held.host, to: index.rows[to].host.uid(), resources, gain });
        }
    }
    index.take_back(mark);
    moves
}

/// Whether anything could be better for this VM: most need not be looked at.
fn is_promising(index: &Index, vm: &Vm, row: usize, least_load: u64) -> bool {
    let rules = &vm.spec.rules;
    load(index, row) >= least_load + LOAD_MARGIN
        || !rules.affinity.is_empty()
        || !rules.spread.is_empty()
        || index.guards_against(vm).next().is_some()
        || vm.assignment.as_ref().is_some_and(|held| spanned(index, row, &held.resources) > 1)
}

/// Finds a row that is better, what the VM would have there, and by what it is better.
type Way<'a> = dyn Fn(&Index) -> Option<(usize, Berth, Gain)> + 'a;

/// The better place for a VM. If there is one the VM is left there on the index, else where it is.
fn better(
    index: &mut Index,
    strains: &mut Strains,
    vm: &Arc<Vm>,
    row: usize,
    held: &Resources,
) -> Option<(usize, Resources, Gain)> {
    let before = load(index, row);
    let spans = spanned(index, row, held);
    let touched = strains.touched_by(index, vm);
    let strained = strains.strain(index, &touched);
    let mark = index.mark();
    index.try_removing(vm, row, held);
    let ask = Ask::of(index, vm);
    let stays = consider(index, vm, &ask, row).map(|(_, candidate)| Candidate { nodes: spans, ..candidate });
    let kinder = |index: &Index| {
        let (to, berth, there) = choose(index, vm, &ask, Mode::Spread)?;
        let gain = match &stays {
            // Whatever else ails the host, as being cordoned, is no reason to leave it.
            Err(_) => ask.rules.refusal(index, row).map(|_| Gain::Rules),
            Ok(here) if there.skew < here.skew => Some(Gain::Skew { from: here.skew, to: there.skew }),
            Ok(here) if there.skew == here.skew && there.unmet <= here.unmet && there.nodes < spans => {
                Some(Gain::Nodes { from: spans, to: there.nodes })
            }
            Ok(_) => None,
        }?;
        Some((to, berth, gain))
    };
    let emptier = |index: &Index| {
        // The one with most room: if even that is not much emptier, none is.
        let here = stays.as_ref().ok()?;
        let (to, berth, there) = choose(index, vm, &ask, Mode::Level)?;
        let no_worse = there.taints <= here.taints
            && there.skew <= here.skew
            && there.unmet <= here.unmet
            && there.nodes <= here.nodes;
        let after = load_with(index, to, berth.leftover);
        let gain = Gain::Load { from: before, to: after };
        (no_worse && after + LOAD_MARGIN <= before).then_some((to, berth, gain))
    };
    let ways: [&Way<'_>; 2] = [&kinder, &emptier];
    for way in ways {
        let Some((to, berth, gain)) = way(index).filter(|(to, _, _)| *to != row) else { continue };
        let away = index.mark();
        index.try_placing(vm, to, &berth.resources);
        strains.follow(index, vm, row, to);
        let after = strains.strain(index, &touched);
        let is_worth = match gain {
            Gain::Rules => after.broken < strained.broken,
            Gain::Skew { .. } => after.broken <= strained.broken && after.skew < strained.skew,
            Gain::Nodes { .. } | Gain::Load { .. } => after.broken <= strained.broken && after.skew <= strained.skew,
        };
        if is_worth {
            return Some((to, berth.resources, gain));
        }
        strains.follow(index, vm, to, row);
        index.take_back(away);
    }
    index.take_back(mark);
    None
}

/// CPU that is promised, in percent of what is for VMs.
fn load(index: &Index, row: usize) -> u64 {
    load_with(index, row, index.rows[row].free.shared)
}

fn load_with(index: &Index, row: usize, left: u64) -> u64 {
    let layout = &index.rows[row].layout;
    let all = (layout.threads - layout.reserved) as u64 * 1000;
    all.saturating_sub(left) * 100 / all.max(1)
}

fn spanned(index: &Index, row: usize, held: &Resources) -> u32 {
    let topology = &index.rows[row].host.inventory.topology;
    let threads = held.vcpus.iter().copied().chain(held.dedicated.iter()).filter_map(|id| topology.thread(id));
    let mut nodes: Vec<_> = threads.map(|thread| thread.node).chain(held.memory.iter().map(|part| part.node)).collect();
    nodes.sort_unstable();
    nodes.dedup();
    u32::try_from(nodes.len()).unwrap_or(u32::MAX)
}
