//! One file of the log: its name, its header, and where in it entries are.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::engine::Action;
use crate::store::files;
use crate::store::record::{LogIdV1, VERSION, VoteV1, kind};

/// Bytes of zeros written at once while a file is prepared.
const ZEROS: usize = 1024 * 1024;

/// What the records before some point add up to, apart from the entries themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) vote: Option<VoteV1>,
    /// The end of the log.
    pub(super) last: Option<LogIdV1>,
    pub(super) committed: Option<LogIdV1>,
    pub(super) purged: Option<LogIdV1>,
}

impl State {
    /// Adds a change.
    pub(super) fn take(&mut self, action: Action) {
        match action {
            Action::Append(id) => self.last = Some(id),
            Action::Vote(vote) => self.vote = Some(vote),
            Action::Commit(id) => self.committed = Some(id),
            Action::Truncate(_, last) => self.last = last,
            Action::Purge(upto) => {
                self.purged = Some(upto);
                if self.last.is_none_or(|last| last.index < upto.index) {
                    self.last = Some(upto);
                }
            }
        }
    }
}

/// The first record of a file. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentHeaderV1 {
    pub(super) number: u64,
    pub(super) member: u64,
    /// Bytes that the file has.
    pub(super) bytes: u32,
    /// The last frame before this file.
    pub(super) sequence: u64,
    pub(super) chain: u64,
    pub(super) vote: Option<VoteV1>,
    pub(super) last: Option<LogIdV1>,
    pub(super) committed: Option<LogIdV1>,
    pub(super) purged: Option<LogIdV1>,
}

impl SegmentHeaderV1 {
    pub(super) fn state(&self) -> State {
        State { vote: self.vote, last: self.last, committed: self.committed, purged: self.purged }
    }
}

/// A file that is part of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    /// Bytes that the file has.
    pub(super) bytes: u32,
    /// The index of the first entry in it that is still of the log.
    pub(super) first: u64,
    /// Where the entries from `first` on begin.
    pub(super) offsets: Vec<u32>,
    /// The highest index of an entry that was ever written to it.
    pub(super) highest: Option<u64>,
    /// Bytes written so far.
    pub(super) end: u32,
}

impl Segment {
    pub(super) fn new(number: u64, file: File, bytes: u32, end: u32) -> Self {
        Self { number, file: Arc::new(file), bytes, first: 0, offsets: Vec::new(), highest: None, end }
    }

    /// Turns a prepared file into the next one of the log, on the disk; its new name is yet to be synced.
    pub(super) fn begin(spare: &Path, path: &Path, number: u64, bytes: u32, header: &[u8]) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(spare)?;
        file.write_all_at(header, 0)?;
        file.sync_data()?;
        fs::rename(spare, path)?;
        let end = u32::try_from(header.len()).map_err(io::Error::other)?;
        Ok(Self::new(number, file, bytes, end))
    }

    pub(super) fn holds(&self, index: u64) -> bool {
        index.checked_sub(self.first).is_some_and(|skip| skip < self.offsets.len() as u64)
    }

    pub(super) fn push(&mut self, index: u64, offset: u32) {
        if self.offsets.is_empty() {
            self.first = index;
        }
        self.offsets.push(offset);
        self.highest = self.highest.max(Some(index));
    }

    /// Forgets the entries from `from` on.
    pub(super) fn truncate(&mut self, from: u64) {
        self.offsets.truncate(usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX));
    }

    /// Forgets the entries up to `upto`.
    pub(super) fn purge(&mut self, upto: u64) {
        if upto >= self.first {
            let gone = usize::try_from(upto - self.first + 1).unwrap_or(usize::MAX).min(self.offsets.len());
            self.offsets.drain(..gone);
            self.offsets.shrink_to(self.offsets.len() * 2);
            self.first = upto + 1;
        }
    }
}

/// The name of the file with this number.
pub(super) fn name(number: u64) -> String {
    format!("{number:016}.wal")
}

/// The number in a name that [`name`] gave.
pub(super) fn parse_name(text: &str) -> Option<u64> {
    let number = text.strip_suffix(".wal")?.parse().ok()?;
    (name(number) == text).then_some(number)
}

/// The bytes of a file's header.
pub(super) fn header(number: u64, member: u64, bytes: u32, sequence: u64, chain: u64, state: State) -> Vec<u8> {
    let State { vote, last, committed, purged } = state;
    let header = SegmentHeaderV1 { number, member, bytes, sequence, chain, vote, last, committed, purged };
    berth_frame::encode_value(kind::SEGMENT, VERSION, &header).expect("a few numbers are always encodable")
}

/// Makes a file of zeros and brings it to the disk; if that fails, there is none.
pub(super) fn prepare(path: &Path, bytes: u32) -> io::Result<()> {
    let fill = || {
        let file = files::create(path)?;
        let zeros = vec![0; ZEROS.min(usize::try_from(bytes).map_err(io::Error::other)?)];
        let mut at = 0;
        while at < bytes {
            let length = zeros.len().min(usize::try_from(bytes - at).map_err(io::Error::other)?);
            file.write_all_at(&zeros[..length], u64::from(at))?;
            at += u32::try_from(length).map_err(io::Error::other)?;
        }
        file.sync_all()
    };
    fill().inspect_err(|_| {
        // Half a file is of no use, and its room is needed; if it stays, the next opening removes it.
        let _ = fs::remove_file(path);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_version_1_header_are_these() {
        let id = |index| Some(LogIdV1 { term: 2, index });
        let state = State {
            vote: Some(VoteV1 { term: 2, member: 1, committed: true }),
            last: id(9),
            committed: id(8),
            purged: id(7),
        };
        let bytes = header(4, 3, 300, 5, 6, state);
        assert_eq!(bytes[..8], *b"BRTH\x08\x01\x01\x00");
        assert_eq!(bytes[berth_frame::HEADER_BYTES..], [4, 3, 0xac, 2, 5, 6, 1, 2, 1, 1, 1, 2, 9, 1, 2, 8, 1, 2, 7]);
    }

    #[test]
    fn names_are_told_from_others() {
        assert_eq!(parse_name(&name(17)), Some(17));
        assert_eq!(parse_name("17.wal"), None);
        assert_eq!(parse_name("0000000000000017.log"), None);
    }

    #[test]
    fn entries_are_forgotten_at_both_ends() {
        let mut segment = Segment::new(1, tempfile::tempfile().unwrap(), 4096, 0);
        (10..20).for_each(|index| segment.push(index, u32::try_from(index).unwrap() * 100));
        segment.purge(12);
        segment.truncate(18);
        segment.purge(5);
        assert_eq!((segment.first, segment.offsets.as_slice()), (13, [1300, 1400, 1500, 1600, 1700].as_slice()));
        assert!(segment.holds(13) && segment.holds(17) && !segment.holds(12) && !segment.holds(18));
        segment.truncate(3);
        segment.push(3, 2000);
        assert!(segment.holds(3) && !segment.holds(4));
        assert_eq!(segment.highest, Some(19));
        segment.purge(30);
        segment.push(31, 2100);
        assert!(segment.holds(31));
    }
}
