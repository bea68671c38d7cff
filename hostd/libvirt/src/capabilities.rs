//! What this host's libvirt and QEMU can do: asked of them, never inferred from their versions.
//!
//! Domain capabilities name machine, CPU modes and device models. What they leave out (queues, asynchronous I/O,
//! virtqueue mapping) is found by *trials*: libvirt is asked to translate a small domain into a QEMU command line,
//! which it does from what it probed of that very QEMU, without running or defining anything. A feature counts only
//! if it stands in the command line: libvirt before version 10 silently drops a virtqueue mapping.
//! Reading the answers is pure ([`Capabilities::read`]), so that the answers of other versions serve as fixtures.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_host::backend::BackendError;
use berth_model::host::{NodeId, ThreadId, ThreadSet};
use berth_model::vm::Accelerator;
use roxmltree::{Document, Node};

use crate::element::Element;
use crate::link::Link;
use crate::mark::child;

/// The first question to a fresh libvirt makes it probe QEMU, which took 8 s where it was measured.
const PROBE_LIMIT: Duration = Duration::from_secs(120);

/// Features of virtio-blk disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question of its own")]
pub struct DiskFeatures {
    /// More than one queue.
    pub queues: bool,
    /// An IOThread of its own.
    pub iothread: bool,
    /// Linux native asynchronous I/O, which needs direct I/O.
    pub native_aio: bool,
    /// `io_uring`, as far as QEMU was built with it; the kernel may still refuse it.
    pub io_uring: bool,
    /// A mapping of virtqueues to several IOThreads.
    pub virtqueue_mapping: bool,
}

/// What a host's libvirt and QEMU can do with one accelerator.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question of its own")]
pub struct Capabilities {
    /// For which accelerator this was asked.
    pub accelerator: Accelerator,
    /// The emulator's path.
    pub emulator: String,
    /// The canonical machine type, such as `pc-q35-10.0`.
    pub machine: String,
    /// The most virtual CPUs of one domain.
    pub max_vcpus: u32,
    /// The guest may be given the host's CPU as it is.
    pub cpu_host_passthrough: bool,
    /// The guest may be given all that the accelerator can do.
    pub cpu_maximum: bool,
    /// Of virtio-blk disks.
    pub disk: DiskFeatures,
    /// A balloon by which the guest gives free pages back and which yields when the guest runs out of memory.
    pub balloon: bool,
    /// virtio-rng fed from a device file.
    pub rng: bool,
    /// VNC.
    pub vnc: bool,
    /// Channels on unix sockets, which the guest agent needs.
    pub unix_channel: bool,
    /// The threads of each NUMA node, as libvirt sees the host.
    pub nodes: BTreeMap<NodeId, ThreadSet>,
    /// Sizes of the pages that the kernel knows, in KiB.
    pub page_sizes_kib: Vec<u64>,
}

/// One question by translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trial {
    /// A disk with two queues.
    Queues,
    /// A disk with an IOThread.
    Iothread,
    /// A disk with `io=native`.
    NativeAio,
    /// A disk with `io=io_uring`.
    IoUring,
    /// A disk with two IOThreads.
    VirtqueueMapping,
    /// A balloon that reports free pages.
    Balloon,
}

impl Trial {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Queues, Self::Iothread, Self::NativeAio, Self::IoUring, Self::VirtqueueMapping, Self::Balloon];

    /// What stands in QEMU's command line when the feature is there.
    const fn evidence(self) -> &'static str {
        match self {
            Self::Queues => r#""num-queues":2"#,
            Self::Iothread => r#""iothread":"iothread1""#,
            Self::NativeAio => r#""aio":"native""#,
            Self::IoUring => r#""aio":"io_uring""#,
            Self::Balloon => r#""free-page-reporting":true"#,
            Self::VirtqueueMapping => r#""iothread-vq-mapping":[{"iothread":"iothread1"}"#,
        }
    }

    /// The domain that is to be translated.
    fn domain(self, accelerator: Accelerator) -> String {
        let plain = Element::new("driver").attr("name", "qemu").attr("type", "raw").attr("cache", "none");
        let driver = match self {
            Self::Queues => plain.attr("queues", 2),
            Self::Iothread => plain.attr("iothread", 1),
            Self::Balloon => plain,
            Self::NativeAio => plain.attr("io", "native"),
            Self::IoUring => plain.attr("io", "io_uring"),
            Self::VirtqueueMapping => {
                let threads = [1, 2].map(|id| Element::new("iothread").attr("id", id));
                plain.attr("queues", 2).child(Element::new("iothreads").children(threads))
            }
        };
        let disk = Element::new("disk")
            .attr("type", "file")
            .attr("device", "disk")
            .child(driver)
            .child(Element::new("source").attr("file", "/nonexistent"))
            .child(Element::new("target").attr("dev", "vda").attr("bus", "virtio"));
        Element::new("domain")
            .attr("type", domain_type(accelerator))
            .child(Element::with_text("name", "trial"))
            .child(Element::with_text("memory", 65536).attr("unit", "KiB"))
            .child(Element::with_text("vcpu", 2))
            .child(Element::with_text("iothreads", 2))
            .child(Element::new("os").child(os_type("q35")))
            .child(Element::new("devices").child(disk).children((self == Self::Balloon).then(giving_balloon)))
            .render()
            .expect("no text in it comes from outside")
    }
}

/// Answers that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilitiesError {
    /// Not XML.
    #[error("libvirt's {what} capabilities are not XML: {why}")]
    NotXml {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// Something that every libvirt says is not there.
    #[error("libvirt's domain capabilities have no <{0}>")]
    Missing(&'static str),
}

/// What libvirt answered.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Domain capabilities for q35.
    pub domain: String,
    /// Host capabilities.
    pub host: String,
    /// Command lines that the trials came to; one that was refused is not in it.
    pub trials: BTreeMap<Trial, String>,
}

impl Capabilities {
    /// Asks libvirt. Takes about 8 s when nothing about this QEMU is cached yet, else well under one.
    pub fn probe(uri: &str, accelerator: Accelerator) -> Result<Self, BackendError> {
        let answers = Answers::ask(&Link::new(uri, "probe"), accelerator)?;
        Self::read(accelerator, &answers).map_err(|error| BackendError::Failed {
            reason: "CapabilitiesUnreadable",
            what: "the capabilities of this host cannot be read".to_owned(),
            why: error.to_string(),
        })
    }

    /// Reads the answers.
    pub fn read(accelerator: Accelerator, answers: &Answers) -> Result<Self, CapabilitiesError> {
        let document = parse("domain", &answers.domain)?;
        let root = document.root_element();
        let text_of = |name| child(root, name).and_then(|node| node.text()).ok_or(CapabilitiesError::Missing(name));
        let device = |name| child(root, "devices").and_then(|devices| child(devices, name)).filter(is_supported);
        let device_offers = |name, list, value| device(name).is_some_and(|device| offers(device, list, value));
        let cpu_mode = |wanted| {
            child(root, "cpu").is_some_and(|cpu| {
                cpu.children().any(|mode| mode.attribute("name") == Some(wanted) && is_supported(&mode))
            })
        };
        let stands = |trial: Trial| answers.trials.get(&trial).is_some_and(|line| line.contains(trial.evidence()));
        let (nodes, page_sizes_kib) = read_host(&answers.host)?;
        Ok(Self {
            accelerator,
            emulator: text_of("path")?.to_owned(),
            machine: text_of("machine")?.to_owned(),
            max_vcpus: child(root, "vcpu")
                .and_then(|vcpu| vcpu.attribute("max")?.parse().ok())
                .ok_or(CapabilitiesError::Missing("vcpu"))?,
            cpu_host_passthrough: cpu_mode("host-passthrough"),
            cpu_maximum: cpu_mode("maximum"),
            disk: DiskFeatures {
                queues: stands(Trial::Queues),
                iothread: child(root, "iothreads").is_some_and(|node| is_supported(&node)) && stands(Trial::Iothread),
                native_aio: stands(Trial::NativeAio),
                io_uring: stands(Trial::IoUring),
                virtqueue_mapping: stands(Trial::VirtqueueMapping),
            },
            balloon: stands(Trial::Balloon),
            rng: device_offers("rng", "model", "virtio") && device_offers("rng", "backendModel", "random"),
            vnc: device_offers("graphics", "type", "vnc"),
            // Before libvirt 8.8 the list does not exist, while unix channels always did.
            unix_channel: child(root, "devices").is_none_or(|devices| child(devices, "channel").is_none())
                || device_offers("channel", "type", "unix"),
            nodes,
            page_sizes_kib,
        })
    }

    /// The NUMA node of a thread, if libvirt named one.
    pub fn node_of(&self, thread: ThreadId) -> Option<NodeId> {
        self.nodes.iter().find(|(_, threads)| threads.contains(thread)).map(|(node, _)| *node)
    }
}

impl Answers {
    fn ask(link: &Link, accelerator: Accelerator) -> Result<Self, BackendError> {
        let inner = link.clone();
        link.call(PROBE_LIMIT, move |connection| {
            let kind = domain_type(accelerator);
            let failed = |error| inner.failure("CapabilitiesUnreadable", "asking libvirt what it can do", &error);
            let domain =
                connection.get_domain_capabilities(None, Some("x86_64"), Some("q35"), Some(kind), 0).map_err(failed)?;
            let host = connection.get_capabilities().map_err(failed)?;
            let mut trials = BTreeMap::new();
            for trial in Trial::ALL {
                match connection.domain_xml_to_native("qemu-argv", &trial.domain(accelerator), 0) {
                    Ok(command) => drop(trials.insert(trial, command)),
                    Err(error) if crate::link::is_connection_loss(&error) => return Err(failed(error)),
                    Err(error) => tracing::info!(?trial, %error, "libvirt or QEMU lacks this"),
                }
            }
            Ok(Self { domain, host, trials })
        })
    }
}

/// A balloon that gives back what the guest does not use, and yields when the guest runs out of memory.
pub(crate) fn giving_balloon() -> Element {
    Element::new("memballoon").attr("model", "virtio").attr("autodeflate", "on").attr("freePageReporting", "on")
}

pub(crate) const fn domain_type(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "qemu",
    }
}

pub(crate) fn os_type(machine: &str) -> Element {
    Element::with_text("type", "hvm").attr("arch", "x86_64").attr("machine", machine)
}

fn parse<'a>(what: &'static str, text: &'a str) -> Result<Document<'a>, CapabilitiesError> {
    Document::parse(text).map_err(|error| CapabilitiesError::NotXml { what, why: error.to_string() })
}

fn is_supported(node: &Node<'_, '_>) -> bool {
    node.attribute("supported") == Some("yes")
}

fn offers(device: Node<'_, '_>, list: &str, value: &str) -> bool {
    device
        .children()
        .filter(|node| node.has_tag_name("enum") && node.attribute("name") == Some(list))
        .flat_map(|list| list.children())
        .any(|node| node.text() == Some(value))
}

type HostShape = (BTreeMap<NodeId, ThreadSet>, Vec<u64>);

fn read_host(text: &str) -> Result<HostShape, CapabilitiesError> {
    let document = parse("host", text)?;
    let host = child(document.root_element(), "host");
    let page_sizes = host
        .and_then(|host| child(host, "cpu"))
        .into_iter()
        .flat_map(|cpu| cpu.children().filter(|node| node.has_tag_name("pages")))
        .filter_map(|pages| pages.attribute("size")?.parse().ok())
        .collect();
    let cells = host
        .and_then(|host| child(host, "topology"))
        .and_then(|topology| child(topology, "cells"))
        .into_iter()
        .flat_map(|cells| cells.children().filter(|node| node.has_tag_name("cell")));
    let nodes = cells
        .filter_map(|cell| {
            let threads = child(cell, "cpus")
                .into_iter()
                .flat_map(|cpus| cpus.children())
                .filter_map(|cpu| cpu.attribute("id")?.parse().ok().map(ThreadId))
                .collect();
            Some((NodeId(cell.attribute("id")?.parse().ok()?), threads))
        })
        .collect();
    Ok((nodes, page_sizes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::testing::{Release, capabilities};

    #[test]
    fn debian_12_has_queues_and_iothreads_and_no_virtqueue_mapping() {
        for accelerator in [Accelerator::Tcg, Accelerator::Kvm] {
            let seen = capabilities(Release::Libvirt9Qemu7, accelerator);
            assert_eq!(seen.machine, "pc-q35-7.2");
            let disk = DiskFeatures {
                queues: true,
                iothread: true,
                native_aio: true,
                io_uring: true,
                virtqueue_mapping: false,
            };
            assert_eq!(seen.disk, disk);
            assert!(seen.rng && seen.vnc && seen.unix_channel);
        }
    }

    #[test]
    fn libvirt_11_with_qemu_10_maps_virtqueues() {
        let seen = capabilities(Release::Libvirt11Qemu10, Accelerator::Tcg);
        assert_eq!(seen.machine, "pc-q35-10.0");
        assert!(seen.disk.virtqueue_mapping);
        assert!(seen.cpu_maximum && !seen.cpu_host_passthrough, "passthrough needs KVM");
        assert!(capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm).cpu_host_passthrough);
    }

    #[test]
    fn numa_nodes_and_page_sizes_are_read_from_the_host() {
        let seen = capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm);
        assert_eq!(seen.nodes.len(), 2);
        assert_eq!(seen.nodes[&NodeId(1)].to_string(), "8-15");
        assert_eq!(seen.node_of(ThreadId(3)), Some(NodeId(0)));
        assert_eq!(seen.node_of(ThreadId(16)), None);
        assert!(seen.page_sizes_kib.contains(&2048));
    }

    #[test]
    fn a_refused_or_silently_dropped_trial_is_a_missing_feature() {
        let mut answers = crate::xml::testing::answers(Release::Libvirt11Qemu10, Accelerator::Tcg);
        answers.trials.remove(&Trial::NativeAio);
        answers.trials.insert(Trial::Queues, "qemu-system-x86_64 -device virtio-blk-pci".to_owned());
        let disk = Capabilities::read(Accelerator::Tcg, &answers).unwrap().disk;
        assert!(!disk.native_aio && !disk.queues && disk.io_uring);
    }

    #[test]
    fn an_answer_that_is_not_xml_is_an_error() {
        let answers = Answers { domain: "no".to_owned(), host: String::new(), trials: BTreeMap::new() };
        let error = Capabilities::read(Accelerator::Tcg, &answers).unwrap_err();
        assert!(matches!(error, CapabilitiesError::NotXml { what: "domain", .. }));
    }
}
