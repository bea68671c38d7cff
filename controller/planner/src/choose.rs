//! The choice of a host: filter, score by named fields compared in order, allocate.
//!
//! No magic weights: a field earlier in [`Candidate`] decides before a later one is looked at. Every host is looked at in few
//! numbers, which tell what certainly does not fit and how good the host could be at best. Exact threads and pages are
//! worked out for the best, then the next best, until none that is left could be better than what was found: so nothing
//! that fits is missed, and the best is really the best.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use berth_model::vm::{SmtPolicy, Vm};
use berth_model::{HostUid, Name};

use crate::allocate::{Berth, Demand, allocate};
use crate::index::{Index, Place, Row, Standing, closed};
use crate::layout::{Brief, Sort, page_at};
use crate::refusal::Refusal;
use crate::rules::{Cost, Rules};

/// Why one host is better than another: compared field by field, less is better.
///
/// What an operator said comes first (taints, then rules of the VM), then what makes the VM fast (nodes, caches), then what
/// is good for the cluster: VMs spread over hosts, and of equally filled hosts the fuller one, so that large VMs find
/// room.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Candidate {
    /// Taints that would rather keep the VM away.
    pub taints: u32,
    /// By how many VMs soft spreads would be broken, summed.
    pub skew: u32,
    /// The weights of preferences that are not met, summed: wishes about hosts, near to and away from other VMs.
    pub unmet: u32,
    /// NUMA nodes that the VM's threads and memory would span: memory of another node is slow.
    pub nodes: u32,
    /// Last-level caches that its threads would span.
    pub caches: u32,
    /// VMs that the host carries: VMs are spread over hosts.
    pub vms_on_host: u32,
    /// Thousandths of a CPU thread that would stay free.
    pub leftover: u64,
    /// The host's name, so that the same view gives the same plan.
    pub name: Name,
}

/// What matters more when hosts are equally good for the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Few VMs on each host.
    Spread,
    /// Full hosts, so that others stay free.
    Pack,
    /// Hosts with most room.
    Level,
}

/// [`Candidate`] in numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    taints: u32,
    skew: u32,
    unmet: u32,
    nodes: u32,
    caches: u32,
    /// VMs on the host and what would be left over, in the order of the mode.
    balance: (u64, u64),
    rank: usize,
    /// Whether it is exact; otherwise no host's exact key is less than this.
    exact: bool,
    row: usize,
}

/// A VM, with everything that is worked out once for all hosts.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    demand: Demand<'a>,
    shape: usize,
    pub(crate) rules: Rules,
}

impl<'a> Ask<'a> {
    pub(crate) fn of(index: &mut Index, vm: &'a Vm) -> Self {
        let shape = index.shape(&vm.spec);
        Self { demand: Demand::of(&vm.spec), shape, rules: Rules::of(index, vm, shape) }
    }
}

/// What a VM asks of hosts of one sort: those that promise alike and have cores alike, as most do.
#[derive(Clone, Copy)]
struct OfSort {
    sort: Sort,
    pages: u64,
    shared: u64,
    /// Thousandths of a thread that are promised with it at most.
    taken: u64,
}

impl OfSort {
    fn of(demand: &Demand<'_>, mode: Mode, sort: Sort) -> Self {
        let Sort { ratios, core_threads } = sort;
        let (pages, shared) = (demand.pages(ratios), demand.shared(ratios));
        // With what stays idle beside its threads. Where cores are of several sizes that is known only once they are chosen:
        // then it is as much as can be, or none where most room is sought.
        let (least, most) = core_threads;
        let alone = match (demand.smt, mode) {
            (SmtPolicy::WholeCores, _) if least == most => demand.threads.next_multiple_of(most.max(1)),
            (SmtPolicy::WholeCores, Mode::Spread | Mode::Pack) if demand.threads > 0 => demand.threads + most - 1,
            (SmtPolicy::Isolate, Mode::Spread | Mode::Pack) => demand.threads.saturating_mul(most),
            (SmtPolicy::Siblings | SmtPolicy::WholeCores | SmtPolicy::Isolate, _) => demand.threads,
        };
        let alone = u64::from(alone);
        Self { sort, pages, shared, taken: (alone * 1000).saturating_add(shared) }
    }
}

const fn balance(mode: Mode, vms: u32, leftover: u64) -> (u64, u64) {
    match mode {
        Mode::Spread => (vms as u64, leftover),
        Mode::Pack => (leftover, vms as u64),
        Mode::Level => (u64::MAX - leftover, vms as u64),
    }
}

/// The best row for a VM and what it gets there; none if no host can take it.
///
/// Hosts are looked at one after another until none that is left could be better than the best so far. As the emptiest
/// come first, those are few where the VM finds nothing to prefer in any other.
pub(crate) fn choose(index: &Index, vm: &Vm, ask: &Ask<'_>, mode: Mode) -> Option<(usize, Berth, Candidate)> {
    if index.seen.stray(vm.uid()).is_some() {
        return None;
    }
    let mut look = Look::new(index, ask, mode)?;
    let mut unseen = index.emptiest_first().peekable();
    let mut heap: BinaryHeap<Reverse<Key>> = BinaryHeap::new();
    let mut berths = BTreeMap::new();
    loop {
        while let Some(next) = unseen.peek() {
            if heap.peek().is_some_and(|Reverse(best)| *best < look.least(next)) {
                break;
            }
            heap.extend(look.at_best(next.row).map(Reverse));
            unseen.next();
        }
        let Reverse(key) = heap.pop()?;
        if key.exact {
            let berth = berths.remove(&key.row)?;
            return Some(answer(index, ask, &key, berth));
        }
        if let Some((key, berth)) = exact(index, ask, mode, key) {
            berths.insert(key.row, berth);
            heap.push(Reverse(key));
        }
    }
}

/// One VM's look at hosts.
struct Look<'a> {
    index: &'a Index,
    ask: &'a Ask<'a>,
    mode: Mode,
    standings: &'a [Standing],
    /// What the VM asks of hosts of the last sort that was met.
    of_sort: OfSort,
    /// No host is better than this in what does not depend on how full it is.
    least: Key,
    /// What is promised with the VM at most, on hosts of any sort.
    most_taken: u64,
    /// Whether that is the same on hosts of every sort.
    is_same: bool,
}

impl<'a> Look<'a> {
    /// None if the VM's rules leave no part of the cluster to it, or there is no host.
    fn new(index: &'a Index, ask: &'a Ask<'a>, mode: Mode) -> Option<Self> {
        let Ask { demand, shape, rules } = ask;
        let shape = index.shape_at(*shape);
        let cost = rules.least()?;
        let (taints, unmet) = shape.least();
        let mut all = index.sorts().map(|sort| OfSort::of(demand, mode, sort));
        let of_sort = all.next()?;
        let (mut most_taken, mut is_same) = (of_sort.taken, true);
        for other in all {
            is_same &= other.taken == most_taken;
            most_taken = most_taken.max(other.taken);
        }
        let least = Key {
            taints,
            skew: cost.skew,
            unmet: cost.unmet.saturating_add(unmet),
            nodes: 1,
            caches: demand.threads.div_ceil(index.most_of_a_cache(demand.counted()).max(1)),
            balance: (0, 0),
            rank: 0,
            exact: false,
            row: 0,
        };
        Some(Self { index, ask, mode, standings: &shape.standings, of_sort, least, most_taken, is_same })
    }

    /// Neither this host nor any behind it is better than this.
    fn least(&self, next: &Place) -> Key {
        if self.mode != Mode::Spread {
            return self.least;
        }
        let leftover = next.shared.saturating_sub(self.most_taken);
        // Of equally full hosts those behind have the greater ranks, as long as equally full before is so after.
        let rank = if self.is_same && leftover > 0 { next.rank } else { 0 };
        Key { balance: (u64::from(next.vms), leftover), rank, ..self.least }
    }

    /// How good a host could be at best; none if it certainly cannot take the VM.
    fn at_best(&mut self, row: usize) -> Option<Key> {
        let (index, Ask { demand, rules, .. }) = (self.index, self.ask);
        let standing = &self.standings[row];
        if !standing.open || index.lost == Some(row) {
            return None;
        }
        let brief = &index.briefs[row];
        if self.of_sort.sort != brief.sort {
            self.of_sort = OfSort::of(demand, self.mode, brief.sort);
        }
        let OfSort { pages, shared, taken, .. } = self.of_sort;
        if brief.overbooked || !demand.might_fit(brief, pages, shared) {
            return None;
        }
        let cost = rules.cost(index, row)?;
        let (nodes, caches) = fewest(demand, brief, pages);
        Some(Key {
            taints: standing.taints,
            skew: cost.skew,
            unmet: cost.unmet.saturating_add(standing.unmet),
            nodes,
            caches,
            balance: balance(self.mode, brief.vms, brief.shared.saturating_sub(taken)),
            rank: index.rank[row],
            exact: false,
            row,
        })
    }
}

/// How few nodes and caches it could span.
fn fewest(demand: &Demand<'_>, brief: &Brief, pages: u64) -> (u32, u32) {
    let counted = demand.counted();
    let one_node = brief.node_threads[counted] >= demand.threads && brief.node_pages[page_at(demand.page)] >= pages;
    (if one_node { 1 } else { 2 }, demand.threads.div_ceil(brief.cache_threads[counted].max(1)))
}

/// What the host would really give, and how good that is.
fn exact(index: &Index, ask: &Ask<'_>, mode: Mode, key: Key) -> Option<(Key, Berth)> {
    let row = &index.rows[key.row];
    let berth = allocate(&row.host, &row.layout, &row.free, &ask.demand).ok()?;
    let balance = balance(mode, index.briefs[key.row].vms, berth.leftover);
    Some((Key { nodes: berth.nodes, caches: berth.caches, balance, exact: true, ..key }, berth))
}

fn answer(index: &Index, ask: &Ask<'_>, key: &Key, berth: Berth) -> (usize, Berth, Candidate) {
    let cost = Cost { skew: key.skew, unmet: key.unmet };
    let candidate = candidate(index, ask, key.row, cost, &berth);
    (key.row, berth, candidate)
}

/// `cost.unmet` includes wishes about hosts.
fn candidate(index: &Index, ask: &Ask<'_>, row: usize, cost: Cost, berth: &Berth) -> Candidate {
    Candidate {
        taints: index.shape_at(ask.shape).standings[row].taints,
        skew: cost.skew,
        unmet: cost.unmet,
        nodes: berth.nodes,
        caches: berth.caches,
        vms_on_host: index.briefs[row].vms,
        leftover: berth.leftover,
        name: index.rows[row].host.meta.name.clone(),
    }
}

/// What one host says to a VM: what it would give, or the first reason why not.
pub(crate) fn consider(index: &Index, vm: &Vm, ask: &Ask<'_>, row: usize) -> Result<(Berth, Candidate), Refusal> {
    let Row { host, layout, free, overbooked, .. } = &index.rows[row];
    closed(host, overbooked.as_ref(), &vm.spec)?;
    if let Some(refusal) = ask.rules.refusal(index, row) {
        return Err(refusal);
    }
    let berth = allocate(host, layout, free, &ask.demand)?;
    let cost = ask.rules.cost(index, row).unwrap_or_default();
    let wishes = index.shape_at(ask.shape).standings[row].unmet;
    let cost = Cost { unmet: cost.unmet.saturating_add(wishes), ..cost };
    let candidate = candidate(index, ask, row, cost, &berth);
    Ok((berth, candidate))
}

/// Why no host can take a VM that none can take, in the order of names: at most as many as asked for, and how many there
/// are.
pub(crate) fn reasons(index: &Index, vm: &Vm, ask: &Ask<'_>, most: usize) -> (usize, Vec<(Name, Refusal)>) {
    if let Some(stray) = index.seen.stray(vm.uid()) {
        return (1, vec![Refusal::of_stray(stray)]);
    }
    let refusal = |row: &usize| {
        let refusal = consider(index, vm, ask, *row).err()?;
        Some((index.rows[*row].host.meta.name.clone(), refusal))
    };
    (index.rows.len(), index.by_name.iter().filter_map(refusal).take(most).collect())
}

/// The host of a row.
pub(crate) fn host_of(index: &Index, row: usize) -> HostUid {
    index.rows[row].host.uid()
}
