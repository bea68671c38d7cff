//! What a lab consists of: names, addresses and places, all of which follow from its number and its state directory.
//!
//! Nothing here touches the machine, so whatever a lab that died has left can be named without having seen it made.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// The numbers that labs have: the third byte of their addresses.
pub(crate) const NUMBERS: u8 = 200;
/// Controllers have `.11` to `.19`, hosts `.21` to `.220`.
const CONTROLLERS: u8 = 9;
const HOSTS: u8 = 200;

/// Ports as shipped; labs differ by address.
const API: u16 = 7440;
const RAFT: u16 = 7441;
const METRICS: u16 = 7442;
const HOST: u16 = 7443;

/// The programs that a lab runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binaries {
    /// `berth-controller`.
    pub controller: PathBuf,
    /// `berth-hostd`.
    pub hostd: PathBuf,
    /// `libvirtd`.
    pub libvirtd: PathBuf,
}

impl Binaries {
    /// Berth's own out of one folder, libvirtd where the machine has it.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            controller: folder.join("berth-controller"),
            hostd: folder.join("berth-hostd"),
            libvirtd: crate::tool::find("libvirtd").unwrap_or_else(|| PathBuf::from("/usr/sbin/libvirtd")),
        }
    }
}

/// What each host may use of the machine that all of them share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// CPU threads, as the kernel lists them.
    pub cpus: String,
    /// Memory in MiB, hugepages included.
    pub memory_mib: u64,
    /// Hugepages of 2 MiB.
    pub hugepages_2m: u64,
}

/// Controller or host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A member of the control plane.
    Controller,
    /// A machine for VMs.
    Host,
}

/// A controller or a host of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `c1`, `h1`, …
    pub name: String,
    /// Its number among its kind, from 1.
    pub id: u8,
    /// Controller or host.
    pub kind: Kind,
    /// Its address in the lab's network.
    pub address: Ipv4Addr,
    /// A machine with nothing on it: no configuration, no keys, nothing running, until someone puts it there.
    #[serde(default)]
    pub empty: bool,
}

impl Member {
    /// Where its API answers: the admin API of a controller, the one port of a host.
    pub fn api(&self) -> SocketAddr {
        let port = match self.kind {
            Kind::Controller => API,
            Kind::Host => HOST,
        };
        SocketAddrV4::new(self.address, port).into()
    }

    /// Where a controller's metrics are read.
    pub fn metrics(&self) -> SocketAddr {
        SocketAddrV4::new(self.address, METRICS).into()
    }

    /// Where a controller talks to controllers.
    pub(crate) fn raft(&self) -> SocketAddr {
        SocketAddrV4::new(self.address, RAFT).into()
    }
}

/// What a process of the lab is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Controller,
    Hostd,
    Libvirtd,
    /// Keeps a host's mount and UTS namespaces while everything else on it is killed and started again.
    Keeper,
}

/// One process of the lab: the name it is called by and where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) member: Member,
}

/// A lab, as it is described in its state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) number: u8,
    pub(crate) cluster: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) keep: bool,
    pub(crate) slice: Slice,
    pub(crate) binaries: Binaries,
    pub(crate) members: Vec<Member>,
}

/// The members of lab `number`.
///
/// Of the controllers the last ones are empty.
pub(crate) fn members(number: u8, formed: u8, empty: u8, hosts: u8) -> Result<Vec<Member>, Error> {
    let controllers = formed.saturating_add(empty);
    for (what, limit, asked) in [("controllers", CONTROLLERS, controllers), ("hosts", HOSTS, hosts)] {
        if asked > limit {
            return Err(Error::TooMany { what, limit, asked });
        }
    }
    let member = |kind, id, letter, first: u8| Member {
        name: format!("{letter}{id}"),
        id,
        kind,
        address: Ipv4Addr::new(10, 88, number, first + id),
        empty: kind == Kind::Controller && id > formed,
    };
    Ok((1..=controllers)
        .map(|id| member(Kind::Controller, id, 'c', 10))
        .chain((1..=hosts).map(|id| member(Kind::Host, id, 'h', 20)))
        .collect())
}

/// The beginning of the names of all network namespaces of lab `number`.
pub(crate) fn namespace_prefix(number: u8) -> String {
    format!("bl{number}-")
}

/// The end of the lab's network that is in the machine's own namespace.
pub(crate) fn root_link(number: u8) -> String {
    format!("bl{number}")
}

/// The machine's own address in the lab's network.
pub(crate) fn root_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, number, 1)
}

impl Plan {
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.kind == kind)
    }

    /// The controllers that the lab itself sets up.
    pub(crate) fn formed(&self) -> impl Iterator<Item = &Member> {
        self.of_kind(Kind::Controller).filter(|member| !member.empty)
    }

    pub(crate) fn member(&self, name: &str) -> Result<&Member, Error> {
        self.members.iter().find(|member| member.name == name).ok_or_else(|| Error::NoSuchName(name.to_owned()))
    }

    /// Every process, in the order in which they are started.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let on = |kind, program, suffix: &str| -> Vec<Process> {
            let named = |member: &Member| format!("{}{suffix}", member.name);
            self.of_kind(kind).map(|member| Process { name: named(member), program, member: member.clone() }).collect()
        };
        let mut all = on(Kind::Host, Program::Keeper, "-keeper");
        all.extend(on(Kind::Host, Program::Libvirtd, "-libvirtd"));
        all.extend(on(Kind::Controller, Program::Controller, ""));
        all.extend(on(Kind::Host, Program::Hostd, ""));
        all
    }

    /// Those that run when the lab is up.
    pub(crate) fn first_processes(&self) -> Vec<Process> {
        self.processes().into_iter().filter(|process| !process.member.empty).collect()
    }

    pub(crate) fn process(&self, name: &str) -> Result<Process, Error> {
        let found = self.processes().into_iter().find(|process| process.name == name);
        found.ok_or_else(|| Error::NoSuchName(name.to_owned()))
    }

    pub(crate) fn namespace(&self, member: &Member) -> String {
        format!("{}{}", namespace_prefix(self.number), member.name)
    }

    /// The namespace with the bridge. Its own, so that no firewall of the machine sees the lab's traffic.
    pub(crate) fn switch(&self) -> String {
        format!("{}sw", namespace_prefix(self.number))
    }

    /// A member's folder.
    pub(crate) fn folder(&self, member: &Member) -> PathBuf {
        self.state_dir.join(&member.name)
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.state_dir.join("logs")
    }

    pub(crate) fn pid_file(&self, process: &str) -> PathBuf {
        self.state_dir.join("pids").join(format!("{process}.json"))
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.state_dir.join("ca")
    }

    pub(crate) fn config(&self, member: &Member) -> PathBuf {
        self.folder(member).join(match member.kind {
            Kind::Controller => "controller.toml",
            Kind::Host => "hostd.toml",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan() -> Plan {
        Plan {
            number: 7,
            cluster: "labcluster".to_owned(),
            state_dir: PathBuf::from("/srv/lab"),
            keep: true,
            slice: Slice { cpus: "0-1".to_owned(), memory_mib: 2048, hugepages_2m: 512 },
            binaries: Binaries {
                controller: PathBuf::from("/opt/berth-controller"),
                hostd: PathBuf::from("/opt/berth-hostd"),
                libvirtd: PathBuf::from("/usr/sbin/libvirtd"),
            },
            members: members(7, 3, 0, 2).unwrap(),
        }
    }

    #[test]
    fn labs_and_members_never_share_an_address() {
        let all: std::collections::BTreeSet<_> = (0..NUMBERS)
            .flat_map(|number| {
                let members = members(number, CONTROLLERS, 0, HOSTS).unwrap();
                members.into_iter().map(|member| member.address).chain([root_address(number)]).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(all.len(), usize::from(NUMBERS) * (usize::from(CONTROLLERS) + usize::from(HOSTS) + 1));
    }

    #[test]
    fn names_fit_what_the_kernel_takes_for_an_interface() {
        assert!(root_link(NUMBERS - 1).len() < 16);
        assert!(namespace_prefix(1) != namespace_prefix(11)[..4], "one lab's prefix is no beginning of another's");
    }

    #[test]
    fn keepers_and_libvirtd_start_before_what_needs_them() {
        let names: Vec<_> = plan().processes().into_iter().map(|process| process.name).collect();
        assert_eq!(names, ["h1-keeper", "h2-keeper", "h1-libvirtd", "h2-libvirtd", "c1", "c2", "c3", "h1", "h2"]);
    }

    #[test]
    fn more_members_than_addresses_are_refused() {
        assert!(matches!(members(0, 5, 5, 0), Err(Error::TooMany { what: "controllers", .. })));
        assert!(matches!(members(0, 0, 0, 201), Err(Error::TooMany { what: "hosts", .. })));
    }
}
