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
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::OpenError;
use crate::machine::{BoxError, Encoder};
use crate::options::SnapshotPolicy;
use crate::store::directory::{damaged, failed};
use crate::store::files::{self, sync_directory};
use crate::types::{LogId, Snapshot, SnapshotMeta};

mod incoming;
mod pace;
mod stream;

use incoming::Arriving;
pub(crate) use incoming::Identity;
use pace::Pace;
use stream::{Flaw, StateReader, StateWriter};

/// The end of a snapshot file that tells it from another one: the last record is about as long, and covers all the others.
const DIGEST_BYTES: u64 = 32;

/// Bytes read at once from a snapshot that is restored or checked.
const READ_AHEAD_BYTES: usize = 256 * 1024;

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

    /// What tells this snapshot, which covers everything up to `last`, from others. Blocks.
    pub(crate) fn identity(&self, last: Option<LogId>) -> io::Result<Identity> {
        let length = self.length()?;
        let end = self.read_at(length.saturating_sub(DIGEST_BYTES), READ_AHEAD_BYTES)?;
        Ok(Identity { last, length, digest: berth_frame::crc32(&end) })
    }

    /// Bytes in the file.
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Removes a received file that was not installed.
    pub(crate) fn discard_incoming(&self) {
        if self.is_incoming {
            // Once installed it has another name. If it stays, the next opening removes it.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Where the file is, or was before a newer one replaced it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks every record and tells what the snapshot covers. Blocks.
    pub(crate) fn check(&self) -> Result<SnapshotMeta, Flaw> {
        let (meta, mut state) = self.open_state()?;
        state.finish()?;
        Ok(meta)
    }

    /// Gives the state's bytes to `restore`, and makes sure afterwards that they were whole. Blocks.
    pub(crate) fn restore(&self, restore: impl FnOnce(&mut dyn Read) -> Result<(), BoxError>) -> Result<(), BoxError> {
        let (_, mut state) = self.open_state()?;
        let restored = restore(&mut state);
        // Damage explains whatever the machine made of it.
        state.finish()?;
        restored
    }

    fn open_state(&self) -> Result<(SnapshotMeta, StateReader), Flaw> {
        StateReader::open(BufReader::with_capacity(READ_AHEAD_BYTES, At { file: Arc::clone(&self.file), offset: 0 }))
    }
}

/// A file read from a place of our own, so that many may read it at once.
struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.offset)?;
        self.offset += u64::try_from(read).expect("a buffer's length fits into 64 bits");
        Ok(read)
    }
}

/// The newest snapshot, and the directory that it is in.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    directory: PathBuf,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
    /// Tells temporary files apart.
    sequence: AtomicU64,
    arriving: Mutex<Arriving>,
    /// Held while a file is made, so that the end of that can be waited for.
    making: Mutex<()>,
    is_closed: AtomicBool,
    pub(crate) pace: Pace,
}

/// Hands bytes on until the store is closed.
struct WhileOpen<'a> {
    store: &'a SnapshotStore,
    writer: StateWriter,
}

impl Write for WhileOpen<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.store.check_open()?;
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl SnapshotStore {
    /// Opens the directory, throws unfinished files away, and reads the newest snapshot.
    pub(crate) fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_paced(directory, SnapshotPolicy::default())
    }

    /// [`open`](Self::open), with another pace for the snapshots to come.
    pub(crate) fn open_paced(directory: &Path, policy: SnapshotPolicy) -> Result<Self, OpenError> {
        let Found { newest, superseded } = list(directory)?;
        let current = newest.as_deref().map(checked).transpose()?;
        for path in superseded {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
                _ => {}
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            current: Mutex::new(current),
            sequence: AtomicU64::new(0),
            arriving: Mutex::default(),
            making: Mutex::default(),
            is_closed: AtomicBool::new(false),
            pace: Pace::new(policy),
        })
    }

    /// From now on no file is made or named, and none is in the making when this returns: the directory may be opened by
    /// someone else. Blocks.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        drop(self.working());
    }

    fn check_open(&self) -> io::Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(io::Error::other("this member is shutting down"));
        }
        Ok(())
    }

    fn working(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time for another one.
    pub(crate) fn is_due(&self) -> bool {
        self.pace.is_due(self.bytes())
    }

    /// Whether the next one cannot wait for anything.
    pub(crate) fn is_overdue(&self) -> bool {
        self.pace.is_overdue(self.bytes())
    }

    /// Bytes in the newest snapshot.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().as_ref().and_then(|(_, file)| file.length().ok()).unwrap_or_default()
    }

    /// The newest snapshot.
    pub(crate) fn current(&self) -> Option<Snapshot> {
        let current = self.lock();
        current.as_ref().map(|(meta, file)| Snapshot { meta: meta.clone(), snapshot: file.clone() })
    }

    /// Writes a snapshot and makes it the newest, unless a newer one came in between. Blocks.
    pub(crate) fn write(&self, meta: &SnapshotMeta, state: Encoder) -> io::Result<Snapshot> {
        let _working = self.working();
        self.check_open()?;
        let aside = self.aside("making");
        let written = StateWriter::create(&aside, meta).and_then(|writer| {
            let mut while_open = WhileOpen { store: self, writer };
            state(&mut while_open).map_err(io::Error::other)?;
            self.check_open()?;
            while_open.writer.finish()
        });
        if let Err(error) = written {
            // Room is what a full disk needs most; should the removal fail too, the next opening does it.
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
        self.adopt(meta, &aside)
    }

    /// Makes a received snapshot the newest, after checking all of it. Blocks.
    pub(crate) fn install(&self, meta: &SnapshotMeta, received: &SnapshotFile) -> io::Result<SnapshotFile> {
        let _working = self.working();
        self.check_open()?;
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        let path = received.path.display();
        let found = received.check().map_err(|flaw| invalid(format!("the snapshot {path} is damaged: {flaw}")))?;
        if found != *meta {
            return Err(invalid(format!("the snapshot {path} covers something else than announced")));
        }
        let is_here = received.path.starts_with(&self.directory);
        if is_here && !received.is_incoming {
            return Ok(received.clone());
        }
        let aside = if is_here { received.path.clone() } else { self.copy(received)? };
        self.adopt(meta, &aside)?;
        SnapshotFile::open(self.directory.join(name(meta.last_log_id)), false)
    }

    fn copy(&self, other: &SnapshotFile) -> io::Result<PathBuf> {
        let aside = self.aside("copy");
        let mut file = files::create(&aside)?;
        io::copy(&mut At { file: Arc::clone(&other.file), offset: 0 }, &mut file)?;
        file.sync_all()?;
        Ok(aside)
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

/// What lies in the directory of snapshots.
struct Found {
    newest: Option<PathBuf>,
    /// What a newer one has replaced, and what was never finished.
    superseded: Vec<PathBuf>,
}

fn list(directory: &Path) -> Result<Found, OpenError> {
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
    Ok(Found { newest: newest.map(|(_, path)| path), superseded })
}

/// A named snapshot file, with every record checked.
fn checked(path: &Path) -> Result<(SnapshotMeta, SnapshotFile), OpenError> {
    let file = SnapshotFile::open(path.to_owned(), false).map_err(failed("open", path))?;
    let meta = file.check().map_err(|flaw| match flaw {
        Flaw::Record { record, source } => damaged(path, &record, source),
        Flaw::Io(error) => failed("read", path)(error),
    })?;
    Ok((meta, file))
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::types::log_id;

    #[test]
    fn a_store_that_is_closed_leaves_nothing_in_the_making_and_makes_nothing_more() {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(SnapshotStore::open(root.path()).unwrap());
        let meta = SnapshotMeta { last_log_id: Some(log_id(1, 7)), ..SnapshotMeta::default() };
        let (begun, has_begun) = mpsc::channel();
        let (maker, closer) = (Arc::clone(&store), Arc::clone(&store));
        let announced = meta.clone();
        let made = thread::spawn(move || {
            let endless: Encoder = Box::new(move |out| {
                loop {
                    out.write_all(&[7; 1000])?;
                    begun.send(()).unwrap_or_default();
                }
            });
            maker.write(&announced, endless).map(drop)
        });
        has_begun.recv().unwrap();
        closer.close();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "the half of it is gone");
        assert!(made.join().unwrap().unwrap_err().to_string().contains("shutting down"));
        let small: Encoder = Box::new(|out| Ok(out.write_all(b"state")?));
        assert!(store.write(&meta, small).is_err());
        assert!(SnapshotStore::open(root.path()).unwrap().current().is_none());
    }
}
