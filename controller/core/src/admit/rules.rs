//! Admission of rules: each within its limits, none that contradicts itself or another, none about parts of the cluster
//! that do not exist.
//!
//! A rule that nothing can meet would leave a VM waiting for ever, and one without limits would make placement slow for
//! everybody. Both are refused by their field, before anything is stored.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::placement::{Domain, Operator, Requirement, Rules, Selector, Strength, VmAffinity, WhenUnsatisfiable};
use berth_state::Cluster;

use super::{is_key, shown, word};
use crate::error::{Error, Kind};

/// The most bytes of keys and values in all rules of one VM: some hundred conditions of usual length.
const MOST_BYTES: usize = 16 * 1024;

fn invalid(field: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid("BE-1018", format!("{field}: {why}"))
        .hint("see 'berth vm create --help', and the page on placement in the documentation")
}

fn contradiction(field: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid("BE-1019", format!("{field}: {why}")).hint("drop one of the two; no host could ever meet both")
}

/// Checks the rules in themselves.
pub(super) fn check(rules: &Rules) -> Result<(), Error> {
    let Rules { hosts, host_wishes, host_group: _, tolerations, affinity, spread, priority: _ } = rules;
    let counts = [
        ("hosts", hosts.len()),
        ("host_wishes", host_wishes.len()),
        ("tolerations", tolerations.len()),
        ("affinity", affinity.len()),
        ("spread", spread.len()),
    ];
    for (field, count) in counts {
        if count > Rules::MOST {
            return Err(invalid(
                &format!("rules.{field}"),
                format!("{count} are given, at most {} are allowed", Rules::MOST),
            ));
        }
    }
    for (at, hosts) in hosts.iter().enumerate() {
        check_of_hosts(&format!("rules.hosts[{at}]"), hosts)?;
    }
    for (at, wish) in host_wishes.iter().enumerate() {
        let field = format!("rules.host_wishes[{at}]");
        check_weight(&format!("{field}.weight"), wish.weight)?;
        check_of_hosts(&format!("{field}.hosts"), &wish.hosts)?;
    }
    for (at, toleration) in tolerations.iter().enumerate() {
        let field = format!("rules.tolerations[{at}]");
        if let Some(key) = toleration.key.as_ref().filter(|key| !is_key(key)) {
            return Err(invalid(&format!("{field}.key"), format!("{:?} is not a valid key", shown(key))));
        }
        match (&toleration.key, &toleration.value) {
            (None, Some(_)) => return Err(invalid(&format!("{field}.value"), "is given without a key")),
            (_, Some(value)) => check_value(&format!("{field}.value"), value)?,
            (_, None) => {}
        }
    }
    for (at, affinity) in affinity.iter().enumerate() {
        let field = format!("rules.affinity[{at}]");
        if let Strength::Preferred(weight) = affinity.strength {
            check_weight(&format!("{field}.preferred_weight"), weight)?;
        }
        check_domain(&format!("{field}.domain"), &affinity.domain)?;
        check_selector(&format!("{field}.vms"), &affinity.vms)?;
    }
    for (at, spread) in spread.iter().enumerate() {
        let field = format!("rules.spread[{at}]");
        if spread.max_skew == 0 {
            return Err(invalid(&format!("{field}.max_skew"), "is 0; it is at least 1"));
        }
        check_domain(&format!("{field}.domain"), &spread.domain)?;
        check_selector(&format!("{field}.vms"), &spread.vms)?;
    }
    opposites(affinity)?;
    let bytes = bytes(rules);
    if bytes > MOST_BYTES {
        let why = format!("their keys and values have {bytes} bytes, at most {MOST_BYTES} are allowed");
        return Err(invalid("rules", why));
    }
    Ok(())
}

/// Checks the rules against the cluster: that the parts which they require exist. A cluster without hosts may get any.
pub(super) fn check_against(view: &Cluster, rules: &Rules) -> Result<(), Error> {
    if view.hosts.is_empty() {
        return Ok(());
    }
    let exists = |domain: &Domain| view.hosts.values().any(|host| host.domain(domain).is_some());
    let absent = |field: String, domain: &Domain| {
        let (what, how) = match domain {
            Domain::Label(key) => (format!("the label {key:?}"), format!("--label {key}=VALUE")),
            Domain::Host | Domain::Rack | Domain::Zone => (format!("a {domain}"), format!("--{domain} NAME")),
        };
        Error::new(
            Kind::Precondition,
            "BE-3004",
            format!("{field}: no host has {what}, so no host could ever meet this"),
        )
        .hint(format!("give hosts theirs with 'berth host update HOST {how}' first"))
    };
    for (at, spread) in rules.spread.iter().enumerate() {
        if spread.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule && !exists(&spread.domain) {
            return Err(absent(format!("rules.spread[{at}].domain"), &spread.domain));
        }
    }
    for (at, affinity) in rules.affinity.iter().enumerate() {
        if affinity.strength == Strength::Required && !affinity.anti && !exists(&affinity.domain) {
            return Err(absent(format!("rules.affinity[{at}].domain"), &affinity.domain));
        }
    }
    if let Some(group) = &rules.host_group
        && !view.hosts.values().any(|host| host.spec.groups.contains(group))
    {
        let message = format!("rules.host_group: no host belongs to the group {group:?}");
        return Err(Error::new(Kind::Precondition, "BE-3004", message)
            .hint(format!("put hosts into it with 'berth host update HOST --group {group}' first")));
    }
    Ok(())
}

fn check_weight(field: &str, weight: u32) -> Result<(), Error> {
    if (1..=100).contains(&weight) { Ok(()) } else { Err(invalid(field, format!("is {weight}; it is 1 to 100"))) }
}

fn check_domain(field: &str, domain: &Domain) -> Result<(), Error> {
    match domain {
        Domain::Label(key) if !is_key(key) => {
            Err(invalid(field, format!("{:?} is neither host, rack, zone nor a valid label key", shown(key))))
        }
        Domain::Label(_) | Domain::Host | Domain::Rack | Domain::Zone => Ok(()),
    }
}

fn check_value(field: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() || word(value, 63) {
        Ok(())
    } else {
        Err(invalid(field, format!("{:?} is not a valid label value", shown(value))))
    }
}

/// A selector of hosts says something: without conditions it would select every host, as leaving it out does.
fn check_of_hosts(field: &str, hosts: &Selector) -> Result<(), Error> {
    if hosts.0.is_empty() {
        return Err(invalid(field, "has no conditions; leave it out if every host is meant"));
    }
    check_selector(field, hosts)
}

fn check_selector(field: &str, selector: &Selector) -> Result<(), Error> {
    let Selector(requirements) = selector;
    let (count, most) = (requirements.len(), Rules::MOST_REQUIREMENTS);
    if count > most {
        return Err(invalid(field, format!("{count} conditions are given, at most {most} are allowed")));
    }
    for (at, requirement) in requirements.iter().enumerate() {
        check_requirement(&format!("{field}[{at}]"), requirement)?;
    }
    let mut of_key: BTreeMap<&str, Vec<&Requirement>> = BTreeMap::new();
    for requirement in requirements {
        of_key.entry(&requirement.key).or_default().push(requirement);
    }
    match of_key.into_iter().find(|(_, requirements)| !can_hold(requirements)) {
        None => Ok(()),
        Some((_, requirements)) => {
            let listed: Vec<_> = requirements.iter().map(|one| shown(&one.to_string())).collect();
            Err(contradiction(field, format!("nothing can meet {}", listed.join(" and "))))
        }
    }
}

fn check_requirement(field: &str, requirement: &Requirement) -> Result<(), Error> {
    let Requirement { key, operator, values } = requirement;
    if !is_key(key) {
        return Err(invalid(&format!("{field}.key"), format!("{:?} is not a valid key", shown(key))));
    }
    let (field, most) = (format!("{field}.values"), Rules::MOST_VALUES);
    if values.len() > most {
        return Err(invalid(&field, format!("{} are given, at most {most} are allowed", values.len())));
    }
    for value in values {
        check_value(&field, value)?;
    }
    match operator {
        Operator::NotIn if values.is_empty() => Err(invalid(&field, "NotIn needs at least one")),
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            Err(invalid(&field, format!("{operator} takes none")))
        }
        Operator::In | Operator::NotIn | Operator::Exists | Operator::DoesNotExist => Ok(()),
        Operator::Gt | Operator::Lt => match values.first().map(|text| text.parse::<i64>()) {
            Some(Ok(_)) if values.len() == 1 => Ok(()),
            Some(_) | None => Err(invalid(&field, format!("{operator} takes one whole number"))),
        },
    }
}

/// Whether some label value, or the label's absence, meets all of these conditions on one key.
fn can_hold(requirements: &[&Requirement]) -> bool {
    let absent = BTreeMap::new();
    if requirements.iter().all(|requirement| requirement.is_met_by(&absent)) {
        return true;
    }
    let meets = |value: &str| {
        let labels = BTreeMap::from([(requirements[0].key.clone(), value.to_owned())]);
        requirements.iter().all(|requirement| requirement.is_met_by(&labels))
    };
    let named = requirements.iter().find(|one| one.operator == Operator::In && !one.values.is_empty());
    if let Some(named) = named {
        return named.values.iter().any(|value| meets(value));
    }
    if requirements.iter().any(|one| one.operator == Operator::DoesNotExist) {
        return false;
    }
    // Only numbers bound it now. That single values are excluded does not matter: a number can be written in many ways (07
    // is 7). Label values begin with a letter or a digit, so none is below 0.
    let bound = |operator, of: fn(i128, i128) -> i128, start: i128| {
        let numbers = requirements.iter().filter(|one| one.operator == operator);
        numbers.filter_map(|one| one.values.first()?.parse::<i64>().ok()).map(i128::from).fold(start, of)
    };
    let above = bound(Operator::Gt, i128::max, -1);
    let below = bound(Operator::Lt, i128::min, i128::from(i64::MAX) + 1);
    above + 1 < below
}

/// Nothing can be near to and away from the same VMs within the same part of the cluster.
fn opposites(affinity: &[VmAffinity]) -> Result<(), Error> {
    let required = |anti: bool| {
        let all = affinity.iter().enumerate();
        all.filter(move |(_, one)| one.anti == anti && one.strength == Strength::Required)
    };
    for (at, near) in required(false) {
        let same = |other: &VmAffinity| other.domain == near.domain && set(&other.vms) == set(&near.vms);
        if let Some((other, _)) = required(true).find(|(_, away)| same(away)) {
            let why = format!(
                "it must be near to and, by rules.affinity[{other}], away from the same VMs within one {}",
                near.domain
            );
            return Err(contradiction(&format!("rules.affinity[{at}]"), why));
        }
    }
    Ok(())
}

fn set(selector: &Selector) -> BTreeSet<&Requirement> {
    selector.0.iter().collect()
}

fn bytes(rules: &Rules) -> usize {
    let selectors = rules.hosts.iter().chain(rules.host_wishes.iter().map(|wish| &wish.hosts));
    let selectors =
        selectors.chain(rules.affinity.iter().map(|one| &one.vms)).chain(rules.spread.iter().map(|one| &one.vms));
    let of_selectors: usize = selectors
        .flat_map(|selector| &selector.0)
        .map(|one| one.key.len() + one.values.iter().map(String::len).sum::<usize>())
        .sum();
    let of_tolerations: usize = rules
        .tolerations
        .iter()
        .map(|one| one.key.as_ref().map_or(0, String::len) + one.value.as_ref().map_or(0, String::len))
        .sum();
    of_selectors + of_tolerations
}

#[cfg(test)]
mod tests;
