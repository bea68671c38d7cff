//! Where the records are found in the database.
//!
//! A log record longer than a value may be is cut into pieces under consecutive keys, so that all keys of the log sort by
//! index first:
//!
//! ```text
//! "i"                      identity        "l" index(8, big-endian) piece(4, big-endian)    a piece of a log entry
//! "v"  vote      "c"  committed      "p"  purged
//! ```

use super::sled::MAX_VALUE_BYTES;

pub(crate) const IDENTITY: &[u8] = b"i";
pub(crate) const VOTE: &[u8] = b"v";
pub(crate) const COMMITTED: &[u8] = b"c";
pub(crate) const PURGED: &[u8] = b"p";

/// First byte of each key of the log.
const LOG: u8 = b'l';

/// The first key after the log's.
pub(crate) const LOG_END: &[u8] = &[LOG + 1];

/// The key of a piece of the entry at `index`.
pub(crate) fn piece(index: u64, piece: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(13);
    key.push(LOG);
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(&piece.to_be_bytes());
    key
}

/// The first key of the entry at `index` and of all after it.
pub(crate) fn from(index: u64) -> Vec<u8> {
    piece(index, 0)
}

/// Index and piece number of a key of the log; `None` if it is not one.
pub(crate) fn parse(key: &[u8]) -> Option<(u64, u32)> {
    let (&first, rest) = key.split_first()?;
    let (index, piece) = rest.split_first_chunk::<8>()?;
    let piece: [u8; 4] = piece.try_into().ok()?;
    (first == LOG).then(|| (u64::from_be_bytes(*index), u32::from_be_bytes(piece)))
}

/// The pieces of a record, with their numbers.
pub(crate) fn pieces(record: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    (0_u32..).zip(record.chunks(MAX_VALUE_BYTES))
}
