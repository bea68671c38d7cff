//! A snapshot on its way in: kept when the connection breaks, so that the next one goes on from there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::stream::SYNC_BYTES;
use super::{SnapshotFile, SnapshotStore};
use crate::status::Progress;
use crate::store::files;
use crate::types::{LogId, Snapshot};

/// What tells one snapshot from another, also from another member's of the same entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) last: Option<LogId>,
    pub(crate) length: u64,
    pub(crate) digest: u32,
}

/// What has come of a snapshot.
#[derive(Debug)]
struct Partial {
    identity: Identity,
    path: PathBuf,
    file: File,
    received: u64,
    unsynced: u64,
}

/// What is on its way, or was when the connection broke. At most one snapshot: another one makes it worthless.
#[derive(Debug, Default)]
pub(crate) struct Arriving {
    kept: Option<Partial>,
    progress: Option<Progress>,
}

/// A snapshot that is being received. When it is dropped unfinished, what has come is kept.
#[derive(Debug)]
pub(crate) struct Incoming {
    store: Arc<SnapshotStore>,
    /// `None` at the end only.
    partial: Option<Partial>,
}

impl SnapshotStore {
    /// Begins to receive a snapshot, or goes on where an earlier connection broke. Blocks.
    pub(crate) fn receive(self: &Arc<Self>, identity: Identity) -> io::Result<Incoming> {
        let kept = self.arriving().kept.take();
        let partial = match kept {
            Some(partial) if partial.identity == identity => partial,
            other => {
                if let Some(Partial { path, .. }) = other {
                    fs::remove_file(path)?;
                }
                let path = self.aside("incoming");
                let file = files::create(&path)?;
                Partial { identity, path, file, received: 0, unsynced: 0 }
            }
        };
        let incoming = Incoming { store: Arc::clone(self), partial: Some(partial) };
        incoming.tell();
        Ok(incoming)
    }

    /// How far the snapshot is that is being received.
    pub(crate) fn receiving(&self) -> Option<Progress> {
        self.arriving().progress
    }

    fn arriving(&self) -> MutexGuard<'_, Arriving> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    fn partial(&self) -> &Partial {
        self.partial.as_ref().expect("what is received is taken at the end only")
    }

    /// Bytes that are there.
    pub(crate) fn received(&self) -> u64 {
        self.partial().received
    }

    fn tell(&self) {
        let Partial { received, identity, .. } = self.partial();
        self.store.arriving().progress = Some(Progress { bytes: *received, of: identity.length });
    }

    /// Adds the next bytes, if they are the next and whole. Blocks.
    pub(crate) fn push(&mut self, offset: u64, bytes: &[u8], crc32: u32) -> io::Result<()> {
        let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidData, message));
        let Partial { received, identity, file, unsynced, .. } =
            self.partial.as_mut().expect("what is received is taken at the end only");
        let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        if offset != *received || length > identity.length.saturating_sub(*received) {
            return invalid(format!("{length} bytes at {offset} do not follow the {received} that are there"));
        }
        if berth_frame::crc32(bytes) != crc32 {
            return invalid(format!("the {length} bytes at {offset} were damaged on their way"));
        }
        file.write_all(bytes)?;
        *received += length;
        *unsynced += length;
        // In portions, so that the log's barriers never wait behind a whole snapshot.
        if *unsynced >= SYNC_BYTES {
            *unsynced = 0;
            file.sync_data()?;
        }
        self.tell();
        Ok(())
    }

    /// Brings the file to the disk and checks every record of it. Blocks.
    pub(crate) fn finish(mut self) -> io::Result<Snapshot> {
        let Partial { path, file, .. } = self.partial.take().expect("what is received is taken at the end only");
        let finished = file.sync_all().and_then(|()| SnapshotFile::open(path.clone(), true)).and_then(|file| {
            let meta = file.check().map_err(|flaw| {
                io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot arrived damaged: {flaw}"))
            })?;
            Ok(Snapshot { meta, snapshot: file })
        });
        if finished.is_err() {
            // Worthless; should it stay, the next opening removes it.
            let _ = fs::remove_file(path);
        }
        finished
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut arriving = self.store.arriving();
        arriving.progress = None;
        if let Some(partial) = self.partial.take()
            && let Some(Partial { path, .. }) = arriving.kept.replace(partial)
        {
            // If it stays, the next opening removes it.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SnapshotMeta, log_id};

    const PIECE: usize = 100_000;

    /// A store with a snapshot of some hundred kilobytes, the file's bytes, and another store to receive it.
    fn stores() -> (tempfile::TempDir, Arc<SnapshotStore>, SnapshotFile, Vec<u8>) {
        let root = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| root.path().join(name));
        let [from, to] = [from, to].map(|directory| {
            fs::create_dir(&directory).unwrap();
            Arc::new(SnapshotStore::open(&directory).unwrap())
        });
        let state: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let meta = SnapshotMeta { last_log_id: Some(log_id(2, 9)), ..SnapshotMeta::default() };
        let file = from.write(&meta, Box::new(move |out| Ok(out.write_all(&state)?))).unwrap().snapshot;
        let bytes = fs::read(file.path()).unwrap();
        (root, to, file, bytes)
    }

    fn identity(file: &SnapshotFile) -> Identity {
        file.identity(Some(log_id(2, 9))).unwrap()
    }

    fn push(incoming: &mut Incoming, bytes: &[u8]) {
        let offset = usize::try_from(incoming.received()).unwrap();
        let piece = &bytes[offset..bytes.len().min(offset + PIECE)];
        incoming.push(incoming.received(), piece, berth_frame::crc32(piece)).unwrap();
    }

    #[test]
    fn a_broken_transfer_goes_on_where_it_broke_and_tells_how_far_it_is() {
        let (root, store, file, bytes) = stores();
        let mut incoming = store.receive(identity(&file)).unwrap();
        push(&mut incoming, &bytes);
        let of = u64::try_from(bytes.len()).unwrap();
        assert_eq!(store.receiving(), Some(Progress { bytes: 100_000, of }));
        drop(incoming);
        assert_eq!(store.receiving(), None);
        let mut incoming = store.receive(identity(&file)).unwrap();
        assert_eq!(incoming.received(), 100_000);
        while incoming.received() < of {
            push(&mut incoming, &bytes);
        }
        let snapshot = incoming.finish().unwrap();
        assert_eq!(snapshot.meta.last_log_id, Some(log_id(2, 9)));
        store.install(&snapshot.meta, &snapshot.snapshot).unwrap();
        assert_eq!(fs::read(store.current().unwrap().snapshot.path()).unwrap(), bytes);
        assert_eq!(fs::read_dir(root.path().join("to")).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_piece_that_was_damaged_or_is_not_the_next_is_refused_and_what_came_before_stays() {
        let (_root, store, file, bytes) = stores();
        let mut incoming = store.receive(identity(&file)).unwrap();
        push(&mut incoming, &bytes);
        let piece = &bytes[PIECE..2 * PIECE];
        let right = berth_frame::crc32(piece);
        let mut wrong = piece.to_vec();
        wrong[7] ^= 1;
        assert_eq!(incoming.push(100_000, &wrong, right).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(incoming.push(99_999, piece, right).is_err());
        assert!(incoming.push(100_001, piece, right).is_err());
        drop(incoming);
        assert_eq!(store.receive(identity(&file)).unwrap().received(), 100_000);
    }

    #[test]
    fn another_snapshot_starts_anew_and_one_that_is_damaged_in_itself_is_refused_at_the_end() {
        let (root, store, file, mut bytes) = stores();
        let mut incoming = store.receive(identity(&file)).unwrap();
        push(&mut incoming, &bytes);
        drop(incoming);
        let other = Identity { digest: 1, ..identity(&file) };
        let mut incoming = store.receive(other).unwrap();
        assert_eq!(incoming.received(), 0);
        bytes[50_000] ^= 1;
        while incoming.received() < identity(&file).length {
            push(&mut incoming, &bytes);
        }
        let error = incoming.finish().unwrap_err();
        assert!(error.to_string().contains("the snapshot arrived damaged: at chunk 0"), "{error}");
        assert_eq!(fs::read_dir(root.path().join("to")).unwrap().count(), 0, "nothing is left of it");
        assert!(store.current().is_none());
    }
}
