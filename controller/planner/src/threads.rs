//! Which CPU threads of a node a pinned VM gets: few last-level caches, then whole cores.

use berth_model::host::ThreadId;
use berth_model::vm::SmtPolicy;

use crate::layout::{Free, Layout};

/// Threads that were chosen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taken {
    /// In the order of virtual CPUs; those for QEMU's own threads last.
    pub(crate) given: Vec<ThreadId>,
    /// Siblings that stay idle.
    pub(crate) idle: Vec<ThreadId>,
    caches: Vec<u32>,
}

impl Taken {
    /// How many last-level caches they are of.
    pub(crate) fn caches(&self) -> u32 {
        u32::try_from(self.caches.len()).unwrap_or(u32::MAX)
    }
}

/// How many threads a core offers under a policy.
fn offer(layout: &Layout, free: &Free, core: usize, smt: SmtPolicy) -> u32 {
    match smt {
        SmtPolicy::Siblings => free.count(core),
        SmtPolicy::WholeCores if free.is_whole(layout, core) => free.count(core),
        SmtPolicy::Isolate if free.is_whole(layout, core) => 1,
        SmtPolicy::WholeCores | SmtPolicy::Isolate => 0,
    }
}

/// How many threads each node offers under a policy, by position in [`Layout::nodes`].
pub(crate) fn offers(layout: &Layout, free: &Free, smt: SmtPolicy) -> Vec<u32> {
    let mut offers = vec![0; layout.nodes.len()];
    for (at, core) in layout.cores.iter().enumerate() {
        offers[core.node] += offer(layout, free, at, smt);
    }
    offers
}

/// Takes this many threads of a node, which offers them.
pub(crate) fn take(layout: &Layout, free: &Free, node: usize, count: u32, smt: SmtPolicy, taken: &mut Taken) {
    let first = layout.cores.partition_point(|core| core.node < node);
    let cores = first..layout.cores.partition_point(|core| core.node <= node);
    // Each cache's offer and cores; cores lie in the order of caches.
    let mut caches: Vec<(u32, u32, Vec<usize>)> = Vec::new();
    for core in cores {
        let (cache, offered) = (layout.cores[core].cache, offer(layout, free, core, smt));
        if offered == 0 {
            continue;
        }
        match caches.last_mut() {
            Some((sum, last, held)) if *last == cache => {
                *sum += offered;
                held.push(core);
            }
            _ => caches.push((offered, cache, vec![core])),
        }
    }
    let mut missing = count;
    while missing > 0 && !caches.is_empty() {
        // The tightest that has all of it; else the largest.
        let at = (0..caches.len())
            .filter(|at| caches[*at].0 >= missing)
            .min_by_key(|at| (caches[*at].0, caches[*at].1))
            .or_else(|| (0..caches.len()).max_by_key(|at| (caches[*at].0, std::cmp::Reverse(caches[*at].1))))
            .expect("there are caches");
        let (offered, cache, cores) = caches.remove(at);
        let now = missing.min(offered);
        if !taken.caches.contains(&cache) {
            taken.caches.push(cache);
        }
        of_cores(layout, free, cores, now, smt, taken);
        missing -= now;
    }
}

/// The free threads of a core, in ascending order.
fn free_of(layout: &Layout, free: &Free, core: usize) -> impl Iterator<Item = ThreadId> {
    let mask = free.threads[core];
    layout.cores[core].threads.iter().enumerate().filter(move |(at, _)| mask & (1 << at) != 0).map(|(_, id)| *id)
}

fn of_cores(layout: &Layout, free: &Free, mut cores: Vec<usize>, count: u32, smt: SmtPolicy, taken: &mut Taken) {
    let size = |core: &usize| free.count(*core);
    let first = |core: &usize| layout.cores[*core].threads[0];
    match smt {
        // Whole cores first, a core's siblings together, so that VMs do not share cores while there is room.
        SmtPolicy::Siblings => {
            cores.sort_by_key(|core| (!free.is_whole(layout, *core), std::cmp::Reverse(size(core)), first(core)));
            let all = cores.iter().flat_map(|core| free_of(layout, free, *core));
            taken.given.extend(all.take(count as usize));
        }
        SmtPolicy::WholeCores => {
            cores.sort_by_key(first);
            let mut missing = count;
            while missing > 0 && !cores.is_empty() {
                // The largest that is used up; else the smallest, of which the rest stays idle.
                let at = (0..cores.len())
                    .filter(|at| size(&cores[*at]) <= missing)
                    .max_by_key(|at| (size(&cores[*at]), std::cmp::Reverse(*at)))
                    .or_else(|| (0..cores.len()).min_by_key(|at| size(&cores[*at])))
                    .expect("there are cores");
                let core = cores.remove(at);
                let now = missing.min(size(&core));
                let threads: Vec<ThreadId> = free_of(layout, free, core).collect();
                taken.given.extend(&threads[..now as usize]);
                taken.idle.extend(&threads[now as usize..]);
                missing -= now;
            }
        }
        SmtPolicy::Isolate => {
            // Small cores first: fewer threads stay idle.
            cores.sort_by_key(|core| (size(core), first(core)));
            for core in cores.into_iter().take(count as usize) {
                let mut threads = free_of(layout, free, core);
                taken.given.extend(threads.next());
                taken.idle.extend(threads);
            }
        }
    }
}
