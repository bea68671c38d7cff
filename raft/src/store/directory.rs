//! The data directory: what may be in it, how it comes into being, and how it is looked over at each opening.
//!
//! ```text
//! DATA/LOCK            held while a process has the directory open
//! DATA/CURRENT         whose directory it is, and which generation of the store serves; replaced by rename only
//! DATA/gen-1/          the log of that generation
//! DATA/snapshots/      the newest snapshot
//! ```
//!
//! A generation is built aside (`new-gen-1`), brought to the disk, renamed, and only then named in `CURRENT`. So a
//! directory without `CURRENT` has never been in service, unless someone took the file away; that is told apart by whether
//! there are records. Nothing here ever empties a directory: what does not fit is refused, with the file's name.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_frame::FrameError;

use super::engine::Engine;
use super::files::{self, sync_directory};
use super::record::{CurrentV1, VERSION, kind};
use super::tail::Tail;
use super::wal::{self, Sizes};
use crate::error::OpenError;
use crate::types::LogId;

const LOCK: &str = "LOCK";
const CURRENT: &str = "CURRENT";
const SNAPSHOTS: &str = "snapshots";

/// The only generation so far. One with another layout would be built beside it.
const FIRST_GENERATION: u64 = 1;

/// An opened data directory.
pub(crate) struct Directory {
    /// The log.
    pub(crate) engine: Arc<dyn Engine>,
    /// The end of the log and the small values, as found.
    pub(crate) tail: Tail,
    /// Where snapshots are kept.
    pub(crate) snapshots: PathBuf,
    /// The directory that holds the records, to be named in complaints.
    pub(crate) log: PathBuf,
    /// Whether nothing has ever been stored.
    pub(crate) is_pristine: bool,
    /// Keeps other processes out as long as it lives.
    pub(crate) lock: File,
}

/// Opens the data directory of a member, making it if it is not there. In one that is there, nothing is changed.
pub(crate) fn open(root: &Path, member: u64) -> Result<Directory, OpenError> {
    open_sized(root, member, Sizes::SHIPPED)
}

/// [`open`] with files of other sizes.
pub(crate) fn open_sized(root: &Path, member: u64, sizes: Sizes) -> Result<Directory, OpenError> {
    if root.is_dir() {
        refuse_foreign(root)?;
    }
    files::create_directory(root).map_err(failed("make the directory", root))?;
    let lock = lock(root)?;
    let snapshots = root.join(SNAPSHOTS);
    files::create_directory(&snapshots).map_err(failed("make the directory", &snapshots))?;
    let generation = match read_current(root, member)? {
        Some(generation) => generation,
        None => create(root, member, sizes, &snapshots)?,
    };
    let log = generation_directory(root, generation);
    if !log.is_dir() {
        let reason = format!("it is missing, although {} names it", root.join(CURRENT).display());
        return Err(OpenError::Incomplete { file: log, reason });
    }
    let wal::Opened { wal, tail, is_pristine } = wal::open(&log, member, sizes)?;
    Ok(Directory { engine: Arc::new(wal), tail, snapshots, log, is_pristine, lock })
}

/// Whether a member ever served from this directory.
pub(crate) fn was_in_service(root: &Path) -> bool {
    root.join(CURRENT).is_file()
}

/// Refuses a directory in which there is anything that we would not have put there.
fn refuse_foreign(root: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(root).map_err(failed("list the directory", root))? {
        let name = entry.map_err(failed("list the directory", root))?.file_name();
        let name = name.to_string_lossy();
        let is_generation = |name: &str| name.strip_prefix("gen-").is_some_and(|number| number.parse::<u64>().is_ok());
        let is_ours = [LOCK, CURRENT, "CURRENT.new", SNAPSHOTS, "lost+found"].contains(&name.as_ref())
            || is_generation(&name)
            || name.strip_prefix("new-").is_some_and(is_generation);
        if !is_ours {
            return Err(OpenError::Foreign { path: root.to_owned(), reason: format!("it contains {name:?}") });
        }
    }
    Ok(())
}

fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join(LOCK);
    let file = files::open_or_create(&path).map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { file: path }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

/// Which generation serves; `None` if none ever did.
fn read_current(root: &Path, member: u64) -> Result<Option<u64>, OpenError> {
    let path = root.join(CURRENT);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let current: CurrentV1 =
        berth_frame::decode_value(kind::CURRENT, VERSION, &bytes).map_err(|source| match source {
            FrameError::BadMagic { .. } => {
                OpenError::Foreign { path: root.to_owned(), reason: format!("its {CURRENT} is not ours: {source}") }
            }
            source => damaged(&path, "its only record", source),
        })?;
    if current.member == member {
        Ok(Some(current.generation))
    } else {
        Err(OpenError::OtherMember { file: path, found: current.member, expected: member })
    }
}

/// Brings the first generation into being, or finishes what a crash during that left.
fn create(root: &Path, member: u64, sizes: Sizes, snapshots: &Path) -> Result<u64, OpenError> {
    let generation = FIRST_GENERATION;
    let directory = generation_directory(root, generation);
    let missing = |reason: String| OpenError::Incomplete { file: root.join(CURRENT), reason };
    let mut kept = fs::read_dir(snapshots).map_err(failed("list the directory", snapshots))?;
    if kept.next().is_some() {
        return Err(missing(format!("it is missing, although {} is not empty", snapshots.display())));
    }
    if directory.exists() {
        if !wal::open(&directory, member, sizes)?.is_pristine {
            return Err(missing(format!("it is missing, although {} holds records", directory.display())));
        }
    } else {
        let aside = root.join(format!("new-gen-{generation}"));
        if aside.exists() {
            // Never was in service: it gets its name only when it is whole.
            fs::remove_dir_all(&aside).map_err(failed("remove", &aside))?;
        }
        files::create_directory(&aside).map_err(failed("make the directory", &aside))?;
        wal::create(&aside, member, sizes).map_err(failed("write", &aside))?;
        fs::rename(&aside, &directory).map_err(failed("rename", &aside))?;
        sync_directory(root).map_err(failed("sync", root))?;
    }
    write_current(root, &CurrentV1 { member, generation })?;
    Ok(generation)
}

fn write_current(root: &Path, current: &CurrentV1) -> Result<(), OpenError> {
    let aside = root.join("CURRENT.new");
    let bytes = berth_frame::encode_value(kind::CURRENT, VERSION, current).expect("two numbers are always encodable");
    let write = || {
        let mut file = files::create(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&aside, root.join(CURRENT))?;
        sync_directory(root)?;
        root.parent().map_or(Ok(()), |parent| {
            sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
        })
    };
    write().map_err(failed("write", &aside))
}

fn generation_directory(root: &Path, generation: u64) -> PathBuf {
    root.join(format!("gen-{generation}"))
}

/// Makes sure that snapshot and log meet: nothing that was committed or purged may be in neither.
pub(crate) fn check_snapshot(
    tail: &Tail,
    snapshots: &Path,
    log: &Path,
    snapshot: Option<LogId>,
) -> Result<(), OpenError> {
    let Tail { purged, committed, last, .. } = tail;
    let index = |id: &Option<LogId>| id.map(|id| id.index);
    let covered = index(&snapshot);
    if *purged > snapshot {
        let reason =
            format!("the log was purged up to {:?}, but the newest snapshot covers {covered:?}", index(purged));
        return Err(OpenError::Incomplete { file: snapshots.to_owned(), reason });
    }
    if *committed > (*last).max(snapshot) {
        let reason = format!("the log ends at {:?}, although {:?} was committed", index(last), index(committed));
        return Err(OpenError::Incomplete { file: log.to_owned(), reason });
    }
    Ok(())
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { action, path: path.to_owned(), source }
}

pub(crate) fn damaged(file: &Path, record: &str, source: FrameError) -> OpenError {
    OpenError::Damaged { file: file.to_owned(), record: record.to_owned(), source }
}
