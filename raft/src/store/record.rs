//! The frozen layouts of what is stored and sent: version 1 of each record, and its mapping to openraft's types.
//!
//! A struct named `…V1` never changes again. A new layout becomes a `…V2` beside it, and readers keep knowing both.
//! The golden bytes below hold this to its word.

use std::collections::{BTreeMap, BTreeSet};

use berth_frame::FrameError;
use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use crate::types::{
    Address, LogEntry, LogId, LogPayload, Membership, Payload, SnapshotMeta, StoredMembership, Vote, log_id,
};

/// The layout that is written today.
pub(crate) const VERSION: u16 = 1;

/// Kinds of record; the range 0x0100 to 0x01ff is this crate's.
pub(crate) mod kind {
    /// One log entry.
    pub(crate) const ENTRY: u16 = 0x0101;
    /// The vote.
    pub(crate) const VOTE: u16 = 0x0102;
    /// The last log id known to be committed.
    pub(crate) const COMMITTED: u16 = 0x0103;
    /// The last log id that was purged.
    pub(crate) const PURGED: u16 = 0x0104;
    /// Whose store this is; in the database.
    pub(crate) const IDENTITY: u16 = 0x0105;
    /// Whose directory this is and which generation serves; the file `CURRENT`.
    pub(crate) const CURRENT: u16 = 0x0106;
    /// The first record of a snapshot file.
    pub(crate) const SNAPSHOT_HEADER: u16 = 0x0110;
    /// A piece of a snapshot's state.
    pub(crate) const SNAPSHOT_CHUNK: u16 = 0x0111;
    /// The last record of a snapshot file.
    pub(crate) const SNAPSHOT_END: u16 = 0x0112;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogIdV1 {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteV1 {
    pub(crate) term: u64,
    pub(crate) member: u64,
    pub(crate) committed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressV1 {
    name: String,
    raft_addr: String,
    api_addr: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipV1 {
    configs: Vec<BTreeSet<u64>>,
    members: BTreeMap<u64, AddressV1>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum PayloadV1 {
    Blank,
    Normal(#[serde(with = "payload_bytes")] Bytes),
    Membership(MembershipV1),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EntryV1 {
    id: LogIdV1,
    payload: PayloadV1,
}

/// Whose store this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdentityV1 {
    pub(crate) member: u64,
}

/// Which generation of the store serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CurrentV1 {
    pub(crate) member: u64,
    pub(crate) generation: u64,
}

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotHeaderV1 {
    last: Option<LogIdV1>,
    membership_at: Option<LogIdV1>,
    membership: MembershipV1,
}

/// How much a snapshot holds, so that a file that ends early is told from a whole one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotEndV1 {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
}

impl From<LogId> for LogIdV1 {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<LogIdV1> for LogId {
    fn from(LogIdV1 { term, index }: LogIdV1) -> Self {
        log_id(term, index)
    }
}

impl From<Vote> for VoteV1 {
    fn from(vote: Vote) -> Self {
        let leader = vote.leader_id();
        Self { term: leader.term, member: leader.voted_for, committed: vote.is_committed() }
    }
}

impl From<VoteV1> for Vote {
    fn from(VoteV1 { term, member, committed }: VoteV1) -> Self {
        if committed { Self::new_committed(term, member) } else { Self::new(term, member) }
    }
}

impl From<&Membership> for MembershipV1 {
    fn from(membership: &Membership) -> Self {
        let address = |(id, Address { name, raft_addr, api_addr }): (&u64, &Address)| {
            (*id, AddressV1 { name: name.clone(), raft_addr: raft_addr.clone(), api_addr: api_addr.clone() })
        };
        Self { configs: membership.get_joint_config().clone(), members: membership.nodes().map(address).collect() }
    }
}

impl MembershipV1 {
    fn into_membership(self) -> Result<Membership, FrameError> {
        let Self { configs, members } = self;
        if configs.is_empty() && members.is_empty() {
            return Ok(Membership::default());
        }
        let address = |(id, AddressV1 { name, raft_addr, api_addr })| (id, Address { name, raft_addr, api_addr });
        let members: BTreeMap<u64, Address> = members.into_iter().map(address).collect();
        Membership::new(configs, members)
            .map_err(|error| FrameError::Body { kind: kind::ENTRY, reason: format!("no membership: {error}") })
    }
}

/// The record of a log entry.
pub(crate) fn encode_entry(entry: &LogEntry) -> Result<Vec<u8>, FrameError> {
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadV1::Blank,
        EntryPayload::Normal(Payload(bytes)) => PayloadV1::Normal(bytes.clone()),
        EntryPayload::Membership(membership) => PayloadV1::Membership(membership.into()),
    };
    berth_frame::encode_value(kind::ENTRY, VERSION, &EntryV1 { id: entry.log_id.into(), payload })
}

/// The log entry of a record.
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<LogEntry, FrameError> {
    let EntryV1 { id, payload } = berth_frame::decode_value(kind::ENTRY, VERSION, bytes)?;
    let payload: LogPayload = match payload {
        PayloadV1::Blank => EntryPayload::Blank,
        PayloadV1::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
        PayloadV1::Membership(membership) => EntryPayload::Membership(membership.into_membership()?),
    };
    Ok(LogEntry { log_id: id.into(), payload })
}

/// The record of a log id under one of the kinds that hold one.
pub(crate) fn encode_log_id(kind: u16, id: LogId) -> Result<Vec<u8>, FrameError> {
    berth_frame::encode_value(kind, VERSION, &LogIdV1::from(id))
}

/// The log id of a record.
pub(crate) fn decode_log_id(kind: u16, bytes: &[u8]) -> Result<LogId, FrameError> {
    Ok(berth_frame::decode_value::<LogIdV1>(kind, VERSION, bytes)?.into())
}

/// The record of a vote.
pub(crate) fn encode_vote(vote: Vote) -> Result<Vec<u8>, FrameError> {
    berth_frame::encode_value(kind::VOTE, VERSION, &VoteV1::from(vote))
}

/// The vote of a record.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, FrameError> {
    Ok(berth_frame::decode_value::<VoteV1>(kind::VOTE, VERSION, bytes)?.into())
}

impl From<&SnapshotMeta> for SnapshotHeaderV1 {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.map(Into::into),
            membership_at: meta.last_membership.log_id().map(Into::into),
            membership: meta.last_membership.membership().into(),
        }
    }
}

impl SnapshotHeaderV1 {
    pub(crate) fn into_meta(self) -> Result<SnapshotMeta, FrameError> {
        let Self { last, membership_at, membership } = self;
        Ok(SnapshotMeta {
            last_log_id: last.map(Into::into),
            last_membership: StoredMembership::new(membership_at.map(Into::into), membership.into_membership()?),
        })
    }
}

/// A payload as one byte string: the same postcard layout as a sequence of bytes, without a call per byte.
mod payload_bytes {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Payload;
        impl Visitor<'_> for Payload {
            type Value = Bytes;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a byte string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes::copy_from_slice(bytes))
            }
        }
        deserializer.deserialize_bytes(Payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_frame::HEADER_BYTES;

    fn entry(payload: LogPayload) -> LogEntry {
        LogEntry { log_id: log_id(3, 300), payload }
    }

    fn membership() -> Membership {
        let address = |name: &str| Address {
            name: name.to_owned(),
            raft_addr: format!("{name}:1"),
            api_addr: format!("{name}:2"),
        };
        Membership::new(vec![BTreeSet::from([1, 2])], BTreeMap::from([(1, address("a")), (2, address("b"))])).unwrap()
    }

    #[test]
    fn the_bytes_of_version_1_records_are_these() {
        let normal = encode_entry(&entry(EntryPayload::Normal(Payload(Bytes::from_static(b"xyz"))))).unwrap();
        assert_eq!(normal[..8], *b"BRTH\x01\x01\x01\x00");
        assert_eq!(normal[HEADER_BYTES..], [3, 0xac, 2, 1, 3, b'x', b'y', b'z']);
        let blank = encode_entry(&entry(EntryPayload::Blank)).unwrap();
        assert_eq!(blank[HEADER_BYTES..], [3, 0xac, 2, 0]);
        let members = encode_entry(&entry(EntryPayload::Membership(membership()))).unwrap();
        assert_eq!(
            members[HEADER_BYTES..],
            *b"\x03\xac\x02\x02\x01\x02\x01\x02\x02\x01\x01a\x03a:1\x03a:2\x02\x01b\x03b:1\x03b:2"
        );
        let vote = encode_vote(Vote::new_committed(7, 2)).unwrap();
        assert_eq!(vote[4..6], [0x02, 0x01]);
        assert_eq!(vote[HEADER_BYTES..], [7, 2, 1]);
        let committed = encode_log_id(kind::COMMITTED, log_id(7, 128)).unwrap();
        assert_eq!(committed[HEADER_BYTES..], [7, 0x80, 1]);
        let current =
            berth_frame::encode_value(kind::CURRENT, VERSION, &CurrentV1 { member: 3, generation: 1 }).unwrap();
        assert_eq!(current[HEADER_BYTES..], [3, 1]);
        let end = SnapshotEndV1 { chunks: 2, bytes: 200, crc32: 1 };
        let end = berth_frame::encode_value(kind::SNAPSHOT_END, VERSION, &end).unwrap();
        assert_eq!(end[HEADER_BYTES..], [2, 0xc8, 1, 1]);
    }

    #[test]
    fn what_is_written_is_read() {
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from(vec![9; 5000]))),
            EntryPayload::Normal(Payload(Bytes::new())),
            EntryPayload::Membership(membership()),
            EntryPayload::Membership(Membership::default()),
        ] {
            let entry = entry(payload);
            assert_eq!(decode_entry(&encode_entry(&entry).unwrap()).unwrap(), entry);
        }
        for vote in [Vote::new(1, 2), Vote::new_committed(3, 4)] {
            assert_eq!(decode_vote(&encode_vote(vote).unwrap()).unwrap(), vote);
        }
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(2, 9)),
            last_membership: StoredMembership::new(Some(log_id(1, 1)), membership()),
        };
        assert_eq!(SnapshotHeaderV1::from(&meta).into_meta().unwrap(), meta);
    }
}
