//! Each VM's own disk: a qcow2 overlay on its verified image, made once and never overwritten.
//!
//! `qemu-img` writes it under a temporary name; it is synced and only then given its own name, so that a crash leaves
//! either a whole overlay or none. A disk that is there already belongs to the VM and holds its data: it is checked
//! and grown, never replaced, however wrong it looks.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use berth_model::{Bytes, VmUid};
use nix::fcntl::OFlag;

use crate::folder::Folder;
use crate::format::{self, Header, ImageFormat};
use crate::images::BaseImage;
use crate::{StorageError, qemu_img};

/// A folder with less room makes no new disks: an overlay starts small, but a guest that boots writes at once.
const LEAST_FREE: u64 = 64 << 20;

/// What direct I/O has to be aligned to at the strictest.
const BLOCK: usize = 4096;

/// The folder of the VMs' disks.
#[derive(Debug)]
pub struct Volumes {
    folder: Folder,
}

/// A VM's disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overlay {
    /// The file, an absolute path.
    pub path: PathBuf,
    /// The size of the disk that the guest sees.
    pub size: Bytes,
}

impl Volumes {
    /// Opens the folder, which must exist.
    pub fn open(folder: &Path) -> Result<Self, StorageError> {
        Folder::open(folder).map(|folder| Self { folder })
    }

    /// Where a VM's disk is, whether it exists or not.
    pub fn path(&self, vm: VmUid) -> PathBuf {
        self.folder.path_of(&file_name(vm))
    }

    /// Makes sure that the VM has its disk: an overlay on `base` of at least `size`.
    ///
    /// One that exists is checked (it must lie on `base`) and grown where it is smaller; it is never shrunk.
    pub fn ensure_overlay(&self, vm: VmUid, base: &BaseImage, size: Bytes) -> Result<Overlay, StorageError> {
        let path = self.path(vm);
        if self.exists(vm)? {
            let header = self.check(vm, base)?;
            if header.virtual_size < size {
                let arguments = ["-q", "-f", ImageFormat::Qcow2.name()].map(std::ffi::OsString::from);
                let rest = [path.clone().into_os_string(), size.0.to_string().into()];
                qemu_img::run("resize", arguments.into_iter().chain(rest))?;
                tracing::info!(vm.id = %vm, from = %header.virtual_size, to = %size, "disk grown");
            }
            return Ok(Overlay { path, size: header.virtual_size.max(size) });
        }
        if size < base.virtual_size {
            let why = format!("a disk of {size} cannot hold an image of {}", base.virtual_size);
            return Err(StorageError::OtherDisk { path, why });
        }
        self.require_space()?;
        self.create(vm, base, size)?;
        self.check(vm, base)?;
        tracing::info!(vm.id = %vm, size = %size, image = %base.path.display(), "disk made");
        Ok(Overlay { path, size })
    }

    /// Whether a disk of this VM is there.
    pub fn exists(&self, vm: VmUid) -> Result<bool, StorageError> {
        let status = self.folder.status(&file_name(vm)).map_err(StorageError::io("looking at", self.path(vm)))?;
        Ok(status.is_some())
    }

    /// Removes a VM's disk and what a crash may have left of its making. Returns whether there was a disk.
    pub fn remove(&self, vm: VmUid) -> Result<bool, StorageError> {
        self.remove_temporary(vm)?;
        let removed = self.folder.remove(&file_name(vm)).map_err(StorageError::io("removing", self.path(vm)))?;
        if removed {
            tracing::info!(vm.id = %vm, "disk removed");
        }
        Ok(removed)
    }

    /// Whether direct I/O works in this folder: an aligned block is written and read back past the page cache.
    pub fn direct_io_works(&self) -> Result<bool, StorageError> {
        direct_io_works(&self.folder)
    }

    fn create(&self, vm: VmUid, base: &BaseImage, size: Bytes) -> Result<(), StorageError> {
        self.remove_temporary(vm)?;
        let temporary = temporary_name(vm);
        let target = self.folder.path_of(&temporary);
        // Made here first, so that its mode is ours and nothing else can stand under the name.
        self.folder.create_new(&temporary, OFlag::empty()).map_err(StorageError::io("making", &target))?;
        let made = qemu_img::run(
            "create",
            [
                "-q".as_ref(),
                "-f".as_ref(),
                ImageFormat::Qcow2.name().as_ref(),
                "-F".as_ref(),
                base.format.name().as_ref(),
                "-b".as_ref(),
                base.path.as_os_str(),
                target.as_os_str(),
                size.0.to_string().as_ref(),
            ],
        );
        let named = made.map_err(|error| self.or_no_space(error)).and_then(|()| {
            let file = self.folder.open_file(&temporary).map_err(StorageError::io("opening", &target))?;
            file.sync_all().map_err(StorageError::io("syncing", &target))?;
            let name = file_name(vm);
            self.folder.rename(&temporary, &name, false).map_err(StorageError::io("naming", self.path(vm)))
        });
        if named.is_err() {
            let _ = self.remove_temporary(vm); // the first error is the one to tell; it is removed at the next try
        }
        named
    }

    /// Reads the header of a disk that is there and compares it with what it should be.
    fn check(&self, vm: VmUid, base: &BaseImage) -> Result<Header, StorageError> {
        let path = self.path(vm);
        let file = self.folder.open_file(&file_name(vm)).map_err(StorageError::io("opening", &path))?;
        let other = |why: String| StorageError::OtherDisk { path: path.clone(), why };
        let header = format::read(&file).map_err(|error| other(error.to_string()))?;
        if header.format != ImageFormat::Qcow2 {
            return Err(other("it is not a qcow2 overlay".to_owned()));
        }
        let Some(backing) = &header.backing else { return Err(other("it is not an overlay on any image".to_owned())) };
        if Some(backing.name.as_str()) != base.path.to_str() {
            return Err(other(format!("it lies on {}, not on {}", backing.name, base.path.display())));
        }
        if backing.format.as_deref() != Some(base.format.name()) {
            let said = backing.format.as_deref().unwrap_or("nothing");
            return Err(other(format!("it says {said} of its image's format, not {}", base.format.name())));
        }
        Ok(header)
    }

    fn remove_temporary(&self, vm: VmUid) -> Result<(), StorageError> {
        let name = temporary_name(vm);
        self.folder.remove(&name).map(drop).map_err(StorageError::io("removing", self.folder.path_of(&name)))
    }

    fn require_space(&self) -> Result<(), StorageError> {
        let path = self.folder.path();
        let free = self.folder.free().map_err(StorageError::io("asking for free space in", path))?;
        if free < LEAST_FREE {
            return Err(StorageError::NoSpace { path: path.to_owned(), free, needed: LEAST_FREE });
        }
        Ok(())
    }

    fn or_no_space(&self, error: StorageError) -> StorageError {
        match &error {
            StorageError::QemuImg { why, .. } if why.contains("No space left on device") => {
                self.require_space().err().unwrap_or(error)
            }
            _ => error,
        }
    }
}

fn file_name(vm: VmUid) -> String {
    format!("{vm}.qcow2")
}

/// A uid never begins with a dot, so no VM's disk can have this name.
fn temporary_name(vm: VmUid) -> String {
    format!(".{vm}.new")
}

fn direct_io_works(folder: &Folder) -> Result<bool, StorageError> {
    let name = format!(".direct-io-{}", std::process::id());
    let path = folder.path_of(&name);
    folder.remove(&name).map_err(StorageError::io("removing", &path))?;
    let outcome = match folder.create_new(&name, OFlag::O_DIRECT) {
        Ok(file) => write_and_read_back(&file),
        Err(error) => Err(error),
    };
    let removed = folder.remove(&name).map_err(StorageError::io("removing", &path));
    match outcome {
        Ok(same) => removed.map(|_| same),
        // What a filesystem without direct I/O answers, to the opening or to the first transfer.
        Err(error) if matches!(error.raw_os_error(), Some(code) if code == nix::libc::EINVAL || code == nix::libc::EOPNOTSUPP) => {
            removed.map(|_| false)
        }
        Err(source) => Err(StorageError::Io { action: "trying direct I/O on", path, source }),
    }
}

fn write_and_read_back(file: &std::fs::File) -> io::Result<bool> {
    let mut room = vec![0_u8; 3 * BLOCK];
    let skipped = room.as_ptr().align_offset(BLOCK);
    let (written, read) = room[skipped..skipped + 2 * BLOCK].split_at_mut(BLOCK);
    written.fill(0xb5);
    file.write_all_at(written, 0)?;
    file.sync_data()?;
    file.read_exact_at(read, 0)?;
    Ok(written == read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::{open, qcow2, qemu_img, raw};
    use std::fs;

    struct Bench {
        folder: tempfile::TempDir,
        volumes: Volumes,
        base: BaseImage,
    }

    fn vm() -> VmUid {
        "vm-1".parse().unwrap()
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("volumes")).unwrap();
            let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
            let path = fs::canonicalize(folder.path()).unwrap().join("image");
            qcow2(&path, "16M", &[]);
            let base = BaseImage { path, format: ImageFormat::Qcow2, virtual_size: Bytes::mib(16) };
            Self { folder, volumes, base }
        }

        fn names(&self) -> Vec<String> {
            self.volumes.folder.names().unwrap()
        }
    }

    #[test]
    fn an_overlay_is_made_once_with_its_backing_format_said() {
        let bench = Bench::new();
        let made = bench.volumes.ensure_overlay(vm(), &bench.base, Bytes::mib(64)).unwrap();
        assert_eq!(made.size, Bytes::mib(64));
        let header = format::read(&open(&made.path)).unwrap();
        assert_eq!(header.virtual_size, Bytes::mib(64));
        assert_eq!(header.backing.unwrap().format.as_deref(), Some("qcow2"));
        let before = fs::metadata(&made.path).unwrap().modified().unwrap();
        assert_eq!(bench.volumes.ensure_overlay(vm(), &bench.base, Bytes::mib(64)).unwrap(), made);
        assert_eq!(fs::metadata(&made.path).unwrap().modified().unwrap(), before, "not touched again");
        assert_eq!(bench.names(), ["vm-1.qcow2"], "nothing temporary stays");
        assert!(bench.volumes.remove(vm()).unwrap());
        assert!(!bench.volumes.remove(vm()).unwrap());
        assert_eq!(bench.names(), Vec::<String>::new());
    }

    #[test]
    fn a_disk_is_grown_and_never_shrunk() {
        let bench = Bench::new();
        bench.volumes.ensure_overlay(vm(), &bench.base, Bytes::mib(32)).unwrap();
        assert_eq!(bench.volumes.ensure_overlay(vm(), &bench.base, Bytes::mib(48)).unwrap().size, Bytes::mib(48));
        assert_eq!(bench.volumes.ensure_overlay(vm(), &bench.base, Bytes::mib(32)).unwrap().size, Bytes::mib(48));
    }

    #[test]
    fn a_disk_that_is_not_what_was_asked_for_is_left_as_it_is() {
        let bench = Bench::new();
        let path = bench.volumes.path(vm());
        let other = BaseImage { path: "/elsewhere".into(), ..bench.base.clone() };
        let ensure = |base| bench.volumes.ensure_overlay(vm(), base, Bytes::mib(64));
        ensure(&bench.base).unwrap();
        let kept = fs::read(&path).unwrap();
        assert!(matches!(ensure(&other), Err(StorageError::OtherDisk { .. })));
        let raw_base = BaseImage { format: ImageFormat::Raw, ..bench.base.clone() };
        assert!(matches!(ensure(&raw_base), Err(StorageError::OtherDisk { .. })));
        assert_eq!(fs::read(&path).unwrap(), kept);

        fs::remove_file(&path).unwrap();
        raw(&path, 8);
        assert!(matches!(ensure(&bench.base), Err(StorageError::OtherDisk { .. })));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&bench.base.path, &path).unwrap();
        assert!(matches!(ensure(&bench.base), Err(StorageError::Io { .. })), "a link is not followed");
    }

    #[test]
    fn what_a_crash_left_of_making_a_disk_is_in_nobodys_way() {
        let bench = Bench::new();
        fs::write(bench.volumes.folder.path_of(&temporary_name(vm())), "half").unwrap();
        bench.volumes.ensure_overlay(vm(), &bench.base, Bytes::mib(64)).unwrap();
        assert_eq!(bench.names(), ["vm-1.qcow2"]);
    }

    #[test]
    fn an_overlay_on_an_image_that_is_gone_fails_readably_and_leaves_nothing() {
        let bench = Bench::new();
        fs::remove_file(&bench.base.path).unwrap();
        let error = bench.volumes.ensure_overlay(vm(), &bench.base, Bytes::mib(64)).unwrap_err();
        assert!(matches!(error, StorageError::QemuImg { .. }) && error.to_string().contains("No such file"), "{error}");
        assert_eq!(bench.names(), Vec::<String>::new());
    }

    #[test]
    fn a_disk_smaller_than_its_image_is_refused() {
        let bench = Bench::new();
        let error = bench.volumes.ensure_overlay(vm(), &bench.base, Bytes::mib(8)).unwrap_err();
        assert!(error.to_string().contains("cannot hold an image of 16MiB"), "{error}");
    }

    #[test]
    fn a_raw_image_is_backed_as_raw() {
        let bench = Bench::new();
        let path = bench.folder.path().canonicalize().unwrap().join("raw-image");
        raw(&path, 2048);
        let base = BaseImage { path, format: ImageFormat::Raw, virtual_size: Bytes::mib(1) };
        let made = bench.volumes.ensure_overlay(vm(), &base, Bytes::mib(2)).unwrap();
        assert_eq!(format::read(&open(&made.path)).unwrap().backing.unwrap().format.as_deref(), Some("raw"));
        qemu_img(&["check", "-q", made.path.to_str().unwrap()]);
    }

    #[test]
    fn the_probe_for_direct_io_gives_an_answer_and_leaves_nothing() {
        let bench = Bench::new();
        bench.volumes.direct_io_works().unwrap();
        assert_eq!(bench.names(), Vec::<String>::new());
        // A filesystem that has no direct I/O at all.
        let Ok(proc) = Folder::open(Path::new("/proc")) else { panic!("/proc is there") };
        assert!(direct_io_works(&proc).is_err(), "nothing can be made in /proc, and that is said");
    }
}
