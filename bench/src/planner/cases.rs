//! The VMs of the bench: each case is shaped after kube-scheduler's workload of its name (`test/integration/
//! scheduler_perf`), with fifty groups of VMs instead of one template.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_model::Bytes;
use berth_model::placement::{
    Domain, Operator, Requirement, Rules, Selector, Spread, Strength, VmAffinity, WhenUnsatisfiable,
};
use berth_model::vm::{NumaPolicy, Performance, RunStrategy, SmtPolicy, Tuning, VmSpec};

use super::cluster::image;

/// One sort of VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// No rules (SchedulingBasic)
    Plain,
    /// Hosts of two zones only (SchedulingNodeAffinity)
    #[value(name = "node_affinity")]
    NodeAffinity,
    /// In the zone of their group (SchedulingPodAffinity)
    #[value(name = "vm_affinity")]
    VmAffinity,
    /// Each on a host without any other of its group (SchedulingPodAntiAffinity)
    #[value(name = "vm_anti_affinity")]
    VmAntiAffinity,
    /// Evenly over zones, strictly (TopologySpreading)
    #[value(name = "spread_hard")]
    SpreadHard,
    /// Evenly over zones, softly (PreferredTopologySpreading)
    #[value(name = "spread_soft")]
    SpreadSoft,
    /// All sorts, near and away, required and preferred (MixedSchedulingBasePod)
    Mixed,
    /// Pinned on hugepages of one NUMA node, with threads for QEMU and IOThreads
    #[value(name = "dedicated_numa")]
    DedicatedNuma,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plain => "plain",
            Self::NodeAffinity => "node_affinity",
            Self::VmAffinity => "vm_affinity",
            Self::VmAntiAffinity => "vm_anti_affinity",
            Self::SpreadHard => "spread_hard",
            Self::SpreadSoft => "spread_soft",
            Self::Mixed => "mixed",
            Self::DedicatedNuma => "dedicated_numa",
        })
    }
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) spec: VmSpec,
}

/// Groups of each case.
const GROUPS: u32 = 50;

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned()), ("tier".to_owned(), "bench".to_owned())])
}

pub(super) fn spec(performance: Performance, cpus: u32, memory: Bytes) -> VmSpec {
    VmSpec {
        instance_type: None,
        cpus,
        preference: None,
        memory,
        performance,
        tuning: Tuning::of(performance),
        devices: Vec::new(),
        rules: Rules::default(),
        image: image(),
        disk_size: Bytes::gib(2),
        run: RunStrategy::Always,
        grace: VmSpec::GRACE,
        user_data: None,
    }
}

/// Of ten VMs six are over-subscribed, three are guaranteed and one is pinned; sizes of 1 to 4 CPUs and 1 to 15 GiB.
pub(super) fn ordinary(number: u32) -> Asked {
    let performance = match number % 10 {
        0..6 => Performance::Density,
        6..9 => Performance::Standard,
        _ => Performance::High,
    };
    let cpus = [1, 2, 4][number as usize / 10 % 3];
    let memory = Bytes::gib(1 + u64::from(number / 30 % 15));
    let memory = if performance.is_pinned() { Bytes(memory.0 / 2) } else { memory };
    Asked { labels: labels(&format!("base-{}", number % 97)), spec: spec(performance, cpus, memory) }
}

fn near(anti: bool, strength: Strength, domain: Domain, group: &str) -> VmAffinity {
    let vms = Selector::of_labels(&BTreeMap::from([("app".to_owned(), group.to_owned())]));
    VmAffinity { anti, strength, domain, vms }
}

fn zones(first: u32) -> Selector {
    let values = BTreeSet::from([format!("zone{}", first % 3), format!("zone{}", (first + 1) % 3)]);
    Selector(vec![Requirement { key: "zone".into(), operator: Operator::In, values }])
}

fn spread(strict: bool, group: &str) -> Spread {
    let when_unsatisfiable = if strict { WhenUnsatisfiable::DoNotSchedule } else { WhenUnsatisfiable::ScheduleAnyway };
    let vms = Selector::of_labels(&BTreeMap::from([("app".to_owned(), group.to_owned())]));
    Spread { domain: Domain::Zone, max_skew: 5, when_unsatisfiable, vms }
}

impl Case {
    pub(super) const ALL: [Self; 8] = [
        Self::Plain,
        Self::NodeAffinity,
        Self::VmAffinity,
        Self::VmAntiAffinity,
        Self::SpreadHard,
        Self::SpreadSoft,
        Self::Mixed,
        Self::DedicatedNuma,
    ];

    /// The VM of this number.
    pub(super) fn vm(self, number: u32) -> Asked {
        let at = number % GROUPS;
        let group = format!("{self}-{at}").replace('_', "-");
        let mut asked = Asked { labels: labels(&group), ..ordinary(number) };
        let rules = &mut asked.spec.rules;
        match self {
            Self::Plain => {}
            Self::NodeAffinity => rules.hosts = vec![zones(at)],
            Self::VmAffinity => rules.affinity = vec![near(false, Strength::Required, Domain::Zone, &group)],
            Self::VmAntiAffinity => rules.affinity = vec![near(true, Strength::Required, Domain::Host, &group)],
            Self::SpreadHard => rules.spread = vec![spread(true, &group)],
            Self::SpreadSoft => rules.spread = vec![spread(false, &group)],
            Self::Mixed => match number % 5 {
                0 => {}
                1 => rules.affinity = vec![near(false, Strength::Required, Domain::Zone, &group)],
                2 => rules.affinity = vec![near(true, Strength::Required, Domain::Host, &group)],
                3 => rules.affinity = vec![near(false, Strength::Preferred(1), Domain::Host, &group)],
                _ => rules.affinity = vec![near(true, Strength::Preferred(1), Domain::Host, &group)],
            },
            Self::DedicatedNuma => {
                let cpus = [2, 3, 4, 6, 8][number as usize % 5];
                let memory = Bytes::gib(1 + u64::from(number / 5 % 10));
                let mut pinned = spec(Performance::High, cpus, memory);
                pinned.tuning.numa = NumaPolicy::Single;
                pinned.tuning.smt = if number.is_multiple_of(2) { SmtPolicy::WholeCores } else { SmtPolicy::Siblings };
                pinned.tuning.dedicated_emulator = true;
                pinned.tuning.dedicated_iothreads = number % 3;
                asked.spec = pinned;
            }
        }
        asked
    }
}
