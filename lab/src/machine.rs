//! What all labs on a machine share: their numbers, and the kernel's one pool of hugepages.
//!
//! A lab owns its number by a lock on `/run/berth-lab/N.lock` while something is changing it, and by the record beside it,
//! `N.json`, while it is kept without an owner. A lock ends with its process whatever kills that, so a record that says
//! "changing", or that names an owner, without a lock on it is of a lab that died, and is cleaned by whoever comes next.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{At as _, Error, Result};
use crate::plan::NUMBERS;
use crate::process::{Identity, poll};
use crate::up::available_memory;

/// Where labs are registered.
pub(crate) const FOLDER: &str = "/run/berth-lab";

const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// What there may be of a number: a record, one that was being written, and the lock, which goes last.
const FILES: [&str; 3] = ["json", UNFINISHED, "lock"];

/// The extension of files that are being written.
const UNFINISHED: &str = "new";

/// What a lab's record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) state_dir: PathBuf,
    /// Whether it lives on without an owner.
    pub(crate) keep: bool,
    /// Whether it is whole: false while it goes up or down.
    pub(crate) whole: bool,
    /// The machine's boot in which it was made.
    pub(crate) boot: String,
    /// The process that holds the lock, or held it last.
    pub(crate) owner: Option<Identity>,
}

impl Record {
    /// Whether a lab of this record, which nobody holds the lock of, lives.
    fn lives(&self, boot: &str) -> bool {
        self.keep && self.whole && self.boot == boot
    }
}

/// Present boot of the machine.
pub(crate) fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).map(|text| text.trim().to_owned()).at("read", path)
}

/// The exclusive right to change a lab.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) number: u8,
    _lock: Flock<File>,
}

/// Takes a lock on a file that others may remove meanwhile: only a lock on what is at the path afterwards counts.
fn lock(path: &Path, open: impl Fn() -> io::Result<File>, arg: FlockArg) -> Result<Option<Flock<File>>> {
    loop {
        let file = open().at("open", path)?;
        let held = match Flock::lock(file, arg) {
            Ok(held) => held,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, Errno::EINTR)) => continue,
            Err((_, error)) => return Err(error).at("lock", path),
        };
        let same = |now: fs::Metadata, then: fs::Metadata| (now.dev(), now.ino()) == (then.dev(), then.ino());
        if let (Ok(now), Ok(then)) = (fs::metadata(path), held.metadata())
            && same(now, then)
        {
            return Ok(Some(held));
        }
    }
}

/// Takes the lock of one lab, unless another process has it.
///
/// The lock of a process that was killed is held for a moment longer by a child that had not yet become another program.
pub(crate) fn claim(number: u8) -> Result<Option<Claim>> {
    let owner_lives = || {
        let owner = record(number)?.and_then(|record| record.owner);
        Ok(owner.is_none_or(Identity::is_alive))
    };
    let limit = std::time::Duration::from_secs(10);
    let answer = poll(limit, || match try_claim(number) {
        Ok(None) => match owner_lives() {
            Ok(true) => Some(Ok(None)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        },
        taken => Some(taken),
    });
    answer.unwrap_or(Ok(None))
}

fn try_claim(number: u8) -> Result<Option<Claim>> {
    let path = file(number, "lock");
    let open = || {
        fs::create_dir_all(FOLDER)?;
        OpenOptions::new().create(true).truncate(false).write(true).open(&path)
    };
    Ok(lock(&path, open, FlockArg::LockExclusiveNonblock)?.map(|held| Claim { number, _lock: held }))
}

impl Claim {
    pub(crate) fn record(&self) -> Result<Option<Record>> {
        record(self.number)
    }

    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        store(&file(self.number, "json"), record)
    }

    /// Gives the number back: removes the lab's files while the lock is still held.
    pub(crate) fn release(self) -> Result<()> {
        for kind in FILES {
            remove_file(&file(self.number, kind))?;
        }
        Ok(())
    }
}

/// What is registered under a number.
pub(crate) fn record(number: u8) -> Result<Option<Record>> {
    load(&file(number, "json"))
}

/// Numbers that have files, in ascending order.
pub(crate) fn registered() -> Vec<u8> {
    let mut numbers: Vec<u8> = fs::read_dir(FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.split_once('.')?.0.parse().ok())
        .filter(|number| *number < NUMBERS)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Whether the lab of this claim, just taken, is dead: unfinished, without its owner, or from before a restart.
///
/// `None` if there is no record.
pub(crate) fn is_dead(claim: &Claim) -> Result<Option<bool>> {
    let boot = boot()?;
    Ok(claim.record()?.map(|record| !record.lives(&boot)))
}

/// The files of one number that exist.
pub(crate) fn files(number: u8) -> Vec<PathBuf> {
    FILES.into_iter().map(|kind| file(number, kind)).filter(|path| path.exists()).collect()
}

fn file(number: u8, kind: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{number}.{kind}"))
}

/// The right to change what labs share: held for moments, never while a lab waits for something.
#[derive(Debug)]
pub(crate) struct Machine {
    _lock: Flock<File>,
}

/// How hugepages are divided between the machine and its labs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pool {
    boot: String,
    /// What the machine had before the first lab.
    before: u64,
    /// What each lab needs.
    labs: BTreeMap<u8, u64>,
}

impl Pool {
    fn wanted(&self) -> u64 {
        self.labs.values().fold(self.before, |sum, pages| sum.saturating_add(*pages))
    }
}

#[expect(clippy::unused_self, reason = "holding the lock is what permits these")]
impl Machine {
    /// Waits for the right.
    pub(crate) fn lock() -> Result<Self> {
        let path = Path::new(FOLDER);
        let open = || {
            fs::create_dir_all(path)?;
            File::open(path)
        };
        let held = lock(path, open, FlockArg::LockExclusive)?.expect("a blocking lock is granted");
        Ok(Self { _lock: held })
    }

    /// Sets what lab `number` needs of the pool, and the pool to what all need together.
    ///
    /// The account is written first and says absolute numbers, so that doing it again after a crash at any point ends in
    /// the same state. On an error nothing is changed.
    pub(crate) fn set_hugepages(&self, number: u8, pages: u64) -> Result<()> {
        let path = pool_file();
        let boot = boot()?;
        let before = load::<Pool>(&path)?.filter(|pool| pool.boot == boot);
        let mut pool = match &before {
            Some(pool) => pool.clone(),
            None if pages == 0 => return remove_file(&path),
            None => Pool { boot, before: nr_hugepages()?, labs: BTreeMap::new() },
        };
        if pages == 0 {
            pool.labs.remove(&number);
        } else {
            pool.labs.insert(number, pages);
        }
        let wanted = pool.wanted();
        if pages > 0 {
            store(&path, &pool)?;
        }
        // The kernel would try, and press everything else out of memory, before it gives less than it was asked for.
        let now = nr_hugepages()?;
        let possible = wanted.saturating_sub(now).saturating_mul(2 << 20) < available_memory()?;
        let given = if possible { ask_kernel(wanted)? } else { now };
        if given < wanted {
            let back = before.as_ref().map_or(pool.before, Pool::wanted);
            fs::write(POOL, back.to_string()).at("write", POOL)?;
            match &before {
                Some(before) => store(&path, before)?,
                None => remove_file(&path)?,
            }
            return Err(Error::Hugepages { wanted, given });
        }
        if pool.labs.is_empty() { remove_file(&path) } else { store(&path, &pool) }
    }

    /// Pages that the account holds for lab `number`.
    pub(crate) fn hugepages(&self, number: u8) -> Result<u64> {
        Ok(load::<Pool>(&pool_file())?.and_then(|pool| pool.labs.get(&number).copied()).unwrap_or(0))
    }

    /// Removes the folder of the registry, and that of network namespaces, if nothing is in them.
    pub(crate) fn tidy(&self) -> Result<()> {
        // `ip netns add` makes its folder a mount of its own and never takes that away.
        let namespaces = Path::new("/run/netns");
        if fs::read_dir(namespaces).is_ok_and(|mut entries| entries.next().is_none()) {
            while nix::mount::umount2(namespaces, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
            remove_empty(namespaces)?;
        }
        remove_file(&unfinished(&pool_file()))?;
        remove_empty(Path::new(FOLDER))
    }
}

fn pool_file() -> PathBuf {
    Path::new(FOLDER).join("hugepages.json")
}

pub(crate) fn nr_hugepages() -> Result<u64> {
    let text = fs::read_to_string(POOL).at("read", POOL)?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData)).at("understand", POOL)
}

/// Sets the pool and says what the kernel gave. Memory in pieces is put together and asked for again.
fn ask_kernel(wanted: u64) -> Result<u64> {
    let mut given = nr_hugepages()?;
    for _ in 0..4 {
        if given == wanted {
            break;
        }
        fs::write(POOL, wanted.to_string()).at("write", POOL)?;
        let now = nr_hugepages()?;
        if now >= wanted {
            return Ok(now);
        }
        given = now;
        // An advice; kernels built without compaction lack the file.
        drop(fs::write("/proc/sys/vm/compact_memory", "1"));
    }
    Ok(given)
}

pub(crate) fn load<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Damaged { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", path),
    }
}

/// The name that a file has while it is being written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension(UNFINISHED)
}

/// Writes a file in one step: there is the old one or the new one, never a part.
pub(crate) fn store<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).expect("the lab's records are plain values with string keys");
    let fresh = unfinished(path);
    fs::write(&fresh, text).at("write", &fresh)?;
    fs::rename(&fresh, path).at("write", path)
}

pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

fn remove_empty(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if ![io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty].contains(&error.kind()) => {
            Err(error).at("remove", path)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_lock_only_a_whole_kept_lab_of_this_boot_lives() {
        let record = |keep, whole, boot: &str| {
            let state_dir = PathBuf::from("/srv/lab");
            Record { state_dir, keep, whole, boot: boot.to_owned(), owner: None }.lives("now")
        };
        assert!(record(true, true, "now"));
        assert!(!record(false, true, "now"), "its owner is gone");
        assert!(!record(true, false, "now"), "going up or down was cut short");
        assert!(!record(true, true, "before"), "the machine was restarted");
    }

    #[test]
    fn the_pool_is_what_was_there_and_what_all_labs_need() {
        let pool = Pool { boot: String::new(), before: 10, labs: BTreeMap::from([(0, 1024), (3, 512)]) };
        assert_eq!(pool.wanted(), 1546);
    }
}
