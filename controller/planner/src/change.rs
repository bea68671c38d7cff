//! The smallest change to what a VM asks for with which some host could take it now.
//!
//! Smallest means: the fewest fields; of as many fields those that come first in the order of [`Change`]; of these the
//! least amounts. Up to three fields all combinations are tried, as long as they are not too many; beyond, a change is found
//! from which no field can be left out. A change that makes a VM ask for less always fits where the greater wish did, so
//! amounts are found by halving.

use std::fmt;

use berth_model::host::PciKind;
use berth_model::placement::{Spread, Strength, Taint, TaintEffect, Toleration, VmAffinity, WhenUnsatisfiable};
use berth_model::vm::{NumaPolicy, SmtPolicy, Vm, VmSpec};
use berth_model::{Bytes, PageSize};

use crate::choose::{Ask, Mode, choose};
use crate::index::Index;

/// One field of a VM's spec that would have to be another. In the order in which they are preferred.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Less memory.
    Memory {
        /// As much would fit.
        to: Bytes,
    },
    /// Fewer CPUs.
    Cpus {
        /// As many would fit.
        to: u32,
    },
    /// Any host, whatever its labels.
    AnyHost,
    /// Hosts of any group.
    AnyGroup,
    /// Without this rule about other VMs.
    WithoutAffinity(VmAffinity),
    /// This spread only if it can be kept.
    SoftSpread(Spread),
    /// Also hosts with this taint.
    Tolerate(Taint),
    /// Fewer PCI devices of a kind.
    Devices {
        /// Of which kind.
        kind: PciKind,
        /// As many would fit.
        to: u32,
    },
    /// Other VMs may share its cores.
    Smt {
        /// How far.
        to: SmtPolicy,
    },
    /// It may lie on several NUMA nodes.
    AnyNodes,
    /// QEMU's own threads run where the host's do.
    SharedEmulator,
    /// Fewer IOThreads with a host thread for themselves.
    Iothreads {
        /// As many would fit.
        to: u32,
    },
    /// Smaller pages.
    Pages {
        /// Of this size.
        to: PageSize,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { to } => write!(f, "ask for {to} of memory"),
            Self::Cpus { to } => write!(f, "ask for {to} CPUs"),
            Self::AnyHost => write!(f, "ask for hosts with any labels"),
            Self::AnyGroup => write!(f, "ask for hosts of any group"),
            Self::WithoutAffinity(VmAffinity { anti, domain, vms, .. }) => {
                let how = if *anti { "keep away from" } else { "be near to" };
                write!(f, "do not require to {how} VMs with {vms} by {domain}")
            }
            Self::SoftSpread(Spread { domain, vms, .. }) => {
                write!(f, "let the spread of VMs with {vms} by {domain} be ScheduleAnyway")
            }
            Self::Tolerate(taint) => write!(f, "tolerate the taint {taint}"),
            Self::Devices { kind, to } => write!(f, "ask for {to} PCI devices {kind}"),
            Self::Smt { to } => write!(f, "set the SMT policy to {to}"),
            Self::AnyNodes => write!(f, "let it lie on several NUMA nodes"),
            Self::SharedEmulator => write!(f, "ask for no emulator thread of its own"),
            Self::Iothreads { to } => write!(f, "ask for {to} IOThreads of its own"),
            Self::Pages { to } => write!(f, "ask for pages of {to}"),
        }
    }
}

impl Change {
    /// Makes the change.
    pub fn apply_to(&self, spec: &mut VmSpec) {
        match self {
            Self::Memory { to } => spec.memory = *to,
            Self::Cpus { to } => spec.cpus = *to,
            Self::AnyHost => spec.rules.hosts.clear(),
            Self::AnyGroup => spec.rules.host_group = None,
            Self::WithoutAffinity(rule) => {
                let at = spec.rules.affinity.iter().position(|held| held == rule);
                at.map(|at| spec.rules.affinity.remove(at));
            }
            Self::SoftSpread(rule) => {
                if let Some(held) = spec.rules.spread.iter_mut().find(|held| *held == rule) {
                    held.when_unsatisfiable = WhenUnsatisfiable::ScheduleAnyway;
                }
            }
            Self::Tolerate(Taint { key, value, effect }) => spec.rules.tolerations.push(Toleration {
                key: Some(key.clone()),
                value: Some(value.clone()),
                effect: Some(*effect),
            }),
            Self::Devices { kind, to } => {
                // The same kind may be named more than once.
                let mut left = *to;
                for demand in spec.devices.iter_mut().filter(|demand| demand.kind == *kind) {
                    demand.count = demand.count.min(left);
                    left -= demand.count;
                }
                spec.devices.retain(|demand| demand.count > 0);
            }
            Self::Smt { to } => spec.tuning.smt = *to,
            Self::AnyNodes => spec.tuning.numa = NumaPolicy::Fewest,
            Self::SharedEmulator => spec.tuning.dedicated_emulator = false,
            Self::Iothreads { to } => spec.tuning.dedicated_iothreads = *to,
            Self::Pages { to } => spec.tuning.pages = *to,
        }
    }
}

/// A field that can be changed, from the least change to the greatest.
struct Lever {
    steps: u64,
    change: Box<dyn Fn(u64) -> Change>,
}

impl Lever {
    fn once(change: Change) -> Self {
        Self { steps: 1, change: Box::new(move |_| change.clone()) }
    }

    fn several(steps: Vec<Change>) -> Option<Self> {
        let most = steps.len() as u64;
        let at = move |step: u64| steps[usize::try_from(step).unwrap_or(0).min(steps.len() - 1)].clone();
        (most > 0).then(|| Self { steps: most, change: Box::new(at) })
    }

    fn greatest(&self) -> Change {
        (self.change)(self.steps - 1)
    }
}

/// Every field that can be changed so that the VM asks for less, in the order of preference.
fn levers(index: &Index, spec: &VmSpec) -> Vec<Lever> {
    let mut levers = Vec::new();
    let (rules, tuning) = (&spec.rules, spec.tuning);
    // Ordinary memory in whole MiB, which people can read.
    let unit = spec.page_size().bytes().0.max(Bytes::mib(1).0);
    let least = VmSpec::MIN_MEMORY.0.div_ceil(unit);
    let now = spec.memory.0.div_ceil(unit);
    if now > least {
        let change = move |step: u64| Change::Memory { to: Bytes((now - 1 - step) * unit) };
        levers.push(Lever { steps: now - least, change: Box::new(change) });
    }
    let cpus = spec.cpus;
    if cpus > 1 {
        let change = move |step: u64| Change::Cpus { to: cpus - 1 - u32::try_from(step).unwrap_or(0) };
        levers.push(Lever { steps: u64::from(cpus - 1), change: Box::new(change) });
    }
    if !rules.hosts.is_empty() {
        levers.push(Lever::once(Change::AnyHost));
    }
    if rules.host_group.is_some() {
        levers.push(Lever::once(Change::AnyGroup));
    }
    let required = rules.affinity.iter().filter(|rule| rule.strength == Strength::Required);
    levers.extend(required.map(|rule| Lever::once(Change::WithoutAffinity(rule.clone()))));
    let strict = rules.spread.iter().filter(|rule| rule.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule);
    levers.extend(strict.map(|rule| Lever::once(Change::SoftSpread(rule.clone()))));
    let mut taints: Vec<&Taint> = index
        .rows
        .iter()
        .flat_map(|row| &row.host.spec.taints)
        .filter(|taint| taint.effect == TaintEffect::NoSchedule)
        .filter(|taint| !rules.tolerations.iter().any(|toleration| toleration.tolerates(taint)))
        .collect();
    taints.sort_unstable();
    taints.dedup();
    levers.extend(taints.into_iter().map(|taint| Lever::once(Change::Tolerate(taint.clone()))));
    let mut kinds: Vec<PciKind> = spec.devices.iter().map(|demand| demand.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let asked: u32 = spec.devices.iter().filter(|demand| demand.kind == kind).map(|demand| demand.count).sum();
        levers.extend(Lever::several((0..asked).rev().map(|to| Change::Devices { kind, to }).collect()));
    }
    if spec.performance.is_pinned() {
        let looser = match tuning.smt {
            SmtPolicy::Isolate => vec![SmtPolicy::WholeCores, SmtPolicy::Siblings],
            SmtPolicy::WholeCores => vec![SmtPolicy::Siblings],
            SmtPolicy::Siblings => Vec::new(),
        };
        levers.extend(Lever::several(looser.into_iter().map(|to| Change::Smt { to }).collect()));
        if tuning.numa == NumaPolicy::Single {
            levers.push(Lever::once(Change::AnyNodes));
        }
        if tuning.dedicated_emulator {
            levers.push(Lever::once(Change::SharedEmulator));
        }
        let fewer = (0..tuning.dedicated_iothreads).rev().map(|to| Change::Iothreads { to }).collect();
        levers.extend(Lever::several(fewer));
        let smaller = match tuning.pages {
            PageSize::Huge1G => vec![PageSize::Huge2M, PageSize::Small],
            PageSize::Huge2M => vec![PageSize::Small],
            PageSize::Small => Vec::new(),
        };
        // Hosts that have none of the one size may have the other: each is a change of its own.
        levers.extend(smaller.into_iter().map(|to| Lever::once(Change::Pages { to })));
    }
    levers
}

/// More combinations of fields than this are not tried.
const TRIES: usize = 1500;

/// The smallest change with which some host could take the VM now; none if no change would do, as when no host is heard
/// of, or if none is needed.
pub(crate) fn smallest(index: &mut Index, vm: &Vm) -> Option<Vec<Change>> {
    let levers = levers(index, &vm.spec);
    let mut search = Search { index, vm, levers: &levers };
    if search.fits(&[]) {
        return None;
    }
    // Of other pages a host may have fewer: where all changes together do not do, all without those of pages may.
    let is_pages = |at: &usize| matches!(levers[*at].greatest(), Change::Pages { .. });
    let (pages, others): (Vec<usize>, Vec<usize>) = (0..levers.len()).partition(is_pages);
    let with = |pages: usize| others.iter().copied().chain([pages]).collect();
    let widest: Vec<Vec<usize>> = [others.clone()].into_iter().chain(pages.into_iter().map(with)).collect();
    let all = widest.into_iter().find(|set| search.fits_at_most(set))?;
    let mut tries = 0;
    let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 0..3 {
        let grown = |set: &Vec<usize>| {
            let first = set.last().map_or(0, |last| last + 1);
            let set = set.clone();
            (first..levers.len()).map(move |next| [set.clone(), vec![next]].concat())
        };
        sets = sets.iter().flat_map(grown).collect();
        for set in &sets {
            tries += 1;
            if tries > TRIES {
                return Some(search.narrowed(all));
            }
            if search.fits_at_most(set) {
                return Some(search.least(set));
            }
        }
    }
    Some(search.narrowed(all))
}

struct Search<'a> {
    index: &'a mut Index,
    vm: &'a Vm,
    levers: &'a [Lever],
}

impl Search<'_> {
    fn fits(&mut self, changes: &[Change]) -> bool {
        let mut vm = self.vm.clone();
        for change in changes {
            change.apply_to(&mut vm.spec);
        }
        let ask = Ask::of(self.index, &vm);
        choose(self.index, &vm, &ask, Mode::Spread).is_some()
    }

    fn fits_at_most(&mut self, set: &[usize]) -> bool {
        let changes: Vec<Change> = set.iter().map(|at| self.levers[*at].greatest()).collect();
        self.fits(&changes)
    }

    /// Leaves out whatever can be left out, the last first.
    fn narrowed(&mut self, mut set: Vec<usize>) -> Vec<Change> {
        for lever in set.clone().into_iter().rev() {
            let without: Vec<usize> = set.iter().copied().filter(|held| *held != lever).collect();
            if self.fits_at_most(&without) {
                set = without;
            }
        }
        self.least(&set)
    }

    /// The least amounts, one field after another.
    fn least(&mut self, set: &[usize]) -> Vec<Change> {
        let mut changes: Vec<Change> = set.iter().map(|at| self.levers[*at].greatest()).collect();
        for (at, lever) in set.iter().enumerate() {
            let lever = &self.levers[*lever];
            let (mut too_little, mut enough) = (0, lever.steps - 1);
            while too_little < enough {
                let middle = too_little + (enough - too_little) / 2;
                changes[at] = (lever.change)(middle);
                if self.fits(&changes) {
                    enough = middle;
                } else {
                    too_little = middle + 1;
                }
            }
            changes[at] = (lever.change)(enough);
        }
        changes
    }
}
