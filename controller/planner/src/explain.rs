//! Why a VM is where it is, or waits: what each host says, and what would have to be asked for otherwise.

use berth_model::Name;
use berth_model::vm::Vm;
use berth_state::Cluster;

use crate::change::{Change, smallest};
use crate::choose::{Ask, Candidate, consider};
use crate::index::Index;
use crate::refusal::Refusal;

/// What each host says to a VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Each host in the order of names: how good it would be, or the first reason why not. The least [`Candidate`] is the
    /// one that is taken.
    pub hosts: Vec<(Name, Result<Candidate, Refusal>)>,
    /// If no host can take it: the smallest change with which one could; none if no change of the VM would do.
    pub smallest_change: Option<Vec<Change>>,
}

impl Explanation {
    /// The host that is taken.
    pub fn best(&self) -> Option<&Candidate> {
        self.hosts.iter().filter_map(|(_, word)| word.as_ref().ok()).min()
    }
}

/// Asks every host about a VM: one that waits, one that is not created yet, or one that is placed, as if it were not.
pub fn explain(view: &Cluster, index: &mut Index, vm: &Vm) -> Explanation {
    index.catch_up(view);
    if let Some(stray) = view.stray(vm.uid()) {
        let (host, refusal) = Refusal::of_stray(stray);
        let hosts = vec![(host, Err(refusal))];
        return Explanation { hosts, smallest_change: None };
    }
    let mark = index.mark();
    let placed = vm.assignment.as_ref().and_then(|held| Some((view.vms.get(&vm.uid())?, index.row(held.host)?, held)));
    if let Some((vm, row, held)) = placed {
        index.try_removing(vm, row, &held.resources);
    }
    let ask = Ask::of(index, vm);
    let hosts: Vec<_> = index
        .by_name
        .iter()
        .map(|row| {
            let word = consider(index, vm, &ask, *row).map(|(_, candidate)| candidate);
            (index.rows[*row].host.meta.name.clone(), word)
        })
        .collect();
    let smallest_change = if hosts.iter().any(|(_, word)| word.is_ok()) { None } else { smallest(index, vm) };
    index.take_back(mark);
    Explanation { hosts, smallest_change }
}
