//! The operator's folder of images, each named by its digest, and which of them may be used.
//!
//! Nothing is used before its bytes were hashed and its header was read. Hashing gigabytes at each start would keep a
//! host from its VMs, so a verdict is remembered on disk with what identifies the bytes without reading them: device,
//! inode, size, modification and change time. The change time cannot be set back, so any later write is noticed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_model::Bytes;
use berth_model::image::{ImageOnHost, Sha256Digest};
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::StorageError;
use crate::folder::Folder;
use crate::format::{self, FormatError, ImageFormat};

/// Bytes that are hashed between two looks at the wish to stop.
const CHUNK: usize = 1 << 20;

/// A file that changed less than this ago may change again within the same tick of its timestamps; such a verdict is
/// good for now and not remembered.
const SETTLED_NANOS: i128 = 1_000_000_000;

/// The longest remembered file that is read: about 200 bytes for each of 100,000 images.
const LONGEST_MEMORY: u64 = 32 << 20;

/// A verified image, ready to be overlaid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseImage {
    /// The file, an absolute path with no links in it.
    pub path: PathBuf,
    /// As its header says.
    pub format: ImageFormat,
    /// As its header says.
    pub virtual_size: Bytes,
}

/// What identifies the bytes of a file without reading them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Verdict {
    Verified { format: ImageFormat, virtual_size: Bytes },
    Refused { reason: String },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Remembered {
    identity: Identity,
    verdict: Verdict,
}

/// What is kept on disk.
#[derive(Default, Serialize, Deserialize)]
struct Memory {
    version: u32,
    images: BTreeMap<Sha256Digest, Remembered>,
}

impl Memory {
    const VERSION: u32 = 1;
}

/// The operator's folder of images.
#[derive(Debug)]
pub struct Images {
    folder: Folder,
    memory_folder: Folder,
    memory_name: String,
    settled_nanos: i128,
    known: Mutex<BTreeMap<Sha256Digest, Remembered>>,
}

impl Images {
    /// Opens the folder, which must exist. Verdicts are remembered in `memory`, a file of ours in a folder of ours.
    pub fn open(folder: &Path, memory: &Path) -> Result<Self, StorageError> {
        let not_a_file = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file");
        let name = memory.file_name().and_then(|name| name.to_str());
        let (Some(parent), Some(name)) = (memory.parent(), name) else {
            return Err(StorageError::io("opening", memory)(not_a_file()));
        };
        let memory_folder = Folder::open(parent)?;
        let known = recall(&memory_folder, name).unwrap_or_else(|why| {
            tracing::warn!(file = %memory.display(), why, "remembered image digests cannot be read; all are taken anew");
            BTreeMap::new()
        });
        let folder = Folder::open(folder)?;
        Ok(Self {
            folder,
            memory_folder,
            memory_name: name.to_owned(),
            settled_nanos: SETTLED_NANOS,
            known: Mutex::new(known),
        })
    }

    /// Looks at every file whose name is a digest, hashing those not known yet, and remembers.
    ///
    /// `stop` ends it early with [`StorageError::Cancelled`]; what was found until then is remembered.
    pub fn scan(&self, stop: &AtomicBool) -> Result<BTreeMap<Sha256Digest, ImageOnHost>, StorageError> {
        let names = self.folder.names().map_err(StorageError::io("listing", self.folder.path()))?;
        let digests: Vec<Sha256Digest> = names.iter().filter_map(|name| digest_of(name)).collect();
        let mut found = BTreeMap::new();
        let mut outcome = Ok(());
        for digest in &digests {
            match self.look(*digest, stop) {
                Ok(Some(verdict)) => drop(found.insert(*digest, verdict.report())),
                Ok(None) => {} // gone since it was listed
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if outcome.is_ok() {
            self.known().retain(|digest, _| digests.contains(digest));
        }
        self.remember();
        outcome.map(|()| found)
    }

    /// One image, verified now if it was not before or has changed since.
    pub fn base(&self, digest: Sha256Digest, stop: &AtomicBool) -> Result<BaseImage, StorageError> {
        let unusable = |missing, why: String| StorageError::Image { digest: digest.to_string(), missing, why };
        let path = self.folder.path_of(&digest.to_string());
        match self.look(digest, stop)? {
            None => Err(unusable(true, format!("there is no file {}; put it there", path.display()))),
            Some(Verdict::Refused { reason }) => Err(unusable(false, reason)),
            Some(Verdict::Verified { format, virtual_size }) => Ok(BaseImage { path, format, virtual_size }),
        }
    }

    fn look(&self, digest: Sha256Digest, stop: &AtomicBool) -> Result<Option<Verdict>, StorageError> {
        let name = digest.to_string();
        let refused = |reason: String| Ok(Some(Verdict::Refused { reason }));
        let file = match self.folder.open_file(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
                return refused("it is a symbolic link; put the file itself there".to_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return refused(format!("it is {error}")),
            Err(error) => return refused(format!("it cannot be opened: {error}")),
        };
        let path = self.folder.path_of(&name);
        let identity = identity_of(&file).map_err(StorageError::io("looking at", &path))?;
        if let Some(known) = self.known().get(&digest)
            && known.identity == identity
        {
            return Ok(Some(known.verdict.clone()));
        }
        let looked_at = now_nanos();
        let verdict = match verify(&file, digest, stop) {
            Ok(verdict) => verdict,
            Err(Stopped::Cancelled) => return Err(StorageError::Cancelled),
            // A disk error is no property of the image: said now, tried again at the next look.
            Err(Stopped::Io(error)) => return refused(format!("it cannot be read: {error}")),
        };
        if identity_of(&file).map_err(StorageError::io("looking at", &path))? != identity {
            return refused("it changed while it was read; it is looked at again later".to_owned());
        }
        match &verdict {
            Verdict::Verified { format, virtual_size } => {
                tracing::info!(image = %digest, format = format.name(), size = %virtual_size, "image verified");
            }
            Verdict::Refused { reason } => tracing::warn!(image = %digest, reason, "image refused"),
        }
        let changed = i128::from(identity.changed.0) * 1_000_000_000 + i128::from(identity.changed.1);
        if looked_at - changed > self.settled_nanos {
            self.known().insert(digest, Remembered { identity, verdict: verdict.clone() });
        }
        Ok(Some(verdict))
    }

    /// Writes down what is known. A failure costs time at the next start and nothing else.
    fn remember(&self) {
        let memory = Memory { version: Memory::VERSION, images: self.known().clone() };
        let bytes = serde_json::to_vec(&memory).expect("plain values can be written as JSON");
        let temporary = format!(".{}.new", self.memory_name);
        let write = || {
            self.memory_folder.remove(&temporary)?;
            let mut file = self.memory_folder.create_new(&temporary, OFlag::empty())?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            self.memory_folder.rename(&temporary, &self.memory_name, true)
        };
        if let Err(error) = write() {
            let file = self.memory_folder.path_of(&self.memory_name);
            tracing::warn!(file = %file.display(), %error, "image digests cannot be remembered; they are taken anew at the next start");
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Sha256Digest, Remembered>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdict {
    fn report(&self) -> ImageOnHost {
        match self {
            Self::Verified { virtual_size, .. } => ImageOnHost::Verified { virtual_size: *virtual_size },
            Self::Refused { reason } => ImageOnHost::Refused { reason: reason.clone() },
        }
    }
}

/// A file is an image if its name is a digest in the one spelling that it has; everything else is the operator's own.
fn digest_of(name: &str) -> Option<Sha256Digest> {
    name.parse::<Sha256Digest>().ok().filter(|digest| digest.to_string() == name)
}

enum Stopped {
    Cancelled,
    Io(io::Error),
}

/// The header first: it is cheap and says no for good.
fn verify(file: &File, digest: Sha256Digest, stop: &AtomicBool) -> Result<Verdict, Stopped> {
    let header = match format::read_image(file) {
        Ok(header) => header,
        Err(FormatError::Refused(reason)) => return Ok(Verdict::Refused { reason }),
        Err(FormatError::Io(error)) => return Err(Stopped::Io(error)),
    };
    let found = hash(file, stop)?;
    if found != digest {
        let reason = format!("its SHA-256 is {found}, not its name; it was altered or copied in part");
        return Ok(Verdict::Refused { reason });
    }
    Ok(Verdict::Verified { format: header.format, virtual_size: header.virtual_size })
}

fn hash(mut file: &File, stop: &AtomicBool) -> Result<Sha256Digest, Stopped> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Stopped::Cancelled);
        }
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Sha256Digest(hasher.finalize().into())),
            Ok(count) => hasher.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Stopped::Io(error)),
        }
    }
}

fn identity_of(file: &File) -> io::Result<Identity> {
    let metadata = file.metadata()?;
    Ok(Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn now_nanos() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(0)
}

fn recall(folder: &Folder, name: &str) -> Result<BTreeMap<Sha256Digest, Remembered>, String> {
    let file = match folder.open_file(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = String::new();
    file.take(LONGEST_MEMORY).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let memory: Memory = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if memory.version != Memory::VERSION {
        return Err(format!("it has version {}, this program writes {}", memory.version, Memory::VERSION));
    }
    Ok(memory.images)
}

#[cfg(test)]
mod tests;
