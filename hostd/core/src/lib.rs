//! The host's brain, free of I/O: session, plan and ledger as values.
//!
//! `berth-hostd` moves bytes, keeps the ledger on disk and executes; every decision is made here, by functions over
//! values, so that the simulation can drive exactly this code. [`agent::Agent`] is the whole of it.

pub mod agent;
pub mod backend;
pub mod clock;
pub mod float;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod plan;
pub mod record;
pub mod report;
pub mod session;
pub mod step;

#[cfg(test)]
mod testing;
