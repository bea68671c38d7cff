//! The host's brain, free of I/O: session, plan and ledger as values.
//!
//! `berth-hostd` moves bytes, keeps the ledger on disk and executes; every decision is made here, by functions over
//! values, so that the simulation can drive exactly this code.

pub mod backend;
pub mod step;
