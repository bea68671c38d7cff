//! What a controller and a host daemon say to each other.
//!
//! The host dials out; only the leader holds the session, followers answer [`ToHost::Redirect`]. The host speaks
//! first ([`Hello`]), the leader answers with [`Welcome`] and, after a linearizable read, with the whole desired set;
//! deltas follow. The host reports the whole picture once per session and then only what changed; reports are numbered
//! and acknowledged after commit. The machines on both ends are free of I/O and exactly these are driven by the
//! simulation.
//!
//! ```text
//!  host                               leader
//!   | Hello ---------------------------> |  cluster id, incarnation, term, protocol range, boot, start
//!   | <-------------- Redirect | Refuse | Welcome
//!   | Report{number 1, full} ----------> |  folded into commands, acknowledged after commit
//!   | <------ DesiredSet{full, confirmed by a linearizable read}
//!   | <------ Controllers{their addresses, again whenever they changed}
//!   | Heartbeat{n} --------------------> |
//!   | <---- HeartbeatAck{n, may_start_for}
//!   | <------ DesiredDelta ... / Report{number 2 ...} ->
//! ```

use serde::{Deserialize, Serialize};

use crate::host::{Inventory, Orphan};
use crate::image::{ImageOnHost, Sha256Digest};
use crate::vm::{Assignment, DeviceDemand, Observed, Performance, Power, Resources, RunStrategy, Tuning, VmSpec};
use crate::{BootId, Bytes, ClusterId, Condition, HostUid, Incarnation, Millis, Name, Revision, Stamp, Term, VmUid};

/// The versions of this protocol that one side speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// The oldest.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

/// What this version of Berth speaks.
pub const PROTOCOL: ProtocolRange = ProtocolRange { oldest: 1, newest: 1 };

impl ProtocolRange {
    /// The newest version that both sides speak.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

/// The host's first word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster it belongs to, from its ledger; none before its first session.
    pub cluster: Option<ClusterId>,
    /// The highest incarnation it has seen.
    pub incarnation: Incarnation,
    /// The highest term it has seen.
    pub term: Term,
    /// What it speaks.
    pub protocol: ProtocolRange,
    /// Who it is.
    pub host: HostUid,
    /// Its name, which its certificate must carry too.
    pub name: Name,
    /// Where its daemon answers controllers, `address:port`.
    pub address: String,
    /// This boot of its machine.
    pub boot: BootId,
    /// This start of its daemon: a number drawn at start.
    pub start: u64,
    /// The version of its program, for people.
    pub version: String,
}

/// The leader's answer to a [`Hello`] that it accepts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its term.
    pub term: Term,
    /// The version both will speak.
    pub protocol: u32,
    /// How often the host shall send a heartbeat.
    pub heartbeat_every: Millis,
    /// The higher term that the host said it had heard, if no majority knows of it: asked after the host's first word,
    /// the members stand at the lower one, so their data was put back. None in any other case.
    pub overrides: Option<Term>,
}

/// A VM that shall exist on the host, running or halted as its spec says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Present {
    /// Which.
    pub vm: VmUid,
    /// Its project, for people.
    pub project: Name,
    /// Its name: the guest's hostname.
    pub name: Name,
    /// What was asked; its user data is replaced by [`Present::user_data`].
    pub spec: VmSpec,
    /// What was chosen.
    pub assignment: Assignment,
    /// How often one more run was asked for.
    pub restart_count: u64,
    /// What operators last said about its run.
    pub power: Power,
    /// The user data, opened for this host alone. A host keeps it in memory and in the guest's seed, never in its ledger.
    pub user_data: Option<UserData>,
}

/// Opened user data; its bytes never appear in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserData(pub Vec<u8>);

impl std::fmt::Debug for UserData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UserData({} bytes)", self.0.len())
    }
}

/// A VM that shall not exist on the host. It stays in the set until the host reports it gone (law 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Absent {
    /// Which.
    pub vm: VmUid,
    /// The stamp of the placement that ends.
    pub stamp: Stamp,
    /// Whether the disk goes too: true for a deletion.
    pub with_disk: bool,
}

/// One entry of a host's desired set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DesiredEntry {
    /// Shall exist.
    Present(Box<Present>, Stamp),
    /// Shall not exist.
    Absent(Absent),
}

impl DesiredEntry {
    /// Which VM it speaks of.
    pub fn vm(&self) -> VmUid {
        match self {
            Self::Present(present, _) => present.vm,
            Self::Absent(absent) => absent.vm,
        }
    }

    /// By which it is compared with older words about the same VM.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Present(_, stamp) => *stamp,
            Self::Absent(absent) => absent.stamp,
        }
    }
}

/// From controller to host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToHost {
    /// Not the leader; try there, if somewhere is known.
    Redirect {
        /// `address:port` of the leader.
        leader: Option<String>,
    },
    /// No session, and why; trying again at once will not help.
    Refuse {
        /// A `BE-NNNN` code.
        code: String,
        /// What, why and what to do.
        message: String,
    },
    /// The session stands.
    Welcome(Welcome),
    /// The whole desired set, read linearizably after the [`Hello`]. Mentions every VM that the cluster places on or
    /// removes from this host; what it does not mention keeps running and is an orphan.
    DesiredSet {
        /// The revision at which it was taken.
        revision: Revision,
        /// Its entries, in ascending order of uid.
        entries: Vec<DesiredEntry>,
    },
    /// Entries that changed, and VMs of which the cluster no longer speaks (their removal was reported and committed).
    DesiredDelta {
        /// The revision that it brings the set to.
        revision: Revision,
        /// New or changed entries.
        entries: Vec<DesiredEntry>,
        /// VMs that leave the set without any instruction.
        forgotten: Vec<VmUid>,
    },
    /// Answers a heartbeat.
    HeartbeatAck {
        /// The number of the heartbeat.
        number: u64,
        /// The host may start domains for this long, counted from when it *sent* that heartbeat.
        may_start_for: Millis,
    },
    /// The report of this number is committed.
    ReportAck {
        /// Which.
        number: u64,
    },
    /// Where the controllers are, by the replicated membership, so that a host finds them even after all that its
    /// configuration names were replaced. Whoever answers there must still prove itself a controller of this cluster.
    Controllers {
        /// `address:port` of each member's API.
        addresses: Vec<String>,
    },
}

/// What a host reports of one VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VmReport {
    /// It exists here.
    Seen(Observed),
    /// It was removed as an `Absent` entry of this stamp asked, disk included where that was asked.
    Gone(Stamp),
}

/// What a host remembers of the placement by which an orphan was made: enough to keep its resources from being given to
/// others, and to make a VM of it again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// Which.
    pub vm: VmUid,
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory: Bytes,
    /// Its tuning template.
    pub performance: Performance,
    /// What the template came to.
    pub tuning: Tuning,
    /// PCI devices that it had been asked for.
    pub devices: Vec<DeviceDemand>,
    /// What its disk started as, by name.
    pub image_name: Name,
    /// What its disk started as.
    pub image: Sha256Digest,
    /// The disk's size.
    pub disk_size: Bytes,
    /// Whether it was to run.
    pub run: RunStrategy,
    /// What had been chosen for it.
    pub resources: Resources,
    /// How often a restart was asked for.
    pub restart_count: u64,
}

/// What changed on a host. In the first report of a session, everything is given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Counts from 1 within a session.
    pub number: u64,
    /// Whether VMs and images that it does not mention do not exist on the host.
    pub full: bool,
    /// What the host is.
    pub inventory: Option<Inventory>,
    /// All its conditions.
    pub conditions: Option<Vec<Condition>>,
    /// Image files; `None` for one that went away.
    pub images: Vec<(Sha256Digest, Option<ImageOnHost>)>,
    /// VMs.
    pub vms: Vec<(VmUid, VmReport)>,
    /// All orphans.
    pub orphans: Option<Vec<Orphan>>,
    /// What is remembered of the orphans' placements; all of them whenever `orphans` is given.
    pub holdings: Vec<Holding>,
}

/// From host to controller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToController {
    /// The first word.
    Hello(Hello),
    /// The host lives.
    Heartbeat {
        /// Counts from 1 within a session.
        number: u64,
    },
    /// What changed.
    Report(Box<Report>),
}
