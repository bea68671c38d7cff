//! Where VMs run whose CPUs float: on the threads that are for VMs and that no VM has for itself.
//!
//! A thread that was promised to one VM must not be shared with those that were promised none, or the promise is worth
//! nothing. The controller books numbers for VMs that float, not threads; which threads are left is seen here, from the
//! entries that the host holds, and it changes as pinned VMs come and go: running VMs are then moved
//! ([`crate::step::Step::Repin`]).

use std::collections::BTreeSet;

use berth_model::host::{Inventory, ThreadId, ThreadSet};
use berth_model::vm::Resources;

/// Where the threads of one VM may run whose CPUs float.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Floats {
    /// Its virtual CPUs.
    pub vcpus: ThreadSet,
    /// QEMU's own threads and IOThreads.
    pub helpers: ThreadSet,
}

/// The threads of a host, as far as VMs that float are concerned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shared {
    exclusive: BTreeSet<ThreadId>,
    threads: ThreadSet,
}

impl Shared {
    /// What is left of a host for VMs that float. `promised` is what every VM was given that is or may be here.
    pub fn new<'a>(inventory: &Inventory, promised: impl IntoIterator<Item = &'a Resources>) -> Self {
        let exclusive: BTreeSet<ThreadId> = promised.into_iter().flat_map(Resources::exclusive).collect();
        let all = || inventory.topology.threads.iter().map(|thread| thread.id);
        let for_vms = || all().filter(|thread| !inventory.reserve.contains(*thread));
        let left: ThreadSet = for_vms().filter(|thread| !exclusive.contains(thread)).collect();
        // A host that returned smaller may have none left. Its VMs run on, and it says that it is overbooked.
        let threads =
            [left, for_vms().collect()].into_iter().find(|set| !set.is_empty()).unwrap_or_else(|| all().collect());
        Self { exclusive, threads }
    }

    /// Where a VM of these resources may run; none for one that has its threads for itself.
    ///
    /// QEMU's own threads stay where they were put, apart from the threads of other VMs: a host that keeps no thread for
    /// itself has no other place for them.
    pub fn place(&self, resources: &Resources) -> Option<Floats> {
        if !resources.vcpus.is_empty() {
            return None;
        }
        let own: ThreadSet = resources.emulator.iter().filter(|thread| !self.exclusive.contains(thread)).collect();
        let helpers = if own.is_empty() { resources.emulator.clone() } else { own };
        Some(Floats { vcpus: self.threads.clone(), helpers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::inventory;

    fn set(text: &str) -> ThreadSet {
        text.parse().unwrap()
    }

    fn pinned(threads: &str) -> Resources {
        Resources { vcpus: set(threads).iter().collect(), ..Resources::default() }
    }

    fn floating(emulator: &str) -> Resources {
        Resources { emulator: set(emulator), shared_cpu: 1000, ..Resources::default() }
    }

    fn place(promised: &[Resources], resources: &Resources) -> Option<(String, String)> {
        let floats = Shared::new(&inventory(), promised).place(resources)?;
        Some((floats.vcpus.to_string(), floats.helpers.to_string()))
    }

    #[test]
    fn what_floats_keeps_off_threads_that_are_promised_kept_idle_or_the_hosts_own() {
        let idle = Resources { idle: set("3"), ..Resources::default() };
        assert_eq!(place(&[], &floating("0")), Some(("1-3".into(), "0".into())));
        assert_eq!(place(&[pinned("2")], &floating("0")), Some(("1,3".into(), "0".into())));
        assert_eq!(place(&[pinned("2"), idle], &floating("0")), Some(("1".into(), "0".into())));
    }

    #[test]
    fn qemus_own_threads_leave_promised_threads_where_they_have_another() {
        assert_eq!(place(&[pinned("2")], &floating("0-3")), Some(("1,3".into(), "0-1,3".into())));
        assert_eq!(place(&[pinned("0,1,2,3")], &floating("1")), Some(("1-3".into(), "1".into())));
    }

    #[test]
    fn a_vm_that_has_threads_for_itself_floats_nowhere() {
        assert_eq!(place(&[], &pinned("1")), None);
    }
}
