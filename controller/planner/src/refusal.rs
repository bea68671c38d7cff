//! Why a host cannot take a VM, in words for the operator who waits.

use std::fmt;

use berth_model::host::{Host, NodeId, PciKind};
use berth_model::placement::{Domain, Selector, Taint};
use berth_model::vm::VmSpec;
use berth_model::{Bytes, Name, PageSize};
use berth_state::{HostBookings, Stray, Thousandths};

use crate::allocate::{Demand, allocate};
use crate::layout::{Free, Layout};

/// Why one host cannot take one VM. The first that holds, in the order of these variants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A domain of this VM is there already, which the cluster did not place.
    Orphan,
    /// An older state was put back, and the host did not yet say whether a domain of this VM is there.
    Awaited,
    /// It is not heard of.
    NotAlive(&'static str),
    /// It takes no new VMs by an operator's word.
    Cordoned,
    /// It reported less than is booked on it.
    Overbooked(String),
    /// The image's file is not there.
    ImageMissing,
    /// The image's file is there and must not be used.
    ImageRefused(String),
    /// The image's file is not what the cluster thinks it is.
    ImageSize {
        /// As the image was made known.
        expected: Bytes,
        /// As the file's header says.
        found: Bytes,
    },
    /// It is none of the hosts that the VM asks for by their labels.
    NotAskedFor(Vec<Selector>),
    /// It is not in the group of hosts that the VM asks for.
    NotInGroup(Name),
    /// It has a taint that the VM does not tolerate.
    Tainted(Taint),
    /// It belongs to no part of this kind, and a rule of the VM counts in such parts.
    NoDomain {
        /// Of this kind.
        domain: Domain,
        /// Which rule.
        rule: &'static str,
    },
    /// The VM must be near to VMs that are not there.
    NotNear {
        /// What is meant by near.
        domain: Domain,
        /// Which part of the cluster the host belongs to.
        part: String,
        /// Near to which VMs.
        vms: Selector,
    },
    /// The VM keeps away from VMs that are there.
    TooNear {
        /// What is meant by near.
        domain: Domain,
        /// Which part of the cluster the host belongs to.
        part: String,
        /// Away from which VMs.
        vms: Selector,
        /// How many of them are there.
        count: u32,
    },
    /// VMs that are there keep away from VMs such as this one.
    KeptAway {
        /// What is meant by near.
        domain: Domain,
        /// Which part of the cluster the host belongs to.
        part: String,
        /// Which VMs they keep away from.
        vms: Selector,
        /// How many do.
        count: u32,
    },
    /// The VM's spread would become too uneven.
    Uneven {
        /// Over what.
        domain: Domain,
        /// Which part of the cluster the host belongs to.
        part: String,
        /// Which VMs are counted.
        vms: Selector,
        /// How many there would be.
        count: u32,
        /// How many the emptiest part has.
        least: u32,
        /// By how many a part may exceed that.
        max_skew: u32,
    },
    /// Too few free threads.
    Threads {
        /// Wanted.
        wanted: u32,
        /// Free.
        free: usize,
        /// Kept for the host.
        reserved: usize,
        /// Of all.
        total: usize,
    },
    /// Too few cores of which nobody has a thread.
    Cores {
        /// CPU threads wanted on such cores.
        wanted: u32,
        /// What such cores offer: their threads, or one thread each where each is wanted alone.
        free: u32,
        /// Whether each thread is wanted on a core of its own.
        alone: bool,
    },
    /// So many threads for one VM alone would leave too few for those that share theirs.
    Promised {
        /// Threads wanted, in thousandths, those that would stay idle included.
        wanted: u64,
        /// Thousandths that are not promised to others.
        free: u64,
    },
    /// Too little is left of the threads that VMs share.
    Shared {
        /// Thousandths of a thread wanted.
        wanted: u64,
        /// Thousandths that are not promised to others.
        free: u64,
    },
    /// Too few free hugepages.
    Pages {
        /// Wanted.
        wanted: u64,
        /// Free.
        free: u64,
        /// Of all.
        total: u64,
        /// The size of each.
        page: PageSize,
    },
    /// Too little ordinary memory for the guest.
    Memory {
        /// Wanted.
        wanted: Bytes,
        /// Free.
        free: Bytes,
    },
    /// Too little ordinary memory.
    Ordinary {
        /// Wanted.
        wanted: Bytes,
        /// Free.
        free: Bytes,
    },
    /// No one node has all of it.
    Node {
        /// Threads wanted.
        threads: u32,
        /// Pages wanted.
        pages: u64,
        /// The size of each.
        page: PageSize,
        /// What each node has: threads and pages.
        nodes: Vec<(NodeId, u32, u64)>,
    },
    /// Too few free PCI devices.
    Devices {
        /// Of which kind.
        kind: PciKind,
        /// Wanted.
        wanted: u32,
        /// Free.
        free: usize,
        /// Of all.
        total: usize,
        /// On this one node, because the VM must lie on one.
        node: Option<NodeId>,
    },
}

fn joined<T: fmt::Display>(values: &[T], between: &str) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

/// `host`, or `zone "a"`.
fn place(domain: &Domain, part: &str) -> String {
    match domain {
        Domain::Host => "host".into(),
        Domain::Rack | Domain::Zone => format!("{domain} {part:?}"),
        Domain::Label(key) => format!("{key} {part:?}"),
    }
}

impl Refusal {
    /// Why a VM is placed nowhere while a domain of it may run somewhere, and which host says so.
    pub(crate) fn of_stray(stray: Stray) -> (Name, Self) {
        let (host, refusal) = match stray {
            Stray::Orphan(host) | Stray::Evicted(host) => (host, Self::Orphan),
            Stray::Awaited(host) => (host, Self::Awaited),
        };
        (host.meta.name.clone(), refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orphan => write!(
                f,
                "has a domain of this VM already, as an orphan; it is started nowhere until that is adopted or removed"
            ),
            Self::Awaited => write!(
                f,
                "did not report since an older state was put back, and the VM may run there; it is started nowhere until the \
                 host reports, or is confirmed dead, or removed for good"
            ),
            Self::NotAlive(how) => write!(f, "is {how}: not heard of"),
            Self::Cordoned => write!(f, "is cordoned"),
            Self::Overbooked(why) => write!(f, "is overbooked: {why}"),
            Self::ImageMissing => write!(f, "does not hold the image's file"),
            Self::ImageRefused(why) => write!(f, "refuses the image's file: {why}"),
            Self::ImageSize { expected, found } => {
                write!(f, "holds the image with a virtual size of {found}, not {expected}")
            }
            Self::NotAskedFor(hosts) => write!(f, "is none of the hosts asked for: {}", joined(hosts, ", or ")),
            Self::NotInGroup(group) => write!(f, "is not in the host group {:?}", group.as_str()),
            Self::Tainted(taint) => write!(f, "has the taint {taint}, which the VM does not tolerate"),
            Self::NoDomain { domain, rule } => write!(f, "belongs to no {domain}, which the VM's {rule} asks for"),
            Self::NotNear { domain, part, vms } => {
                write!(f, "is not near to VMs with {vms}: its {} has none", place(domain, part))
            }
            Self::TooNear { domain, part, vms, count } => {
                write!(f, "is near to VMs with {vms}, which the VM avoids: its {} has {count}", place(domain, part))
            }
            Self::KeptAway { domain, part, vms, count } => {
                write!(f, "is avoided for VMs with {vms}: {count} in its {} ask for that", place(domain, part))
            }
            Self::Uneven { domain, part, vms, count, least, max_skew } => write!(
                f,
                "would make the spread of VMs with {vms} uneven: {count} in its {}, {least} in the emptiest, \
                 and at most {max_skew} more are allowed",
                place(domain, part)
            ),
            Self::Threads { wanted, free, reserved, total } => {
                write!(f, "needs {wanted} free CPU threads, has {free} of {total}")?;
                if *reserved > 0 { write!(f, " ({reserved} kept for the host)") } else { Ok(()) }
            }
            Self::Cores { wanted, free, alone } => {
                let each = if *alone { "one CPU thread on each of" } else { "CPU threads on" };
                write!(f, "needs {wanted}, {each} wholly free cores, has {free}")
            }
            Self::Promised { wanted, free } => write!(
                f,
                "would give {} CPU threads to this VM alone, and only {} are not promised to VMs that share theirs",
                Thousandths(*wanted),
                Thousandths(*free)
            ),
            Self::Shared { wanted, free } => write!(
                f,
                "needs {} of the CPU threads that VMs share, has {}",
                Thousandths(*wanted),
                Thousandths(*free)
            ),
            Self::Pages { wanted, free, total, page } => {
                write!(f, "needs {wanted} free {page} hugepages, has {free} of {total}")
            }
            Self::Memory { wanted, free } => write!(f, "needs {wanted} of ordinary memory for the guest, has {free}"),
            Self::Ordinary { wanted, free } => {
                write!(f, "needs {wanted} of ordinary memory for QEMU, has {free}")
            }
            Self::Node { threads, pages, page, nodes } => {
                write!(f, "needs {threads} free CPU threads and {pages} free {page} pages on one NUMA node")?;
                nodes.iter().try_for_each(|(node, threads, pages)| write!(f, "; node {node} has {threads} and {pages}"))
            }
            Self::Devices { kind, wanted, free, total, node } => {
                write!(f, "needs {wanted} free PCI devices {kind}")?;
                if node.is_some() {
                    write!(f, " on the VM's one NUMA node")?;
                }
                write!(f, ", has {free} of {total}")
            }
        }
    }
}

/// Whether the host could not take the VM even if it were empty, alive and held the image, whatever the rules.
pub fn never_fits(host: &Host, spec: &VmSpec) -> Option<Refusal> {
    let layout = Layout::of(&host.inventory);
    let free = Free::of(host, &layout, &HostBookings::default());
    allocate(host, &layout, &free, &Demand::of(spec)).err()
}
