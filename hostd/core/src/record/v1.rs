//! Version 1 of every ledger record. Golden tests hold the bytes: until the first release they change on purpose only, and
//! from then on never again (decision 0007).

use berth_model as model;
use berth_model::host::{NodeId, ThreadId, ThreadSet};
use berth_model::image::Sha256Digest;
use berth_model::{BootId, Bytes, ClusterId, Epoch, HostUid, Incarnation, Millis, Name, Term, Timestamp, VmUid};
use serde::{Deserialize, Serialize};

use super::mirror::{Mirror, frozen_enum, frozen_struct, leaves};
use super::{RecordError, kind};
use crate::clock;
use crate::journal;
use crate::ledger;

pub(super) const VERSION: u16 = 1;

leaves! {
    bool, u8, u16, u32, u64, Bytes, Epoch, Incarnation, Millis, Name, NodeId, Sha256Digest, ThreadId, ThreadSet, Timestamp, VmUid,
}

/// Milliseconds since boot.
#[derive(Debug, Serialize, Deserialize)]
struct BootTime(u64);

impl Mirror<clock::BootTime> for BootTime {
    fn freeze(living: clock::BootTime) -> Self {
        Self(living.as_millis())
    }
    fn thaw(self) -> clock::BootTime {
        clock::BootTime::from_millis(self.0)
    }
}

frozen_enum! {
    PageSize = model::PageSize { Small, Huge2M, Huge1G }
    RunStrategy = model::vm::RunStrategy { Always, Halted, RerunOnFailure, Manual, Once }
    Performance = model::vm::Performance { High, Standard, Density }
    SmtPolicy = model::vm::SmtPolicy { Siblings, WholeCores, Isolate }
    NumaPolicy = model::vm::NumaPolicy { Fewest, Single }
    CpuShape = model::vm::CpuShape { Cores, Sockets }
    StopReason = model::vm::StopReason { NeverStarted, GuestShutdown, Asked, Crashed, StartFailed, Unknown, Panicked }
    Run = journal::Run {
        Never,
        Running { since: Timestamp, from: Option<BootTime> },
        Stopped { reason: StopReason, since: Timestamp },
    }
    Entry = ledger::Entry { Present(berth: Box<Berth>), Absent(absent: Absent) }
}

frozen_struct! {
    Stamp = model::Stamp { incarnation: Incarnation, epoch: Epoch }
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
    DeviceDemand = model::vm::DeviceDemand { kind: PciKind, count: u32 }
    Ended = model::vm::Ended { reason: StopReason, at: Timestamp }
    Power = model::vm::Power { off: bool, forced: bool, paused: bool, resume_count: u64, reset_count: u64 }
    Berth = ledger::Berth {
        vm: VmUid,
        stamp: Stamp,
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
        grace: Millis,
        resources: Resources,
        restart_count: u64,
        power: Power,
    }
    Absent = model::session::Absent { vm: VmUid, stamp: Stamp, with_disk: bool }
    Journal = journal::Journal {
        restart_done: u64,
        resume_done: u64,
        reset_done: u64,
        begun: bool,
        failures: u32,
        next_try: Option<BootTime>,
        run: Run,
        last_end: Option<Ended>,
        gone: Option<Stamp>,
    }
}

pub(super) fn encode(record: ledger::Record) -> Result<Vec<u8>, RecordError> {
    Ok(match record {
        ledger::Record::Host(host) => berth_frame::encode_value(kind::HOST, VERSION, &host),
        ledger::Record::Boot(boot) => berth_frame::encode_value(kind::BOOT, VERSION, &boot),
        ledger::Record::Cluster { cluster, incarnation, term } => {
            berth_frame::encode_value(kind::CLUSTER, VERSION, &(cluster, incarnation, term))
        }
        ledger::Record::Entry(entry) => berth_frame::encode_value(kind::ENTRY, VERSION, &Entry::freeze(entry)),
        ledger::Record::Forget(vm) => berth_frame::encode_value(kind::FORGET, VERSION, &vm),
        ledger::Record::Journal(vm, journal) => {
            berth_frame::encode_value(kind::JOURNAL, VERSION, &(vm, Journal::freeze(journal)))
        }
        ledger::Record::Orphaned(berth) => berth_frame::encode_value(kind::ORPHANED, VERSION, &Berth::freeze(*berth)),
        ledger::Record::Unorphaned(vm) => berth_frame::encode_value(kind::UNORPHANED, VERSION, &vm),
    }?)
}

pub(super) fn decode(found: u16, body: &[u8]) -> Result<ledger::Record, RecordError> {
    Ok(match found {
        kind::HOST => ledger::Record::Host(berth_frame::decode_body::<HostUid>(found, body)?),
        kind::BOOT => ledger::Record::Boot(berth_frame::decode_body::<BootId>(found, body)?),
        kind::CLUSTER => {
            let (cluster, incarnation, term) = berth_frame::decode_body::<(ClusterId, Incarnation, Term)>(found, body)?;
            ledger::Record::Cluster { cluster, incarnation, term }
        }
        kind::ENTRY => ledger::Record::Entry(berth_frame::decode_body::<Entry>(found, body)?.thaw()),
        kind::FORGET => ledger::Record::Forget(berth_frame::decode_body::<VmUid>(found, body)?),
        kind::JOURNAL => {
            let (vm, journal) = berth_frame::decode_body::<(VmUid, Journal)>(found, body)?;
            ledger::Record::Journal(vm, journal.thaw())
        }
        kind::ORPHANED => ledger::Record::Orphaned(Box::new(berth_frame::decode_body::<Berth>(found, body)?.thaw())),
        kind::UNORPHANED => ledger::Record::Unorphaned(berth_frame::decode_body::<VmUid>(found, body)?),
        kind => return Err(RecordError::Unknown { kind, version: VERSION }),
    })
}
