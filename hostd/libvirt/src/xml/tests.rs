use std::path::Path;

use berth_model::vm::Accelerator;

use super::testing::{Release, capabilities, files, floating, spec, two_iothreads};
use super::*;

/// Compares with a kept file. `UPDATE_GOLDEN=1` writes it anew, to be read before it is committed.
fn golden(release: Release, name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(release.folder()).join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, text, "{} differs; look at it, then run with UPDATE_GOLDEN=1", path.display());
}

#[test]
fn two_vcpus_on_one_node_come_out_as_kept() {
    for release in Release::ALL {
        for accelerator in [Accelerator::Tcg, Accelerator::Kvm] {
            let spec = spec(accelerator, &[2, 3], &[(0, 128)]);
            let rendered = render(&spec, &files(), &capabilities(release, accelerator)).unwrap();
            assert_eq!(rendered.degraded, Vec::<String>::new());
            golden(release, &format!("two-vcpus-{accelerator}.xml").to_lowercase(), &rendered.xml);
        }
    }
}

#[test]
fn eight_vcpus_over_two_nodes_come_out_as_kept() {
    for release in Release::ALL {
        let spec = spec(Accelerator::Kvm, &[4, 5, 6, 7, 8, 9, 10, 11], &[(0, 1024), (1, 1024)]);
        let rendered = render(&spec, &files(), &capabilities(release, Accelerator::Kvm)).unwrap();
        golden(release, "eight-vcpus-two-nodes-kvm.xml", &rendered.xml);
    }
}

#[test]
fn a_vm_that_shares_threads_is_pinned_nowhere_and_comes_out_as_kept() {
    for release in Release::ALL {
        let rendered = render(&floating(Accelerator::Kvm), &files(), &capabilities(release, Accelerator::Kvm)).unwrap();
        assert_eq!(rendered.degraded, Vec::<String>::new());
        for absent in ["vcpupin", "hugepages", "numatune", "hint-dedicated"] {
            assert!(!rendered.xml.contains(absent), "{absent} in {}", rendered.xml);
        }
        golden(release, "four-shared-vcpus-kvm.xml", &rendered.xml);
    }
}

#[test]
fn a_guaranteed_vm_that_floats_shares_no_pages_and_reports_none_as_free() {
    let spec = DomainSpec { performance: Performance::Standard, ..floating(Accelerator::Kvm) };
    let rendered = render(&spec, &files(), &capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm)).unwrap();
    assert!(
        rendered.xml.contains("<nosharepages/>") && !rendered.xml.contains("freePageReporting"),
        "{}",
        rendered.xml
    );
}

#[test]
fn two_iothreads_share_the_queues_of_a_disk_where_that_can_be_and_come_out_as_kept() {
    for release in Release::ALL {
        let spec = two_iothreads(Accelerator::Kvm);
        let rendered = render(&spec, &files(), &capabilities(release, Accelerator::Kvm)).unwrap();
        let lacks = release == Release::Libvirt9Qemu7;
        assert_eq!(rendered.degraded.len(), usize::from(lacks), "{:#?}", rendered.degraded);
        assert_eq!(
            rendered.degraded.iter().any(|sentence| sentence.contains("needs libvirt 10.0 and QEMU 9.0")),
            lacks
        );
        golden(release, "two-iothreads-kvm.xml", &rendered.xml);
    }
}

#[test]
fn without_direct_io_the_disk_uses_io_uring_if_the_kernel_and_qemu_have_it() {
    let spec = spec(Accelerator::Kvm, &[2, 3], &[(0, 128)]);
    let capabilities = capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm);
    let io = |direct_io, io_uring| {
        let files = DiskFiles { direct_io, io_uring, ..files() };
        let xml = render(&spec, &files, &capabilities).unwrap().xml;
        ["native", "io_uring", "threads"].into_iter().find(|io| xml.contains(&format!("io=\"{io}\"")))
    };
    assert_eq!(io(true, true), Some("native"));
    assert_eq!(io(true, false), Some("native"));
    assert_eq!(io(false, true), Some("io_uring"));
    assert_eq!(io(false, false), Some("threads"));
}

#[test]
fn a_vm_that_floats_must_be_told_where_and_a_pinned_one_must_not() {
    let capabilities = capabilities(Release::Libvirt11Qemu10, Accelerator::Tcg);
    let nowhere = DomainSpec { floats: None, ..floating(Accelerator::Tcg) };
    assert_eq!(render(&nowhere, &files(), &capabilities), Err(RenderError::Floats(0)));
    let both = DomainSpec { floats: nowhere_else(), ..spec(Accelerator::Tcg, &[2], &[(0, 64)]) };
    assert_eq!(render(&both, &files(), &capabilities), Err(RenderError::Floats(1)));
    let few = DomainSpec { dedicated_iothreads: 3, ..two_iothreads(Accelerator::Tcg) };
    assert_eq!(render(&few, &files(), &capabilities), Err(RenderError::IothreadCount { iothreads: 3, threads: 2 }));
}

fn nowhere_else() -> Option<berth_host::float::Floats> {
    floating(Accelerator::Tcg).floats
}

#[test]
fn a_device_is_passed_through_by_its_address_and_comes_out_as_kept() {
    for release in Release::ALL {
        let mut spec = spec(Accelerator::Kvm, &[2, 3], &[(0, 128)]);
        spec.resources.devices = ["0000:3b:00.1", "0001:af:1f.0"].map(|address| address.parse().unwrap()).into();
        let rendered = render(&spec, &files(), &capabilities(release, Accelerator::Kvm)).unwrap();
        let source = "<address domain=\"0x0001\" bus=\"0xaf\" slot=\"0x1f\" function=\"0x0\"/>";
        assert!(rendered.xml.contains(source), "{}", rendered.xml);
        golden(release, "two-devices-kvm.xml", &rendered.xml);
    }
}

#[test]
fn a_disk_without_direct_io_comes_out_as_kept_and_says_so() {
    for release in Release::ALL {
        let spec = spec(Accelerator::Tcg, &[2, 3], &[(0, 128)]);
        let console_log = Some("/run/berth/console.log".into());
        let files = DiskFiles { direct_io: false, io_uring: false, console_log, ..files() };
        let rendered = render(&spec, &files, &capabilities(release, Accelerator::Tcg)).unwrap();
        assert_eq!(rendered.degraded.len(), 2, "{:#?}", rendered.degraded);
        assert!(rendered.degraded[0].contains("direct I/O does not work in /var/lib/berth/volumes"));
        golden(release, "no-direct-io-tcg.xml", &rendered.xml);
    }
}

#[test]
fn what_the_host_lacks_is_left_out_and_said() {
    let mut lacking = capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm);
    lacking.disk = crate::capabilities::DiskFeatures::default();
    (lacking.rng, lacking.vnc, lacking.unix_channel, lacking.cpu_host_passthrough) = (false, false, false, false);
    let rendered = render(&spec(Accelerator::Kvm, &[2, 3], &[(0, 128)]), &files(), &lacking).unwrap();
    assert_eq!(rendered.degraded.len(), 7, "{:#?}", rendered.degraded);
    for absent in ["<rng", "<graphics", "<channel", "queues=", "iothread", "native", "host-passthrough"] {
        let without_mark: String = rendered.xml.lines().filter(|line| !line.contains("<berth:degraded>")).collect();
        assert!(!without_mark.contains(absent), "{absent} in {}", rendered.xml);
    }
    let document = roxmltree::Document::parse(&rendered.xml).unwrap();
    let marked = Marked::read(document.root_element()).unwrap().unwrap();
    assert_eq!(marked.degraded, rendered.degraded, "the metadata carries it");
}

#[test]
fn a_path_with_markup_in_it_stays_a_path() {
    let hostile = "/tmp/a'/><disk x=\"&amp;<b>";
    let files = DiskFiles { disk: hostile.into(), ..files() };
    let capabilities = capabilities(Release::Libvirt11Qemu10, Accelerator::Tcg);
    let rendered = render(&spec(Accelerator::Tcg, &[2], &[(0, 64)]), &files, &capabilities).unwrap();
    let document = roxmltree::Document::parse(&rendered.xml).unwrap();
    let disks: Vec<_> = document.descendants().filter(|node| node.has_tag_name("disk")).collect();
    assert_eq!(disks.len(), 2);
    let source = disks[0].children().find(|node| node.has_tag_name("source")).unwrap();
    assert_eq!(source.attribute("file"), Some(hostile));
}

#[test]
fn contradictions_and_unusable_paths_are_refused_rather_than_repaired() {
    let capabilities = capabilities(Release::Libvirt11Qemu10, Accelerator::Tcg);
    let render = |spec: &DomainSpec, files: &DiskFiles| super::render(spec, files, &capabilities);
    let good = spec(Accelerator::Tcg, &[2, 3], &[(0, 128)]);

    let spec = DomainSpec { cpus: 3, ..good.clone() };
    assert_eq!(render(&spec, &files()), Err(RenderError::ThreadCount { cpus: 3, threads: 2 }));
    let spec = DomainSpec { memory: Bytes::mib(128), ..good.clone() };
    assert_eq!(render(&spec, &files()), Err(RenderError::PageSum { memory: Bytes::mib(128), pages: Bytes::mib(256) }));
    let mut spec = good.clone();
    spec.resources.iothread = berth_model::host::ThreadSet::default();
    assert_eq!(render(&spec, &files()), Err(RenderError::NoThreads("IOThread")));
    let relative = DiskFiles { disk: "volumes/x.qcow2".into(), ..files() };
    assert_eq!(render(&good, &relative), Err(RenderError::Path("volumes/x.qcow2".into())));
    let odd = DiskFiles { disk: "/tmp/a\u{1}".into(), ..files() };
    assert!(matches!(render(&good, &odd), Err(RenderError::Character(_))));
}

#[test]
fn a_vcpu_whose_node_gives_no_memory_belongs_to_the_first_guest_node() {
    let capabilities = capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm);
    let spec = spec(Accelerator::Kvm, &[1, 2, 14], &[(0, 64), (1, 64)]);
    let cells = guest_cells(&spec, &capabilities);
    assert_eq!(cells[0].vcpus, [0, 1]);
    assert_eq!(cells[1].vcpus, [2]);
    let mut elsewhere = spec;
    elsewhere.resources.memory[1].node = NodeId(0);
    let cells = guest_cells(&elsewhere, &capabilities);
    assert_eq!(cells[0].vcpus, [0, 1, 2]);
}
