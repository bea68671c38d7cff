//! The engine on sled, with a durability barrier of our own.
//!
//! sled's `flush()` ends in `sync_file_range`, which tells the disk nothing: at an emulated power cut it lost everything
//! that was acknowledged since the file system's last own commit, and reopened empty without an error. So the barrier
//! here is `flush()`, which brings all writes into the file `db`, then `fdatasync` of that file, and an `fsync` of the
//! directories whenever files may have come into being in them.
//!
//! Two more habits of sled shape this file. A leaf of its tree, sixteen values, is written as one record, and a record above
//! about 120 KiB goes to a file of its own which the barrier would have to chase; callers therefore keep values below
//! [`MAX_VALUE_BYTES`]. And sled answers damage by panicking, which is caught here and told as an error.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::engine::{Batch, Change, Engine, Visit};

/// Longest value, in bytes: a full leaf of sixteen stays below the size at which sled would open a file for it.
pub(crate) const MAX_VALUE_BYTES: usize = 4 * 1024;

/// Memory for sled's cache of pages, in bytes. The log keeps its own tail in memory, so pages are read at a start and for
/// members far behind only.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// How long a database that was just closed may take to let go of its lock.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The file in sled's directory that holds everything.
pub(crate) const DATABASE_FILE: &str = "db";

/// sled in one directory.
#[derive(Debug)]
pub(crate) struct Sled {
    db: ::sled::Db,
    /// The file `db`, opened once more: sled keeps its own handle to itself.
    file: File,
    directory: PathBuf,
}

impl Sled {
    /// Opens the database in `directory`, making it if there is none, and brings its files' names to the disk.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let config = ::sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            // Nothing is worth writing before the barrier, and the barrier writes everything.
            .flush_every_ms(None);
        let db = open_unlocked(&config)?;
        let file = File::options().read(true).write(true).open(directory.join(DATABASE_FILE))?;
        let sled = Self { db, file, directory: directory.to_owned() };
        sled.barrier()?;
        sled.sync_directories()?;
        Ok(sled)
    }

    /// Brings the names of sled's files to the disk. With values below [`MAX_VALUE_BYTES`] no file comes into being after
    /// the opening that recovery needs.
    fn sync_directories(&self) -> io::Result<()> {
        sync_directory(&self.directory.join("blobs"))?;
        sync_directory(&self.directory)?;
        self.directory.parent().map_or(Ok(()), sync_directory)
    }
}

impl Engine for Sled {
    fn write(&self, batch: Batch) -> io::Result<()> {
        let mut changes = ::sled::Batch::default();
        for change in batch.changes {
            match change {
                Change::Put(key, value) => changes.insert(key, value),
                Change::Remove(key) => changes.remove(key),
            }
        }
        guarded("writing", || self.db.apply_batch(changes))
    }

    fn barrier(&self) -> io::Result<()> {
        guarded("flushing", || self.db.flush())?;
        self.file.sync_data()
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        guarded("reading", || {
            for pair in self.db.range(start..end) {
                let (key, value) = pair?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// `fsync` of a directory: makes the names in it durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Opens the database, waiting a moment for the lock on it. Another process is kept out by the lock on the data directory, so
/// who holds this one is a database of our own whose last background task is just ending.
fn open_unlocked(config: &::sled::Config) -> io::Result<::sled::Db> {
    let deadline = Instant::now() + UNLOCK_PATIENCE;
    loop {
        match guarded("opening", || config.open()) {
            Err(error) if error.to_string().contains("could not acquire lock") && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Runs a call into sled and turns its errors and its panics into I/O errors.
fn guarded<T>(doing: &str, call: impl FnOnce() -> ::sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::sled::Error::Io(error))) => Err(error),
        Ok(Err(error @ ::sled::Error::Corruption { .. })) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(panic) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the database gave up while {doing}: {}", panic_message(panic.as_ref())),
        )),
    }
}

/// What a caught panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked without a message".to_owned())
}
