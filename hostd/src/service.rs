//! The daemon on this machine: opens what it needs of it, tells what it is, and lets go in order.
//!
//! Nothing here stops a VM: not an end in order, not a failure, not a kill. What runs is adopted by the next start.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_host::agent::Input;
use berth_libvirt::{LibvirtBackend, Watch};
use berth_model::ConditionStatus;
use berth_pki::{Credentials, CredentialsError};
use nix::unistd::{User, chown};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backend::{Folders, HostBackend};
use crate::config::Config;
use crate::daemon::Daemon;
use crate::driver::{Handle, now};
use crate::ledger_store::StoreError;
use crate::ledger_writers::LedgerWriters;
use crate::{facts, images};

/// How often libvirt is asked for its version until it answers.
const ASK_VERSIONS: Duration = Duration::from_secs(5);
/// How long the first inventory waits for libvirt's version, which nothing depends on.
const FIRST_VERSIONS: Duration = Duration::from_secs(1);

/// Why the daemon could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The certificate is somebody else's.
    #[error(
        "the certificate speaks for {found}, and the configuration names host {name}; use the certificate of host {name}"
    )]
    OtherIdentity {
        /// Whom the certificate names.
        found: berth_pki::Identity,
        /// Whom the configuration names.
        name: String,
    },
    /// The cluster in the certificate is no cluster id.
    #[error("the cluster in the certificate is no cluster id: {0}")]
    Cluster(#[from] berth_model::id::IdError),
    /// A folder cannot be used.
    #[error("cannot use the folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] StoreError),
    /// The machine cannot be read.
    #[error(transparent)]
    Machine(#[from] berth_hostsys::Error),
    /// A folder of images, disks or seeds cannot be opened.
    #[error(transparent)]
    Storage(#[from] berth_hoststorage::StorageError),
    /// The port cannot be bound.
    #[error("cannot listen on {address}: {source}; is another daemon there, and is the address this host's?")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Serving failed.
    #[error("serving consoles failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs the daemon until `stop`.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), StartError> {
    let uri = &config.libvirt_uri;
    let mut daemon = Daemon::begin(&config, LedgerWriters::new(1), stop, |cluster| {
        let folders = make_folders(&config)?;
        let libvirt = LibvirtBackend::new(berth_libvirt::Options { uri: uri.clone(), cluster });
        Ok(HostBackend::open(&folders, libvirt)?)
    })
    .await?;
    let (backend, handle) = (Arc::clone(&daemon.backend), daemon.handle.clone());
    let watch = watch_libvirt(uri, &backend, &handle);
    let gathering = tokio::spawn(tell_facts(config.clone(), Arc::clone(&backend), handle.clone()));
    let looking = tokio::spawn(images::tell(Arc::clone(&backend), handle));
    let reloading = tokio::spawn(reload_credentials(daemon.credentials.clone()));
    let served = daemon.until_stopped().await;
    drop(watch);
    backend.stop();
    gathering.abort();
    looking.abort();
    reloading.abort();
    daemon.end().await;
    served
}

/// The versions of libvirt and QEMU, asked for until they are told.
async fn ask_versions(backend: Arc<HostBackend>) -> Vec<String> {
    loop {
        let asked = Arc::clone(&backend);
        if let Ok(Ok(versions)) = spawn_blocking(move || asked.libvirt().versions()).await {
            return versions;
        }
        tokio::time::sleep(ASK_VERSIONS).await;
    }
}

/// Reads the certificates again at each SIGHUP, so that they can be renewed without an interruption.
async fn reload_credentials(credentials: Credentials) -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    while hangups.recv().await.is_some() {
        match credentials.reload() {
            Ok(changed) => tracing::info!(changed, "the certificates were read again"),
            Err(error) => tracing::error!(%error, "the certificates could not be read again; the old ones stay"),
        }
    }
    Ok(())
}

/// As whom the packages of Debian and Ubuntu let QEMU run.
const QEMU_USER: &str = "libvirt-qemu";

/// Makes the folders that are the daemon's own. The run folder is closed to others: it holds user data and sockets.
fn make_folders(config: &Config) -> Result<Folders, StartError> {
    let folders = Folders {
        images: config.images_dir.clone(),
        images_known: config.data_dir.join("images.json"),
        volumes: config.volumes_dir.clone(),
        seeds: config.run_dir.join("seeds"),
        vnc: config.run_dir.join("vnc"),
    };
    make_folder(&config.data_dir, 0o700)?;
    make_folder(&config.images_dir, 0o755)?;
    make_folder(&config.volumes_dir, 0o711)?;
    // QEMU's user may enter these and list nothing; each seed is for the owner alone, whom libvirt changes for its guest.
    for folder in [&config.run_dir, &folders.seeds] {
        make_folder(folder, 0o711)?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o711)).map_err(folder_failed(folder))?;
    }
    make_folder(&folders.vnc, 0o700)?;
    // QEMU itself makes the socket. Where it runs as root there is no such user, or none is needed.
    if let Ok(Some(qemu)) = User::from_name(QEMU_USER) {
        chown(&folders.vnc, Some(qemu.uid), Some(qemu.gid))
            .map_err(io::Error::from)
            .map_err(folder_failed(&folders.vnc))?;
    }
    Ok(folders)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(folder_failed(path))
}

fn folder_failed(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Folder { path, source }
}

fn watch_libvirt(uri: &str, backend: &Arc<HostBackend>, handle: &Handle) -> Watch {
    let (backend, handle) = (Arc::clone(backend), handle.clone());
    Watch::start(uri, move |event| {
        if event == berth_libvirt::Event::Connected {
            backend.forget_capabilities();
        }
        handle.domain_event();
    })
}

/// Finds out what this host is and tells it; asks again for what could not be told at once.
async fn tell_facts(config: Config, backend: Arc<HostBackend>, handle: Handle) {
    let preflight = spawn_blocking(|| berth_hostsys::kvm::preflight(berth_hostsys::kvm::DEADLINE)).await;
    let Ok(preflight) = preflight else {
        tracing::error!("BE-9001: the KVM preflight panicked; this host takes no VMs");
        return;
    };
    let mut facts = loop {
        let (config, preflight) = (config.clone(), preflight.clone());
        match spawn_blocking(move || facts::gather(&config, &preflight, now().wall)).await {
            Ok(Ok(facts)) => break facts,
            Ok(Err(error)) => tracing::error!(%error, "this host cannot say what it is, and takes no VMs"),
            Err(_) => return,
        }
        tokio::time::sleep(ASK_VERSIONS).await;
    };
    for condition in &facts.conditions {
        if condition.status == ConditionStatus::False {
            tracing::warn!(condition = condition.kind, status = %condition.status, "{}", condition.message);
        } else {
            tracing::info!(condition = condition.kind, status = %condition.status, "{}", condition.message);
        }
    }
    handle.tell(Input::Conditions(facts.conditions.clone())).await;
    let mut asking = tokio::spawn(ask_versions(Arc::clone(&backend)));
    let known = match timeout(FIRST_VERSIONS, &mut asking).await {
        Ok(known) => known,
        Err(_) => {
            handle.tell(Input::Inventory(Box::new(facts.inventory.clone()))).await;
            asking.await
        }
    };
    facts.inventory.versions.splice(0..0, known.unwrap_or_default());
    let accelerator = facts.inventory.accelerator.accelerator;
    handle.tell(Input::Inventory(Box::new(facts.inventory))).await;
    // A libvirt that never looked at its QEMU takes seconds to do so: now, rather than when the first VM waits.
    if let Ok(Err(error)) = spawn_blocking(move || backend.capabilities(accelerator)).await {
        tracing::warn!(%error, "what libvirt can do is asked again when the first VM starts");
    }
}
