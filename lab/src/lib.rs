//! A whole cluster on one Linux machine: network namespaces, a private libvirtd per host, real QEMU.
//!
//! ```text
//!  machine            bl7-sw            bl7-c1 … bl7-c3: berth-controller
//!  bl7 10.88.7.1 ────── br0 ─┬───────── eth0 10.88.7.11 …
//!                            └───────── bl7-h1 …: a network, mount and UTS namespace with
//!                                       berth-hostd, libvirtd and the QEMUs; eth0 10.88.7.21 …
//! ```
//!
//! Several labs can run at the same time, each by its number; everything of a lab can be found by that number alone, so
//! that a lab is removed without a trace even if whoever brought it up was killed half-way. A lab is either kept, until
//! someone takes it down, or owned by the process that brought it up, and then ends with it.

mod config;
mod error;
mod libvirt;
mod machine;
mod network;
mod plan;
mod process;
mod running;
mod tool;
mod up;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use berth_pki::{Authority, Identity, Issued, Role, San, Validity};

pub use error::{Error, Result};
pub use plan::{Binaries, Kind, Member, Slice};

use error::At as _;
use plan::Plan;

/// What a lab is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything of it lies: data, keys, logs, images. Empty, or what a lab left there.
    pub state_dir: PathBuf,
    /// The programs that it runs.
    pub binaries: Binaries,
    /// A certain number below 200; otherwise the lowest that is free.
    pub number: Option<u8>,
    /// How many controllers, at most 9 with the empty ones.
    pub controllers: u8,
    /// How many machines more that could become controllers: numbered on, with an address and an empty folder.
    pub empty_controllers: u8,
    /// How many hosts, at most 200.
    pub hosts: u8,
    /// Whether it lives on when this process ends; otherwise it goes down with the [`Lab`].
    pub keep: bool,
    /// What each host may use of this machine.
    pub slice: Slice,
    /// Told of each stage, a few words.
    pub progress: fn(&str),
}

impl Options {
    /// Three controllers and two hosts, owned; each host may use all CPUs, 2 GiB of memory and half of it as hugepages.
    pub fn new(state_dir: impl Into<PathBuf>, binaries: Binaries) -> Self {
        let cpus = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_else(|_| "0".to_owned());
        Self {
            state_dir: state_dir.into(),
            binaries,
            number: None,
            controllers: 3,
            empty_controllers: 0,
            hosts: 2,
            keep: false,
            slice: Slice { cpus: cpus.trim().to_owned(), memory_mib: 2048, hugepages_2m: 512 },
            progress: |_| (),
        }
    }
}

/// A lab that is up, or was when it was attached to.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    /// Held by the owner of a lab that is not kept.
    claim: Option<machine::Claim>,
    /// Processes started by this one, to be reaped.
    children: Mutex<Vec<Child>>,
}

/// A client's certificate, key and CLI configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Holds `ca.pem`, `cert.pem`, `key.pem` and `config.yaml`.
    pub folder: PathBuf,
    /// For `$BERTH_CONFIG`.
    pub config: PathBuf,
}

/// How a lab is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub number: u8,
    /// Its cluster id.
    pub cluster: String,
    /// Where its state is.
    pub state_dir: PathBuf,
    /// Its processes, in the order in which they are started.
    pub processes: Vec<ProcessStatus>,
}

/// How one process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStatus {
    /// What it is called by.
    pub name: String,
    /// Where it answers; libvirtd answers on its host only.
    pub address: Option<SocketAddr>,
    /// Its pid, while it runs.
    pub pid: Option<i32>,
    /// Whether it answers.
    pub ready: bool,
    /// What it writes.
    pub log: PathBuf,
}

impl Status {
    /// Whether every process runs and answers.
    pub fn is_ready(&self) -> bool {
        self.processes.iter().all(|process| process.ready)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "lab {} in {}, cluster {}", self.number, self.state_dir.display(), self.cluster)?;
        writeln!(f, "{:<14} {:<18} {:>8}  STATE", "NAME", "ADDRESS", "PID")?;
        for process in &self.processes {
            let address = process.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let pid = process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let state = match (process.pid, process.ready) {
                (None, _) => "not running",
                (Some(_), false) => "not answering",
                (Some(_), true) => "ready",
            };
            writeln!(f, "{:<14} {address:<18} {pid:>8}  {state}", process.name)?;
        }
        Ok(())
    }
}

impl Lab {
    /// Brings a lab up, whole or not at all, after cleaning what dead labs have left on this machine.
    pub fn up(options: &Options) -> Result<Self> {
        up::up(options)
    }

    /// The lab in this state directory.
    pub fn attach(state_dir: &Path) -> Result<Self> {
        let state_dir = std::path::absolute(state_dir).at("find", state_dir)?;
        // Its number may be another lab's by now, if the machine was restarted.
        match up::describe(&state_dir)? {
            Some(plan) if machine::record(plan.number)?.is_some_and(|record| record.state_dir == plan.state_dir) => {
                Ok(Self { plan, claim: None, children: Mutex::default() })
            }
            _ => Err(Error::NoLab(state_dir)),
        }
    }

    /// Takes it down and leaves nothing but its logs: no process, namespace, mount, link, hugepage or file.
    pub fn down(mut self) -> Result<()> {
        self.take_down()
    }

    /// Takes down whatever there is of the lab of this state directory, be it whole or not; fine if there is none.
    pub fn down_at(state_dir: &Path) -> Result<()> {
        match Self::attach(state_dir) {
            Ok(lab) => lab.down(),
            Err(Error::NoLab(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn take_down(&mut self) -> Result<()> {
        let number = self.plan.number;
        // First, because whoever cleans up dead labs holds it, and takes each claim for a moment to look.
        let shared = machine::Machine::lock()?;
        let claim = match self.claim.take() {
            Some(claim) => claim,
            None => machine::claim(number)?.ok_or(Error::Busy(number))?,
        };
        let children = std::mem::take(&mut *self.children.lock().unwrap_or_else(PoisonError::into_inner));
        up::clean(claim, &shared, Some(&self.plan.state_dir), children)
    }

    /// What is left on this machine of lab `number`, each thing in words; nothing after [`Lab::down`].
    pub fn leftovers(number: u8) -> Result<Vec<String>> {
        up::leftovers(number)
    }

    /// Its number, from which its addresses follow.
    pub fn number(&self) -> u8 {
        self.plan.number
    }

    /// Its cluster id.
    pub fn cluster(&self) -> &str {
        &self.plan.cluster
    }

    /// Where everything of it lies.
    pub fn state_dir(&self) -> &Path {
        &self.plan.state_dir
    }

    /// Controllers, then hosts.
    pub fn members(&self) -> &[Member] {
        &self.plan.members
    }

    /// The controller or host of this name.
    pub fn member(&self, name: &str) -> Result<&Member> {
        self.plan.member(name)
    }

    /// How it is.
    pub fn status(&self) -> Result<Status> {
        let processes = self.plan.processes().into_iter().filter(|process| process.program != plan::Program::Keeper);
        let processes = processes.map(|process| self.process_status(&process)).collect::<Result<_>>()?;
        let Plan { number, cluster, state_dir, .. } = &self.plan;
        Ok(Status { number: *number, cluster: cluster.clone(), state_dir: state_dir.clone(), processes })
    }

    /// A member's folder: its configuration, `tls`, `data`, and for hosts `images`, `volumes` and what is bound over
    /// `/run` and the like.
    pub fn folder(&self, member: &str) -> Result<PathBuf> {
        Ok(self.plan.folder(self.plan.member(member)?))
    }

    /// Where a member keeps its replicated state or its ledger.
    pub fn data_dir(&self, member: &str) -> Result<PathBuf> {
        Ok(self.folder(member)?.join("data"))
    }

    /// A member's configuration file; read at its next start.
    pub fn config_path(&self, member: &str) -> Result<PathBuf> {
        Ok(self.plan.config(self.plan.member(member)?))
    }

    /// What a process writes.
    pub fn log_path(&self, process: &str) -> Result<PathBuf> {
        Ok(self.plan.log(&self.plan.process(process)?.name))
    }

    /// The last lines of each process's log, for the report of a test that failed.
    pub fn log_tails(&self, lines: usize) -> BTreeMap<String, String> {
        let tail = |name: String| (name.clone(), tool::tail(&self.plan.log(&name), lines));
        self.plan.processes().into_iter().map(|process| tail(process.name)).collect()
    }

    /// The operator's CLI configuration, for `$BERTH_CONFIG`.
    pub fn admin_config_path(&self) -> PathBuf {
        self.plan.state_dir.join("clients/admin/config.yaml")
    }

    /// The lab's own authority, to issue whatever a test needs.
    pub fn authority(&self) -> Result<Authority> {
        Ok(Authority::load(&self.plan.authority())?)
    }

    /// Makes a client that trusts this lab's controllers and shows a certificate of any authority, cluster and role.
    ///
    /// `label` names its folder below `clients/`.
    pub fn client(&self, label: &str, authority: &Authority, role: Role, name: &str) -> Result<Client> {
        let identity = Identity::new(authority.cluster(), role, name)?;
        let mut issued = authority.issue(&identity, &[], validity())?;
        self.authority()?.cert_pem().clone_into(&mut issued.ca_pem);
        self.save_client(label, &issued)
    }

    fn save_client(&self, label: &str, issued: &Issued) -> Result<Client> {
        up::save_client(&self.plan, label, issued)
    }

    /// Puts an image file into every host's image folder, under its digest, which it returns.
    ///
    /// The hosts' files are links to one copy: to alter one of them, remove it and write another in its place.
    pub fn add_image(&self, file: &Path) -> Result<String> {
        let digest = running::sha256(file)?;
        for host in self.plan.of_kind(Kind::Host) {
            running::link_or_copy(file, &self.plan.folder(host).join("images").join(&digest))?;
        }
        Ok(digest)
    }

    /// A command inside the namespaces of a member, where `virsh` speaks to that host's libvirtd.
    pub fn command_in(&self, member: &str, program: &str) -> Result<Command> {
        let mut command = self.enter(self.plan.member(member)?)?;
        command.arg(program);
        Ok(command)
    }

    /// Runs a command inside the namespaces of a member and returns what it printed; failing is an error.
    pub fn exec_in(&self, member: &str, words: &[&str]) -> Result<String> {
        let mut command = self.enter(self.plan.member(member)?)?;
        let output = tool::run(command.args(words))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Pulls the network cable of a member; what runs in it does not notice but by silence.
    pub fn disconnect(&self, member: &str) -> Result<()> {
        network::plug(&self.plan, self.plan.member(member)?, false)
    }

    /// Plugs the cable in again.
    pub fn reconnect(&self, member: &str) -> Result<()> {
        network::plug(&self.plan, self.plan.member(member)?, true)
    }

    /// Lets nothing that one member sends reach the other, which may still speak to the first. For both directions it
    /// takes two calls. Neither notices but by silence.
    pub fn partition(&self, from: &str, to: &str) -> Result<()> {
        network::cut(&self.plan, self.plan.member(from)?, self.plan.member(to)?)
    }

    /// Ends every [`Self::partition`].
    pub fn heal(&self) -> Result<()> {
        self.plan.members.iter().try_for_each(|member| network::heal(&self.plan, member))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.claim.is_some()
            && let Err(error) = self.take_down()
        {
            tracing::error!(error = &error as &dyn std::error::Error, lab = self.plan.number, "lab not taken down");
        }
    }
}

fn validity() -> Validity {
    Validity::days(SystemTime::now(), 365)
}

/// The names that a member's certificate carries beside its identity, for clients that look at addresses.
fn names(member: &Member) -> [San; 2] {
    [San::Dns(member.name.clone()), San::Ip(member.address.into())]
}

/// How long a process may take to answer; libvirtd without a cache asks every QEMU first.
const READY: Duration = Duration::from_secs(60);
/// How long a process may take to end when asked.
const STOPPED: Duration = Duration::from_secs(60);
/// How long killed processes may take to be gone: QEMU gives back its memory first.
const KILLED: Duration = Duration::from_secs(30);
