//! How many VMs that a rule speaks of are in each part of the cluster.
//!
//! Two sorts of counts. *Counters* answer the rules of VMs that wait: a counter is made when a waiting VM first asks for it,
//! follows every change from then on, and is dropped when it was not asked for long. *Guards* answer the rules of VMs
//! that are placed: each required rule to keep away, with the parts in which VMs of that rule are, because such a rule
//! binds both sides.
//!
//! VMs that are being deleted count until they are gone, as they hold their place.

use std::collections::{BTreeMap, HashMap};

use berth_model::Name;
use berth_model::placement::{Selector, Strength, VmAffinity};
use berth_model::vm::Vm;

use super::matcher::Matcher;
use super::parts::NOWHERE;

/// What is counted: VMs of a project that a selector selects, in parts of one kind (by position).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct What {
    pub(crate) project: Name,
    pub(crate) kind: usize,
    pub(crate) vms: Selector,
}

/// How many there are, by part.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    pub(crate) what: What,
    /// By part; beyond its end there are none.
    pub(crate) by_part: Vec<u32>,
    /// In all parts.
    pub(crate) total: u32,
    /// The last call that asked for it.
    used: u64,
}

impl Counter {
    pub(crate) fn at(&self, part: usize) -> u32 {
        if part == NOWHERE { 0 } else { self.by_part.get(part).copied().unwrap_or(0) }
    }

    fn add(&mut self, part: usize, more: bool) {
        if part == NOWHERE {
            return;
        }
        if self.by_part.len() <= part {
            self.by_part.resize(part + 1, 0);
        }
        let count = &mut self.by_part[part];
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        self.total = if more { self.total + 1 } else { self.total.saturating_sub(1) };
    }
}

/// A required rule of placed VMs to keep away from others.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) what: What,
    /// By part: how many VMs with this rule are there.
    pub(crate) by_part: BTreeMap<usize, u32>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) counters: Vec<Counter>,
    numbers: HashMap<What, usize>,
    matcher: Matcher,
    pub(super) guards: Vec<Guard>,
    guard_numbers: HashMap<What, usize>,
    guard_matcher: Matcher,
}

/// The required rules of a VM to keep away from others.
pub(super) fn guarding(vm: &Vm) -> impl Iterator<Item = &VmAffinity> {
    vm.spec.rules.affinity.iter().filter(|rule| rule.anti && rule.strength == Strength::Required)
}

impl Counts {
    /// More counters than this are not kept beyond the call that made them.
    const MOST: usize = 1024;

    pub(super) fn find(&mut self, what: &What, call: u64) -> Option<usize> {
        let number = *self.numbers.get(what)?;
        self.counters[number].used = call;
        Some(number)
    }

    /// Begins to count; whoever is placed already is counted by [`Counts::fill_one`] or [`Counts::fill`].
    pub(super) fn begin(&mut self, what: What, call: u64) -> usize {
        let number = self.counters.len();
        self.matcher.file(number, &what.project, &what.vms);
        self.numbers.insert(what.clone(), number);
        self.counters.push(Counter { what, by_part: Vec::new(), total: 0, used: call });
        number
    }

    /// Counts those of these VMs that one counter counts, which are placed in these rows.
    pub(super) fn fill_one<'a>(
        &mut self,
        number: usize,
        placed: impl Iterator<Item = (&'a Vm, usize)>,
        part: impl Fn(usize, usize) -> usize,
    ) {
        let counter = &mut self.counters[number];
        for (vm, row) in placed {
            if vm.meta.project == counter.what.project && counter.what.vms.matches(&vm.meta.labels) {
                counter.add(part(counter.what.kind, row), true);
            }
        }
    }

    /// Counts VMs that are placed in these rows by several counters, in one walk.
    pub(super) fn fill<'a>(
        &mut self,
        numbers: &[usize],
        placed: impl Iterator<Item = (&'a Vm, usize)>,
        part: impl Fn(usize, usize) -> usize,
    ) {
        // Most VMs have the labels of many others.
        let mut alike: HashMap<(&Name, &BTreeMap<String, String>), Vec<usize>> = HashMap::new();
        for (vm, row) in placed {
            let (project, labels) = (&vm.meta.project, &vm.meta.labels);
            let selecting = alike.entry((project, labels)).or_insert_with(|| {
                let selects = |number: &usize| {
                    numbers.binary_search(number).is_ok() && self.counters[*number].what.vms.matches(labels)
                };
                self.matcher.candidates(project, labels).filter(selects).collect()
            });
            for number in &*selecting {
                let counter = &mut self.counters[*number];
                counter.add(part(counter.what.kind, row), true);
            }
        }
    }

    /// Drops the counters that were asked for least recently if there are too many. Numbers are others then.
    pub(super) fn trim(&mut self) {
        if self.counters.len() <= Self::MOST {
            return;
        }
        let mut used: Vec<u64> = self.counters.iter().map(|counter| counter.used).collect();
        used.sort_unstable();
        let kept_from = used[used.len() - Self::MOST / 2];
        self.counters.retain(|counter| counter.used >= kept_from);
        self.counters.truncate(Self::MOST);
        self.matcher = Matcher::default();
        self.numbers.clear();
        for (number, counter) in self.counters.iter().enumerate() {
            self.matcher.file(number, &counter.what.project, &counter.what.vms);
            self.numbers.insert(counter.what.clone(), number);
        }
    }

    /// A VM came to a row or left it; `parts` tells the row's part of a kind.
    pub(super) fn count(
        &mut self,
        vm: &Vm,
        more: bool,
        part: impl Fn(usize) -> usize,
        mut kind_of: impl FnMut(&VmAffinity) -> usize,
    ) {
        let (project, labels) = (&vm.meta.project, &vm.meta.labels);
        for number in self.matcher.candidates(project, labels) {
            let counter = &mut self.counters[number];
            if counter.what.vms.matches(labels) {
                counter.add(part(counter.what.kind), more);
            }
        }
        for rule in guarding(vm) {
            let kind = kind_of(rule);
            let what = What { project: project.clone(), kind, vms: rule.vms.clone() };
            let at = part(kind);
            if at == NOWHERE {
                continue;
            }
            let number = match self.guard_numbers.get(&what) {
                Some(number) => *number,
                None => {
                    let number = self.guards.len();
                    self.guard_matcher.file(number, project, &what.vms);
                    self.guard_numbers.insert(what.clone(), number);
                    self.guards.push(Guard { what, by_part: BTreeMap::new() });
                    number
                }
            };
            let by_part = &mut self.guards[number].by_part;
            if more {
                *by_part.entry(at).or_default() += 1;
            } else if let Some(count) = by_part.get_mut(&at) {
                *count -= 1;
                if *count == 0 {
                    by_part.remove(&at);
                }
            }
        }
    }

    /// The guards that keep others away from VMs of these labels.
    pub(super) fn guards_against<'a>(&'a self, vm: &'a Vm) -> impl Iterator<Item = &'a Guard> {
        let candidates = self.guard_matcher.candidates(&vm.meta.project, &vm.meta.labels);
        candidates
            .map(|number| &self.guards[number])
            .filter(|guard| !guard.by_part.is_empty() && guard.what.vms.matches(&vm.meta.labels))
    }

    /// Guards that nobody needs any more are many: everything is to be counted anew.
    pub(super) fn is_littered(&self) -> bool {
        self.guards.len() > 256
            && self.guards.iter().filter(|guard| guard.by_part.is_empty()).count() * 2 > self.guards.len()
    }

    /// Forgets every count and keeps what is counted.
    pub(super) fn reset(&mut self) {
        for counter in &mut self.counters {
            counter.by_part.clear();
            counter.total = 0;
        }
        self.guards.clear();
        self.guard_numbers.clear();
        self.guard_matcher = Matcher::default();
    }

    /// What is counted, for comparison: whatever was not counted yet says nothing.
    pub(super) fn guards_by_name<'a>(
        &'a self,
        parts: &'a [super::parts::Parts],
    ) -> BTreeMap<(String, &'a What), Vec<(&'a str, u32)>> {
        self.guards
            .iter()
            .filter(|guard| !guard.by_part.is_empty())
            .map(|guard| {
                let kind = &parts[guard.what.kind];
                let mut counts: Vec<_> =
                    guard.by_part.iter().map(|(part, count)| (kind.names[*part].as_str(), *count)).collect();
                counts.sort_unstable();
                ((kind.domain.to_string(), &guard.what), counts)
            })
            .collect()
    }
}
