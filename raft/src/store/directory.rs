//! The data directory: what may be in it, how it comes into being, and how it is looked over at each opening.
//!
//! ```text
//! DATA/LOCK            held while a process has the directory open
//! DATA/CURRENT         whose directory it is, and which generation of the store serves; replaced by rename only
//! DATA/gen-1/          the database of that generation
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

use super::engine::{Batch, Engine};
use super::keys;
use super::log::scan_entries;
use super::record::{self, CurrentV1, IdentityV1, VERSION, kind};
use super::sled::{DATABASE_FILE, Sled, sync_directory};
use super::tail::Tail;
use crate::error::OpenError;
use crate::types::LogId;

const LOCK: &str = "LOCK";
const CURRENT: &str = "CURRENT";
const SNAPSHOTS: &str = "snapshots";

/// The only generation so far. A later one would be built beside it from the live tail of the log, so that the space of
/// purged entries is given back.
const FIRST_GENERATION: u64 = 1;

/// An opened data directory.
pub(crate) struct Directory {
    /// The database.
    pub(crate) engine: Arc<dyn Engine>,
    /// The end of the log and the small values, as found.
    pub(crate) tail: Tail,
    /// Where snapshots are kept.
    pub(crate) snapshots: PathBuf,
    /// The file that holds the records, to be named in complaints.
    pub(crate) database_file: PathBuf,
    /// Whether nothing has ever been stored.
    pub(crate) is_pristine: bool,
    /// Keeps other processes out as long as it lives.
    pub(crate) lock: File,
}

/// Opens the data directory of a member, making it if it is not there.
pub(crate) fn open(root: &Path, member: u64) -> Result<Directory, OpenError> {
    fs::create_dir_all(root).map_err(failed("make the directory", root))?;
    refuse_foreign(root)?;
    let lock = lock(root)?;
    let snapshots = root.join(SNAPSHOTS);
    fs::create_dir_all(&snapshots).map_err(failed("make the directory", &snapshots))?;
    let generation = match read_current(root, member)? {
        Some(generation) => generation,
        None => create(root, member, &snapshots)?,
    };
    let directory = generation_directory(root, generation);
    let database_file = directory.join(DATABASE_FILE);
    if !database_file.is_file() {
        let reason = format!("it is missing, although {} names it", root.join(CURRENT).display());
        return Err(OpenError::Incomplete { file: database_file, reason });
    }
    let engine = open_engine(&directory)?;
    let is_pristine = check_identity(&engine, member, &database_file)?;
    let tail = load(&engine, &database_file)?;
    Ok(Directory { engine: Arc::new(engine), tail, snapshots, database_file, is_pristine, lock })
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
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed("open", &path))?;
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
fn create(root: &Path, member: u64, snapshots: &Path) -> Result<u64, OpenError> {
    let generation = FIRST_GENERATION;
    let directory = generation_directory(root, generation);
    let missing = |reason: String| OpenError::Incomplete { file: root.join(CURRENT), reason };
    let mut kept = fs::read_dir(snapshots).map_err(failed("list the directory", snapshots))?;
    if kept.next().is_some() {
        return Err(missing(format!("it is missing, although {} is not empty", snapshots.display())));
    }
    if directory.exists() {
        let engine = open_engine(&directory)?;
        if !check_identity(&engine, member, &directory.join(DATABASE_FILE))? {
            return Err(missing(format!("it is missing, although {} holds records", directory.display())));
        }
    } else {
        let aside = root.join(format!("new-gen-{generation}"));
        if aside.exists() {
            // Never was in service: it gets its name only when it is whole.
            fs::remove_dir_all(&aside).map_err(failed("remove", &aside))?;
        }
        let engine = open_engine(&aside)?;
        let identity = berth_frame::encode_value(kind::IDENTITY, VERSION, &IdentityV1 { member });
        let mut batch = Batch::default();
        batch.put(keys::IDENTITY.to_vec(), identity.expect("an identity is always encodable"));
        engine.write(batch).and_then(|()| engine.barrier()).map_err(failed("write", &aside))?;
        drop(engine);
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
        let mut file = File::create(&aside)?;
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

fn open_engine(directory: &Path) -> Result<Sled, OpenError> {
    Sled::open(directory).map_err(|error| {
        let file = directory.join(DATABASE_FILE);
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                OpenError::Incomplete { file, reason: format!("the database cannot read it: {error}") }
            }
            _ => failed("open", &file)(error),
        }
    })
}

/// Makes sure that the database is this member's; tells whether there is nothing else in it.
fn check_identity(engine: &Sled, member: u64, file: &Path) -> Result<bool, OpenError> {
    let reading = failed("read", file);
    let mut found = None;
    engine
        .scan(keys::IDENTITY, &[keys::IDENTITY, b"\0"].concat(), &mut |_, value| {
            found = Some(value.to_vec());
            false
        })
        .map_err(&reading)?;
    let Some(record) = found else {
        // A database that lost its log opens as an empty one, without a word; this is the word.
        let reason = "the database opened, but without the record that is written first of all".to_owned();
        return Err(OpenError::Incomplete { file: file.to_owned(), reason });
    };
    let identity: IdentityV1 = berth_frame::decode_value(kind::IDENTITY, VERSION, &record)
        .map_err(|source| damaged(file, "the identity", source))?;
    if identity.member != member {
        return Err(OpenError::OtherMember { file: file.to_owned(), found: identity.member, expected: member });
    }
    let mut records = 0_usize;
    engine
        .scan(&[], &[0xff], &mut |_, _| {
            records += 1;
            records < 2
        })
        .map_err(&reading)?;
    Ok(records == 1)
}

/// Reads and checks every record.
pub(crate) fn load(engine: &dyn Engine, file: &Path) -> Result<Tail, OpenError> {
    let reading = failed("read", file);
    let get = |key: &[u8]| {
        let mut found = None;
        engine
            .scan(key, &[key, b"\0"].concat(), &mut |_, value| {
                found = Some(value.to_vec());
                false
            })
            .map(|()| found)
            .map_err(&reading)
    };
    let get_id = |key: &[u8], kind, name: &str| -> Result<Option<LogId>, OpenError> {
        get(key)?
            .map(|bytes| record::decode_log_id(kind, &bytes))
            .transpose()
            .map_err(|source| damaged(file, name, source))
    };
    let purged = get_id(keys::PURGED, kind::PURGED, "the mark of purging")?;
    let committed = get_id(keys::COMMITTED, kind::COMMITTED, "the mark of commitment")?;
    let vote = get(keys::VOTE)?
        .map(|bytes| record::decode_vote(&bytes))
        .transpose()
        .map_err(|source| damaged(file, "the vote", source))?;
    let mut tail = Tail::new(purged, committed, vote);
    let mut problem = None;
    scan_entries(engine, 0, u64::MAX, &mut |index, bytes| match check_entry(&mut tail, index, bytes, file) {
        Ok(()) => true,
        Err(error) => {
            problem = Some(error);
            false
        }
    })
    .map_err(&reading)?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    let incomplete = |reason| OpenError::Incomplete { file: file.to_owned(), reason };
    if tail.last.is_some_and(|last| last.leader_id.term > tail.vote.map_or(0, |vote| vote.leader_id().term)) {
        return Err(incomplete("the vote is missing, or older than the log".to_owned()));
    }
    Ok(tail)
}

/// Makes sure that snapshot and log meet: nothing that was committed or purged may be in neither.
pub(crate) fn check_snapshot(
    tail: &Tail,
    snapshots: &Path,
    database_file: &Path,
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
        return Err(OpenError::Incomplete { file: database_file.to_owned(), reason });
    }
    Ok(())
}

/// Checks one entry against what came before it, and takes it into the tail.
fn check_entry(tail: &mut Tail, index: u64, bytes: &[u8], file: &Path) -> Result<(), OpenError> {
    let entry = record::decode_entry(bytes).map_err(|source| damaged(file, &format!("log entry {index}"), source))?;
    let incomplete = |reason| OpenError::Incomplete { file: file.to_owned(), reason };
    if entry.log_id.index != index {
        return Err(incomplete(format!("log entry {} is stored in the place of {index}", entry.log_id.index)));
    }
    let expected = tail.last.map_or(0, |last| last.index + 1);
    if index < expected && tail.purged.is_some_and(|purged| index <= purged.index) {
        // Purged: the mark is written together with the removal, so this is rare, and harmless.
        return Ok(());
    }
    if index != expected {
        return Err(incomplete(format!("log entry {expected} is missing before {index}")));
    }
    if tail.last.is_some_and(|last| last.leader_id > entry.log_id.leader_id) {
        return Err(incomplete(format!("log entry {index} is of an older term than the one before it")));
    }
    tail.append(&[entry]);
    tail.written(index);
    Ok(())
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { action, path: path.to_owned(), source }
}

pub(crate) fn damaged(file: &Path, record: &str, source: FrameError) -> OpenError {
    OpenError::Damaged { file: file.to_owned(), record: record.to_owned(), source }
}
