//! One host's daemon whatever its machine is: identity, ledger, session and port, joined, and let go of in order.
//!
//! [`crate::service`] puts it on this machine and libvirt; a simulated machine goes below it just so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_host::agent::{Agent, Identity};
use berth_host::backend::Backend;
use berth_host::session;
use berth_model::{ClusterId, HostUid, Uid};
use berth_pki::{Credentials, Role};
use berth_telemetry::Drained;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::console::{self, Terminals};
use crate::driver::{Driver, Handle, Parts, now};
use crate::known_controllers::KnownControllers;
use crate::ledger_store::LedgerStore;
use crate::ledger_writers::LedgerWriters;
use crate::service::StartError;

/// How long steps that are under way may take to end when the daemon goes down. libvirt goes on without us anyway.
const DRAIN: Duration = Duration::from_secs(20);
/// How long open consoles may take to be told that the daemon goes down.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A host's daemon that has begun.
pub(crate) struct Daemon<B> {
    /// Where its steps go.
    pub(crate) backend: Arc<B>,
    /// To its agent.
    pub(crate) handle: Handle,
    /// Who it is.
    pub(crate) credentials: Credentials,
    driving: JoinHandle<()>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    stop: CancellationToken,
}

impl<B: Backend + Terminals> Daemon<B> {
    /// Begins: everything that can be refused is refused here. `open` makes the machine of a host of this cluster.
    /// Tells nothing of the machine yet. Must be called within a tokio runtime.
    pub(crate) async fn begin(
        config: &Config,
        writers: LedgerWriters,
        stop: CancellationToken,
        open: impl FnOnce(ClusterId) -> Result<B, StartError> + Send,
    ) -> Result<Self, StartError> {
        let credentials = Credentials::load_files(&config.tls.ca, &config.tls.cert, &config.tls.key)?;
        let found = credentials.identity();
        if found.role() != Role::Host || found.name() != config.name.as_str() {
            return Err(StartError::OtherIdentity { found: found.clone(), name: config.name.to_string() });
        }
        let backend = Arc::new(open(found.cluster().parse()?)?);
        let (store, ledger) = LedgerStore::open(&config.data_dir, mint)?;
        let refused = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;

        let me = Identity {
            name: config.name.clone(),
            address: config.told_address(listener.local_addr().map_err(refused)?),
            boot: berth_hostsys::boot_id(Path::new("/"))?,
            start: random(),
            version: berth_telemetry::BUILD.version.to_owned(),
        };
        let vms = ledger.entries().len();
        tracing::info!(host = %config.name, host.id = %ledger.host(), vms, "the host daemon begins");
        let entropy = random();
        let known = KnownControllers::in_folder(&config.data_dir);
        let learned = known.load();
        let patience = session::Options { learned, ..session::Options::new(config.controllers.clone()) };
        let agent = Agent::new(me, ledger, patience, now(), entropy);
        let (driver, handle) = Driver::new(Parts {
            agent,
            store,
            writers,
            known,
            backend: Arc::clone(&backend),
            credentials: credentials.clone(),
            entropy,
        });
        let placements = handle.clone();
        let options = console::Options {
            host: config.name.to_string(),
            credentials: credentials.clone(),
            placement_of: Arc::new(move |vm| placements.placement(vm)),
            terminals: Arc::clone(&backend) as Arc<dyn Terminals>,
        };
        let serving = tokio::spawn(console::serve(listener, options, stop.clone()));
        let driving = tokio::spawn(driver.run(stop.clone()));
        Ok(Self { backend, handle, credentials, driving, serving, stop })
    }

    /// Waits until it is told to stop, or until it cannot serve any more, which it then tells the rest of itself.
    pub(crate) async fn until_stopped(&mut self) -> Result<(), StartError> {
        let served = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            served = &mut self.serving => served.unwrap_or(Ok(())),
        };
        self.stop.cancel();
        Ok(served?)
    }

    /// Lets go of all, in order. It was told to stop.
    pub(crate) async fn end(self) {
        // The driver ends by itself once told to stop; a step that hangs must not keep the daemon.
        let ended = async { drop(self.driving.await) };
        if berth_telemetry::drain("steps under way", DRAIN, ended).await == Drained::Abandoned {
            tracing::warn!("a step was under way; the next start looks at what came of it");
        }
        if !self.serving.is_finished() {
            berth_telemetry::drain("open consoles", LAST_WORDS, async { drop(self.serving.await) }).await;
        }
        tracing::info!("the host daemon ends; its VMs run on");
    }
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
