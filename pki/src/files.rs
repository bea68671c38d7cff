//! Files that hold keys: written whole or not at all, readable by their owner only.
//!
//! A key that others may read is as good as lost, and nobody notices; so such a file is refused with the command that
//! mends it. Writing goes through a temporary file and a rename, so that a crash leaves the old key or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The largest file read here, in bytes; a key or a chain of certificates is a few kilobytes.
const LARGEST: u64 = 1 << 20;

/// Why a file of keys or certificates could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others than the owner may read or write it.
    #[error("{} holds a key and is open to others (mode {mode:04o}); close it with: chmod 600 {}", path.display(), path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any key or chain.
    #[error("{} is larger than 1 MiB, which no key or certificate is", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// The bytes of a file that only its owner can read or write; refuses any other.
pub fn read_private(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path, true)
}

/// The bytes of a file that anyone may read.
pub(crate) fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path, false)
}

fn read(path: &Path, private: bool) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Io { action: "read", path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    // The opened file is asked, not the path, so that it cannot be exchanged in between.
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if private && mode & 0o077 != 0 {
        return Err(FileError::OpenToOthers { path: path.into(), mode });
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(FileError::TooLarge { path: path.into() });
    }
    Ok(bytes)
}

/// Puts `bytes` at `path` with mode 0600, durably and in one step.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o600)
}

/// Puts `bytes` at `path` with mode 0644, durably and in one step.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o644)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Io { action: "write", path: path.into(), source };
    let name = path.file_name().ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.new", std::process::id()));
    let temporary = folder.join(temporary_name);
    let result = (|| {
        // A leftover of a crashed process with our id may exist, with who knows which mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    result.map_err(|source| {
        // The first error is the one to tell; a leftover is removed at the next write.
        let _ = fs::remove_file(&temporary);
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_private_file_has_mode_0600_and_replaces_the_old_one_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_private(&path, b"a much longer first key").unwrap();
        write_private(&path, b"second").unwrap();
        assert_eq!(read_private(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
            write_private(&path, b"key").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let message = read_private(&path).unwrap_err().to_string();
            assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
            assert!(message.contains(&format!("{mode:04o}")), "{message}");
        }
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent/key.pem");
        let message = write_private(&path, b"key").unwrap_err().to_string();
        assert!(message.contains("absent/key.pem"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
