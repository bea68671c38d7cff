//! Arguments that say how a VM gets its resources and where it may run.

use berth_model::Name;
use berth_model::host::PciKind;
use berth_model::placement::{Domain, Selector};
use berth_proto::v1;
use clap::{Args, ValueEnum};

use crate::placement::{
    AffinityText, AsText, Device, Effect, Numa, Pages, RulesText, Shape, Smt, SpreadText, Template, TolerationText,
    Tuning, Unsatisfiable, WishText,
};

/// How it gets its CPUs and its memory.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "How it gets its CPUs and its memory")]
pub(crate) struct Wishes {
    /// The pages that guest memory lies on; 'never' is the same as 4KiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) pages: Option<Pages>,
    /// What may share a core with it
    #[arg(long, value_name = "POLICY")]
    pub(crate) smt: Option<Smt>,
    /// Over how many NUMA nodes it may lie
    #[arg(long, value_name = "POLICY")]
    pub(crate) numa: Option<Numa>,
    /// A host thread of their own for QEMU's own threads
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) dedicated_emulator: Option<bool>,
    /// IOThreads with a host thread each of their own
    #[arg(long, value_name = "COUNT")]
    pub(crate) dedicated_iothreads: Option<u32>,
    /// How its CPUs look to its guest
    #[arg(long, value_name = "SHAPE")]
    pub(crate) cpu_shape: Option<Shape>,
}

impl Wishes {
    /// In the words of manifests.
    pub(crate) fn tuning(&self) -> Tuning {
        let Self { pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape } = *self;
        Tuning { pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape }
    }
}

/// How a VM gets its resources and where it may run.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Where it may run")]
pub(crate) struct Placement {
    /// The tuning template [default: high]
    #[arg(long, value_name = "TEMPLATE", help_heading = "How it gets its CPUs and its memory")]
    pub(crate) performance: Option<Template>,
    /// The preference whose wishes are taken where nothing else is said
    #[arg(long, value_name = "NAME", help_heading = "How it gets its CPUs and its memory")]
    pub(crate) preference: Option<String>,
    /// Wishes.
    #[command(flatten)]
    pub(crate) wishes: Wishes,
    /// PCI devices for itself, as 'lspci -n' prints their kind: 10de:2204 or 10de:2204=2; may be repeated
    #[arg(long = "device", value_name = "KIND[=COUNT]", value_parser = device, help_heading = "How it gets its CPUs and its memory")]
    pub(crate) devices: Vec<Device>,
    /// Only hosts with these labels, such as 'gpu,zone in (a,b)'; repeated: any of them
    #[arg(long, value_name = "TERMS", value_parser = selector)]
    pub(crate) on_hosts: Vec<Selector>,
    /// Better hosts with these labels, with a weight of 1 to 100: '80:ssd'; may be repeated
    #[arg(long, value_name = "WEIGHT:TERMS", value_parser = wish)]
    pub(crate) prefer_hosts: Vec<WishText>,
    /// Only hosts of this group
    #[arg(long, value_name = "NAME")]
    pub(crate) host_group: Option<Name>,
    /// Hosts with this taint too: 'gpu', 'gpu=a100', 'gpu:NoSchedule' or '*' for every taint; may be repeated
    #[arg(long, value_name = "KEY[=VALUE][:EFFECT]", value_parser = toleration)]
    pub(crate) tolerate: Vec<TolerationText>,
    /// Near to the VMs with these labels: 'zone:app=db', or 'soft:50:zone:app=db'; may be repeated
    #[arg(long, value_name = "[soft:WEIGHT:]DOMAIN:TERMS", value_parser = affinity)]
    pub(crate) near: Vec<AffinityText>,
    /// Away from the VMs with these labels: 'host:app=web'; may be repeated
    #[arg(long, value_name = "[soft:WEIGHT:]DOMAIN:TERMS", value_parser = affinity)]
    pub(crate) apart: Vec<AffinityText>,
    /// VMs with these labels evenly over parts of the cluster: 'zone:1:app=web', 'rack:2:soft:app=web'; may be repeated
    #[arg(long, value_name = "DOMAIN:MAXSKEW[:soft]:TERMS", value_parser = spread)]
    pub(crate) spread: Vec<SpreadText>,
    /// Of VMs that wait, those of a higher priority are looked at first
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) priority: Option<i32>,
}

impl Placement {
    /// In the words of manifests.
    pub(crate) fn rules(&self) -> RulesText {
        let away = |one: &AffinityText| AffinityText { anti: true, ..one.clone() };
        RulesText {
            hosts: self.on_hosts.iter().cloned().map(AsText).collect(),
            host_wishes: self.prefer_hosts.clone(),
            host_group: self.host_group.clone(),
            tolerations: self.tolerate.clone(),
            affinity: self.near.iter().cloned().chain(self.apart.iter().map(away)).collect(),
            spread: self.spread.clone(),
            priority: self.priority.unwrap_or_default(),
        }
    }

    /// Puts what is said into a spec.
    pub(crate) fn put_into(&self, spec: &mut v1::VmSpec) {
        spec.performance = self.performance.map_or(v1::Performance::Unspecified, Into::into).into();
        spec.preference = self.preference.clone().unwrap_or_default();
        let (tuning, rules) = (self.wishes.tuning(), self.rules());
        spec.tuning = (tuning != Tuning::default()).then(|| (&tuning).into());
        spec.devices = self.devices.iter().map(Into::into).collect();
        spec.rules = (rules != RulesText::default()).then(|| rules.into());
    }

    /// The fields of a spec that are spoken of, as the wire calls them.
    pub(crate) fn fields(&self) -> Vec<String> {
        let said = [
            ("performance", self.performance.is_some()),
            ("preference", self.preference.is_some()),
            ("tuning", self.wishes.tuning() != Tuning::default()),
            ("devices", !self.devices.is_empty()),
            ("rules.hosts", !self.on_hosts.is_empty()),
            ("rules.host_wishes", !self.prefer_hosts.is_empty()),
            ("rules.host_group", self.host_group.is_some()),
            ("rules.tolerations", !self.tolerate.is_empty()),
            ("rules.affinity", !(self.near.is_empty() && self.apart.is_empty())),
            ("rules.spread", !self.spread.is_empty()),
            ("rules.priority", self.priority.is_some()),
        ];
        said.into_iter().filter(|(_, said)| *said).map(|(field, _)| field.to_owned()).collect()
    }
}

fn selector(text: &str) -> Result<Selector, String> {
    text.parse().map_err(|why| format!("{why}; write terms such as app=web, tier!=db, zone in (a,b), gpu, !old, ssd>1"))
}

fn domain(text: &str) -> Result<AsText<Domain>, String> {
    if text.is_empty() {
        return Err("the domain is missing; write host, rack, zone or a label's key".into());
    }
    text.parse().map(AsText).map_err(|why: std::convert::Infallible| match why {})
}

fn number(what: &str, text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a {what}"))
}

fn device(text: &str) -> Result<Device, String> {
    let (kind, count) = match text.split_once('=') {
        Some((kind, count)) => (kind, number("count", count)?),
        None => (text, 1),
    };
    let kind: PciKind = kind
        .parse()
        .map_err(|_| format!("{kind:?} is not maker:product as 'lspci -n' prints it, such as 10de:2204"))?;
    Ok(Device { kind: AsText(kind), count })
}

fn wish(text: &str) -> Result<WishText, String> {
    let (weight, hosts) = text.split_once(':').ok_or("write WEIGHT:TERMS, such as 80:ssd")?;
    Ok(WishText { weight: number("weight", weight)?, hosts: AsText(selector(hosts)?) })
}

fn toleration(text: &str) -> Result<TolerationText, String> {
    let (marked, effect) = split_effect(text)?;
    let (key, value) = match marked.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (marked, None),
    };
    match key {
        "*" if value.is_none() => Ok(TolerationText { key: None, value: None, effect }),
        "" | "*" => Err(format!("{text:?} names no key; '*' stands for every taint")),
        key => Ok(TolerationText { key: Some(key.to_owned()), value, effect }),
    }
}

/// What stands before the last colon, and the effect behind it.
pub(super) fn split_effect(text: &str) -> Result<(&str, Option<Effect>), String> {
    match text.rsplit_once(':') {
        None => Ok((text, None)),
        Some((marked, effect)) => match Effect::from_str(effect, false) {
            Ok(effect) => Ok((marked, Some(effect))),
            Err(_) => Err(format!("{effect:?} is not an effect; it is NoSchedule or PreferNoSchedule")),
        },
    }
}

fn affinity(text: &str) -> Result<AffinityText, String> {
    let form = "write DOMAIN:TERMS, such as zone:app=db, or soft:WEIGHT:DOMAIN:TERMS";
    let (preferred_weight, rest) = match text.strip_prefix("soft:") {
        Some(rest) => {
            let (weight, rest) = rest.split_once(':').ok_or(form)?;
            (Some(number("weight", weight)?), rest)
        }
        None => (None, text),
    };
    let (part, vms) = rest.split_once(':').ok_or(form)?;
    Ok(AffinityText { anti: false, domain: domain(part)?, vms: AsText(selector(vms)?), preferred_weight })
}

fn spread(text: &str) -> Result<SpreadText, String> {
    let form = "write DOMAIN:MAXSKEW:TERMS, such as zone:1:app=web, or DOMAIN:MAXSKEW:soft:TERMS";
    let (part, rest) = text.split_once(':').ok_or(form)?;
    let (skew, rest) = rest.split_once(':').ok_or(form)?;
    let (when_unsatisfiable, vms) = match rest.strip_prefix("soft:") {
        Some(vms) => (Unsatisfiable::ScheduleAnyway, vms),
        None => (Unsatisfiable::DoNotSchedule, rest),
    };
    let max_skew = number("number of VMs", skew)?;
    Ok(SpreadText { domain: domain(part)?, max_skew, when_unsatisfiable, vms: AsText(selector(vms)?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::in_words;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Only {
        #[command(flatten)]
        placement: Placement,
    }

    fn parsed(words: &[&str]) -> Result<Placement, String> {
        let words = ["test"].iter().chain(words);
        Only::try_parse_from(words).map(|only| only.placement).map_err(|error| error.to_string())
    }

    #[test]
    fn each_rule_has_a_flag() {
        let placement = parsed(&[
            "--on-hosts",
            "gpu,zone in (a,b)",
            "--on-hosts",
            "!old",
            "--prefer-hosts",
            "80:ssd",
            "--host-group",
            "prod",
            "--tolerate",
            "gpu=a100:NoSchedule",
            "--tolerate",
            "*",
            "--near",
            "zone:app=db",
            "--apart",
            "soft:50:host:app=web",
            "--spread",
            "zone:1:app=web",
            "--spread",
            "rack:2:soft:",
            "--priority",
            "-7",
        ])
        .unwrap();
        insta::assert_snapshot!(in_words(&placement.rules()).join("\n"), @r"
        on hosts with gpu exists and zone in (a, b), or no old
        on hosts of the group prod
        better on hosts with ssd exists (weight 80)
        tolerates gpu=a100:NoSchedule
        tolerates every taint
        in the same zone as VMs with app=db
        not in the same host as VMs with app=web, preferred (weight 50)
        VMs with app=web evenly over each zone, at most 1 apart
        VMs with everything evenly over each rack, at most 2 apart, preferred
        priority -7
        ");
        let fields = "rules.hosts rules.host_wishes rules.host_group rules.tolerations rules.affinity rules.spread rules.priority";
        assert_eq!(placement.fields().join(" "), fields);
    }

    #[test]
    fn each_wish_has_a_flag() {
        let placement = parsed(&[
            "--performance",
            "high-performance",
            "--preference",
            "sockets-advantage",
            "--pages",
            "never",
            "--smt",
            "isolate",
            "--numa",
            "single",
            "--dedicated-emulator",
            "--dedicated-iothreads",
            "2",
            "--cpu-shape",
            "sockets",
            "--device",
            "10de:2204=2",
            "--device",
            "8086:1572",
        ])
        .unwrap();
        let mut spec = v1::VmSpec::default();
        placement.put_into(&mut spec);
        assert_eq!((spec.performance(), spec.preference.as_str()), (v1::Performance::High, "sockets-advantage"));
        let tuning = spec.tuning.unwrap();
        assert_eq!((tuning.pages(), tuning.smt()), (v1::PageSize::PageSize4k, v1::SmtPolicy::Isolate));
        assert_eq!((tuning.dedicated_emulator, tuning.dedicated_iothreads), (Some(true), Some(2)));
        let devices: Vec<_> = spec.devices.iter().map(|one| (one.kind.as_str(), one.count)).collect();
        assert_eq!(devices, [("10de:2204", 2), ("8086:1572", 1)]);
        assert_eq!(parsed(&["--dedicated-emulator=false"]).unwrap().wishes.dedicated_emulator, Some(false));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_its_form() {
        for (words, expected) in [
            (["--near", "zone"], "write DOMAIN:TERMS"),
            (["--near", "soft:x:zone:a"], "\"x\" is not a weight"),
            (["--spread", "zone:app=web"], "write DOMAIN:MAXSKEW:TERMS"),
            (["--spread", ":1:app=web"], "the domain is missing"),
            (["--tolerate", "gpu:Never"], "\"Never\" is not an effect"),
            (["--tolerate", "=x"], "names no key"),
            (["--on-hosts", "a=b,"], "write terms such as"),
            (["--device", "gpu"], "is not maker:product"),
            (["--prefer-hosts", "ssd"], "write WEIGHT:TERMS"),
        ] {
            let said = parsed(&words).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        assert_eq!(parsed(&[]).unwrap().fields(), Vec::<String>::new());
    }
}
