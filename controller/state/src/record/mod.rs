//! How the replicated state is written down: frozen encodings, one module a version.
//!
//! `latest` lives only in memory. A record is a [`berth_frame`] frame around a postcard body of a struct in `vN`,
//! whose bytes are held by golden tests; a new field means a new version, and old versions decode for ever. An
//! unknown kind or version is an error that halts the member: it is never skipped (law 11).

mod mirror;
mod v1;

use berth_frame::FrameError;

use crate::cluster::Cluster;
use crate::command::Batch;
use crate::outcome::Applied;

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
pub fn encode_snapshot(cluster: &Cluster) -> Result<Vec<u8>, RecordError> {
    v1::encode_snapshot(cluster)
}

/// Reads the whole state and builds its indices.
pub fn decode_snapshot(bytes: &[u8]) -> Result<Cluster, RecordError> {
    v1::decode_snapshot(bytes)
}

#[cfg(test)]
mod tests;
