//! The Backend on libvirt and QEMU.
//!
//! What a domain looks like is decided by pure functions over values ([`xml::render`], [`mark`], [`scan::read_domain`]);
//! what libvirt and QEMU can do is probed ([`capabilities`]), never inferred from versions; what a VM runs with is
//! compared with what was asked ([`readback`]). Effects are in [`execute`], [`events`], [`console`] and [`inspect`], and everything that `virt` lacks is in the one module that
//! may use `unsafe`.
//!
//! Invariant: a domain without Berth's mark, or with the mark of another cluster, is never shown, changed or stopped.

pub mod capabilities;
pub mod console;
mod element;
pub mod events;
pub mod execute;
mod ffi;
pub mod inspect;
mod link;
pub mod mark;
pub mod readback;
pub mod scan;
pub mod xml;

pub use capabilities::Capabilities;
pub use console::Console;
pub use events::{Event, Lifecycle, Watch};
pub use execute::{LibvirtBackend, Options};
pub use xml::{BaseImage, DiskFiles, DiskFormat, Rendered};
