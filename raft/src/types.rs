//! The concrete types that openraft is instantiated with.
//!
//! The log is standard Raft: one leader per term, an entry known by term and index. Nothing here is ever serialised:
//! what goes to disk or onto the wire is mapped to frozen structs of our own (`store::record`), because the layout of
//! openraft's types is openraft's to change.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::type_config::alias;

use crate::options::Member;

/// One proposal as the log carries it: bytes that mean something to the state machine only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Payload({} bytes)", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

/// What the membership says about a member besides its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) name: String,
    pub(crate) raft_addr: String,
    pub(crate) api_addr: String,
    pub(crate) domain: String,
    /// Which life of the cluster the member belongs to: the same for all members, another one after a restore, so that what
    /// is left of the old life is told from the new.
    pub(crate) lineage: u64,
    /// Whether it has ever acknowledged anything: a member that has, and comes with an empty directory, has lost its memory.
    pub(crate) is_seated: bool,
    /// The member whose place it takes as soon as it has caught up.
    pub(crate) replaces: Option<u64>,
}

impl From<&Member> for Address {
    fn from(Member { id: _, name, raft_addr, api_addr, domain }: &Member) -> Self {
        Self {
            name: name.clone(),
            raft_addr: raft_addr.clone(),
            api_addr: api_addr.clone(),
            domain: domain.clone(),
            ..Self::default()
        }
    }
}

impl Address {
    pub(crate) fn member(&self, id: u64) -> Member {
        let Self { name, raft_addr, api_addr, domain, .. } = self.clone();
        Member { id, name, raft_addr, api_addr, domain }
    }
}

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Payload,
        R = Bytes,
        NodeId = u64,
        Node = Address,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type Raft = openraft::Raft<Types, crate::apply::Machine>;
pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type LogEntry = alias::EntryOf<Types>;
pub(crate) type LogPayload = alias::PayloadOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, Address>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = alias::SnapshotOf<Types, crate::snapshot::SnapshotFile>;
pub(crate) type ServerMetrics = alias::WatchReceiverOf<Types, openraft::metrics::RaftServerMetrics<Types>>;
pub(crate) type Metrics = openraft::RaftMetrics<Types>;

/// The id of the entry at `index` written in `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}
