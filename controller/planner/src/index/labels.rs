//! Which VMs that are placed have which label, so that a selector is compared with few of them.

use std::collections::{HashMap, HashSet};

use berth_model::placement::{Operator, Selector};
use berth_model::vm::Vm;
use berth_model::{Name, VmUid};

type ByValue = HashMap<String, HashSet<VmUid>>;

/// Placed VMs by project, key and value of each label.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Labels {
    projects: HashMap<Name, HashMap<String, ByValue>>,
}

impl Labels {
    pub(super) fn add(&mut self, vm: &Vm) {
        if vm.meta.labels.is_empty() {
            return;
        }
        let by_key = self.projects.entry(vm.meta.project.clone()).or_default();
        for (key, value) in &vm.meta.labels {
            by_key.entry(key.clone()).or_default().entry(value.clone()).or_default().insert(vm.uid());
        }
    }

    pub(super) fn remove(&mut self, vm: &Vm) {
        let Some(by_key) = self.projects.get_mut(&vm.meta.project) else { return };
        for (key, value) in &vm.meta.labels {
            let Some(by_value) = by_key.get_mut(key) else { continue };
            if let Some(vms) = by_value.get_mut(value) {
                vms.remove(&vm.uid());
                if vms.is_empty() {
                    by_value.remove(value);
                }
            }
            if by_value.is_empty() {
                by_key.remove(key);
            }
        }
        if by_key.is_empty() {
            self.projects.remove(&vm.meta.project);
        }
    }

    /// The VMs among which all are that the selector selects: those that meet the condition which fewest meet. None if no
    /// condition asks for certain values, or if it is not much fewer than `all`.
    pub(super) fn candidates<'a>(
        &'a self,
        project: &Name,
        selector: &'a Selector,
        all: usize,
    ) -> Option<impl Iterator<Item = VmUid> + 'a> {
        let by_key = self.projects.get(project);
        let sets = |at: usize| {
            let asked = &selector.0[at];
            let by_value = by_key.and_then(|by_key| by_key.get(&asked.key));
            by_value.into_iter().flat_map(|by_value| asked.values.iter().filter_map(|value| by_value.get(value)))
        };
        let is_of_values = |at: &usize| selector.0[*at].operator == Operator::In && !selector.0[*at].values.is_empty();
        let counts =
            (0..selector.0.len()).filter(is_of_values).map(|at| (sets(at).map(HashSet::len).sum::<usize>(), at));
        let (count, at) = counts.min()?;
        // Each is looked up by its uid, which costs more than to walk past it.
        (count * 8 <= all).then(|| sets(at).flatten().copied().collect::<Vec<_>>().into_iter())
    }
}
