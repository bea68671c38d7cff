//! What a controller counts, and the port at which it is read.
//!
//! The port is its own, so that a firewall can tell monitoring from operation, and mutual TLS as every other: the roles
//! `scraper` and `operator` are let in. The names are listed in `docs/operations/metrics.md`.

mod api;
mod serve;
mod work;

pub(crate) use api::{ApiMetrics, Counting};
pub(crate) use serve::serve;
pub(crate) use work::{HostMetrics, commands_applied};
