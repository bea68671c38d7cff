//! The shape of a host: NUMA nodes, sockets, cores and their threads, as the kernel numbers them.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

numbers! {
    /// A CPU thread, by the kernel's CPU number.
    ThreadId;
    /// A core: dense numbers of our own, unique on the host.
    CoreId;
    /// A NUMA node, by the kernel's number.
    NodeId;
}

/// One CPU thread and where it sits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Thread {
    /// Its number.
    pub id: ThreadId,
    /// The core it shares with its siblings.
    pub core: CoreId,
    /// The physical package, by the kernel's number.
    pub socket: u32,
    /// Its NUMA node.
    pub node: NodeId,
    /// The last-level cache that it shares: dense numbers of our own, unique on the host.
    pub cache: u32,
}

/// The CPU threads of a host that are online and that Berth may use, in ascending order of number.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Topology {
    /// Every usable thread.
    pub threads: Vec<Thread>,
}

impl Topology {
    /// The threads of one core, in ascending order.
    pub fn siblings(&self, core: CoreId) -> impl Iterator<Item = ThreadId> + '_ {
        self.threads.iter().filter(move |thread| thread.core == core).map(|thread| thread.id)
    }

    /// The thread of this number.
    pub fn thread(&self, id: ThreadId) -> Option<&Thread> {
        self.threads.binary_search_by_key(&id, |thread| thread.id).ok().map(|at| &self.threads[at])
    }

    /// The cores, in ascending order.
    pub fn cores(&self) -> Vec<CoreId> {
        let mut cores: Vec<_> = self.threads.iter().map(|thread| thread.core).collect();
        cores.sort_unstable();
        cores.dedup();
        cores
    }

    /// The NUMA nodes that have threads, in ascending order.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<_> = self.threads.iter().map(|thread| thread.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// The threads that are kept for the host: all threads of the `cores` lowest cores, at most half of all cores.
    ///
    /// By default two whole cores (requirement C3); a machine of one core keeps none, or nothing could run on it.
    pub fn host_reserve(&self, cores: u32) -> super::ThreadSet {
        let all = self.cores();
        let kept = (cores as usize).min(all.len() / 2);
        all[..kept].iter().flat_map(|core| self.siblings(*core)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cores: u32, threads_per_core: u32) -> Topology {
        let mut threads: Vec<_> = (0..cores * threads_per_core)
            .map(|id| Thread { id: ThreadId(id), core: CoreId(id % cores), socket: 0, node: NodeId(0), cache: 0 })
            .collect();
        threads.sort_unstable_by_key(|thread| thread.id);
        Topology { threads }
    }

    #[test]
    fn the_reserve_takes_whole_cores_with_all_their_threads() {
        assert_eq!(machine(8, 2).host_reserve(2).to_string(), "0-1,8-9");
    }

    #[test]
    fn the_reserve_never_takes_more_than_half_the_machine() {
        assert_eq!(machine(2, 1).host_reserve(2).to_string(), "0");
        assert_eq!(machine(1, 2).host_reserve(2).to_string(), "");
    }
}
