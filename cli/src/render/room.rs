//! Room as text, with a picture of nodes and threads.

use std::fmt::Write as _;

use super::table::{Cell, Table, Tone};
use super::{Style, dash, fields, indented};
use crate::view::room::{
    CapacityView, ExplanationView, HostRoomView, NodeRoomView, ProposalView, SurvivalView, ThreadRoomView, VerdictView,
};

/// What each host says to a VM.
pub(crate) fn explanation(view: &ExplanationView, style: Style) -> String {
    let ExplanationView { vm, placed_on, chosen, looked_at, hosts, smallest_change, .. } = view;
    let mut text = match (placed_on.as_str(), chosen.as_str()) {
        ("", "") if *looked_at == 0 => format!("{vm} waits: there is no host yet\n"),
        ("", "") => format!("none of {looked_at} hosts can take {vm}\n"),
        ("", chosen) => format!("{vm} would be placed on {chosen}\n"),
        (held, "") => format!("{vm} has its berth on {held}; placed anew, no host could take it\n"),
        (held, chosen) if held == chosen => {
            format!("{vm} has its berth on {held}; placed anew, it would be there again\n")
        }
        (held, chosen) => format!("{vm} has its berth on {held}; placed anew, it would be on {chosen}\n"),
    };
    if !smallest_change.is_empty() {
        let advice: Vec<_> = smallest_change.iter().map(|change| change.advice.as_str()).collect();
        let _ = writeln!(text, "the smallest change with which one could: {}", advice.join(", and "));
    } else if chosen.is_empty() && *looked_at > 0 {
        text.push_str("no change to what it asks for would help now\n");
    }
    let fit: Vec<_> = hosts.iter().filter(|verdict| verdict.fits).collect();
    if !fit.is_empty() {
        text.push_str("\nHosts that can take it, the best first\n");
        text.push_str(&indented(&scores(&fit, style)));
    }
    let mut table = Table::new(["HOST", "RULE", "WHY NOT"]);
    let mut refused = 0;
    for verdict in hosts.iter().filter(|verdict| !verdict.fits) {
        refused += 1;
        table.row([Cell::plain(&verdict.host), Cell::toned(&verdict.rule, Tone::Bad), Cell::plain(&verdict.why)]);
    }
    if refused > 0 {
        let _ = write!(text, "\nHosts that cannot\n{}", indented(&table.render(style.colour)));
    }
    let unlisted = (*looked_at as usize).saturating_sub(hosts.len());
    if unlisted > 0 {
        let _ = writeln!(text, "  and {unlisted} more hosts");
    }
    text
}

/// The score fields in the order in which they decide; those that are the same everywhere decide nothing and are left out.
fn scores(fit: &[&VerdictView], style: Style) -> String {
    let first = &fit[0].score;
    let differs = |at: usize| fit.iter().any(|one| one.score.get(at) != first.get(at));
    let shown: Vec<usize> = (0..first.len()).filter(|at| differs(*at)).collect();
    let mut table = Table::new(["HOST", "LESS IS BETTER, THE FIRST THAT DIFFERS DECIDES"]);
    for verdict in fit {
        let words: Vec<_> = shown
            .iter()
            .filter_map(|at| verdict.score.get(*at))
            .map(|field| format!("{} {}", field.name, field.value))
            .collect();
        table.row([Cell::toned(&verdict.host, Tone::Good), Cell::plain(dash(&words.join(", ")))]);
    }
    table.render(style.colour)
}

/// How many more fit.
pub(crate) fn capacity(view: &CapacityView, style: Style) -> String {
    let CapacityView { count, at_least, hosts, refusals, .. } = view;
    let least = if *at_least { "at least " } else { "" };
    let mut text = match hosts.len() {
        0 => "not one more fits\n".to_owned(),
        1 => format!("{least}{count} more fit, on 1 host\n"),
        number => format!("{least}{count} more fit, on {number} hosts\n"),
    };
    let mut table = Table::new(["HOST", "MORE"]);
    for one in hosts {
        table.row([Cell::plain(&one.host), Cell::plain(one.count.to_string())]);
    }
    if !hosts.is_empty() {
        text.push_str(&indented(&table.render(style.colour)));
    }
    let mut table = Table::new(["HOST", "WHY NOT"]);
    for refusal in refusals {
        table.row([Cell::plain(&refusal.host), Cell::plain(&refusal.why)]);
    }
    if !refusals.is_empty() {
        text.push_str(&indented(&table.render(style.colour)));
    }
    text
}

/// What the loss of each host would mean.
pub(crate) fn survival(view: &SurvivalView, style: Style) -> String {
    let SurvivalView { survives, hosts, .. } = view;
    if hosts.is_empty() {
        return "no host carries a VM\n".to_owned();
    }
    let stranding = hosts.iter().filter(|loss| loss.stranded > 0).count();
    let mut text = if *survives {
        "every VM could be placed anew, whichever one host were lost\n".to_owned()
    } else {
        format!("the loss of {stranding} of {} hosts would strand VMs\n", hosts.len())
    };
    let mut table = Table::new(["HOST LOST", "VMS", "STRANDED", "SUCH AS"]);
    for loss in hosts {
        let tone = if loss.stranded == 0 { Tone::Good } else { Tone::Bad };
        table.row([
            Cell::plain(&loss.host),
            Cell::plain(loss.vms.to_string()),
            Cell::toned(loss.stranded.to_string(), tone),
            Cell::plain(loss.first.iter().take(3).cloned().collect::<Vec<_>>().join(", ")),
        ]);
    }
    text.push_str(&indented(&table.render(style.colour)));
    text
}

/// Moves that would help.
pub(crate) fn proposals(moves: &[ProposalView], style: Style) -> String {
    if moves.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["VM", "FROM", "TO", "SINCE", "WHY"]);
    for one in moves {
        table.row([
            Cell::plain(&one.vm),
            Cell::plain(&one.from),
            Cell::plain(&one.to),
            Cell::plain(crate::duration::age(style.now.since(one.since))),
            Cell::plain(&one.why),
        ]);
    }
    table.render(style.colour)
}

/// A line for each host.
pub(crate) fn hosts(rooms: &[HostRoomView], style: Style) -> String {
    if rooms.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        "NAME",
        "VMS",
        "THREADS FREE",
        "SHARED CPU",
        "HUGEPAGES FREE",
        "MEMORY FREE",
        "SCATTERED",
        "TAKES",
    ]);
    for room in rooms {
        let total: u32 = room.nodes.iter().map(|node| node.threads_total).sum();
        let free: u32 = room.nodes.iter().map(NodeRoomView::threads_free).sum();
        let pages: Vec<_> = huge(room)
            .into_iter()
            .map(|(size, total, booked)| format!("{}/{total} of {size}", total - booked))
            .collect();
        let takes = if room.takes { Cell::toned("yes", Tone::Good) } else { Cell::toned(&room.why_not, Tone::Waiting) };
        table.row([
            Cell::plain(&room.host),
            Cell::plain(room.vms.to_string()),
            Cell::plain(format!("{free}/{total}")),
            Cell::plain(shared(room)),
            Cell::plain(dash(&pages.join(", "))),
            Cell::plain(super::roughly(room.ordinary_memory_total.saturating_sub(room.ordinary_memory_booked))),
            Cell::plain(format!("{} %", room.scattered_percent)),
            takes,
        ]);
    }
    table.render(style.colour)
}

fn shared(room: &HostRoomView) -> String {
    let thousandths = |number: u64| format!("{}.{}", number / 1000, number % 1000 / 100);
    format!("{} of {}", thousandths(room.shared_cpu_booked), thousandths(room.shared_cpu_total))
}

/// Hugepages of all nodes by size: size, total, booked.
fn huge(room: &HostRoomView) -> Vec<(String, u64, u64)> {
    let mut sums: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
    for pages in room.nodes.iter().flat_map(|node| &node.pages).filter(|pages| pages.page_size != "4KiB") {
        let (total, booked) = sums.entry(&pages.page_size).or_default();
        *total += pages.total;
        *booked += pages.booked.min(pages.total);
    }
    sums.into_iter().map(|(size, (total, booked))| (size.to_owned(), total, booked)).collect()
}

/// One host in full.
pub(crate) fn host(room: &HostRoomView) -> String {
    let takes = if room.takes { "yes".to_owned() } else { format!("no: {}", room.why_not) };
    let mut text = fields(&[
        ("Host", room.host.clone()),
        ("Takes new VMs", takes),
        ("VMs", room.vms.to_string()),
        ("Shared CPU", format!("{} threads promised to VMs whose CPUs float", shared(room))),
        ("Memory", format!("{} booked of {}", room.ordinary_memory_booked, room.ordinary_memory_total)),
        ("PCI devices", format!("{} booked of {}", room.devices_booked, room.devices_total)),
        (
            "Scattered",
            format!("{} % of the free threads are not on the node that has most of them", room.scattered_percent),
        ),
    ]);
    let letters = letters(&room.threads);
    for node in &room.nodes {
        let _ = write!(text, "\n{}", self::node(node));
        let threads: Vec<_> = room.threads.iter().filter(|thread| thread.node == node.node).collect();
        text.push_str(&indented(&picture(&threads, &letters)));
    }
    let legend = legend(&room.threads, &letters);
    if !legend.is_empty() {
        let _ = write!(text, "\n{legend}");
    }
    text
}

fn node(node: &NodeRoomView) -> String {
    let mut text = format!(
        "node {}: {} threads free, {} of them on free cores; {} booked, {} reserved\n",
        node.node,
        node.threads_free(),
        node.threads_on_free_cores,
        node.threads_booked,
        node.threads_reserved
    );
    for pages in &node.pages {
        let free = pages.total.saturating_sub(pages.booked);
        let _ = writeln!(
            text,
            "  {:<4} pages  {} {free} free of {}",
            pages.page_size,
            bar(pages.booked, pages.total),
            pages.total
        );
    }
    text
}

/// Twenty cells, booked ones filled; what is booked shows at least one, and what is free too.
fn bar(booked: u64, total: u64) -> String {
    const CELLS: u64 = 20;
    let exact = booked.min(total).saturating_mul(CELLS).checked_div(total).unwrap_or(0);
    let filled = match (booked, total.saturating_sub(booked)) {
        (0, _) => 0,
        (_, 0) => CELLS,
        _ => exact.clamp(1, CELLS - 1),
    };
    let cells = (0..CELLS).map(|at| if at < filled { '#' } else { '.' });
    format!("[{}]", cells.collect::<String>())
}

/// A group for each core, a letter for each thread, a row for each last-level cache.
fn picture(threads: &[&ThreadRoomView], letters: &[(&str, char)]) -> String {
    const CORES: usize = 16;
    let mut order = threads.to_vec();
    order.sort_by_key(|thread| (thread.cache, thread.core, thread.thread));
    let mut text = String::new();
    for cache in order.chunk_by(|a, b| a.cache == b.cache) {
        let cores: Vec<String> = cache
            .chunk_by(|a, b| a.core == b.core)
            .map(|core| core.iter().map(|thread| cell(thread, letters)).collect())
            .collect();
        let numbers: Vec<u32> = cache.iter().map(|thread| thread.thread).collect();
        let first = numbers.iter().min().copied().unwrap_or_default();
        for (row, cores) in cores.chunks(CORES).enumerate() {
            let label =
                if row == 0 { format!("cache {:<3} from thread {first:<4}", cache[0].cache) } else { " ".repeat(26) };
            let cores: Vec<_> = cores.iter().map(|core| format!("[{core}]")).collect();
            let _ = writeln!(text, "{label} {}", cores.join(" "));
        }
    }
    text
}

/// A letter for each VM, in the order in which they are drawn; beyond 52 VMs letters come again.
fn letters(threads: &[ThreadRoomView]) -> Vec<(&str, char)> {
    let mut order: Vec<_> = threads.iter().filter(|thread| !thread.vm.is_empty()).collect();
    order.sort_by_key(|thread| (thread.node, thread.cache, thread.core, thread.thread));
    let alphabet: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
    let mut letters: Vec<(&str, char)> = Vec::new();
    for thread in order {
        if !letters.iter().any(|(vm, _)| *vm == thread.vm) {
            letters.push((&thread.vm, alphabet[letters.len() % alphabet.len()]));
        }
    }
    letters
}

fn cell(thread: &ThreadRoomView, letters: &[(&str, char)]) -> char {
    match thread.role.as_str() {
        "free" => '.',
        "reserved" => '#',
        "idle" => '-',
        "held" => '?',
        _ => letters.iter().find(|(vm, _)| *vm == thread.vm).map_or('*', |(_, letter)| *letter),
    }
}

fn legend(threads: &[ThreadRoomView], letters: &[(&str, char)]) -> String {
    if threads.is_empty() {
        return String::new();
    }
    let mut text = String::from("a core each [], a thread each letter: . free, # reserved for the host");
    if threads.iter().any(|thread| thread.role == "idle") {
        text.push_str(", - idle beside its VM");
    }
    if threads.iter().any(|thread| thread.role == "held") {
        text.push_str(", ? held by what the cluster did not place");
    }
    text.push('\n');
    for (vm, letter) in letters {
        let _ = writeln!(text, "  {letter} {vm}");
    }
    text
}
