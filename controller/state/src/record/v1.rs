//! Version 1 of every record. Golden tests hold the bytes: until the first release they change on purpose only, and from
//! then on never again (decision 0007).

mod history;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use berth_model as model;
use berth_model::host::{NodeId, Percent, ThreadId, ThreadSet};
use berth_model::image::Sha256Digest;
use berth_model::placement;
use berth_model::{
    BootId, Bytes, ClusterId, Epoch, Generation, HostUid, ImageUid, Incarnation, Millis, Name, RequestId, Revision,
    Timestamp, Uid, VmUid,
};
use serde::{Deserialize, Serialize};

use super::mirror::{Mirror, frozen_enum, frozen_struct, leaves};
use super::{RecordError, kind};
use crate::cluster::{Cluster, ClusterInfo};
use crate::requests::Remembered;
use crate::{command, ledger, outcome};

pub(super) use history::{
    decode_history, decode_holding, encode_history, encode_holding, host_body, image_body, instance_type_body,
    preference_body, proposal_body, request_body, singles, thaw_body, vm_body,
};

pub(super) const VERSION: u16 = 1;

leaves! {
    bool, i32, u8, u16, u32, u64, String, [u8; 32], BootId, Bytes, ClusterId, Epoch, Generation, HostUid, ImageUid,
    Incarnation, Millis, Name, NodeId, Percent, RequestId, Revision, Sha256Digest, ThreadId, ThreadSet, Timestamp, Uid, VmUid,
}

frozen_enum! {
    ActorRole = model::ActorRole { Controller, Host, Operator }
    ConditionStatus = model::ConditionStatus { True, False, Unknown }
    PageSize = model::PageSize { Small, Huge2M, Huge1G }
    Performance = model::vm::Performance { High, Standard, Density }
    SmtPolicy = model::vm::SmtPolicy { Siblings, WholeCores, Isolate }
    NumaPolicy = model::vm::NumaPolicy { Fewest, Single }
    CpuShape = model::vm::CpuShape { Cores, Sockets }
    Operator = placement::Operator { In, NotIn, Exists, DoesNotExist, Gt, Lt }
    Domain = placement::Domain { Host, Rack, Zone, Label(key: String) }
    Strength = placement::Strength { Required, Preferred(weight: u32) }
    WhenUnsatisfiable = placement::WhenUnsatisfiable { DoNotSchedule, ScheduleAnyway }
    TaintEffect = placement::TaintEffect { NoSchedule, PreferNoSchedule }
    RunStrategy = model::vm::RunStrategy { Always, Halted, RerunOnFailure, Manual, Once }
    Accelerator = model::vm::Accelerator { Kvm, Tcg }
    StopReason = model::vm::StopReason { NeverStarted, GuestShutdown, Asked, Crashed, StartFailed, Unknown, Panicked }
    DomainState = model::vm::DomainState { Starting, Running, Paused, Stopping, Stopped(reason: StopReason), Panicked }
    Liveness = model::host::Liveness { Alive, Suspect, Lost }
    ImageOnHost = model::image::ImageOnHost { Verified { virtual_size: Bytes }, Refused { reason: String } }
    VmReport = model::session::VmReport { Seen(observed: Observed), Gone(stamp: Stamp) }
    Shortage = ledger::Shortage {
        NoSuchThread(thread: ThreadId),
        ThreadTaken { thread: ThreadId, by: VmUid },
        Pages { node: NodeId, page: PageSize, wanted: u64, free: u64 },
        Ordinary { wanted: Bytes, free: Bytes },
        Shared { wanted: u64, capacity: u64 },
        NoSuchDevice(device: PciAddress),
        DeviceTaken { device: PciAddress, by: VmUid },
    }
    Outcome = outcome::Outcome { Done, Vm(uid: VmUid), Image(uid: ImageUid), Host(uid: HostUid) }
    Rejection = outcome::Rejection {
        AlreadyBootstrapped,
        NotBootstrapped,
        NeedsClusterVersion { command: String, needs: u32, has: u32 },
        NameTaken { kind: String, name: String },
        NotFound { kind: String, name: String },
        Changed { kind: String, name: String, expected: Revision, actual: Revision },
        Deleting { name: String },
        Halted { name: String },
        ImageInUse { name: Name, vm: String },
        RequestReused { id: String },
        RequestExpired { id: String, horizon: Timestamp },
        RequestFromFuture { id: String, ahead_seconds: u64 },
        PlanOutdated,
        DoesNotFit(shortage: Shortage),
        HostNotTaking { name: String, why: String },
        HostNameTaken { name: Name, held_by: HostUid },
        TooManyLabels { kind: String, name: String, count: u64, most: u64 },
        NoOrphan { host: String, vm: VmUid },
        NothingHeld { host: String, vm: VmUid },
        OrphanIsVm { vm: VmUid, name: String },
        Placed { name: String },
        HostHeardOf { name: String, liveness: String },
        HostInUse { name: String, why: String },
        BuiltIn { kind: String, name: String },
        TooMany { name: String, what: String, count: u64, most: u64 },
        NotNow { name: String, what: String, why: String },
    }
    Body = command::Body {
        Bootstrap { cluster: ClusterId, version: u32 },
        CreateVm {
            uid: VmUid,
            project: Name,
            name: Name,
            labels: BTreeMap<String, String>,
            annotations: BTreeMap<String, String>,
            spec: VmSpec,
        },
        SetRun { vm: VmUid, run: RunStrategy, expect: Expect },
        RestartVm { vm: VmUid, force: bool, expect: Expect },
        DeleteVm { vm: VmUid, expect: Expect },
        CreateImage { uid: ImageUid, name: Name, labels: BTreeMap<String, String>, spec: ImageSpec },
        DeleteImage { name: Name },
        ReportHost { facts: HostFacts, report: Report },
        SetLiveness { host: HostUid, liveness: Liveness },
        Assign { vm: VmUid, generation: Generation, host: HostUid, resources: Resources },
        NoteUnplaced { vm: VmUid, hosts: u32, refusals: Vec<(Name, String)> },
        SetLabels { vm: VmUid, set: BTreeMap<String, String>, remove: Vec<String>, expect: Expect },
        NoteHoldings { host: HostUid, holdings: Vec<Holding> },
        AdoptOrphan { host: HostUid, vm: VmUid, expect: Expect },
        RemoveOrphan { host: HostUid, vm: VmUid, expect: Expect },
        SetSpec { vm: VmUid, spec: VmSpec, expect: Expect },
        UpdateHost { host: HostUid, patch: HostPatch, expect: Expect },
        ConfirmDead { host: HostUid, expect: Expect },
        RemoveHost { host: HostUid, never_returns: bool, expect: Expect },
        NoteProposals { moves: Vec<ProposedMove> },
        CreateInstanceType { uid: Uid, name: Name, spec: InstanceTypeSpec },
        DeleteInstanceType { name: Name },
        CreatePreference { uid: Uid, name: Name, spec: PreferenceSpec },
        DeletePreference { name: Name },
        StartVm { vm: VmUid, expect: Expect },
        StopVm { vm: VmUid, force: bool, expect: Expect },
        ResetVm { vm: VmUid, expect: Expect },
        PauseVm { vm: VmUid, expect: Expect },
        ResumeVm { vm: VmUid, expect: Expect },
    }
}

frozen_struct! {
    Actor = model::Actor { role: ActorRole, name: String }
    Stamp = model::Stamp { incarnation: Incarnation, epoch: Epoch }
    Sealed = model::Sealed { key_id: String, nonce: Vec<u8>, ciphertext: Vec<u8> }
    Condition = model::Condition {
        kind: String, status: ConditionStatus, reason: String, message: String, since: Timestamp,
    }
    OwnerRef = model::meta::OwnerRef { kind: String, name: Name, uid: Uid }
    Meta = model::Meta {
        project: Name,
        name: Name,
        uid: Uid,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        finalizers: Vec<String>,
        owners: Vec<OwnerRef>,
        generation: Generation,
        created_at: Timestamp,
        deleted_at: Option<Timestamp>,
        revision: Revision,
    }
    ImageSpec = model::image::ImageSpec { sha256: Sha256Digest, virtual_size: Bytes }
    ImageRef = model::image::ImageRef { name: Name, sha256: Sha256Digest, virtual_size: Bytes }
    Image = model::image::Image { meta: Meta, spec: ImageSpec }
    InstanceTypeSpec = model::instancetype::InstanceTypeSpec { cpus: u32, memory: Bytes }
    InstanceType = model::instancetype::InstanceType { meta: Meta, spec: InstanceTypeSpec }
    PreferenceSpec = model::instancetype::PreferenceSpec {
        cpu_shape: Option<CpuShape>,
        pages: Option<PageSize>,
        smt: Option<SmtPolicy>,
        numa: Option<NumaPolicy>,
        dedicated_emulator: Option<bool>,
        dedicated_iothreads: Option<u32>,
    }
    Preference = model::instancetype::Preference { meta: Meta, spec: PreferenceSpec }
    Tuning = model::vm::Tuning {
        pages: PageSize,
        smt: SmtPolicy,
        numa: NumaPolicy,
        dedicated_emulator: bool,
        dedicated_iothreads: u32,
        cpu_shape: CpuShape,
    }
    PciKind = model::host::PciKind { vendor: u16, product: u16 }
    PciAddress = model::host::PciAddress { domain: u32, bus: u8, device: u8, function: u8 }
    PciDevice = model::host::PciDevice {
        address: PciAddress,
        kind: PciKind,
        node: Option<NodeId>,
        iommu_group: Option<u32>,
        physical: Option<PciAddress>,
    }
    DeviceDemand = model::vm::DeviceDemand { kind: PciKind, count: u32 }
    Requirement = placement::Requirement { key: String, operator: Operator, values: Vec<String> }
    HostWish = placement::HostWish { weight: u32, hosts: Selector }
    VmAffinity = placement::VmAffinity { anti: bool, strength: Strength, domain: Domain, vms: Selector }
    Spread = placement::Spread {
        domain: Domain, max_skew: u32, when_unsatisfiable: WhenUnsatisfiable, vms: Selector,
    }
    Taint = placement::Taint { key: String, value: String, effect: TaintEffect }
    Toleration = placement::Toleration {
        key: Option<String>, value: Option<String>, effect: Option<TaintEffect>,
    }
    Rules = placement::Rules {
        hosts: Vec<Selector>,
        host_wishes: Vec<HostWish>,
        host_group: Option<Name>,
        tolerations: Vec<Toleration>,
        affinity: Vec<VmAffinity>,
        spread: Vec<Spread>,
        priority: i32,
    }
    VmSpec = model::vm::VmSpec {
        instance_type: Option<Name>,
        preference: Option<Name>,
        cpus: u32,
        memory: Bytes,
        performance: Performance,
        tuning: Tuning,
        devices: Vec<DeviceDemand>,
        rules: Rules,
        image: ImageRef,
        disk_size: Bytes,
        run: RunStrategy,
        grace: Millis,
        user_data: Option<Sealed>,
    }
    NodePages = model::vm::NodePages { node: NodeId, page: PageSize, count: u64 }
    Resources = model::vm::Resources {
        vcpus: Vec<ThreadId>,
        dedicated: ThreadSet,
        idle: ThreadSet,
        emulator: ThreadSet,
        iothread: ThreadSet,
        shared_cpu: u64,
        memory: Vec<NodePages>,
        overhead: Bytes,
        devices: Vec<PciAddress>,
    }
    Assignment = model::vm::Assignment { host: HostUid, epoch: Epoch, resources: Resources, at: Timestamp }
    Unplaced = model::vm::Unplaced { since: Timestamp, hosts: u32, refusals: Vec<(Name, String)> }
    Observed = model::vm::Observed {
        epoch: Epoch,
        state: DomainState,
        accelerator: Option<Accelerator>,
        restart_count: u64,
        reset_count: u64,
        failures: u32,
        last_end: Option<Ended>,
        trouble: Option<(String, String)>,
        degraded: Vec<String>,
        since: Timestamp,
    }
    Ended = model::vm::Ended { reason: StopReason, at: Timestamp }
    Power = model::vm::Power { off: bool, forced: bool, paused: bool, resume_count: u64, reset_count: u64 }
    Vm = model::vm::Vm {
        meta: Meta,
        spec: VmSpec,
        restart_count: u64,
        power: Power,
        assignment: Option<Assignment>,
        unplaced: Option<Unplaced>,
        observed: Option<Observed>,
    }
    Thread = model::host::Thread { id: ThreadId, core: CoreId, socket: u32, node: NodeId, cache: u32 }
    Topology = model::host::Topology { threads: Vec<Thread> }
    NodeMemory = model::host::NodeMemory { node: NodeId, ordinary: Bytes }
    HugepagePool = model::host::HugepagePool { node: NodeId, page: PageSize, total: u64 }
    AcceleratorReport = model::host::AcceleratorReport {
        accelerator: Accelerator, failed_step: Option<String>, detail: Option<String>,
    }
    Inventory = model::host::Inventory {
        topology: Topology,
        reserve: ThreadSet,
        memory: Vec<NodeMemory>,
        hugepages: Vec<HugepagePool>,
        devices: Vec<PciDevice>,
        accelerator: AcceleratorReport,
        versions: Vec<String>,
        overlap: bool,
    }
    Overcommit = model::host::Overcommit { cpu_percent: Percent, memory_percent: Percent }
    HostSpec = model::host::HostSpec {
        cordoned: bool,
        zone: Option<Name>,
        rack: Option<Name>,
        groups: Vec<Name>,
        taints: Vec<Taint>,
        overcommit: Overcommit,
    }
    HostPatch = command::HostPatch {
        set_labels: BTreeMap<String, String>,
        remove_labels: Vec<String>,
        cordoned: Option<bool>,
        zone: Option<Option<Name>>,
        rack: Option<Option<Name>>,
        groups: Option<Vec<Name>>,
        set_taints: Vec<Taint>,
        remove_taints: Vec<(String, Option<TaintEffect>)>,
        overcommit: Option<Overcommit>,
    }
    ProposedMove = command::ProposedMove { vm: VmUid, from: HostUid, to: HostUid, why: String }
    Proposal = placement::Proposal { vm: VmUid, from: HostUid, to: HostUid, why: String, since: Timestamp }
    Eviction = model::host::Eviction { vm: VmUid, stamp: Stamp, resources: Resources, with_disk: bool }
    Orphan = model::host::Orphan { vm: VmUid, called: String, running: bool }
    Host = model::host::Host {
        meta: Meta,
        spec: HostSpec,
        address: String,
        boot: BootId,
        liveness: Liveness,
        liveness_since: Timestamp,
        inventory: Inventory,
        conditions: Vec<Condition>,
        images: BTreeMap<Sha256Digest, ImageOnHost>,
        orphans: Vec<Orphan>,
        evictions: Vec<Eviction>,
        awaited: Option<Timestamp>,
    }
    Holding = model::session::Holding {
        vm: VmUid,
        project: Name,
        name: Name,
        cpus: u32,
        memory: Bytes,
        performance: Performance,
        tuning: Tuning,
        devices: Vec<DeviceDemand>,
        image_name: Name,
        image: Sha256Digest,
        disk_size: Bytes,
        run: RunStrategy,
        resources: Resources,
        restart_count: u64,
    }
    Expect = command::Expect { revision: Option<Revision> }
    HostFacts = command::HostFacts { uid: HostUid, name: Name, address: String, boot: BootId }
    Command = command::Command { request: Option<(RequestId, [u8; 32])>, actor: Actor, body: Body }
    Batch = command::Batch { at: Timestamp, commands: Vec<Command> }
    Applied = outcome::Applied { revision: Revision, result: Result<Outcome, Rejection> }
    Info = ClusterInfo { id: ClusterId, incarnation: Incarnation, version: u32, created_at: Timestamp }
    RememberedRequest = Remembered { actor: Actor, body: [u8; 32], answer: Applied, at: Timestamp, sequence: u64 }
}

/// A selector is the list of its conditions.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::record) struct Selector(Vec<Requirement>);

impl Mirror<placement::Selector> for Selector {
    fn freeze(living: placement::Selector) -> Self {
        Self(Mirror::freeze(living.0))
    }
    fn thaw(self) -> placement::Selector {
        placement::Selector(self.0.thaw())
    }
}

/// What is remembered of orphans has a command of its own: it is no part of this record.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::record) struct Report {
    number: u64,
    full: bool,
    inventory: Option<Inventory>,
    conditions: Option<Vec<Condition>>,
    images: Vec<(Sha256Digest, Option<ImageOnHost>)>,
    vms: Vec<(VmUid, VmReport)>,
    orphans: Option<Vec<Orphan>>,
}

impl Mirror<model::session::Report> for Report {
    fn freeze(living: model::session::Report) -> Self {
        let model::session::Report { number, full, inventory, conditions, images, vms, orphans, holdings: _ } = living;
        Self {
            number,
            full,
            inventory: Mirror::freeze(inventory),
            conditions: Mirror::freeze(conditions),
            images: Mirror::freeze(images),
            vms: Mirror::freeze(vms),
            orphans: Mirror::freeze(orphans),
        }
    }
    fn thaw(self) -> model::session::Report {
        let Self { number, full, inventory, conditions, images, vms, orphans } = self;
        model::session::Report {
            number,
            full,
            inventory: inventory.thaw(),
            conditions: conditions.thaw(),
            images: images.thaw(),
            vms: vms.thaw(),
            orphans: orphans.thaw(),
            holdings: Vec::new(),
        }
    }
}

use berth_model::host::CoreId;
leaves!(CoreId);

/// The last record of a snapshot: how many records lie between it and the first.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotEnd {
    records: u64,
}

pub(super) fn info(living: Option<ClusterInfo>) -> Option<Info> {
    Mirror::freeze(living)
}

pub(super) fn thaw_info(frozen: Option<Info>) -> Option<ClusterInfo> {
    frozen.thaw()
}

fn freeze<F: Mirror<M> + Serialize, M>(kind: u16, living: M) -> Result<Vec<u8>, RecordError> {
    Ok(berth_frame::encode_value(kind, VERSION, &F::freeze(living))?)
}

fn thaw<F: Mirror<M> + for<'a> Deserialize<'a>, M>(kind: u16, bytes: &[u8]) -> Result<M, RecordError> {
    Ok(berth_frame::decode_value::<F>(kind, VERSION, bytes)?.thaw())
}

pub(super) fn encode_batch(batch: &command::Batch) -> Result<Vec<u8>, RecordError> {
    freeze::<Batch, _>(kind::BATCH, batch.clone())
}

pub(super) fn decode_batch(bytes: &[u8]) -> Result<command::Batch, RecordError> {
    thaw::<Batch, _>(kind::BATCH, bytes)
}

pub(super) fn encode_answers(answers: &[outcome::Applied]) -> Result<Vec<u8>, RecordError> {
    freeze::<Vec<Applied>, _>(kind::ANSWERS, answers.to_vec())
}

pub(super) fn decode_answers(bytes: &[u8]) -> Result<Vec<outcome::Applied>, RecordError> {
    thaw::<Vec<Applied>, _>(kind::ANSWERS, bytes)
}

/// Writes the objects of a snapshot, one record each, and says how many.
pub(super) fn write_objects(cluster: &Cluster, out: &mut dyn Write) -> Result<u64, RecordError> {
    let mut records = 0;
    let mut put = |record: Result<Vec<u8>, RecordError>| -> Result<(), RecordError> {
        out.write_all(&record?)?;
        records += 1;
        Ok(())
    };
    for vm in cluster.vms.values() {
        put(freeze::<Vm, _>(kind::SNAPSHOT_VM, model::vm::Vm::clone(vm)))?;
    }
    for host in cluster.hosts.values() {
        put(freeze::<Host, _>(kind::SNAPSHOT_HOST, model::host::Host::clone(host)))?;
    }
    for image in cluster.images.values() {
        put(freeze::<Image, _>(kind::SNAPSHOT_IMAGE, model::image::Image::clone(image)))?;
    }
    for instance_type in cluster.instance_types.values() {
        let living = model::instancetype::InstanceType::clone(instance_type);
        put(freeze::<InstanceType, _>(kind::SNAPSHOT_INSTANCE_TYPE, living))?;
    }
    for preference in cluster.preferences.values() {
        let living = model::instancetype::Preference::clone(preference);
        put(freeze::<Preference, _>(kind::SNAPSHOT_PREFERENCE, living))?;
    }
    for proposal in &cluster.proposals {
        put(freeze::<Proposal, _>(kind::SNAPSHOT_PROPOSAL, placement::Proposal::clone(proposal)))?;
    }
    for (id, held) in cluster.requests.iter() {
        put(freeze::<(RequestId, RememberedRequest), _>(kind::SNAPSHOT_REQUEST, (id, held.clone())))?;
    }
    Ok(records)
}

/// How many records the last one counts.
pub(super) fn read_end(body: &[u8]) -> Result<u64, RecordError> {
    let end: SnapshotEnd = berth_frame::decode_body(kind::SNAPSHOT_END, body)?;
    Ok(end.records)
}

/// The last record.
pub(super) fn end(records: u64) -> Result<Vec<u8>, RecordError> {
    Ok(berth_frame::encode_value(kind::SNAPSHOT_END, VERSION, &SnapshotEnd { records })?)
}

/// Puts one object of a snapshot in place, as it was: no revision is drawn.
pub(super) fn take_in(cluster: &mut Cluster, record_kind: u16, body: &[u8]) -> Result<(), RecordError> {
    match record_kind {
        kind::SNAPSHOT_VM => {
            let vm: model::vm::Vm = berth_frame::decode_body::<Vm>(record_kind, body)?.thaw();
            cluster.index_vm(None, Some(&vm));
            cluster.vms.insert(vm.uid(), Arc::new(vm));
        }
        kind::SNAPSHOT_HOST => {
            let host: model::host::Host = berth_frame::decode_body::<Host>(record_kind, body)?.thaw();
            cluster.index_host(None, Some(&host));
            cluster.hosts.insert(host.uid(), Arc::new(host));
        }
        kind::SNAPSHOT_IMAGE => {
            let image: model::image::Image = berth_frame::decode_body::<Image>(record_kind, body)?.thaw();
            cluster.images.insert(image.meta.name.clone(), Arc::new(image));
        }
        kind::SNAPSHOT_INSTANCE_TYPE => {
            let living: model::instancetype::InstanceType =
                berth_frame::decode_body::<InstanceType>(record_kind, body)?.thaw();
            cluster.instance_types.insert(living.meta.name.clone(), Arc::new(living));
        }
        kind::SNAPSHOT_PREFERENCE => {
            let living: model::instancetype::Preference =
                berth_frame::decode_body::<Preference>(record_kind, body)?.thaw();
            cluster.preferences.insert(living.meta.name.clone(), Arc::new(living));
        }
        kind::SNAPSHOT_PROPOSAL => {
            let living: placement::Proposal = berth_frame::decode_body::<Proposal>(record_kind, body)?.thaw();
            cluster.proposals.push_back(Arc::new(living));
        }
        kind::SNAPSHOT_REQUEST => {
            let (id, held): (RequestId, Remembered) =
                berth_frame::decode_body::<(RequestId, RememberedRequest)>(record_kind, body)?.thaw();
            cluster.requests.take_in(id, held);
        }
        unknown => return Err(RecordError::Unknown { kind: unknown, version: VERSION }),
    }
    Ok(())
}
