//! The driver with its real connection, ledger and clocks; only the hypervisor is imagined.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use berth_host::agent::{Agent, Identity, Input};
use berth_host::backend::{Backend, BackendError, DomainSeen};
use berth_host::session::Options;
use berth_host::step::Step;
use berth_hostd::driver::{Driver, Handle, Parts, now};
use berth_hostd::known_controllers::KnownControllers;
use berth_hostd::ledger_store::LedgerStore;
use berth_hostd::ledger_writers::LedgerWriters;
use berth_model::host::{AcceleratorReport, Inventory, NodeId, ThreadId, Topology};
use berth_model::image::{ImageOnHost, ImageRef, Sha256Digest};
use berth_model::placement::Rules;
use berth_model::session::{Absent, DesiredEntry, Present, UserData, VmReport};
use berth_model::vm::{
    Accelerator, Assignment, DomainState, NodePages, Performance, Resources, RunStrategy, StopReason, Tuning, VmSpec,
};
use berth_model::{BootId, Bytes, Epoch, HostUid, Incarnation, Millis, PageSize, Stamp, Timestamp, VmUid};
use berth_pki::Role;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::leader::Leader;
use crate::trust::Trust;

fn host() -> HostUid {
    "host1".parse().unwrap()
}

pub(crate) fn vm(number: u8) -> VmUid {
    format!("vm{number}").parse().unwrap()
}

fn stamp() -> Stamp {
    Stamp { incarnation: Incarnation(1), epoch: Epoch(5) }
}

pub(crate) fn image() -> Sha256Digest {
    Sha256Digest([7; 32])
}

fn entry(number: u8, run: RunStrategy) -> DesiredEntry {
    entry_on(host(), number, run)
}

/// A VM with its berth on this host.
pub(crate) fn entry_on(host: HostUid, number: u8, run: RunStrategy) -> DesiredEntry {
    let present = Present {
        vm: vm(number),
        project: "default".parse().unwrap(),
        name: format!("web{number}").parse().unwrap(),
        spec: VmSpec {
            instance_type: None,
            cpus: 1,
            memory: Bytes::mib(256),
            preference: None,
            performance: Performance::High,
            tuning: Tuning::of(Performance::High),
            devices: Vec::new(),
            rules: Rules::default(),
            image: ImageRef { name: "tiny".parse().unwrap(), sha256: image(), virtual_size: Bytes::mib(64) },
            disk_size: Bytes::gib(1),
            run,
            grace: VmSpec::GRACE,
            user_data: None,
        },
        assignment: Assignment {
            host,
            epoch: Epoch(5),
            resources: Resources {
                vcpus: vec![ThreadId(1)],
                emulator: [ThreadId(0)].into_iter().collect(),
                iothread: [ThreadId(0)].into_iter().collect(),
                memory: vec![NodePages { node: NodeId(0), page: PageSize::Huge2M, count: 128 }],
                overhead: Bytes::mib(104),
                ..Resources::default()
            },
            at: Timestamp::from_millis(1),
        },
        restart_count: 0,
        power: berth_model::vm::Power::default(),
        user_data: Some(UserData(b"secret of the guest".to_vec())),
    };
    DesiredEntry::Present(Box::new(present), stamp())
}

fn always(number: u8) -> DesiredEntry {
    entry(number, RunStrategy::Always)
}

fn absent(number: u8) -> DesiredEntry {
    DesiredEntry::Absent(Absent { vm: vm(number), stamp: stamp(), with_disk: true })
}

/// A hypervisor that does what it is told, and notes what that was.
#[derive(Debug, Default)]
struct Imagined {
    domains: Mutex<BTreeMap<VmUid, DomainSeen>>,
    steps: Mutex<Vec<(VmUid, &'static str)>>,
}

impl Imagined {
    fn steps(&self) -> Vec<&'static str> {
        self.steps.lock().unwrap().iter().map(|(_, step)| *step).collect()
    }
}

impl Backend for Imagined {
    fn scan(&self) -> Result<Vec<DomainSeen>, BackendError> {
        Ok(self.domains.lock().unwrap().values().cloned().collect())
    }

    fn execute(&self, step: &Step) -> Result<(), BackendError> {
        self.steps.lock().unwrap().push((step.vm(), step.name()));
        let mut domains = self.domains.lock().unwrap();
        match step {
            Step::Prepare(domain) => assert!(domain.user_data.is_some()),
            Step::Start(domain) => {
                let seen = DomainSeen {
                    mark: domain.mark.clone(),
                    state: DomainState::Running,
                    accelerator: Accelerator::Tcg,
                    since: None,
                    floats: domain.floats.clone(),
                    is_read_back: true,
                    degraded: vec![],
                };
                domains.insert(domain.mark.vm, seen);
            }
            Step::Shutdown(vm) | Step::ForceOff(vm) => {
                if let Some(domain) = domains.get_mut(vm) {
                    domain.state = DomainState::Stopped(StopReason::GuestShutdown);
                }
            }
            Step::ReadBack(vm) => {
                if let Some(domain) = domains.get_mut(vm) {
                    domain.is_read_back = true;
                }
            }
            Step::Repin { vm, floats } => {
                if let Some(domain) = domains.get_mut(vm) {
                    domain.floats = Some(floats.clone());
                }
            }
            Step::Pause(_) | Step::Resume { .. } | Step::Reset { .. } => panic!("nobody asked for {step:?}"),
            Step::Remove { vm, .. } => drop(domains.remove(vm)),
        }
        Ok(())
    }

    fn leftovers(&self, vm: VmUid) -> Result<bool, BackendError> {
        Ok(self.domains.lock().unwrap().contains_key(&vm))
    }
}

/// A running daemon without its ports.
struct Daemon {
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Daemon {
    async fn start(trust: &Trust, folder: &Path, backend: &Arc<Imagined>, controllers: Vec<String>) -> Self {
        let (store, ledger) = open(folder).await;
        let me = Identity {
            name: "h1".parse().unwrap(),
            address: "127.0.0.1:1".into(),
            boot: BootId("boot".into()),
            start: 1,
            version: "0.0.0".into(),
        };
        let known = KnownControllers::in_folder(folder);
        let options = Options { learned: known.load(), ..Options::new(controllers) };
        let agent = Agent::new(me, ledger, options, now(), 1);
        let credentials = trust.credentials(Role::Host, "h1");
        let writers = LedgerWriters::new(1);
        let parts = Parts { agent, store, writers, known, backend: Arc::clone(backend), credentials, entropy: 1 };
        let (driver, handle) = Driver::new(parts);
        let stop = CancellationToken::new();
        let task = tokio::spawn(driver.run(stop.clone()));
        let inventory = Inventory {
            topology: Topology::default(),
            reserve: [].into_iter().collect(),
            memory: vec![],
            hugepages: vec![],
            devices: vec![],
            accelerator: AcceleratorReport { accelerator: Accelerator::Tcg, failed_step: None, detail: None },
            versions: vec![],
            overlap: false,
        };
        handle.tell(Input::Inventory(Box::new(inventory))).await;
        let images = [(image(), ImageOnHost::Verified { virtual_size: Bytes::mib(64) })].into();
        handle.tell(Input::Images(images)).await;
        Self { handle, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// The ledger, as soon as the thread of the daemon before has let go of it.
async fn open(folder: &Path) -> (LedgerStore, berth_host::ledger::Ledger) {
    let folder = folder.to_owned();
    let wait = move || loop {
        match LedgerStore::open(&folder, host) {
            Ok(opened) => return opened,
            Err(berth_hostd::ledger_store::StoreError::InUse { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    tokio::task::spawn_blocking(wait).await.unwrap()
}

pub(crate) fn runs(known: &crate::leader::Known, vm: VmUid) -> bool {
    matches!(known.vms.get(&vm), Some(VmReport::Seen(observed)) if observed.state == DomainState::Running)
}

#[tokio::test]
async fn a_vm_runs_is_adopted_by_the_next_daemon_and_goes_when_told() {
    let (trust, folder, backend) = (Trust::new(), tempfile::tempdir().unwrap(), Arc::new(Imagined::default()));
    let leader = Leader::new(&trust.credentials(Role::Controller, "c1"), vec![always(1)]).await;
    let daemon = Daemon::start(&trust, folder.path(), &backend, vec![leader.address.clone()]).await;
    let known = leader.until("VM 1 runs", |known| runs(known, vm(1))).await;
    assert!(known.reports[0].full && known.reports[0].inventory.is_some());
    assert_eq!(backend.steps(), ["prepare", "start"]);
    assert_eq!(daemon.handle.placement(vm(1)), Some(stamp()));
    daemon.stop().await;
    assert_eq!(backend.steps(), ["prepare", "start"], "an end in order stops no VM");

    let daemon = Daemon::start(&trust, folder.path(), &backend, vec![leader.address.clone()]).await;
    leader.until("two sessions", |known| known.reports.iter().filter(|report| report.full).count() >= 2).await;
    assert_eq!(backend.steps(), ["prepare", "start"], "what runs is adopted, not restarted");
    leader.want(absent(1)).await;
    leader.until("VM 1 is gone", |known| known.vms.get(&vm(1)) == Some(&VmReport::Gone(stamp()))).await;
    assert_eq!(backend.steps()[2..], ["force-off", "remove"]);
    daemon.stop().await;

    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"), "user data reached the disk");
    }
}

#[tokio::test]
async fn a_daemon_without_permission_starts_nothing_until_it_has_it() {
    let (trust, folder, backend) = (Trust::new(), tempfile::tempdir().unwrap(), Arc::new(Imagined::default()));
    let leader = Leader::new(&trust.credentials(Role::Controller, "c1"), vec![always(1)]).await;
    leader.permit(Millis(0));
    let daemon = Daemon::start(&trust, folder.path(), &backend, vec![leader.address.clone()]).await;
    let waits = |known: &crate::leader::Known| match known.vms.get(&vm(1)) {
        Some(VmReport::Seen(observed)) => {
            observed.trouble.as_ref().is_some_and(|(reason, _)| reason == "AwaitsPermission")
        }
        Some(VmReport::Gone(_)) | None => false,
    };
    leader.until("VM 1 waits", waits).await;
    assert_eq!(backend.steps(), Vec::<&str>::new());
    leader.permit(Millis(10_000));
    leader.until("VM 1 runs", |known| runs(known, vm(1))).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_session_that_is_lost_is_found_again_at_another_controller() {
    let (trust, folder, backend) = (Trust::new(), tempfile::tempdir().unwrap(), Arc::new(Imagined::default()));
    let first = Leader::new(&trust.credentials(Role::Controller, "c1"), vec![always(1)]).await;
    let second = Leader::new(&trust.credentials(Role::Controller, "c2"), vec![always(1)]).await;
    let addresses = vec![first.address.clone(), second.address.clone()];
    let daemon = Daemon::start(&trust, folder.path(), &backend, addresses).await;
    tokio::select! {
        _ = first.until("VM 1 runs", |known| runs(known, vm(1))) => drop(first),
        _ = second.until("VM 1 runs", |known| runs(known, vm(1))) => {
            drop(second);
            let known = first.until("the whole picture", |known| runs(known, vm(1))).await;
            assert!(known.reports[0].full);
            assert_eq!(backend.steps(), ["prepare", "start"]);
            return daemon.stop().await;
        }
    }
    let known = second.until("the whole picture", |known| runs(known, vm(1))).await;
    assert!(known.reports[0].full);
    assert_eq!(backend.steps(), ["prepare", "start"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_controller_that_no_configuration_names_is_found_by_this_daemon_and_the_next_if_it_can_prove_what_it_is() {
    let (trust, folder, backend) = (Trust::new(), tempfile::tempdir().unwrap(), Arc::new(Imagined::default()));
    let first = Leader::new(&trust.credentials(Role::Controller, "c1"), vec![always(1)]).await;
    let stranger = Leader::new(&Trust::new().credentials(Role::Controller, "c2"), vec![absent(1)]).await;
    let host = Leader::new(&trust.credentials(Role::Host, "c3"), vec![absent(1)]).await;
    let second = Leader::new(&trust.credentials(Role::Controller, "c4"), vec![always(1), always(2)]).await;
    let configured = vec![first.address.clone()];
    let daemon = Daemon::start(&trust, folder.path(), &backend, configured.clone()).await;
    first.until("VM 1 runs", |known| runs(known, vm(1))).await;
    first.tell_controllers(&[&stranger.address, &host.address, &second.address]).await;
    // What is written down is seen by its file alone: nothing waits for it.
    let known = KnownControllers::in_folder(folder.path());
    let written = async {
        while known.load().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), written).await.unwrap();
    drop(first);
    second.until("VM 2 runs too", |known| runs(known, vm(1)) && runs(known, vm(2))).await;
    daemon.stop().await;
    let daemon = Daemon::start(&trust, folder.path(), &backend, configured).await;
    second.until("two sessions", |known| known.reports.iter().filter(|report| report.full).count() >= 2).await;
    assert_eq!(backend.steps().len(), 4, "both were prepared and started, and nothing was removed");
    for impostor in [stranger, host] {
        impostor.until("nothing", |known| known.hello.is_none()).await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_controller_of_another_authority_is_not_spoken_to() {
    let (trust, folder, backend) = (Trust::new(), tempfile::tempdir().unwrap(), Arc::new(Imagined::default()));
    let stranger = Leader::new(&Trust::new().credentials(Role::Controller, "c1"), vec![absent(1)]).await;
    let leader = Leader::new(&trust.credentials(Role::Controller, "c1"), vec![always(1)]).await;
    let addresses = vec![stranger.address.clone(), leader.address.clone()];
    let daemon = Daemon::start(&trust, folder.path(), &backend, addresses).await;
    leader.until("VM 1 runs", |known| runs(known, vm(1))).await;
    stranger.until("nothing", |known| known.hello.is_none()).await;
    daemon.stop().await;
}
