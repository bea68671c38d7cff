//! What a VM's rules about other VMs come to, part by part of the cluster.
//!
//! Counts are looked at once for a VM and become one word for each part: closed or open, and what it costs. Hosts then only
//! look up their part.
//!
//! As in Kubernetes: a rule to be near VMs that nobody matches yet holds where the VM itself matches, or the first of a
//! group could never be placed; a required rule to keep away binds both sides, whoever came first; VMs of other projects
//! count for nothing. A spread compares with the emptiest part that has a host which may take the VM by its labels,
//! groups, taints and cordon and which is heard of; a host outside every part takes no VM that is spread strictly.

use berth_model::placement::{Domain, Selector, Spread, Strength, VmAffinity, WhenUnsatisfiable};
use berth_model::vm::Vm;

use crate::index::{Guard, Index, NOWHERE};
use crate::refusal::Refusal;

/// One rule, with its counts at hand.
#[derive(Debug)]
enum Rule {
    /// Near to VMs that a counter counts; `first` if nobody is there and the VM would be the first of them.
    Near {
        counter: usize,
        first: bool,
        strength: Strength,
    },
    Away {
        counter: usize,
        strength: Strength,
    },
    /// Others keep away from such a VM.
    Guarded {
        guard: What,
        by_part: Vec<(usize, u32)>,
    },
    Spread {
        counter: usize,
        own: u32,
        least: u32,
        max_skew: u32,
        strict: bool,
    },
}

#[derive(Debug)]
struct What {
    kind: usize,
    vms: Selector,
}

/// What the rules come to in the parts of one kind.
#[derive(Debug)]
struct OfKind {
    kind: usize,
    /// By part.
    words: Vec<Word>,
}

/// What the rules come to in one part.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    closed: bool,
    skew: u32,
    unmet: u32,
}

/// What rules cost on a host that does not break them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cost {
    /// By how much soft spreads would be broken.
    pub(crate) skew: u32,
    /// The weight of preferences that are not met.
    pub(crate) unmet: u32,
}

/// A VM's rules about other VMs, as the cluster is now.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    kinds: Vec<OfKind>,
}

impl Rules {
    /// Counts what the VM's rules ask for.
    pub(crate) fn of(index: &mut Index, vm: &Vm, shape: usize) -> Self {
        let mut rules = Vec::new();
        let asked = &vm.spec.rules;
        for VmAffinity { anti, strength, domain, vms } in &asked.affinity {
            let counter = index.counter(vm, domain, vms);
            rules.push(if *anti {
                Rule::Away { counter, strength: *strength }
            } else {
                let first = index.counter_at(counter).total == 0 && vms.matches(&vm.meta.labels);
                Rule::Near { counter, first, strength: *strength }
            });
        }
        // Guards are numbered as they came, which is not the same on every index: the first reason must not depend on it.
        let mut guards: Vec<&Guard> = index.guards_against(vm).collect();
        guards.sort_by_key(|guard| (&index.parts[guard.what.kind].domain, &guard.what.vms));
        for guard in guards {
            let by_part = guard.by_part.iter().map(|(part, count)| (*part, *count)).collect();
            let guard = What { kind: guard.what.kind, vms: guard.what.vms.clone() };
            rules.push(Rule::Guarded { guard, by_part });
        }
        for Spread { domain, max_skew, when_unsatisfiable, vms } in &asked.spread {
            let counter = index.counter(vm, domain, vms);
            let own = u32::from(vms.matches(&vm.meta.labels));
            let least = least(index, counter, shape);
            let strict = *when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule;
            rules.push(Rule::Spread { counter, own, least, max_skew: *max_skew, strict });
        }
        let mut found = Self { rules, kinds: Vec::new() };
        for at in 0..found.rules.len() {
            found.spell(index, at);
        }
        found
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Adds one rule to the words of its kind.
    fn spell(&mut self, index: &Index, at: usize) {
        let rule = &self.rules[at];
        let kind = rule.kind(index);
        let parts = index.parts[kind].names.len();
        let of_kind = match self.kinds.iter().position(|held| held.kind == kind) {
            Some(held) => &mut self.kinds[held],
            None => {
                self.kinds.push(OfKind { kind, words: vec![Word::default(); parts] });
                self.kinds.last_mut().expect("it was pushed")
            }
        };
        if let Rule::Guarded { by_part, .. } = rule {
            for (part, _) in by_part {
                of_kind.words[*part].closed = true;
            }
            return;
        }
        for (part, word) in of_kind.words.iter_mut().enumerate() {
            let (closed, cost) = rule.word(index, part);
            word.closed |= closed;
            word.skew = word.skew.saturating_add(cost.skew);
            word.unmet = word.unmet.saturating_add(cost.unmet);
        }
    }

    /// What the rules cost on a host; none if they forbid it.
    pub(crate) fn cost(&self, index: &Index, row: usize) -> Option<Cost> {
        let mut cost = Cost::default();
        for OfKind { kind, words } in &self.kinds {
            let word = words[index.parts[*kind].of_row[row]];
            if word.closed {
                return None;
            }
            cost.skew = cost.skew.saturating_add(word.skew);
            cost.unmet = cost.unmet.saturating_add(word.unmet);
        }
        Some(cost)
    }

    /// No host costs less; none if they forbid every host.
    pub(crate) fn least(&self) -> Option<Cost> {
        let mut least = Cost::default();
        for OfKind { words, .. } in &self.kinds {
            let open = || words.iter().filter(|word| !word.closed);
            least.skew = least.skew.saturating_add(open().map(|word| word.skew).min()?);
            least.unmet = least.unmet.saturating_add(open().map(|word| word.unmet).min()?);
        }
        Some(least)
    }

    /// The first rule that forbids a host.
    pub(crate) fn refusal(&self, index: &Index, row: usize) -> Option<Refusal> {
        self.rules.iter().find_map(|rule| rule.refusal(index, row))
    }

    /// Whether other placements may make a host fit that does not now.
    pub(crate) fn may_ease(&self) -> bool {
        self.rules.iter().any(|rule| match rule {
            Rule::Near { strength, .. } => *strength == Strength::Required,
            Rule::Spread { strict, .. } => *strict,
            Rule::Away { .. } | Rule::Guarded { .. } => false,
        })
    }
}

/// How many counted VMs the emptiest part has, of those that have a host which may take the VM.
pub(crate) fn least(index: &Index, counter: usize, shape: usize) -> u32 {
    let counter = index.counter_at(counter);
    let parts = &index.parts[counter.what.kind];
    let mut is_there = vec![false; parts.names.len()];
    for (row, standing) in index.shape_at(shape).standings.iter().enumerate() {
        is_there[parts.of_row[row]] |= standing.counts && index.lost != Some(row);
    }
    (1..is_there.len()).filter(|part| is_there[*part]).map(|part| counter.at(part)).min().unwrap_or(0)
}

impl Rule {
    fn kind(&self, index: &Index) -> usize {
        match self {
            Self::Guarded { guard, .. } => guard.kind,
            Self::Near { counter, .. } | Self::Away { counter, .. } | Self::Spread { counter, .. } => {
                index.counter_at(*counter).what.kind
            }
        }
    }

    /// Whether it closes a part, and what it costs there.
    fn word(&self, index: &Index, part: usize) -> (bool, Cost) {
        let required_or = |strength: &Strength, holds: bool| match strength {
            Strength::Required => (!holds, Cost::default()),
            Strength::Preferred(weight) => (false, Cost { skew: 0, unmet: if holds { 0 } else { *weight } }),
        };
        match self {
            Self::Near { counter, first, strength } => {
                let holds = part != NOWHERE && (*first || index.counter_at(*counter).at(part) > 0);
                required_or(strength, holds)
            }
            Self::Away { counter, strength } => required_or(strength, index.counter_at(*counter).at(part) == 0),
            Self::Guarded { by_part, .. } => (by_part.iter().any(|(held, _)| *held == part), Cost::default()),
            Self::Spread { counter, own, least, max_skew, strict } => {
                let counter = index.counter_at(*counter);
                let excess = |count: u32| (count + own).saturating_sub(*least).saturating_sub(*max_skew);
                if part != NOWHERE {
                    let excess = excess(counter.at(part));
                    return (*strict && excess > 0, Cost { skew: if *strict { 0 } else { excess }, unmet: 0 });
                }
                // Worse than any part.
                let most = counter.by_part.iter().copied().max().unwrap_or(0);
                (*strict, Cost { skew: if *strict { 0 } else { excess(most) + 1 }, unmet: 0 })
            }
        }
    }

    fn refusal(&self, index: &Index, row: usize) -> Option<Refusal> {
        let parts = &index.parts[self.kind(index)];
        let part = parts.of_row[row];
        if !self.word(index, part).0 {
            return None;
        }
        let (domain, name) = (parts.domain.clone(), parts.names[part].clone());
        let nowhere = |domain: Domain, rule| Refusal::NoDomain { domain, rule };
        Some(match self {
            Self::Near { .. } if part == NOWHERE => nowhere(domain, "affinity"),
            Self::Spread { .. } if part == NOWHERE => nowhere(domain, "spread"),
            Self::Near { counter, .. } => {
                Refusal::NotNear { domain, part: name, vms: index.counter_at(*counter).what.vms.clone() }
            }
            Self::Away { counter, .. } => {
                let counter = index.counter_at(*counter);
                Refusal::TooNear { domain, part: name, vms: counter.what.vms.clone(), count: counter.at(part) }
            }
            Self::Guarded { guard, by_part } => {
                let count = by_part.iter().find(|(held, _)| *held == part).map_or(0, |(_, count)| *count);
                Refusal::KeptAway { domain, part: name, vms: guard.vms.clone(), count }
            }
            Self::Spread { counter, own, least, max_skew, .. } => {
                let counter = index.counter_at(*counter);
                Refusal::Uneven {
                    domain,
                    part: name,
                    vms: counter.what.vms.clone(),
                    count: counter.at(part) + own,
                    least: *least,
                    max_skew: *max_skew,
                }
            }
        })
    }
}
