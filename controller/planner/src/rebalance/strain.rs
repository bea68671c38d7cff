//! How far the rules of placed VMs are from being kept, all of them together.
//!
//! A move that is good for one VM may be bad for another, whose move is then bad for the first: both would go on for ever.
//! So a move is judged by every rule that it touches: those that the VM has, and those that count it. If each move makes the
//! strain less, or leaves it and makes something behind it less, there is a last one.

use std::collections::{BTreeMap, HashMap};

use berth_model::Name;
use berth_model::placement::{Domain, Selector, Strength, WhenUnsatisfiable};
use berth_model::vm::Vm;
use berth_state::Cluster;

use crate::index::{Counter, Index, Matcher, NOWHERE};

/// How far rules are from being kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Strain {
    /// VMs with a required rule that is broken, a VM once for each such rule.
    pub(super) broken: u64,
    /// By how much soft spreads are broken, summed over the VMs that have them.
    pub(super) skew: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Wish {
    Near,
    Away,
    Even { max_skew: u32, strict: bool },
}

/// A rule as several VMs may have it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Rule {
    project: Name,
    domain: Domain,
    vms: Selector,
    wish: Wish,
    /// Over which hosts a spread compares.
    shape: usize,
}

impl Rule {
    /// The required rules of a VM about others, and its spreads.
    fn all_of(vm: &Vm, shape: usize) -> Vec<Self> {
        let (project, rules) = (&vm.meta.project, &vm.spec.rules);
        let rule = |domain: &Domain, vms: &Selector, wish| Self {
            project: project.clone(),
            domain: domain.clone(),
            vms: vms.clone(),
            wish,
            shape,
        };
        let required = rules.affinity.iter().filter(|held| held.strength == Strength::Required);
        let near = required.map(|held| rule(&held.domain, &held.vms, if held.anti { Wish::Away } else { Wish::Near }));
        let even = rules.spread.iter().map(|held| {
            let strict = held.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule;
            rule(&held.domain, &held.vms, Wish::Even { max_skew: held.max_skew, strict })
        });
        near.chain(even).collect()
    }
}

/// The VMs that have one rule, by part of the cluster.
#[derive(Debug)]
struct Held {
    counter: usize,
    kind: usize,
    rule: Rule,
    /// Those that the rule counts too.
    counted: BTreeMap<usize, u64>,
    others: BTreeMap<usize, u64>,
}

/// Every rule that placed VMs have about others.
#[derive(Debug, Default)]
pub(super) struct Strains {
    held: Vec<Held>,
    numbers: HashMap<Rule, usize>,
    matcher: Matcher,
}

impl Strains {
    pub(super) fn of(view: &Cluster, index: &mut Index) -> Self {
        let mut strains = Self::default();
        let has_rules = |vm: &Vm| !vm.spec.rules.affinity.is_empty() || !vm.spec.rules.spread.is_empty();
        let placed = || view.vms.values().filter(|vm| has_rules(vm) && !vm.meta.is_deleting());
        let mut all = Vec::new();
        for vm in placed() {
            let Some(row) = vm.assignment.as_ref().and_then(|held| index.row(held.host)) else { continue };
            let shape = index.shape(&vm.spec);
            all.extend(Rule::all_of(vm, shape).into_iter().map(|rule| (vm, row, rule)));
        }
        let counters = index.counters(all.iter().map(|(_, _, rule)| (&rule.project, &rule.domain, &rule.vms)));
        for ((vm, row, rule), counter) in all.into_iter().zip(counters) {
            let kind = index.counter_at(counter).what.kind;
            let Self { held, numbers, matcher } = &mut strains;
            let number = *numbers.entry(rule).or_insert_with_key(|rule| {
                matcher.file(held.len(), &rule.project, &rule.vms);
                let (counted, others) = (BTreeMap::new(), BTreeMap::new());
                held.push(Held { counter, kind, rule: rule.clone(), counted, others });
                held.len() - 1
            });
            held[number].change(vm, index.parts[kind].of_row[row], true);
        }
        strains
    }

    /// The rules that a move of this VM touches.
    pub(super) fn touched_by(&self, index: &mut Index, vm: &Vm) -> Vec<usize> {
        let labels = &vm.meta.labels;
        let counting = self.matcher.candidates(&vm.meta.project, labels);
        let mut touched: Vec<usize> = counting.filter(|at| self.held[*at].rule.vms.matches(labels)).collect();
        touched.extend(self.rules_of(index, vm));
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    fn rules_of(&self, index: &mut Index, vm: &Vm) -> Vec<usize> {
        let shape = index.shape(&vm.spec);
        Rule::all_of(vm, shape).iter().filter_map(|rule| self.numbers.get(rule).copied()).collect()
    }

    /// The VM with its rules is in another row.
    pub(super) fn follow(&mut self, index: &mut Index, vm: &Vm, from: usize, to: usize) {
        for at in self.rules_of(index, vm) {
            let held = &mut self.held[at];
            let parts = &index.parts[held.kind].of_row;
            held.change(vm, parts[from], false);
            held.change(vm, parts[to], true);
        }
    }

    /// How far these rules are from being kept, as VMs are counted now.
    pub(super) fn strain(&self, index: &Index, rules: &[usize]) -> Strain {
        let mut sum = Strain::default();
        for at in rules {
            let Strain { broken, skew } = self.held[*at].strain(index);
            (sum.broken, sum.skew) = (sum.broken + broken, sum.skew + skew);
        }
        sum
    }
}

impl Held {
    fn change(&mut self, vm: &Vm, part: usize, came: bool) {
        let is_counted = self.rule.vms.matches(&vm.meta.labels);
        let by_part = if is_counted { &mut self.counted } else { &mut self.others };
        let count = by_part.entry(part).or_default();
        *count = if came { *count + 1 } else { count.saturating_sub(1) };
    }

    fn strain(&self, index: &Index) -> Strain {
        let counter = index.counter_at(self.counter);
        let sum = |by_part: &BTreeMap<usize, u64>, of_one: &dyn Fn(usize) -> u64| -> u64 {
            by_part.iter().map(|(part, vms)| vms * of_one(*part)).sum()
        };
        let both = |counted: &dyn Fn(usize) -> u64, other: &dyn Fn(usize) -> u64| {
            sum(&self.counted, counted) + sum(&self.others, other)
        };
        let is = |broken: bool| u64::from(broken);
        let broken = match self.rule.wish {
            // One that is counted itself is near to itself; alone it may be only as long as there are no others.
            Wish::Near => both(&|part| is(part == NOWHERE || (counter.at(part) <= 1 && counter.total > 1)), &|part| {
                is(part == NOWHERE || counter.at(part) == 0)
            }),
            Wish::Away => both(&|part| is(counter.at(part) > 1), &|part| is(counter.at(part) > 0)),
            Wish::Even { max_skew, strict } => {
                let excess = self.excess(index, counter, max_skew);
                if !strict {
                    return Strain { broken: 0, skew: both(&excess, &excess) };
                }
                both(&|part| is(excess(part) > 0), &|part| is(excess(part) > 0))
            }
        };
        Strain { broken, skew: 0 }
    }

    /// By how much a part has more than is allowed; outside every part it is more than in any.
    fn excess<'a>(&self, index: &Index, counter: &'a Counter, max_skew: u32) -> impl Fn(usize) -> u64 + 'a {
        let least = crate::rules::least(index, self.counter, self.rule.shape);
        let of = move |count: u32| u64::from(count.saturating_sub(least).saturating_sub(max_skew));
        let most = counter.by_part.iter().copied().max().unwrap_or(0);
        move |part| if part == NOWHERE { of(most) + 1 } else { of(counter.at(part)) }
    }
}
