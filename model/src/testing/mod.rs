//! Builders and proptest strategies of the model, for tests of every crate that speaks in it.
//!
//! Values are small and numbered: `vm_uid(3)` is the same VM in every test, and two tests that mean the same machine
//! build it with the same words.

pub mod strategies;

use std::collections::BTreeMap;

use crate::host::{
    AcceleratorReport, CoreId, Host, HostSpec, HugepagePool, Inventory, Liveness, NodeId, NodeMemory, Thread, ThreadId,
    ThreadSet, Topology,
};
use crate::image::{Image, ImageOnHost, ImageRef, ImageSpec, Sha256Digest};
use crate::placement::Rules;
use crate::session::Report;
use crate::vm::{
    Accelerator, DomainState, NodePages, Observed, Performance, Resources, RunStrategy, Tuning, Vm, VmSpec,
};
use crate::{
    Actor, ActorRole, BootId, Bytes, ClusterId, Epoch, HostUid, ImageUid, Meta, Name, PageSize, Revision, Timestamp,
    Uid, VmUid,
};

/// When tests take place: 2027-01-15T08:00:00Z.
pub const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// The virtual size of [`image_ref`].
pub const IMAGE_SIZE: Bytes = Bytes::mib(64);

/// The name of this text.
pub fn name(text: &str) -> Name {
    text.parse().expect("a test's name is a DNS label")
}

/// The cluster of tests.
pub fn cluster_id() -> ClusterId {
    "lab".parse().expect("a short word is a uid")
}

/// The VM of this number.
pub fn vm_uid(number: u128) -> VmUid {
    VmUid(Uid::from_bits(number))
}

/// The host of this number.
pub fn host_uid(number: u128) -> HostUid {
    HostUid(Uid::from_bits(1 << 32 | number))
}

/// The image of this number.
pub fn image_uid(number: u128) -> ImageUid {
    ImageUid(Uid::from_bits(2 << 32 | number))
}

/// The digest of this number.
pub const fn digest(number: u8) -> Sha256Digest {
    Sha256Digest([number; 32])
}

/// An operator.
pub fn operator() -> Actor {
    Actor { role: ActorRole::Operator, name: "ada".into() }
}

/// A machine's shape, from which an [`Inventory`] is built.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// NUMA nodes.
    pub nodes: u32,
    /// Cores of each node.
    pub cores: u32,
    /// Threads of each core.
    pub threads: u32,
    /// Whole cores kept for the host, the lowest.
    pub reserve: u32,
    /// 2 MiB hugepages of each node.
    pub hugepages: u64,
    /// Ordinary memory of each node, for QEMU itself.
    pub ordinary: Bytes,
}

impl Machine {
    /// One node of this many cores of one thread, nothing kept, with 1024 hugepages and 8 GiB of ordinary memory.
    pub const fn cores(cores: u32) -> Self {
        Self { nodes: 1, cores, threads: 1, reserve: 0, hugepages: 1024, ordinary: Bytes::gib(8) }
    }

    /// What a host of this shape reports. Threads are numbered as Linux does: the first of each core, then the second.
    pub fn inventory(self) -> Inventory {
        let all = self.nodes * self.cores;
        let threads = (0..all * self.threads)
            .map(|id| {
                let core = id % all;
                let node = core / self.cores.max(1);
                Thread { id: ThreadId(id), core: CoreId(core), socket: node, node: NodeId(node), cache: node }
            })
            .collect();
        let topology = Topology { threads };
        let reserve = (0..self.reserve).flat_map(|core| topology.siblings(CoreId(core)).collect::<Vec<_>>()).collect();
        let nodes = || (0..self.nodes).map(NodeId);
        Inventory {
            reserve,
            memory: nodes().map(|node| NodeMemory { node, ordinary: self.ordinary }).collect(),
            hugepages: nodes()
                .map(|node| HugepagePool { node, page: PageSize::Huge2M, total: self.hugepages })
                .collect(),
            topology,
            devices: Vec::new(),
            accelerator: AcceleratorReport { accelerator: Accelerator::Kvm, failed_step: None, detail: None },
            versions: vec!["libvirt 11.3.0".into(), "QEMU 10.0.2".into()],
            overlap: false,
        }
    }
}

/// The metadata of an object of this uid and name.
pub fn meta(uid: Uid, called: &str) -> Meta {
    Meta { revision: Revision(1), ..Meta::new(Name::default_project(), name(called), uid, NOW) }
}

/// The image that [`vm_spec`] starts from, digest 1.
pub fn image_ref() -> ImageRef {
    ImageRef { name: name("tiny"), sha256: digest(1), virtual_size: IMAGE_SIZE }
}

/// The image of [`image_ref`], as the cluster knows it.
pub fn image() -> Image {
    Image { meta: meta(image_uid(1).0, "tiny"), spec: ImageSpec { sha256: digest(1), virtual_size: IMAGE_SIZE } }
}

/// A VM that shall run with this many CPUs and this much memory.
pub fn vm_spec(cpus: u32, memory: Bytes) -> VmSpec {
    VmSpec {
        instance_type: None,
        cpus,
        memory,
        preference: None,
        performance: Performance::High,
        tuning: Tuning::of(Performance::High),
        devices: Vec::new(),
        rules: Rules::default(),
        image: image_ref(),
        disk_size: Bytes::gib(1),
        run: RunStrategy::Always,
        grace: VmSpec::GRACE,
        user_data: None,
    }
}

/// The waiting VM of this number, called `vm-NUMBER`, created as many milliseconds after [`NOW`].
pub fn vm(number: u64, spec: VmSpec) -> Vm {
    let mut meta = meta(vm_uid(u128::from(number)).0, &format!("vm-{number}"));
    meta.created_at = Timestamp::from_millis(NOW.as_millis() + number);
    Vm::new(meta, spec)
}

/// The living host of this number, called `h` and the number, which holds the image of [`image_ref`].
pub fn host(number: u32, inventory: Inventory) -> Host {
    Host {
        meta: meta(host_uid(u128::from(number)).0, &format!("h{number}")),
        spec: HostSpec::default(),
        address: format!("10.0.0.{number}:7443"),
        boot: BootId("boot-1".into()),
        liveness: Liveness::Alive,
        liveness_since: NOW,
        inventory,
        conditions: Vec::new(),
        images: BTreeMap::from([(digest(1), ImageOnHost::Verified { virtual_size: IMAGE_SIZE })]),
        orphans: Vec::new(),
        evictions: Vec::new(),
        awaited: None,
    }
}

/// These threads and all of the spec's memory on one node of the host; QEMU's own threads where the host has room.
pub fn resources(inventory: &Inventory, spec: &VmSpec, vcpus: impl IntoIterator<Item = u32>, node: u32) -> Resources {
    let page = spec.page_size();
    let housekeeping: ThreadSet = inventory.housekeeping();
    Resources {
        vcpus: vcpus.into_iter().map(ThreadId).collect(),
        emulator: housekeeping.clone(),
        iothread: housekeeping,
        memory: vec![NodePages { node: NodeId(node), page, count: page.pages_for(spec.memory) }],
        overhead: spec.overhead(),
        ..Resources::default()
    }
}

/// What a host sees of a VM that is in this state by the placement of this epoch.
pub fn observed(epoch: Epoch, state: DomainState) -> Observed {
    Observed {
        epoch,
        state,
        accelerator: matches!(state, DomainState::Running | DomainState::Paused).then_some(Accelerator::Kvm),
        restart_count: 0,
        reset_count: 0,
        failures: 0,
        last_end: None,
        trouble: None,
        degraded: Vec::new(),
        since: NOW,
    }
}

/// The first report of a host of this shape that holds the image of [`image_ref`] and no VMs.
pub fn full_report(inventory: Inventory) -> Report {
    Report {
        number: 1,
        full: true,
        inventory: Some(inventory),
        conditions: Some(Vec::new()),
        images: vec![(digest(1), Some(ImageOnHost::Verified { virtual_size: IMAGE_SIZE }))],
        vms: Vec::new(),
        orphans: Some(Vec::new()),
        holdings: Vec::new(),
    }
}
