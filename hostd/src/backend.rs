//! The host's backend: files by berth-hoststorage, domains by berth-libvirt. Decides nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use berth_host::backend::{Backend, BackendError, DomainSeen};
use berth_host::step::{DomainSpec, Step};
use berth_hoststorage::StorageError;
use berth_hoststorage::format::ImageFormat;
use berth_hoststorage::images::Images;
use berth_hoststorage::overlay::Volumes;
use berth_hoststorage::seed::{Seed, Seeds};
use berth_libvirt::{BaseImage, Capabilities, DiskFiles, DiskFormat, LibvirtBackend};
use berth_model::VmUid;
use berth_model::image::{ImageOnHost, Sha256Digest};
use berth_model::vm::Accelerator;

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Image files.
    pub images: PathBuf,
    /// What was found out about them is remembered in this file.
    pub images_known: PathBuf,
    /// Disks.
    pub volumes: PathBuf,
    /// Seeds.
    pub seeds: PathBuf,
    /// VNC sockets.
    pub vnc: PathBuf,
}

/// Files and domains of this host. Calls block.
#[derive(Debug)]
pub struct HostBackend {
    libvirt: LibvirtBackend,
    images: Images,
    images_folder: PathBuf,
    volumes: Volumes,
    seeds: Seeds,
    vnc: PathBuf,
    io_uring: bool,
    capabilities: Mutex<Option<(Accelerator, Arc<Capabilities>)>>,
    stop: AtomicBool,
}

impl HostBackend {
    /// Opens the folders, which must exist. libvirt is connected to when first needed.
    pub fn open(folders: &Folders, libvirt: LibvirtBackend) -> Result<Self, StorageError> {
        Ok(Self {
            libvirt,
            images: Images::open(&folders.images, &folders.images_known)?,
            images_folder: folders.images.clone(),
            volumes: Volumes::open(&folders.volumes)?,
            seeds: Seeds::open(&folders.seeds)?,
            vnc: folders.vnc.clone(),
            io_uring: berth_hostsys::io_uring::works(Path::new("/")),
            capabilities: Mutex::new(None),
            stop: AtomicBool::new(false),
        })
    }

    /// Domains alone.
    pub fn libvirt(&self) -> &LibvirtBackend {
        &self.libvirt
    }

    /// Where image files lie.
    pub fn images_folder(&self) -> &Path {
        &self.images_folder
    }

    /// Every image file, verified if it was not before. Reads gigabytes the first time.
    pub fn look_at_images(&self) -> Result<BTreeMap<Sha256Digest, ImageOnHost>, StorageError> {
        self.images.scan(&self.stop)
    }

    /// Ends what takes long and can be done again: the daemon goes down.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Forgets what libvirt can do: it, or QEMU, may be another version after it was away.
    pub fn forget_capabilities(&self) {
        *self.capabilities.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What libvirt and QEMU can do here. The first answer may take seconds, so it is best asked for before it is needed.
    pub fn capabilities(&self, accelerator: Accelerator) -> Result<Arc<Capabilities>, BackendError> {
        let mut known = self.capabilities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, capabilities)) = &*known
            && *of == accelerator
        {
            return Ok(Arc::clone(capabilities));
        }
        let capabilities = Arc::new(Capabilities::probe(&self.libvirt.options().uri, accelerator)?);
        *known = Some((accelerator, Arc::clone(&capabilities)));
        Ok(capabilities)
    }

    fn prepare(&self, domain: &DomainSpec) -> Result<(), StorageError> {
        let base = self.images.base(domain.image, &self.stop)?;
        self.volumes.ensure_overlay(domain.mark.vm, &base, domain.disk_size)?;
        self.seeds.write(&Seed {
            vm: domain.mark.vm,
            name: &domain.mark.name,
            user_data: domain.user_data.as_ref().map(|user_data| &user_data.0[..]),
            network_config: None,
        })?;
        Ok(())
    }

    fn start(&self, domain: &DomainSpec) -> Result<(), BackendError> {
        let vm = domain.mark.vm;
        let files =
            self.files(domain).map_err(|error| error.into_backend(format!("starting VM {}", domain.mark.name)))?;
        let capabilities = self.capabilities(domain.accelerator)?;
        let rendered = self.libvirt.start(domain, &files, &capabilities)?;
        for sentence in rendered.degraded {
            tracing::warn!(vm.id = %vm, "{sentence}");
        }
        Ok(())
    }

    /// The VM's files. The image is looked at again: what changed since it was prepared must not be started from.
    fn files(&self, domain: &DomainSpec) -> Result<DiskFiles, StorageError> {
        let vm = domain.mark.vm;
        let base = self.images.base(domain.image, &self.stop)?;
        let format = match base.format {
            ImageFormat::Qcow2 => DiskFormat::Qcow2,
            ImageFormat::Raw => DiskFormat::Raw,
        };
        Ok(DiskFiles {
            disk: self.volumes.path(vm),
            base: Some(BaseImage { path: base.path, format }),
            direct_io: self.volumes.direct_io_works()?,
            io_uring: self.io_uring,
            seed: Some(self.seeds.path(vm)),
            vnc_socket: Some(self.vnc_socket(vm)),
            // QEMU would append without bound; consoles are read live.
            console_log: None,
        })
    }

    fn vnc_socket(&self, vm: VmUid) -> PathBuf {
        self.vnc.join(format!("{vm}.sock"))
    }

    fn remove(&self, vm: VmUid, with_disk: bool) -> Result<(), BackendError> {
        self.libvirt.undefine(vm)?;
        let what = || format!("removing the files of VM {vm}");
        self.seeds.remove(vm).map_err(|error| error.into_backend(what()))?;
        if with_disk {
            self.volumes.remove(vm).map_err(|error| error.into_backend(what()))?;
        }
        remove_socket(&self.vnc_socket(vm)).map_err(|error| BackendError::Failed {
            reason: "StorageFailed",
            what: what(),
            why: error.to_string(),
        })
    }
}

impl Backend for HostBackend {
    fn scan(&self) -> Result<Vec<DomainSeen>, BackendError> {
        self.libvirt.scan()
    }

    fn execute(&self, step: &Step) -> Result<(), BackendError> {
        match step {
            Step::Prepare(domain) => {
                self.prepare(domain).map_err(|error| error.into_backend(format!("preparing VM {}", domain.mark.name)))
            }
            Step::Start(domain) => self.start(domain),
            Step::Shutdown(vm) => self.libvirt.shutdown(*vm),
            Step::ForceOff(vm) => self.libvirt.force_off(*vm),
            Step::Repin { vm, floats } => self.libvirt.repin(*vm, floats),
            Step::ReadBack(vm) => self.libvirt.read_back(*vm),
            Step::Pause(vm) => self.libvirt.pause(*vm),
            Step::Resume { vm, .. } => self.libvirt.resume(*vm),
            Step::Reset { vm, .. } => self.libvirt.reset(*vm),
            Step::Remove { vm, with_disk } => self.remove(*vm, *with_disk),
        }
    }

    fn leftovers(&self, vm: VmUid) -> Result<bool, BackendError> {
        let what = || format!("looking for what is left of VM {vm}");
        Ok(self.libvirt.exists(vm)?
            || self.seeds.exists(vm).map_err(|error| error.into_backend(what()))?
            || self.volumes.exists(vm).map_err(|error| error.into_backend(what()))?)
    }
}

/// QEMU removes its socket when it ends in order; one that was killed leaves it.
fn remove_socket(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
