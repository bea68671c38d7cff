//! The seam between the log and what keeps it.
//!
//! The log needs little: batches of records that are found again in their order, a barrier after which everything written
//! before survives a power cut, and entries read by their index. Tests put an engine that fails, one that keeps a diary, or
//! one in memory that loses what was not synced, in the place of the real one.

use std::io;

use berth_frame::FrameError;

use super::record::{self, LogIdV1, VERSION, VoteV1, kind};
use crate::types::{LogEntry, LogId, Vote};

/// Bytes that a frame keeps free at its beginning, for the engine's own words about it.
pub(crate) const FRAME_HEAD_BYTES: usize = berth_frame::HEADER_BYTES + 24;

/// A frame takes no more records once it is this long, in bytes: a damaged one is found before much was read.
const FRAME_BYTES: usize = 1024 * 1024;

/// Changes in the order of their making.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) frames: Vec<Frame>,
}

/// Records that are found again together or not at all.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Room for the engine's head, then the records.
    pub(crate) bytes: Vec<u8>,
    pub(crate) changes: Vec<Change>,
}

/// One change, and where its record begins in the bytes of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) offset: usize,
    pub(crate) action: Action,
}

/// What a record does to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// An entry follows the last one.
    Append(LogIdV1),
    /// The vote is this one.
    Vote(VoteV1),
    /// The log is known to be committed up to this entry.
    Commit(LogIdV1),
    /// The entries from this index on are gone, after which this one is the last.
    Truncate(u64, Option<LogIdV1>),
    /// The entries up to this one are gone.
    Purge(LogIdV1),
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How much it is, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::try_from(frame.bytes.len()).unwrap_or(u64::MAX)).sum()
    }

    pub(crate) fn append(&mut self, entry: &LogEntry) -> Result<(), FrameError> {
        self.push(Action::Append(entry.log_id.into()), |bytes| record::encode_entry_into(entry, bytes))
    }

    pub(crate) fn vote(&mut self, vote: Vote) -> Result<(), FrameError> {
        let vote = VoteV1::from(vote);
        self.push(Action::Vote(vote), |bytes| berth_frame::encode_value_into(kind::VOTE, VERSION, &vote, bytes))
    }

    pub(crate) fn commit(&mut self, id: LogId) -> Result<(), FrameError> {
        let id = LogIdV1::from(id);
        self.push(Action::Commit(id), |bytes| berth_frame::encode_value_into(kind::COMMITTED, VERSION, &id, bytes))
    }

    /// Everything after `last` is to go.
    pub(crate) fn truncate(&mut self, last: Option<LogId>) -> Result<(), FrameError> {
        let last = last.map(LogIdV1::from);
        let from = last.map_or(0, |last| last.index.saturating_add(1));
        self.push(Action::Truncate(from, last), |bytes| {
            berth_frame::encode_value_into(kind::TRUNCATED, VERSION, &last, bytes)
        })
    }

    pub(crate) fn purge(&mut self, upto: LogId) -> Result<(), FrameError> {
        let upto = LogIdV1::from(upto);
        self.push(Action::Purge(upto), |bytes| berth_frame::encode_value_into(kind::PURGED, VERSION, &upto, bytes))
    }

    fn push(
        &mut self,
        action: Action,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), FrameError>,
    ) -> Result<(), FrameError> {
        if self.frames.last().is_none_or(|frame| frame.bytes.len() >= FRAME_BYTES) {
            self.frames.push(Frame { bytes: vec![0; FRAME_HEAD_BYTES], changes: Vec::new() });
        }
        let frame = self.frames.last_mut().expect("a frame was just made if there was none");
        let offset = frame.bytes.len();
        encode(&mut frame.bytes)?;
        frame.changes.push(Change { offset, action });
        Ok(())
    }
}

/// What keeps the log. All calls block; only one thread writes.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Puts in order what a crash left. Called once, before anything that is in the log is taken for durable.
    fn begin(&self) -> io::Result<()>;

    /// Takes a batch. It is not durable before the next [`barrier`](Self::barrier).
    fn write(&self, batch: Batch) -> io::Result<()>;

    /// Returns when everything written so far survives a power cut.
    fn barrier(&self) -> io::Result<()>;

    /// Shows the records of the entries from `start` up to but not including `end`, in order and as far as there are any,
    /// until `visit` returns `false`.
    fn read(&self, start: u64, end: u64, visit: &mut Visit<'_>) -> io::Result<()>;

    /// Bytes that the log takes up.
    fn size(&self) -> u64;

    /// Notes that nothing will be written any more, so that whatever is missing later is known to be damage. Called once,
    /// after the last barrier.
    fn seal(&self) -> io::Result<()>;
}

/// Sees an index and what begins with the record of its entry; `false` ends the reading.
pub(crate) type Visit<'a> = dyn FnMut(u64, &[u8]) -> bool + 'a;
