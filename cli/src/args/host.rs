//! Arguments of `berth host`.

use clap::{Args, Subcommand};

use super::placement::split_effect;
use super::vm::LabelChange;
use crate::placement::Effect;

/// What to do with hosts.
#[derive(Subcommand, Debug)]
pub(crate) enum HostVerb {
    /// List hosts
    #[command(alias = "ls")]
    List,
    /// Show one host: its topology, what is booked, how its VMs are run
    Show {
        /// The host's name
        name: String,
    },
    /// Show what of one host is free, booked and kept, down to the thread; without a name, a line for each host
    Capacity {
        /// The host's name
        name: Option<String>,
    },
    /// Change a host's labels, place, groups, taints or over-subscription; what runs there stays
    Update(Box<Update>),
    /// Take no new VMs on a host; what runs there stays
    Cordon(Named),
    /// Take new VMs on a host again
    Uncordon(Named),
    /// Say that a host is dead: its VMs are started elsewhere
    #[command(long_about = CONFIRM_DEAD)]
    ConfirmDead {
        /// Which host
        #[command(flatten)]
        host: Named,
        /// The host's name once more, instead of typing it when asked
        #[arg(long, value_name = "NAME")]
        yes_i_am_sure: Option<String>,
    },
    /// Have the cluster forget a host; refused while VMs have their berths there
    Remove {
        /// Which host
        #[command(flatten)]
        host: Named,
        /// It never comes back: forget also what it may still hold
        #[arg(long)]
        never_returns: bool,
    },
    /// List orphans: VMs that run on a host and that the cluster does not know, as after a restore
    Orphans,
    /// Remove an orphan and its disk from its host
    RemoveOrphan {
        /// The host's name
        host: String,
        /// The orphan's uid
        uid: String,
        /// Really: its disk is lost
        #[arg(long)]
        yes: bool,
        /// Name the request, to send it again safely: a UUID of version 7
        #[arg(long, value_name = "UUID")]
        request_id: Option<String>,
    },
}

const CONFIRM_DEAD: &str = "\
Say that a host is dead: its VMs lose their berths there and are started elsewhere.

Say it only of a machine that certainly runs nothing any more: switched off, its power pulled, burnt. Berth cannot see the
difference between a dead machine and one that the network cut off. Of a host that lives and is said to be dead, each VM
runs TWICE from then on, with two copies of its disk that grow apart, until the host is heard of again and ends its own.

It cannot be taken back. What the VMs had on that host's disks stays there.";

/// One host and how to write to it.
#[derive(Args, Debug)]
pub(crate) struct Named {
    /// The host's name
    pub(crate) name: String,
    /// Refuse unless the host has this uid
    #[arg(long, value_name = "UID")]
    pub(crate) expected_uid: Option<String>,
    /// Refuse unless the host is at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) expected_revision: Option<u64>,
    /// Name the request, to send it again safely: a UUID of version 7
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<String>,
}

/// What shall change about a host.
#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Which host
    #[command(flatten)]
    pub(crate) host: Named,
    /// KEY=VALUE sets a label, KEY- removes one; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE|KEY-", value_parser = super::vm::label_change)]
    pub(crate) labels: Vec<LabelChange>,
    /// The zone it stands in; '' for none
    #[arg(long, value_name = "NAME")]
    pub(crate) zone: Option<String>,
    /// The rack it stands in; '' for none
    #[arg(long, value_name = "NAME")]
    pub(crate) rack: Option<String>,
    /// A group it shall belong to, or with a hyphen at the end, NAME-, one that it shall not; may be repeated
    #[arg(long = "group", value_name = "NAME|NAME-")]
    pub(crate) groups: Vec<String>,
    /// KEY[=VALUE]:EFFECT keeps VMs away that do not tolerate it, KEY- or KEY:EFFECT- lets them in; may be repeated
    #[arg(long = "taint", value_name = "KEY[=VALUE]:EFFECT|KEY-", value_parser = taint)]
    pub(crate) taints: Vec<TaintChange>,
    /// Virtual CPUs of over-subscribed VMs for each CPU thread: 1 to 20, such as 4 or 2.5
    #[arg(long, value_name = "RATIO", value_parser = percent)]
    pub(crate) cpu_overcommit: Option<u32>,
    /// Guest memory of over-subscribed VMs for each byte of memory: 1 to 20, such as 1.25
    #[arg(long, value_name = "RATIO", value_parser = percent)]
    pub(crate) memory_overcommit: Option<u32>,
}

/// What shall happen to one taint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TaintChange {
    /// It shall be there: key, value, effect.
    Set(String, String, Effect),
    /// It shall not be there: key, and its effect unless every effect is meant.
    Remove(String, Option<Effect>),
}

fn taint(text: &str) -> Result<TaintChange, String> {
    if let Some(gone) = text.strip_suffix('-') {
        let (key, effect) = split_effect(gone)?;
        if key.contains('=') || key.is_empty() {
            return Err(format!("{text:?} is not KEY- or KEY:EFFECT-"));
        }
        return Ok(TaintChange::Remove(key.to_owned(), effect));
    }
    let (marked, effect) = split_effect(text)?;
    let effect =
        effect.ok_or_else(|| format!("{text:?} names no effect; write KEY[=VALUE]:NoSchedule or :PreferNoSchedule"))?;
    let (key, value) = marked.split_once('=').unwrap_or((marked, ""));
    if key.is_empty() {
        return Err(format!("{text:?} names no key"));
    }
    Ok(TaintChange::Set(key.to_owned(), value.to_owned(), effect))
}

/// A ratio such as `1.25` in percent, without the errors of binary fractions.
fn percent(text: &str) -> Result<u32, String> {
    let refuse = || format!("{text:?} is not a ratio of at most two decimals, such as 4 or 1.25");
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |digits: &str, most: usize| {
        let fits = (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| digits.parse::<u32>().ok()).flatten().ok_or_else(refuse)
    };
    let scale = if decimals.len() == 1 { 10 } else { 1 };
    Ok(plain(whole, 6)? * 100 + plain(decimals, 2)? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_read_exactly_or_refused() {
        for (text, expected) in [("4", 400), ("4.0", 400), ("1.25", 125), ("2.5", 250), ("1.05", 105)] {
            assert_eq!(percent(text), Ok(expected), "{text}");
        }
        for wrong in ["", ".5", "4.", "-1", "1.255", "1,5", "1e3", "99999999"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_taint_is_set_with_its_effect_and_removed_with_a_hyphen() {
        let set = |key: &str, value: &str, effect| Ok(TaintChange::Set(key.into(), value.into(), effect));
        assert_eq!(taint("gpu=a100:NoSchedule"), set("gpu", "a100", Effect::NoSchedule));
        assert_eq!(taint("old:PreferNoSchedule"), set("old", "", Effect::PreferNoSchedule));
        assert_eq!(taint("old-"), Ok(TaintChange::Remove("old".into(), None)));
        let removed = TaintChange::Remove("old".into(), Some(Effect::NoSchedule));
        assert_eq!(taint("old:NoSchedule-"), Ok(removed));
        for wrong in ["old", ":NoSchedule", "-", "a=b-", "old:Never"] {
            assert!(taint(wrong).is_err(), "{wrong}");
        }
    }
}
