//! The domain XML of one VM: a pure function from what was chosen, where its files lie and what this host can do.
//!
//! Every setting of the high-performance template is here: pinned vCPUs, emulator and IOThread; guest memory on
//! hugepages of the chosen NUMA nodes, mirrored as guest nodes when there is more than one; one virtio-blk queue per
//! vCPU, spread over the IOThreads that have a host thread for themselves. And of the high-density one: vCPUs float over
//! the threads that no VM has for itself; pages that are alike may be merged; a balloon by which the guest gives back what
//! it does not use. What the host cannot do is left out and said in a sentence ([`Rendered::degraded`]), which travels in the
//! domain's metadata so that it is known again after a restart of the daemon.
//!
//! Deliberately absent: `<locked/>` (hugepages are not swapped, and the limit it needs is not always grantable),
//! a balloon for pinned VMs (it gives nothing back from hugepages), USB and tablet (their polling costs exits), default networks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_host::step::DomainSpec;
use berth_model::host::{NodeId, PciAddress};
use berth_model::vm::{Accelerator, CpuShape, NodePages, Performance};
use berth_model::{Bytes, PageSize};

use crate::capabilities::{Capabilities, domain_type, giving_balloon, os_type};
use crate::element::{Element, ForbiddenCharacter};
use crate::mark::{self, Marked};

/// The format of a disk image file. Always said to libvirt, so that neither it nor QEMU ever guesses from contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFormat {
    /// qcow2.
    Qcow2,
    /// Plain bytes.
    Raw,
}

impl DiskFormat {
    const fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// The image that a disk is an overlay on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseImage {
    /// The verified image file. Its owner is left as it is, so QEMU's user must be allowed to read it.
    pub path: PathBuf,
    /// As its header says.
    pub format: DiskFormat,
}

/// Where a VM's files lie, all absolute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskFiles {
    /// The VM's own disk, a qcow2 overlay.
    pub disk: PathBuf,
    /// What it is an overlay on. It must have no backing file of its own: the chain is told to end here.
    pub base: Option<BaseImage>,
    /// Whether `O_DIRECT` was seen to work where the disk lies.
    pub direct_io: bool,
    /// Whether the kernel was seen to take `io_uring` requests.
    pub io_uring: bool,
    /// The NoCloud seed, an ISO 9660 image.
    pub seed: Option<PathBuf>,
    /// Where VNC listens: a unix socket in a folder that only the daemon and QEMU may enter.
    pub vnc_socket: Option<PathBuf>,
    /// Where QEMU appends what the guest writes to its serial console. Nothing bounds its size but whoever rotates it.
    pub console_log: Option<PathBuf>,
}

/// A rendered domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendered {
    /// For libvirt.
    pub xml: String,
    /// What was left out because this host cannot do it, a sentence each.
    pub degraded: Vec<String>,
}

/// A specification that contradicts itself. Hosts never choose, so nothing is repaired here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A thread for each vCPU is needed, no more and no fewer, or none at all.
    #[error("the VM has {cpus} vCPUs and {threads} threads were chosen for them")]
    ThreadCount {
        /// vCPUs asked for.
        cpus: u32,
        /// Threads chosen.
        threads: usize,
    },
    /// The chosen pages are not the guest's memory.
    #[error("the VM has {memory} of memory and pages for {pages} were chosen")]
    PageSum {
        /// Memory asked for.
        memory: Bytes,
        /// What the pages come to.
        pages: Bytes,
    },
    /// A VM whose vCPUs float without a place for them to float on, or one that has threads for itself with such a place.
    #[error("the VM has {0} threads for itself, and it is said otherwise where its CPUs float")]
    Floats(usize),
    /// IOThreads that were to have a thread each for themselves.
    #[error("{iothreads} IOThreads were asked for, and {threads} threads were chosen for them")]
    IothreadCount {
        /// IOThreads asked for.
        iothreads: u32,
        /// Threads chosen.
        threads: usize,
    },
    /// No threads for the emulator or the IOThread.
    #[error("no threads were chosen for the {0}")]
    NoThreads(&'static str),
    /// A path that is not absolute or not UTF-8.
    #[error("the path {0:?} is not absolute UTF-8")]
    Path(PathBuf),
    /// A text that XML cannot carry.
    #[error(transparent)]
    Character(#[from] ForbiddenCharacter),
}

/// The domain XML of one VM.
pub fn render(spec: &DomainSpec, files: &DiskFiles, capabilities: &Capabilities) -> Result<Rendered, RenderError> {
    check(spec)?;
    let mut degraded = Vec::new();
    let cells = guest_cells(spec, capabilities);
    let cpu = cpu(spec, &cells, capabilities, &mut degraded);
    let iothreads = Iothreads::of(spec, capabilities, &mut degraded);
    let devices = devices(spec, files, capabilities, &iothreads, &mut degraded)?;
    let marked = Marked { mark: spec.mark.clone(), degraded, differs: None };
    let mark::Marked { mark, .. } = &marked;
    let domain = Element::new("domain")
        .attr("type", domain_type(spec.accelerator))
        .child(Element::with_text("name", mark::domain_name(mark.vm)))
        .child(Element::with_text("uuid", mark::domain_uuid(mark.cluster, mark.vm)))
        .child(Element::with_text("title", format_args!("{}/{}", mark.project, mark.name)))
        .child(Element::new("metadata").child(marked.element()))
        .child(Element::with_text("memory", spec.memory.0 / 1024).attr("unit", "KiB"))
        .children(memory_backing(spec, &cells))
        .children(numa_tune(&cells, capabilities))
        .child(vcpus(spec))
        .children((iothreads.count > 0).then(|| Element::with_text("iothreads", iothreads.count)))
        .child(cpu_tune(spec, &iothreads))
        .child(Element::new("os").child(os_type(&capabilities.machine)))
        .child(features(spec, capabilities))
        .child(cpu)
        .child(clock(spec.accelerator))
        .child(Element::with_text("on_poweroff", "destroy"))
        .child(Element::with_text("on_reboot", "restart"))
        // What the guest's kernel left is seen by a scan, told, and then ended.
        .child(Element::with_text("on_crash", "preserve"))
        .child(
            Element::new("pm")
                .child(Element::new("suspend-to-mem").attr("enabled", "no"))
                .child(Element::new("suspend-to-disk").attr("enabled", "no")),
        )
        .child(devices);
    Ok(Rendered { xml: domain.render()?, degraded: marked.degraded })
}

fn check(spec: &DomainSpec) -> Result<(), RenderError> {
    let resources = &spec.resources;
    let floats = resources.vcpus.is_empty();
    if spec.cpus == 0 || (!floats && resources.vcpus.len() != spec.cpus as usize) {
        return Err(RenderError::ThreadCount { cpus: spec.cpus, threads: resources.vcpus.len() });
    }
    let bytes_of = |pages: &NodePages| u128::from(pages.page.bytes().0) * u128::from(pages.count);
    let sum = resources.memory.iter().map(bytes_of).sum::<u128>();
    // Of an over-subscribed VM less is booked than it may use.
    let given = if floats { sum <= u128::from(spec.memory.0) } else { sum == u128::from(spec.memory.0) };
    if !given {
        let pages = Bytes(u64::try_from(sum).unwrap_or(u64::MAX));
        return Err(RenderError::PageSum { memory: spec.memory, pages });
    }
    if floats != spec.floats.as_ref().is_some_and(|floats| !floats.vcpus.is_empty()) {
        return Err(RenderError::Floats(resources.vcpus.len()));
    }
    let iothreads = spec.dedicated_iothreads;
    if !floats && iothreads > 0 && resources.iothread.len() != iothreads as usize {
        return Err(RenderError::IothreadCount { iothreads, threads: resources.iothread.len() });
    }
    for (what, threads) in [("emulator", &resources.emulator), ("IOThread", &resources.iothread)] {
        if threads.is_empty() {
            return Err(RenderError::NoThreads(what));
        }
    }
    Ok(())
}

/// One NUMA node of the guest, mirroring one of the host.
struct Cell {
    node: NodeId,
    page: PageSize,
    memory: Bytes,
    vcpus: Vec<usize>,
}

/// One guest node for each host node that gives memory. A vCPU belongs where its thread is; one whose node gives no
/// memory belongs to the first. A VM whose vCPUs float has none: its memory lies where the kernel puts it.
fn guest_cells(spec: &DomainSpec, capabilities: &Capabilities) -> Vec<Cell> {
    if spec.resources.vcpus.is_empty() {
        return Vec::new();
    }
    let mut cells: Vec<_> = spec
        .resources
        .memory
        .iter()
        .filter(|pages| pages.count > 0)
        .map(|pages| Cell {
            node: pages.node,
            page: pages.page,
            memory: Bytes(pages.page.bytes().0 * pages.count),
            vcpus: Vec::new(),
        })
        .collect();
    for (vcpu, thread) in spec.resources.vcpus.iter().enumerate() {
        let node = capabilities.node_of(*thread);
        let at = cells.iter().position(|cell| Some(cell.node) == node).unwrap_or(0);
        if let Some(cell) = cells.get_mut(at) {
            cell.vcpus.push(vcpu);
        }
    }
    cells
}

/// The IOThreads of a domain and what of them its disks use.
struct Iothreads {
    /// None where QEMU offers none.
    count: u32,
    /// How many serve each disk: its queues are dealt out to them.
    of_disk: u32,
}

impl Iothreads {
    fn of(spec: &DomainSpec, capabilities: &Capabilities, degraded: &mut Vec<String>) -> Self {
        let features = capabilities.disk;
        if !features.iothread {
            degraded.push("The disk has no IOThread: this host's QEMU offers none.".to_owned());
            return Self { count: 0, of_disk: 0 };
        }
        let count = spec.dedicated_iothreads.max(1);
        let useful = if features.queues { count.min(spec.queues) } else { 1 };
        if useful > 1 && !features.virtqueue_mapping {
            degraded.push(format!(
                "One IOThread serves all queues of the disk instead of {useful}: to deal them out needs libvirt 10.0 and \
                 QEMU 9.0."
            ));
            return Self { count, of_disk: 1 };
        }
        Self { count, of_disk: useful }
    }
}

/// The vCPUs, and for those that float where they may.
fn vcpus(spec: &DomainSpec) -> Element {
    let element = Element::with_text("vcpu", spec.cpus).attr("placement", "static");
    match &spec.floats {
        Some(floats) => element.attr("cpuset", &floats.vcpus),
        None => element,
    }
}

/// Which pages there are under guest memory, and whether pages that are alike may be merged: only in a VM of which nobody
/// was promised that it is alone with its memory, since merging costs time and tells neighbours apart by it.
fn memory_backing(spec: &DomainSpec, cells: &[Cell]) -> Option<Element> {
    let mut sizes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.page != PageSize::Small) {
        sizes.entry(cell.page.bytes().0 / 1024).or_default().push(at);
    }
    let apart = match spec.performance {
        Performance::High | Performance::Standard => Some(Element::new("nosharepages")),
        Performance::Density => None,
    };
    if sizes.is_empty() {
        return apart.map(|apart| Element::new("memoryBacking").child(apart));
    }
    // Which guest nodes a size is for is said only where there are guest nodes to name.
    let pages = sizes.into_iter().map(|(kib, nodes)| {
        let page = Element::new("page").attr("size", kib).attr("unit", "KiB");
        page.attr_if(cells.len() > 1, "nodeset", list(&nodes))
    });
    Some(Element::new("memoryBacking").child(Element::new("hugepages").children(pages)).children(apart))
}

/// Where memory must lie. Said only on hosts with more than one node: elsewhere there is nothing to choose.
fn numa_tune(cells: &[Cell], capabilities: &Capabilities) -> Option<Element> {
    if capabilities.nodes.len() < 2 || cells.is_empty() {
        return None;
    }
    let nodes: Vec<_> = cells.iter().map(|cell| cell.node.0 as usize).collect();
    let whole = Element::new("memory").attr("mode", "strict").attr("nodeset", list(&nodes));
    let by_cell =
        cells.iter().enumerate().filter(|_| cells.len() > 1).map(|(at, cell)| {
            Element::new("memnode").attr("cellid", at).attr("mode", "strict").attr("nodeset", cell.node)
        });
    Some(Element::new("numatune").child(whole).children(by_cell))
}

fn cpu_tune(spec: &DomainSpec, iothreads: &Iothreads) -> Element {
    let resources = &spec.resources;
    let (emulator, helpers) = match &spec.floats {
        Some(floats) => (&floats.helpers, &floats.helpers),
        None => (&resources.emulator, &resources.iothread),
    };
    // Each to a thread of its own where they were given some, or all to the same ones.
    let own: Vec<_> = if spec.floats.is_none() && spec.dedicated_iothreads > 0 {
        helpers.iter().map(|thread| thread.to_string()).collect()
    } else {
        Vec::new()
    };
    let iothreads = (0..iothreads.count).map(|at| {
        let set = own.get(at as usize).cloned().unwrap_or_else(|| helpers.to_string());
        Element::new("iothreadpin").attr("iothread", at + 1).attr("cpuset", set)
    });
    let vcpus = resources
        .vcpus
        .iter()
        .enumerate()
        .map(|(vcpu, thread)| Element::new("vcpupin").attr("vcpu", vcpu).attr("cpuset", thread));
    Element::new("cputune")
        .children(vcpus)
        .child(Element::new("emulatorpin").attr("cpuset", emulator))
        .children(iothreads)
}

fn features(spec: &DomainSpec, capabilities: &Capabilities) -> Element {
    // A guest whose vCPUs own their threads gains nothing from paravirtual spinlocks. Taken only with passthrough.
    let dedicated = Element::new("kvm").child(Element::new("hint-dedicated").attr("state", "on"));
    let owns_threads =
        spec.accelerator == Accelerator::Kvm && capabilities.cpu_host_passthrough && !spec.resources.vcpus.is_empty();
    Element::new("features")
        .child(Element::new("acpi"))
        .child(Element::new("apic"))
        .children(owns_threads.then_some(dedicated))
        .child(Element::new("vmport").attr("state", "off"))
}

fn cpu(spec: &DomainSpec, cells: &[Cell], capabilities: &Capabilities, degraded: &mut Vec<String>) -> Element {
    let cpu = match spec.accelerator {
        Accelerator::Kvm if capabilities.cpu_host_passthrough => {
            Element::new("cpu").attr("mode", "host-passthrough").attr("check", "none").attr("migratable", "on")
        }
        Accelerator::Kvm => {
            degraded.push(
                "The guest gets a model of the host's CPU, not the CPU itself: libvirt offers no host-passthrough here."
                    .to_owned(),
            );
            Element::new("cpu").attr("mode", "host-model")
        }
        Accelerator::Tcg if capabilities.cpu_maximum => Element::new("cpu").attr("mode", "maximum"),
        Accelerator::Tcg => Element::new("cpu")
            .attr("mode", "custom")
            .attr("match", "exact")
            .child(Element::with_text("model", "qemu64").attr("fallback", "forbid")),
    };
    // As many sockets as vCPUs if asked; else a socket per guest node when the vCPUs divide evenly, else one socket.
    let even = cells.windows(2).all(|pair| pair[0].vcpus.len() == pair[1].vcpus.len());
    let sockets = match spec.cpu_shape {
        CpuShape::Sockets => spec.cpus,
        CpuShape::Cores if even => u32::try_from(cells.len()).unwrap_or(1).max(1),
        CpuShape::Cores => 1,
    };
    let topology =
        Element::new("topology").attr("sockets", sockets).attr("cores", spec.cpus / sockets).attr("threads", 1);
    let numa = Element::new("numa").children(cells.iter().enumerate().map(|(at, cell)| {
        Element::new("cell")
            .attr("id", at)
            .attr_if(!cell.vcpus.is_empty(), "cpus", list(&cell.vcpus))
            .attr("memory", cell.memory.0 / 1024)
            .attr("unit", "KiB")
    }));
    cpu.child(topology).children((cells.len() > 1).then_some(numa))
}

fn clock(accelerator: Accelerator) -> Element {
    let timer = |name| Element::new("timer").attr("name", name);
    let policies = [
        timer("rtc").attr("tickpolicy", "catchup"),
        timer("pit").attr("tickpolicy", "delay"),
        timer("hpet").attr("present", "no"),
    ];
    // Tick policies are KVM's; under TCG they are refused or without meaning, and guests do best with what is there.
    Element::new("clock")
        .attr("offset", "utc")
        .children(policies.into_iter().filter(|_| accelerator == Accelerator::Kvm))
}

fn devices(
    spec: &DomainSpec,
    files: &DiskFiles,
    capabilities: &Capabilities,
    iothreads: &Iothreads,
    degraded: &mut Vec<String>,
) -> Result<Element, RenderError> {
    let model_none = |name: &'static str| Element::new(name).attr("model", "none");
    let seed = files.seed.as_deref().map(seed_disk).transpose()?;
    let vnc = match &files.vnc_socket {
        Some(_) if !capabilities.vnc => {
            degraded.push("There is no graphical console: this host's QEMU was built without VNC.".to_owned());
            Vec::new()
        }
        Some(socket) => graphics(socket)?,
        None => Vec::new(),
    };
    let rng = Element::new("rng")
        .attr("model", "virtio")
        .child(Element::with_text("backend", "/dev/urandom").attr("model", "random"));
    if !capabilities.rng {
        degraded.push("The guest has no virtio-rng: this host's QEMU offers none fed from a file.".to_owned());
    }
    let agent = Element::new("channel")
        .attr("type", "unix")
        .child(Element::new("target").attr("type", "virtio").attr("name", "org.qemu.guest_agent.0"));
    if !capabilities.unix_channel {
        degraded.push("There is no guest agent channel: libvirt offers no channels on unix sockets here.".to_owned());
    }
    Ok(Element::new("devices")
        .child(Element::with_text("emulator", &capabilities.emulator))
        .child(main_disk(spec, files, capabilities, iothreads, degraded)?)
        .children(seed)
        .child(model_none("controller").attr("type", "usb"))
        .child(serial(files)?)
        .child(Element::new("console").attr("type", "pty").child(Element::new("target").attr("type", "serial")))
        .children(capabilities.unix_channel.then_some(agent))
        .children(vnc)
        .children(spec.resources.devices.iter().copied().map(passed_through))
        .children(capabilities.rng.then_some(rng))
        .child(balloon(spec.performance, capabilities, degraded))
        .child(Element::new("panic").attr("model", "isa")))
}

/// How a VM gives memory back. Asked about its memory are all whose memory is not on hugepages of their own.
fn balloon(performance: Performance, capabilities: &Capabilities, degraded: &mut Vec<String>) -> Element {
    /// Seconds between two questions to the guest about its memory.
    const ASK_EVERY: u32 = 10;
    let asking = |balloon: Element| balloon.child(Element::new("stats").attr("period", ASK_EVERY));
    match performance {
        Performance::High => Element::new("memballoon").attr("model", "none"),
        Performance::Standard => asking(Element::new("memballoon").attr("model", "virtio")),
        Performance::Density if capabilities.balloon => asking(giving_balloon()),
        Performance::Density => {
            degraded.push(
                "The guest gives no free pages back by itself: free page reporting needs libvirt 6.9 and QEMU 5.1."
                    .to_owned(),
            );
            asking(Element::new("memballoon").attr("model", "virtio"))
        }
    }
}

/// A device of the host that the guest has for itself. Libvirt takes it from its driver before the start and gives it back
/// at the end (`managed`).
fn passed_through(at: PciAddress) -> Element {
    let hex = |number: u32, digits: usize| format!("0x{number:0digits$x}");
    let address = Element::new("address")
        .attr("domain", hex(at.domain, 4))
        .attr("bus", hex(at.bus.into(), 2))
        .attr("slot", hex(at.device.into(), 2))
        .attr("function", hex(at.function.into(), 1));
    Element::new("hostdev")
        .attr("mode", "subsystem")
        .attr("type", "pci")
        .attr("managed", "yes")
        .child(Element::new("source").child(address))
}

fn main_disk(
    spec: &DomainSpec,
    files: &DiskFiles,
    capabilities: &Capabilities,
    iothreads: &Iothreads,
    degraded: &mut Vec<String>,
) -> Result<Element, RenderError> {
    let features = capabilities.disk;
    if !files.direct_io {
        let folder = files.disk.parent().unwrap_or(&files.disk).display();
        degraded.push(format!(
            "The disk goes through the host's page cache (cache=writeback): direct I/O does not work in {folder}."
        ));
    }
    // Linux's own asynchronous I/O waits wherever the page cache is in between; io_uring does not.
    let io = match (files.direct_io && features.native_aio, features.io_uring && files.io_uring) {
        (true, _) => "native",
        (false, true) => "io_uring",
        (false, false) => "threads",
    };
    if io == "threads" {
        let why = if features.io_uring { "the kernel refuses io_uring" } else { "this host's QEMU has no io_uring" };
        let native = match (files.direct_io, features.native_aio) {
            (false, _) => "native AIO needs direct I/O",
            (true, _) => "this host's QEMU was built without native AIO",
        };
        degraded.push(format!("Disk I/O runs on helper threads: {native}, and {why}."));
    }
    if !features.queues && spec.queues > 1 {
        degraded.push(format!("The disk has one queue instead of {}: this host's QEMU offers no more.", spec.queues));
    }
    let driver = Element::new("driver")
        .attr("name", "qemu")
        .attr("type", DiskFormat::Qcow2.name())
        .attr("cache", if files.direct_io { "none" } else { "writeback" })
        .attr("io", io)
        .attr("discard", "unmap")
        .attr_if(iothreads.of_disk == 1, "iothread", 1)
        .attr_if(features.queues, "queues", spec.queues);
    let mapped = (1..=iothreads.of_disk).map(|id| Element::new("iothread").attr("id", id));
    let driver = driver.children((iothreads.of_disk > 1).then(|| Element::new("iothreads").children(mapped)));
    let source = |path| Ok::<_, RenderError>(Element::new("source").attr("file", absolute(path)?));
    // The image stays its operator's: libvirt would make it QEMU's own, and that change would look like an altered file.
    let unowned = Element::new("seclabel").attr("model", "dac").attr("relabel", "no");
    let backing = match &files.base {
        None => Element::new("backingStore"),
        Some(base) => Element::new("backingStore")
            .attr("type", "file")
            .child(Element::new("format").attr("type", base.format.name()))
            .child(source(&base.path)?.child(unowned))
            .child(Element::new("backingStore")),
    };
    Ok(Element::new("disk")
        .attr("type", "file")
        .attr("device", "disk")
        .child(driver)
        .child(source(&files.disk)?)
        .child(backing)
        .child(Element::new("target").attr("dev", "vda").attr("bus", "virtio"))
        .child(Element::with_text("serial", spec.mark.vm))
        .child(Element::new("boot").attr("order", 1)))
}

/// The seed as a virtio disk: the kernels that clouds ship have no driver for the CD-ROM of a q35 machine, and
/// cloud-init finds a seed by its label on any block device.
fn seed_disk(path: &Path) -> Result<Element, RenderError> {
    let driver = Element::new("driver").attr("name", "qemu").attr("type", DiskFormat::Raw.name());
    Ok(Element::new("disk")
        .attr("type", "file")
        .attr("device", "disk")
        .child(driver)
        .child(Element::new("source").attr("file", absolute(path)?))
        .child(Element::new("backingStore"))
        .child(Element::new("target").attr("dev", "vdb").attr("bus", "virtio"))
        .child(Element::new("readonly"))
        .child(Element::with_text("serial", "seed")))
}

fn serial(files: &DiskFiles) -> Result<Element, RenderError> {
    let log = files.console_log.as_deref().map(absolute).transpose()?;
    let log = log.map(|path| Element::new("log").attr("file", path).attr("append", "on"));
    let model = Element::new("model").attr("name", "isa-serial");
    Ok(Element::new("serial")
        .attr("type", "pty")
        .children(log)
        .child(Element::new("target").attr("type", "isa-serial").attr("port", 0).child(model)))
}

fn graphics(socket: &Path) -> Result<Vec<Element>, RenderError> {
    let listen = Element::new("listen").attr("type", "socket").attr("socket", absolute(socket)?);
    let model = Element::new("model").attr("type", "vga").attr("vram", 16384).attr("heads", 1);
    Ok(vec![Element::new("graphics").attr("type", "vnc").child(listen), Element::new("video").child(model)])
}

fn absolute(path: &Path) -> Result<&str, RenderError> {
    path.to_str().filter(|_| path.is_absolute()).ok_or_else(|| RenderError::Path(path.to_owned()))
}

/// Numbers in libvirt's list form; ascending ranges are folded.
fn list(numbers: &[usize]) -> String {
    let fold = |number: &usize| berth_model::host::ThreadId(u32::try_from(*number).expect("small numbers"));
    numbers.iter().map(fold).collect::<berth_model::host::ThreadSet>().to_string()
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
