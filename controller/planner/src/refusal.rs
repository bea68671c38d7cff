//! Why a host cannot take a VM, in words for the operator who waits.

use std::fmt;

use berth_model::host::{Host, Inventory};
use berth_model::vm::VmSpec;
use berth_model::{Bytes, PageSize};

/// Why one host cannot take one VM. The first that holds, in the order of these variants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A domain of this VM is there already, which the cluster did not place.
    Orphan,
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
    /// Too little ordinary memory.
    Ordinary {
        /// Wanted.
        wanted: Bytes,
        /// Free.
        free: Bytes,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orphan => write!(
                f,
                "has a domain of this VM already, as an orphan; it is started nowhere until that is adopted or removed"
            ),
            Self::NotAlive(how) => write!(f, "is {how}: not heard of"),
            Self::Cordoned => write!(f, "is cordoned"),
            Self::Overbooked(why) => write!(f, "is overbooked: {why}"),
            Self::ImageMissing => write!(f, "does not hold the image's file"),
            Self::ImageRefused(why) => write!(f, "refuses the image's file: {why}"),
            Self::ImageSize { expected, found } => {
                write!(f, "holds the image with a virtual size of {found}, not {expected}")
            }
            Self::Threads { wanted, free, reserved, total } => {
                write!(f, "needs {wanted} free CPU threads, has {free} of {total}")?;
                if *reserved > 0 { write!(f, " ({reserved} kept for the host)") } else { Ok(()) }
            }
            Self::Pages { wanted, free, total, page } => {
                write!(f, "needs {wanted} free {page} hugepages, has {free} of {total}")
            }
            Self::Ordinary { wanted, free } => {
                write!(f, "needs {wanted} of ordinary memory for QEMU, has {free}")
            }
        }
    }
}

/// The pages of one size that a host has in all.
pub(crate) fn total_pages(inventory: &Inventory, page: PageSize) -> u64 {
    let pools = inventory.hugepages.iter().filter(|pool| pool.page == page);
    pools.fold(0, |sum, pool| sum.saturating_add(pool.total))
}

/// Whether the host could not take the VM even if it were empty, alive and held the image.
pub fn never_fits(host: &Host, spec: &VmSpec) -> Option<Refusal> {
    let inventory = &host.inventory;
    let total = inventory.topology.threads.len();
    let reserved = inventory.topology.threads.iter().filter(|thread| inventory.reserve.contains(thread.id)).count();
    let free = total - reserved;
    if free < spec.cpus as usize {
        return Some(Refusal::Threads { wanted: spec.cpus, free, reserved, total });
    }
    let page = spec.page_size();
    let wanted = page.pages_for(spec.memory);
    let pages = total_pages(inventory, page);
    if pages < wanted {
        return Some(Refusal::Pages { wanted, free: pages, total: pages, page });
    }
    let ordinary = inventory.memory.iter().fold(Bytes(0), |sum, node| sum.saturating_add(node.ordinary));
    (ordinary < spec.overhead()).then(|| Refusal::Ordinary { wanted: spec.overhead(), free: ordinary })
}
