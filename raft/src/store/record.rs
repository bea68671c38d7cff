//! The frozen layouts of what is stored and sent, and their mapping to openraft's types.
//!
//! A struct named `…V1` never changes again. A new layout becomes a `…V2` beside it, and readers keep knowing both.
//! The golden bytes below hold this to its word.

use std::collections::{BTreeMap, BTreeSet};

use berth_frame::{FrameError, Header, Record};
use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use crate::types::{
    Address, LogEntry, LogId, LogPayload, Membership, Payload, SnapshotMeta, StoredMembership, Vote, log_id,
};

/// The layout of most records, as it is written today.
pub(crate) const VERSION: u16 = 1;

/// The layout of what carries a membership: entries that change it, and the header of a snapshot.
pub(crate) const MEMBERSHIP_VERSION: u16 = 2;

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
    // 0x0105 was used before the log had files of its own.
    /// Whose directory this is and which generation serves; the file `CURRENT`.
    pub(crate) const CURRENT: u16 = 0x0106;
    /// Records that were written at once.
    pub(crate) const BATCH: u16 = 0x0107;
    /// The header of a file of the log.
    pub(crate) const SEGMENT: u16 = 0x0108;
    /// How far the log is durable.
    pub(crate) const MARK: u16 = 0x0109;
    /// The last log id that was kept when the entries after it were removed.
    pub(crate) const TRUNCATED: u16 = 0x010a;
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
struct AddressV1 {
    name: String,
    raft_addr: String,
    api_addr: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MembershipV1 {
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

/// What a membership says about a member since version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AddressV2 {
    name: String,
    raft_addr: String,
    api_addr: String,
    domain: String,
    lineage: u64,
    is_seated: bool,
    replaces: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MembershipV2 {
    configs: Vec<BTreeSet<u64>>,
    members: BTreeMap<u64, AddressV2>,
}

/// An entry that changes the membership; all other entries stay at version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MembershipEntryV2 {
    id: LogIdV1,
    membership: MembershipV2,
}

/// Which generation of the store serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CurrentV1 {
    pub(crate) member: u64,
    pub(crate) generation: u64,
}

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotHeaderV1 {
    last: Option<LogIdV1>,
    membership_at: Option<LogIdV1>,
    membership: MembershipV1,
}

/// What a snapshot covers, with all that a membership says since version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotHeaderV2 {
    last: Option<LogIdV1>,
    membership_at: Option<LogIdV1>,
    membership: MembershipV2,
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

impl MembershipV1 {
    fn into_membership(self) -> Result<Membership, FrameError> {
        let Self { configs, members } = self;
        let address = |(id, AddressV1 { name, raft_addr, api_addr })| {
            (id, Address { name, raft_addr, api_addr, ..Address::default() })
        };
        joined(configs, members.into_iter().map(address).collect())
    }
}

impl From<&Membership> for MembershipV2 {
    fn from(membership: &Membership) -> Self {
        let address = |(id, address): (&u64, &Address)| {
            let Address { name, raft_addr, api_addr, domain, lineage, is_seated, replaces } = address.clone();
            (*id, AddressV2 { name, raft_addr, api_addr, domain, lineage, is_seated, replaces })
        };
        Self { configs: membership.get_joint_config().clone(), members: membership.nodes().map(address).collect() }
    }
}

impl MembershipV2 {
    fn into_membership(self) -> Result<Membership, FrameError> {
        let Self { configs, members } = self;
        let address = |(id, AddressV2 { name, raft_addr, api_addr, domain, lineage, is_seated, replaces })| {
            (id, Address { name, raft_addr, api_addr, domain, lineage, is_seated, replaces })
        };
        joined(configs, members.into_iter().map(address).collect())
    }
}

fn joined(configs: Vec<BTreeSet<u64>>, members: BTreeMap<u64, Address>) -> Result<Membership, FrameError> {
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members)
        .map_err(|error| FrameError::Body { kind: kind::ENTRY, reason: format!("no membership: {error}") })
}

/// Adds the record of a log entry to a buffer.
pub(crate) fn encode_entry_into(entry: &LogEntry, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadV1::Blank,
        EntryPayload::Normal(Payload(bytes)) => PayloadV1::Normal(bytes.clone()),
        EntryPayload::Membership(membership) => {
            let value = MembershipEntryV2 { id: entry.log_id.into(), membership: membership.into() };
            return berth_frame::encode_value_into(kind::ENTRY, MEMBERSHIP_VERSION, &value, buffer);
        }
    };
    berth_frame::encode_value_into(kind::ENTRY, VERSION, &EntryV1 { id: entry.log_id.into(), payload }, buffer)
}

/// The record of a log entry.
pub(crate) fn encode_entry(entry: &LogEntry) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    encode_entry_into(entry, &mut bytes)?;
    Ok(bytes)
}

/// The log entry of a record.
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<LogEntry, FrameError> {
    let Record { header, body, rest } = berth_frame::decode(bytes)?;
    if !rest.is_empty() {
        return Err(FrameError::Trailing { extra: rest.len() });
    }
    match (header.kind, header.version) {
        (kind::ENTRY, VERSION) => {
            let EntryV1 { id, payload } = berth_frame::decode_body(kind::ENTRY, body)?;
            let payload: LogPayload = match payload {
                PayloadV1::Blank => EntryPayload::Blank,
                PayloadV1::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
                PayloadV1::Membership(membership) => EntryPayload::Membership(membership.into_membership()?),
            };
            Ok(LogEntry { log_id: id.into(), payload })
        }
        (kind::ENTRY, MEMBERSHIP_VERSION) => {
            let MembershipEntryV2 { id, membership } = berth_frame::decode_body(kind::ENTRY, body)?;
            Ok(LogEntry { log_id: id.into(), payload: EntryPayload::Membership(membership.into_membership()?) })
        }
        (kind, version) => {
            Err(FrameError::Unknown { kind, version, expected_kind: kind::ENTRY, expected_version: VERSION })
        }
    }
}

/// The log entry of the record that `bytes` begin with.
pub(crate) fn decode_first_entry(bytes: &[u8]) -> Result<LogEntry, FrameError> {
    let length = berth_frame::HEADER_BYTES + berth_frame::decode(bytes)?.body.len();
    decode_entry(&bytes[..length])
}

/// The first record of a snapshot file.
pub(crate) fn encode_snapshot_header(meta: &SnapshotMeta) -> Result<Vec<u8>, FrameError> {
    let header = SnapshotHeaderV2 {
        last: meta.last_log_id.map(Into::into),
        membership_at: meta.last_membership.log_id().map(Into::into),
        membership: meta.last_membership.membership().into(),
    };
    berth_frame::encode_value(kind::SNAPSHOT_HEADER, MEMBERSHIP_VERSION, &header)
}

/// What a snapshot covers, from the record that [`berth_frame::decode`] found.
pub(crate) fn decode_snapshot_header(record: &Record<'_>) -> Result<SnapshotMeta, FrameError> {
    let Record { header: Header { kind, version, length: _ }, body, rest: _ } = *record;
    let (last, membership_at, membership) = match (kind, version) {
        (kind::SNAPSHOT_HEADER, VERSION) => {
            let SnapshotHeaderV1 { last, membership_at, membership } = berth_frame::decode_body(kind, body)?;
            (last, membership_at, membership.into_membership()?)
        }
        (kind::SNAPSHOT_HEADER, MEMBERSHIP_VERSION) => {
            let SnapshotHeaderV2 { last, membership_at, membership } = berth_frame::decode_body(kind, body)?;
            (last, membership_at, membership.into_membership()?)
        }
        (kind, version) => {
            let (expected_kind, expected_version) = (kind::SNAPSHOT_HEADER, MEMBERSHIP_VERSION);
            return Err(FrameError::Unknown { kind, version, expected_kind, expected_version });
        }
    };
    Ok(SnapshotMeta {
        last_log_id: last.map(Into::into),
        last_membership: StoredMembership::new(membership_at.map(Into::into), membership),
    })
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
            domain: "d".to_owned(),
            lineage: 300,
            is_seated: true,
            replaces: Some(5),
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
        let vote = berth_frame::encode_value(kind::VOTE, VERSION, &VoteV1::from(Vote::new_committed(7, 2))).unwrap();
        assert_eq!(vote[4..6], [0x02, 0x01]);
        assert_eq!(vote[HEADER_BYTES..], [7, 2, 1]);
        let committed = berth_frame::encode_value(kind::COMMITTED, VERSION, &LogIdV1::from(log_id(7, 128))).unwrap();
        assert_eq!(committed[HEADER_BYTES..], [7, 0x80, 1]);
        let current =
            berth_frame::encode_value(kind::CURRENT, VERSION, &CurrentV1 { member: 3, generation: 1 }).unwrap();
        assert_eq!(current[HEADER_BYTES..], [3, 1]);
        let end = SnapshotEndV1 { chunks: 2, bytes: 200, crc32: 1 };
        let end = berth_frame::encode_value(kind::SNAPSHOT_END, VERSION, &end).unwrap();
        assert_eq!(end[HEADER_BYTES..], [2, 0xc8, 1, 1]);
    }

    /// The membership as version 1 knew it: names and addresses only.
    fn old_membership() -> Membership {
        let address = |(id, Address { name, raft_addr, api_addr, .. }): (&u64, &Address)| {
            let (name, raft_addr, api_addr) = (name.clone(), raft_addr.clone(), api_addr.clone());
            (*id, Address { name, raft_addr, api_addr, ..Address::default() })
        };
        let membership = membership();
        let nodes: BTreeMap<_, _> = membership.nodes().map(address).collect();
        Membership::new(membership.get_joint_config().clone(), nodes).unwrap()
    }

    const MEMBERS_V1: &[u8] = b"\x01\x02\x01\x02\x02\x01\x01a\x03a:1\x03a:2\x02\x01b\x03b:1\x03b:2";
    const MEMBERS_V2: &[u8] = b"\x01\x02\x01\x02\x02\
        \x01\x01a\x03a:1\x03a:2\x01d\xac\x02\x01\x01\x05\
        \x02\x01b\x03b:1\x03b:2\x01d\xac\x02\x01\x01\x05";

    #[test]
    fn the_bytes_of_version_2_records_are_these() {
        let members = encode_entry(&entry(EntryPayload::Membership(membership()))).unwrap();
        assert_eq!(members[..8], *b"BRTH\x01\x01\x02\x00");
        assert_eq!(members[HEADER_BYTES..], [b"\x03\xac\x02", MEMBERS_V2].concat());
        let header = encode_snapshot_header(&meta(membership())).unwrap();
        assert_eq!(header[..8], *b"BRTH\x10\x01\x02\x00");
        assert_eq!(header[HEADER_BYTES..], [b"\x01\x02\x09\x01\x01\x01", MEMBERS_V2].concat());
    }

    #[test]
    fn memberships_of_version_1_are_still_read() {
        let members = [b"\x03\xac\x02\x02", MEMBERS_V1].concat();
        let members = berth_frame::encode(kind::ENTRY, 1, &members).unwrap();
        assert_eq!(decode_entry(&members).unwrap(), entry(EntryPayload::Membership(old_membership())));
        let header = [b"\x01\x02\x09\x01\x01\x01", MEMBERS_V1].concat();
        let header = berth_frame::encode(kind::SNAPSHOT_HEADER, 1, &header).unwrap();
        let header = decode_snapshot_header(&berth_frame::decode(&header).unwrap());
        assert_eq!(header.unwrap(), meta(old_membership()));
        let unknown = berth_frame::encode(kind::ENTRY, 3, b"").unwrap();
        assert!(matches!(decode_entry(&unknown), Err(FrameError::Unknown { version: 3, .. })));
    }

    fn meta(membership: Membership) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(log_id(2, 9)),
            last_membership: StoredMembership::new(Some(log_id(1, 1)), membership),
        }
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
            assert_eq!(Vote::from(VoteV1::from(vote)), vote);
        }
        let header = encode_snapshot_header(&meta(membership())).unwrap();
        assert_eq!(decode_snapshot_header(&berth_frame::decode(&header).unwrap()).unwrap(), meta(membership()));
    }
}
