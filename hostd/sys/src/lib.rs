//! What the host is: topology, memory, hugepages, and a KVM that really runs guest code.
//!
//! Everything that the kernel tells in files is read below a root folder that the caller names, `/` on a real host, so
//! that a folder of a few files can stand in for any machine. Only the KVM preflight and the clock touch the machine
//! itself.

mod boot;
mod error;
mod files;
pub mod hugepages;
pub mod io_uring;
pub mod kvm;
pub mod memory;
pub mod merging;
pub mod pci;
pub mod topology;

pub use boot::{boot_id, boottime, kernel_version};
pub use error::Error;
