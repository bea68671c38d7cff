//! The frame around the records that are written at once.

use berth_frame::{FrameError, HEADER_BYTES};

use crate::store::engine::FRAME_HEAD_BYTES;
use crate::store::record::{VERSION, kind};

/// What a frame says about its place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// The number of the frame, counted from 1 over all files.
    pub(super) sequence: u64,
    /// The chain of all frames before it.
    pub(super) previous: u64,
    /// The number of a frame up to which everything was durable when this one was written. So a damaged frame with a number
    /// not above it was not torn.
    pub(super) durable: u64,
}

/// A frame that was found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) head: FrameHead,
    /// The records.
    pub(super) records: &'a [u8],
    /// The chain of all frames up to this one.
    pub(super) chain: u64,
    /// Bytes of the whole frame.
    pub(super) length: usize,
}

impl FrameHead {
    /// Completes a frame whose records begin at [`FRAME_HEAD_BYTES`]; gives the chain that ends with it.
    pub(super) fn seal(self, bytes: &mut [u8]) -> Result<u64, FrameError> {
        let numbers = [self.sequence, self.previous, self.durable];
        for (place, number) in bytes[HEADER_BYTES..FRAME_HEAD_BYTES].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        berth_frame::finish(kind::BATCH, VERSION, bytes)?;
        Ok(chain(self.previous, &bytes[..HEADER_BYTES]))
    }
}

/// Reads the frame at the beginning of `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Result<Found<'_>, FrameError> {
    let record = berth_frame::decode(bytes)?;
    let header = record.header;
    let unknown = FrameError::Unknown {
        kind: header.kind,
        version: header.version,
        expected_kind: kind::BATCH,
        expected_version: VERSION,
    };
    if (header.kind, header.version) != (kind::BATCH, VERSION) {
        return Err(unknown);
    }
    let short = || FrameError::Body { kind: kind::BATCH, reason: "it is too short for its numbers".to_owned() };
    let (numbers, records) = record.body.split_first_chunk::<24>().ok_or_else(short)?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&numbers[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let head = FrameHead { sequence: number(0), previous: number(8), durable: number(16) };
    let chain = chain(head.previous, &bytes[..HEADER_BYTES]);
    Ok(Found { head, records, chain, length: HEADER_BYTES + record.body.len() })
}

/// Adds a frame to the chain, by its header: that holds length and checksum of all the rest, the chain before it included.
fn chain(previous: u64, header: &[u8]) -> u64 {
    let mut mixed = previous;
    for part in header.chunks_exact(8) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(part);
        // The finalizer of splitmix64: each bit of what went in changes half of those that come out.
        mixed = (mixed ^ u64::from_le_bytes(bytes)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_version_1_frame_are_these() {
        let mut bytes = vec![0; FRAME_HEAD_BYTES];
        bytes.extend_from_slice(b"records");
        let head = FrameHead { sequence: 3, previous: 0x0102, durable: 2 };
        let chain = head.seal(&mut bytes).unwrap();
        assert_eq!(bytes[..12], *b"BRTH\x07\x01\x01\x00\x1f\x00\x00\x00");
        assert_eq!(bytes[HEADER_BYTES..], *b"\x03\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\x02\0\0\0\0\0\0\0records");
        assert_eq!(chain, GOLDEN_CHAIN);
        let found = decode(&bytes).unwrap();
        assert_eq!(found, Found { head, records: b"records", chain, length: bytes.len() });
    }

    /// The chain of the frame above. It is stored, so it may never come out differently.
    const GOLDEN_CHAIN: u64 = 314_826_956_059_351_016;
}
