//! Images, overlays and NoCloud seeds on a host's disk.
//!
//! Three folders, each with its own law. [`images`]: filled by the operator, never written by us, and nothing in it is
//! used before its digest and its header were verified. [`overlay`]: one qcow2 overlay per VM, made once and never
//! overwritten. [`seed`]: NoCloud seeds, which hold user data and therefore lie in memory, readable by nobody else.
//!
//! Everything is opened beneath its folder without following a symbolic link ([`folder`]), and the format of a file
//! is said, never guessed: what it is comes from its header, read here by a bounded parser ([`format`](mod@format)).

pub mod folder;
pub mod format;
pub mod images;
mod iso;
pub mod overlay;
mod qemu_img;
pub mod seed;

use std::io;
use std::path::PathBuf;

use berth_host::backend::BackendError;

/// Why something on the host's disk did not work.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A call of the operating system failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried: `opening`, `writing`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What was answered.
        #[source]
        source: io::Error,
    },
    /// No image file of this digest, or one that must not be used.
    #[error("image {digest} is not usable: {why}")]
    Image {
        /// Its digest.
        digest: String,
        /// Whether there is no such file, rather than one that was refused.
        missing: bool,
        /// Why.
        why: String,
    },
    /// Too little room.
    #[error("{} has {free} bytes free, {needed} are needed; free some space or move the folder", path.display())]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// A disk of this VM is there and is not what was asked for. It is never overwritten.
    #[error("{} is not the disk that was asked for: {why}; it is left as it is", path.display())]
    OtherDisk {
        /// The file.
        path: PathBuf,
        /// In what it differs.
        why: String,
    },
    /// `qemu-img` failed.
    #[error("qemu-img {action}: {why}")]
    QemuImg {
        /// What it was asked for.
        action: &'static str,
        /// What it said.
        why: String,
    },
    /// Input that cannot be stored.
    #[error("{what} has {size} bytes, at most {limit} are possible")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// One UpperCamelCase word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Image { missing: true, .. } => "ImageMissing",
            Self::Image { missing: false, .. } => "ImageRefused",
            Self::NoSpace { .. } => "NoSpace",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => "NoSpace",
            Self::OtherDisk { .. } => "OtherDisk",
            Self::Io { .. } | Self::QemuImg { .. } | Self::TooLarge { .. } => "StorageFailed",
            Self::Cancelled => "Cancelled",
        }
    }

    /// As an error of the backend's port; `what` was tried.
    pub fn into_backend(self, what: impl Into<String>) -> BackendError {
        BackendError::Failed { reason: self.reason(), what: what.into(), why: self.to_string() }
    }
}
