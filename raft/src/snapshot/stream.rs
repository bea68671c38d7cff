//! The records of a snapshot file, written and read as a stream of the state's bytes.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use berth_frame::{FrameError, HEADER_BYTES, Header, Record};

use super::At;
use crate::machine::BoxError;
use crate::store::files;
use crate::store::record::{SnapshotEndV1, VERSION, decode_snapshot_header, encode_snapshot_header, kind};
use crate::types::SnapshotMeta;

/// Bytes of state in one record: small enough that a damaged one is found before much is read, large enough to cost nothing.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Bytes written before they are brought to the disk: in portions, so that the log's barriers never wait behind a whole
/// snapshot.
pub(super) const SYNC_BYTES: u64 = 8 * 1024 * 1024;

/// What keeps a snapshot file from being believed.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// It cannot be read.
    Io(io::Error),
    /// A record of it is not what was written.
    Record {
        /// Which one.
        record: String,
        /// What is wrong with it.
        source: FrameError,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(formatter, "it cannot be read: {error}"),
            Self::Record { record, source } => write!(formatter, "at {record}: {source}"),
        }
    }
}

impl From<Flaw> for BoxError {
    fn from(flaw: Flaw) -> Self {
        flaw.to_string().into()
    }
}

/// Writes the file of a snapshot; the state's bytes go through [`Write`].
pub(super) struct StateWriter {
    file: File,
    chunk: Vec<u8>,
    end: SnapshotEndV1,
    unsynced: u64,
}

impl StateWriter {
    pub(super) fn create(path: &Path, meta: &SnapshotMeta) -> io::Result<Self> {
        let mut file = files::create(path)?;
        file.write_all(&encode_snapshot_header(meta).map_err(io::Error::other)?)?;
        let end = SnapshotEndV1 { chunks: 0, bytes: 0, crc32: berth_frame::crc32(&[]) };
        Ok(Self { file, chunk: Vec::with_capacity(CHUNK_BYTES), end, unsynced: 0 })
    }

    /// Ends the file and brings it to the disk.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end_chunk()?;
        let end = berth_frame::encode_value(kind::SNAPSHOT_END, VERSION, &self.end).map_err(io::Error::other)?;
        self.file.write_all(&end)?;
        self.file.sync_all()
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let record = berth_frame::encode(kind::SNAPSHOT_CHUNK, VERSION, &self.chunk).map_err(io::Error::other)?;
        self.file.write_all(&record)?;
        let SnapshotEndV1 { chunks, bytes, crc32 } = &mut self.end;
        let length = u64::try_from(self.chunk.len()).map_err(io::Error::other)?;
        *chunks += 1;
        *bytes += length;
        *crc32 = berth_frame::crc32_continued(*crc32, &self.chunk);
        self.chunk.clear();
        self.unsynced += length;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl Write for StateWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == CHUNK_BYTES {
            self.end_chunk()?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Chunks are of one size whatever the machine flushes; the end brings them all to the disk.
        Ok(())
    }
}

/// Reads the state's bytes out of a snapshot file, checking each record before it gives any of them.
pub(super) struct StateReader {
    from: BufReader<At>,
    /// The record last read.
    record: Vec<u8>,
    /// How much of it was given.
    given: usize,
    found: SnapshotEndV1,
    is_at_end: bool,
}

impl StateReader {
    /// Reads what the snapshot covers, and stands before its state.
    pub(super) fn open(from: BufReader<At>) -> Result<(SnapshotMeta, Self), Flaw> {
        let found = SnapshotEndV1 { chunks: 0, bytes: 0, crc32: berth_frame::crc32(&[]) };
        let mut reader = Self { from, record: Vec::new(), given: 0, found, is_at_end: false };
        let at_header = |source| Flaw::Record { record: "its header".to_owned(), source };
        let record = read_record(&mut reader.from, &mut reader.record, "its header")?;
        let meta = decode_snapshot_header(&record).map_err(at_header)?;
        reader.given = reader.record.len();
        Ok((meta, reader))
    }

    /// Reads on to the end, so that every record was checked.
    pub(super) fn finish(&mut self) -> Result<(), Flaw> {
        while !self.is_at_end {
            self.next_record()?;
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<(), Flaw> {
        let place = format!("chunk {}", self.found.chunks);
        let record = read_record(&mut self.from, &mut self.record, &place)?;
        let Header { kind, version, length } = record.header;
        let unexpected = |record: &str, expected_kind| {
            let source = FrameError::Unknown { kind, version, expected_kind, expected_version: VERSION };
            Flaw::Record { record: record.to_owned(), source }
        };
        if version != VERSION {
            return Err(unexpected(&place, kind));
        }
        match kind {
            kind::SNAPSHOT_CHUNK => {
                let SnapshotEndV1 { chunks, bytes, crc32 } = &mut self.found;
                *chunks += 1;
                *bytes += u64::from(length);
                *crc32 = berth_frame::crc32_continued(*crc32, record.body);
                self.given = HEADER_BYTES;
                Ok(())
            }
            kind::SNAPSHOT_END => {
                let at_end = |source| Flaw::Record { record: "its end".to_owned(), source };
                let end: SnapshotEndV1 = berth_frame::decode_body(kind, record.body).map_err(at_end)?;
                if end != self.found {
                    let reason = format!("it announces {end:?}, and there is {:?}", self.found);
                    return Err(at_end(FrameError::Body { kind, reason }));
                }
                let extra = io::copy(&mut self.from, &mut io::sink()).map_err(Flaw::Io)?;
                if extra > 0 {
                    return Err(at_end(FrameError::Trailing { extra: usize::try_from(extra).unwrap_or(usize::MAX) }));
                }
                self.given = self.record.len();
                self.is_at_end = true;
                Ok(())
            }
            _ => Err(unexpected(&place, kind::SNAPSHOT_CHUNK)),
        }
    }
}

impl Read for StateReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.record.len() {
            if self.is_at_end {
                return Ok(0);
            }
            self.next_record().map_err(|flaw| io::Error::new(io::ErrorKind::InvalidData, flaw.to_string()))?;
        }
        let taken = into.len().min(self.record.len() - self.given);
        into[..taken].copy_from_slice(&self.record[self.given..self.given + taken]);
        self.given += taken;
        Ok(taken)
    }
}

/// Reads one whole record into `buffer` and checks it.
fn read_record<'a>(from: &mut impl Read, buffer: &'a mut Vec<u8>, place: &str) -> Result<Record<'a>, Flaw> {
    let flawed = |source| Flaw::Record { record: place.to_owned(), source };
    buffer.clear();
    let mut needed = HEADER_BYTES;
    loop {
        let missing = u64::try_from(needed - buffer.len()).expect("a buffer's length fits into 64 bits");
        from.by_ref().take(missing).read_to_end(buffer).map_err(Flaw::Io)?;
        let available = buffer.len();
        match berth_frame::decode(buffer) {
            // The header says how long the body is; it is read if the file goes that far.
            Err(FrameError::Truncated { needed: more, .. }) if available == needed && more > needed => needed = more,
            Ok(_) => break,
            Err(error) => return Err(flawed(error)),
        }
    }
    berth_frame::decode(buffer).map_err(flawed)
}
