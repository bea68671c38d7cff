//! Opens a log: reads every frame, and tells an end that was torn from one that is missing.
//!
//! Reading changes nothing, so a log that is refused is left as it was found. What has to be put in order is done by
//! [`Wal::begin_writing`], once the whole directory was found good.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use berth_frame::FrameError;

use super::frame::{self, Found};
use super::mark::{self, Mark, MarkFile};
use super::segment::{self, Segment, SegmentHeaderV1, State};
use super::{SPARE, Sizes, Wal, Writer, index, segment_path};
use crate::error::OpenError;
use crate::store::directory::{damaged, failed};
use crate::store::engine::{Action, FRAME_HEAD_BYTES};
use crate::store::files::sync_directory;
use crate::store::record::{self, LogIdV1, VERSION, kind};
use crate::store::tail::Tail;
use crate::types::LogEntry;

/// What is to be written before anything new is: the end of the last file, as it was read.
#[derive(Debug)]
pub(super) struct Repair {
    at: u32,
    bytes: Vec<u8>,
    leftovers: Vec<PathBuf>,
}

/// A log that was found good.
pub(crate) struct Opened {
    pub(crate) wal: Wal,
    pub(crate) tail: Tail,
    /// Whether nothing was ever written to it.
    pub(crate) is_pristine: bool,
}

/// Makes an empty log in a directory that is there, on the disk.
pub(crate) fn create(directory: &Path, member: u64, sizes: Sizes) -> io::Result<()> {
    let spare = directory.join(SPARE);
    let bytes = sizes.of(1, 0);
    segment::prepare(&spare, bytes)?;
    let header = segment::header(1, member, bytes, 0, 0, State::default());
    Segment::begin(&spare, &segment_path(directory, 1), 1, bytes, &header)?;
    MarkFile::create(directory, Mark { sequence: 0, chain: 0, state: State::default(), is_sealed: true })?;
    sync_directory(directory)
}

/// Opens the log in a directory, and changes nothing in it.
pub(crate) fn open(directory: &Path, member: u64, sizes: Sizes) -> Result<Opened, OpenError> {
    let (numbers, mut leftovers) = list(directory)?;
    let (mark_file, mark) = MarkFile::open(directory)?;
    let run = last_run(&numbers);
    leftovers.extend(numbers[..numbers.len() - run.len()].iter().map(|&number| segment_path(directory, number)));
    let mut replay: Option<Replay> = None;
    let mut end = None;
    for (place, &number) in run.iter().enumerate() {
        let path = segment_path(directory, number);
        let (file, bytes) = read_file(&path)?;
        let (header, header_bytes) = parse_header(&path, number, member, &bytes)?;
        let replay = match &mut replay {
            Some(replay) => replay,
            None => replay.insert(Replay::new(&header, mark)),
        };
        replay.check_header(&path, &header)?;
        let position = u32::try_from(header_bytes).map_err(|error| failed("read", &path)(io::Error::other(error)))?;
        replay.segments.push_back(Segment::new(number, file, header.bytes, position));
        let stop = replay.frames(&path, &bytes, header_bytes)?;
        if place + 1 == run.len() {
            replay.check_end(&path, &bytes, &stop)?;
            end = Some((path, header.bytes, bytes, stop));
        } else if let Some(problem) = stop.problem {
            return Err(damaged(&path, &format!("frame {}", replay.sequence + 1), problem));
        }
    }
    let (Some(replay), Some((path, file_bytes, bytes, stop))) = (replay, end) else {
        return Err(OpenError::Incomplete {
            file: directory.to_owned(),
            reason: "there is no file of the log in it".to_owned(),
        });
    };
    replay.check_whole(&path)?;
    let unmarked = replay.unmarked.unwrap_or(stop.position);
    let used = stop.position + used(&bytes[stop.position..]);
    let mut rewritten = bytes[unmarked..used].to_vec();
    rewritten[stop.position - unmarked..].fill(0);
    let offset = |position: usize| u32::try_from(position).expect("positions in a file of the log fit into 32 bits");
    let repair = Repair { at: offset(unmarked), bytes: rewritten, leftovers };
    let Replay { segments, tail, state, sequence, chain, .. } = replay;
    let last = segments.back().expect("there is a file, for it was read");
    let writer = Writer {
        file: Arc::clone(&last.file),
        number: last.number,
        bytes: file_bytes,
        position: offset(stop.position),
        sequence,
        chain,
        durable: mark.sequence.min(sequence),
        state,
        mark: mark_file,
        is_sealed: mark.is_sealed,
        repair: Some(repair),
        spare: None,
        has_failed: false,
    };
    let wal = Wal {
        directory: directory.to_owned(),
        member,
        sizes,
        segments: Mutex::new(segments),
        writer: Mutex::new(writer),
    };
    Ok(Opened { wal, tail, is_pristine: sequence == 0 })
}

impl Wal {
    /// Puts in order what a crash left, and breaks the seal: from now on the end may be torn.
    ///
    /// The end behind the mark is written once more. Its barrier may have failed, in which case the system shows bytes
    /// that the disk does not have and never will.
    pub(super) fn begin_writing(&self) -> io::Result<()> {
        self.writing(|writer| {
            let Some(Repair { at, bytes, leftovers }) = writer.repair.take() else { return Ok(()) };
            for path in leftovers {
                fs::remove_file(path)?;
            }
            writer.file.write_all_at(&bytes, u64::from(at))?;
            writer.file.sync_data()?;
            writer.durable = writer.sequence;
            writer.is_sealed = false;
            let mark = Mark { sequence: writer.sequence, chain: writer.chain, state: writer.state, is_sealed: false };
            writer.mark.write_both(mark)?;
            self.delete_purged(writer.state.purged)
        })
    }
}

/// The numbers of the log's files, sorted, and files that are of no use any more.
fn list(directory: &Path) -> Result<(Vec<u64>, Vec<PathBuf>), OpenError> {
    let reading = failed("list the directory", directory);
    let mut numbers = Vec::new();
    let mut leftovers = Vec::new();
    for item in fs::read_dir(directory).map_err(&reading)? {
        let path = item.map_err(&reading)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(number) = segment::parse_name(&name) {
            numbers.push(number);
        } else if name == SPARE {
            leftovers.push(path);
        } else if name != mark::FILE {
            return Err(OpenError::Foreign { path: directory.to_owned(), reason: format!("it contains {name:?}") });
        }
    }
    numbers.sort_unstable();
    Ok((numbers, leftovers))
}

/// The numbers without a gap up to the last one. Files before a gap were about to be deleted; if the gap is where something
/// is missing, the entries in it are.
fn last_run(numbers: &[u64]) -> &[u64] {
    let start = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]).map_or(0, |gap| gap + 1);
    &numbers[start..]
}

fn read_file(path: &Path) -> Result<(File, Vec<u8>), OpenError> {
    let read = || {
        let file = File::options().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length.min(MAX_FILE_BYTES)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok((file, bytes))
    };
    read().map_err(failed("read", path))
}

/// A file that is longer than this is none of ours; so much is read of it at most.
const MAX_FILE_BYTES: usize = 128 * 1024 * 1024;

/// Reads the header of a file; gives its length too.
fn parse_header(path: &Path, number: u64, member: u64, bytes: &[u8]) -> Result<(SegmentHeaderV1, usize), OpenError> {
    let broken = |source| damaged(path, "its header", source);
    let record = berth_frame::decode(bytes).map_err(broken)?;
    let berth_frame::Header { kind, version, length: _ } = record.header;
    if (kind, version) != (kind::SEGMENT, VERSION) {
        let unknown = FrameError::Unknown { kind, version, expected_kind: kind::SEGMENT, expected_version: VERSION };
        return Err(broken(unknown));
    }
    let header: SegmentHeaderV1 = berth_frame::decode_body(kind, record.body).map_err(broken)?;
    let incomplete = |reason| Err(OpenError::Incomplete { file: path.to_owned(), reason });
    if header.member != member {
        return Err(OpenError::OtherMember { file: path.to_owned(), found: header.member, expected: member });
    }
    if header.number != number {
        return incomplete(format!("it was file {} of the log when it was written", header.number));
    }
    if bytes.len() as u64 != u64::from(header.bytes) {
        return incomplete(format!("it has {} bytes, and not {}", bytes.len(), header.bytes));
    }
    Ok((header, berth_frame::HEADER_BYTES + record.body.len()))
}

/// Where the frames of a file end, and why, unless nothing follows.
struct Stop {
    position: usize,
    problem: Option<FrameError>,
}

/// The stream as far as it was read.
struct Replay {
    segments: VecDeque<Segment>,
    tail: Tail,
    state: State,
    /// The end of the log before the first file.
    before: Option<LogIdV1>,
    sequence: u64,
    chain: u64,
    mark: Mark,
    /// The chain at the mark, once that was reached.
    marked_chain: Option<u64>,
    /// Where the first frame behind the mark begins, in the last file read.
    unmarked: Option<usize>,
}

impl Replay {
    fn new(header: &SegmentHeaderV1, mark: Mark) -> Self {
        let state = header.state();
        let mut tail =
            Tail::new(state.purged.map(Into::into), state.committed.map(Into::into), state.vote.map(Into::into));
        tail.last = state.last.map(Into::into);
        Self {
            segments: VecDeque::new(),
            tail,
            state,
            before: state.last,
            sequence: header.sequence,
            chain: header.chain,
            mark,
            // A mark from before the first file cannot be compared any more: files go only once the mark is beyond them,
            // but after a power cut the mark may be an old one.
            marked_chain: (mark.sequence < header.sequence).then_some(mark.chain),
            unmarked: None,
        }
    }

    /// Makes sure that a file goes on where the one before it ended.
    fn check_header(&mut self, path: &Path, header: &SegmentHeaderV1) -> Result<(), OpenError> {
        if (header.sequence, header.chain, header.state()) != (self.sequence, self.chain, self.state) {
            let reason = format!(
                "it goes on after frame {}, but the file before it ends with frame {}",
                header.sequence, self.sequence
            );
            return Err(OpenError::Incomplete { file: path.to_owned(), reason });
        }
        self.pass_mark();
        self.unmarked = None;
        Ok(())
    }

    fn pass_mark(&mut self) {
        if self.sequence == self.mark.sequence {
            self.marked_chain = Some(self.chain);
        }
    }

    /// Reads the frames of a file as far as they go on in the stream.
    fn frames(&mut self, path: &Path, bytes: &[u8], mut position: usize) -> Result<Stop, OpenError> {
        loop {
            let rest = &bytes[position..];
            let problem = match frame::decode(rest) {
                Ok(found) if found.head.sequence == self.sequence + 1 && found.head.previous == self.chain => {
                    if self.unmarked.is_none() && found.head.sequence > self.mark.sequence {
                        self.unmarked = Some(position);
                    }
                    self.take(path, position, &found)?;
                    position += found.length;
                    if let Some(segment) = self.segments.back_mut() {
                        segment.end = u32::try_from(position).unwrap_or(u32::MAX);
                    }
                    continue;
                }
                Ok(found) => Some(FrameError::Body {
                    kind: kind::BATCH,
                    reason: format!("frame {} is in the place of frame {}", found.head.sequence, self.sequence + 1),
                }),
                Err(_) if used(rest) == 0 => None,
                Err(error) => Some(error),
            };
            return Ok(Stop { position, problem });
        }
    }

    /// Takes over what a frame says.
    fn take(&mut self, path: &Path, position: usize, found: &Found<'_>) -> Result<(), OpenError> {
        let broken = |source| damaged(path, &format!("frame {}", found.head.sequence), source);
        let mut rest = found.records;
        while !rest.is_empty() {
            let offset = position + FRAME_HEAD_BYTES + (found.records.len() - rest.len());
            let record = berth_frame::decode(rest).map_err(broken)?;
            let bytes = &rest[..rest.len() - record.rest.len()];
            rest = record.rest;
            let (action, entry) = parse(record.header.kind, bytes).map_err(broken)?;
            if let Some(entry) = entry {
                self.append(path, entry)?;
            }
            match action {
                Action::Append(_) => {}
                Action::Vote(vote) => self.tail.vote = Some(vote.into()),
                Action::Commit(id) => self.tail.committed = Some(id.into()),
                Action::Truncate(from, last) => {
                    self.tail.truncate_after(last.map(Into::into));
                    self.tail.truncated(from);
                }
                Action::Purge(upto) => self.tail.purge(upto.into()),
            }
            self.state.take(action);
            index(&mut self.segments, u32::try_from(offset).unwrap_or(u32::MAX), action);
        }
        self.sequence = found.head.sequence;
        self.chain = found.chain;
        self.pass_mark();
        Ok(())
    }

    /// Takes an entry into the end of the log, if it fits there.
    fn append(&mut self, path: &Path, entry: LogEntry) -> Result<(), OpenError> {
        let id = entry.log_id;
        let incomplete = |reason| Err(OpenError::Incomplete { file: path.to_owned(), reason });
        let expected = self.tail.last.map_or(0, |last| last.index + 1);
        if id.index != expected {
            return incomplete(format!("log entry {expected} is missing before {}", id.index));
        }
        if self.tail.last.is_some_and(|last| last.leader_id > id.leader_id) {
            return incomplete(format!("log entry {expected} is of an older term than the one before it"));
        }
        self.tail.append(&[entry]);
        self.tail.written(id.index);
        Ok(())
    }

    /// Makes sure that the stream reaches as far as it must, and that what follows its end may be torn.
    fn check_end(&self, path: &Path, bytes: &[u8], stop: &Stop) -> Result<(), OpenError> {
        let Mark { sequence: marked, chain: _, state: _, is_sealed } = self.mark;
        let next = self.sequence + 1;
        if let Some(problem) = &stop.problem {
            let is_lost = next <= marked;
            let rest = &bytes[stop.position..];
            let was_durable = || find_durable(&rest[..used(rest)], next);
            if is_lost || is_sealed || was_durable() {
                return Err(damaged(path, &format!("frame {next}"), problem.clone()));
            }
        }
        let incomplete = |reason| Err(OpenError::Incomplete { file: path.to_owned(), reason });
        if self.sequence < marked {
            return incomplete(format!("it ends with frame {}, although frame {marked} was written", self.sequence));
        }
        if is_sealed && self.sequence > marked {
            return incomplete(format!("it was closed after frame {marked}, and goes on to frame {}", self.sequence));
        }
        if self.marked_chain != Some(self.mark.chain) {
            return incomplete(format!("up to frame {marked} it is not the log that was written"));
        }
        if self.sequence == marked && self.state != self.mark.state {
            return incomplete(format!("at frame {marked} it does not add up to what was noted then"));
        }
        Ok(())
    }

    /// Makes sure that no file is missing at the beginning, and that the vote fits the log.
    fn check_whole(&self, path: &Path) -> Result<(), OpenError> {
        let incomplete = |reason| Err(OpenError::Incomplete { file: path.to_owned(), reason });
        if self.before.map(|before| before.index) > self.state.purged.map(|purged| purged.index) {
            let purged = self.state.purged.map_or(0, |purged| purged.index + 1);
            return incomplete(format!(
                "the files before it are missing, and with them the log from entry {purged} on"
            ));
        }
        let term = self.tail.vote.map_or(0, |vote| vote.leader_id().term);
        if self.tail.last.is_some_and(|last| last.leader_id.term > term) {
            return incomplete("the vote is missing, or older than the log".to_owned());
        }
        Ok(())
    }
}

/// What a record does, and its entry if it is one.
fn parse(kind: u16, bytes: &[u8]) -> Result<(Action, Option<LogEntry>), FrameError> {
    let value = match kind {
        kind::ENTRY => {
            let entry = record::decode_entry(bytes)?;
            return Ok((Action::Append(entry.log_id.into()), Some(entry)));
        }
        kind::VOTE => Action::Vote(berth_frame::decode_value(kind, VERSION, bytes)?),
        kind::COMMITTED => Action::Commit(berth_frame::decode_value(kind, VERSION, bytes)?),
        kind::PURGED => Action::Purge(berth_frame::decode_value(kind, VERSION, bytes)?),
        kind::TRUNCATED => {
            let last: Option<LogIdV1> = berth_frame::decode_value(kind, VERSION, bytes)?;
            Action::Truncate(last.map_or(0, |last| last.index.saturating_add(1)), last)
        }
        _ => {
            return Err(FrameError::Unknown {
                kind,
                version: VERSION,
                expected_kind: kind::ENTRY,
                expected_version: VERSION,
            });
        }
    };
    Ok((value, None))
}

/// Bytes up to the last block in which there is anything but zeros.
fn used(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let blocks = bytes.chunks(ZEROS.len());
    let last = blocks.clone().rposition(|block| *block != ZEROS[..block.len()]);
    last.map_or(0, |last| ((last + 1) * ZEROS.len()).min(bytes.len()))
}

/// Whether behind a damaged frame there is a whole one that says that frame `number` was durable.
fn find_durable(bytes: &[u8], number: u64) -> bool {
    let magic = &berth_frame::MAGIC;
    let mut at = 1;
    while let Some(found) =
        bytes.get(at..).and_then(|rest| rest.windows(magic.len()).position(|window| window == magic))
    {
        at += found;
        let is_proof = |found: Found<'_>| found.head.sequence > number && found.head.durable >= number;
        if frame::decode(&bytes[at..]).is_ok_and(is_proof) {
            return true;
        }
        at += 1;
    }
    false
}
