//! What a member says about itself and its cluster.

use std::collections::BTreeMap;
use std::fmt;

use crate::membership::forgotten;
use crate::options::Member;

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The latest term that this member has seen.
    pub term: u64,
    /// The leader of that term, if it is known and this member runs.
    pub leader: Option<Member>,
    /// Whether that is this very member. It may already be deposed without knowing: what must be true "now" goes through
    /// a proposal or a read barrier.
    pub is_leader: bool,
}

/// Whether a member takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// It does.
    #[default]
    Running,
    /// It was shut down.
    Stopped,
    /// It had to stop, mostly because its disk failed; the process should open the log again once the cause is gone.
    Failed(String),
    /// The cluster does not let it: it was removed, or it lost what it had acknowledged. The reason says what to do; opening
    /// it again changes nothing.
    Excluded(String),
}

/// What a member may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// Its vote counts.
    #[default]
    Voter,
    /// It receives the log and has no vote.
    Learner,
}

/// How far a snapshot is on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes that there will be.
    pub of: u64,
}

/// One member as seen from this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who.
    pub member: Member,
    /// Whether its vote counts.
    pub role: Role,
    /// Whether it leads.
    pub is_leader: bool,
    /// Up to which index its log is known to agree with the leader's; known on the leader only.
    pub replicated: Option<u64>,
    /// Milliseconds since it last answered the leader; known on the leader only.
    pub silent_ms: Option<u64>,
    /// The member whose place it takes as soon as it has caught up.
    pub replaces: Option<u64>,
    /// Whether it came back without what it had acknowledged, so that it is not counted; known on the leader only.
    pub has_forgotten: bool,
    /// How far the snapshot is that the leader sends it; known on the leader only.
    pub receiving: Option<Progress>,
}

/// What an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Voters that fail together.
    SharedDomain {
        /// What they share.
        domain: String,
        /// Their names.
        members: Vec<String>,
    },
    /// An even number of voters: one of them adds no safety.
    EvenVoters {
        /// How many.
        voters: usize,
    },
    /// A change of the voters is half done.
    Changing,
    /// A member lost what it had acknowledged.
    HasForgotten {
        /// Its name.
        member: String,
    },
    /// This member's disk takes too long to make writes durable.
    SlowDisk {
        /// How long half of the last writes took at least, in milliseconds.
        median_ms: u64,
    },
    /// This member refuses proposals for want of room.
    Full {
        /// What there is too little or too much of.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedDomain { domain, members } => {
                write!(
                    formatter,
                    "{} share the failure domain {domain:?}: what ends one ends them all",
                    members.join(" and ")
                )
            }
            Self::EvenVoters { voters } => write!(
                formatter,
                "{voters} voters survive no more failures than {} would; add one or remove one",
                voters - 1
            ),
            Self::Changing => formatter
                .write_str("a change of the voters is half done; it is finished as soon as a majority of them answers"),
            Self::HasForgotten { member } => formatter.write_str(&forgotten(member)),
            Self::SlowDisk { median_ms } => write!(
                formatter,
                "the disk of this member takes {median_ms} ms to make a write durable; writes wait for it, and elections come near"
            ),
            Self::Full { reason } => formatter.write_str(reason),
        }
    }
}

impl Warning {
    /// What the members give cause for.
    pub(crate) fn of(members: &[MemberStatus], is_changing: bool) -> Vec<Self> {
        let voters: Vec<_> = members.iter().filter(|member| member.role == Role::Voter).collect();
        let mut domains: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for MemberStatus { member, .. } in voters.iter().filter(|voter| !voter.member.domain.is_empty()) {
            domains.entry(&member.domain).or_default().push(member.name.clone());
        }
        let shared = domains
            .into_iter()
            .filter(|(_, members)| members.len() > 1)
            .map(|(domain, members)| Self::SharedDomain { domain: domain.to_owned(), members });
        let even = (!voters.is_empty() && voters.len().is_multiple_of(2) && !is_changing)
            .then_some(Self::EvenVoters { voters: voters.len() });
        let forgetful = members
            .iter()
            .filter(|member| member.has_forgotten)
            .map(|member| Self::HasForgotten { member: member.member.name.clone() });
        shared.chain(even).chain(is_changing.then_some(Self::Changing)).chain(forgetful).collect()
    }
}

/// One member's picture of the cluster. Indexes are `None` until there is such an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// This member's id.
    pub id: u64,
    /// Whether it takes part.
    pub state: State,
    /// The latest term that this member has seen.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<Member>,
    /// All members, by id.
    pub members: Vec<MemberStatus>,
    /// Index of the last entry in this member's log.
    pub last_log: Option<u64>,
    /// Index of the last entry that this member knows to be committed.
    pub committed: Option<u64>,
    /// Index of the last entry that this member's state machine has applied.
    pub applied: Option<u64>,
    /// Index of the last entry in this member's newest snapshot.
    pub snapshot: Option<u64>,
    /// Index of the last entry that this member's log no longer holds.
    pub purged: Option<u64>,
    /// How far a snapshot is that this member receives.
    pub receiving: Option<Progress>,
    /// Bytes that this member's log takes on the disk.
    pub log_bytes: u64,
    /// Bytes in this member's newest snapshot.
    pub snapshot_bytes: u64,
    /// Why this member would refuse proposals for want of room, if it would.
    pub full: Option<String>,
    /// What an operator should look at.
    pub warnings: Vec<Warning>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(name: &str, domain: &str) -> MemberStatus {
        let member = Member { name: name.to_owned(), domain: domain.to_owned(), ..Member::default() };
        MemberStatus { member, ..MemberStatus::default() }
    }

    #[test]
    fn voters_of_one_failure_domain_are_warned_of_and_learners_are_not() {
        let mut members =
            vec![voter("a", "rack 1"), voter("b", "rack 2"), voter("c", "rack 1"), voter("d", ""), voter("e", "")];
        let warnings = Warning::of(&members, false);
        let shared =
            Warning::SharedDomain { domain: "rack 1".to_owned(), members: vec!["a".to_owned(), "c".to_owned()] };
        assert_eq!(warnings, std::slice::from_ref(&shared));
        assert_eq!(shared.to_string(), "a and c share the failure domain \"rack 1\": what ends one ends them all");
        members[2].role = Role::Learner;
        assert_eq!(Warning::of(&members, false), [Warning::EvenVoters { voters: 4 }]);
        assert_eq!(Warning::of(&members, true), [Warning::Changing]);
    }
}

/// What a member has done to keep its log since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogWork {
    /// How often it waited for the disk. Many changes may share one wait.
    pub syncs: u64,
    /// Bytes that it appended.
    pub bytes: u64,
}
