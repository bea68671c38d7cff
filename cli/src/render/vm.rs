//! VMs as text.

use super::table::{Cell, Table, Tone};
use super::{Style, conditions, dash, fields, indented, moment, pairs, section, short_digest};
use crate::duration::age;
use crate::placement::{in_words, tuning_in_words};
use crate::view::VmView;
use crate::view::vm::{ObservedView, PagesView, PlacementView, UnplacedView};
use berth_model::host::ThreadSet;
use std::fmt::Write as _;

/// The list. The project is shown where more than one may occur.
pub(crate) fn list(vms: &[VmView], all_projects: bool, style: Style) -> String {
    if vms.is_empty() {
        return String::new();
    }
    if all_projects {
        let mut table = Table::new(["PROJECT", "NAME", "PHASE", "HOST", "CPUS", "MEMORY", "IMAGE", "AGE", "MESSAGE"]);
        for vm in vms {
            let [name, phase, host, cpus, memory, image, age, message] = row(vm, style);
            table.row([Cell::plain(&vm.metadata.project), name, phase, host, cpus, memory, image, age, message]);
        }
        table.render(style.colour)
    } else {
        let mut table = Table::new(["NAME", "PHASE", "HOST", "CPUS", "MEMORY", "IMAGE", "AGE", "MESSAGE"]);
        for vm in vms {
            table.row(row(vm, style));
        }
        table.render(style.colour)
    }
}

fn row(vm: &VmView, style: Style) -> [Cell; 8] {
    [
        Cell::plain(&vm.metadata.name),
        phase(&vm.status.phase),
        Cell::plain(dash(&vm.status.host)),
        Cell::plain(vm.spec.cpus.to_string()),
        Cell::plain(vm.spec.memory.to_string()),
        Cell::plain(&vm.spec.image),
        Cell::plain(age(style.now.since(vm.metadata.created_at))),
        Cell::plain(&vm.status.message),
    ]
}

fn phase(phase: &str) -> Cell {
    match phase {
        "Running" => Cell::toned(phase, Tone::Good),
        "Failing" => Cell::toned(phase, Tone::Bad),
        "Stopped" | "Paused" => Cell::plain(phase),
        _ => Cell::toned(phase, Tone::Waiting),
    }
}

/// A VM's labels after a change, in one line.
pub(crate) fn labelled(vm: &VmView) -> String {
    let labels = &vm.metadata.labels;
    if labels.is_empty() {
        return format!("{} has no labels\n", vm.metadata.name);
    }
    format!("{} has {}\n", vm.metadata.name, pairs(labels))
}

/// One VM in full.
pub(crate) fn show(vm: &VmView, style: Style) -> String {
    let VmView { metadata, spec, status, .. } = vm;
    let mut head = vec![
        ("Name", metadata.name.clone()),
        ("Project", metadata.project.clone()),
        ("Uid", metadata.uid.clone()),
        ("Phase", status.phase.clone()),
    ];
    if !status.message.is_empty() {
        head.push(("Message", status.message.clone()));
    }
    if !status.host.is_empty() {
        head.push(("Host", status.host.clone()));
    }
    head.push(("Created", moment(metadata.created_at, style)));
    if let Some(deleted_at) = metadata.deleted_at {
        head.push(("Deleting", moment(deleted_at, style)));
    }
    if !metadata.labels.is_empty() {
        head.push(("Labels", pairs(&metadata.labels)));
    }
    if !metadata.annotations.is_empty() {
        head.push(("Annotations", pairs(&metadata.annotations)));
    }
    head.push(("Revision", format!("{} (spec generation {})", metadata.revision, metadata.generation)));

    let mut asked = Vec::new();
    if !spec.instance_type.is_empty() {
        asked.push(("Instance type", spec.instance_type.clone()));
    }
    asked.extend([
        ("CPUs", spec.cpus.to_string()),
        ("Memory", spec.memory.to_string()),
        ("Performance", template(&spec.performance)),
        (
            "Image",
            format!("{} (sha256 {}, {})", spec.image, short_digest(&status.image_sha256), status.image_virtual_size),
        ),
        ("Disk", spec.disk_size.to_string()),
        ("Run strategy", run_strategy(vm)),
        ("Grace", format!("{} s", spec.grace_seconds)),
        ("User data", if status.has_user_data { "given" } else { "none" }.to_owned()),
    ]);

    if !spec.preference.is_empty() {
        asked.push(("Preference", spec.preference.clone()));
    }
    let tuning = tuning_in_words(&spec.tuning);
    if !tuning.is_empty() {
        asked.push(("Tuning", tuning.join(", ")));
    }
    asked.extend(spec.devices.iter().map(|device| ("Device", format!("{} of {}", device.count, device.kind.0))));
    match &spec.rules {
        Some(rules) => asked.extend(in_words(rules).into_iter().map(|rule| ("Rule", rule))),
        None => asked.push(("Rule", "there are rules that this program does not understand".to_owned())),
    }

    let mut text = fields(&head);
    text.push_str(&section("Spec", &asked));
    if let Some(placement) = &status.placement {
        text.push_str(&placed(placement, vm, style));
    }
    if let Some(unplaced) = status.unplaced.as_ref().filter(|_| status.placement.is_none()) {
        text.push_str(&not_placed(unplaced, style));
    }
    if let Some(observed) = &status.observed {
        text.push_str(&seen(observed, status.restart_count, style));
    }
    text.push_str(&conditions(&status.conditions, style));
    text
}

/// The strategy, and what is in force beside it.
fn run_strategy(vm: &VmView) -> String {
    let mut words = vm.spec.run_strategy.clone();
    if vm.status.stopped {
        words.push_str(", stopped until it is started");
    }
    if vm.status.paused {
        words.push_str(", paused until it is resumed");
    }
    words
}

fn placed(placement: &PlacementView, vm: &VmView, style: Style) -> String {
    let PlacementView {
        host_uid,
        epoch,
        vcpus,
        emulator,
        iothread,
        dedicated,
        idle,
        shared_cpu,
        devices,
        memory,
        overhead,
        at,
    } = placement;
    let mut rows = vec![
        ("Host", format!("{} (uid {host_uid}), epoch {epoch}", dash(&vm.status.host))),
        ("Since", moment(*at, style)),
    ];
    if let Some(why) = vm.status.conditions.iter().find(|held| held.kind == "Placed" && !held.message.is_empty()) {
        rows.push(("Why", why.message.clone()));
    }
    let pins: Vec<_> = vcpus.iter().enumerate().map(|(vcpu, thread)| format!("{vcpu} on thread {thread}")).collect();
    if pins.is_empty() {
        let (whole, rest) = (shared_cpu / 1000, shared_cpu % 1000);
        rows.push((
            "vCPUs",
            format!("float over the threads that no VM has for itself; {whole}.{rest:03} booked of them"),
        ));
    } else {
        rows.push(("vCPUs", format!("{}; exclusive", pins.join(", "))));
    }
    let own = |threads: &str| if part_of(threads, dedicated) { "its own" } else { "shared" };
    rows.push(("Emulator", format!("threads {}; {}", dash(emulator), own(emulator))));
    rows.push(("IOThread", format!("threads {}; {}", dash(iothread), own(iothread))));
    if !idle.is_empty() {
        rows.push(("Idle", format!("threads {idle}; kept free beside it")));
    }
    rows.extend(devices.iter().map(|device| ("Device", format!("{device}; exclusive"))));
    for PagesView { node, page_size, count } in memory {
        rows.push(("Memory", format!("{count} pages of {page_size} on node {node}; exclusive")));
    }
    rows.push(("Overhead", format!("{overhead} of ordinary memory")));
    section("Placement", &rows)
}

/// What a template means, in a few words.
fn template(word: &str) -> String {
    match word {
        "high" => "high (CPU threads of its own; guaranteed)".to_owned(),
        "standard" => "standard (its CPUs float; guaranteed)".to_owned(),
        "density" => "density (over-subscribed; burstable)".to_owned(),
        other => other.to_owned(),
    }
}

/// Whether these threads are some, and all of the dedicated ones.
fn part_of(threads: &str, dedicated: &str) -> bool {
    let set = |text: &str| text.parse::<ThreadSet>().unwrap_or_default();
    let (threads, dedicated) = (set(threads), set(dedicated));
    !threads.is_empty() && threads.iter().all(|thread| dedicated.contains(thread))
}

fn not_placed(unplaced: &UnplacedView, style: Style) -> String {
    let UnplacedView { since, hosts, refusals } = unplaced;
    let why = if *hosts == 0 { "there is no host yet".to_owned() } else { format!("none of {hosts} hosts fits") };
    let mut text = format!("\nNot placed: {why}, since {}\n", moment(*since, style));
    let mut table = Table::new(["HOST", "WHY NOT"]);
    for refusal in refusals {
        table.row([Cell::plain(&refusal.host), Cell::plain(&refusal.why)]);
    }
    if !refusals.is_empty() {
        text.push_str(&indented(&table.render(style.colour)));
    }
    let unlisted = (*hosts as usize).saturating_sub(refusals.len());
    if unlisted > 0 {
        let _ = writeln!(text, "  and {unlisted} more");
    }
    text
}

fn seen(observed: &ObservedView, asked_restarts: u64, style: Style) -> String {
    let ObservedView {
        state,
        stop_reason,
        accelerator,
        epoch,
        restart_count,
        reset_count: _,
        failures,
        last_end,
        trouble,
        degraded,
        since,
    } = observed;
    let state = match stop_reason {
        Some(reason) => format!("{state} ({reason})"),
        None => state.clone(),
    };
    let mut rows = vec![("Domain", state), ("Since", moment(*since, style))];
    if let Some(accelerator) = accelerator {
        let remark = if accelerator == "TCG" { " (slow: the host's KVM is not usable)" } else { "" };
        rows.push(("Accelerator", format!("{accelerator}{remark}")));
    }
    rows.push(("Epoch", epoch.to_string()));
    if asked_restarts > 0 || *restart_count > 0 {
        rows.push(("Runs", format!("{restart_count} of {asked_restarts} more asked for")));
    }
    if *failures > 0 {
        rows.push(("Failures", format!("{failures} in a row")));
    }
    if let Some(ended) = last_end {
        rows.push(("Last run", format!("ended {} ({})", moment(ended.at, style), ended.reason)));
    }
    if let Some(trouble) = trouble {
        rows.push(("Trouble", format!("{}: {}", trouble.reason, trouble.message)));
    }
    for sentence in degraded {
        rows.push(("Degraded", sentence.clone()));
    }
    section("Seen by the host", &rows)
}
