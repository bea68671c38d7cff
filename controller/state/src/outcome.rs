//! What comes out of apply: an answer for who asked, and changes for who watches.

use std::sync::Arc;

use berth_model::host::Host;
use berth_model::image::Image;
use berth_model::instancetype::{InstanceType, Preference};
use berth_model::vm::Vm;
use berth_model::{HostUid, ImageUid, Name, Revision, Timestamp, VmUid};

use crate::ledger::Shortage;

/// The answer to one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The state's revision after the command.
    pub revision: Revision,
    /// What came of it.
    pub result: Result<Outcome, Rejection>,
}

/// What a command that was carried out did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It did what it says, or there was nothing to do.
    Done,
    /// It concerned this VM.
    Vm(VmUid),
    /// It concerned this image.
    Image(ImageUid),
    /// It concerned this host.
    Host(HostUid),
}

/// Why a command was not carried out. The same on every replica.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// The bootstrap was done before.
    #[error("the cluster has its identity already")]
    AlreadyBootstrapped,
    /// No bootstrap yet.
    #[error("the cluster has no identity yet")]
    NotBootstrapped,
    /// The command needs newer rules than the cluster's.
    #[error("the command {command} needs cluster version {needs}, the cluster is at {has}")]
    NeedsClusterVersion {
        /// Its name.
        command: String,
        /// Wanted.
        needs: u32,
        /// Present.
        has: u32,
    },
    /// An object of this kind and name exists.
    #[error("{kind} {name:?} exists already")]
    NameTaken {
        /// Such as `VM`.
        kind: String,
        /// The name.
        name: String,
    },
    /// No such object.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// Such as `VM`.
        kind: String,
        /// Name or uid.
        name: String,
    },
    /// The object is not as the client saw it.
    #[error("{kind} {name:?} changed meanwhile: expected revision {expected}, it is at {actual}")]
    Changed {
        /// Such as `VM`.
        kind: String,
        /// Its name.
        name: String,
        /// What the client saw.
        expected: Revision,
        /// What it is.
        actual: Revision,
    },
    /// The VM is being deleted.
    #[error("VM {name:?} is being deleted")]
    Deleting {
        /// Its name.
        name: String,
    },
    /// A restart of a VM that is not to run.
    #[error("VM {name:?} is halted; there is nothing to restart")]
    Halted {
        /// Its name.
        name: String,
    },
    /// The image is some VM's.
    #[error("image {name:?} is used by VM {vm:?}")]
    ImageInUse {
        /// Its name.
        name: Name,
        /// The first such VM.
        vm: String,
    },
    /// The request id was used for another request.
    #[error("request id {id} was used before for another request")]
    RequestReused {
        /// Which.
        id: String,
    },
    /// The request id is older than what is remembered.
    #[error("request id {id} is older than the window of remembered requests, which begins at {horizon}")]
    RequestExpired {
        /// Which.
        id: String,
        /// The oldest that can be told from a repetition.
        horizon: Timestamp,
    },
    /// The request id is from the future.
    #[error("request id {id} was made {ahead_seconds} s in the future")]
    RequestFromFuture {
        /// Which.
        id: String,
        /// By how much.
        ahead_seconds: u64,
    },
    /// The planner looked at an older state.
    #[error("the VM is not as the planner saw it")]
    PlanOutdated,
    /// The berth is not free.
    #[error("the host cannot take it: {0}")]
    DoesNotFit(Shortage),
    /// The host takes no new VMs at present.
    #[error("host {name:?} takes no new VMs: {why}")]
    HostNotTaking {
        /// Its name.
        name: String,
        /// Such as `it is cordoned`.
        why: String,
    },
    /// Another host bears the name.
    #[error("the name {name:?} belongs to host {held_by}")]
    HostNameTaken {
        /// The name.
        name: Name,
        /// Whose it is.
        held_by: HostUid,
    },
    /// With these labels it would have more than an object may have.
    #[error("{kind} {name:?} would have {count} labels, at most {most} are allowed")]
    TooManyLabels {
        /// Such as `VM`.
        kind: String,
        /// Its name.
        name: String,
        /// As many as it would have.
        count: u64,
        /// As many as it may have.
        most: u64,
    },
    /// The host lists no such orphan.
    #[error("host {host:?} lists no orphan {vm}")]
    NoOrphan {
        /// The host's name.
        host: String,
        /// What was asked for.
        vm: VmUid,
    },
    /// The host does not remember by which placement the orphan was made.
    #[error("host {host:?} does not remember what the orphan {vm} was given, so no VM can be made of it")]
    NothingHeld {
        /// The host's name.
        host: String,
        /// What was asked for.
        vm: VmUid,
    },
    /// The cluster has a VM of this uid.
    #[error("the orphan {vm} is VM {name:?} to the cluster")]
    OrphanIsVm {
        /// What was asked for.
        vm: VmUid,
        /// The VM's name.
        name: String,
    },
    /// What a VM asks for can only be changed before it has a berth.
    #[error(
        "VM {name:?} has its berth; only its rules can be changed now, and they count when it is placed the next time"
    )]
    Placed {
        /// Its name.
        name: String,
    },
    /// The host is heard of.
    #[error("host {name:?} is {liveness}: it is heard of, so what it runs is not for anybody's word to end")]
    HostHeardOf {
        /// Its name.
        name: String,
        /// How it is.
        liveness: String,
    },
    /// The host still holds something.
    #[error("host {name:?} cannot be removed: {why}")]
    HostInUse {
        /// Its name.
        name: String,
        /// What it holds.
        why: String,
    },
    /// It came with the cluster.
    #[error("{kind} {name:?} is built in and stays")]
    BuiltIn {
        /// Such as `instance type`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// With these it would have more than it may have.
    #[error("host {name:?} would have {count} {what}, at most {most} are allowed")]
    TooMany {
        /// Its name.
        name: String,
        /// Such as `taints`.
        what: String,
        /// As many as it would have.
        count: u64,
        /// As many as it may have.
        most: u64,
    },
    /// The VM is not in a state for it.
    #[error("VM {name:?} cannot be {what}: {why}")]
    NotNow {
        /// Its name.
        name: String,
        /// Such as `paused`.
        what: String,
        /// Such as `it does not run`.
        why: String,
    },
}

/// One object before and after a change.
#[derive(Clone, PartialEq, Debug)]
pub enum Object {
    /// A VM.
    Vm {
        /// None when it was created.
        before: Option<Arc<Vm>>,
        /// None when it was removed.
        after: Option<Arc<Vm>>,
    },
    /// A host.
    Host {
        /// None when it was registered.
        before: Option<Arc<Host>>,
        /// None when it was removed.
        after: Option<Arc<Host>>,
    },
    /// An image.
    Image {
        /// None when it was created.
        before: Option<Arc<Image>>,
        /// None when it was removed.
        after: Option<Arc<Image>>,
    },
    /// An instance type.
    InstanceType {
        /// None when it was created.
        before: Option<Arc<InstanceType>>,
        /// None when it was removed.
        after: Option<Arc<InstanceType>>,
    },
    /// A preference.
    Preference {
        /// None when it was created.
        before: Option<Arc<Preference>>,
        /// None when it was removed.
        after: Option<Arc<Preference>>,
    },
}

/// One object change, at its own revision.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Drawn by this change alone.
    pub revision: Revision,
    /// What changed.
    pub object: Object,
}
