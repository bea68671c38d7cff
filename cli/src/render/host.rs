//! Hosts as text, with a picture of their threads.

use super::table::{Cell, Table, Tone};
use super::{Style, conditions, dash, fields, indented, moment, pairs, section, short_digest, yes};
use crate::view::HostView;
use crate::view::host::{AcceleratorView, HugepagesView, OrphanOnHost, ThreadUse, ThreadView};
use std::fmt::Write as _;

/// The list.
pub(crate) fn list(hosts: &[HostView], style: Style) -> String {
    if hosts.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NAME", "LIVENESS", "VMS", "THREADS FREE", "HUGEPAGES FREE", "ACCELERATOR", "ADDRESS"]);
    for host in hosts {
        let status = &host.status;
        let (total, _, _, free) = host.thread_counts();
        let pages: Vec<_> = status
            .hugepages
            .iter()
            .map(|pool| format!("{}/{} of {}", pool.total.saturating_sub(pool.booked), pool.total, pool.page_size))
            .collect();
        let liveness =
            if host.spec.cordoned { format!("{}, cordoned", status.liveness) } else { status.liveness.clone() };
        let tone = match status.liveness.as_str() {
            "Alive" => Tone::Good,
            "Suspect" => Tone::Waiting,
            _ => Tone::Bad,
        };
        table.row([
            Cell::plain(&host.metadata.name),
            Cell::toned(liveness, tone),
            Cell::plain(status.vms.to_string()),
            Cell::plain(format!("{free}/{total}")),
            Cell::plain(dash(&pages.join(", "))),
            Cell::plain(&status.accelerator.name),
            Cell::plain(&status.address),
        ]);
    }
    table.render(style.colour)
}

/// One host in full.
pub(crate) fn show(host: &HostView, style: Style) -> String {
    let HostView { metadata, spec, status, .. } = host;
    let mut head = vec![
        ("Name", metadata.name.clone()),
        ("Uid", metadata.uid.clone()),
        ("Liveness", format!("{} since {}", status.liveness, moment(status.liveness_since, style))),
        ("Address", status.address.clone()),
        ("Accelerator", accelerator(&status.accelerator)),
        ("Versions", dash(&status.versions.join(", ")).to_owned()),
        ("VMs", status.vms.to_string()),
        ("Cordoned", yes(spec.cordoned).to_owned()),
    ];
    let place = [("Zone", &spec.zone), ("Rack", &spec.rack)];
    head.extend(place.into_iter().filter(|(_, name)| !name.is_empty()).map(|(what, name)| (what, name.clone())));
    let lists = [("Groups", &spec.groups), ("Taints", &spec.taints)];
    head.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(what, list)| (what, list.join(", "))));
    if spec.cpu_overcommit_percent > 0 {
        let (cpu, memory) = (spec.cpu_overcommit_percent, spec.memory_overcommit_percent);
        head.push(("Promises", format!("CPU {cpu} %, memory {memory} % to over-subscribed VMs")));
    }
    if status.shared_machine {
        head.push(("Shared", "its threads belong to other hosts on the same machine too (a lab)".to_owned()));
    }
    if !metadata.labels.is_empty() {
        head.push(("Labels", pairs(&metadata.labels)));
    }
    let mut text = fields(&head);

    let (total, reserved, booked, free) = host.thread_counts();
    let _ =
        writeln!(text, "\nThreads: {total}, of which {reserved} reserved for the host, {booked} booked, {free} free");
    text.push_str(&indented(&picture(&status.threads)));

    let mut memory: Vec<_> = status.hugepages.iter().map(pool).collect();
    let ordinary = &status.ordinary_memory;
    memory.push(("Ordinary", format!("{} booked of {}", ordinary.booked, ordinary.total)));
    text.push_str(&section("Memory", &memory));

    if !status.devices.is_empty() {
        let mut table = Table::new(["ADDRESS", "KIND", "NODE", "GROUP", "FUNCTION OF", "VM"]);
        for device in &status.devices {
            let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            table.row([
                Cell::plain(&device.address),
                Cell::plain(&device.kind),
                Cell::plain(number(device.node)),
                Cell::plain(number(device.iommu_group)),
                Cell::plain(dash(&device.physical)),
                Cell::plain(dash(&device.vm)),
            ]);
        }
        let _ = write!(text, "\nPCI devices\n{}", indented(&table.render(style.colour)));
    }
    if !status.evictions.is_empty() {
        let mut table = Table::new(["VM", "UID", "EPOCH", "THREADS"]);
        for one in &status.evictions {
            table.row([
                Cell::plain(dash(&one.called)),
                Cell::plain(&one.vm),
                Cell::plain(one.epoch.to_string()),
                Cell::plain(dash(&one.threads)),
            ]);
        }
        let _ = write!(
            text,
            "\nEnded without its word: it may still run these until it is heard of; what they hold is given to nobody\n{}",
            indented(&table.render(style.colour))
        );
    }

    if !status.images.is_empty() {
        let mut table = Table::new(["SHA256", "SIZE", "STATE"]);
        for image in &status.images {
            table.row([
                Cell::plain(short_digest(&image.sha256)),
                Cell::plain(image.virtual_size.map_or_else(|| "-".to_owned(), |size| size.to_string())),
                match &image.refused {
                    None => Cell::toned("verified", Tone::Good),
                    Some(why) => Cell::toned(format!("refused: {why}"), Tone::Bad),
                },
            ]);
        }
        let _ = write!(text, "\nImages\n{}", indented(&table.render(style.colour)));
    }
    if !status.orphans.is_empty() {
        let mut table = Table::new(["VM", "UID", "STATE"]);
        for orphan in &status.orphans {
            let state = if orphan.running { "running" } else { "stopped" };
            table.row([Cell::plain(&orphan.called), Cell::plain(&orphan.vm), Cell::plain(state)]);
        }
        let _ = write!(
            text,
            "\nOrphans: marked as ours, not known to the cluster, left as they are\n{}",
            indented(&table.render(style.colour))
        );
    }
    text.push_str(&conditions(&status.conditions, style));
    text
}

/// Orphans of all hosts.
pub(crate) fn orphans(orphans: &[OrphanOnHost], style: Style) -> String {
    if orphans.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["HOST", "UID", "CALLED", "STATE", "CPUS", "MEMORY", "ADOPTABLE"]);
    for orphan in orphans {
        let state = if orphan.running { "running" } else { "stopped" };
        let (cpus, memory, adoptable) = if orphan.adoptable {
            (orphan.cpus.to_string(), berth_model::Bytes(orphan.memory_bytes).to_string(), Cell::plain("yes"))
        } else {
            let why = Cell::toned("no: its host does not remember what it was given", Tone::Waiting);
            ("-".to_owned(), "-".to_owned(), why)
        };
        table.row([
            Cell::plain(&orphan.host),
            Cell::plain(&orphan.vm),
            Cell::plain(&orphan.called),
            Cell::plain(state),
            Cell::plain(cpus),
            Cell::plain(memory),
            adoptable,
        ]);
    }
    table.render(style.colour)
}

fn accelerator(view: &AcceleratorView) -> String {
    let AcceleratorView { name, failed_step, detail } = view;
    match (failed_step, detail) {
        (None, None) => name.clone(),
        (step, detail) => {
            let step = step.as_ref().map(|step| format!("step {step} failed")).unwrap_or_default();
            let parts: Vec<_> = [step.as_str(), detail.as_deref().unwrap_or_default()]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect();
            format!("KVM: not usable ({}); VMs run under {name} (slow)", parts.join(": "))
        }
    }
}

fn pool(view: &HugepagesView) -> (&'static str, String) {
    let HugepagesView { node, page_size, total, booked } = view;
    ("Hugepages", format!("{booked} booked of {total}, {page_size} each, on node {node}"))
}

/// A line for each core: its threads, and who holds them.
fn picture(threads: &[ThreadView]) -> String {
    let mut order: Vec<_> = threads.iter().collect();
    order.sort_by_key(|thread| (thread.node, thread.socket, thread.core, thread.id));
    let cell = |thread: &ThreadView| match &thread.used {
        ThreadUse::Free => format!("{} free", thread.id),
        ThreadUse::Reserved => format!("{} reserved", thread.id),
        ThreadUse::Booked { vm, vcpu } => format!("{} {vm} vCPU {vcpu}", thread.id),
        ThreadUse::Taken { vm, how } if vm.is_empty() => format!("{} {how}", thread.id),
        ThreadUse::Taken { vm, how } => format!("{} {vm} {how}", thread.id),
    };
    let width = order.iter().map(|thread| cell(thread).chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for node in order.chunk_by(|a, b| (a.node, a.socket) == (b.node, b.socket)) {
        let _ = writeln!(text, "node {}, socket {}", node[0].node, node[0].socket);
        for core in node.chunk_by(|a, b| a.core == b.core) {
            let cells: Vec<_> = core.iter().map(|thread| format!("[{:<width$}]", cell(thread))).collect();
            let _ = writeln!(text, "  core {:<3} {}", core[0].core, cells.join(" "));
        }
    }
    text
}

/// How a host stands after a change, in one line.
pub(crate) fn changed(host: &HostView) -> String {
    let HostView { metadata, spec, .. } = host;
    let mut words = vec![if spec.cordoned { "takes no new VMs (cordoned)" } else { "takes new VMs" }.to_owned()];
    let place = [("zone", &spec.zone), ("rack", &spec.rack)];
    words.extend(place.into_iter().filter(|(_, name)| !name.is_empty()).map(|(what, name)| format!("{what} {name}")));
    let lists = [("groups", &spec.groups), ("taints", &spec.taints)];
    words.extend(
        lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(what, list)| format!("{what} {}", list.join(", "))),
    );
    if !metadata.labels.is_empty() {
        words.push(format!("labels {}", pairs(&metadata.labels)));
    }
    words.push(format!("CPU {} %, memory {} %", spec.cpu_overcommit_percent, spec.memory_overcommit_percent));
    format!("{}: {}\n", metadata.name, words.join("; "))
}
