//! One network a lab: a bridge in a namespace of its own, and a link to it from each member and from the machine.
//!
//! All are on the same layer 2 and nothing is routed. The bridge sits in its own namespace because a machine with
//! container tools filters bridged packets in the namespace of the bridge (br_netfilter, policies of FORWARD).

use std::process::Command;

use crate::error::Result;
use crate::plan::{Member, Plan, root_address, root_link};
use crate::{process, tool};

/// Makes the network.
pub(crate) fn up(plan: &Plan) -> Result<()> {
    let switch = plan.switch();
    let mut namespaces = vec![format!("netns add {switch}")];
    namespaces.extend(plan.members.iter().map(|member| format!("netns add {}", plan.namespace(member))));
    tool::ip(plan.number, None, &namespaces)?;

    let root = root_link(plan.number);
    let mut lines = vec![
        "link set lo up".to_owned(),
        // No forwarding delay: links carry packets from their first moment.
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0".to_owned(),
        "link set br0 up".to_owned(),
        format!("link add {} type veth peer name {root} netns {}", port("root"), std::process::id()),
        format!("link set {} master br0 up", port("root")),
    ];
    for member in &plan.members {
        let port = port(&member.name);
        lines.push(format!("link add {port} type veth peer name eth0 netns {}", plan.namespace(member)));
        lines.push(format!("link set {port} master br0 up"));
    }
    tool::ip(plan.number, Some(&switch), &lines)?;

    tool::ip(
        plan.number,
        None,
        &[format!("addr add {}/24 dev {root}", root_address(plan.number)), format!("link set {root} up")],
    )?;
    for member in &plan.members {
        let lines = [
            "link set lo up".to_owned(),
            format!("addr add {}/24 dev eth0", member.address),
            "link set eth0 up".into(),
        ];
        tool::ip(plan.number, Some(&plan.namespace(member)), &lines)?;
    }
    Ok(())
}

/// The switch's port of a member.
fn port(name: &str) -> String {
    format!("p-{name}")
}

/// Pulls a member's cable or plugs it in again.
pub(crate) fn plug(plan: &Plan, member: &Member, connected: bool) -> Result<()> {
    let state = if connected { "up" } else { "down" };
    tool::ip(plan.number, Some(&plan.switch()), &[format!("link set {} {state}", port(&member.name))])
}

/// The table of a member's packet filter that holds who is cut off.
const CUT: &str = "inet berth_cut";

/// Drops what one member sends to another, where it arrives: connections then break by silence, as they do when a switch
/// fails, and what is sent in the other direction gets through.
pub(crate) fn cut(plan: &Plan, from: &Member, to: &Member) -> Result<()> {
    let rules = format!(
        "add table {CUT}; add chain {CUT} arriving {{ type filter hook input priority -300; }}; \
         add rule {CUT} arriving ip saddr {} drop",
        from.address
    );
    nft(plan, to, &rules)
}

/// Lets everything reach a member again.
pub(crate) fn heal(plan: &Plan, member: &Member) -> Result<()> {
    // Made first, so that there is something to delete.
    nft(plan, member, &format!("add table {CUT}; delete table {CUT}"))
}

fn nft(plan: &Plan, member: &Member, rules: &str) -> Result<()> {
    let program = tool::find("nft").ok_or_else(|| crate::Error::Missing("nft".to_owned()))?;
    let namespace = format!("--net=/run/netns/{}", plan.namespace(member));
    tool::run(Command::new("nsenter").arg(namespace).arg(program).arg(rules)).map(drop)
}

/// Removes what there is of the network of lab `number`; its processes are gone by now.
pub(crate) fn down(number: u8) -> Result<()> {
    if root_link_exists(number) {
        // At once, where the end of a namespace would remove its links some time later.
        tool::run(Command::new("ip").args(["link", "delete", &root_link(number)]))?;
    }
    let lines: Vec<_> =
        process::network_namespaces(number).into_iter().map(|name| format!("netns delete {name}")).collect();
    if lines.is_empty() { Ok(()) } else { tool::ip(number, None, &lines) }
}

pub(crate) fn root_link_exists(number: u8) -> bool {
    std::path::Path::new("/sys/class/net").join(root_link(number)).exists()
}
