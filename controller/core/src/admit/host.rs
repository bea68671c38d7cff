//! Admission of what operators say about hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::host::{Host, HostSpec, Overcommit, Percent};
use berth_model::placement::{Taint, TaintEffect};
use berth_model::{HostUid, Meta, Name, Revision};
use berth_state::{Body, Cluster, Expect, HostPatch};

use super::{is_key, labels, name, shown, word};
use crate::error::{Error, Kind};

/// Which host, with what the client saw of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostTarget {
    /// Its name.
    pub name: String,
    /// Its uid as the client saw it; empty means any.
    pub uid: String,
    /// Its revision as the client saw it.
    pub revision: Option<u64>,
}

impl HostTarget {
    pub(crate) fn expect(&self) -> Expect {
        Expect { revision: self.revision.map(Revision) }
    }
}

/// Finds a host by name, checking the uid that the client saw.
pub fn find_host<'a>(view: &'a Cluster, target: &HostTarget) -> Result<&'a Arc<Host>, Error> {
    let called = name("host name", &target.name)?;
    let host = view.host_by_name(&called).ok_or_else(|| {
        Error::new(Kind::NotFound, "BE-3003", format!("there is no host {called:?}"))
            .hint("'berth host list' shows what is there")
    })?;
    if !target.uid.is_empty() && host.meta.uid.as_str() != target.uid {
        let (expected, has) = (shown(&target.uid), host.meta.uid);
        let message = format!("host {called:?} is another one than you saw: expected uid {expected}, it has {has}");
        return Err(Error::new(Kind::Conflict, "BE-2003", message)
            .hint("read it again and repeat the request if it still makes sense"));
    }
    Ok(host)
}

/// A request to change a host's place, marks or promises, as it came. What is not named stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UpdateHost {
    /// Labels that it shall have.
    pub set_labels: BTreeMap<String, String>,
    /// Keys of labels that it shall not have.
    pub remove_labels: Vec<String>,
    /// Whether it takes new VMs.
    pub cordoned: Option<bool>,
    /// The zone it stands in; empty: in none.
    pub zone: Option<String>,
    /// The rack it stands in; empty: in none.
    pub rack: Option<String>,
    /// Groups that it shall belong to.
    pub add_groups: Vec<String>,
    /// Groups that it shall not belong to.
    pub remove_groups: Vec<String>,
    /// Taints that it shall have.
    pub set_taints: Vec<Taint>,
    /// Taints that it shall not have, by key; no effect means every effect.
    pub remove_taints: Vec<(String, Option<TaintEffect>)>,
    /// Virtual CPUs of over-subscribed VMs in percent of CPU threads.
    pub cpu_overcommit: Option<u32>,
    /// Guest memory of over-subscribed VMs in percent of memory.
    pub memory_overcommit: Option<u32>,
}

/// Admits a change of a host. How many labels, taints and groups it then has is for apply to say.
pub fn update_host(view: &Cluster, target: &HostTarget, request: &UpdateHost) -> Result<Body, Error> {
    if *request == UpdateHost::default() {
        return Err(Error::invalid("BE-1012", "nothing is said that shall change")
            .hint("'berth host update --help' shows what can be"));
    }
    labels("labels", &request.set_labels, 63)?;
    check_removed(request)?;
    let place = |field: &str, text: &Option<String>| {
        let place = |text: &String| if text.is_empty() { Ok(None) } else { name(field, text).map(Some) };
        text.as_ref().map(place).transpose()
    };
    let (zone, rack) = (place("zone", &request.zone)?, place("rack", &request.rack)?);
    let taints = checked_taints(request)?;
    let host = find_host(view, target)?;
    let patch = HostPatch {
        set_labels: request.set_labels.clone(),
        remove_labels: request.remove_labels.clone(),
        cordoned: request.cordoned,
        zone,
        rack,
        groups: groups(&host.spec, request)?,
        set_taints: taints,
        remove_taints: request.remove_taints.clone(),
        overcommit: overcommit(host.spec.overcommit, request)?,
    };
    Ok(Body::UpdateHost { host: host.uid(), patch: Box::new(patch), expect: target.expect() })
}

fn check_removed(request: &UpdateHost) -> Result<(), Error> {
    let UpdateHost { set_labels, remove_labels, .. } = request;
    let refuse =
        |why: String| Err(Error::invalid("BE-1013", why).hint("'berth host show' shows which labels are there"));
    if remove_labels.len() > Meta::MOST_LABELS {
        let most = Meta::MOST_LABELS;
        return refuse(format!("labels: {} keys are to be removed, at most {most} can be", remove_labels.len()));
    }
    if let Some(key) = remove_labels.iter().find(|key| !is_key(key)) {
        return refuse(format!("labels: {:?} is not a valid key", shown(key)));
    }
    match remove_labels.iter().find(|key| set_labels.contains_key(*key)) {
        Some(key) => refuse(format!("labels: {key:?} is to be set and to be removed")),
        None => Ok(()),
    }
}

fn invalid(why: String, advice: &str) -> Error {
    Error::invalid("BE-1020", why).hint(advice)
}

fn checked_taints(request: &UpdateHost) -> Result<Vec<Taint>, Error> {
    let UpdateHost { set_taints, remove_taints, .. } = request;
    let form = "write a taint as KEY[=VALUE]:NoSchedule or KEY[=VALUE]:PreferNoSchedule, and KEY- to remove it";
    let most = HostSpec::MOST;
    for (what, count) in [("set", set_taints.len()), ("remove", remove_taints.len())] {
        if count > most {
            return Err(invalid(format!("taints: {count} are to be {what}, at most {most} can be"), form));
        }
    }
    let keys = set_taints.iter().map(|taint| &taint.key).chain(remove_taints.iter().map(|(key, _)| key));
    if let Some(odd) = keys.into_iter().find(|key| !is_key(key)) {
        return Err(invalid(format!("taints: {:?} is not a valid key", shown(odd)), form));
    }
    for Taint { key, value, effect } in set_taints {
        if !(value.is_empty() || word(value, 63)) {
            return Err(invalid(format!("taints: the value of {key:?} is not a valid label value"), form));
        }
        if remove_taints.iter().any(|(gone, of)| gone == key && of.is_none_or(|of| of == *effect)) {
            return Err(invalid(format!("taints: {key:?} is to be set and to be removed"), "say one of the two"));
        }
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = set_taints.iter().find(|taint| !seen.insert((&taint.key, taint.effect))) {
        return Err(invalid(format!("taints: {:?} is to be set twice", twice.key), "say one of the two"));
    }
    Ok(set_taints.clone())
}

/// All groups that it shall belong to; none if that does not change.
fn groups(held: &HostSpec, request: &UpdateHost) -> Result<Option<BTreeSet<Name>>, Error> {
    let UpdateHost { add_groups, remove_groups, .. } = request;
    if add_groups.is_empty() && remove_groups.is_empty() {
        return Ok(None);
    }
    let most = HostSpec::MOST;
    if add_groups.len() > most || remove_groups.len() > most {
        return Err(invalid(
            format!("groups: at most {most} can be changed at once"),
            "change them in several requests",
        ));
    }
    let parsed =
        |groups: &[String]| groups.iter().map(|group| name("group", group)).collect::<Result<BTreeSet<_>, _>>();
    let (add, remove) = (parsed(add_groups)?, parsed(remove_groups)?);
    if let Some(both) = add.intersection(&remove).next() {
        return Err(invalid(format!("groups: {both:?} is to be added and to be removed"), "say one of the two"));
    }
    let kept = held.groups.iter().filter(|group| !remove.contains(*group)).cloned();
    Ok(Some(kept.chain(add.iter().cloned()).collect()))
}

fn overcommit(held: Overcommit, request: &UpdateHost) -> Result<Option<Overcommit>, Error> {
    let UpdateHost { cpu_overcommit, memory_overcommit, .. } = request;
    if cpu_overcommit.is_none() && memory_overcommit.is_none() {
        return Ok(None);
    }
    let checked = |what: &str, percent: Option<u32>, held: Percent| match percent {
        None => Ok(held),
        Some(percent) => Percent::checked(percent).ok_or_else(|| {
            let message = format!("{what} over-subscription is {percent} %; it is 100 % to {} %", Percent::MOST);
            invalid(message, "100 % promises what there is, 400 % four times as much")
        }),
    };
    Ok(Some(Overcommit {
        cpu_percent: checked("CPU", *cpu_overcommit, held.cpu_percent)?,
        memory_percent: checked("memory", *memory_overcommit, held.memory_percent)?,
    }))
}

/// Admits the word that a host is dead: its name must be given twice, because it cannot be taken back.
pub fn confirm_dead(view: &Cluster, target: &HostTarget, name_again: &str) -> Result<Body, Error> {
    let host = find_host(view, target)?;
    if target.name != name_again {
        let message =
            format!("the host's name is {:?} the first time and {:?} the second", target.name, shown(name_again));
        return Err(Error::invalid("BE-1021", message)
            .hint("give the same name twice; a host that lives and is said to be dead has its VMs run twice"));
    }
    Ok(Body::ConfirmDead { host: host.uid(), expect: target.expect() })
}

/// Admits that a host is forgotten. Whether anything is bound to it is for apply to say.
pub fn remove_host(view: &Cluster, target: &HostTarget, never_returns: bool) -> Result<Body, Error> {
    let host: HostUid = find_host(view, target)?.uid();
    Ok(Body::RemoveHost { host, never_returns, expect: target.expect() })
}

#[cfg(test)]
mod tests;
