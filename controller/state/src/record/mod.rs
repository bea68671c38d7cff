//! How the replicated state is written down: frozen encodings, one module a version.
//!
//! Until the first release they may change in place (decision 0007). `latest` lives only in memory. A record is a [`berth_frame`] frame around a postcard body of a struct in `vN`,
//! whose bytes are held by golden tests; a new field means a new version, and old versions decode for ever. An
//! unknown kind or version is an error that halts the member: it is never skipped (law 11).

mod mirror;
mod v1;
mod v2;

use std::io::{self, Read, Write};

use berth_frame::FrameError;
use berth_model::host::Host;
use berth_model::image::Image;
use berth_model::instancetype::{InstanceType, Preference};
use berth_model::placement::Proposal;
use berth_model::session::Holding;
use berth_model::vm::Vm;
use berth_model::{HostUid, RequestId};

use crate::cluster::Cluster;
use crate::command::Batch;
use crate::history::{self, ObjectKind, Stored};
use crate::outcome::Applied;
use crate::requests::Remembered;

/// Kinds of records; the numbers are for ever.
mod kind {
    pub(super) const BATCH: u16 = 0x0101;
    pub(super) const ANSWERS: u16 = 0x0102;
    pub(super) const SNAPSHOT_HEAD: u16 = 0x0201;
    pub(super) const SNAPSHOT_VM: u16 = 0x0202;
    pub(super) const SNAPSHOT_HOST: u16 = 0x0203;
    pub(super) const SNAPSHOT_IMAGE: u16 = 0x0204;
    pub(super) const SNAPSHOT_INSTANCE_TYPE: u16 = 0x0205;
    pub(super) const SNAPSHOT_REQUEST: u16 = 0x0206;
    pub(super) const SNAPSHOT_HISTORY_BLOCK: u16 = 0x0207;
    pub(super) const SNAPSHOT_HISTORY_OPEN: u16 = 0x0208;
    pub(super) const SNAPSHOT_HOLDING: u16 = 0x0209;
    pub(super) const SNAPSHOT_PREFERENCE: u16 = 0x020a;
    pub(super) const SNAPSHOT_PROPOSAL: u16 = 0x020b;
    pub(super) const SNAPSHOT_END: u16 = 0x02ff;
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The frame is damaged or of another kind or version.
    #[error(
        "a record of the replicated state cannot be read; do not discard it: this program may be older than the record"
    )]
    Frame(#[from] FrameError),
    /// A kind that this program does not know.
    #[error("a record of unknown kind {kind:#06x}, version {version}: this program is older than what it reads")]
    Unknown {
        /// As written.
        kind: u16,
        /// As written.
        version: u16,
    },
    /// The snapshot ends early or holds another count of objects than it says.
    #[error("a snapshot is not whole: {0}")]
    Incomplete(String),
    /// The disk or the stream failed.
    #[error("a snapshot cannot be written or read")]
    Io(#[from] io::Error),
}

/// Writes a log entry.
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>, RecordError> {
    v1::encode_batch(batch)
}

/// Reads a log entry.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, RecordError> {
    v1::decode_batch(bytes)
}

/// Writes the answers to a log entry, for the member that proposed it.
pub fn encode_answers(answers: &[Applied]) -> Result<Vec<u8>, RecordError> {
    v1::encode_answers(answers)
}

/// Reads the answers to a log entry.
pub fn decode_answers(bytes: &[u8]) -> Result<Vec<Applied>, RecordError> {
    v1::decode_answers(bytes)
}

/// Writes the whole state, one record an object.
pub fn write_snapshot(cluster: &Cluster, out: &mut dyn Write) -> Result<(), RecordError> {
    v2::write_snapshot(cluster, out)
}

/// Reads the whole state to the end of `from`, and builds its indices.
pub fn read_snapshot(from: &mut dyn Read) -> Result<Cluster, RecordError> {
    let Some(head) = next(from)? else {
        return Err(RecordError::Incomplete("it is empty".into()));
    };
    let (mut cluster, told) = match (head.kind, head.version) {
        (kind::SNAPSHOT_HEAD, v2::VERSION) => v2::read_head(&head.body)?,
        (kind, version) => return Err(RecordError::Unknown { kind, version }),
    };
    let mut records = 0;
    loop {
        let Some(record) = next(from)? else {
            return Err(RecordError::Incomplete(format!("it ends after {records} records without an end record")));
        };
        if record.version != v1::VERSION {
            return Err(RecordError::Unknown { kind: record.kind, version: record.version });
        }
        if record.kind == kind::SNAPSHOT_END {
            let counted = v1::read_end(&record.body)?;
            let more = next(from)?.is_some();
            if counted != records || more {
                let behind = if more { ", with more behind its end" } else { "" };
                return Err(RecordError::Incomplete(format!("it says {counted} records and holds {records}{behind}")));
            }
            break;
        }
        if !v2::take_in(&mut cluster, record.kind, &record.body)? {
            v1::take_in(&mut cluster, record.kind, &record.body)?;
        }
        records += 1;
    }
    cluster.sum = cluster.summed();
    let found = cluster.digest();
    if told != found {
        return Err(RecordError::Incomplete(format!("its state comes to digest {found}, and it says {told}")));
    }
    Ok(cluster)
}

/// One record of a stream.
struct Framed {
    kind: u16,
    version: u16,
    body: Vec<u8>,
}

/// The next record of a stream; none at its end.
fn next(from: &mut dyn Read) -> Result<Option<Framed>, RecordError> {
    let mut bytes = Vec::new();
    let mut wanted = berth_frame::HEADER_BYTES;
    loop {
        let had = bytes.len();
        from.take((wanted - had) as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        match berth_frame::decode(&bytes) {
            Ok(record) => {
                let berth_frame::Header { kind, version, .. } = record.header;
                return Ok(Some(Framed { kind, version, body: bytes.split_off(berth_frame::HEADER_BYTES) }));
            }
            Err(FrameError::Truncated { needed, .. }) if needed > wanted && bytes.len() == wanted => wanted = needed,
            Err(error) => return Err(error.into()),
        }
    }
}

/// [`write_snapshot`] into memory.
pub fn encode_snapshot(cluster: &Cluster) -> Result<Vec<u8>, RecordError> {
    let mut bytes = Vec::new();
    write_snapshot(cluster, &mut bytes)?;
    Ok(bytes)
}

/// [`read_snapshot`] from memory.
pub fn decode_snapshot(mut bytes: &[u8]) -> Result<Cluster, RecordError> {
    read_snapshot(&mut bytes)
}

/// The layout of the bodies of objects in the history.
pub(crate) const LAYOUT: u16 = v1::VERSION;

pub(crate) fn encode_history(record: &history::Record) -> Vec<u8> {
    v1::encode_history(record)
}

pub(crate) fn decode_history(bytes: &[u8]) -> Result<Vec<history::Record>, RecordError> {
    v1::decode_history(bytes)
}

pub(crate) fn vm_body(vm: Vm) -> Vec<u8> {
    v1::vm_body(vm)
}

pub(crate) fn host_body(host: Host) -> Vec<u8> {
    v1::host_body(host)
}

pub(crate) fn image_body(image: Image) -> Vec<u8> {
    v1::image_body(image)
}

pub(crate) fn instance_type_body(instance_type: InstanceType) -> Vec<u8> {
    v1::instance_type_body(instance_type)
}

pub(crate) fn preference_body(preference: Preference) -> Vec<u8> {
    v1::preference_body(preference)
}

/// What the digest takes of a proposal.
pub(crate) fn proposal_body(proposal: &Proposal) -> Vec<u8> {
    v1::proposal_body(proposal)
}

pub(crate) fn thaw_body(kind: ObjectKind, body: &[u8]) -> Result<Stored, RecordError> {
    v1::thaw_body(kind, body)
}

/// What a host holds of an orphan, in snapshots and in the digest.
pub(crate) fn encode_holding(host: HostUid, held: &Holding) -> Vec<u8> {
    v1::encode_holding(host, held)
}

/// What the digest takes of a remembered request.
pub(crate) fn request_body(id: RequestId, held: &Remembered) -> Vec<u8> {
    v1::request_body(id, held)
}

/// What the digest takes of the state beside objects and requests.
pub(crate) fn singles(cluster: &Cluster) -> Vec<u8> {
    v1::singles(cluster)
}

#[cfg(test)]
mod tests;
