//! What one host shall hold, out of the replicated state.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::host::Eviction;
use berth_model::session::{Absent, DesiredEntry, Present};
use berth_model::vm::Vm;
use berth_model::{HostUid, Incarnation, Stamp, VmUid};
use berth_state::{Change, Cluster, Object};

use crate::ports::Seal;

/// What one host shall hold, as one view shows it: every VM that the cluster places on it or removes from it, and what
/// would be said of each. Nothing is copied: a host has hundreds of VMs, and is looked at again whenever one changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    incarnation: Incarnation,
    sources: BTreeMap<VmUid, Source>,
}

/// What an entry is made of.
#[derive(Clone, Debug)]
enum Source {
    /// A placement that an operator's word ended while the host was silent.
    Ended(Absent),
    Placed(Arc<Vm>),
}

impl Source {
    /// Whether a host is told the same of both.
    fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ended(one), Self::Ended(other)) => one == other,
            (Self::Placed(one), Self::Placed(other)) => Arc::ptr_eq(one, other) || told(one) == told(other),
            (Self::Ended(_), Self::Placed(_)) | (Self::Placed(_), Self::Ended(_)) => false,
        }
    }
}

/// What a host is to be told after it was told something else.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Entries that are new or others than before.
    pub(crate) entries: Vec<DesiredEntry>,
    /// VMs that are no longer in the set.
    pub(crate) forgotten: Vec<VmUid>,
    /// VMs that are left out because their secret cannot be opened, and why. Such a VM keeps running if it does, and is not
    /// started without what it was to start with.
    pub(crate) unopened: Vec<(VmUid, String)>,
}

impl Wanted {
    /// What this view wants of the host.
    pub(crate) fn of(view: &Cluster, host: HostUid) -> Self {
        let incarnation = view.info.map(|info| info.incarnation).unwrap_or_default();
        let evictions = view.hosts.get(&host).into_iter().flat_map(|host| &host.evictions);
        let ended = |ended: &Eviction| {
            let Eviction { vm, stamp, resources: _, with_disk } = *ended;
            (vm, Source::Ended(Absent { vm, stamp, with_disk }))
        };
        // No VM has its berth on a host that may still hold it by a placement that was ended there.
        let placed = view.vms_on(host).map(|vm| (vm.uid(), Source::Placed(Arc::clone(vm))));
        Self { incarnation, sources: evictions.map(ended).chain(placed).collect() }
    }

    /// What to tell a host of this that was told of `before`. What cannot be said leaves the set.
    pub(crate) fn news(&mut self, before: &Self, seal: &dyn Seal) -> News {
        let mut news = News::default();
        let is_known = self.incarnation == before.incarnation;
        for (uid, source) in &self.sources {
            if is_known && before.sources.get(uid).is_some_and(|known| known.says_the_same(source)) {
                continue;
            }
            match source {
                Source::Ended(absent) => news.entries.push(DesiredEntry::Absent(*absent)),
                Source::Placed(vm) => match entry(vm, self.incarnation, seal) {
                    Ok(entry) => news.entries.push(entry),
                    Err(why) => news.unopened.push((*uid, why)),
                },
            }
        }
        for (unsaid, _) in &news.unopened {
            self.sources.remove(unsaid);
        }
        news.forgotten.extend(before.sources.keys().filter(|uid| !self.sources.contains_key(uid)));
        news
    }
}

/// The hosts whose desired set may be another one after this change: those that are told of the VM otherwise than before.
pub fn concerned(change: &Change) -> impl Iterator<Item = HostUid> {
    let hosts = match &change.object {
        Object::Vm { before, after } => match (before.as_deref(), after.as_deref()) {
            (Some(before), Some(after)) if told(before) == told(after) => [None, None],
            (before, after) => {
                let (left, entered) = (before.and_then(host_of), after.and_then(host_of));
                [left, entered.filter(|_| entered != left)]
            }
        },
        // Placements of it that were ended without its word are told as absent until it says that they are; and whether it
        // may start anything depends on whether it is heard of.
        Object::Host { before, after: Some(after) }
            if before
                .as_deref()
                .is_none_or(|before| before.evictions != after.evictions || before.liveness != after.liveness) =>
        {
            [Some(after.uid()), None]
        }
        Object::Host { .. } | Object::Image { .. } | Object::InstanceType { .. } | Object::Preference { .. } => {
            [None, None]
        }
    };
    hosts.into_iter().flatten()
}

/// What of a VM goes into its host's set. What its host reported of it does not, and that is what changes most.
fn told(vm: &Vm) -> impl PartialEq {
    let Vm { meta, spec, restart_count, power, assignment, unplaced: _, observed: _ } = vm;
    (&meta.project, &meta.name, meta.is_deleting(), spec, *restart_count, *power, assignment)
}

fn host_of(vm: &Vm) -> Option<HostUid> {
    vm.assignment.as_ref().map(|held| held.host)
}

fn entry(vm: &Vm, incarnation: Incarnation, seal: &dyn Seal) -> Result<DesiredEntry, String> {
    let assignment = vm.assignment.clone().expect("a VM in a host's bookings has an assignment");
    let stamp = Stamp { incarnation, epoch: assignment.epoch };
    if vm.meta.is_deleting() {
        return Ok(DesiredEntry::Absent(Absent { vm: vm.uid(), stamp, with_disk: true }));
    }
    let user_data = match &vm.spec.user_data {
        None => None,
        Some(sealed) => Some(seal.open(sealed, vm.meta.uid.as_str().as_bytes())?),
    };
    let mut spec = vm.spec.clone();
    spec.user_data = None;
    let present = Present {
        vm: vm.uid(),
        project: vm.meta.project.clone(),
        name: vm.meta.name.clone(),
        spec,
        assignment,
        restart_count: vm.restart_count,
        power: vm.power,
        user_data,
    };
    Ok(DesiredEntry::Present(Box::new(present), stamp))
}

#[cfg(test)]
mod tests;
