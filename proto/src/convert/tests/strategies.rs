//! Strategies for everything that crosses the wire, sensible or not.

use berth_model::host::{
    AcceleratorReport, CoreId, HugepagePool, Inventory, NodeId, NodeMemory, Orphan, PciAddress, PciDevice, PciKind,
    Thread, ThreadId, ThreadSet, Topology,
};
use berth_model::image::{ImageOnHost, ImageRef, Sha256Digest};
use berth_model::instancetype::PreferenceSpec;
use berth_model::placement::{
    Domain, HostWish, Operator, Requirement, Rules, Selector, Spread, Strength, TaintEffect, Toleration, VmAffinity,
    WhenUnsatisfiable,
};
use berth_model::session::{
    Absent, DesiredEntry, Hello, Holding, Present, ProtocolRange, Report, ToController, ToHost, UserData, VmReport,
    Welcome,
};
use berth_model::vm::{
    Accelerator, Assignment, CpuShape, DeviceDemand, DomainState, Ended, NodePages, NumaPolicy, Observed, Performance,
    Power, Resources, RunStrategy, SmtPolicy, StopReason, Tuning, VmSpec,
};
use berth_model::{
    BootId, Bytes, ClusterId, Condition, ConditionStatus, Epoch, HostUid, Incarnation, Millis, Name, PageSize,
    Revision, Sealed, Stamp, Term, Timestamp, Uid, VmUid,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

pub(super) fn uid() -> impl Strategy<Value = Uid> {
    any::<u128>().prop_map(Uid::from_bits)
}

pub(super) fn name() -> impl Strategy<Value = Name> {
    "[a-z]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

pub(super) fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

pub(super) fn bytes() -> impl Strategy<Value = Bytes> {
    any::<u64>().prop_map(Bytes)
}

pub(super) fn time() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

pub(super) fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(incarnation, epoch)| Stamp { incarnation: Incarnation(incarnation), epoch: Epoch(epoch) })
}

pub(super) fn digest() -> impl Strategy<Value = Sha256Digest> {
    any::<[u8; 32]>().prop_map(Sha256Digest)
}

pub(super) fn threads() -> impl Strategy<Value = ThreadSet> {
    btree_set(0..=ThreadSet::HIGHEST, 0..6).prop_map(|set| set.into_iter().map(ThreadId).collect())
}

pub(super) fn page() -> impl Strategy<Value = PageSize> {
    prop_oneof![Just(PageSize::Small), Just(PageSize::Huge2M), Just(PageSize::Huge1G)]
}

pub(super) fn accelerator() -> impl Strategy<Value = Accelerator> {
    prop_oneof![Just(Accelerator::Kvm), Just(Accelerator::Tcg)]
}

pub(super) fn condition() -> impl Strategy<Value = Condition> {
    let status = prop_oneof![Just(ConditionStatus::True), Just(ConditionStatus::False), Just(ConditionStatus::Unknown)];
    (text(), status, text(), text(), time()).prop_map(|(kind, status, reason, message, since)| Condition {
        kind,
        status,
        reason,
        message,
        since,
    })
}

pub(super) fn inventory() -> impl Strategy<Value = Inventory> {
    let topology =
        btree_map(any::<u32>(), (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()), 0..5).prop_map(|threads| {
            Topology {
                threads: threads
                    .into_iter()
                    .map(|(id, (core, socket, node, cache))| Thread {
                        id: ThreadId(id),
                        core: CoreId(core),
                        socket,
                        node: NodeId(node),
                        cache,
                    })
                    .collect(),
            }
        });
    let memory = (any::<u32>(), bytes()).prop_map(|(node, ordinary)| NodeMemory { node: NodeId(node), ordinary });
    let pool = (any::<u32>(), page(), any::<u64>()).prop_map(|(node, page, total)| HugepagePool {
        node: NodeId(node),
        page,
        total,
    });
    let report = (accelerator(), option::of(text()), option::of(text()))
        .prop_map(|(accelerator, failed_step, detail)| AcceleratorReport { accelerator, failed_step, detail });
    let devices =
        btree_map(address(), (kind(), option::of(any::<u32>()), option::of(any::<u32>()), option::of(address())), 0..3);
    let devices = devices.prop_map(|devices| {
        let device = |(address, (kind, node, iommu_group, physical))| PciDevice {
            address,
            kind,
            node: Option::map(node, NodeId),
            iommu_group,
            physical,
        };
        devices.into_iter().map(device).collect()
    });
    (topology, threads(), vec(memory, 0..3), vec(pool, 0..3), devices, report, vec(text(), 0..3), any::<bool>())
        .prop_map(|(topology, reserve, memory, hugepages, devices, accelerator, versions, overlap)| Inventory {
            topology,
            reserve,
            memory,
            hugepages,
            devices,
            accelerator,
            versions,
            overlap,
        })
}

pub(super) fn address() -> impl Strategy<Value = PciAddress> {
    (any::<u32>(), any::<u8>(), 0..32_u8, 0..8_u8).prop_map(|(domain, bus, device, function)| PciAddress {
        domain,
        bus,
        device,
        function,
    })
}

pub(super) fn kind() -> impl Strategy<Value = PciKind> {
    any::<(u16, u16)>().prop_map(|(vendor, product)| PciKind { vendor, product })
}

pub(super) fn demands() -> impl Strategy<Value = Vec<DeviceDemand>> {
    vec((kind(), any::<u32>()).prop_map(|(kind, count)| DeviceDemand { kind, count }), 0..3)
}

pub(super) fn performance() -> impl Strategy<Value = Performance> {
    prop::sample::select(Performance::ALL.as_slice())
}

pub(super) fn wishes() -> impl Strategy<Value = PreferenceSpec> {
    let smt = prop_oneof![Just(SmtPolicy::Siblings), Just(SmtPolicy::WholeCores), Just(SmtPolicy::Isolate)];
    let numa = prop_oneof![Just(NumaPolicy::Fewest), Just(NumaPolicy::Single)];
    let shape = prop_oneof![Just(CpuShape::Cores), Just(CpuShape::Sockets)];
    (
        option::of(shape),
        option::of(page()),
        option::of(smt),
        option::of(numa),
        option::of(any::<bool>()),
        option::of(any::<u32>()),
    )
        .prop_map(|(cpu_shape, pages, smt, numa, dedicated_emulator, dedicated_iothreads)| PreferenceSpec {
            cpu_shape,
            pages,
            smt,
            numa,
            dedicated_emulator,
            dedicated_iothreads,
        })
}

pub(super) fn tuning() -> impl Strategy<Value = Tuning> {
    (wishes(), performance()).prop_map(|(wishes, performance)| {
        let base = Tuning::of(performance);
        Tuning {
            pages: wishes.pages.unwrap_or(base.pages),
            smt: wishes.smt.unwrap_or(base.smt),
            numa: wishes.numa.unwrap_or(base.numa),
            dedicated_emulator: wishes.dedicated_emulator.unwrap_or(base.dedicated_emulator),
            dedicated_iothreads: wishes.dedicated_iothreads.unwrap_or(base.dedicated_iothreads),
            cpu_shape: wishes.cpu_shape.unwrap_or(base.cpu_shape),
        }
    })
}

pub(super) fn selector() -> impl Strategy<Value = Selector> {
    let operator = prop_oneof![
        Just(Operator::In),
        Just(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist),
        Just(Operator::Gt),
        Just(Operator::Lt),
    ];
    let requirement = (text(), operator, btree_set(text(), 0..3)).prop_map(|(key, operator, values)| Requirement {
        key,
        operator,
        values,
    });
    vec(requirement, 0..3).prop_map(Selector)
}

pub(super) fn effect() -> impl Strategy<Value = TaintEffect> {
    prop_oneof![Just(TaintEffect::NoSchedule), Just(TaintEffect::PreferNoSchedule)]
}

pub(super) fn rules() -> impl Strategy<Value = Rules> {
    let domain =
        || prop_oneof![Just(Domain::Host), Just(Domain::Rack), Just(Domain::Zone), text().prop_map(Domain::Label)];
    let strength = prop_oneof![Just(Strength::Required), any::<u32>().prop_map(Strength::Preferred)];
    let toleration = (option::of(text()), option::of(text()), option::of(effect()))
        .prop_map(|(key, value, effect)| Toleration { key, value, effect });
    let affinity = (any::<bool>(), strength, domain(), selector())
        .prop_map(|(anti, strength, domain, vms)| VmAffinity { anti, strength, domain, vms });
    let when = prop_oneof![Just(WhenUnsatisfiable::DoNotSchedule), Just(WhenUnsatisfiable::ScheduleAnyway)];
    let spread = (domain(), any::<u32>(), when, selector())
        .prop_map(|(domain, max_skew, when_unsatisfiable, vms)| Spread { domain, max_skew, when_unsatisfiable, vms });
    (
        vec(selector(), 0..3),
        vec((any::<u32>(), selector()).prop_map(|(weight, hosts)| HostWish { weight, hosts }), 0..3),
        option::of(name()),
        vec(toleration, 0..3),
        vec(affinity, 0..3),
        vec(spread, 0..3),
        any::<i32>(),
    )
        .prop_map(|(hosts, host_wishes, host_group, tolerations, affinity, spread, priority)| Rules {
            hosts,
            host_wishes,
            host_group,
            tolerations,
            affinity,
            spread,
            priority,
        })
}

pub(super) fn observed() -> impl Strategy<Value = Observed> {
    let state = prop_oneof![
        Just(DomainState::Starting),
        Just(DomainState::Running),
        Just(DomainState::Paused),
        Just(DomainState::Stopping),
        Just(DomainState::Panicked),
        prop_oneof![
            Just(StopReason::NeverStarted),
            Just(StopReason::GuestShutdown),
            Just(StopReason::Asked),
            Just(StopReason::Crashed),
            Just(StopReason::StartFailed),
            Just(StopReason::Unknown),
            Just(StopReason::Panicked),
        ]
        .prop_map(DomainState::Stopped),
    ];
    (
        any::<u64>(),
        state,
        option::of(accelerator()),
        any::<u64>(),
        any::<u32>(),
        option::of((text(), text())),
        vec(text(), 0..3),
        time(),
    )
        .prop_map(|(epoch, state, accelerator, restart_count, failures, trouble, degraded, since)| Observed {
            epoch: Epoch(epoch),
            state,
            accelerator,
            restart_count,
            reset_count: u64::from(failures),
            failures,
            last_end: (failures > 7).then_some(Ended { reason: StopReason::Panicked, at: since }),
            trouble,
            degraded,
            since,
        })
}

pub(super) fn image_on_host() -> impl Strategy<Value = ImageOnHost> {
    prop_oneof![
        bytes().prop_map(|virtual_size| ImageOnHost::Verified { virtual_size }),
        text().prop_map(|reason| ImageOnHost::Refused { reason }),
    ]
}

pub(super) fn orphan() -> impl Strategy<Value = Orphan> {
    (uid(), text(), any::<bool>()).prop_map(|(vm, called, running)| Orphan { vm: VmUid(vm), called, running })
}

pub(super) fn holding() -> impl Strategy<Value = Holding> {
    let who = (uid().prop_map(VmUid), name(), name(), any::<u32>(), bytes(), name());
    let how = (performance(), tuning(), demands());
    let what = (digest(), bytes(), run(), resources(), any::<u64>());
    (who, how, what).prop_map(
        |(
            (vm, project, name, cpus, memory, image_name),
            (performance, tuning, devices),
            (image, disk_size, run, resources, restart_count),
        )| Holding {
            vm,
            project,
            name,
            cpus,
            memory,
            performance,
            tuning,
            devices,
            image_name,
            image,
            disk_size,
            run,
            resources,
            restart_count,
        },
    )
}

pub(super) fn report() -> impl Strategy<Value = Report> {
    let vm = prop_oneof![observed().prop_map(VmReport::Seen), stamp().prop_map(VmReport::Gone)];
    (
        any::<u64>(),
        any::<bool>(),
        option::of(inventory()),
        option::of(vec(condition(), 0..3)),
        vec((digest(), option::of(image_on_host())), 0..3),
        vec((uid().prop_map(VmUid), vm), 0..3),
        option::of(vec(orphan(), 0..3)),
        vec(holding(), 0..3),
    )
        .prop_map(|(number, full, inventory, conditions, images, vms, orphans, holdings)| Report {
            number,
            full,
            inventory,
            conditions,
            images,
            vms,
            orphans,
            holdings,
        })
}

pub(super) fn hello() -> impl Strategy<Value = Hello> {
    let ours = (option::of(uid().prop_map(ClusterId)), any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>());
    let host = (uid(), name(), text(), text(), any::<u64>(), text());
    (ours, host).prop_map(
        |((cluster, incarnation, term, oldest, newest), (host, name, address, boot, start, version))| Hello {
            cluster,
            incarnation: Incarnation(incarnation),
            term: Term(term),
            protocol: ProtocolRange { oldest, newest },
            host: HostUid(host),
            name,
            address,
            boot: BootId(boot),
            start,
            version,
        },
    )
}

pub(super) fn to_controller() -> impl Strategy<Value = ToController> {
    prop_oneof![
        hello().prop_map(ToController::Hello),
        any::<u64>().prop_map(|number| ToController::Heartbeat { number }),
        report().prop_map(|report| ToController::Report(Box::new(report))),
    ]
}

fn run() -> impl Strategy<Value = RunStrategy> {
    proptest::sample::select(RunStrategy::ALL.to_vec())
}

fn power() -> impl Strategy<Value = Power> {
    (any::<[bool; 3]>(), any::<u64>(), any::<u64>()).prop_map(|([off, forced, paused], resume_count, reset_count)| {
        Power { off, forced, paused, resume_count, reset_count }
    })
}

pub(super) fn spec() -> impl Strategy<Value = VmSpec> {
    let image =
        (name(), digest(), bytes()).prop_map(|(name, sha256, virtual_size)| ImageRef { name, sha256, virtual_size });
    let sealed = (text(), vec(any::<u8>(), 0..8), vec(any::<u8>(), 0..8))
        .prop_map(|(key_id, nonce, ciphertext)| Sealed { key_id, nonce, ciphertext });
    let size = (option::of(name()), any::<u32>(), option::of(name()), bytes());
    let how = (performance(), tuning(), demands(), rules());
    (size, how, image, bytes(), (run(), any::<u64>()), option::of(sealed)).prop_map(
        |(
            (instance_type, cpus, preference, memory),
            (performance, tuning, devices, rules),
            image,
            disk_size,
            (run, grace),
            user_data,
        )| VmSpec {
            instance_type,
            cpus,
            preference,
            memory,
            performance,
            tuning,
            devices,
            rules,
            image,
            disk_size,
            run,
            grace: Millis(grace),
            user_data,
        },
    )
}

pub(super) fn resources() -> impl Strategy<Value = Resources> {
    let pages = (any::<u32>(), page(), any::<u64>()).prop_map(|(node, page, count)| NodePages {
        node: NodeId(node),
        page,
        count,
    });
    (
        vec(any::<u32>().prop_map(ThreadId), 0..4),
        (threads(), threads(), threads(), threads()),
        any::<u64>(),
        vec(pages, 0..3),
        bytes(),
        vec(address(), 0..3),
    )
        .prop_map(|(vcpus, (dedicated, idle, emulator, iothread), shared_cpu, memory, overhead, devices)| {
            Resources { vcpus, dedicated, idle, emulator, iothread, shared_cpu, memory, overhead, devices }
        })
}

pub(super) fn assignment() -> impl Strategy<Value = Assignment> {
    (uid(), any::<u64>(), resources(), time()).prop_map(|(host, epoch, resources, at)| Assignment {
        host: HostUid(host),
        epoch: Epoch(epoch),
        resources,
        at,
    })
}

pub(super) fn entry() -> impl Strategy<Value = DesiredEntry> {
    let present = (
        uid(),
        name(),
        name(),
        spec(),
        assignment(),
        (any::<u64>(), power()),
        option::of(vec(any::<u8>(), 0..16).prop_map(UserData)),
    )
        .prop_map(|(vm, project, name, spec, assignment, (restart_count, power), user_data)| Present {
            vm: VmUid(vm),
            project,
            name,
            spec,
            assignment,
            restart_count,
            power,
            user_data,
        });
    prop_oneof![
        (present, stamp()).prop_map(|(present, stamp)| DesiredEntry::Present(Box::new(present), stamp)),
        (uid(), stamp(), any::<bool>()).prop_map(|(vm, stamp, with_disk)| DesiredEntry::Absent(Absent {
            vm: VmUid(vm),
            stamp,
            with_disk
        })),
    ]
}

pub(super) fn to_host() -> impl Strategy<Value = ToHost> {
    prop_oneof![
        option::of(text()).prop_map(|leader| ToHost::Redirect { leader }),
        (text(), text()).prop_map(|(code, message)| ToHost::Refuse { code, message }),
        (uid(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>(), option::of(any::<u64>())).prop_map(
            |(cluster, incarnation, term, protocol, every, overrides)| ToHost::Welcome(Welcome {
                cluster: ClusterId(cluster),
                incarnation: Incarnation(incarnation),
                term: Term(term),
                protocol,
                heartbeat_every: Millis(every),
                overrides: overrides.map(Term),
            })
        ),
        (any::<u64>(), vec(entry(), 0..3))
            .prop_map(|(revision, entries)| ToHost::DesiredSet { revision: Revision(revision), entries }),
        (any::<u64>(), vec(entry(), 0..3), vec(uid().prop_map(VmUid), 0..3)).prop_map(
            |(revision, entries, forgotten)| ToHost::DesiredDelta { revision: Revision(revision), entries, forgotten }
        ),
        (any::<u64>(), any::<u64>())
            .prop_map(|(number, span)| ToHost::HeartbeatAck { number, may_start_for: Millis(span) }),
        any::<u64>().prop_map(|number| ToHost::ReportAck { number }),
        vec(text(), 0..4).prop_map(|addresses| ToHost::Controllers { addresses }),
    ]
}
