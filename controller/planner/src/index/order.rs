//! Hosts in the order in which placement looks at them: the emptiest first.
//!
//! Among thousands of hosts the best one for a VM is mostly one of the emptiest. With the hosts in this order, and with
//! what is best in the whole cluster at hand, placement knows when none that it has not looked at could be better.

use std::collections::{BTreeMap, BTreeSet};

use crate::layout::{Brief, Sort};

/// A host's place in the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    /// VMs that have something booked.
    pub(crate) vms: u32,
    /// Free thousandths among the shared threads.
    pub(crate) shared: u64,
    /// Its position in the order of names.
    pub(crate) rank: usize,
    pub(crate) row: usize,
}

impl Place {
    fn of(brief: &Brief, rank: usize, row: usize) -> Self {
        Self { vms: brief.vms, shared: brief.shared, rank, row }
    }
}

/// How many hosts have each of several values.
type Tally<T> = BTreeMap<T, u32>;

fn note<T: Ord>(tally: &mut Tally<T>, value: T) {
    *tally.entry(value).or_default() += 1;
}

fn strike<T: Ord>(tally: &mut Tally<T>, value: &T) {
    if let Some(count) = tally.get_mut(value) {
        *count -= 1;
        if *count == 0 {
            tally.remove(value);
        }
    }
}

/// Every host in its place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Order {
    places: BTreeSet<Place>,
    sorts: Tally<Sort>,
    /// What each host's emptiest cache offers, as [`Brief::cache_threads`].
    caches: [Tally<u32>; 3],
}

impl Order {
    /// Of all hosts, by row.
    pub(super) fn of(briefs: &[Brief], rank: &[usize]) -> Self {
        let mut order = Self::default();
        for (row, brief) in briefs.iter().enumerate() {
            order.put(brief, rank[row], row);
        }
        order
    }

    fn put(&mut self, brief: &Brief, rank: usize, row: usize) {
        self.places.insert(Place::of(brief, rank, row));
        note(&mut self.sorts, brief.sort);
        for (tally, threads) in self.caches.iter_mut().zip(brief.cache_threads) {
            note(tally, threads);
        }
    }

    /// A host became other than it was.
    pub(super) fn change(&mut self, before: &Brief, after: &Brief, rank: usize, row: usize) {
        let (from, to) = (Place::of(before, rank, row), Place::of(after, rank, row));
        if from != to {
            self.places.remove(&from);
            self.places.insert(to);
        }
        if before.sort != after.sort {
            strike(&mut self.sorts, &before.sort);
            note(&mut self.sorts, after.sort);
        }
        for (at, tally) in self.caches.iter_mut().enumerate() {
            let (before, after) = (before.cache_threads[at], after.cache_threads[at]);
            if before != after {
                strike(tally, &before);
                note(tally, after);
            }
        }
    }

    /// The emptiest first: fewest VMs, then least CPU left to promise.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter()
    }

    /// Every sort of host that there is.
    pub(super) fn sorts(&self) -> impl Iterator<Item = Sort> + '_ {
        self.sorts.keys().copied()
    }

    /// The most that one cache of any host offers, see [`Brief::cache_threads`].
    pub(super) fn most_of_a_cache(&self, counted: usize) -> u32 {
        self.caches[counted].last_key_value().map_or(0, |(threads, _)| *threads)
    }
}
