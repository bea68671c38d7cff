//! Version 1 of every record. Frozen: nothing here may change any more, golden tests hold the bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model as model;
use berth_model::host::{NodeId, ThreadId, ThreadSet};
use berth_model::image::Sha256Digest;
use berth_model::{
    BootId, Bytes, ClusterId, Epoch, Generation, HostUid, ImageUid, Incarnation, Name, RequestId, Revision, Timestamp,
    Uid, VmUid,
};
use serde::{Deserialize, Serialize};

use super::mirror::{Mirror, frozen_enum, frozen_struct, leaves};
use super::{RecordError, kind};
use crate::cluster::{Cluster, ClusterInfo};
use crate::requests::{Remembered, Requests};
use crate::{command, ledger, outcome};

const VERSION: u16 = 1;

leaves! {
    bool, u8, u16, u32, u64, String, [u8; 32], BootId, Bytes, ClusterId, Epoch, Generation, HostUid, ImageUid,
    Incarnation, Name, NodeId, RequestId, Revision, Sha256Digest, ThreadId, ThreadSet, Timestamp, Uid, VmUid,
}

frozen_enum! {
    ActorRole = model::ActorRole { Controller, Host, Operator }
    ConditionStatus = model::ConditionStatus { True, False, Unknown }
    PageSize = model::PageSize { Small, Huge2M, Huge1G }
    Performance = model::vm::Performance { High }
    RunStrategy = model::vm::RunStrategy { Always, Halted }
    Accelerator = model::vm::Accelerator { Kvm, Tcg }
    StopReason = model::vm::StopReason { NeverStarted, GuestShutdown, Asked, Crashed, StartFailed, Unknown }
    DomainState = model::vm::DomainState { Starting, Running, Paused, Stopping, Stopped(reason: StopReason) }
    Liveness = model::host::Liveness { Alive, Suspect, Lost }
    ImageOnHost = model::image::ImageOnHost { Verified { virtual_size: Bytes }, Refused { reason: String } }
    VmReport = model::session::VmReport { Seen(observed: Observed), Gone(stamp: Stamp) }
    Shortage = ledger::Shortage {
        NoSuchThread(thread: ThreadId),
        ThreadTaken { thread: ThreadId, by: VmUid },
        Pages { node: NodeId, page: PageSize, wanted: u64, free: u64 },
        Ordinary { wanted: Bytes, free: Bytes },
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
        RestartVm { vm: VmUid, expect: Expect },
        DeleteVm { vm: VmUid, expect: Expect },
        CreateImage { uid: ImageUid, name: Name, labels: BTreeMap<String, String>, spec: ImageSpec },
        DeleteImage { name: Name },
        ReportHost { facts: HostFacts, report: Report },
        SetLiveness { host: HostUid, liveness: Liveness },
        Assign { vm: VmUid, generation: Generation, host: HostUid, resources: Resources },
        NoteUnplaced { vm: VmUid, hosts: u32, refusals: Vec<(Name, String)> },
        SetLabels { vm: VmUid, set: BTreeMap<String, String>, remove: Vec<String>, expect: Expect },
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
    VmSpec = model::vm::VmSpec {
        instance_type: Option<Name>,
        cpus: u32,
        memory: Bytes,
        performance: Performance,
        image: ImageRef,
        disk_size: Bytes,
        run: RunStrategy,
        user_data: Option<Sealed>,
    }
    NodePages = model::vm::NodePages { node: NodeId, page: PageSize, count: u64 }
    Resources = model::vm::Resources {
        vcpus: Vec<ThreadId>, emulator: ThreadSet, iothread: ThreadSet, memory: Vec<NodePages>, overhead: Bytes,
    }
    Assignment = model::vm::Assignment { host: HostUid, epoch: Epoch, resources: Resources, at: Timestamp }
    Unplaced = model::vm::Unplaced { since: Timestamp, hosts: u32, refusals: Vec<(Name, String)> }
    Observed = model::vm::Observed {
        epoch: Epoch,
        state: DomainState,
        accelerator: Option<Accelerator>,
        restart_count: u64,
        failures: u32,
        trouble: Option<(String, String)>,
        degraded: Vec<String>,
        since: Timestamp,
    }
    Vm = model::vm::Vm {
        meta: Meta,
        spec: VmSpec,
        restart_count: u64,
        assignment: Option<Assignment>,
        unplaced: Option<Unplaced>,
        observed: Option<Observed>,
    }
    Thread = model::host::Thread { id: ThreadId, core: CoreId, socket: u32, node: NodeId }
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
        accelerator: AcceleratorReport,
        versions: Vec<String>,
        overlap: bool,
    }
    HostSpec = model::host::HostSpec { cordoned: bool }
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
    }
    Report = model::session::Report {
        number: u64,
        full: bool,
        inventory: Option<Inventory>,
        conditions: Option<Vec<Condition>>,
        images: Vec<(Sha256Digest, Option<ImageOnHost>)>,
        vms: Vec<(VmUid, VmReport)>,
        orphans: Option<Vec<Orphan>>,
    }
    Expect = command::Expect { revision: Option<Revision> }
    HostFacts = command::HostFacts { uid: HostUid, name: Name, address: String, boot: BootId }
    Command = command::Command { request: Option<(RequestId, [u8; 32])>, actor: Actor, body: Body }
    Batch = command::Batch { at: Timestamp, commands: Vec<Command> }
    Applied = outcome::Applied { revision: Revision, result: Result<Outcome, Rejection> }
    Info = ClusterInfo { id: ClusterId, incarnation: Incarnation, version: u32, created_at: Timestamp }
    RememberedRequest = Remembered { actor: Actor, body: [u8; 32], answer: Applied, at: Timestamp, sequence: u64 }
}

use berth_model::host::CoreId;
leaves!(CoreId);

/// The first record of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotHead {
    info: Option<Info>,
    revision: Revision,
    last_at: Timestamp,
    request_horizon: Timestamp,
    next_request: u64,
}

/// The last record of a snapshot: how many records lie between it and the first.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotEnd {
    records: u64,
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

pub(super) fn encode_snapshot(cluster: &Cluster) -> Result<Vec<u8>, RecordError> {
    let mut bytes = berth_frame::encode_value(
        kind::SNAPSHOT_HEAD,
        VERSION,
        &SnapshotHead {
            info: Mirror::freeze(cluster.info),
            revision: cluster.revision,
            last_at: cluster.last_at,
            request_horizon: cluster.requests.horizon,
            next_request: cluster.requests.next_sequence,
        },
    )?;
    let mut records = 0;
    let mut put = |record: Result<Vec<u8>, RecordError>| -> Result<(), RecordError> {
        bytes.extend_from_slice(&record?);
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
    for (id, held) in cluster.requests.iter() {
        put(freeze::<(RequestId, RememberedRequest), _>(kind::SNAPSHOT_REQUEST, (id, held.clone())))?;
    }
    bytes.extend(berth_frame::encode_value(kind::SNAPSHOT_END, VERSION, &SnapshotEnd { records })?);
    Ok(bytes)
}

pub(super) fn decode_snapshot(bytes: &[u8]) -> Result<Cluster, RecordError> {
    let first = berth_frame::decode(bytes)?;
    if first.header.kind != kind::SNAPSHOT_HEAD || first.header.version != VERSION {
        return Err(RecordError::Unknown { kind: first.header.kind, version: first.header.version });
    }
    let head: SnapshotHead = berth_frame::decode_body(first.header.kind, first.body)?;
    let mut cluster = Cluster {
        info: head.info.thaw(),
        revision: head.revision,
        last_at: head.last_at,
        requests: Requests { horizon: head.request_horizon, next_sequence: head.next_request, ..Requests::default() },
        ..Cluster::default()
    };
    let mut rest = first.rest;
    let mut records = 0;
    loop {
        if rest.is_empty() {
            return Err(RecordError::Incomplete(format!("it ends after {records} records without an end record")));
        }
        let record = berth_frame::decode(rest)?;
        rest = record.rest;
        if record.header.version != VERSION {
            return Err(RecordError::Unknown { kind: record.header.kind, version: record.header.version });
        }
        if record.header.kind == kind::SNAPSHOT_END {
            let end: SnapshotEnd = berth_frame::decode_body(record.header.kind, record.body)?;
            if end.records != records || !rest.is_empty() {
                return Err(RecordError::Incomplete(format!(
                    "it says {} records and holds {records}, with {} bytes after its end",
                    end.records,
                    rest.len()
                )));
            }
            return Ok(cluster);
        }
        take_in(&mut cluster, record.header.kind, record.body)?;
        records += 1;
    }
}

/// Puts one object of a snapshot in place, as it was: no revision is drawn.
fn take_in(cluster: &mut Cluster, record_kind: u16, body: &[u8]) -> Result<(), RecordError> {
    match record_kind {
        kind::SNAPSHOT_VM => {
            let vm: model::vm::Vm = berth_frame::decode_body::<Vm>(record_kind, body)?.thaw();
            cluster.index_vm(None, Some(&vm));
            cluster.vms.insert(vm.uid(), Arc::new(vm));
        }
        kind::SNAPSHOT_HOST => {
            let host: model::host::Host = berth_frame::decode_body::<Host>(record_kind, body)?.thaw();
            cluster.host_names.insert(host.meta.name.clone(), host.uid());
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
        kind::SNAPSHOT_REQUEST => {
            let (id, held): (RequestId, Remembered) =
                berth_frame::decode_body::<(RequestId, RememberedRequest)>(record_kind, body)?.thaw();
            cluster.requests.order.insert(held.sequence, id);
            cluster.requests.by_id.insert(id, held);
        }
        unknown => return Err(RecordError::Unknown { kind: unknown, version: VERSION }),
    }
    Ok(())
}
