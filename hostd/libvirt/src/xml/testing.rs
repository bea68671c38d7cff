//! The hosts and VMs that tests of this crate speak of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_host::float::Floats;
use berth_host::step::{DomainSpec, Mark};
use berth_model::host::{NodeId, ThreadId};
use berth_model::image::Sha256Digest;
use berth_model::vm::{Accelerator, CpuShape, NodePages, Performance, Resources};
use berth_model::{Bytes, Epoch, Incarnation, PageSize, Stamp};

use super::{BaseImage, DiskFiles, DiskFormat};
use crate::capabilities::{Answers, Capabilities, Trial};

/// A pair of versions whose answers are kept as fixtures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Release {
    Libvirt9Qemu7,
    Libvirt11Qemu10,
}

impl Release {
    pub(crate) const ALL: [Self; 2] = [Self::Libvirt9Qemu7, Self::Libvirt11Qemu10];

    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Libvirt9Qemu7 => "libvirt-9.0-qemu-7.2",
            Self::Libvirt11Qemu10 => "libvirt-11.3-qemu-10.0",
        }
    }
}

pub(crate) fn answers(release: Release, accelerator: Accelerator) -> Answers {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(release.folder());
    let kind = crate::capabilities::domain_type(accelerator);
    let read = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let trials: BTreeMap<_, _> =
        Trial::ALL.into_iter().map(|trial| (trial, read(folder.join(kind).join(format!("{trial:?}.txt"))))).collect();
    let host = read(folder.parent().unwrap().join("host-two-nodes.xml"));
    Answers { domain: read(folder.join(kind).join("domain.xml")), host, trials }
}

pub(crate) fn capabilities(release: Release, accelerator: Accelerator) -> Capabilities {
    Capabilities::read(accelerator, &answers(release, accelerator)).unwrap()
}

pub(crate) fn mark() -> Mark {
    Mark {
        cluster: "lab".parse().unwrap(),
        vm: "0123456789abcdefghjk".parse().unwrap(),
        project: "default".parse().unwrap(),
        name: "web-1".parse().unwrap(),
        stamp: Stamp { incarnation: Incarnation(1), epoch: Epoch(42) },
        restart_count: 3,
    }
}

/// A VM with these threads and these hugepages on these nodes.
pub(crate) fn spec(accelerator: Accelerator, threads: &[u32], memory: &[(u32, u64)]) -> DomainSpec {
    let pages = |(node, count): &(u32, u64)| NodePages { node: NodeId(*node), page: PageSize::Huge2M, count: *count };
    DomainSpec {
        mark: mark(),
        cpus: u32::try_from(threads.len()).unwrap(),
        performance: Performance::High,
        queues: u32::try_from(threads.len()).unwrap(),
        dedicated_iothreads: 0,
        floats: None,
        memory: Bytes::mib(2 * memory.iter().map(|(_, count)| count).sum::<u64>()),
        page: PageSize::Huge2M,
        cpu_shape: CpuShape::Cores,
        resources: Resources {
            vcpus: threads.iter().copied().map(ThreadId).collect(),
            emulator: "0-1".parse().unwrap(),
            iothread: "1".parse().unwrap(),
            memory: memory.iter().map(pages).collect(),
            overhead: Bytes::mib(112),
            ..Resources::default()
        },
        image: Sha256Digest([7; 32]),
        disk_size: Bytes::gib(8),
        accelerator,
        user_data: None,
    }
}

/// An over-subscribed VM of four vCPUs as sockets and one gibibyte, which floats over threads 2 to 15.
pub(crate) fn floating(accelerator: Accelerator) -> DomainSpec {
    let mut spec = spec(accelerator, &[], &[]);
    (spec.cpus, spec.memory, spec.page, spec.queues) = (4, Bytes::gib(1), PageSize::Small, 4);
    (spec.performance, spec.cpu_shape) = (Performance::Density, CpuShape::Sockets);
    spec.resources.shared_cpu = 1000;
    spec.resources.memory = vec![NodePages { node: NodeId(0), page: PageSize::Small, count: 200_000 }];
    spec.floats = Some(Floats { vcpus: "2-15".parse().unwrap(), helpers: "0-1".parse().unwrap() });
    spec
}

/// A pinned VM of four vCPUs whose disk is served by two IOThreads with a thread each.
pub(crate) fn two_iothreads(accelerator: Accelerator) -> DomainSpec {
    let mut spec = spec(accelerator, &[4, 5, 6, 7], &[(0, 1024)]);
    spec.dedicated_iothreads = 2;
    spec.resources.iothread = "8-9".parse().unwrap();
    spec.resources.dedicated = "8-9".parse().unwrap();
    spec
}

pub(crate) fn files() -> DiskFiles {
    DiskFiles {
        disk: "/var/lib/berth/volumes/0123456789abcdefghjk.qcow2".into(),
        base: Some(BaseImage {
            path: Path::new("/var/lib/berth/images").join(Sha256Digest([7; 32]).to_string()),
            format: DiskFormat::Qcow2,
        }),
        direct_io: true,
        io_uring: true,
        seed: Some("/run/berth/0123456789abcdefghjk.seed".into()),
        vnc_socket: Some("/run/berth/0123456789abcdefghjk.vnc".into()),
        console_log: None,
    }
}
