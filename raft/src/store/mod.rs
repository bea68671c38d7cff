//! The log and the vote on a disk.
//!
//! ```text
//! raft core ──append──▶ tail (memory, readable at once)
//!                  └──▶ writer thread ──batch──▶ engine (sled) ──barrier──▶ disk, then the callback
//! ```
//!
//! One thread owns all writing. It takes whatever has queued up, writes it as one batch and pays for one barrier, so the
//! disk's latency is shared by all that wait for it. Nothing is acknowledged before the barrier: that is the law this
//! module keeps.

pub(crate) mod directory;
pub(crate) mod engine;
mod keys;
pub(crate) mod log;
#[cfg(feature = "testing")]
pub(crate) mod memory;
pub(crate) mod record;
pub(crate) mod sled;
pub(crate) mod tail;
mod writer;

#[cfg(test)]
mod tests;
