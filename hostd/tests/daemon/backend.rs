//! The composite backend over real folders; libvirt is its own test driver, which has no domain of ours.

use std::fs;
use std::path::Path;
use std::process::Command;

use berth_host::backend::{Backend, BackendError};
use berth_host::step::{DomainSpec, Mark, Step};
use berth_hostd::backend::{Folders, HostBackend};
use berth_libvirt::{LibvirtBackend, Options};
use berth_model::host::{NodeId, ThreadId};
use berth_model::image::{ImageOnHost, Sha256Digest};
use berth_model::session::UserData;
use berth_model::vm::{Accelerator, CpuShape, NodePages, Performance, Resources};
use berth_model::{Bytes, Epoch, Incarnation, PageSize, Stamp};

const SECRET: &[u8] = b"#cloud-config\nhostname: web\n";

fn folders(root: &Path) -> Folders {
    let folders = Folders {
        images: root.join("images"),
        images_known: root.join("images.json"),
        volumes: root.join("volumes"),
        seeds: root.join("seeds"),
        vnc: root.join("vnc"),
    };
    for folder in [&folders.images, &folders.volumes, &folders.seeds, &folders.vnc] {
        fs::create_dir_all(folder).unwrap();
    }
    folders
}

fn open(folders: &Folders) -> HostBackend {
    let options = Options { uri: "test:///default".into(), cluster: "lab".parse().unwrap() };
    HostBackend::open(folders, LibvirtBackend::new(options)).unwrap()
}

/// Puts an image of 8 MiB into the folder under its digest.
fn put_image(folder: &Path) -> Sha256Digest {
    let path = folder.join("new");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("8M").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let sum = Command::new("sha256sum").arg(&path).output().unwrap();
    let digest = String::from_utf8(sum.stdout).unwrap().split(' ').next().unwrap().to_owned();
    fs::rename(&path, folder.join(&digest)).unwrap();
    digest.parse().unwrap()
}

fn domain(image: Sha256Digest) -> Box<DomainSpec> {
    Box::new(DomainSpec {
        mark: Mark {
            cluster: "lab".parse().unwrap(),
            vm: "vm1".parse().unwrap(),
            project: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            stamp: Stamp { incarnation: Incarnation(0), epoch: Epoch(5) },
            restart_count: 0,
        },
        cpus: 1,
        memory: Bytes::mib(64),
        page: PageSize::Small,
        performance: Performance::High,
        queues: 1,
        dedicated_iothreads: 0,
        floats: None,
        cpu_shape: CpuShape::Cores,
        resources: Resources {
            vcpus: vec![ThreadId(0)],
            emulator: [ThreadId(0)].into_iter().collect(),
            iothread: [ThreadId(0)].into_iter().collect(),
            memory: vec![NodePages { node: NodeId(0), page: PageSize::Small, count: 16384 }],
            overhead: Bytes::mib(104),
            ..Resources::default()
        },
        image,
        disk_size: Bytes::mib(16),
        accelerator: Accelerator::Tcg,
        user_data: Some(UserData(SECRET.to_vec())),
    })
}

fn reason(result: Result<(), BackendError>) -> &'static str {
    match result {
        Err(BackendError::Failed { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_prepared_is_left_until_it_is_removed_and_then_nothing_is() {
    let root = tempfile::tempdir().unwrap();
    let folders = folders(root.path());
    let backend = open(&folders);
    let (image, vm) = (put_image(&folders.images), "vm1".parse().unwrap());
    assert!(!backend.leftovers(vm).unwrap());
    backend.execute(&Step::Prepare(domain(image))).unwrap();
    backend.execute(&Step::Prepare(domain(image))).unwrap();
    assert!(backend.leftovers(vm).unwrap());
    let seed = fs::read_dir(&folders.seeds).unwrap().next().unwrap().unwrap().path();
    assert!(fs::read(seed).unwrap().windows(SECRET.len()).any(|window| window == SECRET));
    backend.execute(&Step::Remove { vm, with_disk: false }).unwrap();
    assert_eq!(fs::read_dir(&folders.seeds).unwrap().count(), 0);
    assert!(backend.leftovers(vm).unwrap(), "the disk stays");
    for _ in 0..2 {
        backend.execute(&Step::Remove { vm, with_disk: true }).unwrap();
        assert!(!backend.leftovers(vm).unwrap());
    }
}

#[test]
fn an_image_that_is_missing_or_was_altered_after_it_was_verified_is_not_used() {
    let root = tempfile::tempdir().unwrap();
    let folders = folders(root.path());
    let backend = open(&folders);
    assert_eq!(reason(backend.execute(&Step::Prepare(domain(Sha256Digest([1; 32]))))), "ImageMissing");
    let image = put_image(&folders.images);
    assert!(matches!(backend.look_at_images().unwrap()[&image], ImageOnHost::Verified { .. }));
    let path = folders.images.join(image.to_string());
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(reason(backend.execute(&Step::Prepare(domain(image)))), "ImageRefused");
    assert_eq!(reason(backend.execute(&Step::Start(domain(image)))), "ImageRefused");
    assert!(matches!(backend.look_at_images().unwrap()[&image], ImageOnHost::Refused { .. }));
}

#[test]
fn a_scan_shows_nothing_that_is_not_ours() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(open(&folders(root.path())).scan().unwrap(), [], "the test driver has a domain, which is foreign");
}
