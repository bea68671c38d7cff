//! The daemon from outside: its connections, its ledger, its consoles and its program are real.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect fails here")]

mod backend;
mod console;
mod driver;
#[cfg(feature = "sim")]
mod fleet;
mod leader;
mod process;
mod trust;
