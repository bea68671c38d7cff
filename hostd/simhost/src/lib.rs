//! A host's machine that exists only as a value: hypervisor, disks and guests, without QEMU and without waiting.
//!
//! [`Machine`] is the physics. It reads no clock and draws no number, so whoever drives it decides when things happen and
//! which of them go wrong, and the same run can be had again. It is stricter than a real hypervisor: a start on threads or
//! pages that another running guest holds is refused, which is how a wrong placement is found. [`SimBackend`] puts one behind
//! the port that a host daemon asks for.

mod backend;
mod machine;

pub use backend::SimBackend;
pub use machine::{Domain, Machine, Obstacle};
