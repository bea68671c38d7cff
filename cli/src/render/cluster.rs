//! The cluster as text.

use berth_model::Bytes;

use super::table::{Cell, Table, Tone};
use super::{Style, dash, fields, indented};
use crate::view::ClusterView;
use crate::view::cluster::{MemberView, SnapshotView, WarningView};

/// How the controllers are.
pub(crate) fn status(cluster: &ClusterView, style: Style) -> String {
    let mut text = fields(&[
        (
            "Cluster",
            format!("{} (incarnation {}, version {})", cluster.cluster, cluster.incarnation, cluster.cluster_version),
        ),
        ("Leader", if cluster.leader.is_empty() { "none at present".into() } else { cluster.leader.clone() }),
        ("Revision", format!("{}, as {} knows", cluster.revision, dash(&cluster.answered_by))),
        ("Hosts", format!("{} alive of {}", cluster.hosts_alive, cluster.hosts)),
        ("VMs", cluster.vms.to_string()),
    ]);
    let mut table = Table::new([
        "MEMBER",
        "ROLE",
        "DOMAIN",
        "TERM",
        "APPLIED",
        "LAG",
        "STORE",
        "REACHABLE",
        "VERSION",
        "ADDRESS",
        "TROUBLE",
    ]);
    for member in &cluster.members {
        let MemberView { name, domain, term, applied, reachable, version, api_address, trouble, .. } = member;
        let number = |value: &u64| if *reachable { value.to_string() } else { "-".into() };
        table.row([
            Cell::plain(name),
            role(member),
            Cell::plain(dash(domain)),
            Cell::plain(number(term)),
            Cell::plain(number(applied)),
            Cell::plain(lag(member)),
            Cell::plain(store(member)),
            reachable_cell(*reachable),
            Cell::plain(dash(version)),
            Cell::plain(api_address),
            Cell::plain(trouble),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render(style.colour));
    text.push_str(&warnings(&cluster.warnings, style));
    text
}

/// The members as such.
pub(crate) fn members(members: &[MemberView], style: Style) -> String {
    let mut table = Table::new(["MEMBER", "ID", "ROLE", "DOMAIN", "LAG", "REACHABLE", "ADDRESS", "RAFT ADDRESS"]);
    for member in members {
        let MemberView { id, name, domain, reachable, api_address, raft_address, .. } = member;
        table.row([
            Cell::plain(name),
            Cell::plain(id.to_string()),
            role(member),
            Cell::plain(dash(domain)),
            Cell::plain(lag(member)),
            reachable_cell(*reachable),
            Cell::plain(api_address),
            Cell::plain(raft_address),
        ]);
    }
    table.render(style.colour)
}

fn role(member: &MemberView) -> Cell {
    let tone = match member.role.as_str() {
        "Leader" | "Follower" => Tone::Good,
        "Failed" => Tone::Bad,
        _ => Tone::Waiting,
    };
    Cell::toned(&member.role, tone)
}

fn reachable_cell(reachable: bool) -> Cell {
    if reachable { Cell::plain(super::yes(true)) } else { Cell::toned(super::yes(false), Tone::Bad) }
}

/// Entries that a member lacks, or how far the snapshot is that it gets instead.
fn lag(member: &MemberView) -> String {
    match (member.snapshot, member.lag) {
        (Some(SnapshotView { sent_bytes, total_bytes }), _) => {
            format!("snapshot {}/{} MiB", sent_bytes >> 20, total_bytes >> 20)
        }
        (None, Some(lag)) => lag.to_string(),
        (None, None) => "-".into(),
    }
}

/// Whole mebibytes are near enough: `12MiB`, `12MiB/2GiB`.
fn store(member: &MemberView) -> String {
    let shown = |bytes: u64| Bytes(bytes.div_ceil(1 << 20) << 20).to_string();
    match (member.store_bytes, member.store_limit_bytes) {
        (None, _) => "-".into(),
        (Some(bytes), None) => shown(bytes),
        (Some(bytes), Some(limit)) => format!("{}/{}", shown(bytes), shown(limit)),
    }
}

fn warnings(warnings: &[WarningView], style: Style) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["KIND", "MEMBER", "WHAT"]);
    for WarningView { kind, member, message } in warnings {
        table.row([Cell::toned(kind, Tone::Waiting), Cell::plain(dash(member)), Cell::plain(message)]);
    }
    format!("\nWarnings\n{}", indented(&table.render(style.colour)))
}
