//! What the log carries: batches of commands, each of one actor.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::host::{Liveness, Overcommit};
use berth_model::image::ImageSpec;
use berth_model::instancetype::{InstanceTypeSpec, PreferenceSpec};
use berth_model::placement::{Taint, TaintEffect};
use berth_model::session::{Holding, Report};
use berth_model::vm::{Resources, RunStrategy, VmSpec};
use berth_model::{
    Actor, BootId, ClusterId, Generation, HostUid, ImageUid, Name, RequestId, Revision, Timestamp, Uid, VmUid,
};

/// One log entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// The proposer's clock; apply never lets entry time go back.
    pub at: Timestamp,
    /// Carried out in order.
    pub commands: Vec<Command>,
}

/// One command of one actor.
#[derive(Clone, PartialEq, Debug)]
pub struct Command {
    /// The client's name for the request, with the hash of its body; none for what the controller itself proposes.
    pub request: Option<(RequestId, [u8; 32])>,
    /// Who asks.
    pub actor: Actor,
    /// What is asked.
    pub body: Body,
}

/// What a client saw before it asked; apply refuses if it is no longer so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Expect {
    /// The object's revision.
    pub revision: Option<Revision>,
}

/// What an operator changes about a host; what is not named stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostPatch {
    /// Labels that it shall have, with their values.
    pub set_labels: BTreeMap<String, String>,
    /// Keys of labels that it shall not have.
    pub remove_labels: Vec<String>,
    /// Whether it takes new VMs.
    pub cordoned: Option<bool>,
    /// The zone it stands in; the inner none: in none.
    pub zone: Option<Option<Name>>,
    /// The rack it stands in; the inner none: in none.
    pub rack: Option<Option<Name>>,
    /// All groups it shall belong to.
    pub groups: Option<BTreeSet<Name>>,
    /// Taints that it shall have; one of the same key and effect is replaced.
    pub set_taints: Vec<Taint>,
    /// Taints that it shall not have, by key; no effect means every effect.
    pub remove_taints: Vec<(String, Option<TaintEffect>)>,
    /// What it promises to over-subscribed VMs.
    pub overcommit: Option<Overcommit>,
}

/// One move that the planner proposes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProposedMove {
    /// Which VM.
    pub vm: VmUid,
    /// Where it has its berth.
    pub from: HostUid,
    /// Where it would have one.
    pub to: HostUid,
    /// What would be better, a sentence.
    pub why: String,
}

/// What is asked. Each variant says when it arises.
#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    /// The first leader of a new cluster gives it its identity and the built-in instance types.
    Bootstrap {
        /// Its identity, as in its certificates.
        cluster: ClusterId,
        /// The rules it starts with.
        version: u32,
    },
    /// An operator creates a VM; admission expanded every default.
    CreateVm {
        /// Minted at admission.
        uid: VmUid,
        /// Its project.
        project: Name,
        /// Its name.
        name: Name,
        /// For selection.
        labels: BTreeMap<String, String>,
        /// For programs and notes.
        annotations: BTreeMap<String, String>,
        /// What is asked of it.
        spec: Box<VmSpec>,
    },
    /// An operator changes when a VM should run.
    SetRun {
        /// Which.
        vm: VmUid,
        /// How it shall be.
        run: RunStrategy,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator restarts a VM.
    RestartVm {
        /// Which.
        vm: VmUid,
        /// Whether to give the guest no time.
        force: bool,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator deletes a VM.
    DeleteVm {
        /// Which.
        vm: VmUid,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator makes an image known.
    CreateImage {
        /// Minted at admission.
        uid: ImageUid,
        /// Its name.
        name: Name,
        /// For selection.
        labels: BTreeMap<String, String>,
        /// What it is.
        spec: ImageSpec,
    },
    /// An operator forgets an image that no VM uses.
    DeleteImage {
        /// Its name.
        name: Name,
    },
    /// A host's session began, or something changed on the host. Proposed by the leader that holds its session.
    ReportHost {
        /// Who and where.
        facts: HostFacts,
        /// What changed.
        report: Box<Report>,
    },
    /// The leader heard of a host again, or heard nothing for long.
    SetLiveness {
        /// Which.
        host: HostUid,
        /// How it is.
        liveness: Liveness,
    },
    /// The planner chose a berth.
    Assign {
        /// For which VM.
        vm: VmUid,
        /// The spec that it was chosen for.
        generation: Generation,
        /// Where.
        host: HostUid,
        /// What there.
        resources: Resources,
    },
    /// The planner found no berth, for new reasons.
    NoteUnplaced {
        /// For which VM.
        vm: VmUid,
        /// Hosts that were looked at.
        hosts: u32,
        /// Why not.
        refusals: Vec<(Name, String)>,
    },
    /// An operator sets and removes labels of a VM; labels that are not named stay as they are.
    SetLabels {
        /// Which.
        vm: VmUid,
        /// Labels that it shall have, with their values.
        set: BTreeMap<String, String>,
        /// Keys of labels that it shall not have.
        remove: Vec<String>,
        /// What the operator saw.
        expect: Expect,
    },
    /// A host said what it remembers of its orphans, together with a report that names them.
    NoteHoldings {
        /// Which host.
        host: HostUid,
        /// What it remembers.
        holdings: Vec<Holding>,
    },
    /// An operator makes a VM of an orphan.
    AdoptOrphan {
        /// Where it is.
        host: HostUid,
        /// Which.
        vm: VmUid,
        /// What the operator saw of the host.
        expect: Expect,
    },
    /// An operator has an orphan removed with its disk.
    RemoveOrphan {
        /// Where it is.
        host: HostUid,
        /// Which.
        vm: VmUid,
        /// What the operator saw of the host.
        expect: Expect,
    },
    /// An operator changes what a VM that has no berth yet asks for, or the rules of one that has.
    SetSpec {
        /// Which.
        vm: VmUid,
        /// All that is asked of it from now on.
        spec: Box<VmSpec>,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator changes a host's place, marks or promises.
    UpdateHost {
        /// Which.
        host: HostUid,
        /// What changes.
        patch: Box<HostPatch>,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator says that a host which is not heard of is dead: nothing of it runs, whatever it said last.
    ConfirmDead {
        /// Which.
        host: HostUid,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator has the cluster forget a host.
    RemoveHost {
        /// Which.
        host: HostUid,
        /// Whether it never comes back: what it may still hold of ended placements is then forgotten too.
        never_returns: bool,
        /// What the operator saw.
        expect: Expect,
    },
    /// The planner found other moves that would make the cluster better.
    NoteProposals {
        /// Which VM, from where, to where, and what would be better.
        moves: Vec<ProposedMove>,
    },
    /// An operator makes an instance type known.
    CreateInstanceType {
        /// Minted at admission.
        uid: Uid,
        /// Its name.
        name: Name,
        /// What it stands for.
        spec: InstanceTypeSpec,
    },
    /// An operator forgets an instance type. VMs made of it stay as they are.
    DeleteInstanceType {
        /// Its name.
        name: Name,
    },
    /// An operator makes a preference known.
    CreatePreference {
        /// Minted at admission.
        uid: Uid,
        /// Its name.
        name: Name,
        /// What it wishes.
        spec: PreferenceSpec,
    },
    /// An operator forgets a preference. VMs made with it stay as they are.
    DeletePreference {
        /// Its name.
        name: Name,
    },
    /// An operator starts a VM.
    StartVm {
        /// Which.
        vm: VmUid,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator stops a VM.
    StopVm {
        /// Which.
        vm: VmUid,
        /// Whether to give the guest no time.
        force: bool,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator resets a VM that runs.
    ResetVm {
        /// Which.
        vm: VmUid,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator has the guest code of a VM held.
    PauseVm {
        /// Which.
        vm: VmUid,
        /// What the operator saw.
        expect: Expect,
    },
    /// An operator lets a VM go on.
    ResumeVm {
        /// Which.
        vm: VmUid,
        /// What the operator saw.
        expect: Expect,
    },
}

/// Who a host is and where it answers, as its session's first word said and its certificate proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostFacts {
    /// Its identity.
    pub uid: HostUid,
    /// Its name.
    pub name: Name,
    /// `address:port` of its daemon.
    pub address: String,
    /// Its boot.
    pub boot: BootId,
}

impl Body {
    /// Its name in logs, metrics and history.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bootstrap { .. } => "Bootstrap",
            Self::CreateVm { .. } => "CreateVm",
            Self::SetRun { .. } => "SetRun",
            Self::RestartVm { .. } => "RestartVm",
            Self::DeleteVm { .. } => "DeleteVm",
            Self::CreateImage { .. } => "CreateImage",
            Self::DeleteImage { .. } => "DeleteImage",
            Self::ReportHost { .. } => "ReportHost",
            Self::SetLiveness { .. } => "SetLiveness",
            Self::Assign { .. } => "Assign",
            Self::NoteUnplaced { .. } => "NoteUnplaced",
            Self::SetLabels { .. } => "SetLabels",
            Self::NoteHoldings { .. } => "NoteHoldings",
            Self::AdoptOrphan { .. } => "AdoptOrphan",
            Self::RemoveOrphan { .. } => "RemoveOrphan",
            Self::SetSpec { .. } => "SetSpec",
            Self::UpdateHost { .. } => "UpdateHost",
            Self::ConfirmDead { .. } => "ConfirmDead",
            Self::RemoveHost { .. } => "RemoveHost",
            Self::NoteProposals { .. } => "NoteProposals",
            Self::CreateInstanceType { .. } => "CreateInstanceType",
            Self::DeleteInstanceType { .. } => "DeleteInstanceType",
            Self::CreatePreference { .. } => "CreatePreference",
            Self::DeletePreference { .. } => "DeletePreference",
            Self::StartVm { .. } => "StartVm",
            Self::StopVm { .. } => "StopVm",
            Self::ResetVm { .. } => "ResetVm",
            Self::PauseVm { .. } => "PauseVm",
            Self::ResumeVm { .. } => "ResumeVm",
        }
    }

    /// The oldest cluster version whose rules know this command (law 11).
    pub const fn needs_version(&self) -> u32 {
        match self {
            Self::Bootstrap { .. } => 0,
            Self::CreateVm { .. }
            | Self::SetRun { .. }
            | Self::RestartVm { .. }
            | Self::DeleteVm { .. }
            | Self::CreateImage { .. }
            | Self::DeleteImage { .. }
            | Self::ReportHost { .. }
            | Self::SetLiveness { .. }
            | Self::Assign { .. }
            | Self::NoteUnplaced { .. }
            | Self::SetLabels { .. }
            | Self::NoteHoldings { .. }
            | Self::AdoptOrphan { .. }
            | Self::RemoveOrphan { .. }
            | Self::SetSpec { .. }
            | Self::UpdateHost { .. }
            | Self::ConfirmDead { .. }
            | Self::RemoveHost { .. }
            | Self::NoteProposals { .. }
            | Self::CreateInstanceType { .. }
            | Self::DeleteInstanceType { .. }
            | Self::CreatePreference { .. }
            | Self::DeletePreference { .. }
            | Self::StartVm { .. }
            | Self::StopVm { .. }
            | Self::ResetVm { .. }
            | Self::PauseVm { .. }
            | Self::ResumeVm { .. } => 1,
        }
    }
}
