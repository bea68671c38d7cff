//! Rules of VMs and marks of hosts.

use berth_model::placement::{
    Domain, HostWish, Requirement, Rules, Selector, Spread, Strength, Taint, Toleration, VmAffinity,
};

use super::{ConvertError, all, each, enums, parsed, required};
use crate::v1;

impl From<&Rules> for v1::Rules {
    fn from(rules: &Rules) -> Self {
        let Rules { hosts, host_wishes, host_group, tolerations, affinity, spread, priority } = rules;
        Self {
            hosts: all(hosts),
            host_wishes: all(host_wishes),
            host_group: host_group.as_ref().map(ToString::to_string).unwrap_or_default(),
            tolerations: all(tolerations),
            affinity: all(affinity),
            spread: all(spread),
            priority: *priority,
        }
    }
}

impl TryFrom<v1::Rules> for Rules {
    type Error = ConvertError;

    fn try_from(wire: v1::Rules) -> Result<Self, ConvertError> {
        let v1::Rules { hosts, host_wishes, host_group, tolerations, affinity, spread, priority } = wire;
        Ok(Self {
            hosts: each(hosts, "hosts")?,
            host_wishes: each(host_wishes, "host_wishes")?,
            host_group: if host_group.is_empty() { None } else { Some(parsed(&host_group, "host_group")?) },
            tolerations: each(tolerations, "tolerations")?,
            affinity: each(affinity, "affinity")?,
            spread: each(spread, "spread")?,
            priority,
        })
    }
}

impl From<&Selector> for v1::Selector {
    fn from(selector: &Selector) -> Self {
        let Selector(requirements) = selector;
        Self { all: all(requirements) }
    }
}

impl TryFrom<v1::Selector> for Selector {
    type Error = ConvertError;

    fn try_from(wire: v1::Selector) -> Result<Self, ConvertError> {
        let v1::Selector { all } = wire;
        Ok(Self(each(all, "all")?))
    }
}

impl From<&Requirement> for v1::Requirement {
    fn from(requirement: &Requirement) -> Self {
        let Requirement { key, operator, values } = requirement;
        Self {
            key: key.clone(),
            operator: v1::Operator::from(*operator).into(),
            values: values.iter().cloned().collect(),
        }
    }
}

impl TryFrom<v1::Requirement> for Requirement {
    type Error = ConvertError;

    fn try_from(wire: v1::Requirement) -> Result<Self, ConvertError> {
        let v1::Requirement { key, operator, values } = wire;
        Ok(Self { key, operator: enums::operator(operator, "operator")?, values: values.into_iter().collect() })
    }
}

impl From<&Domain> for v1::Domain {
    fn from(domain: &Domain) -> Self {
        let (kind, label) = match domain {
            Domain::Host => (v1::DomainKind::Host, String::new()),
            Domain::Rack => (v1::DomainKind::Rack, String::new()),
            Domain::Zone => (v1::DomainKind::Zone, String::new()),
            Domain::Label(key) => (v1::DomainKind::Label, key.clone()),
        };
        Self { kind: kind.into(), label }
    }
}

impl TryFrom<v1::Domain> for Domain {
    type Error = ConvertError;

    fn try_from(wire: v1::Domain) -> Result<Self, ConvertError> {
        let v1::Domain { kind, label } = wire;
        let named = match v1::DomainKind::try_from(kind) {
            Ok(v1::DomainKind::Unspecified) => return Err(ConvertError::missing("kind")),
            Ok(v1::DomainKind::Label) => return Ok(Self::Label(label)),
            Ok(v1::DomainKind::Host) => Self::Host,
            Ok(v1::DomainKind::Rack) => Self::Rack,
            Ok(v1::DomainKind::Zone) => Self::Zone,
            Err(_) => return Err(ConvertError::new("kind", format_args!("has the unknown value {kind}"))),
        };
        if label.is_empty() {
            Ok(named)
        } else {
            Err(ConvertError::new("label", format_args!("is given for the domain {named}, which has none")))
        }
    }
}

impl From<&HostWish> for v1::HostWish {
    fn from(wish: &HostWish) -> Self {
        let HostWish { weight, hosts } = wish;
        Self { weight: *weight, hosts: Some(hosts.into()) }
    }
}

impl TryFrom<v1::HostWish> for HostWish {
    type Error = ConvertError;

    fn try_from(wire: v1::HostWish) -> Result<Self, ConvertError> {
        let v1::HostWish { weight, hosts } = wire;
        Ok(Self { weight, hosts: required(hosts, "hosts")? })
    }
}

impl From<&VmAffinity> for v1::VmAffinity {
    fn from(affinity: &VmAffinity) -> Self {
        let VmAffinity { anti, strength, domain, vms } = affinity;
        let preferred_weight = match strength {
            Strength::Required => None,
            Strength::Preferred(weight) => Some(*weight),
        };
        Self { anti: *anti, preferred_weight, domain: Some(domain.into()), vms: Some(vms.into()) }
    }
}

impl TryFrom<v1::VmAffinity> for VmAffinity {
    type Error = ConvertError;

    fn try_from(wire: v1::VmAffinity) -> Result<Self, ConvertError> {
        let v1::VmAffinity { anti, preferred_weight, domain, vms } = wire;
        Ok(Self {
            anti,
            strength: preferred_weight.map_or(Strength::Required, Strength::Preferred),
            domain: required(domain, "domain")?,
            vms: required(vms, "vms")?,
        })
    }
}

impl From<&Spread> for v1::Spread {
    fn from(spread: &Spread) -> Self {
        let Spread { domain, max_skew, when_unsatisfiable, vms } = spread;
        Self {
            domain: Some(domain.into()),
            max_skew: *max_skew,
            when_unsatisfiable: v1::WhenUnsatisfiable::from(*when_unsatisfiable).into(),
            vms: Some(vms.into()),
        }
    }
}

impl TryFrom<v1::Spread> for Spread {
    type Error = ConvertError;

    fn try_from(wire: v1::Spread) -> Result<Self, ConvertError> {
        let v1::Spread { domain, max_skew, when_unsatisfiable, vms } = wire;
        Ok(Self {
            domain: required(domain, "domain")?,
            max_skew,
            when_unsatisfiable: enums::when_unsatisfiable(when_unsatisfiable, "when_unsatisfiable")?,
            vms: required(vms, "vms")?,
        })
    }
}

impl From<&Taint> for v1::Taint {
    fn from(taint: &Taint) -> Self {
        let Taint { key, value, effect } = taint;
        Self { key: key.clone(), value: value.clone(), effect: v1::TaintEffect::from(*effect).into() }
    }
}

impl TryFrom<v1::Taint> for Taint {
    type Error = ConvertError;

    fn try_from(wire: v1::Taint) -> Result<Self, ConvertError> {
        let v1::Taint { key, value, effect } = wire;
        Ok(Self { key, value, effect: enums::exact_taint_effect(effect, "effect")? })
    }
}

impl From<&Toleration> for v1::Toleration {
    fn from(toleration: &Toleration) -> Self {
        let Toleration { key, value, effect } = toleration;
        Self {
            key: key.clone(),
            value: value.clone(),
            effect: effect.map_or(0, |effect| v1::TaintEffect::from(effect).into()),
        }
    }
}

impl TryFrom<v1::Toleration> for Toleration {
    type Error = ConvertError;

    fn try_from(wire: v1::Toleration) -> Result<Self, ConvertError> {
        let v1::Toleration { key, value, effect } = wire;
        Ok(Self { key, value, effect: enums::taint_effect(effect, "effect")? })
    }
}
