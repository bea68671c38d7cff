//! The law of the session's conversions: to the wire and back is the same value, and bytes from a stranger are an
//! error that names the field.

use berth_model::host::{
    AcceleratorReport, CoreId, Eviction, HugepagePool, Inventory, NodeId, NodeMemory, Thread, ThreadId, Topology,
};
use berth_model::image::{ImageRef, Sha256Digest};
use berth_model::instancetype::PreferenceSpec;
use berth_model::placement::{Rules, Taint};
use berth_model::session::{ToController, ToHost};
use berth_model::vm::{Accelerator, Assignment, NodePages, Performance, Power, Resources, RunStrategy, Tuning, VmSpec};
use berth_model::{BootId, Bytes, Epoch, HostUid, Incarnation, Name, PageSize, Revision, Stamp, Timestamp, Uid, VmUid};
use proptest::prelude::*;
use prost::Message;

use crate::{ConvertError, v1};

mod strategies;

use strategies::*;

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
        awaited: None,
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
            grace: VmSpec::GRACE,
            user_data: None,
        },
        restart_count: 0,
        power: Power::default(),
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
