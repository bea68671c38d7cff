//! Version 1 of every ledger record. Frozen: nothing here may change any more, golden tests hold the bytes.

use berth_model as model;
use berth_model::host::{NodeId, ThreadId, ThreadSet};
use berth_model::image::Sha256Digest;
use berth_model::{BootId, Bytes, ClusterId, Epoch, HostUid, Incarnation, Name, Term, Timestamp, VmUid};
use serde::{Deserialize, Serialize};

use super::mirror::{Mirror, frozen_enum, frozen_struct, leaves};
use super::{RecordError, kind};
use crate::clock;
use crate::journal;
use crate::ledger;

pub(super) const VERSION: u16 = 1;

leaves! {
    bool, u32, u64, Bytes, Epoch, Incarnation, Name, NodeId, Sha256Digest, ThreadId, ThreadSet, Timestamp, VmUid,
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
    RunStrategy = model::vm::RunStrategy { Always, Halted }
    StopReason = model::vm::StopReason { NeverStarted, GuestShutdown, Asked, Crashed, StartFailed, Unknown }
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
        vcpus: Vec<ThreadId>, emulator: ThreadSet, iothread: ThreadSet, memory: Vec<NodePages>, overhead: Bytes,
    }
    Berth = ledger::Berth {
        vm: VmUid,
        stamp: Stamp,
        project: Name,
        name: Name,
        cpus: u32,
        memory: Bytes,
        page: PageSize,
        image_name: Name,
        image: Sha256Digest,
        disk_size: Bytes,
        run: RunStrategy,
        resources: Resources,
        restart_count: u64,
    }
    Absent = model::session::Absent { vm: VmUid, stamp: Stamp, with_disk: bool }
    Journal = journal::Journal {
        restart_done: u64, failures: u32, next_try: Option<BootTime>, run: Run, gone: Option<Stamp>,
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
