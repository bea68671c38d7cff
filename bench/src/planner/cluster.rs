//! The hosts of the bench, and the commands that make its cluster.

use std::collections::BTreeMap;

use berth_model::host::{
    AcceleratorReport, CoreId, HugepagePool, Inventory, NodeId, NodeMemory, Thread, ThreadId, Topology,
};
use berth_model::image::{ImageOnHost, ImageRef, ImageSpec, Sha256Digest};
use berth_model::session::Report;
use berth_model::vm::Accelerator;
use berth_model::{Actor, ActorRole, BootId, Bytes, HostUid, ImageUid, Name, PageSize, Timestamp, Uid, VmUid};
use berth_state::{Body, Cluster, Expect, HostFacts, HostPatch};

use super::cases::Asked;

/// When the bench takes place.
pub(super) const BEGIN: Timestamp = Timestamp::from_millis(1_800_000_000_000);

const IMAGE_SIZE: Bytes = Bytes::gib(2);
const NODES: u32 = 2;
const CORES: u32 = 32;
const CACHES: u32 = 4;

pub(super) fn name(text: &str) -> Name {
    text.parse().expect("the bench's names are names")
}

pub(super) fn actor() -> Actor {
    Actor { role: ActorRole::Controller, name: "leader".into() }
}

pub(super) fn image() -> ImageRef {
    ImageRef { name: name("tiny"), sha256: Sha256Digest([7; 32]), virtual_size: IMAGE_SIZE }
}

/// Two sockets of 32 cores with two threads each, four caches to a socket; 200 GiB of hugepages and 800 GiB of ordinary
/// memory.
fn inventory() -> Inventory {
    let all = NODES * CORES;
    let thread = |id: u32| {
        let core = id % all;
        let node = core / CORES;
        Thread {
            id: ThreadId(id),
            core: CoreId(core),
            socket: node,
            node: NodeId(node),
            cache: core / (CORES / CACHES),
        }
    };
    let topology = Topology { threads: (0..2 * all).map(thread).collect() };
    let nodes = || (0..NODES).map(NodeId);
    Inventory {
        reserve: topology.host_reserve(2),
        topology,
        memory: nodes().map(|node| NodeMemory { node, ordinary: Bytes::gib(400) }).collect(),
        hugepages: nodes().map(|node| HugepagePool { node, page: PageSize::Huge2M, total: 51_200 }).collect(),
        devices: Vec::new(),
        accelerator: AcceleratorReport { accelerator: Accelerator::Kvm, failed_step: None, detail: None },
        versions: vec!["libvirt 11.3.0".into(), "QEMU 10.0.2".into()],
        overlap: false,
    }
}

/// Zones of the cluster; racks have 20 hosts.
pub(super) const ZONES: u32 = 3;

/// The commands that make a cluster of so many hosts.
pub(super) fn hosts(count: u32) -> Vec<Body> {
    let id = "bench".parse().expect("a short word is an identity");
    let mut bodies = vec![
        Body::Bootstrap { cluster: id, version: Cluster::NEWEST_VERSION },
        Body::CreateImage {
            uid: ImageUid(Uid::from_bits(1 << 90)),
            name: name("tiny"),
            labels: BTreeMap::new(),
            spec: ImageSpec { sha256: image().sha256, virtual_size: IMAGE_SIZE },
        },
    ];
    bodies.extend((0..count).flat_map(host));
    bodies
}

/// The commands that make the host of this number.
pub(super) fn host(number: u32) -> [Body; 2] {
    let uid = HostUid(Uid::from_bits(1 << 80 | u128::from(number)));
    let facts = HostFacts {
        uid,
        name: name(&format!("host-{number}")),
        address: format!("10.{}.{}.{}:7443", number >> 16, (number >> 8) & 255, number & 255),
        boot: BootId("boot-1".into()),
    };
    let report = Report {
        number: 1,
        full: true,
        inventory: Some(inventory()),
        conditions: Some(Vec::new()),
        images: vec![(image().sha256, Some(ImageOnHost::Verified { virtual_size: IMAGE_SIZE }))],
        orphans: Some(Vec::new()),
        ..Report::default()
    };
    let zone = name(&format!("zone{}", number % ZONES));
    let patch = HostPatch {
        zone: Some(Some(zone.clone())),
        rack: Some(Some(name(&format!("rack{}", number / 20)))),
        set_labels: BTreeMap::from([
            ("zone".to_owned(), zone.to_string()),
            ("generation".to_owned(), (number % 5).to_string()),
        ]),
        ..HostPatch::default()
    };
    [
        Body::ReportHost { facts, report: Box::new(report) },
        Body::UpdateHost { host: uid, patch: Box::new(patch), expect: Expect::default() },
    ]
}

/// The creation of the VM of this number.
pub(super) fn create(number: u32, Asked { labels, spec }: Asked) -> Body {
    Body::CreateVm {
        uid: VmUid(Uid::from_bits(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c061))),
        project: Name::default_project(),
        name: name(&format!("vm-{number}")),
        labels,
        annotations: BTreeMap::new(),
        spec: Box::new(spec),
    }
}
