//! The file that says how far the stream of frames is durable.
//!
//! Two slots, each in a page of its own, are written in turn, so that one of them always holds a true word, whatever happens to
//! the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use berth_frame::FrameError;
use serde::{Deserialize, Serialize};

use super::segment::State;
use crate::error::OpenError;
use crate::store::directory::{damaged, failed};
use crate::store::files;
use crate::store::record::{LogIdV1, VERSION, VoteV1, kind};

/// The name of the file.
pub(super) const FILE: &str = "MARK";

/// Bytes of a slot: a page, so that writing one never touches the other.
const SLOT_BYTES: usize = 4096;

/// What is known to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The number of the last durable frame.
    pub(super) sequence: u64,
    /// The chain up to it.
    pub(super) chain: u64,
    /// What it added up to.
    pub(super) state: State,
    /// Whether the store was closed after it, so that nothing may follow.
    pub(super) is_sealed: bool,
}

/// A slot as it is stored. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MarkV1 {
    /// Counts the writings: the slot with the higher number is the newer one.
    turn: u64,
    sequence: u64,
    chain: u64,
    is_sealed: bool,
    vote: Option<VoteV1>,
    last: Option<LogIdV1>,
    committed: Option<LogIdV1>,
    purged: Option<LogIdV1>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    turn: u64,
    sequence: u64,
}

impl MarkFile {
    /// Makes the file, with a first mark in both slots, on the disk.
    pub(super) fn create(directory: &Path, mark: Mark) -> io::Result<()> {
        let file = files::create(&directory.join(FILE))?;
        file.set_len(2 * SLOT_BYTES as u64)?;
        Self { file, turn: 0, sequence: 0 }.write_both(mark)
    }

    /// Reads the newest mark that is whole.
    pub(super) fn open(directory: &Path) -> Result<(Self, Mark), OpenError> {
        let path = directory.join(FILE);
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Incomplete { file: path, reason: "it is missing".to_owned() });
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let length = file.metadata().map_err(failed("read", &path))?.len();
        if length != 2 * SLOT_BYTES as u64 {
            let reason = format!("it has {length} bytes, and not {}", 2 * SLOT_BYTES);
            return Err(OpenError::Incomplete { file: path, reason });
        }
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        file.read_exact_at(&mut bytes, 0).map_err(failed("read", &path))?;
        let (first, second) = bytes.split_at(SLOT_BYTES);
        let newest = match (parse(first), parse(second)) {
            (Ok(first), Ok(second)) => {
                if first.turn > second.turn {
                    first
                } else {
                    second
                }
            }
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => only,
            (Err(source), Err(_)) => return Err(damaged(&path, "both of its slots", source)),
        };
        let MarkV1 { turn, sequence, chain, is_sealed, vote, last, committed, purged } = newest;
        let mark = Mark { sequence, chain, state: State { vote, last, committed, purged }, is_sealed };
        Ok((Self { file, turn, sequence }, mark))
    }

    /// The number of the last frame that was marked.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Replaces the older slot; not synced.
    pub(super) fn write(&mut self, mark: Mark) -> io::Result<()> {
        let Mark { sequence, chain, state: State { vote, last, committed, purged }, is_sealed } = mark;
        self.turn += 1;
        let stored = MarkV1 { turn: self.turn, sequence, chain, is_sealed, vote, last, committed, purged };
        let bytes = berth_frame::encode_value(kind::MARK, VERSION, &stored).map_err(io::Error::other)?;
        let slot = if self.turn.is_multiple_of(2) { 0 } else { SLOT_BYTES as u64 };
        self.file.write_all_at(&bytes, slot)?;
        self.sequence = sequence;
        Ok(())
    }

    /// Replaces one slot, then the other one, on the disk.
    pub(super) fn write_both(&mut self, mark: Mark) -> io::Result<()> {
        self.write(mark)?;
        self.file.sync_all()?;
        self.write(mark)?;
        self.file.sync_all()
    }
}

fn parse(slot: &[u8]) -> Result<MarkV1, FrameError> {
    let record = berth_frame::decode(slot)?;
    let berth_frame::Header { kind, version, length: _ } = record.header;
    if (kind, version) == (kind::MARK, VERSION) {
        berth_frame::decode_body(kind, record.body)
    } else {
        Err(FrameError::Unknown { kind, version, expected_kind: kind::MARK, expected_version: VERSION })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64, is_sealed: bool) -> Mark {
        Mark { sequence, chain: sequence * 3, state: State::default(), is_sealed }
    }

    #[test]
    fn the_bytes_of_a_version_1_mark_are_these() {
        let directory = tempfile::tempdir().unwrap();
        let id = |index| Some(LogIdV1 { term: 2, index });
        let state = State {
            vote: Some(VoteV1 { term: 2, member: 1, committed: true }),
            last: id(9),
            committed: id(8),
            purged: id(7),
        };
        MarkFile::create(directory.path(), Mark { sequence: 5, chain: 300, state, is_sealed: true }).unwrap();
        let bytes = std::fs::read(directory.path().join(FILE)).unwrap();
        let body = &bytes[SLOT_BYTES + berth_frame::HEADER_BYTES..][..18];
        assert_eq!(bytes[SLOT_BYTES..][..8], *b"BRTH\x09\x01\x01\x00");
        assert_eq!(body, [1, 5, 0xac, 2, 1, 1, 2, 1, 1, 1, 2, 9, 1, 2, 8, 1, 2, 7]);
    }

    #[test]
    fn of_two_slots_the_newer_one_counts_and_if_that_is_damaged_the_older_one() {
        let directory = tempfile::tempdir().unwrap();
        MarkFile::create(directory.path(), mark(1, false)).unwrap();
        let (mut file, found) = MarkFile::open(directory.path()).unwrap();
        assert_eq!(found, mark(1, false));
        file.write(mark(2, false)).unwrap();
        file.write(mark(3, true)).unwrap();
        assert_eq!(MarkFile::open(directory.path()).unwrap().1, mark(3, true));
        let newer = if file.turn.is_multiple_of(2) { 0 } else { SLOT_BYTES as u64 };
        file.file.write_all_at(b"?", newer + 20).unwrap();
        assert_eq!(MarkFile::open(directory.path()).unwrap().1, mark(2, false));
        file.file.write_all_at(b"?", (SLOT_BYTES as u64 - newer) + 20).unwrap();
        let error = MarkFile::open(directory.path()).map(drop).unwrap_err();
        assert!(error.to_string().contains("MARK is damaged at both of its slots"), "{error}");
    }
}
