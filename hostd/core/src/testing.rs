//! Values for tests: small, valid, and told apart by their numbers.

use berth_model::host::{AcceleratorReport, Inventory, NodeId, Thread, ThreadId, Topology};
use berth_model::image::{ImageOnHost, ImageRef, Sha256Digest};
use berth_model::placement::Rules;
use berth_model::session::{Absent, DesiredEntry, Present, UserData, Welcome};
use berth_model::vm::{
    Accelerator, Assignment, DomainState, NodePages, Performance, Resources, RunStrategy, StopReason, Tuning, VmSpec,
};
use berth_model::{
    BootId, Bytes, ClusterId, Epoch, HostUid, Incarnation, Millis, PageSize, Sealed, Stamp, Term, Timestamp, VmUid,
};

use crate::agent::Identity;
use crate::backend::DomainSeen;
use crate::clock::{BootTime, Now};
use crate::step::Mark;

pub(crate) fn at(millis: u64) -> Now {
    Now { boot: BootTime::from_millis(millis), wall: Timestamp::from_millis(1_700_000_000_000 + millis) }
}

pub(crate) fn cluster() -> ClusterId {
    "lab".parse().unwrap()
}

pub(crate) fn host() -> HostUid {
    "host1".parse().unwrap()
}

pub(crate) fn vm(number: u8) -> VmUid {
    format!("vm{number}").parse().unwrap()
}

pub(crate) fn stamp(epoch: u64) -> Stamp {
    Stamp { incarnation: Incarnation(1), epoch: Epoch(epoch) }
}

pub(crate) fn image() -> Sha256Digest {
    Sha256Digest([7; 32])
}

pub(crate) fn identity() -> Identity {
    Identity {
        name: "h1".parse().unwrap(),
        address: "10.0.0.1:7443".into(),
        boot: BootId("boot-a".into()),
        start: 1,
        version: "0.1.0".into(),
    }
}

pub(crate) fn welcome(term: u64) -> Welcome {
    Welcome {
        cluster: cluster(),
        incarnation: Incarnation(1),
        term: Term(term),
        protocol: 1,
        heartbeat_every: Millis(1000),
        overrides: None,
    }
}

/// The one VM whose CPUs float; all others are pinned, each to the thread of its number.
pub(crate) const FLOATING: u8 = 2;

pub(crate) fn present(number: u8, epoch: u64) -> Present {
    let mut present = pinned(number, epoch);
    if number == FLOATING {
        present.spec.performance = Performance::Standard;
        present.spec.tuning = Tuning::of(Performance::Standard);
        present.assignment.resources.vcpus.clear();
        present.assignment.resources.shared_cpu = 1000;
        present.assignment.resources.memory = vec![NodePages { node: NodeId(0), page: PageSize::Small, count: 65536 }];
    }
    present
}

fn pinned(number: u8, epoch: u64) -> Present {
    Present {
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
            run: RunStrategy::Always,
            grace: VmSpec::GRACE,
            user_data: Some(Sealed { key_id: "k1".into(), nonce: vec![1], ciphertext: b"sealed secret".to_vec() }),
        },
        assignment: Assignment {
            host: host(),
            epoch: Epoch(epoch),
            resources: Resources {
                vcpus: vec![ThreadId(u32::from(number))],
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
        user_data: Some(UserData(b"open secret".to_vec())),
    }
}

pub(crate) fn always(number: u8, epoch: u64) -> DesiredEntry {
    DesiredEntry::Present(Box::new(present(number, epoch)), stamp(epoch))
}

pub(crate) fn halted(number: u8, epoch: u64) -> DesiredEntry {
    let mut present = present(number, epoch);
    present.spec.run = RunStrategy::Halted;
    DesiredEntry::Present(Box::new(present), stamp(epoch))
}

pub(crate) fn restarted(number: u8, epoch: u64, restart_count: u64) -> DesiredEntry {
    let present = Present { restart_count, ..present(number, epoch) };
    DesiredEntry::Present(Box::new(present), stamp(epoch))
}

pub(crate) fn absent(number: u8, epoch: u64) -> DesiredEntry {
    DesiredEntry::Absent(Absent { vm: vm(number), stamp: stamp(epoch), with_disk: true })
}

pub(crate) fn mark(number: u8, epoch: u64) -> Mark {
    Mark {
        cluster: cluster(),
        vm: vm(number),
        project: "default".parse().unwrap(),
        name: format!("web{number}").parse().unwrap(),
        stamp: stamp(epoch),
        restart_count: 0,
    }
}

pub(crate) fn seen(number: u8, epoch: u64, state: DomainState) -> DomainSeen {
    DomainSeen {
        mark: mark(number, epoch),
        state,
        accelerator: Accelerator::Tcg,
        since: None,
        floats: None,
        is_read_back: true,
        degraded: vec![],
    }
}

pub(crate) fn running(number: u8, epoch: u64) -> DomainSeen {
    seen(number, epoch, DomainState::Running)
}

pub(crate) fn stopped(number: u8, epoch: u64) -> DomainSeen {
    seen(number, epoch, DomainState::Stopped(StopReason::GuestShutdown))
}

pub(crate) fn images() -> std::collections::BTreeMap<Sha256Digest, ImageOnHost> {
    [(image(), ImageOnHost::Verified { virtual_size: Bytes::mib(64) })].into()
}

pub(crate) fn inventory() -> Inventory {
    let thread =
        |id| Thread { id: ThreadId(id), core: berth_model::host::CoreId(id), socket: 0, node: NodeId(0), cache: 0 };
    Inventory {
        topology: Topology { threads: (0..4).map(thread).collect() },
        reserve: [ThreadId(0)].into_iter().collect(),
        memory: vec![],
        hugepages: vec![],
        devices: vec![],
        accelerator: AcceleratorReport { accelerator: Accelerator::Tcg, failed_step: None, detail: None },
        versions: vec![],
        overlap: false,
    }
}
