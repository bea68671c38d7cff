//! The ledger on disk: one log of framed records, synced before anything is done by them.
//!
//! Records are only ever appended; when the log has grown far beyond what it says, it is written anew under another name,
//! synced and renamed into place, so that at each moment one whole log is there. A daemon that was killed, or a machine
//! that lost power, may leave a last record cut short: nobody acted on it, so it is cut off. Any other damage is refused:
//! a record that cannot be read may be the one that says which placement must not be obeyed any more (law 3).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use berth_host::ledger::{Ledger, Record};
use berth_host::record::{self, RecordError};
use berth_model::HostUid;
use nix::fcntl::{Flock, FlockArg};

const LOG: &str = "ledger";
const NEW_LOG: &str = "ledger.new";
const LOCK: &str = "lock";

/// A log shorter than this is never written anew: rewriting would cost more than the space.
const WORTH_REWRITING: u64 = 1 << 20;
/// The log is written anew when it is this many times longer than what it says.
const MOST_TIMES_LONGER: u64 = 4;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another daemon runs with this folder.
    #[error("another berth-hostd uses {}; end that one first", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A record in the middle cannot be read.
    #[error(
        "the ledger {} is damaged at byte {at}: {source}. It says which placements this host must refuse, so nothing is \
         guessed: put back a good copy of the file, or move it away to let the host join anew, whereupon the VMs that run \
         here are shown as orphans",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        at: u64,
        /// What is wrong there.
        source: RecordError,
    },
    /// The log does not begin with who the host is.
    #[error("the ledger {} does not say whose it is; put back a good copy, or move it away to let the host join anew", path.display())]
    Nameless {
        /// The file.
        path: PathBuf,
    },
    /// A record cannot be written down.
    #[error("a record of the ledger cannot be encoded: {0}")]
    Encode(RecordError),
}

/// The ledger's files. One process at a time.
#[derive(Debug)]
pub struct LedgerStore {
    folder: PathBuf,
    log: File,
    /// Bytes of the log that are whole and synced.
    length: u64,
    /// What the log says.
    mirror: Ledger,
    /// The log may hold half a record: it is written anew before anything is appended.
    broken: bool,
    _lock: Flock<File>,
}

impl LedgerStore {
    /// Opens the ledger in `folder`, or begins one with the identity that `mint` gives.
    pub fn open(folder: &Path, mint: impl FnOnce() -> HostUid) -> Result<(Self, Ledger), StoreError> {
        fs::create_dir_all(folder).map_err(failed("cannot create", folder))?;
        let lock = lock(folder)?;
        // A rewriting that was not finished; the old log is whole.
        match fs::remove_file(folder.join(NEW_LOG)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("cannot remove", folder.join(NEW_LOG))(error));
            }
            _ => {}
        }
        let path = folder.join(LOG);
        let mut log = open_log(&path)?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).map_err(failed("cannot read", &path))?;
        let (records, whole) = read(&path, &bytes)?;
        if whole < bytes.len() {
            tracing::warn!(
                file = %path.display(), at = whole, bytes = bytes.len() - whole,
                "the ledger's last record was not finished when the daemon ended; it was never acted on and is cut off"
            );
            log.set_len(whole as u64).map_err(failed("cannot shorten", &path))?;
            log.sync_all().map_err(failed("cannot sync", &path))?;
        }
        log.seek(SeekFrom::End(0)).map_err(failed("cannot seek in", &path))?;
        let is_new = records.is_empty();
        let ledger = if is_new {
            Ledger::new(mint())
        } else {
            Ledger::replay(records).ok_or_else(|| StoreError::Nameless { path: path.clone() })?
        };
        let folder = folder.to_owned();
        let mut store = Self { folder, log, length: whole as u64, mirror: ledger.clone(), broken: false, _lock: lock };
        let mut ledger = ledger;
        if is_new {
            // Who the host is must not change with the next start, so it is written before anybody hears it.
            store.append(ledger.take_unsaved())?;
            sync_folder(&store.folder)?;
        }
        store.mirror.take_unsaved();
        Ok((store, ledger))
    }

    /// Writes records down; when this returns, they outlive a power cut.
    ///
    /// After an error nothing is known of them; the same records may be given again, and the log is then written anew.
    pub fn append(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        if self.broken {
            let mut mirror = self.mirror.clone();
            for record in records {
                mirror.apply(record);
            }
            self.rewrite(&mirror)?;
            self.mirror = mirror;
        } else {
            let mut bytes = Vec::new();
            for record in &records {
                bytes.extend(record::encode(record.clone()).map_err(StoreError::Encode)?);
            }
            self.broken = true;
            let path = self.folder.join(LOG);
            self.log.write_all(&bytes).map_err(failed("cannot write", &path))?;
            self.log.sync_data().map_err(failed("cannot sync", &path))?;
            self.broken = false;
            self.length += bytes.len() as u64;
            for record in records {
                self.mirror.apply(record);
            }
        }
        self.shorten();
        Ok(())
    }

    /// Writes the log anew if it says little for its length. What cannot be done now is tried at the next record.
    fn shorten(&mut self) {
        if self.length < WORTH_REWRITING {
            return;
        }
        let said: usize = self
            .mirror
            .snapshot()
            .into_iter()
            .filter_map(|record| record::encode(record).ok())
            .map(|bytes| bytes.len())
            .sum();
        if self.length > MOST_TIMES_LONGER * said as u64 {
            let mirror = self.mirror.clone();
            if let Err(error) = self.rewrite(&mirror) {
                tracing::warn!(%error, "the ledger could not be written anew; it grows on");
            }
        }
    }

    fn rewrite(&mut self, ledger: &Ledger) -> Result<(), StoreError> {
        let (path, temporary) = (self.folder.join(LOG), self.folder.join(NEW_LOG));
        let mut bytes = Vec::new();
        for record in ledger.snapshot() {
            bytes.extend(record::encode(record).map_err(StoreError::Encode)?);
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .read(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("cannot create", &temporary))?;
        file.write_all(&bytes).map_err(failed("cannot write", &temporary))?;
        file.sync_all().map_err(failed("cannot sync", &temporary))?;
        // From here on the old file must not be written to any more, whatever happens.
        self.broken = true;
        fs::rename(&temporary, &path).map_err(failed("cannot rename", &temporary))?;
        self.log = file;
        self.length = bytes.len() as u64;
        sync_folder(&self.folder)?;
        self.broken = false;
        Ok(())
    }
}

/// The records in `bytes`, and how many bytes are whole.
fn read(path: &Path, bytes: &[u8]) -> Result<(Vec<Record>, usize), StoreError> {
    let (mut records, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match record::decode(&bytes[at..]) {
            Ok((record, taken)) => {
                records.push(record);
                at += taken;
            }
            // Some filesystems leave zeros where data had not yet arrived when the power went.
            Err(error) if error.is_cut_short() || bytes[at..].iter().all(|byte| *byte == 0) => break,
            Err(source) => return Err(StoreError::Damaged { path: path.into(), at: at as u64, source }),
        }
    }
    Ok((records, at))
}

fn lock(folder: &Path) -> Result<Flock<File>, StoreError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("cannot open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => StoreError::InUse { path: folder.into() },
        other => failed("cannot lock", &path)(other.into()),
    })
}

fn open_log(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("cannot open", path))
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("cannot sync", folder))
}

fn failed(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.into();
    move |source| StoreError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use berth_host::journal::Journal;
    use berth_model::session::{Absent, DesiredEntry};
    use berth_model::{BootId, Epoch, Incarnation, Stamp, VmUid};

    use super::*;

    fn host() -> HostUid {
        "host1".parse().unwrap()
    }

    fn open(folder: &Path) -> (LedgerStore, Ledger) {
        LedgerStore::open(folder, host).unwrap()
    }

    fn refusal(folder: &Path) -> StoreError {
        LedgerStore::open(folder, || panic!("an identity is there")).unwrap_err()
    }

    fn vm(number: u64) -> VmUid {
        format!("vm{number}").parse().unwrap()
    }

    /// Takes in a word about a VM and writes it down.
    fn learn(store: &mut LedgerStore, ledger: &mut Ledger, number: u64, epoch: u64) {
        let stamp = Stamp { incarnation: Incarnation(1), epoch: Epoch(epoch) };
        ledger.accept_delta(&[DesiredEntry::Absent(Absent { vm: vm(number), stamp, with_disk: true })], &[]);
        store.append(ledger.take_unsaved()).unwrap();
    }

    #[test]
    fn an_identity_is_minted_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()));
        let (_store, ledger) = LedgerStore::open(folder.path(), || panic!("minted twice")).unwrap();
        assert_eq!(ledger.host(), host());
    }

    #[test]
    fn what_was_written_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, mut ledger) = open(folder.path());
        learn(&mut store, &mut ledger, 1, 5);
        learn(&mut store, &mut ledger, 2, 6);
        let said = ledger.snapshot();
        drop(store);
        assert_eq!(open(folder.path()).1.snapshot(), said);
    }

    #[test]
    fn a_second_daemon_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_store, _) = open(folder.path());
        assert!(matches!(refusal(folder.path()), StoreError::InUse { .. }));
    }

    #[test]
    fn a_last_record_cut_anywhere_is_dropped_and_the_rest_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        let (mut store, mut ledger) = open(folder.path());
        learn(&mut store, &mut ledger, 1, 5);
        let (before, said) = (fs::metadata(&path).unwrap().len(), ledger.snapshot());
        // Two records: the entry and its journal are not told apart here, so both must be cut.
        learn(&mut store, &mut ledger, 2, 6);
        let whole = fs::read(&path).unwrap();
        drop(store);
        let first = usize::try_from(before).unwrap();
        let (_, second) = record::decode(&whole[first..]).unwrap();
        for length in first + 1..first + second {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(open(folder.path()).1.snapshot(), said);
            assert_eq!(fs::metadata(&path).unwrap().len(), before);
            let zeros = vec![0; length - first];
            fs::write(&path, [&whole[..first], &zeros].concat()).unwrap();
            assert_eq!(open(folder.path()).1.snapshot(), said);
        }
    }

    #[test]
    fn damage_in_the_middle_is_refused_with_the_file_and_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        let (mut store, mut ledger) = open(folder.path());
        learn(&mut store, &mut ledger, 1, 5);
        drop(store);
        let mut bytes = fs::read(&path).unwrap();
        bytes[18] ^= 1;
        fs::write(&path, bytes).unwrap();
        let message = refusal(folder.path()).to_string();
        assert!(message.contains(&path.display().to_string()) && message.contains("move it away"), "{message}");
    }

    #[test]
    fn a_record_of_a_later_version_halts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        drop(open(folder.path()));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&berth_frame::encode_value(0x0304, 9, &1_u8).unwrap()).unwrap();
        let message = refusal(folder.path()).to_string();
        assert!(message.contains("version 9 is unknown to this program"), "{message}");
    }

    #[test]
    fn a_log_that_says_little_for_its_length_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        let (mut store, mut ledger) = open(folder.path());
        learn(&mut store, &mut ledger, 1, 5);
        let journals =
            (0..20_000).map(|restart_done| Record::Journal(vm(1), Journal { restart_done, ..Journal::default() }));
        for chunk in journals.collect::<Vec<_>>().chunks(2000) {
            store.append(chunk.to_vec()).unwrap();
        }
        let boots =
            (0..20_000).map(|number| Record::Boot(BootId(format!("a boot with a long name {number}")))).collect();
        store.append(boots).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 1000);
        assert!(!folder.path().join(NEW_LOG).exists());
        learn(&mut store, &mut ledger, 2, 9);
        drop(store);
        let (_store, ledger) = open(folder.path());
        assert_eq!(ledger.journal(vm(1)).restart_done, 19_999);
        assert!(ledger.entries().contains_key(&vm(2)), "the new log is the one that is written to");
    }

    #[test]
    fn after_a_failed_write_the_log_is_written_anew_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, mut ledger) = open(folder.path());
        learn(&mut store, &mut ledger, 1, 5);
        // As if a write had failed half-way.
        store.log.write_all(b"BRTH half a record").unwrap();
        store.broken = true;
        learn(&mut store, &mut ledger, 2, 6);
        let said = ledger.snapshot();
        drop(store);
        assert_eq!(open(folder.path()).1.snapshot(), said);
    }
}
