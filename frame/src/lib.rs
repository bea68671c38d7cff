//! The record frame: magic, kind, version, length and checksum around a body.
//!
//! Every log entry, snapshot record and ledger record that Berth keeps on a disk or sends as a whole wears this frame, so
//! that a reader can tell a damaged record from an unknown one, and both from one that is merely cut short. The checksum
//! covers the header as well as the body: a flipped bit in the length or in the version must not lead to a wrong decoding
//! of a body that is right.
//!
//! ```text
//! offset  0        4      6         8        12       16
//!         | magic  | kind | version | length | crc32  | body …
//!         | "BRTH" | u16  | u16     | u32    | u32    | length bytes
//! ```
//!
//! All numbers are little-endian. The checksum is CRC-32 (IEEE) over the first twelve bytes and the body. The body is the
//! caller's; the `*_value` functions put a [postcard](https://docs.rs/postcard) encoding there.

pub mod backup;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first four bytes of every record.
pub const MAGIC: [u8; 4] = *b"BRTH";

/// Bytes before the body.
pub const HEADER_BYTES: usize = 16;

/// Longest body that is written or believed, in bytes: far above every record we write (the largest are snapshot
/// chunks), and low enough that a damaged length cannot make a reader allocate the machine's memory.
pub const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// What a frame says about its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which sort of record this is; the numbers belong to the crate that writes the record.
    pub kind: u16,
    /// Which frozen layout the body has.
    pub version: u16,
    /// Bytes in the body.
    pub length: u32,
}

/// One record found at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Kind, version and length.
    pub header: Header,
    /// The body, whose checksum was found right.
    pub body: &'a [u8],
    /// What follows the record in the buffer.
    pub rest: &'a [u8],
}

/// Why bytes are not a record, or a value not a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The buffer ends before the record does; `needed` bytes would be enough to say more.
    #[error("the record is cut short: {available} bytes are there, at least {needed} are needed")]
    Truncated {
        /// Bytes that were there.
        available: usize,
        /// Bytes that the header, or the length in it, asks for.
        needed: usize,
    },
    /// The first four bytes are not ours.
    #[error("this is not a Berth record: it starts with {found:02x?}, not with \"BRTH\"")]
    BadMagic {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// The length is above [`MAX_BODY_BYTES`].
    #[error("the record's body of {length} bytes is longer than the limit of {MAX_BODY_BYTES} bytes")]
    TooLong {
        /// Bytes that the body has, or claims to have.
        length: usize,
    },
    /// Header and body do not add up to the stored checksum.
    #[error("the record is damaged: its checksum is {stored:08x}, its bytes give {computed:08x}")]
    ChecksumMismatch {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of what was read.
        computed: u32,
    },
    /// A whole record of another kind, or of a version that this program does not know.
    #[error(
        "this is a record of kind {kind:#06x} version {version}, where kind {expected_kind:#06x} version {expected_version} was expected"
    )]
    Unknown {
        /// The kind found.
        kind: u16,
        /// The version found.
        version: u16,
        /// The kind asked for.
        expected_kind: u16,
        /// The version asked for.
        expected_version: u16,
    },
    /// Bytes follow where one record alone was expected.
    #[error("{extra} bytes follow the record, where nothing may")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The checksum is right, but the body is not what its kind and version promise.
    #[error("the body of the record of kind {kind:#06x} cannot be read or written: {reason}")]
    Body {
        /// The record's kind.
        kind: u16,
        /// What the codec said.
        reason: String,
    },
}

/// Puts a frame around a body.
///
/// # Errors
/// [`FrameError::TooLong`] if the body is above [`MAX_BODY_BYTES`].
pub fn encode(kind: u16, version: u16, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&[0; HEADER_BYTES]);
    bytes.extend_from_slice(body);
    finish(kind, version, &mut bytes)?;
    Ok(bytes)
}

/// Writes the header into the first [`HEADER_BYTES`] of `record`, whose rest is the body: a frame around bytes that need not be
/// copied.
///
/// # Errors
/// [`FrameError::TooLong`] if the body is above [`MAX_BODY_BYTES`].
///
/// # Panics
/// If there is no room for a header.
pub fn finish(kind: u16, version: u16, record: &mut [u8]) -> Result<(), FrameError> {
    let (header, body) = record.split_first_chunk_mut::<HEADER_BYTES>().expect("the caller leaves room for the header");
    let too_long = || FrameError::TooLong { length: body.len() };
    if body.len() > MAX_BODY_BYTES {
        return Err(too_long());
    }
    let length = u32::try_from(body.len()).map_err(|_| too_long())?;
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&kind.to_le_bytes());
    header[6..8].copy_from_slice(&version.to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(&header[..HEADER_BYTES - 4], body);
    header[12..].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Reads the record at the start of `bytes`.
///
/// # Errors
/// [`FrameError::Truncated`], [`FrameError::BadMagic`], [`FrameError::TooLong`] or [`FrameError::ChecksumMismatch`].
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, FrameError> {
    let truncated = |needed| FrameError::Truncated { available: bytes.len(), needed };
    let (header, after) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| truncated(HEADER_BYTES))?;
    let [m0, m1, m2, m3, k0, k1, v0, v1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let magic = [m0, m1, m2, m3];
    if magic != MAGIC {
        return Err(FrameError::BadMagic { found: magic });
    }
    let parsed = Header {
        kind: u16::from_le_bytes([k0, k1]),
        version: u16::from_le_bytes([v0, v1]),
        length: u32::from_le_bytes([l0, l1, l2, l3]),
    };
    let length = usize::try_from(parsed.length).unwrap_or(usize::MAX);
    if length > MAX_BODY_BYTES {
        return Err(FrameError::TooLong { length });
    }
    let (body, rest) = after.split_at_checked(length).ok_or_else(|| truncated(HEADER_BYTES + length))?;
    let stored = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum(&header[..HEADER_BYTES - 4], body);
    if stored != computed {
        return Err(FrameError::ChecksumMismatch { stored, computed });
    }
    Ok(Record { header: parsed, body, rest })
}

/// Reads the one record that `bytes` consist of, and insists on its kind and version.
///
/// # Errors
/// Those of [`decode`], [`FrameError::Unknown`] and [`FrameError::Trailing`].
pub fn decode_exact(expected_kind: u16, expected_version: u16, bytes: &[u8]) -> Result<&[u8], FrameError> {
    let Record { header: Header { kind, version, length: _ }, body, rest } = decode(bytes)?;
    if (kind, version) != (expected_kind, expected_version) {
        return Err(FrameError::Unknown { kind, version, expected_kind, expected_version });
    }
    if !rest.is_empty() {
        return Err(FrameError::Trailing { extra: rest.len() });
    }
    Ok(body)
}

/// Puts a frame around the postcard encoding of a value.
///
/// # Errors
/// [`FrameError::Body`] if the value cannot be encoded, [`FrameError::TooLong`] as in [`encode`].
pub fn encode_value<T: Serialize + ?Sized>(kind: u16, version: u16, value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    encode_value_into(kind, version, value, &mut bytes)?;
    Ok(bytes)
}

/// [`encode_value`] at the end of a buffer, which is as it was if that fails.
///
/// # Errors
/// Those of [`encode_value`].
pub fn encode_value_into<T: Serialize + ?Sized>(
    kind: u16,
    version: u16,
    value: &T,
    buffer: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
    let encoded = postcard::to_io(value, &mut *buffer)
        .map(drop)
        .map_err(|error| FrameError::Body { kind, reason: error.to_string() })
        .and_then(|()| finish(kind, version, &mut buffer[start..]));
    if encoded.is_err() {
        buffer.truncate(start);
    }
    encoded
}

/// Reads the value out of the one record that `bytes` consist of.
///
/// # Errors
/// Those of [`decode_exact`], and [`FrameError::Body`] if the body is not exactly one such value.
pub fn decode_value<T: DeserializeOwned>(kind: u16, version: u16, bytes: &[u8]) -> Result<T, FrameError> {
    decode_body(kind, decode_exact(kind, version, bytes)?)
}

/// Reads the value out of a body that [`decode`] returned, for readers that look at kind and version themselves.
///
/// # Errors
/// [`FrameError::Body`] if the body is not exactly one such value.
pub fn decode_body<T: DeserializeOwned>(kind: u16, body: &[u8]) -> Result<T, FrameError> {
    let (value, rest) =
        postcard::take_from_bytes(body).map_err(|error| FrameError::Body { kind, reason: error.to_string() })?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(FrameError::Body { kind, reason: format!("{} bytes follow the value", rest.len()) })
    }
}

/// The checksum that frames carry, over bytes of the caller's, for those who sum up many records.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// [`crc32`] of some bytes followed by others, from that of the first and the others.
pub fn crc32_continued(before: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(bytes);
    hasher.finalize()
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_of_a_record_are_these() {
        let bytes = encode(0x0102, 3, b"berth").unwrap();
        assert_eq!(
            bytes,
            [
                b'B', b'R', b'T', b'H', 0x02, 0x01, 3, 0, 5, 0, 0, 0, 0xcf, 0x91, 0xa0, 0xe1, b'b', b'e', b'r', b't',
                b'h'
            ]
        );
    }

    #[test]
    fn the_bytes_of_a_value_are_these() {
        let bytes = encode_value(1, 1, &("one", 300_u32, None::<u8>)).unwrap();
        assert_eq!(bytes[HEADER_BYTES..], [3, b'o', b'n', b'e', 0xac, 0x02, 0]);
        assert_eq!(decode_value::<(String, u32, Option<u8>)>(1, 1, &bytes).unwrap(), ("one".to_owned(), 300, None));
    }

    #[test]
    fn a_checksum_can_be_taken_piece_by_piece() {
        assert_eq!(crc32_continued(crc32_continued(crc32(b""), b"one"), b"two"), crc32(b"onetwo"));
    }

    #[test]
    fn a_foreign_file_is_told_from_a_damaged_one() {
        assert_eq!(decode(b"SQLite format 3\0 and more"), Err(FrameError::BadMagic { found: *b"SQLi" }));
        let mut bytes = encode(1, 1, b"body").unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        assert!(matches!(decode(&bytes), Err(FrameError::ChecksumMismatch { .. })));
    }

    #[test]
    fn a_claimed_length_above_the_limit_is_refused_before_anything_is_read() {
        let mut bytes = encode(1, 1, b"body").unwrap();
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&bytes), Err(FrameError::TooLong { .. })));
        assert!(matches!(encode(1, 1, &vec![0; MAX_BODY_BYTES + 1]), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn another_kind_or_version_is_unknown_not_damaged() {
        let bytes = encode_value(7, 1, &1_u8).unwrap();
        assert!(matches!(decode_value::<u8>(8, 1, &bytes), Err(FrameError::Unknown { kind: 7, expected_kind: 8, .. })));
        assert!(matches!(decode_value::<u8>(7, 2, &bytes), Err(FrameError::Unknown { version: 1, .. })));
    }

    #[test]
    fn nothing_may_follow_a_single_record_nor_a_value_in_its_body() {
        let mut bytes = encode(7, 1, &[1, 2]).unwrap();
        assert!(matches!(decode_value::<u8>(7, 1, &bytes), Err(FrameError::Body { .. })));
        bytes.push(0);
        assert_eq!(decode_exact(7, 1, &bytes), Err(FrameError::Trailing { extra: 1 }));
    }

    #[test]
    fn every_single_flipped_bit_is_detected() {
        let good = encode_value(0x0101, 1, &("a record", vec![1_u64, 2, 3])).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_exact(0x0101, 1, &bad).is_err(), "flipped bit {bit} went unnoticed");
        }
    }

    #[test]
    fn every_cut_is_told_as_a_cut() {
        let good = encode(1, 1, b"some body").unwrap();
        for length in 0..good.len() {
            assert!(matches!(decode(&good[..length]), Err(FrameError::Truncated { .. })), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(kind: u16, version: u16, body: Vec<u8>, rest: Vec<u8>) {
            let mut bytes = encode(kind, version, &body).unwrap();
            bytes.extend_from_slice(&rest);
            let record = decode(&bytes).unwrap();
            prop_assert_eq!(record.header.kind, kind);
            prop_assert_eq!(record.header.version, version);
            prop_assert_eq!(record.body, &body[..]);
            prop_assert_eq!(record.rest, &rest[..]);
        }

        #[test]
        fn decoding_arbitrary_bytes_never_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
