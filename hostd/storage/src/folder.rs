//! A folder that is opened once, and everything in it by single names beneath it.
//!
//! `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS` makes the kernel refuse every way out: a link put in
//! the place of a file is an error, not a detour. Only the path of the folder itself, which the operator configures,
//! may lead over links; it is resolved once.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::StorageError;

/// The most entries that are listed of one folder; a folder with more is not one of ours.
const MOST_ENTRIES: usize = 100_000;

/// An opened folder.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder that exists.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let resolved = fs::canonicalize(path).map_err(StorageError::io("opening", path))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let handle = nix::fcntl::open(&resolved, flags, Mode::empty())
            .map_err(io::Error::from)
            .map_err(StorageError::io("opening", &resolved))?;
        Ok(Self { handle, path: resolved })
    }

    /// Where it is, with all links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where an entry of this name is, for messages and for programs that take paths.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a regular file for reading. A link, a folder, a FIFO or a device is refused, without waiting on any.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        // O_NONBLOCK: opening a FIFO must not wait for its other side; it means nothing for regular files.
        let file = self.open_beneath(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    /// Makes a new file, readable and writable by its owner alone. Fails if anything of this name exists.
    pub fn create_new(&self, name: &str, extra: OFlag) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | extra;
        self.open_beneath(name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
    }

    fn open_beneath(&self, name: &str, flags: OFlag, mode: Mode) -> io::Result<File> {
        single(name)?;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).mode(mode).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        Ok(openat2(self.handle.as_fd(), name, how)?.into())
    }

    /// What lies under this name, links not followed.
    pub fn status(&self, name: &str) -> io::Result<Option<FileStat>> {
        single(name)?;
        match fstatat(self.handle.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(Some(status)),
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file its name, for good: the folder is synced. With `replace`, whatever has the name goes.
    pub fn rename(&self, from: &str, to: &str, replace: bool) -> io::Result<()> {
        single(from)?;
        single(to)?;
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        renameat2(self.handle.as_fd(), from, self.handle.as_fd(), to, flags)?;
        self.sync()
    }

    /// Removes a file. Returns whether there was one.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        single(name)?;
        match unlinkat(self.handle.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => self.sync().map(|()| true),
            Err(nix::errno::Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in it, in order.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
            if names.len() > MOST_ENTRIES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "more entries than such a folder has"));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Bytes that a process without privileges may still write here.
    pub fn free(&self) -> io::Result<u64> {
        let status = fstatvfs(self.handle.as_fd())?;
        Ok(status.blocks_available() * status.fragment_size())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(self.handle.as_fd())?)
    }
}

/// Names are single components: nothing that could lead elsewhere is passed on, even though the kernel would refuse.
fn single(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a file name")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_ways_out_and_special_files_are_refused() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let folder = Folder::open(inside.path()).unwrap();
        symlink(outside.path().join("secret"), inside.path().join("link")).unwrap();
        fs::write(inside.path().join("file"), "x").unwrap();
        symlink("file", inside.path().join("near")).unwrap();
        fs::create_dir(inside.path().join("sub")).unwrap();
        nix::unistd::mkfifo(&inside.path().join("fifo"), Mode::S_IRWXU).unwrap();

        assert!(folder.open_file("file").is_ok());
        for name in ["link", "near", "sub", "fifo", "../secret", "/etc/passwd", "..", ".", "", "sub/../file"] {
            assert!(folder.open_file(name).is_err(), "{name}");
            assert!(folder.create_new(name, OFlag::empty()).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "x");
    }

    #[test]
    fn a_new_file_is_its_owners_alone_and_nothing_is_replaced_unasked() {
        use std::os::unix::fs::PermissionsExt as _;
        let inside = tempfile::tempdir().unwrap();
        let folder = Folder::open(inside.path()).unwrap();
        let file = folder.create_new("a", OFlag::empty()).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        folder.create_new("b", OFlag::empty()).unwrap();
        assert!(folder.rename("a", "b", false).is_err());
        folder.rename("a", "b", true).unwrap();
        assert_eq!(folder.names().unwrap(), ["b"]);
        assert!(folder.remove("b").unwrap());
        assert!(!folder.remove("b").unwrap());
    }
}
