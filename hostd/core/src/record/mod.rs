//! How the ledger is written down: frozen encodings, one module a version.
//!
//! The living [`Record`] exists only in memory. On disk it is a [`berth_frame`] frame around a postcard body of a struct
//! in `vN`, whose bytes are held by golden tests; a new field means a new version, and old versions decode for ever. An
//! unknown kind or version is an error that halts the daemon: a word it cannot read may be the one that says which
//! placement it must refuse (law 11).

mod mirror;
mod v1;

use berth_frame::FrameError;

use crate::ledger::Record;

/// Kinds of records; the numbers are for ever.
mod kind {
    pub(super) const HOST: u16 = 0x0301;
    pub(super) const BOOT: u16 = 0x0302;
    pub(super) const CLUSTER: u16 = 0x0303;
    pub(super) const ENTRY: u16 = 0x0304;
    pub(super) const FORGET: u16 = 0x0305;
    pub(super) const JOURNAL: u16 = 0x0306;
    pub(super) const ORPHANED: u16 = 0x0307;
    pub(super) const UNORPHANED: u16 = 0x0308;
}

/// Why a record of the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The frame or its body is damaged, or cut short.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A kind or version that this program does not know.
    #[error(
        "a record of kind {kind:#06x} version {version} is unknown to this program, which is older than what it reads; \
         start the version that wrote it"
    )]
    Unknown {
        /// As written.
        kind: u16,
        /// As written.
        version: u16,
    },
}

impl RecordError {
    /// Whether the bytes merely end before the record does, as the last record of a killed daemon may.
    pub const fn is_cut_short(&self) -> bool {
        matches!(self, Self::Frame(FrameError::Truncated { .. }))
    }
}

/// Writes a record.
pub fn encode(record: Record) -> Result<Vec<u8>, RecordError> {
    v1::encode(record)
}

/// Reads the record at the start of `bytes`, and says how many bytes it took.
pub fn decode(bytes: &[u8]) -> Result<(Record, usize), RecordError> {
    let framed = berth_frame::decode(bytes)?;
    let taken = bytes.len() - framed.rest.len();
    let record = match framed.header.version {
        v1::VERSION => v1::decode(framed.header.kind, framed.body)?,
        version => return Err(RecordError::Unknown { kind: framed.header.kind, version }),
    };
    Ok((record, taken))
}

#[cfg(test)]
mod tests;
