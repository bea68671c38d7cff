//! How a VM gets its resources and where it may run, in the words of manifests and of the command line.
//!
//! One shape for both directions: what a manifest says, and what `--output json|yaml` prints, so that the one can be made
//! of the other.

use berth_model::host::PciKind;
use berth_model::instancetype::PreferenceSpec;
use berth_model::placement::{
    Domain, HostWish, Rules, Selector, Spread, Strength, TaintEffect, Toleration, VmAffinity, WhenUnsatisfiable,
};
use berth_model::vm::{CpuShape, DeviceDemand, NumaPolicy, SmtPolicy};
use berth_model::{Name, PageSize};
use berth_proto::v1;
use clap::ValueEnum;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident of $model:ident { $($(#[$about:meta])* $word:ident = $text:literal $(or $alias:literal)?,)+ })*) => {$(
        $(#[$doc])*
        #[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum $name {
            $($(#[$about])* #[serde(rename = $text $(, alias = $alias)?)] #[value(name = $text $(, alias = $alias)?)] $word,)+
        }

        impl From<$name> for $model {
            fn from(word: $name) -> Self {
                match word {
                    $($name::$word => Self::$word,)+
                }
            }
        }

        impl From<$model> for $name {
            fn from(value: $model) -> Self {
                match value {
                    $($model::$word => Self::$word,)+
                }
            }
        }
    )*};
}

words! {
    /// The pages that guest memory lies on.
    Pages of PageSize {
        /// Ordinary pages; 'never' says the same.
        Small = "4KiB" or "never",
        /// Hugepages of 2 MiB.
        Huge2M = "2MiB",
        /// Hugepages of 1 GiB.
        Huge1G = "1GiB",
    }
    /// What may share a core with it.
    Smt of SmtPolicy {
        /// Threads of one core may belong to different VMs.
        Siblings = "siblings",
        /// Only whole cores.
        WholeCores = "whole-cores",
        /// One virtual CPU to a core.
        Isolate = "isolate",
    }
    /// Over how many NUMA nodes it may lie.
    Numa of NumaPolicy {
        /// As few as possible.
        Fewest = "fewest",
        /// One.
        Single = "single",
    }
    /// How its CPUs look to its guest.
    Shape of CpuShape {
        /// One socket of many cores.
        Cores = "cores",
        /// As many sockets as CPUs.
        Sockets = "sockets",
    }
    /// What a taint does.
    Effect of TaintEffect {
        /// No VMs are placed there.
        NoSchedule = "NoSchedule",
        /// VMs are placed there last.
        PreferNoSchedule = "PreferNoSchedule",
    }
    /// What becomes of a VM that would break a spread.
    Unsatisfiable of WhenUnsatisfiable {
        /// It waits.
        DoNotSchedule = "DoNotSchedule",
        /// It is placed all the same.
        ScheduleAnyway = "ScheduleAnyway",
    }
}

/// The tuning template's word.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Template {
    /// CPU threads of its own, hugepages.
    #[serde(alias = "high-performance")]
    #[value(alias = "high-performance")]
    High,
    /// CPUs that float over the threads no VM has for itself; all of it is booked.
    Standard,
    /// As standard, over-subscribed.
    #[serde(alias = "high-density")]
    #[value(alias = "high-density")]
    Density,
}

impl From<Template> for v1::Performance {
    fn from(template: Template) -> Self {
        match template {
            Template::High => Self::High,
            Template::Standard => Self::Standard,
            Template::Density => Self::Density,
        }
    }
}

/// A value that is written as one text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AsText<T>(pub(crate) T);

macro_rules! as_text {
    ($($model:ty, $write:expr;)*) => {$(
        impl Serialize for AsText<$model> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&$write(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for AsText<$model> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map(Self).map_err(|why| D::Error::custom(format!("{text:?}: {why}")))
            }
        }
    )*};
}

as_text! {
    Selector, Selector::to_text;
    Domain, Domain::to_string;
    PciKind, PciKind::to_string;
}

/// How it gets its CPUs and its memory.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Tuning {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pages: Option<Pages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) smt: Option<Smt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) numa: Option<Numa>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dedicated_emulator: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dedicated_iothreads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_shape: Option<Shape>,
}

impl From<&Tuning> for v1::Tuning {
    fn from(tuning: &Tuning) -> Self {
        let Tuning { pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape } = tuning.clone();
        Self::from(&PreferenceSpec {
            cpu_shape: cpu_shape.map(Into::into),
            pages: pages.map(Into::into),
            smt: smt.map(Into::into),
            numa: numa.map(Into::into),
            dedicated_emulator,
            dedicated_iothreads,
        })
    }
}

impl Tuning {
    /// Whether nothing is wished.
    pub(crate) fn is_silent(&self) -> bool {
        *self == Self::default()
    }

    /// Of a server's words; what this program does not know is left out.
    pub(crate) fn read(wire: v1::Tuning) -> Self {
        let PreferenceSpec { cpu_shape, pages, smt, numa, dedicated_emulator, dedicated_iothreads } =
            wire.try_into().unwrap_or_default();
        Self {
            pages: pages.map(Into::into),
            smt: smt.map(Into::into),
            numa: numa.map(Into::into),
            dedicated_emulator,
            dedicated_iothreads,
            cpu_shape: cpu_shape.map(Into::into),
        }
    }
}

/// PCI devices of one kind.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) kind: AsText<PciKind>,
    #[serde(default = "one")]
    pub(crate) count: u32,
}

const fn one() -> u32 {
    1
}

impl From<&Device> for v1::DeviceDemand {
    fn from(device: &Device) -> Self {
        Self::from(&DeviceDemand { kind: device.kind.0, count: device.count })
    }
}

impl Device {
    /// Of a server's words.
    pub(crate) fn read(wire: v1::DeviceDemand) -> Option<Self> {
        let DeviceDemand { kind, count } = wire.try_into().ok()?;
        Some(Self { kind: AsText(kind), count })
    }
}

/// Every rule of one VM.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct RulesText {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<AsText<Selector>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) host_wishes: Vec<WishText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host_group: Option<Name>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tolerations: Vec<TolerationText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) affinity: Vec<AffinityText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) spread: Vec<SpreadText>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) priority: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A wish about hosts.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct WishText {
    pub(crate) weight: u32,
    pub(crate) hosts: AsText<Selector>,
}

/// Consent to taints.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct TolerationText {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) effect: Option<Effect>,
}

/// Near to other VMs, or with `anti` away from them.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct AffinityText {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) anti: bool,
    pub(crate) domain: AsText<Domain>,
    pub(crate) vms: AsText<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preferred_weight: Option<u32>,
}

/// Even numbers over parts of the cluster.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SpreadText {
    pub(crate) domain: AsText<Domain>,
    pub(crate) max_skew: u32,
    #[serde(default = "waits")]
    pub(crate) when_unsatisfiable: Unsatisfiable,
    pub(crate) vms: AsText<Selector>,
}

const fn waits() -> Unsatisfiable {
    Unsatisfiable::DoNotSchedule
}

impl From<RulesText> for Rules {
    fn from(text: RulesText) -> Self {
        let RulesText { hosts, host_wishes, host_group, tolerations, affinity, spread, priority } = text;
        let wish = |WishText { weight, hosts }| HostWish { weight, hosts: hosts.0 };
        let toleration =
            |TolerationText { key, value, effect }| Toleration { key, value, effect: effect.map(Into::into) };
        let near = |AffinityText { anti, domain, vms, preferred_weight }| {
            let strength = preferred_weight.map_or(Strength::Required, Strength::Preferred);
            VmAffinity { anti, strength, domain: domain.0, vms: vms.0 }
        };
        let even = |SpreadText { domain, max_skew, when_unsatisfiable, vms }| {
            let when_unsatisfiable = when_unsatisfiable.into();
            Spread { domain: domain.0, max_skew, when_unsatisfiable, vms: vms.0 }
        };
        Self {
            hosts: hosts.into_iter().map(|AsText(selector)| selector).collect(),
            host_wishes: host_wishes.into_iter().map(wish).collect(),
            host_group,
            tolerations: tolerations.into_iter().map(toleration).collect(),
            affinity: affinity.into_iter().map(near).collect(),
            spread: spread.into_iter().map(even).collect(),
            priority,
        }
    }
}

impl From<Rules> for RulesText {
    fn from(rules: Rules) -> Self {
        let Rules { hosts, host_wishes, host_group, tolerations, affinity, spread, priority } = rules;
        let wish = |HostWish { weight, hosts }| WishText { weight, hosts: AsText(hosts) };
        let toleration =
            |Toleration { key, value, effect }| TolerationText { key, value, effect: effect.map(Into::into) };
        let near = |VmAffinity { anti, strength, domain, vms }| AffinityText {
            anti,
            domain: AsText(domain),
            vms: AsText(vms),
            preferred_weight: match strength {
                Strength::Required => None,
                Strength::Preferred(weight) => Some(weight),
            },
        };
        let even = |Spread { domain, max_skew, when_unsatisfiable, vms }| SpreadText {
            domain: AsText(domain),
            max_skew,
            when_unsatisfiable: when_unsatisfiable.into(),
            vms: AsText(vms),
        };
        Self {
            hosts: hosts.into_iter().map(AsText).collect(),
            host_wishes: host_wishes.into_iter().map(wish).collect(),
            host_group,
            tolerations: tolerations.into_iter().map(toleration).collect(),
            affinity: affinity.into_iter().map(near).collect(),
            spread: spread.into_iter().map(even).collect(),
            priority,
        }
    }
}

impl From<RulesText> for v1::Rules {
    fn from(text: RulesText) -> Self {
        Self::from(&Rules::from(text))
    }
}

impl RulesText {
    /// Of a server's words; none if this program does not understand them.
    pub(crate) fn read(wire: v1::Rules) -> Option<Self> {
        Rules::try_from(wire).ok().map(Into::into)
    }
}

/// Each wish as a word, for people; what is not wished is left out.
pub(crate) fn tuning_in_words(tuning: &Tuning) -> Vec<String> {
    let Tuning { pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape } = tuning.clone();
    let words = [
        pages.map(|pages| format!("pages {}", PageSize::from(pages))),
        smt.map(|smt| format!("smt {}", SmtPolicy::from(smt))),
        numa.map(|numa| format!("numa {}", NumaPolicy::from(numa))),
        dedicated_emulator.map(|own| format!("dedicated emulator {}", if own { "yes" } else { "no" })),
        dedicated_iothreads.map(|count| format!("dedicated iothreads {count}")),
        cpu_shape.map(|shape| format!("cpu shape {}", CpuShape::from(shape))),
    ];
    words.into_iter().flatten().collect()
}

/// One line for each rule, for people.
pub(crate) fn in_words(rules: &RulesText) -> Vec<String> {
    let RulesText { hosts, host_wishes, host_group, tolerations, affinity, spread, priority } = rules;
    let mut lines = Vec::new();
    if !hosts.is_empty() {
        let any: Vec<_> = hosts.iter().map(|AsText(selector)| selector.to_string()).collect();
        lines.push(format!("on hosts with {}", any.join(", or ")));
    }
    lines.extend(host_group.iter().map(|group| format!("on hosts of the group {group}")));
    lines.extend(
        host_wishes
            .iter()
            .map(|WishText { weight, hosts }| format!("better on hosts with {} (weight {weight})", hosts.0)),
    );
    for TolerationText { key, value, effect } in tolerations {
        let key = key.as_deref().unwrap_or("every taint");
        let value = value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
        let effect = effect.map(|effect| format!(":{}", TaintEffect::from(effect))).unwrap_or_default();
        lines.push(format!("tolerates {key}{value}{effect}"));
    }
    for AffinityText { anti, domain, vms, preferred_weight } in affinity {
        let how = if *anti { "not in the same" } else { "in the same" };
        let soft = preferred_weight.map(|weight| format!(", preferred (weight {weight})")).unwrap_or_default();
        lines.push(format!("{how} {} as VMs with {}{soft}", domain.0, vms.0));
    }
    for SpreadText { domain, max_skew, when_unsatisfiable, vms } in spread {
        let soft = if *when_unsatisfiable == Unsatisfiable::ScheduleAnyway { ", preferred" } else { "" };
        lines.push(format!("VMs with {} evenly over each {}, at most {max_skew} apart{soft}", vms.0, domain.0));
    }
    if *priority != 0 {
        lines.push(format!("priority {priority}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_again() {
        let text = "\
            hosts: ['gpu,zone in (a,b)', '!old']\n\
            hostWishes: [{ weight: 80, hosts: ssd>1 }]\n\
            hostGroup: prod\n\
            tolerations: [{ key: gpu, effect: NoSchedule }, {}]\n\
            affinity: [{ vms: app=db, domain: zone }, { anti: true, vms: app=web, domain: host, preferredWeight: 5 }]\n\
            spread: [{ vms: app=web, domain: example.org/row, maxSkew: 2, whenUnsatisfiable: ScheduleAnyway }]\n\
            priority: -3\n";
        let read: RulesText = serde_saphyr::from_str(text).unwrap();
        let printed = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<RulesText>(&printed).unwrap(), read);
        let wire = v1::Rules::from(read.clone());
        assert_eq!(RulesText::read(wire), Some(read.clone()));
        insta::assert_snapshot!(in_words(&read).join("\n"), @r"
        on hosts with gpu exists and zone in (a, b), or no old
        on hosts of the group prod
        better on hosts with ssd > 1 (weight 80)
        tolerates gpu:NoSchedule
        tolerates every taint
        in the same zone as VMs with app=db
        not in the same host as VMs with app=web, preferred (weight 5)
        VMs with app=web evenly over each example.org/row, at most 2 apart, preferred
        priority -3
        ");
    }

    #[test]
    fn a_rule_that_is_misspelt_is_refused() {
        for wrong in
            ["host: [gpu]", "hosts: ['a=b,']", "spread: [{ vms: a, domain: zone, maxSkew: -1 }]", "priority: 1.5"]
        {
            assert!(serde_saphyr::from_str::<RulesText>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn never_means_ordinary_pages() {
        let tuning: Tuning = serde_saphyr::from_str("{ pages: never, smt: whole-cores }").unwrap();
        assert_eq!((tuning.pages, tuning.smt), (Some(Pages::Small), Some(Smt::WholeCores)));
        let wire = v1::Tuning::from(&tuning);
        assert_eq!(wire.pages(), v1::PageSize::PageSize4k);
        assert_eq!(Tuning::read(wire), tuning);
    }
}
