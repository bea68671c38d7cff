//! The host daemon: joins the host's brain with the disk, libvirt, the machine and the controllers.
//!
//! The decisions are in `berth-host`; this crate moves bytes, keeps the ledger on disk before anything is done by it, and
//! carries out steps. The parts: [`config`] → [`service`] → one [`driver`] task that owns the agent, a connection to a
//! controller, the [`ledger_store`], the [`known_controllers`], the composite [`backend`], and the [`console`] port. With the
//! feature `sim`, which is never shipped, the same parts run as a fleet of many hosts on simulated machines.

pub mod backend;
pub mod config;
pub mod console;
mod daemon;
pub mod driver;
pub mod facts;
#[cfg(feature = "sim")]
pub mod fleet;
mod images;
pub mod known_controllers;
pub mod ledger_store;
pub mod ledger_writers;
mod link;
pub mod passthrough;
pub mod service;
