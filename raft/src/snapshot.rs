//! Snapshot files: written aside, checked, renamed, and sent as they are.
//!
//! ```text
//! header record      what the snapshot covers
//! chunk record …     the state machine's bytes in pieces, each with its checksum
//! end record         how many chunks and bytes there must be, and the checksum of them all
//! ```
//!
//! A file gets its name only when all of it is on the disk, so a named file is whole, and one that is not is damage. The
//! transport sends the very bytes of the file; the receiver checks every record before it believes any.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_frame::{FrameError, Record};

use crate::error::OpenError;
use crate::store::directory::{damaged, failed};
use crate::store::record::{SnapshotEndV1, SnapshotHeaderV1, VERSION, kind};
use crate::store::sled::sync_directory;
use crate::types::{LogId, Snapshot, SnapshotMeta};

/// Bytes of state in one record: small enough that a damaged one is found before much is read, large enough to cost nothing.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A snapshot file that stays readable while this is kept, even if a newer one has replaced it meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    /// Received from another member, and not yet installed.
    is_incoming: bool,
}

impl SnapshotFile {
    fn open(path: PathBuf, is_incoming: bool) -> io::Result<Self> {
        let file = Arc::new(File::open(&path)?);
        Ok(Self { path, file, is_incoming })
    }

    /// Reads up to `length` bytes from `offset` on; fewer only at the end of the file.
    pub(crate) fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let position = offset + u64::try_from(filled).expect("a buffer's length fits into 64 bits");
            match self.file.read_at(&mut bytes[filled..], position)? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.file.metadata()?.len()).map_err(io::Error::other)?;
        self.read_at(0, length)
    }
}

/// The newest snapshot, and the directory that it is in.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    directory: PathBuf,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
    /// Tells temporary files apart.
    sequence: AtomicU64,
}

impl SnapshotStore {
    /// Opens the directory, throws unfinished files away, and reads the newest snapshot.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Option<Restored>), OpenError> {
        let mut newest: Option<((u64, u64), PathBuf)> = None;
        let mut superseded = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed("list the directory", directory))? {
            let path = entry.map_err(failed("list the directory", directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.strip_suffix(".new").is_some() {
                superseded.push(path);
            } else if let Some(order) = parse_name(&name) {
                match &mut newest {
                    Some((best, best_path)) if *best < order => {
                        superseded.push(std::mem::replace(best_path, path));
                        *best = order;
                    }
                    Some(_) => superseded.push(path),
                    None => newest = Some((order, path)),
                }
            } else {
                return Err(OpenError::Foreign { path: directory.to_owned(), reason: format!("it contains {name:?}") });
            }
        }
        let mut restored = None;
        let mut current = None;
        if let Some((_, path)) = newest {
            let file = SnapshotFile::open(path.clone(), false).map_err(failed("open", &path))?;
            let bytes = file.read().map_err(failed("read", &path))?;
            let (meta, state) = parse(&bytes).map_err(|(record, source)| damaged(&path, &record, source))?;
            current = Some((meta.clone(), file));
            restored = Some(Restored { meta, state, path });
        }
        for path in superseded {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        let store = Self { directory: directory.to_owned(), current: Mutex::new(current), sequence: AtomicU64::new(0) };
        Ok((store, restored))
    }

    /// The newest snapshot.
    pub(crate) fn current(&self) -> Option<Snapshot> {
        let current = self.lock();
        current.as_ref().map(|(meta, file)| Snapshot { meta: meta.clone(), snapshot: file.clone() })
    }

    /// Writes a snapshot and makes it the newest, unless a newer one came in between. Blocks.
    pub(crate) fn write(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<Snapshot> {
        let aside = self.aside("making");
        let mut file = File::create(&aside)?;
        write_records(&mut file, meta, state)?;
        file.sync_all()?;
        drop(file);
        self.adopt(meta, &aside)
    }

    /// Makes a received snapshot the newest, after checking all of it, and returns the state in it. Blocks.
    pub(crate) fn install(&self, meta: &SnapshotMeta, received: &SnapshotFile) -> io::Result<Vec<u8>> {
        let bytes = received.read()?;
        let (found, state) = parse(&bytes).map_err(|(record, error)| {
            let message = format!("the snapshot {} is damaged at {record}: {error}", received.path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        if found != *meta {
            let message = format!("the snapshot {} covers something else than announced", received.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if received.is_incoming && received.path.starts_with(&self.directory) {
            self.adopt(meta, &received.path)?;
        } else {
            self.write(meta, &state)?;
        }
        Ok(state)
    }

    /// A file that bytes from another member go to. Blocks.
    pub(crate) fn receive(&self) -> io::Result<Incoming> {
        let path = self.aside("incoming");
        let file = File::create(&path)?;
        Ok(Incoming { path: Some(path), file })
    }

    /// Gives a finished file its name, and removes the one it replaces.
    fn adopt(&self, meta: &SnapshotMeta, aside: &Path) -> io::Result<Snapshot> {
        let mut current = self.lock();
        let path = self.directory.join(name(meta.last_log_id));
        if let Some((newer, file)) = &*current
            && newer.last_log_id > meta.last_log_id
        {
            fs::remove_file(aside)?;
            return Ok(Snapshot { meta: newer.clone(), snapshot: file.clone() });
        }
        fs::rename(aside, &path)?;
        sync_directory(&self.directory)?;
        let file = SnapshotFile::open(path.clone(), false)?;
        let old = current.replace((meta.clone(), file.clone()));
        if let Some((_, old)) = old
            && old.path != path
        {
            // It is of no more use; should its name outlive a crash, the next opening removes it.
            fs::remove_file(&old.path)?;
        }
        Ok(Snapshot { meta: meta.clone(), snapshot: file })
    }

    fn aside(&self, purpose: &str) -> PathBuf {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        self.directory.join(format!("{purpose}-{number}.new"))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(SnapshotMeta, SnapshotFile)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found at the opening.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: Vec<u8>,
    pub(crate) path: PathBuf,
}

/// A snapshot on its way in. Removed if it is dropped unfinished.
#[derive(Debug)]
pub(crate) struct Incoming {
    path: Option<PathBuf>,
    file: File,
}

impl Incoming {
    /// Adds the next bytes. Blocks.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Brings the file to the disk and checks every record of it. Blocks.
    pub(crate) fn finish(mut self) -> io::Result<Snapshot> {
        self.file.sync_all()?;
        let path = self.path.as_ref().expect("the path is taken at the end only").clone();
        let file = SnapshotFile::open(path, true)?;
        let bytes = file.read()?;
        let (meta, _) = parse(&bytes).map_err(|(record, error)| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot arrived damaged at {record}: {error}"))
        })?;
        self.path = None;
        Ok(Snapshot { meta, snapshot: file })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // If it stays, the next opening removes it.
            let _ = fs::remove_file(path);
        }
    }
}

fn write_records(file: &mut File, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
    let header = berth_frame::encode_value(kind::SNAPSHOT_HEADER, VERSION, &SnapshotHeaderV1::from(meta));
    file.write_all(&header.map_err(io::Error::other)?)?;
    let mut chunks = 0;
    for chunk in state.chunks(CHUNK_BYTES) {
        file.write_all(&berth_frame::encode(kind::SNAPSHOT_CHUNK, VERSION, chunk).map_err(io::Error::other)?)?;
        chunks += 1;
    }
    let bytes = u64::try_from(state.len()).map_err(io::Error::other)?;
    let end = SnapshotEndV1 { chunks, bytes, crc32: berth_frame::crc32(state) };
    file.write_all(&berth_frame::encode_value(kind::SNAPSHOT_END, VERSION, &end).map_err(io::Error::other)?)
}

/// Checks a whole snapshot file and takes it apart; an error names the record.
fn parse(bytes: &[u8]) -> Result<(SnapshotMeta, Vec<u8>), (String, FrameError)> {
    let at = |record: &str| {
        let record = record.to_owned();
        move |error| (record, error)
    };
    let next = |bytes| -> Result<Record<'_>, FrameError> {
        let record = berth_frame::decode(bytes)?;
        let berth_frame::Header { kind, version, length: _ } = record.header;
        if version == VERSION {
            Ok(record)
        } else {
            Err(FrameError::Unknown { kind, version, expected_kind: kind, expected_version: VERSION })
        }
    };
    let unexpected = |record: &Record<'_>, expected_kind| FrameError::Unknown {
        kind: record.header.kind,
        version: record.header.version,
        expected_kind,
        expected_version: VERSION,
    };
    let header = next(bytes).map_err(at("its header"))?;
    if header.header.kind != kind::SNAPSHOT_HEADER {
        return Err(at("its header")(unexpected(&header, kind::SNAPSHOT_HEADER)));
    }
    let meta: SnapshotHeaderV1 =
        berth_frame::decode_body(kind::SNAPSHOT_HEADER, header.body).map_err(at("its header"))?;
    let meta = meta.into_meta().map_err(at("its header"))?;
    let mut state = Vec::new();
    let mut chunks = 0_u64;
    let mut rest = header.rest;
    loop {
        let place = format!("chunk {chunks}");
        let record = next(rest).map_err(at(&place))?;
        rest = record.rest;
        match record.header.kind {
            kind::SNAPSHOT_CHUNK => {
                state.extend_from_slice(record.body);
                chunks += 1;
            }
            kind::SNAPSHOT_END => {
                let end: SnapshotEndV1 =
                    berth_frame::decode_body(kind::SNAPSHOT_END, record.body).map_err(at("its end"))?;
                let bytes = u64::try_from(state.len()).unwrap_or(u64::MAX);
                let found = SnapshotEndV1 { chunks, bytes, crc32: berth_frame::crc32(&state) };
                if end != found {
                    let reason = format!("it announces {end:?}, and there is {found:?}");
                    return Err(at("its end")(FrameError::Body { kind: kind::SNAPSHOT_END, reason }));
                }
                if !rest.is_empty() {
                    return Err(at("its end")(FrameError::Trailing { extra: rest.len() }));
                }
                return Ok((meta, state));
            }
            _ => return Err(at(&place)(unexpected(&record, kind::SNAPSHOT_CHUNK))),
        }
    }
}

/// The name of a snapshot up to `last`: sorts by index, then by term.
fn name(last: Option<LogId>) -> String {
    let (index, term) = last.map_or((0, 0), |last| (last.index, last.leader_id.term));
    format!("{index:020}-{term:020}.snapshot")
}

fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (index, term) = name.strip_suffix(".snapshot")?.split_once('-')?;
    Some((index.parse().ok()?, term.parse().ok()?))
}
