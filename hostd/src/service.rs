//! The daemon as a whole: opens what it needs, joins the parts, and lets go in order.
//!
//! Nothing here stops a VM: not an end in order, not a failure, not a kill. What runs is adopted by the next start.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_host::agent::{Agent, Identity, Input};
use berth_host::session;
use berth_libvirt::{LibvirtBackend, Watch};
use berth_model::{ClusterId, ConditionStatus, HostUid, Uid};
use berth_pki::{Credentials, CredentialsError, Role};
use berth_telemetry::Drained;
use nix::unistd::{User, chown};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backend::{Folders, HostBackend};
use crate::config::Config;
use crate::driver::{Driver, Handle, Parts, now};
use crate::known_controllers::KnownControllers;
use crate::ledger_store::{LedgerStore, StoreError};
use crate::{console, facts, images};

/// How long steps that are under way may take to end when the daemon goes down. libvirt goes on without us anyway.
const DRAIN: Duration = Duration::from_secs(20);
/// How long open consoles may take to be told that the daemon goes down.
const LAST_WORDS: Duration = Duration::from_secs(2);
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
    let credentials = Credentials::load_files(&config.tls.ca, &config.tls.cert, &config.tls.key)?;
    let found = credentials.identity();
    if found.role() != Role::Host || found.name() != config.name.as_str() {
        return Err(StartError::OtherIdentity { found: found.clone(), name: config.name.to_string() });
    }
    let cluster: ClusterId = found.cluster().parse()?;
    let folders = make_folders(&config)?;
    let (store, ledger) = LedgerStore::open(&config.data_dir, mint)?;
    let uri = config.libvirt_uri.clone();
    let libvirt = LibvirtBackend::new(berth_libvirt::Options { uri: uri.clone(), cluster });
    let backend = Arc::new(HostBackend::open(&folders, libvirt)?);
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| StartError::Listen { address: config.listen, source })?;

    let me = Identity {
        name: config.name.clone(),
        address: config.told_address(),
        boot: berth_hostsys::boot_id(Path::new("/"))?,
        start: random(),
        version: berth_telemetry::BUILD.version.to_owned(),
    };
    tracing::info!(host = %config.name, host.id = %ledger.host(), vms = ledger.entries().len(), "the host daemon begins");
    let entropy = random();
    let known = KnownControllers::in_folder(&config.data_dir);
    let learned = known.load();
    let patience = session::Options { learned, ..session::Options::new(config.controllers.clone()) };
    let agent = Agent::new(me, ledger, patience, now(), entropy);
    let parts = Parts { agent, store, known, backend: Arc::clone(&backend), credentials: credentials.clone(), entropy };
    let (driver, handle) = Driver::new(parts);

    let watch = watch_libvirt(&uri, &backend, &handle);
    let gathering = tokio::spawn(tell_facts(config.clone(), Arc::clone(&backend), handle.clone()));
    let looking = tokio::spawn(images::tell(Arc::clone(&backend), handle.clone()));
    let reloading = tokio::spawn(reload_credentials(credentials.clone()));
    let placements = handle.clone();
    let options = console::Options {
        host: config.name.to_string(),
        credentials,
        placement_of: Arc::new(move |vm| placements.placement(vm)),
        terminals: Arc::clone(&backend) as Arc<dyn console::Terminals>,
    };
    let mut serving = tokio::spawn(console::serve(listener, options, stop.clone()));

    // The driver ends by itself once told to stop; a step that hangs must not keep the daemon.
    let driving = tokio::spawn(driver.run(stop.clone()));
    let served = tokio::select! {
        () = stop.cancelled() => Ok(()),
        served = &mut serving => served.unwrap_or(Ok(())),
    };
    stop.cancel();
    drop(watch);
    backend.stop();
    gathering.abort();
    looking.abort();
    reloading.abort();
    let ended = async { drop(driving.await) };
    if berth_telemetry::drain("steps under way", DRAIN, ended).await == Drained::Abandoned {
        tracing::warn!("a step was under way; the next start looks at what came of it");
    }
    if !serving.is_finished() {
        berth_telemetry::drain("open consoles", LAST_WORDS, async { drop(serving.await) }).await;
    }
    tracing::info!("the host daemon ends; its VMs run on");
    Ok(served?)
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

/// An identity for a host that has none: 96 random bits and some more.
fn mint() -> HostUid {
    let half = || uuid::Uuid::new_v4().as_u128() & ((1 << 60) - 1);
    HostUid(Uid::from_bits(half() << 60 | half()))
}

fn random() -> u64 {
    // The upper half of a v4 UUID holds four fixed bits, the lower half two; together they hide in the mix.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high.rotate_left(32) ^ low
}

/// Makes the folders that are the daemon's own. The run folder is closed to others: it holds user data and sockets.
/// As whom the packages of Debian and Ubuntu let QEMU run.
const QEMU_USER: &str = "libvirt-qemu";

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
