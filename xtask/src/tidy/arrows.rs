//! Who may depend on whom.
//!
//! The table is the drawing of ARCHITECTURE.md in a form that a program can check. An arrow that is not in it is refused, so a new
//! crate or a new arrow is a decision that shows in the difference of this file.

use super::Finding;
use super::workspace::{Kind, Workspace};

/// A crate of ours and those of ours that it may depend on, to run or to build.
const ARROWS: &[(&str, &[&str])] = &[
    ("berth-model", &[]),
    ("berth-frame", &[]),
    ("berth-pki", &[]),
    ("berth-telemetry", &[]),
    ("berth-proto", &["berth-model"]),
    ("berth-raft", &["berth-frame"]),
    ("berth-state", &["berth-frame", "berth-model"]),
    ("berth-planner", &["berth-model", "berth-state"]),
    ("berth-control", &["berth-model", "berth-planner", "berth-state"]),
    ("berth-host", &["berth-frame", "berth-model"]),
    ("berth-simhost", &["berth-host", "berth-model"]),
    ("berth-libvirt", &["berth-host", "berth-model"]),
    ("berth-hoststorage", &["berth-host", "berth-model"]),
    ("berth-hostsys", &["berth-host", "berth-model"]),
    (
        "berth-controller",
        &[
            "berth-control",
            "berth-frame",
            "berth-model",
            "berth-pki",
            "berth-planner",
            "berth-proto",
            "berth-raft",
            "berth-state",
            "berth-telemetry",
        ],
    ),
    (
        "berth-hostd",
        &[
            "berth-frame",
            "berth-host",
            "berth-hoststorage",
            "berth-hostsys",
            "berth-libvirt",
            "berth-model",
            "berth-pki",
            "berth-proto",
            "berth-simhost",
            "berth-telemetry",
        ],
    ),
    ("berth-cli", &["berth-frame", "berth-model", "berth-pki", "berth-proto", "berth-telemetry"]),
    ("berth-lab", &["berth-pki", "berth-proto"]),
    ("berth-linearizability", &[]),
    ("berth-sim", &["berth-control", "berth-host", "berth-model", "berth-planner", "berth-simhost", "berth-state"]),
    ("berth-raftsim", &["berth-linearizability", "berth-raft"]),
    ("berth-durability", &["berth-host", "berth-hostd", "berth-model", "berth-raft"]),
    (
        "berth-bench",
        &[
            "berth-frame",
            "berth-host",
            "berth-lab",
            "berth-model",
            "berth-pki",
            "berth-planner",
            "berth-proto",
            "berth-raft",
            "berth-state",
            "berth-telemetry",
        ],
    ),
    ("berth-integration", &["berth-lab", "berth-linearizability", "berth-pki", "berth-proto"]),
    ("xtask", &["berth-lab"]),
];

/// Crates that may ask for anything of ours in their tests: they exist to look at the whole.
const LOOK_AT_EVERYTHING: &[&str] = &["berth-integration", "berth-sim", "berth-bench"];

/// Libraries that stay behind one crate of ours, and that crate.
const PORTS: &[(&str, &str)] = &[
    ("openraft", "berth-raft"),
    ("sled", "berth-raft"),
    ("virt", "berth-libvirt"),
    ("virt-sys", "berth-libvirt"),
    ("kvm-ioctls", "berth-hostsys"),
    ("kvm-bindings", "berth-hostsys"),
];

/// What must not be found anywhere below a crate, however many steps away.
const CLOSURES: &[(&str, &[&str])] = &[
    ("berth-model", &["tokio", "tonic", "prost", "sled", "openraft", "virt", "rustls"]),
    ("berth-frame", &["tokio", "tonic", "prost", "sled", "openraft", "virt", "rustls"]),
    ("berth-state", &["tokio", "tonic", "prost", "sled", "openraft", "virt", "rustls"]),
    ("berth-planner", &["tokio", "tonic", "prost", "sled", "openraft", "virt", "rustls"]),
    ("berth-control", &["tonic", "prost", "sled", "openraft", "virt", "rustls"]),
    ("berth-host", &["tokio", "tonic", "prost", "sled", "openraft", "virt", "rustls"]),
    ("berth-simhost", &["tokio", "tonic", "prost", "sled", "openraft", "virt", "rustls"]),
];

/// Every dependency between crates of ours is one of the table's arrows.
///
/// A test may ask for more than the shipped code, but not for a crate that comes after it: that would turn an arrow round.
pub(super) fn workspace_edges(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, member) in &workspace.members {
        let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| crate_name == name) else {
            findings.push(Finding {
                rule: "arrows",
                what: format!("crate {name} ({}) has no place in the drawing", member.folder),
                why: "a crate without arrows can come to depend on anything",
                fix: format!("add {name} and what it may depend on to ARCHITECTURE.md and to xtask/src/tidy/arrows.rs"),
            });
            continue;
        };
        for edge in &member.edges {
            if !workspace.members.contains_key(&edge.name)
                || edge.name == *name
                || allowed.contains(&edge.name.as_str())
            {
                continue;
            }
            let turned_round = workspace.members[&edge.name].closure.contains(name);
            if edge.kind == Kind::Dev && (LOOK_AT_EVERYTHING.contains(&name.as_str()) || !turned_round) {
                continue;
            }
            findings.push(Finding {
                rule: "arrows",
                what: format!("{name} -> {}, in {}/Cargo.toml", edge.name, member.folder),
                why: "the arrows keep each part testable alone and keep decisions away from wires, disks and hypervisors",
                fix: format!(
                    "move the shared piece down to a crate that both may use, or define a trait in {name} and join the two in main.rs; \
                     {name} may use: {}",
                    if allowed.is_empty() { "none of ours".to_owned() } else { allowed.join(", ") }
                ),
            });
        }
    }
    findings
}

/// Each guarded library is asked for by its one owner only.
pub(super) fn ports(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, member) in &workspace.members {
        for edge in &member.edges {
            if let Some((library, owner)) = PORTS.iter().find(|(library, owner)| edge.name == *library && name != owner)
            {
                findings.push(Finding {
                    rule: "ports",
                    what: format!("{name} depends on {library}, in {}/Cargo.toml", member.folder),
                    why: "a library behind one crate can be replaced, tested around and upgraded in one place",
                    fix: format!("use what {owner} offers, or add what is missing there"),
                });
            }
        }
    }
    findings
}

/// Nothing that does I/O lies below the crates that decide.
pub(super) fn closures(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, forbidden) in CLOSURES {
        let Some(member) = workspace.members.get(*name) else { continue };
        for library in forbidden.iter().filter(|library| member.closure.contains(**library)) {
            findings.push(Finding {
                rule: "purity",
                what: format!("{library} lies below {name}"),
                why: "what decides does no I/O: it must run in a simulation, in a test without a clock, and in any program",
                fix: format!("cargo tree -p {name} -i {library} shows the way it came in; cut it there"),
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::workspace::{Edge, Member};

    /// Name, direct dependencies, names of all that lies below.
    type Example<'a> = (&'a str, &'a [(&'a str, Kind)], &'a [&'a str]);

    fn workspace(members: &[Example<'_>]) -> Workspace {
        let members = members
            .iter()
            .map(|(name, edges, closure)| {
                let edges = edges.iter().map(|(to, kind)| Edge { name: (*to).to_owned(), kind: *kind }).collect();
                let closure = closure.iter().map(|below| (*below).to_owned()).collect();
                ((*name).to_owned(), Member { folder: (*name).to_owned(), edges, closure })
            })
            .collect();
        Workspace { members }
    }

    #[test]
    fn an_arrow_of_the_drawing_passes() {
        let good = workspace(&[
            ("berth-model", &[("serde", Kind::Normal)], &["serde"]),
            ("berth-proto", &[("berth-model", Kind::Normal)], &["berth-model", "serde"]),
        ]);
        assert_eq!(workspace_edges(&good), []);
    }

    #[test]
    fn an_arrow_that_points_up_is_refused() {
        let broken = workspace(&[
            ("berth-model", &[("berth-proto", Kind::Normal)], &["berth-proto"]),
            ("berth-proto", &[], &[]),
        ]);
        let findings = workspace_edges(&broken);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.starts_with("berth-model -> berth-proto"), "{}", findings[0]);
        assert!(findings[0].fix.contains("none of ours"), "{}", findings[0]);
    }

    #[test]
    fn a_build_script_is_held_to_the_same_arrows() {
        let broken = workspace(&[("berth-raft", &[("berth-proto", Kind::Build)], &[]), ("berth-proto", &[], &[])]);
        assert_eq!(workspace_edges(&broken).len(), 1);
    }

    #[test]
    fn the_two_daemons_never_meet() {
        let broken =
            workspace(&[("berth-hostd", &[("berth-controller", Kind::Normal)], &[]), ("berth-controller", &[], &[])]);
        assert_eq!(workspace_edges(&broken).len(), 1);
    }

    #[test]
    fn a_test_may_look_sideways_but_not_turn_an_arrow_round() {
        let sideways =
            workspace(&[("berth-libvirt", &[("berth-hostsys", Kind::Dev)], &[]), ("berth-hostsys", &[], &[])]);
        assert_eq!(workspace_edges(&sideways), []);
        let round = workspace(&[
            ("berth-state", &[("berth-control", Kind::Dev)], &[]),
            ("berth-control", &[("berth-state", Kind::Normal)], &["berth-state"]),
        ]);
        assert_eq!(workspace_edges(&round).len(), 1);
    }

    #[test]
    fn a_crate_that_the_drawing_does_not_know_is_refused() {
        let findings = workspace_edges(&workspace(&[("berth-surprise", &[], &[])]));
        assert!(findings[0].what.contains("berth-surprise"), "{}", findings[0]);
    }

    #[test]
    fn a_guarded_library_is_refused_outside_its_crate_even_for_tests() {
        let broken = workspace(&[
            ("berth-raft", &[("sled", Kind::Normal)], &[]),
            ("berth-controller", &[("sled", Kind::Dev)], &[]),
            ("berth-hostd", &[("virt", Kind::Normal)], &[]),
        ]);
        let findings = ports(&broken);
        let found: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            found,
            [
                "berth-controller depends on sled, in berth-controller/Cargo.toml",
                "berth-hostd depends on virt, in berth-hostd/Cargo.toml"
            ]
        );
    }

    #[test]
    fn io_far_below_a_deciding_crate_is_found() {
        let broken = workspace(&[("berth-model", &[("innocent", Kind::Normal)], &["innocent", "tokio"])]);
        let findings = closures(&broken);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("tokio lies below berth-model"), "{}", findings[0]);
    }

    #[test]
    fn the_table_has_no_cycle_and_names_only_crates_that_it_knows() {
        // Each crate's allowed ones must all be removable before it: a topological order exists.
        let mut left: Vec<_> = ARROWS.to_vec();
        while !left.is_empty() {
            let before = left.len();
            let names: Vec<&str> = left.iter().map(|(name, _)| *name).collect();
            left.retain(|(_, allowed)| allowed.iter().any(|to| names.contains(to)));
            assert!(left.len() < before, "a cycle among {names:?}");
        }
        for (name, allowed) in ARROWS {
            for to in *allowed {
                assert!(ARROWS.iter().any(|(known, _)| known == to), "{name} -> {to}, which the table does not know");
            }
        }
    }
}
