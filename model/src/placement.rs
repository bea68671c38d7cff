//! Rules about where a VM may or should run, in the terms of Kubernetes: node affinity, affinity between VMs, topology
//! spread, taints and tolerations, host groups.
//!
//! A rule is a value without any knowledge of hosts. What it comes to on a cluster is the planner's to find; what it may
//! contain is limited here, so that no rule makes placement slow for everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{HostUid, Name, Timestamp, VmUid};

/// How a label's value is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Operator {
    /// One of the values; without any values: the label exists.
    In,
    /// None of the values, or the label does not exist.
    NotIn,
    /// The label exists, whatever its value.
    Exists,
    /// The label does not exist.
    DoesNotExist,
    /// A whole number greater than the one value.
    Gt,
    /// A whole number less than the one value.
    Lt,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
            Self::Exists => "Exists",
            Self::DoesNotExist => "DoesNotExist",
            Self::Gt => "Gt",
            Self::Lt => "Lt",
        })
    }
}

/// One condition on labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: BTreeSet<String>,
}

impl Requirement {
    /// Whether these labels meet it.
    pub fn is_met_by(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let number = |text: &str| text.parse::<i64>().ok();
        let compared = |wanted: std::cmp::Ordering| {
            let bound = self.values.first().and_then(|text| number(text));
            value.and_then(|text| number(text)).zip(bound).is_some_and(|(have, bound)| have.cmp(&bound) == wanted)
        };
        match self.operator {
            Operator::In if self.values.is_empty() => value.is_some(),
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compared(std::cmp::Ordering::Greater),
            Operator::Lt => compared(std::cmp::Ordering::Less),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator, values } = self;
        let listed = values.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match operator {
            Operator::In if values.is_empty() => write!(f, "{key} exists"),
            Operator::In if values.len() == 1 => write!(f, "{key}={listed}"),
            Operator::In => write!(f, "{key} in ({listed})"),
            Operator::NotIn => write!(f, "{key} not in ({listed})"),
            Operator::Exists => write!(f, "{key} exists"),
            Operator::DoesNotExist => write!(f, "no {key}"),
            Operator::Gt => write!(f, "{key} > {listed}"),
            Operator::Lt => write!(f, "{key} < {listed}"),
        }
    }
}

/// Conditions of which all must hold. The empty one selects everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    /// The selector of these labels.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Self {
        let one = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: BTreeSet::from([value.clone()]),
        };
        Self(labels.iter().map(one).collect())
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.is_met_by(labels))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("everything");
        }
        for (at, requirement) in self.0.iter().enumerate() {
            write!(f, "{}{requirement}", if at > 0 { " and " } else { "" })?;
        }
        Ok(())
    }
}

/// A part of the cluster that a rule counts in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Domain {
    /// One host.
    Host,
    /// The hosts of one rack.
    Rack,
    /// The hosts of one zone.
    Zone,
    /// The hosts whose label of this key has the same value.
    Label(String),
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Host => "host",
            Self::Rack => "rack",
            Self::Zone => "zone",
            Self::Label(key) => key,
        })
    }
}

/// How strictly a rule is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Strength {
    /// Without it the VM waits.
    Required,
    /// Hosts that keep it are better; of several such rules the heavier counts more. 1 to 100.
    Preferred(u32),
}

/// A wish about hosts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HostWish {
    /// How much it counts, 1 to 100.
    pub weight: u32,
    /// Which hosts are wished for, by their labels.
    pub hosts: Selector,
}

/// Near to other VMs, or away from them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct VmAffinity {
    /// Whether it keeps away from them.
    pub anti: bool,
    /// How strictly.
    pub strength: Strength,
    /// What is meant by near.
    pub domain: Domain,
    /// Which VMs of the same project.
    pub vms: Selector,
}

/// What becomes of a VM that would break a spread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum WhenUnsatisfiable {
    /// It waits.
    DoNotSchedule,
    /// It is placed where it breaks the spread least.
    ScheduleAnyway,
}

/// Even numbers over the parts of the cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// Over what.
    pub domain: Domain,
    /// By how many VMs the fullest part may exceed the emptiest that could take the VM, at least 1.
    pub max_skew: u32,
    /// What becomes of a VM that would exceed it.
    pub when_unsatisfiable: WhenUnsatisfiable,
    /// Which VMs of the same project are counted.
    pub vms: Selector,
}

/// What a taint does to VMs that do not tolerate it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum TaintEffect {
    /// They are not placed there.
    NoSchedule,
    /// They are placed there only when no other host can take them.
    PreferNoSchedule,
}

impl fmt::Display for TaintEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
        })
    }
}

/// A mark on a host that keeps VMs away.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, effect } = self;
        if value.is_empty() { write!(f, "{key}:{effect}") } else { write!(f, "{key}={value}:{effect}") }
    }
}

/// A VM's consent to taints.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Toleration {
    /// The taint's key; none means every key.
    pub key: Option<String>,
    /// The taint's value; none means every value.
    pub value: Option<String>,
    /// The taint's effect; none means every effect.
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    /// Whether it consents to this taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// Every rule of one VM. By default there is none: it may run anywhere, and hosts with fewer VMs are better.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Rules {
    /// Hosts that may take it, by their labels: any of these selectors; none means every host.
    pub hosts: Vec<Selector>,
    /// Hosts that are better.
    pub host_wishes: Vec<HostWish>,
    /// Hosts of this group only.
    pub host_group: Option<Name>,
    /// Taints that do not keep it away.
    pub tolerations: Vec<Toleration>,
    /// Near to or away from other VMs.
    pub affinity: Vec<VmAffinity>,
    /// Evenly over parts of the cluster. None: evenly over hosts, softly, whatever the VM.
    pub spread: Vec<Spread>,
    /// Of VMs that wait, the greater is looked at first. Nothing that runs is displaced for it.
    pub priority: i32,
}

impl Rules {
    /// The most rules of one kind, and the most selectors of hosts.
    pub const MOST: usize = 16;
    /// The most conditions of one selector.
    pub const MOST_REQUIREMENTS: usize = 16;
    /// The most values of one condition.
    pub const MOST_VALUES: usize = 64;

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A move that would make the cluster better, as the planner last found. Nothing moves by it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// Which VM.
    pub vm: VmUid,
    /// Where it has its berth.
    pub from: HostUid,
    /// Where it would have one.
    pub to: HostUid,
    /// What would be better, a sentence.
    pub why: String,
    /// When this move was first proposed, by entry time.
    pub since: Timestamp,
}

impl Proposal {
    /// The most that are kept.
    pub const MOST: usize = 256;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
        Requirement { key: key.into(), operator, values: values.iter().map(|value| (*value).to_owned()).collect() }
    }

    #[test]
    fn a_key_without_values_means_that_the_label_exists() {
        let gpu = requirement("gpu", Operator::In, &[]);
        assert!(gpu.is_met_by(&labels(&[("gpu", "a100")])));
        assert!(!gpu.is_met_by(&labels(&[("cpu", "x")])));
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_other_values_never_hold() {
        let more = requirement("ssd", Operator::Gt, &["9"]);
        assert!(more.is_met_by(&labels(&[("ssd", "10")])));
        assert!(!more.is_met_by(&labels(&[("ssd", "9")])));
        assert!(!more.is_met_by(&labels(&[("ssd", "many")])));
        assert!(!requirement("ssd", Operator::Lt, &[]).is_met_by(&labels(&[("ssd", "1")])));
    }

    #[test]
    fn not_in_holds_where_the_label_is_missing() {
        assert!(requirement("tier", Operator::NotIn, &["db"]).is_met_by(&labels(&[])));
        assert!(!requirement("tier", Operator::NotIn, &["db"]).is_met_by(&labels(&[("tier", "db")])));
    }

    #[test]
    fn a_toleration_without_a_key_consents_to_every_taint() {
        let taint = Taint { key: "maintenance".into(), value: String::new(), effect: TaintEffect::NoSchedule };
        assert!(Toleration::default().tolerates(&taint));
        let other = Toleration { key: Some("gpu".into()), ..Toleration::default() };
        assert!(!other.tolerates(&taint));
        let wrong_effect = Toleration { effect: Some(TaintEffect::PreferNoSchedule), ..Toleration::default() };
        assert!(!wrong_effect.tolerates(&taint));
    }
}
