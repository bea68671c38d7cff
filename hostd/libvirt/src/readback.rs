//! In what a VM runs otherwise than its definition says: asked and seen, compared as values.
//!
//! That libvirt took a definition does not mean that QEMU does what it says: older versions drop what they do not know, a
//! kernel may refuse a place, a device may be plugged with less than it was asked with. So after a start everything that
//! the template promises is asked of libvirt, QEMU and the kernel, and what differs is a sentence that stays with the VM.

use std::fmt;

use berth_model::Bytes;
use berth_model::host::ThreadSet;
use berth_model::vm::Accelerator;
use roxmltree::{Document, Node};

use crate::inspect::{DiskFacts, Facts};
use crate::mark::child;

/// In what `facts` differ from what `definition`, a domain's XML, asks for; a sentence each.
pub fn differences(definition: &str, facts: &Facts) -> Result<Vec<String>, roxmltree::Error> {
    let document = Document::parse(definition)?;
    let domain = document.root_element();
    let mut found = Found::default();
    cpus(domain, facts, &mut found);
    threads(domain, facts, &mut found);
    memory(domain, facts, &mut found);
    for disk in all(child(domain, "devices"), "disk") {
        let file = child(disk, "source").and_then(|source| source.attribute("file")).unwrap_or_default();
        match facts.disks.iter().find(|seen| seen.file == file) {
            Some(seen) => compare_disk(disk, seen, &mut found),
            None => found.0.push(format!("QEMU has no disk on {file}.")),
        }
    }
    Ok(found.0)
}

/// What was found to differ.
#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn compare<T: PartialEq + fmt::Display>(&mut self, what: impl fmt::Display, asked: &T, seen: &T) {
        if asked != seen {
            self.0.push(format!("{what}: asked was {asked}, QEMU runs with {seen}."));
        }
    }
}

fn all<'a, 'input>(node: Option<Node<'a, 'input>>, name: &'static str) -> impl Iterator<Item = Node<'a, 'input>> {
    node.into_iter().flat_map(|node| node.children()).filter(move |child| child.has_tag_name(name))
}

fn cpus(domain: Node<'_, '_>, facts: &Facts, found: &mut Found) {
    let asked = if domain.attribute("type") == Some("kvm") { Accelerator::Kvm } else { Accelerator::Tcg };
    found.compare("The accelerator", &asked, &facts.accelerator);
    let count = child(domain, "vcpu").and_then(|vcpu| vcpu.text()?.trim().parse().ok()).unwrap_or(1);
    found.compare("Virtual CPUs", &count, &facts.cpu.allowed.len());
    let Some(cpu) = child(domain, "cpu") else { return };
    let model = match cpu.attribute("mode") {
        Some("host-passthrough") => Some("host"),
        Some("maximum") => Some("max"),
        // A model that libvirt composes has no name in QEMU.
        Some("host-model") => None,
        _ => child(cpu, "model").and_then(|model| model.text()),
    };
    if let Some(model) = model {
        found.compare("The CPU model", &model, &facts.cpu.model.as_str());
    }
    if let Some(topology) = child(cpu, "topology") {
        let shape = |sockets, cores, threads| format!("{sockets} sockets of {cores} cores of {threads} threads");
        let part = |name| topology.attribute(name).unwrap_or("1");
        let (sockets, cores, threads) = facts.cpu.topology;
        let asked = shape(part("sockets").to_owned(), part("cores").to_owned(), part("threads").to_owned());
        found.compare("The CPU topology", &asked, &shape(sockets.to_string(), cores.to_string(), threads.to_string()));
    }
    let hint = child(domain, "features").and_then(|features| child(features, "kvm"));
    let hint = hint.and_then(|kvm| child(kvm, "hint-dedicated")).is_some();
    found.compare("The hint that CPUs are dedicated", &hint, &facts.cpu.hint_dedicated);
}

fn threads(domain: Node<'_, '_>, facts: &Facts, found: &mut Found) {
    let set = |node: Node<'_, '_>| node.attribute("cpuset").and_then(|list| list.parse::<ThreadSet>().ok());
    let tune = child(domain, "cputune");
    let floats = child(domain, "vcpu").and_then(set);
    for (at, (told, allowed)) in facts.vcpus.iter().zip(&facts.cpu.allowed).enumerate() {
        let own = all(tune, "vcpupin").find(|pin| pin.attribute("vcpu") == Some(&at.to_string()));
        let Some(asked) = own.and_then(set).or_else(|| floats.clone()) else { continue };
        found.compare(format_args!("Threads of vCPU {at} by libvirt"), &asked, told);
        found.compare(format_args!("Threads of vCPU {at} by the kernel"), &asked, allowed);
    }
    if let Some(asked) = all(tune, "emulatorpin").find_map(set) {
        found.compare("Threads of the emulator", &asked, &facts.emulator);
    }
    for pin in all(tune, "iothreadpin") {
        let (Some(id), Some(asked)) = (pin.attribute("iothread"), set(pin)) else { continue };
        match facts.iothreads.iter().find(|(seen, _)| seen.to_string() == id) {
            Some((_, seen)) => found.compare(format_args!("Threads of IOThread {id}"), &asked, seen),
            None => found.0.push(format!("QEMU has no IOThread {id}.")),
        }
    }
}

fn memory(domain: Node<'_, '_>, facts: &Facts, found: &mut Found) {
    let kib = |node: Node<'_, '_>| node.text()?.trim().parse::<u64>().ok();
    let asked = Bytes(child(domain, "memory").and_then(kib).unwrap_or(0) * 1024);
    let seen = facts.memory.iter().fold(Bytes(0), |sum, part| sum.saturating_add(part.size));
    found.compare("Memory", &asked, &seen);
    let backing = child(domain, "memoryBacking");
    let pages = all(backing.and_then(|backing| child(backing, "hugepages")), "page").count();
    if pages > 0 {
        found.compare("Memory on hugepages", &asked, &facts.hugepages);
    }
    let merge = backing.and_then(|backing| child(backing, "nosharepages")).is_none();
    for part in &facts.memory {
        found.compare(format_args!("Merging of pages that are alike in {}", part.name), &merge, &part.merge);
    }
    let tune = child(domain, "numatune");
    let cells: Vec<_> = all(tune, "memnode").collect();
    let nodes = |list: Option<&str>| list.and_then(|list| list.parse::<ThreadSet>().ok()).unwrap_or_default();
    let bound = |name: &str| -> ThreadSet {
        let parts = facts.memory.iter().filter(|part| name.is_empty() || part.name == name);
        parts.flat_map(|part| &part.bound_to).map(|node| berth_model::host::ThreadId(*node)).collect()
    };
    for cell in &cells {
        let name = format!("ram-node{}", cell.attribute("cellid").unwrap_or_default());
        found.compare(format_args!("NUMA nodes of {name}"), &nodes(cell.attribute("nodeset")), &bound(&name));
    }
    if let Some(whole) = tune.and_then(|tune| child(tune, "memory")).filter(|_| cells.is_empty()) {
        found.compare("NUMA nodes of memory", &nodes(whole.attribute("nodeset")), &bound(""));
    }
    balloon(domain, facts, found);
}

fn balloon(domain: Node<'_, '_>, facts: &Facts, found: &mut Found) {
    let Some(asked) = child(domain, "devices").and_then(|devices| child(devices, "memballoon")) else { return };
    let is_there = asked.attribute("model") != Some("none");
    found.compare("A balloon", &is_there, &facts.balloon.is_some());
    if let Some(seen) = facts.balloon.filter(|_| is_there) {
        let on = |name| asked.attribute(name) == Some("on");
        found.compare("Free page reporting", &on("freePageReporting"), &seen.reports_free_pages);
        found.compare("Deflating the balloon when memory runs out", &on("autodeflate"), &seen.yields);
    }
}

fn compare_disk(disk: Node<'_, '_>, seen: &DiskFacts, found: &mut Found) {
    let name = child(disk, "target").and_then(|target| target.attribute("dev")).unwrap_or("?");
    let Some(driver) = child(disk, "driver") else { return };
    let asked = |attribute| driver.attribute(attribute);
    if let Some(queues) = asked("queues") {
        let has = seen.queues.map_or_else(|| "none".to_owned(), |queues| queues.to_string());
        found.compare(format_args!("Queues of disk {name}"), &queues.to_owned(), &has);
    }
    let mapped: Vec<_> =
        all(child(driver, "iothreads"), "iothread").filter_map(|thread| thread.attribute("id")).collect();
    let serving = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let of_disk = if mapped.is_empty() { asked("iothread").into_iter().collect() } else { mapped };
    let asked_threads = serving(of_disk.iter().map(|id| format!("iothread{id}")).collect());
    let seen_threads =
        if seen.mapped.is_empty() { seen.iothread.iter().cloned().collect() } else { seen.mapped.clone() };
    found.compare(format_args!("IOThreads of disk {name}"), &asked_threads, &serving(seen_threads));
    if let Some(cache) = asked("cache") {
        found.compare(format_args!("Direct I/O of disk {name}"), &(cache == "none"), &seen.direct);
    }
    if let Some(io) = asked("io") {
        found.compare(format_args!("I/O of disk {name}"), &io, &seen.aio.as_deref().unwrap_or("unknown"));
    }
    found.compare(format_args!("Disk {name} is read-only"), &child(disk, "readonly").is_some(), &seen.read_only);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{BalloonFacts, CpuFacts, MemoryFacts};
    use crate::xml::testing::{self, Release, capabilities, files};
    use berth_host::step::DomainSpec;
    use berth_model::host::ThreadId;

    /// What is seen of a VM that runs just as it was asked.
    fn as_asked(spec: &DomainSpec) -> Facts {
        let pins: Vec<ThreadSet> = match &spec.floats {
            Some(floats) => vec![floats.vcpus.clone(); spec.cpus as usize],
            None => spec.resources.vcpus.iter().map(|thread| [*thread].into_iter().collect()).collect(),
        };
        let (emulator, iothread) = match &spec.floats {
            Some(floats) => (floats.helpers.clone(), floats.helpers.clone()),
            None => (spec.resources.emulator.clone(), spec.resources.iothread.clone()),
        };
        let dense = spec.floats.is_some();
        let part =
            |node: u32, size| MemoryFacts { name: format!("ram-node{node}"), size, merge: dense, bound_to: vec![node] };
        let files = files();
        let disk = |file: &std::path::Path, is_main: bool| DiskFacts {
            device: String::new(),
            file: file.display().to_string(),
            queues: Some(if is_main { u64::from(spec.queues) } else { 1 }),
            iothread: is_main.then(|| "iothread1".to_owned()),
            mapped: Vec::new(),
            direct: is_main,
            aio: Some(if is_main { "native" } else { "threads" }.to_owned()),
            read_only: !is_main,
        };
        Facts {
            accelerator: spec.accelerator,
            vcpus: pins.clone(),
            cpu: CpuFacts {
                model: "host".to_owned(),
                topology: (if dense { 4 } else { 2 }, if dense { 1 } else { 4 }, 1),
                hint_dedicated: !dense,
                allowed: pins,
            },
            emulator,
            iothreads: vec![(1, iothread)],
            disks: vec![disk(&files.disk, true), disk(files.seed.as_deref().unwrap(), false)],
            memory: if dense {
                vec![MemoryFacts { name: "pc.ram".to_owned(), size: spec.memory, merge: true, bound_to: vec![] }]
            } else {
                vec![part(0, Bytes::gib(2)), part(1, Bytes::gib(2))]
            },
            balloon: dense.then_some(BalloonFacts { reports_free_pages: true, yields: true }),
            qemu_pid: 1,
            hugepages: if dense { Bytes(0) } else { spec.memory },
        }
    }

    fn pinned() -> (String, Facts) {
        let spec = testing::spec(Accelerator::Kvm, &[4, 5, 6, 7, 8, 9, 10, 11], &[(0, 1024), (1, 1024)]);
        let capabilities = capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm);
        (crate::xml::render(&spec, &files(), &capabilities).unwrap().xml, as_asked(&spec))
    }

    fn dense() -> (String, Facts) {
        let spec = testing::floating(Accelerator::Kvm);
        let capabilities = capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm);
        (crate::xml::render(&spec, &files(), &capabilities).unwrap().xml, as_asked(&spec))
    }

    #[test]
    fn a_vm_that_runs_as_asked_differs_in_nothing() {
        for (definition, facts) in [pinned(), dense()] {
            assert_eq!(differences(&definition, &facts).unwrap(), Vec::<String>::new());
        }
    }

    /// What differs after something was changed behind the definition's back.
    fn after(of: (String, Facts), change: impl FnOnce(&mut Facts)) -> Vec<String> {
        let (definition, mut facts) = of;
        change(&mut facts);
        differences(&definition, &facts).unwrap()
    }

    type Change = Box<dyn FnOnce(&mut Facts)>;

    #[test]
    fn every_promise_of_the_pinned_template_that_is_broken_is_told() {
        let other = || [ThreadId(3)].into_iter().collect::<ThreadSet>();
        let cases: [(&str, Change); 14] = [
            ("Threads of vCPU 2 by libvirt", Box::new(move |facts| facts.vcpus[2] = other())),
            ("Threads of vCPU 7 by the kernel", Box::new(move |facts| facts.cpu.allowed[7] = other())),
            ("Threads of the emulator", Box::new(move |facts| facts.emulator = other())),
            ("Threads of IOThread 1", Box::new(move |facts| facts.iothreads[0].1 = other())),
            ("QEMU has no IOThread 1", Box::new(|facts| facts.iothreads.clear())),
            ("Queues of disk vda", Box::new(|facts| facts.disks[0].queues = Some(1))),
            ("IOThreads of disk vda", Box::new(|facts| facts.disks[0].iothread = None)),
            ("Direct I/O of disk vda", Box::new(|facts| facts.disks[0].direct = false)),
            ("I/O of disk vda", Box::new(|facts| facts.disks[0].aio = Some("threads".to_owned()))),
            ("Memory on hugepages", Box::new(|facts| facts.hugepages = Bytes(0))),
            ("NUMA nodes of ram-node1", Box::new(|facts| facts.memory[1].bound_to = vec![0])),
            ("The accelerator", Box::new(|facts| facts.accelerator = Accelerator::Tcg)),
            ("The CPU topology", Box::new(|facts| facts.cpu.topology = (8, 1, 1))),
            ("The CPU model", Box::new(|facts| facts.cpu.model = "qemu64".to_owned())),
        ];
        for (what, change) in cases {
            let told = after(pinned(), change);
            assert!(told.len() == 1 && told[0].starts_with(what), "{what}: {told:#?}");
        }
        let merged = after(pinned(), |facts| facts.memory.iter_mut().for_each(|part| part.merge = true));
        assert_eq!(merged.len(), 2, "{merged:#?}");
    }

    #[test]
    fn every_promise_of_the_dense_template_that_is_broken_is_told() {
        let alone = after(dense(), |facts| facts.balloon = None);
        assert!(alone.len() == 1 && alone[0].starts_with("A balloon"), "{alone:#?}");
        let keeps = BalloonFacts { reports_free_pages: false, yields: false };
        assert_eq!(after(dense(), |facts| facts.balloon = Some(keeps)).len(), 2);
        assert_eq!(after(dense(), |facts| facts.memory[0].merge = false).len(), 1);
        assert_eq!(after(dense(), |facts| facts.memory[0].size = Bytes::mib(1)).len(), 1);
        assert_eq!(after(dense(), |facts| facts.vcpus[1] = ThreadSet::default()).len(), 1);
    }

    #[test]
    fn a_mapping_that_an_older_qemu_dropped_is_told() {
        let spec = testing::two_iothreads(Accelerator::Kvm);
        let capabilities = capabilities(Release::Libvirt11Qemu10, Accelerator::Kvm);
        let definition = crate::xml::render(&spec, &files(), &capabilities).unwrap().xml;
        let mut facts = as_asked(&spec);
        facts.cpu.topology = (1, 4, 1);
        facts.memory.truncate(1);
        facts.memory[0].size = spec.memory;
        facts.iothreads = vec![(1, "8".parse().unwrap()), (2, "9".parse().unwrap())];
        facts.emulator = "0-1".parse().unwrap();
        facts.disks[0].iothread = None;
        facts.disks[0].mapped = vec!["iothread1".to_owned(), "iothread2".to_owned()];
        assert_eq!(differences(&definition, &facts).unwrap(), Vec::<String>::new());
        facts.disks[0].mapped.clear();
        let told = differences(&definition, &facts).unwrap();
        assert_eq!(told, ["IOThreads of disk vda: asked was iothread1, iothread2, QEMU runs with none."]);
    }
}
