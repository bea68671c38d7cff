//! Strategies for whatever a host or a client may say, sensible or not.
//!
//! Identities and names come from pools of a few, so that random words meet the same objects again and again.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{digest, host_uid, image_ref, name, vm_uid};
use crate::host::{
    AcceleratorReport, CoreId, HugepagePool, Inventory, Liveness, NodeId, NodeMemory, Orphan, PciAddress, PciDevice,
    PciKind, Thread, ThreadId, ThreadSet, Topology,
};
use crate::image::ImageOnHost;
use crate::placement::Rules;
use crate::session::{Report, VmReport};
use crate::vm::{
    Accelerator, CpuShape, DomainState, Ended, NodePages, NumaPolicy, Observed, Performance, Resources, RunStrategy,
    SmtPolicy, StopReason, Tuning, VmSpec,
};
use crate::{
    Bytes, Condition, ConditionStatus, Epoch, HostUid, Incarnation, Name, PageSize, Sealed, Stamp, Timestamp, VmUid,
};

/// How many VMs, hosts and names there are.
pub const POOL: u8 = 5;

/// One of a few VMs.
pub fn vm_uids() -> impl Strategy<Value = VmUid> {
    (0..POOL).prop_map(|number| vm_uid(u128::from(number)))
}

/// One of a few hosts.
pub fn host_uids() -> impl Strategy<Value = HostUid> {
    (0..POOL).prop_map(|number| host_uid(u128::from(number)))
}

/// One of a few names.
pub fn names() -> impl Strategy<Value = Name> {
    (0..POOL).prop_map(|number| name(&format!("n{number}")))
}

/// Small counts mostly, and the largest ones.
pub fn counts() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..400_u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 2 + 1)]
}

/// Amounts of memory, absurd ones among them.
pub fn amounts() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => (0..600_u64).prop_map(Bytes::mib), 1 => counts().prop_map(Bytes)]
}

/// Times near the tests' and at both ends.
pub fn times() -> impl Strategy<Value = Timestamp> {
    let near = super::NOW.as_millis();
    prop_oneof![
        8 => (near..near + 100_000_000).prop_map(Timestamp::from_millis),
        1 => Just(Timestamp::from_millis(0)),
        1 => Just(Timestamp::from_millis(u64::MAX)),
    ]
}

fn texts() -> impl Strategy<Value = String> {
    "[a-zß ]{0,12}"
}

fn pages() -> impl Strategy<Value = PageSize> {
    prop_oneof![3 => Just(PageSize::Huge2M), 1 => Just(PageSize::Small), 1 => Just(PageSize::Huge1G)]
}

fn nodes() -> impl Strategy<Value = NodeId> {
    (0..3_u32).prop_map(NodeId)
}

fn thread_ids() -> impl Strategy<Value = ThreadId> {
    (0..10_u32).prop_map(ThreadId)
}

fn thread_sets() -> impl Strategy<Value = ThreadSet> {
    vec(thread_ids(), 0..4).prop_map(|ids| ids.into_iter().collect())
}

fn pci_addresses() -> impl Strategy<Value = PciAddress> {
    (0..4_u8).prop_map(|device| PciAddress { domain: 0, bus: 1, device, function: 0 })
}

fn devices() -> impl Strategy<Value = PciDevice> {
    let group = option::of(0..3_u32);
    (pci_addresses(), option::of(nodes()), group, option::of(pci_addresses())).prop_map(
        |(address, node, iommu_group, physical)| {
            let kind = PciKind { vendor: 0x1af4, product: 0x1041 };
            PciDevice { address, kind, node, iommu_group, physical }
        },
    )
}

/// A template, and tuning that may or may not go with it.
pub fn tunings() -> impl Strategy<Value = (Performance, Tuning)> {
    let smt = prop_oneof![
        3 => Just(SmtPolicy::Siblings),
        1 => Just(SmtPolicy::WholeCores),
        1 => Just(SmtPolicy::Isolate)
    ];
    let numa = prop_oneof![3 => Just(NumaPolicy::Fewest), 1 => Just(NumaPolicy::Single)];
    let shape = prop_oneof![Just(CpuShape::Cores), Just(CpuShape::Sockets)];
    let performance =
        prop_oneof![3 => Just(Performance::High), 1 => Just(Performance::Standard), 1 => Just(Performance::Density)];
    (performance, pages(), smt, numa, any::<bool>(), 0..3_u32, shape).prop_map(
        |(performance, pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape)| {
            (performance, Tuning { pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape })
        },
    )
}

fn accelerators() -> impl Strategy<Value = Accelerator> {
    prop_oneof![Just(Accelerator::Kvm), Just(Accelerator::Tcg)]
}

/// How a host may be.
pub fn livenesses() -> impl Strategy<Value = Liveness> {
    prop_oneof![Just(Liveness::Alive), Just(Liveness::Suspect), Just(Liveness::Lost)]
}

/// When a VM may be wanted to run.
pub fn runs() -> impl Strategy<Value = RunStrategy> {
    proptest::sample::select(RunStrategy::ALL.to_vec())
}

/// How a domain may be.
pub fn domain_states() -> impl Strategy<Value = DomainState> {
    use StopReason::{Asked, Crashed, GuestShutdown, NeverStarted, Panicked, StartFailed, Unknown};
    let reasons = prop_oneof![
        Just(NeverStarted),
        Just(GuestShutdown),
        Just(Asked),
        Just(Panicked),
        Just(Crashed),
        Just(StartFailed),
        Just(Unknown)
    ];
    prop_oneof![
        Just(DomainState::Starting),
        Just(DomainState::Running),
        Just(DomainState::Paused),
        Just(DomainState::Stopping),
        reasons.prop_map(DomainState::Stopped),
    ]
}

/// What a host may be; threads come in any order and more than once.
pub fn inventories() -> impl Strategy<Value = Inventory> {
    let thread = (thread_ids(), 0..5_u32, 0..2_u32, nodes()).prop_map(|(id, core, socket, node)| Thread {
        id,
        core: CoreId(core),
        socket,
        node,
        cache: socket,
    });
    let memory = (nodes(), amounts()).prop_map(|(node, ordinary)| NodeMemory { node, ordinary });
    let pool = (nodes(), pages(), counts()).prop_map(|(node, page, total)| HugepagePool { node, page, total });
    let accelerator = (accelerators(), option::of(texts()), option::of(texts()))
        .prop_map(|(accelerator, failed_step, detail)| AcceleratorReport { accelerator, failed_step, detail });
    (
        vec(thread, 0..12),
        thread_sets(),
        vec(memory, 0..4),
        vec(pool, 0..5),
        vec(devices(), 0..4),
        accelerator,
        vec(texts(), 0..2),
        any::<bool>(),
    )
        .prop_map(|(threads, reserve, memory, hugepages, devices, accelerator, versions, overlap)| Inventory {
            topology: Topology { threads },
            reserve,
            memory,
            hugepages,
            devices,
            accelerator,
            versions,
            overlap,
        })
}

/// What may be asked of a VM, beyond what admission would let through.
pub fn vm_specs() -> impl Strategy<Value = VmSpec> {
    let sealed = (texts(), vec(any::<u8>(), 0..4), vec(any::<u8>(), 0..8))
        .prop_map(|(key_id, nonce, ciphertext)| Sealed { key_id, nonce, ciphertext });
    let cpus = prop_oneof![8 => 0..5_u32, 1 => Just(u32::MAX)];
    (option::of(names()), cpus, amounts(), tunings(), amounts(), runs(), option::of(sealed)).prop_map(
        |(instance_type, cpus, memory, (performance, tuning), disk_size, run, user_data)| VmSpec {
            instance_type,
            cpus,
            memory,
            preference: None,
            performance,
            tuning,
            devices: Vec::new(),
            rules: Rules::default(),
            image: image_ref(),
            disk_size,
            run,
            grace: VmSpec::GRACE,
            user_data,
        },
    )
}

/// What may be chosen for a VM, beyond what a planner would choose.
pub fn resources() -> impl Strategy<Value = Resources> {
    let part = (nodes(), pages(), counts()).prop_map(|(node, page, count)| NodePages { node, page, count });
    (
        vec(thread_ids(), 0..5),
        (thread_sets(), thread_sets()),
        thread_sets(),
        thread_sets(),
        counts(),
        vec(part, 0..4),
        amounts(),
        vec(pci_addresses(), 0..2),
    )
        .prop_map(|(vcpus, (dedicated, idle), emulator, iothread, shared_cpu, memory, overhead, devices)| {
            Resources { vcpus, dedicated, idle, emulator, iothread, shared_cpu, memory, overhead, devices }
        })
}

/// What a host may see of a VM.
pub fn observations() -> impl Strategy<Value = Observed> {
    (
        0..40_u64,
        domain_states(),
        option::of(accelerators()),
        0..3_u64,
        0..3_u32,
        option::of((texts(), texts())),
        vec(texts(), 0..2),
        times(),
    )
        .prop_map(|(epoch, state, accelerator, restart_count, failures, trouble, degraded, since)| Observed {
            epoch: Epoch(epoch),
            state,
            accelerator,
            restart_count,
            reset_count: restart_count / 2,
            failures,
            last_end: (failures > 1).then_some(Ended { reason: StopReason::Crashed, at: since }),
            trouble,
            degraded,
            since,
        })
}

fn conditions() -> impl Strategy<Value = Condition> {
    use ConditionStatus::{False, True, Unknown};
    let statuses = prop_oneof![Just(True), Just(False), Just(Unknown)];
    (prop_oneof![Just("A"), Just("B")], statuses, texts(), times()).prop_map(|(kind, status, message, since)| {
        Condition { kind: kind.into(), status, reason: "Reason".into(), message, since }
    })
}

/// What a host may report.
pub fn reports() -> impl Strategy<Value = Report> {
    let found = prop_oneof![
        amounts().prop_map(|virtual_size| ImageOnHost::Verified { virtual_size }),
        texts().prop_map(|reason| ImageOnHost::Refused { reason }),
    ];
    let seen = observations().prop_map(VmReport::Seen);
    let gone = (0..3_u64, 0..40_u64).prop_map(|(incarnation, epoch)| {
        VmReport::Gone(Stamp { incarnation: Incarnation(incarnation), epoch: Epoch(epoch) })
    });
    let orphan = (vm_uids(), texts(), any::<bool>()).prop_map(|(vm, called, running)| Orphan { vm, called, running });
    (
        0..5_u64,
        any::<bool>(),
        option::of(inventories()),
        option::of(vec(conditions(), 0..3)),
        vec(((0..3_u8).prop_map(digest), option::of(found)), 0..3),
        vec((vm_uids(), prop_oneof![seen, gone]), 0..4),
        option::of(vec(orphan, 0..2)),
    )
        .prop_map(|(number, full, inventory, conditions, images, vms, orphans)| Report {
            number,
            full,
            inventory,
            conditions,
            images,
            vms,
            orphans,
            holdings: Vec::new(),
        })
}
