//! What the host can be told to do: the closed list of effects on one VM.
//!
//! Every step is idempotent: carried out twice, or again after a crash half-way, it leads to the same place.

use berth_model::image::Sha256Digest;
use berth_model::session::UserData;
use berth_model::vm::{Accelerator, CpuShape, Performance, Resources};
use berth_model::{Bytes, ClusterId, Name, PageSize, Stamp, VmUid};

use crate::clock::BootTime;
use crate::float::Floats;

/// Everything needed to make and run one VM's domain, taken from its accepted entry and the host's own state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainSpec {
    /// What the domain will carry in its metadata.
    pub mark: Mark,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory: Bytes,
    /// The pages it lies on.
    pub page: PageSize,
    /// Its tuning template.
    pub performance: Performance,
    /// Queues of each of its virtio devices.
    pub queues: u32,
    /// IOThreads that have a host thread each for themselves; with none there is one that has not.
    pub dedicated_iothreads: u32,
    /// How its CPUs look to it.
    pub cpu_shape: CpuShape,
    /// The exact threads and pages.
    pub resources: Resources,
    /// Where it may run, if its CPUs float.
    pub floats: Option<Floats>,
    /// What the disk starts as.
    pub image: Sha256Digest,
    /// The disk's size.
    pub disk_size: Bytes,
    /// What runs its code.
    pub accelerator: Accelerator,
    /// For the guest's NoCloud seed.
    pub user_data: Option<UserData>,
}

/// What a domain of ours carries in its metadata, so that it is known again without any other record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Which VM.
    pub vm: VmUid,
    /// Its project, for people.
    pub project: Name,
    /// Its name, which is the guest's hostname.
    pub name: Name,
    /// The placement by which it was started.
    pub stamp: Stamp,
    /// The restart count that this run satisfies.
    pub restart_count: u64,
}

/// One effect on one VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Make what the domain needs on disk: the overlay on its verified image, grown to size, and the seed.
    /// Arises before every [`Step::Start`].
    Prepare(Box<DomainSpec>),
    /// Define the domain and start it. Arises when a VM shall run, does not, and the session permits starting.
    Start(Box<DomainSpec>),
    /// Ask the guest to shut down. Arises when a running VM shall stop or restart, and again while its grace lasts.
    Shutdown(VmUid),
    /// End the domain at once. Arises when the grace after [`Step::Shutdown`] is over or none is given, for a deletion, and
    /// when the guest's kernel gave up.
    ForceOff(VmUid),
    /// Let a running VM whose CPUs float run on other threads. Arises when VMs that have threads for themselves came or went.
    Repin {
        /// Which.
        vm: VmUid,
        /// Where it may run from now on.
        floats: Floats,
    },
    /// Compare how a VM runs with how it was to be started, and keep what differs. A start does that itself; it arises when a
    /// VM runs of which that was not done, because the daemon died meanwhile or QEMU did not answer.
    ReadBack(VmUid),
    /// Hold guest code. Arises when a running VM is to be paused.
    Pause(VmUid),
    /// Let guest code go on. Arises when a paused VM was asked to, and before a paused one is asked to shut down.
    Resume {
        /// Which.
        vm: VmUid,
        /// The word that this obeys.
        count: u64,
    },
    /// Reset the machine as its button would. Arises when a reset was asked for that was not yet done.
    Reset {
        /// Which.
        vm: VmUid,
        /// The word that this obeys.
        count: u64,
    },
    /// Remove definition, seed and, if asked, disk of a VM that does not run. Arises for an `Absent` entry.
    Remove {
        /// Which.
        vm: VmUid,
        /// Whether the disk goes too.
        with_disk: bool,
    },
}

/// Whether the permission of a step that must be begun before a moment ran out while it waited its turn (law 4). Asked when
/// the step begins, however long it waited.
pub fn has_lapsed(before: Option<BootTime>, now: BootTime) -> bool {
    before.is_some_and(|before| now >= before)
}

impl Step {
    /// Whom it concerns.
    pub fn vm(&self) -> VmUid {
        match self {
            Self::Prepare(domain) | Self::Start(domain) => domain.mark.vm,
            Self::Shutdown(vm)
            | Self::ForceOff(vm)
            | Self::Repin { vm, .. }
            | Self::ReadBack(vm)
            | Self::Pause(vm)
            | Self::Resume { vm, .. }
            | Self::Reset { vm, .. }
            | Self::Remove { vm, .. } => *vm,
        }
    }

    /// Its name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "prepare",
            Self::Start(_) => "start",
            Self::Shutdown(_) => "shutdown",
            Self::ForceOff(_) => "force-off",
            Self::Repin { .. } => "repin",
            Self::ReadBack(_) => "read-back",
            Self::Pause(_) => "pause",
            Self::Resume { .. } => "resume",
            Self::Reset { .. } => "reset",
            Self::Remove { .. } => "remove",
        }
    }
}
