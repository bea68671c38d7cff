//! What an operator should look at: decided from the picture of the members alone.

use berth_proto::v1;

use super::status::SILENT_AFTER_MS;

/// A store that is fuller than this share of its limit, in percent, is warned of: time enough to act at any growth that a
/// disk could hold anyway.
const NEARLY_FULL_PERCENT: u64 = 80;

/// The warnings that follow from how the members are.
pub(super) fn of(members: &[v1::Member], knows_leader: bool) -> Vec<v1::Warning> {
    let mut warnings = Vec::new();
    let mut warn = |kind: &str, member: &str, message: String| {
        warnings.push(v1::Warning { kind: kind.into(), member: member.into(), message });
    };
    let voters: Vec<&v1::Member> = members.iter().filter(|member| member.voter).collect();
    let majority = voters.len() / 2 + 1;
    let sound = voters.iter().filter(|member| member.reachable && member.trouble.is_empty()).count();

    if !knows_leader {
        warn("NoLeader", "", "nobody leads at present: reads are stale and writes wait".into());
    }
    for member in members {
        if !member.reachable {
            let since = member.silent_ms.filter(|silent| *silent >= SILENT_AFTER_MS);
            let since = since.map(|silent| format!(" for {} s", silent / 1000)).unwrap_or_default();
            warn(
                "MemberSilent",
                &member.name,
                format!(
                    "it has not answered{since}: {}",
                    if member.voter {
                        margin(sound, majority)
                    } else {
                        "it learns nothing meanwhile; start it, or look at its address".into()
                    }
                ),
            );
        } else if !member.trouble.is_empty() {
            let then = if member.voter { margin(sound, majority) } else { "it learns nothing meanwhile".into() };
            warn("MemberFailed", &member.name, format!("it takes no part: {then}; its trouble is shown with it"));
        }
        if let (Some(bytes), Some(limit)) = (member.store_bytes, member.store_limit_bytes)
            && limit > 0
            && bytes.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL_PERCENT)
        {
            let message = format!(
                "its store holds {} of {} MiB; at the limit changes are refused: give it more room, or find what grows",
                bytes >> 20,
                limit >> 20
            );
            warn("StoreNearlyFull", &member.name, message);
        }
    }
    warnings
}

/// Whether a warning of the log is about the member that says it, which every member is asked for.
pub(super) fn is_own(warning: &berth_raft::Warning) -> bool {
    use berth_raft::Warning;
    match warning {
        Warning::SlowDisk { .. } | Warning::Full { .. } => true,
        Warning::SharedDomain { .. }
        | Warning::EvenVoters { .. }
        | Warning::Changing
        | Warning::HasForgotten { .. } => false,
    }
}

/// What the log of the member `own` warns of.
pub(super) fn of_log(warning: &berth_raft::Warning, own: &str) -> v1::Warning {
    use berth_raft::Warning;
    let (kind, member) = match warning {
        Warning::SharedDomain { .. } => ("SharedFailureDomain", ""),
        Warning::EvenVoters { .. } => ("EvenVoters", ""),
        Warning::Changing => ("MembershipChanging", ""),
        Warning::HasForgotten { member } => ("MemberWiped", member.as_str()),
        Warning::SlowDisk { .. } => ("SlowDisk", own),
        Warning::Full { .. } => ("StoreFull", own),
    };
    v1::Warning { kind: kind.into(), member: member.into(), message: warning.to_string() }
}

/// How near the cluster is to standing still.
fn margin(sound: usize, majority: usize) -> String {
    match sound.checked_sub(majority) {
        None => format!("only {sound} of the {majority} voters that decide are left; the cluster stands still"),
        Some(0) => "one more loss stops the cluster; bring it back, or replace it".into(),
        Some(1) => "one more loss can be borne; bring it back, or replace it".into(),
        Some(more) => format!("{more} more losses can be borne; bring it back, or replace it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(count: u64) -> Vec<v1::Member> {
        let member =
            |id| v1::Member { id, name: format!("c{id}"), reachable: true, voter: true, ..v1::Member::default() };
        (1..=count).map(member).collect()
    }

    fn said(members: &[v1::Member]) -> Vec<String> {
        let line = |v1::Warning { kind, member, message }| format!("{kind} {member}: {message}");
        of(members, true).into_iter().map(line).collect()
    }

    #[test]
    fn a_sound_cluster_has_no_warnings() {
        for count in [1, 3, 5] {
            assert_eq!(said(&voters(count)), Vec::<String>::new());
        }
    }

    #[test]
    fn a_silent_member_is_told_with_what_its_silence_means() {
        let mut members = voters(3);
        members[2].reachable = false;
        members[2].silent_ms = Some(12_345);
        assert_eq!(
            said(&members),
            [
                "MemberSilent c3: it has not answered for 12 s: one more loss stops the cluster; bring it back, or replace it"
            ]
        );
        members[1].trouble = "no space left on device".into();
        assert!(said(&members)[0].starts_with("MemberFailed c2: it takes no part: only 1 of the 2 voters that decide"));
        let mut five = voters(5);
        five[0].reachable = false;
        assert!(said(&five)[0].contains("one more loss can be borne"), "{:?}", said(&five));
    }

    #[test]
    fn a_learner_that_is_away_is_no_danger() {
        let mut members = voters(3);
        members.push(v1::Member { name: "c4".into(), ..v1::Member::default() });
        assert_eq!(
            said(&members),
            ["MemberSilent c4: it has not answered: it learns nothing meanwhile; start it, or look at its address"]
        );
    }

    #[test]
    fn a_store_near_its_limit_is_told() {
        let mut members = voters(1);
        members[0].store_limit_bytes = Some(1000 << 20);
        members[0].store_bytes = Some(799 << 20);
        assert_eq!(said(&members), Vec::<String>::new());
        members[0].store_bytes = Some(800 << 20);
        assert!(said(&members)[0].starts_with("StoreNearlyFull c1: its store holds 800 of 1000 MiB"));
    }
}
