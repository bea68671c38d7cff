//! The cluster as text.

use super::table::{Cell, Table, Tone};
use super::{Style, dash, fields, yes};
use crate::view::ClusterView;
use crate::view::cluster::MemberView;

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
    let mut table =
        Table::new(["MEMBER", "ROLE", "TERM", "COMMITTED", "APPLIED", "REACHABLE", "VERSION", "ADDRESS", "TROUBLE"]);
    for member in &cluster.members {
        let MemberView {
            id: _,
            name,
            role,
            term,
            committed,
            applied,
            reachable,
            version,
            api_address,
            raft_address: _,
            trouble,
        } = member;
        let number = |value: &u64| if *reachable { value.to_string() } else { "-".into() };
        let tone = match role.as_str() {
            "Leader" | "Follower" => Tone::Good,
            "Failed" => Tone::Bad,
            _ => Tone::Waiting,
        };
        table.row([
            Cell::plain(name),
            Cell::toned(role, tone),
            Cell::plain(number(term)),
            Cell::plain(number(committed)),
            Cell::plain(number(applied)),
            if *reachable { Cell::plain(yes(true)) } else { Cell::toned(yes(false), Tone::Bad) },
            Cell::plain(dash(version)),
            Cell::plain(api_address),
            Cell::plain(trouble),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render(style.colour));
    text
}
