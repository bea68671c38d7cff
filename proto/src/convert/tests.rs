//! The law of the session's conversions: to the wire and back is the same value, and bytes from a stranger are an
//! error that names the field.

use berth_model::host::{
    AcceleratorReport, CoreId, Eviction, HugepagePool, Inventory, NodeId, NodeMemory, Orphan, PciAddress, PciDevice,
    PciKind, Thread, ThreadId, ThreadSet, Topology,
};
use berth_model::image::{ImageOnHost, ImageRef, Sha256Digest};
use berth_model::instancetype::PreferenceSpec;
use berth_model::placement::{
    Domain, HostWish, Operator, Requirement, Rules, Selector, Spread, Strength, Taint, TaintEffect, Toleration,
    VmAffinity, WhenUnsatisfiable,
};
use berth_model::session::{
    Absent, DesiredEntry, Hello, Holding, Present, ProtocolRange, Report, ToController, ToHost, UserData, VmReport,
    Welcome,
};
use berth_model::vm::{
    Accelerator, Assignment, CpuShape, DeviceDemand, DomainState, NodePages, NumaPolicy, Observed, Performance,
    Resources, RunStrategy, SmtPolicy, StopReason, Tuning, VmSpec,
};
use berth_model::{
    BootId, Bytes, ClusterId, Condition, ConditionStatus, Epoch, HostUid, Incarnation, Millis, Name, PageSize,
    Revision, Sealed, Stamp, Term, Timestamp, Uid, VmUid,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use crate::{ConvertError, v1};

fn uid() -> impl Strategy<Value = Uid> {
    any::<u128>().prop_map(Uid::from_bits)
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    any::<u64>().prop_map(Bytes)
}

fn time() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(incarnation, epoch)| Stamp { incarnation: Incarnation(incarnation), epoch: Epoch(epoch) })
}

fn digest() -> impl Strategy<Value = Sha256Digest> {
    any::<[u8; 32]>().prop_map(Sha256Digest)
}

fn threads() -> impl Strategy<Value = ThreadSet> {
    btree_set(0..=ThreadSet::HIGHEST, 0..6).prop_map(|set| set.into_iter().map(ThreadId).collect())
}

fn page() -> impl Strategy<Value = PageSize> {
    prop_oneof![Just(PageSize::Small), Just(PageSize::Huge2M), Just(PageSize::Huge1G)]
}

fn accelerator() -> impl Strategy<Value = Accelerator> {
    prop_oneof![Just(Accelerator::Kvm), Just(Accelerator::Tcg)]
}

fn condition() -> impl Strategy<Value = Condition> {
    let status = prop_oneof![Just(ConditionStatus::True), Just(ConditionStatus::False), Just(ConditionStatus::Unknown)];
    (text(), status, text(), text(), time()).prop_map(|(kind, status, reason, message, since)| Condition {
        kind,
        status,
        reason,
        message,
        since,
    })
}

fn inventory() -> impl Strategy<Value = Inventory> {
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

fn address() -> impl Strategy<Value = PciAddress> {
    (any::<u32>(), any::<u8>(), 0..32_u8, 0..8_u8).prop_map(|(domain, bus, device, function)| PciAddress {
        domain,
        bus,
        device,
        function,
    })
}

fn kind() -> impl Strategy<Value = PciKind> {
    any::<(u16, u16)>().prop_map(|(vendor, product)| PciKind { vendor, product })
}

fn demands() -> impl Strategy<Value = Vec<DeviceDemand>> {
    vec((kind(), any::<u32>()).prop_map(|(kind, count)| DeviceDemand { kind, count }), 0..3)
}

fn performance() -> impl Strategy<Value = Performance> {
    prop::sample::select(Performance::ALL.as_slice())
}

fn wishes() -> impl Strategy<Value = PreferenceSpec> {
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

fn tuning() -> impl Strategy<Value = Tuning> {
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

fn selector() -> impl Strategy<Value = Selector> {
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

fn effect() -> impl Strategy<Value = TaintEffect> {
    prop_oneof![Just(TaintEffect::NoSchedule), Just(TaintEffect::PreferNoSchedule)]
}

fn rules() -> impl Strategy<Value = Rules> {
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

fn observed() -> impl Strategy<Value = Observed> {
    let state = prop_oneof![
        Just(DomainState::Starting),
        Just(DomainState::Running),
        Just(DomainState::Paused),
        Just(DomainState::Stopping),
        prop_oneof![
            Just(StopReason::NeverStarted),
            Just(StopReason::GuestShutdown),
            Just(StopReason::Asked),
            Just(StopReason::Crashed),
            Just(StopReason::StartFailed),
            Just(StopReason::Unknown),
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
            failures,
            trouble,
            degraded,
            since,
        })
}

fn image_on_host() -> impl Strategy<Value = ImageOnHost> {
    prop_oneof![
        bytes().prop_map(|virtual_size| ImageOnHost::Verified { virtual_size }),
        text().prop_map(|reason| ImageOnHost::Refused { reason }),
    ]
}

fn orphan() -> impl Strategy<Value = Orphan> {
    (uid(), text(), any::<bool>()).prop_map(|(vm, called, running)| Orphan { vm: VmUid(vm), called, running })
}

fn holding() -> impl Strategy<Value = Holding> {
    let who = (uid().prop_map(VmUid), name(), name(), any::<u32>(), bytes(), name());
    let how = (performance(), tuning(), demands());
    let what = (digest(), bytes(), any::<bool>(), resources(), any::<u64>());
    (who, how, what).prop_map(
        |(
            (vm, project, name, cpus, memory, image_name),
            (performance, tuning, devices),
            (image, disk_size, runs, resources, restart_count),
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
            run: if runs { RunStrategy::Always } else { RunStrategy::Halted },
            resources,
            restart_count,
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
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

fn hello() -> impl Strategy<Value = Hello> {
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

fn to_controller() -> impl Strategy<Value = ToController> {
    prop_oneof![
        hello().prop_map(ToController::Hello),
        any::<u64>().prop_map(|number| ToController::Heartbeat { number }),
        report().prop_map(|report| ToController::Report(Box::new(report))),
    ]
}

fn spec() -> impl Strategy<Value = VmSpec> {
    let image =
        (name(), digest(), bytes()).prop_map(|(name, sha256, virtual_size)| ImageRef { name, sha256, virtual_size });
    let sealed = (text(), vec(any::<u8>(), 0..8), vec(any::<u8>(), 0..8))
        .prop_map(|(key_id, nonce, ciphertext)| Sealed { key_id, nonce, ciphertext });
    let run = prop_oneof![Just(RunStrategy::Always), Just(RunStrategy::Halted)];
    let size = (option::of(name()), any::<u32>(), option::of(name()), bytes());
    let how = (performance(), tuning(), demands(), rules());
    (size, how, image, bytes(), run, option::of(sealed)).prop_map(
        |(
            (instance_type, cpus, preference, memory),
            (performance, tuning, devices, rules),
            image,
            disk_size,
            run,
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
            user_data,
        },
    )
}

fn resources() -> impl Strategy<Value = Resources> {
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

fn assignment() -> impl Strategy<Value = Assignment> {
    (uid(), any::<u64>(), resources(), time()).prop_map(|(host, epoch, resources, at)| Assignment {
        host: HostUid(host),
        epoch: Epoch(epoch),
        resources,
        at,
    })
}

fn entry() -> impl Strategy<Value = DesiredEntry> {
    let present = (
        uid(),
        name(),
        name(),
        spec(),
        assignment(),
        any::<u64>(),
        option::of(vec(any::<u8>(), 0..16).prop_map(UserData)),
    )
        .prop_map(|(vm, project, name, spec, assignment, restart_count, user_data)| Present {
            vm: VmUid(vm),
            project,
            name,
            spec,
            assignment,
            restart_count,
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

fn to_host() -> impl Strategy<Value = ToHost> {
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

proptest! {
    #[test]
    fn what_a_host_says_survives_the_wire(word in to_controller()) {
        let wire = v1::ToController::from(&word);
        let read = v1::ToController::decode(wire.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(ToController::try_from(read), Ok(word));
    }

    #[test]
    fn what_a_controller_says_survives_the_wire(word in to_host()) {
        let wire = v1::ToHost::from(&word);
        let read = v1::ToHost::decode(wire.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(ToHost::try_from(read), Ok(word));
    }

    #[test]
    fn rules_survive_the_wire(rules in rules()) {
        let read = v1::Rules::decode(v1::Rules::from(&rules).encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(Rules::try_from(read), Ok(rules));
    }

    #[test]
    fn wishes_survive_the_wire_with_what_they_leave_open(wishes in wishes()) {
        let read = v1::Tuning::decode(v1::Tuning::from(&wishes).encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(PreferenceSpec::try_from(read), Ok(wishes));
    }

    #[test]
    fn taints_survive_the_wire(key in text(), value in text(), effect in effect()) {
        let taint = Taint { key, value, effect };
        prop_assert_eq!(Taint::try_from(v1::Taint::from(&taint)), Ok(taint));
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_word_but_never_a_panic(
        word in to_controller(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = v1::ToController::from(&word).encode_to_vec();
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = v1::ToController::decode(bytes.as_slice()) {
            let _ = ToController::try_from(read);
        }
    }
}

#[test]
fn an_error_names_the_field_from_the_outermost_message() {
    let seen = v1::Observed { state: 77, ..Default::default() };
    let vm = v1::VmReport { vm: "v1".into(), report: Some(v1::vm_report::Report::Seen(seen)) };
    let report = v1::Report { number: 1, vms: vec![vm], ..Default::default() };
    let word = v1::ToController { word: Some(v1::to_controller::Word::Report(report)) };
    let error = ToController::try_from(word).unwrap_err();
    assert_eq!(error, ConvertError::new("report.vms[0].seen.state", "has the unknown value 77"));
}

#[test]
fn an_empty_word_is_an_error() {
    assert_eq!(ToHost::try_from(v1::ToHost { word: None }), Err(ConvertError::missing("word")));
}

#[test]
fn threads_out_of_order_are_refused_because_the_model_searches_them() {
    let thread = |id| v1::Thread { id, ..Default::default() };
    let wire = v1::Topology { threads: vec![thread(3), thread(3)] };
    assert_eq!(Topology::try_from(wire).unwrap_err().path, "threads[1].id");
}

#[test]
fn a_request_may_leave_enums_to_the_server_but_not_invent_them() {
    assert_eq!(super::performance(0, "spec.performance"), Ok(None));
    assert_eq!(super::taint_effect(0, "remove_taints[0].effect"), Ok(None));
    assert_eq!(super::run_strategy(2, "spec.run_strategy"), Ok(Some(RunStrategy::Halted)));
    assert_eq!(super::run_strategy(9, "spec.run_strategy").unwrap_err().path, "spec.run_strategy");
}

#[test]
fn a_rule_that_is_no_rule_is_refused_by_its_field() {
    let vms = Some(v1::Selector::default());
    let domain = Some(v1::Domain { kind: v1::DomainKind::Zone.into(), label: "zone".into() });
    let spread = v1::Spread { domain, vms, max_skew: 1, when_unsatisfiable: 1 };
    let wire = v1::Rules { spread: vec![spread], ..v1::Rules::default() };
    assert_eq!(Rules::try_from(wire).unwrap_err().path, "spread[0].domain.label");
    let requirement = v1::Requirement { key: "gpu".into(), ..v1::Requirement::default() };
    let wire = v1::Rules { hosts: vec![v1::Selector { all: vec![requirement] }], ..v1::Rules::default() };
    assert_eq!(Rules::try_from(wire).unwrap_err(), ConvertError::missing("hosts[0].all[0].operator"));
    let unknown = v1::Toleration { effect: 7, ..v1::Toleration::default() };
    let wire = v1::Rules { tolerations: vec![unknown], ..v1::Rules::default() };
    assert_eq!(Rules::try_from(wire).unwrap_err().path, "tolerations[0].effect");
}

#[test]
fn devices_out_of_order_are_refused_because_the_model_searches_them() {
    let device =
        |address: &str| v1::PciDevice { address: address.into(), kind: "10de:2204".into(), ..Default::default() };
    let wire = v1::Inventory {
        topology: Some(v1::Topology::default()),
        accelerator: Some(v1::AcceleratorReport { accelerator: 1, ..Default::default() }),
        devices: vec![device("0000:3b:00.0"), device("0000:3a:00.0")],
        ..Default::default()
    };
    assert_eq!(Inventory::try_from(wire).unwrap_err().path, "devices[1].address");
}

#[test]
fn reflection_knows_every_service() {
    let set = prost_types::FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap();
    let mut services: Vec<_> =
        set.file.iter().flat_map(|file| &file.service).map(|service| service.name().to_owned()).collect();
    services.sort_unstable();
    assert_eq!(
        services,
        [
            "AgentService",
            "BackupService",
            "ClusterService",
            "ConsoleService",
            "HistoryService",
            "HostService",
            "HostStreamService",
            "ImageService",
            "InstanceTypeService",
            "PeerService",
            "PlacementService",
            "PreferenceService",
            "VmService",
        ]
    );
}

#[test]
fn what_is_spoken_for_is_the_sum_of_assignments_on_that_host_alone() {
    let uid = |bits| Uid::from_bits(bits);
    let meta = |name: &str, bits| berth_model::Meta {
        project: Name::default_project(),
        name: name.parse().unwrap(),
        uid: uid(bits),
        labels: std::collections::BTreeMap::new(),
        annotations: std::collections::BTreeMap::new(),
        finalizers: vec![],
        owners: vec![],
        generation: berth_model::Generation(1),
        created_at: Timestamp::from_millis(0),
        deleted_at: None,
        revision: Revision(1),
    };
    let host = berth_model::host::Host {
        meta: meta("h1", 1),
        spec: berth_model::host::HostSpec::default(),
        address: String::new(),
        boot: BootId(String::new()),
        liveness: berth_model::host::Liveness::Alive,
        liveness_since: Timestamp::from_millis(0),
        inventory: Inventory {
            topology: Topology {
                threads: (0..4)
                    .map(|id| Thread { id: ThreadId(id), core: CoreId(id), socket: 0, node: NodeId(0), cache: 0 })
                    .collect(),
            },
            reserve: "0".parse().unwrap(),
            memory: vec![NodeMemory { node: NodeId(0), ordinary: Bytes::gib(1) }],
            hugepages: vec![HugepagePool { node: NodeId(0), page: PageSize::Huge2M, total: 512 }],
            devices: vec![],
            accelerator: AcceleratorReport { accelerator: Accelerator::Tcg, failed_step: None, detail: None },
            versions: vec![],
            overlap: false,
        },
        conditions: vec![],
        images: std::collections::BTreeMap::new(),
        orphans: vec![],
        evictions: vec![],
    };
    let vm = |name: &str, bits, host, threads: [u32; 2]| berth_model::vm::Vm {
        meta: meta(name, bits),
        spec: VmSpec {
            instance_type: None,
            cpus: 2,
            memory: Bytes::mib(256),
            preference: None,
            performance: Performance::High,
            tuning: Tuning::of(Performance::High),
            devices: vec![],
            rules: Rules::default(),
            image: ImageRef {
                name: "tiny".parse().unwrap(),
                sha256: Sha256Digest([7; 32]),
                virtual_size: Bytes::mib(64),
            },
            disk_size: Bytes::mib(64),
            run: RunStrategy::Always,
            user_data: None,
        },
        restart_count: 0,
        assignment: Some(Assignment {
            host: HostUid(uid(host)),
            epoch: Epoch(5),
            resources: Resources {
                vcpus: threads.map(ThreadId).to_vec(),
                emulator: "0".parse().unwrap(),
                iothread: "0".parse().unwrap(),
                memory: vec![NodePages { node: NodeId(0), page: PageSize::Huge2M, count: 128 }],
                overhead: Bytes::mib(112),
                ..Resources::default()
            },
            at: Timestamp::from_millis(0),
        }),
        unplaced: None,
        observed: None,
    };
    let none = std::iter::empty();
    let used = super::host_use(&host, &[vm("a", 11, 1, [2, 1]), vm("b", 12, 9, [2, 3])], none);
    assert_eq!((used.threads_total, used.threads_reserved, used.threads_booked, used.vms), (4, 1, 2, 1));
    let booked: Vec<_> = used.booked.iter().map(|held| (held.thread, held.called.as_str(), held.vcpu)).collect();
    assert_eq!(booked, [(1, "default/a", 1), (2, "default/a", 0)]);
    assert_eq!((used.hugepages[0].booked, used.hugepages[0].total), (128, 512));
    assert_eq!(used.ordinary_bytes_booked, Bytes::mib(112).0);
    assert_eq!((used.shared_cpu_booked, used.shared_cpu_total), (0, 1000));
    let resources = Resources { vcpus: vec![ThreadId(3)], overhead: Bytes::mib(9), ..Resources::default() };
    let stamp = Stamp { incarnation: Incarnation(1), epoch: Epoch(3) };
    let gone = Eviction { vm: VmUid(uid(13)), stamp, resources, with_disk: false };
    let host = berth_model::host::Host { evictions: vec![gone], ..host };
    let used = super::host_use(&host, &[vm("a", 11, 1, [2, 1])], std::iter::empty());
    let roles: Vec<_> = used.booked.iter().map(|held| (held.thread, held.role())).collect();
    let (vcpu, held) = (v1::ThreadRole::Vcpu, v1::ThreadRole::Held);
    assert_eq!(roles, [(1, vcpu), (2, vcpu), (3, held)]);
    assert_eq!((used.ordinary_bytes_booked, used.shared_cpu_total), (Bytes::mib(121).0, 0));
}
