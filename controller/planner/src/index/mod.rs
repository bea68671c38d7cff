//! What the planner knows of a cluster between calls: every host in few numbers, and how many VMs of which sort are where.
//!
//! A view of 1,000 hosts and 50,000 VMs is not walked for each VM that waits. The index follows successive views by what
//! differs between them, which persistent maps tell without looking at what they share. It is a cache and nothing else:
//! an index made anew from the same view gives the same plans ([`Index::differences`] is the slow check).
//!
//! A plan tries placements on the index itself and takes all of them back: what really happened comes with the next view.

mod counts;
mod labels;
mod matcher;
mod order;
mod parts;
mod shapes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use berth_model::host::Host;
use berth_model::placement::{Domain, Selector};
use berth_model::vm::{Resources, Vm, VmSpec};
use berth_model::{HostUid, Name};
use berth_state::{Cluster, HostBookings};
use imbl::ordmap::DiffItem;

pub(crate) use counts::{Counter, Guard, What};
pub(crate) use matcher::Matcher;
pub(crate) use order::Place;
pub(crate) use parts::{NOWHERE, Parts};
pub(crate) use shapes::{Shape, Standing, closed, state_of};

use crate::Turn;
use crate::layout::{Brief, Free, Layout, Sort};
use counts::Counts;
use labels::Labels;
use order::Order;
use shapes::Shapes;

/// One host.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) host: Arc<Host>,
    pub(crate) layout: Arc<Layout>,
    /// What is booked, and what orphans and ended placements hold besides.
    pub(crate) held: Arc<HostBookings>,
    pub(crate) free: Free,
    pub(crate) overbooked: Option<String>,
}

impl Row {
    fn brief(&self) -> Brief {
        Brief::of(&self.host, &self.layout, &self.free, self.overbooked.is_some())
    }

    fn new(host: Arc<Host>, layout: Arc<Layout>, held: Arc<HostBookings>) -> Self {
        let free = Free::of(&host, &layout, &held);
        let overbooked = held.overbooked(&host.inventory);
        Self { host, layout, held, free, overbooked }
    }
}

/// What a row was before a trial.
#[derive(Debug)]
struct Before {
    row: usize,
    held: Arc<HostBookings>,
    free: Free,
    overbooked: Option<String>,
    brief: Brief,
}

/// A host before and after.
type Differing<'a> = (Option<&'a Arc<Host>>, Option<&'a Arc<Host>>);

/// Comparisons of selectors' conditions with VMs or hosts in one call, about: a few hundred milliseconds.
const COMPARISONS: usize = 20_000_000;

/// How to take a trial back.
#[derive(Debug)]
enum Undo {
    Row(Box<Before>),
    Count { vm: Arc<Vm>, row: usize, came: bool },
}

/// What the planner knows of a cluster between calls.
#[derive(Debug, Default)]
pub struct Index {
    pub(crate) seen: Cluster,
    pub(crate) rows: Vec<Row>,
    /// By row.
    pub(crate) briefs: Vec<Brief>,
    row_of: HashMap<HostUid, usize>,
    /// Rows in the order of their hosts' names.
    pub(crate) by_name: Vec<usize>,
    /// By row: its position in `by_name`.
    pub(crate) rank: Vec<usize>,
    order: Order,
    /// VMs that wait, in the order of their turns.
    pub(crate) waiting: BTreeSet<Turn>,
    pub(crate) parts: Vec<Parts>,
    counts: Counts,
    labels: Labels,
    shapes: Shapes,
    journal: Vec<Undo>,
    call: u64,
    /// A host that is as if it were not there.
    pub(crate) lost: Option<usize>,
}

/// Whether the index looks at a VM's rules, labels and place in the same way before and after a change.
fn counts_alike(before: &Vm, after: &Vm) -> bool {
    before.assignment.as_ref().map(|held| held.host) == after.assignment.as_ref().map(|held| held.host)
        && before.meta.labels == after.meta.labels
        && before.spec.rules.affinity == after.spec.rules.affinity
}

impl Index {
    /// The index of a view.
    pub fn new(view: &Cluster) -> Self {
        let mut index = Self::default();
        index.catch_up(view);
        index
    }

    /// Follows the cluster to this view, by what differs from the one before. An earlier or a wholly other view does as well
    /// and costs more.
    pub fn catch_up(&mut self, view: &Cluster) {
        self.call += 1;
        self.counts.trim();
        self.shapes.trim();
        let seen = std::mem::replace(&mut self.seen, view.clone());
        let hosts: Vec<Differing<'_>> = seen
            .hosts
            .diff(&view.hosts)
            .map(|item| match item {
                DiffItem::Add(_, host) => (None, Some(host)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, host) => (Some(host), None),
            })
            .collect();
        if hosts.iter().any(|(_, after)| after.is_none()) {
            return self.begin_again();
        }
        let mut dirty: BTreeSet<usize> = BTreeSet::new();
        let mut count_anew = self.counts.is_littered();
        for (before, after) in hosts {
            let Some(host) = after else { continue };
            match before {
                None => self.add_host(host),
                Some(before) => {
                    let row = self.row_of[&host.uid()];
                    if !Layout::is_same(&before.inventory, &host.inventory) {
                        self.rows[row].layout = Arc::new(Layout::of(&host.inventory));
                    }
                    if before.meta.name != host.meta.name {
                        // The order of names is made anew.
                        self.rank.clear();
                    }
                    self.rows[row].host = Arc::clone(host);
                    self.shapes.update(row, host);
                    for parts in &mut self.parts {
                        let part = parts.of(host);
                        count_anew |= parts.of_row[row] != part;
                        parts.of_row[row] = part;
                    }
                    dirty.insert(row);
                }
            }
        }
        let holdings = seen.holdings.diff(&view.holdings).map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } | DiffItem::Remove(key, _) => key.0,
        });
        dirty.extend(holdings.filter_map(|host| self.row_of.get(&host).copied()));
        for item in seen.vms.diff(&view.vms) {
            let (before, after) = match item {
                DiffItem::Add(_, vm) => (None, Some(vm)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, vm) => (Some(vm), None),
            };
            self.follow(before, after, count_anew, &mut dirty);
        }
        for row in dirty {
            let held = view.occupied(self.rows[row].host.uid());
            self.put(row, held);
        }
        if self.rank.len() != self.rows.len() {
            self.by_name = (0..self.rows.len()).collect();
            let rows = &self.rows;
            self.by_name.sort_unstable_by(|a, b| rows[*a].host.meta.name.cmp(&rows[*b].host.meta.name));
            self.rank = vec![0; self.rows.len()];
            for (rank, row) in self.by_name.iter().enumerate() {
                self.rank[*row] = rank;
            }
            self.order = Order::of(&self.briefs, &self.rank);
        }
        if count_anew {
            self.count_anew();
        }
    }

    /// Makes everything anew and keeps what is counted.
    fn begin_again(&mut self) {
        let view = std::mem::take(&mut self.seen);
        *self = Self { call: self.call, ..Self::default() };
        self.catch_up(&view);
    }

    fn add_host(&mut self, host: &Arc<Host>) {
        let row = self.rows.len();
        self.row_of.insert(host.uid(), row);
        let held = self.seen.occupied(host.uid());
        // Machines are bought by the dozen.
        let layout = match self.rows.last() {
            Some(last) if Layout::is_same(&last.host.inventory, &host.inventory) => Arc::clone(&last.layout),
            Some(_) | None => Arc::new(Layout::of(&host.inventory)),
        };
        self.rows.push(Row::new(Arc::clone(host), layout, held));
        self.briefs.push(self.rows[row].brief());
        self.shapes.update(row, host);
        for parts in &mut self.parts {
            let part = parts.of(host);
            parts.of_row.push(part);
        }
    }

    fn follow(
        &mut self,
        before: Option<&Arc<Vm>>,
        after: Option<&Arc<Vm>>,
        counted_later: bool,
        dirty: &mut BTreeSet<usize>,
    ) {
        let waits = |vm: &&Arc<Vm>| vm.assignment.is_none() && !vm.meta.is_deleting();
        let (was, is) = (before.filter(waits).map(|vm| Turn::of(vm)), after.filter(waits).map(|vm| Turn::of(vm)));
        if was != is {
            was.map(|turn| self.waiting.remove(&turn));
            is.map(|turn| self.waiting.insert(turn));
        }
        let (from, to) = (before.and_then(|vm| vm.assignment.as_ref()), after.and_then(|vm| vm.assignment.as_ref()));
        if from != to {
            let rows = from.into_iter().chain(to).filter_map(|held| self.row_of.get(&held.host));
            dirty.extend(rows);
        }
        if before.zip(after).is_some_and(|(before, after)| counts_alike(before, after)) {
            return;
        }
        let is_placed = |vm: &&Arc<Vm>| vm.assignment.is_some();
        if let Some(vm) = before.filter(is_placed) {
            self.labels.remove(vm);
        }
        if let Some(vm) = after.filter(is_placed) {
            self.labels.add(vm);
        }
        if counted_later {
            return;
        }
        for (vm, came) in [(before, false), (after, true)] {
            let row = vm.and_then(|vm| vm.assignment.as_ref()).and_then(|held| self.row_of.get(&held.host).copied());
            if let Some((vm, row)) = vm.zip(row) {
                self.count(vm, row, came);
            }
        }
    }

    fn count(&mut self, vm: &Vm, row: usize, came: bool) {
        // Kinds that guards need are made before, because a row's part is looked up while counting.
        let kinds: Vec<Domain> = counts::guarding(vm).map(|rule| rule.domain.clone()).collect();
        for domain in &kinds {
            self.kind(domain);
        }
        let parts = &self.parts;
        let kind_of = |domain: &Domain| {
            parts.iter().position(|held| held.domain == *domain).expect("the kind was made just before")
        };
        self.counts.count(vm, came, |kind| parts[kind].of_row[row], |rule| kind_of(&rule.domain));
    }

    fn count_anew(&mut self) {
        self.counts.reset();
        let view = self.seen.clone();
        for vm in view.vms.values() {
            if let Some(row) = vm.assignment.as_ref().and_then(|held| self.row_of.get(&held.host).copied()) {
                self.count(vm, row, true);
            }
        }
    }

    /// Puts other bookings in place.
    fn put(&mut self, row: usize, held: Arc<HostBookings>) {
        let Row { host, layout, .. } = &self.rows[row];
        self.rows[row] = Row::new(Arc::clone(host), Arc::clone(layout), held);
        let brief = self.rows[row].brief();
        self.put_brief(row, brief);
    }

    fn put_brief(&mut self, row: usize, brief: Brief) {
        let before = std::mem::replace(&mut self.briefs[row], brief);
        // While hosts come their ranks are not known; the whole order is made when they are.
        if self.rank.len() == self.rows.len() {
            self.order.change(&before, &brief, self.rank[row], row);
        }
    }

    /// Hosts, the emptiest first.
    pub(crate) fn emptiest_first(&self) -> impl Iterator<Item = &Place> {
        self.order.places()
    }

    /// Every sort of host that there is.
    pub(crate) fn sorts(&self) -> impl Iterator<Item = Sort> + '_ {
        self.order.sorts()
    }

    /// The most that one cache of any host offers, see [`Brief::cache_threads`].
    pub(crate) fn most_of_a_cache(&self, counted: usize) -> u32 {
        self.order.most_of_a_cache(counted)
    }

    /// The kind of parts that a rule counts in.
    pub(crate) fn kind(&mut self, domain: &Domain) -> usize {
        if let Some(kind) = self.parts.iter().position(|parts| parts.domain == *domain) {
            return kind;
        }
        let mut parts = Parts::new(domain.clone());
        parts.of_row = self.rows.iter().map(|row| parts.of(&row.host)).collect();
        self.parts.push(parts);
        self.parts.len() - 1
    }

    /// The counter of these VMs; made now if nobody asked for it before.
    pub(crate) fn counter(&mut self, vm: &Vm, domain: &Domain, vms: &Selector) -> usize {
        self.counters([(&vm.meta.project, domain, vms)].into_iter())[0]
    }

    /// The counters of all of these VMs; those that nobody asked for before are made in one walk.
    pub(crate) fn counters<'a>(
        &mut self,
        wanted: impl Iterator<Item = (&'a Name, &'a Domain, &'a Selector)>,
    ) -> Vec<usize> {
        let from = self.counts.counters.len();
        let numbers = wanted.map(|(project, domain, vms)| self.begin_counting(project, domain, vms).0).collect();
        self.count_placed(from);
        numbers
    }

    /// The counter of these VMs, and whether nobody asked for it before.
    fn begin_counting(&mut self, project: &Name, domain: &Domain, vms: &Selector) -> (usize, bool) {
        let kind = self.kind(domain);
        let what = What { project: project.clone(), kind, vms: vms.clone() };
        match self.counts.find(&what, self.call) {
            Some(number) => (number, false),
            None => (self.counts.begin(what, self.call), true),
        }
    }

    /// Counts by the counters from this number on whoever is placed.
    fn count_placed(&mut self, from: usize) {
        if from == self.counts.counters.len() {
            return;
        }
        // Placements that are only tried are in the journal, not in the view.
        let mut tried: BTreeMap<_, Option<(&Vm, usize)>> = BTreeMap::new();
        for undo in &self.journal {
            if let Undo::Count { vm, row, came } = undo {
                tried.insert(vm.uid(), came.then_some((&**vm, *row)));
            }
        }
        let placed = |vm: &'_ Arc<Vm>| {
            let row = self.row_of.get(&vm.assignment.as_ref()?.host)?;
            (tried.is_empty() || !tried.contains_key(&vm.uid())).then_some(*row)
        };
        let of_row = |kind: usize, row: usize| self.parts[kind].of_row[row];
        let all = self.seen.vms.len();
        let mut walked = Vec::new();
        for number in from..self.counts.counters.len() {
            let what = self.counts.counters[number].what.clone();
            let Some(candidates) = self.labels.candidates(&what.project, &what.vms, all) else {
                walked.push(number);
                continue;
            };
            let of_view =
                candidates.filter_map(|uid| self.seen.vms.get(&uid)).filter_map(|vm| Some((&**vm, placed(vm)?)));
            self.counts.fill_one(number, of_view.chain(tried.values().copied().flatten()), of_row);
        }
        if !walked.is_empty() {
            let of_view = self.seen.vms.values().filter_map(|vm| Some((&**vm, placed(vm)?)));
            self.counts.fill(&walked, of_view.chain(tried.values().copied().flatten()), of_row);
        }
    }

    /// Makes counters and shapes for all of these VMs, counting in one walk, and tells how many VMs may be looked at
    /// before that is too much: at least one.
    pub(crate) fn prepare(&mut self, vms: &[Arc<Vm>]) -> usize {
        let from = self.counts.counters.len();
        let mut comparisons = 0_usize;
        let mut prepared = 0;
        for vm in vms {
            let rules = &vm.spec.rules;
            let near = rules.affinity.iter().map(|rule| (&rule.domain, &rule.vms));
            for (domain, vms) in near.chain(rules.spread.iter().map(|rule| (&rule.domain, &rule.vms))) {
                if self.begin_counting(&vm.meta.project, domain, vms).1 {
                    let all = self.seen.vms.len();
                    let few = self.labels.candidates(&vm.meta.project, vms, all).map(Iterator::count);
                    comparisons += (1 + vms.0.len()).saturating_mul(few.unwrap_or(all));
                }
            }
            let shapes = self.shapes.all.len();
            self.shape(&vm.spec);
            if self.shapes.all.len() > shapes {
                let wishes = rules.host_wishes.iter().map(|wish| &wish.hosts);
                let conditions: usize = rules.hosts.iter().chain(wishes).map(|hosts| 1 + hosts.0.len()).sum();
                comparisons += conditions.saturating_mul(self.rows.len());
            }
            prepared += 1;
            if comparisons > COMPARISONS {
                break;
            }
        }
        self.count_placed(from);
        prepared
    }

    pub(crate) fn counter_at(&self, number: usize) -> &Counter {
        &self.counts.counters[number]
    }

    pub(crate) fn guards_against<'a>(&'a self, vm: &'a Vm) -> impl Iterator<Item = &'a Guard> {
        self.counts.guards_against(vm)
    }

    /// The shape of a VM, worked out for all hosts.
    pub(crate) fn shape(&mut self, spec: &VmSpec) -> usize {
        self.shapes.of(spec, self.call, self.rows.iter().map(|row| &*row.host))
    }

    pub(crate) fn shape_at(&self, number: usize) -> &Shape {
        &self.shapes.all[number]
    }

    /// The row of a host.
    pub(crate) fn row(&self, host: HostUid) -> Option<usize> {
        self.row_of.get(&host).copied()
    }

    /// Where trials stand, for [`Index::take_back`].
    pub(crate) fn mark(&self) -> usize {
        self.journal.len()
    }

    /// As if the VM were placed there.
    pub(crate) fn try_placing(&mut self, vm: &Arc<Vm>, row: usize, resources: &Resources) {
        self.try_booking(row, |held| held.book(vm.uid(), resources));
        self.count(vm, row, true);
        self.journal.push(Undo::Count { vm: Arc::clone(vm), row, came: true });
    }

    /// As if the VM were not placed there.
    pub(crate) fn try_removing(&mut self, vm: &Arc<Vm>, row: usize, resources: &Resources) {
        self.try_booking(row, |held| held.release(vm.uid(), resources));
        self.count(vm, row, false);
        self.journal.push(Undo::Count { vm: Arc::clone(vm), row, came: false });
    }

    /// As if the VM were not there, whatever it has booked.
    pub(crate) fn try_leaving(&mut self, vm: &Arc<Vm>, row: usize) {
        self.count(vm, row, false);
        self.journal.push(Undo::Count { vm: Arc::clone(vm), row, came: false });
    }

    /// As if this host were not there, until told otherwise.
    pub(crate) fn lose(&mut self, row: Option<usize>) {
        self.lost = row;
    }

    fn try_booking(&mut self, row: usize, change: impl FnOnce(&mut HostBookings)) {
        let standing = &self.rows[row];
        self.journal.push(Undo::Row(Box::new(Before {
            row,
            held: Arc::clone(&standing.held),
            free: standing.free.clone(),
            overbooked: standing.overbooked.clone(),
            brief: self.briefs[row],
        })));
        let mut held = Arc::clone(&standing.held);
        change(Arc::make_mut(&mut held));
        self.put(row, held);
    }

    /// Takes back every trial since the mark.
    pub(crate) fn take_back(&mut self, mark: usize) {
        while self.journal.len() > mark {
            match self.journal.pop() {
                Some(Undo::Row(before)) => {
                    let Before { row, held, free, overbooked, brief } = *before;
                    let standing = &mut self.rows[row];
                    (standing.held, standing.free, standing.overbooked) = (held, free, overbooked);
                    self.put_brief(row, brief);
                }
                Some(Undo::Count { vm, row, came }) => self.count(&vm, row, !came),
                None => {}
            }
        }
    }

    /// The slow check: what of this index is not what an index made anew from its view would say. Empty if it is right.
    pub fn differences(&self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut anew = Self::new(&self.seen);
        if anew.labels != self.labels {
            differences.push("other VMs have labels".to_owned());
        }
        if anew.waiting != self.waiting {
            differences.push("other VMs wait".to_owned());
        }
        if anew.rows.len() != self.rows.len() || self.by_name.len() != self.rows.len() {
            differences.push(format!("{} hosts instead of {}", self.rows.len(), anew.rows.len()));
            return differences;
        }
        if self.order != Order::of(&self.briefs, &self.rank) {
            differences.push("hosts lie in another order".to_owned());
        }
        for (mine, other) in self.by_name.iter().zip(anew.by_name.clone()) {
            let (row, right) = (&self.rows[*mine], &anew.rows[other]);
            let name = &right.host.meta.name;
            if row.host != right.host || row.held != right.held || row.overbooked != right.overbooked {
                differences.push(format!("host {name} or its bookings are others"));
            }
            if row.layout != right.layout || row.free != right.free || self.briefs[*mine] != anew.briefs[other] {
                differences.push(format!("host {name} has other room"));
            }
        }
        for kind in &self.parts {
            let number = anew.kind(&kind.domain);
            for (mine, other) in self.by_name.iter().zip(&anew.by_name) {
                let named = |parts: &Parts, row: usize| parts.names[parts.of_row[row]].clone();
                if named(kind, *mine) != named(&anew.parts[number], *other) {
                    differences.push(format!("the {} of a host is another", kind.domain));
                }
            }
        }
        for counter in &self.counts.counters {
            let (what, kind) = (&counter.what, &self.parts[counter.what.kind]);
            let right = anew.kind(&kind.domain);
            let mut right_one = Counts::default();
            let placed = self.seen.vms.values().filter_map(|vm| {
                let row = anew.row_of.get(&vm.assignment.as_ref()?.host)?;
                (vm.meta.project == what.project && what.vms.matches(&vm.meta.labels)).then_some((&**vm, *row))
            });
            right_one.begin(What { kind: right, ..what.clone() }, 0);
            right_one.fill(&[0], placed, |kind, row| anew.parts[kind].of_row[row]);
            let by_name = |counter: &Counter, parts: &Parts| -> BTreeMap<String, u32> {
                let counts =
                    parts.names.iter().enumerate().skip(1).map(|(part, name)| (name.clone(), counter.at(part)));
                counts.filter(|(_, count)| *count > 0).collect()
            };
            let right_one = &right_one.counters[0];
            if counter.total != right_one.total || by_name(counter, kind) != by_name(right_one, &anew.parts[right]) {
                differences.push(format!("other counts of VMs with {} by {}", what.vms, kind.domain));
            }
        }
        let guards = |index: &Self| -> Vec<String> {
            let named = index.counts.guards_by_name(&index.parts);
            named
                .into_iter()
                .map(|((domain, what), counts)| format!("{domain} {} {} {counts:?}", what.project, what.vms))
                .collect()
        };
        let (mut mine, mut other) = (guards(self), guards(&anew));
        mine.sort();
        other.sort();
        if mine != other {
            differences.push(format!("other rules to keep away: {mine:?} instead of {other:?}"));
        }
        for shape in &self.shapes.all {
            let (taints, unmet) = shape.least();
            if shape
                .standings
                .iter()
                .any(|standing| standing.open && (standing.taints < taints || standing.unmet < unmet))
            {
                differences.push("a host is better for some VMs than the best".to_owned());
            }
            let standings: Vec<&Standing> = self.by_name.iter().map(|row| &shape.standings[*row]).collect();
            let right: Vec<Standing> =
                anew.by_name.iter().map(|row| shape.standing_of(&anew.rows[*row].host)).collect();
            if standings.into_iter().ne(&right) {
                differences.push("a host stands otherwise for some VMs".to_owned());
            }
        }
        differences
    }
}
