//! Many hosts in one process, each on a simulated machine: how a whole cluster is measured on one computer.
//!
//! Each host is the daemon itself with its own identity, certificate, ledger with its syncs, session and port; only what is
//! below [`Backend`] is imagined. The runtime and the threads that write ledgers are shared, so that a thousand hosts take
//! tens of threads. Only programs with the feature `sim` have this, and none of those is shipped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_host::agent::Input;
use berth_host::backend::BackendError;
use berth_host::ledger::{Entry, Record};
use berth_model::host::{
    AcceleratorReport, CoreId, HugepagePool, Inventory, NodeId, NodeMemory, Thread, ThreadId, Topology,
};
use berth_model::image::{ImageOnHost, Sha256Digest};
use berth_model::vm::Accelerator;
use berth_model::{Bytes, PageSize, VmUid};
use berth_simhost::{Machine, SimBackend};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError};
use crate::console::{Terminal, Terminals};
use crate::daemon::Daemon;
use crate::ledger_writers::{LedgerWriters, Listener};
use crate::service::StartError;

/// What stands for each host's name in the configuration.
const PLACEHOLDER: &str = "{name}";
/// Threads that write the ledgers of all hosts. A disk that syncs them together gains nothing from more.
const WRITERS: usize = 16;

/// Sockets of a simulated machine; each is a NUMA node.
const NODES: u32 = 2;
/// Cores of each socket, with two threads each.
const CORES: u32 = 32;
/// Last-level caches of each socket.
const CACHES: u32 = 4;
/// Whole cores kept for the host.
const KEPT_CORES: u32 = 2;
/// Ordinary memory of each node for VMs: nine of ten ask for it.
const ORDINARY: Bytes = Bytes::gib(200);
/// Memory of each node that is in 2 MiB hugepages.
const HUGE: Bytes = Bytes::gib(56);

/// What runs VMs, where it is not this machine with libvirt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// Simulated machines of two sockets with 32 cores of two threads each, and 512 GiB.
    Sim,
}

/// An image that every simulated host holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldImage {
    sha256: Sha256Digest,
    virtual_size: Bytes,
}

impl FromStr for HeldImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (sha256, size) = text.split_once(':').ok_or("give DIGEST:SIZE, such as 0123…cdef:2GiB")?;
        Ok(Self {
            sha256: sha256.parse().map_err(|error| format!("{error}"))?,
            virtual_size: size.parse().map_err(|error| format!("{error}"))?,
        })
    }
}

/// Which hosts to run, as it is asked for on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Order {
    /// Run on simulated machines instead of this one.
    #[arg(long, value_enum)]
    pub backend: Option<Kind>,
    /// How many hosts, called sim-0001 and so on. `{name}` stands for the name of each in the configuration.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "backend")]
    pub fleet: usize,
    /// How long a start takes, in milliseconds.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 50, requires = "backend")]
    pub boot_ms: u64,
    /// An image that each host says it has verified, DIGEST:SIZE.
    #[arg(long = "image", value_name = "IMAGE", requires = "backend")]
    pub images: Vec<HeldImage>,
    /// Append a line for each VM whose entry a host has just synced: nanoseconds since the boot of this computer, and the
    /// VM's uid.
    #[arg(long, value_name = "FILE", requires = "backend")]
    pub told: Option<PathBuf>,
}

/// Hosts that were asked for, with their configurations checked.
#[derive(Debug)]
pub struct Fleet {
    configs: Vec<Config>,
    order: Order,
}

impl Fleet {
    /// Reads the configuration that all hosts share but for their names.
    ///
    /// # Errors
    /// It cannot be read, or is not valid for one of the hosts.
    pub fn load(path: &Path, order: Order) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let invalid = |problem| ConfigError::Invalid { path: path.into(), problem };
        if order.fleet > 1 && !text.contains(PLACEHOLDER) {
            return Err(invalid(format!(
                "write {PLACEHOLDER} where the hosts of a fleet differ: name, data_dir and tls"
            )));
        }
        let config = |number| Config::parse(&text.replace(PLACEHOLDER, &format!("sim-{number:04}"))).map_err(invalid);
        Ok(Self { configs: (1..=order.fleet).map(config).collect::<Result<_, _>>()?, order })
    }

    /// Runs all of them until `stop`.
    ///
    /// # Errors
    /// The first that could not begin, or could not go on; all others are stopped in order.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StartError> {
        raise_open_files();
        let Self { configs, order } = self;
        let mut writers = LedgerWriters::new(WRITERS.min(configs.len()));
        if let Some(path) = &order.told {
            writers = writers.heard_by(teller(path)?);
        }
        let held = |image: &HeldImage| (image.sha256, ImageOnHost::Verified { virtual_size: image.virtual_size });
        let common = Arc::new(Common {
            inventory: inventory(),
            images: order.images.iter().map(held).collect(),
            boot_time: Duration::from_millis(order.boot_ms),
            writers,
            begun: AtomicUsize::new(0),
            hosts: configs.len(),
        });
        let mut hosts = JoinSet::new();
        for config in configs {
            hosts.spawn(host(config, Arc::clone(&common), stop.clone()));
        }
        let mut outcome = Ok(());
        while let Some(ended) = hosts.join_next().await {
            let ended = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            // None ends before it is told to, unless it fails.
            stop.cancel();
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// What all hosts share.
struct Common {
    inventory: Inventory,
    images: BTreeMap<Sha256Digest, ImageOnHost>,
    boot_time: Duration,
    writers: LedgerWriters,
    begun: AtomicUsize,
    hosts: usize,
}

async fn host(config: Config, common: Arc<Common>, stop: CancellationToken) -> Result<(), StartError> {
    let machine = Machine::new(common.inventory.clone());
    let backend = SimBackend::new(machine, common.boot_time);
    let mut daemon = Daemon::begin(&config, common.writers.clone(), stop, |_| Ok(backend)).await?;
    daemon.handle.tell(Input::Conditions(Vec::new())).await;
    daemon.handle.tell(Input::Inventory(Box::new(common.inventory.clone()))).await;
    daemon.handle.tell(Input::Images(common.images.clone())).await;
    if common.begun.fetch_add(1, Ordering::Relaxed) + 1 == common.hosts {
        tracing::info!(hosts = common.hosts, "all simulated hosts have begun");
    }
    let ended = daemon.until_stopped().await;
    daemon.end().await;
    ended
}

impl Terminals for SimBackend {
    fn open(&self, vm: VmUid) -> Result<Arc<dyn Terminal>, BackendError> {
        Err(BackendError::Failed {
            reason: "NoConsole",
            what: format!("opening the console of VM {vm}"),
            why: "its host is simulated".into(),
        })
    }
}

/// Two sockets of 32 cores with two threads each; 512 GiB for VMs.
fn inventory() -> Inventory {
    let all = NODES * CORES;
    let thread = |id: u32| {
        let core = id % all;
        let node = core / CORES;
        let cache = core / (CORES / CACHES);
        Thread { id: ThreadId(id), core: CoreId(core), socket: node, node: NodeId(node), cache }
    };
    let topology = Topology { threads: (0..2 * all).map(thread).collect() };
    let nodes = || (0..NODES).map(NodeId);
    let total = HUGE.0 / PageSize::Huge2M.bytes().0;
    Inventory {
        reserve: topology.host_reserve(KEPT_CORES),
        topology,
        memory: nodes().map(|node| NodeMemory { node, ordinary: ORDINARY }).collect(),
        hugepages: nodes().map(|node| HugepagePool { node, page: PageSize::Huge2M, total }).collect(),
        devices: Vec::new(),
        accelerator: AcceleratorReport { accelerator: Accelerator::Kvm, failed_step: None, detail: None },
        versions: vec!["a simulated machine".into()],
        overlap: false,
    }
}

/// Writes down which VMs' entries have just been synced, and when.
fn teller(path: &Path) -> Result<Listener, StartError> {
    let failed = |source| StartError::Folder { path: path.into(), source };
    let file = Mutex::new(OpenOptions::new().create(true).append(true).open(path).map_err(failed)?);
    Ok(Arc::new(move |records: &[Record]| {
        let at = berth_hostsys::boottime().as_nanos();
        let mut lines = String::new();
        for record in records {
            if let Record::Entry(Entry::Present(berth)) = record {
                // Writing to a string cannot fail.
                let _ = writeln!(lines, "{at} {}", berth.vm);
            }
        }
        if !lines.is_empty()
            && let Err(error) = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(lines.as_bytes())
        {
            tracing::error!(%error, "which VMs' entries were synced cannot be written down");
        }
    }))
}

/// A thousand hosts hold some thousand files open.
fn raise_open_files() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = r#"
        name = "{name}"
        data_dir = "/var/lib/fleet/{name}"
        listen = "127.0.0.1:0"
        controllers = ["127.0.0.1:7440"]
        [tls]
        ca = "/tls/{name}/ca.pem"
        cert = "/tls/{name}/cert.pem"
        key = "/tls/{name}/key.pem"
    "#;

    fn load(text: &str, hosts: usize) -> Result<Fleet, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let order = Order { backend: Some(Kind::Sim), fleet: hosts, boot_ms: 50, images: Vec::new(), told: None };
        Fleet::load(file.path(), order)
    }

    #[test]
    fn each_host_has_its_own_name_folder_and_certificate() {
        let fleet = load(TEMPLATE, 1000).unwrap();
        let last = &fleet.configs[999];
        assert_eq!(last.name.as_str(), "sim-1000");
        assert_eq!(last.data_dir, Path::new("/var/lib/fleet/sim-1000"));
        assert_eq!(last.tls.key, Path::new("/tls/sim-1000/key.pem"));
    }

    #[test]
    fn hosts_that_would_all_be_the_same_are_refused() {
        let same = TEMPLATE.replace("{name}", "h1");
        let Err(ConfigError::Invalid { problem, .. }) = load(&same, 2) else { panic!("taken") };
        assert!(problem.contains("{name}"), "{problem}");
        assert_eq!(load(&same, 1).unwrap().configs[0].name.as_str(), "h1");
    }

    #[test]
    fn a_simulated_machine_has_128_threads_and_512_gib_for_vms() {
        let inventory = inventory();
        assert_eq!((inventory.topology.threads.len(), inventory.reserve.len()), (128, 4));
        let ordinary: u64 = inventory.memory.iter().map(|node| node.ordinary.0).sum();
        let huge: u64 = inventory.hugepages.iter().map(|pool| pool.total * pool.page.bytes().0).sum();
        assert_eq!(Bytes(ordinary + huge), Bytes::gib(512));
    }

    #[test]
    fn an_image_is_given_by_its_digest_and_size() {
        let digest = Sha256Digest([7; 32]);
        let held: HeldImage = format!("{digest}:2GiB").parse().unwrap();
        assert_eq!(held, HeldImage { sha256: digest, virtual_size: Bytes::gib(2) });
        format!("{digest}").parse::<HeldImage>().unwrap_err();
    }
}
