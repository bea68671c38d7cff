//! The write-ahead log: one stream of frames in files of one size.
//!
//! ```text
//! gen-1/MARK                    how far the stream is durable, in two slots written in turn
//! gen-1/0000000000000007.wal    header, frame, frame, … zeros
//! gen-1/spare.new               the next file, being filled with zeros
//!
//! frame   sequence, chain before it, how far the stream was durable when it was written; then records
//! header  number of the file, whose it is; sequence, chain, vote, commitment, purge and end of the log at its beginning
//! ```
//!
//! Everything is appended: entries, votes, truncations, purges. Files are filled with zeros before they are used, so that a
//! barrier is one `fdatasync` without a change of the file's size, and a full disk is met when a file is prepared and not in
//! the middle of a write. Since each header repeats what is not an entry, a file can be deleted once its entries are purged.
//!
//! What is missing is noticed. Each frame is numbered and carries the chain of all before it, and the mark says how far there
//! must be frames: it is written after each barrier, before anyone hears of it. It is not synced then (a killed process loses
//! nothing that it wrote; after a power cut an older mark still says something true), but when the store is closed, and then it
//! is a seal: nothing may follow. Only what lies behind the mark and was never under a barrier may be torn.

mod frame;
mod mark;
mod recovery;
mod segment;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::engine::{Action, Batch, Change, Engine, Frame, Visit};
use super::files::sync_directory;
use super::record::LogIdV1;
use frame::FrameHead;
use mark::{Mark, MarkFile};
use recovery::Repair;
pub(super) use recovery::{Opened, create, open};
use segment::{Segment, State};

/// How large the files of the log are, in bytes. Each is twice as large as the one before it, up to the limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) first: u32,
    pub(crate) most: u32,
}

impl Sizes {
    /// A small cluster stays small; a busy one fills a file in a second or two, so that purged entries give their room back
    /// soon.
    pub(crate) const SHIPPED: Self = Self { first: 1024 * 1024, most: 16 * 1024 * 1024 };

    /// How large the file with this number is, which must hold `needed` bytes besides its header.
    fn of(self, number: u64, needed: u32) -> u32 {
        let doublings = number.saturating_sub(1).min(16);
        let regular = (u64::from(self.first) << doublings).min(u64::from(self.most));
        let regular = u32::try_from(regular).expect("it is at most the limit, which fits");
        regular.max(needed.saturating_add(HEADER_ROOM).checked_next_power_of_two().unwrap_or(u32::MAX))
    }
}

/// More than a header takes, in bytes.
const HEADER_ROOM: u32 = 512;

/// Bytes read at once when entries are read back.
const READ_BYTES: usize = 256 * 1024;

/// The file that is being prepared.
const SPARE: &str = "spare.new";

/// A write-ahead log in one directory.
#[derive(Debug)]
pub(crate) struct Wal {
    directory: PathBuf,
    member: u64,
    sizes: Sizes,
    segments: Mutex<VecDeque<Segment>>,
    writer: Mutex<Writer>,
}

/// Where the stream ends, and what it added up to.
#[derive(Debug)]
struct Writer {
    /// The file that is written to: the last one.
    file: Arc<File>,
    number: u64,
    /// How long it is.
    bytes: u32,
    /// Where its next frame goes.
    position: u32,
    /// The number of the last frame.
    sequence: u64,
    chain: u64,
    /// The number of the last frame that is known to be durable.
    durable: u64,
    state: State,
    mark: MarkFile,
    /// Whether the mark says that nothing follows.
    is_sealed: bool,
    /// What is to be done before anything is written.
    repair: Option<Repair>,
    spare: Option<JoinHandle<io::Result<u32>>>,
    /// An error leaves the end of the file in doubt, so nothing is written behind it.
    has_failed: bool,
}

impl Wal {
    fn segments(&self) -> MutexGuard<'_, VecDeque<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what writes. After an error nothing is written any more: the end of the log is in doubt until it is opened again.
    fn writing<T>(&self, work: impl FnOnce(&mut Writer) -> io::Result<T>) -> io::Result<T> {
        let mut writer = self.writer();
        if writer.has_failed {
            return Err(io::Error::other("an earlier write failed; the log must be opened again"));
        }
        let result = work(&mut writer);
        writer.has_failed = result.is_err();
        result
    }

    fn write_frame(&self, writer: &mut Writer, mut frame: Frame) -> io::Result<()> {
        if writer.is_sealed || writer.repair.is_some() {
            return Err(io::Error::other("the log was not opened for writing"));
        }
        let length = u32::try_from(frame.bytes.len()).map_err(io::Error::other)?;
        let head = FrameHead { sequence: writer.sequence + 1, previous: writer.chain, durable: writer.durable };
        if writer.position.checked_add(length).is_none_or(|end| end > writer.bytes) {
            self.rotate(writer, length)?;
        }
        // A rotation may have made more durable than the head says; it says too little then, which is allowed.
        let chain = head.seal(&mut frame.bytes).map_err(io::Error::other)?;
        writer.file.write_all_at(&frame.bytes, u64::from(writer.position))?;
        writer.sequence = head.sequence;
        writer.chain = chain;
        let mut segments = self.segments();
        for Change { offset, action } in frame.changes {
            writer.state.take(action);
            let offset = u32::try_from(offset).map_err(io::Error::other)?;
            index(&mut segments, writer.position + offset, action);
        }
        writer.position += length;
        if let Some(segment) = segments.back_mut() {
            segment.end = writer.position;
        }
        drop(segments);
        if writer.spare.is_none() && writer.position > writer.bytes / 2 {
            self.start_spare(writer);
        }
        Ok(())
    }

    /// Brings the last file to the disk and begins the next one, which is to hold a frame of `needed` bytes.
    fn rotate(&self, writer: &mut Writer, needed: u32) -> io::Result<()> {
        writer.file.sync_data()?;
        writer.durable = writer.sequence;
        let number = writer.number + 1;
        let bytes = self.sizes.of(number, needed);
        let spare = self.directory.join(SPARE);
        let prepared = match writer.spare.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("preparing a file panicked"))),
            None => Ok(0),
        };
        if prepared.ok() != Some(bytes) {
            // There may be room by now, and if not, this is the error to tell.
            segment::prepare(&spare, bytes)?;
        }
        let path = segment_path(&self.directory, number);
        let header = segment::header(number, self.member, bytes, writer.sequence, writer.chain, writer.state);
        let segment = Segment::begin(&spare, &path, number, bytes, &header)?;
        sync_directory(&self.directory)?;
        writer.number = number;
        writer.bytes = bytes;
        writer.file = Arc::clone(&segment.file);
        writer.position = segment.end;
        self.segments().push_back(segment);
        Ok(())
    }

    /// Prepares the next file beside, so that nobody waits for it.
    fn start_spare(&self, writer: &mut Writer) {
        let spare = self.directory.join(SPARE);
        let bytes = self.sizes.of(writer.number + 1, 0);
        // Without a thread the file is prepared when it is needed.
        writer.spare = std::thread::Builder::new()
            .name("raft-spare".to_owned())
            .spawn(move || segment::prepare(&spare, bytes).map(|()| bytes))
            .ok();
    }

    /// Deletes the files of which all entries are purged, oldest first.
    fn delete_purged(&self, purged: Option<LogIdV1>) -> io::Result<()> {
        let Some(purged) = purged else { return Ok(()) };
        loop {
            let mut segments = self.segments();
            let may_go = segments.len() > 1
                && segments
                    .front()
                    .is_some_and(|segment| segment.highest.is_none_or(|highest| highest <= purged.index));
            let Some(segment) = may_go.then(|| segments.pop_front()).flatten() else { return Ok(()) };
            drop(segments);
            fs::remove_file(self.directory.join(segment::name(segment.number)))?;
        }
    }

    /// Where up to `limit` consecutive entries from `index` on are found, in one file.
    fn locate(&self, index: u64, limit: usize) -> Option<(Arc<File>, Vec<u32>, u32)> {
        let segments = self.segments();
        let segment = segments.iter().find(|segment| segment.holds(index))?;
        let skip = usize::try_from(index - segment.first).ok()?;
        let offsets = segment.offsets.iter().skip(skip).take(limit).copied().collect();
        Some((Arc::clone(&segment.file), offsets, segment.end))
    }
}

/// Takes a change into the index of where entries are.
fn index(segments: &mut VecDeque<Segment>, position: u32, action: Action) {
    match action {
        Action::Append(id) => {
            if let Some(segment) = segments.back_mut() {
                segment.push(id.index, position);
            }
        }
        Action::Truncate(from, _) => segments.iter_mut().for_each(|segment| segment.truncate(from)),
        Action::Purge(upto) => segments.iter_mut().for_each(|segment| segment.purge(upto.index)),
        Action::Vote(_) | Action::Commit(_) => {}
    }
}

impl Engine for Wal {
    fn begin(&self) -> io::Result<()> {
        self.begin_writing()
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        self.writing(|writer| batch.frames.into_iter().try_for_each(|frame| self.write_frame(writer, frame)))
    }

    fn barrier(&self) -> io::Result<()> {
        self.writing(|writer| {
            if writer.durable < writer.sequence || writer.mark.sequence() < writer.sequence {
                writer.file.sync_data()?;
                writer.durable = writer.sequence;
                let mark =
                    Mark { sequence: writer.sequence, chain: writer.chain, state: writer.state, is_sealed: false };
                writer.mark.write(mark)?;
                self.delete_purged(writer.state.purged)?;
            }
            Ok(())
        })
    }

    fn read(&self, start: u64, end: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        let mut next = start;
        while next < end {
            let limit = usize::try_from(end - next).unwrap_or(usize::MAX).min(4096);
            let Some((file, offsets, stop)) = self.locate(next, limit) else { return Ok(()) };
            let mut window: Vec<u8> = Vec::new();
            let mut window_at = 0;
            for offset in offsets {
                let mut skip = usize::try_from(offset - window_at).map_err(io::Error::other)?;
                if needed(window.get(skip..).unwrap_or_default()) > window.len().saturating_sub(skip) {
                    window_at = offset;
                    skip = 0;
                    read_window(&file, offset, stop, READ_BYTES, &mut window)?;
                    let whole = needed(&window);
                    if whole > window.len() {
                        read_window(&file, offset, stop, whole, &mut window)?;
                    }
                }
                if !visit(next, &window[skip..]) {
                    return Ok(());
                }
                next += 1;
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        let used: u64 = self.segments().iter().map(|segment| u64::from(segment.bytes)).sum();
        let writer = self.writer();
        let spare = writer.spare.as_ref().map_or(0, |_| self.sizes.of(writer.number + 1, 0));
        used + u64::from(spare)
    }

    fn seal(&self) -> io::Result<()> {
        self.begin_writing()?;
        self.writing(|writer| {
            writer.file.sync_data()?;
            writer.durable = writer.sequence;
            let mark = Mark { sequence: writer.sequence, chain: writer.chain, state: writer.state, is_sealed: true };
            writer.mark.write_both(mark)?;
            writer.is_sealed = true;
            Ok(())
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(thread) = self.spare.take() {
            // Whether it went well is of no more interest; but it must not write into a directory that others open.
            let _ = thread.join();
        }
    }
}

/// Bytes that the record at the beginning of `bytes` has, as far as that can be told.
fn needed(bytes: &[u8]) -> usize {
    match berth_frame::decode(bytes) {
        Err(berth_frame::FrameError::Truncated { needed, .. }) => needed,
        Ok(_) | Err(_) => 0,
    }
}

/// Reads up to `length` bytes from `offset` on, not beyond `stop`.
fn read_window(file: &File, offset: u32, stop: u32, length: usize, window: &mut Vec<u8>) -> io::Result<()> {
    let rest = usize::try_from(stop.saturating_sub(offset)).map_err(io::Error::other)?;
    window.resize(length.min(rest), 0);
    file.read_exact_at(window, u64::from(offset))
}

/// The path of the log's file with this number.
fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(segment::name(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_grow_up_to_the_limit_and_beyond_it_only_for_what_would_not_fit() {
        let sizes = |numbers: [u64; 5]| numbers.map(|number| Sizes::SHIPPED.of(number, 0) / 1024 / 1024);
        assert_eq!(sizes([1, 2, 4, 5, 6]), [1, 2, 8, 16, 16]);
        assert_eq!(sizes([13, 17, 33, 65, u64::MAX]), [16; 5]);
        assert_eq!(Sizes::SHIPPED.of(1, 5 * 1024 * 1024), 8 * 1024 * 1024);
        assert_eq!(Sizes::SHIPPED.of(9, 16 * 1024 * 1024), 32 * 1024 * 1024);
    }
}
