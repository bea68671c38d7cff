//! Small clusters of every kind, for the laws.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::host::{
    HugepagePool, Inventory, Liveness, NodeId, Overcommit, PciAddress, PciDevice, PciKind, Percent,
};
use berth_model::image::ImageOnHost;
use berth_model::placement::{
    Domain, HostWish, Operator, Requirement, Rules, Selector, Spread, Strength, Taint, TaintEffect, Toleration,
    VmAffinity, WhenUnsatisfiable,
};
use berth_model::session::Report;
use berth_model::testing::strategies::livenesses;
use berth_model::testing::{IMAGE_SIZE, Machine, digest, host_uid, name, vm_spec, vm_uid};
use berth_model::vm::{DeviceDemand, NumaPolicy, Performance, SmtPolicy, Tuning, VmSpec};
use berth_model::{Bytes, Name, PageSize, VmUid};
use berth_state::testing::{World, report};
use berth_state::{Body, Expect, HostPatch};
use proptest::collection::vec;
use proptest::prelude::*;

pub(super) const CARD: PciKind = PciKind { vendor: 0x8086, product: 1 };
pub(super) const FUNCTION: PciKind = PciKind { vendor: 0x8086, product: 2 };

fn address(device: u8, function: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 1, device, function }
}

/// Cards, each with functions; some groups are shared, some devices are in none.
fn devices() -> impl Strategy<Value = Vec<PciDevice>> {
    let card = (0..3_u8, prop::option::weighted(0.8, 0..2_u32), any::<bool>(), any::<bool>());
    vec(card, 0..3).prop_map(|cards| {
        let mut devices = Vec::new();
        for (at, (functions, node, has_group, shares)) in (0_u8..).zip(cards) {
            let node = node.map(NodeId);
            let group = |function: u8| {
                let own = u32::from(at) * 10 + if shares { 0 } else { u32::from(function) };
                has_group.then_some(own)
            };
            let card = address(at, 0);
            devices.push(PciDevice { address: card, kind: CARD, node, iommu_group: group(0), physical: None });
            for function in 1..=functions {
                let address = address(at, function);
                let iommu_group = group(function);
                devices.push(PciDevice { address, kind: FUNCTION, node, iommu_group, physical: Some(card) });
            }
        }
        devices
    })
}

pub(super) fn machines() -> impl Strategy<Value = Inventory> {
    let ordinary = prop_oneof![1 => Just(Bytes::mib(250)), 3 => Just(Bytes::gib(1)), 1 => Just(Bytes::gib(4))];
    let shape = (1..3_u32, 1..4_u32, 1..3_u32, 0..3_u32, 0..160_u64, ordinary);
    (shape, devices(), any::<bool>(), any::<bool>()).prop_map(
        |((nodes, cores, threads, reserve, hugepages, ordinary), devices, split_caches, giant)| {
            let reserve = reserve.min(nodes * cores / 2);
            let mut inventory = Machine { nodes, cores, threads, reserve, hugepages, ordinary }.inventory();
            if split_caches {
                for thread in &mut inventory.topology.threads {
                    thread.cache = thread.core.0 / 2 + thread.node.0 * 100;
                }
            }
            if giant {
                inventory.hugepages.push(HugepagePool { node: NodeId(0), page: PageSize::Huge1G, total: 1 });
            }
            let nodes = inventory.topology.nodes();
            inventory.devices = devices
                .into_iter()
                .map(|device| PciDevice { node: device.node.filter(|node| nodes.contains(node)), ..device })
                .collect();
            inventory
        },
    )
}

fn tunings() -> impl Strategy<Value = (Performance, Tuning)> {
    let smt =
        prop_oneof![4 => Just(SmtPolicy::Siblings), 1 => Just(SmtPolicy::WholeCores), 1 => Just(SmtPolicy::Isolate)];
    let pinned = (smt, any::<bool>(), prop::bool::weighted(0.2), prop_oneof![4 => Just(0), 1 => 1..3_u32], 0..8_u8);
    let pinned = pinned.prop_map(|(smt, single, dedicated_emulator, dedicated_iothreads, pages)| {
        let numa = if single { NumaPolicy::Single } else { NumaPolicy::Fewest };
        let pages = match pages {
            0 => PageSize::Huge1G,
            1 | 2 => PageSize::Small,
            _ => PageSize::Huge2M,
        };
        let tuning = Tuning::of(Performance::High);
        (Performance::High, Tuning { pages, smt, numa, dedicated_emulator, dedicated_iothreads, ..tuning })
    });
    let floating = prop_oneof![Just(Performance::Standard), Just(Performance::Density)];
    prop_oneof![2 => pinned, 1 => floating.prop_map(|performance| (performance, Tuning::of(performance)))]
}

pub(super) fn plain_specs() -> impl Strategy<Value = VmSpec> {
    let demands = vec((any::<bool>(), 1..3_u32), 0..3).prop_map(|demands| {
        let kind = |is_card| if is_card { CARD } else { FUNCTION };
        demands.into_iter().map(|(is_card, count)| DeviceDemand { kind: kind(is_card), count }).collect::<Vec<_>>()
    });
    let demands = prop_oneof![3 => Just(Vec::new()), 1 => demands];
    (1..5_u32, 32..160_u64, tunings(), demands).prop_map(|(cpus, pages, (performance, tuning), devices)| {
        let memory = if tuning.pages == PageSize::Huge1G { Bytes::gib(1) } else { Bytes::mib(2 * pages) };
        VmSpec { performance, tuning, devices, ..vm_spec(cpus, memory) }
    })
}

fn one_of(key: &str, value: &str) -> Selector {
    let values = BTreeSet::from([value.to_owned()]);
    Selector(vec![Requirement { key: key.into(), operator: Operator::In, values }])
}

fn apps() -> impl Strategy<Value = Selector> {
    prop_oneof![
        3 => Just(one_of("app", "a")),
        3 => Just(one_of("app", "b")),
        1 => Just(Selector::default()),
        1 => Just(Selector(vec![Requirement {
            key: "app".into(), operator: Operator::NotIn, values: BTreeSet::from(["a".to_owned()]),
        }])),
    ]
}

fn domains() -> impl Strategy<Value = Domain> {
    prop_oneof![
        3 => Just(Domain::Host), 3 => Just(Domain::Zone), 1 => Just(Domain::Rack),
        1 => Just(Domain::Label("disk".into())),
    ]
}

pub(super) fn rules() -> impl Strategy<Value = Rules> {
    let strength = prop_oneof![Just(Strength::Required), (1..50_u32).prop_map(Strength::Preferred)];
    let affinity = (any::<bool>(), strength, domains(), apps()).prop_map(|(anti, strength, domain, vms)| VmAffinity {
        anti,
        strength,
        domain,
        vms,
    });
    let spread = (domains(), 1..3_u32, any::<bool>(), apps()).prop_map(|(domain, max_skew, strict, vms)| {
        let when_unsatisfiable =
            if strict { WhenUnsatisfiable::DoNotSchedule } else { WhenUnsatisfiable::ScheduleAnyway };
        Spread { domain, max_skew, when_unsatisfiable, vms }
    });
    let hosts = prop_oneof![
        6 => Just(Vec::new()),
        1 => Just(vec![one_of("disk", "ssd")]),
        1 => Just(vec![one_of("disk", "ssd"), one_of("berth.dev/zone", "z0")]),
    ];
    let toleration = Toleration { key: Some("gpu".into()), ..Toleration::default() };
    let all = (
        vec(affinity, 0..3),
        vec(spread, 0..2),
        hosts,
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, 1..50_u32),
        prop_oneof![6 => Just(0), 1 => -1..2_i32],
    );
    let all = all.prop_map(move |(affinity, spread, hosts, tolerates, grouped, wish, priority)| Rules {
        affinity,
        spread,
        hosts,
        tolerations: if tolerates { vec![toleration.clone()] } else { Vec::new() },
        host_group: grouped.then(|| name("fast")),
        host_wishes: wish.into_iter().map(|weight| HostWish { weight, hosts: one_of("disk", "hdd") }).collect(),
        priority,
    });
    prop_oneof![1 => Just(Rules::default()), 1 => all]
}

/// What a VM asks for, and what it is called.
pub(super) fn vms() -> impl Strategy<Value = (VmSpec, BTreeMap<String, String>)> {
    let labels = prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
    (plain_specs(), rules(), labels).prop_map(|(spec, rules, app)| {
        let labels = app.map(|app| ("app".to_owned(), app.to_owned())).into_iter().collect();
        (VmSpec { rules, ..spec }, labels)
    })
}

pub(super) fn create(world: &mut World, number: u32, asked: (VmSpec, BTreeMap<String, String>)) -> VmUid {
    create_in(world, Name::default_project(), number, asked)
}

pub(super) fn create_in(
    world: &mut World,
    project: Name,
    number: u32,
    (spec, labels): (VmSpec, BTreeMap<String, String>),
) -> VmUid {
    let uid = vm_uid(u128::from(number));
    let called = name(&format!("vm-{number}"));
    let annotations = BTreeMap::new();
    world.done(Body::CreateVm { uid, project, name: called, labels, annotations, spec: Box::new(spec) });
    uid
}

/// One VM in four is of another project, whose VMs count for nothing.
pub(super) fn projects() -> impl Strategy<Value = Name> {
    prop_oneof![3 => Just(Name::default_project()), 1 => Just(name("other"))]
}

fn images() -> impl Strategy<Value = Option<ImageOnHost>> {
    let verified = |virtual_size| Some(ImageOnHost::Verified { virtual_size });
    prop_oneof![
        14 => Just(verified(IMAGE_SIZE)),
        1 => Just(verified(Bytes::mib(65))),
        1 => Just(Some(ImageOnHost::Refused { reason: "altered".into() })),
        1 => Just(None),
    ]
}

pub(super) fn patches() -> impl Strategy<Value = HostPatch> {
    let taint = prop_oneof![
        8 => Just(None),
        1 => Just(Some(("gpu", TaintEffect::NoSchedule))),
        1 => Just(Some(("old", TaintEffect::PreferNoSchedule))),
    ];
    let disk = prop_oneof![Just(None), Just(Some("ssd")), Just(Some("hdd"))];
    let part = || prop::option::weighted(0.8, 0..2_u8);
    let generous = Overcommit { cpu_percent: Percent(800), memory_percent: Percent(200) };
    let overcommit = prop::option::weighted(0.2, prop_oneof![Just(generous), Just(Overcommit::NONE)]);
    (part(), part(), disk, taint, prop::bool::weighted(0.3), prop::bool::weighted(0.05), overcommit).prop_map(
        |(zone, rack, disk, taint, fast, cordoned, overcommit)| HostPatch {
            overcommit,
            zone: Some(zone.map(|zone| name(&format!("z{zone}")))),
            rack: Some(rack.map(|rack| name(&format!("r{rack}")))),
            set_labels: disk.map(|disk| ("disk".to_owned(), disk.to_owned())).into_iter().collect(),
            groups: Some(fast.then(|| name("fast")).into_iter().collect()),
            set_taints: taint
                .map(|(key, effect)| Taint { key: key.into(), value: String::new(), effect })
                .into_iter()
                .collect(),
            cordoned: Some(cordoned),
            ..HostPatch::default()
        },
    )
}

/// Hosts with VMs on them: some placed, some deleted and not yet gone, some hosts shrunk afterwards.
pub(super) fn worlds() -> impl Strategy<Value = World> {
    let host =
        (machines(), prop_oneof![8 => Just(Liveness::Alive), 1 => livenesses()], images(), any::<u8>(), patches());
    (vec(host, 0..5), vec((vms(), projects(), prop::bool::weighted(0.2)), 0..8)).prop_map(|(hosts, vms)| {
        let mut world = World::new();
        for (number, (inventory, _, _, _, patch)) in (0..).zip(&hosts) {
            world.host(number, inventory.clone());
            super::patch(&mut world, number, HostPatch { cordoned: None, ..patch.clone() });
        }
        for (number, (vm, project, deleted)) in (100..).zip(vms) {
            let vm = create_in(&mut world, project, number, vm);
            super::settle(&mut world);
            if deleted {
                world.done(berth_state::testing::delete_vm(vm));
            }
        }
        for (number, (mut inventory, liveness, image, shrunk, patch)) in (0..).zip(hosts) {
            if (20..45).contains(&shrunk) {
                // It was declared dead, and is heard of again: it still holds what it had.
                let host = host_uid(number.into());
                world.liveness(host, Liveness::Lost);
                world.done(Body::ConfirmDead { host, expect: Expect::default() });
            }
            inventory.hugepages.iter_mut().for_each(|pool| pool.total /= 2);
            let inventory = (shrunk < 20).then_some(inventory);
            let images = vec![(digest(1), image)];
            world.done(report(number, Report { number: 2, inventory, images, ..Report::default() }));
            world.liveness(host_uid(number.into()), liveness);
            super::patch(&mut world, number, HostPatch { cordoned: patch.cordoned, ..HostPatch::default() });
        }
        world
    })
}
