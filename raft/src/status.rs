//! What a member says about itself and its cluster.

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It does.
    Running,
    /// It was shut down.
    Stopped,
    /// It had to stop, mostly because its disk failed; the process should open the log again once the cause is gone.
    Failed(String),
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its vote counts.
    Voter,
    /// It receives the log and has no vote.
    Learner,
}

/// One member as seen from this one.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

/// One member's picture of the cluster. Indexes are `None` until there is such an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}
